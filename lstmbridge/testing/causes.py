"""What would explain a disagreement: the common mistakes, each tried in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lstmbridge.arrays import host
from lstmbridge.checking import Agreement, check
from lstmbridge.errors import BridgeError
from lstmbridge.layer import Layer
from lstmbridge.spec import GATES, Activation, Spec
from lstmbridge.testing.side import Side

__all__ = ["causes"]


def causes(source: Any, target: Any, found: Agreement, given: Mapping[str, Any]) -> Iterator[str]:
    """The first mistake that explains why one of two sides is the odd one out; else, which weights differ."""
    sides = {found.a: source, found.b: target}
    odd = {row.odd(found.a, found.b) for row in found.rows if not row.agrees}
    layers = [Side.of(side).layers for side in sides.values()]
    if any(len(each) != 1 for each in layers):
        return
    if odd == {"the reference is the odd one out"} and Side.of(source).name == Side.of(target).name:
        yield f"both sides are {Side.of(source).name}: its layout is wrong, or how it is run"
        yield from _first(found.b, target, layers[1][0], given)
        return
    for (name, side), other in zip(sides.items(), reversed(layers), strict=True):
        if odd == {f"{name} is the odd one out"}:
            explained = list(_first(name, side, other[0], given)) or list(_given(source, target, name, given))
            yield from explained or _weights(layers[0][0], layers[1][0])


def _first(name: str, side: Any, layer: Layer, given: Mapping[str, Any]) -> Iterator[str]:
    """The first mistake which, made in `layer`, makes it agree with `side`."""
    for words, suspect in _suspects(layer):
        if _agree(suspect, side, given):
            yield f"{name} would agree, if {words}"
            return


def _agree(a: Any, b: Any, given: Mapping[str, Any]) -> bool:
    try:
        return check(a, b, **given, rounding=0.0).agrees
    except BridgeError:
        return False


def _given(source: Any, target: Any, name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Which of the things that were given beside x seems not to be used."""
    full = {key: value for key, value in given.items() if key not in ("lengths", "mask")}
    if len(full) < len(given) and _agree(source, target, full):
        yield f"they agree on full sequences: does {name} use the lengths?"
    elif given.get("states", True) and _agree(source, target, {**given, "states": False}):
        yield f"they agree from zero initial states: does {name} use h0 and c0?"


def _weights(one: Layer, other: Layer) -> Iterator[str]:
    """The weights that differ as they are read, biases aside where their form differs."""
    same_form = one.spec.bias == other.spec.bias and one.spec.forget_constant == other.spec.forget_constant
    names = [name for name in one if name in other.weights and (same_form or "bias" not in name)]
    differing = [name for name in names if not np.array_equal(host(one[name]), host(other[name]))]
    if differing:
        yield f"their weights differ: {', '.join(differing)}"


def _suspects(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The layer with one common mistake in it, and the mistake in words."""
    spec, weights = layer.spec, {name: np.asarray(host(array), np.float64) for name, array in layer.weights.items()}
    plain = layer.replace(weights=weights)
    yield from _permuted(plain)
    if spec.input_size == spec.state_size:
        yield "kernel and recurrent_kernel are exchanged", _renamed(plain, {"kernel": "recurrent_kernel"})
    for part in ("recurrent_kernel", "kernel"):
        if spec.state_size == spec.hidden_size and (part == "recurrent_kernel" or spec.input_size == spec.hidden_size):
            turned = {n: a.T if f".{part}." in n else a for n, a in weights.items()}
            yield f"{part} is transposed", plain.replace(weights=turned)
    if spec.bias == "dual":
        yield "bias and recurrent_bias are exchanged", _renamed(plain, {"bias": "recurrent_bias"})
        for part in ("recurrent_bias", "bias"):
            lost = {n: 0 * a if f".{part}." in n else a for n, a in weights.items()}
            yield f"{part} is lost", plain.replace(weights=lost)
    if spec.bidirectional:
        yield "forward and reverse are exchanged", _renamed(plain, {"forward": "reverse"})
    if spec.directions == ("reverse",):
        forward = spec.replace(directions=("forward",), processed_order=False)
        turned = {name.replace("reverse", "forward"): array for name, array in weights.items()}
        yield "it runs forward", plain.replace(spec=forward, weights=turned)
    for words, changes in _changed(spec):
        yield words, plain.replace(spec=spec.replace(**changes))
    if spec.cell == "gru" and spec.reset_after and spec.bias == "dual":
        yield "recurrent_bias.n is merged into bias.n", plain.replace(weights={**weights, **_merged_inside(weights)})
    if spec.cell == "gru":
        flipped = {n: -a if n.endswith(".z") else a for n, a in weights.items()}
        yield "z is 1 - z", plain.replace(weights=flipped)


def _merged_inside(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A GRU's b_hn outside the reset, in b_in."""
    twins = {name: name.replace(".recurrent_bias.", ".bias.") for name in weights if name.endswith("recurrent_bias.n")}
    return {one: 0 * weights[one] for one in twins} | {b: weights[a] + weights[b] for a, b in twins.items()}


def _permuted(layer: Layer) -> Iterator[tuple[str, Layer]]:
    gates = GATES[layer.spec.cell]
    for order in itertools.permutations(gates):
        moved = {new: old for new, old in zip(gates, order, strict=True) if new != old}
        if not moved:
            continue
        pair = tuple(moved)
        swap = len(moved) == 2
        words = (
            f"gates {pair[0]} and {pair[1]} are exchanged" if swap else f"gates {' '.join(gates)} are {' '.join(order)}"
        )
        yield words, _renamed(layer, moved, both=False)


def _renamed(layer: Layer, pairs: Mapping[str, str], both: bool = True) -> Layer:
    """The layer with words of its weights' names replaced, where there is a weight of that name."""
    words = {**pairs, **({new: old for old, new in pairs.items()} if both else {})}

    def other(name: str) -> str:
        moved = ".".join(words.get(word, word) for word in name.split("."))
        return moved if moved in layer.weights else name

    return layer.replace(weights={name: layer[other(name)] for name in layer})


def _changed(spec: Spec) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One thing that a Spec says, said otherwise."""
    if spec.cell == "gru":
        yield "reset_after is " + str(not spec.reset_after), {"reset_after": not spec.reset_after}
    if spec.cell == "lstm":
        for constant in {0.0, 1.0, 2 * spec.forget_constant} - {spec.forget_constant}:
            yield f"the forget constant is {constant:g}", {"forget_constant": constant}
    if spec.directions == ("reverse",):
        yield "its outputs are in the other order of time", {"processed_order": not spec.processed_order}
    for name in ("clip", "cell_clip", "proj_clip"):
        if getattr(spec, name) is not None:
            yield f"{name} is lost", {name: None}
    slopes = {0.2: 1 / 6, 1 / 6: 0.2}
    other = tuple(Activation(a.name, slopes.get(a.alpha, a.alpha), a.beta) if a.alpha else a for a in spec.activations)
    if other != spec.activations:
        yield "hard_sigmoid has the other slope", {"activations": other}
