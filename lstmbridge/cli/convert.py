"""lstmbridge convert SRC DST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lstmbridge.cli.common import PATH, as_json, emit, left_alone, reading, refusing, show_notes, waiting
from lstmbridge.fit import DROPS
from lstmbridge.pipeline import DTYPES, Migration, Progress, migrate
from lstmbridge.remainder import Remainder

if TYPE_CHECKING:
    from lstmbridge.checking import Agreement

__all__ = ["command"]


@click.command("convert")
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@click.option("--to", metavar="F", help="The target framework, where DESTINATION's suffix does not say it (gates).")
@reading
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Give a layer, or all below a path, another path.")
@click.option("--check", "checked", is_flag=True, help="Run both sides first; write nothing if they disagree.")
@click.option("--allow", multiple=True, metavar="X", help=f"Give something up by name: {', '.join(DROPS)}.")
@click.option("--faithful", is_flag=True, help="Where no stock layer fits, use lstmbridge's own module that runs it.")
@click.option("--stack", is_flag=True, help="Put layers that feed one another into one module with several levels.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights.")
@click.option("--batch-first/--time-major", default=None, help="Orientation of the target's sequences.")
@click.option("--opset", type=click.IntRange(7, 22), default=17, show_default=True, help="ONNX: the operator set.")
@click.option("--external-data", is_flag=True, help="ONNX: weights in DESTINATION.data.")
@click.option("--lengths", is_flag=True, help="ONNX: an input for the lengths of the sequences.")
@click.option("--initial", is_flag=True, help="ONNX: inputs for the initial states.")
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
    """
    options["rename"] = dict(_pair(each) for each in rename)
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


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not OLD=NEW", param_hint="--rename")
    return old, new


def _approval(
    source: str, options: dict[str, Any], progress: Progress, agreements: list[Agreement]
) -> Callable[[Any], None]:
    """What looks at the finished file before it takes its place, and keeps the figures."""
    from lstmbridge.checking import check

    def approve(written: Any) -> None:
        given = {"layers": options["layers"], "nonlinearity": options["nonlinearity"]}
        agreements.append(check(source, written, progress=progress, **given).demand())

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
