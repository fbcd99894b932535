"""The grid, as data: cells x features x ordered pairs of frameworks.

A case is a Spec and a pair; whether it agrees or is refused follows from what the two frameworks hold. Sizes are
pairwise different, no two numbers of a weight are equal, biases are never zero, forward and reverse differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lstmbridge import Spec
from lstmbridge.errors import SpecError

FRAMEWORKS = ("keras", "torch", "onnx", "gates")
PAIRS = tuple(itertools.product(FRAMEWORKS, FRAMEWORKS))

#: Each cell with its variants.
CELLS: Mapping[str, Mapping[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "gru-after": {"cell": "gru", "reset_after": True},
    "gru-before": {"cell": "gru", "reset_after": False},
    "rnn-tanh": {"cell": "rnn"},
    "rnn-relu": {"cell": "rnn", "activations": ("relu",)},
}

BOTH = ("forward", "reverse")

#: Each feature: the fields of the Spec that it sets.
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
    "softsign": {"candidate": ("softsign",)},
    "scaled-tanh": {"candidate": ("scaled_tanh", 0.7, 1.3)},
    "input-size-1": {"input_size": 1},
    "hidden-size-1": {"hidden_size": 1},
    "square": {"input_size": 11},
}


@dataclass(frozen=True)
class Case:
    """One cell with features, from one framework to another."""

    cell: str
    features: tuple[str, ...]
    source: str
    target: str
    spec: Spec

    def __str__(self) -> str:
        return f"{self.cell}-{'+'.join(self.features)} / {self.source}->{self.target}"


def spec(cell: str, features: tuple[str, ...]) -> Spec | None:
    """The Spec of a cell with these features; None where they contradict one another."""
    fields: dict[str, Any] = {"input_size": 5, "hidden_size": 11, **CELLS[cell]}
    roles = {"gate": ("sigmoid",), "candidate": ("tanh",)}
    for feature in features:
        for field, value in FEATURES[feature].items():
            if field in roles:
                roles[field] = value
            elif field in fields and field not in ("input_size", "hidden_size"):
                return None  # two features that say different things of one field
            else:
                fields[field] = value
    changed = roles != {"gate": ("sigmoid",), "candidate": ("tanh",)}
    if changed and cell.startswith("rnn") and (roles["gate"] != ("sigmoid",) or "activations" in fields):
        return None  # a vanilla RNN has no gate to squash
    if changed:
        gate, candidate = roles["gate"], roles["candidate"]
        fields["activations"] = {"lstm": (gate, candidate, candidate), "gru": (gate, candidate), "rnn": (candidate,)}[
            fields["cell"]
        ]
    try:
        return Spec(**fields)
    except SpecError:
        return None  # a GRU with peepholes


def cases(count: int) -> Iterator[Case]:
    """Every case with `count` features beside the cell: 1 for each alone, 2 for every pair."""
    for cell, features in itertools.product(CELLS, itertools.combinations(FEATURES, count)):
        if count > 1 and "plain" in features:
            continue
        found = spec(cell, features)
        if found is None:
            continue
        for source, target in PAIRS:
            yield Case(cell, features, source, target, found)
