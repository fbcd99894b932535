"""What a graph does with a recurrent node's outputs: how it merges the directions, and which node reads them next.

The axes of Y are followed by name through the nodes that only move them: (t d b h) becomes (t b d h) by a Transpose and
(t b (d h)) by a Reshape, which is what torch's exporters write for concatenated directions. An output is known by the
axes it has when it reaches a node that computes something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lstmbridge.frameworks.onnx.constants import Constants, NotConstant
from lstmbridge.frameworks.onnx.graph import Found, Proto, Scope
from lstmbridge.spec import Spec

__all__ = ["End", "Trace", "batch_first", "ends", "feeds", "merge_of"]

#: An axis is a product of the indices t, d, b and h, outermost first.
Axis = tuple[str, ...]

_REDUCED = {"ReduceSum": "sum", "ReduceMean": "ave", "ReduceProd": "mul"}
_STEPS = 1000


@dataclass(frozen=True)
class Trace:
    """The outputs of a node as they are at `name`: their axes, how directions were merged, whether time is flipped."""

    name: str
    axes: tuple[Axis, ...]
    merged: str | None = None
    flipped: bool = False


@dataclass(frozen=True, eq=False)
class End:
    """Where a trace ends: it is input `index` of `node`, or leaves the graph (`node` is None)."""

    trace: Trace
    node: Proto = None
    index: int = 0


def ends(found: Found, spec: Spec, layout: int, constants: Constants) -> list[End]:
    """Every place where the outputs Y of a node are used; none if nobody looks at them."""
    order = "btdh" if layout else "tdbh"
    start = Trace(found.output(0), tuple((index,) for index in order))
    return list(_follow(start, found.scope, spec, constants)) if start.name else []


def merge_of(uses: Sequence[End], spec: Spec) -> tuple[str, bool]:
    """How the directions are merged (as `Spec.merge`), and whether outputs come last step first, if all uses agree."""
    flipped = bool(uses) and all(end.trace.flipped for end in uses)
    if not spec.bidirectional:
        return "concat", flipped
    kinds = {_merge(end.trace) for end in uses}
    if not kinds:  # nobody looks at Y, so it does not matter
        return "concat", False
    return (kinds.pop() if len(kinds) == 1 and not any(end.trace.flipped for end in uses) else "none"), False


def feeds(end: End, spec: Spec, layout: int) -> bool:
    """Whether a trace ends as the input X of a recurrent node, with the axes that this node expects."""
    before = ("b", "t") if layout else ("t", "b")
    features = ("h",) if end.trace.merged or not spec.bidirectional else ("d", "h")
    axes = [tuple(index for index in axis if index != "d" or spec.bidirectional) for axis in end.trace.axes]
    return end.index == 0 and axes == [(before[0],), (before[1],), features]


def batch_first(found: Found, layout: int) -> bool:
    """Whether the sequences that reach a node's X are (b, t, i) in the model around it."""
    if layout:
        return True
    scope, name = found.scope, found.input(0)
    for _ in range(_STEPS):
        node, _index = scope.producers.get(name, (None, 0))
        if node is not None and node.op_type in ("Identity", "Dropout") and node.input:
            name = node.input[0]
            continue
        return node is not None and node.op_type == "Transpose" and scope.attributes(node).get("perm") == [1, 0, 2]
    return False


def _merge(trace: Trace) -> str:
    if trace.merged:
        return trace.merged
    return "concat" if any("d h" in " ".join(axis) for axis in trace.axes) else "none"


def _follow(start: Trace, scope: Scope, spec: Spec, constants: Constants) -> Iterator[End]:
    waiting = [start]
    for _ in range(_STEPS):
        if not waiting:
            return
        trace = waiting.pop()
        if trace.name in scope.outputs:
            yield End(trace)
        for node, index in scope.consumers.get(trace.name, ()):
            if node.op_type == "Shape":  # looks at sizes, not at numbers
                continue
            moved = _moved(trace, index, _Step(node, scope, spec, constants))
            if moved is None:
                yield End(trace, node, index)
            else:
                waiting.append(replace(moved, name=node.output[0]))
    yield from (End(trace) for trace in waiting)


def _moved(trace: Trace, index: int, step: _Step) -> Trace | None:
    """The trace behind a node that only moves its axes; None behind one that does more."""
    move = _MOVES.get(step.node.op_type)
    if move is None or index != 0 or step.node.domain not in ("", "ai.onnx") or not step.node.output:
        return None
    try:
        return move(trace, step)
    except (NotConstant, IndexError, TypeError):  # a node that cannot be as it is; a runtime will say so
        return None


@dataclass(frozen=True, eq=False)
class _Step:
    """A node on the way, and what is known about its arguments."""

    node: Proto
    scope: Scope
    spec: Spec
    constants: Constants

    def argument(self, index: int, name: str) -> list[int] | None:
        """An argument that old versions have as an attribute, new ones as an input."""
        if len(self.node.input) > index and self.node.input[index]:
            return [int(n) for n in self.constants.value(self.scope, self.node.input[index]).reshape(-1)]
        found = self.scope.attributes(self.node).get(name)
        return None if found is None else list(found)


def _same(trace: Trace, step: _Step) -> Trace | None:
    return trace


def _transpose(trace: Trace, step: _Step) -> Trace | None:
    order = step.scope.attributes(step.node).get("perm") or range(len(trace.axes))[::-1]
    return replace(trace, axes=tuple(trace.axes[n] for n in order))


def _squeeze(trace: Trace, step: _Step) -> Trace | None:
    """Behind a Squeeze of the axis of one direction."""
    axes = step.argument(1, "axes")
    if axes is None or step.spec.bidirectional or any(trace.axes[n] != ("d",) for n in axes):
        return None
    gone = {n % len(trace.axes) for n in axes}
    return replace(trace, axes=tuple(axis for n, axis in enumerate(trace.axes) if n not in gone))


def _reshape(trace: Trace, step: _Step) -> Trace | None:
    """Behind a Reshape that keeps the first axes and makes one of all the others."""
    shape = step.argument(1, "shape")
    if not shape or len(shape) > len(trace.axes):
        return None
    kept = len(shape) - 1
    sizes = _sizes(trace, step)
    last = math.prod(sizes[kept:]) if None not in sizes[kept:] else None
    fitting = [size == 0 or size == known for size, known in zip(shape, sizes, strict=False)][:kept]
    fitting.append(shape[-1] in (-1, last))
    if shape.count(-1) > 1 or not all(fits or size == -1 for fits, size in zip(fitting, shape, strict=True)):
        return None
    return replace(trace, axes=(*trace.axes[:kept], tuple(i for axis in trace.axes[kept:] for i in axis)))


def _sizes(trace: Trace, step: _Step) -> list[Any]:
    """The size of each axis, None where the graph does not state it."""
    own = {"d": len(step.spec.directions), "h": step.spec.hidden_size}
    stated = step.scope.sizes.get(trace.name) or (None,) * len(trace.axes)
    return [
        math.prod(own[index] for index in axis) if set(axis) <= set(own) else size
        for axis, size in zip(trace.axes, stated, strict=False)
    ]


def _reduce(trace: Trace, step: _Step) -> Trace | None:
    """Behind a sum, mean or product over the directions."""
    axes = step.argument(1, "axes")
    keeps = step.scope.attributes(step.node).get("keepdims", 1)
    if keeps or axes is None or len(axes) != 1 or trace.axes[axes[0]] != ("d",) or trace.flipped:
        return None
    gone = axes[0] % len(trace.axes)
    left = tuple(axis for n, axis in enumerate(trace.axes) if n != gone)
    return replace(trace, axes=left, merged=_REDUCED[step.node.op_type])


def _slice(trace: Trace, step: _Step) -> Trace | None:
    """Behind a Slice that only reverses time."""
    axes, steps = step.argument(3, "axes"), step.argument(4, "steps")
    starts, stops = step.argument(1, "starts"), step.argument(2, "ends")
    if axes is None or starts is None or stops is None or steps != [-1] or len(axes) != 1:
        return None
    whole = starts[0] == -1 and stops[0] < -(1 << 30)
    return replace(trace, flipped=not trace.flipped) if whole and trace.axes[axes[0]] == ("t",) else None


_MOVES: dict[str, Callable[[Trace, _Step], Trace | None]] = {
    "Identity": _same,
    "Dropout": _same,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Slice": _slice,
    **dict.fromkeys(_REDUCED, _reduce),
}
