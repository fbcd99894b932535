"""The proof that a step is what it is said to be: the model's own operators against the equations, in float64.

What a step computes is taken from the model's own nodes, one by one, with random numbers in place of what the step
begins with; h and c are drawn apart from each other. The equations are those of `lstmbridge.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lstmbridge.frameworks.onnx.execution import Float64, Missing
from lstmbridge.frameworks.onnx.expressions import Atom, Ids, Symbols
from lstmbridge.frameworks.onnx.layout import decimal
from lstmbridge.frameworks.onnx.steps import Refused
from lstmbridge.layer import Layer
from lstmbridge.reference import STEPS

__all__ = ["BOUND", "Equations", "Numbers64", "apart", "compute", "holds"]

#: The largest difference, of numbers around one.
BOUND = 1e-9
#: Draws: the sizes of x, h and c. The last ones saturate the gates and reach behind clips.
_SCALES = tuple(
    dict(zip("xhc", sizes, strict=True))
    for sizes in ((1, 1, 1), (0.3, 1, 0.2), (1, 0.1, 3), (3, 4, 0.5), (30, 9, 20), (0.1, 0.02, 300))
)

Numbers64 = npt.NDArray[np.float64]


def compute(symbols: Symbols, ids: Ids, known: dict[int, Numbers64], *, meant: bool = True) -> Numbers64:
    """The numbers of these elements, computed by the model's own operators from those of some atoms.

    known  for each atom that is given: its numbers, flat; those that are computed are added
    meant  single numbers (the 0.2 of a hard sigmoid) are what was meant by a float32, not what it is
    Errors: Refused for an operator that cannot be computed here.
    """
    for number in sorted(_needed(symbols, ids, known)):
        known[number] = _one(symbols.atoms[number], known, symbols, meant)
    return _gathered(symbols, ids, known)


class Equations:
    """The equations of one layer, its weights in float64.

    >>> layer = Layer.from_gates(kernel={"n": np.ones((1, 1))}, recurrent_kernel={"n": np.ones((1, 1))})
    >>> h, c = Equations(layer).step(np.zeros((1, 1)), np.zeros((1, 1)), None)
    >>> h.item()
    0.0
    """

    def __init__(self, layer: Layer) -> None:
        self.spec = layer.spec
        self.weights = {
            name.removeprefix("forward."): np.asarray(each, np.float64) for name, each in layer.weights.items()
        }

    def step(self, x: Numbers64, h: Numbers64, c: Numbers64 | None) -> tuple[Numbers64, Numbers64]:
        """One step from x (b, i), h (b, p) and c (b, h), zeros if there is none, to the next h and c."""
        cell = np.zeros((len(x), self.spec.hidden_size)) if c is None else c
        with np.errstate(all="ignore"):
            return STEPS[self.spec.cell](self.weights, self.spec, "forward", x, h, cell)


def holds(
    symbols: Symbols, layer: Layer, given: Mapping[str, Ids], after: Mapping[str, Ids], seed: int = 0
) -> tuple[bool, float]:
    """Whether `layer` computes the step; and how far it is off.

    given  the ids of ``x`` (i,), ``h`` (p,) and, of an LSTM, ``c`` (h,) that the step begins with
    after  the ids of ``h`` (p,) after it, or of ``c`` (h,), or of both

    The difference is that of the worst draw so far, relative to the numbers of that draw where they are above one.
    """
    rng, equations = np.random.default_rng(seed), Equations(layer)
    worst = 0.0
    for scales in _SCALES:
        known: dict[int, Numbers64] = {}
        for name, scale in scales.items():
            for number in symbols.atoms_of(given[name]) if name in given else ():
                if number not in known:
                    known[number] = scale * rng.normal(size=symbols.atoms[number].size)
        numbers = {name: _gathered(symbols, ids, known)[None] for name, ids in given.items()}
        expected = dict(zip("hc", equations.step(numbers["x"], numbers["h"], numbers.get("c")), strict=True))
        for name, ids in after.items():
            worst = max(worst, apart(compute(symbols, ids, known), expected[name][0]))
        if worst > BOUND:
            return False, worst
    return True, worst


def apart(found: Numbers64, expected: Numbers64) -> float:
    """The largest difference, relative to the largest number where that is above one; infinite for NaN."""
    if found.shape != expected.shape:
        return float(np.inf)
    with np.errstate(all="ignore"):
        gap = float(np.abs(found - expected).max(initial=0.0) / max(1.0, float(np.abs(expected).max(initial=0.0))))
    return gap if np.isfinite(gap) else float(np.inf)


def _needed(symbols: Symbols, ids: Ids, known: Mapping[int, Numbers64]) -> set[int]:
    """The atoms that have to be computed."""
    waiting: Sequence[int] = [n for n in symbols.atoms_of(ids) if n not in known]
    needed = set(waiting)
    while waiting:
        reads = {n for each in waiting for n in symbols.atoms[each].reads}
        fresh = {n for n in reads if n not in needed and n not in known}
        needed |= fresh
        waiting = list(fresh)
    return needed


def _gathered(symbols: Symbols, ids: Ids, values: Mapping[int, Numbers64]) -> Numbers64:
    found = np.empty(ids.shape)
    for number in symbols.atoms_of(ids):
        atom = symbols.atoms[number]
        mine = (ids >= atom.start) & (ids < atom.start + atom.size)
        found[mine] = values[number][ids[mine] - atom.start]
    return found


def _one(atom: Atom, values: Mapping[int, Numbers64], symbols: Symbols, meant: bool) -> Numbers64:
    """The numbers of one atom."""
    if atom.op == "constant" and atom.array is not None and atom.matrix is not None:
        number = atom.matrix.number if meant else None
        return np.asarray(atom.array, np.float64) if number is None else np.array([number])
    args = [_gathered(symbols, each, values) for each in atom.args]
    if atom.op == "MatMul" and atom.matrix is not None:
        with np.errstate(all="ignore"):
            return np.asarray(args[0] @ symbols.wide(atom.matrix)).reshape(-1)
    if atom.attributes.get("opaque") or atom.op == "input":
        raise Refused(f"what comes from {atom.who} cannot be computed")
    if atom.op == "Where":
        args[0] = args[0] != 0
    attributes = {
        key: decimal(each) if meant and isinstance(each, float) else each for key, each in atom.attributes.items()
    }
    [found] = Float64(1 << 40).operate(atom.op, args, attributes, 1, atom.who)
    if isinstance(found, Missing):
        raise Refused(found.why)
    return np.asarray(found, np.float64)
