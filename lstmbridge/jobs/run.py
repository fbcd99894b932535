"""The whole job: what is left to do, the workers that do it, the journal that keeps it."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lstmbridge.certificate import SUFFIX, load
from lstmbridge.errors import FileError, listed
from lstmbridge.jobs.engine import Engine, WorkerLost
from lstmbridge.jobs.job import Job
from lstmbridge.jobs.journal import Journal
from lstmbridge.jobs.places import Place
from lstmbridge.jobs.plan import Task, plan, wanted
from lstmbridge.jobs.work import FINISHED, VERDICTS, Record, convert_all, hashes, output_token

__all__ = ["REPORT", "Summary", "run"]

#: The page of a job's outcome, in its destination.
REPORT = "lstmbridge-report.html"
#: Files that one worker gets at a time: so many that handing them over costs little, so few that all stay busy.
_MOST = 16
#: From so many bytes on, a file is given by itself.
_LARGE = 1 << 22
#: How often a worker may be lost over some files, this one among them, before it is tried alone, the last time.
_LOSSES = 2

Watch = Callable[[Record, int, int], None]  # (record, done, total)


@dataclass(frozen=True)
class Summary:
    """What came of a job.

    records      one a file, by the names of the sources
    seconds      how long it took
    report       where the page is, if one was written
    interrupted  whether it was stopped before its end
    """

    records: tuple[Record, ...]
    seconds: float
    report: str | None = None
    interrupted: bool = False
    dry: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """How many files have each verdict, in the order of `VERDICTS`; only those that occur."""
        found = Counter(record.verdict for record in self.records)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    @property
    def complete(self) -> bool:
        """Whether every file has an output."""
        return not self.interrupted and all(record.verdict in (*FINISHED, "skipped") for record in self.records)

    def as_json(self) -> dict[str, Any]:
        """The same without the records, as plain data."""
        made = sum(record.verdict in FINISHED for record in self.records)
        return {
            "files": len(self.records),
            "verdicts": self.counts,
            "complete": self.complete,
            "interrupted": self.interrupted,
            "dry_run": self.dry,
            "seconds": round(self.seconds, 3),
            "files_per_second": round(made / self.seconds, 1) if self.seconds > 0 else None,
            "report": self.report,
            "notes": list(self.notes),
        }


def run(job: Job, *, resume: bool = False, dry: bool = False, watch: Watch | None = None) -> Summary:
    """Converts every file of a job; one that cannot be converted has a record that says why, and stops nothing.

    resume  go on with an earlier job: what it has done, and is still as it left it, is not done again
    dry     do everything but write outputs, journal and report
    watch   called as (record, done, total) after each file

    What is in the destination is always whole: an output appears together with its certificate, or not at all. Errors:
    FileError if the source is not there, the destination cannot be written, is in use by another job, or has the
    journal of an earlier job and `resume` is false.
    """
    start = time.perf_counter()
    source, destination = Place(job.source), Place(job.destination)
    tasks = plan(job, source, destination)
    blocked = [_blocked(name, why) for name, why in source.blocked.items() if name.endswith("/") or wanted(name, job)]
    if not tasks and not blocked:
        words = f"{', '.join(job.include)} matches none" if job.include else "none of a suffix that lstmbridge reads"
        raise FileError(f"{source}: no file for this job", f"found: {words}", "include= (--include) says which")
    notes = [f"passed over, since a job wrote there: {', '.join(source.passed)}"] if source.passed else []
    if dry:
        return _dry_run(job, tasks, blocked, watch, start)
    destination.prepare()
    with Journal(destination) as journal:
        if journal.used and not resume:
            raise FileError(
                f"{destination} has the journal of an earlier job",
                "resume=True (--resume) goes on with it: what is done is not done again",
            )
        state = _State(job, journal, len(tasks) + len(blocked), watch)
        state.notes += [*notes, *_left_over(journal, tasks, state.identity)]
        for record in blocked:
            state.add(record)
        interrupted = False
        try:
            left = [task for task in tasks if not _already(job, journal, state, task, source, destination)]
            _work(job, state, [replace(task, known=journal.wrote(task.source) == task.destination) for task in left])
        except KeyboardInterrupt:
            interrupted = True
        records = tuple(sorted(state.records, key=lambda record: record.source))
        summary = Summary(records, time.perf_counter() - start, None, interrupted, notes=tuple(state.notes))
        return _reported(job, journal, destination, summary)


def _left_over(journal: Journal, tasks: Sequence[Task], identity: str) -> Iterator[str]:
    """What is to be said of earlier jobs here: outputs that no source has any more, and options that were others."""
    current = {task.destination for task in tasks}
    stale = [record.destination for record in journal.records() if record.verdict in FINISHED]
    stale = [name for name in stale if name not in current]
    if stale:
        yield f"{len(stale)} outputs of an earlier job belong to no source of this one: {listed(stale)}"
    others = journal.others(identity)
    if others:
        yield f"{others} files were done with other options or another version of lstmbridge: they are done anew"


def _blocked(name: str, why: str) -> Record:
    return Record(source=name, destination="", verdict="unreadable", why=why)


def _dry_run(job: Job, tasks: Sequence[Task], blocked: Sequence[Record], watch: Watch | None, start: float) -> Summary:
    state = _State(job, None, len(tasks) + len(blocked), watch)
    for record in blocked:
        state.add(record)
    _work(job, state, tasks, dry=True)
    records = tuple(sorted(state.records, key=lambda record: record.source))
    return Summary(records, time.perf_counter() - start, dry=True, notes=tuple(state.notes))


def _reported(job: Job, journal: Journal, destination: Place, summary: Summary) -> Summary:
    """The summary, with its page in the destination."""
    from lstmbridge.jobs.report import page

    with destination.staging() as folder:
        file = folder / REPORT
        file.write_text(page(job, summary), encoding="utf-8")
        destination.put(file, REPORT)
    return replace(summary, report=f"{destination.where.rstrip('/')}/{REPORT}")


class _State:
    """The records so far: each is written in the journal, then shown."""

    def __init__(self, job: Job, journal: Journal | None, total: int, watch: Watch | None) -> None:
        self.journal, self.total, self.watch = journal, total, watch
        self.identity = job.identity()
        self.records: list[Record] = []
        self.known: set[str] = set()
        self.notes: list[str] = []

    def add(self, record: Record, keep: bool = True) -> None:
        """Takes a record; the first of a source counts."""
        if record.source in self.known:
            return
        self.known.add(record.source)
        if self.journal is not None and keep:
            self.journal.write(_kept(record), self.identity)
        self.records.append(record)
        if self.watch is not None:
            self.watch(record, len(self.records), self.total)


def _kept(record: Record) -> Record:
    """As the journal keeps it: what an earlier run did, by what became of it."""
    return replace(record, verdict=record.was, was="") if record.verdict == "skipped" else record


# ---- what is done already


def _already(job: Job, journal: Journal, state: _State, task: Task, source: Place, destination: Place) -> bool:
    """Whether an earlier run made this output of this source with these options, and both are as they were then."""
    told = journal.record(task.source, state.identity)
    if told is None or told.verdict not in FINISHED or told.destination != task.destination:
        return False
    if set(told.files) != set(task.files):
        return False
    token, output = source.token(task.files), output_token(destination, task.destination)
    same = token == told.token and output == told.output_token
    if not same and not _same_bytes(told, task, source, destination):
        return False
    found = replace(told, verdict="skipped", was=told.verdict, token=token, output_token=output)
    state.add(found, keep=not same)
    return True


def _same_bytes(told: Record, task: Task, source: Place, destination: Place) -> bool:
    """Whether source and output have the bytes that they had, whatever their times say."""
    folder = task.destination.rpartition("/")[0]
    outputs = {f"{folder}/{name}".lstrip("/"): digest for name, digest in told.outputs.items()}
    try:
        proof = f"{task.destination}{SUFFIX}"
        with source.fetched(task.files) as here, destination.fetched([*outputs, proof]) as there:
            certified = load(there / proof)["target"]["files"] == told.outputs
            return certified and hashes(here, task.files) == told.files and hashes(there, list(outputs)) == outputs
    except OSError:
        return False


# ---- the work


def _work(job: Job, state: _State, tasks: Sequence[Task], dry: bool = False) -> None:
    """Does the tasks; those that a worker may have been lost over are given again, at last one at a time."""
    if not tasks:
        return
    shared = all(Place(each).shared for each in (job.source, job.destination))
    engine = Engine(job.engine if shared or job.engine != "local" else "inline", job.jobs)
    owner = state.journal.owner if state.journal is not None else ""
    work = functools.partial(convert_all, _anywhere(job), owner, dry=dry, apart=engine.apart)
    losses: Counter[str] = Counter()
    with engine.running() as each:
        left = list(tasks)
        while left:
            started: set[str] = set()
            suspects: list[str] = []
            try:
                for records in each(work, _noting(_chunks(left, engine, job, losses), started)):
                    for record in records:
                        state.add(record)
            except WorkerLost:
                suspects = sorted(started - state.known)
                losses.update(suspects)
                state.notes.append(f"a worker was lost; {len(suspects)} files that it may have had were tried again")
            for task in left:
                if task.source in suspects and losses[task.source] >= _LOSSES:
                    _alone(job, engine, state, each(work, [[task]]), task)
            left = [task for task in left if task.source not in state.known]


def _anywhere(job: Job) -> Job:
    """The job with the whole paths of its directories: workers elsewhere have another current directory."""
    source, destination = Place(job.source), Place(job.destination)
    return replace(
        job,
        source=job.source if source.local is None else str(source.local),
        destination=job.destination if destination.local is None else str(destination.local),
    )


def _alone(job: Job, engine: Engine, state: _State, results: Iterator[list[Record]], task: Task) -> None:
    """A task that workers may have been lost over, by itself; if one is lost now, it is the task's doing."""
    try:
        for [record] in results:
            state.add(record)
    except WorkerLost:
        late = f", or took longer than {job.timeout:g} s (--timeout)" if engine.apart else ""
        why = f"the process that read it died{late}"
        source, destination, size = task.source, task.destination, task.size
        state.add(Record(source=source, destination=destination, verdict="unreadable", why=why, size=size))


def _chunks(tasks: Sequence[Task], engine: Engine, job: Job, losses: Mapping[str, int]) -> list[list[Task]]:
    """The tasks in portions for the workers: single files where each takes long or a worker was lost, else several."""
    size = max(1, min(_MOST, len(tasks) // (8 * engine.workers())))
    chunks: list[list[Task]] = []
    few = True  # whether the last portion takes no more
    for task in tasks:
        single = job.check or task.size >= _LARGE or task.source in losses
        if few or single or len(chunks[-1]) >= size:
            chunks.append([])
        chunks[-1].append(task)
        few = single
    return chunks


def _noting(chunks: Sequence[Sequence[Task]], started: set[str]) -> Iterator[Sequence[Task]]:
    """The chunks, each noted as started when it is handed out."""
    for chunk in chunks:
        started.update(task.source for task in chunk)
        yield chunk
