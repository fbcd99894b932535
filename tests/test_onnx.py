"""onnx: nodes, graphs and files, run by onnxruntime against the float64 equations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import BATCH, HIDDEN, INPUT, TIME, layer, layer_of, same_weights, sequences, spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import lstmbridge  # noqa: E402
from lstmbridge import Activation, Layer, Spec  # noqa: E402
from lstmbridge.contract import ReadOptions, WriteOptions  # noqa: E402
from lstmbridge.errors import (  # noqa: E402
    Ambiguous,
    BridgeError,
    FileError,
    LayoutError,
    MissingFramework,
    SpecError,
    UnknownName,
    Unsupported,
)
from lstmbridge.fit import Fitted, fit, refusals  # noqa: E402
from lstmbridge.frameworks.onnx import files, live  # noqa: E402
from lstmbridge.frameworks.onnx.layout import HOLDS, INPUTS, LAYOUTS, attributes_of, spec_of  # noqa: E402
from lstmbridge.reading import read_all  # noqa: E402
from lstmbridge.reference import run, run_stack  # noqa: E402

BOTH = ("forward", "reverse")
BOUND = 2e-6
OPSETS = (7, 9, 13, 14, 17, 22)
CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}

ACTIVATIONS = [
    "relu", "tanh", "sigmoid", "linear", "softsign", "softplus", Activation("affine", 0.7, 0.2),
    Activation("leaky_relu", 0.3), Activation("thresholded_relu", 0.2), Activation("scaled_tanh", 0.7, 0.8),
    Activation("hard_sigmoid", 0.2, 0.5), Activation("hard_sigmoid", 1 / 6, 0.5), Activation("elu", 0.6),
]  # fmt: skip

FEATURES: dict[str, dict[str, Any]] = {
    **{
        f"{cell} {name}": {"cell": cell, **features}
        for cell in CELLS.values()
        for name, features in {
            "dual": {"bias": "dual"},
            "no bias": {"bias": "none"},
            "reverse": {"bias": "dual", "directions": ("reverse",)},
            "as processed": {"bias": "dual", "directions": ("reverse",), "processed_order": True},
            "clip": {"bias": "dual", "clip": 0.3},
            **{merge: {"bias": "dual", "directions": BOTH, "merge": merge} for merge in ("concat", "sum", "mul")},
            **{merge: {"bias": "dual", "directions": BOTH, "merge": merge} for merge in ("ave", "none")},
        }.items()
    },
    "gru reset before": {"cell": "gru", "bias": "dual", "reset_after": False},
    "gru reset before, both, no bias": {"cell": "gru", "bias": "none", "reset_after": False, "directions": BOTH},
    "peepholes": {"bias": "dual", "peepholes": True},
    "peepholes, no bias, both": {"bias": "none", "peepholes": True, "directions": BOTH},
    "coupled": {"bias": "dual", "coupled": True},
    "coupled, peepholes, clip, both": {
        "bias": "dual", "coupled": True, "peepholes": True, "clip": 0.4, "directions": BOTH, "merge": "ave",
    },
    "activations of each direction": {
        "bias": "dual", "directions": BOTH,
        "activations": (Activation("hard_sigmoid", 0.3, 0.4), Activation("leaky_relu", 0.2), "tanh"),
        "reverse_activations": ("sigmoid", Activation("affine", 0.7, 0.1), Activation("elu", 0.6)),
    },
    "rnn activations of each direction": {
        "cell": "rnn", "bias": "dual", "directions": BOTH, "activations": ("tanh",), "reverse_activations": ("relu",),
    },
    **{f"lstm gate {a}": {"bias": "dual", "activations": (a, "tanh", "tanh")} for a in ACTIVATIONS},
    **{f"lstm candidate {a}": {"bias": "dual", "activations": ("sigmoid", a, "tanh")} for a in ACTIVATIONS},
    **{f"lstm output {a}": {"bias": "dual", "activations": ("sigmoid", "tanh", a)} for a in ACTIVATIONS},
    **{f"gru candidate {a}": {"cell": "gru", "bias": "dual", "activations": ("sigmoid", a)} for a in ACTIVATIONS},
    **{f"rnn {a}": {"cell": "rnn", "bias": "dual", "activations": (a,)} for a in ACTIVATIONS},
    "gru gate": {"cell": "gru", "bias": "dual", "activations": (Activation("hard_sigmoid"), "softsign")},
}  # fmt: skip


# ---- how models are run here: onnxruntime on the whole file, nothing of ours in between


def session(source: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = str(source) if isinstance(source, Path) else source.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def outputs(source: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Every output of a model by its name."""
    runner = session(source)
    names = [each.name for each in runner.get_outputs()]
    return dict(zip(names, runner.run(None, dict(feeds)), strict=True))


def made(layer: Layer, **options: Any) -> Any:
    return live.build([fit(layer, HOLDS)], WriteOptions(**options))


def expect(layer: Layer, found: Mapping[str, Any], x: Any, batch_first: bool = False, **given: Any) -> float:
    """The largest difference of a one-layer model's outputs from the equations."""
    truth = run(layer, x, **given)
    apart = layer.spec.bidirectional and layer.spec.merge == "none"
    y = np.asarray(found["Y"], np.float64)
    if apart:  # (t d b h) or (b t d h)
        y = y.reshape(*y.shape[:2], -1) if batch_first else y.transpose(2, 0, 1, 3).reshape(BATCH, TIME, -1)
    elif not batch_first:
        y = y.transpose(1, 0, 2)
    pairs = [(y, truth.y), (found["Y_h"], truth.h)] + ([(found["Y_c"], truth.c)] if truth.c is not None else [])
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def states(layer: Layer, seed: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shape = (len(layer.spec.directions), BATCH, HIDDEN)
    draw = {key: rng.normal(size=shape).astype("float32") for key in ("h0", "c0")}
    return draw if layer.spec.cell == "lstm" else {"h0": draw["h0"]}


def tame(name: str, spec: Spec) -> Layer:
    """Random weights; smaller ones where activations without bounds would let rounding grow."""
    found = layer_of(spec, seed=sum(map(ord, name)))
    scale = np.float32(0.3 if spec.cell == "rnn" or spec.activations[0].name != "sigmoid" else 1)
    return found.replace(weights={key: array * scale for key, array in found.weights.items()})


# ---- what is written is complete and runs


@pytest.mark.parametrize("name", FEATURES)
def test_a_written_model_computes_the_layer(name: str) -> None:
    given = tame(name, spec(**FEATURES[name]))
    x = sequences(given.spec)
    found = outputs(made(given), {"X": x.transpose(1, 0, 2).astype("float32")})
    assert expect(given, found, x) <= BOUND


@pytest.mark.parametrize("name", [name for name in FEATURES if " gate " not in name and "candidate" not in name])
def test_a_written_model_with_lengths_states_and_batch_first(name: str) -> None:
    given = tame(name, spec(**FEATURES[name]))
    x, initial, lengths = sequences(given.spec), states(given), [4, TIME]
    model = made(given, lengths=True, initial=True, batch_first=True)
    feeds = {"X": x.astype("float32"), "sequence_lens": np.array(lengths, "int32")}
    feeds |= {{"h0": "initial_h", "c0": "initial_c"}[key]: value for key, value in initial.items()}
    found = outputs(model, feeds)
    assert expect(given, found, x, True, lengths=lengths, **initial) <= BOUND


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("cell", CELLS.values())
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "none", "one", "processed"])
def test_every_operator_set(opset: int, cell: str, merge: str) -> None:
    features: dict[str, Any] = {"directions": BOTH, "merge": merge}
    if merge in ("one", "processed"):
        features = {"directions": ("reverse",), "processed_order": merge == "processed"}
    given = layer(cell, bias="dual", **features)
    if merge == "processed" and opset < 10:
        with pytest.raises(Unsupported, match="outputs as processed in opset"):
            made(given, opset=opset)
        return
    model = made(given, opset=opset, lengths=True)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    x = sequences(given.spec)
    feeds = {"X": x.transpose(1, 0, 2).astype("float32"), "sequence_lens": np.array([TIME, 1], "int32")}
    assert expect(given, outputs(model, feeds), x, lengths=[TIME, 1]) <= BOUND
    [again] = live.read(model, ReadOptions()).layers
    same_weights(given, again)


@pytest.mark.parametrize("opset", [6, 0, 23, -1])
def test_an_operator_set_that_is_not_written(opset: int) -> None:
    with pytest.raises(SpecError, match=f"opset {opset}"):
        made(layer(), opset=opset)


def test_batch_and_time_are_free() -> None:
    given = layer(bias="dual", directions=BOTH)
    runner = session(made(given, initial=True, lengths=True))
    shapes = {each.name: each.shape for each in (*runner.get_inputs(), *runner.get_outputs())}
    assert shapes == {
        "X": ["time", "batch", INPUT], "sequence_lens": ["batch"], "initial_h": [2, "batch", HIDDEN],
        "initial_c": [2, "batch", HIDDEN], "Y": ["time", "batch", 2 * HIDDEN], "Y_h": [2, "batch", HIDDEN],
        "Y_c": [2, "batch", HIDDEN],
    }  # fmt: skip
    for batch, time in ((1, 1), (4, 13)):
        x = sequences(given.spec, batch=batch, time=time)
        found = outputs(made(given), {"X": x.transpose(1, 0, 2).astype("float32")})
        assert np.abs(found["Y"].transpose(1, 0, 2) - run(given, x).y).max() <= BOUND


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    given = [fit(layer(bias="dual", peepholes=True, directions=BOTH), HOLDS)]
    for name in ("a.onnx", "b.onnx"):
        files.write(given, tmp_path / name, WriteOptions())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert onnx.load(tmp_path / "a.onnx") == live.build(given, WriteOptions())
    assert live.build(given, WriteOptions()) == live.build(given, WriteOptions())


def test_a_wrong_gate_order_would_be_seen() -> None:
    given = layer(bias="dual")
    model = made(given)
    [w] = [each for each in model.graph.initializer if each.name == "W"]
    swapped = numpy_helper.to_array(w).reshape(1, 4, HIDDEN, INPUT)[:, [0, 2, 1, 3]].reshape(1, -1, INPUT)
    w.CopyFrom(numpy_helper.from_array(swapped, "W"))
    x = sequences(given.spec)
    found = outputs(model, {"X": x.transpose(1, 0, 2).astype("float32")})
    assert expect(given, found, x) > 1000 * BOUND


# ---- reading back


@pytest.mark.parametrize("name", FEATURES)
def test_read_gives_what_was_written(name: str, tmp_path: Path) -> None:
    given = tame(name, spec(**FEATURES[name]))
    files.write([fit(given, HOLDS)], tmp_path / "x.onnx", WriteOptions())
    reading = files.read(tmp_path / "x.onnx", ReadOptions())
    [from_file], [from_object] = reading.layers, live.read(made(given), ReadOptions()).layers
    same_weights(given, from_file)
    same_weights(given, from_object)
    assert reading.left_alone == ()
    assert reading.notes == ()
    assert from_file.path == f"{given.spec.cell.upper()}_0"
    assert from_file.metadata["framework"] == "onnx"
    assert from_file.metadata["batch_first"] is False
    json.dumps(from_file.metadata)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("lengths", [None, [4, TIME], [1, 2]])
def test_run_is_the_node_alone(name: str, lengths: list[int] | None) -> None:
    given = tame(name, spec(**FEATURES[name]))
    model = made(given)
    layers = live.read(model, ReadOptions()).layers
    x, initial = sequences(given.spec), states(given)
    found = live.run(model, layers, x, [initial["h0"]], [initial.get("c0")], lengths)
    truth = run(given, x, lengths=lengths, **initial)
    assert found.y.shape == truth.y.shape
    assert np.abs(found.y - truth.y).max() <= BOUND
    assert np.abs(found.h[0] - truth.h).max() <= BOUND
    if truth.c is None:
        assert found.c[0] is None
    else:
        assert np.abs(found.c[0] - truth.c).max() <= BOUND


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"projection_size": 3}, "projection_size 3"),
        ({"cell_clip": 2.0}, "cell clip 2"),
        ({"projection_size": 3, "proj_clip": 2.0}, "projection"),
        ({"activations": ("sigmoid", "selu", "tanh")}, "candidate activation selu"),
        ({"activations": ("sigmoid", "tanh", "silu")}, "output activation silu"),
        ({"cell": "gru", "activations": ("sigmoid", "exponential")}, "candidate activation exponential"),
    ],
)
def test_what_onnx_cannot_hold(features: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=f"onnx cannot express {words}"):
        fit(layer(**{"bias": "dual", **features}), HOLDS)


def test_a_single_bias_is_padded_and_a_forget_constant_folded() -> None:
    given = layer(forget_constant=1.0)
    fitted = fit(given, HOLDS)
    assert fitted.layer.spec.bias == "dual"
    x = sequences(given.spec)
    found = outputs(live.build([fitted], WriteOptions()), {"X": x.transpose(1, 0, 2).astype("float32")})
    assert expect(given, found, x) <= BOUND
    assert refusals(given.spec, HOLDS) == []


# ---- chains


def chain(*specs: Spec, dtype: str = "float32") -> list[Fitted]:
    """Layers that feed one another, under telling names."""
    found = []
    for n, each in enumerate(specs):
        after = f"part.l{n - 1}" if n else None
        found.append(fit(layer_of(each, seed=n, dtype=dtype, path=f"part.l{n}", after=after), HOLDS))
    return found


STACK = (
    Spec(cell="lstm", input_size=5, hidden_size=11, directions=BOTH, bias="dual"),
    Spec(cell="gru", input_size=22, hidden_size=7, directions=BOTH, bias="dual", merge="sum"),
    Spec(cell="rnn", input_size=7, hidden_size=3, directions=("reverse",), bias="dual", processed_order=True),
    Spec(cell="lstm", input_size=3, hidden_size=4, directions=BOTH, bias="none", merge="none"),
)


@pytest.mark.parametrize("batch_first", [None, True])
def test_a_chain_runs_one_layer_after_another(batch_first: bool | None) -> None:
    targets = chain(*STACK)
    layers = [target.layer for target in targets]
    model = live.build(targets, WriteOptions(batch_first=batch_first, initial=True))
    rng = np.random.default_rng(5)
    x = sequences(layers[0].spec)
    h0 = [rng.normal(size=(len(each.spec.directions), BATCH, each.spec.hidden_size)) for each in layers]
    c0 = [rng.normal(size=each.shape) for each in h0]
    feeds = {"X": x if batch_first else x.transpose(1, 0, 2)}
    feeds |= {f"{each.label}.initial_h": state for each, state in zip(layers, h0, strict=True)}
    feeds |= {f"{each.label}.initial_c": c for each, c in zip(layers, c0, strict=True) if each.spec.cell == "lstm"}
    found = outputs(model, {name: value.astype("float32") for name, value in feeds.items()})
    truth = run_stack(layers, x, h0=h0, c0=c0)
    y = found["Y"].reshape(BATCH, TIME, 8) if batch_first else found["Y"].transpose(2, 0, 1, 3).reshape(BATCH, TIME, 8)
    assert np.abs(y - truth[-1].y).max() <= BOUND
    for each, outcome in zip(layers, truth, strict=True):
        assert np.abs(found[f"{each.label}.Y_h"] - outcome.h).max() <= BOUND
        if outcome.c is not None:
            assert np.abs(found[f"{each.label}.Y_c"] - outcome.c).max() <= BOUND


def test_a_chain_reads_back_as_a_chain() -> None:
    targets = chain(*STACK)
    again = live.read(live.build(targets, WriteOptions(batch_first=True)), ReadOptions()).layers
    for target, found in zip(targets, again, strict=True):
        same_weights(target.layer, found)
        assert (found.path, found.after) == (target.layer.path, target.layer.after)
        assert found.metadata["batch_first"] is True


def test_independent_layers_stand_side_by_side() -> None:
    one = layer(bias="dual", path="one")
    two = layer("gru", bias="dual", path="two", input_size=4, hidden_size=6)
    three = layer("rnn", bias="dual", path="three", input_size=6, hidden_size=2).replace(after="two")
    model = live.build([fit(each, HOLDS) for each in (one, two, three)], WriteOptions(lengths=True))
    x = {"one": sequences(one.spec), "two": sequences(two.spec, batch=3, time=4)}
    feeds = {f"{name}.X": value.transpose(1, 0, 2).astype("float32") for name, value in x.items()}
    feeds |= {"one.sequence_lens": np.array([7, 2], "int32"), "two.sequence_lens": np.array([1, 4, 3], "int32")}
    found = outputs(model, feeds)
    assert np.abs(found["one.Y"].transpose(1, 0, 2) - run(one, x["one"], lengths=[7, 2]).y).max() <= BOUND
    truth = run_stack([two, three], x["two"], lengths=[1, 4, 3])
    assert np.abs(found["three.Y"].transpose(1, 0, 2) - truth[-1].y).max() <= BOUND
    assert np.abs(found["two.Y_h"] - truth[0].h).max() <= BOUND
    assert [each.after for each in live.read(model, ReadOptions()).layers] == [None, None, "two"]


def test_a_chain_that_does_not_fit_together_is_an_error() -> None:
    small = Spec(cell="gru", input_size=9, hidden_size=7, bias="dual")
    with pytest.raises(LayoutError, match="'part.l1' reads 9 features"):
        live.build(chain(STACK[0], small), WriteOptions())
    targets = chain(STACK[0], STACK[1].replace(merge="none"))
    targets[1] = fit(layer_of(STACK[1], dtype="float16", path="part.l1", after="part.l0"), HOLDS)
    with pytest.raises(LayoutError, match="is float16, 'part.l0', which feeds it, is float32"):
        live.build(targets, WriteOptions())
    with pytest.raises(LayoutError, match="two layers named 'same'"):
        live.build([fit(layer(bias="dual", path="same"), HOLDS)] * 2, WriteOptions())


def test_names_come_back(tmp_path: Path) -> None:
    names = ["/encoder/rnn/LSTM", "plain", "/encoder/rnn/LSTM"]
    model = by_hand("LSTM", names=names)
    layers = live.read(model, ReadOptions()).layers
    assert [each.path for each in layers] == ["encoder.rnn.LSTM", "plain", "encoder.rnn.LSTM_2"]
    back = lstmbridge.convert(model, path=tmp_path / "back.onnx")
    written = [node.name for node in onnx.load(back).graph.node if node.op_type == "LSTM"]
    assert written == ["/encoder/rnn/LSTM", "plain", "encoder.rnn.LSTM_2"]
    assert [each.path for each in lstmbridge.read(back)] == [each.path for each in layers]


# ---- dtypes


def test_float16() -> None:
    given = layer(dtype="float16", bias="dual", directions=BOTH, merge="ave")
    x = sequences(given.spec)
    found = outputs(made(given), {"X": x.transpose(1, 0, 2).astype("float16")})
    assert found["Y"].dtype == np.float16
    assert expect(given, found, x) <= 4e-3
    same_weights(given, live.read(made(given), ReadOptions()).layers[0])


@pytest.mark.parametrize("cell", CELLS.values())
@pytest.mark.parametrize("directions", [("forward",), ("reverse",), BOTH])
def test_float64_by_the_reference_evaluator(cell: str, directions: tuple[str, ...]) -> None:
    given = layer(cell, dtype="float64", bias="dual", directions=directions, peepholes=cell == "lstm")
    model = made(given)
    onnx.checker.check_model(model, full_check=True)
    [again] = live.read(model, ReadOptions()).layers
    same_weights(given, again.replace(spec=given.spec))
    x, initial = sequences(given.spec), states(given)
    found = live.run(model, [again], x, [initial["h0"]], [initial.get("c0")])
    truth = run(given, x, **initial)
    assert np.abs(found.y - truth.y).max() <= 1e-12
    assert np.abs(found.h[0] - truth.h).max() <= 1e-12


@pytest.mark.parametrize(
    ("features", "lengths", "words"),
    [
        ({}, [1, 2], "lengths"),
        ({"clip": 0.3}, None, "clip"),
        ({"coupled": True}, None, "input_forget"),
        ({"activations": ("sigmoid", "relu", "tanh")}, None, "activations"),
    ],
)
def test_float64_where_the_evaluator_would_be_wrong(
    features: dict[str, Any], lengths: list[int] | None, words: str
) -> None:
    model = made(layer(dtype="float64", bias="dual", **features))
    layers = live.read(model, ReadOptions()).layers
    with pytest.raises(Unsupported, match=f"ignores {words}"):
        live.run(model, layers, sequences(layers[0].spec), lengths=lengths)


def test_bfloat16_needs_opset_22(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = layer(bias="dual")
    given = given.replace(weights={name: array.astype(ml_dtypes.bfloat16) for name, array in given.weights.items()})
    with pytest.raises(Unsupported, match="no bfloat16 LSTM in opset 17"):
        made(given)
    model = made(given, opset=22)
    onnx.checker.check_model(model, full_check=True)
    same_weights(given, live.read(model, ReadOptions()).layers[0])
    for external in (False, True):
        files.write([fit(given, HOLDS)], tmp_path / "x.onnx", WriteOptions(opset=22, external_data=external))
        same_weights(given, files.read(tmp_path / "x.onnx", ReadOptions()).layers[0])
    with pytest.raises(Unsupported, match="does not run bfloat16"):
        live.run(model, live.read(model, ReadOptions()).layers, sequences(given.spec))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_numbers_in_typed_lists(dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    from lstmbridge.frameworks.onnx.tensors import CODES, array_of, dtype_of, header

    values = np.random.default_rng(0).normal(size=(3, 2)).astype(dtype_of(header("x", dtype, ())))
    tensor = helper.make_tensor("x", CODES[dtype], (3, 2), values.astype("float64").reshape(-1).tolist())
    assert not tensor.HasField("raw_data")
    assert array_of(tensor).tobytes() == values.tobytes()


# ---- files


def test_external_data(tmp_path: Path) -> None:
    given = layer(bias="dual", directions=BOTH)
    path = tmp_path / "model.onnx"
    files.write([fit(given, HOLDS)], path, WriteOptions(external_data=True))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    assert path.stat().st_size < 2000
    same_weights(given, files.read(path, ReadOptions()).layers[0])
    same_weights(given, live.read(live.load(path, ReadOptions()), ReadOptions()).layers[0])
    x = sequences(given.spec)
    assert expect(given, outputs(path, {"X": x.transpose(1, 0, 2).astype("float32")}), x) <= BOUND
    with pytest.raises(FileError, match="was not loaded"):
        live.read(onnx.load(path, load_external_data=False), ReadOptions())
    moved = lstmbridge.convert(path, path=tmp_path / "again.onnx", external_data=True)
    same_weights(given, lstmbridge.read(moved)[0])


def test_a_model_above_the_limit_of_protobuf_has_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = layer(bias="dual")
    monkeypatch.setattr(files, "LIMIT", given.parameters * 4)
    files.write([fit(given, HOLDS)], tmp_path / "x.onnx", WriteOptions())
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(files, "LIMIT", given.parameters * 4 - 1)
    files.write([fit(given, HOLDS)], tmp_path / "x.onnx", WriteOptions())
    assert (tmp_path / "x.onnx.data").is_file()
    same_weights(given, files.read(tmp_path / "x.onnx", ReadOptions()).layers[0])


def outside(path: Path, location: str | None = None, **entries: str) -> None:
    """Changes what a file says about its external data."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = {**entries, **({"location": location} if location else {})}.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "../secret"}, "refused: external data must lie"),
        ({"location": "/etc/passwd"}, "refused: external data must lie"),
        ({"location": "absent.data"}, "cannot be read"),
        ({"offset": "-4096"}, "was cut short"),
        ({"offset": "9999999"}, "was cut short"),
        ({"offset": "x"}, "is not a number"),
        ({"length": "8"}, "8 bytes of data"),
    ],
)
def test_bad_external_data(tmp_path: Path, entries: dict[str, str], words: str) -> None:
    directory = tmp_path / "inside"
    directory.mkdir()
    (tmp_path / "secret").write_bytes(bytes(99999))
    path = directory / "model.onnx"
    files.write([fit(layer(bias="dual"), HOLDS)], path, WriteOptions(external_data=True))
    outside(path, **entries)
    with pytest.raises((FileError, LayoutError), match=words):
        files.read(path, ReadOptions())


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "inside"
    directory.mkdir()
    path = directory / "model.onnx"
    files.write([fit(layer(bias="dual"), HOLDS)], path, WriteOptions(external_data=True))
    (directory / "model.onnx.data").rename(tmp_path / "elsewhere")
    (directory / "model.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="refused"):
        files.read(path, ReadOptions())


def test_large_tensors_do_not_pass_through_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lstmbridge.frameworks.onnx import wire

    given = layer(bias="dual", directions=BOTH, hidden_size=80)
    files.write([fit(given, HOLDS)], tmp_path / "x.onnx", WriteOptions())
    whole = onnx.load(tmp_path / "x.onnx")
    monkeypatch.setattr(wire, "LARGE", 1000)
    skeleton = wire.parse(tmp_path / "x.onnx")
    assert skeleton.ByteSize() < 3000 < whole.ByteSize()
    assert [each.name for each in skeleton.graph.initializer] == [each.name for each in whole.graph.initializer]
    same_weights(given, files.read(tmp_path / "x.onnx", ReadOptions()).layers[0])
    nested = in_if(whole)
    (tmp_path / "nested.onnx").write_bytes(nested.SerializeToString())
    assert wire.parse(tmp_path / "nested.onnx").ByteSize() < 4000
    same_weights(given, files.read(tmp_path / "nested.onnx", ReadOptions()).layers[0].replace(spec=given.spec))
    for cut in (1, 500, 2000, whole.ByteSize() - 1):
        (tmp_path / "cut.onnx").write_bytes(whole.SerializeToString()[:cut])
        with pytest.raises(FileError, match=r"cut\.onnx is not an ONNX model"):
            files.read(tmp_path / "cut.onnx", ReadOptions())


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n", b"PK\x03\x04" + bytes(99), b"{}", bytes(50), b"\xff" * 70])
def test_a_foreign_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(FileError, match=r"x\.onnx is not an ONNX model"):
        files.read(tmp_path / "x.onnx", ReadOptions())
    with pytest.raises(FileError, match=r"x\.onnx is not an ONNX model"):
        live.load(tmp_path / "x.onnx", ReadOptions())


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    files.write([fit(layer(bias="dual"), HOLDS)], tmp_path / "x.onnx", WriteOptions())
    data = (tmp_path / "x.onnx").read_bytes()
    for cut in range(0, len(data), 37):
        (tmp_path / "cut.onnx").write_bytes(data[:cut])
        with pytest.raises(BridgeError):
            files.read(tmp_path / "cut.onnx", ReadOptions())


def test_garbled_files_give_errors_of_ours_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lstmbridge.frameworks.onnx import wire

    monkeypatch.setattr(wire, "LARGE", 200)
    data = live.build(chain(*STACK), WriteOptions()).SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(200):
        garbled = np.frombuffer(data, np.uint8).copy()
        at = rng.integers(0, len(data), 6)
        garbled[at] = rng.integers(0, 256, 6)
        (tmp_path / "x.onnx").write_bytes(garbled.tobytes())
        try:
            files.read(tmp_path / "x.onnx", ReadOptions())
        except BridgeError:
            continue


def test_a_huge_declared_size_allocates_nothing(tmp_path: Path) -> None:
    model = by_hand("LSTM")
    model.graph.initializer[0].dims[:] = [1, 1 << 20, 1 << 30]
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LayoutError, match="bytes of data"):
        files.read(tmp_path / "x.onnx", ReadOptions())


def test_files_need_no_more_of_onnx_than_its_messages(tmp_path: Path) -> None:
    files.write([fit(layer(bias="dual"), HOLDS)], tmp_path / "x.onnx", WriteOptions())
    program = (
        "import sys, lstmbridge\n"
        f"lstmbridge.convert({str(tmp_path / 'x.onnx')!r}, path={str(tmp_path / 'y.onnx')!r})\n"
        "assert not {'onnx', 'torch', 'onnxruntime'} & set(sys.modules), sorted(sys.modules)\n"
        "from lstmbridge.frameworks.onnx.messages import messages\n"
        "import onnx\n"
        "assert messages().ModelProto is onnx.ModelProto\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


# ---- graphs of others


def weights(op: str, *, seed: int = 0, directions: int = 1, inputs: int = INPUT) -> dict[str, Any]:
    """Random W, R, B for a node."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * HIDDEN
    rng = np.random.default_rng(seed)
    shapes = {"W": (directions, gates, inputs), "R": (directions, gates, HIDDEN), "B": (directions, 2 * gates)}
    return {key: (0.4 * rng.normal(size=shape)).astype("float32") for key, shape in shapes.items()}


def graph_model(nodes: Sequence[Any], tensors: Mapping[str, Any], outs: Sequence[Any] = ("Y",), **options: Any) -> Any:
    """A model with the input X (t b i)."""
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["t", "b", INPUT]), *options.get("inputs", ())]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * options.get("rank", 4)) for name in outs]
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, outs, initializers)
    opsets = [helper.make_opsetid("", options.get("opset", 17)), *options.get("opsets", ())]
    functions = options.get("functions", ())
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def by_hand(op: str, names: Sequence[str] = ("",), directions: int = 1, **attributes: Any) -> Any:
    """A model of nodes that all read X."""
    tensors: dict[str, Any] = {}
    nodes = []
    for n, name in enumerate(names):
        mine = weights(op, seed=n, directions=directions)
        tensors |= {f"{key}{n}": array for key, array in mine.items()}
        nodes.append(
            helper.make_node(op, ["X", f"W{n}", f"R{n}", f"B{n}"], [f"Y{n}"], name, hidden_size=HIDDEN, **attributes)
        )
    return graph_model(nodes, tensors, [f"Y{n}" for n in range(len(names))])


def in_if(model: Any, op: str = "If") -> Any:
    """The model with its nodes in the body of an If; the weights stay outside."""
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    del outer.graph.node[:]
    names = [each.name for each in model.graph.output]

    def body(label: str) -> Any:
        nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
        for node in nodes:
            node.output[:] = [f"{label}.{name}" if name else "" for name in node.output]
            node.input[:] = [f"{label}.{n}" if any(n in e.output for e in model.graph.node) else n for n in node.input]
            node.name = f"{label}/{node.name or node.op_type}" if node.op_type in CELLS else ""
        ends = [helper.make_tensor_value_info(f"{label}.{name}", TensorProto.FLOAT, [None] * 4) for name in names]
        return helper.make_graph(nodes, label, [], ends)

    outer.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    outer.graph.node.append(helper.make_node(op, ["which"], names, then_branch=body("then"), else_branch=body("else")))
    return outer


def node_layers(op: str, mine: Mapping[str, Any], **attributes: Any) -> Layer:
    """The layer that a node with those arrays is."""
    found = spec_of(CELLS[op], {"hidden_size": HIDDEN, **attributes}, {k: v.shape for k, v in mine.items()}, [])
    return Layer(spec=found, weights=LAYOUTS[CELLS[op]].unpack(mine, found))


def check_nodes(model: Any, expected: Sequence[Layer], **given: Any) -> None:
    """That the nodes of a model are the expected layers, and compute what the equations say."""
    layers = live.read(model, ReadOptions()).layers
    assert len(layers) == len(expected)
    for found, wanted in zip(layers, expected, strict=True):
        same_weights(wanted.replace(spec=found.spec), found)
        x = sequences(found.spec)
        assert np.abs(live.run(model, [found], x, **given).y - run(wanted, x).y).max() <= BOUND


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize("where", ["If", "Loop", "Scan", "function", "function in If"])
def test_nodes_in_bodies(op: str, where: str) -> None:
    mine = weights(op)
    wanted = node_layers(op, mine)
    plain = graph_model([helper.make_node(op, ["X", *mine], ["Y"], hidden_size=HIDDEN)], mine)
    if where == "If":
        model = in_if(plain)
        check_nodes(model, [wanted, wanted])
        paths = [each.path for each in live.read(model, ReadOptions()).layers]
        assert paths == [f"else.{op}", f"then.{op}"]
    elif where in ("Loop", "Scan"):
        check_nodes(in_loop(op, mine, where), [wanted])
    else:
        model = in_function(op, mine)
        check_nodes(in_if(model) if where == "function in If" else model, [wanted] * (4 if " " in where else 2))


def in_loop(op: str, mine: Mapping[str, Any], kind: str) -> Any:
    """A node in the body of a Loop or Scan; R stands in the body, the others outside."""
    node = helper.make_node(op, ["step.X", "W", "inner.R", "B"], ["step.Y"], name="inner", hidden_size=HIDDEN)
    own = [numpy_helper.from_array(mine["R"], "inner.R")]
    out = helper.make_tensor_value_info("step.Y", TensorProto.FLOAT, [None] * 4)
    step = helper.make_tensor_value_info("step.X", TensorProto.FLOAT, ["t", "b", INPUT])
    outer = {key: mine[key] for key in ("W", "B")}
    if kind == "Scan":
        body = helper.make_graph([node], "body", [step], [out], own)
        many = helper.make_tensor_value_info("many", TensorProto.FLOAT, ["n", "t", "b", INPUT])
        scan = helper.make_node("Scan", ["many"], ["Y"], body=body, num_scan_inputs=1)
        return graph_model([scan], outer, inputs=[many], rank=5)
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    gone = helper.make_tensor_value_info("gone", TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", ["X"], ["step.X"]), node, helper.make_node("Identity", ["go"], ["gone"])]
    body = helper.make_graph(nodes, "body", [count, go], [gone, out], own)
    times = helper.make_tensor_value_info("times", TensorProto.INT64, [])
    return graph_model([helper.make_node("Loop", ["times", ""], ["Y"], body=body)], outer, inputs=[times], rank=5)


def in_function(op: str, mine: Mapping[str, Any]) -> Any:
    """A node in a model-local function that is called twice; hidden_size is the call's to give."""
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y"], name="inner")
    size = node.attribute.add(name="hidden_size", type=onnx.AttributeProto.INT)
    size.ref_attr_name = "units"
    function = helper.make_function(
        "local", "Recur", ["x", "w", "r", "b"], ["y"], [node], [helper.make_opsetid("", 17)], attributes=["units"]
    )
    calls = [
        helper.make_node("Recur", ["X", *mine], [name], name=f"call/{name}", domain="local", units=HIDDEN)
        for name in ("Y", "Z")
    ]
    return graph_model(calls, mine, ["Y", "Z"], functions=[function], opsets=[helper.make_opsetid("local", 1)])


def test_paths_in_functions() -> None:
    layers = live.read(in_function("GRU", weights("GRU")), ReadOptions()).layers
    assert [each.path for each in layers] == ["call.Y.inner", "call.Z.inner"]


def test_functions_that_call_themselves_are_an_error() -> None:
    call = helper.make_node("Recur", ["x"], ["y"], domain="local")
    function = helper.make_function("local", "Recur", ["x"], ["y"], [call], [helper.make_opsetid("local", 1)])
    model = graph_model(
        [helper.make_node("Recur", ["X"], ["Y"], domain="local")], {}, functions=[function],
        opsets=[helper.make_opsetid("local", 1)],
    )  # fmt: skip
    with pytest.raises(FileError, match="nested deeper"):
        live.read(model, ReadOptions())


def test_outer_scopes_and_shadowing() -> None:
    """The body's own initializer of a name counts, not the one outside."""
    mine, other = weights("LSTM"), weights("LSTM", seed=9)
    model = in_loop("LSTM", mine, "Loop")
    model.graph.initializer.append(numpy_helper.from_array(other["R"], "inner.R"))
    check_nodes(model, [node_layers("LSTM", mine)])
    assert live.read(model, ReadOptions()).left_alone == ("inner.R",)


def constants(**values: Any) -> list[Any]:
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))
        for name, value in values.items()
    ]


@pytest.mark.parametrize("opset", [9, 17])
def test_weights_behind_constant_nodes(opset: int) -> None:
    """W, R, B as old exporters of PyTorch wrote them: gates sliced apart, put together in another order, unsqueezed."""
    torch_w, torch_r, torch_b = (array[0] for array in weights("LSTM").values())
    tensors = {"w_ih": torch_w, "w_hh": torch_r, "b": torch_b}
    nodes: list[Any] = []

    def at(name: str, axis: int) -> dict[str, Any]:
        return {"axes": [axis]} if opset < 13 else {}

    for key, tensor in (("W", "w_ih"), ("R", "w_hh")):
        for n in range(4):  # i f g o
            start, end = n * HIDDEN, (n + 1) * HIDDEN
            if opset < 10:
                piece = helper.make_node("Slice", [tensor], [f"{key}{n}"], starts=[start], ends=[end], axes=[0])
                nodes.append(piece)
            else:
                names = {f"{key}{n}s": [start], f"{key}{n}e": [end], f"{key}{n}a": [0]}
                nodes += [*constants(**names), helper.make_node("Slice", [tensor, *names], [f"{key}{n}"])]
        nodes.append(helper.make_node("Concat", [f"{key}{n}" for n in (0, 3, 1, 2)], [f"{key}.flat"], axis=0))
        nodes += constants(**{f"{key}.axes": [0]}) if opset >= 13 else []
        names = [f"{key}.flat"] + ([f"{key}.axes"] if opset >= 13 else [])
        nodes.append(helper.make_node("Unsqueeze", names, [key], **at(key, 0)))
    nodes += [*constants(shape=np.array([1, -1])), helper.make_node("Reshape", ["b", "shape"], ["B"])]
    nodes.append(helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=HIDDEN))
    order = np.arange(4 * HIDDEN).reshape(4, HIDDEN)[[0, 3, 1, 2]].reshape(-1)
    mine = {"W": torch_w[order][None], "R": torch_r[order][None], "B": torch_b[None]}
    model = graph_model(nodes, tensors, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    check_nodes(model, [node_layers("LSTM", mine)])
    assert live.read(model, ReadOptions()).left_alone == ()


def test_every_operator_of_a_constant_subgraph_is_evaluated_as_onnxruntime_does() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 6)).astype("float32"), rng.normal(size=(4, 6)).astype("float32")
    ints = constants(
        zero=[0], one=[1], two=[2], minus=[-1], low=[-(1 << 62)], shape=[2, -1, 3], order=[3, 0, 1], sizes=[1, 3],
        wide=[2, 4, 6], zero_six=[0, 6],
    )  # fmt: skip
    node = helper.make_node
    nodes = {
        "add": node("Add", ["a", "b"], ["add"]),
        "sub": node("Sub", ["a", "b"], ["sub"]),
        "mul": node("Mul", ["a", "b"], ["mul"]),
        "div": node("Div", ["a", "b"], ["div"]),
        "neg": node("Neg", ["a"], ["neg"]),
        "cast": node("Cast", ["a"], ["cast"], to=TensorProto.DOUBLE),
        "concat": node("Concat", ["a", "b"], ["concat"], axis=1),
        "expand": node("Expand", ["a", "wide"], ["expand"]),
        "flatten": node("Flatten", ["cube"], ["flatten"], axis=2),
        "gather": node("Gather", ["a", "order"], ["gather"], axis=0),
        "identity": node("Identity", ["a"], ["identity"]),
        "cube": node("Reshape", ["a", "shape"], ["cube"]),
        "rows": node("Reshape", ["a", "zero_six"], ["rows"]),
        "shaped": node("Shape", ["a"], ["shaped"]),
        "filled": node(
            "ConstantOfShape", ["shaped"], ["filled"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])
        ),
        "zeros": node("ConstantOfShape", ["shaped"], ["zeros"]),
        "slice": node("Slice", ["a", "one", "minus", "one"], ["slice"]),
        "reversed": node("Slice", ["a", "minus", "low", "one", "minus"], ["reversed"]),
        "stepped": node("Slice", ["a", "zero", "wide", "zero", "two"], ["stepped"]),
        "split": node("Split", ["a", "sizes"], ["split", "rest"], axis=0),
        "halves": node("Split", ["a"], ["halves", "second"], axis=1),
        "squeeze": node("Squeeze", ["unsqueeze", "zero"], ["squeeze"]),
        "transpose": node("Transpose", ["a"], ["transpose"]),
        "moved": node("Transpose", ["cube"], ["moved"], perm=[2, 0, 1]),
        "unsqueeze": node("Unsqueeze", ["a", "zero"], ["unsqueeze"]),
    }
    del nodes["stepped"]
    nodes["stepped"] = node("Slice", ["a", "zero", "one", "zero", "two"], ["stepped"])
    order = [*ints, nodes.pop("cube"), nodes.pop("unsqueeze"), nodes.pop("shaped"), *nodes.values()]
    names = [name for each in order for name in each.output]
    model = graph_model(order, {"a": a, "b": b}, names, opset=17)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {each.name: each for each in (*inferred.graph.value_info, *inferred.graph.output)}
    del model.graph.output[:]
    model.graph.output.extend(kinds[name] for name in names)
    found = outputs(model, {"X": np.zeros((1, 1, INPUT), "float32")})

    from lstmbridge.frameworks.onnx.constants import Constants
    from lstmbridge.frameworks.onnx.graph import Scope

    scope = Scope.of(model)
    evaluated = {name: Constants(None, [scope]).value(scope, name) for name in names}
    for name in names:
        assert evaluated[name].dtype == found[name].dtype, name
        np.testing.assert_array_equal(evaluated[name], found[name], err_msg=name)


def test_a_bomb_of_constants_is_refused() -> None:
    names = [f"w{n}" for n in range(40)]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(["W", *names])]
    nodes.append(helper.make_node("LSTM", ["X", names[-1], "R", "B"], ["Y"], hidden_size=HIDDEN))
    with pytest.raises(LayoutError, match="more than the model stores"):
        live.read(graph_model(nodes, weights("LSTM")), ReadOptions())
    nodes[:-1] = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(["W", *names, *map(str, range(300))])]
    nodes[-1].input[1] = "299"
    with pytest.raises(LayoutError, match="more than 200 nodes"):
        live.read(graph_model(nodes, weights("LSTM")), ReadOptions())
    nodes[0].input[0] = "299"
    nodes[-1].input[1] = "w1"
    with pytest.raises(LayoutError, match="more than 200 nodes"):
        live.read(graph_model(nodes, weights("LSTM")), ReadOptions())


@pytest.mark.parametrize("op", CELLS)
def test_weights_in_constant_nodes_and_unused_tensors(op: str) -> None:
    mine = weights(op)
    node = helper.make_node(op, ["X", *mine], ["Y"], hidden_size=HIDDEN)
    other = np.ones((3, 4), "float32")
    model = graph_model([*constants(**mine, extra=other), node], {"dense": other, "count": np.array([1])})
    check_nodes(model, [node_layers(op, mine)])
    assert live.read(model, ReadOptions()).left_alone == ("dense", "extra")


def test_layout_1_and_optional_inputs() -> None:
    mine = weights("LSTM", directions=2)
    given = {"direction": "bidirectional", "layout": 1}
    node = helper.make_node("LSTM", ["X", "W", "R", "", "", "", ""], ["", "H"], hidden_size=HIDDEN, **given)
    model = graph_model([node], mine, ["H"])
    [found] = live.read(model, ReadOptions()).layers
    assert found.spec.bias == "none"
    assert found.metadata["batch_first"] is True
    assert found.spec.merge == "concat"  # nobody looks at Y
    del mine["B"]
    wanted = node_layers("LSTM", mine, direction="bidirectional")
    x = sequences(found.spec)
    assert np.abs(live.run(model, [found], x).y - run(wanted, x).y).max() <= BOUND
    back = live.build([fit(found, HOLDS)], WriteOptions())
    assert "layout" not in [each.name for each in back.graph.node[0].attribute]


@pytest.mark.parametrize("opset", [1, 3])
@pytest.mark.parametrize("op", CELLS)
def test_the_first_operator_sets(op: str, opset: int) -> None:
    mine = weights(op)
    node = helper.make_node(op, ["X", *mine], ["Y"], hidden_size=HIDDEN, output_sequence=1)
    model = graph_model([node], mine, opset=opset)
    model.ir_version = 3
    model.graph.input.extend(helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in mine.items())
    check_nodes(model, [node_layers(op, mine)])
    [found] = live.read(model, ReadOptions()).layers
    changed = found.replace(weights={name: array + 1 for name, array in found.weights.items()})
    live.assign(model, [changed])
    same_weights(changed, live.read(model, ReadOptions()).layers[0])


def test_attributes_come_back_verbatim() -> None:
    said = {
        "hidden_size": HIDDEN, "activations": ["sigmoid", "HardSigmoid", "Tanh"], "activation_alpha": [0.25],
        "activation_beta": [0.5], "clip": 3.0, "input_forget": 0, "direction": "forward",
    }  # fmt: skip
    mine = weights("LSTM")
    model = graph_model([helper.make_node("LSTM", ["X", *mine], ["Y"], "/a/LSTM", **said)], mine)
    [found] = live.read(model, ReadOptions()).layers
    assert found.metadata["config"]["attributes"] == said
    back = live.build([fit(found, HOLDS)], WriteOptions())
    node = next(each for each in back.graph.node if each.op_type == "LSTM")
    assert sorted(node.attribute, key=lambda a: a.name) == sorted(model.graph.node[0].attribute, key=lambda a: a.name)
    assert node.name == "/a/LSTM"
    changed = found.replace(spec=found.spec.replace(clip=2.0))
    assert attributes(live.build([fit(changed, HOLDS)], WriteOptions()))["clip"] == 2.0


def attributes(model: Any) -> dict[str, Any]:
    node = next(each for each in model.graph.node if each.op_type in CELLS)
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def test_initial_states_are_not_lost() -> None:
    mine = weights("LSTM")
    learned = np.random.default_rng(7).normal(size=(1, 1, HIDDEN)).astype("float32")
    zero = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        *constants(which=np.array([1], "int64"), one=np.array([1], "int64"), size=np.array([HIDDEN], "int64")),
        helper.make_node("Shape", ["X"], ["shape"]),
        helper.make_node("Gather", ["shape", "which"], ["batch"]),
        helper.make_node("Concat", ["one", "batch", "size"], ["state"], axis=0),
        helper.make_node("ConstantOfShape", ["state"], ["zeros"], value=zero),
        helper.make_node("Expand", ["learned", "state"], ["h"]),
        helper.make_node("LSTM", ["X", *mine, "", "h", "zeros"], ["Y"], "a", hidden_size=HIDDEN),
        helper.make_node("LSTM", ["X", *mine, "", "given", "learned"], ["Z"], "b", hidden_size=HIDDEN),
    ]
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, [1, "b", HIDDEN])
    reading = live.read(graph_model(nodes, {**mine, "learned": learned}, ["Y", "Z"], inputs=[given]), ReadOptions())
    one, two = (each.metadata["config"] for each in reading.layers)
    np.testing.assert_array_equal(np.float32(one["initial_h"]), learned)
    assert one["initial_c"] == "zero"
    assert two["initial_h"] == "given"
    np.testing.assert_array_equal(np.float32(two["initial_c"]), learned)
    assert [note.partition(" is a constant")[0] for note in reading.notes] == ["a: initial_h", "b: initial_c"]
    assert reading.left_alone == ("learned",)


# ---- tracing


def test_directions_that_are_used_in_two_ways_are_kept_apart() -> None:
    model = made(layer(bias="dual", directions=BOTH, merge="sum"))
    model.graph.output.append(helper.make_tensor_value_info("raw", TensorProto.FLOAT, None))
    assert live.read(model, ReadOptions()).layers[0].spec.merge == "none"


def test_a_layer_that_reads_batch_as_time_does_not_follow() -> None:
    mine, second = weights("GRU"), weights("GRU", seed=1, inputs=HIDDEN)
    tensors = {**mine, **{f"{key}2": array for key, array in second.items()}}

    def model(perm: list[int] | None) -> Any:
        nodes = [
            helper.make_node("GRU", ["X", "W", "R", "B"], ["raw"], "first", hidden_size=HIDDEN),
            *constants(axes=np.array([1])),
            helper.make_node("Squeeze", ["raw", "axes"], ["y1"]),
            helper.make_node("Dropout", ["y1"], ["y2"]),
            helper.make_node("Transpose", ["y2"], ["y"], perm=perm)
            if perm
            else helper.make_node("Relu", ["y2"], ["y"]),
            helper.make_node("GRU", ["y", "W2", "R2", "B2"], ["Y"], "second", hidden_size=HIDDEN),
        ]
        return graph_model(nodes, tensors)

    after = {str(perm): live.read(model(perm), ReadOptions()).layers[1].after for perm in ([0, 1, 2], [1, 0, 2], None)}
    assert after == {"[0, 1, 2]": "first", "[1, 0, 2]": None, "None": None}


# ---- torch's exporters


def exported(module: Any, dynamo: bool, tmp_path: Path) -> Path:
    """A file of one of torch's two exporters; the newer one (dynamo) freezes batch and time."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = module

        def forward(self, x: Any) -> Any:
            return self.rnn(x)[0]

    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(BATCH, TIME, INPUT)
    path = tmp_path / "torch.onnx"
    if dynamo:
        torch.onnx.export(Model().eval(), (x,), str(path), dynamo=True, verbose=False)
    else:
        axes = {"x": {0: "a", 1: "b"}}
        torch.onnx.export(Model().eval(), (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return path


MODULES = {
    "lstm": ("LSTM", {}),
    "lstm both, deep, batch first": ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm no bias": ("LSTM", {"bias": False}),
    "gru deep": ("GRU", {"num_layers": 3, "dropout": 0.5}),
    "gru both": ("GRU", {"bidirectional": True, "batch_first": True}),
    "rnn relu both, deep": ("RNN", {"nonlinearity": "relu", "bidirectional": True, "num_layers": 2}),
    "rnn": ("RNN", {"batch_first": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        *((name, False) for name in MODULES),
        *((name, True) for name in ("lstm both, deep, batch first", "gru both", "rnn")),
    ],
)
def test_models_of_torchs_exporters(name: str, dynamo: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kind, options = MODULES[name]
    if dynamo:
        pytest.importorskip("onnxscript")
    module = getattr(torch.nn, kind)(INPUT, HIDDEN, **options).eval()
    path = exported(module, dynamo, tmp_path)
    layers = lstmbridge.read(path)
    wanted = lstmbridge.read(module)
    assert [each.metadata["batch_first"] for each in layers] == [options.get("batch_first", False)] * len(wanted)
    assert [each.after for each in layers] == [None, *(each.path for each in layers[:-1])]
    for ours, theirs in zip(layers, wanted, strict=True):
        if theirs.spec.bias == "none" and ours.spec.bias == "dual":  # the exporter writes zeros
            theirs = fit(theirs.replace(spec=theirs.spec), HOLDS).layer
            assert not any(ours[each].any() for each in ours if "bias" in each)
            ours = ours.replace(
                spec=ours.spec.replace(bias="none"), weights={e: ours[e] for e in ours if "bias" not in e}
            )
        assert ours.spec == theirs.spec
        for each in theirs:
            np.testing.assert_array_equal(ours[each], theirs[each].detach().numpy())
    if dynamo and kind == "RNN":  # which this exporter takes apart: no node that could be run
        assert "recovered" in layers[0].metadata
        return
    model = live.load(path, ReadOptions())
    x = sequences(layers[0].spec)
    for each in layers:
        truth = run(each, x)
        found = live.run(model, [each], x)
        assert np.abs(found.y - truth.y).max() <= BOUND
        x = truth.y


@pytest.mark.filterwarnings("ignore")
def test_from_torch_to_onnx_and_back_bit_for_bit() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(INPUT, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
    there = lstmbridge.migrate(module, to="onnx")
    back = lstmbridge.migrate(there.result, to="torch", remainder=there.remainder).result
    assert {k: tuple(v.shape) for k, v in back.state_dict().items()} == {
        k: tuple(v.shape) for k, v in module.state_dict().items()
    }
    assert all(torch.equal(back.state_dict()[key], value) for key, value in module.state_dict().items())


def test_from_onnx_to_torch_and_back_bit_for_bit() -> None:
    pytest.importorskip("torch")
    model = live.build(chain(STACK[0], STACK[1].replace(merge="concat")), WriteOptions())
    there = lstmbridge.migrate(model, to="torch")
    back = lstmbridge.migrate(there.result, to="onnx", remainder=there.remainder).result
    assert back == model


# ---- writing weights back


def test_assign_in_place() -> None:
    model = by_hand("LSTM", ["a", "b"])
    layers = live.read(model, ReadOptions()).layers
    before = [each.name for each in model.graph.initializer]
    with lstmbridge.edit(model, "b") as gates:
        gates["forward.bias.f"][:] = 5
    one, two = live.read(model, ReadOptions()).layers
    same_weights(layers[0], one)
    assert (two["forward.bias.f"] == 5).all()
    np.testing.assert_array_equal(two["forward.kernel.f"], layers[1]["forward.kernel.f"])
    assert [each.name for each in model.graph.initializer] == before


def test_assign_does_not_touch_what_others_share() -> None:
    mine = weights("LSTM")
    nodes = [helper.make_node("LSTM", ["X", *mine], [f"Y{n}"], n, hidden_size=HIDDEN) for n in ("a", "b")]
    model = graph_model(nodes, mine, ["Ya", "Yb"])
    before = live.read(model, ReadOptions()).layers
    with lstmbridge.edit(model, "a") as gates:
        gates["forward.kernel.o"] += 1
    one, two = live.read(model, ReadOptions()).layers
    same_weights(before[1], two)
    np.testing.assert_array_equal(one["forward.kernel.o"], before[0]["forward.kernel.o"] + 1)
    assert list(model.graph.node[0].input) == ["X", "a.W", "R", "B"]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("where", ["computed", "If", "Loop"])
def test_assign_where_weights_are_computed_or_outside(where: str) -> None:
    mine = weights("GRU")
    flat = [helper.make_node("Identity", [key], [f"{key}.same"]) for key in mine]
    node = helper.make_node("GRU", ["X", *(f"{key}.same" for key in mine)], ["Y"], hidden_size=HIDDEN)
    model = graph_model([*flat, node], mine)
    model = in_if(model) if where == "If" else in_loop("GRU", mine, "Loop") if where == "Loop" else model
    before = live.read(model, ReadOptions()).layers
    changed = before[0].replace(weights={name: array * 2 for name, array in before[0].weights.items()})
    live.assign(model, [changed])
    after = live.read(model, ReadOptions()).layers
    same_weights(changed, after[0])
    for unchanged, now in zip(before[1:], after[1:], strict=True):
        same_weights(unchanged, now)
    onnx.checker.check_model(model, full_check=True)
    session(model)


def test_assign_is_all_or_nothing() -> None:
    model = in_function("LSTM", weights("LSTM"))
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    layers = live.read(model, ReadOptions()).layers
    changed = layers[0].replace(weights={name: array * 2 for name, array in layers[0].weights.items()})
    with pytest.raises(Unsupported, match="inline_local_functions"):
        live.assign(model, [changed])
    with pytest.raises(UnknownName, match="unknown onnx layer 'nobody'"):
        live.assign(model, [changed.replace(path="nobody")])
    assert model == copy


# ---- bad models


def broken(**changes: Any) -> Any:
    """A model with one thing wrong."""
    op = changes.pop("op", "LSTM")
    mine = {**weights(op), **changes.pop("tensors", {})}
    nodes = changes.pop("nodes", [])
    inputs = changes.pop("names", list(mine))
    node = helper.make_node(op, ["X", *inputs], ["Y"], "enc", hidden_size=HIDDEN, **changes)
    return graph_model([*nodes, node], mine)


BAD = {
    "a weight from the outside": (
        lambda: broken(names=["X", "R", "B"]),
        "onnx LSTM 'enc', input W: 'X' is not constant\n  found: 'X' is an input, given at run time",
    ),
    "quantised": (
        lambda: broken(
            names=["q", "R", "B"],
            nodes=[helper.make_node("DequantizeLinear", ["qw", "scale"], ["q"], "dq")],
            tensors={"qw": np.ones((1, 44, 5), "int8"), "scale": np.float32(0.1)},
        ),
        "found: it comes from a DequantizeLinear node 'dq' (scale 'scale'); quantised weights are not read",
    ),
    "computed": (
        lambda: broken(names=["w", "R", "B"], nodes=[helper.make_node("Relu", ["X"], ["w"], "act")]),
        "found: it comes from a Relu node 'act'",
    ),
    "dangling": (lambda: broken(names=["nowhere", "R", "B"]), "nothing gives 'nowhere'"),
    "no R": (lambda: broken(names=["W", "", "B"]), "onnx LSTM 'enc': no input R"),
    "three gates": (
        lambda: broken(tensors={"W": weights("GRU")["W"]}),
        "33 = 3 x 11: three gates; is this a GRU's weight?",
    ),
    "flat W": (lambda: broken(tensors={"W": weights("LSTM")["W"][0]}), "W has shape (44, 5)\n  expected d (g h) i"),
    "one bias": (lambda: broken(tensors={"B": np.ones((1, 44), "float32")}), "B has shape (1, 44)"),
    "one direction's arrays": (lambda: broken(direction="bidirectional"), "W has shape (1, 44, 5)"),
    "hidden_size": (lambda: broken(op="RNN", tensors={"R": np.ones((1, 4, 4), "float32")}), "R has shape (1, 4, 4)"),
    "no features": (lambda: broken(tensors={"W": np.ones((1, 44, 0), "float32")}), "input_size is 0"),
    "direction": (lambda: broken(direction="backward"), "unknown direction 'backward'"),
    "activation": (lambda: broken(activations=["Sigmoid", "Tanh", "Swish"]), "unknown activation 'Swish'"),
    "activations": (lambda: broken(activations=["Sigmoid"]), "1 activations: Sigmoid\n  expected 3 a direction"),
    "constant": (lambda: broken(activations=["Sigmoid", "Affine", "Tanh"]), "activation Affine without its alpha"),
    "clip": (lambda: broken(clip=0.0), "clip is 0.0"),
    "clip of another type": (lambda: broken(clip=3), "attribute clip is 3\n  expected float"),
    "a list of another type": (
        lambda: broken(activations=["Sigmoid", "LeakyRelu", "Tanh"], activation_alpha=[1]),
        "attribute activation_alpha is [1]\n  expected a list of float",
    ),
    "integers": (lambda: broken(tensors={k: v.astype("int32") for k, v in weights("LSTM").items()}), "dtype int32"),
    "two dtypes": (lambda: broken(tensors={"B": np.ones((1, 88))}), "expected one dtype"),
    "float8": (
        lambda: with_type(broken(), TensorProto.FLOAT8E4M3FN),
        "onnx LSTM 'enc', input W: onnx tensor 'W' is of type FLOAT8E4M3FN",
    ),
    "no such type": (lambda: with_type(broken(), 77), "'W' is of type 77"),
    "too little data": (lambda: with_data(broken(), b"1234"), "onnx tensor 'W': 4 bytes of data"),
    "negative size": (lambda: with_shape(broken(), [1, -44, 5]), "expected no negative size"),
    "nothing recurrent": (
        lambda: graph_model([helper.make_node("Relu", ["X"], ["Y"])], {}),
        "no LSTM, GRU or RNN node\n  found 1 Relu",
    ),
    "taken apart": (
        lambda: graph_model([helper.make_node("Tanh", ["X"], ["Z"]), helper.make_node("Sigmoid", ["Z"], ["Y"])], {}),
        "export it anew",
    ),
    "com.microsoft": (
        lambda: graph_model([helper.make_node("DynamicQuantizeLSTM", ["X"], ["Y"], "q", domain="com.microsoft")], {}),
        "onnx DynamicQuantizeLSTM 'q' cannot be read: its weights are quantised",
    ),
}


def with_type(model: Any, code: int) -> Any:
    model.graph.initializer[0].data_type = code
    return model


def with_data(model: Any, data: bytes) -> Any:
    model.graph.initializer[0].raw_data = data
    return model


def with_shape(model: Any, shape: list[int]) -> Any:
    model.graph.initializer[0].dims[:] = shape
    return model


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_says_what_is_wrong(name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(BridgeError) as caught:
        live.read(make(), ReadOptions())
    assert words in str(caught.value)


def test_only_the_wanted_layer_must_be_understood() -> None:
    mine = weights("LSTM")
    nodes = [
        helper.make_node("LSTM", ["X", *mine], ["Y"], "/good/LSTM", hidden_size=HIDDEN),
        helper.make_node("LSTM", ["X", "X", "X"], ["Z"], "/bad/LSTM", hidden_size=HIDDEN),
    ]
    model = graph_model(nodes, mine, ["Y", "Z"])
    [found] = live.read(model, ReadOptions(only=("good",))).layers
    assert found.path == "good.LSTM"
    with pytest.raises(LayoutError, match=r"onnx LSTM 'bad\.LSTM'"):
        read_all(model)


def test_other_messages_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"onnx\.GraphProto is not a whole model"):
        lstmbridge.read(by_hand("LSTM").graph)


def test_constants_of_activations_are_taken_in_order() -> None:
    """As onnxruntime takes them: only by activations that have one; what is left over is not used, and noted."""
    notes: list[str] = []
    said = {"activations": ["Sigmoid", "HardSigmoid", "Tanh"], "activation_alpha": [0.9, 0.3], "activation_beta": [0.4]}
    found = spec_of("lstm", said, {"W": (1, 44, 5), "R": (1, 44, 11)}, notes)
    assert found.activations[1] == Activation("hard_sigmoid", 0.9, 0.4)
    assert notes == ["the last 1 of activation_alpha belong to no activation that takes one: not used"]


@pytest.mark.parametrize("value", [0.2, 1 / 6, 1 / 3, 0.01, 2.5, 1e-9])
def test_constants_survive_float32(value: float) -> None:
    given = Spec(cell="rnn", input_size=2, hidden_size=3, activations=(Activation("leaky_relu", value),), bias="dual")
    written = {"activations": ["LeakyRelu"], "activation_alpha": [float(np.float32(value))], "hidden_size": 3}
    found = spec_of("rnn", written, LAYOUTS["rnn"].shapes(given), [])
    exact = value in (0.2, 1 / 6, 0.01, 2.5, 1e-9)
    assert (found.activations == given.activations) is exact
    assert np.float32(found.activations[0].alpha) == np.float32(value)


def test_ambiguous_is_the_error_for_a_missing_constant() -> None:
    with pytest.raises(Ambiguous, match="activation ScaledTanh without its beta"):
        spec_of(
            "rnn", {"activations": ["ScaledTanh"], "activation_alpha": [1.0]}, {"W": (1, 11, 5), "R": (1, 11, 11)}, []
        )


@pytest.mark.parametrize("name", FEATURES)
def test_a_spec_and_its_attributes(name: str) -> None:
    given = spec(**FEATURES[name])
    found = spec_of(given.cell, attributes_of(given), LAYOUTS[given.cell].shapes(given), [])
    assert found.replace(merge=given.merge, processed_order=given.processed_order) == given


def test_inputs_stand_where_the_operators_have_them() -> None:
    schema = onnx.defs.get_schema("LSTM")
    assert [each.name for each in schema.inputs] == sorted(INPUTS, key=INPUTS.__getitem__)


def test_a_sparse_tensor_is_refused() -> None:
    model = broken()
    [w] = [each for each in model.graph.initializer if each.name == "W"]
    model.graph.initializer.remove(w)
    values = helper.make_tensor("W", TensorProto.FLOAT, [1], [0.5])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [3]), [1, 44, 5])
    )
    with pytest.raises(LayoutError, match="input W: onnx graph: 'W' is a sparse tensor"):
        live.read(model, ReadOptions())


def test_two_layers_that_read_the_same_one() -> None:
    first, *others = (target.layer for target in chain(STACK[0], STACK[1], STACK[1]))
    targets = [fit(each.replace(after=None if each is first else first.label), HOLDS) for each in (first, *others)]
    model = live.build(targets, WriteOptions())
    x = sequences(first.spec)
    found = outputs(model, {"part.l0.X": x.transpose(1, 0, 2).astype("float32")})
    for each in others:
        truth = run_stack([first, each], x)[-1]
        assert np.abs(found[f"{each.label}.Y"].transpose(1, 0, 2) - truth.y).max() <= BOUND
    assert [each.after for each in live.read(model, ReadOptions()).layers] == [None, "part.l0", "part.l0"]


def test_a_machine_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    from lstmbridge.checking import check

    model = made(layer(bias="dual"))
    layers = live.read(model, ReadOptions()).layers
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingFramework, match="needs the package 'onnxruntime'") as caught:
        live.run(model, layers, sequences(layers[0].spec))
    assert "pip install 'lstmbridge[onnxruntime]'" in str(caught.value)
    agreement = check(model, layers)
    assert agreement.agrees
    assert "was run by the reference" in agreement.notes[0]
