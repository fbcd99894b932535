"""lstmbridge inspect FILE."""

from __future__ import annotations

from collections.abc import Sequence
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
    if found.total and not brief:
        click.echo(found.total)
    left_alone(found.left_alone)


def _print(layer: LayerSummary) -> None:
    for name, told in layer.facts().items():
        click.echo(f"  {name + ':':13}{told if isinstance(told, str) else _wrapped(told)}")
    for columns, rows in (layer.counts(), layer.statistics()):
        first, *others = columns
        table("", (f"  {first}", *others), [(f"  {row[0]}", *row[1:]) for row in rows])
    click.echo()


def _wrapped(words: Sequence[str]) -> str:
    """Words with commas, four on a line."""
    lines = (", ".join(words[n : n + 4]) for n in range(0, len(words), 4))
    return f",\n{'':15}".join(lines)
