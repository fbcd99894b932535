"""Arrays that stay out of memory: views on mapped files, and arrays that are made only when they are written.

A file of any size is converted in the memory of a few of its arrays: what is read of it is a view on the mapped file,
an array that is written is made when its turn comes (`Later`) and let go after it, and `forget` gives back the pages
that the views have touched on the way.

A mapped file that another process cuts short while it is read ends this process (SIGBUS), as the system has no other
way to tell; a migration job takes that as a lost worker and an unreadable file. A file that is replaced by another of
its name (as everything that lstmbridge writes is put in its place) does no harm: the mapping keeps the old one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LARGE", "Later", "forget", "numbers", "whole"]

#: Bytes; a smaller file is read faster than it is mapped, and its pages are not worth giving back.
LARGE = 1 << 20

#: Every large mapping that is in use, and those that the arrays of one file share: a mapping holds a descriptor.
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_shared: weakref.WeakValueDictionary[tuple[int, ...], mmap.mmap] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def whole(path: Path) -> mmap.mmap:
    """A file's bytes, mapped read-only. Errors: OSError; ValueError for an empty file."""
    with path.open("rb") as file, _lock:
        return _mapped(file.fileno())


def numbers(file: int, dtype: np.dtype[Any], count: int, offset: int) -> npt.NDArray[Any]:
    """`count` numbers that begin at byte `offset` of an open file: a read-only view, which outlives the descriptor.

    Errors: ValueError if the file ends before; OSError if it cannot be mapped.
    """
    told = os.fstat(file)
    key = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)
    with _lock:
        mapping = _shared.get(key)
        if mapping is None:
            mapping = _shared[key] = _mapped(file)
    return np.frombuffer(mapping, dtype, count, offset)


def _mapped(file: int) -> mmap.mmap:
    mapping = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    if len(mapping) >= LARGE:
        _mappings.add(mapping)
    return mapping


def forget() -> None:
    """Gives back the memory of every mapped page that was read; what is read again comes from the file again.

    No array changes. Nothing happens where the system has no such call.
    """
    if not hasattr(mmap.mmap, "madvise"):
        return
    with _lock:
        mappings = list(_mappings)
    for mapping in mappings:
        with contextlib.suppress(ValueError):  # it was closed
            mapping.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class Later:
    """An array that is not there yet.

    shape  its shape
    dtype  the name of its dtype, e.g. ``bfloat16``
    make   gives the array, numpy's, of that shape and dtype, in any order of its memory; each time anew
    """

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], npt.NDArray[Any]]

    @classmethod
    def of(cls, array: npt.NDArray[Any] | Later) -> Later:
        """What is to give an array that is there already."""
        return array if isinstance(array, Later) else cls(array.shape, array.dtype.name, partial(np.asarray, array))

    def content(self) -> npt.NDArray[np.uint8]:
        """Its bytes, numbers little-endian and in C order; nothing of it is kept here."""
        array = self.make()
        ready = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        return ready.reshape(-1).view(np.uint8)
