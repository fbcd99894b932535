"""TensorFlow 1's cells: checkpoints by variable names, frozen graphs, and arrays that are already at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

NAME = "tf1"
ROOTS = ()
SUFFIXES = (".index", ".ckpt", ".pb")
WRITES = ()
EXTRA = ""

#: Suffixes of files that are never a checkpoint, so that they need not be looked into.
_OTHERS = (".h5", ".hdf5", ".keras", ".onnx", ".safetensors", ".npz", ".npy", ".json", ".pt", ".pth")


def claims(path: Path) -> bool:
    """Whether a checkpoint by variable names is at `path`: its files begin with this name, or lie in this directory.

    A checkpoint of objects (TensorFlow 2, Keras) is not claimed; one that cannot be read is, for the error's sake.
    """
    if path.name.endswith(_OTHERS):
        return False
    from lstmbridge.bundle import OBJECT_GRAPH, names_at, prefix_of
    from lstmbridge.errors import BridgeError
    from lstmbridge.sstable import is_table

    try:
        if prefix_of(path) is None:
            return path.suffix != ".index" and path.is_file() and is_table(path)
        names = names_at(path)
    except BridgeError:
        return True
    return OBJECT_GRAPH not in names and not any(name.endswith("/recurrent_kernel") for name in names)


def companions(name: str, beginning: Callable[[str], list[str]]) -> list[str]:
    """The files that are read along with a checkpoint's index, or with the graph of a SavedModel."""
    directory, _, last = name.rpartition("/")
    above = f"{directory}/" if directory else ""
    if last == "saved_model.pb":
        parts = ("variables/variables.", "keras_metadata.pb", "fingerprint.pb", "assets/", "assets.extra/")
        return [each for part in parts for each in beginning(f"{above}{part}")]
    if not last.endswith(".index"):
        return []
    stem = name.removesuffix(".index")
    return [each for each in beginning(f"{stem}.") if each == f"{stem}.meta" or each.startswith(f"{stem}.data-")]
