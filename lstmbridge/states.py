"""The states of recurrent layers in canonical form: h and c by layer and direction, whatever framework they come from.

`lstmbridge.handover` reads them from a framework's own form and writes them in any other's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge import tensorfile
from lstmbridge.distributions import cut_normal
from lstmbridge.errors import FileError, LayoutError, OptionError, Unsupported, unknown
from lstmbridge.grammar import expect_names
from lstmbridge.layer import Array, Layer, dtype_name, label_of
from lstmbridge.pipeline import DTYPES
from lstmbridge.placing import atomic
from lstmbridge.reading import read
from lstmbridge.spec import Spec
from lstmbridge.statenotation import CANONICAL, names, shape, together

__all__ = ["Source", "State", "States", "expect_mid_sequence", "layers_of"]

_MARK = "lstmbridge.states"

#: Layers; or an object or path that has some.
Source = Any


# ---- the canonical form


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """One layer's state: h (b, p) and for an LSTM c (b, h) of each direction, by name.

    spec    what the layer computes
    arrays  every name of `lstmbridge.statenotation.names` to its array, e.g. ``forward.h``
    path    the layer's own name in its model
    level   its number in a module that holds several, else None

    Errors: LayoutError for names, shapes or dtypes that do not fit.
    """

    spec: Spec
    arrays: Mapping[str, Array]
    path: str = ""
    level: int | None = None

    def __post_init__(self) -> None:
        who = self.label or f"the state of a {self.spec.cell}"
        expect_names(self.arrays, names(self.spec), who, self.spec)
        for name, array in self.arrays.items():
            expected = shape(self.spec, name, self.batch)
            if tuple(array.shape) != expected:
                raise LayoutError(f"{who}: {name} has shape {tuple(array.shape)}", f"expected {expected}")
        dtypes = {dtype_name(array) for array in self.arrays.values()}
        if len(dtypes) > 1 or "float" not in next(iter(dtypes)):
            found = f"{who}: states of dtype {' and '.join(sorted(dtypes))}"
            raise LayoutError(found, "expected one floating dtype: cast them first")

    @property
    def label(self) -> str:
        """The layer's label."""
        return label_of(self.path, self.level)

    @property
    def batch(self) -> int:
        """b, how many sequences it is of."""
        return int(self[f"{self.spec.directions[0]}.h"].shape[0])

    @property
    def dtype(self) -> str:
        """The name of the one dtype of its arrays."""
        return dtype_name(next(iter(self.arrays.values())))

    @property
    def h(self) -> Array:
        """The hidden states of all directions (d, b, p), on memory of their own."""
        return together([self.spec], [self.arrays])[0][0]

    @property
    def c(self) -> Array | None:
        """The cell states of all directions (d, b, h), on memory of their own; None where the cell has none."""
        return together([self.spec], [self.arrays])[1][0]

    def __getitem__(self, name: str) -> Array:
        """The array of that name. Errors: UnknownName, with the nearest name."""
        if name not in self.arrays:
            raise unknown("state", name, self.arrays)
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __str__(self) -> str:
        doubt = self._doubt() if self.spec.cell == "lstm" else ""
        parts = [
            f"{part} {' '.join(axes)} = {tuple(array.shape)} within {float(np.abs(_wide(array)).max(initial=0.0)):.3g}"
            for part, axes, array in (("h", "dbp", self.h), ("c", "dbh", self.c))
            if array is not None
        ]
        return f"{self.label or 'layer'}: {self.spec.cell}: {', '.join(parts)}, {self.dtype}{doubt}"

    def _doubt(self) -> str:
        """What to ask where h is larger than an LSTM can have given it."""
        bounded = all(self.spec.activation("output", d).name == "tanh" for d in self.spec.directions)
        if not bounded or self.spec.projection_size is not None:
            return ""
        beyond = bool(np.any(np.abs(_wide(self.h)) > 1))
        return "; h is beyond 1, and tanh gives no more: are h and c exchanged?" if beyond else ""

    @classmethod
    def at(cls, layer: Layer | State, arrays: Mapping[str, Array]) -> State:
        """These arrays as the state of a layer."""
        return cls(spec=layer.spec, arrays=arrays, path=layer.path, level=layer.level)


@dataclass(frozen=True, eq=False)
class States:
    """The states of the layers of a model, in order; every one of the same batch.

    Errors: LayoutError for none, for two of one label, and for different batches.

    >>> layers = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
    >>> print(States.zeros(layers, batch=4))
    layer: rnn: h d b p = (1, 4, 3) within 0, float64
    """

    states: tuple[State, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", tuple(self.states))
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice or not self.states:
            found = f"two states of {', '.join(map(repr, twice))}" if twice else "the states of no layer"
            raise LayoutError(found, "expected one a layer")
        batches = {state.label: state.batch for state in self.states}
        if len(set(batches.values())) > 1:
            found = ", ".join(f"{label or 'the layer'} has {batch}" for label, batch in batches.items())
            raise LayoutError(f"states of different batches: {found}", "expected one batch for all")

    @classmethod
    def of(
        cls, layers: Source, h: Sequence[Array], c: Sequence[Array | None] = (), *, dtype: str | None = None
    ) -> Self:
        """The states of these layers from canonical arrays: one h (d, b, p) a layer and, if any is an LSTM, one c
        (d, b, h) a layer, None where the cell has none.

        A state that was learned is one of batch 1 (`repeated` gives it to a batch). With `dtype` they are cast. Errors:
        LayoutError for another number of arrays, or another shape.

        >>> layers = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
        >>> States.of(layers, [np.array([[[0.5, -0.5, 0.25]]])]).repeated(4)[""].h[0, 3]
        array([ 0.5 , -0.5 ,  0.25])
        """
        found = layers_of(layers)
        for key, given in (("h", h), ("c", c)):
            if len(given) != len(found) and (given or key == "h"):
                raise LayoutError(f"{len(given)} arrays {key}", f"expected {len(found)}, one a layer: {_labels(found)}")
        made = []
        for layer, *pair in zip(found, h, c or [None] * len(found), strict=True):
            whole = {key: array for key, array in zip("hc", pair, strict=True) if array is not None}
            [named] = CANONICAL.unpack(whole, [layer.spec], who=layer.label or "the layer")
            made.append(State.at(layer, {name: _cast(array, dtype) for name, array in named.items()}))
        return cls(tuple(made))

    @classmethod
    def zeros(cls, layers: Source, batch: int, *, dtype: str | None = None) -> Self:
        """States of zeros, numpy's, in the layers' dtype or another."""
        return cls._drawn(layers, batch, dtype, np.zeros)

    @classmethod
    def random(
        cls, layers: Source, batch: int, *, seed: int = 0, scale: float = 0.1, dtype: str | None = None
    ) -> Self:
        """States from a normal distribution of standard deviation `scale` that is cut at two of them: what is beyond
        is drawn again.

        >>> layers = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
        >>> bool(abs(States.random(layers, batch=1000, scale=0.5)[""]["forward.h"]).max() <= 1.0)
        True
        """
        if not scale >= 0:
            raise OptionError(f"scale is {scale!r}", "expected a standard deviation, a number from 0 on")
        rng = np.random.default_rng(seed)
        return cls._drawn(layers, batch, dtype, lambda size: scale * cut_normal(rng, size))

    @classmethod
    def _drawn(
        cls, layers: Source, batch: int, dtype: str | None, draw: Callable[[tuple[int, ...]], npt.NDArray[Any]]
    ) -> Self:
        if batch < 1:
            raise LayoutError(f"states of batch {batch}", "expected at least 1")
        made = []
        for layer in layers_of(layers):
            to = tensorfile.numpy_dtype(_known(dtype or layer.dtype))
            arrays = {name: draw(shape(layer.spec, name, batch)).astype(to) for name in names(layer.spec)}
            made.append(State.at(layer, arrays))
        return cls(tuple(made))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the layers, in order."""
        return tuple(state.label for state in self.states)

    @property
    def batch(self) -> int:
        """b, how many sequences they are of."""
        return self.states[0].batch

    @property
    def h(self) -> list[Array]:
        """One h (d, b, p) a layer, on memory of its own."""
        return [state.h for state in self.states]

    @property
    def c(self) -> list[Array | None]:
        """One c (d, b, h) a layer, on memory of its own; None where the cell has none."""
        return [state.c for state in self.states]

    def __getitem__(self, label: str) -> State:
        """The state of the layer of that label. Errors: UnknownName, with the nearest label."""
        found = next((state for state in self.states if state.label == label), None)
        if found is None:
            raise unknown("layer", label, self.labels)
        return found

    def __iter__(self) -> Iterator[State]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def __str__(self) -> str:
        return "\n".join(map(str, self.states))

    def __repr__(self) -> str:
        return f"<States of {_labels(self.states)}, batch {self.batch}>"

    def same_bits(self, other: States) -> bool:
        """Whether the layers, in order, have the same states, bit for bit, whatever their labels are."""
        return [tuple(state) for state in self] == [tuple(state) for state in other] and all(
            xp.same_bits(one[name], two[name]) for one, two in zip(self, other, strict=True) for name in one
        )

    def repeated(self, batch: int) -> States:
        """The state of one sequence, given to each of a batch. Errors: LayoutError if they are of several."""
        if self.batch != 1:
            raise LayoutError(f"states of batch {self.batch} cannot be repeated", "expected those of one sequence")
        first = np.zeros(batch, np.int64)
        return self._changed(lambda array: array[first])

    def cast(self, dtype: str) -> States:
        """The same in another dtype, on memory of their own."""
        return self._changed(lambda array: _cast(array, dtype))

    def _changed(self, change: Callable[[Array], Array]) -> States:
        return States(tuple(State.at(state, {name: change(array) for name, array in state.arrays.items()})
                            for state in self.states))  # fmt: skip

    def onto(self, layers: Source) -> States:
        """The same states for the layers of another model: for those of the same labels, or else in order.

        Errors: LayoutError for another number of layers, or one of another cell, size or direction.
        """
        found = {layer.label: layer for layer in layers_of(layers)}
        if not set(self.labels) <= set(found) and len(self.labels) != len(found):
            raise LayoutError(
                f"states of {len(self.labels)} for {len(found)} layers: {_labels(self.states)}; "
                f"{_labels(tuple(found.values()))}",
                "expected as many, or the same labels",
            )
        chosen = [found[n] for n in self.labels] if set(self.labels) <= set(found) else list(found.values())
        pairs = list(zip(self.states, chosen, strict=True))
        for state, layer in pairs:
            kinds = [(s.cell, s.hidden_size, s.state_size, s.directions) for s in (state.spec, layer.spec)]
            if kinds[0] != kinds[1]:
                who = f"the state of {state.label or 'a layer'} for {layer.label or 'a layer'} of another kind"
                raise LayoutError(who, f"found {state.spec}; expected {layer.spec}")
        return States(tuple(State.at(layer, {name: xp.own(state[name]) for name in state}) for state, layer in pairs))

    def in_mid_sequence(self) -> States:
        """Themselves, if they can be those of sequences that go on. Errors: Unsupported for a layer that cannot."""
        expect_mid_sequence(self.states)
        return self

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """A ``.safetensors`` file with the states and the layers' Specs. Errors: FileError for one that exists."""
        if Path(path).suffix != ".safetensors":
            raise FileError(f"{Path(path).name} is not the name of a file of states", "expected one in .safetensors")
        arrays = {f"{state.label}/{name}": xp.host(state[name]) for state in self for name in state}
        entries = [
            {"spec": json.loads(state.spec.to_json()), "path": state.path, "level": state.level} for state in self
        ]
        with atomic(Path(path), force=force) as staged:
            tensorfile.save(arrays, staged, metadata={_MARK: json.dumps(entries)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The states that `save` wrote. Errors: FileError for any other file."""
        arrays, metadata = tensorfile.load(Path(path))
        if _MARK not in metadata:
            raise FileError(f"{path}: not a file of states", "expected a file that States.save wrote")
        try:
            return cls(tuple(_loaded(entry, arrays) for entry in json.loads(metadata[_MARK])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileError(f"{path}: states that cannot be read", f"found: {error!r}") from error


def _loaded(entry: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    spec, where = Spec.from_json(json.dumps(entry["spec"])), {key: entry[key] for key in ("path", "level")}
    label = label_of(**where)
    return State(spec=spec, arrays={name: xp.own(arrays[f"{label}/{name}"]) for name in names(spec)}, **where)


def expect_mid_sequence(layers: Iterable[Layer | State]) -> None:
    """Nothing, if these layers have a state in mid-sequence. Errors: Unsupported for one that has none."""
    for each in layers:
        if each.spec.directions != ("forward",):
            who = f"{each.label or 'the layer'}: {each.spec}"
            raise Unsupported(f"{who}: has no state in mid-sequence", "its reverse direction begins at the end")


def _cast(array: Array, dtype: str | None) -> Array:
    """The array on memory of its own, in that dtype. Errors: UnknownName."""
    return xp.own(array if dtype is None else xp.cast(array, _known(dtype)))


def _known(dtype: str) -> str:
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return dtype


def _wide(array: Array) -> npt.NDArray[np.float64]:
    return np.asarray(xp.host(array), np.float64)


def layers_of(source: Source) -> tuple[Layer, ...]:
    """The layers that are meant. Errors: those of `lstmbridge.read`."""
    return read(source)


def _labels(layers: Sequence[State | Layer]) -> str:
    return ", ".join(each.label or "the layer" for each in layers)
