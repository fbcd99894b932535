"""lstmbridge layouts [NAME ...]."""

from __future__ import annotations

import click

from lstmbridge.cli.common import emit, refusing
from lstmbridge.cli.options import as_json, pair
from lstmbridge.drawing import draw, layouts

__all__ = ["command"]


@click.command("layouts", short_help="Draw how frameworks store their weights.")
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--sizes", metavar="input=I,hidden=H[,projection=P]", help="Slices in numbers: of arrays of these sizes.")
@as_json
@refusing
def command(names: tuple[str, ...], sizes: str | None, as_json: bool) -> None:
    """Draw how frameworks store their weights: which block of which array is which gate.

    NAME is a framework or framework.cell, e.g. keras or torch.lstm; without one, all are drawn. In each box stand the
    gate and the slice that takes it out. Sizes are h (hidden), i (input) and p (state: h, or the projection's size);
    with --sizes the slices are numbers, for numpy: kernel[:, 128:256].

    \b
    lstmbridge layouts keras torch.gru
    lstmbridge layouts keras.lstm --sizes input=300,hidden=128
    """
    found = layouts(names, _sizes(sizes))
    if as_json:
        emit([each.as_json() for each in found])
    else:
        click.echo(draw(found))


def _sizes(text: str | None) -> dict[str, int]:
    """The sizes that an option says. Errors: a usage error of the option."""
    found: dict[str, int] = {}
    for each in text.split(",") if text else ():
        name, value = pair(each.strip(), "--sizes", "NAME=SIZE")
        if not value.strip().isdecimal() or name in found:
            problem = "given twice" if name in found else f"{value!r}, and no whole number"
            raise click.BadParameter(f"{name} is {problem}", param_hint="--sizes")
        found[name] = int(value)
    return found
