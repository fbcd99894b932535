"""Keras: objects on its three backends, and files, against the equations and against Keras' own saving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import lstmbridge
from helpers import BATCH, HIDDEN, INPUT, layer_of, same_weights, sequences
from lstmbridge import Layer, Spec, reference
from lstmbridge.contract import ReadOptions, WriteOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, MissingFramework, UnknownName, Unsupported
from lstmbridge.fit import fit, refusals
from lstmbridge.frameworks.keras import files
from lstmbridge.frameworks.keras.layout import HOLDS, LAYOUTS, activation_config, dialect
from lstmbridge.notation import Layout
from lstmbridge.spec import Activation

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
import keras_grid as grid  # noqa: E402
from keras import layers as kl  # noqa: E402

from lstmbridge.frameworks.keras import live  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="KERAS_BACKEND is not tensorflow"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

READ, WRITE = ReadOptions(), WriteOptions()
BACKENDS = {"torch": 3, "jax": 9}
BOUND = {"float64": 1e-12, "float32": 2e-6, "float16": 4e-3, "bfloat16": 4e-2}
SUFFIXES = (".keras", ".h5", ".weights.h5")
SPECS = [*grid.stock(), *grid.unheld()]
MODELS = 8


def target(path: str, features: int, units: int, after: str | None = None, cell: str = "lstm", **fields: Any) -> Any:
    """A fitted layer under a path."""
    spec = grid.spec(cell, input_size=features, hidden_size=units, **fields)
    return grid.fitted(layer_of(spec, seed=sum(map(ord, path)), path=path, after=after))


#: What several layers become: chains, branches, models inside models. Equal sizes, so that a mix-up would load.
SEVERAL = {
    "chain": [target("enc.a", 5, 5), target("enc.b", 5, 5, "enc.a"), target("dec", 5, 3, "enc.b", "gru")],
    "apart": [target("z", 5, 5), target("a", 5, 5), target("b", 5, 5, "a"), target("c", 5, 5, "b")],
    "branch": [target("m.x", 5, 5), target("m.y", 5, 5), target("n.p", 5, 5, "m.y"), target("n.q", 5, 5, "m.x")],
    "deep": [target("q.a.x", 5, 5), target("q.a.y", 5, 5, "q.a.x"), target("q.b", 5, 5, "q.a.y", "rnn")],
    "faithful": [grid.fitted(layer_of(spec, path=f"f{n}")) for n, spec in enumerate(grid.unheld())],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file of each kind for each of `SEVERAL`."""
    folder = tmp_path_factory.mktemp("written")
    paths = []
    for name, targets in SEVERAL.items():
        for suffix in SUFFIXES:
            paths.append(folder / f"{name}{suffix}")
            files.write(targets, paths[-1], WRITE)
    return paths


@pytest.fixture(scope="module", autouse=True)
def processes(written: list[Path]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The grid on the other backends, started at once."""
    script = str(Path(__file__).with_name("keras_grid.py"))
    started = {}
    for backend, step in BACKENDS.items():
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        some = [str(path) for path in written if path.name in ("chain.keras", "branch.h5", "faithful.weights.h5")]
        command = [sys.executable, script, str(step), *some]
        started[backend] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


# ---- objects


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_layer_comes_back_and_agrees(spec: Spec) -> None:
    assert grid.round_trip(grid.layer_for(spec, seed=3)) <= BOUND["float32"]


@pytest.mark.parametrize("spec", SPECS[::5], ids=str)
def test_a_layer_agrees_in_float64(spec: Spec) -> None:
    """But for leaky_relu, whose slope tensorflow rounds to float32."""
    leaky = any(activation.name == "leaky_relu" for activation in spec.activations)
    assert grid.round_trip(grid.layer_for(spec, dtype="float64")) <= (1e-8 if leaky else BOUND["float64"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_layer_in_half_precision(dtype: str) -> None:
    for spec in SPECS[:20:6]:
        layer = layer_of(spec)
        half = layer.replace(weights={name: _cast(array, dtype) for name, array in layer.weights.items()})
        obj = live.build([grid.fitted(half)], WRITE)
        same_weights(live.read(obj, READ).layers[0], half)
        assert grid.agreement(obj, [half], "float32") <= BOUND[dtype]


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("n", range(MODELS))
def test_a_model_is_read_run_and_written_in_place(n: int) -> None:
    obj, labels = list(grid.models())[n]
    assert grid.of_model(obj, labels) <= BOUND["float32"]


def test_a_wrong_gate_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(grid.spec("lstm"))
    lines = [(line.key, line.text) for line in LAYOUTS["lstm"].lines]
    monkeypatch.setitem(LAYOUTS, "lstm", Layout("i g f o", *lines))  # type: ignore[arg-type]
    obj = live.build([grid.fitted(layer)], WRITE)
    assert grid.agreement(obj, [layer]) > 1e-2


def test_what_a_layer_returns_is_as_it_was_after_a_run() -> None:
    obj = kl.Bidirectional(kl.LSTM(3, stateful=True, return_sequences=False))
    obj.build((BATCH, None, INPUT))
    before = json.dumps(obj.get_config())
    layers = live.read(obj, READ).layers
    live.run(obj, layers, sequences(layers[0].spec), None, None, [2, 1])
    assert json.dumps(obj.get_config()) == before


def test_a_source_from_keras_keeps_its_config() -> None:
    source = kl.GRU(3, name="mine", dropout=0.25, return_state=True, seed=3, reset_after=False, recurrent_dropout=0.5)
    source.build((None, None, INPUT))
    [layer] = live.read(source, READ).layers
    again = live.build([grid.fitted(layer)], WRITE)
    assert json.dumps(again.get_config()) == json.dumps(source.get_config())
    changed = layer.replace(spec=layer.spec.replace(activations=("sigmoid", "relu")))
    config = live.build([grid.fitted(changed)], WRITE).get_config()
    assert (config["activation"], config["name"], config["dropout"]) == ("relu", "mine", 0.25)


def test_a_stateful_source_is_built_for_any_batch() -> None:
    source = kl.Bidirectional(kl.LSTM(3, stateful=True, return_sequences=True))
    source.build((BATCH, None, INPUT))
    reading = live.read(source, READ)
    assert "stateful" in reading.notes[0]
    again = live.build([grid.fitted(reading.layers[0])], WRITE)
    x = sequences(reading.layers[0].spec, batch=5).astype("float32")
    np.testing.assert_allclose(again(x)[0], source(x[:BATCH])[0], atol=1e-6)


def test_a_cell_becomes_a_cell_and_a_file_of_it_a_layer(tmp_path: Path) -> None:
    cell = kl.GRUCell(3)
    cell.build((None, INPUT))
    [layer] = live.read(cell, READ).layers
    assert type(live.build([grid.fitted(layer)], WRITE)) is kl.GRUCell
    files.write([grid.fitted(layer)], tmp_path / "cell.keras", WRITE)
    assert type(keras.models.load_model(tmp_path / "cell.keras").layers[0]) is kl.GRU


def test_levels_are_stacked_when_asked_for() -> None:
    levels = [
        grid.fitted(layer_of(grid.spec("lstm"), path="rnn", level=0)),
        grid.fitted(layer_of(grid.spec("gru", input_size=HIDDEN, hidden_size=4), path="rnn", level=1, after="rnn.l0")),
    ]
    apart, stacked = live.build(levels, WRITE), live.build(levels, WriteOptions(stack=True))
    assert isinstance(stacked, kl.RNN)
    assert [each.label for each in live.read(apart, READ).layers] == ["rnn.l0", "rnn.l1"]
    for one, other in zip(live.read(apart, READ).layers, live.read(stacked, READ).layers, strict=True):
        same_weights(one, other)


def test_only_what_is_asked_for_is_read() -> None:
    model = keras.Sequential([keras.Input((None, 4, 4, 1)), kl.ConvLSTM2D(2, 2, name="conv")])
    model.add(kl.Reshape((-1, 18)))
    model.add(kl.LSTM(3, name="rnn"))
    with pytest.raises(Unsupported, match="'ConvLSTM2D' is not understood"):
        live.read(model, READ)
    assert [layer.label for layer in live.read(model, ReadOptions(only=("rnn",))).layers] == ["rnn"]
    with pytest.raises(UnknownName, match="did you mean 'rnn'"):
        live.read(model, ReadOptions(only=("rn",)))


def test_the_other_weights_are_left_alone() -> None:
    embedding = kl.Embedding(9, 5, mask_zero=True, name="e")
    model = keras.Sequential([keras.Input((None,)), embedding, kl.LSTM(3), kl.Dense(2)])
    reading = live.read(model, READ)
    assert [name.rpartition("/")[2] for name in reading.left_alone] == ["embeddings", "kernel", "bias"]
    assert reading.notes == ("e (Embedding) masks time steps: give the converted layers the lengths instead",)


class Overriding(kl.LSTM):  # type: ignore[misc]
    """A layer whose equations nobody knows."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Twice what an LSTM gives."""
        return 2 * super().call(*args, **kwargs)


class Named(kl.GRU):  # type: ignore[misc]
    """A layer with a class of its own and Keras' equations."""


def twisted(outputs: Any) -> Any:
    """An activation that nobody knows."""
    return outputs


BAD: dict[str, tuple[Callable[[], Any], type[BridgeError], str]] = {
    "unbuilt": (lambda: kl.LSTM(3), LayoutError, "not built"),
    "no recurrent layer": (lambda: keras.Sequential([keras.Input((2, 3)), kl.Dense(2)]), LayoutError, "Dense"),
    "no layer": (lambda: keras.optimizers.Adam(), Unsupported, "expected a layer or a model"),
    "activation": (lambda: kl.GRU(3, activation="gelu"), Unsupported, "'gelu' is not known"),
    "function": (lambda: kl.GRU(3, activation=twisted), Unsupported, "'twisted' is not known"),
    "layer as activation": (lambda: kl.LSTM(3, activation=kl.PReLU()), Unsupported, "is not known"),
    "limited relu": (lambda: kl.LSTM(3, activation=kl.ReLU(max_value=6)), Unsupported, "is not known"),
    "overriding": (lambda: Overriding(3), Unsupported, "overrides call of LSTM"),
    "unlike": (
        lambda: kl.Bidirectional(kl.LSTM(3), backward_layer=kl.LSTM(4, go_backwards=True)),
        Unsupported,
        "differ in units: 3 and 4",
    ),
    "mixed": (
        lambda: kl.Bidirectional(kl.GRU(3), backward_layer=kl.GRU(3, go_backwards=True, reset_after=False)),
        Unsupported,
        "differ in reset_after",
    ),
    "swapped": (
        lambda: kl.Bidirectional(kl.LSTM(3, go_backwards=True), backward_layer=kl.LSTM(3)),
        Unsupported,
        "goes backwards",
    ),
    "stacked": (lambda: kl.Bidirectional(kl.RNN([kl.LSTMCell(3), kl.LSTMCell(3)])), Unsupported, "stacked cells"),
    "convolution": (lambda: kl.ConvLSTM1D(2, 2), Unsupported, "'ConvLSTM1D' is not understood"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused_by_name(name: str) -> None:
    make, kind, words = BAD[name]
    obj = make()
    if name not in ("unbuilt", "no layer", "no recurrent layer"):
        obj.build((None, 4, INPUT))
    with pytest.raises(kind, match=words):
        live.read(obj, READ)


def test_a_class_of_its_own_with_keras_equations_is_read() -> None:
    obj = Named(3)
    obj.build((None, None, INPUT))
    assert grid.agreement(obj, live.read(obj, READ).layers) <= BOUND["float32"]


REFUSED = {
    "peepholes": Spec(cell="lstm", input_size=5, hidden_size=3, peepholes=True),
    "projection_size 2": Spec(cell="lstm", input_size=5, hidden_size=3, projection_size=2),
    "outputs of a reverse layer": Spec(cell="lstm", input_size=5, hidden_size=3, directions=("reverse",)),
    "gate activation hard_sigmoid\\(0.2, 0.5\\)": Spec(
        cell="gru", input_size=5, hidden_size=3, activations=("hard_sigmoid", "tanh")
    ),
    "candidate activation relu beside output activation tanh": Spec(
        cell="lstm", input_size=5, hidden_size=3, activations=("sigmoid", "relu", "tanh")
    ),
    "clip 2": Spec(cell="rnn", input_size=5, hidden_size=3, clip=2.0),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_layer_holds_is_refused(words: str) -> None:
    with pytest.raises(Unsupported, match=f"keras cannot express {words}"):
        fit(layer_of(REFUSED[words]), HOLDS)


def test_biases_are_fitted() -> None:
    def bias(cell: str, form: str, **fields: Any) -> tuple[str, str]:
        fitted = fit(layer_of(Spec(cell=cell, input_size=5, hidden_size=3, bias=form, **fields)), HOLDS)
        return fitted.layer.spec.bias, fitted.verdict

    assert bias("lstm", "dual") == ("single", "reparameterised")
    assert bias("gru", "single") == ("dual", "exact")
    assert bias("gru", "dual", reset_after=False) == ("single", "reparameterised")
    assert bias("rnn", "none") == ("none", "exact")


def test_an_activation_is_what_its_constants_say() -> None:
    assert activation_config(Activation("hard_sigmoid", float(np.float32(1 / 6)))) == "hard_sigmoid"
    assert activation_config(Activation("hard_sigmoid")) is None
    assert activation_config(Activation("leaky_relu", 0.2)) == "leaky_relu"
    assert activation_config(Activation("leaky_relu", -0.2)) is None
    assert not refusals(grid.with_activations("lstm", "sigmoid", Activation("elu", 2.0)), HOLDS)


# ---- files: Keras writes, we read


def structures() -> Iterator[Any]:
    """Models of every structure that Keras can save, with weights that are all different."""
    for obj, _ in list(grid.models())[1:-1]:
        yield obj if isinstance(obj, keras.Model) else keras.Sequential([keras.Input((None, INPUT)), obj])
    x = keras.Input((None, 5))
    inner = [keras.Input((None, 11)), kl.LSTM(6, return_sequences=True, name="in"), kl.Dropout(0.2)]
    y = kl.Dense(11)(kl.Bidirectional(kl.LSTM(4, return_sequences=True), name="bi")(x))
    y = keras.Sequential([*inner, kl.LSTM(7, return_sequences=True)], name="inner")(y)
    y = kl.Add()([keras.ops.add(y, y), y])
    y = kl.TimeDistributed(kl.Dense(3))(kl.RNN([kl.LSTMCell(3), kl.LSTMCell(4)], return_sequences=True)(y))
    y = kl.RNN(kl.GRUCell(3, activation=kl.LeakyReLU(negative_slope=0.3)), return_sequences=True, go_backwards=True)(y)
    back = kl.GRU(4, return_sequences=True, go_backwards=True, activation="leaky_relu", name="back")
    forth = kl.GRU(4, return_sequences=True, activation="elu")
    yield keras.Model(x, kl.Bidirectional(forth, backward_layer=back, merge_mode=None)(y))
    frozen = kl.Bidirectional(kl.LSTM(4, return_sequences=True))
    frozen.forward_layer.trainable = False
    yield keras.Sequential([keras.Input((None, 5)), frozen, kl.LSTM(3, trainable=False), kl.RepeatVector(2), kl.GRU(2)])
    two = [kl.LSTM(5, return_sequences=True) for _ in range(2)]
    part = keras.Sequential([keras.Input((None, 5)), *two], name="part")
    part.layers[0].trainable = False
    yield keras.Sequential([keras.Input((None, 5)), part, kl.LSTM(4)])
    yield keras.Sequential([keras.Input((3, 7, 5)), kl.TimeDistributed(kl.LSTM(4)), kl.GRU(3, reset_after=False)])
    shared = kl.LSTM(5, return_sequences=True, name="shared")
    x = keras.Input((None, 5))
    yield keras.Model(x, kl.GRU(4)(shared(shared(x))))
    y, *state = kl.LSTM(4, return_state=True, name="encoder")(x)
    yield keras.Model(x, kl.LSTM(4, name="decoder")(x, initial_state=state))
    yield keras.Sequential([keras.Input((None,)), kl.Embedding(9, 5, mask_zero=True), kl.LSTM(4, use_bias=False)])
    long = [kl.LSTM(5, return_sequences=True, name=f"long{n}") for n in range(3)]
    yield keras.Model(x, [kl.LSTM(5, name="short")(x), long[2](long[1](long[0](x)))])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_of_keras_is_read_as_the_object_is(suffix: str, tmp_path: Path) -> None:
    for n, model in enumerate(structures()):
        grid.fill(model, seed=n)
        path = tmp_path / f"{n}{suffix}"
        model.save(path)
        same_reading(live.read(model, READ), files.read(path, READ))


def same_reading(one: Any, other: Any) -> None:
    assert one.notes == other.notes
    assert len(one.left_alone) == len(other.left_alone)
    for a, b in zip(one.layers, other.layers, strict=True):
        same_weights(a, b)
        assert (a.label, a.after, a.metadata) == (b.label, b.after, b.metadata)


def test_a_bfloat16_file_of_keras_is_read(tmp_path: Path) -> None:
    layer = kl.LSTM(3, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model.save(tmp_path / "half.keras")
    same_reading(live.read(model, READ), files.read(tmp_path / "half.keras", READ))


def test_the_optimizers_variables_are_left_alone(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, 5)), kl.LSTM(3), kl.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.ones((2, 3, 5)), np.ones((2, 1)), verbose=0)
    for name in ("a.keras", "a.h5", "a.weights.h5"):
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        reading = files.read(tmp_path / name, READ)
        assert len(reading.layers) == 1
        assert len([each for each in reading.left_alone if "optimizer" in each]) == 12


def test_a_weights_file_tells_what_it_can(tmp_path: Path) -> None:
    model = list(grid.models())[6][0]
    grid.fill(model)
    model.save_weights(tmp_path / "w.weights.h5")
    reading = files.read(tmp_path / "w.weights.h5", READ)
    assert [layer.label for layer in reading.layers] == ["outer", "inner.deep"]
    assert all("assumed" in note and "default activations" in note for note in reading.notes)
    (tmp_path / "w.json").write_text(model.to_json())
    reading = files.read(tmp_path / "w.weights.h5", READ)
    for one, other in zip(live.read(model, READ).layers, reading.layers, strict=True):
        same_weights(one, other)
        assert (one.label, one.after) == (other.label, other.after)


def test_a_model_of_its_own_class_is_read_by_its_groups(tmp_path: Path) -> None:
    model = grid.Own()
    grid.fill(model)
    model.save(tmp_path / "own.keras")
    for path in (tmp_path / "own.keras", tmp_path / "own.weights.h5"):
        if not path.exists():
            model.save_weights(path)
        found = {layer.label: layer for layer in files.read(path, READ).layers}
        for layer in live.read(model, READ).layers:
            same_weights(found[layer.label], layer)


def test_shapes_that_do_not_tell_are_not_guessed(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((None, 5)), kl.GRU(3, use_bias=False)])
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(Ambiguous, match="do not tell reset_after"):
        files.read(tmp_path / "w.weights.h5", READ)
    model = keras.Sequential([keras.Input((None, 5)), kl.SimpleRNN(3, activation="relu")])
    model.save_weights(tmp_path / "w.weights.h5")
    [layer] = files.read(tmp_path / "w.weights.h5", ReadOptions(nonlinearity="relu")).layers
    assert layer.spec.activations == (Activation("relu"),)


# ---- files: we write, Keras loads


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_layer_loads_and_comes_back(suffix: str, tmp_path: Path) -> None:
    for n, spec in enumerate(SPECS[::4]):
        layer, path = layer_of(spec, seed=n, path="rnn"), tmp_path / f"{n}{suffix}"
        files.write([grid.fitted(layer)], path, WRITE)
        reading = files.read(path, READ)
        same_weights(reading.layers[0], layer)
        assert (reading.left_alone, reading.notes) == ((), ())
        model = live.load(path, READ)
        same_weights(live.read(model, READ).layers[0], layer)


def test_several_written_layers_load_and_agree(written: list[Path]) -> None:
    for path in written:
        if path.suffix == ".keras":
            assert grid.of_file(path) <= BOUND["float32"]
        targets = {each.layer.label: each.layer for each in SEVERAL[path.name.partition(".")[0]]}
        for layer in files.read(path, READ).layers:
            same_weights(layer, targets[layer.label])
            assert layer.after == targets[layer.label].after


def test_layers_are_paired_by_label(written: list[Path]) -> None:
    """Keras orders a graph's layers by their distance to the end, which is not the order they were given in."""
    [path] = [path for path in written if path.name == "apart.keras"]
    layers = [each.layer for each in SEVERAL["apart"]]
    assert [each.label for each in files.read(path, READ).layers] != [each.label for each in layers]
    assert lstmbridge.check(layers, path).agrees
    assert all(each.same for each in lstmbridge.diff(layers, path))


def test_a_written_chain_runs_as_a_whole(written: list[Path]) -> None:
    [path] = [path for path in written if path.name == "chain.keras"]
    layers = [each.layer for each in SEVERAL["chain"]]
    x = sequences(layers[0].spec)
    found = keras.models.load_model(path).predict(x.astype("float32"), verbose=0)
    assert np.abs(found - reference.run_stack(layers, x)[-1].y).max() <= BOUND["float32"]


def test_written_weights_load_into_a_model_built_alike(tmp_path: Path) -> None:
    targets = SEVERAL["chain"]
    model = live.build(targets, WRITE)
    files.write(targets, tmp_path / "chain.weights.h5", WRITE)
    before = live.read(model, READ).layers
    grid.fill(model)
    model.load_weights(tmp_path / "chain.weights.h5")
    for one, other in zip(live.read(model, READ).layers, before, strict=True):
        same_weights(one, other)


def test_what_the_source_returns_is_returned(tmp_path: Path) -> None:
    source = kl.LSTM(3, return_state=True, stateful=False, unroll=True, name="mine")
    source.build((None, None, 5))
    [layer] = live.read(source, READ).layers
    for suffix in (".keras", ".h5"):
        files.write([grid.fitted(layer)], tmp_path / f"a{suffix}", WRITE)
        model = keras.models.load_model(tmp_path / f"a{suffix}")
        y, h, _c = model(np.ones((2, 4, 5), "float32"))
        assert y.shape == h.shape == (2, 3)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_written_dtype_is_kept(dtype: str, tmp_path: Path) -> None:
    layer = layer_of(grid.spec("gru", directions=grid.BOTH), path="rnn")
    layer = layer.replace(weights={name: _cast(array, dtype) for name, array in layer.weights.items()})
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        if (dtype, suffix) == ("bfloat16", ".h5"):
            with pytest.raises(Unsupported, match="bfloat16 in a .h5 file"):
                files.write([grid.fitted(layer)], path, WRITE)
            continue
        files.write([grid.fitted(layer)], path, WRITE)
        same_weights(files.read(path, READ).layers[0], layer)
        same_weights(live.read(live.load(path, READ), READ).layers[0], layer)


def test_the_same_layers_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.keras", "b.keras"):
        files.write(SEVERAL["branch"], tmp_path / name, WRITE)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([("a.x", None), ("b.y", "a.x"), ("a.z", "b.y")], "cannot stand side by side"),
        ([("a", None), ("a.x", "a")], "cannot stand side by side"),
        ([("a", None), ("a", None)], "two layers are named 'a'"),
    ],
)
def test_names_that_cannot_be(paths: list[tuple[str, str | None]], words: str, tmp_path: Path) -> None:
    targets = [target(path, 5, 5, after) for path, after in paths]
    with pytest.raises(LayoutError, match=words):
        files.write(targets, tmp_path / "a.keras", WRITE)
    assert not list(tmp_path.iterdir())


def test_layers_that_do_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="gives 5 features"):
        files.write([target("a", 5, 5), target("b", 4, 3, "a")], tmp_path / "a.keras", WRITE)
    apart = target("a", 5, 5, directions=grid.BOTH, merge="none")
    with pytest.raises(Unsupported, match="two outputs are kept apart"):
        files.write([apart, target("b", 5, 3, "a")], tmp_path / "a.keras", WRITE)


# ---- Keras 2


def keras2(folder: Path, nodes: Sequence[Any], arrays: dict[str, dict[str, Any]], version: str = "2.1.3") -> Path:
    """A file as Keras 2 wrote them, of a Sequential of those layers."""
    path = folder / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": list(nodes)}).encode()
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [name.encode() for name in arrays]
        for layer, each in arrays.items():
            group = weights.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in each]
            for name, array in each.items():
                group[f"{layer}/{name}:0"] = array
    return path


def arrays_of(spec: Spec, direction: str = "forward", seed: int = 0) -> dict[str, np.ndarray]:
    """One direction's arrays of a random layer, by Keras' names."""
    layer = layer_of(spec, seed=seed)
    packed = LAYOUTS[spec.cell].pack(layer.weights, spec)
    return {key.partition(".")[2]: array for key, array in packed.items() if key.startswith(direction)}


OLD = {"units": HIDDEN, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True}


def old_bidirectional(folder: Path) -> tuple[Path, Layer]:
    hard = ("hard_sigmoid", "tanh", "tanh")
    layer = layer_of(grid.spec("lstm", directions=grid.BOTH, activations=hard))
    node = {"class_name": "LSTM", "config": {"name": "lstm_1", "implementation": 1, **OLD}}
    arrays = {
        f"{side}_lstm_1/{name}": array
        for side, direction in (("backward", "reverse"), ("forward", "forward"))  # names tell, not the order
        for name, array in arrays_of(layer.spec, direction).items()
    }
    config = {"name": "bi", "layer": node, "merge_mode": "concat"}
    return keras2(folder, [{"class_name": "Bidirectional", "config": config}], {"bi": arrays}), layer


def test_keras_2_means_another_hard_sigmoid(tmp_path: Path) -> None:
    path, layer = old_bidirectional(tmp_path)
    [found] = files.read(path, READ).layers
    same_weights(found, layer)
    assert str(found.spec.activation("gate")) == "hard_sigmoid(0.2, 0.5)"
    with pytest.raises(MissingFramework, match=r"written by Keras 2\.1\.3, which Keras 3"):
        live.load(path, READ)


def test_keras_2_grus_reset_before_unless_they_say_so(tmp_path: Path) -> None:
    spec = grid.spec("gru", reset_after=False, activations=("hard_sigmoid", "tanh"))
    nodes = [{"class_name": "GRU", "config": {"name": "g", **OLD}}]
    [found] = files.read(keras2(tmp_path, nodes, {"g": arrays_of(spec)}), READ).layers
    assert found.spec == spec


@pytest.mark.parametrize(
    ("version", "config", "words"),
    [
        ("2.4.0", {key: OLD[key] for key in ("units", "activation")}, "does not say recurrent_activation"),
    ],
)
def test_what_an_old_file_does_not_say_is_not_guessed(version: str, config: Any, words: str, tmp_path: Path) -> None:
    nodes = [{"class_name": "LSTM", "config": {"name": "l", **config}}]
    with pytest.raises(Unsupported, match=words):
        files.read(keras2(tmp_path, nodes, {"l": arrays_of(grid.spec("lstm"))}, version), READ)


def test_the_default_of_keras_before_2_3(tmp_path: Path) -> None:
    nodes = [{"class_name": "LSTM", "config": {"name": "l", "units": HIDDEN}}]
    [layer] = files.read(keras2(tmp_path, nodes, {"l": arrays_of(grid.spec("lstm"))}), READ).layers
    assert layer.spec.activation("gate") == Activation("hard_sigmoid")
    assert dialect("2.2.4-tf").recurrent_activation is None


def test_layers_that_only_old_versions_have_are_named(tmp_path: Path) -> None:
    nodes = [{"class_name": "ConvLSTM2D", "config": {"name": "l", "units": HIDDEN}}]
    with pytest.raises(Unsupported, match="'ConvLSTM2D' is not understood"):
        files.read(keras2(tmp_path, nodes, {"l": arrays_of(grid.spec("lstm"))}), READ)


def test_an_archive_of_keras_2_is_read_as_such(tmp_path: Path) -> None:
    files.write([target("l", 5, 3)], tmp_path / "a.keras", WRITE)
    rewrite(tmp_path / "a.keras", lambda text: text.replace('"sigmoid"', '"hard_sigmoid"'), version="2.15.0")
    [layer] = files.read(tmp_path / "a.keras", READ).layers
    assert layer.spec.activation("gate") == Activation("hard_sigmoid")


def rewrite(path: Path, change: Callable[[str], str], version: str = "3.5.0", **pack: Any) -> None:
    """Changes the config in an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = change(members["config.json"].decode()).encode()
    members["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(path, "w", **pack) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# ---- bad files


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A good archive of one LSTM."""
    files.write([target("l", 5, 3)], tmp_path / "good.keras", WRITE)
    return tmp_path / "good.keras"


def test_a_packed_archive_is_read(good: Path) -> None:
    before = files.read(good, READ).layers[0]
    rewrite(good, str, compression=zipfile.ZIP_DEFLATED)
    same_weights(files.read(good, READ).layers[0], before)


@pytest.mark.parametrize("size", [0, 10, 300, -40])
def test_a_truncated_file(good: Path, size: int) -> None:
    files.write([target("l", 5, 3)], good.with_name("good.h5"), WRITE)
    for path in (good, good.with_name("good.h5")):
        content = path.read_bytes()
        path.write_bytes(content[: size or len(content) // 2])
        with pytest.raises(FileError, match=f"{path.name}: not a readable"):
            files.read(path, READ)


def test_a_flipped_bit(good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    good.write_bytes(content)
    with pytest.raises(FileError, match="not a readable"):
        files.read(good, READ)


def test_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("readme", "no")
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        file["x"] = np.ones(3)
    for name, words in (
        ("text.h5", "not a readable HDF5"),
        ("zip.keras", "no config.json in it"),
        ("numbers.h5", "no recurrent layer in it"),
        ("nothing.h5", "no such file"),
    ):
        with pytest.raises(FileError, match=words):
            files.read(tmp_path / name, READ)


def test_a_model_without_recurrent_layers(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5,)), kl.Dense(3)])
    for name in ("a.keras", "a.h5", "a.weights.h5"):
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        with pytest.raises(FileError, match="no recurrent layer in it"):
            files.read(tmp_path / name, READ)


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ('"units": 3', '"units": 4', LayoutError, r"expected i \(g h\) with g = i f g o, i = 5, h = 4 -> \(5, 16\)"),
        ('"units": 3', '"units": 0', BridgeError, "hidden_size is 0"),
        ('"use_bias": true', '"use_bias": false', LayoutError, "too many: forward.bias"),
        ('"LSTM"', '"GRU"', FileError, "its arrays are missing"),
        ('"name": "l"', '"name": "k"', FileError, "holds the arrays of 'l'"),
        ('"tanh"', '"gelu"', Unsupported, "'gelu' is not known"),
    ],
)
def test_a_config_that_is_not_the_weights(good: Path, old: str, new: str, kind: type[BridgeError], words: str) -> None:
    rewrite(good, lambda text: text.replace(old, new))
    with pytest.raises(kind, match=words):
        files.read(good, READ)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda g: g.__delitem__("1"), LayoutError, "recurrent_kernel"),
        (lambda g: g.create_dataset("3", data=np.ones(3)), LayoutError, "too many: forward.variable 3"),
        (lambda g: transpose(g, "0"), LayoutError, "kernel"),
        (lambda g: link(g), FileError, "is a link"),
        (lambda g: bomb(g), FileError, "claims"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(
    tmp_path: Path, change: Any, kind: type[BridgeError], words: str
) -> None:
    path = tmp_path / "a.weights.h5"
    files.write([target("l", 5, 3)], path, WRITE)
    with h5py.File(path, "a") as file:
        change(file["layers/lstm/cell/vars"])
    with pytest.raises(kind, match=words):
        files.read(path, READ)


def transpose(group: h5py.Group, name: str) -> None:
    array = group[name][()].T
    del group[name]
    group[name] = array


def link(group: h5py.Group) -> None:
    del group["2"]
    group["2"] = h5py.ExternalLink("elsewhere.h5", "/x")


def bomb(group: h5py.Group) -> None:
    del group["2"]
    group.create_dataset("2", shape=(1 << 26,), chunks=(1 << 20,), dtype="float32", compression="gzip")


def test_nan_is_moved_unchanged(tmp_path: Path) -> None:
    layer = target("l", 5, 3).layer
    layer["forward.kernel.f"][0, 0] = np.nan
    layer["forward.bias.o"][1] = -np.inf
    files.write([grid.fitted(layer)], tmp_path / "a.keras", WRITE)
    same_weights(files.read(tmp_path / "a.keras", READ).layers[0], layer)


def test_files_need_no_framework(good: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from lstmbridge.contract import ReadOptions, WriteOptions
from lstmbridge.fit import fit
from lstmbridge.frameworks.keras import files
from lstmbridge.frameworks.keras.layout import HOLDS
for suffix in (".keras", ".h5", ".weights.h5"):
    path = Path({str(good)!r}).with_name("again" + suffix)
    files.write([fit(files.read(Path({str(good)!r}), ReadOptions()).layers[0], HOLDS)], path, WriteOptions())
    files.read(path, ReadOptions())
print([name for name in ("keras", "tensorflow", "torch", "jax") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- the other backends; last, so that they have had time to run


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_other_backends_agree(backend: str, processes: dict[str, subprocess.Popen[str]]) -> None:
    out, err = processes[backend].communicate(timeout=600)
    assert processes[backend].returncode == 0, err[-3000:]
    worst = json.loads(out.splitlines()[-1])
    assert len(worst) > 15
    assert {name: gap for name, gap in worst.items() if gap > BOUND["float32"]} == {}


# ---- a config and weights that are not of one model


def _with_config(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a `.keras` file with another config."""
    other = path.with_name("changed.keras")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as copied:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            copied.writestr(name, content)
    return other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(layers=None), "is damaged"),
        (lambda c: c.pop("config"), "is damaged"),
        (lambda c: c["config"]["layers"].__setitem__(1, 5), "is damaged"),
        (lambda c: c["config"]["layers"].pop(1), "holds a recurrent layer that the config does not list"),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_no_reason_to_assume(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    second = layer_of(grid.spec("gru", input_size=HIDDEN), path="b", after="a")
    layers = [layer_of(grid.spec("lstm"), path="a"), second]
    files.write([fit(layer, HOLDS) for layer in layers], tmp_path / "x.keras", WRITE)
    assert len(files.read(tmp_path / "x.keras", READ).layers) == 2
    with pytest.raises(FileError, match=message):
        files.read(_with_config(tmp_path / "x.keras", change), READ)
