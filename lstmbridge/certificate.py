"""What a conversion certifies: a small JSON file beside the output, and how it is checked again later.

It holds the SHA-256 of the files on both sides and of every weight in canonical form (as `lstmbridge.read` gives it,
C order, in its own dtype), the Specs, what was done, the versions of the tool and of the layouts, and the differences
that were measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmbridge import __version__, mapped, registry
from lstmbridge import arrays as xp
from lstmbridge.errors import BridgeError, FileError
from lstmbridge.layer import Layer
from lstmbridge.pipeline import Migration
from lstmbridge.reading import read
from lstmbridge.spec import Spec

if TYPE_CHECKING:
    from lstmbridge.checking import Agreement

__all__ = ["SUFFIX", "Verification", "beside", "certify", "digest_of_file", "layout_version", "load", "save", "verify"]

#: The version of this format; a reader refuses a later one.
FORMAT = 1
SUFFIX = ".certificate.json"
_BLOCK = 1 << 20
_OURS = {"lstmbridge", "builtins"}


def beside(output: str | os.PathLike[str]) -> Path:
    """Where the certificate of an output stands: ``model.safetensors`` has ``model.safetensors.certificate.json``."""
    return Path(f"{os.fspath(output)}{SUFFIX}")


# ---- hashes


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, read a block at a time."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def digests_of(layer: Layer) -> dict[str, str]:
    """For each weight the SHA-256 of its dtype, its shape and its numbers in C order."""
    return {name: _digest(array) for name, array in layer.weights.items()}


def _digest(array: Any) -> str:
    ready = np.ascontiguousarray(xp.host(array))
    found = hashlib.sha256(f"{ready.dtype.str}{ready.shape}".encode())
    found.update(ready.reshape(-1).view(np.uint8).data)
    mapped.forget()
    return found.hexdigest()


@cache
def layout_version(framework: str) -> str:
    """A short digest of the lines in which a framework's layouts are stated: it changes when a layout does."""
    layouts = registry.framework(framework).layout.LAYOUTS
    lines = [str((cell, layout.gates, [(each.key, each.text) for each in layout.lines], dict(layout.directions)))
             for cell, layout in sorted(layouts.items())]  # fmt: skip
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# ---- making one


def certify(
    done: Migration,
    output: Path,
    *,
    source: str,
    source_files: Mapping[str, str],
    frameworks: tuple[str, str],
    options: Mapping[str, Any],
    agreements: Sequence[Agreement] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """The certificate of a conversion whose output is at `output`.

    source        the source's name, as the job knows it
    source_files  the SHA-256 of each of its files
    frameworks    of the source and of the target
    name          the output's own name, where it stands under another one for now

    The target's hashes are taken from the file as it is read again. Errors: FileError if what is read is not what was
    written, which would be a mistake of lstmbridge.
    """
    written = _read_back(output, done)
    final = name or output.name
    pairs = zip(done.reports, done.targets, written, strict=True)
    return {
        "format": FORMAT,
        "tool": f"lstmbridge {__version__}",
        "layouts": {each: layout_version(each) for each in sorted(set(frameworks))},
        "source": {"name": source, "framework": frameworks[0], "files": dict(source_files)},
        "target": {"framework": frameworks[1], "files": _digests(output, final)},
        "options": dict(options),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": _environment(),
        "layers": [
            {
                "label": report.label,
                "target_label": report.target_label,
                "verdict": report.verdict,
                "module": report.module,
                "notes": list(report.notes),
                "source_spec": json.loads(fitted.source.spec.to_json()),
                "target_spec": json.loads(found.spec.to_json()),
                "source_tensors": digests_of(fitted.source),
                "target_tensors": digests_of(found),
            }
            for report, fitted, found in pairs
        ],
        "left_alone": list(done.left_alone),
        "notes": list(done.notes),
        "check": [each.as_json() for each in agreements],
    }


def _environment() -> dict[str, str]:
    """The versions of Python, numpy, and the frameworks that were loaded: those that a check was run by."""
    roots = {root.partition(".")[0] for name in registry.names() for root in registry.framework(name).roots}
    loaded = sorted((roots | {"numpy", "tensorflow", "jax", "onnxruntime"}) & set(sys.modules))
    versions = {name: str(getattr(sys.modules[name], "__version__", "?")) for name in loaded if name not in _OURS}
    return {"python": platform.python_version(), **versions}


def _digests(output: Path, name: str) -> dict[str, str]:
    """The SHA-256 of the output's files: itself, and those whose names go on from its own (external data)."""
    others = [each for each in output.parent.iterdir() if each.name.startswith(f"{output.name}.") and each.is_file()]
    files = [output, *(each for each in sorted(others) if not each.name.endswith(SUFFIX))]
    return {name + each.name.removeprefix(output.name): digest_of_file(each) for each in files}


def _read_back(output: Path, done: Migration) -> tuple[Layer, ...]:
    """The output's layers in the order of the conversion's. Errors: FileError if they are not what was written."""
    labels = [target.layer.label for target in done.targets]
    found = _of_labels(_read(output, [target.layer.spec for target in done.targets]), labels)
    for layer, target in zip(found, done.targets, strict=True):
        for name, array in target.layer.weights.items():
            if name not in layer.weights or not xp.same_bits(layer[name], array):
                raise FileError(f"{output.name}: {layer.label} {name} is not what was written", "please report this")
            mapped.forget()
    return found


def _read(output: Path, specs: Iterable[Spec]) -> tuple[Layer, ...]:
    """The layers of an output; what its format does not say is taken from the Specs that were written."""
    specs = tuple(specs)
    functions = {spec.activations[0].name for spec in specs if spec.cell == "rnn"} & {"tanh", "relu"}
    resets = {spec.reset_after for spec in specs if spec.cell == "gru"}
    options: dict[str, Any] = {"nonlinearity": functions.pop()} if len(functions) == 1 else {}
    options |= {"reset_after": resets.pop()} if len(resets) == 1 else {}
    return read(output, **options)


def _of_labels(layers: Sequence[Layer], labels: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of those labels; in order, where a format gives other names and there are as many."""
    known = {layer.label: layer for layer in layers}
    if set(labels) <= set(known):
        return tuple(known[label] for label in labels)
    if len(layers) == len(labels):
        return tuple(layers)
    raise FileError(f"{len(layers)} layers where {len(labels)} were written", f"found {', '.join(known)}")


def save(certificate: Mapping[str, Any], path: Path) -> None:
    """The certificate as JSON, a line for each of its entries."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in certificate.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """The certificate at `path`. Errors: FileError for a file that is missing, or no certificate of this format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found["format"], int):
            raise TypeError(f"a {type(found).__name__} without a format")
        found["layers"], found["target"]["files"], found["source"]["files"]
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such certificate", "lstmbridge migrate writes one beside each output") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: not a certificate of lstmbridge", f"found: {error!r}") from error
    if found["format"] > FORMAT:
        raise FileError(f"{path}: format {found['format']}", f"this is lstmbridge {__version__}: it knows {FORMAT}")
    return found


# ---- checking one


@dataclass(frozen=True)
class Verification:
    """What came of checking an output against its certificate.

    output    the file that was checked
    problems  everything that is not as certified, a sentence each; none if it is
    compared  how many files and tensors were compared
    notes     what has changed since without a fault of the output: a later version, another statement of a layout
    """

    output: str
    problems: tuple[str, ...]
    compared: int
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all is as certified."""
        return not self.problems

    def demand(self) -> Verification:
        """Itself. Errors: FileError with every problem."""
        if self.problems:
            raise FileError(f"{self.output}: not what its certificate says", *self.problems)
        return self


def verify(output: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> Verification:
    """Whether an output, and its source if it is given, are still what the certificate beside the output says.

    The files' bytes are hashed, the output is read again, and every weight and Spec is compared. Errors: FileError if
    there is no certificate; an output that is damaged or missing is a problem in the result.
    """
    path = Path(output)
    told = load(beside(path))
    problems: list[str] = []
    try:
        compared = _compare_files(path.parent, told["target"]["files"], problems)
        if source is not None:
            compared += _compare_source(Path(source), told, problems)
        compared += _compare_layers(path, told["layers"], "target", problems)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BridgeError):
            raise
        raise FileError(f"{beside(path)}: not a certificate of lstmbridge", f"found: {error!r}") from error
    return Verification(str(path), tuple(problems), compared, tuple(_changes(told)))


def _compare_files(folder: Path, told: Mapping[str, str], problems: list[str]) -> int:
    for name, digest in told.items():
        path = folder / Path(name).name
        if not path.is_file():
            problems.append(f"{path.name} is missing")
        elif digest_of_file(path) != digest:
            problems.append(f"{path.name} has other bytes than certified")
    return len(told)


def _compare_source(source: Path, told: Mapping[str, Any], problems: list[str]) -> int:
    """The source's files, wherever they stand now: those of the same names in the same folder."""
    files = told["source"]["files"]
    base = source if source.is_dir() else source.parent
    compared = 0
    for name, digest in files.items():
        path = source if len(files) == 1 and not source.is_dir() else base / Path(name).name
        compared += 1
        if not path.is_file():
            problems.append(f"the source's {name} is missing")
        elif digest_of_file(path) != digest:
            problems.append(f"the source's {name} has other bytes than certified")
    return compared


def _compare_layers(path: Path, told: Sequence[Mapping[str, Any]], side: str, problems: list[str]) -> int:
    specs = [Spec.from_json(json.dumps(each[f"{side}_spec"])) for each in told]
    try:
        layers = _of_labels(_read(path, specs), [each["target_label"] for each in told])
    except BridgeError as error:
        problems.append(f"it cannot be read: {error.headline}")
        return 0
    compared = 0
    for layer, spec, each in zip(layers, specs, told, strict=True):
        if layer.spec != spec:
            problems.append(f"{layer.label} is {layer.spec}; certified: {spec}")
            continue
        found = digests_of(layer)
        compared += len(found)
        tensors = each[f"{side}_tensors"]
        problems += [f"{layer.label} {name} has other numbers" for name in found if tensors.get(name) != found[name]]
    return compared


def _changes(told: Mapping[str, Any]) -> Iterable[str]:
    if told["tool"] != f"lstmbridge {__version__}":
        yield f"certified by {told['tool']}; this is lstmbridge {__version__}"
    for framework, version in told["layouts"].items():
        if framework not in registry.names():
            yield f"{framework} is not known here"
        elif layout_version(framework) != version:
            yield f"the layout of {framework} is stated otherwise than when this was certified"
