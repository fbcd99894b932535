"""lstmbridge plot MODEL -o OUT."""

from __future__ import annotations

from typing import Any

import click

from lstmbridge.cli.common import emit, refusing, show_notes, waiting
from lstmbridge.cli.options import PATH, as_json, reading
from lstmbridge.plotting import plot

__all__ = ["command"]


@click.command("plot", short_help="Draw the weights of a file, gate by gate.")
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="What to write: .html .png .svg or .pdf.")
@reading
@click.option("--force", is_flag=True, help="Overwrite the output.")
@as_json
@refusing
def command(file: str, output: str, as_json: bool, **options: Any) -> None:
    """Draw the weights of FILE: for each layer and direction a sheet.

    On a sheet are maps of each gate's kernel and recurrent kernel on one scale of colours, histograms of them, the
    biases, the singular values of the recurrent kernels with their spectral radius, and how the forget bias is
    distributed, with what is added to it at run time. An .html file also has what `lstmbridge inspect` says. A .png or
    .svg has one sheet under another, a .pdf a page for each.

    Needs matplotlib: pip install 'lstmbridge[plot]'. With --json the numbers are on standard output, too.

    \b
    lstmbridge plot model.keras -o model.html
    lstmbridge plot model.onnx -o encoder.png --layer encoder
    """
    with waiting(f"drawing {file}") as progress:
        drawn = plot(file, output, progress=progress, **options)
    if as_json:
        emit({"path": str(drawn.path), "sheets": [each.as_json() for each in drawn.sheets], "notes": list(drawn.notes)})
        return
    show_notes(drawn.notes)
    for sheet in drawn.sheets:
        click.echo(f"{sheet.title}: {sheet.spec}{sheet.warning}")
    click.echo(f"wrote {drawn.path}")
