"""Jobs in processes of their own, and what is in their destination while they run, are killed and go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

from lstmbridge.certificate import verify
from lstmbridge.jobs.places import KEEP

__all__ = ["Migration", "Outputs", "command", "kill", "stuck"]

_PACKAGE = str(Path(__file__).parent.parent)
_DEADLINE = 120.0


class Outputs:
    """The outputs below a destination; each must stay as it was when it was first seen."""

    def __init__(self, old: Path, new: Path) -> None:
        self.old, self.new = old, new
        self.marks: dict[Path, tuple[int, int]] = {}

    def look(self) -> int:
        """Asserts that no output was made again or is gone; gives how many there are."""
        found = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in self._paths()}
        changed = [path for path, mark in self.marks.items() if found.get(path) != mark]
        assert not changed, f"made again, or gone: {changed[:3]}"
        self.marks = found
        return len(found)

    def verify(self) -> int:
        """Asserts that every output there is whole by its certificate, and of its source; gives how many there are."""
        count = self.look()
        for path in self.marks:
            source = (self.old / path.relative_to(self.new)).with_suffix(".h5")
            assert verify(path, source).demand().compared > 4
        return count

    def _paths(self) -> Iterator[Path]:
        for folder, folders, files in os.walk(self.new):
            folders[:] = [each for each in folders if each != KEEP]
            yield from (Path(folder) / name for name in files if name.endswith(".safetensors"))


class Migration:
    """``lstmbridge migrate`` in a process group of its own, which is gone when the block ends."""

    def __init__(self, old: Path, new: Path, *options: object, plugins: Path | None = None) -> None:
        self.outputs = Outputs(old, new)
        words = ["migrate", old, new, "--to", "torch", "--json", *options]
        heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # not so in the background
        code = f"{heeds}; import sys; from lstmbridge.cli import main; main(sys.argv[1:])"
        places = [_PACKAGE, str(plugins or ""), os.environ.get("PYTHONPATH", "")]
        self.out, self.err = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        kill(self.process.pid)
        self.process.wait()
        self.out.close()
        self.err.close()

    def until(self, count: int) -> None:
        """Waits until so many outputs are there, and watches them."""
        end = time.monotonic() + _DEADLINE
        while self.outputs.look() < count:
            assert self.process.poll() is None, f"it ended before: {_text(self.out)[-2000:]}{_text(self.err)}"
            assert time.monotonic() < end, "it takes too long"
            time.sleep(0.002)

    def finished(self, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Waits for the end; gives the records and the summary."""
        self.process.wait(timeout=_DEADLINE)
        out, err = _text(self.out), _text(self.err)
        assert self.process.returncode == code, (self.process.returncode, out[-2000:], err[-4000:])
        assert "Traceback" not in err, err
        *records, last = map(json.loads, out.splitlines())
        self.outputs.look()
        return records, last["summary"]

    def refused(self) -> dict[str, Any]:
        """Waits for the end, which must be an error; gives it."""
        self.process.wait(timeout=_DEADLINE)
        assert self.process.returncode == 1, _text(self.err)
        assert "Traceback" not in _text(self.err)
        return dict(json.loads(_text(self.out)))

    def kill(self) -> None:
        """SIGKILL for the job alone; what becomes of its workers is its own affair."""
        self.process.kill()
        self.process.wait()

    def workers(self) -> list[int]:
        """The processes that do its work."""
        mine = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in mine if "LokyProcess" in command(int(pid))]


def command(pid: int) -> str:
    """The command line of a process; empty if there is none, or it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def kill(group: int) -> None:
    """SIGKILL for a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


_STUCK = {
    "stuck/__init__.py": 'NAME, ROOTS, SUFFIXES, EXTRA = "stuck", ("stuck",), (".hang", ".crash"), "stuck"',
    "stuck/files.py": """
import ctypes, os, signal

def read(path, options):
    if path.suffix == ".crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    ctypes.PyDLL(None).sleep(1000)  # in C, and no other thread of Python runs meanwhile
""",
    "stuck-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: stuck\nVersion: 1\n",
    "stuck-1.dist-info/entry_points.txt": "[lstmbridge.frameworks]\nstuck = stuck\n",
}


def stuck(folder: Path, models: Path, *names: str) -> Path:
    """A framework of somebody else whose readers never come back, or end their process, and files that are its."""
    for name, text in _STUCK.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in names:
        (models / name).write_text("model")
    return folder
