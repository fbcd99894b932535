"""lstmbridge verify OUT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from lstmbridge.certificate import SUFFIX, Verification, verify
from lstmbridge.cli.common import emit, refusing, show_notes
from lstmbridge.cli.options import PATH, as_json
from lstmbridge.errors import FileError

__all__ = ["command"]


@click.command("verify", short_help="Check outputs against their certificates.")
@click.argument("output", type=PATH)
@click.option(
    "--source", type=PATH, help="Also look at the source: a file, or for a directory of outputs its directory."
)
@as_json
@refusing
def command(output: str, source: str | None, as_json: bool) -> None:
    """Check OUTPUT against the certificate beside it: bytes, every weight, every Spec.

    OUTPUT is a file that `lstmbridge migrate` wrote, or a directory of such files. Exit codes: 0 all is as certified,
    1 something is not, 2 usage.
    """
    results = list(_verified(Path(output), None if source is None else Path(source)))
    bad = [each for each in results if not each.holds]
    if as_json:
        emit(
            {"verified": len(results) - len(bad), "not_as_certified": len(bad), "outputs": [asdict(r) for r in results]}
        )
    else:
        show_notes([f"{each.output}: {note}" for each in results for note in each.notes])
        for each in bad:
            click.echo(f"{each.output}: not as certified")
            for problem in each.problems:
                click.echo(f"  {problem}")
        compared = sum(each.compared for each in results)
        click.echo(f"{len(results) - len(bad)} of {len(results)} as certified ({compared} files and tensors compared)")
    sys.exit(1 if bad else 0)


def _verified(output: Path, source: Path | None) -> Iterator[Verification]:
    if not output.is_dir():
        yield verify(output, source)
        return
    found = sorted(output.rglob(f"*{SUFFIX}"))
    if not found:
        raise FileError(f"{output}: no certificate in it", "lstmbridge migrate writes one beside each output")
    for path in found:
        model = path.with_name(path.name.removesuffix(SUFFIX))
        yield verify(model, _source_of(path, source))


def _source_of(certificate: Path, source: Path | None) -> Path | None:
    from lstmbridge.certificate import load

    return None if source is None else source / load(certificate)["source"]["name"]
