"""Keras' weight layout, its activations, and what its layers can hold.

Sources: keras/src/layers/rnn/{lstm,gru,simple_rnn,bidirectional}.py and keras/src/activations (Keras 3.15); for the
versions before, keras/layers/recurrent.py and keras/activations.py (Keras 1.2.2, 2.1.3, 2.3.1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lstmbridge.distributions import Scheme, glorot_uniform, orthogonal, zeros
from lstmbridge.errors import Unsupported
from lstmbridge.fit import FEATURES, Holds, any_activation
from lstmbridge.notation import Layout
from lstmbridge.optimizers import Rules
from lstmbridge.spec import BIASES, CELLS, MERGES, ROLES, Activation, Spec
from lstmbridge.statenotation import StateForm, StateLayout

__all__ = [
    "FAITHFUL",
    "HOLDS",
    "INITIAL",
    "KERAS1_LAYOUTS",
    "KERAS3",
    "LAYOUTS",
    "STATES",
    "Dialect",
    "activation_config",
    "activation_of",
    "dialect",
    "version_numbers",
]

# ---- how weights are stored

_LINES = (
    ("{d}.kernel", "kernel : i (g h)"),
    ("{d}.recurrent_kernel", "recurrent_kernel : p (g h)"),
    ("{d}.bias", "bias : (g h)"),
    ("{d}.bias", "bias | recurrent_bias : k (g h)"),
)
_LSTM_LINES = (  # no stock layer has these; our own module does
    ("{d}.peephole", "peephole[i f o] : (g h)"),
    ("{d}.projection", "projection : h p"),
)

#: A cell's variables; ``forward`` and ``reverse`` are the two layers of a Bidirectional.
LAYOUTS: Mapping[str, Layout] = {
    "lstm": Layout("i f g o", *_LINES, *_LSTM_LINES, source="keras/src/layers/rnn/lstm.py"),
    "gru": Layout("z r n", *_LINES, source="keras/src/layers/rnn/gru.py"),
    "rnn": Layout("n", *_LINES, source="keras/src/layers/rnn/simple_rnn.py"),
}

#: Keras 1 has an array a gate, unless it was made with ``consume_less='gpu'``: then the arrays are those of today.
KERAS1_LAYOUTS: Mapping[str, Layout] = {
    cell: Layout(
        gates,
        ("{d}.W_{g}", "kernel : i h"),
        ("{d}.U_{g}", "recurrent_kernel : p h"),
        ("{d}.b_{g}", "bias : h"),
        gate_names=names,
        source="keras/layers/recurrent.py (Keras 1.2.2)",
    )
    for cell, gates, names in (("lstm", "i g f o", {"g": "c"}), ("gru", "z r n", {"n": "h"}))
}

#: What a layer takes as ``initial_state``, returns with ``return_state`` and keeps with ``stateful``: h and c of each
#: direction, forward first; for stacked cells a list a level.
STATES: Mapping[str, StateForm] = {
    "list": StateForm(
        StateLayout(
            ("{l}.{d}.h", "h : b p"), ("{l}.{d}.c", "c : b h"), source="keras/src/layers/rnn/{rnn,bidirectional}.py"
        ),
        held=list,
        nested=("l",),
    )
}

# ---- how weights begin

_PARTS = {"kernel": glorot_uniform(), "recurrent_kernel": orthogonal(), "bias": zeros(), "recurrent_bias": zeros()}

#: The defaults of LSTM (with ``unit_forget_bias``), GRU and SimpleRNN. Sources: their ``__init__`` and ``build``;
#: keras/src/initializers/random_initializers.py.
INITIAL: Mapping[str, Scheme] = {
    "lstm": Scheme(_PARTS, {"bias.f": 1.0}),
    "gru": Scheme(_PARTS),
    "rnn": Scheme(_PARTS),
}

# ---- activations

_PLAIN = ("tanh", "sigmoid", "relu", "linear", "softsign", "softplus", "selu", "exponential", "silu")

#: Keras 3's activation functions by name, where the project has the same one.
FUNCTIONS: Mapping[str, Activation] = {
    **{name: Activation(name) for name in _PLAIN},
    "swish": Activation("silu"),
    "elu": Activation("elu", 1.0),
    "leaky_relu": Activation("leaky_relu", 0.2),
    "hard_sigmoid": Activation("hard_sigmoid", 1 / 6, 0.5),
}


@dataclass(frozen=True)
class Dialect:
    """What a version of Keras means by its configs.

    functions             its activation functions by name
    reset_after           of a GRU whose config does not say it
    recurrent_activation  of a cell whose config does not say it; None: it depends
    """

    functions: Mapping[str, Activation]
    reset_after: bool
    recurrent_activation: str | None


KERAS3 = Dialect(FUNCTIONS, True, "sigmoid")
_FUNCTIONS2 = {**FUNCTIONS, "hard_sigmoid": Activation("hard_sigmoid", 0.2, 0.5)}


def version_numbers(version: str | None) -> tuple[int, int | None]:
    """The major and minor number of a version of Keras; None is Keras 3.

    >>> version_numbers("2.2.4-tf"), version_numbers("1"), version_numbers(None)
    ((2, 2), (1, None), (3, None))
    """
    match = re.match(r"(\d+)(?:\.(\d+))?", version or "3")
    major, minor = match.groups() if match else ("3", None)
    return int(major), None if minor is None else int(minor)


def dialect(version: str | None) -> Dialect:
    """The dialect of a version of Keras; None is Keras 3."""
    major, minor = version_numbers(version)
    if major not in (1, 2):
        return KERAS3
    old = major == 1 or ((minor or 0) < 3 and "tf" not in str(version))  # 2.3 changed it from hard_sigmoid to sigmoid
    return Dialect(_FUNCTIONS2, False, "hard_sigmoid" if old else None)


def activation_of(value: Any, known: Dialect, who: str) -> Activation:
    """The activation that a config says: a function's name, or a layer (LeakyReLU, ELU, ReLU) with its constants.

    Errors: Unsupported, naming it.
    """
    if value is None:
        return Activation("linear")
    if isinstance(value, str) and value in known.functions:
        return known.functions[value]
    name, found = (value, None) if isinstance(value, str) else _of_layer(value, known, who)
    if found is None:
        raise Unsupported(
            f"{who}: the activation {name!r} is not known here", f"known: {', '.join(sorted(known.functions))}"
        )
    return found


def _of_layer(value: Mapping[str, Any], known: Dialect, who: str) -> tuple[str, Activation | None]:
    """The name of a layer or function given as an activation, and what it computes, if that is known."""
    name, config = value.get("class_name"), value.get("config")
    if name == "Activation" and isinstance(config, Mapping):
        return "Activation", activation_of(config.get("activation"), known, who)
    if not isinstance(config, Mapping):
        return str(config or name), None
    slope = config.get("negative_slope", config.get("alpha"))
    if name == "LeakyReLU":
        return name, Activation("leaky_relu", 0.3 if slope is None else slope)
    if name == "ELU":
        return name, Activation("elu", config.get("alpha", 1.0))
    if name == "ReLU" and config.get("max_value") is None:
        threshold = config.get("threshold") or 0.0
        if not slope:
            return name, Activation("thresholded_relu", threshold) if threshold else Activation("relu")
        return name, None if threshold else Activation("leaky_relu", slope)
    return str(config.get("name", name)), None


def activation_config(activation: Activation, dtype: Any = "float32") -> str | dict[str, Any] | None:
    """How a Keras 3 config says it: a function's name, or a layer of that dtype; None if it cannot.

    Constants are compared as float32, since a file that passed through ONNX has 1/6 in float32. A layer as activation
    is loaded by newer versions only (3.15 does, 3.5 does not).

    >>> activation_config(Activation("hard_sigmoid")) is None
    True
    >>> activation_config(Activation("hard_sigmoid", 1 / 6))
    'hard_sigmoid'
    """
    alpha = activation.alpha
    for name, function in FUNCTIONS.items():
        if function.name == activation.name and _near(function.alpha, alpha) and _near(function.beta, activation.beta):
            return name
    if activation.name == "leaky_relu" and alpha is not None and alpha >= 0:
        return _layer("LeakyReLU", dtype, negative_slope=alpha)
    if activation.name == "elu":
        return _layer("ELU", dtype, alpha=alpha)
    if activation.name == "thresholded_relu" and alpha is not None and alpha > 0:
        return _layer("ReLU", dtype, max_value=None, negative_slope=0.0, threshold=alpha)
    return None


def _layer(kind: str, dtype: Any, **constants: float | None) -> dict[str, Any]:
    config = {"name": kind.lower(), "trainable": True, "dtype": dtype, **constants}
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}


def _near(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=2.0**-24))


# ---- what a layer can hold


def _activations(spec: Spec) -> str | None:
    """Why the activations of `spec` are not a Keras layer's, or None: an LSTM has one for candidate and output."""
    for direction in spec.directions:
        roles = ROLES[spec.cell]
        for role in roles:
            activation = spec.activation(role, direction)
            if activation_config(activation) is None:
                return f"{role} activation {activation}"
        candidate, output = spec.activation("candidate", direction), spec.activation(roles[-1], direction)
        if candidate != output:
            return f"candidate activation {candidate} beside output activation {output}"
    return None


def _biases(spec: Spec) -> tuple[str, ...]:
    """A GRU that resets after has both biases, every other layer has one."""
    return ("dual", "none") if spec.cell == "gru" and spec.reset_after else ("single", "none")


_DIRECTIONS = frozenset({("forward",), ("reverse",), ("forward", "reverse")})

HOLDS = Holds(
    name="keras",
    bias=dict.fromkeys(CELLS, ("single", "none")),
    activations=_activations,
    directions=_DIRECTIONS,
    merges=frozenset(MERGES),
    features=frozenset(
        {"reset after", "reset before", "outputs as processed", "activations that differ by direction"}
    ),
    bias_of=_biases,
)

#: What whoever loads a file of our own layer must know.
FAITHFUL_NOTE = "import lstmbridge.frameworks.keras.faithful before keras.models.load_model"

#: Our own layer, ``lstmbridge.frameworks.keras.faithful.Recurrent``.
FAITHFUL = Holds(
    name="keras",
    bias=dict.fromkeys(CELLS, BIASES),
    activations=any_activation,
    directions=_DIRECTIONS,
    merges=frozenset(MERGES),
    features=frozenset({*FEATURES, "forget constant"}),
)

# ---- optimizers

#: How Keras' optimizers differ from the canonical rules. Source: keras/src/optimizers/*.py.
OPTIMIZERS = Rules(
    epsilon={
        "adam": "before the bias correction: sqrt(v) + epsilon",
        "rmsprop": "inside the root: sqrt(v + epsilon)",
        "adagrad": "inside the root: sqrt(s + epsilon)",
    },
    through="float32",
)
