"""What a framework's folder gives to the rest, and what passes between them.

A folder ``frameworks/NAME/`` has an ``__init__.py`` that says in plain data who it is (nothing imported), and rooms:

    __init__.py   NAME, ROOTS (modules or classes of its objects), SUFFIXES (of its files), EXTRA (what to install);
                  optionally WRITES (those of its suffixes that it writes, where not all), DEFAULT_SUFFIXES (those that
                  mean it unasked), OPTIONS (fields of `WriteOptions` that are for it alone), TELLS_ORDER (whether its
                  models say which layer reads which), claims(path): whether what is at a path, also a directory or the
                  beginning of several files' names, is its own by a mark inside; and companions(name, beginning): the
                  names of the files that are read along with the one of that name; beginning(text) gives all that
                  begin so
    layout.py     LAYOUTS (cell -> Layout), HOLDS (its stock layers), optionally FAITHFUL (a module of ours) and
                  FAITHFUL_NOTE (how it is loaded), CELL_LAYOUTS (cell -> Layout, where a class whose name ends in
                  Cell has another), ASKED (cell -> fields of the Spec that arrays never tell and nobody may guess),
                  INITIAL (cell -> Scheme: how its own layers begin), and STATES (name -> `StateForm`: how it holds
                  states, the usual form first); imports no framework
    live.py       read(obj, options), build(targets, options), assign(obj, layers), load(path, options),
                  run(obj, layers, x, h0, c0, lengths), optionally gradients(...) and tensors(obj), and for states
                  native(array), states(obj, layers) and set_states(obj, pairs); imports its framework at the top
    files.py      read(path, options), optionally write(targets, path, options) and
                  patch(existing, layers, path, options); no framework where the format allows it
    training.py   read(optimizer, obj, layers), build(state, obj, layers), freeze(obj, layers), train(obj, ...), and for
                  files whose optimizer only the framework itself reads, load(path, options); imports its framework at
                  the top. layout.py then says, as OPTIMIZERS, how its optimizers differ from the canonical rules

A folder without `live` is for files only, one without both for `layouts` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lstmbridge.fit import Fitted, Holds
from lstmbridge.layer import Layer
from lstmbridge.notation import Layout
from lstmbridge.optimizers import OptimizerState

__all__ = [
    "FOR_BOTH",
    "FilesRoom",
    "Gradients",
    "InitialStates",
    "LayoutRoom",
    "LiveRoom",
    "Outputs",
    "ReadOptions",
    "Reading",
    "TrainingRoom",
    "WriteOptions",
]


@dataclass(frozen=True, eq=False)
class Reading:
    """What was found in an object or file: its recurrent layers, and the names of all weights that are not theirs."""

    layers: tuple[Layer, ...]
    left_alone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a source does not say by itself.

    nonlinearity     ``tanh`` or ``relu``: the activation of a vanilla RNN in a file without a config
    batch_first      the orientation of sequences, for a file without a config
    only             paths of the layers to read (none: all); a layer elsewhere that cannot be understood is then no
                     error
    forget_constant  what a TensorFlow 1 cell adds to its forget gate at run time, which no file says
    reset_after      of a GRU in a file without a config, where the arrays do not tell
    config           a file with the model's config (JSON), for weights that were saved without one
    layout           the name of a layout: the file holds plain arrays in it, and belongs to no framework
    cell             the cell of plain arrays, where their names fit several
    """

    nonlinearity: str | None = None
    batch_first: bool | None = None
    only: tuple[str, ...] = ()
    forget_constant: float | None = None
    reset_after: bool | None = None
    config: str | None = None
    layout: str | None = None
    cell: str | None = None


#: Where two files are read, these hold for both; the other options are about the first alone.
FOR_BOTH = ("nonlinearity", "batch_first", "only", "forget_constant", "reset_after")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How the target is written, where there is a choice.

    batch_first    sequences as (b, t, i) rather than (t, b, i); None: as in the source, else the target's own default
    stack          put consecutive layers into one module that holds several, where the target has one
    opset          ONNX: the operator set, 7 to 22
    external_data  ONNX: weights in a file of their own beside the model
    lengths        ONNX: an input for the lengths of the sequences
    initial        ONNX: inputs for the initial states
    """

    batch_first: bool | None = None
    stack: bool = False
    opset: int = 17
    external_data: bool = False
    lengths: bool = False
    initial: bool = False


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a framework computed for consecutive layers, on the host.

    y  (b, t, f): the outputs of the last layer, as `lstmbridge.reference.Outcome` gives them
    h  one (d, b, p) a layer
    c  one (d, b, h) a layer, None where the cell has none
    """

    y: npt.NDArray[Any]
    h: Sequence[npt.NDArray[Any]]
    c: Sequence[npt.NDArray[Any] | None]


#: Initial states, one array a layer: h0 (d, b, p), c0 (d, b, h); None: zeros.
InitialStates = Sequence[npt.NDArray[np.float64]] | None


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradient of one number that was computed from the outputs of consecutive layers, on the host.

    x        (b, t, i)
    weights  one dict a layer: what `Layer.weights` has, name by name, each the gradient of that weight
    """

    x: npt.NDArray[Any]
    weights: Sequence[Mapping[str, npt.NDArray[Any]]]


class LayoutRoom(Protocol):
    """layout.py: data, and nothing imported but the core."""

    LAYOUTS: Mapping[str, Layout]
    HOLDS: Holds


class LiveRoom(Protocol):
    """live.py: objects of the framework.

    read    the layers of an object; arrays are views on its memory, in its own namespace, on its device
    build   a new object that holds the targets: one layer gives the framework's own layer, several a container that
            has each under its path and runs those in order that feed one another (`Layer.after`). What `Layout.pack`
            makes is in the source's namespace, on its device (torch tensors of a torch layer): `build` takes it to its
            own (`lstmbridge.arrays`: host, to_torch, to_jax)
    assign  writes the weights of `layers`, as `read` gave them, back into the object they were read from
    load    the live object of a file of this framework
    run     runs that part of `obj` which `layers` were read from (consecutive, of one path) on x (b, t, i), with
            h0 and c0 (`InitialStates`: a list with one array a layer, or None for zeros) and lengths (b,), or None
            where all steps count. x and states come in float64 whatever the weights are; to cast them to the layer's
            dtype, and to put them on its device, is for `run` to do. A step past the end leaves the state as it is and
            gives y = 0. Where `run` also takes `mask` (b, t), true for each step that counts, any step may be left out;
            a run without that parameter is given the steps that count, moved together, and their number as lengths

    and, where the framework has them, two that the conformance checks use:

    gradients  (obj, layers, x, h0, c0, lengths, pull) -> Gradients, by the framework's own differentiation, of
               sum(y * pull.y) + sum(h * pull.h) + sum(c * pull.c); a weight's gradient stands where the weight stands
    tensors    (obj) -> every array of the object that holds weights, recurrent or not, by the framework's own name

    and, where `assign` cannot write into every object,

    expect_writable  (layer) -> None, before anything is changed; else LayoutError, with the way out

    and, where its layout.py has STATES,

    native      (array) -> the same numbers as an array of the framework's own, on their device where it can; without
                it, states are given on the host
    states      (obj, layers) -> what the one module that `layers` are keeps of its state between calls: arrays by the
                names of its usual form, which may be views; None if it keeps nothing
    set_states  (obj, pairs of layers and arrays), the arrays named so: these are what is kept; all of them or none
    """

    read: Callable[[Any, ReadOptions], Reading]
    build: Callable[[Sequence[Fitted], WriteOptions], Any]
    assign: Callable[[Any, Sequence[Layer]], None]
    load: Callable[[Path, ReadOptions], Any]
    run: Callable[..., Outputs]


class TrainingRoom(Protocol):
    """training.py: optimizers, each with the object whose weights it trains and that object's layers.

    read    the state in canonical form (`lstmbridge.optimizers`): copies, on the host
    build   a new optimizer of the object's trainable parameters with that state (its slots are for these `layers`),
            and notes
    freeze  the second bias of every layer that has two is no longer trained; gives the parameters' names
    frozen  the labels of the layers whose second bias is not trained; may be missing
    train   one step for each batch (x, target) on the mean squared error of the outputs; the losses
    load    the state in a file of this framework
    """

    read: Callable[[Any, Any, Sequence[Layer]], OptimizerState]
    build: Callable[[OptimizerState, Any, Sequence[Layer]], tuple[Any, Sequence[str]]]
    freeze: Callable[[Any, Sequence[Layer]], tuple[str, ...]]
    train: Callable[..., list[float]]
    load: Callable[[Path, ReadOptions], OptimizerState]


class FilesRoom(Protocol):
    """files.py: named arrays and a config.

    read   the layers of a file; arrays are numpy's, views on the mapped file where it is large (`lstmbridge.mapped`)
    write  a complete file at `path` (and `path` + ".data" beside it, where a format has two); the caller makes it
           atomic. So that no more than a layer is in memory, each array is packed when its turn comes (`Layout.later`),
           let go when it is written, and `lstmbridge.mapped.forget` called after it. It may give notes: what the file
           does not say

    and, where the format allows it,

    patch  (existing, layers, path, options) -> notes: at `path`, a copy of the file `existing` in which the weights of
           `layers` (as `read` gave them with these options: label, Spec and dtype; on the host) are these; every other
           array and everything else that the file says stays as it is, bit for bit. What it cannot write in its place
           it refuses (Unsupported); the notes say what is not as it was
    optimizer  (path, options) -> OptimizerState: the state of the optimizer in a checkpoint
    """

    read: Callable[[Path, ReadOptions], Reading]
    write: Callable[[Sequence[Fitted], Path, WriteOptions], Sequence[str] | None]
    patch: Callable[[Path, Sequence[Layer], Path, ReadOptions], Sequence[str]]
    optimizer: Callable[[Path, ReadOptions], OptimizerState]
