"""One of the two things that a check holds against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import registry
from lstmbridge.contract import InitialStates, Outputs, ReadOptions
from lstmbridge.layer import Array, Layer, modules

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

    def run(self, x: Array, h0: InitialStates, c0: InitialStates) -> Outputs:
        """What the layers give for x (b, t, i), module by module, each reading what the one before gave."""
        h: list[Array] = []
        c: list[Array | None] = []
        for begin, end in modules(self.layers):
            first_h, first_c = (None if each is None else each[begin:end] for each in (h0, c0))
            ran: Outputs = self.live.run(self.obj, self.layers[begin:end], x, first_h, first_c, None)
            x = np.asarray(ran.y, np.float64)
            h += ran.h
            c += ran.c
        return Outputs(x, h, c)

    def tensors(self) -> Mapping[str, Array] | None:
        """Every array of the object by its framework's own name; None where the framework does not tell."""
        tell = getattr(self.live, "tensors", None)
        return None if tell is None else tell(self.obj)
