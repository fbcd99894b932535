"""A witness for gradients: central differences of the equations in float64; and the Keras cases, as a script.

``gradient_cases.py STEP`` runs every STEP-th Keras case on the backend of KERAS_BACKEND in float32, and prints the
largest error of each as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers import BATCH, INPUT, layer_of, sequences
from lstmbridge import Layer
from lstmbridge.arrays import host
from lstmbridge.contract import Gradients, Outputs
from lstmbridge.reference import run_stack

#: How far the numbers are moved for a central difference: less, where a clip or a relu bends within the first.
STEPS = (1e-5, 1e-6, 1e-7)
SMOOTH = {"float64": 1e-8, "float32": 1e-6}

TIME = 5
SHORT = (TIME - 3, TIME)
EMPTY = (0, 1)

Array = Any


@dataclass(frozen=True, eq=False)
class Case:
    """Layers in float64, what they are run on, and what is pulled at their outputs."""

    layers: tuple[Layer, ...]
    x: Array
    h0: list[Array] | None
    c0: list[Array] | None
    lengths: Sequence[int] | None
    pull: Outputs


def case(layers: Sequence[Layer], *, states: bool = True, lengths: Sequence[int] | None = None, seed: int = 0) -> Case:
    """Sequences, initial states and pulls for the layers; exact in float32, and no two numbers equal."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return rng.normal(size=shape).astype("float32").astype("float64")

    doubled = tuple(each.replace(weights={n: np.float64(host(a)) for n, a in each.weights.items()}) for each in layers)
    d = len(layers[0].spec.directions)
    h0 = [draw(d, BATCH, each.spec.state_size) for each in layers] if states else None
    c0 = [draw(d, BATCH, each.spec.hidden_size) for each in layers] if states else None
    x = sequences(layers[0].spec, time=TIME, seed=seed)
    outcomes = run_stack(doubled, x)
    of_c = [None if each.c is None else draw(*each.c.shape) for each in outcomes]
    pull = Outputs(draw(*outcomes[-1].y.shape), [draw(*each.h.shape) for each in outcomes], of_c)
    return Case(doubled, x, h0, c0, lengths, pull)


def pulled(case: Case) -> float:
    """sum(y * pull.y) + sum(h * pull.h) + sum(c * pull.c), by the equations."""
    outcomes = run_stack(case.layers, case.x, h0=case.h0, c0=case.c0, lengths=case.lengths)
    total = float((outcomes[-1].y * case.pull.y).sum())
    for outcome, h, c in zip(outcomes, case.pull.h, case.pull.c, strict=True):
        total += float((outcome.h * h).sum()) + (0.0 if c is None else float((outcome.c * c).sum()))
    return total


def errors(case: Case, found: Gradients) -> dict[str, float]:
    """How far each gradient is from the equations', along a random direction, relative to its own size."""
    rng = np.random.default_rng(7)
    worst = {"x": _error(case, "x", 0, found.x, rng)}
    for n, (layer, weights) in enumerate(zip(case.layers, found.weights, strict=True)):
        assert list(weights) == list(layer.weights)
        worst |= {f"{n}.{name}": _error(case, name, n, weights[name], rng) for name in layer}
    return worst


def _error(case: Case, name: str, n: int, found: Array, rng: np.random.Generator) -> float:
    at = case.x if name == "x" else case.layers[n][name]
    assert found.shape == at.shape, name
    direction = rng.normal(size=at.shape)
    terms = np.float64(found) * direction
    smallest = np.inf
    for step in STEPS:
        ahead, behind = (pulled(_moved(case, name, n, at + sign * step * direction)) for sign in (1, -1))
        expected = (ahead - behind) / (2 * step)
        scale = max(abs(expected), float(np.sqrt((terms**2).sum())))
        smallest = min(smallest, abs(float(terms.sum()) - expected) / scale if scale else 0.0)
        if smallest <= SMOOTH[str(found.dtype)]:
            break
    return smallest


def _moved(case: Case, name: str, n: int, array: Array) -> Case:
    if name == "x":
        return replace(case, x=array)
    layers = list(case.layers)
    layers[n] = layers[n].replace(weights={**layers[n].weights, name: array})
    return replace(case, layers=tuple(layers))


def errors_of(live: Any, obj: Any, layers: Sequence[Layer], **features: Any) -> dict[str, float]:
    """The errors of a framework's gradients, for an object and those of its layers that are run together."""
    given = case(layers, **features)
    found = live.gradients(obj, layers, given.x, given.h0, given.c0, given.lengths, given.pull)
    return errors(given, found)


def keras_objects(dtype: str) -> Iterator[tuple[str, Any]]:
    """Keras layers of every kind, with weights that are all different."""
    import keras_grid as grid
    from keras import layers as kl

    cells = [kl.LSTMCell(4, dtype=dtype), kl.GRUCell(3, dtype=dtype)]
    made = {
        "stateful": (kl.GRU(4, stateful=True, dtype=dtype), (BATCH, TIME, INPUT)),
        "cell": (kl.LSTMCell(4, dtype=dtype), (None, INPUT)),
        "stack": (kl.StackedRNNCells(cells, dtype=dtype), (None, INPUT)),
    }
    for name, (obj, shape) in made.items():
        obj.build(shape)
        grid.fill(obj)
        yield name, obj
    both, backwards = {"directions": grid.BOTH}, {"directions": ("reverse",), "processed_order": True}
    specs = [
        grid.spec("lstm", merge="none", **both),
        grid.spec("gru", **backwards),
        *grid.unheld(),
        grid.spec("lstm"),
        grid.spec("gru", merge="mul", **both),
        grid.spec("gru", reset_after=False, **both),
        grid.spec("rnn", directions=("reverse",)),
        grid.spec("rnn", merge="ave", **both),
    ]
    for n, spec in enumerate(specs):
        yield str(spec), grid.live.build([grid.fitted(layer_of(spec, dtype=dtype, seed=n))], grid.WRITE)


def keras_errors(dtype: str, lengths: Mapping[str, Sequence[int] | None], step: int) -> Iterator[tuple[str, float]]:
    """The largest error of every `step`-th Keras object, for each kind of lengths; with states where there are some."""
    import keras_grid as grid

    for name, obj in itertools.islice(keras_objects(dtype), 0, None, step):
        layers = grid.live.read(obj, grid.READ).layers
        for kind, counts in lengths.items():
            found = errors_of(grid.live, obj, layers, states=counts is not None, lengths=counts)
            yield f"{name}, {kind}", max(found.values())


if __name__ == "__main__":
    print(json.dumps(dict(keras_errors("float32", {"full": None, "short": SHORT}, int(sys.argv[1])))))
