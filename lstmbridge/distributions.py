"""How initial weights are drawn: initializers by name, and the scheme by which a framework draws its own.

An initializer fills one array of canonical orientation, a matrix (outputs, inputs) or a vector (outputs,), from a
`numpy.random.Generator`, in float64. Which gates stand in that array is not for it to say: per gate it is one gate's
rows, and where a framework keeps its gates in one array and draws that as a whole it is those of all of them, one gate
under another. So `glorot_uniform` has another scale there, and `orthogonal` another meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import LayoutError, OptionError, unknown
from lstmbridge.spec import GATES, PARTS

__all__ = [
    "TRUNCATED_STD",
    "Extent",
    "Initializer",
    "Scheme",
    "block",
    "block_orthogonal",
    "chrono",
    "constant",
    "cut_normal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "zeros",
]

Float = npt.NDArray[np.float64]
Generator = np.random.Generator

#: Where a truncated normal is cut, in standard deviations of the normal.
CUT = 2.0


def _truncated_std(cut: float) -> float:
    """The standard deviation of a standard normal that is cut at ``-cut`` and ``cut``."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


#: What the cut leaves of a standard normal's standard deviation, 0.8796...: the variance correction divides by it.
TRUNCATED_STD = _truncated_std(CUT)


@dataclass(frozen=True)
class Extent:
    """What one draw fills: the rows of these gates, one gate under another.

    gates   in the order of their rows; one empty name for a part without gates (a projection)
    rows    the outputs of one gate
    inputs  the columns of a matrix; None for a vector (a bias or a peephole)
    hidden  h: the units of the layer

    >>> Extent(("i", "f", "g", "o"), rows=3, inputs=5, hidden=3).shape
    (12, 5)
    """

    gates: tuple[str, ...]
    rows: int
    inputs: int | None
    hidden: int

    @property
    def outputs(self) -> int:
        """The rows of all gates together."""
        return self.rows * len(self.gates)

    @property
    def shape(self) -> tuple[int, ...]:
        """(outputs, inputs) or (outputs,)."""
        return (self.outputs,) if self.inputs is None else (self.outputs, self.inputs)

    @property
    def fans(self) -> tuple[int, int]:
        """(fan_in, fan_out); both are the length of a vector, as Keras and TensorFlow have it."""
        return (self.outputs if self.inputs is None else self.inputs), self.outputs


@dataclass(frozen=True, eq=False)
class Initializer:
    """How the numbers of one array are drawn.

    name      how it is called, for messages: ``glorot_uniform()``
    fill      (generator, Extent) -> an array of that extent's shape
    together  whether it is always given all gates of a part at once, however the layer's arrays are cut

    >>> ones = Initializer("ones()", lambda rng, extent: np.ones(extent.shape))
    >>> ones.draw(np.random.default_rng(0), Extent(("n",), rows=2, inputs=None, hidden=2)).tolist()
    [1.0, 1.0]
    """

    name: str
    fill: Callable[[Generator, Extent], npt.NDArray[Any]] = field(repr=False)
    together: bool = False

    def draw(self, rng: Generator, extent: Extent) -> Float:
        """An array of `extent.shape` in float64. Errors: LayoutError if `fill` gives another shape."""
        drawn = np.asarray(self.fill(rng, extent), np.float64)
        if drawn.shape != extent.shape:
            gates = " ".join(extent.gates) or "a projection"
            raise LayoutError(f"{self.name} gives shape {drawn.shape}", f"expected {extent.shape} for {gates}")
        return drawn

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Scheme:
    """How a framework draws a layer's weights where nothing is said: data, as its ``INITIAL`` has it for each cell.

    parts      an initializer a part. It fills every array of the framework's Layout as a whole; what that means for a
               gate follows from the Layout
    constants  for single gates, ``bias.f``, the number that stands there in place of what was drawn

    Errors: UnknownName for a part or gate that is none.

    >>> Scheme({"kernel": glorot_uniform(), "bias": zeros()}, {"bias.f": 1.0}).constants
    {'bias.f': 1.0}
    """

    parts: Mapping[str, Initializer]
    constants: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [name.partition(".") for name in self.constants]
        _known("part", [*self.parts, *(part for part, _, _ in named)], PARTS)
        _known("gate", [gate for _, _, gate in named], [gate for gates in GATES.values() for gate in gates])


def _known(kind: str, names: Iterable[str], choices: Iterable[str]) -> None:
    for name in names:
        if name not in choices:
            raise unknown(f"{kind} of a scheme", name, choices)


# ---- constants


def zeros() -> Initializer:
    """All numbers are zero."""
    return Initializer("zeros()", lambda rng, extent: np.zeros(extent.shape))


def constant(value: float) -> Initializer:
    """All numbers are `value`."""
    return Initializer(f"constant({value:g})", lambda rng, extent: np.full(extent.shape, float(value)))


def identity(gain: float = 1.0) -> Initializer:
    """`gain` on the diagonal and zeros beside it: for the recurrent kernel of a ReLU RNN with zero biases, an IRNN.

    Source: Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units".

    >>> identity().draw(np.random.default_rng(0), Extent(("n",), rows=2, inputs=2, hidden=2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def fill(rng: Generator, extent: Extent) -> Float:
        _expect_matrix("identity()", extent)
        return gain * np.eye(extent.outputs, extent.inputs)

    return Initializer(_called("identity", gain=(gain, 1.0)), fill)


# ---- distributions


def uniform(limit: float | None = None) -> Initializer:
    """Uniform in [-limit, limit]; without a limit, that is 1 / sqrt(h), h being the units of the layer (torch's).

    >>> drawn = uniform().draw(np.random.default_rng(0), Extent(("n",), rows=100, inputs=7, hidden=100))
    >>> bool(abs(drawn).max() < 0.1)
    True
    """

    def fill(rng: Generator, extent: Extent) -> Float:
        bound = extent.hidden**-0.5 if limit is None else limit
        return rng.uniform(-bound, bound, extent.shape)

    return Initializer(_called("uniform", limit=(limit, None)), fill)


def _expect_deviation(std: float) -> None:
    """Errors: OptionError for what is no standard deviation."""
    if not 0 <= std < math.inf:
        raise OptionError(f"std is {std!r}", "expected a standard deviation, a number from 0 on")


def normal(std: float) -> Initializer:
    """Normal around zero with that standard deviation. Errors: OptionError for a negative one."""
    _expect_deviation(std)
    return Initializer(f"normal({std:g})", lambda rng, extent: _normal(rng, extent.shape, std))


def truncated_normal(std: float, *, corrected: bool = False) -> Initializer:
    """Normal around zero, without the numbers beyond two standard deviations: those are drawn again.

    std        of the normal that is cut; what is drawn has 0.8796 (`TRUNCATED_STD`) times as much
    corrected  make up for that: `std` is of what is drawn, and the cut is at two of the larger normal's

    >>> drawn = truncated_normal(0.5).draw(np.random.default_rng(0), Extent(("n",), rows=100, inputs=100, hidden=100))
    >>> bool(abs(drawn).max() < 1.0), round(float(drawn.std()) / 0.5, 2)
    (True, 0.88)
    """
    _expect_deviation(std)
    wide = std / TRUNCATED_STD if corrected else std

    def fill(rng: Generator, extent: Extent) -> Float:
        return wide * cut_normal(rng, extent.shape)

    return Initializer(f"truncated_normal({std:g}{', corrected=True' if corrected else ''})", fill)


#: (generator, shape, the standard deviation that the result has) -> numbers around zero.
_SHAPES: Mapping[str, Callable[[Generator, tuple[int, ...], float], Float]] = {
    "uniform": lambda rng, shape, std: rng.uniform(-math.sqrt(3) * std, math.sqrt(3) * std, shape),
    "normal": lambda rng, shape, std: _normal(rng, shape, std),
    "truncated_normal": lambda rng, shape, std: std / TRUNCATED_STD * cut_normal(rng, shape),
}
_MODES: Mapping[str, Callable[[int, int], float]] = {
    "fan_in": lambda inputs, outputs: inputs,
    "fan_out": lambda inputs, outputs: outputs,
    "fan_avg": lambda inputs, outputs: (inputs + outputs) / 2,
}


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Numbers around zero whose variance is ``scale / n``.

    mode          what n is: ``fan_in`` the inputs of the array, ``fan_out`` its outputs, ``fan_avg`` their mean
    distribution  ``uniform``, ``normal``, or ``truncated_normal``, whose variance is that after the cut

    Errors: UnknownName for another mode or distribution.
    """
    for kind, name, choices in (("mode", mode, _MODES), ("distribution", distribution, _SHAPES)):
        if name not in choices:
            raise unknown(kind, name, choices)
    return _scaled(f"variance_scaling({scale:g}, {mode!r}, {distribution!r})", scale, mode, distribution)


def _scaled(name: str, scale: float, mode: str, distribution: str) -> Initializer:
    def fill(rng: Generator, extent: Extent) -> Float:
        return _SHAPES[distribution](rng, extent.shape, math.sqrt(scale / _MODES[mode](*extent.fans)))

    return Initializer(name, fill)


def glorot_uniform() -> Initializer:
    """Uniform in +-sqrt(6 / (inputs + outputs)). Source: Glorot and Bengio 2010."""
    return _scaled("glorot_uniform()", 1.0, "fan_avg", "uniform")


def glorot_normal() -> Initializer:
    """Truncated normal, corrected, of standard deviation sqrt(2 / (inputs + outputs)). Source: as `glorot_uniform`."""
    return _scaled("glorot_normal()", 1.0, "fan_avg", "truncated_normal")


def he_uniform() -> Initializer:
    """Uniform in +-sqrt(6 / inputs). Source: He and others 2015, "Delving deep into rectifiers"."""
    return _scaled("he_uniform()", 2.0, "fan_in", "uniform")


def he_normal() -> Initializer:
    """Truncated normal, corrected, of standard deviation sqrt(2 / inputs). Source: as `he_uniform`.

    Keras and JAX cut it, as here; torch does not, which is ``variance_scaling(2, "fan_in", "normal")``.
    """
    return _scaled("he_normal()", 2.0, "fan_in", "truncated_normal")


def lecun_uniform() -> Initializer:
    """Uniform in +-sqrt(3 / inputs). Source: LeCun and others 1998, "Efficient backprop"."""
    return _scaled("lecun_uniform()", 1.0, "fan_in", "uniform")


def lecun_normal() -> Initializer:
    """Truncated normal, corrected, of standard deviation sqrt(1 / inputs). Source: as `lecun_uniform`."""
    return _scaled("lecun_normal()", 1.0, "fan_in", "truncated_normal")


def _normal(rng: Generator, shape: tuple[int, ...], std: float) -> Float:
    return std * rng.standard_normal(shape)


def cut_normal(rng: Generator, shape: tuple[int, ...]) -> Float:
    """Standard normal numbers, those beyond the cut drawn again until none is left."""
    drawn = rng.standard_normal(shape)
    beyond = np.abs(drawn) > CUT
    while beyond.any():
        drawn[beyond] = rng.standard_normal(int(beyond.sum()))
        beyond = np.abs(drawn) > CUT
    return drawn


# ---- whole matrices


def orthogonal(gain: float = 1.0) -> Initializer:
    """A matrix drawn uniformly among those with orthonormal rows, or columns where there are fewer of them.

    Per gate where gates are drawn one by one; `block_orthogonal` is over all of them. Source: Saxe and others 2014;
    that the diagonal of R must be positive for Q to be uniform, Mezzadri 2007, "How to generate random matrices from
    the classical compact groups".

    >>> drawn = orthogonal().draw(np.random.default_rng(0), Extent(("i", "f"), rows=3, inputs=3, hidden=3))
    >>> bool(np.allclose(drawn.T @ drawn, np.eye(3)))
    True
    """

    def fill(rng: Generator, extent: Extent) -> Float:
        _expect_matrix("orthogonal()", extent)
        tall = (max(extent.shape), min(extent.shape))
        q, r = np.linalg.qr(rng.standard_normal(tall))
        q = gain * q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return q if extent.shape == tall else q.T

    return Initializer(_called("orthogonal", gain=(gain, 1.0)), fill)


def block(initializer: Initializer) -> Initializer:
    """The same initializer over all gates of a part as one matrix (g h, i), gates one under another.

    >>> print(block(glorot_uniform()))
    block(glorot_uniform())
    """
    return Initializer(f"block({initializer})", initializer.fill, together=True)


def block_orthogonal(gain: float = 1.0) -> Initializer:
    """`orthogonal` over all gates as one matrix (g h, h), as a Keras layer does it: its columns are orthonormal."""
    name = _called("block_orthogonal", gain=(gain, 1.0))
    return Initializer(name, orthogonal(gain).fill, together=True)


def _expect_matrix(name: str, extent: Extent) -> None:
    if extent.inputs is None:
        raise OptionError(f"{name} of a bias or peephole", "it needs a matrix: a kernel or a projection")


# ---- biases


def chrono(longest: float) -> Initializer:
    """Biases of an LSTM that remembers over up to `longest` steps: those of f are log(u), of i -log(u), others zero.

    u is uniform in [1, longest - 1], one a unit. Source: Tallec and Ollivier 2018, "Can recurrent neural networks warp
    time?". Errors: OptionError for `longest` of 2 or less, and for anything but an LSTM's whole bias.

    >>> drawn = chrono(50).draw(np.random.default_rng(0), Extent(("i", "f", "g", "o"), rows=4, inputs=None, hidden=4))
    >>> bool((drawn[:4] == -drawn[4:8]).all()), bool(drawn[8:].any())
    (True, False)
    """
    if not longest > 2:
        raise OptionError(f"chrono({longest:g}): its longest dependency is {longest:g} steps", "expected more than 2")
    name = f"chrono({longest:g})"

    def fill(rng: Generator, extent: Extent) -> Float:
        if extent.inputs is not None or not {"i", "f"} <= set(extent.gates):
            raise OptionError(f"{name} draws an LSTM's biases of f and i together", f"say it of them all: bias={name}")
        remembered = np.log(rng.uniform(1.0, longest - 1.0, extent.rows))
        drawn = {"f": remembered, "i": -remembered}
        return np.concatenate([drawn.get(gate, np.zeros(extent.rows)) for gate in extent.gates])

    return Initializer(name, fill, together=True)


def _called(name: str, **arguments: tuple[float | None, float | None]) -> str:
    """How it is called, without the arguments that are as they are where nothing is said."""
    said = [f"{key}={value:g}" for key, (value, usual) in arguments.items() if value != usual and value is not None]
    return f"{name}({', '.join(said)})"
