"""The zip archives that torch writes: small members read whole, the bytes of tensors as views on the mapped file."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError
from lstmbridge.mapped import whole
from lstmbridge.stored import note

__all__ = ["Zip"]

#: What may be unpacked from a compressed archive: so much in any case, and so many times its size.
_UNPACKED, _TIMES = 1 << 24, 4


class Zip:
    """An archive whose members stand in one folder; here each goes by its name without that folder.

    The views that `numbers` gives outlive it. Errors: those of `zipfile`, and FileError for an archive that is
    encrypted, or unpacks to far more than it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._left = _UNPACKED + _TIMES * self.size
        self._unpacked: dict[str, bytes] = {}
        self._swapped: dict[tuple[str, str], npt.NDArray[Any]] = {}
        self._archive = zipfile.ZipFile(path)
        self._members = {_inner(member.filename): member for member in self._archive.infolist()}
        self._mapped = whole(path)
        self.big_endian = "byteorder" in self and self.content("byteorder") == b"big"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._members)

    def size_of(self, name: str) -> int:
        """How many bytes a member has."""
        return self._member(name).file_size

    def content(self, name: str) -> bytes:
        """A whole member."""
        member = self._member(name)
        if name not in self._unpacked:
            self._left -= member.file_size
            if self._left < 0:
                raise FileError(
                    f"{self.path}: unpacks to more than {_TIMES} times its size",
                    f"found: {name}, of {member.file_size} bytes",
                    "unpack it, and pack it again without compression (zip -0)",
                )
            self._unpacked[name] = self._read(member)
        return self._unpacked[name]

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        """A member's bytes, held against its checksum; 0 is none (torch.serialization.set_crc32_options)."""
        if member.CRC or member.compress_type != zipfile.ZIP_STORED:
            return self._archive.read(member)
        start = self._start(member)
        found = bytes(self._mapped[start : start + member.file_size])
        if len(found) < member.file_size:
            raise ValueError(f"{member.filename} is not whole")
        return found

    def numbers(self, name: str, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """`count` numbers from the beginning of a member, read-only. Errors: ValueError if it has fewer."""
        member = self._member(name)
        if not 0 <= count * dtype.itemsize <= member.file_size:
            raise ValueError(f"{name} has {member.file_size} bytes, for {count} numbers of {dtype}")
        if count == 0:
            return np.empty(0, dtype)
        if member.compress_type != zipfile.ZIP_STORED:
            found = np.frombuffer(self.content(name), dtype, count)
        else:
            found = np.frombuffer(self._mapped, dtype, count, self._start(member))
        return note(name, self._in_order(found, (name, dtype.name)) if self.big_endian else found)

    def _in_order(self, found: npt.NDArray[Any], key: tuple[str, str]) -> npt.NDArray[Any]:
        """The numbers of a big-endian machine, in the order of bytes of every other, made once."""
        if key not in self._swapped:
            self._swapped[key] = found.byteswap()
            self._swapped[key].flags.writeable = False
        return self._swapped[key]

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise FileError(f"{self.path}: {name} is missing from the archive", "it is damaged, or not torch's")
        member = self._members[name]
        if member.flag_bits & 1:
            raise FileError(f"{self.path}: {name} is encrypted", "unpack it with its password, and pack it again")
        return member

    def _start(self, member: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin: after its own header, whose size stands in it."""
        name, extra = struct.unpack_from("<HH", self._mapped, member.header_offset + 26)
        return int(member.header_offset + 30 + name + extra)


def _inner(name: str) -> str:
    folder, _, inner = name.partition("/")
    return inner or folder
