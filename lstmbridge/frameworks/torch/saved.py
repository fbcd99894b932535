"""The state dict of an optimizer in a checkpoint, and which of its numbers is which parameter; nothing imports torch.

Source: torch/optim/optimizer.py, `Optimizer.state_dict`: ``state`` by the number of a parameter, and ``param_groups``,
whose ``params`` are those numbers, with ``param_names`` where the optimizer was made of named parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge.errors import Ambiguous, FileError
from lstmbridge.frameworks.torch import archive
from lstmbridge.layer import Array

__all__ = ["entries_by_name", "optimizer_dict", "optimizer_names", "plain"]

#: Tensors of a state dict that no optimizer trains: buffers of normalisations.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_DEEPEST = 8


def optimizer_dict(path: Path, found: Any) -> Mapping[str, Any]:
    """The one state dict of an optimizer in what a file held, at any depth. Errors: FileError, Ambiguous."""
    saved = list(_optimizers(found, "", 0))
    if not saved:
        raise FileError(
            f"{path}: no optimizer in it",
            "expected one beside the model: {'model': model.state_dict(), 'optimizer': optimizer.state_dict()}",
        )
    if len(saved) > 1:
        names = ", ".join(name for name, _ in saved)
        raise Ambiguous(f"{path}: {len(saved)} optimizers", f"found: {names}", "read one of them live")
    return saved[0][1]


def optimizer_names(found: Any) -> list[str]:
    """Where in what a file held the state dicts of optimizers are."""
    return [name for name, _ in _optimizers(found, "", 0)]


def _optimizers(value: Any, name: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, Mapping | list | tuple) or depth > _DEEPEST:
        return
    if isinstance(value, Mapping) and _is_optimizer(value):
        yield name or "the outermost", value
        return
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _optimizers(inner, f"{name}.{key}".lstrip("."), depth + 1)


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    groups = value.get("param_groups")
    return isinstance(value.get("state"), Mapping) and isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) and "lr" in group for group in groups
    )  # fmt: skip


def entries_by_name(
    path: Path, saved: Mapping[str, Any], arrays: Mapping[str, Array], seconds: Collection[str]
) -> dict[int, str]:
    """The name of each parameter by its number. Errors: Ambiguous where the numbers do not tell.

    seconds  the names of second biases, which may have been frozen before the optimizer was made
    """
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    said = [name for group in saved["param_groups"] for name in group.get("param_names") or ()]
    names = said or [name for name in arrays if name.rpartition(".")[2] not in _BUFFERS]
    if len(names) - len(numbers) == len(seconds) and not said:
        names = [name for name in names if name not in seconds]
    if len(names) != len(numbers):
        raise Ambiguous(
            f"{path}: an optimizer of {len(numbers)} parameters beside a model of {len(names)} tensors",
            "which is which is not said: read it live, read_optimizer(optimizer, model); or make the optimizer of "
            "named parameters, ((name, p) for name, p in model.named_parameters() if p.requires_grad)",
        )
    found = dict(zip(numbers if said else sorted(numbers), names, strict=True))
    for number, name in found.items():
        for slot, each in saved["state"].get(number, {}).items():
            if not archive.is_tensor(each) or slot == "step":
                continue
            shapes = tuple(each.shape), tuple(arrays[name].shape) if name in arrays else ()
            if shapes[0] != shapes[1]:
                raise Ambiguous(
                    f"{path}: the {slot} of parameter {number} has shape {shapes[0]}, and {name} {shapes[1]}",
                    "the optimizer's order is not the model's: read it live: read_optimizer(optimizer, model)",
                )
    return found


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept for a parameter, or a group's settings: tensors as arrays, those of one number as that number."""
    return {str(name): _plain(each) for name, each in value.items()}


def _plain(value: Any) -> Any:
    if not archive.is_tensor(value):
        return value
    array = np.asarray(archive.array(value))
    return array.item() if array.ndim == 0 else array
