"""What importing and converting import: no framework, on any way from file to file.

Each program runs in a process of its own. Two proofs that these tests can fail: a stand-in ``torch`` that a program
does import is seen, and a framework that cannot be imported stops a program that needs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = ("tensorflow", "torch", "keras", "jax", "onnxruntime")
MODELS = Path(__file__).parent.parent / "examples" / "models"

CONVERT = """
import sys
from lstmbridge.cli import main
try:
    main(["convert", *sys.argv[1:]])
except SystemExit as stop:
    assert not stop.code, stop.code
"""

LAST_WORDS = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def run(program: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The program in a fresh interpreter, with `path` before everything else that can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def imported(program: str, *arguments: object, path: Path | None = None) -> set[str]:
    """The root packages that the program has imported when it ends."""
    done = run(program + LAST_WORDS, *arguments, path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def no_frameworks(tmp_path: Path) -> Path:
    """A folder to import from in which no framework can be imported, whatever is installed."""
    for name in FRAMEWORKS:
        package = tmp_path / "absent" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name} here', name={name!r})\n")
    return tmp_path / "absent"


def test_importing_lstmbridge_imports_no_framework() -> None:
    assert imported("import lstmbridge").isdisjoint({*FRAMEWORKS, "onnx", "h5py"})


def test_the_command_imports_no_framework() -> None:
    assert imported("import lstmbridge.cli").isdisjoint({*FRAMEWORKS, "onnx", "h5py"})


WAYS = [
    ("tagger.keras", "tagger.safetensors"),
    ("tagger.keras", "tagger.onnx"),
    ("tagger.keras", "copy.keras"),
    ("gru_forecast.keras", "forecast.safetensors"),
    ("gru_forecast.keras", "forecast.npz"),
    ("legacy_gates.keras", "legacy.onnx"),
    ("speller.safetensors", "speller.keras"),
    ("speller.safetensors", "speller.onnx"),
    ("speller.pt", "speller.npz"),
    ("speller.onnx", "speller.safetensors"),
    ("speller.onnx", "speller.keras"),
]


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_file_to_file_imports_no_framework(tmp_path: Path, source: str, target: str) -> None:
    seen = imported(CONVERT, MODELS / source, tmp_path / target)
    assert seen.isdisjoint(FRAMEWORKS)
    assert (tmp_path / target).stat().st_size > 0


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_file_to_file_needs_no_framework(tmp_path: Path, no_frameworks: Path, source: str, target: str) -> None:
    done = run(CONVERT, MODELS / source, tmp_path / target, path=no_frameworks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / target).stat().st_size > 0


# ---- that these tests can fail


def test_an_import_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    assert "torch" in imported("import lstmbridge, torch", path=tmp_path)
    late = "import lstmbridge.errors, importlib\nimportlib.import_module('torch')"
    assert "torch" in imported(late, path=tmp_path)


def test_a_need_would_be_felt(tmp_path: Path, no_frameworks: Path) -> None:
    program = f"import lstmbridge\nlstmbridge.convert({str(MODELS / 'tagger.keras')!r}, to='torch')"
    done = run(program, path=no_frameworks)
    assert done.returncode != 0
    assert "pip install 'lstmbridge[torch]'" in done.stderr
