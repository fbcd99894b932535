"""Keras: objects on its three backends, and files, against the equations and against Keras' own saving.

The grid runs here on the tensorflow backend, and as a script (``python test_keras.py``) on the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from lstmbridge import reference
from lstmbridge.arrays import host, same_bits
from lstmbridge.contract import ReadOptions, WriteOptions
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, UnknownName, Unsupported
from lstmbridge.fit import Fitted, fit
from lstmbridge.frameworks.keras import files
from lstmbridge.frameworks.keras.layout import FAITHFUL, FUNCTIONS, HOLDS, LAYOUTS
from lstmbridge.layer import Layer
from lstmbridge.spec import CELLS, MERGES, ROLES, Activation, Spec

B, T, I, H, P = 2, 7, 5, 11, 3
BOTH = ("forward", "reverse")
BOUNDED = ("tanh", "sigmoid", "hard_sigmoid", "softsign")
HARD = Activation("hard_sigmoid", 1 / 6)
READ, WRITE = ReadOptions(), WriteOptions()
TOLERANCE = {"float32": 2e-6, "float64": 1e-12, "float16": 4e-3, "bfloat16": 4e-2}


def random_layer(spec: Spec, seed: int = 0, dtype: Any = "float32", **fields: Any) -> Layer:
    """A layer whose weights are all different."""
    rng = np.random.default_rng(seed)
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    scale = 0.1 if spec.activations[0].name not in BOUNDED or spec.activations[-1].name not in BOUNDED else 0.4
    weights = {name: (scale * rng.normal(size=spec.shape(name))).astype(dtype) for name in spec.names()}
    return Layer(spec=spec, weights=weights, **fields)


def spec(cell: str, **fields: Any) -> Spec:
    """A Spec in a bias form that a stock layer has."""
    dual = cell == "gru" and fields.get("reset_after", True)
    return Spec(**{"cell": cell, "input_size": I, "hidden_size": H, "bias": "dual" if dual else "single", **fields})


def with_activation(cell: str, gate: Any, candidate: Any, **fields: Any) -> Spec:
    """A Spec with those activations in the roles that the cell has."""
    return spec(cell, activations=(gate, candidate, candidate)[-len(ROLES[cell]) :] if cell != "gru" else (gate, candidate), **fields)


def stock() -> Iterator[Spec]:
    """Everything that Keras' own layers hold, a feature at a time."""
    for n, cell in enumerate(CELLS):
        for directions in (("forward",), ("reverse",), BOTH):
            backwards = {"directions": directions, "processed_order": directions == ("reverse",)}
            yield spec(cell, **backwards)
            yield spec(cell, bias="none", **backwards)
        yield from (spec(cell, directions=BOTH, merge=merge) for merge in MERGES if merge != "concat")
        yield from (with_activation(cell, HARD, function) for function in list(FUNCTIONS.values())[n::3])
        reverse = with_activation(cell, "sigmoid", "softsign").activations
        yield with_activation(cell, HARD, "tanh", directions=BOTH, reverse_activations=reverse)
    yield spec("gru", reset_after=False)
    yield spec("gru", reset_after=False, directions=BOTH)
    yield with_activation("lstm", Activation("thresholded_relu", 0.3), Activation("leaky_relu", 0.05))
    yield with_activation("lstm", "sigmoid", Activation("elu", 0.7))


def faithful() -> Iterator[Spec]:
    """A few that no stock layer holds."""
    yield spec("lstm", bias="dual", peepholes=True, projection_size=P, directions=BOTH, forget_constant=1.0)
    yield spec("gru", bias="single", activations=(Activation("hard_sigmoid"), "tanh"), directions=("reverse",))
    yield spec("rnn", bias="dual", clip=0.5, directions=("reverse",), processed_order=True)


def given(layers: Sequence[Layer], seed: int = 1) -> dict[str, Any]:
    """Sequences, initial states and lengths."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(B, T, layers[0].spec.input_size)),
        "h0": [0.5 * rng.normal(size=(len(e.spec.directions), B, e.spec.state_size)) for e in layers],
        "c0": [0.5 * rng.normal(size=(len(e.spec.directions), B, e.spec.hidden_size)) for e in layers],
    }


def agreement(obj: Any, layers: Sequence[Layer]) -> float:
    """The largest difference of Keras to the equations: y, h, c; with and without initial states and lengths."""
    from lstmbridge.frameworks.keras import live

    each = given(layers)
    x, worst = each.pop("x"), 0.0
    for states, lengths in (({}, None), (each, [T, 3])):
        h0, c0 = states.get("h0"), states.get("c0")
        found = live.run(obj, layers, x, h0, c0, lengths)
        outcomes = reference.run_stack(layers, x, h0=h0, c0=c0, lengths=lengths)
        pairs = [(found.y, outcomes[-1].y)]
        for n, outcome in enumerate(outcomes):
            pairs.append((found.h[n], outcome.h))
            pairs += [] if outcome.c is None else [(found.c[n], outcome.c)]
        for a, b in pairs:
            assert a.shape == b.shape
            worst = max(worst, float(np.abs(a - b).max()))
    return worst


def same(found: Sequence[Layer], expected: Sequence[Layer]) -> None:
    """The layers are alike: Specs, and every bit of the weights."""
    assert [layer.spec for layer in found] == [layer.spec for layer in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(same_bits(host(one[name]), host(other[name])) for name in other)


def fitted(layer: Layer, module: str = "stock") -> Fitted:
    return fit(layer, HOLDS if module == "stock" else FAITHFUL, module=module)


def targets() -> list[Fitted]:
    return [*(fitted(random_layer(s, n)) for n, s in enumerate(stock())),
            *(fitted(random_layer(s, n), "faithful") for n, s in enumerate(faithful()))]  # fmt: skip


# ---- the grid on one backend: as a test, and as a script


def round_trip(target: Fitted) -> float:
    """Built, read back the same, and run; the largest difference."""
    from lstmbridge.frameworks.keras import live

    obj = live.build([target], WRITE)
    found = live.read(obj, READ).layers
    same(found, [target.layer])
    again = live.build([fitted(found[0], target.module)], WRITE)
    assert json.dumps(again.get_config()) == json.dumps(obj.get_config())
    return agreement(obj, found)


def models() -> Iterator[tuple[Any, list[str]]]:
    """Models of every structure, with the paths of their layers."""
    import keras
    from keras import layers as kl

    yield kl.RNN(kl.GRUCell(4)), [""]
    yield kl.RNN([kl.LSTMCell(4), kl.GRUCell(3), kl.SimpleRNNCell(6)]), [".l0", ".l1", ".l2"]
    yield kl.Bidirectional(kl.RNN(kl.LSTMCell(4), return_sequences=True), merge_mode="ave"), [""]
    chain = [keras.Input((None, I)), kl.LSTM(4, return_sequences=True, name="a"), kl.Dropout(0.5)]
    yield keras.Sequential([*chain, kl.Bidirectional(kl.GRU(3), name="b")]), ["a", "b"]
    inner = keras.Sequential([keras.Input((None, 4)), kl.SimpleRNN(6, name="deep", go_backwards=True)], name="inner")
    x = keras.Input((None, I))
    yield keras.Model(x, inner(kl.LSTM(4, return_sequences=True, name="outer")(x))), ["outer", "inner.deep"]


def grid(quick: bool) -> dict[str, float]:
    """The largest difference of every kind of case on this backend."""
    import keras

    from lstmbridge.frameworks.keras import live

    worst = {str(target.layer.spec): round_trip(target) for target in targets()[:: 1 + 2 * quick]}
    for model, labels in models():
        if not model.built:
            model.build((None, None, I))
        for variable in model.weights:
            variable.assign(0.4 * np.random.default_rng(len(variable.path)).normal(size=variable.shape))
        reading = live.read(model, READ)
        assert [f".l{e.level}" if e.level is not None else e.label for e in reading.layers] == labels
        paths = dict.fromkeys(e.path for e in reading.layers)
        for path in paths:
            worst[f"{type(model).__name__} {path}"] = agreement(model, [e for e in reading.layers if e.path == path])
        doubled = [e.replace(weights={n: 2 * host(a) for n, a in e.weights.items()}) for e in reading.layers]
        live.assign(model, doubled)
        same(live.read(model, READ).layers, doubled)
    assert keras.backend.backend() == os.environ.get("KERAS_BACKEND", "tensorflow")
    return worst


def main() -> None:
    print(json.dumps(grid(quick=True)))


if __name__ == "__main__":
    main()
