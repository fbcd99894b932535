"""Recurrent layers inside Keras objects: where they are, what their configs say, which variables they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.frameworks.keras.graph import flow, join, notes_of
from lstmbridge.frameworks.keras.layout import LAYOUTS
from lstmbridge.frameworks.keras.nodes import FAITHFUL_NAME, CellAt, Node, is_recurrent, levels, plain
from lstmbridge.layer import Array, Layer, dtype_name

__all__ = ["CELL_CLASSES", "Finder", "array", "classes", "fetcher", "fill", "named", "native", "node", "slots", "who"]

CELL_CLASSES = (kl.LSTMCell, kl.GRUCell, kl.SimpleRNNCell)
RECURRENT = (kl.RNN, kl.Bidirectional, kl.StackedRNNCells, *CELL_CLASSES)
_VARIABLES = ("kernel", "recurrent_kernel", "bias")


# ---- where they are


class Finder:
    """The recurrent layers in an object, by path, and what its graphs say about them.

    layers  each recurrent layer by its path, in the order of the layers; a shared one once
    after   whose outputs each reads, where a graph says it
    notes   what the object does with them that does not show in their weights
    """

    def __init__(self, obj: Any) -> None:
        self.layers: dict[str, Any] = {}
        self.after: dict[str, str | None] = {}
        self.notes: list[str] = []
        self._visit(obj, "", mapped=False)

    def _visit(self, obj: Any, path: str, mapped: bool) -> None:
        if isinstance(obj, RECURRENT) or _is_own(obj):
            if all(obj is not each for each in self.layers.values()):
                self.layers[path] = obj
            return
        graph = None if mapped else _graph(obj)
        if graph is not None:
            self.after.update(flow(graph, path)[1])
            self.notes += notes_of(graph, path)
        seen: dict[str, int] = {}
        for layer in _inside(obj):
            seen[layer.name] = seen.get(layer.name, -1) + 1
            own = join(path, f"{layer.name}_{seen[layer.name]}" if seen[layer.name] else layer.name)
            if not mapped and graph is None:
                self.notes += notes_of({"class_name": "", "config": {"layers": [_short(layer)]}}, path)
            self._visit(layer, own, mapped or graph is not None)


def _short(layer: Any) -> Node:
    """As much of a layer's node as tells whether it masks."""
    return {
        "class_name": type(layer).__name__,
        "config": {"name": layer.name, "mask_zero": getattr(layer, "mask_zero", False)},
    }


def _inside(obj: Any) -> list[Any]:
    """The layers directly in a layer or model, each once."""
    own = obj.layers if isinstance(obj, keras.Model) else obj._flatten_layers(include_self=False, recursive=False)
    return list({id(each): each for each in own if isinstance(each, kl.Layer)}.values())


def _graph(obj: Any) -> Node | None:
    """The node of a Sequential or Functional model; None for another, or for one that does not tell its config."""
    if not isinstance(obj, keras.Model):
        return None
    try:
        config = plain(obj.get_config())
    except (NotImplementedError, ValueError, TypeError):
        return None
    return {"class_name": type(obj).__name__, "config": config} if "layers" in config else None


def classes(obj: Any) -> str:
    """The classes of the layers in an object, for a message."""
    inside = obj._flatten_layers(include_self=False)
    return ", ".join(dict.fromkeys(type(each).__name__ for each in inside)) or "nothing"


# ---- what they say


def _is_own(layer: Any) -> bool:
    """Whether it is our own layer."""
    return bool(keras.saving.get_registered_name(type(layer)) == FAITHFUL_NAME)


def node(layer: Any, path: str) -> Node:
    """The node of a recurrent layer. Errors: Unsupported for a class that changes what its base computes."""
    kind = _class(layer, path)
    try:
        return {"class_name": kind, "config": layer.get_config()}
    except (NotImplementedError, ValueError, TypeError, AttributeError) as error:
        reason = f"found: {error}".splitlines()[0]
        raise Unsupported(f"{who(layer, path)}: it does not give its config", reason) from error


def _class(layer: Any, path: str) -> str:
    """The name of Keras' class that the layer is, or derives from without changing its equations."""
    if _is_own(layer):
        return FAITHFUL_NAME
    for base in type(layer).__mro__:
        if getattr(kl, base.__name__, None) is not base or not is_recurrent(base.__name__):
            continue
        changed = [n for n in ("call", "inner_loop") if getattr(type(layer), n, None) is not getattr(base, n, None)]
        if changed:
            raise Unsupported(
                f"{who(layer, path)}: a class of its own that overrides {' and '.join(changed)} of {base.__name__}",
                f"expected {base.__name__} itself",
            )
        return str(base.__name__)
    return type(layer).__name__


def who(layer: Any, path: str) -> str:
    """A layer in a message."""
    return f"keras {type(layer).__name__} {path or layer.name!r}"


# ---- their variables


def variables(layer: Any, cell: CellAt | None, path: str) -> dict[str, Any]:
    """The variables of a cell of a layer by name; for None, those of our own layer.

    Errors: LayoutError for a layer that is not built.
    """
    if cell is None:
        found = {variable.name: variable for variable in layer.weights}
    else:
        at = layer
        for step in cell.where:
            at = at[step] if isinstance(step, int) else getattr(at, step)
        _class(at, path)
        found = {name: getattr(at, name, None) for name in _VARIABLES}
    found = {name: variable for name, variable in found.items() if variable is not None}
    if not found:
        raise LayoutError(
            f"{who(layer, path)}: it is not built, so it has no weights yet",
            "call it once on a sequence, or build((None, None, features))",
        )
    return found


def fetcher(layer: Any, path: str, used: set[int]) -> Callable[[CellAt | None], Mapping[str, Array]]:
    """Gives the arrays of a cell of the layer by name; notes the ids of the variables it gave in `used`."""

    def fetch(cell: CellAt | None) -> Mapping[str, Array]:
        found = variables(layer, cell, path)
        used.update(map(id, found.values()))
        return {name: array(variable) for name, variable in found.items()}

    return fetch


def named(obj: Any) -> dict[str, Any]:
    """Every variable that is a weight of an object, by its path; of several with one path, the later get a number.

    The number begins at 2: ``lstm/kernel``, ``lstm/kernel_2``.
    """
    found: dict[str, Any] = {}
    for variable in obj.weights:
        name, number = variable.path, 1
        while name in found:
            number += 1
            name = f"{variable.path}_{number}"
        found[name] = variable
    return found


def array(variable: Any) -> Array:
    """A variable's array: torch's without its gradient, jax's as it is, tensorflow's on the host."""
    backend = keras.backend.backend()
    if backend == "torch":
        return variable.value.detach()
    return variable.value if backend == "jax" else np.asarray(variable.value)


def fill(keras_layer: Any, layers: Sequence[Layer], path: str) -> None:
    """Writes the weights of `layers` into the variables they stand for. Errors: LayoutError for other shapes."""
    for layer, places in slots(keras_layer, layers, path):
        packed = LAYOUTS[layer.spec.cell].pack(layer.weights, layer.spec)
        there = {key: tuple(int(n) for n in variable.shape) for key, variable in places.items()}
        given = {key: tuple(each.shape) for key, each in packed.items()}
        if there != given:
            raise LayoutError(f"{who(keras_layer, path)}: its variables have the shapes {there}", f"given are {given}")
        for key, variable in places.items():
            _expect_dtype(variable, layer, who(keras_layer, path))
            variable.assign(_native(packed[key], variable))


def _expect_dtype(variable: Any, layer: Layer, whose: str) -> None:
    """The backend keeps the layer's dtype (jax has no float64 unless it is told to). Errors: Unsupported."""
    found = str(array(variable).dtype).removeprefix("torch.")
    if found != layer.dtype:
        raise Unsupported(
            f"{whose}: {layer.dtype} weights become {found} on the {keras.backend.backend()} backend",
            "run it with KERAS_BACKEND=tensorflow, or cast the layer first",
        )


def slots(keras_layer: Any, layers: Sequence[Layer], path: str) -> Iterator[tuple[Layer, dict[str, Any]]]:
    """Each layer with the variables it stands in, by the names of `LAYOUTS`."""
    found = levels(node(keras_layer, path), who(keras_layer, path))
    for layer in layers:
        level = found[layer.level or 0] if len(found) > 1 else found[0]
        if level.spec is not None:
            own = variables(keras_layer, None, path)
            yield layer, {key: own[key.replace(".", "_")] for key in LAYOUTS[level.spec.cell].keys(level.spec)}
        else:
            of = {d: variables(keras_layer, cell, path) for d, cell in level.cells.items()}
            yield layer, {f"{d}.{name}": variable for d, each in of.items() for name, variable in each.items()}


def _native(given: Array, variable: Any) -> Any:
    """An array as the backend takes it: its own; another framework's by DLPack on the same device; else the host's."""
    backend = keras.backend.backend()
    if xp.kind(given) == backend:
        return given
    if backend == "tensorflow" or xp.kind(given) == "numpy" or not _together(given, array(variable)):
        return xp.to_torch(xp.host(given)) if backend == "torch" else xp.host(given)
    return xp.to_torch(given) if backend == "torch" else xp.to_jax(given)


def native(given: Array) -> Any:
    """An array as a tensor of the backend. Errors: Unsupported for a dtype that it has not."""
    backend = keras.backend.backend()
    value = given if xp.kind(given) == backend else xp.host(given)
    made = keras.ops.convert_to_tensor(xp.to_torch(value) if backend == "torch" else value)
    found, expected = keras.backend.standardize_dtype(made.dtype), dtype_name(given)
    if found != expected:
        raise Unsupported(
            f"keras: {expected} becomes {found} on the {backend} backend",
            f"cast it first, e.g. dtype={found!r}; or run it with KERAS_BACKEND=tensorflow",
        )
    return made


def _together(one: Array, other: Array) -> bool:
    """Whether two arrays of torch or jax live on the same device."""
    cpu, gpu = ({"cpu" in xp.device(each).lower() for each in (one, other)} == {here} for here in (True, False))
    return cpu or (gpu and xp.device(one).rpartition(":")[2] == xp.device(other).rpartition(":")[2])
