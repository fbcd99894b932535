"""Whether the HDF5 library can cope with a file: two kinds of damage make it run for ever, or take gigabytes.

A superblock (of the versions 0 and 1) may say where a block of driver information stands; HDF5 1.14.6 takes as much
memory as that block claims, before the file's own size is looked at. Keras writes no such block.

A global heap is a block that holds texts one after another, each behind its size. Its free rest is object 0; if that
says a size of 0, H5HG__cache_heap_deserialize (HDF5 1.14.6) never gets past it, and no time limit in the process can
stop it; nor past an object of so large a size that it wraps around and stays, or goes back. Source: the HDF5 File
Format Specification, II.A (Format Signature and Superblock) and III.E (Global Heap).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from lstmbridge.errors import FileError

__all__ = ["expect_sound"]

_SUPERBLOCK = b"\x89HDF\r\n\x1a\n"
_SIGNATURE = b"GCOL\x01\x00\x00\x00"
_HEADER = struct.Struct("<8sQ")  # signature, version and zeros; size of the block, this header included
_OBJECT = struct.Struct("<HHIQ")  # number, references, zeros; size
_LARGEST = 1 << 24  # a heap of texts is 4 KiB, or as large as its largest text
_CHUNK = 1 << 20


def expect_sound(raw: IO[bytes], where: str) -> None:
    """That the library can cope with a file, which is at its beginning afterwards. Errors: FileError.

    The file is read once from end to end, a mebibyte at a time.
    """
    if _has_driver(raw):
        found = "found: driver information, which Keras never has"
        raise FileError(f"{where}: not a readable HDF5 file: damaged", found)
    for start in list(_found(raw)):
        raw.seek(start)
        _, size = _HEADER.unpack(raw.read(_HEADER.size).ljust(_HEADER.size, b"\0"))
        raw.seek(start)
        if _goes_round(raw.read(min(size, _LARGEST)), size):
            raise FileError(
                f"{where}: not a readable HDF5 file: damaged", f"found: a heap of texts without end at {start}"
            )
    raw.seek(0)


def _has_driver(raw: IO[bytes]) -> bool:
    """Whether the superblock, wherever it stands, says that there is driver information."""
    end = raw.seek(0, 2)
    at = 0
    while at < end:
        raw.seek(at)
        head = raw.read(96)
        if head.startswith(_SUPERBLOCK):
            return _driver(head)
        at = max(512, 2 * at)
    return False


def _driver(head: bytes) -> bool:
    """Whether this superblock's address of driver information is one, or would be read as one."""
    version, width = head[8], head[13]
    if version > 1:
        return False
    start = 24 + 4 * version + 3 * width
    address = head[start : start + width]
    return width not in (4, 8) or address != b"\xff" * width


def _found(raw: IO[bytes]) -> Iterator[int]:
    """Where the signature of a global heap stands."""
    overlap = len(_SIGNATURE) - 1
    raw.seek(0)
    before, at = b"", 0
    while chunk := raw.read(_CHUNK):
        text = before + chunk
        here = text.find(_SIGNATURE)
        while here >= 0:
            yield at - len(before) + here
            here = text.find(_SIGNATURE, here + 1)
        at += len(chunk)
        before = text[-overlap:]


def _goes_round(heap: bytes, claimed: int) -> bool:
    """Whether the library would stay at one object of a heap of that size, or leave the heap with it."""
    at = _HEADER.size
    while at + _OBJECT.size <= len(heap):
        number, _, _, size = _OBJECT.unpack_from(heap, at)
        step = size if number == 0 else _OBJECT.size + -(-size // 8) * 8
        if step == 0 or at + step > claimed:
            return True
        at += step
    return False
