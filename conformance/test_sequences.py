"""Every kind of sequences: lengths, masks, one step, one sequence, a thousand steps, cut in two anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from cases import PAIRS, SEQUENCE_PAIRS, Case, sequence_cases
from runtimes import BACKEND, FRAMEWORKS, KERAS, plain
from suite import ORIENTED, run

from lstmbridge import convert, reference
from lstmbridge.arrays import host
from lstmbridge.checking import TOLERANCE
from lstmbridge.testing import SEQUENCES, spec_of, telling_layer

#: On the full and the padded sequences every case of test_pairs.py runs.
NAMES = [name for name in SEQUENCES if name not in ("full", "lengths")]

#: Layers whose state can be handed over in mid-sequence.
CUT = [
    Case(cell, (feature,), source, target, "float32", spec, "cut anywhere")
    for cell, feature in itertools.product(
        ("lstm", "gru-after", "gru-before", "rnn-tanh", "rnn-relu"), ("plain", "no-bias", "dual-bias")
    )
    for source, target in SEQUENCE_PAIRS
    if (spec := spec_of(cell, (feature,))) is not None
]


#: Each framework with the next one, and the last with the first.
RING = {*zip(FRAMEWORKS, (*FRAMEWORKS[1:], FRAMEWORKS[0]), strict=True)}


def is_quick(case: Case) -> bool:
    """All but long sequences, where Keras runs on tensorflow only between frameworks that stand next in the ring."""
    return case.sequence != "long" and (BACKEND != "tensorflow" or (case.source, case.target) in RING)


def is_quick_cut(case: Case) -> bool:
    """Plain layers; between frameworks next in the ring, on another backend than tensorflow from Keras to torch."""
    return case.features == ("plain",) and (case.source, case.target) in (
        RING if BACKEND == "tensorflow" else {(KERAS, "torch")}
    )


def parametrized(found: Iterable[Case], quick: Callable[[Case], bool]) -> Any:
    """Every case; those that are not quick are for the full run."""
    marks = {True: [], False: [pytest.mark.slow]}
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id, marks=marks[quick(case)]) for case in found])


@parametrized(sequence_cases(NAMES), is_quick)
def test_sequences(case: Case, record: Any) -> None:
    run(case, record, "sequences")


@parametrized(CUT, is_quick_cut)
def test_cut_anywhere(case: Case, record: Any) -> None:
    """The state is carried from one framework into the other, both ways, at every cut of 20 steps."""
    run(case, record, "sequences")


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("cell", ["lstm", "gru-after", "gru-before", "rnn-tanh", "rnn-relu"])
@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[1] in ("torch", "onnx")])
def test_orientations(orientation: str, cell: str, source: str, target: str, record: Any) -> None:
    spec = spec_of(cell, ("bidirectional",))
    assert spec is not None
    run(Case(cell, ("bidirectional",), source, target, "float32", spec, orientation), record, "sequences")


@pytest.mark.parametrize("cell", ["lstm", "gru-after", "rnn-tanh", "rnn-relu"])
@pytest.mark.parametrize("source", ["keras", "onnx", "gates", "torch"])
def test_unbatched(cell: str, source: str) -> None:
    """torch takes one sequence without a batch: (t, i)."""
    import torch

    spec = spec_of(cell, ("bidirectional",))
    assert spec is not None
    layer = telling_layer(spec)
    module = convert(convert(layer, to=source), to="torch").cpu()
    x = np.random.default_rng(0).normal(size=(9, spec.input_size)).astype("float32")
    with torch.no_grad():
        y, state = module(torch.from_numpy(x))
    truth = reference.run(layer, x[None])
    found = [y, *state] if cell == "lstm" else [y, state]
    expected = [truth.y[0], truth.h[:, 0]] + ([truth.c[:, 0]] if truth.c is not None else [])
    for one, other in zip(found, expected, strict=True):
        assert one.ndim == 2
        np.testing.assert_allclose(host(one), other, rtol=0, atol=TOLERANCE["float32"])


def test_every_kind_of_sequence_is_run() -> None:
    there = {plain(name) for pair in PAIRS for name in pair}
    assert there == ({"keras", "torch"} if BACKEND == "jax" else {"keras", "torch", "onnx", "gates"})
    assert {"lengths", "left mask", "interior mask", "masked row", "long", "one step", "one sequence"} <= set(SEQUENCES)
