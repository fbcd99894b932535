"""Every subset of features that goes together, or a part of them: `--full`, `--full=0.001`. Too many for every day."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from cases import PAIRS, Case
from suite import run

from lstmbridge import Spec
from lstmbridge.testing import CELLS, combinations


@cache
def drawn(cell: str, fraction: float) -> tuple[tuple[tuple[str, ...], Spec], ...]:
    """The subsets of one cell's features, or that part of them, drawn with the same seed every time."""
    rng = random.Random(cell)
    found = (each[1:] for each in combinations(None) if each[0] == cell)
    return tuple((features, spec) for features, spec in found if rng.random() < fraction)


def subsets(cell: str, source: str, target: str, fraction: float) -> Iterator[Case]:
    for features, spec in drawn(cell, fraction):
        yield Case(cell, features, source, target, "float32", spec)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("cell", CELLS)
def test_subsets(cell: str, source: str, target: str, record: Any, request: pytest.FixtureRequest) -> None:
    fraction = request.config.getoption("--full")
    failed = []
    for case in subsets(cell, source, target, fraction):
        try:
            run(case, record, "subsets", brief=True)
        except AssertionError as error:
            failed.append(f"{case.id}: {error}")
    assert not failed, "\n".join(failed)
