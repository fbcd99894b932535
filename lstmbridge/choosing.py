"""Which layers of a model are meant, under what names, and several as the levels of one module."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from lstmbridge import registry
from lstmbridge.errors import LayoutError, unknown
from lstmbridge.layer import Layer

__all__ = ["renamed", "select", "stacked"]


def select(layers: Sequence[Layer], patterns: Collection[str]) -> tuple[Layer, ...]:
    """The layers at or below the given paths, in order. Errors: UnknownName for a path where no layer is."""
    for pattern in patterns:
        if not any(_below(layer, pattern) for layer in layers):
            raise unknown("layer", pattern, [layer.label for layer in layers])
    return tuple(layer for layer in layers if not patterns or any(_below(layer, pattern) for pattern in patterns))


def _below(layer: Layer, pattern: str) -> bool:
    return pattern in (layer.label, layer.path) or layer.path.startswith(f"{pattern}.")


def renamed(layers: Sequence[Layer], rename: Mapping[str, str]) -> tuple[Layer, ...]:
    for old in rename:
        if not any(_below(layer, old) for layer in layers):
            raise unknown("layer to rename", old, [layer.label for layer in layers])

    def new(name: str) -> str:
        for old in sorted(rename, key=len, reverse=True):  # what is said of a layer, before what is said above it
            if name == old or name.startswith(f"{old}."):
                return rename[old] + name[len(old) :]
        return name

    moved = []
    for layer in layers:
        at_label = layer.label in rename
        changes = {"path": rename[layer.label], "level": None} if at_label else {"path": new(layer.path)}
        after = None if layer.after is None else new(layer.after)
        moved.append(layer.replace(after=after, **changes))
    _check_labels(moved)
    return tuple(moved)


def _check_labels(layers: Sequence[Layer]) -> None:
    labels = [layer.label for layer in layers]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        what = f"two layers named {', '.join(map(repr, twice))}"
        raise LayoutError(what, "give them names of their own: rename= (--rename OLD=NEW)")


def stacked(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers as levels of one module, each reading the one before; and a note where no source says that it does.

    Errors: LayoutError for layers that do not feed one another: another size, or another source of what they read.
    """
    if len(layers) < 2:
        return tuple(layers), ()
    path = _common_path([layer.path for layer in layers])
    stack: list[Layer] = []
    for before, layer in itertools.pairwise(layers):
        if before.spec.output_size != layer.spec.input_size:
            raise LayoutError(
                f"{layer.label} reads {layer.spec.input_size} features, {before.label} gives {before.spec.output_size}",
                "only layers that feed one another can be stacked; pick them with layers= (--layer)",
            )
        _expect_chained(before, layer)
    untold = [layer.label for layer in layers[1:] if layer.after is None]
    notes = (f"stacked unseen: nothing says that {', '.join(untold)} reads the layer before",) if untold else ()
    for level, layer in enumerate(layers):
        stack.append(layer.replace(path=path, level=level, after=stack[-1].label if stack else None))
    return tuple(stack), notes


def _expect_chained(before: Layer, layer: Layer) -> None:
    """Errors: LayoutError if a layer is known to read something else than the outputs of the one before it.

    Where a framework's models say who reads whom, a layer of which they do not say it reads something else.
    """
    name = layer.metadata.get("framework")
    told = name in registry.names() and registry.framework(str(name)).tells_order and "config" in layer.metadata
    if layer.after == before.label or (layer.after is None and not told):
        return
    reads = f"it reads {layer.after}" if layer.after else "something stands between them, or it reads something else"
    raise LayoutError(
        f"{layer.label} does not read what {before.label} gives: they are no stack",
        f"found: {reads}",
        "leave out stack= (--stack), or pick others with layers= (--layer)",
        "if it does all the same: read(...) the layers, replace(after=...), and convert those",
    )


def _common_path(paths: Sequence[str]) -> str:
    """The module path that all of them stand in: that of two paths ``a.b`` and ``a.c`` is ``a``."""
    common: list[str] = []
    for words in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return ".".join(common)
