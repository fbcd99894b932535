"""The arrays of BasicLSTMCell, LSTMCell, GRUCell and BasicRNNCell: input and state stacked in the rows of one kernel.

The cell's `forget_bias` is added at run time and is in no array: say it, ``forget_constant=1.0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lstmbridge.distributions import Scheme, glorot_uniform, zeros
from lstmbridge.errors import LayoutError
from lstmbridge.fit import Holds, only
from lstmbridge.layer import Array
from lstmbridge.notation import Layout
from lstmbridge.spec import Spec
from lstmbridge.statenotation import StateForm, StateLayout

__all__ = [
    "ASKED", "BLOCK_V2", "CUDNN_GRU", "HOLDS", "INITIAL", "LAYOUTS", "STATES", "LSTMStateTuple", "spec_of",
]  # fmt: skip

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

#: CudnnCompatibleGRUCell: it resets after the product, and has both biases for n only.
CUDNN_GRU = Layout(
    "r z n",
    ("gates/kernel", "kernel[r z] + recurrent_kernel[r z] : (i + p) (g h)"),
    ("gates/bias", "bias[r z] : (g h)"),
    ("candidate/input_projection/kernel", "kernel[n] : i (g h)"),
    ("candidate/input_projection/bias", "bias[n] : (g h)"),
    ("candidate/hidden_projection/kernel", "recurrent_kernel[n] : p (g h)"),
    ("candidate/hidden_projection/bias", "recurrent_bias[n] : (g h)"),
    source="tensorflow/contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py: CudnnCompatibleGRUCell",
)

#: The operator BlockLSTMV2 has another gate order than BlockLSTM, and adds no constant.
BLOCK_V2 = Layout(
    "i f g o",
    ("kernel", "kernel + recurrent_kernel : (i + p) (g h)"),
    ("bias", "bias : (g h)"),
    ("w_{g}_diag", "peephole[i f o] : h"),
    source="tensorflow/core/ops/rnn_ops.cc: BlockLSTMV2",
)


class LSTMStateTuple(NamedTuple):
    """An LSTM cell's state, of the name and fields that TensorFlow's own has: c comes first."""

    c: Array
    h: Array


_CELLS = "tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py: LSTMStateTuple, LSTMCell, MultiRNNCell"

#: What a cell takes and gives: (c, h), or h alone; of a MultiRNNCell one a level; of bidirectional_dynamic_rnn one a
#: direction. With ``state_is_tuple=False`` one array, here for a cell by itself.
STATES = {
    "tuple": StateForm(
        StateLayout(("{l}.{d}.c", "c : b h"), ("{l}.{d}.h", "h : b p"), source=_CELLS),
        held=LSTMStateTuple._make,
        alone=True,
        nested=("l", "d"),
        several=tuple,
    ),
    "state_is_tuple=False": StateForm(
        StateLayout(("state", "c + h : b (h + p)"), ("state", "h : b p"), source=_CELLS), alone=True, several=tuple
    ),
}

_MATRICES = ("kernel", "recurrent_kernel", "peephole", "projection")
_PARTS = {**dict.fromkeys(_MATRICES, glorot_uniform()), "bias": zeros()}

#: The cells' ``build``: zeros for biases, but ones for a GRU's gates; what is given no initializer gets
#: ``get_variable``'s, glorot_uniform over the whole array (tensorflow/python/ops/variable_scope.py).
INITIAL = {
    "lstm": Scheme(_PARTS),
    "gru": Scheme(_PARTS, {"bias.r": 1.0, "bias.z": 1.0}),
    "rnn": Scheme(_PARTS),
}

#: The runtime adds it to the forget gate, the default 1.0 or another; a checkpoint does not say which.
ASKED = {"lstm": {"forget_constant": "say what the cell was made with: forget_constant=1.0 is TensorFlow's default"}}


def spec_of(layout: Layout, arrays: Mapping[str, Array], features: Mapping[str, Any], who: str) -> Spec:
    """The Spec of one direction, of its arrays and what is known beside them. Errors: LayoutError."""
    projection = arrays.get("projection/kernel")
    known = {"directions": ("forward",), **features}
    if projection is not None and len(projection.shape) == 2:
        known["projection_size"] = int(projection.shape[1])
    elif known.get("proj_clip") is not None:
        raise LayoutError(f"{who}: a clip of the projection, and no projection", f"found: {', '.join(arrays)}")
    return layout.infer(arrays, who=who, **known)


_SIGMOID, _ANY = frozenset({"sigmoid"}), frozenset({"tanh", "relu", "linear", "sigmoid"})

HOLDS = Holds(
    name="tf1",
    bias=dict.fromkeys(LAYOUTS, ("single",)),
    activations=only({"lstm": (_SIGMOID, _ANY, _ANY), "gru": (_SIGMOID, _ANY), "rnn": (_ANY,)}),
    directions=frozenset({("forward",)}),
    merges=frozenset(),
    features=frozenset({"projection", "peepholes", "cell clip", "projection clip", "reset before", "forget constant"}),
)
