"""``--into EXISTING``: converted layers in files that other frameworks made, which load them, run them, and else find
every byte where it was."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from helpers import HIDDEN, INPUT, layer, same_weights
from lstmbridge import Layer, arrays, check, convert, migrate, read, reference, zipcopy
from lstmbridge.cli import main
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, OptionError, UnknownName, Unsupported
from lstmbridge.into import Into
from lstmbridge.pipeline import Migration
from lstmbridge.stored import Noted, replaced

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

BOTH = ("forward", "reverse")
WORDS, UNITS, CLASSES = 9, 7, 3
BOUND = 2e-6


def encoder(seed: int = 0, **features: Any) -> Layer:
    """A bidirectional LSTM; of one bias unless it is said."""
    return layer(**{"path": "first", "directions": BOTH, "bias": "single", "seed": seed, **features})


def decoder(seed: int = 1, **features: Any) -> Layer:
    """The GRU that reads it."""
    given = {"path": "second", "input_size": 2 * HIDDEN, "hidden_size": UNITS, "bias": "dual", "seed": seed}
    return layer("gru", **{**given, **features}).replace(after="first")


SOURCE = (encoder(), decoder())


def truth(layers: Sequence[Layer], x: np.ndarray) -> np.ndarray:
    """What the equations give for a chain, x (b, t, i)."""
    return reference.run_stack(layers, np.asarray(x, np.float64))[-1].y


def put(source: Any, existing: Path, **options: Any) -> Migration:
    """The layers in a copy beside `existing`, which itself does not change."""
    before = digest(existing)
    target = options.pop("path", existing.with_name(f"new.{existing.name}"))
    try:
        return migrate(source, path=target, into=existing, **options)
    finally:
        assert digest(existing) == before or target == existing


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed(a: Path, b: Path) -> list[int]:
    """Where two files of one size differ."""
    one, other = (np.frombuffer(each.read_bytes(), np.uint8) for each in (a, b))
    assert one.size == other.size
    return np.flatnonzero(one != other).tolist()


def padded(single: Layer) -> Layer:
    """A layer of one bias as a framework of two holds it: the second is zero."""
    spec, zero = single.spec.replace(bias="dual"), np.zeros(single.spec.hidden_size, np.float32)
    return Layer(spec=spec, weights={name: single.weights.get(name, zero) for name in spec.names()})


# ---- torch


class Tagger(nn.Module):
    """Words -> LSTM -> GRU -> classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, INPUT)
        self.encoder = nn.LSTM(INPUT, HIDDEN, bidirectional=True, batch_first=True)
        self.decoder = nn.GRU(2 * HIDDEN, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:  # torch.jit reads these
        return self.decoder(self.encoder(self.embedding(words))[0])[0]


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    """A checkpoint with the state of an optimizer, and other things."""
    torch.manual_seed(2)
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "names": ["a", "b"]}


def save(checkpoint: dict[str, Any], path: Path) -> Path:
    """The checkpoint in the form that a file's name says."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(checkpoint["model"], path, metadata={"of": "somebody"})
    elif path.name.startswith("packed"):
        torch.save(checkpoint, path.with_name("plain.pt"))
        with zipfile.ZipFile(path.with_name("plain.pt")) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not path.name.startswith("legacy"))
    return path


def load(path: Path) -> Any:
    """What torch itself reads."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {"model": load_file(path)}
    return torch.load(path, weights_only=True)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a nest, by its way there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        yield name, value
    else:
        for key, each in items:
            yield from leaves(each, f"{name}.{key}")


FORMS = ["zip.pt", "legacy.pth", "packed.pt", "plain.safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_a_torch_checkpoint_takes_the_layers_and_keeps_all_else(
    form: str, checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    existing = save(checkpoint, tmp_path / form)
    done = put(SOURCE, existing)
    assert [(each.label, each.target_label) for each in done.reports] == [("first", "encoder"), ("second", "decoder")]
    assert [each.verdict for each in done.reports] == ["exact", "exact"]
    found, before = load(done.result), load(existing)
    model = Tagger()
    model.load_state_dict(found["model"], strict=True)
    first, second = read(model)
    same_weights(_host(first), padded(SOURCE[0]).replace(path="encoder"))
    same_weights(_host(second), SOURCE[1])
    words = torch.arange(2 * 4).reshape(2, 4)
    with torch.no_grad():
        x, y = model.embedding(words).numpy(), model(words).numpy()
    assert np.abs(y - truth(SOURCE, x)).max() < BOUND
    assert list(dict(leaves(found))) == list(dict(leaves(before)))
    for (name, new), (_, old) in zip(leaves(found), leaves(before), strict=True):
        if not name.startswith((".model.encoder", ".model.decoder")):
            assert (new == old).all() if isinstance(new, torch.Tensor) else new == old, name


def _host(live: Layer) -> Layer:
    return live.replace(weights={name: arrays.host(array) for name, array in live.weights.items()})


def test_of_a_zip_only_the_bytes_of_the_storages_and_their_checksums_change(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    existing = save(checkpoint, tmp_path / "zip.pt")
    new = put(SOURCE, existing).result
    touched, free = 0, set(changed(existing, new))
    with zipfile.ZipFile(existing) as old, zipfile.ZipFile(new) as copy:
        assert copy.testzip() is None  # every checksum is right
        assert [each.filename for each in copy.infolist()] == [each.filename for each in old.infolist()]
        for a, b in zip(old.infolist(), copy.infolist(), strict=True):
            assert (a.header_offset, a.extra, a.date_time) == (b.header_offset, b.extra, b.date_time)
            start = _data_start(existing, a)
            if old.read(a) == copy.read(b):
                assert not free & set(range(start, start + a.file_size))
                continue
            touched += 1
            assert start % 64 == 0
            free -= set(range(start, start + a.file_size))
            assert a.filename.partition("/")[2].startswith("data/")
    assert touched == 12  # 2 x 4 of the LSTM's parameters (the second biases too), 4 of the GRU's
    assert len(free) <= touched * 3 * 4, "checksums: in the header, behind the data, in the directory"


def _data_start(path: Path, member: zipfile.ZipInfo) -> int:
    name, extra = struct.unpack_from("<HH", path.read_bytes(), member.header_offset + 26)
    return member.header_offset + 30 + name + extra


def test_of_a_safetensors_file_only_the_tensors_of_the_layers_change(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    existing = save(checkpoint, tmp_path / "plain.safetensors")
    new = put(SOURCE, existing).result
    size = int.from_bytes(existing.read_bytes()[:8], "little")
    header = json.loads(existing.read_bytes()[8 : 8 + size])
    assert header.pop("__metadata__") == {"of": "somebody"}
    spans = [each["data_offsets"] for name, each in header.items() if name.startswith(("encoder", "decoder"))]
    mine = {at + 8 + size for start, stop in spans for at in range(start, stop)}
    assert set(changed(existing, new)) <= mine


def test_views_with_offsets_and_strides_are_written_through(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """All of one storage: one parameter stored transposed, one in the middle, and numbers that are nobody's."""
    state = dict(checkpoint["model"])
    names = [name for name in state if name.startswith("encoder")]
    flat = torch.randn(sum(state[name].numel() for name in names) + 50)
    at = 17
    for name in names:
        shape = tuple(state[name].shape)
        piece = flat[at : at + state[name].numel()]
        state[name] = piece.view(shape[::-1]).t() if len(shape) == 2 else piece
        at += piece.numel() + 2
    existing = tmp_path / "views.pt"
    torch.save(state, existing)
    new = load(put(SOURCE, existing).result)
    model = Tagger()
    model.load_state_dict(new)
    same_weights(_host(read(model)[0]), padded(SOURCE[0]))
    assert new["encoder.weight_ih_l0"].stride() == (1, 4 * HIDDEN)
    storage = torch.empty(0).set_(new["encoder.weight_ih_l0"].untyped_storage())
    assert (storage[:17] == flat[:17]).all()
    assert (storage[at:] == flat[at:]).all()


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pth", "plain.safetensors", "tagger.onnx", "own.npz"])
def test_the_layers_of_a_file_put_into_itself_are_the_same_file(
    name: str, checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    existing = tmp_path / name
    if name.endswith(".onnx"):
        onnx.save(tagger(), existing)
    elif name.endswith(".npz"):
        convert(SOURCE, path=existing)
    else:
        save(checkpoint, existing)
    assert changed(existing, put(existing, existing).result) == []


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_that_something_else_shares_are_not_changed(
    legacy: bool, checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    existing = tmp_path / "tied.pt"
    tied = {**checkpoint["model"], "extra.weight": checkpoint["model"]["encoder.weight_hh_l0"][3:5]}
    endless: list[Any] = [1]
    endless.append(endless)
    torch.save({"model": tied, "endless": endless}, existing, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(Unsupported, match=r"model.\S+ and model.\S+ share their numbers") as found:
        put(SOURCE, existing)
    assert {"model.encoder.weight_hh_l0", "model.extra.weight"} < set(str(found.value).split())
    assert not existing.with_name("new.tied.pt").exists()


def test_two_layers_on_the_same_numbers_are_not_changed_apart(tmp_path: Path) -> None:
    one = nn.GRU(2 * HIDDEN, UNITS)
    existing = tmp_path / "tied.pt"
    torch.save({f"{at}.{name}": each for at in ("a", "b") for name, each in one.state_dict().items()}, existing)
    with pytest.raises(Unsupported, match="shares its numbers"):
        put(SOURCE[1], existing, rename={"second": "a"})


def test_a_weight_that_is_computed_from_others_is_refused(tmp_path: Path) -> None:
    lstm = nn.utils.parametrizations.weight_norm(nn.GRU(2 * HIDDEN, UNITS), "weight_hh_l0")
    existing = tmp_path / "norm.pt"
    torch.save({f"rnn.{name}": each for name, each in lstm.state_dict().items()}, existing)
    with pytest.raises(Unsupported, match=r"rnn: forward.recurrent_kernel.r is not stored as it is read"):
        put(SOURCE[1], existing)
    assert not existing.with_name("new.norm.pt").exists()


def test_a_layer_that_nobody_asked_for_need_not_be_understood(tmp_path: Path) -> None:
    good, odd = nn.GRU(2 * HIDDEN, UNITS), nn.utils.parametrizations.spectral_norm(nn.LSTM(4, 5), "weight_hh_l0")
    existing = tmp_path / "odd.pt"
    state = {f"{at}.{name}": each for at, one in (("a", good), ("b", odd)) for name, each in one.state_dict().items()}
    torch.save(state, existing)
    with pytest.raises(Unsupported, match="spectral"):
        put(SOURCE[1], existing)
    done = put(decoder(path="a"), existing)
    same_weights(read(done.result, only=("a",))[0], SOURCE[1])
    assert any("no other layer was read" in note and "spectral" in note for note in done.notes)
    with pytest.raises(Unsupported, match="spectral"):
        put(layer(path="b", input_size=4, hidden_size=6), existing)


def test_a_checkpoint_of_any_suffix_and_one_of_a_big_endian_machine(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    existing = save(checkpoint, tmp_path / "last.ckpt")
    done = put(SOURCE, existing)
    big = tmp_path / "big.pt"
    with zipfile.ZipFile(existing) as old, zipfile.ZipFile(big, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if "/data/" in member.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(member.filename, b"big" if member.filename.endswith("byteorder") else content)
    for made, expected in zip(read(put(SOURCE, big).result), read(done.result), strict=True):
        same_weights(made, expected)


def test_a_checkpoint_of_several_files_is_refused(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    save(checkpoint, tmp_path / "shard.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(checkpoint["model"], "shard.safetensors")}))
    with pytest.raises(Unsupported, match="in several files, name the one that holds the layers"):
        put(SOURCE, index, path=tmp_path / "new.safetensors.index.json")
    assert not (tmp_path / "new.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("dtype", "verdict"), [("float64", "exact"), ("float32", "exact"), ("float16", "lossy"), ("bfloat16", "lossy")]
)
def test_the_dtype_is_that_of_the_file_and_a_cast_is_said(dtype: str, verdict: str, tmp_path: Path) -> None:
    existing = tmp_path / "other.pt"
    torch.save(nn.GRU(2 * HIDDEN, UNITS, dtype=getattr(torch, dtype)).state_dict(), existing)
    done = put(SOURCE[1], existing)
    [report] = done.reports
    assert report.verdict == verdict
    assert any(f"cast from float32 to {dtype}" in note for note in report.notes) is (dtype != "float32")
    [found] = read(done.result)
    expected = {name: arrays.cast(array, dtype) for name, array in SOURCE[1].weights.items()}
    same_weights(found, SOURCE[1].replace(weights=expected))


def test_a_level_of_a_stack_takes_a_layer_and_its_neighbour_stays(tmp_path: Path) -> None:
    stack = nn.GRU(2 * HIDDEN, UNITS, num_layers=3)
    existing = tmp_path / "stack.pt"
    torch.save({f"rnn.{name}": each for name, each in stack.state_dict().items()}, existing)
    before = read(existing)
    with pytest.raises(Ambiguous, match=r"third could take the place of several layers in stack.pt\n.*l1 or rnn.l2"):
        put(decoder(input_size=UNITS, path="third"), existing)
    agreements = []

    def approve(into: Into) -> None:
        agreements.append(check(upper, into.path, pairs=into.pairs).demand())

    upper = decoder(input_size=UNITS, path="third")
    done = put(upper, existing, rename={"third": "rnn.l2"}, approve=approve)
    assert "left as they are in stack.pt: rnn.l0, rnn.l1" in done.notes
    assert any("by the reference: not all levels" in note for note in agreements[0].notes)
    for old, new in zip(before, read(done.result), strict=True):
        same_weights(new, upper.replace(path="rnn", level=2) if new.level == 2 else old)
    again = nn.GRU(2 * HIDDEN, UNITS, num_layers=3)
    again.load_state_dict({name.removeprefix("rnn."): each for name, each in load(done.result).items()})
    assert [each.path for each in read(again)] == ["", "", ""]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_takes_a_layer_and_runs(tmp_path: Path) -> None:
    existing = tmp_path / "script.pt"
    torch.jit.script(Tagger()).save(existing)
    done = put(SOURCE, existing)
    model = torch.jit.load(done.result)
    words = torch.arange(2 * 4).reshape(2, 4)
    with torch.no_grad():
        x, y = model.embedding(words).numpy(), model(words).numpy()
    assert np.abs(y - truth(SOURCE, x)).max() < BOUND


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_takes_a_layer_and_runs(tmp_path: Path) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(2 * HIDDEN, UNITS, batch_first=True), nn.Linear(UNITS, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.gru(x)[0]
            return y, self.head(y)

    existing, x = tmp_path / "first.pt2", torch.randn(2, 4, 2 * HIDDEN)
    torch.export.save(torch.export.export(First().eval(), (x,)), existing)
    done = put(SOURCE[1], existing)
    with torch.no_grad():
        y, _ = torch.export.load(done.result).module()(x)
    assert np.abs(y.numpy() - truth([SOURCE[1]], x.numpy())).max() < BOUND


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_numbers_that_two_scripted_modules_share_are_not_changed(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.GRU(2 * HIDDEN, UNITS), nn.Linear(UNITS, 3 * UNITS)
            self.b.weight = self.a.weight_hh_l0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)[0])

    existing = tmp_path / "twice.pt"
    torch.jit.script(Twice()).save(existing)
    with pytest.raises(Unsupported, match="share their numbers"):
        put(SOURCE[1], existing)


# ---- Keras


@pytest.fixture(scope="module")
def keras_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which `into_keras.py` has run: the only process that needs TensorFlow."""
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    here = tmp_path_factory.mktemp("keras")
    convert((encoder(bias="dual"), decoder()), path=here / "source.npz")
    program = Path(__file__).with_name("into_keras.py")
    done = subprocess.run([sys.executable, str(program), str(here)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return here


KERAS = ["big.keras", "big.h5", "big.weights.h5"]


@pytest.mark.parametrize("name", KERAS)
def test_keras_loads_and_runs_what_was_put_into_its_files(name: str, keras_ran: Path) -> None:
    with np.load(keras_ran / "ran.npz") as ran:
        x = ran["embedding"][ran["words"]]
        first, second = read(keras_ran / "source.npz")
        assert np.abs(ran[f"{name}/encoder"] - truth([first], x)).max() < BOUND
        assert np.abs(ran[f"{name}/decoder"] - truth([first, second], x)).max() < BOUND
        before = {key.partition("before/")[2]: ran[key] for key in ran if key.startswith(f"{name}/before/")}
        after = {key.partition("after/")[2]: ran[key] for key in ran if key.startswith(f"{name}/after/")}
    kept = [key for key in before if name == "big.keras" or not key.startswith("optimizer")]
    assert len(kept) == (3 + 2 + 2 * 12 if name == "big.keras" else 3)
    for key in kept:
        assert np.array_equal(after[key], before[key]), key


def test_check_compares_what_was_put_into_a_keras_model(keras_ran: Path) -> None:
    with np.load(keras_ran / "ran.npz") as ran:
        assert 0 < ran["check"].item() < BOUND


@pytest.mark.parametrize("name", KERAS)
def test_every_other_dataset_attribute_and_member_of_a_keras_file_stays(name: str, keras_ran: Path) -> None:
    old, new = keras_ran / name, keras_ran / f"new.{name}"
    if name.endswith(".keras"):
        with zipfile.ZipFile(old) as a, zipfile.ZipFile(new) as b:
            assert b.testzip() is None
            assert [(m.filename, m.header_offset) for m in a.infolist()] == [
                (m.filename, m.header_offset) for m in b.infolist()
            ]
            assert [m.filename for m in a.infolist() if a.read(m) != b.read(m.filename)] == ["model.weights.h5"]
            old, new = (Path(each.extract("model.weights.h5", keras_ran / side)) for each, side in ((a, "a"), (b, "b")))
    compare_hdf5(old, new)
    assert len(changed(old, new)) <= sum(each.parameters for each in read(keras_ran / "source.npz")) * 4


def compare_hdf5(old: Path, new: Path) -> None:
    """The same groups, attributes and datasets; other numbers in those of the two layers alone, and in all of them."""
    differing = set()
    with h5py.File(old) as a, h5py.File(new) as b:
        names: list[str] = []
        a.visit(names.append)
        others: list[str] = []
        b.visit(others.append)
        assert names == others
        for name in ["/", *names]:
            assert dict(a[name].attrs.items()).keys() == dict(b[name].attrs.items()).keys()
            for key in a[name].attrs:
                assert np.array_equal(a[name].attrs[key], b[name].attrs[key])
            if isinstance(a[name], h5py.Dataset) and a[name].id.get_storage_size():
                assert a[name].dtype == b[name].dtype
                if a[name][()].tobytes() != b[name][()].tobytes():
                    differing.add(name)
    assert len(differing) == 9
    own = ("bidirectional", "encoder", "gru", "decoder")
    assert all(any(word in name for word in own) and "optimizer" not in name for name in differing)


def test_packed_datasets_and_packed_members_are_packed_again(keras_ran: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.h5"
    with h5py.File(keras_ran / "big.h5") as old, h5py.File(packed, "w") as new:
        new.attrs.update(old.attrs)

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                new.create_dataset(name, data=item[()], **({"compression": "gzip"} if item.ndim else {}))
            else:
                new.require_group(name)
            new[name].attrs.update(item.attrs)

        old.visititems(visit)
    compare_hdf5(packed, put(keras_ran / "source.npz", packed).result)
    deflated = tmp_path / "deflated.keras"
    with zipfile.ZipFile(keras_ran / "big.keras") as old_zip, zipfile.ZipFile(deflated, "w") as new_zip:
        new_zip.comment = b"by somebody"
        for member in old_zip.infolist():
            new_zip.writestr(member.filename, old_zip.read(member), zipfile.ZIP_DEFLATED)
    done = put(keras_ran / "source.npz", deflated)
    with zipfile.ZipFile(deflated) as a, zipfile.ZipFile(done.result) as b:
        assert b.testzip() is None
        assert b.comment == a.comment
        packed_as = [[(m.filename, m.compress_type) for m in each.infolist()] for each in (a, b)]
        assert packed_as[0] == packed_as[1]
        assert [m.filename for m in a.infolist() if a.read(m) != b.read(m.filename)] == ["model.weights.h5"]
    for made, expected in zip(read(done.result), read(keras_ran / "new.big.keras"), strict=True):
        same_weights(made, expected)


def test_the_remainder_leads_back_from_the_layers_of_a_bigger_model(keras_ran: Path, tmp_path: Path) -> None:
    """Two biases became one: only the remainder knows them."""
    source = read(keras_ran / "source.npz")
    done = put(keras_ran / "source.npz", keras_ran / "big.keras", path=tmp_path / "new.keras")
    assert [each.verdict for each in done.reports] == ["reparameterised", "exact"]
    back = migrate(done.result, to="gates", remainder=done.remainder, layers=["encoder", "decoder"]).result
    for made, original in zip(back, source, strict=True):
        same_weights(made, original)


# ---- ONNX


def initializer(name: str, array: np.ndarray) -> Any:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def arrays_of(made: Layer) -> dict[str, np.ndarray]:
    """A layer's W, R and B as an ONNX node has them."""
    from lstmbridge.frameworks.onnx.layout import LAYOUTS

    return LAYOUTS[made.spec.cell].pack(made.weights, made.spec)


OLD = (padded(encoder(seed=7)), decoder(seed=8))


def tagger(*, behind: bool = False, shared: bool = False, typed: bool = False, ir_version: int = 8) -> Any:
    """Words -> Gather -> LSTM -> GRU -> MatMul; the GRU's B behind a Concat, its W read by another node, too."""
    rng = np.random.default_rng(5)
    first, second = arrays_of(OLD[0]), arrays_of(OLD[1])
    stored = {f"e.{key}": array for key, array in first.items()} | {f"d.{key}": array for key, array in second.items()}
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["x"]),
        helper.make_node("LSTM", ["x", "e.W", "e.R", "e.B"], ["e.Y"], "/encoder/LSTM", hidden_size=HIDDEN,
                         direction="bidirectional"),
        helper.make_node("Transpose", ["e.Y"], ["e.T"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["e.T", "shape"], ["e.C"]),
        helper.make_node("GRU", ["e.C", "d.W", "d.R", "d.B"], ["d.Y"], "/decoder/GRU", hidden_size=UNITS,
                         linear_before_reset=1),
        helper.make_node("Squeeze", ["d.Y", "one"], ["y"]),
        helper.make_node("MatMul", ["y", "head"], ["scores"]),
    ]  # fmt: skip
    outputs = ["y", "scores"]
    if behind:
        half = stored.pop("d.B")
        stored |= {"d.B0": half[:, : 3 * UNITS], "d.B1": half[:, 3 * UNITS :]}
        nodes.insert(0, helper.make_node("Concat", ["d.B0", "d.B1"], ["d.B"], axis=1))
    if shared:
        nodes.append(helper.make_node("Identity", ["d.W"], ["W"]))
        outputs.append("W")
    stored |= {"table": rng.normal(size=(WORDS, INPUT)).astype("f4"), "head": rng.normal(size=(UNITS, 3)).astype("f4")}
    tensors = [initializer(name, array) for name, array in stored.items()]
    if typed:
        tensors = [helper.make_tensor(name, TensorProto.FLOAT, a.shape, a.ravel()) for name, a in stored.items()]
    tensors += [initializer("shape", np.array([0, 0, -1])), initializer("one", np.array([1]))]
    given = [helper.make_tensor_value_info("words", TensorProto.INT64, ["t", "b"])]
    if ir_version < 4:
        given += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    made = helper.make_graph(nodes, "tagger", given, told, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)


#: A field of a later version of the format, or of somebody's own: number 777, four bytes.
STRANGE = b"\xca\x30\x04abcd"


def ran(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What onnxruntime gives: x (b, t, i), y (b, t, h)."""
    words = np.arange(8).reshape(4, 2)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    y, scores = session.run(["y", "scores"], {"words": words})
    model = onnx.load(path)
    held = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert np.abs(scores - y @ held["head"]).max() < 1e-5
    return held["table"][words].transpose(1, 0, 2), y.transpose(1, 0, 2)


@pytest.mark.parametrize("form", ["own", "typed", "behind", "shared", "old"])
def test_an_onnx_graph_takes_the_layers_and_onnxruntime_runs_it(form: str, tmp_path: Path) -> None:
    forms: dict[str, dict[str, Any]] = {
        "own": {}, "typed": {"typed": True}, "behind": {"behind": True}, "shared": {"shared": True},
        "old": {"behind": True, "ir_version": 3},
    }  # fmt: skip
    existing = tmp_path / "tagger.onnx"
    existing.write_bytes(STRANGE + tagger(**forms[form]).SerializeToString() + STRANGE)
    done = put(SOURCE, existing)
    assert [each.target_label for each in done.reports] == ["encoder.LSTM", "decoder.GRU"]
    x, y = ran(done.result)
    assert np.abs(y - truth(SOURCE, x)).max() < BOUND
    found = read(done.result)
    same_weights(found[0], padded(SOURCE[0]).replace(spec=found[0].spec))
    same_weights(found[1], SOURCE[1])
    old, new = onnx.load(existing), onnx.load(done.result)
    held = [{t.name: t.SerializeToString() for t in each.graph.initializer} for each in (old, new)]
    added = [name for name in held[1] if name not in held[0]]
    own = {"e.W", "e.R", "e.B", "d.W", "d.R", "d.B"}
    assert {name for name in held[0] if held[0][name] != held[1][name]} == {
        "own": own, "typed": own, "behind": own - {"d.B"}, "shared": own - {"d.W"}, "old": own - {"d.B"}
    }[form]  # fmt: skip
    assert added == {"behind": ["decoder.GRU.B"], "shared": ["decoder.GRU.W"], "old": ["decoder.GRU.B"]}.get(form, [])
    assert any("the node now reads the new initializer" in note for note in done.notes) is bool(added)
    if added:
        assert len(done.result.read_bytes()) > len(existing.read_bytes())
        for a, b in zip(old.graph.node, new.graph.node, strict=True):
            b.input[:] = [{"decoder.GRU.B": "d.B", "decoder.GRU.W": "d.W"}.get(name, name) for name in b.input]
            assert a == b
        assert done.result.read_bytes().startswith(STRANGE)
        assert done.result.read_bytes().endswith(STRANGE)
    else:
        spans = [existing.read_bytes().index(_numbers(t)) for t in old.graph.initializer if t.name in own]
        sizes = [len(_numbers(t)) for t in old.graph.initializer if t.name in own]
        mine = {at for start, size in zip(spans, sizes, strict=True) for at in range(start, start + size)}
        assert set(changed(existing, done.result)) <= mine


def _numbers(tensor: Any) -> bytes:
    return numpy_helper.to_array(tensor).tobytes()


def test_float16_that_stands_in_a_list_of_integers_is_put_as_bytes(tmp_path: Path) -> None:
    gru = arrays_of(OLD[1])
    tensors = [helper.make_tensor(k, TensorProto.FLOAT16, a.shape, a.astype("f2").ravel()) for k, a in gru.items()]
    assert all(len(each.int32_data) for each in tensors)
    graph = helper.make_graph(
        [helper.make_node("GRU", ["X", "W", "R", "B"], ["Y"], "gru", hidden_size=UNITS, linear_before_reset=1)], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT16, ["t", "b", 2 * HIDDEN])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT16, ["t", 1, "b", UNITS])], tensors,
    )  # fmt: skip
    existing = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph), existing)
    done = put(SOURCE[1], existing)
    onnx.checker.check_model(onnx.load(done.result))
    [found] = read(done.result)
    same_weights(found, SOURCE[1].replace(weights={n: a.astype("f2") for n, a in SOURCE[1].weights.items()}))


@pytest.mark.parametrize("where", ["beside", "elsewhere", "itself"])
def test_external_data_is_copied_and_never_written_into(where: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    existing = home / "tagger.onnx"
    onnx.save(tagger(), existing, save_as_external_data=True, location="weights.bin", size_threshold=100)
    before, outside = digest(existing), digest(home / "weights.bin")
    path = {"beside": home / "new.onnx", "elsewhere": tmp_path / "new.onnx", "itself": existing}[where]
    done = put(SOURCE, existing, path=path, force=where == "itself")
    data = home / "weights.bin" if where == "itself" else path.with_name("new.onnx.data")
    assert data.stat().st_size == (home / "weights.bin").stat().st_size
    assert digest(existing) == before, "the model itself says the same even where its numbers are others"
    assert (digest(home / "weights.bin") == outside) is (where != "itself")
    if where == "elsewhere":
        shutil.rmtree(home)  # the copy is whole without it
    x, y = ran(done.result)
    assert np.abs(y - truth(SOURCE, x)).max() < BOUND


def conditional(*, shared: bool) -> Any:
    """A GRU in both branches of an If, its weights outside; the branches share them, or have weights of their own."""
    branches, tensors = [], []
    for side in ("then", "else"):
        names = [f"{'both' if shared else side}.{key}" for key in "WRB"]
        attributes = {"hidden_size": UNITS, "linear_before_reset": 1}
        node = helper.make_node("GRU", ["X", *names], [f"{side}.Y"], f"{side}_gru", **attributes)
        out = helper.make_tensor_value_info(f"{side}.Y", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([node], side, [], [out]))
        if side == "then" or not shared:
            tensors += [initializer(name, array) for name, array in zip(names, arrays_of(OLD[1]).values(), strict=True)]
    choice = helper.make_node("If", ["which"], ["Y"], then_branch=branches[0], else_branch=branches[1])
    graph = helper.make_graph(
        [choice], "g",
        [helper.make_tensor_value_info("which", TensorProto.BOOL, []),
         helper.make_tensor_value_info("X", TensorProto.FLOAT, ["t", "b", 2 * HIDDEN])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_node_in_a_subgraph_takes_a_layer_if_its_weights_are_its_own(tmp_path: Path) -> None:
    existing = tmp_path / "if.onnx"
    onnx.save(conditional(shared=False), existing)
    done = put(SOURCE[1], existing, rename={"second": "else_gru"})
    x = np.random.default_rng(0).normal(size=(2, 6, 2 * HIDDEN)).astype("f4")
    session = onnxruntime.InferenceSession(str(done.result), providers=["CPUExecutionProvider"])
    for which, made in ((True, OLD[1]), (False, SOURCE[1])):
        [y] = session.run(None, {"which": np.array(which), "X": x.transpose(1, 0, 2)})
        assert np.abs(y[:, 0].transpose(1, 0, 2) - truth([made], x)).max() < BOUND
    onnx.save(conditional(shared=True), existing)
    with pytest.raises(Unsupported, match="onnx GRU 'else_gru' stands in a subgraph or function"):
        put(SOURCE[1], existing, rename={"second": "else_gru"}, path=tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_a_node_in_a_function_is_refused_by_name(tmp_path: Path) -> None:
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], "gru", hidden_size=UNITS, linear_before_reset=1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Block", ["x", "w", "r", "b"], ["y"], [node], opsets[:1])
    graph = helper.make_graph(
        [helper.make_node("Block", ["X", "W", "R", "B"], ["Y"], "block", domain="own")], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["t", "b", 2 * HIDDEN])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["t", 1, "b", UNITS])],
        [initializer(name, array) for name, array in arrays_of(OLD[1]).items()],
    )  # fmt: skip
    existing = tmp_path / "function.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8), existing)
    with pytest.raises(Unsupported, match="onnx GRU 'block.gru' stands in a subgraph or function, and its W is not"):
        put(SOURCE[1], existing)


def test_a_layer_that_is_no_node_is_refused_by_name(tmp_path: Path) -> None:
    from lstmbridge.frameworks.onnx.patch import put as put_there

    existing = tmp_path / "tagger.onnx"
    onnx.save(tagger(), existing)
    with pytest.raises(Unsupported, match="'unrolled' is no LSTM, GRU or RNN node, but recovered from other nodes"):
        put_there(existing, [decoder(path="unrolled")], tmp_path / "new.onnx")


def test_a_tensor_of_megabytes_is_put_where_it_stands(tmp_path: Path) -> None:
    """Large tensors are left in the file when a model is parsed."""
    big = decoder(hidden_size=320)
    existing = convert(decoder(seed=5, hidden_size=320), path=tmp_path / "big.onnx")
    done = put(big, existing)
    same_weights(read(done.result)[0], big)
    assert len(onnx.load(done.result).graph.initializer) == len(onnx.load(existing).graph.initializer)
    assert 0 < len(changed(existing, done.result)) <= 4 * big.parameters


# ---- the project's own files


@pytest.mark.parametrize("name", ["own.npz", "own.safetensors"])
def test_a_file_of_our_own_takes_a_layer(name: str, tmp_path: Path) -> None:
    others = (encoder(seed=3, path="x"), decoder(seed=4, path="y", dtype="float32"))
    existing = convert(others, to="gates", path=tmp_path / name)
    done = put(SOURCE[1], existing)
    first, second = read(done.result)
    same_weights(first, others[0])
    same_weights(second, SOURCE[1])
    assert (second.path, second.after) == ("y", others[1].after)
    assert len(changed(existing, done.result)) <= 4 * SOURCE[1].parameters + 100 * 4 * 2
    assert "left as they are in " + name + ": x" in done.notes


def test_bfloat16_in_a_file_of_our_own(tmp_path: Path) -> None:
    import ml_dtypes

    old = decoder(seed=4).replace(weights={n: a.astype(ml_dtypes.bfloat16) for n, a in decoder(seed=4).weights.items()})
    done = put(SOURCE[1], convert(old, path=tmp_path / "b.npz"))
    [found] = read(done.result)
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in SOURCE[1].weights.items()}
    same_weights(found, SOURCE[1].replace(weights=weights))


# ---- which goes where


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """A file of four layers: two GRUs that are alike, an LSTM, and a GRU that resets before."""
    alike = [decoder(seed=n, path=f"gru.{name}") for n, name in enumerate("ab", 20)]
    other = decoder(seed=30, path="early", reset_after=False)
    return convert((*alike, encoder(seed=23, path="lstm"), other), path=tmp_path / "four.npz")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "rename", "place"),
    [
        ("gru.b", {}, "gru.b"),
        ("second", {"second": "gru.a"}, "gru.a"),
        ("deep.second", {"deep": "gru", "deep.second": "gru.b"}, "gru.b"),
    ],
)
def test_a_layer_goes_to_its_own_name_or_where_rename_says(
    path: str, rename: dict[str, str], place: str, existing: Path
) -> None:
    done = put(decoder(path=path), existing, rename=rename)
    assert [each.target_label for each in done.reports] == [place]
    before, after = ({each.label: each for each in read(file)} for file in (existing, done.result))
    for label, made in after.items():
        same_weights(made, decoder() if label == place else before[label])


def test_many_layers_of_other_names_are_told_how_to_say_their_order(tmp_path: Path) -> None:
    names = [f"gru_{n}" for n in range(10)]
    stacked = nn.ModuleDict({f"r{n}": nn.GRU(*decoder().weights["forward.kernel.n"].shape[::-1]) for n in range(10)})
    torch.save(stacked.state_dict(), tmp_path / "ten.pt")
    sources = tuple(decoder(seed=n, path=name) for n, name in enumerate(names))
    with pytest.raises(Ambiguous) as caught:
        put(sources, tmp_path / "ten.pt")
    headline, first, *_, more, way, ready = caught.value.args[0], *caught.value.details
    assert first.startswith(f"{headline.split()[0]}: r0 or r1")
    assert more == "and 2 more layers"
    assert way.startswith("say which: rename=")
    pairs = dict(each.split("=") for each in ready.partition(": ")[2].replace("--rename ", "").split())
    done = put(sources, tmp_path / "ten.pt", rename=pairs)
    assert [each.target_label for each in done.reports] == [f"r{n}" for n in range(10)]
    with pytest.raises(Ambiguous) as caught:
        put(sources[:9], tmp_path / "ten.pt")
    assert "in their order" not in str(caught.value), "which one is left out is not said by any order"


def test_what_is_named_leaves_one_place_for_the_rest(existing: Path) -> None:
    done = put((decoder(seed=40, path="gru.b"), decoder(seed=41, path="x"), encoder(seed=42, path="y")), existing)
    assert [each.target_label for each in done.reports] == ["gru.b", "gru.a", "lstm"]


REFUSED: list[tuple[str, type[BridgeError], str, Callable[[], Any], dict[str, Any]]] = [
    ("several places", Ambiguous, r"second could take the place of several.*gru.a or gru.b", decoder, {}),
    ("no place: sizes", LayoutError, r"has no place in four.npz.*gru.a: input_size 6 \(in the file 22\)",
     lambda: decoder(input_size=6), {}),
    ("no place: another cell", LayoutError, r"has no place.*lstm: it is a lstm", lambda: layer("rnn", path="z"), {}),
    ("no place: taken", LayoutError, r"third: .*gru.a or gru.b",
     lambda: tuple(decoder(path=name) for name in ("second", "third", "fourth")), {}),
    ("another size under the name", LayoutError, r"does not go into 'gru.a'.*hidden_size 4 \(in the file 7\)",
     lambda: decoder(path="gru.a", hidden_size=4), {}),
    ("another cell under the name", Unsupported, r"'lstm' in four.npz cannot express a gru layer",
     lambda: decoder(path="lstm"), {}),
    ("another reset", Unsupported, "cannot express a GRU with reset_after=True", lambda: decoder(path="early"), {}),
    ("another activation", Unsupported, r"gate activation hard_sigmoid\(0.2, 0.5\) \(it has sigmoid\)",
     lambda: decoder(path="gru.a", activations=("hard_sigmoid", "tanh")), {}),
    ("another clip", Unsupported, "cannot express clip 3", lambda: decoder(path="gru.a", clip=3.0), {}),
    ("a bias that it has not", Unsupported, r"dual bias|b_hn", lambda: decoder(path="bare"), {}),
    ("another cell where rename says, and one more", Unsupported, r"'lstm' in four.npz cannot express a gru layer",
     lambda: (decoder(path="p"), encoder(path="q")), {"rename": {"p": "lstm"}}),
    ("no such name", UnknownName, r"unknown layer of four.npz 'gru.c'\n.*did you mean 'gru.", decoder,
     {"rename": {"second": "gru.c"}}),
    ("nothing of that name here", UnknownName, "unknown layer to rename 'x'", decoder, {"rename": {"x": "gru.a"}}),
    ("two for one place", LayoutError, "two layers named 'gru.a'",
     lambda: (decoder(path="p"), decoder(path="q")), {"rename": {"p": "gru.a", "q": "gru.a"}}),
    ("a dtype", LayoutError, "into= with dtype=", lambda: decoder(path="gru.a"), {"dtype": "float16"}),
    ("an operator set", LayoutError, "into= with opset=", lambda: decoder(path="gru.a"), {"opset": 13}),
    ("another framework", FileError, "four.npz is a gates file", lambda: decoder(path="gru.a"), {"to": "torch"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "words", "source", "options"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
def test_what_has_no_one_place_is_refused_and_nothing_is_written(
    kind: type[BridgeError], words: str, source: Callable[[], Any], options: dict[str, Any], existing: Path
) -> None:
    bare = convert((*read(existing), decoder(seed=50, path="bare", bias="none")), path=existing, force=True)
    assert bare == existing
    with pytest.raises(kind, match=f"(?s){words}"):
        put(source(), existing, **options)
    assert [each.name for each in existing.parent.iterdir()] == [existing.name]


def test_what_the_existing_layer_has_and_the_source_has_not_is_refused(tmp_path: Path) -> None:
    full = layer(path="x", peepholes=True, clip=3.0, forget_constant=1.0, coupled=True)
    existing = convert(full, path=tmp_path / "full.npz")
    for features, words in (
        ({"clip": 3.0, "forget_constant": 1.0, "coupled": True}, "has peepholes"),
        ({"peepholes": True, "forget_constant": 1.0, "coupled": True}, "has clip 3"),
        ({"peepholes": True, "clip": 5.0, "forget_constant": 1.0, "coupled": True}, "has clip 3"),
        ({"peepholes": True, "clip": 3.0, "coupled": True}, r"has forget_constant 1"),
        ({"peepholes": True, "clip": 3.0, "forget_constant": 1.0}, "has coupled"),
    ):
        with pytest.raises(Unsupported, match=words):
            put(layer(path="x", **features), existing)
        with pytest.raises(LayoutError, match=f"no place in full.npz\n.*{words.removeprefix('has ')}"):
            put(layer(path="y", **features), existing)
    same = layer(path="y", seed=3, peepholes=True, clip=3.0, forget_constant=1.0, coupled=True)
    same_weights(read(put(same, existing).result)[0], same)


def test_a_constant_is_folded_and_what_is_given_up_by_name_goes(tmp_path: Path) -> None:
    existing = convert(layer(path="x"), path=tmp_path / "plain.npz")
    source = layer(path="y", seed=2, forget_constant=1.0, peepholes=True)
    with pytest.raises(LayoutError, match="it does not compute peepholes"):
        put(source, existing)
    done = put(source, existing, allow={"drop peepholes"})
    [report], [found] = done.reports, read(done.result)
    assert report.verdict == "lossy"
    assert np.array_equal(found["forward.bias.f"], source["forward.bias.f"] + np.float32(1))
    assert np.array_equal(found["forward.bias.i"], source["forward.bias.i"])


def test_nothing_is_left_where_it_is_not_approved(existing: Path) -> None:
    def approve(into: Into) -> None:
        assert into.pairs == {"second": "gru.a"}
        assert len(read(into.path)) == 4
        raise LayoutError("no")

    with pytest.raises(LayoutError, match="^no$"):
        put(SOURCE[1], existing, rename={"second": "gru.a"}, approve=approve)
    assert [each.name for each in existing.parent.iterdir()] == [existing.name]


def test_the_existing_file_itself_is_changed_only_by_force(existing: Path) -> None:
    source = decoder(path="gru.a")
    with pytest.raises(FileError, match="exists already"):
        put(source, existing, path=existing)
    put(source, existing, path=existing, force=True)
    same_weights(read(existing)[0], source)
    with pytest.raises(LayoutError, match="without a path"):
        migrate(source, into=existing)
    with pytest.raises(FileError, match="no such file"):
        migrate(source, into=existing.with_name("none.npz"), path=existing.with_name("x.npz"))
    with pytest.raises(FileError, match=r"expected a name that ends in \.npz"):
        migrate(source, into=existing, path=existing.with_name("x.pt"))


# ---- the command


def call(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_the_command_puts_checks_and_tells(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    source = convert(SOURCE, path=tmp_path / "source.npz")
    existing, path = save(checkpoint, tmp_path / "big.pt"), tmp_path / "out.pt"
    found = call("convert", source, path, "--into", existing, "--check")
    assert found.exit_code == 0, found.output
    assert "first -> encoder: exact: lstm 5 -> 11, bidirectional (concat), single bias; rec" in found.output
    assert sum(": agrees" in line for line in found.output.splitlines()) == 5
    assert found.output.splitlines()[-1] == f"wrote {path}"
    again = call("convert", source, path, "--into", existing, "--check", "--json", "--force", "--layer", "second")
    document = json.loads(again.stdout)
    assert [each["target_label"] for each in document["layers"]] == ["decoder"]
    assert document["check"][0]["agrees"] is True
    assert "left as they are in big.pt: encoder" in document["notes"]
    onnx.save(tagger(behind=True), tmp_path / "tagger.onnx")
    found = call("convert", source, tmp_path / "out.onnx", "--into", tmp_path / "tagger.onnx", "--check")
    assert sum(": agrees" in line for line in found.output.splitlines()) == 5
    assert "note: decoder.GRU: B ('d.B') stands behind other nodes" in found.output
    ambiguous = convert(decoder(path="x", input_size=UNITS), path=tmp_path / "x.npz")
    torch.save(nn.GRU(UNITS, UNITS, num_layers=2).state_dict(), tmp_path / "two.pt")
    assert call("convert", ambiguous, tmp_path / "y.pt", "--into", tmp_path / "two.pt").exit_code == 2
    assert not (tmp_path / "y.pt").exists()


def test_check_would_notice_other_numbers_in_the_existing_file(tmp_path: Path) -> None:
    source, other = decoder(), decoder(seed=9, path="place")
    file = convert((encoder(), other), path=tmp_path / "wrong.npz")
    assert not check(source, file, pairs={"second": "place"}).agrees
    assert check(other, file, pairs={"place": "place"}).agrees


# ---- copies of archives


class Stream(io.RawIOBase):
    """A file that cannot be gone back in: sizes and checksums then stand behind the data."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


def archive(path: Path, form: str) -> dict[str, bytes]:
    """An archive of three members, and what they hold."""
    held = {name: bytes(np.random.default_rng(n).integers(0, 9, 3000, np.uint8)) for n, name in enumerate("abc")}
    stream = Stream(path) if form == "streamed" else path.open("wb")
    if form == "behind other bytes":
        stream.write(b"#!/bin/sh, or anything\n")
    packing = zipfile.ZIP_DEFLATED if form == "packed" else zipfile.ZIP_STORED
    with stream, zipfile.ZipFile(stream, "w", packing) as made:
        for name, content in held.items():
            with made.open(zipfile.ZipInfo(name), "w", force_zip64=form == "zip64") as member:
                member.write(content)
    return held


@pytest.mark.parametrize("form", ["stored", "streamed", "behind other bytes", "zip64", "packed"])
def test_a_member_of_an_archive_is_replaced_and_no_other(form: str, tmp_path: Path) -> None:
    old, new, inside = tmp_path / "old.zip", tmp_path / "new.zip", tmp_path / "content"
    held = archive(old, form)
    held["b"], held["c"] = bytes(reversed(held["b"])), bytes(reversed(held["c"]))
    inside.write_bytes(held["c"])
    zipcopy.replaced(old, new, {"b": np.frombuffer(held["b"], np.uint8), "c": inside})
    with zipfile.ZipFile(new) as copy:
        assert copy.testzip() is None
        assert {name: copy.read(name) for name in copy.namelist()} == held
    if form != "packed":
        assert len(changed(old, new)) <= 2 * 3000 + 2 * 3 * 4
    with pytest.raises(FileError, match="no member 'd' in it"):
        zipcopy.replaced(old, tmp_path / "x.zip", {"d": b""})
    old.write_bytes(old.read_bytes()[:5000])
    with pytest.raises(FileError, match="not a readable zip archive"):
        zipcopy.replaced(old, tmp_path / "x.zip", {"b": b""})


# ---- how a view leads back to what is stored


def test_a_view_is_found_where_it_stands_and_a_copy_nowhere() -> None:
    stored = np.arange(60, dtype="f4").reshape(6, 10)
    seen = stored[1:5, ::2].T[::-1]
    noted = Noted()
    noted.add("other", np.zeros(4))
    noted.add("here", stored)
    noted.add("the beginning of it", stored[:2])
    found = noted.place(seen)
    assert found is not None
    content = np.zeros(stored.nbytes, np.uint8)
    found.on(content)[...] = seen
    assert found.name == "here"
    assert np.array_equal(content.view("f4").reshape(6, 10)[1:5, ::2].T[::-1], seen)
    assert noted.place(seen.copy()) is None
    assert Noted().place(seen) is None


def test_numbers_that_two_names_share_would_be_noticed() -> None:
    made = decoder(path="a")
    twin = made.replace(path="b")
    noted = Noted()
    for name, array in made.weights.items():
        noted.add(name, array)
    assert set(replaced([made], [decoder(seed=9, path="a")], noted, "file")) == set(made)
    with pytest.raises(Unsupported, match="file: b: .* shares its numbers"):
        replaced([made, twin], [decoder(seed=9, path="a")], noted, "file")


def test_a_live_model_is_no_file_and_the_way_is_said() -> None:
    with pytest.raises(OptionError, match="into= is a LSTM\n.*path of an existing file\n.*into a live model"):
        migrate(decoder(), path="x.pt", into=nn.LSTM(2, 3))  # type: ignore[arg-type]
