"""Where every weight stands in each framework's own layer, said a second time: plainly, and from other sources.

The converter says it in a notation, once for both directions; a slip in that one line is made in reading and in writing
alike and cancels out on the way there and back. This file shares nothing with it but the names of a Layer's gates. Each
function is written from the documentation it names, in concatenate, stack and transpose, so that a reader can hold
every line against the source.

What no layer of a framework has (peepholes in torch, a projection in Keras) is refused elsewhere: here it is a
LookupError, and so are the project's own modules, which are no framework's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lstmbridge import Layer

Arrays = dict[str, np.ndarray]


def stated(framework: str, layer: Layer) -> Arrays:
    """Every array of that framework's own layer by its name there, from the gates of one layer.

    The layer may be as the framework holds it already, or as it was before: a bias that is missing where one is always
    stored is zeros, two where there is room for one are their sum, and a forget constant is added to the bias. Errors:
    LookupError for a feature that no layer of the framework has a place for.
    """
    return STATED[framework](layer)


def matches(framework: str, found: Mapping[str, Any], expected: Arrays) -> Iterator[tuple[str, Any, Any]]:
    """Each array as (name, found, expected); None for the side that has no such array.

    `found` holds the arrays of one layer by the framework's own names, those of a model as well:
    ``encoder.rnn.weight_ih_l0``, ``enc.W``, or the path of a Keras variable, ``encoder/lstm_cell/kernel``.
    """
    answered = set()
    for key, array in expected.items():
        names = [name for name in found if _is_called(framework, name, key)]
        answered.update(names)
        yield from ((name, found[name], array) for name in names)
        if not names:
            yield key, None, array
    yield from ((name, array, None) for name, array in found.items() if name not in answered)


def _is_called(framework: str, name: str, key: str) -> bool:
    """Whether an array of that name is the one that `stated` calls `key`."""
    if framework != "keras":
        return name == key or name.endswith((f".{key}", f"/{key}"))
    # keras/src/layers/rnn/bidirectional.py: bidirectional/forward_lstm/lstm_cell/kernel
    direction, _, weight = key.rpartition("/")
    _, layer, _, last = ["", "", "", *name.split("/")][-4:]
    return last == weight and (not direction or layer.startswith(f"{direction}_"))


# ---- the gates of one direction, in the order in which a framework puts them


def _gates(layer: Layer, direction: str, part: str, order: str) -> list[np.ndarray]:
    return [np.asarray(layer[f"{direction}.{part}.{gate}"]) for gate in order]


def _bias(layer: Layer, direction: str, order: str) -> list[np.ndarray]:
    """The input's biases, with the forget constant; zeros where there are none."""
    if layer.spec.bias == "none":
        biases = [np.zeros_like(kernel[:, 0]) for kernel in _gates(layer, direction, "kernel", order)]
    else:
        biases = _gates(layer, direction, "bias", order)
    constant = {"f": layer.spec.forget_constant}
    return [bias + constant.get(gate, 0.0) for gate, bias in zip(order, biases, strict=True)]


def _recurrent_bias(layer: Layer, direction: str, order: str) -> list[np.ndarray]:
    """The recurrent biases; zeros where there are none."""
    if layer.spec.bias == "dual":
        return _gates(layer, direction, "recurrent_bias", order)
    return [np.zeros_like(kernel[:, 0]) for kernel in _gates(layer, direction, "kernel", order)]


def _has_bias(layer: Layer) -> bool:
    return layer.spec.bias != "none" or layer.spec.forget_constant != 0


def _no_place(framework: str, layer: Layer, *fields: str) -> None:
    """Errors: LookupError if the layer has one of these features of a Spec."""
    for field in fields:
        if getattr(layer.spec, field):
            raise LookupError(f"no layer of {framework} has a place for {field}: {layer.spec}")


# ---- the frameworks


def _torch(layer: Layer) -> Arrays:
    """torch.nn.LSTM, GRU and RNN with one level; the names are those of `named_parameters`.

    Source: torch/nn/modules/rnn.py, "Attributes" of each class: ``weight_ih_l[k]`` is ``(W_ii|W_if|W_ig|W_io)`` of
    shape (4*hidden_size, input_size), ``(W_ir|W_iz|W_in)`` for a GRU; ``weight_hr_l[k]`` is (proj_size, hidden_size); a
    GRU has ``h_t = (1 - z_t) n_t + z_t h_(t-1)``.
    """
    _no_place("torch", layer, "peepholes")
    if "forward" not in layer.spec.directions:
        raise LookupError("torch has no layer that runs in reverse only")
    order = {"lstm": "ifgo", "gru": "rzn", "rnn": "n"}[layer.spec.cell]
    arrays: Arrays = {}
    for direction, suffix in (("forward", ""), ("reverse", "_reverse")):
        if direction not in layer.spec.directions:
            continue
        arrays["weight_ih_l0" + suffix] = np.concatenate(_gates(layer, direction, "kernel", order))
        arrays["weight_hh_l0" + suffix] = np.concatenate(_gates(layer, direction, "recurrent_kernel", order))
        if _has_bias(layer):
            arrays["bias_ih_l0" + suffix] = np.concatenate(_bias(layer, direction, order))
            arrays["bias_hh_l0" + suffix] = np.concatenate(_recurrent_bias(layer, direction, order))
        if layer.spec.projection_size is not None:
            arrays["weight_hr_l0" + suffix] = np.asarray(layer[f"{direction}.projection"])
    return arrays


def _keras(layer: Layer) -> Arrays:
    """keras.layers.LSTM, GRU and SimpleRNN: kernel, recurrent_kernel and bias.

    A Bidirectional has them twice, as ``forward/kernel`` and ``backward/kernel``; a layer with go_backwards once.

    Source: keras/src/layers/rnn/lstm.py, `LSTMCell.build` (kernel is (input_dim, units * 4)) and
    `_compute_carry_and_output` (columns i, f, c, o); gru.py, `GRUCell.call` (columns z, r, h;
    ``h = z * h_tm1 + (1 - z) * hh``) and `build` (with reset_after the bias is (2, 3 * units), the input's row first);
    simple_rnn.py; bidirectional.py.
    """
    _no_place("keras", layer, "peepholes", "projection_size")
    both = layer.spec.bidirectional
    arrays: Arrays = {}
    for direction, prefix in (("forward", "forward/" if both else ""), ("reverse", "backward/" if both else "")):
        if direction in layer.spec.directions:
            arrays.update({prefix + name: array for name, array in _keras_direction(layer, direction).items()})
    return arrays


def _keras_direction(layer: Layer, direction: str) -> Arrays:
    order = {"lstm": "ifgo", "gru": "zrn", "rnn": "n"}[layer.spec.cell]
    kernels = _gates(layer, direction, "kernel", order)
    recurrent = _gates(layer, direction, "recurrent_kernel", order)
    arrays = {
        "kernel": np.concatenate([kernel.T for kernel in kernels], axis=1),
        "recurrent_kernel": np.concatenate([kernel.T for kernel in recurrent], axis=1),
    }
    if not _has_bias(layer):
        return arrays
    bias = np.concatenate(_bias(layer, direction, order))
    recurrent_bias = np.concatenate(_recurrent_bias(layer, direction, order))
    inside = layer.spec.cell == "gru" and layer.spec.reset_after
    return {**arrays, "bias": np.stack([bias, recurrent_bias]) if inside else bias + recurrent_bias}


def _onnx(layer: Layer) -> Arrays:
    """The inputs W, R, B and P of a node LSTM, GRU or RNN, each with the directions along axis 0.

    Source: the operators' documentation, `onnx.defs.get_schema("LSTM").doc` and `inputs`: ``W[iofc]`` of shape
    (num_directions, 4*hidden_size, input_size), B is ``[Wb[iofc], Rb[iofc]]``, ``P[iof]``; a GRU has ``W[zrh]`` and
    ``Ht = (1 - zt) (.) ht + zt (.) Ht-1``. B and P may be left out: "assumed to be 0".
    """
    _no_place("onnx", layer, "projection_size")
    order = {"lstm": "iofg", "gru": "zrn", "rnn": "n"}[layer.spec.cell]
    directions = layer.spec.directions
    arrays = {
        "W": np.stack([np.concatenate(_gates(layer, d, "kernel", order)) for d in directions]),
        "R": np.stack([np.concatenate(_gates(layer, d, "recurrent_kernel", order)) for d in directions]),
    }
    if _has_bias(layer):
        arrays["B"] = np.stack(
            [np.concatenate(_bias(layer, d, order) + _recurrent_bias(layer, d, order)) for d in directions]
        )
    if layer.spec.peepholes:
        arrays["P"] = np.stack([np.concatenate(_gates(layer, d, "peephole", "iof")) for d in directions])
    return arrays


def _gates_themselves(layer: Layer) -> Arrays:
    """The project's own form holds every Layer as it is. Source: lstmbridge/spec.py, the conventions."""
    return {name: np.asarray(layer[name]) for name in layer.spec.names()}


STATED: Mapping[str, Callable[[Layer], Arrays]] = {
    "torch": _torch,
    "keras": _keras,
    "onnx": _onnx,
    "gates": _gates_themselves,
}
