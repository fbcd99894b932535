"""The models of examples/, and the demo that `make demo` runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lstmbridge import read

EXAMPLES = Path(__file__).parent.parent / "examples"
MODELS = {
    "tagger.keras": ["lstm bidirectional", "lstm bidirectional"],
    "gru_forecast.keras": ["gru", "rnn"],
    "legacy_gates.keras": ["lstm", "gru"],
    "speller.safetensors": ["lstm bidirectional", "lstm bidirectional"],
    "speller.pt": ["lstm bidirectional", "lstm bidirectional"],
    "speller.onnx": ["lstm bidirectional", "lstm bidirectional"],
}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo as a module whose root is a copy of its own."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    found = importlib.util.spec_from_file_location("demo", tmp_path / "examples" / "demo.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def test_the_models_are_small_and_told_of() -> None:
    files = {path.name: path.stat().st_size for path in (EXAMPLES / "models").iterdir()}
    assert set(files) == set(MODELS)
    assert max(files.values()) < 500_000
    assert sum(files.values()) < 1_500_000
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z_]+\.(?:keras|onnx|pt|safetensors))`", text)) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_hold_trained_layers(name: str) -> None:
    layers = read(EXAMPLES / "models" / name)
    assert [layer.spec.cell + " bidirectional" * layer.spec.bidirectional for layer in layers] == MODELS[name]
    biases = [np.asarray(layer[each]) for layer in layers for each in layer if ".bias." in each]
    assert all(len(np.unique(bias)) == bias.size for bias in biases)


def test_the_speller_is_the_same_in_its_three_files() -> None:
    torch_files = [read(EXAMPLES / "models" / f"speller.{suffix}") for suffix in ("safetensors", "pt", "onnx")]
    for first, *others in zip(*torch_files, strict=True):
        for other in others:
            assert all(np.array_equal(first[name], other[name]) for name in first)


def test_the_demo_agrees(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    program = [sys.executable, str(tmp_path / "examples" / "demo.py")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("== everything agrees")
    assert "cannot express gate activation hard_sigmoid" in done.stdout


def test_the_demo_would_not_agree(demo: ModuleType) -> None:
    x = np.linspace(0, 1, 6).reshape(1, 2, 3)
    original = {("lower", "y"): x, ("lower", "h"): x}
    assert demo.table("", original, {"torch": dict(original)}) == 0
    assert demo.table("", original, {"torch": {**original, ("lower", "h"): x + 2e-6}}) > demo.ALLOWED
    assert np.isnan(demo.table("", original, {"torch": {**original, ("lower", "h"): x * np.nan}}))


def test_a_wrong_number_makes_the_demo_fail(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    good, off, other, nan = (1e-7, True), (2e-6, True), (0.0, False), (float("nan"), True)
    monkeypatch.setattr(demo, "quietly", lambda name: None)
    codes = {}
    for outcomes in [(good, good), (off, good), (good, off), (other, good), (good, other), (nan, good), (good, nan)]:
        for name, outcome in zip(("there_and_back", "legacy"), outcomes, strict=True):
            monkeypatch.setattr(demo, name, lambda keras, outcome=outcome: outcome)
        codes[outcomes] = demo.main()
    assert [bool(code) for code in codes.values()] == [False] + [True] * 6


def test_the_training_runs_stay_together_with_the_recipe_and_else_do_not(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "training.py", "--steps", "8", "--out", tmp_path],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.count("from Keras at the most") == 4
    apart = json.loads((tmp_path / "training.json").read_text())["apart"]
    assert max(apart["frozen"], apart["resumed"]) < 1e-14
    assert min(apart["both biases"], apart["no optimizer"]) > 1e-4
    assert (tmp_path / "training.svg").read_text().count("torch from") == 4


def test_the_picture_of_the_docs_is_of_these_runs() -> None:
    found = json.loads((EXAMPLES.parent / "docs" / "training.json").read_text())
    assert max(found["apart"]["frozen"], found["apart"]["resumed"]) < 1e-14
    assert found["steps"] == len(found["keras"]) == 40
