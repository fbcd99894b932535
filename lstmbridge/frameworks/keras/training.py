"""Keras' optimizers: read, built on a model's variables, and run for some steps.

Source: keras/src/optimizers/{base_optimizer,sgd,adam,adamw,rmsprop,adagrad}.py (Keras 3.15).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from lstmbridge import arrays as xp
from lstmbridge.contract import ReadOptions
from lstmbridge.errors import FileError, LayoutError, Unsupported
from lstmbridge.frameworks.keras.layout import LAYOUTS
from lstmbridge.frameworks.keras.live import layer_at
from lstmbridge.frameworks.keras.live import read as read_layers
from lstmbridge.frameworks.keras.objects import array, named, slots
from lstmbridge.layer import Array, Layer
from lstmbridge.optimizers import KINDS, OptimizerState, packed, unpacked

__all__ = ["build", "freeze", "load", "read", "train"]

#: Keras' class of each kind; AdamW is Adam with a weight decay, which every class has.
_CLASSES: Mapping[str, str] = {
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adam",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
}

#: Where an optimizer keeps what: a list with a variable for each trainable one, in their order.
_LISTS: Mapping[str, Mapping[str, str]] = {
    "sgd": {"momentum": "momentums"},
    "adam": {"momentum": "_momentums", "velocity": "_velocities", "largest_velocity": "_velocity_hats"},
    "rmsprop": {"velocity": "_velocities", "momentum": "_momentums", "average": "_average_gradients"},
    "adagrad": {"accumulator": "_accumulators"},
}

#: Keras' momentum has the learning rate in it: m = momentum m - rate g for SGD, and + for RMSprop.
_RATED: Mapping[tuple[str, str], float] = {("sgd", "momentum"): -1.0, ("rmsprop", "momentum"): 1.0}

#: What no other framework does.
_ALONE = ("clipnorm", "global_clipnorm", "clipvalue", "use_ema", "loss_scale_factor", "gradient_accumulation_steps")


# ---- Keras' to ours


def read(optimizer: Any, obj: Any, layers: Sequence[Layer]) -> OptimizerState:
    """The state of an optimizer of `obj`, whose recurrent layers `layers` are; copies, on the host.

    Errors: Unsupported for another class than SGD, Adam, AdamW, RMSprop and Adagrad, and for what no other framework
    does, by name; LayoutError for an optimizer of other variables.
    """
    kind = _kind(optimizer)
    config = optimizer.get_config()
    _expect_common(optimizer, config, kind)
    places = {layer.label: _places(obj, layer) for layer in layers}
    order = {id(variable): n for n, variable in enumerate(optimizer._trainable_variables)}
    own = {id(variable) for each in places.values() for variable in each.values()}
    if optimizer.built and not own & set(order):
        raise LayoutError(
            f"keras {type(optimizer).__name__}: none of the recurrent weights is trained by it",
            f"found: {', '.join(variable.path for variable in optimizer._trainable_variables[:8])}",
        )
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    kept = dict(_kept(optimizer, kind, rate))
    others = {name: order[id(v)] for name, v in named(obj).items() if id(v) in order and id(v) not in own}
    return OptimizerState(
        kind=kind,
        learning_rate=rate,
        settings=_settings(kind, config),
        step=int(keras.ops.convert_to_numpy(optimizer.iterations)),
        layers=tuple(layers),
        slots={layer.label: _slots(kind, layer, places[layer.label], order, kept) for layer in layers},
        others={name: {slot: each[n] for slot, each in kept.items()} for name, n in others.items()},
        framework="keras",
        notes=tuple(_notes(optimizer, places, order)),
    )


def _kind(optimizer: Any) -> str:
    name = type(optimizer).__name__
    if name not in _CLASSES or getattr(keras.optimizers, name) is not type(optimizer):
        wraps = hasattr(optimizer, "inner_optimizer")
        hint = ["it wraps one: give optimizer.inner_optimizer"] if wraps else []
        raise Unsupported(
            f"keras optimizer {type(optimizer).__module__}.{name}", f"expected {', '.join(_CLASSES)}", *hint
        )
    return _CLASSES[name]


def _expect_common(optimizer: Any, config: Mapping[str, Any], kind: str) -> None:
    """That it does nothing that no other framework does. Errors: Unsupported."""
    for name in _ALONE:
        if config.get(name):
            raise Unsupported(
                f"keras {kind}: {name}={config[name]}",
                "no other framework's optimizer does it: it belongs into the training loop there",
                f"to move the rest: optimizer.{name} = {False if config[name] is True else None}",
            )
    spared = [getattr(optimizer, f"_exclude_from_weight_decay{end}", None) for end in ("", "_pattern")]
    if config.get("weight_decay") and any(spared):
        raise Unsupported(f"keras {kind}: exclude_from_weight_decay", "expected the same decay for all weights")


def _settings(kind: str, config: Mapping[str, Any]) -> dict[str, float | bool]:
    names = {"sgd": ("momentum", "nesterov"), "adam": ("beta_1", "beta_2", "epsilon", "amsgrad"),
             "rmsprop": ("rho", "momentum", "epsilon", "centered"), "adagrad": ("epsilon",)}  # fmt: skip
    return {"weight_decay": float(config.get("weight_decay") or 0.0), **{name: config[name] for name in names[kind]}}


def _places(obj: Any, layer: Layer) -> dict[str, Any]:
    """The variables of one layer, by the names of its layout."""
    [(_, variables)] = slots(layer_at(obj, layer.path), [layer], layer.path)
    return variables


def _kept(optimizer: Any, kind: str, rate: float) -> Iterator[tuple[str, list[Array]]]:
    """For each slot what is kept for each trainable variable, without the learning rate. Errors: Unsupported."""
    for slot, name in _LISTS[kind].items():
        variables = getattr(optimizer, name, None) or []
        factor = _RATED.get((kind, slot))
        if factor is not None and variables and not rate:
            raise Unsupported(f"keras {kind}: momentum with a learning rate of 0", "it holds the rate, and no gradient")
        found = [np.array(xp.host(array(variable))) for variable in variables]
        if found:
            yield slot, found if factor is None else [each / (factor * rate) for each in found]


def _slots(
    kind: str, layer: Layer, places: Mapping[str, Any], order: Mapping[int, int], kept: Mapping[str, list[Array]]
) -> dict[str, dict[str, Array]]:
    trained = {key: order[id(variable)] for key, variable in places.items() if id(variable) in order}
    return {
        slot: unpacked(LAYOUTS[layer.spec.cell], layer, {key: each[n] for key, n in trained.items()}, KINDS[kind][slot])
        for slot, each in kept.items()
    }


def _notes(optimizer: Any, places: Mapping[str, Mapping[str, Any]], order: Mapping[int, int]) -> Iterator[str]:
    if not isinstance(optimizer._learning_rate, keras.Variable):
        yield "its learning rate follows a schedule: only the rate of the next step is taken along"
    frozen = [variable.path for each in places.values() for variable in each.values() if id(variable) not in order]
    if frozen and optimizer.built:
        yield f"not trained: {', '.join(frozen)}"


# ---- ours to Keras'


def build(state: OptimizerState, obj: Any, layers: Sequence[Layer]) -> tuple[Any, list[str]]:
    """A new optimizer of all trainable variables of `obj`, with that state; and notes.

    Errors: LayoutError for something kept of another shape.
    """
    optimizer = _new(state)
    trainable = list(obj.trainable_variables)
    optimizer.build(trainable)
    optimizer.iterations.assign(state.step)
    order = {id(variable): n for n, variable in enumerate(trainable)}
    filled: set[int] = set()
    for n, slot, content in _contents(state, obj, layers, order):
        variable = getattr(optimizer, _LISTS[state.kind][slot])[n]
        if tuple(variable.shape) != tuple(content.shape):
            raise LayoutError(
                f"keras {trainable[n].path}: {slot} has shape {content.shape}", f"expected {tuple(variable.shape)}"
            )
        factor = _RATED.get((state.kind, slot))
        variable.assign(content if factor is None else content * (factor * state.learning_rate))
        filled.add(n)
    anew = [variable.path for n, variable in enumerate(trainable) if n not in filled]
    told = f"begins anew for {', '.join(anew)}, after {state.step} steps"
    return optimizer, [told] if anew and any(state.slots.values()) else []


def _new(state: OptimizerState) -> Any:
    """An optimizer of that kind with its settings, not built."""
    settings: dict[str, Any] = {name: value for name, value in state.settings.items() if name != "weight_decay"}
    settings |= {"learning_rate": state.learning_rate, "weight_decay": state["weight_decay"] or None}
    names = [name for name, kind in _CLASSES.items() if kind == state.kind]
    extra = {"initial_accumulator_value": 0.0} if state.kind == "adagrad" else {}
    return getattr(keras.optimizers, names[-1] if state["weight_decay"] else names[0])(**settings, **extra)


def _contents(
    state: OptimizerState, obj: Any, layers: Sequence[Layer], order: Mapping[int, int]
) -> Iterator[tuple[int, str, Array]]:
    """(number of a trainable variable, slot, what is kept for it), of all of them for which something is."""
    for layer in layers:
        places = _places(obj, layer)
        for slot, weights in state.slots.get(layer.label, {}).items():
            for key, content in packed(LAYOUTS[layer.spec.cell], layer, weights, KINDS[state.kind][slot]).items():
                if id(places[key]) in order:
                    yield order[id(places[key])], slot, content
    known = {name: order[id(variable)] for name, variable in named(obj).items() if id(variable) in order}
    for name, each in state.others.items() if state.framework == "keras" else ():
        if name in known:
            yield from ((known[name], slot, content) for slot, content in each.items())


def freeze(obj: Any, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Nothing: Keras keeps both biases of a GRU in one variable, and has one bias elsewhere."""
    del obj, layers
    return ()


# ---- a checkpoint


def load(path: Path, options: ReadOptions) -> OptimizerState:
    """The state of the optimizer in a file of a compiled model. Errors: FileError for one without."""
    model = _compiled(path)
    if getattr(model, "optimizer", None) is None:
        raise FileError(f"{path}: no optimizer in it", "expected a model that was compiled and saved whole")
    return read(model.optimizer, model, read_layers(model, options).layers)


def _compiled(path: Path) -> Any:
    """The model of a file, with its optimizer. Errors: FileError with Keras' own words, and its warnings in them."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping variable loading for optimizer")
            return keras.saving.load_model(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, Warning) as error:
        if "Skipping variable loading for optimizer" in str(error) and "has 2 variables" in str(error):
            raise FileError(
                f"{path}: its optimizer has taken no step, and keeps nothing", "begin with a new optimizer"
            ) from error
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FileError(
            f"{path}: Keras {keras.__version__} does not load it with its optimizer",
            f"found: {reason[:200]}",
            "its layers are read all the same: lstmbridge.read; begin with a new optimizer",
        ) from error


# ---- some steps


def train(
    obj: Any, layers: Sequence[Layer], optimizer: Any, batches: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
) -> list[float]:
    """One step for each batch (x, target) on the mean squared error of the outputs; the losses before each step.

    x (b, t, i) and target (b, t, f); `obj` is called as it is, and must give sequences.
    """
    losses = []
    for x, target in batches:
        there = [keras.ops.convert_to_tensor(each, dtype=layers[0].dtype) for each in (x, target)]
        variables = list(obj.trainable_variables)

        def loss(there: Sequence[Any] = there) -> Any:
            return keras.ops.mean(keras.ops.square(obj(there[0]) - there[1]))

        value, gradients = _GRADIENTS[keras.backend.backend()](loss, variables)
        optimizer.apply(gradients, variables)
        losses.append(float(keras.ops.convert_to_numpy(value)))
    return losses


# ---- the backends, each already imported by Keras: (loss, variables) -> the loss and its gradients


def _tensorflow(loss: Callable[[], Any], variables: Sequence[Any]) -> tuple[Any, list[Any]]:
    with sys.modules["tensorflow"].GradientTape() as tape:
        value = loss()
    return value, list(tape.gradient(value, [variable.value for variable in variables]))


def _torch(loss: Callable[[], Any], variables: Sequence[Any]) -> tuple[Any, list[Any]]:
    torch = sys.modules["torch"]
    with torch.enable_grad():
        value = loss()
    found = torch.autograd.grad(value, [variable.value for variable in variables])
    return value.detach(), list(found)


def _jax(loss: Callable[[], Any], variables: Sequence[Any]) -> tuple[Any, list[Any]]:
    def pure(values: Sequence[Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss()

    value, found = sys.modules["jax"].value_and_grad(pure)([variable.value for variable in variables])
    return value, list(found)


_GRADIENTS = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
