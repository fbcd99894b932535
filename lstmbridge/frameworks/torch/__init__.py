"""PyTorch: nn.LSTM, nn.GRU, nn.RNN, their cells, and state dicts in ``.safetensors``, ``.pt`` and ``.pth`` files."""

from __future__ import annotations

NAME = "torch"
ROOTS = ("torch",)
SUFFIXES = (".safetensors", ".pt", ".pth")
EXTRA = "torch"
