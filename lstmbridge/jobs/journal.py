"""What was done, in an SQLite database that a killed job leaves whole.

It stands in ``.lstmbridge/journal.sqlite`` of a destination on this machine. For one at a URL it stands in the user's
state directory, and a copy is put into the destination whenever the job pauses or ends; what the copy does not know is
told by the certificates.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from lstmbridge.errors import FileError
from lstmbridge.jobs.places import KEEP, Place
from lstmbridge.jobs.work import OWNER, PUBLISH, Record

__all__ = ["NAME", "Journal"]

NAME = f"{KEEP}/journal.sqlite"
FORMAT = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    source TEXT PRIMARY KEY,      -- name relative to the job's source
    destination TEXT NOT NULL,    -- name relative to the job's destination
    verdict TEXT NOT NULL,
    why TEXT NOT NULL,
    identity TEXT NOT NULL,       -- digest of options, tool and layouts
    largest REAL,                 -- largest difference that a check measured
    seconds REAL NOT NULL,
    finished TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    record TEXT NOT NULL          -- everything, as JSON
);
"""
_FIELDS = tuple(field for field in Record.__dataclass_fields__)


class Journal:
    """The journal of one destination, held by one job at a time.

    owner  the number of this job: workers of an earlier one, still running after it was killed, have another
    """

    def __init__(self, destination: Place) -> None:
        self.destination = destination
        self.owner = uuid.uuid4().hex
        self.folder = _folder(destination)
        self.path = self.folder / Path(NAME).name
        self._lock = FileLock(self.folder / "job.lock")

    def __enter__(self) -> Self:
        """Takes the destination for this job. Errors: FileError if another job has it, or it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FileError(
                f"{self.destination}: another job is at work there", "wait until it ends, or give another destination"
            ) from error
        except OSError as error:
            raise self._trouble(error) from error
        try:
            self._fetch()
            self._open()
            self._own()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(sqlite3.Error, FileError, OSError):
            self.save()
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._lock.release()

    def _open(self) -> None:
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=5)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
            self._database.execute("INSERT OR IGNORE INTO about VALUES ('format', ?)", (str(FORMAT),))
            [[found]] = self._database.execute("SELECT value FROM about WHERE key = 'format'")
        except (sqlite3.Error, ValueError) as error:
            raise self._trouble(error) from error
        if found != str(FORMAT):
            raise FileError(f"{self.path}: a journal of format {found}", f"this version knows {FORMAT}")

    def _own(self) -> None:
        """From here on only workers of this job put outputs in place: those of a killed one are told so."""
        if self.destination.local is None:
            return
        try:
            with FileLock(self.destination.local / PUBLISH).acquire(timeout=60):
                (self.destination.local / OWNER).write_text(self.owner, encoding="utf-8")
            self.destination.clean()
        except OSError as error:
            raise self._trouble(error) from error

    def _fetch(self) -> None:
        """The journal that an earlier job left at a URL, where this machine has none."""
        if self.destination.local is None and not self.path.exists() and self.destination.exists(NAME):
            with self.destination.fetched([NAME]) as folder:
                self.path.write_bytes((folder / NAME).read_bytes())

    def _trouble(self, error: Exception) -> FileError:
        reason = getattr(error, "strerror", None) or str(error)
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        way = (
            "move the journal away: outputs with a certificate are known without it"
            if damaged
            else "see to it, then --resume"
        )
        return FileError(f"{self.path}: the journal cannot be kept", f"found: {reason}", way)

    # ---- what it holds

    @property
    def used(self) -> bool:
        """Whether an earlier job has written in it."""
        return bool(self._ask("SELECT EXISTS (SELECT 1 FROM files)")[0][0])

    def record(self, source: str, identity: str) -> Record | None:
        """What an earlier job with these options wrote of a source, if it did."""
        rows = self._ask("SELECT record FROM files WHERE source = ? AND identity = ?", (source, identity))
        return _from_json(rows[0][0]) if rows else None

    def wrote(self, source: str) -> str | None:
        """The output that an earlier job made of a source, with whatever options; None if it made none."""
        question = "SELECT destination FROM files WHERE source = ? AND verdict IN ('done', 'reparameterised', 'lossy')"
        rows = self._ask(question, (source,))
        return str(rows[0][0]) if rows else None

    def others(self, identity: str) -> int:
        """How many sources have an output that was made with other options, or by another version."""
        question = "SELECT count(*) FROM files WHERE identity <> ? AND verdict IN ('done', 'reparameterised', 'lossy')"
        return int(self._ask(question, (identity,))[0][0])

    def records(self) -> Iterator[Record]:
        """Everything that is written in it, by the names of the sources."""
        for (text,) in self._ask("SELECT record FROM files ORDER BY source"):
            yield _from_json(text)

    def write(self, record: Record, identity: str) -> None:
        """Writes what became of a source; what was there of it is replaced. Errors: FileError (a full disk)."""
        fields = (
            record.source,
            record.destination,
            record.verdict,
            record.why,
            identity,
            record.largest,
            record.seconds,
        )
        text = json.dumps({name: getattr(record, name) for name in _FIELDS})
        self._ask(
            "INSERT OR REPLACE INTO files (source, destination, verdict, why, identity, largest, seconds, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*fields, text),
        )

    def save(self) -> None:
        """Puts a copy into a destination at a URL."""
        if self.destination.local is None:
            self._ask("PRAGMA wal_checkpoint(TRUNCATE)")
            with self.destination.staging() as folder:
                copy = folder / self.path.name
                copy.write_bytes(self.path.read_bytes())
                self.destination.put(copy, NAME)

    def _ask(self, question: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._database.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise self._trouble(error) from error


def _from_json(text: str) -> Record:
    fields = json.loads(text)
    fields |= {"notes": tuple(fields["notes"]), "layers": tuple(fields["layers"])}
    return Record(**fields)


def _folder(destination: Place) -> Path:
    """Where a destination's journal stands on this machine."""
    if destination.local is not None:
        return destination.local / KEEP
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "lstmbridge" / hashlib.sha256(destination.where.rstrip("/").encode()).hexdigest()[:16]
