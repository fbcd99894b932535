"""Certificates: what they hold, and that every difference is noticed later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import layer
from lstmbridge import Layer, migrate, read
from lstmbridge.certificate import beside, certify, digest_of_file, layout_version, load, save, verify
from lstmbridge.errors import FileError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A certified output of two layers, and its source beside it."""
    layers = (layer(path="a", forget_constant=1.0), layer("rnn", path="b", activations=("relu",), seed=1))
    source = migrate(layers, path=tmp_path / "source.npz").result
    path = tmp_path / "output.safetensors"
    done = migrate(read(source), path=path)
    told = certify(
        done,
        path,
        source="source.npz",
        source_files={"source.npz": digest_of_file(source)},
        frameworks=("gates", "torch"),
        options={"stack": False},
    )
    save(told, beside(path))
    return path


def change(path: Path, **entries: object) -> None:
    beside(path).write_text(json.dumps({**json.loads(beside(path).read_text()), **entries}))


def test_it_holds_what_the_output_was_made_of(output: Path) -> None:
    told = load(beside(output))
    assert told["source"] == {
        "name": "source.npz",
        "framework": "gates",
        "files": {"source.npz": digest_of_file(output.with_name("source.npz"))},
    }
    assert told["target"] == {"framework": "torch", "files": {output.name: digest_of_file(output)}}
    first, second = told["layers"]
    assert (first["verdict"], second["verdict"]) == ("reparameterised", "exact")
    assert first["source_spec"]["forget_constant"] == 1.0
    assert "forget_constant" not in first["target_spec"]
    assert "forget constant +1 folded into bias.f" in first["notes"]
    same = {name for name, digest in first["source_tensors"].items() if first["target_tensors"][name] == digest}
    assert set(first["source_tensors"]) - same == {"forward.bias.f"}
    assert verify(output, output.with_name("source.npz")).demand().holds


def test_two_weights_of_other_shape_or_dtype_have_other_digests() -> None:
    from lstmbridge.certificate import _digest

    numbers = np.arange(6, dtype="float32")
    views = [numbers, numbers.reshape(2, 3), numbers.reshape(3, 2), numbers.reshape(2, 3).T, numbers.astype("float64")]
    assert len({_digest(view) for view in views}) == 5
    assert _digest(numbers.reshape(2, 3).T) == _digest(np.ascontiguousarray(numbers.reshape(2, 3).T))


@pytest.mark.parametrize("at", [0, 9, 400, -1, -200])
def test_a_changed_byte_is_noticed(at: int, output: Path) -> None:
    data = bytearray(output.read_bytes())
    data[at] ^= 1
    output.write_bytes(data)
    found = verify(output)
    assert "output.safetensors has other bytes than certified" in found.problems
    with pytest.raises(FileError, match="not what its certificate says"):
        found.demand()


def test_other_numbers_are_named_even_where_the_certificate_was_given_the_new_bytes(output: Path) -> None:
    layers = list(read(output))
    weights = {**layers[0].weights, "forward.kernel.f": layers[0]["forward.kernel.f"] + 1}
    migrate([layers[0].replace(weights=weights), layers[1]], path=output, force=True)
    change(output, target={"framework": "torch", "files": {output.name: digest_of_file(output)}})
    assert verify(output).problems == ("a forward.kernel.f has other numbers",)


def test_another_spec_is_named(output: Path) -> None:
    told = load(beside(output))
    told["layers"][1]["target_spec"]["activations"] = [["tanh", None, None]]
    change(output, layers=told["layers"])
    [problem] = verify(output).problems
    assert problem.startswith("b is rnn 5 -> 11")


def test_a_missing_output_and_a_changed_source_are_problems(output: Path) -> None:
    source = output.with_name("source.npz")
    source.write_bytes(source.read_bytes() + b"\0")
    assert verify(output, source).problems == ("the source's source.npz has other bytes than certified",)
    output.unlink()
    problems = verify(output, source.with_name("gone.npz")).problems
    assert problems[0] == "output.safetensors is missing"
    assert problems[1] == "the source's source.npz is missing"


def test_a_later_version_or_layout_is_a_note(output: Path) -> None:
    told = load(beside(output))
    change(output, tool="lstmbridge 0.0.9", layouts={"torch": "0" * 16, "gates": layout_version("gates"), "x": "1"})
    found = verify(output)
    assert found.holds
    assert any("certified by lstmbridge 0.0.9" in note for note in found.notes)
    assert any("layout of torch is stated otherwise" in note for note in found.notes)
    assert told["layouts"]["torch"] == layout_version("torch") != layout_version("keras")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "1"}',
        '{"format": 1, "layers": []}',
        '{"format": 1, "layers": 3, "source": {}, "target": {}}',
    ],
)
def test_what_is_no_certificate(text: str, output: Path) -> None:
    beside(output).write_text(text)
    with pytest.raises(FileError, match="not a certificate of lstmbridge"):
        verify(output)


def test_a_later_format_and_a_missing_certificate(output: Path) -> None:
    change(output, format=2)
    with pytest.raises(FileError, match=r"format 2\n.*it knows 1"):
        verify(output)
    beside(output).unlink()
    with pytest.raises(FileError, match="no such certificate"):
        verify(output)


def test_what_is_not_what_was_written_is_never_certified(output: Path) -> None:
    source = output.with_name("source.npz")
    done = migrate(read(source), path=output, force=True)
    first = done.targets[0].layer
    wrong = first.replace(weights={**first.weights, "forward.kernel.i": first["forward.kernel.f"]})
    migrate([wrong, done.targets[1].layer], path=output, force=True)
    with pytest.raises(FileError, match=r"a forward.kernel.i is not what was written"):
        certify(done, output, source="s", source_files={}, frameworks=("gates", "torch"), options={})
    assert isinstance(first, Layer)
