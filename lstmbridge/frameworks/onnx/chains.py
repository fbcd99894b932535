"""Where a model may hold the steps of a recurrent layer: matrices that are multiplied again and again.

A chain is the products with one matrix (or with several: a gate may have one of its own) of which each reads what the
one before helped to compute. One product alone may be a single step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmbridge.frameworks.onnx.execution import TooLarge, inputs_of
from lstmbridge.frameworks.onnx.expressions import Atom, Source, Symbols
from lstmbridge.frameworks.onnx.graph import Scope
from lstmbridge.frameworks.onnx.operators import SELECTING
from lstmbridge.frameworks.onnx.steps import Refused
from lstmbridge.frameworks.onnx.tensors import CODES

__all__ = ["QUANTISED", "Chain", "chains", "state_columns", "worth_reading"]

_WORK = 5_000_000
#: Bytes of weights.
_MOST, _FEW = 1 << 30, 1 << 26
_FLOATS = frozenset(CODES[name] for name in ("float32", "float64", "float16", "bfloat16"))
_FUNCTIONS = frozenset(("Sigmoid", "Tanh", "Relu", "HardSigmoid", "Clip", "Elu", "Softsign", "Softplus", "LeakyRelu"))
QUANTISED = frozenset(
    {
        "MatMulInteger",
        "QLinearMatMul",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QAttention",
    }
)


@dataclass(frozen=True, eq=False)
class Chain:
    """The products with one matrix, each of which reads what the one before helped to compute.

    levels  for each atom: the last step whose products stand before it, -1 if none do
    """

    products: Sequence[Atom]
    levels: Sequence[int]

    @property
    def who(self) -> str:
        """The node that multiplies, in its first step."""
        return self.products[0].who

    @property
    def sources(self) -> frozenset[Source]:
        """The stored tensors that its matrix was made of."""
        matrix = self.products[0].matrix
        return frozenset() if matrix is None else matrix.sources


def worth_reading(scopes: Sequence[Scope]) -> int:
    """Up to how many bytes of weights it is worth to look for steps: none without matrices and functions.

    Fewer where nothing is repeated: what has two inputs may be a single step, but seldom is.
    """
    nodes = [node for scope in scopes for node in scope.graph.node]
    ops = {node.op_type for node in nodes}
    if not ops & {"MatMul", "Gemm", *QUANTISED} or not ops & _FUNCTIONS:
        return 0
    read = [
        (scope, _base(scope, name))
        for scope in scopes
        for node in scope.graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input[1:2]
    ]
    if ops & {"Loop", "Scan"} or len(set(read)) < len(read):
        return _MOST
    given = [each for each in inputs_of(scopes[0]) if each.type.tensor_type.elem_type in _FLOATS]
    return _FEW if len(given) > 1 else 0


def _base(scope: Scope, name: str) -> str:
    """The name of what a matrix is a part or another form of."""
    for _ in range(50):
        node, _index = scope.producers.get(name, (None, 0))
        if node is None or node.op_type not in SELECTING or not node.input:
            break
        name = node.input[0]
    return name


def chains(symbols: Symbols) -> tuple[list[Chain], list[Chain]]:
    """The chains of several products, and the products that stand alone."""
    groups: dict[str, list[Atom]] = {}
    for atom in symbols.atoms:
        if atom.op == "MatMul" and atom.matrix is not None:
            groups.setdefault(symbols.digest(atom.matrix), []).append(atom)
    families: dict[tuple[bytes, ...], list[list[Atom]]] = {}
    for group in groups.values():  # a gate may have a matrix of its own; they all read the same states
        families.setdefault(tuple(each.args[0].tobytes() for each in group), []).append(group)
    if len(families) * len(symbols.atoms) > _WORK:
        raise TooLarge(f"{len(families)} matrices and {len(symbols.atoms)} operations")
    several: list[Chain] = []
    alone: list[Chain] = []
    for family in families.values():
        steps = [frozenset(each.number for each in together) for together in zip(*family, strict=True)]
        levels = _levels(symbols, steps)
        if levels is not None:
            (several if len(steps) > 1 else alone).append(Chain(family[0], levels))
    return several, alone


def _levels(symbols: Symbols, steps: Sequence[frozenset[int]]) -> list[int] | None:
    """For each atom: the last step whose products stand before it, else -1; None if the steps do not follow another."""
    own = {number: turn for turn, together in enumerate(steps) for number in together}
    levels: list[int] = []
    for atom in symbols.atoms:
        before = max((levels[n] for n in atom.reads), default=-1)
        turn = own.get(atom.number)
        if turn is not None and before != turn - 1:
            return None
        levels.append(before if turn is None else turn)
    return levels


def state_columns(symbols: Symbols, chain: Chain) -> Any:
    """Which columns of a product's argument are the state; the others are the input."""
    row = chain.products[1].args[0][0]
    shapes = {each.args[0].shape[1:] for each in chain.products}
    mask = np.array([chain.levels[symbols.atom(int(element)).number] == 0 for element in row])
    if len(shapes) != 1 or not mask.any():
        raise Refused("its products are not of one kind")
    return mask
