"""One file, from source to certified output: what a worker does. It raises nothing: every end is a record."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lstmbridge import certificate, registry
from lstmbridge.contract import Reading
from lstmbridge.errors import (
    Ambiguous,
    BridgeError,
    Disagreement,
    FileError,
    MissingFramework,
    NothingRecurrent,
    Unsupported,
)
from lstmbridge.fit import GIVEN_UP
from lstmbridge.jobs.job import Job
from lstmbridge.jobs.places import KEEP, Place
from lstmbridge.jobs.plan import Task
from lstmbridge.pipeline import Migration, migrate
from lstmbridge.reading import read_all

if TYPE_CHECKING:
    from lstmbridge.checking import Agreement

__all__ = ["FINISHED", "VERDICTS", "Record", "convert_all", "hashes", "output_token"]

#: What can become of a file, and what it means.
VERDICTS = {
    "done": "converted, exactly",
    "reparameterised": "converted: the same function, some numbers merged or folded",
    "lossy": "converted, with something given up by name",
    "skipped": "already done by an earlier run",
    "refused": "no recurrent layer in it, one that the target cannot hold, or one of which an option must say more",
    "unreadable": "not a readable model",
    "disagreed": "converted, and the check did not agree: no output",
    "unwritten": "the output could not be written",
}
#: Verdicts that leave an output.
FINISHED = ("done", "reparameterised", "lossy")
_WORST_LAST = ("exact", "reparameterised", "lossy")

#: The file in which the job that owns a destination has its number, and the lock under which outputs are put there.
OWNER, PUBLISH = f"{KEEP}/owner", f"{KEEP}/publish.lock"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one file.

    verdict      one of `VERDICTS`
    was          for a skipped file, the verdict it had
    why          for one that has no output: the reason
    notes        what was done or noticed, a sentence each
    layers       one dict a layer, as `lstmbridge.pipeline.Report` has it
    agreement    with a check: what `lstmbridge.Agreement.as_json` gives, else None
    files        SHA-256 of each file of the source
    token        the source's mark (`Place.token`) while it was read
    output_token the output's mark
    outputs      SHA-256 of each file of the output
    seconds      how long it took
    size         the bytes of the source
    """

    source: str
    destination: str
    verdict: str
    was: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()
    layers: tuple[dict[str, Any], ...] = ()
    agreement: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    token: str = ""
    output_token: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0

    @property
    def largest(self) -> float | None:
        """The largest difference of the two sides that the check measured."""
        rows = self.agreement["rows"] if self.agreement else []
        return max((row["a - b"] for row in rows), default=None)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "largest": self.largest}


def convert_all(job: Job, owner: str, tasks: Sequence[Task], dry: bool = False, apart: bool = False) -> list[Record]:
    """The records of some tasks, one after another.

    owner  the number of the job that may put outputs in place
    dry    do everything but put them there
    apart  this process is there for these tasks alone, and ends itself when one of them exceeds the job's timeout
    """
    if apart:
        _quiet()
    staging = _Staging(_places(job.source, job.destination)[1], dry)
    try:
        return [_watched(job, owner, task, staging, apart) for task in tasks]
    finally:
        staging.close()


@cache
def _quiet() -> None:
    """Sends to nowhere what frameworks print on standard error when they are imported, from C code as well."""
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class _Staging:
    """A directory to make outputs in, made when the first is, and empty again for each: making one is slow."""

    def __init__(self, destination: Place, dry: bool) -> None:
        self.destination, self.dry = destination, dry
        self.stack = contextlib.ExitStack()
        self.folder: Path | None = None

    def empty(self) -> Path:
        """The directory. Errors: FileError if it cannot be made."""
        if self.folder is None or not self.folder.is_dir():
            self.folder = self.stack.enter_context(_scratch() if self.dry else self.destination.staging())
        for left in self.folder.iterdir():
            left.unlink()
        return self.folder

    def close(self) -> None:
        """Removes it."""
        self.stack.close()


def _watched(job: Job, owner: str, task: Task, staging: _Staging, apart: bool) -> Record:
    start = time.perf_counter()
    with _limit(job.timeout) if apart else contextlib.nullcontext():
        try:
            record = _convert(job, owner, task, staging)
        except _Ended as end:
            record = end.record
        except MemoryError:
            record = _ended(task, "unreadable", "out of memory")
        except Exception as error:  # a mistake of ours must not stop the other files
            record = _ended(task, "unreadable", f"unexpected {type(error).__name__}: {error} (please report this)")
    return replace(record, seconds=time.perf_counter() - start, size=task.size)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """A limit that also holds in C code: the process ends, and the job learns that it did."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class _Ended(Exception):
    """A file that has no output; the record says why."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.why)
        self.record = record


def _ended(task: Task, verdict: str, why: object, **fields: Any) -> Record:
    text = " | ".join(line.strip() for line in str(why).splitlines())
    return Record(source=task.source, destination=task.destination, verdict=verdict, why=text, **fields)


@cache
def _places(source: str, destination: str) -> tuple[Place, Place]:
    return Place(source), Place(destination)


def _convert(job: Job, owner: str, task: Task, staging: _Staging) -> Record:
    source, destination = _places(job.source, job.destination)
    token = source.token(task.files)
    with contextlib.ExitStack() as stack:
        folder = _fetched(stack, source, task)
        try:
            staged = staging.empty()
            return _converted(job, owner, task, staging.dry, _Where(source, destination, folder, staged, token))
        except FileError as error:
            raise _Ended(_ended(task, "unwritten", error)) from error
        except _Ended as end:  # whoever reads it knows where, or does not want to know
            why = end.record.why.replace(f"{folder}/", "").replace(f"{staged}/", "")
            raise _Ended(replace(end.record, why=why)) from end


@dataclass(frozen=True)
class _Where:
    """The two places; where the source's files and the output stand for now; the source's mark."""

    source: Place
    destination: Place
    folder: Path
    staged: Path
    token: str


def _converted(job: Job, owner: str, task: Task, dry: bool, at: _Where) -> Record:
    files = _hashed(at.folder, task)
    adopted = None if dry else _adopted(job, at.destination, task, files, at.token)
    if adopted is not None:
        return adopted
    path, output = at.folder / task.source, at.staged / Path(task.destination).name
    reading = _read(job, path, task)
    done, agreements = _written(job, path, reading, output, task)
    if at.source.token(task.files) != at.token:
        raise _Ended(_ended(task, "unreadable", "the source changed while it was read; run again with --resume"))
    made = _certified(job, done, agreements, output, task, files, at.folder)
    record = _record(task, done, agreements, files, at.token, made)
    return record if dry else _published(job, owner, at.destination, task, at.staged, record)


def _fetched(stack: contextlib.ExitStack, source: Place, task: Task) -> Path:
    """The directory in which the source's files stand until `stack` is closed."""
    try:
        return stack.enter_context(source.fetched(task.files))
    except FileError as error:
        raise _Ended(_ended(task, "unreadable", error)) from error


@contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lstmbridge-") as folder:
        yield Path(folder)


# ---- the source


def hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each of these files."""
    return {name: certificate.digest_of_file(folder / name) for name in names}


def _hashed(folder: Path, task: Task) -> dict[str, str]:
    try:
        return hashes(folder, task.files)
    except FileNotFoundError as error:
        raise _Ended(_ended(task, "unreadable", "the source is gone")) from error
    except OSError as error:
        raise _Ended(_ended(task, "unreadable", error.strerror or error)) from error


def _read(job: Job, path: Path, task: Task) -> Reading:
    """What the source holds. Refused is what an option or another tool could mend; the rest is unreadable."""
    try:
        return read_all(path, **job.reading)
    except (Unsupported, Ambiguous, MissingFramework, NothingRecurrent) as error:
        raise _Ended(_ended(task, "refused", error)) from error
    except BridgeError as error:
        raise _Ended(_ended(task, "unreadable", error)) from error


# ---- the output


def _written(job: Job, path: Path, reading: Reading, output: Path, task: Task) -> tuple[Migration, list[Agreement]]:
    """The output, written and, if the job says so, checked."""
    rest = output.with_name(f"{output.name}.remainder.safetensors")
    aside: dict[str, Any] = {"remainder_path": rest} if job.remainder else {}
    try:
        done = migrate(reading, to=job.to, path=output, staged=True, **job.writing, **aside)
    except FileError as error:
        raise _Ended(_ended(task, "unwritten", error)) from error
    except BridgeError as error:
        raise _Ended(_ended(task, "refused", error)) from error
    if job.remainder and not any(target.terms for target in done.targets):
        rest.unlink()
    return _checked(job, done, path, output, task) if job.check else (done, [])


def _checked(job: Job, done: Migration, path: Path, output: Path, task: Task) -> tuple[Migration, list[Agreement]]:
    """The agreement of source and output in all layers but those of which something was given up by name."""
    from lstmbridge.checking import check

    changed = [report.label for report in done.reports if any(note.startswith(GIVEN_UP) for note in report.notes)]
    kept = [report.label for report in done.reports if report.label not in changed]
    note = f"not checked, since what was given up by name changes the outputs: {', '.join(changed)}"
    done = replace(done, notes=(*done.notes, note)) if changed else done
    if not kept:
        return done, []
    try:
        agreement = check(path, output, layers=kept if changed else (), **job.reading)
        agreement.demand()
    except Disagreement as error:
        raise _Ended(_ended(task, "disagreed", error, agreement=agreement.as_json())) from error
    except BridgeError as error:
        raise _Ended(_ended(task, "disagreed", f"the check could not be made: {error}")) from error
    return done, [agreement]


def _certified(
    job: Job,
    done: Migration,
    agreements: list[Agreement],
    output: Path,
    task: Task,
    files: dict[str, str],
    folder: Path,
) -> dict[str, Any]:
    made = certificate.certify(
        done,
        output,
        source=task.source,
        source_files=files,
        frameworks=(_framework(done, folder / task.source), job.to),
        options={**job.options(), "identity": job.identity()},
        agreements=agreements,
    )
    certificate.save(made, certificate.beside(output))
    return made


def _framework(done: Migration, path: Path) -> str:
    """Whose file the source was, as its layers say."""
    named = {str(target.source.metadata.get("framework", "")) for target in done.targets} & set(registry.names())
    return named.pop() if len(named) == 1 else registry.of_file(path).name


def _record(
    task: Task, done: Migration, agreements: list[Agreement], files: dict[str, str], token: str, made: dict[str, Any]
) -> Record:
    worst = max((report.verdict for report in done.reports), key=_WORST_LAST.index)
    return Record(
        source=task.source,
        destination=task.destination,
        verdict="done" if worst == "exact" else worst,
        notes=tuple(dict.fromkeys((*done.notes, *(note for each in agreements for note in each.notes)))),
        layers=tuple(asdict(report) for report in done.reports),
        agreement=agreements[0].as_json() if agreements else None,
        files=files,
        token=token,
        outputs=made["target"]["files"],
    )


def _published(job: Job, owner: str, destination: Place, task: Task, staged: Path, record: Record) -> Record:
    """Puts the output's files in their places, the certificate before the output itself; an earlier one goes first.

    So an output is never there without its certificate, or with that of another; a certificate without its output
    counts for nothing. Errors: FileError.
    """
    folder = task.destination.rpartition("/")[0]
    names = sorted(each.name for each in staged.iterdir() if each.is_file())
    last = Path(task.destination).name
    names.sort(key=lambda name: (name == last, name))
    at = {name: f"{folder}/{name}".lstrip("/") for name in names}
    with _publishing(destination, owner, task):
        if not job.force and not task.known and _stranger(destination, task):
            why = f"{task.destination} exists, and no job of lstmbridge made it; --force overwrites it"
            raise _Ended(_ended(task, "unwritten", why))
        destination.remove(task.destination)
        for name in names:
            destination.put(staged / name, at[name])
    return replace(record, output_token=output_token(destination, task.destination))


def output_token(destination: Place, name: str) -> str:
    """The mark of an output and of its certificate."""
    return destination.token([name, f"{name}{certificate.SUFFIX}"])


def _stranger(destination: Place, task: Task) -> bool:
    """Whether a file stands where the output belongs that no certificate tells of."""
    return destination.exists(task.destination) and not destination.exists(f"{task.destination}{certificate.SUFFIX}")


@contextmanager
def _publishing(destination: Place, owner: str, task: Task) -> Iterator[None]:
    """The lock under which outputs are put; a worker whose job was killed, and another begun, puts nothing."""
    if destination.local is None:
        yield
        return
    try:
        taken = _lock(destination.local / PUBLISH).acquire(timeout=60)
    except OSError as error:
        raise FileError(f"{destination} cannot be written", f"found: {error.strerror or error}") from error
    with taken:
        if destination.text(OWNER) != owner:
            raise _Ended(_ended(task, "unwritten", "another job has taken over this destination"))
        yield


@cache
def _lock(path: Path) -> FileLock:
    return FileLock(path)


def _adopted(job: Job, destination: Place, task: Task, files: dict[str, str], token: str) -> Record | None:
    """The record of an output that an earlier run made of these very sources with these options, if it is whole."""
    path = f"{task.destination}{certificate.SUFFIX}"
    if destination.text(path) is None or not destination.exists(task.destination):
        return None
    try:
        with destination.fetched([path]) as folder:
            told = certificate.load(folder / path)
        same = told["source"]["files"] == files and told["options"].get("identity") == job.identity()
        if not same or not _is_whole(destination, task, told["target"]["files"]):
            return None
        return _as_told(task, told, files=files, token=token, output_token=output_token(destination, task.destination))
    except (OSError, LookupError, TypeError, AttributeError, ValueError):  # a damaged certificate tells nothing
        return None


def _is_whole(destination: Place, task: Task, digests: dict[str, str]) -> bool:
    """Whether the output's files have those digests."""
    folder = task.destination.rpartition("/")[0]
    names = {name: f"{folder}/{Path(name).name}".lstrip("/") for name in digests}
    with destination.fetched(list(names.values())) as here:
        return all(certificate.digest_of_file(here / at) == digests[name] for name, at in names.items())


def _as_told(task: Task, told: dict[str, Any], **fields: Any) -> Record:
    """The record of a skipped file, as its certificate has it."""
    worst = max((each["verdict"] for each in told["layers"]), key=_WORST_LAST.index)
    agreement = told["check"][0] if told["check"] else None
    for row in agreement["rows"] if agreement else ():
        float(row["a - b"])
    return Record(
        source=task.source,
        destination=task.destination,
        verdict="skipped",
        was="done" if worst == "exact" else worst,
        notes=tuple(told["notes"]),
        layers=tuple(_reported(each) for each in told["layers"]),
        agreement=agreement,
        outputs=told["target"]["files"],
        **fields,
    )


def _reported(layer: dict[str, Any]) -> dict[str, Any]:
    return {name: layer[name] for name in ("label", "target_label", "verdict", "module", "notes")}
