"""The command: one file a subcommand, each loaded when it is called."""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from lstmbridge import __version__

__all__ = ["main"]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or tensorflow prints what no user of this command asked for

COMMANDS = ("convert", "migrate", "run", "verify", "inspect", "plot", "check", "diff", "layouts")


class _Lazy(click.Group):
    """A group that imports a subcommand when it is asked for, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"lstmbridge.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from lstmbridge.errors import unknown

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(str(unknown("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Moves LSTM, GRU and RNN weights between deep-learning frameworks, and shows that they compute the same.

    \b
    lstmbridge convert model.keras model.safetensors --check
    lstmbridge inspect model.onnx
    lstmbridge check model.keras model.onnx
    lstmbridge migrate old/ new/ --to torch --check

    Exit codes: 0 done, 1 refused or disagreed, 2 usage.
    """
