"""Keras 3 on every backend: LSTM, GRU, SimpleRNN, their cells and wrappers; the files of Keras 1, 2 and 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lstmbridge.frameworks.keras.names import configs_of, weights_of

NAME = "keras"
ROOTS = ("keras",)
SUFFIXES = (".keras", ".weights.h5", ".h5", ".hdf5", ".json")
WRITES = (".keras", ".weights.h5", ".h5", ".hdf5")
EXTRA = "keras"
TELLS_ORDER = True


def companions(name: str, beginning: Callable[[str], list[str]]) -> list[str]:
    """The files of its own name that may be read along with one: the config of weights, the weights of a config."""
    others = weights_of(name)[0] if name.endswith(".json") else configs_of(name)
    return [each for each in others if each in beginning(each)]


def claims(path: Path) -> bool:
    """Whether a checkpoint of objects (TensorFlow 2), or of variables with Keras' names, is at `path`."""
    if path.name.endswith(SUFFIXES):
        return False
    from lstmbridge.bundle import OBJECT_GRAPH, names_at
    from lstmbridge.errors import BridgeError

    try:
        names = names_at(path)
    except BridgeError:
        return False
    return OBJECT_GRAPH in names or any(name.endswith("/recurrent_kernel") for name in names)
