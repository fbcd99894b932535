"""Initial weights: each distribution by its moments and bounds, whole matrices, gates and parts by name, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

import lstmbridge
from helpers import layer as any_layer
from helpers import same_weights, spec
from lstmbridge import Layer, Spec, initial_layer, initializers, reference, registry
from lstmbridge.errors import LayoutError, OptionError, SpecError, UnknownName, Unsupported
from lstmbridge.initializers import (
    TRUNCATED_STD,
    Extent,
    Initializer,
    Scheme,
    block,
    block_orthogonal,
    chrono,
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    identity,
    lecun_normal,
    lecun_uniform,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    zeros,
)

BOTH = ("forward", "reverse")
WIDE = Extent(("n",), rows=250, inputs=170, hidden=90)


def drawn(initializer: Initializer, extent: Extent = WIDE, seed: int = 0) -> np.ndarray:
    return initializer.draw(np.random.default_rng(seed), extent)


def rows(layer: Layer, part: str, direction: str = "forward") -> np.ndarray:
    """All gates of a part, one under another."""
    return np.concatenate([layer[f"{direction}.{part}.{gate}"] for gate in layer.spec.gates])


# ---- distributions

UNIFORM: dict[str, tuple[Initializer, float]] = {
    "glorot": (glorot_uniform(), math.sqrt(6 / (170 + 250))),
    "he": (he_uniform(), math.sqrt(6 / 170)),
    "lecun": (lecun_uniform(), math.sqrt(3 / 170)),
    "by units": (uniform(), 1 / math.sqrt(90)),
    "by a limit": (uniform(0.3), 0.3),
    "fan_out": (variance_scaling(0.7, "fan_out", "uniform"), math.sqrt(3 * 0.7 / 250)),
}

#: With the standard deviation of what is drawn, and where the normal was cut.
NORMAL: dict[str, tuple[Initializer, float, float]] = {
    "glorot": (glorot_normal(), math.sqrt(2 / (170 + 250)), 2.0),
    "he": (he_normal(), math.sqrt(2 / 170), 2.0),
    "lecun": (lecun_normal(), math.sqrt(1 / 170), 2.0),
    "truncated": (truncated_normal(0.5), 0.5 * TRUNCATED_STD, 2.0),
    "truncated and corrected": (truncated_normal(0.5, corrected=True), 0.5, 2.0),
    "not truncated": (normal(0.5), 0.5, math.inf),
    "scaled, not truncated": (variance_scaling(3.0, "fan_avg", "normal"), math.sqrt(3 / 210), math.inf),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_a_uniform_distribution_has_its_bounds_and_fills_them(name: str) -> None:
    initializer, limit = UNIFORM[name]
    numbers = drawn(initializer).ravel()
    assert np.abs(numbers).max() <= limit
    assert stats.kstest(numbers, stats.uniform(-limit, 2 * limit).cdf).pvalue > 0.01
    assert stats.kstest(numbers, stats.uniform(-1.05 * limit, 2.1 * limit).cdf).pvalue < 1e-6, "it could tell"


@pytest.mark.parametrize("name", NORMAL)
def test_a_normal_distribution_has_its_deviation_after_the_cut(name: str) -> None:
    initializer, std, cut = NORMAL[name]
    numbers = drawn(initializer).ravel()
    wide = std / (TRUNCATED_STD if math.isfinite(cut) else 1)
    assert np.abs(numbers).max() <= cut * wide
    assert np.abs(numbers).max() > 1.99 * wide, "the cut is where it should be"
    assert numbers.std() == pytest.approx(std, rel=0.01)
    assert stats.kstest(numbers, stats.truncnorm(-cut, cut, scale=wide).cdf).pvalue > 0.01
    assert stats.kstest(numbers, stats.norm(scale=1.06 * std).cdf).pvalue < 1e-6, "it could tell"


def test_what_the_cut_leaves_of_the_deviation_is_what_scipy_says() -> None:
    assert pytest.approx(float(stats.truncnorm(-2, 2).std()), abs=1e-14) == TRUNCATED_STD


def test_numbers_beyond_the_cut_are_drawn_again_and_not_moved_to_it() -> None:
    numbers = drawn(truncated_normal(1.0), Extent(("n",), rows=1000, inputs=1000, hidden=1)).ravel()
    density = np.histogram(np.abs(numbers), bins=[1.90, 1.95, 2.0])[0]
    assert density[1] < density[0], "clipping would heap 4.6 per cent of them up at two"
    assert len(np.unique(numbers)) == numbers.size


def test_vectors_have_their_length_for_both_fans() -> None:
    """As TensorFlow has it, whose peepholes are drawn so."""
    assert Extent(("f",), rows=7, inputs=None, hidden=7).fans == (7, 7)
    assert Extent(("r", "z"), rows=7, inputs=3, hidden=7).fans == (3, 14)


# ---- whole matrices


@pytest.mark.parametrize(("outputs", "inputs"), [(11, 11), (44, 11), (11, 44)])
def test_an_orthogonal_matrix_is_orthonormal_along_its_shorter_side(outputs: int, inputs: int) -> None:
    found = drawn(orthogonal(1.5), Extent(("n",), rows=outputs, inputs=inputs, hidden=11))
    short = found.T @ found if outputs >= inputs else found @ found.T
    np.testing.assert_allclose(short, 1.5**2 * np.eye(min(outputs, inputs)), atol=1e-13)
    assert (found != drawn(orthogonal(1.5), Extent(("n",), rows=outputs, inputs=inputs, hidden=11), seed=1)).all()


def test_orthogonal_matrices_are_drawn_uniformly() -> None:
    """QR alone gives matrices of one sign pattern: its first entry would always be negative."""
    extent = Extent(("n",), rows=2, inputs=2, hidden=2)
    right = [drawn(orthogonal(), extent, seed) for seed in range(1000)]
    wrong = [np.linalg.qr(np.random.default_rng(seed).standard_normal((2, 2)))[0] for seed in range(1000)]
    around = stats.uniform(-math.pi, 2 * math.pi).cdf
    p = [stats.kstest([math.atan2(m[1, 0], m[0, 0]) for m in each], around).pvalue for each in (right, wrong)]
    assert p[0] > 0.01
    assert p[1] < 1e-6, "it could tell"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_orthogonal_is_per_gate_and_block_orthogonal_is_over_all_of_them(cell: str) -> None:
    size = spec(cell).hidden_size
    per_gate = initial_layer(spec(cell), recurrent_kernel=orthogonal(), seed=0, dtype="float64")
    whole = initial_layer(spec(cell), recurrent_kernel=block_orthogonal(), seed=0, dtype="float64")
    for gate in spec(cell).gates:
        one, part = (each[f"forward.recurrent_kernel.{gate}"] for each in (per_gate, whole))
        np.testing.assert_allclose(one @ one.T, np.eye(size), atol=1e-13)
        assert np.abs(part @ part.T - np.eye(size)).max() > 0.1
    stack = rows(whole, "recurrent_kernel")
    np.testing.assert_allclose(stack.T @ stack, np.eye(size), atol=1e-13)
    assert np.abs(rows(per_gate, "recurrent_kernel").T @ rows(per_gate, "recurrent_kernel") - np.eye(size)).max() > 1


def test_any_initializer_can_be_over_the_whole_block() -> None:
    wide = spec(input_size=50, hidden_size=60)
    limits = {}
    for name, initializer in {"gate": glorot_uniform(), "block": block(glorot_uniform())}.items():
        limits[name] = np.abs(rows(initial_layer(wide, kernel=initializer, seed=0), "kernel")).max()
    assert limits["gate"] == pytest.approx(math.sqrt(6 / (50 + 60)), rel=0.01)
    assert limits["block"] == pytest.approx(math.sqrt(6 / (50 + 240)), rel=0.01)


def test_an_identity_network_of_relus_carries_its_state_on() -> None:
    irnn = spec("rnn", activations=["relu"])
    made = initial_layer(irnn, kernel=normal(0.001), recurrent_kernel=identity(), bias=0.0, seed=0, dtype="float64")
    assert np.array_equal(made["forward.recurrent_kernel.n"], np.eye(irnn.hidden_size))
    h0 = np.random.default_rng(1).uniform(1, 2, (1, 3, irnn.hidden_size))
    out = reference.run(made, np.zeros((3, 100, irnn.input_size)), h0=h0)
    assert np.array_equal(out.h, h0)
    gained = initial_layer(irnn, recurrent_kernel=identity(0.01), seed=0, dtype="float64")
    assert np.array_equal(gained["forward.recurrent_kernel.n"], 0.01 * np.eye(irnn.hidden_size))


# ---- biases


def test_chrono_biases_are_in_their_range_and_opposite() -> None:
    wide = spec(hidden_size=2000)
    made = initial_layer(wide, kernel=0, recurrent_kernel=0, bias=chrono(784), seed=0, dtype="float64")
    forget, enter = made["forward.bias.f"], made["forward.bias.i"]
    assert np.array_equal(enter, -forget)
    assert not made["forward.bias.g"].any()
    assert not made["forward.bias.o"].any()
    assert forget.min() >= 0
    assert forget.max() <= math.log(783)
    assert stats.kstest(np.exp(forget), stats.uniform(1, 782).cdf).pvalue > 0.01
    assert stats.kstest(forget, stats.uniform(0, math.log(783)).cdf).pvalue < 1e-6, "it could tell"


FORGET_BIASES: list[tuple[dict[str, Any], dict[str, Any], float]] = [
    ({}, {}, 1.0),
    ({}, {"forget_bias": 2.5}, 2.5),
    ({}, {"bias": zeros()}, 0.0),
    ({}, {"bias": zeros(), "forget_bias": 2.5}, 2.5),
    ({}, {"bias": {"i": -1.0}}, 1.0),
    ({}, {"bias": {"f": 3.0}}, 3.0),
    ({"bias": "dual"}, {}, 1.0),
    ({"forget_constant": 1.0}, {}, 0.0),
    ({"forget_constant": 1.0}, {"forget_bias": 0.5}, 0.5),
    ({}, {"like": "keras"}, 1.0),
    ({}, {"like": "keras", "forget_bias": 0.5}, 0.5),
    ({}, {"like": "keras", "bias": zeros()}, 0.0),
    ({}, {"like": "keras", "bias": {"o": 0.25}}, 1.0),
    ({}, {"like": "flax"}, 0.0),
]


@pytest.mark.parametrize(("features", "said", "expected"), FORGET_BIASES)
def test_the_forget_bias_is_one_unless_something_else_is_said(
    features: dict[str, Any], said: dict[str, Any], expected: float
) -> None:
    made = initial_layer(spec(**features, directions=BOTH), seed=0, **said)
    for direction in BOTH:
        assert (made[f"{direction}.bias.f"] == expected).all()
        if features.get("bias") == "dual":
            assert not made[f"{direction}.recurrent_bias.f"].any(), "it counts once"


# ---- gates and parts


def test_one_gate_is_drawn_by_itself_and_the_others_as_before() -> None:
    some = {"i": 0.5, "o": np.arange(55.0).reshape(11, 5)}
    made = initial_layer(spec(), recurrent_kernel={"g": identity()}, kernel=some, seed=0)
    assert np.array_equal(made["forward.recurrent_kernel.g"], np.eye(11))
    assert (made["forward.kernel.i"] == 0.5).all()
    assert np.array_equal(made["forward.kernel.o"].ravel(), np.arange(55))
    for gate in "if":
        one = made[f"forward.recurrent_kernel.{gate}"]
        np.testing.assert_allclose(one @ one.T, np.eye(11), atol=1e-6)
    assert 0 < np.abs(made["forward.kernel.f"]).max() < math.sqrt(6 / 16)


def test_a_gate_that_is_named_does_not_change_how_the_framework_draws_the_others() -> None:
    """The other three gates are still rows of one orthogonal block."""
    plain, made = (
        initial_layer(spec(), like="keras", seed=0, dtype="float64", **said)
        for said in ({}, {"recurrent_kernel": {"f": orthogonal()}})
    )
    one = made["forward.recurrent_kernel.f"]
    np.testing.assert_allclose(one @ one.T, np.eye(11), atol=1e-13)
    for gate in "igo":
        name = f"forward.recurrent_kernel.{gate}"
        assert np.array_equal(made[name], plain[name])


def test_every_part_takes_an_initializer() -> None:
    full = spec(bias="dual", peepholes=True, projection_size=3, directions=BOTH)
    said = {part: constant(n) for n, part in enumerate(full.parts, 2)}
    made = initial_layer(full, seed=0, **said)
    for n, part in enumerate(full.parts, 2):
        names = [name for name in made if f".{part}" in name]
        assert len(names) == 2 * max(len(full.parts[part]), 1)
        assert all((made[name] == n).all() for name in names), part


def test_a_part_of_a_framework_s_own_is_drawn_over_that_framework_s_arrays() -> None:
    wide = spec(input_size=50, hidden_size=60)
    made = initial_layer(wide, like="keras", kernel=variance_scaling(1.0, "fan_out", "uniform"), seed=0)
    assert np.abs(rows(made, "kernel")).max() == pytest.approx(math.sqrt(3 / 240), rel=0.01)
    made = initial_layer(wide, like="flax", kernel=variance_scaling(1.0, "fan_out", "uniform"), seed=0)
    assert np.abs(rows(made, "kernel")).max() == pytest.approx(math.sqrt(3 / 60), rel=0.01)


def test_one_half_of_a_fused_kernel_is_replaced() -> None:
    """TensorFlow 1 draws input and state as one array; the half that is left keeps the scale of the whole."""
    wide = spec(input_size=50, hidden_size=60, forget_constant=1.0)
    made = initial_layer(wide, like="tf1", recurrent_kernel=zeros(), seed=0)
    assert not rows(made, "recurrent_kernel").any()
    assert np.abs(rows(made, "kernel")).max() == pytest.approx(math.sqrt(6 / (110 + 240)), rel=0.01)


def test_a_bias_that_the_framework_has_no_array_for_is_zero_unless_it_is_given() -> None:
    """Flax' GRU has a second bias for n only."""
    plain = initial_layer(spec("gru", bias="dual"), like="flax", bias=0.5, seed=0)
    made = initial_layer(spec("gru", bias="dual"), like="flax", recurrent_bias=uniform(), seed=0)
    for gate in "rzn":
        assert not plain[f"forward.recurrent_bias.{gate}"].any()
        assert made[f"forward.recurrent_bias.{gate}"].all()


def test_directions_are_drawn_apart_and_so_are_gates() -> None:
    for like in (None, "keras", "torch"):
        made = initial_layer(spec(directions=BOTH, bias="dual" if like == "torch" else "single"), like=like, seed=0)
        kernels = [made[name] for name in made if ".kernel." in name]
        assert len({kernel.tobytes() for kernel in kernels}) == 8, like


@pytest.mark.parametrize("like", [None, "keras", "flax"])
def test_a_seed_gives_the_same_weights_and_a_generator_draws_on(like: str | None) -> None:
    for seed in (7, np.random.default_rng(7)):
        same_weights(initial_layer(spec(), like=like, seed=seed), initial_layer(spec(), like=like, seed=7))
    rng = np.random.default_rng(7)
    first, second = (initial_layer(spec(), like=like, seed=rng) for _ in range(2))
    unseeded = [initial_layer(spec(), like=like) for _ in range(2)]
    for one, other in ((first, second), (first, initial_layer(spec(), like=like, seed=8)), unseeded):
        assert (one["forward.kernel.f"] != other["forward.kernel.f"]).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_weights_are_drawn_in_float64_and_cast_last(dtype: str) -> None:
    exact = initial_layer(spec(), like="keras", seed=0, dtype="float64")
    made = initial_layer(spec(), like="keras", seed=0, dtype=dtype)
    assert made.dtype == dtype
    for name in made:
        assert np.array_equal(made[name], exact[name].astype(made[name].dtype))


def test_an_array_that_was_given_is_copied() -> None:
    own = np.ones((11, 11))
    made = initial_layer(spec("rnn"), recurrent_kernel=own, seed=0, dtype="float64")
    own[:] = 2
    assert (made["forward.recurrent_kernel.n"] == 1).all()


def test_an_array_of_torch_is_taken() -> None:
    torch = pytest.importorskip("torch")
    made = initial_layer(spec("rnn"), recurrent_kernel=torch.eye(11, dtype=torch.bfloat16), bias=[0.5] * 11, seed=0)
    assert np.array_equal(made["forward.recurrent_kernel.n"], np.eye(11))
    assert (made["forward.bias.n"] == 0.5).all()


def test_an_initializer_of_ones_own_is_held_to_its_extent() -> None:
    ramp = Initializer("ramp()", lambda rng, extent: np.linspace(0, 1, extent.outputs))
    made = initial_layer(spec("rnn"), bias=ramp, seed=0)
    assert made["forward.bias.n"][-1] == 1
    with pytest.raises(LayoutError, match=r"ramp\(\) gives shape \(11,\)\n.*expected \(11, 5\) for n"):
        initial_layer(spec("rnn"), kernel=ramp)


def test_the_layer_has_a_name_and_is_public() -> None:
    made = lstmbridge.initial_layer(spec("gru"), seed=0, path="encoder.rnn")
    assert str(made) == "encoder.rnn: gru 5 -> 11, single bias, reset after"
    assert all(getattr(initializers, name).__doc__ for name in initializers.__all__ if name != "TRUNCATED_STD")


# ---- what is refused

REFUSED: list[tuple[str, Spec, str]] = [
    ("torch", spec(), "torch cannot express a single bias, its layers have dual or none: lstm 5"),
    ("torch", spec("gru", bias="dual", reset_after=False), "torch cannot express a GRU with reset_after=False"),
    ("torch", spec(bias="dual", directions=("reverse",)), "outputs of a reverse layer in forward time"),
    ("keras", spec(bias="dual"), "keras cannot express a dual bias, its layers have single or none"),
    ("keras", spec("gru"), "a single bias, its layers have dual or none"),
    ("keras", spec(projection_size=3), "projection"),
    ("keras", spec(forget_constant=1.0), r"keras cannot express a forget constant of \+1"),
    ("flax", spec(bias="none"), "no bias, its layers have single"),
    ("flax", spec("gru", bias="dual", reset_after=False), "reset_after=False"),
    ("tf1", spec(directions=BOTH), "runs forward and reverse"),
]


@pytest.mark.parametrize(("like", "wanted", "words"), REFUSED)
def test_a_layer_that_the_framework_does_not_have_is_refused(like: str, wanted: Spec, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        initial_layer(wanted, like=like)


def test_a_framework_that_draws_nothing_says_who_does() -> None:
    with pytest.raises(Unsupported, match=r"onnx draws no initial weights of its own\n.*flax, keras, tf1, torch"):
        initial_layer(spec(), like="onnx")
    with pytest.raises(UnknownName, match="did you mean 'torch'"):
        initial_layer(spec(), like="pytorch")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kernel": glorot_uniform}, OptionError, r"kernel is the function glorot_uniform\n.*glorot_uniform\(\)"),
    ({"kernel": "he_normal"}, OptionError, r"kernel is the text 'he_normal'\n.*initializers\.he_normal\(\)"),
    ({"kernel": {"f": object()}}, OptionError, r"kernel\.f is a object\n.*an initializer of lstmbridge\.initializers"),
    ({"kernel": True}, OptionError, "kernel is a bool"),
    ({"kernel": {"c": 1.0}}, UnknownName, "unknown gate of kernel 'c'"),
    ({"kernel": np.ones((5, 11))}, LayoutError, r"forward\.kernel\.i has shape \(5, 11\)\n.*\n.*transpose"),
    ({"peephole": 1.0}, OptionError, r"peephole= has no effect\n.*no peephole in lstm 5 -> 11"),
    ({"recurrent_kernel": {"f": chrono(9)}}, OptionError, r"chrono\(9\) draws an LSTM's biases of f and i together"),
    ({"bias": {"f": chrono(9)}}, OptionError, r"f and i together\n.*bias=chrono\(9\)"),
    ({"bias": chrono(9), "forget_bias": 1.0}, OptionError, "forget_bias=1 beside a bias= that says it, too"),
    ({"bias": {"f": 1.0}, "forget_bias": 2.0}, OptionError, "forget_bias=2 beside a bias="),
    ({"bias": orthogonal()}, OptionError, r"orthogonal\(\) of a bias"),
    ({"bias": identity()}, OptionError, r"identity\(\) of a bias"),
    ({"seed": 1.5}, OptionError, r"seed is 1\.5\n.*numpy\.random\.Generator"),
    ({"seed": np.random.RandomState(0)}, OptionError, "seed is RandomState"),
    ({"seed": -1}, OptionError, "seed is -1"),
    ({"dtype": "float23"}, UnknownName, "unknown dtype 'float23'"),
]


@pytest.mark.parametrize(("said", "kind", "words"), WRONG)
def test_what_makes_no_sense_has_a_sentence_of_its_own(said: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        initial_layer(spec(), **said)


@pytest.mark.parametrize("wanted", [spec("gru"), spec("rnn"), spec(bias="none")])
def test_a_forget_bias_where_there_is_none(wanted: Spec) -> None:
    with pytest.raises(OptionError, match="forget_bias= has no effect"):
        initial_layer(wanted, forget_bias=1.0)
    assert not any(".bias.f" in name for name in initial_layer(wanted, seed=0))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: chrono(2), OptionError, r"chrono\(2\).*\n.*more than 2"),
        (lambda: initial_layer(spec("gru"), bias=chrono(9)), OptionError, "an LSTM's biases"),
        (lambda: variance_scaling(1, "fan_inn", "normal"), UnknownName, "unknown mode 'fan_inn'"),
        (lambda: variance_scaling(1, "fan_in", "norm"), UnknownName, "did you mean 'normal'"),
        (lambda: Scheme({"kernels": zeros()}), UnknownName, "unknown part of a scheme 'kernels'"),
        (lambda: Scheme({}, {"bias.c": 1.0}), UnknownName, "unknown gate of a scheme 'c'"),
    ],
)
def test_names_and_constants_that_are_none(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_a_scheme_that_leaves_a_part_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    room = registry.framework("keras").layout
    monkeypatch.setattr(room, "INITIAL", {"rnn": Scheme({"kernel": zeros(), "recurrent_kernel": zeros()})})
    with pytest.raises(Unsupported, match=r"nothing says how bias of rnn .* begins\n.*bias="):
        initial_layer(spec("rnn"), like="keras")
    assert initial_layer(spec("rnn"), like="keras", bias=0.5)["forward.bias.n"].all()


def test_weights_of_every_spec_of_the_grid_can_be_drawn() -> None:
    for features in ({"coupled": True}, {"peepholes": True}, {"projection_size": 3}, {"directions": ("reverse",)}):
        made = initial_layer(spec(**features), seed=0)
        assert set(made) == set(any_layer(**features))
        out = reference.run(made, np.random.default_rng(0).normal(size=(2, 3, 5)))
        assert np.isfinite(out.y).all()
        assert np.abs(out.y).max() > 0.01
    with pytest.raises(SpecError):
        initial_layer(spec("gru", peepholes=True))


def test_what_is_no_number_or_no_spec_says_so() -> None:
    spec = Spec(cell="lstm", input_size=2, hidden_size=3)
    for value in (np.ones(3), "one", zeros(), True):
        with pytest.raises(OptionError, match="forget_bias is a .*\n.*expected a number"):
            initial_layer(spec, forget_bias=value)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="spec is 'lstm'\n.*Spec"):
        initial_layer("lstm")  # type: ignore[arg-type]
    for draw in (normal, truncated_normal):
        with pytest.raises(OptionError, match="std is -1"):
            draw(-1)
