"""The page of a migration job: it holds what the records hold, as text, and nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lstmbridge.jobs.job import Job
from lstmbridge.jobs.reasons import Reason, grouped
from lstmbridge.jobs.report import LAYER_FIELDS, ROW_FIELDS, page
from lstmbridge.jobs.run import Summary
from lstmbridge.jobs.work import FINISHED, VERDICTS, Record

WRITTEN = datetime(2026, 11, 21, 8, 3, tzinfo=UTC)
JOB = Job(source="old", destination="new", to="torch")

HOSTILE = [
    "</script><script>alert(1)</script>.h5",
    "</ScRiPt ><script>alert(1)</script>.h5",
    "<!--<script>.h5",
    "</noscript><img src=x onerror=alert(2)>.h5",
    "'\"><svg/onload=alert(3)>.h5",
    "{{data}}{{script}}{{policy}}.h5",
    "a\\g<0>\\1.h5",
    "\u202egpj.exe.h5",
    "\udcff\udcfe.h5",
    "nul\x00tab\tline\nend.h5",
    "\u2028\u2029.h5",
    "模型/権重/😀.h5",
    "__proto__",
    "&lt;b&gt;.h5",
]


def record(source: str = "a.h5", verdict: str = "done", **fields: Any) -> Record:
    """A record of a file; its output has the same name."""
    return Record(source=source, destination=f"{source.removesuffix('.h5')}.safetensors", verdict=verdict, **fields)


def made(*records: Record, job: Job = JOB, written: datetime = WRITTEN, **fields: Any) -> str:
    """The page of a job with these records."""
    return page(job, Summary(records, **{"seconds": 7.5, **fields}), written)


class Page(HTMLParser):
    """What a browser finds in a page.

    tags     each element's name and attributes, in order
    scripts  the text of each script element
    text     what stands outside of scripts and styles
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data

    def data(self) -> dict[str, Any]:
        """What the table is drawn from."""
        return dict(json.loads(self.scripts[0]))

    def details(self) -> dict[str, Any]:
        """What the view of one file is drawn from."""
        return dict(json.loads(self.scripts[1]))


def structure(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of a page with the names of their attributes."""
    return [(tag, tuple(attributes)) for tag, attributes in Page(text).tags]


# ---- what stands in it is text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_or_reason_becomes_markup(text: str) -> None:
    plain, hostile = (
        made(
            record(f"{word}", "refused", why=f"{word}: no | found: {word!r}"),
            record(f"b/{word}", agreement=agreement(word), layers=(layer(word),), notes=(word,), outputs={word: word}),
            job=Job(source=f"s{word}", destination=f"d{word}", to="torch", include=(word,)),
            notes=(word,),
        )
        for word in ("plain", text)
    )
    assert structure(hostile) == structure(plain)
    assert len(Page(hostile).scripts) == 3
    assert Page(hostile).scripts[2] == Page(plain).scripts[2]
    hostile.encode("utf-8")


def test_a_hostile_name_is_in_the_data_as_it_is() -> None:
    names = [name for name in HOSTILE if name.isprintable()]
    found = Page(made(*(record(name, "refused", why=f"{name}: no") for name in names)))
    assert found.data()["files"]["source"] == names
    assert found.data()["files"]["why"] == [f"{name}: no" for name in names]
    for name in names:
        assert f"{name}" in found.text


def test_what_would_not_show_is_shown_as_its_escape() -> None:
    found = Page(made(record("\u202egpj.\udcff\x00\n.h5", "unreadable", why="bell\x07")))
    assert found.data()["files"]["source"] == ["\\u202egpj.\\udcff\\x00\\n.h5"]
    assert found.data()["files"]["why"] == ["bell\\x07"]


def test_a_password_in_a_url_is_not_shown() -> None:
    job = Job(source="ftp://me:hunter2@host/old", destination="s3://key:hunter2@bucket/new", to="torch")
    text = made(record(verdict="unwritten", why="ftp://me:hunter2@host/old: gone"), job=job)
    assert "hunter2" not in text
    assert "ftp://me:***@host/old: gone" in Page(text).data()["files"]["why"]


def test_a_reason_without_end_is_cut_and_says_so() -> None:
    text = made(record(verdict="refused", why="x" * 1_000_000))
    assert len(text) < 200_000
    assert "980,000 more characters" in text


# ---- nothing from anywhere else


def test_nothing_is_loaded_from_anywhere() -> None:
    found = Page(made(record("http://evil/x.h5", "refused", why="see https://evil/y.png"), record("b.h5")))
    for _, attributes in found.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert re.match(r"#|data:,$", attributes.get(name) or "#"), (name, attributes[name])
        assert not any(name.startswith("on") for name in attributes)
    [style] = re.findall(r"<style>(.*?)</style>", made(record()), re.S)
    assert "url(" not in style
    assert "@import" not in style
    assert not {"fetch(", "XMLHttpRequest", "import(", "innerHTML", "eval(", "document.write"} & set(
        re.findall(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(|document\.write", found.scripts[2])
    )


def test_the_policy_lets_only_the_pages_own_script_run() -> None:
    found = Page(made(record()))
    [policy] = [a["content"] or "" for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(found.scripts[2].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert [a.get("type") for tag, a in found.tags if tag == "script"] == ["application/json", "application/json", None]


def test_the_same_job_has_the_same_page() -> None:
    records = [record(f"{n}.h5", "refused", why=f"{n}.h5: {n} layers", files={"b": "1", "a": "2"}) for n in range(40)]
    assert made(*records) == made(*records)
    assert made(*records).replace("08:03", "09:04") == made(*records, written=WRITTEN.replace(hour=9, minute=4))


# ---- what it says


def test_the_counts_are_those_of_the_records() -> None:
    wanted = {verdict: number for number, verdict in enumerate(VERDICTS, 3)}
    records = [record(f"{verdict}/{n}.h5", verdict) for verdict, count in wanted.items() for n in range(count)]
    found = Page(made(*records))
    items = {a["data-verdict"] for tag, a in found.tags if tag == "li" and "data-verdict" in a}
    assert items == set(VERDICTS)
    for verdict, count in wanted.items():
        assert f"{count} {verdict} {VERDICTS[verdict]}" in found.text
    bar = {a["data-verdict"]: a["style"] for tag, a in found.tags if tag == "i"}
    assert bar == {verdict: f"flex-grow:{count}" for verdict, count in wanted.items()}
    names = [name for name, _ in found.data()["verdicts"]]
    stored = [names[place] for place in found.data()["files"]["verdict"]]
    assert stored == [each.verdict for each in records]
    without = sum(count for verdict, count in wanted.items() if verdict not in (*FINISHED, "skipped"))
    assert f"{without} of {sum(wanted.values())} files have no output" in found.text


@pytest.mark.parametrize(
    ("verdicts", "fields", "headline"),
    [
        ([], {}, "no file to convert"),
        ([], {"interrupted": True}, "no file was reached"),
        (["done"], {}, "1 file, and it has an output"),
        (["done", "skipped", "lossy"], {}, "3 files, and each has an output"),
        (["done", "refused"], {}, "1 of 2 files has no output"),
        (["unreadable", "refused", "disagreed"], {"dry": True}, "3 of 3 files would have no output"),
    ],
)
def test_the_headline(verdicts: list[str], fields: dict[str, bool], headline: str) -> None:
    text = made(*(record(f"{n}.h5", verdict) for n, verdict in enumerate(verdicts)), **fields)
    assert f">{headline}</h1>" in text
    assert f": {headline}</title>" in text


def test_a_dry_an_interrupted_and_an_empty_job_say_so_before_the_counts() -> None:
    whole, dry, stopped, empty = (
        made(record()), made(record(), dry=True), made(record(), interrupted=True), made()
    )  # fmt: skip
    assert 'class="warning"' not in whole
    for text, said in ((dry, "Dry run: nothing was written"), (stopped, "--resume"), (empty, "--include")):
        assert said in text
        assert text.index(said) < (text + 'id="counts"').index('id="counts"')


def test_a_dry_run_claims_no_output() -> None:
    assert Page(made(record())).data()["with_output"] == [*FINISHED, "skipped"]
    assert Page(made(record(), dry=True)).data()["with_output"] == []


def test_only_options_that_differ_from_their_defaults_are_named() -> None:
    job = Job(source="old", destination="s3://b/new", to="keras", check=True, allow=("drop clip",), timeout=30.0)
    text = Page(made(record(), job=job)).text
    for said in ("check = true", 'allow = ["drop clip"]', "timeout = 30.0", "s3://b/new", "keras (.keras)", "08:03"):
        assert said in text
    for unsaid in ("opset", "faithful", "include = "):
        assert unsaid not in text
    assert "all at their defaults" in Page(made(record())).text


def layer(label: str = "encoder", **fields: Any) -> dict[str, Any]:
    """A layer's report, as a record has it."""
    said = {"label": label, "target_label": f"{label}.rnn", "spec": "lstm 5 -> 11, dual bias", "verdict": "exact"}
    return {**said, "module": "stock", "parameters": 748, "notes": ("merged",), **fields}


def agreement(layer: str = "encoder", *differences: float) -> dict[str, Any]:
    """A check, as a record has it: a row for each difference of the two sides."""
    rows = [
        {"layer": layer, "output": output, "a - b": a_b, "a - reference": 2e-7, "b - reference": 3e-7,
         "allowed": 1.23456e-5, "verdict": "agrees"}
        for output, a_b in zip("yhc", differences or (1e-7, 4.5678e-6, 0.0), strict=False)
    ]  # fmt: skip
    return {"a": "keras", "b": "torch", "agrees": True, "notes": [f"{layer} ran"], "rows": rows}


def test_one_files_view_has_its_layers_its_check_and_its_hashes() -> None:
    hashes = {"a.h5": "12" * 32, "a.json": "34" * 32}
    found = Page(
        made(
            record("first.h5", "refused", why="no"),
            record("a.h5", "skipped", was="done", layers=(layer(), layer("decoder", notes=())), agreement=agreement(),
                   notes=("of 2018",) * 2, files=hashes, outputs={"a.safetensors": "56" * 32}),
        )
    )  # fmt: skip
    details = found.details()
    file, text = details["files"][1], details["texts"]
    assert (file["was"], [text[n] for n in file["notes"]]) == ("done", ["of 2018"])
    first, second = (dict(zip(details["layer_fields"], each, strict=True)) for each in file["layers"])
    assert [text[first[name]] for name in LAYER_FIELDS[:5]] == [layer()[name] for name in LAYER_FIELDS[:5]]
    assert (first["parameters"], [text[n] for n in first["notes"]]) == (748, ["merged"])
    assert (text[second["label"]], second["notes"]) == ("decoder", [])
    row = dict(zip(details["row_fields"], file["check"]["rows"][1], strict=True))
    assert [text[row[name]] for name in ("layer", "output", "verdict")] == ["encoder", "h", "agrees"]
    assert [row[name] for name in ROW_FIELDS[2:6]] == [4.57e-6, 2e-7, 3e-7, 1.23e-5]
    assert [text[file["check"][side]] for side in "ab"] == ["keras", "torch"]
    assert file["files"] == [list(pair) for pair in hashes.items()]
    assert file["outputs"] == [["a.safetensors", "56" * 32]]
    columns = found.data()["files"]
    assert (columns["largest"], columns["allowed"], columns["layers"]) == ([None, 4.57e-6], [None, 1.23e-5], [0, 2])
    notes = [found.data()["notes"][n] for n in columns["notes"][1]]
    assert notes == ["of 2018", "merged"]


def test_what_an_earlier_certificate_does_not_tell_is_left_out() -> None:
    told = {"label": "rnn", "target_label": "rnn", "verdict": "exact", "module": "stock", "notes": []}
    details = Page(made(record(verdict="skipped", layers=(told,)))).details()
    [values] = details["files"][0]["layers"]
    found = dict(zip(LAYER_FIELDS, values, strict=True))
    assert (found["spec"], found["parameters"], details["texts"][found["label"]]) == (None, None, "rnn")


def test_a_difference_that_is_not_finite_is_no_number_of_json() -> None:
    found = Page(made(record(agreement=agreement("rnn", 1e-7, float("inf"), float("nan")))))
    assert found.data()["files"]["largest"] == [-1]
    assert [row[2] for row in found.details()["files"][0]["check"]["rows"]] == [1e-7, -1, -1]
    assert "Largest difference</dt><dd>∞" in made(record(agreement=agreement("rnn", float("inf"))))


def test_without_scripts_every_file_without_an_output_is_named() -> None:
    records = [record(f"{n}/bad.h5", "refused", why=f"{n}/bad.h5: {n} layers") for n in range(300)]
    text = made(record("good.h5"), *records, record("odd.h5", "unreadable", why="odd.h5: empty"))
    [shown] = re.findall(r"<noscript>(.*?)</noscript>", text, re.S)
    found = Page(shown).text
    for each in records:
        assert f"{each.source}: {each.why}" in found
    assert "refused, 300 files: ‹file›: ‹number› layers" in found
    assert "odd.h5: empty" in found
    assert "good.h5" not in found


# ---- reasons


def reasons(*whys: str, source: str = "old") -> list[Reason]:
    """The groups of these reasons; ``{file}``, ``{folder}`` and ``{n}`` stand for what is each file's own."""
    records = []
    for n, why in enumerate(whys):
        name = f"shop{n}/model {n}.h5"
        own = {"file": name, "n": n + 7, "out": f"shop{n}/model {n}.safetensors", "base": f"model {n}.h5"}
        records.append(record(name, "refused", why=why.format(**own)))
    return grouped(records, source)


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("{file}: not an HDF5 file", "‹file›: not an HDF5 file"),
        ("old/{file}: {n} bytes are missing", "‹file›: ‹number› bytes are missing"),
        ("/tmp/lstmbridge-x{n}/{file}: empty", "‹file›: empty"),
        ("{base}: a GRU without a bias", "‹file›: a GRU without a bias"),
        ("{out} exists, and --force overwrites it", "‹file› exists, and --force overwrites it"),
        ("torch LSTM 'enc_{n}': weight_ih_l0 has shape (4{n}, 5)",
         "torch LSTM ‹name›: weight_ih_l0 has shape (‹number›)"),
        ("lstm_{n} | found: w_{n}, gate/w:{n} | say it: --cell", "‹name› | found: ‹name›:‹number› | say it: --cell"),
        ("{n}: keras's own cell 'c{n}'", "‹number›: keras's own cell ‹name›"),
        ("1.5e-{n} differs, allowed {n}.25", "‹number› differs, allowed ‹number›"),
        ("'model' and 'm{n}' and model_{n}/rnn share their numbers", "‹name› share their numbers"),
    ],
)  # fmt: skip
def test_one_sentence_of_several_files_is_one_reason(why: str, text: str) -> None:
    [found] = reasons(why, why, why)
    assert (found.text, found.records) == (text, (0, 1, 2))


def test_a_list_may_be_longer_in_one_file_than_in_another() -> None:
    [found] = reasons("several: 'a'", "several: 'a', 'b'", "several: 'a', 'b' and 'c'", "several: enc_1, dec_2")
    assert found.text == "several: ‹name›"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{file}: not an HDF5 file", "{file}: not a zip file"),
        ("cannot express hard_sigmoid(0.2, 0.5) ('{n}')", "cannot express hard_sigmoid(0.166667, 0.5) ('{n}')"),
        ("a layer of the class 'ConvLSTM2D' in '{n}'", "a layer of the class 'LSTMCell2' in '{n}'"),
        ("the activation 'swish' is not known", "the activation 'gelu' is not known"),
        ("weights of float16 ({n})", "weights of bfloat16 ({n})"),
        ("say reset_after= of lstm_{n}", "say forget_constant= of lstm_{n}"),
        ("see --forget-bias", "see --nonlinearity"),
    ],
)
def test_other_causes_are_other_reasons(one: str, other: str) -> None:
    assert sorted(found.records for found in reasons(one, other, one, other)) == [(0, 2), (1, 3)]


def test_the_same_sentence_with_another_verdict_is_another_reason() -> None:
    records = [record(f"{n}.h5", verdict, why="no") for n, verdict in enumerate(("refused", "unreadable", "refused"))]
    assert [(each.verdict, each.records) for each in grouped(records)] == [("refused", (0, 2)), ("unreadable", (1,))]


def test_the_most_frequent_reason_comes_first_and_a_single_one_is_said_as_it_is() -> None:
    found = reasons("{file}: rare 'x'", "{file}: often {n}", "{file}: often {n}")
    assert [each.text for each in found] == ["‹file›: often ‹number›", "shop0/model 0.h5: rare 'x'"]


def test_what_all_files_have_in_common_is_said() -> None:
    [found] = reasons(*["{file}: keras LSTM 'rnn': clip 3 in {n}"] * 2)
    assert found.text == "‹file›: keras LSTM 'rnn': clip 3 in ‹number›"


@pytest.mark.parametrize("folder", ["my old models", "/mnt/my old models/", "s3://bucket/my old models"])
def test_the_folder_of_the_source_belongs_to_the_files_name(folder: str) -> None:
    whole = folder.rstrip("/") if "://" in folder else str(Path(folder).absolute())
    [found] = reasons(*[f"{whole}/{{file}}: no", f"{folder.rstrip('/')}/{{file}}: no", "{file}: no"], source=folder)
    assert found.text == "‹file›: no"


def test_the_groups_hold_every_file_that_has_a_reason_once() -> None:
    whys = [f"{{file}}: {'abc'[n % 3]} of {n}" if n % 4 else "" for n in range(60)]
    found = sorted(place for reason in reasons(*whys) for place in reason.records)
    assert found == [n for n in range(60) if n % 4]
    assert len(reasons(*whys)) == 3


@pytest.mark.parametrize("text", ["'" * 4000, "." * 9000, "/" * 4000 + "x", "_1, " * 3000, "hard_sigmoid(" * 900])
def test_no_reason_takes_long_to_read(text: str) -> None:
    [found] = grouped([record(verdict="refused", why=text), record("b.h5", "refused", why=text)])
    assert found.records == (0, 1)


def test_the_page_names_the_reason_of_each_file() -> None:
    records = [record("z.h5"), record("a.h5", "refused", why="a.h5: rare"),
               *(record(f"{n}.h5", "refused", why=f"{n}.h5: often") for n in (3, 14))]  # fmt: skip
    data = Page(made(*records)).data()
    assert [each["text"] for each in data["reasons"]] == ["‹file›: often", "a.h5: rare"]
    assert data["files"]["reason"] == [None, 1, 0, 0]
