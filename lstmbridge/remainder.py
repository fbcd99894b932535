"""What a conversion leaves out of its target, kept so that the way back is bit for bit.

For each layer: its Spec, its path and metadata, and every weight that was merged or folded. Nothing is stored that the
target holds itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lstmbridge import arrays as xp
from lstmbridge import tensorfile
from lstmbridge.errors import FileError, LayoutError
from lstmbridge.fit import Fitted
from lstmbridge.layer import Array, Layer
from lstmbridge.mapped import Later, forget
from lstmbridge.spec import ROLES, Spec

__all__ = ["Entry", "Remainder"]

_MARK = "lstmbridge.remainder"
_PLAIN = ("path", "level", "after", "metadata", "digests")


@dataclass(frozen=True, eq=False)
class Entry:
    """What one layer was, and those of its weights that the target does not hold.

    fitted   the Spec of the target's layer
    terms    the source's weights that were merged, folded or given up, by name
    digests  SHA-256 of the target's weights that were made from terms or padded, by name
    """

    spec: Spec
    fitted: Spec
    path: str
    level: int | None
    after: str | None
    metadata: Mapping[str, Any]
    terms: Mapping[str, Array]
    digests: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Remainder:
    """The entries of all layers of one conversion, by the layers' labels in the target.

    `migrate(target, to=source_framework, remainder=remainder)` gives the source back. If the target's weights have
    changed since (it was trained on) the terms no longer belong to them, and that is an error.
    """

    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, sources: Sequence[Layer], targets: Sequence[Fitted]) -> Self:
        """The remainder of a conversion: the layers as they were read, and as the target holds them."""
        return cls({to.layer.label: _made(source, to) for source, to in zip(sources, targets, strict=True)})

    def back(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers that `layers` were made from. Errors: LayoutError if these are not those, or have changed."""
        if len(layers) != len(self.entries):
            raise LayoutError(
                f"{len(layers)} layers for a remainder of {len(self.entries)}",
                f"found {', '.join(layer.label for layer in layers)}; expected {', '.join(self.entries)}",
            )
        same_names = {layer.label for layer in layers} == set(self.entries)
        by_order = list(self.entries.values())
        entries = [self.entries[layer.label] for layer in layers] if same_names else by_order
        return tuple(_restored(layer, entry) for layer, entry in zip(layers, entries, strict=True))

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes it to a ``.safetensors`` file. Errors: FileError if that exists and `force` is false."""
        if Path(path).exists() and not force:
            raise FileError(f"{path} exists already", "force=True (--force) overwrites it; or choose another name")
        arrays = {
            f"{label}/{name}": xp.host(array)
            for label, each in self.entries.items()
            for name, array in each.terms.items()
        }
        text = json.dumps({label: _entry_json(each) for label, each in self.entries.items()})
        tensorfile.save(arrays, Path(path), metadata={_MARK: text})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The remainder that `save` wrote. Errors: FileError for any other file."""
        arrays, metadata = tensorfile.load(Path(path))
        if _MARK not in metadata:
            raise FileError(f"{path}: not a remainder", "expected a file that Remainder.save wrote")
        try:
            found = json.loads(metadata[_MARK])
            return cls({label: _entry(label, fields, arrays) for label, fields in found.items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileError(f"{path}: a remainder that cannot be read", f"found: {error!r}") from error


def _made(source: Layer, target: Fitted) -> Entry:
    made = [name for name in target.layer if name in target.terms or name not in target.source.weights]
    return Entry(
        spec=source.spec,
        fitted=target.layer.spec,
        path=source.path,
        level=source.level,
        after=source.after,
        metadata=source.metadata,
        terms=target.terms,
        digests={name: _digest(target.layer[name]) for name in made},
    )


def _restored(layer: Layer, entry: Entry) -> Layer:
    """One layer as it was. Errors: LayoutError if the target's weights are not what its terms give."""
    if not _alike(layer.spec, entry.fitted):
        raise LayoutError(
            f"{layer.label or 'the layer'} is {layer.spec}",
            f"the remainder is of {entry.fitted}",
            "it belongs to another conversion",
        )
    weights = {name: entry.terms.get(name, layer.weights.get(name)) for name in entry.spec.names()}
    _check_unchanged(layer, entry)
    return Layer(
        spec=entry.spec,
        weights={name: _like(array, layer) for name, array in weights.items()},
        path=entry.path,
        level=entry.level,
        after=entry.after,
        metadata=entry.metadata,
    )


def _alike(found: Spec, fitted: Spec) -> bool:
    """Whether a layer that was read again is of the Spec it was written with, up to float32 constants.

    How outputs are merged does not count: a framework that concatenates them cannot say that they are meant apart.
    """

    def constants(spec: Spec) -> list[float | None]:
        functions = [spec.activation(role, d) for d in spec.directions for role in ROLES[spec.cell]]
        return [spec.clip, spec.cell_clip, spec.proj_clip, *(c for f in functions for c in (f.alpha, f.beta))]

    def names(spec: Spec) -> tuple[list[str], Spec]:
        functions = [spec.activation(role, d).name for d in spec.directions for role in ROLES[spec.cell]]
        plain = {"activations": (), "reverse_activations": None, "merge": "concat", "clip": None}
        return functions, spec.replace(**plain, cell_clip=None, proj_clip=None)

    close = (
        a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6))
        for a, b in zip(constants(found), constants(fitted), strict=False)
    )
    return names(found) == names(fitted) and all(close)


def _like(array: Array, layer: Layer) -> Array:
    """`array` in the namespace of the layer's own weights."""
    twin = next(iter(layer.weights.values()))
    if xp.kind(array) == xp.kind(twin):
        return array
    if xp.kind(twin) == "torch":
        return xp.to_torch(array).to(twin.device)
    return xp.host(array)


def _check_unchanged(layer: Layer, entry: Entry) -> None:
    """That the target's merged and folded weights are still those that the terms gave."""
    for name, digest in entry.digests.items():
        if name not in layer.weights or _digest(layer[name]) != digest:
            raise LayoutError(
                f"{layer.label or 'layer'}: {name} has changed since the remainder was made",
                "its terms lead back to weights that are no longer these; convert without the remainder",
            )


def _digest(array: Array) -> str:
    found = hashlib.sha256(Later.of(xp.host(array)).content().data).hexdigest()
    forget()
    return found


def _entry_json(entry: Entry) -> dict[str, Any]:
    specs = {"spec": json.loads(entry.spec.to_json()), "fitted": json.loads(entry.fitted.to_json())}
    return specs | {key: getattr(entry, key) for key in _PLAIN}


def _entry(label: str, fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Entry:
    prefix = f"{label}/"
    terms = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    spec, fitted = (Spec.from_json(json.dumps(fields[key])) for key in ("spec", "fitted"))
    return Entry(spec=spec, fitted=fitted, terms=terms, **{key: fields[key] for key in _PLAIN})
