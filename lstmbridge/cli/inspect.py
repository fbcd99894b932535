"""lstmbridge inspect FILE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from lstmbridge.cli.common import emit, left_alone, refusing, show_notes, table, waiting
from lstmbridge.cli.options import PATH, as_json, reading
from lstmbridge.summary import LayerSummary, Summary, WeightSummary, inspect

__all__ = ["command"]


@click.command("inspect", short_help="Show the layers in a file.")
@click.argument("file", type=PATH)
@reading
@click.option("--brief", is_flag=True, help="One line a layer.")
@as_json
@refusing
def command(file: str, as_json: bool, brief: bool, **options: Any) -> None:
    """Show what is in FILE: per layer its cell, dimensions, directions, bias form, activations, parameters and gates.

    The parameters are counted with their formula, part by part and gate by gate; both directions count together. i is
    the input gate, f the forget gate, g the cell candidate, o the output gate; r reset, z update, n new.
    """
    with waiting(f"reading {file}"):
        found = inspect(file, **options)
    if as_json:
        emit(found.as_json())
        return
    show_notes(found.notes)
    for layer in found.layers:
        click.echo(f"{layer.label or 'layer'}: {layer.spec}")
        if not brief:
            _print(layer)
    if not brief and len(found.layers) > 1:
        click.echo(_sum(found))
    left_alone(found.left_alone)


def _print(layer: LayerSummary) -> None:
    facts: dict[str, Any] = {
        "activations": layer.activations,
        "dimensions": _dimensions(layer),
        "parameters": layer.formula,
        "dtype": layer.dtype,
        "stored as": layer.source,
        "arrays": _arrays(layer),
        "reads": layer.after,
        "not used": "what belongs to f: the forget gate is 1 - i (coupled)" if layer.spec.coupled else None,
        "not finite": f"{layer.nan} NaN, {layer.inf} infinite" if layer.nan or layer.inf else None,
    }
    for name, value in facts.items():
        if value:
            click.echo(f"  {name + ':':13}{value}")
    table("", ("  part", "formula", *layer.spec.gates, "numbers"), list(_counts(layer)))
    columns = ("  weight", "shape", "min", "max", "mean", "std", "NaN", "Inf")
    table("", columns, [_row(weight) for weight in layer.weights])
    click.echo()


def _dimensions(layer: LayerSummary) -> str:
    spec = layer.spec
    words = [f"input {spec.input_size}", f"hidden {spec.hidden_size}"]
    words += [] if spec.projection_size is None else [f"projection {spec.projection_size}"]
    told = f"both directions, {spec.merge}" if spec.bidirectional else spec.directions[0]
    apart = "of each direction" if spec.bidirectional and spec.merge == "none" else f"({told})"
    return ", ".join([*words, f"output {spec.output_size} {apart}"])


def _arrays(layer: LayerSummary) -> str:
    """Each array with its shape, four on a line."""
    words = [f"{name} {shape}" for name, shape in layer.arrays.items()]
    lines = (", ".join(words[n : n + 4]) for n in range(0, len(words), 4))
    return f",\n{'':15}".join(lines)


def _counts(layer: LayerSummary) -> Iterator[tuple[str, ...]]:
    """A row a part, then their sum."""
    gates = layer.spec.gates
    for part in layer.parts:
        shares = (f"{part.gates[gate]:,}" if gate in part.gates else "" for gate in gates)
        yield (f"  {part.part}", part.formula, *shares, f"{part.numbers:,}")
    yield ("  all", "", *(f"{layer.gates[gate]:,}" for gate in gates), f"{layer.parameters:,}")


def _sum(found: Summary) -> str:
    terms = " + ".join(f"{layer.parameters:,}" for layer in found.layers)
    return f"all {len(found.layers)} layers: {terms} = {found.parameters:,} parameters"


def _row(weight: WeightSummary) -> tuple[str, ...]:
    numbers = (weight.minimum, weight.maximum, weight.mean, weight.deviation)
    shape = " x ".join(map(str, weight.shape))
    return (f"  {weight.name}", shape, *(f"{number:.4g}" for number in numbers), str(weight.nan), str(weight.inf))
