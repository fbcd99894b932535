"""The project's own form: a Layer by itself, in memory or in a ``.safetensors`` or ``.npz`` file of per-gate names."""

from __future__ import annotations

from pathlib import Path

NAME = "gates"
ROOTS = ("lstmbridge.layer", "lstmbridge.contract", "builtins.tuple", "builtins.list")
SUFFIXES = (".safetensors", ".npz")
DEFAULT_SUFFIXES = (".npz",)
EXTRA = ""
MARK = "lstmbridge.gates"


def claims(path: Path) -> bool:
    """Whether a ``.safetensors`` file is the project's own."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from lstmbridge import tensorfile

    return MARK in tensorfile.metadata(path)
