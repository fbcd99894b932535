"""Flax' linen cells: LSTMCell, OptimizedLSTMCell, GRUCell and SimpleCell, as arrays by name."""

from __future__ import annotations

NAME = "flax"
ROOTS = ("flax",)
SUFFIXES = ()
EXTRA = ""
