"""Which runtimes there are and where each computes: the one part of the suite that turns the frameworks' switches."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import pytest

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
KERAS = f"keras[{BACKEND}]"

#: The frameworks of this process, by the names that cases have.
FRAMEWORKS = (KERAS, "torch", "onnx", "gates")

#: What has to be installed for each.
PACKAGES = {KERAS: ("keras", BACKEND), "torch": ("torch",), "onnx": ("onnx", "onnxruntime"), "gates": ()}

#: ``cpu``, ``cuda`` or ``cuda+tf32``: set once by `prepare`.
DEVICE = "cpu"

#: The row of `lstmbridge.checking.TOLERANCE` that the arithmetic asks for, where it is not the dtype's own.
TOLERANCE: str | None = None


def plain(name: str) -> str:
    """The framework's name without its backend."""
    return name.partition("[")[0]


def missing(name: str) -> str | None:
    """The first package that a framework lacks here; None if it is there."""
    return next((each for each in PACKAGES[name] if importlib.util.find_spec(each) is None), None)


def prepare(device: str, *, tf32: bool) -> None:
    """Everything that is imported from now on computes on `device`. Errors: UsageError if it is not there."""
    global DEVICE, TOLERANCE
    if device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return
    DEVICE, TOLERANCE = ("cuda+tf32", "tf32") if tf32 else ("cuda", None)
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if BACKEND == "jax":
        _prepare_jax(tf32)


def _prepare_jax(tf32: bool) -> None:
    import jax

    if jax.default_backend() != "gpu":
        raise pytest.UsageError("--device cuda: jax finds no CUDA device")
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")


def demand(required: Sequence[str]) -> None:
    """Errors: UsageError if a framework that must be there is not."""
    for name in required:
        known = KERAS if name == "keras" else name
        if known not in PACKAGES:
            raise pytest.UsageError(f"--require {name}: expected some of keras, torch, onnx, gates")
        lacking = missing(known)
        if lacking is not None:
            raise pytest.UsageError(f"--require {name}: the package {lacking} is not installed")


def placed(name: str, obj: Any) -> Any:
    """The object on the device of this run; Keras puts its own there by itself, the rest stays on the host."""
    return obj.to("cuda") if name == "torch" and DEVICE != "cpu" else obj
