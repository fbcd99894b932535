"""Keras files of versions 1 and 2, models and weights alone, of plain, CuDNN and TensorFlow 1 layers.

What no installed framework can write any more is written here from the layout of its time, by NumPy and h5py alone.
What tf_keras 2.21 writes and runs comes from one process of its own, with its own outputs.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import lstmbridge
from lstmbridge import Layer, reference
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, MissingFramework, Unsupported
from lstmbridge.frameworks.keras import cudnn as cudnn_arrays
from lstmbridge.frameworks.keras import files, layout, nodes
from lstmbridge.frameworks.keras.store import open_store
from lstmbridge.jobs.job import Job
from lstmbridge.jobs.places import Place
from lstmbridge.jobs.plan import plan
from lstmbridge.notation import Layout
from lstmbridge.reading import read_all
from lstmbridge.spec import Activation

INPUT, HIDDEN = 5, 7
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "n"}
HARD, OTHER_HARD = Activation("hard_sigmoid", 0.2, 0.5), Activation("hard_sigmoid", 1 / 6, 0.5)
SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")
ERA = "hard_sigmoid is 0.2 x + 0.5, not Keras 3's x/6 + 0.5"

#: One direction's numbers by part and gate: matrices are (output, input).
Truth = Mapping[str, np.ndarray]


def truth(cell: str, seed: int, *, inputs: int = INPUT, biases: int = 1) -> dict[str, np.ndarray]:
    """One direction of a random cell."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (HIDDEN, inputs), "recurrent_kernel": (HIDDEN, HIDDEN)}
    shapes |= dict.fromkeys(("bias", "recurrent_bias")[:biases], (HIDDEN,))
    parts = itertools.product(shapes.items(), GATES[cell])
    return {f"{part}.{gate}": rng.normal(0, 0.3, shape).astype("f4") for (part, shape), gate in parts}


def same(layer: Layer, **directions: Truth) -> None:
    """Asserts that a layer has exactly these numbers, gate by gate."""
    expected = {f"{d}.{name}": array for d, each in directions.items() for name, array in each.items()}
    assert set(layer.weights) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(layer[name], array, err_msg=name)


def read(path: Path, **options: Any) -> Reading:
    return files.read(path, ReadOptions(**options))


# ---- the arrays of each era


def keras1(w: Truth, name: str, cell: str = "lstm") -> dict[str, np.ndarray]:
    """Keras 1.0 to 1.2, an array a gate: LSTM i c f o, GRU z r h."""
    if cell == "rnn":
        return keras1_gpu(w, name, cell)
    made = {}
    for old, gate in {"lstm": ("ii", "cg", "ff", "oo"), "gru": ("zz", "rr", "hn")}[cell]:
        made[f"{name}_W_{old}"] = w[f"kernel.{gate}"].T
        made[f"{name}_U_{old}"] = w[f"recurrent_kernel.{gate}"].T
        made[f"{name}_b_{old}"] = w[f"bias.{gate}"]
    return made


def keras1_gpu(w: Truth, name: str, cell: str = "lstm") -> dict[str, np.ndarray]:
    """Keras 1 with consume_less='gpu': LSTM i f c o, GRU z r h."""
    fused = fused_arrays(w, cell)
    return {f"{name}_{old}": fused[new] for old, new in (("W", "kernel"), ("U", "recurrent_kernel"), ("b", "bias"))}


def fused_arrays(w: Truth, cell: str) -> dict[str, np.ndarray]:
    """Keras 2: gates along the last axis, LSTM i f c o, GRU z r h; two biases are rows."""
    order = {"lstm": "ifgo", "gru": "zrn", "rnn": "n"}[cell]
    made = {part: np.hstack([w[f"{part}.{gate}"].T for gate in order]) for part in ("kernel", "recurrent_kernel")}
    biases = [part for part in ("bias", "recurrent_bias") if f"{part}.{order[0]}" in w]
    rows = [np.concatenate([w[f"{part}.{gate}"] for gate in order]) for part in biases]
    return {**made, "bias": rows[0] if len(rows) == 1 else np.stack(rows)} if rows else made


def keras2(w: Truth, name: str, cell: str = "lstm") -> dict[str, np.ndarray]:
    return {f"{name}/{part}:0": array for part, array in fused_arrays(w, cell).items()}


def cudnn(w: Truth, name: str, cell: str = "lstm") -> dict[str, np.ndarray]:
    """CuDNNLSTM and CuDNNGRU: a kernel's block is cuDNN's (h, i) memory in the shape (i, h), a recurrent one (h, h)."""
    order = {"lstm": "ifgo", "gru": "zrn"}[cell]
    kernels = [np.ascontiguousarray(w[f"kernel.{gate}"]).ravel().reshape(INPUT, HIDDEN) for gate in order]
    biases = [w[f"{part}.{gate}"] for part in ("bias", "recurrent_bias") for gate in order]
    return {
        f"{name}/kernel:0": np.hstack(kernels),
        f"{name}/recurrent_kernel:0": np.hstack([w[f"recurrent_kernel.{gate}"] for gate in order]),
        f"{name}/bias:0": np.concatenate(biases),
    }


def node(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


def old_lstm(name: str, kind: str = "LSTM", **config: Any) -> dict[str, Any]:
    """The node of a layer of Keras 1."""
    gate = {} if kind == "SimpleRNN" else {"inner_activation": "hard_sigmoid", "inner_init": "orthogonal"}
    fixed = {
        "output_dim": HIDDEN,
        "input_dim": INPUT,
        "activation": "tanh",
        "consume_less": "cpu",
        "go_backwards": False,
    }
    return node(kind, name, **{**fixed, **gate, **config})


def new_lstm(name: str, kind: str = "LSTM", **config: Any) -> dict[str, Any]:
    """The node of a layer of Keras 2."""
    gate = {} if kind in ("SimpleRNN", "CuDNNLSTM", "CuDNNGRU") else {"recurrent_activation": "hard_sigmoid"}
    plain = {} if kind.startswith("CuDNN") else {"activation": "tanh", "use_bias": True}
    return node(kind, name, units=HIDDEN, **plain, **gate, **config)


def write(
    path: Path,
    layers: Mapping[str, Mapping[str, np.ndarray]],
    config: Any = None,
    version: str | None = "2.1.3",
    *,
    whole: bool = True,
) -> Path:
    """A file as Keras' save (`whole`) or save_weights wrote it: a group a layer, its arrays by name and in order."""
    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if whole else file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        for group in {file, top} if version and whole else ():
            group.attrs["keras_version"] = version.encode()
        if version and not whole:
            file.attrs["keras_version"] = version.encode()
        top.attrs["layer_names"] = np.array([name.encode() for name in layers], dtype="S")
        for layer, arrays in layers.items():
            group = top.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in arrays], dtype="S")
            for name, array in arrays.items():
                group[name] = array
    return path


def sequential(*nodes: Any) -> dict[str, Any]:
    """A Sequential as Keras before 2.2.3 has it: its layers in a plain list."""
    return {"class_name": "Sequential", "config": list(nodes)}


DENSE = node("Dense", "dense_1", output_dim=3)
DENSE_ARRAYS = {"dense_1_W:0": np.ones((HIDDEN, 3), "f4"), "dense_1_b:0": np.ones(3, "f4")}


# ---- Keras 1


@pytest.mark.parametrize("suffix", ["", ":0", "_1:0"])
@pytest.mark.parametrize(("kind", "cell"), [("LSTM", "lstm"), ("GRU", "gru"), ("SimpleRNN", "rnn")])
def test_keras_1_model_with_an_array_a_gate(kind: str, cell: str, suffix: str, tmp_path: Path) -> None:
    w = truth(cell, 1)
    arrays = {f"{name}{suffix}": array for name, array in keras1(w, "l_1", cell).items()}
    assert len(arrays) == {"lstm": 12, "gru": 9, "rnn": 3}[cell]
    path = tmp_path / "k1.h5"
    config = sequential(old_lstm("l_1", kind, return_sequences=True), DENSE)
    write(path, {"l_1": arrays, "dense_1": DENSE_ARRAYS}, config, "1.2.2")
    reading = read(path)
    [layer] = reading.layers
    same(layer, forward=w)
    assert (layer.path, layer.spec.bias, layer.spec.reset_after) == ("l_1", "single", cell != "gru")
    assert layer.spec.activations == {"lstm": (HARD, TANH, TANH), "gru": (HARD, TANH), "rnn": (TANH,)}[cell]
    assert reading.notes == (() if cell == "rnn" else (f"written by Keras 1.2.2: {ERA}",))
    assert reading.left_alone == ("model_weights/dense_1/dense_1_W:0", "model_weights/dense_1/dense_1_b:0")
    assert layer.metadata["config"]["output_dim"] == HIDDEN  # verbatim
    assert layer.metadata["keras_version"] == "1.2.2"


@pytest.mark.parametrize(("kind", "cell"), [("LSTM", "lstm"), ("GRU", "gru")])
def test_keras_1_model_with_consume_less_gpu(kind: str, cell: str, tmp_path: Path) -> None:
    w = truth(cell, 2)
    config = sequential(old_lstm("l_1", kind, consume_less="gpu"))
    [layer] = read(write(tmp_path / "k1.h5", {"l_1": keras1_gpu(w, "l_1", cell)}, config, "1.1.0")).layers
    same(layer, forward=w)
    assert layer.spec.activation("gate") == HARD


def test_keras_1_bidirectional_and_backwards(tmp_path: Path) -> None:
    f, b, back = truth("lstm", 3), truth("lstm", 4), truth("gru", 5, inputs=HIDDEN)
    inner = old_lstm("forward_lstm_1")  # Keras 1 renames the layer that it is given
    config = sequential(
        node("Bidirectional", "bidirectional_1", layer=inner, merge_mode="sum"),
        old_lstm("gru_1", "GRU", go_backwards=True),
    )
    arrays = {
        "bidirectional_1": {**keras1(b, "backward_lstm_1"), **keras1(f, "forward_lstm_1")},  # names tell, not the order
        "gru_1": keras1(back, "gru_1", "gru"),
    }
    both, last = read(write(tmp_path / "k1.h5", arrays, config, "1.2.0")).layers
    same(both, forward=f, reverse=b)
    assert (both.spec.merge, both.spec.directions) == ("sum", ("forward", "reverse"))
    same(last, reverse=back)
    assert last.spec.processed_order


def test_keras_1_branches_of_a_merge_and_models_without_a_name(tmp_path: Path) -> None:
    one, two, deep = truth("lstm", 6), truth("lstm", 7, inputs=4), truth("lstm", 8)
    merge = node(
        "Merge", "merge_1", mode="concat", layers=[sequential(old_lstm("lstm_1")), sequential(old_lstm("lstm_2"))]
    )
    inside = sequential(old_lstm("lstm_3"), DENSE)
    arrays = {
        "lstm_1": keras1(one, "lstm_1"),
        "lstm_2": keras1(two, "lstm_2"),
        "sequential_3": {**keras1(deep, "lstm_3"), **DENSE_ARRAYS},
    }
    reading = read(write(tmp_path / "k1.h5", arrays, sequential(merge, inside), "1.0.8"))
    assert [layer.path for layer in reading.layers] == ["lstm_1", "lstm_2", "sequential_3.lstm_3"]
    assert [layer.after for layer in reading.layers] == [None, None, None]
    for layer, w in zip(reading.layers, (one, two, deep), strict=True):
        same(layer, forward=w)


def test_keras_1_graph(tmp_path: Path) -> None:
    w = truth("lstm", 9)
    config = {"class_name": "Graph", "config": {"nodes": {"rnn": old_lstm("lstm_1")}, "input_order": ["x"]}}
    [layer] = read(write(tmp_path / "k1.h5", {"rnn": keras1(w, "rnn")}, config, "1.0.0")).layers
    same(layer, forward=w)
    assert layer.path == "rnn"


@pytest.mark.parametrize("cells", [1, 2])
def test_keras_1_on_theano_without_names(cells: int, tmp_path: Path) -> None:
    sides = [truth("lstm", 10 + n) for n in range(cells)]
    arrays = [array for n, w in enumerate(sides) for array in keras1(w, str(n)).values()]
    one = old_lstm("lstm_1")
    config = sequential(one if cells == 1 else node("Bidirectional", "bidirectional_1", layer=one, merge_mode="concat"))
    name = "lstm_1" if cells == 1 else "bidirectional_1"
    path = write(tmp_path / "k1.h5", {name: {f"param_{n}": a for n, a in enumerate(arrays)}}, config, None)
    reading = read(path)
    same(reading.layers[0], **dict(zip(("forward", "reverse"), sides)))
    assert "the file does not say which Keras wrote it: Keras 1 has such names of arrays" in reading.notes


def test_keras_1_weights_alone(tmp_path: Path) -> None:
    f, b, g = truth("lstm", 12), truth("lstm", 13), truth("gru", 14)
    arrays = {
        "bidirectional_1": {**keras1(f, "forward_lstm_1"), **keras1(b, "backward_lstm_1")},
        "gru_1": keras1(g, "gru_1", "gru"),
        "dense_1": DENSE_ARRAYS,
    }
    reading = read(write(tmp_path / "w.h5", arrays, version=None, whole=False))
    both, gru = reading.layers
    same(both, forward=f, reverse=b)
    same(gru, forward=g)
    assert (both.spec.activation("gate"), gru.spec.activation("gate"), gru.spec.reset_after) == (HARD, HARD, False)
    assert reading.notes[1:3] == tuple(
        f"{path}: assumed, since the file has no config of it: activation tanh, recurrent_activation hard_sigmoid, "
        f"{how} (the defaults of Keras 1)"
        for path, how in (("bidirectional_1", "outputs merged by concat"), ("gru_1", "forward in time"))
    )


# ---- Keras 2


def test_keras_2_hard_sigmoid_is_noted_and_a_default_too(tmp_path: Path) -> None:
    w = truth("gru", 20)
    said = node("GRU", "gru_1", units=HIDDEN, activation="tanh")
    reading = read(write(tmp_path / "k2.h5", {"gru_1": keras2(w, "gru_1", "gru")}, sequential(said), "2.0.8"))
    [layer] = reading.layers
    same(layer, forward=w)
    assert layer.spec.activation("gate") == HARD
    assert not layer.spec.reset_after
    assert reading.notes == (
        f"written by Keras 2.0.8: {ERA}",
        "gru_1: its config does not say reset_after: False, the default of Keras 2.0.8",
        "gru_1: its config does not say recurrent_activation: hard_sigmoid, the default of Keras 2.0.8",
    )


def test_keras_2_on_theano_with_names_that_come_twice(tmp_path: Path) -> None:
    f, b = truth("lstm", 21), truth("lstm", 22)
    first, second = fused_arrays(f, "lstm"), fused_arrays(b, "lstm")
    arrays = {f"bi_1/{name}": array for name, array in first.items()}
    arrays |= {f"bi_1/{name}_1": array for name, array in second.items()}
    config = sequential(node("Bidirectional", "bi_1", layer=new_lstm("lstm_1"), merge_mode="ave"))
    [layer] = read(write(tmp_path / "k2.h5", {"bi_1": arrays}, config, "2.0.4")).layers
    same(layer, forward=f, reverse=b)


def test_keras_2_list_of_layers_with_others_of_unknown_classes(tmp_path: Path) -> None:
    w, inner = truth("lstm", 23), truth("lstm", 24)
    config = sequential(
        node("Embedding", "embedding_1", input_dim=9, output_dim=INPUT, mask_zero=True),
        new_lstm("lstm_1", return_sequences=True),
        node("AttentionWeightedAverage", "attention", return_attention=False),
        node("TimeDistributed", "td", layer=new_lstm("lstm_2")),
    )
    arrays = {
        "embedding_1": {"embedding_1/embeddings:0": np.ones((9, INPUT), "f4")},
        "lstm_1": keras2(w, "lstm_1"),
        "attention": {f"attention/{name}:0": np.ones((3, n)) for name, n in (("attention_W", 1), ("W", 3), ("U", 3))},
        "td": keras2(inner, "td/lstm_2"),
    }  # fmt: skip
    reading = read(write(tmp_path / "k2.h5", arrays, config, "2.2.4"))
    assert [layer.path for layer in reading.layers] == ["lstm_1", "td.lstm_2"]
    same(reading.layers[0], forward=w)
    same(reading.layers[1], forward=inner)
    assert any("masks time steps" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("strange", "arrays", "words"),
    [
        (node("AttentionLSTM", "odd"), {"odd/W_x:0": np.ones((2, 2))}, "AttentionLSTM 'odd': it looks recurrent"),
        (node("Special", "odd"), keras2(truth("gru", 25), "odd", "gru"), "Special 'odd': it looks recurrent"),
        (node("Special", "odd"), keras1(truth("lstm", 26), "odd"), "Special 'odd': it looks recurrent"),
        (node("ConvLSTM2D", "odd", filters=2), {}, "'ConvLSTM2D' is not understood"),
        (
            node("RNN", "odd", cell=node("MyCell", "c")),
            keras2(truth("rnn", 27), "odd", "rnn"),
            "'MyCell' is not understood",
        ),
    ],
)
def test_keras_2_layer_that_looks_recurrent_is_refused_by_name(
    strange: Any, arrays: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    w = truth("lstm", 28)
    layers = {"odd": arrays or {"odd/kernel:0": np.ones((2, 2))}, "lstm_1": keras2(w, "lstm_1")}
    path = write(tmp_path / "k2.h5", layers, sequential(strange, new_lstm("lstm_1")))
    with pytest.raises(Unsupported, match=words) as caught:
        read(path)
    assert "pick them" in str(caught.value) or "MyCell" in str(caught.value)
    [layer] = read(path, only=("lstm_1",)).layers  # as the message says
    same(layer, forward=w)


def test_keras_2_peephole_arrays_beside_a_cells_are_too_many(tmp_path: Path) -> None:
    arrays = {**keras2(truth("lstm", 29), "l"), "l/input_gate_peephole_weights:0": np.ones(HIDDEN, "f4")}
    with pytest.raises(LayoutError, match="input_gate_peephole_weights"):
        read(write(tmp_path / "k2.h5", {"l": arrays}, sequential(new_lstm("l"))))


def test_keras_2_functional_model_of_two_branches(tmp_path: Path) -> None:
    one, two, top = truth("lstm", 30), truth("gru", 31), truth("rnn", 32, inputs=HIDDEN)
    layers = [
        node("InputLayer", "x", batch_input_shape=[None, None, INPUT]) | {"name": "x", "inbound_nodes": []},
        new_lstm("a", return_sequences=True) | {"name": "a", "inbound_nodes": [[["x", 0, 0, {}]]]},
        new_lstm("b", "GRU", reset_after=False) | {"name": "b", "inbound_nodes": [[["x", 0, 0, {}]]]},
        new_lstm("c", "SimpleRNN") | {"name": "c", "inbound_nodes": [[["a", 0, 0, {}]]]},
    ]
    model = {
        "name": "model_1",
        "layers": layers,
        "input_layers": [["x", 0, 0]],
        "output_layers": [["b", 0, 0], ["c", 0, 0]],
    }
    arrays = {"x": {}, "a": keras2(one, "a"), "b": keras2(two, "b", "gru"), "c": keras2(top, "c", "rnn")}
    found = {
        layer.path: layer
        for layer in read(write(tmp_path / "k2.h5", arrays, {"class_name": "Model", "config": model}, "2.3.1")).layers
    }
    for name, w in (("a", one), ("b", two), ("c", top)):
        same(found[name], forward=w)
    assert [found[name].after for name in "abc"] == [None, None, "a"]


# ---- CuDNNLSTM and CuDNNGRU


@pytest.mark.parametrize("version", ["2.1.5", "2.2.4-tf"])
@pytest.mark.parametrize(("kind", "cell"), [("CuDNNLSTM", "lstm"), ("CuDNNGRU", "gru")])
def test_cudnn_layer_of_a_keras_2_model(kind: str, cell: str, version: str, tmp_path: Path) -> None:
    w = truth(cell, 40, biases=2)
    config = sequential(new_lstm("c_1", kind, return_sequences=True))
    reading = read(write(tmp_path / "cudnn.h5", {"c_1": cudnn(w, "c_1", cell)}, config, version))
    [layer] = reading.layers
    same(layer, forward=w)
    assert (layer.spec.bias, layer.spec.reset_after, layer.spec.activation("gate")) == ("dual", True, SIGMOID)
    assert reading.notes == ()


def test_cudnn_layer_of_a_keras_2_bidirectional(tmp_path: Path) -> None:
    f, b = truth("gru", 41, biases=2), truth("gru", 42, biases=2)
    config = sequential(node("Bidirectional", "bi", layer=new_lstm("g", "CuDNNGRU"), merge_mode="mul"))
    arrays = {**cudnn(f, "bi/forward_g", "gru"), **cudnn(b, "bi/backward_g", "gru")}
    [layer] = read(write(tmp_path / "cudnn.h5", {"bi": arrays}, config, "2.2.0")).layers
    same(layer, forward=f, reverse=b)
    assert layer.spec.merge == "mul"


def test_cudnn_weights_alone_of_keras_2(tmp_path: Path) -> None:
    w, f, b = truth("lstm", 43, biases=2), truth("gru", 44, biases=2), truth("gru", 45, biases=2)
    arrays = {
        "rnn_1": cudnn(w, "rnn_1"),
        "bi": {**cudnn(f, "bi/forward_g", "gru"), **cudnn(b, "bi/backward_g", "gru")},
        "output": {"output/kernel:0": np.ones((4, 4), "f4"), "output/bias:0": np.ones(4, "f4")},
    }
    reading = read(write(tmp_path / "w.hdf5", arrays, version="2.1.5", whole=False))
    one, both = reading.layers
    same(one, forward=w)
    same(both, forward=f, reverse=b)
    assert [one.metadata["class"], both.spec.activation("gate")] == ["keras.layers.CuDNNLSTM", SIGMOID]
    assert [note.partition(":")[0] for note in reading.notes if "assumed" in note] == ["rnn_1", "bi"]


def test_cudnn_weights_in_a_config_of_plain_layers(tmp_path: Path) -> None:
    w, g = truth("lstm", 46, biases=2), truth("gru", 47, biases=2)
    plain = new_lstm("l")
    plain["config"]["recurrent_activation"] = "sigmoid"
    path = write(tmp_path / "w.h5", {"l": cudnn(w, "l")}, version="2.1.5", whole=False)
    (tmp_path / "w.json").write_text(json.dumps(sequential(plain)))
    [layer] = read(path).layers
    same(layer, forward=w)
    before = write(tmp_path / "g.h5", {"g": cudnn(g, "g", "gru")}, sequential(new_lstm("g", "GRU", reset_after=False)))
    with pytest.raises(LayoutError, match="which resets after"):
        read(before)


def test_cudnn_config_with_the_weights_of_a_plain_layer(tmp_path: Path) -> None:
    w = truth("lstm", 48)
    path = write(tmp_path / "k2.h5", {"l": keras2(w, "l")}, sequential(new_lstm("l", "CuDNNLSTM")))
    [layer] = read(path).layers
    same(layer, forward=w)
    assert (layer.spec.bias, layer.spec.activation("gate")) == ("single", SIGMOID)


def test_cudnn_in_one_direction_only_is_refused(tmp_path: Path) -> None:
    config = sequential(node("Bidirectional", "bi", layer=new_lstm("l", "CuDNNLSTM"), merge_mode="concat"))
    arrays = {**cudnn(truth("lstm", 49, biases=2), "bi/forward_l"), **keras2(truth("lstm", 50), "bi/backward_l")}
    with pytest.raises(LayoutError, match="one direction are a CuDNN layer's"):
        read(write(tmp_path / "k2.h5", {"bi": arrays}, config))


# ---- weights without a config


@pytest.mark.parametrize(
    ("version", "gate"),
    [
        ("2.1.3", HARD),
        ("2.2.5", HARD),
        ("2.3.1", SIGMOID),
        ("2.1.6-tf", HARD),
        ("2.3.0-tf", SIGMOID),
        ("2.5.0", SIGMOID),
    ],
)
def test_keras_2_weights_alone_have_the_defaults_of_their_version(
    version: str, gate: Activation, tmp_path: Path
) -> None:
    w, g = truth("lstm", 60), truth("gru", 61, biases=2)
    layers = {"lstm": keras2(w, "lstm/lstm_cell_3"), "gru_7": keras2(g, "gru_7/gru_cell", "gru")}
    reading = read(write(tmp_path / "w.h5", layers, version=version, whole=False))
    lstm, gru = reading.layers
    same(lstm, forward=w)
    same(gru, forward=g)
    assert (lstm.spec.activation("gate"), gru.spec.reset_after) == (gate, True)
    expected = f"lstm: assumed, since the file has no config of it: activation tanh, recurrent_activation {gate.name}"
    assert any(note.startswith(expected) and f"Keras {version}" in note for note in reading.notes)
    assert (f"written by Keras {version}: {ERA}" in reading.notes) == (gate == HARD)


def test_tensorflow_versions_that_do_not_tell_the_default_are_asked_about(tmp_path: Path) -> None:
    w = truth("lstm", 62)
    path = write(tmp_path / "w.h5", {"l": keras2(w, "l")}, version="2.2.4-tf", whole=False)
    with pytest.raises(Ambiguous, match=r"does not tell the recurrent_activation(.|\n)*--config"):
        read(path)
    (tmp_path / "other.json").write_text(json.dumps(sequential(new_lstm("l"))))
    reading = read(path, config=str(tmp_path / "other.json"))
    same(reading.layers[0], forward=w)
    assert reading.layers[0].spec.activation("gate") == HARD
    assert "the config is that of other.json" in reading.notes


def test_keras_2_weights_alone_of_a_gru_without_a_bias(tmp_path: Path) -> None:
    w = truth("gru", 63, biases=0)
    path = write(tmp_path / "w.h5", {"g": keras2(w, "g", "gru")}, version="2.4.0", whole=False)
    with pytest.raises(Ambiguous, match="do not tell reset_after"):
        read(path)
    for after in (True, False):
        [layer] = read(path, reset_after=after).layers
        same(layer, forward=w)
        assert (layer.spec.reset_after, layer.spec.bias) == (after, "none")


def test_keras_2_weights_alone_of_models_in_models_stacks_and_rnns(tmp_path: Path) -> None:
    one, two, low, high, rnn = (truth(c, 64 + n, inputs=i) for n, (c, i) in enumerate(
        [("lstm", INPUT), ("lstm", HIDDEN), ("gru", INPUT), ("gru", HIDDEN), ("rnn", INPUT)]))  # fmt: skip
    layers = {
        "model_1": {**keras2(one, "lstm_1"), **keras2(two, "lstm_2")},
        "rnn": {**keras2(low, "rnn/gru_cell", "gru"), **keras2(high, "rnn/gru_cell_1", "gru")},
        "simple": keras2(rnn, "simple/simple_rnn_cell", "rnn"),
        "top": {"top/kernel:0": np.ones((HIDDEN, HIDDEN), "f4")},
    }
    path = write(tmp_path / "w.h5", layers, version="2.4.0", whole=False)
    found = read(path, nonlinearity="relu").layers
    assert [layer.label for layer in found] == ["model_1.lstm_1", "model_1.lstm_2", "rnn.l0", "rnn.l1", "simple"]
    for layer, w in zip(found, (one, two, low, high, rnn), strict=True):
        same(layer, forward=w)
    assert found[-1].spec.activations == (Activation("relu"),)
    assert found[3].after == "rnn.l0"


def test_weights_alone_whose_names_do_not_tell_cells_apart_are_asked_about(tmp_path: Path) -> None:
    arrays = {f"bi/{n}{again}": a for again in ("", "_1") for n, a in fused_arrays(truth("lstm", 70), "lstm").items()}
    with pytest.raises(Ambiguous, match="bi holds 2 cells"):
        read(write(tmp_path / "w.h5", {"bi": arrays}, version="2.1.0", whole=False))


def test_the_configs_own_version_says_what_its_words_mean(tmp_path: Path) -> None:
    w = truth("lstm", 71)
    path = write(tmp_path / "w.h5", {"l": keras2(w, "l")}, version="2.1.3", whole=False)
    new = {"module": "keras", **sequential(new_lstm("l"))}
    (tmp_path / "new.json").write_text(json.dumps(new))
    reading = read(path, config=str(tmp_path / "new.json"))
    assert reading.layers[0].spec.activation("gate") == OTHER_HARD
    assert any(note.startswith("the weights are of Keras 2.1.3, the config of Keras 3") for note in reading.notes)


# ---- a config, and its weights beside it


@pytest.mark.parametrize("weights", ["model.h5", "model_weights.h5", "model.hdf5", "weights.h5"])
@pytest.mark.parametrize("version", ["1.2.2", "2.1.3"])
def test_json_finds_its_weights(version: str, weights: str, tmp_path: Path) -> None:
    w = truth("lstm", 80)
    old = version.startswith("1")
    arrays = keras1(w, "l") if old else keras2(w, "l")
    write(tmp_path / weights, {"l": arrays}, version=None if old else version, whole=False)
    config = {**sequential((old_lstm if old else new_lstm)("l")), "keras_version": version, "backend": "theano"}
    (tmp_path / "model.json").write_text(json.dumps(config))
    reading = read_all(tmp_path / "model.json")
    same(reading.layers[0], forward=w)
    assert reading.notes == (f"the weights are those of {weights}, beside it", f"written by Keras {version}: {ERA}")
    [same_layer] = read(tmp_path / weights).layers if weights.startswith("model") else reading.layers
    assert same_layer.spec == reading.layers[0].spec


def test_a_config_and_its_weights_are_one_source_of_a_job(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("a.h5", "a.json", "b_architecture.json", "b_weights.h5", "log.json", "model.h5"):
        (old / name).write_text(name)

    def sources(*include: str) -> dict[str, tuple[str, ...]]:
        job = Job(source=str(old), destination=str(tmp_path / "new"), to="torch", include=include)
        return {task.source: task.files[1:] for task in plan(job, Place(job.source), Place(job.destination))}

    assert sources() == {"a.h5": ("a.json",), "b_weights.h5": (), "model.h5": ()}
    assert sources("*.json") == {"a.json": ("a.h5",), "b_architecture.json": ("b_weights.h5",), "log.json": ()}
    assert sources("*") == {
        "a.h5": ("a.json",),
        "b_architecture.json": ("b_weights.h5",),
        "log.json": (),
        "model.h5": (),
    }


def test_json_with_several_weights_asks(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(sequential(new_lstm("l"))))
    with pytest.raises(FileError, match="no weights beside it"):
        read(tmp_path / "model.json")
    for name in ("model.h5", "model_weights.h5"):
        write(tmp_path / name, {"l": keras2(truth("lstm", 81), "l")}, whole=False)
    with pytest.raises(Ambiguous, match=r"model\.h5, model_weights\.h5(.|\n)*config=model\.json"):
        read(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        ("[1, 2]", "not a model's"),
        ('{"modelTopology": {}, "weightsManifest": []}', "TensorFlow.js"),
        ('{"metadata": {}, "weight_map": {"a": "b"}}', "sharded checkpoint"),
        ('{"class_name": "Sequential", "config": {"layers": 3}}', "is damaged"),
        (b"\xff\xfe{", "not a readable JSON file"),
    ],
)
def test_json_that_is_no_config(text: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match=words) as caught:
        read(path)
    assert "model.json" in str(caught.value)


def test_a_json_beside_that_is_something_else_is_passed_over(tmp_path: Path) -> None:
    w = truth("lstm", 82)
    path = write(tmp_path / "w.h5", {"l": keras2(w, "l")}, version="2.1.3", whole=False)
    (tmp_path / "w.json").write_text('{"verdict": "exact"}')
    same(read(path).layers[0], forward=w)


def test_json_is_read_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="json"):
        lstmbridge.convert(Layer.from_gates(kernel={"n": np.ones((1, 1))}, recurrent_kernel={"n": np.ones((1, 1))}),
                           path=tmp_path / "model.json")  # fmt: skip


# ---- the tests themselves


def _swapped_gates() -> tuple[Any, str, Any]:
    lines = [(line.key, line.text) for line in layout.KERAS1_LAYOUTS["lstm"].lines]
    wrong = Layout("i g f o", *lines, gate_names={"g": "f", "f": "c"})
    return nodes, "KERAS1_LAYOUTS", {**layout.KERAS1_LAYOUTS, "lstm": wrong}


def _transposed_kernel() -> tuple[Any, str, Any]:
    def plain(arrays: Any, who: str) -> Any:
        right = cudnn_arrays_plain(arrays, who)
        return {**right, "kernel": arrays["kernel"]}

    cudnn_arrays_plain = cudnn_arrays.plain
    return cudnn_arrays, "plain", plain


def _recurrent_as_it_is() -> tuple[Any, str, Any]:
    def plain(arrays: Any, who: str) -> Any:
        return {**cudnn_arrays_plain(arrays, who), "recurrent_kernel": arrays["recurrent_kernel"]}

    cudnn_arrays_plain = cudnn_arrays.plain
    return cudnn_arrays, "plain", plain


def _biases_swapped() -> tuple[Any, str, Any]:
    def plain(arrays: Any, who: str) -> Any:
        right = cudnn_arrays_plain(arrays, who)
        return {**right, "bias": right["bias"][::-1]}

    cudnn_arrays_plain = cudnn_arrays.plain
    return cudnn_arrays, "plain", plain


@pytest.mark.parametrize("mutant", [_swapped_gates, _transposed_kernel, _recurrent_as_it_is, _biases_swapped])
def test_a_wrong_reading_is_noticed(mutant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*mutant())
    with pytest.raises(AssertionError):
        if mutant is _swapped_gates:
            test_keras_1_model_with_an_array_a_gate("LSTM", "lstm", "", tmp_path)
        else:
            test_cudnn_layer_of_a_keras_2_model("CuDNNLSTM", "lstm", "2.1.5", tmp_path)


# ---- damaged files


def damaged(tmp_path: Path, change: Callable[[h5py.File], None]) -> Path:
    path = write(tmp_path / "bad.h5", {"l": keras1(truth("lstm", 90), "l")}, sequential(old_lstm("l")), "1.2.2")
    with h5py.File(path, "r+") as file:
        change(file["model_weights"])
    return path


def _rename(group: h5py.Group) -> None:
    group["l"].attrs["weight_names"] = np.array([b"l_W_i"] * 12)


def _transpose(group: h5py.Group) -> None:
    array = group["l/l_W_f"][()]
    del group["l/l_W_f"]
    group["l/l_W_f"] = array.T


def _lose(group: h5py.Group) -> None:
    del group["l/l_U_c"]


def _lose_group(group: h5py.Group) -> None:
    del group["l"]


def _forget(group: h5py.Group) -> None:
    group["l"].attrs["weight_names"] = group["l"].attrs["weight_names"][:-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rename, "lists W_i of 'l' twice"),
        (_transpose, "forward.W_f has shape"),
        (_lose, "'l_U_c', which is not there"),
        (_lose_group, "no arrays of 'l'"),
        (_forget, "missing: forward.b_o"),
    ],
)
def test_keras_1_files_that_are_damaged(change: Callable[[h5py.Group], None], words: str, tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=re.escape(words)) as caught:
        read(damaged(tmp_path, change))
    assert "bad.h5" in str(caught.value)


@pytest.mark.parametrize("units", [0, -1, "seven", None, True, 1 << 40])
def test_keras_1_units_that_are_no_size_or_another(units: Any, tmp_path: Path) -> None:
    one = old_lstm("l")
    one["config"]["output_dim"] = units
    with pytest.raises(BridgeError, match="bad"):
        lstmbridge.read(write(tmp_path / "bad.h5", {"l": keras1(truth("lstm", 91), "l")}, sequential(one), "1.2.2"))


def test_a_superblock_with_driver_information_that_claims_gigabytes(tmp_path: Path) -> None:
    """One that atheris found: 13 kB, for which HDF5 1.14.6 takes 4 GiB."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(3)
    data = bytearray(path.read_bytes())
    assert data[8] == 0
    assert data[48:56] == b"\xff" * 8
    data[48:56] = (2048).to_bytes(8, "little")
    for number, block in enumerate([bytes(data), bytes(512) + bytes(data)]):
        damaged_file = tmp_path / f"{number}.h5"
        damaged_file.write_bytes(block)
        with pytest.raises(FileError, match="driver information, which Keras never has"):
            read(damaged_file)


@pytest.mark.parametrize("form", [{}, {"libver": "latest"}, {"track_order": True}, {"userblock_size": 512}])
def test_a_text_in_an_attribute_that_claims_gigabytes(form: dict[str, Any], tmp_path: Path) -> None:
    """Another that atheris found: a length of 4 GiB, for which HDF5 1.14.6 takes 4 GiB."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w", **form) as file:
        group = file.create_group("model_weights", track_order=form.get("track_order"))
        group.attrs["layer_names"] = ["a" * 77, "b" * 78]
        group.attrs["keras_version"] = "2.2.4"
    with open_store(path) as store:
        assert store.names("model_weights", "layer_names") == ["a" * 77, "b" * 78]
        assert store.attribute("model_weights", "keras_version") == "2.2.4"
    data = path.read_bytes()
    heap = struct.pack("<Q", data.find(b"GCOL") - form.get("userblock_size", 0))
    assert data.count(struct.pack("<I", 78) + heap) == 1
    path.write_bytes(data.replace(struct.pack("<I", 78) + heap, struct.pack("<I", 2**32 - 1) + heap))
    newer = "libver" in form or "track_order" in form  # those forms have a checksum, and HDF5 looks at it
    words = "incorrect metadata checksum" if newer else "attribute 'layer_names' claims 4294967372 bytes of texts"
    with pytest.raises(FileError, match=words):
        read(path)


def test_attributes_that_are_kept_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(40):
            file.attrs[f"layer_names{number}"] = "x"
    with pytest.raises(FileError, match="kept as Keras keeps none"):
        read(path)


def test_a_heap_of_texts_that_the_hdf5_library_never_gets_past(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.h5", {"l": keras1(truth("lstm", 92), "l")}, sequential(old_lstm("l")), "1.2.2")
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL\x01")
    first = heap + 16
    assert int.from_bytes(content[first : first + 2], "little") == 1
    content[first : first + 16] = bytes(16)  # the free rest, of size 0
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"bad.h5.*damaged(.|\n)*without end at {heap}"):
        read(path)


# ---- live


def test_a_model_of_old_is_run_by_the_reference(tmp_path: Path) -> None:
    w = truth("lstm", 95)
    path = write(tmp_path / "k1.h5", {"l": keras1(w, "l")}, sequential(old_lstm("l")), "1.2.2")
    layers = lstmbridge.read(path)
    agreement = lstmbridge.check(path, layers[0])
    assert agreement.agrees
    assert agreement.a == "keras (by the reference)"
    assert any("written by Keras 1.2.2, which Keras 3" in note for note in agreement.notes)
    from lstmbridge.frameworks.keras import live

    with pytest.raises(MissingFramework, match=r"written by Keras 1\.2\.2, which Keras 3\.\d+"):
        live.load(path, ReadOptions())


def test_a_model_that_says_keras_3_and_does_not_load_stays_an_error(tmp_path: Path) -> None:
    w = truth("lstm", 96)
    config = sequential(new_lstm("l"), node("Strange", "s"))
    path = write(tmp_path / "k3.h5", {"l": keras2(w, "l"), "s": {}}, config, "3.2.0")
    with pytest.raises(FileError, match="does not load it"):
        lstmbridge.check(path, lstmbridge.read(path)[0])


# ---- what tf_keras writes and runs


@pytest.fixture(scope="module")
def by_tf_keras(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, np.ndarray]]:
    """A folder of files by tf_keras, and what their layers give: see tf_keras_files.py."""
    pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    folder = tmp_path_factory.mktemp("tf_keras")
    command = [sys.executable, str(Path(__file__).parent / "tf_keras_files.py"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(folder / "outputs.npz") as stored:
        return folder, dict(stored)


#: What tf_keras writes of one model: whole, and weights with the config beside, given, or in the place of the weights.
FORMATS = (
    "{}.h5",
    "{}.keras",
    "{}_json/{}.weights.h5",
    "{}_json/{}.json",
    "{}_legacy/{}_weights.h5",
    "{}_legacy/{}.json",
)
MODELS = {
    "modern": {
        "both": ("lstm", (HARD, TANH, TANH), "ave", False),
        "back": ("gru", (HARD, TANH), "concat", False),
        "deep.after": ("gru", (SIGMOID, TANH), "concat", True),
        "plain": ("rnn", (Activation("relu"),), "concat", True),
        "last": ("lstm", (SIGMOID, Activation("silu"), Activation("silu")), "concat", True),
    },
    "first": {
        "lstm": ("lstm", (HARD, TANH, TANH), "concat", True),
        "gru": ("gru", (HARD, TANH), "concat", False),
    },
}


def gives(layer: Layer, model: str, outputs: Mapping[str, np.ndarray]) -> None:
    """Asserts that the equations give what tf_keras gave for this layer: all outputs and the last states."""
    start = f"{model}|{layer.path}|"
    given = [array for name, array in outputs.items() if name.startswith(start) and not name.endswith("|x")]
    found = reference.run(layer, outputs[f"{start}x"])
    states = [
        each for d in range(len(found.h)) for each in ([found.h[d]] if found.c is None else [found.h[d], found.c[d]])
    ]
    assert len(given) == 1 + len(states)
    for n, (a, b) in enumerate(zip(given, (found.y, *states), strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=f"{layer.path} {n}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_tf_keras_file_is_read_as_it_runs(
    model: str, form: str, by_tf_keras: tuple[Path, Mapping[str, np.ndarray]]
) -> None:
    folder, outputs = by_tf_keras
    path = folder / form.replace("{}", model)
    reading = read(path)
    found = {layer.path: layer for layer in reading.layers}
    assert set(found) == set(MODELS[model])
    for name, (cell, activations, merge, after) in MODELS[model].items():
        spec = found[name].spec
        assert (spec.cell, spec.activations, spec.merge) == (cell, activations, merge)
        assert cell != "gru" or spec.reset_after == after
        gives(found[name], model, outputs)
    assert any(ERA in note for note in reading.notes)
    chain = {"both": None, "back": None, "deep.after": "both", "plain": "deep.after", "last": "back"}
    expected = chain if model == "modern" else {"lstm": None, "gru": None}  # a Dense layer stands between them
    assert {name: layer.after for name, layer in found.items()} == expected


@pytest.mark.parametrize("model", MODELS)
def test_tf_keras_weights_given_a_config(
    model: str, by_tf_keras: tuple[Path, Mapping[str, np.ndarray]], tmp_path: Path
) -> None:
    folder, outputs = by_tf_keras
    for place in ("json", "legacy"):
        suffix = {"json": ".weights.h5", "legacy": "_weights.h5"}[place]
        alone = Path(shutil.copy(folder / f"{model}_{place}" / f"{model}{suffix}", tmp_path / f"{place}.weights.h5"))
        reading = read(alone, config=str(folder / f"{model}_{place}" / f"{model}.json"))
        assert f"the config is that of {model}.json" in reading.notes
        for layer in reading.layers:
            gives(layer, model, outputs)


def test_tf_keras_weights_alone_have_the_same_numbers(by_tf_keras: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = by_tf_keras
    known = {layer.path: layer for layer in read(folder / "modern.h5").layers}
    alone = Path(shutil.copy(folder / "modern_legacy" / "modern_weights.h5", tmp_path / "alone.h5"))
    found = read(alone).layers
    assert sorted(layer.path for layer in found) == sorted(known)
    for layer in found:
        numbers = {name.replace("reverse", "forward"): known[layer.path][name] for name in known[layer.path]}
        if layer.spec.bidirectional:
            numbers = dict(known[layer.path].weights)
        same(
            layer,
            **{
                d: {n.partition(".")[2]: a for n, a in numbers.items() if n.startswith(d)}
                for d in layer.spec.directions
            },
        )


@pytest.mark.parametrize("name", ["cudnn.h5", "cudnn_weights.h5", "cudnn.keras"])
def test_cudnn_file_is_read_as_tf_keras_converts_it(
    name: str, by_tf_keras: tuple[Path, Mapping[str, np.ndarray]]
) -> None:
    folder, outputs = by_tf_keras
    found = read(folder / name).layers
    plain = read(folder / "plain.h5").layers
    assert [layer.path for layer in found] == ["one", "two"]
    for layer, other in zip(found, plain, strict=True):
        assert layer.spec.bias == "dual"
        assert layer.spec.activation("gate") == SIGMOID
        gives(layer, "cudnn", outputs)
        lstm = layer.spec.cell == "lstm"
        for weight in other:
            merged = lstm and ".bias." in weight
            own = layer[weight] + layer[weight.replace("bias", "recurrent_bias")] if merged else layer[weight]
            np.testing.assert_array_equal(own, other[weight], err_msg=weight)


def test_cudnn_weights_of_tf_keras_in_the_format_of_keras_3_without_a_config(by_tf_keras: tuple[Path, Any]) -> None:
    folder, _ = by_tf_keras
    known = {layer.spec.cell: layer for layer in read(folder / "cudnn.h5").layers}
    reading = read(folder / "cudnn.weights.h5")
    assert sorted(layer.spec.cell for layer in reading.layers) == ["gru", "lstm"]
    for layer in reading.layers:
        assert layer.spec == known[layer.spec.cell].spec
        for name, array in known[layer.spec.cell].weights.items():
            np.testing.assert_array_equal(layer[name], array, err_msg=name)
    assert all("assumed" in note for note in reading.notes)


def test_tf_keras_archive_of_2_12_with_its_own_names_of_groups(
    by_tf_keras: tuple[Path, Mapping[str, np.ndarray]], tmp_path: Path
) -> None:
    folder, outputs = by_tf_keras
    path = tmp_path / "old.keras"
    with zipfile.ZipFile(folder / "modern.keras") as source, zipfile.ZipFile(path, "w") as archive:
        inner = Path(source.extract("model.weights.h5", tmp_path))
        with h5py.File(inner, "r+") as file:
            for group in ("layers/sequential", ""):  # the inner model before the outer one
                found = file[group] if group else file
                found.move("layers", "_layer_checkpoint_dependencies")
        for name in source.namelist():
            text = source.read(name).replace(b'"2.21.0"', b'"2.12.0"') if name == "metadata.json" else source.read(name)
            archive.writestr(name, inner.read_bytes() if name == "model.weights.h5" else text)
    reading = read(path)
    assert len(reading.layers) == len(MODELS["modern"])
    for layer in reading.layers:
        gives(layer, "modern", outputs)
    assert f"written by Keras 2.12.0: {ERA}" in reading.notes


def test_tf_keras_archive_is_no_file_of_keras_3(by_tf_keras: tuple[Path, Any]) -> None:
    from lstmbridge.frameworks.keras import live

    with pytest.raises(MissingFramework, match=r"written by Keras 2\.\d+"):
        live.load(by_tf_keras[0] / "modern.keras", ReadOptions())
