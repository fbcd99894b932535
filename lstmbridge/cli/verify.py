"""lstmbridge verify OUT."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from lstmbridge import registry
from lstmbridge.certificate import SUFFIX, Verification, beside, load, verify
from lstmbridge.cli.common import emit, refusing, show_notes
from lstmbridge.cli.options import PATH, as_json
from lstmbridge.errors import FileError
from lstmbridge.jobs.journal import NAME

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
    if source is not None and not Path(source).exists():
        raise FileError(f"{source}: no such file or directory", "expected the source, or the directory of the sources")
    results = list(_verified(Path(output.removesuffix(SUFFIX)), None if source is None else Path(source)))
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
    found = {path.with_name(path.name.removesuffix(SUFFIX)) for path in output.rglob(f"*{SUFFIX}")}
    if not found:
        raise FileError(f"{output}: no certificate in it", "lstmbridge migrate writes one beside each output")
    for model in sorted(found | set(_uncertified(output)) | set(_journalled(output))):
        try:
            yield verify(model, _source_of(model, source))
        except FileError as error:
            yield Verification(str(model), (error.headline.removeprefix(f"{beside(model)}: "),), 0)


def _uncertified(output: Path) -> Iterator[Path]:
    """Models below a directory that no certificate stands beside; remainders, and what belongs to a job, are none."""
    suffixes = tuple(suffix for name in registry.names() for suffix in registry.framework(name).writes)
    for path in output.rglob("*"):
        if path.name.endswith(suffixes) and path.is_file() and not path.name.endswith(".remainder.safetensors"):
            yield path


def _journalled(output: Path) -> Iterator[Path]:
    """The outputs that a job's journal tells of."""
    journal = output / NAME
    if journal.is_file():
        with contextlib.closing(sqlite3.connect(f"{journal.resolve().as_uri()}?mode=ro", uri=True)) as database:
            question = "SELECT destination FROM files WHERE verdict IN ('done', 'reparameterised', 'lossy')"
            with contextlib.suppress(sqlite3.Error):
                yield from (output / name for (name,) in database.execute(question).fetchall())


def _source_of(output: Path, source: Path | None) -> Path | None:
    return None if source is None else source / load(beside(output))["source"]["name"]
