"""lstmbridge convert SRC DST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lstmbridge.cli.common import emit, left_alone, refusing, show_notes, waiting
from lstmbridge.cli.options import PATH, as_json, pair, reading, writing
from lstmbridge.errors import Disagreement
from lstmbridge.into import Into
from lstmbridge.pipeline import Migration, Progress, migrate
from lstmbridge.remainder import Remainder

if TYPE_CHECKING:
    from lstmbridge.checking import Agreement

__all__ = ["command"]


@click.command("convert", short_help="Convert the recurrent layers of one file.")
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@click.option("--to", metavar="F", help="The target framework, where DESTINATION's suffix does not say it (gates).")
@reading
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Give a layer, or all below a path, another path.")
@click.option("--into", type=PATH, metavar="EXISTING", help="Copy EXISTING, with these layers in place of its own.")
@click.option("--check", "checked", is_flag=True, help="Run both sides first; write nothing if they disagree.")
@writing
@click.option("--remainder", type=PATH, help="Write what leads back bit for bit to this file.")
@click.option("--restore", type=PATH, help="Go back: SOURCE was made by a conversion that wrote this remainder.")
@click.option("--force", is_flag=True, help="Overwrite DESTINATION.")
@as_json
@refusing
def command(
    source: str,
    destination: str,
    rename: Sequence[str],
    checked: bool,
    remainder: str | None,
    restore: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert the recurrent layers of SOURCE into the file DESTINATION.

    The suffixes say the frameworks: .keras .h5 .weights.h5 (keras), .safetensors .pt .pth (torch), .onnx (onnx), .npz
    (gates). Every layer gets a line: exact, reparameterised (the same function, other numbers), or lossy (something
    given up by name). If a layer is refused nothing is written.

    With --into, DESTINATION is a copy of EXISTING, a whole model or checkpoint. Each layer takes the place of the one
    there of its own name, of the one that --rename says, or of the only one it can be; all else stays as it is, byte
    for byte. To change EXISTING itself, name it as DESTINATION, too, with --force.
    """
    options["rename"] = dict(pair(each, "--rename") for each in rename)
    agreements: list[Agreement] = []
    with waiting(f"converting {source}") as progress:
        approve = _approval(source, options, progress, agreements) if checked else None
        back = Remainder.load(restore) if restore else None
        options |= {"remainder": back, "remainder_path": remainder, "progress": progress, "approve": approve}
        done = migrate(source, path=destination, **options)
    if as_json:
        emit(_document(done, agreements))
    else:
        _print(done, agreements)


def _approval(
    source: str, options: dict[str, Any], progress: Progress, agreements: list[Agreement]
) -> Callable[[Any], None]:
    """What looks at the finished file before it takes its place, and keeps the figures."""
    from lstmbridge.checking import check

    def approve(written: Any) -> None:
        names = ("layers", "nonlinearity", "forget_constant", "reset_after", "config", "layout", "cell")
        given = {name: options[name] for name in names}
        if isinstance(written, Into):
            given["pairs"], written = written.pairs, written.path
        found = check(source, written, progress=progress, **given)
        if not found.agrees and options["allow"]:
            way = "leave out --check, or --allow"
            raise Disagreement("what --allow gives up changes the outputs", way, *found.lines())
        agreements.append(found.demand())

    return approve


def _print(done: Migration, agreements: Sequence[Agreement]) -> None:
    show_notes((*done.notes, *(note for agreement in agreements for note in agreement.notes)))
    for report in done.reports:
        click.echo(str(report))
    left_alone(done.left_alone)
    for agreement in agreements:
        click.echo(str(agreement))
    click.echo(f"wrote {done.result}")


def _document(done: Migration, agreements: Sequence[Agreement]) -> dict[str, Any]:
    return {
        "destination": str(done.result),
        "layers": [asdict(report) for report in done.reports],
        "left_alone": list(done.left_alone),
        "notes": list(done.notes),
        "check": [agreement.as_json() for agreement in agreements],
    }
