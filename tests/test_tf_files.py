"""TensorFlow's files read without it: checkpoints, frozen graphs, and Keras models in checkpoints and SavedModels.

TensorFlow writes and runs them all in one process (`tf_files`), which also says what it computed. Damaged and hostile
files are made here, by a writer of the table's format of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lstmbridge
from lstmbridge import BridgeError, Layer, reference
from lstmbridge.bundle import Bundle, prefix_of
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import Ambiguous, FileError, LayoutError, UnknownName, Unsupported
from lstmbridge.frameworks import keras, tf1
from lstmbridge.frameworks.tf1 import steps
from lstmbridge.frameworks.tf1.graph import open_graph
from lstmbridge.reading import read_all
from lstmbridge.spec import Activation
from lstmbridge.sstable import crc32c, unsnapped

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what TensorFlow wrote; where several processes run the tests, the first one makes it for all."""
    pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "tf_files", shared / "tf_files.done"
    try:
        folder.mkdir()
    except FileExistsError:
        while not done.is_file():
            time.sleep(0.1)
    else:
        command = [sys.executable, str(HERE / "tf_files.py"), str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        done.write_text(ran.stderr[-2000:] if ran.returncode else "")
    assert done.read_text() == ""
    return folder


def stored(made: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(made / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def bare(made: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint of a BasicLSTMCell, without its graph."""
    for each in (made / "plain").iterdir():
        shutil.copy(each, tmp_path)
    return tmp_path / "model.ckpt-1000"


# ---- what is compared


def is_cell(layer: Layer, arrays: Mapping[str, np.ndarray], scope: str, order: str, direction: str = "forward") -> None:
    """Asserts every gate's numbers in a cell whose kernel has the rows [x; h] and the gates in that order."""
    kernel, bias = arrays[f"var/{scope}/kernel"], arrays[f"var/{scope}/bias"]
    i, u = layer.spec.input_size, layer.spec.hidden_size
    assert kernel.shape == (i + layer.spec.state_size, 4 * u if len(order) == 4 else u)
    for n, gate in enumerate(order):
        block = kernel[:, n * u : (n + 1) * u]
        np.testing.assert_array_equal(layer[f"{direction}.kernel.{gate}"], block[:i].T)
        np.testing.assert_array_equal(layer[f"{direction}.recurrent_kernel.{gate}"], block[i:].T)
        np.testing.assert_array_equal(layer[f"{direction}.bias.{gate}"], bias[n * u : (n + 1) * u])
    if layer.spec.peepholes:
        for gate in "ifo":
            np.testing.assert_array_equal(layer[f"{direction}.peephole.{gate}"], arrays[f"var/{scope}/w_{gate}_diag"])
    if layer.spec.projection_size:
        np.testing.assert_array_equal(layer[f"{direction}.projection"], arrays[f"var/{scope}/projection/kernel"].T)


def is_gru(layer: Layer, arrays: Mapping[str, np.ndarray], scope: str, direction: str = "forward") -> None:
    """Asserts every gate's numbers in a GRUCell."""
    i, u = layer.spec.input_size, layer.spec.hidden_size
    gates, candidate = arrays[f"var/{scope}/gates/kernel"], arrays[f"var/{scope}/candidate/kernel"]
    blocks = {"r": gates[:, :u], "z": gates[:, u:], "n": candidate}
    biases = {"r": arrays[f"var/{scope}/gates/bias"][:u], "z": arrays[f"var/{scope}/gates/bias"][u:],
              "n": arrays[f"var/{scope}/candidate/bias"]}  # fmt: skip
    for gate, block in blocks.items():
        np.testing.assert_array_equal(layer[f"{direction}.kernel.{gate}"], block[:i].T)
        np.testing.assert_array_equal(layer[f"{direction}.recurrent_kernel.{gate}"], block[i:].T)
        np.testing.assert_array_equal(layer[f"{direction}.bias.{gate}"], biases[gate])


def computes(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], lengths: Sequence[int] | None = None) -> None:
    """Asserts that the equations give what TensorFlow gave: y, h, c."""
    found = reference.run_stack(layers, arrays["x"], lengths=lengths)[-1]
    for name, value in (("y", found.y), ("h", found.h), ("c", found.c)):
        if name in arrays:
            expected = arrays[name].reshape(value.shape)
            assert np.abs(value - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()), name


SIGMOID, TANH, RELU = Activation("sigmoid"), Activation("tanh"), Activation("relu")
#: Case -> what the layers are, and where: (label, scope, gate order, fields of the Spec).
LSTMS: Mapping[str, tuple[tuple[str, str, str, dict[str, Any]], ...]] = {
    "basic": (("rnn.basic_lstm_cell", "rnn/basic_lstm_cell", "igfo", {"forget_constant": 1.5}),),
    "relu": (
        (
            "rnn.basic_lstm_cell",
            "rnn/basic_lstm_cell",
            "igfo",
            {"forget_constant": 1.0, "activations": (SIGMOID, RELU, RELU)},
        ),
    ),
    "full": (
        (
            "rnn.lstm_cell",
            "rnn/lstm_cell",
            "igfo",
            {
                "forget_constant": 2.5,
                "peepholes": True,
                "projection_size": 3,
                "cell_clip": float(np.float32(0.6)),
                "proj_clip": float(np.float32(0.4)),
            },
        ),
    ),
    "multi": (
        ("rnn.multi_rnn_cell.l0", "rnn/multi_rnn_cell/cell_0/basic_lstm_cell", "igfo", {"forget_constant": 0.5}),
        ("rnn.multi_rnn_cell.l1", "rnn/multi_rnn_cell/cell_1/lstm_cell", "igfo", {"forget_constant": 0.5}),
    ),
    "static": (("rnn.basic_lstm_cell", "rnn/basic_lstm_cell", "igfo", {"forget_constant": 2.0}),),
    "resource": (("model.rnn.basic_lstm_cell", "model/rnn/basic_lstm_cell", "igfo", {"forget_constant": 0.25}),),
    "trained": (("rnn.basic_lstm_cell", "rnn/basic_lstm_cell", "igfo", {"forget_constant": 1.0}),),
    "block_cell": (
        ("rnn.lstm_cell", "rnn/lstm_cell", "igfo", {"forget_constant": 1.0, "cell_clip": 3.0, "peepholes": True}),
    ),
    "block": (
        ("rnn.lstm_cell", "rnn/lstm_cell", "igfo", {"forget_constant": 0.5, "cell_clip": None, "peepholes": True}),
    ),
    "block_v2": (("rnn.lstm_cell", "rnn/lstm_cell", "ifgo", {"cell_clip": float(np.float32(0.7)), "peepholes": True}),),
    "cudnn_lstm": (("rnn.cudnn_compatible_lstm_cell", "rnn/cudnn_compatible_lstm_cell", "igfo", {}),),
    "named": (("rnn.decoder", "rnn/decoder", "igfo", {"forget_constant": 1.0}),),
    "layer_norm": (
        ("rnn.layer_norm_basic_lstm_cell", "rnn/layer_norm_basic_lstm_cell", "igfo", {"forget_constant": 1.0}),
    ),
    "rnn": (("rnn.basic_rnn_cell", "rnn/basic_rnn_cell", "n", {}),),
}

#: A checkpoint with its graph beside it, and the frozen graph.
FORMS = ("{0}/model", "{0}.pb")


# ---- TensorFlow 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", LSTMS)
def test_a_cell_of_tensorflow_1_is_what_tensorflow_computes(made: Path, case: str, form: str) -> None:
    arrays = stored(made, case)
    layers = lstmbridge.read(made / form.format(case))
    assert [layer.label for layer in layers] == [label for label, *_ in LSTMS[case]]
    for layer, (_, scope, order, fields) in zip(layers, LSTMS[case], strict=True):
        plain = {"cell_clip": None, "proj_clip": None, "peepholes": False, "forget_constant": 0.0}
        expected = {**plain, "directions": ("forward",), **fields}
        assert {name: getattr(layer.spec, name) for name in expected} == expected
        is_cell(layer, arrays, scope, order)
    computes(layers, arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["gru", "gru_block"])
def test_a_gru_of_tensorflow_1_is_what_tensorflow_computes(made: Path, case: str, form: str) -> None:
    arrays = stored(made, case)
    [layer] = lstmbridge.read(made / form.format(case))
    assert (layer.spec.cell, layer.spec.reset_after, layer.spec.bias) == ("gru", False, "single")
    is_gru(layer, arrays, "rnn/gru_cell")
    computes([layer], arrays)


@pytest.mark.parametrize("form", FORMS)
def test_two_directions_are_one_layer(made: Path, form: str) -> None:
    arrays = stored(made, "both")
    reading = read_all(made / form.format("both"))
    [layer] = reading.layers
    assert (layer.label, layer.spec.directions) == ("bidirectional_rnn.lstm_cell", ("forward", "reverse"))
    assert any("put together by concat" in note for note in reading.notes)
    is_cell(layer, arrays, "bidirectional_rnn/fw/lstm_cell", "igfo")
    is_cell(layer, arrays, "bidirectional_rnn/bw/lstm_cell", "igfo", "reverse")
    computes([layer], arrays, lengths=[6, 4])


@pytest.mark.parametrize("form", FORMS)
def test_stacked_directions_are_levels_that_feed_one_another(made: Path, form: str) -> None:
    arrays = stored(made, "stacked_both")
    layers = lstmbridge.read(made / form.format("stacked_both"))
    assert [(layer.label, layer.after) for layer in layers] == [
        ("stack_bidirectional_rnn.l0", None),
        ("stack_bidirectional_rnn.l1", "stack_bidirectional_rnn.l0"),
    ]
    for n, layer in enumerate(layers):
        for word, direction in (("fw", "forward"), ("bw", "reverse")):
            is_gru(layer, arrays, f"stack_bidirectional_rnn/cell_{n}/bidirectional_rnn/{word}/gru_cell", direction)
    computes(layers, arrays)


@pytest.mark.parametrize("form", FORMS)
def test_a_gru_that_cudnn_can_use_resets_after_and_has_both_biases_of_n(made: Path, form: str) -> None:
    arrays, scope = stored(made, "cudnn_gru"), "rnn/cudnn_compatible_gru_cell"
    reading = read_all(made / form.format("cudnn_gru"))
    [layer] = reading.layers
    assert (layer.spec.reset_after, layer.spec.bias) == (True, "dual")
    inner, hidden = (f"var/{scope}/candidate/{side}_projection" for side in ("input", "hidden"))
    np.testing.assert_array_equal(layer["forward.kernel.n"], arrays[f"{inner}/kernel"].T)
    np.testing.assert_array_equal(layer["forward.recurrent_kernel.n"], arrays[f"{hidden}/kernel"].T)
    np.testing.assert_array_equal(layer["forward.bias.n"], arrays[f"{inner}/bias"])
    np.testing.assert_array_equal(layer["forward.recurrent_bias.n"], arrays[f"{hidden}/bias"])
    np.testing.assert_array_equal(layer["forward.kernel.z"], arrays[f"var/{scope}/gates/kernel"][:5, 7:].T)
    assert not layer["forward.recurrent_bias.r"].any()
    assert any("recurrent biases of r and z are zeros" in note for note in reading.notes)
    computes([layer], arrays)


def test_a_partitioned_variable_is_put_together(made: Path) -> None:
    arrays, scope = stored(made, "partitioned"), "parts/rnn/basic_lstm_cell"
    parts = {key: [arrays[f"var/{scope}/{key}/part_{n}"] for n in range(3)] for key in ("kernel", "bias")}
    arrays |= {f"var/{scope}/{key}": np.concatenate(pieces) for key, pieces in parts.items()}
    for form in FORMS:
        reading = read_all(made / form.format("partitioned"))
        [layer] = reading.layers
        assert (layer.label, layer.spec.forget_constant) == ("parts.rnn.basic_lstm_cell", 1.0)
        assert layer.spec.hidden_size == 70  # starts and lengths of more than one byte in the keys of the parts
        assert reading.left_alone == ()
        is_cell(layer, arrays, scope, "igfo")
        computes([layer], arrays)


# ---- states


@pytest.mark.parametrize(
    ("case", "form"),
    [("basic", "tuple"), ("full", "tuple"), ("gru", "tuple"), ("rnn", "tuple"), ("multi", "tuple"), ("both", "tuple"),
     ("concatenated", "state_is_tuple=False")],
)  # fmt: skip
def test_the_states_that_tensorflow_gave_are_read(made: Path, case: str, form: str) -> None:
    """(c, h), h alone, one a level, one a direction, and c and h in one array."""
    arrays, layers = stored(made, case), lstmbridge.read(made / f"{case}.pb")
    own = [arrays[f"state/{n}"] for n in range(sum(key.startswith("state/") for key in arrays))]
    states = lstmbridge.read_states(own, layers, framework="tf1", form=form)
    lengths = [6, 4] if case == "both" else None
    for state, right in zip(states, reference.run_stack(layers, arrays["x"], lengths=lengths), strict=True):
        assert np.abs(state.h - right.h).max() <= 1e-6
        assert (state.c is None) == (right.c is None)
        assert right.c is None or np.abs(state.c - right.c).max() <= 1e-6


def test_tensorflow_begins_with_the_states_that_are_written(made: Path) -> None:
    arrays, [layer] = stored(made, "started"), lstmbridge.read(made / "started.pb")
    first = lstmbridge.States.of(layer, [arrays["h0"][None]], [arrays["c0"][None]])
    written = lstmbridge.write_states(first, to="tf1")
    assert type(written).__name__ == "LSTMStateTuple"
    np.testing.assert_array_equal(written.c, arrays["c0"])
    right = reference.run(layer, arrays["x"], h0=first.h[0], c0=first.c[0])
    assert np.abs(arrays["y"] - right.y).max() <= 1e-6


# ---- what no variable says


def test_without_its_graph_a_checkpoint_does_not_tell_the_forget_constant(bare: Path, made: Path) -> None:
    with pytest.raises(
        Ambiguous, match=r"(?s)forget_bias is in no variable.*forget_constant=1\.0 \(--forget-bias 1\.0\)"
    ):
        lstmbridge.read(bare)
    reading = read_all(bare, forget_constant=1.5)
    assert any("TensorFlow's default activations and no clip" in note for note in reading.notes)
    is_cell(reading.layers[0], stored(made, "basic"), "rnn/basic_lstm_cell", "igfo")
    computes(reading.layers, stored(made, "basic"))


def test_what_is_told_must_not_be_other_than_what_the_graph_says(made: Path) -> None:
    assert lstmbridge.read(made / "basic.pb", forget_constant=1.5)[0].spec.forget_constant == 1.5
    with pytest.raises(LayoutError, match=r"(?s)the graph adds 1\.5 .*told: forget_constant=1"):
        lstmbridge.read(made / "basic" / "model", forget_constant=1.0)


def test_the_name_decides_that_a_cell_for_cudnn_adds_nothing(made: Path, tmp_path: Path) -> None:
    without_graph(made / "cudnn_lstm", tmp_path)
    [layer] = lstmbridge.read(tmp_path / "model")
    assert layer.spec.forget_constant == 0.0
    computes([layer], stored(made, "cudnn_lstm"))


@pytest.mark.parametrize(("name", "scope"), [("old_1_0", "rnn.basic_lstm_cell"), ("old_0_12", "RNN.BasicLSTMCell")])
def test_variables_are_known_by_the_names_of_older_versions(made: Path, name: str, scope: str) -> None:
    [layer] = lstmbridge.read(made / name, forget_constant=1.5)
    assert layer.label == scope
    is_cell(layer, stored(made, "basic"), "rnn/basic_lstm_cell", "igfo")


@pytest.mark.parametrize("name", ["saved", "saved/saved_model.pb", "saved/variables/variables.index"])
def test_a_saved_model_of_tensorflow_1_has_its_graph(made: Path, name: str) -> None:
    reading = read_all(made / name)
    assert reading.layers[0].spec.forget_constant == 1.5
    assert any("in saved_model.pb" in note for note in reading.notes)
    computes(reading.layers, stored(made, "basic"))


def test_a_layer_that_is_asked_for_is_read_alone(made: Path, bare: Path) -> None:
    [layer] = lstmbridge.read(made / "multi" / "model", only=("rnn.multi_rnn_cell.l1",))
    assert (layer.label, layer.after) == ("rnn.multi_rnn_cell.l1", None)
    with pytest.raises(UnknownName, match="rnn.basic_lstm_cell"):
        lstmbridge.read(bare, only=("rnn.basic_lstm_cel",))


def test_a_checkpoint_in_one_file_is_read(made: Path, tmp_path: Path) -> None:
    arrays = stored(made, "basic")
    [layer] = lstmbridge.read(made / "version_1.ckpt", forget_constant=1.5)
    is_cell(layer, arrays, "rnn/basic_lstm_cell", "igfo")
    computes([layer], arrays)
    whole = (made / "version_1.ckpt").read_bytes()
    path = tmp_path / "model-1000"  # known by what is in it
    path.write_bytes(whole)
    is_cell(lstmbridge.read(path, forget_constant=1.5)[0], arrays, "rnn/basic_lstm_cell", "igfo")
    for at in range(0, 1500, 31):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(path, forget_constant=1.5)


def test_what_an_optimizer_keeps_is_left_alone(made: Path) -> None:
    reading = read_all(made / "trained" / "model")
    assert "rnn/basic_lstm_cell/kernel/Adam_1" in reading.left_alone
    assert "rnn/basic_lstm_cell/kernel" not in reading.left_alone
    assert "left alone beside the variables: Adam, Adam_1" in reading.notes


def test_a_cell_of_a_name_that_nobody_knows_is_asked_for(made: Path, tmp_path: Path) -> None:
    without_graph(made / "named", tmp_path)
    with pytest.raises(Ambiguous, match=r"(?s)rnn/decoder: its name does not tell.*cell='lstm'"):
        lstmbridge.read(tmp_path / "model", forget_constant=1.0)
    [layer] = lstmbridge.read(tmp_path / "model", forget_constant=1.0, cell="lstm")
    computes([layer], stored(made, "named"))


def test_a_cell_with_other_equations_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    without_graph(made / "layer_norm", tmp_path)
    with pytest.raises(Unsupported, match=r"layer_norm_basic_lstm_cell\): it normalises each gate"):
        lstmbridge.read(tmp_path / "model", forget_constant=1.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_that_only_looks_like_a_cell_is_refused(made: Path, form: str) -> None:
    with pytest.raises(Unsupported, match="its step in the graph is not that of a lstm"):
        lstmbridge.read(made / form.format("swapped"), forget_constant=1.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_dense_layer_on_two_inputs_is_no_cell(made: Path, form: str) -> None:
    with pytest.raises(BridgeError, match="no recurrent layer"):
        lstmbridge.read(made / form.format("dense"))


def test_a_large_step_is_proved_in_float32(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_LARGE", 1)
    assert lstmbridge.read(made / "full.pb")[0].spec.forget_constant == 2.5
    with pytest.raises(Unsupported, match="its step"):
        lstmbridge.read(made / "swapped.pb", forget_constant=1.0)


@pytest.mark.parametrize("mutant", ["forget_constant", "cell_clip", "activations"])
def test_the_proof_sees_every_constant(made: Path, mutant: str) -> None:
    graph = open_graph(made / "full.pb")
    wrong = {"forget_constant": 2.4, "cell_clip": 0.7, "activations": ("sigmoid", "tanh", "relu")}[mutant]
    [guess] = [each for each in steps.guesses(graph) if each.result]
    step = steps.Step("lstm", guess.step.variables, {**guess.step.features, mutant: wrong}, "")
    assert steps._holds(graph, guess, graph.constant) is True
    mistaken = steps.Guess(step, guess.x, guess.state, guess.result)
    assert steps._holds(graph, mistaken, graph.constant) is False


# ---- where a checkpoint is


def without_graph(source: Path, target: Path) -> None:
    for each in source.iterdir():
        if not each.name.endswith(".meta"):
            shutil.copy(each, target)


@pytest.mark.parametrize("name", ["model", "model.index", "model.meta", "model.data-00000-of-00001", "checkpoint", "."])
def test_a_checkpoint_is_found_by_any_of_its_names(made: Path, name: str) -> None:
    [layer] = lstmbridge.read(made / "gru" / name)
    computes([layer], stored(made, "gru"))


@pytest.mark.parametrize("said", ["/etc/passwd", "../elsewhere/model", "nothing"])
def test_a_checkpoint_file_names_nothing_outside_its_directory(bare: Path, said: str) -> None:
    elsewhere = bare.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    shutil.copy(bare.with_name(f"{bare.name}.index"), elsewhere / "model.index")
    (bare.parent / "checkpoint").write_text(f'model_checkpoint_path: "{said}"\n')
    with pytest.raises(FileError, match=r"checkpoint: it names"):
        lstmbridge.read(bare.parent)


def test_a_checkpoint_that_was_moved_with_its_directory_is_found(bare: Path) -> None:
    (bare.parent / "checkpoint").write_text('model_checkpoint_path: "/once/upon/a/time/model.ckpt-1000"\n')
    assert lstmbridge.read(bare.parent, forget_constant=1.5)[0].label == "rnn.basic_lstm_cell"


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="no such file"):
        lstmbridge.read(tmp_path / "model.ckpt-7")


def test_a_checkpoint_is_converted_without_tensorflow(made: Path, tmp_path: Path) -> None:
    program = (
        "import sys, lstmbridge\n"
        "lstmbridge.convert(sys.argv[1], path=sys.argv[2])\n"
        "lstmbridge.read(sys.argv[3])\n"
        "assert not {'tensorflow', 'keras', 'tf_keras', 'torch'} & set(sys.modules)\n"
    )
    target = tmp_path / "gru.safetensors"
    names = [made / "cudnn_gru" / "model", target, made / "keras_saved"]
    subprocess.run([sys.executable, "-c", program, *map(str, names)], check=True, timeout=60)
    computes(lstmbridge.read(target), stored(made, "cudnn_gru"))


def test_the_companions_of_a_checkpoint_are_its_other_files() -> None:
    names = ["a/m.data-00000-of-00001", "a/m.index", "a/m.meta", "a/m2.index", "s/keras_metadata.pb",
             "s/variables/variables.data-00000-of-00001", "s/variables/variables.index"]  # fmt: skip

    def beginning(text: str) -> list[str]:
        return [name for name in names if name.startswith(text)]

    assert tf1.companions("a/m.index", beginning) == ["a/m.data-00000-of-00001", "a/m.meta"]
    assert set(tf1.companions("s/saved_model.pb", beginning)) == set(names[4:])


# ---- Keras


KERAS_LAYERS = (("first", "lstm"), ("second", "gru"), ("third.l0", "lstm"), ("third.l1", "lstm"), ("fourth", "rnn"))
KERAS_ORDER = {"lstm": "ifgo", "gru": "zrn", "rnn": "n"}


def is_keras(layer: Layer, weights: Sequence[np.ndarray]) -> None:
    """Asserts every gate's numbers in a layer with these kernels, recurrent kernels and biases, a direction each."""
    order, u = KERAS_ORDER[layer.spec.cell], layer.spec.hidden_size
    for d, direction in enumerate(layer.spec.directions):
        kernel, recurrent, bias = weights[3 * d : 3 * d + 3]
        for n, gate in enumerate(order):
            block = slice(n * u, (n + 1) * u)
            np.testing.assert_array_equal(layer[f"{direction}.kernel.{gate}"], kernel[:, block].T)
            np.testing.assert_array_equal(layer[f"{direction}.recurrent_kernel.{gate}"], recurrent[:, block].T)
            biases = bias if layer.spec.bias == "dual" else bias[None]
            for name, row in zip(("bias", "recurrent_bias"), biases, strict=False):
                np.testing.assert_array_equal(layer[f"{direction}.{name}.{gate}"], row[block])


def keras_weights(arrays: Mapping[str, np.ndarray], label: str) -> list[np.ndarray]:
    name, _, level = label.partition(".l")
    found = [arrays[f"var/{name}/{n}"] for n in range(6) if f"var/{name}/{n}" in arrays]
    return found[3 * int(level) : 3 * int(level) + 3] if level else found


def are_keras(reading: Reading, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    assert [(layer.label, layer.spec.cell) for layer in reading.layers] == [
        (prefix + n, cell) for n, cell in KERAS_LAYERS
    ]
    for layer in reading.layers:
        is_keras(layer, keras_weights(arrays, layer.label.removeprefix(prefix)))


@pytest.mark.parametrize("name", ["keras_saved", "keras_saved/saved_model.pb", "keras_saved_before_2_5"])
def test_a_saved_model_is_read_with_the_configs_in_it(made: Path, name: str) -> None:
    arrays = stored(made, "keras")
    reading = read_all(made / name)
    are_keras(reading, arrays)
    assert not any("assumed" in note for note in reading.notes)
    assert any("hard_sigmoid is 0.2 x + 0.5" in note for note in reading.notes)
    assert [layer.after for layer in reading.layers] == [None, "first", "second", "third.l0", "third.l1"]
    assert reading.layers[1].spec.merge == "sum"
    inputs = arrays["x"]
    for layer in reading.layers:
        y = reference.run(layer, inputs).y
        inputs = arrays.get(layer.path, y) if layer.level != 0 else y
        assert np.abs(y - inputs).max() <= 1e-6, layer.label


def test_keras_weights_in_a_checkpoint_are_read_with_a_config_or_with_what_is_assumed(made: Path) -> None:
    arrays, path = stored(made, "keras"), made / "keras" / "weights"
    reading = read_all(path)
    are_keras(reading, arrays)
    assert [note.partition(":")[0] for note in reading.notes if "assumed" in note] == [
        "first",
        "second",
        "third",
        "fourth",
    ]
    assert reading.layers[4].spec.activations == (TANH,)
    told = read_all(path, config=str(made / "keras.json"))
    are_keras(told, arrays)
    assert not any("assumed" in note for note in told.notes)
    assert told.layers[4].spec.activations == (RELU,)
    assert told.layers[1].spec.activations[0] == Activation("hard_sigmoid", 0.2, 0.5)


def test_a_config_that_lists_other_layers_is_an_error(made: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"class_name": "Sequential", "config": {"name": "s", "layers": []}}')
    with pytest.raises(FileError, match="4 recurrent layers; the config lists 0"):
        lstmbridge.read(made / "keras" / "weights", config=str(config))


def test_keras_in_a_checkpoint_of_objects_keeps_the_names_that_lead_to_it(made: Path) -> None:
    reading = read_all(made / "keras_objects")
    are_keras(reading, stored(made, "keras"), "net.")


def test_keras_variables_that_a_saver_of_tensorflow_1_wrote_are_read_by_name(made: Path) -> None:
    reading = read_all(made / "keras_names")
    found = {layer.label: layer for layer in reading.layers}
    assert set(found) == {label for label, _ in KERAS_LAYERS}
    for label, layer in found.items():
        is_keras(layer, keras_weights(stored(made, "keras"), label))
    assert set(reading.left_alone) == {"last/kernel", "last/bias"}


def test_what_keras_3_exports_is_read_by_the_names_of_its_variables(made: Path) -> None:
    arrays = stored(made, "keras3")
    layers = lstmbridge.read(made / "keras3_export")
    assert [layer.label for layer in layers] == ["first", "second"]
    for layer in layers:
        is_keras(layer, arrays_of(arrays, layer.label))


def arrays_of(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The weights of a layer of Keras 3, without the states of its generators of random numbers."""
    found = [arrays[key] for key in sorted(arrays, key=_number) if key.startswith(f"var/{name}/")]
    return [each for each in found if each.dtype == np.float32]


def _number(key: str) -> int:
    last = key.rpartition("/")[2]
    return int(last) if last.isdigit() else -1


@pytest.mark.parametrize("name", ["keras/weights"])
def test_keras_in_a_checkpoint_is_checked_by_the_equations(made: Path, name: str, tmp_path: Path) -> None:
    target = lstmbridge.convert(made / name, to="gates", path=tmp_path / "layers.npz")
    agreement = lstmbridge.check(made / name, target)
    assert agreement.agrees
    assert "keras (by the reference)" in str(agreement)


def test_each_kind_of_checkpoint_is_claimed_by_one_framework(made: Path) -> None:
    for name in ("gru/model", "gru", "plain"):
        assert (tf1.claims(made / name), keras.claims(made / name)) == (True, False)
    for name in ("keras_saved", "keras/weights", "keras_names", "keras3_export"):
        assert (tf1.claims(made / name), keras.claims(made / name)) == (False, True)
    for name in ("gru.npz", "gru.pb", "keras.json"):
        assert (tf1.claims(made / name), keras.claims(made / name)) == (False, False)


# ---- damaged and hostile files


def refused(path: Path, **options: Any) -> str:
    """Asserts that a file is refused in the project's own words, which name it; and gives them."""
    with pytest.raises(BridgeError) as caught:
        lstmbridge.read(path, **options)
    assert path.name.partition(".")[0] in str(caught.value)
    return str(caught.value)


def test_an_index_that_was_cut_short_is_refused(bare: Path) -> None:
    index = bare.with_name(f"{bare.name}.index")
    whole = index.read_bytes()
    for size in range(0, len(whole), 7):
        index.write_bytes(whole[:size])
        refused(bare, forget_constant=1.0)


def test_an_index_with_any_byte_changed_is_refused_or_says_the_same(bare: Path) -> None:
    index = bare.with_name(f"{bare.name}.index")
    whole = index.read_bytes()
    before = lstmbridge.read(bare, forget_constant=1.0)[0]["forward.kernel.i"]
    passed = 0
    for at in range(len(whole)):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            [layer] = lstmbridge.read(bare, forget_constant=1.0)
        except BridgeError:
            continue
        passed += 1
        np.testing.assert_array_equal(layer["forward.kernel.i"], before)
    assert passed < 56  # only what is not used may change: the empty block of metadata, and what pads the footer


def test_numbers_that_were_cut_short_or_changed_are_refused(bare: Path) -> None:
    data = bare.with_name(f"{bare.name}.data-00000-of-00001")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert "cut short" in refused(bare, forget_constant=1.0)
    data.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert "another checksum" in refused(bare, forget_constant=1.0)
    data.unlink()
    assert "no such file" in refused(bare, forget_constant=1.0)


def test_a_frozen_graph_with_bytes_changed_gives_no_other_error(made: Path, tmp_path: Path) -> None:
    whole = (made / "basic.pb").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "graph.pb"
    for at in [*range(0, 400, 9), *rng.integers(0, len(whole), 60).tolist()]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :])
        for each in (path, None):
            if each is None:
                path.write_bytes(whole[:at])
            with contextlib.suppress(BridgeError):
                lstmbridge.read(path, forget_constant=1.5)


# A writer of tables and messages, as small as the tests need.


def plain_crc(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = plain_crc(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def number(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(n: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(n << 3) + number(value)
    return number(n << 3 | 2) + number(len(value)) + value


def block(entries: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Entries of (shared, rest of the key, value), with one restart and the trailer."""
    body = b"".join(number(n) + number(len(key)) + number(len(value)) + key + value for n, key, value in entries)
    body += struct.pack("<II", 0, 1)
    return body + b"\0" + masked(body + b"\0")


def table(data: bytes, handles: Sequence[tuple[int, int]]) -> bytes:
    """A table of ready blocks with an index of these (offset, size)."""
    index = block([(0, b"%08d" % n, number(at) + number(size)) for n, (at, size) in enumerate(handles)])
    footer = number(0) + number(0) + number(len(data)) + number(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def entry(dtype: int = 1, shape: Sequence[int] = (), offset: int = 0, size: int = 0, more: bytes = b"") -> bytes:
    dims = b"".join(field(2, field(1, n)) for n in shape)
    return field(1, dtype) + field(2, dims) + field(4, offset) + field(5, size) + more


def checkpoint(folder: Path, entries: Mapping[bytes, bytes], data: bytes = b"", header: bytes = field(1, 1)) -> Path:
    made = block([(0, key, value) for key, value in sorted({b"": header, **entries}.items())])
    (folder / "m.index").write_bytes(table(made, [(0, len(made) - 5)]))
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


CELL = b"rnn/gru_cell/"
CRC = number(6 << 3 | 5)


def gru_with(**kernel: Any) -> dict[bytes, bytes]:
    """The entries of a GRUCell, the kernel of its gates as given."""
    names = (b"gates/bias", b"candidate/kernel", b"candidate/bias")
    empty = entry(shape=(0,), more=CRC + masked(b""))
    return {CELL + b"gates/kernel": entry(**kernel), **dict.fromkeys((CELL + name for name in names), empty)}


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ({"shape": (1 << 40, 1 << 40), "size": 16}, "has 16 bytes"),
        ({"shape": (1 << 62, 8), "size": 1 << 50}, "cut short"),
        ({"shape": (2, 2), "offset": 1 << 62, "size": 16}, "cut short"),
        ({"shape": (-2, -2), "size": 16}, "negative"),
        ({"shape": (2, 2), "offset": -16, "size": 16}, "negative"),
        ({"shape": (2, 2), "size": 16, "dtype": 7}, "holds texts"),
        ({"shape": (2, 2), "size": 16, "dtype": 99}, "holds dtype 99"),
        ({"shape": (2, 2), "size": 16}, "another checksum"),
        ({"shape": (2, 2), "size": 16, "more": field(3, 7)}, "no such file"),
        ({"shape": (1 << 30, 1 << 30), "size": 0, "more": field(7, field(1, b"") * 2)}, "is not there"),
    ],
)
def test_an_entry_that_says_what_cannot_be_is_refused(tmp_path: Path, kernel: dict[str, Any], words: str) -> None:
    assert words in refused(checkpoint(tmp_path, gru_with(**kernel), bytes(64)))


def test_parts_that_do_not_fill_the_whole_are_refused(tmp_path: Path) -> None:
    part = field(7, field(1, field(1, 0) + field(2, 1)) + field(1, b""))
    key = b"\0" + CELL + b"gates/kernel" + b"\0\1" + b"\1\2" + b"\x80\x81" + b"\x80\x7f"
    half = entry(shape=(1, 2), size=8, more=CRC + masked(bytes(8)))
    for shape, parts in (((2, 2), part), ((2, 2), part + part), ((1 << 30, 1 << 30), part)):
        entries = {**gru_with(shape=shape, more=parts), key: half}
        assert "do not fill" in (said := refused(checkpoint(tmp_path, entries, bytes(8)))) or "a part of" in said


def test_blocks_that_are_listed_again_and_again_are_refused(tmp_path: Path) -> None:
    made = block([(0, b"", field(1, 1)), (0, b"a", entry())])
    (tmp_path / "m.index").write_bytes(table(made, [(0, len(made) - 5)] * 20_000))
    started = time.perf_counter()
    assert "listed twice" in refused(tmp_path / "m.index")
    assert time.perf_counter() - started < 5


def test_keys_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    made = block([(0, b"", field(1, 1)), *((n, b"a", b"") for n in range(20_000))])
    (tmp_path / "m.index").write_bytes(table(made, [(0, len(made) - 5)]))
    assert "far longer than the file" in refused(tmp_path / "m.index")


def test_a_file_of_another_format_or_byte_order_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.index").write_bytes(b"not a table" * 20)
    refused(tmp_path / "m.index")
    assert "big-endian" in refused(checkpoint(tmp_path, gru_with(), header=field(1, 1) + field(2, 1)))


def test_a_graph_of_objects_that_goes_round_or_astray_is_refused(tmp_path: Path) -> None:
    def refers(*numbers: int) -> bytes:
        return field(1, b"".join(field(1, field(1, n) + field(2, b"cell")) for n in numbers))

    for graph in (refers(0), refers(1) + refers(0), refers(7), field(1, b"\xff"), b"\x0b" * 9, refers(1) * 3000):
        data = number(len(graph)) + bytes(4) + graph
        entries = {b"_CHECKPOINTABLE_OBJECT_GRAPH": entry(dtype=7, size=len(data))}
        refused(checkpoint(tmp_path, entries, data))


def keras_cell(folder: Path, shapes: Mapping[bytes, Sequence[int]]) -> Path:
    """A checkpoint of objects: a root with one `layer`, its `cell`, and on that, variables of zeros of these shapes."""
    value = b"/.ATTRIBUTES/VARIABLE_VALUE"
    entries, data = {}, b""
    for name, shape in shapes.items():
        stored = bytes(4 * int(np.prod(shape)))
        crc = CRC + masked(stored)
        entries[b"layer/cell/" + name + value] = entry(shape=shape, offset=len(data), size=len(stored), more=crc)
        data += stored
    children = [{b"layer": 1}, {b"cell": 2}, {name: 3 + n for n, name in enumerate(shapes)}]
    nodes = [b"".join(field(1, field(1, n) + field(2, name)) for name, n in each.items()) for each in children]
    nodes += [field(2, field(1, b"VARIABLE_VALUE") + field(3, b"layer/cell/" + name + value)) for name in shapes]
    graph = b"".join(field(1, node) for node in nodes)
    texts = number(len(graph)) + bytes(4) + graph
    entries[b"_CHECKPOINTABLE_OBJECT_GRAPH"] = entry(dtype=7, offset=len(data), size=len(texts))
    return checkpoint(folder, entries, data + texts)


def test_a_cell_with_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    shapes = {b"kernel": (5, 12), b"recurrent_kernel": (3, 12), b"bias": (12,)}
    assert lstmbridge.read(keras_cell(tmp_path, shapes))[0].spec.hidden_size == 3
    said = refused(keras_cell(tmp_path, {**shapes, b"gamma": (12,)}))
    assert "weights that no cell of Keras has" in said
    assert "layer/cell/gamma" in said


def test_a_gru_without_a_bias_does_not_tell_when_it_resets(tmp_path: Path) -> None:
    path = keras_cell(tmp_path, {b"kernel": (5, 9), b"recurrent_kernel": (3, 9)})
    assert "do not tell reset_after" in refused(path)
    for after in (True, False):
        assert lstmbridge.read(path, reset_after=after)[0].spec.reset_after is after


def constant(name: str, shape: Sequence[int], *, content: bytes = b"", values: bytes = b"") -> bytes:
    dims = b"".join(field(2, field(1, n)) for n in shape)
    tensor = (
        field(1, 1) + field(2, dims) + (field(4, content) if content else b"") + (field(5, values) if values else b"")
    )
    attributes = field(5, field(1, b"value") + field(2, field(8, tensor))) + field(
        5, field(1, b"dtype") + field(2, field(6, 1))
    )
    return field(1, field(1, name.encode()) + field(2, b"Const") + attributes)


def identity(name: str, source: str, op: str = "Identity") -> bytes:
    return field(1, field(1, name.encode()) + field(2, op.encode()) + field(3, source.encode()))


def test_a_graph_that_goes_round_in_circles_is_soon_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    circle = b"".join(identity(f"n{n}", f"n{(n + 1) % 3000}") for n in range(3000))
    products = b"".join(
        field(1, field(1, b"m%d" % n) + field(2, b"MatMul") + field(3, b"n%d" % n) * 2) for n in range(3000)
    )
    path.write_bytes(circle + products + constant("w", (2,), content=bytes(8)))
    started = time.perf_counter()
    refused(path)
    assert time.perf_counter() - started < 10


def test_sides_of_sides_without_end_are_soon_refused(tmp_path: Path) -> None:
    graph = b"".join(
        field(1, b"".join(field(1, field(1, n + 1) + field(2, name)) for name in (b"forward_layer", b"backward_layer")))
        for n in range(500)
    )
    data = number(len(graph)) + bytes(4) + graph
    started = time.perf_counter()
    refused(checkpoint(tmp_path, {b"_CHECKPOINTABLE_OBJECT_GRAPH": entry(dtype=7, size=len(data))}, data))
    assert time.perf_counter() - started < 10


def test_a_constant_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    huge = (1 << 24, 1 << 24)
    for kernel in (
        constant("rnn/gru_cell/gates/kernel", huge, content=bytes(16)),
        constant("rnn/gru_cell/gates/kernel", huge, values=bytes(8)),
        constant("rnn/gru_cell/gates/kernel", huge, values=bytes(4)),  # one number for all: no memory is taken
        constant("rnn/gru_cell/gates/kernel", (-1, 8), content=bytes(16)),
    ):
        path.write_bytes(kernel + constant("rnn/gru_cell/candidate/kernel", (4, 2), content=bytes(32)))
        refused(path)


# ---- checksums and packing


@pytest.mark.parametrize("size", [0, 1, 9, 16383, 16384, 50001])
def test_the_checksum_is_that_of_its_definition(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert crc32c(data) == plain_crc(data.tobytes())


def test_snappy_is_undone() -> None:
    assert unsnapped(bytes([10, 4 << 2]) + b"hello" + bytes([1 | 1 << 2, 5])) == b"hellohello"
    assert unsnapped(bytes([8, 0]) + b"a" + bytes([2 | 6 << 2, 1, 0])) == b"aaaaaaaa"


@pytest.mark.parametrize(
    "data", [b"", b"\x05\x00a", bytes([8, 0]) + b"a" + bytes([2 | 6 << 2, 9, 0]), b"\xff\xff\xff\x7f\x00"]
)
def test_a_packed_block_that_is_damaged_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        unsnapped(data)


def tensors(bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    for name in bundle.names:
        yield name, bundle.read(name)


def test_every_tensor_of_a_checkpoint_is_what_tensorflow_stored(made: Path) -> None:
    prefix = prefix_of(made / "full")
    assert prefix is not None
    bundle = Bundle(prefix)
    arrays = stored(made, "full")
    for name, array in tensors(bundle):
        np.testing.assert_array_equal(array, arrays[f"var/{name}"])
        assert not array.flags.writeable
    assert bundle.untouched() == ()
    assert ReadOptions().forget_constant is None
