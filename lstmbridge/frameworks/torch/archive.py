"""torch.save's files without torch: read as views on the mapped file, written straight from memory.

A file is a zip of one pickle (``data.pkl``) and the bytes of each storage (``data/0`` ...), or, before torch 1.6,
several pickles and then the bytes. The pickle is read with a table of the few names that tensors need: any other is an
error, and nothing is called that is not in the table. Source: torch/serialization.py and torch/_utils.py (2.13).
"""

from __future__ import annotations

import collections
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["Opaque", "load", "save"]

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
_NAMES = {dtype: storage for storage, dtype in _STORAGES.items() if storage != "UntypedStorage"}

#: The first bytes of a file from before torch 1.6: the pickle of 0x1950a86a20f9469cfc6c.
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

_ALIGNMENT = 64

Storage = npt.NDArray[Any]


@dataclass(frozen=True)
class Opaque:
    """A tensor that numpy has no array for (sparse, quantised, float8): there, but not to be read."""

    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Name:
    """A class of torch's that is only named in the pickle: a storage type or a dtype."""

    name: str


# ---- read


def load(path: Path) -> Any:
    """What the file holds: plain Python data, and numpy arrays (read-only) for tensors.

    Errors: FileError for a file that is truncated, foreign, a TorchScript archive, or holds anything but tensors and
    plain data.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
        if zipfile.is_zipfile(path):
            return _load_zip(path)
        if start == _LEGACY:
            return _load_legacy(path)
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file") from error
    except Exception as error:  # a broken pickle can raise anything
        raise FileError(
            f"{path}: not a readable file of torch.save", f"found: {error or type(error).__name__}"
        ) from error
    found = (
        "the beginning of a zip archive, without its end" if start.startswith(b"PK") else f"it begins with {start!r}"
    )
    raise FileError(f"{path}: not a file of torch.save, or only a part of one", f"found: {found}")


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if "constants.pkl" in members:
            raise FileError(
                f"{path}: a TorchScript archive, not a state dict",
                "load it with torch.jit.load, and convert that module",
            )
        if "data.pkl" not in members:
            raise FileError(f"{path}: a zip archive without data.pkl", "expected a file of torch.save")
        big = "byteorder" in members and archive.read(members["byteorder"]) == b"big"
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        def storage(dtype: np.dtype[Any], key: str, count: int) -> Storage:
            member = members[f"data/{key}"]
            if member.file_size < count * dtype.itemsize:
                raise ValueError(f"{member.file_size} bytes for {count} numbers of {dtype}")
            if member.compress_type != zipfile.ZIP_STORED:
                numbers = np.frombuffer(archive.read(member), dtype, count)
            else:
                numbers = np.frombuffer(mapped, dtype, count, _start(mapped, member))
            return numbers.byteswap() if big else numbers

        with archive.open(members["data.pkl"]) as pickled:
            return _Unpickler(pickled, path, storage).load()


def _start(mapped: mmap.mmap, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its own header, whose size stands in it."""
    name, extra = struct.unpack_from("<HH", mapped, member.header_offset + 26)
    return int(member.header_offset + 30 + name + extra)


def _load_legacy(path: Path) -> Any:
    """The older form: magic number, version, system, the object, the storages' keys, the storages' bytes."""
    size = path.stat().st_size
    storages: dict[str, Storage] = {}

    def storage(dtype: np.dtype[Any], key: str, count: int) -> Storage:
        if count * dtype.itemsize > size:
            raise FileError(f"{path}: a storage of {count} numbers in a file of {size} bytes")
        return storages.setdefault(key, np.empty(count, dtype))

    with path.open("rb") as file:
        _, _, system, found, keys = (_Unpickler(file, path, storage).load() for _ in range(5))
        if not system["little_endian"]:
            raise FileError(f"{path}: an old file of a big-endian machine", "save it again with a recent torch")
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            target = storages[key]
            if count != target.size or file.readinto(target.view(np.uint8).data) != target.nbytes:
                raise FileError(f"{path}: storage {key} is not whole", f"expected {target.size} numbers")
    return found


class _Unpickler(pickle._Unpickler):
    """Reads tensors and plain data; knows no other names.

    It is the one written in Python, whose memo is a dict: a few bytes cannot ask the other's for gigabytes. Attributes
    may be set on an OrderedDict that the pickle itself has made (torch keeps a state dict's versions there), and on
    nothing else: so no file can change what belongs to this process.
    """

    stack: list[Any]

    def load_build(self) -> None:
        """Drops the attributes of a state dict. Errors: FileError for those of anything else."""
        self.stack.pop()
        kind = type(self.stack[-1])
        if kind is not collections.OrderedDict:
            raise FileError(f"{self.path}: sets attributes on a {kind.__name__}", "expected a state dict")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def __init__(self, file: IO[bytes], path: Path, storage: Callable[[np.dtype[Any], str, int], Storage]) -> None:
        super().__init__(file)
        self.path, self.storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle. Errors: FileError for one that is not a tensor's."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage"):
            return _Name(name)
        raise FileError(
            f"{self.path}: holds something else than tensors",
            f"found: {module}.{name}",
            "expected a state dict: torch.save(module.state_dict(), path)",
        )

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that the pickle refers to: ("storage", type, key, device, count)."""
        _, kind, key, _, count, *view = pid
        if kind.name not in _STORAGES or any(view):
            raise FileError(f"{self.path}: a storage of type {kind.name}", f"expected one of {', '.join(_STORAGES)}")
        return self.storage(numpy_dtype(_STORAGES[kind.name]), str(key), int(count))


# ---- what tensors are rebuilt with: the functions of torch/_utils.py


def _tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Storage | Opaque:
    """A view on a storage. Errors: ValueError for one that reaches beyond it."""
    if math.prod(size) > storage.size:  # expanded: a few bytes that would become any number of gigabytes
        return Opaque("an expanded tensor", tuple(size))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset), default=0) < 0 or (0 not in size and last >= storage.size):
        raise ValueError(f"a tensor of shape {size} and strides {stride} at {offset} in {storage.size} numbers")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _tensor_with_dtype(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
                       _grad: bool, _hooks: Any, dtype: _Name, *_: Any) -> Storage | Opaque:  # fmt: skip
    """A view on untyped bytes, for the dtypes that have no storage type of their own."""
    if dtype.name not in ("uint16", "uint32", "uint64"):
        return Opaque(dtype.name, tuple(size))
    return _tensor(storage.view(numpy_dtype(dtype.name)), offset, size, stride)


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): collections.Counter,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *_: None,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch._utils", "_rebuild_sparse_tensor"): lambda *_: Opaque("a sparse tensor"),
    ("torch._utils", "_rebuild_qtensor"): lambda *_: Opaque("a quantised tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): lambda *_: Opaque("a tensor on the meta device"),
    ("torch.serialization", "_get_layout"): _Name,
}


# ---- write


def save(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """A file of a plain dict of CPU tensors, which ``torch.load(path, weights_only=True)`` gives back."""
    ready = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in arrays.items()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _member(file, archive, "data.pkl", np.frombuffer(_pickled(ready), np.uint8))
        _member(file, archive, "byteorder", np.frombuffer(b"little", np.uint8))
        for key, array in enumerate(ready.values()):
            _member(file, archive, f"data/{key}", array.reshape(-1).view(np.uint8))
        _member(file, archive, "version", np.frombuffer(b"3\n", np.uint8))


def _member(file: IO[bytes], archive: zipfile.ZipFile, name: str, content: npt.NDArray[np.uint8]) -> None:
    """One member, uncompressed, dated like torch's own, its bytes at a multiple of 64 so that they can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    info.file_size = content.nbytes
    padding = -(file.tell() + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as member:
        member.write(content.data)


def _pickled(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The pickle of ``{name: tensor}``, in the opcodes of protocol 2: the names of torch's functions need no torch."""
    items = b"".join(_plain(name) + _pickled_tensor(key, array) for key, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02}(" + items + b"u."


def _pickled_tensor(key: int, array: npt.NDArray[Any]) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())``."""
    stride = tuple(step // array.itemsize for step in array.strides)
    storage = b"(" + _plain("storage") + _global("torch", _NAMES[array.dtype.name])
    storage += _plain(str(key)) + _plain("cpu") + _plain(array.size) + b"tQ"
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + _plain(0) + _plain(array.shape) + _plain(stride) + _plain(False) + hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    """The opcodes that put a plain value on the stack: its pickle without beginning and end."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
