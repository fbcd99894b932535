"""torch.save's files without torch: read as views on the mapped file, written one tensor after another.

A file is a zip of one pickle (``data.pkl``) and the bytes of each storage (``data/0`` ...), or, before torch 1.6,
several pickles and then the bytes. The pickle is read as data (`pickles`): the few functions that make tensors have
their likeness here, and everything else becomes an inert placeholder. Source: torch/serialization.py and
torch/_utils.py (2.13).
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lstmbridge import mapped
from lstmbridge.errors import BridgeError, FileError
from lstmbridge.frameworks.torch import is_legacy as starts_as_legacy
from lstmbridge.frameworks.torch.pickles import Inert, Machine, Name
from lstmbridge.frameworks.torch.zips import Zip
from lstmbridge.mapped import Later
from lstmbridge.stored import note
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["Opaque", "array", "guarded", "is_legacy", "is_tensor", "load", "load_legacy", "load_zip", "save", "view"]

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
_NAMES = {dtype: storage for storage, dtype in _STORAGES.items() if storage != "UntypedStorage"}

#: Storages that numpy has no array for, and the bytes of one of their numbers.
_STRANGE = {
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4,
    "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
}  # fmt: skip

#: Where a tar archive says that it is one.
_TAR = slice(257, 262)

_ALIGNMENT = 64
_MOST_AXES = 64

Storage = npt.NDArray[Any]


@dataclass(frozen=True)
class Opaque:
    """A tensor that numpy has no array for (sparse, quantised, float8), or no tensor at all: not to be read."""

    dtype: str
    shape: tuple[int, ...] = ()


# ---- read


def load(path: Path) -> Any:
    """What a file of torch.save holds: plain data, numpy arrays (read-only) for tensors, `Inert` for other objects.

    Errors: FileError for a file that is truncated, foreign or damaged.
    """
    with guarded(path):
        if is_legacy(path):
            return load_legacy(path)
        with Zip(path) as zipped:
            return load_zip(zipped)


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Whatever a broken file raises becomes a FileError that says what it is. Errors: FileError, BridgeError."""
    try:
        yield
    except BridgeError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file") from error
    except Exception as error:  # a broken file can raise anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FileError:
    """The error for a file that no reader understands."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as cause:
        return FileError(f"{path} cannot be read", f"found: {cause.strerror}")
    no_zip = isinstance(error, zipfile.BadZipFile) and str(error) == "File is not a zip file"
    if start.startswith(b"PK") and no_zip:
        found = "the beginning of a zip archive, without its end"
    elif start[_TAR] == b"ustar":
        found = "a tar archive, as torch wrote before 0.2: open it with torch.load, and save it again"
    elif no_zip:
        found = f"it begins with {start[:15]!r}"
    else:
        reason = str(error)[:200] or type(error).__name__
        return FileError(f"{path}: not a readable file of torch.save", f"found: {reason}")
    return FileError(f"{path}: not a file of torch.save, or only a part of one", f"found: {found}")


def is_legacy(path: Path) -> bool:
    """Whether the file begins as those from before torch 1.6 do."""
    with path.open("rb") as file:
        return starts_as_legacy(file.read(32))


def load_zip(zipped: Zip, rebuild: Mapping[tuple[str, str], Callable[..., Any]] | None = None) -> Any:
    """What the pickle of an archive holds; `rebuild` has further names."""
    if "data.pkl" not in zipped:
        raise FileError(f"{zipped.path}: a zip archive without data.pkl", "expected a file of torch.save")

    def storage(kind: str, key: str, count: int) -> Storage | Opaque:
        if kind not in _STORAGES:
            return Opaque(kind)
        return zipped.numbers(f"data/{key}", numpy_dtype(_STORAGES[kind]), count)

    pickled = io.BytesIO(zipped.content("data.pkl"))
    return _unpickled(pickled, zipped.path, zipped.size, storage, {**_REBUILD, **(rebuild or {})})


def load_legacy(path: Path) -> Any:
    """What a file of the older form holds: magic number, version, system, object, keys of storages, their bytes.

    The object is read twice: for the sizes of the storages, and, once it is known where they are, for itself.
    """
    size = path.stat().st_size
    data = mapped.whole(path)
    declared: dict[str, tuple[str, int]] = {}

    def declare(kind: str, key: str, count: int) -> Opaque:
        declared[key] = (kind, count)
        return Opaque(kind)

    _, _, system = (_unpickled(data, path, size, declare, {}) for _ in range(3))
    if not system["little_endian"]:
        raise FileError(f"{path}: an old file of a big-endian machine", "save it again with a recent torch")
    start = data.tell()
    _unpickled(data, path, size, declare, _REBUILD)
    keys = _unpickled(data, path, size, declare, {})
    storages = _legacy_storages(data, path, keys, declared)
    data.seek(start)
    return _unpickled(data, path, size, lambda kind, key, count: storages[key], _REBUILD)


def _legacy_storages(
    data: mmap.mmap, path: Path, keys: Any, declared: Mapping[str, tuple[str, int]]
) -> dict[str, Storage | Opaque]:
    """The storages behind the pickles, one after another: how many numbers, and the numbers."""
    storages: dict[str, Storage | Opaque] = {}
    place = data.tell()
    for key in map(_checked_key, keys):
        kind, count = declared[key]
        place += 8
        there = int.from_bytes(data[place - 8 : place], "little")
        dtype = None if kind in _STRANGE else numpy_dtype(_STORAGES[kind])
        width = _STRANGE[kind] if dtype is None else dtype.itemsize
        if count != there or place + count * width > len(data):
            raise FileError(f"{path}: storage {key} is not whole", f"expected {count} numbers of {width} bytes")
        storages[key] = Opaque(kind) if dtype is None else _view(data, dtype, count, place)
        place += count * width
    return storages


def _checked_key(key: Any) -> str:
    """A storage's key as text. Errors: ValueError for one that is neither text nor a number."""
    if type(key) not in (str, int):
        raise ValueError(f"a storage whose key is a {type(key).__name__}")
    return str(key)


def _view(data: mmap.mmap, dtype: np.dtype[Any], count: int, place: int) -> Storage:
    return note(str(place), np.frombuffer(data, dtype, count, place)) if count else np.empty(0, dtype)


def _unpickled(
    stream: Any,
    path: Path,
    size: int,
    storage: Callable[[str, str, int], Storage | Opaque],
    rebuild: Mapping[tuple[str, str], Callable[..., Any]],
) -> Any:
    """One pickle, whose persistent ids are storages: ("storage", type, key, device, count[, part of a storage])."""

    def persistent(pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid:
            raise FileError(f"{path}: a reference in its pickle that torch does not write")
        if pid[0] in ("module", b"module"):  # the class of a module, with its source text
            return pid[1]
        _, kind, key, _, count, *part = pid
        name = kind.name if isinstance(kind, Name) else type(kind).__name__
        if name not in _STORAGES and name not in _STRANGE:
            raise FileError(f"{path}: a storage of type {name}", f"expected one of {', '.join(_STORAGES)}")
        if type(count) is not int or not 0 <= count < 2**60:
            raise FileError(f"{path}: a storage of {type(count).__name__} numbers")
        return _part(storage(name, _checked_key(key), count), part[0] if part else None)

    return Machine(stream, who=str(path), size=size, rebuild=rebuild, persistent=persistent).run()


def _part(storage: Storage | Opaque, part: Any) -> Storage | Opaque:
    """The part of a storage that older files give as (key, offset, size)."""
    if part is None or isinstance(storage, Opaque):
        return storage
    _, offset, count = part
    if min(offset, count) < 0 or offset + count > storage.size:
        raise ValueError(f"{count} numbers at {offset} in a storage of {storage.size}")
    return storage[offset : offset + count]


# ---- what tensors are rebuilt with: the functions of torch/_utils.py


def view(storage: Storage | Opaque, offset: int, size: Any, stride: Any) -> Storage | Opaque:
    """A tensor as a view on its storage. Errors: ValueError for one that reaches beyond it."""
    if not isinstance(storage, np.ndarray):
        return Opaque(storage.dtype if isinstance(storage, Opaque) else type(storage).__name__)
    if max(len(size), len(stride)) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(size)} axes")
    whole = [offset, *size, *stride]
    if any(type(each) is not int or not 0 <= each < 2**60 for each in whole):
        raise ValueError("a tensor whose sizes and strides are none")
    if math.prod(size) > storage.size:  # expanded: a few bytes that would become any number of gigabytes
        return Opaque("an expanded tensor", tuple(size))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size:
        raise ValueError(f"a tensor of shape {size} and strides {stride} at {offset} in {storage.size} numbers")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _tensor(storage: Any, offset: int, size: Any, stride: Any,
            _grad: Any = None, _hooks: Any = None, marks: Any = None) -> Storage | Opaque:  # fmt: skip
    """_rebuild_tensor and _rebuild_tensor_v2. `marks` says that a tensor is another's negative or conjugate."""
    return Opaque("a tensor that is marked as negated") if marks else view(storage, offset, size, stride)


def _tensor_with_dtype(storage: Any, offset: int, size: Any, stride: Any,
                       _grad: Any, _hooks: Any, dtype: Any, *_: Any) -> Storage | Opaque:  # fmt: skip
    """A view on untyped bytes, for the dtypes that have no storage type of their own."""
    name = dtype.name if isinstance(dtype, Name) else type(dtype).__name__
    if name not in ("uint16", "uint32", "uint64") or not isinstance(storage, np.ndarray):
        return Opaque(name)
    return view(storage.view(numpy_dtype(name)), offset, size, stride)


def _typed(function: Any, kind: Any, arguments: Any, _state: Any = None) -> Any:
    """A tensor with attributes: what `function` makes of the arguments, if it is of no class of somebody else's."""
    plain = isinstance(kind, Name) and str(kind) in ("torch.Tensor", "torch.nn.parameter.Parameter",
                                                     "torch.nn.parameter.Buffer")  # fmt: skip
    own = _REBUILD.get((function.module, function.name)) if isinstance(function, Name) else None
    if not plain or own is None or own is _typed or len(arguments) > _MOST_AXES:
        return _foreign(kind)
    return own(*arguments)


def _foreign(kind: Any, *_: Any) -> Opaque:
    return Opaque(f"a tensor of class {kind}" if isinstance(kind, Name) else "a tensor of an unknown class")


def _of_other_device(data: Any, dtype: Any, *_: Any) -> Any:
    """A tensor of a device that keeps no storage on the host."""
    found = array(data)
    same = isinstance(found, np.ndarray) and isinstance(dtype, Name) and found.dtype.name == dtype.name
    return found if same else Opaque("a tensor of another device and dtype")


_REBUILD: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch._utils", "_rebuild_sparse_tensor"): lambda *_: Opaque("a sparse tensor"),
    ("torch._utils", "_rebuild_qtensor"): lambda *_: Opaque("a quantised tensor"),
    ("torch._utils", "_rebuild_nested_tensor"): lambda *_: Opaque("a nested tensor"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _foreign,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): lambda *_: Opaque("a tensor on the meta device"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _of_other_device,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _of_other_device,
    ("torch._utils", "_rebuild_xla_tensor"): _of_other_device,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
}


# ---- numpy's arrays in a pickle

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_NUMPY_TYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor, or an array of numpy's."""
    return isinstance(value, np.ndarray | Opaque) or (isinstance(value, Inert) and str(value) in _ARRAYS)


_ARRAYS = frozenset((*_RECONSTRUCT, *_FROM_BUFFER))


def array(value: Any) -> Any:
    """A tensor as it is; what stands for one of numpy's arrays as that array, on the bytes of the pickle.

    What cannot be one is Opaque: its dtype says why.
    """
    if not isinstance(value, Inert) or str(value) not in _ARRAYS:
        return value
    try:
        return _numpy_array(value)
    except (TypeError, ValueError, AttributeError, IndexError):
        return Opaque("a numpy array that is none of plain numbers")


def _numpy_array(value: Inert) -> npt.NDArray[Any]:
    """Errors: ValueError, TypeError for one that is not of plain numbers, or whose sizes do not agree."""
    if str(value) in _FROM_BUFFER:
        data, dtype, shape, order = value.arguments
    else:
        _version, shape, dtype, columns, data = value.state
        order = "F" if columns else "C"
    content = data.encode("latin-1") if type(data) is str else data  # Python 2 has no other bytes
    if not isinstance(content, bytes | bytearray) or order not in ("C", "F") or len(shape) > _MOST_AXES:
        raise ValueError
    flat = np.frombuffer(content, _numpy_type(dtype))
    if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) != flat.size:
        raise ValueError
    return flat.reshape(shape, order=order)


def _numpy_type(value: Any) -> np.dtype[Any]:
    """The dtype that a placeholder of one says: numpy.dtype(code, ...), and the byte order in its state."""
    code = value.arguments[0] if isinstance(value, Inert) else None
    if type(code) is not str or code not in _NUMPY_TYPES:
        raise ValueError
    return np.dtype(code).newbyteorder(">" if value.state is not None and value.state[1] == ">" else "<")


# ---- write


def save(arrays: Mapping[str, npt.NDArray[Any] | Later], path: Path) -> None:
    """A file of a plain dict of CPU tensors, which ``torch.load(path, weights_only=True)`` gives back.

    An array that is `Later` is made when its turn comes, and let go after it.
    """
    ready = {name: Later.of(array) for name, array in arrays.items()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _member(file, archive, "data.pkl", _bytes(_pickled(ready)))
        _member(file, archive, "byteorder", _bytes(b"little"))
        for key, each in enumerate(ready.values()):
            _member(file, archive, f"data/{key}", each.content())
            mapped.forget()
        _member(file, archive, "version", _bytes(b"3\n"))


def _bytes(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _member(file: IO[bytes], archive: zipfile.ZipFile, name: str, content: npt.NDArray[np.uint8]) -> None:
    """One member, uncompressed, dated like torch's own, its bytes at a multiple of 64 so that they can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    info.file_size = content.nbytes
    padding = -(file.tell() + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as member:
        member.write(content.data)


def _pickled(arrays: Mapping[str, Later]) -> bytes:
    """The pickle of ``{name: tensor}``, in the opcodes of protocol 2: the names of torch's functions need no torch."""
    items = b"".join(_plain(name) + _pickled_tensor(key, array) for key, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02}(" + items + b"u."


def _pickled_tensor(key: int, array: Later) -> bytes:
    """``_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())``."""
    stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(len(array.shape)))
    storage = b"(" + _plain("storage") + _global("torch", _NAMES[array.dtype])
    storage += _plain(str(key)) + _plain("cpu") + _plain(math.prod(array.shape)) + b"tQ"
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + _plain(0) + _plain(array.shape) + _plain(stride) + _plain(False) + hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    """The opcodes that put a plain value on the stack: its pickle without beginning and end."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
