"""Layers taken apart and put together: what is left of them computes what it did, as the equations say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from helpers import same_weights
from lstmbridge import Layer, Spec, check, convert, initial_layer, read, reference
from lstmbridge.arrays import host
from lstmbridge.errors import LayoutError, OptionError, UnknownName
from lstmbridge.spec import DIRECTIONS
from lstmbridge.surgery import bidirectional, grown, kept_features, one_direction, stacked, turned, zero_layer
from lstmbridge.testing import telling_layer

BATCH, TIME, INPUT, HIDDEN, PROJECTION, LARGER = 3, 7, 5, 11, 4, 17

#: A few units of the last place of numbers near one: sums of more terms, all new ones zero, are added in another order.
EXACT = 1e-15

CELLS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "lstm, two biases": {"cell": "lstm", "bias": "dual"},
    "lstm, peepholes": {"cell": "lstm", "peepholes": True},
    "lstm, projection": {"cell": "lstm", "projection_size": PROJECTION, "peepholes": True, "proj_clip": 0.3},
    "lstm, coupled": {"cell": "lstm", "coupled": True, "forget_constant": 1.0, "cell_clip": 0.4},
    "gru, reset after": {"cell": "gru", "bias": "dual"},
    "gru, reset before": {"cell": "gru", "reset_after": False},
    "rnn": {"cell": "rnn", "activations": ["relu"]},
    "rnn, no bias": {"cell": "rnn", "bias": "none"},
}
WAYS: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"directions": ("reverse",), "processed_order": True},
    **{merge: {"directions": DIRECTIONS, "merge": merge} for merge in ("concat", "none", "sum", "mul")},
}


def made(cell: str = "lstm", way: str = "forward", *, seed: int = 0, dtype: str = "float64", **fields: Any) -> Layer:
    """A layer with telling weights, in float64."""
    features = {"input_size": INPUT, "hidden_size": HIDDEN, **CELLS[cell], **WAYS[way], **fields}
    names = {name: features.pop(name) for name in ("path", "level", "after") if name in features}
    return telling_layer(Spec(**features), seed=seed, dtype=dtype, **names)


def telling(spec: Spec, *, dtype: str) -> Layer:
    """New units that do something: every number of the fresh layer is another."""
    return telling_layer(spec, seed=99, dtype=dtype)


def x_of(layer: Layer, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, TIME, layer.spec.input_size))


def states(layer: Layer, seed: int = 2) -> dict[str, np.ndarray]:
    rng, spec = np.random.default_rng(seed), layer.spec
    shapes = {"h0": spec.state_size, "c0": spec.hidden_size}
    return {name: rng.normal(size=(len(spec.directions), BATCH, size)) for name, size in shapes.items()}


LENGTHS = (7, 4, 1)


# ---- directions


@pytest.mark.parametrize("cell", CELLS)
def test_one_direction_of_two_computes_what_it_did(cell: str) -> None:
    both = made(cell, "concat")
    x, given = x_of(both), states(both)
    truth = reference.run(both, x, lengths=LENGTHS, **given)
    size = both.spec.state_size
    for d, direction in enumerate(DIRECTIONS):
        alone = one_direction(both, direction)
        out = reference.run(alone, x, lengths=LENGTHS, **{name: each[d : d + 1] for name, each in given.items()})
        assert alone.spec.directions == (direction,)
        assert np.array_equal(out.y, truth.y[..., d * size : (d + 1) * size])
        assert np.array_equal(out.h[0], truth.h[d])
        assert out.c is None or truth.c is None or np.array_equal(out.c[0], truth.c[d])


@pytest.mark.parametrize("cell", CELLS)
def test_two_directions_put_together_are_the_layer_they_came_from(cell: str) -> None:
    both = made(cell, "mul")
    halves = [one_direction(both, direction) for direction in DIRECTIONS]
    same_weights(bidirectional(halves[0], reverse=halves[1], merge="mul"), both)
    same_weights(bidirectional(halves[0], reverse=turned(halves[1], "forward"), merge="mul"), both)
    exchanged = bidirectional(turned(halves[1], "forward"), reverse=halves[0], merge="mul")
    assert (exchanged["forward.kernel.n" if "n" in both.spec.gates else "forward.kernel.f"]
            != both["forward.kernel.n" if "n" in both.spec.gates else "forward.kernel.f"]).all()  # fmt: skip


def test_directions_with_activations_of_their_own_keep_them() -> None:
    backward = ["sigmoid", "relu", "tanh"]
    both = made("lstm", "concat", reverse_activations=backward)
    halves = [one_direction(both, direction) for direction in DIRECTIONS]
    assert [half.spec.activations[1].name for half in halves] == ["tanh", "relu"]
    assert all(half.spec.reverse_activations is None for half in halves)
    same_weights(bidirectional(halves[0], reverse=halves[1]), both)
    single = halves[1].replace(spec=halves[1].spec.replace(activations=(), reverse_activations=backward))
    assert turned(single, "forward").spec.activations == halves[1].spec.activations


@pytest.mark.parametrize("cell", CELLS)
def test_a_turned_layer_does_to_a_reversed_sequence_what_it_did(cell: str) -> None:
    layer = made(cell)
    x, given = x_of(layer), states(layer)
    one, other = reference.run(layer, x, **given), reference.run(turned(layer, "reverse"), x[:, ::-1], **given)
    assert np.array_equal(one.y, other.y[:, ::-1])
    assert np.array_equal(one.h, other.h)
    same_weights(turned(turned(layer, "reverse"), "forward"), layer)
    backwards = turned(made(cell, "reverse"), "reverse")
    assert not backwards.spec.processed_order


def test_the_reverse_direction_is_a_copy_only_where_that_is_said() -> None:
    layer = made("gru, reset after")
    copy = bidirectional(layer, reverse="copy")
    fresh = bidirectional(layer, reverse=partial(initial_layer, like="keras", seed=0))
    for name in layer:
        assert np.array_equal(copy[name], layer[name])
        assert np.array_equal(fresh[name], layer[name])
        twin = name.replace("forward", "reverse")
        assert np.array_equal(copy[twin], layer[name])
        assert not np.shares_memory(copy[twin], copy[name])
        assert (fresh[twin] != layer[name]).all()
    drawn = initial_layer(layer.spec, like="keras", seed=0, dtype="float64")
    assert all(np.array_equal(fresh[name.replace("forward", "reverse")], drawn[name]) for name in drawn)
    with pytest.raises(TypeError):
        bidirectional(layer)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="reverse='same'"):
        bidirectional(layer, reverse="same")


def test_layers_that_are_no_two_directions_of_one_are_told_apart() -> None:
    layer = made()
    with pytest.raises(LayoutError, match="no two directions of one layer\n.*hidden_size 11 and 12"):
        bidirectional(layer, reverse=made(hidden_size=12))
    with pytest.raises(LayoutError, match="bias single and dual"):
        bidirectional(layer, reverse=made("lstm, two biases"))
    with pytest.raises(LayoutError, match=r"enc: forward\.kernel\.i is float32\n.*expected float64.*\n.*cast=True"):
        bidirectional(layer, reverse=made(dtype="float32", path="enc", seed=1))
    cast = bidirectional(layer, reverse=made(dtype="float32", seed=1), cast=True)
    assert cast.dtype == "float64"
    assert np.array_equal(cast["reverse.bias.f"], made(dtype="float32", seed=1)["forward.bias.f"])


def test_directions_that_are_not_there() -> None:
    layer, both = made(), made(way="concat")
    with pytest.raises(LayoutError, match=r"no reverse direction\n.*forward only\n.*turned\(layer, 'reverse'\)"):
        one_direction(layer, "reverse")
    with pytest.raises(UnknownName, match="did you mean 'reverse'"):
        one_direction(both, "reversed")
    with pytest.raises(UnknownName, match="unknown direction 'backward'"):
        turned(layer, "backward")
    for wrong in (partial(turned, both, "forward"), partial(bidirectional, both, reverse="copy")):
        with pytest.raises(LayoutError, match=r"runs in both directions\n.*one_direction"):
            wrong()
    with pytest.raises(LayoutError, match=r"runs in reverse\n.*turned"):
        bidirectional(turned(layer, "reverse"), reverse="copy")
    same_weights(one_direction(layer, "forward"), layer)


# ---- a layer on top


def test_a_stack_grows_by_a_layer_that_reads_the_last_one() -> None:
    below = (made(path="a"), made("gru, reset before", "concat", input_size=HIDDEN, path="b", after="a", seed=1))
    new = partial(initial_layer, recurrent_kernel=0.1, seed=0)
    layers = stacked(below, new, cell="rnn", reset_after=True, hidden_size=6)
    assert [layer.label for layer in layers] == ["a", "b", "layer3"]
    assert layers[2].after == "b"
    assert (layers[2].spec.cell, layers[2].spec.input_size, layers[2].dtype) == ("rnn", 2 * HIDDEN, "float64")
    x = x_of(below[0])
    before, now = reference.run_stack(below, x), reference.run_stack(layers, x)
    assert all(np.array_equal(one.y, other.y) for one, other in zip(before, now, strict=False))
    assert np.array_equal(now[2].y, reference.run(layers[2], before[1].y).y)


def test_a_layer_that_is_there_is_put_on_top_under_its_own_name() -> None:
    top = made("rnn", input_size=HIDDEN, path="head", seed=4)
    first, second = stacked(made(), top)
    assert (first.label, second.label, second.after) == ("layer1", "head", "layer1")
    assert not any(np.shares_memory(second[name], top[name]) for name in top)
    assert stacked(made(), top, path="other")[1].label == "other"


def test_the_next_level_of_a_module() -> None:
    levels = [made("gru, reset after", path="rnn", level=n, input_size=(INPUT, HIDDEN)[n], seed=n) for n in range(2)]
    layers = stacked(levels, initial_layer)
    assert [(layer.path, layer.level) for layer in layers] == [("rnn", 0), ("rnn", 1), ("rnn", 2)]
    module = convert(layers, to="torch")
    assert module.num_layers == 3
    check(layers, module).demand()


def test_what_cannot_be_put_on_top_says_why() -> None:
    layer = made(path="a")
    with pytest.raises(LayoutError, match="head reads 5 features, a gives 11"):
        stacked(layer, made("rnn", path="head"))
    with pytest.raises(LayoutError, match=r"head: forward\.kernel\.n is float32\n.*expected float64, as a has it"):
        stacked(layer, made("rnn", input_size=HIDDEN, dtype="float32", path="head"))
    assert stacked(layer, made("rnn", input_size=HIDDEN, dtype="float32"), cast=True)[1].dtype == "float64"
    with pytest.raises(LayoutError, match="two layers named 'a'"):
        stacked(layer, made(input_size=HIDDEN, path="a"))
    with pytest.raises(OptionError, match="hidden_size of a layer that is already made"):
        stacked(layer, made(input_size=HIDDEN, path="b"), hidden_size=3)
    with pytest.raises(UnknownName, match="did you mean 'hidden_size'"):
        stacked(layer, initial_layer, hidden_sizes=3)
    with pytest.raises(LayoutError, match="no layer to put another on"):
        stacked([], initial_layer)
    with pytest.raises(OptionError, match="a int makes no layer"):
        stacked(layer, 7)  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match="a layer was asked for: .*float64\n.*float32"):
        stacked(layer, lambda spec, *, dtype: initial_layer(spec))


# ---- more hidden units


def wide_states(before: Layer, after: Layer, new: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random initial states of a layer, and the same for the larger one: `new` times random ones for its new units."""
    small, large = states(before), {name: new * each for name, each in states(after, seed=3).items()}
    for name, each in small.items():
        large[name][..., : each.shape[-1]] = each
    return small, large


def compared(before: Sequence[Layer], after: Sequence[Layer], new: float = 0.0) -> float:
    """How far y, h and c of the old units are from what they were, through the whole stack; run on the same x."""
    given = [wide_states(one, other, new) for one, other in zip(before, after, strict=True)]
    x = x_of(before[0])
    runs = []
    for layers, side in ((before, 0), (after, 1)):
        h0, c0 = ([each[side][name] for each in given] for name in ("h0", "c0"))
        runs.append(reference.run_stack(layers, x, h0=h0, c0=c0, lengths=LENGTHS))
    worst = 0.0
    for one, other, small, large in zip(*runs, before, after, strict=True):
        kept = kept_features(small.spec, large.spec)
        worst = max(worst, np.abs(other.y[..., kept] - one.y).max())
        worst = max(worst, np.abs(other.h[..., : small.spec.state_size] - one.h).max())
        if one.c is not None:
            worst = max(worst, np.abs(other.c[..., : small.spec.hidden_size] - one.c).max())
    return float(worst)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_old_units_of_a_grown_layer_compute_what_they_did(cell: str, way: str) -> None:
    layer = made(cell, way)
    for new in (zero_layer, telling, partial(initial_layer, seed=0)):
        larger = grown(layer, hidden_size=LARGER, new=new)
        assert larger.spec == layer.spec.replace(hidden_size=LARGER)
        assert compared([layer], [larger]) < EXACT
        assert compared([layer], [larger], new=1.0) < EXACT, "whatever the new units do"


def stack_of(cell: str, ways: Sequence[str]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for n, way in enumerate(ways):
        features = INPUT if not layers else kept_features(layers[-1].spec, layers[-1].spec).size
        layers.append(made(cell, way, input_size=features, hidden_size=HIDDEN - 2 * n, seed=n, path=f"l{n}"))
    return tuple(layers)


@pytest.mark.parametrize(
    "ways", [("concat", "concat", "forward"), ("sum", "none", "reverse"), ("reverse", "concat", "mul")]
)
@pytest.mark.parametrize("cell", CELLS)
def test_the_old_units_compute_what_they_did_through_a_whole_stack(cell: str, ways: tuple[str, ...]) -> None:
    layers = stack_of(cell, ways)
    for new in (zero_layer, telling):
        larger = grown(layers, hidden_size=LARGER, new=new)
        assert [each.spec.hidden_size for each in larger] == [LARGER] * 3
        assert compared(layers, larger, new=1.0) < EXACT
        one = grown(layers, hidden_size=LARGER, layer="l1", new=new)
        assert [each.spec.hidden_size for each in one] == [HIDDEN, LARGER, HIDDEN - 4]
        assert compared(layers, one, new=1.0) < EXACT


def test_new_columns_at_the_end_of_both_directions_are_noticed() -> None:
    layers = stack_of("lstm", ("concat", "forward"))
    right = grown(layers, hidden_size=LARGER, new=telling)
    wrong = dict(right[1].weights)
    for name in (n for n in wrong if ".kernel." in n):
        kernel = np.zeros_like(wrong[name])
        kernel[:, : 2 * HIDDEN] = wrong[name][:, kept_features(layers[0].spec, right[0].spec)]
        kernel[HIDDEN - 2 :] = wrong[name][HIDDEN - 2 :]
        wrong[name] = kernel
    assert compared(layers, right) < EXACT
    assert compared(layers, (right[0], right[1].replace(weights=wrong))) > 1e-2


@pytest.mark.parametrize("part", ["recurrent_kernel", "projection"])
def test_new_units_that_reach_old_ones_are_noticed(part: str) -> None:
    layer = made("lstm, projection")
    larger = grown(layer, hidden_size=LARGER, new=telling)
    wrong = {name: np.array(array) for name, array in larger.weights.items()}
    if part == "projection":
        wrong["forward.projection"][:, HIDDEN:] += 0.1
    else:  # the state that is fed back has its old size: a row of an old unit is what can go wrong
        wrong["forward.recurrent_kernel.f"][0] += 0.1
    assert compared([layer], [larger.replace(weights=wrong)]) > 1e-3
    plain = grown(made(), hidden_size=LARGER, new=telling)
    reached = {name: np.array(array) for name, array in plain.weights.items()}
    reached["forward.recurrent_kernel.f"][:HIDDEN, HIDDEN:] += 0.1
    assert compared([made()], [plain.replace(weights=reached)]) > 1e-3


def test_units_that_are_zero_everywhere_stay_zero_and_drawn_ones_do_not() -> None:
    layer = made("gru, reset after")
    outs = [reference.run(grown(layer, hidden_size=LARGER, new=new), x_of(layer)).y[..., HIDDEN:]
            for new in (zero_layer, partial(initial_layer, seed=0))]  # fmt: skip
    assert not outs[0].any()
    assert outs[1].all()


def test_new_rows_are_those_of_the_initializer_that_was_named() -> None:
    layer = made(way="concat")
    new = partial(initial_layer, like="keras", seed=5)
    larger = grown(layer, hidden_size=LARGER, new=new)
    fresh = new(larger.spec, dtype="float64")
    for name in larger:
        assert np.array_equal(larger[name][HIDDEN:], fresh[name][HIDDEN:])
        assert not larger[name][:HIDDEN, HIDDEN:].any() if "recurrent_kernel" in name else True
    assert (larger["reverse.bias.f"][HIDDEN:] == 1).all()


def test_a_layer_that_does_not_grow_is_the_same_and_owns_its_memory() -> None:
    layer = made("lstm, projection", "concat")
    same, larger = (grown(layer, hidden_size=size) for size in (HIDDEN, LARGER))
    same_weights(same, layer)
    for other in (same, larger, one_direction(layer, "forward"), *stacked(layer, initial_layer)):
        assert not any(np.shares_memory(other[name], layer[name]) for name in other if name in layer.weights)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda s: grown(s, hidden_size=9), OptionError, "hidden_size=9 for l0, which has 11\n.*only added"),
        (lambda s: grown(s, hidden_size=17, layer="l3"), UnknownName, "unknown layer 'l3'"),
        (lambda s: grown((s[0], s[0]), hidden_size=17), LayoutError, "l0 reads 5 features, l0 gives 11"),
        (lambda s: grown((s[0], s[1].replace(after="x")), hidden_size=17), LayoutError, "l1 reads x, not l0\n.*stack"),
        (lambda s: grown(s[0], hidden_size=17, new=s[0]), OptionError, "a Layer makes no layer"),
        (lambda s: grown(s[0], hidden_size=0.5), OptionError, "hidden_size is 0.5"),
        (lambda s: grown(s, hidden_size={"l0": 17}), OptionError, "hidden_size is .*\n.*one layer alone: layer="),
        (lambda s: stacked("model.keras", initial_layer), OptionError, "a str is no Layer\n.*read it first"),
    ],
)
def test_what_cannot_grow_says_why(call: Callable[[Any], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(stack_of("lstm", ("forward", "forward")))


# ---- out of live models and into them


def live(framework: str) -> Any:
    """A stack of two bidirectional LSTMs that run in that framework."""
    first = telling_layer(Spec(cell="lstm", input_size=INPUT, hidden_size=HIDDEN, directions=DIRECTIONS), path="a")
    second = Spec(cell="lstm", input_size=2 * HIDDEN, hidden_size=4, directions=DIRECTIONS)
    return convert((first, telling_layer(second, path="b", after="a", seed=1)), to=framework)


@pytest.mark.parametrize("framework", ["keras", "torch", "onnx"])
def test_a_live_model_is_taken_apart_and_put_together_again(framework: str) -> None:
    """The source's config, kept as metadata, gives way where the layer is another."""
    layers = read(live(framework))
    larger = grown(layers, hidden_size=LARGER, new=partial(initial_layer, seed=0))
    again = convert(larger, to=framework)
    check(larger, again).demand()
    for n, (one, other) in enumerate(zip(layers, read(again), strict=True)):
        assert other.spec.hidden_size == LARGER
        assert np.array_equal(host(other["reverse.recurrent_kernel.g"])[: one.spec.hidden_size, : one.spec.hidden_size],
                              host(one["reverse.recurrent_kernel.g"])), n  # fmt: skip
    alone = one_direction(layers[0], "forward")
    check(alone, convert(alone, to=framework)).demand()
    widened = bidirectional(alone, reverse=partial(initial_layer, seed=3))
    check(widened, convert(widened, to=framework)).demand()
    taller = stacked(layers, partial(initial_layer, seed=4), hidden_size=6)
    check(taller, convert(taller, to=framework)).demand()


@pytest.mark.parametrize("new", [zero_layer, partial(initial_layer, seed=0)])
def test_new_units_learn_where_their_rows_were_drawn(new: Any) -> None:
    """With rows and columns of zeros neither has a gradient; with drawn rows the columns have one."""
    torch = pytest.importorskip("torch")
    layers = read(torch.nn.LSTM(INPUT, HIDDEN, num_layers=2, dtype=torch.float64))
    module = convert(grown(layers, hidden_size=LARGER, new=new), to="torch")
    y, _ = module(torch.from_numpy(np.random.default_rng(0).normal(size=(TIME, BATCH, INPUT))))
    y[..., :HIDDEN].sum().backward()
    new_columns = module.weight_ih_l1.grad[:HIDDEN, HIDDEN:]
    assert bool((new_columns != 0).all()) == (new is not zero_layer)
    assert not module.weight_ih_l0.grad[HIDDEN:LARGER].any(), "nothing reads the new units yet"


def test_what_is_no_layer_yet_has_to_be_read_first() -> None:
    layers = (initial_layer(Spec(cell="rnn", input_size=2, hidden_size=3), seed=0),)
    for call in (
        lambda: one_direction(layers, "forward"),  # type: ignore[arg-type]
        lambda: bidirectional(layers, reverse="copy"),  # type: ignore[arg-type]
        lambda: grown(object(), hidden_size=4),  # type: ignore[call-overload]
    ):
        with pytest.raises(OptionError, match="is no Layer(.|\n)*lstmbridge.read"):
            call()


def test_two_layers_that_were_drawn_with_one_seed_are_noticed() -> None:
    one = initial_layer(Spec(cell="gru", input_size=5, hidden_size=5), seed=1, path="a")
    same = partial(initial_layer, seed=1)
    for call in (lambda: bidirectional(one, reverse=same), lambda: stacked(one, same)):
        with pytest.raises(LayoutError, match="the very same weights as a: drawn with one seed\n.*another seed="):
            call()
    rng = np.random.default_rng(1)
    first = initial_layer(one.spec, seed=rng, path="a")
    assert len(stacked(first, partial(initial_layer, seed=rng))) == 2
    assert bidirectional(one, reverse="copy").spec.bidirectional, "asked for by name"
    assert bidirectional(one, reverse=one.replace(path="")).spec.bidirectional, "a layer that is given is meant"
    assert len(stacked(zero_layer(one.spec), zero_layer)) == 2
