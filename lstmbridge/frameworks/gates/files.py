"""Layers in a file of their own: flat names, with the Spec and the source's metadata as JSON.

An array is named ``label/weight``, e.g. ``encoder.rnn/forward.kernel.f``; the entry `MARK` holds, for each layer, all
that is not an array. A ``.safetensors`` file keeps it as metadata, an ``.npz`` file as an array of bytes of that name.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge import mapped, npz, tensorfile
from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import BridgeError, FileError
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.gates import MARK
from lstmbridge.frameworks.gates.patch import put
from lstmbridge.layer import Array, Layer, dtype_name
from lstmbridge.mapped import Later
from lstmbridge.spec import Spec

__all__ = ["patch", "read", "write"]

Arrays = Mapping[str, npt.NDArray[Any]]


def read(path: Path, options: ReadOptions) -> Reading:
    """The layers of a file that `write` made. Errors: FileError for any other."""
    arrays, text = _load_npz(path) if path.suffix == ".npz" else _load_safetensors(path)
    if text is None:
        way = "where they are plain arrays, say in which layout: layout= (--layout)"
        raise FileError(f"{path}: no entry {MARK!r}", "expected a file written with to='gates'", way)
    try:
        entries = json.loads(text)
        layers = tuple(_layer(entry, arrays, str(path)) for entry in entries)
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, BridgeError):
            raise
        raise FileError(f"{path}: the entry {MARK!r} is not what lstmbridge writes", f"found: {error}") from error
    used = {f"{layer.label}/{name}" for layer in layers for name in layer}
    extra = [name for name in arrays if name not in used]
    if extra:
        raise FileError(f"{path}: {len(extra)} arrays belong to no layer", f"found: {', '.join(extra[:5])}")
    return Reading(layers)


def _layer(entry: Mapping[str, Any], arrays: Arrays, who: str) -> Layer:
    spec = Spec.from_json(json.dumps(entry["spec"]))
    where = {key: entry.get(key) for key in ("level", "after")}
    label = entry["path"] if where["level"] is None else f"{entry['path']}.l{where['level']}".lstrip(".")
    missing = [name for name in spec.names() if f"{label}/{name}" not in arrays]
    if missing:
        raise FileError(f"{who}: layer {label!r}: {len(missing)} arrays missing", f"missing: {', '.join(missing[:5])}")
    weights = {name: arrays[f"{label}/{name}"] for name in spec.names()}
    return Layer(spec=spec, weights=weights, path=entry["path"], metadata=entry.get("metadata", {}), **where)


def _load_safetensors(path: Path) -> tuple[Arrays, str | None]:
    arrays, metadata = tensorfile.load(path)
    return arrays, metadata.get(MARK)


def _load_npz(path: Path) -> tuple[Arrays, str | None]:
    arrays = npz.load(path)
    text = arrays.pop(MARK, None)
    bfloat16 = tensorfile.numpy_dtype("bfloat16")
    known = {}
    for name, array in arrays.items():
        small = name.endswith(_BFLOAT16) and array.itemsize == 2
        known[name.removesuffix(_BFLOAT16)] = array.view(bfloat16) if small else array
    return known, None if text is None else bytes(text).decode(errors="replace")


_BFLOAT16 = "@bfloat16"  # numpy has no name for it: its bits are kept as uint16, and the array's name says so


def patch(existing: Path, layers: Sequence[Layer], path: Path, options: ReadOptions) -> tuple[str, ...]:
    """The file `existing` at `path`, with the weights of `layers`: `lstmbridge.frameworks.gates.patch`."""
    put(existing, read(existing, options), layers, path)
    return ()


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """One file that holds the layers and nothing else."""
    layers = [target.layer for target in targets]
    arrays = {f"{layer.label}/{name}": _later(array) for layer in layers for name, array in layer.weights.items()}
    text = json.dumps([_entry(layer) for layer in layers])
    if path.suffix == ".npz":
        _save_npz(path, arrays, text)
    else:
        tensorfile.save(arrays, path, metadata={MARK: text})


def _later(array: Array) -> Later:
    return Later(tuple(array.shape), dtype_name(array), partial(xp.host, array))


def _entry(layer: Layer) -> dict[str, Any]:
    return {
        "spec": json.loads(layer.spec.to_json()),
        "path": layer.path,
        "level": layer.level,
        "after": layer.after,
        "metadata": dict(layer.metadata),
    }


def _save_npz(path: Path, arrays: Mapping[str, Later], text: str) -> None:
    """Like numpy.savez, with fixed dates: the same layers give the same bytes."""
    entries = {**arrays, MARK: Later.of(np.frombuffer(text.encode(), np.uint8))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in entries.items():
            plain = array.dtype != "bfloat16"
            member = zipfile.ZipInfo(f"{name if plain else name + _BFLOAT16}.npy", (1980, 1, 1, 0, 0, 0))
            member.file_size = math.prod(array.shape) * tensorfile.numpy_dtype(array.dtype).itemsize
            with archive.open(member, "w") as out:
                _write_npy(array.make(), out)
            mapped.forget()


def _write_npy(array: npt.NDArray[Any], out: IO[bytes]) -> None:
    plain = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    np.lib.format.write_array(out, plain, allow_pickle=False)
