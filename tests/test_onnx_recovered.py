"""onnx: recurrent layers that an exporter took apart, recovered where they are proved, refused where they are not.

Models are written here node by node, in the text of onnx.parser: one step of a cell, and that step alone, repeated,
in a Loop or in a Scan. Each is run by onnxruntime and must give what the recovered layer gives by the equations.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import BATCH, HIDDEN, PROJECTION, layer_of, sequences, spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import lstmbridge  # noqa: E402
from lstmbridge import Activation, Layer  # noqa: E402
from lstmbridge.contract import Reading, ReadOptions  # noqa: E402
from lstmbridge.errors import BridgeError, LayoutError, Unsupported  # noqa: E402
from lstmbridge.frameworks.onnx import files, live  # noqa: E402
from lstmbridge.reference import STEPS, run, run_stack  # noqa: E402

BOUND = 2e-6
STEPS_OF = 4  # of a model that repeats its nodes; other than all sizes

# ---- one step of each cell, as text: `x`, `h`, `c` lead to `h1`, `c1`; the names of gates are those of the project

PRE = ["gx = Gemm <transB=1> (x, W, B)", "gh = Gemm <transB=1> (h, R, Rb)"]
LSTM = [
    *PRE, "g0 = Add (gx, gh)", "{0}p, {1}p, {2}p, {3}p = Split <axis=1> (g0)",
    "i = Sigmoid (ip)", "f = Sigmoid (fp)", "g = Tanh (gp)", "o = Sigmoid (op)",
    "fc = Mul (f, c)", "ig = Mul (i, g)", "c1 = Add (fc, ig)", "tc = Tanh (c1)", "h1 = Mul (o, tc)",
]  # fmt: skip
GRU = [
    *PRE, "{0}x, {1}x, {2}x = Split <axis=1> (gx)", "{0}h, {1}h, {2}h = Split <axis=1> (gh)",
    "rp = Add (rx, rh)", "r = Sigmoid (rp)", "zp = Add (zx, zh)", "z = Sigmoid (zp)",
    "rn = Mul (r, nh)", "np = Add (nx, rn)", "n = Tanh (np)",
    "y = Sub (one, z)", "yn = Mul (y, n)", "zh1 = Mul (z, h)", "h1 = Add (yn, zh1)",
]  # fmt: skip
BEFORE = [
    "gx = Gemm <transB=1> (x, W, B)", "{0}x, {1}x, {2}x = Split <axis=1> (gx)",
    "Rr, Rz, Rn = Split <axis=0> (R)", "rt = Transpose (Rr)", "zt = Transpose (Rz)", "nt = Transpose (Rn)",
    "rh = MatMul (h, rt)", "zh = MatMul (h, zt)", "rp = Add (rx, rh)", "r = Sigmoid (rp)", "zp = Add (zh, zx)",
    "z = Sigmoid (zp)", "rs = Mul (h, r)", "nh = MatMul (rs, nt)", "np = Add (nx, nh)", "n = Tanh (np)",
    "y = Sub (one, z)", "yn = Mul (y, n)", "zh1 = Mul (z, h)", "h1 = Add (yn, zh1)",
]  # fmt: skip
RNN = [*PRE, "np = Add (gx, gh)", "h1 = Tanh (np)"]
TEXT = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "n"}


def changed(lines: Sequence[str], **others: str) -> list[str]:
    """The lines, those that give a name replaced: ``g="g = Relu (gp)"``; several lines are parted by semicolons."""
    found: list[str] = []
    for line in lines:
        name = line.partition(" =")[0]
        found += others.pop(name).split("; ") if name in others else [line]
    assert not others, others
    return found


def tensors(layer: Layer, order: str) -> dict[str, Any]:
    """The stored arrays: W, R, B, Rb with the gates in `order`, and what else the lines read."""
    parts = {"W": "kernel", "R": "recurrent_kernel", "B": "bias", "Rb": "recurrent_bias"}
    found = {
        key: np.concatenate([np.asarray(layer[f"forward.{part}.{gate}"]) for gate in order])
        for key, part in parts.items()
        if f"forward.{part}.{order[0]}" in layer.weights
    }
    for gate in order if layer.spec.peepholes else "":
        if gate != "g":
            found[f"P{gate}"] = np.asarray(layer[f"forward.peephole.{gate}"])
    if layer.spec.projection_size:
        found["P"] = np.asarray(layer["forward.projection"]).T.copy()
    return {**found, "one": np.float32(1)}


def nodes_of(lines: Sequence[str], order: str, rename: Mapping[str, str], prefix: str) -> list[Any]:
    """The nodes of one step; names that are computed in it get a prefix."""
    nodes = [onnx.parser.parse_node(line.format(*order)) for line in lines]
    made = {name for node in nodes for name in node.output}
    for node in nodes:
        node.input[:] = [rename.get(name, prefix + name if name in made else name) for name in node.input]
        node.output[:] = [rename.get(name, prefix + name) for name in node.output]
    return nodes


def info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model_of(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], stored: Mapping[str, Any]) -> Any:
    read = {name for node in nodes for name in names_read(node)}
    kept = {name: np.asarray(array) for name, array in stored.items() if name in read}
    initializers = [numpy_helper.from_array(array, name) for name, array in kept.items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def names_read(node: Any) -> list[str]:
    inside = [inner for attribute in node.attribute for inner in attribute.g.node]
    return [*node.input, *(name for inner in inside for name in names_read(inner))]


def sizes_of(layer: Layer) -> dict[str, int]:
    return {"h": layer.spec.state_size, **({"c": layer.spec.hidden_size} if layer.spec.cell == "lstm" else {})}


def single(layer: Layer, lines: Sequence[str], order: str) -> Any:
    """A model of one step: x, h, c -> h1, c1."""
    states = sizes_of(layer)
    nodes = nodes_of(lines, order, {}, "")
    inputs = [info("x", "b", layer.spec.input_size), *(info(key, "b", size) for key, size in states.items())]
    return model_of(nodes, inputs, [info(f"{key}1", "b", size) for key, size in states.items()], tensors(layer, order))


def unrolled(layer: Layer, lines: Sequence[str], order: str, *, odd: Sequence[str] | None = None, back: bool = False,
             batch_first: bool = False) -> Any:  # fmt: skip
    """A model of as many steps as X has; `odd`: other lines for the third step."""
    states = sizes_of(layer)
    nodes, stored = [], tensors(layer, order)
    axis = 1 if batch_first else 0
    for step in range(STEPS_OF):
        at = STEPS_OF - 1 - step if back else step
        stored[f"at{step}"] = np.array(at)
        nodes.append(helper.make_node("Gather", ["X", f"at{step}"], [f"x{step}"], axis=axis))
        rename = {"x": f"x{step}", **{key: f"{key}_{step}" for key in states}}
        rename |= {f"{key}1": f"{key}_{step + 1}" for key in states}
        nodes += nodes_of(odd if odd and step == 2 else lines, order, rename, f"s{step}_")
        nodes.append(helper.make_node("Unsqueeze", [f"h_{step + 1}", "axis"], [f"y{step}"]))
    stored["axis"] = np.array([axis])
    ys = [f"y{step}" for step in range(STEPS_OF)]
    nodes.append(helper.make_node("Concat", ys[::-1] if back else ys, ["Y"], axis=axis))
    shape = ["b", STEPS_OF, layer.spec.input_size] if batch_first else [STEPS_OF, "b", layer.spec.input_size]
    inputs = [info("X", *shape), *(info(f"{key}_0", "b", size) for key, size in states.items())]
    outs = [info("Y", None, None, states["h"]), *(info(f"{k}_{STEPS_OF}", "b", n) for k, n in states.items())]
    return model_of(nodes, inputs, outs, stored)


def loop(layer: Layer, lines: Sequence[str], order: str, *, zero: bool = False, index: str = "turn") -> Any:
    """A model that runs a Loop over the time of X (t, b, i); `zero`: it begins with zeros, else with inputs."""
    states = sizes_of(layer)
    at = {"turn": ["at = Identity (turn)"], "back": ["left = Sub (T, turn)", "at = Sub (left, unit)"],
          "first": ["at = Sub (turn, turn)"]}[index]  # fmt: skip
    body = [onnx.parser.parse_node(line) for line in (*at, "x = Gather <axis=0> (X, at)", "goes = Identity (going)")]
    body += nodes_of(lines, order, {"x": "x", **{key: key for key in (*states, "h1", "c1")}}, "s_")
    body.append(onnx.parser.parse_node("y = Identity (h1)"))
    inside = [info("turn", kind=TensorProto.INT64), info("going", kind=TensorProto.BOOL)]
    graph = helper.make_graph(
        body, "body", [*inside, *(info(key, "b", size) for key, size in states.items())],
        [info("goes", kind=TensorProto.BOOL), *(info(f"{k}1", "b", n) for k, n in states.items()),
         info("y", "b", states["h"])],
    )  # fmt: skip
    first = [f"{key}_0" for key in states]
    nodes = [onnx.parser.parse_node(line) for line in ("shape = Shape (X)", "T = Gather <axis=0> (shape, nought)")]
    inputs = [info("X", "t", "b", layer.spec.input_size)]
    stored = {**tensors(layer, order), "nought": np.array(0), "unit": np.array(1)}
    if zero:
        for key, size in states.items():
            stored[f"{key}_size"] = np.array([size])
            nodes += [onnx.parser.parse_node(line) for line in (
                f"{key}_b = Slice (shape, ones, twos)", f"{key}_s = Concat <axis=0> ({key}_b, {key}_size)",
                f"{key}_0 = ConstantOfShape ({key}_s)")]  # fmt: skip
        stored |= {"ones": np.array([1]), "twos": np.array([2])}
    else:
        inputs += [info(f"{key}_0", "b", size) for key, size in states.items()]
    ends = [f"{key}_n" for key in states]
    nodes.append(helper.make_node("Loop", ["T", "", *first], [*ends, "Y"], name="net/while", body=graph))
    outs = [info("Y", None, None, states["h"]), *(info(f"{k}_n", "b", n) for k, n in states.items())]
    return model_of(nodes, inputs, outs, stored)


def scan(layer: Layer, lines: Sequence[str], order: str, *, back: bool = False, forward_time: bool = True) -> Any:
    """A model that runs a Scan over X (t, b, i)."""
    states = sizes_of(layer)
    body = nodes_of(lines, order, {"x": "x", **{key: key for key in (*states, "h1", "c1")}}, "s_")
    body.append(onnx.parser.parse_node("y = Identity (h1)"))
    graph = helper.make_graph(
        body, "body", [*(info(k, "b", n) for k, n in states.items()), info("x", "b", layer.spec.input_size)],
        [*(info(f"{k}1", "b", n) for k, n in states.items()), info("y", "b", states["h"])],
    )  # fmt: skip
    given = {"scan_input_directions": [1], "scan_output_directions": [int(forward_time)]} if back else {}
    first, ends = [f"{key}_0" for key in states], [f"{key}_n" for key in states]
    node = helper.make_node("Scan", [*first, "X"], [*ends, "Y"], body=graph, num_scan_inputs=1, **given)
    inputs = [info("X", "t", "b", layer.spec.input_size), *(info(f"{k}_0", "b", n) for k, n in states.items())]
    outs = [info("Y", None, None, states["h"]), *(info(f"{k}_n", "b", n) for k, n in states.items())]
    return model_of([node], inputs, outs, tensors(layer, order))


MAKERS = {"single": single, "unrolled": unrolled, "loop": loop, "scan": scan}


# ---- reading and checking


def read(model: Any) -> Reading:
    return live.read(model, ReadOptions())


def one(model: Any) -> Layer:
    [found] = read(model).layers
    return found


def outputs(model: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: np.float32(v) for k, v in feeds.items()}), strict=True))


def drawn(layer: Layer) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {key: rng.normal(size=(BATCH, size)).astype("float32") for key, size in sizes_of(layer).items()}


def check_single(model: Any, found: Layer) -> None:
    """That one step in onnxruntime is one step of the layer."""
    states = drawn(found)
    x = sequences(found.spec, time=1)[:, 0]
    w = {name.removeprefix("forward."): np.asarray(each, "float64") for name, each in found.weights.items()}
    given = {key: state.astype(float) for key, state in states.items()}
    h, c = STEPS[found.spec.cell](w, found.spec, "forward", x, given["h"], given.get("c", given["h"]))
    ran = outputs(model, {"x": x, **states})
    assert np.abs(ran["h1"] - h).max() <= BOUND
    if "c" in states:
        assert np.abs(ran["c1"] - c).max() <= BOUND


def check_sequence(model: Any, found: Layer, *, batch_first: bool = False, zero: bool = False) -> None:
    """That the model in onnxruntime gives the y, h and c of the layer."""
    states = {} if zero else drawn(found)
    x = sequences(found.spec, time=STEPS_OF)
    truth = run(found, x, **{f"{key}0": state[None] for key, state in states.items()})
    ran = outputs(model, {"X": x if batch_first else x.transpose(1, 0, 2), **{f"{k}_0": v for k, v in states.items()}})
    y = ran.pop("Y")
    assert np.abs((y if batch_first else y.transpose(1, 0, 2)) - truth.y).max() <= BOUND
    for name, value in ran.items():
        assert np.abs(value - (truth.h if name.startswith("h") else truth.c)[0]).max() <= BOUND


def check(kind: str, model: Any, found: Layer) -> None:
    check_single(model, found) if kind == "single" else check_sequence(model, found)


def same_numbers(given: Layer, found: Layer) -> None:
    """The same Spec and, gate by gate, the same bits."""
    assert found.spec == given.spec
    for name in given:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(given[name]), err_msg=name)


def made(cell: str, **features: Any) -> Layer:
    return layer_of(spec(cell, **{"bias": "dual", **features}), seed=len(str(features)))


# ---- what is recovered


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("cell", TEXT)
def test_each_cell_in_each_form(cell: str, kind: str) -> None:
    given = made(cell)
    model = MAKERS[kind](given, TEXT[cell], GATES[cell])
    reading = read(model)
    [found] = reading.layers
    same_numbers(given, found)
    check(kind, model, found)
    assert reading.left_alone == ()
    assert "proved" in reading.notes[0]
    assert len(reading.notes) == 1
    assert found.path == f"{cell.upper()}_0"
    assert found.metadata["framework"] == "onnx"


@pytest.mark.parametrize("kind", ["single", "loop"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_order_of_gates(cell: str, kind: str) -> None:
    given = made(cell)
    for order in list(permutations(GATES[cell]))[:: 1 if kind == "single" else 3]:
        same_numbers(given, one(MAKERS[kind](given, TEXT[cell], "".join(order))))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_gru_that_resets_before(kind: str) -> None:
    given = made("gru", reset_after=False, bias="single")
    model = MAKERS[kind](given, BEFORE, "rzn")
    found = one(model)
    same_numbers(given, found)
    check(kind, model, found)


FUSED = ["xh = Concat <axis=1> (x, h)", "m = MatMul (xh, K)", "g0 = Add (m, B)", *LSTM[3:]]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_one_matrix_for_input_and_state(kind: str, constant: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorFlow's cells have it: rows [x; h], and a constant that is added to the forget gate."""
    given = made("lstm", bias="single", forget_constant=constant)
    lines = changed(FUSED, f="fq = Add (fp, one); f = Sigmoid (fq)") if constant else FUSED
    stored = tensors(given, "igfo")
    stored = {"K": np.concatenate([stored["W"].T, stored["R"].T]), "B": stored["B"], "one": stored["one"]}
    monkeypatch.setitem(globals(), "tensors", lambda *_: dict(stored))
    model = MAKERS[kind](given, lines, "igfo")
    same_numbers(given, one(model))
    check(kind, model, one(model))


FEATURES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "relu for tanh": ("lstm", {"activations": ("sigmoid", "relu", "tanh")}, {"g": "g = Relu (gp)"}),
    "no function of c": ("lstm", {"activations": ("sigmoid", "tanh", "linear")}, {"tc": "tc = Identity (c1)"}),
    "no function of g": ("lstm", {"activations": ("sigmoid", "linear", "tanh")}, {"g": "g = Identity (gp)"}),
    "hard sigmoid": (
        "lstm", {"activations": (Activation("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")},
        {gate: f"{gate} = HardSigmoid ({gate}p)" for gate in "ifo"},
    ),
    "hard sigmoid of Keras 3": (
        "lstm", {"activations": (Activation("hard_sigmoid", 1 / 6, 0.5), "tanh", "tanh")},
        {gate: f"{gate} = HardSigmoid <alpha=0.16666667> ({gate}p)" for gate in "ifo"},
    ),
    "peepholes": (
        "lstm", {"peepholes": True},
        {"i": "pi = Mul (c, Pi); iq = Add (ip, pi); i = Sigmoid (iq)",
         "f": "pf = Mul (Pf, c); fq = Add (pf, fp); f = Sigmoid (fq)",
         "o": "", "tc": "po = Mul (Po, c1); oq = Add (op, po); o = Sigmoid (oq); tc = Tanh (c1)"},
    ),
    "cell clip": ("lstm", {"cell_clip": 0.5}, {"c1": "cs = Add (fc, ig); c1 = Clip (cs, minus, plus)"}),
    "clip": ("lstm", {"clip": 0.5}, {"g0": "gs = Add (gx, gh); g0 = Clip (gs, minus, plus)"}),
    "projection": ("lstm", {"projection_size": PROJECTION}, {"h1": "m = Mul (o, tc); h1 = MatMul (m, P)"}),
    "relu gru": ("gru", {"activations": ("sigmoid", "relu")}, {"n": "n = Relu (np)"}),
    "the difference form": (
        "gru", {}, {"y": "", "yn": "d = Sub (h, n)", "zh1": "zd = Mul (z, d)", "h1": "h1 = Add (n, zd)"},
    ),
    "relu rnn": ("rnn", {"activations": ("relu",)}, {"h1": "h1 = Relu (np)"}),
    "softsign rnn": ("rnn", {"activations": ("softsign",)}, {"h1": "h1 = Softsign (np)"}),
    "leaky rnn": (
        "rnn", {"activations": (Activation("leaky_relu", 0.2),)}, {"h1": "h1 = LeakyRelu <alpha=0.2> (np)"},
    ),
}  # fmt: skip


def variant(cell: str, changes: Mapping[str, str]) -> list[str]:
    """The lines of a cell with changes; an empty one takes a line away."""
    bounds = ["minus = Constant <value_float = -0.5> ()", "plus = Constant <value_float = 0.5> ()"]
    lines = [line for line in changed(TEXT[cell], **changes) if line]
    return [*(bounds if any("minus" in line for line in lines) else []), *lines]


@pytest.mark.parametrize("kind", ["single", "loop"])
@pytest.mark.parametrize("name", FEATURES)
def test_what_cells_may_have(name: str, kind: str) -> None:
    cell, features, changes = FEATURES[name]
    given = made(cell, **features)
    model = MAKERS[kind](given, variant(cell, changes), GATES[cell])
    found = one(model)
    same_numbers(given, found)
    check(kind, model, found)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_update_gate_that_takes_the_new_state(kind: str) -> None:
    """``h' = z n + (1 - z) h``: the same layer with the signs of z turned, which is exact."""
    given = made("gru")
    model = MAKERS[kind](given, changed(GRU, yn="yn = Mul (z, n)", zh1="zh1 = Mul (y, h)"), "zrn")
    found = one(model)
    turned = {name: -each if name.endswith(".z") else each for name, each in given.weights.items()}
    same_numbers(given.replace(weights=turned), found)
    check(kind, model, found)


@pytest.mark.parametrize("kind", ["single", "loop"])
def test_coupled_gates(kind: str) -> None:
    given = made("lstm", coupled=True)
    model = MAKERS[kind](given, changed(LSTM, f="f = Sub (one, i)"), "ifgo")
    found = one(model)
    assert found.spec == given.spec
    for name in (name for name in given if not name.endswith(".f")):
        np.testing.assert_array_equal(found[name], given[name])
    check(kind, model, found)


# ---- what is refused

MUTANTS: dict[str, tuple[str, dict[str, str], str]] = {
    "the old c in h": ("lstm", {"tc": "tc = Tanh (c)"}, "not by a matrix|has 1 gates"),
    "c added once more": ("lstm", {"c1": "s = Add (fc, ig); c1 = Add (s, c)"}, "off by"),
    "h added": ("lstm", {"h1": "m = Mul (o, tc); h1 = Add (m, h)"}, "off by"),
    "i squared": ("lstm", {"ig": "ii = Mul (i, i); ig = Mul (ii, g)"}, "off by"),
    "a gate left out": ("lstm", {"fc": "fc = Identity (c)"}, "off by"),
    "layer norm": ("lstm", {"g0": "gs = Add (gx, gh); g0 = LayerNormalization (gs, scale)"}, "LayerNormalization"),
    "layer norm of c": ("lstm", {"tc": "cn = LayerNormalization (c1, small); tc = Tanh (cn)"}, "LayerNorm|inputs"),
    "a clip to one side": ("lstm", {"c1": "s = Add (fc, ig); c1 = Clip (s, half)"}, "Clip"),
    "a clip of one gate": ("lstm", {"g": "q = Clip (gp, minus, plus); g = Tanh (q)"}, "some gates"),
    "a clip of h": ("lstm", {"h1": "m = Mul (o, tc); h1 = Clip (m, minus, plus)"}, "off by|more functions"),
    "a peephole of the old c": (
        "lstm", {"o": "po = Mul (Pv, c); oq = Add (op, po); o = Sigmoid (oq)"}, "off by",
    ),
    "a third bias": ("lstm", {"g0": "gs = Add (gx, gh); g0 = Add (gs, scale)"}, "three biases"),
    "a gate doubled": ("lstm", {"i": "ii = Mul (ip, two); i = Sigmoid (ii)"}, "outside of its gates"),
    "two functions of gates": ("lstm", {"f": "f = HardSigmoid (fp)"}, "off by"),
    "a zoneout": (
        "lstm", {"h1": "m = Mul (o, tc); a = Mul (m, half); b = Mul (h, half); h1 = Add (a, b)"}, "outside|off by",
    ),
    "a far clip of c in h only": (
        "lstm", {"tc": "far = Constant <value_float = 5.0> (); near = Constant <value_float = -5.0> (); "
                       "cc = Clip (c1, near, far); tc = Tanh (cc)"}, "cell state",
    ),
    "another n": ("gru", {"rn": "rn = Mul (z, nh)"}, "2 gates"),
    "one z twice": ("gru", {"zh1": "zh1 = Mul (y, h)"}, "off by"),
    "two minus z": ("gru", {"y": "y = Sub (two, z)"}, "outside"),
    "r after tanh": ("gru", {"np": "np = Add (nx, nh)", "rn": "", "n": "t = Tanh (np); n = Mul (r, t)"}, "GRU"),
    "a clip of n": ("gru", {"n": "t = Tanh (np); n = Clip (t, minus, plus)"}, "only an LSTM"),
    "the input added": ("rnn", {"h1": "t = Tanh (np); h1 = Add (t, gx)"}, "has a Tanh node"),
    "tanh twice": ("rnn", {"h1": "t = Tanh (np); h1 = Tanh (t)"}, "no vanilla RNN"),
    "half a step": ("rnn", {"h1": "t = Tanh (np); d = Mul (t, half); h1 = Add (h, d)"}, "outside|off by|vanilla"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["single", "unrolled", "loop"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_step_that_is_no_cell_is_refused(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, changes, words = MUTANTS[name]
    rng = np.random.default_rng(3)
    width = len(GATES[cell]) * HIDDEN
    more = {"half": np.float32(0.5), "two": np.float32(2), "scale": rng.normal(size=width).astype("float32"),
            "small": rng.normal(size=HIDDEN).astype("float32"),
            "Pv": rng.normal(size=HIDDEN).astype("float32")}  # fmt: skip
    plain = tensors
    monkeypatch.setitem(globals(), "tensors", lambda *given: {**plain(*given), **more})
    with pytest.raises(LayoutError, match="no LSTM, GRU or RNN node") as caught:
        read(MAKERS[kind](made(cell), variant(cell, changes), GATES[cell]))
    details = "\n".join(caught.value.details)
    assert any(word in details for word in words.split("|")), details
    assert "Gemm node" in details


def test_a_step_that_is_left_out() -> None:
    """The third state is the second one again, and the third input is not read: no sequence in even steps."""
    model = unrolled(made("rnn"), RNN, "n")
    [third] = [node for node in model.graph.node if node.output[0] == "h_3"]
    third.input[:] = ["s1_np"]
    onnx.checker.check_model(model)
    with pytest.raises(LayoutError, match="do not read a sequence in the order of time"):
        read(model)


def test_outputs_that_are_put_together_in_another_order() -> None:
    model = unrolled(made("gru"), GRU, "rzn")
    model.graph.node[-1].input[:] = ["y0", "y2", "y1", "y3"]
    with pytest.raises(LayoutError, match="what Concat node 'Y' collects is not the state after each step"):
        read(model)


def test_one_step_among_many_that_is_different() -> None:
    model = unrolled(made("rnn"), RNN, "n", odd=changed(RNN, h1="h1 = Relu (np)"))
    with pytest.raises(LayoutError, match="step .* computes something else|is not like the others|has a "):
        read(model)


def test_a_loop_that_does_not_move_in_time() -> None:
    with pytest.raises(LayoutError, match="do not read a sequence in the order of time"):
        read(loop(made("lstm"), LSTM, "ifgo", index="first"))


def test_a_loop_that_collects_the_state_before_each_step() -> None:
    model = loop(made("gru"), GRU, "rzn")
    body = model.graph.node[-1].attribute[0].g
    body.node[-1].input[:] = ["h"]
    onnx.checker.check_model(model)
    with pytest.raises(LayoutError, match="what Loop node 'net/while' collects is not the state after each step"):
        read(model)


# ---- sequences


@pytest.mark.parametrize("cell", TEXT)
def test_a_loop_that_begins_with_zeros(cell: str) -> None:
    given = made(cell)
    model = loop(given, TEXT[cell], GATES[cell], zero=True)
    same_numbers(given, one(model))
    check_sequence(model, one(model), zero=True)


@pytest.mark.parametrize("cell", TEXT)
def test_a_loop_that_runs_backwards(cell: str) -> None:
    given = made(cell, directions=("reverse",), processed_order=True)
    forward = given.replace(
        spec=given.spec.replace(directions=("forward",), processed_order=False),
        weights={name.replace("reverse", "forward"): each for name, each in given.weights.items()},
    )
    model = loop(forward, TEXT[cell], GATES[cell], index="back")
    found = one(model)
    same_numbers(given, found)
    check_sequence(model, found)
    both = scan(forward, TEXT[cell], GATES[cell], back=True)
    same_numbers(given.replace(spec=given.spec.replace(processed_order=False)), one(both))
    check_sequence(both, one(both))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_unrolled_in_both_orders(batch_first: bool, back: bool) -> None:
    given = made("gru")
    model = unrolled(given, GRU, "rzn", back=back, batch_first=batch_first)
    found = one(model)
    assert found.spec.directions == (("reverse",) if back else ("forward",))
    assert found.metadata["batch_first"] is batch_first
    check_sequence(model, found, batch_first=batch_first)


# ---- several layers


def stacked(first: Layer, second: Layer, *, back: bool) -> Any:
    """Two layers of one cell unrolled, the second on the outputs of the first (`back`: in reverse)."""
    cell = first.spec.cell
    states = sizes_of(first)
    nodes, stored = [], {}
    inputs = [info("X", STEPS_OF, "b", first.spec.input_size)]
    for n, each in enumerate((first, second)):
        stored |= {f"net.{n}.{key}": array for key, array in tensors(each, GATES[cell]).items()}
        turned = range(STEPS_OF)[:: -1 if n and back else 1]
        for turn, step in enumerate(turned):
            if not n:
                stored[f"at{step}"] = np.array(step)
                nodes.append(helper.make_node("Gather", ["X", f"at{step}"], [f"x{step}"], axis=0))
            rename = {"x": f"l0_h_{step + 1}" if n else f"x{step}"}
            rename |= {key: f"net.{n}.{key}" for key in tensors(each, GATES[cell])}
            rename |= {key: f"l{n}_{key}_{turn}" for key in states}
            rename |= {f"{key}1": f"l{n}_{key}_{turn + 1}" for key in states}
            nodes += nodes_of(TEXT[cell], GATES[cell], rename, f"l{n}_s{step}_")
        inputs += [info(f"l{n}_{key}_0", "b", size) for key, size in sizes_of(each).items()]
    outs = [info(f"l1_h_{STEPS_OF}", "b", second.spec.state_size)]
    return model_of(nodes, inputs, outs, stored)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("cell", TEXT)
def test_a_stack_is_read_as_one(cell: str, back: bool) -> None:
    first, second = made(cell), layer_of(spec(cell, input_size=HIDDEN, hidden_size=3, bias="dual"), seed=9)
    model = stacked(first, second, back=back)
    reading = read(model)
    one, two = reading.layers
    same_numbers(first, one)
    assert [each.path for each in reading.layers] == ["net.0", "net.1"]
    assert (one.after, two.after) == (None, "net.0")
    assert two.spec == second.spec.replace(directions=("reverse",) if back else ("forward",))
    for name in second:
        np.testing.assert_array_equal(two[name.replace("forward", "reverse") if back else name], second[name])
    assert reading.left_alone == ()
    x = sequences(first.spec, time=STEPS_OF)
    rng = np.random.default_rng(2)
    widths = {each.name: each.type.tensor_type.shape.dim[1].dim_value for each in model.graph.input[1:]}
    feeds = {name: rng.normal(size=(BATCH, width)) for name, width in widths.items()}
    h0 = [feeds["l0_h_0"][None], feeds["l1_h_0"][None]]
    c0 = [feeds["l0_c_0"][None], feeds["l1_c_0"][None]] if cell == "lstm" else None
    ran = outputs(model, {"X": x.transpose(1, 0, 2), **feeds})
    assert np.abs(ran[f"l1_h_{STEPS_OF}"] - run_stack([one, two], x, h0=h0, c0=c0)[-1].h[0]).max() <= BOUND


def both_ways(forward: Layer, reverse: Layer, *, beside: bool) -> Any:
    """Two Scans over one sequence, in both directions; `beside`: their outputs are put side by side."""
    one, other = scan(forward, LSTM, "ifgo"), scan(reverse, LSTM, "ifgo", back=True)
    nodes = []
    for n, model in enumerate((one, other)):
        node = onnx.NodeProto.FromString(model.graph.node[0].SerializeToString())
        for inner in node.attribute[0].g.node if node.attribute[0].name == "body" else node.attribute[1].g.node:
            inner.input[:] = [f"d{n}.{name}" if name in ("W", "R", "B", "Rb") else name for name in inner.input]
        node.input[:] = [name if name == "X" else f"d{n}.{name}" for name in node.input]
        node.output[:] = [f"d{n}.{name}" for name in node.output]
        nodes.append(node)
    arrays = [tensors(each, "ifgo") for each in (forward, reverse)]
    stored = {f"d{n}.{key}": array for n, each in enumerate(arrays) for key, array in each.items()}
    inputs = [one.graph.input[-3], *(info(f"d{n}.{key}_0", "b", HIDDEN) for n in (0, 1) for key in "hc")]
    inputs[0].name = "X"
    outs = [info("d0.Y", None, None, HIDDEN), info("d1.Y", None, None, HIDDEN)]
    if beside:
        nodes.append(helper.make_node("Concat", ["d0.Y", "d1.Y"], ["Y"], axis=2))
        outs = [info("Y", None, None, 2 * HIDDEN)]
    return model_of(nodes, inputs, outs, stored)


@pytest.mark.parametrize("beside", [True, False])
def test_two_directions(beside: bool) -> None:
    given = layer_of(spec("lstm", bias="dual", directions=("forward", "reverse")), seed=4)
    parts = {
        way: Layer(
            spec=spec("lstm", bias="dual"),
            weights={name.replace(way, "forward"): given[name] for name in given if name.startswith(way)},
        )
        for way in ("forward", "reverse")
    }
    model = both_ways(parts["forward"], parts["reverse"], beside=beside)
    layers = read(model).layers
    if not beside:
        assert [each.spec.directions for each in layers] == [("forward",), ("reverse",)]
        same_numbers(parts["forward"], layers[0])
        assert all((layers[1][name] == each).all() for name, each in given.weights.items() if "reverse" in name)
        return
    [found] = layers
    same_numbers(given, found)
    x = sequences(given.spec, time=STEPS_OF)
    rng = np.random.default_rng(2)
    states = {f"d{n}.{key}_0": rng.normal(size=(BATCH, HIDDEN)) for n in (0, 1) for key in "hc"}
    h0, c0 = (np.stack([states[f"d{n}.{key}_0"] for n in (0, 1)]) for key in "hc")
    ran = outputs(model, {"X": x.transpose(1, 0, 2), **states})
    assert np.abs(ran["Y"].transpose(1, 0, 2) - run(found, x, h0=h0, c0=c0).y).max() <= BOUND


# ---- where steps may stand


def test_a_step_in_a_function() -> None:
    given = made("gru")
    inner = single(given, GRU, "rzn")
    names = [*(each.name for each in inner.graph.input), *(each.name for each in inner.graph.initializer)]
    function = helper.make_function(
        "local", "Step", names, ["h1"], list(inner.graph.node), [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Step", names, ["h1"], "call", domain="local")
    model = onnx.ModelProto()
    model.CopyFrom(inner)
    del model.graph.node[:]
    model.graph.node.append(call)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    onnx.checker.check_model(model)
    same_numbers(given, one(model))
    check_single(model, one(model))
    assert read(model).left_alone == ()


def test_other_nodes_around_a_loop() -> None:
    """What the Loop reads was computed by an operator that is not known here; what it gives goes on."""
    given = made("lstm")
    model = loop(given, LSTM, "ifgo")
    for node in model.graph.node:
        node.input[:] = ["XX" if name == "X" else name for name in node.input]
    for inner in model.graph.node[-1].attribute[0].g.node:
        inner.input[:] = ["XX" if name == "X" else name for name in inner.input]
    model.graph.node.insert(0, onnx.parser.parse_node("XX = Erf (X)"))
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(HIDDEN, 3)).astype("float32")
    model.graph.initializer.append(numpy_helper.from_array(dense, "dense"))
    model.graph.node.append(onnx.parser.parse_node("Z = MatMul (Y, dense)"))
    model.graph.output.append(info("Z", None, None, 3))
    onnx.checker.check_model(model)
    reading = read(model)
    same_numbers(given, reading.layers[0])
    assert reading.left_alone == ("dense",)


def test_words_that_are_looked_up() -> None:
    given = made("gru")
    model = loop(given, GRU, "rzn")
    model.graph.input[0].CopyFrom(info("words", "t", "b", kind=TensorProto.INT64))
    table = np.random.default_rng(0).normal(size=(20, given.spec.input_size)).astype("float32")
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.node.insert(0, onnx.parser.parse_node("X = Gather <axis=0> (table, words)"))
    onnx.checker.check_model(model)
    reading = read(model)
    same_numbers(given, reading.layers[0])
    assert reading.left_alone == ("table",)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_dtypes(dtype: str) -> None:
    given = layer_of(spec("lstm", bias="dual"), seed=3, dtype=dtype)
    model = loop(given, LSTM, "ifgo")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.elem_type = kind
    found = one(model)
    assert found.dtype == dtype
    same_numbers(given, found)


def test_a_layer_node_and_a_loop_beside_it() -> None:
    given = made("gru")
    model = loop(given, GRU, "rzn")
    rng = np.random.default_rng(0)
    for name, shape in {"W2": (1, 12, 11), "R2": (1, 12, 3), "B2": (1, 24)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype("float32"), name))
    model.graph.node.append(onnx.parser.parse_node("Z = LSTM <hidden_size=3> (Y, W2, R2, B2)"))
    model.graph.output.append(info("Z", None, None, None, 3))
    onnx.checker.check_model(model)
    reading = read(model)
    assert [each.spec.cell for each in reading.layers] == ["lstm", "gru"]
    assert reading.left_alone == ()
    [only] = live.read(model, ReadOptions(only=("GRU_0",))).layers
    same_numbers(given, only)
    [other] = live.read(model, ReadOptions(only=("LSTM_0",))).layers
    assert other.spec.cell == "lstm"


def test_a_loop_that_is_no_layer_is_no_hindrance_but_said() -> None:
    model = loop(made("lstm"), changed(LSTM, tc="tc = Tanh (c)"), "ifgo")
    rng = np.random.default_rng(0)
    for name, shape in {"W2": (1, 12, 11), "R2": (1, 12, 3), "B2": (1, 24)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype("float32"), name))
    model.graph.node.append(onnx.parser.parse_node("Z = LSTM <hidden_size=3> (Y, W2, R2, B2)"))
    model.graph.output.append(info("Z", None, None, None, 3))
    reading = read(model)
    assert [each.spec.cell for each in reading.layers] == ["lstm"]
    assert "s_gh" in reading.notes[0]
    assert set(reading.left_alone) == {"W", "R", "B", "Rb"}


@pytest.mark.parametrize("names", [("x", "h"), ("a", "b")])
def test_a_step_whose_input_is_as_wide_as_its_state(names: tuple[str, str]) -> None:
    """The equations alone do not say which of two inputs of an RNN or LSTM is the state; their names may."""
    given = layer_of(spec("rnn", input_size=HIDDEN, bias="dual"), seed=6)
    model = single(given, RNN, "n")
    for each in model.graph.input:
        each.name = dict(zip("xh", names, strict=True))[each.name]
    for node in model.graph.node:
        node.input[:] = [dict(zip("xh", names, strict=True)).get(name, name) for name in node.input]
    if names == ("x", "h"):
        reading = read(model)
        same_numbers(given, reading.layers[0])
        assert "told by the names" in reading.notes[1]
        return
    with pytest.raises(LayoutError, match="either of two inputs of the model may be the state"):
        read(model)


def test_learned_initial_states_are_said() -> None:
    given = made("gru")
    model = loop(given, GRU, "rzn")
    state = np.random.default_rng(0).normal(size=(1, HIDDEN)).astype("float32")
    batch = np.array([1, HIDDEN])
    del model.graph.input[1]
    model.graph.initializer.extend([numpy_helper.from_array(state, "learned"), numpy_helper.from_array(batch, "as")])
    model.graph.node.insert(0, onnx.parser.parse_node("h_0 = Expand (learned, as)"))
    reading = read(model)
    same_numbers(given, reading.layers[0])
    assert "initial_h is a constant that is not zero" in reading.notes[1]
    np.testing.assert_allclose(reading.layers[0].metadata["config"]["initial_h"], state[None], atol=1e-7)
    assert reading.left_alone == ("learned",)


# ---- quantised steps


@pytest.mark.parametrize("op", ["MatMulInteger", "DequantizeLinear"])
def test_quantised_steps_are_refused_by_name(op: str) -> None:
    given = made("rnn")
    if op == "DequantizeLinear":
        lines = ["rq = DequantizeLinear (Rw, scale)", PRE[0], "gh = Gemm <transB=1> (h, rq, Rb)"]
    else:
        lines = [PRE[0], "hq = Cast <to=3> (h)", "rt = Transpose (Rw)", "g1 = MatMulInteger (hq, rt)",
                 "g2 = Cast <to=1> (g1)", "g3 = Mul (g2, scale)", "gh = Add (g3, Rb)"]  # fmt: skip
    stored = {**tensors(given, "n"), "Rw": np.ones((HIDDEN, HIDDEN), "int8"), "scale": np.float32(0.02)}
    nodes = nodes_of([*lines, *RNN[2:]], "n", {}, "")
    model = model_of(nodes, [info("x", "b", 5), info("h", "b", HIDDEN)], [info("h1", "b", HIDDEN)], stored)
    with pytest.raises(LayoutError, match=f"{op} node .* quantised weights"):
        read(model)


# ---- what may be done with a recovered layer


def test_a_recovered_layer_is_converted_and_checked(tmp_path: Path) -> None:
    given = made("lstm")
    path = tmp_path / "loop.onnx"
    path.write_bytes(loop(given, LSTM, "ifgo").SerializeToString())
    [found] = files.read(path, ReadOptions()).layers
    same_numbers(given, found)
    anew = lstmbridge.convert(path, path=tmp_path / "anew.onnx")
    again = lstmbridge.read(anew)[0]
    same_numbers(given, again)
    assert "recovered" not in again.metadata
    agreement = lstmbridge.check(path, anew)
    assert agreement.agrees
    assert "recovered from steps" in " ".join(agreement.notes)
    model = onnx.load(path)
    with pytest.raises(Unsupported, match="recovered from steps"):
        live.assign(model, [found])
    with pytest.raises(Unsupported, match="recovered from"):
        files.patch(path, [found], tmp_path / "patched.onnx", ReadOptions())


def test_models_without_any_recurrence_are_not_searched_for_long() -> None:
    """Two inputs, products and functions, but no state that comes back."""
    rng = np.random.default_rng(0)
    stored = {name: rng.normal(size=shape).astype("float32") for name, shape in (("A", (5, 7)), ("C", (4, 7)))}
    nodes = nodes_of(["p = MatMul (x, A)", "q = MatMul (u, C)", "s = Add (p, q)", "y = Tanh (s)"], "", {}, "")
    model = model_of(nodes, [info("x", "b", 5), info("u", "b", 4)], [info("y", "b", 7)], stored)
    with pytest.raises(LayoutError, match="no LSTM, GRU or RNN node"):
        read(model)


def test_huge_sizes_that_are_only_stated_allocate_nothing() -> None:
    model = loop(made("lstm"), LSTM, "ifgo")
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1 << 30, 1 << 20, 5), strict=True):
        dim.dim_value = size
    with pytest.raises(LayoutError, match="not looked for"):
        read(model)


def test_damaged_models_are_errors_of_ours(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    models = [make(made(cell), TEXT[cell], GATES[cell]) for make in MAKERS.values() for cell in TEXT]
    sources = [model.SerializeToString() for model in models]
    for turn in range(120):
        garbled = np.frombuffer(sources[turn % len(sources)], np.uint8).copy()
        at = rng.integers(0, len(garbled), 5)
        garbled[at] = rng.integers(0, 256, 5)
        (tmp_path / "x.onnx").write_bytes(garbled.tobytes())
        try:
            files.read(tmp_path / "x.onnx", ReadOptions())
        except BridgeError:
            continue


# ---- what exporters write


def torch_model(cell: Any, dynamo: bool, unrolled: bool, path: Path) -> tuple[Any, Any]:
    """A file of one of torch's exporters: a cell called once, or for each step of a sequence; an input, its output."""
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    generator = torch.Generator().manual_seed(0)
    for parameter in cell.parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    two = isinstance(cell, torch.nn.LSTMCell)

    class Steps(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Any) -> Any:
            h = x.new_zeros(x.shape[0], HIDDEN)
            state = (h, h) if two else h
            found = []
            for step in range(x.shape[1]):
                state = self.cell(x[:, step], state)
                found.append(state[0] if two else state)
            return torch.stack(found, 1)

    x = torch.randn(BATCH, *([STEPS_OF] if unrolled else []), cell.input_size, generator=generator)
    h = torch.randn(BATCH, HIDDEN, generator=generator)
    module, given = (Steps(), (x,)) if unrolled else (cell, (x, (h, -h) if two else h))
    options = {"dynamo": True, "verbose": False} if dynamo else {"dynamo": False}
    torch.onnx.export(module.eval(), given, str(path), **options)
    with torch.no_grad():
        return x.numpy(), module(*given)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("cell", "dynamo", "unrolled"),
    [
        *((cell, False, unrolled) for cell in TEXT for unrolled in (False, True)),
        ("lstm", True, True),
    ],
)  # fmt: skip
def test_cells_of_torch(cell: str, dynamo: bool, unrolled: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "rnn": torch.nn.RNNCell}[cell]
    module = kind(5, HIDDEN)
    x, y = torch_model(module, dynamo, unrolled, tmp_path / "torch.onnx")
    reading = lstmbridge.reading.read_all(tmp_path / "torch.onnx")
    [found] = reading.layers
    [wanted] = lstmbridge.read(module)
    assert found.spec == wanted.spec
    for name in wanted:
        np.testing.assert_array_equal(np.asarray(found[name]), wanted[name].detach().numpy())
    if unrolled:
        assert not any("weight" in name or "bias" in name or "linear" in name for name in reading.left_alone)
        assert np.abs(run(found, x).y - y.numpy()).max() <= BOUND


#: What Keras writes as a Loop (GRU, SimpleRNN, and LSTM with other functions); its plain LSTM becomes a node.
KERAS = """
import os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import keras, numpy as np
rng, L = np.random.default_rng(0), keras.layers
layers = {
    "before": L.GRU(11, return_sequences=True, reset_after=False, go_backwards=True),
    "lstm": L.LSTM(11, return_sequences=True, recurrent_activation="hard_sigmoid"),
    "both": L.Bidirectional(L.GRU(11, return_sequences=True)),
}
x = rng.normal(size=(2, 7, 5)).astype("float32")
for name, layer in layers.items():
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model(x)
    model.set_weights([(0.4 * rng.normal(size=w.shape)).astype("float32") for w in model.get_weights()])
    model.export(f"{sys.argv[1]}/{name}.onnx", format="onnx", verbose=False)
    model.save(f"{sys.argv[1]}/{name}.keras")
    np.savez(f"{sys.argv[1]}/{name}.npz", x=x, y=np.asarray(model(x)))
"""


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of Keras' own exporter, all made by one process."""
    for package in ("keras", "tensorflow", "tf2onnx"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}")
    directory = tmp_path_factory.mktemp("keras")
    made = subprocess.run([sys.executable, "-c", KERAS, str(directory)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return directory


@pytest.mark.parametrize("name", ["before", "lstm", "both"])
def test_loops_of_keras(name: str, keras_files: Path) -> None:
    [found] = lstmbridge.read(keras_files / f"{name}.onnx")
    [wanted] = lstmbridge.read(keras_files / f"{name}.keras")
    assert "recovered" in found.metadata
    assert found.metadata["batch_first"] is True
    assert found.spec == wanted.spec
    for weight in wanted:
        np.testing.assert_array_equal(np.asarray(found[weight]), np.asarray(wanted[weight]))
    data = np.load(keras_files / f"{name}.npz")
    assert np.abs(run(found, data["x"]).y - data["y"]).max() <= BOUND


# ---- mutants by chance

MUTANTS_BY_CHANCE = 25


def mutated(model: Any, rng: np.random.Generator) -> Any:
    """The model with one or two nodes of its step changed: another operator, or another input."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graphs = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.g.node]
    graph = graphs[0] if graphs else model.graph
    names = [name for node in graph.node for name in node.output] + [each.name for each in graph.input]
    plain = [node for node in graph.node if node.op_type not in ("Split", "Gather", "Gemm", "Identity", "Unsqueeze")]
    for _ in range(rng.integers(1, 3)):
        node = plain[rng.integers(len(plain))]
        alike = ("Sigmoid", "Tanh", "Relu", "Neg") if len(node.input) == 1 else ("Mul", "Add", "Sub")
        if rng.random() < 0.4 and node.op_type in alike:
            node.op_type = alike[rng.integers(len(alike))]
        else:
            node.input[rng.integers(len(node.input))] = names[rng.integers(len(names))]
    return model


@pytest.mark.parametrize("cell", TEXT)
@pytest.mark.parametrize("kind", ["single", "loop"])
def test_no_mutant_is_recovered_as_what_it_is_not(kind: str, cell: str) -> None:
    """What is still recovered gives, in onnxruntime, what the layer gives: not every change is one."""
    rng = np.random.default_rng(len(kind) + len(cell))
    whole = MAKERS[kind](made(cell), TEXT[cell], GATES[cell])
    for _ in range(MUTANTS_BY_CHANCE):
        mutant = mutated(whole, rng)
        try:
            layers = read(mutant).layers
        except BridgeError:
            continue
        [found] = layers
        try:
            check(kind, mutant, found)
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:  # a model that cannot be
            continue
