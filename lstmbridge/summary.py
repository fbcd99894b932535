"""What is in an object or file, in numbers: per layer its shape, its parameters, and statistics of every gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge.layer import Array, Layer
from lstmbridge.mapped import forget
from lstmbridge.pipeline import read_all, select
from lstmbridge.spec import GATES, ROLES, Spec

__all__ = ["LayerSummary", "Summary", "WeightSummary", "inspect"]


@dataclass(frozen=True)
class WeightSummary:
    """One weight: its canonical shape and the statistics of its finite numbers; NaN and Inf are counted."""

    name: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    deviation: float
    nan: int
    inf: int

    @classmethod
    def of(cls, name: str, array: Array) -> WeightSummary:
        """The summary of one array."""
        values = np.array(xp.host(array), np.float64)
        forget()
        nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        finite = values[np.isfinite(values)] if nan or inf else values
        if not finite.size:
            return cls(name, values.shape, np.nan, np.nan, np.nan, np.nan, nan, inf)
        ends = float(finite.min()), float(finite.max())
        return cls(name, values.shape, *ends, float(finite.mean()), float(finite.std()), nan, inf)


@dataclass(frozen=True)
class LayerSummary:
    """One layer: what it computes, how many parameters it has and why, and its weights."""

    label: str
    spec: Spec
    dtype: str
    source: str
    after: str | None
    parameters: int
    formula: str
    weights: tuple[WeightSummary, ...]

    @classmethod
    def of(cls, layer: Layer) -> LayerSummary:
        """The summary of one layer."""
        weights = tuple(WeightSummary.of(name, array) for name, array in layer.weights.items())
        source = str(layer.metadata.get("class") or layer.metadata.get("framework") or "")
        parameters, text = layer.parameters, formula(layer.spec)
        return cls(layer.label, layer.spec, layer.dtype, source, layer.after, parameters, text, weights)

    @property
    def activations(self) -> str:
        """Role by role, e.g. ``gate=sigmoid candidate=tanh output=tanh``."""
        return " ".join(f"{role}={a}" for role, a in zip(ROLES[self.spec.cell], self.spec.activations, strict=True))

    @property
    def nan(self) -> int:
        """How many of its numbers are NaN."""
        return sum(weight.nan for weight in self.weights)

    @property
    def inf(self) -> int:
        """How many of its numbers are infinite."""
        return sum(weight.inf for weight in self.weights)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "layer": self.label,
            "source": self.source,
            "reads": self.after,
            "spec": json.loads(self.spec.to_json()),
            "description": str(self.spec),
            "activations": self.activations,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "formula": self.formula,
            "nan": self.nan,
            "inf": self.inf,
            "weights": [
                {
                    "name": w.name,
                    "shape": list(w.shape),
                    "min": _plain(w.minimum),
                    "max": _plain(w.maximum),
                    "mean": _plain(w.mean),
                    "std": _plain(w.deviation),
                    "nan": w.nan,
                    "inf": w.inf,
                }
                for w in self.weights
            ],
        }


@dataclass(frozen=True)
class Summary:
    """All layers of an object or file, the weights that are none of theirs, and what reading noted."""

    layers: tuple[LayerSummary, ...]
    left_alone: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "layers": [layer.as_json() for layer in self.layers],
            "left_alone": list(self.left_alone),
            "notes": list(self.notes),
        }


def inspect(source: Any, *, layers: Sequence[str] = (), **options: Any) -> Summary:
    """What is in an object or file: per layer cell, sizes, directions, bias form, activations, parameters, statistics.

    layers   only these paths; `options` are the fields of `ReadOptions`

    >>> one = {"n": np.ones((1, 1))}
    >>> inspect(Layer.from_gates(kernel=one, recurrent_kernel=one)).layers[0].formula
    '1 * ((1 + 1) * 1) = 2'
    """
    reading = read_all(source, **options)
    chosen = select(reading.layers, layers)
    return Summary(tuple(LayerSummary.of(layer) for layer in chosen), reading.left_alone, reading.notes)


def formula(spec: Spec) -> str:
    """How many parameters a layer has, with the numbers filled in: ``4 * ((5 + 11) * 11 + 11) = 748``."""
    gates, h, i, p = len(GATES[spec.cell]), spec.hidden_size, spec.input_size, spec.state_size
    biases = {"none": "", "single": f" + {h}", "dual": f" + 2 * {h}"}[spec.bias]
    text = f"{gates} * (({i} + {p}) * {h}{biases})"
    text += f" + 3 * {h}" if spec.peepholes else ""
    text += f" + {p} * {h}" if spec.projection_size is not None else ""
    total = sum(int(np.prod(spec.shape(name))) for name in spec.names())
    return f"{f'2 * ({text})' if spec.bidirectional else text} = {total:,}"


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
