"""A TensorFlow graph as nodes and constants, walked in its file; nothing in it is executed.

Sources: tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto,
tensorflow/core/protobuf/{meta_graph,saved_model}.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.bundle import DTYPES, shape_of
from lstmbridge.errors import FileError, Unsupported
from lstmbridge.tensorfile import numpy_dtype
from lstmbridge.wire import Message, mapped, readable

__all__ = ["Graph", "Node", "Ref", "array_of", "open_graph", "open_meta", "open_saved_model"]

Array = npt.NDArray[Any]
#: One output of a node: its name, and which.
Ref = tuple[str, int]

# The numbers of the fields.
_GRAPH_NODE, _GRAPH_LIBRARY = 1, 2
_NAME, _OP, _INPUT, _ATTR = 1, 2, 3, 5
_ATTR_INT, _ATTR_FLOAT, _ATTR_BOOL, _ATTR_TYPE, _ATTR_TENSOR = 3, 4, 5, 6, 8
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT = 1, 2, 4
_META_GRAPH, _SAVED_META = 2, 2
#: The lists in which a tensor may have its numbers, and their dtype as the list has them.
_LISTS: Mapping[str, tuple[int, str]] = {"float32": (5, "float32"), "float64": (6, "float64"), "float16": (13, "bits"),
                                         "bfloat16": (13, "bits"), "int64": (10, "int"), "bool": (11, "int"),
                                         "int32": (7, "int"), "int16": (7, "int"), "int8": (7, "int"),
                                         "uint8": (7, "int")}  # fmt: skip

#: Operators that give what they are given.
_SAME = ("Identity", "Enter", "RefEnter", "ReadVariableOp", "StopGradient", "Snapshot")
_VARIABLES = ("Const", "Variable", "VariableV2", "VarHandleOp")
#: A constant whose file says fewer numbers than it has is small, or is not made; so is one that must be read in Python.
_SMALL = 1 << 20
#: How many operators that give what they are given may stand one after another.
_FAR = 64


@dataclass(frozen=True, eq=False)
class Node:
    """One node: its operator, and what goes in."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    message: Message

    @cached_property
    def attributes(self) -> dict[str, Message]:
        """Its attributes."""
        return self.message.entries(_ATTR)

    def flag(self, name: str) -> bool:
        """An attribute that is true or false; false if it is not there."""
        return name in self.attributes and bool(self.attributes[name].number(_ATTR_BOOL))

    def whole(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return self.attributes[name].signed(_ATTR_INT) if name in self.attributes else default

    def real(self, name: str, default: float) -> float:
        """An attribute that is a number; one of zero is stored as nothing."""
        return self.attributes[name].float32(_ATTR_FLOAT) if name in self.attributes else default


class Graph:
    """The nodes of a graph by name, who reads them, and its constants.

    Errors: FileError for a file that is no graph, when it is opened or when a damaged part is asked for.
    """

    def __init__(self, message: Message, file: Path) -> None:
        self.file = file
        self.nodes: dict[str, Node] = {}
        for each in message.messages(_GRAPH_NODE):
            node = Node(each.text(_NAME), each.text(_OP), tuple(_refs(each.texts(_INPUT))), each)
            self.nodes[node.name] = node
        self.parts: dict[str, tuple[tuple[str, ...], int]] = {}
        self.functions = len(message.message(_GRAPH_LIBRARY).spans(1))

    @cached_property
    def readers(self) -> dict[Ref, list[Node]]:
        """The nodes that an output goes into, also through operators that give what they are given."""
        found: dict[Ref, list[Node]] = {}
        for node in self.nodes.values():
            for ref in dict.fromkeys(node.inputs):
                found.setdefault(ref, []).append(node)
        return found

    def of(self, ref: Ref) -> Node | None:
        """The node of an output."""
        return self.nodes.get(ref[0])

    def source(self, ref: Ref) -> Ref:
        """Where an output comes from, through operators that give what they are given."""
        for _ in range(_FAR):
            node = self.of(ref)
            if node is None or node.op not in _SAME or not node.inputs:
                return ref
            ref = node.inputs[0]
        return ref

    def weight(self, ref: Ref) -> str | None:
        """The name of the constant or variable that an output is; None if it is computed.

        A partitioned variable has the name that its parts (``kernel/part_0``) have in common, and is noted in `parts`.
        """
        node = self.of(self.source(ref))
        if node is None or node.op in _VARIABLES:
            return None if node is None else node.name
        return self._partitioned(node) if node.op == "ConcatV2" else None

    def _partitioned(self, node: Node) -> str | None:
        parts = [self.of(self.source(ref)) for ref in node.inputs[:-1]]
        names = [part.name for part in parts if part is not None and part.op in _VARIABLES]
        whole = {name.rpartition("/part_")[0] for name in names}
        if len(names) < len(parts) or len(whole) != 1 or not all(whole):
            return None
        [name] = whole
        axis = self.scalar(node.inputs[-1])
        self.parts[name] = (tuple(names), int(axis or 0))
        return name

    # ---- constants

    def weights(self) -> tuple[str, ...]:
        """The constants of floating-point numbers that are no scalars."""
        return tuple(
            node.name
            for node in self.nodes.values()
            if node.op == "Const" and _is_float(node) and self.constant_shape(node.name)
        )

    def is_constant(self, name: str) -> bool:
        """Whether a weight is a constant, and no variable."""
        first = self.parts[name][0][0] if name in self.parts else name
        return self.nodes[first].op == "Const"

    def constant_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant. Errors: FileError."""
        with readable(self.file, f"graph (the constant {name!r})"):
            shape = shape_of(self._tensor(name).message(_TENSOR_SHAPE))
            if min(shape, default=0) < 0:
                raise ValueError(f"shape {shape}")
            return shape

    def constant(self, name: str) -> Array:
        """The numbers of a constant: a view on the mapped file where they stand there as bytes. Errors: FileError."""
        if name in self.parts:
            with readable(self.file, f"graph (the constant {name!r})"):
                names, axis = self.parts[name]
                return np.concatenate([self.constant(part) for part in names], axis)
        shape = self.constant_shape(name)
        with readable(self.file, f"graph (the constant {name!r})"):
            return array_of(self._tensor(name), shape)

    def scalar(self, ref: Ref) -> float | None:
        """The number that an output is, if it is a constant of just one."""
        name = self.weight(ref)
        node = self.nodes.get(name) if name is not None else None
        if node is None or node.op != "Const" or math.prod(self.constant_shape(node.name)) != 1:
            return None
        return float(self.constant(node.name).reshape(()))

    def _tensor(self, name: str) -> Message:
        node = self.nodes.get(name)
        if node is None or "value" not in node.attributes:
            raise FileError(f"{self.file}: no constant {name!r}", "expected a frozen graph")
        return node.attributes["value"].message(_ATTR_TENSOR)

    # ---- what it says where nothing was found

    def expect_understood(self) -> None:
        """Nothing, unless the graph has recurrent operators that are not understood. Errors: Unsupported, FileError."""
        opaque = [node for node in self.nodes.values() if node.op.startswith("CudnnRNN")]
        if opaque:
            raise Unsupported(
                f"{self.file}: {opaque[0].name} is a {opaque[0].op}: its weights are one vector in cuDNN's own layout",
                "restore the checkpoint in a CudnnCompatibleLSTMCell or CudnnCompatibleGRUCell, and read that",
            )
        variables = [node.name for node in self.nodes.values() if node.op in _VARIABLES and node.op != "Const"]
        if variables:
            raise FileError(
                f"{self.file}: the graph is not frozen: {variables[0]} is a variable", "give its checkpoint instead"
            )
        if self.functions:
            raise Unsupported(
                f"{self.file}: no recurrent cell among its nodes; {self.functions} functions were not looked into",
                "freeze it with tf.compat.v1.disable_control_flow_v2(), or give the checkpoint or SavedModel",
            )


def _refs(inputs: list[str]) -> Iterator[Ref]:
    for each in inputs:
        if not each.startswith("^"):
            name, _, port = each.partition(":")
            yield name, int(port) if port.isdigit() else 0


def _is_float(node: Node) -> bool:
    kind = node.attributes["dtype"].number(_ATTR_TYPE) if "dtype" in node.attributes else 0
    return "float" in DTYPES.get(kind, "")


def array_of(tensor: Message, shape: tuple[int, ...], kind: int | None = None) -> Array:
    """The numbers of a TensorProto; `kind` is its dtype where it does not say it.

    Errors: ValueError if it has others than its shape says.
    """
    kind = tensor.number(_TENSOR_DTYPE) if kind is None else kind
    name = DTYPES.get(kind)
    if name is None:
        raise ValueError(f"dtype {kind}")
    dtype, count = numpy_dtype(name), math.prod(shape)
    spans = tensor.spans(_TENSOR_CONTENT)
    if spans:
        start, stop = spans[-1]
        if stop - start != count * dtype.itemsize:
            raise ValueError(f"{stop - start} bytes for shape {shape} of {name}")
        return np.frombuffer(tensor.data, dtype, count, start).reshape(shape) if count else np.zeros(shape, dtype)
    values = _listed(tensor, name, dtype)
    if len(values) > count or (len(values) < count and (not len(values) or count > _SMALL)):
        raise ValueError(f"{len(values)} numbers for shape {shape}")
    return np.concatenate([values, np.full(count - len(values), values[-1:], dtype)]).reshape(shape)


def _listed(tensor: Message, name: str, dtype: np.dtype[Any]) -> Array:
    """The numbers of a TensorProto's typed list."""
    if name not in _LISTS:
        raise ValueError(f"no list of {name}")
    number, kind = _LISTS[name]
    if kind in ("float32", "float64"):
        pieces = [np.frombuffer(bytes(tensor.data[slice(*span)]), dtype) for span in tensor.spans(number)]
        singles = [value for value in tensor.fields.get(number, ()) if isinstance(value, int)]
        width = np.uint32 if kind == "float32" else np.uint64
        return np.concatenate([*pieces, np.array(singles, width).view(dtype)])
    if sum(stop - start for start, stop in tensor.spans(number)) > _SMALL:
        raise ValueError(f"a list of more than {_SMALL} bytes for {name}")
    values = tensor.numbers(number)
    if kind == "bits":
        return np.array(values, np.uint16).view(dtype)
    return np.array([value - (1 << 64) if value >= 1 << 63 else value for value in values]).astype(dtype)


# ---- files


def open_graph(path: Path) -> Graph:
    """A frozen graph, or the graph of a SavedModel. Errors: FileError for anything else."""
    with readable(path, "TensorFlow graph"):
        data = mapped(path)
        graph = Graph(Message(data), path)
        if graph.nodes and all(node.op for node in graph.nodes.values()):
            return graph
        return _of_saved_model(Message(data), path)


def open_meta(path: Path) -> Graph:
    """The graph in a checkpoint's ``.meta`` file. Errors: FileError."""
    with readable(path, "TensorFlow graph"):
        return Graph(Message(mapped(path)).message(_META_GRAPH), path)


def open_saved_model(path: Path) -> Graph:
    """The graph in a SavedModel. Errors: FileError."""
    with readable(path, "SavedModel"):
        return _of_saved_model(Message(mapped(path)), path)


def _of_saved_model(message: Message, path: Path) -> Graph:
    metas = list(message.messages(_SAVED_META))
    graph = Graph(metas[0].message(_META_GRAPH), path) if metas else None
    if graph is None or not graph.nodes:
        raise ValueError("no node in it; was it renamed, or is it text (.pbtxt)?")
    return graph
