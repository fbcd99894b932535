"""State dicts in several files: the index that names the file of each tensor, and the shards beside it.

    {"metadata": {...}, "weight_map": {"encoder.rnn.weight_ih_l0": "model-00001-of-00002.safetensors", ...}}

Only the shards that hold recurrent weights are opened. Source: the index files of huggingface_hub and transformers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lstmbridge import tensorfile
from lstmbridge.errors import FileError
from lstmbridge.frameworks.torch import archive, infer
from lstmbridge.frameworks.torch.checkpoint import State
from lstmbridge.layer import Array

__all__ = ["INDEX", "NAMES", "index_of", "load"]

#: What the name of an index ends with, and the names that a directory is known by.
INDEX = ".index.json"
NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

_LARGEST_INDEX = 1 << 26


def index_of(folder: Path) -> Path | None:
    """The index that a directory holds: of ``.safetensors`` shards, where there are two."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def load(index: Path, only: Collection[str]) -> State:
    """The tensors of the shards that hold recurrent weights; those of the others by name alone.

    only  paths of the layers that are wanted

    Errors: FileError for an index that is none, names a file that is not beside it, or is not true of a shard.
    """
    places = _places(index)
    needed = list(dict.fromkeys(shard for name, shard in places.items() if infer.is_recurrent(name, only)))
    arrays: dict[str, Array] = {}
    for shard in needed:
        arrays |= _shard(index, shard, places)
    found = [name for name in places if name in arrays]  # in the index's order
    others = tuple(name for name in places if name not in arrays)
    count = len(set(places.values()))
    note = f"read from {len(needed)} of {count} shards: {', '.join(needed) or 'none has recurrent weights'}"
    return State({name: arrays[name] for name in found}, others, (note,))


def _places(index: Path) -> dict[str, str]:
    """The shard of each tensor."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise FileError(f"{index}: {index.stat().st_size} bytes", f"expected an index of at most {_LARGEST_INDEX}")
        found: Any = json.loads(index.read_bytes())
        places = found["weight_map"]
        valid = isinstance(places, dict) and all(isinstance(shard, str) for shard in places.values())
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{index}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{index}: not an index of shards", f"found: {error!r:.200}", _EXPECTED) from error
    if not valid:
        raise FileError(f"{index}: not an index of shards", "its weight_map is no table of names", _EXPECTED)
    return dict(places)


_EXPECTED = 'expected {"weight_map": {"name of a tensor": "name of a file beside this one", ...}}'


def _shard(index: Path, shard: str, places: Mapping[str, str]) -> dict[str, Array]:
    """The tensors of one shard. Errors: FileError where the index is not true of it."""
    path = _beside(index, shard)
    arrays = dict(tensorfile.load(path)[0] if shard.endswith(".safetensors") else _pickled(path))
    missing = [name for name, where in places.items() if where == shard and name not in arrays]
    if missing:
        raise FileError(
            f"{path}: {len(missing)} tensors are missing that {index.name} says are here", f"such as {missing[0]}"
        )
    stray = [name for name in arrays if places.get(name) != shard and infer.is_recurrent(name, ())]
    if stray:
        raise FileError(f"{path}: holds {stray[0]}, of which {index.name} does not know", "is it another model's?")
    return {name: array for name, array in arrays.items() if places.get(name) == shard}


def _beside(index: Path, shard: str) -> Path:
    """The path of a shard, which must be a file in the index's own directory (or where the index itself links to)."""
    path = index.parent / shard
    if Path(shard).name != shard or "\\" in shard or "\0" in shard or shard in ("", ".", ".."):
        raise FileError(f"{index}: names a shard {shard!r}", "expected the name of a file beside it, without a path")
    if not path.is_file():
        raise FileError(f"{path}: no such file", f"{index.name} names it: all shards must be in its directory")
    if path.resolve().parent not in (index.parent.resolve(), index.resolve().parent):
        raise FileError(
            f"{path} is a link out of its directory", f"to {path.resolve()}", "put the file itself beside the index"
        )
    return path


def _pickled(path: Path) -> Mapping[str, Array]:
    """The tensors of a shard that torch.save wrote."""
    found = archive.load(path)
    if not isinstance(found, Mapping):
        raise FileError(f"{path}: not a shard of a state dict", "expected a dict of tensors by name")
    return {str(name): archive.array(value) for name, value in found.items() if archive.is_tensor(value)}
