"""The arrays of BasicLSTMCell, LSTMCell, GRUCell and BasicRNNCell: input and state stacked in the rows of one kernel.

The cell's `forget_bias` is added at run time and is in no array: say it, ``forget_constant=1.0``.
"""

from __future__ import annotations

from lstmbridge.fit import Holds, only
from lstmbridge.notation import Layout

__all__ = ["ASKED", "HOLDS", "LAYOUTS"]

LAYOUTS = {
    "lstm": Layout(
        "i g f o",
        ("kernel", "kernel + recurrent_kernel : (i + p) (g h)"),
        ("bias", "bias : (g h)"),
        ("w_{g}_diag", "peephole[i f o] : h"),
        ("projection/kernel", "projection : h p"),
        source="tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py: LSTMCell",
    ),
    "gru": Layout(
        "r z n",
        ("gates/kernel", "kernel[r z] + recurrent_kernel[r z] : (i + p) (g h)"),
        ("gates/bias", "bias[r z] : (g h)"),
        ("candidate/kernel", "kernel[n] + recurrent_kernel[n] : (i + p) (g h)"),
        ("candidate/bias", "bias[n] : (g h)"),
        source="tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py: GRUCell",
    ),
    "rnn": Layout(
        "n",
        ("kernel", "kernel + recurrent_kernel : (i + p) (g h)"),
        ("bias", "bias : (g h)"),
        source="tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py: BasicRNNCell",
    ),
}

#: The runtime adds it to the forget gate, the default 1.0 or another; a checkpoint does not say which.
ASKED = {"lstm": {"forget_constant": "say what the cell was made with: forget_constant=1.0 is TensorFlow's default"}}

_SIGMOID, _ANY = frozenset({"sigmoid"}), frozenset({"tanh", "relu", "linear", "sigmoid"})

HOLDS = Holds(
    name="tf1",
    bias=dict.fromkeys(LAYOUTS, ("single",)),
    activations=only({"lstm": (_SIGMOID, _ANY, _ANY), "gru": (_SIGMOID, _ANY), "rnn": (_ANY,)}),
    directions=frozenset({("forward",)}),
    merges=frozenset(),
    features=frozenset({"projection", "peepholes", "cell clip", "projection clip", "reset before", "forget constant"}),
)
