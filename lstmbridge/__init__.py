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

from lstmbridge.check import Agreement, check, diff
from lstmbridge.errors import BridgeError
from lstmbridge.layer import Layer
from lstmbridge.notation import Layout
from lstmbridge.pipeline import Migration, convert, edit, from_arrays, migrate, read, write
from lstmbridge.remainder import Remainder
from lstmbridge.spec import Activation, Spec

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Agreement",
    "BridgeError",
    "Layer",
    "Layout",
    "Migration",
    "Remainder",
    "Spec",
    "check",
    "convert",
    "diff",
    "edit",
    "from_arrays",
    "migrate",
    "read",
    "write",
]
