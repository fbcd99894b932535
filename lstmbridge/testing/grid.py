"""What is tried, as data: cells x features of a layer, and the sequences it is run on.

Sizes are pairwise different (batch, time, input, hidden, projection), so no axis can stand in for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lstmbridge.errors import SpecError
from lstmbridge.spec import Spec

__all__ = ["CELLS", "FEATURES", "SEQUENCES", "combinations", "spec_of"]

BOTH = ("forward", "reverse")

#: Each cell with its variants: fields of the Spec.
CELLS: Mapping[str, Mapping[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "gru-after": {"cell": "gru", "reset_after": True},
    "gru-before": {"cell": "gru", "reset_after": False},
    "rnn-tanh": {"cell": "rnn"},
    "rnn-relu": {"cell": "rnn", "activations": ("relu",)},
}

#: Each feature: the fields of the Spec that it sets. ``gate`` and ``candidate`` set the activation of a role.
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "no-bias": {"bias": "none"},
    "dual-bias": {"bias": "dual"},
    "reverse": {"directions": ("reverse",)},
    "reverse-as-processed": {"directions": ("reverse",), "processed_order": True},
    "bidirectional": {"directions": BOTH},
    "bidirectional-sum": {"directions": BOTH, "merge": "sum"},
    "bidirectional-mul": {"directions": BOTH, "merge": "mul"},
    "bidirectional-ave": {"directions": BOTH, "merge": "ave"},
    "bidirectional-none": {"directions": BOTH, "merge": "none"},
    "projection": {"projection_size": 3},
    "peepholes": {"peepholes": True},
    "coupled": {"coupled": True},
    "clip": {"clip": 0.4},
    "cell-clip": {"cell_clip": 0.3},
    "projection-clip": {"projection_size": 3, "proj_clip": 0.1},
    "forget-constant": {"forget_constant": 1.0},
    "hard-sigmoid-0.2": {"gate": ("hard_sigmoid", 0.2, 0.5)},
    "hard-sigmoid-1/6": {"gate": ("hard_sigmoid", 1 / 6, 0.5)},
    "relu": {"candidate": ("relu",)},
    "linear": {"candidate": ("linear",)},
    "softsign": {"candidate": ("softsign",)},
    "softplus": {"candidate": ("softplus",)},
    "elu": {"candidate": ("elu", 1.0)},
    "leaky-relu": {"candidate": ("leaky_relu", 0.25)},
    "selu": {"candidate": ("selu",)},
    "silu": {"candidate": ("silu",)},
    "exponential": {"candidate": ("exponential",)},
    "affine": {"candidate": ("affine", 0.7, 0.1)},
    "scaled-tanh": {"candidate": ("scaled_tanh", 0.7, 1.3)},
    "thresholded-relu": {"candidate": ("thresholded_relu", 0.3)},
    "input-size-1": {"input_size": 1},
    "hidden-size-1": {"hidden_size": 1},
    "square": {"input_size": 11},
    "tiles": {"input_size": 23, "hidden_size": 17},
}

_SIZES = {"input_size": 5, "hidden_size": 11}
_USUAL: Mapping[str, tuple[Any, ...]] = {"gate": ("sigmoid",), "candidate": ("tanh",)}

#: What a layer is run on: arguments of `lstmbridge.check`. Masks are written a row a sequence.
SEQUENCES: Mapping[str, Mapping[str, Any]] = {
    "full": {"batch": 2, "time": 7},
    "lengths": {"batch": 4, "time": 6, "lengths": (6, 2, 4, 1), "seed": 1},
    "zero states": {"batch": 6, "time": 4, "states": False, "seed": 2},
    "one step": {"batch": 2, "time": 1, "seed": 3},
    "one sequence": {"batch": 1, "time": 9, "seed": 4},
    "left mask": {"batch": 2, "time": 7, "mask": ("..xxxxx", "....xxx"), "seed": 5},
    "interior mask": {"batch": 2, "time": 7, "mask": ("xx..x.x", "x.xxx.."), "seed": 6},
    "masked row": {"batch": 2, "time": 7, "mask": ("xxxxx..", "......."), "seed": 7},
    "long": {"batch": 2, "time": 1000, "seed": 8},
}


def spec_of(cell: str, features: tuple[str, ...]) -> Spec | None:
    """The Spec of a cell of `CELLS` with these features of `FEATURES`; None where they contradict one another.

    >>> print(spec_of("gru-after", ("bidirectional-sum", "no-bias")))
    gru 5 -> 11, bidirectional (sum), no bias, reset after
    >>> spec_of("gru-after", ("peepholes",)) is None
    True
    """
    fields: dict[str, Any] = {**_SIZES, **CELLS[cell]}
    roles = dict(_USUAL)
    if "exponential" in features and not cell.startswith("gru"):
        return None  # it overflows within a few steps, whoever runs it
    said = [field for feature in features for field in FEATURES[feature]]
    if len(set(said)) != len(said):
        return None
    for feature in features:
        for field, value in FEATURES[feature].items():
            (roles if field in roles else fields)[field] = value
    if roles != _USUAL:
        if fields["cell"] == "rnn" and (roles["gate"] != _USUAL["gate"] or "activations" in fields):
            return None  # a vanilla RNN has no gate to squash
        gate, candidate = roles["gate"], roles["candidate"]
        in_order = {"lstm": (gate, candidate, candidate), "gru": (gate, candidate), "rnn": (candidate,)}
        fields["activations"] = in_order[fields["cell"]]
    try:
        return Spec(**fields)
    except SpecError:
        return None  # a GRU with peepholes


def combinations(count: int | None) -> Iterator[tuple[str, tuple[str, ...], Spec]]:
    """Every cell with every `count` features that go together (None: with every subset of them)."""
    named = [name for name in FEATURES if name != "plain"]
    for cell in CELLS:
        for features in _subsets(cell, named, (), count):
            spec = spec_of(cell, features)
            if spec is not None and (count is None or max(len(features), 1) == count):
                yield cell, features or ("plain",), spec


def _subsets(cell: str, left: Sequence[str], chosen: tuple[str, ...], most: int | None) -> Iterator[tuple[str, ...]]:
    """The subsets that begin with `chosen`; what contradicts itself does so whatever is added."""
    yield chosen
    if most is not None and len(chosen) == most:
        return
    for n, name in enumerate(left):
        if spec_of(cell, (*chosen, name)) is not None:
            yield from _subsets(cell, left[n + 1 :], (*chosen, name), most)
