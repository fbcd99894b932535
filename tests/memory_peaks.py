"""Run by tests/test_memory.py in a process of its own: the peak of each conversion, file to file, over what was there.

    python tests/memory_peaks.py FOLDER      prints JSON: bytes of a layer, the peak of each pair, which are wrong

The kernel's high-water mark is set back before each (/proc/self/clear_refs). What is freed must be given back for that:
MALLOC_MMAP_THRESHOLD_ is to be small.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lstmbridge import Layer, Spec, arrays, certificate, mapped, migrate, read
from lstmbridge.reading import read_all
from lstmbridge.remainder import Remainder

#: For each form of file, its name, and how it is written.
FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "keras": ("a.keras", {}),
    "h5": ("a.h5", {}),
    "safetensors": ("a.safetensors", {}),
    "pt": ("a.pt", {}),
    "onnx": ("a.onnx", {}),
    "onnx apart": ("b.onnx", {"external_data": True}),
    "npz": ("a.npz", {}),
}
LAYERS, INPUT, HIDDEN = 8, 344, 376


def layers(inputs: int = INPUT, hidden: int = HIDDEN, count: int = LAYERS) -> list[Layer]:
    """A chain of LSTMs, no two numbers of which are alike."""
    rng = np.random.default_rng(0)
    made: list[Layer] = []
    for number in range(count):
        spec = Spec(cell="lstm", input_size=hidden if made else inputs, hidden_size=hidden, bias="single")
        weights = {name: rng.standard_normal(spec.shape(name), "float32") for name in spec.names()}
        made.append(Layer(spec=spec, weights=weights, path=f"l{number}", after=made[-1].path if made else None))
    return made


def peak(work: Callable[[], Any]) -> int:
    """How many bytes more were in memory while `work` ran than before."""
    mapped.forget()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def convert(source: Path, target: Path, **options: Any) -> None:
    migrate(source, path=target, force=True, **options)


def certified(source: Path, target: Path, **options: Any) -> None:
    """As a worker of a job does it."""
    done = migrate(read_all(source), path=target, force=True, **options)
    made = certificate.certify(done, target, source="a", source_files={}, frameworks=("keras", "torch"), options={})
    certificate.save(made, certificate.beside(target))


def same(path: Path, truth: Path, dtype: str = "float32") -> bool:
    """Whether a file holds the layers of another, bit for bit, cast to that dtype."""
    found, expected = read(path), read(truth)
    return len(found) == len(expected) == LAYERS and all(
        arrays.same_bits(layer[name], arrays.cast(other[name], dtype))
        for layer, other in zip(found, expected, strict=True)
        for name in other
    )


def main(folder: Path) -> dict[str, Any]:
    """Every pair, then what else a conversion may be asked for."""
    truth = folder / "truth.safetensors"
    migrate(layers(), to="gates", path=truth)
    (folder / "tiny").mkdir()
    migrate(layers(3, 5, 1), to="gates", path=folder / "tiny" / truth.name)
    for place in (folder / "tiny", folder):  # the tiny ones load every module that is needed
        for name, options in FORMS.values():
            convert(place / truth.name, place / name, **options)
    for source, _ in FORMS.values():
        for target, options in FORMS.values():
            certified(folder / "tiny" / source, folder / "tiny" / f"to.{target}", **options)
    peaks: dict[str, int] = {}
    wrong: list[str] = []
    for source, (name, _) in FORMS.items():
        for target, (other, options) in FORMS.items():
            if source != target:
                out = folder / f"to.{other}"
                peaks[f"{source} to {target}"] = peak(partial(convert, folder / name, out, **options))
                wrong += [] if same(out, truth) else [f"{source} to {target}"]
    peaks["one module of all"] = peak(lambda: convert(folder / "a.keras", folder / "one.pt", stack=True))
    peaks["certified"] = peak(lambda: certified(folder / "a.keras", folder / "one.safetensors"))
    half = {"dtype": "float16"}
    for target in ("one.keras", "one.safetensors", "one.pt", "one.onnx", "one.npz"):
        peaks[f"cast, {target}"] = peak(partial(certified, folder / "a.h5", folder / target, **half))
        wrong += [] if same(folder / target, truth, "float16") else [target]
    peaks["verified"] = peak(lambda: certificate.verify(folder / "one.npz"))
    rest = {"remainder_path": folder / "rest.safetensors"}
    peaks["remainder"] = peak(lambda: convert(folder / "a.pt", folder / "one.onnx", **half, **rest))
    back = {"remainder": Remainder.load(rest["remainder_path"])}
    peaks["back"] = peak(lambda: convert(folder / "one.onnx", folder / "one.pt", **back))
    wrong += [] if same(folder / "one.pt", truth) else ["back"]
    size = layers(HIDDEN, HIDDEN, 1)[0].parameters * 4
    return {"layer": size, "peaks": peaks, "wrong": wrong, "careless": careless(folder)}


def careless(folder: Path) -> dict[str, int]:
    """What the same measure gives for a writer that makes all arrays first, and for one that forgets nothing."""
    gathered = peak(lambda: [array.copy() for layer in read(folder / "a.pt") for array in layer.weights.values()])
    forget, mapped.forget = mapped.forget, lambda: None
    try:
        kept = peak(lambda: convert(folder / "a.pt", folder / "to.a.npz"))
    finally:
        mapped.forget = forget
    return {"gathered": gathered, "kept": kept}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
