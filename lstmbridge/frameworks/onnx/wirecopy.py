"""A copy of an ``.onnx`` file in which a few fields are others; every other byte of it is the same.

The file is walked by its length prefixes: what changes is the numbers of some initializers, the names of some nodes'
inputs, more initializers at the end, where external data is, and the lengths around those. Unknown fields, their order
and their encoding stay as they are. Source: the field numbers in onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lstmbridge.frameworks.onnx.wire import INSIDE, encoded, tag
from lstmbridge.wire import Buffer, mapped, varint

__all__ = ["Edits", "copy"]

Numbers = npt.NDArray[np.generic]
Chunk = memoryview | bytes

_GRAPH, _NODE, _INITIALIZER, _GRAPH_INPUT, _NODE_INPUT = 7, 1, 5, 11, 1
_RAW_DATA, _EXTERNAL_DATA = 9, 13
#: The fields that hold a tensor's numbers, and those of them whose packed bytes are the numbers' own.
_PAYLOADS = frozenset({4, 5, 6, 7, 9, 10, 11})
_PLAIN_PAYLOADS = {4: "float32", 10: "float64", 9: ""}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(eq=False)
class Edits:
    """What is another in the copy.

    tensors    the numbers of the main graph's initializers, by their position
    inputs     the names of a node's inputs: position of the node in the main graph -> position of the input -> name
    more       further initializers: (TensorProto without numbers, serialised; its numbers)
    declared   further inputs of the main graph (ValueInfoProto, serialised)
    locations  new names for files of external data
    """

    tensors: dict[int, Numbers] = field(default_factory=dict)
    inputs: dict[int, dict[int, str]] = field(default_factory=dict)
    more: list[tuple[bytes, Numbers]] = field(default_factory=list)
    declared: list[bytes] = field(default_factory=list)
    locations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Field:
    """A field of a message: its number and wire type, where it begins, where its value begins and ends."""

    number: int
    wire: int
    start: int
    body: int
    stop: int


def copy(source: Path, target: Path, edits: Edits) -> None:
    """The file `source` at `target`, with `edits`. Errors: ValueError for bytes that are no message."""
    with target.open("wb") as out:
        for chunk in _Copy(mapped(source), edits).model():
            out.write(chunk)


class _Copy:
    """The pieces of the copy: views on the source, and what is new."""

    def __init__(self, data: Buffer, edits: Edits) -> None:
        self.data, self.edits = data, edits
        self.view = memoryview(data)
        self.nodes = self.initializers = 0

    def model(self) -> list[Chunk]:
        """The whole file. The main graph may be in several pieces, which protobuf reads as one."""
        every = list(self._fields(0, len(self.data)))
        graphs = [each for each in every if each.number == _GRAPH and each.wire == _BYTES]
        chunks: list[Chunk] = []
        for each in every:
            if each in graphs:
                last = [*self._more()] if each is graphs[-1] else []
                chunks += _enclosed(_GRAPH, [*self._graph(each), *last])
            else:
                chunks += self._relocated(each, "model")
        return chunks

    def _graph(self, graph: _Field) -> Iterator[Chunk]:
        for each in self._fields(graph.body, graph.stop):
            if each.number == _NODE:
                names = self.edits.inputs.get(self.nodes)
                self.nodes += 1
                yield from self._relocated(each, "graph") if names is None else self._node(each, names)
            elif each.number == _INITIALIZER:
                numbers = self.edits.tensors.get(self.initializers)
                self.initializers += 1
                yield from self._relocated(each, "graph") if numbers is None else self._tensor(each, numbers)
            else:
                yield from self._relocated(each, "graph")

    def _node(self, node: _Field, names: dict[int, str]) -> list[Chunk]:
        """A node, some of its inputs under other names."""
        position = -1
        chunks: list[Chunk] = []
        for each in self._fields(node.body, node.stop):
            position += each.number == _NODE_INPUT
            if each.number == _NODE_INPUT and position in names:
                chunks += _enclosed(_NODE_INPUT, [names[position].encode()])
            else:
                chunks += self._relocated(each, "node")
        return _enclosed(_NODE, chunks)

    def _tensor(self, tensor: _Field, numbers: Numbers) -> list[Chunk]:
        """An initializer with other numbers, in the field that they stand in where that has plain bytes."""
        chunks: list[Chunk] = []
        put = False
        for each in self._fields(tensor.body, tensor.stop):
            if each.number not in _PAYLOADS:
                chunks.append(self.view[each.start : each.stop])
            elif not put:
                plain = each.wire == _BYTES and _PLAIN_PAYLOADS.get(each.number) in ("", numbers.dtype.name)
                chunks += _enclosed(each.number if plain else _RAW_DATA, [_bytes(numbers)])
                put = True
        return _enclosed(_INITIALIZER, chunks if put else [*chunks, *_enclosed(_RAW_DATA, [_bytes(numbers)])])

    def _more(self) -> Iterator[Chunk]:
        for head, numbers in self.edits.more:
            yield from _enclosed(_INITIALIZER, [head, *_enclosed(_RAW_DATA, [_bytes(numbers)])])
        for info in self.edits.declared:
            yield from _enclosed(_GRAPH_INPUT, [info])

    def _relocated(self, each: _Field, kind: str) -> list[Chunk]:
        """A field of a message of that kind; tensors in it say where their external data is now."""
        inner = INSIDE[kind].get(each.number) if kind in INSIDE else None
        if not self.edits.locations or each.wire != _BYTES or (inner is None and kind != "tensor"):
            return [self.view[each.start : each.stop]]
        if kind == "tensor":
            return self._entry(each) if each.number == _EXTERNAL_DATA else [self.view[each.start : each.stop]]
        chunks = [chunk for one in self._fields(each.body, each.stop) for chunk in self._relocated(one, inner or "")]
        return _enclosed(each.number, chunks)

    def _entry(self, entry: _Field) -> list[Chunk]:
        """A pair of key and value."""
        said = {each.number: bytes(self.view[each.body : each.stop]) for each in self._fields(entry.body, entry.stop)}
        location = said.get(2, b"").decode("utf-8", "replace")
        new = self.edits.locations.get(location)
        if new is None or said.get(1) != b"location":
            return [self.view[entry.start : entry.stop]]
        return _enclosed(entry.number, [*_enclosed(1, [b"location"]), *_enclosed(2, [new.encode()])])

    def _fields(self, start: int, stop: int) -> Iterator[_Field]:
        at = start
        while at < stop:
            begin = at
            key, at = varint(self.data, at, stop)
            wire = key & 7
            if wire == _VARINT:
                _, end = varint(self.data, at, stop)
                body = at
            elif wire == _BYTES:
                length, body = varint(self.data, at, stop)
                end = body + length
            elif wire in (_FIXED64, _FIXED32):
                body, end = at, at + (8 if wire == _FIXED64 else 4)
            else:
                raise ValueError(f"a field of wire type {wire}, which is none")
            if end > stop:
                raise ValueError(f"a field that ends at {end}, where its message ends at {stop}")
            yield _Field(key >> 3, wire, begin, body, end)
            at = end


def _enclosed(number: int, chunks: list[Chunk]) -> list[Chunk]:
    """A field of that number with the chunks as its value."""
    return [tag(number) + encoded(sum(len(chunk) for chunk in chunks)), *chunks]


def _bytes(numbers: Numbers) -> memoryview:
    flat = np.ascontiguousarray(numbers).reshape(-1)
    return flat.view(np.uint8).data
