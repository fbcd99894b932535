"""lstmbridge layouts [NAME ...]."""

from __future__ import annotations

import click

from lstmbridge.cli.common import emit, refusing
from lstmbridge.cli.options import as_json
from lstmbridge.drawing import draw, layouts

__all__ = ["command"]


@click.command("layouts", short_help="Draw how frameworks store their weights.")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@as_json
@refusing
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Draw how frameworks store their weights: which block of which array is which gate.

    NAME is a framework or framework.cell, e.g. keras or torch.lstm; without one, all are drawn. Sizes are h (hidden),
    i (input) and p (state: h, or the projection's size).
    """
    found = layouts(names)
    if as_json:
        emit([each.as_json() for each in found])
    else:
        click.echo(draw(found))
