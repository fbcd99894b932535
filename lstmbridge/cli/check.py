"""lstmbridge check A B."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from lstmbridge.checking import Agreement, check
from lstmbridge.cli.common import emit, refusing, show_notes, table, waiting
from lstmbridge.cli.options import PATH, as_json, pair, reading

__all__ = ["command"]


@click.command("check", short_help="Run two files on the same sequences and compare.")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@reading
@click.option("--pair", "pairs", multiple=True, metavar="A=B", help="Compare layer A of A with layer B of B, only.")
@click.option("--batch", type=click.IntRange(1), default=3, show_default=True, help="How many sequences.")
@click.option("--time", type=click.IntRange(1), default=17, show_default=True, help="How many steps in each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random sequences and states.")
@click.option("--length", "lengths", type=int, multiple=True, help="Length of a sequence; once for each of the batch.")
@as_json
@refusing
def command(
    a: str, b: str, as_json: bool, lengths: Sequence[int], batch: int, pairs: Sequence[str], **options: object
) -> None:
    """Run A, B and the reference on the same sequences: the largest difference of y, h and c, layer by layer.

    Each file is run by its own framework; where that is not installed the reference stands in, and it is said.
    """
    with waiting(f"checking {a} against {b}") as progress:
        batch = len(lengths) if lengths else batch
        options["pairs"] = dict(pair(each, "--pair") for each in pairs) or None
        found = check(a, b, batch=batch, lengths=list(lengths) or None, progress=progress, **options)  # type: ignore[arg-type]
    if as_json:
        emit(found.as_json())
    else:
        _print(found)
    sys.exit(0 if found.agrees else 1)


def _print(found: Agreement) -> None:
    show_notes(found.notes)
    columns = ("layer", "output", f"{found.a} - {found.b}", f"{found.a} - reference", f"{found.b} - reference",
               "allowed", "")  # fmt: skip
    rows = [
        (
            row.layer or "layer",
            row.output,
            *(f"{each.largest:.2e}" for each in (row.a_b, row.a_reference, row.b_reference)),
            f"{row.allowed:.3g}",
            row.verdict(found.a, found.b),
        )
        for row in found.rows
    ]
    table("", columns, rows)
    click.echo("agree" if found.agrees else "do not agree")
