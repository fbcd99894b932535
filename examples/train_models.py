"""Trains the models of examples/models anew: small, but trained on a real task until they do it.

    python examples/train_models.py [NAME ...]      (all of them: five minutes on two cores)

The text comes with Python itself (its language reference, and docstrings and sources of its library), the series
is computed here, and seeds are fixed: nothing is downloaded. Another Python, Keras or PyTorch gives other numbers, and
models that are as good. What each model is and how well it does: examples/README.md.
"""

from __future__ import annotations

import ast
import io
import os
import re
import string
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pydoc_data import topics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

MODELS = Path(__file__).parent / "models"
SEED = 2026

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


# ---- data


def words() -> list[str]:
    """The words of Python's own documentation, in order, in small letters; each paragraph of prose once."""
    texts = [*topics.topics.values(), *docstrings()]
    paragraphs = dict.fromkeys(re.split(r"\n\s*\n", "\n\n".join(texts).lower()))
    prose = [each for each in paragraphs if len(each) > 60 and len(re.findall(r"[^a-z\s,.']", each)) < len(each) / 25]
    return re.findall("[a-z]+", " ".join(prose))


def docstrings() -> Iterator[str]:
    """Every docstring of the standard library's modules."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def windows(array: Ints | Floats, length: int) -> Ints | Floats:
    """The array cut into rows of that length, one after another; what is left over is dropped."""
    rows = len(array) // length
    return array[: rows * length].reshape(rows, length, *array.shape[1:])


def split(*arrays: Ints | Floats, gap: int = 0) -> list[Ints | Floats]:
    """The first nine tenths of each array, to train on; then the last tenth of each, less `gap` rows, to report on."""
    end = len(arrays[0]) * 9 // 10
    return [a[:end] for a in arrays] + [a[end + gap :] for a in arrays]


def letters_without_spaces(length: int = 60, count: int = 8000) -> tuple[Ints, Floats]:
    """Running text without its spaces: letters 0 to 25 (n, length), and 1 where a letter ends a word (n, length, 1)."""
    text = words()
    letters = np.array([ord(letter) - ord("a") for letter in "".join(text)], np.int64)
    ends = np.zeros((len(letters), 1), np.float32)
    ends[np.cumsum([len(word) for word in text]) - 1] = 1
    return windows(letters, length)[:count], windows(ends, length)[:count]


def mackey_glass(steps: int = 6000, delay: int = 17) -> Floats:
    """The chaotic series of Mackey and Glass (1977), one value a unit of time, mean 0 and deviation 1."""
    fine, history = 10, np.full((steps + 300) * 10 + delay * 10, 1.2)
    for t in range(delay * fine, len(history) - 1):
        late = history[t - delay * fine]
        history[t + 1] = history[t] + (0.2 * late / (1 + late**10) - 0.1 * history[t]) / fine
    series = history[-steps * fine :: fine]
    return ((series - series.mean()) / series.std()).astype(np.float32)


def forecasts(length: int = 50, ahead: int = 12) -> tuple[Floats, Floats]:
    """Stretches of the series (n, length, 1), and the value `ahead` steps after each (n, 1)."""
    series = mackey_glass()
    starts = np.arange(0, len(series) - length - ahead, 3)
    x = np.stack([series[s : s + length, None] for s in starts])
    return x, series[starts + length + ahead - 1][:, None]


PRINTABLE = string.printable[:95] + "\n"
CODE, COMMENT, STRING = 0, 1, 2


def source_with_kinds(source: str) -> tuple[Ints, Ints]:
    """The characters of a Python source, and for each whether it is code, comment or string."""
    kinds = {tokenize.COMMENT: COMMENT, tokenize.STRING: STRING}
    starts = np.cumsum([0, *(len(line) for line in source.splitlines(keepends=True))])
    labels = np.full(len(source), CODE, np.int64)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
            labels[first:last] = kinds[token.type]
    return np.array([PRINTABLE.index(c) for c in source], np.int64), labels


def coloured_sources(length: int = 80, count: int = 7000) -> tuple[Ints, Ints]:
    """Stretches of the standard library's sources, from the start of a line: characters and kinds (n, length)."""
    characters, labels = [], []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        if set(source) <= set(PRINTABLE):
            x, y = source_with_kinds(source)
            begins = [b for b in np.flatnonzero(x == PRINTABLE.index("\n")) + 1 if b + length <= len(x)][::9]
            characters += [x[b : b + length] for b in begins if y[b] == CODE]
            labels += [y[b : b + length] for b in begins if y[b] == CODE]
    order = np.random.default_rng(SEED).permutation(len(characters))[:count]
    return np.stack(characters)[order], np.stack(labels)[order]


ALPHABET = " " + string.ascii_lowercase
HOLE = len(ALPHABET)


def text_with_holes(length: int = 48, count: int = 7000) -> tuple[Ints, Ints]:
    """Running text in which one letter in eight is a hole: characters (n, length), and the text as it was."""
    text = windows(np.array([ALPHABET.index(c) for c in " ".join(words())], np.int64), length)[:count]
    holes = np.random.default_rng(SEED).random(text.shape) < 1 / 8
    return np.where(holes, HOLE, text), text


# ---- Keras


def fit(
    model: keras.Model,
    loss: str,
    metric: str,
    data: list[Ints | Floats],
    epochs: int,
    *,
    calm: float = 0.0,
    decay: float = 0.0,
) -> float:
    """Trains the model, saves it without the optimizer, and returns the metric on what it has not seen.

    `calm` weighs the square of the last states beside the loss, and `decay` pulls all weights towards zero: so that an
    LSTM's cell state, which nothing else bounds, stays below one or two, and float32 has bits to spare.
    """
    x, y, x_new, y_new = data
    student = showing_states(model)
    states = np.zeros((len(x), student.output_shape[1][1]), np.float32)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * (len(x) // 64))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, clipnorm=1.0)
    student.compile(optimizer, [loss, "mse"], loss_weights=[1.0, calm])
    student.fit(x, [y, states], batch_size=64, epochs=epochs, verbose=0, callbacks=[Progress(epochs)])
    model.set_weights(student.get_weights())
    model.save(MODELS / f"{model.name}.keras")
    model.compile(loss=loss, metrics=[metric])
    return float(model.evaluate(x_new, y_new, batch_size=256, verbose=0)[1])


def showing_states(model: keras.Model) -> keras.Model:
    """The same layers anew, in a model that gives its output and all last states side by side (b, s)."""
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    y, states = inputs, []
    for layer in model.layers:
        config = layer.get_config()
        config.pop("backward_layer", None)  # made anew, like the forward one
        inner = config["layer"]["config"] if "layer" in config else config
        if "return_state" in inner:
            inner["return_state"] = True
            y, *last = layer.__class__.from_config(config)(y)
            states += last
        else:
            y = layer.__class__.from_config(config)(y)
    return keras.Model(inputs, [y, keras.layers.Concatenate()(states)])


class Progress(keras.callbacks.Callback):
    """One line that counts the epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        report(f"epoch {epoch + 1}/{self.epochs}  loss {(logs or {})['loss']:.4f}")


def report(text: str) -> None:
    print(f"\r    {text:50}", end="", flush=True)


def tagger() -> str:
    """Two stacked bidirectional LSTMs that put the spaces back into text."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="letters"),
            layers.Embedding(26, 12, name="embedding"),
            layers.Bidirectional(layers.LSTM(32, return_sequences=True), name="lower"),
            layers.Dropout(0.1, name="dropout"),
            layers.Bidirectional(layers.LSTM(20, return_sequences=True), name="upper"),
            layers.Dense(1, activation="sigmoid", name="ends_word"),
        ],
        name="tagger",
    )
    data = split(*letters_without_spaces())
    score = fit(model, "binary_crossentropy", "accuracy", data, epochs=10, calm=1.0, decay=2.0)
    return f"accuracy {score:.3f} ({1 - data[3].mean():.3f} for 'never')"


def gru_forecast() -> str:
    """A GRU and a SimpleRNN that say where a chaotic series will be."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 1), name="series"),
            layers.GRU(24, reset_after=True, return_sequences=True, name="gru"),
            layers.SimpleRNN(14, name="rnn"),
            layers.Dense(1, name="value"),
        ],
        name="gru_forecast",
    )
    data = split(*forecasts(), gap=21)  # stretches that share no value with the first part
    score = fit(model, "mse", "mae", data, epochs=25)
    return f"mean absolute error {score:.4f} ({np.abs(data[2][:, -1] - data[3]).mean():.4f} for 'as it is now')"


def legacy_gates() -> str:
    """An LSTM and a reset-before GRU with hard_sigmoid gates that tell code, comment and string apart."""
    layers = keras.layers
    gates = {"recurrent_activation": "hard_sigmoid", "return_sequences": True}
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="characters"),
            layers.Embedding(len(PRINTABLE), 10, name="embedding"),
            layers.LSTM(30, name="lstm", **gates),
            layers.GRU(16, name="gru", reset_after=False, **gates),
            layers.Dense(3, activation="softmax", name="kind"),
        ],
        name="legacy_gates",
    )
    data = split(*coloured_sources())
    score = fit(model, "sparse_categorical_crossentropy", "accuracy", data, epochs=14, calm=0.5, decay=1.0)
    return f"accuracy {score:.3f} ({(data[3] == CODE).mean():.3f} for 'always code')"


# ---- PyTorch


class Speller(torch.nn.Module):
    """Fills the holes in a text: characters (b, t) to scores (b, t, 27)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(ALPHABET) + 1, 14)
        self.rnn = torch.nn.LSTM(14, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.letter = torch.nn.Linear(64, len(ALPHABET))

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.embedding(characters))
        return self.letter(y)


def speller() -> str:
    """A torch LSTM of two bidirectional layers, as .safetensors, as .pt, and as torch exports it to ONNX."""
    x, y, x_new, y_new = (torch.from_numpy(a) for a in split(*text_with_holes()))
    model, epochs = Speller(), 24
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            hole = x[batch] == HOLE
            loss = torch.nn.functional.cross_entropy(model(x[batch])[hole], y[batch][hole])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        report(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.4f}")
    save_torch(model.eval(), x_new)
    hole = x_new == HOLE
    with torch.no_grad():
        score = (model(x_new).argmax(-1) == y_new)[hole].float().mean()
    return f"accuracy {score:.3f} ({(y_new[hole] == 0).float().mean():.3f} for 'always a space')"


def save_torch(model: Speller, example: torch.Tensor) -> None:
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, MODELS / "speller.safetensors")
    torch.save(weights, MODELS / "speller.pt")
    free = {0: "batch", 1: "time"}
    warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export")
    warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size")
    torch.onnx.export(
        model,
        (example[:1],),
        str(MODELS / "speller.onnx"),
        input_names=["characters"],
        output_names=["scores"],
        dynamic_axes={"characters": free, "scores": free},
        dynamo=False,
    )


# ---- all of them

TRAIN: Mapping[str, Callable[[], str]] = {f.__name__: f for f in (tagger, gru_forecast, legacy_gates, speller)}


def main(names: list[str]) -> int:
    unknown = set(names) - set(TRAIN)
    if unknown:
        print(f"no model is called {', '.join(sorted(unknown))}; there are {', '.join(TRAIN)}", file=sys.stderr)
        return 2
    MODELS.mkdir(exist_ok=True)
    for name in names or TRAIN:
        print(f"{name}: {TRAIN[name].__doc__}")
        keras.utils.set_random_seed(SEED)
        torch.manual_seed(SEED)
        result = TRAIN[name]()
        print(f"\r    {result:50}")
    for path in sorted(MODELS.iterdir()):
        print(f"{path.stat().st_size:8} bytes  {path.relative_to(MODELS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
