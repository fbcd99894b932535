"""Sheets drawn with matplotlib: figures of its object interface, so that no global state is used or changed.

All measures are in inches; a sheet is `WIDTH` wide, and as high as what is on it.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstmbridge.markup import shown
from lstmbridge.plotting.colours import GATES, INK, LINE, NOT_FINITE, SOFT, diverging
from lstmbridge.plotting.sheets import Floats, Map, Sheet

__all__ = ["DPI", "WIDTH", "figure", "height", "styled"]

DPI = 150
WIDTH = 11.0

_LEFT, _RIGHT, _GAP = 0.85, 0.95, 0.32
_HEAD, _FOOT = 0.61, 0.3
_TOP, _SPARE = 0.25, 0.3  # without a title, and what need not be below without a caption
_MAP, _BELOW_MAP = 1.75, 0.7
_PANEL, _BELOW_PANEL, _BETWEEN = 1.9, 0.85, 0.75
_LEGEND = 0.95  # right of a panel that has one
_LEADING = 0.19
_ACROSS = 3  # panels side by side
_FEWEST = 3  # maps side by side; parts with fewer gates share a row
_LETTERS, _TITLE = 130, 90  # on one line of words, in a title

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a layer's name may have a dollar sign
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",
}
_WORDS = {
    "i": "input gate", "f": "forget gate", "g": "cell candidate", "o": "output gate",
    "r": "reset gate", "z": "update gate", "n": "new state",
}  # fmt: skip
_DASHES = {"i": "-", "f": (0, (5, 1.5)), "g": (0, (3, 1.2, 1, 1.2)), "o": (0, (1, 1)), "r": "-", "z": (0, (5, 1.5)),
           "n": (0, (3, 1.2, 1, 1.2))}  # fmt: skip
#: What a map's axes count, by its part: (down, across).
_COUNTED = {
    "kernel": ("unit", "input"), "recurrent_kernel": ("unit", "state"), "projection": ("state", "unit"),
}  # fmt: skip
#: A vector of more numbers is drawn as pixels in a vector graphic.
_MANY = 400


@dataclass(frozen=True)
class _Panel:
    """One of the pictures under the maps: its name, what draws it into axes, whether it has a legend at its right."""

    name: str
    draw: Callable[[Any, Sheet], None]
    legend: bool = False


@contextmanager
def styled(salt: str = "lstmbridge") -> Iterator[None]:
    """Figures that are made and written within look the same wherever they are made.

    salt  what the names inside an SVG are made of: two on one page need two
    """
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a layer's name in another script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield


def height(sheet: Sheet, *, bare: bool = False) -> float:
    """How high a sheet is; `bare`: without its title and caption."""
    maps, panels = len(_map_rows(sheet)), math.ceil(len(_panels(sheet)) / _ACROSS)
    words = _HEAD + (len(_spec_lines(sheet)) + len(_caption_lines(sheet))) * _LEADING + _FOOT
    around = _TOP - _SPARE if bare else words
    return around + maps * (_MAP + _BELOW_MAP) + panels * (_PANEL + _BELOW_PANEL)


def figure(drawn: Sequence[Sheet], *, bare: bool = False) -> Figure:
    """One figure of several sheets, one under another; to be called and written within `styled`."""
    heights = [height(sheet, bare=bare) for sheet in drawn]
    made = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, facecolor="white")
    top = 0.0
    for sheet, high in zip(drawn, heights, strict=True):
        _Board(made, top).sheet(sheet, bare=bare)
        top += high
    return made


class _Board:
    """The part of a figure where one sheet stands; places are told from its upper left corner."""

    def __init__(self, made: Figure, top: float) -> None:
        self.figure, self.top = made, top
        self.total = made.get_figheight()

    def axes(self, name: str, x: float, y: float, wide: float, high: float) -> Any:
        """New axes of that name, their upper left corner at (x, y)."""
        below = self.total - self.top - y - high
        place = (x / WIDTH, below / self.total, wide / WIDTH, high / self.total)
        return self.figure.add_axes(place, label=name)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """A line of text whose upper left corner is at (x, y)."""
        self.figure.text(x / WIDTH, 1 - (self.top + y) / self.total, text, va="top", **style)

    def sheet(self, sheet: Sheet, *, bare: bool) -> None:
        """Draws all of it."""
        y = _TOP if bare else self._head(sheet)
        for row in _map_rows(sheet):
            self._maps(sheet, row, y)
            y += _MAP + _BELOW_MAP
        panels = _panels(sheet)
        for n in range(0, len(panels), _ACROSS):
            self._row(sheet, panels[n : n + _ACROSS], y)
            y += _PANEL + _BELOW_PANEL
        for line in () if bare else _caption_lines(sheet):
            self.text(_LEFT, y - 0.15, line, size=8, color=SOFT)
            y += _LEADING

    def _head(self, sheet: Sheet) -> float:
        """Writes the title; gives where it ends."""
        self.text(_LEFT, 0.12, _short(sheet.title), size=13, weight="bold")
        for n, line in enumerate(_spec_lines(sheet)):
            self.text(_LEFT, 0.40 + n * _LEADING, line, size=9, color=SOFT)
        return _HEAD + len(_spec_lines(sheet)) * _LEADING

    def _maps(self, sheet: Sheet, row: Sequence[Map], y: float) -> None:
        columns = max(_FEWEST, *map(len, _map_rows(sheet)))
        wide = (WIDTH - _LEFT - _RIGHT - (columns - 1) * _GAP) / columns
        x, before = _LEFT, None
        for each in row:
            first = each.part != before
            x += _BETWEEN - _GAP if first and before else 0.0
            image = _map(self.axes(f"{each.part}.{each.gate}", x, y, wide, _MAP), each, sheet.scale, first=first)
            x, before = x + wide + _GAP, each.part
        bar = self.axes("scale", x - _GAP + 0.2, y, 0.12, _MAP)
        extend = "both" if sheet.beyond else "neither"
        self.figure.colorbar(image, cax=bar, extend=extend, format=_number).outline.set_linewidth(0.6)

    def _row(self, sheet: Sheet, panels: Sequence[_Panel], y: float) -> None:
        wide = (WIDTH - _LEFT - 0.35 - (_ACROSS - 1) * _BETWEEN) / _ACROSS
        for n, panel in enumerate(panels):
            room = _LEGEND if panel.legend else 0.0
            axes = self.axes(panel.name, _LEFT + n * (wide + _BETWEEN), y, wide - room, _PANEL)
            axes.spines[["top", "right"]].set_visible(False)
            panel.draw(axes, sheet)


def _map_rows(sheet: Sheet) -> list[list[Map]]:
    """The maps row by row: a part is in one row, and shares it where there is room."""
    rows: list[list[Map]] = []
    for part in dict.fromkeys(each.part for each in sheet.maps):
        together = [each for each in sheet.maps if each.part == part]
        if rows and len(rows[-1]) + len(together) < _FEWEST:
            rows[-1] += together
        else:
            rows.append(together)
    return rows


def _panels(sheet: Sheet) -> list[_Panel]:
    """The panels under the maps."""
    panels = [_Panel(f"numbers of {part}", partial(_histogram, part=part)) for part in sheet.counts]
    biases = [part for part in ("bias", "recurrent_bias") if part in sheet.vectors]
    if biases:
        panels.append(_Panel("biases", partial(_strips, parts=biases)))
    panels.append(_Panel("singular values", _singular, legend=True))
    if sheet.forget is not None:
        panels.append(_Panel("forget bias", _forget))
    if "peephole" in sheet.vectors:
        panels.append(_Panel("peepholes", partial(_strips, parts=["peephole"])))
    return panels


def _spec_lines(sheet: Sheet) -> list[str]:
    return textwrap.wrap(f"{sheet.spec}, {sheet.dtype}", _LETTERS)


def _caption_lines(sheet: Sheet) -> list[str]:
    return [line for sentence in sheet.caption() for line in textwrap.wrap(sentence, _LETTERS)]


def _short(title: str) -> str:
    """A title that fits, its middle left out where need be."""
    safe = shown(title).replace("\n", "\\n")
    return safe if len(safe) <= _TITLE else f"{safe[: _TITLE // 2]} ... {safe[-_TITLE // 2 + 5 :]}"


# ---- what stands in the axes


def _map(axes: Any, each: Map, scale: float, *, first: bool) -> Any:
    """The matrix as coloured cells, and what its rows and columns are."""
    rows, columns = each.shape
    colours = ListedColormap(diverging()).with_extremes(bad=NOT_FINITE)
    cells = np.ma.masked_invalid(each.values)
    down, across = (n * b for n, b in zip(each.values.shape, each.block, strict=True))
    image = axes.imshow(
        cells, cmap=colours, norm=Normalize(-scale, scale), aspect="auto", interpolation="none",
        extent=(-0.5, across - 0.5, down - 0.5, -0.5),
    )  # fmt: skip
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_whole(4))
    axes.set_title(_map_title(each), loc="left", pad=4)
    names = _COUNTED[each.part]
    axes.set_xlabel(names[1], labelpad=2)
    if first:
        axes.set_ylabel(f"{each.part.replace('_', ' ')}\n{names[0]}")
    else:
        axes.tick_params(labelleft=False)
    return image


def _map_title(each: Map) -> str:
    bad = [f"{count:,} {word}" for count, word in ((each.nan, "NaN"), (each.inf, "infinite")) if count]
    name = f"{each.gate}  {_WORDS[each.gate]}" if each.gate else each.part
    return ", ".join([name, *bad])


def _histogram(axes: Any, sheet: Sheet, *, part: str) -> None:
    """The numbers of each gate in bins, a gate on top of another."""
    counts = sheet.counts[part]
    tallest = max(int(each.max()) for each in counts.values()) or 1
    for n, (gate, each) in enumerate(counts.items()):
        axes.stairs(0.86 * each / tallest - n, sheet.edges, baseline=-n, fill=True, color=GATES[gate], alpha=0.55)
        axes.stairs(0.86 * each / tallest - n, sheet.edges, baseline=-n, color=GATES[gate], linewidth=0.9)
    axes.set_xlim(-sheet.scale, sheet.scale)
    _gate_rows(axes, list(counts), above=0.95, below=0.08)
    axes.set_title(f"{part.replace('_', ' ')}: numbers by size", loc="left")
    total = max(int(each.sum()) for each in counts.values()) or 1
    axes.set_xlabel(f"weight (the tallest bin has {tallest:,} of {total:,})")


def _gate_rows(axes: Any, gates: Sequence[str], *, above: float, below: float) -> None:
    """Rows named by gates, the first on top, and a line at zero."""
    axes.set_ylim(-(len(gates) - 1) - below, above)
    axes.set_yticks([-n for n in range(len(gates))], gates)
    axes.tick_params(axis="y", length=0, labelsize=9)
    for label, gate in zip(axes.get_yticklabels(), gates, strict=True):
        label.set_color(GATES[gate])
        label.set_fontweight("bold")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=LINE, linewidth=0.8, zorder=0)
    _sized(axes.xaxis)


def _strips(axes: Any, sheet: Sheet, *, parts: Sequence[str]) -> None:
    """The numbers of each gate unit by unit: the size to the right, units from top to bottom; of two parts one below
    the other."""
    gates = list(sheet.vectors[parts[0]])
    high = 0.76 / len(parts)
    for k, part in enumerate(parts):
        for n, gate in enumerate(gates):
            values = sheet.vectors[part][gate]
            rows = 0.38 - n - high * (k + (np.arange(values.size) + 0.5) / values.size)
            _dots(axes, values, rows, GATES[gate], filled=k == 0)
    _gate_rows(axes, gates, above=0.5, below=0.5)
    title, label = _VECTORS[tuple(parts)]
    axes.set_title(f"{title}, unit by unit", loc="left")
    axes.set_xlabel(label + _left_out([values for part in parts for values in sheet.vectors[part].values()]))


#: What a panel of strips is called, and what its numbers are.
_VECTORS = {
    ("bias",): ("biases", "bias"),
    ("bias", "recurrent_bias"): ("biases", "bias (filled, above), recurrent bias (open)"),
    ("peephole",): ("peepholes", "peephole"),
}


def _dots(axes: Any, values: Floats, rows: Floats, colour: str, *, filled: bool) -> None:
    finite = np.isfinite(values)
    size = float(np.clip(400 / values.size, 2.0, 16))
    axes.scatter(
        values[finite], rows[finite], s=size, facecolors=colour if filled else "none", edgecolors=colour,
        linewidths=0.7 if size > 4 else 0.35, rasterized=values.size > _MANY,
    )  # fmt: skip


def _singular(axes: Any, sheet: Sheet) -> None:
    """The singular values of each gate's recurrent kernel, largest first; its spectral radius in the legend."""
    top = 0.0
    for gate, values in sheet.singular.items():
        known = np.empty(0) if values is None else values
        told = sheet.radius[gate]
        label = f"{gate}  not finite" if values is None else gate if told is None else f"{gate}  {told:.3g}"
        axes.plot(
            np.arange(1, known.size + 1), known, label=label, color=GATES[gate], linestyle=_DASHES[gate],
            linewidth=1.3, marker="o" if known.size <= 16 else "", markersize=3.5,
        )  # fmt: skip
        top = max([top, *known[:1]])
    units = min(next(each.shape for each in sheet.maps if each.part == "recurrent_kernel"))
    axes.set_xlim(0.5, units + 0.5 + 0.02 * units)
    axes.set_ylim(0, 1.08 * top or 1.0)
    if top > 1:
        axes.axhline(1, color=LINE, linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(_whole(4))
    _sized(axes.yaxis)
    axes.set_title("recurrent kernel: singular values", loc="left")
    axes.set_xlabel("largest first")
    radius = any(value is not None for value in sheet.radius.values())
    axes.legend(
        title="spectral\nradius" if radius else None, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05),
        handlelength=2.2, handletextpad=0.6, alignment="left",
    )  # fmt: skip


def _forget(axes: Any, sheet: Sheet) -> None:
    """How many units have which forget bias, all terms together."""
    assert sheet.forget is not None
    values = sheet.forget[np.isfinite(sheet.forget)]
    constant = sheet.spec.forget_constant
    low, high = _reach([*values, 0.0, constant])
    bins = int(np.clip(math.sqrt(values.size) * 2, 10, 48))
    edges, alike = np.linspace(low, high, bins + 1), bool(values.size) and np.ptp(values) == 0
    if alike:  # one bin, with the number that all units have in its middle
        half = (high - low) / bins / 2
        edges = np.array([values[0] - half, values[0] + half])
    axes.hist(values, bins=edges, color=GATES["f"], alpha=0.8)
    axes.axvline(0, color=LINE, linewidth=0.8, zorder=0)
    if constant:
        axes.axvline(constant, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="constant")
    axes.set_xlim(low, high)
    _sized(axes.xaxis)
    axes.yaxis.set_major_locator(_whole(4))
    axes.set_title("forget bias: units by size", loc="left")
    words = [f"{'all' if alike else 'mean'} {values.mean():.3g}"] if values.size else []
    words += [f"dashed: {constant:+g} that is added at run time"] if constant else []
    axes.set_xlabel("; ".join(words) + _left_out([sheet.forget]))


def _number(value: float, _: int | None = None) -> str:
    """A size as it stands at a tick: all of it, so that nothing need stand elsewhere."""
    return f"{value:.6g}"


def _sized(axis: Any) -> None:
    """Ticks of an axis of sizes."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(_number)


def _whole(most: int) -> MaxNLocator:
    """Ticks at whole numbers, and be it only one."""
    return MaxNLocator(most, integer=True, min_n_ticks=1)


def _reach(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.5
    return low - margin, high + margin


def _left_out(arrays: Sequence[Floats]) -> str:
    count = sum(int(values.size - np.isfinite(values).sum()) for values in arrays)
    return f"\n{count:,} not finite, left out" if count else ""
