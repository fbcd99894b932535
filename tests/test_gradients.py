"""Gradients of torch and Keras against central differences of the equations; and the tensors of every framework."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faithful_cases
import gradient_cases as cases
import numpy as np
import pytest
from gradient_cases import EMPTY, SHORT, TIME, errors_of

from helpers import BATCH, HIDDEN, INPUT, PROJECTION, layer, layer_of, spec
from lstmbridge import Layer, Spec
from lstmbridge.arrays import host, same_bits
from lstmbridge.contract import Outputs, Reading, ReadOptions, WriteOptions
from lstmbridge.fit import fit
from lstmbridge.frameworks.gates import live as gates
from lstmbridge.frameworks.onnx import live as onnx_live
from lstmbridge.frameworks.onnx.layout import HOLDS as ONNX_HOLDS
from lstmbridge.notation import Layout

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
import keras_grid as grid  # noqa: E402
import onnx  # noqa: E402
from keras import layers as kl  # noqa: E402
from torch import nn  # noqa: E402

from lstmbridge.frameworks.torch import faithful, live  # noqa: E402
from lstmbridge.frameworks.torch.layout import FAITHFUL  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="KERAS_BACKEND is not tensorflow"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

READ, WRITE = ReadOptions(), WriteOptions()
LENGTHS = {"full": None, "short": SHORT, "empty": EMPTY}
#: The largest error along a direction, by dtype: that of the central differences, and that of float32.
BOUND = {"float64": 1e-7, "float32": 1e-5}
BACKENDS = {"torch": 2, "jax": 3}

MODULES = {
    "lstm": lambda: nn.LSTM(INPUT, HIDDEN),
    "lstm no bias": lambda: nn.LSTM(INPUT, HIDDEN, bias=False, batch_first=True),
    "lstm deep both": lambda: nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True),
    "lstm projected both": lambda: nn.LSTM(INPUT, HIDDEN, proj_size=PROJECTION, bidirectional=True),
    "gru both": lambda: nn.GRU(INPUT, HIDDEN, bidirectional=True, batch_first=True),
    "gru deep, dropout": lambda: nn.GRU(INPUT, HIDDEN, 2, dropout=0.5),
    "rnn": lambda: nn.RNN(INPUT, HIDDEN),
    "rnn relu both": lambda: nn.RNN(INPUT, HIDDEN, nonlinearity="relu", bidirectional=True),
    "lstm cell": lambda: nn.LSTMCell(INPUT, HIDDEN),
    "gru cell": lambda: nn.GRUCell(INPUT, HIDDEN),
    "rnn cell": lambda: nn.RNNCell(INPUT, HIDDEN, bias=False),
    "compiled lstm": lambda: torch.jit.script(nn.LSTM(INPUT, HIDDEN, bidirectional=True)),
}


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The Keras cases on the other backends, started at once."""
    command = [sys.executable, str(Path(cases.__file__))]
    started = {
        backend: subprocess.Popen(
            [*command, str(step)], env={**os.environ, "KERAS_BACKEND": backend}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for backend, step in BACKENDS.items()
    }  # fmt: skip
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def telling(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64, with weights that are all different."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return module


def errors(obj: nn.Module, **features: Any) -> dict[str, float]:
    """The errors of a torch module's gradients."""
    return errors_of(live, obj, live.read(obj, READ).layers, **features)


def built(spec: Spec, seed: int = 0) -> nn.Module:
    """Our own torch module of that Spec, in float64."""
    return live.build([fit(layer_of(spec, dtype="float64", seed=seed), FAITHFUL, module="faithful")], WRITE)


# ---- torch


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        *((name, "short") for name in MODULES),
        *itertools.product(("lstm projected both", "gru cell"), ("full", "empty")),
    ],
)
def test_torch_agrees(name: str, lengths: str) -> None:
    found = errors(telling(MODULES[name]()), lengths=LENGTHS[lengths])
    assert max(found.values()) <= BOUND["float64"], found


@pytest.mark.parametrize("spec", [*faithful_cases.features(), *faithful_cases.combinations(6)], ids=str)
def test_our_own_torch_module_agrees(spec: Spec) -> None:
    found = errors(built(spec), lengths=SHORT)
    assert max(found.values()) <= BOUND["float64"], found


@pytest.mark.parametrize("lengths", [None, EMPTY], ids=["full", "empty"])
def test_our_own_torch_module_agrees_with_all_or_no_steps(lengths: Sequence[int] | None) -> None:
    found = errors(built(spec("gru", reset_after=False)), lengths=lengths, states=lengths is not None)
    assert max(found.values()) <= BOUND["float64"], found


def test_torch_in_float32() -> None:
    module = telling(nn.GRU(INPUT, HIDDEN)).float()
    found = live.gradients(module, *arguments(live.read(module, READ).layers))
    assert {str(array.dtype) for array in [found.x, *found.weights[0].values()]} == {"float32"}
    assert max(errors(module).values()) <= BOUND["float32"]


def arguments(layers: Sequence[Layer]) -> tuple[Any, ...]:
    """What `gradients` takes after the object."""
    given = cases.case(layers)
    return layers, given.x, given.h0, given.c0, given.lengths, given.pull


def test_a_torch_module_is_afterwards_as_it_was() -> None:
    module = telling(MODULES["gru deep, dropout"]())
    before = copy.deepcopy(module.state_dict())
    for training in (True, False):
        live.gradients(module.train(training), *arguments(live.read(module, READ).layers))
        assert (module.training, module.dropout) == (training, 0.5)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(same_bits(tensor, before[name]) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        assert max(errors(module).values()) <= BOUND["float64"]


def test_a_pull_may_leave_out_c() -> None:
    module = telling(nn.LSTM(INPUT, HIDDEN))
    *rest, pull = arguments(live.read(module, READ).layers)
    left_out = live.gradients(module, *rest, Outputs(pull.y, pull.h, [None]))
    zero = live.gradients(module, *rest, Outputs(pull.y, pull.h, [np.zeros_like(pull.c[0])]))
    assert all(same_bits(left_out.weights[0][name], array) for name, array in zero.weights[0].items())


# ---- Keras


@pytest.mark.parametrize("kind", LENGTHS)
def test_keras_agrees(kind: str) -> None:
    found = dict(cases.keras_errors("float64", {kind: LENGTHS[kind]}, 1))
    assert len(found) == 13
    assert max(found.values()) <= BOUND["float64"], found


@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_agrees_on_other_backends(backend: str, processes: dict[str, subprocess.Popen[str]]) -> None:
    out, err = processes[backend].communicate(timeout=300)
    assert processes[backend].returncode == 0, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert len(found) == 2 * len(range(0, 13, BACKENDS[backend]))
    assert max(found.values()) <= BOUND["float32"], found


def test_some_of_the_stacked_cells_of_keras() -> None:
    cells = [kl.LSTMCell(4, dtype="float64"), kl.GRUCell(3, dtype="float64"), kl.SimpleRNNCell(6, dtype="float64")]
    obj = kl.RNN(kl.StackedRNNCells(cells, dtype="float64"), dtype="float64")
    grid.fill(obj)
    layers = grid.live.read(obj, READ).layers[1:]
    assert grid.agreement(obj, layers, "float64") <= 1e-12
    found = errors_of(grid.live, obj, layers)
    assert max(found.values()) <= BOUND["float64"], found


# ---- that these tests can fail


def test_a_frozen_torch_parameter_has_no_gradient() -> None:
    module = telling(nn.LSTM(INPUT, HIDDEN))
    module.weight_hh_l0.requires_grad_(False)
    found = errors(module)
    assert {name for name, error in found.items() if error > BOUND["float64"]} == recurrent_kernels(found)
    assert {found[name] for name in recurrent_kernels(found)} == {1.0}


@pytest.mark.parametrize("how", ["variable", "layer", "made so", "stateful"])
def test_a_frozen_keras_variable_has_no_gradient(how: str) -> None:
    obj = kl.LSTM(4, dtype="float64", trainable=how != "made so", stateful=how == "stateful")
    obj.build((BATCH, TIME, INPUT))
    grid.fill(obj)
    if how in ("variable", "stateful"):
        obj.cell.recurrent_kernel.trainable = False
    if how == "layer":
        obj.trainable = False
    found = errors_of(grid.live, obj, grid.live.read(obj, READ).layers)
    expected = recurrent_kernels(found) if how in ("variable", "stateful") else set(found) - {"x"}
    assert {name for name, error in found.items() if error > BOUND["float64"]} == expected
    assert {found[name] for name in expected} == {1.0}


def recurrent_kernels(found: dict[str, float]) -> set[str]:
    return {name for name in found if ".recurrent_kernel." in name}


def test_a_detached_gate_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are the very same; the gradients of the three gates, and of all before them, are not."""
    module = built(spec("lstm", directions=("reverse",)))
    activate = faithful.activate

    def detached(function: Any, x: Any) -> Any:
        return activate(function, x).detach() if function.name == "sigmoid" else activate(function, x)

    monkeypatch.setattr(faithful, "activate", detached)
    found = errors(module)
    assert {error for name, error in found.items() if name[-2:] in (".i", ".f", ".o")} == {1.0}
    assert found["x"] > 1e-3


@pytest.mark.parametrize("output", ["y", "h", "c"])
def test_an_output_that_is_not_pulled_is_seen(output: str) -> None:
    module = telling(nn.LSTM(INPUT, HIDDEN))
    given = cases.case(live.read(module, READ).layers)
    whole = {"y": given.pull.y, "h": given.pull.h, "c": given.pull.c}
    less = Outputs(**(whole | {output: 0 * np.array(whole[output])}))
    found = live.gradients(module, given.layers, given.x, given.h0, given.c0, None, less)
    assert min(cases.errors(given, found).values()) > 1e-3


def test_a_gate_of_opposite_sign_has_the_opposite_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    module = telling(nn.GRU(INPUT, HIDDEN))
    given = arguments(live.read(module, READ).layers)
    plain = live.gradients(module, *given)
    lines = [(line.key, line.text) for line in live.LAYOUTS["gru"].lines]
    opposite = Layout("r -z n", *lines, directions=live.LAYOUTS["gru"].directions)
    monkeypatch.setitem(live.LAYOUTS, "gru", opposite)
    signed = live.gradients(module, *given)
    for name, array in signed.weights[0].items():
        assert np.array_equal(array, (-1 if name.endswith(".z") else 1) * plain.weights[0][name]), name


# ---- tensors


def expect_complete(tensors: dict[str, Any], reading: Reading, recurrent: dict[str, int]) -> None:
    """That `tensors` are those left alone, and the recurrent ones of these sizes."""
    assert set(reading.left_alone) <= set(tensors)
    rest = {name: host(array).size for name, array in tensors.items() if name not in reading.left_alone}
    assert rest == recurrent
    assert sum(rest.values()) == sum(layer.parameters for layer in reading.layers)


def test_the_tensors_of_a_torch_module() -> None:
    model = nn.Sequential(nn.Embedding(9, INPUT), nn.GRU(INPUT, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, 2))
    found = live.tensors(model)
    sizes = {f"1.{name}": parameter.numel() for name, parameter in model[1].named_parameters()}
    expect_complete(found, live.read(model, READ), sizes)
    assert {"0.weight", "2.running_mean", "3.bias"} <= set(found)
    assert found["1.weight_ih_l0"].data_ptr() == model[1].weight_ih_l0.data_ptr()
    assert not found["1.weight_ih_l0"].requires_grad
    assert list(live.tensors(nn.Sequential(nn.RNN(INPUT, HIDDEN, bias=False), nn.LazyLinear(2)))) == [
        "0.weight_ih_l0",
        "0.weight_hh_l0",
    ]


def test_the_tensors_of_a_keras_model() -> None:
    chain = [keras.Input((None, INPUT)), kl.Dense(3, name="in"), kl.Bidirectional(kl.GRU(4), name="rnn"), kl.Dense(2)]
    model = keras.Sequential(chain)
    grid.fill(model)
    sizes = {v.path: int(np.prod(v.shape)) for v in model.get_layer("rnn").weights}
    expect_complete(grid.live.tensors(model), grid.live.read(model, READ), sizes)


def test_keras_variables_of_one_path_are_told_apart() -> None:
    class Twice(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = [kl.LSTM(3, name="rnn"), kl.Dense(2, name="same"), kl.Dense(2, name="same")]

    model = Twice()
    for part in model.parts:
        part.build((None, None, INPUT))
    found, reading = grid.live.tensors(model), grid.live.read(model, READ)
    assert len(found) == len(model.weights) == 7
    assert set(reading.left_alone) == {"same/kernel", "same/bias", "same/kernel_2", "same/bias_2"}
    expect_complete(found, reading, {v.path: int(np.prod(v.shape)) for v in model.parts[0].weights})


def test_the_tensors_of_an_onnx_model() -> None:
    layers = [layer(path="enc", bias="dual"), layer("gru", input_size=HIDDEN, path="dec", bias="dual")]
    model = onnx_live.build([fit(each, ONNX_HOLDS) for each in layers], WRITE)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in floats}
    head = onnx.numpy_helper.from_array(np.ones((HIDDEN, 2), "float32"), "head.weight")
    shape = onnx.numpy_helper.from_array(np.arange(3), "shape")
    model.graph.initializer.extend([head, shape])
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["table"], value=head))
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["epsilon"], value_float=1.0))
    reading = onnx_live.read(model, READ)
    assert reading.left_alone == ("head.weight", "table")
    expect_complete(onnx_live.tensors(model), reading, sizes)


def test_onnx_tensors_of_one_name_are_told_apart() -> None:
    def branch(number: float) -> Any:
        tensor = onnx.numpy_helper.from_array(np.full((2, 2), number, "float32"), "W")
        node = onnx.helper.make_node("Identity", ["W"], ["out"])
        return onnx.helper.make_graph([node], "branch", [], [onnx.ValueInfoProto(name="out")], [tensor])

    model = onnx_live.build([fit(layer(path="enc", bias="dual"), ONNX_HOLDS)], WRITE)
    node = onnx.helper.make_node("If", ["yes"], ["both"], then_branch=branch(1), else_branch=branch(2))
    model.graph.node.append(node)
    found = onnx_live.tensors(model)
    assert {found["W"].max(), found["W_2"].max()} == {1, 2}


def test_the_tensors_of_layers() -> None:
    one, two = layer(), layer("gru", path="dec.rnn")
    found = gates.tensors((one, two))
    expected = {**dict(one.weights), **{f"dec.rnn.{name}": array for name, array in two.weights.items()}}
    assert found == expected
