"""Going on with a training run on the other side: the optimizer's state moves along with the weights.

    model = lstmbridge.convert(keras_model, to="torch")
    optimizer = lstmbridge.migrate_optimizer(keras_model.optimizer, keras_model, model).result
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import registry
from lstmbridge.choosing import select
from lstmbridge.contract import ReadOptions
from lstmbridge.errors import LayoutError
from lstmbridge.fit import trained_on
from lstmbridge.layer import Layer, dtype_name
from lstmbridge.optimizers import OptimizerState, Rules, Slots, carried
from lstmbridge.registry import Framework
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["OptimizerMigration", "freeze_second_bias", "migrate_optimizer", "read_optimizer", "write_optimizer"]


@dataclass(frozen=True, eq=False)
class OptimizerMigration:
    """An optimizer that was moved, with its account.

    result  the optimizer of the target framework, on the target's parameters
    state   what was moved, as the target's layers have it
    notes   what differs between the two from now on, a sentence each
    """

    result: Any
    state: OptimizerState
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((str(self.state), *self.notes))


def read_optimizer(source: Any, model: Any = None, **options: Any) -> OptimizerState:
    """The state of an optimizer for the recurrent layers of its model: copies, on the host, by canonical names.

    source   an optimizer of a known framework, or the path of a checkpoint that holds one
    model    the object whose weights it trains; of a checkpoint, nothing
    options  the fields of `ReadOptions`, for a checkpoint

    Errors: Unsupported for an optimizer that is not sgd, adam (AdamW), rmsprop or adagrad, and for what no other
    framework's does, by name (gradient clipping, averaged weights, weight decay in the gradient, groups of parameters
    with different settings); LayoutError for an optimizer of other weights; FileError for a file without one.

    >>> import torch
    >>> lstm = torch.nn.LSTM(5, 11)
    >>> print(read_optimizer(torch.optim.Adam(lstm.parameters(), lr=0.5), lstm))
    adam: rate 0.5, beta_1 0.9, beta_2 0.999, epsilon 1e-08, after 0 steps
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), ReadOptions(**options))
    if model is None:
        raise LayoutError(f"the optimizer {type(source).__name__} without its model", "say whose weights it trains")
    framework = _same_framework(source, model)
    found: OptimizerState = framework.training.read(source, model, _layers(framework, model))
    return found


def write_optimizer(state: OptimizerState, model: Any, *, cast: bool = False) -> Any:
    """A new optimizer of `model`'s framework, on its trainable parameters, with that state.

    `migrate_optimizer(state, None, model).result`; see there.
    """
    return migrate_optimizer(state, None, model, cast=cast).result


def migrate_optimizer(source: Any, source_model: Any, model: Any, *, cast: bool = False) -> OptimizerMigration:
    """The optimizer `source` as one of `model`, which was converted from `source_model`.

    source        an optimizer, the path of a checkpoint, or the state that `read_optimizer` gave
    source_model  the model whose weights it trains (None where `source` is a path or a state)
    model         the target: a live model whose recurrent layers are those of the source
    cast          take along what is kept in another dtype than the target's weights have

    What is kept for a weight moves with it, number by number: where the target stores the opposite of a weight, a
    momentum changes its sign and a velocity does not; two biases that became one have one. Settings and the number of
    steps come along; the notes say where the two frameworks use them otherwise. Errors: those of `read_optimizer`;
    LayoutError for layers that are not the same, and for another dtype, naming the array.
    """
    state = source if isinstance(source, OptimizerState) else read_optimizer(source, source_model)
    framework = registry.of_object(model)
    layers = _layers(framework, model)
    pairs = list(_paired(state.layers, layers)) if state.layers else []  # settings alone are for any model
    slots = {to.label: _moved(state.slots.get(one.label, {}), one, to, cast) for one, to in pairs}
    moved = state.replace(layers=layers, slots=slots)
    result, notes = framework.training.build(moved, model, layers)
    frozen = getattr(framework.training, "frozen", lambda model, layers: ())(model, layers)
    notes = [*_differences(state, framework), *_two_biases(pairs, frozen), *notes]
    return OptimizerMigration(result, moved, (*state.notes, *notes))


def freeze_second_bias(model: Any, layers: Collection[str] = ()) -> tuple[str, ...]:
    """The second bias of recurrent layers is no longer trained, where it is an array of its own; gives their names.

    A layer with one bias that was converted to two is then trained as it was: each of two biases receives the whole
    gradient of their sum, which would move twice as far.

    layers  paths of the layers to freeze it in; none: all whose two biases are only ever added together (LSTM, RNN;
            those of a reset-after GRU are not, and the second one of its n is trained in every framework)

    Errors: UnknownName for a path where no recurrent layer is.

    >>> import torch
    >>> freeze_second_bias(torch.nn.LSTM(5, 11))
    ('bias_hh_l0',)
    """
    framework = registry.of_object(model)
    found = select(_layers(framework, model), layers)
    chosen = [each for each in found if layers or all(map(each.spec.mergeable, each.spec.gates))]
    names: tuple[str, ...] = framework.training.freeze(model, chosen)
    return names


# ---- the steps


def _from_file(path: Path, options: ReadOptions) -> OptimizerState:
    framework = registry.of_file(path)
    reader = getattr(framework.files, "optimizer", None) if framework.has("files") else None
    found: OptimizerState = reader(path, options) if reader else framework.training.load(path, options)
    return found


def _same_framework(source: Any, model: Any) -> Framework:
    """The framework of both. Errors: LayoutError for two different ones."""
    one, other = registry.of_object(source), registry.of_object(model)
    if one.name != other.name:
        raise LayoutError(
            f"an optimizer of {one.name} and a model of {other.name}", "expected the model whose weights it trains"
        )
    return one


def _layers(framework: Framework, model: Any) -> tuple[Layer, ...]:
    return framework.live.read(model, ReadOptions()).layers


def _paired(sources: Sequence[Layer], targets: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Each layer with that of the same label, or where the labels differ, in order. Errors: LayoutError."""
    if len(sources) != len(targets):
        found = f"found {', '.join(map(str, sources))}; and {', '.join(map(str, targets))}"
        raise LayoutError(f"an optimizer of {len(sources)} layers for {len(targets)}", found)
    by_label = {layer.label: layer for layer in targets}
    same = set(by_label) == {layer.label for layer in sources}
    for number, one in enumerate(sources):
        to = by_label[one.label] if same else targets[number]
        found_, expected = (
            (s.cell, s.input_size, s.hidden_size, s.state_size, s.directions) for s in (to.spec, one.spec)
        )
        if found_ != expected:
            raise LayoutError(f"{one} and {to} are of different kinds", "expected the model that was converted")
        yield one, to


def _moved(slots: Slots, one: Layer, to: Layer, cast: bool) -> dict[str, dict[str, Any]]:
    """What is kept for a layer, as it is kept for the other. Errors: LayoutError for another dtype."""
    for slot, weights in slots.items():
        for name, array in weights.items():
            if dtype_name(array) != to.dtype and not cast:
                raise LayoutError(
                    f"{one.label or 'the layer'}: {slot} of {name} is {dtype_name(array)}, the target {to.dtype}",
                    "cast=True casts it; or convert the model with its dtype",
                )
    dtype = numpy_dtype(to.dtype)
    found = carried(slots, one.spec, to.spec, one.label)
    return {slot: {name: each.astype(dtype) for name, each in weights.items()} for slot, weights in found.items()}


def _differences(state: OptimizerState, framework: Framework) -> Iterator[str]:
    """What the two frameworks do otherwise with the same settings, a sentence each."""
    theirs = _rules(framework.name)
    ours = _rules(state.framework)
    one, other = (rules.epsilon.get(state.kind) for rules in (ours, theirs))
    if one != other and state.settings.get("epsilon"):
        yield (
            f"epsilon {state['epsilon']:g}: {state.framework} adds it {one}; {framework.name} {other}. "
            "Updates are the same only where it is negligible"
        )
    yield from _rounded(state, {ours.through: state.framework, theirs.through: framework.name})
    if state.kind in ("sgd", "rmsprop") and state["momentum"]:
        yield "momentum was made with the learning rate of now; if that changed on the way, the next steps differ"


def _two_biases(pairs: Sequence[tuple[Layer, Layer]], frozen: Collection[str]) -> Iterator[str]:
    """What it means that one side has one bias where the other has two, unless the second is frozen in the target."""
    for one, to in pairs:
        words = trained_on(one.spec.bias, to.spec.bias)
        if words and "none" not in (one.spec.bias, to.spec.bias) and to.label not in frozen:
            yield f"{to.label or 'the layer'}: unless one bias is frozen, {words}"


def _rounded(state: OptimizerState, through: Mapping[str, str]) -> Iterator[str]:
    """The settings that one of the two rounds and the other does not, where the weights are finer than that."""
    if len(through) == 1 or not any(layer.dtype == "float64" for layer in state.layers):
        return
    coarse = min(through, key=lambda dtype: numpy_dtype(dtype).itemsize)
    numbers = {"learning_rate": state.learning_rate, **state.settings}
    lost = [f"{name} {value!r}" for name, value in numbers.items() if float(np.asarray(value, coarse)) != value]
    if lost:
        yield f"{through[coarse]} takes {', '.join(lost)} through {coarse}: float64 weights drift apart by as much"


_NONE = Rules(epsilon={}, through="float64")


def _rules(name: str) -> Rules:
    rules: Rules = getattr(registry.framework(name).layout, "OPTIMIZERS", _NONE) if name else _NONE
    return rules
