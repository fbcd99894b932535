"""The Keras layer that runs any Spec: here on tensorflow, also in float64; on torch and jax in their own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faithful_cases as cases
import numpy as np
import pytest
from faithful_cases import BOTH, agree, case

from helpers import BATCH, HIDDEN, INPUT, TIME, layer_of, sequences, spec
from lstmbridge import Spec, reference
from lstmbridge.errors import LayoutError, SpecError
from lstmbridge.spec import ACTIVATIONS, Activation

pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

import faithful_keras as battery  # noqa: E402
import keras  # noqa: E402

from lstmbridge.frameworks.keras.faithful import Recurrent, activate  # noqa: E402
from lstmbridge.frameworks.keras.layout import LAYOUTS  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="KERAS_BACKEND is not tensorflow"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

BACKENDS = ("torch", "jax")
HARD = (("hard_sigmoid", 1 / 6, 0.5), "tanh", "tanh")
#: Layers that Keras' own hold: the class, its options, the Spec.
STOCK: list[tuple[str, dict[str, Any], Spec]] = [
    ("LSTM", {}, spec("lstm")),
    ("LSTM", {"use_bias": False, "recurrent_activation": "hard_sigmoid"}, spec(bias="none", activations=HARD)),
    ("GRU", {}, spec("gru", bias="dual")),
    ("GRU", {"reset_after": False}, spec("gru", reset_after=False)),
    ("SimpleRNN", {"activation": "relu"}, spec("rnn", activations=("relu",))),
    ("GRU", {"go_backwards": True}, spec("gru", bias="dual", directions=("reverse",), processed_order=True)),
    ("LSTM", {"merge_mode": "mul"}, spec("lstm", directions=BOTH, merge="mul")),
    ("LSTM", {"merge_mode": None}, spec("lstm", directions=BOTH, merge="none")),
    ("GRU", {"merge_mode": "ave"}, spec("gru", bias="dual", directions=BOTH, merge="ave")),
]


@pytest.fixture(scope="module")
def processes() -> Any:
    """The other backends' runs, all started at once."""
    tests = str(Path(__file__).parent)
    started = {}
    for backend in BACKENDS:
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}
        started[backend] = subprocess.Popen(
            [sys.executable, str(Path(tests) / "faithful_keras.py"), backend],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", autouse=True)
def _started_early(processes: Any) -> None:
    """They run beside the tests of this process."""


# ---- every backend


@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_on_tensorflow(check: Any) -> None:
    check()


# ---- in float64


@pytest.mark.parametrize(
    "grid",
    [
        lambda: list(cases.forms())[::3],
        lambda: list(cases.activations())[::3],
        cases.features,
        lambda: cases.combinations(25),
    ],
    ids=["forms", "activations", "features", "combinations"],
)
def test_it_computes_what_the_spec_says_in_float64(grid: Any) -> None:
    battery.worst(grid(), 1e-12, "float64")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_equations_far_out(name: str) -> None:
    activation = Activation(name, *cases.CONSTANTS.get(name, ()))
    x = cases.far_out(name)
    found = activate(activation, tf.constant(x)).numpy()
    np.testing.assert_allclose(found, reference.activate(activation, x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_grid_sees_a_wrong_gate_order(cell: str) -> None:
    one = case(spec(cell))
    mutant = battery.layer_from(cases.without_gate_order(one.layer), return_state=True)
    with pytest.raises(AssertionError, match=">"):
        agree(one, *battery.ran(mutant, one), 1e-3)


# ---- against Keras' own layers


def stock_of(name: str, options: dict[str, Any], made: Any, **more: Any) -> tuple[Any, list[Any]]:
    """Keras' own layer with the same weights, and our variables in the order of its own."""
    merge = {"merge_mode": options["merge_mode"]} if "merge_mode" in options else None
    own = {key: value for key, value in options.items() if key != "merge_mode"}
    stock = getattr(keras.layers, name)(HIDDEN, dtype="float64", **own, **more)
    stock = stock if merge is None else keras.layers.Bidirectional(stock, dtype="float64", **merge)
    stock.build((None, None, INPUT))
    keys = [f"{d}.{part}" for d in made.spec.directions for part in ("kernel", "recurrent_kernel", "bias")]
    ours = [made.arrays[key] for key in keys if key in made.arrays]
    stock.set_weights([variable.numpy() for variable in ours])
    return stock, ours


@pytest.mark.parametrize(("name", "options", "spec"), STOCK)
@pytest.mark.parametrize("steps", [True, False], ids=["sequences", "last output"])
def test_outputs_and_gradients_are_the_stock_layers(
    name: str, options: dict[str, Any], spec: Spec, steps: bool
) -> None:
    made = battery.layer_from(layer_of(spec, dtype="float64"), return_state=True, return_sequences=steps)
    stock, ours = stock_of(name, options, made, return_state=True, return_sequences=steps)
    assert len(ours) == len(made.trainable_variables)
    x, mask = tf.Variable(sequences(spec)), tf.constant([[True] * TIME, [True] * 3 + [False] * 4])
    mask = None if spec.processed_order else mask
    # on masked steps a stock layer repeats its last output; what counts is compared
    counts = tf.cast(tf.ones((BATCH, TIME)) if mask is None else mask, "float64")[..., None] if steps else 1.0
    results = []
    for layer, variables in ((made, ours), (stock, stock.trainable_variables)):
        with tf.GradientTape() as tape:
            found = layer(x, mask=mask)
            outputs = [value * counts if len(value.shape) == 3 else value for value in found]
            loss = tf.add_n([tf.reduce_sum(tf.sin(value) * (n + 1)) for n, value in enumerate(outputs)])
        results.append([*outputs, *tape.gradient(loss, [x, *(variable.value for variable in variables)])])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.numpy() - b.numpy()).max() <= 1e-12


# ---- compiled and exported


def test_it_trains_when_xla_compiles_it() -> None:
    """keras.ops.scan would not: hence keras.layers.RNN."""
    inputs = keras.Input((None, INPUT))
    model = keras.Model(inputs, Recurrent(spec("lstm", peepholes=True), return_sequences=False)(inputs))
    model.compile("sgd", "mse", jit_compile=True)
    x = sequences(spec()).astype("float32")
    before = [value.copy() for value in model.get_weights()]
    model.fit(x, np.ones((BATCH, HIDDEN), "float32"), verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))


def test_it_exports_as_a_saved_model_that_needs_nothing_of_ours(tmp_path: Path) -> None:
    one = case(spec("lstm", peepholes=True, directions=BOTH, clip=0.5), dtype="float32", states=False)
    inputs = keras.Input((None, INPUT))
    model = keras.Model(inputs, battery.layer_from(one.layer)(inputs))
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    y = loaded.serve(tf.constant(one.x.astype("float32")))
    assert np.abs(y.numpy() - one.expected.y).max() <= 1e-6


# ---- what it says of itself


@pytest.mark.parametrize(
    "each",
    [
        spec("lstm", peepholes=True, projection_size=3, bias="dual", directions=BOTH),
        spec("gru", bias="dual"),
        spec("rnn", bias="none"),
    ],
    ids=str,
)
def test_its_variables_are_those_of_the_layout(each: Spec) -> None:
    made = Recurrent(each)
    made.build((None, None, INPUT))
    shapes = {variable.name: tuple(variable.shape) for variable in made.weights}
    assert shapes == {key.replace(".", "_"): s for key, s in LAYOUTS[each.cell].shapes(each).items()}
    assert list(shapes) == [key.replace(".", "_") for key in LAYOUTS[each.cell].keys(each)]
    assert made.trainable_weights == made.weights


def test_its_config_is_the_json_of_the_spec() -> None:
    each = spec("lstm", activations=(("hard_sigmoid", 0.2, 0.5), "tanh", "relu"), clip=2.0)
    made = Recurrent(each, return_state=True, name="mine")
    config = made.get_config()
    assert Spec.from_json(json.dumps(config["spec"])) == each
    other = Recurrent.from_config(config)
    assert (other.spec, other.name, other.return_state, other.return_sequences) == (each, "mine", True, True)
    assert keras.saving.get_registered_name(Recurrent) == "lstmbridge>Recurrent"
    with pytest.raises(SpecError, match="hidden_size is 0"):
        Recurrent({"cell": "rnn", "input_size": 3, "hidden_size": 0})


def test_the_mask_goes_on_in_the_order_of_the_outputs() -> None:
    mask = tf.constant([[True] * TIME, [True] * 3 + [False] * 4])
    for each, expected in (
        (spec("gru", directions=("reverse",)), mask),
        (spec("gru", directions=("reverse",), processed_order=True), mask[:, ::-1]),
    ):
        made = battery.layer_from(layer_of(each))
        y = made(sequences(each).astype("float32"), mask=mask).numpy()
        found = made.compute_mask(None, mask).numpy()
        assert (found == expected.numpy()).all()
        assert ((np.abs(y).max(-1) > 0) == found).all()
        assert Recurrent(each, return_sequences=False).compute_mask(None, mask) is None


def test_wrong_inputs_and_states_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"(?s)x has shape \(2, 7, 6\).*i = 5"):
        Recurrent(spec())(np.zeros((BATCH, TIME, 6), "float32"))
    made = Recurrent(spec(directions=BOTH))
    x = np.zeros((BATCH, TIME, INPUT), "float32")
    with pytest.raises(LayoutError, match=r"(?s)initial_state has shapes \(2, 11\).*expected 4: \(b, 11\)"):
        made(x, initial_state=[np.zeros((BATCH, HIDDEN), "float32")])
    with pytest.raises(LayoutError, match=r"(?s)\(2, 3\).*expected 4: \(b, 11\)"):
        made(x, initial_state=[np.zeros((BATCH, 3), "float32")] * 4)
    with pytest.raises(ValueError, match="expected axis -1"):
        made(np.zeros((BATCH, TIME, 6), "float32"))


# ---- the other backends: last, for they have been running since the first test


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_another_backend(backend: str, processes: Any) -> None:
    pytest.importorskip(backend)
    out, err = processes[backend].communicate(timeout=200)
    assert processes[backend].returncode == 0, f"{out}\n{err}"
    assert [line.split()[0] for line in out.splitlines()] == [check.__name__ for check in battery.CHECKS]
