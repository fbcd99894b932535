"""New models as nodes: the Keras layers that targets become, and a model that runs them, each under its label.

Nothing imports Keras. Source: keras/src/models/{sequential,functional}.py and keras/src/saving/serialization_lib.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lstmbridge.contract import WriteOptions
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.keras.graph import children, groups_of, histories, is_container, join, name_of
from lstmbridge.frameworks.keras.nodes import Node, levels, node_of, outputs, policy
from lstmbridge.layer import Layer

__all__ = ["Unit", "container", "placed", "units"]

@dataclass(frozen=True, eq=False)
class Unit:
    """One Keras layer to be.

    label    its path in the model
    targets  the layers it holds: several for an RNN of several cells
    node     its config
    reads    the unit whose outputs it reads, by number; None: an input of the model
    """

    label: str
    targets: tuple[Fitted, ...]
    node: Node
    reads: int | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers it holds, as fitted."""
        return tuple(target.layer for target in self.targets)

    @property
    def input_shape(self) -> list[int | None]:
        """(b, t, i) with b and t open."""
        return [None, None, self.layers[0].spec.input_size]


def units(targets: Sequence[Fitted], options: WriteOptions, *, cells: bool = False) -> list[Unit]:
    """The Keras layers that these targets become, in order, each with a label of its own.

    Levels of one path become one RNN of several cells if they were one, or with `options.stack` where they can be; else
    each is a layer by its label. With `cells`, a single layer that came from a cell becomes a cell. Errors: LayoutError
    for no targets, for labels that are alike, or for one that cannot read what it is said to read.
    """
    if not targets:
        raise LayoutError("keras: no layers to build", "expected at least one")
    groups = list(_groups(targets, options))
    made = [_unit(group, groups, cells) for group in groups]
    labels = [unit.label for unit in made]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise LayoutError(f"keras: two layers are named {twice[0]!r}", "give one another name: rename= (--rename)")
    return made


def _unit(group: tuple[Fitted, ...], groups: list[tuple[Fitted, ...]], cells: bool) -> Unit:
    layers = [target.layer for target in group]
    label = (layers[0].path if len(group) > 1 else layers[0].label).strip("/").replace("/", ".")
    single = cells and len(groups) == 1
    node = node_of(layers, label.rpartition(".")[2], faithful=group[0].module == "faithful", cell=single)
    return Unit(label or str(node["config"]["name"]), group, node, _reads(layers[0], groups))


def _groups(targets: Sequence[Fitted], options: WriteOptions) -> Iterator[tuple[Fitted, ...]]:
    """The targets in stretches that become one Keras layer each."""
    start = 0
    for n in range(1, len(targets) + 1):
        one, other = targets[n - 1].layer, targets[n].layer if n < len(targets) else None
        follows = other is not None and other.level is not None and one.level is not None
        if follows and other is not None and one.path == other.path and other.level == (one.level or 0) + 1:
            continue
        stretch = tuple(targets[start:n])
        together = len(stretch) > 1 and _stacks(stretch, options)
        yield from ((stretch,) if together else ((each,) for each in stretch))
        start = n


def _stacks(stretch: tuple[Fitted, ...], options: WriteOptions) -> bool:
    """Whether these levels go into one RNN of several cells."""
    if any(target.module == "faithful" for target in stretch):
        return False
    if all(str(target.layer.metadata.get("class", "")).startswith("keras.layers.") for target in stretch):
        node = {"class_name": str(stretch[0].layer.metadata["class"]).rpartition(".")[2],
                "config": stretch[0].layer.metadata["config"]}  # fmt: skip
        return stretch[0].layer.level == 0 and len(levels(node, "keras")) == len(stretch)
    return options.stack and all(target.layer.spec.directions == ("forward",) for target in stretch)


def _reads(layer: Layer, groups: list[tuple[Fitted, ...]]) -> int | None:
    """The number of the group whose outputs `layer` reads. Errors: LayoutError if their sizes do not fit."""
    for n, group in enumerate(groups):
        source = group[-1].layer
        if layer.after is None or source.label != layer.after or source is layer:
            continue
        if source.spec.bidirectional and source.spec.merge == "none":
            raise Unsupported(
                f"keras: {layer.label!r} reads {source.label!r}, whose two outputs are kept apart",
                'expected one: merge="concat"',
            )
        if source.spec.output_size != layer.spec.input_size:
            raise LayoutError(
                f"keras: {layer.label!r} reads {source.label!r}, which gives {source.spec.output_size} features",
                f"expected {layer.spec.input_size}",
            )
        return n
    return None


# ---- the model that runs them


@dataclass(frozen=True, eq=False)
class _Part:
    """A layer, or a model of several, in a model to be.

    inputs   for each input the unit that is fed by it, and the unit that feeds it (None: nobody in the whole model)
    outputs  for each output the unit that gives it
    """

    node: Node
    inputs: list[tuple[int, int | None]]
    outputs: list[int]


def container(made: Sequence[Unit]) -> Node:
    """The node of a model that runs the units: a Sequential for one chain, else a graph with an input a chain.

    A dot in a label makes a model inside the model, so a layer's names on the way to it are its label. A layer that
    another reads returns its sequence and nothing else; none is stateful or unrolled, since a model for any batch and
    any length can have neither.
    """
    followed = {unit.reads for unit in made if unit.reads is not None}
    for n, unit in enumerate(made):
        _set(unit.node, stateful=False, unroll=False)
        if n in followed:
            _set(unit.node, return_sequences=True, return_state=False)
    return _assembled(made, range(len(made)), 0, "").node


def _set(node: Node, **fields: bool) -> None:
    """Changes those fields of a layer's config, and of the two inside a Bidirectional, that are there."""
    config = node["config"]
    for each in (config, *(config[key]["config"] for key in ("layer", "backward_layer") if key in config)):
        each.update({name: value for name, value in fields.items() if name in each})


def _assembled(made: Sequence[Unit], numbers: Sequence[int], depth: int, name: str) -> _Part:
    """The units of those numbers as one model; `depth` words of their labels have led here."""
    groups: dict[str, list[int]] = {}
    for n in numbers:
        groups.setdefault(made[n].label.split(".")[depth], []).append(n)
    parts = []
    for word, inside in groups.items():
        leaves = [n for n in inside if made[n].label.count(".") == depth]
        if leaves and len(inside) > 1:
            raise _side_by_side([made[n].label for n in inside])
        parts.append(_leaf(made, leaves[0], word) if leaves else _assembled(made, inside, depth + 1, word))
    parts = _ordered(made, parts)
    chain = all(len(part.inputs) == 1 for part in parts) and all(
        part.inputs[0][1] is not None and before.outputs == [part.inputs[0][1]] and _read_once(made, before.outputs[0])
        for before, part in pairwise(parts)
    )
    return _sequential(made, parts, name) if chain else _functional(made, parts, name, numbers)


def _ordered(made: Sequence[Unit], parts: Sequence[_Part]) -> list[_Part]:
    """The parts so that each comes after those it reads. Errors: LayoutError if two read each other."""
    left, ordered = list(parts), []
    while left:
        waiting = {n for part in left for n in part.outputs}
        ready = [part for part in left if not any(feeder in waiting for _, feeder in part.inputs)]
        if not ready:
            raise _side_by_side([made[fed].label for part in left for fed, _ in part.inputs])
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered


def _side_by_side(labels: Sequence[str]) -> LayoutError:
    return LayoutError(
        f"keras: the names {', '.join(labels)} cannot stand side by side",
        "a dot makes a model inside the model, which is computed as a whole and is no layer itself",
        "give them other names: rename= (--rename)",
    )


def _read_once(made: Sequence[Unit], n: int) -> bool:
    return sum(unit.reads == n for unit in made) == 1


def _leaf(made: Sequence[Unit], n: int, name: str) -> _Part:
    unit = made[n]
    unit.node["config"]["name"] = name
    node = {**unit.node, "build_config": {"input_shape": unit.input_shape}}
    return _Part(node, [(n, unit.reads)], [n] * outputs(unit.layers, unit.node))


def _input(unit: Unit, name: str) -> Node:
    config = {"batch_shape": unit.input_shape, "dtype": unit.layers[0].dtype, "sparse": False, "name": name}
    return {"module": "keras.layers", "class_name": "InputLayer", "config": config, "registered_name": None}


def _sequential(made: Sequence[Unit], parts: Sequence[_Part], name: str) -> _Part:
    first = made[parts[0].inputs[0][0]]
    config = {
        "name": name or "sequential",
        "trainable": True,
        "dtype": policy(first.layers[0].dtype),
        "layers": [_input(first, _free("input", parts)), *(part.node for part in parts)],
        "build_input_shape": first.input_shape,
    }
    node = {
        "module": "keras",
        "class_name": "Sequential",
        "config": config,
        "registered_name": None,
        "build_config": {"input_shape": first.input_shape},
    }
    return _Part(node, parts[0].inputs, parts[-1].outputs)


def _free(name: str, parts: Sequence[_Part]) -> str:
    """`name`, with as many underscores as it takes to be nobody else's."""
    while any(part.node["config"]["name"] == name for part in parts):
        name += "_"
    return name


def _functional(made: Sequence[Unit], parts: Sequence[_Part], name: str, numbers: Sequence[int]) -> _Part:
    """A graph; what its parts read of one another is wired inside, everything else is an input or output of its own."""
    given = {n: (part, k) for part in parts for k, n in reversed(list(enumerate(part.outputs)))}
    listed: list[Node] = []
    inputs: list[tuple[int, int | None]] = []
    for part in parts:
        tensors = []
        for fed, feeder in part.inputs:
            at = given.get(feeder) if feeder is not None else None
            source = at[0].node["config"]["name"] if at else _free(f"{made[fed].label.rpartition('.')[2]}_input", parts)
            if at is None:
                listed.append({**_input(made[fed], source), "name": source, "inbound_nodes": []})
                inputs.append((fed, feeder))
            tensors.append(_tensor(made[fed], [source, 0, at[1] if at else 0]))
        call = {"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {}}
        listed.append({**part.node, "name": part.node["config"]["name"], "inbound_nodes": [call]})
    inside = {feeder for part in parts for _, feeder in part.inputs if feeder in given}
    needed = {unit.reads for n, unit in enumerate(made) if n not in numbers}
    ends = [(part, k, n) for part in parts for k, n in enumerate(part.outputs) if n not in inside or n in needed]
    config = {
        "name": name or "functional",
        "trainable": True,
        "dtype": policy(made[parts[0].inputs[0][0]].layers[0].dtype),
        "layers": _as_keras_lists(listed, [part.node["config"]["name"] for part, _, _ in ends]),
        "input_layers": _one_or_all([[each["name"], 0, 0] for each in listed if each["class_name"] == "InputLayer"]),
        "output_layers": _one_or_all([[part.node["config"]["name"], 0, k] for part, k, _ in ends]),
    }
    node = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": config,
        "registered_name": "Functional",
    }
    return _Part(node, inputs, [n for _, _, n in ends])


def _as_keras_lists(listed: Sequence[Node], ends: Sequence[str]) -> list[Node]:
    """The layers of a graph in the order that Keras gives them, which numbers their groups in a file.

    It is the distance to the end, longest first; among equals, the order in which a walk back from the outputs `ends`
    comes by. Source: keras/src/ops/function.py, map_graph.
    """
    parents = {each["name"]: [h[0] for call in each["inbound_nodes"] for h in histories(call)] for each in listed}
    first: dict[str, int] = {}
    done: list[str] = []

    def walk(name: str) -> None:
        if name not in first:
            first[name] = len(first)
            for parent in parents[name]:
                walk(parent)
            done.append(name)

    for name in ends:
        walk(name)
    depth: dict[str, int] = {}
    for name in reversed(done):
        depth.setdefault(name, 0)
        for parent in parents[name]:
            depth[parent] = max(depth.get(parent, 0), depth[name] + 1)
    return sorted(listed, key=lambda each: (-depth[each["name"]], first[each["name"]]))


def _one_or_all(tensors: list[list[Any]]) -> list[Any]:
    """As Keras writes the ends of a graph: one by itself, several in a list."""
    return tensors[0] if len(tensors) == 1 else tensors


def _tensor(unit: Unit, history: list[Any]) -> Node:
    config = {"shape": unit.input_shape, "dtype": unit.layers[0].dtype, "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": config}


def placed(node: Node, path: str = "", base: str = "") -> Iterator[tuple[str, str]]:
    """Each layer of a model by its label, with its group in a weights file."""
    inside = children(node)
    for child, group in zip(inside, groups_of(inside), strict=True):
        own, at = join(path, name_of(child)), f"{base}/layers/{group}".lstrip("/")
        yield from placed(child, own, at) if is_container(child) else ((own, at),)
