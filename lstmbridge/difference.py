"""Two sides compared weight by weight, whatever their layouts are; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge.choosing import select
from lstmbridge.fit import resummed
from lstmbridge.layer import Layer
from lstmbridge.mapped import forget
from lstmbridge.pairing import expect_pairs, for_both, in_order, named
from lstmbridge.reading import read_all

__all__ = ["GateDifference", "diff"]


@dataclass(frozen=True)
class GateDifference:
    """How far one weight of two layers is apart, whatever their layouts are."""

    layer: str
    weight: str
    differing: int
    size: int
    largest: float

    @property
    def same(self) -> bool:
        """Whether every bit is the same."""
        return self.differing == 0


def diff(a: Any, b: Any, *, layers: Sequence[str] = (), **options: Any) -> tuple[GateDifference, ...]:
    """Compares two objects or files weight by weight, in canonical form; nothing is run.

    A weight that only one side has counts as differing in every number, unless it is all zeros there; two biases that
    are only ever added are compared as their sum where the other side has one. Errors: LayoutError if the layers do not
    pair up.
    """
    left = select(read_all(a, **options).layers, layers)
    right = in_order(named(read_all(b, **for_both(options)).layers, layers), left)
    expect_pairs(left, right)
    found = []
    for x, y in zip(left, right, strict=True):
        one, other = _with_one_bias(x, y), _with_one_bias(y, x)
        for name in dict.fromkeys((*one, *other)):
            gap = _gate_difference(x, name, one.weights.get(name), other.weights.get(name))
            added = ".bias." in name and (one is not x or other is not y)
            both = f"{name} + {name.replace('.bias.', '.recurrent_bias.')}"
            found.append(replace(gap, weight=both) if added else gap)
    return tuple(found)


def _with_one_bias(layer: Layer, beside: Layer) -> Layer:
    """The layer, its two biases added up if the one beside it has one, and nothing but their sum counts."""
    forms = (layer.spec.bias, beside.spec.bias)
    summed = forms == ("dual", "single") and all(map(layer.spec.mergeable, layer.spec.gates))
    return resummed(layer, "single") if summed else layer


def _gate_difference(layer: Layer, name: str, a: Any, b: Any) -> GateDifference:
    present = xp.host(a if a is not None else b)
    one = np.asarray(xp.host(a), np.float64) if a is not None else np.zeros(present.shape)
    other = np.asarray(xp.host(b), np.float64) if b is not None else np.zeros(present.shape)
    unlike = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    gap = np.abs(one - other)[unlike]
    largest = float(np.nan_to_num(gap, nan=np.inf).max()) if gap.size else 0.0
    forget()
    return GateDifference(layer.label, name, int(unlike.sum()), present.size, largest)
