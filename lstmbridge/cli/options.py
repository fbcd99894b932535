"""The options that several subcommands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lstmbridge.fit import DROPS
from lstmbridge.pipeline import DTYPES

__all__ = ["PATH", "as_json", "pair", "reading", "unsaid", "writing"]

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(dir_okay=True, path_type=str)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def pair(text: str, option: str, form: str = "OLD=NEW") -> tuple[str, str]:
    """What stands left and right of the sign in ``OLD=NEW``. Errors: a usage error of the option."""
    old, equals, new = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not {form}", param_hint=option)
    return old, new


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


#: What files do not say by themselves.
unsaid: Callable[[F], F] = _together(
    click.option(
        "--nonlinearity",
        type=click.Choice(["tanh", "relu"]),
        help="The activation of a vanilla RNN in a file that has no config.",
    ),
    click.option(
        "--forget-bias",
        "forget_constant",
        type=float,
        metavar="X",
        help="What a TensorFlow 1 cell adds to its forget gate at run time (1.0 is its default).",
    ),
    click.option("--reset-after/--reset-before", default=None, help="Of a GRU in a file that does not tell."),
    click.option("--layout", metavar="NAME", help="The file holds plain arrays in this layout."),
    click.option("--cell", type=click.Choice(["lstm", "gru", "rnn"]), help="With --layout: the cell."),
)

#: What is read of one file, and what it does not say.
reading: Callable[[F], F] = _together(
    click.option("--layer", "layers", multiple=True, metavar="PATH", help="Only the layers at or below this path."),
    click.option("--config", type=PATH, help="The model's config (JSON), for weights saved without one."),
    unsaid,
)

#: How a target is fitted and written.
writing: Callable[[F], F] = _together(
    click.option("--allow", multiple=True, metavar="X", help=f"Give something up by name: {', '.join(DROPS)}."),
    click.option(
        "--faithful", is_flag=True, help="Where no stock layer fits, use lstmbridge's own module that runs it."
    ),
    click.option("--stack", is_flag=True, help="Put layers that feed one another into one module with several levels."),
    click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights."),
    click.option("--batch-first/--time-major", default=None, help="Orientation of the target's sequences."),
    click.option("--opset", type=click.IntRange(7, 22), default=17, show_default=True, help="ONNX: the operator set."),
    click.option("--external-data", is_flag=True, help="ONNX: weights in a file beside it, whose name ends in .data."),
    click.option("--lengths", is_flag=True, help="ONNX: an input for the lengths of the sequences."),
    click.option("--initial", is_flag=True, help="ONNX: inputs for the initial states."),
)
