"""The pipeline on the project's own form: options, renaming, atomic files, edit; and errors that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lstmbridge
from helpers import HIDDEN, labelled, layer, layer_of, same_weights, spec
from lstmbridge import Layer, convert, edit, migrate, read, registry, write
from lstmbridge.errors import BridgeError, FileError, LayoutError, UnknownName, Unsupported
from lstmbridge.fit import FEATURES
from lstmbridge.placing import atomic

SPECS: list[dict[str, Any]] = [
    {},
    {"bias": "dual", "directions": ("forward", "reverse"), "merge": "mul"},
    {"bias": "none", "projection_size": 3, "proj_clip": 1.0, "peepholes": True, "coupled": True, "clip": 2.0},
    {"directions": ("reverse",), "processed_order": True, "forget_constant": 1.0, "cell_clip": 3.0},
    {"activations": [("hard_sigmoid", 1 / 6, 0.5), "relu", "tanh"]},
    {"directions": ("forward", "reverse"), "reverse_activations": ["sigmoid", "relu", "tanh"]},
]


def stack() -> tuple[Layer, ...]:
    """A chain of two layers of different sizes, and one that stands alone."""
    first = layer(path="encoder.a", directions=("forward", "reverse"))
    second = layer("gru", path="encoder.b", input_size=2 * HIDDEN, hidden_size=4, seed=1).replace(after="encoder.a")
    return first, second, layer("rnn", path="decoder", seed=2)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("features", SPECS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_the_projects_own_file_keeps_everything(tmp_path: Path, suffix: str, features: dict, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
        from lstmbridge.arrays import cast

        plain = layer(**features)
        source = plain.replace(weights={name: cast(plain[name], dtype) for name in plain})
    else:
        source = layer(dtype=dtype, **features)
    source = source.replace(path="enc", level=1, after="enc.l0", metadata={"framework": "toy", "config": {"a": [1]}})
    file = convert(source, to="gates", path=tmp_path / f"x{suffix}")
    [found] = read(file)
    same_weights(found, source)
    assert (found.path, found.level, found.after, found.metadata) == ("enc", 1, "enc.l0", source.metadata)


def test_every_feature_is_in_these_specs() -> None:
    assert set(FEATURES) - {"reset after", "reset before", "outputs of a reverse layer in forward time"} <= {
        feature for feature, shows in FEATURES.items() if any(shows(spec(**features)) for features in SPECS)
    }


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".npz", ".safetensors"):
        a, b = (convert(stack(), to="gates", path=tmp_path / f"{n}{suffix}") for n in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_results_own_their_memory() -> None:
    for made in (layer(), layer("rnn")):
        [built] = convert(made, to="gates")
        assert not any(np.shares_memory(built[name], made[name]) for name in made)


def test_paths_pick_and_rename_layers() -> None:
    done = migrate(stack(), to="gates", layers=["encoder"], rename={"encoder": "enc", "encoder.b": "top"})
    assert [report.target_label for report in done.reports] == ["enc.a", "top"]
    done = migrate(stack(), to="gates", layers=["encoder.b"], rename={"encoder.b": "top"})
    assert [(r.label, r.target_label) for r in done.reports] == [("encoder.b", "top")]


def test_renaming_keeps_the_chain_together() -> None:
    first, second = migrate(stack(), to="gates", layers=["encoder"], rename={"encoder": "enc"}).result
    assert (first.path, second.path, second.after) == ("enc.a", "enc.b", "enc.a")
    both = {"encoder": "enc", "encoder.a": "low"}
    first, second = migrate(stack(), to="gates", layers=["encoder"], rename=both).result
    assert (first.path, second.path, second.after) == ("low", "enc.b", "low")


def test_two_layers_of_one_name_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"two layers named 'encoder\.a'"):
        migrate(stack(), to="gates", rename={"decoder": "encoder.a"})


def test_a_path_where_nothing_is() -> None:
    with pytest.raises(UnknownName, match=r"unknown layer 'encoder\.c'\n.*did you mean 'encoder\.[ab]'"):
        migrate(stack(), to="gates", layers=["encoder.c"])
    with pytest.raises(UnknownName, match="unknown layer to rename"):
        migrate(stack(), to="gates", rename={"x": "y"})


def test_stacking_makes_levels_of_one_module_and_checks_the_sizes() -> None:
    first = layer(path="enc.a")
    second = layer(path="enc.b", input_size=HIDDEN, seed=1)
    built = migrate([first, second], to="gates", stack=True).result
    assert [(each.path, each.level, each.after) for each in built] == [("enc", 0, None), ("enc", 1, "enc.l0")]
    with pytest.raises(LayoutError, match="decoder reads 5 features, encoder.b gives 4"):
        migrate(stack(), to="gates", stack=True)


def test_layers_that_do_not_feed_one_another_are_no_stack() -> None:
    """Where the source's models say who reads whom, silence says that something stands between."""
    first, second = layer(path="a", input_size=HIDDEN), layer(path="b", input_size=HIDDEN, seed=1)
    with pytest.raises(LayoutError, match=r"b does not read what a gives(.|\n)*it reads z"):
        migrate([first, second.replace(after="z")], to="gates", stack=True)
    told = [each.replace(metadata={"framework": "keras", "config": {}}) for each in (first, second)]
    with pytest.raises(LayoutError, match=r"b does not read what a gives(.|\n)*something stands between them"):
        migrate(told, to="gates", stack=True)
    done = migrate([first, second], to="gates", stack=True)
    assert done.notes == ("stacked unseen: nothing says that b reads the layer before",)
    assert not migrate([first, second.replace(after="a")], to="gates", stack=True).notes


def test_what_another_framework_is_not_given_is_noted() -> None:
    config = {"layer": {"config": {"recurrent_dropout": 0.25}}, "dropout": 0.5, "stateful": False}
    source = layer(bias="dual").replace(metadata={"framework": "keras", "config": config})
    assert migrate(source, to="torch").reports[0].notes == ("not taken along: recurrent_dropout=0.25, dropout=0.5",)
    assert not migrate(source, to="gates").reports[0].notes


def test_the_remainder_undoes_renaming_and_stacking() -> None:
    source = (layer(path="enc.a"), layer(path="enc.b", input_size=HIDDEN, seed=1).replace(after="enc.a"))
    there = migrate(source, to="gates", stack=True, rename={"enc.a": "x.a", "enc.b": "x.b"})
    again = migrate(there.result, to="gates", remainder=there.remainder).result
    assert [(each.path, each.level, each.after) for each in again] == [("enc.a", None, None), ("enc.b", None, "enc.a")]
    for before, after in zip(source, again, strict=True):
        same_weights(before, after)


def test_a_cast_is_asked_for_said_and_undone_by_the_remainder() -> None:
    source = layer()
    done = migrate(source, to="gates", dtype="float16")
    assert done.result[0].dtype == "float16"
    assert done.reports[0].verdict == "lossy"
    assert "cast from float32 to float16" in done.reports[0].notes
    same_weights(migrate(done.result, to="gates", remainder=done.remainder).result[0], source)


# ---- files


def test_an_existing_file_is_not_overwritten_unasked(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"mine")
    with pytest.raises(FileError, match="exists already.*\n.*force"):
        convert(layer(), path=file)
    assert file.read_bytes() == b"mine"
    convert(layer(), path=file, force=True)
    assert len(read(file)) == 1


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npz"
    convert(layer(seed=1), path=file)
    before = file.read_bytes()
    files = registry.framework("gates").files

    def full_disk(targets: Any, path: Path, options: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write", full_disk)
    with pytest.raises(FileError, match=r"cannot be written: nothing was left behind\n.*No space left"):
        convert(layer(), path=file, force=True)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.npz"]


def test_what_is_not_approved_leaves_nothing_behind(tmp_path: Path) -> None:
    seen = []

    def approve(path: Path) -> None:
        seen.append(read(path))
        raise lstmbridge.BridgeError("no")

    with pytest.raises(BridgeError, match="no"):
        migrate(layer(), path=tmp_path / "x.npz", approve=approve)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").is_dir(), reason="needs a place nobody can write to")
def test_no_permission() -> None:
    place = Path("/proc/sys") if os.geteuid() == 0 else Path("/")
    with pytest.raises(FileError, match="cannot be written"):
        convert(layer(), path=place / "x.npz")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such directory"):
        convert(layer(), path=tmp_path / "a" / "x.npz")


def test_files_that_move_together(tmp_path: Path) -> None:
    with atomic(tmp_path / "m.onnx") as staged:
        staged.write_text("main")
        staged.with_name("m.onnx.data").write_text("data")
        assert not (tmp_path / "m.onnx").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("missing.npz", None, FileError, "no such file"),
        ("empty.npz", b"", FileError, "is empty"),
        ("foreign.npz", b"not a zip", FileError, "not a readable .npz file"),
        ("short.npz", "half", FileError, "not a readable .npz file"),
        ("x.onxx", b"x", UnknownName, r"unknown file suffix '.onxx'\n.*did you mean '.onnx'"),
    ],
)
def test_files_that_are_not_what_they_claim(
    tmp_path: Path, name: str, content: Any, error: type, message: str
) -> None:
    file = tmp_path / name
    if content == "half":
        whole = convert(layer(), path=tmp_path / "whole.npz").read_bytes()
        content = whole[: len(whole) // 2]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error, match=message):
        read(file)


def test_npz_of_somebody_else_and_with_a_tensor_forgotten(tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(3))
    with pytest.raises(FileError, match="to='gates'"):
        read(other)
    np.savez(other, a=np.array([object()], dtype=object))
    with pytest.raises(FileError, match="not a readable"):
        read(other)
    made = convert(layer(), path=tmp_path / "x.npz")
    arrays = dict(np.load(made))
    forgotten = {name: array for name, array in arrays.items() if "kernel.f" not in name}
    np.savez(other, **forgotten)
    with pytest.raises(FileError, match=r"2 arrays missing\n.*forward\.kernel\.f"):
        read(other)
    np.savez(other, **arrays, stray=np.ones(1))
    with pytest.raises(FileError, match="1 arrays belong to no layer"):
        read(other)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a directory"):
        read(tmp_path)


# ---- names


def test_unknown_names_get_the_near_one() -> None:
    with pytest.raises(UnknownName, match="unknown framework 'gate'\n.*did you mean 'gates'"):
        convert(layer(), to="gate")
    with pytest.raises(UnknownName, match="unknown option 'nonlinearty'\n.*did you mean 'nonlinearity'"):
        convert(layer(), to="gates", nonlinearty="relu")
    with pytest.raises(UnknownName, match="unknown dtype 'float31'"):
        convert(layer(), to="gates", dtype="float31")
    with pytest.raises(UnknownName, match="'builtins.dict' is of no known framework|of builtins.dict"):
        read({})
    with pytest.raises(LayoutError, match="no target"):
        convert(layer())
    with pytest.raises(FileError, match="not the name of a gates file"):
        convert(layer(), to="gates", path="x.onnx")


def test_a_framework_without_a_room() -> None:
    with pytest.raises(Unsupported, match="tf1 has no objects"):
        convert(layer(reset_after=True), to="tf1")


def test_every_refused_layer_is_named() -> None:
    layers = [layer(path="a", bias="dual", peepholes=True), layer(path="b", bias="dual", coupled=True)]
    with pytest.raises(Unsupported) as caught:
        convert(layers, to="torch", path="never.safetensors")
    assert "'a'" in str(caught.value)
    assert "'b'" in str(caught.value)
    assert not Path("never.safetensors").exists()


# ---- edit


def test_edit_writes_back_all_or_nothing() -> None:
    live = layer(bias="dual")
    with edit(live) as gates:
        gates["forward.bias.f"][:] = 5
    assert (live["forward.bias.f"] == 5).all()
    with pytest.raises(RuntimeError), edit(live) as gates:
        gates["forward.bias.f"][:] = 6
        raise RuntimeError
    assert (live["forward.bias.f"] == 5).all()
    with pytest.raises(LayoutError, match="has shape"), edit(live) as gates:
        gates["forward.bias.f"] = np.ones(3, "float32")


def test_edit_asks_which_layer() -> None:
    layers = stack()
    with pytest.raises(LayoutError, match="3 recurrent layers\n.*encoder.a, encoder.b, decoder"), edit(layers):
        pass
    with edit(layers, layer="decoder") as gates:
        gates["forward.bias.n"][:] = 0
    assert not layers[2]["forward.bias.n"].any()


def test_write_is_the_other_half_of_read(tmp_path: Path) -> None:
    source = layer_of(labelled(spec()).spec)
    same_weights(read(write([source], path=tmp_path / "x.npz"))[0], source)
    same_weights(write(source, to="gates")[0], source)


# ---- what is not there


def test_a_file_without_a_recurrent_layer(tmp_path: Path) -> None:
    from lstmbridge import tensorfile

    tensorfile.save({"dense.weight": np.ones((3, 2), "float32")}, tmp_path / "x.safetensors")
    with pytest.raises(FileError, match=r"no recurrent layer\n.*dense\.weight"):
        read(tmp_path / "x.safetensors")


MISSING = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "keras", "tensorflow", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
import numpy as np
import lstmbridge
gates = {g: np.ones((3, 2)) for g in "ifgo"}
layer = lstmbridge.Layer.from_gates(kernel=gates, recurrent_kernel={g: np.ones((3, 3)) for g in "ifgo"})
for framework in ("torch", "keras"):
    try:
        lstmbridge.convert(layer, to=framework)
    except ImportError as error:
        print(error)
lstmbridge.convert(layer, path=sys.argv[1])
found = lstmbridge.check(layer, sys.argv[1])
print(found.agrees, found.notes)
"""


def test_a_framework_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", MISSING, str(tmp_path / "x.safetensors")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "torch needs the package 'torch', which is not installed\n  pip install 'lstmbridge[torch]'" in printed
    assert "pip install 'lstmbridge[keras]'" in printed
    assert "True" in printed
    assert "was run by the reference: torch needs" in printed


# ---- nothing is lost


def test_the_remainder_is_written_with_the_target_or_not_at_all(tmp_path: Path) -> None:
    source = convert(layer(), path=tmp_path / "a.npz")
    before = source.read_bytes()
    kept, target = tmp_path / "r.safetensors", tmp_path / "b.npz"
    for wrong in (source, target, tmp_path / "no" / "r.safetensors", tmp_path):
        with pytest.raises(FileError):
            migrate(source, path=target, remainder_path=wrong, force=True)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.npz"]
    with pytest.raises(BridgeError, match="no"):
        migrate(source, path=target, remainder_path=kept, approve=_refuse)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.npz"]
    migrate(source, path=target, remainder_path=kept)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.npz", "b.npz", "r.safetensors"]
    kept.write_bytes(b"mine")
    with pytest.raises(FileError, match="exists already"):
        migrate(source, path=tmp_path / "c.npz", remainder_path=kept)
    assert (kept.read_bytes(), source.read_bytes()) == (b"mine", before)


def _refuse(_: Any) -> None:
    raise BridgeError("no")


def test_a_file_that_moves_along_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_text("mine")
    with pytest.raises(FileError, match=r"m\.onnx\.data exists already"), atomic(tmp_path / "m.onnx") as staged:
        staged.write_text("main")
        staged.with_name("m.onnx.data").write_text("data")
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx.data"]


def test_new_files_have_the_usual_mode(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for suffix in (".npz", ".safetensors"):
        made = convert(layer(), to="gates", path=tmp_path / f"x{suffix}")
        assert made.stat().st_mode == plain.stat().st_mode


def test_numbers_whose_sum_overflows_are_finite() -> None:
    made = layer(dtype="float16")
    made["forward.bias.f"][:] = 60000
    made["forward.bias.g"][:2] = np.inf, -np.inf
    assert migrate(made, to="gates").reports[0].notes == ("0 NaN and 2 infinite among its numbers; moved unchanged",)


def test_numbers_that_are_not_finite_are_moved_and_noted() -> None:
    made = layer()
    made["forward.bias.f"][:2] = np.nan, np.inf
    done = migrate(made, to="gates")
    assert done.reports[0].notes == ("1 NaN and 1 infinite among its numbers; moved unchanged",)
    same_weights(done.result[0], made)


@pytest.mark.parametrize("shape", [(10**12,), (3, 2)])
def test_an_npz_that_says_more_than_it_holds(tmp_path: Path, shape: tuple[int, ...]) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"\0" * 8)
    with pytest.raises(FileError, match="not a readable .npz file"):
        read(tmp_path / "x.npz")


def test_an_npy_is_no_npz(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(FileError, match="not a readable .npz file"):
        read(tmp_path / "x.npz")
