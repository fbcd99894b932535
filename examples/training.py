"""Training on both sides, from the same weights: the figures and the picture of docs/training.md.

    python examples/training.py [--steps 40] [--out docs]

A Keras model (an LSTM and an RNN, in float64) learns to say the next value of a series. Four times a torch model does
the same beside it: with the second biases frozen or not; and taking over half-way, with the optimizer or a new one.
Everything is seeded: it gives the same figures again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # the backend that computes in float64
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import torch

import lstmbridge
from lstmbridge.training import freeze_second_bias

Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

#: Settings that float32 holds exactly, since Keras takes them through it; and an epsilon that is nothing, since Keras
#: adds it before the bias correction and torch after it.
RATE, BETAS, EPSILON = 2**-6, (0.875, 1 - 2**-7), 1e-30

#: The runs of torch, by what they show.
RUNS = {
    "frozen": "torch from step 0, second biases frozen",
    "resumed": "torch from half-way, with the optimizer",
    "both biases": "torch from step 0, both biases trained",
    "no optimizer": "torch from half-way, with a new optimizer",
}


def batches(steps: int) -> list[Batch]:
    """For each step, series (b, t, 1) and what comes next in each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        start, pace = rng.uniform(0, 6, size=(16, 1)), rng.uniform(0.2, 0.4, size=(16, 1))
        angle = start + pace * np.arange(25)
        series = 0.6 * np.sin(angle) + 0.3 * np.sin(2.7 * angle)
        found.append((series[:, :-1, None], series[:, 1:, None]))
    return found


def keras_model() -> tuple[Any, Any]:
    """The model that is trained, and its optimizer."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.LSTM(16, return_sequences=True, dtype="float64"),
              keras.layers.SimpleRNN(1, return_sequences=True, dtype="float64")]  # fmt: skip
    model = keras.Sequential([keras.Input((None, 1), dtype="float64"), *layers])
    optimizer = keras.optimizers.Adam(RATE, *BETAS, epsilon=EPSILON)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def keras_steps(model: Any, optimizer: Any, given: Sequence[Batch]) -> list[float]:
    """The loss before each step."""
    losses = []
    for x, y in given:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(tf.constant(x)) - tf.constant(y)) ** 2)
        values = [variable.value for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, values), model.trainable_variables)
        losses.append(float(loss))
    return losses


def torch_steps(model: Any, optimizer: Any, given: Sequence[Batch]) -> list[float]:
    """The same in torch."""
    losses = []
    for x, y in given:
        optimizer.zero_grad()
        found, _ = model(torch.from_numpy(x))
        loss = ((found - torch.from_numpy(y)) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def from_the_start(given: Sequence[Batch], *, freeze: bool) -> list[float]:
    """torch alone, from Keras' initial weights."""
    source, optimizer = keras_model()
    model = lstmbridge.convert(source, to="torch")
    if freeze:
        freeze_second_bias(model)
    return torch_steps(model, lstmbridge.migrate_optimizer(optimizer, source, model).result, given)


def from_half_way(given: Sequence[Batch], *, state: bool) -> list[float | None]:
    """torch for the second half, after Keras for the first."""
    source, optimizer = keras_model()
    half = len(given) // 2
    keras_steps(source, optimizer, given[:half])
    model = lstmbridge.convert(source, to="torch")
    freeze_second_bias(model)
    moved = lstmbridge.migrate_optimizer(optimizer, source, model).result
    new = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], RATE, BETAS, EPSILON)
    return [None] * half + torch_steps(model, moved if state else new, given[half:])


def figures(steps: int) -> dict[str, Any]:
    """The losses of every run, by name, and how far each is from Keras' at the most."""
    given = batches(steps)
    expected = keras_steps(*keras_model(), given)
    runs: dict[str, list[Any]] = {
        "frozen": from_the_start(given, freeze=True),
        "resumed": from_half_way(given, state=True),
        "both biases": from_the_start(given, freeze=False),
        "no optimizer": from_half_way(given, state=False),
    }
    apart = {name: max(_gaps(expected, losses)) for name, losses in runs.items()}
    return {"steps": steps, "keras": expected, "torch": runs, "apart": apart}


def _gaps(expected: Sequence[float], losses: Sequence[float | None]) -> list[float]:
    """|difference| of each step at which torch was there."""
    return [abs(one - other) for one, other in zip(expected, losses, strict=True) if other is not None]


def draw(found: dict[str, Any], path: Path) -> None:
    """The losses, and how far each run of torch is from Keras'."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = dict(zip(RUNS, ("#0072b2", "#009e73", "#d55e00", "#cc79a7"), strict=True))  # told apart by everybody
    widths = {"frozen": 3.5, "resumed": 1.8}
    with rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                     "svg.hashsalt": "lstmbridge", "svg.fonttype": "none"}):  # fmt: skip
        figure = Figure(figsize=(8.5, 7), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        steps = range(found["steps"])
        above.plot(steps, found["keras"], color="0.75", linewidth=6, label="Keras, unbroken")
        for name, losses in found["torch"].items():
            here = [number for number, loss in enumerate(losses) if loss is not None]
            gaps = _gaps(found["keras"], losses)
            style = {"color": colours[name], "linewidth": widths.get(name, 1.5), "label": RUNS[name]}
            above.plot(here, [losses[number] for number in here], **style)
            below.plot(here, np.maximum(gaps, 2e-17), **style)
        above.set(ylabel="mean squared error", title="The same weights, the same batches, Adam, float64", yscale="log")
        below.set(xlabel="step", ylabel="|loss − Keras' loss|", yscale="log")
        below.axhline(1e-9, color="0.5", linewidth=0.8, linestyle=":")
        place = {"xytext": (0, 3), "textcoords": "offset points"}
        below.annotate("allowed by the suite", (found["steps"] / 6, 1e-9), **place, color="0.4")
        above.legend(frameon=False, loc="lower left")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, draws, and says how far apart the runs were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where training.json and training.svg go")
    given = parser.parse_args(arguments)
    found = figures(given.steps)
    (given.out / "training.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, given.out / "training.svg")
    for name, gap in found["apart"].items():
        print(f"{RUNS[name]}: {gap:.1e} from Keras at the most")


if __name__ == "__main__":
    main()
