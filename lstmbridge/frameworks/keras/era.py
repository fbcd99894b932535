"""What old versions of Keras meant by what they wrote: their words, their defaults, and how old configs read today.

Sources: keras/layers/recurrent.py of Keras 1.2.2, 2.1.3 and 2.3.1, keras/models.py of Keras 1.2.2, and
tensorflow/python/keras/layers/{recurrent,recurrent_v2}.py of TensorFlow 1.15 and 2.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lstmbridge.frameworks.keras.layout import KERAS3, Dialect, dialect, version_numbers
from lstmbridge.layer import Layer

__all__ = ["default_gate", "modern", "named", "notes_of_era"]

Node = dict[str, Any]

#: Keras 1's words in a recurrent layer's config, and those of every version since.
_RENAMED: Mapping[str, str] = {"output_dim": "units", "inner_activation": "recurrent_activation"}


def modern(config: Node) -> Node:
    """A recurrent layer's config in the words that Keras has used since version 2.

    >>> modern({"name": "l", "output_dim": 3, "inner_activation": "sigmoid"})
    {'name': 'l', 'units': 3, 'recurrent_activation': 'sigmoid'}
    """
    if "units" in config or "output_dim" not in config:
        return config
    return {_RENAMED.get(word, word): value for word, value in config.items()}


def default_gate(version: str | None) -> str | None:
    """The recurrent_activation of a layer that was made without one; None where the version does not tell.

    Keras changed it from hard_sigmoid to sigmoid in 2.3; TensorFlow with its version 2. TensorFlow 1.13 to 2.1 all say
    2.2.4-tf.

    >>> default_gate("2.1.5"), default_gate("2.4.0"), default_gate("2.2.4-tf")
    ('hard_sigmoid', 'sigmoid', None)
    """
    major, minor = version_numbers(version)
    if version is not None and version.startswith("2.2.4-tf"):
        return None
    if major == 2 and minor is None:
        return None
    return "hard_sigmoid" if major == 1 or (major == 2 and (minor or 0) < 3) else "sigmoid"


# ---- models


def named(node: Node, names: Sequence[str] = ()) -> Node:
    """A model's node in which every model has a dict for a config, and a name where the file has one.

    Before Keras 2.2.3 a Sequential's config is a plain list of layers, without its name; `names` are the file's own
    names of the layers in the outermost model, in order. A Graph of Keras 1 has its layers in a dict.
    """
    inside = _inside(node)
    if inside is None:
        return node
    known = {name for each in inside for name in _names_in(each)}
    free = (name for name in names if name not in known)
    made = []
    for each in inside:
        each = named(each)
        if _inside(each) is not None and each["class_name"] != "Merge" and not _name(each):
            each = {**each, "config": {**each["config"], "name": next(free, "")}}
        made.append(each)
    config = node["config"] if isinstance(node["config"], dict) else {}
    return {**node, "config": {**config, "layers": made}}


def _inside(node: Node) -> list[Node] | None:
    """The layers that a model's node lists; None for a node that is no model's."""
    config = node.get("config")
    inner = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if node.get("class_name") == "Graph" and isinstance(config, dict) and isinstance(config.get("nodes"), dict):
        inner = [_in_graph(name, each) for name, each in config["nodes"].items()]
    if not isinstance(inner, list) or not all(isinstance(each, dict) and "class_name" in each for each in inner):
        return None
    return inner


def _in_graph(name: str, node: Any) -> Any:
    """A layer of a Graph under the name that the Graph has it by."""
    config = node.get("config") if isinstance(node, dict) else None
    return {**node, "config": {**config, "name": name}} if isinstance(config, dict) else node


def _name(node: Node) -> str:
    config = node["config"]
    return str((config.get("name") if isinstance(config, dict) else "") or node.get("name") or "")


def _names_in(node: Node) -> Iterator[str]:
    """The names that a node takes up among those of the file's layers: its own, of a Merge those of all its layers."""
    if node["class_name"] == "Merge" or (not _name(node) and _inside(node) is None):
        for each in _inside(node) or ():
            yield from _all_names(each)
    else:
        yield _name(node)


def _all_names(node: Node) -> Iterator[str]:
    inside = _inside(node)
    if inside is None:
        yield _name(node)
    for each in inside or ():
        yield from _all_names(each)


# ---- what a reader of today must know


def notes_of_era(layers: Sequence[Layer], version: str | None) -> Iterator[str]:
    """What the version that wrote a file means for its layers, where the Keras of today would take it otherwise."""
    known = dialect(version)
    if known == KERAS3:
        return
    specs = [layer.spec for layer in layers]
    used = {each.name for spec in specs for each in (*spec.activations, *(spec.reverse_activations or ()))}
    if "hard_sigmoid" in used:
        yield f"written by Keras {version}: hard_sigmoid is 0.2 x + 0.5, not Keras 3's x/6 + 0.5"
    for layer in layers:
        for word, value in _unsaid(layer, known):
            yield f"{layer.label}: its config does not say {word}: {value}, the default of Keras {version}"


def _unsaid(layer: Layer, known: Dialect) -> Iterator[tuple[str, object]]:
    """The words with a default of its time that a layer's config leaves out, and what they mean."""
    if "CuDNN" in str(layer.metadata.get("class")) or layer.spec.cell == "rnn":
        return
    for config in _cell_configs(layer.metadata.get("config")):
        if layer.spec.cell == "gru" and "reset_after" not in config and "output_dim" not in config:
            yield "reset_after", known.reset_after
        if "recurrent_activation" not in modern(config):
            yield "recurrent_activation", known.recurrent_activation
        return


def _cell_configs(value: Any) -> Iterator[Node]:
    """Every config in a nest of dicts and lists that says how many units a cell has."""
    if isinstance(value, dict):
        if "units" in value or "output_dim" in value:
            yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _cell_configs(each)
