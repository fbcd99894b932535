"""jobs.toml: jobs that are run again and again, and what is wrong with one, with its line.

    [defaults]
    to = "torch"
    check = true

    [[job]]
    name = "shops"
    source = "models/shops"
    destination = "s3://bucket/shops"
    include = ["**/*.h5"]

The fields are those of `lstmbridge.jobs.Job`; `defaults` holds for every job that does not say otherwise. Paths are
relative to the file's own directory.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lstmbridge.errors import BridgeError, FileError, OptionError, unknown
from lstmbridge.jobs.job import Job

__all__ = ["load"]

_TABLES = ("defaults", "job")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def load(path: str | Path) -> dict[str, Job]:
    """The jobs of a file by their names, in its order.

    Errors: OptionError with the line that is wrong; FileError for a file that cannot be read.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{file} cannot be read", f"found: {getattr(error, 'strerror', None) or error}") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{file}: not TOML", f"found: {error}") from error
    return _Reader(file, text).jobs(found)


class _Reader:
    """One file: its text, to find the line of what is wrong."""

    def __init__(self, file: Path, text: str) -> None:
        self.file, self.lines = file, text.splitlines()

    def jobs(self, found: Mapping[str, Any]) -> dict[str, Job]:
        for key in found:
            if key not in _TABLES:
                raise self.wrong(self.line_of(key), str(unknown("table", key, _TABLES)))
        listed = found.get("job", [])
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed) or not listed:
            raise self.wrong(self.line_of("job"), "no job in it", "expected a table [[job]] for each")
        defaults = found.get("defaults", {})
        if not isinstance(defaults, dict):
            raise self.wrong(self.line_of("defaults"), "defaults is no table", "expected [defaults]")
        self.check(defaults, "defaults", 0)
        jobs: dict[str, Job] = {}
        for number, given in enumerate(listed):
            self.check(given, "job", number)
            name = given.get("name", f"job {number + 1}")
            if name in jobs:
                raise self.wrong(
                    self.line_of("name", "job", number), f"name is {name!r}", "expected another name for each"
                )
            jobs[name] = made = self.job({**defaults, **given}, given, number)
            others = [each for each, job in jobs.items() if job is not made and job.destination == made.destination]
            if others:
                line = self.line_of("destination", "job", number)
                raise self.wrong(line, f"destination is that of {others[0]!r}", "expected one of its own for each job")
        return jobs

    def job(self, fields: Mapping[str, Any], given: Mapping[str, Any], number: int) -> Job:
        for required in ("source", "destination", "to"):
            if required not in fields:
                raise self.wrong(self.line_of("", "job", number), f"{required} is missing")
        ready: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        ready |= {name: self.place(ready[name]) for name in ("source", "destination")}
        ready.pop("name", None)
        try:
            return Job(**ready)
        except BridgeError as error:
            key = _culprit(ready)
            table, n = ("job", number) if key in given else ("defaults", 0)
            raise self.wrong(self.line_of(key, table, n), error.headline, *error.details) from error

    def place(self, where: str) -> str:
        """A path relative to the file; a URL as it is."""
        return where if _URL.match(where) else str(self.file.parent / where)

    def check(self, given: Mapping[str, Any], table: str, number: int) -> None:
        """That every key is a field, and every value of its type. Errors: OptionError with the line."""
        hints = {**typing.get_type_hints(Job), **({"name": str} if table == "job" else {})}
        for key, value in given.items():
            line = self.line_of(key, table, number)
            if key not in hints:
                raise self.wrong(line, str(unknown("field", key, hints)))
            if not _fits(value, hints[key]):
                raise self.wrong(line, f"{key} is {value!r}", f"expected {_words(hints[key])}")

    def wrong(self, line: int, headline: str, *details: str) -> OptionError:
        return OptionError(f"{self.file}:{line}: {headline}", *details)

    def line_of(self, key: str, table: str = "", number: int = 0) -> int:
        """The line of a key in the table of that name and number; of the table itself where the key is not found."""
        begin, end = self.stretch(table, number) if table else (0, len(self.lines))
        own = re.compile(rf"""^\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*(=|\.|\])""")
        if key:
            for n in range(begin, end):
                if own.match(self.lines[n]):
                    return n + 1
        return begin + 1

    def stretch(self, table: str, number: int) -> tuple[int, int]:
        """The lines of a table, from its heading to the next one."""
        headings = [n for n, line in enumerate(self.lines) if re.match(r"^\s*\[", line)]
        own = [n for n in headings if re.match(rf"^\s*\[+\s*{table}\s*\]", self.lines[n])]
        begin = own[number] if number < len(own) else 0
        return begin, next((n for n in headings if n > begin), len(self.lines))


def _culprit(fields: Mapping[str, Any]) -> str:
    """The field without which the others make a job."""
    for name in fields:
        rest = {**fields, name: "gates"} if name == "to" else {key: fields[key] for key in fields if key != name}
        try:
            Job(**rest)
        except (BridgeError, TypeError):
            continue
        return name
    return ""


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _words(hint: Any) -> str:
    """A type in words."""
    if typing.get_origin(hint) is tuple:
        return "a list of strings"
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    names = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
    return " or ".join(_unique(names[kind] for kind in kinds if kind in names))


def _unique(words: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(words)
