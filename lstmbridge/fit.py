"""What a target can hold, and the four moves that make a layer fit it: pad, merge, fold, refuse.

* pad     a bias that the target always has and the layer has not: zeros
* merge   two biases that are only ever added together, into one (never those of n in a reset-after GRU)
* fold    a constant that the source's runtime adds, into a bias
* refuse  everything else, unless it was given up by name (``allow={"drop peepholes"}``)

Merging and folding round in floating point, so they keep their terms: the way back is bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lstmbridge import arrays as xp
from lstmbridge.errors import SpecError, Unsupported, unknown
from lstmbridge.layer import Array, Layer
from lstmbridge.spec import BIASES, CELLS, MERGES, ROLES, Spec

__all__ = [
    "DROPS",
    "FEATURES",
    "GIVEN_UP",
    "Fitted",
    "Holds",
    "Refusal",
    "adjoint",
    "any_activation",
    "fit",
    "only",
    "refusals",
    "resummed",
    "terms",
    "trained_on",
]

#: What a note begins with that says of a feature that the outputs change.
GIVEN_UP = "given up by name"
EXACT, REPARAMETERISED, LOSSY = "exact", "reparameterised", "lossy"

_CONSTANT = "forget constant"  # none of `FEATURES`: where it is not held it is folded into a bias
_BOTH = ("forward", "reverse")
_DIRECTIONS = (("forward",), ("reverse",), _BOTH)


@dataclass(frozen=True)
class Holds:
    """What one framework's layer can hold, as data.

    bias         for each cell, the bias forms it can have
    activations  for each cell, a test of (activations in the order of `ROLES`, both directions)
    directions   the sets of directions one layer can have
    merges       how it can put two directions' outputs together
    features     the names of `FEATURES` it has, and ``forget constant`` where its runtime adds one
    bias_of      the bias forms where they depend on more than the cell (Keras' GRU), else None
    limit        what else it cannot hold, in words, or None (torch: a projection that is not smaller)

    Errors: UnknownName for a cell, bias form, merge or feature that is none, with the nearest name; SpecError for one
    name where several are meant, directions that no layer has, and two directions without a merge.
    """

    name: str
    bias: Mapping[str, tuple[str, ...]]
    activations: Callable[[Spec], str | None]
    directions: frozenset[tuple[str, ...]]
    merges: frozenset[str]
    features: frozenset[str]
    bias_of: Callable[[Spec], tuple[str, ...]] | None = None
    limit: Callable[[Spec], str | None] | None = None

    def __post_init__(self) -> None:
        self._known("cell", self.bias, CELLS)
        for forms in self.bias.values():
            self._known("bias form", forms, BIASES)
        self._known("merge", self.merges, MERGES)
        self._known("feature", self.features, (*FEATURES, _CONSTANT))
        for directions in self.directions:
            if directions not in _DIRECTIONS:
                expected = f"expected some of {', '.join(map(str, _DIRECTIONS))}"
                raise SpecError(f"{self.name}: directions holds {directions!r}", expected)
        if _BOTH in self.directions and not self.merges:
            raise SpecError(f"{self.name}: directions holds {_BOTH}, merges is empty", f"expected {', '.join(MERGES)}")

    def _known(self, kind: str, names: Iterable[str], choices: Collection[str]) -> None:
        if isinstance(names, str):
            raise SpecError(f"{self.name}: {kind}s are {names!r}", f"expected a tuple or a set: ({names!r},)")
        for name in names:
            if name not in choices:
                raise unknown(f"{kind} of {self.name}", name, choices)

    def biases(self, spec: Spec) -> tuple[str, ...]:
        """The bias forms a layer of this Spec can have here."""
        return self.bias_of(spec) if self.bias_of else self.bias[spec.cell]


#: Each optional feature: how a Spec shows it.
FEATURES: Mapping[str, Callable[[Spec], bool]] = {
    "projection": lambda s: s.projection_size is not None,
    "peepholes": lambda s: s.peepholes,
    "coupled input-forget": lambda s: s.coupled,
    "clip": lambda s: s.clip is not None,
    "cell clip": lambda s: s.cell_clip is not None,
    "projection clip": lambda s: s.proj_clip is not None,
    "reset after": lambda s: s.cell == "gru" and s.reset_after,
    "reset before": lambda s: s.cell == "gru" and not s.reset_after,
    "outputs as processed": lambda s: s.processed_order,
    "outputs of a reverse layer in forward time": lambda s: s.directions == ("reverse",) and not s.processed_order,
    "activations that differ by direction": lambda s: s.reverse_activations is not None,
}


#: What can be given up by name: (the feature it is for, how the Spec changes). Every one of them changes the outputs.
DROPS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "drop peepholes": ("peepholes", {"peepholes": False}),
    "drop coupling": ("coupled input-forget", {"coupled": False}),
    "drop clip": ("clip", {"clip": None}),
    "drop cell clip": ("cell clip", {"cell_clip": None}),
    "drop projection clip": ("projection clip", {"proj_clip": None}),
    "forward time": ("outputs as processed", {"processed_order": False}),
    "processed order": ("outputs of a reverse layer in forward time", {"processed_order": True}),
    "merge by concat": ("merge", {"merge": "concat"}),
    "default activations": ("activations", {"activations": (), "reverse_activations": None}),
}


@dataclass(frozen=True)
class Refusal:
    """Why a target cannot hold a layer: the feature, and the words for it."""

    feature: str
    text: str

    @property
    def drop(self) -> str | None:
        """The name by which this feature can be given up, if it can."""
        return next((name for name, (feature, _) in DROPS.items() if feature == self.feature), None)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A layer as the target holds it, what became of it, and the terms that lead back.

    module   ``stock``, or ``faithful`` for the project's own module of the target framework
    verdict  ``exact``, ``reparameterised`` (the same function, other numbers) or ``lossy`` (something given up by name)
    notes    what was done, a sentence each
    training what the change of bias form means where the target is trained on; "" if nothing
    terms    the source's weights that cannot be read back from the target's, by name; each owns its memory, or is a
             view on a file
    """

    layer: Layer
    source: Layer
    module: str = "stock"
    verdict: str = EXACT
    notes: tuple[str, ...] = ()
    terms: Mapping[str, Array] = field(default_factory=dict)
    training: str = ""


def refusals(spec: Spec, holds: Holds) -> list[Refusal]:
    """Everything about `spec` that `holds` cannot hold; none if it fits."""
    lacking = [name for name, shows in FEATURES.items() if shows(spec) and name not in holds.features]
    found = [Refusal(name, _words(name, spec)) for name in lacking]
    if spec.cell not in holds.bias:
        return [Refusal("cell", f"a {spec.cell} layer")]
    single = spec.directions == ("reverse",)
    explained = any(r.feature.startswith("outputs") for r in found)
    if spec.directions not in holds.directions and not (single and explained):
        found.append(Refusal("directions", "a layer that runs " + " and ".join(spec.directions) + " only"))
    if spec.bidirectional and spec.merge not in holds.merges:
        found.append(Refusal("merge", f"outputs merged by {spec.merge}"))
    reason = holds.activations(spec)
    if reason and "activations that differ by direction" not in {r.feature for r in found}:
        found.append(Refusal("activations", reason))
    if not any(r.feature.startswith("reset") for r in found) and not _bias_fits(spec, holds):
        found.append(Refusal("bias", _bias_words(spec)))
    beyond = holds.limit(spec) if holds.limit and not found else None
    return [*found, Refusal("limit", beyond)] if beyond else found


def _words(feature: str, spec: Spec) -> str:
    value = {
        "projection": spec.projection_size,
        "clip": spec.clip,
        "cell clip": spec.cell_clip,
        "projection clip": spec.proj_clip,
    }.get(feature)
    text = {
        "projection": "projection_size",
        "reset after": "a GRU with reset_after=True",
        "reset before": "a GRU with reset_after=False",
    }.get(feature, feature)
    return f"{text} {value:g}" if value is not None else text


def _bias_words(spec: Spec) -> str:
    inner = "recurrent_bias.n (b_hn, inside the reset product) in a single bias"
    return inner if spec.bias == "dual" and not spec.mergeable("n") else f"a {spec.bias} bias"


def _bias_fits(spec: Spec, holds: Holds) -> bool:
    forms = holds.biases(spec)
    if spec.bias in forms and not (spec.bias == "none" and spec.forget_constant):
        return True
    can_merge = all(spec.mergeable(gate) for gate in spec.gates)
    if spec.bias == "dual":
        return "single" in forms and can_merge
    return bool({"single", "dual"} & set(forms))


def fit(layer: Layer, holds: Holds, *, allow: Collection[str] = (), module: str = "stock", other: str = "") -> Fitted:
    """`layer` as `holds` can hold it.

    allow  features that may be given up, by the names of `DROPS`
    module which of the target's modules `holds` describes, noted in the result
    other  what could hold the layer as it is, for the message

    Errors: Unsupported with every reason and what to do; UnknownName for a name in `allow` that is none.
    """
    allowed = _known(allow)
    given_up = [refusal for refusal in refusals(layer.spec, holds) if refusal.drop in allowed]
    fitted = _give_up(layer, given_up)
    notes = [f"{GIVEN_UP}: {refusal.text} ({refusal.drop}); outputs change" for refusal in given_up]
    left = refusals(fitted.spec, holds)
    if left:
        raise _refused(layer, holds, left, other)
    before = fitted.spec
    fitted, changed, more = _fit_bias(fitted, holds)
    verdict = LOSSY if given_up else REPARAMETERISED if changed else EXACT
    terms = {name: xp.own(layer[name]) for name in layer if name not in fitted.weights or name in changed}
    return Fitted(fitted, layer, module, verdict, (*notes, *more), terms, trained_on(before.bias, fitted.spec.bias))


def _known(allow: Collection[str]) -> Collection[str]:
    for name in allow:
        if name not in DROPS:
            raise unknown("thing to allow", name, DROPS)
    return allow


def _give_up(layer: Layer, given_up: Sequence[Refusal]) -> Layer:
    """The layer without the features that were given up, and without their weights."""
    changes = {field: value for each in given_up for field, value in DROPS[each.drop or ""][1].items()}
    spec = layer.spec.replace(**changes)
    return layer.replace(spec=spec, weights={name: layer[name] for name in spec.names()}) if changes else layer


def _refused(layer: Layer, holds: Holds, left: list[Refusal], other: str) -> Unsupported:
    words = (str(layer.metadata.get("framework", "")), layer.spec.cell.upper(), layer.label and repr(layer.label))
    origin = " ".join(word for word in words if word)
    drops = [refusal.drop for refusal in left]
    details = [f"also: {refusal.text}" for refusal in left[1:]]
    details += [f"keep it: {other}"] if other else []
    if all(drops):
        names, options = (", ".join(f'"{drop}"' for drop in drops), " ".join(f'--allow "{drop}"' for drop in drops))
        details.append(f"give it up, changing outputs: allow={{{names}}} ({options})")
    return Unsupported(f"{holds.name} cannot express {left[0].text} ({origin})", *details)


def _fit_bias(layer: Layer, holds: Holds) -> tuple[Layer, set[str], list[str]]:
    """The layer with a bias form the target has: (layer, names of weights whose numbers changed, notes)."""
    forms = holds.biases(layer.spec)
    notes: list[str] = []
    changed: set[str] = set()
    constant = layer.spec.forget_constant if _CONSTANT not in holds.features else 0.0
    need_bias = constant != 0 and layer.spec.bias == "none"
    if layer.spec.bias == "dual" and "dual" not in forms:
        layer = resummed(layer, "single")
        changed |= {name for name in layer if ".bias." in name}
        notes.append("bias + recurrent_bias merged into one")
    elif layer.spec.bias not in forms or need_bias:
        before = layer.spec.bias
        form = "single" if before == "none" and "single" in forms else "dual"
        layer = resummed(layer, form)
        notes.append(f"{'recurrent_bias' if before == 'single' else 'bias'} padded with zeros")
    if constant:
        layer = _fold(layer, constant)
        changed |= {name for name in layer if name.endswith(".bias.f")}
        notes.append(f"forget constant {constant:+g} folded into bias.f")
    return layer, changed, notes


#: What another bias form means for training. Two biases that are only ever added each receive the whole gradient of
#: their sum.
_TRAINED_ON = {
    ("single", "dual"): "two biases move where one did, and their sum twice as far: freeze recurrent_bias "
    "(lstmbridge.training.freeze_second_bias), or halve the rate of both",
    ("dual", "single"): "one bias moves where two did, and half as far as their sum: to compare runs, freeze "
    "recurrent_bias in the source from the start",
    ("none", "single"): "a bias moves where none was: freeze it",
    ("none", "dual"): "biases move where none were: freeze them",
}


def trained_on(before: str, after: str) -> str:
    """What a target with the bias form `after` does otherwise in training than a source with `before`, and the way out.

    "" if nothing.
    """
    return _TRAINED_ON.get((before, after), "")


def terms(before: Spec, after: Spec) -> dict[str, tuple[str, ...]]:
    """Which weights of a layer of `before` are added up in each weight of one of `after` that it was fitted to.

    None of them: the weight is zero. What is folded in is a constant, and no term.

    >>> dual = Spec(cell="rnn", input_size=5, hidden_size=3, bias="dual")
    >>> terms(dual, dual.replace(bias="single"))["forward.bias.n"]
    ('forward.bias.n', 'forward.recurrent_bias.n')
    """
    own = set(before.names())
    merged = before.bias == "dual" and after.bias == "single"

    def added(name: str) -> tuple[str, ...]:
        twin = name.replace(".bias.", ".recurrent_bias.")
        return (name, twin) if merged and twin != name else (name,)

    return {name: tuple(each for each in added(name) if each in own) for name in after.names()}


def adjoint(gradients: Mapping[str, Array], before: Spec, after: Spec) -> dict[str, Array]:
    """The gradients of the weights of a layer of `before`, from those of the layer of `after` that it was fitted to.

    The adjoint of `terms`: each term of a sum has the gradient of the sum. A weight that was given up, or whose sum has
    no gradient here (it was frozen), is left out. The arrays are those of `gradients`, no copies.

    >>> dual = Spec(cell="rnn", input_size=5, hidden_size=3, bias="dual")
    >>> found = adjoint({"forward.bias.n": 7.0}, dual, dual.replace(bias="single"))
    >>> found["forward.recurrent_bias.n"]
    7.0
    """
    sums = {name: to for to, names in terms(before, after).items() for name in names if to in gradients}
    return {name: gradients[sums[name]] for name in before.names() if name in sums}


def resummed(layer: Layer, form: str) -> Layer:
    """The layer with another form of bias, each weight the sum of its `terms`."""
    spec = layer.spec.replace(bias=form)
    weights = {}
    for name, names in terms(layer.spec, spec).items():
        if not names:
            direction, _, *gate = name.split(".")
            weights[name] = xp.zeros_like(layer[".".join((direction, "kernel", *gate))][:, 0])
            continue
        first, *others = names
        weights[name] = sum((layer[other] for other in others), layer[first])
    return layer.replace(spec=spec, weights=weights)


def _fold(layer: Layer, constant: float) -> Layer:
    folded = {  # numpy makes float32 of bfloat16 and a number
        n: xp.cast(array + constant, layer.dtype) if n.endswith(".bias.f") else array
        for n, array in layer.weights.items()
    }
    return layer.replace(spec=layer.spec.replace(forget_constant=0.0), weights=folded)


def any_activation(spec: Spec) -> None:
    """A test of activations that all of them pass."""


def only(allowed: Mapping[str, tuple[frozenset[str], ...]]) -> Callable[[Spec], str | None]:
    """A test of activations: for each cell, the names each role may have (both directions alike)."""

    def test(spec: Spec) -> str | None:
        for role, names in zip(ROLES[spec.cell], allowed[spec.cell], strict=True):
            for direction in spec.directions:
                activation = spec.activation(role, direction)
                if activation.name not in names:
                    return f"{role} activation {activation}"
        return None

    return test
