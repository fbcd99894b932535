"""Canonical initial weights: a layer that every framework can be given, drawn by name or as a framework draws its own.

    initial_layer(spec, seed=0)                                      glorot_uniform, orthogonal, forget bias 1, per gate
    initial_layer(spec, like="keras", seed=0)                        what Keras draws, over the arrays that Keras has
    initial_layer(spec, kernel={"g": he_normal()}, bias=chrono(200)) one gate, one part
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge import registry
from lstmbridge.distributions import (
    TRUNCATED_STD,
    Extent,
    Initializer,
    Scheme,
    block,
    block_orthogonal,
    chrono,
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    identity,
    lecun_normal,
    lecun_uniform,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    zeros,
)
from lstmbridge.errors import OptionError, Unsupported, unknown
from lstmbridge.fit import refusals
from lstmbridge.layer import Layer
from lstmbridge.notation import Layout
from lstmbridge.pipeline import DTYPES
from lstmbridge.spec import PARTS, Spec

__all__ = [
    "TRUNCATED_STD",
    "Extent",
    "Initializer",
    "Scheme",
    "block",
    "block_orthogonal",
    "chrono",
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "initial_layer",
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

#: For a part or a gate: an initializer, a number for every entry, or the entries themselves.
Value = Initializer | float | npt.ArrayLike
#: For a part: one for all of its gates, or one a gate.
Given = Value | Mapping[str, Value] | None

#: What is drawn where nothing is said.
USUAL = Scheme(
    {
        "kernel": glorot_uniform(),
        "recurrent_kernel": orthogonal(),
        "bias": zeros(),
        "recurrent_bias": zeros(),
        "peephole": zeros(),
        "projection": glorot_uniform(),
    }
)

#: The bias of an LSTM's forget gate, unless the runtime adds a constant of its own. Source: Jozefowicz and others 2015,
#: "An empirical exploration of recurrent network architectures".
FORGET_BIAS = 1.0


def initial_layer(
    spec: Spec,
    *,
    like: str | None = None,
    kernel: Given = None,
    recurrent_kernel: Given = None,
    bias: Given = None,
    recurrent_bias: Given = None,
    peephole: Given = None,
    projection: Given = None,
    forget_bias: float | None = None,
    seed: int | np.random.Generator | None = None,
    dtype: str = "float32",
    path: str = "",
) -> Layer:
    """A layer of `spec` with initial weights: drawn in float64, for each direction anew, and cast last.

    like         a framework's name: as its own layer is initialised, over the arrays that it has. Without it kernel and
                 projection are glorot_uniform, recurrent_kernel orthogonal, all else zeros, every gate by itself
    kernel, recurrent_kernel, bias, recurrent_bias, peephole, projection  in place of that: an initializer, a number,
                 one gate's array in canonical shape, or a mapping of some gates to any of these. A gate that is named
                 is drawn by itself, and of the scheme's constants none is left in a part that is given whole
    forget_bias  of an LSTM: the bias of its forget gate. None: what `bias` or `like` says; 1 where neither says
                 anything, but 0 where the runtime adds a constant (`Spec.forget_constant`)
    seed         a whole number or a generator; None: other weights each time
    dtype        of the result
    path         the layer's name

    Errors: Unsupported for a framework that has no such layer, or draws none; OptionError for what has no effect or is
    no initializer; UnknownName for a gate that the part does not have; LayoutError for an array of another shape.

    >>> layer = initial_layer(Spec(cell="lstm", input_size=5, hidden_size=3), like="keras", seed=0)
    >>> layer["forward.bias.f"].tolist(), layer["forward.bias.g"].tolist()
    ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    """
    if not isinstance(spec, Spec):
        raise OptionError(f"spec is {spec!r}", 'expected e.g. Spec(cell="lstm", input_size=5, hidden_size=11)')
    if forget_bias is not None and not _is_number(forget_bias):
        raise OptionError(f"forget_bias is a {type(forget_bias).__name__}", 'expected a number; else: bias={"f": ...}')
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    given: dict[str, Given] = {
        "kernel": kernel,
        "recurrent_kernel": recurrent_kernel,
        "bias": bias,
        "recurrent_bias": recurrent_bias,
        "peephole": peephole,
        "projection": projection,
    }
    said = {part: value for part, value in given.items() if value is not None}
    scheme, arrays = (USUAL, _gate_by_gate(spec)) if like is None else _framework(spec, like)
    plan = _plan(spec, scheme, said)
    plan.single.update(_forget_bias(spec, forget_bias, bias, like))
    arrays += _without_array(spec, arrays, said)
    rng = _generator(seed)
    drawn = {f"{d}.{name}": array for d in spec.directions for name, array in _drawn(spec, plan, arrays, rng).items()}
    return Layer(spec=spec, weights={name: xp.cast(drawn[name], dtype) for name in spec.names()}, path=path)


# ---- what is drawn together


@dataclass(frozen=True)
class _Array:
    """Weights of one direction that stand in one array: parts side by side in its columns, gates in its rows."""

    parts: tuple[str, ...]
    gates: tuple[str, ...]

    def extent(self, spec: Spec) -> Extent:
        """All of it."""
        axes = [PARTS[part].split() for part in self.parts]
        inputs = sum(spec.sizes[index] for _, *columns in axes for index in columns)
        return Extent(self.gates, spec.sizes[axes[0][0]], inputs or None, spec.hidden_size)

    def blocks(self, spec: Spec) -> Iterator[tuple[str, str, tuple[slice, ...]]]:
        """(part, gate, where it stands) for each weight."""
        start = 0
        for part in self.parts:
            row, *columns = (spec.sizes[index] for index in PARTS[part].split())
            across = tuple(slice(start, start + size) for size in columns)
            start += sum(columns)
            yield from ((part, gate, (slice(n * row, (n + 1) * row), *across)) for n, gate in enumerate(self.gates))


def _gate_by_gate(spec: Spec) -> list[_Array]:
    return [_Array((part,), (gate,)) for part, gates in spec.parts.items() for gate in gates or ("",)]


def _arrays_of(layout: Layout, spec: Spec) -> Iterator[_Array]:
    """What stands together in each array of a layout, in one direction; whatever else indexes it is drawn apart."""
    one = spec.replace(directions=("forward",), merge="concat", processed_order=False, reverse_activations=None)
    for key, slot in layout.slots(one).items():
        names = [name.split(".") for name, place in layout.places(one).items() if place.key == key]
        parts = tuple(dict.fromkeys(part for _, part, *_ in names))
        for together in [parts] if slot.line.joined else [(part,) for part in parts]:
            gates = dict.fromkeys("".join(gate) for _, part, *gate in names if part in together)
            yield _Array(together, tuple(gates))


def _without_array(spec: Spec, arrays: Sequence[_Array], said: Mapping[str, Given]) -> list[_Array]:
    """What was given and no array of the framework holds, gate by gate (`Layout.absent`)."""
    held = {(part, gate) for array in arrays for part in array.parts for gate in array.gates}
    alone = [each for each in _gate_by_gate(spec) if each.parts[0] in said]
    return [each for each in alone if (each.parts[0], each.gates[0]) not in held]


def _framework(spec: Spec, like: str) -> tuple[Scheme, list[_Array]]:
    """A framework's scheme for such a layer, and its arrays. Errors: Unsupported if it has none."""
    room = registry.framework(like).layout
    schemes: Mapping[str, Scheme] = getattr(room, "INITIAL", {})
    if not schemes:
        able = [name for name in registry.names() if hasattr(registry.framework(name).layout, "INITIAL")]
        raise Unsupported(f"{like} draws no initial weights of its own", f"like= one of {', '.join(able)}")
    reason = _not_held(spec, like)
    if reason:
        raise Unsupported(f"{like} cannot express {reason}: {spec}", *_instead(spec, like))
    return schemes[spec.cell], list(_arrays_of(room.LAYOUTS[spec.cell], spec))


def _instead(spec: Spec, like: str) -> Iterator[str]:
    """What to do where a framework draws no such layer: the Spec that it does draw, if that has another bias alone."""
    forms = registry.framework(like).layout.HOLDS.biases(spec)
    own = next((form for form in forms if _not_held(spec.replace(bias=form), like) is None), None)
    yield f"its own has bias={own!r}: spec.replace(bias={own!r})" if own else (
        "its scheme is for its own layers: change the Spec, or like="
    )


def _not_held(spec: Spec, like: str) -> str | None:
    """Why no stock layer of the framework is of this Spec, as it is; None if one is."""
    holds = registry.framework(like).layout.HOLDS
    left = refusals(spec, holds)
    if left:
        return left[0].text
    if spec.forget_constant and "forget constant" not in holds.features:
        return f"a forget constant of {spec.forget_constant:+g}"
    forms = holds.biases(spec)
    own = "no bias" if spec.bias == "none" else f"a {spec.bias} bias"
    return None if spec.bias in forms else f"{own}, its layers have {' or '.join(forms)}"


# ---- what is drawn by what


@dataclass(frozen=True)
class _Plan:
    """Who draws what: an initializer for each part as a whole, and what was said of single gates, by ``bias.f``."""

    whole: dict[str, Initializer]
    single: dict[str, Initializer | Float]

    def said(self, part: str, gate: str) -> bool:
        return _name(part, gate) in self.single


def _name(part: str, gate: str) -> str:
    return f"{part}.{gate}" if gate else part


def _plan(spec: Spec, scheme: Scheme, given: Mapping[str, Given]) -> _Plan:
    """The scheme, and in its place what was given. Errors: OptionError, UnknownName, Unsupported."""
    for part in given:
        if part not in spec.parts:
            raise OptionError(f"{part}= has no effect", f"found no {part} in {spec}", "leave it out")
    plan = _Plan({part: initializer for part, initializer in scheme.parts.items() if part in spec.parts}, {})
    whole = {part for part, value in given.items() if not isinstance(value, Mapping)}
    for name, number in scheme.constants.items():
        if name.partition(".")[0] not in whole:
            plan.single[name] = constant(number)
    for part, value in given.items():
        _put(plan, part, value, spec.parts[part])
    silent = [part for part in spec.parts if part not in plan.whole]
    if silent:
        raise Unsupported(f"nothing says how {', '.join(silent)} of {spec} begins", f"say it: {silent[0]}=")
    return plan


def _put(plan: _Plan, part: str, value: Given, gates: Sequence[str]) -> None:
    """What was given for one part takes its place in the plan."""
    if isinstance(value, Mapping):
        for gate, each in value.items():
            if gate not in gates:
                raise unknown(f"gate of {part}", gate, gates)
            plan.single[_name(part, gate)] = _checked(f"{part}.{gate}", each)
        return
    found = _checked(part, value)
    if isinstance(found, Initializer):
        plan.whole[part] = found
    else:
        plan.whole[part] = zeros()
        plan.single.update({_name(part, gate): found for gate in gates or ("",)})


def _checked(name: str, value: Any) -> Initializer | Float:
    """An initializer; or an array in float64 of memory of its own. Errors: OptionError for anything else."""
    if isinstance(value, Initializer):
        return value
    if _is_number(value):
        return constant(float(value))
    called = getattr(value, "__name__", "")
    if called in __all__:
        raise OptionError(f"{name} is the function {called}", f"expected what it gives: {called}()")
    if isinstance(value, str) and value in __all__:
        raise OptionError(f"{name} is the text {value!r}", f"expected what lstmbridge.initializers.{value}() gives")
    if isinstance(value, list | tuple) or (hasattr(value, "shape") and hasattr(value, "dtype")):
        return np.array(xp.host(value) if hasattr(value, "dtype") else value, np.float64)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise OptionError(f"{name} is a {kind}", "expected an initializer of lstmbridge.initializers, a number or an array")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _forget_bias(spec: Spec, value: float | None, bias: Given, like: str | None) -> dict[str, Initializer | Float]:
    """What stands in the forget gate's bias, where it is not what draws the others. Errors: OptionError."""
    has = spec.cell == "lstm" and spec.bias != "none"
    named = isinstance(bias, Mapping) and "f" in bias
    if value is None:
        open_ = has and like is None and (bias is None or (isinstance(bias, Mapping) and not named))
        return {"bias.f": constant(0.0 if spec.forget_constant else FORGET_BIAS)} if open_ else {}
    if not has:
        raise OptionError("forget_bias= has no effect", f"found no forget bias in {spec}", "leave it out")
    if named or (isinstance(bias, Initializer) and bias.together):
        raise OptionError(f"forget_bias={value:g} beside a bias= that says it, too", "leave one of them out")
    return {"bias.f": constant(value)}


def _generator(seed: Any) -> np.random.Generator:
    """The generator that draws. Errors: OptionError for what is neither seed nor generator."""
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
        raise OptionError(f"seed is {seed!r}", "expected a whole number from 0 on, or a numpy.random.Generator")
    return np.random.default_rng(seed)


# ---- drawing


def _drawn(spec: Spec, plan: _Plan, arrays: Sequence[_Array], rng: np.random.Generator) -> dict[str, Float]:
    """The weights of one direction, in float64, without the direction in their names.

    One that the framework has no array for, and of which nothing was said, is zero (`Layout.absent`).
    """
    weights: dict[str, Float] = {}
    for initializer, array, parts in _draws(spec, plan, arrays):
        matrix = initializer.draw(rng, array.extent(spec))
        for part, gate, where in array.blocks(spec):
            if part in parts and not plan.said(part, gate):
                weights[_name(part, gate)] = np.array(matrix[where])
    for part, gates in spec.parts.items():
        shape = tuple(spec.sizes[index] for index in PARTS[part].split())
        for gate in gates or ("",):
            single = plan.single.get(_name(part, gate))
            if isinstance(single, Initializer):
                weights[_name(part, gate)] = single.draw(rng, _Array((part,), (gate,)).extent(spec))
            elif single is not None:
                weights[_name(part, gate)] = single.copy()
            weights.setdefault(_name(part, gate), np.zeros(shape))
    return weights


def _draws(
    spec: Spec, plan: _Plan, arrays: Sequence[_Array]
) -> Iterator[tuple[Initializer, _Array, tuple[str, ...]]]:
    """Each array that is drawn, by what, and for which of its parts."""
    done: set[str] = set()
    for array in arrays:
        needed = [part for part in array.parts if not all(plan.said(part, gate) for gate in array.gates)]
        for initializer in dict.fromkeys(plan.whole[part] for part in needed):
            parts = tuple(part for part in needed if plan.whole[part] is initializer)
            if not initializer.together:
                yield initializer, array, parts
                continue
            yield from ((initializer, _Array((p,), spec.parts[p] or ("",)), (p,)) for p in parts if p not in done)
            done |= set(parts)
