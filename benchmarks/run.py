"""Speed, memory and start-up, against what a user would otherwise do: medians and ratios from one run.

    python benchmarks/run.py            prints the table and writes docs/benchmarks.md
    python benchmarks/run.py --small    the same with small sizes, to see that it runs

Times are of this machine and mean little elsewhere; the ratios are what is claimed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import memory
import numpy as np

import lstmbridge
from lstmbridge import Layer, Spec, convert, registry

MIB = 2**20
ROOT = Path(__file__).parents[1]
Row = tuple[str, str, str, str]


def layer(hidden: int, inputs: int) -> Layer:
    """An LSTM with random weights."""
    rng = np.random.default_rng(0)
    spec = Spec(cell="lstm", input_size=inputs, hidden_size=hidden)
    weights = {name: rng.standard_normal(spec.shape(name), "float32") for name in spec.names()}
    return Layer(spec=spec, weights=weights, path="rnn")


def median(work: Callable[[], Any], repeat: int = 7) -> float:
    """The median seconds that `work` takes, after one run that does not count."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def speed(hidden: int) -> Iterator[Row]:
    """A transposing conversion (Keras' kernel to torch's) against concatenate-then-transpose in NumPy."""
    made = layer(hidden, hidden)
    keras, torch = (registry.framework(name).layout.LAYOUTS["lstm"] for name in ("keras", "torch"))
    arrays = keras.pack(made.weights, made.spec)
    size = sum(array.nbytes for array in arrays.values())

    def concatenate(kernel: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(kernel, 4, axis=1)
        return np.ascontiguousarray(np.concatenate([i, f, g, o], axis=1).T)

    def usual() -> Any:
        return [concatenate(array) for array in arrays.values() if array.ndim == 2]

    def ours() -> Any:
        views = keras.unpack(arrays, made.spec)
        two = {name: view for name, view in views.items() if ".bias." not in name}
        return torch.pack(two, made.spec.replace(bias="none"))

    if not all(np.array_equal(a, b) for a, b in zip(usual(), ours().values(), strict=True)):
        raise AssertionError("the two do not give the same arrays")
    slow, fast = median(usual), median(ours)
    yield (
        f"Keras kernel to torch, {size / MIB:.0f} MiB in memory",
        f"{fast * 1e3:.0f} ms ({size / fast / 1e9:.2f} GB/s)",
        f"concatenate, then transpose: {slow * 1e3:.0f} ms",
        f"{slow / fast:.1f} times as fast (demanded: 2.5)",
    )


def startup(folder: Path) -> Iterator[Row]:
    """The whole command for a layer of 512 units, and the import beside numpy's."""
    convert(layer(512, 256), path=folder / "small.keras")
    script = Path(sys.executable).with_name("lstmbridge")
    for target in (".safetensors", ".onnx"):
        command = [str(script), "convert", str(folder / "small.keras"), str(folder / f"small{target}"), "--force"]
        took = median(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        what = f"lstmbridge convert model.keras model{target}, 512 units"
        yield what, f"{took:.2f} s", "whole process", "(allowed: 0.6 s)"

    def importing(name: str) -> float:
        return median(lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True), repeat=15)

    alone, both = importing("numpy"), importing("numpy, lstmbridge")
    used = importing("numpy, lstmbridge; lstmbridge.read, lstmbridge.check")
    against = f"import numpy: {alone * 1e3:.0f} ms"
    yield "import lstmbridge", f"{(both - alone) * 1e3:+.0f} ms", against, "(allowed: +30 ms)"
    yield "import lstmbridge, and the first use of it", f"{(used - alone) * 1e3:+.0f} ms", against, "(names are lazy)"


def table(rows: list[Row]) -> str:
    """The rows as a page of the docs."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in facts if line.startswith("model name")), "?")
    versions = f"lstmbridge {lstmbridge.__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    head = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`benchmarks/run.py`): medians and ratios of one run; process peaks as the kernel",
        "counts them, mapped file pages and the interpreter included.",
        "",
        f"{versions}, {os.cpu_count()} cores of {cpu}.",
        "",
        "| what | lstmbridge | against | verdict |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small sizes; writes no page")
    small = parser.parse_args().small
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = memory.rows(folder, 256 if small else 4096, 1, (".keras", ".safetensors", ".onnx", ".npz"))
        many = memory.rows(folder, 256 if small else memory.HIDDEN)
        many_files = jobs.rows(folder / "jobs", *((100, 3, 5) if small else (2000, 20, 200)))
        for part in (startup(folder), speed(256 if small else 2048), many_files, one, many):
            for row in part:
                print(": ".join((row[0], "; ".join(row[1:]))), flush=True)
                rows.append(row)
    if not small:
        (ROOT / "docs" / "benchmarks.md").write_text(table(rows))


if __name__ == "__main__":
    main()
