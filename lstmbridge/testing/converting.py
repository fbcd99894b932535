"""What a conversion must not do: lose, alias, move or cast anything, or hold what it says it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge import registry
from lstmbridge.errors import Disagreement, Unsupported
from lstmbridge.layer import Array, Layer
from lstmbridge.pipeline import migrate
from lstmbridge.reading import read, read_all
from lstmbridge.remainder import Remainder
from lstmbridge.testing.side import Side

__all__ = [
    "check_complete",
    "check_device",
    "check_dtype",
    "check_owns_memory",
    "check_refusal",
    "check_round_trip",
]

#: Names in a config that a new graph has anew.
_NAMES = ("name", "inputs", "outputs")

#: What each dtype is cast to where a cast is asked for.
_WIDER = {"float16": "float32", "bfloat16": "float32", "float32": "float64", "float64": "float32"}


def check_round_trip(
    source: Any, to: str | None = None, *, path: Path | None = None, back: Path | None = None, **options: Any
) -> None:
    """Converted to `to` (or into the file `path`) and back with the remainder, every bit and all metadata is there.

    back     the way back ends in this file rather than in an object; one of the source's own suffix
    options  of `lstmbridge.migrate`, for both ways; those that are for the target's framework alone, for the way there

    Errors: Disagreement that names the weights and what was said of them.
    """
    before = read(source)
    done = migrate(source, to=to, path=path, **options)
    home = registry.of_file(Path(source)) if isinstance(source, str | Path) else registry.of_object(source)
    there = registry.framework(to) if to is not None else registry.for_target(Path(str(path)))
    own = {name: value for name, value in options.items() if name not in there.options or name in home.options}
    again = migrate(done.result, to=home.name, path=back, remainder=done.remainder, **own)
    after = read(again.result)
    who = f"check_round_trip: {home.name} -> {to or Path(str(path)).suffix} -> {home.name}"
    if len(before) != len(after):
        raise Disagreement(f"{who}: {len(before)} layers became {len(after)}", "expected as many")
    for one, other in zip(before, after, strict=True):
        lost = list(_lost(one, other))
        if lost:
            raise Disagreement(f"{who}: {one.label or 'the layer'} is not what it was", *lost)


def _lost(one: Layer, other: Layer) -> Iterator[str]:
    """What of a layer is not in another, a line each."""
    if one.spec != other.spec:
        yield f"it was {one.spec}; it is {other.spec}"
        return
    different = [name for name in one if not xp.same_bits(one[name], other[name])]
    if different:
        yield f"other bits: {', '.join(different)}"
    for field in ("path", "level", "after"):
        if getattr(one, field) != getattr(other, field):
            yield f"its {field} was {getattr(one, field)!r}; it is {getattr(other, field)!r}"
    for key, value in one.metadata.items():
        if _plain(other.metadata.get(key)) != _plain(value):
            yield f"its {key} was {value!r}; it is {other.metadata.get(key)!r}"


def _plain(value: Any) -> Any:
    """What a source said, without the names that belong to the graph it stood in."""
    return {k: v for k, v in value.items() if k not in _NAMES} if isinstance(value, dict) else value


def check_refusal(source: Any, to: str | None = None, *, reason: str, path: Path | None = None, **options: Any) -> None:
    """The conversion is refused, the refusal says `reason`, and nothing was written. Errors: Disagreement if not."""
    goal = to or str(path)
    try:
        migrate(source, to=to, path=path, **options)
    except Unsupported as error:
        if reason not in str(error):
            raise Disagreement(
                f"check_refusal: {goal} refuses for another reason", f"found: {error}", f"expected: {reason}"
            ) from error
    else:
        raise Disagreement(f"check_refusal: {goal} took what it cannot hold", f"expected a refusal: {reason}")
    if path is not None and path.exists():
        raise Disagreement(f"check_refusal: {path.name} was written although it was refused", "expected no file")


def check_owns_memory(source: Any, to: str, **options: Any) -> None:
    """Whatever is written into the result afterwards, the source keeps its numbers; and the other way round.

    Overwrites the weights of `source`. Errors: Disagreement that names the weights that are shared.
    """
    done = migrate(source, to=to, **options)
    result, terms = done.result, {n: xp.host(a).copy() for n, a in _terms(done.remainder).items()}
    for changed, other, who in ((result, source, "the source"), (source, result, "the result")):
        kept = [_copies(layer) for layer in read(other)]
        if not _overwritten(Side.of(changed)):
            continue
        now = read(other)
        shared = [
            name
            for before, after in zip(kept, now, strict=True)
            for name in after
            if not np.array_equal(before[name], xp.host(after[name]))
        ]
        if shared:
            raise Disagreement(f"check_owns_memory: {to}: writing changed {who} too", f"shared: {', '.join(shared)}")
    held = [name for name, array in _terms(done.remainder).items() if not np.array_equal(xp.host(array), terms[name])]
    if held:
        raise Disagreement(f"check_owns_memory: {to}: writing changed the remainder too", f"shared: {', '.join(held)}")


def _terms(remainder: Remainder) -> dict[str, Array]:
    return {f"{label}/{name}": a for label, entry in remainder.entries.items() for name, a in entry.terms.items()}


def _overwritten(side: Side) -> bool:
    """Whether other numbers were written into the object; of arrays that nobody can write none can be shared.

    Errors: Disagreement if they are not there afterwards.
    """
    others = [layer.replace(weights={n: _other(a) for n, a in layer.weights.items()}) for layer in side.layers]
    expected = [_copies(layer) for layer in others]
    try:
        for layer in others:
            side.live.assign(side.obj, [layer])
    except Unsupported:
        return False
    for there, layer in zip(expected, read(side.obj), strict=True):
        lost = [name for name in layer if not np.array_equal(there[name], xp.host(layer[name]))]
        if lost:
            raise Disagreement(
                f"check_owns_memory: {side.name}: assign did not write {', '.join(lost)}", "expected all"
            )
    return True


def _copies(layer: Layer) -> dict[str, npt.NDArray[Any]]:
    return {name: xp.host(array).copy() for name, array in layer.weights.items()}


def _other(array: Array) -> Array:
    """Other numbers of the same kind, on the same device."""
    return xp.own(array) + 7 if xp.kind(array) != "numpy" else (xp.host(array) + 7).astype(array.dtype)


def check_device(source: Any, to: str, **options: Any) -> None:
    """The result lives where the source does, and no matrix went over the host on the way.

    Applies where both sides have arrays that can live elsewhere than on the host; a framework that reads into NumPy has
    no device of its own. Errors: Disagreement that names the weights.
    """
    with _watched(read(source)) as fetched:
        result = migrate(source, to=to, **options).result
    here, there = read(source), read(result)
    kinds = {xp.kind(layer[name]) for layer in (*here, *there) for name in layer}
    if "numpy" in kinds:
        return
    if fetched:
        raise Disagreement(
            f"check_device: {to}: {len(fetched)} arrays went over the host", f"of the shapes {_shapes(fetched)}"
        )
    found = {xp.device(layer[name]) for layer in there for name in layer}
    expected = {xp.device(layer[name]) for layer in here for name in layer}
    if {_bare(device) for device in found} != {_bare(device) for device in expected}:
        raise Disagreement(
            f"check_device: {to}: the result is on {_words(found)}", f"the source is on {_words(expected)}"
        )


def _bare(device: str) -> str:
    """A device as torch calls it: jax says ``TFRT_CPU_0`` and ``cuda:0``."""
    return "cpu" if "cpu" in device.lower() else device


def _words(devices: set[str]) -> str:
    return ", ".join(sorted(devices))


def _shapes(fetched: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, sorted(set(fetched))))


@contextmanager
def _watched(layers: Sequence[Layer]) -> Iterator[list[tuple[int, ...]]]:
    """While it lasts, the shapes of the matrices of these layers' kinds that are fetched to the host are noted."""
    fetched: list[tuple[int, ...]] = []
    kinds = {type(array) for layer in layers for array in layer.weights.values() if xp.kind(array) != "numpy"}

    def noting(original: Any) -> Any:
        def note(array: Any, *args: Any, **kwargs: Any) -> Any:
            if xp.kind(array) != "numpy" and len(array.shape) > 1:
                fetched.append(tuple(array.shape))
            return original(array, *args, **kwargs)

        return note

    with ExitStack() as undo:
        undo.enter_context(mock.patch.object(xp, "host", noting(xp.host)))
        for kind in kinds:
            for name in ("cpu", "numpy", "tolist", "__array__"):
                if name in dir(kind) and _writable(kind):
                    undo.enter_context(mock.patch.object(kind, name, noting(getattr(kind, name))))
        yield fetched


def _writable(kind: type) -> bool:
    """Whether a class takes new attributes (jax's arrays are of one that does not)."""
    return "__dict__" in dir(kind) and kind.__module__.partition(".")[0] == "torch"


def check_dtype(source: Any, to: str, **options: Any) -> None:
    """The result has the source's dtype; another only if it is asked for, and then the verdict says so.

    Errors: Disagreement.
    """
    done = migrate(source, to=to, **options)
    for before, after in zip(read(source), read(done.result), strict=True):
        if before.dtype != after.dtype:
            raise Disagreement(f"check_dtype: {to}: {before.dtype} became {after.dtype}", "nobody asked for a cast")
    dtype = _WIDER[read(source)[0].dtype]
    try:
        cast = migrate(source, to=to, dtype=dtype, **options)
    except Unsupported:
        return  # a backend that has no such dtype says so
    found = {layer.dtype for layer in read(cast.result)}
    if found != {dtype}:
        raise Disagreement(f"check_dtype: {to}: asked for {dtype}", f"found {', '.join(sorted(found))}")
    for report in cast.reports:
        if report.verdict != "lossy" or not any(dtype in note for note in report.notes):
            raise Disagreement(f"check_dtype: {to}: a cast to {dtype} is not said", f"the report: {report}")


def check_complete(source: Any, to: str, **options: Any) -> None:
    """Every array of the source is read once or listed as left alone; every number of the target is written once.

    Needs weights without equal numbers (`telling_layer`, `labelled_layer`), and a framework whose live room has
    `tensors`; of another it sees only the layers. Errors: Disagreement that names the arrays.
    """
    reading = read_all(source)
    _consumed(Side.of(source), reading.layers, reading.left_alone)
    done = migrate(source, to=to, **options)
    if set(done.left_alone) != set(reading.left_alone):
        raise Disagreement("check_complete: the report forgets what was left alone", f"found {done.left_alone}")
    _written(Side.of(done.result), [each.layer for each in done.targets])
    for report, before, after in zip(done.reports, reading.layers, done.targets, strict=True):
        changed = [n for n in before if n not in after.layer.weights or not xp.same_bits(after.layer[n], before[n])]
        if (report.verdict == "exact") == bool(changed):
            raise Disagreement(
                f"check_complete: {to}: the verdict is {report.verdict}",
                f"other numbers: {', '.join(changed) or 'none'}",
            )


def _consumed(side: Side, layers: Sequence[Layer], left_alone: Sequence[str]) -> None:
    tensors = side.tensors()
    if tensors is None:
        return
    unknown = sorted(set(left_alone) - set(tensors))
    if unknown:
        raise Disagreement(
            f"check_complete: {side.name}: left alone is what is not there", f"found {', '.join(unknown)}"
        )
    numbers = _numbers([array for layer in layers for array in layer.weights.values()])
    for name, array in tensors.items():
        here = _numbers([array])
        read_from = np.isin(here, numbers).all()
        if (name in left_alone) == bool(read_from) and len(here):
            what = "was read, and is listed as left alone" if name in left_alone else "was neither read nor listed"
            raise Disagreement(f"check_complete: {side.name}: {name} {what}", "expected one of the two")
    _equal(side.name, "read", numbers, _numbers([a for n, a in tensors.items() if n not in left_alone]), layers)


def _written(side: Side, layers: Sequence[Layer]) -> None:
    tensors = side.tensors()
    if tensors is not None:
        expected = _numbers([array for layer in layers for array in layer.weights.values()])
        _equal(side.name, "written", _numbers(list(tensors.values())), expected, layers)


def _numbers(arrays: Sequence[Array]) -> npt.NDArray[Any]:
    """All numbers but zero (a padded bias), without their sign (a gate may be stored with the opposite one), sorted."""
    flat = [np.abs(np.asarray(xp.host(array), np.float64)).ravel() for array in arrays]
    joined = np.sort(np.concatenate(flat)) if flat else np.zeros(0)
    return np.asarray(joined[joined != 0])


def _equal(who: str, verb: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], layers: Sequence[Layer]) -> None:
    if not np.array_equal(found, expected):
        missing, extra = np.setdiff1d(expected, found), np.setdiff1d(found, expected)
        twice = len(found) - len(np.unique(found))
        raise Disagreement(
            f"check_complete: {who}: not every number was {verb} once",
            f"{len(missing)} are missing, {len(extra)} come from nowhere, {twice} are there twice",
            *_of(layers, np.union1d(missing, extra)),
        )


def _of(layers: Sequence[Layer], numbers: npt.NDArray[Any]) -> Iterator[str]:
    """Which weights those numbers belong to."""
    weights = [(name, array) for layer in layers for name, array in layer.weights.items()]
    names = [name for name, array in weights if np.isin(_numbers([array]), numbers).any()]
    if names:
        yield f"they belong to {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
