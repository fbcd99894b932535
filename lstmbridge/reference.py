"""The equations of LSTM, GRU and RNN, once, in float64 NumPy: the witness that belongs to no framework.

Written to be read next to a textbook. ``@`` is the matrix product, ``*`` the elementwise one; a step takes the input
x (b, i) and the state h (b, p), c (b, h) to the next state. A kernel is (h, i), a recurrent_kernel (h, p), a bias or
peephole (h,).

Source of the equations: the ONNX operators LSTM, GRU and RNN (which list peepholes, clip, coupled gates and every
activation), and for the clips of cell and projection, TensorFlow 1's LSTMCell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.arrays import host
from lstmbridge.errors import LayoutError
from lstmbridge.layer import Layer
from lstmbridge.spec import Activation, Spec

__all__ = ["Outcome", "activate", "gru_step", "lstm_step", "merge", "rnn_step", "run", "run_stack"]

Float = npt.NDArray[np.float64]
State = tuple[Float, Float]
Weights = Mapping[str, Float]


@dataclass(frozen=True)
class Outcome:
    """What one layer gives for a batch of sequences.

    y  (b, t, f): outputs, the directions merged as the Spec says (``none``: side by side); zero on padded steps
    h  (d, b, p): the last hidden state of each direction
    c  (d, b, h): the last cell state of each direction; None where the cell has none
    """

    y: Float
    h: Float
    c: Float | None


def sigmoid(x: Float) -> Float:
    """1 / (1 + exp(-x)), without overflow at either end."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

FUNCTIONS: Mapping[str, Callable[[Float, Any, Any], Float]] = {
    "sigmoid": lambda x, a, b: sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "linear": lambda x, a, b: x,
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: np.logaddexp(x, 0),
    "selu": lambda x, a, b: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "exponential": lambda x, a, b: np.exp(x),
    "silu": lambda x, a, b: x * sigmoid(x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "thresholded_relu": lambda x, a, b: np.where(x > a, x, 0),
}


def activate(activation: Activation, x: Float) -> Float:
    """The activation of every element.

    >>> activate(Activation("hard_sigmoid"), np.array([-9.0, 1.0, 9.0])).tolist()
    [0.0, 0.7, 1.0]
    """
    return FUNCTIONS[activation.name](x, activation.alpha, activation.beta)


def _clip(x: Float, limit: float | None) -> Float:
    return x if limit is None else np.clip(x, -limit, limit)


def lstm_step(w: Weights, spec: Spec, direction: str, x: Float, h: Float, c: Float) -> State:
    """One LSTM step: x (b, i), h (b, p), c (b, h) -> the new h and c. `w` holds one direction, e.g. ``kernel.f``."""

    def total(gate: str) -> Float:
        return x @ w[f"kernel.{gate}"].T + h @ w[f"recurrent_kernel.{gate}"].T + _bias(w, gate)

    def peep(gate: str, cell: Float) -> Float | float:
        return w[f"peephole.{gate}"] * cell if spec.peepholes else 0.0

    gate, candidate, output = (spec.activation(role, direction) for role in ("gate", "candidate", "output"))
    i = activate(gate, _clip(total("i") + peep("i", c), spec.clip))
    f = activate(gate, _clip(total("f") + peep("f", c) + spec.forget_constant, spec.clip))
    f = 1 - i if spec.coupled else f
    g = activate(candidate, _clip(total("g"), spec.clip))
    c = _clip(f * c + i * g, spec.cell_clip)
    o = activate(gate, _clip(total("o") + peep("o", c), spec.clip))
    h = o * activate(output, c)
    h = h if spec.projection_size is None else _clip(h @ w["projection"].T, spec.proj_clip)
    return h, c


def gru_step(w: Weights, spec: Spec, direction: str, x: Float, h: Float, c: Float) -> State:
    """One GRU step; c is passed through untouched."""

    def total(gate: str) -> Float:
        return x @ w[f"kernel.{gate}"].T + h @ w[f"recurrent_kernel.{gate}"].T + _bias(w, gate)

    gate, candidate = (spec.activation(role, direction) for role in ("gate", "candidate"))
    r = activate(gate, _clip(total("r"), spec.clip))
    z = activate(gate, _clip(total("z"), spec.clip))
    inputs = x @ w["kernel.n"].T + w.get("bias.n", 0.0)
    if spec.reset_after:
        n = inputs + r * (h @ w["recurrent_kernel.n"].T + w.get("recurrent_bias.n", 0.0))
    else:
        n = inputs + (r * h) @ w["recurrent_kernel.n"].T + w.get("recurrent_bias.n", 0.0)
    n = activate(candidate, _clip(n, spec.clip))
    h = (1 - z) * n + z * h
    return h, c


def rnn_step(w: Weights, spec: Spec, direction: str, x: Float, h: Float, c: Float) -> State:
    """One step of a vanilla RNN; c is passed through untouched."""
    total = x @ w["kernel.n"].T + h @ w["recurrent_kernel.n"].T + _bias(w, "n")
    return activate(spec.activation("candidate", direction), _clip(total, spec.clip)), c


def _bias(w: Weights, gate: str) -> Float | float:
    return w.get(f"bias.{gate}", 0.0) + w.get(f"recurrent_bias.{gate}", 0.0)


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}


def run(
    layer: Layer,
    x: npt.ArrayLike,
    *,
    h0: npt.ArrayLike | None = None,
    c0: npt.ArrayLike | None = None,
    lengths: Sequence[int] | None = None,
    mask: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> Outcome:
    """What the equations give for sequences x (b, t, i), in float64.

    h0 (d, b, p) and c0 (d, b, h) are the initial states, zero if left out. `lengths` (b,) gives how many steps of each
    sequence count; `mask` (b, t) says it step by step. A step that does not count leaves the state as it is and gives
    zero; so a reverse layer begins at the last step that counts. Another `dtype` shows what these equations lose when
    they are computed in it. Errors: LayoutError for a wrong shape.

    >>> one = {"n": np.array([[1.0]])}
    >>> layer = Layer.from_gates(kernel=one, recurrent_kernel=one, activations=["linear"])
    >>> run(layer, np.ones((1, 3, 1))).y.ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    spec = layer.spec
    x = np.asarray(x, dtype)
    _expect("x", x.shape, (*x.shape[:2], spec.input_size))
    keep = _mask(x.shape[0], x.shape[1], lengths, mask)
    first_h = _state("h0", h0, (len(spec.directions), len(x), spec.state_size), x)
    first_c = _state("c0", c0, (len(spec.directions), len(x), spec.hidden_size), x)
    outcomes = [
        _direction(layer, direction, x, first_h[d], first_c[d], keep) for d, direction in enumerate(spec.directions)
    ]
    y = merge(spec, [y for y, _, _ in outcomes])
    h = np.stack([h for _, h, _ in outcomes])
    return Outcome(y, h, np.stack([c for _, _, c in outcomes]) if spec.cell == "lstm" else None)


def _direction(
    layer: Layer, direction: str, x: Float, h: Float, c: Float, keep: npt.NDArray[np.bool_]
) -> tuple[Float, Float, Float]:
    """One direction over all steps: outputs (b, t, p) in forward time, last h, last c."""
    prefix = f"{direction}."
    mine = {name.removeprefix(prefix): array for name, array in layer.weights.items() if name.startswith(prefix)}
    w = {name: np.asarray(host(array), x.dtype) for name, array in mine.items()}
    step = STEPS[layer.spec.cell]
    y = np.zeros((*x.shape[:2], layer.spec.state_size), x.dtype)
    times = range(x.shape[1]) if direction == "forward" else reversed(range(x.shape[1]))
    for t in times:
        valid = keep[:, t, None]
        new_h, new_c = step(w, layer.spec, direction, x[:, t], h, c)
        h, c = np.where(valid, new_h, h), np.where(valid, new_c, c)
        y[:, t] = np.where(valid, new_h, 0)
    return y, h, c


def merge(spec: Spec, outputs: Sequence[Float]) -> Float:
    """The outputs of all directions as the layer gives them: (b, t, f)."""
    if len(outputs) == 1:
        return outputs[0][:, ::-1] if spec.processed_order else outputs[0]
    forward, reverse = outputs
    if spec.merge in ("concat", "none"):
        return np.concatenate([forward, reverse], axis=-1)
    if spec.merge == "mul":
        return forward * reverse
    return (forward + reverse) / (2 if spec.merge == "ave" else 1)


def run_stack(
    layers: Sequence[Layer],
    x: npt.ArrayLike,
    *,
    h0: Sequence[npt.ArrayLike] | None = None,
    c0: Sequence[npt.ArrayLike] | None = None,
    lengths: Sequence[int] | None = None,
    mask: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> list[Outcome]:
    """The layers one after another, each reading the outputs of the one before: an Outcome a layer."""
    outcomes: list[Outcome] = []
    for n, layer in enumerate(layers):
        inputs = outcomes[-1].y if outcomes else x
        states = {"h0": h0[n] if h0 is not None else None, "c0": c0[n] if c0 is not None else None}
        outcomes.append(run(layer, inputs, lengths=lengths, mask=mask, dtype=dtype, **states))
    return outcomes


def _mask(
    batch: int, time: int, lengths: Sequence[int] | None, mask: npt.ArrayLike | None
) -> npt.NDArray[np.bool_]:
    keep = np.ones((batch, time), bool) if mask is None else np.asarray(mask, bool)
    _expect("mask", keep.shape, (batch, time))
    if lengths is None:
        return keep
    _expect("lengths", np.shape(lengths), (batch,))
    return keep & (np.arange(time) < np.asarray(lengths)[:, None])


def _state(name: str, value: npt.ArrayLike | None, shape: tuple[int, ...], like: Float) -> Float:
    if value is None:
        return np.zeros(shape, like.dtype)
    state = np.asarray(value, like.dtype)
    _expect(name, state.shape, shape)
    return state


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise LayoutError(f"{name} has shape {tuple(found)}", f"expected {tuple(expected)}")
