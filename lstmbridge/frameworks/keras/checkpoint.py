"""Keras models in TensorFlow 2's checkpoints and SavedModel directories, without TensorFlow.

Such a checkpoint keeps its variables with the graph of the objects that own them: a layer is found by what hangs on it,
also where the variables' own names are lost (``variables/3``). Configs are in a SavedModel's ``keras_metadata.pb``
(tf.keras 2.5 and later) or ``saved_model.pb`` (before); a plain checkpoint has none.

Sources: keras/saving/saved_model/save.py (Keras 2.9), and what hangs on a layer in keras/layers/rnn/*.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmbridge.bundle import OBJECT_GRAPH, Bundle, prefix_of
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import Ambiguous, FileError, NothingRecurrent, Unsupported, unknown
from lstmbridge.frameworks.keras.era import notes_of_era
from lstmbridge.frameworks.keras.graph import children, flow, is_container, join, name_of, notes_of, wanted
from lstmbridge.frameworks.keras.layout import dialect
from lstmbridge.frameworks.keras.nodes import LAYERS, CellAt, Node, is_recurrent, levels, make_layers
from lstmbridge.frameworks.keras.sources import given_config
from lstmbridge.frameworks.keras.store import Array
from lstmbridge.frameworks.keras.trackable import (
    ASIDE,
    CELL_WORD,
    DEPTH,
    VARIABLES,
    Object,
    below,
    by_names,
    follow,
    metadata,
    named,
    objects_of,
)
from lstmbridge.layer import Layer
from lstmbridge.wire import readable

__all__ = ["is_checkpoint", "read_checkpoint"]

#: The lists in which a model keeps its layers, beside the attributes that they hang on.
_LISTS = ("layers", "_layers", "_operations", "_self_tracked_trackables")
_UNNAMED = re.compile(r"layer(_with_weights)?-\d+")
_BY_GATES = {4: "LSTMCell", 3: "GRUCell", 1: "SimpleRNNCell"}
_LAYER_OF = {cell: layer for layer, cell in LAYERS.items()}


def is_checkpoint(path: Path) -> bool:
    """Whether a checkpoint is at `path`; which kind, `lstmbridge.frameworks.keras.claims` says."""
    return prefix_of(path) is not None


def read_checkpoint(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a checkpoint or a SavedModel, in the order in which the model has them.

    What no config says is taken to be Keras' default, and noted. Errors: FileError for a file that is damaged, or has
    no recurrent layer; Ambiguous for a GRU that nothing tells the form of; those of `make_layers`.
    """
    prefix = prefix_of(path)
    if prefix is None:
        raise FileError(f"{path}: no checkpoint there", "expected NAME.index and NAME.data-00000-of-00001")
    with readable(path, "checkpoint of Keras"):
        return _read(prefix, path, options)


def _read(prefix: Path, path: Path, options: ReadOptions) -> Reading:
    bundle = Bundle(prefix)
    objects = objects_of(bundle) if OBJECT_GRAPH in bundle else by_names({name: name for name in bundle.names})
    told = {key: value for words, value in metadata(prefix) if (key := follow(objects, words)) is not None}
    found = list(_recurrent(objects, told)) or list(_recurrent(by_names(named(objects)), {}))
    config, notes = told.get(0), []
    if options.config is not None:
        given = given_config(Path(options.config))
        found, config = _listed(found, given.node, path.name), {**given.node, "keras_version": given.version}
        notes = [given.note] if given.note else []
    return _reading(bundle, path.name, found, config, options, notes)


# ---- which objects are recurrent layers


@dataclass(frozen=True)
class _Cell:
    """What hangs on a cell: its variables by name, and the keys of variables that no cell of Keras has."""

    variables: Mapping[str, Object]
    strangers: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """The kernel's own name."""
        return self.variables["kernel"].full_name


@dataclass(frozen=True)
class _Found:
    """A recurrent layer: its path, its config where there is one, its cells in order."""

    path: str
    node: Node | None
    kind: str
    cells: tuple[_Cell, ...]


def _recurrent(objects: Sequence[Object], told: Mapping[int, Node]) -> Iterator[_Found]:
    """Every recurrent layer, each once, in the order of the children."""
    seen: set[int] = set()

    def visit(at: int, path: str, name: str, depth: int) -> Iterator[_Found]:
        if at in seen or not 0 <= at < len(objects) or depth > DEPTH:
            return
        seen.add(at)
        node = told.get(at)
        kind, cells = _layer(objects, at)
        own = _name(node, name, kind, cells) if at and name not in _LISTS else ""
        if kind:
            seen.update(below(objects, at))
            yield _Found(join(path, own), node if node and is_recurrent(str(node["class_name"])) else None, kind, cells)
            return
        for child, number in sorted(objects[at].children.items(), key=lambda each: each[0] in _LISTS):
            if child not in ASIDE:
                local = f"layer-{child}" if name in _LISTS else child
                yield from visit(number, join(path, own), local, depth + 1)

    return visit(0, "", "", 0)


def _name(node: Node | None, local: str, kind: str, cells: Sequence[_Cell]) -> str:
    """What a layer is called: by its config, by the attribute it hangs on, or by its variables' own names."""
    told = name_of(node) if node is not None else ""
    if told or not _UNNAMED.fullmatch(local):
        return told or local
    for cell in cells:
        words = [word for word in cell.full_name.split("/")[:-1] if not CELL_WORD.fullmatch(word)]
        words = words[:-1] if kind == "Bidirectional" else words
        if words:
            return words[-1]
    return local


def _layer(objects: Sequence[Object], at: int) -> tuple[str, tuple[_Cell, ...]]:
    """What kind of recurrent layer an object is ("" if it is none), and its cells' variables."""
    sides = [_child(objects, at, f"{side}_layer") for side in ("forward", "backward")]
    if sides[0] is not None and sides[1] is not None:
        both = [_side(objects, side) for side in sides if side is not None]
        cells = tuple(cell for cell in both if cell is not None)
        if len(cells) == len(both):
            return "Bidirectional", cells
    inner = _child(objects, at, "cell")
    cell = _cell(objects, at if inner is None else inner)
    if cell is not None:
        return "layer" if inner is not None or _of_cudnn(cell) else "cell", (cell,)
    stack = _child(objects, inner, "cells") if inner is not None else None
    members = objects[stack].children if stack is not None else {}
    stacked = [_cell(objects, members[str(n)]) for n in range(len(members)) if str(n) in members]
    known = tuple(each for each in stacked if each is not None)
    return ("RNN", known) if known and len(known) == len(stacked) else ("", ())


def _side(objects: Sequence[Object], at: int) -> _Cell | None:
    """The cell of one side of a Bidirectional; None if that is no layer of one cell."""
    inner = _child(objects, at, "cell")
    cell = _cell(objects, at if inner is None else inner)
    return cell if cell is not None and (inner is not None or _of_cudnn(cell)) else None


def _of_cudnn(cell: _Cell) -> bool:
    """Whether the variables hang on a layer without a cell, by their own names."""
    word = cell.full_name.split("/")[-2:-1]
    return bool(word) and "cu_dnn" in word[0]


def _child(objects: Sequence[Object], at: int, name: str) -> int | None:
    number = objects[at].children.get(name) if 0 <= at < len(objects) else None
    return number if number is not None and 0 <= number < len(objects) else None


def _cell(objects: Sequence[Object], at: int) -> _Cell | None:
    """What hangs on a cell; None for an object that is none."""
    found = {name: number for name in VARIABLES if (number := _child(objects, at, name)) is not None}
    variables = {name: objects[number] for name, number in found.items() if objects[number].key}
    if not {"kernel", "recurrent_kernel"} <= set(variables):
        return None
    known = {each.key for each in variables.values()}
    others = (objects[number].key for number in sorted(below(objects, at)))
    return _Cell(variables, tuple(key for key in others if key and key not in known))


def _listed(found: Sequence[_Found], config: Node, where: str) -> list[_Found]:
    """The layers with the nodes that a config lists, in its order. Errors: FileError if it lists another number."""
    nodes = list(_nodes(config, ""))
    if len(nodes) != len(found):
        raise FileError(
            f"{where}: {len(found)} recurrent layers; the config lists {len(nodes)}",
            f"found {', '.join(each.path for each in found)}; listed {', '.join(path for path, _ in nodes)}",
        )
    return [_Found(path, node, each.kind, each.cells) for each, (path, node) in zip(found, nodes, strict=True)]


def _nodes(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    kind = str(node["class_name"])
    if is_recurrent(kind):
        yield path, node
    elif is_container(node):
        for each in children(node):
            yield from _nodes(each, join(path, name_of(each)))
    elif kind == "TimeDistributed":
        inner = node["config"]["layer"]
        yield from _nodes(inner, join(path, name_of(inner)))


# ---- from objects to layers


def _reading(
    bundle: Bundle,
    where: str,
    found: Sequence[_Found],
    config: Node | None,
    options: ReadOptions,
    given: Sequence[str],
) -> Reading:
    after = flow(config)[1] if config and is_container(config) else {}
    notes = [*given, *(notes_of(config) if config else ())]
    version = _version(config, found)
    layers: list[Layer] = []
    for each in found:
        if not wanted(each.path, options.only):
            continue
        _expect_plain(each, bundle, where)
        node = each.node or _assumed_node(each, bundle, options, where)
        if each.node is None:
            notes.append(f"{each.path}: assumed, since there is no config of it: {_assumed(node)}")
        layers += make_layers(
            node, _fetch(each, node, bundle, where), path=each.path, known=dialect(version), version=version,
            where=where, after=after.get(each.path),
        )  # fmt: skip
    if not found:
        there = ", ".join(name for name in bundle.names if name != OBJECT_GRAPH)[:200]
        raise NothingRecurrent(f"{where}: no recurrent layer of Keras in it", f"found: {there or 'nothing'}")
    if not layers:
        raise unknown("layer", options.only[0], [each.path for each in found])
    left_alone = tuple(name for name in bundle.untouched() if name != OBJECT_GRAPH)
    return Reading(tuple(layers), left_alone, (*notes, *notes_of_era(layers, version)))


def _expect_plain(found: _Found, bundle: Bundle, where: str) -> None:
    """That its cells have no weights of other kinds: such a cell computes something else. Errors: Unsupported."""
    strangers = [key for cell in found.cells for key in cell.strangers if key in bundle and bundle.is_float(key)]
    if strangers:
        raise Unsupported(
            f"{where}: {found.path} is a cell with weights that no cell of Keras has",
            f"found: {', '.join(strangers[:4])}",
            "to convert the other layers, pick them: layers= (--layer)",
        )


def _version(config: Node | None, found: Sequence[_Found]) -> str | None:
    nodes = [node for node in (config, *(each.node for each in found)) if node is not None]
    return next((str(node["keras_version"]) for node in nodes if node.get("keras_version")), None)


def _fetch(found: _Found, node: Node, bundle: Bundle, where: str) -> Callable[[CellAt | None], Mapping[str, Array]]:
    """How to get the variables of a layer's cells. Errors: FileError for another number of them than the config has."""
    places = [cell.group for level in levels(node, f"{where}: {found.path}") for cell in level.cells.values()]
    if len(places) != len(found.cells):
        raise FileError(f"{where}: {found.path} has {len(found.cells)} cells", f"its config has {len(places)}")
    cells = dict(zip(places, found.cells, strict=True))
    return lambda at: {name: bundle.read(each.key) for name, each in cells[at.group if at else ""].variables.items()}


def _assumed_node(found: _Found, bundle: Bundle, options: ReadOptions, where: str) -> Node:
    """The node of a layer without a config: what its variables tell, and Keras' defaults."""
    nodes = [_cell_node(cell, found, bundle, options, where) for cell in found.cells]
    name = found.path.rpartition(".")[2]
    if found.kind == "cell":
        return nodes[0]
    made: list[Node] = [
        {"class_name": _LAYER_OF[each["class_name"]], "config": {**each["config"], "name": name}} for each in nodes
    ]
    if found.kind == "layer":
        return made[0]
    if found.kind == "Bidirectional":
        made[1]["config"]["go_backwards"] = True
        config = {"name": name, "merge_mode": "concat", "layer": made[0], "backward_layer": made[1]}
        return {"class_name": "Bidirectional", "config": config}
    stacked = {"class_name": "StackedRNNCells", "config": {"name": "stacked_rnn_cells", "cells": nodes}}
    return {"class_name": "RNN", "config": {"name": name, "cell": stacked}}


def _cell_node(cell: _Cell, found: _Found, bundle: Bundle, options: ReadOptions, where: str) -> Node:
    """The cell that variables are: its gates by how often the units fit into the columns."""
    shapes = {name: bundle.shape(each.key) for name, each in cell.variables.items()}
    recurrent = shapes["recurrent_kernel"]
    units, columns = recurrent if len(recurrent) == 2 else (0, 0)
    kind = _BY_GATES.get(columns // units) if units and columns % units == 0 else None
    if kind is None:
        raise FileError(f"{where}: {found.path} has a recurrent kernel of shape {recurrent}", "expected h (g h)")
    config: Node = {"name": kind.lower(), "units": units, "use_bias": "bias" in shapes, "activation": "tanh"}
    if kind == "SimpleRNNCell":
        return {"class_name": kind, "config": {**config, "activation": options.nonlinearity or "tanh"}}
    config["recurrent_activation"] = "sigmoid"
    if kind == "GRUCell":
        config["reset_after"] = _resets_after(shapes.get("bias"), columns, found, options, where)
    return {"class_name": kind, "config": config}


def _resets_after(bias: tuple[int, ...] | None, columns: int, found: _Found, options: ReadOptions, where: str) -> bool:
    if bias is not None:
        return len(bias) == 2 or bias == (2 * columns,)
    if options.reset_after is None:
        raise Ambiguous(
            f"{where}: {found.path} is a GRU without a bias: its variables do not tell reset_after",
            "say reset_after= (--reset-after), or give the model's config: config= (--config)",
        )
    return options.reset_after


def _assumed(node: Mapping[str, Any]) -> str:
    words = ["the default activations"]
    if node["class_name"] == "Bidirectional":
        words.append("outputs merged by concat")
    elif node["class_name"] in LAYERS:
        words.append("forward in time")
    return " and ".join(words)
