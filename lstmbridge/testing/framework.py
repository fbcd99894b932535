"""All checks on one framework, over the whole grid of cells and features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from lstmbridge import registry
from lstmbridge.errors import BridgeError, Disagreement, Unsupported
from lstmbridge.fit import refusals
from lstmbridge.pipeline import convert, read
from lstmbridge.spec import Spec
from lstmbridge.testing.converting import (
    check_complete,
    check_device,
    check_dtype,
    check_owns_memory,
    check_refusal,
    check_round_trip,
)
from lstmbridge.testing.grid import FEATURES, SEQUENCES, combinations
from lstmbridge.testing.running import check_forward, check_gradients, check_handover, has_gradients
from lstmbridge.testing.structure import Stated, check_structure
from lstmbridge.testing.weights import telling_layer

__all__ = ["Outcome", "Result", "check_framework"]

#: What every layer is run on; and the features with which a layer is run on everything.
USUAL = ("full", "lengths")
EVERY_SEQUENCE = (("plain",), ("reverse",), ("reverse-as-processed",), ("bidirectional",))


@dataclass(frozen=True)
class Outcome:
    """What one check said of one case.

    case    cell and features, and from where to where, e.g. ``lstm-no-bias / gates->toy``
    check   its name
    status  ``held``, ``failed``, or ``not run``: the framework's `run` refuses such sequences
    text    why not
    """

    case: str
    check: str
    status: str
    text: str = ""


@dataclass(frozen=True)
class Result:
    """What all checks said of a framework."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """Those that failed."""
        return tuple(each for each in self.outcomes if each.status == "failed")

    def demand(self) -> Result:
        """Itself. Errors: Disagreement with every failure."""
        if self.failures:
            lines = [f"{each.case}: {each.text}" for each in self.failures]
            raise Disagreement(f"{self.name}: {len(self.failures)} checks failed", *lines)
        return self

    def __str__(self) -> str:
        held = Counter(each.check for each in self.outcomes if each.status == "held")
        lines = [f"{self.name}: {sum(held.values())} checks held, {len(self.failures)} failed"]
        lines += [f"  {check}: {count}" for check, count in held.items()]
        reasons = Counter(each.text for each in self.outcomes if each.status == "not run")
        lines += [f"  not run ({count}): {text}" for text, count in reasons.items()]
        return "\n".join(lines + [f"  FAILED {each.case}: {each.text}" for each in self.failures])


def check_framework(
    name: str,
    *,
    dtype: str = "float32",
    features: Collection[str] = FEATURES,
    stated: Stated | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Every check on every cell and feature, to the framework and from it: whoever registered it.

    name      as its entry point names it
    dtype     of the weights
    features  only these of `lstmbridge.testing.FEATURES`
    stated    a second statement of its layout, for `check_structure`
    progress  called as (what, done, total) on the way

    What its `HOLDS` says it can hold must be converted and agree; anything else must be refused by name. Sequences that
    its `run` refuses count as not run, and the result says so. Errors: UnknownName for a framework that is not there.

    >>> check_framework("gates", features=["no-bias"]).failures
    ()
    """
    holds = registry.framework(name).layout.HOLDS
    grid = [case for case in combinations(1) if case[1][0] in features]
    outcomes: list[Outcome] = []
    for number, (cell, chosen, spec) in enumerate(grid):
        case = f"{cell}-{'+'.join(chosen)}"
        if progress is not None:
            progress(case, number, len(grid))
        reasons = refusals(spec, holds)
        if reasons:
            words = reasons[0].text
            made = telling_layer(spec, dtype=dtype)
            outcomes.append(_outcome(f"{case} / gates->{name}", "refusal", check_refusal, made, name, reason=words))
        else:
            outcomes += _held(case, chosen, spec, name, dtype, stated)
    return Result(name, tuple(outcomes))


def _held(
    case: str, features: tuple[str, ...], spec: Spec, name: str, dtype: str, stated: Stated | None
) -> Iterator[Outcome]:
    """All checks of a layer that the framework holds: into it, out of it, and from it to itself."""
    for source, target in (("gates", name), (name, "gates"), (name, name)):
        label = f"{case} / {source}->{target}"

        def made(source: str = source) -> Any:
            return convert(telling_layer(spec, dtype=dtype), to=source)

        witness = stated if target == name else None
        yield _outcome(label, "structure", check_structure, spec, source, target, stated=witness)
        yield from _run(label, made(), target, features in EVERY_SEQUENCE)
        for check, test in (
            ("round_trip", check_round_trip),
            ("owns_memory", check_owns_memory),
            ("device", check_device),
            ("dtype", check_dtype),
            ("complete", check_complete),
        ):
            yield _outcome(label, check, test, made(), target)


def _run(label: str, source: Any, target: str, tries_all: bool) -> Iterator[Outcome]:
    """What has to be run: forward on all sequences, a state handed over, gradients."""
    made = convert(source, to=target)
    directions = read(source)[0].spec.directions
    for sequence, given in SEQUENCES.items():
        if sequence not in USUAL and not tries_all:
            continue
        yield _outcome(f"{label} / {sequence}", "forward", check_forward, source, made, **given)
    if directions == ("forward",):
        yield _outcome(f"{label} / handed over", "handover", check_handover, source, made)
    if has_gradients(registry.of_object(source).name) or has_gradients(target):
        yield _outcome(label, "gradients", check_gradients, source, made)


def _outcome(case: str, check: str, test: Callable[..., object], *args: Any, **kwargs: Any) -> Outcome:
    try:
        test(*args, **kwargs)
    except Unsupported as error:
        return Outcome(case, check, "not run", error.headline)
    except (BridgeError, AssertionError) as error:
        return Outcome(case, check, "failed", str(error))
    return Outcome(case, check, "held")
