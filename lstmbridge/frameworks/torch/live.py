"""torch modules: read, built, written in place, run and differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstmbridge import arrays as xp
from lstmbridge.contract import Gradients, InitialStates, Outputs, Reading, ReadOptions, WriteOptions
from lstmbridge.errors import LayoutError, SpecError, Unsupported
from lstmbridge.fit import Fitted, fit
from lstmbridge.frameworks.torch import files, infer
from lstmbridge.frameworks.torch.layout import CELL_LAYOUTS, FAITHFUL, FAITHFUL_CLASS, HOLDS, LAYOUTS, STATES
from lstmbridge.frameworks.torch.modules import Bundle, build
from lstmbridge.layer import Array, Layer
from lstmbridge.notation import Layout
from lstmbridge.spec import Activation, Spec
from lstmbridge.statenotation import StateForm, apart, together

__all__ = ["assign", "build", "gradients", "load", "native", "read", "run", "tensors"]

#: nn.RNNBase's `mode` -> cell and activations.
_MODES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "LSTM": ("lstm", ()),
    "GRU": ("gru", ()),
    "RNN_TANH": ("rnn", ("tanh",)),
    "RNN_RELU": ("rnn", ("relu",)),
}
_CELLS = {"LSTMCell": "lstm", "GRUCell": "gru", "RNNCell": "rnn"}
_LAYERS = ("LSTM", "GRU", "RNN", "RNNBase")
_FAITHFUL = "Recurrent"

#: What a module was made with, kept verbatim.
_CONFIG = ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
           "proj_size", "nonlinearity")  # fmt: skip


# ---- read


def read(obj: Any, options: ReadOptions) -> Reading:
    """The recurrent layers of a module, at any depth, in the order they stand in it; a shared one once.

    Weights are views on the parameters. Errors: Unsupported for a recurrent module that is found and not understood
    (quantised, parametrised, traced, of an unknown class), with what to do; LayoutError for one without numbers.
    """
    if not isinstance(obj, nn.Module):
        raise Unsupported(
            f"torch: an object of {type(obj).__module__}.{type(obj).__qualname__}",
            "expected an nn.Module; of anything else, save the state dict and read that file",
        )
    layers: list[Layer] = []
    notes: list[str] = []
    used: set[str] = set()
    labels: dict[str | None, str] = {}
    for path, module, before in _found(obj, options):
        first, *rest = _layers(path, module)
        here = [first.replace(after=labels.get(before)), *rest]
        labels[path] = here[-1].label
        keys = dict(zip((layer.label for layer in here), _levels(module, here), strict=True))
        chosen = [layer for layer in here if infer.wanted(layer, options.only)]
        layers += chosen
        used |= {_join(path, name) for layer in chosen for name in keys[layer.label]}
        notes += _notes(path, module)
    return Reading(tuple(layers), tuple(name for name in _named(obj) if name not in used), tuple(notes))


def tensors(obj: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer of a module, detached, by its name; one of several names once, lazy ones left out."""
    lazy = nn.parameter.UninitializedTensorMixin
    return {name: tensor.detach() for name, tensor in _named(obj).items() if not isinstance(tensor, lazy)}


def _named(obj: nn.Module) -> dict[str, torch.Tensor]:
    return dict((*obj.named_parameters(), *obj.named_buffers()))


def _found(obj: nn.Module, options: ReadOptions) -> Iterator[tuple[str, nn.Module, str | None]]:
    """Every recurrent module: (path, module, path of the one whose outputs it reads, where that is known)."""
    every = dict(obj.named_modules())
    order: list[str] = list(every)
    before: dict[str, str] = {}
    for path, module in every.items():
        if isinstance(module, Bundle):  # its modules in its own order, not in that of the tree
            units = [unit for unit in (_join(path, name) for name in module.names) if unit in every]
            places = iter(units)
            order = [next(places) if name in units else name for name in order]
            before |= dict(zip(units[1:], units, strict=False)) if module.chained else {}
    for path in order:
        if infer.selected(path, options.only) and _is_recurrent(path, every[path]):
            yield path, every[path], before.get(path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are the module's own."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _class(module: nn.Module) -> str | None:
    """The name of torch's own class, or of ours, that the module is or derives from; None for any other."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name) if infer.looks_recurrent(_own(module)) else None
    for base in type(module).__mro__:
        if base.__module__ == "torch.nn.modules.rnn" or f"{base.__module__}.{base.__qualname__}" == FAITHFUL_CLASS:
            return str(base.__name__)
    return None


def _who(path: str, module: nn.Module) -> str:
    return f"torch.nn.{_class(module) or type(module).__name__} {path!r}"


def _is_recurrent(path: str, module: nn.Module) -> bool:
    """Whether this is a recurrent module that can be read. Errors: Unsupported for one that cannot."""
    name, kind = _class(module), type(module)
    if kind.__module__.startswith("torch.ao.nn.") and kind.__module__.endswith(".rnn"):
        raise Unsupported(
            f"torch {kind.__name__} {path!r} is quantised ({kind.__module__})",
            "convert the float module it was made from; quantised weights are other numbers",
        )
    kept = "spec" if name == _FAITHFUL else "hidden_size"
    if isinstance(module, torch.jit.ScriptModule) and name is not None and not hasattr(module, kept):
        raise Unsupported(
            f"torch {name} {path!r} is compiled, and its {kept} was not kept",
            "convert the module it was made from, or a file of that one's state dict",
        )
    if name in (*_LAYERS, *_CELLS, _FAITHFUL):
        return True
    if name is not None or infer.looks_recurrent(_own(module)):
        raise Unsupported(
            f"torch {kind.__module__}.{kind.__qualname__} {path!r}: weights named as a recurrent layer's, in a class"
            " of which nothing is known",
            f"found {', '.join(_own(module))}",
            "if it computes what torch's own does, convert a file of its state dict; else leave it out with layers=",
        )
    return False


def _notes(path: str, module: nn.Module) -> Iterator[str]:
    """What a reader should know about a module of a class derived from torch's."""
    base, own = getattr(nn, _class(module) or "", None), type(module)
    if base is not None and not isinstance(module, torch.jit.ScriptModule) and own.forward is not base.forward:
        yield f"{path or 'the module'}: {own.__qualname__} has a forward of its own; read as nn.{base.__name__}"


# ---- from one module to its layers


def _layers(path: str, module: nn.Module) -> list[Layer]:
    """The layers of one recurrent module, level by level."""
    who, name = _who(path, module), _class(module) or ""
    try:
        specs = _specs(module, name)
    except SpecError as error:
        raise LayoutError(f"{who}: {error.headline}", *error.details) from error
    layout = _layout(name, specs[0])
    arrays = _arrays(module, {key for n, spec in enumerate(specs) for key in layout.keys(spec, n)}, who)
    metadata = _metadata(module, name)
    layers: list[Layer] = []
    for level, spec in enumerate(specs):
        here = {key: arrays[key] for key in layout.keys(spec, level) if key in arrays}
        layers.append(
            Layer(
                spec=spec,
                weights=layout.unpack(here, spec, level=level, who=who),
                path=path,
                level=level if len(specs) > 1 else None,
                after=layers[-1].label if layers else None,
                metadata=metadata,
            )
        )
    return layers


def _layout(name: str, spec: Spec) -> Layout:
    return (CELL_LAYOUTS if name in _CELLS else LAYOUTS)[spec.cell]


def _levels(module: nn.Module, layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """The names of the module's parameters for each of its layers."""
    layout = _layout(_class(module) or "", layers[0].spec)
    return [layout.keys(layer.spec, level) for level, layer in enumerate(layers)]


def _specs(module: nn.Module, name: str) -> list[Spec]:
    """What the module's settings say, a Spec a level."""
    if name == _FAITHFUL:
        return [module.spec]
    bias = "dual" if module.bias else "none"
    if name in _CELLS:
        mode = {"LSTMCell": "LSTM", "GRUCell": "GRU"}.get(name) or f"RNN_{module.nonlinearity.upper()}"
        return [_plain_spec(module, mode, bias=bias)]
    first = _plain_spec(
        module,
        module.mode,
        directions=("forward", "reverse") if module.bidirectional else ("forward",),
        bias=bias,
        projection_size=module.proj_size or None,
    )
    return [first] + [first.replace(input_size=first.output_size)] * (module.num_layers - 1)


def _plain_spec(module: nn.Module, mode: str, **fields: Any) -> Spec:
    cell, names = _MODES[mode]
    activations = tuple(map(Activation, names))
    return Spec(
        cell=cell, input_size=module.input_size, hidden_size=module.hidden_size, activations=activations, **fields
    )


def _metadata(module: nn.Module, name: str) -> dict[str, Any]:
    if name == _FAITHFUL:
        return {"framework": "torch", "class": FAITHFUL_CLASS, "batch_first": bool(module.batch_first)}
    config = {key: getattr(module, key) for key in _CONFIG if hasattr(module, key)}
    oriented = {} if name in _CELLS else {"batch_first": bool(module.batch_first)}
    return {"framework": "torch", "class": f"torch.nn.{name}", **oriented, "config": config}


def _arrays(module: nn.Module, keys: set[str], who: str) -> dict[str, torch.Tensor]:
    """The module's parameters of those names, detached. Errors: Unsupported, LayoutError for one without numbers."""
    own = _own(module)
    hidden = sorted(key for key in keys if key not in own and hasattr(module, key))
    if parametrize.is_parametrized(module) or hidden:
        names = ", ".join(hidden) or ", ".join(module.parametrizations)
        raise Unsupported(
            f"{who}: {names} is computed from other parameters (weight norm, pruning or another parametrisation)",
            f"found {', '.join(name for name, _ in module.named_parameters())}",
            "make it a plain parameter first: torch.nn.utils.parametrize.remove_parametrizations, "
            "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove",
        )
    for name, parameter in own.items():
        lazy = isinstance(parameter, nn.parameter.UninitializedParameter)
        if lazy or parameter.device.type == "meta":
            state = "is not initialised: call the module once" if lazy else "is on the meta device: it has no numbers"
            raise LayoutError(f"{who}: {name} {state}", "expected a parameter with numbers in it")
    return {name: parameter.detach() for name, parameter in own.items() if name in keys}


def native(array: Array) -> torch.Tensor:
    """An array as a tensor, on its device."""
    return xp.to_torch(array)


# ---- written in place


def assign(obj: nn.Module, layers: Sequence[Layer]) -> None:
    """The weights of `layers` are in the parameters of the modules they were read from; all of them, or none.

    Parameters keep their memory, dtype and device. Errors: LayoutError for a layer that `obj` does not have, or that
    has another Spec there.
    """
    pending = [pair for layer in layers for pair in _pending(obj, layer)]
    with torch.no_grad():
        for parameter, tensor in pending:
            parameter.copy_(tensor)


def _pending(obj: nn.Module, layer: Layer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter that one layer fills, and what it is to hold."""
    module = _at(obj, layer.path)
    level, specs = layer.level or 0, _specs(module, _class(module) or "")
    if level >= len(specs) or specs[level] != layer.spec:
        there = ", ".join(map(str, specs))
        raise LayoutError(f"{_who(layer.path, module)}: cannot take {layer}", f"expected {there}")
    own = _own(module)
    for name, array in _layout(_class(module) or "", layer.spec).pack(layer.weights, layer.spec, level=level).items():
        yield own[name], xp.to_torch(array)


def _at(obj: nn.Module, path: str) -> nn.Module:
    """The recurrent module at a path. Errors: LayoutError."""
    module = dict(obj.named_modules(remove_duplicate=False)).get(path)
    if module is None or not _is_recurrent(path, module):
        raise LayoutError(f"torch {type(obj).__name__}: no recurrent module at {path!r}", "read it again")
    return module


# ---- a file as an object


def load(path: Path, options: ReadOptions) -> nn.Module:
    """The recurrent modules of a file, with its weights, each under its path."""
    targets = [_as_it_is(layer) for layer in files.read(path, options).layers]
    return build(targets, WriteOptions(batch_first=options.batch_first), named=True)


def _as_it_is(layer: Layer) -> Fitted:
    faithful = layer.metadata.get("class") == FAITHFUL_CLASS
    return fit(layer, FAITHFUL, module="faithful") if faithful else fit(layer, HOLDS)


# ---- run


def run(
    obj: nn.Module,
    layers: Sequence[Layer],
    x: npt.NDArray[Any],
    h0: InitialStates = None,
    c0: InitialStates = None,
    lengths: Sequence[int] | None = None,
) -> Outputs:
    """What the module that `layers` were read from computes, in its own dtype, on its device, without dropout."""
    module = _whole(obj, layers)
    inputs = _tensor(x, next(iter(_own(module).values())))
    with torch.no_grad(), _evaluating(module):
        y, last = _ran(module, layers, inputs, _given(module, layers, h0, c0, inputs), lengths)
    specs, form = [layer.spec for layer in layers], _form(module)
    found = {key: xp.host(each) for key, each in form.arrays(last, specs, _who(layers[0].path, module)).items()}
    return Outputs(xp.host(y), *together(specs, form.layout.unpack(found, specs)))


def gradients(
    obj: nn.Module,
    layers: Sequence[Layer],
    x: npt.NDArray[Any],
    h0: InitialStates,
    c0: InitialStates,
    lengths: Sequence[int] | None,
    pull: Outputs,
) -> Gradients:
    """The gradient of sum(y * pull.y) + sum(h * pull.h) + sum(c * pull.c) by torch's autograd, of what `run` runs.

    No parameter's ``.grad`` is touched. A parameter that does not require a gradient has none: zeros.
    """
    module = _whole(obj, layers)
    own = _own(module)
    inputs = _tensor(x, next(iter(own.values()))).requires_grad_()
    trained = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
    with _differentiable(module):
        y, last = _ran(module, layers, inputs, _given(module, layers, h0, c0, inputs), lengths)
        pulls = [_tensor(pull.y, inputs), *_each(_given(module, layers, pull.h, pull.c, inputs))]
        of_x, *rest = torch.autograd.grad(
            [y, *_each(last)], [inputs, *trained.values()], pulls, materialize_grads=True
        )
    arrays = {name: torch.zeros_like(each) for name, each in own.items()} | dict(zip(trained, rest, strict=True))
    return Gradients(xp.host(of_x), [_of_weights(module, layer, arrays) for layer in layers])


def _of_weights(module: nn.Module, layer: Layer, arrays: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """The parameters' gradients as those of one layer's weights: each stands where its weight stands."""
    layout, level = _layout(_class(module) or "", layer.spec), layer.level or 0
    own = {key: arrays[key] for key in layout.keys(layer.spec, level)}
    return {name: xp.host(array) for name, array in layout.unpack(own, layer.spec, level=level).items()}


def _whole(obj: nn.Module, layers: Sequence[Layer]) -> nn.Module:
    """The module that `layers` are. Errors: LayoutError for some of its levels only."""
    module = _at(obj, layers[0].path)
    if len(_specs(module, _class(module) or "")) != len(layers):
        raise LayoutError(f"{_who(layers[0].path, module)}: {len(layers)} layers to run", "expected all its levels")
    return module


#: A state in torch's own form: tensors (h, c), or h alone where the cell has no c.
_State = Any


def _ran(
    module: nn.Module, layers: Sequence[Layer], x: torch.Tensor, state: _State, lengths: Sequence[int] | None
) -> tuple[torch.Tensor, _State]:
    """What the module gives: y (b, t, f) and the last state, in the form in which it takes the initial one."""
    name = _class(module) or ""
    counts = None if lengths is None else torch.as_tensor(list(lengths), dtype=torch.int64)
    steps = _run_cell if name in _CELLS else _run_faithful if name == _FAITHFUL else _run_layer
    return steps(module, x, state, counts)


_Whole = Sequence[npt.NDArray[Any] | None] | None


def _tensor(array: npt.NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, np.float64)).to(like.device, like.dtype)


def _form(module: nn.Module) -> StateForm:
    """In what form the module takes and gives states."""
    return STATES["cell" if _class(module) in _CELLS else "layer"]


def _given(module: nn.Module, layers: Sequence[Layer], h: _Whole, c: _Whole, x: torch.Tensor) -> _State:
    """A state for the module, like `x`, from one h (d, b, p) and one c (d, b, h) a layer; zeros where none is given."""
    specs, form = [layer.spec for layer in layers], _form(module)
    arrays = form.layout.pack(apart(specs, h, c, x.shape[0]), specs)
    return form.hold({key: _tensor(array, x) for key, array in arrays.items()}, specs)


def _each(state: _State) -> tuple[torch.Tensor, ...]:
    """The tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout, and without torch's remark that oneDNN has no kernel for projections."""
    before = module.training
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            yield
    finally:
        module.train(before)


@contextmanager
def _differentiable(module: nn.Module) -> Iterator[None]:
    """The same with gradients: cuDNN has them in training mode only, so there a stock layer is put, its dropout 0."""
    with torch.enable_grad(), _evaluating(module):
        if not isinstance(module, nn.RNNBase):
            yield
            return
        dropout, module.dropout, module.training = module.dropout, 0.0, True
        try:
            yield
        finally:
            module.dropout = dropout


def _run_layer(module: nn.Module, x: torch.Tensor, state: _State, counts: Any) -> tuple[torch.Tensor, _State]:
    """nn.LSTM and its kind."""
    if counts is None:
        y, last = _forward(module, packed=False)(x if module.batch_first else x.transpose(0, 1), state)
        y = y if module.batch_first else y.transpose(0, 1)
    else:  # torch packs no empty sequence: those run one step, and are then as if they had not
        packed = pack_padded_sequence(x, counts.clamp(min=1), batch_first=True, enforce_sorted=False)
        y, last = _forward(module, packed=True)(packed, state)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        empty = (counts == 0).to(x.device)
        y = y.masked_fill(empty[:, None, None], 0)
        last = _kept(empty[:, None], last, state)
    return y, last


def _forward(module: nn.Module, *, packed: bool) -> Any:
    """What runs a module: itself, or in a scripted one torch's overload for tensors (0) or packed sequences (1)."""
    return getattr(module, f"forward__{int(packed)}", module)


def _kept(where: torch.Tensor, new: Any, old: Any) -> Any:
    """`new`, with `old` in the rows that `where` marks; for a state or a pair of states."""
    if isinstance(new, tuple):
        return tuple(torch.where(where, a, b) for a, b in zip(old, new, strict=True))
    return torch.where(where, old, new)


def _run_faithful(module: nn.Module, x: torch.Tensor, state: _State, counts: Any) -> tuple[torch.Tensor, _State]:
    """Our own module, which takes lengths."""
    y, last = module(x if module.batch_first else x.transpose(0, 1), state, lengths=counts)
    return (y if module.batch_first else y.transpose(0, 1)), last


def _run_cell(module: nn.Module, x: torch.Tensor, state: _State, counts: Any) -> tuple[torch.Tensor, _State]:
    """nn.LSTMCell and its kind, step by step; a step that does not count leaves the state as it is and gives zero."""
    outputs = []
    for t, step in enumerate(x.unbind(1)):
        new = module(step, state)
        done = torch.zeros(len(x), 1, dtype=torch.bool) if counts is None else (counts <= t)[:, None]
        done = done.to(x.device)
        state = _kept(done, new, state)
        outputs.append(_each(state)[0].masked_fill(done, 0))
    return torch.stack(outputs, 1), state
