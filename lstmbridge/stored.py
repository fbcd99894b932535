"""Which stored arrays the numbers of a layer stand in, so that others can be put in their place.

A reader gives views on what it read. While `noting` is on, it also says what it reads (`note`): the name of each stored
array, and the memory that its numbers came to. `replaced` follows a layer's views back to those arrays. So a weight is
written where it was read from, whatever lies between: gates, transposes, offsets and strides.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import Unsupported
from lstmbridge.layer import Layer

__all__ = ["Bytes", "Noted", "Place", "bytes_of", "note", "noting", "replaced"]

Numbers = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


class Noted:
    """What was read: the memory of each stored array, by where it begins, and the array's name in the file."""

    def __init__(self) -> None:
        self._regions: dict[int, tuple[str, Numbers]] = {}
        self._starts: list[int] = []

    def add(self, name: str, array: Numbers) -> None:
        """Notes an array; of those that begin at one place, the longest. One that is not contiguous is passed over."""
        start, _ = _bounds(array)
        known = self._regions.get(start)
        if not array.size or not array.flags.forc or (known is not None and known[1].nbytes >= array.nbytes):
            return
        if known is None:
            insort(self._starts, start)
        self._regions[start] = (name, array)

    def longest(self, name: str) -> Numbers:
        """The longest piece of memory that a stored array came to."""
        pieces = [array for each, array in self._regions.values() if each == name]
        return max(pieces, key=lambda array: array.nbytes)

    def place(self, view: Numbers) -> Place | None:
        """Where `view` stands in what was noted; None if it is in memory of its own."""
        low, high = _bounds(view)
        number = bisect_right(self._starts, low) - 1
        if number < 0:
            return None
        start = self._starts[number]
        name, region = self._regions[start]
        return Place(name, region, _address(view) - start, view) if high <= start + region.nbytes else None


_NOTED: ContextVar[Noted | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[Noted]:
    """Everything that readers `note` in this block."""
    found = Noted()
    token = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(token)


def note(name: str, array: Numbers) -> Numbers:
    """`array`, which was read under that name; noted, if anybody asked."""
    found = _NOTED.get()
    if found is not None:
        found.add(name, array)
    return array


@dataclass(frozen=True, eq=False)
class Place:
    """Where a view stands: so many bytes into the stored array `name`, with the view's own shape, dtype and strides."""

    name: str
    region: Numbers
    offset: int
    view: Numbers

    def on(self, content: Bytes) -> Numbers:
        """The same view on other bytes of that array."""
        return np.ndarray(self.view.shape, self.view.dtype, content.data, self.offset, self.view.strides)

    def bytes_on(self, content: Bytes) -> Bytes:
        """The bytes of that view, one more axis."""
        shape, strides = (*self.view.shape, self.view.itemsize), (*self.view.strides, 1)
        return np.ndarray(shape, np.uint8, content.data, self.offset, strides)


def replaced(old: Sequence[Layer], new: Sequence[Layer], noted: Noted, who: str) -> dict[str, Bytes]:
    """Those stored arrays that hold the layers `new`, with their numbers, by name; each whole, as bytes.

    old  every layer of the file, as the reader gave them while it was noting
    new  those of them that are to hold other numbers, told by their labels, with weights on the host
    who  names the file in messages

    Errors: Unsupported for a weight that is not stored as it is read (it was computed from others), and for two
    layers, one of which would change with the other since they share their numbers.
    """
    contents: dict[str, Bytes] = {}
    known = {layer.label: layer for layer in old}
    written: list[tuple[Layer, str, Place]] = []
    for layer in new:
        for name, array in layer.weights.items():
            found = _found(known[layer.label], name, noted, who)
            found.on(_content(contents, found))[...] = array
            written.append((layer, name, found))
    _check_apart(written, old, noted, contents, who)
    return contents


def _found(layer: Layer, name: str, noted: Noted, who: str) -> Place:
    found = noted.place(layer[name])
    if found is None:
        raise Unsupported(
            f"{who}: {layer.label or 'the layer'}: {name} is not stored as it is read",
            "it was computed from other arrays (weight norm, pruning, quantisation, a layout that is taken apart)",
            "put the layer into a file that has it as plain weights",
        )
    return found


def _content(contents: dict[str, Bytes], found: Place) -> Bytes:
    """The bytes of a stored array, to be written into; one that was read twice counts as far as it was read."""
    known = contents.get(found.name)
    if known is None or known.nbytes < found.region.nbytes:
        fresh = bytes_of(found.region)
        if known is not None:
            fresh[: known.nbytes] = known
        contents[found.name] = fresh
    return contents[found.name]


def _check_apart(
    written: Sequence[tuple[Layer, str, Place]],
    old: Sequence[Layer],
    noted: Noted,
    contents: Mapping[str, Bytes],
    who: str,
) -> None:
    """That every layer now has its own numbers. Errors: Unsupported for two that share some."""
    chosen = {layer.label for layer, _, _ in written}
    expected = [(layer, name, found, layer[name]) for layer, name, found in written]
    for layer in old:
        if layer.label in chosen:
            continue
        for name, array in layer.weights.items():
            found = noted.place(array)
            if found is not None and found.name in contents:
                expected.append((layer, name, found, array))
    for layer, name, found, array in expected:
        if found.on(contents[found.name]).tobytes() != np.asarray(array, found.view.dtype).tobytes():
            raise Unsupported(
                f"{who}: {layer.label or 'the layer'}: {name} shares its numbers with another layer",
                "the two cannot be changed apart; save the model again without tied weights",
            )


def bytes_of(array: Numbers) -> Bytes:
    """A copy of an array's bytes in the order of its memory."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)
    return np.array(flat.view(np.uint8))


def _address(array: Numbers) -> int:
    return int(array.__array_interface__["data"][0])


def _bounds(array: Numbers) -> tuple[int, int]:
    """The addresses of an array's first byte and of the one after its last."""
    start = _address(array)
    reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return (
        start + sum(each for each in reach if each < 0),
        start + sum(each for each in reach if each > 0) + array.itemsize,
    )
