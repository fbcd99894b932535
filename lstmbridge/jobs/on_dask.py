"""Jobs on a Dask cluster, through joblib's backend for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import distributed
from joblib._dask import DaskDistributedBackend
from joblib._parallel_backends import SequentialBackend

__all__ = ["connected"]

#: Seconds that a cluster may be without any worker, or its scheduler without an answer, before the job ends.
PATIENCE = 60.0


class NobodyThere(Exception):
    """The cluster has no worker any more, or does not answer."""


@contextmanager
def connected(where: str) -> Iterator[tuple[Callable[[], Any], int]]:
    """What makes a backend for the cluster of a scheduler (``HOST:PORT``), and how many tasks it runs at a time."""
    address = where if "://" in where else f"tcp://{where}"
    with _silence(), distributed.Client(address, timeout=10, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        yield lambda: _Backend(client=client), sum(client.ncores().values())


@contextmanager
def _silence() -> Iterator[None]:
    """What goes wrong is said by the job; Dask would say it in its own words, too, with tracebacks."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith(("distributed", "tornado"))]
    loggers = [logging.getLogger(name) for name in (*names, "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Backend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's, which waits for ever when the cluster gives a task up, and runs the job here if there is one core."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many tasks at a time; with 1 joblib would run them in this process."""
        return max(2, n_jobs)

    def get_nested_backend(self) -> tuple[Any, int]:
        """A task asks for no workers of its own."""
        return SequentialBackend(nesting_level=1), 1

    def start_call(self) -> None:
        super().start_call()
        self.client.loop.add_callback(self._watch)

    def retrieve_result_callback(self, out: Any) -> Any:
        """What a task gave. Errors: whatever it, or the cluster, raised."""
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)

    async def _collect(self) -> None:
        """Hands over every outcome, failures too."""
        while self._continue:
            async for future, result in self.waiting_futures:
                made, callback = self._results.pop(future, None), self._callbacks.pop(future, None)
                if made is not None and callback is not None:
                    self._hand_over(made, callback, result[1] if future.status == "error" else result)
            await asyncio.sleep(0.01)

    def _hand_over(self, made: Any, callback: Callable[[Any], None], outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            made.set_exception(outcome)
        else:
            made.set_result(outcome)
        callback(outcome)

    async def _watch(self) -> None:
        """Ends the call when nobody has been there to work for a while."""
        seen = time.monotonic()
        while self._continue:
            await asyncio.sleep(1.0)
            if await self._alive():
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                self._give_up(NobodyThere(f"no worker was there for {PATIENCE:g} s"))
                return

    async def _alive(self) -> bool:
        try:
            return bool(await asyncio.wait_for(self.client.scheduler.ncores(), 10.0))
        except Exception:  # whatever a broken connection raises
            return False

    def _give_up(self, error: Exception) -> None:
        for future in list(self._results):
            self._hand_over(self._results.pop(future), self._callbacks.pop(future), error)
