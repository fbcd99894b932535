"""TorchScript archives (torch.jit.save, scripted or traced): the parameters of their modules, by path.

The pickle holds a tree of module objects by the names of their compiled classes, which are not built; the code of each
class stands beside it as text, which is not run, and says what the weights do not: constants such as ``batch_first``
(scripted), or the arguments of the one operation that the module calls (traced). Source: torch/csrc/jit/serialization/
export_module.cpp and pickler.cpp (2.13).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.torch import archive, infer
from lstmbridge.frameworks.torch.checkpoint import State
from lstmbridge.frameworks.torch.pickles import Inert, Name
from lstmbridge.frameworks.torch.zips import Zip
from lstmbridge.layer import Array

__all__ = ["load"]

_LONGEST_PATH = 1000
_LARGEST_CODE = 1 << 24

#: Torch's own classes, under the names they are compiled to.
_OWN = re.compile(r"__torch__\.torch\.nn\.modules\.rnn\.(?:___torch_mangle_\d+\.)?(LSTM|GRU|RNN)(?:Cell)?")
_QUANTISED = re.compile(r"__torch__\.torch\.(?:ao\.)?nn\.quantized?.*\.rnn\..*|__torch__\.torch\.classes\.rnn\..*")

_CONSTANT = re.compile(r"^  (\w+) : Final\[\w+\] = (.+)$", re.MULTILINE)
_CALL = re.compile(r"torch\.(lstm|gru|rnn_tanh|rnn_relu)\(")
_CALL_ENDS = re.compile(r", \d{1,9}, [^,]{1,60}, (?:True|False), (?:True|False), (True|False)\)$")
_CELL_CALL = re.compile(r"return torch\.(tanh|relu)\(torch\.add_?\(")


def load(zipped: Zip, only: Collection[str]) -> State:
    """The parameters and buffers of all modules by path, and what the code says of the recurrent ones.

    only  paths of the layers that are wanted

    Errors: Unsupported for a quantised layer, and for a frozen archive, whose weights have no names; FileError for what
    is no tree of modules.
    """
    root = archive.load_zip(zipped, _REBUILD)
    if not isinstance(root, Inert) or not isinstance(root.state, dict):
        raise FileError(f"{zipped.path}: a TorchScript archive without a module in it")
    arrays: dict[str, Array] = {}
    facts: dict[str, infer.Facts] = {}
    notes: list[str] = []
    code = _Code(zipped)
    for path, module in _modules(root):
        _check_class(path, module, only, zipped)
        own = {name: value for name, value in module.state.items() if archive.is_tensor(value)}
        arrays |= {f"{path}.{name}" if path else name: value for name, value in own.items()}
        if infer.looks_recurrent(own):
            facts[path] = code.facts(module.kind)
            if _OWN.fullmatch(str(module.kind)) is None:
                notes.append(f"{path or 'the module'}: its class is {module.kind}; read as torch's own, by its weights")
    if not arrays and any(name.startswith("constants/") for name in zipped.names()):
        raise Unsupported(
            f"{zipped.path}: a frozen TorchScript archive: its weights are constants without names",
            "save the module before torch.jit.freeze or optimize_for_inference, or its state dict",
        )
    return State(arrays, (), tuple(notes), facts)


def _modules(root: Inert) -> Iterator[tuple[str, Inert]]:
    """Every module in the tree with its path, a shared one once."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Inert]] = [((), root)]
    while waiting:
        keys, module = waiting.pop()
        if id(module) in seen or sum(map(len, keys)) > _LONGEST_PATH:
            continue
        seen.add(id(module))
        yield ".".join(keys), module
        inner = [(name, value) for name, value in module.state.items() if isinstance(value, Inert)]
        waiting += [((*keys, str(name)), value) for name, value in reversed(inner) if isinstance(value.state, dict)]


def _check_class(path: str, module: Inert, only: Collection[str], zipped: Zip) -> None:
    """Errors: Unsupported for a quantised layer that was asked for."""
    if _QUANTISED.fullmatch(str(module.kind)) and infer.selected(path, only):
        raise Unsupported(
            f"{zipped.path.name}: {path!r} is quantised ({module.kind})",
            "its weights are 8-bit numbers with scales: convert a file of the float module that it was made from",
        )


#: What TorchScript's pickles call beside the functions that make tensors: lists and dicts with the type of their items.
_REBUILD: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch.jit._pickle", name): lambda value, *_: value
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


# ---- what the code says


class _Code:
    """The code of the compiled classes, read as text."""

    def __init__(self, zipped: Zip) -> None:
        self.zipped = zipped
        self.classes: dict[str, dict[str, str]] = {}

    def facts(self, kind: Name) -> infer.Facts:
        """The activation and the orientation of a module, as far as the code of its class tells."""
        text = self._of(kind)
        constants = {name: value.strip('"') for name, value in _CONSTANT.findall(text)}
        mode = constants.get("mode", "").lower() or _first(_CALL, text)
        cell = constants.get("nonlinearity", "") or _first(_CELL_CALL, text)
        name = mode.removeprefix("rnn_") if mode.startswith("rnn_") else cell
        first = constants.get("batch_first") or _traced_batch_first(text)
        return infer.Facts(
            nonlinearity=name if name in ("tanh", "relu") else None,
            batch_first={"True": True, "False": False}.get(first),
        )

    def _of(self, kind: Name) -> str:
        """The code of one class; empty if it is not there."""
        member = f"code/{kind.module.replace('.', '/')}.py"
        if member not in self.classes:
            there = member in self.zipped and self.zipped.size_of(member) <= _LARGEST_CODE
            text = self.zipped.content(member).decode(errors="replace") if there else ""
            parts = (part.partition("(") for part in f"\n{text}".split("\nclass ")[1:])
            self.classes[member] = {name: rest for name, _, rest in parts}
        return self.classes[member].get(kind.name, "")


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _traced_batch_first(text: str) -> str:
    """The last argument of the operation that a traced module calls; empty if it calls none with that many."""
    calls = (line[-200:] for line in text.splitlines() if _CALL.search(line))
    return next((match[1] for line in calls if (match := _CALL_ENDS.search(line))), "")
