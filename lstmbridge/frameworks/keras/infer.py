"""Recurrent layers in a Keras 3 weights file whose config does not list them: what groups, names and shapes tell.

Source: keras/src/saving/saving_lib.py, which names groups after attributes and, in lists, after classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lstmbridge.contract import ReadOptions
from lstmbridge.errors import Ambiguous
from lstmbridge.frameworks.keras.graph import join
from lstmbridge.frameworks.keras.nodes import CELLS, LAYERS, Node
from lstmbridge.frameworks.keras.store import Store

__all__ = ["inferred"]

_BY_GATES = {4: "LSTMCell", 3: "GRUCell", 1: "SimpleRNNCell"}
_LAYER_WITH = {cell: layer for layer, cell in LAYERS.items()}
_TELLING = re.compile(r"(^|[_/])(lstm|gru|rnn)(_|/|$)|/cell(/|$)|cells/")


def inferred(
    store: Store, base: str, known: Node | None, path: str, options: ReadOptions, listed: Sequence[str] = ()
) -> Iterator[tuple[Node, str, str, str]]:
    """Every recurrent layer at or below the group `base`: its node, its path, its group, and what was assumed.

    Where `known`, the config of what stands at `base`, holds a config of that name, it is used and nothing is assumed.
    Groups at or below those of `listed` are passed over.
    Errors: Ambiguous where the shapes do not tell and guessing would be a guess.
    """
    taken = list(listed)
    for group in sorted(store.groups, key=_natural):
        inside = not base or group == base or group.startswith(f"{base}/")
        below = any(group == each or group.startswith(f"{each}/") for each in taken)
        if not inside or below or group.startswith("optimizer"):
            continue
        node = _node(store, group, options)
        if node is None:
            continue
        taken.append(group)
        own = _path(store, base, group, path)
        config = known if known is not None and group == base else _listed(known, node["config"]["name"])
        yield (config or node, own, group, "" if config else _assumed(node))


def _natural(name: str) -> list[Any]:
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]


def _path(store: Store, base: str, group: str, path: str) -> str:
    """The names of the layers that lead from `base` to `group`, joined by dots; lists between them have none."""
    words = group[len(base) :].strip("/").split("/") if group != base else []
    here = base
    for word in words:
        here = f"{here}/{word}".lstrip("/")
        name = _name(store, here) if f"{here}/vars" in store.groups or here == group else None
        path = join(path, name) if name else path
    return path


def _name(store: Store, group: str) -> str:
    told = store.attribute(f"{group}/vars", "name") if f"{group}/vars" in store.groups else None
    return str(told or group.rpartition("/")[2])


def _listed(node: Any, name: str) -> Node | None:
    """The config of that name somewhere inside another."""
    if isinstance(node, dict):
        config = node.get("config")
        if "class_name" in node and isinstance(config, dict) and config.get("name") == name:
            return node
        node = list(node.values())
    found = (_listed(each, name) for each in node) if isinstance(node, list) else ()
    return next((each for each in found if each is not None), None)


def _assumed(node: Node) -> str:
    kind = str(node["class_name"])
    inner = str(node["config"]["layer"]["class_name"]) if kind == "Bidirectional" else kind
    words = ["the default activations"]
    words += ["outputs merged by concat"] if kind == "Bidirectional" else ["forward in time"] * (inner not in CELLS)
    return f"assumed, since the file has no config of it: {' and '.join(words)}"


# ---- a group as a layer


def _node(store: Store, group: str, options: ReadOptions) -> Node | None:
    """The node that the groups and shapes at `group` tell; None if no recurrent layer stands there."""
    if group not in store.groups:
        return None
    name = _name(store, group)
    directions = [_node(store, f"{group}/{side}_layer", options) for side in ("forward", "backward")]
    if directions[0] is not None and directions[1] is not None:
        directions[1]["config"]["go_backwards"] = True
        config = {"name": name, "merge_mode": "concat", "layer": directions[0], "backward_layer": directions[1]}
        return {"class_name": "Bidirectional", "config": config}
    stacked = [each for each in store.groups if re.fullmatch(rf"{re.escape(group)}/cell/cells/\w+", each)]
    if stacked:
        ordered = sorted(stacked, key=_natural)
        if len({re.sub(r"_\d+$", "", each) for each in ordered}) > 1:
            raise Ambiguous(
                f"{store.where}: {group} stacks cells of several classes", "the file does not say in which order"
            )
        cells = [_cell(store, each, options) for each in ordered]
        return {"class_name": "RNN", "config": {"name": name, "cell": {
            "class_name": "StackedRNNCells", "config": {"name": "stacked", "cells": cells}}}}  # fmt: skip
    inner = _cell(store, f"{group}/cell", options) if group else None
    if inner is not None:
        return {"class_name": _LAYER_WITH[inner["class_name"]], "config": {**inner["config"], "name": name}}
    return _cell(store, group, options) if group else None


def _cell(store: Store, group: str, options: ReadOptions) -> Node | None:
    """The cell that the arrays of a group are, by how many times its units fit into its columns."""
    shapes = [store.datasets[f"{group}/vars/{n}"].shape for n in range(3) if f"{group}/vars/{n}" in store.datasets]
    if len(shapes) < 2 or [len(shape) for shape in shapes[:2]] != [2, 2]:
        return None
    (_, columns), (units, recurrent) = shapes[:2]
    kind = _BY_GATES.get(columns // units) if units and columns == recurrent and columns % units == 0 else None
    telling = _TELLING.search(group) or _TELLING.search(_name(store, group))
    if kind is None or (kind == "SimpleRNNCell" and not telling):
        return None
    config: Node = {"name": _name(store, group), "units": int(units), "use_bias": len(shapes) == 3}
    if kind == "GRUCell":
        if len(shapes) < 3 and options.reset_after is None:
            raise Ambiguous(
                f"{store.where}: {group} is a GRU without a bias: its arrays do not tell reset_after",
                "say reset_after= (--reset-after), or put the model's config beside it, as <name>.json",
            )
        of_cudnn = len(shapes) == 3 and shapes[2] == (2 * columns,)
        config["reset_after"] = (len(shapes[2]) == 2 or of_cudnn) if len(shapes) == 3 else options.reset_after
    if kind == "SimpleRNNCell" and options.nonlinearity:
        config["activation"] = options.nonlinearity
    return {"class_name": kind, "config": config}
