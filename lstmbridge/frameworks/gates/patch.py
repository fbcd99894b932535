"""Other numbers in a file of our own: each weight stands there by itself, under its name."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lstmbridge import tensorfile, zipcopy
from lstmbridge.contract import Reading
from lstmbridge.layer import Layer
from lstmbridge.stored import Noted, replaced

__all__ = ["put"]


def put(existing: Path, reading: Reading, layers: Sequence[Layer], path: Path) -> None:
    """At `path`, the file `existing`, which `reading` was read from, with the weights of `layers`."""
    noted = Noted()
    for layer in reading.layers:
        for name, array in layer.weights.items():
            noted.add(f"{layer.label}/{name}", array)
    contents = replaced(reading.layers, layers, noted, existing.name)
    if existing.suffix != ".npz":
        shutil.copyfile(existing, path)
        tensorfile.overwrite(path, contents)
        return
    members: dict[str, zipcopy.Content] = {}
    with zipfile.ZipFile(existing) as archive:
        names = {info.filename.removesuffix(".npy").removesuffix("@bfloat16"): info for info in archive.infolist()}
        for name, content in contents.items():
            stored = archive.read(names[name])
            head = np.frombuffer(stored, np.uint8, len(stored) - content.nbytes)
            members[names[name].filename] = np.concatenate([head, content])
    zipcopy.replaced(existing, path, members)
