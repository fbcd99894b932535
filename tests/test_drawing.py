"""Drawn layouts: every slice takes out the gate that it is drawn with, and the pictures are as written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import HIDDEN, INPUT, PROJECTION, labelled, spec
from lstmbridge import Layout, Spec, registry
from lstmbridge.drawing import Drawn, draw, layouts
from lstmbridge.errors import OptionError, UnknownName
from lstmbridge.notation import Slot

BOTH = ("forward", "reverse")
SIZES = {"input": INPUT, "hidden": HIDDEN}
LAYOUTS = [
    (name, cell, layout)
    for name in registry.names()
    for cell, layout in registry.framework(name).layout.LAYOUTS.items()
]
EACH = [pytest.param(name, layout, id=f"{name}.{cell}") for name, cell, layout in LAYOUTS]


def specs(layout: Layout) -> Iterator[Spec]:
    """Every form of a layer that the layout has a place for."""
    extras: list[dict[str, Any]] = [{}]
    if layout.cell == "lstm":
        extras = [{"peepholes": p, "projection_size": s} for p in (True, False) for s in (None, PROJECTION)]
    directions = [("forward",), ("reverse",), *([BOTH] if layout.bidirectional else [])]
    for bias, extra, which in itertools.product(("none", "single", "dual"), extras, directions):
        each = spec(layout.cell, bias=bias, directions=which, **extra)
        if set(layout.places(each)) == set(each.names()):
            yield each


def wrong(drawn: tuple[Drawn, ...], layout: Layout, each: Spec) -> list[str]:
    """What the drawn slices take out of a labelled layer's arrays that is not what they are drawn with."""
    layer = labelled(each)
    arrays = layout.pack(layer.weights, each)
    found, complaints = [], []
    for key, slot in layout.slots(each).items():
        [picture] = [one for one in drawn if (one.key, one.text) == (slot.line.key, slot.line.text)]
        assert tuple(len(each.directions) if n == "d" else int(n) for n in picture.shape) == slot.shape
        for name, sign, cut in claims(picture, layout, slot, each):
            taken, weight = eval(f"array{cut}", {"array": arrays[key]}), sign * layer[name]
            if not (np.array_equal(taken, weight) or np.array_equal(taken, weight.T)):
                complaints.append(f"{key}{cut} is not {name}")
            found.append(name)
    often = {name: found.count(name) for name in each.names()}
    return complaints + [f"{name} is drawn {count} times" for name, count in often.items() if count != 1]


def claims(picture: Drawn, layout: Layout, slot: Slot, each: Spec) -> Iterator[tuple[str, int, str]]:
    """Whose each drawn slice of one array claims to be: the weight's name, its sign, the slice.

    As the legend says, of a layer with one direction that direction's index is 0.
    """
    in_name = {
        (direction, gate)
        for direction, gate in itertools.product(each.directions, layout.gates)
        if layout.name(slot.line, direction, gate, 0) == slot.key
    }
    for piece in picture.pieces:
        if piece.direction == "reverse" and not each.bidirectional:
            continue
        direction = piece.direction if piece.direction and each.bidirectional else min(in_name)[0]
        gate = min(in_name)[1] if "{g}" in picture.key and piece.part != "projection" else piece.gate or ""
        name = f"{direction}.{piece.part}.{gate.removeprefix('-')}".rstrip(".")
        yield name, -1 if gate.startswith("-") else 1, piece.slice


@pytest.mark.parametrize(("name", "layout"), EACH)
def test_every_drawn_slice_takes_out_the_gate_it_is_drawn_with(name: str, layout: Layout) -> None:
    tried = 0
    for each in specs(layout):
        sizes = {**SIZES, "state": PROJECTION} if each.projection_size else SIZES
        named = f"{name}.{layout.cell}"
        assert wrong(layouts([named], sizes), layout, each) == [], each
        tried += 1
    assert tried


def test_a_picture_with_two_gates_exchanged_would_be_noticed() -> None:
    keras = registry.framework("keras").layout.LAYOUTS["gru"]
    lines = [(line.key, line.text) for line in keras.lines]
    exchanged = layouts([Layout("r z n", *lines)], SIZES)
    complaints = wrong(exchanged, keras, spec("gru"))
    assert "forward.kernel[:, 0:11] is not forward.kernel.r" in complaints
    assert "forward.bias[11:22] is not forward.bias.z" in complaints


AXES = [
    "(g h) i", "i (g h)", "(h g) i", "i (h g)", "g h i", "h i g", "(g i) h", "h (i g)", "(g h i)", "(h i g)", "(i g h)",
    "(h g i)",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    axes=st.sampled_from(AXES),
    order=st.permutations(["r", "z", "n"]),
    flipped=st.sets(st.sampled_from("rzn")),
    where=st.sampled_from(["name", "axis", "outermost", "innermost"]),
    biases=st.sampled_from(["k (g h)", "(k g h)", "(g k h)", "(h g k)", "(g h k)", "h (g k)", "(k h g)"]),
)
def test_odd_layouts_are_drawn_as_rightly(axes, order, flipped, where, biases) -> None:  # type: ignore[no-untyped-def]
    """Interleaved gates, directions inside an axis, arrays that are stored flat: what a new framework may bring."""
    gates = " ".join(f"-{gate}" if gate in flipped else gate for gate in order)
    key, kernel = ("W{d}", axes) if where == "name" else ("W", f"d {axes}")
    if where in ("outermost", "innermost") and axes.startswith("("):
        inside, _, rest = axes[1:].partition(")")
        kernel = f"(d {inside}){rest}" if where == "outermost" else f"({inside} d){rest}"
    layout = Layout(
        gates, (key, f"kernel : {kernel}"), ("R{d}", "recurrent_kernel : (g h) p"),
        ("b{d}", f"bias | recurrent_bias : {biases}"),
    )  # fmt: skip
    each = spec("gru", directions=BOTH, bias="dual")
    assert wrong(layouts([layout], SIZES), layout, each) == []
    assert draw(layouts([layout]))


# ---- the pictures


def picture(name: str, key: str, sizes: dict[str, int] | None = None) -> str:
    arrays = draw(layouts([name], sizes)).split("\n\n")
    [text] = [each.partition("\n")[2] for each in arrays if each.startswith(f"  {key} ")]
    return text


def test_gates_side_by_side_where_the_last_axis_is_cut() -> None:
    assert picture("keras.lstm", "{d}.kernel", {"input": 300, "hidden": 128}) == """\
    +------------+--------------+--------------+--------------+
    |     i      |      f       |      g       |      o       |
    | [:, 0:128] | [:, 128:256] | [:, 256:384] | [:, 384:512] |
    +------------+--------------+--------------+--------------+"""


def test_gates_on_top_of_one_another_where_the_first_axis_is_cut() -> None:
    assert picture("torch.gru", "weight_hh_l{l}{d}") == """\
    +---------------+
    | r  [0:h, :]   |
    +---------------+
    | z  [h:2h, :]  |
    +---------------+
    | n  [2h:3h, :] |
    +---------------+"""


def test_a_row_of_boxes_for_each_part_on_one_axis() -> None:
    assert picture("tf1.gru", "gates/kernel", {"hidden": 11}) == """\
                     +----------------+-----------------+
    kernel           |       r        |        z        |
                     |  [0:i, 0:11]   |  [0:i, 11:22]   |
                     +----------------+-----------------+
    recurrent_kernel |       r        |        z        |
                     | [i:i+11, 0:11] | [i:i+11, 11:22] |
                     +----------------+-----------------+"""


def test_a_picture_for_each_part_where_parts_and_gates_share_an_axis() -> None:
    assert picture("onnx.rnn", "B") == """\
    bias                      recurrent_bias
            +-------------+           +--------------+
    forward | n  [0, 0:h] |   forward | n  [0, h:2h] |
            +-------------+           +--------------+
    reverse | n  [1, 0:h] |   reverse | n  [1, h:2h] |
            +-------------+           +--------------+"""


def test_an_array_that_is_not_cut_needs_no_boxes() -> None:
    assert picture("tf1.lstm", "w_{g}_diag") == "    all of it is one gate"
    assert picture("torch.lstm", "weight_hr_l{l}{d}") == "    all of it is projection"


def test_the_legend_says_what_stands_for_what() -> None:
    def legend(name: str) -> tuple[str, ...]:
        return layouts([name])[0].legend

    assert legend("keras.lstm") == ("{d} is forward or reverse",)
    assert legend("torch.lstm")[0] == "{d} is nothing (forward) or _reverse (reverse)"
    assert legend("onnx.gru") == ("d is 2; of a layer with one direction it is 1, and that direction's index is 0",)
    own = Layout("-z r n", ("{g}", "kernel : h i"), gate_names={"z": "update"})
    assert layouts([own])[0].legend == (
        "{g} is update (-z), r, n", "-gate: the opposite of its numbers is stored",
    )  # fmt: skip


def test_every_line_fits_the_page() -> None:
    assert max(map(len, draw(layouts()).splitlines())) <= 104
    assert max(map(len, draw(layouts(sizes={"input": 3000, "hidden": 1024})).splitlines())) <= 120


def test_as_data_there_is_everything() -> None:
    for drawn in layouts(["onnx.lstm", "keras.gru"], {"hidden": 11}):
        document = drawn.as_json()
        layout = registry.framework(drawn.framework).layout.LAYOUTS[drawn.cell]
        assert document["layout"] in [line.text for line in layout.lines]
        assert len(document["blocks"]) == len(drawn.pieces)
    assert layouts(["keras.gru"], {"hidden": 11})[0].as_json() == {
        "framework": "keras",
        "cell": "gru",
        "array": "{d}.kernel",
        "layout": "kernel : i (g h)",
        "shape": ["i", 33],
        "axes": {
            "(g h)": [
                {"what": "z", "from": 0, "to": 11},
                {"what": "r", "from": 11, "to": 22},
                {"what": "n", "from": 22, "to": 33},
            ]
        },
        "blocks": [
            {"part": "kernel", "gate": "z", "direction": None, "slice": "[:, 0:11]"},
            {"part": "kernel", "gate": "r", "direction": None, "slice": "[:, 11:22]"},
            {"part": "kernel", "gate": "n", "direction": None, "slice": "[:, 22:33]"},
        ],
        "legend": ["{d} is forward or reverse"],
        "source": "keras/src/layers/rnn/gru.py",
        "module": "stock",
    }


def test_what_only_our_own_module_has_is_marked() -> None:
    marked = {(each.framework, each.cell, each.text) for each in layouts() if each.module == "faithful"}
    assert marked == {
        ("keras", "lstm", "bias | recurrent_bias : k (g h)"),
        ("keras", "lstm", "peephole[i f o] : (g h)"),
        ("keras", "lstm", "projection : h p"),
        ("keras", "rnn", "bias | recurrent_bias : k (g h)"),
        ("torch", "lstm", "peephole[i f o] : (g h)"),
    }
    assert "peephole[i f o] : (g h)  (faithful module only)" in draw(layouts(["keras.lstm"]))


# ---- errors


def test_sizes_that_are_none() -> None:
    with pytest.raises(UnknownName, match=r"unknown size 'hiden'\n  did you mean 'hidden'"):
        layouts(["keras"], {"hiden": 3})
    for value in (0, -1, True, 1.5):
        with pytest.raises(OptionError, match=r"hidden is .*\n  expected a whole number of at least 1"):
            layouts(["keras"], {"hidden": value})  # type: ignore[dict-item]


def test_a_state_of_its_own_needs_an_lstm() -> None:
    with pytest.raises(OptionError, match=r"projection=3 has no effect on gru and rnn\n  only an LSTM"):
        layouts(["keras.gru", "torch.rnn"], {"state": 3})
    with pytest.raises(OptionError, match="state and projection are two names of one size"):
        layouts(["keras"], {"state": 3, "projection": 3})
    assert layouts(["torch.lstm"], {"projection": 3}) == layouts(["torch.lstm"], {"state": 3})
    gru = [each for each in layouts(["tf1"], {"hidden": 11, "state": 3}) if each.cell == "gru"]
    assert gru[0].pieces[-1].slice == "[i:i+11, 11:22]", "a GRU's state is as large as hidden"
