"""Recovered layers as a model uses them: two directions as one layer, the order of outputs, and their names.

An output is known by its ids: `where` says for each element of a layer's states whose it is, and of which time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, takewhile
from typing import Any

import numpy as np

from lstmbridge.frameworks.onnx.expressions import Ids, Source
from lstmbridge.frameworks.onnx.graph import path_of
from lstmbridge.layer import Layer

__all__ = ["Recovered", "Where", "join", "letters_in_common", "path_for", "turned"]


@dataclass(eq=False)
class Recovered:
    """A layer of one direction (or of two, once they are joined), and what is known of its sequence.

    layer    the layer, proved; its path is still to be given
    sources  the stored tensors that it was made of; `matrices`: those of them that are matrices
    who      the node that multiplies with its recurrent matrix
    x        the ids of its inputs (t, b, i), in the order of the steps
    states   the ids of its states (t, b, p), those after each step
    single   whether it is one step, with the states given from outside
    initial  what the sequence begins with, as the metadata of a node have it
    names    of one step: the names of the state that it takes and of the one that it gives
    """

    layer: Layer
    sources: frozenset[Source]
    who: str
    x: Ids
    states: Ids
    single: bool
    compared: int = 0
    batch_first: bool = False
    after: Recovered | None = None
    initial: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, str] = ("", "")
    matrices: frozenset[Source] = frozenset()
    notes: list[str] = field(default_factory=list)


#: For each element of a state: whose it is, and of which time.
Where = dict[int, tuple[Recovered, int]]


def join(found: list[Recovered], where: Where, values: Sequence[Ids]) -> None:
    """Joins, in `found`, layers that run over one sequence in both directions and whose outputs stand side by side.

    A reverse layer whose outputs are used with the last step first, and never the other way, gives them as processed.
    `values` are those of the model's main graph.
    """
    for one, other in permutations(list(found), 2):
        uses = [*values, *(each.x for each in found)]
        are_there = one in found and other in found
        if are_there and _are_directions(one, other) and any(_are_beside(ids, one, other, where) for ids in uses):
            _replace(found, one, other, where)
    for each in found:
        if each.layer.spec.directions == ("reverse",) and not each.single and _as_processed(each, where, values):
            each.layer = each.layer.replace(spec=each.layer.spec.replace(processed_order=True))


def _are_beside(ids: Ids, one: Recovered, other: Recovered, where: Where) -> bool:
    """Whether these are the two outputs of each step, side by side."""
    width = one.states.shape[-1]
    if ids.ndim < 2 or ids.shape[-1] != 2 * width:
        return False
    for row in ids.reshape(-1, 2 * width):
        first, second = where.get(int(row[0])), where.get(int(row[width]))
        if first is None or second is None:
            return False
        if (first[0], second[0], first[1]) != (one, other, second[1]):
            return False
    return True


def _replace(found: list[Recovered], one: Recovered, other: Recovered, where: Where) -> None:
    spec = one.layer.spec.replace(directions=("forward", "reverse"))
    joined = replace(
        one,
        layer=Layer(
            spec=spec.replace(reverse_activations=other.layer.spec.activations),
            weights={**one.layer.weights, **other.layer.weights},
        ),
        sources=one.sources | other.sources,
        matrices=one.matrices | other.matrices,
        compared=one.compared + other.compared,
        notes=[*one.notes, *other.notes],
    )
    found[found.index(one)] = joined
    found.remove(other)
    for each in found:
        if each.after in (one, other):
            each.after = None
        if {where[int(n)][0] for n in each.x[0, 0] if int(n) in where} == {one, other}:
            each.after, each.batch_first = joined, joined.batch_first


def _as_processed(found: Recovered, where: Where, values: Sequence[Ids]) -> bool:
    mine = np.sort(found.states.ravel())
    orders = set()
    for ids in values:
        if ids.ndim > 1 and ids.size > found.states[0].size and np.isin(ids, mine).all():
            first, last = (where[int(ids.flat[at])][1] for at in (0, -1))
            if first != last:
                orders.add(first > last)
    return orders == {True}


def turned(layer: Layer) -> Layer:
    """The same layer in the other direction."""
    weights = {name.replace("forward.", "reverse.", 1): each for name, each in layer.weights.items()}
    return Layer(spec=layer.spec.replace(directions=("reverse",)), weights=weights)


def letters_in_common(names: tuple[str, str]) -> int:
    """How many letters two names begin with in common."""
    pairs = zip(names[0].lower(), names[1].lower(), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _are_directions(one: Recovered, other: Recovered) -> bool:
    """Whether two layers differ in nothing but their weights, their functions and the direction of time."""
    a, b = one.layer.spec, other.layer.spec
    same = a == b.replace(directions=a.directions, activations=a.activations, processed_order=a.processed_order)
    return (
        (a.directions, b.directions) == (("forward",), ("reverse",))
        and same
        and not one.single
        and np.array_equal(one.x, other.x[::-1])
    )


def path_for(found: Recovered, taken: Collection[str]) -> str:
    """A path that is not taken: what the names of the stored tensors have in common, else the cell and a number."""
    names = [path_of(name).split(".") for _, name in found.matrices if "." in name or "/" in name]
    parts = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name[:-1] for name in names), strict=False))
    common = ".".join(part[0] for part in parts) if len(names) > 1 else ""
    cell = found.layer.spec.cell.upper()
    base = common or f"{cell}_0"
    number = 0
    path = base
    while path in taken:
        number += 1
        path = f"{cell}_{number}" if not common else f"{common}_{number + 1}"
    return path
