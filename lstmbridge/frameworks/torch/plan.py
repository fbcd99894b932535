"""Which modules the targets become, under which names, and the arrays of each: the one answer for objects and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lstmbridge import arrays as xp
from lstmbridge.contract import WriteOptions
from lstmbridge.errors import LayoutError
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.torch.layout import CELL_LAYOUTS, LAYOUTS
from lstmbridge.layer import Array, Layer
from lstmbridge.mapped import Later
from lstmbridge.notation import Layout

__all__ = ["Plan", "Unit", "plan"]


@dataclass(frozen=True, eq=False)
class Unit:
    """One module to be.

    name         its path in the container; "" where it stands alone
    targets      the layers it holds: several for one module of several levels
    kind         ``stock`` (nn.LSTM ...), ``cell`` (nn.LSTMCell ...) or ``faithful`` (our own module)
    batch_first  whether its sequences are (b, t, i)
    """

    name: str
    targets: tuple[Fitted, ...]
    kind: str
    batch_first: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers it holds, level by level."""
        return tuple(target.layer for target in self.targets)

    @property
    def layout(self) -> Layout:
        """How it stores its weights."""
        return (CELL_LAYOUTS if self.kind == "cell" else LAYOUTS)[self.layers[0].spec.cell]

    def arrays(self) -> dict[str, Array]:
        """Its parameters by their own names, packed; they own their memory."""
        packed: dict[str, Array] = {}
        for level, layer in enumerate(self.layers):
            packed |= self.layout.pack(layer.weights, layer.spec, level=level)
        return packed

    def later(self) -> dict[str, Later]:
        """The same for a file: each is packed, on the host, when it is asked for."""
        packed: dict[str, Later] = {}
        for level, layer in enumerate(self.layers):
            packed |= self.layout.later(layer.weights, layer.spec, level=level)
        return packed

    def key(self, name: str) -> str:
        """The name of one of its parameters in the whole."""
        return f"{self.name}.{name}" if self.name else name


@dataclass(frozen=True, eq=False)
class Plan:
    """All modules to be, in order; `chain` says that each reads the outputs of the one before (if there is one)."""

    units: tuple[Unit, ...]
    chain: bool


def plan(targets: Sequence[Fitted], options: WriteOptions, *, named: bool = False) -> Plan:
    """The modules for these targets.

    Every module stands under its path; levels that do not fit into one module (other sizes, dtypes, biases) become
    ``path.0``, ``path.1``. One module alone has no name, unless `named`.

    Errors: LayoutError for no layers, or for names that cannot stand side by side.
    """
    if not targets:
        raise LayoutError("torch: no layers to build", "expected at least one")
    groups = [part for group in _by_path(targets) for part in _modules(group)]
    for before, here in pairwise(groups):
        _expect_fits(before[-1].layer, here[0].layer)
    chain = all(_feeds(before[-1].layer, here[0].layer) for before, here in pairwise(groups))
    oriented = options if not chain else replace(options, batch_first=_batch_first(targets[0].layer, options))
    names = _names(groups, named)
    several = chain and len(groups) > 1
    units = tuple(_unit(name, group, oriented, several) for name, group in zip(names, groups, strict=True))
    return Plan(units, chain)


def _unit(name: str, group: tuple[Fitted, ...], options: WriteOptions, chained: bool) -> Unit:
    first = group[0]
    kind = "faithful" if first.module == "faithful" else "cell" if _was_cell(first.layer) and not chained else "stock"
    return Unit(name, group, kind, _batch_first(first.layer, options))


def _batch_first(layer: Layer, options: WriteOptions) -> bool:
    if options.batch_first is not None:
        return options.batch_first
    return bool(layer.metadata.get("batch_first", False))


def _was_cell(layer: Layer) -> bool:
    """Whether the layer came from one of torch's own cells, which run a single step."""
    own = layer.metadata.get("framework") == "torch" and str(layer.metadata.get("class", "")).endswith("Cell")
    return own and layer.level is None and layer.spec.directions == ("forward",) and layer.spec.projection_size is None


def _by_path(targets: Sequence[Fitted]) -> list[list[Fitted]]:
    """The targets in runs: the levels of one path that follow one another, or a layer by itself."""
    groups: list[list[Fitted]] = []
    for target in targets:
        before = groups[-1][-1].layer if groups else None
        if before is not None and _next_level(before, target.layer):
            groups[-1].append(target)
        else:
            groups.append([target])
    return groups


def _next_level(before: Layer, layer: Layer) -> bool:
    levels = before.level is not None and layer.level is not None and layer.level == before.level + 1
    return levels and before.path == layer.path


def _feeds(before: Layer, layer: Layer) -> bool:
    return layer.after == before.label or _next_level(before, layer)


def _expect_fits(before: Layer, layer: Layer) -> None:
    """Errors: LayoutError for a layer that reads another number of features than what it reads gives."""
    gives = before.spec.features
    if layer.after == before.label and layer.spec.input_size != gives:
        raise LayoutError(
            f"torch: {layer.label!r} reads {before.label!r}, which gives {gives} features",
            f"expected {layer.spec.input_size}",
        )


def _modules(group: list[Fitted]) -> list[tuple[Fitted, ...]]:
    """A run of levels as one module if they fit into one, else as a module each."""
    together = all(_stacks(before, here) for before, here in pairwise(group))
    return [tuple(group)] if together else [(target,) for target in group]


def _stacks(before: Fitted, here: Fitted) -> bool:
    """Whether nn.LSTM(num_layers=2) can hold these two as its levels."""
    a, b = before.layer, here.layer
    alike = a.spec.replace(merge="concat", input_size=1) == b.spec.replace(merge="concat", input_size=1)
    sizes = b.spec.input_size == a.spec.state_size * len(a.spec.directions)
    stock = before.module == here.module == "stock"
    return stock and alike and sizes and a.dtype == b.dtype and _device(a) == _device(b)


def _device(layer: Layer) -> str:
    return xp.device(next(iter(layer.weights.values())))


def _names(groups: Sequence[tuple[Fitted, ...]], named: bool) -> list[str]:
    """A name a module: its path, with the level where a path has several modules; none for one that stands alone."""
    paths = [group[0].layer.path for group in groups]
    if len(groups) == 1 and not (named and paths[0]):
        return [""]
    names = [_name(group[0].layer, paths.count(path) > 1) for group, path in zip(groups, paths, strict=True)]
    for name in names:
        if not all(name.split(".")) or names.count(name) > 1:
            raise LayoutError(
                f"torch: {len(groups)} modules, {names.count(name)} of them named {name!r}",
                "beside others each needs a name of its own, of words joined by dots: rename= (--rename OLD=NEW)",
            )
    return names


def _name(layer: Layer, several: bool) -> str:
    return f"{layer.path}.{layer.level}".lstrip(".") if several and layer.level is not None else layer.path
