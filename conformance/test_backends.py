"""Keras on its other backends: the same pairs, each backend in a process of its own (a process has only one).

The quick set takes each cell with the features that a backend could get wrong; `make conformance` runs all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import cases
from runtimes import KERAS, plain

ROOT = Path(__file__).parents[1]
CELLS = {"lstm", "gru-after", "gru-before", "rnn-tanh"}
FEATURES = {"plain", "dual-bias", "reverse-as-processed", "bidirectional-sum", "hard-sigmoid-1/6", "peepholes"}
PAIRS = {("keras", "torch"), ("torch", "keras")}


def quick(backend: str) -> list[str]:
    """The names of the quick set's tests where Keras runs on that backend."""
    chosen = [
        case
        for case in cases(1)
        if case.cell in CELLS and case.features[0] in FEATURES and (plain(case.source), plain(case.target)) in PAIRS
    ]
    return [
        f"conformance/test_pairs.py::test_one_feature[{str(case).replace(KERAS, f'keras[{backend}]')}]"
        for case in chosen
    ]


@pytest.mark.skipif("KERAS_BACKEND" in os.environ, reason="this process is already a backend's")
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_pairs_on_another_backend(backend: str) -> None:
    names = quick(backend)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
    env = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(rf"^{len(names)} passed in ", done.stdout, re.MULTILINE), "every case ran, none was skipped"
