"""The recurrent layers of any object or file: recognised, and read by its framework."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstmbridge import named, registry
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import BridgeError, FileError, NothingRecurrent, listed, unknown
from lstmbridge.layer import Layer

__all__ = ["Source", "expect_recurrent", "options_of", "read", "read_all", "read_file"]

#: An object of a known framework, a path, or Layers.
Source = Any


def read(source: Source, **options: Any) -> tuple[Layer, ...]:
    """The recurrent layers of an object or a file, in canonical form.

    source   a layer, model or ModelProto of a known framework, or a path to a file of one
    options  the fields of `ReadOptions`: nonlinearity, batch_first, only

    The weights are views on the source's own memory (a file's: on its mapped bytes where the format allows it).
    Errors: UnknownName for an object or suffix of no known framework, FileError for a file that is not what it claims,
    LayoutError for arrays that do not fit together, Ambiguous where an option must say what the file does not.

    >>> import numpy as np
    >>> one = {"n": np.ones((1, 1))}
    >>> [layer] = read(Layer.from_gates(kernel=one, recurrent_kernel=one))
    >>> print(layer.spec)
    rnn 1 -> 1, no bias
    """
    return read_all(source, **options).layers


def read_all(source: Source, **options: Any) -> Reading:
    """Like `read`, with what was left alone and the notes."""
    chosen = options_of(ReadOptions, options)
    if isinstance(source, str | os.PathLike):
        return expect_recurrent(read_file(Path(source), chosen), str(source), chosen)
    reading = registry.of_object(source).live.read(source, chosen)
    return expect_recurrent(reading, f"this {type(source).__name__}", chosen)


def read_file(path: Path, options: ReadOptions) -> Reading:
    """What its framework reads in a file, its name in every error. Errors: those of `read`."""
    if options.layout is not None:
        if not path.exists():
            raise FileError(f"{path}: no such file or directory", f"in {path.parent.resolve()}")
        return named.read(path, options)
    if not path.is_file() and registry.claimed(path) is None:
        if path.is_dir():
            raise FileError(f"{path} is a directory", "expected a file, or a directory of a known format")
        raise FileError(f"{path}: no such file", f"in {path.parent.resolve()}")
    framework = registry.of_file(path)
    if path.is_file() and path.stat().st_size == 0:
        raise FileError(f"{path} is empty", f"expected a file of {framework.name}")
    try:
        return framework.files.read(path, options)
    except BridgeError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path.name}: {error.headline}", *error.details) from error


def expect_recurrent(reading: Reading, who: str, options: ReadOptions) -> Reading:
    """The reading. Errors: NothingRecurrent if there is no recurrent layer in it and none was asked for by path."""
    if reading.layers or options.only:
        return reading
    found = f"found: {listed(reading.left_alone, 5) or 'nothing'}"
    raise NothingRecurrent(f"{who}: no recurrent layer", found, "expected an LSTM, GRU or RNN")


def options_of(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """The options of that kind (`ReadOptions`, `WriteOptions`). Errors: UnknownName, with the nearest name."""
    known = kind.__dataclass_fields__
    for name in given:
        if name not in known:
            raise unknown("option", name, known)
    return kind(**given)
