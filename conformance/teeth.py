"""How a mutant breaks the converter, what it is tried on, and which checks notice.

    killers(mutant)    # {"structure": "check_structure: ...", ...}: what each check that noticed said

`wrapped`, `relaid` and their kind give a context in which something of the converter is another: the mutants
(mutants.py) are made of them.
"""

from __future__ import annotations

import functools
import itertools
import pkgutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cases import Case
from refused import refused
from runtimes import KERAS
from suite import OPTIMIZERS, Prepared, checks

from lstmbridge import Spec, convert
from lstmbridge.errors import BridgeError
from lstmbridge.notation import Layout
from lstmbridge.statenotation import StateLayout
from lstmbridge.testing import (
    SEQUENCES,
    check_complete,
    check_forward,
    check_owns_memory,
    check_refusal,
    check_round_trip,
    check_training,
    spec_of,
    telling_layer,
)

__all__ = [
    "ROOMS",
    "Apply",
    "Crossed",
    "Mutant",
    "Tried",
    "after",
    "attributes",
    "constant",
    "entries",
    "exchanged",
    "failures",
    "holding",
    "killers",
    "mutants_of",
    "of_cell",
    "packed",
    "relaid",
    "restated",
    "run_checks",
    "together",
    "tried",
    "wrapped",
]

Apply = Callable[[], AbstractContextManager[Any]]
ROOMS = "lstmbridge.frameworks"


# ---- what a mutant is tried on


@dataclass(frozen=True)
class Tried:
    """A layer of the grid on its way from one framework to another.

    suffix  the target is a file of that suffix
    form    ``layer``; ``stack``: two of them, one reading the other; ``beside``: one beside a dense layer
    optimizer  it is trained with that one of `suite.OPTIMIZERS`
    """

    cell: str
    features: tuple[str, ...]
    source: str
    target: str
    suffix: str = ""
    form: str = "layer"
    optimizer: str = ""

    def __str__(self) -> str:
        what = f"{self.cell}-{'+'.join(self.features)}" + f" {self.form}" * (self.form != "layer")
        trained = f" / {self.optimizer}" if self.optimizer else ""
        return f"{what} / {self.source}->{self.target}{self.suffix}{trained}"

    @property
    def spec(self) -> Spec:
        """What the layer computes."""
        found = spec_of(self.cell, self.features)
        assert found is not None, self
        return found

    def case(self, sequence: str = "") -> Case:
        """The same as a case of the suite."""
        source, target = (KERAS if name == "keras" else name for name in (self.source, self.target))
        return Case(self.cell, self.features, source, target, "float32", self.spec, sequence)

    def made(self) -> Any:
        """The object of the source framework, anew."""
        first = telling_layer(self.spec, path="enc", metadata={"comment": "kept"})
        if self.form != "stack":
            obj = convert(first, to=self.source, faithful=True)
            return _BESIDE[self.source](obj) if self.form == "beside" else obj
        inner = self.spec.replace(input_size=self.spec.output_size)
        second = telling_layer(inner, seed=1, path="enc", level=1, after="enc.l0")
        return convert((first.replace(level=0), second), to=self.source, faithful=True)


def tried(cell: str, features: str, to: str, source: str = "gates", form: str = "layer") -> Tried:
    """What its words say: features are joined by +, a suffix is part of `to`, e.g. ``torch.safetensors``."""
    target, dot, suffix = to.partition(".")
    return Tried(cell, tuple(features.split("+")), source, target, dot + suffix, form)


def _beside_torch(module: Any) -> Any:
    import torch

    whole = torch.nn.Module()
    whole.enc, whole.head = module, torch.nn.Linear(11, 3)
    return whole


def _beside_keras(layer: Any) -> Any:
    import keras

    return keras.Sequential([keras.Input((None, 5)), layer, keras.layers.Dense(3, bias_initializer="glorot_uniform")])


def _beside_onnx(model: Any) -> Any:
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(7).normal(size=(11, 3)).astype("float32")
    model.graph.initializer.append(numpy_helper.from_array(weights, "head"))
    model.graph.node.append(helper.make_node("MatMul", [model.graph.output[0].name, "head"], ["logits"]))
    return model


_BESIDE = {"torch": _beside_torch, "keras": _beside_keras, "onnx": _beside_onnx}


# ---- the checks


def run_checks(what: Tried) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every check that applies, by name: those of the suite; for files, stacks and models what goes for them."""
    if what.form == "layer" and not what.suffix and not what.optimizer:
        yield from checks(Prepared(what.case()))
        if what.spec.directions == ("forward",):
            yield from checks(Prepared(what.case("cut anywhere")))
    elif what.optimizer:
        yield "training", lambda: _trained(what)
    elif what.suffix:
        yield from _of_file(what)
    else:
        yield from _of_several(what)


def _trained(what: Tried) -> None:
    """A few steps in float64."""
    layer = telling_layer(what.spec, dtype="float64")
    check_training([layer], what.source, what.target, OPTIMIZERS[what.optimizer], steps=4, resumed=2)


def _of_file(what: Tried) -> Iterator[tuple[str, Callable[[], object]]]:
    reason = refused(what.target, what.spec)
    if reason is not None:
        yield "refusal", lambda: _into_file(what, functools.partial(check_refusal, reason=reason))
    else:
        yield "forward", lambda: _into_file(what, _forward_of_file)
        yield "round_trip", lambda: _into_file(what, check_round_trip)


def _into_file(what: Tried, check: Callable[..., object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(what.made(), path=Path(folder) / f"model{what.suffix}")


def _forward_of_file(source: Any, path: Path) -> None:
    check_forward(source, convert(source, path=path), **SEQUENCES["full"])


def _of_several(what: Tried) -> Iterator[tuple[str, Callable[[], object]]]:
    for given in (SEQUENCES["full"], SEQUENCES["lengths"]):
        yield "forward", functools.partial(_forward, what, given)
    if what.form == "stack":  # of a model only the recurrent layer comes back
        yield "round_trip", lambda: check_round_trip(what.made(), what.target, faithful=True)
    yield "complete", lambda: check_complete(what.made(), what.target, faithful=True)
    yield "owns_memory", lambda: check_owns_memory(what.made(), what.target, faithful=True)


def _forward(what: Tried, given: Mapping[str, Any]) -> None:
    source = what.made()
    check_forward(source, convert(source, to=what.target, faithful=True), **given)


def failures(cases: Iterable[Tried]) -> dict[str, str]:
    """The checks that fail on these cases, each with the first line of what it said first.

    Every check runs. The hint at a likely cause, which costs more than the check, is left out. An error that is not the
    project's own is no answer of a check: it is raised.
    """
    said: dict[str, str] = {}
    with mock.patch("lstmbridge.testing.running.causes", return_value=()):
        for name, check in itertools.chain.from_iterable(map(run_checks, cases)):
            try:
                check()
            except (BridgeError, AssertionError) as error:
                said.setdefault(name, str(error).partition("\n")[0])
    return said


# ---- how the converter is broken


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    name   what is wrong, in words
    area   what it is about
    apply  gives a context in which the converter is broken so
    cases  what it is tried on: such that the mistake is in play
    only   the one check that notices it; "" where there may be several
    """

    name: str
    area: str
    apply: Apply
    cases: tuple[Tried, ...]
    only: str = ""


def mutants_of(area: str) -> Callable[..., Mutant]:
    """Makes mutants of one area from (name, apply, *cases)."""

    def new(name: str, apply: Apply, *cases: Tried, only: str = "") -> Mutant:
        return Mutant(name, area, apply, cases, only)

    return new


def killers(mutant: Mutant) -> dict[str, str]:
    """The checks that notice a mutant, each with the first line of what it said."""
    with mutant.apply():
        return failures(mutant.cases)


def wrapped(name: str, change: Callable[..., Any]) -> Apply:
    """What stands under a dotted name is ``change(original, *args, **kwargs)``."""

    @contextmanager
    def apply() -> Iterator[None]:
        original = pkgutil.resolve_name(name)

        def changed(*args: Any, **kwargs: Any) -> Any:
            return change(original, *args, **kwargs)

        with mock.patch(name, changed):
            yield

    return apply


def after(name: str, change: Callable[[Any], Any]) -> Apply:
    """What the function under a dotted name gives is changed."""
    return wrapped(name, lambda original, *args, **kwargs: change(original(*args, **kwargs)))


def constant(name: str, value: Any) -> Apply:
    """What stands under a dotted name is another value."""
    return lambda: mock.patch(name, value)


def together(*parts: Apply) -> Apply:
    """Several changes at once."""

    @contextmanager
    def apply() -> Iterator[None]:
        for part in parts:
            with part():  # imports what it changes: a module that was imported amid changes would keep them
                pass
        with ExitStack() as undo:
            for part in parts:
                undo.enter_context(part())
            yield

    return apply


def entries(name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Apply:
    """Some entries of the dict under a dotted name are others."""

    @contextmanager
    def apply() -> Iterator[None]:
        found = pkgutil.resolve_name(name)
        with mock.patch.dict(found, change(found)):
            yield

    return apply


def relaid(
    framework: str,
    cell: str,
    *,
    gates: str | None = None,
    text: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    directions: Mapping[str, str] | None = None,
    kind: type[Layout] = Layout,
) -> Apply:
    """A framework's layout of a cell has other gates, texts or keys of its lines, or is of another kind."""
    texts, names = text or {}, keys or {}

    def other(layouts: Mapping[str, Layout]) -> Mapping[str, Layout]:
        old = layouts[cell]
        assert set(texts) <= {line.text for line in old.lines}, texts
        assert set(names) <= {line.key for line in old.lines}, names
        lines = [(names.get(line.key, line.key), texts.get(line.text, line.text)) for line in old.lines]
        said = gates or " ".join("-" * (old.signs[gate] < 0) + gate for gate in old.gates)
        turned = directions or old.directions
        return {cell: kind(said, *lines, directions=turned, gate_names=old.gate_names)}

    return entries(f"{ROOMS}.{framework}.layout.LAYOUTS", other)


def exchanged(one: str, other: str, among: str = "") -> type[Layout]:
    """A Layout in which two words of the weights' names stand for one another, where `among` is part of the name."""
    words = {one: other, other: one}

    class Exchanged(Layout):
        def places(self, spec: Spec, level: int = 0) -> dict[str, Any]:
            found = super().places(spec, level)

            def moved(name: str) -> str:
                return ".".join(words.get(word, word) for word in name.split(".")) if among in name else name

            return {name: found[moved(name)] if moved(name) in found else found[name] for name in found}

    return Exchanged


def restated(
    framework: str,
    form: str,
    *,
    text: Mapping[str, str] | None = None,
    turned: bool = False,
    kind: type[StateLayout] = StateLayout,
) -> Apply:
    """A framework's form of states has other texts of its lines, or the lines in the other order, or is of another
    kind."""
    texts = text or {}

    def other(forms: Mapping[str, Any]) -> Mapping[str, Any]:
        old = forms[form].layout
        assert set(texts) <= {line.text for line in old.lines}, texts
        lines = [(line.key, texts.get(line.text, line.text)) for line in old.lines]
        return {form: replace(forms[form], layout=kind(*lines[:: -1 if turned else 1]))}

    return entries(f"{ROOMS}.{framework}.layout.STATES", other)


class Crossed(StateLayout):
    """A StateLayout in which the directions stand for one another."""

    def places(self, specs: Any, batch: int = 1) -> list[dict[str, Any]]:
        words = {"forward": "reverse", "reverse": "forward"}
        found = super().places(specs, batch)
        return [{f"{words[d]}.{part}": level[f"{d}.{part}"] for d, _, part in (n.partition(".") for n in level)}
                for level in found]  # fmt: skip


def packed(change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Apply:
    """Other weights are packed than those that were given."""
    return wrapped(
        "lstmbridge.notation.Layout.pack",
        lambda original, self, weights, spec, **level: original(
            self, {**weights, **change(dict(weights))}, spec, **level
        ),
    )


def holding(framework: str, field: str, change: Callable[[Any], Any]) -> Apply:
    """What a framework is said to hold differs in one field."""
    name = f"{ROOMS}.{framework}.layout.HOLDS"

    @contextmanager
    def apply() -> Iterator[None]:
        holds = pkgutil.resolve_name(name)
        with mock.patch(name, replace(holds, **{field: change(getattr(holds, field))})):
            yield

    return apply


def attributes(write: Callable[[dict[str, Any]], None], read: Callable[[Spec], Spec] = lambda spec: spec) -> Apply:
    """ONNX nodes are written with other attributes, and read as if they had not."""

    def written(original: Callable[[Spec], dict[str, Any]], spec: Spec) -> dict[str, Any]:
        found = original(spec)
        write(found)
        return found

    return together(
        wrapped(f"{ROOMS}.onnx.layout.attributes_of", written),
        after(f"{ROOMS}.onnx.layout.spec_of", read),
        after(f"{ROOMS}.onnx.reader.spec_of", read),
    )


def of_cell(**changes: Any) -> Apply:
    """The project's own torch module computes with other settings than its Spec says; a callable gets the Cell."""

    def other(cell: Any) -> Any:
        return cell._replace(**{key: value(cell) if callable(value) else value for key, value in changes.items()})

    return after(f"{ROOMS}.torch.faithful._cell", other)
