"""Gradients of one recurrent layer of Keras, by the backend that runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from lstmbridge.contract import Gradients, InitialStates, Outputs
from lstmbridge.frameworks.keras.layout import LAYOUTS, STATES
from lstmbridge.frameworks.keras.objects import slots
from lstmbridge.frameworks.keras.running import Host, call, host, runnable_of, tensor
from lstmbridge.layer import Layer
from lstmbridge.statenotation import apart

__all__ = ["gradients_of"]

#: From a tensor x to the tensors that a layer gives.
Compute = Callable[[Any], list[Any]]


def gradients_of(
    keras_layer: Any,
    layers: Sequence[Layer],
    x: Host,
    h0: InitialStates,
    c0: InitialStates,
    keep: npt.NDArray[np.bool_] | None,
    pull: Outputs,
) -> Gradients:
    """The gradient of sum(y * pull.y) + sum(h * pull.h) + sum(c * pull.c), of what `running.run_layer` gives.

    A variable that is not trainable has none: zeros. Errors: those of `running.runnable_of`.
    """
    runnable = runnable_of(keras_layer, layers, masked=keep is not None)
    owner = runnable if getattr(keras_layer, "stateful", False) else keras_layer
    places = [variables for _, variables in slots(owner, layers, layers[0].path)]
    trainable = {id(variable) for variable in owner.trainable_weights}
    trained = [variable for each in places for variable in each.values() if id(variable) in trainable]

    def compute(inputs: Any) -> list[Any]:
        return call(runnable, layers, inputs, h0, c0, keep)

    pullback = _PULLBACKS[keras.backend.backend()]
    of_x, *rest = pullback(compute, tensor(x, layers[0].dtype), trained, _pulls(layers, pull, keep))
    found = {id(variable): host(each) for variable, each in zip(trained, rest, strict=True)}
    weights = [_of_weights(layer, each, found) for layer, each in zip(layers, places, strict=True)]
    return Gradients(host(of_x), weights)


def _of_weights(layer: Layer, variables: Mapping[str, Any], found: Mapping[int, Host]) -> dict[str, Host]:
    """The variables' gradients as those of one layer's weights: each stands where its weight stands."""
    arrays = {
        key: found[id(variable)] if id(variable) in found else np.zeros_like(host(variable.value))
        for key, variable in variables.items()
    }
    return LAYOUTS[layer.spec.cell].unpack(arrays, layer.spec)


def _pulls(layers: Sequence[Layer], pull: Outputs, keep: npt.NDArray[np.bool_] | None) -> list[Host]:
    """`pull` in the order in which the layer gives its outputs and states; nothing on the steps that do not count."""
    last = layers[-1].spec
    y = np.array(pull.y)
    if keep is not None:
        y[~(keep[:, ::-1] if last.processed_order else keep)] = 0
    two = last.bidirectional and last.merge == "none"
    pulls = np.split(y, 2, axis=-1) if two else [y]
    specs = [layer.spec for layer in layers]
    return pulls + list(STATES["list"].layout.pack(apart(specs, pull.h, pull.c, len(y)), specs).values())


# ---- the backends, each already imported by Keras: (compute, x, variables, pulls) -> gradients of x and the variables


def _like(pulls: Sequence[Host], found: Sequence[Any]) -> list[Any]:
    """The pulls as tensors of the backend, each in the dtype of what it pulls at."""
    return [tensor(pull, keras.backend.standardize_dtype(each.dtype)) for pull, each in zip(pulls, found, strict=True)]


def _tensorflow(compute: Compute, x: Any, variables: Sequence[Any], pulls: Sequence[Host]) -> list[Any]:
    wrt = [x, *(variable.value for variable in variables)]
    with sys.modules["tensorflow"].GradientTape(watch_accessed_variables=False) as tape:
        for each in wrt:
            tape.watch(each)
        found = compute(x)
    return list(tape.gradient(found, wrt, _like(pulls, found), unconnected_gradients="zero"))


def _torch(compute: Compute, x: Any, variables: Sequence[Any], pulls: Sequence[Host]) -> list[Any]:
    torch = sys.modules["torch"]
    wrt = [x.requires_grad_(), *(variable.value for variable in variables)]
    with torch.enable_grad():
        found = compute(x)
    return list(torch.autograd.grad(found, wrt, _like(pulls, found), materialize_grads=True))


def _jax(compute: Compute, x: Any, variables: Sequence[Any], pulls: Sequence[Host]) -> list[Any]:
    def pure(inputs: Any, values: Sequence[Any]) -> list[Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return compute(inputs)

    found, pullback = sys.modules["jax"].vjp(pure, x, [variable.value for variable in variables])
    of_x, rest = pullback(_like(pulls, found))
    return [of_x, *rest]


_PULLBACKS = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
