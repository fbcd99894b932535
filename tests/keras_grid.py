"""Keras objects on one backend against the equations; a script, for the backend of KERAS_BACKEND.

``keras_grid.py STEP FILE ...`` runs every STEP-th case and each model file, and prints the largest differences as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

from helpers import BATCH, INPUT, PROJECTION, TIME, layer_of, same_weights, sequences
from helpers import spec as spec_of
from lstmbridge import Layer, Spec, reference
from lstmbridge.arrays import host
from lstmbridge.contract import ReadOptions, WriteOptions
from lstmbridge.errors import Unsupported
from lstmbridge.fit import Fitted, fit, refusals
from lstmbridge.frameworks.keras import files, live
from lstmbridge.frameworks.keras.layout import FAITHFUL, FUNCTIONS, HOLDS
from lstmbridge.spec import CELLS, MERGES, ROLES, Activation

BOTH = ("forward", "reverse")
HARD = Activation("hard_sigmoid", 1 / 6)
READ, WRITE = ReadOptions(), WriteOptions()


def spec(cell: str, **features: Any) -> Spec:
    """A Spec in a bias form that a stock layer has."""
    dual = cell == "gru" and features.get("reset_after", True)
    return spec_of(cell, **{"bias": "dual" if dual else "single", **features})


def with_activations(cell: str, gate: Any, candidate: Any, **features: Any) -> Spec:
    """A Spec with those activations in the roles that the cell has."""
    by_role = {"gate": gate, "candidate": candidate, "output": candidate}
    return spec(cell, activations=tuple(by_role[role] for role in ROLES[cell]), **features)


def stock() -> Iterator[Spec]:
    """Everything that Keras' own layers hold, a feature at a time."""
    for n, cell in enumerate(CELLS):
        for directions in (("forward",), ("reverse",), BOTH):
            backwards = {"directions": directions, "processed_order": directions == ("reverse",)}
            yield spec(cell, **backwards)
            yield spec(cell, bias="none", **backwards)
        yield from (spec(cell, directions=BOTH, merge=merge) for merge in MERGES if merge != "concat")
        yield from (with_activations(cell, HARD, function) for function in list(FUNCTIONS.values())[n::3])
        reverse = with_activations(cell, "sigmoid", "softsign").activations
        yield with_activations(cell, HARD, "tanh", directions=BOTH, reverse_activations=reverse)
    yield spec("gru", reset_after=False)
    yield spec("gru", reset_after=False, directions=BOTH)
    yield with_activations("lstm", Activation("thresholded_relu", 0.3), Activation("leaky_relu", 0.05))
    yield with_activations("lstm", "sigmoid", Activation("elu", 0.7))


def unheld() -> Iterator[Spec]:
    """A few that no stock layer holds, and our own does."""
    yield spec("lstm", bias="dual", peepholes=True, projection_size=PROJECTION, directions=BOTH, forget_constant=1.0)
    yield with_activations("gru", Activation("hard_sigmoid"), "tanh", bias="single", directions=("reverse",))
    yield spec("rnn", bias="dual", clip=0.5, directions=("reverse",), processed_order=True)


def layer_for(spec: Spec, *, seed: int = 0, dtype: str = "float32") -> Layer:
    """A random layer; with small weights where an activation has no bound, so that nothing explodes."""
    layer = layer_of(spec, seed=seed, dtype=dtype)
    bounded = {"tanh", "sigmoid", "hard_sigmoid", "softsign"}
    if {activation.name for activation in spec.activations} <= bounded:
        return layer
    return layer.replace(weights={name: (0.3 * array).astype(dtype) for name, array in layer.weights.items()})


def fitted(layer: Layer) -> Fitted:
    """A layer for a stock layer of Keras if one holds it as it is, else for our own."""
    held = not refusals(layer.spec, HOLDS)
    target = fit(layer, HOLDS) if held else fit(layer, FAITHFUL, module="faithful")
    assert target.layer.spec == layer.spec
    return target


def agreement(obj: Any, layers: Sequence[Layer], dtype: str = "float32") -> float:
    """The largest difference of Keras to the equations in y, h and c: plain, and with initial states and lengths."""
    rng = np.random.default_rng(2)
    x = sequences(layers[0].spec)
    h0 = [0.5 * rng.normal(size=(len(e.spec.directions), BATCH, e.spec.state_size)).astype(dtype) for e in layers]
    c0 = [0.5 * rng.normal(size=(len(e.spec.directions), BATCH, e.spec.hidden_size)).astype(dtype) for e in layers]
    backwards = len(layers) > 1 and layers[0].spec.processed_order
    worst = 0.0
    for states, lengths in (((None, None), None), ((h0, c0), [TIME - 3, 0])):
        lengths = None if backwards else lengths
        found = live.run(obj, layers, x, *states, lengths)
        outcomes = reference.run_stack(layers, x, h0=states[0], c0=states[1], lengths=lengths)
        pairs = [(found.y, outcomes[-1].y)]
        for n, outcome in enumerate(outcomes):
            pairs.append((found.h[n], outcome.h))
            assert (found.c[n] is None) == (outcome.c is None)
            pairs += [] if outcome.c is None else [(found.c[n], outcome.c)]
        for a, b in pairs:
            assert a.shape == b.shape
            assert np.isfinite(b).all()
            worst = max(worst, float(np.abs(a - b).max()))
    return worst


def round_trip(layer: Layer) -> float:
    """Built, read back the same, built again the same, and run: the largest difference."""
    obj = live.build([fitted(layer)], WRITE)
    [found] = live.read(obj, READ).layers
    same_weights(found, layer)
    again = live.build([fitted(found)], WRITE)
    assert json.dumps(again.get_config()) == json.dumps(obj.get_config())
    return agreement(obj, [found], layer.dtype)


def models() -> Iterator[tuple[Any, list[tuple[str, str | None]]]]:
    """Objects of every structure, each with the labels of its layers and of those they read."""
    yield kl.LSTM(4, implementation=1, stateful=False), [("", None)]
    yield kl.RNN(kl.GRUCell(4)), [("", None)]
    yield kl.RNN([kl.LSTMCell(4), kl.GRUCell(3), kl.SimpleRNNCell(6)]), [("l0", None), ("l1", "l0"), ("l2", "l1")]
    yield kl.RNN([kl.GRUCell(4), kl.GRUCell(3)], go_backwards=True), [("l0", None), ("l1", "l0")]
    yield kl.Bidirectional(kl.RNN(kl.LSTMCell(4), return_sequences=True), merge_mode="ave"), [("", None)]
    chain = [keras.Input((None, INPUT)), kl.LSTM(4, return_sequences=True, name="a"), kl.Dropout(0.5)]
    yield keras.Sequential([*chain, kl.Bidirectional(kl.GRU(3), name="b")]), [("a", None), ("b", "a")]
    inner = keras.Sequential([keras.Input((None, 4)), kl.SimpleRNN(6, name="deep", go_backwards=True)], name="inner")
    x = keras.Input((None, INPUT))
    nested = inner(kl.LSTM(4, return_sequences=True, name="outer")(x))
    yield keras.Model(x, nested), [("outer", None), ("inner.deep", "outer")]
    yield Own(), [("first", None), ("block.second", None), ("step", None)]


class Own(keras.Model):  # type: ignore[misc]
    """A model with its layers in attributes and lists."""

    def __init__(self) -> None:
        super().__init__()
        self.first = kl.GRU(4, return_sequences=True, name="first")
        self.rest = [keras.Sequential([kl.LSTM(3, return_sequences=True, name="second")], name="block")]
        self.step = kl.LSTMCell(2, name="step")

    def call(self, x: Any) -> Any:
        """The last output of the cell on the first step of the rest."""
        y = self.rest[0](self.first(x))
        zeros = keras.ops.zeros((y.shape[0], 2))
        return self.step(y[:, 0], [zeros, zeros])[0]


def fill(obj: Any, seed: int = 0) -> None:
    """Builds an object, and gives it weights that are all different."""
    if isinstance(obj, Own):
        obj(np.zeros((BATCH, TIME, INPUT), "float32"))
    elif not obj.built:
        obj.build((None, None, INPUT))
    rng = np.random.default_rng(seed)
    for variable in obj.weights:
        variable.assign((0.3 * rng.normal(size=variable.shape)).astype("float32"))


def of_model(obj: Any, labels: list[tuple[str, str | None]]) -> float:
    """Read with the right labels, run, written in place: the largest difference."""
    fill(obj)
    layers = live.read(obj, READ).layers
    assert [(each.label, each.after) for each in layers] == labels
    paths = dict.fromkeys(each.path for each in layers)
    worst = max(agreement(obj, [each for each in layers if each.path == path]) for path in paths)
    doubled = [each.replace(weights={n: 2 * host(a) for n, a in each.weights.items()}) for each in layers]
    live.assign(obj, doubled)
    for found, expected in zip(live.read(obj, READ).layers, doubled, strict=True):
        same_weights(found, expected)
    return worst


def grid(step: int = 1) -> dict[str, float]:
    """The largest difference of every `step`-th case on this backend, by what it is."""
    specs = [*stock(), *unheld()][::step]
    worst = {str(spec): round_trip(layer_for(spec, seed=n)) for n, spec in enumerate(specs)}
    for n, (obj, labels) in enumerate(models()):
        worst[f"model {n}: {type(obj).__name__}"] = of_model(obj, labels)
    if keras.backend.backend() != "tensorflow":
        refused_in_float64()
    return worst


def refused_in_float64() -> None:
    """The other backends compute float64 layers in float32, and say so."""
    layer = layer_of(spec("lstm"), dtype="float64")
    with pytest.raises(Unsupported, match="KERAS_BACKEND=tensorflow"):
        live.run(live.build([fitted(layer)], WRITE), [layer], sequences(layer.spec), None, None, None)


def of_file(path: Path) -> float:
    """A file of ours, loaded by Keras: the same layers as read without it; the largest difference."""
    obj = live.load(path, READ)
    layers, expected = live.read(obj, READ).layers, files.read(path, READ).layers
    assert [(each.label, each.after) for each in layers] == [(each.label, each.after) for each in expected]
    for one, other in zip(layers, expected, strict=True):
        same_weights(one, other)
    return max(agreement(obj, [each]) for each in layers)


if __name__ == "__main__":
    print(json.dumps(grid(int(sys.argv[1])) | {Path(name).name: of_file(Path(name)) for name in sys.argv[2:]}))
