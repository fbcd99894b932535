"""TensorFlow 1's cells by the names of their variables, and what those names say about stacks and directions.

Sources: tensorflow/python/ops/rnn_cell_impl.py, tensorflow/contrib/rnn/python/ops/{rnn_cell,lstm_ops,gru_ops}.py,
tensorflow/contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py (TensorFlow 1.15), and for the names before 1.2
tensorflow/contrib/rnn/python/tools/checkpoint_convert.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lstmbridge.errors import Ambiguous, Unsupported
from lstmbridge.frameworks.tf1.layout import CUDNN_GRU, LAYOUTS
from lstmbridge.notation import Layout

__all__ = ["Cell", "Group", "cells", "groups", "kind_of", "scope_of", "slots"]

Shapes = Mapping[str, tuple[int, ...]]

#: An array's name in the layout, and what it was called by other versions.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "kernel": ("kernel", "weights", "Linear/Matrix", "W_0"),
    "bias": ("bias", "biases", "Linear/Bias", "B"),
    "w_i_diag": ("w_i_diag", "W_I_diag"),
    "w_f_diag": ("w_f_diag", "W_F_diag"),
    "w_o_diag": ("w_o_diag", "W_O_diag"),
    "projection/kernel": ("projection/kernel", "projection/weights", "W_P_0"),
    "gates/kernel": ("gates/kernel", "gates/weights", "Gates/Linear/Matrix", "w_ru"),
    "gates/bias": ("gates/bias", "gates/biases", "Gates/Linear/Bias", "b_ru"),
    "candidate/kernel": ("candidate/kernel", "candidate/weights", "Candidate/Linear/Matrix", "w_c"),
    "candidate/bias": ("candidate/bias", "candidate/biases", "Candidate/Linear/Bias", "b_c"),
    "candidate/input_projection/kernel": ("candidate/input_projection/kernel",),
    "candidate/input_projection/bias": ("candidate/input_projection/bias",),
    "candidate/hidden_projection/kernel": ("candidate/hidden_projection/kernel",),
    "candidate/hidden_projection/bias": ("candidate/hidden_projection/bias",),
}
_KEY_OF = {spelling: key for key, spellings in _SPELLINGS.items() for spelling in spellings}

#: The scopes that the cells have unless their maker names them.
_LSTM = ("basic_lstm_cell", "lstm_cell", "lstm_fused_cell", "lstm_block_cell", "lstm_block_wrapper")
_CUDNN_LSTM = "cudnn_compatible_lstm_cell"
_RNN = ("basic_rnn_cell",)

#: Cells with equations of their own, and what is different.
_REFUSED: Mapping[str, str] = {
    "layer_norm_basic_lstm_cell": "it normalises each gate",
    "layer_norm_lstm_cell": "it normalises each gate",
    "coupled_input_forget_gate_lstm_cell": "its input gate is 1 - f",
    "weight_norm_lstm_cell": "its weights are normalised at run time",
    "ugrnn_cell": "it has one gate",
    "intersection_rnn_cell": "it has two outputs",
    "nas_rnn": "its equations were found by a search",
    "nas_cell": "its equations were found by a search",
    "grid_lstm_cell": "it runs over frequencies as well",
    "bidirectional_grid_lstm_cell": "it runs over frequencies as well",
    "time_freq_lstm_cell": "it runs over frequencies as well",
    "phased_lstm_cell": "its gates depend on the time",
    "conv_lstm_cell": "its products are convolutions",
    "conv_1d_lstm_cell": "its products are convolutions",
    "conv_2d_lstm_cell": "its products are convolutions",
    "conv_3d_lstm_cell": "its products are convolutions",
    "glstm_cell": "its gates are computed in groups",
    "sru_cell": "it has no recurrent matrix",
    "indrnn_cell": "its recurrent matrix is diagonal",
    "indy_gru_cell": "its recurrent matrices are diagonal",
    "indy_lstm_cell": "its recurrent matrices are diagonal",
}

_NUMBERED = re.compile(r"_\d+$")
_LEVEL = re.compile(r"[Cc]ell_?(\d+)")
_STACKS = ("multi_rnn_cell", "stack_bidirectional_rnn")
_DIRECTIONS = {"fw": "forward", "bw": "reverse"}


@dataclass(frozen=True)
class Cell:
    """One cell in a file: where it is, what it is, and the variables of its layout's arrays.

    scope      the name that its variables begin with
    kind       its class, as a scope says it: ``basic_lstm_cell``
    variables  the layout's name of each array -> the variable's
    features   fields of the Spec that are known
    """

    scope: str
    kind: str
    layout: Layout
    variables: Mapping[str, str]
    features: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Its scope as a path of this project."""
        return ".".join(self.scope.split("/"))

    @property
    def order(self) -> list[tuple[bool, int, str]]:
        """What cells are sorted by: the scope, its numbers as numbers."""
        return _natural(self.scope)


@dataclass(frozen=True)
class Group:
    """One layer in the making: the cell of each direction, its path, and its number in a stack."""

    path: str
    level: int | None
    cells: Mapping[str, Cell]

    @property
    def label(self) -> str:
        """As `Layer.label` will be."""
        return self.path if self.level is None else f"{self.path}.l{self.level}".lstrip(".")


# ---- which variables are cells


def slots(names: Collection[str]) -> tuple[str, ...]:
    """The variables that stand below another: what an optimizer or an average keeps of it."""
    return tuple(name for name in names if any(above in names for above in _above(name)))


def _above(name: str) -> Iterator[str]:
    words = name.split("/")
    return ("/".join(words[:n]) for n in range(1, len(words)))


def cells(shapes: Shapes, told: str | None, only: Sequence[str], where: str, *, alone: bool = True) -> list[Cell]:
    """The cells among variables of those names and shapes, in the order of their names.

    `told` is what a cell is whose name does not tell; `alone`: no other cells are known. Errors: Unsupported for a cell
    of another kind, or with arrays that its kind does not have; Ambiguous where the names of the only candidates do not
    tell what they are.
    """
    aside = set(slots(shapes))
    names = [name for name in shapes if name not in aside]
    found: list[Cell] = []
    unnamed: list[str] = []
    scopes = _scopes(names)
    inside = _inside(names, scopes)
    for scope, own in sorted(scopes.items(), key=lambda each: _natural(each[0])):
        wanted = not only or any(_near(".".join(scope.split("/")), each) for each in only)
        _expect_known(scope, wanted, where)
        cell = _cell(scope, own) or _told(scope, own, told)
        if cell is None:
            unnamed += [scope] if _like_a_cell(scope, own, shapes) else []
            continue
        if wanted:
            _expect_complete(cell, inside[scope], where)
        found.append(cell)
    if unnamed and alone and not found:
        raise Ambiguous(
            f"{where}: {', '.join(unnamed[:3])}: its name does not tell which cell it is",
            "say it: cell='lstm' or cell='rnn' (--cell)",
        )
    return found


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", name)]


def _near(path: str, asked: str) -> bool:
    """Whether a cell at `path` may be meant by the label of a layer; its direction and level are not words of it."""
    words = [word for word in path.split(".") if word not in _DIRECTIONS]
    short = ".".join(words)
    stem = re.sub(r"\.l\d+$", "", asked)
    return any(each == stem or each.startswith(f"{stem}.") for each in (path, short))


def _scopes(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Every scope that has arrays of a cell's names: layout's name -> variable."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for spelling, key in _KEY_OF.items():
            if name.endswith(f"/{spelling}"):
                found.setdefault(name.removesuffix(f"/{spelling}"), {})[key] = name
    return found


def scope_of(variable: str) -> str:
    """The scope of a cell by the name of its kernel; what stands before its last word, if that is none of a kernel."""
    spelling = max((each for each in _KEY_OF if variable.endswith(f"/{each}")), key=len, default="")
    return variable.removesuffix(f"/{spelling}") if spelling else variable.rpartition("/")[0] or variable


def kind_of(scope: str) -> str:
    """The last word of a scope as TensorFlow 1.2 and later would write it: no number, no capitals."""
    word = _NUMBERED.sub("", scope.rpartition("/")[2])
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", word).lower()


def _expect_known(scope: str, wanted: bool, where: str) -> None:
    kind = kind_of(scope)
    if wanted and kind in _REFUSED:
        raise Unsupported(
            f"{where}: {scope} is a cell of another kind ({kind}): {_REFUSED[kind]}",
            f"understood: {', '.join((*_LSTM, _CUDNN_LSTM, 'gru_cell', *_RNN))}",
            "to convert the other layers, pick them: layers= (--layer)",
        )


def _cell(scope: str, own: Mapping[str, str]) -> Cell | None:
    """The cell that a scope's arrays and its name are, None if they are none."""
    kind, keys = kind_of(scope), set(own)
    if {"gates/kernel", "candidate/kernel"} <= keys:
        return Cell(scope, kind, LAYOUTS["gru"], own, {"reset_after": False})
    if {"gates/kernel", "candidate/input_projection/kernel"} <= keys:
        return Cell(scope, kind, CUDNN_GRU, own, {"reset_after": True, "bias": "dual"})
    if "kernel" in keys and kind == _CUDNN_LSTM:
        return Cell(scope, kind, LAYOUTS["lstm"], own, {"forget_constant": 0.0})
    if "kernel" in keys and (kind in _LSTM or keys & {"w_i_diag", "w_f_diag", "w_o_diag"}):
        return Cell(scope, kind, LAYOUTS["lstm"], own, {})
    return Cell(scope, kind, LAYOUTS["rnn"], own, {}) if "kernel" in keys and kind in _RNN else None


def _told(scope: str, own: Mapping[str, str], told: str | None) -> Cell | None:
    if told not in ("lstm", "rnn") or not _inside_rnn(scope) or "kernel" not in own:
        return None
    return Cell(scope, kind_of(scope), LAYOUTS[told], own, {})


def _inside_rnn(scope: str) -> bool:
    """Whether the scope above is one that TensorFlow runs cells in."""
    above = scope.rpartition("/")[0].rpartition("/")[2]
    return above in ("rnn", *_DIRECTIONS) or bool(_LEVEL.fullmatch(above))


def _like_a_cell(scope: str, own: Mapping[str, str], shapes: Shapes) -> bool:
    """Whether a scope of an unknown name could be a cell: where it stands, and its shapes."""
    if not _inside_rnn(scope) or set(own) != {"kernel", "bias"}:
        return False
    kernel, bias = shapes[own["kernel"]], shapes[own["bias"]]
    return len(kernel) == 2 and bias == kernel[1:] and 4 * kernel[0] > kernel[1] and kernel[1] > 0


def _inside(names: Sequence[str], scopes: Collection[str]) -> dict[str, list[str]]:
    """The variables in each scope."""
    found: dict[str, list[str]] = {scope: [] for scope in scopes}
    for name in names:
        for above in _above(name):
            if above in found:
                found[above].append(name)
    return found


def _expect_complete(cell: Cell, names: Sequence[str], where: str) -> None:
    """That nothing else stands in the cell's scope: a cell with more arrays computes something else."""
    known = set(cell.variables.values())
    strangers = [name for name in names if name not in known]
    if strangers:
        raise Unsupported(
            f"{where}: {cell.scope} has arrays that a {cell.layout.cell} does not have",
            f"found: {', '.join(strangers[:5])}",
            f"expected some of {', '.join(line.key for line in cell.layout.lines)}",
        )


# ---- which cells are one layer, and which layers one stack


@dataclass(frozen=True)
class _Place:
    """What a scope says: path of the layer, its number in a stack, and the direction; pair: may be one of two."""

    path: tuple[str, ...]
    full: tuple[str, ...]
    level: int | None
    direction: str
    pair: bool


def groups(found: Sequence[Cell], shapes: Shapes) -> list[Group]:
    """The layers that the cells are: two directions where their names and shapes go together, levels of stacks."""
    places = {cell.scope: _place(cell.scope) for cell in found}
    joined = _joined(found, places, shapes)
    stacks: dict[tuple[str, ...], list[int]] = {}
    for cells_ in joined:
        place = places[next(iter(cells_.values())).scope]
        if place.level is not None:
            stacks.setdefault(place.path, []).append(place.level)
    return [_group(cells_, places, stacks) for cells_ in joined]


def _place(scope: str) -> _Place:
    words = scope.split("/")
    at = max((n for n, word in enumerate(words) if word.lower() in _DIRECTIONS), default=None)
    direction = _DIRECTIONS[words[at].lower()] if at is not None else "forward"
    stack = max(
        (n for n, word in enumerate(words[:-1]) if kind_of(word) in _STACKS and _LEVEL.fullmatch(words[n + 1])),
        default=None,
    )
    pair = at is not None and (stack is None or stack < at)
    short = tuple(word for n, word in enumerate(words) if not (pair and n == at))
    if stack is None:
        return _Place(short, short, None, direction, pair)
    match = _LEVEL.fullmatch(words[stack + 1])
    return _Place(tuple(words[: stack + 1]), short, int(match[1]) if match else None, direction, pair)


def _joined(found: Sequence[Cell], places: Mapping[str, _Place], shapes: Shapes) -> list[dict[str, Cell]]:
    """The cells of each layer by direction."""
    open_: dict[tuple[str, ...], dict[str, Cell]] = {}
    joined: list[dict[str, Cell]] = []
    for cell in found:
        place = places[cell.scope]
        both = open_.get(place.full, {}) if place.pair else {}
        if both and _are_two(cell, next(iter(both.values())), places, shapes):
            both[place.direction] = cell
            del open_[place.full]
        else:
            open_[place.full] = {place.direction: cell}
            joined.append(open_[place.full])
    return [
        {direction: both[direction] for direction in ("forward", "reverse") if direction in both} for both in joined
    ]


def _are_two(one: Cell, other: Cell, places: Mapping[str, _Place], shapes: Shapes) -> bool:
    """Whether two cells are the two directions of one layer."""
    a, b = places[one.scope], places[other.scope]
    alike = one.layout is other.layout and one.features == other.features and a.full == b.full
    return (
        alike
        and a.pair
        and b.pair
        and a.direction != b.direction
        and {key: shapes[name] for key, name in one.variables.items()}
        == {key: shapes[name] for key, name in other.variables.items()}
    )


def _group(
    both: Mapping[str, Cell], places: Mapping[str, _Place], stacks: Mapping[tuple[str, ...], Sequence[int]]
) -> Group:
    first = next(iter(both.values()))
    place = places[first.scope]
    if place.level is not None and sorted(stacks[place.path]) == list(range(len(stacks[place.path]))):
        return Group(".".join(place.path), place.level, both)
    path = place.full if len(both) > 1 or not place.pair else tuple(first.scope.split("/"))
    return Group(".".join(path), None, both)
