"""The notation of states: grammar, places, shapes, and in what a framework holds them."""

from __future__ import annotations

import itertools
from collections import namedtuple

import numpy as np
import pytest

from helpers import spec
from lstmbridge.errors import LayoutError, NotationError
from lstmbridge.statenotation import CANONICAL, StateForm, StateLayout, apart, names, shape, together

BATCH = 3
BOTH = ("forward", "reverse")


def numbered(specs: list) -> list[dict[str, np.ndarray]]:
    """States of which no two numbers are equal."""
    count = itertools.count(1)
    return [
        {name: np.array([next(count) for _ in range(int(np.prod(size)))], "float32").reshape(size)
         for name in names(each) for size in [shape(each, name, BATCH)]}
        for each in specs
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("h", "h b p"), "has no colon"),
        (("W", "kernel : b p"), "'kernel' is not a part"),
        (("h", "h : b i"), "'i' is not an axis"),
        (("h", "h : b h"), "its sizes are b p"),
        (("h", "h : b b p"), "index b twice"),
        (("h", "h[i] : b p"), "expected no gates"),
        (("h_{l}", "h : (l d) b p"), "the level is both in the name and in the axes"),
        (("h_{d}", "h : d b p"), "the direction is both in the name and in the axes"),
        (("s", "c + h : b h p"), r"disagree about \+"),
        (("s", "c | h : b h"), "k is missing"),
    ],
)
def test_a_line_that_is_not_in_the_grammar_is_shown(line: tuple[str, str], message: str) -> None:
    with pytest.raises(NotationError, match=message):
        StateLayout(line)


LINES = {
    "one array for all": (("h_n", "h : (l d) b p"), ("c_n", "c : (l d) b h")),
    "directions outermost": (("h_n", "h : (d l) b p"), ("c_n", "c : (d l) b h")),
    "batch first": (("h_n", "h : b l d p"), ("c_n", "c : b d l h")),
    "an array each": (("{l}.{d}.h", "h : b p"), ("{l}.{d}.c", "c : b h")),
    "features first": (("{l}.h", "h : p d b"), ("{l}.c", "c : d h b")),
    "one after another": (("{l}.{d}", "c + h : b (h + p)"), ("{l}.{d}", "h : b p")),
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
@pytest.mark.parametrize("directions", [("forward",), ("reverse",), BOTH])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_is_packed_comes_back_and_every_number_is_written_once(cell: str, directions: tuple, lines: tuple) -> None:
    layout = StateLayout(*lines)
    features = {"projection_size": 4} if cell == "lstm" else {}
    specs = [spec(cell, directions=directions, **features)] * 2
    states = numbered(specs)
    arrays = layout.pack(states, specs)
    assert {key: array.shape for key, array in arrays.items()} == layout.shapes(specs, BATCH)
    written = np.sort(np.concatenate([array.ravel() for array in arrays.values()]))
    assert np.array_equal(written, np.arange(1, written.size + 1))
    back = layout.unpack(arrays, specs)
    for one, other in zip(back, states, strict=True):
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert all(any(np.shares_memory(view, array) for array in arrays.values()) for view in one.values())


def test_states_of_levels_with_cells_of_their_own() -> None:
    layout = StateLayout(*LINES["an array each"])
    specs = [spec(), spec("gru", hidden_size=7)]
    assert layout.keys(specs) == ("0.forward.h", "0.forward.c", "1.forward.h")
    assert layout.shapes(specs, BATCH)["1.forward.h"] == (BATCH, 7)
    with pytest.raises(LayoutError, match="levels of different sizes, cells or directions in one array"):
        StateLayout(*LINES["one array for all"]).keys(specs)


def test_what_a_layout_has_no_place_for() -> None:
    one = StateLayout(("h", "h : b p"), ("c", "c : b h"))
    assert not one.stacked
    assert not one.bidirectional
    with pytest.raises(LayoutError, match="a form of one level for 2 levels"):
        one.keys([spec(), spec()])
    with pytest.raises(LayoutError, match="a form of one direction for lstm 5 -> 11, bidirectional"):
        one.keys([spec(directions=BOTH)])
    with pytest.raises(LayoutError, match="1 array missing\n.*missing: forward.c"):
        one.pack([{"forward.h": np.ones((BATCH, 11))}], [spec()])


def test_errors_of_shape_give_the_pattern_and_what_gives_it_away() -> None:
    layout = StateLayout(*LINES["one array for all"])
    specs = [spec(projection_size=4, directions=BOTH)] * 2
    arrays = layout.pack(numbered(specs), specs)

    def said(**changed: np.ndarray) -> list[str]:
        with pytest.raises(LayoutError) as caught:
            layout.unpack({**arrays, **changed}, specs, who="torch 'enc'")
        return str(caught.value).splitlines()

    assert said(h_n=arrays["c_n"]) == [
        "torch 'enc': h_n has shape (4, 3, 11)",
        "  expected (l d) b p with l = 2, d = 2, b = 3, p = 4 -> (4, 3, 4)",
        "  this is the shape of c_n: are the two exchanged?",
    ]
    assert said(h_n=arrays["h_n"][:2])[-1] == "  (l d) is 2 levels x 2 directions = 4, not 2"
    assert said(c_n=arrays["c_n"][:, :2])[-1] == "  its batch is 2, not 3"
    assert said(h_n=arrays["h_n"].transpose(1, 0, 2))[-1] == "  its axes are in another order"
    assert said(h_n=arrays["h_n"][:, 0])[-1] == "  it has no batch: give it an axis for one sequence, too"
    assert said(other=arrays["h_n"])[0] == "torch 'enc': 1 array too many"


def test_whole_arrays_are_taken_apart_and_put_together() -> None:
    specs = [spec(directions=BOTH), spec("gru", hidden_size=7)]
    states = numbered(specs)
    h, c = together(specs, states)
    assert [each.shape for each in h] == [(2, BATCH, 11), (1, BATCH, 7)]
    assert c[1] is None
    assert np.array_equal(h[0][1], states[0]["reverse.h"])
    again = apart(specs, h, c, BATCH)
    assert all(np.array_equal(one[n], two[n]) for one, two in zip(again, states, strict=True) for n in two)
    zeros = apart(specs, None, None, BATCH)
    assert [list(each) for each in zeros] == [list(each) for each in states]
    assert not any(array.any() for each in zeros for array in each.values())
    with pytest.raises(LayoutError, match=r"h has shape \(1, 3, 11\)\n.*d b p with d = 2"):
        apart(specs, [h[0][:1], h[1]], c, BATCH)
    assert CANONICAL.shapes(specs[:1], BATCH) == {"h": (2, BATCH, 11), "c": (2, BATCH, 11)}


Pair = namedtuple("Pair", ["c", "h"])


def test_in_what_a_framework_holds_them() -> None:
    lines = StateLayout(*LINES["an array each"])
    swapped = StateLayout(("{l}.{d}.c", "c : b h"), ("{l}.{d}.h", "h : b p"))
    both, gru = [spec(directions=BOTH)] * 2, [spec("gru")]
    keys = lines.keys(both)
    named = dict(zip(keys, keys, strict=True))
    one = {"0.forward.h": "h"}
    flat = StateForm(lines, held=list)
    assert flat.hold(named, both) == list(keys)
    assert StateForm(lines, held=list, nested=("l",)).hold(named, both) == [list(keys[:4]), list(keys[4:])]
    nested = StateForm(swapped, held=Pair._make, alone=True, nested=("l", "d"), several=tuple)
    assert nested.hold(named, both)[1][0] == Pair("1.forward.c", "1.forward.h")
    assert nested.hold(one, gru) == "h"
    assert flat.hold(one, gru) == ["h"]
    assert StateForm(lines, held=dict).hold(one, gru) == one


def test_what_is_held_is_found_again() -> None:
    lines, two = StateLayout(*LINES["an array each"]), [spec("gru"), spec("gru")]
    form = StateForm(lines, held=list, nested=("l",))
    assert form.arrays([["a"], ["b"]], two, "who") == {"0.forward.h": "a", "1.forward.h": "b"}
    assert form.arrays(["a", "b"], two, "who") == form.arrays(("a", ["b"]), two, "who")
    assert form.arrays({"1.forward.h": "b", "0.forward.h": "a"}, two, "who")["1.forward.h"] == "b"
    with pytest.raises(LayoutError, match="who: 4 arrays\n.*expected 2: .*\n.*the GRU has h alone, and no c"):
        form.arrays(["a", "b", "c", "d"], two, "who")
    with pytest.raises(LayoutError, match="are the outputs among them"):
        form.arrays(["y", "a", "b"], two, "who")
    with pytest.raises(LayoutError, match="1 array\n.*expected 2: 0.forward.h, 0.forward.c\n.*the LSTM has h and c"):
        form.arrays("a", [spec()], "who")
    with pytest.raises(LayoutError, match="c stands where 0.forward.h is expected"):
        form.arrays(Pair("c", "h"), [spec()], "who")
    with pytest.raises(LayoutError, match="2 arrays without names\n.*a dict with 0.forward.h, 0.forward.c"):
        StateForm(lines, held=dict).arrays(["h", "c"], [spec()], "who")
    with pytest.raises(LayoutError, match="1 array missing and 1 array too many"):
        form.arrays({"0.forward.h": "h", "c": "c"}, [spec()], "who")
    given_out = StateForm(StateLayout(("h0", "h : d b p")), dict, outputs={"hn": "h0"})
    assert given_out.arrays({"hn": "a"}, [spec("gru")], "who") == {"h0": "a"}
    assert given_out.given_out(["h0"]) == {"hn": "h0"}
