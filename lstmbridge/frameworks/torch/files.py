"""State dicts in ``.safetensors``, ``.pt`` and ``.pth`` files; none of them needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge import tensorfile
from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import FileError
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.torch import archive, infer
from lstmbridge.frameworks.torch.plan import plan

__all__ = ["read", "write"]

#: Under which names a checkpoint usually keeps the model's state dict.
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "weights")


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a state dict; every other array is left alone.

    The file is mapped, not loaded. Of a ``.pt`` file only tensors and plain data are read, as torch.load does with
    ``weights_only=True``; its state dict may stand inside a checkpoint. Errors: FileError for a file that is missing,
    truncated, foreign, or holds anything but tensors; and those of `lstmbridge.frameworks.torch.infer.read`.
    """
    if path.suffix == ".safetensors":
        arrays, metadata = tensorfile.load(path)
        return infer.read(arrays, options, who=path.name, described=metadata.get(infer.MARK))
    tensors, notes = _state_dict(path, archive.load(path))
    reading = infer.read(tensors, options, who=path.name)
    return Reading(reading.layers, reading.left_alone, notes)


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> None:
    """The state dict of the modules that ``live.load`` makes of the file, each under its layer's path.

    It loads with ``load_state_dict(strict=True)``: into the module itself where the layer has no path, else into what
    has the module at that path. A ``.safetensors`` file also says, as metadata, what a state dict
    does not (`infer.MARK`), so that nothing need be asked when it is read; a ``.pt`` file is a plain dict of tensors.
    """
    whole = plan(targets, options, named=True)
    arrays = {unit.key(name): xp.host(array) for unit in whole.units for name, array in unit.arrays().items()}
    arrays |= {unit.key(infer.SPEC_KEY): infer.stored_spec(unit) for unit in whole.units if unit.kind == "faithful"}
    if path.suffix == ".safetensors":
        tensorfile.save(arrays, path, metadata={"format": "pt", infer.MARK: infer.describe(whole)})
    else:
        archive.save(arrays, path)


# ---- the state dict in a checkpoint


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | archive.Opaque)


def _is_state(value: Any) -> bool:
    """Whether this is a dict of tensors by name."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and _is_tensor(each) for name, each in value.items())
    )


def _state_dict(path: Path, found: Any) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The state dict in what a file held, and notes on what else there was."""
    if _is_state(found):
        return found, ()
    if not isinstance(found, Mapping):
        kind = "tensor" if _is_tensor(found) else type(found).__name__
        raise FileError(f"{path}: holds a {kind}", "expected a dict of tensors by name")
    if any(_is_tensor(value) for value in found.values()):
        strange = [f"{name} ({type(value).__name__})" for name, value in found.items() if not _is_tensor(value)]
        raise FileError(f"{path}: not only tensors in its state dict", f"found: {', '.join(strange[:5])}")
    nested = [name for name, value in found.items() if _is_state(value)]
    likely = [name for name in nested if name in _NESTED] or nested
    if len(likely) != 1:
        names = ", ".join(map(str, nested or list(found)[:5])) or "nothing"
        which = "several state dicts" if nested else "no state dict"
        raise FileError(f"{path}: {which}", f"found: {names}", "expected one: torch.save(module.state_dict(), path)")
    [chosen] = likely
    others = ", ".join(str(name) for name in found if name != chosen)
    return found[chosen], (f"read from the entry {chosen!r}" + (f"; not read: {others}" if others else ""),)
