"""Layers with telling weights: no two numbers equal, no zero bias, sizes pairwise different, directions that differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from lstmbridge import Layer, Spec
from lstmbridge.testing import labelled_layer, telling_layer

BATCH, TIME, INPUT, HIDDEN, PROJECTION = 2, 7, 5, 11, 3


def spec(cell: str = "lstm", **features: Any) -> Spec:
    """A Spec with the usual sizes."""
    return Spec(cell=cell, **{"input_size": INPUT, "hidden_size": HIDDEN, **features})


def layer(cell: str = "lstm", *, dtype: str = "float32", seed: int = 0, path: str = "", **features: Any) -> Layer:
    """A layer of that Spec with random weights."""
    return layer_of(spec(cell, **features), dtype=dtype, seed=seed, path=path)


#: A layer of a Spec with random weights, all different.
layer_of = telling_layer

#: A layer whose every number says which entry it is; exact in float32.
labelled = labelled_layer


def sequences(spec: Spec, *, batch: int = BATCH, time: int = TIME, seed: int = 1) -> np.ndarray:
    """Input sequences x (b, t, i), exact in float32."""
    return np.random.default_rng(seed).normal(size=(batch, time, spec.input_size)).astype("float32").astype("float64")


def same_weights(a: Layer, b: Layer) -> None:
    """Asserts that two layers have the same Spec and the same bits."""
    from lstmbridge.arrays import same_bits

    assert a.spec == b.spec
    different = [name for name in a if not same_bits(a[name], b[name])]
    assert not different, different
