"""From a ModelProto to layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import BridgeError, LayoutError, NothingRecurrent, Unsupported
from lstmbridge.frameworks.onnx.constants import Constants, NotConstant
from lstmbridge.frameworks.onnx.graph import Found, Proto, Scope, recurrent_nodes
from lstmbridge.frameworks.onnx.joining import Recovered, path_for
from lstmbridge.frameworks.onnx.layout import INPUTS, LAYOUTS, spec_of
from lstmbridge.frameworks.onnx.proving import BOUND
from lstmbridge.frameworks.onnx.recover import Recovery, recover
from lstmbridge.frameworks.onnx.tensors import CODES, Numbers
from lstmbridge.frameworks.onnx.tracing import End, batch_first, ends, feeds, merge_of
from lstmbridge.layer import Layer
from lstmbridge.spec import Spec

__all__ = ["arrays_of", "read_model", "who"]

_KEYS = ("W", "R", "B", "P")
_FLOATS = frozenset(code for name, code in CODES.items() if "float" in name)
_QUANTISED = frozenset(CODES[name] for name in ("int8", "uint8"))
#: Initial states of more numbers than this are not repeated in the metadata.
_MANY = 1 << 16


@dataclass(eq=False)
class _Part:
    """A layer in the making: its node, what is known of it, and what is to be said about it."""

    found: Found
    spec: Spec
    weights: dict[str, Any]
    metadata: dict[str, Any]
    uses: list[End]
    after: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def layout(self) -> int:
        """Whether the node's sequences are (b, t, i)."""
        return int(self.metadata["config"]["attributes"].get("layout", 0))


def read_model(model: Proto, file: Path | None, options: ReadOptions) -> Reading:
    """The recurrent layers of a model; `file` is where it was read from, for external data.

    Errors: LayoutError for a model without any, or with one whose weights are not constant or do not fit together;
    Unsupported for one that is quantised. A layer outside `options.only` is not read.
    """
    nodes, scopes = recurrent_nodes(model)
    constants = Constants(file, scopes)
    recovery = recover(scopes, file, constants.stored)
    if not nodes and not recovery.layers:
        raise _none_found(model, file, scopes, recovery)
    paths = _paths(recovery, nodes)
    chosen = [each for each in nodes if _wanted(each.path, options.only)]
    wanted = [each for each in recovery.layers if _wanted(paths[each], options.only)]
    if not chosen and not wanted:  # a path of nobody: what there is will be named
        chosen, wanted = nodes, list(recovery.layers)
    parts = [_part(each, model, constants) for each in chosen]
    _connect(parts)
    _orient(parts, options)
    layers = [
        Layer(spec=part.spec, weights=part.weights, path=part.found.path, after=part.after, metadata=part.metadata)
        for part in parts
    ]
    notes = [f"{part.found.path}: {note}" for part in parts for note in part.notes]
    for each in wanted:
        constants.used |= {(scope, name) for scope, name in each.sources if scope is not None}
        layers.append(_recovered(each, paths, model, scopes, options))
        notes += [f"{paths[each]}: {note}" for note in (layers[-1].metadata["recovered"], *each.notes)]
    left_alone = dict.fromkeys(_left_alone(scopes, constants))
    return Reading(tuple(layers), tuple(left_alone), (*notes, *recovery.refusals))


def who(found: Found) -> str:
    """A node as errors name it: ``onnx LSTM 'encoder.rnn'``."""
    return f"onnx {found.node.op_type} {found.path!r}"


def arrays_of(found: Found, constants: Constants) -> dict[str, Numbers]:
    """A node's arrays W, R, and B and P where it has them. Errors: LayoutError for one that is not constant."""
    arrays: dict[str, Numbers] = {}
    for key in _KEYS:
        name = found.input(INPUTS[key])
        if not name or (key == "P" and found.cell != "lstm"):
            continue
        try:
            arrays[key] = constants.value(found.scope, name)
        except NotConstant as error:
            raise _not_constant(found, key, name, str(error)) from error
        except BridgeError as error:
            raise type(error)(f"{who(found)}, input {key}: {error.headline}", *error.details) from error
    for key in ("W", "R"):
        if key not in arrays:
            raise LayoutError(f"{who(found)}: no input {key}", "a node without weights computes nothing")
    return arrays


def _not_constant(found: Found, key: str, name: str, why: str) -> BridgeError:
    kind = Unsupported if "uantize" in why else LayoutError
    expected = "expected an initializer, a Constant, or Slice, Concat, Unsqueeze and the like of those"
    return kind(f"{who(found)}, input {key}: {name!r} is not constant", f"found: {why}", expected)


def _paths(recovery: Recovery, nodes: Sequence[Found]) -> dict[Recovered, str]:
    """A path for each recovered layer, that neither a node nor another one has."""
    taken = {each.path for each in nodes}
    paths: dict[Recovered, str] = {}
    for each in recovery.layers:
        paths[each] = path_for(each, taken)
        taken.add(paths[each])
    return paths


def _recovered(
    each: Recovered, paths: dict[Recovered, str], model: Proto, scopes: Sequence[Scope], options: ReadOptions
) -> Layer:
    """A layer that was recovered, with a word about how."""
    how = "one step" if each.single else f"{len(each.x)} steps, the state handed from each to the next,"
    words = (
        f"recovered from {how} around {each.who}: proved against the equations, node by node in float64 on random "
        f"inputs and states, to {BOUND:g}; and {each.compared} numbers of the model itself"
    )
    batch_first = each.batch_first if options.batch_first is None else options.batch_first
    config = {"opset": scopes[0].opset, "ir_version": int(model.ir_version), **each.initial}
    metadata = {
        "framework": "onnx", "class": "onnx steps", "config": config, "batch_first": batch_first, "recovered": words,
    }  # fmt: skip
    return each.layer.replace(path=paths[each], after=paths.get(each.after) if each.after else None, metadata=metadata)


def _none_found(model: Proto, file: Path | None, scopes: Sequence[Scope], recovery: Recovery) -> BridgeError:
    counts: dict[str, int] = {}
    for scope in scopes:
        for node in scope.graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    most = sorted(counts, key=lambda name: -counts[name])[:6]
    details = [f"found {', '.join(f'{counts[name]} {name}' for name in most) or 'no node at all'}"]
    details += [*recovery.refusals, *recovery.guesses][:5]
    if {"Loop", "Scan"} & set(counts) or counts.get("Sigmoid", 0) + counts.get("Tanh", 0) > 1:
        details.append("a layer that the exporter took apart into steps was not recognised: export it anew")
    return NothingRecurrent(f"{file or 'onnx model'}: no LSTM, GRU or RNN node", *details)


def _wanted(path: str, only: Sequence[str]) -> bool:
    return not only or any(path == each or path.startswith(f"{each}.") for each in only)


def _part(found: Found, model: Proto, constants: Constants) -> _Part:
    if found.refusal is not None:
        raise Unsupported(f"{who(found)} cannot be read: {found.refusal}", "expected LSTM, GRU or RNN of the standard")
    attributes = found.scope.attributes(found.node)
    arrays = arrays_of(found, constants)
    notes: list[str] = []
    try:
        shapes = {key: array.shape for key, array in arrays.items()}
        spec = spec_of(found.cell, attributes, shapes, notes)
    except BridgeError as error:
        raise type(error)(f"{who(found)}: {error.headline}", *error.details) from error
    weights = LAYOUTS[spec.cell].unpack(arrays, spec, who=who(found))
    config = _config(found, model, attributes, constants, notes)
    uses = ends(found, spec, int(attributes.get("layout", 0)), constants)
    metadata = {"framework": "onnx", "class": f"onnx.{found.node.op_type}", "config": config}
    return _Part(found, spec, weights, metadata, uses, notes=notes)


def _config(
    found: Found, model: Proto, attributes: dict[str, Any], constants: Constants, notes: list[str]
) -> dict[str, Any]:
    """What the node says about itself, verbatim, and what is known of its other inputs."""
    config: dict[str, Any] = {
        "name": found.node.name,
        "attributes": attributes,
        "inputs": list(found.node.input),
        "outputs": list(found.node.output),
        "opset": found.scope.opset,
        "ir_version": int(model.ir_version),
    }
    for key in ("initial_h", "initial_c"):
        name = found.input(INPUTS[key])
        if name and (key == "initial_h" or found.cell == "lstm"):
            config[key] = _initial(found, key, name, constants, notes)
    if found.input(INPUTS["sequence_lens"]):
        config["sequence_lens"] = "given"
    return config


def _initial(found: Found, key: str, name: str, constants: Constants, notes: list[str]) -> Any:
    """What an initial state is: ``zero``, ``given`` at run time, or the constant's own numbers."""
    before = set(constants.used)
    if constants.is_zero(found.scope, name):
        return "zero"
    value = constants.before_batch(found.scope, name)
    constants.used = before  # an initial state is no weight of the layer: its initializer is left alone
    if value is None:
        return "given"
    notes.append(
        f"{key} is a constant that is not zero: it is no part of the layer and must be given as the initial state"
    )
    return value.astype(float).tolist() if value.size <= _MANY else "constant"


def _connect(parts: Sequence[_Part]) -> None:
    """Fills in how each part's directions are merged, and which part it reads."""
    for part in parts:
        directions = part.spec.directions
        merge, flipped = merge_of(part.uses, part.spec)
        processed = flipped and directions == ("reverse",)
        part.spec = part.spec.replace(merge=merge, processed_order=processed)
    for reader in parts:
        writers = [part for part in parts if any(_feeds(part, end, reader) for end in part.uses)]
        reader.after = writers[0].found.path if writers else None


def _feeds(part: _Part, end: End, reader: _Part) -> bool:
    """Whether this use of a part's outputs is as the input of `reader`."""
    spec = part.spec
    return (
        end.node is not None
        and list(end.node.output) == list(reader.found.node.output)
        and part.found.scope is reader.found.scope
        and feeds(end, spec, reader.layout)
        and end.trace.flipped == spec.processed_order
        and spec.merge != "none"
        and spec.output_size == reader.spec.input_size
    )


def _orient(parts: Sequence[_Part], options: ReadOptions) -> None:
    """Says for each part how sequences lie in the model around it: as for the part that it reads, if there is one."""
    known: dict[str, bool] = {}
    for part in parts:
        path = part.found.path
        own = batch_first(part.found, part.layout) or known.get(part.after or "", False)
        known[path] = part.metadata["batch_first"] = own if options.batch_first is None else options.batch_first


def _left_alone(scopes: Sequence[Scope], constants: Constants) -> Iterator[str]:
    """The tensors that may be weights and belong to no recurrent node."""
    kinds = _FLOATS | _QUANTISED
    for scope in scopes:
        for name, tensor in scope.initializers.items():
            if tensor.data_type in kinds and (scope, name) not in constants.used:
                yield name
        for node in scope.graph.node:
            tensor = scope.attributes(node).get("value") if node.op_type == "Constant" else None
            if tensor is not None and getattr(tensor, "data_type", 0) in kinds and len(tensor.dims):
                yield from (name for name in node.output if (scope, name) not in constants.used)
