"""From TensorFlow 1's cells to layers: what the names say, what the graph says, and what must be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from lstmbridge.contract import ReadOptions
from lstmbridge.errors import Ambiguous, LayoutError, unknown
from lstmbridge.frameworks.tf1.cells import Cell, Group
from lstmbridge.frameworks.tf1.layout import CUDNN_GRU, spec_of
from lstmbridge.layer import Layer
from lstmbridge.spec import Spec

__all__ = ["Source", "Traced", "layers_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Traced:
    """What the graph does with one cell's variables: fields of the Spec, and how that is known, for a note."""

    features: Mapping[str, Any]
    note: str


@dataclass(frozen=True)
class Source:
    """A file's variables: how to get one, and what its graph does with a cell, by the variable of its kernel."""

    where: str
    fetch: Callable[[str], Array]
    traced: Mapping[str, Traced] = field(default_factory=dict)


def layers_of(found: list[Group], source: Source, options: ReadOptions) -> tuple[list[Layer], list[str]]:
    """Every layer, with what is to be said about them.

    Errors: Ambiguous for an LSTM whose forget constant nobody says; LayoutError for arrays that do not fit together;
    UnknownName if layers were asked for, and none of them is there.
    """
    layers: list[Layer] = []
    notes: list[str] = []
    for group in found:
        if not _wanted(group, options):
            continue
        parts = {direction: _part(cell, source, options) for direction, cell in group.cells.items()}
        layer = _layer(group, parts, options)
        before = layers[-1] if layers else None
        if before is not None and _feeds(before, layer):
            layer = layer.replace(after=before.label)
        layers.append(layer)
        notes += [f"{group.label}: {note}" for note in _notes(group, source)]
    if found and not layers:
        raise unknown("layer", options.only[0], [group.label for group in found])
    return layers, notes


def _wanted(group: Group, options: ReadOptions) -> bool:
    """Whether a layer is, or stands below, one of those asked for (none: all are)."""
    return not options.only or any(
        each in (group.label, group.path) or group.path.startswith(f"{each}.") for each in options.only
    )


def _feeds(before: Layer, layer: Layer) -> bool:
    """Whether a layer reads the one before: the next level of one stack, of the size that goes in."""
    same = before.path == layer.path and before.level is not None and layer.level == before.level + 1
    return same and before.spec.output_size == layer.spec.input_size


# ---- one cell


def _part(cell: Cell, source: Source, options: ReadOptions) -> tuple[Spec, dict[str, Array]]:
    """The Spec of one direction, as if it were forward, and its weights."""
    who = f"{source.where}: tf1 {cell.kind} {cell.scope!r}"
    arrays = {key: source.fetch(name) for key, name in cell.variables.items()}
    spec = spec_of(cell.layout, arrays, _features(cell, source, options, who), who)
    return spec, cell.layout.unpack(arrays, spec, who=who)


def _features(cell: Cell, source: Source, options: ReadOptions, who: str) -> dict[str, Any]:
    """The fields of the Spec that no array tells."""
    traced = source.traced.get(_kernel(cell))
    features = {**(traced.features if traced else {}), **cell.features}
    if cell.layout.cell == "rnn" and traced is None and options.nonlinearity:
        features["activations"] = (options.nonlinearity,)
    if cell.layout.cell != "lstm":
        return features
    told = options.forget_constant
    if "forget_constant" not in features:
        if told is None:
            raise Ambiguous(
                f"{who}: its forget_bias is in no variable",
                "say what the cell was made with: forget_constant=1.0 (--forget-bias 1.0) is TensorFlow's default",
            )
        return {**features, "forget_constant": told}
    known = features["forget_constant"]
    if traced is not None and told is not None and told != known:
        raise LayoutError(f"{who}: the graph adds {known:g} to the forget gate", f"told: forget_constant={told:g}")
    return features


# ---- one layer


def _layer(group: Group, parts: Mapping[str, tuple[Spec, dict[str, Array]]], options: ReadOptions) -> Layer:
    """The directions of a layer together."""
    specs = [spec for spec, _ in parts.values()]
    if len(specs) == 2 and specs[0] != specs[1]:
        raise LayoutError(
            f"{group.label}: its two directions differ: {specs[0]}; {specs[1]}", "expected the same of both"
        )
    weights = {
        name.replace("forward.", f"{direction}.", 1): array
        for direction, (_, arrays) in parts.items()
        for name, array in arrays.items()
    }
    first = next(iter(group.cells.values()))
    metadata = {
        "framework": "tf1",
        "class": first.kind,
        "batch_first": True if options.batch_first is None else options.batch_first,
        "variables": {direction: dict(cell.variables) for direction, cell in group.cells.items()},
    }
    spec = specs[0].replace(directions=tuple(parts))
    return Layer(spec=spec, weights=weights, path=group.path, level=group.level, metadata=metadata)


def _notes(group: Group, source: Source) -> Iterator[str]:
    """What is to be said about a layer that its Spec does not say; its directions are alike."""
    cell = next(iter(group.cells.values()))
    traced = source.traced.get(_kernel(cell))
    if traced is not None:
        yield traced.note
    else:
        clips = " and no clip of cell or projection" if cell.layout.cell == "lstm" else ""
        yield f"assumed, since variables do not say it: TensorFlow's default activations{clips}"
    if cell.features.get("forget_constant") == 0.0:
        yield f"a {cell.kind} adds nothing to its forget gate"
    if cell.layout is CUDNN_GRU:
        yield "its recurrent biases of r and z are zeros: the cell has one bias for each, summed from cuDNN's two"
    if len(group.cells) == 2 and group.level is None:
        yield "assumed: the outputs of its two directions are put together by concat"


def _kernel(cell: Cell) -> str:
    """The variable by which the graph's step of a cell is known."""
    return cell.variables.get("kernel", cell.variables.get("gates/kernel", ""))
