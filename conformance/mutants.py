"""Mistakes that a converter can have, as data: each breaks the converter's own code or data while it lasts.

No mutant touches a check or the equations. Where it can, it makes its mistake alike in reading and in writing, as a
slip in the one line that both come from would: then going there and back shows nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from teeth import (
    ROOMS,
    Crossed,
    Mutant,
    Tried,
    after,
    attributes,
    constant,
    entries,
    exchanged,
    holding,
    mutants_of,
    of_cell,
    packed,
    relaid,
    restated,
    together,
    tried,
    wrapped,
)

from lstmbridge import Layer, Spec
from lstmbridge import arrays as xp
from lstmbridge.fit import DROPS
from lstmbridge.spec import GATES, Activation

__all__ = ["MUTANTS"]

# ---- gate orders

_OWN = {"torch": "dual-bias", "keras": "plain", "onnx": "dual-bias"}
_ORDERS = {
    ("torch", "lstm"): "i f g o",
    ("keras", "lstm"): "i f g o",
    ("onnx", "lstm"): "i o f g",
    ("torch", "gru"): "r z n",
    ("keras", "gru"): "z r n",
    ("onnx", "gru"): "z r n",
}
_CELL = {"lstm": "lstm", "gru": "gru-after", "rnn": "rnn-tanh"}


def _gate_orders() -> Iterator[Mutant]:
    for (framework, cell), order in _ORDERS.items():
        for gates in map(" ".join, itertools.permutations(GATES[cell])):
            if gates != order:
                where = tried(_CELL[cell], _OWN[framework], framework)
                name = f"{framework}: the gates of {cell} are {gates}"
                yield mutants_of("gate order")(name, relaid(framework, cell, gates=gates), where)


def _signs() -> Iterator[Mutant]:
    for framework, cell, gates in (
        ("torch", "gru", "r -z n"),
        ("keras", "gru", "-z r n"),
        ("onnx", "gru", "-z r n"),
        ("torch", "lstm", "i f g -o"),
        ("keras", "lstm", "i -f g o"),
        ("onnx", "rnn", "-n"),
    ):
        where = tried(_CELL[cell], "dual-bias", framework)
        name = f"{framework}: a gate of {cell} has the opposite sign: {gates}"
        yield mutants_of("sign")(name, relaid(framework, cell, gates=gates), where)


# ---- lines of layouts

#: framework, cell, feature, the line's text, what it is instead.
_TRANSPOSED = (
    ("torch", "lstm", "plain", "kernel : (g h) i", "kernel : i (g h)"),
    ("torch", "lstm", "square", "kernel : (g h) i", "kernel : (g i) h"),
    ("torch", "lstm", "plain", "recurrent_kernel : (g h) p", "recurrent_kernel : (g p) h"),
    ("torch", "lstm", "square", "recurrent_kernel : (g h) p", "recurrent_kernel : (g p) h"),
    ("torch", "lstm", "projection", "projection : p h", "projection : h p"),
    ("torch", "gru", "plain", "recurrent_kernel : (g h) p", "recurrent_kernel : (g p) h"),
    ("torch", "rnn", "plain", "recurrent_kernel : (g h) p", "recurrent_kernel : p (g h)"),
    ("keras", "lstm", "plain", "kernel : i (g h)", "kernel : (g h) i"),
    ("keras", "lstm", "square", "kernel : i (g h)", "kernel : h (g i)"),
    ("keras", "lstm", "plain", "recurrent_kernel : p (g h)", "recurrent_kernel : h (g p)"),
    ("keras", "gru", "plain", "recurrent_kernel : p (g h)", "recurrent_kernel : h (g p)"),
    ("keras", "rnn", "square", "kernel : i (g h)", "kernel : (g h) i"),
    ("onnx", "lstm", "plain", "kernel : d (g h) i", "kernel : d i (g h)"),
    ("onnx", "lstm", "square", "kernel : d (g h) i", "kernel : d (g i) h"),
    ("onnx", "lstm", "plain", "recurrent_kernel : d (g h) p", "recurrent_kernel : d (g p) h"),
    ("onnx", "gru", "plain", "recurrent_kernel : d (g h) p", "recurrent_kernel : d (g p) h"),
    ("onnx", "rnn", "bidirectional", "recurrent_kernel : d (g h) p", "recurrent_kernel : d p (g h)"),
)
_INTERLEAVED = (
    ("torch", "lstm", "dual-bias", "kernel : (g h) i", "kernel : (h g) i"),
    ("torch", "lstm", "dual-bias", "recurrent_kernel : (g h) p", "recurrent_kernel : (h g) p"),
    ("torch", "gru", "dual-bias", "recurrent_bias : (g h)", "recurrent_bias : (h g)"),
    ("keras", "lstm", "plain", "kernel : i (g h)", "kernel : i (h g)"),
    ("keras", "lstm", "plain", "bias : (g h)", "bias : (h g)"),
    ("keras", "gru", "dual-bias", "bias | recurrent_bias : k (g h)", "bias | recurrent_bias : k (h g)"),
    ("onnx", "lstm", "dual-bias", "recurrent_kernel : d (g h) p", "recurrent_kernel : d (h g) p"),
    ("onnx", "gru", "dual-bias", "bias | recurrent_bias : d (k g h)", "bias | recurrent_bias : d (g k h)"),
)
_BIASES = (
    ("torch", "lstm", {"bias_ih_l{l}{d}": "bias_hh_l{l}{d}", "bias_hh_l{l}{d}": "bias_ih_l{l}{d}"}, {}),
    ("torch", "gru", {"bias_ih_l{l}{d}": "bias_hh_l{l}{d}", "bias_hh_l{l}{d}": "bias_ih_l{l}{d}"}, {}),
    ("torch", "rnn", {"bias_ih_l{l}{d}": "bias_hh_l{l}{d}", "bias_hh_l{l}{d}": "bias_ih_l{l}{d}"}, {}),
    ("onnx", "lstm", {}, {"bias | recurrent_bias : d (k g h)": "recurrent_bias | bias : d (k g h)"}),
    ("onnx", "gru", {}, {"bias | recurrent_bias : d (k g h)": "recurrent_bias | bias : d (k g h)"}),
    ("onnx", "rnn", {}, {"bias | recurrent_bias : d (k g h)": "recurrent_bias | bias : d (k g h)"}),
    ("keras", "gru", {}, {"bias | recurrent_bias : k (g h)": "recurrent_bias | bias : k (g h)"}),
)
_KERNELS = {
    "torch": {"weight_ih_l{l}{d}": "weight_hh_l{l}{d}", "weight_hh_l{l}{d}": "weight_ih_l{l}{d}"},
    "keras": {"{d}.kernel": "{d}.recurrent_kernel", "{d}.recurrent_kernel": "{d}.kernel"},
    "onnx": {"W": "R", "R": "W"},
}
_PEEPHOLES = (
    ("onnx", "peephole[i o f] : d (g h)", "peephole[i f o] : d (g h)"),
    ("onnx", "peephole[i o f] : d (g h)", "peephole[f o i] : d (g h)"),
    ("torch", "peephole[i f o] : (g h)", "peephole[i o f] : (g h)"),
    ("keras", "peephole[i f o] : (g h)", "peephole[f i o] : (g h)"),
)


def _lines() -> Iterator[Mutant]:
    for area, table in (("transposed", _TRANSPOSED), ("interleaved", _INTERLEAVED)):
        for framework, cell, feature, text, other in table:
            name = f"{framework}: {cell} ({feature}) has {other} for {text}"
            where = tried(_CELL[cell], feature, framework)
            yield mutants_of(area)(name, relaid(framework, cell, text={text: other}), where)
    for framework, cell, keys, texts in _BIASES:
        name = f"{framework}: the two biases of {cell} are exchanged"
        where = tried(_CELL[cell], "dual-bias", framework)
        alone = "" if cell == "gru" else "structure"  # no output changes
        yield mutants_of("bias")(name, relaid(framework, cell, keys=keys, text=texts), where, only=alone)
    for framework, cell in itertools.product(_KERNELS, GATES):
        name = f"{framework}: W and R of {cell} are exchanged"
        where = tried(_CELL[cell], "square", framework)
        yield mutants_of("W and R")(name, relaid(framework, cell, keys=_KERNELS[framework]), where)
    for framework, text, other in _PEEPHOLES:
        name = f"{framework}: {other.partition(' :')[0]} for {text.partition(' :')[0]}"
        where = tried("lstm", "peepholes", framework)
        yield mutants_of("peephole order")(name, relaid(framework, "lstm", text={text: other}), where)


# ---- directions and time

_TURNED = {"forward": "_reverse", "reverse": ""}


def _twice(weights: dict[str, Any]) -> Mapping[str, Any]:
    return {name: weights[name.replace("reverse.", "forward.")] for name in weights if name.startswith("reverse.")}


def _directions() -> Iterator[Mutant]:
    new, both = mutants_of("direction"), "bidirectional"
    yield new(
        "torch: forward and reverse are exchanged",
        relaid("torch", "lstm", directions=_TURNED),
        tried("lstm", both, "torch"),
    )
    yield new(
        "keras: forward and backward layer are exchanged",
        relaid("keras", "gru", kind=exchanged("forward", "reverse")),
        tried("gru-after", both, "keras"),
    )
    for framework, cell in (("onnx", "lstm"), ("onnx", "gru"), ("torch", "rnn")):
        yield new(
            f"{framework}: the weights of {cell}'s directions are exchanged",
            relaid(framework, cell, kind=exchanged("forward", "reverse")),
            tried(_CELL[cell], both, framework),
        )
    for part in ("bias", "recurrent_kernel"):
        yield new(
            f"torch: the {part} of forward and reverse are exchanged",
            relaid("torch", "lstm", kind=exchanged("forward", "reverse", f".{part}.")),
            tried("lstm", both, "torch"),
        )
    for framework in ("torch", "onnx"):
        yield new(
            f"{framework}: the reverse direction has the forward weights",
            packed(_twice),
            tried("lstm", both, framework),
        )
    yield new(
        "onnx: the direction is not said",
        attributes(lambda found: found.pop("direction", None)),
        tried("lstm", "reverse", "onnx"),
    )


def _unflipped(original: Callable[..., Any], self: Any, spec: Spec, **kwargs: Any) -> None:
    original(self, spec, **kwargs)
    self.processed_order = spec.directions == ("reverse",) and not spec.processed_order


def _turned_back(original: Callable[..., Any], self: Any, *args: Any) -> Any:
    import keras

    y, last = original(self, *args)
    return (keras.ops.flip(y, axis=1) if self.spec.processed_order else y), last


def _raw(original: Callable[..., str], self: Any, layer: Layer, raw: str, merged: str) -> str:
    straight = layer.replace(spec=layer.spec.replace(processed_order=False))
    return original(self, straight, raw, merged)


def _no_lengths(original: Callable[..., Any], module: Any, x: Any, state: Any, counts: Any) -> Any:
    return original(module, x, state, None)


def _one_short(
    original: Callable[..., Any], found: Any, layer: Any, constants: Any, x: Any, states: Any, n: Any
) -> Any:
    return original(found, layer, constants, x, states, n and [max(1, length - 1) for length in n])


def _padded_end(ran: tuple[Any, Any]) -> tuple[Any, Any]:
    y, (_, c) = ran
    return y, (y[:, -1][None], c)


def _sorted(original: Callable[..., Any], module: Any, x: Any, state: Any, counts: Any) -> Any:
    y, last = original(module, x, state, counts)
    return (y if counts is None else y[counts.argsort(descending=True)]), last


def _without_turn(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "config": {**node["config"], "go_backwards": False}}


def _time() -> Iterator[Mutant]:
    new, live = mutants_of("time"), f"{ROOMS}.torch.live"
    for feature in ("reverse", "reverse-as-processed"):
        yield new(
            f"torch: the outputs of our own module ({feature}) are in the other order of time",
            wrapped(f"{ROOMS}.torch.faithful.Recurrent.__init__", _unflipped),
            tried("lstm", feature, "torch"),
        )
    yield new(
        "keras: outputs as processed are taken for forward time",
        after(f"{ROOMS}.keras.nodes._one", lambda level: replace(level, processed_order=False)),
        tried("lstm", "reverse-as-processed", "keras"),
    )
    yield new(
        "keras: our own layer gives outputs as processed in forward time",
        wrapped(f"{ROOMS}.keras.faithful.Recurrent._direction", _turned_back),
        tried("lstm", "reverse-as-processed+clip", "keras"),
    )
    yield new(
        "onnx: the outputs of a layer that runs backwards are not turned round",
        wrapped(f"{ROOMS}.onnx.writer._Builder._merged", _raw),
        tried("gru-after", "reverse-as-processed", "onnx"),
    )
    yield new(
        "onnx: a Slice that turns time round is overlooked",
        after(f"{ROOMS}.onnx.reader.merge_of", lambda found: (found[0], False)),
        tried("lstm", "reverse-as-processed", "onnx"),
    )
    yield new(
        "keras: go_backwards is not written",
        after(f"{ROOMS}.keras.nodes._fresh", _without_turn),
        tried("rnn-tanh", "reverse-as-processed", "keras"),
    )
    plain = (tried("lstm", "dual-bias", "torch"),)
    yield new("torch: lengths are ignored", wrapped(f"{live}._run_layer", _no_lengths), *plain, only="forward")
    yield new("torch: sequences come back sorted by length", wrapped(f"{live}._run_layer", _sorted), *plain)
    yield new(
        "torch: the last state is the last output, be it padding", after(f"{live}._run_layer", _padded_end), *plain
    )
    yield new(
        "torch: our own module runs through the padding",
        after(f"{ROOMS}.torch.faithful.Recurrent._valid", lambda _: None),
        tried("gru-before", "plain", "torch"),
    )
    yield new(
        "onnx: the last step of shorter sequences is left out",
        wrapped(f"{ROOMS}.onnx.live._run_node", _one_short),
        tried("lstm", "plain", "onnx"),
    )
    yield new(
        "keras: right padding is masked as left padding",
        after(f"{ROOMS}.keras.live._counted", lambda keep: keep[:, ::-1]),
        tried("gru-after", "plain", "keras"),
    )


# ---- states


def _swapped_states(original: Callable[..., Any], layers: Any, h: Any, c: Any, *rest: Any) -> Any:
    return original(layers, c, h, *rest)


def _swapped_outputs(found: Any) -> Any:
    return replace(found, h=found.c, c=found.h)


def _swapped_last(ran: tuple[Any, Any]) -> tuple[Any, Any]:
    y, last = ran
    return y, dict(zip(last, reversed(last.values()), strict=True)) if isinstance(last, dict) else last[::-1]


def _each(change: Callable[[Any], Any], state: Any) -> Any:
    """A state of torch's with every tensor changed."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def _kept_in_place(original: Callable[..., Any], obj: Any, layers: Any, x: Any, h0: Any, *rest: Any) -> Any:
    found = original(obj, layers, x, h0, *rest)
    for given, last in zip(h0 or (), found.h, strict=False):
        given[...] = last
    return found


def _states() -> Iterator[Mutant]:
    new, live, keras, onnx = (
        mutants_of("state"),
        *(f"{ROOMS}.{n}" for n in ("torch.live", "keras.running", "onnx.live")),
    )
    lstm, both = (tried("lstm", "dual-bias", "torch"),), (tried("lstm", "bidirectional", "torch"),)
    yield new("torch: h for c in the last states", after(f"{live}._ran", _swapped_last), *lstm)
    yield new("torch: h for c in the initial states", after(f"{live}._given", lambda state: state[::-1]), *lstm)
    yield new(
        "torch: initial states are dropped", after(f"{live}._given", lambda s: _each(lambda each: each * 0, s)), *lstm
    )
    yield new("torch: h for c in all states, given and last", restated("torch", "layer", turned=True), *lstm)
    yield new(
        "torch: the last states of the directions are exchanged",
        after(f"{live}._ran", lambda ran: (ran[0], _each(lambda each: each.flip(0), ran[1]))),
        *both,
    )
    for framework, form in (("torch", "layer"), ("keras", "list"), ("onnx", "layout=0")):
        yield new(
            f"{framework}: forward for reverse in all states, given and last",
            restated(framework, form, kind=Crossed),
            tried("lstm", "bidirectional", framework),
        )
    in_keras = (tried("lstm", "plain", "keras"),)
    yield new("keras: h for c in all states, given and last", restated("keras", "list", turned=True), *in_keras)
    yield new("keras: h for c in the last states", after(f"{keras}._outputs", _swapped_outputs), *in_keras)
    yield new("keras: h for c in the initial states", wrapped(f"{keras}._given", _swapped_states), *in_keras)
    in_onnx = (tried("lstm", "plain", "onnx"),)
    yield new("onnx: h for c in the last states", after(f"{onnx}._run_node", _swapped_last), *in_onnx)
    yield new(
        "onnx: h for c in the initial states",
        wrapped(
            f"{onnx}._run_node",
            lambda original, found, layer, constants, x, states, n: original(
                found, layer, constants, x, dict(zip(states, reversed(states.values()), strict=True)), n
            ),
        ),
        *in_onnx,
    )
    yield new(
        "onnx: the initial c is dropped",
        wrapped(
            f"{onnx}._run_node",
            lambda original, found, layer, constants, x, states, n: original(
                found, layer, constants, x, {key: each for key, each in states.items() if key != "initial_c"}, n
            ),
        ),
        *in_onnx,
    )
    yield new(
        "onnx: the last state overwrites the initial one",
        wrapped(f"{onnx}.run", _kept_in_place),
        *in_onnx,
        only="handover",
    )


# ---- stacks


def _levels_written(original: Callable[..., Any], self: Any) -> dict[str, Any]:
    turned = {"0": "1", "1": "0"} if len(self.layers) == 2 else {}
    return {re.sub(r"(?<=_l)\d", lambda n: turned.get(n[0], n[0]), name): a for name, a in original(self).items()}


def _levels_read(layers: list[Layer]) -> list[Layer]:
    return [here.replace(weights=there.weights) for here, there in zip(layers, layers[::-1], strict=True)]


def _stacks() -> Iterator[Mutant]:
    new, live = mutants_of("stack"), f"{ROOMS}.torch.live"
    square = (tried("lstm", "square+dual-bias", "torch", form="stack"),)
    stack = (tried("lstm", "dual-bias", "torch", form="stack"),)
    yield new(
        "torch: the levels of a stack are in the other order, written and read alike",
        together(wrapped(f"{ROOMS}.torch.plan.Unit.arrays", _levels_written), after(f"{live}._layers", _levels_read)),
        *square,
    )
    yield new(
        "torch: the initial states of a stack are in the other order",
        wrapped(
            f"{live}._given",
            lambda original, module, layers, h, c, x: original(module, layers, h and h[::-1], c and c[::-1], x),
        ),
        *stack,
    )
    yield new(
        "torch: the last states of a stack are in the other order",
        after(f"{live}._ran", lambda ran: (ran[0], _each(lambda each: each.flip(0), ran[1]))),
        tried("gru-after", "dual-bias", "torch", form="stack"),
    )
    yield new(
        "torch: the states of a stack are (d l), not (l d)",
        restated("torch", "layer", text={"h : (l d) b p": "h : (d l) b p", "c : (l d) b h": "c : (d l) b h"}),
        tried("lstm", "bidirectional+dual-bias", "torch", form="stack"),
    )
    yield new(
        "a remainder gives the levels of a stack to one another",
        wrapped(
            "lstmbridge.remainder.Remainder.of", lambda original, sources, targets: original(sources[::-1], targets)
        ),
        tried("lstm", "square", "keras", form="stack", source="torch"),
    )
    for field, value in (("after", None), ("level", None)):
        yield new(
            f"a remainder forgets {field} of a stack",
            after("lstmbridge.remainder._made", lambda entry, f=field, v=value: replace(entry, **{f: v})),
            tried("lstm", "dual-bias", "torch", form="stack"),
        )


# ---- fit: biases padded, merged, folded


def _merged_inside(weights: dict[str, Any]) -> Mapping[str, Any]:
    """b_hn in b_in, as if it stood outside the reset."""
    pairs = {name: name.replace(".recurrent_bias.", ".bias.") for name in weights if name.endswith("recurrent_bias.n")}
    return {one: 0 * weights[one] for one in pairs} | {
        other: weights[one] + weights[other] for one, other in pairs.items()
    }


def _dropped(weights: dict[str, Any]) -> Mapping[str, Any]:
    return {name: 0 * array for name, array in weights.items() if name.endswith("recurrent_bias.n")}


def _first_only(original: Callable[..., Layer], layer: Layer, form: str) -> Layer:
    if form != "single":
        return original(layer, form)
    kept = {name: array for name, array in layer.weights.items() if ".recurrent_bias." not in name}
    return layer.replace(spec=layer.spec.replace(bias="single"), weights=kept)


def _padded_with(share: float) -> Callable[..., Layer]:
    """A missing recurrent bias is so much of the bias, which has only the rest of it."""

    def pad(original: Callable[..., Layer], layer: Layer, form: str) -> Layer:
        made = original(layer, form)
        if form != "dual":
            return made
        twins = {name: name.replace(".bias.", ".recurrent_bias.") for name in made if ".bias." in name}
        rest = {name: made[name] * (1 - share) if share < 1 else made[name] for name in twins}
        return made.replace(weights={**made.weights, **rest, **{b: made[a] * share for a, b in twins.items()}})

    return pad


def _folded(gate: str, factor: float) -> Callable[..., Layer]:
    def fold(original: Callable[..., Layer], layer: Layer, constant: float) -> Layer:
        weights = {n: a + factor * constant if n.endswith(f".bias.{gate}") else a for n, a in layer.weights.items()}
        return layer.replace(spec=layer.spec.replace(forget_constant=0.0), weights=weights)

    return fold


def _fits() -> Iterator[Mutant]:
    new, fit = mutants_of("bias"), "lstmbridge.fit"
    gru = (tried("gru-after", "dual-bias", "torch"), tried("gru-after", "dual-bias", "onnx"))
    dual, single = (tried("lstm", "dual-bias", "keras"),), (tried("lstm", "plain", "torch"),)
    constant = (tried("lstm", "forget-constant", "torch"), tried("lstm", "forget-constant", "keras"))
    own = (tried("lstm", "forget-constant+peepholes", "torch"),)
    yield new("b_hn is dropped", packed(_dropped), *gru)
    yield new("b_hn is merged into b_in", packed(_merged_inside), *gru)
    yield new("of two biases that are merged the second is dropped", wrapped(f"{fit}.resummed", _first_only), *dual)
    yield new("a missing bias is ones", after("lstmbridge.arrays.zeros_like", lambda a: a + 1), *single)
    yield new("a missing bias is the other one again", wrapped(f"{fit}.resummed", _padded_with(1.0)), *single)
    yield new("one bias is shared out between two", wrapped(f"{fit}.resummed", _padded_with(0.5)), *single)
    for words, gate, factor in (
        ("is lost", "f", 0.0),
        ("is added twice", "f", 2.0),
        ("is taken off", "f", -1.0),
        ("goes to the input gate", "i", 1.0),
    ):
        yield mutants_of("forget constant")(
            f"the forget constant {words}", wrapped(f"{fit}._fold", _folded(gate, factor)), *constant
        )
    yield mutants_of("forget constant")(
        "torch: our own module has no forget constant", of_cell(forget_constant=0.0), *own
    )
    yield mutants_of("forget constant")(
        "torch: our own module adds the forget constant twice",
        of_cell(forget_constant=lambda cell: 2 * cell.forget_constant),
        *own,
    )


# ---- what is computed: reset, activations, clips, merges

_SLOPES = {0.2: 1 / 6, 1 / 6: 0.2}


def _other_slope(spec: Spec) -> Spec:
    def other(activation: Activation) -> Activation:
        return replace(activation, alpha=_SLOPES.get(activation.alpha or 0.0, activation.alpha))

    return spec.replace(activations=tuple(map(other, spec.activations)))


def _write_other_slope(found: dict[str, Any]) -> None:
    found["activation_alpha"] = [_SLOPES.get(alpha, alpha) for alpha in found["activation_alpha"]]


def _reset_otherwise(found: dict[str, Any]) -> None:
    found["linear_before_reset"] = 1 - found.get("linear_before_reset", 0)


def _other_reset(spec: Spec) -> Spec:
    return spec.replace(reset_after=not spec.reset_after) if spec.cell == "gru" else spec


def _keras_reset(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "reset_after": not config["reset_after"]} if "reset_after" in config else config


def _scale_clip(found: dict[str, Any]) -> None:
    found["clip"] = 2 * found["clip"]


def _swap_constants(found: dict[str, Any]) -> None:
    found["activation_alpha"], found["activation_beta"] = found["activation_beta"], found["activation_alpha"]


_EXCHANGED_NAMES = {"softsign": "Softplus", "softplus": "Softsign"}


def _keras_exchanged(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "activation": config["recurrent_activation"], "recurrent_activation": config["activation"]}


def _tanh_for_relu(original: Callable[..., Any], unit: Any, like: Any) -> Any:
    module = original(unit, like)
    module.nonlinearity, module.mode = "tanh", "RNN_TANH"
    return module


def _equations() -> Iterator[Mutant]:
    new, keras, onnx = mutants_of("activation"), f"{ROOMS}.keras", f"{ROOMS}.onnx"
    functions, own = f"{keras}.layout.FUNCTIONS", f"{keras}.faithful.FUNCTIONS"
    yield mutants_of("reset")(
        "onnx: linear_before_reset is written and read as its opposite",
        attributes(_reset_otherwise, _other_reset),
        tried("gru-after", "dual-bias", "onnx"),
        tried("gru-before", "plain", "onnx"),
    )
    yield mutants_of("reset")(
        "keras: reset_after is written and read as its opposite",
        together(after(f"{keras}.nodes._cell_config", _keras_reset), after(f"{keras}.nodes.spec_of", _other_reset)),
        tried("gru-before", "no-bias", "keras"),
        tried("gru-after", "no-bias", "keras"),
    )
    yield mutants_of("reset")(
        "torch: our own module resets after for before",
        of_cell(reset_after=lambda cell: not cell.reset_after),
        tried("gru-before", "no-bias", "torch"),
    )
    yield new(
        "keras: hard_sigmoid is that of Keras 2",
        entries(functions, lambda _: {"hard_sigmoid": Activation("hard_sigmoid")}),
        tried("lstm", "hard-sigmoid-0.2", "keras"),
        tried("lstm", "hard-sigmoid-1/6", "keras"),
    )
    yield new(
        "keras: a layer is run with the hard_sigmoid of Keras 3 and read with that of Keras 2",
        after(f"{keras}.nodes.spec_of", _other_slope),
        tried("gru-after", "hard-sigmoid-1/6", "keras"),
    )
    for feature in ("hard-sigmoid-0.2+bidirectional", "hard-sigmoid-1/6"):
        yield new(
            f"onnx: one hard_sigmoid for the other, written and read alike ({feature})",
            attributes(_write_other_slope, _other_slope),
            tried("lstm", feature, "onnx"),
        )
    yield new(
        "onnx: the slope of a hard_sigmoid is left to the default",
        attributes(lambda found: found.pop("activation_alpha", None)),
        tried("gru-after", "hard-sigmoid-1/6", "onnx"),
    )
    yield new(
        "onnx: alpha and beta are exchanged", attributes(_swap_constants), tried("lstm", "hard-sigmoid-0.2", "onnx")
    )
    yield new(
        "onnx: Softsign is called Softplus, and the other way round",
        together(
            entries(f"{onnx}.layout.NAMES", lambda _: _EXCHANGED_NAMES),
            entries(f"{onnx}.layout._OURS", lambda _: {name.lower(): ours for ours, name in _EXCHANGED_NAMES.items()}),
        ),
        tried("lstm", "softsign", "onnx"),
        tried("rnn-tanh", "softplus", "onnx"),
    )
    yield new(
        "onnx: activations are not written",
        attributes(lambda found: found.pop("activations", None)),
        tried("rnn-relu", "plain", "onnx"),
    )
    yield new(
        "torch: an RNN with relu is built with tanh",
        wrapped(f"{ROOMS}.torch.modules._stock", _tanh_for_relu),
        tried("rnn-relu", "plain", "torch"),
    )
    yield new(
        "torch: our own module has the other hard_sigmoid",
        of_cell(gate=lambda cell: cell.gate._replace(alpha=_SLOPES.get(cell.gate.alpha, 0.0))),
        tried("lstm", "hard-sigmoid-0.2", "torch"),
    )
    yield new(
        "torch: our own module leaves the output activation at tanh",
        of_cell(output=lambda cell: cell.output._replace(name="tanh")),
        tried("lstm", "relu", "torch"),
    )
    yield new(
        "keras: activation and recurrent_activation are exchanged, written and read alike",
        together(
            after(f"{keras}.nodes._cell_config", _keras_exchanged),
            after(f"{keras}.nodes._activations", lambda found: (found[1], found[0], found[0])[: len(found)]),
        ),
        tried("lstm", "hard-sigmoid-1/6", "keras"),
        tried("gru-after", "relu", "keras"),
    )
    yield new(
        "keras: elu is called selu, and the other way round",
        entries(functions, lambda _: {"elu": Activation("selu"), "selu": Activation("elu", 1.0)}),
        tried("rnn-tanh", "elu", "keras"),
        tried("lstm", "selu", "keras"),
    )
    yield new(
        "keras: our own layer drops the beta of scaled_tanh",
        entries(own, lambda found: {"scaled_tanh": lambda x, a, b: a * found["tanh"](x, a, b)}),
        tried("rnn-tanh", "scaled-tanh", "keras"),
    )
    yield from _limits()
    yield from _merges()


def _limits() -> Iterator[Mutant]:
    new, inf = mutants_of("clip"), float("inf")
    yield new("onnx: clip is not written", attributes(lambda a: a.pop("clip", None)), tried("lstm", "clip", "onnx"))
    yield new(
        "onnx: clip is written double and read half",
        attributes(_scale_clip, lambda spec: spec.replace(clip=None if spec.clip is None else spec.clip / 2)),
        tried("gru-after", "clip", "onnx"),
        tried("lstm", "clip+bidirectional", "onnx"),
    )
    for field, feature in (("clip", "clip"), ("cell_clip", "cell-clip"), ("proj_clip", "projection-clip")):
        yield new(f"torch: our own module has no {field}", of_cell(**{field: inf}), tried("lstm", feature, "torch"))
    yield new(
        "keras: our own layer does not clip",
        wrapped(f"{ROOMS}.keras.faithful.clipped", lambda original, x, limit: x),
        tried("rnn-tanh", "clip", "keras"),
    )
    yield mutants_of("coupled")(
        "torch: our own module does not couple the gates", of_cell(coupled=False), tried("lstm", "coupled", "torch")
    )
    yield mutants_of("coupled")(
        "onnx: input_forget is not written",
        attributes(lambda found: found.pop("input_forget", None)),
        tried("lstm", "coupled", "onnx"),
    )


_OTHER_MERGE = {"sum": "ave", "ave": "sum", "mul": "sum"}


def _other_merge(original: Callable[..., Any], how: str, *outputs: Any) -> Any:
    return original(_OTHER_MERGE.get(how, how), *outputs)


def _merges() -> Iterator[Mutant]:
    new, keras = mutants_of("merge"), f"{ROOMS}.keras"
    for how in ("sum", "mul"):
        yield new(
            f"torch: our own module merges by another way than {how}",
            wrapped(f"{ROOMS}.torch.faithful.merged", _other_merge),
            tried("lstm", f"bidirectional-{how}", "torch"),
        )
    yield new(
        "torch: our own module puts the reverse outputs first",
        wrapped(f"{ROOMS}.torch.faithful.merged", lambda original, how, a, b: original(how, b, a)),
        tried("lstm", "bidirectional+peepholes", "torch"),
    )
    yield new(
        "keras: sum and ave are exchanged, written and read alike",
        together(
            after(f"{keras}.nodes._merge_mode", lambda mode: _OTHER_MERGE.get(mode, mode)),
            after(
                f"{keras}.nodes._both", lambda level: replace(level, merge=_OTHER_MERGE.get(level.merge, level.merge))
            ),
        ),
        tried("gru-after", "bidirectional-sum", "keras"),
    )
    yield new(
        "keras: the merge of a Bidirectional is left at concat",
        after(f"{keras}.nodes._merge_mode", lambda mode: "concat"),
        tried("lstm", "bidirectional-ave", "keras"),
    )
    yield new(
        "onnx: directions are summed for their mean",
        entries(f"{ROOMS}.onnx.writer._REDUCE", lambda found: {"ave": found["sum"]}),
        tried("lstm", "bidirectional-ave", "onnx"),
    )


# ---- how numbers are moved


def _not_permuted(original: Callable[..., Any], self: Any, weight: Any) -> Any:
    return original(replace(self, axes=tuple(range(len(self.axes)))), weight)


def _last_unwritten(original: Callable[..., Any], shape: Any, blocks: Any) -> Any:
    place, weight = blocks[-1]
    return original(shape, [*blocks[:-1], (place, 0 * weight)])


def _as_it_is(original: Callable[..., Any], shape: Any, blocks: Any) -> Any:
    [(place, weight), *more] = blocks
    return original(shape, blocks) if more else place.stored(weight).reshape(shape)


def _over_half(original: Callable[..., Any], shape: Any, blocks: Any) -> Any:
    halved = [(place, xp.cast(xp.cast(weight, "float16"), "float32")) for place, weight in blocks]
    return original(shape, halved)


def _on_host(original: Callable[..., Any], shape: Any, blocks: Any) -> Any:
    import torch

    return torch.from_numpy(xp.assemble(shape, [(place, xp.host(weight)) for place, weight in blocks]))


def _numbers() -> Iterator[Mutant]:
    new, place, assemble = mutants_of("moving"), "lstmbridge.notation.Place", "lstmbridge.arrays.assemble"
    square = (tried("lstm", "square", "keras"),)
    in_torch = (tried("lstm", "dual-bias", "torch"),)
    yield new("what is packed keeps the order of its axes", wrapped(f"{place}.stored", _not_permuted), *square)
    yield new("what is unpacked keeps the order of its axes", wrapped(f"{place}.of", _not_permuted), *square)
    yield new(
        "neither packing nor unpacking turns an axis",
        together(wrapped(f"{place}.stored", _not_permuted), wrapped(f"{place}.of", _not_permuted)),
        *square,
    )
    yield new("the last block of an array is left at zero", wrapped(assemble, _last_unwritten), *in_torch)
    yield mutants_of("dtype")("weights pass through float16", wrapped(assemble, _over_half), *in_torch)
    rnn = (tried("rnn-tanh", "no-bias", "torch"), tried("rnn-tanh", "no-bias", "torch", source="torch"))
    yield mutants_of("memory")("an array of one gate is the source's own", wrapped(assemble, _as_it_is), *rnn)
    yield mutants_of("memory")(
        "gates: the layers are handed on as they are",
        wrapped(f"{ROOMS}.gates.live.build", lambda _, targets, options: tuple(each.layer for each in targets)),
        tried("lstm", "dual-bias", "gates"),
        only="owns_memory",
    )
    yield mutants_of("memory")(
        "gates: only matrices are copied",
        wrapped("lstmbridge.arrays.own", lambda original, array: original(array) if len(array.shape) > 1 else array),
        tried("gru-after", "dual-bias", "gates"),
        tried("lstm", "plain", "gates", source="torch"),
    )
    live = f"{ROOMS}.torch.live"
    to_torch = (tried("lstm", "dual-bias", "torch", source="torch"),)
    yield mutants_of("device")(
        "torch: arrays are packed on the host",
        wrapped("lstmbridge.arrays._assemble_torch", _on_host),
        *to_torch,
        only="device",
    )
    yield mutants_of("device")(
        "torch: parameters are read by way of the host",
        after(f"{live}._arrays", lambda arrays: {name: array.cpu() for name, array in arrays.items()}),
        tried("gru-after", "dual-bias", "gates", source="torch"),
    )
    yield mutants_of("device")(
        "torch: what a layer owns was copied by NumPy",
        wrapped(
            "lstmbridge.arrays.own",
            lambda original, array: original(array) if xp.kind(array) != "torch" else _by_numpy(array),
        ),
        tried("lstm", "no-bias", "gates", source="torch"),
    )


def _by_numpy(array: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(array.numpy()))


# ---- casts


def _quiet_cast(field: str) -> Callable[..., Any]:
    def cast(original: Callable[..., Any], target: Any, dtype: str | None, **late: bool) -> Any:
        return replace(original(target, dtype, **late), **{field: getattr(target, field)})

    return cast


def _doubled(original: Callable[..., Any], targets: Any, options: Any) -> Any:
    def double(layer: Layer) -> Layer:
        return layer.replace(weights={name: xp.cast(array, "float64") for name, array in layer.weights.items()})

    return original([replace(each, layer=double(each.layer)) for each in targets], options)


def _casts() -> Iterator[Mutant]:
    where, name = (tried("lstm", "dual-bias", "torch"),), "lstmbridge.pipeline._cast"
    yield mutants_of("dtype")(
        "a cast is not said in the notes", wrapped(name, _quiet_cast("notes")), *where, only="dtype"
    )
    yield mutants_of("dtype")("a cast is called exact", wrapped(name, _quiet_cast("verdict")), *where)
    yield mutants_of("dtype")("a cast that was asked for is not done", wrapped(name, _quiet_cast("layer")), *where)
    yield mutants_of("dtype")(
        "torch: everything is built in float64", wrapped(f"{ROOMS}.torch.live.build", _doubled), *where
    )


# ---- nothing forgotten, nothing twice


def _stray(model: Any) -> Any:
    for tensor in list(model.graph.initializer):
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = f"old.{tensor.name}"
    return model


def _forgotten() -> Iterator[Mutant]:
    new = mutants_of("complete")
    for framework in ("torch", "keras", "onnx"):
        yield new(
            f"{framework}: what belongs to no recurrent layer is not listed",
            after(f"{ROOMS}.{framework}.live.read", lambda reading: replace(reading, left_alone=())),
            tried("lstm", "plain", "gates", source=framework, form="beside"),
        )
    yield new(
        "torch: what was read is listed as left alone, too",
        wrapped(
            f"{ROOMS}.torch.live.read",
            lambda original, obj, options: replace(
                original(obj, options), left_alone=tuple(dict(obj.named_parameters()))
            ),
        ),
        tried("gru-after", "dual-bias", "gates", source="torch"),
    )
    yield new(
        "the account of a conversion forgets what was left alone",
        wrapped("lstmbridge.pipeline.Migration", lambda original, *args: original(*args[:3], (), *args[4:])),
        tried("lstm", "plain", "gates", source="torch", form="beside"),
    )
    yield new(
        "onnx: the model keeps a second copy of the weights",
        after(f"{ROOMS}.onnx.live.build", _stray),
        tried("lstm", "dual-bias", "onnx"),
        only="complete",
    )
    yield new(
        "onnx: peepholes are not read",
        after(f"{ROOMS}.onnx.reader.arrays_of", lambda arrays: {k: array for k, array in arrays.items() if k != "P"}),
        tried("lstm", "peepholes", "gates", source="onnx"),
    )
    yield new(
        "onnx: biases are not read",
        after(f"{ROOMS}.onnx.reader.arrays_of", lambda arrays: {k: array for k, array in arrays.items() if k != "B"}),
        tried("gru-after", "dual-bias", "gates", source="onnx"),
    )


# ---- the way back


def _sums(original: Callable[..., Any], source: Layer, target: Any) -> Any:
    """The terms of a sum are the sum and zero."""
    entry = original(source, target)
    terms = {
        name: target.layer[name] if name in target.layer.weights else 0 * array for name, array in entry.terms.items()
    }
    return replace(entry, terms=terms)


def _subtracted(original: Callable[..., Any], source: Layer, target: Any) -> Any:
    """Of the terms of a sum, one is what the other leaves of it."""
    entry = original(source, target)
    terms = {
        name: target.layer[name] - entry.terms[name.replace(".bias.", ".recurrent_bias.")]
        if ".bias." in name
        else array
        for name, array in entry.terms.items()
    }
    return replace(entry, terms=terms)


def _back() -> Iterator[Mutant]:
    new, made = mutants_of("remainder"), "lstmbridge.remainder._made"
    dual = (tried("lstm", "dual-bias", "keras"), tried("rnn-tanh", "dual-bias", "keras", source="torch"))
    yield new("a remainder has the sum of two biases and zero", wrapped(made, _sums), *dual)
    yield new("a remainder has (b + r) - r for b", wrapped(made, _subtracted), *dual, only="round_trip")
    yield new(
        "a remainder keeps its terms in float16",
        after(made, lambda entry: replace(entry, terms={n: _rounded(a) for n, a in entry.terms.items()})),
        tried("lstm", "forget-constant", "keras"),
    )
    for field, value in (("metadata", {}), ("path", "rnn")):
        yield new(
            f"a remainder forgets the {field}",
            after(made, lambda entry, f=field, v=value: replace(entry, **{f: v})),
            tried("lstm", "dual-bias", "torch", form="stack"),
        )
    yield new(
        "a remainder forgets that it was a single bias",
        after(made, lambda entry: replace(entry, spec=entry.fitted)),
        tried("gru-after", "plain", "torch"),
    )
    yield new(
        "torch: batch_first is read as its opposite",
        after(f"{ROOMS}.torch.live._metadata", lambda found: {**found, "batch_first": not found["batch_first"]}),
        tried("lstm", "plain", "gates", source="torch"),
    )


def _rounded(array: Any) -> Any:
    return xp.cast(xp.cast(array, "float16"), "float32")


# ---- refusals


def _allowing(drop: str) -> Callable[..., Any]:
    def fit(original: Callable[..., Any], layer: Layer, holds: Any, *, allow: Any = (), **rest: Any) -> Any:
        return original(layer, holds, allow={*allow, drop}, **rest)

    return fit


_DROPPED = (
    ("drop peepholes", "lstm", "peepholes", "torch"),
    ("drop peepholes", "lstm", "peepholes", "keras"),
    ("drop coupling", "lstm", "coupled", "torch"),
    ("drop clip", "gru-after", "clip", "keras"),
    ("drop cell clip", "lstm", "cell-clip", "onnx"),
    ("forward time", "rnn-tanh", "reverse-as-processed", "torch"),
    ("processed order", "lstm", "reverse", "keras"),
    ("merge by concat", "lstm", "bidirectional-sum", "torch"),
    ("default activations", "lstm", "relu", "torch"),
    ("default activations", "gru-after", "hard-sigmoid-0.2", "keras"),
)


def _reworded(original: Callable[..., Any], spec: Spec, holds: Any) -> Any:
    return [replace(each, text="something about it") for each in original(spec, holds)]


def _refusals() -> Iterator[Mutant]:
    new = mutants_of("refusal")
    for drop, cell, feature, framework in _DROPPED:
        assert drop in DROPS
        yield new(
            f"{framework}: {drop}, without being asked ({cell} {feature})",
            wrapped("lstmbridge.pipeline.fit", _allowing(drop)),
            tried(cell, feature, framework),
        )
    yield new(
        "a refusal does not say why",
        wrapped("lstmbridge.fit.refusals", _reworded),
        tried("lstm", "projection", "onnx"),
        only="refusal",
    )
    yield new(
        "a refusal names the wrong feature",
        wrapped("lstmbridge.fit._words", lambda original, name, spec: original("clip", spec.replace(clip=1.0))),
        tried("lstm", "peepholes", "torch"),
        tried("lstm", "coupled", "keras"),
    )
    yield new(
        "the project's own module is used unasked",
        wrapped(
            "lstmbridge.pipeline._fit_one",
            lambda original, target, allow, faithful, layer: original(target, allow, True, layer),
        ),
        tried("lstm", "peepholes", "torch"),
        tried("gru-before", "plain", "torch"),
    )
    more = {
        ("torch", "reset before"): ("gru-before", "plain"),
        ("torch", "coupled input-forget"): ("lstm", "coupled"),
        ("keras", "clip"): ("lstm", "clip"),
        ("onnx", "cell clip"): ("lstm", "cell-clip"),
        ("onnx", "projection"): ("lstm", "projection"),
        ("keras", "peepholes"): ("lstm", "peepholes"),
    }
    for (framework, feature), (cell, name) in more.items():
        yield new(
            f"{framework} is said to hold {feature}",
            holding(framework, "features", lambda features, feature=feature: features | {feature}),
            tried(cell, name, framework),
        )
    for framework, feature, cell, name in (
        ("torch", "projection", "lstm", "projection"),
        ("torch", "reset after", "gru-after", "plain"),
        ("onnx", "peepholes", "lstm", "peepholes"),
    ):
        yield new(
            f"{framework} is said not to hold {feature}",
            holding(framework, "features", lambda features, feature=feature: features - {feature}),
            tried(cell, name, framework),
        )
    yield new(
        "keras: the two hard_sigmoids are near enough",
        wrapped(f"{ROOMS}.keras.layout._near", lambda original, a, b: original(a, b) or {a, b} == {0.2, 1 / 6}),
        tried("lstm", "hard-sigmoid-0.2", "keras"),
    )
    yield new(
        "a file is opened before its layers are fitted",
        wrapped("lstmbridge.pipeline._target", _opened),
        tried("lstm", "peepholes", "torch.safetensors"),
        only="refusal",
    )


def _opened(original: Callable[..., Any], to: Any, path: Any) -> Any:
    if path is not None:
        path.touch()
    return original(to, path)


# ---- gradients


def _frozen_biases(original: Callable[..., None], module: Any, arrays: Any) -> None:
    original(module, arrays)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("bias" not in name)


def _frozen(original: Callable[..., None], module: Any, arrays: Any) -> None:
    original(module, arrays)
    module.requires_grad_(False)


def _straight_through(original: Callable[..., Any], x: Any, limit: float) -> Any:
    return x + (original(x, limit) - x).detach()


def _not_trainable(original: Callable[..., None], layer: Any, features: int) -> None:
    original(layer, features)
    layer.trainable = False


def _stopped(original: Callable[..., Any], self: Any, x: Any, states: Any) -> Any:
    import keras

    return original(self, x, [keras.ops.stop_gradient(state) for state in states])


def _gradients() -> Iterator[Mutant]:
    new, modules, own = mutants_of("gradient"), f"{ROOMS}.torch.modules", f"{ROOMS}.torch.faithful"
    yield new(
        "torch: parameters are built frozen",
        wrapped(f"{modules}._fill", _frozen),
        tried("lstm", "dual-bias", "torch"),
        only="gradients",
    )
    yield new(
        "torch: biases are built frozen",
        wrapped(f"{modules}._fill", _frozen_biases),
        tried("gru-after", "dual-bias", "torch"),
    )
    yield new(
        "torch: our own module lets no gradient through the state",
        wrapped(f"{own}.gru_step", lambda original, cell, w, x, h: original(cell, w, x, h.detach())),
        tried("gru-before", "plain", "torch"),
    )
    yield new(
        "torch: our own module lets no gradient through c",
        wrapped(f"{own}.lstm_step", lambda original, cell, w, x, h, c: original(cell, w, x, h, c.detach())),
        tried("lstm", "peepholes", "torch"),
    )
    yield new(
        "torch: our own module lets no gradient through its gates",
        wrapped(
            f"{own}.activate",
            lambda original, function, x: original(function, x.detach() if function.name == "sigmoid" else x),
        ),
        tried("lstm", "coupled", "torch"),
    )
    yield new(
        "torch: our own module clips with the gradient of the identity",
        wrapped(f"{own}.clipped", _straight_through),
        tried("gru-after", "clip", "torch"),
    )
    yield new(
        "keras: a layer is built that is not trainable",
        wrapped(f"{ROOMS}.keras.live._build", _not_trainable),
        tried("lstm", "plain", "keras"),
    )
    yield new(
        "keras: our own layer lets no gradient through the state",
        wrapped(f"{ROOMS}.keras.faithful.Cell.call", _stopped),
        tried("lstm", "peepholes", "keras"),
        only="gradients",
    )


# ---- files


def _files() -> Iterator[Mutant]:
    new, keras = mutants_of("file"), f"{ROOMS}.keras"
    yield new(
        "torch: a .safetensors file does not say what a state dict does not",
        wrapped("lstmbridge.tensorfile.save", lambda original, arrays, path, metadata=None: original(arrays, path)),
        tried("rnn-relu", "plain", "torch.safetensors"),
    )
    yield new(
        "keras: a .keras file is read with the recurrent kernel first",
        constant(f"{keras}.files.VARIABLES", ("recurrent_kernel", "kernel", "bias")),
        tried("lstm", "square", "keras.keras"),
    )
    yield new(
        "keras: a .keras file is written with the recurrent kernel first",
        after(f"{keras}.writing._arrays", _kernels_last),
        tried("lstm", "square", "keras.keras"),
    )
    yield new(
        "keras: a .keras file is written and read with the recurrent kernel first",
        together(
            after(f"{keras}.writing._arrays", _kernels_last),
            constant(f"{keras}.files.VARIABLES", ("recurrent_kernel", "kernel", "bias")),
        ),
        tried("gru-after", "square", "keras.keras"),
        only="forward",
    )
    yield new(
        "onnx: a file has W and R exchanged",
        after(f"{ROOMS}.onnx.writer.Draft.arrays", lambda arrays: _second_first(list(arrays))),
        tried("lstm", "square", "onnx.onnx"),
    )
    yield new(
        "gates: a file does not say that a layer clips",
        after(
            f"{ROOMS}.gates.files._entry",
            lambda entry: {**entry, "spec": {k: v for k, v in entry["spec"].items() if k != "clip"}},
        ),
        tried("lstm", "clip", "gates.npz"),
    )
    yield new(
        "gates: the directions of a layer are exchanged in a file",
        wrapped(
            f"{ROOMS}.gates.files._save_npz",
            lambda original, path, arrays, text: original(path, {_other_way(n): a for n, a in arrays.items()}, text),
        ),
        tried("lstm", "bidirectional", "gates.npz"),
    )


def _kernels_last(cells: Any) -> Any:
    return [(cell, [*arrays[1::-1], *arrays[2:]]) for cell, arrays in cells]


def _second_first(arrays: list[Any]) -> list[Any]:
    return [*arrays[1::-1], *arrays[2:]]


def _other_way(name: str) -> str:
    turned = {"forward": "reverse", "reverse": "forward"}
    label, _, weight = name.rpartition("/")
    direction, _, rest = weight.partition(".")
    return f"{label}/{turned[direction]}.{rest}"


def _accounts() -> Iterator[Mutant]:
    """What only a large layer, a second look at the remainder, or the report would show."""

    def short(original: Callable[..., None], target: np.ndarray, source: np.ndarray) -> None:
        original(target, source)
        if target.ndim == 2 and min(target.shape) > 16 and source.strides[0] < source.strides[1]:
            target[:, 16:] = 0

    merged = tried("lstm", "dual-bias", "keras")
    yield mutants_of("moving")(
        "the last tile of a transposing copy is left out",
        wrapped("lstmbridge.arrays._copy", short),
        tried("lstm", "tiles", "keras"),
    )
    yield mutants_of("memory")(
        "the remainder's terms are the source's own",
        after("lstmbridge.pipeline.fit", lambda made: replace(made, terms={n: made.source[n] for n in made.terms})),
        merged,
    )
    yield mutants_of("verdict")("a merge is called exact", constant("lstmbridge.fit.REPARAMETERISED", "exact"), merged)


def _trained() -> Iterator[Mutant]:
    """What only a step of training shows, or the next one after a change of frameworks."""
    new, torch, keras = mutants_of("training"), f"{ROOMS}.torch.optimizing", f"{ROOMS}.keras.training"

    def on(optimizer: str, cell: str = "lstm", feature: str = "plain") -> tuple[Tried, ...]:
        ways = (("keras", "torch"), ("torch", "keras"))
        return tuple(replace(tried(cell, feature, to, source), optimizer=optimizer) for source, to in ways)

    for optimizer, key, factor in (
        ("sgd-momentum", ("sgd", "momentum"), 1.0),
        ("rmsprop-momentum", ("rmsprop", "momentum"), -1.0),
    ):
        name = f"keras: the momentum of {optimizer} has the other sign"
        yield new(name, entries(f"{keras}._RATED", lambda _, k=key, f=factor: {k: f}), *on(optimizer), only="training")
    yield new(
        "torch: the momentum of adam is its velocity",
        entries(f"{torch}._SLOTS", lambda _: {"adam": {"exp_avg": "velocity", "exp_avg_sq": "momentum"}}),
        *on("adam"),
        only="training",
    )
    for room in ("torch", "keras"):
        yield new(
            f"{room}: an optimizer begins at step 0",
            wrapped(
                f"{ROOMS}.{room}.training.build",
                lambda original, state, *args: original(state.replace(step=0), *args),
            ),
            *on("adam"),
            only="training",
        )
    yield new(
        "of an optimizer only the settings move",
        wrapped("lstmbridge.training.carried", lambda original, slots, *args: {slot: {} for slot in slots}),
        *on("adagrad", "gru-after", "dual-bias"),
        only="training",
    )
    yield new(
        "what is kept for the two biases of a GRU is exchanged",
        after("lstmbridge.training.carried", _exchanged_biases),
        *on("adam", "gru-after", "dual-bias"),
        only="training",
    )
    yield new(
        "torch: amsgrad is left out",
        after(f"{ROOMS}.torch.training.group_of", lambda found: (found[0], {**found[1], "amsgrad": False})),
        *on("adam-amsgrad"),
        only="training",
    )
    yield new(
        "the second bias is trained, too",
        after(f"{ROOMS}.torch.training.second_biases", lambda names: []),
        *on("sgd")[:1],
        only="training",
    )
    yield mutants_of("gradients")(
        "of two merged biases the second has no gradient",
        after(
            "lstmbridge.testing.running.adjoint",
            lambda found: {n: a for n, a in found.items() if ".recurrent_bias." not in n},
        ),
        tried("lstm", "dual-bias", "keras", "torch"),
        only="gradients",
    )
    yield mutants_of("gradients")(
        "of two merged biases each has half of the gradient",
        after(
            "lstmbridge.testing.running.adjoint",
            lambda found: {n: a / 2 if "bias" in n else a for n, a in found.items()},
        ),
        tried("lstm", "dual-bias", "keras", "torch"),
        only="gradients",
    )


def _exchanged_biases(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    words = {"bias": "recurrent_bias", "recurrent_bias": "bias"}

    def twin(name: str) -> str:
        return ".".join(words.get(word, word) for word in name.split("."))

    return {slot: {name: weights[twin(name)] for name in weights} for slot, weights in found.items()}


MUTANTS: tuple[Mutant, ...] = (
    *_trained(),
    *_accounts(),
    *_gate_orders(),
    *_signs(),
    *_lines(),
    *_directions(),
    *_time(),
    *_states(),
    *_stacks(),
    *_fits(),
    *_equations(),
    *_numbers(),
    *_casts(),
    *_forgotten(),
    *_back(),
    *_refusals(),
    *_gradients(),
    *_files(),
)
