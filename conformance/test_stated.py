"""The converter against a second statement of where weights stand, and of what a framework's own layer cannot hold.

The weights are labelled: every number says which entry it is, exact in float32, so a misplaced one cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from refused import refused, refused_faithful
from stated import matches, stated

from lstmbridge import Layer, Spec, convert, registry
from lstmbridge.arrays import host
from lstmbridge.errors import Unsupported
from lstmbridge.fit import refusals
from lstmbridge.spec import ACTIVATIONS
from lstmbridge.testing import CELLS, FEATURES, combinations, labelled_layer, spec_of

#: Every cell with every feature it can have.
SPECS: dict[str, Spec] = {
    f"{cell}-{feature}": found
    for cell in CELLS
    for feature in FEATURES
    if (found := spec_of(cell, (feature,))) is not None
}

FRAMEWORKS = ("keras", "torch", "onnx", "gates")
BOTH = ("forward", "reverse")
SIZES = {"input_size": 5, "hidden_size": 11}
LSTM: dict[str, Any] = {"cell": "lstm", **SIZES}

#: What is stored twice, or together with something else.
TOGETHER: dict[str, Spec] = {
    "bidirectional-projection": Spec(**LSTM, directions=BOTH, projection_size=3, bias="dual"),
    "bidirectional-peepholes": Spec(**LSTM, directions=BOTH, peepholes=True, bias="dual"),
    "bidirectional-dual-gru": Spec(cell="gru", **SIZES, directions=BOTH, bias="dual"),
    "bidirectional-dual-gru-before": Spec(cell="gru", **SIZES, directions=BOTH, bias="dual", reset_after=False),
    "reverse-peepholes": Spec(**LSTM, directions=("reverse",), peepholes=True),
    "constant-no-bias": Spec(**LSTM, forget_constant=2.0, bias="none"),
    "constant-dual": Spec(**LSTM, forget_constant=2.0, bias="dual"),
}


def rnn(name: str, *constants: float) -> Spec:
    """A vanilla RNN with that activation."""
    return Spec(cell="rnn", **SIZES, activations=((name, *constants),))


#: Where what a layer can hold ends.
EDGES: dict[str, Spec] = {
    "projection-as-large": Spec(**LSTM, projection_size=11),
    "projection-larger": Spec(**LSTM, projection_size=12),
    "another-output": Spec(**LSTM, activations=("sigmoid", "tanh", "relu")),
    "reverse-relu": Spec(cell="rnn", **SIZES, directions=BOTH, reverse_activations=("relu",)),
    "reverse-linear": Spec(**LSTM, directions=BOTH, reverse_activations=("sigmoid", "tanh", "linear")),
    "reverse-affine": Spec(cell="rnn", **SIZES, directions=BOTH, reverse_activations=("affine",)),
    "gru-hard-sigmoid": Spec(cell="gru", **SIZES, activations=(("hard_sigmoid", 0.2, 0.5), "tanh")),
    "gru-relu-gate": Spec(cell="gru", **SIZES, activations=("relu", "tanh")),
    **{f"rnn-{name}": rnn(name) for name in ACTIVATIONS},
    "rnn-hard-sigmoid-float32": rnn("hard_sigmoid", float(np.float32(1 / 6)), 0.5),
    "rnn-hard-sigmoid-near": rnn("hard_sigmoid", 0.1667, 0.5),
    "rnn-elu-0.7": rnn("elu", 0.7),
    "rnn-leaky-0.2": rnn("leaky_relu", 0.2),
    "rnn-leaky-falling": rnn("leaky_relu", -0.1),
    "rnn-thresholded-below-0": rnn("thresholded_relu", -0.5),
}


def arrays(framework: str, obj: Any) -> Mapping[str, Any]:
    """Every array of the object by the framework's own name."""
    return ARRAYS[framework](obj)


def _of_node(model: Any) -> Mapping[str, Any]:
    """The inputs of the one recurrent node that hold weights: W, R and B are the second to fourth, P the eighth."""
    from onnx.numpy_helper import to_array

    stored = {each.name: to_array(each) for each in model.graph.initializer}
    [node] = [each for each in model.graph.node if each.op_type in ("LSTM", "GRU", "RNN")]
    positions = {"W": 1, "R": 2, "B": 3, "P": 7}
    return {name: stored[node.input[at]] for name, at in positions.items() if node.input[at : at + 1] not in ([], [""])}


ARRAYS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "torch": lambda module: dict(module.named_parameters()),
    "keras": lambda layer: {each.path: each.numpy() for each in layer.weights},
    "onnx": _of_node,
    "gates": lambda layers: layers[0].weights,
}


def wrong(framework: str, found: Mapping[str, Any], layer: Layer) -> list[str]:
    """The name of every array that is not as `stated`, or is on one side only."""
    return [
        name
        for name, found, expected in matches(framework, found, stated(framework, layer))
        if found is None or expected is None or not np.array_equal(host(found), expected)
    ]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", [*SPECS, *TOGETHER, *EDGES])
def test_weights_stand_where_stated_or_are_refused(framework: str, name: str) -> None:
    layer = labelled_layer({**SPECS, **TOGETHER, **EDGES}[name])
    reason = refused(framework, layer.spec)
    if reason is None:
        assert not wrong(framework, arrays(framework, convert(layer, to=framework)), layer)
    else:
        with pytest.raises(Unsupported) as error:
            convert(layer, to=framework)
        assert f"{framework} cannot express" in str(error.value)
        assert reason in str(error.value)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_features_are_refused_where_stated(framework: str) -> None:
    """Without an object: the rules of the converter and of `refused`, on every pair of features."""
    holds = registry.framework(framework).layout.HOLDS
    specs = dict.fromkeys(spec for _, _, spec in combinations(2))
    assert len(specs) > 500
    for each in specs:
        found, reason = [refusal.text for refusal in refusals(each, holds)], refused(framework, each)
        assert bool(found) == bool(reason), f"{each}: {found}, {reason}"
        assert reason is None or any(reason in text for text in found), f"{each}: {found}, {reason}"


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_the_modules_of_the_project_hold_what_is_stated(framework: str) -> None:
    holds = registry.framework(framework).layout.FAITHFUL
    for each in (*SPECS.values(), *TOGETHER.values(), *EDGES.values(), *(spec for _, _, spec in combinations(2))):
        assert bool(refusals(each, holds)) == bool(refused_faithful(framework, each)), str(each)


@pytest.mark.parametrize("framework", ["onnx", "gates"])
def test_there_is_no_module_of_the_project_elsewhere(framework: str) -> None:
    assert getattr(registry.framework(framework).layout, "FAITHFUL", None) is None
    with pytest.raises(LookupError):
        refused_faithful(framework, SPECS["lstm-plain"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_number_out_of_place_is_named(framework: str) -> None:
    layer = labelled_layer(Spec(cell="gru", **SIZES, directions=BOTH, bias="dual"))
    found = {name: np.array(host(array)) for name, array in arrays(framework, convert(layer, to=framework)).items()}
    assert not wrong(framework, found, layer)
    for name, array in found.items():
        exchanged = array.copy()
        exchanged.flat[[0, -1]] = array.flat[[-1, 0]]
        assert wrong(framework, {**found, name: exchanged}, layer) == [name]
        assert len(wrong(framework, {other: each for other, each in found.items() if other != name}, layer)) == 1
    assert wrong(framework, {**found, "stranger": array}, layer) == ["stranger"]


@pytest.mark.parametrize(
    ("framework", "feature"),
    [
        ("torch", "peepholes"),
        ("torch", "reverse"),
        ("keras", "peepholes"),
        ("keras", "projection"),
        ("onnx", "projection"),
    ],
)
def test_no_place_is_made_up(framework: str, feature: str) -> None:
    with pytest.raises(LookupError, match=f"no layer .*({feature}|runs in reverse)"):
        stated(framework, labelled_layer(SPECS[f"lstm-{feature}"]))


def test_the_arrays_of_a_layer_in_a_model_are_found() -> None:
    layer = labelled_layer(Spec(**LSTM, directions=BOTH))
    names = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    inside = {f"encoder.rnn.{key}": array for key, array in stated("torch", layer).items()}
    assert not wrong("torch", inside, layer)
    assert {name.split(".")[-1].removesuffix("_reverse") for name in inside} == names
    keras = {
        f"model/both/{direction}_forward_backward/lstm_cell/{name}": stated("keras", layer)[f"{direction}/{name}"]
        for direction in ("forward", "backward")
        for name in ("kernel", "recurrent_kernel", "bias")
    }
    assert not wrong("keras", keras, layer)
