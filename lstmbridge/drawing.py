"""Layouts drawn: which block of which array is which gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lstmbridge import registry
from lstmbridge.errors import unknown
from lstmbridge.notation import Block, Layout
from lstmbridge.spec import CELLS
from lstmbridge.statenotation import StateForm

__all__ = ["Drawn", "draw", "layouts"]


@dataclass(frozen=True)
class Drawn:
    """One array of a layout: its name, the line of the notation, and for each axis that is cut, its blocks.

    cell  whose weights they are; of states ``states``, with the name of the form
    """

    framework: str
    cell: str
    key: str
    text: str
    axes: tuple[tuple[str, tuple[Block, ...]], ...]
    source: str

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "framework": self.framework,
            "cell": self.cell,
            "array": self.key,
            "layout": self.text,
            "axes": {
                axis: [{"what": block.what, "from": block.start, "to": block.stop} for block in blocks]
                for axis, blocks in self.axes
            },
            "source": self.source,
        }


def layouts(names: Sequence[str] = ()) -> tuple[Drawn, ...]:
    """The layouts of these frameworks, or of all: `name`, ``name.cell`` or ``name.states``.

    Errors: UnknownName with the near name.

    >>> [drawn.text for drawn in layouts(["torch.rnn"])][0]
    'kernel : (g h) i'
    >>> print(draw(layouts(["onnx.states"])[:2]))
    onnx states (layout=0)
      initial_h  h : d b p
      initial_c  c : d b h
    """
    return tuple(drawn for name in names or registry.names() for drawn in _of(name))


def _of(name: str) -> Iterator[Drawn]:
    framework, _, cell = name.partition(".")
    room = registry.framework(framework).layout
    forms: Mapping[str, StateForm] = getattr(room, "STATES", {})
    known = [*(each for each in CELLS if each in room.LAYOUTS), *["states"] * bool(forms)]
    if cell and cell not in known:
        raise unknown("layout", name, [f"{framework}.{each}" for each in known])
    for each in [cell] if cell else known:
        if each == "states":
            yield from _of_states(framework, forms)
            continue
        layout: Layout = room.LAYOUTS[each]
        for key, text, axes in layout.blocks():
            yield Drawn(framework, each, key, text, axes, layout.source)


def _of_states(framework: str, forms: Mapping[str, StateForm]) -> Iterator[Drawn]:
    for name, form in forms.items():
        for line in form.layout.lines:
            yield Drawn(framework, f"states ({name})", line.key, line.text, (), form.layout.source)


def draw(drawn: Sequence[Drawn]) -> str:
    """Arrays as text, a box for each block along the axis that is cut.

    >>> print(draw(layouts(["torch.rnn"])[:1]))
    torch rnn
      weight_ih_l{l}{d}  kernel : (g h) i
        (g h)  | n 0:h |
    """
    lines: list[str] = []
    title = None
    for each in drawn:
        if (each.framework, each.cell) != title:
            title = (each.framework, each.cell)
            lines += ([""] if lines else []) + [f"{each.framework} {each.cell}"]
        lines.append(f"  {each.key}  {each.text}")
        lines += [f"    {axis}  {_boxes(blocks)}" for axis, blocks in each.axes]
    return "\n".join(lines)


def _boxes(blocks: Sequence[Block]) -> str:
    return "| " + " | ".join(f"{block.what} {block.start}:{block.stop}" for block in blocks) + " |"
