"""Whether every number stands where it belongs, by weights that say which entry they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import registry
from lstmbridge.arrays import host
from lstmbridge.errors import Disagreement
from lstmbridge.layer import Layer
from lstmbridge.pipeline import convert
from lstmbridge.reading import read, read_all
from lstmbridge.spec import Spec
from lstmbridge.testing.side import Side
from lstmbridge.testing.weights import Labels, labelled_layer

__all__ = ["Stated", "check_structure"]

Float = npt.NDArray[Any]
MOST = 12  # lines of a message

#: A second statement of a framework's layout, in plain words of NumPy: from the object and the layer it is to hold to
#: (array's name, what is in it, what should be in it).
Stated = Callable[[Any, Layer], Iterable[tuple[str, Float, Float]]]


def check_structure(spec: Spec, source: str, target: str, *, stated: Stated | None = None, **options: Any) -> None:
    """A labelled layer of `spec`, as an object of `source`, converted to `target`: every number is where it belongs.

    stated   holds the target's own arrays against a second statement of its layout as well. Without it a mistake that
             reading and writing make alike does not show here; `check_forward` sees it, unless it changes no output
    options  of `lstmbridge.convert`

    Errors: Disagreement that names what is exchanged, transposed, of the opposite sign or missing.

    >>> check_structure(Spec(cell="gru", input_size=5, hidden_size=3), "gates", "gates")
    """
    origin = labelled_layer(spec)
    obj = convert(origin, to=source, **options)
    origin = _demand(source, origin, read(obj))
    made = convert(obj, to=target, **options)
    held = read(made)
    _demand(f"{source} -> {target}", origin, held)
    if stated is not None:
        fitted = origin.replace(spec=held[0].spec, weights=_expected(origin, held[0]))
        arrays = [(name, np.asarray(found), np.asarray(right)) for name, found, right in stated(made, fitted)]
        _all_stated(made, {name for name, _, _ in arrays})
        _complain(f"{source} -> {target}", origin, fitted, arrays)


def _all_stated(made: Any, names: set[str]) -> None:
    """Every array of the object has a statement, as far as its framework tells its arrays. Errors: Disagreement."""
    tensors = Side.of(made).tensors()
    silent = sorted(set(tensors or ()) - set(read_all(made).left_alone) - names)
    if silent or not names:
        raise Disagreement(
            f"check_structure: `stated` says nothing of {', '.join(silent) or 'any array'}", "expected all"
        )


def _demand(who: str, origin: Layer, held: Sequence[Layer]) -> Layer:
    """The one layer that is held, with numbers on the host. Errors: Disagreement unless it holds `origin`."""
    if len(held) != 1:
        raise Disagreement(f"check_structure: {who}: {len(held)} layers", "expected one")
    spec = held[0].spec
    if origin.spec.bias == "dual" != spec.bias and "dual" in _forms(who, origin.spec):
        raise Disagreement(f"check_structure: {who}: two biases became one", "the target holds both")
    expected = _expected(origin, held[0])
    fitted = held[0].replace(weights=expected)
    _complain(who, origin, fitted, [(name, np.asarray(host(held[0][name])), expected[name]) for name in expected])
    return fitted


def _forms(who: str, spec: Spec) -> Sequence[str]:
    """The bias forms of the framework that ``source -> target`` ends with."""
    return registry.framework(who.rpartition(" ")[2]).layout.HOLDS.biases(spec)


def _expected(origin: Layer, held: Layer) -> dict[str, Float]:
    """What a layer of another bias form should hold: biases merged, padded with zeros, or with the constant folded."""
    return {name: _entry(origin, held.spec, name) for name in held.spec.names()}


def _entry(origin: Layer, spec: Spec, name: str) -> Float:
    found = np.asarray(origin[name]) if name in origin.weights else np.zeros(spec.shape(name), "float32")
    if ".bias." in name:
        if spec.bias == "single" and origin.spec.bias == "dual":
            found = found + origin[name.replace(".bias.", ".recurrent_bias.")]
        if name.endswith(".f"):
            found = found + np.float32(origin.spec.forget_constant - spec.forget_constant)
    return found


def _complain(who: str, origin: Layer, fitted: Layer, arrays: Iterable[tuple[str, Float, Float]]) -> None:
    """Errors: Disagreement with a line for each thing that is out of place."""
    odd = []
    for array, found, expected in arrays:
        if found.shape != expected.shape:
            raise Disagreement(f"check_structure: {who}: {array} has shape {found.shape}", f"expected {expected.shape}")
        odd += [] if np.array_equal(found, expected) else [(array, found, expected)]
    if not odd:
        return
    labels = Labels(origin, {name: fitted[name] for name in fitted if ".bias." in name})
    wrong: dict[tuple[str, str], tuple[int, str]] = {}
    for array, found, expected in odd:
        for wanted, there, count in labels.complaints(found, expected):
            wrong[wanted, there] = (count, array)
    lines = list(_sentences(wrong))
    rest = [f"... and {len(lines) - MOST} more"] if len(lines) > MOST else []
    raise Disagreement(f"check_structure: {who}: numbers out of place", *lines[:MOST], *rest)


def _sentences(wrong: dict[tuple[str, str], tuple[int, str]]) -> Iterator[str]:
    told: set[tuple[str, str]] = set()
    for (wanted, there), (count, array) in wrong.items():
        where = "" if array in (wanted, there) else f" (in {array})"
        if (wanted, there) in told:
            continue
        if (there, wanted) in wrong:
            told.add((there, wanted))
            yield f"{wanted} and {_short(wanted, there)} are exchanged{where}"
        else:
            yield f"{wanted}: {_many(count, there)}{where}" if there[0] == "(" else f"{wanted} holds {there}{where}"


def _many(count: int, there: str) -> str:
    """``3 numbers are transposed, e.g. [1, 0] at [0, 1]``, of what `Labels.complaints` says in parentheses."""
    what, _, example = there.removeprefix("(").partition(")")
    return f"{count} {'number is' if count == 1 else 'numbers are'} {what}{example}"


def _short(one: str, other: str) -> str:
    """`other` without what it has in common with `one`: ``.g`` beside ``forward.kernel.f``."""
    a, b = one.split("."), other.split(".")
    return f".{b[-1]}" if a[:-1] == b[:-1] else other
