"""The grammar of the notation, which weights and states share: one line says an array's name and what is in it.

    weight_ih_l{l}{d}   kernel : (g h) i
    h_n                 h : (l d) b p

What lines may speak of is a `Vocabulary`: `lstmbridge.notation` has that of weights, and says how a line is read;
`lstmbridge.statenotation` has that of states.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError, NotationError
from lstmbridge.layer import Array

__all__ = [
    "Axis",
    "Line",
    "Part",
    "Place",
    "Slot",
    "Vocabulary",
    "expect_names",
    "parse",
    "placed",
    "product",
    "solved",
]

_PART = re.compile(r"^(?P<name>\w+)(\[(?P<gates>[^\]]+)\])?$")
_AXIS = re.compile(r"\([^()]*\)|[^\s()]+")


@dataclass(frozen=True)
class Vocabulary:
    """What lines may speak of.

    parts    each part with its sizes in canonical order: ``{"kernel": "h i"}``
    counted  each index that is counted, with a word for it: ``{"d": "direction"}``; ``k`` counts the parts of a line
    gated    the parts of which there is one a gate
    """

    parts: Mapping[str, str]
    counted: Mapping[str, str]
    gated: Collection[str] = ()

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """The indices that are sizes."""
        return tuple(dict.fromkeys(index for text in self.parts.values() for index in text.split()))


@dataclass(frozen=True)
class Part:
    """One part of a line: its name, its own gates where it says some, and its sizes in canonical order."""

    name: str
    gates: tuple[str, ...] | None
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of an array: a product of indices, outermost first, or a sum of sizes."""

    indices: tuple[str, ...]
    joined: bool = False

    def size(self, sizes: Mapping[str, int]) -> int:
        """How long it is."""
        values = [sizes[index] for index in self.indices]
        return sum(values) if self.joined else product(values)

    def __str__(self) -> str:
        text = (" + " if self.joined else " ").join(self.indices)
        return f"({text})" if len(self.indices) > 1 else text


@dataclass(frozen=True)
class Line:
    """One line, taken apart: the array's name, and what is in it as written."""

    key: str
    text: str
    parts: tuple[Part, ...]
    axes: tuple[Axis, ...]

    @property
    def joined(self) -> bool:
        """Whether parts stand one after another on one axis."""
        return any(axis.joined for axis in self.axes)

    @property
    def pattern(self) -> str:
        """The axes as written."""
        return " ".join(str(axis) for axis in self.axes)

    def has(self, index: str) -> bool:
        """Whether an index stands in the axes."""
        return any(index in axis.indices for axis in self.axes)

    def says(self, index: str) -> bool:
        """Whether an index stands in the axes or in the name."""
        return self.has(index) or f"{{{index}}}" in self.key


@dataclass(frozen=True)
class Slot:
    """One array: its name, its line, and the sizes that its shape comes from."""

    key: str
    line: Line
    sizes: Mapping[str, int] = field(compare=False)
    gates: tuple[str, ...] = ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(axis.size(self.sizes) for axis in self.line.axes)


@dataclass(frozen=True)
class Place:
    """Where one canonical array stands: array `key`, seen as `split`, at `index`, its axes in the order `axes`.

    `index` has an int for an enumerated axis and a slice for a size. `axes` permutes what is left into canonical order.
    `sign` is -1 where the framework stores the opposite number.
    """

    key: str
    split: tuple[int, ...]
    index: tuple[int | slice, ...]
    axes: tuple[int, ...]
    sign: int = 1

    def of(self, array: Array) -> Array:
        """What stands there: a view on `array` (a copy only for an opposite sign or where there are no views)."""
        seen = xp.view(array, self.split, self.index, self.axes)
        return seen if self.sign > 0 else -seen

    def of_power(self, power: int) -> Place:
        """Where such a power of the weight stands: an even one has lost the sign."""
        return self if power % 2 else replace(self, sign=1)

    def stored(self, weight: Array) -> Array:
        """`weight` as the array's block holds it: axes back in the array's order, sign as stored."""
        back = tuple(self.axes.index(n) for n in range(len(self.axes)))
        seen = xp.permute(weight, back)
        return seen if self.sign > 0 else -seen


# ---- from text to lines


def parse(vocabulary: Vocabulary, key: str, text: str, gates: Collection[str] = ()) -> Line:
    """One line of a layout whose cell has these gates. Errors: NotationError with the line and what is wrong in it."""
    left, colon, right = text.partition(":")
    if not colon:
        raise NotationError(f"{key!r}: {text!r} has no colon", "expected parts : axes")
    joined = "+" in left
    words = [word.strip() for word in re.split(r"[|+]", left)]
    if joined and "|" in left:
        raise NotationError(f"{key!r}: {text!r} mixes | and +", "expected one of them")
    parts = tuple(_parse_part(vocabulary, key, text, word, gates) for word in words)
    axes = tuple(_parse_axis(vocabulary, key, text, token) for token in _AXIS.findall(right))
    line = Line(key, text, parts, axes)
    _check_line(vocabulary, line, joined)
    return line


def _parse_part(vocabulary: Vocabulary, key: str, text: str, word: str, gates: Collection[str]) -> Part:
    match = _PART.match(word)
    if match is None or match["name"] not in vocabulary.parts:
        known = ", ".join(vocabulary.parts)
        raise NotationError(f"{key!r}: {text!r}: {word!r} is not a part", f"expected one of {known}")
    own = tuple(match["gates"].split()) if match["gates"] else None
    if own and (set(own) - set(gates) or len(set(own)) != len(own)):
        found = f"{key!r}: {text!r}: gates {' '.join(own)}"
        raise NotationError(found, f"expected some of {' '.join(gates)}, each once" if gates else "expected no gates")
    return Part(match["name"], own, tuple(vocabulary.parts[match["name"]].split()))


def _parse_axis(vocabulary: Vocabulary, key: str, text: str, token: str) -> Axis:
    joined = "+" in token
    indices = tuple(re.split(r"\s*\+\s*|\s+", token.strip("() ")))
    known = vocabulary.sizes if joined else (*vocabulary.counted, *vocabulary.sizes)
    if not indices or any(index not in known for index in indices):
        raise NotationError(f"{key!r}: {text!r}: {token!r} is not an axis", f"expected indices {' '.join(known)}")
    return Axis(indices, joined)


def _check_line(vocabulary: Vocabulary, line: Line, joined: bool) -> None:
    def wrong(what: str, expected: str) -> NotationError:
        return NotationError(f"{line.key!r}: {line.text!r}: {what}", expected)

    flat = [index for axis in line.axes for index in axis.indices]
    repeated = {index for index in flat if flat.count(index) > 1}
    if repeated:
        raise wrong(f"index {', '.join(sorted(repeated))} twice", "each index once")
    if joined != line.joined:
        raise wrong("parts and axes disagree about +", "expected e.g. kernel + recurrent_kernel : (i + p) (g h)")
    if ("k" in flat) != (len(line.parts) > 1 and not joined):
        raise wrong("k is missing or has nothing to count", "expected k exactly where parts are joined by |")
    for n, part in enumerate(line.parts):
        found = {axis.indices[n] if axis.joined else index for axis in line.axes for index in axis.indices}
        if {index for index in found if index in vocabulary.sizes} != set(part.sizes):
            raise wrong(f"axes {line.pattern} for {part.name}", f"its sizes are {' '.join(part.sizes)}")
        if part.name in vocabulary.gated and ("g" in flat) == ("{g}" in line.key):
            raise wrong("the gate must be either in the name or in the axes", "expected g in one of them")
    for index, word in vocabulary.counted.items():
        if index in flat and f"{{{index}}}" in line.key:
            raise wrong(f"the {word} is both in the name and in the axes", f"expected {index} in one of them")


# ---- from lines to places


def placed(slot: Slot, k: int, at: Mapping[str, int], sign: int = 1) -> Place:
    """Where the part number `k` of a slot's line stands, at these values of the counted indices."""
    part = slot.line.parts[k]
    values = {**at, "k": k}
    index: list[int | slice] = []
    left: list[str] = []
    split = _split(slot)
    for axis, _ in split:
        if isinstance(axis, Axis):  # parts one after another: take this part's stretch
            start = sum(slot.sizes[i] for i in axis.indices[:k])
            mine = axis.indices[k]
            index.append(slice(start, start + slot.sizes[mine]))
            left.append(mine)
        elif axis in values:
            index.append(values[axis])
        else:
            index.append(slice(None))
            left.append(axis)
    axes = tuple(left.index(i) for i in part.sizes)
    return Place(slot.key, tuple(size for _, size in split), tuple(index), axes, sign)


def _split(slot: Slot) -> list[tuple[str | Axis, int]]:
    """The array's axes with every product taken apart: (index or joined axis, size)."""
    split: list[tuple[str | Axis, int]] = []
    for axis in slot.line.axes:
        if axis.joined:
            split.append((axis, axis.size(slot.sizes)))
        else:
            split.extend((index, slot.sizes[index]) for index in axis.indices)
    return split


def solved(axis: Axis, size: int, slot: Slot, known: Mapping[str, int], sizes: Collection[str]) -> dict[str, int]:
    """The one of these sizes that is not known, if an axis of that size has just one and it comes out whole."""
    open_ = [index for index in axis.indices if index in sizes and index not in known]
    if len(open_) != 1:
        return {}
    others = [known.get(index, slot.sizes[index]) for index in axis.indices if index != open_[0]]
    if axis.joined:
        value, rest = size - sum(others), 0
    else:
        value, rest = divmod(size, product(others))
    return {open_[0]: value} if rest == 0 and value > 0 else {}


def product(values: Sequence[int]) -> int:
    """All of them multiplied."""
    result = 1
    for value in values:
        result *= value
    return result


# ---- what is expected


def expect_names(found: Iterable[str], expected: Iterable[str], who: str, what: object) -> None:
    """Nothing, if both are the same names. Errors: LayoutError that says which are missing and which too many."""
    there, wanted = list(found), list(expected)
    missing = [key for key in wanted if key not in there]
    extra = [key for key in there if key not in wanted]
    if not missing and not extra:
        return
    counts = (
        f"{len(keys)} array{'s' * (len(keys) > 1)} {word}"
        for keys, word in ((missing, "missing"), (extra, "too many"))
        if keys
    )
    raise LayoutError(
        f"{who}: {' and '.join(counts)}" if who else " and ".join(counts),
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"too many: {', '.join(extra)}"] if extra else []),
        f"expected for {what}: {', '.join(wanted)}",
    )
