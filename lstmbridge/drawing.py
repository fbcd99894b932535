"""Layouts drawn: which block of which array is which gate, and the slice that takes it out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lstmbridge import registry
from lstmbridge.errors import OptionError, unknown
from lstmbridge.fit import Holds
from lstmbridge.notation import Block, Cut, Layout
from lstmbridge.spec import CELLS, Spec

__all__ = ["SIZES", "Drawn", "Piece", "draw", "layouts"]

#: The sizes by the names that people give them.
SIZES: Mapping[str, str] = {"input": "i", "hidden": "h", "state": "p", "projection": "p"}

#: Columns of text; pictures that are wider together stand under each other.
_WIDTH = 100

_LETTERS = "dihp"

#: One block of each axis; None for an axis that is not cut.
_Blocks = tuple[Block | None, ...]


@dataclass(frozen=True)
class Piece:
    """One block of an array: whose it is, and the slice.

    part       ``kernel``, ``recurrent_kernel``, ...
    gate       with a minus where the opposite is stored; None where the array's name says it, and for a projection
    direction  None where the array's name says it
    slice      as numpy takes it: ``[:, h:2h]``; with `lstmbridge.drawing.layouts`' sizes ``[:, 128:256]``
    """

    part: str
    gate: str | None
    direction: str | None
    slice: str


@dataclass(frozen=True)
class Drawn:
    """One array of a layout.

    key     its name, in which ``{d}`` is the direction, ``{g}`` the gate, ``{l}`` the level
    text    the line of the notation
    shape   in sizes, or in numbers where they are known
    axes    each axis that is cut, and its blocks: what stands there, from where to where
    pieces  every block with its slice, in the order of the array
    legend  what the names' indices are, and what else holds for all arrays of the layout
    module  ``faithful`` for an array that the framework's own layer does not have, and the project's own module does
    """

    framework: str
    cell: str
    key: str
    text: str
    shape: tuple[str, ...]
    axes: tuple[Cut, ...]
    pieces: tuple[Piece, ...]
    legend: tuple[str, ...]
    source: str
    module: str = "stock"

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "framework": self.framework,
            "cell": self.cell,
            "array": self.key,
            "layout": self.text,
            "shape": [_plain(length) for length in self.shape],
            "axes": {
                cut.axis: [{"what": b.what, "from": _plain(b.start), "to": _plain(b.stop)} for b in cut.blocks]
                for cut in self.axes
                if cut.blocks
            },
            "blocks": [
                {"part": each.part, "gate": each.gate, "direction": each.direction, "slice": each.slice}
                for each in self.pieces
            ],
            "legend": list(self.legend),
            "source": self.source,
            "module": self.module,
        }


def layouts(names: Sequence[str | Layout] = (), sizes: Mapping[str, int] | None = None) -> tuple[Drawn, ...]:
    """The layouts of these frameworks, or of all: `name` or ``name.cell``; or a Layout of your own.

    sizes  the value of ``input``, ``hidden`` and ``projection`` (the size of the state, which `hidden` is if it is not
           said; or ``state``), or of some of them: the others stay letters

    Errors: UnknownName for a framework, cell or size that is none, with the near name; OptionError for a size below 1,
    and for a projection where no LSTM is drawn.

    >>> [drawn.text for drawn in layouts(["torch.rnn"])][0]
    'kernel : (g h) i'
    >>> [piece.slice for piece in layouts(["keras.gru"], {"hidden": 128})[0].pieces]
    ['[:, 0:128]', '[:, 128:256]', '[:, 256:384]']
    """
    values = _checked(sizes or {})
    found = tuple(drawn for name in names or registry.names() for drawn in _of(name, values))
    if "p" in values and not any(drawn.cell == "lstm" for drawn in found):
        cells = " and ".join(dict.fromkeys(drawn.cell for drawn in found))
        raise OptionError(f"projection={values['p']} has no effect on {cells}", "only an LSTM has one")
    return found


def _checked(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes by letter. Errors: UnknownName, OptionError."""
    for name, value in sizes.items():
        if name not in SIZES:
            raise unknown("size", name, SIZES)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {value!r}", "expected a whole number of at least 1")
    if {"state", "projection"} <= set(sizes):
        raise OptionError("state and projection are two names of one size", "give one of them")
    return {SIZES[name]: value for name, value in sizes.items()}


def _of(name: str | Layout, sizes: Mapping[str, int]) -> Iterator[Drawn]:
    if isinstance(name, Layout):
        yield from _arrays(name, "", sizes)
        return
    framework, _, cell = name.partition(".")
    room = registry.framework(framework).layout
    if cell and cell not in room.LAYOUTS:
        raise unknown("layout", name, [f"{framework}.{each}" for each in room.LAYOUTS])
    for each in [cell] if cell else [c for c in CELLS if c in room.LAYOUTS]:
        for drawn in _arrays(room.LAYOUTS[each], framework, sizes):
            held = not hasattr(room, "FAITHFUL") or _is_held(drawn, room.HOLDS)
            yield drawn if held else replace(drawn, module="faithful")


def _is_held(drawn: Drawn, holds: Holds) -> bool:
    """Whether a framework's own layers have such an array."""
    parts = {piece.part for piece in drawn.pieces}
    needed = {feature for part, feature in _NEEDS.items() if part in parts}
    specs = [Spec(cell=drawn.cell, input_size=1, hidden_size=1, reset_after=after) for after in _RESETS[drawn.cell]]
    biases = "recurrent_bias" not in parts or any("dual" in holds.biases(spec) for spec in specs)
    return needed <= holds.features and biases


#: The forms of each cell on which its biases may depend.
_RESETS = {"lstm": (True,), "gru": (True, False), "rnn": (True,)}

#: The features of the parts that not every layer has.
_NEEDS = {"peephole": "peepholes", "projection": "projection"}


def _arrays(layout: Layout, framework: str, sizes: Mapping[str, int]) -> Iterator[Drawn]:
    """Every array of one layout."""
    legend, known = tuple(_legend(layout)), _known(sizes, layout.cell)
    for line, symbols in layout.cuts():
        cuts = tuple(_in_numbers(cut, known) for cut in symbols)
        yield Drawn(
            framework=framework,
            cell=layout.cell,
            key=line.key,
            text=line.text,
            shape=tuple(_value(length, known) for length in layout.lengths(line)),
            axes=cuts,
            pieces=tuple(_pieces(line.parts[0].name, cuts, taken_apart=len(cuts) > len(line.axes))),
            legend=legend,
            source=layout.source,
        )


def _known(sizes: Mapping[str, int], cell: str) -> dict[str, int]:
    """The sizes of one cell: the state is as large as hidden where nothing else is said, or can be."""
    stated = {letter: value for letter, value in sizes.items() if letter != "p" or cell == "lstm"}
    return ({"p": stated["h"]} if "h" in stated else {}) | stated


def _legend(layout: Layout) -> Iterator[str]:
    """What stands for what in the names and axes of a layout, as far as it has them."""
    keys = " ".join(line.key for line in layout.lines)
    if "{d}" in keys:
        named = {direction: name or "nothing" for direction, name in layout.directions.items()}
        apart = (name if name == direction else f"{name} ({direction})" for direction, name in named.items())
        yield f"{{d}} is {' or '.join(apart)}"
    if any(line.has("d") for line in layout.lines):
        yield "d is 2; of a layer with one direction it is 1, and that direction's index is 0"
    if "{g}" in keys:
        yield f"{{g}} is {', '.join(_called(layout, gate) for gate in layout.gates)}"
    if "{l}" in keys:
        yield "{l} is the level in a module that holds several, from 0"
    if any(sign < 0 for sign in layout.signs.values()):
        yield "-gate: the opposite of its numbers is stored"


def _called(layout: Layout, gate: str) -> str:
    name, stored = layout.gate_names.get(gate, gate), f"{'-' if layout.signs[gate] < 0 else ''}{gate}"
    return name if name == stored else f"{name} ({stored})"


# ---- the picture


def draw(drawn: Sequence[Drawn]) -> str:
    """Arrays as text: a box for each block, in it the gate and its slice.

    The last two axes run down and across, as in print; what else is counted has a picture each.

    >>> print(draw(layouts(["keras.gru"])[:1]))
    keras gru (keras/src/layers/rnn/gru.py)
      {d} is forward or reverse
    <BLANKLINE>
      {d}.kernel  (i, 3h)  kernel : i (g h)
        +----------+-----------+------------+
        |    z     |     r     |     n      |
        | [:, 0:h] | [:, h:2h] | [:, 2h:3h] |
        +----------+-----------+------------+
    """
    lines: list[str] = []
    for title, arrays in itertools.groupby(drawn, key=lambda each: (each.framework, each.cell)):
        first, *others = arrays
        source = f" ({first.source})" if first.source else ""
        lines += [*([""] if lines else []), f"{' '.join(title).strip()}{source}"]
        lines += [f"  {each}" for each in first.legend]
        for each in (first, *others):
            shape = f"({', '.join(each.shape)}{',' * (len(each.shape) == 1)})"
            whose = "  (faithful module only)" if each.module == "faithful" else ""
            lines += ["", f"  {each.key}  {shape}  {each.text}{whose}", *(f"    {line}" for line in _picture(each))]
    return "\n".join(line.rstrip() for line in lines)


#: One row of boxes: what stands to its left, and the label and the slice of each box.
_Row = tuple[str, list[tuple[str, str]]]


def _picture(drawn: Drawn) -> list[str]:
    """The boxes of one array."""
    named = "{g}" in drawn.key
    if not any(cut.blocks for cut in drawn.axes):
        return [f"all of it is {'one gate' if named else drawn.pieces[0].part}"]
    panels: dict[str, dict[str, _Row]] = {}
    for blocks, piece in zip(_positions(drawn.axes), drawn.pieces, strict=True):
        title, header, label = _told(blocks, "{g}" if named else piece.part)
        row = panels.setdefault(title, {}).setdefault(_start(blocks), (header, []))
        row[1].append((label, piece.slice))
    return _arranged([[*([title] if title else []), *_grid(list(rows.values()))] for title, rows in panels.items()])


def _told(blocks: _Blocks, otherwise: str) -> tuple[str, str, str]:
    """Where the words of a box stand: over the picture, left of the row, in the box.

    Of the last two axes the index that counts the fastest makes the boxes, the gate always stands in them.
    """
    down, across = ([*block.words.items()] if block else [] for block in _last_two(blocks))
    leading = [word for block in blocks[:-2] if block for word in block.words.values()]
    title = " ".join([*leading, *(word for _, word in (*down[:-1], *across[:-1]))])
    header, label = down[-1:], across[-1:]
    if dict(header).keys() == {"g"}:
        header, label = label, header
    return title, "".join(dict(header).values()), "".join(dict(label).values()) or otherwise


def _last_two(blocks: _Blocks) -> tuple[Block | None, Block | None]:
    return (blocks[-2] if len(blocks) > 1 else None), blocks[-1]


def _start(blocks: _Blocks) -> str:
    """What tells the row of a box from other rows."""
    down, _ = _last_two(blocks)
    return down.start if down else ""


def _grid(rows: Sequence[_Row]) -> list[str]:
    """Rows of boxes; a box is two lines high, or one where there is only one in each row."""
    single = all(len(boxes) == 1 for _, boxes in rows)
    label = max(len(text) for _, boxes in rows for text, _ in boxes)
    inside = [[(f"{t:^{label}}  {cut}",) if single else (t, cut) for t, cut in boxes] for _, boxes in rows]
    side = "<" if single else "^"
    widths = [max(len(line) for box in column for line in box) + 2 for column in zip(*inside, strict=True)]
    margin = max(len(header) for header, _ in rows)
    left = f"{'':{margin + 1 if margin else 0}}"
    rule = f"{left}+{'+'.join('-' * width for width in widths)}+"
    lines = [rule]
    for (header, _), boxes in zip(rows, inside, strict=True):
        for n, texts in enumerate(zip(*boxes, strict=True)):
            told = f"{header if n == 0 else '':{len(left)}}"
            filled = (f" {text:{side}{width - 2}} " for text, width in zip(texts, widths, strict=True))
            lines.append(f"{told}|{'|'.join(filled)}|")
        lines.append(rule)
    return lines


def _arranged(pictures: Sequence[Sequence[str]]) -> list[str]:
    """Pictures beside each other where the page is wide enough, else under each other."""
    widths = [max(map(len, picture)) for picture in pictures]
    if sum(widths) + 3 * (len(widths) - 1) > _WIDTH:
        return [line for picture in pictures for line in picture]
    rows = itertools.zip_longest(*pictures, fillvalue="")
    return ["   ".join(f"{line:{width}}" for line, width in zip(row, widths, strict=True)) for row in rows]


# ---- from symbols to numbers


def _in_numbers(cut: Cut, sizes: Mapping[str, int]) -> Cut:
    """The cut with each size that is known in numbers."""
    value = partial(_value, sizes=sizes)
    blocks = tuple(Block(block.words, value(block.start), value(block.stop)) for block in cut.blocks)
    return Cut(cut.axis, value(cut.length), blocks)


def _value(text: str, sizes: Mapping[str, int]) -> str:
    """An edge or a length with the sizes that are known put in.

    >>> _value("i+p", {"i": 300, "p": 128}), _value("4h:4", {"h": 128}), _value("2h", {}), _value("i+p", {"p": 3})
    ('428', '512:4', '2h', 'i+3')
    """
    return ":".join(_sum(part, sizes) for part in text.split(":"))


def _sum(text: str, sizes: Mapping[str, int]) -> str:
    terms = [_term(term, sizes) for term in text.split("+")]
    number = sum(count for count, letters in terms if not letters)
    symbols = [f"{count if count != 1 else ''}{letters}" for count, letters in terms if letters]
    return "+".join([*symbols, *([str(number)] if number or not symbols else [])])


def _term(text: str, sizes: Mapping[str, int]) -> tuple[int, str]:
    """A term such as ``2h`` as its number and the letters that are not known."""
    digits = text.rstrip(_LETTERS)
    letters = text.removeprefix(digits)
    count = math.prod(sizes[letter] for letter in letters if letter in sizes)
    return int(digits or 1) * count, "".join(letter for letter in letters if letter not in sizes)


def _plain(text: str) -> int | str:
    return int(text) if text.isdigit() else text


# ---- the pieces


def _pieces(part: str, cuts: Sequence[Cut], *, taken_apart: bool) -> Iterator[Piece]:
    """Every block of an array; `part` is what it holds where no axis tells parts apart."""
    lengths = ("-1" if cut.length == "d" else cut.length for cut in cuts)
    view = f".reshape({', '.join(lengths)})" if taken_apart else ""
    for blocks in _positions(cuts):
        words = _words(blocks)
        index = ", ".join(_index(cut, block) for cut, block in zip(cuts, blocks, strict=True))
        yield Piece(words.get("k", part), words.get("g"), words.get("d"), f"{view}[{index}]")


def _positions(cuts: Sequence[Cut]) -> Iterator[_Blocks]:
    """Every choice of one block an axis, in the order of the array; None for an axis that is not cut."""
    return itertools.product(*(cut.blocks or (None,) for cut in cuts))


def _words(blocks: _Blocks) -> dict[str, str]:
    return {index: word for block in blocks if block is not None for index, word in block.words.items()}


def _index(cut: Cut, block: Block | None) -> str:
    if block is None:
        return ":"
    return f"{block.start}:{block.stop}" if cut.sized else block.start
