"""ONNX models in memory: read, built, changed, and run node by node in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from lstmbridge import arrays as xp
from lstmbridge.contract import InitialStates, Outputs, Reading, ReadOptions, WriteOptions
from lstmbridge.errors import BridgeError, FileError, LayoutError, MissingFramework, Unsupported, unknown
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.onnx.constants import Constants
from lstmbridge.frameworks.onnx.graph import Found, Origin, Scope, recurrent_nodes
from lstmbridge.frameworks.onnx.layout import INPUTS, LAYOUTS, NOT_KEPT, STATES
from lstmbridge.frameworks.onnx.reader import arrays_of, read_model, who
from lstmbridge.frameworks.onnx.tensors import CODES, Numbers, array_of, fill
from lstmbridge.frameworks.onnx.wire import parse
from lstmbridge.frameworks.onnx.writer import draft, node_proto, value_info
from lstmbridge.layer import Layer
from lstmbridge.reference import merge
from lstmbridge.spec import Spec
from lstmbridge.statenotation import apart, together

__all__ = ["assign", "build", "load", "read", "run", "tensors"]

#: The versions of the operators that onnxruntime runs.
_OLDEST, _NEWEST = 7, 22
#: The types of the tensors that may be weights, quantised ones with them.
_WEIGHTS = frozenset(code for name, code in CODES.items() if "float" in name or name in ("int8", "uint8"))

Feeds = dict[str, Numbers]


def read(obj: Any, options: ReadOptions) -> Reading:
    """The layers of a ModelProto. Errors: Unsupported for another message of ONNX."""
    return read_model(_model(obj), None, options)


def tensors(obj: Any) -> dict[str, Numbers]:
    """Every tensor of the model that may be a weight, on the host: initializers and Constants, of every graph.

    Its name is the initializer's, or that of the Constant's output; where graphs beside each other use a name for
    different tensors, the later ones get a number: ``W``, ``W_2``. Scalars of Constant nodes are none.
    """
    _, scopes = recurrent_nodes(_model(obj))
    graphs = {id(scope.graph): scope for scope in scopes}  # a function has a scope a call
    found: dict[str, Numbers] = {}
    for scope in graphs.values():
        for name, tensor in _stored(scope):
            unused, number = name, 1
            while unused in found:
                number += 1
                unused = f"{name}_{number}"
            found[unused] = array_of(tensor)
    return found


def _stored(scope: Scope) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The initializers and the Constants of one graph that may be weights, by name."""
    for name, tensor in scope.initializers.items():
        if tensor.data_type in _WEIGHTS:
            yield name, tensor
    for node in scope.graph.node:
        tensor = scope.attributes(node).get("value") if node.op_type == "Constant" else None
        if isinstance(tensor, onnx.TensorProto) and tensor.data_type in _WEIGHTS and tensor.dims:
            yield node.output[0], tensor


def build(targets: Sequence[Fitted], options: WriteOptions) -> onnx.ModelProto:
    """A complete ModelProto that runs `targets`; it owns its weights."""
    made = draft(targets, options)
    for (tensor, _), array in zip(made.tensors, made.arrays(), strict=True):
        fill(tensor, array.make())
        made.model.graph.initializer.append(tensor)
    return made.model


def load(path: Path, options: ReadOptions) -> onnx.ModelProto:
    """The ModelProto of a file, its external data with it. Errors: FileError for a file that is no ONNX model."""
    parse(path)
    try:
        return onnx.load(str(path))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError, DecodeError) as error:
        raise FileError(f"{path} cannot be loaded", f"found: {error}") from error


def assign(obj: Any, layers: Sequence[Layer]) -> None:
    """Writes the weights of `layers` back into the model; only what changed, and only for their own nodes.

    An initializer that one node alone reads is overwritten. Where the weights are computed from constants, or shared
    with other nodes, the node gets an initializer of its own. Errors: UnknownName or LayoutError for layers that are
    not this model's, Unsupported inside a function that computes its weights; nothing is written then.
    """
    model = _model(obj)
    nodes, scopes = recurrent_nodes(model)
    constants = Constants(None, scopes)
    changes: list[tuple[Found, str, Numbers]] = []
    for layer in layers:
        if "recovered" in layer.metadata:
            raise Unsupported(f"onnx {layer.label!r} was recovered from steps: its weights stand in several places",
                              "convert it to a model with a node of its own, and change that")  # fmt: skip
        found = _node(nodes, layer)
        now = arrays_of(found, constants)
        packed = LAYOUTS[layer.spec.cell].pack(layer.weights, layer.spec)
        LAYOUTS[layer.spec.cell].check(now, layer.spec, who=who(found))
        for key, array in packed.items():
            if not xp.same_bits(array, now[key]):
                changes.append((found, key, xp.host(array)))
    places = [_place(found, key, scopes) for found, key, _ in changes]
    for (found, key, array), origin in zip(changes, places, strict=True):
        if origin is not None:
            fill(origin.tensor, array)
        else:
            _add_initializer(model, found, key, array, scopes)


def run(
    obj: Any, layers: Sequence[Layer], x: Numbers, h0: InitialStates = None, c0: InitialStates = None,
    lengths: Sequence[int] | None = None,
) -> Outputs:  # fmt: skip
    """What the nodes of `layers` compute in onnxruntime, one after another.

    float64, which onnxruntime does not run, goes to onnx's reference evaluator where that is faithful: it ignores
    lengths, clip, input_forget and activations. Errors: Unsupported for those, for bfloat16, and for an empty sequence
    with an initial state, of which onnxruntime gives zeros instead; MissingFramework without onnxruntime, and for a
    layer that was recovered from steps, which is no node that could be run.
    """
    if lengths is not None and 0 in lengths and (h0 is not None or c0 is not None):
        raise Unsupported(
            "onnxruntime gives zeros for the last state of an empty sequence, and not its initial state",
            "leave empty sequences out of the batch, or begin with zero states",
        )
    for layer in layers:
        if "recovered" in layer.metadata:
            raise MissingFramework(
                f"onnx {layer.label!r} was recovered from steps, which nothing runs apart from the model around them",
                "it was proved when it was read; to run it alone, convert it to a model with a node of its own",
            )
    nodes, scopes = recurrent_nodes(_model(obj))
    constants = Constants(None, scopes)
    y, specs, lasts, form = x, [layer.spec for layer in layers], [], STATES["layout=0"].layout
    given = None if h0 is None and c0 is None else apart(specs, h0, c0, len(x))
    for n, layer in enumerate(layers):
        states = {} if given is None else form.pack([given[n]], [layer.spec])
        raw, last = _run_node(_node(nodes, layer), layer, constants, y, states, lengths)
        y = merge(layer.spec, [raw[:, d].transpose(1, 0, 2) for d in range(raw.shape[1])])
        lasts += form.unpack(last, [layer.spec])
    return Outputs(y, *together(specs, lasts))


def _model(obj: Any) -> onnx.ModelProto:
    if isinstance(obj, onnx.ModelProto):
        return obj
    raise Unsupported(
        f"onnx.{type(obj).__name__} is not a whole model", "expected an onnx.ModelProto: onnx.helper.make_model(graph)"
    )


def _node(nodes: Sequence[Found], layer: Layer) -> Found:
    found = next((each for each in nodes if each.path == layer.path), None)
    if found is None:
        raise unknown("onnx layer", layer.path, [each.path for each in nodes])
    if found.refusal is not None or found.cell != layer.spec.cell:
        raise LayoutError(f"{who(found)} is no {layer.spec.cell}", "expected a layer as read from this model")
    return found


# ---- assigning


def _place(found: Found, key: str, scopes: Sequence[Scope]) -> Origin | None:
    """The initializer that one input of one node alone reads, if there is one. Errors: Unsupported in a function."""
    name = found.input(INPUTS[key])
    origin = found.scope.origin(name)
    if origin.tensor is not None and _readers(origin, scopes) == 1:
        return origin
    if found.scope.call is not None:
        raise Unsupported(
            f"{who(found)}, input {key}: a function's weights that others read too, or that it computes",
            "onnx.inliner.inline_local_functions(model) makes a model without functions",
        )
    return None


def _readers(origin: Origin, scopes: Sequence[Scope]) -> int:
    """How many inputs of nodes, and outputs of graphs, are this initializer."""
    count = 0
    for scope in scopes:
        names = [name for node in scope.graph.node for name in node.input] + list(scope.outputs)
        if origin.name in names and scope.call is None and _means(scope, origin):
            count += names.count(origin.name)
    return count


def _means(scope: Scope, origin: Origin) -> bool:
    found = scope.origin(origin.name)
    return found.tensor is not None and found.scope is origin.scope


def _add_initializer(model: onnx.ModelProto, found: Found, key: str, array: Numbers, scopes: Sequence[Scope]) -> None:
    """Gives one node an initializer of its own, under a name that nobody has."""
    taken = {name for scope in scopes for node in scope.graph.node for name in (*node.input, *node.output)}
    taken |= {name for scope in scopes for name in scope.initializers}
    name, number = f"{found.path}.{key}", 1
    while name in taken:
        number += 1
        name = f"{found.path}.{key}_{number}"
    tensor = found.scope.graph.initializer.add(name=name)
    fill(tensor, array)
    if model.ir_version < 4 and found.scope.parent is None:  # every initializer is an input too
        model.graph.input.append(value_info(name, array.dtype.name, array.shape))
    found.node.input[INPUTS[key]] = name


# ---- running


def _run_node(
    found: Found, layer: Layer, constants: Constants, x: Numbers,
    states: Feeds, lengths: Sequence[int] | None,
) -> tuple[Numbers, Feeds]:  # fmt: skip
    """One node: Y (t d b h), and the last states, named as the initial ones are."""
    weights = arrays_of(found, constants)
    dtype = weights["W"].dtype
    feeds: Feeds = {"X": np.ascontiguousarray(np.asarray(x).transpose(1, 0, 2).astype(dtype)), **weights}
    if lengths is not None:
        feeds["sequence_lens"] = np.asarray(lengths, np.int32)
    feeds |= {key: np.asarray(state).astype(dtype) for key, state in states.items()}
    form = STATES["layout=0"]  # a node is run without its attribute `layout`
    outputs = form.given_out(form.layout.keys([layer.spec]))
    model = _one_node(found, feeds, ["Y", *outputs])
    y, *last = _runner(found, layer.spec, dtype.name, lengths)(
        model, {k: np.ascontiguousarray(v) for k, v in feeds.items()}
    )
    return y, dict(zip(outputs.values(), last, strict=True))


def _one_node(found: Found, feeds: Feeds, outputs: Sequence[str]) -> onnx.ModelProto:
    """A model of one node with the same attributes; its weights are inputs like the sequences."""
    inputs = [key if key in feeds else "" for key in INPUTS]
    while not inputs[-1]:
        inputs.pop()
    attributes = {k: v for k, v in found.scope.attributes(found.node).items() if k not in NOT_KEPT}
    model = onnx.ModelProto(ir_version=7)
    model.opset_import.add(domain="", version=min(max(found.scope.opset, _OLDEST), _NEWEST))
    model.graph.name = "node"
    model.graph.node.append(node_proto(found.node.op_type, inputs, outputs, "", attributes))
    for key, array in feeds.items():
        model.graph.input.append(value_info(key, array.dtype.name, array.shape))
    for key in outputs:
        info = model.graph.output.add(name=key)
        info.type.tensor_type.elem_type = model.graph.input[0].type.tensor_type.elem_type
    return model


def _runner(
    found: Found, spec: Spec, dtype: str, lengths: Sequence[int] | None
) -> Callable[[onnx.ModelProto, Feeds], list[Numbers]]:
    """What runs the node: onnxruntime, or for float64 the reference evaluator. Errors: Unsupported if neither can."""
    if dtype in ("float32", "float16"):
        return _onnxruntime
    ignored = [
        word
        for word, is_used in (
            ("lengths", lengths is not None),
            ("clip", spec.clip is not None),
            ("input_forget", spec.coupled),
            ("activations", "activations" in found.scope.attributes(found.node)),
        )
        if is_used
    ]
    if dtype == "float64" and not ignored:
        return _evaluator
    detail = f"onnx's reference evaluator ignores {', '.join(ignored)}" if ignored else "nor does anything else here"
    raise Unsupported(f"{who(found)}: onnxruntime does not run {dtype}", detail, "cast it: dtype='float32'")


def _onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> list[Numbers]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingFramework("running an onnx model needs the package 'onnxruntime', which is not installed",
                               "pip install 'lstmbridge[onnxruntime]'") from error  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception as error:  # onnxruntime's errors have no common class but this
        if isinstance(error, BridgeError):
            raise
        node = model.graph.node[0]
        raise Unsupported(f"onnxruntime does not run this {node.op_type} node", f"found: {error}") from error


def _evaluator(model: onnx.ModelProto, feeds: Feeds) -> list[Numbers]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, feeds))
