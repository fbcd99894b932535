"""The steps of cells in a graph, proved: each is run beside the equations, on the graph's own nodes.

What a cell was made with (forget_bias, clips, activations) is in its step, and in no variable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import BridgeError, Unsupported
from lstmbridge.frameworks.tf1.evaluate import NotRun, run
from lstmbridge.frameworks.tf1.graph import Graph, Ref
from lstmbridge.frameworks.tf1.layout import spec_of
from lstmbridge.frameworks.tf1.patterns import Guess, Step, guesses
from lstmbridge.reference import STEPS
from lstmbridge.spec import Spec

__all__ = ["Step", "Steps", "steps"]

Array = npt.NDArray[Any]
Fetch = Callable[[str], Array]

#: A gate with more weights than this is checked in float32: the proof then takes less memory than the layer.
_LARGE = 1 << 18
#: How many of the steps with one kernel are run: the first ones may have states that cannot be told apart.
_TRIES = 8
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


@dataclass(frozen=True)
class Steps:
    """The steps of a graph: those that were proved, and the kernels of those that only look like a cell's."""

    proved: Sequence[Step] = ()
    disproved: frozenset[str] = frozenset()


def steps(graph: Graph, fetch: Fetch) -> Steps:
    """Every cell whose step is found, each once. `fetch` gives the numbers of a variable.

    Errors: Unsupported if one cell's steps differ.
    """

    def numbers(name: str) -> Array:
        return graph.constant(name) if graph.is_constant(name) else fetch(name)

    groups: dict[str, list[Guess]] = {}
    for guess in guesses(graph):
        groups.setdefault(guess.step.kernel, []).append(guess)
    verdicts = {kernel: _verdict(graph, group, numbers) for kernel, group in groups.items()}
    proved = [step for step in verdicts.values() if isinstance(step, Step)]
    return Steps(tuple(proved), frozenset(kernel for kernel, verdict in verdicts.items() if verdict is False))


def _verdict(graph: Graph, group: Sequence[Guess], numbers: Fetch) -> Step | bool:
    """The step of one kernel if it is proved; false if it is disproved, true if it can be neither.

    Errors: Unsupported if the steps with one kernel differ.
    """
    fused = [guess.step for guess in group if not guess.result]
    ends = {graph.source(guess.result["h"]) for guess in group if guess.result}
    if not fused and not _goes_round(graph, group, ends):
        return group[0].step.cell_kind == "rnn"  # else the rows of the kernel may be [h; x]
    found: list[bool | None] = []
    for guess in group:
        _expect_same(group[0].step, guess.step, graph)
    for guess in group[:_TRIES]:
        holds = None if fused else _holds(graph, guess, numbers)
        found.append(holds)
        if fused or holds:
            return guess.step
    return False not in found


def _goes_round(graph: Graph, group: Sequence[Guess], ends: Collection[Ref]) -> bool:
    """Whether what a step gives as h comes back as the h of a step, as far as the graph tells.

    A plain RNN is known by that. For a cell of several gates it is enough that h does not come back as x: the graph may
    be a single step, whose states come from outside.
    """
    if any(_back(graph, guess.state["h"]) & set(ends) for guess in group):
        return True
    comes_as_x = any(_back(graph, ref) & set(ends) for guess in group for ref in guess.x)
    return group[0].step.cell_kind != "rnn" and not comes_as_x


#: What a state passes on its way round a loop.
_ROUND = ("Switch", "Merge", "NextIteration", "Select", "SelectV2", "Exit", "RefSwitch", "RefMerge", "RefNextIteration")
_FAR = 64


def _back(graph: Graph, ref: Ref) -> set[Ref]:
    """Where an output may come from, around loops."""
    seen, left = set[Ref](), [ref]
    while left and len(seen) < _FAR:
        source = graph.source(left.pop())
        if source in seen:
            continue
        seen.add(source)
        node = graph.of(source)
        if node is not None and node.op in _ROUND:
            left.extend(node.inputs)
    return seen


def _expect_same(one: Step, other: Step, graph: Graph) -> None:
    if (one.features, one.variables) != (other.features, other.variables):
        raise Unsupported(
            f"{graph.file}: two steps with the kernel {one.kernel} differ",
            f"found: {dict(one.features)} and {dict(other.features)}",
        )


# ---- the proof


def _holds(graph: Graph, guess: Guess, fetch: Fetch) -> bool | None:
    """Whether a step gives what the equations give, on two draws of x and the state; None if it cannot be run."""
    cell = guess.step.cell()
    try:
        arrays = {key: fetch(name) for key, name in cell.variables.items()}
        spec = spec_of(cell.layout, arrays, guess.step.features, cell.scope)
        weights = cell.layout.unpack(arrays, spec)
        return all(_agrees(graph, guess, fetch, spec, weights, seed) for seed in range(2))
    except (NotRun, BridgeError):
        return None


def _agrees(graph: Graph, guess: Guess, fetch: Fetch, spec: Spec, weights: Mapping[str, Array], seed: int) -> bool:
    rng = np.random.default_rng(seed)
    dtype = "float32" if max(array.size for array in weights.values()) > _LARGE else "float64"

    def draw(size: int, scale: float = 1.0) -> Array:
        return np.asarray(scale * rng.normal(size=(3, size)), dtype)

    x, h = draw(spec.input_size), draw(spec.state_size, 0.5)
    c = draw(spec.hidden_size, 2.0)
    given = _given(graph, guess, {"x": x, "h": h, "c": c})
    w = {name.removeprefix("forward."): np.asarray(array, dtype) for name, array in weights.items()}
    expected = dict(zip("hc", STEPS[spec.cell](w, spec, "forward", x, h, c), strict=True))
    found = {name: run(graph, ref, given, fetch, dtype) for name, ref in guess.result.items()}
    return all(
        found[name].shape == expected[name].shape
        and bool(np.allclose(found[name], expected[name], rtol=0, atol=_TOLERANCE[dtype]))
        for name in found
    )


def _given(graph: Graph, guess: Guess, drawn: Mapping[str, Array]) -> dict[Ref, Array]:
    """The draws by the outputs that they stand for. Errors: NotRun where two of them are one output."""
    named = {**dict.fromkeys(guess.x, drawn["x"]), **{ref: drawn[name] for name, ref in guess.state.items()}}
    sources = {graph.source(ref): array for ref, array in named.items()}
    if len(guess.x) != 1 or len(sources) != 1 + len(guess.state):
        raise NotRun("x and the states are not apart")
    return {**named, **sources}
