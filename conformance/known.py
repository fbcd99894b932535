"""Known disagreements of other people's software, read from known.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runtimes import BACKEND


@dataclass(frozen=True)
class Known:
    """One entry, as known.toml describes it."""

    id: str
    reason: str
    how: str
    cases: str = ""
    says: str = ""
    backend: str = ""

    def matches(self, case_id: str) -> bool:
        """Whether a case is spoilt by it."""
        here = self.backend in ("", BACKEND)
        return bool(self.cases) and here and re.fullmatch(self.cases, case_id) is not None


@cache
def entries() -> tuple[Known, ...]:
    """Every entry. Errors: TypeError for a field that is none."""
    text = (Path(__file__).parent / "known.toml").read_text(encoding="utf-8")
    return tuple(Known(**entry) for entry in tomllib.loads(text)["known"])


def known(case_id: str) -> Known | None:
    """The entry that a case is spoilt by, if there is one."""
    return next((entry for entry in entries() if entry.matches(case_id)), None)
