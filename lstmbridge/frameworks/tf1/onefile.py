"""Checkpoints in one file, as TensorFlow wrote them before 0.12, and by ``Saver(write_version=1)`` later.

The file is the same sorted table that an index is, with the numbers themselves in it, as protobuf's lists.
Source: tensorflow/core/util/{saved_tensor_slice.proto,saved_tensor_slice_util.cc,tensor_slice_writer.cc}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from lstmbridge.bundle import shape_of, slice_key
from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.tf1.graph import array_of
from lstmbridge.sstable import table
from lstmbridge.wire import Message, mapped, readable

__all__ = ["OneFile"]

Array = npt.NDArray[Any]

# The numbers of the fields.
_META, _DATA = 1, 2
_TENSOR, _NAME, _SHAPE, _TYPE, _SLICE = 1, 1, 2, 3, 4
_NUMBERS, _EXTENT = 3, 1


class OneFile:
    """The tensors of such a checkpoint by name; each that is read is noted in `read_so_far`.

    Errors: FileError for a file that is damaged or foreign; Unsupported for a partitioned variable, when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.read_so_far = path, set[str]()
        with readable(path, "checkpoint of TensorFlow before 0.12"):
            self._table = dict(table(mapped(path)))
            tensors = Message(self._table.pop(b"")).message(_META).messages(_TENSOR)
            self._tensors = {each.text(_NAME): each for each in tensors}
            self._shapes = {name: shape_of(each.message(_SHAPE)) for name, each in self._tensors.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._shapes[name]

    def read(self, name: str) -> Array:
        """The numbers of a tensor. Errors: FileError, Unsupported."""
        self.read_so_far.add(name)
        return self.peek(name)

    def peek(self, name: str) -> Array:
        """As `read`, without a note that it was read."""
        shape = self._shapes[name]
        if len(self._tensors[name].spans(_SLICE)) != 1:
            raise Unsupported(f"{self.path}: {name!r} is partitioned", "restore it in TensorFlow and save it again")
        key = slice_key(name, [(0, -1)] * len(shape))
        if key not in self._table:
            raise FileError(f"{self.path}: the numbers of {name!r} are not there", "the file is damaged")
        with readable(self.path, f"checkpoint (the tensor {name!r})"):
            return array_of(
                Message(self._table[key]).message(_DATA).message(_NUMBERS), shape, self._tensors[name].number(_TYPE)
            )

    def untouched(self) -> tuple[str, ...]:
        """The tensors that were not read."""
        return tuple(name for name in self._shapes if name not in self.read_so_far)
