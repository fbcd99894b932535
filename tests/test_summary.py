"""What `inspect` counts: formulas that evaluate to the numbers there are, by part, by gate, by array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import labelled, layer, layer_of, spec
from lstmbridge import Layer, Spec, convert, from_arrays, inspect, read
from lstmbridge.summary import PartSummary, formula
from lstmbridge.testing import combinations

BOTH = ("forward", "reverse")
SPECS = [pytest.param(each, id=f"{cell}-{features[0]}") for cell, features, each in combinations(1)]


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any form that changes how many numbers a layer has."""
    cell = draw(st.sampled_from(["lstm", "gru", "rnn"]))
    fields: dict[str, Any] = {
        "input_size": draw(st.integers(1, 9)),
        "hidden_size": draw(st.integers(1, 9)),
        "directions": draw(st.sampled_from([("forward",), ("reverse",), BOTH])),
        "bias": draw(st.sampled_from(["none", "single", "dual"])),
    }
    if cell == "lstm":
        fields["projection_size"] = draw(st.none() | st.integers(1, 9))
        fields |= {"peepholes": draw(st.booleans()), "coupled": draw(st.booleans())}
    return Spec(cell=cell, **fields)


def evaluated(text: str) -> int:
    """The value of a product as `PartSummary` writes it, e.g. ``2 directions x 4 gates x 11``."""
    factors = [factor.split() for factor in text.split(" x ")]
    assert all(words[1:] in ([], ["gate"], ["gates"], ["directions"]) for words in factors), text
    return int(np.prod([int(words[0]) for words in factors]))


@settings(max_examples=300, deadline=None)
@given(specs())
def test_every_formula_evaluates_to_the_numbers_there_are(each: Spec) -> None:
    made = layer_of(each)
    [found] = inspect(made).layers
    text, _, said = found.formula.partition(" = ")
    total = sum(array.size for array in made.weights.values())
    assert eval(text) == int(said.replace(",", "")) == found.parameters == total
    assert sum(part.numbers for part in found.parts) == total
    for part in found.parts:
        mine = {name: array.size for name, array in made.weights.items() if name.split(".")[1] == part.part}
        assert evaluated(part.formula) == part.numbers == sum(mine.values())
        for gate, share in part.gates.items():
            assert share == sum(size for name, size in mine.items() if name.endswith(f".{gate}"))
        assert sum(part.gates.values()) == (part.numbers if part.gates else 0)
    for gate, numbers in found.gates.items():
        assert numbers == sum(array.size for name, array in made.weights.items() if name.endswith(f".{gate}"))


def test_a_formula_that_forgets_something_would_be_seen() -> None:
    """Each feature counts: without it the text evaluates to another number."""
    full = spec(bias="dual", peepholes=True, projection_size=3, directions=BOTH)
    counts = {formula(full).partition(" = ")[2]}
    for change in ({"bias": "single"}, {"peepholes": False}, {"projection_size": None}, {"directions": ("forward",)}):
        counts.add(formula(full.replace(**change)).partition(" = ")[2])
    assert len(counts) == 5


def test_the_formula_of_the_documentation() -> None:
    big = Spec(cell="lstm", input_size=300, hidden_size=128)
    assert formula(big) == "4 * ((300 + 128) * 128 + 128) = 219,648"
    assert PartSummary.of(big, "kernel") == PartSummary(
        "kernel", "4 gates x 128 x 300", 153_600, dict.fromkeys("ifgo", 38_400)
    )


@pytest.mark.parametrize("each", SPECS)
def test_dimensions(each: Spec) -> None:
    [found] = inspect(layer_of(each)).layers
    doubled = 2 if each.directions == BOTH and each.merge == "concat" else 1
    assert found.dimensions == {
        "input": each.input_size,
        "hidden": each.hidden_size,
        "state": each.projection_size or each.hidden_size,
        "output": doubled * (each.projection_size or each.hidden_size),
        "directions": list(each.directions),
    }


def test_the_sum_of_several_layers_and_the_same_as_plain_data() -> None:
    first, second = layer(path="a"), layer("gru", path="b", bias="dual", seed=1)
    found = inspect((first, second))
    assert found.parameters == first.parameters + second.parameters
    document = found.as_json()
    assert document["parameters"] == found.parameters
    told = document["layers"][1]
    assert told["parts"][0] == {
        "part": "kernel", "formula": "3 gates x 11 x 5", "numbers": 165, "gates": {"r": 55, "z": 55, "n": 55},
    }  # fmt: skip
    assert told["gates"] == {"r": 198, "z": 198, "n": 198}
    assert told["dimensions"]["hidden"] == 11


# ---- the framework's own arrays


def test_the_arrays_of_torch_are_those_of_its_module() -> None:
    torch = pytest.importorskip("torch")
    for module in (
        torch.nn.LSTM(5, 11, bidirectional=True, proj_size=3),
        torch.nn.GRU(5, 11, bias=False),
        torch.nn.RNN(5, 11),
        torch.nn.LSTMCell(5, 11),
        torch.nn.GRUCell(5, 11),
    ):
        [found] = inspect(module).layers
        assert found.arrays == {name: tuple(array.shape) for name, array in module.state_dict().items()}
    two = torch.nn.LSTM(5, 11, num_layers=2)
    first, second = inspect(two).layers
    assert {**first.arrays, **second.arrays} == {name: tuple(each.shape) for name, each in two.state_dict().items()}


def test_the_arrays_of_keras_are_those_of_its_layer() -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    reverse, no_bias = layers.LSTM(11, go_backwards=True), layers.SimpleRNN(11, use_bias=False)
    for made in (layers.LSTM(11), layers.GRU(11), reverse, no_bias):
        made.build((None, 7, 5))
        [found] = inspect(made).layers
        assert found.arrays == {weight.name: tuple(weight.shape) for weight in made.weights}
    both = layers.Bidirectional(layers.LSTM(11))
    both.build((None, 7, 5))
    [found] = inspect(both).layers
    assert sorted(found.arrays) == [f"{d}.{name}" for d in BOTH for name in ("bias", "kernel", "recurrent_kernel")]
    assert sorted(found.arrays.values()) == sorted(tuple(weight.shape) for weight in both.weights)


def test_the_arrays_of_onnx_are_those_of_its_node() -> None:
    model = convert(layer("gru", directions=BOTH, bias="dual"), to="onnx")
    [found] = inspect(model).layers
    held = {tuple(array.dims) for array in model.graph.initializer}
    assert found.arrays == {"W": (2, 33, 5), "R": (2, 33, 11), "B": (2, 66)}
    assert set(found.arrays.values()) <= held


def test_the_arrays_are_told_of_one_direction_where_a_framework_keeps_the_two_apart() -> None:
    made = layer(directions=BOTH).replace(metadata={"framework": "tf1", "class": "LSTMCell"})
    [found] = inspect(made).layers
    assert found.arrays == {"kernel": (16, 44), "bias": (44,)}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"framework": "nobody's"},
        {"framework": "keras", "class": "keras.layers.CuDNNLSTM", "stored": "cudnn"},
        {"framework": "onnx", "class": "onnx steps", "recovered": "from one step"},
    ],
)
def test_no_arrays_are_claimed_that_nobody_knows_of(metadata: dict[str, Any]) -> None:
    [found] = inspect(layer(bias="dual").replace(metadata=metadata)).layers
    assert found.arrays == {}


def test_no_arrays_are_claimed_where_the_layout_has_no_place_for_a_weight() -> None:
    [found] = inspect(layer(peepholes=True).replace(metadata={"framework": "onnx"})).layers
    assert set(found.arrays) == set(), "onnx has no single bias"
    [found] = inspect(layer(bias="dual", peepholes=True).replace(metadata={"framework": "onnx"})).layers
    assert found.arrays["P"] == (1, 33)


def test_arrays_by_name_are_told_as_they_came() -> None:
    """Plain arrays in a layout of TensorFlow 1: input and state in the rows of one kernel."""
    source = labelled(spec())
    arrays = {"kernel": np.ones((16, 44), "float32"), "bias": np.ones(44, "float32")}
    made = from_arrays(arrays, "tf1", forget_constant=1.0).replace(metadata={"framework": "tf1"})
    assert made.spec.replace(forget_constant=0.0) == source.spec
    [found] = inspect(made).layers
    assert found.arrays == {name: array.shape for name, array in arrays.items()}


def test_a_file_knows_the_arrays_of_the_framework_that_its_layers_came_from(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    file = convert(torch.nn.LSTM(5, 11), path=tmp_path / "x.npz")
    assert isinstance(read(file)[0], Layer)
    [found] = inspect(file).layers
    assert found.arrays == {
        "weight_ih_l0": (44, 5), "weight_hh_l0": (44, 11), "bias_ih_l0": (44,), "bias_hh_l0": (44,),
    }  # fmt: skip
