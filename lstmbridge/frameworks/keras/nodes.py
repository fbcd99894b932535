"""What a Keras layer's config says, and the config of a layer that computes a Spec; nothing imports Keras.

A *node* is a layer as Keras serialises it: ``{"class_name": ..., "config": {...}}``. Objects give one by ``get_config``
and files hold them, so what is said about nodes goes for both.

Source: keras/src/layers/rnn/*.py and keras/src/saving/saving_lib.py (Keras 3.15); for layers that are no more,
keras/layers/{recurrent,cudnn_recurrent}.py (Keras 1.2.2, 2.3.1).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.frameworks.keras import cudnn
from lstmbridge.frameworks.keras.era import modern
from lstmbridge.frameworks.keras.layout import (
    KERAS1_LAYOUTS,
    KERAS3,
    LAYOUTS,
    Dialect,
    activation_config,
    activation_of,
    dialect,
)
from lstmbridge.layer import Array, Layer
from lstmbridge.notation import Layout
from lstmbridge.spec import ROLES, Spec

__all__ = [
    "CELLS",
    "FAITHFUL_NAME",
    "CellAt",
    "Level",
    "Node",
    "cell_of",
    "is_recurrent",
    "levels",
    "make_layers",
    "node_of",
    "outputs",
    "plain",
    "policy",
    "snake",
    "unique",
]

Node = dict[str, Any]

#: Keras' cells, and the cell inside each layer.
CELLS: Mapping[str, str] = {"LSTMCell": "lstm", "GRUCell": "gru", "SimpleRNNCell": "rnn"}
LAYERS: Mapping[str, str] = {"LSTM": "LSTMCell", "GRU": "GRUCell", "SimpleRNN": "SimpleRNNCell"}
CUDNN: Mapping[str, str] = {"CuDNNLSTM": "lstm", "CuDNNGRU": "gru"}  # layers without a cell
_CELL_OF: Mapping[str, str] = {**CELLS, **CUDNN}
_LAYER_OF = {CELLS[cell]: layer for layer, cell in LAYERS.items()}
_WRAPPERS = ("RNN", "Bidirectional", "StackedRNNCells")

#: Keras' other recurrent layers, of this version and older ones: known, and not understood.
_OTHERS = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "ConvLSTM2DCell", "ConvRecurrent2D")

#: Our own layer: the name Keras registers it under, and its module.
FAITHFUL_NAME = "lstmbridge>Recurrent"
FAITHFUL_MODULE = "lstmbridge.frameworks.keras.faithful"

#: What a Keras 2 config says that does not change what is computed, and that Keras 3 says alike.
_KEPT = ("name", "trainable", "return_sequences", "return_state", "stateful", "unroll", "dropout", "recurrent_dropout")


@dataclass(frozen=True)
class CellAt:
    """A cell inside a layer, or a layer that has none (``CuDNNLSTM``).

    kind    its class, e.g. ``LSTMCell``
    config  the config that says its units and activations: the layer's own, or the cell's, in the words of Keras 2
    where   the attributes that lead from the layer to it; a number is an index
    group   the same way as Keras' files have it, e.g. ``cell/cells/lstm_cell_1``
    """

    kind: str
    config: Node
    where: tuple[str | int, ...]
    group: str


@dataclass(frozen=True)
class Level:
    """One layer in canonical form, found in a Keras layer: a cell for each direction, or our own layer's Spec."""

    cells: Mapping[str, CellAt] = field(default_factory=dict)
    merge: str = "concat"
    processed_order: bool = False
    spec: Spec | None = None


def cell_of(kind: str) -> str:
    """The canonical name of a cell's class: ``lstm``, ``gru`` or ``rnn``."""
    return _CELL_OF[kind]


def is_recurrent(class_name: str) -> bool:
    """Whether a class of that name is a recurrent layer of Keras or our own, understood or not."""
    return class_name in (*LAYERS, *_CELL_OF, *_WRAPPERS, *_OTHERS, "Recurrent", FAITHFUL_NAME)


# ---- from a node to layers


def levels(node: Node, who: str) -> list[Level]:
    """The layers that a recurrent layer's node holds: one, or one a level of a stack of cells.

    Errors: Unsupported, naming the class, for a recurrent layer that is not understood.
    """
    kind, config = str(node["class_name"]), node["config"]
    if kind in ("Recurrent", FAITHFUL_NAME) and "spec" in config:
        told = config["spec"]
        return [Level(spec=Spec.from_json(told if isinstance(told, str) else json.dumps(told)))]
    if kind in CELLS:
        return [Level({"forward": CellAt(kind, config, (), "")})]
    if kind == "StackedRNNCells":
        return [Level({"forward": cell}) for cell in _cells(node, (), "", who)]
    if kind in LAYERS:
        return [_one(CellAt(LAYERS[kind], modern(config), ("cell",), "cell"), bool(config.get("go_backwards")))]
    if kind in CUDNN:
        return [_one(CellAt(kind, config, (), ""), bool(config.get("go_backwards")))]
    if kind == "RNN":
        cells = list(_cells(config["cell"], ("cell",), "cell", who))
        backwards = bool(config.get("go_backwards"))  # then every later level reads the sequence already turned round
        return [_one(cell, backwards and n == 0) for n, cell in enumerate(cells)]
    if kind == "Bidirectional":
        return [_both(node, who)]
    raise Unsupported(
        f"{who}: a recurrent layer of the class {kind!r} is not understood",
        f"understood: {', '.join((*LAYERS, *_CELL_OF, 'RNN', 'Bidirectional'))}",
        "to convert the other layers of this model, pick them: layers= (--layer)",
    )


def _one(cell: CellAt, backwards: bool) -> Level:
    return Level({"reverse" if backwards else "forward": cell}, processed_order=backwards)


def _cells(node: Node, where: tuple[str | int, ...], group: str, who: str) -> Iterator[CellAt]:
    """The cells of an RNN's cell: itself, or those stacked in it."""
    kind = str(node["class_name"])
    if kind in CELLS:
        yield CellAt(kind, node["config"], where, group)
        return
    inner = node["config"].get("cells") if kind == "StackedRNNCells" else None
    strangers = [kind] if not inner else [c["class_name"] for c in inner if c["class_name"] not in CELLS]
    if strangers or not inner:
        raise Unsupported(
            f"{who}: a cell of the class {strangers[0]!r} is not understood", f"understood: {', '.join(CELLS)}"
        )
    for n, (name, cell) in enumerate(zip(unique(c["class_name"] for c in inner), inner, strict=True)):
        yield CellAt(cell["class_name"], cell["config"], (*where, "cells", n), f"{group}/cells/{name}".lstrip("/"))


def _both(node: Node, who: str) -> Level:
    """The two directions of a Bidirectional as one layer. Errors: Unsupported for two that are not alike."""
    config = node["config"]
    forward, backward = config["layer"], config.get("backward_layer")
    if forward["config"].get("go_backwards"):
        raise Unsupported(f"{who}: a Bidirectional whose forward layer goes backwards", "swap its two layers")
    cells = {}
    for direction, inner in (("forward", forward), ("reverse", backward or forward)):
        found = levels(inner, who)
        if len(found) > 1 or not found[0].cells:
            raise Unsupported(
                f"{who}: a Bidirectional of {'stacked cells' if len(found) > 1 else inner['class_name']}",
                "expected one cell a direction: make it several Bidirectional layers",
            )
        [cell] = found[0].cells.values()
        attribute = "forward_layer" if direction == "forward" else "backward_layer"
        group = f"{attribute}/{cell.group}".rstrip("/")
        cells[direction] = CellAt(cell.kind, cell.config, (attribute, *cell.where), group)
    _expect_alike(cells["forward"], cells["reverse"], who)
    return Level(cells, merge=config.get("merge_mode", "concat") or "none")


def _expect_alike(forward: CellAt, backward: CellAt, who: str) -> None:
    for name, one, other in (
        ("class", forward.kind, backward.kind),
        *((key, forward.config.get(key), backward.config.get(key)) for key in ("units", "use_bias", "reset_after")),
    ):
        if one != other:
            raise Unsupported(
                f"{who}: the two directions of a Bidirectional differ in {name}: {one} and {other}",
                "expected the same; make it two layers, one with go_backwards=True",
            )


def spec_of(level: Level, input_size: int, known: Dialect, who: str, *, cudnn: bool = False) -> Spec:
    """What a level computes on inputs of that size; with `cudnn`, its arrays are those of a CuDNN layer.

    Errors: Unsupported for an activation that is not known; LayoutError for units that are no size, and for a GRU whose
    config resets before and whose arrays after.
    """
    if level.spec is not None:
        return level.spec
    first = next(iter(level.cells.values()))
    cell, config = _CELL_OF[first.kind], first.config
    after = cell != "gru" or first.kind in CUDNN or bool(config.get("reset_after", cudnn or known.reset_after))
    if cudnn and not after:
        raise LayoutError(f"{who}: the arrays of a CuDNNGRU, which resets after", "its config says reset_after=False")
    biases = "dual" if cudnn or (cell == "gru" and after) else "single"
    activations = [_activations(each, known, who) for each in level.cells.values()]
    return Spec(
        cell=cell,
        input_size=input_size,
        hidden_size=_units(config, who),
        directions=tuple(level.cells),
        bias=biases if config.get("use_bias", True) else "none",
        activations=activations[0],
        reverse_activations=activations[1] or None if len(activations) > 1 else None,
        reset_after=after,
        merge=level.merge,
        processed_order=level.processed_order,
    )


def _units(config: Node, who: str) -> int:
    """h, as the config says it; a Spec checks that it is a size. Errors: LayoutError for what is no number."""
    units: Any = config.get("units")
    whole = isinstance(units, int | float) and not isinstance(units, bool) and float(units).is_integer()
    if not whole:
        raise LayoutError(f"{who}: its config says units = {units!r}", "expected a whole number of at least 1")
    return int(units)


def _activations(at: CellAt, known: Dialect, who: str) -> tuple[Any, ...]:
    if at.kind in CUDNN:
        return ()  # cuDNN has one set: sigmoid and tanh
    cell, config = CELLS[at.kind], at.config
    output = activation_of(config.get("activation", "tanh"), known, who)
    if cell == "rnn":
        return (output,)
    told = config.get("recurrent_activation", known.recurrent_activation)
    if told is None and "recurrent_activation" not in config:
        raise Unsupported(
            f"{who}: its config does not say recurrent_activation",
            "the default was hard_sigmoid before Keras 2.3, and is sigmoid since",
        )
    return (activation_of(told, known, who), output, output)[: len(ROLES[cell])]


def make_layers(
    node: Node,
    fetch: Callable[[CellAt | None], Mapping[str, Array]],
    *,
    path: str,
    known: Dialect,
    version: str | None,
    where: str = "",
    after: str | None = None,
) -> list[Layer]:
    """The layers of a node, in order.

    `fetch` gives the variables of one of its cells by name (kernel, recurrent_kernel, bias), or for None, of our own
    layer (``forward_kernel`` ...). `where` is the file, for messages. Errors: Unsupported for what is not understood;
    LayoutError for arrays that are not what the config says, with both.
    """
    who = f"{where + ': ' if where else ''}keras {node['class_name']} {path!r}"
    found = levels(node, who)
    metadata: dict[str, Any] = {
        "framework": "keras",
        "class": _class_path(str(node["class_name"])),
        "batch_first": not node["config"].get("time_major", False),
        "keras_version": version,
        "config": plain(node["config"]),
    }
    layers: list[Layer] = []
    for n, level in enumerate(found):
        number = n if len(found) > 1 else None
        at = who if number is None else f"{who} level {number}"
        arrays, cudnn_memory = _plain(level, _arrays(level, fetch), at)
        spec = spec_of(level, _input_size(arrays, level, who), known, who, cudnn=cudnn_memory)
        weights = _layout(spec, arrays).unpack(arrays, spec, who=at)
        before = layers[-1].label if layers else after
        told = {**metadata, "stored": "cudnn"} if cudnn_memory else metadata
        layers.append(Layer(spec=spec, weights=weights, path=path, level=number, after=before, metadata=told))
    return layers


def _class_path(kind: str) -> str:
    name = kind.rpartition(">")[2]
    return f"{FAITHFUL_MODULE}.{name}" if name == "Recurrent" else f"keras.layers.{name}"


def _arrays(level: Level, fetch: Callable[[CellAt | None], Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of one level under the names of `LAYOUTS`."""
    if level.spec is not None:
        named = fetch(None)
        keys = LAYOUTS[level.spec.cell].keys(level.spec)
        return {key: named[key.replace(".", "_")] for key in keys if key.replace(".", "_") in named}
    return {f"{d}.{name}": array for d, cell in level.cells.items() for name, array in fetch(cell).items()}


def _plain(level: Level, arrays: dict[str, Array], who: str) -> tuple[dict[str, Array], bool]:
    """The arrays as plain layers have them, and whether they were those of a CuDNN layer.

    The arrays decide, not the class: weights of a CuDNNLSTM go into a model of LSTM, too. Errors: LayoutError if only
    one direction is stored so.
    """
    sides = {d: {key.partition(".")[2]: arrays[key] for key in arrays if key.startswith(f"{d}.")} for d in level.cells}
    stored = {d: cudnn.stored_so(side) for d, side in sides.items()}
    if not any(stored.values()):
        return arrays, False
    if not all(stored.values()):
        raise LayoutError(f"{who}: the arrays of one direction are a CuDNN layer's, the other's are not")
    plain = {d: cudnn.plain(side, f"{who} {d}") for d, side in sides.items()}
    return {f"{d}.{name}": array for d, side in plain.items() for name, array in side.items()}, True


def _layout(spec: Spec, arrays: Mapping[str, Array]) -> Layout:
    """How the arrays are stored: an array a gate, as Keras 1 has it, or as every version since."""
    a_gate_each = any(key.partition(".")[2].startswith(("W_", "U_")) for key in arrays)
    return KERAS1_LAYOUTS[spec.cell] if a_gate_each and spec.cell in KERAS1_LAYOUTS else LAYOUTS[spec.cell]


def _input_size(arrays: Mapping[str, Array], level: Level, who: str) -> int:
    """i, as the kernel tells it."""
    if level.spec is not None:
        return level.spec.input_size
    direction = next(iter(level.cells))
    names = [f"{direction}.kernel", *(key for key in arrays if key.startswith(f"{direction}.W_"))]
    kernel = next((arrays[name] for name in names if name in arrays), None)
    if kernel is None or len(kernel.shape) != 2:
        found = "none" if kernel is None else f"one of shape {tuple(kernel.shape)}"
        raise LayoutError(f"{who}: no kernel", f"found {found}", "expected i (g h)")
    return int(kernel.shape[0])


def plain(config: Any) -> Any:
    """A config as JSON has it, without the ids by which Keras tells shared objects (they differ each time)."""
    return _without("shared_object_id", json.loads(json.dumps(config, default=str)))


def _without(name: str, value: Any) -> Any:
    """A copy of a nest of dicts and lists in which no dict has the key `name`."""
    if isinstance(value, dict):
        return {key: _without(name, each) for key, each in value.items() if key != name}
    return [_without(name, each) for each in value] if isinstance(value, list) else value


# ---- from layers to a node


def node_of(layers: Sequence[Layer], name: str, *, faithful: bool = False, cell: bool = False) -> Node:
    """The node of one Keras layer that computes `layers`: one layer, or the levels of a stack of cells.

    Where they came from Keras, their own config is kept, but for what the Spec says otherwise. `name` replaces the
    config's ("": does not). With `cell`, a layer that came from a cell becomes one again.
    """
    own = layers[0].metadata if layers[0].metadata.get("framework") == "keras" else {}
    if faithful:
        node = _faithful(layers[0], own)
    else:
        node = _from_source(layers, own, cell) or _fresh(layers, own)
    _set_policy(node, layers[0].dtype)
    if name:
        node["config"]["name"] = name
    node["config"].setdefault("name", snake(node["class_name"].rpartition(">")[2]))
    return node


def policy(dtype: str) -> Node:
    """Keras' dtype policy of that name, as a config has it."""
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}, "registered_name": None}


def _node(kind: str, config: Node, module: str = "keras.layers", registered: str | None = None) -> Node:
    return {"module": module, "class_name": kind, "config": config, "registered_name": registered}


def _is_keras2(own: Mapping[str, Any]) -> bool:
    return dialect(own.get("keras_version")) != KERAS3


def _kept(own: Mapping[str, Any]) -> Node:
    """What a source's config says about the layer as a layer: its name, what it returns, its dropout."""
    config = own.get("config", {})
    inner = config["layer"]["config"] if "layer" in config else config
    kept = {key: inner[key] for key in _KEPT if key in inner}
    return {**kept, "name": config["name"]} if "name" in config else kept


def _from_source(layers: Sequence[Layer], own: Mapping[str, Any], cell: bool) -> Node | None:
    """The source's own node with the Specs' features; None if it was no stock layer of Keras 3 of this kind."""
    kind = str(own.get("class", "")).rpartition(".")[2]
    if not own.get("config") or _is_keras2(own) or kind == "Recurrent" or (kind in CELLS and not cell):
        return None
    node = _node(kind, _without("build_config", own["config"]))  # a batch size may be in it
    found = levels(node, "keras")
    if len(found) != len(layers) or any(_shape(a) != _shape_of(b.spec) for a, b in zip(found, layers, strict=True)):
        return None
    for level, layer in zip(found, layers, strict=True):
        if spec_of(level, layer.spec.input_size, KERAS3, "keras") == layer.spec:
            continue
        for direction, at in level.cells.items():
            at.config.update(_cell_config(layer.spec, direction, layer.dtype))
    if layers[0].spec.bidirectional:
        node["config"]["merge_mode"] = _merge_mode(layers[0].spec)
    return node


def _shape(level: Level) -> tuple[str, ...]:
    return (CELLS[next(iter(level.cells.values())).kind], *level.cells)


def _shape_of(spec: Spec) -> tuple[str, ...]:
    return (spec.cell, *spec.directions)


def _merge_mode(spec: Spec) -> str | None:
    return None if spec.merge == "none" else spec.merge


def _cell_config(spec: Spec, direction: str, dtype: str) -> Node:
    """What a cell's config says of a Spec."""
    config: Node = {
        "units": spec.hidden_size,
        "activation": activation_config(spec.activation("candidate", direction), policy(dtype)),
        "use_bias": spec.bias != "none",
    }
    if spec.cell != "rnn":
        config["recurrent_activation"] = activation_config(spec.activation("gate", direction), policy(dtype))
    if spec.cell == "gru":
        config["reset_after"] = spec.reset_after
    return config


def _fresh(layers: Sequence[Layer], own: Mapping[str, Any]) -> Node:
    """A new node: LSTM, GRU or SimpleRNN, a Bidirectional of two, or an RNN of several cells."""
    spec, dtype = layers[0].spec, layers[0].dtype
    kept = _kept(own)
    kept.pop("name", None)
    if len(layers) > 1:
        return _fresh_stack(layers, kept)
    returns = {"return_sequences": True, "return_state": False, **kept}
    single = {
        direction: _node(
            _LAYER_OF[spec.cell],
            {**returns, "go_backwards": direction == "reverse", **_cell_config(spec, direction, dtype)},
        )
        for direction in spec.directions
    }
    name = {"name": own["config"]["name"]} if own.get("config", {}).get("name") else {}
    if not spec.bidirectional:
        [node] = single.values()
        node["config"].update(name)
        return node
    for direction, prefix in (("forward", "forward"), ("reverse", "backward")):
        single[direction]["config"]["name"] = f"{prefix}_{_LAYER_OF[spec.cell].lower()}"
    config = {"merge_mode": _merge_mode(spec), "layer": single["forward"], "backward_layer": single["reverse"]}
    return _node("Bidirectional", {**name, **config})


def _fresh_stack(layers: Sequence[Layer], kept: Node) -> Node:
    names = unique(LAYERS[_LAYER_OF[layer.spec.cell]] for layer in layers)
    cells = [
        _node(LAYERS[_LAYER_OF[layer.spec.cell]], {"name": name, **_cell_config(layer.spec, "forward", layer.dtype)})
        for name, layer in zip(names, layers, strict=True)
    ]
    stacked = _node("StackedRNNCells", {"name": "stacked_rnn_cells", "cells": cells})
    backwards = layers[0].spec.directions == ("reverse",)
    return _node(
        "RNN", {"return_sequences": True, "return_state": False, **kept, "go_backwards": backwards, "cell": stacked}
    )


def _faithful(layer: Layer, own: Mapping[str, Any]) -> Node:
    kind = str(own.get("class", "")).rpartition(".")[2]
    base = copy.deepcopy(own.get("config", {})) if kind == "Recurrent" else {}
    kept = {key: value for key, value in _kept(own).items() if key in ("name", "trainable", "return_sequences")}
    config = {"return_sequences": True, **kept, **base, "spec": json.loads(layer.spec.to_json())}
    return _node("Recurrent", config, FAITHFUL_MODULE, FAITHFUL_NAME)


def _set_policy(node: Node, dtype: str) -> None:
    """Gives a node, and those inside it, a dtype policy whose variables have that dtype, where it has another."""
    config = node["config"]
    if _variable_dtype(config.get("dtype")) != dtype:
        config["dtype"] = policy(dtype)
        if dtype in ("float16", "bfloat16") and "units" in config:  # no orthogonal matrix can be drawn in these
            config["recurrent_initializer"] = "glorot_uniform"
    inner = [config[key] for key in ("layer", "backward_layer", "cell") if isinstance(config.get(key), dict)]
    for each in (*inner, *(config.get("cells") or ())):
        _set_policy(each, dtype)


def _variable_dtype(told: Any) -> str | None:
    """The dtype of the variables under a config's dtype: its own, float32 for a mixed policy."""
    name = told["config"].get("name") if isinstance(told, dict) else told
    return "float32" if str(name).startswith("mixed_") else name


# ---- names


def snake(class_name: str) -> str:
    """A class name as Keras' files have it: ``SimpleRNNCell`` is ``simple_rnn_cell``.

    >>> snake("SimpleRNNCell"), snake("TimeDistributed"), snake("RNN")
    ('simple_rnn_cell', 'time_distributed', 'rnn')
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def unique(class_names: Iterable[str]) -> list[str]:
    """The names that Keras' files give to members of a list: by class, counted.

    >>> unique(["LSTM", "Dense", "LSTM"])
    ['lstm', 'dense', 'lstm_1']
    """
    used: dict[str, int] = {}
    names = []
    for name in map(snake, class_names):
        used[name] = used.get(name, -1) + 1
        names.append(f"{name}_{used[name]}" if used[name] else name)
    return names


def outputs(layers: Sequence[Layer], node: Node) -> int:
    """How many tensors a layer of that node returns."""
    config = node["config"]
    inner = config["layer"]["config"] if node["class_name"] == "Bidirectional" else config
    first = 2 if layers[0].spec.bidirectional and layers[0].spec.merge == "none" else 1
    states = sum(len(each.spec.directions) * (2 if each.spec.cell == "lstm" else 1) for each in layers)
    return first + (states if inner.get("return_state") else 0)
