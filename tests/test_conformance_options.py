"""The options of the conformance suite: what is asked for and is not there is an error, and says so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def collected(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_a_device_that_is_not_there() -> None:
    done = collected("conformance/test_stacks.py", "--device", "cuda", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--device cuda: torch finds no CUDA device" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("kers", "expected some of keras, torch, onnx, gates"), ("keras", "the package theano is not installed")],
)
def test_a_framework_that_is_not_there(name: str, words: str) -> None:
    assert importlib.util.find_spec("theano") is None
    backend = {"KERAS_BACKEND": "theano"} if name == "keras" else {}
    done = collected("conformance/conftest.py", "--require", name, **backend)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert words in done.stderr


def test_the_runner_says_what_it_does() -> None:
    command = [sys.executable, "conformance/run.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(option in done.stdout for option in ("--device", "--workers", "--full", "--out", "--docs"))
