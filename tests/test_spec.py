"""Spec: its vocabulary, its contradictions, and JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import spec
from lstmbridge import Activation, Spec
from lstmbridge.errors import SpecError, UnknownName
from lstmbridge.spec import ACTIVATIONS, ROLES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "LSTM"}, "cell is 'LSTM'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"input_size": 2.5}, "input_size is 2.5"),
        ({"bias": "two"}, "bias is 'two'"),
        ({"directions": ("reverse", "forward")}, "directions is"),
        ({"cell": "gru", "peepholes": True}, "only an LSTM has it"),
        ({"cell": "gru", "projection_size": 3}, "only an LSTM has it"),
        ({"reset_after": False}, "only a GRU has it"),
        ({"proj_clip": 1.0}, "proj_clip without projection_size"),
        ({"merge": "sum"}, "with one direction"),
        ({"processed_order": True}, "only reverse has it"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"activations": ["tanh"]}, "1 activations"),
    ],
)
def test_contradictions_are_named(fields: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(**fields)


def test_an_unknown_activation_gets_the_near_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'hard_sigmoid'"):
        Activation("hard_sigmoit")
    with pytest.raises(SpecError, match="'tanh' has no alpha"):
        Activation("tanh", 0.5)


def test_the_two_hard_sigmoids_are_different_activations() -> None:
    assert Activation("hard_sigmoid") == Activation("hard_sigmoid", 0.2, 0.5)
    assert Activation("hard_sigmoid") != Activation("hard_sigmoid", 1 / 6, 0.5)


activations = st.builds(lambda name: Activation(name), st.sampled_from(sorted(ACTIVATIONS)))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    cell = draw(st.sampled_from(["lstm", "gru", "rnn"]))
    directions = draw(st.sampled_from([("forward",), ("reverse",), ("forward", "reverse")]))
    roles = len(ROLES[cell])
    fields = {
        "cell": cell,
        "input_size": draw(st.integers(1, 9)),
        "hidden_size": draw(st.integers(1, 9)),
        "directions": directions,
        "bias": draw(st.sampled_from(["none", "single", "dual"])),
        "activations": tuple(draw(st.lists(activations, min_size=roles, max_size=roles))),
        "clip": draw(st.none() | st.floats(0.1, 9)),
    }
    if len(directions) == 2:
        fields["merge"] = draw(st.sampled_from(["concat", "sum", "mul", "ave", "none"]))
    if directions == ("reverse",):
        fields["processed_order"] = draw(st.booleans())
    if cell == "lstm":
        fields |= {
            "projection_size": draw(st.none() | st.integers(1, 9)),
            "peepholes": draw(st.booleans()),
            "coupled": draw(st.booleans()),
            "cell_clip": draw(st.none() | st.floats(0.1, 9)),
            "forget_constant": draw(st.sampled_from([0.0, 1.0, 2.5])),
        }
    if cell == "gru":
        fields["reset_after"] = draw(st.booleans())
    return Spec(**fields)


@given(specs())
def test_json_and_back_is_the_same_spec(found: Spec) -> None:
    assert Spec.from_json(found.to_json()) == found
    assert hash(Spec.from_json(found.to_json())) == hash(found)
    assert str(found)


def test_json_of_something_else_is_a_spec_error() -> None:
    for text in ("", "[]", "{}", '{"cell": "lstm"}', '{"cell": "lstm", "input_size": 1, "hidden_size": 1, "x": 2}'):
        with pytest.raises(SpecError):
            Spec.from_json(text)


def test_names_and_shapes_follow_from_the_spec() -> None:
    found = spec(directions=("forward", "reverse"), bias="dual", peepholes=True, projection_size=3)
    names = list(found.names())
    assert len(names) == len(set(names)) == 2 * (4 * 4 + 3 + 1)
    assert found.shape("reverse.recurrent_kernel.o") == (11, 3)
    assert found.shape("forward.projection") == (3, 11)
    assert found.output_size == 6


def test_only_n_of_a_reset_after_gru_cannot_be_merged() -> None:
    after, before = spec("gru"), spec("gru", reset_after=False)
    assert [after.mergeable(g) for g in "rzn"] == [True, True, False]
    assert all(before.mergeable(g) for g in "rzn")
    assert all(spec().mergeable(g) for g in "ifgo")
