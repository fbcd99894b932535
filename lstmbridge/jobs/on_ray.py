"""Jobs on a Ray cluster, through joblib's backend for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from joblib._parallel_backends import SequentialBackend
from ray.util.joblib.ray_backend import RayBackend
from ray.util.multiprocessing import Pool

__all__ = ["connected"]

#: What a worker asks for: little, so that all of them find a place at once, and not nothing, so that no node that
#: offers no core (a head) gets one; spread over the nodes.
_ASKS = {"num_cpus": 0.01, "scheduling_strategy": "SPREAD"}

#: Seconds that the cluster may take to start the workers.
PATIENCE = 60.0


class NobodyThere(Exception):
    """The cluster starts no workers."""


@contextmanager
def connected(where: str) -> Iterator[tuple[Callable[[], Any], int]]:
    """What makes a backend for the cluster at ``HOST:PORT`` or ``auto``, and how many tasks it runs at a time."""
    own = not ray.is_initialized()
    if own:
        _knock(where)
        ray.init(address=where or "auto", log_to_driver=False, logging_level="error")
    try:
        yield _Backend, max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if own:
            ray.shutdown()


def _knock(where: str) -> None:
    """Errors: OSError if nobody listens there; Ray itself would try for minutes."""
    host, _, port = where.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Backend(RayBackend):  # type: ignore[misc]
    """Ray's, which gives no results as they come, needs free cores, and runs the job here if there is but one."""

    supports_return_generator = True

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many tasks at a time; with 1 joblib would run them in this process."""
        return max(2, n_jobs)

    def get_nested_backend(self) -> tuple[Any, int]:
        """A task asks for no workers of its own."""
        return SequentialBackend(nesting_level=1), 1

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Starts the workers, each a process of its own."""
        self.parallel = parallel
        self._pool = _Pool(processes=n_jobs, ray_remote_args=_ASKS)
        return self.effective_n_jobs(n_jobs)


class _Pool(Pool):  # type: ignore[misc]
    """Ray's pool, however many cores the cluster has just now."""

    def _init_ray(self, processes: int | None = None, ray_address: str | None = None) -> int:
        return processes or 1

    def _start_actor_pool(self, processes: int) -> None:
        self._actor_pool = [self._new_actor_entry() for _ in range(processes)]
        waiting = [actor.ping.remote() for actor, _ in self._actor_pool]
        try:
            ray.get(waiting, timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            self.terminate()
            raise NobodyThere(f"no worker could be started in {PATIENCE:g} s") from error

    def close(self) -> None:
        """Ends the workers at once; Ray's would wait for what they do."""
        self._registry.clear()
        self._registry_hashable.clear()
        self._closed = True
