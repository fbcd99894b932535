"""Migration jobs: files a second, beside a process per file and beside the script that one would write otherwise.

python benchmarks/jobs.py [--files 2000]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lstmbridge import Layer, Spec, convert
from lstmbridge.jobs import Job, run

Row = tuple[str, str, str, str]

#: What one would write: both frameworks, and the transposes by hand.
SCRIPT = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, torch
start = time.perf_counter()
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    model = keras.models.load_model(source, compile=False)
    [layer] = [each for each in model.layers if isinstance(each, keras.layers.LSTM)]
    kernel, recurrent, bias = layer.get_weights()
    lstm = torch.nn.LSTM(kernel.shape[0], layer.units, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(kernel.T.copy()))
        lstm.weight_hh_l0.copy_(torch.from_numpy(recurrent.T.copy()))
        lstm.bias_ih_l0.copy_(torch.from_numpy(bias))
        lstm.bias_hh_l0.zero_()
    torch.save(lstm.state_dict(), target)
print(time.perf_counter() - start)
"""


def models(folder: Path, count: int) -> list[Path]:
    """So many whole Keras models in ``.h5`` files: one LSTM of 32 units each."""
    rng = np.random.default_rng(0)
    spec = Spec(cell="lstm", input_size=16, hidden_size=32)
    files = []
    for number in range(count):
        weights = {name: rng.standard_normal(spec.shape(name), "float32") for name in spec.names()}
        files.append(folder / f"{number // 100:02}" / f"model{number:05}.h5")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        convert(Layer(spec=spec, weights=weights, path="lstm"), path=files[-1])
    return files


def rows(folder: Path, count: int = 2000, apart: int = 20, script: int = 200) -> Iterator[Row]:
    """Files a second of a job, and its seconds a file as a ratio to the two other ways."""
    files = models(folder / "old", count)
    rate = _rate(folder, count)
    what = f"lstmbridge migrate, {count:,} small .h5 to .safetensors, 2 workers"
    yield what, f"{rate:.0f} files/s", "median of three, after start-up, certificates included", "(demanded: 150)"
    each = _process_per_file(files[:apart], folder)
    yield (
        "",
        f"{1e3 / rate:.1f} ms a file",
        f"lstmbridge convert, a process per file: {each * 1e3:.0f} ms",
        _times(rate, each),
    )
    _, once = _script(files[:1], folder)
    yield (
        "",
        f"{1e3 / rate:.1f} ms a file",
        f"script that imports Keras and torch, run for one file: {once:.1f} s",
        f"{_times(rate, once)} (demanded: 20)",
    )
    inside, whole = _script(files[:script], folder)
    yield (
        "",
        f"{1e3 / rate:.1f} ms a file",
        f"the same script, one process for {script} files, imports not counted: {inside * 1e3:.0f} ms",
        _times(rate, inside),
    )
    yield (
        "",
        f"{1e3 / rate:.1f} ms a file",
        f"the same, imports counted: {whole * 1e3:.0f} ms",
        _times(rate, whole),
    )


def _times(rate: float, seconds: float) -> str:
    return f"{seconds * rate:.0f} times as fast"


def _rate(folder: Path, count: int) -> float:
    """Files a second, median of three jobs; the workers are started by a job before."""
    source = str(folder / "old")
    run(Job(source=source, destination=str(folder / "first"), to="torch", jobs=2, include=("00/*0.h5",)))
    rates = []
    for number in range(3):
        start = time.perf_counter()
        summary = run(Job(source=source, destination=str(folder / f"new{number}"), to="torch", jobs=2))
        rates.append(count / (time.perf_counter() - start))
        assert summary.counts == {"done": count}, summary.counts
        shutil.rmtree(folder / f"new{number}")
    return statistics.median(rates)


def _process_per_file(files: list[Path], folder: Path) -> float:
    """Seconds a file, one process after another."""
    command = Path(sys.executable).with_name("lstmbridge")
    start = time.perf_counter()
    for number, file in enumerate(files):
        target = folder / f"apart{number}.safetensors"
        subprocess.run([str(command), "convert", str(file), str(target)], check=True, capture_output=True)
    return (time.perf_counter() - start) / len(files)


def _script(files: list[Path], folder: Path) -> tuple[float, float]:
    """Seconds a file without and with the imports."""
    pairs = [str(each) for number, file in enumerate(files) for each in (file, folder / f"script{number}.pt")]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SCRIPT, *pairs], check=True, capture_output=True, text=True)
    whole = time.perf_counter() - start
    return float(done.stdout.split()[-1]) / len(files), whole / len(files)


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name), count, script=min(200, count)):
            print(": ".join((row[0], "; ".join(row[1:]))), flush=True)


if __name__ == "__main__":
    main()
