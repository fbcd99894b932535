"""New torch modules from packed weights, and the container for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lstmbridge import arrays as xp
from lstmbridge.contract import WriteOptions
from lstmbridge.errors import LayoutError, Unsupported
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.torch.plan import Unit, plan
from lstmbridge.layer import Array

__all__ = ["Bundle", "build"]

_LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


class Bundle(nn.Module):  # type: ignore[misc]
    """Recurrent modules, each under its path, so that parameters are named as in the model they come from.

    If each reads the outputs of the one before (`chained`), the whole is called like one of them: x, and optionally one
    state a module (None, or what the module takes); it gives the last outputs and a list of all last states. A packed
    sequence passes through. Modules that do not feed one another cannot be called together: Unsupported.

    >>> bundle = Bundle({"encoder.rnn": nn.GRU(5, 4), "decoder.rnn": nn.LSTM(4, 3)}, chained=True)
    >>> y, states = bundle(torch.zeros(7, 2, 5))
    >>> y.shape, len(states), [name for name, _ in bundle.named_parameters()][0]
    (torch.Size([7, 2, 3]), 2, 'encoder.rnn.weight_ih_l0')
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, chained: bool) -> None:
        super().__init__()
        self.chained = chained
        self.names = tuple(modules)
        for path, module in modules.items():
            _attach(self, path, module)

    def forward(self, x: Any, states: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        """The outputs of the last module, and the last state of each."""
        if not self.chained:
            raise Unsupported(
                f"the layers {', '.join(self.names)} are independent: they cannot be called as one",
                f"call each by itself, e.g. bundle.get_submodule({self.names[0]!r})(x)",
            )
        given = [None] * len(self.names) if states is None else [states]
        given = list(states) if isinstance(states, list | tuple) else given
        names = ", ".join(self.names)
        if len(given) != len(self.names):
            raise LayoutError(f"{len(given)} initial states", f"expected a list of {len(self.names)}: {names}")
        for name, each in zip(self.names, given, strict=True):
            if not (each is None or isinstance(each, torch.Tensor) or _is_pair(each)):
                expected = f"expected a list with one a module, each None, h, or (h, c): {names}"
                raise LayoutError(f"the initial state of {name} is a {type(each).__name__}", expected)
        last = []
        for name, state in zip(self.names, given, strict=True):
            x, state = self.get_submodule(name)(x, state)
            last.append(state)
        return x, last


def _is_pair(state: Any) -> bool:
    return isinstance(state, tuple) and len(state) == 2 and all(isinstance(each, torch.Tensor) for each in state)


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Puts `module` at `path`, with empty modules on the way. Errors: LayoutError for a name torch has no place for."""
    *above, own = path.split(".")
    here = root
    try:
        for word in above:
            if word not in here._modules:
                here.add_module(word, nn.Module())
            here = here._modules[word]
        here.add_module(own, module)
    except KeyError as error:
        raise LayoutError(
            f"torch: no module can be named {path!r}", f"found: {error.args[0]}", "give it another name: rename="
        ) from error


def build(targets: Sequence[Fitted], options: WriteOptions, *, named: bool = False) -> nn.Module:
    """A new module with the targets' weights: nn.LSTM and its kind for one layer, a `Bundle` for several (or `named`).

    Levels of one path become one module with ``num_layers``; a layer that came from a cell becomes a cell. Weights keep
    their dtype and device, and share no memory with the source. Errors: LayoutError for names that cannot stand side by
    side.
    """
    whole = plan(targets, options, named=named)
    built = {unit.name: _module(unit) for unit in whole.units}
    return built[""] if "" in built else Bundle(built, chained=whole.chain)


def _module(unit: Unit) -> nn.Module:
    """One module, filled."""
    arrays = {name: xp.to_torch(array) for name, array in unit.arrays().items()}
    make = {"stock": _stock, "cell": _cell, "faithful": _faithful}[unit.kind]
    module = make(unit, next(iter(arrays.values())))
    _fill(module, arrays)
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()
    return module


def _stock(unit: Unit, like: torch.Tensor) -> nn.Module:
    spec, config = unit.layers[0].spec, unit.layers[0].metadata.get("config", {})
    several = len(unit.layers) > 1 and unit.layers[0].metadata.get("framework") == "torch"
    extra: dict[str, Any] = {"proj_size": spec.projection_size or 0} if spec.cell == "lstm" else {}
    if spec.cell == "rnn":
        extra["nonlinearity"] = spec.activation("candidate").name
    return _LAYERS[spec.cell](
        spec.input_size,
        spec.hidden_size,
        num_layers=len(unit.layers),
        bias=spec.bias != "none",
        batch_first=unit.batch_first,
        dropout=config.get("dropout", 0.0) if several else 0.0,
        bidirectional=spec.bidirectional,
        device="meta",
        dtype=like.dtype,
        **extra,
    )


def _cell(unit: Unit, like: torch.Tensor) -> nn.Module:
    spec = unit.layers[0].spec
    extra = {"nonlinearity": spec.activation("candidate").name} if spec.cell == "rnn" else {}
    bias = spec.bias != "none"
    return _CELLS[spec.cell](spec.input_size, spec.hidden_size, bias=bias, device="meta", dtype=like.dtype, **extra)


def _faithful(unit: Unit, like: torch.Tensor) -> nn.Module:
    from lstmbridge.frameworks.torch.faithful import Recurrent

    return Recurrent(unit.layers[0].spec, batch_first=unit.batch_first, device=like.device, dtype=like.dtype)


def _fill(module: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Gives every parameter of `module` its tensor, without a copy. Errors: LayoutError if they do not match."""
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if expected != found:
        raise LayoutError(f"{type(module).__name__} has the parameters {expected}", f"packed were {found}")
    for name, tensor in arrays.items():
        setattr(module, name, nn.Parameter(tensor.detach()))
