"""Keras objects, on whichever backend Keras runs: read, built, written in place, run and differentiated."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from lstmbridge.contract import Gradients, InitialStates, Outputs, Reading, ReadOptions, WriteOptions
from lstmbridge.errors import FileError, LayoutError, MissingFramework, Unsupported, unknown
from lstmbridge.fit import Fitted, fit
from lstmbridge.frameworks.keras import files
from lstmbridge.frameworks.keras.checkpoint import is_checkpoint
from lstmbridge.frameworks.keras.gradients import gradients_of
from lstmbridge.frameworks.keras.graph import wanted
from lstmbridge.frameworks.keras.keeping import kept, put
from lstmbridge.frameworks.keras.layout import FAITHFUL, HOLDS, KERAS3, dialect
from lstmbridge.frameworks.keras.model import Unit, container, units
from lstmbridge.frameworks.keras.nodes import Node, make_layers
from lstmbridge.frameworks.keras.objects import CELL_CLASSES, Finder, array, classes, fetcher, fill, named, native, node
from lstmbridge.frameworks.keras.running import run_layer
from lstmbridge.layer import Array, Layer

__all__ = [
    "assign", "build", "gradients", "layer_at", "load", "native", "read", "run", "set_states", "states", "tensors",
]  # fmt: skip


def read(obj: Any, options: ReadOptions) -> Reading:
    """The recurrent layers of a Keras layer or model, at any depth, in the order of its layers; a shared one once.

    Weights are views on the parameters with the torch backend, the arrays themselves with jax, on the host with
    tensorflow. Errors: Unsupported for an object, a recurrent layer, a cell or an activation that is not understood;
    LayoutError for a layer that is not built, or where there is none.
    """
    found = _find(obj)
    layers: list[Layer] = []
    notes = list(found.notes)
    used: set[int] = set()
    for path, layer in found.layers.items():
        if not wanted(path, options.only):
            continue
        layers += make_layers(
            node(layer, path), fetcher(layer, path, used),
            path=path, known=KERAS3, version=keras.__version__, after=found.after.get(path),
        )  # fmt: skip
        if getattr(layer, "stateful", False):
            name = path or layer.name
            notes.append(f"{name} is stateful: its state of this moment is not taken along: read_states reads it")
    if not layers:
        raise unknown("layer", options.only[0], found.layers)
    left = tuple(name for name, variable in named(obj).items() if id(variable) not in used)
    return Reading(tuple(layers), left, tuple(notes))


def tensors(obj: Any) -> dict[str, Any]:
    """Every weight of a Keras layer or model by the path of its variable, as `read` gives arrays."""
    return {name: array(variable) for name, variable in named(obj).items()}


def _find(obj: Any) -> Finder:
    """The recurrent layers in an object. Errors: as `read` says."""
    if not isinstance(obj, keras.layers.Layer):
        raise Unsupported(
            f"keras: an object of {type(obj).__module__}.{type(obj).__qualname__}", "expected a layer or a model"
        )
    found = Finder(obj)
    if not found.layers:
        raise LayoutError(
            f"keras {type(obj).__name__} {obj.name!r}: no recurrent layer in it", f"found: {classes(obj)}"
        )
    return found


def layer_at(obj: Any, path: str) -> Any:
    """The recurrent layer at a path. Errors: UnknownName."""
    known = _find(obj).layers
    if path not in known:
        raise unknown("layer", path, known)
    return known[path]


def assign(obj: Any, layers: Sequence[Layer]) -> None:
    """Writes the layers' weights into the variables of those of `obj` that have their paths.

    Errors: UnknownName for a path where no recurrent layer is; LayoutError for weights of another shape.
    """
    for layer in layers:
        fill(layer_at(obj, layer.path), [layer], layer.path)


def states(obj: Any, layers: Sequence[Layer]) -> dict[str, Array] | None:
    """What the layer at the layers' path keeps between calls, by the names of its form; None if it is not stateful.

    Errors: LayoutError for one that was not called yet.
    """
    variables = kept(layer_at(obj, layers[0].path), layers)
    return None if variables is None else {key: array(variable) for key, variable in variables.items()}


def set_states(obj: Any, pending: Sequence[tuple[Sequence[Layer], Mapping[str, Array]]]) -> None:
    """Stateful layers keep these arrays, named as `states` names them. Errors: LayoutError; nothing is written then."""
    put([(layer_at(obj, layers[0].path), layers, arrays) for layers, arrays in pending])


def build(targets: Sequence[Fitted], options: WriteOptions) -> Any:
    """A new Keras layer or model that holds the targets.

    One layer gives an LSTM, GRU, SimpleRNN, Bidirectional, RNN or our own Recurrent, built, that returns sequences; one
    that came from Keras has its config. Several give a Sequential of one chain, or a model with an input a chain, each
    layer under its label. Errors: those of `lstmbridge.frameworks.keras.model.units`; Unsupported for float64 on the
    jax backend, unless jax was told to have it.
    """
    _expect_dtypes(targets)
    made = units(targets, options, cells=True)
    if len(made) > 1:
        return _model(made)
    layer = _deserialised(made[0].node)
    _build(layer, made[0].layers[0].spec.input_size)
    fill(layer, made[0].layers, "")
    return layer


def _expect_dtypes(targets: Sequence[Fitted]) -> None:
    """The backend has the targets' dtypes. Errors: Unsupported."""
    if keras.backend.backend() != "jax" or sys.modules["jax"].config.jax_enable_x64:
        return
    for each in targets:
        if each.layer.dtype == "float64":
            raise Unsupported(
                f"keras {each.layer.label or 'layer'}: float64 weights become float32 on the jax backend",
                "run it with KERAS_BACKEND=tensorflow, or cast the layer first",
            )


def _build(layer: Any, features: int) -> None:
    """Gives a layer its variables; a stateful one only its cells', since its states depend on the batch."""
    if isinstance(layer, CELL_CLASSES):
        layer.build((None, features))
    elif getattr(layer, "stateful", False):
        sides = [getattr(layer, name) for name in ("forward_layer", "backward_layer") if hasattr(layer, name)]
        for each in sides or [layer]:
            each.cell.build((None, features))
    else:
        layer.build((None, None, features))


def _model(made: Sequence[Unit]) -> Any:
    model = _deserialised(container(made))
    known = Finder(model).layers
    for unit in made:
        fill(known[unit.label], unit.layers, unit.label)
    return model


def _deserialised(config: Node) -> Any:
    """The object of a node; importing our own layer registers it."""
    from lstmbridge.frameworks.keras import faithful

    del faithful
    return keras.saving.deserialize_keras_object(config)


def load(path: Path, options: ReadOptions) -> Any:
    """The model in a file, not compiled; a file of weights alone becomes a new model of its recurrent layers.

    Errors: MissingFramework for a checkpoint of TensorFlow, and for a file of Keras 1 or 2, whose configs this Keras
    does not load, or takes for others; FileError with Keras' own words for a file of Keras 3 that it does not load.
    """
    if is_checkpoint(path):
        raise MissingFramework(
            f"a checkpoint of TensorFlow, which Keras {keras.__version__} does not load",
            "the file itself is read all the same: lstmbridge.read",
        )
    version = files.version_of(path, options)
    if dialect(version) != KERAS3:
        raise MissingFramework(
            f"written by Keras {version}, which Keras {keras.__version__} does not load",
            "the file itself is read all the same: lstmbridge.read",
        )
    if path.name.endswith((".weights.h5", ".json")):
        return _model(units([_fitted(layer) for layer in files.read(path, options).layers], WriteOptions()))
    from lstmbridge.frameworks.keras import faithful

    del faithful
    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FileError(f"{path}: Keras {keras.__version__} does not load it", f"found: {reason}") from error


def _fitted(layer: Layer) -> Fitted:
    """A layer for a stock layer if one holds it, else for our own."""
    try:
        return fit(layer, HOLDS)
    except Unsupported:
        return fit(layer, FAITHFUL, module="faithful")


def run(
    obj: Any,
    layers: Sequence[Layer],
    x: npt.NDArray[Any],
    h0: InitialStates,
    c0: InitialStates,
    lengths: Sequence[int] | None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Outputs:
    """What the Keras layer at the layers' path gives, whatever it returns by itself; a cell is walked by an RNN.

    Errors: UnknownName for a path that is not there; those of `lstmbridge.frameworks.keras.running.run_layer`.
    """
    keep = mask if lengths is None else _counted(lengths, x)
    return run_layer(layer_at(obj, layers[0].path), layers, x, h0, c0, keep)


def gradients(
    obj: Any,
    layers: Sequence[Layer],
    x: npt.NDArray[Any],
    h0: InitialStates,
    c0: InitialStates,
    lengths: Sequence[int] | None,
    pull: Outputs,
) -> Gradients:
    """The gradient of sum(y * pull.y) + sum(h * pull.h) + sum(c * pull.c) by the backend, of what `run` runs.

    A variable that is not trainable has none: zeros. Errors: those of `run`.
    """
    keep = None if lengths is None else _counted(lengths, x)
    return gradients_of(layer_at(obj, layers[0].path), layers, x, h0, c0, keep, pull)


def _counted(lengths: Sequence[int], x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The mask (b, t) of those lengths."""
    keep: npt.NDArray[np.bool_] = np.arange(x.shape[1]) < np.asarray(lengths)[:, None]
    return keep
