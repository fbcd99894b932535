"""The steps of cells in a graph, as their structure shows them: to be proved by `lstmbridge.frameworks.tf1.steps`.

A step is one product of [x; h] with a kernel, and what becomes of it: in the body of a loop, or once for each time.
Source: tensorflow/python/ops/rnn_cell_impl.py and tensorflow/core/ops/rnn_ops.cc (TensorFlow 1.15).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lstmbridge.frameworks.tf1.cells import Cell, kind_of, scope_of
from lstmbridge.frameworks.tf1.graph import Graph, Node, Ref
from lstmbridge.frameworks.tf1.layout import BLOCK_V2, LAYOUTS
from lstmbridge.notation import Layout

__all__ = ["Guess", "Step", "guesses"]

_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}
_ADD = ("Add", "AddV2", "BiasAdd")
_CONCAT = ("Concat", "ConcatV2")
_GATES = ("i", "g", "f", "o")  # as a kernel has them


@dataclass(frozen=True)
class Step:
    """One cell's step: the variables it uses, by the layout's names, and the fields of the Spec that it shows.

    layout  where it is not the one of `LAYOUTS`
    """

    cell_kind: str
    variables: Mapping[str, str]
    features: Mapping[str, Any]
    note: str
    layout: Layout | None = None

    @property
    def kernel(self) -> str:
        """The variable by which a step is known: that of its (first) kernel."""
        return next(iter(self.variables.values()))

    def cell(self) -> Cell:
        """The cell that it is a step of."""
        scope = scope_of(self.kernel)
        return Cell(scope, kind_of(scope), self.layout or LAYOUTS[self.cell_kind], self.variables, {})


@dataclass(frozen=True)
class Guess:
    """A step as its structure shows it, still to be proved: what goes in, and what comes out, for the proof."""

    step: Step
    x: tuple[Ref, ...] = ()
    state: Mapping[str, Ref] = field(default_factory=dict)
    result: Mapping[str, Ref] = field(default_factory=dict)


def guesses(graph: Graph) -> Iterator[Guess]:
    """Everything in a graph that looks like a step, each time that it stands there."""
    for node in graph.nodes.values():
        if node.op in _FUSED:
            yield from _fused(graph, node)
        elif node.op == "MatMul" and not node.flag("transpose_a") and not node.flag("transpose_b"):
            guess = _product(graph, node)
            if guess is not None:
                yield guess


# ---- small steps through a graph


def _after(graph: Graph, ref: Ref, *operators: str) -> Iterator[Node]:
    """The nodes of those operators that read an output, also through operators that give what they are given."""
    for node in graph.readers.get(ref, ()):
        if node.op in operators:
            yield node
        elif node.op == "Identity":
            yield from (each for each in graph.readers.get((node.name, 0), ()) if each.op in operators)


def _only(graph: Graph, ref: Ref, *operators: str) -> Node | None:
    """The one node of those operators that reads an output; None if there is none, or several."""
    found = list(_after(graph, ref, *operators))
    return found[0] if len(found) == 1 else None


def _other(graph: Graph, node: Node, ref: Ref) -> Ref | None:
    """What goes into a node of two inputs beside `ref`."""
    if len(node.inputs) != 2:
        return None
    one, two = node.inputs
    return two if graph.source(one) == graph.source(ref) else one


def _biased(graph: Graph, product: Ref) -> tuple[Ref, str | None]:
    """An output with its bias added, and the bias; the output itself if none is."""
    for node in _after(graph, product, *_ADD):
        other = _other(graph, node, product)
        bias = graph.weight(other) if other is not None else None
        if bias is not None:
            return (node.name, 0), bias
    return product, None


def _clipped(graph: Graph, ref: Ref) -> tuple[Ref, float | None]:
    """An output held in [-limit, limit], and the limit; the output itself if it is not held."""
    node = _only(graph, ref, "ClipByValue")
    if node is not None and len(node.inputs) == 3:
        low, high = graph.scalar(node.inputs[1]), graph.scalar(node.inputs[2])
        return ((node.name, 0), high) if high is not None and low == -high else (ref, None)
    upper = _only(graph, ref, "Minimum")
    lower = _only(graph, (upper.name, 0), "Maximum") if upper is not None else None
    if upper is None or lower is None:
        return ref, None
    high, low = graph.scalar(upper.inputs[1]), graph.scalar(lower.inputs[1])
    return ((lower.name, 0), high) if high is not None and low == -high else (ref, None)


def _inputs_of(graph: Graph, product: Node) -> tuple[tuple[Ref, ...], Ref] | None:
    """x (in one piece or several) and h, where a product's input is [x; h]."""
    joined = graph.of(graph.source(product.inputs[0]))
    if joined is None or joined.op not in _CONCAT or len(joined.inputs) < 3:
        return None
    pieces = joined.inputs[:-1] if joined.op == "ConcatV2" else joined.inputs[1:]
    return tuple(pieces[:-1]), pieces[-1]


# ---- a product of [x; h]


def _product(graph: Graph, node: Node) -> Guess | None:
    kernel, inputs = graph.weight(node.inputs[1]), _inputs_of(graph, node)
    if kernel is None or inputs is None:
        return None
    total, bias = _biased(graph, (node.name, 0))
    variables = {"kernel": kernel} | ({"bias": bias} if bias is not None else {})
    split = _only(graph, total, "Split", "SplitV")
    if split is not None and _parts(split) == 4:
        return _lstm(graph, split.name, variables, *inputs)
    sigmoid = _only(graph, total, "Sigmoid")
    split = _only(graph, (sigmoid.name, 0), "Split", "SplitV") if sigmoid is not None else split
    if split is not None and _parts(split) == 2:
        return _gru(graph, split.name, variables, *inputs, activated=sigmoid is not None)
    return _rnn(graph, total, variables, *inputs)


def _parts(split: Node) -> int:
    return split.whole("num_split", 0)


@dataclass(frozen=True)
class _Gate:
    """A gate's way from the split: its activation, its output, what is added before."""

    activation: str
    out: Ref
    constant: float = 0.0
    peephole: str | None = None
    seen: Ref | None = None


def _gate(graph: Graph, ref: Ref) -> _Gate | None:
    """What becomes of one gate, until its activation."""
    constant, peephole, seen = 0.0, None, None
    for _ in range(4):
        active = next(_after(graph, ref, *_ACTIVATIONS), None)
        if active is not None:
            return _Gate(_ACTIVATIONS[active.op], (active.name, 0), constant, peephole, seen)
        added = _only(graph, ref, *_ADD)
        other = _other(graph, added, ref) if added is not None else None
        if added is None or other is None:
            return None
        number = graph.scalar(other)
        if number is not None:
            constant += number
        else:
            product = graph.of(graph.source(other))
            if product is None or product.op != "Mul" or peephole is not None:
                return None
            names = [graph.weight(each) for each in product.inputs]
            peephole = next((name for name in names if name is not None), None)
            if peephole is None or len(product.inputs) != 2:
                return None
            seen = product.inputs[1] if names[0] is not None else product.inputs[0]
        ref = (added.name, 0)
    return None


def _meet(graph: Graph, one: Ref, other: Ref, operator: tuple[str, ...]) -> Node | None:
    """The node of that operator that reads both outputs."""
    wanted = {graph.source(one), graph.source(other)}
    for node in _after(graph, one, *operator):
        if {graph.source(ref) for ref in node.inputs} == wanted:
            return node
    return None


def _lstm(graph: Graph, split: str, variables: dict[str, str], x: tuple[Ref, ...], h: Ref) -> Guess | None:
    found = {gate: _gate(graph, (split, n)) for n, gate in enumerate(_GATES)}
    gates = {gate: each for gate, each in found.items() if each is not None}
    if len(gates) < len(found) or any(gates[gate].constant for gate in "igo"):
        return None
    fresh = _meet(graph, gates["i"].out, gates["g"].out, ("Mul",))
    total = _only(graph, (fresh.name, 0), *_ADD) if fresh is not None else None
    if fresh is None or total is None:
        return None
    kept = graph.of(graph.source(_other(graph, total, (fresh.name, 0)) or ("", 0)))
    before = _other(graph, kept, gates["f"].out) if kept is not None and kept.op == "Mul" else None
    if before is None:
        return None
    c, cell_clip = _clipped(graph, (total.name, 0))
    active, out = None, None
    for node in _after(graph, c, *_ACTIVATIONS):
        out = _meet(graph, (node.name, 0), gates["o"].out, ("Mul",))
        active = node
        if out is not None:
            break
    if out is None or active is None:
        return None
    end, projection, proj_clip = _projected(graph, (out.name, 0), variables["kernel"])
    if {gates[gate].activation for gate in "ifo"} != {"sigmoid"}:
        return None
    names = {f"w_{gate}_diag": gates[gate].peephole for gate in "ifo"} | {"projection/kernel": projection}
    variables = variables | {key: name for key, name in names.items() if name is not None}
    features = {
        "forget_constant": gates["f"].constant,
        "cell_clip": cell_clip,
        "proj_clip": proj_clip,
        "activations": ("sigmoid", gates["g"].activation, _ACTIVATIONS[active.op]),
    }
    step = Step("lstm", variables, features, _PROVED)
    return Guess(step, x, {"h": h, "c": before}, {"h": end, "c": c})


_PROVED = "its forget constant, activations and clips are those of its step, which was run beside the equations,"
_PROVED_PLAIN = "its activations are those of its step, which was run beside the equations,"


def _projected(graph: Graph, h: Ref, kernel: str) -> tuple[Ref, str | None, float | None]:
    """The output with the cell's projection, the projection, and its clip."""
    scope = scope_of(kernel)
    for node in _after(graph, h, "MatMul"):
        name = graph.weight(node.inputs[1])
        plain = not node.flag("transpose_a") and not node.flag("transpose_b")
        if name is not None and name.startswith(f"{scope}/projection/") and plain:
            end, clip = _clipped(graph, (node.name, 0))
            return end, name, clip
    return h, None, None


def _gru(
    graph: Graph, split: str, variables: dict[str, str], x: tuple[Ref, ...], h: Ref, *, activated: bool
) -> Guess | None:
    outs: list[Ref] = []
    for n in range(2):
        gate = None if activated else _gate(graph, (split, n))
        if not activated and (gate is None or gate.activation != "sigmoid" or gate.constant or gate.peephole):
            return None
        outs.append(gate.out if gate is not None else (split, n))
    reset = _meet(graph, outs[0], h, ("Mul",))
    joined = _only(graph, (reset.name, 0), *_CONCAT) if reset is not None else None
    product = _only(graph, (joined.name, 0), "MatMul") if joined is not None else None
    kernel = graph.weight(product.inputs[1]) if product is not None else None
    if product is None or kernel is None:
        return None
    total, bias = _biased(graph, (product.name, 0))
    active = _only(graph, total, *_ACTIVATIONS)
    kept = _meet(graph, outs[1], h, ("Mul",))
    end = _only(graph, (kept.name, 0), *_ADD) if kept is not None else None
    if active is None or end is None:
        return None
    names = {"gates/kernel": variables["kernel"], "candidate/kernel": kernel}
    names |= {"gates/bias": variables["bias"]} if "bias" in variables else {}
    names |= {"candidate/bias": bias} if bias is not None else {}
    features = {"reset_after": False, "activations": ("sigmoid", _ACTIVATIONS[active.op])}
    return Guess(Step("gru", names, features, _PROVED_PLAIN), x, {"h": h}, {"h": (end.name, 0)})


def _rnn(graph: Graph, total: Ref, variables: dict[str, str], x: tuple[Ref, ...], h: Ref) -> Guess | None:
    """What a plain RNN is, and a dense layer on two inputs too: `_goes_round` tells them apart."""
    active = _only(graph, total, *_ACTIVATIONS)
    if active is None:
        return None
    features = {"activations": (_ACTIVATIONS[active.op],)}
    return Guess(Step("rnn", variables, features, _PROVED_PLAIN), x, {"h": h}, {"h": (active.name, 0)})


# ---- operators that are a whole step, or all of them


@dataclass(frozen=True)
class _Operator:
    """An operator with a cell's equations: its inputs by the layout's names, and its layout."""

    cell: str
    inputs: Mapping[str, int]
    layout: Layout | None = None
    clip: float = 3.0
    constant: float = 1.0


_FUSED: Mapping[str, _Operator] = {
    "LSTMBlockCell": _Operator("lstm", {"kernel": 3, "w_i_diag": 4, "w_f_diag": 5, "w_o_diag": 6, "bias": 7}),
    "BlockLSTM": _Operator("lstm", {"kernel": 4, "w_i_diag": 5, "w_f_diag": 6, "w_o_diag": 7, "bias": 8}),
    "BlockLSTMV2": _Operator(
        "lstm", {"kernel": 4, "w_i_diag": 5, "w_f_diag": 6, "w_o_diag": 7, "bias": 8}, BLOCK_V2, clip=0.0, constant=0.0
    ),
    "GRUBlockCell": _Operator("gru", {"gates/kernel": 2, "candidate/kernel": 3, "gates/bias": 4, "candidate/bias": 5}),
}


def _fused(graph: Graph, node: Node) -> Iterator[Guess]:
    """The step that such an operator is; its attributes are the cell's, a default one is not stored."""
    kind = _FUSED[node.op]
    peepholes = node.flag("use_peephole")
    names = {
        key: graph.weight(node.inputs[n])
        for key, n in kind.inputs.items()
        if n < len(node.inputs) and (peepholes or not key.startswith("w_"))
    }
    variables = {key: name for key, name in names.items() if name is not None}
    if len(variables) < len(names):
        return
    note = f"its constants are those of the operator {node.op}"
    if kind.cell == "gru":
        yield Guess(Step("gru", variables, {"reset_after": False}, note))
        return
    clip = node.real("cell_clip", kind.clip)
    constant = node.real("forget_bias", kind.constant) if kind.layout is None else 0.0
    features = {"forget_constant": constant, "cell_clip": clip if clip > 0 else None}
    yield Guess(Step("lstm", variables, features, note, kind.layout))
