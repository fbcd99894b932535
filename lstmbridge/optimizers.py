"""The state of an optimizer in canonical form: what it keeps for each weight, and with which settings.

Four rules, as all frameworks have them; g is the gradient of a weight, and everything is done number by number:

    sgd      u = momentum u + g                            w -= rate u           (nesterov: rate (g + momentum u))
    adam     m = beta_1 m + (1 - beta_1) g                 w -= rate m' / (sqrt(v') + epsilon), m' and v' being m and v
             v = beta_2 v + (1 - beta_2) g g               divided by 1 - beta^step
    rmsprop  v = rho v + (1 - rho) g g                     u = momentum u + g / (sqrt(v - a a) + epsilon), w -= rate u;
             a = rho a + (1 - rho) g                       a is kept with `centered` only
    adagrad  s = s + g g                                   w -= rate g / (sqrt(s) + epsilon)

Where exactly epsilon is added differs from framework to framework, and is said by each (`Rules.epsilon`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lstmbridge import arrays as xp
from lstmbridge.errors import SpecError, Unsupported, unknown
from lstmbridge.fit import terms
from lstmbridge.layer import Array, Layer
from lstmbridge.notation import Layout
from lstmbridge.spec import Spec

__all__ = ["KINDS", "SETTINGS", "OptimizerState", "Rules", "Slots", "carried", "packed", "unpacked"]

#: What is kept for each weight, and with which power of the gradient it grows: where the opposite of a weight is
#: stored, the first power changes its sign and the second does not.
KINDS: Mapping[str, Mapping[str, int]] = {
    "sgd": {"momentum": 1},
    "adam": {"momentum": 1, "velocity": 2, "largest_velocity": 2},
    "rmsprop": {"velocity": 2, "momentum": 1, "average": 1},
    "adagrad": {"accumulator": 2},
}

#: The settings of each kind and what leaves them out; ``weight_decay`` is decoupled: w -= rate weight_decay w.
SETTINGS: Mapping[str, Mapping[str, float | bool]] = {
    "sgd": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 0.0, "amsgrad": False, "weight_decay": 0.0},
    "rmsprop": {"rho": 0.9, "momentum": 0.0, "epsilon": 0.0, "centered": False, "weight_decay": 0.0},
    "adagrad": {"epsilon": 0.0, "weight_decay": 0.0},
}

#: For one layer: slot, then weight by its canonical name. A weight that is not trained is left out.
Slots = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Rules:
    """How a framework's optimizers differ from the canonical rules, as data.

    epsilon  for each kind that has one, where it is added, in words
    through  the dtype through which its settings go, whatever the weights are (Keras: float32)
    """

    epsilon: Mapping[str, str]
    through: str


@dataclass(frozen=True, eq=False, kw_only=True)
class OptimizerState:
    """What an optimizer keeps for the weights of recurrent layers, and its settings.

    kind           ``sgd``, ``adam``, ``rmsprop`` or ``adagrad``
    learning_rate  the one of the next step; a schedule is not part of it
    settings       those of the kind; what is left out is at its default
    step           how many steps were taken
    layers         the recurrent layers whose weights it trains
    slots          for each of them (by label) its `Slots`; empty before the first step
    others         what it keeps for weights that are no recurrent layer's: the framework's own name of the weight, then
                   the slot; in the framework's own shape
    framework      whose it was
    notes          what a reader should know

    Errors: UnknownName for a kind, a setting, a slot or a label that is none; SpecError for a setting out of range.

    >>> state = OptimizerState(kind="adam", learning_rate=0.01, settings={"beta_1": 0.8}, step=3)
    >>> print(state)
    adam: rate 0.01, beta_1 0.8, beta_2 0.999, epsilon 0, after 3 steps
    """

    kind: str
    learning_rate: float
    settings: Mapping[str, float | bool] = field(default_factory=dict)
    step: int = 0
    layers: tuple[Layer, ...] = ()
    slots: Mapping[str, Slots] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    framework: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("optimizer", self.kind, KINDS)
        for name, value in self.settings.items():
            if name not in SETTINGS[self.kind]:
                raise unknown(f"setting of {self.kind}", name, SETTINGS[self.kind])
            if not 0 <= value < float("inf"):
                raise SpecError(f"{self.kind}: {name} is {value}", "expected a number that is not negative")
        object.__setattr__(self, "settings", {**SETTINGS[self.kind], **self.settings})
        labels = [layer.label for layer in self.layers]
        for label, slots in self.slots.items():
            if label not in labels:
                raise unknown("layer", label, labels)
            for slot in slots:
                if slot not in KINDS[self.kind]:
                    raise unknown(f"slot of {self.kind}", slot, KINDS[self.kind])

    def __getitem__(self, name: str) -> float | bool:
        """A setting. Errors: UnknownName."""
        if name not in self.settings:
            raise unknown(f"setting of {self.kind}", name, self.settings)
        return self.settings[name]

    def __str__(self) -> str:
        default = SETTINGS[self.kind]
        always = ("beta_1", "beta_2", "rho", "epsilon")
        shown = {name: value for name, value in self.settings.items() if name in always or value != default[name]}
        words = [name if value is True else f"{name} {value:g}" for name, value in shown.items()]
        steps = f"after {self.step} step{'s' * (self.step != 1)}"
        return ", ".join([f"{self.kind}: rate {self.learning_rate:g}", *words, steps])

    def replace(self, **changes: Any) -> OptimizerState:
        """This state with some fields changed, checked anew."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return OptimizerState(**{**fields, **changes})


# ---- from a framework's arrays and back


def unpacked(layout: Layout, layer: Layer, arrays: Mapping[str, Array], power: int) -> dict[str, Array]:
    """What is kept for each weight of a layer, from the arrays of its layout: copies, on the host.

    power  that of the gradient in it: an even one has no sign. An array that is not there is not trained, and its
    weights are left out.
    """
    places = layout.places(layer.spec, layer.level or 0)
    there = {name: place.of_power(power) for name, place in places.items() if place.key in arrays}
    return {name: np.array(place.of(xp.host(arrays[place.key])), order="C") for name, place in there.items()}


def packed(layout: Layout, layer: Layer, weights: Mapping[str, Array], power: int) -> dict[str, Array]:
    """The arrays of a layout from what is kept for each weight, on the host; zeros for weights that have nothing.

    Arrays of which no weight has anything are left out.
    """
    level = layer.level or 0
    places = layout.places(layer.spec, level)
    kept = {places[name].key for name in weights}
    dtype = next((array.dtype for array in weights.values()), None)
    full = {name: weights.get(name, np.zeros(layer.spec.shape(name), dtype)) for name in places}
    for name, place in places.items():
        if place.sign < 0 and power % 2 == 0:  # an even power has no sign: undo the one that `pack` sets
            full[name] = -full[name]
    return {key: array for key, array in layout.pack(full, layer.spec, level=level).items() if key in kept}


# ---- from one layer to another that computes the same


#: How far what is kept for two terms of a sum may be apart, relative to the largest: their gradients are the same, and
#: frameworks compute them in another order.
_APART = {2: 1e-2, 4: 1e-4, 8: 1e-9}


def carried(slots: Slots, before: Spec, after: Spec, who: str = "") -> dict[str, dict[str, Array]]:
    """What an optimizer keeps for a layer of `before`, as it keeps it for that of `after` that was fitted to it.

    The gradient of a sum is that of each of its terms, so what is kept is the same for all of them: the sum has that of
    its terms (`lstmbridge.fit.terms`), and a bias that was padded beside another that of the other. What has no history
    is left out. Errors: Unsupported where two terms have different ones, which no sum can have.

    >>> single = Spec(cell="rnn", input_size=5, hidden_size=1)
    >>> found = carried({"momentum": {"forward.bias.n": np.ones(1)}}, single, single.replace(bias="dual"))
    >>> sorted(found["momentum"])
    ['forward.bias.n', 'forward.recurrent_bias.n']
    """
    found: dict[str, dict[str, Array]] = {}
    for slot, weights in slots.items():
        made: dict[str, Array] = {}
        for name, names in terms(before, after).items():
            there = [weights[each] for each in names if each in weights]
            _expect_same(f"{who or 'the layer'}: {slot}", names, there)
            if not names and after.mergeable(name.rpartition(".")[2]):  # padded: its gradient is its twin's
                there = [made[twin] for twin in (name.replace(".recurrent_bias.", ".bias."),) if twin in made]
            if there:
                made[name] = there[0]
        found[slot] = made
    return found


def _expect_same(who: str, names: tuple[str, ...], arrays: Sequence[Array]) -> None:
    """That all terms of a sum have the same. Errors: Unsupported."""
    for other in arrays[1:]:
        gap = float(np.max(np.abs(np.asarray(arrays[0], np.float64) - other), initial=0.0))
        scale = float(np.max(np.abs(np.asarray(arrays[0], np.float64)), initial=0.0))
        if not gap <= _APART[arrays[0].dtype.itemsize] * scale:
            raise Unsupported(
                f"{who} of {' and '.join(names)} are {gap:.3g} apart, and are merged into one",
                "they had different gradients or rates: one optimizer state cannot stand for both",
                "begin with a new optimizer, or convert to a target that holds two biases",
            )
