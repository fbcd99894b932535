"""One HTML page of what became of every file: nothing is loaded from anywhere.

The head of the page (what the job was, how many files have which verdict) is written here; the script in `report.js`
draws the reasons, the lists and the table from the records, which are stored by columns. Without scripts the page has,
in place of these, every file without an output.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from lstmbridge import __version__
from lstmbridge.jobs.job import Job
from lstmbridge.jobs.reasons import Reason, grouped
from lstmbridge.jobs.work import FINISHED, VERDICTS, Record
from lstmbridge.markup import Markup, shown, tag, together

if TYPE_CHECKING:
    from lstmbridge.jobs.run import Summary

__all__ = ["page"]

#: The fields of a layer's report and of a check's row, in the order in which the page's data has them.
LAYER_FIELDS = ("label", "target_label", "spec", "verdict", "module", "parameters", "notes")
ROW_FIELDS = ("layer", "output", "a - b", "a - reference", "b - reference", "allowed", "verdict")
#: Verdicts of files that have an output.
_WITH_OUTPUT = (*FINISHED, "skipped")


def page(job: Job, summary: Summary, written: datetime | None = None) -> str:
    """The page of a job.

    written  when; now, if it is not said

    Whatever stands in names and reasons is text in it, never markup. The same arguments give the same page.
    """
    reasons = grouped(summary.records, job.source)
    script = _part("report.js")
    parts: dict[str, str] = {
        "title": html.escape(f"lstmbridge migrate: {_headline(summary)}"),
        "headline": html.escape(_headline(summary)),
        "policy": _digest(script),
        "style": _part("report.css"),
        "state": "complete" if summary.complete else "incomplete",
        "warnings": _warnings(summary),
        "counts": _counts(summary),
        "facts": _facts(summary, written or datetime.now(UTC)),
        "job": _job(job),
        "without": _without_output(summary, reasons),
        "data": _embedded(_table(summary, reasons)),
        "details": _embedded(_details(summary.records)),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _part("report.html"))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    """What the page's policy calls its script: no other one runs in it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# ---- text


def named(name: str) -> str:
    """The name of a file on one line."""
    return shown(name).replace("\n", "\\n")


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def _has_output(record: Record) -> bool:
    return record.verdict in _WITH_OUTPUT


# ---- the head


def _headline(summary: Summary) -> str:
    total, without = len(summary.records), sum(not _has_output(record) for record in summary.records)
    have = "would have" if summary.dry else "have" if (without or total) != 1 else "has"
    if not total:
        return "no file was reached" if summary.interrupted else "no file to convert"
    if not without:
        who, has = "it" if total == 1 else "each", "would have" if summary.dry else "has"
        return f"{_files(total)}, and {who} {has} an output"
    return f"{without:,} of {_files(total)} {have} no output"


def _warnings(summary: Summary) -> Markup:
    """What must be known before anything else: that some files were not reached, or that nothing was written."""
    said = []
    if summary.dry:
        said.append("Dry run: nothing was written. The verdicts say what would have become of each file.")
    if summary.interrupted:
        said.append(
            "Interrupted before its end: files that are not listed were not reached. To go on: lstmbridge migrate with"
            " --resume, or run(job, resume=True)."
        )
    if not summary.records and not summary.interrupted:
        said.append("The source has no file that lstmbridge reads. --include PATTERN takes others, too.")
    notes = [f"Note: {note}" for note in dict.fromkeys(summary.notes)]
    return together(tag("p", text, class_="warning") for text in (*said, *notes))


def _counts(summary: Summary) -> Markup:
    """The verdicts as one bar, each as wide as its share, and as a list."""
    counts = summary.counts
    if not counts:
        return Markup("")
    shares = (tag("i", data_verdict=name, style=f"flex-grow:{count}") for name, count in counts.items())
    items = (
        tag("li", tag("b", f"{count:,}"), " ", tag("span", name), " ", tag("small", VERDICTS[name]), data_verdict=name)
        for name, count in counts.items()
    )
    return together(
        [
            tag("div", together(shares), class_="bar", aria_hidden="true"),
            tag("ul", together(items), class_="counts", id="counts", aria_label="Files by verdict"),
        ]
    )


def _facts(summary: Summary, written: datetime) -> Markup:
    records = summary.records
    made = sum(record.verdict != "skipped" for record in records)
    largest = max((record.largest for record in records if record.largest is not None), default=None)
    moment = written.astimezone(UTC)
    facts: dict[str, object] = {
        "Written": tag("time", f"{moment:%Y-%m-%d %H:%M} UTC", datetime=moment.isoformat(timespec="seconds")),
        "Took": _seconds(summary.seconds),
    }
    if made and summary.seconds > 0:
        facts["Speed"] = f"{made / summary.seconds:,.1f} files/s"
    if records:
        facts["Sources"] = _bytes(sum(record.size for record in records))
        facts["Layers converted"] = f"{sum(len(record.layers) for record in records):,}"
    if largest is not None:
        facts["Checked"] = _files(sum(record.agreement is not None for record in records))
        facts["Largest difference"] = f"{largest:.2g}" if math.isfinite(largest) else "∞"
    return _terms(facts, "facts")


def _job(job: Job) -> Markup:
    """What was asked for: only what differs from its default, with the names that jobs.toml and `Job` have."""
    apart = ("source", "destination", "to")
    others = {each.name: each.default for each in dataclasses.fields(job) if each.name not in apart}
    given = {name: getattr(job, name) for name, default in others.items() if getattr(job, name) != default}
    options = [tag("code", f"{name} = {json.dumps(value, ensure_ascii=False)}") for name, value in given.items()]
    facts = {
        "From": tag("code", named(job.source)),
        "To": tag("code", named(job.destination)),
        "Target": f"{job.to} ({job.output_suffix})",
        "Options": Markup(" ".join(options)) if options else "all at their defaults",
        "Tool": f"lstmbridge {__version__}",
    }
    return _terms(facts, "job")


def _terms(facts: Mapping[str, object], kind: str) -> Markup:
    items = (tag("div", tag("dt", term), tag("dd", fact)) for term, fact in facts.items())
    return tag("dl", together(items), class_=kind)


def _seconds(seconds: float) -> str:
    """
    >>> _seconds(0.01234), _seconds(75), _seconds(7384)
    ('0.0123 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bytes(count: int) -> str:
    """
    >>> _bytes(999), _bytes(5_000_000)
    ('999 bytes', '4.77 MiB')
    """
    if count < 1024:
        return f"{count} bytes"
    power = min(4, int(math.log2(count)) // 10)
    return f"{count / 1024**power:.3g} {('', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _without_output(summary: Summary, reasons: Sequence[Reason]) -> Markup:
    """Every file that has no output, by reason: what the page shows where no script runs."""
    if not reasons:
        return Markup("")
    return together([tag("h2", "Files without an output"), *(_files_of(reason, summary.records) for reason in reasons)])


def _files_of(reason: Reason, records: Sequence[Record]) -> Markup:
    members = [records[place] for place in reason.records]
    rows = together(
        tag("li", tag("code", named(each.source)), *([": ", each.why] if each.why != reason.text else []))
        for each in members
    )
    head = tag("p", tag("b", f"{reason.verdict}, {_files(len(members))}: "), reason.text)
    return tag("div", head, tag("ul", rows), class_="plain-reason")


# ---- the data


def _embedded(data: object) -> str:
    """JSON that can stand inside a script element: nothing in it closes the element, or opens a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


class _Pool:
    """Distinct things in the order in which they first came, each known by its place."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}

    def __call__(self, thing: Any) -> int:
        return self.places.setdefault(thing, len(self.places))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.places)


def _table(summary: Summary, reasons: Sequence[Reason]) -> dict[str, Any]:
    """What the table, the reasons and the lists are drawn from: one list a column, a file is a place in each."""
    records = summary.records
    notes = _Pool()
    reason_of = {place: number for number, reason in enumerate(reasons) for place in reason.records}
    worst = [_worst(record) for record in records]
    return {
        "verdicts": [[name, meaning] for name, meaning in VERDICTS.items()],
        "with_output": [] if summary.dry else list(_WITH_OUTPUT),
        "reasons": [{"verdict": reason.verdict, "text": shown(reason.text)} for reason in reasons],
        "files": {
            "source": [named(record.source) for record in records],
            "destination": [named(record.destination) for record in records],
            "verdict": [list(VERDICTS).index(record.verdict) for record in records],
            "reason": [reason_of.get(place) for place in range(len(records))],
            "why": [shown(record.why) for record in records],
            "notes": [[notes(shown(note)) for note in _notes(record)] for record in records],
            "layers": [len(record.layers) for record in records],
            "largest": [_digits(row.get("a - b")) for row in worst],
            "allowed": [_digits(row.get("allowed")) for row in worst],
            "seconds": [_digits(record.seconds) for record in records],
            "size": [record.size for record in records],
        },
        "notes": list(notes),
    }


def _notes(record: Record) -> Iterable[str]:
    """What is noted of a file or any of its layers, each once."""
    return dict.fromkeys((*record.notes, *(note for layer in record.layers for note in layer.get("notes", ()))))


def _worst(record: Record) -> Mapping[str, Any]:
    """The row of the check in which the two sides differ most; nothing where there was none."""
    rows = record.agreement["rows"] if record.agreement else []
    return max(rows, key=lambda row: row["a - b"], default={})


def _digits(number: object) -> float | None:
    """A number to three digits; null where none was measured, and -1 for one that is not finite."""
    if not isinstance(number, (int, float)):
        return None
    return float(f"{number:.3g}") if math.isfinite(number) else -1


def _details(records: Sequence[Record]) -> dict[str, Any]:
    """What one file's view shows beyond the table; a text, which many files share, is written once."""
    texts = _Pool()
    return {
        "layer_fields": LAYER_FIELDS,
        "row_fields": ROW_FIELDS,
        "files": [
            {
                "was": record.was,
                "layers": [_layer(layer, texts) for layer in record.layers],
                "notes": [texts(shown(note)) for note in dict.fromkeys(record.notes)],
                "check": _check(record.agreement, texts),
                "files": [[named(name), shown(digest)] for name, digest in record.files.items()],
                "outputs": [[named(name), shown(digest)] for name, digest in record.outputs.items()],
            }
            for record in records
        ],
        "texts": list(texts),
    }


def _layer(layer: Mapping[str, Any], texts: _Pool) -> list[Any]:
    """A layer's report in the order of `LAYER_FIELDS`; what an earlier run's certificate does not tell is null."""

    def cell(name: str, value: Any) -> Any:
        if name == "notes":
            return [texts(shown(note)) for note in value or ()]
        return value if value is None or name == "parameters" else texts(shown(str(value)))

    return [cell(name, layer.get(name)) for name in LAYER_FIELDS]


def _check(agreement: Mapping[str, Any] | None, texts: _Pool) -> dict[str, Any] | None:
    """A check with its rows in the order of `ROW_FIELDS`."""
    if agreement is None:
        return None

    def cell(name: str, value: object) -> float | int | None:
        return texts(shown(str(value))) if name in ("layer", "output", "verdict") else _digits(value)

    rows = [[cell(name, row.get(name, "")) for name in ROW_FIELDS] for row in agreement["rows"]]
    sides = {side: texts(shown(str(agreement[side]))) for side in ("a", "b")}
    notes = [texts(shown(note)) for note in agreement.get("notes", ())]
    return {**sides, "agrees": agreement["agrees"], "notes": notes, "rows": rows}
