"""Writes TensorFlow's files for `test_tf_files`: run as ``python tf_files.py DIRECTORY``, in a process of its own.

For each case of TensorFlow 1, ``CASE/model.index`` and its companions, ``CASE.pb`` (the frozen graph), and
``CASE.npz`` with the variables, the inputs x (b, t, i), and what TensorFlow computed: y, h, c, and its own state, array
by array (``state/0`` ...). For Keras, checkpoints
and SavedModels of one model, with its layers' weights and outputs in ``keras.npz``.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf

from lstmbridge.frameworks.tf1.layout import LSTMStateTuple

warnings.simplefilter("ignore")
v1 = tf.compat.v1
cells = v1.nn.rnn_cell
BATCH, TIME, INPUT = 2, 6, 5


def with_states(y: Any, state: Any) -> dict[str, Any]:
    """y with h, and c where the state has one; and the state as it is."""
    last = {"h": state.h, "c": state.c} if hasattr(state, "h") else {"h": state}
    return {"y": y, **last, "state": state}


def dynamic(cell: Any, x: Any) -> dict[str, Any]:
    return with_states(*v1.nn.dynamic_rnn(cell, x, dtype=tf.float32))


def multi(x: Any) -> dict[str, Any]:
    stack = cells.MultiRNNCell([cells.BasicLSTMCell(6, forget_bias=0.5), cells.LSTMCell(4, forget_bias=0.5)])
    y, states = v1.nn.dynamic_rnn(stack, x, dtype=tf.float32)
    return {**with_states(y, states[-1]), "state": states}


def concatenated(x: Any) -> dict[str, Any]:
    y, state = v1.nn.dynamic_rnn(cells.LSTMCell(7, num_proj=3, state_is_tuple=False), x, dtype=tf.float32)
    return {"y": y, "state": state}


def started(x: Any) -> dict[str, Any]:
    """Begins with a state in lstmbridge's own named tuple."""
    rng = np.random.default_rng(5)
    c, h = (tf.constant(rng.normal(size=(BATCH, 7)).astype("float32")) for _ in "ch")
    y, state = v1.nn.dynamic_rnn(cells.BasicLSTMCell(7), x, initial_state=LSTMStateTuple(c=c, h=h))
    return {**with_states(y, state), "c0": c, "h0": h}


def both(x: Any) -> dict[str, Any]:
    y, (forward, backward) = v1.nn.bidirectional_dynamic_rnn(
        cells.LSTMCell(4), cells.LSTMCell(4), x, sequence_length=[TIME, TIME - 2], dtype=tf.float32
    )
    h, c = tf.stack([forward.h, backward.h]), tf.stack([forward.c, backward.c])
    return {"y": tf.concat(y, 2), "h": h, "c": c, "state": (forward, backward)}


def stacked_both(x: Any) -> dict[str, Any]:
    with v1.variable_scope("stack_bidirectional_rnn"):  # as contrib's stack_bidirectional_dynamic_rnn does
        for n, units in enumerate((4, 3)):
            with v1.variable_scope(f"cell_{n}"):
                y, _ = v1.nn.bidirectional_dynamic_rnn(cells.GRUCell(units), cells.GRUCell(units), x, dtype=tf.float32)
                x = tf.concat(y, 2)
    return {"y": x}


def static(x: Any) -> dict[str, Any]:
    cell = cells.BasicLSTMCell(7, forget_bias=2.0)
    ys, state = v1.nn.static_rnn(cell, tf.unstack(x, TIME, 1), dtype=tf.float32)
    return with_states(tf.stack(ys, 1), state)


def resource(x: Any) -> dict[str, Any]:
    with v1.variable_scope("model", use_resource=True):
        return dynamic(cells.BasicLSTMCell(7, forget_bias=0.25), x)


def partitioned(x: Any) -> dict[str, Any]:
    with v1.variable_scope("parts", partitioner=v1.fixed_size_partitioner(3)):
        return dynamic(cells.BasicLSTMCell(70), x)


def trained(x: Any) -> dict[str, Any]:
    out = dynamic(cells.BasicLSTMCell(7), x)
    v1.train.AdamOptimizer(0.01).minimize(tf.reduce_sum(out["y"]))
    return out


def block(operator: str, *, gru: bool = False, **attributes: Any) -> Callable[[Any], dict[str, Any]]:
    """A loop over steps of one of TensorFlow's fused operators, its variables named as contrib's cells name them."""

    def lstm(x: Any) -> dict[str, Any]:
        with v1.variable_scope("rnn/lstm_cell"):
            w, b = v1.get_variable("kernel", (INPUT + 7, 28)), v1.get_variable("bias", (28,))
            peepholes = [v1.get_variable(f"w_{gate}_diag", (7,)) for gate in "ifo"]
        h = c = tf.zeros((BATCH, 7))
        named = dict(zip(("wci", "wcf", "wco"), peepholes, strict=True))
        if operator.startswith("BlockLSTM"):
            run = getattr(tf.raw_ops, operator)
            found = run(seq_len_max=tf.constant(TIME, tf.int64), x=tf.transpose(x, (1, 0, 2)), cs_prev=c, h_prev=h,
                        w=w, b=b, **named, **attributes)  # fmt: skip
            return {"y": tf.transpose(found.h, (1, 0, 2)), "h": found.h[-1], "c": found.cs[-1]}
        ys = []
        for step in tf.unstack(x, TIME, 1):
            found = tf.raw_ops.LSTMBlockCell(x=step, cs_prev=c, h_prev=h, w=w, b=b, **named, **attributes)
            h, c = found.h, found.cs
            ys.append(h)
        return {"y": tf.stack(ys, 1), "h": h, "c": c}

    def reset(x: Any) -> dict[str, Any]:
        with v1.variable_scope("rnn/gru_cell"):
            sizes = {"gates": 14, "candidate": 7}
            kernels = [v1.get_variable(f"{name}/kernel", (INPUT + 7, n)) for name, n in sizes.items()]
            biases = [v1.get_variable(f"{name}/bias", (n,)) for name, n in sizes.items()]
        h, ys = tf.zeros((BATCH, 7)), []
        for step in tf.unstack(x, TIME, 1):
            h = tf.raw_ops.GRUBlockCell(
                x=step, h_prev=h, w_ru=kernels[0], w_c=kernels[1], b_ru=biases[0], b_c=biases[1]
            ).h
            ys.append(h)
        return {"y": tf.stack(ys, 1), "h": h}

    return reset if gru else lstm


def cudnn_gru(x: Any) -> dict[str, Any]:
    """CudnnCompatibleGRUCell's equations, which TensorFlow no longer has, with its variables' names."""
    with v1.variable_scope("rnn/cudnn_compatible_gru_cell"):
        shapes = {"gates": (INPUT + 7, 14), "candidate/input_projection": (INPUT, 7),
                  "candidate/hidden_projection": (7, 7)}  # fmt: skip
        w = {name: v1.get_variable(f"{name}/kernel", shape) for name, shape in shapes.items()}
        b = {name: v1.get_variable(f"{name}/bias", shape[1:]) for name, shape in shapes.items()}
    h, ys = tf.zeros((BATCH, 7)), []
    for step in tf.unstack(x, TIME, 1):
        r, u = tf.split(tf.sigmoid(tf.concat([step, h], 1) @ w["gates"] + b["gates"]), 2, 1)
        hidden, inner = "candidate/hidden_projection", "candidate/input_projection"
        n = tf.tanh(step @ w[inner] + b[inner] + r * (h @ w[hidden] + b[hidden]))
        h = (1 - u) * n + u * h
        ys.append(h)
    return {"y": tf.stack(ys, 1), "h": h}


def dense(x: Any) -> dict[str, Any]:
    """A dense layer on two inputs and an output of a sigmoid: no cell."""
    with v1.variable_scope("model/dense"):
        w, b = v1.get_variable("kernel", (2 * INPUT, 12)), v1.get_variable("bias", (12,))
    return {"y": tf.tanh(tf.nn.bias_add(tf.concat([x[:, 0], x[:, 1]], 1) @ w, b))}


def swapped(x: Any) -> dict[str, Any]:
    """A step that looks like a BasicLSTMCell's, and has the rows [h; x] in its kernel."""
    with v1.variable_scope("rnn/basic_lstm_cell"):
        w, b = v1.get_variable("kernel", (INPUT + 7, 28)), v1.get_variable("bias", (28,))
    h, c = tf.ones((BATCH, 7)), 2 * tf.ones((BATCH, 7)) + x[0, 0, 0]
    for step in tf.unstack(x, TIME, 1):
        i, j, f, o = tf.split(tf.nn.bias_add(tf.concat([h, step], 1) @ w, b), 4, 1)
        c = tf.sigmoid(f + 1.0) * c + tf.sigmoid(i) * tf.tanh(j)
        h = tf.tanh(c) * tf.sigmoid(o)
    return {"y": h}


CASES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "basic": lambda x: dynamic(cells.BasicLSTMCell(7, forget_bias=1.5), x),
    "relu": lambda x: dynamic(cells.BasicLSTMCell(7, activation=tf.nn.relu), x),
    "full": lambda x: dynamic(
        cells.LSTMCell(7, use_peepholes=True, num_proj=3, cell_clip=0.6, proj_clip=0.4, forget_bias=2.5), x
    ),
    "multi": multi,
    "concatenated": concatenated,
    "started": started,
    "gru": lambda x: dynamic(cells.GRUCell(7), x),
    "rnn": lambda x: dynamic(cells.BasicRNNCell(7), x),
    "both": both,
    "stacked_both": stacked_both,
    "static": static,
    "resource": resource,
    "partitioned": partitioned,
    "trained": trained,
    "block_cell": block("LSTMBlockCell", use_peephole=True),
    "block": block("BlockLSTM", use_peephole=True, forget_bias=0.5, cell_clip=-1.0),
    "block_v2": block("BlockLSTMV2", use_peephole=True, cell_clip=0.7),
    "gru_block": block("", gru=True),
    "cudnn_lstm": lambda x: dynamic(cells.BasicLSTMCell(7, forget_bias=0.0, name="cudnn_compatible_lstm_cell"), x),
    "cudnn_gru": cudnn_gru,
    "named": lambda x: dynamic(cells.BasicLSTMCell(7, name="decoder"), x),
    "layer_norm": lambda x: dynamic(cells.BasicLSTMCell(7, name="layer_norm_basic_lstm_cell"), x),
    "dense": dense,
    "swapped": swapped,
}

#: What each variable was called before TensorFlow 1.2, and before 1.0.
OLD = {"old_1_0": ("weights", "biases"), "old_0_12": ("Linear/Matrix", "Linear/Bias")}


def tensorflow1(directory: Path, name: str, build: Callable[[Any], dict[str, Any]]) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (BATCH, TIME, INPUT), "x")
        built = build(x)
        state = tf.nest.flatten(built.pop("state", ()))
        out = {key: tf.identity(value, f"out_{key}") for key, value in built.items()}
        variables = v1.trainable_variables()
        session.run(v1.global_variables_initializer())
        for variable in variables:
            variable.load(rng.normal(size=variable.shape).astype("float32") * 0.5, session)
        given = rng.normal(size=(BATCH, TIME, INPUT)).astype("float32")
        asked = {"out": out, "var": {each.op.name: each for each in variables}, "state": state}
        values = session.run(asked, {x: given})
        (directory / name).mkdir()
        (directory / "plain").mkdir(exist_ok=True)
        v1.train.Saver().save(session, str(directory / name / "model"))
        if name == "basic":
            v1.train.Saver().save(session, str(directory / "plain" / "model.ckpt"), 1000, write_meta_graph=False)
            for old, (matrix, biases) in OLD.items():
                scope = "RNN/BasicLSTMCell" if old == "old_0_12" else "rnn/basic_lstm_cell"
                renamed = {f"{scope}/{matrix}": variables[0], f"{scope}/{biases}": variables[1]}
                v1.train.Saver(renamed).save(session, str(directory / old), write_meta_graph=False)
            v1.saved_model.simple_save(session, str(directory / "saved"), {"x": x}, out)
            v1.train.Saver(write_version=1).save(session, str(directory / "version_1.ckpt"), write_meta_graph=False)
        frozen = v1.graph_util.convert_variables_to_constants(session, session.graph_def, [f"out_{key}" for key in out])
        (directory / f"{name}.pb").write_bytes(frozen.SerializeToString())
    arrays = {f"var/{key}": value for key, value in values["var"].items()}
    arrays |= {f"state/{n}": value for n, value in enumerate(values["state"])}
    np.savez(directory / f"{name}.npz", x=given, **arrays, **values["out"])


def keras2(directory: Path) -> None:
    """tf.keras: one functional model and one subclassed, as weights, as a checkpoint of objects, as SavedModels."""
    import tf_keras
    from tf_keras import layers

    rng = np.random.default_rng(3)
    x = tf_keras.Input((TIME, INPUT))
    first = layers.LSTM(3, return_sequences=True, name="first")(x)
    second = layers.Bidirectional(
        layers.GRU(4, return_sequences=True, recurrent_activation="hard_sigmoid"), merge_mode="sum", name="second"
    )(first)
    third = layers.RNN(
        layers.StackedRNNCells([layers.LSTMCell(6), layers.LSTMCell(2)]), return_sequences=True, name="third"
    )(second)
    fourth = layers.SimpleRNN(8, return_sequences=True, activation="relu", name="fourth")(third)
    model = tf_keras.Model(x, [first, second, third, fourth, layers.Dense(1, name="last")(fourth)])
    model.set_weights([rng.normal(size=w.shape).astype("float32") * 0.4 for w in model.get_weights()])
    given = rng.normal(size=(BATCH, TIME, INPUT)).astype("float32")
    outputs = model(given)
    named = {f"{layer.name}/{n}": w for layer in model.layers for n, w in enumerate(layer.get_weights())}
    ys = {each.name: np.asarray(y) for each, y in zip(model.layers[1:], outputs, strict=True)}
    np.savez(directory / "keras.npz", x=given, **{f"var/{k}": w for k, w in named.items()}, **ys)
    model.save_weights(str(directory / "keras" / "weights"))
    (directory / "keras.json").write_text(model.to_json())
    tf.train.Checkpoint(net=model).save(str(directory / "keras_objects" / "ck"))
    model.save(str(directory / "keras_saved"), save_format="tf", save_traces=False)
    saver = v1.train.Saver({each.name.removesuffix(":0"): each for each in model.weights})
    saver.save(None, str(directory / "keras_names"), write_meta_graph=False)
    before_2_5(directory / "keras_saved", directory / "keras_saved_before_2_5")


def before_2_5(saved: Path, older: Path) -> None:
    """A SavedModel as TensorFlow before 2.5 wrote it: the configs are in saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    shutil.copytree(saved, older)
    metadata = saved_metadata_pb2.SavedMetadata.FromString((older / "keras_metadata.pb").read_bytes())
    model = saved_model_pb2.SavedModel.FromString((older / "saved_model.pb").read_bytes())
    for each in metadata.nodes:
        model.meta_graphs[0].object_graph_def.nodes[each.node_id].user_object.metadata = each.metadata
    (older / "saved_model.pb").write_bytes(model.SerializeToString())
    (older / "keras_metadata.pb").unlink()


def keras3(directory: Path) -> None:
    import keras

    rng = np.random.default_rng(4)
    x = keras.Input((TIME, INPUT))
    y = keras.layers.LSTM(3, return_sequences=True, name="first")(x)
    model = keras.Model(x, keras.layers.Bidirectional(keras.layers.GRU(4), name="second")(y))
    model.set_weights([rng.normal(size=w.shape).astype("float32") * 0.4 for w in model.get_weights()])
    named = {f"{layer.name}/{n}": w for layer in model.layers for n, w in enumerate(layer.get_weights())}
    np.savez(directory / "keras3.npz", **{f"var/{k}": w for k, w in named.items()})
    model.export(str(directory / "keras3_export"), verbose=False)


def main(directory: Path) -> None:
    keras2(directory)
    keras3(directory)
    v1.disable_v2_behavior()
    for name, build in CASES.items():
        tensorflow1(directory, name, build)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
