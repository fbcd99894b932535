"""Every ordered pair of frameworks, every cell and feature: it agrees, or it is refused by name; both are asserted.

Agrees means: the converted object, the source and the float64 equations give the same y, h and c within the one table
of tolerances, with full sequences and with lengths, from random initial states; and the target with the remainder gives
the source back bit for bit.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from cases import Case, cases

from helpers import layer_of
from lstmbridge import Layer, check, convert, migrate, read, registry
from lstmbridge.arrays import same_bits
from lstmbridge.checking import TOLERANCE
from lstmbridge.errors import Unsupported
from lstmbridge.fit import refusals

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")

#: Frameworks that compute in float64: Keras only on tensorflow, onnxruntime in none of these operators.
DOUBLE = {"torch", "gates"} | ({"keras"} if BACKEND == "tensorflow" else set())


def source_of(case: Case, dtype: str) -> tuple[Any, tuple[Layer, ...]] | None:
    """The case's layer as an object of the source framework; None if that refuses it, which is asserted."""
    made = layer_of(case.spec, dtype=dtype)
    if refusals(case.spec, registry.framework(case.source).layout.HOLDS):
        with pytest.raises(Unsupported, match=f"{case.source} cannot express"):
            convert(made, to=case.source)
        return None
    obj = convert(made, to=case.source)
    return obj, read(obj)


def agrees(case: Case, dtype: str) -> None:
    found = source_of(case, dtype)
    if found is None:
        return
    obj, [layer] = found
    target = registry.framework(case.target).layout
    if refusals(layer.spec, target.HOLDS):
        with pytest.raises(Unsupported, match=f"{case.target} cannot express"):
            convert(obj, to=case.target)
        if getattr(target, "FAITHFUL", None) is None:
            return
    done = migrate(obj, to=case.target, faithful=True)
    assert done.reports[0].verdict in ("exact", "reparameterised")
    for given in ({"batch": 2, "time": 7}, {"batch": 3, "time": 6, "lengths": [6, 2, 4], "seed": 1}):
        found = check(obj, done.result, **given).demand()
        assert {row.allowed for row in found.rows} == {TOLERANCE[dtype]}, "these weights are tame: no more is allowed"
    again = migrate(done.result, to=case.source, remainder=done.remainder)
    [restored] = read(again.result)
    assert restored.spec == layer.spec
    different = [name for name in layer if not same_bits(restored[name], layer[name])]
    assert not different, f"not restored bit for bit: {different}"
    for key in ("framework", "class", "batch_first"):
        assert restored.metadata.get(key) == layer.metadata.get(key)


@pytest.mark.parametrize("case", list(cases(1)), ids=str)
def test_float32(case: Case) -> None:
    agrees(case, "float32")


@pytest.mark.parametrize("case", [c for c in cases(1) if {c.source, c.target} <= DOUBLE], ids=str)
def test_float64(case: Case) -> None:
    agrees(case, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("case", list(cases(2)), ids=str)
def test_float32_two_features(case: Case) -> None:
    agrees(case, "float32")
