"""The torch module that runs any Spec: against the equations and torch's own modules, compiled, exported, trained."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import faithful_cases as cases
import numpy as np
import pytest
from faithful_cases import BOTH, Case, agree, case

from helpers import BATCH, HIDDEN, INPUT, TIME, layer_of, sequences, spec
from lstmbridge import Layer, Spec, reference
from lstmbridge.errors import LayoutError
from lstmbridge.spec import ACTIVATIONS, ROLES, Activation

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

from lstmbridge.frameworks.torch.faithful import Function, Recurrent, activate  # noqa: E402
from lstmbridge.frameworks.torch.layout import LAYOUTS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

#: Layers that torch's own modules hold: the class, its options, the Spec.
STOCK: list[tuple[str, dict[str, Any], Spec]] = [
    ("LSTM", {}, spec("lstm", bias="dual")),
    ("LSTM", {"bias": False}, spec("lstm", bias="none")),
    ("LSTM", {"proj_size": 3}, spec("lstm", bias="dual", projection_size=3)),
    ("LSTM", {"bidirectional": True}, spec("lstm", bias="dual", directions=BOTH)),
    ("LSTM", {"bidirectional": True, "proj_size": 3}, spec("lstm", bias="dual", directions=BOTH, projection_size=3)),
    ("GRU", {}, spec("gru", bias="dual")),
    ("GRU", {"bidirectional": True, "bias": False}, spec("gru", bias="none", directions=BOTH)),
    ("RNN", {"bidirectional": True}, spec("rnn", bias="dual", directions=BOTH)),
    ("RNN", {"nonlinearity": "relu"}, spec("rnn", bias="dual", activations=("relu",))),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another cost more than these small products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def module_of(layer: Layer, **options: Any) -> Any:
    """Our module with the layer's weights, through a state dict."""
    module = Recurrent(layer.spec, dtype=getattr(torch, layer.dtype), **options)
    packed = LAYOUTS[layer.spec.cell].pack(layer.weights, layer.spec)
    arrays = {name: torch.from_numpy(array) for name, array in packed.items()}
    module.load_state_dict({**arrays, "spec": module.state_dict()["spec"]})
    return module


def stock_of(name: str, options: dict[str, Any], module: Any, **more: Any) -> Any:
    """torch's own module with the same weights."""
    stock = getattr(torch.nn, name)(INPUT, HIDDEN, dtype=torch.float64, **options, **more)
    stock.load_state_dict({key: value for key, value in module.state_dict().items() if key != "spec"})
    return stock


def ran(module: Any, case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """y (b, t, f), h and c of a batch-first module on the inputs of a case."""
    dtype = next(module.parameters()).dtype
    states = [torch.tensor(state, dtype=dtype) for state in case.states]
    state = tuple(states) if len(states) == 2 else states[0] if states else None
    lengths = None if case.lengths is None else torch.tensor(case.lengths)
    with torch.no_grad():
        y, last = module(torch.tensor(case.x, dtype=dtype), state, lengths)
    h, c = last if isinstance(last, tuple) else (last, None)
    return y.numpy(), h.numpy(), None if c is None else c.numpy()


def worst(specs: Iterable[Spec], tolerance: float, dtype: str = "float64") -> float:
    """The largest difference from the equations, over Specs, with and without initial states and lengths."""
    found = 0.0
    for seed, each in enumerate(specs):
        for states, lengths in ((False, False), (True, True)):
            one = case(each, states=states, lengths=lengths, dtype=dtype, seed=seed)
            found = max(found, agree(one, *ran(module_of(one.layer, batch_first=True), one), tolerance))
    return found


@pytest.mark.parametrize("grid", [cases.forms, cases.activations, cases.features, lambda: cases.combinations(80)])
def test_it_computes_what_the_spec_says(grid: Any) -> None:
    worst(grid(), 1e-12)


@pytest.mark.parametrize("grid", [cases.forms, cases.features, lambda: cases.combinations(30, seed=1)])
def test_it_does_so_in_float32(grid: Any) -> None:
    worst(grid(), 2e-6, "float32")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_equations_far_out(name: str) -> None:
    activation = Activation(name, *cases.CONSTANTS.get(name, ()))
    x = cases.far_out(name)
    found = activate(Function(name, activation.alpha or 0.0, activation.beta or 0.0), torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, reference.activate(activation, x), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("cell", "fields", "without"), cases.FEATURES.values(), ids=cases.FEATURES)
def test_the_grid_sees_each_feature(cell: str, fields: dict[str, Any], without: dict[str, Any]) -> None:
    one = case(spec(cell, **fields))
    other = one.layer.replace(spec=spec(cell, **without), weights=_subset(one.layer, spec(cell, **without)))
    with pytest.raises(AssertionError, match=">"):
        agree(one, *ran(module_of(other, batch_first=True), one), 1e-3)


def _subset(layer: Layer, spec: Spec) -> dict[str, Any]:
    return {name: layer[name] for name in spec.names()}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_grid_sees_a_wrong_gate_order(cell: str) -> None:
    one = case(spec(cell))
    with pytest.raises(AssertionError, match=">"):
        agree(one, *ran(module_of(cases.without_gate_order(one.layer), batch_first=True), one), 1e-3)


# ---- against torch's own modules


@pytest.mark.parametrize(("name", "options", "spec"), STOCK)
@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_and_gradients_are_the_stock_modules(
    name: str, options: dict[str, Any], spec: Spec, batch_first: bool
) -> None:
    module = module_of(layer_of(spec, dtype="float64"), batch_first=batch_first)
    stock = stock_of(name, options, module, batch_first=batch_first)
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64, requires_grad=True)
    gradients = []
    for each in (module, stock):
        y, last = each(x)
        h, c = last if isinstance(last, tuple) else (last, last)
        loss = (y * torch.linspace(-1, 2, y.shape[-1])).sum() + h.sin().sum() + c.cos().sum()
        gradients.append((y, h, c, *torch.autograd.grad(loss, [x, *(p for _, p in sorted(each.named_parameters()))])))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-12


@pytest.mark.parametrize(("name", "options", "spec"), STOCK)
@pytest.mark.parametrize("lengths", [(7, 4, 2), (2, 7, 4)])
def test_packed_sequences_are_the_stock_modules(
    name: str, options: dict[str, Any], spec: Spec, lengths: tuple[int, ...]
) -> None:
    module = module_of(layer_of(spec, dtype="float64"))
    stock = stock_of(name, options, module)
    x = torch.randn(TIME, 3, INPUT, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=lengths == (7, 4, 2))
    h0 = torch.randn(len(spec.directions), 3, spec.state_size, dtype=torch.float64)
    state = (h0, torch.randn(len(spec.directions), 3, HIDDEN, dtype=torch.float64)) if spec.cell == "lstm" else h0
    (ours, h), (theirs, h_stock) = module(packed, state), stock(packed, state)
    assert isinstance(ours, PackedSequence)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert (ours.data - theirs.data).abs().max() <= 1e-12
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (h, h_stock)), strict=True):
        assert (a - b).abs().max() <= 1e-12


def test_packed_outputs_as_processed_begin_with_each_sequences_last_step() -> None:
    layer = layer_of(spec("gru", directions=("reverse",), processed_order=True), dtype="float64")
    x, lengths = sequences(layer.spec), (4, TIME)
    packed = pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    y, sizes = pad_packed_sequence(module_of(layer)(packed)[0], batch_first=True)
    in_time = reference.run(layer.replace(spec=layer.spec.replace(processed_order=False)), x, lengths=lengths).y
    assert sizes.tolist() == list(lengths)
    for b, length in enumerate(lengths):
        assert np.abs(y[b, :length].detach().numpy() - in_time[b, :length][::-1]).max() <= 1e-12


def test_one_sequence_without_a_batch_axis() -> None:
    layer = layer_of(spec("lstm", directions=BOTH, projection_size=3), dtype="float64")
    x = torch.tensor(sequences(layer.spec))
    state = (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, HIDDEN, dtype=torch.float64))
    module = module_of(layer, batch_first=True)
    y, (h, c) = module(x[0], state)
    many, (h_many, c_many) = module(x[:1], tuple(each[:, None] for each in state))
    for one, batch in ((y, many[0]), (h, h_many[:, 0]), (c, c_many[:, 0])):
        assert torch.equal(one, batch)


def test_what_stands_in_the_padding_reaches_nothing() -> None:
    module = Recurrent(spec("lstm", directions=BOTH), batch_first=True)
    x = torch.randn(BATCH, TIME, INPUT)
    x[1, 3:] = float("nan")
    y, (h, c) = module(x, lengths=torch.tensor([TIME, 3]))
    (y.sum() + h.sum() + c.sum()).backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


# ---- gradients, compilation, export


@pytest.mark.parametrize("seed", range(8))
def test_gradients_are_those_of_finite_differences(seed: int) -> None:
    smooth = ("tanh", "sigmoid", "softsign", "scaled_tanh", "silu")
    rng = np.random.default_rng(seed)
    cell = ("lstm", "gru", "rnn", "lstm")[seed % 4]
    roles = tuple(str(rng.choice(smooth)) for _ in ROLES[cell])
    extra = {"lstm": {"peepholes": True, "projection_size": 2}, "gru": {"reset_after": seed > 4}, "rnn": {}}[cell]
    extra |= {"coupled": seed > 4, "forget_constant": 1.0} if cell == "lstm" else {}
    small = Spec(
        cell=cell, input_size=2, hidden_size=3, bias="dual", directions=BOTH, merge="mul", activations=roles, **extra
    )
    module = module_of(layer_of(small, dtype="float64", seed=seed))
    names, parameters = zip(*module.named_parameters(), strict=True)

    def outputs(x: Any, *values: Any) -> Any:
        arguments = (x, None, torch.tensor([3, 2]))
        y, last = torch.func.functional_call(module, dict(zip(names, values, strict=True)), arguments)
        return y, last

    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    flat = (lambda *v: (outputs(*v)[0], *outputs(*v)[1])) if cell == "lstm" else outputs
    assert torch.autograd.gradcheck(flat, (x, *parameters), fast_mode=True)


SCRIPTED = [
    spec("lstm", bias="dual", directions=BOTH, projection_size=3, peepholes=True, proj_clip=0.2, cell_clip=0.5),
    spec("lstm", bias="none", coupled=True, forget_constant=1.0, clip=0.5),
    spec("gru", bias="dual", directions=BOTH, merge="ave"),
    spec("gru", bias="dual", directions=("reverse",), processed_order=True, reset_after=False),
    spec("rnn", activations=("softplus",)),
]


@pytest.mark.parametrize("spec", SCRIPTED, ids=str)
def test_it_compiles_under_torchscript_and_comes_back_from_a_file(spec: Spec) -> None:
    one = case(spec, lengths=True)
    module = module_of(one.layer, batch_first=True)
    scripted = torch.jit.script(module)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for each in (scripted, torch.jit.load(file)):
        agree(one, *ran(each, one), 1e-12)
    y, last = scripted(torch.tensor(one.x[:1]))
    assert torch.equal(y, module(torch.tensor(one.x[:1]))[0])
    assert isinstance(last, tuple) == (spec.cell == "lstm")
    with pytest.raises(torch.jit.Error, match="i = 5"):
        scripted(torch.zeros(BATCH, TIME, INPUT + 1, dtype=torch.float64))


def test_it_compiles_inside_another_module() -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = Recurrent(spec("lstm", peepholes=True))
            self.head = torch.nn.Linear(HIDDEN, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, (h, c) = self.rnn(x)
            return self.head(y) + h.sum() + c.sum()

    tagger = Tagger()
    x = torch.randn(TIME, BATCH, INPUT)
    assert torch.equal(torch.jit.script(tagger)(x), tagger(x))


@pytest.mark.parametrize("spec", SCRIPTED[1:4], ids=str)
def test_it_exports_with_a_free_batch_size(spec: Spec) -> None:
    one = case(spec)
    module = module_of(one.layer, batch_first=True)
    x, lengths = torch.tensor(one.x).repeat(2, 1, 1), torch.tensor([7, 2, 3, 1])
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        module, (x,), {"lengths": lengths}, dynamic_shapes={"x": {0: batch}, "lengths": {0: batch}}
    ).module()
    for b in (4, 3, 1):
        found, expected = program(x[:b], lengths=lengths[:b]), module(x[:b], lengths=lengths[:b])
        assert (found[0] - expected[0]).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_runs_in_short_floats(dtype: str) -> None:
    one = case(spec("lstm", peepholes=True, directions=BOTH, activations=("hard_sigmoid", "softsign", "tanh")))
    module = module_of(one.layer, batch_first=True).to(getattr(torch, dtype))
    y, _ = module(torch.tensor(one.x, dtype=getattr(torch, dtype)), tuple(
        torch.tensor(state, dtype=getattr(torch, dtype)) for state in one.states
    ))
    assert y.dtype == getattr(torch, dtype)
    assert np.abs(y.detach().double().numpy() - one.expected.y).max() < {"float16": 5e-3, "bfloat16": 5e-2}[dtype]


def test_it_runs_under_autocast_and_on_the_meta_device() -> None:
    module = Recurrent(spec("lstm", projection_size=3, directions=BOTH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = module(torch.randn(TIME, BATCH, INPUT), lengths=torch.tensor([TIME, 3]))
    assert y.isfinite().all()
    y, (_, c) = Recurrent(module.spec, device="meta")(torch.zeros(TIME, BATCH, INPUT, device="meta"))
    assert (tuple(y.shape), tuple(c.shape), y.device.type) == ((TIME, BATCH, 6), (2, BATCH, HIDDEN), "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_runs_on_cuda() -> None:
    for each in SCRIPTED:
        one = case(each, lengths=True)
        module = module_of(one.layer, batch_first=True).cuda()
        x, lengths = torch.tensor(one.x).cuda(), torch.tensor(one.lengths)
        states = [torch.tensor(state).cuda() for state in one.states]
        y, last = module(x, tuple(states) if len(states) == 2 else states[0], lengths)
        h, c = last if isinstance(last, tuple) else (last, None)
        agree(one, *(None if v is None else v.detach().cpu().numpy() for v in (y, h, c)), 1e-12)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        assert module(packed)[0].data.is_cuda


# ---- what it says of itself


def test_names_and_shapes_are_torchs() -> None:
    module = Recurrent(spec("lstm", bias="dual", projection_size=3, peepholes=True, directions=BOTH))
    stock = torch.nn.LSTM(INPUT, HIDDEN, proj_size=3, bidirectional=True)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    peepholes = {"peephole_l0": (3 * HIDDEN,), "peephole_l0_reverse": (3 * HIDDEN,)}
    assert shapes == {**{name: tuple(p.shape) for name, p in stock.named_parameters()}, **peepholes}
    assert set(Recurrent(spec("gru", bias="single")).state_dict()) == {
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "spec",
    }
    assert all(p.abs().max() <= HIDDEN**-0.5 and p.std() > 0 for p in module.parameters())


def test_a_state_dict_says_what_it_is() -> None:
    module = Recurrent(spec("lstm", clip=3.0, activations=("hard_sigmoid", "tanh", "tanh")))
    stored = module.state_dict()["spec"]
    assert stored.dtype == torch.uint8
    assert Spec.from_json(bytes(stored.tolist()).decode()) == module.spec
    assert repr(module) == f"Recurrent({module.spec})"
    whole = torch.nn.ModuleDict({"encoder": module})
    assert "encoder.spec" in whole.state_dict()
    whole.load_state_dict(whole.state_dict())


def test_a_state_dict_comes_back_from_a_file_that_holds_tensors_only() -> None:
    module = Recurrent(spec("gru", reset_after=False))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = Recurrent(module.spec)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.weight_ih_l0, module.weight_ih_l0)


def test_another_layers_state_dict_is_refused_and_changes_nothing() -> None:
    module, other = Recurrent(spec("lstm")), Recurrent(spec("lstm", clip=3.0))
    before = module.weight_ih_l0.clone()
    with pytest.raises(LayoutError, match=r"(?s)of another layer.*clip 3.*clip: 3.0 is not None"):
        module.load_state_dict(other.state_dict())
    with pytest.raises(LayoutError, match="spec is not a Spec"):
        module.load_state_dict({**module.state_dict(), "spec": torch.tensor([1, 255], dtype=torch.uint8)})
    unsaid = {name: value for name, value in other.state_dict().items() if name != "spec"}
    with pytest.raises(RuntimeError, match='Missing key.*"spec"'):
        Recurrent(spec("lstm")).load_state_dict(unsaid)
    module.load_state_dict(module.state_dict())
    assert torch.equal(module.weight_ih_l0, before)
    module.load_state_dict(unsaid, strict=False)
    assert torch.equal(module.weight_ih_l0, other.weight_ih_l0)


def test_it_can_be_copied_pickled_and_trained() -> None:
    module = Recurrent(spec("gru", reset_after=False, directions=BOTH, merge="sum"))
    x = torch.randn(TIME, BATCH, INPUT)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.spec == module.spec
        assert torch.equal(other(x)[0], module(x)[0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = (module(x)[0] - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(TIME, BATCH, 6),), r"x has shape \[7, 2, 6\].*i = 5"),
        ((torch.zeros(0, BATCH, 5),), r"x has shape \[0, 2, 5\].*t at least 1"),
        ((torch.zeros(TIME, BATCH, 5), torch.zeros(1, BATCH, HIDDEN)), r"a tuple \(h0, c0\)"),
        ((torch.zeros(TIME, BATCH, 5), (torch.zeros(1, 1, HIDDEN),) * 2), r"\[1, 1, 11\].*h0 d b p = \[1, 2, 11\]"),
        ((torch.zeros(TIME, BATCH, 5), None, torch.tensor([3])), r"lengths has shape \[1\].*\[2\]"),
    ],
)
def test_wrong_shapes_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(LayoutError, match=f"(?s){message}"):
        Recurrent(spec("lstm"))(*arguments)
