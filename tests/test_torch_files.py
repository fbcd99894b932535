"""torch's files of every kind and age, made by torch itself, and hostile ones made by hand; read without torch."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import io
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

import lstmbridge  # noqa: E402
from lstmbridge import tensorfile  # noqa: E402
from lstmbridge.arrays import same_bits  # noqa: E402
from lstmbridge.contract import ReadOptions  # noqa: E402
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, Unsupported  # noqa: E402
from lstmbridge.frameworks import torch as room  # noqa: E402
from lstmbridge.frameworks.torch import archive, effective, files, live, pickles  # noqa: E402
from lstmbridge.frameworks.torch.pickles import Inert  # noqa: E402
from lstmbridge.reading import read_all  # noqa: E402
from lstmbridge.reference import run_stack  # noqa: E402

#: Much of what is made here is old, and torch says so.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning", "torch.jit.TracerWarning",
                 "torch.serialization.SourceChangeWarning")
]  # fmt: skip

I, H = 5, 11  # noqa: E741


class Model(nn.Module):
    """Two recurrent layers of different sizes, a cell, and a layer that is none of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.ModuleDict({"rnn": nn.LSTM(I, H, 2, bidirectional=True, batch_first=True)})
        self.dec = nn.GRU(2 * H, 7)
        self.cell = nn.RNNCell(7, 4, nonlinearity="relu")
        self.out = nn.Linear(4, 3)
        self.register_buffer("mean", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.enc["rnn"](x)
        y, _ = self.dec(y.transpose(0, 1))
        return self.out(self.cell(y[0]))


def telling(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights of which no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return module


def same(path: Path, module: nn.Module, *, prefix: str = "", **options: Any) -> Any:
    """The reading of a file, after every number of every gate was compared with the module's own."""
    reading = read_all(path, nonlinearity="relu", **options)
    expected = lstmbridge.read(module)
    labels = [f"{prefix}{layer.label}" for layer in expected]
    if path.suffix == ".safetensors" or path.is_dir():  # whose writer sorts the names
        reading = dataclasses.replace(reading, layers=sorted(reading.layers, key=lambda each: labels.index(each.label)))
    assert [layer.label for layer in reading.layers] == labels
    for layer, source in zip(reading.layers, expected, strict=True):
        assert layer.spec == source.spec
        assert all(isinstance(layer[n], np.ndarray) and same_bits(layer[n], source[n]) for n in source)
        assert not any(layer[n].flags.writeable for n in source)
    return reading


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return telling(Model()).eval()


# ---- checkpoints


class Config:
    """A class that only the process that wrote the file knows."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Table(dict):  # type: ignore[type-arg]
    """A dict of somebody's own."""


CHECKPOINTS: Mapping[str, tuple[Callable[[Any], Any], str, str]] = {
    "bare": (lambda state: state, "", ""),
    "lightning": (
        lambda state: {"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
        "state_dict",
        "epoch, hyper_parameters, callbacks",
    ),
    "of an unknown name": (lambda state: {"weights of the best": state, "loss": 0.5}, "weights of the best", "loss"),
    "deeper": (lambda state: {"a": {"b": {"c": state, "n": 1}}, "z": 2}, "a.b.c", "z, a.b.n"),
    "in a list": (lambda state: {"models": [{"epoch": 1}, (state, "best")]}, "models.1.0", "models.0, models.1.1"),
    "twice the same": (lambda state: {"model": state, "best": state}, "model", "best"),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_state_dict_at_any_depth(name: str, new: bool, model: nn.Module, tmp_path: Path) -> None:
    wrap, entry, others = CHECKPOINTS[name]
    path = saved(wrap(model.state_dict()), tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
    reading = same(path, model)
    assert reading.left_alone == ("mean", "out.weight", "out.bias")
    assert reading.notes == ((f"read from the entry {entry!r}; not read: {others}",) if entry else ())


def strange() -> dict[str, Any]:
    """What people keep beside their weights, of classes that a reader must not look up."""
    return {
        "args": argparse.Namespace(lr=0.1, path=Path("/nowhere"), seen={1, 2}, frozen=frozenset({"a"})),
        "config": Config(inner=Config(deep=1), when=datetime.datetime(2020, 1, 2), array=np.arange(3)),
        "table": Table(a=1),
        "count": collections.Counter("abca"),
        "default": collections.defaultdict(list, {"a": [1]}),
        "scalar": np.float64(0.5),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "queue": collections.deque([1, 2]),
        "number": 2**70,
        "complex": 1 + 2j,
        "keys": {(1, 2): 3, 4.5: 6, None: 7},
        "bytes": b"\x00\xff",
        "generator": torch.Generator().get_state(),
        "hook": print,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_objects_of_unknown_classes_beside_the_weights(
    new: bool, protocol: int, model: nn.Module, tmp_path: Path
) -> None:
    moments = {n: {"step": torch.ones(()), "exp_avg": p.detach() / 2} for n, p in enumerate(model.parameters())}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": list(moments)}]}
    content = {**strange(), "net": model.state_dict(), "optimizer": optimizer, "epoch": 3}
    path = saved(content, tmp_path / "a.tar", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    [note] = same(path, model).notes
    assert note.startswith("read from the entry 'net'; not read: args, config, table")
    found = archive.load(path)
    assert all(isinstance(found[name], Inert) for name in ("args", "config", "table", "scalar"))
    kinds = [str(found[name]) for name in ("args", "config", "table")]
    assert kinds == ["argparse.Namespace", f"{__name__}.Config", f"{__name__}.Table"]
    assert (found["default"], found["bytes"]) == ({"a": [1]}, b"\x00\xff")


def test_what_is_no_tensor_in_a_state_dict_is_left_alone(model: nn.Module, tmp_path: Path) -> None:
    state = {**model.state_dict(), "_metadata": {"version": 1}, "_extra_state": Config(), "steps": 3, "name": "x"}
    reading = same(saved(state, tmp_path / "a.pt"), model)
    assert reading.left_alone == ("mean", "out.weight", "out.bias", "_metadata", "_extra_state", "steps", "name")
    for value, words in ((Config(), rf"{__name__}.Config, which is not built"), (3, "of type int")):
        path = saved({**model.state_dict(), "dec.weight_hh_l0": value}, tmp_path / "b.pt")
        with pytest.raises(LayoutError, match=rf"'dec': weight_hh_l0 is not a plain tensor.*\n.*{words}"):
            lstmbridge.read(path)
        assert len(lstmbridge.read(path, only=("enc",))) == 2


def test_several_state_dicts_are_told_apart_by_name(model: nn.Module, tmp_path: Path) -> None:
    other = telling(Model(), seed=1)
    path = saved({"model": model.state_dict(), "ema": {"shadow": other.state_dict()}, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(Ambiguous, match=r"several state dicts.*\n.*found: model, ema.shadow\n.*--layer model"):
        lstmbridge.read(path)
    same(path, model, prefix="model.", only=("model",))
    same(path, other, prefix="ema.shadow.", only=("ema",))
    [layer] = lstmbridge.read(path, only=("ema.shadow.dec",))
    assert same_bits(layer["forward.bias.r"], other.dec.bias_ih_l0[:7])
    migration = lstmbridge.migrate(path, path=tmp_path / "b.pt", layers=("ema.shadow.enc.rnn",))
    assert [report.label for report in migration.reports] == ["ema.shadow.enc.rnn.l0", "ema.shadow.enc.rnn.l1"]
    both = read_all(path, only=("model.dec", "ema.shadow.dec"))
    assert [layer.label for layer in both.layers] == ["model.dec", "ema.shadow.dec"]
    parts = {"encoder": model.enc.state_dict(), "decoder": {"dec." + n: t for n, t in model.dec.state_dict().items()}}
    path = saved(parts, tmp_path / "c.pt")
    [dec] = lstmbridge.read(path, only=("dec",))
    assert dec.label == "dec", "only one of them has such a layer"
    assert read_all(path, only=("dec",)).notes == ("read from the entry 'decoder'; not read: encoder",)


def test_without_a_state_dict(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    cases: list[tuple[type[BridgeError], str, Any]] = [
        (Unsupported, r"whole pickled module, not its state dict\n.*test_torch_files.Model.*\n.*state_dict\(\)", model),
        (Unsupported, r"whole pickled module under 'model'", {"model": model, "epoch": 3}),
        (Unsupported, r"whole pickled module under 'model'", {"moments": {0: {"x": torch.ones(2)}}, "model": model}),
        (FileError, r"no state dict.*\n.*epoch, args \(argparse.N.*\)", {"epoch": 3, "args": argparse.Namespace()}),
        (FileError, r"something else than tensors\n.*str", "text"),
        (FileError, r"no recurrent layer\n.*weight, bias", nn.Linear(2, 3).state_dict()),
        (FileError, r"no recurrent layer\n.*a.weight", {n: nn.Linear(2, 3).state_dict() for n in "ab"}),
    ]  # fmt: skip
    for kind, words, content in cases:
        for new in (True, False):
            saved(content, path, _use_new_zipfile_serialization=new)
            with pytest.raises(kind, match=words):
                lstmbridge.read(path)


def test_a_dict_of_tensors_does_not_say_how_sequences_lie_and_a_note_tells(tmp_path: Path) -> None:
    words = "make {} with batch_first=True, or write .safetensors, which says it"
    enc, dec = (nn.GRU(5, 7, batch_first=first) for first in (True, False))
    done = lstmbridge.migrate(enc, path=tmp_path / "a.pt")
    assert [note.partition(": ")[2] for note in done.notes] == [words.format("the module")]
    assert not lstmbridge.convert(tmp_path / "a.pt", to="torch").batch_first
    assert lstmbridge.convert(tmp_path / "a.pt", to="torch", batch_first=True).batch_first
    both = nn.ModuleDict({"enc": enc, "dec": dec})
    [note] = lstmbridge.migrate(both, path=tmp_path / "b.pt").notes
    assert note.endswith(words.format("enc"))
    five = nn.ModuleDict({f"r{n}": nn.GRU(5, 7, batch_first=True) for n in range(5)})
    [note] = lstmbridge.migrate(five, path=tmp_path / "d.pt").notes
    assert note.endswith(words.format("r0, r1, r2 and 2 more"))
    for silent in (
        lstmbridge.migrate(dec, path=tmp_path / "c.pt"),
        lstmbridge.migrate(both, path=tmp_path / "b.safetensors"),
        lstmbridge.migrate(nn.GRUCell(5, 7), path=tmp_path / "e.pt"),
        lstmbridge.migrate(enc, path=tmp_path / "f.pt", batch_first=False),
    ):
        assert not silent.notes
    again = lstmbridge.convert(tmp_path / "b.safetensors", to="torch")
    assert (again.enc.batch_first, again.dec.batch_first) == (True, False)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "net.module."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prefixes_of_wrappers(prefix: str, suffix: str, model: nn.Module, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        saved(state, path)
    else:
        tensorfile.save({name: tensor.numpy() for name, tensor in state.items()}, path)
    stripped = prefix in ("module.", "_orig_mod.", "_orig_mod.module.")
    reading = same(path, model, prefix="" if stripped else prefix)
    assert reading.notes == ((f"all names begin with {prefix!r}, which was left out",) if stripped else ())
    assert set(reading.left_alone) == {("" if stripped else prefix) + n for n in ("mean", "out.weight", "out.bias")}


def test_prefixes_that_only_some_have_stay(model: nn.Module, tmp_path: Path) -> None:
    wrapped = Model()
    wrapped.load_state_dict(model.state_dict())
    wrapped.dec = nn.DataParallel(wrapped.dec)
    path = saved({"state_dict": wrapped.state_dict()}, tmp_path / "a.pt")
    assert [layer.label for layer in lstmbridge.read(path, nonlinearity="relu")][2] == "dec.module"
    some = {f"module.{name}": tensor for name, tensor in model.state_dict().items()} | {"head": torch.ones(2)}
    assert [layer.label for layer in lstmbridge.read(saved(some, path), only=("module.dec",))] == ["module.dec"]
    path = saved(nn.DataParallel(Model()).state_dict(), tmp_path / "b.pt")
    [layer] = lstmbridge.read(path, only=("dec",))
    assert layer.label == "dec"


# ---- weights that are computed


def last(module: nn.Module, name: str) -> int:
    """The last axis of a parameter."""
    return int(getattr(module, name).dim()) - 1


NORMED: Mapping[str, Callable[[nn.Module, str], Any]] = {
    "hook": nn.utils.weight_norm,
    "hook, columns": lambda module, name: nn.utils.weight_norm(module, name, dim=last(module, name)),
    "hook, whole": lambda module, name: nn.utils.weight_norm(module, name, dim=None),
    "parametrised": parametrizations.weight_norm,
    "parametrised, columns": lambda module, name: parametrizations.weight_norm(module, name, dim=last(module, name)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", NORMED)
def test_weight_norm(name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effective, "_BLOCK", 40)  # so that there are several
    normed = ("weight_hh_l0", "weight_ih_l1_reverse", "bias_hh_l0_reverse")
    module = nn.GRU(I, H, 2, bidirectional=True, dtype=getattr(torch, dtype))
    names = list(module.state_dict())
    for each in normed:
        NORMED[name](module, each)
    telling(module)
    for hook in module._forward_pre_hooks.values():  # what torch does before it runs the module
        setattr(module, hook.name, hook.compute_weight(module))
    whole = nn.ModuleDict({"rnn": module})
    path = saved({"model": whole.state_dict(), "epoch": 1}, tmp_path / "a.pt")
    found = lstmbridge.convert(path, to="torch").state_dict()
    assert set(found) == set(names)
    for each in names:
        tensor, expected = found[each], getattr(module, each).detach()
        bound = 3 * torch.finfo(tensor.dtype).eps * expected.abs().max().double() if each in normed else 0
        assert tensor.dtype == expected.dtype
        assert (tensor.double() - expected.double()).abs().max() <= bound, each
    reading = read_all(path)
    assert reading.left_alone == ()
    who, _, rest = reading.notes[1].partition(": ")
    computed, _, rest = rest.partition(" computed from their parts (weight norm")
    assert (who, set(computed.split(", "))) == ("rnn", set(normed))
    assert rest.endswith("the parts are kept neither in the result nor in a remainder")


def test_weight_norm_runs_as_torch_runs_it(tmp_path: Path) -> None:
    module = parametrizations.weight_norm(telling(nn.LSTM(I, H, batch_first=True)).double(), "weight_hh_l0")
    telling(module, seed=3)
    x = np.random.default_rng(0).normal(size=(2, 7, I))
    with torch.no_grad():
        y, (h, c) = module(torch.tensor(x))
    layers = lstmbridge.read(saved(module.state_dict(), tmp_path / "a.pt"))
    [outcome] = run_stack(layers, x)
    for found, expected in ((outcome.y, y), (outcome.h, h), (outcome.c, c)):
        assert np.abs(found - expected.numpy()).max() < 1e-14


def test_weight_norm_of_nothing_is_torchs_nothing(tmp_path: Path) -> None:
    module = parametrizations.weight_norm(telling(nn.LSTM(I, H)), "weight_hh_l0")
    module.parametrizations.weight_hh_l0.original1.data[3] = 0
    [layer] = lstmbridge.read(saved(module.state_dict(), tmp_path / "a.pt"))
    assert np.isnan(layer["forward.recurrent_kernel.i"][3]).all()
    assert np.isnan(module.weight_hh_l0[3].detach().numpy()).all()
    state = module.state_dict()
    state["parametrizations.weight_hh_l0.original0"] = torch.ones(7, 1)
    with pytest.raises(LayoutError, match=r"g has shape \(7, 1\), its v \(44, 11\)"):
        lstmbridge.read(saved(state, tmp_path / "b.pt"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pruning(dtype: str, tmp_path: Path) -> None:
    module = telling(nn.LSTM(I, H, dtype=getattr(torch, dtype)))
    for name in ("weight_hh_l0", "bias_ih_l0"):
        prune.random_unstructured(module, name, amount=0.4)
    reading = read_all(saved(module.state_dict(), tmp_path / "a.pt"))
    plain = nn.LSTM(I, H, dtype=getattr(torch, dtype))
    for name in plain.state_dict():
        getattr(plain, name).data.copy_(getattr(module, name))
    assert (plain.weight_hh_l0 == 0).any()
    same(tmp_path / "a.pt", plain)
    [note] = reading.notes
    assert note.startswith("the module: ")
    assert " computed from their parts (pruning, original times mask); " in note
    state = {**module.state_dict(), "weight_hh_l0_mask": torch.ones(3, 3)}
    with pytest.raises(LayoutError, match=r"mask has shape \(3, 3\)\n.*\(44, 11\)"):
        lstmbridge.read(saved(state, tmp_path / "b.pt"))


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_other_parametrisations_are_refused_by_name(tmp_path: Path) -> None:
    def old(module: nn.Module) -> nn.Module:
        return nn.utils.spectral_norm(module, "weight_hh_l0")

    cases = {
        "a spectral norm": lambda module: parametrizations.spectral_norm(module, "weight_hh_l0"),
        "a spectral norm ": old,
        "an orthogonal": lambda module: parametrizations.orthogonal(module, "weight_hh_l0"),
        "holds no name": lambda module: nn.utils.parametrize.register_parametrization(
            module, "weight_hh_l0", Doubled()
        ),
    }
    for words, make in cases.items():
        whole = nn.ModuleDict({"bad": make(nn.LSTM(I, H)), "good": nn.GRU(I, 7)})
        path = saved(whole.state_dict(), tmp_path / "a.pt")
        with pytest.raises(Unsupported, match=rf"bad.weight_hh_l0 is computed by .*{words.strip()}.*\n.*\n.*remove_"):
            lstmbridge.read(path)
        assert [layer.label for layer in lstmbridge.read(path, only=("good",))] == ["good"]


# ---- TorchScript and exported programs


@pytest.fixture(scope="module")
def scripted(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("script")
    compiled = torch.jit.script(model)
    torch.jit.save(compiled, folder / "scripted.pt")
    torch.jit.save(torch.jit.trace(model, torch.ones(2, 3, I), check_trace=False), folder / "traced.model")
    torch.jit.save(torch.jit.freeze(compiled), folder / "frozen.pt")
    return folder


def as_it_was(reading: Any, module: nn.Module) -> None:
    """Asserts that the layers say all that the module does."""
    for layer, source in zip(reading.layers, lstmbridge.read(module), strict=True):
        assert (layer.label, layer.spec) == (source.label, source.spec)
        assert all(same_bits(layer[n], source[n]) for n in source)
        assert layer.metadata["class"] == source.metadata["class"]
        assert layer.metadata.get("batch_first") == source.metadata.get("batch_first")


@pytest.mark.parametrize("name", ["scripted.pt", "traced.model"])
def test_torchscript(name: str, scripted: Path, model: nn.Module) -> None:
    reading = read_all(scripted / name)  # the activation of the cell stands in the code
    as_it_was(reading, model)
    assert set(reading.left_alone) == {"mean", "out.weight", "out.bias"}
    assert [layer.label for layer in lstmbridge.read(scripted / name, only=("dec",))] == ["dec"]


class Own(nn.GRU):
    """A class of somebody's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[0]


class Three(nn.Module):
    """Two names for one module, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = telling(Own(I, I))
        self.third = telling(nn.RNN(I, H, nonlinearity="relu", batch_first=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x)))[0]


def test_torchscript_of_own_and_shared_modules(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Three(), torch.ones(3, 2, I), check_trace=False), tmp_path / "a.pt")
    reading = read_all(tmp_path / "a.pt")
    first, second, third = reading.layers
    assert [layer.label for layer in reading.layers] == ["first", "second", "third"], "as in the state dict"
    assert all(same_bits(first[name], second[name]) for name in first)
    assert third.spec.activation("candidate").name == "relu"
    assert third.metadata["batch_first"] is True
    for note, name in zip(reading.notes, ("first", "second"), strict=True):
        assert note.startswith(f"{name}: its class is __torch__.")
        assert note.endswith("Own; read as torch's own, by its weights")
    wrapped = nn.Sequential(collections.OrderedDict(module=Three().third))
    torch.jit.save(torch.jit.trace(wrapped, torch.ones(2, 3, I), check_trace=False), tmp_path / "b.pt")
    [layer] = lstmbridge.read(tmp_path / "b.pt")
    assert (layer.label, layer.metadata["batch_first"]) == ("", True)
    assert layer.spec == third.spec


def test_torchscript_without_named_weights(scripted: Path) -> None:
    with pytest.raises(Unsupported, match=r"frozen TorchScript.*\n.*before torch.jit.freeze"):
        lstmbridge.read(scripted / "frozen.pt")


def test_an_exported_program(model: nn.Module, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(model, (torch.ones(2, 3, I),)), tmp_path / "a.pt2")
    reading = read_all(tmp_path / "a.pt2")  # the activation of the cell stands in the graph
    as_it_was(reading, model)
    assert set(reading.left_alone) == {"mean", "out.weight", "out.bias"}
    assert reading.notes == ()
    table = "a/data/weights/model_weights_config.json"
    with zipfile.ZipFile(tmp_path / "a.pt2") as old:
        config = json.loads(old.read(table))
    changes: list[Callable[[Any], Any]] = [
        lambda c: c["config"]["dec.weight_ih_l0"].update(path_name="../../../etc/passwd"),
        lambda c: c["config"]["dec.weight_ih_l0"]["tensor_meta"]["sizes"][0].update(as_int=1 << 40),
        lambda c: c["config"]["dec.weight_ih_l0"]["tensor_meta"]["storage_offset"].update(as_int=-1),
        lambda c: c["config"].update({"dec.weight_ih_l0": []}),
        lambda c: c.update(config=[]),
    ]
    for change in changes:
        changed = copy.deepcopy(config)
        change(changed)
        repacked(tmp_path / "a.pt2", tmp_path / "b.pt2", {table: json.dumps(changed).encode()})
        with pytest.raises(BridgeError, match=r"b\.pt2"):
            lstmbridge.read(tmp_path / "b.pt2", nonlinearity="relu")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(Unsupported, match="weights are not in a form that is read here"):
        lstmbridge.read(tmp_path / "old.pt2")


def repacked(source: Path, target: Path, replace: Mapping[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
    """The archive with other contents of some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, replace.get(name, old.read(name)))
    return target


# ---- quantised layers


def test_quantised_layers_are_refused_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.cell, self.plain = nn.LSTM(I, H), nn.GRUCell(H, 4), nn.GRU(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.plain(self.cell(self.rnn(x)[0][0]))[0]

    float_model = Two()
    quantised = torch.ao.quantization.quantize_dynamic(float_model, {nn.LSTM, nn.GRUCell}, dtype=torch.qint8)
    quantised.plain = float_model.plain
    observed = nn.ModuleDict({"rnn": torch.ao.nn.quantizable.LSTM(I, H), "plain": nn.GRU(4, 3)})
    torch.jit.save(torch.jit.script(quantised), tmp_path / "s.pt")
    for path, what in (
        (saved(quantised.state_dict(), tmp_path / "a.pt"), "'rnn' is a dynamically quantised layer"),
        (saved(observed.state_dict(), tmp_path / "b.pt"), "'rnn' is a layer made for quantisation"),
        (tmp_path / "s.pt", "'rnn' is quantised .*quantized.dynamic"),
    ):
        with pytest.raises(Unsupported, match=rf"{what}(.|\n)*convert a file of"):
            lstmbridge.read(path)
        assert [layer.label for layer in lstmbridge.read(path, only=("plain",))] == ["plain"]
    with pytest.raises(Unsupported, match="'cell' is a dynamically quantised cell"):
        lstmbridge.read(tmp_path / "a.pt", only=("cell",))


# ---- shards


def sharded(folder: Path, model: nn.Module, kind: str) -> Path:
    """The model in three files, one of them without recurrent weights, and their index."""
    state = model.state_dict()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    starts = [("enc",), ("dec", "cell"), ("mean", "out")]
    parts = [[name for name in state if name.startswith(each)] for each in starts]
    places = {}
    for number, names in enumerate(parts, 1):
        shard = f"{stem}-0000{number}-of-00003.{kind}"
        part = {name: state[name] for name in names}
        if kind == "safetensors":
            tensorfile.save({name: tensor.numpy() for name, tensor in part.items()}, folder / shard)
        else:
            saved(part, folder / shard)
        places |= dict.fromkeys(names, shard)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_with_an_index(kind: str, model: nn.Module, tmp_path: Path) -> None:
    index = sharded(tmp_path, model, kind)
    last = index.name.replace(f".{kind}.index.json", f"-00003-of-00003.{kind}")
    (tmp_path / last).write_bytes(b"without recurrent weights, it is not opened")
    for path in (index, tmp_path):
        reading = same(path, model)
        assert set(reading.left_alone) == {"mean", "out.weight", "out.bias"}
        assert reading.notes[0].startswith("read from 2 of 3 shards: ")
    assert read_all(index, only=("dec",)).notes[0].startswith("read from 1 of 3 shards: ")
    names = [f"{folder}{path.name}" for folder in ("", "sub/", "sub/model-/") for path in tmp_path.iterdir()]

    def beginning(start: str) -> list[str]:
        return [name for name in names if name.startswith(start)]

    near = room.companions(index.name, beginning)
    assert len(near) == 3
    assert room.companions(f"sub/{index.name}", beginning) == [f"sub/{name}" for name in near]
    assert room.companions("a.pt", beginning) == []


def test_an_index_that_is_not_true(model: nn.Module, tmp_path: Path) -> None:
    index = sharded(tmp_path, model, "safetensors")
    good = json.loads(index.read_text())
    outside = tmp_path / "outside"
    outside.mkdir()
    first, second = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2))
    (outside / first).write_bytes((tmp_path / first).read_bytes())
    (tmp_path / "link.safetensors").symlink_to(outside / first)
    (tmp_path / "inner.safetensors").symlink_to(tmp_path / first)

    def moved(shard: str) -> Any:
        return {n: shard if s == first else s for n, s in good["weight_map"].items()}

    cases = {
        "without a path": [moved(f"../{tmp_path.name}/{first}"), moved(str(outside / first)), moved(f"outside/{first}"),
                           moved(".."), moved(""), moved("a\\b.safetensors"), moved("a\0b")],
        "no such file": [moved("nowhere.safetensors")],
        "is a link out of its directory": [moved("link.safetensors")],
        "are missing that .* says are here": [{**good["weight_map"], "enc.rnn.weight_ih_l7": first}],
        "does not know": [{n: s for n, s in good["weight_map"].items() if n != "enc.rnn.weight_ih_l0"}],
        "no table of names": [moved(3), [], "text"],  # type: ignore[arg-type]
    }  # fmt: skip
    for words, maps in cases.items():
        for places in maps:
            index.write_text(json.dumps({"weight_map": places}))
            with pytest.raises(FileError, match=words):
                lstmbridge.read(index, nonlinearity="relu")
    for text in ("", "{", "[]", "{}", "[" * 100_000, "null"):
        index.write_text(text)
        with pytest.raises(FileError, match="index"):
            lstmbridge.read(index)
    index.write_text(json.dumps({"weight_map": moved("inner.safetensors")}))
    same(index, model)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(good["weight_map"], second)}))
    with pytest.raises(FileError, match="are missing that"):
        lstmbridge.read(index)


def test_shards_in_a_cache_of_links(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    sharded(tmp_path / "blobs", model, "safetensors")
    for number, path in enumerate(sorted((tmp_path / "blobs").iterdir())):
        blob = path.rename(path.with_name(f"blob{number}"))
        (tmp_path / "snapshot" / path.name).symlink_to(blob)
    same(tmp_path / "snapshot", model)


# ---- which files are torch's


def test_files_of_any_suffix_are_known_by_their_content(model: nn.Module, scripted: Path, tmp_path: Path) -> None:
    for suffix in (".bin", ".ckpt", ".tar", ".model", ".th", ".pkl", ""):
        for new in (True, False):
            path = saved(model.state_dict(), tmp_path / f"a{suffix}", _use_new_zipfile_serialization=new)
            assert room.claims(path)
            same(path, model)
    same(repacked(scripted / "scripted.pt", tmp_path / "b.bin", {}), model)
    whole = saved(model.state_dict(), tmp_path / "c.ckpt").read_bytes()
    (tmp_path / "c.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="beginning of a zip archive, without its end"):
        lstmbridge.read(tmp_path / "c.ckpt")
    (tmp_path / "d.ckpt").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "e.ckpt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "f.ckpt", "w") as other:
        other.writestr("a/b.txt", "x")
    for name in ("d.ckpt", "e.ckpt", "f.ckpt", "nowhere", "."):
        assert not room.claims(tmp_path / name)
    (tmp_path / "a.onnx").write_bytes(whole)
    assert not room.claims(tmp_path / "a.onnx")
    with pytest.raises(BridgeError, match=r"a\.ckpt.*\n.*suffix|suffixes"):
        lstmbridge.convert(model, to="torch", path=tmp_path / "x" / "a.ckpt")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_views_and_places(dtype: str, tmp_path: Path) -> None:
    module = telling(nn.LSTM(I, H, dtype=getattr(torch, dtype)))
    twin = telling(nn.LSTM(I, H, dtype=getattr(torch, dtype)), seed=1)
    state = module.state_dict()
    big = torch.zeros(100, 100, dtype=getattr(torch, dtype))
    big[7:51, 3:14] = state["weight_hh_l0"]
    state["weight_hh_l0"] = big[7:51, 3:14]
    state["weight_ih_l0"] = state["weight_ih_l0"].t().contiguous().t()
    tied = {f"{path}.{name}": tensor for path in ("a", "b") for name, tensor in state.items()}
    tied |= {f"c.{name}": nn.Parameter(tensor) for name, tensor in twin.state_dict().items()}
    tied["meta"] = torch.zeros(3, device="meta")
    tied["complex"] = torch.zeros(3, dtype=torch.complex64)
    tied["negative"] = torch.zeros(3, dtype=torch.complex64).conj().imag
    tied["wide"] = torch.zeros(1).expand(10**9)
    tied["class"] = nn.Parameter(torch.ones(2))
    tied["class"].note = "an attribute"
    for new in (True, False):
        path = saved(tied, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        reading = read_all(path)
        assert [layer.label for layer in reading.layers] == ["a", "b", "c"]
        for layer, source in zip(reading.layers, (module, module, twin), strict=True):
            [expected] = lstmbridge.read(source)
            assert all(same_bits(layer[n], expected[n]) for n in expected)
        assert reading.left_alone == ("meta", "complex", "negative", "wide", "class")
    for name, tensor, words in (
        ("weight_hh_l0", state["weight_hh_l0"].to("meta"), "on the meta device"),
        ("bias_ih_l0", torch.zeros(1).expand(44), "an expanded tensor"),
        ("weight_hh_l0", torch.zeros(44, 11, dtype=torch.complex64), "ComplexFloatStorage"),
        ("bias_hh_l0", torch.zeros(44, dtype=torch.complex64).conj().imag, "marked as negated"),
    ):
        saved({**state, name: tensor}, tmp_path / "b.pt")
        with pytest.raises(LayoutError, match=rf"{name} is not a plain tensor.*\n.*{words}"):
            lstmbridge.read(tmp_path / "b.pt")


def test_a_part_of_a_storage_as_older_files_have_it(tmp_path: Path) -> None:
    whole = np.arange(9, dtype="float32")
    for offset, count, good in ((2, 4, True), (6, 4, False), (-1, 4, False)):
        part = b"(" + text("1") + long(offset) + long(count) + b"t"
        reference = storage(count=b"K\x09")[:-2] + part + b"tQ"
        tensor = called("torch._utils._rebuild_tensor", b"(" + reference + b"K\x00K\x04\x85K\x01\x85t")
        path = in_legacy(tmp_path / "a.pt", b"\x80\x02}" + text("x") + tensor + b"s.", {"0": whole})
        if good:
            assert same_bits(archive.load(path)["x"], whole[2:6])
        else:
            with pytest.raises(FileError, match="not a readable file"):
                archive.load(path)


def test_weights_that_were_on_a_gpu(model: nn.Module, tmp_path: Path) -> None:
    path = saved(model.state_dict(), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as old:
        pickled = old.read("a/data.pkl")
    moved = pickled.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
    assert moved != pickled
    same(repacked(path, tmp_path / "b.pt", {"a/data.pkl": moved}), model)


def test_numpy_arrays_in_a_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    arrays = {name: np.array(tensor.numpy(), order="F") for name, tensor in model.state_dict().items()}
    arrays["dec.weight_hh_l0"] = arrays["dec.weight_hh_l0"].astype(">f4").astype("<f4")
    strange = {"text": np.array(["a", "b"]), "objects": np.array([None, {}], dtype=object)}
    for protocol in (2, 5):
        path = saved({"params": {**arrays, **strange}}, tmp_path / "a.pt", pickle_protocol=protocol)
        reading = read_all(path, nonlinearity="relu")
        for layer, source in zip(reading.layers, lstmbridge.read(model), strict=True):
            assert layer.spec == source.spec
            assert all(same_bits(layer[n], source[n]) for n in source)
        assert set(reading.left_alone) == {"mean", "out.weight", "out.bias", "text", "objects"}
    saved({**arrays, "dec.bias_hh_l0": np.array([None] * 21, dtype=object)}, tmp_path / "b.pt")
    with pytest.raises(LayoutError, match=r"bias_hh_l0 is not a plain.*\n.*none of plain numbers"):
        lstmbridge.read(tmp_path / "b.pt", only=("dec",))


def test_archives_that_other_tools_packed(model: nn.Module, tmp_path: Path) -> None:
    path = saved(model.state_dict(), tmp_path / "a.pt")
    same(repacked(path, tmp_path / "deflated.pt", {}, zipfile.ZIP_DEFLATED), model)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "zip64.pt", "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    same(tmp_path / "zip64.pt", model)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        same(saved(model.state_dict(), tmp_path / "unchecked.pt"), model)
    finally:
        torch.serialization.set_crc32_options(before)
    swapped = {}
    with zipfile.ZipFile(path) as old:
        for name in old.namelist():
            if "/data/" in name:
                swapped[name] = np.frombuffer(old.read(name), "<f4").astype(">f4").tobytes()
    same(repacked(path, tmp_path / "big.pt", swapped | {"a/byteorder": b"big"}), model)
    encrypted = bytearray(path.read_bytes())
    place = encrypted.rfind(b"PK\x01\x02", 0, encrypted.rfind(b"a/data/1"))
    encrypted[place + 8] |= 1
    (tmp_path / "secret.pt").write_bytes(encrypted)
    with pytest.raises(FileError, match=r"secret.pt: data/1\d? is encrypted"):
        lstmbridge.read(tmp_path / "secret.pt")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = saved({"weight_ih_l0": torch.zeros(44 * 30_000, 5), "weight_hh_l0": torch.zeros(44, 11)}, tmp_path / "a.pt")
    repacked(path, tmp_path / "b.pt", {}, zipfile.ZIP_DEFLATED)
    size = (tmp_path / "b.pt").stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=r"unpacks to more than 4 times its size\n.*\n.*zip -0"):
            lstmbridge.read(tmp_path / "b.pt")
        assert tracemalloc.get_traced_memory()[1] < 4 * size + 2**22
    finally:
        tracemalloc.stop()


PROGRAM = """
import sys
from lstmbridge.reading import read_all
def resident(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
before = resident()
reading = read_all(sys.argv[1])
assert len(reading.layers) == 1 and float(reading.layers[0]["forward.bias.i"].sum()) == 0.5 * 11
print(resident() - before)
assert not {"torch", "tensorflow", "keras", "jax"} & set(sys.modules)
"""


@pytest.mark.parametrize("form", ["zip", "legacy", "script"])
def test_a_large_file_is_mapped_and_torch_is_not_needed(form: str, tmp_path: Path) -> None:
    module = nn.ModuleDict({"rnn": nn.LSTM(I, H), "large": nn.Embedding(1, 1)})
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    module["large"].weight.data = torch.zeros(40_000_000)
    path = tmp_path / "a.pt"
    if form == "script":
        torch.jit.save(torch.jit.script(Holder(module)), path)
    else:
        saved({"model": module.state_dict()}, path, _use_new_zipfile_serialization=form == "zip")
    assert path.stat().st_size > 160_000_000
    result = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 48


class Holder(nn.Module):
    """Modules that one calls by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.rnn, self.large = inner["rnn"], inner["large"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


# ---- hostile pickles


def in_zip(path: Path, body: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("a/data.pkl", body)
        for name, content in members.items():
            new.writestr(f"a/{name}", content)
    return path


def in_legacy(path: Path, body: bytes, storages: Mapping[str, np.ndarray[Any, Any]] | None = None) -> Path:
    kept = storages or {}
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    data = [struct.pack("<Q", array.size) + array.tobytes() for array in kept.values()]
    path.write_bytes(b"".join((*head, body, pickle.dumps(list(kept), protocol=2), *data)))
    return path


class Runs:
    """What runs a command when it is unpickled by whoever runs what pickles say."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    """The opcode that puts a text on the stack."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def gadgets(target: Path) -> dict[str, bytes]:
    """Pickles each of which would create `target`, or change this process, if anything in it were called."""
    command, code = f"touch {target}", f"open({str(target)!r}, 'w').close()"
    system, short = b"cos\nsystem\n", b"\x8c" + bytes([len(command)]) + command.encode()
    raw = {
        "reduce": b"\x80\x02" + system + text(command) + b"\x85R.",
        "newobj": b"\x80\x02" + system + text(command) + b"\x85\x81.",
        "newobj with keywords": b"\x80\x04" + system + text(command) + b"\x85}\x92.",
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "obj": b"(" + system + b"S'" + command.encode() + b"'\no.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "an import": b"\x80\x02cbuiltins\n__import__\n" + text("os") + b"\x85R.",
        "build of a class": b"\x80\x02ccollections\nOrderedDict\n}" + text("__init__") + b"Nsb.",
        "build of our function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + b"Nsb.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent class": b"\x80\x02(" + text("module") + system + text("a") + text("b") + b"tQ"
        + text(command) + b"\x85R.",
        "a persistent text": b"P" + command.encode() + b"\n.",
    }  # fmt: skip
    made = {
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "open": Runs(open, str(target), "w"),
        "subprocess": Runs(subprocess.getoutput, command),
        "getattr": Runs(getattr, "x", "format"),
        "map": Runs(map, eval, [code]),
        "set state": Runs(io.BytesIO, state=(b"x", 0, None)),
        "torch.load": Runs(torch.load, str(target)),
        "torch.hub": Runs(torch.hub.load, "a/b", "c"),
        "torch.jit.load": Runs(torch.jit.load, str(target)),
        "numpy.load": Runs(np.load, str(target)),
        "in a dict": {"a": Runs(exec, code)},
        "in a nest": [({"x": [Runs(eval, code)]},)],
    }
    return raw | {name: pickle.dumps(each, protocol=2) for name, each in made.items()}


def test_nothing_in_a_pickle_is_called(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    modules = set(sys.modules)
    for name, body in gadgets(target).items():
        for path in (in_zip(tmp_path / "a.pt", body), in_legacy(tmp_path / "b.pt", body)):
            with pytest.raises(BridgeError, match=path.name):
                files.read(path, ReadOptions())
            assert not target.exists(), name
    assert set(sys.modules) == modules
    pickle.loads(gadgets(target)["reduce"])
    assert target.exists(), "where pickles are run, such a pickle does run"


def test_gadgets_beside_weights_are_inert(model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    content = {
        "model": model.state_dict(),
        "evil": Runs(eval, f"open({str(target)!r}, 'w').close()"),
        "hook": Runs(subprocess.getoutput, f"touch {target}"),
    }
    for new in (True, False):
        path = saved(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        assert same(path, model).notes == ("read from the entry 'model'; not read: evil, hook",)
        assert not target.exists()
        assert str(archive.load(path)["evil"]) == "__builtin__.eval"


def called(function: str, arguments: bytes) -> bytes:
    """The opcodes of a call."""
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


def long(value: int) -> bytes:
    """The opcode of a long integer."""
    return b"\x8a\x14" + value.to_bytes(20, "little", signed=True)


def storage(kind: str = "FloatStorage", key: bytes = text("0"), count: bytes = b"K\x04") -> bytes:
    """The opcodes of a reference to a storage."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + key + text("cpu") + count + b"tQ"


EXABYTES = b"\xff\xff\xff\xff\xff\xff\xff\x7f"

BOMBS: Mapping[str, bytes] = {
    "a memo index of a thousand million": b"\x80\x02Nr\xff\xff\xff\x3f.",
    "a text of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "a text of many exabytes": b"\x80\x04\x8d" + EXABYTES + b"abc.",
    "bytes of many exabytes": b"\x80\x05\x96" + EXABYTES + b"abc.",
    "a frame of many exabytes": b"\x80\x04\x95" + EXABYTES + b"N.",
    "an integer of two gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "an integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "too many lists": b"\x80\x02(" + b"]" * 100_000 + b"t.",
    "too many sets": b"\x80\x04(" + b"\x8f" * 100_000 + b"t.",
    "too many memo entries": b"\x80\x04N" + b"\x94" * 100_000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 150_000 + b".",
    "deep dicts": b"\x80\x02" + (b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000 + b".",
    "deep tuples as a key": b"\x80\x02})" + b"\x85" * 150_000 + b"Ns.",
    "keys of one hash": b"\x80\x02}(" + b"".join(long((2**61 - 1) * n) + b"N" for n in range(1, 20_000)) + b"u.",
    "a thousand million laughs": b"\x80\x02]q\x00"
    + b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 200)) + b".",
    "the same list copied": b"\x80\x02](" + b"(K\x01K\x02t" * 20_000 + b"eq\x000"
    + (called("collections.OrderedDict", b"h\x00\x85") + b"0") * 5_000 + b"N.",
    "the same text copied": b"\x80\x02" + text("a" * 100_000) + b"q\x000"
    + (called("_codecs.encode", b"h\x00" + text("latin1") + b"\x86") + b"0") * 5_000 + b"N.",
    "a call of many arguments": b"\x80\x02(" + b"N" * 50_000 + b"tq\x000"
    + (called("torch._utils._rebuild_tensor_v2", b"h\x00") + b"0") * 5_000 + b"N.",
    "a dict in itself": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no opcode": b"\xfe\xfe",
    "too few": b"\x80\x02R.",
    "a mark alone": b"\x80\x02t.",
    "an odd item": b"\x80\x02}(K\x01u.",
    "half a surrogate": b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80Ns.",
    "a storage of no kind": b"\x80\x02" + storage("OddStorage") + b".",
    "a storage whose key is a nest": b"\x80\x02" + storage(key=b"]q\x00(h\x00h\x00e") + b".",
    "a storage that is not there": b"\x80\x02" + storage(key=text("nowhere")) + b".",
    "a storage of many exabytes": b"\x80\x02" + storage(count=long(2**59)) + b".",
    "a storage of too many numbers": b"\x80\x02" + storage(count=long(2**90)) + b".",
    "a storage of fewer than none": b"\x80\x02" + storage(count=long(-4)) + b".",
}  # fmt: skip


#: In the older form only those that do not take long: the machine is the same.
FORMS = [("zip", name) for name in BOMBS]
FORMS += [("legacy", name) for name in BOMBS if not name.startswith(("deep", "too many", "the same", "keys", "a call"))]


@pytest.mark.parametrize(("form", "name"), FORMS)
def test_what_a_pickle_may_ask_for_is_bounded(
    form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = (in_zip if form == "zip" else in_legacy)(tmp_path / "a.pt", BOMBS[name])
    if name.startswith("too many"):
        monkeypatch.setattr(pickles, "_CONTAINERS", 1000)
    traced = form == "zip" and not name.startswith("deep")  # being traced takes long
    if traced:
        tracemalloc.start()
    try:
        with pytest.raises(BridgeError, match=r"a\.pt") as caught:
            lstmbridge.read(path)
        assert not traced or tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + 2**23
    finally:
        tracemalloc.stop()
    assert not name.startswith("too many") or "more objects than" in str(caught.value)
    str(caught.value).encode()
    assert len(str(caught.value)) < 3000


def test_what_was_refused_leaves_the_reader_as_it_was(model: nn.Module, tmp_path: Path) -> None:
    for body in (BOMBS["deep dicts"], *list(gadgets(tmp_path / "ran").values())[:8]):
        with pytest.raises(BridgeError):
            lstmbridge.read(in_zip(tmp_path / "a.pt", body))
    same(saved(model.state_dict(), tmp_path / "b.pt"), model)


@pytest.mark.parametrize("form", ["zip", "legacy", "script", "export"])
def test_damage_gives_our_error_or_a_reading(form: str, scripted: Path, tmp_path: Path) -> None:
    small = nn.RNN(2, 3)
    path = tmp_path / "a.pt"
    if form == "script":
        torch.jit.save(torch.jit.script(small), path)
    elif form == "export":
        torch.export.save(torch.export.export(small, (torch.ones(4, 1, 2),)), tmp_path / "a.pt2")
        path = tmp_path / "a.pt2"
    else:
        content = {"model": small.state_dict(), "args": argparse.Namespace(a=1), "array": np.arange(3.0)}
        saved(content, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    body = members(path) if form != "legacy" else {"": whole}
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(250):
        name = list(body)[rng.integers(len(body))]
        damaged = bytearray(body[name][: rng.integers(len(body[name]) + 1)] if rng.random() < 0.2 else body[name])
        for place in rng.integers(max(1, len(damaged)), size=3) if damaged else ():
            damaged[place] = rng.choice(np.frombuffer(b"\x80}](.RQbqhNtsue0\x85\x86X\x93\xff\x00", np.uint8))
        if form == "legacy":
            path.write_bytes(damaged)
        else:  # with the right checksum, so that the damage gets through to the reader
            repacked_bytes(path, {**body, name: bytes(damaged)})
        try:
            read_all(path, nonlinearity="tanh")
        except BridgeError:
            refused += 1
    assert refused > 30


def members(path: Path) -> dict[str, bytes]:
    """The members of an archive that are no numbers."""
    with zipfile.ZipFile(path) as old:
        return {name: old.read(name) for name in old.namelist() if "debug_pkl" not in name}


def repacked_bytes(path: Path, content: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            new.writestr(name, data)


def test_a_tar_of_the_first_torch_is_named(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.pt", "w") as old:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            old.addfile(tarfile.TarInfo(name))
    with pytest.raises(FileError, match="a tar archive, as torch wrote before 0.2"):
        lstmbridge.read(tmp_path / "a.pt")


def test_the_live_object_of_any_of_these_files(model: nn.Module, scripted: Path, tmp_path: Path) -> None:
    options = ReadOptions(nonlinearity="relu")
    expected = {name: t for name, t in model.state_dict().items() if not name.startswith(("out", "mean"))}
    (tmp_path / "shards").mkdir()
    sharded(tmp_path / "shards", model, "bin")
    old = saved(model.state_dict(), tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    checkpoint = saved({"net": nn.DataParallel(model).state_dict(), "args": argparse.Namespace()}, tmp_path / "a.th")
    for path in (tmp_path / "shards", old, checkpoint, scripted / "traced.model"):
        found = live.load(path, options).state_dict()
        assert set(found) == set(expected)
        assert all(same_bits(found[name], tensor) for name, tensor in expected.items())
