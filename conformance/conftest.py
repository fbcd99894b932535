"""Options of the suite, what must be there, and the record that the report is made of.

--device cpu|cuda          where every framework that can puts its numbers
--tf32                     on cuda: TensorFloat-32 on (without it: off)
--require NAME[,NAME]      these must be installed: their absence is a failure, not a skip
--record FOLDER            write what every case gave to FOLDER, for report.py
--full[=FRACTION]          every subset of features (test_subsets.py), or that part of them
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")  # small layers, and a process a core
for folder in ("tests", "conformance"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

import recording  # noqa: E402
import runtimes  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where the frameworks compute")
    group.addoption("--tf32", action="store_true", help="on cuda: TensorFloat-32 on")
    group.addoption("--require", default="", help="frameworks that must be there: keras,torch,onnx")
    group.addoption("--record", metavar="FOLDER", help="write what every case gave there, for report.py")
    group.addoption(
        "--full", type=float, nargs="?", const=1.0, default=0.0, help="every subset of features, or that part of them"
    )


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device", default="cpu")
    runtimes.prepare(device, tf32=config.getoption("--tf32", default=False))
    required = config.getoption("--require", default="")
    runtimes.demand([name for name in required.split(",") if name])
    folder = config.getoption("--record", default=None)
    config.stash[recording.KEY] = recording.Recorder(Path(folder) if folder else None, runtimes.DEVICE)


def pytest_unconfigure(config: pytest.Config) -> None:
    recorder = config.stash.get(recording.KEY, None)
    if recorder is not None:
        recorder.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The subsets of features are run only where they are asked for."""
    if config.getoption("--full", default=0.0):
        return
    left = [item for item in items if item.name.startswith("test_subsets[")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> recording.Recorder:
    """Called with the fields of a line of the report."""
    return request.config.stash[recording.KEY]
