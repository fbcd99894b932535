"""From recurrent layers that were found in a file to what was read: layers, what was left alone, notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import NothingRecurrent, unknown
from lstmbridge.frameworks.keras.era import notes_of_era
from lstmbridge.frameworks.keras.graph import flow, notes_of, wanted
from lstmbridge.frameworks.keras.layout import dialect
from lstmbridge.frameworks.keras.nodes import CellAt, Node, make_layers
from lstmbridge.frameworks.keras.store import Array, Store
from lstmbridge.layer import Layer

__all__ = ["Fetch", "Found", "Source", "reading"]

#: Gives the arrays of one of a layer's cells by name; for None, those of a layer that has no cells.
Fetch = Callable[[CellAt | None], Mapping[str, Array]]


@dataclass(frozen=True)
class Found:
    """A recurrent layer in a file: its node, its path, how to get its arrays, and what was assumed."""

    node: Node
    path: str
    fetch: Fetch
    note: str = ""


@dataclass(frozen=True, eq=False)
class Source:
    """What a file is read with.

    store    its arrays
    config   its model's node; None: there is none
    version  the version of Keras that it was written by; None: Keras 3, which does not always say it
    options  what the caller says
    notes    how these were come by
    """

    store: Store
    config: Node | None
    version: str | None
    options: ReadOptions
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The file's name, for messages."""
        return self.store.where


def reading(source: Source, found: Iterable[Found], seen: Iterable[str]) -> Reading:
    """Every layer found, made. Errors: FileError if there is none; `seen` are the classes of what there is instead."""
    after = flow(source.config)[1] if source.config else {}
    layers: list[Layer] = []
    notes = [*source.notes, *(notes_of(source.config) if source.config else ())]
    paths: list[str] = []
    for each in found:
        paths.append(each.path)
        if not wanted(each.path, source.options.only):
            continue
        notes += [f"{each.path}: {each.note}"] if each.note else []
        layers += make_layers(
            each.node, each.fetch, path=each.path, known=dialect(source.version), version=source.version,
            where=source.where, after=after.get(each.path),
        )  # fmt: skip
    if not paths:
        there = ", ".join(dict.fromkeys(seen)) or ", ".join(source.store.groups[""]) or "nothing"
        raise NothingRecurrent(f"{source.where}: no recurrent layer in it", f"found: {there}")
    if not layers:
        raise unknown("layer", source.options.only[0], paths)
    return Reading(tuple(layers), source.store.untouched(), (*notes, *notes_of_era(layers, source.version)))
