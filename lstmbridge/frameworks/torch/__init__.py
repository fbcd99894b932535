"""PyTorch: nn.LSTM, nn.GRU, nn.RNN and their cells; files of state dicts, checkpoints, TorchScript and torch.export."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

NAME = "torch"
ROOTS = ("torch",)
SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2", ".safetensors.index.json", ".bin.index.json")
WRITES = (".safetensors", ".pt", ".pth")
EXTRA = "torch"

#: The magic number that files from before torch 1.6 begin with, in a pickle; what every zip archive begins with.
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"

#: Suffixes that say of themselves what they are; nothing else is asked of them.
_OTHERS = (
    *SUFFIXES, ".h5", ".hdf5", ".keras", ".onnx", ".pb", ".npz", ".npy", ".json", ".mat", ".index", ".txt", ".csv",
    ".py", ".md", ".toml", ".yaml", ".yml",
)  # fmt: skip

_SHARD = re.compile(r"(.+)-\d+-of-\d+")


def is_legacy(start: bytes) -> bool:
    """Whether a file that starts so is of the form from before torch 1.6, whatever the protocol of its pickles."""
    return start.startswith(b"\x80") and _MAGIC in start[:32]


def claims(path: Path) -> bool:
    """Whether a file of any suffix is torch's by its content, or a directory holds an index of shards."""
    if path.is_dir():
        from lstmbridge.frameworks.torch.sharded import index_of

        return index_of(path) is not None
    if path.name.endswith(_OTHERS) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return is_legacy(start) or (start.startswith(_ZIP) and _has_pickle(path, start))


def _has_pickle(path: Path, start: bytes) -> bool:
    """Whether an archive has the pickle that every one of torch's has, and has first."""
    size = int.from_bytes(start[26:28], "little")
    if start[30 : 30 + size].endswith(b"/data.pkl"):
        return True
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def companions(name: str, beginning: Callable[[str], list[str]]) -> list[str]:
    """The shards beside an index: ``model-00001-of-00002.safetensors`` beside ``model.safetensors.index.json``."""
    index = PurePosixPath(name)
    for kind in (".safetensors", ".bin"):
        if index.name.endswith(f"{kind}.index.json"):
            stem = index.name.removesuffix(f"{kind}.index.json")
            near = beginning(f"{name.removesuffix(f'{kind}.index.json')}-")
            return [each for each in near if _is_shard(PurePosixPath(each), index.parent, stem, kind)]
    return []


def _is_shard(path: PurePosixPath, folder: PurePosixPath, stem: str, kind: str) -> bool:
    match = _SHARD.fullmatch(path.stem)
    return path.parent == folder and path.suffix == kind and match is not None and match[1] == stem
