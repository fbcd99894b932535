"""Weights as pictures: per layer and direction maps of each gate, histograms, singular values, biases.

Needs matplotlib, which the extra ``plot`` installs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmbridge.choosing import select
from lstmbridge.contract import Reading
from lstmbridge.errors import MissingFramework, UnknownName, unknown
from lstmbridge.layer import Layer
from lstmbridge.pipeline import Progress
from lstmbridge.placing import atomic
from lstmbridge.plotting.sheets import Sheet
from lstmbridge.reading import read_all

__all__ = ["SUFFIXES", "Plot", "Sheet", "plot"]

#: What is written, by the file's suffix.
SUFFIXES = {
    ".html": "a page with all facts of `inspect`, a picture for each layer and direction",
    ".png": "one picture, as high as need be",
    ".svg": "one picture, of lines",
    ".pdf": "a page for each layer and direction",
}


@dataclass(frozen=True, eq=False)
class Plot:
    """What was drawn.

    path    the file
    sheets  one for each layer and direction, in order: the numbers that are drawn
    notes   of reading
    """

    path: Path
    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(sheet.title for sheet in self.sheets)}"


def plot(
    source: Any,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Plot:
    """Draws the weights of an object or file into the file `path`: all of it or nothing.

    path      its suffix says what is written (`SUFFIXES`)
    layers    only the layers at or below these paths
    force     overwrite an existing file
    progress  called as (what, done, total) on the way
    options   the fields of `ReadOptions`

    Errors: UnknownName for another suffix; MissingFramework where matplotlib is not installed; FileError for a file
    that exists or cannot be written; OptionError for a picture that would be too high; and those of `read`.

    >>> import tempfile, numpy as np
    >>> one = {"n": np.ones((1, 1))}
    >>> layer = Layer.from_gates(kernel=one, recurrent_kernel=one, path="cell")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     drawn = plot(layer, f"{folder}/cell.png")
    >>> [sheet.title for sheet in drawn.sheets]
    ['cell, forward']
    """
    destination = Path(path)
    _check_suffix(destination)
    write = _writer()
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    with atomic(destination, force=force) as staged:
        reading = read_all(source, **{"only": wanted, **options})
        chosen = select(reading.layers, wanted)
        kept: list[Sheet] = []
        drawn = Reading(chosen, reading.left_alone, reading.notes)
        write(staged, _watched(chosen, kept, progress), drawn, _name(source))
    return Plot(destination, tuple(kept), reading.notes)


def _name(source: Any) -> str:
    """What a page is called: the file, or what kind of object it is."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "layers" if isinstance(source, tuple | list) else type(source).__name__


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        error = unknown("kind of picture", path.suffix or path.name, SUFFIXES)
        raise UnknownName(f"{path.name}: {error.headline}", *error.details, f"known: {', '.join(SUFFIXES)}")


def _writer() -> Callable[[Path, Iterator[Sheet], Reading, str], None]:
    """What writes a file. Errors: MissingFramework."""
    try:
        write: Callable[[Path, Iterator[Sheet], Reading, str], None]
        write = importlib.import_module(f"{__name__}.writing").write
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "lstmbridge":
            raise
        raise MissingFramework(
            f"plots need the package {missing!r}, which is not installed", "pip install 'lstmbridge[plot]'"
        ) from error
    return write


def _watched(layers: Sequence[Layer], kept: list[Sheet], progress: Progress | None) -> Iterator[Sheet]:
    """A sheet for each layer and direction, as they are asked for; each is kept."""
    places = [(layer, direction) for layer in layers for direction in layer.spec.directions]
    for n, (layer, direction) in enumerate(places):
        if progress is not None:
            progress(f"drawing {layer.label or 'layer'}, {direction}", n, len(places))
        kept.append(Sheet.of(layer, direction))
        yield kept[-1]
