"""Damaged files of every format: an error of ours or a right reading; no crash, no hang, no endless allocation."""

from __future__ import annotations

import faulthandler
import importlib.util
import itertools
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lstmbridge import read
from lstmbridge.errors import FileError

ROOT = Path(__file__).parents[1]

#: What reading may take beside four times the file: caches, imports, and the fixed cost of each format's library.
BESIDE = 48 << 20


def _seeds_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_seeds", ROOT / "fuzz" / "seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("fuzz_seeds", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


SEEDS = _seeds_module()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The bytes of whole files of every format."""
    return {name: SEEDS.seeds(name, tmp_path_factory.mktemp(name)) for name in SEEDS.FORMATS}


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A reader that does not come back ends the run, with the place where it is."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


#: One change to a file: what is done, where (as a part of its length), with what.
CHANGE = st.tuples(
    st.sampled_from(["flip", "byte", "cut", "drop", "double", "zero", "ones", "number", "insert", "swap"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**31 - 1),
)


def changed(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """The file with those changes, one after another."""
    found = bytearray(data)
    for what, place, number in changes:
        at = int(place * len(found))
        size = 1 + number % 64
        if not found:
            break
        if what == "flip":
            found[at] ^= 1 << number % 8
        elif what == "byte":
            found[at] = number % 256
        elif what == "cut":
            del found[at:]
        elif what == "drop":
            del found[at : at + size]
        elif what == "double":
            found[at:at] = found[at : at + size]
        elif what in ("zero", "ones"):
            found[at : at + size] = (b"\0" if what == "zero" else b"\xff") * len(found[at : at + size])
        elif what == "number":
            found[at : at + 8] = number.to_bytes(8, "little", signed=False)
        elif what == "insert":
            found[at:at] = number.to_bytes(4, "big") * (1 + number % 8)
        elif what == "swap":
            found = found[at:] + found[:at]
    return bytes(found)


@pytest.mark.parametrize("name", SEEDS.FORMATS)
def test_a_changed_file_is_read_rightly_or_refused(
    name: str, whole: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    numbers = itertools.count()
    outcomes: list[bool] = []

    @settings(
        max_examples=300,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.sampled_from(whole[name]), changes=st.lists(CHANGE, min_size=1, max_size=5))
    def attempt(seed: bytes, changes: list[tuple[str, float, int]]) -> None:
        path = folder / f"{next(numbers)}{SEEDS.FORMATS[name][0]}"
        path.write_bytes(changed(seed, changes))
        tracemalloc.start()
        outcomes.append(SEEDS.attempt(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 4 * path.stat().st_size + BESIDE
        path.unlink()

    attempt()
    assert not all(outcomes), "no change was ever noticed"


@pytest.mark.parametrize("name", SEEDS.FORMATS)
def test_the_whole_files_are_read(name: str, whole: dict[str, list[bytes]], tmp_path: Path) -> None:
    for number, data in enumerate(whole[name]):
        path = tmp_path / f"{number}{SEEDS.FORMATS[name][0]}"
        path.write_bytes(data)
        assert SEEDS.attempt(path)


# ---- what the fuzzer found


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("suffix", [".keras", ".npz"])
def test_a_packed_member_that_does_not_unpack_is_an_error_of_ours(suffix: str, method: int, tmp_path: Path) -> None:
    """Each method of packing has errors of its own, which a damaged stream raises before its checksum is looked at."""
    [whole, *_] = SEEDS.FORMATS[suffix[1:]][1](tmp_path)
    packed = tmp_path / f"packed{suffix}"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert SEEDS.attempt(packed)
    with zipfile.ZipFile(packed) as archive:
        member = archive.infolist()[0]
    data = packed.read_bytes()
    begin = member.header_offset + 30 + len(member.filename)
    outcomes = set()
    for at in range(begin, begin + member.compress_size, max(1, member.compress_size // 40)):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(data[:at] + bytes(255 - byte for byte in data[at : at + 3]) + data[at + 3 :])
        outcomes.add(SEEDS.attempt(damaged))
    assert False in outcomes


def test_a_tensor_of_more_axes_than_an_array_can_have(tmp_path: Path) -> None:
    import onnx

    [whole, *_] = SEEDS.FORMATS["onnx"][1](tmp_path)
    model = onnx.load(whole)
    for tensor in model.graph.initializer:
        tensor.dims.extend([1] * 70)
    onnx.save(model, whole)
    assert not SEEDS.attempt(whole)


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'shape': (3,", "{'descr':\n  1\n '<f4'}", "(((", "0x"])
def test_an_array_file_whose_header_is_no_literal(header: str, tmp_path: Path) -> None:
    head = f"{header}\n".encode()
    array = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("lstmbridge.gates.npy", array)
    assert not SEEDS.attempt(tmp_path / "a.npz")
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "kernel.npy").write_bytes(array)
    with pytest.raises(FileError):
        read(tmp_path / "arrays", layout="tf1", forget_constant=1.0)


def test_an_attribute_of_a_type_that_there_is_not(tmp_path: Path) -> None:
    """The library takes a type of varying length for texts, whatever its kind, and ends the process over it."""
    [whole, *_] = SEEDS.FORMATS["h5"][1](tmp_path)
    data = whole.read_bytes()
    at = data.index(b"keras_version\0\0\0") + 16
    assert data[at : at + 2] == b"\x19\x01"
    for kind in (0x00, 0x02, 0x1C, 0x31, 0xFF):
        for place, value in ((1, kind), (2, 7), (12, 28)):
            damaged = bytearray(data)
            damaged[at + place] = value
            (tmp_path / "damaged.h5").write_bytes(damaged)
            assert not SEEDS.attempt(tmp_path / "damaged.h5")


@pytest.mark.parametrize("size", [2**64 - 16, 2**64 - 32, 2**64 - 1, 2**63, 1 << 20])
def test_a_heap_of_texts_whose_object_does_not_end_in_it(size: int, tmp_path: Path) -> None:
    """The library adds its size to where it is, which wraps around: it stays there, or goes back, for ever."""
    [whole, *_] = SEEDS.FORMATS["h5"][1](tmp_path)
    data = bytearray(whole.read_bytes())
    first = data.index(b"GCOL\x01") + 16  # behind the header: number, references, zeros, size
    data[first + 8 : first + 16] = size.to_bytes(8, "little")
    (tmp_path / "damaged.h5").write_bytes(data)
    assert not SEEDS.attempt(tmp_path / "damaged.h5")
