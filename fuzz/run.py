"""Feeds a format's reader with inputs that atheris makes up, guided by what they reach.

    pip install atheris
    python fuzz/run.py onnx --minutes 20
    python fuzz/run.py .pb --seeds graphs/ --minutes 20
    python fuzz/run.py .index --seeds indices/ --beside model.data-00000-of-00001

Anything but an error of lstmbridge's own, more than ten seconds, or more than a gigabyte is a finding; the input that
made it stays in the working directory. What was found goes into tests/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import tempfile
from pathlib import Path

import atheris

NEEDING_FRAMEWORKS = ("live", "faithful", "gradients", "keeping", "modules", "objects", "running", "training")

with atheris.instrument_imports(include=["lstmbridge"]):
    import lstmbridge

    for module in pkgutil.walk_packages(lstmbridge.__path__, "lstmbridge."):
        if ".frameworks." in module.name and module.name.rpartition(".")[2] not in NEEDING_FRAMEWORKS:
            importlib.import_module(module.name)  # now, or its lines would not be seen
    from seeds import FORMATS, attempt, seeds


def main() -> None:
    """Runs one format for so many minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", help=f"{', '.join(FORMATS)}, or with --seeds the suffix of the files")
    parser.add_argument("--seeds", type=Path, help="a directory of whole files to begin with")
    parser.add_argument("--beside", type=Path, help="a file that is read along: it lies there under the input's stem")
    parser.add_argument("--minutes", type=float, default=20)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    given = [each.read_bytes() for each in asked.seeds.iterdir()] if asked.seeds else seeds(asked.format, folder)
    for number, seed in enumerate(given):
        (corpus / str(number)).write_bytes(seed)
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else folder
    suffix = asked.format if asked.seeds else FORMATS[asked.format][0]
    stem = f"lstmbridge-fuzz-{os.getpid()}"
    file = memory / f"{stem}{suffix}"
    if asked.beside:
        (memory / f"{stem}.{asked.beside.name.partition('.')[2]}").write_bytes(asked.beside.read_bytes())

    def one(data: bytes) -> None:
        file.write_bytes(data)
        attempt(file)

    limits = ["-timeout=10", "-rss_limit_mb=1500", "-max_len=65536", f"-max_total_time={int(asked.minutes * 60)}"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
