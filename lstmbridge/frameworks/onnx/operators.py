"""The standard operators in numpy: (inputs, attributes, budget) -> the output, or a list of outputs.

Versions of an operator differ only in whether an argument is an attribute or an input. `EXACT` are those that move
numbers, or compute each by one operation that has one result in every runtime: constants may stand behind them.
`COMPUTING` are the others that recurrent layers are made of; they serve proofs, in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.onnx.tensors import CODES, Numbers, array_of
from lstmbridge.reference import FUNCTIONS

__all__ = [
    "COMPUTING",
    "EXACT",
    "FAILURES",
    "REPEATING",
    "SELECTING",
    "Budget",
    "Inputs",
    "Operator",
    "clip_bounds",
    "filling",
]

Inputs = Sequence[Any]
Operator = Callable[[Inputs, Mapping[str, Any], "Budget"], Numbers | list[Numbers]]


#: What an operator raises whose inputs do not fit together.
FAILURES = (ValueError, IndexError, TypeError, KeyError, AttributeError, ArithmeticError, MemoryError)


class Budget:
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


def _slice(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
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


def _unsqueeze(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    return np.asarray(np.expand_dims(inputs[0], _axes(inputs, attributes, 1) or ()))


def _squeeze(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    return np.asarray(np.squeeze(inputs[0], _axes(inputs, attributes, 1)))


def _reshape(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    shape = list(_axes(inputs, attributes, 1, "shape") or ())
    if not attributes.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return np.asarray(inputs[0].reshape(shape))


def _split(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> list[Numbers]:
    axis, count = attributes.get("axis", 0), attributes["outputs"]
    sizes = _axes(inputs, attributes, 1, "split")
    if sizes is None:
        each = -(-inputs[0].shape[axis] // count)
        sizes = (each,) * count
    return list(np.split(inputs[0], np.cumsum(sizes)[:-1], axis))


def _concat(inputs: Inputs, attributes: Mapping[str, Any], budget: Budget) -> Numbers:
    budget.check(sum(each.size for each in inputs), inputs[0].itemsize)
    return np.concatenate(inputs, attributes.get("axis", 1))


def _expand(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1]))
    budget.check(math.prod(shape), inputs[0].itemsize)
    return np.broadcast_to(inputs[0], shape)


def _constant_of_shape(inputs: Inputs, attributes: Mapping[str, Any], budget: Budget) -> Numbers:
    shape = tuple(int(n) for n in inputs[0])
    value = filling(attributes)
    budget.check(math.prod(shape), value.itemsize)
    return np.full(shape, value.reshape(()), value.dtype)


def filling(attributes: Mapping[str, Any]) -> Numbers:
    """The one number that a ConstantOfShape repeats."""
    tensor = attributes.get("value")
    if tensor is None:
        return np.zeros(1, np.float32)
    if not hasattr(tensor, "data_type"):
        raise LayoutError("onnx ConstantOfShape node: its value is not a tensor", f"found {type(tensor).__name__}")
    return array_of(tensor)


def _cast(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    to = {code: name for name, code in CODES.items()}[attributes["to"]]
    if to == "bfloat16":
        import ml_dtypes

        return np.asarray(inputs[0].astype(ml_dtypes.bfloat16))
    return np.asarray(inputs[0].astype(to))


def _gather(inputs: Inputs, attributes: Mapping[str, Any], budget: Budget) -> Numbers:
    axis = attributes.get("axis", 0)
    budget.check(inputs[0].size // max(inputs[0].shape[axis], 1) * inputs[1].size, inputs[0].itemsize)
    return np.asarray(np.take(inputs[0], inputs[1], axis))


def _binary(operation: Callable[[Numbers, Numbers], Numbers]) -> Operator:
    def compute(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
        budget.check(math.prod(np.broadcast_shapes(inputs[0].shape, inputs[1].shape)), inputs[0].itemsize)
        return operation(inputs[0], inputs[1])

    return compute


def _divide(a: Numbers, b: Numbers) -> Numbers:
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(np.divide(a, b)).astype(a.dtype))
    return np.divide(a, b)


def _tile(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
    budget.check(inputs[0].size * math.prod(int(n) for n in inputs[1]), inputs[0].itemsize)
    return np.tile(inputs[0], [int(n) for n in inputs[1]])


def _range(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
    start, limit, step = (each.reshape(()).item() for each in inputs[:3])
    count = max(math.ceil((limit - start) / step), 0)
    budget.check(count, inputs[0].itemsize)
    return np.asarray((start + step * np.arange(count)).astype(inputs[0].dtype))


def _pad(inputs: Inputs, attributes: Mapping[str, Any], budget: Budget) -> Numbers:
    data, pads = inputs[0], _axes(inputs, attributes, 1, "pads")
    if pads is None or attributes.get("mode", "constant") != "constant":
        raise ValueError("expected pads, and the mode constant")
    given = inputs[2] if len(inputs) > 2 and inputs[2] is not None else attributes.get("value", 0)
    axes = _axes(inputs, {}, 3) or tuple(range(data.ndim))
    widths = [(0, 0)] * data.ndim
    for n, axis in enumerate(axes):
        widths[axis] = (pads[n], pads[n + len(axes)])
    index = tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(widths, data.shape, strict=True))
    added = [(max(a, 0), max(b, 0)) for a, b in widths]
    sizes = (size + a + b for size, (a, b) in zip(data[index].shape, added, strict=True))
    budget.check(math.prod(sizes), data.itemsize)
    return np.pad(data[index], added, constant_values=np.asarray(given, data.dtype).reshape(()))


def _where(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
    budget.check(math.prod(np.broadcast_shapes(*(each.shape for each in inputs[:3]))), inputs[1].itemsize)
    return np.asarray(np.where(inputs[0], inputs[1], inputs[2]))


def _extreme(choose: Callable[[Numbers, Numbers], Numbers]) -> Operator:
    def compute(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
        budget.check(math.prod(np.broadcast_shapes(*(each.shape for each in inputs))), inputs[0].itemsize)
        return functools.reduce(choose, inputs)

    return compute


def _reduce(reduce: Callable[..., Any]) -> Operator:
    def compute(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
        axes = _axes(inputs, attributes, 1)
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return np.asarray(inputs[0])
        return np.asarray(reduce(inputs[0], axis=axes or None, keepdims=bool(attributes.get("keepdims", 1))))

    return compute


def _reverse(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    """ReverseSequence: each sequence's first steps, as many as it has, in reverse."""
    batch, time = attributes.get("batch_axis", 1), attributes.get("time_axis", 0)
    data = np.moveaxis(inputs[0], (batch, time), (0, 1))
    steps = np.arange(data.shape[1])
    found = [
        each[np.where(steps < length, length - 1 - steps, steps)] for each, length in zip(data, inputs[1], strict=True)
    ]
    return np.moveaxis(np.stack(found), (0, 1), (batch, time))


def _scatter(inputs: Inputs, _: Mapping[str, Any], __: Budget) -> Numbers:
    """ScatterND: a copy in which the slices at the indices are others."""
    data, indices, updates = inputs[:3]
    found = np.array(data)
    found[tuple(np.moveaxis(indices, -1, 0))] = updates
    return found


# ---- what recurrent layers compute


def _matmul(inputs: Inputs, _: Mapping[str, Any], budget: Budget) -> Numbers:
    a, b = inputs[:2]
    budget.check(a.size // max(a.shape[-1], 1) * b.size // max(b.shape[-1 if b.ndim == 1 else -2], 1), a.itemsize)
    return np.asarray(a @ b)


def _gemm(inputs: Inputs, attributes: Mapping[str, Any], budget: Budget) -> Numbers:
    a = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    b = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    found = attributes.get("alpha", 1.0) * _matmul([a, b], {}, budget)
    if len(inputs) > 2 and inputs[2] is not None:
        found = found + attributes.get("beta", 1.0) * inputs[2]
    return np.asarray(found)


def _activation(name: str, alpha: float | None = None, beta: float | None = None) -> Operator:
    """One of the functions of the reference, its constants where the node has none of its own."""

    def compute(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
        return np.asarray(FUNCTIONS[name](inputs[0], attributes.get("alpha", alpha), attributes.get("beta", beta)))

    return compute


def _clip(inputs: Inputs, attributes: Mapping[str, Any], _: Budget) -> Numbers:
    low, high = clip_bounds(inputs, attributes)
    return np.asarray(np.clip(inputs[0], low, high))


def clip_bounds(inputs: Inputs, attributes: Mapping[str, Any]) -> tuple[float, float]:
    """The bounds of a Clip, which old versions have as attributes."""
    given = [inputs[n] if len(inputs) > n else None for n in (1, 2)]
    low, high = (attributes.get(key, sign * math.inf) for key, sign in (("min", -1), ("max", 1)))
    return (
        low if given[0] is None else float(np.asarray(given[0]).reshape(())),
        high if given[1] is None else float(np.asarray(given[1]).reshape(())),
    )


#: Those whose output's elements are elements of their first input.
SELECTING = {"Slice", "Identity", "Expand", "Tile", "Reshape", "Transpose", "Gather", "Split", "Cast"}
SELECTING |= {"Unsqueeze", "Squeeze"}
REPEATING = {"Expand", "Tile", "Identity"}

EXACT: Mapping[str, Operator] = {
    "Abs": lambda i, a, _: np.abs(i[0]),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Equal": _binary(np.equal),
    "Expand": _expand,
    "Flatten": lambda i, a, _: i[0].reshape(math.prod(i[0].shape[: a.get("axis", 1)]), -1),
    "Gather": _gather,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": lambda i, a, _: i[0],
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Mul": _binary(np.multiply),
    "Neg": lambda i, a, _: -i[0],
    "Not": lambda i, a, _: np.logical_not(i[0]),
    "Or": _binary(np.logical_or),
    "Pad": _pad,
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Reshape": _reshape,
    "ReverseSequence": _reverse,
    "ScatterND": _scatter,
    "Shape": lambda i, a, _: np.array(i[0].shape[a.get("start", 0) : a.get("end")], np.int64),
    "Size": lambda i, a, _: np.array(i[0].size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tile": _tile,
    "Transpose": lambda i, a, _: i[0].transpose(a.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}

COMPUTING: Mapping[str, Operator] = {
    **EXACT,
    "Clip": _clip,
    "Elu": _activation("elu", 1.0),
    "Exp": _activation("exponential"),
    "Gemm": _gemm,
    "HardSigmoid": _activation("hard_sigmoid", 0.2, 0.5),
    "LeakyRelu": _activation("leaky_relu", 0.01),
    "MatMul": _matmul,
    "Pow": _binary(np.power),
    "ReduceMean": _reduce(np.mean),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Relu": _activation("relu"),
    "Sigmoid": _activation("sigmoid"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Sqrt": lambda i, a, _: np.sqrt(i[0]),
    "Sum": _extreme(np.add),
    "Tanh": _activation("tanh"),
    "ThresholdedRelu": _activation("thresholded_relu", 1.0),
}
