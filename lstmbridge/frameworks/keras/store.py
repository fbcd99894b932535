"""Reading HDF5 files, and those inside a ``.keras`` archive, without trusting them.

Nothing is extracted by name, no link is followed out of the file, and no array is read that is larger than its file
can hold. Source: keras/src/saving/saving_lib.py (Keras 3.15), which writes these files.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt

from lstmbridge.errors import BridgeError, FileError
from lstmbridge.frameworks.keras.attributes import expect_in_file
from lstmbridge.frameworks.keras.soundness import expect_sound
from lstmbridge.mapped import LARGE, numbers
from lstmbridge.stored import note
from lstmbridge.zipcopy import ZIP_ERRORS

__all__ = ["Archive", "Store", "decode_config", "open_archive", "open_store"]

#: The largest config a file may hold, and how much a packed member or array may grow, once it is larger than `_SMALL`.
_CONFIG_LIMIT = 256 << 20
_GROWTH, _SMALL = 100, 64 << 20
_DEPTH = 64

Array = npt.NDArray[Any]


class Store:
    """The arrays of an HDF5 file by name, and its attributes; each array that is read is noted in `read_so_far`.

    place  the descriptor of the file on disk that holds its bytes, and where they begin in it
    """

    def __init__(self, file: h5py.File, where: str, place: tuple[int, int]) -> None:
        self.where = where
        self.file = file
        self.place = place
        self.size = file.id.get_filesize()
        self.userblock = int(file.userblock_size)
        self.datasets: dict[str, h5py.Dataset] = {}
        self.groups: dict[str, h5py.Group] = {"": file}
        self.read_so_far: set[str] = set()
        self._attributes: dict[tuple[str, str], Any] = {}
        self._visit(file, "", {_address(file)})

    def _visit(self, group: h5py.Group, prefix: str, seen: set[Any]) -> None:
        if prefix.count("/") > _DEPTH:
            raise FileError(f"{self.where}: groups nested more than {_DEPTH} deep", "not a file of Keras")
        for name in group:
            path = f"{prefix}/{name}" if prefix else name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise FileError(f"{self.where}: {path} is a link", "expected arrays; links are not followed")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                self.datasets[path] = item
            elif isinstance(item, h5py.Group) and _address(item) not in seen:
                seen.add(_address(item))
                self.groups[path] = item
                self._visit(item, path, seen)

    def attribute(self, group: str, name: str) -> Any:
        """An attribute of a group, None if it has none; bytes are decoded."""
        if (group, name) not in self._attributes:
            item = self.groups[group]
            self._attributes[group, name] = _text(self._attribute(item, name)) if name in item.attrs else None
        return self._attributes[group, name]

    def _attribute(self, item: Any, name: str) -> Any:
        descriptor, start = self.place
        expect_in_file(item, name, self.where, (descriptor, start + self.userblock), self.size)
        return item.attrs[name]

    def names(self, group: str, name: str) -> list[str]:
        """An attribute that lists names, in one piece or in numbered ones (Keras splits long ones)."""
        item = self.groups[group]
        numbered = itertools.takewhile(item.attrs.__contains__, (f"{name}{n}" for n in itertools.count()))
        pieces = [name] if name in item.attrs else list(numbered)
        return [str(_text(each)) for piece in pieces for each in self._attribute(item, piece)]

    def read(self, name: str) -> Array:
        """The array of that name, read-only: of a large file a view on its mapped bytes, where it stands there in one
        piece; else on memory of its own. Errors: FileError if it is stored elsewhere or cannot be read.
        """
        found = self.datasets[name]
        stored = found.id.get_storage_size()
        if found.is_virtual or found.external:
            raise FileError(f"{self.where}: {name} is stored in another file", "expected arrays in the file itself")
        if found.nbytes > _SMALL and found.nbytes > _GROWTH * max(stored, 1):
            raise FileError(f"{self.where}: {name} claims {found.nbytes} bytes of {stored} stored", "not read")
        if found.dtype.hasobject:
            raise FileError(f"{self.where}: {name} holds {found.dtype}", "expected numbers")
        self.read_so_far.add(name)
        offset = self._offset(found)
        plain = np.asarray(found[()]) if offset is None else self._mapped(found, offset)
        plain.flags.writeable = False
        array = note(name, plain)
        told = _text(self._attribute(found, "dtype")) if "dtype" in found.attrs else ""
        if str(told) == "bfloat16" and array.dtype.itemsize == 2:
            return np.ascontiguousarray(array).view(ml_dtypes.bfloat16)
        return array

    def _offset(self, dataset: h5py.Dataset) -> int | None:
        """Where a dataset's bytes stand in a large file; None where it is to be read, or they are not one piece."""
        if self.size < LARGE or not dataset.nbytes or dataset.chunks is not None or self.userblock:
            return None
        kind = dataset.id.get_type()
        same = dataset.dtype.kind in "fiu" and kind == h5py.h5t.py_create(dataset.dtype)
        offset: int | None = dataset.id.get_offset() if same or isinstance(kind, h5py.h5t.TypeOpaqueID) else None
        return offset

    def _mapped(self, dataset: h5py.Dataset, offset: int) -> Array:
        if offset + dataset.nbytes > self.size:
            raise ValueError(f"{dataset.name} ends at {offset + dataset.nbytes} of {self.size} bytes")
        descriptor, start = self.place
        return numbers(descriptor, dataset.dtype, dataset.size, start + offset).reshape(dataset.shape)

    def untouched(self) -> tuple[str, ...]:
        """The arrays that were not read, those of an optimizer last."""
        names = [name for name in self.datasets if name not in self.read_so_far]
        return tuple(sorted(names, key=lambda name: name.partition("/")[0] in _OPTIMIZERS))


#: Where a file keeps the state of an optimizer: of Keras 3, and before it.
_OPTIMIZERS = ("optimizer", "optimizer_weights")


def _address(item: Any) -> Any:
    return h5py.h5o.get_info(item.id).addr


def _text(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@contextmanager
def explained(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever goes wrong while reading into a FileError that names the file."""
    try:
        yield
    except BridgeError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file") from error
    except PermissionError as error:
        raise FileError(f"{path}: no permission to read it") from error
    except (*ZIP_ERRORS, TypeError, AttributeError) as error:
        reason = f"found: {type(error).__name__}: {error}".splitlines()[0]
        raise FileError(f"{path}: not a readable {kind}: truncated, damaged, or of another format", reason) from error


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """An HDF5 file. Errors: FileError; one that begins as a zip archive, and so is none, has lost its end."""
    _expect_no_archive(path)
    with explained(path, "HDF5 file"), ExitStack() as stack:
        expect_sound(stack.enter_context(path.open("rb")), path.name)
        file = stack.enter_context(h5py.File(path, "r"))
        yield Store(file, path.name, (file.id.get_vfd_handle(), 0))


class Archive:
    """A ``.keras`` archive: its config, the version of Keras that wrote it, its arrays."""

    def __init__(self, config: dict[str, Any], version: str | None, store: Store, others: tuple[str, ...]) -> None:
        self.config, self.version, self.store, self.others = config, version, store, others


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """A ``.keras`` archive, its arrays read in place. Errors: FileError."""
    with explained(path, ".keras archive"), ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        archive = stack.enter_context(zipfile.ZipFile(raw))
        members = archive.namelist()
        missing = [name for name in ("config.json", "model.weights.h5") if name not in members]
        if missing:
            found = ", ".join(members[:8]) or "nothing"
            raise FileError(f"{path}: no {missing[0]} in it", f"found: {found}", "expected a .keras archive of Keras 3")
        config = _json(archive, "config.json", path)
        if config:
            _check_lists(config, path.name)
        metadata = _json(archive, "metadata.json", path) if "metadata.json" in members else {}
        inner, place = _member(archive, raw, "model.weights.h5", path, stack)
        expect_sound(stack.enter_context(inner), path.name)
        store = Store(stack.enter_context(h5py.File(inner, "r")), path.name, place)
        others = tuple(name for name in members if name.startswith("assets/"))
        yield Archive(config, metadata.get("keras_version"), store, others)


def _json(archive: zipfile.ZipFile, name: str, path: Path) -> dict[str, Any]:
    if archive.getinfo(name).file_size > _CONFIG_LIMIT:
        raise FileError(f"{path}: {name} claims {archive.getinfo(name).file_size} bytes", "not read")
    found = json.loads(archive.read(name))
    if not isinstance(found, dict):
        raise FileError(f"{path}: {name} holds a {type(found).__name__}", "expected a JSON object")
    return found


def _member(
    archive: zipfile.ZipFile, raw: IO[bytes], name: str, path: Path, stack: ExitStack
) -> tuple[IO[bytes], tuple[int, int]]:
    """A member as a file: where it stands if it is stored, unpacked beside if it is packed; its checksum is checked.

    With it, the descriptor of the file that holds its bytes, and where they begin in that.
    """
    info = archive.getinfo(name)
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as member:
            while member.read(1 << 20):
                pass
        start = _data_offset(raw, info)
        return io.BufferedReader(_Window(raw, start, info.file_size), 1 << 16), (raw.fileno(), start)
    if info.file_size > _SMALL and info.file_size > _GROWTH * max(info.compress_size, 1):
        raise FileError(f"{path}: {name} claims {info.file_size} bytes of {info.compress_size} packed", "not read")
    unpacked: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with archive.open(info) as member:
        shutil.copyfileobj(member, unpacked, 1 << 20)
    unpacked.seek(0)
    return unpacked, (unpacked.fileno(), 0)


def _data_offset(raw: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its own header, whose length may differ from the directory's."""
    raw.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", raw.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


class _Window(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, raw: IO[bytes], start: int, size: int) -> None:
        self.raw_file, self.start, self.size, self.at = raw, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self.at))
        self.raw_file.seek(self.start + self.at)
        count = self.raw_file.readinto(view[:wanted])  # type: ignore[attr-defined]
        self.at += count
        return int(count)


def decode_config(text: Any, where: str) -> dict[str, Any]:
    """A config from its JSON. Errors: FileError."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise FileError(f"{where}: its config is not JSON", f"found: {error}") from error
    if not isinstance(found, dict) or "class_name" not in found:
        raise FileError(f"{where}: its config is not a model's", "expected class_name and config")
    _check_lists(found, where)
    return found


def _check_lists(node: Mapping[str, Any], where: str) -> None:
    """That every Sequential or Functional model in a config lists its layers. Errors: FileError."""
    if node.get("class_name") not in ("Sequential", "Functional", "Model"):
        return
    config = node.get("config")
    inner = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if not isinstance(inner, list) or not all(isinstance(each, dict) and "class_name" in each for each in inner):
        raise FileError(
            f"{where}: the config of its {node['class_name']} model is damaged",
            "expected a list of layers, each with class_name and config",
        )
    for each in inner:
        _check_lists(each, where)


def _expect_no_archive(path: Path) -> None:
    with explained(path, "file"), path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise FileError(f"{path}: not a readable .keras file: truncated", "found: a zip archive without its end")
