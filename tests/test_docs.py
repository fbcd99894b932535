"""Every code block of the README and the docs runs, and the tables are what the code says."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import lstmbridge
from lstmbridge import Spec, registry
from lstmbridge.errors import Unsupported
from lstmbridge.fit import fit, refusals
from lstmbridge.testing import combinations, telling_layer

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(HOW_TO.glob("*.md")),
    ROOT / "examples" / "README.md",
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = {"python", "console"}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def matches(expected: str, found: str) -> bool:
    """Whether `found` is `expected`, in which ... stands for anything and a line of it for any lines."""
    pattern = re.escape(expected.strip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, found.strip(), re.DOTALL) is not None


def run_console(block: str, where: Path) -> None:
    """Runs each command of a console block and compares what it prints; an error is what a failing one prints."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = session.partition("\n")
        done = subprocess.run(shlex.split(command), cwd=where, env=env, capture_output=True, text=True, check=False)
        printed = done.stdout
        if done.returncode:
            progress = re.compile(r"^\d+ of \d+ files.*\n", re.MULTILINE)  # of a job that takes long
            printed += f"{progress.sub('', done.stderr)}[exit code {done.returncode}]"
        assert matches(expected, printed), f"$ {command}\n{printed}\n--- expected ---\n{expected}"


@pytest.fixture(autouse=True)
def entry_points() -> Iterator[None]:
    """Entry points are looked up anew: the docs install one."""
    caches = (registry._third_parties, registry.framework)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (ROOT / "examples" / "models").iterdir():
        shutil.copy(model, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, object] = {"__name__": page.stem}
    for number, (language, block) in enumerate(blocks(page)):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, f"{page.name}[{number}]", "exec"), names)
        elif language == "console":
            run_console(block, tmp_path)
        elif language == "toml":  # its first line is its name
            (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)


MODULES = sorted(info.name for info in pkgutil.walk_packages(lstmbridge.__path__, "lstmbridge."))


@pytest.mark.parametrize("name", ["lstmbridge", *(name for name in MODULES if ".cli" not in name)])
def test_every_example_in_a_docstring_runs(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not found.failed


def test_no_block_is_of_a_kind_that_would_not_run() -> None:
    found = {language for page in PAGES for language, _ in blocks(page)}
    assert found <= RUNNABLE | {"text", "toml"}
    assert all("```text" not in page.read_text() or page.name == "layouts.md" for page in PAGES), "drawings only"


def test_the_comparison_can_fail() -> None:
    assert matches("a\n...\nc", "a\nb\nb\nc")
    assert not matches("a\n...\nc", "a\nb\nd")
    with pytest.raises(AssertionError):
        run_console("$ lstmbridge --version\nnothing of the kind\n", ROOT)


def test_the_tables_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_that_the_table_of_formats_names_is_there() -> None:
    listed = tomllib.loads((ROOT / "docs" / "formats.toml").read_text())["format"]
    for each in listed:
        assert {"group", "what", "made_by", "read"} <= set(each) <= {
            "group", "what", "made_by", "read", "written", "round_trip",
        }, each  # fmt: skip
        for key in {"read", "written", "round_trip"} & set(each):
            file, _, name = each[key].partition("::")
            path = ROOT / (file if "/" in file else f"tests/{file}")
            assert re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), f"{each['what']}: {each[key]}"


def held(name: str, spec: Spec) -> str:
    """How a framework holds a layer, as the code says now and in the words of the report."""
    room = registry.framework(name).layout
    try:
        found = fit(telling_layer(spec), room.HOLDS).layer.spec
    except Unsupported:
        own = getattr(room, "FAITHFUL", None)
        return "refused" if own is None or refusals(spec, own) else "faithful module"
    if spec.forget_constant != found.forget_constant:
        return "folded into the bias"
    return {("dual", "single"): "merged into one", ("single", "dual"): "second one zero"}.get(
        (spec.bias, found.bias), "yes"
    )


def test_the_last_conformance_run_is_of_this_code() -> None:
    """What it found is what the code says; if it is not, run `make conformance DOCS=1` and `make docs`."""
    found = json.loads((ROOT / "docs" / "conformance.json").read_text())["support"]
    expected = {
        f"{cell}-{features[0]}": {name: held(name, spec) for name in ("keras", "torch", "onnx", "gates")}
        for cell, features, spec in combinations(1)
    }
    assert found == expected


def test_what_the_readme_points_to_is_there() -> None:
    for page in PAGES:
        for link, place in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
            assert not place or place in headings(page.parent / link), f"{page.name}: {link}#{place}"


def headings(page: Path) -> set[str]:
    """The names by which a page's headings are pointed to."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


ANSWERS = sorted(page for page in HOW_TO.glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", ANSWERS, ids=lambda page: page.name)
def test_every_answer_shows_what_the_common_wrong_one_does(page: Path) -> None:
    answer, heading, wrong = page.read_text().partition("\n## The common wrong answer\n")
    assert heading, "no section on the wrong answer"
    assert [language for language, _ in BLOCK.findall(answer)].count("python"), "no code for the right answer"
    told = "".join(block for language, block in BLOCK.findall(wrong) if language == "python")
    assert re.search(r"^assert .* > [0-9.]+\b", told, re.MULTILINE), "nothing says how far off it is"


def test_the_index_of_answers_lists_each_of_them_by_its_title() -> None:
    listed = re.findall(r"^\| \[(.*?)\]\((.*?)\) \|", (HOW_TO / "README.md").read_text(), re.MULTILINE)
    titles = {page.name: page.read_text().partition("\n")[0].removeprefix("# ") for page in ANSWERS}
    assert {name: title for title, name in listed} == titles
    assert len(listed) == len(titles)
