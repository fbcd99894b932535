"""What the subcommands share: output, errors, and the bar for work that takes longer than a second."""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from lstmbridge.errors import Ambiguous, BridgeError, OptionError, UnknownName, listed

__all__ = ["emit", "exit_code", "left_alone", "refusing", "show_notes", "table", "waiting"]

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 6


def emit(data: Any) -> None:
    """One JSON document on standard output; NaN and infinity as null."""
    click.echo(json.dumps(_finite(data), indent=2))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not abs(data) < float("inf") else data


def exit_code(error: BridgeError) -> int:
    """2 for what the caller must say otherwise, 1 for everything else."""
    return 2 if isinstance(error, UnknownName | Ambiguous | OptionError) else 1


def refusing(function: F) -> F:
    """A command whose errors are one clear message on standard error (with --json, a document) and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BridgeError as error:
            if kwargs.get("as_json"):
                document = {"error": type(error).__name__, "message": error.headline, "details": list(error.details)}
                emit(document)
            else:
                click.echo(f"error: {error}", err=True)
            sys.exit(exit_code(error))

    return run  # type: ignore[return-value]


def show_notes(notes: Sequence[str]) -> None:
    """Each note on a line of its own, once, on standard error."""
    for note in dict.fromkeys(notes):
        click.echo(f"note: {note}", err=True)


def left_alone(names: Sequence[str]) -> None:
    """How many other weights there are, and the first of them; --json has them all."""
    if names:
        click.echo(f"left alone: {len(names)} other weights: {listed(names, _SHOWN)}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for n, column in enumerate(columns):
        drawn.add_column(column, justify="left" if n < 2 else "right", no_wrap=n == 0, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False, markup=False, emoji=False).print(drawn)


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar on a terminal once the block has taken a second.

    Gives a function (what, done, total) that the work calls as it goes.
    """
    state = _State(text)
    timer = threading.Timer(1.0, state.show)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield state.update
    finally:
        timer.cancel()
        state.close()


class _State:
    """The bar, which is there only once it is shown."""

    def __init__(self, text: str) -> None:
        self.now: tuple[str, int, int] = (text, 0, 0)
        self.lock = threading.Lock()
        self.bar: Any = None
        self.task: Any = None

    def show(self) -> None:
        """Starts the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        with self.lock:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.now[0], total=self.now[2] or None, completed=self.now[1])
            self.bar.start()

    def update(self, what: str, done: int, total: int) -> None:
        """Notes how far the work is."""
        with self.lock:
            self.now = (what, done, total)
            if self.bar is not None:
                self.bar.update(self.task, description=what, completed=done, total=total or None)

    def close(self) -> None:
        """Takes the bar away."""
        with self.lock:
            if self.bar is not None:
                self.bar.stop()
