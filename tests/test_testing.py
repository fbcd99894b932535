"""The checks as a product: what they say, what they refuse, and what a framework's result looks like."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from helpers import layer
from lstmbridge import convert
from lstmbridge.checking import TOLERANCE, check
from lstmbridge.errors import Disagreement, LayoutError, UnknownName, Unsupported
from lstmbridge.frameworks.gates import live
from lstmbridge.testing import (
    CELLS,
    FEATURES,
    SEQUENCES,
    check_complete,
    check_forward,
    check_framework,
    check_gradients,
    check_handover,
    check_refusal,
    combinations,
    spec_of,
)

MASK = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]], bool)


def changed(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """The outputs of the gates framework are others from now on."""
    honest = live.run
    monkeypatch.setattr(live, "run", lambda *args, **kwargs: change(honest(*args, **kwargs)))


# ---- the grid


def test_every_feature_has_a_cell_and_every_cell_most_features() -> None:
    alone = {(cell, features[0]) for cell, features, _ in combinations(1)}
    assert {feature for _, feature in alone} == set(FEATURES)
    assert {cell for cell, _ in alone} == set(CELLS)


def test_features_that_contradict_one_another() -> None:
    assert spec_of("lstm", ("no-bias", "dual-bias")) is None
    assert spec_of("lstm", ("projection", "projection-clip")) is None, "the clip brings its projection"
    assert spec_of("rnn-relu", ("softsign",)) is None
    assert spec_of("rnn-tanh", ("hard-sigmoid-0.2",)) is None, "a vanilla RNN has no gate"


def test_no_two_combinations_are_the_same_layer() -> None:
    specs = [spec for _, _, spec in combinations(2)]
    assert len(set(specs)) == len(specs)


def test_sizes_are_pairwise_different() -> None:
    spec = spec_of("lstm", ("projection",))
    assert spec is not None
    for given in SEQUENCES.values():
        if given["time"] != 1 and given["batch"] != 1:
            sizes = [given["batch"], given["time"], spec.input_size, spec.hidden_size, spec.state_size]
            assert len(set(sizes)) == len(sizes)


# ---- masks, where a framework has none


@pytest.mark.parametrize("features", [{}, {"directions": ("forward", "reverse"), "merge": "sum"}])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_framework_without_masks_gets_the_steps_that_count(cell: str, features: dict[str, Any]) -> None:
    made = layer(cell, bias="dual", **features)
    found = check(made, convert(made, to="torch", faithful=True), batch=3, time=7, mask=MASK)
    assert found.demand().notes == ("torch takes lengths, no mask: it was given the steps that count, moved together",)


def test_outputs_as_processed_under_a_mask() -> None:
    made = layer("gru", directions=("reverse",), processed_order=True)
    assert check(made, convert(made, to="torch", faithful=True), batch=3, time=7, mask=MASK).agrees


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask": MASK}, r"mask has shape \(3, 7\)"),
        ({"mask": MASK, "lengths": [1, 2, 3], "time": 7}, "lengths and a mask"),
    ],
)
def test_masks_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        check(layer(), layer(), **given)


# ---- what is allowed


def test_nothing_but_the_table_in_short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, y=ran.y + 1.1 * TOLERANCE["float32"]))
    with pytest.raises(Disagreement, match="allowed 2e-06"):
        check_forward(layer(), convert(layer(), to="torch"), time=50, batch=2)


def test_a_coarser_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, y=ran.y + 1e-4))
    check_forward(layer(), convert(layer(), to="torch"), tolerance="tf32")
    with pytest.raises(Disagreement):
        check_forward(layer(), convert(layer(), to="torch"))


def test_the_same_kernel_may_differ_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = layer()
    check_forward(one, one, same_kernel=True)
    count = iter(range(100))
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, y=ran.y + 1e-9 * next(count)))
    check_forward(one, one)
    with pytest.raises(Disagreement, match="run the same kernel and differ"):
        check_forward(one, one, same_kernel=True)


# ---- what a check cannot do


def test_a_reverse_direction_has_no_state_to_hand_over() -> None:
    made = layer(directions=("forward", "reverse"))
    with pytest.raises(Unsupported, match="begins at the end"):
        check_handover(made, made)


def test_somebody_has_to_differentiate() -> None:
    with pytest.raises(LayoutError, match="neither side differentiates"):
        check_gradients(layer(), layer())


def test_a_refusal_that_does_not_come_or_comes_for_another_reason() -> None:
    with pytest.raises(Disagreement, match="took what it cannot hold"):
        check_refusal(layer(), "torch", reason="peepholes")
    with pytest.raises(Disagreement, match="refuses for another reason"):
        check_refusal(layer(peepholes=True), "torch", reason="projection")


def test_a_verdict_that_is_not_true(monkeypatch: pytest.MonkeyPatch) -> None:
    from lstmbridge import fit

    monkeypatch.setattr(fit, "REPARAMETERISED", "exact")
    with pytest.raises(Disagreement, match="the verdict is exact"):
        check_complete(layer(forget_constant=1.0), "torch")


# ---- a framework's result


def test_the_result_of_a_framework() -> None:
    result = check_framework("gates", features=["no-bias", "reverse"])
    assert result.demand() is result
    assert {each.check for each in result.outcomes} >= {"structure", "forward", "round_trip", "complete", "dtype"}
    assert str(result).startswith(f"gates: {len(result.outcomes)} checks held, 0 failed\n")


def test_a_framework_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, h=[h + 1 for h in ran.h]))
    result = check_framework("gates", features=["no-bias"])
    assert {each.check for each in result.failures} == {"forward", "handover"}
    assert "FAILED lstm-no-bias / gates->gates / full" in str(result)
    with pytest.raises(Disagreement, match="checks failed"):
        result.demand()


def test_a_framework_that_is_not_there() -> None:
    with pytest.raises(UnknownName, match="gates"):
        check_framework("gate")
