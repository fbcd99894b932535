"""lstmbridge moves recurrent weights between deep-learning frameworks, and proves that they compute the same.

>>> import lstmbridge, numpy as np
>>> rng = np.random.default_rng(0)
>>> layer = lstmbridge.Layer.from_gates(
...     kernel={gate: rng.normal(size=(3, 2)) for gate in "rzn"},
...     recurrent_kernel={gate: rng.normal(size=(3, 3)) for gate in "rzn"},
... )
>>> print(layer.spec)
gru 2 -> 3, no bias, reset after
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstmbridge.checking import Agreement, check
    from lstmbridge.difference import diff
    from lstmbridge.editing import edit
    from lstmbridge.errors import BridgeError
    from lstmbridge.handover import read_states, write_states
    from lstmbridge.initializers import initial_layer
    from lstmbridge.layer import Layer
    from lstmbridge.named import from_arrays, to_arrays
    from lstmbridge.notation import Layout
    from lstmbridge.pipeline import Migration, convert, migrate, write
    from lstmbridge.plotting import plot
    from lstmbridge.reading import read
    from lstmbridge.remainder import Remainder
    from lstmbridge.spec import Activation, Spec
    from lstmbridge.states import States
    from lstmbridge.summary import inspect
    from lstmbridge.training import migrate_optimizer, read_optimizer

__version__ = "0.1.0"

#: Where each public name lives; its module is imported when the name is first used.
_HOMES = {
    "Activation": "spec",
    "Agreement": "checking",
    "BridgeError": "errors",
    "Layer": "layer",
    "Layout": "notation",
    "Migration": "pipeline",
    "Remainder": "remainder",
    "Spec": "spec",
    "States": "states",
    "check": "checking",
    "convert": "pipeline",
    "diff": "difference",
    "edit": "editing",
    "from_arrays": "named",
    "initial_layer": "initializers",
    "inspect": "summary",
    "migrate": "pipeline",
    "migrate_optimizer": "training",
    "plot": "plotting",
    "read": "reading",
    "read_optimizer": "training",
    "read_states": "handover",
    "to_arrays": "named",
    "write": "pipeline",
    "write_states": "handover",
}

__all__ = [
    "Activation",
    "Agreement",
    "BridgeError",
    "Layer",
    "Layout",
    "Migration",
    "Remainder",
    "Spec",
    "States",
    "check",
    "convert",
    "diff",
    "edit",
    "from_arrays",
    "initial_layer",
    "inspect",
    "migrate",
    "migrate_optimizer",
    "plot",
    "read",
    "read_optimizer",
    "read_states",
    "to_arrays",
    "write",
    "write_states",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
