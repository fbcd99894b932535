"""What a model computes as expressions: every number has a number of its own, and every operator says what it read.

A symbolic value is an array of ids, one for each of its elements. An operator that only moves numbers (Slice, Split,
Transpose, Concat, Gather, ...) moves ids; one that computes makes an `Atom`, whose elements get new ids. So a gate can
be followed from the place where it is used to the very column of the matrix that it comes from.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.frameworks.onnx.execution import FREE, Missing, TooLarge, Value
from lstmbridge.frameworks.onnx.graph import Scope
from lstmbridge.frameworks.onnx.layout import decimal
from lstmbridge.frameworks.onnx.operators import COMPUTING, EXACT, FAILURES, SELECTING, Budget, clip_bounds
from lstmbridge.frameworks.onnx.tensors import Numbers

__all__ = ["Atom", "Ids", "Known", "Source", "Symbols"]

Ids = npt.NDArray[np.int64]
#: Where a stored tensor is: its scope and its name there.
Source = tuple[Scope | None, str]

_WIDE = 8
#: Operators that give an element for each element (or tuple of elements, broadcast) of their inputs.
_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Div",
        "Elu",
        "Exp",
        "HardSigmoid",
        "LeakyRelu",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
        "ThresholdedRelu",
        "Where",
        "Clip",
    }
)
#: Operators that are not understood, but whose output is known to have the shape of the first input.
_SAME_SHAPE = frozenset(
    {
        "LayerNormalization",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "Softmax",
        "LogSoftmax",
        "Erf",
        "Gelu",
        "Celu",
        "Selu",
        "Mish",
        "HardSwish",
        "Swish",
        "Round",
        "Sign",
        "Sin",
        "Cos",
        "Log",
        "Floor",
        "Ceil",
        "Reciprocal",
        "PRelu",
        "QuantizeLinear",
        "DequantizeLinear",
        "CumSum",
    }
)
_MOVING = frozenset({*SELECTING, "Concat", "Flatten", "Pad", "ReverseSequence", "ScatterND", "Where"}) - {"Cast"}
#: Those of them that write their output anew; the others give a view.
_COPYING = frozenset({"Concat", "Gather", "Pad", "ReverseSequence", "ScatterND", "Tile", "Where"})


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers that do not depend on the model's inputs, and the stored tensors that they were made of."""

    array: Numbers
    sources: frozenset[Source] = frozenset()

    @property
    def number(self) -> float | None:
        """The one number that it is, as it was meant: 0.2 for 0.20000000298; None if it is no single number."""
        if self.array.size != 1 or self.array.dtype.kind not in "fV":
            return None
        value = float(self.array.reshape(()))
        return decimal(value) if self.array.ndim == 0 and np.float32(value) == value else value


@dataclass(frozen=True, eq=False)
class Atom:
    """One operator's output, flat: elements `start` to `start` + `size`.

    op          the operator; ``input`` and ``constant`` have no arguments
    args        the ids of each argument, flat: as many as `size` where it works element by element, for a matrix
                product (r, k)
    array       of a constant: its numbers, flat
    matrix      of a matrix product: (k, n); element r n + j is row r of the argument times column j
    attributes  what the proof needs to compute it again
    reads       the atoms it reads
    """

    number: int
    start: int
    size: int
    op: str
    who: str
    args: tuple[Ids, ...] = ()
    array: Numbers | None = None
    matrix: Known | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    reads: frozenset[int] = frozenset()

    @property
    def ids(self) -> Ids:
        """The ids of its elements."""
        return np.arange(self.start, self.start + self.size)


class Symbols:
    """The algebra of ids.

    limit  how many elements there may be in all
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.atoms: list[Atom] = []
        self.refused: list[str] = []
        self._begins: list[int] = []
        self._starts = np.zeros(1024, np.int64)  # the same as an array, which is longer
        self._wide: dict[int, tuple[Numbers, Numbers]] = {}
        self._spent = self._next = 0
        self._constants: dict[int, tuple[Known, Ids]] = {}
        self._same: dict[str, int] = {}
        self._digests: dict[tuple[Any, ...], tuple[Numbers, str]] = {}

    def atom(self, element: int) -> Atom:
        """The atom that an element belongs to."""
        return self.atoms[bisect_right(self._begins, element) - 1]

    def atoms_of(self, ids: Ids) -> frozenset[int]:
        """The numbers of the atoms that these elements belong to."""
        if ids.size == 0:
            return frozenset()
        low, high = int(ids.min()), int(ids.max())
        if self.atom(low) is self.atom(high):
            return frozenset({self.atom(low).number})
        starts = self._starts[: len(self.atoms)]
        return frozenset(int(n) for n in np.unique(np.searchsorted(starts, ids.ravel(), "right") - 1))

    def input(self, name: str, shape: Sequence[int]) -> Ids:
        """An array of which nothing is known."""
        size = int(np.prod(shape, dtype=np.int64))
        return self._make(op="input", who=name, size=size).ids.reshape(tuple(shape))

    def digest(self, matrix: Known) -> str:
        """What tells a matrix from others."""
        array = matrix.array
        place = (array.ctypes.data, array.shape, array.strides)  # the same memory, also behind another transpose of it
        if place not in self._digests:
            text = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
            self._digests[place] = (array, f"{array.shape} {array.dtype} {text}")
        return self._digests[place][1]

    def wide(self, matrix: Known) -> Numbers:
        """A matrix in float64; the last ones are kept, as each step multiplies with the same."""
        if id(matrix.array) not in self._wide:
            if len(self._wide) >= _WIDE:
                self._wide.pop(next(iter(self._wide)))
            self._wide[id(matrix.array)] = (matrix.array, matrix.array.astype(np.float64))
        return self._wide[id(matrix.array)][1]

    # ---- the algebra

    def constant(self, array: Numbers, scope: Scope | None, name: str) -> Value:
        """A stored tensor."""
        return Known(array, frozenset({(scope, name)}) if name else frozenset())

    def numbers(self, value: Value) -> Numbers | None:
        """The numbers of a value that is known."""
        return value.array if isinstance(value, Known) else None

    def unknown(self, missing: Missing, shape: Sequence[int | None] | None) -> Value:
        """Elements of which nothing is known but how many they are."""
        if not shape:
            return missing
        sizes = tuple(FREE if size is None else size for size in shape)
        size = int(np.prod(sizes, dtype=np.int64))
        return self._make(op="unknown", who=missing.why, size=size, attributes={"opaque": True}).ids.reshape(sizes)

    def operate(
        self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], outputs: int, who: str
    ) -> list[Value]:
        """The outputs of one operator; Missing where not even their shape is known."""
        if op in ("Dropout", "Cast", "Identity") and isinstance(inputs[0], np.ndarray):
            return [inputs[0], *[Missing("a mask")] * (outputs - 1)]
        if op == "Split":
            attributes = {**attributes, "outputs": outputs}
        try:
            with np.errstate(all="ignore"):
                found = self._operate(op, inputs, attributes, who)
        except FAILURES as error:
            found = Missing(f"{who}: its inputs do not fit together ({error})")
        results = found if isinstance(found, list) else [found]
        if op in _COPYING:
            self._spend(sum(each.size for each in results if isinstance(each, np.ndarray)))
        return results + [Missing(f"it comes from a {who}")] * (outputs - len(results))

    def _operate(self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], who: str) -> Value:
        if op in ("MatMul", "Gemm"):
            return self._product(op, inputs, attributes, who)
        if all(each is None or isinstance(each, Known) for each in inputs):
            return self._known(op, inputs, attributes, who)
        if op in ("Shape", "Size"):
            return Known(np.asarray(EXACT[op](inputs, attributes, self._budget)))
        if op in _MOVING and self._only_moves(op, inputs):
            plain = [self._plain(op, n, each) for n, each in enumerate(inputs)]
            return EXACT[op](plain, attributes, self._budget)
        if op in _ELEMENTWISE:
            return self._elementwise(op, inputs, attributes, who)
        return self._opaque(op, inputs, attributes, who)

    @property
    def _budget(self) -> Budget:
        return Budget(8 * self.limit)

    def _spend(self, elements: int) -> None:
        self._spent += elements
        if self._spent > self.limit:
            raise TooLarge(f"more than {self.limit} numbers on the way")

    def _known(self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], who: str) -> Value:
        if op not in COMPUTING:
            if "uantize" in op:
                self.refused.append(f"{who} gives quantised weights")
            return self._opaque(op, inputs, attributes, who)
        arrays = [None if each is None else each.array for each in inputs]
        sources = frozenset().union(*(each.sources for each in inputs if each is not None))
        result = COMPUTING[op](arrays, attributes, self._budget)
        results = result if isinstance(result, list) else [result]
        self._spend(sum(np.size(each) for each in results if op in ("ConstantOfShape", "Expand", "Tile", "Range")))
        return [Known(np.asarray(each), sources) for each in results]

    def _only_moves(self, op: str, inputs: Sequence[Value]) -> bool:
        """Whether all that says where numbers go is known."""
        data = {"Concat": range(len(inputs)), "ScatterND": (0, 2), "Where": (1, 2)}.get(op, (0,))
        others = (each for n, each in enumerate(inputs) if n not in data)
        return all(each is None or isinstance(each, Known) for each in others)

    def _plain(self, op: str, index: int, value: Value) -> Any:
        """An argument as an array: of ids where it holds numbers that are moved."""
        fills = op == "Pad" and index == 2
        moved = {"Concat": True, "ScatterND": index != 1, "Where": index != 0}.get(op, index == 0)
        if value is None:
            return self._ids(Known(np.zeros(1, np.float32))).reshape(()) if fills else None
        if moved or fills:
            return self._ids(value)
        return value.array

    def _elementwise(self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], who: str) -> Ids:
        if op == "Clip":
            bounds = [each.array if isinstance(each, Known) else each for each in inputs[1:]]
            low, high = clip_bounds([None, *bounds], attributes)
            sources = frozenset().union(*(each.sources for each in inputs[1:] if isinstance(each, Known)))
            inputs, attributes = inputs[:1], {"min": low, "max": high, "sources": sources}
        ids = [self._ids(each) for each in inputs if each is not None]
        shape = np.broadcast_shapes(*(each.shape for each in ids))
        self._spend(sum(0 if each.shape == shape else int(np.prod(shape, dtype=np.int64)) for each in ids))
        flat = tuple(np.broadcast_to(each, shape).reshape(-1) for each in ids)
        return self._make(op=op, who=who, size=flat[0].size, args=flat, attributes=attributes).ids.reshape(shape)

    def _opaque(self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], who: str) -> Value:
        """An operator that is not understood: what it reads is kept, and a shape, where that can be told."""
        shapes = [each.array.shape if isinstance(each, Known) else np.shape(each) for each in inputs]
        if op in _SAME_SHAPE:
            shape: tuple[int, ...] = shapes[0]
        elif op == "Gather" and len(shapes) == 2:  # of a table, by what is known at run time only
            axis = attributes.get("axis", 0) % len(shapes[0])
            shape = (*shapes[0][:axis], *shapes[1], *shapes[0][axis + 1 :])
        elif op in COMPUTING:
            arrays = [each.array if isinstance(each, Known) else None if each is None else np.zeros(each.shape)
                      for each in inputs]  # fmt: skip
            shape = np.shape(COMPUTING[op](arrays, attributes, self._budget))
        else:
            return Missing(f"it comes from a {who}")
        size = int(np.prod(shape, dtype=np.int64))
        flat = tuple(each.reshape(-1) for each in inputs if isinstance(each, np.ndarray))
        return self._make(op=op, who=who, size=size, args=flat, attributes={"opaque": True}).ids.reshape(shape)

    def _product(self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], who: str) -> Value:
        """A matrix product with a known matrix; otherwise what is not understood."""
        a, b, *c = inputs
        if op == "Gemm":
            if attributes.get("alpha", 1.0) != 1.0 or (c and c[0] is not None and attributes.get("beta", 1.0) != 1.0):
                return self._opaque(op, inputs, attributes, who)
            a, b = self._turned(a, attributes.get("transA", 0)), self._turned(b, attributes.get("transB", 0))
        product = self._by_matrix(a, b, who)
        if product is None and isinstance(a, Known) and isinstance(b, np.ndarray) and a.array.ndim == b.ndim == 2:
            turned = self._by_matrix(b.T, self._turned(a, 1), who)
            product = None if turned is None else turned.T
        if product is None:
            return self._opaque("MatMul", [a, b], {}, who)
        return self._elementwise("Add", [product, c[0]], {}, who) if c and c[0] is not None else product

    def _turned(self, value: Value, turn: int) -> Value:
        if not turn:
            return value
        return Known(value.array.T, value.sources) if isinstance(value, Known) else value.T

    def _by_matrix(self, a: Value, b: Value, who: str) -> Ids | None:
        """a (..., k) times a known matrix (k, n)."""
        if not isinstance(b, Known) or b.array.ndim < 2 or any(n != 1 for n in b.array.shape[:-2]):
            return None
        matrix = Known(b.array.reshape(b.array.shape[-2:]), b.sources) if b.array.ndim > 2 else b
        ids = self._ids(a)
        k, n = matrix.array.shape
        if ids.ndim < 1 or ids.shape[-1] != k:
            raise ValueError(f"{ids.shape} times {matrix.array.shape}")
        shape = (*((1,) * (b.array.ndim - ids.ndim)), *ids.shape[:-1], n)
        rows = ids.reshape(-1, k)
        made = self._make(op="MatMul", who=who, size=rows.shape[0] * n, args=(rows,), matrix=matrix)
        return made.ids.reshape(shape)

    def _ids(self, value: Value) -> Ids:
        """The ids of a value's elements; a known one gets an atom of its own."""
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, list):
            raise ValueError("a sequence where an array is expected")
        found = self._constants.get(id(value.array))
        if found is None:
            made = self._make(op="constant", who="", size=value.array.size, matrix=value, array=value.array.reshape(-1))
            found = self._constants[id(value.array)] = (value, made.ids.reshape(value.array.shape))
            assert made.matrix is not None
            if not value.sources <= made.matrix.sources:  # the same numbers, stored twice
                both = Known(made.matrix.array, made.matrix.sources | value.sources)
                self.atoms[made.number] = replace(made, matrix=both)
        return found[1]

    def _make(self, *, op: str, who: str, size: int, **fields: Any) -> Atom:
        """A new atom, or the one that is the same."""
        if op == "input" or fields.get("attributes", {}).get("opaque"):
            return self._new(op, who, size, **fields)
        texts = [f"{op} {size} {sorted(fields.get('attributes', {}).items(), key=str)}"]
        texts += [self.digest(fields["matrix"]) if fields.get("matrix") is not None else ""]
        texts += [hashlib.blake2b(each.tobytes(), digest_size=16).hexdigest() for each in fields.get("args", ())]
        key = " | ".join(texts)
        if key not in self._same:
            self._same[key] = self._new(op, who, size, **fields).number
        return self.atoms[self._same[key]]

    def _new(self, op: str, who: str, size: int, **fields: Any) -> Atom:
        self._spend(size)
        reads = frozenset().union(*(self.atoms_of(each) for each in fields.get("args", ())))
        made = Atom(number=len(self.atoms), start=self._next, size=size, op=op, who=who, reads=reads, **fields)
        self.atoms.append(made)
        if len(self.atoms) > len(self._starts):
            self._starts = np.concatenate([self._starts, np.zeros_like(self._starts)])
        self._starts[made.number] = self._next
        self._begins.append(self._next)
        self._next += size
        return made
