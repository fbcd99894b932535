"""The objects of a TensorFlow 2 checkpoint: what hangs on what by which name, and the configs that a SavedModel has.

A checkpoint keeps its variables with the graph of the objects that own them. Where there is no graph, or where nothing
but a list of variables is left of it, the variables' own names stand in.

Sources: tensorflow/core/protobuf/{trackable_object_graph,saved_object_graph,saved_model}.proto,
keras/protobuf/saved_metadata.proto, keras/saving/saved_model/save.py (Keras 2.9).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lstmbridge.bundle import OBJECT_GRAPH, Bundle
from lstmbridge.errors import Ambiguous
from lstmbridge.frameworks.keras.nodes import Node
from lstmbridge.wire import Message, mapped, readable

__all__ = [
    "ASIDE",
    "CELL_WORD",
    "DEPTH",
    "VARIABLES",
    "Object",
    "below",
    "by_names",
    "follow",
    "metadata",
    "named",
    "objects_of",
]

# The numbers of the fields.
_NODES, _CHILDREN, _ATTRIBUTES = 1, 1, 2  # of both object graphs
_CHILD_ID, _CHILD_NAME = 1, 2
_ATTRIBUTE_NAME, _FULL_NAME, _KEY = 1, 2, 3
_USER_OBJECT, _USER_METADATA = 4, 3
_SAVED_META, _OBJECT_GRAPH_DEF = 2, 7
_METADATA_PATH, _METADATA_JSON = 3, 5

_VALUE = "VARIABLE_VALUE"
#: What hangs on a cell, by the layout's names; Keras 3 tracks its variables under names of its own.
VARIABLES = ("kernel", "recurrent_kernel", "bias")
#: What hangs on a model beside its layers.
ASIDE = ("optimizer", "_optimizer", "keras_api", "signatures", "variables", "trainable_variables", "metrics",
          "non_trainable_variables", "regularization_losses", "_trainable_variables", "_non_trainable_variables",
          "_all_variables", "save_counter", "_misc_assets", "_endpoint_names", "_endpoint_signatures")  # fmt: skip
CELL_WORD = re.compile(r"(\w+_)?(lstm|gru|simple_rnn)_cell(_\d+)?|stacked_rnn_cells(_\d+)?")
DEPTH = 64


@dataclass(frozen=True)
class Object:
    """One object: what hangs on it by name, and of a variable, its key in the checkpoint and its own name."""

    children: Mapping[str, int]
    key: str = ""
    full_name: str = ""


def objects_of(bundle: Bundle) -> list[Object]:
    """The objects of a checkpoint, the root first."""
    with readable(bundle.index, "graph of objects"):
        graph = Message(bundle.strings(OBJECT_GRAPH)[0])
        return [_object(each) for each in graph.messages(_NODES)]


def _object(message: Message) -> Object:
    for attribute in message.messages(_ATTRIBUTES):
        if attribute.text(_ATTRIBUTE_NAME) == _VALUE:
            return Object(_children(message), attribute.text(_KEY), attribute.text(_FULL_NAME))
    return Object(_children(message))


def _children(message: Message) -> dict[str, int]:
    return {each.text(_CHILD_NAME): each.number(_CHILD_ID) for each in message.messages(_CHILDREN)}


def by_names(keys: Mapping[str, str]) -> list[Object]:
    """The objects that variables with Keras' names stand for; `keys` gives the key of each.

    ``lstm/lstm_cell/kernel`` is the variable `kernel` of the cell of `lstm`; a word before that is a model's. Errors:
    Ambiguous for stacked cells of several classes, whose order no name tells.
    """
    trees: list[dict[str, int]] = [{}]
    objects = [Object(trees[0])]

    def child(at: int, name: str, key: str = "", full_name: str = "") -> int:
        if name not in trees[at]:
            trees[at][name] = len(objects)
            trees.append({})
            objects.append(Object(trees[-1], key, full_name))
        return trees[at][name]

    layers: dict[tuple[str, ...], list[str]] = {}
    for name in keys:
        cell, _, last = name.rpartition("/")
        if last == "recurrent_kernel" and cell and cell.count("/") < DEPTH:
            layers.setdefault(_words(cell), []).append(cell)
    for words, cells in layers.items():
        at = 0
        for word in _with_sides(words, layers):
            at = child(at, word)
        places = [child(at, "cell")]
        if len(cells) > 1:
            stack = child(places[0], "cells")
            places = [child(stack, str(n)) for n in range(len(cells))]
        for place, cell in zip(places, _in_order(cells), strict=True):
            for last in VARIABLES:
                if f"{cell}/{last}" in keys:
                    child(place, last, keys[f"{cell}/{last}"], f"{cell}/{last}")
    return objects


def _words(cell: str) -> tuple[str, ...]:
    """The words of a cell's layer: its own, without those of the cell."""
    words = cell.split("/")
    return tuple(words[:1] + [word for word in words[1:] if not CELL_WORD.fullmatch(word)])


def _in_order(cells: Sequence[str]) -> list[str]:
    """The cells of one layer as they are stacked: by their numbers."""
    kinds = {re.sub(r"_\d+$", "", cell) for cell in cells}
    if len(kinds) > 1:
        raise Ambiguous(f"{', '.join(cells)}: stacked cells of several classes", "their names do not tell the order")
    numbers = {cell: int(match[0]) if (match := re.search(r"\d+$", cell)) else 0 for cell in cells}
    return sorted(cells, key=lambda cell: numbers[cell])


def _with_sides(words: Sequence[str], known: Collection[tuple[str, ...]]) -> list[str]:
    """The words, the last one as the side of a Bidirectional if the other side is there."""
    side, _, rest = words[-1].partition("_")
    other = {"forward": "backward", "backward": "forward"}.get(side)
    paired = other is not None and (*words[:-1], f"{other}_{rest}") in known
    return [*words[:-1], f"{side}_layer" if paired else words[-1]]


def named(objects: Sequence[Object]) -> dict[str, str]:
    """The variables by their own names: all that is left of a model in a SavedModel that Keras 3 exported."""
    keys: dict[str, str] = {}
    for each in objects:
        if each.key and each.full_name:
            keys.setdefault(each.full_name, each.key)  # one variable may hang on several lists
    return keys


def follow(objects: Sequence[Object], words: Sequence[str]) -> int | None:
    """The object that names lead to from the root; None if they lead nowhere."""
    at = 0
    for word in words:
        if not 0 <= at < len(objects) or word not in objects[at].children:
            return None
        at = objects[at].children[word]
    return at if 0 <= at < len(objects) else None


# ---- configs


def metadata(prefix: Path) -> Iterator[tuple[list[str], Node]]:
    """What a SavedModel says of its objects: the names that lead to one, and its config."""
    if prefix.parent.name != "variables":
        return
    newer, older = prefix.parent.parent / "keras_metadata.pb", prefix.parent.parent / "saved_model.pb"
    found: Iterator[tuple[list[str], str]] = iter(())
    if newer.is_file():
        with readable(newer, "Keras metadata"):
            nodes = Message(mapped(newer)).messages(_NODES)
            found = iter([(each.text(_METADATA_PATH).split(".")[1:], each.text(_METADATA_JSON)) for each in nodes])
    elif older.is_file():
        with readable(older, "SavedModel"):
            found = iter(list(_inside(older)))
    for words, text in found:
        try:
            node = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(node, dict) and "class_name" in node and isinstance(node.get("config"), dict | list):
            yield words, node


def _inside(path: Path) -> Iterator[tuple[list[str], str]]:
    """The metadata of objects as TensorFlow before 2.5 keeps it: in the graph of objects of ``saved_model.pb``."""
    metas = list(Message(mapped(path)).messages(_SAVED_META))
    nodes = list(metas[0].message(_OBJECT_GRAPH_DEF).messages(_NODES)) if metas else []
    seen, left = {0}, [(0, list[str]())]
    while left:
        at, words = left.pop()
        if not 0 <= at < len(nodes) or len(words) > DEPTH:
            continue
        text = nodes[at].message(_USER_OBJECT).text(_USER_METADATA)
        if text:
            yield words, text
        for name, child in _children(nodes[at]).items():
            if child not in seen and name not in ASIDE:
                seen.add(child)
                left.append((child, [*words, name]))


def below(objects: Sequence[Object], at: int) -> set[int]:
    """Every object that hangs on one."""
    seen, left = {at}, [at]
    while left:
        for name, child in objects[left.pop()].children.items():
            if name not in ASIDE and child not in seen and 0 <= child < len(objects):
                seen.add(child)
                left.append(child)
    return seen
