"""Training on both sides: the same losses and weights for twenty steps, also where one goes on for the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from runtimes import BACKEND, DEVICE, KERAS, plain
from suite import OPTIMIZERS, skip_if_missing

from lstmbridge import Layer
from lstmbridge.testing import check_training, spec_of, telling_layer

#: In float64, which Keras computes on tensorflow only.
PAIRS = ((KERAS, "torch"), ("torch", KERAS)) if BACKEND == "tensorflow" else ()

CELLS = ("lstm", "gru-after", "gru-before", "rnn-tanh", "rnn-relu")
FEATURES = ("plain", "dual-bias", "no-bias", "bidirectional", "stacked", "stacked-bidirectional")
#: What only one cell has, or our own modules hold. With a projection both sides have two biases: torch's stock layer
#: always has, and our own Keras layer keeps those it is given in one variable, where one alone cannot be frozen.
MORE = (
    ("lstm", "forget-constant"), ("lstm", "projection+dual-bias"), ("lstm", "peepholes"), ("lstm", "hard-sigmoid-0.2"),
    ("lstm", "bidirectional-sum"), ("gru-before", "bidirectional-ave"), ("rnn-tanh", "reverse-as-processed"),
)  # fmt: skip

#: The optimizers that every layer of `FEATURES` is trained with; the others train the plain ones.
MAIN = ("adam", "sgd-momentum")


def chain(cell: str, feature: str) -> list[Layer]:
    """One layer, or of ``stacked`` three that read one another."""
    if not feature.startswith("stacked"):
        spec = spec_of(cell, tuple(feature.split("+")))
        assert spec is not None
        return [telling_layer(spec, dtype="float64")]
    found: list[Layer] = []
    for number, hidden in enumerate((7, 4, 6)):
        spec = spec_of(cell, (feature.partition("-")[2] or "plain",))
        assert spec is not None
        size = found[-1].spec.output_size if found else spec.input_size
        after = found[-1].label if found else None
        spec = spec.replace(input_size=size, hidden_size=hidden)
        found.append(telling_layer(spec, dtype="float64", seed=number, path=f"level{number}", after=after))
    return found


def cases() -> Iterator[Any]:
    """(cell, feature, optimizer, source, target); all but a few are for the full run."""
    for source, target in PAIRS:
        for cell in CELLS:
            for feature in FEATURES:
                for optimizer in OPTIMIZERS:
                    if optimizer in MAIN or feature == "plain":
                        quick = (optimizer == "adam" and feature in ("plain", "stacked")) or (
                            cell == "lstm" and feature == "plain" and source == KERAS
                        )
                        yield _case(cell, feature, optimizer, source, target, quick)
        for cell, feature in MORE:
            yield _case(cell, feature, "adam", source, target, feature == "forget-constant")


def _case(cell: str, feature: str, optimizer: str, source: str, target: str, quick: bool) -> Any:
    name = f"{cell}-{feature} / {source}->{target} / float64 / {optimizer}"
    marks = [] if quick else [pytest.mark.slow]
    return pytest.param(cell, feature, optimizer, source, target, id=name, marks=marks)


@pytest.mark.parametrize(("cell", "feature", "optimizer", "source", "target"), list(cases()))
def test_training(cell: str, feature: str, optimizer: str, source: str, target: str, record: Any) -> None:
    line = {"kind": "case", "id": f"{cell}-{feature} / {source}->{target} / float64 / {DEVICE} / {optimizer}",
            "suite": "training", "cell": cell, "features": feature.split("+"), "source": source, "target": target,
            "dtype": "float64", "device": DEVICE}  # fmt: skip
    skip_if_missing(line, record)
    try:
        found = _trained(chain(cell, feature), plain(source), plain(target), optimizer)
    except Exception as error:
        record(outcome="failed", reason=str(error), checks=["training"], **line)
        raise
    record(outcome="agrees", reason="", checks=["training"], error={"both": max(found)}, **line)


def _trained(layers: Sequence[Layer], source: str, target: str, optimizer: str) -> tuple[float, float]:
    return check_training(layers, source, target, OPTIMIZERS[optimizer], faithful=True)
