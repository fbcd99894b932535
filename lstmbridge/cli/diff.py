"""lstmbridge diff A B."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from lstmbridge.cli.common import emit, refusing, table, waiting
from lstmbridge.cli.options import PATH, as_json, reading
from lstmbridge.difference import diff

__all__ = ["command"]


@click.command("diff", short_help="Compare the weights of two files, gate by gate.")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@reading
@click.option("--all", "everything", is_flag=True, help="List the weights that are the same, too.")
@as_json
@refusing
def command(a: str, b: str, as_json: bool, everything: bool, **options: Any) -> None:
    """Compare the weights of A and B gate by gate, whatever their two layouts are; nothing is run."""
    with waiting(f"comparing {a} with {b}"):
        found = diff(a, b, **options)
    different = [each for each in found if not each.same]
    if as_json:
        emit({"same": not different, "weights": [{**asdict(each), "same": each.same} for each in found]})
    else:
        shown = found if everything else different
        rows = [(e.layer, e.weight, f"{e.differing} of {e.size}", f"{e.largest:.3g}") for e in shown]
        if rows:
            table("", ("layer", "weight", "numbers that differ", "largest difference"), rows)
        click.echo(f"{len(found) - len(different)} weights are the same, {len(different)} differ")
    sys.exit(1 if different else 0)
