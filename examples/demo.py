"""The main job on real trained models: what `make demo` runs.

A Keras model that puts the spaces back into text (two stacked bidirectional LSTMs) goes to PyTorch, to ONNX, and back
to Keras. The same sequences then run through the original, through each of the three, loaded by their own frameworks,
and through the float64 equations; the table shows how far each is from the original. A second model, with gates that no
PyTorch layer computes, is refused, and then moved all the same with --faithful.

Exit code 0 if every number is within 1e-6 of the original and the way back is bit for bit, else 1.
"""

from __future__ import annotations

import importlib
import os
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import lstmbridge
from lstmbridge import reference

ROOT = Path(__file__).parent.parent
MODELS = Path("examples/models")
OUTPUT = Path("demo-output")
ALLOWED = 1e-6

ZEN = """
Beautiful is better than ugly. Explicit is better than implicit. Simple is better than complex. Complex is better than
complicated. Flat is better than nested. Sparse is better than dense. Readability counts. Special cases are not special
enough to break the rules. Although practicality beats purity. Errors should never pass silently. Unless explicitly
silenced. In the face of ambiguity refuse the temptation to guess.
"""

Floats = npt.NDArray[Any]
Results = dict[tuple[str, str], Floats]  # (layer, "y" or "h" or "c") -> y (b, t, f), h (d, b, p), c (d, b, h)

console = Console(width=110, highlight=False, soft_wrap=True)


# ---- what is shown


def heading(text: str) -> None:
    console.print(f"\n[bold]== {text}[/bold]")


def command(*arguments: object, lines: int = 12) -> int:
    """Runs `lstmbridge` with these arguments, shows the command and the first lines it prints; its exit code."""
    words = [str(each) for each in arguments]
    console.print(f"[bold]$ lstmbridge {' '.join(words)}[/bold]")
    program = [sys.executable, "-c", "from lstmbridge.cli import main; main()", *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    printed = (done.stdout + done.stderr).rstrip().splitlines()
    more = [f"... and {len(printed) - lines} more lines"] if len(printed) > lines else []
    for line in printed[:lines] + more:
        console.print(f"  {line}", markup=False)
    return done.returncode


def table(title: str, original: Results, others: Mapping[str, Results]) -> float:
    """Shows the largest |difference| of each of the others from the original, and returns the largest of all."""
    drawn = Table(title=title, title_justify="left", title_style="")
    for column in ("layer", "output", "numbers"):
        drawn.add_column(column)
    for name in others:
        drawn.add_column(name, justify="right")
    largest = 0.0
    for (layer, output), found in original.items():
        gaps = [float(np.abs(found.astype(np.float64) - results[layer, output]).max()) for results in others.values()]
        shape = " x ".join(map(str, found.shape))
        drawn.add_row(layer, output, shape, *(f"{'[red]' * (gap > ALLOWED)}{gap:.1e}" for gap in gaps))
        largest = float(np.max([largest, *gaps]))  # not max(), which loses a NaN
    console.print(drawn)
    return largest


# ---- each side, run by its own framework


def quietly(name: str) -> Any:
    """The module of that name; what its native code says on standard error while it loads is not shown."""
    error, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return importlib.import_module(name)
    finally:
        os.dup2(error, 2)
        os.close(error)
        os.close(nowhere)


def in_keras(model: Any, names: Sequence[str], x: Floats) -> Results:
    """What the model's own layers give, one after another."""
    results: Results = {}
    for name in names:
        layer = model.get_layer(name)
        halves = [layer.forward_layer, layer.backward_layer] if hasattr(layer, "backward_layer") else [layer]
        for each in {id(each): each for each in (layer, *halves)}.values():
            each.return_state = True
        y, *states = (np.asarray(each) for each in layer(x))
        of_one = len(states) // len(halves)
        results[name, "y"] = x = y
        results[name, "h"] = np.stack(states[::of_one])
        if of_one == 2:
            results[name, "c"] = np.stack(states[1::2])
    return results


def in_torch(modules: Mapping[str, Any], x: Floats) -> Results:
    """What torch modules give, one after another."""
    torch = sys.modules["torch"]
    results: Results = {}
    sequences = torch.tensor(x)
    with torch.no_grad():
        for name, module in modules.items():
            sequences, state = module(sequences)
            h, *c = state if isinstance(state, tuple) else (state,)
            found = {"y": sequences, "h": h, **({"c": c[0]} if c else {})}
            results |= {(name, output): tensor.numpy() for output, tensor in found.items()}
    return results


def torch_layers(path: Path) -> dict[str, Any]:
    """torch's own LSTMs, filled from the file by its plain `load_state_dict`: nothing of lstmbridge is needed here."""
    nn, load_file = importlib.import_module("torch.nn"), importlib.import_module("safetensors.torch").load_file
    layers = {
        "lower": nn.LSTM(12, 32, bidirectional=True, batch_first=True),
        "upper": nn.LSTM(64, 20, bidirectional=True, batch_first=True),
    }
    nn.ModuleDict(layers).load_state_dict(load_file(path), strict=True)
    return layers


def in_onnxruntime(path: Path, names: Sequence[str], x: Floats) -> Results:
    """What onnxruntime gives. A layer's outputs inside the chain are what the next node reads, time first."""
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    model = onnx.load(path)
    inner = [node.input[0] for node in model.graph.node if node.op_type in ("LSTM", "GRU", "RNN")][1:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(each, 1, None) for each in inner)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"X": x}), strict=True))
    results: Results = {}
    for name, value in zip(names, [*inner, "Y"], strict=True):
        results[name, "y"] = found[value] if value == "Y" else found[value].swapaxes(0, 1)
        results[name, "h"], results[name, "c"] = found[f"{name}.Y_h"], found[f"{name}.Y_c"]
    return results


def in_equations(path: Path, x: Floats) -> Results:
    """What the float64 equations give for the layers of a file."""
    layers = lstmbridge.read(path)
    results: Results = {}
    for layer, outcome in zip(layers, reference.run_stack(layers, x), strict=True):
        found = {"y": outcome.y, "h": outcome.h, "c": outcome.c}
        results |= {(layer.label, output): array for output, array in found.items() if array is not None}
    return results


# ---- the demo


def with_spaces(letters: str, ends: Floats) -> str:
    """The letters with a space behind each that ends a word."""
    return "".join(letter + " " * bool(end > 0.5) for letter, end in zip(letters, ends.ravel(), strict=True))


def there_and_back(keras: Any) -> tuple[float, bool]:
    """The tagger to PyTorch, ONNX and Keras: the largest difference, and whether the way back is bit for bit."""
    source, to_torch, to_onnx = MODELS / "tagger.keras", OUTPUT / "tagger.safetensors", OUTPUT / "tagger.onnx"
    back, remainder = OUTPUT / "back.keras", OUTPUT / "tagger.remainder.safetensors"
    heading("a trained Keras model: two stacked bidirectional LSTMs that put the spaces back into text")
    command("inspect", source, lines=10)
    heading("file to file, with no deep-learning framework imported: Keras to PyTorch, to ONNX, and back to Keras")
    codes = [
        command("convert", source, to_torch, "--remainder", remainder, "--force"),
        command("convert", source, to_onnx, "--batch-first", "--force"),
        command("convert", to_torch, back, "--restore", remainder, "--force"),
    ]
    if any(codes):
        return float("inf"), False

    heading("the same text through the original, and through each of the three in its own framework")
    model = keras.models.load_model(MODELS / "tagger.keras")
    names = ("lower", "upper")
    letters = "".join(c for c in ZEN.lower() if c in string.ascii_lowercase)
    rows = np.array([ord(c) - ord("a") for c in letters[: len(letters) // 40 * 40]]).reshape(-1, 40)
    x = np.asarray(model.get_layer("embedding")(rows))
    modules = torch_layers(to_torch)
    others = {
        "torch": in_torch(modules, x),
        "onnxruntime": in_onnxruntime(to_onnx, names, x),
        "keras, from back.keras": in_keras(keras.models.load_model(back), names, x),
        "equations": in_equations(source, x),
    }
    largest = table("largest |difference| from the original Keras layers, float32", in_keras(model, names, x), others)
    ends = model.get_layer("ends_word")(others["torch"]["upper", "y"][:3])
    console.print(f"in  {letters[:120]}")
    console.print(f"out {with_spaces(letters[:120], np.asarray(ends))}   (its LSTMs run by torch)")

    heading("and the way back, bit for bit")
    command("diff", source, back, lines=6)
    found = lstmbridge.diff(source, back)
    same = sum(weight.same for weight in found)
    console.print(f"{same} of {len(found)} weights of back.keras are those of the original, bit for bit")
    return largest, same == len(found)


def cannot_be_held(source: Path, target: Path) -> bool:
    """Whether converting says so, and leaves nothing behind."""
    try:
        lstmbridge.convert(source, path=target)
    except NotImplementedError:
        return not target.exists()
    return False


def legacy(keras: Any) -> tuple[float, bool]:
    """The model with hard_sigmoid gates: the largest difference, and whether it was refused as it should be."""
    source, target = MODELS / "legacy_gates.keras", OUTPUT / "legacy_gates.safetensors"
    target.unlink(missing_ok=True)
    heading("a model that PyTorch's own layers cannot compute is refused, and nothing is written")
    refused = command("convert", source, target) == 1 and cannot_be_held(source, target)
    heading("with --faithful it is moved all the same, into a module that runs just these equations")
    if command("convert", source, target, "--faithful"):
        return float("inf"), refused

    model = keras.models.load_model(source)
    printable = string.printable[:95] + "\n"
    text = [c for c in Path(__file__).read_text(encoding="utf-8") if c in printable][: 12 * 60]
    rows = np.array([printable.index(c) for c in text]).reshape(12, 60)
    x = np.asarray(model.get_layer("embedding")(rows))
    names = ("lstm", "gru")
    bundle = lstmbridge.convert(target, to="torch", faithful=True, batch_first=True)
    others = {
        "torch": in_torch({name: bundle.get_submodule(name) for name in names}, x),
        "equations": in_equations(source, x),
    }
    original = in_keras(model, names, x)
    return table("largest |difference| from the original Keras layers, on this very source", original, others), refused


def main() -> int:
    os.chdir(ROOT)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    OUTPUT.mkdir(exist_ok=True)
    console.print("loading Keras and PyTorch, to check against (converting does not need them) ...")
    keras, _ = quietly("keras"), quietly("torch")
    largest, same = there_and_back(keras)
    faithful, refused = legacy(keras)
    worst = float(np.max([largest, faithful]))
    agrees = worst <= ALLOWED and same and refused
    heading(
        f"{'everything agrees' if agrees else 'NOT everything agrees'}: the largest difference from the originals is "
        f"{worst:.1e} (allowed {ALLOWED:.0e}); the way back is {'' if same else 'NOT '}bit for bit; "
        f"what cannot be held was {'' if refused else 'NOT '}refused"
    )
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
