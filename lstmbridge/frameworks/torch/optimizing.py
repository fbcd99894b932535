"""What torch's optimizers keep, and how they call it; nothing imports torch.

Source: torch/optim/{sgd,adam,adamw,rmsprop,adagrad}.py (PyTorch 2.13). An optimizer's ``state_dict()`` has the settings
of each group of parameters, and for each parameter what is kept for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lstmbridge.errors import Ambiguous, LayoutError, Unsupported, listed
from lstmbridge.frameworks.torch.layout import CELL_LAYOUTS, LAYOUTS
from lstmbridge.layer import Array, Layer
from lstmbridge.notation import Layout
from lstmbridge.optimizers import KINDS, OptimizerState, packed, unpacked

__all__ = ["CLASSES", "group_of", "in_torchs_words", "kept_for", "names_of", "second_biases", "state_of"]

#: torch's class of each kind.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "sgd": ("SGD",),
    "adam": ("Adam", "AdamW"),
    "rmsprop": ("RMSprop",),
    "adagrad": ("Adagrad",),
}

#: Our names by torch's: settings of a group, and what is kept for a parameter.
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "sgd": {"momentum": "momentum", "nesterov": "nesterov"},
    "adam": {"eps": "epsilon", "amsgrad": "amsgrad"},
    "rmsprop": {"alpha": "rho", "momentum": "momentum", "eps": "epsilon", "centered": "centered"},
    "adagrad": {"eps": "epsilon"},
}
_SLOTS: Mapping[str, Mapping[str, str]] = {
    "sgd": {"momentum_buffer": "momentum"},
    "adam": {"exp_avg": "momentum", "exp_avg_sq": "velocity", "max_exp_avg_sq": "largest_velocity"},
    "rmsprop": {"square_avg": "velocity", "momentum_buffer": "momentum", "grad_avg": "average"},
    "adagrad": {"sum": "accumulator"},
}

#: A setting that only this kind's groups have.
_TOLD_BY = {"dampening": "sgd", "amsgrad": "adam", "alpha": "rmsprop", "lr_decay": "adagrad"}

#: What no other framework does, with the value that leaves it out.
_ALONE = {"maximize": False, "dampening": 0, "lr_decay": 0}

Group = Mapping[str, Any]


# ---- torch's to ours


def state_of(
    groups: Sequence[Group],
    kept: Mapping[str, Mapping[str, Any]],
    trained: Mapping[str, int],
    layers: Sequence[Layer],
    kind: str | None = None,
) -> OptimizerState:
    """The state of an optimizer in canonical form.

    groups   the settings of its groups
    kept     for each parameter by its name, what is kept for it; arrays of any kind that has a host
    trained  for each parameter that it trains, the number of its group
    layers   the recurrent layers of the model
    kind     where the class of the optimizer says it; else the settings must

    Errors: Unsupported for what no other framework does, by name, and for groups or steps that differ among the
    layers' weights; LayoutError if none of them is trained; Ambiguous for weight decay that may be either kind.
    """
    own = {name: layer for layer in layers for name in names_of(layer)}
    mine = [name for name in trained if name in own]
    if not mine:
        found = ", ".join(list(trained)[:8]) or "nothing"
        raise LayoutError("torch optimizer: none of the recurrent weights is trained by it", f"found: {found}")
    group = _one_group(groups, sorted({trained[name] for name in mine}))
    kind = kind or _kind(group)
    return OptimizerState(
        kind=kind,
        learning_rate=float(group["lr"]),
        settings=_settings(kind, group),
        step=_step(kept, mine),
        layers=tuple(layers),
        slots={layer.label: _slots(kind, layer, kept) for layer in layers},
        others={name: _others(kind, each) for name, each in kept.items() if name not in own},
        framework="torch",
        notes=(*_notes(group, trained, own), *_other_groups(groups, group, trained, own)),
    )


def names_of(layer: Layer) -> dict[str, str]:
    """The full names of a layer's parameters, each with the one it has in the layout."""
    keys = _layout(layer).keys(layer.spec, layer.level or 0)
    return {f"{layer.path}.{key}".lstrip("."): key for key in keys}


def second_biases(layer: Layer) -> list[str]:
    """The full names of the parameters that hold a layer's second biases and nothing else."""
    places = _layout(layer).places(layer.spec, layer.level or 0)
    mixed = {place.key for name, place in places.items() if ".recurrent_bias." not in name}
    seconds = {place.key for place in places.values()} - mixed
    return [name for name, key in names_of(layer).items() if key in seconds]


def _layout(layer: Layer) -> Layout:
    cell = str(layer.metadata.get("class", "")).endswith("Cell")
    return (CELL_LAYOUTS if cell else LAYOUTS)[layer.spec.cell]


def _one_group(groups: Sequence[Group], numbers: Sequence[int]) -> Group:
    """The settings of the layers' weights. Errors: Unsupported if they are not the same for all of them."""
    first, *others = (groups[number] for number in numbers)
    for other in others:
        unlike = _unlike(first, other)
        if unlike:
            raise Unsupported(
                f"torch optimizer: the recurrent weights have groups of their own: {', '.join(unlike)} differ",
                f"found {', '.join(f'{name} {first[name]} and {other.get(name)}' for name in unlike)}",
                "other frameworks have one setting for all: give the groups the same, or begin with a new optimizer",
            )
    return first


def _unlike(one: Group, other: Group) -> list[str]:
    """The settings that differ."""
    return [name for name in one if name not in ("params", "param_names") and one[name] != other.get(name)]


def _kind(group: Group) -> str:
    """The kind of an optimizer, from the settings of a group."""
    kinds = {kind for name, kind in _TOLD_BY.items() if name in group}
    if len(kinds) != 1:
        raise Unsupported(
            f"torch optimizer with the settings {', '.join(name for name in group if name != 'params')}",
            f"expected those of one of {', '.join(name for names in CLASSES.values() for name in names)}",
        )
    return kinds.pop()


def _settings(kind: str, group: Group) -> dict[str, float | bool]:
    for name, nothing in _ALONE.items():
        if group.get(name, nothing) != nothing:
            raise Unsupported(f"torch {kind}: {name}={group[name]}", "no other framework has it", f"{name}={nothing}?")
    found = {ours: group[theirs] for theirs, ours in _SETTINGS[kind].items()}
    found |= dict(zip(("beta_1", "beta_2"), group["betas"], strict=True)) if kind == "adam" else {}
    found["weight_decay"] = _decay(kind, group)
    return {n: value if isinstance(value, bool) else float(value) for n, value in found.items()}


def _decay(kind: str, group: Group) -> float:
    """The decoupled weight decay. Errors: Unsupported for one that goes into the gradient; Ambiguous."""
    decay = float(group.get("weight_decay", 0.0))
    if not decay or (kind == "sgd" and not group["momentum"]):  # plain SGD: both kinds are the same
        return decay
    decoupled = group.get("decoupled_weight_decay")
    if kind == "adam" and decoupled is None:
        raise Ambiguous(f"torch: Adam or AdamW? weight_decay={decay}", "the checkpoint does not say: read it live")
    if decoupled:
        return decay
    raise Unsupported(
        f"torch {kind}: weight_decay={decay}, which is added to the gradient",
        "other frameworks shrink the weight itself: that is torch.optim.AdamW, or SGD without momentum",
    )


def _step(kept: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> int:
    """How many steps were taken. Errors: Unsupported if the weights have taken different ones."""
    steps = {int(kept[name]["step"]) for name in names if "step" in kept.get(name, {})}
    if len(steps) > 1:
        raise Unsupported(
            f"torch optimizer: the recurrent weights have taken {' and '.join(map(str, sorted(steps)))} steps",
            "other frameworks count for all weights together: train them together, or begin with a new optimizer",
        )
    return steps.pop() if steps else 0


def _slots(kind: str, layer: Layer, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {}
    for theirs, ours in _SLOTS[kind].items():
        arrays = {
            key: kept[name][theirs] for name, key in names_of(layer).items() if _there(kept.get(name, {}).get(theirs))
        }
        if arrays:
            found[ours] = unpacked(_layout(layer), layer, arrays, KINDS[kind][ours])
    return found


def _there(value: Any) -> bool:
    """SGD without momentum keeps None."""
    return value is not None


def _others(kind: str, kept: Mapping[str, Any]) -> dict[str, Array]:
    return {ours: kept[theirs] for theirs, ours in _SLOTS[kind].items() if _there(kept.get(theirs))}


def _notes(group: Group, trained: Mapping[str, int], own: Mapping[str, Layer]) -> list[str]:
    frozen = [name for name in own if name not in trained]
    notes = [f"not trained: {', '.join(frozen)}"] if frozen else []
    return notes + (["torch's SGD does not count its steps"] if _kind(group) == "sgd" else [])


def _other_groups(
    groups: Sequence[Group], mine: Group, trained: Mapping[str, int], own: Mapping[str, Layer]
) -> Iterator[str]:
    """A note for each setting that a group of other weights has otherwise."""
    others = {number: [name for name, n in trained.items() if n == number and name not in own] for number in
              sorted(set(trained.values()))}  # fmt: skip
    for number, names in others.items():
        unlike = _unlike(mine, groups[number])
        if names and unlike:
            words = ", ".join(f"{name} {groups[number].get(name)}, not {mine[name]}" for name in unlike)
            yield f"not taken along: settings of a group of their own for {listed(names)}: {words}"


# ---- ours to torch's


def group_of(state: OptimizerState) -> tuple[str, dict[str, Any]]:
    """The name of torch's class for a state, and its settings."""
    first, *others = CLASSES[state.kind]
    settings: dict[str, Any] = {theirs: state[ours] for theirs, ours in _SETTINGS[state.kind].items()}
    if state.kind == "adam":
        settings["betas"] = (state["beta_1"], state["beta_2"])
    decay = state["weight_decay"]
    if decay and not others and (state.kind != "sgd" or state["momentum"]):
        raise Unsupported(
            f"torch has no {first} whose weight_decay={decay} shrinks the weight itself", "use adam, or leave it out"
        )
    name = others[0] if decay and others else first
    return name, {"lr": state.learning_rate, "weight_decay": decay, **settings}


def in_torchs_words(kind: str, slots: Mapping[str, Array]) -> dict[str, Array]:
    """What is kept for one weight, by torch's names."""
    return {theirs: slots[ours] for theirs, ours in _SLOTS[kind].items() if ours in slots}


def kept_for(state: OptimizerState, layer: Layer) -> dict[str, dict[str, Array]]:
    """What is kept for each parameter of a layer by its full name, in torch's words; arrays on the host."""
    keys = {key: name for name, key in names_of(layer).items()}
    found: dict[str, dict[str, Array]] = {}
    for theirs, ours in _SLOTS[state.kind].items():
        weights = state.slots.get(layer.label, {}).get(ours, {})
        if weights:
            for key, array in packed(_layout(layer), layer, weights, KINDS[state.kind][ours]).items():
                found.setdefault(keys[key], {})[theirs] = array
    return found
