"""onnx: files of every operator set, external data, constants behind operators, and what is refused by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import BATCH, HIDDEN, INPUT, TIME, layer, same_weights, sequences

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import lstmbridge  # noqa: E402
from lstmbridge import Layer  # noqa: E402
from lstmbridge.contract import ReadOptions, WriteOptions  # noqa: E402
from lstmbridge.errors import BridgeError, FileError, LayoutError, Unsupported  # noqa: E402
from lstmbridge.fit import fit  # noqa: E402
from lstmbridge.frameworks.onnx import files, live  # noqa: E402
from lstmbridge.frameworks.onnx.constants import Constants  # noqa: E402
from lstmbridge.frameworks.onnx.graph import Scope  # noqa: E402
from lstmbridge.frameworks.onnx.layout import HOLDS, LAYOUTS  # noqa: E402
from lstmbridge.reference import run  # noqa: E402

BOTH = ("forward", "reverse")
BOUND = 2e-6
OPSETS = (1, 3, *range(7, 23))
CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def outputs(source: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = str(source) if isinstance(source, Path) else source.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def node_of(given: Layer, opset: int, **attributes: Any) -> tuple[Any, dict[str, Any]]:
    """The node of a layer as an exporter of that time wrote it, and its arrays."""
    arrays = LAYOUTS[given.spec.cell].pack(given.weights, given.spec)
    if given.spec.cell == "gru" and opset >= 3:
        attributes["linear_before_reset"] = int(given.spec.reset_after)
    if opset < 7:
        attributes["output_sequence"] = 1
    if given.spec.bidirectional:
        attributes["direction"] = "bidirectional"
    inputs = ["X", "W", "R", "B", *(["", "", "", "P"] if "P" in arrays else [])]
    return helper.make_node(given.spec.cell.upper(), inputs, ["Y"], "rnn", hidden_size=HIDDEN, **attributes), arrays


def model_of(
    nodes: Sequence[Any], stored: Mapping[str, Any], opset: int, outs: Sequence[Any] = ("Y",), **more: Any
) -> Any:
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["t", "b", INPUT]), *more.pop("inputs", ())]
    rank = more.pop("rank", 4)
    shape = None if rank is None else [None] * rank
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    if opset < 7:  # of that time: every initializer is an input, too
        inputs += [helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)) for each in tensors]
    graph = helper.make_graph(list(nodes), "g", inputs, ends, tensors)
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3 if opset < 7 else 8, **more)


# ---- operator sets


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_the_same_in_every_operator_set(cell: str, opset: int, tmp_path: Path) -> None:
    features: dict[str, Any] = {"directions": BOTH, "merge": "none", "clip": 3.0}
    features |= {"peepholes": True} if cell == "lstm" else {"reset_after": opset >= 3} if cell == "gru" else {}
    given = layer(cell, bias="dual", **features)
    node, arrays = node_of(given, opset, clip=3.0)
    path = tmp_path / "old.onnx"
    path.write_bytes(model_of([node], arrays, opset).SerializeToString())
    [found] = files.read(path, ReadOptions()).layers
    same_weights(given, found)
    assert found.metadata["config"]["opset"] == opset
    anew = tmp_path / "new.onnx"
    lstmbridge.convert(path, path=anew, opset=22)
    model = onnx.load(anew)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 22)]
    assert "output_sequence" not in [each.name for node in model.graph.node for each in node.attribute]
    same_weights(given, files.read(anew, ReadOptions()).layers[0])
    x = sequences(given.spec)
    ran = outputs(anew, {"X": x.transpose(1, 0, 2).astype("float32")})
    truth = run(given, x)
    assert np.abs(ran["Y"].transpose(2, 0, 1, 3).reshape(BATCH, TIME, -1) - truth.y).max() <= BOUND
    assert np.abs(ran["Y_h"] - truth.h).max() <= BOUND
    if truth.c is not None:
        assert np.abs(ran["Y_c"] - truth.c).max() <= BOUND


def test_bfloat16_is_written_from_22_on() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = layer("gru", bias="dual")
    given = given.replace(weights={name: array.astype(ml_dtypes.bfloat16) for name, array in given.weights.items()})
    for opset in range(7, 22):
        with pytest.raises(Unsupported, match=f"no bfloat16 GRU in opset {opset}"):
            live.build([fit(given, HOLDS)], WriteOptions(opset=opset))
    same_weights(given, live.read(live.build([fit(given, HOLDS)], WriteOptions(opset=22)), ReadOptions()).layers[0])


# ---- external data


def scattered(directory: Path, **places: tuple[str, str, str]) -> Path:
    """A file whose weights lie elsewhere: for each of W, R, B the location, the offset and the length that it says."""
    given = layer("rnn", bias="dual")
    node, arrays = node_of(given, 17)
    model = model_of([node], arrays, 17)
    for tensor in model.graph.initializer:
        data = tensor.raw_data
        location, offset, length = places.get(tensor.name, (f"{tensor.name}.bin", "", ""))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value:
                tensor.external_data.add(key=key, value=value)
        if tensor.name not in places:
            (directory / f"{tensor.name}.bin").write_bytes(data)
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_several_files(tmp_path: Path) -> None:
    given = layer("rnn", bias="dual")
    path = scattered(tmp_path)
    same_weights(given, files.read(path, ReadOptions()).layers[0])
    below = tmp_path / "weights"
    below.mkdir()
    (tmp_path / "R.bin").rename(below / "R.data")
    data = (below / "R.data").read_bytes()
    (below / "R.data").write_bytes(b"\1" * 77 + data + b"\2" * 5)
    path = scattered(tmp_path, R=("weights/R.data", "77", str(len(data))))
    same_weights(given, files.read(path, ReadOptions()).layers[0])
    assert lstmbridge.read(path)[0].parameters == given.parameters


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    path = scattered(tmp_path)
    (tmp_path / "W.bin").rename(tmp_path / "elsewhere.bin")
    (tmp_path / "W.bin").symlink_to("elsewhere.bin")
    same_weights(layer("rnn", bias="dual"), files.read(path, ReadOptions()).layers[0])


SIZE = str(HIDDEN * INPUT * 4)
PLACES = {
    "above": (("../secret", "", ""), "refused"),
    "above, by a way around": (("inside/../../secret", "", ""), "refused"),
    "absolute": (("{root}/secret", "", ""), "refused"),
    "absolute, of the system": (("/dev/zero", "", ""), "refused"),
    "a link to a file outside": (("link", "", ""), "refused"),
    "in a link to a directory outside": (("linked/secret", "", ""), "refused"),
    "a directory": (("folder", "", ""), "is no file"),
    "the model's directory": ((".", "", ""), "is no file"),
    "a pipe": (("pipe", "", ""), "is no file"),
    "nothing": (("nowhere", "", ""), "cannot be read"),
    "no name": (("", "", ""), "refused"),
    "a name that no file can have": (("a\0b", "", ""), "said to be at"),
    "a name too long": (("n" * 5000, "", ""), "cannot be read|said to be at"),
    "a link to itself": (("itself", "", ""), "cannot be read|said to be at|refused"),
    "beyond the end": (("short", "", SIZE), "was cut short"),
    "begins beyond the end": (("full", "999999999999", SIZE), "was cut short"),
    "begins before the beginning": (("full", "-8", SIZE), "was cut short"),
    "a negative length": (("full", "", "-220"), "bytes of data"),
    "another length": (("full", "", "8"), "8 bytes of data"),
    "a length beyond all files": (("full", "", "9" * 30), "bytes of data"),
    "no number": (("full", "0x10", ""), "is not a number"),
}


@pytest.mark.parametrize("name", PLACES)
def test_data_outside_or_not_there(name: str, tmp_path: Path) -> None:
    (location, offset, length), words = PLACES[name]
    directory = tmp_path / "inside"
    (directory / "folder").mkdir(parents=True)
    (directory / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    for place in (tmp_path / "secret", tmp_path / "outside" / "secret", directory / "full"):
        place.write_bytes(bytes(range(256)) * 400)
    (directory / "short").write_bytes(bytes(int(SIZE) - 1))
    (directory / "link").symlink_to(tmp_path / "secret")
    (directory / "linked").symlink_to(tmp_path / "outside")
    (directory / "itself").symlink_to("itself")
    os.mkfifo(directory / "pipe")
    path = scattered(directory, W=(location.format(root=tmp_path), offset, length))
    with pytest.raises((FileError, LayoutError)) as caught:
        files.read(path, ReadOptions())
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)


def test_external_data_is_written_at_pages(tmp_path: Path) -> None:
    given = [layer(cell, bias="dual", path=cell) for cell in CELLS]
    path = tmp_path / "model.onnx"
    files.write([fit(each, HOLDS) for each in given], path, WriteOptions(external_data=True))
    model = onnx.load(path, load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    assert len(places) == 9
    assert {place["location"] for place in places} == {"model.onnx.data"}
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    ends = [(int(place["offset"]), int(place["offset"]) + int(place["length"])) for place in places]
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    for one, other in zip(given, files.read(path, ReadOptions()).layers, strict=True):
        same_weights(one, other)


def test_names_of_places_that_are_no_text(tmp_path: Path) -> None:
    path = scattered(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"W.bin", b"W\xff\xfein"))
    with pytest.raises(FileError, match="not text"):
        files.read(path, ReadOptions())


# ---- quantised


def quantised(**changes: Any) -> Any:
    """A node whose W is computed from whole numbers."""
    given = layer("lstm", bias="dual")
    node, arrays = node_of(given, 17)
    whole = np.round(arrays["W"] * 50).astype("int8")
    stored = {"R": arrays["R"], "B": arrays["B"], "W.whole": whole, "W.scale": np.float32(0.02), **changes}
    dequantize = helper.make_node("DequantizeLinear", ["W.whole", "W.scale"], ["W.floats"], "net/dequantize")
    same = helper.make_node("Identity", ["W.floats"], ["W"])
    return model_of([dequantize, same, node], stored, 17)


def test_quantised_weights_are_refused_by_name() -> None:
    with pytest.raises(Unsupported) as caught:
        live.read(quantised(), ReadOptions())
    message = str(caught.value)
    assert "onnx LSTM 'rnn', input W" in message
    assert "DequantizeLinear node 'net/dequantize' (scale 'W.scale'); quantised weights are not read" in message


@pytest.mark.parametrize("op", ["DynamicQuantizeLSTM", "AttnLSTM"])
def test_other_operators_are_refused_by_name(op: str) -> None:
    node = helper.make_node(op, ["X"], ["Y"], "odd", domain="com.microsoft")
    model = model_of([node], {}, 17, opsets=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(Unsupported, match=f"onnx {op} 'odd' cannot be read"):
        live.read(model, ReadOptions())


# ---- constants behind operators


def texts(*lines: str) -> list[Any]:
    return [onnx.parser.parse_node(line) for line in lines]


OPERATORS = [
    "z = Abs (a)", "z = Max (a, b, c)", "z = Min (a, b)", "z = Where (m, a, b)", "z = Not (m)", "z = And (m, m2)",
    "z = Or (m, m2)", "z = Equal (a, b)", "z = Less (a, b)", "z = LessOrEqual (a, a)", "z = Greater (a, b)",
    "z = GreaterOrEqual (a, b)", "z = Size (a)", "z = Tile (a, two_one)", "z = Range (nought, eleven, three)",
    "z = Range (eleven, nought, minus)", "z = Pad (a, widths)", "z = Pad (a, widths, half)",
    "z = Pad (a, narrow, half)", "z = ReduceMax <axes=[1], keepdims=0> (a)", "z = ReduceMin (a)",
    "z = ReduceMax <axes=[0]> (a)", "z = ScatterND (a, places, rows)",
    "z = ReverseSequence <batch_axis=1, time_axis=0> (cube, lengths)",
    "z = ReverseSequence <batch_axis=0, time_axis=1> (cube, four)", "z = Squeeze (thin)", "z = Squeeze (thin, axis)",
    "z = Gather <axis=1> (a, back)", "z = Neg (a)", "z = Split <axis=1> (a)", "z, y = Split (a, parts)",
    "z = ConstantOfShape (two_one)", "z = Slice (a, back1, back9, axis, back1)",
]  # fmt: skip


@pytest.mark.parametrize("line", OPERATORS)
def test_operators_are_evaluated_as_onnxruntime_does(line: str) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(4, 6)).astype("float32") for _ in range(3))
    stored: dict[str, Any] = {
        "a": a, "b": b, "c": c, "m": a > 0, "m2": b > 0, "two_one": np.array([2, 1]), "nought": np.array(0),
        "eleven": np.array(11), "three": np.array(3), "minus": np.array(-4), "widths": np.array([1, 0, 2, 3]),
        "narrow": np.array([-1, 2, 0, -3]), "half": np.float32(0.5), "places": np.array([[2], [0]]),
        "rows": np.stack([b[0], c[0]]), "cube": rng.normal(size=(4, 3, 2)).astype("float32"),
        "lengths": np.array([2, 4, 1]), "four": np.array([1, 3, 2, 3]), "thin": a[None], "axis": np.array([0]),
        "back": np.array([-1, 2, -6]), "parts": np.array([1, 3]), "back1": np.array([-1]), "back9": np.array([-9]),
    }  # fmt: skip
    [node] = texts(line)
    stored = {name: array for name, array in stored.items() if name in node.input}
    model = model_of([node], stored, 17, node.output, rank=None)
    scope = Scope.of(model)
    found = {name: Constants(None, [scope]).value(scope, name) for name in node.output}
    for each in model.graph.output:
        each.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(found[each.name].dtype)
    ran = outputs(model, {"X": np.zeros((1, 1, INPUT), "float32")})
    for name in node.output:
        assert ran[name].dtype == found[name].dtype
        np.testing.assert_array_equal(ran[name], found[name])


def test_weights_behind_what_exporters_write() -> None:
    """Gates cut apart, moved, chosen, padded and put together again."""
    given = layer("gru", bias="dual")
    _, arrays = node_of(given, 17)
    w = arrays["W"][0]
    stored = {
        **{f"W{n}": w[n * HIDDEN : (n + 1) * HIDDEN][None] for n in range(3)}, "axis": np.array([0]),
        "R1": arrays["R"][0], "B1": arrays["B"][0][: 3 * HIDDEN], "pads": np.array([0, 3 * HIDDEN]),
        "Rb": arrays["B"][0][3 * HIDDEN :], "start": np.array(0), "end": np.array(3 * HIDDEN), "step": np.array(1),
        "which": np.array([True]),
        "pads2": np.array([3 * HIDDEN, 0]), "parts": np.array([HIDDEN, 2 * HIDDEN]),
    }  # fmt: skip
    nodes = texts(
        *(f"s{n} = Squeeze (W{n}, axis)" for n in range(3)), "w = Concat <axis=0> (s0, s1, s2)",
        "W = Unsqueeze (w, axis)",
        "order = Range (start, end, step)", "r = Gather <axis=0> (R1, order)", "ra, rb = Split <axis=0> (r, parts)",
        "rc = Concat <axis=0> (ra, rb)", "nr = Neg (rc)", "pr = Neg (nr)", "wr = Where (which, pr, nr)",
        "R = Unsqueeze (wr, axis)",
        "b = Pad (B1, pads)", "b2 = Pad (Rb, pads2)", "bb = Add (b, b2)", "B = Unsqueeze (bb, axis)",
        "Y = GRU <hidden_size=11, linear_before_reset=1> (X, W, R, B)",
    )  # fmt: skip
    model = model_of(nodes, stored, 17)
    onnx.checker.check_model(model, full_check=True)
    reading = live.read(model, ReadOptions())
    same_weights(given, reading.layers[0])
    assert reading.left_alone == ()
    x = sequences(given.spec)
    ran = outputs(model, {"X": x.transpose(1, 0, 2).astype("float32")})
    assert np.abs(ran["Y"][:, 0].transpose(1, 0, 2) - run(given, x).y).max() <= BOUND


@pytest.mark.parametrize(
    "line",
    ["w = Range (nought, many, one)", "w = Tile (W, lots)", "w = Pad (W, wide)", "w = Range (nought, one, nought)"],
)
def test_constants_that_grow_are_refused(line: str) -> None:
    stored = {"W": np.ones((1, 44, 5), "float32"), "nought": np.array(0), "many": np.array(1 << 50),
              "one": np.array(1), "lots": np.array([1 << 20] * 3), "wide": np.array([1 << 40] * 6),
              "R": np.ones((1, 44, 11), "float32")}  # fmt: skip
    model = model_of([*texts(line), helper.make_node("LSTM", ["X", "w", "R"], ["Y"], hidden_size=HIDDEN)], stored, 17)
    with pytest.raises(LayoutError, match="do not fit together"):
        live.read(model, ReadOptions())


# ---- nodes inside others


@pytest.mark.parametrize("cell", CELLS)
def test_a_node_in_a_function_in_a_loop_in_an_if(cell: str) -> None:
    """The weights are the outermost graph's; the function gets two of them, the third stands in the Loop's body."""
    given = layer(cell, bias="dual")
    node, arrays = node_of(given, 17)
    node.input[:] = ["x", "w", "r", "b"]
    node.output[:] = ["y"]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("local", "Recur", ["x", "w", "r", "b"], ["y"], [node], [opset])
    call = helper.make_node("Recur", ["X", "W", "R.inner", "B"], ["step"], "call", domain="local")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [call, *texts("goes = Identity (going)")], "body",
        [info("turn", TensorProto.INT64, []), info("going", TensorProto.BOOL, [])],
        [info("goes", TensorProto.BOOL, []), info("step", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(arrays["R"], "R.inner")],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["times", ""], ["many"], "loop", body=body)
    then = helper.make_graph([loop], "then", [], [info("many", TensorProto.FLOAT, [None] * 5)])
    other = helper.make_graph(
        texts("axes = Constant <value_ints = [0, 1]> ()", "none = Unsqueeze (X, axes)"), "else", [],
        [info("none", TensorProto.FLOAT, [None] * 5)],
    )  # fmt: skip
    which = helper.make_node("If", ["which"], ["Y"], then_branch=then, else_branch=other)
    inputs = [info("which", TensorProto.BOOL, []), info("times", TensorProto.INT64, [])]
    stored = {key: arrays[key] for key in ("W", "B")}
    opsets = [helper.make_opsetid("local", 1)]
    model = model_of([which], stored, 17, inputs=inputs, opsets=opsets, functions=[function], rank=5)
    onnx.checker.check_model(model)
    reading = live.read(model, ReadOptions())
    [found] = reading.layers
    same_weights(given, found)
    assert found.path == "call.rnn"
    assert reading.left_alone == ()
    x = sequences(given.spec)
    feeds = {"X": x.transpose(1, 0, 2).astype("float32"), "which": np.array(True), "times": np.array(1)}
    assert np.abs(outputs(model, feeds)["Y"][0, :, 0].transpose(1, 0, 2) - run(given, x).y).max() <= BOUND


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = scattered(tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        garbled = np.frombuffer(data, np.uint8).copy()
        garbled[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(garbled.tobytes())
        try:
            files.read(path, ReadOptions())
        except BridgeError:
            continue
