"""Two sides compared weight by weight, whatever their layouts are; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge.choosing import select
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

    A weight that only one side has (a second bias) counts as differing in every number, unless it is all zeros there.
    Errors: LayoutError if the layers do not pair up.
    """
    left = select(read_all(a, **options).layers, layers)
    right = in_order(named(read_all(b, **for_both(options)).layers, layers), left)
    expect_pairs(left, right)
    found = []
    for x, y in zip(left, right, strict=True):
        names = dict.fromkeys((*x, *y))
        found += [_gate_difference(x, name, x.weights.get(name), y.weights.get(name)) for name in names]
    return tuple(found)


def _gate_difference(layer: Layer, name: str, a: Any, b: Any) -> GateDifference:
    present = xp.host(a if a is not None else b)
    one = np.asarray(xp.host(a), np.float64) if a is not None else np.zeros(present.shape)
    other = np.asarray(xp.host(b), np.float64) if b is not None else np.zeros(present.shape)
    unlike = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    gap = np.abs(one - other)[unlike]
    largest = float(np.nan_to_num(gap, nan=np.inf).max()) if gap.size else 0.0
    forget()
    return GateDifference(layer.label, name, int(unlike.sum()), present.size, largest)
