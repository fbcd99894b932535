"""Directories and URLs: what is there, whether it changed, and how an output gets there all at once.

A directory of this machine is used as it is; everything else goes through fsspec (``s3://``, ``gs://``, ``memory://``
...): its files are fetched to a temporary directory, and outputs are made there and put into place when they are whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from lstmbridge.errors import FileError, MissingFramework

__all__ = ["KEEP", "Place", "matches"]

#: The folder inside a destination that is the job's own.
KEEP = ".lstmbridge"

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://|^[a-z0-9]+::")


def matches(name: str, pattern: str) -> bool:
    """Whether a relative name fits a pattern: ``**`` is any folders, or none; without a slash it is of the last word.

    >>> matches("a/b/x.h5", "**/*.h5"), matches("x.h5", "**/*.h5"), matches("a/x.h5", "*.h5"), matches("a/x.h5", "b/*")
    (True, True, True, False)
    """
    from fsspec.utils import glob_translate

    subject = name if "/" in pattern else PurePosixPath(name).name
    return re.match(glob_translate(pattern), subject) is not None


class Place:
    """A directory, here or at a URL.

    Errors: FileError for one that cannot be used; MissingFramework for a URL whose driver is not installed.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.local = None if _URL.match(where) and not where.startswith("file://") else _directory(where)
        self.blocked: dict[str, str] = {}
        self.passed: list[str] = []

    def __str__(self) -> str:
        return self.where

    @property
    def shared(self) -> bool:
        """Whether other processes see the same files."""
        return not self.where.startswith("memory:")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """fsspec's filesystem, and the directory's path in it."""
        try:
            from fsspec.core import url_to_fs

            filesystem, root = url_to_fs(self.where)
        except ImportError as error:
            raise MissingFramework(f"{self.where}: {error}", "install what fsspec asks for") from error
        except Exception as error:  # whatever a driver raises
            raise FileError(f"{self.where} cannot be opened", f"found: {type(error).__name__}: {error}") from error
        return filesystem, str(root).rstrip("/")

    def _at(self, name: str) -> str:
        root = self._opened[1]
        return f"{root}/{name}" if root else name

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turns whatever a driver raises into a FileError that names the file."""
        try:
            yield
        except FileError:
            raise
        except FileNotFoundError as error:
            raise FileError(f"{self.where}: {name}: no such file") from error
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise FileError(f"{self.where}: {name}", f"found: {reason}") from error

    # ---- what is there

    def names(self) -> list[str]:
        """Every file below, by its relative name, sorted; the job's own folder is left out.

        Folders that are links are not followed. Folders that cannot be read (their names end with a slash), and files
        whose names are not text, are noted in `blocked` with the reason; destinations of jobs are noted in `passed`.
        Errors: FileError if the directory is not there.
        """
        if self.local is not None:
            return sorted(self._walk(self.local))
        filesystem, root = self._opened
        with self._explained(""):
            filesystem.invalidate_cache()
            if not filesystem.exists(root):
                raise FileError(f"{self.where}: no such directory")
            found = [str(each)[len(root) :].lstrip("/") for each in filesystem.find(root)]
        return sorted(name for name in found if name and not name.startswith(f"{KEEP}/"))

    def _walk(self, root: Path) -> Iterator[str]:
        def blocked(error: OSError) -> None:
            name = os.path.relpath(error.filename, root).replace(os.sep, "/")
            self.blocked[f"{_shown(name)}/"] = f"a folder that cannot be read: {error.strerror or error}"

        if root.is_file():
            raise FileError(f"{root} is a file", "expected a directory of models; for one file: lstmbridge convert")
        if not root.is_dir():
            raise FileError(f"{root}: no such directory", "expected a directory of models")
        for folder, folders, files in os.walk(root, onerror=blocked):
            others = [each for each in folders if os.path.isdir(os.path.join(folder, each, KEEP))]
            self.passed += [os.path.relpath(os.path.join(folder, each), root).replace(os.sep, "/") for each in others]
            folders[:] = [each for each in folders if each != KEEP and each not in others]
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            for name in files if relative == "." else (f"{relative}/{each}" for each in files):
                if _shown(name) == name:
                    yield name
                else:
                    self.blocked[_shown(name)] = "its name is not UTF-8: rename it"

    def token(self, names: Sequence[str]) -> str:
        """A mark that changes when one of these files does: sizes and times here, the driver's own mark elsewhere.

        A file that is not there has the mark ``-``.
        """
        return " ".join(self._token(name) for name in names)

    def _token(self, name: str) -> str:
        if self.local is None:
            with contextlib.suppress(Exception):
                return str(self._opened[0].ukey(self._at(name)))
            return "-"
        try:
            found = (self.local / name).stat()
        except OSError:
            return "-"
        return f"{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}.{found.st_ino}"

    def size(self, name: str) -> int:
        """The bytes of a file; 0 if it is not there."""
        with contextlib.suppress(Exception):
            return int((self.local / name).stat().st_size if self.local else self._opened[0].size(self._at(name)) or 0)
        return 0

    # ---- reading

    @contextmanager
    def fetched(self, names: Sequence[str]) -> Iterator[Path]:
        """The directory in which these files stand under their relative names: the place itself, or copies."""
        if self.local is not None:
            yield self.local
            return
        with tempfile.TemporaryDirectory(prefix="lstmbridge-") as folder:
            for name in names:
                target = Path(folder) / name
                if not target.resolve().is_relative_to(Path(folder).resolve()):
                    raise FileError(f"{self.where}: {name!r} leads out of the directory", "not fetched")
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._explained(name):
                    self._opened[0].get_file(self._at(name), str(target))
            yield Path(folder)

    # ---- writing

    def prepare(self) -> None:
        """Makes the directory and the job's own folder in it. Errors: FileError if that cannot be."""
        if self.local is None:
            with self._explained(""):
                self._opened[0].makedirs(self._opened[1], exist_ok=True)
            return
        try:
            (self.local / KEEP / "staging").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.where} cannot be written", f"found: {error.strerror or error}") from error

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory to make an output in, on the same disk as the destination where that is here."""
        parent = None if self.local is None else self.local / KEEP / "staging"
        try:
            folder = Path(tempfile.mkdtemp(prefix="", dir=parent))
        except OSError as error:
            raise FileError(f"{self.where} cannot be written", f"found: {error.strerror or error}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, file: Path, name: str) -> None:
        """Moves a finished file to its place; whoever looks sees all of it or none. Errors: FileError."""
        with self._explained(name):
            if self.local is None:
                self._opened[0].makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                self._opened[0].put_file(str(file), self._at(name))
                return
            target = self.local / name
            if target.parent != self.local:
                target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there. Errors: FileError."""
        with self._explained(name):
            if self.local is not None:
                (self.local / name).unlink(missing_ok=True)
            elif self._opened[0].exists(self._at(name)):
                self._opened[0].rm_file(self._at(name))

    def text(self, name: str) -> str | None:
        """A small file's text; None if it is not there."""
        with contextlib.suppress(Exception):
            if self.local is not None:
                return (self.local / name).read_text(encoding="utf-8")
            return str(self._opened[0].cat_file(self._at(name)).decode("utf-8"))
        return None

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.local is not None:
            return (self.local / name).is_file()
        with self._explained(name):
            return bool(self._opened[0].exists(self._at(name)))

    def clean(self) -> None:
        """Removes what killed workers left in the staging folder."""
        if self.local is not None:
            shutil.rmtree(self.local / KEEP / "staging", ignore_errors=True)
            (self.local / KEEP / "staging").mkdir(parents=True, exist_ok=True)


def _directory(where: str) -> Path:
    path = Path(where.removeprefix("file://")).expanduser()
    return Path(os.path.abspath(path))


def _shown(name: str) -> str:
    """A name as it can be printed: bytes that are not UTF-8 as ``\\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
