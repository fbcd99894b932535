"""Every known disagreement of other people's software still shows; one that has been mended is to leave known.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import known
import numpy as np
import pytest
from cases import sequence_cases
from known import entries
from runtimes import BACKEND

from lstmbridge import convert, reference
from lstmbridge.testing import SEQUENCES, spec_of, telling_layer


def test_every_entry_has_a_test_and_every_pattern_a_case() -> None:
    assert {entry.id for entry in entries()} == set(SHOWN)
    ids = [case.id for case in sequence_cases(SEQUENCES)]
    idle = [entry.id for entry in entries() if entry.cases and not any(entry.matches(each) for each in ids)]
    assert not [each for each in idle if _entry(each).backend in ("", BACKEND)]
    assert all(entry.reason and entry.how and bool(entry.cases) == bool(entry.says) for entry in entries())


def test_a_pattern_that_matches_too_much_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that agrees although known.toml says that it would not."""
    from suite import run

    case = next(iter(sequence_cases(["one step"])))
    entry = known.Known(id="x", reason="r", how="h", cases=".* / one step", says="s")
    monkeypatch.setattr(known, "entries", lambda: (entry,))
    with pytest.raises(AssertionError, match="agrees: take x out"):
        run(case, lambda **_: None, "sequences")


def _entry(name: str) -> known.Known:
    return next(entry for entry in entries() if entry.id == name)


# ---- each by its name: whether it still disagrees


def _node(feeds: dict[str, np.ndarray], **attributes: Any) -> Any:
    """A model of one LSTM node of hidden size 3 whose inputs are `feeds`."""
    from onnx import TensorProto, helper

    known_inputs = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c")
    node = helper.make_node("LSTM", [name if name in feeds else "" for name in known_inputs], ["", "Y_h"],
                            hidden_size=3, **attributes)  # fmt: skip
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs = [helper.make_tensor_value_info(n, kinds[a.dtype.name], a.shape) for n, a in feeds.items()]
    output = helper.make_tensor_value_info("Y_h", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "node", inputs, [output])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _feeds(**more: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"X": (6, 2, 4), "W": (1, 12, 4), "R": (1, 12, 3), "B": (1, 24)}
    return {**{name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}, **more}


def _onnxruntime(model: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def onnxruntime_empty_sequence() -> bool:
    h0 = np.full((1, 2, 3), 0.5, "float32")
    feeds = _feeds(sequence_lens=np.array([6, 0], "int32"), initial_h=h0)
    last = _onnxruntime(_node(feeds), feeds)
    assert not np.array_equal(last[0, 0], h0[0, 0]), "the other sequence runs"
    return not np.array_equal(last[0, 1], h0[0, 1])


def reference_evaluator_ignores_inputs() -> bool:
    from onnx.reference import ReferenceEvaluator

    tried = [
        (_feeds(sequence_lens=np.array([6, 2], "int32")), {}),
        (_feeds(), {"clip": 0.1}),
        (_feeds(), {"input_forget": 1}),
        (_feeds(), {"activations": ["Sigmoid", "Relu", "Tanh"]}),
    ]
    gaps = []
    for feeds, attributes in tried:
        model = _node(feeds, **attributes)
        [found] = ReferenceEvaluator(model).run(None, feeds)
        gaps.append(np.abs(found - _onnxruntime(model, feeds)).max())
    plain = _node(_feeds())
    [found] = ReferenceEvaluator(plain).run(None, _feeds())
    assert np.abs(found - _onnxruntime(plain, _feeds())).max() < 1e-5, "without them it is right"
    return min(gaps) > 1e-3


def dynamo_exporter_projection() -> bool:
    import onnx
    import torch

    module = torch.nn.LSTM(5, 11, proj_size=3, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(module, (torch.randn(2, 7, 5),), dynamo=True, verbose=False)
    try:
        onnx.checker.check_model(exported.model_proto, full_check=True)
    except onnx.shape_inference.InferenceError:
        return True
    return False


_JAX = """
import numpy as np, keras
layer = keras.layers.LSTM(4, return_sequences=True)
h0 = np.full((1, 4), 0.5, "float32")
y = np.asarray(layer(np.ones((1, 5, 3), "float32"), mask=np.array([[0, 0, 1, 1, 1]], bool), initial_state=[h0, h0]))
print("given" if np.array_equal(y[0, 0], h0[0]) else "zeros" if not y[0, :2].any() else y[0, 0])
"""


def keras_jax_left_padding() -> bool:
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", _JAX], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip() == "given"


def tensorflow_leaky_relu_slope() -> bool:
    if BACKEND != "tensorflow":
        pytest.skip("this process runs Keras on another backend")
    spec = spec_of("rnn-tanh", ())
    assert spec is not None
    layer = telling_layer(spec.replace(activations=(("leaky_relu", 0.2),)), dtype="float64")
    x = np.random.default_rng(0).normal(size=(2, 7, spec.input_size))
    found = np.asarray(convert(layer, to="keras")(x))
    gap = np.abs(found - reference.run(layer, x).y).max()
    assert gap < 1e-7
    return bool(gap > 1e-10)


SHOWN = {
    test.__name__: test
    for test in (
        onnxruntime_empty_sequence,
        reference_evaluator_ignores_inputs,
        dynamo_exporter_projection,
        keras_jax_left_padding,
        tensorflow_leaky_relu_slope,
    )
}


@pytest.mark.parametrize("name", SHOWN)
def test_it_still_disagrees(name: str, record: Any) -> None:
    entry = _entry(name)
    assert SHOWN[name](), f"{name} agrees now: take it out of known.toml"
    record(kind="known", id=name, reason=entry.reason, how=entry.how, status="disagrees")
