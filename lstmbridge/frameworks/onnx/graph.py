"""A model's graphs as scopes in which names mean something, and the recurrent nodes in them.

A name in a graph means an initializer, an output of a node, an input of the graph, or something in the graph around it
(where that is the body of an If, Loop or Scan); in a model-local function an input means what the call gave for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from lstmbridge.errors import FileError, LayoutError

__all__ = ["CELLS", "Found", "Origin", "Scope", "recurrent_nodes"]

#: Messages of onnx; they come without types.
Proto = Any

CELLS: Mapping[str, str] = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}
#: Recurrent nodes that are no standard operators, and why they are refused.
REFUSED: Mapping[tuple[str, str], str] = {
    ("com.microsoft", "DynamicQuantizeLSTM"): "its weights are quantised",
    ("com.microsoft", "AttnLSTM"): "it has an attention mechanism inside",
}
_STANDARD = ("", "ai.onnx")
_SCOPES, _DEPTH = 100_000, 64


@dataclass(frozen=True, eq=False)
class Origin:
    """What a name means: an initializer (`tensor`), output `index` of `node`, or neither: an input of the model."""

    scope: Scope
    name: str
    tensor: Proto = None
    node: Proto = None
    index: int = 0


@dataclass(eq=False)
class Scope:
    """One graph or function body, and what is around it.

    graph     a GraphProto or FunctionProto
    opsets    the version of each domain's operators
    parent    the scope around it (of a function: the one that it is called in)
    call      the node that calls a function; None for a graph
    prefix    what the paths of layers in here begin with
    """

    graph: Proto
    opsets: Mapping[str, int]
    parent: Scope | None = None
    call: Proto = None
    prefix: str = ""
    depth: int = field(default=0)

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in _texts(self.graph)):
            raise FileError("onnx model: a name in it is not text (UTF-8)", "the file is damaged")

    @classmethod
    def of(cls, model: Proto) -> Self:
        """The scope of a model's main graph."""
        return cls(model.graph, _opsets(model))

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return max((self.opsets[domain] for domain in _STANDARD if domain in self.opsets), default=1)

    @cached_property
    def initializers(self) -> dict[str, Proto]:
        """The initializers by name; a function has none."""
        return {tensor.name: tensor for tensor in getattr(self.graph, "initializer", ())}

    @cached_property
    def sparse(self) -> set[str]:
        """The names of initializers that are sparse; they are not read."""
        return {each.values.name for each in getattr(self.graph, "sparse_initializer", ())}

    @cached_property
    def producers(self) -> dict[str, tuple[Proto, int]]:
        """For each name that a node gives: the node, and which of its outputs it is."""
        return {name: (node, i) for node in self.graph.node for i, name in enumerate(node.output) if name}

    @cached_property
    def consumers(self) -> dict[str, list[tuple[Proto, int]]]:
        """For each name: the nodes that read it, and as which input (-1: inside the body of an If, Loop or Scan)."""
        found: dict[str, list[tuple[Proto, int]]] = {}
        for node in self.graph.node:
            for i, name in enumerate(node.input):
                found.setdefault(name, []).append((node, i))
            for body in bodies(node):
                for name in _names_read(body):
                    found.setdefault(name, []).append((node, -1))
        return found

    @cached_property
    def outputs(self) -> set[str]:
        """The names that leave the graph."""
        return {each if isinstance(each, str) else each.name for each in self.graph.output}

    @cached_property
    def sizes(self) -> dict[str, tuple[int | None, ...]]:
        """The static shapes that the graph states, None for a free dimension."""
        stated = [*self.graph.value_info, *(each for each in self.graph.input if not isinstance(each, str))]
        return {
            each.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else None for dim in each.type.tensor_type.shape.dim
            )
            for each in stated
            if each.type.tensor_type.HasField("shape")
        }

    def origin(self, name: str) -> Origin:
        """What `name` means here. Errors: LayoutError for a name that nothing gives."""
        if name in self.initializers:
            return Origin(self, name, tensor=self.initializers[name])
        if name in self.sparse:
            raise LayoutError(f"onnx graph: {name!r} is a sparse tensor", "expected a dense initializer")
        if name in self.producers:
            node, index = self.producers[name]
            return Origin(self, name, node=node, index=index)
        if self.call is not None and self.parent is not None:
            formal = list(self.graph.input)
            given = self.call.input[formal.index(name)] if name in formal[: len(self.call.input)] else ""
            return self.parent.origin(given) if given else Origin(self, name)
        if any(each.name == name for each in self.graph.input):
            return Origin(self, name)
        if self.parent is None:
            raise LayoutError(
                f"onnx graph: nothing gives {name!r}", "the model is not complete; onnx.checker says more"
            )
        return self.parent.origin(name)

    def attributes(self, node: Proto) -> dict[str, Any]:
        """A node's attributes as Python values; inside a function, those of the call where it refers to them."""
        found = {}
        for attribute in node.attribute:
            stated = self._stated(attribute)
            if stated is not None:
                found[attribute.name] = _value(stated)
        return found

    def _stated(self, attribute: Proto) -> Proto | None:
        if not attribute.ref_attr_name or self.call is None or self.parent is None:
            return attribute
        for given in self.call.attribute:
            if given.name == attribute.ref_attr_name:
                return self.parent._stated(given)
        defaults = (each for each in self.graph.attribute_proto if each.name == attribute.ref_attr_name)
        return next(defaults, None)

    def inside(self, graph: Proto, **changes: Any) -> Scope:
        """The scope of a graph in here. Errors: FileError where they are nested without end."""
        if self.depth >= _DEPTH:
            raise FileError(
                f"onnx model: graphs and functions nested deeper than {_DEPTH}", "functions that call themselves?"
            )
        return Scope(graph, **{"opsets": self.opsets, "parent": self, "depth": self.depth + 1, **changes})


@dataclass(frozen=True, eq=False)
class Found:
    """A recurrent node: where it is, and under which path. `refusal` says why it cannot be read, if so."""

    scope: Scope
    node: Proto
    path: str
    refusal: str | None = None

    @property
    def cell(self) -> str:
        """The cell of the node."""
        return CELLS[self.node.op_type]

    def input(self, index: int) -> str:
        """The name of an input; empty where the node leaves it out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """The name of an output; empty where the node leaves it out."""
        return self.node.output[index] if index < len(self.node.output) else ""


def recurrent_nodes(model: Proto) -> tuple[list[Found], list[Scope]]:
    """Every recurrent node in execution order, each with a path of its own; and every scope there is.

    The path is the node's name with dots for slashes, or its operator and number if it has no name.
    """
    scopes: list[Scope] = []
    functions = {_signature(each, each.name): each for each in model.functions}
    found: list[Found] = []
    counts: dict[str, int] = {}
    taken: set[str] = set()
    for scope, node in _walk(Scope.of(model), functions, scopes):
        refusal = REFUSED.get((node.domain, node.op_type))
        if not _is_standard(node) and refusal is None:
            continue
        number = counts[node.op_type] = counts.get(node.op_type, -1) + 1
        path = _unused(scope.prefix + (path_of(node.name) or f"{node.op_type}_{number}"), taken)
        found.append(Found(scope, node, path, refusal))
    return found, scopes


def path_of(name: str) -> str:
    """A node's name as a path: ``/encoder/rnn/LSTM`` is ``encoder.rnn.LSTM``.

    >>> path_of("/encoder/rnn/LSTM")
    'encoder.rnn.LSTM'
    """
    return name.strip("/").replace("/", ".")


def bodies(node: Proto) -> Iterator[Proto]:
    """The graphs that a node carries."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_standard(node: Proto) -> bool:
    return node.op_type in CELLS and node.domain in _STANDARD


def _unused(path: str, taken: set[str]) -> str:
    name, number = path, 1
    while name in taken:
        number += 1
        name = f"{path}_{number}"
    taken.add(name)
    return name


def _signature(each: Proto, name: str) -> tuple[str, str, str]:
    """What a node calls a function by."""
    return each.domain, name, getattr(each, "overload", "")


def _walk(
    scope: Scope, functions: Mapping[tuple[str, str, str], Proto], scopes: list[Scope]
) -> Iterator[tuple[Scope, Proto]]:
    """Every node, in execution order, with its scope; a function's nodes once for each call."""
    scopes.append(scope)
    if len(scopes) > _SCOPES:
        raise FileError(
            "onnx model: graphs and functions without end", "functions that call one another many times over?"
        )
    for node in scope.graph.node:
        function = functions.get(_signature(node, node.op_type))
        if function is not None:
            prefix = f"{scope.prefix}{path_of(node.name) or node.op_type}."
            inner = scope.inside(function, opsets=_opsets(function), call=node, prefix=prefix)
            yield from _walk(inner, functions, scopes)
            continue
        yield scope, node
        for body in bodies(node):
            yield from _walk(scope.inside(body, prefix=scope.prefix), functions, scopes)


def _texts(graph: Proto) -> Iterator[Any]:
    """Every name in a graph; protobuf gives one that is not text as bytes."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
    for each in (*graph.input, *graph.output, *getattr(graph, "initializer", ()), *graph.value_info):
        yield getattr(each, "name", each)


def _names_read(graph: Proto) -> set[str]:
    """The names that a graph and those inside it read."""
    names = {name for node in graph.node for name in node.input}
    names |= {each.name for each in graph.output}
    for node in graph.node:
        for body in bodies(node):
            names |= _names_read(body)
    return names


def _opsets(owner: Proto) -> dict[str, int]:
    return {each.domain: each.version for each in owner.opset_import}


_FLOAT, _INT, _STRING, _TENSOR, _GRAPH = 1, 2, 3, 4, 5
_FLOATS, _INTS, _STRINGS = 6, 7, 8


def _value(attribute: Proto) -> Any:
    """An attribute's value: a number, a string, a list of them, or the message itself for tensors and graphs."""
    kind = attribute.type
    if kind in (_FLOAT, _INT, _TENSOR, _GRAPH):
        return getattr(attribute, {_FLOAT: "f", _INT: "i", _TENSOR: "t", _GRAPH: "g"}[kind])
    if kind == _STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == _STRINGS:
        return [text.decode("utf-8", "replace") for text in attribute.strings]
    return list(attribute.floats if kind == _FLOATS else attribute.ints if kind == _INTS else ())
