"""Recurrent layers in an older ``.h5`` file without a config: what the names and shapes of its arrays tell.

Keras' ``save_weights`` writes such files. What they do not tell is taken to be the default of the version that wrote
them, and a note on each layer says so; where the version leaves it open, too, it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lstmbridge.errors import Ambiguous
from lstmbridge.frameworks.keras.era import default_gate
from lstmbridge.frameworks.keras.found import Found, Source
from lstmbridge.frameworks.keras.layout import version_numbers
from lstmbridge.frameworks.keras.legacy import Group, fetch_from, groups_in, top_of
from lstmbridge.frameworks.keras.nodes import LAYERS, Node, levels

__all__ = ["unlisted"]

_BY_GATES = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}
_CUDNN = {"LSTM": "CuDNNLSTM", "GRU": "CuDNNGRU"}
_CELL_WORD = re.compile(r"(lstm|gru|simple_rnn)_cell(_\d+)?|stacked_rnn_cells(_\d+)?")
_SIDES = ("forward", "backward")
_ASK = "give the model's config: config=model.json (--config), or put it beside the file as <name>.json"


def unlisted(source: Source) -> Iterator[Found]:
    """Every recurrent layer that the arrays tell, in the order of the file's layers.

    Errors: Ambiguous where names, shapes and version leave open what a layer computes.
    """
    top = top_of(source.store)
    for layer in source.store.names(top, "layer_names"):
        group = f"{top}/{layer}".lstrip("/")
        groups = groups_in(source.store, group) if group in source.store.groups else []
        yield from _in_layer(source, layer, [each for each in groups if _is_cell(each)])


def _is_cell(group: Group) -> bool:
    """Whether arrays are a recurrent layer's: a SimpleRNN's must say so, since any layer may have one square matrix."""
    said = "rnn" in group.above or any("recurrent_kernel" in name for name in group.names.values())
    return group.gates in _BY_GATES and (group.gates != 1 or said)


# ---- which cells are one layer


@dataclass(frozen=True, eq=False)
class _At:
    """Where the names of a cell's arrays say that it is.

    group    the arrays
    side     ``forward`` or ``backward`` in a Bidirectional, else nothing
    words    the names that lead to its layer, inside the layer that has a group
    inner    the name of the layer inside the Bidirectional
    stacked  whether it is one of several cells of a layer
    """

    group: Group
    side: str
    words: tuple[str, ...]
    inner: str
    stacked: bool

    @classmethod
    def of(cls, group: Group, layer: str) -> _At:
        everything = group.above.split("/")
        words = [word for word in everything if not _CELL_WORD.fullmatch(word)]
        sides = [word for word in words if word.startswith(tuple(f"{side}_" for side in _SIDES))]
        side, _, inner = sides[-1].partition("_") if sides else ("", "", "")
        own = [word for word in words if word not in sides and not re.fullmatch(rf"{re.escape(layer)}(_\d+)?", word)]
        return cls(group, side, tuple(own), inner, len(words) < len(everything))


def _in_layer(source: Source, layer: str, groups: Sequence[Group]) -> Iterator[Found]:
    """The recurrent layers in one layer of the file: itself, or those of a model that it is."""
    together: dict[tuple[tuple[str, ...], str], list[_At]] = {}
    for group in groups:
        at = _At.of(group, layer)
        together.setdefault((at.words, at.inner), []).append(at)
    several = [words for words, _ in together]
    for (words, inner), cells in together.items():
        apart = [inner] if several.count(words) > 1 and inner else []
        yield _found(source, ".".join((layer, *words, *apart)), cells)


def _found(source: Source, path: str, cells: Sequence[_At]) -> Found:
    """One layer of these cells: a Bidirectional of two sides, an RNN of several cells, or a layer of one."""
    name = path.rpartition(".")[2]
    cells = _in_order(source, path, cells)
    made = [_node(source, path, name, each.group) for each in cells]
    node = made[0]
    if len(cells) == 2 and cells[0].side:
        made[1]["config"]["go_backwards"] = True
        config = {"name": name, "merge_mode": "concat", "layer": made[0], "backward_layer": made[1]}
        node = {"class_name": "Bidirectional", "config": config}
    elif len(cells) > 1:
        inner = [{**each, "class_name": LAYERS[str(each["class_name"])]} for each in made]
        stack = {"class_name": "StackedRNNCells", "config": {"name": "stacked_rnn_cells", "cells": inner}}
        node = {"class_name": "RNN", "config": {"name": name, "cell": stack}}
    places = [cell.group for level in levels(node, path) for cell in level.cells.values()]
    chosen = dict(zip(places, (each.group for each in cells), strict=True))
    return Found(node, path, fetch_from(source.store, chosen), _assumed(source, node))


def _in_order(source: Source, path: str, cells: Sequence[_At]) -> Sequence[_At]:
    """The cells of one layer: forward before backward, stacked ones as they are. Errors: Ambiguous for others."""
    sides = [each.side for each in cells]
    if len(cells) == 1 or all(each.stacked and not each.side for each in cells):
        return cells
    if sorted(sides) == sorted(_SIDES):
        return [cells[sides.index(side)] for side in _SIDES]
    raise Ambiguous(f"{source.where}: {path} holds {len(cells)} cells, and their names do not tell them apart", _ASK)


def _node(source: Source, path: str, name: str, group: Group) -> Node:
    """The node of a layer with these arrays."""
    assert group.gates is not None
    kind = _BY_GATES[group.gates]
    recurrent = source.store.datasets[next(name for what, name in group.names.items() if what[0] in "Ur")].shape
    bias = next((source.store.datasets[name].shape for what, name in group.names.items() if what[0] == "b"), None)
    if kind in _CUDNN and bias == (2 * group.gates * recurrent[0],):
        return {"class_name": _CUDNN[kind], "config": {"name": name, "units": int(recurrent[0])}}
    config: Node = {"name": name, "units": int(recurrent[0]), "use_bias": bias is not None, "activation": "tanh"}
    if kind == "SimpleRNN":
        config["activation"] = source.options.nonlinearity or "tanh"
    else:
        config["recurrent_activation"] = _gate(source, path, reset_after=bias is not None and len(bias) == 2)
    if kind == "GRU":
        config["reset_after"] = _reset_after(source, path, bias)
    return {"class_name": kind, "config": config}


def _gate(source: Source, path: str, *, reset_after: bool) -> str:
    """The recurrent_activation that the version had by default; a GRU that resets after tells TensorFlow 2 from 1."""
    found = default_gate(source.version) or ("sigmoid" if reset_after else None)
    if found is None:
        raise Ambiguous(
            f"{source.where}: {path}: no config, and Keras {source.version} does not tell the recurrent_activation",
            "it was hard_sigmoid by default in TensorFlow 1, and is sigmoid in 2",
            _ASK,
        )
    return found


def _reset_after(source: Source, path: str, bias: tuple[int, ...] | None) -> bool:
    """Whether a GRU resets after: its bias tells, else the caller. Errors: Ambiguous."""
    if bias is not None or version_numbers(source.version)[0] == 1:
        return bias is not None and len(bias) == 2
    if source.options.reset_after is None:
        raise Ambiguous(
            f"{source.where}: {path} is a GRU without a bias: its arrays do not tell reset_after",
            f"say reset_after= (--reset-after); or {_ASK}",
        )
    return source.options.reset_after


def _assumed(source: Source, node: Node) -> str:
    """What was taken for granted about a layer, for its note."""
    kind, config = str(node["class_name"]), node["config"]
    inner = {"Bidirectional": lambda: config["layer"], "RNN": lambda: config["cell"]["config"]["cells"][0]}
    told = inner.get(kind, lambda: node)()["config"]
    words = [f"{word} {told[word]}" for word in ("activation", "recurrent_activation") if word in told]
    words += ["outputs merged by concat"] if kind == "Bidirectional" else ["forward in time"]
    return f"assumed, since the file has no config of it: {', '.join(words)} (the defaults of Keras {source.version})"
