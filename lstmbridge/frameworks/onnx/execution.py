"""A model's graphs run node by node, with values of any kind: numbers, or symbols that stand for numbers.

Control flow is followed here (If, Loop, Scan, functions, sequences); what an operator does to values is for the
`Algebra` to say. A value that cannot be known is `Missing` and says why; so is all that is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lstmbridge.errors import BridgeError
from lstmbridge.frameworks.onnx.constants import NotConstant, constant_of
from lstmbridge.frameworks.onnx.graph import Proto, Scope, bodies
from lstmbridge.frameworks.onnx.operators import COMPUTING, FAILURES, Budget
from lstmbridge.frameworks.onnx.tensors import CODES, Numbers, array_of

__all__ = ["FREE", "Algebra", "Execution", "Float64", "Frame", "Missing", "TooLarge", "Value", "who_node"]

#: A value of the algebra, a list of them (ONNX's sequences), or Missing.
Value = Any

#: The size that every free dimension gets.
FREE = 3
_NODES, _TURNS = 100_000, 5000
_FLOATS = frozenset(code for name, code in CODES.items() if "float" in name)
_SEQUENCES = frozenset(
    {
        "SequenceEmpty",
        "SequenceConstruct",
        "SequenceAt",
        "SequenceInsert",
        "SequenceErase",
        "SequenceLength",
        "ConcatFromSequence",
        "SplitToSequence",
        "SequenceMap",
    }
)


class TooLarge(Exception):
    """The model is too large to be run here; the argument says what of it."""


@dataclass(frozen=True)
class Missing:
    """A value that is not known, and why."""

    why: str


class Algebra(Protocol):
    """What values are, and what operators do to them.

    constant  the value of a stored tensor
    operate   (operator, its inputs with None where one is left out, attributes, number of outputs, who) -> the outputs
    numbers   the numbers of a value, if they do not depend on the model's inputs; else None
    unknown   what stands for a value of the main graph that is missing, by the shape that the model states
    """

    def constant(self, array: Numbers, scope: Scope | None, name: str) -> Value: ...

    def operate(
        self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], outputs: int, who: str
    ) -> list[Value]: ...

    def numbers(self, value: Value) -> Numbers | None: ...

    def unknown(self, missing: Missing, shape: Sequence[int | None] | None) -> Value: ...


@dataclass(eq=False)
class Frame:
    """The values in one graph (but for those that are stored), and the graph around it (none around a function)."""

    scope: Scope
    parent: Frame | None = None
    values: dict[str, Value] = field(default_factory=dict, repr=False)


def who_node(node: Proto) -> str:
    """A node as messages name it: ``Loop node 'rnn/while'``, by its first output where it has no name."""
    return f"{node.op_type} node {node.name or (node.output[0] if node.output else '')!r}"


class Execution:
    """Runs the graphs of a model.

    algebra  what values are
    scopes   every scope of the model, as `recurrent_nodes` gives them
    file     where the model was read from, for external data
    """

    def __init__(self, algebra: Algebra, scopes: Sequence[Scope], file: Path | None) -> None:
        self.algebra = algebra
        self.file = file
        self._inner = {(each.parent, id(each.graph if each.call is None else each.call)): each for each in scopes}
        self._stored: dict[tuple[Scope, str], Value] = {}
        self._nodes = 0

    def run(self, scope: Scope, given: Mapping[str, Value], parent: Frame | None = None) -> Frame:
        """The values of all names of one graph, those of its inputs given; `given` may also name nodes' outputs."""
        frame = Frame(scope, parent, dict(given))
        for node in scope.graph.node:
            self._nodes += 1
            if self._nodes > _NODES:
                raise TooLarge(f"more than {_NODES} nodes")
            try:
                found = self._node(node, frame)
            except FAILURES as error:
                found = self._missing(node, f"{who_node(node)} is not as it should be ({error})")
            for name, value in zip(node.output, found, strict=False):
                if name and name not in given:
                    stated = parent is None and scope.call is None and isinstance(value, Missing)
                    frame.values[name] = self.algebra.unknown(value, scope.sizes.get(name)) if stated else value
        return frame

    def find(self, name: str, frame: Frame) -> Value:
        """The value of a name in a graph, or in those around it; what is stored is read when it is asked for."""
        around: Frame | None = frame
        while around is not None:
            if name in around.values:
                return around.values[name]
            if name in around.scope.initializers:
                return self._tensor(around.scope, name)
            around = around.parent
        return Missing(f"nothing gives {name!r}")

    def _tensor(self, scope: Scope, name: str) -> Value:
        if (scope, name) not in self._stored:
            try:
                array = array_of(scope.initializers[name], self.file)
                self._stored[scope, name] = self.algebra.constant(array, scope, name)
            except BridgeError as error:
                self._stored[scope, name] = Missing(error.headline)
        return self._stored[scope, name]

    def _node(self, node: Proto, frame: Frame) -> Sequence[Value]:
        inner = self._inner.get((frame.scope, id(node)))
        if inner is not None:
            formal = zip(inner.graph.input, node.input, strict=False)
            found = self.run(inner, {name: self.find(given, frame) for name, given in formal if given})
            return [self.find(name, found) for name in inner.graph.output]
        if node.domain not in ("", "ai.onnx"):
            return self._missing(node, f"it comes from a {node.domain} {who_node(node)}")
        attributes = frame.scope.attributes(node)
        if node.op_type == "Constant":
            return [self._constant(node, frame.scope, attributes)]
        inputs = [self.find(name, frame) if name else None for name in node.input]
        missing = next((each for each in inputs if isinstance(each, Missing)), None)
        if missing is not None:
            return self._missing(node, missing.why)
        special = {"If": self._if, "Loop": self._loop, "Scan": self._scan}.get(node.op_type)
        if special is not None:
            return special(node, inputs, attributes, frame)
        if any(isinstance(each, list) for each in inputs) or node.op_type in _SEQUENCES:
            return [self._sequence(node, inputs, attributes)]
        return self.algebra.operate(node.op_type, inputs, attributes, len(node.output), who_node(node))

    def _missing(self, node: Proto, why: str) -> list[Value]:
        return [Missing(why)] * len(node.output)

    def _constant(self, node: Proto, scope: Scope, attributes: Mapping[str, Any]) -> Value:
        place = (scope, node.output[0])
        if place not in self._stored:
            try:
                self._stored[place] = self.algebra.constant(constant_of(attributes, self.file), scope, place[1])
            except (NotConstant, BridgeError) as error:
                self._stored[place] = Missing(str(error))
        return self._stored[place]

    # ---- control flow

    def _body(self, node: Proto, attributes: Mapping[str, Any], name: str, frame: Frame) -> Scope | None:
        graph = attributes.get(name)
        wanted = next((body for body in bodies(node) if body is graph), None)
        return self._inner.get((frame.scope, id(wanted)))

    def _if(self, node: Proto, inputs: Sequence[Value], attributes: Mapping[str, Any], frame: Frame) -> Sequence[Value]:
        which = self.algebra.numbers(inputs[0])
        if which is None:
            return self._missing(node, f"which branch of {who_node(node)} runs is known at run time only")
        branch = "then_branch" if which.reshape(-1)[:1].all() else "else_branch"
        scope = self._body(node, attributes, branch, frame)
        if scope is None:
            return self._missing(node, f"{who_node(node)} has no {branch}")
        inner = self.run(scope, {}, frame)
        return [self.find(each.name, inner) for each in scope.graph.output]

    def _loop(
        self, node: Proto, inputs: Sequence[Value], attributes: Mapping[str, Any], frame: Frame
    ) -> Sequence[Value]:
        scope = self._body(node, attributes, "body", frame)
        limit, goes = (None if each is None else self._number(each) for each in (*inputs, None, None)[:2])
        if scope is None or isinstance(limit, Missing) or isinstance(goes, Missing):
            return self._missing(node, f"how often {who_node(node)} runs is known at run time only")
        names = [each.name for each in scope.graph.input]
        ends = [each.name for each in scope.graph.output]
        states, scanned = list(inputs[2:]), [[] for _ in ends[1 + len(inputs[2:]) :]]  # type: list[Value], list[list[Value]]
        turn = 0
        while (limit is None or turn < limit) and goes in (None, True):
            if turn >= _TURNS:
                raise TooLarge(f"{who_node(node)} runs more than {_TURNS} times")
            number = self.algebra.constant(np.array(turn, np.int64), None, "")
            going = self.algebra.constant(np.array(True), None, "")
            inner = self.run(scope, dict(zip(names, [number, going, *states], strict=False)), frame)
            found = [self.find(name, inner) for name in ends]
            states = found[1 : 1 + len(states)]
            for kept, value in zip(scanned, found[1 + len(states) :], strict=True):
                kept.append(value)
            goes = self._number(found[0])
            if isinstance(goes, Missing):
                return self._missing(node, f"when {who_node(node)} ends is known at run time only")
            turn += 1
        return [*states, *(self._stacked(kept, 0, node) for kept in scanned)]

    def _number(self, value: Value) -> Any:
        found = None if isinstance(value, Missing | list) else self.algebra.numbers(value)
        if found is None or found.size != 1:
            return Missing("not known")
        return bool(found.reshape(())) if found.dtype == bool else int(found.reshape(()))

    def _scan(
        self, node: Proto, inputs: Sequence[Value], attributes: Mapping[str, Any], frame: Frame
    ) -> Sequence[Value]:
        scope = self._body(node, attributes, "body", frame)
        many = attributes.get("num_scan_inputs")
        if scope is None or not isinstance(many, int) or not 0 < many <= len(inputs) or frame.scope.opset < 9:
            return self._missing(node, f"{who_node(node)} is not one of opset 9 or above")
        names = [each.name for each in scope.graph.input]
        ends = [each.name for each in scope.graph.output]
        states, sequences = list(inputs[: len(inputs) - many]), inputs[len(inputs) - many :]
        many_out = len(ends) - len(states)
        axes = attributes.get("scan_input_axes") or [0] * many
        reverse = attributes.get("scan_input_directions") or [0] * many
        axes_out = attributes.get("scan_output_axes") or [0] * many_out
        reverse_out = attributes.get("scan_output_directions") or [0] * many_out
        time = self._size(sequences[0], axes[0])
        if time is None:
            return self._missing(node, f"how often {who_node(node)} runs is known at run time only")
        if time > _TURNS:
            raise TooLarge(f"{who_node(node)} runs more than {_TURNS} times")
        scanned: list[list[Value]] = [[] for _ in range(many_out)]
        for turn in range(time):
            at = [time - 1 - turn if back else turn for back in reverse]
            step = [self._at(each, n, axis) for each, n, axis in zip(sequences, at, axes, strict=True)]
            inner = self.run(scope, dict(zip(names, [*states, *step], strict=False)), frame)
            found = [self.find(name, inner) for name in ends]
            states = found[: len(states)]
            for kept, value in zip(scanned, found[len(states) :], strict=True):
                kept.append(value)
        stacked = zip(scanned, axes_out, reverse_out, strict=True)
        return [*states, *(self._stacked(kept[::-1] if back else kept, axis, node) for kept, axis, back in stacked)]

    def _size(self, value: Value, axis: int) -> int | None:
        [shape] = self.algebra.operate("Shape", [value], {}, 1, "Shape")
        found = None if isinstance(shape, Missing) else self.algebra.numbers(shape)
        return None if found is None or not -found.size <= axis < found.size else int(found[axis])

    def _at(self, value: Value, index: int, axis: int) -> Value:
        where = self.algebra.constant(np.array(index, np.int64), None, "")
        return self.algebra.operate("Gather", [value, where], {"axis": axis}, 1, "Gather")[0]

    def _stacked(self, values: Sequence[Value], axis: int, node: Proto) -> Value:
        missing = next((each for each in values if isinstance(each, Missing)), None)
        if missing is not None or not values or any(isinstance(each, list) for each in values):
            return missing or Missing(f"{who_node(node)} does not run once")
        axes = self.algebra.constant(np.array([axis], np.int64), None, "")
        raised = [self.algebra.operate("Unsqueeze", [each, axes], {}, 1, "Unsqueeze")[0] for each in values]
        if any(isinstance(each, Missing) for each in raised):
            return Missing(f"{who_node(node)} gives what cannot be put together")
        return self.algebra.operate("Concat", raised, {"axis": axis}, 1, "Concat")[0]

    # ---- sequences

    def _sequence(self, node: Proto, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
        op = node.op_type
        if op == "SequenceEmpty":
            return []
        if op == "SequenceConstruct":
            return list(inputs)
        if not inputs or not isinstance(inputs[0], list):
            return Missing(f"it comes from a {who_node(node)}")
        values = inputs[0]
        if op == "SequenceLength":
            return self.algebra.constant(np.array(len(values), np.int64), None, "")
        if op == "ConcatFromSequence" and not any(isinstance(each, Missing) for each in values):
            if attributes.get("new_axis", 0):
                return self._stacked(values, attributes.get("axis", 0), node)
            return self.algebra.operate("Concat", values, {"axis": attributes.get("axis", 0)}, 1, who_node(node))[0]
        if op in ("SequenceAt", "SequenceInsert", "SequenceErase"):
            return self._placed(node, values, inputs)
        return values if op == "Identity" else Missing(f"it comes from a {who_node(node)}")

    def _placed(self, node: Proto, values: list[Value], inputs: Sequence[Value]) -> Value:
        where = {"SequenceInsert": 2}.get(node.op_type, 1)
        at = self._number(inputs[where]) if len(inputs) > where and inputs[where] is not None else len(values)
        last = len(values) + (node.op_type == "SequenceInsert")
        if isinstance(at, Missing) or not -last <= at < last:
            return Missing(f"it comes from a {who_node(node)}, whose position is not known")
        if node.op_type == "SequenceAt":
            return values[at]
        before = values[: at % (len(values) + 1)] if node.op_type == "SequenceInsert" else values[: at % len(values)]
        if node.op_type == "SequenceInsert":
            return [*before, inputs[1], *values[len(before) :]]
        return [*before, *values[len(before) + 1 :]]


class Float64:
    """The algebra of numbers: every operator in numpy, all floating point in float64."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def constant(self, array: Numbers, scope: Scope | None, name: str) -> Value:
        """The same numbers, floating point as float64."""
        return array if array.dtype.kind in "iub" else array.astype(np.float64)

    def numbers(self, value: Value) -> Numbers | None:
        """All values are numbers here."""
        return np.asarray(value)

    def unknown(self, missing: Missing, shape: Sequence[int | None] | None) -> Value:
        """Missing numbers stay so."""
        return missing

    def operate(
        self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any], outputs: int, who: str
    ) -> list[Value]:
        """The outputs of one operator; Missing for one that is not known here."""
        if op == "Dropout" or (op == "Cast" and attributes.get("to") in tuple(_FLOATS)):
            return [self.constant(np.asarray(inputs[0], np.float64), None, ""), *[Missing("a mask")] * (outputs - 1)]
        if op not in COMPUTING:
            return [Missing(f"it comes from a {who}")] * outputs
        if op == "Split":
            attributes = {**attributes, "outputs": outputs}
        try:
            with np.errstate(all="ignore"):
                result = COMPUTING[op](inputs, attributes, Budget(self.limit))
        except FAILURES as error:
            return [Missing(f"{who}: its inputs do not fit together ({error})")] * outputs
        results = result if isinstance(result, list) else [result]
        return [self.constant(np.asarray(each), None, "") for each in results]


def inputs_of(scope: Scope) -> Iterator[Proto]:
    """The inputs of a model's main graph that are given at run time."""
    return (each for each in scope.graph.input if each.name not in scope.initializers)
