"""jobs.toml: what a file of jobs means, and the line that is wrong in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from job_files import models

from lstmbridge.cli import main
from lstmbridge.errors import FileError, OptionError
from lstmbridge.jobs import Job
from lstmbridge.jobs.recipes import load

GOOD = """\
# nightly
[defaults]
to = "torch"
jobs = 1

[[job]]
name = "shops"
source = "old/shops"
destination = "new/shops"
include = ["**/*.h5"]

[[job]]
source = "s3://bucket/sensors"
destination = "/data/sensors"
to = "onnx"
opset = 22
timeout = 60
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "jobs.toml"
    path.write_text(text)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_a_file_of_jobs(tmp_path: Path) -> None:
    found = load(write(tmp_path, GOOD))
    assert found == {
        "shops": Job(
            source=str(tmp_path / "old/shops"),
            destination=str(tmp_path / "new/shops"),
            to="torch",
            jobs=1,
            include=("**/*.h5",),
        ),
        "job 2": Job(
            source="s3://bucket/sensors", destination="/data/sensors", to="onnx", jobs=1, opset=22, timeout=60
        ),
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[defaults]", "[default]", 2, "did you mean 'defaults'"),
        ('to = "torch"', 'to = "pytorch"', 3, "did you mean 'torch'"),
        ("jobs = 1", "job = 1", 4, "unknown field 'job'\n.*did you mean 'jobs'"),
        ("jobs = 1", 'jobs = "two"', 4, "jobs is 'two'\n  expected a whole number"),
        ("jobs = 1", "jobs = true", 4, "jobs is True\n  expected a whole number"),
        ('name = "shops"', "name = 7", 7, "name is 7\n  expected a string"),
        ('destination = "new/shops"\n', "", 6, "destination is missing"),
        ('include = ["**/*.h5"]', "include = [1, 2]", 10, "expected a list of strings"),
        ('include = ["**/*.h5"]', 'inlcude = ["**/*.h5"]', 10, "did you mean 'include'"),
        ("opset = 22", "opset = 3", 16, "opset is 3\n  expected 7 to 22"),
        ("timeout = 60", "allow = ['drop everything']", 17, "unknown thing to allow 'drop everything'"),
        ("timeout = 60", "timeout = ", 17, r"(?s)not TOML.*line 17"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, line: int, words: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(OptionError, match=words) as caught:
        load(write(tmp_path, GOOD.replace(old, new)))
    if "TOML" not in words:
        assert caught.value.headline.startswith(f"{tmp_path}/jobs.toml:{line}: "), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no job in it"), ("[job]\nsource = 'a'\n", "no job in it"), ("job = 3\n", "no job in it"),
     ("defaults = 3\n[[job]]\n", "defaults is no table"),
     ("[[job]]\nname = 'a'\nsource='a'\ndestination='b'\nto='torch'\n[[job]]\nname = 'a'\n", "expected another name"),
     ("[[job]]\nsource='a'\ndestination='b'\nto='torch'\n[[job]]\nsource='c'\ndestination='b'\nto='onnx'\n",
      "toml:7: destination is that of 'job 1'")],
)  # fmt: skip
def test_a_file_without_jobs(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        load(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        load(tmp_path / "jobs.toml")


def test_the_command_runs_the_jobs_and_goes_on(tmp_path: Path) -> None:
    models(tmp_path / "old", 2)
    text = '[defaults]\nto = "torch"\njobs = 1\n[[job]]\nname = "a"\nsource = "old"\ndestination = "new"\n'
    text += '[[job]]\nname = "b"\nsource = "old"\ndestination = "onnx"\nto = "onnx"\n'
    path = write(tmp_path, text)
    first = call("run", path)
    assert first.exit_code == 0, first.output
    assert f"a: {tmp_path}/old -> {tmp_path}/new" in first.output
    assert first.output.count("2 done") == 2
    again = call("run", path, "--only", "b", "--json")
    assert json.loads(again.output.splitlines()[-1])["summary"]["verdicts"] == {"skipped": 2}
    assert call("run", path, "--only", "c").exit_code == 2


def test_a_job_that_cannot_be_run_does_not_keep_the_others(tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    text = '[defaults]\nto = "torch"\njobs = 1\n[[job]]\nname = "a"\nsource = "none"\ndestination = "x"\n'
    path = write(tmp_path, text + '[[job]]\nname = "b"\nsource = "old"\ndestination = "new"\n')
    found = call("run", path)
    assert found.exit_code == 1
    assert "error: a: " in found.output
    assert "1 done" in found.output
    told = [json.loads(line) for line in call("run", path, "--only", "b", "--json").output.splitlines()]
    assert [each["job"] for each in told] == ["b", "b"]
