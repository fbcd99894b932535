"""Layers that feed one another: two and three alike, and of unequal sizes, in one module or one after another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cases import PAIRS
from runtimes import DEVICE, placed, plain
from suite import figures, skip_if_missing

from lstmbridge import Layer, Spec, convert, migrate
from lstmbridge.errors import Unsupported
from lstmbridge.testing import CELLS, check_complete, check_forward, check_round_trip, telling_layer

BOTH = ("forward", "reverse")

#: The hidden sizes of the levels, the directions, and whether the target is to hold them in one module.
STACKS: dict[str, tuple[tuple[int, ...], tuple[str, ...], bool]] = {
    "stacked-2": ((11, 11), ("forward",), False),
    "stacked-3": ((11, 11, 11), ("forward",), False),
    "stacked-2-bidirectional": ((11, 11), BOTH, False),
    "stacked-3-bidirectional": ((4, 4, 4), BOTH, False),
    "unequal": ((11, 4, 6), ("forward",), False),
    "unequal-bidirectional": ((11, 4), BOTH, False),
    "in-one-module": ((11, 11), ("forward",), True),
    "in-one-module-bidirectional": ((4, 4, 4), BOTH, True),
}

QUICK = ("stacked-3-bidirectional", "unequal", "in-one-module")


def chain(cell: str, sizes: tuple[int, ...], directions: tuple[str, ...]) -> tuple[Layer, ...]:
    """Layers that read one another, with weights of their own."""
    layers: list[Layer] = []
    for number, hidden in enumerate(sizes):
        features = layers[-1].spec.output_size if layers else 5
        bias = "single" if cell == "gru-before" else "dual"
        spec = Spec(input_size=features, hidden_size=hidden, directions=directions, bias=bias, **CELLS[cell])
        after = layers[-1].label if layers else None
        layers.append(telling_layer(spec, seed=number, path=f"level{number}", after=after))
    return tuple(layers)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize(
    ("cell", "stack"),
    [
        pytest.param(cell, stack, marks=[] if stack in QUICK else [pytest.mark.slow])
        for cell, stack in itertools.product(CELLS, STACKS)
    ],
)
def test_stacks(cell: str, stack: str, source: str, target: str, record: Any) -> None:
    sizes, directions, together = STACKS[stack]
    line: dict[str, Any] = {
        "kind": "case",
        "id": f"{cell}-{stack} / {source}->{target} / float32 / {DEVICE}",
        "suite": "stacks",
        "cell": cell,
        "features": [stack],
        "source": source,
        "target": target,
        "dtype": "float32",
        "device": DEVICE,
    }
    skip_if_missing(line, record)
    layers = chain(cell, sizes, directions)
    if cell == "gru-before" and "torch" in (source, target):
        obj = layers if source == "torch" else convert(layers, to=plain(source))
        with pytest.raises(Unsupported, match="reset_after=False"):
            convert(obj, to="torch", stack=together)
        record(outcome="refused", reason="a GRU with reset_after=False", checks=["refusal"], **line)
        return
    try:
        made = placed(plain(source), convert(layers, to=plain(source)))
        done = migrate(made, to=plain(target), stack=together)
        result = placed(plain(target), done.result)
        found = [
            check_forward(made, result, batch=2, time=7),
            check_forward(made, result, batch=4, time=6, lengths=(6, 2, 4, 1), seed=1),
        ]
        check_complete(made, plain(target), stack=together)
        if not together:
            check_round_trip(made, plain(target))
    except Exception as error:
        record(outcome="failed", reason=str(error), checks=[], **line)
        raise
    checks = ["forward", "complete"] + ([] if together else ["round_trip"])
    record(outcome="agrees", reason="", checks=checks, module="stock", **line, **figures(found))
