"""Sorted tables of keys and values, as LevelDB has them, and TensorFlow's checkpoints.

A file is a list of blocks, each with a checksum; in a block a key is told by how much of the one before it begins with.
What a file says of itself is held against its real size. Sources: LevelDB's doc/table_format.md,
tensorflow/core/lib/io/{format,block}.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.wire import Buffer, varint

__all__ = ["crc32c", "is_table", "masked", "table", "unsnapped"]

Array = npt.NDArray[Any]

_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57.to_bytes(8, "little")
_TRAILER = 5  # a block's kind of compression, and its checksum
_PLAIN, _SNAPPY = 0, 1
#: How many bytes all keys together may have: they share their beginnings in the file, and no longer here.
_KEYS_GROW, _KEYS_SMALL = 4, 16 << 20


def is_table(path: Path) -> bool:
    """Whether a file ends as such a table does: an index, or a whole checkpoint of TensorFlow before 0.12."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_MAGIC), 2)
            return file.read() == _MAGIC
    except OSError:
        return False


def table(data: Buffer) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its value, in order. Errors: ValueError."""
    if len(data) < _FOOTER or data[len(data) - len(_MAGIC) :] != _MAGIC:
        raise ValueError(f"{len(data)} bytes that do not end as a table does")
    footer = len(data) - _FOOTER
    _, _, at = _handle(data, footer, len(data))  # of the block of metadata, which is empty
    start, size, _ = _handle(data, at, len(data))
    room = _KEYS_SMALL + _KEYS_GROW * len(data)
    end = 0
    for _, value in _entries(_block(data, start, size, footer), room):
        start, size, _ = _handle(value, 0, len(value))
        if start < end:
            raise ValueError("a block that is listed twice, or out of order")
        end = start + size
        for key, entry in _entries(_block(data, start, size, footer), room):
            room -= len(key)
            yield key, entry


def _handle(data: Buffer, at: int, stop: int) -> tuple[int, int, int]:
    """Where a block begins, its size, and where this handle ends."""
    start, at = varint(data, at, stop)
    size, at = varint(data, at, stop)
    return start, size, at


def _block(data: Buffer, start: int, size: int, stop: int) -> bytes:
    """The content of one block."""
    if start + size + _TRAILER > stop:
        raise ValueError(f"a block that ends at {start + size} of {stop} bytes")
    trailer = bytes(data[start + size : start + size + _TRAILER])
    content = np.frombuffer(data, np.uint8, size + 1, start)
    if masked(crc32c(content)) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the block at {start} is damaged: another checksum than it has")
    if trailer[0] not in (_PLAIN, _SNAPPY):
        raise ValueError(f"a block of the unknown compression {trailer[0]}")
    raw = content[:-1].tobytes()
    return raw if trailer[0] == _PLAIN else unsnapped(raw)


def _entries(block: bytes, room: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; each key is told by how much of the one before it begins with."""
    if len(block) < 4:
        raise ValueError("a block without an end")
    stop = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if stop < 0:
        raise ValueError("a block with more restarts than bytes")
    at, key = 0, b""
    while at < stop:
        shared, at = varint(block, at, stop)
        own, at = varint(block, at, stop)
        size, at = varint(block, at, stop)
        if shared > len(key) or at + own + size > stop:
            raise ValueError("an entry that is longer than its block")
        key = key[:shared] + block[at : at + own]
        room -= len(key)
        if room < 0:
            raise ValueError("keys that are far longer than the file")
        at += own + size
        yield key, block[at - size : at]


_SNAPPY_GROWTH = 32  # a copy of 64 bytes takes three


def unsnapped(data: bytes) -> bytes:
    """Snappy's compression undone (google/snappy format_description.txt). Errors: ValueError."""
    length, at = varint(data, 0, len(data))
    if length > _SNAPPY_GROWTH * len(data):
        raise ValueError(f"{length} bytes packed in {len(data)}")
    out = bytearray()
    while at < len(data) and len(out) <= length:
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            more = max(0, (tag >> 2) - 59)
            size = (int.from_bytes(data[at : at + more], "little") if more else tag >> 2) + 1
            at += more
            out += data[at : at + size]
            at += size
            continue
        if kind == 1:
            size, back, more = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[at], 1
        else:
            more = 2 if kind == 2 else 4
            size, back = (tag >> 2) + 1, int.from_bytes(data[at : at + more], "little")
        at += more
        if not 0 < back <= len(out):
            raise ValueError("a packed block that copies what is not there")
        piece = bytes(out[len(out) - back : len(out) - back + size])
        out += (piece * (size // len(piece) + 1))[:size]
    if len(out) != length:
        raise ValueError(f"{len(out)} bytes unpacked where {length} were announced")
    return bytes(out)


# ---- checksums

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reversed
_LANES = 1024


def crc32c(data: Array) -> int:
    """CRC-32C of bytes (n,), many stretches of them side by side, two bytes at a time.

    >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)))
    '0xe3069283'
    """
    words = len(data) // (2 * _LANES)
    crc = 0xFFFFFFFF
    if words >= 16:
        table = _crc_table_of_words()
        lanes = np.zeros(_LANES, np.uint32)
        lanes[0] = crc
        together = 2 * words * _LANES
        for column in data[:together].view("<u2").reshape(_LANES, words).T:
            lanes = table[(lanes ^ column) & 0xFFFF] ^ (lanes >> np.uint32(16))
        crc = _concatenated(lanes, 2 * words)
        data = data[together:]
    plain = _plain_table()
    for byte in data.tobytes():
        crc = plain[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _concatenated(lanes: npt.NDArray[np.uint32], size: int) -> int:
    """The CRC of stretches of `size` bytes one after another, from that of each: neighbours are joined, two by two.

    A CRC is linear: that of ``a b`` is that of a followed by as many zeros as b has bytes, xor that of b.
    """
    shift = _zeros(size)
    while len(lanes) > 1:
        lanes = _applied(shift, lanes[0::2]) ^ lanes[1::2]
        shift = _applied(shift, shift)
    return int(lanes[0])


def _applied(matrix: npt.NDArray[np.uint32], values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A matrix over bits, given by its columns (32,), times each value."""
    bits = np.arange(32, dtype=np.uint32)
    chosen = (values[:, None] >> bits & np.uint32(1)).astype(bool)
    result: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(np.where(chosen, matrix, np.uint32(0)), axis=1)
    return result


def _zeros(count: int) -> npt.NDArray[np.uint32]:
    """What `count` zero bytes do to a CRC, as a matrix over bits."""
    power = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result = power
    step = _crc_table()[power & np.uint32(0xFF)] ^ (power >> np.uint32(8))
    while count:
        if count & 1:
            result = _applied(step, result)
        step = _applied(step, step)
        count >>= 1
    return result


@cache
def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0)) ^ (table >> np.uint32(1))
    return table


@cache
def _crc_table_of_words() -> npt.NDArray[np.uint32]:
    table, states = _crc_table(), np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        states = table[states & np.uint32(0xFF)] ^ (states >> np.uint32(8))
    return states


@cache
def _plain_table() -> tuple[int, ...]:
    return tuple(int(each) for each in _crc_table())


def masked(crc: int) -> int:
    """A checksum as these files keep it (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
