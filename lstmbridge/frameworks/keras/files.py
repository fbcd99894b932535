"""Keras files without Keras: ``.keras`` archives, ``.weights.h5``, models and weights in ``.h5``, configs in ``.json``.

A model is read by its config: each recurrent layer's arrays stand where Keras' saving puts them. Sources:
keras/src/saving/saving_lib.py (Keras 3.15); for files of versions 1 and 2, `lstmbridge.frameworks.keras.legacy`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import FileError
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.keras import writing
from lstmbridge.frameworks.keras.checkpoint import is_checkpoint, read_checkpoint
from lstmbridge.frameworks.keras.era import named
from lstmbridge.frameworks.keras.found import Found, Source, reading
from lstmbridge.frameworks.keras.graph import children, groups_of, is_container, is_operation, join, name_of
from lstmbridge.frameworks.keras.infer import inferred
from lstmbridge.frameworks.keras.layout import LAYOUTS, version_numbers
from lstmbridge.frameworks.keras.legacy import era_of_names, is_legacy, listed, top_of
from lstmbridge.frameworks.keras.nodes import CellAt, Node, is_recurrent, levels
from lstmbridge.frameworks.keras.patch import put
from lstmbridge.frameworks.keras.sources import Config, config_of, given_config, version_of_store, weights_beside
from lstmbridge.frameworks.keras.store import Array, Store, open_archive, open_store
from lstmbridge.frameworks.keras.unlisted import unlisted
from lstmbridge.layer import Layer
from lstmbridge.stored import noting

__all__ = ["patch", "read", "version_of", "write"]

#: A cell's variables in the order in which Keras makes and saves them.
VARIABLES = ("kernel", "recurrent_kernel", "bias")


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a file, in execution order; the arrays of everything else are left alone.

    A file of weights alone is read with the config that `options` name, or with one beside it (``<name>.json``); else
    what names and shapes do not tell is taken to be the default of the version that wrote it, and noted. A ``.json``
    file is a config, whose weights stand beside it. Errors: FileError for a file that is truncated, foreign, or without
    a recurrent layer; Unsupported for a recurrent layer that is not understood; LayoutError for arrays that are not
    what the config says; Ambiguous where neither the file nor the version that wrote it tells what a layer computes.
    """
    if path.name.endswith(".json"):
        return _read_beside(path, options)
    if is_checkpoint(path):
        return read_checkpoint(path, options)
    if path.is_file() and zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            config = Config(archive.config) if options.config is None else given_config(Path(options.config))
            return _by_groups(_source(archive.store, config, archive.version or config.version, options))
    with open_store(path) as store:
        return _read_store(store, config_of(store, path, options), options)


def patch(existing: Path, layers: Sequence[Layer], path: Path, options: ReadOptions) -> tuple[str, ...]:
    """The file `existing` at `path`, with the weights of `layers`: `lstmbridge.frameworks.keras.patch`."""
    with noting() as noted:
        found = read(existing, options)
    put(existing, found, layers, path, noted)
    return ()


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """A model of the targets' layers that Keras loads and runs: `lstmbridge.frameworks.keras.writing`."""
    writing.write(targets, path, options)


def version_of(path: Path, options: ReadOptions) -> str | None:
    """The version of Keras that a file was written by, as `read` takes it; None is Keras 3."""
    if path.name.endswith(".json"):
        return given_config(path).version or version_of(weights_beside(path), options)
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            return archive.version
    with open_store(path) as store:
        return _version(store, config_of(store, path, options))


def _read_beside(path: Path, options: ReadOptions) -> Reading:
    """The layers of the config at `path`, with the weights beside it. Errors: as `weights_beside` says."""
    if options.config is not None:
        raise FileError(f"{path.name} is a config itself", f"read its weights with config={options.config} (--config)")
    config, weights = given_config(path), weights_beside(path)
    with open_store(weights) as store:
        note = f"the weights are those of {weights.name}, beside it"
        return _read_store(store, Config(config.node, config.version, note), options)


def _read_store(store: Store, config: Config | None, options: ReadOptions) -> Reading:
    """An HDF5 file, in Keras 3's format or in the one before."""
    version = _version(store, config)
    if not is_legacy(store):
        return _by_groups(_source(store, config, version, options))
    source = _source(store, config, version, options)
    seen: list[str] = []
    found = unlisted(source) if source.config is None else listed(source, source.config, seen)
    return reading(source, found, seen)


def _source(store: Store, config: Config | None, version: str | None, options: ReadOptions) -> Source:
    names = store.names(top_of(store), "layer_names") if is_legacy(store) else []
    notes = [config.note] if config is not None and config.note else []
    written = version_of_store(store)
    if written and version_numbers(written)[0] != version_numbers(version)[0]:
        notes.append(
            f"the weights are of Keras {written}, the config of Keras {version}, which says what its words mean"
        )
    if is_legacy(store) and version in ("1", "2"):
        notes.append(f"the file does not say which Keras wrote it: Keras {version} has such names of arrays")
    return Source(store, None if config is None else named(config.node, names), version, options, tuple(notes))


def _version(store: Store, config: Config | None) -> str | None:
    """The version that decides what the config's words mean: its own, else that of the file."""
    own = config.version if config is not None else None
    told = own or version_of_store(store)
    return told if told or not is_legacy(store) else era_of_names(store)


def _by_groups(source: Source) -> Reading:
    reader = _Reader(source)
    return reading(source, reader.whole(source.config), reader.seen)


# ---- Keras 3's format


class _Reader:
    """Goes through a model's config, and through the groups of its weights alongside."""

    def __init__(self, source: Source) -> None:
        self.source, self.store = source, source.store
        old = "_layer_checkpoint_dependencies"  # Keras 2.13
        self.layers = old if old in self.store.groups else "layers"
        self.seen: list[str] = []
        self.groups: list[str] = []

    def whole(self, config: Node | None) -> Iterator[Found]:
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

    def listed(self, node: Node, path: str, base: str) -> Iterator[Found]:
        """The recurrent layers that a node lists; `base` is its group in the file."""
        kind = str(node["class_name"])
        self.seen.append(kind)
        if is_recurrent(kind):
            self._expect_name(node, path, base)
            self.groups.append(base)
            yield Found(node, path, self._fetch(node, path, base))
        elif is_container(node):
            inner = [each for each in children(node) if not is_operation(each)]
            for each, group in zip(inner, groups_of(inner), strict=True):
                yield from self.listed(each, join(path, name_of(each)), f"{base}/{self.layers}/{group}".lstrip("/"))
        elif kind == "TimeDistributed":
            inner_node = node["config"]["layer"]
            yield from self.listed(inner_node, join(path, name_of(inner_node)), f"{base}/layer")
        else:
            yield from self.guessed(node, path, base)

    def guessed(self, node: Node | None, path: str, base: str) -> Iterator[Found]:
        """The recurrent layers that the groups at `base` tell, where no config lists them."""
        for found, own, group, note in inferred(self.store, base, node, path, self.source.options, tuple(self.groups)):
            self.groups.append(group)
            yield Found(found, own, self._fetch(found, own, group), note)

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
