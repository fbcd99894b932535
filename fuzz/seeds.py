"""For each format small whole files to begin with, and reading one as a user would."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from lstmbridge import read, write
from lstmbridge.errors import BridgeError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import layer

__all__ = ["FORMATS", "attempt", "seeds"]

#: What a file of this kind does not say by itself.
SAID = {"nonlinearity": "tanh", "forget_constant": 1.0, "reset_after": True}


def _written(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        both = ("forward", "reverse")
        stacked = (
            layer(path="a.b", directions=both, bias="dual"),
            layer("gru", path="a.c", bias="dual", input_size=22),
        )
        several = {"one": [layer(path="rnn")], "several": list(stacked), "rnn": [layer("rnn", path="x")]}
        files = []
        for name, layers in several.items():
            files.append(folder / f"{name}{suffix}")
            write(layers, path=files[-1], to="gates" if suffix.startswith(".gates") else None)
        return files

    return make


def _of_torch(folder: Path) -> list[Path]:
    """What torch itself writes: a checkpoint of before 1.6, a TorchScript archive."""
    import torch

    module = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5, bidirectional=True), "cell": torch.nn.GRUCell(3, 4)})
    old, script = folder / "old.pt", folder / "script.pt"
    checkpoint = {"epoch": 3, "model": module.state_dict(), "optimizer": {"state": {}, "lr": 0.1}}
    torch.save(checkpoint, old, _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
        torch.jit.script(torch.nn.LSTM(3, 5)).save(str(script))
    return [old, script]


#: The formats by name: the suffix of their files, and how whole ones are made.
FORMATS: dict[str, tuple[str, Callable[[Path], list[Path]]]] = {
    "h5": (".h5", _written(".h5")),
    "keras": (".keras", _written(".keras")),
    "weights-h5": (".weights.h5", _written(".weights.h5")),
    "safetensors": (".safetensors", _written(".safetensors")),
    "gates": (".safetensors", _written(".gates.safetensors")),
    "npz": (".npz", _written(".npz")),
    "pt": (".pt", _written(".pt")),
    "onnx": (".onnx", _written(".onnx")),
    "torch": (".pt", _of_torch),
}


def seeds(name: str, folder: Path) -> list[bytes]:
    """The bytes of whole files of a format."""
    return [file.read_bytes() for file in FORMATS[name][1](folder)]


def attempt(path: Path) -> bool:
    """Reads a file, and every number of its layers. Whether that went well; anything but an error of ours is raised."""
    try:
        for each in read(path, **SAID):
            for weight in each.weights.values():
                weight.tobytes()
    except BridgeError as error:
        str(error)
        return False
    return True
