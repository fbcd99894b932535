"""The suite notices a broken converter: every mutant is killed, and each check has one that nobody else notices."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from mutants import MUTANTS
from official import Official, holds, noticed, official_cases
from teeth import Mutant, Tried, failures, killers

from lstmbridge import testing

#: The checks that the suite is made of, by name.
CHECKS = [name.removeprefix("check_") for name in testing.__all__ if name.startswith("check_")]
CHECKS.remove("framework")


def _parameters() -> Iterator[Any]:
    """Every mutant; those that are not the first of their area, and noticed by several checks, are for the full run."""
    seen: set[str] = set()
    for mutant in MUTANTS:
        quick = mutant.only or mutant.area not in seen
        seen.add(mutant.area)
        yield pytest.param(mutant, id=mutant.name, marks=[] if quick else [pytest.mark.slow])


@functools.cache
def _sound(where: Tried) -> dict[str, str]:
    """What fails without any mutant; nothing should."""
    return failures([where])


@pytest.mark.parametrize("mutant", list(_parameters()))
def test_every_mutant_is_killed(mutant: Mutant, record: Any) -> None:
    for where in mutant.cases:
        assert not _sound(where), f"{where} fails without the mutant"
    found = killers(mutant)
    record(kind="mutant", name=mutant.name, area=mutant.area, killed_by=list(found), official=noticed(mutant))
    assert found, f"no check notices it on {', '.join(map(str, mutant.cases))}"
    assert not mutant.only or list(found) == [mutant.only], found


def test_each_check_is_the_only_one_to_notice_some_mutant() -> None:
    idle = set(CHECKS) - {mutant.only for mutant in MUTANTS}
    assert not idle, f"no mutant is noticed by {', '.join(sorted(idle))} alone"


def test_there_are_mutants_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 120
    orders = [mutant.name for mutant in MUTANTS if mutant.area == "gate order"]
    assert len(orders) == 3 * (23 + 5), "every wrong order of an LSTM and of a GRU, on each side"


@pytest.mark.parametrize("case", official_cases(), ids=lambda case: case.name)
def test_the_official_cases_hold(case: Official) -> None:
    """Without a mutant, so that one that is noticed there is noticed for its mistake."""
    assert holds(case, ("gates", "torch", "keras", "onnx"))


def test_all_official_cases_are_there() -> None:
    assert {case.operator for case in official_cases()} == {"LSTM", "GRU", "RNN"}
    assert len(official_cases()) >= 18
