"""The notation in which a framework's weight layout is written once, and everything that follows from it.

    Layout(
        "i f g o",
        ("weight_ih_l{l}{d}", "kernel : (g h) i"),
        ("weight_hh_l{l}{d}", "recurrent_kernel : (g h) p"),
        ...
    )

A line is an array's name and what is in it. In the name, ``{d}`` is the direction, ``{g}`` the gate, ``{l}`` the level
in a stack. Left of the colon stand the parts: one, or several along ``k`` (``bias | recurrent_bias``), or several one
after another on one axis (``kernel + recurrent_kernel``); ``peephole[i o f]`` gives a part its own gates and order.
Right of it stand the axes: ``d`` direction, ``k`` part, ``g`` gate are enumerated; ``i`` input, ``h`` hidden, ``p``
state are sizes. ``(g h)`` is one axis with g outermost, ``(h g)`` is interleaved, ``(i + p)`` holds two parts one after
another. A gate written ``-z`` is stored with the opposite sign.

A line belongs to a layer when the layer has all of the line's parts; of several lines with one name, the one with most
parts is meant. So ``bias : (g h)`` and ``bias | recurrent_bias : k (g h)`` can stand side by side.

A cell may keep a second bias only where it needs one: ``recurrent_bias[n] : h``. Those of the other gates, which are
only ever added to the bias that is there, are zeros when read, and must be zeros to be written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError, NotationError
from lstmbridge.grammar import Axis, Line, Part, Place, Slot, Vocabulary, expect_names, parse, placed, product, solved
from lstmbridge.layer import Array, dtype_name
from lstmbridge.mapped import Later
from lstmbridge.spec import GATES, PARTS, Spec

__all__ = ["WEIGHTS", "Block", "Cut", "Layout"]

#: What lines about weights speak of; the level stands in names only.
WEIGHTS = Vocabulary(PARTS, {"d": "direction", "k": "part", "g": "gate"}, gated=frozenset(PARTS) - {"projection"})
_NO_GATES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Block:
    """A stretch of an axis and what stands in it, its ends in sizes: ``f h:2h``.

    words  what stands in it, by the index that tells: ``{"g": "f"}``, or ``{"k": "bias", "g": "f"}``, outermost first
    start  where it begins: ``0``, ``h``, ``2h``, ``i``
    stop   where it ends, and after a colon the step where it is interleaved: ``4h:4``
    """

    words: Mapping[str, str]
    start: str
    stop: str

    @property
    def what(self) -> str:
        """Its words in a row: ``bias f``."""
        return " ".join(self.words.values())


@dataclass(frozen=True)
class Cut:
    """One axis of an array as it is cut.

    axis    as written: ``(g h)``
    length  in sizes: ``4h``; ``d`` for an axis that counts the directions
    blocks  those it is cut into; none for a plain size
    """

    axis: str
    length: str
    blocks: tuple[Block, ...]

    @property
    def sized(self) -> bool:
        """Whether its blocks are stretches; where it only counts, each is one index."""
        return any(index in self.axis for index in WEIGHTS.sizes)


class Layout:
    """How one framework stores one cell's weights.

    gates       the gate order, outermost or first first; ``-z`` for a gate stored with the opposite sign
    lines       (name of the array, what is in it), as the module's docstring says
    directions  what ``{d}`` becomes in a name
    gate_names  what ``{g}`` becomes in a name (the gate's own letter where nothing is said)

    Errors: NotationError for a line that does not follow the grammar, with the line.

    >>> layout = Layout("i f g o", ("W{d}", "kernel : i (g h)"), ("R{d}", "recurrent_kernel : p (g h)"))
    >>> layout.shapes(Spec(cell="lstm", input_size=5, hidden_size=3, bias="none"))
    {'Wforward': (5, 12), 'Rforward': (3, 12)}
    """

    def __init__(
        self,
        gates: str,
        *lines: tuple[str, str],
        directions: Mapping[str, str] | None = None,
        gate_names: Mapping[str, str] = _NO_GATES,
        source: str = "",
    ) -> None:
        self.gates, self.signs = _signed(gates)
        self.cell = _cell_with(self.gates, gates)
        self.lines = tuple(parse(WEIGHTS, key, text, self.gates) for key, text in lines)
        self.directions = directions or {"forward": "forward", "reverse": "reverse"}
        self.gate_names = gate_names
        self.source = source
        self._cache: dict[tuple[Spec, int], tuple[dict[str, Slot], dict[str, Place]]] = {}
        self._partial = _is_partial(self)

    @property
    def bidirectional(self) -> bool:
        """Whether it has a place for two directions."""
        return all(line.says("d") for line in self.lines)

    def slots(self, spec: Spec, level: int = 0) -> dict[str, Slot]:
        """Every array this layer has in this layout, by name."""
        return self._resolve(spec, level)[0]

    def places(self, spec: Spec, level: int = 0) -> dict[str, Place]:
        """Where every canonical weight of this layer stands, by the weight's name."""
        return self._resolve(spec, level)[1]

    def absent(self, spec: Spec) -> dict[str, str]:
        """The recurrent biases of this layer that no array holds and none needs to, each with the bias it is added to.

        There are some only where the layout has places for those of other gates.
        """
        if not self._partial or spec.bias != "dual":
            return {}
        twins = {name.replace(".bias.", ".recurrent_bias."): name for name in self.places(spec) if ".bias." in name}
        return {
            name: twin
            for name, twin in twins.items()
            if name not in self.places(spec) and spec.mergeable(name.rpartition(".")[2])
        }

    def keys(self, spec: Spec, level: int = 0) -> tuple[str, ...]:
        """The names of the arrays, in the order of the lines."""
        return tuple(self.slots(spec, level))

    def shapes(self, spec: Spec, level: int = 0) -> dict[str, tuple[int, ...]]:
        """The shape of every array, by name."""
        return {key: slot.shape for key, slot in self.slots(spec, level).items()}

    def unpack(self, arrays: Mapping[str, Array], spec: Spec, *, level: int = 0, who: str = "") -> dict[str, Array]:
        """The canonical weights in `arrays`: views on the same memory; no number is moved.

        Errors: LayoutError for a missing, extra or wrongly shaped array; `who` names the layer in the message.
        """
        self.check(arrays, spec, level=level, who=who)
        weights = {name: place.of(arrays[place.key]) for name, place in self.places(spec, level).items()}
        return weights | {name: xp.zeros_like(weights[twin]) for name, twin in self.absent(spec).items()}

    def pack(self, weights: Mapping[str, Array], spec: Spec, *, level: int = 0) -> dict[str, Array]:
        """The framework's arrays, filled from canonical `weights`; they own their memory, on the weights' device.

        Every element is written once. Errors: LayoutError for a weight the layout has no place for.
        """
        blocks = self._blocks(weights, spec, level)
        return {key: xp.assemble(shape, blocks[key]) for key, shape in self.shapes(spec, level).items()}

    def later(self, weights: Mapping[str, Array], spec: Spec, *, level: int = 0) -> dict[str, Later]:
        """As `pack`, on the host, for a file that is written one array after another: each is packed when it is asked
        for."""
        blocks = self._blocks(weights, spec, level)
        dtype = dtype_name(next(iter(weights.values())))
        return {
            key: Later(shape, dtype, partial(_assembled, shape, blocks[key]))
            for key, shape in self.shapes(spec, level).items()
        }

    def _blocks(self, weights: Mapping[str, Array], spec: Spec, level: int) -> dict[str, list[tuple[Place, Array]]]:
        """For each array, the weights in it and their places. Errors: LayoutError."""
        places, absent = self.places(spec, level), self.absent(spec)
        homeless = [n for n, array in weights.items() if n not in places and (n not in absent or xp.host(array).any())]
        if homeless:
            merged = [f"add {n} to {absent[n]}: they are only ever added together" for n in homeless if n in absent]
            raise LayoutError(f"no array of this layout holds {', '.join(homeless)}", *merged, f"the layout:\n{self}")
        blocks: dict[str, list[tuple[Place, Array]]] = {key: [] for key in self.keys(spec, level)}
        for name, place in places.items():
            blocks[place.key].append((place, weights[name]))
        return blocks

    def check(self, arrays: Mapping[str, Array], spec: Spec, *, level: int = 0, who: str = "") -> None:
        """Nothing, if `arrays` are just what this layout expects. Errors: LayoutError that says what is not."""
        slots = self.slots(spec, level)
        expect_names(arrays, slots, who, spec)
        for key, slot in slots.items():
            found = tuple(int(n) for n in arrays[key].shape)
            if found != slot.shape:
                raise LayoutError(f"{who + ': ' if who else ''}{key} has shape {found}", *_explain(slot, found, self))

    def infer(self, arrays: Mapping[str, Array], *, level: int = 0, who: str = "", **features: Any) -> Spec:
        """The Spec of the layer that `arrays` are, from their names and shapes.

        `features` are fields of the Spec that arrays cannot tell (``reset_after``, ``activations``), or that settle
        what they leave open (``directions``). Errors: LayoutError if no layer has just these arrays.
        """
        named = [each for each in _candidates(self, features) if set(self.keys(each, level)) == set(arrays)]
        sized = [_sized(self, candidate, arrays, level) for candidate in named]
        if sized:
            spec = min(sized, key=lambda each: self._misfits(arrays, each, level))  # the first of those that fit best
            self.check(arrays, spec, level=level, who=who)
            return spec
        full = next(_candidates(self, features))
        expected = ", ".join(self.keys(full, level))
        raise LayoutError(
            f"{who or 'arrays'}: {', '.join(arrays) or 'none'}: no {self.cell} layer has just these",
            f"expected some of {expected}",
        )

    def _misfits(self, arrays: Mapping[str, Array], spec: Spec, level: int) -> int:
        return sum(tuple(arrays[key].shape) != shape for key, shape in self.shapes(spec, level).items())

    def _resolve(self, spec: Spec, level: int) -> tuple[dict[str, Slot], dict[str, Place]]:
        if (spec, level) not in self._cache:
            self._cache[spec, level] = _resolve(self, spec, level)
        return self._cache[spec, level]

    def name(self, line: Line, direction: str, gate: str, level: int) -> str:
        """A line's array name with its indices filled in."""
        filled = line.key.replace("{d}", self.directions.get(direction, direction)).replace("{l}", str(level))
        return filled.replace("{g}", self.gate_names.get(gate, gate))

    def cuts(self) -> Iterator[tuple[Line, tuple[Cut, ...]]]:
        """For each line, how each axis of its array is cut.

        An axis whose blocks are no slices (it has two sizes) is taken apart into its indices.

        >>> [(line, cuts)] = Layout("r z n", ("b", "bias : (g h)")).cuts()
        >>> [f"{block.what} {block.start}:{block.stop}" for block in cuts[0].blocks]
        ['r 0:h', 'z h:2h', 'n 2h:3h']
        """
        for line in self.lines:
            axes = (piece for axis in line.axes for piece in _sliceable(axis))
            yield line, tuple(Cut(str(axis), _length(self, line, axis), _blocks(self, line, axis)) for axis in axes)

    def lengths(self, line: Line) -> tuple[str, ...]:
        """The shape of a line's array in sizes, e.g. ``("i", "4h")``."""
        return tuple(_length(self, line, axis) for axis in line.axes)

    def __str__(self) -> str:
        width = max(len(line.key) for line in self.lines)
        return "\n".join(f"{line.key:{width}}  {line.text}" for line in self.lines)


def _assembled(shape: tuple[int, ...], blocks: Sequence[tuple[Place, Array]]) -> Array:
    return xp.host(xp.assemble(shape, blocks))


# ---- grammar


def _signed(gates: str) -> tuple[tuple[str, ...], dict[str, int]]:
    words = gates.split()
    names = tuple(word.lstrip("-") for word in words)
    return names, {name: -1 if word.startswith("-") else 1 for name, word in zip(names, words, strict=True)}


def _cell_with(gates: tuple[str, ...], text: str) -> str:
    for cell, known in GATES.items():
        if sorted(known) == sorted(gates):
            return cell
    raise NotationError(f"gates {text!r} are no cell's", "expected an order of i f g o, r z n, or n")


# ---- from a layout and a Spec to places


def _is_partial(layout: Layout) -> bool:
    """Whether the layout has a place for the recurrent biases of some gates only."""
    parts = [part for line in layout.lines for part in line.parts if part.name == "recurrent_bias"]
    return bool(parts) and {gate for part in parts for gate in _gates_of(layout, part)} != set(layout.gates)


def _lines_for(layout: Layout, spec: Spec) -> list[Line]:
    """The lines whose parts this layer has; of those with one name, the one with most parts."""
    fitting = [line for line in layout.lines if all(part.name in spec.parts for part in line.parts)]
    return [
        line
        for line in fitting
        if not any(other.key == line.key and len(other.parts) > len(line.parts) for other in fitting)
    ]


def _gates_of(layout: Layout, part: Part) -> tuple[str, ...]:
    if part.name == "projection":
        return ("",)
    return part.gates or layout.gates


def _resolve(layout: Layout, spec: Spec, level: int) -> tuple[dict[str, Slot], dict[str, Place]]:
    if spec.cell != layout.cell:
        raise LayoutError(f"a layout of {layout.cell} for {spec}", f"expected a {layout.cell}")
    if spec.bidirectional and not layout.bidirectional:
        raise LayoutError(f"a layout of one direction for {spec}", f"the layout:\n{layout}")
    slots: dict[str, Slot] = {}
    places: dict[str, Place] = {}
    for line in _lines_for(layout, spec):
        gates = _gates_of(layout, line.parts[0])
        named_d = [""] if line.has("d") else list(spec.directions)
        named_g = [""] if line.has("g") else list(gates)
        for direction, gate in itertools.product(named_d, named_g):
            slot = _slot(layout, line, spec, layout.name(line, direction, gate, level))
            if slot.key in slots:
                raise NotationError(f"two arrays are named {slot.key!r}", f"the layout:\n{layout}")
            slots[slot.key] = slot
            for name, place in _places(layout, slot, spec, direction, gate):
                if name in places:
                    raise NotationError(f"{name} has two places: {places[name].key} and {slot.key}", str(layout))
                places[name] = place
    return slots, places


def _slot(layout: Layout, line: Line, spec: Spec, key: str) -> Slot:
    gates = _gates_of(layout, line.parts[0])
    sizes = {**spec.sizes, "d": len(spec.directions), "k": len(line.parts), "g": len(gates)}
    return Slot(key, line, sizes, gates)


def _places(
    layout: Layout, slot: Slot, spec: Spec, direction: str, gate: str
) -> Iterator[tuple[str, Place]]:
    """The place of every weight that stands in one array."""
    for k, part in enumerate(slot.line.parts):
        for d, each_direction in enumerate(spec.directions):
            if direction not in ("", each_direction):
                continue
            for g, each_gate in enumerate(_gates_of(layout, part)):
                if gate not in ("", each_gate):
                    continue
                name = f"{each_direction}.{part.name}" + (f".{each_gate}" if each_gate else "")
                yield name, placed(slot, k, {"d": d, "g": g}, layout.signs.get(each_gate, 1))


def _sliceable(axis: Axis) -> tuple[Axis, ...]:
    """The axis itself, or its indices one by one where it has more than one size and something that is counted."""
    sizes = [index for index in axis.indices if index in WEIGHTS.sizes]
    if axis.joined or len(sizes) < 2:
        return (axis,)
    return tuple(Axis((index,)) for index in axis.indices)


def _names(layout: Layout, line: Line) -> dict[str, tuple[str, ...]]:
    """What each enumerated index counts, in order."""
    gates = _gates_of(layout, line.parts[0])
    signed = tuple(("-" if layout.signs.get(gate, 1) < 0 else "") + gate for gate in gates)
    return {"d": ("forward", "reverse"), "k": tuple(part.name for part in line.parts), "g": signed}


def _length(layout: Layout, line: Line, axis: Axis) -> str:
    """How long an axis is, in sizes; both directions are counted where they share an axis with something else."""
    if axis.joined:
        return "+".join(axis.indices)
    if axis.indices == ("d",):
        return "d"
    names = _names(layout, line)
    count = product([len(names[index]) for index in axis.indices if index in WEIGHTS.counted])
    return _edge(count, "".join(index for index in axis.indices if index in WEIGHTS.sizes))


def _blocks(layout: Layout, line: Line, axis: Axis) -> tuple[Block, ...]:
    """The blocks of an axis in symbols; none for a plain size."""
    if axis.joined:
        edges = ["0", *("+".join(axis.indices[: n + 1]) for n in range(len(axis.indices)))]
        return tuple(Block({"k": part.name}, *edges[n : n + 2]) for n, part in enumerate(line.parts))
    counted = [index for index in axis.indices if index in WEIGHTS.counted]
    if not counted:
        return ()
    names = _names(layout, line)
    unit = next((index for index in axis.indices if index in WEIGHTS.sizes), "")
    within = axis.indices[axis.indices.index(unit) + 1 :] if unit else ()  # interleaved: they count the fastest
    step = product([len(names[index]) for index in within])
    return tuple(
        Block(dict(zip(counted, words, strict=True)), *_stretch(n, step, unit))
        for n, words in enumerate(itertools.product(*(names[index] for index in counted)))
    )


def _stretch(number: int, step: int, unit: str) -> tuple[str, str]:
    """Where block `number` starts and stops; of `step` blocks that are interleaved each has every step-th entry."""
    outer, first = divmod(number, step)
    start, stop = _edge(outer * step, unit), _edge((outer + 1) * step, unit)
    if step > 1:
        return (f"{start}+{first}" if outer and first else start if outer else str(first)), f"{stop}:{step}"
    return start, stop


def _edge(count: int, unit: str) -> str:
    if not unit or count == 0:
        return str(count)
    return unit if count == 1 else f"{count}{unit}"


# ---- from arrays to a Spec


def _candidates(layout: Layout, features: Mapping[str, Any]) -> Iterator[Spec]:
    """Every form a layer can have in this layout, the fullest first, with sizes still to be found."""
    lstm = layout.cell == "lstm"
    both = [("forward", "reverse")] if layout.bidirectional else []
    axes: dict[str, Sequence[Any]] = {
        "directions": [*both, ("forward",), ("reverse",)],
        "bias": ["dual", "single", "none"],
        "projection_size": [1, None] if lstm else [None],
        "peepholes": [True, False] if lstm else [False],
    }
    open_axes = {name: values for name, values in axes.items() if name not in features}
    for values in itertools.product(*open_axes.values()):
        fields = {**dict(zip(open_axes, values, strict=True)), **features}
        if fields.get("directions") not in (("forward", "reverse"), None):
            fields.pop("merge", None)
        spec = Spec(cell=layout.cell, **{"input_size": 1, "hidden_size": 1, **fields})
        if {*layout.places(spec), *layout.absent(spec)} == set(spec.names()):
            yield spec


def _sized(layout: Layout, candidate: Spec, arrays: Mapping[str, Array], level: int) -> Spec:
    """The candidate with the sizes that the arrays' shapes give, as far as they give them."""
    known: dict[str, int] = {}
    slots = layout.slots(candidate, level)
    for _ in WEIGHTS.sizes:
        for key, slot in slots.items():
            for axis, size in zip(slot.line.axes, arrays[key].shape, strict=False):
                known |= solved(axis, int(size), slot, known, WEIGHTS.sizes)
        if candidate.projection_size is None and known.keys() & {"h", "p"}:
            known |= {"h": known.get("h", known.get("p", 1)), "p": known.get("h", known.get("p", 1))}
    sizes = {"input_size": known.get("i", 1), "hidden_size": known.get("h", 1)}
    if candidate.projection_size is not None:
        sizes["projection_size"] = known.get("p", 1)
    return candidate.replace(**sizes)


# ---- what a wrong shape gives away


_COUNTS = {1: "one gate; is this an RNN's weight?", 3: "three gates; is this a GRU's weight?",
           4: "four gates; is this an LSTM's weight?"}


def _explain(slot: Slot, found: tuple[int, ...], layout: Layout) -> list[str]:
    """The details of a shape error: the pattern with its values, and what the wrong shape gives away."""
    used = [index for axis in slot.line.axes for index in axis.indices]
    values = [f"g = {' '.join(slot.gates)}"] if "g" in used else []
    values += [f"{index} = {slot.sizes[index]}" for index in used if index != "g"]
    details = [f"expected {slot.line.pattern} with {', '.join(values)} -> {slot.shape}"]
    if len(found) == len(slot.shape) and found == slot.shape[::-1]:
        return [*details, "this is its transpose"]
    hidden = slot.sizes["h"]
    for axis, size in zip(slot.line.axes, found, strict=False):
        count, rest = divmod(size, hidden)
        if "g" in axis.indices and rest == 0 and count in _COUNTS and count != len(slot.gates):
            details.append(f"{size} = {count} x {hidden}: {_COUNTS[count]}")
    return details
