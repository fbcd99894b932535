"""Files are read and written one array at a time: peaks of memory, mapped sources, and the bytes that are written."""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from memory_peaks import FORMS
from safetensors.numpy import save as library_bytes

from helpers import layer, same_weights
from lstmbridge import Layer, arrays, convert, mapped, migrate, read, tensorfile
from lstmbridge.errors import BridgeError, FileError
from lstmbridge.frameworks.torch import archive
from lstmbridge.mapped import Later
from lstmbridge.named import from_arrays
from lstmbridge.remainder import Remainder

HERE = Path(__file__).parent
#: What a conversion may take beyond the largest layer twice; a layer has 4.3 MiB, and there are eight.
SLACK = 1 << 20
BIG = {"input_size": 350, "hidden_size": 380}  # more than 1 MiB

needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")


# ---- peaks


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What memory_peaks.py measures."""
    folder = tmp_path_factory.mktemp("peaks")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, str(HERE / "memory_peaks.py"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found: Mapping[str, Any] = json.loads(ran.stdout)
    return found


@needs_linux
def test_no_conversion_takes_more_than_the_largest_layer_twice(peaks: Mapping[str, Any]) -> None:
    assert len(peaks["peaks"]) == len(FORMS) * (len(FORMS) - 1) + 10
    bound = 2 * peaks["layer"] + SLACK
    assert not {name: peak for name, peak in peaks["peaks"].items() if peak > bound}


@needs_linux
def test_and_each_gives_the_same_layers_bit_for_bit(peaks: Mapping[str, Any]) -> None:
    assert not peaks["wrong"]


@needs_linux
@pytest.mark.parametrize("how", ["gathered", "kept"])
def test_the_measure_sees_who_makes_all_arrays_first_and_who_forgets_nothing(
    peaks: Mapping[str, Any], how: str
) -> None:
    assert peaks["careless"][how] > 7 * peaks["layer"]


# ---- sources are mapped


def file_of(made: Layer | list[Layer], folder: Path, form: str) -> Path:
    name, options = FORMS[form]
    convert(made, path=folder / name, **options)
    return folder / name


def origin(array: np.ndarray) -> Any:
    """What an array is a view on in the end."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def is_mapped(array: np.ndarray) -> bool:
    return any(
        each["perms"].startswith("r--s") and each["start"] <= array.__array_interface__["data"][0] < each["end"]
        for each in mappings()
    )


def mappings() -> Iterator[dict[str, Any]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, perms, *_ = line.split()
        start, end = (int(each, 16) for each in span.split("-"))
        yield {"start": start, "end": end, "perms": perms}


@needs_linux
@pytest.mark.parametrize("form", FORMS)
def test_every_array_of_a_large_file_is_a_view_on_the_mapped_file(tmp_path: Path, form: str) -> None:
    made = layer("gru", bias="dual", directions=("forward", "reverse"), path="a", **BIG)
    [found] = read(file_of(made, tmp_path, form))
    same_weights(found, made)
    small = "bias" if form.startswith("onnx") else "no part"  # protobuf has read it with the rest of the model
    assert [name for name in found if small not in name and not is_mapped(found[name])] == []
    assert not any(array.flags.writeable for array in found.weights.values())


@pytest.mark.parametrize("form", ["keras", "h5", "npz"])
def test_a_small_file_is_read(tmp_path: Path, form: str) -> None:
    made = layer(path="a", bias="single")
    [found] = read(file_of(made, tmp_path, form))
    same_weights(found, made)
    assert not any(isinstance(origin(array), mmap.mmap) for array in found.weights.values())


@needs_linux
@pytest.mark.parametrize("form", ["h5", "npz", "onnx apart"])
def test_a_file_of_many_arrays_takes_one_descriptor(tmp_path: Path, form: str) -> None:
    made = [layer(path=f"l{n}", bias="single", seed=n, **BIG) for n in range(5)]
    path = file_of(made, tmp_path, form)
    read(path)
    before = len(os.listdir("/proc/self/fd"))
    found = read(path)
    assert len(os.listdir("/proc/self/fd")) - before <= 1
    assert len(found) == len(made)


@needs_linux
def test_forgotten_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    made = layer(path="a", bias="dual", input_size=800, hidden_size=900)
    [found] = read(file_of(made, tmp_path, "safetensors"))
    total = [float(array.sum()) for array in found.weights.values()]
    resident = resident_files()
    mapped.forget()
    assert resident - resident_files() > 20 << 20
    assert [float(array.sum()) for array in found.weights.values()] == total
    same_weights(found, made)


def resident_files() -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("form", [form for form in FORMS if form != "onnx apart"])
def test_a_file_that_takes_the_place_of_its_own_source_is_right(tmp_path: Path, form: str) -> None:
    made = layer(path="a", bias="single", **BIG)
    path = file_of(made, tmp_path, form)
    before = read(path)
    migrate(before, path=path, dtype="float64", force=True)
    [after], [kept] = read(path), before
    assert after.dtype == "float64"
    for name in made:
        assert arrays.same_bits(after[name], made[name].astype("float64"))
        assert arrays.same_bits(kept[name], made[name]), "the old file is still there for those who read it"


# ---- arrays that are not plain in their file


@pytest.mark.parametrize("how", ["chunks", "gzip", "big-endian", "user block", "bfloat16"])
def test_datasets_that_stand_otherwise_in_a_large_file(tmp_path: Path, how: str) -> None:
    dtype = "bfloat16" if how == "bfloat16" else "float32"
    made = layer(path="a", bias="single", dtype=dtype, **BIG)
    plain, path = tmp_path / "plain.weights.h5", tmp_path / "other.weights.h5"
    convert(made, path=plain)
    with h5py.File(plain) as source, h5py.File(path, "w", userblock_size=512 * (how == "user block")) as target:
        target.attrs.update(source.attrs)
        source.visititems(lambda name, item: _copied(target, name, item, how))
    [found] = read(path)
    big = how == "big-endian"
    assert all(arrays.same_bits(np.asarray(found[name]).astype(made[name].dtype), made[name]) for name in made)
    assert all((found[name].dtype.byteorder == ">") == big for name in made)


def _copied(target: h5py.File, name: str, item: Any, how: str) -> None:
    if isinstance(item, h5py.Group):
        target.require_group(name)
        return
    data = item[()].astype(">f4") if how == "big-endian" else item[()]
    options = {"chunks": {"chunks": True}, "gzip": {"compression": "gzip"}}.get(how, {})
    target.create_dataset(name, data=data, **options).attrs.update(item.attrs)


def test_a_large_dataset_beyond_the_end_of_its_file_is_an_error(tmp_path: Path) -> None:
    path = file_of(layer(path="a", bias="single", **BIG), tmp_path, "h5")
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(FileError, match="a.h5"):
        read(path)


def npz_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"kernel": rng.standard_normal((350, 4 * 380), "float32"),
            "recurrent_kernel": np.asfortranarray(rng.standard_normal((380, 4 * 380), "float32")),
            "bias": rng.standard_normal(4 * 380, "float32")}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_plain_arrays_in_a_large_npz_file(tmp_path: Path, packed: bool) -> None:
    given = npz_arrays()
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **given)
    [found] = read(tmp_path / "a.npz", layout="keras", cell="lstm")
    same_weights(found, from_arrays({f"forward.{name}": array for name, array in given.items()}, "keras"))
    assert packed or isinstance(origin(found["forward.kernel.i"]), mmap.mmap)


@pytest.mark.parametrize("damage", ["a number", "the size", "the end"])
def test_a_damaged_large_npz_file_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **npz_arrays())
    data = bytearray(path.read_bytes())
    if damage == "a number":
        data[1 << 20] ^= 1  # the checksum tells
    elif damage == "the size":
        at = data.index(b"'shape': (350, 1520)")
        data[at : at + 20] = b"'shape': (990, 1520)"
    else:
        del data[-5000:]
    path.write_bytes(data)
    with pytest.raises(FileError, match="a.npz"):
        read(path, layout="keras", cell="lstm")


def test_an_npz_array_that_reaches_into_the_next_member_is_an_error(tmp_path: Path) -> None:
    """The shape says as much as the member has with its header."""
    path, numbers = tmp_path / "a.npz", 1 << 20
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    head += f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({numbers},), }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archived:
        archived.writestr("bias.npy", head + bytes(4 * numbers - len(head)))
        archived.writestr("kernel.npy", bytes(1000))
    with pytest.raises(FileError, match=r"a\.npz: not a readable \.npz file"):
        read(path, layout="keras", cell="lstm")


# ---- what is written


DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "int32", "uint32", "float32", "float64",
          "int64", "uint64", "float8_e4m3fn", "float8_e5m2")  # fmt: skip


def test_safetensors_files_are_byte_for_byte_those_of_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {f"{name}/é\"{n}": np.asarray(rng.normal(size=shape) * 9).astype(tensorfile.numpy_dtype(name))
             for name in DTYPES for n, shape in enumerate(((3, 5), (), (0, 2), (7,)))}  # fmt: skip
    metadata = {'a "mark"\n': "gr\u00fcn \x01 \U0001f600"}
    tensorfile.save(given, tmp_path / "a.safetensors", metadata=metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == library_bytes(given, metadata)
    tensorfile.save(given, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == library_bytes(given)
    found, said = tensorfile.load(tmp_path / "a.safetensors")
    assert said == metadata
    assert all(arrays.same_bits(found[name], given[name]) for name in given)


def test_arrays_of_any_order_are_written_in_order(tmp_path: Path) -> None:
    plain = np.arange(35, dtype="float32").reshape(5, 7)
    odd = {"a": plain[::-1], "b": plain.T, "c": plain.astype(">f4"), "d": plain[1:, ::2]}
    tensorfile.save(odd, tmp_path / "a.safetensors")
    expected = {name: np.ascontiguousarray(array, "<f4") for name, array in odd.items()}
    assert (tmp_path / "a.safetensors").read_bytes() == library_bytes(expected)


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    """Also of a file with two entries of metadata, whose order the library draws by lot."""
    made = layer(path="a", bias="dual")
    written = set()
    for n in range(5):
        convert(made, path=tmp_path / f"{n}.safetensors")
        written.add((tmp_path / f"{n}.safetensors").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("name", ["a\ud800", "complex"])
def test_what_no_safetensors_file_holds_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="a.safetensors"):
        tensorfile.save({name: np.ones(3, "complex64" if name == "complex" else "float32")}, tmp_path / "a.safetensors")


class Once:
    """Arrays that are made one at a time: while one is there, no other is asked for."""

    def __init__(self) -> None:
        self.last: weakref.ref[np.ndarray] | None = None

    def later(self, number: int) -> Later:
        def make() -> np.ndarray:
            assert self.last is None or self.last() is None, "the array before is still there"
            array = np.full((5, 7), number, "float32")
            self.last = weakref.ref(array)
            return array

        return Later((5, 7), "float32", make)


@pytest.mark.parametrize("writer", [tensorfile.save, archive.save], ids=["safetensors", "pt"])
def test_one_array_is_let_go_before_the_next_is_made(tmp_path: Path, writer: Any) -> None:
    once, suffix = Once(), ".safetensors" if writer is tensorfile.save else ".pt"
    writer({f"n{number}": once.later(number) for number in range(9)}, tmp_path / f"a{suffix}")
    load = tensorfile.load if writer is tensorfile.save else archive.load
    loaded: Any = load(tmp_path / f"a{suffix}")
    found = loaded[0] if isinstance(loaded, tuple) else loaded
    assert [float(found[f"n{number}"].mean()) for number in range(9)] == list(range(9))


def test_a_layout_packs_late_what_it_packs_at_once() -> None:
    from lstmbridge.registry import framework

    made = layer("lstm", bias="dual", directions=("forward", "reverse"), peepholes=True)
    layout = framework("onnx").layout.LAYOUTS["lstm"]
    packed, late = layout.pack(made.weights, made.spec), layout.later(made.weights, made.spec)
    assert list(packed) == list(late)
    for key, each in late.items():
        assert (each.shape, each.dtype) == (packed[key].shape, "float32")
        assert arrays.same_bits(each.make(), packed[key])


# ---- casts


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_a_cast_is_the_same_whenever_it_is_made(tmp_path: Path, form: str, dtype: str) -> None:
    name, options = FORMS[form]
    made = layer("gru", path="a", bias="dual", directions=("forward", "reverse"))
    rest = tmp_path / "rest.safetensors"
    more = {"opset": 22} if form.startswith("onnx") else {}
    if form == "h5" and dtype == "bfloat16":
        with pytest.raises(BridgeError, match="bfloat16"):
            migrate(made, path=tmp_path / name, dtype=dtype)
        return
    done = migrate(made, path=tmp_path / name, dtype=dtype, remainder_path=rest, **options, **more)
    assert done.reports[0].verdict == "lossy"
    [found] = read(tmp_path / name)
    for each in made:
        assert arrays.same_bits(found[each], arrays.cast(made[each], dtype))
        assert arrays.same_bits(done.targets[0].layer[each], arrays.cast(made[each], dtype))
    [back] = convert(tmp_path / name, to="gates", remainder=Remainder.load(rest))
    same_weights(back, made)


def test_a_late_cast_is_an_array_of_its_dtype() -> None:
    plain = np.random.default_rng(0).standard_normal((5, 7), "float32")
    late = arrays.LateCast(plain, "bfloat16")
    expected = plain.astype(ml_dtypes.bfloat16)
    assert (arrays.kind(late), late.shape, late.dtype) == ("numpy", (5, 7), expected.dtype)
    assert arrays.same_bits(late, expected)
    assert arrays.same_bits(late.transpose((1, 0)), expected.T)
    assert arrays.same_bits(-late, -expected)
    assert arrays.same_bits(np.asarray(late, "float64"), expected.astype("float64"))


def test_terms_of_a_cast_do_not_follow_an_array_that_changes(tmp_path: Path) -> None:
    made = layer(path="a")
    name = "forward.kernel.f"
    before = made[name].copy()
    done = migrate(made, path=tmp_path / "a.npz", dtype="float16")
    made[name][...] = 0
    assert arrays.same_bits(done.remainder.entries["a"].terms[name], before)


def test_and_those_of_a_file_are_views_on_it(tmp_path: Path) -> None:
    path = file_of(layer(path="a", bias="single", **BIG), tmp_path, "keras")
    done = migrate(path, path=tmp_path / "b.npz", dtype="float16")
    terms = done.remainder.entries[read(path)[0].label].terms
    assert all(isinstance(origin(array), mmap.mmap) for array in terms.values())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_bits_are_compared_where_they_are(dtype: str) -> None:
    plain = np.array([[0.0, np.nan, 1.0], [2.0, -3.0, np.inf]]).astype(tensorfile.numpy_dtype(dtype))
    other = plain.copy()
    assert arrays.same_bits(plain, other)
    assert arrays.same_bits(plain.T, other.T)
    assert arrays.same_bits(plain[:, ::2], other[:, ::2])
    other[0, 0] = -other[0, 0]
    assert not arrays.same_bits(plain, other), "0.0 is not -0.0"
    assert not arrays.same_bits(plain, plain.astype("float32" if dtype != "float32" else "float64"))
    assert not arrays.same_bits(plain, plain[:1])
