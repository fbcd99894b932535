"""A copy of a zip archive in which the content of some members is another.

Where those members are stored as they are and keep their size (torch's and Keras' archives), nothing in the copy
changes but their bytes and checksums: headers, order, padding and every other member are the same bytes. Source:
APPNOTE.TXT of PKWARE (section 4.3).
"""

from __future__ import annotations

import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError

__all__ = ["ZIP_ERRORS", "Content", "replaced"]

#: What a member is to hold: bytes, or a file of them.
Content = npt.NDArray[np.uint8] | bytes | Path

_CHUNK = 1 << 20
_DESCRIPTOR = 1 << 3  # bit 3 of a member's flags: size and checksum stand behind the data
_SIGNATURE = b"PK\x07\x08"
_ALIGNMENT = 64  # torch's: the bytes of a storage begin at a multiple of it

#: Whatever zipfile and the decompressors behind it raise for an archive that is damaged.
ZIP_ERRORS = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError),
    *(struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)


def replaced(source: Path, target: Path, contents: Mapping[str, Content]) -> None:
    """The archive `source` at `target`, with the members of those names holding `contents`.

    Errors: FileError for an archive that is damaged or has no such member.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if all(_fits(members[name], content) for name, content in contents.items()):
                shutil.copyfile(source, target)
                _overwrite(archive, target, contents)
            else:
                _rewrite(archive, target, contents)
    except KeyError as error:
        raise FileError(f"{source}: no member {error} in it", "the archive has changed since it was read") from error
    except FileError:
        raise
    except ZIP_ERRORS as error:
        raise FileError(f"{source}: not a readable zip archive", f"found: {error}") from error


def _fits(member: zipfile.ZipInfo, content: Content) -> bool:
    return member.compress_type == zipfile.ZIP_STORED and member.file_size == _size(content)


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _chunks(content: Content) -> Iterator[bytes | memoryview]:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    else:
        data = memoryview(content) if isinstance(content, bytes) else content.data
        yield from (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


# ---- in place


def _overwrite(archive: zipfile.ZipFile, target: Path, contents: Mapping[str, Content]) -> None:
    """Puts bytes of the same number in the place of those that `target`, a copy of `archive`, has."""
    last = {info.filename: n for n, info in enumerate(archive.infolist())}
    entries = dict(_entries(archive, target))
    with target.open("r+b") as file:
        for name, content in contents.items():
            member = archive.infolist()[last[name]]
            start = _start(file, member)
            file.seek(start)
            checksum = 0
            for chunk in _chunks(content):
                file.write(chunk)
                checksum = zlib.crc32(chunk, checksum)
            _put_checksum(file, entries[last[name]] + 16, member, checksum)
            if not member.flag_bits & _DESCRIPTOR or _read(file, member.header_offset + 14, 4) == _packed(member.CRC):
                _put_checksum(file, member.header_offset + 14, member, checksum)
            if member.flag_bits & _DESCRIPTOR:
                behind = start + member.file_size
                signed = _read(file, behind, 4) == _SIGNATURE
                _put_checksum(file, behind + 4 * signed, member, checksum)


def _entries(archive: zipfile.ZipFile, file: Path) -> Iterator[tuple[int, int]]:
    """Where the central directory has each member: (its number, the position of its entry)."""
    at = archive.start_dir
    with file.open("rb") as stream:
        for number, _ in enumerate(archive.infolist()):
            head = _read(stream, at, 46)
            if head[:4] != b"PK\x01\x02":
                raise ValueError("its directory is not where it should be")
            yield number, at
            at += 46 + sum(struct.unpack_from("<3H", head, 28))


def _start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its own header, whose size stands in it."""
    name, extra = struct.unpack("<HH", _read(file, member.header_offset + 26, 4))
    return int(member.header_offset + 30 + name + extra)


def _read(file: IO[bytes], at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _put_checksum(file: IO[bytes], at: int, member: zipfile.ZipInfo, checksum: int) -> None:
    """Puts a checksum where the old one stands. Errors: ValueError if it does not."""
    if _read(file, at, 4) != _packed(member.CRC):
        raise ValueError(f"the checksum of {member.filename} is not where it should be")
    file.seek(at)
    file.write(_packed(checksum))


def _packed(checksum: int) -> bytes:
    return struct.pack("<L", checksum)


# ---- anew, where a packed member changes its size


def _rewrite(archive: zipfile.ZipFile, target: Path, contents: Mapping[str, Content]) -> None:
    """Every member anew, in order, packed as it was; the content of all others is the same."""
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as copy:
        copy.comment = archive.comment
        for member in archive.infolist():
            content = contents.get(member.filename)
            size = member.file_size if content is None else _size(content)
            with copy.open(_like(member, size, archive, file.tell()), "w", force_zip64=size > 1 << 31) as out:
                if content is None:
                    with archive.open(member) as kept:
                        shutil.copyfileobj(kept, out, _CHUNK)
                else:
                    for chunk in _chunks(content):
                        out.write(chunk)


def _like(member: zipfile.ZipInfo, size: int, archive: zipfile.ZipFile, at: int) -> zipfile.ZipInfo:
    """A member of the same name, date, attributes and packing, its bytes aligned if they were."""
    info = zipfile.ZipInfo(member.filename, member.date_time)
    info.compress_type, info.file_size = member.compress_type, size
    info.comment, info.create_system, info.external_attr = member.comment, member.create_system, member.external_attr
    assert archive.fp is not None
    aligned = _start(archive.fp, member) % _ALIGNMENT == 0
    if aligned and member.compress_type == zipfile.ZIP_STORED and size <= 1 << 31:
        padding = -(at + 30 + len(info.filename.encode()) + 4) % _ALIGNMENT
        info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info
