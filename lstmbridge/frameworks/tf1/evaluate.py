"""A few operators of a TensorFlow graph in numpy, to run one step of a cell: what a proof needs, and no more.

Source: tensorflow/core/ops/{math,nn,array}_ops.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.frameworks.tf1.graph import Graph, Node, Ref
from lstmbridge.reference import sigmoid

__all__ = ["NotRun", "run"]

Array = npt.NDArray[Any]
_DEPTH = 200
#: A step for a few sequences has no array of more numbers than this, but for the weights, nor more parts of one.
_LARGEST, _MOST_PARTS = 1 << 22, 8


class NotRun(Exception):
    """An operator that is not among these; the step cannot be proved."""


def run(graph: Graph, ref: Ref, given: Mapping[Ref, Array], fetch: Callable[[str], Array], dtype: str) -> Array:
    """What an output is when some are given, in `dtype`. Errors: NotRun."""
    return _Run(graph, dict(given), fetch, np.dtype(dtype)).value(ref, 0)


class _Run:
    def __init__(
        self, graph: Graph, known: dict[Ref, Array], fetch: Callable[[str], Array], dtype: np.dtype[Any]
    ) -> None:
        self.graph, self.known, self.fetch, self.dtype = graph, known, fetch, dtype

    def value(self, ref: Ref, depth: int) -> Array:
        if ref in self.known:
            return self.known[ref]
        source = self.graph.source(ref)
        if source in self.known:
            return self.known[source]
        node = self.graph.of(source)
        if node is None or depth > _DEPTH:
            raise NotRun(f"{ref[0]} is not there, or too far away")
        name = self.graph.weight(source)
        if name is not None:
            array = self.fetch(name)
            found = np.asarray(array, self.dtype) if array.dtype.kind in "fV" else array
        else:
            outputs = self._outputs(node, depth)
            if source[1] >= len(outputs):
                raise NotRun(f"{node.name} has no output {source[1]}")
            found = outputs[source[1]]
        self.known[source] = found
        return found

    def _outputs(self, node: Node, depth: int) -> Sequence[Array]:
        if node.op not in _OPERATORS:
            raise NotRun(f"{node.name} is a {node.op}")
        inputs = [self.value(ref, depth + 1) for ref in node.inputs]
        if _size(node, inputs) > _LARGEST:
            raise NotRun(f"{node.name} is too large for a step")
        with np.errstate(all="ignore"):
            try:
                return _OPERATORS[node.op](node, *inputs)
            except (ValueError, TypeError, IndexError) as error:
                raise NotRun(f"{node.name}: {error}") from error


def _size(node: Node, inputs: Sequence[Array]) -> int:
    """How many numbers an operator gives, at most."""
    if node.op == "MatMul":
        rows, columns = -1 if node.flag("transpose_a") else 0, 0 if node.flag("transpose_b") else -1
        return inputs[0].shape[rows] * inputs[1].shape[columns] if all(each.ndim == 2 for each in inputs) else 0
    if node.op.startswith(("Concat", "Split")):
        return sum(each.size for each in inputs)
    try:
        return math.prod(np.broadcast_shapes(*(each.shape for each in inputs)))
    except ValueError:
        return 0


def _one(function: Callable[..., Array]) -> Callable[..., Sequence[Array]]:
    return lambda node, *inputs: [function(*inputs)]


def _matmul(node: Node, a: Array, b: Array) -> Sequence[Array]:
    return [(a.T if node.flag("transpose_a") else a) @ (b.T if node.flag("transpose_b") else b)]


def _split(node: Node, axis: Array, value: Array) -> Sequence[Array]:
    return np.split(value, min(node.whole("num_split", 1), _MOST_PARTS), int(axis.reshape(())))


def _split_v(node: Node, value: Array, sizes: Array, axis: Array) -> Sequence[Array]:
    return np.split(value, np.cumsum(sizes)[:-1].tolist()[:_MOST_PARTS], int(axis.reshape(())))


_OPERATORS: Mapping[str, Callable[..., Sequence[Array]]] = {
    "MatMul": _matmul,
    "Split": _split,
    "SplitV": _split_v,
    "BiasAdd": _one(np.add),
    "Add": _one(np.add),
    "AddV2": _one(np.add),
    "Sub": _one(np.subtract),
    "Mul": _one(np.multiply),
    "Neg": _one(np.negative),
    "Minimum": _one(np.minimum),
    "Maximum": _one(np.maximum),
    "ClipByValue": _one(np.clip),
    "Sigmoid": _one(sigmoid),
    "Tanh": _one(np.tanh),
    "Relu": _one(lambda x: np.maximum(x, 0)),
    "Softsign": _one(lambda x: x / (1 + np.abs(x))),
    "Softplus": _one(lambda x: np.logaddexp(x, 0)),
    "ConcatV2": lambda node, *inputs: [np.concatenate(inputs[:-1], int(inputs[-1].reshape(())))],
    "Concat": lambda node, axis, *inputs: [np.concatenate(inputs, int(axis.reshape(())))],
}
