"""Whether both sides train alike: the same losses and weights, step by step, also when one goes on for the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import registry
from lstmbridge.arrays import host
from lstmbridge.errors import Disagreement
from lstmbridge.fit import terms
from lstmbridge.layer import Layer
from lstmbridge.optimizers import OptimizerState
from lstmbridge.pipeline import convert
from lstmbridge.reading import read
from lstmbridge.training import freeze_second_bias, migrate_optimizer, write_optimizer

__all__ = ["LOSSES", "WEIGHTS", "check_training"]

#: The largest |difference| of losses and of weights allowed after the steps of a check, in float64.
LOSSES, WEIGHTS = 1e-9, 1e-8

Batch = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def check_training(
    layers: Sequence[Layer],
    source: str,
    target: str,
    optimizer: OptimizerState,
    *,
    steps: int = 20,
    resumed: int = 10,
    batch: int = 3,
    time: int = 6,
    seed: int = 0,
    freeze: bool = True,
    **options: Any,
) -> tuple[float, float]:
    """Trained from the same weights on the same batches, both frameworks have the same losses and the same weights.

    layers     a chain of layers in float64, each reading the one before
    source, target  the names of two frameworks with optimizers
    optimizer  its kind, rate and settings; in float64 those that float32 holds exactly, and a negligible epsilon, since
               frameworks round the one and add the other elsewhere (`lstmbridge.optimizers.Rules`)
    steps      of which after `resumed` the model and its optimizer are converted, and the target goes on
    freeze     do not train the second of two biases where the other side has one
    options    of `lstmbridge.migrate`

    Three runs are compared: the source's, the target's, and the one that changed over. Gives the largest difference of
    losses and of weights. Errors: Disagreement that says which run, at which step, by how much.
    """
    batches = _batches(layers, steps, batch, time, seed)
    frozen = _unlike(layers, source, target, options) if freeze else ()
    one, other, half = (_Run(name, convert(layers, to=name, **options), optimizer, frozen, options)
                        for name in (source, target, source))  # fmt: skip
    expected, found = one.train(batches), other.train(batches)
    half.train(batches[:resumed])
    later = half.changed_over(target)
    rest = later.train(batches[resumed:])
    worst = max(
        _losses(f"{source} and {target}", expected, found, 0),
        _losses(f"{source}, and {target} from step {resumed} on", expected[resumed:], rest, resumed),
    )
    gaps = [_weights(f"{source} and {run.name}{how}", one, run) for run, how in ((other, ""), (later, ", resumed"))]
    return worst, max(gaps)


def _batches(layers: Sequence[Layer], steps: int, batch: int, time: int, seed: int) -> list[Batch]:
    rng = np.random.default_rng(seed)
    into, out = layers[0].spec.input_size, layers[-1].spec.output_size
    return [(rng.normal(size=(batch, time, into)), rng.normal(size=(batch, time, out))) for _ in range(steps)]


def _unlike(layers: Sequence[Layer], source: str, target: str, options: Any) -> tuple[int, ...]:
    """The numbers of the layers whose biases the two sides hold in different forms."""
    forms = ([layer.spec.bias for layer in read(convert(layers, to=name, **options))] for name in (source, target))
    return tuple(n for n, (one, other) in enumerate(zip(*forms, strict=True)) if one != other)


class _Run:
    """One model with its optimizer (or the state to make one with); the second bias of the `frozen` layers is none."""

    def __init__(self, name: str, model: Any, optimizer: Any, frozen: Sequence[int], options: Any) -> None:
        self.name, self.model, self.frozen, self.options = name, model, frozen, options
        if frozen:
            freeze_second_bias(model, [self.layers[n].label for n in frozen])
        self.optimizer = write_optimizer(optimizer, model) if isinstance(optimizer, OptimizerState) else optimizer

    @property
    def layers(self) -> tuple[Layer, ...]:
        return read(self.model)

    def train(self, batches: Sequence[Batch]) -> list[float]:
        found: list[float] = registry.framework(self.name).training.train(
            self.model, self.layers, self.optimizer, batches
        )
        return found

    def changed_over(self, target: str) -> _Run:
        """The same in another framework, as far as it has come."""
        model = convert(self.model, to=target, **self.options)
        if self.frozen:
            freeze_second_bias(model, [read(model)[n].label for n in self.frozen])
        return _Run(target, model, migrate_optimizer(self.optimizer, self.model, model).result, (), self.options)


def _losses(who: str, expected: Sequence[float], found: Sequence[float], first: int) -> float:
    gaps = np.abs(np.subtract(expected, found))
    if not (gaps <= LOSSES).all():
        step = int(np.argmax(~(gaps <= LOSSES)))
        raise Disagreement(
            f"check_training: {who} have other losses from step {first + step + 1} on",
            f"{expected[step]:.12g} and {found[step]:.12g}; at the end {gaps[-1]:.3g} apart; allowed {LOSSES:g}",
        )
    return float(gaps.max())


def _weights(who: str, one: _Run, other: _Run) -> float:
    worst = 0.0
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        for name, expected, found in _comparable(mine, theirs):
            gap = float(np.max(np.abs(expected - found), initial=0.0))
            worst = max(worst, gap)
            if not gap <= WEIGHTS:
                raise Disagreement(
                    f"check_training: {who} end with other weights: {mine.label or 'the layer'} {name}",
                    f"they are {gap:.3g} apart; allowed {WEIGHTS:g}",
                )
    return worst


def _comparable(one: Layer, other: Layer) -> list[tuple[str, Any, Any]]:
    """The weights of both; where one side has one bias and the other two, the two added up."""
    if one.spec.bias == "single" and other.spec.bias == "dual":
        one, other = other, one
    sums = terms(one.spec, other.spec.replace(forget_constant=one.spec.forget_constant))
    return [(name, sum(host(one[each]) for each in names), host(other[name])) for name, names in sums.items() if names]
