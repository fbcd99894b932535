"""TensorFlow's checkpoints as named arrays, without TensorFlow: ``NAME.index`` and ``NAME.data-00000-of-00001``.

The index is a sorted table of keys and small messages, one a tensor, that say its dtype, its shape, and where in which
data file its numbers stand; they are mapped, not read. What a file says of itself is held against its real size before
anything is allocated. Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.cc,
tensorflow/core/protobuf/tensor_bundle.proto, and for the table LevelDB's doc/table_format.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import FileError, Unsupported
from lstmbridge.mapped import forget
from lstmbridge.sstable import crc32c, masked, table
from lstmbridge.tensorfile import numpy_dtype
from lstmbridge.wire import Message, mapped, readable, varint

__all__ = ["DTYPES", "OBJECT_GRAPH", "Bundle", "names_at", "prefix_of", "shape_of", "slice_key"]

Array = npt.NDArray[Any]

#: The key under which a checkpoint of objects (TensorFlow 2) keeps the graph of them.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

#: The numbers of tensorflow/core/framework/types.proto, for those dtypes that numpy and ml_dtypes have.
DTYPES: Mapping[int, str] = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64",
                             9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16",
                             22: "uint32", 23: "uint64"}  # fmt: skip
_STRING = 7

# The numbers of the fields in tensor_bundle.proto and tensor_slice.proto.
_HEADER_SHARDS, _HEADER_ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CRC, _SLICES = 1, 2, 3, 4, 5, 6, 7
_EXTENT, _START, _LENGTH = 1, 1, 2
_DIM, _DIM_SIZE = 2, 1


@dataclass(frozen=True)
class Entry:
    """What the index says of one tensor.

    slices  of a partitioned variable: for each part, (start, length) an axis; a length of -1 is all of it
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, data: bytes) -> Entry:
        """The entry that a value of the index is."""
        message = Message(data)
        slices = tuple(
            tuple((extent.signed(_START), extent.signed(_LENGTH, -1)) for extent in each.messages(_EXTENT))
            for each in message.messages(_SLICES)
        )
        shard, offset, size = (message.signed(field) for field in (_SHARD, _OFFSET, _SIZE))
        shape = shape_of(message.message(_SHAPE))
        return cls(message.number(_DTYPE), shape, shard, offset, size, message.number(_CRC), slices)


def shape_of(message: Message) -> tuple[int, ...]:
    """The shape that a TensorShapeProto says."""
    return tuple(dim.signed(_DIM_SIZE) for dim in message.messages(_DIM))


@dataclass(eq=False)
class Bundle:
    """The tensors of one checkpoint by name; each that is read is noted in `read_so_far`.

    Errors: FileError for an index that is missing, truncated, damaged or foreign; Unsupported for one that was written
    on a big-endian machine.
    """

    prefix: Path
    read_so_far: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        with readable(self.index, "index of a TensorFlow checkpoint"):
            found = dict(table(mapped(self.index)))
            header = Message(found.pop(b""))
            self._shard_count, big = header.number(_HEADER_SHARDS), header.number(_HEADER_ENDIANNESS)
        if big:
            raise Unsupported(f"{self.index}: written on a big-endian machine", "expected little-endian numbers")
        self._slices = {key: value for key, value in found.items() if key.startswith(b"\0")}
        self._values = {
            key.decode("utf-8", "replace"): value for key, value in found.items() if not key.startswith(b"\0")
        }
        self._shards: dict[int, Array] = {}
        self._checked: set[tuple[int, int, int]] = set()

    @property
    def index(self) -> Path:
        """The file that lists the tensors."""
        return self.prefix.with_name(f"{self.prefix.name}.index")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, as the index says it. Errors: FileError."""
        return self._entry(name).shape

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers. Errors: FileError."""
        return "float" in DTYPES.get(self._entry(name).dtype, "")

    def read(self, name: str) -> Array:
        """The numbers of a tensor: a view on the mapped file, or, of a partitioned variable, put together.

        Errors: FileError for one that is not there, is not within its file, or fails its checksum; Unsupported for one
        that holds no numbers.
        """
        array = self.peek(name)
        self.read_so_far.add(name)
        return array

    def peek(self, name: str) -> Array:
        """As `read`, without a note that it was read."""
        entry = self._entry(name)
        return self._joined(name, entry) if entry.slices else self._view(name, entry)

    def strings(self, name: str) -> list[bytes]:
        """The texts of a tensor of texts. Errors: FileError."""
        entry = self._entry(name)
        with readable(self.index, f"checkpoint (the tensor {name!r})"):
            data = bytes(self._bytes(name, entry))
            count, at, lengths = math.prod(entry.shape), 0, []
            if count > len(data):
                raise ValueError(f"{count} texts in {len(data)} bytes")
            for _ in range(count):
                length, at = varint(data, at, len(data))
                lengths.append(length)
            at += 4  # a checksum of the lengths
            if at + sum(lengths) != len(data):
                raise ValueError(f"texts of {sum(lengths)} bytes where {len(data) - at} are")
        self.read_so_far.add(name)
        ends = np.cumsum([at, *lengths]).tolist()
        return [data[start:stop] for start, stop in itertools.pairwise(ends)]

    def untouched(self) -> tuple[str, ...]:
        """The tensors that were not read."""
        return tuple(name for name in self._values if name not in self.read_so_far)

    # ---- where the numbers stand

    def _entry(self, name: str) -> Entry:
        if name not in self._values:
            raise FileError(f"{self.index}: no tensor {name!r}", f"found: {', '.join(self.names[:8]) or 'none'}")
        with readable(self.index, f"index of a TensorFlow checkpoint (the entry {name!r})"):
            entry = Entry.of(self._values[name])
            if min((*entry.shape, entry.size, entry.offset, entry.shard), default=0) < 0:
                raise ValueError("a negative size")
            return entry

    def _view(self, name: str, entry: Entry) -> Array:
        dtype = self._dtype(name, entry)
        found = self._bytes(name, entry)
        expected = math.prod(entry.shape) * dtype.itemsize
        if len(found) != expected:
            raise FileError(
                f"{self.index}: {name!r} has {len(found)} bytes",
                f"expected {expected} for shape {entry.shape} of {dtype.name}",
            )
        place = (entry.shard, entry.offset, entry.size)
        if place not in self._checked and masked(crc32c(found)) != entry.crc:
            raise FileError(f"{self.shard_path(entry.shard)}: the numbers of {name!r} are damaged",
                            "found: another checksum than the index has")  # fmt: skip
        self._checked.add(place)
        forget()
        return found.view(dtype).reshape(entry.shape)

    def _bytes(self, name: str, entry: Entry) -> Array:
        shard = self._shard(entry.shard)
        if entry.offset + entry.size > len(shard):
            raise FileError(
                f"{self.shard_path(entry.shard)}: {len(shard)} bytes; the numbers of {name!r} end at "
                f"{entry.offset + entry.size}",
                "the file was cut short, or is of another checkpoint",
            )
        return shard[entry.offset : entry.offset + entry.size]

    def shard_path(self, number: int) -> Path:
        """The data file of that number."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{number:05}-of-{self._shard_count:05}")

    def _shard(self, number: int) -> Array:
        if number not in self._shards:
            path = self.shard_path(number)
            if not path.is_file():
                beside = sorted(each.name for each in path.parent.glob("*.data-*"))[:5]
                raise FileError(f"{path}: no such file", f"{self.index.name} names it",
                                f"found: {', '.join(beside) or 'no data file at all'}")  # fmt: skip
            with readable(path, "data file of a checkpoint"):
                self._shards[number] = np.frombuffer(mapped(path), np.uint8)
        return self._shards[number]

    def _dtype(self, name: str, entry: Entry) -> np.dtype[Any]:
        if entry.dtype not in DTYPES:
            what = "texts" if entry.dtype == _STRING else f"dtype {entry.dtype}"
            raise Unsupported(f"{self.index}: {name!r} holds {what}", "expected numbers")
        return numpy_dtype(DTYPES[entry.dtype])

    # ---- partitioned variables

    def _joined(self, name: str, entry: Entry) -> Array:
        """The parts of a partitioned variable in one array. Errors: FileError if they do not fill it just once."""
        dtype, shape = self._dtype(name, entry), entry.shape
        parts = [(each, self._part(name, each)) for each in entry.slices]
        expected, stored = math.prod(shape), sum(part.size for part in self._all_shards())
        if sum(math.prod(part.shape) for _, part in parts) != expected or expected * dtype.itemsize > stored:
            raise FileError(f"{self.index}: the parts of {name!r} do not fill its shape {shape}", "not read")
        whole, filled = np.zeros(shape, dtype), np.zeros(shape, bool)
        for extents, part in parts:
            place = tuple(slice(start, None if n < 0 else start + n) for start, n in extents)
            array = self._view(name, part)
            if array.dtype != dtype or whole[place].shape != array.shape or filled[place].any():
                raise FileError(f"{self.index}: a part of {name!r} is not what the whole says", "not read")
            whole[place], filled[place] = array, True
        return whole

    def _part(self, name: str, extents: Sequence[tuple[int, int]]) -> Entry:
        key = slice_key(name, extents)
        if key not in self._slices:
            raise FileError(f"{self.index}: a part of {name!r} is not there", f"found {len(self._slices)} parts in all")
        with readable(self.index, f"index of a TensorFlow checkpoint (a part of {name!r})"):
            entry = Entry.of(self._slices[key])
            if min((*entry.shape, entry.size, entry.offset, entry.shard), default=0) < 0 or entry.slices:
                raise ValueError("a negative size, or a part of a part")
            return entry

    def _all_shards(self) -> list[Array]:
        paths = (number for number in range(min(self._shard_count, 1 << 16)) if self.shard_path(number).is_file())
        return [self._shard(number) for number in paths]


def slice_key(name: str, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key of one part: tensorflow/core/util/saved_tensor_slice_util.cc EncodeTensorNameSlice."""
    text = name.encode().replace(b"\0", b"\0\xff") + b"\0\1"
    numbers = b"".join(_signed(start) + _signed(length) for start, length in extents)
    return b"\0" + text + _unsigned(len(extents)) + numbers


def _unsigned(value: int) -> bytes:
    """A number in a key that sorts: its length, then its bytes (core/lib/strings/ordered_code.cc)."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """A number with a sign in a key that sorts: as many leading ones as it has bytes, then a zero, then the number."""
    size = (~value if value < 0 else value).bit_length() // 7 + 1
    head = ((1 << size) - 1) << (7 * size) if value >= 0 else 0
    body = value if value >= 0 else value & ((1 << 7 * size) - 1)
    return (head | body).to_bytes(size, "big")


# ---- what is at a path


def prefix_of(path: Path) -> Path | None:
    """The checkpoint that a path means, without what its files' names add; None if there is none.

    A path is one of its files (``.index``, ``.meta``, ``.data-...``), or what their names begin with, or a directory:
    a SavedModel, or one whose file ``checkpoint`` names the latest. Errors: FileError for a ``checkpoint`` file that
    names something outside its directory.
    """
    if path.is_dir():
        saved = path / "variables" / "variables"
        if (path / "saved_model.pb").is_file() and _index_of(saved).is_file():
            return saved
        return _latest(path / "checkpoint") if (path / "checkpoint").is_file() else None
    name = path.name
    if name == "saved_model.pb" and _index_of(path.parent / "variables" / "variables").is_file():
        return path.parent / "variables" / "variables"
    if name == "checkpoint" and path.is_file():
        return _latest(path)
    stem = name.rpartition(".")[0]
    last = name.rpartition(".")[2]
    if last in ("index", "meta") or (last.startswith("data-") and "-of-" in last):
        found = path.with_name(stem) if stem else path
        return found if stem and (_index_of(found).is_file() or (path.is_file() and last == "index")) else None
    return path if name and _index_of(path).is_file() else None


def names_at(path: Path) -> tuple[str, ...]:
    """The names of the tensors of the checkpoint that a path means; none if there is none. Errors: FileError."""
    prefix = prefix_of(path)
    return Bundle(prefix).names if prefix is not None else ()


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


_LONGEST_STATE = 1 << 20


def _latest(state: Path) -> Path | None:
    """The checkpoint that a ``checkpoint`` file names as the latest; None if it is no such file."""
    with readable(state, "file that names the latest checkpoint"):
        if state.stat().st_size > _LONGEST_STATE:
            return None
        lines = state.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.partition(":")[2].strip() for line in lines if line.startswith("model_checkpoint_path:")]
    if not said:
        return None
    name = said[0].strip("\"'")
    directory = state.parent.resolve()
    found = (directory / name).resolve()
    if Path(name).is_absolute() and directory not in found.parents:
        found = directory / found.name  # it was moved, along with its directory
        if not _index_of(found).is_file():
            found = Path(name)
    if not name or directory not in found.parents:
        raise FileError(
            f"{state}: it names {name!r}, which is outside its directory",
            f"refused; if the checkpoint was moved, give its own path: {state.parent / Path(name).name}",
        )
    if not _index_of(found).is_file():
        raise FileError(f"{state}: it names {name!r}, and there is no {_index_of(found).name}",
                        "give the path of the checkpoint itself")  # fmt: skip
    return state.parent / found.relative_to(directory)
