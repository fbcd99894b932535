"""lstmbridge run jobs.toml."""

from __future__ import annotations

import sys

import click

from lstmbridge.cli.common import refusing
from lstmbridge.cli.options import as_json
from lstmbridge.errors import BridgeError, unknown

__all__ = ["command"]


@click.command("run", short_help="Run the migration jobs of jobs.toml.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=str), default="jobs.toml")
@click.option("--only", multiple=True, metavar="NAME", help="Only the jobs of these names.")
@click.option("--dry-run", "dry", is_flag=True, help="Do everything but write.")
@as_json
@refusing
def command(file: str, only: tuple[str, ...], dry: bool, as_json: bool) -> None:
    """Run the migration jobs of FILE (jobs.toml), one after another; each goes on where it was.

    \b
    [defaults]
    to = "torch"
    check = true
    \b
    [[job]]
    name = "shops"
    source = "models/shops"
    destination = "converted/shops"
    include = ["**/*.h5"]

    The fields are those of lstmbridge.jobs.Job: the options of `lstmbridge migrate` with _ for -, but forget_constant
    for --forget-bias, and batch_first and reset_after, true or false. The file's fields are looked at before the first
    job begins; a job that cannot be run does not keep the others. The exit code is the largest of the jobs'.
    """
    from lstmbridge.cli.migrate import show
    from lstmbridge.jobs.recipes import load

    jobs = load(file)
    for name in only:
        if name not in jobs:
            raise unknown("job", name, jobs)
    codes = [0]
    for name, job in jobs.items():
        if only and name not in only:
            continue
        if not as_json:
            click.echo(f"{name}: {job.source} -> {job.destination}")
        try:
            codes.append(show(job, dry=dry, resume=True, as_json=as_json, name=name))
        except BridgeError as error:  # the other jobs go on
            click.echo(f"error: {name}: {error}", err=True)
            codes.append(1)
        if codes[-1] == 130:
            break
    sys.exit(max(codes))
