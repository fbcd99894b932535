"""Models read and written without their large tensors passing through protobuf.

Protobuf parses and serialises in memory, with a copy of all numbers each time. A model is read here as a skeleton:
the file is walked by its length prefixes, and the raw bytes of each large tensor are left in the file, marked as its
external data. It is written from a skeleton too: the tensors' bytes go from their arrays straight into the file.

Source: protobuf's encoding (https://protobuf.dev/programming-guides/encoding) and the field numbers in onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lstmbridge.errors import FileError
from lstmbridge.frameworks.onnx.messages import messages
from lstmbridge.frameworks.onnx.tensors import SELF
from lstmbridge.mapped import Later, forget
from lstmbridge.wire import varint

__all__ = ["INSIDE", "LARGE", "encoded", "parse", "splice", "tag"]

#: Bytes: a smaller file is parsed as it is; so is, in a larger one, what is smaller than `LEFT`.
LARGE, LEFT = 1 << 20, 1 << 16
_DEPTH = 100

#: The messages inside a message that can hold tensors, by field number.
INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Buffer = Any


def parse(file: Path) -> Any:
    """The ModelProto of a file; each large tensor is marked as external data of the file itself (`tensors.SELF`).

    Errors: FileError for a file that cannot be read, was cut short, or is no ONNX model.
    """
    from google.protobuf.message import DecodeError

    try:
        model = messages().ModelProto.FromString(_skim(file))
    except (DecodeError, ValueError) as error:
        raise FileError(f"{file} is not an ONNX model, or was cut short", f"found: {error}") from error
    except OSError as error:
        raise FileError(f"{file} cannot be read", f"found: {error.strerror or error}") from error
    if model.HasField("graph") and (model.ir_version or len(model.opset_import)):
        return model
    raise FileError(f"{file} is not an ONNX model", "expected a ModelProto with a graph; was it renamed, or cut short?")


def splice(model: Any, tensors: Iterable[tuple[Any, int]], arrays: Iterable[Later], out: BinaryIO) -> None:
    """Writes `model` with `tensors` as more initializers of its graph; their numbers come from `arrays` one by one.

    model    a ModelProto, complete but for these
    tensors  (TensorProto without data, bytes of its data) for each initializer
    arrays   their numbers in the same order; each is made only when its turn comes
    """
    graph = model.graph.SerializeToString(deterministic=True)
    heads = [_head(tensor, size) for tensor, size in tensors]
    rest = messages().ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    length = len(graph) + sum(len(head) + size for head, size in heads)
    out.write(rest.SerializeToString(deterministic=True) + tag(_GRAPH) + encoded(length) + graph)
    for (head, size), array in zip(heads, arrays, strict=True):
        out.write(head)
        if out.write(array.content().data) != size:
            raise ValueError(f"not the {size} bytes that were announced")
        forget()


def _skim(file: Path) -> bytes:
    size = file.stat().st_size
    if size < LARGE:
        return file.read_bytes()
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return b"".join(_pieces(data, "model", 0, size, 0))


def _pieces(data: Buffer, kind: str, start: int, end: int, depth: int) -> Iterator[bytes]:
    """The bytes of one message, its large tensors' numbers replaced by marks."""
    if depth > _DEPTH:
        raise ValueError(f"messages nested deeper than {_DEPTH}")
    at = plain = start
    while at < end:
        field = at
        key, at = varint(data, at, end)
        number, wire = key >> 3, key & 7
        length, body = _length(data, wire, at, end)
        at = body + length
        if at > end:
            raise ValueError(f"a field of {length} bytes where {end - body} are left")
        if wire != _BYTES or length < min(LARGE, LEFT):
            continue
        if kind == "tensor" and number == _RAW_DATA:
            inside = _marks(body, length)
        elif number in INSIDE[kind]:
            inner = b"".join(_pieces(data, INSIDE[kind][number], body, at, depth + 1))
            inside = tag(number) + encoded(len(inner)) + inner
        else:
            continue
        yield data[plain:field]
        yield inside
        plain = at
    yield data[plain:end]


def _length(data: Buffer, wire: int, at: int, end: int) -> tuple[int, int]:
    """How many bytes a field's value has, and where they begin."""
    if wire == _BYTES:
        return varint(data, at, end)
    if wire == _VARINT:
        return varint(data, at, end)[1] - at, at
    if wire in (_FIXED64, _FIXED32):
        return (8 if wire == _FIXED64 else 4), at
    raise ValueError(f"a field of wire type {wire}, which is none")


def _marks(offset: int, length: int) -> bytes:
    tensor = messages().TensorProto(data_location=messages().TensorProto.EXTERNAL)
    for key, value in (("location", SELF), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return bytes(tensor.SerializeToString())


def _head(tensor: Any, size: int) -> tuple[bytes, int]:
    """What stands before a tensor's numbers in a graph, and how many bytes they are."""
    said = tensor.SerializeToString(deterministic=True) + tag(_RAW_DATA) + encoded(size)
    return tag(_INITIALIZER) + encoded(len(said) + size) + said, size


def tag(number: int) -> bytes:
    """What stands before a field of bytes: its number and wire type."""
    return encoded(number << 3 | _BYTES)


def encoded(value: int) -> bytes:
    """A number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
