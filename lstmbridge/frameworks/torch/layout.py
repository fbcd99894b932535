"""PyTorch's weight layout, and what its layers can hold.

Source: the class docstrings of torch/nn/modules/rnn.py (PyTorch 2.13). The gates stand in the order i f g o, r z n, n
along the first axis; level and direction stand in the name. A GRU's b_hn is inside the reset product, and
h' = (1 - z) n + z h.
"""

from __future__ import annotations

from lstmbridge.distributions import Scheme, uniform
from lstmbridge.fit import FEATURES, Holds, any_activation, only
from lstmbridge.notation import Layout
from lstmbridge.optimizers import Rules
from lstmbridge.spec import BIASES, CELLS, GATES, MERGES, PARTS, Spec
from lstmbridge.statenotation import StateForm, StateLayout

__all__ = ["CELL_LAYOUTS", "FAITHFUL", "FAITHFUL_CLASS", "HOLDS", "INITIAL", "LAYOUTS", "STATES"]

#: The class of our own module, as `Layer.metadata` names it.
FAITHFUL_CLASS = "lstmbridge.frameworks.torch.faithful.Recurrent"

_LINES = (
    ("weight_ih", "kernel : (g h) i"),
    ("weight_hh", "recurrent_kernel : (g h) p"),
    ("bias_ih", "bias : (g h)"),
    ("bias_hh", "recurrent_bias : (g h)"),
)
_LSTM_LINES = (
    ("weight_hr", "projection : p h"),
    ("peephole", "peephole[i f o] : (g h)"),  # nn.LSTM has none; our own module does
)


def _layout(cell: str, suffix: str) -> Layout:
    lines = _LINES + (_LSTM_LINES if cell == "lstm" else ())
    return Layout(
        " ".join(GATES[cell]),
        *((name + suffix, text) for name, text in lines),
        directions={"forward": "", "reverse": "_reverse"},
        source="torch/nn/modules/rnn.py",
    )


#: nn.LSTM, nn.GRU, nn.RNN, and our own module (which has level 0 only).
LAYOUTS = {cell: _layout(cell, "_l{l}{d}") for cell in CELLS}
#: nn.LSTMCell, nn.GRUCell, nn.RNNCell: the same without level and direction.
CELL_LAYOUTS = {cell: _layout(cell, "") for cell in CELLS}

#: What nn.LSTM and its kind take and give; what nn.LSTMCell and its kind do.
STATES = {
    "layer": StateForm(
        StateLayout(("h_n", "h : (l d) b p"), ("c_n", "c : (l d) b h"), source="torch/nn/modules/rnn.py"), alone=True
    ),
    "cell": StateForm(StateLayout(("h", "h : b p"), ("c", "c : b h"), source="torch/nn/modules/rnn.py"), alone=True),
}

#: Every parameter alike, whatever its shape: ``RNNBase.reset_parameters``.
INITIAL = {cell: Scheme(dict.fromkeys(PARTS, uniform())) for cell in CELLS}


def _limit(spec: Spec) -> str | None:
    """nn.LSTM refuses a projection that does not make the state smaller."""
    if spec.projection_size is None or spec.projection_size < spec.hidden_size:
        return None
    return f"projection_size {spec.projection_size} with hidden_size {spec.hidden_size} (it must be smaller)"


_TANH, _SIGMOID, _EITHER = frozenset({"tanh"}), frozenset({"sigmoid"}), frozenset({"tanh", "relu"})

HOLDS = Holds(
    name="torch",
    bias=dict.fromkeys(CELLS, ("dual", "none")),
    activations=only({"lstm": (_SIGMOID, _TANH, _TANH), "gru": (_SIGMOID, _TANH), "rnn": (_EITHER,)}),
    directions=frozenset({("forward",), ("forward", "reverse")}),
    merges=frozenset({"concat", "none"}),
    features=frozenset({"projection", "reset after"}),
    limit=_limit,
)

#: What whoever loads a state dict of our own module must know.
FAITHFUL_NOTE = f"its class is {FAITHFUL_CLASS}"

FAITHFUL = Holds(
    name="torch",
    bias=dict.fromkeys(CELLS, BIASES),
    activations=any_activation,
    directions=frozenset({("forward",), ("reverse",), ("forward", "reverse")}),
    merges=frozenset(MERGES),
    features=frozenset({*FEATURES, "forget constant"}),
)

#: How torch's optimizers differ from the canonical rules. Source: torch/optim/*.py.
OPTIMIZERS = Rules(
    epsilon={
        "adam": "after the bias correction: sqrt(v') + epsilon",
        "rmsprop": "after the root: sqrt(v) + epsilon",
        "adagrad": "after the root: sqrt(s) + epsilon",
    },
    through="float64",
)
