"""What is in an object or file, in numbers: per layer its dimensions, its parameters, and statistics of every gate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge import registry
from lstmbridge.choosing import select
from lstmbridge.errors import UnknownName
from lstmbridge.layer import Array, Layer
from lstmbridge.mapped import forget
from lstmbridge.notation import Layout
from lstmbridge.reading import read_all
from lstmbridge.spec import GATES, PARTS, ROLES, Spec

__all__ = ["LayerSummary", "PartSummary", "Summary", "WeightSummary", "inspect"]

#: Words of a Layer's metadata that say that its source held other arrays than those of the framework's layout.
_HELD_OTHERWISE = ("stored", "recovered")


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
class PartSummary:
    """How many numbers one part of a layer has, in all its directions together.

    formula  the product that gives them, e.g. ``2 directions x 4 gates x 128 x 300``
    numbers  how many there are
    gates    each gate's share, which add up to `numbers`; none for a projection
    """

    part: str
    formula: str
    numbers: int
    gates: Mapping[str, int]

    @classmethod
    def of(cls, spec: Spec, part: str) -> PartSummary:
        """The count of one of the parts that a layer has.

        >>> PartSummary.of(Spec(cell="gru", input_size=300, hidden_size=128), "kernel").formula
        '3 gates x 128 x 300'
        """
        gates, sizes = spec.parts[part], [spec.sizes[index] for index in PARTS[part].split()]
        share = len(spec.directions) * math.prod(sizes)
        factors = [*(["2 directions"] if spec.bidirectional else []), *([_gates(len(gates))] if gates else [])]
        text = " x ".join([*factors, *map(str, sizes)])
        return cls(part, text, share * (len(gates) or 1), dict.fromkeys(gates, share))


@dataclass(frozen=True)
class LayerSummary:
    """One layer: what it computes, how many parameters it has and why, and its weights.

    parts   the parameters part by part and gate by gate; they add up to `parameters`
    arrays  the shapes of the arrays that the source's framework has for it, by their names there (for two directions
            apart from each other, those of one); none where the framework is not known, or held it in another form
    """

    label: str
    spec: Spec
    dtype: str
    source: str
    after: str | None
    parameters: int
    formula: str
    parts: tuple[PartSummary, ...]
    arrays: Mapping[str, tuple[int, ...]]
    weights: tuple[WeightSummary, ...]

    @classmethod
    def of(cls, layer: Layer) -> LayerSummary:
        """The summary of one layer."""
        weights = tuple(WeightSummary.of(name, array) for name, array in layer.weights.items())
        source = str(layer.metadata.get("class") or layer.metadata.get("framework") or "")
        return cls(
            label=layer.label,
            spec=layer.spec,
            dtype=layer.dtype,
            source=source,
            after=layer.after,
            parameters=layer.parameters,
            formula=formula(layer.spec),
            parts=tuple(PartSummary.of(layer.spec, part) for part in layer.spec.parts),
            arrays=_arrays(layer),
            weights=weights,
        )

    @property
    def dimensions(self) -> dict[str, Any]:
        """The sizes by name; ``output`` is that of one step after the directions are merged."""
        spec = self.spec
        sizes = {"input": spec.input_size, "hidden": spec.hidden_size, "state": spec.state_size}
        return {**sizes, "output": spec.output_size, "directions": list(spec.directions)}

    @property
    def gates(self) -> dict[str, int]:
        """How many parameters each gate has, in all parts and directions; a projection is no gate's."""
        return {gate: sum(part.gates.get(gate, 0) for part in self.parts) for gate in self.spec.gates}

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

    def facts(self) -> dict[str, str | tuple[str, ...]]:
        """What is to be said about it beside its Spec, by name: a text, or several; nothing that is not so."""
        spec = self.spec
        told: dict[str, str | tuple[str, ...]] = {
            "activations": self.activations,
            "dimensions": _dimensions(spec),
            "parameters": self.formula,
            "dtype": self.dtype,
            "stored as": self.source,
            "arrays": tuple(f"{name} {shape}" for name, shape in self.arrays.items()),
            "reads": self.after or "",
            "not used": "what belongs to f: the forget gate is 1 - i (coupled)" if spec.coupled else "",
            "not finite": f"{self.nan} NaN, {self.inf} infinite" if self.nan or self.inf else "",
        }
        return {name: text for name, text in told.items() if text}

    def counts(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The parameters as a table, part by part and gate by gate: its columns, and its rows with their sum below."""
        gates = self.spec.gates
        rows = [
            (part.part, part.formula, *(f"{part.gates[g]:,}" if g in part.gates else "" for g in gates),
             f"{part.numbers:,}")
            for part in self.parts
        ]  # fmt: skip
        total = ("all", "", *(f"{self.gates[gate]:,}" for gate in gates), f"{self.parameters:,}")
        return ("part", "formula", *gates, "numbers"), [*rows, total]

    def statistics(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The weights as a table: its columns, and a row a weight, in the order of the canonical names."""
        order = list(self.spec.names())
        rows = [
            (w.name, " x ".join(map(str, w.shape)),
             *(f"{number:.4g}" for number in (w.minimum, w.maximum, w.mean, w.deviation)), str(w.nan), str(w.inf))
            for w in sorted(self.weights, key=lambda w: order.index(w.name))
        ]  # fmt: skip
        return ("weight", "shape", "min", "max", "mean", "std", "NaN", "Inf"), rows

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
            "dimensions": self.dimensions,
            "parts": [asdict(part) for part in self.parts],
            "gates": self.gates,
            "arrays": {name: list(shape) for name, shape in self.arrays.items()},
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

    @property
    def parameters(self) -> int:
        """How many parameters all layers have together."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def total(self) -> str:
        """The sum in words: ``all 2 layers: 748 + 528 = 1,276 parameters``; nothing for one layer."""
        terms = " + ".join(f"{layer.parameters:,}" for layer in self.layers)
        several = len(self.layers) > 1
        return f"all {len(self.layers)} layers: {terms} = {self.parameters:,} parameters" if several else ""

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "parameters": self.parameters,
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
    total = sum(math.prod(spec.shape(name)) for name in spec.names())
    return f"{f'2 * ({text})' if spec.bidirectional else text} = {total:,}"


def _dimensions(spec: Spec) -> str:
    words = [f"input {spec.input_size}", f"hidden {spec.hidden_size}"]
    words += [] if spec.projection_size is None else [f"projection {spec.projection_size}"]
    told = f"both directions, {spec.merge}" if spec.bidirectional else spec.directions[0]
    apart = "of each direction" if spec.bidirectional and spec.merge == "none" else f"({told})"
    return ", ".join([*words, f"output {spec.output_size} {apart}"])


def _gates(count: int) -> str:
    return f"{count} gate{'s' * (count > 1)}"


def _arrays(layer: Layer) -> dict[str, tuple[int, ...]]:
    """The shapes of the layer's arrays in its own framework, by their names there, as far as that is known."""
    layout = _own_layout(layer)
    if layout is None:
        return {}
    both = layer.spec.bidirectional and layout.bidirectional
    spec = layer.spec if both else layer.spec.replace(directions=layer.spec.directions[:1], merge="concat")
    if set(layout.places(spec)) != set(spec.names()):
        return {}
    unsaid = "" if both else f"{layout.directions[spec.directions[0]]}."  # what a layer of one direction leaves out
    slots = layout.slots(spec, layer.level or 0)
    return {key.removeprefix(unsaid * slot.line.key.startswith("{d}.")): slot.shape for key, slot in slots.items()}


def _own_layout(layer: Layer) -> Layout | None:
    """The layout in which the layer's framework has it; None where that is not known."""
    metadata = layer.metadata
    if any(word in metadata for word in _HELD_OTHERWISE):
        return None
    try:
        framework = registry.framework(str(metadata.get("framework", "")))
    except UnknownName:
        return None
    if not framework.has("layout"):
        return None
    alone = getattr(framework.layout, "CELL_LAYOUTS", {}) if str(metadata.get("class", "")).endswith("Cell") else {}
    found: Layout | None = {**framework.layout.LAYOUTS, **alone}.get(layer.spec.cell)
    return found


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
