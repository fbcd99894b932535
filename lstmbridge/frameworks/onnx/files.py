"""``.onnx`` files, read and written without the package `onnx` itself and without copies of their large tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.onnx.patch import put
from lstmbridge.frameworks.onnx.reader import read_model
from lstmbridge.frameworks.onnx.wire import parse, splice
from lstmbridge.frameworks.onnx.writer import Draft, draft
from lstmbridge.layer import Layer
from lstmbridge.mapped import forget

__all__ = ["patch", "read", "write"]

#: Protobuf's limit for one file; a larger model has its weights in a file of their own.
LIMIT = (1 << 31) - (1 << 20)
#: Where arrays begin in external data: at pages of memory, so that runtimes can map them.
_PAGE = 4096


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of an ``.onnx`` file; of its large tensors only theirs are read."""
    return read_model(parse(path), path, options)


def patch(existing: Path, layers: Sequence[Layer], path: Path, options: ReadOptions) -> tuple[str, ...]:
    """The model `existing` at `path`, with the weights of `layers`: `lstmbridge.frameworks.onnx.patch`."""
    return put(existing, layers, path)


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """A complete model at `path`; with external data (or above 2 GiB in any case) its weights at `path` + ".data"."""
    made = draft(targets, options)
    if options.external_data or made.nbytes > LIMIT:
        _write_external(made, path)
        return
    with path.open("wb") as out:
        splice(made.model, made.tensors, made.arrays(), out)


def _write_external(made: Draft, path: Path) -> None:
    data = path.with_name(f"{path.name}.data")
    offset = 0
    with data.open("wb") as out:
        for (tensor, size), array in zip(made.tensors, made.arrays(), strict=True):
            offset += -offset % _PAGE
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", data.name), ("offset", offset), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            out.seek(offset)
            out.write(array.content().data)
            forget()
            offset += size
    made.model.graph.initializer.extend(tensor for tensor, _ in made.tensors)
    path.write_bytes(made.model.SerializeToString(deterministic=True))
