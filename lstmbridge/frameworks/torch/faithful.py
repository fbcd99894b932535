"""A torch module that runs exactly a Spec, for the layers that no stock module of torch holds.

Parameters have the names torch gives them (``weight_ih_l0``, ``bias_hh_l0_reverse``) and two more it does not know:
``peephole_l0`` (3h,) for i f o, and ``weight_hr_l0`` as in a projected LSTM. Their shapes come from the layout. The
equations are those of `lstmbridge.reference`, in torch's own operations: differentiable, on any device, in any dtype.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lstmbridge.errors import LayoutError
from lstmbridge.frameworks.torch.layout import LAYOUTS
from lstmbridge.spec import ROLES, Spec

__all__ = ["Recurrent"]

#: Every parameter a direction can have, without the suffix of the direction.
PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "peephole_l0", "weight_hr_l0")
SUFFIXES = {"forward": "", "reverse": "_reverse"}


class Function(NamedTuple):
    """An activation with its constants, as TorchScript can hold it."""

    name: str
    alpha: float
    beta: float


class Cell(NamedTuple):
    """What one direction computes, as TorchScript can hold it. A clip of infinity is none."""

    kind: str
    gate: Function
    candidate: Function
    output: Function
    reset_after: bool
    coupled: bool
    clip: float
    cell_clip: float
    proj_clip: float
    forget_constant: float


class Weights(NamedTuple):
    """The parameters of one direction, in the layout of torch."""

    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None
    peephole: Tensor | None
    projection: Tensor | None


# ---- the equations; each function here compiles under torch.jit.script


def activate(function: Function, x: Tensor) -> Tensor:
    """The activation of every element, as `lstmbridge.reference.activate` has it."""
    name, a, b = function.name, function.alpha, function.beta
    if name == "sigmoid":
        return torch.sigmoid(x)
    elif name == "tanh":
        return torch.tanh(x)
    elif name == "relu":
        return torch.relu(x)
    elif name == "softsign":
        return F.softsign(x)
    elif name == "softplus":
        return F.softplus(x, threshold=40.0)  # log(1 + exp(x)) to the last bit of float64; torch's own 20 is not
    elif name == "selu":
        return torch.selu(x)
    elif name == "exponential":
        return torch.exp(x)
    elif name == "silu":
        return F.silu(x)
    elif name == "hard_sigmoid":
        return torch.clamp(a * x + b, 0.0, 1.0)
    elif name == "scaled_tanh":
        return a * torch.tanh(b * x)
    elif name == "affine":
        return a * x + b
    elif name == "elu":
        return F.elu(x, a)
    elif name == "leaky_relu":
        return F.leaky_relu(x, a)
    elif name == "thresholded_relu":
        return F.threshold(x, a, 0.0)
    assert name == "linear", name
    return x


def clipped(x: Tensor, limit: float) -> Tensor:
    """x held in [-limit, limit]."""
    return x if limit == float("inf") else torch.clamp(x, -limit, limit)


def lstm_step(cell: Cell, w: Weights, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step from projected inputs x (b, 4h), both biases in them."""
    i, f, g, o = (x + F.linear(h, w.recurrent_kernel)).chunk(4, 1)
    peephole = w.peephole
    if peephole is not None:
        p_i, p_f, _ = peephole.chunk(3)
        i, f = i + p_i * c, f + p_f * c
    i = activate(cell.gate, clipped(i, cell.clip))
    f = 1 - i if cell.coupled else activate(cell.gate, clipped(f + cell.forget_constant, cell.clip))
    g = activate(cell.candidate, clipped(g, cell.clip))
    c = clipped(f * c + i * g, cell.cell_clip)
    if peephole is not None:
        _, _, p_o = peephole.chunk(3)
        o = o + p_o * c
    h = activate(cell.gate, clipped(o, cell.clip)) * activate(cell.output, c)
    projection = w.projection
    if projection is not None:
        h = clipped(F.linear(h, projection), cell.proj_clip)
    return h, c


def gru_step(cell: Cell, w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """One GRU step from projected inputs x (b, 3h), with the biases that are added outside the reset."""
    x_r, x_z, x_n = x.chunk(3, 1)
    if cell.reset_after:
        h_r, h_z, h_n = F.linear(h, w.recurrent_kernel, w.recurrent_bias).chunk(3, 1)
        r = activate(cell.gate, clipped(x_r + h_r, cell.clip))
        n = x_n + r * h_n
    else:
        w_r, w_z, w_n = w.recurrent_kernel.chunk(3)
        h_z = F.linear(h, w_z)
        r = activate(cell.gate, clipped(x_r + F.linear(h, w_r), cell.clip))
        n = x_n + F.linear(r * h, w_n)
    z = activate(cell.gate, clipped(x_z + h_z, cell.clip))
    n = activate(cell.candidate, clipped(n, cell.clip))
    return (1 - z) * n + z * h


def rnn_step(cell: Cell, w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """One step of a vanilla RNN from projected inputs x (b, h), both biases in them."""
    return activate(cell.candidate, clipped(x + F.linear(h, w.recurrent_kernel), cell.clip))


def project(cell: Cell, w: Weights, x: Tensor) -> Tensor:
    """The inputs of all steps times the kernel, with every bias that does not stand inside a GRU's reset."""
    bias, recurrent_bias = w.bias, w.recurrent_bias
    inside = cell.kind == "gru" and cell.reset_after
    if bias is not None and recurrent_bias is not None and not inside:
        bias = bias + recurrent_bias
    return F.linear(x, w.kernel, bias)


def scan(
    cell: Cell, w: Weights, x: Tensor, h: Tensor, c: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction over x (t, b, i) in the order given: outputs (t, b, p), last h, last c.

    `valid` (t, b, 1) says which steps count: the others leave the state as it is and give zero.
    """
    outputs: list[Tensor] = []
    for t, step in enumerate(project(cell, w, x).unbind(0)):
        new_c = c
        if cell.kind == "lstm":
            new_h, new_c = lstm_step(cell, w, step, h, c)
        elif cell.kind == "gru":
            new_h = gru_step(cell, w, step, h)
        else:
            new_h = rnn_step(cell, w, step, h)
        if valid is not None:
            new_h, new_c = torch.where(valid[t], new_h, h), torch.where(valid[t], new_c, c)
        h, c = new_h, new_c
        outputs.append(h)
    y = torch.stack(outputs)
    return (y if valid is None else y.masked_fill(valid.logical_not(), 0.0)), h, c


def merged(how: str, forward: Tensor, reverse: Tensor) -> Tensor:
    """The outputs of two directions as one (``none``: side by side)."""
    if how == "sum":
        return forward + reverse
    elif how == "ave":
        return (forward + reverse) / 2
    elif how == "mul":
        return forward * reverse
    return torch.cat([forward, reverse], -1)


# ---- the module


class Recurrent(torch.nn.Module):  # type: ignore[misc]
    """A recurrent layer that computes what `spec` says, whatever it says.

    x (t, b, i), with `batch_first` (b, t, i); one sequence (t, i); or a PackedSequence. `state` is h0 (d, b, p), for an
    LSTM (h0, c0) with c0 (d, b, h); zero if left out. `lengths` (b,) says how many steps of each sequence count; the
    rest give zero and leave the state alone. Gives (y, h_n), for an LSTM (y, (h_n, c_n)), shaped as torch.nn.LSTM's: y
    has the directions merged as the Spec says (``none``: side by side).

    The state dict has a further uint8 tensor ``spec``, the Spec's JSON: so it says what it is, and another layer's is
    refused. `torch.jit.script` and `torch.export` work, with a free batch size; under script x is a tensor (a
    PackedSequence is for eager mode) and the compiled module's own state dict has no ``spec``. torch.export unrolls
    the time axis: its number of steps is fixed, the lengths are not. Errors: LayoutError for a wrong shape.

    >>> layer = Recurrent(Spec(cell="gru", input_size=5, hidden_size=11, reset_after=False))
    >>> y, h_n = layer(torch.zeros(7, 2, 5))
    >>> tuple(y.shape), tuple(h_n.shape)
    ((7, 2, 11), (1, 2, 11))
    """

    __constants__ = ("batch_first", "directions", "has_cell", "merge", "processed_order")
    forward_cell: Cell
    reverse_cell: Cell

    def __init__(self, spec: Spec, *, batch_first: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.spec = spec
        self.batch_first = batch_first
        self.has_cell = spec.cell == "lstm"
        self.input_size, self.hidden_size, self.state_size = spec.input_size, spec.hidden_size, spec.state_size
        self.merge = spec.merge
        self.processed_order = spec.processed_order
        self.directions = len(spec.directions)
        self.forward_cell = _cell(spec, "forward")
        self.reverse_cell = _cell(spec, "reverse")
        shapes = LAYOUTS[spec.cell].shapes(spec)
        for name in (parameter + suffix for suffix in SUFFIXES.values() for parameter in PARAMETERS):
            shape = shapes.pop(name, None)
            empty = None if shape is None else torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, empty)
        assert not shapes, shapes
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every parameter from U(-1/sqrt(h), 1/sqrt(h)), as torch's own recurrent modules do."""
        bound = self.spec.hidden_size**-0.5
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound)

    # No return type is written: TorchScript infers one from the branch that `has_cell` leaves.
    def forward(  # type: ignore[no-untyped-def]
        self,
        x: Tensor,
        state: Tensor | tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
    ):
        """The outputs for all steps and the last state, as the class says."""
        if not torch.jit.is_scripting() and isinstance(x, PackedSequence):
            return self._packed(x, state, lengths)
        batched = x.dim() == 3
        x = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
        h0, c0 = self._states(x, state, batched)
        valid = self._valid(x, lengths)
        if valid is not None:  # what stands in the padding, be it NaN, reaches neither outputs nor gradients
            x = torch.where(valid, x, torch.zeros_like(x))
        y, h, c = self._run(x, h0, c0, valid)
        y = y.squeeze(1) if not batched else y.transpose(0, 1) if self.batch_first else y
        if not batched:
            h, c = h.squeeze(1), c.squeeze(1)
        if self.has_cell:
            return y, (h, c)
        else:
            return y, h

    def _run(self, x: Tensor, h0: Tensor, c0: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Both directions over x (t, b, i): y (t, b, f), h (d, b, p), c (d, b, h)."""
        ys: list[Tensor] = []
        hs: list[Tensor] = []
        cs: list[Tensor] = []
        if self.weight_ih_l0 is not None:
            w = Weights(
                self.weight_ih_l0,
                self.weight_hh_l0,
                self.bias_ih_l0,
                self.bias_hh_l0,
                self.peephole_l0,
                self.weight_hr_l0,
            )
            y, h, c = scan(self.forward_cell, w, x, h0[0], c0[0], valid)
            ys.append(y)
            hs.append(h)
            cs.append(c)
        if self.weight_ih_l0_reverse is not None:
            w = Weights(
                self.weight_ih_l0_reverse,
                self.weight_hh_l0_reverse,
                self.bias_ih_l0_reverse,
                self.bias_hh_l0_reverse,
                self.peephole_l0_reverse,
                self.weight_hr_l0_reverse,
            )
            back = None if valid is None else valid.flip(0)
            y, h, c = scan(self.reverse_cell, w, x.flip(0), h0[-1], c0[-1], back)
            ys.append(y if self.processed_order else y.flip(0))
            hs.append(h)
            cs.append(c)
        y = ys[0] if len(ys) == 1 else merged(self.merge, ys[0], ys[1])
        return y, torch.stack(hs), torch.stack(cs)

    def _states(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None, batched: bool
    ) -> tuple[Tensor, Tensor]:
        """h0 (d, b, p) and c0 (d, b, h), checked, for x (t, b, i); a cell without c carries h twice."""
        if x.dim() != 3 or x.size(2) != self.input_size or x.size(0) == 0:
            raise LayoutError(
                f"torch Recurrent: x has shape {list(x.shape)} (time first)",
                f"expected t b i with t at least 1 and i = {self.input_size}"
            )
        h_shape = [self.directions, x.size(1), self.state_size]
        c_shape = [self.directions, x.size(1), self.hidden_size if self.has_cell else self.state_size]
        if state is None:
            return x.new_zeros(h_shape), x.new_zeros(c_shape)
        paired = True
        if isinstance(state, Tensor):
            h0, c0, paired = state, state, False
        else:
            h0, c0 = state
        if not batched:
            h0, c0 = h0.unsqueeze(1), c0.unsqueeze(1)
        if paired != self.has_cell or list(h0.shape) != h_shape or list(c0.shape) != c_shape:
            raise LayoutError(
                f"torch Recurrent: state has shapes {list(h0.shape)}, {list(c0.shape)}",
                f"expected h0 d b p = {h_shape}, and for an LSTM a tuple (h0, c0) with c0 d b h = {c_shape}"
            )
        return h0, c0

    def _valid(self, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Which steps count, (t, b, 1), for x (t, b, i); None if all do."""
        if lengths is None:
            return None
        if list(lengths.shape) != [x.size(1)]:
            raise LayoutError(f"torch Recurrent: lengths has shape {list(lengths.shape)}", f"expected [{x.size(1)}]")
        steps = torch.arange(x.size(0), device=x.device)
        return (steps.unsqueeze(1) < lengths.to(x.device)).unsqueeze(2)

    def _packed(self, x: PackedSequence, state: Any, lengths: Tensor | None) -> tuple[PackedSequence, Any]:
        """The same for a PackedSequence; outputs as processed start with each sequence's own last step."""
        if lengths is not None:
            raise LayoutError("torch Recurrent: lengths beside a PackedSequence", "it has its own: leave them out")
        padded, sizes = pad_packed_sequence(x, batch_first=self.batch_first)
        y, last = self(padded, state, sizes)
        y = y.transpose(0, 1) if self.batch_first else y
        if self.processed_order:  # the padding stands first: move it behind
            steps = torch.arange(y.size(0))[:, None] - sizes
            y = y[steps % y.size(0), torch.arange(y.size(1))]
        if x.sorted_indices is not None:
            y, sizes = y[:, x.sorted_indices], sizes[x.sorted_indices.cpu()]
        data = pack_padded_sequence(y, sizes).data
        return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), last

    # ---- what it says of itself

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}spec"] = torch.frombuffer(bytearray(self.spec.to_json().encode()), dtype=torch.uint8)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *rest: Any,
    ) -> None:
        key = f"{prefix}spec"
        if key in state_dict:
            _expect_spec(self.spec, state_dict[key], key)
        else:
            missing_keys.append(key)
        weights = {name: array for name, array in state_dict.items() if name != key}
        super()._load_from_state_dict(weights, prefix, local_metadata, strict, missing_keys, *rest)

    def extra_repr(self) -> str:
        return f"{self.spec}" + ", batch_first" * self.batch_first


def _expect_spec(spec: Spec, stored: Tensor, key: str) -> None:
    """Nothing, if `stored` holds that Spec. Errors: LayoutError with both Specs."""
    try:
        found = Spec.from_json(bytes(stored.cpu().tolist()).decode(errors="replace"))
    except (TypeError, ValueError) as error:
        raise LayoutError(f"torch Recurrent: {key} is not a Spec", f"found: {error}") from error
    if found != spec:
        raise LayoutError(
            f"torch Recurrent: the state dict is of another layer ({key})",
            f"found: {found}",
            f"expected: {spec}",
            *_differences(found, spec),
            "make the module from the Spec in the state dict",
        )


def _differences(found: Spec, expected: Spec) -> list[str]:
    """The fields in which two Specs differ, a line each."""
    pairs = ((field.name, getattr(found, field.name), getattr(expected, field.name)) for field in fields(Spec))
    return [f"{name}: {a!r} is not {b!r}" for name, a, b in pairs if a != b]


def _cell(spec: Spec, direction: str) -> Cell:
    """What one direction of a Spec computes."""

    def function(role: str) -> Function:
        if role not in ROLES[spec.cell]:
            return Function("linear", 0.0, 0.0)
        activation = spec.activation(role, direction)
        return Function(activation.name, activation.alpha or 0.0, activation.beta or 0.0)

    def limit(clip: float | None) -> float:
        return float("inf") if clip is None else float(clip)

    return Cell(
        kind=spec.cell,
        gate=function("gate"),
        candidate=function("candidate"),
        output=function("output"),
        reset_after=spec.reset_after,
        coupled=spec.coupled,
        clip=limit(spec.clip),
        cell_clip=limit(spec.cell_clip),
        proj_clip=limit(spec.proj_clip),
        forget_constant=float(spec.forget_constant),
    )
