"""torch: modules, cells, containers and files, against the float64 equations."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import lstmbridge  # noqa: E402
from lstmbridge import Layer, Spec, tensorfile  # noqa: E402
from lstmbridge.arrays import same_bits, to_torch  # noqa: E402
from lstmbridge.contract import ReadOptions, WriteOptions  # noqa: E402
from lstmbridge.errors import Ambiguous, BridgeError, FileError, LayoutError, Unsupported  # noqa: E402
from lstmbridge.fit import Fitted, fit, refusals  # noqa: E402
from lstmbridge.frameworks.torch import archive, files, infer, live  # noqa: E402
from lstmbridge.frameworks.torch.layout import CELL_LAYOUTS, FAITHFUL, HOLDS, LAYOUTS  # noqa: E402
from lstmbridge.frameworks.torch.modules import Bundle  # noqa: E402
from lstmbridge.notation import Layout  # noqa: E402
from lstmbridge.reading import read_all  # noqa: E402
from lstmbridge.reference import run_stack  # noqa: E402
from lstmbridge.testing import telling_layer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

B, T, I, H, P = 2, 7, 5, 11, 3  # noqa: E741
BOUND = {"float64": 1e-12, "float32": 2e-6}
LENGTHS = {"none": None, "short": [4, T], "one and none": [1, 0]}

LAYERS = {
    "lstm": lambda **kw: nn.LSTM(I, H, **kw),
    "lstm no bias": lambda **kw: nn.LSTM(I, H, bias=False, **kw),
    "lstm both": lambda **kw: nn.LSTM(I, H, bidirectional=True, batch_first=True, **kw),
    "lstm projected": lambda **kw: nn.LSTM(I, H, proj_size=P, **kw),
    "lstm projected both deep": lambda **kw: nn.LSTM(I, H, num_layers=3, proj_size=P, bidirectional=True, **kw),
    "gru": lambda **kw: nn.GRU(I, H, batch_first=True, **kw),
    "gru no bias both": lambda **kw: nn.GRU(I, H, bias=False, bidirectional=True, **kw),
    "gru both deep": lambda **kw: nn.GRU(I, H, num_layers=2, bidirectional=True, dropout=0.5, **kw),
    "rnn": lambda **kw: nn.RNN(I, H, **kw),
    "rnn relu both deep": lambda **kw: nn.RNN(I, H, num_layers=2, nonlinearity="relu", bidirectional=True, **kw),
    "lstm cell": lambda **kw: nn.LSTMCell(I, H, **kw),
    "gru cell": lambda **kw: nn.GRUCell(I, H, **kw),
    "rnn cell relu no bias": lambda **kw: nn.RNNCell(I, H, bias=False, nonlinearity="relu", **kw),
}

FAITHFUL_SPECS = {
    "hard sigmoid, single bias": Spec(
        cell="lstm", input_size=I, hidden_size=H, activations=("hard_sigmoid", "tanh", "softsign")
    ),
    "peepholes, coupled, clips": Spec(
        cell="lstm", input_size=I, hidden_size=H, bias="dual", peepholes=True, coupled=True, projection_size=P,
        clip=0.9, cell_clip=0.7, proj_clip=0.3, forget_constant=1.0, directions=("forward", "reverse"), merge="ave",
    ),
    "reset before, reverse": Spec(
        cell="gru", input_size=I, hidden_size=H, reset_after=False, directions=("reverse",), processed_order=True
    ),
    "rnn of two activations": Spec(
        cell="rnn", input_size=I, hidden_size=H, directions=("forward", "reverse"), activations=("tanh",),
        reverse_activations=("relu",), merge="mul",
    ),
}  # fmt: skip


def telling(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights of which no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = (
            0.2 if getattr(module, "mode", "") == "RNN_RELU" else 0.4
        )  # with relu, outputs grow and rounding with them
        numbers = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
        parameter.data.copy_(numbers)
    return module


def made(spec: Spec, dtype: str = "float64", seed: int = 0, **where: Any) -> Layer:
    """A layer of that Spec on numpy."""
    rng = np.random.default_rng(seed)
    weights = {name: (rng.normal(size=spec.shape(name)) * 0.4).astype(dtype) for name in spec.names()}
    return Layer(spec=spec, weights=weights, **where)


def inputs(layers: tuple[Layer, ...], seed: int = 1) -> dict[str, Any]:
    """Sequences and initial states."""
    rng = np.random.default_rng(seed)
    shape = {layer.label: len(layer.spec.directions) for layer in layers}
    return {
        "x": np.float64(rng.normal(size=(B, T, layers[0].spec.input_size)).astype("float32")),
        "h0": [rng.normal(size=(shape[each.label], B, each.spec.state_size)) for each in layers],
        "c0": [rng.normal(size=(shape[each.label], B, each.spec.hidden_size)) for each in layers],
    }


def difference(found: Any, outcomes: list[Any]) -> float:
    """The largest difference of y, h and c."""
    pairs = [(found.y, outcomes[-1].y)]
    pairs += [(h, each.h) for h, each in zip(found.h, outcomes, strict=True)]
    pairs += [(c, each.c) for c, each in zip(found.c, outcomes, strict=True) if each.c is not None]
    assert all((c is None) == (each.c is None) for c, each in zip(found.c, outcomes, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(np.asarray(a, np.float64) - b).max()) for a, b in pairs)


def worst(obj: Any, layers: tuple[Layer, ...], lengths: list[int] | None, states: bool = True) -> float:
    """How far the object is from the equations, on those layers."""
    given = inputs(layers)
    x = given.pop("x")
    given = given if states else {"h0": None, "c0": None}
    return difference(
        live.run(obj, layers, x, lengths=lengths, **given), run_stack(layers, x, lengths=lengths, **given)
    )


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(same_bits(first[name], second[name]) for name in first)


def memory(tensors: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def state(obj: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in obj.state_dict().items()}


# ---- objects


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_module_agrees_with_the_equations(name: str, lengths: str, dtype: str) -> None:
    module = telling(LAYERS[name](dtype=getattr(torch, dtype)))
    layers = lstmbridge.read(module)
    assert layers[0].dtype == dtype
    for states in (True, False):
        assert worst(module, layers, LENGTHS[lengths], states) <= BOUND[dtype]


def test_a_wrong_gate_order_is_seen() -> None:
    module = telling(nn.LSTM(I, H, dtype=torch.float64))
    [layer] = lstmbridge.read(module)
    wrong = Layout("i g f o", *((line.key, line.text) for line in LAYOUTS["lstm"].lines), directions={"forward": ""})
    mutant = layer.replace(weights=wrong.unpack(dict(module.named_parameters()), layer.spec))
    assert worst(module, (layer,), None) < 1e-12
    assert worst(module, (mutant,), None) > 1e-2


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_torch_to_torch_is_the_same_module_with_its_own_memory(name: str, dtype: str) -> None:
    module = telling(LAYERS[name](dtype=getattr(torch, dtype)))
    result = lstmbridge.convert(module, to="torch")
    assert type(result) is type(module)
    assert repr(result) == repr(module)
    assert equal_states(result, module)
    assert not memory(result.parameters()) & memory(module.parameters())
    with torch.no_grad():
        x = (
            torch.randn(B, I, dtype=module.weight_ih.dtype)
            if "cell" in name
            else torch.randn(T, B, I).to(module.weight_ih_l0.dtype)
        )
        assert torch.equal(_first(result.eval()(x)), _first(module.eval()(x)))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def test_weights_are_views_and_edit_writes_in_place() -> None:
    module = nn.Sequential(nn.Linear(2, 2), telling(nn.LSTM(I, H, num_layers=2, bidirectional=True)))
    layers = lstmbridge.read(module)
    assert memory(layers[1].weights.values()) <= memory(module[1].parameters())
    kept = copy.deepcopy(module[1])
    with lstmbridge.edit(module, "1.l1") as gates:
        gates["reverse.bias.f"][:] = 5
    assert module[1].bias_ih_l1_reverse[H : 2 * H].eq(5).all()
    kept.bias_ih_l1_reverse.data[H : 2 * H] = 5
    assert equal_states(kept, module[1])


def test_edit_of_a_cell_and_all_or_nothing() -> None:
    cell = telling(nn.GRUCell(I, H))
    before = copy.deepcopy(cell)
    [layer] = lstmbridge.read(cell)
    good = layer.replace(weights={name: array + 1 for name, array in layer.weights.items()})
    with pytest.raises(LayoutError, match="no recurrent module at 'other'"):
        live.assign(cell, [good, good.replace(path="other")])
    assert equal_states(before, cell)
    other = made(Spec(cell="gru", input_size=I, hidden_size=H + 1, bias="dual"))
    with pytest.raises(LayoutError, match=r"cannot take .*gru 5 -> 12"):
        live.assign(cell, [good, other])
    assert equal_states(before, cell)
    live.assign(cell, [good])
    assert torch.equal(cell.bias_hh, before.bias_hh + 1)


def test_assign_takes_numpy_weights_of_another_dtype() -> None:
    module = telling(nn.RNN(I, H, bidirectional=True))
    [layer] = lstmbridge.read(module)
    host = made(layer.spec, "float64", seed=9)
    address = module.weight_hh_l0.data_ptr()
    live.assign(module, [host])
    assert module.weight_hh_l0.data_ptr() == address
    assert same_bits(module.weight_hh_l0, host["forward.recurrent_kernel.n"].astype("float32"))


def test_a_model_at_any_depth_a_shared_module_once_and_what_is_left_alone() -> None:
    model = nn.Module()
    model.encoder = nn.ModuleDict({"rnn": nn.LSTM(I, H, num_layers=2), "norm": nn.BatchNorm1d(3)})
    model.again = model.encoder["rnn"]
    model.head = nn.Linear(4, 4)
    model.cell = nn.RNNCell(2, 3)
    reading = read_all(model)
    assert [layer.label for layer in reading.layers] == ["encoder.rnn.l0", "encoder.rnn.l1", "cell"]
    assert [layer.after for layer in reading.layers] == [None, "encoder.rnn.l0", None]
    assert set(reading.left_alone) == {
        "encoder.norm.weight", "encoder.norm.bias", "encoder.norm.running_mean", "encoder.norm.running_var",
        "encoder.norm.num_batches_tracked", "head.weight", "head.bias",
    }  # fmt: skip
    assert reading.layers[0].metadata["config"]["num_layers"] == 2
    [only] = lstmbridge.read(model, only=("cell",))
    assert only.path == "cell"


def test_parameters_that_a_derived_class_adds_are_left_alone_and_its_forward_is_noted() -> None:
    class Mine(nn.GRU):
        def __init__(self) -> None:
            super().__init__(I, H)
            self.first_state = nn.Parameter(torch.zeros(H))

        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return super().forward(x * 2)

    reading = read_all(Mine())
    assert reading.left_alone == ("first_state",)
    assert "has a forward of its own" in reading.notes[0]


def test_scripted_modules_are_read_and_traced_ones_refused() -> None:
    model = nn.ModuleList([telling(nn.LSTM(I, H, batch_first=True, num_layers=2)), nn.RNN(I, H, nonlinearity="relu")])
    plain = lstmbridge.read(model)
    scripted = lstmbridge.read(nn.ModuleList([_scripted(each) for each in model]))
    assert [each.spec for each in scripted] == [each.spec for each in plain]
    assert scripted[0].metadata["batch_first"]
    assert all(same_bits(a[name], b[name]) for a, b in zip(scripted, plain, strict=True) for name in a)
    assert worst(_scripted(model[0]), tuple(each.replace(path="") for each in scripted[:2]), [3, 7]) < 2e-6
    with _no_warnings():
        traced = torch.jit.trace(model[1], torch.zeros(T, B, I))
    with pytest.raises(Unsupported, match="is compiled"):
        lstmbridge.read(traced)


def _no_warnings() -> Any:
    import warnings

    return warnings.catch_warnings(action="ignore")


def _scripted(module: nn.Module) -> Any:
    with _no_warnings():
        return torch.jit.script(module)


def test_what_torch_cannot_read_is_refused_with_the_way_out() -> None:
    from torch.nn.utils import parametrizations, prune

    normed = parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")
    pruned = prune.random_unstructured(nn.GRU(I, H), "weight_ih_l0", 0.5)
    for module in (normed, pruned):
        with pytest.raises(Unsupported, match="is computed from other parameters"):
            lstmbridge.read(nn.Sequential(module))
    with _no_warnings():
        quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(I, H)), {nn.LSTM})
    with pytest.raises(Unsupported, match=r"torch LSTM '0' is quantised"):
        lstmbridge.read(quantised)
    with pytest.raises(LayoutError, match="meta device"):
        lstmbridge.read(nn.LSTM(I, H, device="meta"))
    lazy = nn.LSTM(I, H)
    lazy.weight_ih_l0 = nn.UninitializedParameter()
    with pytest.raises(LayoutError, match="not initialised: call the module once"):
        lstmbridge.read(lazy)
    with pytest.raises(Unsupported, match=r"torch.Tensor.*\n.*expected an nn.Module"):
        lstmbridge.read(torch.zeros(3))

    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight_ih_l0 = nn.Parameter(torch.zeros(4, 4))
            self.weight_hh_l0 = nn.Parameter(torch.zeros(4, 1))

    model = nn.ModuleDict({"own": Custom(), "rnn": nn.RNN(I, H)})
    with pytest.raises(Unsupported, match=r"'own': weights named as a recurrent layer's"):
        lstmbridge.read(model)
    assert len(lstmbridge.read(model, only=("rnn",))) == 1


# ---- what is built


SMALL = Spec(cell="gru", input_size=2, hidden_size=3, bias="dual")


def stacked(*specs: Spec, levels: bool, dtypes: tuple[str, ...] = ("float64",) * 3) -> list[Fitted]:
    """A chain of layers: levels of one path, or modules of their own."""
    layers: list[Layer] = []
    for n, spec in enumerate(specs):
        where = {"path": "a.rnn", "level": n} if levels else {"path": f"a{n}.rnn"}
        layers.append(made(spec, dtypes[n], n, after=layers[-1].label if layers else None, **where))
    return [fit(layer, HOLDS) for layer in layers]


def test_levels_of_one_path_become_one_module() -> None:
    both = SMALL.replace(directions=("forward", "reverse"))
    targets = stacked(both, both.replace(input_size=6), both.replace(input_size=6), levels=True)
    module = live.build(targets, WriteOptions(batch_first=True))
    assert isinstance(module, nn.GRU)
    assert (module.num_layers, module.batch_first, module.bidirectional) == (3, True, True)
    assert worst(module, lstmbridge.read(module), [3, 7]) < 1e-12


@pytest.mark.parametrize("levels", [True, False])
def test_a_chain_of_different_sizes_runs_one_after_another(levels: bool) -> None:
    targets = stacked(SMALL, Spec(cell="lstm", input_size=3, hidden_size=5, bias="dual"), levels=levels)
    bundle = live.build(targets, WriteOptions(batch_first=True))
    prefixes = ["a.rnn.0.", "a.rnn.1."] if levels else ["a0.rnn.", "a1.rnn."]
    assert [name for name in bundle.state_dict() if name.endswith("bias_ih_l0")] == [p + "bias_ih_l0" for p in prefixes]
    layers = lstmbridge.read(bundle)
    assert layers[1].after == layers[0].label
    given = inputs((layers[0],))
    y, states = bundle(torch.tensor(given["x"]))
    outcomes = run_stack([target.layer for target in targets], given["x"])
    assert np.abs(y.detach().numpy() - outcomes[-1].y).max() < 1e-12
    assert np.abs(states[0].detach().numpy() - outcomes[0].h).max() < 1e-12
    assert np.abs(states[1][1].detach().numpy() - outcomes[1].c).max() < 1e-12
    again = lstmbridge.convert(bundle, to="torch")
    assert equal_states(again, bundle)
    assert again.chained
    y_again, _ = again(torch.tensor(given["x"]), [None, states[1]])
    assert y_again.shape == y.shape
    with pytest.raises(LayoutError, match="1 initial states"):
        bundle(torch.tensor(given["x"]), [None])


def test_a_bundle_is_read_in_its_own_order() -> None:
    layers = [
        made(SMALL, path="a.one"),
        made(SMALL.replace(input_size=3), seed=1, path="b.two", after="a.one"),
        made(SMALL.replace(input_size=3), seed=2, path="a.three", after="b.two"),
    ]
    bundle = lstmbridge.write(layers, to="torch")
    found = lstmbridge.read(nn.ModuleDict({"inner": bundle, "other": nn.RNN(2, 2)}))
    assert [each.path for each in found] == ["inner.a.one", "inner.b.two", "inner.a.three", "other"]
    assert [each.after for each in found] == [None, "inner.a.one", "inner.b.two", None]


def test_levels_of_different_dtype_or_bias_do_not_share_a_module() -> None:
    wide = SMALL.replace(input_size=3)
    assert isinstance(live.build(stacked(SMALL, wide, levels=True), WriteOptions()), nn.GRU)
    mixed = stacked(SMALL, wide, levels=True, dtypes=("float32", "float64"))
    assert isinstance(live.build(mixed, WriteOptions()), Bundle)
    bias = stacked(SMALL.replace(bias="none"), wide, levels=True)
    assert isinstance(live.build(bias, WriteOptions()), Bundle)


def test_independent_layers_sit_side_by_side_and_refuse_to_be_called() -> None:
    model = nn.ModuleDict({"enc": nn.ModuleDict({"rnn": nn.LSTM(I, H)}), "cell": nn.GRUCell(I, H)})
    bundle = lstmbridge.convert(model, to="torch")
    assert equal_states(bundle, model)
    assert isinstance(bundle.get_submodule("cell"), nn.GRUCell)
    with pytest.raises(Unsupported, match=r"enc.rnn, cell are independent"):
        bundle(torch.zeros(T, B, I))


def test_names_that_torch_has_no_place_for() -> None:
    with pytest.raises(LayoutError, match=r"no module can be named 'forward'"):
        lstmbridge.write([made(SMALL, path="forward"), made(SMALL, path="b")], to="torch")
    with pytest.raises(LayoutError, match=r"named ''\n.*rename="):
        live.build([fit(made(SMALL), HOLDS), fit(made(SMALL, path="b"), HOLDS)], WriteOptions())
    with pytest.raises(LayoutError, match="no layers to build"):
        live.build([], WriteOptions())


def test_batch_first_from_the_option_else_the_source_else_torchs_default() -> None:
    assert not lstmbridge.write(made(SMALL), to="torch").batch_first
    assert lstmbridge.write(made(SMALL, metadata={"batch_first": True}), to="torch").batch_first
    assert not lstmbridge.convert(nn.GRU(I, H, batch_first=True), to="torch", batch_first=False).batch_first


def test_what_no_stock_module_holds_is_refused_by_name() -> None:
    base = Spec(cell="lstm", input_size=I, hidden_size=H)
    reasons = {
        "peepholes": base.replace(peepholes=True),
        "gate activation hard_sigmoid(0.2, 0.5)": base.replace(activations=("hard_sigmoid", "tanh", "tanh")),
        "a GRU with reset_after=False": Spec(cell="gru", input_size=I, hidden_size=H, reset_after=False),
        "(it must be smaller)": base.replace(projection_size=H),
        "outputs merged by sum": base.replace(directions=("forward", "reverse"), merge="sum"),
        "outputs of a reverse layer in forward time": base.replace(directions=("reverse",)),
        "outputs as processed": base.replace(directions=("reverse",), processed_order=True),
    }
    for words, spec in reasons.items():
        assert words in " ".join(refusal.text for refusal in refusals(spec, HOLDS))
        assert not refusals(spec, FAITHFUL)
        with pytest.raises(Unsupported, match="torch cannot express"):
            lstmbridge.write(made(spec), to="torch")
    assert not refusals(base.replace(directions=("forward", "reverse"), merge="none"), HOLDS)


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_weights_in_any_memory_order(order: str) -> None:
    spec = SMALL.replace(directions=("forward", "reverse"))
    plain = made(spec, "float32")
    ways = {"C": np.ascontiguousarray, "F": np.asfortranarray, "strided": lambda a: np.repeat(a, 2, axis=0)[::2]}
    odd = plain.replace(weights={name: ways[order](array) for name, array in plain.weights.items()})
    expected = lstmbridge.write(plain, to="torch")
    assert equal_states(lstmbridge.write(odd, to="torch"), expected)
    tensors = odd.replace(weights={name: torch.tensor(a.T).T for name, a in plain.weights.items() if a.ndim == 2} | {
        name: torch.tensor(array) for name, array in plain.weights.items() if array.ndim == 1
    })  # fmt: skip
    assert equal_states(lstmbridge.write(tensors, to="torch"), expected)


def test_a_parameter_that_is_not_contiguous_is_read_as_a_view() -> None:
    module = telling(nn.RNN(I, H))
    module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.detach().t().contiguous().t())
    [layer] = lstmbridge.read(module)
    assert memory([layer["forward.kernel.n"]]) == memory([module.weight_ih_l0])
    assert equal_states(lstmbridge.convert(module, to="torch"), module)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_never_alias_numpy_weights(dtype: str) -> None:
    spec = Spec(cell="rnn", input_size=I, hidden_size=H, bias="dual")
    layer = made(spec, "float32")
    layer = layer.replace(weights={n: a.astype(tensorfile.numpy_dtype(dtype)) for n, a in layer.weights.items()})
    module = lstmbridge.write(layer, to="torch")
    assert str(module.weight_ih_l0.dtype) == f"torch.{dtype}"
    before = module.weight_ih_l0.detach().clone()
    layer["forward.kernel.n"][...] = 0
    assert torch.equal(module.weight_ih_l0, before)
    assert before.ne(0).all()


def test_the_built_module_can_be_trained_and_scripted() -> None:
    module = lstmbridge.write(made(Spec(cell="lstm", input_size=I, hidden_size=H, bias="dual"), "float32"), to="torch")
    y, _ = module(torch.randn(T, B, I))
    y.sum().backward()
    assert all(parameter.grad is not None and parameter.is_leaf for parameter in module.parameters())
    assert torch.equal(_scripted(module).forward__0(torch.ones(T, B, I))[0], module(torch.ones(T, B, I))[0])


# ---- our own module


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", FAITHFUL_SPECS)
def test_a_faithful_module_through_object_and_file(name: str, suffix: str, tmp_path: Path) -> None:
    layer = made(FAITHFUL_SPECS[name], path="enc.rnn")
    module = lstmbridge.write(layer, to="torch", faithful=True, batch_first=True)
    assert type(module).__name__ == "Recurrent"
    [back] = lstmbridge.read(module)
    assert back.spec == layer.spec
    assert back.metadata["batch_first"]
    assert all(same_bits(back[n], layer[n]) for n in layer)
    for lengths in (None, [4, T], [1, 0]):
        assert worst(module, (back,), lengths) < 1e-12
    path = tmp_path / f"a{suffix}"
    lstmbridge.write(layer, path=path, faithful=True, batch_first=True)
    whole = live.load(path, ReadOptions())
    whole.load_state_dict(_load(path), strict=True)
    [found] = lstmbridge.read(path)
    assert found.spec == layer.spec
    assert all(same_bits(found[n], layer[n]) for n in layer)
    assert equal_states(whole.get_submodule("enc.rnn"), module)


def test_a_chain_of_stock_and_faithful_modules() -> None:
    first = made(Spec(cell="lstm", input_size=I, hidden_size=H, bias="dual"), path="a")
    second = made(Spec(cell="gru", input_size=H, hidden_size=P, reset_after=False), path="b", after="a")
    bundle = lstmbridge.write([first, second], to="torch", faithful=True, batch_first=True)
    x = np.random.default_rng(0).normal(size=(B, T, I))
    y, _ = bundle(torch.tensor(x))
    assert np.abs(y.detach().numpy() - run_stack([first, second], x)[-1].y).max() < 1e-12


# ---- files


def _load(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return torch.load(path, weights_only=True)
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("name", LAYERS)
def test_files_load_strictly_and_lead_back_bit_for_bit(name: str, suffix: str, dtype: str, tmp_path: Path) -> None:
    module = telling(LAYERS[name](dtype=getattr(torch, dtype)))
    path = tmp_path / f"a{suffix}"
    lstmbridge.convert(module, path=path)
    found = _load(path)
    assert type(found) is dict
    fresh = LAYERS[name](dtype=getattr(torch, dtype))
    fresh.load_state_dict(found, strict=True)
    assert equal_states(fresh, module)
    asked = {"nonlinearity": "relu" if "relu" in name else "tanh"} if suffix != ".safetensors" else {}
    layers = lstmbridge.read(path, **asked)
    for layer, source in zip(layers, lstmbridge.read(module), strict=True):
        assert (layer.spec, layer.level, layer.after) == (source.spec, source.level, source.after)
        assert all(isinstance(layer[n], np.ndarray) and same_bits(layer[n], source[n]) for n in source)
    loaded = live.load(path, ReadOptions(**asked))
    assert type(loaded) is type(module)
    assert equal_states(loaded, module)
    if suffix == ".safetensors" and "cell" not in name:
        assert loaded.batch_first == module.batch_first


def test_a_whole_model_in_a_file(tmp_path: Path) -> None:
    model = nn.ModuleDict({"enc": nn.ModuleDict({"rnn": nn.GRU(I, H, 2, bidirectional=True)}), "out": nn.Linear(3, 3),
                           "cell": nn.LSTMCell(I, H)})  # fmt: skip
    telling(model)
    torch.save({"epoch": 3, "model": model.state_dict(), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
               tmp_path / "a.pt")  # fmt: skip
    reading = read_all(tmp_path / "a.pt")
    assert [layer.label for layer in reading.layers] == ["enc.rnn.l0", "enc.rnn.l1", "cell"]
    assert reading.left_alone == ("out.weight", "out.bias")
    assert reading.notes == ("read from the entry 'model'; not read: epoch, optimizer",)
    assert reading.layers[2].metadata["class"] == "torch.nn.LSTMCell"
    lstmbridge.convert(tmp_path / "a.pt", path=tmp_path / "b.safetensors")
    result = _load(tmp_path / "b.safetensors")
    assert set(result) == {name for name in model.state_dict() if not name.startswith("out")}
    bundle = live.load(tmp_path / "b.safetensors", ReadOptions())
    bundle.load_state_dict(result, strict=True)
    [cell] = lstmbridge.read(tmp_path / "a.pt", only=("cell",))
    assert cell.path == "cell"
    for source in (tmp_path / "a.pt", model):
        level = read_all(source, only=("enc.rnn.l1",))
        assert [each.label for each in level.layers] == ["enc.rnn.l1"]
        assert "enc.rnn.weight_ih_l0" in level.left_alone
        assert "enc.rnn.weight_ih_l1" not in level.left_alone


def test_a_checkpoint_of_the_old_format(tmp_path: Path) -> None:
    module = telling(nn.LSTM(I, H))
    torch.save(module.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    [layer] = lstmbridge.read(tmp_path / "a.pt")
    assert same_bits(layer["forward.bias.f"], module.bias_ih_l0[H : 2 * H])


def test_one_layer_stands_under_its_path_in_its_file(tmp_path: Path) -> None:
    layer = made(SMALL, path="encoder.rnn", metadata={"framework": "keras", "batch_first": True})
    lstmbridge.write(layer, path=tmp_path / "a.safetensors")
    arrays, metadata = tensorfile.load(tmp_path / "a.safetensors")
    own = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    assert set(arrays) == {f"encoder.rnn.{name}" for name in own}
    assert metadata["format"] == "pt"
    [back] = lstmbridge.read(tmp_path / "a.safetensors")
    assert (back.path, back.metadata["batch_first"]) == ("encoder.rnn", True)
    lstmbridge.write(layer.replace(path=""), path=tmp_path / "b.safetensors")
    assert set(tensorfile.load(tmp_path / "b.safetensors")[0]) == own, "a layer without a path has bare names"


def infer_from(arrays: dict[str, Any], **options: Any) -> tuple[Layer, ...]:
    return infer.read(arrays, ReadOptions(**options), who="a.safetensors").layers


def test_a_vanilla_rnn_must_be_told_apart() -> None:
    arrays = state(nn.RNN(I, H))
    with pytest.raises(Ambiguous, match=r"vanilla RNN.*\n.*--nonlinearity"):
        infer_from(arrays)
    assert infer_from(arrays, nonlinearity="relu")[0].spec.activation("candidate").name == "relu"
    with pytest.raises(BridgeError, match=r"unknown nonlinearity 'rellu'\n.*'relu'"):
        infer_from(arrays, nonlinearity="rellu")
    assert infer_from(state(nn.LSTM(I, H)), batch_first=True)[0].metadata["batch_first"]


def without(*names: str) -> Any:
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def changed(**new: Any) -> Any:
    return lambda arrays: {name: new[name](array) if name in new else array for name, array in arrays.items()}


def renamed(old: str, new: str) -> Any:
    return lambda arrays: {name.replace(old, new): array for name, array in arrays.items()}


BAD = {
    "no weight_hh": (nn.LSTM(I, H), without("weight_hh_l0"), r"no weight_hh of the forward direction"),
    "no weight_ih": (nn.LSTM(I, H), without("weight_ih_l0"), r"no weight_ih of the forward direction"),
    "one bias": (nn.GRU(I, H), without("bias_hh_l0"), r"missing: bias_hh_l0"),
    "no reverse bias": (
        nn.GRU(I, H, bidirectional=True),
        without("bias_ih_l0_reverse"),
        r"missing: bias_ih_l0_reverse",
    ),
    "no forward": (
        nn.RNN(I, H, bidirectional=True),
        without("weight_hh_l0", "weight_ih_l0", "bias_hh_l0", "bias_ih_l0"),
        r"no weight_hh of the forward direction",
    ),
    "a gap": (
        nn.LSTM(I, H, 3),
        without(*(n for n, _ in nn.LSTM(I, H, 3).named_parameters() if "l1" in n)),
        "levels 0, 2",
    ),
    "no level 0": (nn.GRU(I, H), renamed("_l0", "_l1"), "levels 1\n"),
    "a level without reverse": (
        nn.LSTM(I, H, 2, bidirectional=True),
        without(*(n for n, _ in nn.LSTM(I, H, 2, bidirectional=True).named_parameters() if n.endswith("l1_reverse"))),
        "expected the like of level 0",
    ),
    "four gates for three": (
        nn.GRU(I, H),
        changed(weight_ih_l0=lambda a: np.concatenate([a, a[:H]])),
        "44 = 4 x 11: four gates; is this an LSTM",
    ),
    "transposed input": (
        nn.GRU(I, H),
        changed(weight_ih_l0=lambda a: a.T),
        r"weight_ih_l0 has shape \(5, 33\)\n.*\n.*tran",
    ),
    "transposed state": (nn.LSTM(I, H), changed(weight_hh_l0=lambda a: a.T), r"its transpose"),
    "no projection": (nn.LSTM(I, H, proj_size=P), without("weight_hr_l0"), r"and weight_hr missing\?"),
    "a GRU's projection": (
        nn.GRU(I, H),
        lambda a: {**a, "weight_hr_l0": np.zeros((P, H))},
        r"with weight_hr this is an LSTM",
    ),
    "five gates": (
        nn.LSTM(I, H),
        changed(weight_hh_l0=lambda a: np.zeros((5 * H, H))),
        r"expected 4 x h \(lstm\) or 3 x h",
    ),
    "no inputs": (nn.LSTM(I, H), changed(weight_ih_l0=lambda a: a[:, :0]), "input_size is 0"),
    "no units": (nn.LSTM(I, H), changed(weight_hh_l0=lambda a: a[:0, :0]), r"weight_hh has shape \(0, 0\)"),
    "a vector": (nn.LSTM(I, H), changed(weight_hh_l0=np.ravel), "expected a matrix"),
    "next level too wide": (
        nn.GRU(I, H, 2),
        changed(weight_ih_l1=lambda a: np.ones((33, 12), a.dtype)),
        "level 1 reads 12 features",
    ),
    "weight norm": (nn.LSTM(I, H), renamed("weight_hh_l0", "weight_hh_l0_v"), "looks like a recurrent weight"),
    "parametrised": (
        nn.LSTM(I, H),
        renamed("weight_hh_l0", "parametrizations.weight_hh_l0.original0"),
        "looks like a recurrent weight",
    ),
    "a level without a number": (
        nn.LSTM(I, H),
        renamed("weight_hh_l0", "weight_hh_l"),
        "looks like a recurrent weight|no weight_hh",
    ),
    "cell and layer": (nn.LSTM(I, H), renamed("weight_hh_l0", "weight_hh"), "names of a cell and of a layer"),
    "cell of two directions": (nn.LSTMCell(I, H), renamed("_hh", "_hh_reverse"), "looks like|no weight_hh"),
    "peepholes": (nn.LSTM(I, H), lambda a: {**a, "peephole_l0": np.zeros(3 * H)}, "too many: peephole_l0"),
    "integers": (nn.LSTM(I, H), lambda a: {n: v.astype("int8") for n, v in a.items()}, "dtype int8"),
    "two dtypes": (nn.LSTM(I, H), changed(weight_hh_l0=lambda a: a.astype("float16")), "expected one dtype"),
}


@pytest.mark.parametrize("case", BAD)
def test_names_and_shapes_that_are_not_understood(case: str) -> None:
    module, spoil, words = BAD[case]
    arrays = {f"enc.rnn.{name}": array for name, array in spoil(state(module)).items()} | {
        "out.weight": np.zeros((2, 2))
    }
    with pytest.raises(LayoutError, match=words) as caught:
        infer_from(arrays, nonlinearity="tanh")
    assert "enc.rnn" in str(caught.value)
    assert infer_from(arrays | {"ok.weight_ih": np.ones((8, 3)), "ok.weight_hh": np.ones((8, 2))}, only=("ok",))


def test_cells_of_a_file_are_known_by_their_names() -> None:
    [layer] = infer_from({f"c.{name}": array for name, array in state(nn.GRUCell(I, H)).items()})
    assert layer.metadata["class"] == "torch.nn.GRUCell"
    assert isinstance(lstmbridge.write(layer, to="torch"), nn.GRUCell)
    assert CELL_LAYOUTS["gru"].keys(layer.spec) == ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def test_metadata_that_contradicts_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    lstmbridge.convert(telling(nn.RNN(I, H)), path=path)
    arrays, metadata = tensorfile.load(path)
    arrays = {name: np.array(array) for name, array in arrays.items()}

    def reread(changed: dict[str, Any], text: str | None = None) -> None:
        told = {infer.MARK: metadata[infer.MARK] if text is None else text}
        tensorfile.save(changed, path, metadata=told)
        lstmbridge.read(path)

    with pytest.raises(LayoutError, match=r"against its metadata.*weight_hh_l0 has shape \(12, 12\)"):
        reread(arrays | {"weight_hh_l0": np.ones((12, 12), "float32")})
    with pytest.raises(LayoutError, match="missing: bias_hh_l0"):
        reread({name: array for name, array in arrays.items() if name != "bias_hh_l0"})
    with pytest.raises(LayoutError, match=r"does not know\n.*rnn.weight_ih_l0"):
        reread(arrays | {"rnn.weight_ih_l0": np.ones((2, 2), "float32")})
    for text in ("{", "[3]", "[{}]", json.dumps([{"spec": {"cell": "ltsm"}}])):
        with pytest.raises(FileError, match="not what lstmbridge writes"):
            reread(arrays, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "foreign.safetensors").write_bytes(b"not a file of tensors at all")
    (tmp_path / "foreign.pt").write_bytes(b"not a file of tensors at all")
    for suffix in ("safetensors", "pt"):
        lstmbridge.convert(nn.LSTM(I, H), path=tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"short.{suffix}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        (tmp_path / f"folder.{suffix}").mkdir()
        for name in ("foreign", "short", "empty", "folder", "nowhere"):
            path = tmp_path / f"{name}.{suffix}"
            with pytest.raises(FileError, match=name):
                files.read(path, ReadOptions())
            with pytest.raises(FileError, match=name):
                lstmbridge.read(path)


def test_a_pickle_with_anything_but_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    cases = {
        "holds something else than tensors.*\n.*Pickled": {"rnn": Pickled()},
        "holds a tensor": torch.zeros(3),
        "no state dict": {"epoch": 3},
        r"several state dicts.*\n.*a, b": {"a": nn.GRU(I, H).state_dict(), "b": nn.GRU(I, H).state_dict()},
    }
    for words, content in cases.items():
        torch.save(content, path)
        with pytest.raises(Ambiguous if "several" in words else FileError, match=words):
            files.read(path, ReadOptions())


class Pickled:
    """Something that is not a tensor."""


def test_tensors_that_are_not_plain(tmp_path: Path) -> None:
    weights = nn.LSTM(I, H).state_dict()
    with _no_warnings():
        weights["weight_hh_l0"] = weights["weight_hh_l0"].to_sparse()
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(LayoutError, match=r"weight_hh_l0 is not a plain tensor.*\n.*sparse"):
        lstmbridge.read(tmp_path / "a.pt")
    floats = {"out.weight": torch.zeros(3, dtype=torch.float8_e4m3fn), **nn.LSTM(I, H).state_dict()}
    torch.save(floats, tmp_path / "a.pt")
    assert read_all(tmp_path / "a.pt").left_alone == ("out.weight",)


def test_every_dtype_through_our_archive_and_torchs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    arrays = {name: (rng.normal(size=(3, 5)) * 9).astype(tensorfile.numpy_dtype(name)) for name in dtypes}
    arrays |= {"scalar": np.array(3.5), "empty": np.zeros((0, 4)), "of columns": np.asfortranarray(arrays["float32"])}
    archive.save(arrays, tmp_path / "ours.pt")
    for mapped in (False, True):
        found = torch.load(tmp_path / "ours.pt", weights_only=True, mmap=mapped)
        assert list(found) == list(arrays)
        assert all(same_bits(found[name], array) for name, array in arrays.items())
        assert found["float64"].data_ptr() % 8 == 0
    base = torch.arange(40.0)
    odd = {"part": base[7:19].view(3, 4).t(), "same memory": base[7:], "parameter": nn.Parameter(base[:3]),
           "sixteen": torch.tensor([1, 65535], dtype=torch.uint16)}  # fmt: skip
    for new in (True, False):
        torch.save({**found, **odd}, tmp_path / "theirs.pt", _use_new_zipfile_serialization=new)
        back = archive.load(tmp_path / "theirs.pt")
        assert all(same_bits(back[name], tensor) for name, tensor in {**found, **odd}.items())
        assert not any(array.flags.writeable for array in back.values())


def repacked(source: Path, target: Path, replace: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            key = name.partition("/")[2]
            new.writestr(name, replace.get(key, old.read(name)))


def test_archives_of_other_machines_and_packers(tmp_path: Path) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    archive.save({"a": array}, tmp_path / "a.pt")
    repacked(tmp_path / "a.pt", tmp_path / "small.pt", {}, zipfile.ZIP_DEFLATED)
    assert same_bits(archive.load(tmp_path / "small.pt")["a"], array)
    repacked(tmp_path / "a.pt", tmp_path / "big.pt", {"byteorder": b"big", "data/0": array.astype(">f4").tobytes()})
    assert same_bits(archive.load(tmp_path / "big.pt")["a"], array)
    assert torch.equal(torch.load(tmp_path / "big.pt", weights_only=True)["a"], torch.tensor(array))
    repacked(tmp_path / "a.pt", tmp_path / "short.pt", {"data/0": b"1234"})
    with pytest.raises(FileError, match="not a readable file"):
        archive.load(tmp_path / "short.pt")


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    archive.save({"a": np.zeros(3)}, tmp_path / "a.pt")
    for name in ("os\nsystem", "builtins\neval", "torch\nload", "torch._utils\n_rebuild_tensor_v2"):
        evil = f"c{name}\n(S'echo > {tmp_path}/ran'\ntR.".encode()
        repacked(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": evil})
        with pytest.raises(FileError, match=r"b\.pt"):
            files.read(tmp_path / "b.pt", ReadOptions())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_archive_gives_our_error_or_a_reading(new: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.RNN(2, 3).state_dict(), path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(len(damaged), size=3) if damaged else ():
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            files.read(path, ReadOptions(nonlinearity="tanh"))
        except BridgeError:
            refused += 1
    assert refused > 40


PROGRAM = """
import resource, sys
import numpy as np
import lstmbridge
from lstmbridge import Layer, Spec, tensorfile
from lstmbridge.frameworks.torch import files
import safetensors, mmap
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
lstmbridge.convert(sys.argv[1], path=sys.argv[2])
after = peak()
assert not {"torch", "tensorflow", "keras", "jax"} & set(sys.modules), sorted(sys.modules)
print(after - before)
"""


@pytest.mark.parametrize(
    "suffixes", [(".safetensors", ".safetensors"), (".safetensors", ".pt"), (".pt", ".safetensors")]
)
def test_file_to_file_needs_no_torch_and_twice_the_weights(suffixes: tuple[str, str], tmp_path: Path) -> None:
    source, target = tmp_path / f"a{suffixes[0]}", tmp_path / f"b{suffixes[1]}"
    spec = Spec(cell="lstm", input_size=2047, hidden_size=1024, bias="dual", directions=("forward", "reverse"))
    arrays = {name: np.full(shape, 0.5, "float32") for name, shape in LAYOUTS["lstm"].shapes(spec).items()}
    (tensorfile if source.suffix == ".safetensors" else archive).save(arrays, source)
    weights = sum(array.nbytes for array in arrays.values()) / 2**20
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, target], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert weights > 90
    assert float(result.stdout) <= 2 * weights + 32
    assert _load(target).keys() == arrays.keys()


def test_numbers_move_as_they_are(tmp_path: Path) -> None:
    module = telling(nn.GRU(I, H))
    strange = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    module.bias_hh_l0.data[:4] = strange
    for suffix in (".safetensors", ".pt"):
        lstmbridge.convert(module, path=tmp_path / f"a{suffix}")
        assert equal_states(lstmbridge.convert(tmp_path / f"a{suffix}", to="torch"), module)


def test_weights_of_the_other_byte_order(tmp_path: Path) -> None:
    layer = made(SMALL, ">f4")
    for result in (lstmbridge.write(layer, to="torch"), live.load(
        lstmbridge.write(layer, path=tmp_path / "a.pt"), ReadOptions()
    )):  # fmt: skip
        assert np.array_equal(result.bias_ih_l0[:3].detach().numpy(), layer["forward.bias.r"])


# ---- through the pipeline


@pytest.mark.parametrize("name", LAYERS)
def test_there_and_back_with_the_remainder(name: str) -> None:
    module = telling(LAYERS[name]())
    there = lstmbridge.migrate(module, to="gates")
    back = lstmbridge.migrate(there.result, to="torch", remainder=there.remainder).result
    assert repr(back) == repr(module)
    assert equal_states(back, module)


def test_stacking_when_asked() -> None:
    layers = [made(SMALL, path="a"), made(SMALL.replace(input_size=3), seed=1, path="b", after="a")]
    assert isinstance(lstmbridge.write(layers, to="torch"), Bundle)
    module = lstmbridge.write(layers, to="torch", stack=True)
    assert isinstance(module, nn.GRU)
    assert module.num_layers == 2


def test_a_torch_tensor_stays_a_torch_tensor() -> None:
    tensor = torch.ones(2)
    assert to_torch(tensor) is tensor


def _pickled(path: Path, body: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
    return path


def test_a_pickle_cannot_ask_for_memory_or_change_this_process(tmp_path: Path) -> None:
    with pytest.raises(FileError):  # a memo index of a thousand million
        lstmbridge.read(_pickled(tmp_path / "memo.pt", b"\x80\x02Nr\xff\xff\xff\x3f."))
    poison = b"\x80\x02ctorch.serialization\n_get_layout\n(N}X\x08\x00\x00\x00__init__ccollections\nOrderedDict\nstb."
    with pytest.raises(FileError, match="sets attributes"):
        lstmbridge.read(_pickled(tmp_path / "poison.pt", poison))
    good = lstmbridge.write(made(SMALL), path=tmp_path / "good.pt")
    assert len(lstmbridge.read(good)) == 1


def test_an_expanded_tensor_is_not_expanded(tmp_path: Path) -> None:
    one = torch.zeros(1)
    wide = {"weight_ih_l0": one.expand(440_000, 1_000_000), "weight_hh_l0": one.expand(440_000, 110_000)}
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(BridgeError):
        lstmbridge.read(tmp_path / "wide.pt")


def test_layers_that_do_not_fit_one_another_are_no_chain() -> None:
    first = telling_layer(Spec(cell="gru", input_size=5, hidden_size=11), path="a")
    second = telling_layer(Spec(cell="rnn", input_size=7, hidden_size=4), path="b", after="a")
    with pytest.raises(LayoutError, match="torch: 'b' reads 'a', which gives 11 features\n.*expected 7"):
        lstmbridge.convert((first, second), to="torch")


def test_a_bundle_says_what_states_it_takes() -> None:
    bundle = Bundle({"a": nn.LSTM(5, 4), "b": nn.GRU(4, 3)}, chained=True)
    x, h = torch.zeros(7, 2, 5), torch.zeros(1, 2, 4)
    for states, words in (
        ((h, h, h), "3 initial states\n.*expected a list of 2: a, b"),
        ({"a": (h, h), "b": None}, "1 initial states\n.*expected a list of 2: a, b"),
        (([h, h], None), "the initial state of a is a list\n.*one a module, each None, h, or"),
    ):
        with pytest.raises(LayoutError, match=words):
            bundle(x, states)
    assert bundle(x, ((h, h), h[..., :3]))[0].shape == (7, 2, 3)
