"""Programs that torch.export.save wrote (``.pt2``): their weights, by the names of the module that was exported.

The weights are raw bytes in ``data/weights/``; a table beside them says the name, dtype, sizes and strides of each. The
graph says with which weights which operation was called, and how: the orientation, and the activation. Source:
torch/export/pt2_archive/_package.py and torch/_export/serde/schema.py (2.13).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lstmbridge.errors import FileError, Unsupported
from lstmbridge.frameworks.torch import infer
from lstmbridge.frameworks.torch.archive import Opaque, view
from lstmbridge.frameworks.torch.checkpoint import State
from lstmbridge.frameworks.torch.zips import Zip
from lstmbridge.layer import Array
from lstmbridge.tensorfile import numpy_dtype

__all__ = ["is_exported", "load"]

_TABLE = re.compile(r"data/weights/(.+)_weights_config\.json")
_OPERATION = re.compile(r"torch\.ops\.aten\.(?:lstm|gru|rnn_(tanh|relu))(?:_cell)?\.\w+")
_LARGEST_TABLE = 1 << 26

#: ScalarType -> dtype.
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
           12: "bool", 13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64"}  # fmt: skip


def is_exported(zipped: Zip) -> bool:
    """Whether an archive is an exported program's, of this form or of that before torch 2.7."""
    return "archive_format" in zipped or "serialized_exported_program.json" in zipped


def load(zipped: Zip) -> State:
    """The weights of the one program in an archive; of several, each below its name.

    Errors: Unsupported for the form before torch 2.7, FileError for a table that is not true of the archive.
    """
    tables = {match[1]: name for name in zipped.names() if (match := _TABLE.fullmatch(name))}
    if not tables:
        raise Unsupported(
            f"{zipped.path}: an exported program of torch whose weights are not in a form that is read here",
            "where its torch is: torch.save(torch.export.load(path).state_dict, new_path)",
        )
    arrays: dict[str, Array] = {}
    facts: dict[str, infer.Facts] = {}
    for model, table in tables.items():
        prefix = f"{model}." if len(tables) > 1 else ""
        arrays |= {f"{prefix}{name}": _array(zipped, entry) for name, entry in _entries(zipped, table).items()}
        facts |= {f"{prefix}{path}": each for path, each in _facts(zipped, f"models/{model}.json")}
    return State(arrays, facts=facts)


def _facts(zipped: Zip, graph: str) -> Iterator[tuple[str, infer.Facts]]:
    """What the graph says of the modules whose weights it calls a recurrent operation with."""
    if graph not in zipped:
        return
    module = _json(zipped, graph)["graph_module"]
    specs = [spec["parameter"] for spec in module["signature"]["input_specs"] if "parameter" in spec]
    names = {spec["arg"]["name"]: str(spec["parameter_name"]) for spec in specs}
    for node in module["graph"]["nodes"]:
        match = _OPERATION.fullmatch(node["target"])
        if match is None:
            continue
        inputs = {each["name"]: each["arg"] for each in node["inputs"]}
        weight = inputs["w_ih"]["as_tensor"] if "w_ih" in inputs else inputs["params"]["as_tensors"][0]
        path, _, own = names.get(weight["name"], "").rpartition(".")
        if own:
            yield path, infer.Facts(match[1], inputs.get("batch_first", {}).get("as_bool"))


def _json(zipped: Zip, name: str) -> Any:
    """A member that is JSON. Errors: FileError for one that is too large to be read whole."""
    if zipped.size_of(name) > _LARGEST_TABLE:
        raise FileError(f"{zipped.path}: {name} has {zipped.size_of(name)} bytes", f"expected at most {_LARGEST_TABLE}")
    return json.loads(zipped.content(name))


def _entries(zipped: Zip, table: str) -> Mapping[str, Any]:
    entries = _json(zipped, table)["config"]
    if not isinstance(entries, dict):
        raise FileError(f"{zipped.path}: {table} is no table of weights")
    return entries


def _array(zipped: Zip, entry: Mapping[str, Any]) -> Array:
    """One weight as a view on the archive. What is pickled, or has a dtype that numpy has not, is Opaque."""
    meta = entry["tensor_meta"]
    name = _DTYPES.get(meta["dtype"]) if meta is not None else None
    if entry["use_pickle"] or name is None:
        return Opaque("a tensor subclass, or of a dtype that is not read")
    member, dtype = f"data/weights/{entry['path_name']}", numpy_dtype(name)
    numbers = zipped.numbers(member, dtype, zipped.size_of(member) // dtype.itemsize)
    sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
    return view(numbers, meta["storage_offset"]["as_int"], sizes, strides)
