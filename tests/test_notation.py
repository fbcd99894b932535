"""The notation: grammar, views, shapes, and every ordered pair of gate orders."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import labelled, spec
from lstmbridge import Layout
from lstmbridge.errors import LayoutError, NotationError

IFGO = "i f g o"


def layout(gates: str = IFGO, kernel: str = "kernel : (g h) i") -> Layout:
    return Layout(gates, ("W{d}", kernel), ("R{d}", "recurrent_kernel : p (g h)"), ("b{d}", "bias : (g h)"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("W", "kernel (g h) i"), "has no colon"),
        (("W", "kernels : (g h) i"), "'kernels' is not a part"),
        (("W", "kernel : (g h) x"), "'x' is not an axis"),
        (("W", "kernel : (g h) h"), "index h twice"),
        (("W", "kernel : (g h)"), "its sizes are h i"),
        (("W", "kernel : h i"), "either in the name or in the axes"),
        (("W{g}", "kernel : (g h) i"), "either in the name or in the axes"),
        (("W{d}", "kernel : d (g h) i"), "both in the name and in the axes"),
        (("W", "bias | recurrent_bias : (g h)"), "k is missing"),
        (("W", "bias : (k g h)"), "nothing to count"),
        (("W", "kernel + recurrent_kernel : (g h) i"), "disagree about +"),
        (("W", "kernel + bias | peephole : (i + p) (g h)"), "mixes"),
        (("W", "peephole[i x] : (g h)"), "gates i x"),
    ],
)
def test_a_line_that_is_not_in_the_grammar_is_shown(line: tuple[str, str], message: str) -> None:
    with pytest.raises(NotationError, match=message.replace("+", r"\+")):
        Layout(IFGO, line)


def test_gates_of_no_cell() -> None:
    with pytest.raises(NotationError, match="'i f g' are no cell's"):
        Layout("i f g")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_ordered_pair_of_gate_orders(cell: str) -> None:
    """Also those that are not their own inverse, which a swapped permutation passes unseen for."""
    gates = spec(cell).gates
    source = labelled(spec(cell))
    orders = [" ".join(order) for order in itertools.permutations(gates)]
    for a, b in itertools.product(orders, orders):
        there = layout(b).pack(layout(a).unpack(layout(a).pack(source.weights, source.spec), source.spec), source.spec)
        order = b.split()
        for n, gate in enumerate(order):
            rows = slice(n * 11, (n + 1) * 11)
            assert np.array_equal(there["Wforward"][rows], source[f"forward.kernel.{gate}"]), (a, b)
            assert np.array_equal(there["Rforward"][:, rows], source[f"forward.recurrent_kernel.{gate}"].T), (a, b)


KERNELS = ["(g h) i", "i (g h)", "(h g) i", "i (h g)", "g h i", "i g h", "h i g", "g i h", "(g i) h", "h (i g)"]


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.sampled_from(KERNELS),
    order=st.permutations(["i", "f", "g", "o"]),
    flipped=st.sets(st.sampled_from("ifgo")),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    both=st.booleans(),
    where=st.sampled_from(["name", "axis"]),
)
def test_pack_then_unpack_is_the_identity(kernel, order, flipped, sizes, both, where) -> None:  # type: ignore[no-untyped-def]
    gates = " ".join(f"-{g}" if g in flipped else g for g in order)
    key, axes = ("W{d}", kernel) if where == "name" else ("W", f"d {kernel}")
    made = Layout(gates, (key, f"kernel : {axes}"), ("R{d}", "recurrent_kernel : p (g h)"), ("b{d}", "bias : (g h)"))
    directions = ("forward", "reverse") if both else ("reverse",)
    source = labelled(spec(input_size=sizes[0], hidden_size=sizes[1], directions=directions))
    arrays = made.pack(source.weights, source.spec)
    assert {key: array.shape for key, array in arrays.items()} == made.shapes(source.spec)
    back = made.unpack(arrays, source.spec)
    assert all(np.array_equal(back[name], source[name]) for name in source)
    written = np.sort(np.abs(np.concatenate([array.ravel() for array in arrays.values()])))
    assert np.array_equal(written, np.arange(1, written.size + 1)), "every element is written once"


def test_unpack_gives_views_and_pack_owns_its_memory() -> None:
    source = labelled(spec())
    arrays = layout().pack(source.weights, source.spec)
    views = layout().unpack(arrays, source.spec)
    assert all(np.shares_memory(views[name], arrays[place.key]) for name, place in layout().places(source.spec).items())
    again = layout().pack(views, source.spec)
    assert not any(np.shares_memory(again[key], arrays[key]) for key in arrays)


def test_one_gate_moves_nothing_and_still_is_a_copy() -> None:
    """A one-gate RNN needs no rearranging at all: without care its results would be its sources."""
    source = labelled(spec("rnn"))
    plain = Layout("n", ("W", "kernel : (g h) i"), ("R", "recurrent_kernel : (g h) p"), ("b", "bias : (g h)"))
    arrays = plain.pack(source.weights, source.spec)
    assert not any(np.shares_memory(array, source[name]) for array in arrays.values() for name in source)


def test_the_opposite_sign_is_exact() -> None:
    flipped = Layout("-z r n", ("W", "kernel : i (g h)"), ("R", "recurrent_kernel : p (g h)"), ("b", "bias : (g h)"))
    source = labelled(spec("gru"))
    arrays = flipped.pack(source.weights, source.spec)
    assert (arrays["b"][:11] == -source["forward.bias.z"]).all()
    assert (flipped.unpack(arrays, source.spec)["forward.bias.z"] == source["forward.bias.z"]).all()


def test_errors_of_shape_give_the_pattern_and_what_gives_it_away() -> None:
    source = labelled(spec())
    arrays = layout().pack(source.weights, source.spec)
    with pytest.raises(LayoutError) as caught:
        layout().unpack({**arrays, "Wforward": arrays["Wforward"].T}, source.spec, who="keras LSTM 'enc'")
    assert str(caught.value).splitlines() == [
        "keras LSTM 'enc': Wforward has shape (5, 44)",
        "  expected (g h) i with g = i f g o, h = 11, i = 5 -> (44, 5)",
        "  this is its transpose",
    ]
    with pytest.raises(LayoutError, match="33 = 3 x 11: three gates"):
        layout().unpack({**arrays, "bforward": np.ones(33)}, source.spec)


def test_missing_and_extra_arrays_are_named() -> None:
    source = labelled(spec())
    arrays = layout().pack(source.weights, source.spec)
    arrays["other"] = arrays.pop("bforward")
    with pytest.raises(LayoutError, match=r"1 array missing and 1 array too many\n.*missing: bforward\n.*other"):
        layout().unpack(arrays, source.spec)


def test_a_layout_without_a_place_for_a_weight_says_so() -> None:
    source = labelled(spec(peepholes=True))
    with pytest.raises(LayoutError, match=r"no array of this layout holds forward\.peephole\.i"):
        layout().pack(source.weights, source.spec)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_same_in_other_namespaces(framework: str) -> None:
    if framework == "torch":
        convert, back = pytest.importorskip("torch").from_numpy, lambda a: a.numpy()
    else:
        convert, back = pytest.importorskip("jax.numpy").asarray, np.asarray
    made = Layout(
        "o i g f",
        ("A", "kernel + recurrent_kernel : (i + p) (h g)"),
        ("B", "bias | recurrent_bias : (k g h)"),
        ("P", "peephole[o f i] : (g h)"),
    )
    source = labelled(spec(bias="dual", peepholes=True))
    expected = made.pack(source.weights, source.spec)
    given = {name: convert(source[name]) for name in source}
    arrays = made.pack(given, source.spec)
    assert framework in type(arrays["A"]).__module__ or framework in sys.modules
    assert all(np.array_equal(back(arrays[key]), expected[key]) for key in expected)
    views = made.unpack(arrays, source.spec)
    assert all(np.array_equal(back(views[name]), source[name]) for name in source)
