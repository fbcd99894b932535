"""Optimizers on their way: what is kept for a weight moves with it, settings come along, and what cannot is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import layer, spec
from lstmbridge import Layer, convert, migrate, read, registry
from lstmbridge.arrays import host
from lstmbridge.errors import Ambiguous, BridgeError, Disagreement, FileError, LayoutError, UnknownName, Unsupported
from lstmbridge.fit import adjoint, terms
from lstmbridge.notation import Layout
from lstmbridge.optimizers import KINDS, SETTINGS, OptimizerState, carried, packed, unpacked
from lstmbridge.testing import check_gradients, check_training
from lstmbridge.training import freeze_second_bias, migrate_optimizer, read_optimizer, write_optimizer

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

INPUT, STEPS = 5, 20

#: Settings that float32 holds, and an epsilon that is nothing: so both frameworks compute the same.
ADAM = OptimizerState(
    kind="adam", learning_rate=2**-7, settings={"beta_1": 0.875, "beta_2": 1 - 2**-7, "epsilon": 1e-30}
)
SGD = OptimizerState(kind="sgd", learning_rate=2**-4)


def double(cell: str = "lstm", **features: Any) -> Layer:
    return layer(cell, dtype="float64", **features)


def trained_torch(module: Any, make: Callable[[Any], Any], steps: int = 3, **more: Any) -> Any:
    """An optimizer of a module, after some steps on numbers of its own."""
    optimizer = make(module.parameters())
    like = next(module.parameters())
    for number in range(steps):
        optimizer.zero_grad()
        x = torch.from_numpy(np.random.default_rng(number).normal(size=(6, 2, INPUT))).to(like.dtype)
        (module(x)[0] ** 2).sum().backward()
        optimizer.step()
    return optimizer


# ---- what is kept moves with its weight


@pytest.mark.parametrize("power", [1, 2])
def test_an_even_power_has_no_sign(power: int) -> None:
    layout = Layout("r -z n", ("W", "kernel : (g h) i"), ("R", "recurrent_kernel : (g h) p"), ("b", "bias : (g h)"))
    gru = layer("gru")
    arrays = {
        key: np.arange(1.0, 1 + np.prod(shape)).reshape(shape) for key, shape in layout.shapes(gru.spec).items()
    }
    found = unpacked(layout, gru, arrays, power)
    size = gru.spec.hidden_size
    np.testing.assert_array_equal(found["forward.kernel.r"], arrays["W"][:size])
    np.testing.assert_array_equal(found["forward.kernel.z"], (-1) ** power * arrays["W"][size : 2 * size])
    again = packed(layout, gru, found, power)
    assert {key: array.tolist() for key, array in again.items()} == {k: a.tolist() for k, a in arrays.items()}
    assert not any(np.shares_memory(array, arrays[key]) for key, array in again.items())


def test_what_is_not_trained_is_left_out() -> None:
    rnn = layer("rnn", bias="dual")
    lines = ("W", "kernel : (g h) i"), ("R", "recurrent_kernel : (g h) p"), ("b", "bias : (g h)")
    whole = Layout("n", *lines, ("rb", "recurrent_bias : (g h)"))
    shapes = whole.shapes(rnn.spec)
    arrays = {key: np.ones(shape) for key, shape in shapes.items() if key != "rb"}
    found = unpacked(whole, rnn, arrays, 1)
    assert set(found) == set(rnn.spec.names()) - {"forward.recurrent_bias.n"}
    assert set(packed(whole, rnn, found, 1)) == {"W", "R", "b"}
    together = Layout("n", *lines[:2], ("b", "bias | recurrent_bias : k (g h)"))
    assert packed(together, rnn, found, 1)["b"].tolist() == [[1.0] * 11, [0.0] * 11]


def test_every_slot_of_torch_and_keras_stands_where_its_weight_stands() -> None:
    """Labelled numbers in place of moments: torch's own arrays, read as the weights are read."""
    module = convert(layer(directions=("forward", "reverse"), bias="dual", dtype="float64"), to="torch")
    optimizer = torch.optim.Adam(module.parameters())
    start = 1
    for parameter in module.parameters():
        kept = {}
        for slot in ("exp_avg", "exp_avg_sq"):
            count = parameter.numel()
            kept[slot] = torch.arange(start, start + count, dtype=torch.float64).reshape(parameter.shape)
            start += count
        optimizer.state[parameter] = {"step": torch.tensor(7.0), **kept}
    state = read_optimizer(optimizer, module)
    assert state.step == 7
    for slot, theirs in (("momentum", "exp_avg"), ("velocity", "exp_avg_sq")):
        other = convert(module, to="torch")
        with torch.no_grad():
            for mine, its in zip(other.parameters(), module.parameters(), strict=True):
                mine.copy_(optimizer.state[its][theirs])
        [expected] = read(other)
        assert set(state.slots[""][slot]) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(state.slots[""][slot][name], host(expected[name]))
    rebuilt = write_optimizer(state, module)
    for parameter in module.parameters():
        for theirs in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(rebuilt.state[parameter][theirs], optimizer.state[parameter][theirs])
            assert rebuilt.state[parameter][theirs] is not optimizer.state[parameter][theirs]
        assert rebuilt.state[parameter]["step"] == 7


MAKERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.25, momentum=0.5, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.25, weight_decay=0.125),
    "adam": lambda p: torch.optim.Adam(p, lr=0.25, betas=(0.5, 0.75), eps=0.125, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.25, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.25, alpha=0.5, momentum=0.75, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.25, eps=0.125),
}


@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back_every_number_and_setting_is_what_it_was(name: str) -> None:
    module = convert(double("gru", bias="dual"), to="torch")
    optimizer = trained_torch(module, MAKERS[name])
    keras_layer = convert(module, to="keras")
    there = migrate_optimizer(optimizer, module, keras_layer)
    again = migrate_optimizer(there.result, keras_layer, convert(keras_layer, to="torch"))
    before, after = read_optimizer(optimizer, module), again.state
    assert (before.kind, before.learning_rate, before.step) == (after.kind, after.learning_rate, after.step)
    assert before.settings == after.settings
    kept = {"plain sgd": 0, "adamw": 2}.get(name, len(KINDS[before.kind]))
    assert len(before.slots[""]) == len(after.slots[""]) == kept
    for slot, weights in before.slots[""].items():
        for weight, array in weights.items():
            exact = not (before.kind in ("sgd", "rmsprop") and slot == "momentum")  # which goes through the rate
            np.testing.assert_allclose(after.slots[""][slot][weight], array, rtol=0 if exact else 1e-15)
            assert np.abs(array).max() > 0


def test_the_state_is_a_snapshot() -> None:
    module = convert(double(bias="dual"), to="torch")
    optimizer = trained_torch(module, lambda p: torch.optim.Adam(p, lr=0.5))
    state = read_optimizer(optimizer, module)
    before = {n: a.copy() for n, a in state.slots[""]["momentum"].items()}
    for kept in optimizer.state.values():
        kept["exp_avg"].add_(1)
    assert all(np.array_equal(before[n], a) for n, a in state.slots[""]["momentum"].items())


def test_other_weights_are_told_and_come_back_to_the_same_framework() -> None:
    model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(INPUT, 4), "head": torch.nn.Linear(4, 3)})
    optimizer = torch.optim.Adam(model.parameters())
    model["head"](model["rnn"](torch.ones(6, 2, INPUT))[0]).sum().backward()
    optimizer.step()
    state = read_optimizer(optimizer, model)
    assert set(state.others) == {"head.weight", "head.bias"}
    again = write_optimizer(state, model)
    for parameter in model.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    moved = migrate_optimizer(state, None, keras.Sequential([convert(model, to="keras")]))
    assert not any("head" in name for name in moved.state.slots)


# ---- sums and their adjoint


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize(
    ("before", "after"), [("dual", "single"), ("single", "dual"), ("dual", "dual"), ("none", "dual")]
)
def test_the_adjoint_is_that_of_the_sums(cell: str, before: str, after: str) -> None:
    """<A w, g> = <w, A' g> for any weights and gradients."""
    one, other = spec(cell, bias=before), spec(cell, bias=after)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=one.shape(name)) for name in one.names()}
    gradients = {name: rng.normal(size=other.shape(name)) for name in other.names()}
    added = {name: sum((weights[each] for each in names), np.zeros(1)) for name, names in terms(one, other).items()}
    forward = sum((added[name] * gradients[name]).sum() for name in added)
    back = adjoint(gradients, one, other)
    assert set(back) == set(weights)
    assert forward == pytest.approx(sum((weights[name] * back[name]).sum() for name in weights), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "gates"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients_are_read_as_weights_are(name: str, cell: str) -> None:
    """The adjoint of packing is unpacking, signs and all: <pack w, G> = <w, unpack G> for any weights and gradients."""
    layouts = registry.framework(name).layout.LAYOUTS
    if cell not in layouts:
        assert name == "tf1" or cell == "rnn"
        return
    own = layouts[cell]
    flipped = Layout(" ".join(f"-{gate}" if n % 2 else gate for n, gate in enumerate(own.gates)),
                     *((line.key, line.text) for line in own.lines), gate_names=own.gate_names)  # fmt: skip
    rng = np.random.default_rng(0)
    for layout in (own, flipped):
        for bias in ("single", "dual"):
            one = spec(cell, bias=bias)
            if set(layout.places(one)) != set(one.names()):
                continue
            weights = {each: rng.normal(size=one.shape(each)) for each in one.names()}
            gradients = {key: rng.normal(size=shape) for key, shape in layout.shapes(one).items()}
            stored, back = layout.pack(weights, one), layout.unpack(gradients, one)
            expected = sum((stored[key] * gradients[key]).sum() for key in gradients)
            assert expected == pytest.approx(sum((weights[each] * back[each]).sum() for each in weights), rel=1e-12)


def test_merged_biases_share_what_is_kept_or_are_refused() -> None:
    one, other = spec(bias="dual"), spec(bias="single")
    rng = np.random.default_rng(0)
    kept = {name: rng.normal(size=one.shape(name)) for name in one.names()}
    for name in kept:
        if ".recurrent_bias." in name:
            kept[name] = kept[name.replace(".recurrent_bias.", ".bias.")].copy()
    found = carried({"momentum": kept}, one, other)["momentum"]
    assert set(found) == set(other.names())
    np.testing.assert_array_equal(found["forward.bias.f"], kept["forward.bias.f"])
    kept["forward.recurrent_bias.f"] += 1e-3
    with pytest.raises(Unsupported, match=r"enc: momentum of forward.bias.f and .*_bias.f are 0.001 apart"):
        carried({"momentum": kept}, one, other, "enc")
    del kept["forward.recurrent_bias.f"]  # it was frozen
    assert "forward.bias.f" in carried({"momentum": kept}, one, other)["momentum"]


def test_the_inner_bias_of_a_gru_has_no_twin() -> None:
    one, other = spec("gru", bias="single"), spec("gru", bias="dual")
    kept = {name: np.ones(one.shape(name)) for name in one.names()}
    found = carried({"momentum": kept}, one, other)["momentum"]
    assert "forward.recurrent_bias.r" in found
    assert "forward.recurrent_bias.n" not in found


# ---- two biases against one


def test_migrate_says_once_what_a_second_bias_means_for_training() -> None:
    there = migrate([layer(path=name) for name in "abcde"], to="torch")
    [note] = there.notes
    assert note.startswith("in training, two biases move where one did, and their sum twice as far: ")
    assert note.endswith("freeze_second_bias), or halve the rate of both (a, b, c and 2 more)")
    assert f"note: {note}" in str(there).splitlines()
    assert {report.notes for report in there.reports} == {("recurrent_bias padded with zeros",)}
    [note] = migrate(layer(bias="dual"), to="keras").notes
    assert note.endswith("freeze recurrent_bias in the source from the start")
    [note] = migrate(layer(bias="none", forget_constant=1.0), to="keras").notes
    assert note == "in training, a bias moves where none was: freeze it"
    assert not migrate(layer(bias="dual"), to="torch").notes


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_with_the_second_bias_frozen_both_stay_together_and_else_they_drift(optimizer: OptimizerState) -> None:
    losses, weights = check_training([double()], "keras", "torch", optimizer, steps=STEPS)
    assert losses <= 1e-14
    assert weights <= 1e-14
    with pytest.raises(Disagreement, match="other losses from step 2 on"):
        check_training([double()], "keras", "torch", optimizer, steps=STEPS, freeze=False)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_half_the_rate_for_both_biases_does_as_well(kind: str) -> None:
    """Under Adam, too: each of the two moves by the same step, which does not depend on the size of a gradient."""
    state = {"sgd": SGD, "adam": ADAM}[kind]
    keras_layer = convert(double(), to="keras")
    module = convert(keras_layer, to="torch")
    biases = [parameter for name, parameter in module.named_parameters() if name.startswith("bias")]
    others = [parameter for name, parameter in module.named_parameters() if not name.startswith("bias")]
    rate = state.learning_rate
    groups = [{"params": others}, {"params": biases, "lr": rate / 2}]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, lr=rate),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=(state["beta_1"], state["beta_2"]), eps=1e-30),
    }[kind]
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(3, 6, INPUT)), rng.normal(size=(3, 6, 11))) for _ in range(STEPS)]
    one = registry.framework("keras").training.train(
        keras_layer, read(keras_layer), write_optimizer(state, keras_layer), batches
    )
    other = registry.framework("torch").training.train(module, read(module), make(), batches)
    gap = float(np.abs(np.subtract(one, other)).max())
    assert gap <= 1e-13


def test_freezing_names_what_it_froze() -> None:
    module = torch.nn.LSTM(INPUT, 4, num_layers=2, bidirectional=True)
    names = freeze_second_bias(module)
    assert names == ("bias_hh_l0", "bias_hh_l0_reverse", "bias_hh_l1", "bias_hh_l1_reverse")
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == list(names)
    state = read_optimizer(torch.optim.SGD(module.parameters(), lr=0.1), module)
    assert any(note.startswith("not trained: bias_hh_l0") for note in state.notes)


def test_the_second_bias_of_a_gru_is_frozen_only_by_name() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(INPUT, 4), "b": torch.nn.GRU(4, 3)})
    assert freeze_second_bias(model) == ("a.bias_hh_l0",)
    assert freeze_second_bias(model, ["b"]) == ("b.bias_hh_l0",)
    with pytest.raises(UnknownName, match="unknown layer 'c'"):
        freeze_second_bias(model, ["c"])


def test_gradients_come_back_to_both_merged_biases() -> None:
    module = convert(double(bias="dual"), to="torch")
    check_gradients(module, convert(module, to="keras"))
    check_gradients(convert(double(), to="keras"), convert(double(), to="torch"))


# ---- settings, and what the two do otherwise


def test_the_notes_say_where_epsilon_goes_and_what_is_rounded() -> None:
    module = convert(double(bias="dual"), to="torch")
    moved = migrate_optimizer(torch.optim.Adam(module.parameters()), module, convert(module, to="keras"))
    said = "\n".join(moved.notes)
    assert "epsilon 1e-08: torch adds it after the bias correction" in said
    assert "keras before the bias correction: sqrt(v) + epsilon" in said
    assert "keras takes learning_rate 0.001, beta_1 0.9, beta_2 0.999, epsilon 1e-08 through float32" in said
    single = convert(layer(bias="dual"), to="torch")
    few = migrate_optimizer(torch.optim.SGD(single.parameters(), lr=0.1), single, convert(single, to="keras"))
    assert not any("through float32" in note for note in few.notes)


def test_the_notes_say_that_one_side_has_two_biases() -> None:
    module = convert(layer(bias="dual"), to="torch")
    there = migrate_optimizer(torch.optim.SGD(module.parameters(), lr=0.5), module, convert(module, to="keras"))
    assert any("half as far as their sum" in note for note in there.notes)
    keras_layer = convert(layer(), to="keras")
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(list(keras_layer.trainable_variables))
    back = migrate_optimizer(optimizer, keras_layer, convert(keras_layer, to="torch"))
    assert any("their sum twice as far: freeze recurrent_bias" in note for note in back.notes)


def test_epsilon_is_where_they_part() -> None:
    """The same number, added before the correction and after it: the losses part, and for 1e-30 they do not."""
    given = {"beta_1": 0.875, "beta_2": 1 - 2**-7}
    for epsilon, apart in ((1e-30, False), (2.0**-20, True)):
        state = OptimizerState(kind="adam", learning_rate=2**-7, settings={**given, "epsilon": epsilon})
        if apart:
            with pytest.raises(Disagreement):
                check_training([double()], "torch", "keras", state, steps=6, resumed=3)
        else:
            check_training([double()], "torch", "keras", state, steps=6, resumed=3)


def test_a_schedule_gives_the_rate_of_the_next_step() -> None:
    keras_layer = convert(double("gru", bias="dual"), to="keras")
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.25])
    optimizer = keras.optimizers.SGD(rate)
    optimizer.build(list(keras_layer.trainable_variables))
    optimizer.iterations.assign(5)
    state = read_optimizer(optimizer, keras_layer)
    assert (state.learning_rate, state.step) == (0.25, 5)
    assert any("follows a schedule" in note for note in state.notes)


def test_another_dtype_is_an_error_that_names_the_array_unless_a_cast_is_asked_for() -> None:
    module = convert(layer("gru", bias="dual"), to="torch")
    optimizer = trained_torch(module, lambda p: torch.optim.Adam(p))
    other = convert(module, to="torch", dtype="float64")
    with pytest.raises(LayoutError, match=r"momentum of forward.kernel.r is float32, the target float64"):
        migrate_optimizer(optimizer, module, other)
    moved = migrate_optimizer(optimizer, module, other, cast=True).result
    assert moved.state[next(other.parameters())]["exp_avg"].dtype == torch.float64


# ---- what cannot be moved

LSTM = {"module": lambda: convert(layer(bias="dual"), to="torch"), "layer": lambda: convert(layer(), to="keras")}

REFUSED: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("nadam", "module", lambda m: torch.optim.NAdam(m.parameters()), "NAdam.*expected torch.optim's SGD, Adam"),
    ("maximize", "module", lambda m: torch.optim.Adam(m.parameters(), maximize=True), "maximize=True"),
    ("dampening", "module", lambda m: torch.optim.SGD(m.parameters(), lr=1, momentum=0.5, dampening=0.1),
     "dampening=0.1"),
    ("lr_decay", "module", lambda m: torch.optim.Adagrad(m.parameters(), lr_decay=0.1), "lr_decay=0.1"),
    ("coupled decay", "module", lambda m: torch.optim.Adam(m.parameters(), weight_decay=0.1),
     "added to the gradient.*AdamW"),
    ("coupled decay, sgd", "module", lambda m: torch.optim.SGD(m.parameters(), lr=1, momentum=0.5, weight_decay=0.1),
     "added to the gradient"),
    ("coupled decay, rmsprop", "module", lambda m: torch.optim.RMSprop(m.parameters(), weight_decay=0.1), "added to"),
    ("groups", "module",
     lambda m: torch.optim.SGD([{"params": [p], "lr": n + 1.0} for n, p in enumerate(m.parameters())], lr=1),
     "groups of their own: lr differ"),
    ("clipping", "layer", lambda m: keras.optimizers.Adam(clipnorm=1.0), "clipnorm=1.0"),
    ("global clipping", "layer", lambda m: keras.optimizers.SGD(global_clipnorm=1.0), "global_clipnorm=1.0"),
    ("clipped values", "layer", lambda m: keras.optimizers.SGD(clipvalue=1.0), "clipvalue=1.0"),
    ("averages", "layer", lambda m: keras.optimizers.SGD(use_ema=True), "use_ema=True"),
    ("accumulation", "layer", lambda m: keras.optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation"),
    ("loss scale", "layer", lambda m: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "inner_optimizer"),
    ("lion", "layer", lambda m: keras.optimizers.Lion(), "Lion.*expected SGD, Adam"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "make", "words"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_no_other_framework_does_is_refused_by_name(which: str, make: Callable[[Any], Any], words: str) -> None:
    model = LSTM[which]()
    with pytest.raises(Unsupported, match=f"(?s){words}"):
        read_optimizer(make(model), model)


def test_weights_that_have_taken_different_steps_are_refused() -> None:
    module = LSTM["module"]()
    optimizer = trained_torch(module, lambda p: torch.optim.Adam(p))
    optimizer.state[module.bias_ih_l0]["step"] += 1
    with pytest.raises(Unsupported, match="3 and 4 steps"):
        read_optimizer(optimizer, module)


def test_an_optimizer_of_other_weights_or_of_another_framework_is_an_error() -> None:
    module, other = LSTM["module"](), LSTM["layer"]()
    with pytest.raises(LayoutError, match="it trains no parameter of this model\n.*found: 2 of another one"):
        read_optimizer(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1), module)
    with pytest.raises(LayoutError, match="an optimizer of torch and a model of keras"):
        read_optimizer(torch.optim.SGD(module.parameters(), lr=1), other)
    with pytest.raises(LayoutError, match="without its model"):
        read_optimizer(torch.optim.SGD(module.parameters(), lr=1))
    state = read_optimizer(trained_torch(module, lambda p: torch.optim.Adam(p)), module)
    with pytest.raises(LayoutError, match="of different kinds"):
        write_optimizer(state, convert(layer("gru", bias="dual"), to="torch"))
    with pytest.raises(LayoutError, match="an optimizer of 1 layers for 2"):
        write_optimizer(state, torch.nn.LSTM(INPUT, 11, num_layers=2))
    with pytest.raises(Unsupported, match="onnx has no optimizers here"):
        write_optimizer(state, convert(module, to="onnx"))


def test_a_state_that_contradicts_itself_is_an_error() -> None:
    for wrong, words in (
        ({"kind": "lion"}, "unknown optimizer 'lion'"),
        ({"settings": {"beta_3": 1.0}}, "unknown setting of adam 'beta_3'"),
        ({"settings": {"beta_1": -1.0}}, "beta_1 is -1"),
        ({"slots": {"enc": {}}}, "unknown layer 'enc'"),
    ):
        with pytest.raises(BridgeError, match=words):
            OptimizerState(**{"kind": "adam", "learning_rate": 1.0, **wrong})
    with pytest.raises(UnknownName, match="setting"):
        ADAM["momentum"]
    assert all(set(SETTINGS[kind]) >= {"weight_decay"} for kind in KINDS)


# ---- checkpoints


def checkpoint(path: Path, model: Any, optimizer: Any, **more: Any) -> Path:
    torch.save({"net": {"weights": model.state_dict()}, "optim": optimizer.state_dict(), "epoch": 3, **more}, path)
    return path


def encoder_with_head() -> tuple[Any, Any]:
    """A model of more than recurrent layers, and its optimizer after a step."""
    model = torch.nn.ModuleDict(
        {"norm": torch.nn.BatchNorm1d(INPUT), "rnn": torch.nn.LSTM(INPUT, 4, 2), "head": torch.nn.Linear(4, 3)}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    x = torch.randn(6, INPUT, generator=torch.Generator().manual_seed(0))
    model["head"](model["rnn"](model["norm"](x)[:, None])[0]).sum().backward()
    optimizer.step()
    return model, optimizer


def same_state(one: OptimizerState, other: OptimizerState) -> None:
    assert (one.kind, one.learning_rate, one.settings, one.step) == (
        other.kind, other.learning_rate, other.settings, other.step,
    )  # fmt: skip
    assert one.slots.keys() == other.slots.keys()
    for label, slots in one.slots.items():
        assert slots.keys() == other.slots[label].keys()
        for slot, weights in slots.items():
            for name, array in weights.items():
                np.testing.assert_array_equal(array, other.slots[label][slot][name])


@pytest.mark.parametrize("named", [False, True])
def test_the_optimizer_of_a_checkpoint_is_that_of_the_live_model(named: bool, tmp_path: Path) -> None:
    model, optimizer = encoder_with_head()
    if named:
        again = torch.optim.AdamW(list(model.named_parameters())[::-1], lr=0.5)  # in another order, but with names
        for parameter, kept in optimizer.state.items():
            again.state[parameter] = kept
        optimizer = again
    found = read_optimizer(checkpoint(tmp_path / "a.pt", model, optimizer))
    same_state(found, read_optimizer(optimizer, model))
    assert set(found.others) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert any("names no parameter" in note for note in found.notes) != named


def test_a_checkpoint_is_read_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = checkpoint(tmp_path / "a.pt", *encoder_with_head())
    program = (
        "import sys, lstmbridge.training as t\n"
        f"assert t.read_optimizer({str(path)!r}).step == 1\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_checkpoint_whose_optimizer_cannot_be_told_is_refused(tmp_path: Path) -> None:
    model, optimizer = encoder_with_head()
    fewer = torch.optim.AdamW(model["rnn"].parameters())
    with pytest.raises(Ambiguous, match="an optimizer of 8 parameters beside a model of 12 tensors"):
        read_optimizer(checkpoint(tmp_path / "fewer.pt", model, fewer))
    turned = torch.optim.AdamW(list(model.parameters())[::-1])
    for parameter in model.parameters():
        turned.state[parameter] = optimizer.state[parameter]
    with pytest.raises(Ambiguous, match="the optimizer's order is not the model's"):
        read_optimizer(checkpoint(tmp_path / "turned.pt", model, turned))
    with pytest.raises(Ambiguous, match="2 optimizers.*optim, second|2 optimizers"):
        read_optimizer(checkpoint(tmp_path / "two.pt", model, optimizer, second=optimizer.state_dict()))
    torch.save(model.state_dict(), tmp_path / "none.pt")
    with pytest.raises(FileError, match="no optimizer in it"):
        read_optimizer(tmp_path / "none.pt")


def test_the_optimizer_of_a_keras_file_is_that_of_the_live_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, INPUT)), keras.layers.GRU(4, name="rnn"), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.5), "mse")
    model.train_on_batch(np.ones((2, 6, INPUT), "float32"), np.ones((2, 3), "float32"))
    model.save(tmp_path / "a.keras")
    found, live = read_optimizer(tmp_path / "a.keras"), read_optimizer(model.optimizer, model)
    same_state(found, live)
    assert found.step == 1
    assert len(found.others) == 2
    bare = keras.Sequential([keras.Input((None, INPUT)), keras.layers.GRU(4)])
    bare.save(tmp_path / "bare.keras")
    with pytest.raises(FileError, match="no optimizer in it"):
        read_optimizer(tmp_path / "bare.keras")


# ---- going on over there


def resumed(names: Sequence[str], layers: Sequence[Layer], optimizer: OptimizerState) -> float:
    return max(check_training(layers, *names, optimizer, steps=STEPS, resumed=10))


def test_a_checkpoint_that_layers_are_put_into_has_a_stale_optimizer(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.pt", *encoder_with_head())
    model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(INPUT, 4, 2)})
    done = migrate(model, path=tmp_path / "b.pt", into=path)
    assert any(note.startswith("optim holds the state of an optimizer") for note in done.notes)


def test_a_keras_file_that_keras_does_not_load_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    path.write_bytes(b"no archive")
    with pytest.raises(FileError, match="does not load it with its optimizer"):
        read_optimizer(path)


@pytest.mark.parametrize("names", [("keras", "torch"), ("torch", "keras")], ids="-".join)
def test_a_run_goes_on_in_the_other_framework_as_if_nothing_had_happened(names: Sequence[str]) -> None:
    first = double(directions=("forward", "reverse"), bias="dual", path="a")
    second = layer("gru", dtype="float64", seed=1, path="b", input_size=22, hidden_size=4, bias="dual")
    assert resumed(names, [first, second.replace(after="a")], ADAM) <= 1e-14


# ---- what a whole model and its checkpoints bring with them


class _Tagger(torch.nn.Module):  # type: ignore[misc]
    """An embedding and a head around the layer that is converted."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn, self.head = torch.nn.Embedding(9, 5), torch.nn.LSTM(5, 7), torch.nn.Linear(7, 3)

    def step(self, optimizer: Any) -> None:
        self.head(self.rnn(self.emb(torch.arange(6).reshape(3, 2)))[0]).sum().backward()
        optimizer.step()


def test_groups_of_other_weights_with_settings_of_their_own_are_noted() -> None:
    net = _Tagger()
    groups = [
        {"params": net.emb.parameters(), "lr": 0.1},
        {"params": net.rnn.parameters()},
        {"params": net.head.parameters(), "weight_decay": 0.5},
    ]
    notes = read_optimizer(torch.optim.AdamW(groups, 0.01, weight_decay=0.0), net).notes
    assert "not taken along: settings of a group of their own for emb.weight: lr 0.1, not 0.01" in notes
    assert any("for head.weight, head.bias: weight_decay 0.5, not 0.0" in note for note in notes)
    alike = [{"params": net.emb.parameters()}, {"params": net.rnn.parameters()}]
    assert not any("not taken along" in note for note in read_optimizer(torch.optim.Adam(alike), net).notes)


def test_a_checkpoint_of_a_model_whose_second_bias_is_frozen(tmp_path: Path) -> None:
    net = _Tagger()
    freeze_second_bias(net)
    optimizer = torch.optim.Adam([each for each in net.parameters() if each.requires_grad])
    net.step(optimizer)
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "own.pt")
    live, saved = read_optimizer(optimizer, net), read_optimizer(tmp_path / "own.pt")
    assert saved.slots.keys() == live.slots.keys()
    for slot, weights in live.slots["rnn"].items():
        assert saved.slots["rnn"][slot].keys() == weights.keys()
        assert all(np.array_equal(saved.slots["rnn"][slot][name], weights[name]) for name in weights)
    assert "not trained: rnn.bias_hh_l0" in saved.notes
    net.emb.weight.requires_grad_(False)
    fewer = torch.optim.Adam([each for each in net.parameters() if each.requires_grad])
    torch.save({"model": net.state_dict(), "optimizer": fewer.state_dict()}, tmp_path / "fewer.pt")
    with pytest.raises(Ambiguous, match="5 parameters beside a model of 7 tensors\n.*named_parameters"):
        read_optimizer(tmp_path / "fewer.pt")
    named = torch.optim.Adam([(name, each) for name, each in net.named_parameters() if each.requires_grad])
    torch.save({"model": net.state_dict(), "optimizer": named.state_dict()}, tmp_path / "named.pt")
    assert "not trained: rnn.bias_hh_l0" in read_optimizer(tmp_path / "named.pt").notes, "as the message says"


def test_an_optimizer_without_its_model(tmp_path: Path) -> None:
    net = _Tagger()
    optimizer = torch.optim.Adam(net.parameters())
    net.step(optimizer)
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "alone.pt")
    with pytest.raises(FileError, match="no model with recurrent layers beside its optimizer\n.*expected both"):
        read_optimizer(tmp_path / "alone.pt")


def test_a_compiled_model_that_was_not_trained(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, 5)), keras.layers.LSTM(3)])
    model.compile("adam", "mse")
    model.save(tmp_path / "new.keras")
    with pytest.raises(FileError, match="optimizer has taken no step, and keeps nothing\n.*begin with a new optimizer"):
        read_optimizer(tmp_path / "new.keras")


def test_a_frozen_second_bias_is_not_warned_of() -> None:
    keras_layer = convert(layer(), to="keras")
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(list(keras_layer.trainable_variables))
    module = convert(keras_layer, to="torch")
    freeze_second_bias(module)
    assert not any("their sum twice" in note for note in migrate_optimizer(optimizer, keras_layer, module).notes)
