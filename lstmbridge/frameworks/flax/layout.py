"""The parameters of flax.linen's cells, what such layers can hold, and how they begin.

The names are those of a cell's parameters, joined by dots: ``ii.kernel``. A Bidirectional has two cells, each with all
of them. Source: flax/linen/recurrent.py (flax 0.12).
"""

from __future__ import annotations

from lstmbridge.distributions import Scheme, lecun_normal, orthogonal, zeros
from lstmbridge.fit import Holds
from lstmbridge.notation import Layout
from lstmbridge.spec import CELLS, MERGES, Spec

__all__ = ["HOLDS", "INITIAL", "LAYOUTS"]

_KERNELS = (("i{g}.kernel", "kernel : i h"), ("h{g}.kernel", "recurrent_kernel : p h"))

LAYOUTS = {
    "lstm": Layout(
        "i f g o", *_KERNELS, ("h{g}.bias", "bias : h"),
        source="flax/linen/recurrent.py: LSTMCell, OptimizedLSTMCell",
    ),
    "gru": Layout(
        "r z n", *_KERNELS, ("i{g}.bias", "bias : h"), ("h{g}.bias", "recurrent_bias[n] : h"),
        source="flax/linen/recurrent.py: GRUCell",
    ),
    "rnn": Layout(
        "n", *_KERNELS, ("i{g}.bias", "bias : h"), gate_names={"n": ""},
        source="flax/linen/recurrent.py: SimpleCell",
    ),
}  # fmt: skip

_PARTS = {"kernel": lecun_normal(), "recurrent_kernel": orthogonal(), "bias": zeros(), "recurrent_bias": zeros()}

#: The cells' ``kernel_init``, ``recurrent_kernel_init`` and ``bias_init``; no forget bias.
INITIAL = {cell: Scheme(_PARTS) for cell in CELLS}


def _activations(spec: Spec) -> str | None:
    """``gate_fn`` and ``activation_fn`` may be any function; an LSTM has one for candidate and output."""
    for direction in spec.directions:
        if spec.cell == "lstm" and spec.activation("candidate", direction) != spec.activation("output", direction):
            candidate, output = (spec.activation(role, direction) for role in ("candidate", "output"))
            return f"candidate activation {candidate} beside output activation {output}"
    return None


#: The cells, run by ``RNN`` (``reverse``, ``keep_order``) and ``Bidirectional`` (``merge_fn``).
HOLDS = Holds(
    name="flax",
    bias={"lstm": ("single",), "gru": ("dual",), "rnn": ("single",)},
    activations=_activations,
    directions=frozenset({("forward",), ("reverse",), ("forward", "reverse")}),
    merges=frozenset(MERGES),
    features=frozenset(
        {
            "reset after", "outputs as processed", "outputs of a reverse layer in forward time",
            "activations that differ by direction",
        }
    ),
)  # fmt: skip
