"""The value of a name in a graph, where the graph alone determines it.

Exporters seldom store W, R and B as they are: they stand behind Slice, Concat, Unsqueeze and the like of other
constants. Those operators are evaluated here, in numpy; their versions differ only in whether an argument is an
attribute or an input. Nothing is evaluated to more than a small multiple of what the model stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.onnx.graph import Origin, Proto, Scope
from lstmbridge.frameworks.onnx.tensors import CODES, SELF, Numbers, array_of

__all__ = ["Constants", "NotConstant"]

_DEPTH = 200
_SMALL = 1 << 26  # bytes; what any value may have

Inputs = Sequence[Any]
_Operator = Callable[[Inputs, Mapping[str, Any], "_Budget"], Numbers | list[Numbers]]


class NotConstant(Exception):
    """The value of a name is not determined by the graph; the argument says why."""


class Constants:
    """The values that the graphs of one model determine.

    file  the model's file, beside which external data lies
    used  the initializers and Constant nodes that were used so far, by (scope, name)
    """

    def __init__(self, file: Path | None, scopes: Sequence[Scope]) -> None:
        self.file = file
        self.used: set[tuple[Scope, str]] = set()
        stored = sum(_stored(tensor, file) for scope in scopes for tensor in scope.initializers.values())
        self.limit = 4 * stored + _SMALL

    def value(self, scope: Scope, name: str) -> Numbers:
        """The value of `name` in `scope`. Errors: NotConstant with the reason."""
        return self._value(scope.origin(name), {}, 0)

    def is_zero(self, scope: Scope, name: str) -> bool:
        """Whether every element of `name` is zero, however many there are."""
        origin = scope.origin(name)
        for _ in range(_DEPTH):
            node = origin.node
            if node is not None and node.op_type == "ConstantOfShape":
                return not _filling(origin.scope.attributes(node)).any()
            if node is None or node.op_type not in _SELECTING or not node.input:
                break
            origin = origin.scope.origin(node.input[0])
        try:
            return not self._value(origin, {}, 0).any()
        except NotConstant:
            return False

    def before_batch(self, scope: Scope, name: str) -> Numbers | None:
        """The value that is repeated to make `name` (for each sequence of a batch), or None if there is none."""
        origin = scope.origin(name)
        for _ in range(_DEPTH):
            if origin.node is None or origin.node.op_type not in _REPEATING or not origin.node.input:
                break
            origin = origin.scope.origin(origin.node.input[0])
        try:
            return self._value(origin, {}, 0)
        except NotConstant:
            return None

    def _value(self, origin: Origin, known: dict[tuple[Scope, str], Numbers], depth: int) -> Numbers:
        place = (origin.scope, origin.name)
        if place in known:
            return known[place]
        if depth > _DEPTH:
            raise NotConstant(f"it stands behind more than {_DEPTH} nodes")
        if origin.tensor is not None:
            self.used.add(place)
            return array_of(origin.tensor, self.file)
        if origin.node is None:
            raise NotConstant(f"{origin.name!r} is an input, given at run time")
        known[place] = value = self._output(origin, known, depth)
        return value

    def _output(self, origin: Origin, known: dict[tuple[Scope, str], Numbers], depth: int) -> Numbers:
        node, scope = origin.node, origin.scope
        if node.op_type == "Constant":
            self.used.add((scope, origin.name))
            return _constant(scope.attributes(node), self.file)
        if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
            hint = "; quantised weights are not read" if "uantizeLinear" in node.op_type else ""
            raise NotConstant(f"it comes from a {node.op_type} node {node.name!r}{hint}")
        inputs = [self._value(scope.origin(name), known, depth + 1) if name else None for name in node.input]
        attributes = scope.attributes(node)
        if node.op_type == "Split":
            attributes["outputs"] = len(node.output)
        try:
            result = _OPERATORS[node.op_type](inputs, attributes, _Budget(self.limit))
            return np.asarray(result[origin.index] if isinstance(result, list) else result)
        except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise LayoutError(
                f"onnx {node.op_type} node {node.name!r}: its constant inputs do not fit together", f"found: {error}"
            ) from error


def _stored(tensor: Proto, file: Path | None) -> int:
    """How many bytes a tensor really takes, here or in the file that it names."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    if file is None or "location" not in said:
        return int(tensor.ByteSize())
    outside = file if said["location"] == SELF else file.parent / said["location"]
    length = said.get("length", "")
    size = outside.stat().st_size if outside.is_file() else 0
    return min(size, int(length)) if length.isdigit() else size


def _constant(attributes: Mapping[str, Any], file: Path | None) -> Numbers:
    """The value of a Constant node."""
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in attributes:
            return np.asarray(attributes[name], np.float32 if "float" in name else np.int64)
    if not hasattr(attributes.get("value"), "data_type"):
        raise NotConstant(f"it is a Constant of {', '.join(attributes) or 'nothing'}")
    return array_of(attributes["value"], file)


# ---- the operators: (inputs, attributes, budget) -> the output, or a list of outputs


class _Budget:
    """Keeps results from growing beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def check(self, count: int, itemsize: int) -> None:
        if count * itemsize > self.limit:
            raise ValueError(f"{count * itemsize} bytes of constants, more than the model stores")


def _axes(inputs: Inputs, attributes: Mapping[str, Any], at: int, name: str = "axes") -> tuple[int, ...] | None:
    """An argument that old versions have as an attribute, new ones as an input."""
    if len(inputs) > at and inputs[at] is not None:
        return tuple(int(n) for n in inputs[at].reshape(-1))
    found = attributes.get(name)
    return None if found is None else tuple(found)


def _slice(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> Numbers:
    data = inputs[0]
    starts, ends = _axes(inputs, attributes, 1, "starts"), _axes(inputs, attributes, 2, "ends")
    if starts is None or ends is None:
        raise ValueError("starts or ends missing")
    axes = _axes(inputs, attributes, 3) or tuple(range(len(starts)))
    steps = _axes(inputs, attributes, 4, "steps") or (1,) * len(starts)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = data.shape[axis]
        first = min(max(start + size if start < 0 else start, 0), size if step > 0 else size - 1)
        last = end + size if end < 0 else end
        open_end = last < 0 if step < 0 else last >= size
        index[axis] = slice(first, None if open_end else max(last, 0), step)
    return np.asarray(data[tuple(index)])


def _unsqueeze(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> Numbers:
    return np.asarray(np.expand_dims(inputs[0], _axes(inputs, attributes, 1) or ()))


def _squeeze(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> Numbers:
    return np.asarray(np.squeeze(inputs[0], _axes(inputs, attributes, 1)))


def _reshape(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> Numbers:
    shape = list(_axes(inputs, attributes, 1, "shape") or ())
    if not attributes.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return np.asarray(inputs[0].reshape(shape))


def _split(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> list[Numbers]:
    axis, count = attributes.get("axis", 0), attributes["outputs"]
    sizes = _axes(inputs, attributes, 1, "split")
    if sizes is None:
        each = -(-inputs[0].shape[axis] // count)
        sizes = (each,) * count
    return list(np.split(inputs[0], np.cumsum(sizes)[:-1], axis))


def _concat(inputs: Inputs, attributes: Mapping[str, Any], budget: _Budget) -> Numbers:
    budget.check(sum(each.size for each in inputs), inputs[0].itemsize)
    return np.concatenate(inputs, attributes.get("axis", 1))


def _expand(inputs: Inputs, _: Mapping[str, Any], budget: _Budget) -> Numbers:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1]))
    budget.check(math.prod(shape), inputs[0].itemsize)
    return np.broadcast_to(inputs[0], shape)


def _constant_of_shape(inputs: Inputs, attributes: Mapping[str, Any], budget: _Budget) -> Numbers:
    shape = tuple(int(n) for n in inputs[0])
    value = _filling(attributes)
    budget.check(math.prod(shape), value.itemsize)
    return np.full(shape, value.reshape(()), value.dtype)


def _filling(attributes: Mapping[str, Any]) -> Numbers:
    """The one number that a ConstantOfShape repeats."""
    tensor = attributes.get("value")
    if tensor is None:
        return np.zeros(1, np.float32)
    if not hasattr(tensor, "data_type"):
        raise LayoutError("onnx ConstantOfShape node: its value is not a tensor", f"found {type(tensor).__name__}")
    return array_of(tensor)


def _cast(inputs: Inputs, attributes: Mapping[str, Any], _: _Budget) -> Numbers:
    to = {code: name for name, code in CODES.items()}[attributes["to"]]
    if to == "bfloat16":
        import ml_dtypes

        return np.asarray(inputs[0].astype(ml_dtypes.bfloat16))
    return np.asarray(inputs[0].astype(to))


def _gather(inputs: Inputs, attributes: Mapping[str, Any], budget: _Budget) -> Numbers:
    axis = attributes.get("axis", 0)
    budget.check(inputs[0].size // max(inputs[0].shape[axis], 1) * inputs[1].size, inputs[0].itemsize)
    return np.asarray(np.take(inputs[0], inputs[1], axis))


def _binary(operation: Callable[[Numbers, Numbers], Numbers]) -> _Operator:
    def compute(inputs: Inputs, _: Mapping[str, Any], budget: _Budget) -> Numbers:
        budget.check(math.prod(np.broadcast_shapes(inputs[0].shape, inputs[1].shape)), inputs[0].itemsize)
        return operation(inputs[0], inputs[1])

    return compute


def _divide(a: Numbers, b: Numbers) -> Numbers:
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(np.divide(a, b)).astype(a.dtype))
    return np.divide(a, b)


#: Those whose output's elements are elements of their first input.
_SELECTING = {"Slice", "Identity", "Expand", "Tile", "Reshape", "Transpose", "Gather", "Split", "Cast"}
_SELECTING |= {"Unsqueeze", "Squeeze"}
_REPEATING = {"Expand", "Tile", "Identity"}

_OPERATORS: Mapping[str, _Operator] = {
    "Add": _binary(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Expand": _expand,
    "Flatten": lambda i, a, _: i[0].reshape(math.prod(i[0].shape[: a.get("axis", 1)]), -1),
    "Gather": _gather,
    "Identity": lambda i, a, _: i[0],
    "Mul": _binary(np.multiply),
    "Neg": lambda i, a, _: -i[0],
    "Reshape": _reshape,
    "Shape": lambda i, a, _: np.array(i[0].shape[a.get("start", 0) : a.get("end")], np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Transpose": lambda i, a, _: i[0].transpose(a.get("perm")),
    "Unsqueeze": _unsqueeze,
}
