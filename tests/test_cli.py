"""The command: what it prints, its JSON, its exit codes, and what it leaves behind."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from helpers import HIDDEN, layer
from lstmbridge import convert, read
from lstmbridge.cli import COMMANDS, main
from lstmbridge.cli.common import waiting
from lstmbridge.cli.migrate import _Rate
from lstmbridge.jobs.work import Record


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of two layers: a bidirectional LSTM and the GRU that reads it."""
    first = layer(path="encoder", directions=("forward", "reverse"), bias="dual")
    second = layer("gru", path="decoder", input_size=2 * HIDDEN, bias="dual", seed=1).replace(after="encoder")
    return convert((first, second), path=tmp_path / "model.npz")  # type: ignore[no-any-return]


def test_help_of_every_command() -> None:
    assert call("--help").exit_code == 0
    for name in COMMANDS:
        found = call(name, "--help")
        assert found.exit_code == 0
        assert "Usage:" in found.output


def test_a_command_that_is_none() -> None:
    found = call("convret")
    assert found.exit_code == 2
    assert "did you mean 'convert'" in found.output


def test_convert_prints_a_line_a_layer(model: Path) -> None:
    found = call("convert", model, model.with_suffix(".safetensors"), "--check")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == f"encoder: exact: lstm 5 -> {HIDDEN}, bidirectional (concat), dual bias"
    assert lines[1].startswith("decoder: exact: gru")
    assert sum(": agrees" in line for line in lines) == 5
    assert lines[-1].startswith("wrote ")


def test_convert_json(model: Path) -> None:
    found = call("convert", model, model.with_suffix(".safetensors"), "--check", "--json")
    document = json.loads(found.output)
    assert [each["verdict"] for each in document["layers"]] == ["exact", "exact"]
    assert document["check"][0]["agrees"] is True


def test_convert_does_not_overwrite(model: Path) -> None:
    found = call("convert", model, model)
    assert found.exit_code == 1
    assert "exists already" in found.output


def test_a_model_is_not_replaced_by_its_own_layers(tmp_path: Path) -> None:
    """Its other weights and its config would be lost."""
    model = tmp_path / "model.keras"
    convert((layer(path="a"), layer("gru", path="b", bias="dual", seed=1)), path=model)
    before = model.read_bytes()
    link = tmp_path / "link.keras"
    link.symlink_to(model)
    for source in (model, link):
        found = call("convert", source, model, "--force")
        assert found.exit_code == 1
        assert "is the source itself" in found.output
        assert "--into" in found.output
    assert model.read_bytes() == before


def test_check_of_named_pairs(model: Path, tmp_path: Path) -> None:
    layers = (layer(path="x", seed=5), read(model)[1].replace(path="y", after=None))
    other = convert(layers, path=tmp_path / "other.npz")
    assert call("check", model, other, "--pair", "decoder=y").exit_code == 0
    assert call("check", model, other, "--pair", "decoder").exit_code == 2


def test_refused_is_exit_code_1_and_nothing_is_written(tmp_path: Path) -> None:
    source = convert(layer(path="enc", peepholes=True), path=tmp_path / "p.npz")
    target = tmp_path / "p.safetensors"
    found = call("convert", source, target)
    assert found.exit_code == 1
    assert found.output.startswith("error: torch cannot express peepholes (LSTM 'enc')")
    assert "drop peepholes" in found.output
    assert not target.exists()
    found = call("convert", source, target, "--json")
    assert json.loads(found.output)["error"] == "Unsupported"
    found = call("convert", source, target, "--allow", "drop peepholes")
    assert found.exit_code == 0
    assert "lossy" in found.output


def test_a_disagreement_is_exit_code_1_and_nothing_is_written(tmp_path: Path) -> None:
    source = convert(layer(peepholes=True), path=tmp_path / "p.npz")
    target = tmp_path / "p.safetensors"
    found = call("convert", source, target, "--allow", "drop peepholes", "--check")
    assert found.exit_code == 1
    assert "what --allow gives up changes the outputs" in found.output
    assert "other weights or settings" in found.output
    assert not target.exists()


def test_usage_is_exit_code_2(model: Path, tmp_path: Path) -> None:
    for words in (
        ("convert", model, tmp_path / "x.onxx"),
        ("convert", model, tmp_path / "x.npz", "--layer", "encodr"),
        ("convert", model, tmp_path / "x.npz", "--rename", "encoder"),
        ("convert", model, tmp_path / "x.npz", "--allow", "everything"),
        ("convert", model),
        ("layouts", "torhc"),
        ("inspect", model, "--layers"),
    ):
        assert call(*words).exit_code == 2, words


def test_pick_and_rename(model: Path, tmp_path: Path) -> None:
    found = call("convert", model, tmp_path / "x.npz", "--layer", "decoder", "--rename", "decoder=head.rnn")
    assert found.exit_code == 0, found.output
    assert [each.path for each in read(tmp_path / "x.npz")] == ["head.rnn"]


def test_there_and_back_with_the_remainder_is_the_same_file(model: Path, tmp_path: Path) -> None:
    there, kept, back = tmp_path / "t.npz", tmp_path / "r.safetensors", tmp_path / "b.npz"
    assert call("convert", model, there, "--dtype", "float16", "--remainder", kept).exit_code == 0
    assert call("convert", there, back, "--restore", kept).exit_code == 0
    assert back.read_bytes() == model.read_bytes()


def test_inspect(tmp_path: Path) -> None:
    made = layer(path="enc")
    made["forward.bias.f"][0] = np.nan
    made["forward.bias.f"][1] = np.inf
    file = convert(made, path=tmp_path / "x.npz")
    found = call("inspect", file)
    assert found.exit_code == 0, found.output
    assert f"4 * ((5 + {HIDDEN}) * {HIDDEN} + {HIDDEN}) = 748" in found.output
    assert "1 NaN, 1 infinite" in found.output
    [document] = json.loads(call("inspect", file, "--json").output)["layers"]
    assert (document["nan"], document["inf"], document["parameters"]) == (1, 1, 748)
    weights = {each["name"]: each for each in document["weights"]}
    assert weights["forward.kernel.f"]["shape"] == [HIDDEN, 5]
    assert np.isnan(read(file)[0]["forward.bias.f"][0]), "moved unchanged"


def test_inspect_counts_part_by_part_and_gate_by_gate(model: Path, tmp_path: Path) -> None:
    found = call("inspect", model)
    assert f"dimensions:  input 5, hidden {HIDDEN}, output {2 * HIDDEN} (both directions, concat)" in found.output
    rows = [" ".join(line.split()) for line in found.output.splitlines()]
    assert "kernel 2 directions x 4 gates x 11 x 5 110 110 110 110 440" in rows
    assert "all 396 396 396 396 1,584" in rows
    assert "recurrent_bias 3 gates x 11 11 11 11 33" in rows
    assert "all 2 layers: 1,584 + 1,155 = 2,739 parameters" in rows
    assert "arrays:" not in found.output, "nobody said whose layers these are"
    stored = convert(model, path=tmp_path / "model.safetensors")
    found = call("inspect", stored, "--layer", "decoder")
    arrays = "weight_ih_l0 (33, 22), weight_hh_l0 (33, 11), bias_ih_l0 (33,), bias_hh_l0 (33,)"
    assert f"arrays:      {arrays}" in found.output
    assert "all 1 layers" not in found.output
    document = json.loads(call("inspect", model, "--json").output)
    assert document["parameters"] == sum(each["parameters"] for each in document["layers"]) == 2739


def test_inspect_brief_is_one_line_a_layer(model: Path) -> None:
    assert len(call("inspect", model, "--brief").output.splitlines()) == 2


def test_inspect_says_which_weights_are_not_used(tmp_path: Path) -> None:
    file = convert(layer(coupled=True), path=tmp_path / "x.npz")
    assert "not used:    what belongs to f: the forget gate is 1 - i (coupled)" in call("inspect", file).output


def test_check_of_two_files(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    assert call("convert", model, other).exit_code == 0
    found = call("check", model, other, "--length", "9", "--length", "4", "--time", "9")
    assert found.exit_code == 0, found.output
    assert found.output.rstrip().endswith("agree")
    wrong = convert(tuple(_shifted(each) for each in read(model)), path=tmp_path / "wrong.npz")
    found = call("check", model, wrong)
    assert found.exit_code == 1
    assert "other weights or settings" in found.output
    assert json.loads(call("check", model, wrong, "--json").output)["agrees"] is False


def _shifted(made):  # type: ignore[no-untyped-def]
    return made.replace(weights={name: array + np.float32(0.01) for name, array in made.weights.items()})


def test_diff(model: Path, tmp_path: Path) -> None:
    assert call("diff", model, model).exit_code == 0
    wrong = convert(tuple(_shifted(each) for each in read(model)), path=tmp_path / "wrong.npz")
    found = call("diff", model, wrong)
    assert found.exit_code == 1
    assert "forward.recurrent_bias.f" in found.output
    assert json.loads(call("diff", model, wrong, "--json").output)["same"] is False


def test_layouts() -> None:
    found = call("layouts", "torch.lstm")
    assert found.exit_code == 0
    assert "  weight_ih_l{l}{d}  (4h, i)  kernel : (g h) i" in found.output
    assert "| f  [h:2h, :]  |" in found.output
    everything = json.loads(call("layouts", "--json").output)
    assert {each["framework"] for each in everything} >= {"keras", "torch", "onnx", "tf1", "gates"}
    assert {"array", "layout", "shape", "axes", "blocks", "legend", "source"} <= set(everything[0])


def test_layouts_with_sizes_have_slices_in_numbers() -> None:
    found = call("layouts", "keras.lstm", "--sizes", "input=300, hidden=128")
    assert "{d}.kernel  (300, 512)  kernel : i (g h)" in found.output
    assert "| [:, 0:128] | [:, 128:256] | [:, 256:384] | [:, 384:512] |" in found.output
    [kernel, *_] = json.loads(call("layouts", "keras.lstm", "--sizes", "input=300,hidden=128", "--json").output)
    assert kernel["shape"] == [300, 512]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("hidden", "'hidden' is not NAME=SIZE"),
        ("hidden=x", "hidden is 'x', and no whole number"),
        ("hidden=3,hidden=4", "hidden is given twice"),
        ("hidden=0", "hidden is 0"),
        ("units=3", "unknown size 'units'"),
        ("hidden=4,state=3", "projection=3 has no effect on gru"),
    ],
)
def test_sizes_that_are_none_are_a_usage_error(sizes: str, message: str) -> None:
    found = call("layouts", "keras.gru", "--sizes", sizes)
    assert found.exit_code == 2
    assert message in found.output


def test_an_error_has_one_clear_line_first(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing of the kind")
    found = call("inspect", tmp_path / "x.npz")
    assert found.exit_code == 1
    assert found.output.splitlines()[0] == f"error: {tmp_path / 'x.npz'}: not a readable .npz file"


def test_the_rate_of_a_job_counts_neither_the_start_nor_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0, 30.5, 31.0, 32.0])
    monkeypatch.setattr("lstmbridge.cli.migrate.time.monotonic", lambda: next(clock))
    rate = _Rate()
    verdicts = ("skipped", "done", "skipped", "done", "refused")
    rates = [rate.after(Record(source="a", destination="b", verdict=verdict)) for verdict in verdicts]
    assert rates == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("seconds", "shown"), [(1.4, True), (0.0, False)])
def test_a_bar_is_shown_on_a_terminal_once_work_takes_a_second(
    seconds: float, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with waiting("converting big.keras") as progress:
        progress("fitting", 1, 3)
        time.sleep(seconds)
        progress("writing", 2, 3)
        time.sleep(seconds / 4)
    assert ("2/3" in capsys.readouterr().err) is shown


def test_an_option_for_another_framework_is_a_usage_error(model: Path, tmp_path: Path) -> None:
    for options in (["--opset", "14"], ["--external-data"], ["--lengths"], ["--initial"]):
        found = call("convert", model, tmp_path / "a.safetensors", *options)
        assert found.exit_code == 2
        assert "has no effect on torch" in found.output
        assert "it is for onnx" in found.output
        assert options[0] in found.output
    assert [each.name for each in tmp_path.iterdir()] == [model.name]
    assert call("convert", model, tmp_path / "a.onnx", "--opset", "14", "--initial").exit_code == 0


def test_what_a_job_is_asked_wrongly_is_a_usage_error(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    model.rename(source / model.name)
    for options in (["--timeout", "0"], ["--opset", "14"]):
        found = call("migrate", source, out, "--to", "torch", *options)
        assert found.exit_code == 2, found.output
    recipe = tmp_path / "jobs.toml"
    recipe.write_text('[[job]]\nsource = "in"\ndestination = "out"\nto = "torch"\nopset = 14\n')
    found = call("run", recipe)
    assert found.exit_code == 2
    assert "jobs.toml:5: opset has no effect on torch" in found.output
    assert not out.exists()


def test_a_job_says_what_was_reparameterised(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcde":
        convert(layer(path="rnn", bias="dual"), path=tmp_path / "in" / f"{name}.npz")
    found = call("migrate", tmp_path / "in", tmp_path / "out", "--to", "keras", "--jobs", "1")
    assert "5 reparameterised" in found.output
    assert "bias + recurrent_bias merged into one" in found.output
    assert "a.npz, b.npz, c.npz and 2 more" in found.output


def test_an_unnamed_layer_is_called_the_layer(tmp_path: Path) -> None:
    one, other = (convert(layer(cell), path=tmp_path / f"{cell}.npz") for cell in ("lstm", "gru"))
    assert "the layer and the layer are of different kinds" in call("check", one, other).output
