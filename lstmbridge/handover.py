"""States handed from one framework to another: read from a framework's own form, written in any other's.

    y, (h_n, c_n) = lstm(x)                          # torch's own
    states = read_states((h_n, c_n), lstm)           # canonical, by layer and direction
    write_states(states, to="onnx")                  # {"initial_h": ..., "initial_c": ...}

A framework says its forms as data, in the notation of `lstmbridge.statenotation`. What is read owns its memory, and so
does what is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge import registry
from lstmbridge.errors import Ambiguous, LayoutError, OptionError, UnknownName, Unsupported, unknown
from lstmbridge.layer import Array, Layer, modules
from lstmbridge.statenotation import StateForm, flat
from lstmbridge.states import Source, State, States, layers_of

__all__ = ["read_states", "write_states"]


# ---- read


def read_states(
    value: Any, layers: Source | None = None, *, framework: str | None = None, form: str | None = None
) -> States:
    """The states of recurrent layers, from a framework's own form or from a model that keeps them.

    value      what the framework takes and gives: torch's (h_n, c_n), Keras' list, ONNX' initial_h and initial_c or
               Y_h and Y_c by name, TensorFlow 1's (c, h); of several modules a sequence of these, or names that begin
               with the label. Or a model that keeps its states between calls: Keras' stateful layers
    layers     whose states they are: Layers, or an object or path that has some; of a model that keeps states all
               layers that do, where nothing is said
    framework  whose form it is; may be left out where it fits that of one alone, and where its arrays are the own
               tensors of the framework that `layers` are of
    form       which of its forms, by name, where it has several; else the usual one

    What is given back owns its memory. Errors: LayoutError for another number of arrays, other shapes or names, with
    the layer, and what was expected in the notation; Ambiguous where they fit several frameworks and are not the same
    in them; Unsupported for a model that keeps no states.

    >>> layer = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
    >>> print(read_states({"Y_h": np.full((1, 4, 3), 0.5)}, layer))
    layer: rnn: h d b p = (1, 4, 3) within 0.5, float64
    """
    if isinstance(value, str | os.PathLike):
        raise OptionError(f"{value} is a path", "a file of states: States.load; a model that keeps some: load it first")
    if not _is_own_form(value):
        if framework is not None or form is not None:
            what = f"framework= and form= are for states by themselves, not for a {type(value).__name__}"
            raise OptionError(what, "leave them out")
        return _read_kept(value, layers)
    if layers is None:
        raise LayoutError("whose states are these?", "say the layers: read_states(value, layers)")
    found = layers_of(layers)
    if framework is None:
        if form is not None:
            raise OptionError(f"form={form!r} of no framework", "say whose it is: framework=")
        told = _told(value, layers)
        return _recognised(value, found) if told is None else _in_one_form(value, found, told)
    of = registry.framework(framework)
    forms = _forms(of)
    name = _name(of, forms, form)
    try:
        return _read_form(value, found, of.name, forms[name])
    except LayoutError as error:
        hints = [f"it fits form={other!r}" for other in forms if other != name and _fits(value, found, of.name, other)]
        raise LayoutError(error.headline, *error.details, *hints) from None


def _in_one_form(value: Any, layers: Sequence[Layer], name: str) -> States:
    """The states in the usual form of the framework, or in the only other one that they fit. Errors: LayoutError."""
    usual, *others = _forms(registry.framework(name))
    fitting = [] if _fits(value, layers, name, usual) else [each for each in others if _fits(value, layers, name, each)]
    chosen = fitting[0] if len(fitting) == 1 else usual
    return _read_form(value, layers, name, _forms(registry.framework(name))[chosen])


def _told(value: Any, layers: Source) -> str | None:
    """The framework whose own tensors and whose own model these are; None if that is not one."""
    if isinstance(layers, str | os.PathLike | list | tuple | Layer):
        return None
    values = value.values() if isinstance(value, Mapping) else [value]
    owners = {_owner(array) for each in values for _, array in flat(each)}
    return _owner(layers) if owners == {_owner(layers)} else None


def _is_own_form(value: Any) -> bool:
    """Whether it is states by themselves: an array, or several."""
    return isinstance(value, list | tuple | Mapping) or (hasattr(value, "shape") and hasattr(value, "dtype"))


def _forms(of: registry.Framework) -> Mapping[str, StateForm]:
    """The forms of a framework, the usual one first. Errors: Unsupported if it states none."""
    forms: Mapping[str, StateForm] = getattr(of.layout, "STATES", {})
    if not forms:
        raise Unsupported(f"{of.name} has no form of states here", "its layout.py can state one: STATES")
    return forms


def _name(of: registry.Framework, forms: Mapping[str, StateForm], form: str | None) -> str:
    """The name of a form of the framework. Errors: UnknownName."""
    if form is not None and form not in forms:
        raise unknown(f"form of {of.name}'s states", form, forms)
    return form or next(iter(forms))


def _recognised(value: Any, layers: Sequence[Layer]) -> States:
    """The states, if they are the same in the usual form of every framework that they fit.

    Errors: Ambiguous if they are not; LayoutError if they fit none, with the reason of the one whose arrays or names
    they are, or of each.
    """
    fitting: dict[str, States] = {}
    reasons: dict[str, LayoutError] = {}
    for name in registry.names():
        forms = getattr(registry.framework(name).layout, "STATES", None)
        if not forms:
            continue
        try:
            fitting[name] = _read_form(value, layers, name, next(iter(forms.values())))
        except LayoutError as error:
            reasons[name] = error
    found = list(fitting.values())
    if fitting and not all(each.same_bits(found[0]) for each in found):
        raise Ambiguous(
            "whose form of states is this?", f"as {' or '.join(fitting)} it is not the same", "say it: framework="
        )
    if not fitting:
        raise _fits_none(value, layers, reasons)
    return found[0]


def _fits_none(value: Any, layers: Sequence[Layer], reasons: Mapping[str, LayoutError]) -> LayoutError:
    """Why states fit no form: in the words of the framework that they can only be of, or of all."""
    likely = _likely(value, layers, reasons)
    if len(likely) == 1:
        return reasons[likely[0]]
    lines = [f"not {'; '.join((error.headline, *error.details[:1]))}" for error in reasons.values()]
    return LayoutError("states that fit the form of no framework", *lines)


def _likely(value: Any, layers: Sequence[Layer], names: Iterable[str]) -> list[str]:
    """Of these frameworks those whose names the states have; or else the one whose own tensors they are."""
    forms = {name: next(iter(_forms(registry.framework(name)).values())) for name in names}
    if isinstance(value, Mapping):
        said = {key.rpartition(".")[2] for key in value} | set(value)
        specs = [layer.spec for layer in layers]
        return [name for name, form in forms.items() if said & form.known(specs)]
    owners = {_owner(array) for _, array in flat(value)}
    return [name for name in forms if owners == {name}]


def _owner(array: Any) -> str:
    """The framework whose own tensor an array is, or ""."""
    try:
        return registry.of_object(array).name
    except UnknownName:
        return ""


def _fits(value: Any, layers: Sequence[Layer], name: str, form: str) -> bool:
    try:
        _read_form(value, layers, name, _forms(registry.framework(name))[form])
    except LayoutError:
        return False
    return True


def _read_form(value: Any, layers: Sequence[Layer], name: str, form: StateForm) -> States:
    """The states in one form of the framework of that name. Errors: LayoutError."""
    units = _units(layers, form)
    states: list[State] = []
    for unit, own in zip(units, _taken_apart(value, units, name, form), strict=True):
        specs, who = [layer.spec for layer in unit], _who(name, unit)
        arrays = {key: _array(each, f"{who}: {key}") for key, each in form.arrays(own, specs, who).items()}
        states += _owned(unit, form.layout.unpack(arrays, specs, who=who))
    return States(tuple(states))


def _owned(unit: Sequence[Layer], found: Sequence[Mapping[str, Array]]) -> list[State]:
    return [
        State.at(layer, {name: xp.own(array) for name, array in named.items()})
        for layer, named in zip(unit, found, strict=True)
    ]


def _units(layers: Sequence[Any], form: StateForm) -> list[Any]:
    """The layers, or their states, that stand together in this form: those of one module, if it has room for levels."""
    ends = modules(layers) if form.layout.stacked else ((n, n + 1) for n in range(len(layers)))
    return [layers[begin:end] for begin, end in ends]


def _label(unit: Sequence[Any]) -> str:
    """A module's name: its path, or the label of its one layer."""
    return str(unit[0].path if len(unit) > 1 else unit[0].label)


def _who(framework: str, unit: Sequence[Layer]) -> str:
    cells = "/".join(dict.fromkeys(layer.spec.cell.upper() for layer in unit))
    name = _label(unit)
    return f"{framework} state of {f'{cells} {name!r}' if name else f'the {cells}'}"


def _taken_apart(value: Any, units: Sequence[Sequence[Layer]], name: str, form: StateForm) -> list[Any]:
    """What holds the states of each module. Errors: LayoutError."""
    if isinstance(value, Mapping):
        states = {key: each for key, each in value.items() if key not in form.beside}
        return _by_label(states, [_label(unit) for unit in units], name)
    if len(units) == 1:
        return [value]
    labels = ", ".join(map(_label, units))
    if form.named:
        raise LayoutError(f"{name} states without names", f"expected a dict with names of {labels}")
    if not isinstance(value, list | tuple) or len(value) != len(units):
        found = len(value) if isinstance(value, list | tuple) else "one array"
        raise LayoutError(f"{name} states: {found} for {len(units)} modules", f"expected one a module: {labels}")
    return list(value)


def _by_label(value: Mapping[str, Any], labels: Sequence[str], name: str) -> list[dict[str, Any]]:
    """The entries of each label, without it; one label alone may be left out. Errors: LayoutError for what is left."""
    found = [
        {key.removeprefix(f"{label}."): each for key, each in value.items() if key.startswith(f"{label}.")}
        for label in labels
    ]
    if len(labels) == 1 and len(found[0]) < len(value):
        return [dict(value)]
    left = [key for key in value if not any(key.startswith(f"{label}.") for label in labels)]
    if left:
        expected = f"expected names that begin with {' or '.join(f'{label}.' for label in labels)}"
        raise LayoutError(f"{name} states of no layer: {', '.join(left)}", expected)
    return found


def _array(value: Any, who: str) -> Array:
    """An array of numpy, torch or jax; any other's on the host. Errors: LayoutError for what is none."""
    try:
        return value.detach() if xp.kind(value) == "torch" else value
    except TypeError:
        if not hasattr(value, "__array__"):
            raise LayoutError(f"{who} is a {type(value).__name__}", "expected an array") from None
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise LayoutError(f"{who} is a {type(value).__name__} without numbers", f"found: {reason}") from error


# ---- write


def write_states(
    states: States,
    *,
    to: str | None = None,
    form: str | None = None,
    dtype: str | None = None,
    layers: Source | None = None,
    into: Any = None,
) -> Any:
    """The states in a framework's own form; or in a model that keeps them between calls.

    to      the framework: torch gives tensors, Keras tensors of its backend, the others arrays of numpy
    form    which of its forms, by name, where it has several; else the usual one
    dtype   cast them; without it they keep theirs
    layers  for the layers of another model than they were read from, as `States.onto` pairs them: its modules are the
            ones that each get a state
    into    a live model, for its layers of the same labels, or for all in order; it is given back

    What is given back owns its memory, on the states' device where the framework has them there. Errors: LayoutError
    for states that do not fit, with the layer; Unsupported for a model that keeps no states, or a dtype that is not
    there.

    >>> layer = Layer.from_gates(kernel={"n": np.ones((3, 2))}, recurrent_kernel={"n": np.ones((3, 3))})
    >>> write_states(States.zeros(layer, batch=1), to="onnx")
    {'initial_h': array([[[0., 0., 0.]]])}
    """
    if (to is None) == (into is None):
        raise OptionError("to= and into=" if to else "neither to= nor into=", "expected one of them")
    chosen = states if dtype is None else states.cast(dtype)
    if into is not None:
        if form is not None or layers is not None:
            raise OptionError("form= and layers= have no effect with into=", "leave them out")
        return _write_kept(chosen, into)
    of = registry.framework(str(to))
    forms = _forms(of)
    chosen = chosen if layers is None else chosen.onto(layers)
    return _write_form(chosen, forms[_name(of, forms, form)], _native(of))


def _write_form(states: States, form: StateForm, native: Callable[[Array], Any]) -> Any:
    units = _units(states.states, form)
    held = []
    for unit in units:
        specs = [state.spec for state in unit]
        arrays = {key: native(array) for key, array in _packed(unit, form).items()}
        held.append(form.hold(arrays, specs))
    if len(units) == 1:
        return held[0]
    if not form.named:
        return form.several(held)
    return {f"{_label(unit)}.{key}": each for unit, own in zip(units, held, strict=True) for key, each in own.items()}


def _packed(unit: Sequence[State], form: StateForm) -> dict[str, Array]:
    return form.layout.pack([state.arrays for state in unit], [state.spec for state in unit])


def _native(of: registry.Framework) -> Callable[[Array], Any]:
    """What makes an array the framework's own; on the host where the framework does not say."""
    own = getattr(of.live, "native", None) if of.has("live") else None
    return own or (lambda array: np.array(xp.host(array)))


# ---- models that keep their states


def _keeping(obj: Any) -> tuple[Any, StateForm, str]:
    """The live room of an object's framework, and the form in which it keeps states. Errors: Unsupported."""
    of = registry.of_object(obj)
    if not hasattr(of.live, "states"):
        raise _keeps_nothing(of.name, obj)
    return of.live, next(iter(_forms(of).values())), of.name


def _keeps_nothing(framework: str, obj: Any, labels: str = "") -> Unsupported:
    return Unsupported(
        f"{framework}: {labels or f'this {type(obj).__name__}'} keeps no state between calls",
        "its states are what a call takes and gives: read_states(value, layers), write_states(states, to=...)",
    )


def _read_kept(obj: Any, layers: Source | None) -> States:
    live, form, name = _keeping(obj)
    states: list[State] = []
    lacking = []
    for unit in _units(layers_of(obj if layers is None else layers), form):
        arrays = live.states(obj, unit)
        if arrays is None:
            lacking.append(_label(unit))
        else:
            specs = [layer.spec for layer in unit]
            states += _owned(unit, form.layout.unpack(arrays, specs, who=_who(name, unit)))
    if not states or (lacking and layers is not None):
        raise _keeps_nothing(name, obj, ", ".join(filter(None, lacking)))
    return States(tuple(states))


def _write_kept(states: States, obj: Any) -> Any:
    live, form, name = _keeping(obj)
    there = [unit for unit in _units(layers_of(obj), form) if live.states(obj, unit) is not None]
    if not there:
        raise _keeps_nothing(name, obj)
    known = {layer.label: layer for unit in there for layer in unit}
    placed = states.onto(tuple(known.values()))
    units = _units(placed.states, form)
    live.set_states(obj, [([known[state.label] for state in unit], _packed(unit, form)) for unit in units])
    return obj
