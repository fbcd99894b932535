"""Keras 3 on every backend: LSTM, GRU, SimpleRNN, their cells and wrappers; ``.keras``, ``.weights.h5``, ``.h5``."""

from __future__ import annotations

NAME = "keras"
ROOTS = ("keras",)
SUFFIXES = (".keras", ".weights.h5", ".h5", ".hdf5")
EXTRA = "keras"
