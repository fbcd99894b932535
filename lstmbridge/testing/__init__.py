"""The conformance checks, by name, for anybody's framework: nothing here needs pytest.

Each check raises `lstmbridge.errors.Disagreement` with what is wrong, in words, and otherwise says nothing.

    check_structure     every number stands where it belongs; what does not is named
    check_forward       source, target and the float64 equations give the same outputs and states
    check_handover      a state handed over in mid-sequence goes on as if nothing had happened
    check_round_trip    there and back, bit for bit, with all metadata
    check_gradients     gradients of weights and inputs agree, mapped through the same layout
    check_training      both sides have the same losses and weights, step by step, also when one goes on for the other
    check_refusal       what cannot be held is refused, and the refusal says why
    check_owns_memory   nothing that is written into the result changes the source, nor the other way round
    check_device        the result is where the source is, and nothing went over the host
    check_dtype         nothing is cast that was not asked for
    check_complete      every array is read once and every number written once
    check_framework     all of them, over the whole grid, for a framework by its name
"""

from __future__ import annotations

from lstmbridge.testing.converting import (
    check_complete,
    check_device,
    check_dtype,
    check_owns_memory,
    check_refusal,
    check_round_trip,
)
from lstmbridge.testing.framework import Outcome, Result, check_framework
from lstmbridge.testing.grid import CELLS, FEATURES, SEQUENCES, combinations, spec_of
from lstmbridge.testing.running import (
    GRADIENT_TOLERANCE,
    check_forward,
    check_gradients,
    check_handover,
    has_gradients,
)
from lstmbridge.testing.structure import check_structure
from lstmbridge.testing.training import check_training
from lstmbridge.testing.weights import labelled_layer, telling_layer

__all__ = [
    "CELLS",
    "FEATURES",
    "GRADIENT_TOLERANCE",
    "SEQUENCES",
    "Outcome",
    "Result",
    "check_complete",
    "check_device",
    "check_dtype",
    "check_forward",
    "check_framework",
    "check_gradients",
    "check_handover",
    "check_owns_memory",
    "check_refusal",
    "check_round_trip",
    "check_structure",
    "check_training",
    "combinations",
    "has_gradients",
    "labelled_layer",
    "spec_of",
    "telling_layer",
]
