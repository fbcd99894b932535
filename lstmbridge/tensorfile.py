"""Named arrays in a ``.safetensors`` file: read as views on the mapped file, written straight from memory.

safetensors itself checks the header and writes; the numbers are mapped here, so that a file larger than memory can be
read one array at a time, and bfloat16 is known without torch.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from lstmbridge.errors import FileError

__all__ = ["load", "metadata", "save"]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
           "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
           "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip


def load(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The arrays of a file, read-only views on its mapped bytes, and its metadata.

    Errors: FileError for a missing, truncated or foreign file, or a dtype that neither numpy nor ml_dtypes has.
    """
    header = _header(path)
    found = dict(header.pop("__metadata__", None) or {})
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    arrays = {name: _array(path, mapped, start, name, entry) for name, entry in header.items()}
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


def _array(path: Path, mapped: mmap.mmap, start: int, name: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise FileError(f"{path}: {name} has dtype {entry['dtype']}", f"expected one of {', '.join(_DTYPES)}")
    begin, _ = entry["data_offsets"]
    count = int(np.prod(entry["shape"], dtype=np.int64))
    if count == 0:
        return np.zeros(entry["shape"], numpy_dtype(dtype))
    flat = np.frombuffer(mapped, numpy_dtype(dtype), count, start + begin)
    return flat.reshape(entry["shape"])


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of that name, little-endian; bfloat16 and float8 are ml_dtypes'."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return small
    return np.dtype(name).newbyteorder("<")


def save(arrays: Mapping[str, npt.NDArray[Any]], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """A ``.safetensors`` file of those arrays, written from their own memory where they are contiguous."""
    ready = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    specs = {
        name: TensorSpec(
            dtype=array.dtype.name, shape=arrays[name].shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in ready.items()
    }
    serialize_file(specs, str(path), metadata=dict(metadata) if metadata else None)
