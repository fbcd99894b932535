"""From the names and shapes of a state dict to its recurrent layers; nothing is guessed.

A file without a config still tells the cell (by the number of gates), levels, directions, projection and bias. It does
not tell a vanilla RNN's activation, nor the orientation of sequences. Our own files say it all in an entry of their
metadata (`MARK`), and a state dict of our own module in the array ``spec``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, SpecError, Unsupported, unknown
from lstmbridge.frameworks.torch.layout import CELL_LAYOUTS, FAITHFUL_CLASS, LAYOUTS
from lstmbridge.frameworks.torch.plan import Plan, Unit
from lstmbridge.layer import Array, Layer
from lstmbridge.notation import Layout
from lstmbridge.spec import GATES, Spec

__all__ = [
    "MARK",
    "SPEC_KEY",
    "Facts",
    "describe",
    "is_recurrent",
    "is_weight",
    "looks_recurrent",
    "read",
    "selected",
    "stored_spec",
    "wanted",
]

#: The metadata entry of our own ``.safetensors`` files, and the array in which our own module keeps its Spec.
MARK = "lstmbridge.torch"
SPEC_KEY = "spec"

_CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_NONLINEARITIES = ("tanh", "relu")

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Facts:
    """What a file says of a module beside its weights; None where it does not."""

    nonlinearity: str | None = None
    batch_first: bool | None = None


_Found = tuple[Layer, set[str]]


def _patterns(layout: Layout) -> Iterator[str]:
    for line in layout.lines:
        yield (
            re.escape(line.key).replace(r"\{l\}", r"(?P<level>[0-9]{1,4})").replace(r"\{d\}", r"(?P<reverse>_reverse)?")
        )


_KEYS = [re.compile(text) for layout in (LAYOUTS["lstm"], CELL_LAYOUTS["lstm"]) for text in _patterns(layout)]
_SUSPECT = re.compile(
    r"(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+|$|_g$|_v$|_orig$|_mask$|\.)|\.[ih]gates\.|_all_weight_values\.\d+\."
)

#: Names that say how a layer was quantised, and what it is then called.
_QUANTISED = (
    (re.compile(r"(.*?)\.?_all_weight_values\.\d+\."), "a dynamically quantised layer (torch.ao.nn.quantized.dynamic)"),
    (re.compile(r"(.*?)\.?_packed_weight_[ih]h"), "a dynamically quantised cell (torch.ao.nn.quantized.dynamic)"),
    (re.compile(r"(.*?)\.?layers\.\d+\.layer_[fb]w\.cell\.[ih]gates\."), "a layer made for quantisation (torch.ao.nn)"),
    (re.compile(r"(.*?)\.?cell\.[ih]gates\."), "a layer made for quantisation (torch.ao.nn)"),
)


@dataclass(frozen=True)
class _Key:
    """A weight's own name: its level (None in a cell), and whether it is of the reverse direction."""

    name: str
    level: int | None
    reverse: bool


def _key(name: str) -> _Key | None:
    for pattern in _KEYS:
        match = pattern.fullmatch(name)
        if match is not None:
            found = match.groupdict()
            level = found.get("level")
            return _Key(name, None if level is None else int(level), found.get("reverse") is not None)
    return None


def looks_recurrent(names: Collection[str]) -> bool:
    """Whether a module's own parameters are named as a recurrent layer's are."""
    found = [name for name in names if _key(name)]
    return any("weight_ih" in name for name in found) and any("weight_hh" in name for name in found)


def is_weight(own: str) -> bool:
    """Whether this is the name of a recurrent weight, without the path of its module."""
    return _key(own) is not None


def is_recurrent(name: str, only: Collection[str]) -> bool:
    """Whether a name in a state dict is a recurrent weight's, or looks like one, of a module that was asked for."""
    path, _, own = name.rpartition(".")
    known = _key(own) is not None or _SUSPECT.search(name) is not None or _quantised(name) is not None
    return known and selected(path, only)


def _quantised(name: str) -> tuple[str, str] | None:
    """The path of a quantised layer, and what it is; None for the name of any other weight."""
    for pattern, what in _QUANTISED:
        match = pattern.match(name)
        if match is not None:
            return match[1], what
    return None


def selected(path: str, only: Collection[str]) -> bool:
    """Whether a module at `path` is, holds a level that is, or is below, what the reader was asked for."""
    return not only or any(
        path == each or path.startswith(f"{each}.") or re.fullmatch(rf"{re.escape(path)}\.?l\d+", each) for each in only
    )


def wanted(layer: Layer, only: Collection[str]) -> bool:
    """Whether this layer is, or is below, what the reader was asked for."""
    return not only or any(each in (layer.label, layer.path) or layer.path.startswith(f"{each}.") for each in only)


# ---- reading


def read(
    arrays: Arrays,
    options: ReadOptions,
    *,
    who: str,
    described: str | None = None,
    facts: Mapping[str, Facts] | None = None,
) -> Reading:
    """The recurrent layers among `arrays` (numpy's or torch's; a layer's own become numpy's), the rest left alone.

    who        names the file in messages
    described  the text of `MARK`, where the file has it: then nothing is inferred, and the arrays must agree with it
    facts      by the path of a module, what else the file says of it; this goes before the options

    Errors: Ambiguous where only an option can tell; LayoutError for a group of names that looks recurrent and is not
    understood: a missing or extra weight, a wrong or transposed shape, a gap in the levels.
    """
    if options.nonlinearity is not None and options.nonlinearity not in _NONLINEARITIES:
        raise unknown("nonlinearity", options.nonlinearity, _NONLINEARITIES)
    if described is not None:
        found = _read_described(arrays, described, who)
    else:
        groups = _groups(arrays, options, who)
        told = {path: _with(options, (facts or {}).get(path, Facts())) for path in groups}
        found = [pair for path, keys in groups.items() for pair in _understand(path, keys, arrays, told[path], who)]
    chosen = [(layer, names) for layer, names in found if wanted(layer, options.only)]
    used = {name for _, names in chosen for name in names}
    return Reading(tuple(layer for layer, _ in chosen), tuple(name for name in arrays if name not in used))


def _with(options: ReadOptions, facts: Facts) -> ReadOptions:
    """The options, where the file itself does not say."""
    said = {name: value for name, value in vars(facts).items() if value is not None}
    return replace(options, **said)


def _groups(arrays: Iterable[str], options: ReadOptions, who: str) -> dict[str, list[_Key]]:
    """The names that are a recurrent layer's, by the path of their module."""
    groups: dict[str, list[_Key]] = {}
    for name in arrays:
        path, _, own = name.rpartition(".")
        key = _key(own)
        if key is not None and selected(path, options.only):
            groups.setdefault(path, []).append(key)
        elif key is None and is_recurrent(name, options.only):
            _refuse_quantised(name, who)
            raise LayoutError(
                f"{who}: {name} looks like a recurrent weight and is none of torch's",
                f"expected names such as {_join(path, 'weight_ih_l0')}",
                "weight norm and pruning keep two arrays for it, and both must be there; anything else that renames a"
                " weight: remove it, then save the state dict again",
            )
    return groups


def _refuse_quantised(name: str, who: str) -> None:
    """Errors: Unsupported if the name is a quantised layer's."""
    found = _quantised(name)
    if found is not None:
        path, what = found
        raise Unsupported(
            f"{who}: {path!r} is {what}",
            f"found: {name}",
            "quantised weights are other numbers than those of the float layer: convert a file of that one",
        )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _understand(path: str, keys: list[_Key], arrays: Arrays, options: ReadOptions, file: str) -> list[_Found]:
    """The layers of one module, level by level, each with the names of its arrays."""
    who = f"{file}: {path!r}"
    levels = _levels(keys, who)
    own = {key.name: _host(arrays[_join(path, key.name)], key.name, who) for key in keys}
    told = _told(path, arrays, who)
    layers: list[Layer] = []
    for level, names in enumerate(levels):
        here = {name: own[name] for name in names}
        layout = _layout(here, keys[0].level is None, who, told)
        spec = told or _spec(layout, here, options, who)
        layer = Layer(
            spec=spec,
            weights=layout.unpack(here, spec, level=level, who=who),
            path=path,
            level=level if len(levels) > 1 else None,
            after=layers[-1].label if layers else None,
            metadata=_metadata(spec.cell, layout in CELL_LAYOUTS.values(), options, told is not None),
        )
        _check_level(layers[-1] if layers else None, layer, who)
        layers.append(layer)
    extra = {_join(path, SPEC_KEY)} if told else set()
    return [(layer, {_join(path, name) for name in names} | extra) for layer, names in zip(layers, levels, strict=True)]


def _levels(keys: list[_Key], who: str) -> list[list[str]]:
    """The names level by level. Errors: LayoutError for a gap, or for a cell's names beside a layer's."""
    found = {key.level for key in keys}
    if None in found:
        if len(found) > 1:
            names = ", ".join(key.name for key in keys)
            raise LayoutError(f"{who}: names of a cell and of a layer: {names}", "expected all with _l0, or none")
        return [[key.name for key in keys]]
    numbers = sorted(level for level in found if level is not None)
    if numbers != list(range(len(numbers))):
        raise LayoutError(
            f"{who}: levels {', '.join(map(str, numbers))}", f"expected 0 to {max(numbers)} without a gap"
        )
    return [[key.name for key in keys if key.level == level] for level in numbers]


def _host(array: Array, name: str, who: str) -> Array:
    try:
        return xp.host(array)
    except TypeError as error:  # a tensor that numpy has no array for
        raise LayoutError(f"{who}: {name} is not a plain tensor of floats", f"found: {array.dtype}") from error


def _metadata(cell: str, single: bool, options: ReadOptions, faithful: bool) -> dict[str, Any]:
    name = f"torch.nn.{_CLASSES[cell]}{'Cell' if single else ''}"
    metadata: dict[str, Any] = {"framework": "torch", "class": FAITHFUL_CLASS if faithful else name}
    return metadata if options.batch_first is None else {**metadata, "batch_first": options.batch_first}


def _check_level(before: Layer | None, layer: Layer, who: str) -> None:
    """That a level is like the one below, and reads as many features as that gives."""
    if before is None:
        return
    if layer.spec.replace(input_size=before.spec.input_size) != before.spec:
        raise LayoutError(
            f"{who}: level {layer.level} is {layer.spec}", f"expected the like of level {before.level}: {before.spec}"
        )
    gives = before.spec.state_size * len(before.spec.directions)
    if gives != layer.spec.input_size:
        raise LayoutError(
            f"{who}: level {layer.level} reads {layer.spec.input_size} features",
            f"expected {gives}, what level {before.level} gives: {before.spec}",
        )


# ---- from shapes to a Spec


def _layout(arrays: Arrays, single: bool, who: str, told: Spec | None) -> Layout:
    layouts = CELL_LAYOUTS if single else LAYOUTS
    return layouts[told.cell if told else _cell(arrays, who)]


def _find(arrays: Arrays, part: str) -> Array | None:
    """The forward direction's array of that part."""
    return next((array for name, array in arrays.items() if name.startswith(part) and "_reverse" not in name), None)


def _matrix(arrays: Arrays, part: str, who: str) -> tuple[int, int]:
    """The shape of a matrix that must be there."""
    array = _find(arrays, part)
    if array is None:
        raise LayoutError(f"{who}: no {part} of the forward direction", f"found {', '.join(arrays)}")
    if len(array.shape) != 2:
        raise LayoutError(f"{who}: {part} has shape {tuple(array.shape)}", "expected a matrix")
    return int(array.shape[0]), int(array.shape[1])


def _hidden(arrays: Arrays, who: str) -> int:
    """h: the columns of weight_hr, where there is a projection, else those of weight_hh."""
    return _matrix(arrays, "weight_hr" if _find(arrays, "weight_hr") is not None else "weight_hh", who)[1]


def _cell(arrays: Arrays, who: str) -> str:
    """The cell, by its number of gates. Errors: LayoutError for a number that no cell has."""
    hidden = _hidden(arrays, who)
    rows, columns = _matrix(arrays, "weight_hh", who)
    counts = {len(gates): cell for cell, gates in GATES.items()}
    projected = _find(arrays, "weight_hr") is not None
    cell = counts.get(rows // hidden) if hidden and rows % hidden == 0 else None
    if cell is not None and not (projected and cell != "lstm"):
        return cell
    details = [f"expected {' or '.join(f'{n} x h ({c})' for n, c in counts.items())} rows, with h = {hidden} here"]
    if rows and columns in [n * rows for n in counts if n > 1]:
        details.append("this is its transpose: torch stores (g h) p")
    elif projected:
        details.append("with weight_hr this is an LSTM: (4h, p), where weight_hr is (p, h)")
    elif rows % 4 == 0 and rows > 4 * columns:
        details.append(f"is this an LSTM of {rows // 4} units projected to {columns}, and weight_hr missing?")
    raise LayoutError(f"{who}: weight_hh has shape {(rows, columns)}", *details)


def _spec(layout: Layout, arrays: Arrays, options: ReadOptions, who: str) -> Spec:
    """The Spec that names and shapes tell; whether all shapes agree with it is for the layout to check."""
    hidden = _hidden(arrays, who)
    rows, columns = _matrix(arrays, "weight_ih", who)
    gates = len(layout.gates) * hidden
    transposed = columns == gates and rows != gates
    projection = None if _find(arrays, "weight_hr") is None else _matrix(arrays, "weight_hr", who)[0]
    activations = (_nonlinearity(options, who),) if layout.cell == "rnn" else ()
    try:
        return Spec(
            cell=layout.cell,
            input_size=rows if transposed else columns,
            hidden_size=hidden,
            directions=("forward", "reverse") if any(name.endswith("_reverse") for name in arrays) else ("forward",),
            bias="dual" if any(name.startswith("bias") for name in arrays) else "none",
            projection_size=projection,
            activations=activations,
        )
    except SpecError as error:
        raise LayoutError(f"{who}: {error.headline}", *error.details) from error


def _nonlinearity(options: ReadOptions, who: str) -> Any:
    if options.nonlinearity is None:
        raise Ambiguous(
            f"{who}: a vanilla RNN, and nothing here says whether it is tanh or relu",
            "say it: nonlinearity='tanh' or 'relu' (--nonlinearity)",
        )
    return options.nonlinearity


# ---- what our own files say


def _told(path: str, arrays: Arrays, who: str) -> Spec | None:
    """The Spec that our own module keeps beside its weights, where it does."""
    stored = arrays.get(_join(path, SPEC_KEY))
    if stored is None or str(stored.dtype).removeprefix("torch.") != "uint8":
        return None
    try:
        return Spec.from_json(bytes(xp.host(stored)).decode())
    except (BridgeError, UnicodeDecodeError) as error:
        raise LayoutError(f"{who}: {SPEC_KEY} is not a Spec", f"found: {error}") from error


def stored_spec(unit: Unit) -> npt.NDArray[np.uint8]:
    """The array in which our own module keeps its Spec."""
    return np.frombuffer(unit.layers[0].spec.to_json().encode(), np.uint8)


def describe(whole: Plan) -> str:
    """The text of `MARK` for a file: for each layer, all that names and shapes do not say."""
    return json.dumps([_entry(unit, level) for unit in whole.units for level in range(len(unit.targets))])


def _entry(unit: Unit, level: int) -> dict[str, Any]:
    layer = unit.layers[level]
    stock = f"torch.nn.{_CLASSES[layer.spec.cell]}{'Cell' * (unit.kind == 'cell')}"
    metadata = {"framework": "torch", "class": FAITHFUL_CLASS if unit.kind == "faithful" else stock}
    return {
        "module": unit.name,
        "level_in_module": level,
        "path": layer.path,
        "level": layer.level,
        "after": layer.after,
        "spec": json.loads(layer.spec.to_json()),
        "metadata": metadata if unit.kind == "cell" else {**metadata, "batch_first": unit.batch_first},
    }


def _read_described(arrays: Arrays, text: str, who: str) -> list[_Found]:
    """The layers that the metadata tells, each with the names of its arrays.

    Errors: FileError for a text that is not ours; LayoutError where it is not true of the arrays.
    """
    try:
        entries: Sequence[Mapping[str, Any]] = json.loads(text)
        found = [_described(entry, arrays, who) for entry in entries]
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, LayoutError):
            raise
        raise FileError(f"{who}: the metadata {MARK!r} is not what lstmbridge writes", f"found: {error}") from error
    used = {name for _, names in found for name in names}
    stray = [name for name in arrays if name not in used and _key(name.rpartition(".")[2])]
    if stray:
        raise LayoutError(
            f"{who}: {len(stray)} recurrent weights that its metadata {MARK!r} does not know",
            f"found: {', '.join(stray[:5])}",
            "the file was changed after lstmbridge wrote it: save it again without that metadata",
        )
    return found


def _described(entry: Mapping[str, Any], arrays: Arrays, who: str) -> _Found:
    spec = Spec.from_json(json.dumps(entry["spec"]))
    metadata, module, level = entry["metadata"], entry["module"], entry["level_in_module"]
    layout = (CELL_LAYOUTS if metadata["class"].endswith("Cell") else LAYOUTS)[spec.cell]
    names = {key: _join(module, key) for key in layout.keys(spec, level)}
    here = {key: _host(arrays[name], key, who) for key, name in names.items() if name in arrays}
    layer = Layer(
        spec=spec,
        weights=layout.unpack(here, spec, level=level, who=f"{who}: {module!r}, against its metadata {MARK!r}"),
        path=entry["path"],
        level=entry["level"],
        after=entry["after"],
        metadata=metadata,
    )
    return layer, {*names.values(), _join(module, SPEC_KEY)}
