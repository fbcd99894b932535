"""Writes Keras 2 files into a folder by tf_keras 2.21, with what its layers give: run as a process of its own.

    python tf_keras_files.py FOLDER

For each recurrent layer ``outputs.npz`` has ``MODEL|LAYER|x``, and ``|0``, ``|1`` ...: outputs, then the last states.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers as kl

INPUT, HIDDEN, TIME = 5, 7, 6
OLD = tf.compat.v1.keras.layers
rng = np.random.default_rng(0)
outputs: dict[str, np.ndarray] = {}


def randomise(model: Any) -> None:
    """Gives every weight random numbers, biases too."""
    model.set_weights([rng.normal(0, 0.4, each.shape).astype("f4") for each in model.get_weights()])


def giving_all(config: dict[str, Any]) -> dict[str, Any]:
    """A layer's config so that it returns all outputs and its last states."""
    inner = [config[key]["config"] for key in ("layer", "backward_layer") if key in config] or [config]
    for each in inner:
        each.update(return_sequences=True, return_state=True)
    return config


def run(name: str, path: str, layer: Any, features: int) -> None:
    """Notes what a layer gives, all of it, on random sequences."""
    x = rng.normal(size=(2, TIME, features)).astype("f4")
    copy = type(layer).from_config(giving_all(layer.get_config()))
    copy.build((None, None, features))
    copy.set_weights(layer.get_weights())
    outputs[f"{name}|{path}|x"] = x
    for n, each in enumerate(copy(x)):
        outputs[f"{name}|{path}|{n}"] = np.asarray(each)


def modern() -> Any:
    """A functional model: an embedding, two branches, a model inside, every kind of layer with its own options."""
    tokens = tf_keras.Input((None,), name="tokens")
    x = kl.Embedding(9, INPUT, name="embedding")(tokens)
    hard = {"recurrent_activation": "hard_sigmoid", "return_sequences": True}
    both = kl.Bidirectional(kl.LSTM(HIDDEN, **hard), merge_mode="ave", name="both")(x)
    back = kl.GRU(HIDDEN, reset_after=False, go_backwards=True, name="back", **hard)(x)
    after = [tf_keras.Input((None, HIDDEN)), kl.GRU(4, return_sequences=True, name="after")]
    deep = tf_keras.Sequential(after, name="deep")
    one = kl.SimpleRNN(HIDDEN, activation="relu", use_bias=False, return_sequences=True, name="plain")(deep(both))
    two = kl.LSTM(3, name="last", activation=tf.keras.activations.swish)(back)
    return tf_keras.Model(tokens, kl.Concatenate()([kl.GlobalMaxPooling1D()(one), two]), name="modern")


def of_tensorflow_1() -> Any:
    """TensorFlow 1's layers, with the defaults of their time."""
    return tf_keras.Sequential([
        tf_keras.Input((None, INPUT)),
        OLD.LSTM(HIDDEN, return_sequences=True, name="lstm"),
        kl.TimeDistributed(kl.Dense(3), name="td"),
        OLD.GRU(4, return_sequences=True, name="gru"),
    ])  # fmt: skip


def of_cudnn(folder: Path) -> None:
    """CuDNN layers, which a CPU builds and saves; what runs is the plain layers that tf_keras loads them into."""
    for kind in (OLD.CuDNNLSTM, OLD.CuDNNGRU):
        kind._process_batch = lambda self, x, states: (tf.tile(x[..., :1], [1, 1, self.units]), states)  # has no kernel
    model = tf_keras.Sequential([
        tf_keras.Input((None, INPUT)),
        OLD.CuDNNLSTM(HIDDEN, return_sequences=True, name="one"),
        kl.Bidirectional(OLD.CuDNNGRU(4, return_sequences=True), name="two"),
    ])  # fmt: skip
    randomise(model)
    model.save(folder / "cudnn.h5")
    model.save_weights(folder / "cudnn_weights.h5")
    model.save(folder / "cudnn.keras")
    model.save_weights(folder / "cudnn.weights.h5")
    plain = tf_keras.Sequential([
        tf_keras.Input((None, INPUT)),
        kl.LSTM(HIDDEN, return_sequences=True, name="one"),
        kl.Bidirectional(kl.GRU(4, return_sequences=True), name="two"),
    ])  # fmt: skip
    plain.load_weights(folder / "cudnn.h5")
    plain.save(folder / "plain.h5")
    run("cudnn", "one", plain.get_layer("one"), INPUT)
    run("cudnn", "two", plain.get_layer("two"), HIDDEN)


def save(model: Any, folder: Path, stem: str, layers: dict[str, tuple[Any, int]]) -> None:
    """The model in every format that tf_keras writes."""
    (folder / f"{stem}_json").mkdir()
    names = [f"{stem}.h5", f"{stem}.keras", f"{stem}_json/{stem}.weights.h5", f"{stem}_json/{stem}.json"]
    for name in names[:3]:
        (model.save_weights if "weights" in name else model.save)(folder / name)
    (folder / names[3]).write_text(model.to_json())
    (folder / f"{stem}_legacy").mkdir()
    names += [f"{stem}_legacy/{stem}_weights.h5", f"{stem}_legacy/{stem}.json"]
    model.save_weights(folder / names[4])
    (folder / names[5]).write_text(model.to_json())
    for path, (layer, features) in layers.items():
        run(stem, path, layer, features)


def main(folder: Path) -> None:
    model = modern()
    randomise(model)
    layers = {name: (model.get_layer(name), n) for name, n in
              (("both", INPUT), ("back", INPUT), ("plain", 4), ("last", HIDDEN))}  # fmt: skip
    save(model, folder, "modern", {**layers, "deep.after": (model.get_layer("deep").get_layer("after"), HIDDEN)})
    model = of_tensorflow_1()
    randomise(model)
    save(model, folder, "first", {"lstm": (model.get_layer("lstm"), INPUT), "gru": (model.get_layer("gru"), 3)})
    of_cudnn(folder)
    np.savez(folder / "outputs.npz", **outputs)
    sys.stdout.write(tf_keras.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
