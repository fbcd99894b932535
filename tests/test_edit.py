"""Live models edited in place: one gate, one direction, one layer; an array of another dtype is never cast unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstmbridge import Layer, Spec, check, convert, edit, initial_layer, read
from lstmbridge.arrays import host, same_bits
from lstmbridge.errors import LayoutError, OptionError, UnknownName
from lstmbridge.initializers import identity
from lstmbridge.surgery import turned
from lstmbridge.testing import telling_layer

INPUT, HIDDEN = 5, 11
BOTH = ("forward", "reverse")
FRAMEWORKS = ["keras", "torch", "onnx", "gates"]
NAME = "reverse.recurrent_kernel.g"


def model(framework: str) -> Any:
    """Two bidirectional LSTMs, a and b, the second reading the first."""
    first = telling_layer(Spec(cell="lstm", input_size=INPUT, hidden_size=HIDDEN, directions=BOTH), path="a")
    second = Spec(cell="lstm", input_size=2 * HIDDEN, hidden_size=4, directions=BOTH)
    return convert((first, telling_layer(second, path="b", after="a", seed=1)), to=framework)


def copies(obj: Any) -> tuple[Layer, ...]:
    """The layers as they are now, on memory of their own."""
    return tuple(each.replace(weights={n: np.array(host(a)) for n, a in each.weights.items()}) for each in read(obj))


def changed(before: tuple[Layer, ...], after: tuple[Layer, ...]) -> set[tuple[str, str]]:
    """(layer, weight) of each weight that is not bit for bit as it was."""
    pairs = zip(before, after, strict=True)
    return {(one.label, name) for one, other in pairs for name in one if not same_bits(one[name], other[name])}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_gate_is_replaced(framework: str) -> None:
    obj = model(framework)
    before = copies(obj)
    new = np.random.default_rng(7).normal(size=(HIDDEN, HIDDEN)).astype("float32")
    with edit(obj, "a") as gates:
        gates[NAME] = new
    after = copies(obj)
    assert changed(before, after) == {("a", NAME)}
    assert np.array_equal(after[0][NAME], new)
    new[:] = 0
    assert copies(obj)[0][NAME].any(), "the model owns its memory"
    check(after, obj).demand()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_array_of_another_dtype_is_an_error_that_names_it(framework: str, dtype: str) -> None:
    obj = model(framework)
    before = copies(obj)
    words = rf"a: reverse\.recurrent_kernel\.g is {dtype}\n.*expected float32.*\n.*nothing was written.*cast=True"
    with pytest.raises(LayoutError, match=words), edit(obj, "a") as gates:
        gates["forward.bias.f"][:] = 5
        gates[NAME] = np.full((HIDDEN, HIDDEN), 0.3, dtype)
    assert not changed(before, copies(obj))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_is_cast_where_that_was_asked_for(framework: str) -> None:
    obj = model(framework)
    before = copies(obj)
    new = np.random.default_rng(7).normal(size=(HIDDEN, HIDDEN))
    with edit(obj, "a", cast=True) as gates:
        gates[NAME] = new
    after = copies(obj)
    assert changed(before, after) == {("a", NAME)}
    assert np.array_equal(after[0][NAME], new.astype("float32"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_weights_of_another_dtype_are_no_exception(framework: str) -> None:
    """Where all of them are replaced, nothing in the layer itself tells that they were another."""
    obj = model(framework)
    before = copies(obj)
    with pytest.raises(LayoutError, match=r"a: forward\.kernel\.i is float64"), edit(obj, "a") as gates:
        gates.update({name: np.asarray(host(array), "float64") for name, array in gates.items()})
    assert not changed(before, copies(obj))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_direction_is_replaced_by_a_layer_of_one(framework: str) -> None:
    obj = model(framework)
    before = copies(obj)
    dual = before[0].spec.bias == "dual"
    one = telling_layer(before[0].spec.replace(directions=("forward",)), seed=9)
    with edit(obj, "a") as gates:
        gates.update(turned(one, "reverse").weights)
    after = copies(obj)
    assert changed(before, after) == {("a", name.replace("forward", "reverse")) for name in one}
    assert len(changed(before, after)) == (16 if dual else 12)
    assert all(np.array_equal(after[0][name.replace("forward", "reverse")], one[name]) for name in one)
    check(after, obj).demand()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_layer_of_a_stack_begins_anew(framework: str) -> None:
    obj = model(framework)
    before = copies(obj)
    fresh = initial_layer(before[1].spec, recurrent_kernel=identity(), bias=0.25, seed=3)
    with edit(obj, "b") as gates:
        gates.update(fresh.weights)
    after = copies(obj)
    assert {label for label, _ in changed(before, after)} == {"b"}
    assert all(np.array_equal(after[1][name], fresh[name]) for name in fresh)
    check(after, obj).demand()


def test_one_level_of_a_module_of_torch() -> None:
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(INPUT, HIDDEN, num_layers=2, bidirectional=True)
    before = copies(lstm)
    with edit(lstm, "l1") as gates:
        gates["forward.bias.f"] = torch.ones(HIDDEN)
        gates["reverse.bias.f"] = np.full(HIDDEN, 2.0, "float32")
    assert changed(before, copies(lstm)) == {("l1", "forward.bias.f"), ("l1", "reverse.bias.f")}
    assert (lstm.bias_ih_l1[HIDDEN : 2 * HIDDEN] == 1).all()
    assert (lstm.bias_ih_l1_reverse[HIDDEN : 2 * HIDDEN] == 2).all()
    with pytest.raises(LayoutError, match=r"l1: forward\.bias\.f is float64"), edit(lstm, "l1") as gates:
        gates["forward.bias.f"] = torch.ones(HIDDEN, dtype=torch.float64)


def test_an_array_of_torch_goes_into_keras() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("keras")
    obj = model("keras")
    with edit(obj, "a") as gates:
        gates["forward.bias.f"] = torch.full((HIDDEN,), 3.0)
    assert (copies(obj)[0]["forward.bias.f"] == 3).all()


def test_weights_of_half_precision_are_replaced_in_it() -> None:
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(INPUT, HIDDEN, dtype=torch.bfloat16)
    with edit(lstm) as gates:
        gates["forward.bias.f"] = initial_layer(read(lstm)[0].spec, dtype="bfloat16", seed=0)["forward.bias.f"]
    assert (lstm.bias_ih_l0[HIDDEN : 2 * HIDDEN] == 1).all()
    with pytest.raises(LayoutError, match="is float32\n.*expected bfloat16"), edit(lstm) as gates:
        gates["forward.bias.f"] = torch.ones(HIDDEN)


def test_names_that_the_layer_does_not_have_are_no_weights() -> None:
    obj = model("gates")
    words = r"not a weight of .*: forward\.bias\.c\n.*called 'g' here"
    with pytest.raises(LayoutError, match=words), edit(obj, "a") as gates:
        gates["forward.bias.c"] = np.ones(HIDDEN)
    with pytest.raises(LayoutError, match=r"forward\.bias\.f is a list"), edit(obj, "a") as gates:
        gates["forward.bias.f"] = [1.0] * HIDDEN
    with pytest.raises(UnknownName, match="unknown layer 'c'"), edit(obj, "c"):
        pass
    words = r"unknown weight 'forward\.bais\.f'\n.*'forward\.bias\.f'"
    with pytest.raises(UnknownName, match=words), edit(obj, "a") as gates:
        gates["forward.bais.f"][:] = 1.0


def test_a_gate_is_never_guessed() -> None:
    obj = model("gates")
    for name, words in (
        ("forward.bias.c", "forward.bias has no gate 'c'\n.*called 'g' here"),
        ("forward.bias.x", "forward.bias has no gate 'x'\n.*its gates are i f g o"),
        ("bias.f", r"unknown weight 'bias.f'\n.*did you mean 'forward\.bias\.f'"),
    ):
        with pytest.raises(UnknownName, match=words), edit(obj, "a") as gates:
            gates[name][:] = 1.0


def test_what_cannot_be_edited_says_so_before_anything_is_changed(tmp_path: Path) -> None:
    path = convert(model("gates"), path=tmp_path / "a.npz")
    with pytest.raises(OptionError, match="is a path\n.*edit changes live objects"), edit(path, "a"):
        pass
    with pytest.raises(LayoutError, match="a view on a file\n.*take a copy first"), edit(read(path), "a"):
        raise AssertionError("not entered")
    with edit(convert(path, to="gates"), "a") as gates:
        gates["forward.bias.f"][:] = 1.0
    torch = pytest.importorskip("torch")
    with pytest.raises(LayoutError, match="no recurrent layer in this Linear"), edit(torch.nn.Linear(2, 2)):
        pass
