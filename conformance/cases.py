"""The grid, as data: cells x features x ordered pairs of frameworks x dtypes x sequences, on the device of this run.

A case is what its id says, e.g. ``lstm-bidirectional / torch->keras[tensorflow] / float32 / cpu``. Whether it agrees or
is refused follows from its Spec, by the rules of `refused`, which share nothing with the converter's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import runtimes
from refused import refused
from runtimes import BACKEND, FRAMEWORKS, KERAS, plain

from lstmbridge import Spec
from lstmbridge.testing import CELLS, combinations, spec_of

_ALL = tuple(itertools.product(FRAMEWORKS, FRAMEWORKS))

#: Keras beside torch and beside itself: what a backend can change. On a GPU torch beside itself, too.
_CLOSE = ((KERAS, "torch"), ("torch", KERAS), (KERAS, KERAS))
_CLOSE += (("torch", "torch"),) if runtimes.DEVICE != "cpu" else ()

#: The pairs that this process runs: all of them where Keras runs on tensorflow, those with Keras where it runs on
#: torch, and the close ones on jax, which compiles everything anew.
PAIRS = {"tensorflow": _ALL, "torch": (*_CLOSE, *(pair for pair in _ALL if KERAS in pair and pair not in _CLOSE)),
         "jax": _CLOSE}[BACKEND]  # fmt: skip

#: Those that are run on every kind of sequences.
SEQUENCE_PAIRS = _ALL if BACKEND == "tensorflow" else _CLOSE

#: Every framework a source and a target of every other: what two features at once are run on.
REAL_PAIRS = tuple(itertools.permutations(FRAMEWORKS[:3], 2))

#: Those, and from the project's own form into each: what other dtypes than float32 are run on.
DTYPE_PAIRS = (*REAL_PAIRS, *(("gates", name) for name in FRAMEWORKS[:3])) if BACKEND == "tensorflow" else _CLOSE

#: Frameworks with a module of the project's own, for what their stock layers cannot hold.
FAITHFUL = ("keras", "torch")

#: What a runtime does not compute, though it can be converted: (framework, dtype), for every reason one.
NOT_COMPUTED = {
    ("keras[torch]", "float64"): "the torch backend computes float64 layers in float32",
    ("keras[jax]", "float64"): "become float32 on the jax backend",
    ("onnx", "float64"): "onnxruntime does not run float64",
    ("onnx", "bfloat16"): "onnxruntime does not run bfloat16",
}

#: Activations that no tolerance of half precision fits: rounding is amplified without bound.
WILD_IN_HALF = {"exponential": "grows with every step", "thresholded-relu": "jumps at its threshold"}

#: Features with which a layer is run on every kind of sequences.
EVERY_SEQUENCE = ("plain", "reverse", "reverse-as-processed", "bidirectional")


@dataclass(frozen=True)
class Case:
    """One layer, from one framework to another."""

    cell: str
    features: tuple[str, ...]
    source: str
    target: str
    dtype: str
    spec: Spec
    sequence: str = ""

    @property
    def id(self) -> str:
        """All of it in one line."""
        what = (
            f"{self.cell}-{'+'.join(self.features)} / {self.source}->{self.target} / {self.dtype} / {runtimes.DEVICE}"
        )
        return f"{what} / {self.sequence}" if self.sequence else what

    __str__ = id.fget  # type: ignore[assignment]

    @cached_property
    def refused_by_source(self) -> str | None:
        """Why no stock layer of the source holds it; None if one does."""
        return refused(plain(self.source), self.spec)

    @cached_property
    def refused_by_target(self) -> str | None:
        """Why no stock layer of the target holds it; None if one does."""
        return refused(plain(self.target), self.spec)

    @property
    def refused(self) -> str | None:
        """Why it cannot be converted at all: a side has neither a stock layer nor a module of ours for it."""
        if self.refused_by_source and plain(self.source) not in FAITHFUL:
            return self.refused_by_source
        return self.refused_by_target if plain(self.target) not in FAITHFUL else None

    @property
    def not_computed(self) -> str | None:
        """Why one of the two does not run it, though both can hold it; None if both do."""
        reasons = [NOT_COMPUTED.get((name, self.dtype)) for name in (self.source, self.target)]
        return next((reason for reason in reasons if reason), None)

    @property
    def same_kernel(self) -> bool:
        """Whether both sides run the very same software on the very same numbers, so that not a bit may differ.

        A framework beside itself; and on a GPU cuDNN's LSTM, which torch and Keras' torch and jax backends all run.
        (Two biases that are merged for Keras are other numbers.)
        """
        if self.source == self.target:
            return True
        fused = {self.source, self.target} <= {"torch", "keras[torch]", "keras[jax]"} and runtimes.DEVICE != "cpu"
        usual = Spec(cell="lstm", input_size=self.spec.input_size, hidden_size=self.spec.hidden_size)
        return fused and self.spec == usual and self.source != "torch"


def cases(count: int | None, dtype: str = "float32", pairs: Iterable[tuple[str, str]] = PAIRS) -> Iterator[Case]:
    """Every case with `count` features beside the cell: 1 for each alone, 2 for every pair, None for every subset."""
    wild = WILD_IN_HALF if dtype in ("float16", "bfloat16") else {}
    for cell, features, spec in combinations(count):
        if not wild.keys() & set(features):
            yield from (
                Case(cell, features, source, target, dtype, spec)
                for source, target in pairs
                if _held(dtype, source, target)
            )


def _held(dtype: str, source: str, target: str) -> bool:
    """Whether objects of both can have weights of that dtype at all (ONNX can from opset 22 on, when it is written)."""
    without = {("keras[jax]", "float64"), ("onnx", "bfloat16")}
    return (source, dtype) not in without and (target, dtype) != ("keras[jax]", "float64")


def sequence_cases(names: Iterable[str], dtype: str = "float32") -> Iterator[Case]:
    """Every cell, forward, reverse and both ways, on each of these sequences; long ones forward only."""
    for name, cell, feature, (source, target) in itertools.product(names, CELLS, EVERY_SEQUENCE, SEQUENCE_PAIRS):
        spec = spec_of(cell, (feature,))
        if spec is not None and (name != "long" or feature == "plain"):
            yield Case(cell, (feature,), source, target, dtype, spec, name)
