"""Recurrent layers that an exporter took apart: into a Loop or Scan, into nodes for every step, or into a single step.

The model is run once with symbols (`expressions`), so that all three become the same: a matrix that is multiplied again
and again with what it helped to compute. Each such chain is a recurrence; one step of it is read (`steps`), the cells
that it may be are tried (`matching`), and only the one that is proved (`proving`) is taken. Then the sequence is: what
each step reads and gives, in which order, from which initial state; and at last the whole model is run in numpy, and
must give what the equations give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge.errors import BridgeError
from lstmbridge.frameworks.onnx.chains import QUANTISED, Chain, chains, state_columns, worth_reading
from lstmbridge.frameworks.onnx.execution import FREE, Execution, Float64, Missing, TooLarge, inputs_of, who_node
from lstmbridge.frameworks.onnx.expressions import Atom, Ids, Source, Symbols
from lstmbridge.frameworks.onnx.graph import Proto, Scope
from lstmbridge.frameworks.onnx.joining import Recovered, Where, join, letters_in_common, turned
from lstmbridge.frameworks.onnx.matching import Hypothesis, hypotheses
from lstmbridge.frameworks.onnx.operators import FAILURES
from lstmbridge.frameworks.onnx.proving import BOUND, Equations, Numbers64, apart, compute, holds
from lstmbridge.frameworks.onnx.steps import Refused, Step, follow
from lstmbridge.frameworks.onnx.tensors import CODES
from lstmbridge.layer import Layer

__all__ = ["Recovery", "recover"]

_SMALL = 1 << 23
_MANY = 1 << 16
_FLOATS = frozenset(CODES[name] for name in ("float32", "float64", "float16", "bfloat16"))
_INTEGERS = frozenset(CODES[name] for name in ("int32", "int64"))


@dataclass(frozen=True, eq=False)
class Recovery:
    """What was recovered, and why other recurrences were not; `guesses`: why what may be one step was not."""

    layers: tuple[Recovered, ...] = ()
    refusals: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()


def recover(scopes: Sequence[Scope], file: Path | None, stored: int) -> Recovery:
    """The recurrent layers in a model that are no nodes of their own; `stored` is how many bytes the model stores."""
    most = worth_reading(scopes)
    if not most:
        return Recovery()
    if stored > most:
        return Recovery(guesses=(f"steps of recurrent layers were not looked for in {stored} bytes of weights",))
    try:
        with np.errstate(all="ignore"):
            return _Search(scopes, file, stored // 2 + _SMALL).run()
    except (TooLarge, RecursionError, BridgeError, *FAILURES) as error:
        return Recovery(refusals=(f"steps of recurrent layers were not looked for: {error}",))


class _Search:
    """One model being searched."""

    def __init__(self, scopes: Sequence[Scope], file: Path | None, limit: int) -> None:
        self.scopes, self.file = scopes, file
        self.symbols = Symbols(limit)
        self.main = scopes[0]
        self.shapes = dict(_shapes(self.main))
        self.numbers: dict[int, Numbers64] = {}
        self.raw: dict[int, Numbers64] = {}  # the same, with single numbers as they are stored
        self.found: list[Recovered] = []
        self.refusals: list[tuple[frozenset[Source], str]] = []
        self.guesses: list[str] = []
        self.where: Where = {}
        self._truth: dict[str, Numbers64] | None = None

    def run(self) -> Recovery:
        given = {name: self._input(name) for name in self.shapes}
        self.frame = Execution(self.symbols, self.scopes, self.file).run(self.main, given)
        rng = np.random.default_rng(0)
        for atom in self.symbols.atoms:
            if atom.op == "input" or atom.attributes.get("opaque"):
                self.numbers[atom.number] = self.raw[atom.number] = 0.7 * rng.normal(size=atom.size)
        self.drawn = frozenset(self.numbers)
        several, singles = chains(self.symbols)
        for chain in sorted(several, key=lambda each: each.products[0].number):
            self._try(chain, self._chain)
        self._singles(singles)
        join(self.found, self.where, [ids for ids in self.frame.values.values() if isinstance(ids, np.ndarray)])
        self.refusals += [(frozenset(), text) for text in self._not_run()]
        sources = frozenset().union(*(each.sources for each in self.found))
        why = [text for used, text in self.refusals if not used or not used <= sources]
        why += [each for each in self.symbols.refused if each not in why]
        why += [
            f"{node.op_type} node {node.name!r} multiplies with quantised weights" for node in _quantised(self.scopes)
        ]
        return Recovery(tuple(self.found), tuple(dict.fromkeys(why)), tuple(dict.fromkeys(self.guesses)))

    def _not_run(self) -> Iterator[str]:
        """Why what is repeated in the model was not looked into."""
        for node in self.main.graph.node:
            missing = [self.frame.values.get(name) for name in node.output if name]
            why = [each.why for each in missing if isinstance(each, Missing)]
            if node.op_type in ("Loop", "Scan") and why:
                yield f"{who_node(node)} was not looked into: {why[0]}"

    def _input(self, name: str) -> Any:
        shape = self.shapes[name]
        if shape is None:
            return Missing(f"the shape of the input {name!r} is not stated")
        if shape == () and _counts(self.main, name):
            return self.symbols.constant(np.array(FREE, np.int64), None, "")
        return self.symbols.input(name, shape)

    def _try(self, chain: Chain, method: Any) -> None:
        sources = chain.sources
        if any(sources and sources <= each.sources for each in self.found):
            return
        try:
            self._accept(method(chain))
        except Refused as error:
            self.refusals.append((sources, f"the steps around {chain.who} are no layer that is known here: {error}"))
        except (BridgeError, *FAILURES) as error:
            self.refusals.append((sources, f"the steps around {chain.who} are no layer: {error.args[0]}"))

    def _accept(self, found: Recovered) -> None:
        self.found.append(found)
        direction = found.layer.spec.directions[0]
        for turn, states in enumerate(found.states):
            time = turn if direction == "forward" else len(found.x) - 1 - turn
            for element in states.ravel():
                self.where[int(element)] = (found, time)

    # ---- several steps

    def _chain(self, chain: Chain) -> Recovered:
        products, symbols = chain.products, self.symbols
        mask = state_columns(symbols, chain)
        given = [each.args[0][:, mask] for each in products]
        before = np.stack(np.broadcast_arrays(*given))  # (t, b, p): the state each step begins with
        turn = 1 if len(products) > 2 else 0
        step, hypothesis = self._proved(chain, turn, before[turn], before[turn + 1])
        x = [self._rows(after, step.x_path) for after in before[1:]]
        c = None if step.c is None else self._rows(before[1], step.c_path)
        if c is not None and max(chain.levels[n] for n in symbols.atoms_of(c)) >= 0:
            raise Refused("the cell state that it begins with is computed in its first step")
        states = list(before[1:])
        last = self._last(chain, hypothesis.layer, step, before, x, c)
        if last is None:
            raise Refused("the last step is not like the others")
        states.append(last)
        x.append(self._rows(last, step.x_path))
        if step.c is not None:
            after = follow(symbols, states[turn + 1][0], step.c_path)
            if not holds(symbols, hypothesis.layer, _given(step), {"c": after})[0]:
                raise Refused("it has the parts of an LSTM, but another cell state")
        found = Recovered(hypothesis.layer, hypothesis.sources, chain.who, np.stack(x), np.stack(states), False)
        found.matrices = hypothesis.matrices
        self._begin(found, step, before[0], c)
        self._check_order(found)
        self._check_outputs(found)
        self._check_model(found)
        return found

    def _rows(self, after: Ids, path: Any) -> Ids:
        """What lies at the end of a way, for each sequence of the batch."""
        return np.stack([follow(self.symbols, row, path) for row in after])

    def _proved(self, chain: Chain, turn: int, h: Ids, after: Ids) -> tuple[Step, Hypothesis]:
        """The step from h to after (both (b, p)), and the layer that it was proved to be."""
        step = Step(self.symbols, chain.levels, turn, h[0])
        read = step.read(after[0])
        if step.x is None:
            raise Refused("no input enters by a matrix")
        nearest = np.inf
        for hypothesis in hypotheses(read, step.c is not None):
            proved, off = holds(self.symbols, hypothesis.layer, _given(step), {"h": after[0]})
            if proved:
                return step, hypothesis
            nearest = min(nearest, off)
        cell = "LSTM" if step.c is not None else "GRU or RNN"
        raise Refused(f"it has the parts of an {cell}, but computes something else: off by {nearest:.1e}")

    def _last(self, chain: Chain, layer: Layer, step: Step, before: Ids, x: Sequence[Ids], c: Ids | None) -> Ids | None:
        """The state after the last step: the atom like those before that has the numbers the equations give."""
        symbols = self.symbols
        equations = Equations(layer)
        h = compute(symbols, before[0], self.numbers)
        cell = None if c is None else compute(symbols, c, self.numbers)
        for turn, given in enumerate(x):
            h, cell = equations.step(compute(symbols, given, self.numbers), h, cell)
            off = apart(compute(symbols, before[turn + 1], self.numbers), h)
            if off > BOUND:
                raise Refused(f"step {turn + 1} computes something else than the one before: off by {off:.1e}")
        model = [symbols.atoms[n] for n in symbols.atoms_of(before[-1])]
        if len(model) != 1:
            return None
        for atom in symbols.atoms[model[0].number + 1 :]:
            alike = (atom.op, atom.size) == (model[0].op, model[0].size)
            if not alike or chain.levels[atom.number] != len(x):
                continue
            ids: Ids = before[-1] - model[0].start + atom.start
            try:
                given = self._rows(ids, step.x_path)
                expected, _ = equations.step(compute(symbols, given, self.numbers), h, cell)
                if apart(compute(symbols, ids, self.numbers), expected) <= BOUND:
                    return ids
            except (Refused, ValueError, IndexError):
                continue
        return None

    def _begin(self, found: Recovered, step: Step, h: Ids, c: Ids | None) -> None:
        """Says what the sequence begins with; takes a first step that was partly computed beforehand, if any."""
        try:
            if not self._is_stored(h):
                x, c_before = self._rows(h, step.x_path), None if c is None else self._rows(h, step.c_path)
                given = [compute(self.symbols, ids, self.numbers) for ids in (x, h)]
                cell = None if c_before is None else compute(self.symbols, c_before, self.numbers)
                expected, _ = Equations(found.layer).step(given[0], np.zeros_like(given[1]), cell)
                if apart(given[1], expected) <= BOUND:
                    found.x, found.states = np.stack([x, *found.x]), np.stack([h, *found.states])
                    found.sources |= self._stored(h, x)
                    found.initial["initial_h"] = "zero"
                    h, c = h[:0], c_before
        except Refused:
            pass
        for key, ids in (("initial_h", h), ("initial_c", c)):
            if ids is not None and ids.size:
                found.initial[key] = self._initial(ids, key, found)

    def _is_stored(self, ids: Ids) -> bool:
        """Whether these numbers are inputs or constants of the model."""
        return all(self.symbols.atoms[n].op in ("input", "constant") for n in self.symbols.atoms_of(ids))

    def _initial(self, ids: Ids, key: str, found: Recovered) -> Any:
        """An initial state as metadata have it: ``zero``, ``given``, or its numbers."""
        if any(self.symbols.atoms[n].op != "constant" for n in self.symbols.atoms_of(ids)):
            return "given"
        value = compute(self.symbols, ids, self.raw, meant=False)
        if not value.any():
            return "zero"
        found.notes.append(
            f"{key} is a constant that is not zero: it is no part of the layer and must be given as the initial state"
        )
        value = value[:1] if (value == value[:1]).all() else value
        return value[None].tolist() if value.size <= _MANY else "constant"  # (d, b, p)

    def _stored(self, ids: Ids, until: Ids) -> frozenset[Source]:
        """The stored tensors that these numbers were computed from, as far as the inputs of the step."""
        ends, waiting, found = self.symbols.atoms_of(until), set(self.symbols.atoms_of(ids)), set[Source]()
        seen = set(ends)
        while waiting:
            atom = self.symbols.atoms[waiting.pop()]
            seen.add(atom.number)
            found |= set() if atom.matrix is None else atom.matrix.sources
            waiting |= atom.reads - seen
        return frozenset(found)

    # ---- one step

    def _singles(self, singles: Sequence[Chain]) -> None:
        """Single steps: a matrix that multiplies an input of the model, and an output that takes its place."""
        tried: dict[Any, tuple[Chain, list[Recovered], str]] = {}
        for chain in singles:
            product = chain.products[0]
            for number in sorted(self.symbols.atoms_of(product.args[0])):
                if self.symbols.atoms[number].op == "input":
                    self._single(chain, self.symbols.atoms[number], tried)
        for chain, found, why in tried.values():
            distinct = list({each.states.tobytes() + each.x.tobytes(): each for each in found}.values())
            alike = [letters_in_common(each.names) for each in distinct]
            if len(distinct) > 1 and alike.count(max(alike)) == 1:
                distinct = [distinct[alike.index(max(alike))]]
                distinct[0].notes.append("which of two inputs is the state was told by the names of the outputs alone")
            if len(distinct) == 1:
                self._accept(distinct[0])
            elif distinct:
                text = "either of two inputs of the model may be the state"
                self.refusals.append((frozenset(), f"the step around {chain.who} is not certain: {text}"))
            elif why:
                self.guesses.append(f"the step around {chain.who} is no layer that is known here: {why}")

    def _single(self, chain: Chain, state: Atom, tried: dict[Any, Any]) -> None:
        rows = chain.products[0].args[0]
        mask = np.array([state.start <= element < state.start + state.size for element in rows[0]])
        if not mask.any():  # it is the state of another sequence of the batch
            return
        h = rows[:, mask]
        for name in (each.name for each in self.main.graph.output):
            ids = self.frame.values.get(name)
            if not isinstance(ids, np.ndarray) or ids.size != state.size:
                continue
            after = ids.reshape(-1)[h - state.start]
            if max(chain.levels[n] for n in self.symbols.atoms_of(after)) < 0:
                continue
            try:
                step, hypothesis = self._proved(chain, 0, h, after)
                x = self._rows(after, step.x_path)
                self._check_rows(hypothesis.layer, step, x, h, after)
                found = Recovered(hypothesis.layer, hypothesis.sources, chain.who, x[None], after[None], True)
                found.names, found.initial = (state.who, name), {"initial_h": "given"}
                found.matrices = hypothesis.matrices
                self._check_model(found)
                self._check_second_state(step, found.layer)
            except Refused as error:
                tried.setdefault((chain, state), (chain, [], str(error)))
            except (BridgeError, *FAILURES) as error:
                tried.setdefault((chain, state), (chain, [], str(error.args[0])))
            else:
                tried.setdefault(hypothesis.sources, (chain, [], ""))[1].append(found)

    def _check_rows(self, layer: Layer, step: Step, x: Ids, h: Ids, after: Ids) -> None:
        """That each sequence of the batch goes through the same step, and through no other's."""
        c = None if step.c is None else self._rows(after, step.c_path)
        given = [compute(self.symbols, ids, self.numbers) for ids in (x, h)]
        cell = None if c is None else compute(self.symbols, c, self.numbers)
        off = apart(compute(self.symbols, after, self.numbers), Equations(layer).step(given[0], given[1], cell)[0])
        if off > BOUND:
            raise Refused(f"not all sequences of a batch go through the same step: off by {off:.1e}")

    def _check_second_state(self, step: Step, layer: Layer) -> None:
        """That the next cell state, too, is an output of the model, in the place of the one that was given."""
        if step.c is None:
            return
        given = self.symbols.atom(int(step.c[0]))
        for name in (each.name for each in self.main.graph.output):
            ids = self.frame.values.get(name)
            if isinstance(ids, np.ndarray) and ids.size == given.size:
                after = ids.reshape(-1)[step.c - given.start]
                if holds(self.symbols, layer, _given(step), {"c": after})[0]:
                    return
        raise Refused("no output of the model is its next cell state")

    # ---- the sequence

    def _check_order(self, found: Recovered) -> None:
        """Finds the direction: in which order the steps read the sequence. Errors: Refused if in none."""
        roots, keys = zip(*(self._key(step[0]) for step in found.x), strict=True)
        strides = {after - before for before, after in pairwise(keys)}
        moves = {(stride > 0) - (stride < 0) for stride in strides}
        if len(moves) != 1 or moves == {0} or (len(set(roots)) == 1 and len(strides) > 1):
            raise Refused("its steps do not read a sequence in the order of time")
        if moves == {-1}:
            found.layer = turned(found.layer)
        writers = {self.where[int(each)][0] for each in found.x[0, 0] if int(each) in self.where}
        if writers and all(int(each) in self.where for each in found.x[0, 0]):
            found.after = writers.pop() if len(writers) == 1 else None
            found.batch_first = found.after.batch_first if found.after else False
        elif found.x.shape[1] > 1:
            found.batch_first = abs(keys[1] - keys[0]) < abs(self._key(found.x[0, 1])[1] - keys[0])

    def _check_outputs(self, found: Recovered) -> None:
        """That what collects the states of several steps has all of them, in order. Errors: Refused if one has not."""
        mine, one = np.sort(found.states.ravel()), found.states[0].size
        time = {int(each): turn for turn, states in enumerate(found.states) for each in states.ravel()}
        for node in self.main.graph.node:
            for ids in (self.frame.values.get(name) for name in node.output if name):
                if not isinstance(ids, np.ndarray) or ids.size <= one:
                    continue
                if node.op_type not in ("Loop", "Scan") and (node.op_type != "Concat" or ids.size != mine.size):
                    continue
                turns = list(dict.fromkeys(time.get(int(each), -1) for each in ids.ravel()))
                known = [turn for turn in turns if turn >= 0]
                if len(known) < (1 if node.op_type != "Concat" else 2):
                    continue
                complete = np.array_equal(np.sort(ids.ravel()), mine)
                if not complete or turns not in (sorted(turns), sorted(turns, reverse=True)):
                    raise Refused(f"what {who_node(node)} collects is not the state after each step")

    def _key(self, ids: Ids) -> tuple[int, int]:
        """Where in time these inputs are: an atom that they were computed from, and the place of the first number.

        Of the states of another layer: -1, and the time.
        """
        symbols, waiting, seen = self.symbols, [ids], set()
        places: list[tuple[int, int]] = []
        for _ in range(1000):
            if not waiting:
                break
            now = waiting.pop()
            for number in symbols.atoms_of(now):
                atom = symbols.atoms[number]
                mine = now[(now >= atom.start) & (now < atom.start + atom.size)]
                if int(mine[0]) in self.where:
                    places.append((-1, self.where[int(mine[0])][1]))
                elif atom.op == "input" or (atom.attributes.get("opaque") and atom.size):
                    places.append((number, int(mine.min())))
                elif atom.op == "MatMul" and atom.matrix is not None:
                    waiting.append(atom.args[0][np.unique((mine - atom.start) // atom.matrix.array.shape[1])].ravel())
                elif atom.op != "constant" and (number, int(mine[0])) not in seen:
                    seen.add((number, int(mine[0])))
                    waiting += [each[mine - atom.start] for each in atom.args]
        if not places:
            raise Refused("its input is a constant")
        return min(places, key=lambda place: place[1])

    def _check_model(self, found: Recovered) -> None:
        """That the model itself, run in numpy, gives the states that the expressions say."""
        truth = self._run()
        elements = np.sort(found.states.ravel())
        for name, ids in self.frame.values.items():
            if not isinstance(ids, np.ndarray) or not ids.size or not np.isin(ids, elements).all():
                continue
            value = truth.get(name)
            if isinstance(value, np.ndarray) and value.shape == ids.shape:
                off = apart(value, compute(self.symbols, ids, self.raw, meant=False))
                if off > BOUND:
                    raise Refused(f"{name!r} is something else in the model: off by {off:.1e}")
                found.compared += value.size

    def _run(self) -> dict[str, Numbers64]:
        """The model's main graph, run in numpy from the same inputs (and the same outputs of unknown operators)."""
        if self._truth is None:
            given: dict[str, Any] = {}
            for name, ids in self.frame.values.items():
                if not isinstance(ids, np.ndarray) or not ids.size:
                    continue
                atom = self.symbols.atom(int(ids.flat[0]))
                if atom.number in self.drawn and np.array_equal(ids.ravel(), atom.ids):
                    given[name] = self.numbers[atom.number].reshape(ids.shape)
            counts = {name: np.array(FREE) for name, shape in self.shapes.items() if shape == () and name not in given}
            missing = {name: Missing("") for name, shape in self.shapes.items() if name not in {**given, **counts}}
            limit = 8 * self.symbols.limit
            execution = Execution(Float64(limit), self.scopes, self.file)
            values = execution.run(self.main, {**given, **counts, **missing}).values
            self._truth = {name: each for name, each in values.items() if isinstance(each, np.ndarray)}
        return self._truth


# ---- what the model says


def _shapes(main: Scope) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """The shape of each input, free dimensions with the size `FREE`; None where it is not stated."""
    for each in inputs_of(main):
        kind = each.type.tensor_type
        if not kind.HasField("shape") or kind.elem_type not in _FLOATS | _INTEGERS:
            yield each.name, None
        else:
            yield each.name, tuple(dim.dim_value if dim.HasField("dim_value") else FREE for dim in kind.shape.dim)


def _counts(main: Scope, name: str) -> bool:
    """Whether an input says how often a Loop runs."""
    return any(node.op_type == "Loop" and node.input[:1] == [name] for node in main.graph.node)


def _quantised(scopes: Sequence[Scope]) -> Iterator[Proto]:
    return (node for scope in scopes for node in scope.graph.node if node.op_type in QUANTISED)


def _given(step: Step) -> dict[str, Ids]:
    """What a step begins with."""
    given = {"x": step.x, "h": step.h, "c": step.c}
    return {name: ids for name, ids in given.items() if ids is not None}
