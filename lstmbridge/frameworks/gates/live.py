"""Layers as objects of a framework of their own: read, built and run by the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge.contract import Outputs, Reading, ReadOptions, WriteOptions
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.gates import files
from lstmbridge.layer import Array, Layer
from lstmbridge.reference import run_stack

__all__ = ["assign", "build", "expect_writable", "load", "read", "run", "tensors"]


def read(obj: Any, options: ReadOptions) -> Reading:
    """A Layer, a Reading, or a sequence of Layers, as it is."""
    if isinstance(obj, Reading):
        return obj
    layers = (obj,) if isinstance(obj, Layer) else tuple(obj)
    strangers = [type(each).__name__ for each in layers if not isinstance(each, Layer)]
    if strangers or not layers:
        raise LayoutError(f"a sequence of {', '.join(strangers) or 'nothing'}", "expected Layers")
    return Reading(layers)


def tensors(obj: Any) -> dict[str, Array]:
    """Every weight of the layers: ``encoder.rnn.forward.kernel.f``, without the dot where a layer has no label."""
    layers = read(obj, ReadOptions()).layers
    return {f"{layer.label}.{name}".lstrip("."): array for layer in layers for name, array in layer.weights.items()}


def build(targets: Sequence[Fitted], options: WriteOptions) -> tuple[Layer, ...]:
    """The layers, each on memory of its own."""
    return tuple(
        target.layer.replace(weights={name: xp.own(array) for name, array in target.layer.weights.items()})
        for target in targets
    )


def assign(obj: Any, layers: Sequence[Layer]) -> None:
    """Writes the layers' weights into the memory of those of `obj` that have the same label.

    Errors: Unsupported for arrays that nobody can write (jax's).
    """
    known = {layer.label: layer for layer in read(obj, ReadOptions()).layers}
    for layer in layers:
        for name, array in layer.weights.items():
            if xp.kind(known[layer.label][name]) == "jax":
                raise Unsupported(
                    "a Layer of jax arrays cannot be written in place", "layer.replace(weights=...) makes another"
                )
            known[layer.label][name][...] = array


def expect_writable(layer: Layer) -> None:
    """Errors: LayoutError for a Layer whose arrays nobody can write, such as those of a file."""
    fixed = [n for n, array in layer.weights.items() if xp.kind(array) == "numpy" and not array.flags.writeable]
    if fixed:
        raise LayoutError(
            f"{layer.label or 'the layer'}: {fixed[0]} cannot be written: it is a view on a file",
            "take a copy first: layers = lstmbridge.convert(path, to='gates')",
        )


def load(path: Path, options: ReadOptions) -> tuple[Layer, ...]:
    """The layers of a file."""
    return files.read(path, options).layers


def run(
    obj: Any,
    layers: Sequence[Layer],
    x: npt.NDArray[Any],
    h0: Sequence[npt.NDArray[Any]] | None,
    c0: Sequence[npt.NDArray[Any]] | None,
    lengths: Sequence[int] | None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Outputs:
    """What the equations give."""
    outcomes = run_stack(layers, np.asarray(x), h0=h0, c0=c0, lengths=lengths, mask=mask)
    return Outputs(outcomes[-1].y, [each.h for each in outcomes], [each.c for each in outcomes])
