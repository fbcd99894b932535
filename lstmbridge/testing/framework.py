"""All checks on one framework, over the whole grid of cells and features."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from lstmbridge import registry
from lstmbridge.errors import BridgeError, Disagreement, LayoutError, MissingFramework, Unsupported, unknown
from lstmbridge.fit import refusals
from lstmbridge.pipeline import convert
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
from lstmbridge.testing.running import check_forward, check_gradients, check_handover
from lstmbridge.testing.side import Side
from lstmbridge.testing.structure import Stated, check_structure
from lstmbridge.testing.weights import telling_layer

__all__ = ["Outcome", "Result", "check_framework"]

#: What every layer is run on; and the features with which a layer is run on everything, and from every framework.
USUAL = ("full", "lengths")
THOROUGH = ("plain", "reverse", "reverse-as-processed", "bidirectional")

#: The checks that run something: a framework may refuse to.
RUNNING = ("forward", "handover", "gradients")

MOST = 10  # kinds of failures that a message tells


@dataclass(frozen=True)
class Outcome:
    """What one check said of one case.

    case    cell and feature, and from where to where, e.g. ``lstm-no-bias / gates->toy``
    check   its name
    status  ``held``, ``failed``, or ``not run``: the framework's `run` refuses such sequences
    text    why not
    """

    case: str
    check: str
    status: str
    text: str = ""

    @property
    def gist(self) -> str:
        """The last line of the text, where the likely cause stands: failures of one cause are counted together."""
        return self.text.splitlines()[-1].strip() if self.text else ""


@dataclass(frozen=True)
class Result:
    """What all checks said of a framework."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """Those that failed."""
        return tuple(each for each in self.outcomes if each.status == "failed")

    @property
    def converted(self) -> tuple[str, ...]:
        """The cells with features that it holds, as far as they were tried."""
        held = [each.case.partition(" / ")[0] for each in self.outcomes if each.check == "structure"]
        return tuple(dict.fromkeys(held))

    def demand(self) -> Result:
        """Itself. Errors: Disagreement for any failure, and where nothing was converted or nothing was run."""
        if self.failures:
            raise Disagreement(f"{self.name}: {len(self.failures)} checks failed", *self._kinds())
        if not any(each.check == "forward" and each.status == "held" for each in self.outcomes):
            what = "nothing was run" if self.converted else "nothing was converted: its HOLDS holds none of this"
            raise Disagreement(f"{self.name}: {what}", *str(self).splitlines())
        return self

    def _kinds(self) -> list[str]:
        """The failures, those of one cause together: how many, and the first of them in full."""
        kinds: dict[tuple[str, str], list[Outcome]] = {}
        for each in self.failures:
            kinds.setdefault((each.check, each.gist), []).append(each)
        ordered = sorted(kinds.values(), key=len, reverse=True)
        told = [f"{len(same)} x check_{same[0].check}: {same[0].case}: {same[0].text}" for same in ordered[:MOST]]
        return told + ([f"... and {len(ordered) - MOST} more kinds"] if len(ordered) > MOST else [])

    def __str__(self) -> str:
        held = Counter(each.check for each in self.outcomes if each.status == "held")
        refused = held.pop("refusal", 0)
        lines = [
            f"{self.name}: {sum(held.values())} checks held, {len(self.failures)} failed",
            f"  {len(self.converted)} layers converted, {refused} refused, as its HOLDS says",
            *(f"  {check}: {count}" for check, count in held.items()),
        ]
        reasons = Counter(each.text for each in self.outcomes if each.status == "not run")
        lines += [f"  not run ({count}): {text}" for text, count in reasons.items()]
        return "\n".join(lines + [f"  FAILED {line}" for line in self._kinds()])


def check_framework(
    name: str,
    *,
    dtype: str = "float32",
    features: Collection[str] = tuple(FEATURES),
    stated: Stated | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Every check on every cell and feature, to the framework and from it: whoever registered it.

    name      as its entry point names it
    dtype     of the weights
    features  only these of `lstmbridge.testing.FEATURES`
    stated    a second statement of its layout, for `check_structure`
    progress  called as (what, done, total) on the way

    What its `HOLDS` says it can hold must be converted and agree; anything else must be refused by name. The plain and
    the reverse layers run on every kind of sequences, and come from every other framework that is installed; the rest
    run on two kinds, and come from lstmbridge's own form. What its `run` refuses counts as not run, and the result says
    so; whatever else its rooms raise is a failure of that case. Errors: UnknownName for a framework or a feature that
    is not there.

    >>> check_framework("gates", features=["no-bias"]).failures
    ()
    """
    holds = registry.framework(name).layout.HOLDS
    grid = [case for case in combinations(1) if case[1][0] in _known(features)]
    outcomes: list[Outcome] = []
    for number, (cell, (feature,), spec) in enumerate(grid):
        case = f"{cell}-{feature}"
        if progress is not None:
            progress(case, number, len(grid))
        reasons = refusals(spec, holds)
        if reasons:
            test = partial(check_refusal, telling_layer(spec, dtype=dtype), name, reason=reasons[0].text)
            outcomes.append(_outcome(f"{case} / gates->{name}", "refusal", test))
        else:
            outcomes += _held(case, spec, name, dtype, stated, thorough=feature in THOROUGH)
    return Result(name, tuple(outcomes))


def _known(features: Collection[str]) -> Collection[str]:
    if isinstance(features, str):
        raise LayoutError(f"features is the text {features!r}", f"expected a list: [{features!r}]")
    for feature in features:
        if feature not in FEATURES:
            raise unknown("feature", feature, FEATURES)
    return features


def _held(case: str, spec: Spec, name: str, dtype: str, stated: Stated | None, *, thorough: bool) -> Iterator[Outcome]:
    """All checks of a layer that the framework holds: into it, out of it, and from it to itself."""
    layer = telling_layer(spec, dtype=dtype)
    for source, target in dict.fromkeys([("gates", name), (name, "gates"), (name, name)]):
        label, made = f"{case} / {source}->{target}", partial(convert, layer, source)
        witness = stated if target == name else None
        yield _outcome(label, "structure", partial(check_structure, spec, source, target, stated=witness))
        yield from _run(label, spec, made, target, thorough)
        yield from _converted(label, made, target)
    if thorough:
        yield from _from_others(case, spec, name, dtype)


def _converted(label: str, made: Callable[[], Any], target: str) -> Iterator[Outcome]:
    """What is asked of the conversion alone."""
    for check, test in (
        ("round_trip", check_round_trip),
        ("owns_memory", check_owns_memory),
        ("device", check_device),
        ("dtype", check_dtype),
        ("complete", check_complete),
    ):
        yield _outcome(label, check, partial(_of, made, test, target))


def _of(made: Callable[[], Any], test: Callable[[Any, str], None], target: str) -> None:
    """One check, on an object of its own."""
    test(made(), target)


def _run(label: str, spec: Spec, made: Callable[[], Any], target: str, thorough: bool) -> Iterator[Outcome]:
    """What has to be run: forward on some or all sequences, a state handed over, gradients."""

    def both() -> tuple[Any, Any]:
        source = made()
        return source, convert(source, to=target)

    for sequence, given in SEQUENCES.items():
        if thorough or sequence in USUAL:
            test = lambda given=given: check_forward(*both(), **given)  # noqa: E731
            yield _outcome(f"{label} / {sequence}", "forward", test)
    if spec.directions == ("forward",):
        yield _outcome(f"{label} / handed over", "handover", lambda: check_handover(*both()))
    yield _outcome(label, "gradients", lambda: _gradients(*both()))


def _gradients(source: Any, target: Any) -> None:
    """As `check_gradients`. Errors: Unsupported if nobody differentiates."""
    sides = [Side.of(source), Side.of(target)]
    if not any(side.differentiates for side in sides):
        names = " and ".join(dict.fromkeys(side.name for side in sides))
        raise Unsupported(f"no `gradients` in the live room of {names}", "add it to have them checked")
    check_gradients(source, target)


def _from_others(case: str, spec: Spec, name: str, dtype: str) -> Iterator[Outcome]:
    """The layer from every other framework that is installed and holds it: its arrays come in other namespaces."""
    for other in registry.names():
        room = registry.framework(other)
        if other in (name, "gates") or not room.has("live") or refusals(spec, room.layout.HOLDS):
            continue
        label = f"{case} / {other}->{name} / full"
        try:
            source = convert(telling_layer(spec, dtype=dtype), to=other)
        except (MissingFramework, Unsupported) as error:
            yield Outcome(label, "forward", "not run", error.headline)
            continue
        yield _outcome(label, "forward", partial(_forward, source, name))


def _forward(source: Any, to: str) -> None:
    check_forward(source, convert(source, to=to), **SEQUENCES["full"])


def _outcome(case: str, check: str, test: Callable[[], object]) -> Outcome:
    try:
        test()
    except Unsupported as error:
        if check in RUNNING:
            return Outcome(case, check, "not run", error.headline)
        return Outcome(case, check, "failed", f"refused, though its HOLDS says that it can be held: {error}")
    except (BridgeError, AssertionError) as error:
        return Outcome(case, check, "failed", str(error))
    except Exception as error:  # what a third party's room raises is an outcome of this case, and does not end the rest
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} in {at.name} ({at.filename}:{at.lineno}): {error}"
        return Outcome(case, check, "failed", text)
    return Outcome(case, check, "held")
