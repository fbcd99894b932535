"""What holds for live objects of every framework: edited in place, owning their memory, stacked, refused unbuilt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers import HIDDEN, layer
from lstmbridge import check, convert, edit, migrate, read
from lstmbridge.arrays import host, same_bits

FRAMEWORKS = ("keras", "torch", "onnx", "gates")
FORMS: dict[str, Any] = {
    "lstm": {"cell": "lstm", "bias": "dual"},
    "gru-bidirectional": {"cell": "gru", "bias": "dual", "directions": ("forward", "reverse")},
    "rnn": {"cell": "rnn", "bias": "none"},
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_one_gate_is_edited_in_place(framework: str, form: str) -> None:
    live = convert(layer(**FORMS[form]), to=framework)
    [before] = (each.replace(weights={n: host(a).copy() for n, a in each.weights.items()}) for each in read(live))
    name = [n for n in before if ".recurrent_kernel." in n][-1]
    with edit(live) as gates:
        gates[name][:] = 5
    [after] = read(live)
    assert (host(after[name]) == 5).all()
    assert all(same_bits(after[other], before[other]) for other in before if other != name)
    assert np.shape(host(after[name])) == (HIDDEN, HIDDEN)
    with pytest.raises(RuntimeError), edit(live) as gates:
        gates[name][:] = 6
        raise RuntimeError
    assert (host(read(live)[0][name]) == 5).all(), "an error in the block leaves the object as it was"
    check(live, read(live)[0].replace(weights={n: host(a) for n, a in after.weights.items()})).demand()


@pytest.mark.parametrize("source", FRAMEWORKS)
@pytest.mark.parametrize("target", FRAMEWORKS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_changing_the_result_does_not_change_the_source(source: str, target: str, cell: str) -> None:
    """A one-gate RNN can be converted without moving a number: without care the result would be the source."""
    origin = convert(layer(cell, bias="none"), to=source)
    result = convert(origin, to=target)
    before = {name: host(array).copy() for name, array in read(origin)[0].weights.items()}
    with edit(result) as gates:
        for array in gates.values():
            array[:] = 7
    assert all(np.array_equal(host(array), before[name]) for name, array in read(origin)[0].weights.items())


@pytest.mark.parametrize("source", ["keras", "onnx", "gates"])
def test_compatible_layers_become_one_torch_module_when_asked_for(source: str) -> None:
    both = ("forward", "reverse")
    first = layer(path="a", bias="dual", directions=both)
    second = layer(path="b", bias="dual", directions=both, input_size=2 * HIDDEN, seed=1).replace(after="a")
    origin = convert((first, second), to=source)
    done = migrate(origin, to="torch", stack=True)
    assert type(done.result).__name__ == "LSTM"
    assert done.result.num_layers == 2
    check(origin, done.result).demand()
    again = migrate(done.result, to=source, remainder=done.remainder)
    check(origin, again.result).demand()
    apart = migrate(origin, to="torch")
    assert not hasattr(apart.result, "num_layers"), "not asked for: a module each, run one after another"
    check(origin, apart.result).demand()
