"""The arrays of CuDNNLSTM and CuDNNGRU: cuDNN's memory as it is, under the names and in the shapes of a plain layer.

A plain layer's kernel is ``i (g h)``. Theirs has the same shape, but each gate's block of columns, written out row by
row, is cuDNN's matrix (h, i) row by row: a reinterpretation, no transpose. A block of their recurrent_kernel is (h, p),
transposed beside a plain one. Their bias is (k g h) in one axis: the inputs' gates, then the recurrent ones.

Source: preprocess_weights_for_loading in keras/engine/saving.py (Keras 2.3.1), and keras/layers/cudnn_recurrent.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lstmbridge.errors import LayoutError
from lstmbridge.layer import Array

__all__ = ["plain", "stored_so"]

#: How many gates the two have.
_GATES = (4, 3)


def stored_so(arrays: Mapping[str, Array]) -> bool:
    """Whether the arrays of one direction are of such a layer: twice as many biases as columns, in one axis."""
    shapes = [tuple(arrays[name].shape) if name in arrays else () for name in ("recurrent_kernel", "bias")]
    if len(shapes[0]) != 2:
        return False
    units, columns = shapes[0]
    return shapes[1] == (2 * columns,) and any(columns == gates * units for gates in _GATES)


def plain(arrays: Mapping[str, Array], who: str) -> dict[str, Array]:
    """The arrays as a plain layer with two biases has them: kernel, recurrent_kernel, bias (k, (g h)).

    The bias is a view; the two kernels are new. Errors: LayoutError for a kernel of another size.
    """
    kernel, recurrent = arrays["kernel"], arrays["recurrent_kernel"]
    units, columns = recurrent.shape
    if kernel.ndim != 2 or kernel.shape[1] != columns:
        raise LayoutError(f"{who}: kernel has shape {tuple(kernel.shape)}", f"expected i (g h) with (g h) = {columns}")
    return {
        **arrays,
        "kernel": _each(kernel, units, lambda block: np.ascontiguousarray(block).reshape(units, -1).T),
        "recurrent_kernel": _each(recurrent, units, lambda block: block.T),
        "bias": arrays["bias"].reshape(2, columns),
    }


def _each(array: Array, units: int, turned: Callable[[Array], Array]) -> Array:
    """An array of the same shape, each gate's block of columns turned."""
    made = np.empty_like(array)
    for start in range(0, array.shape[1], units):
        made[:, start : start + units] = turned(array[:, start : start + units])
    return made
