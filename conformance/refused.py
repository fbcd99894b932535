"""What each framework's own layers cannot hold, said a second time: as plain rules from their documentation.

Missing biases, two biases that are only ever added, and a forget constant are no reason: zeros, a sum and a fold hold
them. Every reason is a phrase that the refusal's message must contain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lstmbridge.spec import ROLES, Activation, Spec


def refused(framework: str, spec: Spec) -> str | None:
    """What the message must say if no layer of that framework's own can hold `spec`; None if one can."""
    return REFUSED[framework](spec)


def refused_faithful(framework: str, spec: Spec) -> str | None:
    """The same for the project's own module of that framework. Errors: LookupError for a framework without one.

    Source: the docstrings of `lstmbridge.frameworks.keras.faithful.Recurrent` and of torch's: a layer that computes
    what its Spec says, "whatever it says".
    """
    if framework not in ("keras", "torch"):
        raise LookupError(f"there is no module of the project's own for {framework}")
    return None


def _torch(spec: Spec) -> str | None:
    """torch.nn.LSTM, GRU and RNN. Source: torch/nn/modules/rnn.py, the docstring of each class and `RNNBase`."""
    return (
        _peepholes(spec)
        or _coupled(spec)
        or _any_clip(spec)
        or _torch_directions(spec)
        or _torch_activations(spec)
        or _torch_projection(spec)
        or ("reset_after=False" if not spec.reset_after else None)  # n = tanh(W x + b + r * (R h + b))
    )


def _torch_directions(spec: Spec) -> str | None:
    """Forward, or bidirectional with both outputs side by side, "view(seq_len, batch, num_directions, hidden_size)"."""
    if spec.directions == ("reverse",):
        return "outputs as processed" if spec.processed_order else "outputs of a reverse layer in forward time"
    return f"merged by {spec.merge}" if spec.merge not in ("concat", "none") else None


def _torch_activations(spec: Spec) -> str | None:
    """Only RNN has a choice, `nonlinearity`: tanh or relu."""
    known = {
        "lstm": (("sigmoid",), ("tanh",), ("tanh",)),
        "gru": (("sigmoid",), ("tanh",)),
        "rnn": (("tanh", "relu"),),
    }[spec.cell]
    if spec.bidirectional and spec.reverse_activations is not None:
        return "activations that differ by direction"
    strange = (f"activation {a}" for a, names in zip(spec.activations, known, strict=True) if a.name not in names)
    return next(strange, None)


def _torch_projection(spec: Spec) -> str | None:
    """`proj_size` "has to be smaller than hidden_size"."""
    size = spec.projection_size
    return "projection" if size is not None and size >= spec.hidden_size else None


#: keras/src/activations/activations.py: the functions a layer can name that have no constants.
KERAS_NAMES = ("sigmoid", "tanh", "relu", "linear", "softsign", "softplus", "selu", "exponential", "silu")


def _keras(spec: Spec) -> str | None:
    """keras.layers.LSTM, GRU, SimpleRNN and Bidirectional. Source: keras/src/layers/rnn, Keras 3."""
    return (
        _projection(spec)
        or _peepholes(spec)
        or _coupled(spec)
        or _any_clip(spec)
        or _keras_directions(spec)
        or _keras_activations(spec)
    )


def _keras_directions(spec: Spec) -> str | None:
    """go_backwards gives the outputs in the order of processing; Bidirectional has every merge_mode."""
    if spec.directions == ("reverse",) and not spec.processed_order:
        return "outputs of a reverse layer in forward time"
    return None


def _keras_activations(spec: Spec) -> str | None:
    """`recurrent_activation` for the gates, `activation` for candidate and output; a backward_layer has its own."""
    for direction in spec.directions:
        found = [spec.activation(role, direction) for role in ROLES[spec.cell]]
        strange = next((f"activation {activation}" for activation in found if not _keras_has(activation)), None)
        if strange:
            return strange
        if spec.cell == "lstm" and found[1] != found[2]:
            return f"output activation {found[2]}"
    return None


def _keras_has(activation: Activation) -> bool:
    """Whether a layer can name it, or hold it as a layer of keras/src/layers/activations, which has its constant."""
    name, alpha = activation.name, activation.alpha or 0.0
    if name == "hard_sigmoid":  # "(x/6) + 0.5"; files give the constant in float32
        return (np.float32(alpha), activation.beta) == (np.float32(1 / 6), 0.5)
    if name == "leaky_relu":  # LeakyReLU: negative_slope is "Float >= 0.0"
        return alpha >= 0
    if name == "thresholded_relu":  # ReLU: threshold is "Float >= 0"; at 0 it is no threshold, and named relu
        return alpha > 0
    return name == "elu" or name in KERAS_NAMES


#: `onnx.defs.get_schema("LSTM").doc`: the activation functions, each with any alpha and beta; Affine(1, 0) is linear.
ONNX_ACTIVATIONS = (
    "relu",
    "tanh",
    "sigmoid",
    "affine",
    "linear",
    "leaky_relu",
    "thresholded_relu",
    "scaled_tanh",
    "hard_sigmoid",
    "elu",
    "softsign",
    "softplus",
)


def _onnx(spec: Spec) -> str | None:
    """The operators LSTM, GRU and RNN, with what it takes to give out one sequence.

    Source: `onnx.defs.get_schema`. A node gives Y with an axis for the directions, in forward time; Squeeze, Reshape,
    ReduceSum, ReduceProd or ReduceMean behind it merge them in every way there is, and a Slice with the step -1 (opset
    10) gives them as processed. P, clip and input_forget are the node's own; clip acts on what goes into the gates.
    """
    if spec.cell_clip is not None:
        return f"cell clip {spec.cell_clip:g}"
    found = [spec.activation(role, direction) for direction in spec.directions for role in ROLES[spec.cell]]
    strange = (f"activation {activation}" for activation in found if activation.name not in ONNX_ACTIVATIONS)
    return _projection(spec) or next(strange, None)


def _gates(spec: Spec) -> str | None:
    """The project's own form holds every Spec."""
    return None


def _projection(spec: Spec) -> str | None:
    return None if spec.projection_size is None else f"projection_size {spec.projection_size}"


def _peepholes(spec: Spec) -> str | None:
    return "peepholes" if spec.peepholes else None


def _coupled(spec: Spec) -> str | None:
    return "coupled input-forget" if spec.coupled else None


def _any_clip(spec: Spec) -> str | None:
    """No equation of torch or Keras has a clip."""
    clips = {"clip": spec.clip, "cell clip": spec.cell_clip, "projection clip": spec.proj_clip}
    return next((f"{name} {value:g}" for name, value in clips.items() if value is not None), None)


REFUSED: Mapping[str, Callable[[Spec], str | None]] = {
    "torch": _torch,
    "keras": _keras,
    "onnx": _onnx,
    "gates": _gates,
}
