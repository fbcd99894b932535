"""Other numbers in the datasets of a Keras file; its config, its other arrays and other members stay as they are."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from lstmbridge import zipcopy
from lstmbridge.contract import Reading
from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.keras.store import explained
from lstmbridge.layer import Layer
from lstmbridge.stored import Bytes, Noted, replaced

__all__ = ["put"]

_WEIGHTS = "model.weights.h5"  # in a .keras archive
_CHUNK = 1 << 20


def put(existing: Path, reading: Reading, layers: Sequence[Layer], path: Path, noted: Noted) -> None:
    """At `path`, the file `existing` with the weights of `layers`.

    reading, noted  the layers of `existing`, and the datasets they were read from (`lstmbridge.stored.noting`)

    Errors: Unsupported for a file that is neither HDF5 nor a ``.keras`` archive, and for weights that are not stored as
    they are read.
    """
    if not (zipfile.is_zipfile(existing) or h5py.is_hdf5(existing)):
        raise Unsupported(f"{existing.name}: layers are put into .keras and .h5 files only", "save the model as one")
    contents = replaced(reading.layers, layers, noted, existing.name)
    with explained(existing, "Keras file"):
        _put(existing, contents, path)


def _put(existing: Path, contents: Mapping[str, Bytes], path: Path) -> None:
    if zipfile.is_zipfile(existing):
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".h5") as inner:
            with zipfile.ZipFile(existing) as archive, archive.open(_WEIGHTS) as member:
                shutil.copyfileobj(member, inner, _CHUNK)
            inner.flush()
            _overwrite(Path(inner.name), contents)
            zipcopy.replaced(existing, path, {_WEIGHTS: Path(inner.name)})
    else:
        shutil.copyfile(existing, path)
        _overwrite(path, contents)


def _overwrite(path: Path, contents: Mapping[str, Bytes]) -> None:
    """Puts other numbers into datasets: where each stands in one piece, nothing but its bytes changes."""
    places: dict[str, int | None] = {}
    with h5py.File(path, "r") as file:
        for name, content in contents.items():
            dataset = file[name]
            if dataset.nbytes != content.nbytes:
                raise FileError(f"{path.name}: {name} is not as it was read", f"expected {content.nbytes} bytes of it")
            places[name] = None if file.userblock_size else dataset.id.get_offset()
    with path.open("r+b") as raw:
        for name, offset in places.items():
            if offset is not None:
                raw.seek(offset)
                raw.write(contents[name].data)
    packed = [name for name, offset in places.items() if offset is None]
    if packed:
        with h5py.File(path, "r+") as file:
            for name in packed:
                file[name][...] = np.ndarray(file[name].shape, file[name].dtype, contents[name].data)
