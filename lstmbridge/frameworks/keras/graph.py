"""A model's node as a graph: its layers, which recurrent layer reads whose outputs, and where arrays stand in files.

Nothing imports Keras. Source: keras/src/models/{sequential,functional}.py and keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lstmbridge.frameworks.keras.nodes import Node, is_recurrent, unique

__all__ = [
    "children",
    "flow",
    "groups_of",
    "histories",
    "is_container",
    "is_operation",
    "join",
    "name_of",
    "notes_of",
    "wanted",
]

Labels = list[str | None]

#: Layers that give at inference what they are given.
_NO_OPS = (
    *("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("Identity", "ActivityRegularization", "InputLayer"),
)


def is_container(node: Node) -> bool:
    """Whether a node is a Sequential or Functional model, or one derived from them: it lists its layers."""
    config = node.get("config")
    inner = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    return isinstance(inner, list) and all(isinstance(each, dict) and "class_name" in each for each in inner)


def children(node: Node) -> list[Node]:
    """The nodes that a container lists, in its order (Keras before 2.2.3 has them without a dict around)."""
    config = node["config"]
    return list(config if isinstance(config, list) else config["layers"])


def is_operation(node: Node) -> bool:
    """Whether a node is a plain operation in a graph (``keras.ops.add``) and no layer."""
    return str(node.get("module") or "").startswith("keras.src.ops")


def name_of(node: Node) -> str:
    """The name of a node; none for a Merge, whose layers Keras 1 saves as if it were not there."""
    if node["class_name"] == "Merge":
        return ""
    config = node["config"]
    return str(config.get("name") if isinstance(config, dict) and config.get("name") else node.get("name", ""))


def groups_of(inside: Sequence[Node]) -> list[str]:
    """The groups that the members of a container have in Keras' files: by class, counted."""
    return unique(str(each["class_name"]).rpartition(">")[2] for each in inside)


# ---- who reads whose outputs


def flow(node: Node, path: str = "", incoming: Labels | None = None) -> tuple[Labels, dict[str, str | None]]:
    """Which recurrent layers' output sequences a node gives, and for each recurrent layer inside, whose goes in.

    All by label; None where that is not known, or where something lies between. `incoming` is what goes into the node,
    an entry an input, and the first result what comes out, an entry an output.
    """
    kind = str(node["class_name"])
    first = (incoming or [None])[0]
    if is_recurrent(kind):
        return [_label_out(node, path)], {path: first}
    if kind in _NO_OPS or (kind == "Activation" and node["config"].get("activation") == "linear"):
        return [first], {}
    if not is_container(node):
        return [], {}
    if kind in ("Merge", "Graph"):  # of Keras 1: what they list stands side by side, or in an order of its own
        branches = [flow(child, join(path, name_of(child))) for child in children(node)]
        return [], {label: after for _, found in branches for label, after in found.items()}
    if any("inbound_nodes" in each for each in children(node)):
        return _through_graph(node, path, incoming or [])
    found: dict[str, str | None] = {}
    passed = [first]
    for child in children(node):
        passed, more = flow(child, join(path, name_of(child)), passed)
        found |= more
    return passed, found


def _label_out(node: Node, path: str) -> str | None:
    """The label of a recurrent layer whose first output is its whole output sequence; None if it is not."""
    config = node["config"]
    inner = config["layer"]["config"] if isinstance(config.get("layer"), dict) else config
    if not inner.get("return_sequences") or config.get("merge_mode", "") is None:
        return None
    cells = inner["cell"]["config"].get("cells", ()) if isinstance(inner.get("cell"), dict) else ()
    return f"{path}.l{len(cells) - 1}".lstrip(".") if len(cells) > 1 else path


def _through_graph(node: Node, path: str, incoming: Labels) -> tuple[Labels, dict[str, str | None]]:
    """`flow` through a functional graph, whose nodes stand in an order in which they can be computed."""
    found: dict[str, str | None] = {}
    out: dict[str, Labels] = {}

    def at(history: tuple[str, int, int]) -> str | None:
        given = out.get(history[0], [])
        return given[history[2]] if history[2] < len(given) else None

    inputs = [name for name, _, _ in histories(node["config"].get("input_layers", []))]
    for child in children(node):
        calls, name = child.get("inbound_nodes") or [], name_of(child)
        given = [at(history) for history in _first_argument(calls[0])] if len(calls) == 1 else []
        if name in inputs[: len(incoming)]:
            given = [incoming[inputs.index(name)]]
        outgoing, more = flow(child, join(path, name), given)
        out[name] = outgoing if len(calls) <= 1 else []  # called twice: not known which of the two is meant
        found |= more
    return [at(history) for history in histories(node["config"].get("output_layers", []))], found


def histories(value: Any) -> list[tuple[str, int, int]]:
    """Every (layer, call, tensor) in a nest of lists and dicts."""
    if isinstance(value, dict):
        return [each for inner in value.values() for each in histories(inner)]
    if not isinstance(value, list):
        return []
    if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and isinstance(value[2], int):
        return [(value[0], value[1], value[2])]
    return [each for inner in value for each in histories(inner)]


def _first_argument(call: Any) -> list[tuple[str, int, int]]:
    """Where the first argument of a call comes from: as Keras 3 writes it, or as Keras 2 does."""
    return histories(call.get("args", [])[:1] if isinstance(call, dict) else call)


def notes_of(node: Node, path: str = "") -> Iterator[str]:
    """What a model does with its recurrent layers that does not show in their weights, a sentence each."""
    for child in children(node) if is_container(node) else ():
        own, kind = join(path, name_of(child)), str(child["class_name"])
        if kind == "Masking" or (kind == "Embedding" and child["config"].get("mask_zero")):
            yield f"{own} ({kind}) masks time steps: give the converted layers the lengths instead"
        if is_recurrent(kind) and _has_initial_state(child):
            yield f"{own} is given its initial state by the model: give it to the converted layer"
        yield from notes_of(child, own)


def _has_initial_state(child: Node) -> bool:
    for call in child.get("inbound_nodes") or []:
        arguments, named = (call.get("args", []), call.get("kwargs", {})) if isinstance(call, dict) else (call, {})
        if len(histories(arguments)) > 1 or histories(named.get("initial_state")):
            return True
    return False


def wanted(path: str, only: Sequence[str]) -> bool:
    """Whether the layer at `path`, or a level of it, is at or below one of the paths asked for (none: all are)."""
    return not only or any(
        path == each or path.startswith(f"{each}.") or re.fullmatch(rf"{re.escape(path)}\.?l\d+", each) for each in only
    )


def join(path: str, name: str) -> str:
    """The path of a layer inside another; one without a name adds nothing to it."""
    return ".".join(word for word in (path, name) if word)
