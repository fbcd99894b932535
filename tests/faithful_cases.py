"""Specs with every feature alone and many together, for the modules that run any Spec; and how they are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers import BATCH, TIME, layer_of, sequences, spec
from lstmbridge import Layer, Spec
from lstmbridge.reference import Outcome, run
from lstmbridge.spec import ACTIVATIONS, BIASES, CELLS, GATES, MERGES, ROLES, Activation

BOTH = ("forward", "reverse")
LENGTHS = (TIME, 3)

#: Constants other than the defaults, so that a constant that is not passed on is seen.
CONSTANTS = {
    "hard_sigmoid": (1 / 6, 0.45),
    "scaled_tanh": (1.3, 0.7),
    "affine": (0.6, 0.1),
    "elu": (0.7,),
    "leaky_relu": (0.3,),
    "thresholded_relu": (0.15,),
}

#: Each feature alone: the cell, the fields that have it, the fields without it.
FEATURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "peepholes": ("lstm", {"peepholes": True}, {}),
    "coupled": ("lstm", {"coupled": True}, {}),
    "forget constant": ("lstm", {"forget_constant": 1.0}, {}),
    "cell clip": ("lstm", {"cell_clip": 0.2}, {}),
    "projection clip": ("lstm", {"projection_size": 3, "proj_clip": 0.1}, {"projection_size": 3}),
    "clip before the forget constant": ("lstm", {"clip": 0.3, "forget_constant": 2.5}, {"clip": 0.3}),
    **{f"{cell} clip": (cell, {"clip": 0.3}, {}) for cell in CELLS},
    "gru reset before": ("gru", {"reset_after": False, "bias": "dual"}, {"bias": "dual"}),
    **{
        f"{cell} {merge}": (cell, {"directions": BOTH, "merge": merge}, {"directions": BOTH, "merge": other})
        for cell in CELLS
        for merge, other in (("sum", "ave"), ("ave", "mul"), ("mul", "sum"))
    },
    "processed order": ("rnn", {"directions": ("reverse",), "processed_order": True}, {"directions": ("reverse",)}),
    "reverse activations": (
        "lstm",
        {"directions": BOTH, "reverse_activations": ("hard_sigmoid", "softsign", "linear")},
        {"directions": BOTH},
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A layer with what it is run on, and what the equations say."""

    layer: Layer
    x: np.ndarray
    h0: np.ndarray | None
    c0: np.ndarray | None
    lengths: tuple[int, ...] | None
    expected: Outcome

    @property
    def states(self) -> list[np.ndarray]:
        """The initial states that the cell has, h then c."""
        return [] if self.h0 is None else [self.h0] + [self.c0] * (self.c0 is not None)


def case(spec: Spec, *, states: bool = True, lengths: bool = False, dtype: str = "float64", seed: int = 0) -> Case:
    """A layer of the Spec, inputs for it, and what the equations give."""
    rng = np.random.default_rng(seed + 1000)
    layer = layer_of(spec, dtype=dtype, seed=seed)
    x = sequences(spec, seed=seed)
    d = len(spec.directions)
    h0 = rng.normal(size=(d, BATCH, spec.state_size)).astype("float32").astype("float64") if states else None
    c0 = rng.normal(size=(d, BATCH, spec.hidden_size)).astype("float32").astype("float64") if states else None
    c0 = c0 if spec.cell == "lstm" else None
    counts = LENGTHS if lengths else None
    return Case(layer, x, h0, c0, counts, run(layer, x, h0=h0, c0=c0, lengths=counts))


def agree(case: Case, y: np.ndarray, h: np.ndarray, c: np.ndarray | None, tolerance: float) -> float:
    """The largest difference of y, h and c from the equations, relative where a number is above 1; asserted."""
    worst = 0.0
    assert (c is None) == (case.expected.c is None)
    for found, expected in ((y, case.expected.y), (h, case.expected.h), (c, case.expected.c)):
        if expected is None:
            continue
        assert found.shape == expected.shape, case.layer.spec
        assert np.abs(expected).max() < 1000, f"{case.layer.spec} runs away: no tolerance means anything"
        difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        worst = max(worst, float(difference.max()))
    assert worst <= tolerance, f"{case.layer.spec}: {worst:.3g} > {tolerance:.3g}"
    return worst


def far_out(name: str) -> np.ndarray:
    """Numbers near zero, where functions bend, and far out."""
    x = np.concatenate([np.linspace(-3, 3, 601), np.linspace(-60, 60, 241), [1e-9, -1e-9, 1e-3, -1e-3]])
    return np.minimum(x, 20) if name == "exponential" else x


# ---- the grids


def forms() -> Iterator[Spec]:
    """Every cell with every bias form and direction, both resets, projected or not."""
    for cell in CELLS:
        for bias in BIASES:
            for directions in (("forward",), ("reverse",), BOTH):
                yield spec(cell, bias=bias, directions=directions)
                if cell == "gru":
                    yield spec(cell, bias=bias, directions=directions, reset_after=False)
                if cell == "lstm":
                    yield spec(cell, bias=bias, directions=directions, projection_size=3)


def activations() -> Iterator[Spec]:
    """Every activation in every role of every cell, held where a recurrence would run away."""
    for cell in CELLS:
        for role in range(len(ROLES[cell])):
            for name in ACTIVATIONS:
                roles: list[Any] = list(Spec(cell=cell, input_size=1, hidden_size=1).activations)
                roles[role] = (name, *CONSTANTS.get(name, ()))
                yield spec(cell, activations=tuple(roles), clip=0.5, cell_clip=2.0 if cell == "lstm" else None)


def features() -> Iterator[Spec]:
    """Each feature alone."""
    for cell, fields, _ in FEATURES.values():
        yield spec(cell, **fields)
    for cell in CELLS:
        yield spec(cell, directions=BOTH, merge="none")


def combinations(count: int, seed: int = 0) -> Iterator[Spec]:
    """Specs with features drawn at random."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield _drawn(rng)


def _drawn(rng: np.random.Generator) -> Spec:
    def maybe(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.5 else otherwise

    cell = str(rng.choice(CELLS))
    directions = (("forward",), ("reverse",), BOTH)[rng.integers(3)]
    fields: dict[str, Any] = {
        "bias": str(rng.choice(BIASES)),
        "directions": directions,
        "activations": _roles(rng, cell),
        "clip": maybe(0.5, None),
    }
    if len(directions) == 2:
        fields |= {"merge": str(rng.choice(MERGES)), "reverse_activations": maybe(_roles(rng, cell), None)}
    if directions == ("reverse",):
        fields["processed_order"] = maybe(True, False)
    if cell == "gru":
        fields["reset_after"] = maybe(True, False)
    if cell == "lstm":
        fields |= {
            "projection_size": maybe(3, None),
            "peepholes": maybe(True, False),
            "coupled": maybe(True, False),
            "cell_clip": maybe(0.6, None),
            "forget_constant": maybe(1.0, 0.0),
        }
        fields["proj_clip"] = maybe(0.2, None) if fields["projection_size"] else None
    return spec(cell, **fields)


def _roles(rng: np.random.Generator, cell: str) -> tuple[Activation, ...]:
    """Activations drawn from those whose recurrence stays small."""
    within = ("sigmoid", "hard_sigmoid") if cell == "gru" else ("sigmoid", "hard_sigmoid", "tanh", "softsign")
    bounded = (*within, "tanh", "softsign", "scaled_tanh")
    mild = bounded if cell == "rnn" else (*bounded, "relu", "linear", "silu", "elu", "leaky_relu", "thresholded_relu")
    names = [str(rng.choice(within if role == "gate" else mild)) for role in ROLES[cell]]
    return tuple(Activation(name, *CONSTANTS.get(name, ())) for name in names)


def without_gate_order(layer: Layer) -> Layer:
    """A mutant: the layer with its first and last gate exchanged."""
    first, last = GATES[layer.spec.cell][0], GATES[layer.spec.cell][-1]
    other = {first: last, last: first}
    swapped = {name: ".".join(other.get(word, word) for word in name.split(".")) for name in layer}
    return layer.replace(weights={name: layer[swapped[name]] for name in layer})
