"""What is asserted of a case: the checks of `lstmbridge.testing`, each by its name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import pytest
import runtimes
from cases import FAITHFUL, Case
from known import known
from runtimes import placed, plain
from stated import matches, stated

from lstmbridge import Layer, convert, registry
from lstmbridge.arrays import host
from lstmbridge.checking import Agreement
from lstmbridge.errors import BridgeError, Unsupported
from lstmbridge.optimizers import OptimizerState
from lstmbridge.pipeline import migrate
from lstmbridge.reading import read_all
from lstmbridge.testing import (
    SEQUENCES,
    check_complete,
    check_device,
    check_dtype,
    check_forward,
    check_gradients,
    check_handover,
    check_owns_memory,
    check_refusal,
    check_round_trip,
    check_structure,
    has_gradients,
    telling_layer,
)

Check = tuple[str, Callable[[], object]]

#: What two features at once are asked for.
BRIEF = ("refusal", "forward", "round_trip")

#: What every layer is run on; two features at once on the last.
USUAL = ("full", "lengths")

#: The orientations in which some frameworks take sequences, as the conversion is asked for them.
ORIENTED: Mapping[str, Mapping[str, Any]] = {"batch-first": {"batch_first": True}, "time-major": {"batch_first": False}}


#: Optimizers that both frameworks compute alike in float64: settings that float32 holds, since Keras takes them through
#: it, and an epsilon that is nothing, since each adds it elsewhere.
_SAME: Mapping[str, Any] = {"beta_1": 0.875, "beta_2": 1 - 2**-7, "epsilon": 1e-30}
OPTIMIZERS: Mapping[str, OptimizerState] = {
    name: OptimizerState(kind=kind, learning_rate=rate, settings=settings)
    for name, kind, rate, settings in (
        ("sgd", "sgd", 2**-4, {}),
        ("sgd-decayed", "sgd", 2**-4, {"weight_decay": 0.125}),
        ("sgd-momentum", "sgd", 2**-4, {"momentum": 0.875}),
        ("sgd-nesterov", "sgd", 2**-4, {"momentum": 0.875, "nesterov": True}),
        ("adam", "adam", 2**-7, _SAME),
        ("adam-amsgrad", "adam", 2**-7, {**_SAME, "amsgrad": True}),
        ("adamw", "adam", 2**-7, {**_SAME, "weight_decay": 0.125}),
        ("rmsprop", "rmsprop", 2**-7, {"rho": 0.875, "epsilon": 1e-30}),
        ("rmsprop-momentum", "rmsprop", 2**-7, {"rho": 0.875, "momentum": 0.5, "epsilon": 1e-30}),
        ("rmsprop-centered", "rmsprop", 2**-7, {"rho": 0.875, "momentum": 0.5, "centered": True, "epsilon": 1e-30}),
        ("adagrad", "adagrad", 2**-5, {"epsilon": 1e-30}),
    )
}


class Prepared:
    """A case's layer, as an object of the source and of the target; each made when it is first asked for."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.options: dict[str, Any] = {"faithful": True}
        self.written: Mapping[str, Any] = {}
        self.sequences = USUAL
        self.layer = telling_layer(case.spec, dtype=case.dtype)

    def new_source(self) -> Any:
        """Another object of the source with the same weights, for a check that writes into it."""
        name = plain(self.case.source)
        return placed(name, convert(self.layer, to=name, faithful=True))

    @cached_property
    def source(self) -> Any:
        return self.new_source()

    @cached_property
    def migration(self) -> Any:
        return migrate(self.source, to=plain(self.case.target), **self.options, **self.written)

    @cached_property
    def target(self) -> Any:
        return placed(plain(self.case.target), self.migration.result)

    def forward(self, sequence: str) -> Agreement:
        """Both sides on one kind of sequences."""
        same = self.case.same_kernel and sequence in ("full", "zero states", "one step", "one sequence")
        given = {**SEQUENCES[sequence], "tolerance": runtimes.TOLERANCE}
        return check_forward(self.source, self.target, same_kernel=same, **given)

    def does_not_run(self) -> None:
        """A side that does not compute the dtype says so. Errors: AssertionError if it computes, or is silent."""
        reason = self.case.not_computed
        try:
            check_forward(self.source, self.target, **SEQUENCES["lengths"])
        except Unsupported as error:
            if reason is None or reason not in str(error):
                raise AssertionError(f"expected {reason!r}, found {error}") from error
            return
        raise AssertionError(f"expected that it does not run: {reason}")


def checks(made: Prepared) -> Iterator[Check]:
    """Every check that applies to a case, in the order in which they are worth reading."""
    case = made.case
    source, target = plain(case.source), plain(case.target)
    if case.refused_by_source:
        yield "refusal", lambda: check_refusal(made.layer, source, reason=str(case.refused_by_source))
        if source not in FAITHFUL:
            return
    if case.refused_by_target:
        yield "refusal", lambda: check_refusal(made.source, target, reason=str(case.refused_by_target))
        if target not in FAITHFUL:
            return
    if case.dtype == "bfloat16" and target == "onnx":
        made.options = {"faithful": True, "opset": 22}
    if case.sequence:
        yield _on_sequence(made)
        return
    yield from _converted(made, source, target)
    yield from _computed(made)


def _on_sequence(made: Prepared) -> Check:
    """The one check of a case that is about its sequences."""
    name = made.case.sequence
    if name == "cut anywhere":
        return "handover", lambda: check_handover(made.source, made.target, tolerance=runtimes.TOLERANCE)
    if name in ORIENTED:
        made.written = ORIENTED[name]
        return "forward", lambda: made.forward("lengths")
    return "forward", lambda: made.forward(name)


def _converted(made: Prepared, source: str, target: str) -> Iterator[Check]:
    """What is asked of the conversion alone."""
    if made.case.dtype == "float32":
        second = None if made.case.refused_by_target else statement(target)
        yield "structure", lambda: check_structure(made.case.spec, source, target, stated=second, **made.options)
    yield "round_trip", lambda: check_round_trip(made.source, target, **made.options)
    yield "complete", lambda: check_complete(made.source, target, **made.options)
    yield "dtype", lambda: check_dtype(made.source, target, **made.options)
    yield "device", lambda: check_device(made.source, target, **made.options)
    yield "owns_memory", lambda: check_owns_memory(made.new_source(), target, **made.options)


def _computed(made: Prepared) -> Iterator[Check]:
    """What is asked of what both sides compute."""
    if made.case.not_computed:
        yield "forward", made.does_not_run
        return
    for sequence in made.sequences:
        yield "forward", lambda sequence=sequence: made.forward(sequence)  # type: ignore[misc]
    if made.case.dtype in ("float32", "float64") and any(
        has_gradients(plain(n)) for n in (made.case.source, made.case.target)
    ):
        yield "gradients", lambda: check_gradients(made.source, made.target, tolerance=runtimes.TOLERANCE)


def statement(framework: str) -> Callable[[Any, Layer], Iterator[tuple[str, Any, Any]]]:
    """The second statement of a framework's layout, as `check_structure` takes it."""

    def compare(obj: Any, layer: Layer) -> Iterator[tuple[str, Any, Any]]:
        alone = set(read_all(obj).left_alone)
        tensors = registry.framework(framework).live.tensors(obj)  # type: ignore[attr-defined]
        found = {name: host(array) for name, array in tensors.items() if name not in alone}
        for name, array, expected in matches(framework, found, stated(framework, layer)):
            assert array is not None, f"no array {name}"
            assert expected is not None, f"{name} is nothing of {framework}'s"
            yield name, array, expected

    return compare


# ---- a case, and its line in the report


def run(case: Case, record: Callable[..., None], suite: str, *, brief: bool = False) -> None:
    """Every check of the case (with `brief` those of `BRIEF`), and a line in the report whatever comes of it."""
    started = time.monotonic()
    line = {"kind": "case", "id": case.id, "suite": suite, "cell": case.cell, "features": list(case.features),
            "source": case.source, "target": case.target, "dtype": case.dtype, "device": runtimes.DEVICE}  # fmt: skip
    skip_if_missing(line, record)
    spoilt, done, made = known(case.id), _Done(), Prepared(case)
    made.sequences = USUAL[-1:] if brief else USUAL
    try:
        for name, check in checks(made):
            if not brief or name in BRIEF:
                done.name = name
                done.note(check())
    except Exception as error:  # a crash is a failure of this case like any other, and has its line in the report
        expected = isinstance(error, BridgeError) and spoilt is not None and spoilt.says in str(error)
        reason = spoilt.reason if spoilt is not None and expected else f"{done.name}: {error}"
        record(**line, outcome="known" if expected else "failed", reason=reason, checks=done.names)
        if not expected:
            raise
        return
    if case.source == "gates" and not case.refused and not case.sequence:
        done.notes = list(made.migration.targets[0].notes)
    assert done.names, "a case asserts something"
    if spoilt is not None:
        record(**line, outcome="failed", reason=f"agrees, and {spoilt.id} says it would not", checks=done.names)
        raise AssertionError(f"{case.id} agrees: take {spoilt.id} out of known.toml, or narrow its pattern")
    record(
        **line,
        **({"notes": done.notes} if done.notes else {}),
        outcome="refused" if case.refused else "agrees",
        reason=case.refused or (case.not_computed and f"not run: {case.not_computed}") or "",
        module="faithful" if case.refused_by_target and not case.refused else "stock",
        checks=done.names,
        seconds=round(time.monotonic() - started, 3),
        **figures(done.agreements),
    )


def skip_if_missing(line: Mapping[str, Any], record: Callable[..., None]) -> None:
    """Skips a case, and says so in the report, if a package is not installed that it needs."""
    lacking = [package for side in ("source", "target") if (package := runtimes.missing(line[side]))]
    if lacking:
        record(**line, outcome="skipped", reason=f"{lacking[0]} is not installed", checks=[])
        pytest.skip(f"{lacking[0]} is not installed")


class _Done:
    """The checks that passed so far, and what they found."""

    def __init__(self) -> None:
        self.name = ""
        self.names: list[str] = []
        self.agreements: list[Agreement] = []
        self.notes: list[str] = []

    def note(self, found: object) -> None:
        """The check named last has passed."""
        self.names += [] if self.name in self.names else [self.name]
        self.agreements += [found] if isinstance(found, Agreement) else []


def figures(agreements: Iterable[Agreement]) -> dict[str, dict[str, float]]:
    """The largest differences of all agreements, absolute and in units of the last place."""
    rows = [row for agreement in agreements for row in agreement.rows]
    if not rows:
        return {}
    pairs = {"source": "a_reference", "target": "b_reference", "both": "a_b"}
    error = {name: max(getattr(row, pair).largest for row in rows) for name, pair in pairs.items()}
    ulp = {
        name: max((getattr(row, pair).largest / row.ulp for row in rows if not math.isnan(row.ulp)), default=0.0)
        for name, pair in pairs.items()
    }
    return {"error": error, "ulp": {name: round(value, 3) for name, value in ulp.items()}}
