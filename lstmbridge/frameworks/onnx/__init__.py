"""ONNX: the LSTM, GRU and RNN nodes of a ModelProto or of an ``.onnx`` file."""

from __future__ import annotations

NAME = "onnx"
ROOTS = ("onnx",)
SUFFIXES = (".onnx",)
EXTRA = "onnxruntime"
