"""What a plot shows, in numbers: a sheet for each layer and direction. Nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge.layer import Layer
from lstmbridge.mapped import forget
from lstmbridge.spec import Spec

__all__ = ["BINS", "MATRICES", "MOST", "Map", "Sheet", "pooled", "radius", "singular_values"]

Floats = npt.NDArray[np.float64]

#: Parts that are matrices, in the order in which they are drawn; of the others each gate has a vector.
MATRICES = ("kernel", "recurrent_kernel", "projection")
#: Rows and columns of a map; a larger matrix is pooled.
MOST = 256
#: Colours and bins reach to the largest number, or where that stands out, so far that in each matrix no more than this
#: share of the numbers (or one of them) is beyond. It stands out if it is so many times as large.
_BEYOND, _OUT = 0.001, 2.0
#: Bins of a histogram; an odd number, so that zero is in the middle of one.
BINS = 61
#: Units beyond which no spectral radius is computed: it takes a minute a gate.
_LARGEST = 2048


@dataclass(frozen=True, eq=False)
class Map:
    """One matrix as it is drawn: a gate's kernel or recurrent kernel, or the projection.

    values  rows are outputs, columns inputs, as everywhere here; not larger than `MOST` x `MOST`
    shape   of the matrix itself
    block   how many rows and columns one value stands for: it is the number of largest |w| among them
    nan     how many numbers of the matrix are NaN; `inf`: infinite
    """

    part: str
    gate: str
    values: Floats
    shape: tuple[int, int]
    block: tuple[int, int]
    nan: int
    inf: int


@dataclass(frozen=True, eq=False)
class Sheet:
    """One direction of one layer, as it is drawn.

    scale     colours and bins end at -scale and +scale, for all matrices alike
    beyond    how many numbers of the matrices are beyond it, and the largest |w| of all
    maps      a matrix each, part by part and gate by gate
    counts    for kernel and recurrent kernel: a gate's numbers in each bin; those beyond are in the bins at the ends
    edges     of the bins
    vectors   for bias, recurrent_bias and peephole: a gate's numbers, unit by unit
    singular  for each gate, the singular values of its recurrent kernel, largest first; None if it is not finite
    radius    for each gate, the spectral radius of its recurrent kernel; None where that is not known
    forget    what the forget gate has without inputs, unit by unit: both biases and the run-time constant together;
              None for a cell that has no such gate, or nothing of the kind
    """

    label: str
    direction: str
    spec: Spec
    dtype: str
    scale: float
    beyond: int
    largest: float
    maps: tuple[Map, ...]
    counts: Mapping[str, Mapping[str, npt.NDArray[np.int64]]]
    edges: Floats
    vectors: Mapping[str, Mapping[str, Floats]]
    singular: Mapping[str, Floats | None]
    radius: Mapping[str, float | None]
    forget: Floats | None

    @classmethod
    def of(cls, layer: Layer, direction: str) -> Sheet:
        """The sheet of one direction.

        >>> one = np.ones((1, 1))
        >>> sheet = Sheet.of(Layer.from_gates(kernel={"n": 2 * one}, recurrent_kernel={"n": -3 * one}), "forward")
        >>> sheet.scale, sheet.radius
        (3.0, {'n': 3.0})
        """
        names = [name for name in layer.spec.names() if name.startswith(f"{direction}.")]
        matrices = [name for name in names if _part(name) in MATRICES]
        scale = _scale(_numbers(layer, name) for name in matrices)
        edges = np.linspace(-scale, scale, BINS + 1)
        measured = [_Measured.of(name, _numbers(layer, name), edges) for name in matrices]
        forget()
        inner = {_gate(each.name): each for each in measured if _part(each.name) == "recurrent_kernel"}
        return cls(
            label=layer.label,
            direction=direction,
            spec=layer.spec,
            dtype=layer.dtype,
            scale=scale,
            beyond=sum(each.beyond for each in measured),
            largest=max(each.largest for each in measured),
            maps=tuple(each.map for each in measured),
            counts={
                part: {_gate(each.name): each.counts for each in measured if _part(each.name) == part}
                for part in MATRICES[:2]
            },
            edges=edges,
            vectors={
                part: {gate: _numbers(layer, f"{direction}.{part}.{gate}") for gate in gates}
                for part, gates in layer.spec.parts.items()
                if part not in MATRICES
            },
            singular={gate: each.singular for gate, each in inner.items()},
            radius={gate: each.radius for gate, each in inner.items()},
            forget=_forget(layer, direction),
        )

    @property
    def title(self) -> str:
        """The layer's name and the direction, e.g. ``encoder, reverse``."""
        return f"{self.label or 'layer'}, {self.direction}"

    @property
    def not_finite(self) -> int:
        """How many numbers are NaN or infinite, vectors included."""
        vectors = (values for part in self.vectors.values() for values in part.values())
        return sum(each.nan + each.inf for each in self.maps) + sum(_not_finite(values) for values in vectors)

    @property
    def warning(self) -> str:
        """``; 3 numbers are not finite``, or nothing."""
        count = self.not_finite
        return f"; {count:,} {'number is' if count == 1 else 'numbers are'} not finite" if count else ""

    def caption(self) -> tuple[str, ...]:
        """What must be known to read the sheet, a sentence each."""
        return tuple(_caption(self))

    def as_json(self) -> dict[str, Any]:
        """What was measured, as plain data: no maps, no histograms."""
        return {
            "layer": self.label,
            "direction": self.direction,
            "scale": self.scale,
            "beyond": self.beyond,
            "largest": self.largest,
            "not_finite": self.not_finite,
            "maps": [
                {"part": m.part, "gate": m.gate, "shape": list(m.shape), "block": list(m.block)} for m in self.maps
            ],
            "singular_values": {
                gate: None if values is None else values.tolist() for gate, values in self.singular.items()
            },
            "spectral_radius": dict(self.radius),
            "forget_bias": None if self.forget is None else self.forget.tolist(),
            "caption": list(self.caption()),
        }


@dataclass(frozen=True, eq=False)
class _Measured:
    """What a sheet has of one matrix."""

    name: str
    map: Map
    counts: npt.NDArray[np.int64]
    beyond: int
    largest: float
    singular: Floats | None
    radius: float | None

    @classmethod
    def of(cls, name: str, matrix: Floats, edges: Floats) -> _Measured:
        """The figures of a matrix; singular values and radius only where it is a recurrent kernel."""
        part, gate = _part(name), _gate(name)
        values, block = pooled(matrix)
        nan, inf = int(np.isnan(matrix).sum()), int(np.isinf(matrix).sum())
        rows, columns = matrix.shape
        finite = _finite(matrix)
        recurrent = part == "recurrent_kernel"
        return cls(
            name=name,
            map=Map(part, gate, values, (rows, columns), block, nan, inf),
            counts=np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0],
            beyond=int((np.abs(finite) > edges[-1]).sum()),
            largest=float(np.abs(finite).max(initial=0.0)),
            singular=singular_values(matrix) if recurrent else None,
            radius=radius(matrix) if recurrent else None,
        )


def pooled(matrix: Floats, most: int = MOST) -> tuple[Floats, tuple[int, int]]:
    """A matrix in at most `most` x `most` values, and how many rows and columns one value stands for.

    A value is the number of largest |w| of its block, with its sign: no large number, and nothing that is not
    finite, is lost.

    >>> pooled(np.array([[1.0, -3.0, 2.0], [0.0, 2.0, 0.5], [0.1, 0.2, -0.3]]), 2)
    (array([[-3. ,  2. ],
           [ 0.2, -0.3]]), (2, 2))
    """
    rows, columns = matrix.shape
    a, b = math.ceil(rows / most), math.ceil(columns / most)
    if a == b == 1:
        return matrix, (1, 1)
    padded = np.pad(matrix, ((0, -rows % a), (0, -columns % b)))  # zeros are never the largest, but of zeros
    down, across = padded.shape[0] // a, padded.shape[1] // b
    blocks = padded.reshape(down, a, across, b).transpose(0, 2, 1, 3).reshape(down, across, a * b)
    at = np.abs(blocks).argmax(axis=-1)[..., np.newaxis]  # of a NaN, if there is one
    return np.take_along_axis(blocks, at, axis=-1)[..., 0], (a, b)


def singular_values(matrix: Floats) -> Floats | None:
    """The singular values of a matrix, largest first; None if it has a number that is not finite."""
    size = np.abs(matrix).max()
    if not np.isfinite(size):
        return None
    unit = size if size > 0 else 1.0  # so that no square overflows
    return np.linalg.svd(matrix / unit, compute_uv=False) * unit


def radius(matrix: Floats) -> float | None:
    """The largest |eigenvalue| of a matrix; None if it is not square, not finite, or of more than 2,048 rows."""
    rows, columns = matrix.shape
    size = np.abs(matrix).max()
    if rows != columns or rows > _LARGEST or not np.isfinite(size):
        return None
    unit = size if size > 0 else 1.0
    return float(np.abs(np.linalg.eigvals(matrix / unit)).max() * unit)


def _scale(matrices: Iterator[Floats]) -> float:
    """How far colours and bins reach; 1 where all is zero or nothing is finite."""
    sizes = [(float(each.max(initial=0.0)), _common(each)) for each in map(np.abs, map(_finite, matrices))]
    largest, common = (max(each) for each in zip(*sizes, strict=True))
    reach = largest if largest <= _OUT * common else common or largest
    return min(reach, float(np.finfo(np.float64).max) / 4) or 1.0


def _common(sizes: Floats) -> float:
    """The size that few numbers are beyond."""
    beyond = math.ceil(_BEYOND * sizes.size)
    return float(np.partition(sizes, -1 - beyond)[-1 - beyond]) if sizes.size > beyond else 0.0


def _forget(layer: Layer, direction: str) -> Floats | None:
    spec = layer.spec
    names = [f"{direction}.{part}.f" for part in ("bias", "recurrent_bias") if part in spec.parts]
    if spec.cell != "lstm" or spec.coupled or not (names or spec.forget_constant):
        return None
    total = np.full(spec.hidden_size, spec.forget_constant)
    with np.errstate(invalid="ignore"):  # inf - inf
        for name in names:
            total = total + _numbers(layer, name)
    return total


def _numbers(layer: Layer, name: str) -> Floats:
    return np.array(xp.host(layer[name]), np.float64)


def _finite(array: Floats) -> Floats:
    return array[np.isfinite(array)]


def _not_finite(array: Floats) -> int:
    return int(array.size - np.isfinite(array).sum())


def _part(name: str) -> str:
    return name.split(".")[1]


def _gate(name: str) -> str:
    return ".".join(name.split(".")[2:])


# ---- in words


def _caption(sheet: Sheet) -> Iterator[str]:
    yield from _of_maps(sheet)
    ends = "; those beyond the scale are in the bins at its ends" if sheet.beyond else ""
    yield f"Histograms: how many of a gate's numbers are of each size, one scale for all gates{ends}."
    known = {gate: value for gate, value in sheet.radius.items() if value is not None}
    if known:
        words = ", ".join(f"{gate} {value:.3g}" for gate, value in known.items())
        yield f"Spectral radius of the recurrent kernels: {words}."
    unknown = [gate for gate in sheet.radius if gate not in known]
    if unknown:
        yield f"No spectral radius of {' '.join(unknown)}: {_why_no_radius(sheet)}."
    if sheet.spec.coupled:
        yield "What belongs to f is not used: the forget gate is 1 - i (coupled)."
    if sheet.forget is not None:
        yield f"Forget bias: {_forget_words(sheet.spec)}, unit by unit."
    if sheet.not_finite:
        yield f"{sheet.warning.removeprefix('; ')} (NaN or infinite): black in the maps, left out elsewhere."


def _of_maps(sheet: Sheet) -> Iterator[str]:
    ends = f"Maps: one scale for all, -{sheet.scale:.3g} to {sheet.scale:.3g}"
    if sheet.beyond:
        numbers = "1 number is" if sheet.beyond == 1 else f"{sheet.beyond:,} numbers are"
        ends += f"; {numbers} beyond it, the largest |w| is {sheet.largest:.3g}"
    yield f"{ends}."
    blocks = {each.part: each.block for each in sheet.maps if each.block != (1, 1)}
    if blocks:
        sizes = ", ".join(f"{part.replace('_', ' ')} {a} x {b}" for part, (a, b) in blocks.items())
        yield f"Of each block of numbers ({sizes}) the one of largest |w| is shown, with its sign."


def _why_no_radius(sheet: Sheet) -> str:
    [shape] = {each.shape for each in sheet.maps if each.part == "recurrent_kernel"}
    if shape[0] != shape[1]:
        return f"{shape[0]} x {shape[1]} is not square"
    return f"it has more than {_LARGEST:,} units" if shape[0] > _LARGEST else "not all numbers are finite"


def _forget_words(spec: Spec) -> str:
    terms = [part for part in ("bias", "recurrent_bias") if part in spec.parts]
    constant = f"the {spec.forget_constant:+g} that is added at run time"
    return " + ".join([*(f"{part}.f" for part in terms), *([constant] if spec.forget_constant else [])])
