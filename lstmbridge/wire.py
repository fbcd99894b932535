"""Protobuf's encoding, read without the messages' classes: fields by number, straight from a file's mapped bytes.

A message is a stretch of bytes; what is nested in it is a stretch of the same bytes. So a graph of gigabytes costs as
much as what is asked of it. Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lstmbridge.errors import BridgeError, FileError
from lstmbridge.mapped import whole

__all__ = ["Buffer", "Message", "mapped", "readable", "varint"]

Buffer = bytes | mmap.mmap

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}


def varint(data: Buffer, at: int, stop: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Errors: ValueError if it does not end before `stop`."""
    value = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number that does not end")


class Message:
    """One message: its fields by number, each in the order of the file.

    `start` and `stop` are where it stands in `data`. A field is an int, or the (start, stop) of its bytes. Errors:
    ValueError for bytes that are no message.

    >>> inner = Message(b"\\x12\\x03\\x08\\x96\\x01").message(2)
    >>> inner.number(1), inner.text(7)
    (150, '')
    """

    def __init__(self, data: Buffer, start: int = 0, stop: int | None = None) -> None:
        self.data, self.start, self.stop = data, start, len(data) if stop is None else stop
        self._fields: dict[int, list[int | tuple[int, int]]] | None = None

    @property
    def fields(self) -> dict[int, list[int | tuple[int, int]]]:
        """Every field's values; those of nested messages are not looked at."""
        if self._fields is None:
            self._fields = {}
            for number, value in self._walk():
                self._fields.setdefault(number, []).append(value)
        return self._fields

    def spans(self, field: int) -> list[tuple[int, int]]:
        """Where the bytes of a field stand, one entry an occurrence."""
        return [value for value in self.fields.get(field, ()) if isinstance(value, tuple)]

    def number(self, field: int, default: int = 0) -> int:
        """The number in a field, the last one if there are several."""
        found = [value for value in self.fields.get(field, ()) if isinstance(value, int)]
        return found[-1] if found else default

    def signed(self, field: int, default: int = 0) -> int:
        """The number in a field, its 64 bits with a sign."""
        value = self.number(field, default)
        return value - (1 << 64) if value >= 1 << 63 else value

    def float32(self, field: int, default: float = 0.0) -> float:
        """The 32 bits of a field as a float."""
        if field not in self.fields:
            return default
        return float(struct.unpack("<f", (self.number(field) & 0xFFFFFFFF).to_bytes(4, "little"))[0])

    def numbers(self, field: int) -> list[int]:
        """Every number of a repeated field, packed or one by one."""
        found: list[int] = []
        for value in self.fields.get(field, ()):
            if isinstance(value, int):
                found.append(value)
                continue
            at, stop = value
            while at < stop:
                number, at = varint(self.data, at, stop)
                found.append(number)
        return found

    def raw(self, field: int) -> bytes:
        """The bytes of a field, none if it is not there."""
        spans = self.spans(field)
        return bytes(self.data[slice(*spans[-1])]) if spans else b""

    def text(self, field: int) -> str:
        """The text in a field, empty if it is not there."""
        return self.raw(field).decode("utf-8", "replace")

    def texts(self, field: int) -> list[str]:
        """Every text of a repeated field."""
        return [bytes(self.data[slice(*span)]).decode("utf-8", "replace") for span in self.spans(field)]

    def message(self, field: int) -> Message:
        """The message in a field; one without fields if it is not there."""
        return Message(self.data, *(self.spans(field) or [(0, 0)])[-1])

    def messages(self, field: int) -> Iterator[Message]:
        """Every message of a repeated field."""
        return (Message(self.data, *span) for span in self.spans(field))

    def entries(self, field: int) -> dict[str, Message]:
        """A map of messages by text."""
        return {entry.text(1): entry.message(2) for entry in self.messages(field)}

    def _walk(self) -> Iterator[tuple[int, int | tuple[int, int]]]:
        data, at, stop = self.data, self.start, self.stop
        while at < stop:
            tag, at = varint(data, at, stop)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = varint(data, at, stop)
                yield number, value
                continue
            if wire != _BYTES and wire not in _WIDTH:
                raise ValueError(f"a field of wire type {wire}, which is none")
            length, at = varint(data, at, stop) if wire == _BYTES else (_WIDTH[wire], at)
            if length > stop - at:
                raise ValueError(f"a field of {length} bytes where {stop - at} are left")
            span = (at, at + length)
            yield number, span if wire == _BYTES else int.from_bytes(data[slice(*span)], "little")
            at += length


def mapped(path: Path) -> Buffer:
    """The bytes of a file, mapped into memory."""
    return whole(path) if path.stat().st_size else b""


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into a FileError that names it."""
    try:
        yield
    except BridgeError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{error.filename or path}: no such file", f"needed for {path.name}") from error
    except PermissionError as error:
        raise FileError(f"{error.filename or path}: no permission to read it") from error
    except _DAMAGE as error:
        reason = f"found: {error or type(error).__name__}".splitlines()[0]
        raise FileError(f"{path}: not a readable {kind}: truncated, damaged, or of another format", reason) from error


#: What code that trusts its input runs into when it should not have.
_DAMAGE = (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, MemoryError, RecursionError)
