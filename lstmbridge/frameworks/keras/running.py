"""Running one recurrent layer of Keras so that it gives everything: all outputs, and the last states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers as kl

from lstmbridge.contract import InitialStates, Outputs
from lstmbridge.errors import Unsupported
from lstmbridge.frameworks.keras.layout import STATES
from lstmbridge.frameworks.keras.objects import CELL_CLASSES
from lstmbridge.layer import Layer
from lstmbridge.statenotation import apart, together

__all__ = ["Host", "call", "host", "run_layer", "runnable_of", "tensor"]

Host = npt.NDArray[Any]


def run_layer(
    keras_layer: Any,
    layers: Sequence[Layer],
    x: Host,
    h0: InitialStates,
    c0: InitialStates,
    keep: npt.NDArray[np.bool_] | None,
) -> Outputs:
    """What a Keras layer gives for x (b, t, i), where `layers` are it, or some consecutive levels of it.

    `keep` (b, t) says which steps count; None: all of them.

    The layer is as it was afterwards. Errors: those of `runnable_of`.
    """
    runnable = runnable_of(keras_layer, layers, masked=keep is not None)
    found = call(runnable, layers, tensor(x, layers[0].dtype), h0, c0, keep)
    return _outputs(layers, [host(each) for each in found], keep)


def runnable_of(keras_layer: Any, layers: Sequence[Layer], *, masked: bool) -> Any:
    """The layer itself; for a cell, or for some of the stacked cells, an RNN of them; of a stateful layer a copy.

    Errors: Unsupported for float64 with a backend that computes it in float32, and for a mask in stacked cells that go
    backwards (each level would begin in the padding).
    """
    backend = keras.backend.backend()
    if layers[0].dtype == "float64" and backend != "tensorflow":
        raise Unsupported(
            f"keras: the {backend} backend computes float64 layers in float32", "run it with KERAS_BACKEND=tensorflow"
        )
    if masked and len(layers) > 1 and layers[0].spec.processed_order:
        raise Unsupported(f"keras RNN {layers[0].path!r}: a mask in stacked cells that go backwards", "leave one out")
    return _runnable(keras_layer, layers)


def call(
    runnable: Any,
    layers: Sequence[Layer],
    x: Any,
    h0: InitialStates,
    c0: InitialStates,
    keep: npt.NDArray[np.bool_] | None,
) -> list[Any]:
    """What a layer gives for a tensor x (b, t, i): its outputs (two for ``none``), then every state, level by level."""
    with _giving_all(runnable):
        found = runnable(
            x,
            initial_state=_given(layers, h0, c0, len(x)),
            mask=None if keep is None else keras.ops.convert_to_tensor(keep),
        )
    return list(keras.tree.flatten(found))


def _runnable(layer: Any, layers: Sequence[Layer]) -> Any:
    if isinstance(layer, CELL_CLASSES):
        return kl.RNN(layer, dtype=layer.dtype_policy)
    if getattr(layer, "stateful", False):
        return _stateless(layer, layers[0].spec.input_size)
    stack = layer if isinstance(layer, kl.StackedRNNCells) else getattr(layer, "cell", None)
    cells = getattr(stack, "cells", None)
    if cells is None or (stack is not layer and len(cells) == len(layers)):
        return layer
    chosen = kl.StackedRNNCells([cells[each.level or 0] for each in layers], dtype=layer.dtype_policy)
    return kl.RNN(chosen, dtype=layer.dtype_policy, go_backwards=layers[0].spec.processed_order)


def _stateless(layer: Any, features: int) -> Any:
    """A copy of a stateful layer that is not: those can mask and return their state, and take any batch."""
    node = {"module": "keras.layers", "class_name": type(layer).__name__, "registered_name": None}
    text = json.dumps({**node, "config": layer.get_config()}).replace('"stateful": true', '"stateful": false')
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    copy.build((None, None, features))
    own = [variable for variable in layer.weights if variable.name != "rnn_state"]
    for variable, source in zip(copy.weights, own, strict=True):
        variable.assign(source)
        variable.trainable = source.trainable
    return copy


@contextmanager
def _giving_all(layer: Any) -> Iterator[None]:
    """While it lasts, the layer gives its whole sequence and its states, and masks with zeros."""
    wish = {"return_sequences": True, "return_state": True, "zero_output_for_mask": True}
    inner = [getattr(layer, name) for name in ("forward_layer", "backward_layer") if hasattr(layer, name)]
    with ExitStack() as undo:
        for each in (layer, *inner):
            for name, value in wish.items():
                if hasattr(each, name):
                    undo.callback(setattr, each, name, getattr(each, name))
                    setattr(each, name, value)
        yield


def tensor(value: Any, dtype: str) -> Any:
    """`value` as a tensor of the backend, in that dtype."""
    return keras.ops.convert_to_tensor(np.asarray(value), dtype=dtype)


def _given(layers: Sequence[Layer], h0: InitialStates, c0: InitialStates, batch: int) -> Any:
    """The initial states as the layer takes them; None for zeros."""
    if h0 is None and c0 is None:
        return None
    specs = [layer.spec for layer in layers]
    form = STATES["list"]
    arrays = form.layout.pack(apart(specs, h0, c0, batch), specs)
    return form.hold({key: tensor(array, layers[0].dtype) for key, array in arrays.items()}, specs)


def host(result: Any) -> Host:
    """A result on the host; half precision as float32, which numpy computes with."""
    array = np.asarray(keras.ops.convert_to_numpy(result))
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _outputs(layers: Sequence[Layer], found: list[Host], keep: npt.NDArray[np.bool_] | None) -> Outputs:
    """The results of a layer, which come flat, by what they are; outputs of steps that do not count are zero."""
    last = layers[-1].spec
    two = last.bidirectional and last.merge == "none"
    y = np.concatenate(found[:2], axis=-1) if two else np.array(found[0])
    specs = [layer.spec for layer in layers]
    form = STATES["list"]
    states = form.arrays(found[2 if two else 1 :], specs, f"keras {layers[0].label!r}")
    if keep is not None:
        y[~(keep[:, ::-1] if last.processed_order else keep)] = 0
    return Outputs(y, *together(specs, form.layout.unpack(states, specs)))
