"""Plain arrays by name, in any layout: one layer from arrays at hand, or every layer of a file that has no format.

A file of plain arrays is an ``.npz`` or ``.safetensors`` file, or a directory of ``.npy`` files, whose paths below it
are the names. A layer's arrays have the names that the layout says, all behind the layer's path:
``encoder/kernel``, ``encoder/bias``, or ``encoder.weight_ih_l0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lstmbridge import arrays as xp
from lstmbridge import npz, registry, tensorfile
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, NothingRecurrent, OptionError, unknown
from lstmbridge.fit import fit
from lstmbridge.layer import Array, Layer, expect_layer
from lstmbridge.notation import Layout

__all__ = ["from_arrays", "read", "to_arrays"]


def from_arrays(
    arrays: Mapping[str, Array], layout: str | Layout, *, cell: str = "lstm", path: str = "", **features: Any
) -> Layer:
    """One layer from fused arrays in any known layout, on the arrays' own memory.

    arrays    by the names that `layout` has, or a dict of dicts whose names these are, joined by dots; shapes give the
              sizes, the bias form and the directions
    layout    a framework's name (``keras``, ``torch``, ``onnx``, ``tf1``, ...) or a Layout of your own
    cell      ``lstm``, ``gru`` or ``rnn``, where `layout` is a name
    features  fields of the Spec that arrays cannot tell, e.g. ``reset_after=False``, ``forget_constant=1.0``

    Errors: LayoutError that says which array, what shape, what was expected; UnknownName for an unknown layout;
    Ambiguous for a field that this layout's arrays never tell (TensorFlow 1's forget_constant) and that was not given.

    >>> import numpy as np
    >>> kernel = np.arange(16 * 44, dtype="float32").reshape(16, 44)  # rows [x; h], gates i j f o
    >>> layer = from_arrays({"kernel": kernel, "bias": np.ones(44, "float32")}, "tf1", forget_constant=1.0)
    >>> print(layer.spec)
    lstm 5 -> 11, single bias, forget constant +1
    >>> bool((layer["forward.recurrent_kernel.f"] == kernel[5:, 22:33].T).all())
    True
    """
    given: Any = arrays
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise OptionError(f"arrays in a {kind} have no names", 'expected a dict, e.g. {"kernel": ..., "bias": ...}')
    arrays = _flat(arrays)
    for key, each in arrays.items():
        if not hasattr(each, "shape"):
            raise OptionError(f"{key} is a {type(each).__name__}", "expected an array, e.g. of numpy")
    if isinstance(layout, str):
        layouts = _layouts(layout)
        if cell not in layouts:
            raise unknown("cell", cell, layouts)
        name, tried = layout, layouts
    else:
        name, tried, cell = "", {layout.cell: layout}, layout.cell
    try:
        return _layer(arrays, tried[cell], name, path=path, level=0, **features)
    except LayoutError as error:
        hints = list(_what_would_fit(arrays, tried, cell, name, features))
        raise LayoutError(error.headline, *error.details, *hints) from None


def _what_would_fit(
    arrays: Mapping[str, Array], layouts: Mapping[str, Layout], cell: str, name: str, features: Mapping[str, Any]
) -> Iterator[str]:
    """Two common slips, where one of them is all that stands in the way: another cell, and transposed matrices."""
    turned = {key: array.T if len(array.shape) == 2 else array for key, array in arrays.items()}
    for other, layout in layouts.items():
        if other != cell and _fits(arrays, layout, name, features):
            yield f"they are those of a {other}: cell={other!r}"
    if _fits(turned, layouts[cell], name, features):
        yield "with every matrix transposed they fit: give each array's .T"


def _fits(arrays: Mapping[str, Array], layout: Layout, name: str, features: Mapping[str, Any]) -> bool:
    try:
        _layer(arrays, layout, name, path="", level=0, **features)
    except (BridgeError, TypeError):  # a feature that another cell's Spec does not have
        return False
    return True


def to_arrays(layer: Layer, layout: str | Layout) -> dict[str, Array]:
    """The arrays of one layer in any known layout, on memory of their own: the way back from `from_arrays`.

    layer   as the framework's own layer holds it, it is fitted first, as `migrate` does: two biases that are only ever
            added become one where the layout has one, and one beside zeros where it has two
    layout  a framework's name (``keras``, ``torch``, ``onnx``, ``tf1``, ``flax``, ...) or a Layout of your own, into
            which the layer goes as it is

    Arrays do not say what a layer computes: activations, directions, clips are yours to set. Errors: Unsupported for
    what the framework's own layers cannot hold; LayoutError for a weight that a Layout of your own has no place for;
    UnknownName for an unknown layout.

    >>> import numpy as np
    >>> layer = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
    >>> {name: array.shape for name, array in to_arrays(layer, "torch").items()}
    {'weight_ih_l0': (3, 2), 'weight_hh_l0': (3, 3)}
    """
    expect_layer(layer)
    if isinstance(layout, Layout):
        return layout.pack(layer.weights, layer.spec)
    layouts = _layouts(layout)
    if layer.spec.cell not in layouts:
        raise unknown("cell", layer.spec.cell, layouts)
    own, held = layouts[layer.spec.cell], fit(layer, registry.framework(layout).layout.HOLDS).layer
    weights = dict(held.weights)
    for name, twin in own.absent(held.spec).items():
        weights |= {twin: weights[twin] + weights[name], name: xp.zeros_like(weights[name])}
    return own.pack(weights, held.spec)


def _layouts(name: str) -> Mapping[str, Layout]:
    return registry.framework(name).layout.LAYOUTS


def _layer(arrays: Mapping[str, Array], layout: Layout, name: str, *, path: str, level: int, **features: Any) -> Layer:
    arrays = _with_direction(arrays, layout)
    who = f"{name} {layout.cell}".lstrip() + (f" {path!r}" if path else "")
    asked = getattr(registry.framework(name).layout, "ASKED", {}).get(layout.cell, {}) if name else {}
    for field, why in asked.items():
        if field not in features:
            raise Ambiguous(f"{who}: {field} is in no array", why)
    spec = layout.infer(arrays, level=level, who=who, **features)
    return Layer(spec=spec, weights=layout.unpack(arrays, spec, level=level, who=who), path=path)


def _flat(arrays: Mapping[str, Any], above: str = "") -> dict[str, Array]:
    """A dict of dicts as one, names joined by dots, as flax keeps its parameters."""
    flat: dict[str, Array] = {}
    for name, each in arrays.items():
        flat |= _flat(each, f"{above}{name}.") if isinstance(each, Mapping) else {f"{above}{name}": each}
    return flat


def _with_direction(arrays: Mapping[str, Array], layout: Layout) -> Mapping[str, Array]:
    """The arrays by their full names: where the layout's begin with the direction and none here does, it is forward."""
    begins = tuple(f"{name}." for name in layout.directions.values())
    if not all(line.key.startswith("{d}.") for line in layout.lines) or any(n.startswith(begins) for n in arrays):
        return arrays
    return {f"{layout.directions['forward']}.{name}": array for name, array in arrays.items()}


# ---- a file of them


def read(path: Path, options: ReadOptions) -> Reading:
    """The layers among the plain arrays at `path`, in the layout `options.layout`; other arrays are left alone.

    Errors: FileError for what is no file of arrays; NothingRecurrent if none of them is in this layout; Ambiguous where
    names and shapes fit several cells, or where an option must say what arrays do not; LayoutError for arrays of a
    layer that do not fit together; UnknownName for a layout or cell that is none.
    """
    name = options.layout or ""
    layouts = _layouts(name)
    if options.cell is not None and options.cell not in layouts:
        raise unknown("cell", options.cell, layouts)
    tried = {options.cell: layouts[options.cell]} if options.cell is not None else layouts
    arrays = _arrays(path)
    layers: list[Layer] = []
    used: set[str] = set()
    groups = {place: keys for place, keys in _groups(arrays, tried).items() if _wanted(place, options)}
    groups, passed = _telling(groups, arrays, tried, options, path.name)
    for place, keys in groups.items():
        layer = _understood(place, keys, arrays, tried, name, options, path.name)
        before = layers[-1] if layers and layers[-1].path == layer.path else None
        layers.append(layer.replace(after=before.label if before else None))
        used |= {keys[key] for key in keys}
    if not layers and not options.only:
        expected = ", ".join(dict.fromkeys(line.key for layout in tried.values() for line in layout.lines))
        raise NothingRecurrent(
            f"{path.name}: no arrays in the layout of {name}", f"found {', '.join(list(arrays)[:6]) or 'none'}",
            f"expected names such as {expected}",
        )  # fmt: skip
    left_alone = tuple(each for each in arrays if each not in used)
    note = f"passed over, since a dense layer has such arrays, too: {', '.join(passed)}; layers= (--layer) takes them"
    return Reading(tuple(layers), left_alone, (note,) if passed else ())


#: Words in a path that tell a recurrent layer from a dense one.
_TELLING = re.compile(r"lstm|gru|rnn|recurrent|cell", re.IGNORECASE)


def _telling(
    groups: Mapping[_Place, dict[str, str]],
    arrays: Mapping[str, Array],
    layouts: Mapping[str, Layout],
    options: ReadOptions,
    file: str,
) -> tuple[dict[_Place, dict[str, str]], list[str]]:
    """The groups that are recurrent layers, and the paths of those that may as well be dense ones.

    Where input and state share a kernel (TensorFlow 1), a dense layer of the right width looks just the same: only a
    name that tells, or being asked for, makes it a recurrent layer. Errors: Ambiguous if nothing tells.
    """
    alike = [line.key for layout in layouts.values() for line in layout.lines if len(line.parts) > 1 and line.joined]
    doubtful = [
        place for place, keys in groups.items()
        if place.path and not options.only and not _TELLING.search(place.path) and _one_matrix(keys, arrays) in alike
    ]  # fmt: skip
    if doubtful and len(doubtful) == len(groups):
        names = ", ".join(place.path for place in doubtful)
        raise Ambiguous(f"{file}: recurrent or dense? {names}", "arrays do not tell: say which: layers= (--layer)")
    return {place: groups[place] for place in groups if place not in doubtful}, [place.path for place in doubtful]


def _one_matrix(keys: Mapping[str, str], arrays: Mapping[str, Array]) -> str | None:
    """The layout's name of the one matrix of a layer; None if it has several."""
    matrices = [key for key, full in keys.items() if len(arrays[full].shape) == 2]
    return matrices[0] if len(matrices) == 1 else None


def _arrays(path: Path) -> Mapping[str, Array]:
    """The arrays of a file or directory by name. Errors: FileError."""
    if path.is_dir():
        return npz.load_directory(path)
    if path.suffix == ".npz":
        return npz.load(path)
    if path.suffix == ".safetensors":
        return tensorfile.load(path)[0]
    raise FileError(
        f"{path.name} is no file of plain arrays", "expected .npz, .safetensors, or a directory of .npy files"
    )


@dataclass(frozen=True, order=True)
class _Place:
    """Where one layer's arrays stand: the path before their names, and the level in them."""

    path: str
    level: int | None


def _groups(arrays: Mapping[str, Array], layouts: Mapping[str, Layout]) -> dict[_Place, dict[str, str]]:
    """For each place the full names of its arrays, by the layout's own names."""
    groups: dict[_Place, dict[str, str]] = {}
    for name in arrays:
        for layout in layouts.values():
            found = _matched(name, layout)
            if found is not None:
                place, key = found
                groups.setdefault(place, {})[key] = name
                break
    levels = {place.path: [each.level for each in groups if each.path == place.path] for place in groups}
    return {
        _Place(place.path, place.level if len(levels[place.path]) > 1 else None): keys
        for place, keys in sorted(groups.items(), key=lambda each: list(groups).index(each[0]))
    }


def _matched(name: str, layout: Layout) -> tuple[_Place, str] | None:
    for pattern, forward in _patterns(layout):
        match = pattern.fullmatch(name)
        if match is not None:
            told = match.groupdict()
            path = (told["path"] or "").rstrip("./").replace("/", ".")
            level = told.get("level")
            return _Place(path, None if level is None else int(level)), forward + told["key"]
    return None


@cache
def _patterns(layout: Layout) -> tuple[tuple[re.Pattern[str], str], ...]:
    """For each line a pattern of full names, and what is put before the name that it finds.

    Where a line's name begins with the direction and a dot, the name without them means the forward direction.
    """
    found: list[tuple[re.Pattern[str], str]] = []
    for line in layout.lines:
        found.append((_pattern(line.key, layout), ""))
        if line.key.startswith("{d}."):
            found.append((_pattern(line.key.removeprefix("{d}."), layout), f"{layout.directions['forward']}."))
    return tuple(found)


def _pattern(key: str, layout: Layout) -> re.Pattern[str]:
    directions = "|".join(re.escape(each) for each in sorted(layout.directions.values(), key=len, reverse=True))
    gates = "|".join(re.escape(layout.gate_names.get(gate, gate)) for gate in layout.gates)
    text = re.escape(key).replace(r"\{d\}", f"(?:{directions})").replace(r"\{g\}", f"(?:{gates})")
    text = text.replace(r"\{l\}", "(?P<level>[0-9]+)")
    return re.compile(rf"(?P<path>.*[./])?(?P<key>{text})")


def _wanted(place: _Place, options: ReadOptions) -> bool:
    label = place.path if place.level is None else f"{place.path}.l{place.level}".lstrip(".")
    return not options.only or any(
        each in (label, place.path) or place.path.startswith(f"{each}.") for each in options.only
    )


def _understood(
    place: _Place,
    keys: Mapping[str, str],
    arrays: Mapping[str, Array],
    layouts: Mapping[str, Layout],
    name: str,
    options: ReadOptions,
    file: str,
) -> Layer:
    """The one layer that these arrays are. Errors: LayoutError, Ambiguous."""
    level = place.level if place.level is not None else _level(keys, layouts)
    own = {key: arrays[full] for key, full in keys.items()}
    fits: dict[str, Layer] = {}
    misfits: list[LayoutError] = []
    for cell, layout in layouts.items():
        try:
            fits[cell] = _layer(own, layout, name, path=place.path, level=level, **_features(cell, options))
        except LayoutError as error:
            misfits.append(error)
    if len(fits) > 1:
        raise Ambiguous(f"{file}: {place.path!r} may be {' or '.join(fits)}", "say which: cell= (--cell)")
    if not fits:
        raise LayoutError(f"{file}: {misfits[0].headline}", *misfits[0].details)
    [(cell, layer)] = fits.items()
    if cell == "rnn" and options.nonlinearity is None:
        raise Ambiguous(
            f"{file}: {place.path!r} is a vanilla RNN: tanh or relu?", "say it: nonlinearity= (--nonlinearity)"
        )
    oriented = {} if options.batch_first is None else {"batch_first": options.batch_first}
    return layer.replace(level=place.level, metadata={"framework": name, "class": f"{name} arrays", **oriented})


def _level(keys: Mapping[str, str], layouts: Mapping[str, Layout]) -> int:
    """The level in the names of a module that has one level only, whatever its number."""
    for key in keys:
        for layout in layouts.values():
            found = _matched(key, layout)
            if found is not None and found[0].level is not None:
                return found[0].level
    return 0


def _features(cell: str, options: ReadOptions) -> dict[str, Any]:
    features: dict[str, Any] = {}
    if cell == "rnn" and options.nonlinearity is not None:
        features["activations"] = (options.nonlinearity,)
    if cell == "lstm" and options.forget_constant is not None:
        features["forget_constant"] = options.forget_constant
    if cell == "gru" and options.reset_after is not None:
        features["reset_after"] = options.reset_after
    return features
