"""The weights that a layer computes with, where its file holds what they are computed from.

    weight norm   ``w_g`` and ``w_v``, or ``parametrizations.w.original0`` and ``original1``:  g * v / ||v||
    pruning       ``w_orig`` and ``w_mask``:                                                   original * mask

||v|| runs over all axes but the one along which g has the length of v. Source: torch/nn/utils/weight_norm.py,
parametrizations.py and prune.py (2.13).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.frameworks.torch import infer
from lstmbridge.layer import Array

__all__ = ["effective"]

_HOOKED = re.compile(r"(.*)(_g|_v|_u|_orig|_mask)")
_PARAMETRISED = re.compile(r"(.*\.)?parametrizations\.([^.]+)\.(.+)")

#: What the parts of a weight are called -> what it is made by. The first part comes first where order counts.
_WEIGHT_NORM = (("_g", "_v"), ("original0", "original1"))
_PRUNING = (("_orig", "_mask"),)
_SPECTRAL = (frozenset({"_orig", "_u", "_v"}), frozenset({"_orig", "_u"}))

#: How many numbers are computed at a time.
_BLOCK = 1 << 20

_REMOVE = (
    "make it a plain parameter where its classes are: torch.nn.utils.parametrize.remove_parametrizations"
    " or torch.nn.utils.remove_spectral_norm; then save the state dict again"
)


@dataclass(frozen=True)
class _Weight:
    """A weight that is computed: the path of its module, and its own name there."""

    path: str
    own: str

    @property
    def name(self) -> str:
        return f"{self.path}.{self.own}" if self.path else self.own


def effective(arrays: Mapping[str, Array], only: Collection[str], who: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The arrays, those that a recurrent weight is computed from replaced by it, and a note for each module of them.

    only  paths of the modules that are wanted; of others nothing is computed
    who   names the file in messages

    Errors: Unsupported for a spectral norm and any other parametrisation; LayoutError for parts that do not fit.
    """
    weights: dict[_Weight, dict[str, str]] = {}
    for name in arrays:
        found = _part(name)
        if found is not None and infer.selected(found[0].path, only) and found[0].name not in arrays:
            weights.setdefault(found[0], {})[found[1]] = name
    made: dict[str, tuple[_Weight, Array]] = {}
    how: dict[tuple[str, str], list[str]] = {}
    for weight, parts in weights.items():
        computed = _computed(weight, parts, arrays, who)
        if computed is not None:
            what, array = computed
            made |= dict.fromkeys(parts.values(), (weight, array))
            how.setdefault((weight.path, what), []).append(weight.own)
    result: dict[str, Array] = {}
    for name, array in arrays.items():
        if name in made:
            result[made[name][0].name] = made[name][1]
        else:
            result[name] = array
    return result, tuple(_note(path, what, names) for (path, what), names in how.items())


def _part(name: str) -> tuple[_Weight, str] | None:
    """Which recurrent weight an array is a part of, and which part; None if it is none."""
    match = _PARAMETRISED.fullmatch(name)
    if match is not None:
        path, own, part = (match[1] or "").removesuffix("."), match[2], match[3]
    else:
        path, _, last = name.rpartition(".")
        hooked = _HOOKED.fullmatch(last)
        if hooked is None:
            return None
        own, part = hooked[1], hooked[2]
    return (_Weight(path, own), part) if infer.is_weight(own) else None


def _computed(
    weight: _Weight, parts: Mapping[str, str], arrays: Mapping[str, Array], who: str
) -> tuple[str, npt.NDArray[Any]] | None:
    """How the weight is computed, and the weight; None for parts that are nothing known."""
    for pair in _WEIGHT_NORM:
        if set(parts) == set(pair):
            g, v = (_array(arrays[parts[part]], parts[part], who) for part in pair)
            return "weight norm, g v / ||v||", _read_only(_normed(g, v, f"{who}: {weight.name}"))
    for pair in _PRUNING:
        if set(parts) == set(pair):
            original, mask = (_array(arrays[parts[part]], parts[part], who) for part in pair)
            return "pruning, original times mask", _read_only(_pruned(original, mask, f"{who}: {weight.name}"))
    what = _refused(set(parts))
    if what is not None:
        raise Unsupported(f"{who}: {weight.name} is computed by {what}", f"found: {', '.join(parts.values())}", _REMOVE)
    return None


def _refused(parts: Collection[str]) -> str | None:
    """What a weight of these parts is computed by that is not computed here; None if nobody knows."""
    if parts in _SPECTRAL or {"original", "0._u"} <= set(parts):
        return "a spectral norm"
    if "original" in parts and any(part.endswith(".base") for part in parts):
        return "an orthogonal parametrisation"
    if "original" in parts or "original2" in parts:
        return "a parametrisation of which the file holds no name"
    return None


def _array(array: Array, name: str, who: str) -> npt.NDArray[Any]:
    """The array. Errors: LayoutError for what is no plain one."""
    if not isinstance(array, np.ndarray):
        raise LayoutError(f"{who}: {name} is not a plain tensor of floats", f"found: {array.dtype}")
    return array


def _normed(g: npt.NDArray[Any], v: npt.NDArray[Any], who: str) -> npt.NDArray[Any]:
    """g * v / ||v||, in v's dtype; computed in float64, and rounded once. NaN where a norm is zero, as torch has it."""
    axes = _axes(g.shape, v.shape)
    if axes is None:
        raise LayoutError(
            f"{who}: weight norm's g has shape {g.shape}, its v {v.shape}",
            "expected of g the length of v along one axis, and 1 along the others",
        )
    with np.errstate(all="ignore"):
        sums = [np.add.reduce(np.square(_wide(v[rows])), axis=axes, keepdims=True) for rows in _blocks(v)]
        norm = np.sqrt(sum(sums) if 0 in axes else np.concatenate(sums))
        scale = g.astype("float64").reshape(norm.shape) / norm
        made = np.empty(v.shape, v.dtype.newbyteorder("="))
        for rows in _blocks(v):
            made[rows] = _wide(v[rows]) * (scale if 0 in axes else scale[rows])
    return made


def _blocks(array: npt.NDArray[Any]) -> Iterator[slice]:
    """The rows in parts, so that no more than a few MiB are in float64 at a time."""
    rows = max(1, _BLOCK * array.shape[0] // max(1, array.size))
    return (slice(start, start + rows) for start in range(0, array.shape[0], rows))


def _wide(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return array.astype("float64")


def _axes(g: tuple[int, ...], v: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes over which the norm runs: all but the one along which g has v's length; None where it has no such."""
    every = range(len(v))
    if 0 in (len(v), *v):
        return None
    if g == () or (len(v) > 1 and g == (1,)):
        return tuple(every)
    kept = [axis for axis in every if g == tuple(v[n] if n == axis else 1 for n in every)]
    return tuple(axis for axis in every if axis != kept[0]) if kept else None


def _pruned(original: npt.NDArray[Any], mask: npt.NDArray[Any], who: str) -> npt.NDArray[Any]:
    """The product, in the original's dtype."""
    if original.shape != mask.shape:
        raise LayoutError(f"{who}: pruning's mask has shape {mask.shape}", f"expected {original.shape}")
    with np.errstate(all="ignore"):
        made: npt.NDArray[Any] = original * mask.astype(original.dtype)
    return made


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` as every array of a file is."""
    array.flags.writeable = False
    return array


def _note(path: str, what: str, names: Collection[str]) -> str:
    return (
        f"{path or 'the module'}: {', '.join(names)} computed from their parts ({what}); "
        "the parts are kept neither in the result nor in a remainder"
    )
