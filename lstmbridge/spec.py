"""What one recurrent layer computes: no arrays, no framework.

The conventions, stated once for the whole project:

* LSTM gates are ``i f g o`` (input, forget, cell candidate, output); GRU gates are ``r z n`` (reset, update, new) with
  ``h' = (1 - z) n + z h``; a vanilla RNN has the one gate ``n``.
* Matrices are (output, input): kernel (h, i), recurrent_kernel (h, p), projection (p, h). Biases and peepholes are
  (h,). Here i is the input size, h the hidden size, p the size of the hidden state that is fed back (h without a
  projection).
* A weight is named ``direction.part.gate``, e.g. ``forward.kernel.f``; a projection has no gate:
  ``reverse.projection``.
* ``reverse`` weights act on the reversed sequence, and their outputs are given in forward time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lstmbridge.errors import SpecError, unknown

__all__ = ["ACTIVATIONS", "BIASES", "CELLS", "GATES", "MERGES", "PARTS", "ROLES", "Activation", "Spec"]

GATES: Mapping[str, tuple[str, ...]] = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n"), "rnn": ("n",)}
CELLS = tuple(GATES)
BIASES = ("none", "single", "dual")
MERGES = ("concat", "sum", "mul", "ave", "none")
DIRECTIONS = ("forward", "reverse")

#: The axes of each part in canonical order, and (for a peephole) the gates that have one.
PARTS: Mapping[str, str] = {
    "kernel": "h i",
    "recurrent_kernel": "h p",
    "bias": "h",
    "recurrent_bias": "h",
    "peephole": "h",
    "projection": "p h",
}
PEEPHOLE_GATES = ("i", "f", "o")

#: Which activations a cell has, in the order ONNX lists them (f, g, h).
ROLES: Mapping[str, tuple[str, ...]] = {
    "lstm": ("gate", "candidate", "output"),
    "gru": ("gate", "candidate"),
    "rnn": ("candidate",),
}

#: Every activation, with the defaults of its alpha and beta (None: it has no such constant).
ACTIVATIONS: Mapping[str, tuple[float | None, float | None]] = {
    "sigmoid": (None, None),
    "tanh": (None, None),
    "relu": (None, None),
    "linear": (None, None),
    "softsign": (None, None),
    "softplus": (None, None),
    "selu": (None, None),
    "exponential": (None, None),
    "silu": (None, None),
    "hard_sigmoid": (0.2, 0.5),
    "scaled_tanh": (1.0, 1.0),
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "leaky_relu": (0.01, None),
    "thresholded_relu": (1.0, None),
}


@dataclass(frozen=True, slots=True, order=True)
class Activation:
    """A scalar function with its constants: ``hard_sigmoid(0.2, 0.5)`` is not ``hard_sigmoid(1/6, 0.5)``.

    `alpha` and `beta` are filled in from `ACTIVATIONS` where the function has them. Errors: SpecError for an unknown
    name or a constant the function does not have. Source of names and defaults: the ONNX operator LSTM.

    >>> print(Activation("hard_sigmoid"))
    hard_sigmoid(0.2, 0.5)
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise unknown("activation", self.name, ACTIVATIONS)
        for constant, default in zip(("alpha", "beta"), ACTIVATIONS[self.name], strict=True):
            given = getattr(self, constant)
            if default is None and given is not None:
                raise SpecError(f"activation {self.name!r} has no {constant}", f"found {constant} = {given}")
            object.__setattr__(self, constant, default if given is None else float(given))

    def __str__(self) -> str:
        constants = [f"{c:.6g}" for c in (self.alpha, self.beta) if c is not None]
        return f"{self.name}({', '.join(constants)})" if constants else self.name

    @classmethod
    def of(cls, value: Activation | str | list[Any] | tuple[Any, ...]) -> Activation:
        """An Activation from itself, its name, or (name, alpha, beta)."""
        if isinstance(value, Activation):
            return value
        return cls(value) if isinstance(value, str) else cls(*value)


SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")
_DEFAULT_ROLE = {"gate": SIGMOID, "candidate": TANH, "output": TANH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one recurrent layer computes. Frozen, hashable, and JSON in and out.

    cell             ``lstm``, ``gru`` or ``rnn``
    input_size       i, the features of one time step; at least 1
    hidden_size      h, the units of the cell; at least 1
    directions       ``("forward",)``, ``("reverse",)`` or ``("forward", "reverse")``
    bias             ``none``, ``single`` (one bias), or ``dual`` (bias and recurrent_bias)
    projection_size  p, the size of the projected hidden state of an LSTM, or None
    peepholes        whether i, f and o see the cell state (o sees the new one); LSTM only
    activations      one for each role of the cell (`ROLES`): gate, candidate, output
    reverse_activations  those of the reverse direction where they differ from the forward direction's, else None
    reset_after      GRU: ``n = tanh(W x + b + r (R h + rb))`` if true, ``tanh(W x + b + R (r h) + rb)`` if false
    coupled          LSTM: the forget gate is 1 - i; its own weights are kept and not used
    clip             pre-activations are held in [-clip, clip] (ONNX), or None
    cell_clip        the new cell state is held in [-cell_clip, cell_clip] (TF1), or None
    proj_clip        the projected state is held in [-proj_clip, proj_clip] (TF1), or None
    merge            how the outputs of two directions are put together: concat, sum, mul, ave, none (kept apart)
    processed_order  a reverse layer gives its outputs as processed, last step first (Keras' go_backwards)
    forget_constant  what the runtime adds to the forget gate's pre-activation (TF1, haiku, DyNet: 1.0); LSTM only

    Errors: SpecError for a contradiction; the message names the field.

    >>> spec = Spec(cell="lstm", input_size=5, hidden_size=11, bias="dual")
    >>> spec.shape("forward.kernel.f")
    (11, 5)
    >>> Spec.from_json(spec.to_json()) == spec
    True
    """

    cell: str
    input_size: int
    hidden_size: int
    directions: tuple[str, ...] = ("forward",)
    bias: str = "single"
    projection_size: int | None = None
    peepholes: bool = False
    activations: tuple[Activation, ...] = ()
    reverse_activations: tuple[Activation, ...] | None = None
    reset_after: bool = True
    coupled: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    proj_clip: float | None = None
    merge: str = "concat"
    processed_order: bool = False
    forget_constant: float = 0.0

    def __post_init__(self) -> None:
        _check_vocabulary(self)
        set_ = object.__setattr__
        default = tuple(_DEFAULT_ROLE[role] for role in ROLES[self.cell])
        set_(self, "activations", tuple(Activation.of(a) for a in self.activations) or default)
        if self.reverse_activations is not None:
            backward = tuple(Activation.of(a) for a in self.reverse_activations)
            set_(self, "reverse_activations", None if backward == self.activations else backward)
        _check_sizes(self)
        _check_features(self)

    # ---- what follows from it

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates of the cell in canonical order."""
        return GATES[self.cell]

    @property
    def bidirectional(self) -> bool:
        """Whether there are two directions."""
        return len(self.directions) == 2

    @property
    def state_size(self) -> int:
        """p: the features of the hidden state that is fed back and given out, per direction."""
        return self.projection_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """The features of one output step after the directions are merged (for ``none``, of each direction)."""
        return self.state_size * (2 if self.bidirectional and self.merge == "concat" else 1)

    @property
    def features(self) -> int:
        """How many features a layer reads that reads this one; directions that are kept apart stand side by side."""
        return self.output_size * (2 if self.bidirectional and self.merge == "none" else 1)

    @property
    def sizes(self) -> dict[str, int]:
        """The value of each size index: i, h, p."""
        return {"i": self.input_size, "h": self.hidden_size, "p": self.state_size}

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Each part this layer has, with its gates in canonical order (none for a projection)."""
        parts = {"kernel": self.gates, "recurrent_kernel": self.gates}
        if self.bias != "none":
            parts["bias"] = self.gates
        if self.bias == "dual":
            parts["recurrent_bias"] = self.gates
        if self.peepholes:
            parts["peephole"] = PEEPHOLE_GATES
        if self.projection_size is not None:
            parts["projection"] = ()
        return parts

    def names(self) -> Iterator[str]:
        """Every weight's name, in canonical order."""
        for direction in self.directions:
            for part, gates in self.parts.items():
                yield from (f"{direction}.{part}.{gate}" for gate in gates)
                if not gates:
                    yield f"{direction}.{part}"

    def shape(self, name: str) -> tuple[int, ...]:
        """The canonical shape of a weight."""
        part = name.split(".")[1]
        return tuple(self.sizes[index] for index in PARTS[part].split())

    def activation(self, role: str, direction: str = "forward") -> Activation:
        """The activation of a role in a direction."""
        backward = self.reverse_activations if direction == "reverse" else None
        return (backward or self.activations)[ROLES[self.cell].index(role)]

    def mergeable(self, gate: str) -> bool:
        """Whether the two biases of a gate are only ever added together (all but n of a reset-after GRU)."""
        return not (self.cell == "gru" and self.reset_after and gate == "n")

    def replace(self, **changes: Any) -> Self:
        """This Spec with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """This Spec as JSON: only the fields that differ from their default."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        default = {f.name: f.default for f in dataclasses.fields(self)}
        kept = {k: v for k, v in fields.items() if v != default[k]}
        for key in ("activations", "reverse_activations"):
            if kept.get(key):
                kept[key] = [[a.name, a.alpha, a.beta] for a in kept[key]]
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The Spec that `to_json` wrote. Errors: SpecError for anything else."""
        try:
            fields = json.loads(text)
            fields["directions"] = tuple(fields.get("directions", ("forward",)))
            return cls(**fields)
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"not the JSON of a Spec: {text[:80]!r}", str(error)) from error

    def __str__(self) -> str:
        """One line for people: ``lstm 5 -> 11, bidirectional (concat), dual bias``."""
        words = [f"{self.cell} {self.input_size} -> {self.hidden_size}"]
        words += [] if self.projection_size is None else [f"projected to {self.projection_size}"]
        if self.bidirectional:
            words.append(f"bidirectional ({self.merge})")
        elif self.directions == ("reverse",):
            words.append("reverse" + (", outputs as processed" if self.processed_order else ""))
        words.append("no bias" if self.bias == "none" else f"{self.bias} bias")
        return ", ".join(words + [text for text in _extras(self) if text])


def _extras(spec: Spec) -> Iterator[str]:
    """The features a plain layer does not have, in words."""
    default = tuple(_DEFAULT_ROLE[role] for role in ROLES[spec.cell])
    if spec.cell == "gru":
        yield "reset after" if spec.reset_after else "reset before"
    for label, found in (("", spec.activations), ("reverse ", spec.reverse_activations or default)):
        if found != default:
            yield label + " ".join(f"{r}={a}" for r, a in zip(ROLES[spec.cell], found, strict=True))
    yield "peepholes" if spec.peepholes else ""
    yield "coupled input-forget" if spec.coupled else ""
    for field in ("clip", "cell_clip", "proj_clip"):
        value = getattr(spec, field)
        yield f"{field} {value:g}" if value is not None else ""
    yield f"forget constant {spec.forget_constant:+g}" if spec.forget_constant else ""


def _check_vocabulary(spec: Spec) -> None:
    for field, known in (("cell", CELLS), ("bias", BIASES), ("merge", MERGES)):
        if getattr(spec, field) not in known:
            raise SpecError(f"{field} is {getattr(spec, field)!r}", f"expected one of {', '.join(known)}")
    if spec.directions not in (("forward",), ("reverse",), DIRECTIONS):
        raise SpecError(f"directions is {spec.directions!r}", "expected forward, reverse, or both in this order")


def _check_sizes(spec: Spec) -> None:
    sizes = {"input_size": spec.input_size, "hidden_size": spec.hidden_size, "projection_size": spec.projection_size}
    for field, size in sizes.items():
        if size is None:
            continue
        if isinstance(size, bool) or int(size) != size or size < 1:
            raise SpecError(f"{spec.cell} layer: {field} is {size}", "expected a whole number of at least 1")
        object.__setattr__(spec, field, int(size))
    for field in ("clip", "cell_clip", "proj_clip"):
        value = getattr(spec, field)
        if value is not None and not 0 < value < float("inf"):
            raise SpecError(f"{spec.cell} layer: {field} is {value}", "expected a positive number, or None")


def _check_features(spec: Spec) -> None:
    expected = len(ROLES[spec.cell])
    for found in (spec.activations, spec.reverse_activations):
        if found is not None and len(found) != expected:
            raise SpecError(
                f"{spec.cell} layer: {len(found)} activations",
                f"expected {expected}: {', '.join(ROLES[spec.cell])}",
            )
    only_lstm = ("projection_size", "peepholes", "coupled", "cell_clip", "proj_clip", "forget_constant")
    for field in only_lstm:
        if spec.cell != "lstm" and getattr(spec, field):
            raise SpecError(f"{spec.cell} layer: {field} is {getattr(spec, field)}", "only an LSTM has it")
    if spec.cell != "gru" and not spec.reset_after:
        raise SpecError(f"{spec.cell} layer: reset_after is False", "only a GRU has it")
    if spec.proj_clip is not None and spec.projection_size is None:
        raise SpecError("lstm layer: proj_clip without projection_size", "the clip acts on the projected state")
    if not spec.bidirectional and spec.merge != "concat":
        raise SpecError(f"{spec.cell} layer: merge is {spec.merge!r} with one direction", "leave it at 'concat'")
    if spec.processed_order and spec.directions != ("reverse",):
        raise SpecError(f"{spec.cell} layer: processed_order in a layer that runs forward", "only reverse has it")
