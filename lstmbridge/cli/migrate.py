"""lstmbridge migrate SRC DST."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import IO, TYPE_CHECKING, Any

import click

from lstmbridge.cli.common import refusing
from lstmbridge.cli.options import PATH, as_json, unsaid, writing
from lstmbridge.errors import listed

if TYPE_CHECKING:
    from lstmbridge.jobs import Job, Record, Summary

__all__ = ["command", "show"]

_CHANGES, _NAMED = 8, 3  # so many kinds of changes are told, each with so many files
_MANY = 20  # so many files without an output are named at the end; the report names all of them


@click.command("migrate", short_help="Convert a directory or bucket of models, each proved and certified.")
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@click.option("--to", required=True, metavar="F", help="The target framework: keras, torch, onnx, gates.")
@click.option("--suffix", metavar="S", help="Suffix of the outputs, where the framework has several (.pt).")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these files: '**/*.h5', '*.pt', 'shop/**'.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these files.")
@click.option("--check", is_flag=True, help="Prove every file: run both sides; no output where they disagree.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers; as many as there are cores by default.")
@click.option("--engine", default="local", show_default=True, metavar="E",
              help="Where the workers are: local, dask://HOST:PORT, ray://HOST:PORT.")  # fmt: skip
@click.option("--timeout", type=float, default=900.0, show_default=True, help="Seconds that one file may take.")
@click.option(
    "--dry-run", "dry", is_flag=True, help="Do everything but write: which file would become what, and why not."
)
@click.option("--resume", is_flag=True, help="Go on with an earlier job: what is done is not done again.")
@click.option("--force", is_flag=True, help="Overwrite files in DESTINATION that no job of lstmbridge made.")
@writing
@click.option(
    "--remainder", is_flag=True, help="Beside each output that was reparameterised, what leads back bit for bit."
)
@unsaid
@as_json
@refusing
def command(dry: bool, resume: bool, as_json: bool, **options: Any) -> None:
    """Convert every model below SOURCE, and put the outputs under the same names below DESTINATION.

    Both are directories or URLs (s3://bucket/models, gs://..., with the fsspec driver installed). Every file gets a
    verdict: done, reparameterised (the same function, some numbers merged), refused (why), unreadable (why), skipped
    (already done). One bad file never stops the job.

    Beside each output stands its certificate, which `lstmbridge verify` checks again later; DESTINATION also has the
    journal (.lstmbridge/journal.sqlite) and lstmbridge-report.html. A job that was killed goes on with --resume.

    \b
    lstmbridge migrate old/ new/ --to torch --include '**/*.h5' --check
    lstmbridge migrate old/ new/ --to torch --check --resume

    Exit codes: 0 every file has an output, 1 some have none, 2 usage, 130 interrupted.
    """
    from lstmbridge.jobs import Job

    sys.exit(show(Job(**options), dry=dry, resume=resume, as_json=as_json))


def show(job: Job, *, dry: bool, resume: bool, as_json: bool, name: str | None = None) -> int:
    """Runs a job, shows how far it is and what came of it; gives the exit code. `name` stands in its JSON lines."""
    from lstmbridge.jobs import run

    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)  # loky renewed one
    also = {"job": name} if name is not None else {}
    output = sys.stdout  # for what is meant for it: clusters print there, too
    with redirect_stdout(sys.stderr), _lines(output, also) if as_json else _bar(job) as watch:
        summary = run(job, dry=dry, resume=resume, watch=watch)
    if as_json:
        _line({**also, "summary": summary.as_json()})
    else:
        _print(summary)
    return 130 if summary.interrupted else 0 if summary.complete else 1


Watch = Callable[["Record", int, int], None]


def _line(data: dict[str, Any], output: IO[str] | None = None) -> None:
    import json

    click.echo(json.dumps(data), file=output)


@contextmanager
def _lines(output: IO[str], also: dict[str, str]) -> Iterator[Watch]:
    yield lambda record, done, total: _line({**also, **record.as_json()}, output)


@contextmanager
def _bar(job: Job) -> Iterator[Watch]:
    """A bar with files a second and the time left, on a terminal; else a line now and then."""
    if not sys.stderr.isatty():
        yield _Now()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"migrating to {job.to}", total=None, rate="")
        rate, bad = _Rate(), 0

        def watch(record: Record, done: int, total: int) -> None:
            nonlocal bad
            bad += record.verdict in ("refused", "unreadable", "disagreed", "unwritten")
            now = rate.after(record)
            words = [*([f"{now:.1f} files/s"] if now else []), *([f"{bad} without output"] if bad else [])]
            progress.update(task, completed=done, total=total, rate=", ".join(words))

        yield watch


class _Now:
    """For a log: a line every ten seconds, and none for a job that is shorter."""

    def __init__(self) -> None:
        self.last, self.rate = time.monotonic(), _Rate()

    def __call__(self, record: Record, done: int, total: int) -> None:
        now, rate = time.monotonic(), self.rate.after(record)
        if now - self.last >= 10:
            self.last = now
            left = f", {rate:.1f} files/s, {(total - done) / rate:.0f} s left" if rate else ""
            click.echo(f"{done} of {total} files{left}", err=True)


class _Rate:
    """Files a second since the first was made: neither the start of the workers counts, nor what was done before."""

    def __init__(self) -> None:
        self.begun, self.made = 0.0, -1

    def after(self, record: Record) -> float:
        """The rate, this file counted; 0.0 until there are two."""
        now = time.monotonic()
        if record.verdict != "skipped":
            self.made += 1
            self.begun = self.begun or now
        return self.made / max(now - self.begun, 1e-3) if self.made > 0 else 0.0


def _print_check(checked: Sequence[Record]) -> None:
    """What the check measured, and for how many files the equations had to stand in for a framework."""
    measured = [(record.largest, record.source) for record in checked if record.largest is not None]
    if not measured:
        return
    largest, source = max(measured)
    click.echo(f"largest difference between source and target: {largest:.2g} ({source})")
    stood_in = sum(
        "by the reference" in f"{each.agreement['a']} {each.agreement['b']}" for each in checked if each.agreement
    )
    if stood_in:
        click.echo(
            f"in {stood_in} of {len(checked)} files the equations stood in for a framework that does not run the file"
        )


def _print_changes(changed: Sequence[Record]) -> None:
    """What was done to layers that are not just as they were: in how many files, and in which, where they are few."""
    files: dict[str, list[str]] = {}
    for record in changed:
        layers = [layer for layer in record.layers if layer.get("verdict") == record.verdict]
        for note in dict.fromkeys(note for layer in layers for note in layer.get("notes", ())):
            files.setdefault(note, []).append(record.source)
    for note, names in sorted(files.items(), key=lambda item: -len(item[1]))[:_CHANGES]:
        click.echo(f"       {note}: {listed(names, _NAMED)}")


def _print(summary: Summary) -> None:
    """The files without an output, with the reason; then what became of how many."""
    from lstmbridge.jobs import VERDICTS

    bad = [record for record in summary.records if record.why]
    for record in bad[:_MANY]:
        click.echo(f"{record.verdict}: {record.source}: {record.why}")
    if len(bad) > _MANY:
        click.echo(f"... and {len(bad) - _MANY} more without an output")
    for note in dict.fromkeys(summary.notes):
        click.echo(f"note: {note}", err=True)
    if not summary.records and not summary.interrupted:
        click.echo("no file that lstmbridge reads; --include PATTERN takes others, too")
    for verdict, count in summary.counts.items():
        click.echo(f"{count:6} {verdict}: {VERDICTS[verdict]}")
        if verdict in ("reparameterised", "lossy"):
            _print_changes([record for record in summary.records if record.verdict == verdict])
    _print_check([record for record in summary.records if record.agreement])
    end = "would have taken" if summary.dry else "interrupted after" if summary.interrupted else "took"
    made = sum(record.verdict != "skipped" for record in summary.records)
    rate = f", {made / summary.seconds:.1f} files/s" if made and not summary.dry else ""
    click.echo(f"{end} {summary.seconds:.1f} s{rate}" if not summary.dry else "nothing was written (--dry-run)")
    if summary.interrupted:
        click.echo("go on with --resume")
    if summary.report:
        click.echo(f"report: {summary.report}")
