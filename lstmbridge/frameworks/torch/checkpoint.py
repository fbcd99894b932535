"""Which part of a checkpoint is the state dict: found by what it holds, never by what it is called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lstmbridge.errors import Ambiguous, FileError, Unsupported
from lstmbridge.frameworks.torch import archive, infer
from lstmbridge.frameworks.torch.pickles import Inert
from lstmbridge.layer import Array

__all__ = ["State", "state_dict", "unwrapped"]

#: How deep a state dict may lie in a checkpoint.
_DEEPEST, _LONGEST_PATH = 32, 1000
_NAMED = 8

#: What torch puts before every name of a model: DataParallel and its kind, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True, eq=False)
class State:
    """A flat dict of tensors by name, and what else was said of it.

    others  the names in it that hold no tensor
    facts   by the path of a module, what the file says of it beside its weights
    """

    arrays: Mapping[str, Array]
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, infer.Facts] = field(default_factory=dict)


def state_dict(path: Path, found: Any, only: Collection[str]) -> State:
    """The state dict in what a file held.

    only  paths of layers that are wanted; those below the name of an entry say which of several is meant

    It is the one entry, at any depth, that holds recurrent weights; entries that were meant by name bear it in the
    names of their tensors. Errors: Ambiguous for several, with their names; Unsupported for a pickled module; FileError
    for what holds no tensors by name.
    """
    entries = list(_entries(found))
    recurrent = [entry for entry in entries if entry.recurrent(())]
    if not recurrent:
        _check_pickled_module(path, found)
    if not entries:
        raise _nothing(path, found)
    own = [entry for entry in recurrent if entry.recurrent(only)]
    named = [entry for entry in recurrent if only and entry.below_its_name(only)]
    if len(own) > 1 and not named:
        raise _several(path, [entry.name for entry in own])
    chosen = own if len(own) == 1 else named or recurrent or entries
    if len(chosen) > 1 or chosen == named != own:
        return _together(chosen)
    [entry] = chosen
    return replace(entry.state, notes=(*entry.state.notes, *_where(found, entry.keys)))


def _several(path: Path, names: Sequence[str]) -> Ambiguous:
    first = names[0] or names[1]
    return Ambiguous(
        f"{path}: several state dicts with recurrent weights",
        f"found: {', '.join(name or 'the outermost' for name in names)}",
        f"say which: layers=[{first!r}] (--layer {first}); its layers then bear that name, too",
    )


# ---- the entries of a checkpoint


@dataclass(frozen=True, eq=False)
class _Entry:
    """A dict in a checkpoint that holds tensors by name."""

    keys: tuple[str, ...]
    state: State

    @property
    def name(self) -> str:
        return ".".join(self.keys)

    def recurrent(self, only: Collection[str]) -> bool:
        """Whether it has recurrent weights that were asked for."""
        return any(infer.is_recurrent(name, only) for name in self.state.arrays)

    def below_its_name(self, only: Collection[str]) -> bool:
        """The same, where its own name stands before those of its weights."""
        return any(infer.is_recurrent(f"{self.name}.{name}", only) for name in self.state.arrays)


def _entries(found: Any) -> Iterator[_Entry]:
    """Every dict with tensors in it, each once, the outer before the inner."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), found)]
    while waiting:
        keys, value = waiting.pop()
        if id(value) in seen or len(keys) > _DEEPEST or sum(map(len, keys)) > _LONGEST_PATH:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping) and any(type(name) is str and archive.is_tensor(each)
                                              for name, each in value.items()):  # fmt: skip
            yield _Entry(keys, _state(value))
        waiting += [((*keys, key), inner) for key, inner in reversed(list(_children(value)))]


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The containers in a container."""
    if isinstance(value, Mapping | list | tuple):
        yield from (pair for pair in _named(value) if isinstance(pair[1], Mapping | list | tuple))


def _named(value: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """What is in a container, each with its name or number."""
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield str(key) if isinstance(key, str | int) else type(key).__name__, inner


def _state(found: Mapping[Any, Any]) -> State:
    """The tensors of a dict, without the wrappers' prefixes. What is no tensor is Opaque under a weight's name."""
    arrays: dict[str, Array] = {}
    others: list[str] = []
    for name, value in found.items():
        if type(name) is not str:
            others.append(f"an entry under a {type(name).__name__}")
        elif archive.is_tensor(value):
            arrays[name] = archive.array(value)
        elif infer.is_recurrent(name, ()) and not isinstance(value, Mapping):
            arrays[name] = archive.Opaque(_what(value))
        else:
            others.append(name)
    return unwrapped(State(arrays, tuple(others)))


def _what(value: Any) -> str:
    """What a value is, in words."""
    return (
        f"an object of {value}, which is not built" if isinstance(value, Inert) else f"of type {type(value).__name__}"
    )


def unwrapped(state: State) -> State:
    """The state without the prefixes that wrappers put before every name; a note says which."""
    arrays, taken = state.arrays, ""
    while prefix := next((each for each in _WRAPPERS if arrays and all(name.startswith(each) for name in arrays)), ""):
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
        taken += prefix
    if not taken:
        return state
    others = tuple(name.removeprefix(taken) for name in state.others)
    facts = {f"{path}.".removeprefix(taken).removesuffix("."): each for path, each in state.facts.items()}
    return State(arrays, others, (*state.notes, f"all names begin with {taken!r}, which was left out"), facts)


def _together(entries: Sequence[_Entry]) -> State:
    """Several entries as one, each below its name."""
    arrays = {
        f"{entry.name}.{name}".lstrip("."): array for entry in entries for name, array in entry.state.arrays.items()
    }
    others = tuple(f"{entry.name}.{name}".lstrip(".") for entry in entries for name in entry.state.others)
    notes = tuple(f"{entry.name}: {note}" for entry in entries for note in entry.state.notes)
    return State(arrays, others, notes)


def _where(found: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """A note on which entry was read, and what else there was at every level above it."""
    others: list[str] = []
    above = ""
    for key in keys:
        inner = None
        for name, value in _named(found):
            if name == key and inner is None and isinstance(value, Mapping | list | tuple):
                inner = value
            else:
                others.append(above + name)
        found, above = inner, f"{above}{key}."
    if keys:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        rest = f"; not read: {', '.join(others[:_NAMED])}{more}" if others else ""
        yield f"read from the entry {'.'.join(keys)!r}{rest}"


# ---- files without a state dict

_EXPECTED = "expected one: torch.save(module.state_dict(), path)"


def _nothing(path: Path, found: Any) -> FileError:
    """The error for a file that holds no tensors by name."""
    if archive.is_tensor(found):
        return FileError(f"{path}: holds a tensor", "expected a dict of tensors by name")
    if not isinstance(found, Mapping | list | tuple):
        kind = str(found) if isinstance(found, Inert) else type(found).__name__
        return FileError(f"{path}: holds something else than tensors", f"found: {kind}", _EXPECTED)
    names = [f"{key} ({value})" if isinstance(value, Inert) else key for key, value in _named(found)]
    listed = ", ".join(names[:_NAMED]) or "nothing"
    return FileError(f"{path}: no state dict: it holds something else than tensors", f"found: {listed}", _EXPECTED)


def _check_pickled_module(path: Path, found: Any) -> None:
    """Errors: Unsupported if the file is a pickled module, or has one at its top."""
    beside = _named(found) if isinstance(found, Mapping | list | tuple) else [("", found)]
    for key, value in beside:
        if isinstance(value, Inert) and _is_module(value):
            where = f" under {key!r}" if key else ""
            raise Unsupported(
                f"{path}: holds a whole pickled module{where}, not its state dict",
                f"found: an object of {value}; to build it, its class would have to run",
                "where its classes are, and you trust the file: "
                "torch.save(torch.load(path, weights_only=False).state_dict(), new_path)",
            )


def _is_module(value: Inert) -> bool:
    """Whether a placeholder has what every nn.Module keeps."""
    return isinstance(value.state, Mapping) and {"_parameters", "_modules"} <= set(value.state)
