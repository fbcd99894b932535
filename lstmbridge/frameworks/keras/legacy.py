"""Keras' older ``.h5`` files, of versions 1 to 3: a group a layer, its arrays in the order of ``weight_names``.

Sources: save_weights_to_hdf5_group and preprocess_weights_for_loading in keras/engine/saving.py (Keras 2.3.1), in
keras/engine/topology.py (Keras 1.2.2), and keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lstmbridge.errors import FileError, LayoutError, Unsupported
from lstmbridge.frameworks.keras.found import Fetch, Found, Source
from lstmbridge.frameworks.keras.graph import children, is_container, join, name_of, wanted
from lstmbridge.frameworks.keras.nodes import CellAt, Node, cell_of, is_recurrent, levels
from lstmbridge.frameworks.keras.store import Array, Store
from lstmbridge.spec import GATES

__all__ = ["Group", "era_of_names", "fetch_from", "groups_in", "is_legacy", "listed", "top_of"]


# ---- arrays by the names they have


@dataclass(frozen=True, eq=False)
class Group:
    """The arrays of one cell.

    above   what their names have in common: the names of the layers they are in
    names   the full name of each by what it is: ``kernel``, or for Keras 1 ``W_i``
    gates   how many gates their shapes tell; None: they are no cell's
    """

    above: str
    names: Mapping[str, str]
    gates: int | None

    @property
    def looks_recurrent(self) -> bool:
        """Whether these are a recurrent layer's arrays and nothing else's: any layer of Keras 1 may have W, U and b."""
        since_2 = any("recurrent_kernel" in name for name in self.names.values())
        return since_2 or self.gates in (3, 4)

    def fetch(self, store: Store) -> dict[str, Array]:
        """The arrays themselves."""
        return {what: store.read(name) for what, name in self.names.items()}


#: The last word of a name: since Keras 2 it stands alone, in Keras 1 behind the layer's name; TensorFlow, and Keras
#: itself, put a number behind names that come twice.
_SINCE_2 = re.compile(r"(?P<above>)(?P<what>kernel|recurrent_kernel|bias)(?P<again>_\d+)?")
_OF_1 = re.compile(r"(?P<above>.+)_(?P<what>[WUb](_[ifcozrh])?)(?P<again>_\d+)?")
_UNNAMED = re.compile(r"param_\d+")

#: Keras 1's names of arrays that hold all gates (``consume_less='gpu'``), and those of every version since.
_FUSED: Mapping[str, str] = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}

#: The order of Keras 1's arrays by how many a layer has.
_ORDER: Mapping[int, tuple[str, ...]] = {
    12: tuple(f"{part}_{gate}" for gate in "icfo" for part in "WUb"),
    9: tuple(f"{part}_{gate}" for gate in "zrh" for part in "WUb"),
    3: ("kernel", "recurrent_kernel", "bias"),
}


def top_of(store: Store) -> str:
    """The group that has a group a layer."""
    return "model_weights" if "model_weights" in store.groups else ""


def is_legacy(store: Store) -> bool:
    """Whether a file lists its layers by name, as the older format does."""
    attributes = store.groups[top_of(store)].attrs
    return "layer_names" in attributes or "layer_names0" in attributes


def era_of_names(store: Store) -> str:
    """The major version of a file that does not say one: the names of its arrays tell Keras 1 from those since."""
    top = top_of(store)
    for layer in store.names(top, "layer_names"):
        group = f"{top}/{layer}".lstrip("/")
        names = store.names(group, "weight_names") if group in store.groups else []
        words = [name.partition(":")[0].rpartition("/")[2] for name in names]
        if any(_SINCE_2.fullmatch(word) for word in words):
            return "2"
    return "1"


def groups_in(store: Store, group: str) -> list[Group]:
    """The arrays of a layer's group, cell by cell in the order of ``weight_names``; those of no cell are left out."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in store.names(group, "weight_names"):
        full = f"{group}/{name}"
        if full not in store.datasets:
            raise FileError(f"{store.where}: {group} lists the array {name!r}, which is not there")
        before, _, last = name.partition(":")[0].rpartition("/")
        match = _SINCE_2.fullmatch(last) or _OF_1.fullmatch(last)
        above = _joined(before, match["above"]) if match else before
        what = _FUSED.get(match["what"], match["what"]) if match else last
        of_cell = found.setdefault((above, (match["again"] or "") if match else ""), {})
        if what in of_cell:
            raise FileError(f"{store.where}: {group} lists {what} of {above!r} twice")
        of_cell[what] = full
    made = [Group(above, names, _gates(store, names)) for (above, _), names in found.items()]
    return [each for each in made if any(what[0] == "U" or "recurrent_kernel" in what for what in each.names)]


def _joined(*words: str) -> str:
    """Words of a name with a slash between those that are there."""
    return "/".join(word for word in words if word)


def _gates(store: Store, names: Mapping[str, str]) -> int | None:
    """How many gates the arrays of a cell have; None where their shapes are no cell's."""
    a_gate_each = [what for what in names if what.startswith("U_")]
    if a_gate_each:
        return len(a_gate_each)
    if "kernel" not in names or "recurrent_kernel" not in names:
        return None
    kernel, recurrent = (store.datasets[names[what]].shape for what in ("kernel", "recurrent_kernel"))
    if len(kernel) != 2 or len(recurrent) != 2 or not recurrent[0] or kernel[1] != recurrent[1]:
        return None
    gates, rest = divmod(recurrent[1], recurrent[0])
    return None if rest else int(gates)


# ---- the layers that a config lists

#: A recurrent layer at or below a layer that has a group: its node and its path.
Leaf = tuple[Node, str]


def listed(source: Source, config: Node, seen: list[str]) -> Iterator[Found]:
    """The recurrent layers that a config lists, in its order; `seen` is given the classes of all its layers.

    Errors: FileError for arrays that are missing; Unsupported for a layer that looks recurrent, and whose class is not
    known; LayoutError for more cells than arrays.
    """
    done: set[str] = set()
    for node, path, group in _with_groups(source, config, ""):
        leaves = list(_leaves(node, path, seen))
        if group in done:  # Keras 1 saves a layer of two branches once
            continue
        done.add(group)
        if group in source.store.groups:
            groups = groups_in(source.store, group) or _by_position(source, leaves, group)
            yield from _assigned(source, leaves, groups)
            _expect_none_left(source, node, leaves, groups)
        elif leaves:
            raise FileError(f"{source.where}: no arrays of {name_of(node)!r}", f"expected them at {group}")


def _with_groups(source: Source, node: Node, path: str) -> Iterator[tuple[Node, str, str]]:
    """Each layer of a model with its path and its group; those in a model without a group, one by one.

    Keras 1 saves the models in a Merge that way.
    """
    top = top_of(source.store)
    for each in children(node) if is_container(node) else ():
        own, group = join(path, name_of(each)), f"{top}/{name_of(each)}".lstrip("/")
        if is_container(each) and (not name_of(each) or group not in source.store.groups):
            yield from _with_groups(source, each, own)
        else:
            yield each, own, group


def _leaves(node: Node, path: str, seen: list[str]) -> Iterator[Leaf]:
    """The recurrent layers at or below a node, in the order of their weights."""
    kind = str(node["class_name"])
    seen.append(kind)
    if is_recurrent(kind):
        yield node, path
    elif is_container(node):
        for each in children(node):
            yield from _leaves(each, join(path, name_of(each)), seen)
    elif kind == "TimeDistributed":
        inner = node["config"]["layer"]
        yield from _leaves(inner, join(path, name_of(inner)), seen)


def _assigned(source: Source, leaves: Sequence[Leaf], groups: list[Group]) -> Iterator[Found]:
    """Each layer with the arrays of its cells, which are taken out of `groups`.

    They are those that its names lead to, in order where these do not tell.
    """
    there = ", ".join(each.above for each in groups) or "none"
    for node, path in leaves:
        who = f"{source.where}: keras {node['class_name']} {path!r}"
        chosen: dict[str, Group] = {}
        for cell in _cells(node, who) if wanted(path, source.options.only) else ():
            if not groups:
                raise LayoutError(f"{who}: no arrays left for it", f"found: {there}")
            best = max(range(len(groups)), key=lambda n: _score(groups[n], node, path, cell))
            chosen[cell.group if cell else ""] = groups.pop(best)
        yield Found(node, path, fetch_from(source.store, chosen))


def _cells(node: Node, who: str) -> Iterator[CellAt | None]:
    """Every cell of a layer; None for our own layer, which has none."""
    for level in levels(node, who):
        yield from level.cells.values() or (None,)


def fetch_from(store: Store, chosen: Mapping[str, Group]) -> Fetch:
    """Gives the arrays of a cell by its group's name in a Keras 3 file."""
    return lambda cell: chosen[cell.group if cell else ""].fetch(store)


def _score(group: Group, node: Node, path: str, cell: CellAt | None) -> tuple[bool, int]:
    """How well arrays suit a cell: by their gates, then by the words of their names; `max` takes the first of two."""
    words = group.above.split("/")
    hints = set(path.split("."))
    if cell is None:
        return True, sum(word in hints for word in words)
    fits = group.gates == len(GATES[cell_of(cell.kind)])
    if "layer" not in node["config"]:
        return fits, sum(word in hints for word in words)
    side = str(cell.where[0]).removesuffix("_layer")
    hints |= {str(cell.config.get("name")), f"{side}_{cell.config.get('name')}"}
    return fits, sum(word in hints for word in words) + any(word.startswith(f"{side}_") for word in words)


def _by_position(source: Source, leaves: Sequence[Leaf], group: str) -> list[Group]:
    """The arrays of the only recurrent layer in a group whose names tell nothing (``param_0`` ...), in Keras' order.

    Keras 1 on Theano gave such names to variables without one.
    """
    names = source.store.names(group, "weight_names")
    if len(leaves) != 1 or not names or not all(_UNNAMED.fullmatch(name) for name in names):
        return []
    cells = len(list(_cells(leaves[0][0], source.where)))
    each = len(names) // cells
    if len(names) % cells or each not in _ORDER:
        return []
    stretches = [names[start : start + each] for start in range(0, len(names), each)]
    made = [{what: f"{group}/{name}" for what, name in zip(_ORDER[each], stretch)} for stretch in stretches]
    return [Group("", of_cell, _gates(source.store, of_cell)) for of_cell in made]


#: How the class of a layer that is recurrent is called, most often.
_RECURRENT = re.compile(r"LSTM|GRU|RNN|Recurrent")


def _expect_none_left(source: Source, node: Node, leaves: Sequence[Leaf], left: Sequence[Group]) -> None:
    """That nothing at or below a node looks recurrent but what was found. Errors: Unsupported, naming it."""
    only = source.options.only
    for kind, path in _strangers(node, name_of(node)):
        if wanted(path, only):
            raise _looks_recurrent(source, kind, path, [])
    strange = [each for each in left if each.looks_recurrent]
    if strange and all(wanted(path, only) for path in [path for _, path in leaves] or [name_of(node)]):
        raise _looks_recurrent(source, str(node["class_name"]), name_of(node), strange)


def _strangers(node: Node, path: str) -> Iterator[tuple[str, str]]:
    """The layers at or below a node whose class sounds recurrent and is not known: the class and the path of each."""
    kind = str(node["class_name"])
    if is_container(node):
        for each in children(node):
            yield from _strangers(each, join(path, name_of(each)))
    elif kind == "TimeDistributed":
        yield from _strangers(node["config"]["layer"], join(path, name_of(node["config"]["layer"])))
    elif _RECURRENT.search(kind) and not is_recurrent(kind):
        yield kind, path


def _looks_recurrent(source: Source, kind: str, path: str, strange: Sequence[Group]) -> Unsupported:
    return Unsupported(
        f"{source.where}: keras {kind} {path!r}: it looks recurrent, and is of no class that is known",
        *[f"found: {', '.join(each.names)} of {each.above or path}" for each in strange],
        "to convert the other layers of this model, pick them: layers= (--layer)",
    )
