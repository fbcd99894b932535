"""Which cell a step may be: its sums with a matrix are gates, and every way to name them is a hypothesis to be proved.

Only the gates are looked for here, not how they are put together: whether ``h' = (1 - z) n + z h`` or ``n + z (h - n)``
stands there is for the proof to find out. What no cell has in it (another function, another clip) is refused, so that
two steps differ only in sums and products of the same functions, and random numbers tell such steps apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from lstmbridge.frameworks.onnx.expressions import Source
from lstmbridge.frameworks.onnx.layout import decimal
from lstmbridge.frameworks.onnx.steps import Applied, Constant, Product, Refused, Sum, Term
from lstmbridge.frameworks.onnx.tensors import Numbers
from lstmbridge.layer import Layer
from lstmbridge.spec import ACTIVATIONS, Activation

__all__ = ["Hypothesis", "hypotheses"]

_FUNCTIONS = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "HardSigmoid": "hard_sigmoid", "LeakyRelu": "leaky_relu",
    "Elu": "elu", "Softsign": "softsign", "Softplus": "softplus", "ThresholdedRelu": "thresholded_relu",
}  # fmt: skip
_LINEAR = Activation("linear")
#: Functions of which 1 - f(x) is f(-x): an update gate may keep the old state, or take the new one.
_ODD = ("sigmoid", "hard_sigmoid")


@dataclass(eq=False)
class _Gate:
    """One gate: its function, and what is summed up in it.

    x, h          matrices (i, h) and (p, h)
    bias, recurrent_bias  vectors, the second added to the state's side
    constant      one number added to all units
    peephole      a vector that is multiplied with the cell state
    after         GRU: the matrix of h inside the product with the reset gate, and its bias
    before        GRU: the matrix of the product of the reset gate and h
    """

    activation: Activation
    clip: float | None
    x: Numbers | None = None
    h: Numbers | None = None
    bias: Numbers | None = None
    recurrent_bias: Numbers | None = None
    constant: float = 0.0
    peephole: Numbers | None = None
    after: Numbers | None = None
    before: Numbers | None = None


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A layer of one direction that the step may be.

    sources   the stored tensors that it was made of
    matrices  those of them that are its matrices
    """

    layer: Layer
    sources: frozenset[Source]
    matrices: frozenset[Source]


@dataclass(eq=False)
class _Findings:
    """All that is in a step."""

    gates: list[_Gate] = field(default_factory=list)
    output: set[Activation] = field(default_factory=set)
    cell_clip: set[float] = field(default_factory=set)
    sources: set[Source] = field(default_factory=set)
    matrices: set[Source] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)


def hypotheses(step: Sum, has_c: bool) -> Iterator[Hypothesis]:
    """The layers that a step (the next h as a sum) may be. Errors: Refused for what no cell has."""
    found = _Findings()
    projection = None
    if len(step) == 1 and isinstance(step[0], Product) and step[0].of == "inner" and has_c:
        projection = step[0].matrix.T
        found.matrices |= step[0].sources
        step = step[0].inner
    _visit(step, _LINEAR, None, found)
    clips = {gate.clip for gate in found.gates}
    if len(clips) > 1:
        raise Refused("some gates of the step are clipped, others are not")
    common = {"clip": clips.pop() if clips else None}
    layers = _lstm(found, projection, common) if has_c else _others(found, common)
    for layer in layers:
        yield Hypothesis(layer, frozenset(found.sources | found.matrices), frozenset(found.matrices))


# ---- finding the gates


def _visit(terms: Sum, activation: Activation, clip: float | None, found: _Findings) -> None:
    """Looks at a sum that goes through `activation`, and at those inside it."""
    if id(terms) in found.seen:
        return
    found.seen.add(id(terms))
    if any(isinstance(term, Product) and term.of in ("x", "h") for term in terms):
        if all(not (isinstance(term, Product) and term.of == "x") for term in terms):
            raise Refused("a gate of the step does not read the input")
        found.gates.append(_gate(terms, activation, clip, found))
        return
    for term in terms:
        if isinstance(term, Product):
            raise Refused("a matrix is multiplied with something inside the step")
        if isinstance(term, Constant):
            _check_plain(term)
            found.sources |= term.sources
        if isinstance(term, Applied):
            _enter(term, found)


def _enter(term: Applied, found: _Findings) -> None:
    found.sources |= term.attributes.get("sources", frozenset())
    inside = _function(term)
    if inside is not None:
        activation, argument, clip = inside
        if not _has_product(argument):
            found.output.add(activation)
            if clip is not None:
                found.cell_clip.add(clip)
        _visit(argument, activation, clip if _has_product(argument) else None, found)
        return
    limit = _symmetric(term)
    if limit is not None and not _has_product(term.args[0]):
        found.cell_clip.add(limit)
    elif term.op != "Mul" and limit is None:
        raise Refused(f"the step has a {term.who} in it")
    for argument in term.args:
        _visit(argument, _LINEAR, limit if _has_product(argument) else None, found)


def _has_product(terms: Sum) -> bool:
    return any(isinstance(term, Product) for term in terms)


def _check_plain(term: Constant) -> None:
    """That a constant outside of the gates is the 1 of ``1 - z``."""
    if not (np.asarray(term.array) == 1).all():
        raise Refused("a number is added to the step outside of its gates")


def _gate(terms: Sum, activation: Activation, clip: float | None, found: _Findings) -> _Gate:
    gate = _Gate(activation, clip)
    for term in terms:
        if isinstance(term, Product):
            name = {"x": "x", "h": "h", "inner": "before"}[term.of]
            if getattr(gate, name) is not None:
                raise Refused("a gate of the step reads the same through two matrices")
            setattr(gate, name, _signed(term.matrix, term.sign))
            found.matrices |= term.sources
            if term.inner:
                _visit(term.inner, _LINEAR, None, found)
        elif isinstance(term, Constant):
            _add_constant(gate, term, found)
        elif isinstance(term, Applied):
            _add_product(gate, term, found)
        else:
            raise Refused("a state is added in a gate, not by a matrix")
    return gate


def _add_constant(gate: _Gate, term: Constant, found: _Findings) -> None:
    found.sources |= term.sources
    if term.number is not None and not gate.constant:
        gate.constant = term.sign * term.number
        return
    places = ["recurrent_bias", "bias"] if term.side == "h" else ["bias", "recurrent_bias"]
    for name in places:
        if getattr(gate, name) is None:
            setattr(gate, name, _signed(term.array, term.sign))
            return
    raise Refused("a gate of the step has three biases")


def _add_product(gate: _Gate, term: Applied, found: _Findings) -> None:
    """What is multiplied inside a gate: a peephole, or the reset gate with the state's part."""
    if term.op != "Mul" or len(term.args) != 2:
        raise Refused(f"a gate of the step has a {term.who} in it")
    for one, other in (term.args, term.args[::-1]):
        if len(one) == 1 and isinstance(one[0], Constant) and one[0].number is None:
            if gate.peephole is not None:
                raise Refused("a gate of the step has two peepholes")
            gate.peephole = _signed(one[0].array, one[0].sign * term.sign)
            found.sources |= one[0].sources
            _visit(other, _LINEAR, None, found)
            return
    for one, other in (term.args, term.args[::-1]):
        products = [each for each in one if isinstance(each, Product)]
        constants = [each for each in one if isinstance(each, Constant)]
        if len(products) == 1 and products[0].of == "h" and len(products) + len(constants) == len(one):
            _add_after(gate, products[0], constants, term.sign, found)
            _visit(other, _LINEAR, None, found)
            return
    raise Refused(f"a gate of the step has a {term.who} in it")


def _add_after(gate: _Gate, product: Product, constants: Sequence[Constant], sign: int, found: _Findings) -> None:
    if gate.after is not None or len(constants) > 1 or gate.recurrent_bias is not None:
        raise Refused("a gate of the step has more biases than a GRU's")
    gate.after = _signed(product.matrix, sign * product.sign)
    found.matrices |= product.sources
    for constant in constants:
        if constant.number is not None:
            raise Refused("a number is added to the state's part of a gate")
        gate.recurrent_bias = _signed(constant.array, sign * constant.sign)
        found.sources |= constant.sources


def _signed(array: Numbers, sign: int) -> Numbers:
    return array if sign > 0 else -array


# ---- functions


def _function(term: Applied) -> tuple[Activation, Sum, float | None] | None:
    """The activation that a term is, its argument, and the clip on that; None if it is none."""
    if term.op in _FUNCTIONS:
        name = _FUNCTIONS[term.op]
        constants = [
            None if default is None else decimal(term.attributes.get(key, default))
            for key, default in zip(("alpha", "beta"), ACTIVATIONS[name], strict=True)
        ]
        argument, clip = term.args[0], None
        if len(argument) == 1 and isinstance(argument[0], Applied) and argument[0].sign > 0:
            clip = _symmetric(argument[0])
            argument = argument[0].args[0] if clip is not None else argument
        return Activation(name, *constants), argument, clip
    return _hard_sigmoid(term)


def _symmetric(term: Term) -> float | None:
    """The limit of a Clip to [-limit, limit]."""
    if not isinstance(term, Applied) or term.op != "Clip":
        return None
    low, high = (decimal(term.attributes[key]) for key in ("min", "max"))
    return high if -low == high and 0 < high < math.inf else None


def _hard_sigmoid(term: Applied) -> tuple[Activation, Sum, None] | None:
    """``clip(alpha x + beta, 0, 1)`` written out, and ``clip(x + 3, 0, 6) / 6``."""
    if term.op == "Clip" and (term.attributes["min"], term.attributes["max"]) == (0, 1):
        scaled = [each for each in term.args[0] if isinstance(each, Applied)]
        added = [each for each in term.args[0] if isinstance(each, Constant) and each.number is not None]
        if len(scaled) == len(added) == 1 and len(term.args[0]) == 2 and scaled[0].op == "Mul":
            argument, alpha = _scaled(scaled[0])
            if argument is not None:
                return (
                    Activation("hard_sigmoid", alpha * scaled[0].sign, added[0].sign * _one(added[0])),
                    argument,
                    None,
                )
    if term.op in ("Mul", "Div") and len(term.args) == 2:
        argument, factor = _scaled(term)
        if argument is not None and len(argument) == 1 and isinstance(argument[0], Applied):
            return _relu6(argument[0], 1 / factor if term.op == "Div" else factor)
    return None


def _relu6(clip: Applied, factor: float) -> tuple[Activation, Sum, None] | None:
    if clip.op != "Clip" or clip.sign < 0 or clip.attributes["min"] != 0 or not clip.args:
        return None
    threes = [each for each in clip.args[0] if isinstance(each, Constant) and each.number is not None]
    rest = tuple(each for each in clip.args[0] if each not in threes)
    high = float(clip.attributes["max"])
    if len(threes) != 1 or not rest or abs(high * factor - 1) > 1e-6:
        return None
    return Activation("hard_sigmoid", factor, threes[0].sign * _one(threes[0]) * factor), rest, None


def _scaled(term: Applied) -> tuple[Sum | None, float]:
    """What is multiplied with one number, and that number."""
    for one, other in (term.args, term.args[::-1]):
        if (
            len(other) == 1
            and isinstance(other[0], Constant)
            and other[0].number is not None
            and (term.op, one) != ("Div", term.args[1])
        ):
            return one, other[0].sign * _one(other[0])
    return None, 1.0


def _one(term: Constant) -> float:
    return 0.0 if term.number is None else term.number


# ---- from gates to layers


def _lstm(found: _Findings, projection: Numbers | None, common: Mapping[str, Any]) -> Iterator[Layer]:
    gates = found.gates
    if len(gates) not in (3, 4) or any(
        gate.h is None or gate.after is not None or gate.before is not None for gate in gates
    ):
        raise Refused(f"a step with a cell state has {len(gates)} gates that read the input; an LSTM has 4")
    if len(found.output) > 1 or len(found.cell_clip) > 1:
        raise Refused("a step has more functions in it than an LSTM")
    output = next(iter(found.output), _LINEAR)
    features = {**common, "cell_clip": next(iter(found.cell_clip), None)}
    for order in permutations(gates):
        if len(gates) == 4:
            named = dict(zip("ifgo", order, strict=True))
            yield from _named_lstm(named, projection, output, features)
            continue
        for sign in (1, -1):  # i and 1 - i, or f and 1 - f
            named = dict(zip("igo", order, strict=True))
            if sign > 0 or named["i"].activation.name in _ODD:
                named["i"] = named["i"] if sign > 0 else _negated(named["i"])
                named["f"] = _nothing(named["i"])
                yield from _named_lstm(
                    {gate: named[gate] for gate in "ifgo"}, projection, output, {**features, "coupled": True}
                )


def _named_lstm(
    named: Mapping[str, _Gate], projection: Numbers | None, output: Activation, features: Mapping[str, Any]
) -> Iterator[Layer]:
    if not named["i"].activation == named["f"].activation == named["o"].activation:
        return
    if any(named[gate].constant for gate in "igo") or named["g"].peephole is not None:
        return
    has_peepholes = [named[gate].peephole is not None for gate in "ifo"]
    peephole = None
    if any(has_peepholes):
        peephole = {gate: _or_zeros(named[gate].peephole, named["o"].x) for gate in "ifo"}
    yield Layer.from_gates(
        **_arrays(named),
        peephole=peephole,
        projection=projection,
        activations=(named["i"].activation, named["g"].activation, output),
        forget_constant=named["f"].constant,
        **features,
    )


def _others(found: _Findings, common: Mapping[str, Any]) -> Iterator[Layer]:
    gates = found.gates
    if any(gate.constant or gate.peephole is not None for gate in gates) or found.cell_clip:
        raise Refused("a step without a cell state has what only an LSTM has")
    if len(gates) == 1:
        [gate] = gates
        if gate.h is None or gate.after is not None or gate.before is not None or found.output:
            raise Refused("a step with one gate is no vanilla RNN")
        yield Layer.from_gates(**_arrays({"n": gate}), activations=(gate.activation,), **common)
        return
    candidates = [gate for gate in gates if gate.after is not None or gate.before is not None]
    if len(gates) != 3 or len(candidates) != 1 or found.output:
        raise Refused(f"a step without a cell state has {len(gates)} gates that read the input; a GRU has 3, an RNN 1")
    [new] = candidates
    rest = [gate for gate in gates if gate is not new]
    if (new.after is None) == (new.before is None) or new.h is not None or any(gate.h is None for gate in rest):
        raise Refused("a step with three gates is no GRU")
    new.h = new.after if new.after is not None else new.before
    for reset, update in permutations(rest):
        for z in (update, *([_negated(update)] if _may_negate(update) else [])):
            if reset.activation == z.activation:
                yield Layer.from_gates(
                    **_arrays({"r": reset, "z": z, "n": new}),
                    activations=(z.activation, new.activation),
                    reset_after=new.after is not None,
                    **common,
                )


def _may_negate(gate: _Gate) -> bool:
    return gate.activation.name == "sigmoid" or (gate.activation.name == "hard_sigmoid" and gate.activation.beta == 0.5)


def _negated(gate: _Gate) -> _Gate:
    names = ("x", "h", "bias", "recurrent_bias", "peephole")
    turned = {name: None if getattr(gate, name) is None else -getattr(gate, name) for name in names}
    return _Gate(gate.activation, gate.clip, constant=-gate.constant, **turned)


def _nothing(like: _Gate) -> _Gate:
    """A gate that nobody reads: the forget gate of a coupled LSTM."""
    assert like.x is not None
    assert like.h is not None
    return _Gate(like.activation, like.clip, np.zeros_like(like.x), np.zeros_like(like.h))


def _or_zeros(array: Numbers | None, like: Numbers | None) -> Numbers:
    assert like is not None
    return np.zeros(like.shape[-1], like.dtype) if array is None else array


def _arrays(named: Mapping[str, _Gate]) -> dict[str, Any]:
    """The arguments of `Layer.from_gates`; a bias that only some gates have is zero in the others."""
    found: dict[str, Any] = {
        "kernel": {gate: _matrix(each.x) for gate, each in named.items()},
        "recurrent_kernel": {gate: _matrix(each.h) for gate, each in named.items()},
    }
    some = {
        part: any(getattr(each, part) is not None for each in named.values()) for part in ("bias", "recurrent_bias")
    }
    for part in ("bias", "recurrent_bias") if some["recurrent_bias"] else ("bias",) if some["bias"] else ():
        found[part] = {gate: _or_zeros(getattr(each, part), each.x) for gate, each in named.items()}
    return found


def _matrix(array: Numbers | None) -> Numbers:
    if array is None:
        raise Refused("a gate of the step does not read the state")
    return array.T
