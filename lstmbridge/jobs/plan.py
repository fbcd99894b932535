"""Which files are sources, what is read along with each, and what each becomes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, takewhile
from pathlib import PurePosixPath

from lstmbridge import registry
from lstmbridge.certificate import SUFFIX
from lstmbridge.errors import FileError
from lstmbridge.jobs.job import Job
from lstmbridge.jobs.places import Place, matches

__all__ = ["Task", "plan", "wanted"]


@dataclass(frozen=True)
class Task:
    """One source and what it becomes.

    source       the name of the file, relative to the job's source
    files        all that is read for it, itself first: shards, external data, a config beside it
    destination  the name of the output, relative to the job's destination
    size         the bytes of `files`
    known        whether the journal says that an earlier job wrote the output
    """

    source: str
    files: tuple[str, ...]
    destination: str
    size: int
    known: bool = False


def plan(job: Job, source: Place, destination: Place) -> list[Task]:
    """The tasks of a job, in the order of their names.

    A file that is read along with another one (a shard, external data) is no source of its own. Two sources that would
    become the same output keep their whole name in it: ``a.h5`` and ``a.keras`` become ``a.h5.safetensors`` and
    ``a.keras.safetensors``. Errors: FileError for a source that is the destination, or for two outputs of one name.
    """
    names = _outside(source, destination)
    chosen = [name for name in names if wanted(name, job) or _claimed(name, job, source)]
    beginning = _beginning(names)
    along = {name: _companions(name, beginning) for name in chosen}
    parts = {part for name in chosen for part in along[name] if not _asked_for(name) or name not in along.get(part, ())}
    sources = [name for name in chosen if name not in parts]
    outputs = _outputs(sources, job.output_suffix)
    return [
        Task(name, (name, *along[name]), outputs[name], sum(source.size(each) for each in (name, *along[name])))
        for name in sources
    ]


def _outside(source: Place, destination: Place) -> list[str]:
    """The source's files, without those in a destination inside it."""
    names = source.names()
    if source.local is None or destination.local is None:
        if source.where.rstrip("/") == destination.where.rstrip("/"):
            raise _same(source)
        return names
    here, there = source.local.resolve(), destination.local.resolve()
    if here == there:
        raise _same(source)
    if not there.is_relative_to(here):
        return names
    inside = f"{there.relative_to(here).as_posix()}/"
    return [name for name in names if not name.startswith(inside)]


def _same(source: Place) -> FileError:
    return FileError(f"{source}: the source is the destination", "give the outputs a directory of their own")


@cache
def _readable() -> tuple[str, ...]:
    """The suffixes that mean a model where nothing else is said."""
    every = (registry.framework(name).suffixes for name in registry.names())
    return tuple({suffix for suffixes in every for suffix in suffixes if suffix != ".json"})


def wanted(name: str, job: Job) -> bool:
    """Whether a file of that name is for the job."""
    if name.endswith(SUFFIX) or not _included(name, job):
        return False
    return bool(job.include) or name.endswith(_readable())


def _included(name: str, job: Job) -> bool:
    """Whether the job's patterns let a name through."""
    if any(matches(name, pattern) for pattern in job.exclude):
        return False
    return not job.include or any(matches(name, pattern) for pattern in job.include)


def _asked_for(name: str) -> bool:
    """Whether a file is a source only if a pattern names it: a config and its weights are read with each other."""
    return not name.endswith(_readable())


def _claimed(name: str, job: Job, source: Place) -> bool:
    """Whether a file of this machine, with a suffix that says nothing, is a model by what is in it."""
    if source.local is None or job.include or name.endswith(SUFFIX) or not PurePosixPath(name).suffix:
        return False
    if not _included(name, job):
        return False
    return registry.claimed(source.local / name) is not None


def _companions(name: str, beginning: Callable[[str], list[str]]) -> tuple[str, ...]:
    """The other files that are read with this one, as its framework says."""
    found: set[str] = set()
    for framework in (registry.framework(each) for each in registry.names()):
        if framework.companions is not None and name.endswith(framework.suffixes):
            found |= set(framework.companions(name, beginning))
    return tuple(sorted(found - {name}))


def _beginning(names: Sequence[str]) -> Callable[[str], list[str]]:
    """A function that finds, in sorted names, all that begin with a text."""

    def beginning(text: str) -> list[str]:
        start = bisect_left(names, text)
        return list(takewhile(lambda name: name.startswith(text), islice(names, start, None)))

    return beginning


def _outputs(sources: Sequence[str], suffix: str) -> dict[str, str]:
    """The name of each source's output. Errors: FileError for two of one name."""
    known = {each for framework in registry.names() for each in registry.framework(framework).suffixes}
    outputs = {name: f"{_stem(name, known)}{suffix}" for name in sources}
    counts = Counter(outputs.values())
    outputs = {name: output if counts[output] == 1 else f"{name}{suffix}" for name, output in outputs.items()}
    counts = Counter(outputs.values())
    twice = [name for name, output in outputs.items() if counts[output] > 1]
    if twice:
        raise FileError(f"{' and '.join(twice[:2])} would both become {outputs[twice[0]]}", "leave one out: --exclude")
    return outputs


def _stem(name: str, known: Collection[str]) -> str:
    """The name without its suffix, the longest that lstmbridge knows."""
    path = PurePosixPath(name)
    suffix = max((each for each in known if path.name.endswith(each)), key=len, default=path.suffix)
    return name.removesuffix(suffix) if len(path.name) > len(suffix) else name
