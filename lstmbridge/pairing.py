"""Which layer of one side belongs to which of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lstmbridge.choosing import select
from lstmbridge.contract import FOR_BOTH
from lstmbridge.errors import LayoutError
from lstmbridge.layer import Layer

__all__ = ["expect_pairs", "for_both", "in_order", "labels", "named"]


def named(layers: Sequence[Layer], paths: Sequence[str]) -> tuple[Layer, ...]:
    """The layers at or below those of the paths that are there; all of them if none is."""
    labels = [f"{layer.label}." for layer in layers]
    there = {path for path in paths if any(label.startswith(f"{path}.") for label in labels)}
    return select(layers, sorted(there))


def in_order(layers: Sequence[Layer], of: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers in the order of others with the same labels (a Keras graph orders its own); else as they are."""
    order = {layer.label: n for n, layer in enumerate(of)}
    if sorted(order) != sorted(layer.label for layer in layers):
        return tuple(layers)
    return tuple(sorted(layers, key=lambda layer: order[layer.label]))


def expect_pairs(a: Sequence[Layer], b: Sequence[Layer]) -> None:
    """Errors: LayoutError for layers that cannot be compared: another number of them, or of another kind."""
    if len(a) != len(b):
        raise LayoutError(
            f"{len(a)} layers against {len(b)}",
            f"found {labels(a)}; and {labels(b)}",
            "pick the ones to compare with layers= (--layer), or name them in pairs: pairs= (check --pair A=B)",
        )
    if not a:
        raise LayoutError("no recurrent layer to compare", "expected at least one on each side")
    for x, y in zip(a, b, strict=True):
        found = [(s.cell, s.input_size, s.hidden_size, s.state_size, s.directions) for s in (x.spec, y.spec)]
        if found[0] != found[1]:
            who = f"{labels([x])} and {labels([y])}"
            raise LayoutError(f"{who} are of different kinds", f"found {x.spec}; and {y.spec}")


def labels(layers: Sequence[Layer]) -> str:
    """The layers by name; one that stands alone has none."""
    return ", ".join(layer.label or "the layer" for layer in layers) or "none"


def for_both(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields of `ReadOptions` those that are about both sides."""
    return {name: value for name, value in options.items() if name in FOR_BOTH}
