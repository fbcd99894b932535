"""From one framework to another: recognise, read, fit, pack, hand over, write.

`read` (of `lstmbridge.reading`) and `write` are the two halves; `convert` is both; `migrate` is `convert` with the full
account: a verdict a layer, and the remainder that leads back bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge import mapped, registry
from lstmbridge.choosing import renamed, select, stacked
from lstmbridge.contract import FOR_BOTH, Reading, ReadOptions, WriteOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, OptionError, Unsupported, listed, unknown
from lstmbridge.fit import LOSSY, Fitted, Holds, fit, refusals
from lstmbridge.into import Existing, Into, matched
from lstmbridge.into import fitted as into_place
from lstmbridge.layer import Array, Layer
from lstmbridge.placing import atomic, plainly
from lstmbridge.reading import Source, expect_recurrent, options_of, read_all, read_file
from lstmbridge.remainder import Remainder
from lstmbridge.spec import Spec

__all__ = ["Migration", "Report", "convert", "expect_effect", "migrate", "write"]

Progress = Callable[[str, int, int], None]  # (what, done, total)
DTYPES = ("float64", "float32", "float16", "bfloat16")
#: Bits of the mantissa and of the exponent.
_BITS = {"float64": (52, 11), "float32": (23, 8), "float16": (10, 5), "bfloat16": (7, 8)}


@dataclass(frozen=True)
class Report:
    """What became of one layer, for people and for JSON.

    label    its name in the source; `target_label` its name in the target
    verdict  ``exact``, ``reparameterised`` or ``lossy``; a refused layer is an error, and has no report
    module   ``stock`` or ``faithful``: which of the target's modules holds it
    notes    what was done or why not, a sentence each
    """

    label: str
    target_label: str
    spec: str
    verdict: str
    module: str
    parameters: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = self.label if self.label == self.target_label else f"{self.label} -> {self.target_label}"
        tail = f"; {'; '.join(self.notes)}" if self.notes else ""
        module = " (faithful module)" if self.module == "faithful" else ""
        return f"{name or 'layer'}: {self.verdict}{module}: {self.spec}{tail}"


@dataclass(frozen=True, eq=False)
class Migration:
    """A conversion with its account.

    result      the object in the target framework, or the path of the file that was written
    reports     one a layer, in order
    remainder   what leads back to the source bit for bit: `migrate(result, to=..., remainder=...)`
    left_alone  the source's weights that belong to no recurrent layer; they were not converted
    """

    result: Any
    reports: tuple[Report, ...]
    remainder: Remainder
    left_alone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    targets: tuple[Fitted, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return "\n".join((*map(str, self.reports), *(f"note: {note}" for note in dict.fromkeys(self.notes))))


# ---- the verbs


def write(layers: Sequence[Layer] | Layer, *, to: str | None = None, path: str | Path | None = None,
          **options: Any) -> Any:  # fmt: skip
    """The layers as an object of the framework `to`, or as a file at `path`: `migrate(...).result`."""
    return migrate(layers, to=to, path=path, **options).result


def convert(source: Source, to: str | None = None, path: str | Path | None = None, **options: Any) -> Any:
    """The recurrent layers of `source` in the framework `to`: an object, or the path of a file if `path` is given.

    Takes what `migrate` takes. Errors: Unsupported if the target cannot hold a layer; nothing is written then.

    >>> import numpy as np
    >>> one = {"n": np.ones((1, 1))}
    >>> layers = convert(Layer.from_gates(kernel=one, recurrent_kernel=one), to="gates")
    >>> layers[0].spec.cell
    'rnn'
    """
    return migrate(source, to=to, path=path, **options).result


def migrate(
    source: Source,
    to: str | None = None,
    path: str | Path | None = None,
    *,
    remainder: Remainder | None = None,
    remainder_path: str | Path | None = None,
    allow: Collection[str] = (),
    faithful: bool = False,
    layers: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    dtype: str | None = None,
    into: str | Path | None = None,
    force: bool = False,
    staged: bool = False,
    progress: Progress | None = None,
    approve: Callable[[Any], None] | None = None,
    **options: Any,
) -> Migration:
    """`convert`, with a verdict for each layer and the remainder.

    to         the target framework; with `path` it may be left out if the suffix says it
    path       the file to write; without it an object is built
    remainder  of the conversion that `source` came from: the source of that time is given back, bit for bit
    remainder_path  write this conversion's remainder there; it and the target are both written, or neither
    allow      what may be given up by name, changing outputs (`lstmbridge.fit.DROPS`)
    faithful   where the target's stock layer cannot hold a layer, use the project's own module that runs it
    layers     paths of the layers to take (all of them if empty); a path stands for all below it
    rename     new paths for old ones; a path stands for all below it
    dtype      cast the weights; without it they keep theirs
    into       an existing file of the target framework: `path` becomes a copy of it in which the layers have taken the
               place of its own, by name, by `rename` (to the names there), or in the only way possible; their dtype,
               bias form and the like are those of the file, and everything else in it stays as it is, bit for bit
    force      overwrite an existing file
    staged     write to `path` itself rather than beside it first: for a caller who puts the file in its place later
    progress   called as (what, done, total) on the way
    approve    called with the finished object or file (of `into`: `lstmbridge.into.Into`) before it takes its place;
               what it raises leaves nothing behind
    options    the fields of `ReadOptions` and `WriteOptions`

    Errors: Unsupported if the target cannot hold a layer, with every reason and the alternative (nothing is written);
    FileError for a file that exists or cannot be written; of `into`, Ambiguous and LayoutError for a layer that has no
    one place there; OptionError for an option without effect; and those of `read`.
    """
    reading_options, writing_options = _split_options(options)
    layers, allow = ((each,) if isinstance(each, str) else each for each in (layers, allow))
    target = _target(to, path) if into is None else _same_format(_path_of(into), to, path)
    if into is None:
        expect_effect(target, writing_options)
    step = progress or _silent
    step("reading", 0, 3)
    reading = read_all(source, **{"only": tuple(layers), **reading_options})
    _check_not_itself(source, path, reading)
    chosen = as_read = select(reading.layers, layers)
    if remainder is not None:
        chosen = remainder.back(chosen)
    sources = chosen
    chosen = renamed(chosen, rename or {})
    unseen: tuple[str, ...] = ()
    if writing_options.get("stack"):
        chosen, unseen = stacked(chosen)
    step("fitting", 1, 3)
    hand_over: _HandOver
    if into is None or path is None:
        fitted = _fit_all(chosen, partial(_fit_one, target, allow, faithful))
        targets = [_cast(each, dtype, late=path is not None) for each in fitted]
        hand_over = partial(_hand_over, targets, target, path, options_of(WriteOptions, writing_options))
    else:
        _check_no_choice(faithful=faithful, dtype=dtype, **writing_options)
        existing, found = _existing(Path(into), target, reading_options, [layer.label for layer in chosen])
        places = matched(chosen, existing, (rename or {}).values(), allow)
        targets = _fit_all(chosen, partial(_fit_into, dict(zip(chosen, places, strict=True)), existing, allow))
        hand_over = partial(_put_into, as_read, targets, existing, found, Path(path))
    step("writing", 2, 3)
    kept = Remainder.of(sources, targets)
    _check_apart(source, path, into, remainder_path)
    place: _Place = partial(plainly if staged else atomic, force=force)
    with contextlib.nullcontext() if remainder_path is None else place(Path(remainder_path)) as aside:
        if aside is not None:
            kept.save(aside)
        result, notes = hand_over(place, approve or _silent)
    return Migration(
        result,
        tuple(_report(before, after, target.name) for before, after in zip(sources, targets, strict=True)),
        kept,
        reading.left_alone,
        (*reading.notes, *unseen, *notes, *_trained_on(targets)),
        tuple(targets),
    )


# ---- the steps


def _silent(*_: Any) -> None:
    """Progress that nobody watches; approval that nobody asks for."""


def _target(to: str | None, path: str | Path | None) -> registry.Framework:
    if path is not None:
        return registry.for_target(Path(path), to)
    if to is None:
        raise LayoutError("no target", "say to='torch' (an object) or path='model.safetensors' (a file)")
    return registry.framework(to)


def _cast(target: Fitted, dtype: str | None, *, late: bool = False) -> Fitted:
    """The target in another dtype; the remainder then keeps the source's own numbers.

    late  cast numpy's arrays when they are written, one after another
    """
    layer = target.layer
    if dtype is None or dtype == layer.dtype:
        return target
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    to = xp.LateCast if late and all(xp.kind(array) == "numpy" for array in layer.weights.values()) else xp.cast
    cast = layer.replace(weights={name: to(array, dtype) for name, array in layer.weights.items()})
    terms = {name: xp.kept(array) for name, array in target.source.weights.items()}
    note = f"cast from {layer.dtype} to {dtype}"
    return replace(target, layer=cast, terms=terms, verdict=LOSSY, notes=(*target.notes, note))


def _fit_all(layers: Sequence[Layer], fit_one: Callable[[Layer], Fitted]) -> list[Fitted]:
    """Every layer as the target holds it. Errors: Unsupported that names every refused layer."""
    fitted: list[Fitted] = []
    refused: list[Unsupported] = []
    for layer in layers:
        try:
            fitted.append(fit_one(layer))
        except Unsupported as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        first, *others = refused
        raise Unsupported(first.headline, *first.details, *(line for each in others for line in str(each).split("\n")))
    return fitted


def _fit_one(target: registry.Framework, allow: Collection[str], faithful: bool, layer: Layer) -> Fitted:
    room = target.layout
    own: Holds | None = getattr(room, "FAITHFUL", None)
    other = _other(layer.spec, target, own is not None and not faithful)
    try:
        return fit(layer, room.HOLDS, allow=allow, other=other)
    except Unsupported:
        if own is None or not faithful:
            raise
    fitted = fit(layer, own, allow=allow, module="faithful", other=other)
    why = ", ".join(refusal.text for refusal in refusals(layer.spec, room.HOLDS))
    how = getattr(room, "FAITHFUL_NOTE", "")
    notes = (f"no stock layer of {target.name} holds {why}", *([how] if how else []), *fitted.notes)
    return replace(fitted, notes=notes)


def _fit_into(
    places: Mapping[Layer, Layer], existing: Existing, allow: Collection[str], layer: Layer
) -> Fitted:
    """A layer as the existing one holds it that it takes the place of, in that one's dtype; to a wider one is exact."""
    target = into_place(layer, places[layer], existing, allow)
    cast = _cast(target, places[layer].dtype)
    return cast if _narrows(layer.dtype, places[layer].dtype) else replace(cast, verdict=target.verdict)


def _narrows(before: str, after: str) -> bool:
    """Whether some number of the one dtype is none of the other."""
    return any(a > b for a, b in zip(_BITS[before], _BITS[after], strict=True))


def _other(spec: Spec, target: registry.Framework, own: bool = False) -> str:
    """What else could hold a layer as it is."""
    able = [
        repr(name)
        for name in registry.names()
        if name != target.name and registry.framework(name).has("live") and not refusals(spec, _holds(name))
    ]
    ways = [f"to={' or '.join(able)}"] if able else []
    return "; or ".join((["faithful=True (--faithful)"] if own else []) + ways)


def _holds(name: str) -> Holds:
    return registry.framework(name).layout.HOLDS


#: Gives a path to write to; what is there when the block ends is then where it should be.
_Place = Callable[[Path], contextlib.AbstractContextManager[Path]]
#: Writes or builds the result, and gives it with notes.
_HandOver = Callable[[_Place, Callable[[Any], None]], tuple[Any, tuple[str, ...]]]


def _hand_over(
    targets: Sequence[Fitted],
    target: registry.Framework,
    path: str | Path | None,
    options: WriteOptions,
    place: _Place,
    approve: Callable[[Any], None],
) -> tuple[Any, tuple[str, ...]]:
    if path is None:
        built = target.live.build(targets, options)
        approve(built)
        return built, ()
    destination = Path(path)
    with place(destination) as staged:
        notes = target.files.write(targets, staged, options)
        approve(staged)
    return destination, tuple(notes or ())


# ---- into an existing file


def _path_of(into: Any) -> Path:
    """The path of an existing file. Errors: OptionError for a live object."""
    if isinstance(into, str | os.PathLike):
        return Path(into)
    raise OptionError(
        f"into= is a {type(into).__name__}",
        "expected the path of an existing file",
        "into a live model: model.rnn = convert(...), or edit(model, layer) and gates.update(layer.weights)",
    )


def _same_format(into: Path, to: str | None, path: str | Path | None) -> registry.Framework:
    """The framework of an existing file. Errors: FileError if what is to be written is another format."""
    if path is None:
        raise LayoutError(f"into={str(into)!r} without a path", "say where the new file is to be: path= (DESTINATION)")
    if not into.is_file():
        raise FileError(f"{into}: no such file", "expected an existing file to put the layers into")
    found = registry.of_file(into)
    if to not in (None, found.name):
        raise FileError(f"{into.name} is a {found.name} file", f"found to={to!r}", "leave it out, or name another file")
    suffixes = [_suffix(each, found) for each in (into, Path(path))]
    if suffixes[0] != suffixes[1]:
        raise FileError(
            f"{Path(path).name} is to be a copy of {into.name}", f"expected a name that ends in {suffixes[0]}"
        )
    if not hasattr(found.files, "patch"):
        raise Unsupported(f"{found.name} files are not written into here", "convert without into= (--into)")
    return found


def _suffix(path: Path, framework: registry.Framework) -> str:
    """The longest suffix of the framework's that a name has, else its own."""
    return max((each for each in framework.suffixes if path.name.endswith(each)), key=len, default=path.suffix)


def expect_effect(target: registry.Framework, options: Mapping[str, Any]) -> None:
    """That no option of `WriteOptions` was set that is for another framework. Errors: OptionError, naming that one."""
    for name in (name for name in registry.names() if name != target.name):
        other = registry.framework(name)
        for option in other.options:
            value = options.get(option)
            if value not in (None, WriteOptions.__dataclass_fields__[option].default) and option not in target.options:
                flag = f"--{option.replace('_', '-')}"
                raise OptionError(
                    f"{option} has no effect on {target.name}",
                    f"found {option} = {value}; it is for {other.name}",
                    f"leave it out: {option}= ({flag})",
                )


def _check_no_choice(**options: Any) -> None:
    """That nothing is asked for that the existing file decides. Errors: LayoutError."""
    default = {field.name: field.default for field in fields(WriteOptions)}
    asked = [name for name, value in options.items() if value not in (None, False, default.get(name))]
    if "batch_first" in asked:  # it is an option for reading, too
        asked.remove("batch_first")
    if asked:
        names = ", ".join(f"{name}=" for name in asked)
        raise LayoutError(f"into= with {names}", "the existing file decides that: leave it out")


def _existing(
    into: Path, target: registry.Framework, options: Mapping[str, Any], names: Sequence[str]
) -> tuple[Existing, tuple[ReadOptions, tuple[str, ...]]]:
    """An existing file's layers; and how it was read, with notes.

    names  the layers that are to be put there: where another of the file cannot be read, these alone are
    """
    how = ReadOptions(**{name: value for name, value in options.items() if name in FOR_BOTH} | {"only": ()})
    notes: tuple[str, ...] = ()
    try:
        reading = expect_recurrent(read_file(into, how), str(into), how)
    except (Ambiguous, LayoutError, Unsupported) as error:
        how = replace(how, only=tuple(names))
        with contextlib.suppress(BridgeError):
            reading = read_file(into, how)
            notes = (f"{into.name}: no other layer was read: {error.headline}",)
        if not notes or not reading.layers:
            raise
    notes = (*notes, *(f"{into.name}: {note}" for note in reading.notes))
    return Existing(into, target.name, reading.layers), (how, notes)


def _put_into(
    layers: Sequence[Layer],
    targets: Sequence[Fitted],
    existing: Existing,
    found: tuple[ReadOptions, tuple[str, ...]],
    destination: Path,
    place: _Place,
    approve: Callable[[Any], None],
) -> tuple[Path, tuple[str, ...]]:
    """The copy of the existing file with the targets in it, and notes."""
    options, notes = found
    pairs = {layer.label: target.layer.label for layer, target in zip(layers, targets, strict=True)}
    ready = [
        target.layer.replace(weights={name: xp.host(array) for name, array in target.layer.weights.items()})
        for target in targets
    ]
    with place(destination) as staged:
        more = registry.framework(existing.name).files.patch(existing.path, ready, staged, options)
        approve(Into(staged, pairs))
    left = existing.left(pairs.values())
    untouched = [f"left as they are in {existing.path.name}: {', '.join(left)}"] if left else []
    return destination, (*notes, *more, *untouched)


def _check_not_itself(source: Source, path: str | Path | None, reading: Reading) -> None:
    """Errors: FileError if the target would take the place of a source that has more than recurrent layers in it."""
    if path is None or not isinstance(source, str | os.PathLike) or not Path(path).exists():
        return
    more = reading.left_alone or any("config" in layer.metadata for layer in reading.layers)  # of a whole model
    if more and Path(source).exists() and os.path.samefile(source, path):
        raise FileError(
            f"{path} is the source itself: all but its recurrent layers would be lost",
            "write another file; or put the layers into a copy of a whole model: into= (--into)",
        )


def _check_apart(source: Source, path: str | Path | None, into: str | Path | None,
                 remainder_path: str | Path | None) -> None:  # fmt: skip
    """Errors: FileError if the remainder would take the place of the source or the target."""
    others = [each for each in (source, path, into) if isinstance(each, str | os.PathLike)]
    if remainder_path is not None and any(Path(each).resolve() == Path(remainder_path).resolve() for each in others):
        raise FileError(f"{remainder_path} is the source or the target", "give the remainder a file of its own")


#: What a layer's config says beside its weights, which no other framework's layer is given.
_ITS_OWN = ("dropout", "recurrent_dropout", "stateful")


def _own_settings(config: Any) -> dict[str, Any]:
    """Those of `_ITS_OWN` that are set in a config, also in the one of a layer inside (Keras' Bidirectional)."""
    if not isinstance(config, Mapping):
        return {}
    inner = config.get("layer", {})
    found = _own_settings(inner.get("config")) if isinstance(inner, Mapping) else {}
    return found | {name: config[name] for name in _ITS_OWN if config.get(name)}


def _left_behind(layer: Layer, target: str) -> Iterator[str]:
    """A note on what another framework's layer is not given."""
    settings = _own_settings(layer.metadata.get("config"))
    if settings and layer.metadata.get("framework") not in (target, "gates") and target != "gates":
        yield f"not taken along: {', '.join(f'{name}={value}' for name, value in settings.items())}"


def _report(before: Layer, after: Fitted, target: str) -> Report:
    notes = (*after.notes, *_left_behind(before, target), *_not_finite(before))
    label, spec = after.layer.label, str(before.spec)
    return Report(before.label, label, spec, after.verdict, after.module, before.parameters, notes)


def _trained_on(targets: Sequence[Fitted]) -> Iterator[str]:
    """For each thing that training does otherwise in the target, a note with the layers that it is about."""
    said: dict[str, list[str]] = {}
    for target in targets:
        said.setdefault(target.training, []).append(target.layer.label)
    for text, labels in said.items():
        if text:
            who = listed([label for label in labels if label])
            yield f"in training, {text}{f' ({who})' if who else ''}"


def _not_finite(layer: Layer) -> Iterator[str]:
    """A note if some numbers are NaN or infinite. A sum that is finite says that none is, without a copy."""
    suspects = [array for array in layer.weights.values() if not _is_finite(array)]
    nan, inf = (sum(int(test(xp.host(array)).sum()) for array in suspects) for test in (np.isnan, np.isinf))
    if nan or inf:
        yield f"{nan} NaN and {inf} infinite among its numbers; moved unchanged"


def _is_finite(array: Array) -> bool:
    with np.errstate(all="ignore"):  # a sum that overflows makes a suspect, no more
        total = float(array.sum())
    mapped.forget()
    return math.isfinite(total)


# ---- options


def _split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for reading and those for writing; one that is for both (batch_first) goes to both."""
    reading, writing = ReadOptions.__dataclass_fields__, WriteOptions.__dataclass_fields__
    for name in given:
        if name not in reading and name not in writing:
            raise unknown("option", name, {*reading, *writing})
    return (
        {name: value for name, value in given.items() if name in reading},
        {name: value for name, value in given.items() if name in writing},
    )
