"""Jobs that are killed, workers that are killed, and files that kill or never let go of who reads them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_files import models
from job_watch import Migration, command, stuck

from helpers import layer
from lstmbridge import write
from lstmbridge.certificate import verify
from lstmbridge.jobs import Job, run
from lstmbridge.jobs.engine import Engine
from lstmbridge.jobs.places import Place

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
_COUNT = 60


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    models(folder, _COUNT)
    return folder


# ---- the job


def killed_and_resumed(old: Path, new: Path, moments: list[int], seed: int) -> int:
    """Kills a job when so many outputs are there, goes on with it, and so on; gives how many outputs there are at last.

    After every kill each output that is there must be whole by its certificate, and from then on stay as it is.
    """
    rng = random.Random(seed)
    marks: dict[Path, tuple[int, int]] = {}
    for moment in moments:
        with Migration(old, new, "--jobs", 2, "--resume") as job:
            job.outputs.marks = marks
            if moment:
                job.until(moment)
            time.sleep(rng.uniform(0, 0.05 if moment else 1.0))
            job.kill()
            job.outputs.verify()
            marks = job.outputs.marks
    with Migration(old, new, "--jobs", 2, "--resume") as job:
        job.outputs.marks = marks
        records, summary = job.finished()
        assert summary["complete"]
        done = {record["source"] for record in records if record["verdict"] == "done"}
        made = {str(path.relative_to(new).with_suffix(".h5")) for path in marks}
        assert not done & made
        return job.outputs.verify()


def test_a_killed_job_goes_on_where_it_was(old: Path, tmp_path: Path) -> None:
    assert killed_and_resumed(old, tmp_path / "new", [1, 20, 45], seed=1) == _COUNT


@pytest.mark.slow
def test_a_job_that_is_killed_thirty_times_ends_complete(tmp_path: Path) -> None:
    models(tmp_path / "old", 300)
    rng = random.Random(4)
    moments = sorted(rng.sample(range(1, 290), 24) + [0] * 6)
    assert killed_and_resumed(tmp_path / "old", tmp_path / "new", moments, seed=2) == 300


def test_the_workers_of_a_killed_job_put_nothing_once_another_has_begun(old: Path, tmp_path: Path) -> None:
    with Migration(old, tmp_path / "new", "--jobs", 2) as job:
        job.until(5)
        workers = job.workers()
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        job.kill()
        with Migration(old, tmp_path / "new", "--jobs", 2, "--resume") as again:
            _, summary = again.finished()
            assert summary["complete"]
            assert again.outputs.verify() == _COUNT
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            ended(workers)
            assert again.outputs.verify() == _COUNT


@pytest.mark.parametrize("to", [{"to": "torch"}, {"to": "onnx", "external_data": True}])
def test_an_output_that_is_made_again_is_whole_or_not_there_at_every_moment(
    to: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = models(tmp_path / "old", 1, ".npz")
    job = Job(source=str(tmp_path / "old"), destination=str(tmp_path / "new"), **to)
    output = (tmp_path / "new" / name).with_suffix(job.output_suffix)
    monkeypatch.setattr(Engine, "_backend", lambda self, stack: "inline")
    assert run(job).complete
    first = output.read_bytes()
    write([layer(path="rnn", seed=9)], path=tmp_path / "old" / name, force=True)
    seen = []

    def looking(step: Callable[..., None]) -> Callable[..., None]:
        def stepped(self: Place, *given: Any) -> None:
            step(self, *given)
            seen.append(output.exists() and verify(output).demand().compared > 4)

        return stepped

    for each in ("put", "remove"):
        monkeypatch.setattr(Place, each, looking(getattr(Place, each)))
    assert run(job, resume=True).counts == {"done": 1}
    assert len(seen) >= 3
    assert not seen[0]
    assert seen[-1]
    assert output.read_bytes() != first


def ended(processes: list[int]) -> None:
    """Waits until no process of these is there."""
    end = time.monotonic() + 20
    while any(command(process) for process in processes):
        assert time.monotonic() < end, [command(process) for process in processes]
        time.sleep(0.02)


def test_workers_end_with_their_job(old: Path, tmp_path: Path) -> None:
    with Migration(old, tmp_path / "new", "--jobs", 2) as job:
        job.until(1)
        workers = job.workers()
        job.kill()
        ended(workers)


def test_ctrl_c_ends_the_job_and_its_workers_and_leaves_what_is_done(old: Path, tmp_path: Path) -> None:
    with Migration(old, tmp_path / "new", "--jobs", 2) as job:
        job.until(20)
        workers = job.workers()
        os.killpg(job.process.pid, signal.SIGINT)  # as a terminal does: to the job and to its workers
        records, summary = job.finished(130)
        assert summary["interrupted"]
        assert len(records) < _COUNT
        ended(workers)
        job.outputs.verify()
    with Migration(old, tmp_path / "new", "--jobs", 2, "--resume") as again:
        assert again.finished()[1]["complete"]


# ---- a worker


def test_a_killed_worker_costs_no_file(old: Path, tmp_path: Path) -> None:
    with Migration(old, tmp_path / "new", "--jobs", 2) as job:
        job.until(10)
        os.kill(job.workers()[0], signal.SIGKILL)
        records, summary = job.finished()
        assert summary["complete"]
        assert len(records) == _COUNT
        assert any("a worker was lost" in note for note in summary["notes"])
        assert job.outputs.verify() == _COUNT


@pytest.mark.parametrize("jobs", [1, 2])
def test_files_that_kill_or_hang_their_reader_are_unreadable_and_stop_nothing(jobs: int, tmp_path: Path) -> None:
    names = models(tmp_path / "old", 11)
    plugins = stuck(tmp_path / "plugins", tmp_path / "old", "part00/a.crash", "part01/b.hang")
    with Migration(tmp_path / "old", tmp_path / "new", "--jobs", jobs, "--timeout", 1, plugins=plugins) as job:
        records, summary = job.finished(1)
    found = {record["source"]: record for record in records}
    assert {name for name, record in found.items() if record["why"]} == {"part00/a.crash", "part01/b.hang"}
    for name in ("part00/a.crash", "part01/b.hang"):
        assert found[name]["verdict"] == "unreadable"
        assert "died, or took longer than 1 s (--timeout)" in found[name]["why"]
    assert sum(record["verdict"] in ("done", "skipped") for record in records) == len(names)
    assert summary["files"] == len(names) + 2
    assert job.outputs.verify() == len(names)
