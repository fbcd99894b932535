"""Named arrays in a ``.safetensors`` file: read as views on the mapped file, written one after another.

safetensors itself checks the header of what is read; it is mapped and written here, so that of a file larger than
memory there is one array at a time in memory, and bfloat16 is known without torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from lstmbridge import mapped
from lstmbridge.errors import FileError
from lstmbridge.mapped import Later
from lstmbridge.stored import Bytes, note

__all__ = ["load", "metadata", "overwrite", "save"]

#: In the order in which the library writes them, the widest first.
_DTYPES = {"U64": "uint64", "I64": "int64", "F64": "float64", "F32": "float32", "U32": "uint32", "I32": "int32",
           "BF16": "bfloat16", "F16": "float16", "U16": "uint16", "I16": "int16", "F8_E4M3": "float8_e4m3fn",
           "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip
_CODES = {name: code for code, name in _DTYPES.items()}
_PLACES = {name: place for place, name in enumerate(_CODES)}
_ALIGNMENT = 8


def load(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The arrays of a file, read-only views on its mapped bytes, and its metadata.

    Errors: FileError for a missing, truncated or foreign file, or a dtype that neither numpy nor ml_dtypes has.
    """
    header = _header(path)
    found = dict(header.pop("__metadata__", None) or {})
    data = mapped.whole(path)
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {name: note(name, _array(path, data, start, name, entry)) for name, entry in header.items()}
    return arrays, found


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, without its arrays; empty if it is not a readable ``.safetensors`` file."""
    try:
        return dict(_header(path).get("__metadata__") or {})
    except FileError:
        return {}


def _header(path: Path) -> dict[str, Any]:
    """The checked header: name -> {dtype, shape, data_offsets}."""
    try:
        with safe_open(str(path), framework="np"):  # checks sizes, offsets and overlaps against the file
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise FileError(f"{path}: not a readable .safetensors file", f"found: {reason}") from error
    return header


def _array(path: Path, data: Any, start: int, name: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise FileError(f"{path}: {name} has dtype {entry['dtype']}", f"expected one of {', '.join(_DTYPES)}")
    begin, _ = entry["data_offsets"]
    count = int(np.prod(entry["shape"], dtype=np.int64))
    if count == 0:
        return np.zeros(entry["shape"], numpy_dtype(dtype))
    flat = np.frombuffer(data, numpy_dtype(dtype), count, start + begin)
    return flat.reshape(entry["shape"])


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of that name, little-endian; bfloat16 and float8 are ml_dtypes'."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return small
    return np.dtype(name).newbyteorder("<")


def overwrite(path: Path, contents: Mapping[str, Bytes]) -> None:
    """Puts other numbers in the place of those that some of the file's tensors have; nothing else changes.

    contents  by name, the bytes of a tensor of the same shape and dtype. Errors: FileError for a name or size that the
    file has not.
    """
    header = _header(path)
    with path.open("r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        for name, content in contents.items():
            begin, end = header[name]["data_offsets"] if name in header else (0, -1)
            if end - begin != content.nbytes:
                raise FileError(f"{path}: {name} is not as it was read", f"expected {content.nbytes} bytes of it")
            file.seek(start + begin)
            file.write(content.data)


def save(
    arrays: Mapping[str, npt.NDArray[Any] | Later], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """A ``.safetensors`` file of those arrays, the same bytes that the library serialises them to.

    One that is `Later` is made when its turn comes, and let go after it. Errors: FileError for a dtype or a name that
    such a file cannot have; OSError where it cannot be written.
    """
    ready = {name: Later.of(array) for name, array in arrays.items()}
    strange = [f"{name} of {each.dtype}" for name, each in ready.items() if each.dtype not in _CODES]
    if strange:
        raise FileError(f"{path}: no .safetensors file holds {', '.join(strange)}", f"expected {', '.join(_CODES)}")
    in_order = sorted(ready, key=lambda name: (_PLACES[ready[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in in_order:
        shape, dtype = ready[name].shape, ready[name].dtype
        begin, end = end, end + math.prod(shape) * numpy_dtype(dtype).itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    with path.open("wb") as out:
        _write_header(header, path, out)
        for name in in_order:
            out.write(ready[name].content().data)
            mapped.forget()


def _write_header(header: Mapping[str, Any], path: Path, out: IO[bytes]) -> None:
    """Its length, and the header as JSON, with blanks up to a multiple of 8 bytes."""
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise FileError(f"{path}: a name that is no text", f"found: {error.object[error.start :][:20]!r}") from error
    padded = text + b" " * (-len(text) % _ALIGNMENT)
    out.write(len(padded).to_bytes(8, "little") + padded)
