"""The canonical form as a layout: every index in the name, one array a gate."""

from __future__ import annotations

from lstmbridge.fit import FEATURES, Holds, any_activation
from lstmbridge.notation import Layout
from lstmbridge.spec import BIASES, CELLS, GATES, MERGES
from lstmbridge.statenotation import StateForm, StateLayout

__all__ = ["HOLDS", "LAYOUTS", "STATES"]

LAYOUTS = {
    cell: Layout(
        " ".join(GATES[cell]),
        ("{d}.kernel.{g}", "kernel : h i"),
        ("{d}.recurrent_kernel.{g}", "recurrent_kernel : h p"),
        ("{d}.bias.{g}", "bias : h"),
        ("{d}.recurrent_bias.{g}", "recurrent_bias : h"),
        *([("{d}.peephole.{g}", "peephole[i f o] : h"), ("{d}.projection", "projection : p h")] * (cell == "lstm")),
        source="lstmbridge.spec",
    )
    for cell in CELLS
}

STATES = {
    "names": StateForm(StateLayout(("{d}.h", "h : b p"), ("{d}.c", "c : b h"), source="lstmbridge.statenotation"), dict)
}

HOLDS = Holds(
    name="gates",
    bias=dict.fromkeys(CELLS, BIASES),
    activations=any_activation,
    directions=frozenset({("forward",), ("reverse",), ("forward", "reverse")}),
    merges=frozenset(MERGES),
    features=frozenset({*FEATURES, "forget constant"}),
)
