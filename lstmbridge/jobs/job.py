"""What one job is asked to do, as data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from lstmbridge import __version__, registry
from lstmbridge.certificate import layout_version
from lstmbridge.errors import OptionError, UnknownName, Unsupported, unknown
from lstmbridge.fit import DROPS
from lstmbridge.pipeline import DTYPES, expect_effect

__all__ = ["ENGINES", "Job"]

#: How an engine's address begins, and the extra that brings it.
ENGINES = {"local": "", "dask://": "dask", "ray://": "ray"}

#: What does not change any output: where it runs, how it is watched, which files it is for.
_APART = ("source", "destination", "include", "exclude", "check", "jobs", "engine", "timeout", "force")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One migration of many files.

    source       a directory or URL of a directory (``s3://bucket/models``) with the files to convert
    destination  a directory or URL; it is made if need be, and has the journal in ``.lstmbridge``
    to           the target framework
    suffix       of the outputs; None: the framework's first
    include      patterns of files below `source` (``**/*.h5``; without a slash: of names at any depth); none: every
                 file with a suffix that lstmbridge reads, and on this machine every file that is a model by its content
    exclude      patterns of files to leave out
    check        prove every file: both sides on the same sequences
    jobs         how many workers; None: one a core
    engine       ``local``, ``dask://HOST:PORT`` or ``ray://HOST:PORT`` (``ray://auto``: the cluster of this machine)
    timeout      seconds that one file may take; what takes longer is stopped, and unreadable
    force        overwrite files in `destination` that no job of lstmbridge made
    remainder    write beside each output that was reparameterised what leads back bit for bit

    The other fields are options of `lstmbridge.migrate`, for every file alike.

    Errors: UnknownName for a framework, suffix, dtype, engine or thing to allow that is none; OptionError for numbers
    out of range, and for an option without effect; Unsupported for a framework whose files are not written.

    >>> job = Job(source="old", destination="new", to="torch", include=("**/*.h5",))
    >>> job.output_suffix
    '.safetensors'
    """

    source: str
    destination: str
    to: str
    suffix: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    check: bool = False
    jobs: int | None = None
    engine: str = "local"
    timeout: float = 900.0
    force: bool = False
    remainder: bool = False
    allow: tuple[str, ...] = ()
    faithful: bool = False
    stack: bool = False
    dtype: str | None = None
    batch_first: bool | None = None
    opset: int = 17
    external_data: bool = False
    lengths: bool = False
    initial: bool = False
    nonlinearity: str | None = None
    forget_constant: float | None = None
    reset_after: bool | None = None
    layout: str | None = None
    cell: str | None = None

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "allow"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("source", "destination"):
            object.__setattr__(self, name, os.fspath(getattr(self, name)))
        _known("thing to allow", self.allow, DROPS)
        _known("dtype", [self.dtype] if self.dtype else [], DTYPES)
        _known("nonlinearity", [self.nonlinearity] if self.nonlinearity else [], ("tanh", "relu"))
        _check_numbers(self)
        self._check_target()
        if self.engine != "local" and not self.engine.startswith(("dask://", "ray://")):
            raise UnknownName(f"unknown engine {self.engine!r}", "expected local, dask://HOST:PORT or ray://HOST:PORT")

    def _check_target(self) -> None:
        written = registry.framework(self.to).writes
        if not written:
            raise Unsupported(f"{self.to} files are not written here", "they are only read")
        expect_effect(registry.framework(self.to), self.writing)
        if self.suffix is not None:
            _known(f"suffix of {self.to}", [self.suffix], written)

    @property
    def output_suffix(self) -> str:
        """What the names of outputs end with."""
        return self.suffix or registry.framework(self.to).writes[0]

    @property
    def reading(self) -> dict[str, Any]:
        """The options for reading, as `lstmbridge.read` takes them."""
        names = ("nonlinearity", "batch_first", "forget_constant", "reset_after", "layout", "cell")
        return {name: getattr(self, name) for name in names}

    @property
    def writing(self) -> dict[str, Any]:
        """The options for fitting and writing, as `lstmbridge.migrate` takes them."""
        names = ("allow", "faithful", "stack", "dtype", "opset", "external_data", "lengths", "initial", "batch_first")
        return {name: getattr(self, name) for name in names}

    def options(self) -> dict[str, Any]:
        """What decides the outputs' bytes, as JSON has it: only what differs from its default."""
        fields = {field.name: field.default for field in dataclasses.fields(self) if field.name not in _APART}
        given = {name: getattr(self, name) for name, default in fields.items() if getattr(self, name) != default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    def identity(self) -> str:
        """A digest of all that decides the outputs but the sources: options, tool, layouts, and whether to check."""
        return _identity(self)


@cache
def _identity(job: Job) -> str:
    text = json.dumps([job.options(), job.check, __version__, layout_version(job.to)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _known(kind: str, names: Iterable[str], choices: Iterable[str]) -> None:
    for name in names:
        if name not in choices:
            raise unknown(kind, name, choices)


def _check_numbers(job: Job) -> None:
    for name, low, high in (("jobs", 1, 4096), ("timeout", 1e-3, float("inf")), ("opset", 7, 22)):
        value = getattr(job, name)
        if value is not None and not low <= value <= high:
            raise OptionError(f"{name} is {value}", f"expected {low:g} to {high:g}")
