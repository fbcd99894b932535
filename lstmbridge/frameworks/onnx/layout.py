"""ONNX's weight layout, what its nodes can hold, and a Spec as a node's attributes.

Source: the operators LSTM, GRU and RNN (onnx/defs/rnn/defs.cc, versions 7, 14 and 22). Everything is in the shape: the
direction is the first axis, the gates i o f c (GRU: z r h) are stacked on the second, the two biases stand one after
another. `activation_alpha` and `activation_beta` hold a number for each activation that takes one, in the order of the
activations; the others take none (onnxruntime's rnn_helpers.cc reads them so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstmbridge.errors import Ambiguous, BridgeError, LayoutError, unknown
from lstmbridge.fit import FEATURES, Holds
from lstmbridge.notation import Layout
from lstmbridge.spec import ACTIVATIONS, CELLS, MERGES, ROLES, Activation, Spec
from lstmbridge.statenotation import StateForm, StateLayout

__all__ = ["HOLDS", "INPUTS", "LAYOUTS", "NOT_KEPT", "STATES", "attributes_of", "decimal", "kept_attributes", "spec_of"]

_LINES = (
    ("W", "kernel : d (g h) i"),
    ("R", "recurrent_kernel : d (g h) p"),
    ("B", "bias | recurrent_bias : d (k g h)"),
)
_SOURCE = "onnx/defs/rnn/defs.cc"

LAYOUTS = {
    "lstm": Layout("i o f g", *_LINES, ("P", "peephole[i o f] : d (g h)"), source=_SOURCE),
    "gru": Layout("z r n", *_LINES, source=_SOURCE),
    "rnn": Layout("n", *_LINES, source=_SOURCE),
}

_GIVEN: Mapping[str, Any] = {"outputs": {"Y_h": "initial_h", "Y_c": "initial_c"}, "beside": ("Y",)}

#: A node's inputs for the initial states and its outputs for the last ones, by the attribute ``layout``.
STATES = {
    "layout=0": StateForm(
        StateLayout(("initial_h", "h : d b p"), ("initial_c", "c : d b h"), source=_SOURCE), dict, **_GIVEN
    ),
    "layout=1": StateForm(
        StateLayout(("initial_h", "h : b d p"), ("initial_c", "c : b d h"), source=_SOURCE), dict, **_GIVEN
    ),
}

#: Where each array stands among a node's inputs.
INPUTS = {"X": 0, "W": 1, "R": 2, "B": 3, "sequence_lens": 4, "initial_h": 5, "initial_c": 6, "P": 7}

#: Our activations by ONNX's names. "linear" has none of its own: it is Affine with alpha 1 and beta 0.
NAMES = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid",
    "elu": "Elu",
    "softsign": "Softsign",
    "softplus": "Softplus",
}
_OURS = {theirs.lower(): ours for ours, theirs in NAMES.items()}
_LINEAR = Activation("affine", 1.0, 0.0)
#: Those whose constants have no default that all runtimes share: onnxruntime takes 0, the operators say otherwise.
_NO_DEFAULT = ("affine", "scaled_tanh", "thresholded_relu")
#: Attributes hold float32. These are meant where the nearest float32 is found, and are no short decimals.
_FRACTIONS = (1 / 6,)

#: Attributes that say how sequences lie, or that old versions of the operators had; a node is written without them.
NOT_KEPT = ("layout", "output_sequence")


def _no_name(spec: Spec) -> str | None:
    """The first activation that ONNX has no name for."""
    for direction in spec.directions:
        for role in ROLES[spec.cell]:
            activation = spec.activation(role, direction)
            if activation.name not in NAMES and activation.name != "linear":
                return f"{role} activation {activation}"
    return None


HOLDS = Holds(
    name="onnx",
    bias=dict.fromkeys(CELLS, ("dual", "none")),
    activations=_no_name,
    directions=frozenset({("forward",), ("reverse",), ("forward", "reverse")}),
    merges=frozenset(MERGES),
    features=frozenset({*FEATURES} - {"projection", "cell clip", "projection clip"}),
)

Attributes = Mapping[str, Any]

#: The type of each attribute that is looked at.
_TYPES: Mapping[str, tuple[type, type | None]] = {
    "hidden_size": (int, None),
    "direction": (str, None),
    "activations": (list, str),
    "activation_alpha": (list, float),
    "activation_beta": (list, float),
    "clip": (float, None),
    "input_forget": (int, None),
    "linear_before_reset": (int, None),
    "layout": (int, None),
}


def spec_of(cell: str, attributes: Attributes, shapes: Mapping[str, Sequence[int]], notes: list[str]) -> Spec:
    """What a node computes, by its attributes and the shapes of its W, R, B and P.

    The merge of two directions is not a node's to say: it is ``none`` here. What is odd but understood is added to
    `notes`. Errors: LayoutError for attributes that no node can have, Ambiguous for an activation without its constant.

    >>> spec_of("gru", {"hidden_size": 11}, {"W": (1, 33, 5), "R": (1, 33, 11)}, []).reset_after
    False
    """
    _check_types(attributes)
    for key in ("W", "R"):
        if len(shapes[key]) != 3:
            raise LayoutError(f"{key} has shape {tuple(shapes[key])}", f"expected {dict(_LINES)[key].split(': ')[1]}")
    directions = _directions(attributes)
    forward, reverse = _activations(cell, attributes, len(directions), notes)
    clip = attributes.get("clip")
    return Spec(
        cell=cell,
        input_size=shapes["W"][2],
        hidden_size=attributes.get("hidden_size") or shapes["R"][2],
        directions=directions,
        bias="dual" if "B" in shapes else "none",
        peepholes="P" in shapes,
        activations=forward,
        reverse_activations=reverse,
        reset_after=cell != "gru" or bool(attributes.get("linear_before_reset", 0)),
        coupled=bool(attributes.get("input_forget", 0)),
        clip=None if clip is None else decimal(clip),
        merge="none" if len(directions) == 2 else "concat",
    )


def attributes_of(spec: Spec) -> dict[str, Any]:
    """The attributes of the node that computes `spec`; those at their default are left out.

    >>> attributes_of(Spec(cell="rnn", input_size=5, hidden_size=11, activations=("relu",)))
    {'hidden_size': 11, 'activations': ['Relu']}
    """
    found: dict[str, Any] = {"hidden_size": spec.hidden_size}
    if spec.directions != ("forward",):
        found["direction"] = "bidirectional" if spec.bidirectional else "reverse"
    used = [spec.activation(role, direction) for direction in spec.directions for role in ROLES[spec.cell]]
    if used != list(spec.replace(activations=(), reverse_activations=None).activations) * len(spec.directions):
        stored = [_LINEAR if each.name == "linear" else each for each in used]
        found["activations"] = [NAMES[each.name] for each in stored]
        found["activation_alpha"] = [each.alpha for each in stored if each.alpha is not None]
        found["activation_beta"] = [each.beta for each in stored if each.beta is not None]
    found["clip"] = None if spec.clip is None else float(spec.clip)
    found["input_forget"] = int(spec.coupled)
    found["linear_before_reset"] = int(spec.cell == "gru" and spec.reset_after)
    return {name: value for name, value in found.items() if value}


def kept_attributes(spec: Spec, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes to write: those of the source where it was an ONNX node that computed the same."""
    stored = metadata.get("config", {}).get("attributes") if metadata.get("framework") == "onnx" else None
    if stored is None:
        return attributes_of(spec)
    own = {name: value for name, value in stored.items() if name not in NOT_KEPT}
    try:
        said = spec_of(spec.cell, own, LAYOUTS[spec.cell].shapes(spec), [])
    except BridgeError:
        return attributes_of(spec)
    same = said.replace(merge=spec.merge, processed_order=spec.processed_order) == _as_read(spec)
    return own if same and own.get("hidden_size") == spec.hidden_size else attributes_of(spec)


def _as_read(spec: Spec) -> Spec:
    """`spec` as it comes back from a node: an affine function that changes nothing is called linear."""

    def named(activations: Sequence[Activation]) -> tuple[Activation, ...]:
        return tuple(Activation("linear") if each == _LINEAR else each for each in activations)

    backward = spec.reverse_activations
    return spec.replace(
        activations=named(spec.activations), reverse_activations=None if backward is None else named(backward)
    )


def _check_types(attributes: Attributes) -> None:
    for name, (kind, inner) in _TYPES.items():
        value = attributes.get(name)
        if value is None or (
            isinstance(value, kind) and all(isinstance(each, inner or object) for each in _items(value))
        ):
            continue
        expected = f"a list of {inner.__name__}" if inner else kind.__name__
        raise LayoutError(f"attribute {name} is {value!r}", f"expected {expected}")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _directions(attributes: Attributes) -> tuple[str, ...]:
    known = {"forward": ("forward",), "reverse": ("reverse",), "bidirectional": ("forward", "reverse")}
    said = str(attributes.get("direction", "forward"))
    if said.lower() not in known:
        raise unknown("direction", said, known)
    return known[said.lower()]


def _activations(
    cell: str, attributes: Attributes, directions: int, notes: list[str]
) -> tuple[tuple[Activation, ...], tuple[Activation, ...] | None]:
    """The activations of the first direction, and those of the second where there is one."""
    names = attributes.get("activations") or ()
    if not names:
        return (), None
    each = len(ROLES[cell])
    if len(names) != each * directions:
        raise LayoutError(
            f"{len(names)} activations: {', '.join(names)}",
            f"expected {each} a direction ({', '.join(ROLES[cell])}): {each * directions}",
        )
    alphas, betas = (list(attributes.get(f"activation_{constant}") or ()) for constant in ("alpha", "beta"))
    waiting = {"alpha": iter(alphas), "beta": iter(betas)}
    found = tuple(_activation(name, waiting) for name in names)
    for constant, left in waiting.items():
        unused = len(list(left))
        if unused:
            notes.append(f"the last {unused} of activation_{constant} belong to no activation that takes one: not used")
    return found[:each], found[each:] or None


def _activation(name: str, waiting: Mapping[str, Iterator[float]]) -> Activation:
    """The activation of that name with the next constants in line."""
    if name.lower() not in _OURS:
        raise unknown("activation", name, NAMES.values())
    ours = _OURS[name.lower()]
    constants: list[float | None] = []
    for constant, default in zip(("alpha", "beta"), ACTIVATIONS[ours], strict=True):
        value = None if default is None else next(waiting[constant], None)
        if value is None and default is not None and ours in _NO_DEFAULT:
            raise Ambiguous(
                f"activation {name} without its {constant}",
                "onnxruntime takes 0 for it, other runtimes do not",
                f"state it: add it to activation_{constant}",
            )
        constants.append(None if value is None else decimal(value))
    found = Activation(ours, *constants)
    return Activation("linear") if found == _LINEAR else found


def decimal(value: float) -> float:
    """The number that was meant by a float32: 0.2 for 0.20000000298."""
    single = np.float32(value)
    for fraction in _FRACTIONS:
        if np.float32(fraction) == single:
            return fraction
    return float(str(single))
