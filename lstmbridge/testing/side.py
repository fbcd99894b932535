"""One of the two things that a check holds against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmbridge import registry
from lstmbridge.contract import ReadOptions
from lstmbridge.layer import Array, Layer

__all__ = ["Side"]


@dataclass(frozen=True, eq=False)
class Side:
    """A live object with its layers and the room that runs it."""

    name: str
    obj: Any
    live: Any  # a LiveRoom, perhaps with `gradients` and `tensors`
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, obj: Any) -> Side:
        """The side of a live object, or of what a file holds."""
        if isinstance(obj, Layer):
            return cls("gates", obj, registry.framework("gates").live, (obj,))
        if isinstance(obj, str | Path):
            framework = registry.of_file(Path(obj))
            obj = framework.live.load(Path(obj), ReadOptions())
        else:
            framework = registry.of_object(obj)
        return cls(framework.name, obj, framework.live, framework.live.read(obj, ReadOptions()).layers)

    @property
    def differentiates(self) -> bool:
        """Whether its framework gives gradients."""
        return hasattr(self.live, "gradients")

    def tensors(self) -> Mapping[str, Array] | None:
        """Every array of the object by its framework's own name; None where the framework does not tell."""
        tell = getattr(self.live, "tensors", None)
        return None if tell is None else tell(self.obj)
