"""The official test cases of ONNX's operators LSTM, GRU and RNN: what they would notice of a broken converter.

They come from the installed package (onnx/backend/test/case/node): a node, its inputs, the outputs it must give, and
how closely (rtol 1e-3, atol 1e-7). A case is read by the converter, converted to a framework and back, and run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from teeth import Mutant

from lstmbridge import convert, registry
from lstmbridge.contract import ReadOptions

__all__ = ["Official", "noticed", "official_cases"]

_WEIGHTS = ("W", "R", "B", "P")
_CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


@dataclass(frozen=True, eq=False)
class Official:
    """One case: a model of one node with its weights in it, the other inputs, and the outputs by name."""

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rtol: float
    atol: float

    @property
    def operator(self) -> str:
        """LSTM, GRU or RNN."""
        return str(self.model.graph.node[0].op_type)

    @property
    def batch_first(self) -> bool:
        """Whether it has layout=1: everything that has a batch has it first."""
        return any(each.name == "layout" and each.i for each in self.model.graph.node[0].attribute)


@functools.cache
def official_cases() -> tuple[Official, ...]:
    """Every official case of the three operators."""
    from onnx.backend.test.case import node
    from onnx.backend.test.case.node import gru, lstm, rnn

    del gru, lstm, rnn  # importing them is what makes the cases
    return tuple(_case(each) for each in node._NodeTestCases if each.model.graph.node[0].op_type in _CELLS.values())


def _case(found: Any) -> Official:
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    [(inputs, outputs)] = found.data_sets
    given = dict(zip((each.name for each in model.graph.input), inputs, strict=True))
    expected = dict(zip((each.name for each in model.graph.output), outputs, strict=True))
    for key in _WEIGHTS:
        if key in given:
            model.graph.initializer.append(onnx.numpy_helper.from_array(given.pop(key), key))
    kept = [each for each in model.graph.input if each.name not in _WEIGHTS]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return Official(found.name, model, given, expected, found.rtol, found.atol)


def holds(case: Official, frameworks: Iterable[str]) -> bool:
    """Whether all outputs are as they must be: of the model as it is, and of what it becomes in each framework.

    The project's own form is run by the equations, the others by themselves, and each once more as it comes back.
    """
    done = [case.model]
    for name in frameworks:
        there = convert(case.model, to=name, faithful=True)
        done += [there, convert(there, to="onnx")]
    return all(_gives(case, each) for each in done)


def _gives(case: Official, obj: Any) -> bool:
    """Whether an object of any framework gives the outputs of a case."""
    live = registry.framework(registry.of_object(obj).name).live
    layers = live.read(obj, ReadOptions()).layers
    turn = (1, 0, 2) if case.batch_first else (0, 1, 2)
    x, lengths = case.inputs["X"], case.inputs.get("sequence_lens")
    states = [_state(case.inputs.get(key), turn) for key in ("initial_h", "initial_c")]
    sequences = x if case.batch_first else x.transpose(1, 0, 2)
    ran = live.run(obj, layers, sequences, *states, None if lengths is None else lengths.tolist())
    directions = len(layers[0].spec.directions)
    apart = np.asarray(ran.y).reshape(*sequences.shape[:2], directions, -1)
    found = {
        "Y": apart if case.batch_first else apart.transpose(1, 2, 0, 3),
        "Y_h": np.asarray(ran.h[0]).transpose(turn),
        "Y_c": None if ran.c[0] is None else np.asarray(ran.c[0]).transpose(turn),
    }
    return all(np.allclose(found[key], right, case.rtol, case.atol) for key, right in case.outputs.items())


def _state(given: np.ndarray | None, turn: Sequence[int]) -> list[np.ndarray] | None:
    """An initial state as `run` takes it, in memory of its own: a mutant may write into it."""
    return None if given is None else [given.transpose(turn).copy()]


def noticed(mutant: Mutant) -> bool:
    """Whether an official case of the mutant's operators fails, or does not run, while the converter is broken."""
    operators = {_CELLS[where.spec.cell] for where in mutant.cases}
    frameworks = {name for where in mutant.cases for name in (where.source, where.target)}
    with mutant.apply():
        return any(_fails(case, frameworks) for case in official_cases() if case.operator in operators)


def _fails(case: Official, frameworks: Iterable[str]) -> bool:
    try:
        return not holds(case, frameworks)
    except Exception:  # any error at all is noticed
        return True
