"""The same canonical initial weights, given to every framework: outputs and states agree, whatever drew them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from cases import NOT_COMPUTED
from runtimes import BACKEND, DEVICE, FRAMEWORKS, KERAS, TOLERANCE, placed, plain
from suite import figures, skip_if_missing

from lstmbridge import Layer, Spec, initial_layer, migrate, read
from lstmbridge.arrays import host
from lstmbridge.initializers import (
    block_orthogonal,
    chrono,
    constant,
    he_normal,
    identity,
    lecun_uniform,
    normal,
    truncated_normal,
    uniform,
)
from lstmbridge.testing import CELLS, SEQUENCES, check_forward

BOTH: Mapping[str, Any] = {"directions": ("forward", "reverse")}
DUAL: Mapping[str, Any] = {**BOTH, "bias": "dual"}

#: What each scheme draws: for each cell the fields of the Spec; and the arguments of `initial_layer`.
SCHEMES: dict[str, tuple[dict[str, Mapping[str, Any]], dict[str, Any]]] = {
    "usual": (dict.fromkeys(CELLS, BOTH), {}),
    "like keras": (dict.fromkeys(CELLS, BOTH) | {"gru-after": DUAL}, {"like": "keras"}),
    "like torch": (dict.fromkeys(("lstm", "gru-after", "rnn-tanh", "rnn-relu"), DUAL), {"like": "torch"}),
    "like flax": ({"lstm": BOTH, "gru-after": DUAL, "rnn-tanh": BOTH, "rnn-relu": BOTH}, {"like": "flax"}),
    "like tf1": ({"lstm": {"forget_constant": 1.0}, "gru-before": {}, "rnn-tanh": {}, "rnn-relu": {}}, {"like": "tf1"}),
    "chrono": ({"lstm": BOTH}, {"bias": chrono(40)}),
    "identity": (
        {"rnn-relu": {}}, {"recurrent_kernel": identity(), "kernel": normal(0.1), "bias": 0.0},
    ),
    "over the block": (
        {"lstm": BOTH, "gru-after": BOTH}, {"recurrent_kernel": block_orthogonal(), "kernel": he_normal()},
    ),
    "gate by gate": (
        {"lstm": {"bias": "dual"}},
        {
            "kernel": {"i": lecun_uniform(), "g": truncated_normal(0.3, corrected=True)},
            "recurrent_kernel": {"f": identity(0.5)},
            "bias": {"o": constant(-1.0)},
            "recurrent_bias": uniform(),
            "forget_bias": 2.5,
        },
    ),
}  # fmt: skip

#: Everybody beside everybody; on another backend of Keras, Keras beside the other frameworks.
PAIRS = tuple(itertools.combinations(FRAMEWORKS, 2)) if BACKEND == "tensorflow" else ((KERAS, "torch"), (KERAS, "onnx"))


def drawn(cell: str, scheme: str, dtype: str) -> Layer:
    """A layer with the first weights of that scheme."""
    specs, said = SCHEMES[scheme]
    spec = Spec(**{"input_size": 5, "hidden_size": 11, **CELLS[cell], **specs[cell]})
    return initial_layer(spec, seed=0, dtype=dtype, **said)


def declared(cell: str, scheme: str, pair: tuple[str, str], dtype: str) -> dict[str, Any]:
    """What the report says of a case."""
    return {
        "kind": "case",
        "id": f"{cell}-initial weights: {scheme} / {pair[0]}->{pair[1]} / {dtype} / {DEVICE}",
        "suite": "initial weights",
        "cell": cell,
        "features": [f"initial weights: {scheme}"],
        "source": pair[0],
        "target": pair[1],
        "dtype": dtype,
        "device": DEVICE,
    }


def cases(dtype: str, *marks: Any) -> Iterator[Any]:
    """Every scheme, with every cell it has, for every pair that computes this dtype."""
    for scheme, (specs, _) in SCHEMES.items():
        for cell, pair in itertools.product(specs, PAIRS):
            if not any((name, dtype) in NOT_COMPUTED for name in pair):
                name = declared(cell, scheme, pair, dtype)["id"]
                yield pytest.param(cell, scheme, pair, dtype, id=name, marks=marks)


def _kept(layer: Layer, obj: Any) -> bool:
    """Whether an object has every number of a layer under its own name; what it has beside them is zero."""
    [found] = read(obj)
    theirs = {name: host(array) for name, array in found.weights.items()}
    more = [array for name, array in theirs.items() if name not in layer.weights]
    return not any(array.any() for array in more) and all(
        name in theirs and np.array_equal(host(array), theirs[name]) for name, array in layer.weights.items()
    )


@pytest.mark.parametrize(("cell", "scheme", "pair", "dtype"), [*cases("float32"), *cases("float64", pytest.mark.slow)])
def test_initial_weights(cell: str, scheme: str, pair: tuple[str, str], dtype: str, record: Any) -> None:
    line = declared(cell, scheme, pair, dtype)
    skip_if_missing(line, record)
    layer = drawn(cell, scheme, dtype)
    try:
        given = [migrate(layer, to=plain(name), faithful=True) for name in pair]
        for each in given:
            exact = each.reports[0].verdict == "exact"
            assert _kept(layer, each.result) == exact, f"every number, but for a bias: {each}"
        sides = [placed(plain(name), each.result) for name, each in zip(pair, given, strict=True)]
        found = [check_forward(*sides, **SEQUENCES[n], tolerance=TOLERANCE) for n in ("full", "lengths")]
    except Exception as error:
        record(outcome="failed", reason=str(error), checks=[], **line)
        raise
    modules = {each.reports[0].module for each in given}
    module = "faithful" if "faithful" in modules else "stock"
    record(outcome="agrees", reason="", checks=["forward"], module=module, **line, **figures(found))


def test_two_schemes_are_not_the_same_weights() -> None:
    """Whoever were given another scheme's weights would be noticed."""
    one, other = (drawn("lstm", scheme, "float32") for scheme in ("usual", "like keras"))
    with pytest.raises(AssertionError, match="check_forward"):
        check_forward(one, other)
