"""ONNX's protobuf messages without the rest of the package `onnx`.

``import onnx`` also loads its checker, schemas, helpers and JSON: a multiple of what a small conversion takes. The
messages are one module that needs none of it. It is loaded from its file, and since protobuf keeps one class for each
message, an ``onnx.ModelProto`` imported later is the same class.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["messages"]

_MODULE = "onnx.onnx_ml_pb2"


@cache
def messages() -> Any:
    """The module that has ModelProto, NodeProto and the others. Errors: ModuleNotFoundError without `onnx`."""
    if "onnx" in sys.modules:
        return importlib.import_module(_MODULE)
    package = importlib.util.find_spec("onnx")
    for place in (package.submodule_search_locations or ()) if package else ():
        file = Path(place) / "onnx_ml_pb2.py"
        spec = importlib.util.spec_from_file_location(_MODULE, file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return importlib.import_module(_MODULE)
