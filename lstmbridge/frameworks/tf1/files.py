"""TensorFlow 1's files without TensorFlow: checkpoints by variable names, and frozen graphs.

A checkpoint holds variables, a graph what is computed with them. Where the graph is at hand (a frozen graph, or the
``.meta`` file or SavedModel that a checkpoint belongs to), the constants that no variable holds are traced in it.
Sources: tensorflow/core/util/tensor_bundle and tensorflow/python/ops/rnn_cell_impl.py (TensorFlow 1.15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as Collection
from pathlib import Path

from lstmbridge.bundle import Bundle, prefix_of
from lstmbridge.contract import Reading, ReadOptions
from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.tf1.cells import Cell, cells, groups, slots
from lstmbridge.frameworks.tf1.graph import Graph, open_graph, open_meta, open_saved_model
from lstmbridge.frameworks.tf1.layers import Source, Traced, layers_of
from lstmbridge.frameworks.tf1.onefile import OneFile
from lstmbridge.frameworks.tf1.steps import Step, Steps, steps
from lstmbridge.sstable import is_table
from lstmbridge.wire import readable

__all__ = ["read"]


def read(path: Path, options: ReadOptions) -> Reading:
    """The recurrent layers of a checkpoint or a frozen graph, in the order of their names.

    `path` is a frozen graph (``.pb``), a checkpoint in one file, one of a checkpoint's files, what those begin with
    (``model.ckpt-1000``), or a directory that has one. Errors: FileError for a file that is damaged, foreign, or has
    no recurrent layer; Ambiguous for an LSTM of which neither its name nor a graph says the forget constant, unless
    `ReadOptions.forget_constant` does; Unsupported for a cell of another kind.
    """
    prefix = prefix_of(path)
    if prefix is not None:
        with readable(path, "checkpoint"):
            return _read_checkpoint(Bundle(prefix), prefix, path, options)
    if path.is_file() and is_table(path):
        with readable(path, "checkpoint"):
            return _read_checkpoint(OneFile(path), path, path, options)
    if path.suffix == ".meta":
        raise FileError(f"{path}: no {path.stem}.index beside it", "the graph alone has no numbers")
    if not path.is_file():
        raise FileError(f"{path}: no checkpoint there", "expected NAME.index and NAME.data-00000-of-00001")
    with readable(path, "TensorFlow graph"):
        return _read_graph(path, options)


# ---- checkpoints


def _read_checkpoint(bundle: Bundle | OneFile, prefix: Path, path: Path, options: ReadOptions) -> Reading:
    shapes = {name: bundle.shape(name) for name in bundle.names}
    graph, about = _graph_of(prefix)
    found = steps(graph, bundle.peek) if graph is not None else Steps()
    known = [step for step in found.proved if set(step.variables.values()) <= set(shapes)]
    cells_ = _cells(shapes, known, found.disproved, options, path.name)
    source = Source(path.name, bundle.read, _traced(known, f"in {about}"))
    layers, notes = layers_of(groups(cells_, shapes), source, options)
    return Reading(tuple(layers), bundle.untouched(), (*notes, *_about_slots(shapes)))


def _graph_of(prefix: Path) -> tuple[Graph | None, str]:
    """The graph that a checkpoint belongs to, if it is beside it, and its file's name. Errors: FileError."""
    meta = prefix.with_name(f"{prefix.name}.meta")
    saved = prefix.parent.parent / "saved_model.pb"
    if meta.is_file():
        return open_meta(meta), meta.name
    if prefix.parent.name == "variables" and saved.is_file():
        return open_saved_model(saved), saved.name
    return None, ""


def _about_slots(names: Mapping[str, object]) -> list[str]:
    """A note on what stands below the variables: moments, averages."""
    kinds = sorted({name.rpartition("/")[2] for name in slots(names)})
    some = ", ".join(kinds[:6]) + (" ..." if len(kinds) > 6 else "")
    return [f"left alone beside the variables: {some}"] if kinds else []


# ---- graphs


def _read_graph(path: Path, options: ReadOptions) -> Reading:
    graph = open_graph(path)
    shapes = {name: graph.constant_shape(name) for name in graph.weights()}
    found = steps(graph, graph.constant)
    for whole, (parts, _) in graph.parts.items():
        if all(part in shapes for part in parts):
            shapes[whole] = graph.constant(whole).shape
            shapes = {name: shape for name, shape in shapes.items() if name not in parts}
    cells_ = _cells(shapes, found.proved, found.disproved, options, path.name)
    source = Source(path.name, graph.constant, _traced(found.proved, "in the graph"))
    layers, notes = layers_of(groups(cells_, shapes), source, options)
    used = {name for cell in cells_ for name in cell.variables.values()} if layers else set()
    if not cells_:
        _expect_no_keras(set(shapes), path)
        graph.expect_understood()
    left_alone = tuple(name for name in shapes if name not in used and shapes[name])
    return Reading(tuple(layers), left_alone, tuple(notes))


def _expect_no_keras(names: Collection[str], path: Path) -> None:
    """Nothing, unless there are constants that Keras named. Errors: Unsupported."""
    strangers = [name for name in names if name.endswith("recurrent_kernel")]
    if strangers:
        raise Unsupported(
            f"{path}: {strangers[0]} belongs to a layer of Keras; its step is not looked for in a frozen graph",
            "give the model's .h5 file, its checkpoint or its SavedModel",
        )


# ---- both


def _cells(
    shapes: Mapping[str, tuple[int, ...]],
    found: Sequence[Step],
    disproved: Collection[str],
    options: ReadOptions,
    where: str,
) -> list[Cell]:
    """The cells that steps of the graph are, and those that names alone tell.

    Errors: Unsupported for one that its name tells, and whose step computes something else.
    """
    stepped = [step.cell() for step in found]
    mine = {name for cell in stepped for name in cell.variables.values()}
    others = {name: shape for name, shape in shapes.items() if not _stands_below(name, mine)}
    named = cells(others, options.cell, options.only, where, alone=not stepped) if others else []
    for cell in named:
        if disproved & set(cell.variables.values()):
            raise Unsupported(
                f"{where}: {cell.scope}: its step in the graph is not that of a {cell.layout.cell}",
                "found: it looks like one, and gives other numbers when it is run beside the equations",
            )
    return sorted([*stepped, *named], key=lambda cell: cell.order)


def _stands_below(name: str, among: Collection[str]) -> bool:
    """Whether a name is one of those, or a slot of one."""
    return name in among or any(name.startswith(f"{each}/") for each in among)


def _traced(found: Sequence[Step], where: str) -> dict[str, Traced]:
    return {step.kernel: Traced(step.features, f"{step.note} {where}") for step in found}
