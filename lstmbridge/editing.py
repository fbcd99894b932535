"""One layer of a live object, gate by gate, to read and to change in place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lstmbridge import arrays as xp
from lstmbridge import registry
from lstmbridge.choosing import select
from lstmbridge.contract import ReadOptions
from lstmbridge.errors import LayoutError, OptionError, UnknownName, unknown
from lstmbridge.layer import ALSO_CALLED, Array, Layer, dtype_name

__all__ = ["edit"]


@contextmanager
def edit(obj: Any, layer: str | None = None, *, cast: bool = False) -> Iterator[dict[str, Array]]:
    """The gates of one layer of a live object, to read and to change in place.

    obj    a live object: a layer or model of any framework
    layer  the layer's label; may be left out if the object has one layer
    cast   an array that was replaced by one of another dtype is cast to the layer's

    Gives a dict of arrays by canonical name; one gate may be replaced, or all of a direction
    (``gates.update(other.weights)``). When the block ends without an error they are written back into the object, all
    of them or none. Errors: those of `read`; UnknownName for a name that is not there; LayoutError if an array was
    replaced by one of another shape, or without `cast` of another dtype.

    >>> import numpy as np
    >>> live = Layer.from_gates(kernel={"n": np.ones((1, 1))}, recurrent_kernel={"n": np.ones((1, 1))})
    >>> with edit(live) as gates:
    ...     gates["forward.kernel.n"][:] = 5
    >>> live["forward.kernel.n"].item()
    5.0
    """
    if isinstance(obj, str | os.PathLike):
        raise OptionError(f"{obj} is a path", "edit changes live objects; a file: read it, replace weights, write")
    live = registry.of_object(obj).live
    reading = live.read(obj, ReadOptions())
    if not reading.layers:
        raise LayoutError(f"no recurrent layer in this {type(obj).__name__}", "expected an LSTM, GRU or RNN")
    if layer is None and len(reading.layers) != 1:
        names = ", ".join(each.label for each in reading.layers)
        raise LayoutError(f"{len(reading.layers)} recurrent layers", f"say which: layer= one of {names}")
    found = select(reading.layers, () if layer is None else (layer,))[0]
    getattr(live, "expect_writable", _writable)(found)
    before = {name: _editable(array) for name, array in found.weights.items()}
    gates = _Gates(before)
    yield gates
    live.assign(obj, [found.replace(weights={name: _taken(found, before, name, gates[name], cast) for name in gates})])


def _writable(layer: Layer) -> None:
    """Whatever a room says nothing of can be written."""


class _Gates(dict[str, Array]):
    """The arrays of one layer by name, which knows what to say of a name that is not there."""

    def __missing__(self, name: str) -> Array:
        raise _no_weight(name, self)


def _no_weight(name: str, known: Mapping[str, Array]) -> UnknownName:
    """The error for a name that is none; a gate is never guessed."""
    part, _, gate = name.rpartition(".")
    gates = [each.removeprefix(f"{part}.") for each in known if each.startswith(f"{part}.")]
    if not part or not gates:
        return unknown("weight", name, known)
    called = ALSO_CALLED.get(gate)
    hint = f"it is called {called!r} here (cell candidate)" if called in gates else f"its gates are {' '.join(gates)}"
    return UnknownName(f"unknown weight {name!r}: {part} has no gate {gate!r}", hint)


def _editable(array: Array) -> Array:
    return xp.own(array) if xp.kind(array) == "torch" else xp.own(xp.host(array))


def _taken(layer: Layer, before: Mapping[str, Array], name: str, array: Array, cast: bool) -> Array:
    """An edited array as it is written back: of the kind and dtype that was there. Errors: LayoutError."""
    was = before.get(name)
    if was is None or array is was or not hasattr(array, "dtype"):  # a Layer knows what to say of a name or a list
        return array
    found, expected = dtype_name(array), layer.dtype
    if found != expected and not cast:
        raise LayoutError(
            f"{layer.label or 'the layer'}: {name} is {found}",
            f"expected {expected}, as it is in the {layer.spec.cell}",
            "nothing was written; to have it cast: edit(..., cast=True)",
        )
    if xp.kind(array) != xp.kind(was):
        array = xp.to_torch(array) if xp.kind(was) == "torch" else xp.host(array)
    return xp.cast(array, expected)
