"""The conformance report: parts join into one JSON file and one page, and what does not fit together is said."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "conformance"


def loaded() -> ModuleType:
    """conformance/report.py, which is a script and no part of the package."""
    found = importlib.util.spec_from_file_location("conformance_report", FOLDER / "report.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


report = loaded()


def case(number: int = 0, outcome: str = "agrees", **fields: Any) -> dict[str, Any]:
    """A case of the pairs; `number` makes its id."""
    name = f"lstm-bidirectional+dual-bias-{number} / torch->keras[tensorflow] / float32 / cpu"
    declared = {"suite": "pairs", "cell": "lstm", "features": ["bidirectional", "dual-bias"], "source": "torch"}
    where = {"target": "keras[tensorflow]", "dtype": "float32", "device": "cpu"}
    return {"kind": "case", "id": name, **declared, **where, "outcome": outcome, "reason": "", **fields}


def run(started: str = "2026-11-21T05:00:00+00:00", seconds: float = 60.0, **fields: Any) -> dict[str, Any]:
    """A process of a run."""
    machine = {"system": "Linux x86_64", "processor": "EPYC", "cores": 2, "gpu": None, "python": "3.11.9"}
    said = {"backend": "tensorflow", "device": "cpu", "machine": machine, "versions": {"torch": "2.13.0"}}
    return {"kind": "run", "started": started, "seconds": seconds, **said, **fields}


def mutant(name: str, *killed_by: str, official: bool = False) -> dict[str, Any]:
    """A mistake made on purpose."""
    return {"kind": "mutant", "name": name, "area": "torch", "killed_by": list(killed_by), "official": official}


class Files:
    """A folder of parts, and the report that the command makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, *parts: list[dict[str, Any]]) -> list[str]:
        """Each list of entries as a part; gives their paths."""
        paths = [self.folder / f"part-{number}.jsonl" for number in range(len(parts))]
        for path, entries in zip(paths, parts, strict=True):
            path.write_text(
                "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8"
            )
        return [str(path) for path in paths]

    def main(self, *parts: list[dict[str, Any]]) -> int:
        """The command on these parts."""
        out = ["--json", str(self.folder / "out" / "report.json"), "--html", str(self.folder / "out" / "report.html")]
        return int(report.main([*self.write(*parts), *out]))

    def made(self, *parts: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """The JSON and the page of these parts."""
        assert self.main(*parts) == 0
        return json.loads((self.folder / "out/report.json").read_text()), (self.folder / "out/report.html").read_text()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Page(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and their text by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def data(self) -> dict[str, Any]:
        """The JSON that the page carries."""
        return json.loads(next(text for text in self.texts["script"] if text.startswith('{"groups"')))  # type: ignore[no-any-return]


# ---- joining


def test_parts_join_and_count(files: Files) -> None:
    parts = (
        [run(), case(0), case(1, "refused", reason="no peepholes"), mutant("m", "structure")],
        [run(backend="jax"), case(2, dtype="float64", device="cuda"), case(3, "failed", suite="files", reason="no")],
    )
    joined, _ = files.made(*parts)
    assert list(joined) == ["summary", "runs", "mutants", "known", "cases"]
    assert [entry["id"] for entry in joined["cases"]] == [case(number)["id"] for number in range(4)]
    assert {entry["backend"] for entry in joined["runs"]} == {"tensorflow", "jax"}
    figures = joined["summary"]
    assert figures["cases"] == 4
    assert figures["outcome"] == {"failed": 1, "known": 0, "agrees": 2, "refused": 1, "skipped": 0}
    assert figures["dtype"]["float64"]["agrees"] == 1
    assert figures["device"]["cpu"] == {"failed": 1, "known": 0, "agrees": 1, "refused": 1, "skipped": 0}
    assert figures["suite"]["files"]["failed"] == 1


def test_one_case_of_several_processes_keeps_what_is_largest(files: Files) -> None:
    first = case(checks=["structure"], ulp={"source": 1.0, "target": 9.0}, error={"source": 1e-7}, seconds=1.0)
    again = case(checks=["structure", "forward"], ulp={"source": 2.5, "both": 0.0}, error={}, seconds=2.0)
    joined, _ = files.made([run(), first], [again])
    (one,) = joined["cases"]
    assert one["ulp"] == {"source": 2.5, "target": 9.0, "both": 0.0}
    assert one["error"] == {"source": 1e-7}
    assert one["checks"] == ["structure", "forward"]
    assert one["seconds"] == 3.0


def test_two_outcomes_of_one_case_are_an_error_by_name(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.main([case(0), case(1)], [case(1, "failed")]) == 2
    said = capsys.readouterr().err
    assert "more than one outcome" in said
    assert f"{case(1)['id']}: agrees and failed" in said
    assert case(0)["id"] not in said
    assert not (files.folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no case in these parts"),
        (json.dumps(run()), "there is no case in these parts"),
        ('{"kind": "case", "id": "lstm', "part.jsonl, line 2: this is not JSON"),
        (json.dumps({"kind": "cose"}), "the kind is 'cose', expected one of run, case, mutant, known"),
        ("[1]", "the kind is None"),
        (json.dumps({"kind": "known", "id": "a"}), "a known without reason, how, status"),
        (json.dumps(case(outcome="passed")), "the outcome is 'passed', expected one of failed, known, agrees"),
    ],
)
def test_what_is_no_report_is_said(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part.jsonl"
    part.write_text(f"\n{text}\n")
    assert report.main([str(part), "--json", str(tmp_path / "o.json"), "--html", str(tmp_path / "o.html")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.html").exists()


def test_a_part_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "gone.jsonl"), "--json", "o.json", "--html", "o.html"]) == 2
    assert "gone.jsonl" in capsys.readouterr().err


def test_the_largest_differences_leave_known_disagreements_out(files: Files) -> None:
    parts = [
        case(0, ulp={"source": 1.0, "both": 0.0}, error={"source": 1e-7}),
        case(1, ulp={"source": 3.0}, error={"source": 2e-7}),
        case(2, "known", ulp={"source": 1e6}),
        case(3, device="cuda+tf32", ulp={"source": 4000.0}),
        case(4, "failed", dtype="float16", ulp={"target": float("nan"), "both": 2.0}),
        case(5, dtype="float16", ulp={"target": 7.0, "both": 3.0}),
    ]
    joined, page = files.made(parts)
    largest = joined["summary"]["largest"]
    assert largest["float32"]["cpu"] == {"ulp": {"source": 3.0, "both": 0.0}, "error": {"source": 2e-7}}
    assert largest["float32"]["cuda+tf32"] == {"ulp": {"source": 4000.0}}
    assert largest["float16"]["cpu"] == {"ulp": {"target": "NaN", "both": 3.0}}
    assert Page(page).data()["columns"]["ulp_target"] == [None, None, None, None, -1, 7]


def test_mutants_join_and_the_teeth_are_counted(files: Files) -> None:
    mutants = [mutant("a", "structure"), mutant("b", "structure", "forward"), mutant("c", official=True), mutant("d")]
    joined, page = files.made([case(), *mutants], [mutant("b", "gradients"), mutant("c")])
    teeth = joined["summary"]["mutants"]
    assert (teeth["total"], teeth["killed"], teeth["official"]) == (4, 2, 1)
    assert teeth["checks"]["structure"] == {"kills": 2, "alone": 1}
    assert teeth["checks"]["gradients"] == {"kills": 1, "alone": 0}
    assert teeth["survivors"] == ["c", "d"]
    assert [one["name"] for one in joined["mutants"]] == ["c", "d", "a", "b"]
    rows = [attributes for name, attributes in Page(page).elements if name == "tr" and "data-checks" in attributes]
    assert [row["data-official"] for row in rows] == ["yes", "no", "no", "no"]
    assert rows[3]["data-checks"] == "structure forward gradients"


def test_the_time_is_when_at_least_one_process_ran() -> None:
    both = [run(), run("2026-11-21T06:00:30+01:00"), run("2026-11-21T07:00:00+00:00", 10.0)]
    assert report.took(both) == 100.0


# ---- the page


def test_the_verdict_is_one_sentence(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [case(number, ("agrees", "agrees", "refused", "skipped")[number % 4]) for number in range(4000)]
    _, page = files.made(cases)
    sentence = "4,000 cases: 2,000 agree, 1,000 refused as expected, 0 failed, 1,000 skipped."
    assert sentence in capsys.readouterr().out
    assert sentence in Page(page).texts["p"]
    assert 'data-state="agrees">4,000' in page
    assert 'id="failures"' not in page


def test_the_sentence_counts_known_disagreements_and_single_cases(files: Files) -> None:
    joined, _ = files.made([case(0), case(1, "known"), case(2, "known"), case(3, "failed")])
    expected = "4 cases: 1 agree, 0 refused as expected, 1 failed, 0 skipped, 2 known disagreements of other software."
    assert report.verdict(joined["summary"]) == expected
    joined, _ = files.made([case(0)])
    assert report.verdict(joined["summary"]) == "1 case: 1 agree, 0 refused as expected, 0 failed, 0 skipped."


def test_failures_come_first_and_are_open(files: Files) -> None:
    cases = [case(0), *(case(number, "failed", reason=f"wrong {number}") for number in range(1, 111))]
    _, page = files.made([run(), *cases])
    assert page.index('<section id="failures"') < page.index('<section id="matrix"')
    shown = [attributes for name, attributes in Page(page).elements if name == "details"]
    assert len(shown) == report.FAILURES_SHOWN
    assert all("open" in attributes for attributes in shown)
    assert "And 10 more" in page
    assert Page(page).texts["pre"][:2] == ["wrong 1", "wrong 2"]


def test_what_was_recorded_stays_text(files: Files) -> None:
    nasty = 'a </script><b>bold</b> & "q" {{data}} \u2028 <!-- <script>'
    known = {"kind": "known", "id": nasty, "reason": nasty, "how": nasty, "status": nasty}
    machine = {"system": nasty, "cores": 2}
    recorded = [
        run(machine=machine, versions={nasty: nasty}, backend=nasty, device=nasty),
        case(0, "failed", reason=nasty, features=[nasty], cell=nasty, device=nasty),
        mutant(nasty, nasty),
        known,
    ]
    joined, page = files.made(recorded)
    tame = [
        run(machine={"system": "s", "cores": 2}, versions={"v": "1"}),
        case(0, "failed", reason="r"),
        mutant("m", "c"),
        {**known, "id": "i", "reason": "r", "how": "h", "status": "s"},
    ]
    _, harmless = files.made(tame)
    assert [name for name, _ in Page(page).elements] == [name for name, _ in Page(harmless).elements]
    assert nasty in Page(page).texts["pre"]
    assert nasty in [there["data-checks"] for _, there in Page(page).elements if "data-checks" in there]
    assert Page(page).data()["columns"]["reason"]["values"] == [nasty]
    assert joined["cases"][0]["reason"] == nasty


def test_the_page_needs_nothing_beside_it(files: Files) -> None:
    _, page = files.made([run(), case(), mutant("m", "structure")])
    elements = Page(page).elements
    links = [str(there[key]) for _, there in elements for key in ("src", "href", "action") if key in there]
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"\bfetch\(|XMLHttpRequest|@import|url\(|\bimport\b", page)
    policy = [there["content"] for name, there in elements if name == "meta" and "http-equiv" in there]
    assert [str(one).split(";")[0] for one in policy] == ["default-src 'none'"]


def test_the_page_can_be_read_by_everyone(files: Files) -> None:
    _, page = files.made([run(), case(0, "failed"), mutant("m", "structure")])
    elements = Page(page).elements
    assert ("html", {"lang": "en"}) in elements
    assert Page(page).texts["title"] == ["lstmbridge conformance: 1 of 1 failed"]
    ids = [there["id"] for _, there in elements if "id" in there]
    assert len(ids) == len(set(ids))
    assert {str(there["href"])[1:] for name, there in elements if name == "a"} <= set(ids)
    assert all("scope" in there for name, there in elements if name == "th")
    assert page.count("<table") == page.count("<caption")


def test_the_cases_can_be_read_back_from_the_page(files: Files) -> None:
    cases = [
        case(0, ulp={"source": 1.2345, "target": 0.0}, seconds=0.12345, checks=["structure"]),
        {**case(1, "refused", reason="no"), "id": "gru / a / b / c / d / e", "features": []},
        {**case(2), "id": "plain"},
    ]
    _, page = files.made(cases)
    columns = Page(page).data()["columns"]

    def words(column: dict[str, Any]) -> list[Any]:
        return [column["values"][place] for place in column["at"]]

    pieces = zip(*(words(piece) for piece in columns["id"]), strict=True)
    ids = [" / ".join(piece for piece in one if piece is not None) for one in pieces]
    assert ids == [one["id"] for one in cases]
    assert words(columns["outcome"]) == ["agrees", "refused", "agrees"]
    assert words(columns["features"]) == [["bidirectional", "dual-bias"], ["plain"], ["bidirectional", "dual-bias"]]
    assert words(columns["checks"]) == [["structure"], [], []]
    assert columns["ulp_source"] == [1.23, None, None]
    assert columns["ulp_target"] == [0, None, None]
    assert columns["seconds"] == [0.123, None, None]


def test_features_stand_under_their_groups_in_the_declared_order() -> None:
    names = ["clip", "reverse", "no-bias", "unequal-stack", "hard-sigmoid-1/6", "T=1", "right-padded", "strange",
             "dual-bias", "file: no-bias", "initial weights: like keras"]  # fmt: skip
    cases = [case(features=[name]) for name in names]
    expected = [
        ("weights", ["no-bias", "dual-bias"]),
        ("directions", ["reverse"]),
        ("extras", ["clip"]),
        ("activations", ["hard-sigmoid-1/6"]),
        ("sizes", ["T=1"]),
        ("stacks", ["unequal-stack"]),
        ("initial weights", ["initial weights: like keras"]),
        ("files", ["file: no-bias"]),
        ("sequences", ["right-padded"]),
        ("other", ["strange"]),
    ]
    assert report.grouped(cases, []) == expected
    declared = [run(features=["dual-bias", "absent", "no-bias"])]
    assert report.grouped(cases, declared)[0] == ("weights", ["dual-bias", "no-bias"])


def test_versions_that_differ_say_on_which_device(files: Files) -> None:
    other = run(device="cuda", versions={"torch": "2.13.0+cu130", "jax": "0.7"}, seconds=3700.0)
    _, page = files.made([run(), other, case()])
    said = Page(page).texts["dd"]
    assert "2.13.0 (cpu), 2.13.0+cu130 (cuda)" in said
    assert "0.7" in said
    assert "21 November 2026, 05:00 UTC" in said
    assert "1 h 1 min" in said
    assert "Linux x86_64, EPYC, 2 cores, Python 3.11.9" in Page(page).texts["h3"]


def test_fifteen_thousand_cases_stay_small() -> None:
    def one(number: int) -> dict[str, Any]:
        features = [f"feature-{number % 30}", f"option-{number // 30 % 30}"]
        amounts = {who: (number * step % 9973) / 97 for who, step in (("source", 7), ("target", 11), ("both", 13))}
        errors = {who: value * 6e-8 for who, value in amounts.items()}
        name = f"lstm-{'+'.join(features)} / torch->keras[tensorflow] / float32 / cpu {number // 900}"
        said = {"checks": ["structure", "forward", "round_trip"], "module": "stock", "verdict": "reparameterised"}
        return {**case(), "id": name, "features": features, **said, "ulp": amounts, "error": errors, "seconds": 0.12}

    joined = report.join({"run": [], "case": [one(number) for number in range(15_000)], "mutant": [], "known": []})
    assert len(joined["cases"]) == 15_000
    assert len(report.page(joined).encode()) <= 2_500_000
