"""Named arrays in ``.npz`` and ``.npy`` files, without trusting them: no pickles, no size that is not in the file.

The arrays of a large file are views on its mapped bytes, unless they are packed.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError
from lstmbridge.mapped import LARGE, numbers
from lstmbridge.zipcopy import ZIP_ERRORS

__all__ = ["load", "load_directory"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MANY = 100_000  # files in a directory


def load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz`` file by name, read-only, each held against its checksum. Errors: FileError."""
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {member.filename.removesuffix(".npy"): _member(archive, raw, member) for member in members}
    except ZIP_ERRORS as error:
        raise FileError(f"{path}: not a readable .npz file", f"found: {error}") from error


def load_directory(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The ``.npy`` files in and below a directory, mapped, by their paths without the suffix: ``encoder/kernel``.

    Links are not followed. Errors: FileError for one that is no array file, or for no file at all.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            if name.endswith(".npy") and not file.is_symlink():
                arrays[file.relative_to(path).as_posix().removesuffix(".npy")] = _mapped(file)
        if len(arrays) > _MANY:
            raise FileError(f"{path}: more than {_MANY} .npy files", "give the directory of one model")
    if not arrays:
        raise FileError(f"{path}: no .npy file in it", "expected a directory of .npy files")
    return arrays


def _member(archive: zipfile.ZipFile, raw: IO[bytes], member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array; nothing is allocated before its size is known to be in the file. Errors: ValueError."""
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file, member.filename, member.file_size)
        size = math.prod(shape) * dtype.itemsize
        large = os.fstat(raw.fileno()).st_size >= LARGE
        if large and size and member.compress_type == zipfile.ZIP_STORED:
            at = file.tell()
            if at + size > member.file_size:
                raise ValueError(f"{member.filename} is not whole")
            while file.read(LARGE):  # to its end, where the checksum is checked
                pass
            flat = numbers(raw.fileno(), dtype, math.prod(shape), _start(raw, member) + at)
            return flat.reshape(shape, order="F" if fortran else "C")
    with archive.open(member) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    found.flags.writeable = False
    return found


def _start(raw: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its own header, whose size stands in it."""
    raw.seek(member.header_offset + 26)
    name, extra = struct.unpack("<HH", raw.read(4))
    return int(member.header_offset + 30 + name + extra)


def _header(file: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The checked header: shape, Fortran order, dtype. Errors: ValueError."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} has version {version}")
    try:
        shape, fortran, dtype = _HEADERS[version](file)
    except (SyntaxError, tokenize.TokenError) as error:  # numpy takes a header that is no literal for one of Python 2
        raise ValueError(f"{name} has a header that is no dict") from error
    count = math.prod(shape)
    if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize > size:
        raise ValueError(f"{name} says {count} numbers of {dtype} in {size} bytes")
    return shape, fortran, dtype


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file, path.name, path.stat().st_size)
            if math.prod(shape) == 0:
                return np.zeros(shape, dtype)
            flat = numbers(file.fileno(), dtype, math.prod(shape), file.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except ZIP_ERRORS as error:
        raise FileError(f"{path}: not a readable .npy file", f"found: {error}") from error
