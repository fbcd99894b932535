"""One HTML page of weights: the facts of `inspect` and a drawing for each layer and direction.

Nothing is loaded from anywhere, and no script runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources

from lstmbridge.markup import Markup, tag, together
from lstmbridge.plotting.colours import INK, LINE, SOFT
from lstmbridge.plotting.sheets import Sheet
from lstmbridge.summary import LayerSummary, Summary

__all__ = ["page"]

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
{title}
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""

#: The drawing's colours that change with the page's.
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}


def page(facts: Summary, pictures: Sequence[tuple[Sheet, str]], name: str) -> str:
    """The page.

    pictures  each sheet with its drawing, an SVG document; in the order of the layers' directions
    name      of the source

    Whatever stands in names is text in it, never markup. The same arguments give the same page.
    """
    waiting = iter(pictures)
    sections = [
        _section(number, layer, [next(waiting) for _ in layer.spec.directions])
        for number, layer in enumerate(facts.layers)
    ]
    body = together([_header(facts, name), tag("main", together(sections))])
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8").strip()
    return _HEAD.format(title=tag("title", f"{name}: weights"), style=style, body=body)


def _header(facts: Summary, name: str) -> Markup:
    links = [
        tag("li", tag("a", layer.label or "layer", href=f"#layer-{number}"), f": {layer.spec}")
        for number, layer in enumerate(facts.layers)
    ]
    others = len(facts.left_alone)
    lines = [
        tag("p", "lstmbridge plot", class_="name"),
        tag("h1", name),
        *(tag("p", f"Note: {note}", class_="note") for note in facts.notes),
        tag("ul", together(links), class_="layers"),
        *([tag("p", facts.total)] if facts.total else []),
        *([tag("p", f"Left alone: {others} weights that belong to no recurrent layer.", class_="hint")] * bool(others)),
    ]
    return tag("header", together(lines))


def _section(number: int, layer: LayerSummary, pictures: Sequence[tuple[Sheet, str]]) -> Markup:
    statistics = tag("details", tag("summary", "Statistics of every weight"), _table(*layer.statistics()))
    parts = [
        tag("h2", layer.label or "layer"),
        tag("p", str(layer.spec), class_="spec"),
        tag("dl", together(_terms(layer)), class_="facts"),
        _table(*layer.counts()),
        *(_figure(sheet, drawing) for sheet, drawing in pictures),
        statistics,
    ]
    return tag("section", together(parts), id=f"layer-{number}")


def _terms(layer: LayerSummary) -> Iterator[Markup]:
    for name, told in layer.facts().items():
        words = [told] if isinstance(told, str) else [tag("span", f"{each},") for each in told[:-1]] + [told[-1]]
        yield tag("div", tag("dt", name), tag("dd", *_spaced(words)))


def _spaced(words: Sequence[str]) -> Iterator[str]:
    for n, word in enumerate(words):
        yield from (" ", word) if n else (word,)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Names and formulas to the left, numbers to the right."""

    def cells(kind: str, words: Sequence[str]) -> Markup:
        first, *others = words
        side = ["number" if n > 0 else None for n in range(len(others))]
        scope = "col" if kind == "th" else "row"
        head = tag("th", first, scope=scope)
        return tag("tr", head, *(tag(kind, word, class_=each) for word, each in zip(others, side, strict=True)))

    body = together(cells("td", row) for row in rows)
    return tag("div", tag("table", tag("thead", cells("th", columns)), tag("tbody", body)), class_="wide")


def _figure(sheet: Sheet, drawing: str) -> Markup:
    words = together(tag("li", sentence) for sentence in sheet.caption())
    title = tag("h3", sheet.direction)
    return tag("figure", title, tag("div", _inline(drawing, sheet), class_="wide"), tag("figcaption", tag("ul", words)))


def _inline(drawing: str, sheet: Sheet) -> Markup:
    """An SVG document as an element of the page: in its colours, as wide as it, with a name for those who hear it."""
    inner = drawing[drawing.index("<svg") :]
    meant = {name for pair in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', inner) for name in pair}
    inner = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in meant else "", inner)
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, variable)
    opening, _, rest = inner.partition(">")
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    name = tag("title", f"Maps, histograms, biases and singular values of {sheet.title}")
    return Markup(f'{opening} role="img">{name}{rest.strip()}')
