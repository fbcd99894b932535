"""lstmbridge inspect FILE."""

from __future__ import annotations

from typing import Any

import click

from lstmbridge.cli.common import emit, left_alone, refusing, show_notes, table, waiting
from lstmbridge.cli.options import PATH, as_json, reading
from lstmbridge.summary import LayerSummary, inspect

__all__ = ["command"]


@click.command("inspect", short_help="Show the layers in a file.")
@click.argument("file", type=PATH)
@reading
@click.option("--brief", is_flag=True, help="One line a layer.")
@as_json
@refusing
def command(file: str, as_json: bool, brief: bool, **options: Any) -> None:
    """Show what is in FILE: per layer its cell, sizes, directions, bias form, activations, parameters and gates."""
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
    left_alone(found.left_alone)


def _print(layer: LayerSummary) -> None:
    facts: dict[str, Any] = {
        "activations": layer.activations,
        "parameters": layer.formula,
        "dtype": layer.dtype,
        "stored as": layer.source,
        "reads": layer.after,
    }
    for name, value in facts.items():
        if value:
            click.echo(f"  {name + ':':13}{value}")
    if layer.nan or layer.inf:
        click.echo(f"  {'not finite:':13}{layer.nan} NaN, {layer.inf} infinite")
    columns = ("weight", "shape", "min", "max", "mean", "std", "NaN", "Inf")
    table("", columns, [_row(weight) for weight in layer.weights])
    click.echo()


def _row(weight: Any) -> tuple[str, ...]:
    numbers = (weight.minimum, weight.maximum, weight.mean, weight.deviation)
    shape = " x ".join(map(str, weight.shape))
    return (f"  {weight.name}", shape, *(f"{number:.4g}" for number in numbers), str(weight.nan), str(weight.inf))
