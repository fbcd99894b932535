"""Joins what the processes of a conformance run wrote into one JSON file and one self-contained HTML page.

    python conformance/report.py PART.jsonl [PART.jsonl ...] --json OUT.json --html OUT.html

A part holds one JSON object a line; its `kind` says what it is:

    run      a process: backend, device, machine, versions, when it started, how many seconds it took; `features`, if it
             has them, orders the rows of the page
    case     one case of the grid: its declaration, its outcome with the reason, the checks it passed, its differences
    mutant   a mistake made on purpose, with the checks that noticed it
    known    a known disagreement of other people's software

A case that several processes ran becomes one, with the largest of its differences; two outcomes of it are an error.
The page needs no network. What no filter touches (the verdict, failures, mutants) is written here, as HTML; the matrix
and whatever else follows the filters is drawn by `template.js` from the cases, which are stored by columns.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

#: One line of a part, without its kind.
Entry = dict[str, Any]

KINDS = {"run": "runs", "case": "cases", "mutant": "mutants", "known": "known"}
#: The outcomes in the order of a list of cases, and how a sentence puts them after their number.
OUTCOMES = {
    "failed": "failed",
    "known": "known disagreements of other software",
    "agrees": "agree",
    "refused": "refused as expected",
    "skipped": "skipped",
}
#: Between whom a difference is measured.
WITNESSES = ("source", "target", "both")
#: What every line of a kind must say.
REQUIRED = {
    "run": ("backend", "device", "seconds", "started", "machine", "versions"),
    "case": ("id", "suite", "cell", "features", "source", "target", "dtype", "device", "outcome"),
    "mutant": ("name", "area", "killed_by", "official"),
    "known": ("id", "reason", "how", "status"),
}
#: The groups of features, in the order of the page; the first that a name matches is its group.
GROUPS = {
    "weights": r"plain|(?!file: ).*bias",
    "directions": r"(reverse|bidirectional).*",
    "extras": r"projection|peepholes?|coupled|forget-constant|(.*-)?clip",
    "activations": r".*(sigmoid|tanh|relu|linear|softsign|softplus|exponential|silu|affine|elu|activation).*",
    "sizes": r".*-size-\d+|square|tiles|[TB] ?=.*|(time|batch)-1|unbatched",
    "stacks": r".*stack.*|unequal.*|in-one-module.*",
    "initial weights": r"initial weights: .*",
    "files": r"file: .*",
    "sequences": r".*(initial|state|first|major|length|mask|pad|split|full|long|steps|time|batch|packed).*",
    "other": r".*",
}
#: How many failures the page shows in full; the matrix leads to the others.
FAILURES_SHOWN = 100


class ReportError(ValueError):
    """The parts do not make a report; the text says where and why."""


# ---- reading and joining the parts


def read(paths: Iterable[Path]) -> dict[str, list[Entry]]:
    """Every line of the parts, by kind; a number that is not finite comes as its name, "NaN" or "Infinity"."""
    found: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
    for path in paths:
        for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if text.strip():
                entry = _entry(text, f"{path}, line {number}")
                found[entry.pop("kind")].append(entry)
    return found


def _entry(text: str, where: str) -> Entry:
    """A line as an object that has what its kind requires; a case without a feature is plain."""
    try:
        entry = json.loads(text, parse_constant=str)
    except json.JSONDecodeError as error:
        raise ReportError(f"{where}: this is not JSON ({error}); was its process stopped while it wrote?") from error
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind not in KINDS:
        raise ReportError(f"{where}: the kind is {kind!r}, expected one of {', '.join(KINDS)}")
    missing = [name for name in REQUIRED[kind] if name not in entry]
    if missing:
        raise ReportError(f"{where}: a {kind} without {', '.join(missing)}")
    if kind == "case" and entry["outcome"] not in OUTCOMES:
        raise ReportError(f"{where}: the outcome is {entry['outcome']!r}, expected one of {', '.join(OUTCOMES)}")
    if kind == "case":
        entry["features"] = entry["features"] or ["plain"]
    return dict(entry)


def join(found: Mapping[str, list[Entry]]) -> dict[str, Any]:
    """The report: runs, cases, mutants and known disagreements, each once, and their summary."""
    if not found["case"]:
        raise ReportError("there is no case in these parts: did the run record anything?")
    cases = _joined_cases(found["case"])
    mutants = _joined_mutants(found["mutant"])
    known = [json.loads(text) for text in dict.fromkeys(json.dumps(entry, sort_keys=True) for entry in found["known"])]
    runs = sorted(found["run"], key=lambda run: _moment(run["started"]))
    return {"summary": summary(cases, mutants), "runs": runs, "mutants": mutants, "known": known, "cases": cases}


def _joined_cases(cases: Sequence[Entry]) -> list[Entry]:
    """One case per id, in order of appearance; an id with two outcomes is an error that names it."""
    by_id: dict[str, list[Entry]] = defaultdict(list)
    for case in cases:
        by_id[case["id"]].append(case)
    outcomes = {name: sorted({case["outcome"] for case in same}) for name, same in by_id.items()}
    torn = [f"  {name}: {' and '.join(several)}" for name, several in outcomes.items() if len(several) > 1]
    if torn:
        rest = [f"  and {len(torn) - 20} more"] if len(torn) > 20 else []
        raise ReportError("\n".join(["cases with more than one outcome:", *torn[:20], *rest]))
    return [same[0] if len(same) == 1 else _joined_case(same) for same in by_id.values()]


def _joined_case(same: Sequence[Entry]) -> Entry:
    """The first of several runs of one case, with every check, the largest differences and all the time."""
    joined = dict(same[0])
    joined["checks"] = list(dict.fromkeys(check for case in same for check in case.get("checks", [])))
    joined["seconds"] = sum(case.get("seconds", 0.0) for case in same)
    for measure in ("ulp", "error"):
        by_witness = {who: [case[measure][who] for case in same if who in case.get(measure, {})] for who in WITNESSES}
        joined[measure] = {who: max(values, key=_amount) for who, values in by_witness.items() if values}
    return joined


def _joined_mutants(mutants: Sequence[Entry]) -> list[Entry]:
    """One mutant per name, killed by every check that noticed it in any process; the survivors first."""
    joined: dict[str, Entry] = {}
    for mutant in mutants:
        first = joined.setdefault(mutant["name"], {**mutant, "killed_by": [], "official": False})
        first["killed_by"] = list(dict.fromkeys([*first["killed_by"], *mutant["killed_by"]]))
        first["official"] = first["official"] or mutant["official"]
    return sorted(joined.values(), key=lambda mutant: bool(mutant["killed_by"]))


def _amount(value: float | str) -> float:
    """A difference as a number to compare: not a number is as far off as infinity."""
    number = float(value)
    return math.inf if math.isnan(number) else number


# ---- the summary


def summary(cases: Sequence[Entry], mutants: Sequence[Entry]) -> dict[str, Any]:
    """The figures of the report: counts by outcome, the largest differences by dtype and device, and the teeth."""
    counts = {name: _outcomes_by(cases, name) for name in ("dtype", "device", "suite")}
    return {
        "cases": len(cases),
        "outcome": _outcomes(cases),
        **counts,
        "largest": _largest(cases),
        "mutants": _teeth(mutants),
    }


def _outcomes(cases: Iterable[Entry]) -> dict[str, int]:
    """How many cases have each outcome, zeros too."""
    count = Counter(case["outcome"] for case in cases)
    return {outcome: count[outcome] for outcome in OUTCOMES}


def _outcomes_by(cases: Iterable[Entry], field: str) -> dict[str, dict[str, int]]:
    """The outcomes of the cases of each value of a field, by name."""
    by_value: dict[str, list[Entry]] = defaultdict(list)
    for case in cases:
        by_value[case[field]].append(case)
    return {value: _outcomes(same) for value, same in sorted(by_value.items())}


def _largest(cases: Iterable[Entry]) -> dict[str, dict[str, dict[str, dict[str, float | str]]]]:
    """dtype -> device -> ulp or error -> witness -> the largest difference, known disagreements left out."""
    found: dict[str, Any] = {}
    for case in cases:
        if case["outcome"] == "known":
            continue
        for measure in ("ulp", "error"):
            for who, value in case.get(measure, {}).items():
                room = found.setdefault(case["dtype"], {}).setdefault(case["device"], {}).setdefault(measure, {})
                room[who] = max(room.get(who, 0.0), value, key=_amount)
    return found


def _teeth(mutants: Sequence[Entry]) -> dict[str, Any]:
    """How many mutants there are, how many are killed, by which checks, and how many the official tests notice."""
    kills = Counter(check for mutant in mutants for check in mutant["killed_by"])
    alone = Counter(mutant["killed_by"][0] for mutant in mutants if len(mutant["killed_by"]) == 1)
    return {
        "total": len(mutants),
        "killed": sum(bool(mutant["killed_by"]) for mutant in mutants),
        "official": sum(mutant["official"] for mutant in mutants),
        "checks": {check: {"kills": number, "alone": alone[check]} for check, number in kills.most_common()},
        "survivors": [mutant["name"] for mutant in mutants if not mutant["killed_by"]],
    }


def verdict(figures: Mapping[str, Any]) -> str:
    """The result in one sentence: `15,204 cases: 11,000 agree, 4,204 refused as expected, 0 failed, 0 skipped.`"""
    counts = figures["outcome"]
    said = [f"{counts[name]:,} {OUTCOMES[name]}" for name in ("agrees", "refused", "failed", "skipped")]
    if counts["known"]:
        said.append(f"{counts['known']:,} {OUTCOMES['known']}")
    return f"{figures['cases']:,} {'case' if figures['cases'] == 1 else 'cases'}: {', '.join(said)}."


# ---- the cases by columns


def columns(cases: Sequence[Entry]) -> dict[str, Any]:
    """The cases as columns: words as a list of distinct values and a place in it per case, numbers to three digits.

    An id is cut at its slashes, a column for each piece. A difference that was not measured is null, and one that is
    not finite is -1.
    """
    texts = ("suite", "cell", "source", "target", "dtype", "device", "outcome", "reason", "module", "verdict")
    lists = ("features", "checks")
    pieces = zip_longest(*(case["id"].split(" / ") for case in cases))
    differences = {
        f"{measure}_{who}": [_digits(case.get(measure, {}).get(who)) for case in cases]
        for measure in ("ulp", "error")
        for who in WITNESSES
    }
    return {
        "id": [interned(piece) for piece in pieces],
        **{name: interned([case.get(name, "") for case in cases]) for name in texts},
        **{name: interned([tuple(case.get(name, ())) for case in cases]) for name in lists},
        **differences,
        "seconds": [_digits(case.get("seconds")) for case in cases],
    }


def interned(values: Sequence[Hashable]) -> dict[str, list[Any]]:
    """The distinct values in order of appearance, and for each entry which of them it is."""
    places: dict[Hashable, int] = {}
    at = [places.setdefault(value, len(places)) for value in values]
    return {"values": list(places), "at": at}


def _digits(value: float | str | None) -> float | int | None:
    """A difference to three digits; -1 for one that is not finite."""
    if value is None:
        return None
    if not math.isfinite(float(value)):
        return -1
    short = float(f"{float(value):.3g}")
    return int(short) if short.is_integer() else short


def grouped(cases: Iterable[Entry], runs: Iterable[Entry]) -> list[tuple[str, list[str]]]:
    """The features that occur, each under its group, as a run's `features` orders them; the others as they appear."""
    occurring = dict.fromkeys(feature for case in cases for feature in case["features"])
    declared = (feature for run in runs for feature in run.get("features", ()) if feature in occurring)
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for feature in dict.fromkeys([*declared, *occurring]):
        groups[next(group for group, names in GROUPS.items() if re.fullmatch(names, feature))].append(feature)
    return [(group, found) for group, found in groups.items() if found]


# ---- writing the JSON


def brief(report: Mapping[str, Any]) -> str:
    """What the documentation quotes: the figures, and how each framework holds each feature."""
    quoted = {"figures": report["summary"], "support": support(report["cases"])}
    return json.dumps(quoted, indent=1, sort_keys=True) + "\n"


def support(cases: Iterable[Entry]) -> dict[str, dict[str, str]]:
    """For each cell with one feature, and each framework: how it holds what the project's own form can say."""
    found: dict[str, dict[str, str]] = {}
    for case in cases:
        if (case["suite"], case["dtype"], case["source"]) == ("pairs", "float32", "gates") and len(
            case["features"]
        ) == 1:
            name = f"{case['cell']}-{case['features'][0]}"
            found.setdefault(name, {})[case["target"].partition("[")[0]] = _held(case)
    return found


#: What is done to a bias, by the words of the note that says so.
_DONE = {"folded into": "folded into the bias", "merged into one": "merged into one", "padded with": "second one zero"}


def _held(case: Entry) -> str:
    """How a framework holds a layer, in a word or two."""
    if case["outcome"] != "agrees":
        return str(case["outcome"])
    if case.get("module") == "faithful":
        return "faithful module"
    notes = " ".join(case.get("notes", ()))
    return next((short for words, short in _DONE.items() if words in notes), "yes")


def as_json(report: Mapping[str, Any]) -> str:
    """The report as JSON with one entry a line."""
    parts = []
    for name, value in report.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in value)
            parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# ---- writing the page


class Markup(str):
    """Text that is HTML already; every other text is escaped on its way into the page."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element; an attribute that is False or None is left out, `class_` and `data_x` are `class` and `data-x`."""
    written = "".join(
        f" {key.strip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(part if isinstance(part, Markup) else html.escape(str(part)) for part in content)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def together(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("\n".join(parts))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], numbers: frozenset[int]) -> Markup:
    """A table whose first column names its rows; the columns whose places are in `numbers` hold numbers."""

    def kind(place: int) -> str | None:
        return "number" if place in numbers else None

    top = together(tag("th", name, scope="col", class_=kind(place)) for place, name in enumerate(head))
    body = together(
        tag("tr", tag("th", first, scope="row"), *(tag("td", one, class_=kind(n)) for n, one in enumerate(rest, 1)))
        for first, *rest in rows
    )
    made = tag("table", tag("caption", caption), tag("thead", tag("tr", top)), tag("tbody", body))
    return tag("div", made, class_="wide")


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML page that needs nothing beside it."""
    here = Path(__file__).parent
    data = {"groups": grouped(report["cases"], report["runs"]), "columns": columns(report["cases"])}
    figures = report["summary"]
    failed = figures["outcome"]["failed"]
    parts: dict[str, str] = {
        "title": f"lstmbridge conformance: {failed:,} of {figures['cases']:,} failed",
        "style": (here / "template.css").read_text(encoding="utf-8"),
        "verdict": tag("p", verdict(figures), class_="verdict", data_state="failed" if failed else "agrees"),
        "bar": _bar(figures["outcome"]),
        "facts": _facts(report),
        "failures": _failures(report["cases"]),
        "runs": _runs(report["runs"]),
        "known": _known(report["known"]),
        "teeth": _teeth_of_the_page(report["mutants"], figures["mutants"]),
        "data": embedded(data),
        "script": (here / "template.js").read_text(encoding="utf-8"),
    }
    template = (here / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def embedded(data: object) -> str:
    """JSON that can stand inside a script element: nothing in it closes the element."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _bar(counts: Mapping[str, int]) -> Markup:
    """The outcomes as one bar, each as wide as its share; the sentence above it says the same."""
    order = ("agrees", "refused", "known", "skipped", "failed")
    shares = together(tag("i", data_state=name, style=f"flex-grow:{counts[name]}") for name in order if counts[name])
    return tag("div", shares, class_="bar", aria_hidden="true")


def _facts(report: Mapping[str, Any]) -> Markup:
    """When, how long, on what and with which versions, as a list of terms."""
    runs, figures = report["runs"], report["summary"]
    mutants = figures["mutants"]
    facts: dict[str, object] = {}
    if runs:
        facts["Date"] = f"{_moment(runs[0]['started']):%-d %B %Y, %H:%M %Z}"
        facts["Time"] = _duration(took(runs))
    facts["Devices"] = ", ".join(figures["device"])
    facts["Number formats"] = ", ".join(figures["dtype"])
    if mutants["total"]:
        alive = len(mutants["survivors"])
        facts["Mutants"] = f"{mutants['killed']:,} of {mutants['total']:,} killed" + (
            f", {alive:,} alive" if alive else ""
        )
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", said)) for term, said in facts.items()), class_="facts")


def _failures(cases: Sequence[Entry]) -> Markup:
    """The failed cases with their whole text, open; nothing if none failed."""
    failed = [case for case in cases if case["outcome"] == "failed"]
    if not failed:
        return Markup("")
    shown = (
        tag("details", tag("summary", tag("code", case["id"])), tag("pre", case.get("reason", "")), open=True)
        for case in failed[:FAILURES_SHOWN]
    )
    rest = len(failed) - FAILURES_SHOWN
    more = tag("p", f"And {rest:,} more: the matrix shows where.") if rest > 0 else Markup("")
    return tag("section", tag("h2", f"Failures ({len(failed):,})"), together(shown), more, id="failures")


def _runs(runs: Sequence[Entry]) -> Markup:
    """The processes on each machine, by backend and device, and the versions they ran with."""
    if not runs:
        return tag("p", "The run recorded no machine and no versions.")
    machines: dict[str, list[Entry]] = defaultdict(list)
    for run in runs:
        machines[_machine(run["machine"])].append(run)
    return together([*(_processes(machine, same) for machine, same in machines.items()), _versions(runs)])


def _processes(machine: str, runs: Sequence[Entry]) -> Markup:
    """The machine as a heading, and the processes that ran on it."""
    same: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for run in runs:
        same[run["backend"], run["device"]].append(run)
    rows = [
        (backend, device, f"{_moment(part[0]['started']):%Y-%m-%d %H:%M}", len(part), _duration(took(part)))
        for (backend, device), part in same.items()
    ]
    head = ("Keras backend", "Device", "Started (UTC)", "Processes", "Time")
    made = table("Processes by Keras backend and device", head, rows, frozenset({2, 3, 4}))
    return together([tag("h3", machine), made])


def _machine(machine: Mapping[str, Any]) -> str:
    """A machine in one line: `Linux x86_64, AMD EPYC, 2 cores, NVIDIA H200, Python 3.11.9`."""
    units = {"cores": "{} cores", "python": "Python {}"}
    return ", ".join(units.get(name, "{}").format(value) for name, value in machine.items() if value)


def _versions(runs: Sequence[Entry]) -> Markup:
    """Each package with its version; with the devices of each where it has several."""
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        for package, version in run["versions"].items():
            found[package][version][run["device"]] = None
    said = {
        package: [
            version if len(several) == 1 else f"{version} ({', '.join(where)})" for version, where in several.items()
        ]
        for package, several in found.items()
    }
    items = together(tag("div", tag("dt", package), tag("dd", ", ".join(several))) for package, several in said.items())
    return together([tag("h3", "Versions"), tag("dl", items, class_="versions")])


def _known(known: Sequence[Entry]) -> Markup:
    """The known disagreements of other people's software: which, why, and how to see them."""
    if not known:
        return tag("p", "None.")
    items = (
        tag(
            "li",
            tag("span", one["status"], class_="chip", data_state="known" if one["status"] == "disagrees" else "failed"),
            tag("code", one["id"]),
            tag("p", one["reason"]),
            tag("p", "How to see it: ", tag("code", one["how"])),
        )
        for one in known
    )
    return tag("ul", together(items), class_="known")


def _teeth_of_the_page(mutants: Sequence[Entry], figures: Mapping[str, Any]) -> Markup:
    """How many mutants are killed, by which check, and each of them."""
    if not mutants:
        return tag("p", "No mutants in this run.")
    killed, total, official = figures["killed"], figures["total"], figures["official"]
    share = f" The official ONNX node tests notice {official:,} of them ({official / total:.0%})."
    checks = [(name, count["kills"], count["alone"]) for name, count in figures["checks"].items()]
    kills = table("Kills by check", ("Check", "Kills", "Kills alone"), checks, frozenset({1, 2}))
    head = tag("tr", *(tag("th", name, scope="col") for name in ("Mutant", "Where", "Killed by", "Official tests")))
    rows = tag("tbody", together(_mutant(mutant) for mutant in mutants))
    listed = tag("table", tag("caption", "Every mutant"), tag("thead", head), rows, id="mutants")
    said = tag("p", tag("strong", f"{killed:,} of {total:,} mutants are killed."), share)
    return together([said, kills, tag("div", id="mutant-filters", class_="filters"), tag("div", listed, class_="wide")])


def _mutant(mutant: Entry) -> Markup:
    """The row of one mutant; a survivor says so."""
    checks = [tag("span", check, class_="chip") for check in mutant["killed_by"]]
    return tag(
        "tr",
        tag("th", mutant["name"], scope="row"),
        tag("td", mutant["area"]),
        tag("td", *checks or [tag("span", "✗ survives", class_="chip", data_state="failed")]),
        tag("td", "notice it" if mutant["official"] else "pass"),
        data_checks=" ".join(mutant["killed_by"]),
        data_official="yes" if mutant["official"] else "no",
    )


# ---- time


def _moment(text: str) -> datetime:
    """A time as ISO 8601 writes it, in UTC; one without an offset is in UTC already."""
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def took(runs: Iterable[Entry]) -> float:
    """The seconds during which at least one of the processes ran."""
    spans = sorted((_moment(run["started"]).timestamp(), run["seconds"]) for run in runs)
    total, end = 0.0, -math.inf
    for start, seconds in spans:
        total += max(0.0, start + seconds - max(start, end))
        end = max(end, start + seconds)
    return total


def _duration(seconds: float) -> str:
    """Seconds as people say them: `41 s`, `13 min 32 s`, `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# ---- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the JSON and the page; gives 2 and says why where the parts do not make a report."""
    parser = argparse.ArgumentParser(description="Joins the parts of a conformance run into JSON and one HTML page.")
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART.jsonl")
    parser.add_argument("--json", type=Path, required=True, help="where the joined JSON goes")
    parser.add_argument("--html", type=Path, required=True, help="where the page goes")
    parser.add_argument("--docs", type=Path, help="a folder for the page, and for what the documentation quotes of it")
    options = parser.parse_args(arguments)
    try:
        report = join(read(options.parts))
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    written = [(options.json, as_json(report)), (options.html, page(report))]
    if options.docs:
        written += [
            (options.docs / "conformance.html", page(report)),
            (options.docs / "conformance.json", brief(report)),
        ]
    for path, text in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{verdict(report['summary'])} {options.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
