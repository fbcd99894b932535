"""Flax' own cells, run by flax, against the equations on what `from_arrays` reads of their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lstmbridge import Layer, check, convert, from_arrays, initial_layer, reference, to_arrays
from lstmbridge.checking import TOLERANCE
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.frameworks.flax.layout import HOLDS, LAYOUTS
from lstmbridge.spec import Spec
from lstmbridge.testing import telling_layer

pytest.importorskip("flax")
import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

BATCH, TIME, INPUT, HIDDEN = 2, 7, 5, 11

#: Each of flax' cells, and the cell of ours that it is.
CELLS = {"LSTMCell": "lstm", "OptimizedLSTMCell": "lstm", "GRUCell": "gru", "SimpleCell": "rnn"}


def parameters(cell: nn.RNNCellBase, seed: int = 0) -> dict[str, np.ndarray]:
    """The names and shapes that flax gives a cell, with normal numbers: no bias is zero."""
    carry = cell.initialize_carry(jax.random.key(0), (BATCH, INPUT))
    made = flatten_dict(cell.init(jax.random.key(0), carry, np.ones((BATCH, INPUT), "float32"))["params"], sep=".")
    rng = np.random.default_rng(seed)
    return {name: (0.3 * rng.normal(size=array.shape)).astype("float32") for name, array in made.items()}


def ran(cell: nn.RNNCellBase, arrays: dict[str, np.ndarray], x: np.ndarray, carry: Any) -> tuple[Any, np.ndarray]:
    """What flax computes: the last carry, and the outputs (b, t, h)."""
    params = {"params": {"cell": unflatten_dict(arrays, sep=".")}}
    return nn.RNN(cell, return_carry=True).apply(params, x.astype("float32"), initial_carry=carry)


@pytest.mark.parametrize(("kind", "cell"), CELLS.items())
def test_a_cells_own_parameters_compute_what_flax_computes(kind: str, cell: str) -> None:
    flax_cell = getattr(nn, kind)(HIDDEN)
    arrays = parameters(flax_cell)
    layer = from_arrays(arrays, "flax", cell=cell)
    assert (layer.spec.input_size, layer.spec.hidden_size) == (INPUT, HIDDEN)
    assert layer.spec.bias in HOLDS.bias[cell]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(BATCH, TIME, INPUT))
    h0, c0 = (rng.normal(size=(BATCH, HIDDEN)) for _ in range(2))
    given = tuple(each.astype("float32") for each in (c0, h0)) if cell == "lstm" else h0.astype("float32")
    carry, y = ran(flax_cell, arrays, x, given)
    truth = reference.run(layer, x, h0=h0[None], c0=c0[None])
    compared = {"y": (y, truth.y), "h": (carry[1] if cell == "lstm" else carry, truth.h[0])}
    compared |= {"c": (carry[0], truth.c[0])} if truth.c is not None else {}
    for name, (found, expected) in compared.items():
        assert np.abs(found - expected).max() < TOLERANCE["float32"], name


@pytest.mark.parametrize(("kind", "cell"), CELLS.items())
def test_the_way_back_is_bit_for_bit(kind: str, cell: str) -> None:
    arrays = parameters(getattr(nn, kind)(HIDDEN), seed=2)
    layer = from_arrays(arrays, "flax", cell=cell)
    back = LAYOUTS[cell].pack(layer.weights, layer.spec)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert not any(np.shares_memory(back[name], arrays[name]) for name in arrays)


def test_two_exchanged_gates_are_noticed() -> None:
    """A mutant: without it, nobody knows that the comparison above would see one."""
    cell = nn.GRUCell(HIDDEN)
    arrays = parameters(cell)
    swapped = {**arrays, "ir.kernel": arrays["iz.kernel"], "iz.kernel": arrays["ir.kernel"]}
    x = np.random.default_rng(1).normal(size=(BATCH, TIME, INPUT))
    _, y = ran(cell, arrays, x, np.zeros((BATCH, HIDDEN), "float32"))
    assert np.abs(y - reference.run(from_arrays(swapped, "flax", cell="gru"), x).y).max() > 1e-2


def gru(dtype: str = "float32") -> Layer:
    """A GRU with all six biases, of which flax has a place for four."""
    return telling_layer(from_arrays(parameters(nn.GRUCell(HIDDEN)), "flax", cell="gru").spec, dtype=dtype)


def test_a_bias_that_flax_has_no_array_for_is_zero_when_read_and_is_not_lost_when_written() -> None:
    layer, layout = gru(), LAYOUTS["gru"]
    with pytest.raises(LayoutError, match=r"holds forward\.recurrent_bias\.r.*\n.*add .* to forward\.bias\.r"):
        layout.pack(layer.weights, layer.spec)
    assert set(layout.absent(layer.spec)) == {"forward.recurrent_bias.r", "forward.recurrent_bias.z"}
    merged = dict(layer.weights)
    for name, twin in layout.absent(layer.spec).items():
        merged |= {twin: layer[twin] + layer[name], name: np.zeros_like(layer[name])}
    again = from_arrays(layout.pack(merged, layer.spec), "flax", cell="gru")
    assert again.spec == layer.spec
    assert not again["forward.recurrent_bias.r"].any()
    assert again["forward.recurrent_bias.n"].all()
    assert not np.shares_memory(again["forward.recurrent_bias.r"], again["forward.recurrent_bias.z"])
    check(again, layer).demand()


def test_the_bias_inside_the_reset_product_is_never_left_out() -> None:
    arrays = parameters(nn.GRUCell(HIDDEN))
    del arrays["hn.bias"]
    single = from_arrays(arrays, "flax", cell="gru")
    assert single.spec.bias == "single"
    assert not LAYOUTS["gru"].absent(single.spec)


def test_flax_has_no_objects_here_and_says_so() -> None:
    with pytest.raises(Unsupported, match=r"flax has no objects.*\n.*named arrays"):
        convert(nn.LSTMCell(HIDDEN), to="torch")


@pytest.mark.parametrize(("kind", "cell"), CELLS.items())
@pytest.mark.parametrize("bias", ["single", "dual", "none"])
def test_any_layer_as_flax_own_arrays_computes_the_same_in_flax(kind: str, cell: str, bias: str) -> None:
    layer = telling_layer(initial_layer(Spec(cell=cell, input_size=INPUT, hidden_size=HIDDEN, bias=bias)).spec)
    arrays = to_arrays(layer, "flax")
    flax_cell = getattr(nn, kind)(HIDDEN)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: array.shape for name, array in parameters(flax_cell).items()
    }
    x = np.random.default_rng(1).normal(size=(BATCH, TIME, INPUT))
    zero = np.zeros((BATCH, HIDDEN), "float32")
    _, y = ran(flax_cell, arrays, x, (zero, zero) if cell == "lstm" else zero)
    assert np.abs(y - reference.run(layer, x).y).max() < TOLERANCE["float32"]
    nested = unflatten_dict(arrays, sep=".")
    check(from_arrays(nested, "flax", cell=cell), layer).demand()
