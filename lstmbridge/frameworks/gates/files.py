"""Layers in a file of their own: flat names, with the Spec and the source's metadata as JSON.

An array is named ``label/weight``, e.g. ``encoder.rnn/forward.kernel.f``; the entry `MARK` holds, for each layer, all
that is not an array. A ``.safetensors`` file keeps it as metadata, an ``.npz`` file as an array of bytes of that name.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge import tensorfile
from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import BridgeError, FileError
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.gates import MARK
from lstmbridge.layer import Layer
from lstmbridge.spec import Spec

__all__ = ["read", "write"]

Arrays = Mapping[str, npt.NDArray[Any]]


def read(path: Path, options: ReadOptions) -> Reading:
    """The layers of a file that `write` made. Errors: FileError for any other."""
    arrays, text = _load_npz(path) if path.suffix == ".npz" else _load_safetensors(path)
    if text is None:
        raise FileError(f"{path}: no entry {MARK!r}", "expected a file written with to='gates'")
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
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            arrays = {m.filename.removesuffix(".npy"): _known_dtype(_member(archive, m), m.filename) for m in members}
    except _UNREADABLE as error:
        raise FileError(f"{path}: not a readable .npz file", f"found: {error}") from error
    text = arrays.pop(MARK, None)
    names = {name.removesuffix(_BFLOAT16): array for name, array in arrays.items()}
    return names, None if text is None else bytes(text).decode(errors="replace")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array; nothing is allocated before its size is known to be in the file. Errors: ValueError."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has version {version}")
        shape, _, dtype = _HEADERS[version](file)
        count = math.prod(shape)
        if dtype.hasobject or count * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} says {count} numbers of {dtype} in {member.file_size} bytes")
    with archive.open(member) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
_BFLOAT16 = "@bfloat16"  # numpy has no name for it: its bits are kept as uint16, and the array's name says so


def _known_dtype(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    return array.view(tensorfile.numpy_dtype("bfloat16")) if name.endswith(f"{_BFLOAT16}.npy") else array


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """One file that holds the layers and nothing else."""
    layers = [target.layer for target in targets]
    arrays = {f"{layer.label}/{name}": xp.host(array) for layer in layers for name, array in layer.weights.items()}
    text = json.dumps([_entry(layer) for layer in layers])
    if path.suffix == ".npz":
        _save_npz(path, arrays, text)
    else:
        tensorfile.save(arrays, path, metadata={MARK: text})


def _entry(layer: Layer) -> dict[str, Any]:
    return {
        "spec": json.loads(layer.spec.to_json()),
        "path": layer.path,
        "level": layer.level,
        "after": layer.after,
        "metadata": dict(layer.metadata),
    }


def _save_npz(path: Path, arrays: Arrays, text: str) -> None:
    """Like numpy.savez, with fixed dates: the same layers give the same bytes."""
    entries = {**arrays, MARK: np.frombuffer(text.encode(), np.uint8)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in entries.items():
            plain = array.dtype.name != "bfloat16"
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array if plain else array.view(np.uint16), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name if plain else name + _BFLOAT16}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(member, buffer.getbuffer())
