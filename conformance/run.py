"""The whole suite: Keras on every backend in a process of its own, and the report of all of them.

    python conformance/run.py [--device cuda] [--workers 2] [--full FRACTION] [--out reports]

On the CPU Keras runs on tensorflow, torch and jax. On a GPU it runs on torch and jax, each with TensorFloat-32 off and
on; whatever else takes part (onnxruntime, gates) stays on the host. Exits with 1 if a case failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent

#: What another Keras backend, or a GPU, is tried on.
GRID = ("test_pairs.py", "test_sequences.py", "test_stacks.py", "test_initial.py")


def main() -> int:
    """Runs every part, writes the report, and gives the exit code."""
    given = _arguments()
    folder = given.out / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    codes = []
    for title, backend, words in _parts(given):
        print(f"==> conformance: {title}", flush=True)
        workers = ["-n", str(given.workers), "--dist", "worksteal"]
        command = [sys.executable, "-m", "pytest", "-q", *workers, "--record", str(folder), *words]
        done = subprocess.run(command, cwd=HERE.parent, env={**os.environ, "KERAS_BACKEND": backend}, check=False)
        codes.append(done.returncode)
    return _report(folder, given.out, given.docs) or max(codes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The whole conformance suite, and its report.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the frameworks compute")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--full", type=float, default=0.0, help="that part of all subsets of features, too")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for conformance.json and .html")
    parser.add_argument("--docs", type=Path, help="the page, and what the documentation quotes, go to this folder too")
    return parser.parse_args()


def _parts(given: argparse.Namespace) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(title, Keras backend, arguments of pytest) of every process."""
    grid = [str(HERE / name) for name in GRID]
    if given.device == "cuda":
        for backend in ("torch", "jax"):
            for tf32 in ([], ["--tf32"]):
                words = ["--device", "cuda", *tf32, "--require", "keras,torch", "-m", "not slow", *grid]
                title = f"Keras on {backend} and torch on the GPU, TF32 {'on' if tf32 else 'off'}"
                yield title, backend, words
        return
    full = ["--full", str(given.full)] if given.full else []
    whole = ["--require", "keras,torch,onnx", "--ignore", str(HERE / "test_backends.py"), *full, str(HERE)]
    yield "Keras on tensorflow, torch, onnxruntime", "tensorflow", whole  # the other backends come next, with all cases
    for backend in ("torch", "jax"):
        words = ["--require", "keras,torch,onnx", "-m", "not slow", *grid]
        yield f"Keras on {backend}", backend, words


def _report(folder: Path, out: Path, docs: Path | None) -> int:
    parts = sorted(folder.glob("*.jsonl"))
    if not parts:
        print("no case was recorded", file=sys.stderr)
        return 1
    made = ["--json", str(out / "conformance.json"), "--html", str(out / "conformance.html")]
    made += ["--docs", str(docs)] if docs else []
    return subprocess.run([sys.executable, str(HERE / "report.py"), *map(str, parts), *made], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
