"""Which config goes with which weights: in the file, given by the caller, or beside it; and which Keras wrote them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmbridge.contract import ReadOptions
from lstmbridge.errors import Ambiguous, FileError
from lstmbridge.frameworks.keras.names import configs_of, weights_of
from lstmbridge.frameworks.keras.nodes import Node
from lstmbridge.frameworks.keras.store import Store, decode_config, explained

__all__ = ["Config", "config_of", "given_config", "version_of_store", "weights_beside"]

#: The largest config that is read.
_LIMIT = 64 << 20


@dataclass(frozen=True, eq=False)
class Config:
    """A model's node, the version of Keras that it says, and a note where it does not come from the file itself."""

    node: Node
    version: str | None = None
    note: str = ""


def given_config(path: Path) -> Config:
    """The config in a JSON file. Errors: FileError, with what it holds instead."""
    text = _text(path)
    with explained(path, "JSON file"):
        found = json.loads(text)
    if isinstance(found, dict) and ("modelTopology" in found or "weightsManifest" in found):
        raise FileError(f"{path.name}: a model of TensorFlow.js", "expected the config of a Keras model (to_json())")
    if isinstance(found, dict) and isinstance(found.get("weight_map"), dict):
        raise FileError(f"{path.name}: the index of a sharded checkpoint", "expected the config of a Keras model")
    node = decode_config(text, path.name)
    told = node.get("keras_version") or _told_beside(path)
    told = told or ("3" if "module" in node else None)  # since Keras 3 each node has its module
    return Config(node, None if told is None else str(told), f"the config is that of {path.name}")


def _told_beside(path: Path) -> Any:
    """The version in the metadata beside a config that was taken out of a ``.keras`` archive."""
    metadata = path.with_name("metadata.json")
    if path.name != "config.json" or not metadata.is_file():
        return None
    text = _text(metadata)
    with explained(metadata, "JSON file"):
        found = json.loads(text)
    return found.get("keras_version") if isinstance(found, dict) else None


def _text(path: Path) -> str:
    with explained(path, "JSON file"):
        if path.stat().st_size > _LIMIT:
            raise FileError(f"{path.name} holds {path.stat().st_size} bytes", "expected the JSON of a model's config")
        return path.read_text(encoding="utf-8")


def config_of(store: Store, path: Path, options: ReadOptions) -> Config | None:
    """The config of a file of arrays: the one that the caller says, else the one in it, else the one beside it."""
    if options.config is not None:
        return given_config(Path(options.config))
    inside = store.attribute("", "model_config")
    if inside is not None:
        node = decode_config(inside, path.name)
        return Config(node, node.get("keras_version"))
    for beside in (path.with_name(name) for name in configs_of(path.name)):
        if beside.is_file() and _is_config(beside):
            return given_config(beside)
    return None


def _is_config(path: Path) -> bool:
    """Whether a JSON file is the config of a model, and no other that has the name by chance."""
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        return True  # damaged: reading it says so
    return isinstance(found, dict) and "class_name" in found


def weights_beside(path: Path) -> Path:
    """The file with the weights of the model whose config is at `path`.

    Errors: FileError if there is none, Ambiguous if there are several; both name them.
    """
    for names in weights_of(path.name):
        there = [each for each in names if path.with_name(each).is_file()]
        if len(there) > 1:
            raise Ambiguous(
                f"{path.name}: weights beside it in {', '.join(there)}",
                f"say which by reading them: {there[0]} with config={path.name} (--config)",
            )
        if there:
            return path.with_name(there[0])
    others = sorted(each.name for each in path.parent.iterdir() if each.name.endswith((".h5", ".hdf5")))[:5]
    raise FileError(
        f"{path.name}: the config of a model, and no weights beside it",
        f"expected e.g. {', '.join(weights_of(path.name)[0][:4])}",
        *([f"read {', '.join(others)} with config={path.name} (--config)"] if others else []),
    )


def version_of_store(store: Store) -> str | None:
    """The version of Keras that an HDF5 file says it was written by."""
    groups = [group for group in ("", "model_weights") if group in store.groups]
    told: list[Any] = [store.attribute(group, "keras_version") for group in groups]
    return next((str(each) for each in told if each), None)
