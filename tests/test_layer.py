"""Layer: built from per-gate and fused arrays; the errors say which gate, what shape, what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import HIDDEN, INPUT, labelled, layer, spec
from lstmbridge import Layer, Layout, from_arrays, registry
from lstmbridge.errors import Ambiguous, LayoutError, UnknownName


def gates(shape: tuple[int, ...], names: str = "ifgo", dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(shape))
    return {name: rng.normal(size=shape).astype(dtype) for name in names}


def test_from_gates_takes_the_arrays_themselves() -> None:
    kernel = gates((HIDDEN, INPUT))
    made = Layer.from_gates(kernel=kernel, recurrent_kernel=gates((HIDDEN, HIDDEN)), bias=gates((HIDDEN,)))
    assert made.spec == spec()
    assert made["forward.kernel.f"] is kernel["f"]
    assert made.parameters == 4 * ((INPUT + HIDDEN) * HIDDEN + HIDDEN)


def test_from_gates_of_two_directions_and_every_part() -> None:
    parts = {
        "kernel": gates((HIDDEN, INPUT)),
        "recurrent_kernel": gates((HIDDEN, 3)),
        "bias": gates((HIDDEN,)),
        "recurrent_bias": gates((HIDDEN,)),
        "peephole": gates((HIDDEN,), "ifo"),
        "projection": np.ones((3, HIDDEN), "float32"),
    }
    made = Layer.from_gates(**parts, reverse=parts, cell_clip=3.0)
    assert made.spec == spec(
        directions=("forward", "reverse"), bias="dual", peepholes=True, projection_size=3, cell_clip=3.0
    )


@pytest.mark.parametrize(("names", "cell"), [("ifgo", "lstm"), ("rzn", "gru"), ("n", "rnn")])
def test_the_gates_say_which_cell_it_is(names: str, cell: str) -> None:
    made = Layer.from_gates(kernel=gates((3, 2), names), recurrent_kernel=gates((3, 3), names))
    assert made.spec.cell == cell


def test_a_missing_gate_is_named() -> None:
    kernel = gates((3, 2))
    del kernel["g"]
    with pytest.raises(LayoutError, match=r"1 weights missing.*\n.*forward\.kernel\.g"):
        Layer.from_gates(kernel=kernel, recurrent_kernel=gates((3, 3)))


def test_keras_name_of_the_candidate_gets_a_hint() -> None:
    with pytest.raises(LayoutError, match="'c' is called 'g' here"):
        Layer.from_gates(kernel=gates((3, 2), "ifco"), recurrent_kernel=gates((3, 3), "ifgo"))


def test_a_transposed_gate_is_recognised() -> None:
    kernel = gates((3, 2))
    kernel["f"] = kernel["f"].T
    with pytest.raises(LayoutError, match=r"forward\.kernel\.f has shape \(2, 3\)\n.*\(3, 2\).*\n.*transpose"):
        Layer.from_gates(kernel=kernel, recurrent_kernel=gates((3, 3)))


def test_two_dtypes_are_an_error_that_names_both() -> None:
    with pytest.raises(LayoutError, match=r"forward\.kernel\.i is float32, forward\.bias\.i is float64"):
        Layer.from_gates(
            kernel=gates((3, 2)), recurrent_kernel=gates((3, 3)), bias=gates((3,), dtype="float64")
        )


def test_whole_numbers_are_no_weights() -> None:
    with pytest.raises(LayoutError, match="dtype int64"):
        Layer.from_gates(kernel={"n": np.ones((2, 2), int)}, recurrent_kernel={"n": np.ones((2, 2), int)})


def test_something_else_than_gates_is_an_error() -> None:
    with pytest.raises(LayoutError, match="not a mapping of gates"):
        Layer.from_gates(kernel=np.ones((3, 2)), recurrent_kernel=np.ones((3, 3)))
    with pytest.raises(LayoutError, match="gates a b"):
        Layer.from_gates(kernel=gates((3, 2), "ab"), recurrent_kernel=gates((3, 3), "ab"))


def test_a_wrong_name_gets_the_near_one() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'forward\.kernel\.f'"):
        layer()["forward.kernel.F"]


def test_coupled_layers_need_no_forget_gate() -> None:
    three = "igo"
    made = Layer.from_gates(kernel=gates((3, 2), three), recurrent_kernel=gates((3, 3), three), coupled=True)
    assert not made["forward.kernel.f"].any()


# ---- fused arrays


def forms() -> list[tuple[str, str, dict]]:
    found = []
    for name in registry.names():
        for cell in registry.framework(name).layout.LAYOUTS:
            found += [(name, cell, {}), (name, cell, {"bias": "none"}), (name, cell, {"bias": "dual"})]
            found.append((name, cell, {"directions": ("forward", "reverse"), "bias": "dual"}))
            if cell == "lstm":
                found += [(name, cell, {"peepholes": True, "bias": "dual"}), (name, cell, {"projection_size": 3})]
    return found


@pytest.mark.parametrize(("framework", "cell", "features"), forms())
def test_fused_arrays_in_any_known_layout_are_one_call(framework: str, cell: str, features: dict) -> None:
    layout = registry.framework(framework).layout.LAYOUTS[cell]
    source = labelled(spec(cell, **features))
    one_way = source.spec.bidirectional and not layout.bidirectional
    if one_way or set(layout.places(source.spec)) != set(source.spec.names()):
        with pytest.raises(LayoutError, match="one direction|no array of this layout holds"):
            layout.pack(source.weights, source.spec)
        return
    arrays = layout.pack(source.weights, source.spec)
    asked = {"forget_constant": 0.0} if (framework, cell) == ("tf1", "lstm") else {}
    made = from_arrays(arrays, framework, cell=cell, **asked)
    assert made.spec == source.spec
    assert all(np.array_equal(made[name], source[name]) for name in source)
    assert all(np.shares_memory(made[name], arrays[place.key]) for name, place in layout.places(made.spec).items())


def test_one_kernel_of_inputs_and_state() -> None:
    fused = np.arange(16.0 * 44).reshape(16, 44)
    layout = Layout("i f g o", ("kernel", "kernel + recurrent_kernel : (i + p) (g h)"), ("bias", "bias : (g h)"))
    made = from_arrays({"kernel": fused, "bias": np.arange(44.0)}, layout)
    assert made.spec == spec()
    assert np.array_equal(made["forward.recurrent_kernel.o"], fused[5:, 33:].T)


def test_three_gates_where_four_were_expected() -> None:
    arrays = {
        "weight_ih_l0": np.ones((33, 5)),
        "weight_hh_l0": np.ones((44, 11)),
        "bias_ih_l0": np.ones(44),
        "bias_hh_l0": np.ones(44),
    }
    with pytest.raises(LayoutError, match=r"weight_ih_l0 has shape \(33, 5\)\n.*\(g h\) i.*\(44, 5\)\n.*33 = 3 x 11"):
        from_arrays(arrays, "torch")


def test_names_that_are_no_layers() -> None:
    with pytest.raises(LayoutError, match="no lstm layer has just these"):
        from_arrays({"weight_ih_l0": np.ones((44, 5))}, "torch")
    with pytest.raises(UnknownName, match="'torch'"):
        from_arrays({}, "pytorch")


def test_what_no_array_tells_is_asked_for() -> None:
    arrays = {"kernel": np.ones((16, 44)), "bias": np.ones(44)}
    with pytest.raises(Ambiguous, match=r"tf1 lstm: forget_constant is in no array\n.*forget_constant=1\.0"):
        from_arrays(arrays, "tf1")
    assert from_arrays(arrays, "tf1", forget_constant=2.5).spec.forget_constant == 2.5


def test_lists_are_no_arrays() -> None:
    with pytest.raises(LayoutError, match=r"forward\.bias\.n is a list\n.*expected an array"):
        Layer.from_gates(kernel=gates((3, 2), "n"), recurrent_kernel=gates((3, 3), "n"), bias={"n": [1.0] * 3})


def test_kernels_that_are_all_transposed() -> None:
    with pytest.raises(LayoutError, match="is the kernel transposed"):
        Layer.from_gates(kernel=gates((2, 3)), recurrent_kernel=gates((3, 3)))
