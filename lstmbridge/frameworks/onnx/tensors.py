"""From a TensorProto to numpy and back, with its numbers in any of the places where ONNX lets them be.

A tensor's numbers are raw bytes, or a typed list, or in another file beside the model (external data). A model that was
read by `wire.skim` has its large tensors marked as external data of the model's own file.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError, LayoutError, Unsupported
from lstmbridge.frameworks.onnx.messages import messages
from lstmbridge.mapped import LARGE, numbers

__all__ = ["CODES", "SELF", "array_of", "dtype_of", "fill", "header", "said_of", "stored_bytes"]

#: The codes of TensorProto.DataType.
CODES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
_NAMES = {code: name for name, code in CODES.items()}
#: The typed list that holds the numbers of each dtype; int32_data holds those that are not here.
_LISTS = {
    "float32": "float_data",
    "float64": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}
_EXTERNAL = 1

#: The location that means: the model's own file.
SELF = "//"

Numbers = npt.NDArray[Any]


def dtype_of(tensor: Any) -> np.dtype[Any]:
    """The tensor's dtype, little-endian as ONNX stores it. Errors: Unsupported for one that holds no plain numbers."""
    name = _NAMES.get(tensor.data_type)
    if name is None:
        kind = messages().TensorProto.DataType
        said = kind.Name(tensor.data_type) if tensor.data_type in kind.values() else str(tensor.data_type)
        raise Unsupported(
            f"onnx tensor {tensor.name!r} is of type {said}", f"expected a floating-point type: {_floats()}"
        )
    return _little(name)


def array_of(tensor: Any, file: Path | None = None) -> Numbers:
    """The numbers of a TensorProto; `file` is the model's, for external data, which is mapped in a large file.

    Errors: LayoutError if the shape and the amount of data contradict each other (nothing is allocated for a shape that
    has no data); FileError for external data that is not there or lies outside the model's directory.
    """
    dtype, shape = dtype_of(tensor), tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise LayoutError(f"onnx tensor {tensor.name!r} has shape {shape}", "expected no negative size")
    flat = _flat(tensor, file, dtype, math.prod(shape))
    try:
        return flat.reshape(shape)
    except ValueError as error:  # more axes, or larger ones beside an empty one, than an array can have
        raise LayoutError(f"onnx tensor {tensor.name!r} has {len(shape)} axes", f"found: {error}") from error


def _flat(tensor: Any, file: Path | None, dtype: np.dtype[Any], count: int) -> Numbers:
    """The numbers of a tensor, one after another."""
    if tensor.data_location == _EXTERNAL:
        return _external(tensor, file, dtype, count)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        _check_size(tensor, len(raw), count * dtype.itemsize, "bytes")
        return np.frombuffer(raw, dtype)
    return _typed(tensor, dtype, count)


def header(name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """A TensorProto without its numbers. Errors: Unsupported for a dtype that ONNX's layers do not have."""
    if dtype not in CODES or "float" not in dtype:
        raise Unsupported(f"onnx has no layer of {dtype} weights ({name})", f"expected {_floats()}: cast them first")
    tensor = messages().TensorProto(name=name, data_type=CODES[dtype])
    tensor.dims.extend(shape)
    return tensor


def fill(tensor: Any, array: Numbers) -> None:
    """Puts `array` into a TensorProto that has a name: its shape, its dtype and its numbers, in place of others."""
    fresh = header(tensor.name, array.dtype.name, array.shape)
    if tensor.doc_string:
        fresh.doc_string = tensor.doc_string
    tensor.CopyFrom(fresh)
    tensor.raw_data = np.ascontiguousarray(array).astype(_little(array.dtype.name), copy=False).tobytes()


def _floats() -> str:
    return ", ".join(name for name in CODES if "float" in name)


def _little(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(name)
    return dtype if sys.byteorder == "little" else np.dtype(dtype.newbyteorder("<"))


def _check_size(tensor: Any, found: int, expected: int, unit: str) -> None:
    if found != expected:
        raise LayoutError(
            f"onnx tensor {tensor.name!r}: {found} {unit} of data",
            f"expected {expected} for shape {tuple(tensor.dims)} of {_NAMES[tensor.data_type]}",
        )


def _typed(tensor: Any, dtype: np.dtype[Any], count: int) -> Numbers:
    """The numbers of the typed list. 16-bit floats stand there as the integers of their bits."""
    values = getattr(tensor, _LISTS.get(dtype.name, "int32_data"))
    _check_size(tensor, len(values), count, "numbers")
    try:
        if dtype.name in ("float16", "bfloat16"):
            return np.fromiter(values, np.uint16, count).view(dtype)
        return np.fromiter(values, dtype, count)
    except (OverflowError, ValueError) as error:
        raise LayoutError(f"onnx tensor {tensor.name!r}: numbers that no {dtype.name} can be", str(error)) from error


def said_of(tensor: Any) -> dict[str, str]:
    """What a tensor says about its external data. Errors: FileError for what is not text."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(text, str) for pair in said.items() for text in pair):
        raise FileError(f"onnx tensor {tensor.name!r}: where its data is, is not text (UTF-8)", "the file is damaged")
    return said


def stored_bytes(tensor: Any, file: Path | None) -> int:
    """How many bytes a tensor really takes, here or in the file that it names; none in one that is refused."""
    if file is None or tensor.data_location != _EXTERNAL:
        return int(tensor.ByteSize())
    said = said_of(tensor)
    try:
        outside = _beside(tensor, said.get("location", ""), file)
        size = outside.stat().st_size if outside.is_file() else 0
    except OSError:
        return 0
    length = said.get("length", "")
    return min(size, int(length)) if length.isdecimal() and len(length) < 20 else size


def _external(tensor: Any, model: Path | None, dtype: np.dtype[Any], count: int) -> Numbers:
    """The numbers in the file that the tensor names."""
    said = said_of(tensor)
    file = _beside(tensor, said.get("location", ""), model)
    try:
        offset = int(said.get("offset") or 0)
        length = int(said.get("length") or count * dtype.itemsize)
    except ValueError as error:
        raise FileError(f"onnx tensor {tensor.name!r}: where its data is, is not a number", str(error)) from error
    _check_size(tensor, length, count * dtype.itemsize, "bytes")
    try:
        if file.exists() and not file.is_file():
            raise FileError(f"{file}: the data of {tensor.name!r} is no file", "expected one in the model's directory")
        size = file.stat().st_size
        if offset < 0 or offset + length > size:
            raise FileError(
                f"{file}: {size} bytes; the data of {tensor.name!r} ends at {offset + length}",
                "the file was cut short, or belongs to another model",
            )
        with file.open("rb") as stream:
            if size >= LARGE and count:
                return numbers(stream.fileno(), dtype, count, offset)
            return np.fromfile(stream, dtype, count, offset=offset)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{file}: the data of {tensor.name!r} cannot be read", f"found: {error.strerror}") from error


def _beside(tensor: Any, location: str, model: Path | None) -> Path:
    """The file of that name in the model's own directory. Errors: FileError for one that is elsewhere."""
    if model is None:
        raise FileError(
            f"onnx tensor {tensor.name!r}: its data is in the file {location!r}, which was not loaded",
            "load the model with onnx.load(path), or give the path instead of the object",
        )
    if location == SELF:
        return model
    directory = model.parent.resolve()
    try:
        file = (directory / location).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
        place = f"{model}: the data of {tensor.name!r} is said to be at {location[:99]!r}"
        raise FileError(place, str(error)) from error
    if not location or not file.is_relative_to(directory):
        raise FileError(
            f"{model}: the data of {tensor.name!r} is said to be at {location!r}",
            "refused: external data must lie in the model's own directory",
        )
    return file
