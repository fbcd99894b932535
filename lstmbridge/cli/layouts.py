"""lstmbridge layouts [NAME ...]."""

from __future__ import annotations

import click

from lstmbridge.cli.common import emit, refusing
from lstmbridge.cli.options import as_json
from lstmbridge.drawing import draw, layouts

__all__ = ["command"]


@click.command("layouts", short_help="Draw how frameworks store weights and states.")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@as_json
@refusing
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Draw how frameworks store their weights, which block of which array is which gate, and their states.

    NAME is a framework, framework.cell or framework.states, e.g. keras, torch.lstm or onnx.states; without one, all are
    drawn. Sizes are h (hidden), i (input), p (state: h, or the projection's size) and b (batch).
    """
    found = layouts(names)
    if as_json:
        emit([each.as_json() for each in found])
    else:
        click.echo(draw(found))
