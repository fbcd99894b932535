"""Writes the tables of the README and the docs, from the code and from the last conformance run.

`--check` only says whether they are what it would write.

python docs/generate.py [--check]
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from lstmbridge import registry
from lstmbridge.drawing import draw, layouts
from lstmbridge.fit import Holds
from lstmbridge.notation import Layout
from lstmbridge.spec import Spec

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "conformance.json"  # of the last `make conformance DOCS=1`

#: The rows of the support table: what a user calls it, the cell and feature of the grid, whether it is about biases.
ROWS: list[tuple[str, str, bool]] = [
    ("LSTM", "lstm-no-bias", False),
    ("GRU, reset after", "gru-after-no-bias", False),
    ("GRU, reset before", "gru-before-no-bias", False),
    ("RNN, tanh", "rnn-tanh-no-bias", False),
    ("RNN, relu", "rnn-relu-no-bias", False),
    ("one bias, LSTM", "lstm-plain", True),
    ("two biases, LSTM", "lstm-dual-bias", True),
    ("one bias, GRU", "gru-after-plain", True),
    ("two biases, GRU, reset after", "gru-after-dual-bias", True),
    ("bidirectional, concatenated", "lstm-bidirectional", False),
    ("bidirectional, sum", "lstm-bidirectional-sum", False),
    ("bidirectional, mul", "lstm-bidirectional-mul", False),
    ("bidirectional, ave", "lstm-bidirectional-ave", False),
    ("reverse, outputs in forward time", "lstm-reverse", False),
    ("reverse, outputs as processed", "lstm-reverse-as-processed", False),
    ("projection", "lstm-projection", False),
    ("peepholes", "lstm-peepholes", False),
    ("coupled input and forget gates", "lstm-coupled", False),
    ("clip of the pre-activations", "lstm-clip", False),
    ("clip of the cell", "lstm-cell-clip", False),
    ("clip of the projection", "lstm-projection-clip", False),
    ("hard_sigmoid 0.2 x + 0.5", "gru-after-hard-sigmoid-0.2", False),
    ("hard_sigmoid x / 6 + 0.5", "gru-after-hard-sigmoid-1/6", False),
    ("relu in an LSTM", "lstm-relu", False),
    ("forget constant at run time", "lstm-forget-constant", True),
]
COLUMNS = ("keras", "torch", "onnx", "gates")
ABOUT_BIASES = ("merged into one", "second one zero")


def figures() -> dict[str, Any]:
    """What the last conformance run found."""
    found: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return found


def support() -> str:
    """The support table in Markdown, as the last conformance run found it."""
    held = figures()["support"]
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for label, case, biases in ROWS:
        words = [held[case][name] for name in COLUMNS]
        shown = [word if biases or word not in ABOUT_BIASES else "yes" for word in words]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def teeth() -> str:
    """How many mutants each check kills, and how many it alone kills."""
    found = figures()["figures"]["mutants"]
    total, killed, official = (found[name] for name in ("total", "killed", "official"))
    lines = [
        f"`conformance/mutants.py` breaks the converter in {total} ways: wrong gate orders, transpositions, lost",
        "biases, exchanged states, aliasing, a cast that nobody asked for. Each is tried on a few cases of the grid,",
        f"and is noticed when a check fails that passes there without it. {killed} of {total} are noticed. The",
        f"official ONNX node tests for LSTM, GRU and RNN, run on the same broken converters, notice {official}.",
        "",
        "| check | mutants it kills | that no other check kills |",
        "|---|---|---|",
    ]
    lines += [
        f"| `check_{name}` | {each['kills']} | {each['alone']} |" for name, each in sorted(found["checks"].items())
    ]
    return "\n".join(lines)


#: The frameworks and cells of the table of orders, as people write them.
ORDERED = {"Keras": "keras", "PyTorch": "torch", "ONNX": "onnx"}
ORDERED_CELLS = {"LSTM": "lstm", "GRU": "gru"}


def weight_order() -> str:
    """Gate order, arrays and their shapes of LSTM and GRU in each framework, as its layout says."""
    lines = [f"| | {' | '.join(ORDERED)} |", f"|---|{'---|' * len(ORDERED)}"]
    for title, cell in ORDERED_CELLS.items():
        rooms = [registry.framework(name).layout for name in ORDERED.values()]
        columns = [_ordered(room.LAYOUTS[cell], room.HOLDS) for room in rooms]
        lines += [f"| {title}, {row} | {' | '.join(column[row] for column in columns)} |" for row in columns[0]]
    return "\n".join(lines)


def _ordered(layout: Layout, holds: Holds) -> dict[str, str]:
    """What one framework has, by what a user calls it: its gates in order, and each array with its shape."""
    spec = Spec(cell=layout.cell, input_size=5, hidden_size=11)
    spec = spec.replace(bias=holds.biases(spec)[0])
    rows = {"kernel": "input", "recurrent_kernel": "recurrent", "bias": "biases", "recurrent_bias": "biases"}
    found = {"gates": [f"**{' '.join(layout.gates)}**"], **{row: [] for row in rows.values()}}
    for key, slot in layout.slots(spec).items():
        shape = ", ".join(layout.lengths(slot.line)).replace("p", "h")  # without a projection
        found[rows[slot.line.parts[0].name]].append(f"`{key.removeprefix('forward.')}` ({shape})")
    return {row: ", ".join(arrays) for row, arrays in found.items()}


def formats() -> str:
    """Every format and era, with the tests that show what is read and written."""
    lines = ["| format | files made by | read | written | round trip |", "|---|---|---|---|---|"]
    group = ""
    for each in listed_formats():
        if each["group"] != group:
            group = each["group"]
            lines.append(f"| **{group}** | | | | |")
        shown = [f"[{_short(each[key])}]({_file(each[key])})" if key in each else "" for key in SHOWN]
        lines.append(f"| {each['what']} | {each['made_by']} | {' | '.join(shown)} |")
    return "\n".join(lines)


SHOWN = ("read", "written", "round_trip")


def listed_formats() -> list[dict[str, str]]:
    """The rows of the table of formats."""
    rows: list[dict[str, str]] = tomllib.loads((ROOT / "docs" / "formats.toml").read_text(encoding="utf-8"))["format"]
    return rows


def _file(test: str) -> str:
    """Where a test is, as docs/formats.md sees it."""
    name = test.partition("::")[0]
    return f"../{name}" if "/" in name else f"../tests/{name}"


def _short(test: str) -> str:
    return test.partition("::")[2].removeprefix("test_").replace("_", " ")


def drawn() -> str:
    """Every layout, drawn."""
    return f"```text\n{draw(layouts())}\n```"


def training() -> str:
    """How far each run of torch was from Keras', as examples/training.py found it."""
    found = json.loads((ROOT / "docs" / "training.json").read_text(encoding="utf-8"))
    said = {
        "frozen": "torch from the first step, second biases frozen",
        "resumed": f"torch from step {found['steps'] // 2} on, model and optimizer converted",
        "both biases": "torch from the first step, both biases trained",
        "no optimizer": f"torch from step {found['steps'] // 2} on, a new optimizer",
    }
    lines = [f"| {found['steps']} steps of Adam in float64 | largest difference of the losses |", "|---|---|"]
    return "\n".join([*lines, *(f"| {words} | {found['apart'][name]:.1e} |" for name, words in said.items())])


def states() -> str:
    """Every form of states, in the notation."""
    lines = ["| framework | form | array | what is in it |", "|---|---|---|---|"]
    for name in registry.names():
        for form, each in getattr(registry.framework(name).layout, "STATES", {}).items():
            lines += [f"| {name} | `{form}` | `{line.key}` | `{line.text}` |" for line in each.layout.lines]
    return "\n".join(lines)


PAGES = {
    "docs/states.md": {"states": states},
    "docs/training.md": {"training": training},
    "README.md": {"support": support},
    "docs/layouts.md": {"layouts": drawn},
    "docs/conformance.md": {"teeth": teeth},
    "docs/formats.md": {"formats": formats},
    "docs/how-to/weight-order.md": {"weight-order": weight_order},
}


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
