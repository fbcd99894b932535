"""Peaks of memory, file to file, for each ordered pair of formats; allowed are the largest layer twice, and 64 MiB.

    python benchmarks/memory.py [--small]

A peak is the kernel's VmHWM of the whole process: the interpreter and every page of a mapped file count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import Layer, Spec, convert

MIB = 2**20
ALLOWED = 64
Row = tuple[str, str, str, str]

#: What is written to which name, and how.
FORMATS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".keras": ("model.keras", {}),
    ".h5": ("model.h5", {}),
    ".safetensors": ("model.safetensors", {}),
    ".pt": ("model.pt", {}),
    ".onnx": ("model.onnx", {}),
    ".onnx and its .data": ("apart.onnx", {"external_data": True}),
    ".npz": ("model.npz", {}),
}
#: 16 layers of it are 2 GiB but for 16 MiB: an .onnx file with its weights inside cannot be larger.
HIDDEN, LAYERS = 2040, 16

PEAK = """
import json, re, sys
import lstmbridge
lstmbridge.convert(sys.argv[1], path=sys.argv[2], **json.loads(sys.argv[3]))
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def layers(hidden: int, count: int) -> list[Layer]:
    """A chain of LSTMs that hold the same random weights."""
    rng = np.random.default_rng(0)
    spec = Spec(cell="lstm", input_size=hidden, hidden_size=hidden)
    weights = {name: rng.standard_normal(spec.shape(name), "float32") for name in spec.names()}
    names = [f"rnn{number:02}" for number in range(count)]
    return [
        Layer(spec=spec, weights=weights, path=name, after=before)
        for name, before in zip(names, [None, *names], strict=False)
    ]


def rows(
    folder: Path, hidden: int = HIDDEN, count: int = LAYERS, formats: Collection[str] = tuple(FORMATS)
) -> Iterator[Row]:
    """The peak for each ordered pair of formats; one source at a time is on the disk."""
    made = layers(hidden, count)
    largest = sum(array.nbytes for array in made[0].weights.values()) / MIB
    what = f"{count} layers of {largest:.0f} MiB" if count > 1 else f"one layer of {largest:.0f} MiB"
    for source in formats:
        name, options = FORMATS[source]
        origin, out = folder / "from", folder / "to"
        origin.mkdir()
        convert(made, path=origin / name, **options)
        for target in formats:
            if source != target:
                out.mkdir()
                peak = peak_of(origin / name, out / FORMATS[target][0], FORMATS[target][1]) / MIB
                beside = f"{peak - 2 * largest:+.0f} MiB (allowed: +{ALLOWED} MiB)"
                yield (
                    f"{source} to {target}, {what}",
                    f"{peak:.0f} MiB at the peak",
                    f"the largest layer twice: {2 * largest:.0f} MiB",
                    beside,
                )
                remove(out)
        remove(origin)


def peak_of(source: Path, target: Path, options: Mapping[str, Any]) -> int:
    """The peak of one conversion in a process of its own, in bytes."""
    command = [sys.executable, "-c", PEAK, str(source), str(target), json.dumps(options)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024


def remove(folder: Path) -> None:
    """Removes a folder of files."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="16 layers of 2 MiB")
    hidden = 256 if parser.parse_args().small else HIDDEN
    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name), hidden):
            print(": ".join((row[0], "; ".join(row[1:]))), flush=True)


if __name__ == "__main__":
    main()
