"""Whether both sides compute the same: outputs and states, and their gradients, beside the float64 equations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lstmbridge import reference, registry
from lstmbridge.arrays import host
from lstmbridge.checking import ROUNDING, TOLERANCE, Agreement, Difference, check
from lstmbridge.contract import Gradients, Outputs
from lstmbridge.errors import Disagreement, LayoutError
from lstmbridge.fit import adjoint
from lstmbridge.handover import read_states, write_states
from lstmbridge.layer import Layer
from lstmbridge.states import States, expect_mid_sequence
from lstmbridge.testing.causes import causes
from lstmbridge.testing.side import Side

__all__ = ["GRADIENT_TOLERANCE", "check_forward", "check_gradients", "check_handover", "has_gradients", "steps"]

Float = npt.NDArray[Any]

#: The largest difference of two gradients allowed, relative to the largest number of that gradient.
GRADIENT_TOLERANCE: Mapping[str, float] = {
    "float64": 1e-6,
    "float32": 2e-5,
    "tf32": 5e-2,
    "float16": 2e-2,
    "bfloat16": 2e-1,
}

#: Sequences up to this length are held to the table of tolerances alone.
SHORT = 50

#: A target may be so many times as far from the equations as its source is, in sequences that are longer.
FURTHER = 2.0


# ---- forward


def check_forward(source: Any, target: Any, *, same_kernel: bool = False, **sequences: Any) -> Agreement:
    """Source, target and the float64 equations give the same y, h and c; what is returned says how closely.

    source, target  objects or files
    sequences       arguments of `lstmbridge.check`: batch, time, lengths, mask, states, seed, tolerance; a mask may be
                    written in rows of ``x`` and ``.``
    same_kernel     both sides run the very same software: no number may differ at all

    What is allowed is `lstmbridge.checking.TOLERANCE` by the dtype of the less precise side, whatever the sizes. In
    sequences of more than 50 steps the source may be as far off as rounding explains, and the target no further than
    twice that. Errors: Disagreement that says which of the three is the odd one out, how many numbers differ, where, by
    how much, how much was allowed; and which common mistake would explain it, if one does.
    """
    given = steps(sequences)
    time = given.get("time", 17)
    found = check(source, target, **given, rounding=0.0 if time <= SHORT else ROUNDING)
    try:
        found.demand()
    except Disagreement as error:
        hint = causes(source, target, found, given)
        raise Disagreement(f"check_forward: {error.headline}", *error.details, *hint) from None
    table = TOLERANCE[given.get("tolerance") or _dtype(source, target)]
    for row in found.rows:
        limit = max(table, FURTHER * row.a_reference.largest)
        if row.b_reference.largest > limit:
            raise Disagreement(
                f"check_forward: {found.b} is further from the reference than {found.a} explains",
                f"{row.output}: {row.b_reference.largest:.3g}, and {found.a} is {row.a_reference.largest:.3g} from it",
                f"allowed: {limit:.3g}",
            )
        if same_kernel and row.a_b.unequal:
            raise Disagreement(
                f"check_forward: {found.a} and {found.b} run the same kernel and differ",
                f"{row.output}: {row.a_b.unequal} of {row.a_b.size} numbers, by up to {row.a_b.largest:.3g}",
                "allowed: no differing bit",
            )
    return found


def steps(sequences: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `check`, a mask that is written in rows of ``x`` and ``.`` as an array."""
    mask = sequences.get("mask")
    if mask is None or not isinstance(mask[0], str):
        return dict(sequences)
    if {mark for row in mask for mark in row} - {"x", "."} or len({len(row) for row in mask}) > 1:
        raise LayoutError(f"the mask {' '.join(mask)}", "expected rows of x and . that are equally long")
    return {**sequences, "mask": np.array([[mark == "x" for mark in row] for row in mask])}


def _dtype(source: Any, target: Any) -> str:
    found = [layer.dtype for each in (source, target) for layer in Side.of(each).layers]
    return max(found, key=TOLERANCE.__getitem__)


# ---- a sequence in two halves


def check_handover(
    source: Any, target: Any, *, batch: int = 2, time: int = 20, seed: int = 0, tolerance: str | None = None
) -> float:
    """A sequence that is cut anywhere, its states handed from one side to the other there, is as if it ran on one side.

    Both ways, at every cut; the states pass through the form that each side's framework has for them, where it has one.
    A side is one layer, or several that read one another, in one module or in a chain. Gives the largest difference to
    the float64 equations on the unbroken sequence. Errors: Unsupported for a layer that reads sequences backwards, and
    so has no state to hand over; LayoutError for sides that are not the same layers; Disagreement.
    """
    sides = _chains("check_handover", source, target)
    layers = sides[0].layers
    expect_mid_sequence(layers)
    given = _Drawn(layers, batch, time, seed)
    truth = reference.run_stack(layers, given.x, h0=given.h0, c0=given.c0)
    dtypes = (layer.dtype for side in sides for layer in side.layers)
    allowed = TOLERANCE[tolerance or max(dtypes, key=TOLERANCE.__getitem__)]
    worst = 0.0
    for first, second in (sides, sides[::-1]):
        for cut in range(1, time):
            gaps = _gaps(_handed_over(first, second, given, cut), truth, allowed)
            worst = max(worst, *(gap.largest for gap in gaps))
            if not worst <= allowed:
                who = f"{first.name} to {second.name} after step {cut} of {time}"
                raise Disagreement(
                    f"check_handover: a state handed from {who} gives other numbers",
                    f"they differ by {worst:.3g}; allowed {allowed:.3g}",
                )
    return worst


def _chains(check: str, source: Any, target: Any) -> list[Side]:
    """Both sides, of the same layers, each reading the one before. Errors: LayoutError."""
    sides = [Side.of(source), Side.of(target)]
    counts = [len(side.layers) for side in sides]
    if counts[0] != counts[1]:
        found = " and ".join(f"{side.name} has {count} layers" for side, count in zip(sides, counts, strict=True))
        raise LayoutError(f"{check}: {found}", "expected the same layers on both sides")
    for side in sides:
        for before, layer in itertools.pairwise(side.layers):
            if layer.after not in (None, before.label) or before.spec.output_size != layer.spec.input_size:
                raise LayoutError(f"{check}: {side.name}: {layer.label} does not read {before.label}",
                                  "expected layers that read one another: take them apart")  # fmt: skip
    return sides


def _handed_over(first: Side, second: Side, given: _Drawn, cut: int) -> Outputs:
    """What both give together, the first up to the cut, the second from there."""
    before = first.run(given.x[:, :cut], given.h0, given.c0)
    carried = _in_own_form(first, States.of(first.layers, before.h, before.c))
    arrived = _in_own_form(second, carried.onto(second.layers).cast(second.layers[0].dtype))
    h = [np.asarray(host(each), np.float64) for each in arrived.h]
    c = [0 * h[n] if each is None else np.asarray(host(each), np.float64) for n, each in enumerate(arrived.c)]
    after = second.run(given.x[:, cut:], h, c)
    return Outputs(np.concatenate([before.y, after.y], axis=1), after.h, after.c)


def _in_own_form(side: Side, states: States) -> States:
    """The states as they come back from the form that a side's framework has for them, where it has one."""
    if not hasattr(registry.framework(side.name).layout, "STATES"):
        return states
    return read_states(write_states(states, to=side.name), side.layers, framework=side.name)


def _gaps(found: Outputs, truth: Sequence[reference.Outcome], allowed: float) -> Iterator[Difference]:
    """How far y and every layer's h and c are from the equations."""
    yield Difference.of(found.y, truth[-1].y, allowed)
    for h, c, right in zip(found.h, found.c, truth, strict=True):
        yield Difference.of(h, right.h, allowed)
        if right.c is not None:
            yield Difference.of(np.asarray(c), right.c, allowed)


def _single(check: str, source: Any, target: Any) -> list[Side]:
    """Both sides, of one layer each. Errors: LayoutError."""
    sides = [Side.of(source), Side.of(target)]
    for side in sides:
        if len(side.layers) != 1:
            raise LayoutError(
                f"{check}: {side.name} has {len(side.layers)} layers", "expected one a side: take them apart"
            )
    return sides


class _Drawn:
    """x, initial states, and what the outputs are weighed with for a gradient; all standard normal."""

    def __init__(self, layers: Sequence[Layer], batch: int, time: int, seed: int) -> None:
        rng, specs = np.random.default_rng(seed), [layer.spec for layer in layers]

        def draw(*shape: int) -> Float:
            return rng.normal(size=shape).astype("float32").astype("float64")

        def of_h() -> list[Float]:
            return [draw(len(spec.directions), batch, spec.state_size) for spec in specs]

        def of_c() -> list[Float]:
            return [draw(len(spec.directions), batch, spec.hidden_size) for spec in specs]

        self.x = draw(batch, time, specs[0].input_size)
        self.h0, self.c0 = of_h(), of_c()
        c = [each if spec.cell == "lstm" else None for spec, each in zip(specs, of_c(), strict=True)]
        last = specs[-1]
        features = last.state_size * len(last.directions) if last.merge in ("concat", "none") else last.state_size
        self.pull = Outputs(draw(batch, time, features), of_h(), c)


# ---- gradients


def has_gradients(framework: str) -> bool:
    """Whether a framework's live room can differentiate."""
    return hasattr(registry.framework(framework).live, "gradients")


def check_gradients(
    source: Any,
    target: Any,
    *,
    batch: int = 2,
    time: int = 4,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
    tolerance: str | None = None,
) -> float:
    """The gradients of weights and inputs agree, those of the target mapped back to the source; one layer a side.

    Back through its own layout to the weights' places, and through the adjoint of the fit: where two biases were
    merged, both have the gradient of their sum.

    The third witness are the equations: along random directions the slope of what they compute, by central differences
    in float64. A side whose framework does not differentiate is left to them. Gives the largest difference, relative to
    the largest number of that gradient. Errors: Disagreement that names the weight and the side; LayoutError if neither
    side can differentiate.
    """
    both = _single("check_gradients", source, target)
    sides = [side for side in both if side.differentiates]
    if not sides:
        names = " and ".join(dict.fromkeys(side.name for side in both))
        raise LayoutError(f"check_gradients: neither side differentiates: {names}", "expected one with `gradients`")
    given = _Drawn(sides[0].layers, batch, time, seed)
    allowed = GRADIENT_TOLERANCE[tolerance or max((side.layers[0].dtype for side in sides), key=TOLERANCE.__getitem__)]
    found = [(side, _gradient(side, given, lengths)) for side in sides]
    worst = 0.0
    for side, gradient in found:
        slopes = _slopes(side.layers[0], given, lengths, gradient, seed, allowed)
        worst = max(worst, *(_demand_slope(side.name, name, *pair, allowed) for name, pair in slopes))
    return max(worst, _pulled_back(found[0], found[1], allowed)) if len(found) == 2 else worst


def _pulled_back(one: tuple[Side, dict[str, Float]], other: tuple[Side, dict[str, Float]], allowed: float) -> float:
    """The largest difference of the source's gradients and the target's, as those of the source's weights.

    Errors: Disagreement that names the weight.
    """
    (source, a), (target, b) = one, other
    before, after = source.layers[0].spec, target.layers[0].spec
    back = {"x": b["x"], **adjoint(b, before, after)}
    missing = [name for name in a if name not in back]
    if missing:
        raise Disagreement(
            f"check_gradients: no gradient of {', '.join(missing)} comes back from {target.name}",
            f"{source.name} has {before}, {target.name} {after}",
        )
    worst = 0.0
    for name, gradient in back.items():
        gap = float(np.max(np.abs(a[name] - gradient), initial=0.0)) / _largest(gradient)
        worst = max(worst, gap)
        if not gap <= allowed:
            raise Disagreement(
                f"check_gradients: {source.name} and {target.name} have other gradients of {name}",
                f"they differ by {gap:.3g} of the largest; allowed {allowed:.3g}",
            )
    return worst


def _gradient(side: Side, given: _Drawn, lengths: Sequence[int] | None) -> dict[str, Float]:
    found: Gradients = side.live.gradients(side.obj, side.layers, given.x, given.h0, given.c0, lengths, given.pull)
    named = {"x": found.x, **found.weights[0]}
    return {name: np.asarray(array, np.float64) for name, array in named.items()}


def _slopes(
    layer: Layer,
    given: _Drawn,
    lengths: Sequence[int] | None,
    gradient: Mapping[str, Float],
    seed: int,
    allowed: float,
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """For each name: the slope that the gradient gives along a random direction, that of the equations, the scale.

    Of several steps the one that fits best: a kink (relu, a clip) between both ends of a step spoils that step only.
    """
    rng = np.random.default_rng(seed + 1)
    weights = {name: np.asarray(host(array), np.float64) for name, array in layer.weights.items()}
    for name, array in gradient.items():
        way = rng.normal(size=array.shape)
        found, size = float((array * way).sum()), float(np.sqrt((array**2).sum()))
        slopes = []
        for step in _STEPS:
            ahead, behind = (_pulled(layer, weights, given, lengths, name, sign * step * way) for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * step))
            if abs(slopes[-1] - found) < allowed * size / 10:
                break
        yield name, (found, min(slopes, key=lambda slope: abs(slope - found)), size)


_STEPS = (1e-5, 1e-6, 1e-7)  # of central differences


def _pulled(
    layer: Layer, weights: Mapping[str, Float], given: _Drawn, lengths: Sequence[int] | None, name: str, moved: Float
) -> float:
    """The number whose gradient is taken, with x or one weight moved."""
    x = given.x + moved if name == "x" else given.x
    there = layer.replace(weights={n: a + moved if n == name else a for n, a in weights.items()})
    out = reference.run(there, x, h0=given.h0[0], c0=given.c0[0], lengths=lengths)
    total = (out.y * given.pull.y).sum() + (out.h * given.pull.h[0]).sum()
    return float(total + (0.0 if out.c is None else (out.c * cast(Float, given.pull.c[0])).sum()))


def _demand_slope(who: str, name: str, found: float, expected: float, scale: float, allowed: float) -> float:
    gap = abs(found - expected) / max(scale, abs(expected), np.finfo(float).tiny)
    if not gap <= allowed:
        raise Disagreement(
            f"check_gradients: {who}: the gradient of {name} is not the slope of the equations",
            f"found {found:.6g}, expected {expected:.6g}: {gap:.3g} of its size; allowed {allowed:.3g}",
        )
    return gap


def _largest(array: Float) -> float:
    return max(float(np.max(np.abs(array), initial=0.0)), np.finfo(float).tiny)
