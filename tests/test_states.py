"""States in every framework's own form and from it, kept by stateful layers, handed over in mid-sequence."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import layer, layer_of, sequences, spec
from lstmbridge import Layer, Spec, States, convert, read, read_states, reference, registry, write_states
from lstmbridge import arrays as xp
from lstmbridge.checking import TOLERANCE
from lstmbridge.errors import Ambiguous, FileError, LayoutError, OptionError, UnknownName, Unsupported
from lstmbridge.frameworks.tf1.layout import LSTMStateTuple
from lstmbridge.statenotation import StateLayout, names, shape
from lstmbridge.states import State
from lstmbridge.testing import check_handover

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
from keras import layers as kl  # noqa: E402
from keras import ops  # noqa: E402

from lstmbridge.frameworks.keras.faithful import Recurrent  # noqa: E402

BATCH = 3
BOTH = ("forward", "reverse")
WITHIN = TOLERANCE["float32"]


def stack(cell: str = "lstm", levels: int = 2, path: str = "enc", **features: Any) -> tuple[Layer, ...]:
    """Levels of one module, each reading the one before."""
    first = spec(cell, bias="dual", **features)
    specs = [first, *[first.replace(input_size=first.output_size)] * (levels - 1)]
    after = [None, *(f"{path}.l{n}" for n in range(levels - 1))]
    return tuple(layer_of(each, seed=n, path=path, level=n, after=after[n]) for n, each in enumerate(specs))


def chain(*specs: Spec) -> tuple[Layer, ...]:
    """Layers each of a module of its own."""
    paths = "abcdef"[: len(specs)]
    return tuple(layer_of(each, seed=n, path=p) for n, (p, each) in enumerate(zip(paths, specs, strict=True)))


def numbered(layers: Sequence[Layer], batch: int = BATCH, dtype: str = "float32") -> States:
    """States whose every number says which entry it is: 1, 2, 3, ..."""
    count = itertools.count(1)

    def numbers(size: tuple[int, ...]) -> np.ndarray:
        return np.array([next(count) for _ in range(int(np.prod(size)))], dtype).reshape(size)

    return States(tuple(
        State.at(each, {name: numbers(shape(each.spec, name, batch)) for name in names(each.spec)}) for each in layers
    ))  # fmt: skip


# ---- each form, held against a statement of its own in plain NumPy


def in_torch(unit: Sequence[State]) -> Any:
    parts = ["h", "c"] if unit[0].spec.cell == "lstm" else ["h"]
    found = [np.stack([s[f"{d}.{part}"] for s in unit for d in s.spec.directions]) for part in parts]
    return tuple(found) if len(found) > 1 else found[0]


def in_keras(unit: Sequence[State]) -> Any:
    lists = [[s[f"{d}.{part}"] for d in s.spec.directions for part in ("h", "c") if f"{d}.{part}" in s] for s in unit]
    return lists if len(lists) > 1 else lists[0]


def in_onnx(axis: int) -> Callable[[Sequence[State]], Any]:
    def stated(unit: Sequence[State]) -> Any:
        [s] = unit
        parts = {"initial_h": "h", "initial_c": "c"} if s.spec.cell == "lstm" else {"initial_h": "h"}
        return {key: np.stack([s[f"{d}.{part}"] for d in s.spec.directions], axis) for key, part in parts.items()}

    return stated


def in_tf1(unit: Sequence[State]) -> Any:
    def of(s: State, d: str) -> Any:
        return (s[f"{d}.c"], s[f"{d}.h"]) if s.spec.cell == "lstm" else s[f"{d}.h"]

    levels = [[of(s, d) for d in s.spec.directions] for s in unit]
    each = [tuple(level) if len(level) > 1 else level[0] for level in levels]
    return tuple(each) if len(each) > 1 else each[0]


def in_one(unit: Sequence[State]) -> Any:
    [s] = unit
    return np.concatenate([s["forward.c"], s["forward.h"]], 1) if s.spec.cell == "lstm" else s["forward.h"]


PROJECTED = {"projection_size": 4}
ONE = {"lstm": [layer(path="enc")], "gru": [layer("gru", path="enc")], "projected": [layer(**PROJECTED, path="enc")]}
TWO = {"both ways": [layer(directions=BOTH, path="enc")], "backwards": [layer("rnn", directions=("reverse",))]}
DEEP = {
    "levels both ways": stack(directions=BOTH, **PROJECTED),
    "levels": stack("gru", 3),
    "a level alone": stack()[1:],
}
MIXED = {"cells of their own": (stack()[0], layer_of(spec("gru", input_size=11, hidden_size=7), path="enc", level=1))}
CHAINED = {
    "a chain": chain(spec(directions=BOTH), spec("gru", hidden_size=7)),
    "a stack and a layer": (*stack(), layer("rnn", hidden_size=6, path="head")),
}

#: Framework, form -> its statement, and the layers on which it is tried.
FORMS: Mapping[tuple[str, str], tuple[Callable[[Sequence[State]], Any], Mapping[str, Sequence[Layer]]]] = {
    ("torch", "layer"): (in_torch, {**ONE, **TWO, **DEEP, **CHAINED}),
    ("torch", "cell"): (lambda unit: in_torch(unit)[0] if unit[0].spec.cell == "gru" else
                        tuple(each[0] for each in in_torch(unit)), ONE),
    ("keras", "list"): (in_keras, {**ONE, **TWO, **DEEP, **MIXED, **CHAINED}),
    ("onnx", "layout=0"): (in_onnx(0), {**ONE, **TWO, **CHAINED}),
    ("onnx", "layout=1"): (in_onnx(1), {**ONE, **TWO, **CHAINED}),
    ("tf1", "tuple"): (in_tf1, {**ONE, **TWO, **DEEP, **MIXED, **CHAINED}),
    ("tf1", "state_is_tuple=False"): (in_one, ONE),
    ("gates", "names"): (lambda unit: {name: unit[0][name] for name in unit[0]}, {**ONE, **TWO, **CHAINED}),
}  # fmt: skip
TRIED = [(*key, name) for key, (_, cases) in FORMS.items() for name in cases]


def stated(framework: str, form: str, states: States) -> Any:
    """What the states are in that form, module by module."""
    of, _ = FORMS[framework, form]
    groups = itertools.groupby(states, lambda s: s.path if framework in ("torch", "keras", "tf1") else s.label)
    units = [(name, list(unit)) for name, unit in groups]
    held = [of(unit) for _, unit in units]
    if len(units) == 1:
        return held[0]
    if isinstance(held[0], dict):
        return {f"{name}.{key}": a for (name, _), own in zip(units, held, strict=True) for key, a in own.items()}
    return tuple(held) if framework == "tf1" else held


def flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every array in a nest, by where it is."""
    if isinstance(value, Mapping):
        yield from ((f"{at}[{key}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        for n, each in enumerate(value):
            yield from flat(each, f"{at}{kind}[{n}]")
    else:
        yield at, value


def same(found: Any, expected: Any) -> None:
    """Asserts that two nests are the same, every array bit for bit."""
    one, two = dict(flat(found)), dict(flat(expected))
    assert list(one) == list(two)
    different = [at for at in one if not np.array_equal(np.asarray(one[at]), two[at])]
    assert not different, different
    assert {str(np.asarray(each).dtype) for each in one.values()} == {str(each.dtype) for each in two.values()}


def there_and_back(framework: str, form: str, name: str) -> None:
    """Asserts that states stand where the statement has them, and come back bit for bit."""
    layers = FORMS[framework, form][1][name]
    states = numbered(layers)
    own = write_states(states, to=framework, form=form)
    same(own, stated(framework, form, states))
    back = read_states(own, layers, framework=framework, form=form)
    assert back.same_bits(states)
    assert back.labels == states.labels


@pytest.mark.parametrize(("framework", "form", "name"), TRIED)
def test_each_form_there_and_back(framework: str, form: str, name: str) -> None:
    there_and_back(framework, form, name)


def test_every_form_is_tried() -> None:
    stated_forms = {
        (name, form)
        for name in registry.names()
        for form in getattr(registry.framework(name).layout, "STATES", {})
    }
    assert stated_forms == set(FORMS)


def crossed(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The places of forward and reverse exchanged."""
    words = {"forward": "reverse", "reverse": "forward"}
    return [{f"{words[d]}.{part}": level[f"{d}.{part}"] for d, _, part in (n.partition(".") for n in level)}
            for level in found]  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "form", "name"),
    [("torch", "layer", "levels both ways"), ("keras", "list", "both ways"), ("onnx", "layout=1", "both ways")],
)
def test_directions_that_are_exchanged_are_noticed(
    framework: str, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = StateLayout.places
    monkeypatch.setattr(StateLayout, "places", lambda self, *given: crossed(honest(self, *given)))
    with pytest.raises(AssertionError):
        there_and_back(framework, form, name)


@pytest.mark.parametrize(
    ("framework", "form", "name", "lines"),
    [
        ("torch", "layer", "levels both ways", (("h_n", "h : (d l) b p"), ("c_n", "c : (d l) b h"))),
        ("torch", "layer", "lstm", (("c_n", "c : (l d) b h"), ("h_n", "h : (l d) b p"))),
        ("keras", "list", "lstm", (("{l}.{d}.c", "c : b h"), ("{l}.{d}.h", "h : b p"))),
        ("onnx", "layout=0", "lstm", (("initial_h", "c : d b h"), ("initial_c", "h : d b p"))),
        ("tf1", "state_is_tuple=False", "lstm", (("state", "h + c : b (p + h)"),)),
    ],
)
def test_a_line_with_a_mistake_is_noticed(
    framework: str, form: str, name: str, lines: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read and written alike with the mistake, so that going there and back alone shows nothing."""
    forms = registry.framework(framework).layout.STATES  # type: ignore[attr-defined]
    monkeypatch.setitem(forms, form, dataclasses.replace(forms[form], layout=StateLayout(*lines)))
    layers = FORMS[framework, form][1][name]
    states = numbered(layers)
    own = write_states(states, to=framework, form=form)
    assert read_states(own, layers, framework=framework, form=form).same_bits(states)
    with pytest.raises(AssertionError):
        there_and_back(framework, form, name)


def test_a_named_tuple_in_the_order_of_another_line_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = registry.framework("tf1").layout.STATES  # type: ignore[attr-defined]
    lines = StateLayout(("{l}.{d}.h", "h : b p"), ("{l}.{d}.c", "c : b h"))
    monkeypatch.setitem(forms, "tuple", dataclasses.replace(forms["tuple"], layout=lines))
    own = write_states(numbered([layer()]), to="tf1")
    with pytest.raises(LayoutError, match=r"c stands where 0\.forward\.h is expected"):
        read_states(own, layer(), framework="tf1")


@pytest.mark.parametrize(("framework", "form", "name"), TRIED)
def test_nothing_that_is_written_into_either_side_shows_in_the_other(framework: str, form: str, name: str) -> None:
    layers = FORMS[framework, form][1][name]
    states, before = numbered(layers), numbered(layers)
    own = write_states(states, to=framework, form=form)
    arrays = [each for _, each in flat(own) if framework != "keras"]  # tensorflow's tensors cannot be written
    back = read_states(own, layers, framework=framework, form=form)
    for array in arrays:
        array[...] = -1
    assert states.same_bits(before)
    assert back.same_bits(before)
    other = write_states(states, to=framework, form=form)
    for array in (array for state in states for array in state.arrays.values()):
        array[...] = -2
    same(other, stated(framework, form, before))


def test_numpy_arrays_that_a_framework_did_not_make_are_copied_too() -> None:
    h = np.arange(BATCH * 11, dtype="float32").reshape(BATCH, 11)
    states = read_states([h], layer("gru"), framework="keras")
    h[...] = -1
    assert states[""]["forward.h"].min() == 0


# ---- what a framework takes and gives is what the equations take and give


def run_torch(layers: Sequence[Layer], x: np.ndarray, first: States) -> Any:
    module = convert(tuple(layers), to="torch", batch_first=True, faithful=True)
    with torch.no_grad():
        return module(torch.from_numpy(x.astype("float32")), write_states(first, to="torch"))[1]


def recurrent(obj: Any) -> list[Any]:
    """The recurrent layers of a Keras model, in order."""
    if isinstance(obj, kl.RNN | kl.Bidirectional | Recurrent):
        return [obj]
    return [each for inner in getattr(obj, "layers", []) for each in recurrent(inner)]


def run_keras(layers: Sequence[Layer], x: np.ndarray, first: States) -> Any:
    found = recurrent(convert(tuple(layers), to="keras", faithful=True))
    given = write_states(first, to="keras")
    states, x = [], x.astype("float32")
    for each, start in zip(found, given if len(found) > 1 else [given], strict=True):
        sides = [getattr(each, name) for name in ("forward_layer", "backward_layer") if hasattr(each, name)]
        for part in (each, *sides):
            part.return_state = True
        x, *last = each(x, initial_state=start)
        states.append(last)
    return states if len(found) > 1 else states[0]


def run_onnx(layers: Sequence[Layer], x: np.ndarray, first: States) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    model = convert(tuple(layers), to="onnx", initial=True)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"X": x.transpose(1, 0, 2).astype("float32"), **write_states(first, to="onnx")}
    assert set(feeds) == {each.name for each in session.get_inputs()}
    found = {each.name: array for each, array in zip(session.get_outputs(), session.run(None, feeds), strict=True)}
    return {name: array for name, array in found.items() if not name.endswith("Y")}


RUN = {"torch": run_torch, "keras": run_keras, "onnx": run_onnx}
COMPUTED = {
    "lstm": [layer(bias="dual")],
    "rnn": [layer("rnn", bias="dual")],
    "gru both ways": [layer("gru", bias="dual", directions=BOTH)],
    "backwards": [layer(bias="dual", directions=("reverse",))],
    "levels both ways": stack(directions=BOTH),
    "levels": stack("gru"),
    "a chain": (layer(bias="dual", path="a"), layer_of(spec("gru", bias="dual", input_size=11), path="b", after="a")),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("framework", RUN)
def test_a_framework_takes_and_gives_what_the_equations_do(framework: str, name: str) -> None:
    """Random initial states, written; torch's h_n, Keras' returned states and onnxruntime's Y_h, read."""
    layers = COMPUTED[name]
    x, first = sequences(layers[0].spec, batch=BATCH), States.random(layers, BATCH, scale=0.5)
    own = RUN[framework](layers, x, first)
    said = framework if framework == "keras" else None  # (h, c) or (c, h): tensors alone do not tell
    states = read_states(own, layers, framework=said)
    for state, right in zip(states, reference.run_stack(layers, x, h0=first.h, c0=first.c), strict=True):
        assert np.abs(xp.host(state.h) - right.h).max() <= WITHIN
        assert right.c is None or np.abs(xp.host(state.c) - right.c).max() <= WITHIN


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_layout_1_of_an_onnx_node(cell: str) -> None:
    """onnxruntime refuses the attribute; onnx's own evaluator runs it, and takes and gives (b, d, h)."""
    from onnx.reference import ReferenceEvaluator

    one = layer(cell, bias="dual")
    model = convert(one, to="onnx", initial=True)
    node = model.graph.node[0]
    del model.graph.node[1:]  # what comes after takes layout 0
    node.attribute.add(name="layout", i=1, type=2)
    outputs = [name for name in ("Y_h", "Y_c") if name in node.output]
    del model.graph.output[:]
    for name in outputs:
        model.graph.output.add(name=name)
    x, first = sequences(one.spec, batch=BATCH).astype("float32"), States.random(one, BATCH, scale=0.5)
    feeds = {"X": x, **write_states(first, to="onnx", form="layout=1")}
    found = dict(zip(outputs, ReferenceEvaluator(model).run(outputs, feeds), strict=True))
    assert found["Y_h"].shape == (BATCH, 1, 11)
    states = read_states(found, one, framework="onnx", form="layout=1")
    right = reference.run(one, x, h0=first.h[0], c0=first.c[0])
    assert np.abs(states.h[0] - right.h).max() <= WITHIN
    assert right.c is None or np.abs(states.c[0] - right.c).max() <= WITHIN
    with pytest.raises(LayoutError, match="it fits form='layout=1'"):
        read_states(found, one, framework="onnx")


def test_a_cell_of_torchs() -> None:
    cell = torch.nn.LSTMCell(5, 11)
    with torch.no_grad():
        own = cell(torch.ones(BATCH, 5))
    told = read_states(own, cell)
    assert torch.equal(told[""]["forward.c"], own[1]), "its own tensors and its own module: whose form it is is known"
    unbatched = read_states(torch.nn.LSTM(5, 11)(torch.ones(4, 5))[1], torch.nn.LSTM(5, 11))
    assert unbatched.batch == 1
    with pytest.raises(LayoutError, match="it has no batch: give it an axis"):
        read_states(torch.nn.LSTM(5, 11, 2)(torch.ones(4, 5))[1], torch.nn.LSTM(5, 11, 2))
    with pytest.raises(LayoutError, match="it fits form='cell'"):
        read_states(own, cell, framework="torch")
    states = read_states(own, cell, framework="torch", form="cell")
    assert torch.equal(states[""]["forward.c"], own[1])


# ---- whose form it is


def test_the_framework_is_recognised_where_the_form_is_its_own() -> None:
    one, gru = layer(), layer("gru")
    states = numbered([one])
    for framework in ("torch", "onnx", "gates"):
        assert read_states(write_states(states, to=framework), one).same_bits(states)
    named = write_states(states, to="tf1")
    assert isinstance(named, LSTMStateTuple)
    assert read_states(named, one).same_bits(states)
    assert read_states([np.ones((BATCH, 11))], gru).batch == BATCH, "h alone is the same to all"
    both = read_states({"Y_h": np.ones((1, BATCH, 11)), "Y_c": np.zeros((1, BATCH, 11))}, one)
    assert both.h[0].all()
    assert not both.c[0].any()


def test_the_framework_must_be_said_where_it_makes_a_difference() -> None:
    pair = [np.ones((BATCH, 11)), np.zeros((BATCH, 11))]
    with pytest.raises(Ambiguous, match="as keras or tf1 it is not the same\n.*say it: framework="):
        read_states(pair, layer())
    assert read_states(pair, layer(), framework="keras").h[0].all()
    assert not read_states(pair, layer(), framework="tf1").h[0].any()


def test_states_that_fit_no_form_are_told_in_the_words_of_the_one_that_is_meant() -> None:
    one, array = layer(), np.ones((BATCH, 11))
    with pytest.raises(LayoutError, match="form of no framework(.|\n)*not keras state(.|\n)*not torch state") as no:
        read_states([array, array, array], one)
    assert not isinstance(no.value, Ambiguous), "nothing that framework= could say would help"
    h, c = torch.ones(1, BATCH, 11), torch.ones(1, BATCH, 11)
    for wrong, words in (
        ((h, c[:, :2]), "torch state of the LSTM: c_n has shape"),
        ((h[..., :7], c), "torch state of the LSTM: h_n has shape"),
        ((h, c.int()), "states of dtype float32 and int32"),
        (h, "torch state of the LSTM: 1 array\n"),
    ):
        with pytest.raises(LayoutError, match=words) as caught:
            read_states(wrong, one)
        assert "framework=" not in str(caught.value)
        assert not isinstance(caught.value, Ambiguous)
    with pytest.raises(LayoutError, match="onnx state of the LSTM: 1 array missing\n.*missing: initial_c"):
        read_states({"Y_h": np.ones((1, BATCH, 11))}, one)


def test_what_a_session_gives_out_may_have_its_outputs_beside_the_states() -> None:
    states = numbered([layer()])
    given = {name.replace("initial", "Y"): array for name, array in write_states(states, to="onnx").items()}
    outputs = {"Y": np.zeros((4, 1, BATCH, 11), "float32"), **given}
    assert read_states(outputs, layer()).same_bits(states)
    two = CHAINED["a chain"]
    named = write_states(numbered(two), to="onnx")
    for output in ("b.Y", "Y"):
        assert read_states({output: np.zeros(3), **named}, two).same_bits(numbered(two))
    both = {"initial_h": np.zeros((1, BATCH, 11), "float32"), **outputs}
    with pytest.raises(LayoutError, match="initial_h and Y_h\n.*what goes in, or what comes out"):
        read_states(both, layer())


# ---- errors


def test_states_that_do_not_fit_are_told_by_layer_and_notation() -> None:
    layers = stack(directions=BOTH, **PROJECTED)
    h, c = write_states(numbered(layers), to="torch")

    def said(*value: Any) -> list[str]:
        with pytest.raises(LayoutError) as caught:
            read_states(value, layers, framework="torch")
        return str(caught.value).splitlines()

    assert said(c, h) == [
        "torch state of LSTM 'enc': h_n has shape (4, 3, 11)",
        "  expected (l d) b p with l = 2, d = 2, b = 3, p = 4 -> (4, 3, 4)",
        "  this is the shape of c_n: are the two exchanged?",
    ]
    assert said(h[:2], c)[-1] == "  (l d) is 2 levels x 2 directions = 4, not 2"
    assert said(h, c[:, :2])[-1] == "  its batch is 2, not 3"
    assert said(h)[-1] == "  the LSTM has h and c"
    with pytest.raises(LayoutError, match="torch state of GRU 'enc': 2 arrays\n.*expected 1: h_n\n.*h alone, and no c"):
        read_states((h, h), ONE["gru"], framework="torch")


def test_states_of_several_modules_that_do_not_fit() -> None:
    layers = CHAINED["a chain"]
    states = numbered(layers)
    lists, named = write_states(states, to="keras"), write_states(states, to="onnx")
    with pytest.raises(LayoutError, match="keras states: 1 for 2 modules\n.*expected one a module: a, b"):
        read_states(lists[:1], layers, framework="keras")
    with pytest.raises(LayoutError, match="keras state of GRU 'b': 4 arrays"):
        read_states([lists[0], lists[0]], layers, framework="keras")
    with pytest.raises(LayoutError, match="onnx states without names\n.*expected a dict with names of a, b"):
        read_states(list(named.values()), layers, framework="onnx")
    with pytest.raises(LayoutError, match=r"onnx states of no layer: c\.initial_h\n.*begin with a\. or b\."):
        read_states({**named, "c.initial_h": named["b.initial_h"]}, layers, framework="onnx")
    with pytest.raises(LayoutError, match="onnx state of GRU 'b': 1 array too many"):
        read_states({**named, "b.initial_c": named["b.initial_h"]}, layers, framework="onnx")
    alone = {key: each for key, each in named.items() if key.startswith("a.")}
    assert read_states(alone, layers[:1]).same_bits(States(states.states[:1]))
    different = [lists[0], [np.ones((2, 7), "float32")]]
    with pytest.raises(LayoutError, match="states of different batches: a has 3, b has 2"):
        read_states(different, layers, framework="keras")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([None], "keras state of the GRU: 0.forward.h is a NoneType\n.*expected an array"),
        ([kl.Input((11,))], "is a KerasTensor without numbers"),
        ([np.ones((BATCH, 11), int)], "states of dtype int64\n.*expected one floating dtype"),
    ],
)
def test_what_is_no_state(value: Any, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        read_states(value, layer("gru"), framework="keras")


def test_questions_that_make_no_sense() -> None:
    one, gru = layer(), torch.nn.GRU(5, 11)
    states = numbered([one])
    with pytest.raises(LayoutError, match="whose states are these"):
        read_states(np.ones((1, BATCH, 11)))
    with pytest.raises(OptionError, match=r"model\.keras is a path\n.*States\.load"):
        read_states("model.keras", one)
    with pytest.raises(OptionError, match="form='cell' of no framework"):
        read_states(np.ones((1, BATCH, 11)), gru, form="cell")
    with pytest.raises(OptionError, match="for states by themselves, not for a GRU"):
        read_states(gru, framework="torch")
    with pytest.raises(UnknownName, match="unknown form of onnx's states 'layout=2'\n.*did you mean 'layout="):
        write_states(states, to="onnx", form="layout=2")
    with pytest.raises(OptionError, match="neither to= nor into="):
        write_states(states)
    with pytest.raises(OptionError, match="to= and into="):
        write_states(states, to="keras", into=kl.LSTM(11))
    with pytest.raises(OptionError, match="no effect with into="):
        write_states(states, into=kl.LSTM(11), form="list")


@pytest.mark.parametrize("obj", [torch.nn.GRU(5, 11), convert(layer(), to="onnx"), layer(), kl.LSTM(11)])
def test_what_keeps_no_state_says_what_to_give_instead(obj: Any) -> None:
    if isinstance(obj, kl.Layer):
        obj.build((None, None, 5))
    for ask in (lambda: read_states(obj), lambda: write_states(numbered(read(obj)), into=obj)):
        with pytest.raises(Unsupported, match=r"keeps no state between calls\n.*read_states\(value, layers\)"):
            ask()


def test_a_framework_that_states_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(registry.framework("onnx").layout, "STATES")
    with pytest.raises(Unsupported, match="onnx has no form of states here"):
        write_states(numbered([layer()]), to="onnx")
    check_handover(layer(), convert(layer(), to="torch"), time=3)


# ---- the canonical form


def test_zeros_have_the_layers_dtype_and_the_layers_shapes() -> None:
    states = States.zeros(stack(directions=BOTH, **PROJECTED), BATCH)
    assert [each.shape for each in (*states.h, *states.c)] == [(2, BATCH, 4)] * 2 + [(2, BATCH, 11)] * 2
    assert not any(array.any() for state in states for array in state.arrays.values())
    assert {state.dtype for state in states} == {"float32"}
    assert States.zeros(layer(dtype="bfloat16"), 1)[""].dtype == "bfloat16"
    assert States.zeros(layer("gru"), 1, dtype="float64").c == [None]
    with pytest.raises(UnknownName, match="unknown dtype 'float31'\n.*did you mean 'float32'"):
        States.zeros(layer(), 1, dtype="float31")
    with pytest.raises(LayoutError, match="states of batch 0"):
        States.zeros(layer(), 0)


def test_random_states_are_cut_at_two_standard_deviations() -> None:
    """The normal distribution has 4.6 % beyond them; what is cut and drawn again has 0.88 of its standard deviation."""
    one = layer(dtype="float64")
    h = States.random(one, 5000, seed=3, scale=0.5).h[0]
    assert np.abs(h).max() <= 1.0
    assert np.mean(np.abs(h) > 0.999) < 1e-3, "nothing is pressed against the edge"
    assert abs(h.std() / 0.5 - 0.8796) < 0.005
    assert abs(h.mean()) < 0.005
    again, other = (States.random(one, 5000, seed=seed, scale=0.5) for seed in (3, 4))
    assert np.array_equal(again.h[0], h)
    assert not np.array_equal(other.h[0], h)
    assert not np.array_equal(again.c[0], h)


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
def test_a_learned_state_is_given_to_every_sequence(kind: str) -> None:
    if kind == "jax":
        made = pytest.importorskip("jax.numpy").asarray
    else:
        made = {"numpy": np.asarray, "torch": lambda a: torch.nn.Parameter(torch.from_numpy(a))}[kind]
    one = layer(directions=BOTH)
    first = numbered([one], batch=1)
    learned = States.of(one, [made(each) for each in first.h], [made(each) for each in first.c])
    whole = learned.repeated(4)
    assert whole.batch == 4
    assert xp.kind(whole[""]["reverse.c"]) == kind
    assert all(np.array_equal(xp.host(whole.c[0])[:, n], first.c[0][:, 0]) for n in range(4))
    with pytest.raises(LayoutError, match="states of batch 4 cannot be repeated"):
        whole.repeated(2)


def test_canonical_arrays_that_do_not_fit() -> None:
    one = layer(path="enc")
    h = np.ones((1, BATCH, 11))
    with pytest.raises(LayoutError, match="2 arrays h\n.*expected 1, one a layer: enc"):
        States.of(one, [h, h], [h])
    with pytest.raises(LayoutError, match="enc: 1 array missing\n.*missing: c"):
        States.of(one, [h])
    with pytest.raises(LayoutError, match="1 array too many\n.*too many: c"):
        States.of(layer("gru"), [h], [h])
    with pytest.raises(LayoutError, match=r"c has shape \(1, 2, 11\)\n.*expected d b h with d = 1, b = 3"):
        States.of(one, [h], [h[:, :2]])
    with pytest.raises(LayoutError, match=r"forward.h has shape \(3, 2\)\n.*expected \(3, 11\)"):
        State(spec=spec("gru"), arrays={"forward.h": np.ones((BATCH, 2))})
    with pytest.raises(LayoutError, match="two states of 'enc'"):
        States(numbered([one]).states * 2)
    with pytest.raises(UnknownName, match="did you mean 'enc'"):
        numbered([one])["ecn"]
    with pytest.raises(UnknownName, match=r"did you mean 'forward\.c'"):
        numbered([one])["enc"]["forwrad.c"]


def test_random_states_have_a_scale() -> None:
    with pytest.raises(OptionError, match="scale is -1"):
        States.random(layer(), batch=2, scale=-1)
    assert not States.random(layer(), batch=2, scale=0).h[0].any()


def test_states_say_what_they_are() -> None:
    states = numbered(chain(spec(), spec("gru", hidden_size=7)), batch=2)
    doubt = "; h is beyond 1, and tanh gives no more: are h and c exchanged?"
    assert str(states).splitlines() == [
        f"a: lstm: h d b p = (1, 2, 11) within 22, c d b h = (1, 2, 11) within 44, float32{doubt}",
        "b: gru: h d b p = (1, 2, 7) within 58, float32",
    ]
    assert repr(states) == "<States of a, b, batch 2>"


def test_states_that_no_layer_can_have_given_are_doubted() -> None:
    one = layer(dtype="float32")
    _, (h, c) = convert(one, to="torch")(3 * torch.ones(60, BATCH, 5))
    c = 2.5 * c / c.abs().max()
    assert "exchanged" not in str(read_states((h, c), one))
    assert "are h and c exchanged?" in str(read_states((c, h), one))
    for able in (layer(**PROJECTED), layer(activations=("sigmoid", "tanh", "relu"))):
        assert "exchanged" not in str(numbered([able])), "these give more than 1"
    assert "exchanged" not in str(States.of(one, [np.full((1, BATCH, 11), np.nan)], [np.ones((1, BATCH, 11))]))


def test_states_are_the_same_where_every_bit_is() -> None:
    states = numbered(stack())
    assert states.same_bits(numbered(stack(path="other")))
    assert not states.same_bits(states.cast("float64"))
    assert not states.same_bits(numbered(stack()[:1]))
    states["enc.l1"]["forward.c"][2, 10] *= -1
    assert not states.same_bits(numbered(stack()))


def test_states_for_the_layers_of_another_model() -> None:
    states, goal = numbered(stack()), chain(spec(), spec(input_size=11))
    assert states.onto(goal).labels == ("a", "b")
    assert states.onto(goal).same_bits(states)
    assert states.onto(stack()[::-1]).same_bits(states), "those of one label belong together"
    with pytest.raises(LayoutError, match=r"states of 2 for 1 layers: enc.l0, enc.l1; a\n.*or the same labels"):
        states.onto(goal[:1])
    with pytest.raises(LayoutError, match="the state of enc.l1 for b of another kind\n.*found lstm 11 -> 11"):
        states.onto(chain(spec(), spec("gru")))
    goal = chain(spec(), spec("gru", hidden_size=7))
    levels = write_states(numbered(MIXED["cells of their own"]), to="torch", layers=goal)
    assert [each.shape for _, each in flat(levels)] == [(1, BATCH, 11)] * 2 + [(1, BATCH, 7)]


def test_states_in_a_file(tmp_path: Path) -> None:
    states = numbered((*stack(directions=BOTH), layer("gru", hidden_size=7, path="head")))
    states.save(tmp_path / "states.safetensors")
    again = States.load(tmp_path / "states.safetensors")
    assert again.same_bits(states)
    assert [(s.label, s.spec) for s in again] == [(s.label, s.spec) for s in states]
    with pytest.raises(FileError, match="exists already"):
        states.save(tmp_path / "states.safetensors")
    from safetensors.numpy import save_file

    save_file({"h": np.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match="not a file of states"):
        States.load(tmp_path / "other.safetensors")


def test_dtypes_are_cast_only_where_it_is_asked_for() -> None:
    one = layer("gru")
    states = numbered([one], dtype="float64")
    assert write_states(states, to="torch").dtype == torch.float64
    assert write_states(states, to="torch", dtype="bfloat16").dtype == torch.bfloat16
    [half] = write_states(states, to="keras", dtype="float16")
    assert keras.backend.standardize_dtype(half.dtype) == "float16"
    assert read_states(write_states(states, to="torch", dtype="bfloat16"), one)[""].dtype == "bfloat16"
    with pytest.raises(UnknownName, match="unknown dtype 'half'"):
        write_states(states, to="torch", dtype="half")


def test_a_dtype_that_the_backend_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As jax makes float32 of float64 unless it is told not to."""
    monkeypatch.setattr(ops, "convert_to_tensor", lambda value: ops.cast(value, "float32"))
    with pytest.raises(Unsupported, match="keras: float64 becomes float32 on the .* backend\n.*cast it first"):
        write_states(numbered([layer("gru")], dtype="float64"), to="keras")


# ---- states that a layer keeps


def halves(one: Layer, time: int = 20, cut: int = 8) -> tuple[np.ndarray, np.ndarray, reference.Outcome]:
    """A sequence in two parts, and what the equations give for the whole."""
    x = sequences(one.spec, batch=BATCH, time=time)
    return x[:, :cut], x[:, cut:], reference.run(one, x)


def stateful(one: Layer) -> Any:
    """A stateful Keras layer with these weights, before its first step."""
    source = convert(one, to="keras")
    kind = {"lstm": kl.LSTM, "gru": kl.GRU, "rnn": kl.SimpleRNN}[one.spec.cell]
    made = kind(one.spec.hidden_size, stateful=True, return_sequences=True)
    made.build((BATCH, None, one.spec.input_size))
    for variable, weight in zip(made.weights, source.weights, strict=False):
        variable.assign(weight)
    return made


def near(states: States, right: reference.Outcome) -> None:
    """Asserts that the states are the last ones of the equations."""
    assert np.abs(xp.host(states.h[0]) - right.h).max() <= WITHIN
    assert right.c is None or np.abs(xp.host(states.c[0]) - right.c).max() <= WITHIN


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_stateful_layer_in_mid_stream_goes_on_in_torch_and_onnx_and_back(cell: str) -> None:
    one = layer(cell, bias="dual" if cell == "gru" else "single")
    first, second, right = halves(one)
    source = stateful(one)
    source(first.astype("float32"))
    carried = read_states(source).in_mid_sequence()
    near(carried, reference.run(one, first))

    module = convert(one, to="torch", batch_first=True)
    with torch.no_grad():
        y, last = module(torch.from_numpy(second.astype("float32")), write_states(carried, to="torch"))
    assert np.abs(y.numpy() - right.y[:, 8:]).max() <= WITHIN
    near(read_states(last, module), right)

    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(convert(one, to="onnx", initial=True).SerializeToString())
    feeds = {"X": second.transpose(1, 0, 2).astype("float32"), **write_states(carried, to="onnx")}
    y, *last = session.run(None, feeds)
    assert np.abs(y.transpose(1, 0, 2) - right.y[:, 8:]).max() <= WITHIN
    given_out = dict(zip([each.name for each in session.get_outputs()][1:], last, strict=True))
    near(read_states(given_out, one), right)

    again = stateful(one)
    halfway = read_states(module(torch.from_numpy(first.astype("float32")))[1], module)
    write_states(halfway, into=again)
    assert np.abs(ops.convert_to_numpy(again(second.astype("float32"))) - right.y[:, 8:]).max() <= WITHIN
    near(read_states(again), right)


def test_a_stateful_layer_is_reset_and_restored() -> None:
    one = layer()
    first, second, _ = halves(one)
    source = stateful(one)
    start = ops.convert_to_numpy(source(first.astype("float32")))
    kept = read_states(source)
    whole = ops.convert_to_numpy(source(second.astype("float32")))
    assert not read_states(source).same_bits(kept), "what was read is of that moment"

    assert write_states(States.zeros(source, BATCH), into=source) is source
    reset = read_states(source)
    assert np.array_equal(ops.convert_to_numpy(source(first.astype("float32"))), start)
    source.reset_state()
    assert read_states(source).same_bits(reset), "as Keras resets it"

    write_states(kept, into=source)
    assert read_states(source).same_bits(kept)
    assert np.array_equal(ops.convert_to_numpy(source(second.astype("float32"))), whole)


def test_the_note_about_a_stateful_layer_says_who_reads_its_state() -> None:
    from lstmbridge.reading import read_all

    note = read_all(stateful(layer())).notes[-1]
    assert note.endswith("is stateful: its state of this moment is not taken along: read_states reads it")


def whole_model() -> Any:
    inputs = keras.Input(batch_shape=(BATCH, 6, 5))
    both = kl.Bidirectional(kl.GRU(7, stateful=True, return_sequences=True), name="both")(inputs)
    cells = [kl.LSTMCell(4), kl.GRUCell(6)]
    stacked = kl.RNN(cells, stateful=True, return_sequences=True, name="stacked")(both)
    return keras.Model(inputs, kl.SimpleRNN(9, name="plain")(stacked))


def test_every_kind_of_stateful_layer_in_a_model() -> None:
    model = whole_model()
    x = np.random.default_rng(0).normal(size=(BATCH, 6, 5)).astype("float32")
    model(x)
    states = read_states(model)
    assert states.labels == ("both", "stacked.l0", "stacked.l1"), "what is not stateful keeps nothing"
    both = model.get_layer("both")
    assert np.array_equal(states["both"]["forward.h"], ops.convert_to_numpy(both.forward_layer.states[0]))
    assert np.array_equal(states["both"]["reverse.h"], ops.convert_to_numpy(both.backward_layer.states[0]))
    variables = model.get_layer("stacked").states
    assert np.array_equal(states["stacked.l0"]["forward.c"], ops.convert_to_numpy(variables[0][1]))
    assert np.array_equal(states["stacked.l1"]["forward.h"], ops.convert_to_numpy(variables[1][0]))
    told = numbered([each for each in read(model) if each.path != "plain"])
    write_states(told, into=model)
    assert read_states(model).same_bits(told)
    write_states(States(told.states[:1]).cast("float64").cast("float32"), into=model)
    one = read_states(model, [each for each in read(model) if each.path == "both"])
    assert one.labels == ("both",)
    with pytest.raises(Unsupported, match="keras: plain keeps no state between calls"):
        read_states(model, [each for each in read(model) if each.path in ("both", "plain")])


def test_nothing_is_written_where_something_does_not_fit() -> None:
    model = whole_model()
    layers = [each for each in read(model) if each.path != "plain"]
    told, before = numbered(layers), read_states(model)
    with pytest.raises(LayoutError, match=r"'both': 0.forward.h has shape \(2, 7\)(.|\n)*its batch is 2, not 3"):
        write_states(States.zeros(layers, 2), into=model)
    mixed = States((told["both"], *told.cast("float64").states[1:]))
    with pytest.raises(LayoutError, match="'stacked': 0.forward.h is float64, its variable float32\n.*dtype='float32'"):
        write_states(mixed, into=model)
    assert read_states(model).same_bits(before)


def test_a_stateful_layer_that_was_not_called_has_no_state() -> None:
    never = kl.LSTM(11, stateful=True)
    never.cell.build((None, 5))
    with pytest.raises(LayoutError, match="keras LSTM 'lstm.*' has no state yet"):
        read_states(never)


# ---- handed over in mid-sequence


def single() -> tuple[Layer, ...]:
    """Two levels of one module, with one bias."""
    first = layer(path="enc")
    second = layer_of(spec(input_size=11), seed=1, path="enc", level=1, after="enc.l0")
    return first.replace(level=0), second


def apart() -> tuple[Layer, ...]:
    """The same in modules of their own."""
    first, second = single()
    return first.replace(path="a", level=None), second.replace(path="b", level=None, after="a")


FORMS_OF_A_STACK: Mapping[str, Callable[[], Any]] = {
    "torch levels": lambda: convert(single(), to="torch", stack=True),
    "torch modules": lambda: convert(apart(), to="torch"),
    "keras cells": lambda: convert(single(), to="keras", stack=True),
    "keras layers": lambda: convert(apart(), to="keras"),
    "onnx nodes": lambda: convert(apart(), to="onnx"),
    "gates": single,
}


@pytest.mark.parametrize("target", FORMS_OF_A_STACK)
@pytest.mark.parametrize("source", ["torch levels", "keras cells"])
def test_a_stack_is_handed_over_to_every_form_of_a_stack(source: str, target: str) -> None:
    check_handover(FORMS_OF_A_STACK[source](), FORMS_OF_A_STACK[target](), time=5)


def test_what_cannot_be_handed_over() -> None:
    both = layer(directions=BOTH)
    with pytest.raises(Unsupported, match="no state in mid-sequence\n.*its reverse direction begins at the end"):
        check_handover(both, both)
    with pytest.raises(Unsupported, match="no state in mid-sequence"):
        numbered(stack(directions=("reverse",))[:1]).in_mid_sequence()
    with pytest.raises(LayoutError, match="gates has 2 layers and gates has 1 layers\n.*the same layers"):
        check_handover(single(), layer())
    beside = (layer(path="a"), layer(path="b"))
    with pytest.raises(LayoutError, match="gates: b does not read a"):
        check_handover(beside, beside)


@pytest.mark.parametrize("wrong", ["c", "h", "order"])
def test_a_state_that_is_handed_over_wrongly_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last step of twenty has no step after it: every cut before shows."""
    from lstmbridge.errors import Disagreement
    from lstmbridge.testing import running

    honest, calls = running.read_states, itertools.count()

    def lossy(*given: Any, **named: Any) -> States:
        found = honest(*given, **named)
        if wrong == "order":
            if next(calls) % 2:  # a hand-over reads twice, and two exchanges are none
                return found
            return States(tuple(State.at(a, b.arrays) for a, b in zip(found, reversed(found.states), strict=True)))
        return States(tuple(
            State.at(s, {n: a * 0 if n.endswith(wrong) else a for n, a in s.arrays.items()}) for s in found
        ))  # fmt: skip

    monkeypatch.setattr(running, "read_states", lossy)
    with pytest.raises(Disagreement, match="a state handed from gates to gates after step 1 of 20"):
        check_handover(single(), single())
