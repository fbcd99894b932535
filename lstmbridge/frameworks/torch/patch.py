"""Other numbers in a checkpoint: in the storages that a layer's tensors are views on, and nowhere else."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import tensorfile, zipcopy
from lstmbridge.contract import Reading
from lstmbridge.errors import Unsupported
from lstmbridge.frameworks.torch import archive, exported
from lstmbridge.frameworks.torch.pickles import Inert
from lstmbridge.frameworks.torch.zips import Zip
from lstmbridge.layer import Layer
from lstmbridge.stored import Bytes, Noted, bytes_of, noting, replaced

__all__ = ["put"]

_SHOWN = 5
_AGAIN = "_flat_weights"  # where a scripted module lists its own parameters once more


def put(existing: Path, reading: Reading, layers: Sequence[Layer], path: Path, noted: Noted) -> None:
    """At `path`, the file `existing` with the weights of `layers`.

    reading, noted  the layers of `existing`, and the storages or tensors they were read from (`stored.noting`)

    Errors: Unsupported for weights that are not stored as they are read (weight norm), or that something else in the
    checkpoint shares, and for a checkpoint of several files.
    """
    plain, zipped = existing.suffix == ".safetensors", zipfile.is_zipfile(existing)
    if not (plain or zipped or archive.is_legacy(existing)):
        raise Unsupported(
            f"{existing.name}: layers are put into one file of torch.save or safetensors",
            "of a checkpoint in several files, name the one that holds the layers",
        )
    contents = replaced(reading.layers, layers, noted, existing.name)
    if not plain:
        _check_untied(existing, contents)
    if zipped:
        zipcopy.replaced(existing, path, _members(existing, contents, noted))
        return
    shutil.copyfile(existing, path)
    if plain:
        tensorfile.overwrite(path, contents)
    else:
        _overwrite(path, contents)


def _members(existing: Path, contents: Mapping[str, Bytes], noted: Noted) -> dict[str, zipcopy.Content]:
    """What the archive's members are to hold; a storage may be longer than what was read of it."""
    members: dict[str, zipcopy.Content] = {}
    with zipfile.ZipFile(existing) as zipped:
        names = {info.filename.partition("/")[2]: info for info in zipped.infolist()}
        big = "byteorder" in names and zipped.read(names["byteorder"]) == b"big"
        for name, content in contents.items():
            member = names[name]
            rest = zipped.read(member)[content.nbytes :] if member.file_size > content.nbytes else b""
            width = noted.longest(name).itemsize
            ordered = content.reshape(-1, width)[:, ::-1].reshape(-1) if big else content
            members[member.filename] = np.concatenate([ordered, np.frombuffer(rest, np.uint8)])
    return members


def _overwrite(path: Path, contents: Mapping[str, Bytes]) -> None:
    """Puts other numbers into a file from before torch 1.6, where the name of a storage is the place of its bytes."""
    with path.open("r+b") as file:
        for name, content in contents.items():
            file.seek(int(name))
            file.write(content.data)


# ---- what else a storage may be


def _check_untied(existing: Path, contents: Mapping[str, Bytes]) -> None:
    """That the numbers which change belong to one tensor each. Errors: Unsupported, naming those that share them."""
    with noting() as noted:
        found = _held(existing)
    places = [(name, noted.place(array)) for name, array in _tensors(found)]
    for key, content in contents.items():
        here = [(name, each) for name, each in places if each is not None and each.name == key]
        old = bytes_of(noted.longest(key))
        changed = np.zeros(old.nbytes, bool)
        changed[: content.nbytes] = content != old[: content.nbytes]
        counts = np.zeros(old.nbytes, np.uint8)
        for _, each in here:
            each.bytes_on(counts)[...] += 1
        shared = (changed & (counts > 1)).view(np.uint8)
        if shared.any():
            tied = [name for name, each in here if each.bytes_on(shared).any()]
            raise Unsupported(
                f"{existing.name}: {' and '.join(tied[:_SHOWN])} share their numbers",
                "one cannot change without the other; save the checkpoint again without tied weights",
            )


def _held(existing: Path) -> Any:
    """Whatever the file holds."""
    if zipfile.is_zipfile(existing):
        with Zip(existing) as zipped:
            if exported.is_exported(zipped):
                return exported.load(zipped).arrays
    return archive.load(existing)


def _tensors(found: Any) -> Iterator[tuple[str, Any]]:
    """Every array in a nest of dicts, lists and objects, by its way there; what contains itself is looked at once."""
    seen: set[int] = set()
    left = [("", found)]
    while left:
        name, value = left.pop()
        if isinstance(value, np.ndarray):
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            left += [(f"{name}.{key}".strip("."), each) for key, each in _items(value) if key != _AGAIN]


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, Inert):
        return (("", value.state), ("", value.arguments))
    return enumerate(value) if isinstance(value, list | tuple) else ()
