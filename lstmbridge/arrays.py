"""The few verbs that touch numbers, each in the array's own namespace and on its own device.

numpy and torch have views and are written in place; jax is functional, so its arrays are assembled by stacking. Every
other array (a tensorflow tensor) is taken to the host first, by the framework that knows it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lstmbridge.grammar import Place
    from lstmbridge.layer import Array

__all__ = [
    "LateCast",
    "assemble",
    "cast",
    "device",
    "host",
    "kept",
    "kind",
    "own",
    "permute",
    "same_bits",
    "to_jax",
    "to_torch",
    "view",
    "zeros_like",
]

_LINE = 64  # bytes of a cache line: a tile of a transposing copy is one line wide
_ROWS = 1024  # and so many rows high; measured by benchmarks/speed.py


class LateCast:
    """An array of numpy's in another dtype, by name: its numbers are cast when they are asked for, each time anew."""

    def __init__(self, array: np.ndarray[Any, Any], dtype: str) -> None:
        self.array, self.dtype = array, _numpy_dtype(dtype)
        self.shape: tuple[int, ...] = array.shape

    def transpose(self, axes: tuple[int, ...]) -> LateCast:
        """The same with its axes in that order: no number is moved."""
        return LateCast(self.array.transpose(axes), self.dtype.name)

    def __neg__(self) -> LateCast:
        return LateCast(-self.array, self.dtype.name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.array.astype(self.dtype).astype(dtype or self.dtype, copy=False)


def kind(array: Array) -> str:
    """Whose array this is: ``numpy``, ``torch`` or ``jax``. Errors: TypeError for anybody else's."""
    root = type(array).__module__.partition(".")[0]
    if root in ("numpy", "h5py") or isinstance(array, LateCast):
        return "numpy"
    if root in ("torch", "jax", "jaxlib"):
        return "torch" if root == "torch" else "jax"
    if isinstance(array, np.ndarray):
        return "numpy"
    if any(base.__module__.partition(".")[0] == "torch" for base in type(array).__mro__):
        return "torch"
    raise TypeError(f"{type(array).__module__}.{type(array).__name__} is not an array of numpy, torch or jax")


def device(array: Array) -> str:
    """Where the array lives, e.g. ``cpu`` or ``cuda:0``."""
    which = kind(array)
    if which == "torch":
        return str(array.device)
    return "cpu" if which == "numpy" else str(next(iter(array.devices())))


def view(array: Array, split: tuple[int, ...], index: tuple[int | slice, ...], axes: tuple[int, ...]) -> Array:
    """`array` seen with the shape `split`, at `index`, its axes in the order `axes`: no number is moved."""
    seen = array.view(split) if kind(array) == "torch" and array.is_contiguous() else array.reshape(split)
    return permute(seen[index], axes)


def permute(array: Array, axes: tuple[int, ...]) -> Array:
    """`array` with its axes in the order `axes`: a view."""
    return array.permute(axes) if kind(array) == "torch" else array.transpose(axes)


def assemble(shape: tuple[int, ...], blocks: Sequence[tuple[Place, Array]]) -> Array:
    """An array of that shape, each block of it written once from (its place, the weight that belongs there).

    A `LateCast` is cast on the way, without an array between.
    """
    first = blocks[0][1]
    if kind(first) == "jax":
        return _assemble_functional(shape, blocks)
    if kind(first) == "torch":
        return _assemble_torch(shape, blocks)
    result: np.ndarray[Any, Any] = np.empty(shape, first.dtype)
    for place, weight in blocks:
        stored = place.stored(weight)
        _copy(result.reshape(place.split)[place.index], stored.array if isinstance(stored, LateCast) else stored)
    return result


def _assemble_torch(shape: tuple[int, ...], blocks: Sequence[tuple[Place, Array]]) -> Array:
    result = blocks[0][1].detach().new_empty(shape)
    for place, weight in blocks:
        result.view(place.split)[place.index].copy_(place.stored(weight.detach()))
    return result


def _assemble_functional(shape: tuple[int, ...], blocks: Sequence[tuple[Place, Array]]) -> Array:
    """The same where arrays cannot be written: blocks in the order of their index, stacked axis by axis."""
    jnp = sys.modules["jax.numpy"]
    pieces = {_start(place.index): place.stored(weight) for place, weight in blocks}
    index = blocks[0][0].index
    for axis in reversed(range(len(index))):
        groups: dict[tuple[int, ...], list[Any]] = {}
        for at in sorted(pieces):
            groups.setdefault(at[:axis], []).append(pieces[at])
        where = sum(isinstance(i, slice) for i in index[:axis])
        join = jnp.stack if isinstance(index[axis], int) else jnp.concatenate
        pieces = {at: join(group, axis=where) for at, group in groups.items()}
    return own(pieces[()].reshape(shape))


def _start(index: tuple[int | slice, ...]) -> tuple[int, ...]:
    return tuple(i if isinstance(i, int) else (i.start or 0) for i in index)


def _copy(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """``target[...] = source``; tile by tile where the two run through memory across each other."""
    width = _LINE // target.itemsize
    crossed = target.ndim == 2 and min(target.shape) > width and source.strides[0] < source.strides[1]
    if not crossed or target.strides[0] < target.strides[1]:
        target[...] = source
        return
    rows, columns = target.shape
    for r in range(0, rows, _ROWS):
        for c in range(0, columns, width):
            target[r : r + _ROWS, c : c + width] = source[r : r + _ROWS, c : c + width]


def own(array: Array) -> Array:
    """A contiguous copy that shares no memory with `array`, on its device."""
    which = kind(array)
    if which == "torch":
        return array.detach().clone(memory_format=sys.modules["torch"].contiguous_format)
    return sys.modules["jax.numpy"].array(array, copy=True) if which == "jax" else np.array(array, order="C")


def kept(array: Array) -> Array:
    """`array` itself if nobody can write to it (a view on a mapped file), else a copy."""
    root = array.base if isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray) else array
    return array if isinstance(root, np.ndarray) and not root.flags.writeable else own(array)


def host(array: Array) -> np.ndarray[Any, Any]:
    """`array` as numpy's, without a copy where it already lives on the host. bfloat16 becomes ml_dtypes' bfloat16."""
    if kind(array) != "torch":
        return np.asarray(array)
    tensor = array.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return np.asarray(tensor.numpy())
    import ml_dtypes

    bits: np.ndarray[Any, Any] = tensor.view(sys.modules["torch"].int16).numpy()
    return bits.view(ml_dtypes.bfloat16)


def to_torch(array: Array) -> Any:
    """`array` as a torch tensor on the same device, sharing memory where the two frameworks can (DLPack)."""
    torch = sys.modules["torch"]
    which = kind(array)
    if which == "torch":
        return array
    if which == "jax":
        return torch.from_dlpack(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native if native.flags.writeable else np.array(native))


def to_jax(array: Array) -> Any:
    """A torch tensor as a jax array on the same device, sharing memory (DLPack)."""
    return sys.modules["jax"].dlpack.from_dlpack(array.contiguous())


def cast(array: Array, dtype: str) -> Array:
    """`array` in another dtype, by name; the same object where it already has it.

    On the host where jax has no float64, as it has not unless it is told to.
    """
    if kind(array) == "torch":
        return array.to(getattr(sys.modules["torch"], dtype))
    if dtype == "bfloat16":
        return array.astype(_numpy_dtype(dtype), copy=False)
    if kind(array) == "jax" and dtype == "float64" and not sys.modules["jax"].config.jax_enable_x64:
        return host(array).astype(dtype)
    return array.astype(dtype) if str(array.dtype) != dtype else array


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    small: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return small


def zeros_like(array: Array) -> Array:
    """Zeros of the array's shape and dtype, on its device; owned."""
    if kind(array) == "torch":
        return sys.modules["torch"].zeros_like(array, memory_format=sys.modules["torch"].contiguous_format)
    return sys.modules["jax.numpy"].zeros_like(array) if kind(array) == "jax" else np.zeros(array.shape, array.dtype)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bits (so NaN equals itself, and 0.0 is not -0.0)."""
    x, y = host(a), host(b)
    if x.dtype != y.dtype or x.shape != y.shape or x.dtype.hasobject or x.itemsize not in (1, 2, 4, 8):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    bits = f"u{x.itemsize}"  # as whole numbers they are compared where they are
    return np.array_equal(x.view(bits), y.view(bits))
