"""Layers whose weights can show a mistake: no two numbers equal, no zero bias, directions that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.layer import Layer
from lstmbridge.spec import Spec
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["Labels", "labelled_layer", "telling_layer"]

#: The standard deviation of weights up to this size, so that no gate is saturated and none is idle; in larger layers
#: it falls with the root of the size.
_SCALE, _SIZE = 0.2, 11


def telling_layer(spec: Spec, *, dtype: str = "float32", seed: int = 0, **fields: Any) -> Layer:
    """A layer of a Spec with normal weights of standard deviation 0.2 (in large layers less).

    `fields` are further fields of the Layer.

    >>> layer = telling_layer(Spec(cell="gru", input_size=5, hidden_size=11))
    >>> bool((layer["forward.bias.r"] != 0).all())
    True
    """
    rng = np.random.default_rng(seed)
    scale = _SCALE * (_SIZE / max(_SIZE, spec.input_size, spec.hidden_size)) ** 0.5
    weights = {name: (scale * rng.normal(size=spec.shape(name))).astype(numpy_dtype(dtype)) for name in spec.names()}
    return Layer(spec=spec, weights=weights, **fields)


def labelled_layer(spec: Spec, *, dtype: str = "float32", **fields: Any) -> Layer:
    """A layer whose every number says which entry it is: 1, 2, 3, ... through its weights in canonical order.

    Exact in float32 up to 16,777,216 entries.

    >>> layer = labelled_layer(Spec(cell="rnn", input_size=2, hidden_size=3))
    >>> layer["forward.kernel.n"].tolist()
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    """
    start, weights = 1, {}
    for name in spec.names():
        shape = spec.shape(name)
        count = int(np.prod(shape))
        weights[name] = np.arange(start, start + count).reshape(shape).astype(numpy_dtype(dtype))
        start += count
    return Layer(spec=spec, weights=weights, **fields)


class Labels:
    """Reads the numbers of a labelled layer, and says in words what stands in the wrong place.

    The sum of two biases of a gate is known as one. Numbers that are expected and that the conversion made from labels
    are told to it as `made`.
    """

    def __init__(self, layer: Layer, made: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        self.entries: dict[float, tuple[str, tuple[int, ...]]] = {}
        for name, array in {**_sums(layer), **layer.weights, **(made or {})}.items():
            for at, number in np.ndenumerate(np.asarray(array)):
                self.entries[float(number)] = (name, at)

    def complaints(self, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Iterator[tuple[str, str, int]]:
        """(name expected, name found or what was found, how many) for all entries that are not as expected.

        What was found begins with ``(`` where it is no name; where entries differ, with that of the first.
        """
        told: dict[tuple[str, str], tuple[str, int]] = {}
        for number, right in zip(found[found != expected], expected[found != expected], strict=True):
            there, example = self._found(float(number), float(right))
            kind = (self._name(right), there)
            first, count = told.get(kind, (there + example, 0))
            told[kind] = (first, count + 1)
        yield from ((wanted, there, count) for (wanted, _), (there, count) in told.items())

    def _name(self, number: float) -> str:
        """The name of the weight that a number belongs to; with a minus where the opposite is stored."""
        name = self.entries.get(abs(float(number)), (f"{abs(number):g}", ()))[0]
        return "zero padding" if number == 0 else f"-{name}" if number < 0 else name

    def _found(self, number: float, expected: float) -> tuple[str, str]:
        """What a number is, and where it was found."""
        if number == 0:
            return "zero", ""
        if -number == expected:
            return "(of the opposite sign)", ""
        if abs(number) not in self.entries:
            return "(no weight of the layer)", f", e.g. {number:g}"
        at = self.entries[abs(number)][1]
        if self._name(number) != self._name(expected):
            return self._name(number), ""
        wanted = self.entries[abs(expected)][1]
        return "(transposed)" if at == wanted[::-1] else "(out of place)", f", e.g. {_at(at)} at {_at(wanted)}"


def _sums(layer: Layer) -> dict[str, npt.NDArray[Any]]:
    """The sums of the two biases of each gate, by the names of both."""
    twins = {name: name.replace(".bias.", ".recurrent_bias.") for name in layer if ".bias." in name}
    return {f"{a} + {b}": np.asarray(layer[a]) + layer[b] for a, b in twins.items() if b in layer.weights}


def _at(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"
