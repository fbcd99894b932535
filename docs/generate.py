"""Writes the tables of the README and the docs from the code; `--check` only says whether they are what it would write.

    python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lstmbridge import Spec, registry
from lstmbridge.drawing import draw, layouts
from lstmbridge.fit import refusals

ROOT = Path(__file__).parents[1]
BOTH = ("forward", "reverse")
PLAIN = {"cell": "lstm", "bias": "none"}
HARD_2, HARD_3 = ("hard_sigmoid", 0.2, 0.5), ("hard_sigmoid", 1 / 6, 0.5)  # Keras 1 and 2, Keras 3

#: The rows of the support table: what a user calls it, and the fields of the Spec.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", PLAIN),
    ("GRU, reset after", {"cell": "gru", "bias": "none"}),
    ("GRU, reset before", {"cell": "gru", "reset_after": False, "bias": "none"}),
    ("RNN, tanh", {"cell": "rnn", "bias": "none"}),
    ("RNN, relu", {"cell": "rnn", "bias": "none", "activations": ("relu",)}),
    ("one bias, LSTM", {"cell": "lstm"}),
    ("two biases, LSTM", {"cell": "lstm", "bias": "dual"}),
    ("one bias, GRU", {"cell": "gru"}),
    ("two biases, GRU, reset after", {"cell": "gru", "bias": "dual"}),
    ("bidirectional, concatenated", {**PLAIN, "directions": BOTH}),
    ("bidirectional, sum, mul or ave", {**PLAIN, "directions": BOTH, "merge": "sum"}),
    ("reverse, outputs in forward time", {**PLAIN, "directions": ("reverse",)}),
    ("reverse, outputs as processed", {**PLAIN, "directions": ("reverse",), "processed_order": True}),
    ("projection", {**PLAIN, "projection_size": 2}),
    ("peepholes", {**PLAIN, "peepholes": True}),
    ("coupled input and forget gates", {**PLAIN, "coupled": True}),
    ("clip of the pre-activations", {**PLAIN, "clip": 3.0}),
    ("clip of the cell", {**PLAIN, "cell_clip": 3.0}),
    ("clip of the projection", {**PLAIN, "projection_size": 2, "proj_clip": 3.0}),
    ("hard_sigmoid 0.2 x + 0.5", {"cell": "gru", "bias": "none", "activations": (HARD_2, "tanh")}),
    ("hard_sigmoid x / 6 + 0.5", {"cell": "gru", "bias": "none", "activations": (HARD_3, "tanh")}),
    ("relu in an LSTM", {**PLAIN, "activations": ("sigmoid", "relu", "relu")}),
    ("forget constant at run time", {"cell": "lstm", "forget_constant": 1.0}),
]
COLUMNS = ("keras", "torch", "onnx", "gates")


def cell(fields: dict[str, Any], name: str) -> str:
    """One entry of the table: yes, what is done to it, or refused and why."""
    spec = Spec(input_size=4, hidden_size=3, **fields)
    room = registry.framework(name).layout
    reasons = refusals(spec, room.HOLDS)
    if reasons:
        own = getattr(room, "FAITHFUL", None)
        faithful = own is not None and not refusals(spec, own)
        return "faithful module" if faithful else f"refused: it has no {reasons[0].feature}"
    if spec.forget_constant and "forget constant" not in room.HOLDS.features:
        return "folded into the bias"
    forms = room.HOLDS.biases(spec)
    if spec.bias in forms:
        return "yes"
    return "merged into one" if spec.bias == "dual" else "second one zero"


def support() -> str:
    """The support table in Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    lines += [f"| {label} | {' | '.join(cell(fields, name) for name in COLUMNS)} |" for label, fields in ROWS]
    return "\n".join(lines)


def drawn() -> str:
    """Every layout, drawn."""
    return f"```text\n{draw(layouts())}\n```"


PAGES = {"README.md": {"support": support}, "docs/layouts.md": {"layouts": drawn}}


def filled(text: str, name: str, content: str) -> str:
    """`text` with what stands between the two marks replaced."""
    begin, end = f"<!-- {name}: made by docs/generate.py -->", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"no marks for {name!r}")
    return f"{head}{begin}\n{content}\n{end}{tail}"


def main(check: bool) -> int:
    """Writes the pages; with `check` only compares. Gives how many differ."""
    stale = 0
    for name, parts in PAGES.items():
        path = ROOT / name
        before = after = path.read_text()
        for mark, make in parts.items():
            after = filled(after, mark, make())
        if after != before:
            stale += 1
            print(f"{name} {'is not what the code says: run make docs' if check else 'written'}")
            if not check:
                path.write_text(after)
    return stale


if __name__ == "__main__":
    found = main("--check" in sys.argv)
    sys.exit(1 if found and "--check" in sys.argv else 0)
