"""Files of torch's: state dicts, checkpoints, TorchScript, exported programs, shards; none of them needs torch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lstmbridge import tensorfile
from lstmbridge.contract import Reading, ReadOptions, WriteOptions
from lstmbridge.errors import BridgeError, FileError, listed
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.torch import archive, exported, infer, script, sharded
from lstmbridge.frameworks.torch.checkpoint import State, state_dict, unwrapped
from lstmbridge.frameworks.torch.effective import effective
from lstmbridge.frameworks.torch.optimizing import second_biases, state_of
from lstmbridge.frameworks.torch.patch import put
from lstmbridge.frameworks.torch.plan import Unit, plan
from lstmbridge.frameworks.torch.saved import entries_by_name, optimizer_dict, optimizer_names, plain
from lstmbridge.frameworks.torch.zips import Zip
from lstmbridge.layer import Layer
from lstmbridge.mapped import Later
from lstmbridge.optimizers import OptimizerState
from lstmbridge.stored import noting

__all__ = ["optimizer", "patch", "read", "write"]


@dataclass(frozen=True, eq=False)
class _Found:
    """What a file holds: its state dict, and the text by which it is ours (`infer.MARK`), if it is."""

    state: State
    described: str | None = None


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a state dict; every other array is left alone.

    path  a file of torch.save (a state dict, or a checkpoint that holds one), torch.jit.save or torch.export.save, of
          any age and suffix; a ``.safetensors`` file; an index of shards, or the directory that holds one

    The file is mapped, not loaded, and nothing in it is run: of a pickle only tensors and plain data are read, and
    objects of any class become placeholders. Errors: FileError for a file that is missing, truncated, foreign, or holds
    no state dict; Ambiguous for several; Unsupported for a pickled module or quantised weights; and those of
    `lstmbridge.frameworks.torch.infer.read`.
    """
    found = _found(path, options.only)
    if found.described is not None:
        return infer.read(found.state.arrays, options, who=path.name, described=found.described)
    state = found.state
    arrays, computed = effective(state.arrays, options.only, path.name)
    reading = infer.read(arrays, options, who=path.name, facts=state.facts)
    return Reading(reading.layers, (*reading.left_alone, *state.others), (*state.notes, *computed))


def _found(path: Path, only: Collection[str]) -> _Found:
    index = sharded.index_of(path) if path.is_dir() else path if path.name.endswith(sharded.INDEX) else None
    if index is not None:
        return _Found(unwrapped(sharded.load(index, only)))
    if path.suffix == ".safetensors":
        arrays, metadata = tensorfile.load(path)
        described = metadata.get(infer.MARK)
        return _Found(State(arrays) if described is not None else unwrapped(State(arrays)), described=described)
    with archive.guarded(path):
        if archive.is_legacy(path):
            return _Found(state_dict(path, archive.load_legacy(path), only))
        with Zip(path) as zipped:
            return _in_zip(zipped, only)


def _in_zip(zipped: Zip, only: Collection[str]) -> _Found:
    if "constants.pkl" in zipped:
        return _Found(unwrapped(script.load(zipped, only)))
    if exported.is_exported(zipped):
        return _Found(unwrapped(exported.load(zipped)))
    return _Found(state_dict(zipped.path, archive.load_zip(zipped), only))


def optimizer(path: Path, options: ReadOptions) -> OptimizerState:
    """The state of the optimizer in a checkpoint, for the layers of the state dict in it.

    A state dict of an optimizer names no parameter: it counts them, in the order of the model's own. So its entries are
    those of the model's tensors, in order, if they are as many and have the same shapes; what else stands among them
    (buffers of a normalisation) is known by its name. Errors: FileError for a file without an optimizer; Ambiguous for
    several, and where entries and tensors do not go together; those of `optimizing.state_of`.
    """
    with archive.guarded(path):
        found = archive.load(path)
    saved = optimizer_dict(path, found)
    layers = _beside(path, options)
    state = state_dict(path, found, options.only)
    names = entries_by_name(path, saved, state.arrays, [name for layer in layers for name in second_biases(layer)])
    kept = {name: plain(saved["state"].get(number, {})) for number, name in names.items()}
    trained = {names[each]: n for n, group in enumerate(saved["param_groups"]) for each in group["params"]}
    groups = [plain(group) for group in saved["param_groups"]]
    made = state_of(groups, {name: each for name, each in kept.items() if each}, trained, layers)
    if any(group.get("param_names") for group in groups):
        return made
    note = f"{path.name}: its optimizer names no parameter; they were taken in the order of the model's, shapes agree"
    return made.replace(notes=(*made.notes, note))


def _beside(path: Path, options: ReadOptions) -> tuple[Layer, ...]:
    """The recurrent layers of the model beside an optimizer. Errors: FileError if there is none."""
    layers = read(path, options).layers
    if not layers:
        raise FileError(
            f"{path}: no model with recurrent layers beside its optimizer",
            "expected both: {'model': model.state_dict(), 'optimizer': optimizer.state_dict()}",
            "or load it into an optimizer: read_optimizer(optimizer, model)",
        )
    return layers


def patch(existing: Path, layers: Sequence[Layer], path: Path, options: ReadOptions) -> tuple[str, ...]:
    """The file `existing` at `path`, with the weights of `layers`: `lstmbridge.frameworks.torch.patch`."""
    with noting() as noted:
        found = read(existing, options)
    put(existing, found, layers, path, noted)
    return tuple(_stale(existing))


def _stale(existing: Path) -> Iterator[str]:
    """A note if a checkpoint also holds the state of an optimizer, which is that of the weights that were replaced."""
    if existing.suffix in (".safetensors", ".json") or existing.is_dir():
        return
    with contextlib.suppress(BridgeError):
        names = ", ".join(optimizer_names(archive.load(existing)))
        if names:
            yield f"{names} holds the state of an optimizer for the weights that were replaced: begin with a new one"


def write(targets: Sequence[Fitted], path: Path, options: WriteOptions) -> Sequence[str]:
    """The state dict of the modules that ``live.load`` makes of the file, each under its layer's path.

    It loads with ``load_state_dict(strict=True)``: into the module itself where the layer has no path, else into what
    has the module at that path. A ``.safetensors`` file also says, as metadata, what a state dict
    does not (`infer.MARK`), so that nothing need be asked when it is read; a ``.pt`` file is a plain dict of tensors.
    Each tensor is packed when it is written. Gives notes on what the file does not say.
    """
    whole = plan(targets, options, named=True)
    arrays = {unit.key(name): array for unit in whole.units for name, array in unit.later().items()}
    own = [unit for unit in whole.units if unit.kind == "faithful"]
    arrays |= {unit.key(infer.SPEC_KEY): Later.of(infer.stored_spec(unit)) for unit in own}
    if path.suffix == ".safetensors":
        tensorfile.save(arrays, path, metadata={"format": "pt", infer.MARK: infer.describe(whole)})
        return ()
    archive.save(arrays, path)
    return tuple(_unsaid(whole.units))


def _unsaid(units: Sequence[Unit]) -> Iterator[str]:
    """A note if modules are not as torch makes them where nothing is said, which a dict of tensors does not tell."""
    names = [unit.name or "the module" for unit in units if unit.batch_first and unit.kind != "cell"]
    if names:
        yield (
            f"sequences are (batch, time, features), which a dict of tensors does not say: make {listed(names)} with "
            "batch_first=True, or write .safetensors, which says it"
        )
