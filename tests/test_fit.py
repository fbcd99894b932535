"""fit: pad, merge, fold, refuse; the remainder; nothing lost in silence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import layer, same_weights, sequences
from lstmbridge import Layer, Remainder, migrate, registry
from lstmbridge.errors import BridgeError, FileError, LayoutError, SpecError, UnknownName, Unsupported
from lstmbridge.fit import DROPS, FEATURES, Fitted, Holds, fit, refusals
from lstmbridge.reference import run

ALL = frozenset(FEATURES)


def holds(*bias: str, features: frozenset[str] = ALL, **fields: Any) -> Holds:
    return Holds(
        name="toy",
        bias={"lstm": bias, "gru": bias, "rnn": bias},
        activations=lambda _: None,
        directions=fields.get("directions", frozenset({("forward",), ("reverse",), ("forward", "reverse")})),
        merges=fields.get("merges", frozenset({"concat"})),
        features=features,
    )


def back(target: Fitted, source: Layer) -> Layer:
    [restored] = Remainder.of([source], [target]).back([target.layer])
    return restored


def test_what_fits_is_exact_and_untouched() -> None:
    source = layer(bias="dual")
    target = fit(source, holds("dual"))
    assert (target.verdict, target.notes, dict(target.terms)) == ("exact", (), {})
    assert all(target.layer[name] is source[name] for name in source)


@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
def test_merging_two_biases_rounds_and_the_remainder_undoes_it(cell: str) -> None:
    features = {"reset_after": False} if cell == "gru" else {}
    source = layer(cell, bias="dual", **features)
    target = fit(source, holds("single"))
    assert target.verdict == "reparameterised"
    assert "merged" in target.notes[0]
    x = sequences(source.spec)
    assert np.abs(run(target.layer, x).y - run(source, x).y).max() < 2e-7
    same_weights(back(target, source), source)
    name = "forward.bias." + source.spec.gates[0]
    naive = target.layer[name] - source[name.replace(".bias", ".recurrent_bias")]
    assert not np.array_equal(naive, source[name]), "subtracting would not lead back: the terms are needed"


def test_the_bias_inside_the_reset_product_is_never_merged() -> None:
    with pytest.raises(Unsupported, match=r"recurrent_bias\.n \(b_hn.*in a single bias"):
        fit(layer("gru", bias="dual"), holds("single"))


@pytest.mark.parametrize(("bias", "form"), [("none", "single"), ("none", "dual"), ("single", "dual")])
def test_padding_is_zeros_and_exact(bias: str, form: str) -> None:
    source = layer("gru", bias=bias)
    target = fit(source, holds(form))
    assert (target.verdict, target.layer.spec.bias) == ("exact", form)
    x = sequences(source.spec)
    assert np.array_equal(run(target.layer, x).y, run(source, x).y)
    same_weights(back(target, source), source)


@pytest.mark.parametrize("bias", ["none", "single", "dual"])
@pytest.mark.parametrize("constant", [1.0, 2.5])
def test_a_constant_is_folded_into_a_bias_and_back(bias: str, constant: float) -> None:
    source = layer(bias=bias, forget_constant=constant)
    target = fit(source, holds("none", "single", "dual"))
    assert target.layer.spec.forget_constant == 0
    assert target.verdict == "reparameterised"
    x = sequences(source.spec)
    assert np.abs(run(target.layer, x).y - run(source, x).y).max() < 2e-7
    without = source.replace(spec=source.spec.replace(forget_constant=0))
    assert np.abs(run(target.layer, x).y - run(without, x).y).max() > 1e-3
    same_weights(back(target, source), source)


def test_a_target_that_holds_the_constant_keeps_it() -> None:
    target = fit(layer(forget_constant=1.0), holds("single", features=ALL | {"forget constant"}))
    assert (target.verdict, target.layer.spec.forget_constant) == ("exact", 1.0)


CASES = [
    ("projection", "lstm", {"projection_size": 3}),
    ("peepholes", "lstm", {"peepholes": True}),
    ("coupled input-forget", "lstm", {"coupled": True}),
    ("clip", "lstm", {"clip": 0.2}),
    ("cell clip", "lstm", {"cell_clip": 0.1}),
    ("projection clip", "lstm", {"projection_size": 3, "proj_clip": 0.1}),
    ("reset after", "gru", {}),
    ("reset before", "gru", {"reset_after": False}),
    ("outputs as processed", "rnn", {"directions": ("reverse",), "processed_order": True}),
    ("outputs of a reverse layer in forward time", "rnn", {"directions": ("reverse",)}),
    (
        "activations that differ by direction",
        "rnn",
        {"directions": ("forward", "reverse"), "reverse_activations": ["relu"]},
    ),
]


@pytest.mark.parametrize(("feature", "cell", "features"), CASES)
def test_every_feature_is_refused_by_name_where_it_is_not_held(feature: str, cell: str, features: dict) -> None:
    source = layer(cell, path="enc.rnn", **features)
    assert not refusals(source.spec, holds("single"))
    with pytest.raises(Unsupported) as caught:
        fit(source, holds("single", features=ALL - {feature}), other="to='onnx'")
    text = str(caught.value)
    assert text.startswith("toy cannot express")
    assert feature.replace("projection clip", "projection").split()[0] in text
    assert "'enc.rnn'" in text
    assert "keep it: to='onnx'" in text


def test_every_feature_has_its_case() -> None:
    assert {feature for feature, _, _ in CASES} == ALL


@pytest.mark.parametrize("drop", sorted(DROPS))
def test_what_is_given_up_by_name_is_lossy_and_comes_back_from_the_remainder(drop: str) -> None:
    feature = DROPS[drop][0]
    cases = {name: (cell, features) for name, cell, features in CASES}
    cases["merge"] = ("rnn", {"directions": ("forward", "reverse"), "merge": "mul"})
    cases["activations"] = ("rnn", {"activations": ["relu"]})
    cell, features = cases[feature]
    source = layer(cell, **features)
    target_holds = holds("single", features=ALL - {feature})
    if feature == "activations":
        target_holds = replace(target_holds, activations=lambda s: None if s.activations[0].name == "tanh" else "relu")
    with pytest.raises(Unsupported, match="give it up"):
        fit(source, target_holds)
    target = fit(source, target_holds, allow={drop})
    assert target.verdict == "lossy"
    x = sequences(source.spec)
    changed, before = run(target.layer, x).y, run(source, x).y
    assert changed.shape != before.shape or not np.allclose(changed, before)
    same_weights(back(target, source), source)


WRONG = [
    ({"features": frozenset({"reset_after"})}, UnknownName, "unknown feature of toy 'reset_after'", "'reset after'"),
    ({"features": frozenset({"forget bias"})}, UnknownName, "unknown feature of toy", "'forget constant'"),
    ({"merges": frozenset({"concatenate"})}, UnknownName, "unknown merge of toy 'concatenate'", "'concat'"),
    ({"bias": {"lstm": ("singel",)}}, UnknownName, "unknown bias form of toy 'singel'", "'single'"),
    ({"bias": {"lstm": "single"}}, SpecError, "toy: bias forms are 'single'", "('single',)"),
    ({"bias": {"LSTM": ("single",)}}, UnknownName, "unknown cell of toy 'LSTM'", "'lstm'"),
    ({"features": "peepholes"}, SpecError, "toy: features are 'peepholes'", "('peepholes',)"),
    ({"directions": frozenset({"forward"})}, SpecError, "toy: directions holds 'forward'", "('forward',)"),
    ({"directions": frozenset({("reverse", "forward")})}, SpecError, "directions holds", "('forward', 'reverse')"),
    ({"directions": frozenset({("backward",)})}, SpecError, "toy: directions holds ('backward',)", "('reverse',)"),
    ({"merges": frozenset()}, SpecError, "('forward', 'reverse'), merges is empty", "concat"),
]


@pytest.mark.parametrize(("fields", "kind", "found", "expected"), WRONG)
def test_what_nothing_can_hold_is_an_error_where_it_is_said(
    fields: dict, kind: type[BridgeError], found: str, expected: str
) -> None:
    with pytest.raises(kind) as caught:
        replace(holds("single"), **fields)
    assert found in caught.value.headline
    assert expected in caught.value.details[0]


def test_one_direction_needs_no_merge() -> None:
    one = replace(holds("single"), directions=frozenset({("forward",)}), merges=frozenset())
    assert not refusals(layer("rnn").spec, one)


@pytest.mark.parametrize("name", registry.names())
def test_every_framework_is_held_to_the_names_there_are(name: str) -> None:
    room = registry.framework(name).layout
    for said in (room.HOLDS, getattr(room, "FAITHFUL", room.HOLDS)):
        assert replace(said) == said
        with pytest.raises(UnknownName):
            replace(said, features=said.features | {"no such thing"})


def test_the_page_on_adding_a_framework_names_every_feature() -> None:
    page = Path(__file__).parents[1] / "docs" / "adding-a-framework.md"
    rows = re.findall(r"^\| `([a-z -]+)` \|", page.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted([*FEATURES, "forget constant"])


def test_an_unknown_name_to_allow() -> None:
    with pytest.raises(UnknownName, match="did you mean 'drop peepholes'"):
        fit(layer(), holds("single"), allow={"drop peephole"})


def test_allowing_what_is_not_needed_changes_nothing() -> None:
    source = layer(peepholes=True)
    assert fit(source, holds("single"), allow={"drop peepholes"}).verdict == "exact"


def test_a_remainder_no_longer_leads_back_once_the_target_has_changed() -> None:
    source = layer(bias="dual")
    target = fit(source, holds("single"))
    remainder = Remainder.of([source], [target])
    target.layer["forward.bias.f"][0] += 1
    with pytest.raises(LayoutError, match=r"forward\.bias\.f has changed"):
        remainder.back([target.layer])


def test_a_remainder_of_other_layers() -> None:
    source = layer(bias="dual")
    remainder = Remainder.of([source], [fit(source, holds("single"))])
    with pytest.raises(LayoutError, match="2 layers for a remainder of 1"):
        remainder.back([source, source])
    with pytest.raises(LayoutError, match="the remainder is of"):
        remainder.back([layer(hidden_size=4)])


def test_a_remainder_in_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    source = layer(bias="dual", path="enc").replace(metadata={"framework": "toy", "config": {"name": "x"}})
    target = fit(source, holds("single"))
    file = tmp_path / "r.safetensors"
    Remainder.of([source], [target]).save(file)
    [restored] = Remainder.load(file).back([target.layer])
    same_weights(restored, source)
    assert (restored.path, restored.metadata) == (source.path, source.metadata)
    with pytest.raises(FileError, match="exists already"):
        Remainder.of([source], [target]).save(file)
    gates = tmp_path / "g.safetensors"
    migrate(source, to="gates", path=gates)
    with pytest.raises(FileError, match="not a remainder"):
        Remainder.load(gates)


def test_a_padded_bias_that_was_trained_is_not_dropped_in_silence() -> None:
    """The second bias of a torch LSTM starts at zero and learns: going back without it would be another function."""
    source = layer(path="enc")
    target = fit(source, holds("dual"))
    remainder = Remainder.of([source], [target])
    target.layer["forward.recurrent_bias.f"][0] += 1
    with pytest.raises(LayoutError, match=r"enc: forward\.recurrent_bias\.f has changed"):
        remainder.back([target.layer])


def test_a_remainder_of_a_layer_that_computes_something_else() -> None:
    source = layer("rnn", activations=["relu"])
    remainder = Remainder.of([source], [fit(source, holds("dual"))])
    with pytest.raises(LayoutError, match="belongs to another conversion"):
        remainder.back([layer("rnn", bias="dual")])
    near = source.spec.replace(activations=[("hard_sigmoid", float(np.float32(1 / 6)), 0.5)])
    exact = source.spec.replace(activations=[("hard_sigmoid", 1 / 6, 0.5)])
    kept = Remainder.of([source.replace(spec=exact)], [fit(source.replace(spec=exact), holds("single"))])
    assert kept.back([source.replace(spec=near)])[0].spec == exact, "a constant that went through float32 is the same"


def test_a_remainder_file_that_is_damaged(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from lstmbridge import tensorfile

    for text in ("[1", '{"a": {}}', "[1]", "[" * 100_000):
        tensorfile.save({}, tmp_path / "r.safetensors", metadata={"lstmbridge.remainder": text})
        with pytest.raises(FileError, match="cannot be read"):
            Remainder.load(tmp_path / "r.safetensors")
