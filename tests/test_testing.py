"""The checks as a product: what they say, what they refuse, and what a framework's result looks like."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from helpers import layer
from lstmbridge import convert, edit
from lstmbridge.checking import TOLERANCE, check
from lstmbridge.errors import BridgeError, Disagreement, LayoutError, UnknownName, Unsupported
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
    check_owns_memory,
    check_refusal,
    check_structure,
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


# ---- the likely cause


def ignoring(monkeypatch: pytest.MonkeyPatch, **instead: Any) -> None:
    """The gates framework runs as if it had been given something else."""
    honest = live.run

    def run(obj: Any, layers: Any, x: Any, h0: Any, c0: Any, lengths: Any = None, mask: Any = None) -> Any:
        given = {"h0": h0, "c0": c0, "lengths": lengths, "mask": mask, **instead}
        return honest(obj, layers, x, **given)

    monkeypatch.setattr(live, "run", run)


@pytest.mark.parametrize(
    ("instead", "given", "words"),
    [
        ({"h0": None, "c0": None}, {}, "they agree from zero initial states: does gates use h0 and c0?"),
        (
            {"lengths": None},
            {"lengths": (9, 4, 2), "time": 9},
            "they agree on full sequences: does gates use the lengths?",
        ),
    ],
)
def test_what_a_run_does_not_use(
    instead: dict[str, Any], given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignoring(monkeypatch, **instead)
    with pytest.raises(Disagreement) as caught:
        check_forward(convert(layer(), to="torch"), layer(), **given)
    assert caught.value.details[-1] == words


def test_which_weights_differ() -> None:
    target = convert(layer(bias="dual"), to="torch")
    with edit(target) as gates:
        gates["forward.kernel.f"][3, 2] += 0.5
        gates["forward.bias.o"][1] += 0.5
    with pytest.raises(Disagreement) as caught:
        check_forward(layer(bias="dual"), target)
    assert caught.value.details[-1] == "their weights differ: forward.kernel.f, forward.bias.o"


def test_both_sides_are_the_same_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, h=[h + 1 for h in ran.h]))
    with pytest.raises(Disagreement, match="both sides are gates: its layout is wrong, or how it is run"):
        check_forward(layer(), layer())


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (lambda ran: (ran.y, ran.h), "what its run gives is a tuple"),
        (lambda ran: dataclasses.replace(ran, h=[]), "has 0 h and 1 c"),
        (lambda ran: dataclasses.replace(ran, y=np.swapaxes(ran.y, 0, 1)), r"y has shape \(17, 3, 11\)"),
        (lambda ran: dataclasses.replace(ran, h=[ran.h[0][0]]), r"h has shape \(3, 11\)"),
        (lambda ran: dataclasses.replace(ran, c=[None]), "c has shape None"),
    ],
)
def test_a_run_that_gives_something_else(ran: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, ran)
    with pytest.raises(LayoutError, match=words):
        check(layer(), layer())


@pytest.mark.parametrize("mask", [("xx1", "xxx"), ("xx", "xxx")])
def test_masks_in_letters(mask: tuple[str, ...]) -> None:
    with pytest.raises(LayoutError, match="expected rows of x and"):
        check_forward(layer(), layer(), batch=2, time=3, mask=mask)


# ---- a statement of a layout


def test_a_statement_says_all_of_it() -> None:
    spec = layer().spec
    check_structure(spec, "gates", "gates", stated=lambda obj, made: [(n, obj[0][n], made[n]) for n in made])
    with pytest.raises(Disagreement, match=r"says nothing of forward\.bias\.f, forward\.bias\.g"):
        check_structure(
            spec, "gates", "gates", stated=lambda obj, made: [(n, obj[0][n], made[n]) for n in made if "bias" not in n]
        )
    with pytest.raises(Disagreement, match="says nothing of"):
        check_structure(spec, "gates", "gates", stated=lambda obj, made: [])


def test_a_gate_of_the_opposite_sign_is_named() -> None:
    spec = layer("gru").spec
    with pytest.raises(Disagreement) as caught:
        check_structure(spec, "gates", "gates", stated=lambda obj, made: [(n, obj[0][n], -made[n]) for n in made])
    assert caught.value.details[0] == "-forward.kernel.r: 55 numbers are of the opposite sign (in forward.kernel.r)"
    assert len(caught.value.details) <= 13


# ---- what is written


def test_an_assign_that_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "assign", lambda obj, layers: None)
    with pytest.raises(Disagreement, match="gates: assign did not write"):
        check_owns_memory(layer(), "torch")


# ---- a framework's result


def test_the_result_of_a_framework() -> None:
    result = check_framework("gates", features=["no-bias", "reverse"])
    assert result.demand() is result
    assert {each.check for each in result.outcomes} >= {"structure", "forward", "round_trip", "complete", "dtype"}
    assert {"onnx->gates", "keras->gates"} & {each.case.split(" / ")[1] for each in result.outcomes}
    held = [each for each in result.outcomes if each.status == "held"]
    assert str(result).startswith(f"gates: {len(held)} checks held, 0 failed\n  10 layers converted, 0 refused")
    assert "not run (10): no `gradients` in the live room of gates" in str(result)


def test_failures_of_one_kind_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda ran: dataclasses.replace(ran, h=[h + 1 for h in ran.h]))
    result = check_framework("gates", features=["no-bias"])
    assert {each.check for each in result.failures} == {"forward", "handover"}
    assert "FAILED 10 x check_forward: lstm-no-bias / gates->gates / full: check_forward: " in str(result)
    with pytest.raises(Disagreement, match="checks failed"):
        result.demand()


def test_what_a_room_raises_is_a_failure_of_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise KeyError("w")

    monkeypatch.setattr(live, "run", run)
    result = check_framework("gates", features=["no-bias"])
    [first, *_] = result.failures
    assert re.fullmatch(r"KeyError in run \(.*test_testing\.py:\d+\): 'w'", first.text)
    assert any(each.status == "held" for each in result.outcomes), "the rest went on"


def test_a_framework_that_converts_nothing_proves_nothing() -> None:
    result = check_framework("torch", features=["peepholes"])
    assert not result.failures
    with pytest.raises(Disagreement, match="nothing was converted"):
        result.demand()


def test_a_framework_that_runs_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise Unsupported("gates runs nothing today")

    monkeypatch.setattr(live, "run", run)
    with pytest.raises(Disagreement, match="nothing was run"):
        check_framework("gates", features=["no-bias"]).demand()


@pytest.mark.parametrize("features", [["no bias"], "no-bias"])
def test_features_that_are_none(features: Any) -> None:
    with pytest.raises(BridgeError, match="no-bias"):
        check_framework("gates", features=features)


def test_a_framework_that_is_not_there() -> None:
    with pytest.raises(UnknownName, match="gates"):
        check_framework("gate")
