"""Layouts of states, in the notation of the weights: where h and c of each layer and direction stand.

    StateLayout(
        ("h_n", "h : (l d) b p"),
        ("c_n", "c : (l d) b h"),
    )

The parts are ``h`` (b, p) and ``c`` (b, h). In names and axes ``l`` is the level in a module that holds several
layers, and ``d`` the direction; ``b`` is the batch. ``{l}.{d}.h`` is an array for each level and direction,
``(l d) b p`` is one for all; ``c + h : b (h + p)`` holds c and h one after another. A line belongs to a layer whose
cell has all of its parts (c only an LSTM); of several lines with one name, the one with most parts is meant.

A state is named ``direction.part``, e.g. ``forward.h``. A `StateForm` says beside the layout in what a framework holds
the arrays: a tuple, a list a level, a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError
from lstmbridge.grammar import Line, Place, Slot, Vocabulary, expect_names, parse, placed, solved
from lstmbridge.layer import Array
from lstmbridge.spec import Spec

__all__ = ["CANONICAL", "STATES", "StateForm", "StateLayout", "apart", "flat", "names", "shape", "together"]

#: What lines about states speak of.
STATES = Vocabulary({"h": "b p", "c": "b h"}, {"l": "level", "d": "direction", "k": "part"})

#: One layer's states by name.
Named = Mapping[str, Array]


def names(spec: Spec) -> tuple[str, ...]:
    """The names of a layer's states, direction by direction.

    >>> names(Spec(cell="lstm", input_size=5, hidden_size=11))
    ('forward.h', 'forward.c')
    """
    return tuple(f"{direction}.{part}" for direction in spec.directions for part in _parts(spec))


def shape(spec: Spec, name: str, batch: int) -> tuple[int, ...]:
    """The canonical shape of a state: (b, p) or (b, h)."""
    sizes = {**spec.sizes, "b": batch}
    return tuple(sizes[index] for index in STATES.parts[name.rpartition(".")[2]].split())


def _parts(spec: Spec) -> tuple[str, ...]:
    return ("h", "c") if spec.cell == "lstm" else ("h",)


class StateLayout:
    """How one framework stores the states of the layers that one module holds.

    lines       (name of the array, what is in it), as the module's docstring says
    directions  what ``{d}`` becomes in a name
    source      where that is written

    The Specs are those of the module's levels, in order. Errors: NotationError for a line that does not follow the
    grammar; LayoutError for Specs that the layout has no place for.

    >>> spec = Spec(cell="lstm", input_size=5, hidden_size=11, directions=("forward", "reverse"))
    >>> StateLayout(("h_n", "h : (l d) b p"), ("c_n", "c : (l d) b h")).shapes([spec], batch=3)
    {'h_n': (2, 3, 11), 'c_n': (2, 3, 11)}
    """

    def __init__(
        self, *lines: tuple[str, str], directions: Mapping[str, str] | None = None, source: str = ""
    ) -> None:
        self.lines = tuple(parse(STATES, key, text) for key, text in lines)
        self.directions = directions or {"forward": "forward", "reverse": "reverse"}
        self.source = source

    @property
    def stacked(self) -> bool:
        """Whether it has a place for several levels."""
        return all(line.says("l") for line in self.lines)

    @property
    def bidirectional(self) -> bool:
        """Whether it has a place for two directions."""
        return all(line.says("d") for line in self.lines)

    def slots(self, specs: Sequence[Spec], batch: int = 1) -> dict[str, Slot]:
        """Every array by name, in the order level, direction, line."""
        return {key: slot for key, slot, _, _ in self._each(specs, batch)}

    def places(self, specs: Sequence[Spec], batch: int = 1) -> list[dict[str, Place]]:
        """For each level, where each of its states stands, by the state's name."""
        found: list[dict[str, Place]] = [{} for _ in specs]
        for _, slot, level, direction in self._each(specs, batch):
            at = {"l": level, "d": specs[level].directions.index(direction)}
            for k, part in enumerate(slot.line.parts):
                found[level][f"{direction}.{part.name}"] = placed(slot, k, at)
        return found

    def owners(self, specs: Sequence[Spec]) -> dict[str, dict[str, str]]:
        """For each array, which level and direction its name is about: ``{"l": "0", "d": "forward"}``."""
        return {
            key: {index: text for index, text in (("l", str(level)), ("d", d)) if f"{{{index}}}" in slot.line.key}
            for key, slot, level, d in self._each(specs, 1)
        }

    def keys(self, specs: Sequence[Spec]) -> tuple[str, ...]:
        """The names of the arrays, in the order level, direction, line."""
        return tuple(self.slots(specs))

    def shapes(self, specs: Sequence[Spec], batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of every array, by name."""
        return {key: slot.shape for key, slot in self.slots(specs, batch).items()}

    def unpack(self, arrays: Named, specs: Sequence[Spec], *, who: str = "") -> list[dict[str, Array]]:
        """For each level its states by name: views on the memory of `arrays`. Errors: those of `check`."""
        places = self.places(specs, self.check(arrays, specs, who=who))
        return [
            {name: level[name].of(arrays[level[name].key]) for name in names(spec)}
            for spec, level in zip(specs, places, strict=True)
        ]

    def pack(self, states: Sequence[Named], specs: Sequence[Spec]) -> dict[str, Array]:
        """The framework's arrays, filled from each level's states; they own their memory, on the states' device.

        Every element is written once. Errors: LayoutError for states that are not just those of the Specs.
        """
        for spec, named in zip(specs, states, strict=True):
            expect_names(named, names(spec), "", spec)
        batch = int(next(iter(states[0].values())).shape[0])
        slots = self.slots(specs, batch)
        blocks: dict[str, list[tuple[Place, Array]]] = {key: [] for key in slots}
        for named, places in zip(states, self.places(specs, batch), strict=True):
            for name, each in places.items():
                blocks[each.key].append((each, named[name]))
        return {key: xp.assemble(slot.shape, blocks[key]) for key, slot in slots.items()}

    def check(self, arrays: Named, specs: Sequence[Spec], *, batch: int | None = None, who: str = "") -> int:
        """The batch size of `arrays`, if they are just what this layout expects.

        batch  the one expected; None: that of the first array. Errors: LayoutError that says what is not.
        """
        slots = self.slots(specs)
        expect_names(arrays, slots, who, _said(specs))
        shapes = {key: tuple(int(n) for n in arrays[key].shape) for key in slots}
        found = (_batch(slot, shapes[key]) for key, slot in slots.items())
        size = batch or next((each for each in found if each), 1)
        slots = self.slots(specs, size)
        for key, slot in slots.items():
            if shapes[key] != slot.shape:
                raise LayoutError(f"{who + ': ' if who else ''}{key} has shape {shapes[key]}",
                                  *_explain(slot, shapes[key], slots.values()))  # fmt: skip
        return size

    def _each(self, specs: Sequence[Spec], batch: int) -> Iterator[tuple[str, Slot, int, str]]:
        """Every array with each level and direction that stands in it. Errors: LayoutError."""
        self._expect_places(specs)
        for level, spec in enumerate(specs):
            for direction in spec.directions:
                for line in self._lines_for(spec):
                    key = line.key.replace("{d}", self.directions[direction]).replace("{l}", str(level))
                    counts = {"b": batch, "l": len(specs), "d": len(spec.directions), "k": len(line.parts)}
                    yield key, Slot(key, line, {**spec.sizes, **counts}), level, direction

    def _lines_for(self, spec: Spec) -> list[Line]:
        """The lines whose parts the cell has; of those with one name, the one with most parts."""
        fitting = [line for line in self.lines if all(part.name in _parts(spec) for part in line.parts)]
        most = {line.key: max(len(each.parts) for each in fitting if each.key == line.key) for line in fitting}
        return [line for line in fitting if len(line.parts) == most[line.key]]

    def _expect_places(self, specs: Sequence[Spec]) -> None:
        """That there is a place for all these levels and directions. Errors: LayoutError."""
        if len(specs) > 1 and not self.stacked:
            raise LayoutError(f"a form of one level for {len(specs)} levels", f"the form:\n{self}")
        if any(spec.bidirectional for spec in specs) and not self.bidirectional:
            raise LayoutError(f"a form of one direction for {_said(specs)}", f"the form:\n{self}")
        kinds = {(spec.cell, spec.hidden_size, spec.state_size, spec.directions) for spec in specs}
        if len(kinds) > 1 and any(line.has("l") for line in self.lines):
            raise LayoutError(
                f"levels of different sizes, cells or directions in one array: {_said(specs)}",
                f"the form:\n{self}",
                "give the layers as the target holds them, each in a module of its own: layers=",
            )

    def __str__(self) -> str:
        width = max(len(line.key) for line in self.lines)
        return "\n".join(f"{line.key:{width}}  {line.text}" for line in self.lines)


def _said(specs: Sequence[Spec]) -> str:
    return "; ".join(map(str, specs))


# ---- what a wrong shape gives away


def _batch(slot: Slot, found: tuple[int, ...]) -> int | None:
    """The batch that an array's shape tells, if it has as many axes as it should."""
    if len(found) != len(slot.line.axes):
        return None
    known = [solved(axis, size, slot, {}, ("b",)) for axis, size in zip(slot.line.axes, found, strict=True)]
    return next((each["b"] for each in known if each), None)


def _explain(slot: Slot, found: tuple[int, ...], slots: Iterable[Slot]) -> list[str]:
    """The details of a shape error: the pattern with its values, and what the wrong shape gives away."""
    used = [index for axis in slot.line.axes for index in axis.indices]
    values = ", ".join(f"{index} = {slot.sizes[index]}" for index in used)
    details = [f"expected {slot.line.pattern} with {values} -> {slot.shape}"]
    others = [each.key for each in slots if each.shape == found]
    without_batch = tuple(n for axis, n in zip(slot.line.axes, slot.shape, strict=True) if axis.indices != ("b",))
    if others:
        details.append(f"this is the shape of {others[0]}: are the two exchanged?")
    elif found == without_batch:
        details.append("it has no batch: give it an axis for one sequence, too")
    elif len(found) == len(slot.shape):
        details += _explain_axes(slot, found)
    return details


def _explain_axes(slot: Slot, found: tuple[int, ...]) -> Iterator[str]:
    """A line for each axis that has another length, in words."""
    of_batches = [replace(slot, sizes={**slot.sizes, "b": size}).shape for size in found]
    if found not in of_batches and any(sorted(found) == sorted(each) for each in of_batches):
        yield "its axes are in another order"
        return
    words = {"l": "level", "d": "direction"}
    for axis, size, right in zip(slot.line.axes, found, slot.shape, strict=True):
        counted = [_counted(slot.sizes[index], words[index]) for index in axis.indices if index in words]
        if size != right and counted:
            yield f"{axis} is {' x '.join(counted)} = {right}, not {size}"
        elif size != right and axis.indices == ("b",):
            yield f"its batch is {size}, not {right}"


# ---- whole arrays, one a layer


#: The canonical form of one layer's states in whole arrays: h (d, b, p) and c (d, b, h).
CANONICAL = StateLayout(("h", "h : d b p"), ("c", "c : d b h"), source="lstmbridge.spec")

_Whole = Sequence[Array | None] | None


def apart(specs: Sequence[Spec], h: _Whole, c: _Whole, batch: int) -> list[dict[str, Array]]:
    """Each layer's states by name, from one h (d, b, p) and one c (d, b, h) a layer.

    Zeros of float64 where there is none; a c is left out where the cell has none. Errors: LayoutError for a shape.
    """
    found = []
    for n, spec in enumerate(specs):
        given = {"h": None if h is None else h[n], "c": None if c is None else c[n]}
        whole = {
            key: np.zeros(shape) if given[key] is None else given[key]
            for key, shape in CANONICAL.shapes([spec], batch).items()
        }
        CANONICAL.check(whole, [spec], batch=batch)
        found += CANONICAL.unpack(whole, [spec])
    return found


def together(specs: Sequence[Spec], states: Sequence[Named]) -> tuple[list[Array], list[Array | None]]:
    """One h (d, b, p) and one c (d, b, h) a layer, from each layer's states by name; no c where the cell has none."""
    whole = [CANONICAL.pack([named], [spec]) for spec, named in zip(specs, states, strict=True)]
    return [each["h"] for each in whole], [each.get("c") for each in whole]


# ---- in what a framework holds them


@dataclass(frozen=True)
class StateForm:
    """How a framework holds the states of one module: which arrays, and in what.

    layout    the arrays
    held      what holds them: ``tuple``, ``list``, ``dict``, or the ``_make`` of a named tuple
    alone     one array stands by itself, in no tuple or list
    nested    the indices whose values, where there are several, have a holder each: ``("l",)`` for one a level
    several   what holds these holders, and what holds the states of several modules
    outputs   other names under which the framework gives the same arrays out: ``{"Y_h": "initial_h"}``
    beside    names of what it gives out along with them that is no state: ``("Y",)``

    >>> form = StateForm(StateLayout(("{l}.{d}.h", "h : b p"), ("{l}.{d}.c", "c : b h")), held=list, nested=("l",))
    >>> spec = Spec(cell="gru", input_size=5, hidden_size=11)
    >>> form.hold({"0.forward.h": "h of the one", "1.forward.h": "h of the other"}, [spec, spec])
    [['h of the one'], ['h of the other']]
    """

    layout: StateLayout
    held: Callable[[Iterable[Any]], Any] = tuple
    alone: bool = False
    nested: tuple[str, ...] = ()
    several: Callable[[Iterable[Any]], Any] = list
    outputs: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Whether the arrays are held by name."""
        return self.held is dict

    def given_out(self, keys: Iterable[str]) -> dict[str, str]:
        """The names under which the framework gives arrays out, each with its name of these."""
        said = {key: other for other, key in self.outputs.items()}
        return {said.get(key, key): key for key in keys}

    def known(self, specs: Sequence[Spec]) -> set[str]:
        """Every name by which the framework takes or gives a state of layers of these Specs, each by itself."""
        keys = {key for spec in specs for key in self.layout.keys([spec])}
        return keys | set(self.outputs)

    def hold(self, arrays: Named, specs: Sequence[Spec]) -> Any:
        """The arrays, by name, of a module with these levels, as the framework holds them."""
        if self.named:
            return dict(arrays)
        owners = self.layout.owners(specs)
        return self._nest({key: arrays[key] for key in owners}, owners, self.nested)

    def _nest(self, arrays: Named, owners: Mapping[str, Mapping[str, str]], indices: Sequence[str]) -> Any:
        if not indices:
            values = list(arrays.values())
            return values[0] if self.alone and len(values) == 1 else self.held(values)
        index, *rest = indices
        groups: dict[str, dict[str, Array]] = {}
        for key, array in arrays.items():
            groups.setdefault(owners[key].get(index, ""), {})[key] = array
        holders = [self._nest(group, owners, rest) for group in groups.values()]
        return holders[0] if len(holders) == 1 else self.several(holders)

    def arrays(self, value: Any, specs: Sequence[Spec], who: str) -> dict[str, Array]:
        """The arrays in what a framework holds, by name; those without names in the order of the layout.

        Errors: LayoutError for another number of them, or other names.
        """
        keys = self.layout.keys(specs)
        if isinstance(value, Mapping):
            twice = [key for key in value if self.outputs.get(key) in value]
            if twice:
                here = " and ".join(f"{self.outputs[key]} and {key}" for key in twice)
                raise LayoutError(f"{who}: {here}", "expected what goes in, or what comes out")
            found = {self.outputs.get(key, key): each for key, each in value.items() if key not in self.beside}
            expect_names(found, keys, who, _said(specs))
            return found
        given = list(flat(value))
        if self.named:
            raise LayoutError(f"{who}: {_counted(len(given))} without names", f"expected a dict with {', '.join(keys)}")
        if len(given) != len(keys):
            raise LayoutError(f"{who}: {_counted(len(given))}", *self._explain(len(given), keys, specs))
        for (field_, _), key in zip(given, keys, strict=True):
            if field_ not in ("", key.rpartition(".")[2]):
                raise LayoutError(f"{who}: {field_} stands where {key} is expected", f"expected {', '.join(keys)}")
        return {key: each for key, (_, each) in zip(keys, given, strict=True)}

    def _explain(self, found: int, keys: Sequence[str], specs: Sequence[Spec]) -> Iterator[str]:
        yield f"expected {len(keys)}: {', '.join(keys)}"
        twice = 2 * len(keys) if all(spec.cell != "lstm" for spec in specs) else len(keys) // 2
        if found == twice:
            cell = specs[0].cell.upper()
            yield f"the {cell} has {'h and c' if cell == 'LSTM' else 'h alone, and no c'}"
        elif found == len(keys) + 1:
            yield "one too many: are the outputs among them? give the states alone"


def _counted(number: int, word: str = "array") -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in a nest of tuples and lists, in order, each with its field's name in a named tuple, else ""."""
    if not isinstance(value, list | tuple):
        yield name, value
        return
    for field_, each in zip(getattr(value, "_fields", [""] * len(value)), value, strict=True):
        yield from flat(each, field_)
