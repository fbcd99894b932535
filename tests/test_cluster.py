"""Jobs on real clusters of two workers, one of which is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_files import models
from job_watch import Migration, kill, stuck

from lstmbridge.cli.migrate import command as migrate

pytestmark = pytest.mark.cluster
_PACKAGE = str(Path(__file__).parent.parent)
_PAGE = Path(__file__).parent.parent / "docs" / "clusters.md"
_COUNT, _MIDDLE = 200, 50


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    models(folder, _COUNT)
    return folder


class Cluster:
    """The processes of a cluster, each a group of its own; their words are in a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.engine = folder, ""
        self.processes: list[subprocess.Popen[bytes]] = []
        self.plugins = stuck(folder / "plugins", folder)

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, [_PACKAGE, str(self.plugins), os.environ.get("PYTHONPATH", "")]))
        with (self.folder / "log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *(str(word) for word in command)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": path},
                )
            )
        return self.processes[-1]

    def said(self, words: str, times: int = 1) -> str:
        """Waits for some words in the log; gives the word after them."""
        end = time.monotonic() + 60
        while len(found := re.findall(rf"{words} +(\S+)\n", (self.folder / "log").read_text())) < times:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)
        return str(found[0])

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL for a process, and for those that it has started."""
        kill(process.pid)
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


# ---- what the page says


def told(beginning: str, **instead: str) -> list[str]:
    """The words of the page's command that begins so, some of them replaced."""
    [line] = re.findall(rf"^    ({beginning} .*)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [instead.get(word, word) for word in line.split()]


def test_the_commands_of_the_page_are_ones() -> None:
    start = pytest.importorskip("ray.scripts.scripts").start
    text = re.sub(r"^    ray start (.*)$", r"    ray-start \1", _PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.split() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    ours = [words[2:] for words in lines if words[:2] == ["lstmbridge", "migrate"]]
    theirs = [words[1:] for words in lines if words[0] == "ray-start"]
    assert (len(ours), len(theirs)) == (2, 2)
    for command, many in ((migrate, ours), (start, theirs)):
        for words in many:
            command.make_context("it", words)  # an option that there is not is an error


# ---- Dask


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path / "dask")
    try:
        cluster.start("-m", *told("dask scheduler", **{"8786": "0"}), "--host", "127.0.0.1", "--no-dashboard")
        address = cluster.said("Scheduler at:")
        for _ in range(2):
            cluster.start("-m", *told("dask worker", **{"tcp://HEAD:8786": address, "8": "1"}), "--no-dashboard")
        cluster.said("Registered to:", 2)
        cluster.engine = address.replace("tcp://", "dask://")
        yield cluster
    finally:
        for process in cluster.processes:
            cluster.kill(process)


def complete(job: Migration) -> dict[str, Any]:
    """Asserts that a job of all files ends complete: every output is there, certified, and made once."""
    records, summary = job.finished()
    assert summary["complete"]
    assert len(records) == _COUNT
    assert {record["verdict"] for record in records} <= {"done", "skipped"}
    assert {record["was"] for record in records if record["verdict"] == "skipped"} <= {"done"}
    assert job.outputs.verify() == _COUNT
    return summary


def test_a_job_on_dask_goes_on_when_a_worker_is_killed(old: Path, tmp_path: Path, dask: Cluster) -> None:
    with Migration(old, tmp_path / "new", "--engine", dask.engine) as job:
        job.until(_MIDDLE)
        dask.kill(dask.processes[-1])  # with the process that would start it again
        assert job.outputs.look() < _COUNT
        complete(job)
    with Migration(old, tmp_path / "new", "--engine", dask.engine, "--resume") as again:
        assert {record["verdict"] for record in again.finished()[0]} == {"skipped"}


def unreadable(cluster: Cluster, tmp_path: Path, *names: str) -> None:
    """Asserts that files which end or hold their reader have that verdict, and all others an output."""
    count = len(models(tmp_path / "old", 11))
    stuck(cluster.plugins, tmp_path / "old", *names)
    words = ("--engine", cluster.engine, "--timeout", 2)
    with Migration(tmp_path / "old", tmp_path / "new", *words, plugins=cluster.plugins) as job:
        records, _ = job.finished(1)
        assert {record["source"]: record["verdict"] for record in records if record["why"]} == dict.fromkeys(
            names, "unreadable"
        )
        assert len(records) == count + len(names)
        assert job.outputs.verify() == count


def test_a_file_that_ends_its_process_on_dask_is_unreadable(tmp_path: Path, dask: Cluster) -> None:
    dask.kill(dask.processes[-1])  # the one that is left has one core: joblib would have run it in the job's process
    unreadable(dask, tmp_path, "part00/x.crash")


# ---- Ray

_RAY = """
import os, signal, sys
from pathlib import Path
from ray.cluster_utils import Cluster

few = {"object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **few})
nodes = [cluster.add_node(num_cpus=1, **few) for _ in range(2)]
cluster.wait_for_nodes()
print("cluster at", cluster.address, flush=True)

def actors(node):
    raylet = node.all_processes["raylet"][0].process.pid
    for pid in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::PoolActor"):
            yield int(pid)

for line in sys.stdin:
    if line == "node\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        [pid] = actors(nodes[-1])
        os.kill(pid, signal.SIGKILL)
    print("killed a", line.strip(), "now", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    cluster = Cluster(tmp_path / "ray")
    process = cluster.start("-c", _RAY)
    try:
        cluster.engine = f"ray://{cluster.said('cluster at')}"
        yield cluster
        process.communicate(timeout=60)
    finally:
        cluster.kill(process)


@pytest.mark.parametrize("what", ["worker", "node"])
def test_a_job_on_ray_goes_on_when_a_worker_is_killed(what: str, old: Path, tmp_path: Path, ray: Cluster) -> None:
    with Migration(old, tmp_path / "new", "--engine", ray.engine) as job:
        job.until(_MIDDLE)
        ray.processes[0].stdin.write(f"{what}\n".encode())  # type: ignore[union-attr]
        ray.processes[0].stdin.flush()  # type: ignore[union-attr]
        ray.said(f"killed a {what}")
        assert job.outputs.look() < _COUNT
        summary = complete(job)
    assert any("a worker was lost" in note for note in summary["notes"])


def test_files_that_end_or_hold_their_process_on_ray_are_unreadable(tmp_path: Path, ray: Cluster) -> None:
    unreadable(ray, tmp_path, "part00/x.crash", "part01/y.hang")


# ---- clusters that are not there


@pytest.mark.parametrize("engine", ["dask://127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_an_error(engine: str, old: Path, tmp_path: Path) -> None:
    with Migration(old, tmp_path / "new", "--engine", engine) as job:
        error = job.refused()
    assert error["error"] == "FileError"
    assert error["message"] == f"{engine}: no cluster answers"
