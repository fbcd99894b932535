"""One step of a recurrence, as expressions: which numbers of which matrices go through which function, and where to.

A step leads from a state h to the next one. It is written here as sums of terms: a matrix times the input x or the
state h, a constant, a state itself, or a function of other sums. Nothing is known yet of gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lstmbridge.frameworks.onnx.expressions import Atom, Ids, Source, Symbols
from lstmbridge.frameworks.onnx.tensors import Numbers

__all__ = ["Applied", "Constant", "Path", "Product", "Refused", "State", "Step", "Sum", "Term", "follow"]

_TERMS, _VISITS, _DEEP = 64, 5000, 150

#: The way from a vector down to what it was computed from: (operator, argument or positions in a row) a step.
Path = tuple[tuple[str, Any], ...]


class Refused(Exception):
    """This is no recurrent layer that is known here; the argument says why."""


@dataclass(frozen=True, eq=False)
class State:
    """The state ``h`` or ``c`` that the step begins with."""

    name: str
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Product:
    """A vector times a matrix (k, h): of the input ``x``, of the state ``h``, or of something ``inner``."""

    of: str
    matrix: Numbers
    sources: frozenset[Source]
    inner: Sum = ()
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Constant:
    """A vector of numbers, or one `number` for all; `side`: what it was first added to, of x and h."""

    array: Numbers
    sources: frozenset[Source]
    number: float | None
    side: str = ""
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Applied:
    """A function of sums, element by element."""

    op: str
    args: tuple[Sum, ...]
    attributes: Mapping[str, Any]
    who: str
    sign: int = 1


Term = State | Product | Constant | Applied
Sum = tuple[Term, ...]


@dataclass(eq=False)
class Step:
    """A step being read.

    symbols  the expressions of the model
    levels   for each atom: the step in which it is computed, -1 if that is before all of them
    number   which step this is
    h        the ids of the state that it begins with (p,), of one sequence
    c        found on the way: those of a second state (h,), and the way to them
    x        found on the way: those of the input (i,), and the way to them
    """

    symbols: Symbols
    levels: Sequence[int]
    number: int
    h: Ids
    c: Ids | None = None
    c_path: Path = ()
    x: Ids | None = None
    x_path: Path = ()
    _known: dict[bytes, Sum] = field(default_factory=dict)
    _where: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._where = {int(element): unit for unit, element in enumerate(self.h)}

    def read(self, ids: Ids, path: Path = ()) -> Sum:
        """The vector of these ids as a sum of terms. Errors: Refused where it is none."""
        key = ids.tobytes()
        if key not in self._known:
            if len(self._known) > _VISITS or len(path) > _DEEP:
                raise Refused("a step is too long to be one of a recurrent layer")
            found = self._read(ids, path)
            if len(found) > _TERMS:
                raise Refused(f"a sum of more than {_TERMS} terms")
            self._known[key] = found
        return self._known[key]

    def _read(self, ids: Ids, path: Path) -> Sum:
        if np.array_equal(ids, self.h):
            return (State("h"),)
        atom = _only_atom(self.symbols, ids)
        at = ids - atom.start
        level = self.levels[atom.number]
        if atom.op == "constant" and atom.array is not None and atom.matrix is not None:
            return (Constant(atom.array[at], atom.matrix.sources, atom.matrix.number if ids.size > 1 else None),)
        if 0 <= level < self.number or (self.number == 0 and level < 0 and atom.op == "input"):
            return self._applied(atom, at, path) if self._weighs(atom) else self._second_state(ids, path)
        if atom.op == "MatMul" and atom.matrix is not None:
            return self._product(atom, at, path)
        if atom.op in ("Add", "Sub", "Neg", "Sum") and not atom.attributes.get("opaque"):
            return self._sum(atom, at, path)
        if level < 0 and not (self.number == 0 and self._weighs(atom)):
            raise Refused(f"what comes from {atom.who} enters the step, but not by a matrix")
        if atom.attributes.get("opaque"):
            raise Refused(f"the step has a {atom.who} in it")
        return self._applied(atom, at, path)

    def _applied(self, atom: Atom, at: Ids, path: Path) -> Sum:
        args = (self.read(arg[at], (*path, (atom.op, n))) for n, arg in enumerate(atom.args))
        return (Applied(atom.op, tuple(args), atom.attributes, atom.who),)

    def _weighs(self, atom: Atom) -> bool:
        """Whether it is something times a stored vector: a peephole, which may look at the state before a step."""
        return atom.op == "Mul" and any(
            self.symbols.atoms[n].op == "constant" for arg in atom.args for n in self.symbols.atoms_of(arg)
        )

    def _second_state(self, ids: Ids, path: Path) -> Sum:
        if self.c is None:
            self.c, self.c_path = ids, path
        elif not np.array_equal(ids, self.c):
            raise Refused("a step reads more of the step before than h and c")
        return (State("c"),)

    def _sum(self, atom: Atom, at: Ids, path: Path) -> Sum:
        parts = [self.read(arg[at], (*path, (atom.op, n))) for n, arg in enumerate(atom.args)]
        if atom.op == "Neg" or (atom.op == "Sub" and len(parts) == 2):
            parts[-1] = tuple(_with(term, sign=-term.sign) for term in parts[-1])
        terms = [term for part in parts for term in part]
        sides = {term.of for term in terms if isinstance(term, Product)}
        side = "" if not sides else sides.pop() if len(sides) == 1 else "both"
        return tuple(_with(term, side=side) if isinstance(term, Constant) and not term.side else term for term in terms)

    def _product(self, atom: Atom, at: Ids, path: Path) -> Sum:
        assert atom.matrix is not None
        matrix, sources = atom.matrix.array, atom.matrix.sources
        rows, columns = at // matrix.shape[1], at % matrix.shape[1]
        if (rows != rows[0]).any():
            raise Refused(f"{atom.who} mixes the sequences of a batch")
        given = atom.args[0][rows[0]]
        mine = matrix[:, columns] if not _is_range(columns) else matrix[:, columns[0] : columns[-1] + 1]
        units = [self._where.get(int(element), -1) for element in given]
        is_h = np.array([unit >= 0 for unit in units])
        others = given[~is_h]
        found: list[Term] = []
        if is_h.any():
            order = [unit for unit in units if unit >= 0]
            if sorted(order) != list(range(len(self.h))):
                raise Refused(f"{atom.who} reads some of the state, not all of it")
            own = mine if is_h.all() else mine[is_h]
            in_order = order == list(range(len(order)))
            found.append(Product("h", own if in_order else own[np.argsort(order)], sources))
        if others.size:
            found.append(self._other_product(atom, mine if not is_h.any() else mine[~is_h], others, is_h, path))
        return tuple(found)

    def _other_product(self, atom: Atom, matrix: Numbers, given: Ids, is_h: Any, path: Path) -> Product:
        """A matrix times what is not the state h: the input, or something computed in the step."""
        assert atom.matrix is not None
        level = max(self.levels[n] for n in self.symbols.atoms_of(given))
        if level == self.number and not is_h.any():
            inner = self.read(given, (*path, (atom.op, np.arange(given.size))))
            return Product("inner", matrix, atom.matrix.sources, inner)
        if level >= 0:
            raise Refused(f"{atom.who} reads more than the input and the state")
        if self.x is None:
            self.x, self.x_path = given, (*path, (atom.op, np.flatnonzero(~is_h)))
        elif not np.array_equal(given, self.x):
            raise Refused(f"{atom.who} reads another input than the matrices before it")
        return Product("x", matrix, atom.matrix.sources)


def follow(symbols: Symbols, ids: Ids, path: Path) -> Ids:
    """What lies at the end of the same way that was gone from another step's vector. Errors: Refused if none does."""
    try:
        return _followed(symbols, ids, path)
    except IndexError as error:
        raise Refused("one step is not of the size of another") from error


def _followed(symbols: Symbols, ids: Ids, path: Path) -> Ids:
    for op, where in path:
        atom = _only_atom(symbols, ids)
        if atom.op != op:
            raise Refused(f"one step has a {op} where another has {atom.who or 'a constant'}")
        at = ids - atom.start
        if atom.matrix is not None and op == "MatMul":
            rows = at // atom.matrix.array.shape[1]
            if (rows != rows[0]).any():
                raise Refused(f"{atom.who} mixes the sequences of a batch")
            ids = atom.args[0][rows[0]][where]
        else:
            ids = atom.args[where][at]
    return ids


def _only_atom(symbols: Symbols, ids: Ids) -> Atom:
    found = symbols.atoms_of(ids)
    if len(found) != 1:
        raise Refused("a step puts its numbers together from several places")
    return symbols.atoms[next(iter(found))]


def _is_range(numbers: Ids) -> bool:
    return bool((np.diff(numbers) == 1).all())


def _with(term: Any, **changes: Any) -> Any:
    return type(term)(**{**vars(term), **changes})
