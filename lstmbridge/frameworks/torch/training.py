"""torch's optimizers: read, built on a model's parameters, and run for some steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.frameworks.torch.optimizing import (
    CLASSES,
    group_of,
    in_torchs_words,
    kept_for,
    second_biases,
    state_of,
)
from lstmbridge.layer import Layer
from lstmbridge.optimizers import OptimizerState

__all__ = ["build", "freeze", "frozen", "read", "train"]


def read(optimizer: torch.optim.Optimizer, obj: nn.Module, layers: Sequence[Layer]) -> OptimizerState:
    """The state of an optimizer of `obj`, whose recurrent layers `layers` are; copies, on the host.

    Errors: Unsupported for another class than SGD, Adam, AdamW, RMSprop and Adagrad; those of
    `lstmbridge.frameworks.torch.optimizing.state_of`.
    """
    known = {name: kind for kind, names in CLASSES.items() for name in names}
    if type(optimizer).__name__ not in known or type(optimizer).__module__.partition(".")[0] != "torch":
        raise Unsupported(
            f"torch optimizer {type(optimizer).__module__}.{type(optimizer).__qualname__}",
            f"expected torch.optim's {', '.join(known)}",
        )
    names = {id(parameter): name for name, parameter in obj.named_parameters()}
    pairs = [
        (names[id(parameter)], parameter, number)
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if id(parameter) in names
    ]
    if optimizer.param_groups and not pairs:
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        raise LayoutError(
            f"torch {type(optimizer).__name__}: it trains no parameter of this model",
            f"found: {count} of another one",
            "expected the model that it was made for",
        )
    trained = {name: number for name, parameter, number in pairs if parameter.requires_grad}
    kept = {name: _copied(optimizer.state[parameter]) for name, parameter, _ in pairs if parameter in optimizer.state}
    return state_of(optimizer.param_groups, kept, trained, layers, known[type(optimizer).__name__])


def _copied(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept for a parameter; tensors as arrays of their own."""
    return {name: np.array(xp.host(each)) if isinstance(each, torch.Tensor) else each for name, each in kept.items()}


def build(state: OptimizerState, obj: nn.Module, layers: Sequence[Layer]) -> tuple[torch.optim.Optimizer, list[str]]:
    """A new optimizer of all parameters of `obj` that require a gradient, with that state; and notes.

    Errors: Unsupported for settings that no class of torch's has; LayoutError for something kept of another shape.
    """
    name, settings = group_of(state)
    parameters = {name: each for name, each in obj.named_parameters() if each.requires_grad}
    optimizer = getattr(torch.optim, name)(parameters.values(), **settings)
    kept = {**_others(state), **{name: each for layer in layers for name, each in kept_for(state, layer).items()}}
    for name, each in kept.items():
        if name in parameters:
            optimizer.state[parameters[name]] = _filled(state, name, parameters[name], each)
    return optimizer, list(_notes(state, parameters, kept))


def _others(state: OptimizerState) -> dict[str, dict[str, Any]]:
    """What is kept for other weights than recurrent ones, where it came from torch itself."""
    if state.framework != "torch":
        return {}
    return {name: in_torchs_words(state.kind, slots) for name, slots in state.others.items()}


def _filled(state: OptimizerState, name: str, parameter: nn.Parameter, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What torch keeps for one parameter: tensors like it, and the number of steps where its class counts them."""
    filled: dict[str, Any] = {} if state.kind == "sgd" else {"step": torch.tensor(float(state.step))}
    for slot, array in kept.items():
        tensor = torch.as_tensor(np.array(array)).to(parameter.device, parameter.dtype)
        if tensor.shape != parameter.shape:
            raise LayoutError(
                f"torch {name}: {slot} has shape {tuple(tensor.shape)}", f"expected {tuple(parameter.shape)}"
            )
        filled[slot] = tensor
    return filled


def _notes(state: OptimizerState, parameters: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[str]:
    anew = [name for name in parameters if name not in kept]
    if anew and any(state.slots.values()):
        yield f"begins anew for {', '.join(anew)}"
    frozen = [name for name in kept if name not in parameters]
    if frozen:
        yield f"left out, since they do not require a gradient: {', '.join(frozen)}"


def freeze(obj: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The second bias of every layer, where it has two, does not require a gradient; gives their names."""
    found = dict(obj.named_parameters())
    names = [name for layer in layers for name in second_biases(layer)]
    for name in names:
        found[name].requires_grad_(False)
    return tuple(names)


def frozen(obj: nn.Module, layers: Sequence[Layer]) -> set[str]:
    """The labels of the layers whose second bias does not require a gradient."""
    found = dict(obj.named_parameters())
    seconds = {layer.label: second_biases(layer) for layer in layers}
    return {label for label, names in seconds.items() if names and not any(found[n].requires_grad for n in names)}


def train(
    obj: nn.Module,
    layers: Sequence[Layer],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
) -> list[float]:
    """One step for each batch (x, target) on the mean squared error of the outputs; the losses before each step.

    x (b, t, i) and target (b, t, f); the layers are run one after another.
    """
    losses = []
    like = next(obj.parameters())
    for x, target in batches:
        optimizer.zero_grad()
        y = _outputs(obj, layers, torch.as_tensor(x, dtype=like.dtype, device=like.device))
        loss = torch.mean((y - torch.as_tensor(target, dtype=like.dtype, device=like.device)) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _outputs(obj: nn.Module, layers: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    """What the last of the layers gives, (b, t, f). Errors: Unsupported for a cell, which runs one step."""
    modules = dict(obj.named_modules())
    for path in dict.fromkeys(layer.path for layer in layers):
        module = modules[path]
        if not hasattr(module, "batch_first"):
            raise Unsupported(f"torch {type(module).__name__} {path!r} runs one step", "expected a layer")
        y = module(x if module.batch_first else x.transpose(0, 1))[0]
        x = y if module.batch_first else y.transpose(0, 1)
    return x
