"""The workers: processes of this machine, or a Dask or Ray cluster, all by the same call through joblib's backends."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from lstmbridge.errors import BridgeError, FileError, MissingFramework

__all__ = ["Engine", "WorkerLost"]

T = TypeVar("T")

#: Errors that say that a worker ended, or with it what it had made, rather than what the work itself raised.
_LOST = {"TerminatedWorkerError", "BrokenExecutor", "KilledWorker", "RayActorError", "ObjectLostError"}

_WAY = "see to it, then go on with --resume"
#: Seconds to wait before workers are asked for once more.
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


class WorkerLost(Exception):
    """A worker ended before it was done; what it was given must be given again."""


class Engine:
    """Where a job runs.

    address  ``local``, ``inline`` (in this process), ``dask://HOST:PORT``, ``ray://HOST:PORT`` or ``ray://auto``
    jobs     how many tasks at a time; None: as many as there are cores

    Errors: MissingFramework without the extra; FileError for a cluster that does not answer, or ends.
    """

    def __init__(self, address: str, jobs: int | None) -> None:
        self.address, self.jobs = address, jobs
        self._count = 1

    @property
    def kind(self) -> str:
        """``local``, ``inline``, ``dask`` or ``ray``."""
        return self.address.partition("://")[0]

    @property
    def apart(self) -> bool:
        """Whether its workers are processes that are there for the job alone, and do one task at a time."""
        return self.kind in ("local", "ray")

    @contextmanager
    def running(self) -> Iterator[Callable[..., Iterator[Any]]]:
        """A function (work, chunks) that gives ``work(chunk)`` for each chunk as it is done, in any order.

        It raises WorkerLost when a worker ended; what was not given by then has to be asked for again.
        """
        with contextlib.ExitStack() as stack:
            backend = self._backend(stack)
            yield lambda work, chunks: self._patiently(backend, work, iter(chunks))

    def workers(self) -> int:
        """How many tasks run at a time, once it is running."""
        return self._count

    def _patiently(self, backend: Any, work: Callable[[Any], T], chunks: Iterator[Any]) -> Iterator[T]:
        """The same; it begins again where workers are lost that had nothing to do yet: theirs is no chunk's fault."""
        lost: WorkerLost | None = None
        for seconds in _PAUSES:
            given: list[Any] = []
            try:
                yield from self._each(backend, work, _noting(chunks, given))
                return
            except WorkerLost as error:
                if given:
                    raise
                lost = error
            time.sleep(seconds)
        raise FileError(f"{self.address}: no worker stays alive", f"found: {_first(lost)}", _WAY) from lost

    def _each(self, backend: Any, work: Callable[[Any], T], chunks: Iterable[Any]) -> Iterator[T]:
        if backend == "inline":
            yield from map(work, chunks)
            return
        import joblib

        alone = self._count == 1  # joblib would run it in this process, which a damaged file may end
        count, ahead = max(2, self._count), 1 if alone else 2 * self._count
        task = functools.partial(_with_its_job, os.getpid(), work) if self.kind == "local" else work
        try:
            with joblib.parallel_config(backend=backend() if callable(backend) else backend, n_jobs=count):
                run = joblib.Parallel(return_as="generator_unordered", pre_dispatch=ahead, batch_size=1)
                with contextlib.closing(_Quietly(run(joblib.delayed(task)(chunk) for chunk in chunks))) as results:
                    for result in results:  # noqa: UP028 - it would close joblib's generator itself, with its warning
                        yield result
        except BridgeError:
            raise
        except Exception as error:
            if {base.__name__ for base in type(error).__mro__} & _LOST:
                raise WorkerLost(str(error)) from error
            raise FileError(f"{self.address}: the workers cannot go on", f"found: {_first(error)}", _WAY) from error

    def _backend(self, stack: contextlib.ExitStack) -> Any:
        """joblib's name of a backend, or a function that makes one."""
        if self.kind in ("local", "inline"):
            import joblib

            self._count = (self.jobs or joblib.cpu_count()) if self.kind == "local" else 1
            return "loky" if self.kind == "local" else "inline"
        where = self.address.partition("://")[2]
        try:
            if self.kind == "dask":
                from lstmbridge.jobs.on_dask import connected
            else:
                from lstmbridge.jobs.on_ray import connected
            backend, cores = stack.enter_context(connected(where))
        except ModuleNotFoundError as error:
            raise MissingFramework(
                f"{self.address} needs the package {error.name!r}, which is not installed",
                f"pip install 'lstmbridge[{self.kind}]'",
            ) from error
        except Exception as error:
            raise FileError(f"{self.address}: no cluster answers", f"found: {_first(error)}") from error
        self._count = min(self.jobs or cores, cores)
        return backend


def _noting(chunks: Iterator[Any], given: list[Any]) -> Iterator[Any]:
    for chunk in chunks:
        given.append(None)
        yield chunk


def _first(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Quietly:
    """joblib's results; to stop before their end is no reason for a warning."""

    def __init__(self, results: Any) -> None:
        self.results = results

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def close(self) -> None:
        """Stops the workers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.results.close()


# ---- in a worker of this machine


def _with_its_job(job: int, work: Callable[[Any], T], chunk: Any) -> T:
    """The work, in a process that ends when its job does, and leaves it to its job what Ctrl-C means."""
    _bind(job)
    return work(chunk)


@functools.cache
def _bind(job: int) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() == job:
        threading.Thread(target=_end_with, args=(job,), daemon=True).start()


def _end_with(job: int) -> None:
    while os.getppid() == job:
        time.sleep(0.2)
    os._exit(1)
