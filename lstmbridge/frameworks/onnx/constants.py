"""The value of a name in a graph, where the graph alone determines it.

Exporters seldom store W, R and B as they are: they stand behind Slice, Concat, Unsqueeze and the like of other
constants. Those operators are evaluated here, in numpy; their versions differ only in whether an argument is an
attribute or an input. Nothing is evaluated to more than a small multiple of what the model stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.onnx.graph import Origin, Proto, Scope
from lstmbridge.frameworks.onnx.operators import EXACT, FAILURES, REPEATING, SELECTING, Budget, filling
from lstmbridge.frameworks.onnx.tensors import Numbers, array_of, stored_bytes

__all__ = ["Constants", "NotConstant", "constant_of"]

_DEPTH = 200
_SMALL = 1 << 26  # bytes; what any value may have


class NotConstant(Exception):
    """The value of a name is not determined by the graph; the argument says why."""


class Constants:
    """The values that the graphs of one model determine.

    file  the model's file, beside which external data lies
    used  the initializers and Constant nodes that were used so far, by (scope, name)
    stored  how many bytes the initializers take
    """

    def __init__(self, file: Path | None, scopes: Sequence[Scope]) -> None:
        self.file = file
        self.used: set[tuple[Scope, str]] = set()
        self.stored = sum(stored_bytes(tensor, file) for scope in scopes for tensor in scope.initializers.values())
        self.limit = 4 * self.stored + _SMALL

    def value(self, scope: Scope, name: str) -> Numbers:
        """The value of `name` in `scope`. Errors: NotConstant with the reason."""
        return self._value(scope.origin(name), {}, 0)

    def is_zero(self, scope: Scope, name: str) -> bool:
        """Whether every element of `name` is zero, however many there are."""
        origin = scope.origin(name)
        for _ in range(_DEPTH):
            node = origin.node
            if node is not None and node.op_type == "ConstantOfShape":
                return not filling(origin.scope.attributes(node)).any()
            if node is None or node.op_type not in SELECTING or not node.input:
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
            if origin.node is None or origin.node.op_type not in REPEATING or not origin.node.input:
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
            return constant_of(scope.attributes(node), self.file)
        if node.op_type not in EXACT or node.domain not in ("", "ai.onnx"):
            raise NotConstant(f"it comes from a {node.op_type} node {node.name!r}{_quantised(node)}")
        inputs = [self._value(scope.origin(name), known, depth + 1) if name else None for name in node.input]
        attributes = scope.attributes(node)
        if node.op_type == "Split":
            attributes["outputs"] = len(node.output)
        try:
            with np.errstate(all="ignore"):
                result = EXACT[node.op_type](inputs, attributes, Budget(self.limit))
            return np.asarray(result[origin.index] if isinstance(result, list) else result)
        except FAILURES as error:
            raise LayoutError(
                f"onnx {node.op_type} node {node.name!r}: its constant inputs do not fit together", f"found: {error}"
            ) from error


def _quantised(node: Proto) -> str:
    """What is said of a node that makes numbers of quantised weights."""
    if "uantizeLinear" not in node.op_type:
        return ""
    scale = f" (scale {node.input[1]!r})" if len(node.input) > 1 else ""
    return f"{scale}; quantised weights are not read"


def constant_of(attributes: Mapping[str, Any], file: Path | None) -> Numbers:
    """The value of a Constant node."""
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        if name in attributes:
            return np.asarray(attributes[name], np.float32 if "float" in name else np.int64)
    if not hasattr(attributes.get("value"), "data_type"):
        raise NotConstant(f"it is a Constant of {', '.join(attributes) or 'nothing'}")
    return array_of(attributes["value"], file)
