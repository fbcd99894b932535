"""Other numbers in the recurrent nodes of a model; its other nodes and tensors, and their bytes, stay as they are.

A weight that is an initializer of its own gets other numbers where it stands, in the file or in its external data. One
that stands behind other nodes, or that another node reads, too, becomes a new initializer, and the node is pointed to
it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge.arrays import same_bits
from lstmbridge.contract import ReadOptions
from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.onnx.graph import Found, Proto, Scope, recurrent_nodes
from lstmbridge.frameworks.onnx.layout import INPUTS, LAYOUTS
from lstmbridge.frameworks.onnx.reader import read_model, who
from lstmbridge.frameworks.onnx.tensors import CODES, SELF, Numbers, header
from lstmbridge.frameworks.onnx.wire import parse
from lstmbridge.frameworks.onnx.wirecopy import Edits, copy
from lstmbridge.frameworks.onnx.writer import value_info
from lstmbridge.layer import Layer

__all__ = ["put"]

#: Protobuf's limit for one file.
_LIMIT = (1 << 31) - (1 << 20)
_INITIALIZERS_ARE_INPUTS = 4  # below this IR version


def put(existing: Path, layers: Sequence[Layer], path: Path) -> tuple[str, ...]:
    """At `path`, the model `existing` with the weights of `layers`; notes on what is a new initializer now.

    Its external data is copied beside `path`, as NAME.data; the files of `existing` are not touched.

    Errors: Unsupported, naming the node, for a layer that is none (it was recovered from other nodes), for a node in a
    subgraph or function whose weights are not its own, and for data that lies outside the model's directory.
    """
    model = parse(existing)
    found, scopes = recurrent_nodes(model)
    nodes = {each.path: each for each in found}
    editor = _Editor(existing, model, scopes)
    for layer in layers:
        if layer.label not in nodes:
            raise Unsupported(
                f"{existing.name}: {layer.label!r} is no LSTM, GRU or RNN node, but recovered from other nodes",
                "its weights stand in several places there: put the layer into a model that has such a node",
            )
        for key, array in LAYOUTS[layer.spec.cell].pack(layer.weights, layer.spec).items():
            editor.put(nodes[layer.label], key, np.ascontiguousarray(array))
    editor.write(path)
    _check_written(path, layers)
    return tuple(editor.notes)


class _Editor:
    """What is to change in one model."""

    def __init__(self, existing: Path, model: Proto, scopes: Sequence[Scope]) -> None:
        self.existing, self.model, self.scopes = existing, model, scopes
        self.edits = Edits()
        self.notes: list[str] = []
        #: For each file of external data: where other bytes are to stand in it.
        self.stretches: dict[str, list[tuple[int, Numbers]]] = {}
        self.nodes = {name: n for n, node in enumerate(model.graph.node) for name in node.output if name}
        self.initializers = {tensor.name: n for n, tensor in enumerate(model.graph.initializer)}
        self.readers = Counter(name for scope in scopes for name in _names_read(scope))
        self.external = list(_external(scopes))
        self.names = {name for scope in scopes for name in (*scope.initializers, *scope.producers)} | {*self.readers}

    def put(self, found: Found, key: str, array: Numbers) -> None:
        """Notes that a node's input is to be that array. Errors: Unsupported where it cannot be."""
        name = found.input(INPUTS[key])
        tensor = self._own(found, name, array)
        if tensor is not None and _outside(tensor):
            location, offset, _ = _outside(tensor)[0]
            self.stretches.setdefault(location, []).append((offset, array))
        elif tensor is not None:
            self.edits.tensors[self.initializers[name]] = array
        elif found.scope is self.scopes[0]:
            self._add(found, key, name, array)
        else:
            raise Unsupported(
                f"{self.existing.name}: {who(found)} stands in a subgraph or function, and its {key} is not its own",
                "put the layer into a model that has the node in its main graph",
            )

    def write(self, path: Path) -> None:
        """The model at `path`, its external data beside it."""
        size = self.existing.stat().st_size + sum(array.nbytes for _, array in self.edits.more)
        if size > _LIMIT:
            raise Unsupported(f"{self.existing.name}: more than 2 GiB with its new initializers", "store them outside")
        locations = sorted({location for location, _, _ in self.external})
        if locations and any(scope.sparse for scope in self.scopes):
            raise Unsupported(f"{self.existing.name}: external data, and sparse tensors", "save it with dense ones")
        for number, location in enumerate(locations):
            new = self._beside(location, number, len(locations), path)
            source = _checked(self.existing, location)
            shutil.copyfile(source, path.with_name(new))
            with path.with_name(new).open("r+b") as file:
                for offset, array in self.stretches.get(location, ()):
                    file.seek(offset)
                    file.write(array.reshape(-1).view(np.uint8).data)
            if new != location:
                self.edits.locations[location] = new
        copy(self.existing, path, self.edits)

    def _beside(self, location: str, number: int, count: int, path: Path) -> str:
        """The name of a file of external data beside the copy: its own where the model keeps its name, else that's."""
        if path.name == self.existing.name and Path(location).name == location:
            return location
        return f"{path.name}.data" if count == 1 else f"{path.name}.{number}.data"

    def _own(self, found: Found, name: str, array: Numbers) -> Proto | None:
        """The main graph's initializer that is this input, and nothing else's; None if there is none."""
        origin = found.scope.origin(name)
        tensor = origin.tensor
        if tensor is None or origin.scope is not self.scopes[0] or origin.name != name or self.readers[name] != 1:
            return None
        alike = tensor.data_type == CODES[array.dtype.name] and tuple(tensor.dims) == array.shape
        return tensor if alike and not self._overlaps(tensor) else None

    def _overlaps(self, tensor: Proto) -> bool:
        """Whether another tensor has its numbers in the same stretch of a file."""
        for location, start, stop in _outside(tensor):
            same = [each for each in self.external if each[0] == location and each[1] < stop and start < each[2]]
            return len(same) > 1
        return False

    def _add(self, found: Found, key: str, name: str, array: Numbers) -> None:
        """Notes a new initializer, to which the node's input points."""
        new = base = f"{found.path}.{key}"
        number = 1
        while new in self.names:
            number += 1
            new = f"{base}_{number}"
        self.names.add(new)
        node = self.nodes[next(output for output in found.node.output if output)]
        self.edits.inputs.setdefault(node, {})[INPUTS[key]] = new
        self.edits.more.append((header(new, array.dtype.name, array.shape).SerializeToString(), array))
        if self.model.ir_version < _INITIALIZERS_ARE_INPUTS:
            info = value_info(new, array.dtype.name, array.shape)
            self.edits.declared.append(info.SerializeToString())
        why = "stands behind other nodes" if name not in self.initializers else "is not this node's alone"
        self.notes.append(f"{found.path}: {key} ({name!r}) {why}: the node now reads the new initializer {new!r}")


def _names_read(scope: Scope) -> Iterator[str]:
    """Every name that a graph's or function's nodes read, as often as they do, and those that leave it."""
    for node in scope.graph.node:
        yield from (name for name in node.input if name)
    yield from scope.outputs


def _external(scopes: Sequence[Scope]) -> Iterator[tuple[str, int, int]]:
    """Where each tensor that is stored outside the file stands: (location, start, stop)."""
    for scope in scopes:
        for tensor in scope.initializers.values():
            yield from _outside(tensor)
        for node in scope.graph.node:
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    yield from _outside(tensor)


def _outside(tensor: Any) -> list[tuple[str, int, int]]:
    """Where a tensor's numbers stand, if that is in another file."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location")
    if location is None or location == SELF:
        return []
    try:
        offset, length = int(said.get("offset") or 0), int(said.get("length") or 1 << 62)
    except ValueError as error:
        raise FileError(f"onnx tensor {tensor.name!r}: where its data is, is not a number", str(error)) from error
    return [(location, offset, offset + length)]


def _checked(existing: Path, location: str) -> Path:
    """The file of external data. Errors: FileError for one that is not there or elsewhere."""
    directory = existing.parent.resolve()
    file = (directory / location).resolve()
    if not file.is_relative_to(directory):
        raise FileError(f"{existing}: external data at {location!r}", "refused: it must lie in the model's directory")
    if not file.is_file():
        raise FileError(f"{existing}: external data at {location!r}", "expected a file beside the model")
    return file


def _check_written(path: Path, layers: Sequence[Layer]) -> None:
    """That the copy holds what it should. Errors: Unsupported, naming the weight that it does not."""
    written = {layer.label: layer for layer in read_model(parse(path), path, ReadOptions()).layers}
    for layer in layers:
        for name, array in layer.weights.items():
            if layer.label not in written or not same_bits(written[layer.label][name], array):
                raise Unsupported(f"{path.name}: {layer.label}: {name} cannot be written where it stands",
                                  "put the layer into a model that has it as a plain initializer")  # fmt: skip
