"""Where a finished file takes its place: all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lstmbridge.errors import BridgeError, FileError

__all__ = ["atomic", "plainly"]


@contextmanager
def atomic(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """A path to write to; what is there when the block ends takes its place at `destination`, all of it or nothing.

    Files that begin with the same name (external data) move along, before the main file. Errors: FileError if the
    destination exists and `force` is false, or cannot be written.
    """
    _check_free(destination, force)
    if not destination.parent.is_dir():
        raise FileError(f"{destination.parent}: no such directory", "make it first")
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise FileError(f"{destination} cannot be written", f"found: {error.strerror or error}") from error
    try:
        with _explained(destination):
            yield staging / destination.name
            _move(staging, destination, force)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, destination: Path, force: bool) -> None:
    """Moves the finished files into their places, those that go on from the main file's name first."""
    files = sorted(staging.iterdir(), key=lambda each: each.name == destination.name)
    for file in files:
        _check_free(destination.parent / file.name, force)
    mode = 0o666 & ~_umask()
    for file in files:
        file.chmod(mode)
        os.replace(file, destination.parent / file.name)


@contextmanager
def plainly(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """The destination itself. Errors: as of `atomic`."""
    _check_free(destination, force)
    with _explained(destination):
        yield destination


@contextmanager
def _explained(destination: Path) -> Iterator[None]:
    """Turns whatever goes wrong while writing into a FileError that names the destination."""
    try:
        yield
    except BridgeError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FileError(f"{destination} cannot be written: nothing was left behind", f"found: {reason}") from error


def _check_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise FileError(f"{path} is a directory", "expected the name of a file")
    if path.exists() and not force:
        raise FileError(f"{path} exists already", "force=True (--force) overwrites it; or choose another name")


def _umask() -> int:
    """The mode bits that new files are made without; the system tells them only in exchange for others."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
