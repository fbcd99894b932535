"""Keras files without Keras: ``.keras`` archives, ``.weights.h5``, and whole models in ``.h5``.

A model is read by its config: each recurrent layer's arrays stand where Keras' saving puts them. Sources:
keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import Ambiguous, FileError, LayoutError, unknown
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.keras import writing
from lstmbridge.frameworks.keras.graph import (
    children,
    flow,
    groups_of,
    is_container,
    is_operation,
    join,
    name_of,
    notes_of,
    wanted,
)
from lstmbridge.frameworks.keras.infer import inferred
from lstmbridge.frameworks.keras.layout import LAYOUTS, dialect
from lstmbridge.frameworks.keras.nodes import CellAt, Node, is_recurrent, levels, make_layers
from lstmbridge.frameworks.keras.store import Array, Store, decode_config, open_archive, open_store
from lstmbridge.layer import Layer

__all__ = ["read", "version_of", "write"]

#: A cell's variables in the order in which Keras makes and saves them.
VARIABLES = ("kernel", "recurrent_kernel", "bias")


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a file, in execution order; the arrays of everything else are left alone.

    A ``.weights.h5`` file has no config: one beside it (``<name>.json``) is used, else what shapes and names do not
    tell is assumed, and noted. Errors: FileError for a file that is truncated, foreign, or without a recurrent layer;
    Unsupported for a recurrent layer that is not understood; LayoutError for arrays that are not what the config says.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            reader = _Reader(archive.store, options, archive.version)
            return reader.reading(reader.whole(archive.config), archive.config)
    with open_store(path) as store:
        top = "model_weights" if "model_weights" in store.groups else ""
        if "layer_names" in store.groups[top].attrs or "layer_names0" in store.groups[top].attrs:
            return _read_legacy(store, top, path, options)
        config = _config_of(store, path)
        reader = _Reader(store, options, _version(store, config))
        return reader.reading(reader.whole(config), config)


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """A model of the targets' layers that Keras loads and runs: `lstmbridge.frameworks.keras.writing`."""
    writing.write(targets, path, options)


def version_of(path: Path) -> str | None:
    """The version of Keras that a file says it was written by."""
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            return archive.version
    with open_store(path) as store:
        return _version(store, {})


def _version(store: Store, config: Mapping[str, Any] | None) -> str | None:
    groups = [group for group in ("", "model_weights") if group in store.groups]
    told = [store.attribute(group, "keras_version") for group in groups]
    return next((str(each) for each in (*told, (config or {}).get("keras_version")) if each), None)


def _config_of(store: Store, path: Path) -> Node | None:
    """The config of a weights file: in the file, if this project wrote it, or beside it."""
    inside = store.attribute("", "model_config")
    if inside is not None:
        return decode_config(inside, path.name)
    beside = [path.with_name(path.name.removesuffix(".weights.h5").removesuffix(path.suffix) + ".json")]
    beside += [path.with_name("config.json")] * (path.name == "model.weights.h5")
    found = next((each for each in beside if each.is_file()), None)
    return decode_config(found.read_text(encoding="utf-8"), found.name) if found else None


# ---- what the config lists


@dataclass(frozen=True)
class _Found:
    """A recurrent layer in a file: its node, its path, and how to get the arrays of one of its cells."""

    node: Node
    path: str
    fetch: Callable[[CellAt | None], Mapping[str, Array]]
    note: str = ""


class _Reader:
    """Goes through a model's config, and through the groups of its weights alongside."""

    def __init__(self, store: Store, options: ReadOptions, version: str | None) -> None:
        self.store, self.options, self.version = store, options, version
        self.known = dialect(version, store.where)
        old = "_layer_checkpoint_dependencies"  # Keras 2.13
        self.layers = old if old in store.groups else "layers"
        self.seen: list[str] = []
        self.groups: list[str] = []

    def whole(self, config: Node | None) -> Iterator[_Found]:
        """The recurrent layers that a model's config lists, or, where it lists no layers, those that the groups tell.

        Errors: FileError for a recurrent layer's arrays that a config with a list of layers does not list.
        """
        if config:
            yield from self.listed(config, "", "")
        for found in self.guessed(None, "", ""):
            if config and is_container(config):
                raise FileError(
                    f"{self.store.where}: {self.groups[-1]} holds a recurrent layer that the config does not list",
                    f"the config lists {', '.join(self.seen)}",
                    "the config and the weights are not of one model",
                )
            yield found

    def reading(self, found: Iterator[_Found], config: Node | None) -> Reading:
        """Every layer found, made. Errors: FileError if there is none."""
        after = flow(config)[1] if config else {}
        layers: list[Layer] = []
        notes: list[str] = list(notes_of(config)) if config else []
        paths: list[str] = []
        for each in found:
            paths.append(each.path)
            if not wanted(each.path, self.options.only):
                continue
            notes += [f"{each.path}: {each.note}"] if each.note else []
            layers += make_layers(
                each.node, each.fetch, path=each.path, known=self.known, version=self.version,
                where=self.store.where, after=after.get(each.path),
            )  # fmt: skip
        if not paths:
            found_here = ", ".join(dict.fromkeys(self.seen)) or ", ".join(self.store.groups[""]) or "nothing"
            raise FileError(f"{self.store.where}: no recurrent layer in it", f"found: {found_here}")
        if not layers:
            raise unknown("layer", self.options.only[0], paths)
        return Reading(tuple(layers), self.store.untouched(), tuple(notes))

    def listed(self, node: Node, path: str, base: str) -> Iterator[_Found]:
        """The recurrent layers that a node lists; `base` is its group in the file."""
        kind = str(node["class_name"])
        self.seen.append(kind)
        if is_recurrent(kind):
            self._expect_name(node, path, base)
            self.groups.append(base)
            yield _Found(node, path, self._fetch(node, path, base))
        elif is_container(node):
            inner = [each for each in children(node) if not is_operation(each)]
            for each, group in zip(inner, groups_of(inner), strict=True):
                yield from self.listed(each, join(path, name_of(each)), f"{base}/{self.layers}/{group}".lstrip("/"))
        elif kind == "TimeDistributed":
            inner_node = node["config"]["layer"]
            yield from self.listed(inner_node, join(path, name_of(inner_node)), f"{base}/layer")
        else:
            yield from self.guessed(node, path, base)

    def guessed(self, node: Node | None, path: str, base: str) -> Iterator[_Found]:
        """The recurrent layers that the groups at `base` tell, where no config lists them."""
        for found, own, group, note in inferred(self.store, base, node, path, self.options, tuple(self.groups)):
            self.groups.append(group)
            yield _Found(found, own, self._fetch(found, own, group), note)

    def _fetch(self, node: Node, path: str, base: str) -> Callable[[CellAt | None], Mapping[str, Array]]:
        def fetch(cell: CellAt | None) -> dict[str, Array]:
            group = "/".join(word for word in (base, cell.group if cell else "", "vars") if word)
            names = VARIABLES if cell else self._own_names(node)
            stored = sorted((name for name in self.store.datasets if name.rpartition("/")[0] == group), key=_number)
            if not stored:
                raise FileError(
                    f"{self.store.where}: the config lists {path!r}, and its arrays are missing",
                    f"expected them at {group}",
                )
            return {_nth(names, n): self.store.read(name) for n, name in enumerate(stored)}

        return fetch

    def _own_names(self, node: Node) -> tuple[str, ...]:
        spec = levels(node, self.store.where)[0].spec
        return tuple(key.replace(".", "_") for key in LAYOUTS[spec.cell].keys(spec)) if spec else ()

    def _expect_name(self, node: Node, path: str, base: str) -> None:
        """The name that newer versions note beside the arrays is the config's. Errors: FileError."""
        group = f"{base}/vars"
        told = self.store.attribute(group, "name") if group in self.store.groups else None
        if told and told != name_of(node):
            raise FileError(
                f"{self.store.where}: {base} holds the arrays of {told!r}",
                f"expected those of {path!r}: the config and the weights are not of one model",
            )


def _number(name: str) -> int:
    last = name.rpartition("/")[2]
    return int(last) if last.isdigit() else -1


def _nth(names: Sequence[str], n: int) -> str:
    return names[n] if n < len(names) else f"variable {n}"


# ---- whole models in .h5


def _read_legacy(store: Store, top: str, path: Path, options: ReadOptions) -> Reading:
    """A model in the older format: a group a layer, the arrays in the order of ``weight_names``."""
    config = _config_of(store, path)
    version = _version(store, config) or "1.0"
    dialect(version, path.name)
    if config is None:
        raise Ambiguous(
            f"{path}: written by Keras {version}, without the model's config: the arrays do not tell the activations",
            "put the config beside it, as <name>.json (model.to_json())",
        )
    reader = _Reader(store, options, version)
    return reader.reading(_legacy(reader, config, top), config)


def _legacy(reader: _Reader, config: Node, top: str) -> Iterator[_Found]:
    for node in children(config) if is_container(config) else ():
        leaves = list(_leaves(reader, node, name_of(node)))
        group = f"{top}/{name_of(node)}".lstrip("/")
        if leaves and group not in reader.store.groups:
            raise FileError(f"{reader.store.where}: no arrays of {name_of(node)!r}", f"expected them at {group}")
        if leaves:
            yield from _assigned(reader, leaves, _recurrent_groups(reader.store, group))


def _leaves(reader: _Reader, node: Node, path: str) -> Iterator[tuple[Node, str]]:
    """The recurrent layers at or below a node, in the order of their weights."""
    kind = str(node["class_name"])
    reader.seen.append(kind)
    if is_recurrent(kind):
        yield node, path
    elif is_container(node):
        for each in children(node):
            yield from _leaves(reader, each, join(path, name_of(each)))
    elif kind == "TimeDistributed":
        inner = node["config"]["layer"]
        yield from _leaves(reader, inner, join(path, name_of(inner)))


#: The arrays of one cell: their full names by the last word of each.
_Group = dict[str, str]


def _recurrent_groups(store: Store, group: str) -> dict[str, _Group]:
    """The arrays of a layer's group by what stands before their last word, where a recurrent kernel is among them."""
    groups: dict[str, _Group] = {}
    for name in store.names(group, "weight_names"):
        above, _, last = name.removesuffix(":0").rpartition("/")
        groups.setdefault(above, {})[last] = f"{group}/{name}"
    return {above: names for above, names in groups.items() if any(n.endswith("recurrent_kernel") for n in names)}


def _assigned(reader: _Reader, leaves: Sequence[tuple[Node, str]], groups: Mapping[str, _Group]) -> Iterator[_Found]:
    """Each layer with the groups of its cells: those that its names lead to, in order where they do not tell."""
    left = dict(groups)
    for node, path in leaves:
        who = f"{reader.store.where}: keras {node['class_name']} {path!r}"
        chosen: dict[str, _Group] = {}
        if wanted(path, reader.options.only):
            for level in levels(node, who):
                for cell in level.cells.values() or (None,):
                    if not left:
                        raise LayoutError(f"{who}: no arrays left for it", f"found: {', '.join(groups) or 'none'}")
                    best = max(left, key=lambda name: _score(name, node, path, cell))
                    chosen[cell.group if cell else ""] = left.pop(best)
        yield _Found(node, path, _from_groups(reader.store, chosen))


def _from_groups(store: Store, chosen: Mapping[str, _Group]) -> Callable[[CellAt | None], Mapping[str, Array]]:
    return lambda cell: {last: store.read(name) for last, name in chosen[cell.group if cell else ""].items()}


def _score(name: str, node: Node, path: str, cell: CellAt | None) -> int:
    """How many words of an array's name belong to this layer and cell; `max` takes the first of equals."""
    words = name.split("/")
    hints = set(path.split("."))
    if cell is not None and "layer" in node["config"]:
        side = str(cell.where[0]).removesuffix("_layer")
        hints |= {str(cell.config.get("name")), f"{side}_{cell.config.get('name')}"}
        return sum(word in hints for word in words) + any(word.startswith(f"{side}_") for word in words)
    return sum(word in hints for word in words)
