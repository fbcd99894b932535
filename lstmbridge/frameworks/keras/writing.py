"""Writing Keras files without Keras: the config of a model that runs the layers, and their arrays where Keras looks.

Source: keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from lstmbridge import mapped
from lstmbridge.contract import WriteOptions
from lstmbridge.errors import Unsupported
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.keras.graph import children, groups_of, is_container, name_of
from lstmbridge.frameworks.keras.layout import LAYOUTS
from lstmbridge.frameworks.keras.model import Unit, container, placed, units
from lstmbridge.frameworks.keras.nodes import CellAt, Node, levels, unique
from lstmbridge.mapped import Later

__all__ = ["write"]

#: The version of Keras whose format is written; every later one reads it.
VERSION = "3.5.0"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no time stamps: the same layers give the same file


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """A model of the targets' layers: a Sequential of one chain, else a graph with an input a chain.

    ``.keras`` and ``.h5`` load with ``keras.models.load_model``. A ``.weights.h5`` file is for ``load_weights`` of a
    model built alike; its root has the model's config as an attribute, so that it can be read again. Arrays are packed
    one at a time. Errors: Unsupported for bfloat16 in ``.h5``, which Keras itself cannot read back.
    """
    made = units(targets, options)
    model = container(made)
    if path.name.endswith(".keras"):
        _write_archive(made, model, path)
    elif path.name.endswith(".weights.h5"):
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({**model, "keras_version": VERSION})
            _write_groups(made, model, file)
    else:
        _write_legacy(made, model, path)


def _write_archive(made: Sequence[Unit], model: Node, path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".h5") as weights:
        with h5py.File(weights.name, "w") as file:
            _write_groups(made, model, file)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in (("metadata.json", {"keras_version": VERSION}), ("config.json", model)):
                archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), json.dumps(content))
            info = zipfile.ZipInfo("model.weights.h5", _LONG_AGO)
            with archive.open(info, "w", force_zip64=True) as member, open(weights.name, "rb") as source:
                shutil.copyfileobj(source, member, 1 << 20)


def _arrays(unit: Unit) -> Iterator[tuple[CellAt | None, list[tuple[str, Later]]]]:
    """The arrays of each cell of a unit by their variables' names, in the order of the variables."""
    for level, layer in zip(levels(unit.node, "keras"), unit.layers, strict=True):
        packed = LAYOUTS[layer.spec.cell].later(layer.weights, layer.spec)
        if level.spec is not None:
            yield None, [(key.replace(".", "_"), array) for key, array in packed.items()]
        for direction, cell in level.cells.items():
            own = {key.partition(".")[2]: key for key in packed if key.startswith(f"{direction}.")}
            yield cell, [(name, packed[key]) for name, key in own.items()]


def _write_groups(made: Sequence[Unit], model: Node, file: h5py.File) -> None:
    """Keras 3's groups: attribute by attribute, members of a list by class, variables by number."""
    _write_names(model, "", file)
    groups = dict(placed(model))
    for unit in made:
        for cell, arrays in _arrays(unit):
            words = (groups[unit.label], cell.group if cell else "", "vars")
            group = file.require_group("/".join(word for word in words if word))
            for n, (_, array) in enumerate(arrays):
                stored = group.create_dataset(str(n), data=array.make())
                mapped.forget()
                if array.dtype == "bfloat16":
                    stored.attrs["dtype"] = "bfloat16"


def _write_names(node: Node, base: str, file: h5py.File) -> None:
    """The name of a model or layer, and of those in it, beside its variables; older versions want the group itself."""
    file.require_group(f"{base}/vars").attrs["name"] = name_of(node)
    inside = children(node) if is_container(node) else []
    for child, group in zip(inside, groups_of(inside), strict=True):
        _write_names(child, f"{base}/layers/{group}", file)
    for attribute, key in (("forward_layer", "layer"), ("backward_layer", "backward_layer"), ("cell", "cell")):
        if isinstance(node["config"].get(key), dict):
            _write_names(node["config"][key], f"{base}/{attribute}", file)


# ---- whole models in .h5


def _write_legacy(made: Sequence[Unit], model: Node, path: Path) -> None:
    if any(unit.layers[0].dtype == "bfloat16" for unit in made):
        raise Unsupported("keras: bfloat16 in a .h5 file, which Keras cannot read back", "write a .keras file")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = VERSION, "tensorflow"
        file.attrs["model_config"] = json.dumps(_plain(model))
        weights = file.create_group("model_weights")
        weights.attrs["keras_version"], weights.attrs["backend"] = VERSION, "tensorflow"
        tops = [name_of(each) for each in children(model)]
        weights.attrs["layer_names"] = _names(tops)
        weights.create_group("top_level_model_weights").attrs["weight_names"] = _names([])
        for top in tops:
            inside = [unit for unit in made if unit.label == top or unit.label.startswith(f"{top}.")]
            _write_legacy_layer(weights.create_group(top), inside)


def _write_legacy_layer(group: h5py.Group, inside: Sequence[Unit]) -> None:
    """The arrays of a layer, or of a model's layers: those that are trained, then the others."""
    named: list[tuple[bool, str]] = []
    for unit in inside:
        for cell, arrays in _arrays(unit):
            for name, array in arrays:
                full = "/".join((*unit.label.split("."), *_words(unit.node, cell), name))
                group.create_dataset(full, data=array.make())
                mapped.forget()
                named.append((_frozen(unit.node, cell), full))
    group.attrs["weight_names"] = _names([name for _, name in sorted(named, key=lambda each: each[0])])


def _words(node: Node, cell: CellAt | None) -> list[str]:
    """The names on the way to a cell's variables, as Keras has them in a variable's path."""
    if cell is None:
        return []
    inner = _inner(node, cell).get("name") if "layer" in node["config"] else None
    name = cell.group.rpartition("/")[2] if "cells" in cell.where else unique([cell.kind])[0]
    return [str(inner), name] if inner else [name]


def _inner(node: Node, cell: CellAt) -> Node:
    """The config of the layer inside a Bidirectional that a cell belongs to; else the layer's own."""
    sides = {"forward_layer": "layer", "backward_layer": "backward_layer"}
    config = node["config"]
    side = sides.get(str(cell.where[0])) if cell.where else None
    inner: Node = config[side]["config"] if side else config
    return inner


def _frozen(node: Node, cell: CellAt | None) -> bool:
    """Whether a cell's variables are not trained: Keras lists those after the others."""
    told = [node["config"], *([_inner(node, cell), cell.config] if cell else [])]
    return any(each.get("trainable", True) is False for each in told)


def _names(names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(names, dtype=h5py.string_dtype())


def _plain(model: Node) -> Node:
    """A model's node as the older format has it: layers by class name and config alone."""
    short = _short(model)
    return {"class_name": model["class_name"], "config": short["config"]}


def _short(node: Node) -> Node:
    if is_container(node):
        node = {**node, "config": {**node["config"], "layers": [_short(each) for each in children(node)]}}
    kept = ("config", "name", "inbound_nodes")
    return {"class_name": node["registered_name"] or node["class_name"], **{k: node[k] for k in kept if k in node}}
