"""ONNX: the LSTM, GRU and RNN nodes of a ModelProto or of an ``.onnx`` file."""

from __future__ import annotations

from collections.abc import Callable

NAME = "onnx"
ROOTS = ("onnx",)
SUFFIXES = (".onnx",)
EXTRA = "onnxruntime"
TELLS_ORDER = True
OPTIONS = ("opset", "external_data", "lengths", "initial")


def companions(name: str, beginning: Callable[[str], list[str]]) -> list[str]:
    """The files beside a model that usually have its external data: ``model.onnx.data``, ``model.onnx_data`` ..."""
    stem = name.removesuffix(".onnx")
    return [each for text in (f"{name}.", f"{name}_", f"{stem}.data", f"{stem}.bin") for each in beginning(text)]
