"""Every ordered pair of frameworks, every cell and feature: it agrees, or it is refused by name; both are asserted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from cases import DTYPE_PAIRS, NOT_COMPUTED, REAL_PAIRS, Case, cases
from suite import run

DTYPES = ("float64", "float16", "bfloat16")

#: The features with which every dtype is tried in the quick set, too.
QUICK = ("dual-bias", "forget-constant")


def parametrized(found: Iterable[Case]) -> Any:
    return pytest.mark.parametrize("case", list(found), ids=str)


@parametrized(cases(1))
def test_one_feature(case: Case, record: Any) -> None:
    run(case, record, "pairs")


@parametrized(case for dtype in DTYPES for case in cases(1, dtype, DTYPE_PAIRS) if case.features[0] in QUICK)
def test_other_dtypes_quick(case: Case, record: Any) -> None:
    run(case, record, "pairs")


@pytest.mark.slow
@parametrized(case for dtype in DTYPES for case in cases(1, dtype, DTYPE_PAIRS) if case.features[0] not in QUICK)
def test_other_dtypes(case: Case, record: Any) -> None:
    run(case, record, "pairs")


@pytest.mark.slow
@parametrized(cases(2, pairs=REAL_PAIRS))
def test_two_features(case: Case, record: Any) -> None:
    run(case, record, "two features", brief=True)


def test_what_is_not_computed_is_known() -> None:
    assert all(dtype in DTYPES for _, dtype in NOT_COMPUTED)
