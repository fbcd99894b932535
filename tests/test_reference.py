"""The equations against steps computed by hand, and against what must hold whatever the numbers are."""

from __future__ import annotations

from math import exp, tanh
from typing import Any

import numpy as np
import pytest

from helpers import BATCH, HIDDEN, PROJECTION, TIME, layer, sequences
from lstmbridge import Activation, Layer
from lstmbridge.errors import LayoutError
from lstmbridge.reference import FUNCTIONS, activate, run, run_stack
from lstmbridge.spec import ACTIVATIONS


def s(x: float) -> float:
    return 1 / (1 + exp(-x))


def one(**gates: float) -> dict[str, np.ndarray]:
    """A weight of a layer with one input and one unit, gate by gate."""
    return {gate: np.array([[value]]) for gate, value in gates.items()}


def bias(**gates: float) -> dict[str, np.ndarray]:
    return {gate: np.array([value]) for gate, value in gates.items()}


LSTM: dict[str, Any] = {
    "kernel": one(i=0.3, f=-0.2, g=0.7, o=0.5),
    "recurrent_kernel": one(i=0.11, f=0.23, g=-0.31, o=0.43),
    "bias": bias(i=0.05, f=0.9, g=-0.07, o=0.02),
}
X, H, C = 1.7, 0.4, -0.6


def step(made: Layer, c: bool = True) -> tuple[float, float]:
    """h and c after one step from (X, H, C)."""
    out = run(made, [[[X]]], h0=[[[H]]], c0=[[[C]]] if c else None)
    assert out.y.item() == out.h.item()
    return out.h.item(), out.c.item() if out.c is not None else 0.0


def totals(extra_f: float = 0.0) -> tuple[float, float, float, float]:
    return (
        0.3 * X + 0.11 * H + 0.05,
        -0.2 * X + 0.23 * H + 0.9 + extra_f,
        0.7 * X - 0.31 * H - 0.07,
        0.5 * X + 0.43 * H + 0.02,
    )


def test_lstm_by_hand() -> None:
    i, f, g, o = totals()
    c = s(f) * C + s(i) * tanh(g)
    assert step(Layer.from_gates(**LSTM)) == pytest.approx((s(o) * tanh(c), c), abs=1e-15)


def test_peepholes_see_the_old_c_but_o_the_new_one() -> None:
    i, f, g, o = totals()
    c = s(f + 0.17 * C) * C + s(i + 0.13 * C) * tanh(g)
    h = s(o + 0.19 * c) * tanh(c)
    made = Layer.from_gates(**LSTM, peephole=bias(i=0.13, f=0.17, o=0.19))
    assert step(made) == pytest.approx((h, c), abs=1e-15)


def test_coupled_gates_by_hand() -> None:
    i, _, g, o = totals()
    c = (1 - s(i)) * C + s(i) * tanh(g)
    assert step(Layer.from_gates(**LSTM, coupled=True)) == pytest.approx((s(o) * tanh(c), c), abs=1e-15)


@pytest.mark.parametrize("constant", [0.0, 1.0, 2.5])
def test_the_forget_constant_is_added_at_run_time(constant: float) -> None:
    i, f, g, o = totals(constant)
    c = s(f) * C + s(i) * tanh(g)
    made = Layer.from_gates(**LSTM, forget_constant=constant)
    assert step(made) == pytest.approx((s(o) * tanh(c), c), abs=1e-15)


def test_the_three_clips_act_where_they_should() -> None:
    i, f, g, o = (max(-0.5, min(0.5, total)) for total in totals())
    c = s(f) * C + s(i) * tanh(g)
    assert step(Layer.from_gates(**LSTM, clip=0.5)) == pytest.approx((s(o) * tanh(c), c), abs=1e-15)

    i, f, g, o = totals()
    c = max(-0.05, min(0.05, s(f) * C + s(i) * tanh(g)))
    assert abs(c) == 0.05
    assert step(Layer.from_gates(**LSTM, cell_clip=0.05)) == pytest.approx((s(o) * tanh(c), c), abs=1e-15)

    made = Layer.from_gates(**LSTM, projection=np.array([[-3.0]]), proj_clip=0.05)
    c = s(f) * C + s(i) * tanh(g)
    assert step(made) == pytest.approx((max(-0.05, min(0.05, -3 * s(o) * tanh(c))), c), abs=1e-15)


def test_projection_by_hand() -> None:
    i, f, g, o = totals()
    c = s(f) * C + s(i) * tanh(g)
    made = Layer.from_gates(**LSTM, projection=np.array([[-3.0]]))
    assert step(made) == pytest.approx((-3 * s(o) * tanh(c), c), abs=1e-15)


GRU: dict[str, Any] = {
    "kernel": one(r=0.3, z=-0.2, n=0.7),
    "recurrent_kernel": one(r=0.11, z=0.23, n=-0.31),
    "bias": bias(r=0.05, z=0.9, n=-0.07),
    "recurrent_bias": bias(r=0.21, z=-0.4, n=0.37),
}


@pytest.mark.parametrize("after", [True, False])
def test_gru_by_hand(after: bool) -> None:
    r = s(0.3 * X + 0.11 * H + 0.05 + 0.21)
    z = s(-0.2 * X + 0.23 * H + 0.9 - 0.4)
    inner = r * (-0.31 * H + 0.37) if after else -0.31 * (r * H) + 0.37
    n = tanh(0.7 * X - 0.07 + inner)
    made = Layer.from_gates(**GRU, reset_after=after)
    assert step(made, c=False)[0] == pytest.approx((1 - z) * n + z * H, abs=1e-15)


def test_rnn_by_hand() -> None:
    made = Layer.from_gates(kernel=one(n=0.7), recurrent_kernel=one(n=-0.31), bias=bias(n=0.2), activations=["relu"])
    assert step(made, c=False)[0] == pytest.approx(0.7 * X - 0.31 * H + 0.2, abs=1e-15)


def test_activations_belong_to_their_roles() -> None:
    i, f, g, o = totals()
    hard = lambda x: max(0.0, min(1.0, x / 6 + 0.5))  # noqa: E731
    c = hard(f) * C + hard(i) * (g / (1 + abs(g)))
    made = Layer.from_gates(**LSTM, activations=[("hard_sigmoid", 1 / 6, 0.5), "softsign", "relu"])
    assert step(made) == pytest.approx((hard(o) * max(c, 0), c), abs=1e-15)


@pytest.mark.parametrize(
    ("activation", "at"),
    [
        (Activation("hard_sigmoid"), {-3.0: 0.0, -2.0: 0.1, 1.0: 0.7, 3.0: 1.0}),
        (Activation("hard_sigmoid", 1 / 6, 0.5), {-3.0: 0.0, 1.5: 0.75, 3.0: 1.0}),
        (Activation("scaled_tanh", 2.0, 3.0), {0.2: 2 * tanh(0.6)}),
        (Activation("affine", 2.0, 3.0), {-1.5: 0.0, 1.0: 5.0}),
        (Activation("elu", 0.5), {-1.0: 0.5 * (exp(-1) - 1), 2.0: 2.0}),
        (Activation("leaky_relu", 0.1), {-2.0: -0.2, 2.0: 2.0}),
        (Activation("thresholded_relu", 1.5), {1.4: 0.0, 1.5: 0.0, 1.6: 1.6}),
        (Activation("softsign"), {-3.0: -0.75, 1.0: 0.5}),
        (Activation("softplus"), {0.0: 0.6931471805599453, 800.0: 800.0}),
        (Activation("sigmoid"), {0.0: 0.5, -800.0: 0.0, 800.0: 1.0}),
        (Activation("silu"), {1.0: s(1.0)}),
        (Activation("selu"), {1.0: 1.0507009873554805, -1.0: -1.1113307378125625}),
        (Activation("exponential"), {1.0: exp(1.0)}),
    ],
)
def test_activations_by_hand(activation: Activation, at: dict[float, float]) -> None:
    found = activate(activation, np.array(list(at)))
    assert found.tolist() == pytest.approx(list(at.values()), abs=1e-12)


def test_every_activation_has_its_function() -> None:
    assert set(FUNCTIONS) == set(ACTIVATIONS)


# ---- what must hold whatever the numbers are

CELLS = [("lstm", {}), ("gru", {}), ("gru", {"reset_after": False, "bias": "dual"}), ("rnn", {}),
         ("lstm", {"projection_size": PROJECTION, "peepholes": True})]  # fmt: skip


@pytest.mark.parametrize(("cell", "features"), CELLS)
def test_a_reverse_layer_is_a_forward_layer_on_the_flipped_sequence(cell: str, features: dict) -> None:
    forward = layer(cell, **features)
    weights = {name.replace("forward", "reverse"): array for name, array in forward.weights.items()}
    x = sequences(forward.spec)
    for processed in (False, True):
        spec = forward.spec.replace(directions=("reverse",), processed_order=processed)
        out = run(Layer(spec=spec, weights=weights), x)
        expected = run(forward, x[:, ::-1])
        assert np.array_equal(out.y, expected.y if processed else expected.y[:, ::-1])
        assert np.array_equal(out.h, expected.h)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "none"])
def test_merges(merge: str) -> None:
    both = layer(directions=("forward", "reverse"), merge=merge)
    x = sequences(both.spec)
    halves = []
    for direction in both.spec.directions:
        mine = {name: array for name, array in both.weights.items() if name.startswith(direction)}
        spec = both.spec.replace(directions=(direction,), merge="concat")
        halves.append(run(Layer(spec=spec, weights=mine), x).y)
    a, b = halves
    wide = np.concatenate(halves, axis=-1)
    expected = {"concat": wide, "none": wide, "sum": a + b, "mul": a * b, "ave": (a + b) / 2}[merge]
    assert np.array_equal(run(both, x).y, expected)


@pytest.mark.parametrize(("cell", "features"), CELLS)
def test_lengths_are_shorter_sequences(cell: str, features: dict) -> None:
    made = layer(cell, directions=("forward", "reverse"), **features)
    x = sequences(made.spec)
    lengths = [TIME, TIME - 3]
    out = run(made, x, lengths=lengths)
    for n, length in enumerate(lengths):
        alone = run(made, x[n : n + 1, :length])
        assert np.allclose(out.y[n, :length], alone.y[0], atol=1e-15)
        assert not out.y[n, length:].any()
        assert np.allclose(out.h[:, n], alone.h[:, 0], atol=1e-15)


@pytest.mark.parametrize(("cell", "features"), CELLS)
def test_a_sequence_cut_anywhere_with_its_state_carried_is_the_whole(cell: str, features: dict) -> None:
    made = layer(cell, **features)
    x = sequences(made.spec)
    whole = run(made, x)
    for cut in range(1, TIME):
        first = run(made, x[:, :cut])
        second = run(made, x[:, cut:], h0=first.h, c0=first.c)
        assert np.array_equal(np.concatenate([first.y, second.y], axis=1), whole.y)
        assert np.array_equal(second.h, whole.h)


def test_a_masked_step_holds_the_state_and_gives_zero() -> None:
    made = layer()
    x = sequences(made.spec)
    mask = np.ones((BATCH, TIME), bool)
    mask[0, 2], mask[1, :] = False, False
    out = run(made, x, mask=mask)
    assert np.allclose(out.y[0, 3:], run(made, np.delete(x[:1], 2, axis=1)).y[0, 2:], atol=1e-15)
    assert not out.y[1].any()
    assert not out.h[0, 1].any()


def test_a_stack_reads_what_the_layer_before_gave() -> None:
    first = layer(directions=("forward", "reverse"))
    second = layer("gru", input_size=2 * HIDDEN, hidden_size=4, seed=1)
    x = sequences(first.spec)
    assert np.array_equal(run_stack([first, second], x)[1].y, run(second, run(first, x).y).y)


def test_wrong_shapes_are_named() -> None:
    made = layer()
    with pytest.raises(LayoutError, match=r"x has shape \(2, 7, 4\)\n.*\(2, 7, 5\)"):
        run(made, np.ones((2, 7, 4)))
    with pytest.raises(LayoutError, match=r"h0 has shape \(2, 11\)\n.*\(1, 2, 11\)"):
        run(made, np.ones((2, 7, 5)), h0=np.ones((2, 11)))
    with pytest.raises(LayoutError, match="lengths"):
        run(made, np.ones((2, 7, 5)), lengths=[1, 2, 3])
