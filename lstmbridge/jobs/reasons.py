"""Reasons that say the same of different files: one sentence, with other names, paths and numbers in it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lstmbridge.jobs.job import Job
from lstmbridge.jobs.work import Record
from lstmbridge.spec import ACTIVATIONS, Spec

__all__ = ["Reason", "grouped"]

#: Words that look like somebody's name for something, and are lstmbridge's own: they tell reasons apart.
_OWN = {
    *ACTIVATIONS,
    *(each.name for kind in (Spec, Job) for each in dataclasses.fields(kind)),
    *(f"{kind}{bits}" for kind in ("float", "bfloat", "int", "uint", "complex") for bits in (4, 8, 16, 32, 64, 128)),
}
#: What a quoted name must stand behind to be what the reason is about, and not just whose it is.
_KINDS = ("class", "activation", "type", "dtype", "framework")

#: Where a file's own name stood: a character that stands for nothing, taken out of the reason before.
_FILE = "\ufdd0"
#: An option; an activation with its constants; something quoted (an apostrophe opens nothing); a word, path or number.
_TOKEN = re.compile(
    rf"--[\w-]+|\b(?:{'|'.join(ACTIVATIONS)})\([^()\n]*\)"
    r"""|(?<!\w)'[^'\n]*'(?!\w)|(?<!\w)"[^"\n]*"(?!\w)"""
    rf"|[~/.\\]*[\w{_FILE}][\w{_FILE}./\\~@%+*-]*"
)
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?%?")
_KIND_BEFORE = re.compile(rf"\b(?:{'|'.join(_KINDS)}) $")
#: What stands between the items of a list, which may be longer in one file than in another.
_BETWEEN = (", ", " and ", ", and ", " or ")
#: So much of a reason is looked at, and so much before a quoted name.
_LONGEST, _NEAR = 4000, 16


@dataclass(frozen=True)
class Reason:
    """One reason, and who has it.

    verdict  the verdict of its files
    text     the sentence; where its files differ it has ``‹file›``, ``‹name›``, ``‹number›``
    records  the places of its files among the records
    """

    verdict: str
    text: str
    records: tuple[int, ...]


def grouped(records: Sequence[Record], source: str = "") -> list[Reason]:
    """The reasons of all records that have one, the most frequent first.

    Two records have the same reason if they have the same verdict, and their sentences are the same but for the files'
    own names, paths, numbers, and the names of layers and arrays. Classes, activations, number formats, and the names
    of options and of a Spec's fields tell reasons apart.

    source  the job's source: what stands before a file's name

    >>> made = [Record(source=f"shop{n}.h5", destination="", verdict="refused", why=f"shop{n}.h5: {n} layers")
    ...         for n in (3, 44)]
    >>> [(reason.text, reason.records) for reason in grouped(made)]
    [('‹file›: ‹number› layers', (0, 1))]
    """
    folders = [] if not source else [source] if "://" in source else [source, str(Path(source).absolute())]
    groups: dict[tuple[str, ...], list[tuple[int, list[_Piece]]]] = {}
    for place, record in enumerate(records):
        if record.why:
            pieces = list(_pieces(_without_own_name(record, folders)))
            key = (record.verdict, *(piece.shape for piece in pieces))
            groups.setdefault(key, []).append((place, pieces))
    found = [
        Reason(
            verdict,
            records[members[0][0]].why if len(members) == 1 else _sentence([pieces for _, pieces in members]),
            tuple(place for place, _ in members),
        )
        for (verdict, *_), members in groups.items()
    ]
    return sorted(found, key=lambda reason: (-len(reason.records), reason.text, reason.verdict))


@dataclass
class _Piece:
    """A stretch of a sentence: words that are the same in every file (no kind), or what may differ."""

    text: str
    kind: str = ""

    @property
    def shape(self) -> str:
        """What the stretches of two sentences must have in common to say the same."""
        return f"‹{self.kind}›" if self.kind else self.text


def _without_own_name(record: Record, folders: Sequence[str]) -> str:
    """The reason with a mark where the file or its output is named, by itself or below the source's folder."""
    text = record.why[:_LONGEST].replace(_FILE, "")
    names = {record.source, record.destination}
    names |= {f"{folder.rstrip('/')}/{record.source}" for folder in folders}
    names |= {name.rstrip("/").rpartition("/")[2] for name in names}
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = text.replace(name, _FILE) if "." in name or "/" in name else _whole(name, text)
    return text


def _whole(name: str, text: str) -> str:
    """A name without a suffix is only replaced where it stands by itself."""
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", _FILE, text) if name in text else text


def _pieces(text: str) -> Iterator[_Piece]:
    """The stretches of a sentence; a list of things that may differ is one of them."""
    waiting: _Piece | None = None
    between = ""
    for piece in _split(text):
        if waiting is None:
            waiting = piece
        elif piece.kind and waiting.kind and between in _BETWEEN:
            kind = piece.kind if piece.kind == waiting.kind else "name"
            waiting = _Piece(f"{waiting.text}{between}{piece.text}", kind)
            between = ""
        elif waiting.kind and not between and piece.text in _BETWEEN:
            between = piece.text
        else:
            yield waiting
            yield from [_Piece(between)] if between else []
            waiting, between = piece, ""
    yield from [waiting] if waiting else []
    yield from [_Piece(between)] if between else []


def _split(text: str) -> Iterator[_Piece]:
    """The stretches one by one."""
    end = 0
    for match in _TOKEN.finditer(text):
        token = match[0].rstrip(".,-/") or match[0]
        kind = _kind(token, text[max(0, match.start() - _NEAR) : match.start()])
        if kind:
            yield from [_Piece(text[end : match.start()])] if match.start() > end else []
            yield _Piece(token, kind)
            end = match.start() + len(token)
    yield from [_Piece(text[end:])] if end < len(text) else []


def _kind(token: str, before: str) -> str:
    """What of a sentence a token is, if it may differ from file to file."""
    if token.startswith("--") or token.endswith(")") or token in _OWN:
        return ""
    if token[0] in "'\"":
        return "" if _KIND_BEFORE.search(before) else "file" if token[1:-1] == _FILE else "name"
    if _FILE in token:
        return "file"
    if _NUMBER.fullmatch(token):
        return "number"
    return "name" if any(sign in token for sign in "_/\\.") or any(sign.isdigit() for sign in token) else ""


def _sentence(members: Sequence[Sequence[_Piece]]) -> str:
    """The sentence that these say: what they have in common as it stands, and what differs by its kind."""
    return "".join(_common([pieces[n] for pieces in members]) for n in range(len(members[0])))


def _common(pieces: Sequence[_Piece]) -> str:
    texts = {piece.text for piece in pieces}
    differs = len(texts) > 1 or _FILE in pieces[0].text
    return f"‹{pieces[0].kind}›" if differs else pieces[0].text
