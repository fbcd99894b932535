"""Every ordered pair of file formats, without a framework in between: read, written, run by the target's own framework.

Each file is run by the framework it belongs to and compared with the source and the equations; and the way back, with
the remainder, gives the source's weights bit for bit.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from suite import figures

from helpers import HIDDEN, layer
from lstmbridge import Layer, check, migrate, read
from lstmbridge.arrays import same_bits
from lstmbridge.errors import Unsupported
from lstmbridge.testing import check_forward

FORMATS = (".keras", ".h5", ".weights.h5", ".safetensors", ".pt", ".onnx", ".npz", ".gates.safetensors")
BOTH = ("forward", "reverse")


def chain() -> tuple[Layer, ...]:
    """Two bidirectional LSTMs of unequal size, the second reading the first."""
    first = layer(path="encoder", directions=BOTH, bias="dual")
    second = layer(path="decoder", directions=BOTH, bias="dual", input_size=2 * HIDDEN, hidden_size=4, seed=1)
    return first, second.replace(after="encoder")


#: What is in the file: any of these is held by every format.
CONTENTS: dict[str, Any] = {
    "lstm": lambda: (layer(path="rnn", bias="dual"),),
    "gru": lambda: (layer("gru", path="rnn", bias="dual", directions=BOTH),),
    "no-bias": lambda: (layer("gru", path="rnn", bias="none"),),
    "chain": chain,
    "apart": lambda: (layer(path="a", bias="dual"), layer("gru", path="b", bias="dual", seed=1)),
}


def option(suffix: str) -> dict[str, str]:
    return {"to": "gates"} if suffix == ".gates.safetensors" else {}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)))
@pytest.mark.parametrize("content", CONTENTS)
def test_file_to_file(content: str, source: str, target: str, tmp_path: Path, record: Any) -> None:
    made = CONTENTS[content]()
    a, b, c = (tmp_path / f"{name}{suffix}" for name, suffix in (("a", source), ("b", target), ("c", source)))
    migrate(made, path=a, **option(source))
    done = migrate(a, path=b, **option(target))
    found = check_forward(a, b, batch=2, time=6)
    assert [each.label for each in read(b)] == [each.label for each in read(a)]
    migrate(b, path=c, remainder=done.remainder, **option(source))
    for before, after in zip(read(a), read(c), strict=True):
        assert before.spec == after.spec
        different = [name for name in before if not same_bits(before[name], after[name])]
        assert not different
    assert [each.after for each in read(c)] == [each.after for each in read(a)]
    record(
        kind="case",
        id=f"{content} / {source}->{target} / float32 / cpu",
        suite="files",
        cell=made[0].spec.cell,
        features=[f"file: {content}"],
        source=source,
        target=target,
        dtype="float32",
        device="cpu",
        outcome="agrees",
        reason="",
        checks=["forward", "round_trip"],
        **figures([found]),
    )


@pytest.mark.parametrize("target", [".keras", ".h5", ".safetensors", ".pt", ".onnx"])
def test_what_is_refused_leaves_no_file(target: str, tmp_path: Path) -> None:
    made = layer(path="rnn", projection_size=3, proj_clip=1.0, bias="dual")
    with pytest.raises(Unsupported, match="projection"):
        migrate(made, path=tmp_path / f"x{target}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", [".keras", ".safetensors", ".pt"])
def test_faithful_files(target: str, tmp_path: Path) -> None:
    made = layer(path="rnn", projection_size=3, proj_clip=0.1, bias="dual", peepholes=True, clip=0.4)
    source = migrate(made, path=tmp_path / "a.npz").result
    done = migrate(source, path=tmp_path / f"b{target}", faithful=True)
    assert done.reports[0].module == "faithful"
    check(source, done.result).demand()
    [back] = read(done.result)
    assert back.spec == made.spec
    assert all(same_bits(back[name], made[name]) for name in made)
