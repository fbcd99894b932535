"""A Keras layer that runs exactly a Spec, for the layers that no stock layer of Keras holds.

Its variables stand in the order and have the names and shapes of the layout. The equations are those of
`lstmbridge.reference`, in `keras.ops`; `keras.layers.RNN` walks the steps, so the layer trains, saves and compiles (XLA
too) on the tensorflow, torch and jax backends. Importing this module is what lets `keras.models.load_model` read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.keras.layout import LAYOUTS
from lstmbridge.spec import ROLES, Activation, Spec

__all__ = ["Recurrent"]

Tensor = Any
Shape = tuple[int | None, ...]


def _orthogonal(shape: Shape, dtype: Any = None) -> Tensor:
    """Keras' orthogonal initial weights; by way of float32 where tensorflow has no QR factorization of the dtype."""
    wide = "float32" if dtype == "bfloat16" else dtype
    return ops.cast(keras.initializers.Orthogonal()(shape, dtype=wide), dtype)


#: How each part starts, as in Keras' own layers.
INITIALIZERS: Mapping[str, Any] = {
    "kernel": "glorot_uniform",
    "recurrent_kernel": _orthogonal,
    "bias": "zeros",
    "peephole": "zeros",
    "projection": "glorot_uniform",
}

#: Every activation: x with its alpha and beta. Written out where `keras.ops` rounds its constants to float32.
FUNCTIONS: Mapping[str, Any] = {
    "sigmoid": lambda x, a, b: ops.sigmoid(x),
    "tanh": lambda x, a, b: ops.tanh(x),
    "relu": lambda x, a, b: ops.relu(x),
    "linear": lambda x, a, b: x,
    "softsign": lambda x, a, b: ops.softsign(x),
    "softplus": lambda x, a, b: ops.softplus(x),
    "selu": lambda x, a, b: ops.selu(x),
    "exponential": lambda x, a, b: ops.exp(x),
    "silu": lambda x, a, b: ops.silu(x),
    "hard_sigmoid": lambda x, a, b: ops.clip(a * x + b, 0, 1),
    "scaled_tanh": lambda x, a, b: a * ops.tanh(b * x),
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, b: ops.elu(x, a),
    "leaky_relu": lambda x, a, b: ops.where(x >= 0, x, a * x),
    "thresholded_relu": lambda x, a, b: ops.where(x > a, x, ops.zeros_like(x)),
}


def activate(activation: Activation, x: Tensor) -> Tensor:
    """The activation of every element, as `lstmbridge.reference.activate` has it."""
    return FUNCTIONS[activation.name](x, activation.alpha, activation.beta)


def clipped(x: Tensor, limit: float | None) -> Tensor:
    """x held in [-limit, limit]."""
    return x if limit is None else ops.clip(x, -limit, limit)


class Cell:
    """One direction of a Spec, one step at a time, as `keras.layers.RNN` asks for it.

    `weights` are its arrays by part. x is projected already: `project` does that for all steps at once.
    """

    def __init__(self, spec: Spec, direction: str, weights: Mapping[str, Tensor], dtype: str) -> None:
        self.spec, self.weights, self.compute_dtype = spec, weights, dtype
        self.state_size = [spec.state_size] + [spec.hidden_size] * (spec.cell == "lstm")
        self.output_size = spec.state_size
        self.activations = {role: spec.activation(role, direction) for role in ROLES[spec.cell]}
        steps: dict[str, Callable[..., tuple[Tensor, ...]]] = {"lstm": self.lstm, "gru": self.gru, "rnn": self.rnn}
        self.step = steps[spec.cell]
        self.inside = spec.cell == "gru" and spec.reset_after and spec.bias == "dual"

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.call(x, states)

    def call(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The output of one step and the new states."""
        new = [ops.cast(state, self.compute_dtype) for state in self.step(x, *states)]
        return new[0], new

    def project(self, x: Tensor) -> Tensor:
        """The inputs of all steps times the kernel, with every bias that does not stand inside a GRU's reset."""
        total = ops.matmul(x, self.weights["kernel"])
        for part in ("bias",) if self.inside else ("bias", "recurrent_bias"):
            total = total + self.weights[part] if part in self.weights else total
        return total

    def activated(self, role: str, x: Tensor) -> Tensor:
        """A gate from its pre-activation, clipped as the Spec says."""
        return activate(self.activations[role], clipped(x, self.spec.clip))

    def lstm(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """One LSTM step: the new h and c."""
        spec, w = self.spec, self.weights
        i, f, g, o = ops.split(x + ops.matmul(h, w["recurrent_kernel"]), 4, axis=-1)
        if spec.peepholes:
            p_i, p_f, p_o = ops.split(w["peephole"], 3)
            i, f = i + p_i * c, f + p_f * c
        i = self.activated("gate", i)
        f = 1 - i if spec.coupled else self.activated("gate", f + spec.forget_constant)
        c = clipped(f * c + i * self.activated("candidate", g), spec.cell_clip)
        o = o + p_o * c if spec.peepholes else o
        h = self.activated("gate", o) * activate(self.activations["output"], c)
        if spec.projection_size is not None:
            h = clipped(ops.matmul(h, w["projection"]), spec.proj_clip)
        return h, c

    def gru(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """One GRU step: the new h."""
        x_z, x_r, x_n = ops.split(x, 3, axis=-1)
        if self.spec.reset_after:
            total = ops.matmul(h, self.weights["recurrent_kernel"])
            total = total + self.weights["recurrent_bias"] if self.inside else total
            h_z, h_r, h_n = ops.split(total, 3, axis=-1)
            n = x_n + self.activated("gate", x_r + h_r) * h_n
        else:
            w_z, w_r, w_n = ops.split(self.weights["recurrent_kernel"], 3, axis=-1)
            h_z = ops.matmul(h, w_z)
            r = self.activated("gate", x_r + ops.matmul(h, w_r))
            n = x_n + ops.matmul(r * h, w_n)
        z = self.activated("gate", x_z + h_z)
        return ((1 - z) * self.activated("candidate", n) + z * h,)

    def rnn(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """One step of a vanilla RNN: the new h."""
        return (self.activated("candidate", x + ops.matmul(h, self.weights["recurrent_kernel"])),)


@keras.saving.register_keras_serializable(package="lstmbridge")
class Recurrent(keras.layers.Layer):  # type: ignore[misc]
    """A recurrent layer that computes what `spec` says, whatever it says.

    x (b, t, i) gives y (b, t, f), the directions merged as the Spec says (``none``: two outputs, forward and reverse);
    without `return_sequences` the last output (b, f) of each direction, merged: that of the last step that counts, or
    the initial state where no step does. `return_state` adds the last states, h_f, c_f, h_b, c_b (c for an LSTM only);
    `initial_state` is a list of the same. `mask` (b, t) says which steps count: the others give zero and leave the
    state alone. `spec` is a Spec or the dict of its JSON, as the layer's config holds it. Errors: LayoutError for
    inputs or states that are not the Spec's.

    >>> layer = Recurrent(Spec(cell="gru", input_size=5, hidden_size=11, reset_after=False))
    >>> tuple(layer(ops.zeros((2, 7, 5))).shape)
    (2, 7, 11)
    """

    def __init__(
        self,
        spec: Spec | Mapping[str, Any],
        *,
        return_sequences: bool = True,
        return_state: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec if isinstance(spec, Spec) else Spec.from_json(json.dumps(dict(spec)))
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.supports_masking = True
        self.arrays: dict[str, Any] = {}

    def build(self, x_shape: Shape, initial_state_shape: Any = None) -> None:
        """Makes the variables, in the order of the layout's keys: ``forward.kernel`` is named ``forward_kernel``."""
        if len(x_shape) != 3 or x_shape[-1] != self.spec.input_size:
            raise LayoutError(
                f"keras Recurrent {self.name!r}: x has shape {tuple(x_shape)}",
                f"expected b t i with i = {self.spec.input_size}",
            )
        layout = LAYOUTS[self.spec.cell]
        parts = {place.key: name.split(".")[1] for name, place in reversed(layout.places(self.spec).items())}
        for key, shape in layout.shapes(self.spec).items():
            initializer = INITIALIZERS[parts[key]]
            self.arrays[key] = self.add_weight(name=key.replace(".", "_"), shape=shape, initializer=initializer)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: self.spec.input_size})

    # Keras fills `mask` from x where x is the only tensor given, and `x_mask` where initial_state is given too.
    def call(
        self,
        x: Tensor,
        mask: Tensor = None,
        initial_state: Any = None,
        training: bool | None = None,
        x_mask: Tensor = None,
    ) -> Any:
        """The outputs, as the class says; `training` changes nothing."""
        states = self._states(initial_state)
        outcomes = [
            self._direction(direction, x, x_mask if mask is None else mask, state)
            for direction, state in zip(self.spec.directions, states, strict=True)
        ]
        ys = merged(self.spec, [y for y, _ in outcomes])
        last = [state for _, each in outcomes for state in each] if self.return_state else []
        return (*ys, *last) if len(ys) + len(last) > 1 else ys[0]

    def _direction(self, direction: str, x: Tensor, mask: Tensor, state: Any) -> tuple[Tensor, list[Tensor]]:
        """One direction: its outputs (only the last without `return_sequences`) and its last states."""
        cell = Cell(self.spec, direction, self._weights(direction), self.compute_dtype)
        steps = keras.layers.RNN(
            cell,
            return_sequences=self.return_sequences,
            return_state=True,
            go_backwards=direction == "reverse",
            zero_output_for_mask=True,
            dtype=self.dtype_policy,
            name=direction,
        )
        y, *last = steps(cell.project(x), initial_state=state, mask=mask)
        if not self.return_sequences:
            return last[0], last
        backwards = direction == "reverse" and not self.spec.processed_order
        return (ops.flip(y, axis=1) if backwards else y), last

    def _weights(self, direction: str) -> dict[str, Tensor]:
        """The arrays of one direction by part; where two parts share an array, each has its row of it."""
        places = LAYOUTS[self.spec.cell].places(self.spec)
        weights: dict[str, Tensor] = {}
        for part, gates in self.spec.parts.items():
            place = places[".".join([direction, part, *gates[:1]])]
            array = ops.convert_to_tensor(self.arrays[place.key])
            shared = self.spec.bias == "dual" and part in ("bias", "recurrent_bias")
            weights[part] = array[place.index[0]] if shared else array
        return weights

    def _states(self, given: Any) -> list[Any]:
        """The initial states of each direction; None for zeros. Errors: LayoutError for a wrong number of them."""
        each = 2 if self.spec.cell == "lstm" else 1
        directions = len(self.spec.directions)
        if given is None:
            return [None] * directions
        states = list(given) if isinstance(given, (list, tuple)) else [given]
        sizes = self._state_sizes()
        found = [tuple(state.shape) for state in states]
        if len(states) != len(sizes) or any(shape[1:] != (size,) for shape, size in zip(found, sizes, strict=True)):
            raise LayoutError(  # one text: of an error inside `call` Keras repeats only the first argument
                f"keras Recurrent {self.name!r}: initial_state has shapes {', '.join(map(str, found))}\n"
                f"  expected {len(sizes)}: {', '.join(f'(b, {size})' for size in sizes)}"
            )
        return [states[d * each : (d + 1) * each] for d in range(directions)]

    def _state_sizes(self) -> list[int]:
        """The size of every state, in the order in which they are given out."""
        each = [self.spec.state_size] + [self.spec.hidden_size] * (self.spec.cell == "lstm")
        return each * len(self.spec.directions)

    def compute_output_shape(self, x_shape: Shape, initial_state_shape: Any = None) -> Any:
        """The shape of every output, in the order of `call`'s."""
        steps = x_shape[: 2 if self.return_sequences else 1]
        ys = [(*steps, self.spec.output_size)] * (2 if self.spec.merge == "none" else 1)
        last = [(x_shape[0], size) for size in self._state_sizes()] if self.return_state else []
        return (*ys, *last) if len(ys) + len(last) > 1 else ys[0]

    def compute_mask(self, x: Tensor, mask: Tensor = None) -> Any:
        """The mask of every output: x's for sequences, in the order of the outputs' time; none for the rest."""
        if mask is None or not self.return_sequences:
            return None
        of_y = ops.flip(mask, axis=1) if self.spec.processed_order else mask
        ys = [of_y] * (2 if self.spec.merge == "none" else 1)
        last = [None] * len(self._state_sizes()) if self.return_state else []
        return [*ys, *last] if len(ys) + len(last) > 1 else of_y

    def get_config(self) -> dict[str, Any]:
        """What makes this layer again; ``spec`` is the Spec's JSON."""
        own = {
            "spec": json.loads(self.spec.to_json()),
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
        }
        return {**super().get_config(), **own}


def merged(spec: Spec, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of all directions as the layer gives them: one, or two for ``none``."""
    if len(outputs) == 1 or spec.merge == "none":
        return list(outputs)
    forward, reverse = outputs
    if spec.merge == "concat":
        return [ops.concatenate([forward, reverse], axis=-1)]
    if spec.merge == "mul":
        return [forward * reverse]
    return [(forward + reverse) / (2 if spec.merge == "ave" else 1)]
