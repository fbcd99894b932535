"""Layers taken apart and put together: one direction, two, another layer on top, more hidden units.

Everything here takes canonical layers and gives new ones, in arrays of numpy's on memory of their own; path and
metadata are those of the layer that was given. A layer that has to begin somewhere comes from a `Fresh`: any function
that makes a layer of a Spec, such as ``functools.partial(initial_layer, like="keras", seed=0)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge.errors import LayoutError, OptionError, unknown
from lstmbridge.initializers import initial_layer
from lstmbridge.layer import Layer, expect_layer
from lstmbridge.spec import DIRECTIONS, PARTS, Spec

__all__ = ["Fresh", "bidirectional", "grown", "kept_features", "one_direction", "stacked", "turned", "zero_layer"]

Indices = npt.NDArray[np.intp]


class Fresh(Protocol):
    """Makes a layer of a Spec with weights of that dtype: `initial_layer`, a partial of it, or `zero_layer`."""

    def __call__(self, spec: Spec, *, dtype: str) -> Layer: ...


def zero_layer(spec: Spec, *, dtype: str = "float32") -> Layer:
    """A layer of `spec` whose every weight is zero.

    >>> zero_layer(Spec(cell="rnn", input_size=2, hidden_size=1))["forward.kernel.n"].tolist()
    [[0.0, 0.0]]
    """
    return initial_layer(spec, dtype=dtype, **dict.fromkeys(spec.parts, 0.0))  # type: ignore[arg-type]


# ---- directions


def one_direction(layer: Layer, direction: str) -> Layer:
    """That direction of a layer as a layer of its own.

    A reverse one still reads its sequence backwards, and gives its outputs in forward time (`turned` makes it run
    forward). Errors: LayoutError if the layer has no such direction; UnknownName for a direction that is none.

    >>> both = initial_layer(Spec(cell="gru", input_size=2, hidden_size=3, directions=("forward", "reverse")), seed=0)
    >>> print(one_direction(both, "reverse"))
    layer: gru 2 -> 3, reverse, single bias, reset after
    """
    _known_direction(direction)
    expect_layer(layer)
    if direction not in layer.spec.directions:
        raise LayoutError(
            f"{_who(layer)} has no {direction} direction",
            f"found {layer.spec.directions[0]} only",
            f"to run it {direction}: turned(layer, {direction!r})",
        )
    spec = _alone(layer.spec, direction).replace(processed_order=layer.spec.processed_order)
    return layer.replace(spec=spec, weights=_weights(layer, direction, direction))


def turned(layer: Layer, direction: str) -> Layer:
    """A layer of one direction with the same weights, run in that direction, outputs in forward time.

    Errors: LayoutError for a layer of two directions; UnknownName for a direction that is none.

    >>> print(turned(initial_layer(Spec(cell="rnn", input_size=2, hidden_size=3), seed=0), "reverse"))
    layer: rnn 2 -> 3, reverse, single bias
    """
    _known_direction(direction)
    own = _only(layer)
    spec = _alone(layer.spec, own).replace(directions=(direction,))
    return layer.replace(spec=spec, weights=_weights(layer, own, direction))


def bidirectional(
    forward: Layer, *, reverse: Layer | Fresh | str, merge: str = "concat", cast: bool = False
) -> Layer:
    """A layer of two directions, of which the forward one is `forward`.

    reverse  the other direction: a layer of one direction, whichever it was; a `Fresh`, which is asked for a layer like
             `forward`; or ``"copy"``: the weights of `forward` once more
    merge    how the outputs of both are put together
    cast     bring the weights of `reverse` to the dtype of `forward`

    Errors: LayoutError for layers that are not of one cell, size and form, with what differs, for arrays of another
    dtype without `cast`, and for a layer of two directions; OptionError for another word than ``copy``.

    >>> layer = initial_layer(Spec(cell="lstm", input_size=2, hidden_size=3), seed=0)
    >>> print(bidirectional(layer, reverse="copy"))
    layer: lstm 2 -> 3, bidirectional (concat), single bias
    """
    if _only(forward) != "forward":
        raise LayoutError(f"{_who(forward)} runs in reverse", 'expected a forward layer: turned(layer, "forward")')
    backward = _same_dtype(_backward(forward, reverse), forward, cast)
    _expect_alike(forward, backward)
    own, other = (_alone(layer.spec, _only(layer)) for layer in (forward, backward))
    spec = own.replace(directions=DIRECTIONS, merge=merge, reverse_activations=other.activations)
    weights = _weights(forward, "forward", "forward") | _weights(backward, _only(backward), "reverse")
    return forward.replace(spec=spec, weights=weights)


def _backward(forward: Layer, reverse: Layer | Fresh | str) -> Layer:
    if isinstance(reverse, Layer):
        return reverse
    if isinstance(reverse, str):
        if reverse != "copy":
            raise OptionError(f"reverse={reverse!r}", 'expected a layer, what makes one, or "copy"')
        return forward
    return _another(_made(reverse, _alone(forward.spec, "forward"), forward.dtype), forward)


def _another(made: Layer, *others: Layer) -> Layer:
    """A layer that was made. Errors: LayoutError if it was drawn with the seed of another one."""
    for other in others:
        names = [n for n in made if n in other.weights and "bias" not in n and np.ptp(xp.host(made[n])) > 0]
        if names and all(xp.same_bits(made[name], other[name]) for name in names):
            raise LayoutError(
                f"what was made has the very same weights as {_who(other)}: drawn with one seed",
                "another seed=; or one numpy.random.Generator for both",
                'if that is meant: reverse="copy", or give the layer itself',
            )
    return made


def _expect_alike(forward: Layer, backward: Layer) -> None:
    """Errors: LayoutError if two layers cannot be the directions of one, with the fields that differ."""
    own, other = (_alone(layer.spec, _only(layer)) for layer in (forward, backward))
    fields = [name for name in Spec.__dataclass_fields__ if name not in ("directions", "activations")]
    differ = [name for name in fields if getattr(own, name) != getattr(other, name)]
    if differ:
        found = ", ".join(f"{name} {getattr(own, name)} and {getattr(other, name)}" for name in differ)
        raise LayoutError(f"{_who(forward)} and {_who(backward)} are no two directions of one layer", f"found {found}")


def _known_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)


def _only(layer: Layer) -> str:
    """The one direction of a layer. Errors: LayoutError if it has two; OptionError if it is no layer."""
    expect_layer(layer)
    if layer.spec.bidirectional:
        raise LayoutError(
            f"{_who(layer)} runs in both directions", 'expected one: one_direction(layer, "forward") or "reverse"'
        )
    return layer.spec.directions[0]


def _alone(spec: Spec, direction: str) -> Spec:
    """A Spec with that one of its directions, outputs in forward time."""
    backward = spec.reverse_activations if direction == "reverse" else None
    own = {"activations": backward or spec.activations, "reverse_activations": None}
    return spec.replace(directions=(direction,), merge="concat", processed_order=False, **own)


def _weights(layer: Layer, direction: str, name: str) -> dict[str, Any]:
    """Copies of one direction's weights, under the name of another."""
    prefix = f"{direction}."
    own = {each.removeprefix(prefix): array for each, array in _own(layer).items() if each.startswith(prefix)}
    return {f"{name}.{each}": array for each, array in own.items()}


# ---- a layer on top


def stacked(
    layers: Sequence[Layer] | Layer,
    new: Layer | Fresh,
    *,
    path: str | None = None,
    cast: bool = False,
    **features: Any,
) -> tuple[Layer, ...]:
    """The layers, and one more that reads what the last of them gives.

    new       the layer on top, or a `Fresh` that makes it; that one's Spec is the last layer's, with its outputs as
              inputs and `features` changed (``hidden_size=7``); of another cell, with that one's usual activations
    path      its name. None: the name it has; else the next level, where the last layer is one of several in a module;
              else ``layer2`` for the second and so on, and ``layer1`` for a first one without a name
    cast      bring its weights to the dtype of the last layer

    Errors: LayoutError for a layer that reads another number of features, for arrays of another dtype without `cast`,
    and for a name that is taken; OptionError for features of a layer that is already made; UnknownName for features
    that no Spec has.

    >>> first = initial_layer(Spec(cell="gru", input_size=2, hidden_size=3), seed=0, path="encoder")
    >>> for layer in stacked(first, initial_layer, hidden_size=5):
    ...     print(layer)
    encoder: gru 2 -> 3, single bias, reset after
    layer2: gru 3 -> 5, single bias, reset after
    """
    below = _named([layers] if isinstance(layers, Layer) else layers)
    last = below[-1]
    made = _top(last, new, features)
    top = _same_dtype(made if isinstance(new, Layer) else _another(made, *below), last, cast)
    _expect_reads(top, last)
    placed = top.replace(weights=_own(top), after=last.label, **_place(top, below, path))
    if placed.label in [layer.label for layer in below]:
        raise LayoutError(f"two layers named {placed.label!r}", "give the new one a name of its own: path=")
    return (*below, placed)


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """The layers on memory of their own, each with a name. Errors: LayoutError if there is none."""
    _expect_layers(layers)
    if not layers:
        raise LayoutError("no layer to put another on", "expected at least one")
    own = [layer.replace(weights=_own(layer)) for layer in layers]
    return [layer if layer.label else layer.replace(path=f"layer{n}") for n, layer in enumerate(own, 1)]


def _top(last: Layer, new: Layer | Fresh, features: dict[str, Any]) -> Layer:
    if not isinstance(new, Layer):
        for name in features:
            if name not in Spec.__dataclass_fields__:
                raise unknown("field of a Spec", name, Spec.__dataclass_fields__)
        usual = {"activations": (), "reverse_activations": None} if "cell" in features else {}
        changes = {"input_size": last.spec.features, **usual, **features}
        return _made(new, last.spec.replace(**changes), last.dtype)
    if features:
        raise OptionError(f"{', '.join(features)} of a layer that is already made", "leave it out, or give a Fresh")
    return new


def _place(top: Layer, below: Sequence[Layer], path: str | None) -> dict[str, Any]:
    """The path and level of the layer on top."""
    if path is not None or top.path:
        return {"path": top.path if path is None else path, "level": None}
    last = below[-1]
    if last.level is not None:
        return {"path": last.path, "level": last.level + 1}
    return {"path": f"layer{len(below) + 1}", "level": None}


def _expect_reads(layer: Layer, before: Layer) -> None:
    """Errors: LayoutError if a layer does not read what the one before it gives."""
    gives = before.spec.features
    if layer.spec.input_size != gives:
        raise LayoutError(
            f"{_who(layer)} reads {layer.spec.input_size} features, {_who(before)} gives {gives}",
            "only layers that feed one another make a stack",
        )


# ---- more hidden units


@overload
def grown(layers: Layer, *, hidden_size: int, layer: str | None = None, new: Fresh = zero_layer) -> Layer: ...


@overload
def grown(
    layers: Sequence[Layer], *, hidden_size: int, layer: str | None = None, new: Fresh = zero_layer
) -> tuple[Layer, ...]: ...


def grown(
    layers: Sequence[Layer] | Layer, *, hidden_size: int, layer: str | None = None, new: Fresh = zero_layer
) -> Layer | tuple[Layer, ...]:
    """The same layers with more hidden units, of which the first ones compute what they did.

    layers       a layer, or a stack in which each layer reads the one before
    hidden_size  the units of each layer that grows
    layer        the label of the only one that grows; None: all do
    new          makes a whole layer of the new sizes, from which the rows of new units are taken; zeros if left out. It
                 is called for one layer after another: a generator as its seed draws on, a number begins anew

    Nothing that is new reaches what was there: columns from new units to old ones are zero, in a recurrent kernel, in a
    projection, and in the kernel of the next layer. So outputs and states of the old units are what they were, whatever
    the new ones do; in each direction they stand first, and `kept_features` says where that is in the outputs. New
    units whose rows are zero, too, never learn: for training, ``new=partial(initial_layer, seed=0)`` gives them rows.
    Errors: OptionError for fewer units than there are; LayoutError for layers that are no stack; UnknownName for a
    label that none of them has.

    >>> layer = initial_layer(Spec(cell="gru", input_size=2, hidden_size=3), seed=0)
    >>> print(grown(layer, hidden_size=5))
    layer: gru 2 -> 5, single bias, reset after
    """
    if isinstance(layers, Layer):
        return grown([layers], hidden_size=hidden_size, layer=layer, new=new)[0]
    _expect_layers(layers)
    labels = [each.label for each in layers]
    if layer is not None and layer not in labels:
        raise unknown("layer", layer, labels)
    larger: list[Layer] = []
    for n, each in enumerate(layers):
        columns, inputs = np.arange(each.spec.input_size), each.spec.input_size
        if n:
            _expect_next(each, layers[n - 1])
            columns, inputs = kept_features(layers[n - 1].spec, larger[-1].spec), larger[-1].spec.features
        hidden = hidden_size if layer in (None, each.label) else each.spec.hidden_size
        fresh = _made(new, _larger(each, hidden, inputs), each.dtype)
        larger.append(each.replace(spec=fresh.spec, weights=dict(_grown_weights(each, fresh, columns))))
    return tuple(larger)


def kept_features(before: Spec, after: Spec) -> Indices:
    """Where each feature of a layer's outputs stands in those of the same layer with more hidden units.

    For whatever reads them, a dense layer, say: its old columns. Two directions side by side have theirs each.

    >>> small = Spec(cell="rnn", input_size=2, hidden_size=2, directions=("forward", "reverse"))
    >>> kept_features(small, small.replace(hidden_size=5)).tolist()
    [0, 1, 5, 6]
    """
    apart = before.features // before.state_size
    return np.concatenate([n * after.state_size + np.arange(before.state_size) for n in range(apart)])


def _expect_next(layer: Layer, before: Layer) -> None:
    """Errors: LayoutError if a layer does not read the one before it in a stack."""
    if layer.after not in (None, before.label):
        raise LayoutError(
            f"{_who(layer)} reads {layer.after}, not {_who(before)}",
            "expected a stack, in which each layer reads the one before: take the others apart",
        )
    _expect_reads(layer, before)


def _larger(layer: Layer, hidden_size: int, inputs: int) -> Spec:
    """The Spec with these sizes. Errors: OptionError for fewer units, or no number of them."""
    if isinstance(hidden_size, bool) or not isinstance(hidden_size, int | np.integer):
        raise OptionError(f"hidden_size is {hidden_size!r}", "expected one number; of one layer alone: layer=")
    if hidden_size < layer.spec.hidden_size:
        raise OptionError(
            f"hidden_size={hidden_size} for {_who(layer)}, which has {layer.spec.hidden_size}",
            "units are only added: expected at least as many",
        )
    return layer.spec.replace(hidden_size=hidden_size, input_size=inputs)


def _grown_weights(layer: Layer, fresh: Layer, columns: Indices) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Each weight of the larger layer: old rows as they were, zero where they would read something new."""
    old = {"i": columns, "h": np.arange(layer.spec.hidden_size), "p": np.arange(layer.spec.state_size)}
    for name, larger in _own(fresh).items():
        places = [old[index] for index in PARTS[name.split(".")[1]].split()]
        larger[places[0]] = 0
        larger[np.ix_(*places)] = xp.host(layer[name])
        yield name, larger


# ---- what all of them need


def _expect_layers(layers: Any) -> None:
    """Errors: OptionError for what is neither a Layer nor a list of them."""
    for each in layers if isinstance(layers, list | tuple) else [layers]:
        expect_layer(each)


def _who(layer: Layer) -> str:
    return layer.label or f"the {layer.spec.cell} layer"


def _own(layer: Layer) -> dict[str, npt.NDArray[Any]]:
    """The weights on the host, on memory of their own."""
    return {name: np.array(xp.host(array)) for name, array in layer.weights.items()}


def _made(new: Fresh, spec: Spec, dtype: str) -> Layer:
    """What a Fresh gives. Errors: OptionError if it is none; LayoutError if that is no layer of the Spec and dtype."""
    if not callable(new):
        raise OptionError(f"a {type(new).__name__} makes no layer", "expected e.g. partial(initial_layer, seed=0)")
    made = new(spec, dtype=dtype)
    if not isinstance(made, Layer) or (made.spec, made.dtype) != (spec, dtype):
        found = f"{made.spec}, {made.dtype}" if isinstance(made, Layer) else f"a {type(made).__name__}"
        raise LayoutError(f"a layer was asked for: {spec}, {dtype}", f"found {found}")
    return made


def _same_dtype(layer: Layer, like: Layer, cast: bool) -> Layer:
    """The layer in the dtype of another. Errors: LayoutError, without `cast`, that names an array and both dtypes."""
    if layer.dtype == like.dtype:
        return layer
    if not cast:
        raise LayoutError(
            f"{_who(layer)}: {next(iter(layer))} is {layer.dtype}",
            f"expected {like.dtype}, as {_who(like)} has it",
            "to cast it: cast=True",
        )
    return layer.replace(weights={name: xp.cast(array, like.dtype) for name, array in _own(layer).items()})
