"""Plain arrays by name in any layout: npz, safetensors and directories of npy, without a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import layer, same_weights
from lstmbridge import Layer, check, from_arrays, read, registry, tensorfile, to_arrays
from lstmbridge.cli import main
from lstmbridge.errors import (
    Ambiguous,
    FileError,
    LayoutError,
    NothingRecurrent,
    OptionError,
    UnknownName,
    Unsupported,
)

#: For each layout a layer that it holds, and what its arrays do not say.
HELD: list[tuple[str, Layer, dict[str, Any]]] = [
    ("keras", layer(), {}),
    ("keras", layer(directions=("forward", "reverse")), {}),
    ("keras", layer("gru", bias="dual"), {}),
    ("keras", layer("rnn", activations=("relu",)), {"nonlinearity": "relu"}),
    ("torch", layer(bias="dual", projection_size=3), {}),
    ("torch", layer("gru", bias="dual", directions=("forward", "reverse")), {}),
    ("torch", layer("rnn", bias="none"), {"nonlinearity": "tanh"}),
    ("onnx", layer(bias="dual", peepholes=True), {}),
    ("onnx", layer("gru", bias="dual", reset_after=False), {"reset_after": False}),
    ("tf1", layer(forget_constant=2.5, peepholes=True), {"forget_constant": 2.5}),
    ("tf1", layer("gru", reset_after=False), {"reset_after": False}),
]
IDS = [f"{name}-{made.spec.cell}-{number}" for number, (name, made, _) in enumerate(HELD)]


def packed(name: str, made: Layer) -> dict[str, np.ndarray]:
    return dict(registry.framework(name).layout.LAYOUTS[made.spec.cell].pack(made.weights, made.spec))


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        tensorfile.save(arrays, path)
    else:
        for name, array in arrays.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(path / f"{name}.npy", array)
    return path


@pytest.mark.parametrize("file", ["arrays.npz", "arrays.safetensors", "arrays"])
@pytest.mark.parametrize(("name", "made", "said"), HELD, ids=IDS)
def test_every_layout_is_read_from_every_kind_of_file(
    name: str, made: Layer, said: dict[str, Any], file: str, tmp_path: Path
) -> None:
    arrays = {f"encoder/rnn/{key}": array for key, array in packed(name, made).items()}
    path = save(tmp_path / file, {**arrays, "dense/kernel_": np.ones((2, 3), "float32")})
    [found] = read(path, layout=name, cell=made.spec.cell, **said)
    same_weights(found, made)
    assert found.path == "encoder.rnn"


def test_several_layers_and_levels_and_other_arrays(tmp_path: Path) -> None:
    from lstmbridge.summary import inspect

    first, second = layer(bias="dual"), layer(bias="dual", input_size=11, seed=1)
    layout = registry.framework("torch").layout.LAYOUTS["lstm"]
    arrays = {f"rnn.{key}": value for key, value in layout.pack(first.weights, first.spec).items()}
    arrays |= {f"rnn.{key}": value for key, value in layout.pack(second.weights, second.spec, level=1).items()}
    arrays |= {f"other.{key}": value for key, value in packed("torch", layer("gru", bias="dual", seed=2)).items()}
    path = save(tmp_path / "a.npz", {**arrays, "bias": np.ones(3, "float32")})
    found = read(path, layout="torch")
    assert [(each.label, each.spec.cell, each.after) for each in found] == [
        ("rnn.l0", "lstm", None),
        ("rnn.l1", "lstm", "rnn.l0"),
        ("other", "gru", None),
    ]
    same_weights(found[1], second.replace(path="rnn"))
    assert inspect(path, layout="torch").left_alone == ("bias",)
    assert [each.label for each in read(path, layout="torch", only=("other",))] == ["other"]


def test_without_a_direction_the_forward_one_is_meant(tmp_path: Path) -> None:
    made = layer()
    arrays = {key.removeprefix("forward."): array for key, array in packed("keras", made).items()}
    same_weights(*read(save(tmp_path / "arrays", arrays), layout="keras"), made)


def test_what_arrays_do_not_say_is_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", packed("tf1", layer()))
    with pytest.raises(Ambiguous, match="forget_constant is in no array"):
        read(path, layout="tf1")
    path = save(tmp_path / "b.npz", packed("keras", layer("rnn")))
    with pytest.raises(Ambiguous, match=r"tanh or relu\?\n.*--nonlinearity"):
        read(path, layout="keras")


@pytest.mark.parametrize(
    ("arrays", "options", "error", "words"),
    [
        ({"kernel": (5, 45), "recurrent_kernel": (11, 44), "bias": (44,)}, {}, LayoutError, "has shape"),
        ({"kernel": (5, 44), "bias": (44,)}, {}, LayoutError, "no lstm layer has just these"),
        ({"weights": (3, 4)}, {}, NothingRecurrent, "no arrays in the layout of keras\n  found weights"),
        ({"kernel": (5, 44)}, {"layout": "kears"}, UnknownName, "did you mean 'keras'"),
        ({"kernel": (5, 44)}, {"cell": "lstn"}, UnknownName, "did you mean 'lstm'"),
    ],
)
def test_errors(
    arrays: dict[str, tuple[int, ...]], options: dict[str, str], error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.npz", {name: np.ones(shape, "float32") for name, shape in arrays.items()})
    with pytest.raises(error, match=words):
        read(path, **{"layout": "keras", **options})  # type: ignore[arg-type]


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    for name, words in [("a.txt", "no file of plain arrays"), ("empty", "no .npy file"), ("none", "no such file")]:
        with pytest.raises(FileError, match=words):
            read(tmp_path / name, layout="keras")
    (tmp_path / "bad").mkdir()
    np.save(tmp_path / "bad" / "kernel.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match=r"kernel.npy: not a readable .npy file"):
        read(tmp_path / "bad", layout="keras")


def test_a_huge_claim_is_not_allocated(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "kernel.npy", np.ones((5, 44), "float32"))
    data = (tmp_path / "a" / "kernel.npy").read_bytes()
    (tmp_path / "a" / "kernel.npy").write_bytes(data.replace(b"(5, 44)", b"(5, 4444444444444)")[:400])
    with pytest.raises(FileError, match=r"numbers of float32 in 400 bytes|not a readable"):
        read(tmp_path / "a", layout="keras")


def test_links_in_a_directory_are_not_followed(tmp_path: Path) -> None:
    made = layer()
    save(tmp_path / "a", packed("keras", made))
    (tmp_path / "a" / "extra.npy").symlink_to("/etc/passwd")
    same_weights(*read(tmp_path / "a", layout="keras"), made)


def test_the_commands_take_a_layout(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", packed("tf1", layer()))
    options = ["--layout", "tf1", "--forget-bias", "1.0"]
    target = tmp_path / "b.safetensors"
    found = CliRunner().invoke(main, ["convert", str(path), str(target), "--check", *options], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "reparameterised" in found.output
    for words in (["check", str(path), str(target)], ["inspect", str(path)]):
        assert CliRunner().invoke(main, [*words, *options], catch_exceptions=False).exit_code == 0
    found = CliRunner().invoke(main, ["diff", str(path), str(target), *options], catch_exceptions=False)
    assert "bias.f" in found.output


def test_a_dense_layer_is_not_taken_for_a_recurrent_one(tmp_path: Path) -> None:
    """Where input and state share a kernel, its arrays look the same."""
    made = layer()
    arrays = {f"rnn/lstm_cell/{key}": value for key, value in packed("tf1", made).items()}
    dense = {"fc1/kernel": np.ones((64, 32), "float32"), "fc1/bias": np.ones(32, "float32")}
    odd = {"logits/kernel": np.ones((32, 10), "float32"), "logits/bias": np.ones(10, "float32")}
    path = save(tmp_path / "a.npz", {**arrays, **dense, **odd})
    from lstmbridge.reading import read_all

    found = read_all(path, layout="tf1", forget_constant=0.0, cell="lstm")
    assert [each.path for each in found.layers] == ["rnn.lstm_cell"]
    assert set(found.left_alone) == {*dense, *odd}
    assert "fc1, logits" in found.notes[0]
    path = save(tmp_path / "b.npz", dense)
    with pytest.raises(Ambiguous, match=r"recurrent or dense\? fc1\n.*--layer"):
        read(path, layout="tf1", forget_constant=0.0, cell="lstm")
    [asked] = read(path, layout="tf1", forget_constant=0.0, cell="lstm", only=("fc1",))
    assert (asked.spec.input_size, asked.spec.hidden_size) == (56, 8)
    target = tmp_path / "c.safetensors"
    words = ["convert", str(tmp_path / "a.npz"), str(target), "--layout", "tf1", "--forget-bias", "0", "--check"]
    done = CliRunner().invoke(main, [*words, "--layer", "rnn", "--cell", "lstm"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_keras_arrays_without_a_direction_are_those_of_the_forward_one() -> None:
    arrays = {"kernel": np.ones((5, 44)), "recurrent_kernel": np.ones((11, 44)), "bias": np.ones(44)}
    assert from_arrays(arrays, "keras").spec.directions == ("forward",)
    with pytest.raises(OptionError, match="arrays in a list have no names"):
        from_arrays(list(arrays.values()), "keras")  # type: ignore[arg-type]


# ---- back to arrays


@pytest.mark.parametrize(("name", "made", "asked"), HELD, ids=IDS)
def test_a_layer_goes_to_arrays_and_back(name: str, made: Layer, asked: dict[str, Any]) -> None:
    arrays = to_arrays(made, name)
    expected = packed(name, made)
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[key], expected[key]) for key in expected)
    assert not any(np.shares_memory(array, weight) for array in arrays.values() for weight in made.weights.values())
    features = {key: value for key, value in asked.items() if key != "nonlinearity"}
    again = from_arrays(arrays, name, cell=made.spec.cell, activations=made.spec.activations, **features)
    same_weights(again, made)


def test_biases_are_brought_to_the_form_of_the_layout() -> None:
    dual, single = layer(bias="dual"), layer()
    merged = to_arrays(dual, "keras")
    assert merged["forward.bias"].shape == (44,)
    check(from_arrays(merged, "keras"), dual).demand()
    padded = to_arrays(single, "torch")
    assert not padded["bias_hh_l0"].any()
    check(from_arrays(padded, "torch"), single).demand()


def test_what_cannot_be_arrays_of_a_layout_says_so() -> None:
    with pytest.raises(Unsupported, match="keras cannot express projection_size 3"):
        to_arrays(layer(bias="dual", projection_size=3), "keras")
    with pytest.raises(UnknownName, match="unknown framework 'kears'"):
        to_arrays(layer(), "kears")
    with pytest.raises(OptionError, match="a dict is no Layer"):
        to_arrays({}, "keras")  # type: ignore[arg-type]
    own = registry.framework("torch").layout.LAYOUTS["lstm"]
    with pytest.raises(LayoutError, match="a layout of lstm for gru"):
        to_arrays(layer("gru"), own)
    assert to_arrays(layer(bias="dual"), own).keys() == to_arrays(layer(bias="dual"), "torch").keys()


def test_another_cell_and_transposed_matrices_are_recognised() -> None:
    lstm, gru = to_arrays(layer(), "keras"), to_arrays(layer("gru", bias="dual"), "keras")
    turned = {name: array.T for name, array in lstm.items()}
    with pytest.raises(LayoutError, match="with every matrix transposed they fit: give each array's .T"):
        from_arrays(turned, "keras")
    with pytest.raises(LayoutError, match="they are those of a gru: cell='gru'"):
        from_arrays(gru, "keras")
    with pytest.raises(LayoutError) as caught:
        from_arrays({**lstm, "forward.bias": np.ones(7, "float32")}, "keras")
    assert "transposed" not in str(caught.value)
    assert "cell=" not in str(caught.value)
    for arrays in ({"kernel": [[1.0, 2.0]]}, {**lstm, "forward.bias": [1.0] * 44}):
        with pytest.raises(OptionError, match="is a list\n.*expected an array"):
            from_arrays(arrays, "keras")
