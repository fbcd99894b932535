"""From layers to a complete model: inputs, the recurrent nodes wired as they feed one another, and outputs.

    X (t b i) -> LSTM -> Y (t d b h) -> directions merged -> (t b f) -> the next layer, or the output Y
                      -> Y_h (d b p), Y_c (d b h): outputs

With `batch_first` X and Y are transposed at the borders: onnxruntime has no node with ``layout=1``. Where there are
several layers their states are called LABEL.Y_h; where there are several chains, X and Y too are called by labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lstmbridge.contract import WriteOptions
from lstmbridge.errors import LayoutError, SpecError, Unsupported
from lstmbridge.fit import Fitted
from lstmbridge.frameworks.onnx.graph import Proto, path_of
from lstmbridge.frameworks.onnx.layout import INPUTS, LAYOUTS, kept_attributes
from lstmbridge.frameworks.onnx.messages import messages
from lstmbridge.frameworks.onnx.tensors import CODES, dtype_of, header
from lstmbridge.layer import Layer
from lstmbridge.mapped import Later

__all__ = ["Draft", "draft", "node_proto", "value_info"]

OPSETS = range(7, 23)
#: The IR version of each operator set's time; below 4 every initializer would have to be an input too.
_IR = {7: 4, 10: 5, 11: 6, 12: 7, 15: 8, 19: 9, 21: 10}
#: From which operator set on a node takes its axes as an input.
_AXES_AS_INPUT = {"Squeeze": 13, "ReduceSum": 13, "ReduceMean": 18, "ReduceProd": 18}
_REDUCE = {"sum": "ReduceSum", "ave": "ReduceMean", "mul": "ReduceProd"}
_FLIP_FROM = 10
_LOWEST = -(1 << 63)

Value = Any


@dataclass(frozen=True, eq=False)
class Draft:
    """A model whose weights are still where they were.

    model    a ModelProto, complete but for its weights
    tensors  (TensorProto without data, bytes of its data) for each of them, in order
    targets  the layers that they are the weights of
    """

    model: Proto
    tensors: tuple[tuple[Proto, int], ...]
    targets: tuple[Fitted, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes the weights take."""
        return sum(size for _, size in self.tensors)

    def arrays(self) -> Iterator[Later]:
        """The weights in order; each is packed when it is asked for."""
        for target in self.targets:
            layer = target.layer
            yield from LAYOUTS[layer.spec.cell].later(layer.weights, layer.spec).values()


def draft(targets: Sequence[Fitted], options: WriteOptions) -> Draft:
    """The model that runs `targets`. Errors: Unsupported for an operator set that lacks what a layer needs."""
    if options.opset not in OPSETS:
        raise SpecError(f"opset {options.opset}", f"expected {OPSETS[0]} to {OPSETS[-1]}")
    _check_names(targets)
    builder = _Builder(targets, options)
    for target in targets:
        builder.add(target.layer)
    return Draft(builder.model(), tuple(builder.tensors), tuple(targets))


def value_info(name: str, dtype: str, shape: Sequence[int | str]) -> Proto:
    """A ValueInfoProto; a dimension with a name is free."""
    info = messages().ValueInfoProto(name=name)
    info.type.tensor_type.elem_type = CODES[dtype]
    for size in shape:
        dim = info.type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    return info


def _check_names(targets: Sequence[Fitted]) -> None:
    labels = [target.layer.label for target in targets]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise LayoutError(f"two layers named {', '.join(map(repr, twice))}", "give them names of their own: rename=")


def _wiring(targets: Sequence[Fitted]) -> dict[str, str]:
    """For each layer that reads another of these: the label of that one. Errors: LayoutError if they do not fit."""
    before: dict[str, Layer] = {}
    found: dict[str, str] = {}
    for target in targets:
        layer = target.layer
        writer = None if layer.after is None else before.get(layer.after)
        if writer is not None:
            _check_pair(writer, layer)
            found[layer.label] = writer.label
        before[layer.label] = layer
    return found


def _check_pair(writer: Layer, layer: Layer) -> None:
    """That a layer takes what the one before it gives."""
    if _given(writer) != layer.spec.input_size:
        raise LayoutError(
            f"onnx {layer.label!r} reads {layer.spec.input_size} features",
            f"{writer.label!r}, which feeds it, gives {_given(writer)}",
        )
    if writer.dtype != layer.dtype:
        raise LayoutError(
            f"onnx {layer.label!r} is {layer.dtype}, {writer.label!r}, which feeds it, is {writer.dtype}",
            "one chain has one dtype: cast them first (dtype=)",
        )


def _given(layer: Layer) -> int:
    """The features that a layer gives to the next one; directions that are kept apart go side by side."""
    apart = layer.spec.bidirectional and layer.spec.merge == "none"
    return layer.spec.output_size * (2 if apart else 1)


class _Builder:
    """The graph in the making."""

    def __init__(self, targets: Sequence[Fitted], options: WriteOptions) -> None:
        self.options = options
        self.nodes: list[Proto] = []
        self.inputs: list[Proto] = []
        self.outputs: list[Proto] = []
        self.constants: list[Proto] = []
        self.tensors: list[tuple[Proto, int]] = []
        self.sequences: dict[str, tuple[str, str]] = {}  # label -> (its outputs (t b f), where its chain begins)
        self.before = _wiring(targets)
        self.read = set(self.before.values())
        self.one_layer = len(targets) == 1
        self.one_chain = len(targets) - len(self.before) == len(targets) - len(self.read) == 1  # one root, one leaf

    def add(self, layer: Layer) -> None:
        """Adds one layer: its initializers, its node, what comes before it and after it."""
        spec, label = layer.spec, layer.label
        if layer.dtype == "bfloat16" and self.options.opset < 22:
            raise Unsupported(f"onnx has no bfloat16 {spec.cell.upper()} in opset {self.options.opset}{_named(label)}",
                              "expected opset 22 or above: opset=22 (--opset 22), or another dtype=")  # fmt: skip
        reads, root = self.sequences[self.before[label]] if label in self.before else ("", label)
        prefix = "" if self.one_chain else f"{root}."
        sequences = reads or self._input(layer, prefix)
        names = {"X": sequences, **self._weights(layer), **self._more_inputs(layer, prefix, not reads)}
        inputs = [names.get(key, "") for key in INPUTS]
        while not inputs[-1]:
            inputs.pop()
        is_last = label not in self.read
        raw = self._output_name(layer) if is_last and self._is_raw(layer) else self._name(label, "raw")
        attributes = kept_attributes(spec, layer.metadata)
        self._node(spec.cell.upper(), inputs, [raw, *self._states(layer, prefix)], _node_name(layer), **attributes)
        if is_last:
            self._output(layer, raw, prefix)
        else:
            self.sequences[label] = (self._merged(layer, raw, self._name(label, "merged")), root)

    def model(self) -> Proto:
        """The ModelProto, without weights."""
        pb = messages()
        opset = self.options.opset
        version = max(ir for since, ir in _IR.items() if opset >= since)
        model = pb.ModelProto(ir_version=version, producer_name="lstmbridge")
        model.opset_import.add(domain="", version=opset)
        model.graph.name = "lstmbridge"
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(sorted(self.outputs, key=lambda each: each.name.split(".")[-1] != "Y"))
        return model

    def _input(self, layer: Layer, prefix: str) -> str:
        """The input X of a chain, as (t b i)."""
        first = self.options.batch_first
        axes = [f"{prefix}batch", f"{prefix}time"] if first else [f"{prefix}time", f"{prefix}batch"]
        self.inputs.append(value_info(f"{prefix}X", layer.dtype, (*axes, layer.spec.input_size)))
        if not first:
            return f"{prefix}X"
        return self._node("Transpose", [f"{prefix}X"], [self._name(layer.label, "X.time_first")], perm=[1, 0, 2])

    def _more_inputs(self, layer: Layer, prefix: str, begins: bool) -> dict[str, str]:
        """The inputs for lengths (one a chain) and initial states, where they are asked for."""
        names: dict[str, str] = {}
        if self.options.lengths:
            names["sequence_lens"] = f"{prefix}sequence_lens"
            if begins:
                self.inputs.append(value_info(names["sequence_lens"], "int32", (f"{prefix}batch",)))
        if self.options.initial:
            keys = ("initial_h", "initial_c") if layer.spec.cell == "lstm" else ("initial_h",)
            for key in keys:
                names[key] = key if self.one_layer else self._name(layer.label, key)
                shape = (len(layer.spec.directions), f"{prefix}batch", layer.spec.hidden_size)
                self.inputs.append(value_info(names[key], layer.dtype, shape))
        return names

    def _weights(self, layer: Layer) -> dict[str, str]:
        """The initializers of a layer: W, R, and B and P where it has them."""
        names: dict[str, str] = {}
        for key, shape in LAYOUTS[layer.spec.cell].shapes(layer.spec).items():
            names[key] = self._name(layer.label, key)
            tensor = header(names[key], layer.dtype, shape)
            self.tensors.append((tensor, math.prod(shape) * dtype_of(tensor).itemsize))
        return names

    def _states(self, layer: Layer, prefix: str) -> list[str]:
        """The names of the last states, which are outputs of the model."""
        names = ["Y_h", "Y_c"] if layer.spec.cell == "lstm" else ["Y_h"]
        names = names if self.one_layer else [self._name(layer.label, name) for name in names]
        shape = (len(layer.spec.directions), f"{prefix}batch", layer.spec.hidden_size)
        self.outputs.extend(value_info(name, layer.dtype, shape) for name in names)
        return names

    def _merged(self, layer: Layer, raw: str, merged: str) -> str:
        """The outputs as (t b f), called `merged`: the directions merged, or side by side."""
        spec, label = layer.spec, layer.label
        if spec.processed_order:
            squeezed = self._over("Squeeze", [raw], [self._name(label, "squeezed")], 1)
            return self._flipped(layer, squeezed, merged)
        if not spec.bidirectional:
            return self._over("Squeeze", [raw], [merged], 1)
        if spec.merge in _REDUCE:
            return self._over(_REDUCE[spec.merge], [raw], [merged], 1, keepdims=0)
        beside = self._node("Transpose", [raw], [self._name(label, "beside")], perm=[0, 2, 1, 3])
        shape = self._constant(self._name(label, "shape"), [0, 0, -1])
        return self._node("Reshape", [beside, shape], [merged])

    def _flipped(self, layer: Layer, sequences: str, flipped: str) -> str:
        """The outputs of a reverse layer, last step first, called `flipped`."""
        if self.options.opset < _FLIP_FROM:
            raise Unsupported(
                f"onnx cannot express outputs as processed in opset {self.options.opset}{_named(layer.label)}",
                f"expected opset {_FLIP_FROM} or above, whose Slice has steps: opset={_FLIP_FROM}",
                'give it up, changing outputs: allow={"forward time"}',
            )
        given = {"starts": -1, "ends": _LOWEST, "axes": 0, "steps": -1}
        names = [self._constant(self._name(layer.label, f"flip.{key}"), [value]) for key, value in given.items()]
        return self._node("Slice", [sequences, *names], [flipped])

    def _output(self, layer: Layer, raw: str, prefix: str) -> None:
        """The output Y of a chain: (t b f), or (t d b h) where directions are kept apart; batch first if asked for."""
        spec, first, name = layer.spec, self.options.batch_first, self._output_name(layer)
        sizes: dict[str, int | str] = {"b": f"{prefix}batch", "t": f"{prefix}time"}
        sizes |= {"d": len(spec.directions), "h": spec.hidden_size, "f": spec.output_size}
        apart = spec.bidirectional and spec.merge == "none"
        if apart:
            order, perm = ("b t d h" if first else "t d b h"), [2, 0, 1, 3]
        else:
            order, perm = ("b t f" if first else "t b f"), [1, 0, 2]
            raw = self._merged(layer, raw, self._name(layer.label, "merged") if first else name)
        if first:
            self._node("Transpose", [raw], [name], perm=perm)
        self.outputs.append(value_info(name, layer.dtype, [sizes[index] for index in order.split()]))

    def _output_name(self, layer: Layer) -> str:
        return "Y" if self.one_chain else f"{layer.label}.Y"

    def _is_raw(self, layer: Layer) -> bool:
        """Whether the node's own Y is the output of the model."""
        return layer.spec.bidirectional and layer.spec.merge == "none" and not self.options.batch_first

    def _over(self, op: str, inputs: list[str], outputs: list[str], axis: int, **attributes: Value) -> str:
        """A node that works over one axis, which is an attribute or an input by the operator set."""
        if self.options.opset >= _AXES_AS_INPUT[op]:
            inputs = [*inputs, self._constant(f"{outputs[0]}.axes", [axis])]
        else:
            attributes["axes"] = [axis]
        return self._node(op, inputs, outputs, **attributes)

    def _constant(self, name: str, values: list[int]) -> str:
        """An initializer that is no weight; Constant nodes hold integers from opset 9 on only."""
        tensor = messages().TensorProto(name=name, data_type=CODES["int64"], dims=[len(values)])
        tensor.raw_data = np.array(values, "<i8").tobytes()
        self.constants.append(tensor)
        return name

    def _node(self, op: str, inputs: list[str], outputs: list[str], name: str = "", **attributes: Value) -> str:
        """Adds a node; the name of its first output."""
        self.nodes.append(node_proto(op, inputs, outputs, name, attributes))
        return outputs[0]

    @staticmethod
    def _name(label: str, name: str) -> str:
        return f"{label}.{name}" if label else name


def _node_name(layer: Layer) -> str:
    """The node's name: the layer's label, or the name it had as an ONNX node."""
    config = layer.metadata.get("config", {}) if layer.metadata.get("framework") == "onnx" else {}
    original = str(config.get("name", ""))
    return original if path_of(original) == layer.label else layer.label


def node_proto(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, attributes: Mapping[str, Value]
) -> Proto:
    """A NodeProto; the type of an attribute is that of its value."""
    node = messages().NodeProto(op_type=op, name=name, input=inputs, output=outputs)
    kind = messages().AttributeProto
    for key, value in attributes.items():
        attribute = node.attribute.add(name=key)
        if isinstance(value, list | tuple):
            _set_list(attribute, list(value), kind)
        elif isinstance(value, str):
            attribute.s, attribute.type = value.encode(), kind.STRING
        elif isinstance(value, int):
            attribute.i, attribute.type = value, kind.INT
        elif isinstance(value, float):
            attribute.f, attribute.type = value, kind.FLOAT
        else:
            attribute.t.CopyFrom(value)
            attribute.type = kind.TENSOR
    return node


def _set_list(attribute: Proto, values: list[Value], kind: Any) -> None:
    if values and isinstance(values[0], str):
        attribute.strings.extend(value.encode() for value in values)
        attribute.type = kind.STRINGS
    elif values and all(isinstance(value, int) for value in values):
        attribute.ints.extend(values)
        attribute.type = kind.INTS
    else:
        attribute.floats.extend(values)
        attribute.type = kind.FLOATS


def _named(label: str) -> str:
    """A layer's name, in brackets, behind what is said of it; nothing for one without."""
    return f" ({label!r})" if label else ""
