"""Attributes of an HDF5 file, read only where their texts can be in the file, and are texts.

An attribute of texts holds, for each, its length and where it stands. HDF5 1.14.6 takes as much memory as a length says
before it looks for the text: four bytes of damage cost four gigabytes. And a type of varying length that is neither of
the two that there are (sequences, texts) it takes for texts, and ends the process. So both are looked at first, where
the format keeps them: in the messages of the object's header. Source: the HDF5 File Format Specification, IV.A (Object
Headers), IV.A.2.d (The Datatype Message) and IV.A.2.m (The Attribute Message).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import Any

import h5py

from lstmbridge.errors import FileError

__all__ = ["expect_in_file"]

_CONTINUATION, _ATTRIBUTE = 0x10, 0x0C
_HEADER1 = struct.Struct("<BxHIIxxxx")  # version; messages, references, bytes of them
_MESSAGE1 = struct.Struct("<HHBxxx")  # type, size, flags
_STRETCH = struct.Struct("<QQ")  # where a continuation is, and its bytes
_TEXT = struct.Struct("<IQI")  # length; heap, number in it
_TYPE = struct.Struct("<BBBxI4xI")  # version and class; kind and padding; encoding; size; size of a character
_VARYING, _OF_TEXTS = 9, 1  # the class, and the kind of it
_MOST = 1 << 20  # bytes of one header; Keras splits what does not fit into 64 KiB


def expect_in_file(item: Any, name: str, where: str, place: tuple[int, int], size: int) -> None:
    """That the attribute of that name is no larger than the file that has it. Errors: FileError.

    place  the descriptor of the file on disk that holds the HDF5 file, and where its addresses count from
    size   the bytes of the HDF5 file
    """
    attribute = h5py.h5a.open(item.id, name.encode())
    kind = attribute.get_type()
    claimed = math.prod(attribute.shape or (1,)) * kind.get_size()
    if claimed > size:
        raise FileError(f"{where}: attribute {name!r} claims {claimed} bytes", f"found: a file of {size}")
    if not isinstance(kind, h5py.h5t.TypeVlenID) and not _is_texts(kind):
        return
    header = _Header(*place, h5py.h5o.get_info(item.id).addr, min(size, _MOST))
    said = next((rest for found, *rest in header.attributes() if found == name.encode()), None)
    if said is None or not _says_texts(said[0]):
        raise FileError(f"{where}: attribute {name!r} is kept as Keras keeps none", "not read")
    texts = said[1]
    lengths = sum(length for length, _, _ in _TEXT.iter_unpack(texts[: len(texts) // _TEXT.size * _TEXT.size]))
    if lengths > size:
        raise FileError(f"{where}: attribute {name!r} claims {lengths} bytes of texts", f"found: a file of {size}")


def _is_texts(kind: Any) -> bool:
    return isinstance(kind, h5py.h5t.TypeStringID) and bool(kind.is_variable_str())


def _says_texts(datatype: bytes) -> bool:
    """Whether a datatype message is that of texts of varying length, in characters of one byte."""
    if len(datatype) < _TYPE.size:
        return False
    first, kind, encoding, _, character = _TYPE.unpack_from(datatype)
    return (first & 15, kind & 15) == (_VARYING, _OF_TEXTS) and kind >> 4 <= 2 and encoding <= 1 and character == 1


class _Header:
    """The messages of one object's header, of either form. Errors: ValueError, struct.error for one that is none."""

    def __init__(self, descriptor: int, base: int, address: int, limit: int) -> None:
        self.descriptor, self.base, self.address = descriptor, base, address
        self.left = limit

    def attributes(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Each attribute's name, datatype message and data."""
        for kind, content in self._messages():
            if kind == _ATTRIBUTE:
                yield _attribute(content)

    def _bytes(self, address: int, count: int) -> bytes:
        self.left -= count
        if count < 0 or self.left < 0:
            raise ValueError("an object header without end")
        found = os.pread(self.descriptor, count, self.base + address)
        if len(found) < count:
            raise ValueError("an object header that is cut short")
        return found

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        start = self._bytes(self.address, _HEADER1.size)
        newer = start.startswith(b"OHDR")
        stretches = [self._first_of_2(start[5]) if newer else (self.address + 16, int(_HEADER1.unpack(start)[3]))]
        order = bool(newer and start[5] & 0x04)
        for address, count in stretches:
            data = self._bytes(address, count)
            for kind, content in _of_2(data, order) if newer else _of_1(data):
                if kind == _CONTINUATION:
                    at, length = _STRETCH.unpack_from(content)
                    stretches.append((at + 4, length - 8) if newer else (at, length))  # OCHK ... checksum
                yield kind, content

    def _first_of_2(self, flags: int) -> tuple[int, int]:
        """Where the messages of the newer form begin, and how many bytes they have."""
        at = self.address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        return at + width, int.from_bytes(self._bytes(at, width), "little")


def _of_1(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE1.size <= len(data):
        kind, size, _ = _MESSAGE1.unpack_from(data, at)
        at += _MESSAGE1.size
        yield kind, data[at : at + size]
        at += size


def _of_2(data: bytes, order: bool) -> Iterator[tuple[int, bytes]]:
    head = 6 if order else 4
    at = 0
    while at + head <= len(data):
        kind, size = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
        at += head
        yield kind, data[at : at + size]
        at += size


def _attribute(content: bytes) -> tuple[bytes, bytes, bytes]:
    """An attribute's name, datatype message and data; the first version rounds each part up to eight bytes."""
    version, _, *sizes = struct.unpack_from("<BBHHH", content)
    at = 9 if version == 3 else 8
    parts = []
    for size in sizes:
        parts.append(content[at : at + size])
        at += -(-size // 8) * 8 if version == 1 else size
    return parts[0].partition(b"\0")[0], parts[1], content[at:]
