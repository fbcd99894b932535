"""Which layer of an existing file each converted layer takes the place of, and whether it computes just that.

A layer goes to the one of its own name, else to the only one that it can go to. It is fitted to that layer's own Spec:
bias form, activations, directions and all, since what the file says of it stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lstmbridge.errors import Ambiguous, BridgeError, LayoutError, Unsupported, unknown
from lstmbridge.fit import DROPS, FEATURES, Fitted, Holds, fit, refusals
from lstmbridge.layer import Layer
from lstmbridge.spec import ROLES, Activation, Spec

__all__ = ["Existing", "Into", "fitted", "matched"]

_SIZES = ("input_size", "hidden_size", "projection_size")
_NUMBERS = ("clip", "cell_clip", "proj_clip", "forget_constant")
_SHOWN = 8


@dataclass(frozen=True)
class Into:
    """A file that converted layers were put into.

    path   where it is, before it takes its place
    pairs  for the label of each layer of the source, the label of the one in the file that it took the place of
    """

    path: Path
    pairs: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Existing:
    """A file and its recurrent layers, of the framework `name`."""

    path: Path
    name: str
    layers: tuple[Layer, ...]

    def left(self, taken: Collection[str]) -> list[str]:
        """The labels of the layers that are not taken."""
        return [layer.label for layer in self.layers if layer.label not in taken]


# ---- which goes where


def matched(
    layers: Sequence[Layer], existing: Existing, renamed: Collection[str], allow: Collection[str]
) -> list[Layer]:
    """For each of `layers` the layer of the existing file whose place it takes.

    By label, by path where that is one layer's on both sides, and for those that have neither there by the only
    assignment that shapes and Specs admit. `renamed` are names that were given for this, and so must be there.

    Errors: UnknownName for a name in `renamed` that is not in the file; those of `fitted` for one that has its name;
    LayoutError for a layer that has no place; Ambiguous, with the candidates, where several assignments are possible.
    """
    for name in renamed:
        if not any(name in (each.label, each.path) or each.path.startswith(f"{name}.") for each in existing.layers):
            raise unknown(f"layer of {existing.path.name}", name, [each.label for each in existing.layers])
    by_name = {layer.label: _named(layer, layers, existing) for layer in layers}
    chosen = {label: found for label, found in by_name.items() if found is not None}
    _check_once(chosen)
    for layer in layers:
        place = chosen.get(layer.label)
        if place is not None and _obstacle(layer, place, existing, allow) is not None:
            fitted(layer, place, existing, allow)  # raises: before the layers that are left are blamed for it
    rest = [layer for layer in layers if layer.label not in chosen]
    free = [each for each in existing.layers if each.label not in {found.label for found in chosen.values()}]
    chosen |= _assigned(rest, free, existing, allow)
    return [chosen[layer.label] for layer in layers]


def _named(layer: Layer, layers: Sequence[Layer], existing: Existing) -> Layer | None:
    """The existing layer of the same name."""
    same = [each for each in existing.layers if each.label == layer.label]
    same = same or [each for each in existing.layers if each.path == layer.path]
    alone = sum(each.path == layer.path for each in layers) == 1
    return same[0] if len(same) == 1 and (same[0].label == layer.label or alone) else None


def _check_once(chosen: Mapping[str, Layer]) -> None:
    places = [found.label for found in chosen.values()]
    twice = [label for label, found in chosen.items() if places.count(found.label) > 1]
    if twice:
        raise LayoutError(f"{' and '.join(twice)} have one place between them: {chosen[twice[0]].label}",
                          "give each a name of its own: rename= (--rename OLD=NEW)")  # fmt: skip


def _assigned(
    rest: Sequence[Layer], free: Sequence[Layer], existing: Existing, allow: Collection[str]
) -> dict[str, Layer]:
    """The one way to give each layer a place of its own."""
    able = {
        layer.label: [n for n, place in enumerate(free) if _obstacle(layer, place, existing, allow) is None]
        for layer in rest
    }
    for layer in rest:
        if not able[layer.label]:
            raise _no_place(layer, free, existing, allow)
    found = _assignment(able)
    if found is None:
        raise LayoutError(
            f"{len(rest)} layers for fewer places in {existing.path.name}", *_candidates(able, free), _RENAME
        )
    for label, place in found.items():
        if _assignment({**able, label: [n for n in able[label] if n != place]}) is not None:
            raise Ambiguous(
                f"{label} could take the place of several layers in {existing.path.name}",
                *_candidates(able, free, label),
                _RENAME,
                *_by_order(able, free),
            )
    return {label: free[place] for label, place in found.items()}


_RENAME = "say which: rename= (--rename OLD=NEW), NEW being a layer of the existing file"


def _assignment(able: Mapping[str, Sequence[int]]) -> dict[str, int] | None:
    """A place for each label among those that it can take, none taken twice (augmenting paths); None if impossible."""
    taken: dict[int, str] = {}

    def placed(label: str, seen: set[int]) -> bool:
        for place in able[label]:
            if place not in seen:
                seen.add(place)
                if place not in taken or placed(taken[place], seen):
                    taken[place] = label
                    return True
        return False

    if not all(placed(label, set()) for label in able):
        return None
    return {label: place for place, label in taken.items()}


def _candidates(able: Mapping[str, Sequence[int]], free: Sequence[Layer], first: str = "") -> list[str]:
    """The places that each layer could take; that of the name `first` before the others."""
    named = sorted(able, key=lambda label: label != first)
    lines = [f"{label}: {' or '.join(free[n].label for n in able[label])}" for label in named[:_SHOWN]]
    return [*lines, f"and {len(named) - _SHOWN} more layers"] if len(named) > _SHOWN else lines


def _by_order(able: Mapping[str, Sequence[int]], free: Sequence[Layer]) -> list[str]:
    """The options to say it with where the order could be meant: as many layers as places, and each fits its own."""
    if len(able) != len(free) or any(n not in places for n, places in enumerate(able.values())):
        return []
    words = " ".join(f"--rename {label}={place.label}" for label, place in zip(able, free, strict=True))
    return [f"if they are meant in their order: {words}"]


def _no_place(layer: Layer, free: Sequence[Layer], existing: Existing, allow: Collection[str]) -> BridgeError:
    """Why a layer can go nowhere: for each free place, what stands against it."""
    why = [f"{each.label}: {_obstacle(layer, each, existing, allow)}" for each in free[:_SHOWN]]
    found = why or ["found: no layer that is not taken"]
    return LayoutError(f"{layer} has no place in {existing.path.name}", *found, _RENAME)


# ---- whether it can be put there


def fitted(layer: Layer, place: Layer, existing: Existing, allow: Collection[str]) -> Fitted:
    """`layer` as the existing layer `place` holds it, under that one's name.

    Errors: LayoutError for other sizes; Unsupported where the existing layer computes something else, by name.
    """
    sizes = _other_sizes(layer.spec, place.spec)
    if sizes and layer.spec.cell == place.spec.cell:
        raise LayoutError(
            f"{layer} does not go into {place.label!r} of {existing.path.name}",
            f"found {sizes}",
            f"the existing layer is {place.spec}",
            "is another one meant? rename= (--rename OLD=NEW)",
        )
    done = fit(layer, _holds(layer, place, existing), allow=allow)
    more = next(_more(done.layer.spec, place.spec), None)
    if more:
        raise Unsupported(f"{existing.name} {place.label!r} in {existing.path.name} has {more}",
                          f"{layer} has not: the two do not compute the same")  # fmt: skip
    notes = done.notes
    if done.layer.spec.merge != place.spec.merge:
        notes = (*notes, f"its directions' outputs, merge {layer.spec.merge!r}, are {place.spec.merge!r} in the file")
    own = {"path": place.path, "level": place.level, "after": place.after, "metadata": place.metadata}
    module = "faithful" if str(place.metadata.get("class", "")).startswith("lstmbridge.") else "stock"
    here = done.layer.replace(spec=place.spec, **own)
    return Fitted(here, layer, module, done.verdict, notes, done.terms, done.training)


def _obstacle(layer: Layer, place: Layer, existing: Existing, allow: Collection[str]) -> str | None:
    """What stands against a layer in that place, in words; None if nothing does."""
    if layer.spec.cell != place.spec.cell:
        return f"it is a {place.spec.cell}"
    sizes = _other_sizes(layer.spec, place.spec)
    if sizes:
        return sizes
    holds = _holds(layer, place, existing)
    spec = _given_up(layer.spec, holds, allow)
    left = refusals(spec, holds)
    if left:
        return f"it does not compute {left[0].text}"
    more = next(_more(spec, place.spec), None)
    return f"it has {more}" if more else None


def _given_up(spec: Spec, holds: Holds, allow: Collection[str]) -> Spec:
    """`spec` without what may be given up by name and must be."""
    drops = [refusal.drop for refusal in refusals(spec, holds) if refusal.drop in allow]
    changes = {field: value for drop in drops for field, value in DROPS[drop or ""][1].items()}
    return spec.replace(**changes)


def _other_sizes(spec: Spec, place: Spec) -> str:
    found = ((name, getattr(spec, name), getattr(place, name)) for name in _SIZES)
    return ", ".join(f"{name} {mine} (in the file {theirs})" for name, mine, theirs in found if mine != theirs)


def _holds(layer: Layer, place: Layer, existing: Existing) -> Holds:
    """What the existing layer holds: its own Spec and no other."""
    spec = place.spec
    features = {name for name, shows in FEATURES.items() if shows(spec)} | {"activations that differ by direction"}
    if spec.forget_constant and layer.spec.forget_constant == spec.forget_constant:
        features.add("forget constant")
    return Holds(
        name=f"{existing.name} {place.label!r} in {existing.path.name}",
        bias={spec.cell: (spec.bias,)},
        activations=_same_activations(spec),
        directions=frozenset({spec.directions}),
        merges=frozenset({"concat", "none"} if spec.merge in ("concat", "none") else {spec.merge}),
        features=frozenset(features),
    )


def _same_activations(place: Spec) -> Callable[[Spec], str | None]:
    """A test of activations that only those of `place` pass; constants as float32 has them."""

    def test(spec: Spec) -> str | None:
        for direction in spec.directions:
            for role in ROLES[spec.cell]:
                mine = spec.activation(role, direction)
                theirs = place.activation(role, direction if direction in place.directions else "forward")
                if not _same(mine, theirs):
                    return f"{role} activation {mine} (it has {theirs})"
        return None

    return test


def _same(a: Activation, b: Activation) -> bool:
    return a.name == b.name and _near(a.alpha, b.alpha) and _near(a.beta, b.beta)


def _near(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6))


def _more(spec: Spec, place: Spec) -> Iterator[str]:
    """What the existing layer computes and a layer of `spec`, which it can hold, does not."""
    for name in ("peepholes", "coupled", "processed_order"):
        if getattr(place, name) and not getattr(spec, name):
            yield f"{name} ({place})"
    for name in _NUMBERS:
        mine, theirs = getattr(spec, name), getattr(place, name)
        folded = name == "forget_constant" and not theirs
        if not folded and not _near(mine, theirs):
            yield f"{name} {theirs}"
