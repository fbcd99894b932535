"""What the cases gave, a line of JSON each, as report.py reads them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lstmbridge.testing import FEATURES

KEY = pytest.StashKey["Recorder"]()

#: Whose versions are told.
PACKAGES = ("lstmbridge", "numpy", "keras", "tensorflow", "torch", "jax", "onnx", "onnxruntime")


class Recorder:
    """Writes lines to a file of its own in `folder`; without a folder, nothing."""

    def __init__(self, folder: Path | None, device: str) -> None:
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._device = device
        self._path = None if folder is None else folder / f"{self._started:%H%M%S}-{os.getpid()}.jsonl"
        self._lines = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, **fields: Any) -> None:
        """One line; ``kind`` says which."""
        if self._path is not None:
            self._lines += 1
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")

    def close(self) -> None:
        """Says on what machine, with which versions and how long this process ran, if it wrote anything."""
        if self._lines:
            self(
                kind="run",
                backend=os.environ.get("KERAS_BACKEND", "tensorflow"),
                device=self._device,
                seconds=round(time.monotonic() - self._clock, 1),
                started=self._started.isoformat(timespec="seconds"),
                machine=machine(self._device),
                versions=versions(),
                features=list(FEATURES),
            )


def machine(device: str) -> dict[str, Any]:
    """What this machine is."""
    gpu = None
    if device != "cpu":
        import torch

        gpu = torch.cuda.get_device_name()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    """The version of every package that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
