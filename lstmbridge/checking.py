"""Both sides and the equations on the same sequences: whether two things compute the same numbers.

Three witnesses: the two sides, each run by its own framework, and the float64 reference. So a failure names the odd one
out. Where a side's framework is not installed the reference stands in for it, and the result says so.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import reference, registry
from lstmbridge.choosing import select
from lstmbridge.contract import InitialStates, Outputs, Reading, ReadOptions
from lstmbridge.errors import Disagreement, LayoutError, MissingFramework, unknown
from lstmbridge.layer import Layer, modules
from lstmbridge.pairing import expect_pairs, for_both, in_order, named
from lstmbridge.reading import read_all
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["TOLERANCE", "Agreement", "Difference", "Row", "check"]

#: The largest |difference| allowed, by the dtype of the less precise side. The one place where it is said. ``tf32`` is
#: float32 on a GPU that is allowed to multiply in TensorFloat-32 (10 bits of mantissa).
TOLERANCE: Mapping[str, float] = {"float64": 1e-12, "float32": 2e-6, "tf32": 2e-3, "float16": 4e-3, "bfloat16": 4e-2}

#: Large trained weights lose more than that to rounding. What the equations themselves lose when they are computed in
#: the lesser dtype is measured, and so many times as much is allowed where that is more than `TOLERANCE`.
ROUNDING = 8.0

Float = npt.NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart: the largest |difference|, and where it is.

    differing  how many numbers are further apart than allowed
    unequal    how many are not the very same
    compared   how many there were to compare
    """

    largest: float
    where: tuple[int, ...] = ()
    differing: int = 0
    unequal: int = 0
    size: int = 0
    compared: int = 0

    @classmethod
    def of(cls, a: Float, b: Float, allowed: float) -> Difference:
        """The difference of two arrays of one shape. NaN on one side only is infinite; on both, nothing is compared."""
        if a.shape != b.shape:
            raise LayoutError(f"outputs of shapes {a.shape} and {b.shape}", "expected the same shape")
        with np.errstate(invalid="ignore"):  # inf - inf is settled in the next line
            gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        gap = np.where((np.isnan(a) & np.isnan(b)) | (a == b), 0.0, np.where(np.isnan(gap), np.inf, gap))
        if gap.size == 0:
            return cls(0.0)
        at = np.unravel_index(int(np.argmax(gap)), gap.shape)
        compared = gap.size - int((np.isnan(a) & np.isnan(b)).sum())
        counts = (int((gap > allowed).sum()), int((gap > 0).sum()), gap.size, compared)
        return cls(float(gap[at]), tuple(int(n) for n in at), *counts)


@dataclass(frozen=True)
class Row:
    """The comparison of one output (``y``, ``h`` or ``c``) of consecutive layers.

    a_b, a_reference, b_reference: the three pairs of witnesses
    allowed: `TOLERANCE`, or `ROUNDING` times what the equations lose in this dtype on these sequences, if that is more
    ulp: the distance of neighbouring numbers of this dtype at the largest |number| of the reference
    unlike: each side agrees with the equations of its own weights and settings, and these are not the same

    The reference computes with the weights of a.
    """

    layer: str
    output: str
    a_b: Difference
    a_reference: Difference
    b_reference: Difference
    allowed: float
    ulp: float = math.nan
    unlike: bool = False

    @property
    def agrees(self) -> bool:
        """Whether all three pairs are within what is allowed, and there is something to compare."""
        pairs = (self.a_b, self.a_reference, self.b_reference)
        return all(pair.compared > 0 and pair.largest <= self.allowed for pair in pairs)

    def verdict(self, a: str, b: str) -> str:
        """In words: agrees, or which of the three is the odd one out; or that nobody is."""
        if self.agrees:
            return "agrees"
        if self.unlike:
            return "other weights or settings"
        return self.odd(a, b)

    def odd(self, a: str, b: str) -> str:
        """Which of the three is the odd one out, taking the weights of a to be meant."""
        if self.a_b.compared == 0:
            return "nothing to compare: all is NaN"
        close = {
            b: self.a_reference.largest <= self.allowed,
            a: self.b_reference.largest <= self.allowed,
            "the reference": self.a_b.largest <= self.allowed,
        }
        odd = [name for name, others_agree in close.items() if others_agree]
        return f"{odd[0]} is the odd one out" if len(odd) == 1 else "no two of the three agree"


@dataclass(frozen=True)
class Agreement:
    """The outcome of `check`: a row for each output of each layer.

    a, b    who ran each side, e.g. ``torch`` or ``reference (keras is not installed)``
    """

    a: str
    b: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every row does."""
        return all(row.agrees for row in self.rows)

    @property
    def largest(self) -> float:
        """The largest |difference| of the two sides."""
        return max(row.a_b.largest for row in self.rows)

    def demand(self) -> Agreement:
        """Itself. Errors: Disagreement that says who, how many, where, how much, how much was allowed; and notes."""
        if not self.agrees:
            raise Disagreement(f"{self.a} and {self.b} disagree", *self.lines(), *self.notes)
        return self

    def lines(self) -> list[str]:
        """For each row that does not agree, who, how many, where and by how much."""
        return [_explain(row, self) for row in self.rows if not row.agrees]

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "a": self.a,
            "b": self.b,
            "agrees": self.agrees,
            "notes": list(self.notes),
            "rows": [
                {
                    "layer": row.layer,
                    "output": row.output,
                    "a - b": row.a_b.largest,
                    "a - reference": row.a_reference.largest,
                    "b - reference": row.b_reference.largest,
                    "allowed": row.allowed,
                    "verdict": row.verdict(self.a, self.b),
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        return "\n".join(
            f"{row.layer or 'layer'} {row.output}: |{self.a} - {self.b}| <= {row.a_b.largest:.2g} "
            f"(to the reference: {row.a_reference.largest:.2g}, {row.b_reference.largest:.2g}; "
            f"allowed {row.allowed:.3g}): {row.verdict(self.a, self.b)}"
            for row in self.rows
        )


def _explain(row: Row, agreement: Agreement) -> str:
    worst = max((row.a_b, row.a_reference, row.b_reference), key=lambda each: each.largest)
    return (
        f"{row.layer or 'layer'} {row.output}: {worst.differing} of {worst.size} numbers differ, the most at "
        f"{worst.where} by {worst.largest:.3g} (allowed {row.allowed:.3g}): {row.verdict(agreement.a, agreement.b)}"
    )


# ---- running


def check(
    a: Any,
    b: Any,
    *,
    batch: int = 3,
    time: int = 17,
    seed: int = 0,
    lengths: Sequence[int] | None = None,
    mask: npt.ArrayLike | None = None,
    states: bool = True,
    layers: Sequence[str] = (),
    pairs: Mapping[str, str] | None = None,
    rounding: float = ROUNDING,
    tolerance: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> Agreement:
    """Runs both sides and the reference on the same sequences: y, h and c of every layer.

    a, b     objects or paths; their layers are paired by label, or where the labels differ, in order
    batch, time, seed  the sequences: standard normal, from `numpy.random.default_rng(seed)`
    lengths  of each sequence (b,); None: all full
    mask     which steps of each sequence count (b, t), in place of lengths; a framework that knows only lengths is
             given the steps that count, moved together, and a note says so
    states   begin with random initial states rather than zeros
    layers   only these paths of `a`, and of `b` where it has them, too
    pairs    for the label of each layer of `a` that of the one of `b` to compare it with, and no others: for layers
             that were put among others into an existing file
    rounding so many times what the equations lose in the lesser dtype is allowed, where that is more than `TOLERANCE`;
             0: `TOLERANCE` alone
    tolerance the row of `TOLERANCE`, where it is not that of the dtype: ``tf32`` on a GPU with TensorFloat-32
    progress called as (what, done, total) on the way
    options  the fields of `ReadOptions`; config, layout and cell are about `a` alone

    The reference computes with the weights of `a`. Where `b` does what its own weights and settings say, and these are
    others, neither is blamed: the verdict is "other weights or settings", and `diff` lists the weights.

    Each part that both sides can run as a whole is run as a whole; the next one reads fresh sequences of its own size,
    so differences do not add up. Errors: LayoutError if the layers do not pair up.

    >>> one = {"n": np.ones((1, 1))}
    >>> layer = Layer.from_gates(kernel=one, recurrent_kernel=one)
    >>> check(layer, layer).agrees
    True
    """
    keep = _steps(batch, time, lengths, mask)
    left, right = _Side.of(a, options, layers), _Side.of(b, for_both(options), ())
    if pairs is None:
        right.layers = in_order(named(right.layers, layers), left.layers)
    else:
        chosen = [layer.label for layer in left.layers if layer.label in pairs]
        left.take(chosen)
        right.take([pairs[label] for label in chosen])
    expect_pairs(left.layers, right.layers)
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    differing: list[str] = []
    for start, stop in _segments(left.layers, right.layers):
        mine = left.layers[start:stop]
        if progress is not None:
            progress(f"checking {mine[0].label or 'the layer'}", start, len(left.layers))
        dtype = max(left.layers[start].dtype, right.layers[start].dtype, key=TOLERANCE.__getitem__)
        given = _Given(rng, mine, batch, time, dtype, states, keep)
        truth = _reference(mine, given)
        with np.errstate(all="ignore"):  # equations that overflow in the lesser dtype allow nothing more: `_allowed`
            rounded = _reference(mine, given, dtype)
        ran = (left.run(start, stop, given), right.run(start, stop, given))
        found = list(_compare(*ran, truth, rounded, mine, _Rule(tolerance or dtype, dtype, rounding)))
        if not all(row.agrees for row in found) and _other_weights(found, ran[1], right.layers[start:stop], given):
            found = [replace(row, unlike=True) for row in found]
            names = ", ".join(dict.fromkeys(row.layer or "layer" for row in found))
            differing.append(f"{names}: {_UNLIKE}")
        rows += found
    a_name, b_name = (left.who, right.who) if left.who != right.who else (f"{left.who} a", f"{right.who} b")
    return Agreement(a_name, b_name, tuple(rows), (*left.notes, *right.notes, *differing))


_UNLIKE = "each side computes what its own weights and settings say; those differ (lstmbridge diff)"


def _other_weights(rows: Sequence[Row], ran: Outputs, layers: Sequence[Layer], given: _Given) -> bool:
    """Whether nobody runs anything wrong: a side agrees with the equations of its own weights, as the other with the
    reference."""
    pairs = zip(rows, _outputs(ran, layers), _outputs(_reference(layers, given), layers), strict=True)
    gaps = [(row, Difference.of(np.asarray(mine[2]), np.asarray(own[2]), row.allowed)) for row, mine, own in pairs]
    return all(max(row.a_reference.largest, gap.largest) <= row.allowed and gap.compared > 0 for row, gap in gaps)


def _steps(batch: int, time: int, lengths: Sequence[int] | None, mask: npt.ArrayLike | None) -> _Steps:
    """Which steps count. Errors: LayoutError for lengths or a mask that do not go with the sequences."""
    if lengths is not None and mask is not None:
        raise LayoutError("lengths and a mask", "expected one of them")
    if lengths is not None and (len(lengths) != batch or not all(0 <= length <= time for length in lengths)):
        expected = f"expected {batch} of them, one a sequence, each from 0 to {time}"
        raise LayoutError(f"lengths {', '.join(map(str, lengths))}", expected)
    if mask is None:
        return _Steps(None if lengths is None else tuple(lengths), None)
    found = np.asarray(mask, bool)
    if found.shape != (batch, time):
        raise LayoutError(f"mask has shape {found.shape}", f"expected (b, t) = {(batch, time)}")
    return _Steps(None, found)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Which steps count: the first so many of each sequence, or those of a mask (b, t); all if neither is there."""

    lengths: tuple[int, ...] | None
    mask: npt.NDArray[np.bool_] | None

    def together(self, array: Float) -> Float:
        """The steps of (b, t, f) that count, moved to the front of each sequence; zeros behind them."""
        assert self.mask is not None
        moved = np.zeros_like(array)
        for row, keep, to in zip(array, self.mask, moved, strict=True):
            to[: keep.sum()] = row[keep]
        return moved

    def apart(self, array: Float) -> Float:
        """What `together` did, undone; zeros on the steps that do not count."""
        assert self.mask is not None
        back = np.zeros_like(array)
        for row, keep, to in zip(array, self.mask, back, strict=True):
            to[keep] = row[: keep.sum()]
        return back


@dataclass(frozen=True)
class _Rule:
    """What may differ: that row of `TOLERANCE`, or `rounding` times what the equations lose in the dtype."""

    row: str
    dtype: str
    rounding: float

    def allowed(self, lost: float) -> float:
        """The largest |difference| allowed where the equations lose so much; overflow is no rounding."""
        table = TOLERANCE[self.row]
        return max(table, self.rounding * lost) if np.isfinite(lost) else table

    def ulp(self, truth: Float) -> float:
        """The distance of neighbouring numbers of the dtype at the largest |number|."""
        largest = float(np.max(np.abs(truth), initial=0.0))
        return float(2.0 ** (math.floor(math.log2(largest)) - _MANTISSA[self.dtype])) if largest > 0 else math.nan


_MANTISSA: Mapping[str, int] = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}  # bits


class _Given:
    """What one segment is run on: x and the initial states, rounded to the dtype of the less precise side."""

    def __init__(
        self,
        rng: np.random.Generator,
        layers: Sequence[Layer],
        batch: int,
        time: int,
        dtype: str,
        states: bool,
        steps: _Steps,
    ) -> None:
        def draw(*shape: int, scale: float = 1.0) -> Float:
            return np.asarray(np.asarray(scale * rng.normal(size=shape)).astype(numpy_dtype(dtype)), np.float64)

        self.x = draw(batch, time, layers[0].spec.input_size)
        specs = [layer.spec for layer in layers]
        self.h0 = [draw(len(s.directions), batch, s.state_size, scale=0.5) for s in specs] if states else None
        self.c0 = [draw(len(s.directions), batch, s.hidden_size, scale=0.5) for s in specs] if states else None
        self.steps = steps


class _Side:
    """One of the two things that are compared: its layers, and who runs them."""

    def __init__(self, name: str, obj: Any, reading: Reading, live: Any, notes: tuple[str, ...]) -> None:
        self.name, self.obj, self.reading, self.live, self.notes = name, obj, reading, live, notes
        self.layers = reading.layers

    @classmethod
    def of(cls, source: Any, options: Mapping[str, Any], layers: Sequence[str]) -> _Side:
        if not isinstance(source, str | os.PathLike):
            framework = registry.of_object(source)
            reading = framework.live.read(source, ReadOptions(**options))
            return cls(framework.name, source, _only(reading, layers), framework.live, ())
        reading = _only(read_all(source, **{"only": tuple(layers), **options}), layers)
        if options.get("layout") is not None:
            note = f"{source} was run by the reference: plain arrays in the layout of {options['layout']}"
            return cls("arrays", None, reading, None, (*reading.notes, note))
        framework = registry.of_file(Path(source))
        if not framework.has("live"):
            note = f"{source} was run by the reference: {framework.name} has no objects here"
            return cls(framework.name, None, reading, None, (*reading.notes, note))
        try:
            live = framework.live
            obj = live.load(Path(source), ReadOptions(**options))
            again = _only(live.read(obj, ReadOptions(**options)), layers)
            return cls(framework.name, obj, again, live, reading.notes)
        except MissingFramework as error:
            note = f"{source} was run by the reference: {error.headline}"
            return cls(framework.name, None, reading, None, (*reading.notes, note))

    def take(self, labels: Sequence[str]) -> None:
        """Keeps these layers, in this order; where that is not whole modules, the reference is to run them."""
        known = {layer.label: layer for layer in self.layers}
        for label in labels:
            if label not in known:
                raise unknown(f"layer of {self.name}", label, known)
        chosen = tuple(known[label] for label in labels)
        runs = [chosen[start:stop] for start, stop in modules(chosen)]
        whole = [[each for each in self.layers if each.path == run[0].path] for run in runs]
        if self.live is not None and any(list(run) != every for run, every in zip(runs, whole, strict=True)):
            self.live = None
            self.notes = (*self.notes, f"{self.name} was run by the reference: not all levels of a module are compared")
        self.layers = chosen

    @property
    def who(self) -> str:
        """The framework that ran it."""
        return self.name if self.live is not None else f"{self.name} (by the reference)"

    def run(self, start: int, stop: int, given: _Given) -> Outputs:
        """The layers from `start` to `stop`, module by module, each reading what the one before gave."""
        if self.live is None:
            return _reference(self.layers[start:stop], given)
        x, h, c = given.x, [], []
        layers = self.layers[start:stop]
        for begin, end in modules(layers):
            mine = slice(begin, end)
            h0 = given.h0[mine] if given.h0 is not None else None
            c0 = given.c0[mine] if given.c0 is not None else None
            try:
                outputs = self._module(layers[mine], x, h0, c0, given.steps)
            except MissingFramework as error:  # a framework whose objects can be had without what runs them
                self.live, self.notes = None, (*self.notes, f"{self.name} was run by the reference: {error.headline}")
                return _reference(layers, given)
            x = np.asarray(outputs.y, np.float64)
            h += list(outputs.h)
            c += list(outputs.c)
        return Outputs(x, h, c)

    def _module(
        self, layers: Sequence[Layer], x: Float, h0: InitialStates, c0: InitialStates, steps: _Steps
    ) -> Outputs:
        """One module; where its framework takes no mask, on the steps that count, moved together."""
        if steps.mask is None:
            ran = self.live.run(self.obj, layers, x, h0, c0, steps.lengths)
            return _expected(ran, layers, x, self.name)
        if "mask" in inspect.signature(self.live.run).parameters:
            ran = self.live.run(self.obj, layers, x, h0, c0, None, mask=steps.mask)
            return _expected(ran, layers, x, self.name)
        note = f"{self.name} takes lengths, no mask: it was given the steps that count, moved together"
        self.notes = tuple(dict.fromkeys((*self.notes, note)))
        lengths = steps.mask.sum(axis=1).tolist()
        ran = self.live.run(self.obj, layers, steps.together(x), h0, c0, lengths)
        ran = _expected(ran, layers, x, self.name)
        flip = slice(None, None, -1 if layers[-1].spec.processed_order else None)
        return Outputs(steps.apart(np.asarray(ran.y)[:, flip])[:, flip], ran.h, ran.c)


def _expected(ran: Any, layers: Sequence[Layer], x: Float, name: str) -> Outputs:
    """What a framework's `run` gave. Errors: LayoutError if it is not what the contract says."""
    who = f"{name}: what its run gives"
    if not isinstance(ran, Outputs):
        raise LayoutError(f"{who} is a {type(ran).__name__}", "expected lstmbridge.contract.Outputs")
    if len(ran.h) != len(layers) or len(ran.c) != len(layers):
        raise LayoutError(
            f"{who} has {len(ran.h)} h and {len(ran.c)} c", f"expected {len(layers)} of each, one a layer"
        )
    if np.ndim(ran.y) != 3 or np.shape(ran.y)[:2] != x.shape[:2]:
        raise LayoutError(f"{who}: y has shape {np.shape(ran.y)}", f"expected b t f = {x.shape[:2]} and the features")
    for layer, h, c in zip(layers, ran.h, ran.c, strict=True):
        spec, has_cell = layer.spec, layer.spec.cell == "lstm"
        shapes = {"h": (len(spec.directions), len(x), spec.state_size)}
        shapes |= {"c": (len(spec.directions), len(x), spec.hidden_size)} if has_cell else {}
        for key, state in (("h", h), ("c", c)):
            found = None if state is None else np.shape(state)
            if found != shapes.get(key):
                raise LayoutError(f"{who}: {key} has shape {found}", f"expected d b {key} = {shapes.get(key)}")
    return ran


def _only(reading: Reading, layers: Sequence[str]) -> Reading:
    return replace(reading, layers=select(reading.layers, layers))


def _reference(layers: Sequence[Layer], given: _Given, dtype: str = "float64") -> Outputs:
    outcomes = reference.run_stack(
        layers, given.x, h0=given.h0, c0=given.c0,
        lengths=given.steps.lengths, mask=given.steps.mask, dtype=numpy_dtype(dtype),
    )  # fmt: skip
    return Outputs(outcomes[-1].y, [each.h for each in outcomes], [each.c for each in outcomes])


def _segments(a: Sequence[Layer], b: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    """The shortest stretches that are whole modules on both sides."""
    ends = {end for _, end in modules(a)} & {end for _, end in modules(b)}
    start = 0
    for end in sorted(ends):
        yield start, end
        start = end


def _compare(
    a: Outputs, b: Outputs, truth: Outputs, rounded: Outputs, layers: Sequence[Layer], rule: _Rule
) -> Iterator[Row]:
    each = (_outputs(outputs, layers) for outputs in (a, b, truth, rounded))
    for (label, output, x), (_, _, y), (_, _, z), (_, _, lost) in zip(*each, strict=True):
        allowed = rule.allowed(Difference.of(lost, z, 0.0).largest)
        gaps = [Difference.of(np.asarray(p), np.asarray(q), allowed) for p, q in ((x, y), (x, z), (y, z))]
        yield Row(label, output, gaps[0], gaps[1], gaps[2], allowed, rule.ulp(np.asarray(z)))


def _outputs(ran: Outputs, layers: Sequence[Layer]) -> Iterator[tuple[str, str, Any]]:
    """(layer, output, array) of everything that consecutive layers give."""
    yield layers[-1].label, "y", ran.y
    for n, layer in enumerate(layers):
        yield layer.label, "h", ran.h[n]
        if layer.spec.cell == "lstm":
            yield layer.label, "c", ran.c[n]
