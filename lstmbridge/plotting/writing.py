"""Sheets as a file: one picture, pages, or a page of HTML."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages

from lstmbridge.contract import Reading
from lstmbridge.errors import OptionError
from lstmbridge.plotting import canvas
from lstmbridge.plotting.page import page
from lstmbridge.plotting.sheets import Sheet
from lstmbridge.summary import LayerSummary, Summary

__all__ = ["TALLEST", "write"]

#: Pixels that a picture may be high.
TALLEST = 30_000

#: What a file would say of the time it was made: nothing, so that the same weights give the same file.
_TIMELESS: Mapping[str, Mapping[str, Any]] = {
    "png": {}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "ModDate": None},
}  # fmt: skip


def write(path: Path, sheets: Iterable[Sheet], reading: Reading, name: str) -> None:
    """A file of the kind that the suffix says, with all sheets.

    reading  the layers that the sheets are of
    name     of the source, for a title

    Errors: OptionError for a .png that would be higher than `TALLEST`.
    """
    with canvas.styled():
        _WRITERS[path.suffix](path, sheets, reading, name)


def _picture(path: Path, sheets: Iterable[Sheet], reading: Reading, name: str) -> None:
    kind = path.suffix.removeprefix(".")
    drawn, high = [], 0.0
    for sheet in sheets:
        drawn.append(sheet)
        high += canvas.height(sheet) * canvas.DPI
        if kind == "png" and high > TALLEST:
            raise _too_high(reading)
    canvas.figure(drawn).savefig(path, format=kind, metadata=_TIMELESS[kind])


def _too_high(reading: Reading) -> OptionError:
    count = sum(len(layer.spec.directions) for layer in reading.layers)
    return OptionError(
        f"{count} sheets, one a layer and direction, are too much for one picture: it would be more than "
        f"{TALLEST:,} pixels high",
        "choose some: layers= (--layer); or write .html or .pdf, where each has a page",
    )


def _pages(path: Path, sheets: Iterable[Sheet], reading: Reading, name: str) -> None:
    with PdfPages(path, metadata=dict(_TIMELESS["pdf"])) as pages:
        for sheet in sheets:
            canvas.figure([sheet]).savefig(pages, format="pdf")


def _html(path: Path, sheets: Iterable[Sheet], reading: Reading, name: str) -> None:
    facts = Summary(tuple(map(LayerSummary.of, reading.layers)), reading.left_alone, reading.notes)
    pictures = [(sheet, _drawing(sheet, number)) for number, sheet in enumerate(sheets)]
    path.write_text(page(facts, pictures, name), encoding="utf-8")


def _drawing(sheet: Sheet, number: int) -> str:
    """The sheet as SVG; its title and caption are for the page to say."""
    buffer = io.StringIO()
    with canvas.styled(salt=f"sheet {number}"):
        made = canvas.figure([sheet], bare=True)
        made.savefig(buffer, format="svg", metadata=_TIMELESS["svg"], facecolor="none")
    return buffer.getvalue()


_WRITERS: Mapping[str, Callable[[Path, Iterable[Sheet], Reading, str], None]] = {
    ".png": _picture, ".svg": _picture, ".pdf": _pages, ".html": _html,
}  # fmt: skip
