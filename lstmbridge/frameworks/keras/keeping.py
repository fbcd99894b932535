"""The state that a stateful layer keeps between calls: its variables, by the names of the form of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.keras.layout import STATES
from lstmbridge.frameworks.keras.objects import array, native, who
from lstmbridge.layer import Array, Layer, dtype_name

__all__ = ["kept", "put"]


def kept(keras_layer: Any, layers: Sequence[Layer]) -> dict[str, Any] | None:
    """The state variables of a layer that `layers` are; None if it is not stateful.

    Errors: LayoutError for a layer that was not called yet, or for some of its levels only.
    """
    if not getattr(keras_layer, "stateful", False):
        return None
    whose = who(keras_layer, layers[0].path)
    if keras_layer.states is None:
        raise LayoutError(
            f"{whose} has no state yet",
            "its state is for one batch size: call it on a batch, or build((batch, None, features))",
        )
    specs = [layer.spec for layer in layers]
    return STATES["list"].arrays(keras.tree.flatten(keras_layer.states), specs, whose)


def put(pending: Sequence[tuple[Any, Sequence[Layer], Mapping[str, Array]]]) -> None:
    """Each layer keeps those arrays, by name; all of them, or none.

    Errors: LayoutError for arrays that do not fit its variables.
    """
    ready = []
    for keras_layer, layers, arrays in pending:
        variables = kept(keras_layer, layers)
        assert variables is not None, "the caller has asked"
        whose, batch = who(keras_layer, layers[0].path), next(iter(variables.values())).shape[0]
        STATES["list"].layout.check(arrays, [layer.spec for layer in layers], batch=int(batch), who=whose)
        for key, variable in variables.items():
            found, expected = dtype_name(arrays[key]), dtype_name(array(variable))
            if found != expected:
                raise LayoutError(
                    f"{whose}: {key} is {found}, its variable {expected}", f"cast the states: dtype={expected!r}"
                )
            ready.append((variable, native(arrays[key])))
    for variable, value in ready:
        variable.assign(value)
