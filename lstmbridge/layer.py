"""One recurrent layer: a Spec, its weights by name, and where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, Self

from lstmbridge.errors import LayoutError, OptionError, unknown
from lstmbridge.spec import GATES, Spec

__all__ = ["ALSO_CALLED", "Array", "Layer", "dtype_name", "expect_layer", "label_of", "modules"]

#: An array of any framework; numpy's where nothing else is said.
Array = Any

#: What other frameworks call the cell candidate of an LSTM.
ALSO_CALLED = {"c": "g", "j": "g"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One recurrent layer in canonical form; a stack is a tuple of layers.

    spec      what it computes
    weights   every name of ``spec.names()`` to an array of canonical shape, a view on the source's memory
    path      the layer's own name in its model, e.g. ``encoder.rnn`` ("" for an object that stands alone)
    level     its number in a module that holds several (torch's num_layers), else None
    after     the label of the layer whose outputs it reads, where that is known, else None
    metadata  what the source said beside that, verbatim; ``metadata["framework"]`` names the source

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> gates = "ifgo"
    >>> layer = Layer.from_gates(
    ...     kernel={g: rng.normal(size=(3, 2)) for g in gates},
    ...     recurrent_kernel={g: rng.normal(size=(3, 3)) for g in gates},
    ...     bias={g: rng.normal(size=3) for g in gates},
    ... )
    >>> print(layer)
    layer: lstm 2 -> 3, single bias
    >>> layer["forward.kernel.f"].shape
    (3, 2)
    """

    spec: Spec
    weights: Mapping[str, Array]
    path: str = ""
    level: int | None = None
    after: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self)
        for name, array in self.weights.items():
            if not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise LayoutError(f"{_who(self)}: {name} is a {type(array).__name__}", "expected an array")
            _check_shape(self, name, tuple(array.shape))
        _check_dtypes(self)

    @property
    def label(self) -> str:
        """The name that tells this layer from its neighbours: its path, with its level where it has one."""
        return label_of(self.path, self.level)

    @property
    def dtype(self) -> str:
        """The name of the one dtype its weights have, e.g. ``float32``."""
        return dtype_name(next(iter(self.weights.values())))

    @property
    def parameters(self) -> int:
        """How many numbers its weights hold."""
        return sum(_count(self.spec.shape(name)) for name in self.spec.names())

    def __getitem__(self, name: str) -> Array:
        """The weight of that name, a view. Errors: UnknownName, with the nearest name."""
        if name not in self.weights:
            raise unknown("weight", name, self.weights)
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __str__(self) -> str:
        return f"{self.label or 'layer'}: {self.spec}"

    def __repr__(self) -> str:
        return f"<Layer {self}, {self.dtype}>"

    def replace(self, **changes: Any) -> Self:
        """This layer with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_gates(
        cls,
        *,
        kernel: Mapping[str, Array],
        recurrent_kernel: Mapping[str, Array],
        bias: Mapping[str, Array] | None = None,
        recurrent_bias: Mapping[str, Array] | None = None,
        peephole: Mapping[str, Array] | None = None,
        projection: Array | None = None,
        reverse: Mapping[str, Any] | None = None,
        path: str = "",
        **features: Any,
    ) -> Self:
        """A layer from one array a gate, on the arrays' own memory.

        Each argument maps a gate to its array: kernel (h, i), recurrent_kernel (h, p), bias, recurrent_bias and
        peephole (h,); projection is one array (p, h). The gates say which cell it is: ``i f g o``, ``r z n`` or ``n``.
        `reverse` is a dict of the same arguments for a second direction. `features` are further fields of the Spec
        (``reset_after=False``). Errors: LayoutError, which says which gate, what shape, what was expected.
        """
        given = {
            "kernel": kernel,
            "recurrent_kernel": recurrent_kernel,
            "bias": bias,
            "recurrent_bias": recurrent_bias,
            "peephole": peephole,
            "projection": projection,
        }
        per_direction = {"forward": given} if reverse is None else {"forward": given, "reverse": dict(reverse)}
        spec = _spec_of(given, tuple(per_direction), features)
        weights: dict[str, Array] = {}
        for direction, parts in per_direction.items():
            weights.update(_named(direction, parts, spec))
        return cls(spec=spec, weights=weights, path=path)


def _spec_of(given: Mapping[str, Any], directions: tuple[str, ...], features: Mapping[str, Any]) -> Spec:
    """The Spec that the forward direction's arrays tell."""
    cell = _cell_of(given["kernel"])
    first = GATES[cell][0]
    if first not in given["kernel"]:
        raise LayoutError(f"kernel has no gate {first!r}", f"expected {' '.join(GATES[cell])}")
    hidden, inputs = _two_axes(given["kernel"][first], f"forward.kernel.{first}", "(h, i)")
    biases = sum(given[name] is not None for name in ("bias", "recurrent_bias"))
    return Spec(
        cell=cell,
        input_size=inputs,
        hidden_size=hidden,
        directions=directions,
        **{
            "bias": ("none", "single", "dual")[biases],
            "peepholes": given["peephole"] is not None,
            "projection_size": None
            if given["projection"] is None
            else _two_axes(given["projection"], "forward.projection", "(p, h)")[0],
            **features,
        },
    )


def _cell_of(kernel: Mapping[str, Array]) -> str:
    """The cell whose gates these are, or nearly are."""
    if not isinstance(kernel, Mapping) or not kernel:
        raise LayoutError("kernel is not a mapping of gates", 'expected e.g. {"i": Wi, "f": Wf, "g": Wg, "o": Wo}')
    cell = max(GATES, key=lambda c: (len(set(kernel) & set(GATES[c])), -len(GATES[c])))
    if not set(kernel) & set(GATES[cell]):
        raise LayoutError(
            f"kernel has the gates {' '.join(kernel)}", "expected i f g o (LSTM), r z n (GRU) or n (RNN)"
        )
    return cell


def _two_axes(array: Array, name: str, expected: str) -> tuple[int, int]:
    if not hasattr(array, "shape"):
        raise LayoutError(f"{name} is {type(array).__name__}", f"expected an array of shape {expected}")
    if len(array.shape) != 2:
        raise LayoutError(f"{name} has shape {tuple(array.shape)}", f"expected {expected}")
    return int(array.shape[0]), int(array.shape[1])


def _named(direction: str, parts: Mapping[str, Any], spec: Spec) -> dict[str, Array]:
    """The weights of one direction by their canonical names."""
    weights: dict[str, Array] = {}
    for part, value in parts.items():
        if part == "projection" and value is not None:
            weights[f"{direction}.{part}"] = value
        elif value is not None:
            weights.update({f"{direction}.{part}.{gate}": array for gate, array in value.items()})
    if spec.coupled:  # the forget gate is 1 - i; weights that nobody uses may be left out
        for part in [p for p in spec.parts if p != "projection" and f"{direction}.{p}.i" in weights]:
            twin = weights[f"{direction}.{part}.i"]
            weights.setdefault(f"{direction}.{part}.f", twin * 0)
    return weights


def _who(layer: Layer) -> str:
    return layer.label or f"{layer.spec.cell} layer"


def expect_layer(given: Any) -> None:
    """Nothing, if it is a Layer. Errors: OptionError for what is none yet."""
    if not isinstance(given, Layer):
        raise OptionError(
            f"a {type(given).__name__} is no Layer", "read it first, and take one: lstmbridge.read(model)[0]"
        )


def _check_names(layer: Layer) -> None:
    expected = list(layer.spec.names())
    missing = [name for name in expected if name not in layer.weights]
    extra = [name for name in layer.weights if name not in set(expected)]
    if not missing and not extra:
        return
    details = [f"missing: {', '.join(missing)}"] if missing else []
    details += [f"not a weight of {layer.spec}: {', '.join(extra)}"] if extra else []
    for name in extra:
        gate = name.split(".")[-1]
        if gate in ALSO_CALLED and layer.spec.cell == "lstm":
            details.append(f"gate {gate!r} is called {ALSO_CALLED[gate]!r} here (cell candidate)")
            break
    raise LayoutError(f"{_who(layer)}: {len(missing)} weights missing, {len(extra)} too many", *details)


def _check_shape(layer: Layer, name: str, found: tuple[int, ...]) -> None:
    expected = layer.spec.shape(name)
    if found == expected:
        return
    details = [f"expected {expected} with {_sizes_text(layer.spec)}"]
    if found == expected[::-1]:
        details.append("this is its transpose: matrices are (output, input) here")
    if ".recurrent_kernel." in name and found == (layer.spec.input_size,) * 2:
        details.append("is the kernel transposed? matrices are (output, input) here: (hidden, input)")
    raise LayoutError(f"{_who(layer)}: {name} has shape {found}", *details)


def _check_dtypes(layer: Layer) -> None:
    dtypes: dict[str, str] = {}
    for name, array in layer.weights.items():
        dtypes.setdefault(dtype_name(array), name)
    if len(dtypes) > 1:
        found = ", ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        raise LayoutError(f"{_who(layer)}: {found}", "expected one dtype: cast them first")
    dtype = next(iter(dtypes))
    if "float" not in dtype:
        raise LayoutError(f"{_who(layer)}: weights of dtype {dtype}", "expected floating-point numbers")


def _sizes_text(spec: Spec) -> str:
    sizes = {"hidden": spec.hidden_size, "input": spec.input_size}
    sizes |= {} if spec.projection_size is None else {"projection": spec.projection_size}
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


class _Located(Protocol):
    @property
    def path(self) -> str: ...

    @property
    def level(self) -> int | None: ...


def label_of(path: str, level: int | None) -> str:
    """The label of a layer that stands there."""
    return path if level is None else f"{path}.l{level}".lstrip(".")


def modules(layers: Sequence[_Located]) -> Iterator[tuple[int, int]]:
    """The stretches of layers that one module holds, each by its ends: one path, and levels."""
    begin = 0
    for n in range(1, len(layers) + 1):
        if n == len(layers) or layers[n].level is None or layers[n].path != layers[begin].path:
            yield begin, n
            begin = n


def dtype_name(array: Array) -> str:
    """The name of an array's dtype, whatever framework's it is: ``float32``."""
    return _name_of(array.dtype)


@cache
def _name_of(dtype: Any) -> str:
    """numpy takes longer to name a dtype than to copy a gate."""
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
