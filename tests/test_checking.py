"""check and diff: they agree where they should, and name the odd one out where they should not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers import HIDDEN, layer
from lstmbridge import Layer, check, convert, diff
from lstmbridge.checking import TOLERANCE, Difference
from lstmbridge.errors import Disagreement, LayoutError
from lstmbridge.frameworks.gates import live


def exchanged(source: Layer, a: str, b: str) -> Layer:
    """The layer with two weights exchanged."""
    return source.replace(weights={**source.weights, a: source[b], b: source[a]})


def test_a_layer_agrees_with_itself() -> None:
    for cell in ("lstm", "gru", "rnn"):
        found = check(layer(cell), layer(cell))
        assert found.agrees
        assert [row.output for row in found.rows] == (["y", "h", "c"] if cell == "lstm" else ["y", "h"])


@pytest.mark.parametrize("part", ["kernel", "recurrent_kernel", "bias"])
def test_two_exchanged_gates_are_noticed_and_said(part: str) -> None:
    source = layer(path="enc")
    wrong = exchanged(source, f"forward.{part}.f", f"forward.{part}.g")
    found = check(source, wrong)
    assert not found.agrees
    assert {row.verdict(found.a, found.b) for row in found.rows} == {"other weights or settings"}
    assert {row.odd(found.a, found.b) for row in found.rows} == {"gates b is the odd one out"}
    with pytest.raises(Disagreement, match=r"enc y: \d+ of \d+ numbers differ, the most at \(.*\) by .*allowed 2e-06"):
        found.demand()


def test_two_sides_with_different_weights_are_told_so_and_neither_is_blamed_for_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "enc: each side computes what its own weights and settings say; those differ"
    source = layer(path="enc")
    other = exchanged(source, "forward.kernel.f", "forward.kernel.g")
    with pytest.raises(Disagreement, match=words):
        check(source, other).demand()
    honest = live.run

    def wrong(obj: Any, layers: Any, *rest: Any) -> Any:
        out = honest(obj, layers, *rest)
        out.h[0] = out.h[0] + (layers[0] is other)
        return out

    assert not check(source, source).notes
    monkeypatch.setattr(live, "run", wrong)
    found = check(source, other)
    assert not found.agrees
    assert words not in " ".join(found.notes), "this one does not compute what its weights say"


def test_states_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side whose outputs are right and whose c is not must not pass."""
    honest = live.run

    def forgets_c(obj: Any, layers: Any, *rest: Any) -> Any:
        out = honest(obj, layers, *rest)
        out.c[0] = out.h[0]
        return out

    monkeypatch.setattr(live, "run", forgets_c)
    found = check(layer(), layer())
    assert [row.output for row in found.rows if not row.agrees] == ["c"]
    assert found.rows[2].verdict(found.a, found.b) == "the reference is the odd one out"


def test_initial_states_reach_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = live.run
    monkeypatch.setattr(live, "run", lambda obj, layers, x, h0, c0, lengths: honest(obj, layers, x, None, c0, lengths))
    assert not check(layer(), layer()).agrees
    assert check(layer(), layer(), states=False).agrees


def test_lengths_reach_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(layer(), layer(), lengths=[17, 5, 1]).agrees
    honest = live.run
    monkeypatch.setattr(live, "run", lambda obj, layers, x, h0, c0, lengths: honest(obj, layers, x, h0, c0, None))
    assert not check(layer(), layer(), lengths=[17, 5, 1]).agrees


def test_layers_are_paired_in_order_whatever_their_modules_are() -> None:
    a = layer(path="x", bias="dual")
    b = layer(path="x", bias="dual", input_size=HIDDEN, seed=1)
    stacked = (a.replace(level=0), b.replace(level=1, after="x.l0"))
    apart = (a.replace(path="first"), b.replace(path="second", after="first"))
    found = check(stacked, apart)
    assert found.agrees
    assert [(row.layer, row.output) for row in found.rows] == [
        ("x.l1", "y"), ("x.l0", "h"), ("x.l0", "c"), ("x.l1", "h"), ("x.l1", "c"),
    ]  # fmt: skip


def test_layers_that_do_not_pair_up() -> None:
    with pytest.raises(LayoutError, match="2 layers against 1"):
        check((layer(path="a"), layer(path="b")), layer())
    with pytest.raises(LayoutError, match="different kinds"):
        check(layer(), layer("gru"))


def test_the_tolerance_is_of_the_less_precise_side() -> None:
    assert check(layer(dtype="float64"), layer(dtype="float64")).rows[0].allowed == TOLERANCE["float64"] == 1e-12
    half = check(layer(dtype="float64"), layer(dtype="float16"), rounding=0.0)
    assert half.rows[0].allowed == TOLERANCE["float16"]


def test_large_weights_are_allowed_what_the_equations_lose_to_rounding() -> None:
    tame = layer("rnn", activations=["linear"])
    wild = tame.replace(weights={name: array * np.float32(9) for name, array in tame.weights.items()})
    assert {row.allowed for row in check(tame, tame, time=7).rows} == {TOLERANCE["float32"]}
    found = check(wild, wild, time=7)
    assert found.rows[0].allowed > 1e-3
    wrong = wild.replace(weights={**wild.weights, "forward.kernel.n": wild["forward.kernel.n"] * np.float32(1.01)})
    assert not check(wild, wrong, time=7).agrees, "a real difference is still far beyond rounding"


def test_nan_on_one_side_is_a_difference_and_on_both_is_none() -> None:
    a, b = np.array([1.0, np.nan]), np.array([1.0, 2.0])
    assert Difference.of(a, b, 1e-6).largest == np.inf
    assert Difference.of(a, a, 1e-6).largest == 0
    assert Difference.of(np.array([np.inf]), np.array([np.inf]), 1e-6).largest == 0
    with pytest.raises(LayoutError, match="expected the same shape"):
        Difference.of(a, b[:1], 1e-6)


def test_diff_names_the_weights_that_differ() -> None:
    source = layer(bias="dual")
    wrong = exchanged(source, "forward.bias.i", "forward.recurrent_bias.i")
    assert all(each.same for each in diff(source, source))
    found = {each.weight: each for each in diff(source, wrong)}
    assert [name for name, each in found.items() if not each.same] == ["forward.bias.i", "forward.recurrent_bias.i"]
    assert found["forward.bias.i"].differing == HIDDEN
    assert check(source, wrong).agrees, "running cannot see two exchanged biases; only diff can"


def test_diff_of_a_bias_that_one_side_has_not() -> None:
    single = layer()
    padded = {f"forward.recurrent_bias.{g}": np.zeros(HIDDEN, "float32") for g in "ifgo"}
    dual = single.replace(spec=single.spec.replace(bias="dual"), weights={**single.weights, **padded})
    assert all(each.same for each in diff(single, dual))


def test_all_nan_is_no_agreement() -> None:
    a, b = layer(seed=1), layer(seed=2)
    for each in (a, b):
        each["forward.bias.o"][:] = np.nan
        each["forward.bias.f"][:] = np.nan
    found = check(a, b)
    assert not found.agrees
    assert found.rows[0].verdict("a", "b") == "nothing to compare: all is NaN"


@pytest.mark.parametrize("lengths", [[3, 5, 99], [-1, 2, 3], [3]])
def test_lengths_that_cannot_be(lengths: list[int]) -> None:
    with pytest.raises(LayoutError, match="expected 3 of them, one a sequence, each from 0 to 17"):
        check(layer(), layer(), lengths=lengths)


def test_a_layer_is_picked_on_both_sides() -> None:
    both = (layer(path="a"), layer("gru", path="b", seed=1))
    for paths in (["b"], ["a", "b"]):
        assert {row.layer for row in check(both, both, layers=paths).rows} == set(paths)
        assert {each.layer for each in diff(both, both, layers=paths)} == set(paths)
    assert check(both, both[1].replace(path="renamed"), layers=["b"]).agrees


def test_equations_that_overflow_in_the_lesser_dtype_allow_nothing_more() -> None:
    made = layer("rnn", dtype="float16", activations=["linear"])
    weights = {name: array * np.float16(60) for name, array in made.weights.items()}
    wild = made.replace(weights=weights)
    wrong = wild.replace(weights={**weights, "forward.kernel.n": weights["forward.kernel.n"] * np.float16(1.5)})
    found = check(wild, wrong)
    assert any(row.allowed == TOLERANCE["float16"] for row in found.rows)
    assert not found.agrees


def test_diff_compares_two_biases_with_one_by_their_sum() -> None:
    pytest.importorskip("keras")
    dual = layer(bias="dual")
    merged = convert(convert(dual, to="keras"), to="gates")
    assert all(each.same for each in diff(dual, merged))
    assert {each.weight for each in diff(dual, merged) if "bias" in each.weight} == {
        f"forward.bias.{gate} + forward.recurrent_bias.{gate}" for gate in "ifgo"
    }
    changed = exchanged(merged[0], "forward.bias.f", "forward.bias.g")
    assert {each.weight[:14] for each in diff(changed, dual) if not each.same} == {"forward.bias.f", "forward.bias.g"}
    inner = layer("gru", bias="dual")
    weights = {name: array for name, array in inner.weights.items() if "recurrent_bias" not in name}
    one = inner.replace(spec=inner.spec.replace(bias="single"), weights=weights)
    assert not all(each.same for each in diff(inner, one)), "a GRU's second bias of n is not added to the first"
