"""Jobs: every file gets a verdict, nothing is done twice, nothing half-written counts, one bad file stops nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from job_files import damaged, models

from helpers import layer, same_weights
from lstmbridge import read, write
from lstmbridge.certificate import beside, verify
from lstmbridge.cli import main
from lstmbridge.errors import FileError, OptionError, UnknownName, Unsupported
from lstmbridge.jobs import VERDICTS, Job, Record, run
from lstmbridge.jobs import work as working
from lstmbridge.jobs.journal import Journal
from lstmbridge.jobs.places import Place, matches
from lstmbridge.jobs.plan import plan

ONE = {"jobs": 1}


def job(tmp_path: Path, **fields: object) -> Job:
    given = {"source": str(tmp_path / "old"), "destination": str(tmp_path / "new"), "to": "torch", **fields}
    return Job(**given)  # type: ignore[arg-type]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in this process: quick, and what is patched here holds there."""
    from lstmbridge.jobs.engine import Engine

    monkeypatch.setattr(Engine, "_backend", lambda self, stack: "inline")


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def verdicts(records: tuple[Record, ...]) -> dict[str, str]:
    return {record.source: record.verdict for record in records}


# ---- the whole way


def test_a_directory_is_migrated_by_workers_and_every_output_is_certified(tmp_path: Path) -> None:
    names = models(tmp_path / "old", 13)
    seen: list[tuple[str, int, int]] = []
    summary = run(job(tmp_path), watch=lambda record, done, total: seen.append((record.source, done, total)))
    assert verdicts(summary.records) == {name: _verdict(n) for n, name in enumerate(names)}
    assert summary.complete
    assert sorted(name for name, _, _ in seen) == names
    assert [done for _, done, _ in seen] == list(range(1, 14))
    for name in names:
        output = (tmp_path / "new" / name).with_suffix(".safetensors")
        assert verify(output, tmp_path / "old" / name).demand().compared > 4
        [before], [after] = read(tmp_path / "old" / name), read(output)
        assert after.spec.replace(bias=before.spec.bias) == before.spec
        for weight in before:
            np.testing.assert_array_equal(after[weight], before[weight])


def _verdict(number: int) -> str:
    return "done"


def test_what_is_done_is_not_done_again(tmp_path: Path, inline: None) -> None:
    names = models(tmp_path / "old", 5)
    run(job(tmp_path))
    outputs = sorted((tmp_path / "new").rglob("*.safetensors"))
    marks = [(each.stat().st_ino, each.stat().st_mtime_ns) for each in outputs]
    again = run(job(tmp_path), resume=True)
    assert again.counts == {"skipped": 5}
    assert [record.was for record in again.records] == ["done"] * 5
    assert [(each.stat().st_ino, each.stat().st_mtime_ns) for each in outputs] == marks
    assert again.complete
    assert len(names) == 5


def test_without_resume_the_journal_of_an_earlier_job_is_an_error(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 1)
    run(job(tmp_path))
    with pytest.raises(FileError, match=r"has the journal of an earlier job\n  .*--resume"):
        run(job(tmp_path))


def test_a_changed_source_is_done_again_and_the_others_are_not(tmp_path: Path, inline: None) -> None:
    names = models(tmp_path / "old", 3)
    run(job(tmp_path))
    write([layer("gru", path="rnn", bias="dual", seed=99)], path=tmp_path / "old" / names[1], force=True)
    again = run(job(tmp_path), resume=True)
    assert verdicts(again.records) == {names[0]: "skipped", names[1]: "done", names[2]: "skipped"}
    same_weights(*read(tmp_path / "new" / "part00/model0001.safetensors"), *read(tmp_path / "old" / names[1]))


def test_a_source_that_was_only_touched_is_not_done_again(tmp_path: Path, inline: None) -> None:
    names = models(tmp_path / "old", 2)
    run(job(tmp_path))
    os.utime(tmp_path / "old" / names[0], ns=(1, 1))
    assert run(job(tmp_path), resume=True).counts == {"skipped": 2}


def test_other_options_do_all_again(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 2)
    run(job(tmp_path))
    assert run(job(tmp_path, dtype="float64"), resume=True).counts == {"lossy": 2}
    assert read(tmp_path / "new/part00/model0000.safetensors")[0].dtype == "float64"


def test_a_changed_or_missing_output_is_made_again(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 3)
    run(job(tmp_path))
    first, second, _ = sorted((tmp_path / "new").rglob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    again = run(job(tmp_path), resume=True)
    assert again.counts == {"done": 2, "skipped": 1}
    assert verify(second).holds


def test_without_its_journal_the_certificates_tell_what_is_done(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 4)
    run(job(tmp_path))
    shutil.rmtree(tmp_path / "new" / ".lstmbridge")
    again = run(job(tmp_path))
    assert again.counts == {"skipped": 4}
    assert all(record.layers for record in again.records)
    with sqlite3.connect(tmp_path / "new/.lstmbridge/journal.sqlite") as database:
        assert database.execute("SELECT verdict, count(*) FROM files GROUP BY verdict").fetchall() == [("done", 4)]


def test_an_output_without_its_whole_certificate_is_made_again(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 2)
    run(job(tmp_path))
    shutil.rmtree(tmp_path / "new" / ".lstmbridge")
    first, second = sorted((tmp_path / "new").rglob("*.certificate.json"))
    first.write_text(first.read_text()[:100])
    told = json.loads(second.read_text())
    told["target"]["files"] = dict.fromkeys(told["target"]["files"], "0" * 64)
    second.write_text(json.dumps(told))
    assert run(job(tmp_path)).counts == {"done": 2}


# ---- every verdict


def test_every_file_gets_its_verdict_with_the_reason(tmp_path: Path, inline: None) -> None:
    old = tmp_path / "old"
    old.mkdir()
    write([layer(path="a")], path=old / "exact.h5")
    write([layer(path="a", forget_constant=1.0)], path=old / "folded.npz")
    write([layer(path="a", peepholes=True)], path=old / "peepholes.npz")
    write([layer("gru", path="a", reset_after=False)], path=old / "before.h5")
    (old / "empty.h5").touch()
    (old / "text.h5").write_text("not a model")
    (old / "notes.txt").write_text("not looked at")
    with h5py.File(old / "dense.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((3, 4))
    found = {record.source: record for record in run(job(tmp_path)).records}
    assert {name: record.verdict for name, record in found.items()} == {
        "exact.h5": "done",
        "folded.npz": "reparameterised",
        "peepholes.npz": "refused",
        "before.h5": "refused",
        "empty.h5": "unreadable",
        "text.h5": "unreadable",
        "dense.weights.h5": "refused",
    }
    assert "forget constant +1 folded into bias.f" in found["folded.npz"].layers[0]["notes"]
    assert "peepholes" in found["peepholes.npz"].why
    assert "reset_after=False" in found["before.h5"].why
    assert "empty" in found["empty.h5"].why
    assert "no recurrent layer" in found["dense.weights.h5"].why
    assert set(VERDICTS) >= {record.verdict for record in found.values()}


def test_with_check_every_file_is_run_on_both_sides(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 3, ".npz")
    summary = run(job(tmp_path, check=True))
    assert summary.counts == {"done": 3}
    for record in summary.records:
        assert record.agreement is not None
        assert record.agreement["agrees"]
        assert record.largest is not None
        assert record.largest <= 2e-6
        told = json.loads(beside(tmp_path / "new" / record.destination).read_text())
        assert told["check"] == [record.agreement]


def test_a_check_that_disagrees_leaves_no_output(tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import lstmbridge.checking as checking

    right = checking.check

    def wrong(a: object, b: object, **options: object) -> object:
        return right(a, [each.replace(weights={n: w * 1.5 for n, w in each.weights.items()}) for each in read(b)])  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "check", wrong)
    models(tmp_path / "old", 1, ".npz")
    [record] = run(job(tmp_path, check=True)).records
    assert record.verdict == "disagreed"
    assert "numbers differ" in record.why
    assert not list((tmp_path / "new").rglob("*.safetensors*"))


def test_what_was_given_up_by_name_is_not_checked_and_the_rest_is(tmp_path: Path, inline: None) -> None:
    (tmp_path / "old").mkdir()
    write([layer(path="a", peepholes=True), layer("gru", path="b", bias="dual")], path=tmp_path / "old" / "a.npz")
    [record] = run(job(tmp_path, allow="drop peepholes", check=True)).records
    assert record.verdict == "lossy"
    assert record.agreement is not None
    assert {row["layer"] for row in record.agreement["rows"]} == {"b"}
    assert any("not checked, since what was given up by name changes the outputs: a" in note for note in record.notes)


def test_a_lost_or_damaged_certificate_is_made_again(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 3)
    run(job(tmp_path))
    first, second, _ = sorted((tmp_path / "new").rglob("*.certificate.json"))
    first.unlink()
    second.write_text("{")
    assert run(job(tmp_path), resume=True).counts == {"done": 2, "skipped": 1}
    assert call("verify", tmp_path / "new").exit_code == 0


def test_verify_notices_outputs_without_a_certificate_and_those_that_are_gone(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 4)
    run(job(tmp_path))
    first, second, third, _ = sorted((tmp_path / "new").rglob("*.safetensors"))
    beside(first).unlink()
    beside(second).write_text("{")
    third.unlink()
    beside(third).unlink()
    found = call("verify", tmp_path / "new")
    assert found.exit_code == 1
    assert "1 of 4 as certified" in found.output
    assert found.output.count("no such certificate") == 2
    assert "not a certificate of lstmbridge" in found.output
    assert call("verify", f"{beside(sorted((tmp_path / 'new').rglob('*.safetensors'))[-1])}").exit_code == 0


def test_a_job_without_any_file_is_an_error_and_makes_nothing(tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    for include, words in ((("*.keras",), r"\*.keras matches none"), ((), "none of a suffix")):
        source = tmp_path / ("old" if include else "empty")
        source.mkdir(exist_ok=True)
        with pytest.raises(FileError, match=words):
            run(job(tmp_path, source=str(source), include=include))
    assert not (tmp_path / "new").exists()


def test_destinations_of_jobs_are_no_sources(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 1)
    run(job(tmp_path, destination=str(tmp_path / "old" / "first")))
    found = run(job(tmp_path, to="onnx"))
    assert [record.source for record in found.records] == ["part00/model0000.h5"]
    assert found.notes == ("passed over, since a job wrote there: first",)


def test_outputs_without_a_source_and_other_options_are_said(tmp_path: Path, inline: None) -> None:
    names = models(tmp_path / "old", 3)
    run(job(tmp_path))
    (tmp_path / "old" / names[0]).unlink()
    notes = run(job(tmp_path, dtype="float64"), resume=True).notes
    assert any(
        "1 outputs of an earlier job belong to no source of this one: part00/model0000" in each for each in notes
    )
    assert any("3 files were done with other options" in each for each in notes)


def test_a_refused_file_is_tried_again(tmp_path: Path, inline: None) -> None:
    (tmp_path / "old").mkdir()
    write([layer(path="a", peepholes=True)], path=tmp_path / "old" / "a.npz")
    assert run(job(tmp_path)).counts == {"refused": 1}
    assert run(job(tmp_path), resume=True).counts == {"refused": 1}
    assert run(job(tmp_path, allow=("drop peepholes",)), resume=True).counts == {"lossy": 1}


def test_the_remainder_leads_back(tmp_path: Path, inline: None) -> None:
    from lstmbridge import Remainder, migrate

    (tmp_path / "old").mkdir()
    made = layer(path="a", forget_constant=1.0)
    write([made], path=tmp_path / "old" / "a.npz")
    write([layer(path="a")], path=tmp_path / "old" / "b.npz")
    run(job(tmp_path, remainder=True))
    aside = tmp_path / "new" / "a.safetensors.remainder.safetensors"
    [back] = migrate(tmp_path / "new" / "a.safetensors", to="gates", remainder=Remainder.load(aside)).result
    same_weights(back, made)
    assert not (tmp_path / "new" / "b.safetensors.remainder.safetensors").exists()


def test_an_onnx_output_with_external_data_is_put_and_certified_whole(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 2, ".npz")
    run(job(tmp_path, to="onnx", external_data=True))
    output = tmp_path / "new/part00/model0000.onnx"
    assert set(json.loads(beside(output).read_text())["target"]["files"]) == {output.name, f"{output.name}.data"}
    assert verify(output).holds
    Path(f"{output}.data").write_bytes(bytes(Path(f"{output}.data").stat().st_size))
    assert any("other bytes" in problem for problem in verify(output).problems)
    assert run(job(tmp_path, to="onnx", external_data=True), resume=True).counts == {"skipped": 2}


# ---- bad sources and bad destinations


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".safetensors", ".pt", ".onnx", ".npz"])
def test_damaged_files_end_in_a_verdict(suffix: str, tmp_path: Path, inline: None) -> None:
    old = tmp_path / "old"
    old.mkdir()
    write([layer(path="rnn")], path=old / f"whole{suffix}")
    whole = (old / f"whole{suffix}").read_bytes()
    for name, content in damaged(whole, 39):
        (old / f"{name}{suffix}").write_bytes(content)
    summary = run(job(tmp_path, suffix=".pt"))
    assert len(summary.records) == 40
    found = {record.source: record for record in summary.records}
    assert found[f"whole{suffix}"].verdict == "done"
    for record in summary.records:
        assert record.verdict in ("done", "reparameterised", "unreadable", "refused")
        assert "unexpected" not in record.why, record
        assert "Traceback" not in record.why
        assert bool(record.why) == (record.verdict in ("unreadable", "refused"))
    assert sum(record.verdict == "unreadable" for record in summary.records) >= 15


def test_a_source_that_changes_while_it_is_read_is_unreadable(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = models(tmp_path / "old", 2)
    right = working.read_all

    def meanwhile(path: Path, **options: object) -> object:
        reading = right(path, **options)
        if path.name == Path(names[0]).name:
            path.write_bytes(path.read_bytes() + b"\0")
        return reading

    monkeypatch.setattr(working, "read_all", meanwhile)
    found = run(job(tmp_path))
    assert verdicts(found.records) == {names[0]: "unreadable", names[1]: "done"}
    assert "changed while it was read" in found.records[0].why
    assert not (tmp_path / "new/part00/model0000.safetensors").exists()


def test_a_source_that_goes_away_is_unreadable(tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = models(tmp_path / "old", 2)
    right = working._hashed

    def gone(folder: Path, task: object) -> object:
        (folder / names[0]).unlink(missing_ok=True)
        return right(folder, task)  # type: ignore[arg-type]

    monkeypatch.setattr(working, "_hashed", gone)
    assert verdicts(run(job(tmp_path)).records) == {names[0]: "unreadable", names[1]: "done"}


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = models(tmp_path / "old", 3)
    right = Place.put

    def full(self: Place, file: Path, name: str) -> None:
        if name == "part00/model0001.safetensors":
            raise FileError(f"{self.where}: {name}", f"found: {os.strerror(errno.ENOSPC)}")
        right(self, file, name)

    monkeypatch.setattr(Place, "put", full)
    found = run(job(tmp_path))
    assert verdicts(found.records) == {names[0]: "done", names[1]: "unwritten", names[2]: "done"}
    assert "No space left" in found.records[1].why
    assert not (tmp_path / "new/part00/model0001.safetensors").exists()
    monkeypatch.undo()
    assert run(job(tmp_path), resume=True).counts == {"done": 1, "skipped": 2}


def test_a_journal_that_cannot_be_written_ends_the_job_with_what_to_do(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path / "old", 3)
    right = Journal.write
    count = iter(range(100))

    def full(self: Journal, record: Record, identity: str) -> None:
        if next(count) == 1:
            self._database.execute("PRAGMA max_page_count = 1")
            raise self._trouble(sqlite3.OperationalError("database or disk is full"))
        right(self, record, identity)

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(FileError, match=r"journal cannot be kept\n  found: database or disk is full\n  .*--resume"):
        run(job(tmp_path))
    monkeypatch.undo()
    assert sum(run(job(tmp_path), resume=True).counts.values()) == 3


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_destination_that_is_a_file_is_an_error(where: str, tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        run(job(tmp_path, destination=str(tmp_path / where)))


def test_a_destination_that_vanishes_is_said_for_every_file(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path / "old", 3)
    new = tmp_path / "new"
    right = working.read_all
    count = iter(range(100))

    def meanwhile(path: Path, **options: object) -> object:
        if next(count) == 1:
            new.rename(tmp_path / "elsewhere")
        return right(path, **options)

    monkeypatch.setattr(working, "read_all", meanwhile)
    with pytest.raises(FileError, match="cannot be written"):
        run(job(tmp_path))
    assert not new.exists()
    monkeypatch.undo()
    (tmp_path / "elsewhere").rename(new)
    assert run(job(tmp_path), resume=True).complete


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such directory"):
        run(job(tmp_path))
    assert not (tmp_path / "new").exists()


def test_the_source_cannot_be_the_destination(tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    with pytest.raises(FileError, match="is a file\n  .*lstmbridge convert"):
        run(job(tmp_path, source=str(next((tmp_path / "old").rglob("*.h5")))))
    with pytest.raises(FileError, match="the source is the destination"):
        run(job(tmp_path, destination=str(tmp_path / "old")))


def test_a_destination_inside_the_source_is_no_source(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 2)
    inside = job(tmp_path, destination=str(tmp_path / "old" / "new"))
    assert run(inside).counts == {"done": 2}
    assert run(inside, resume=True).counts == {"skipped": 2}


def test_files_of_others_are_not_overwritten(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 2)
    theirs = tmp_path / "new/part00/model0000.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    found = run(job(tmp_path))
    assert found.counts == {"done": 1, "unwritten": 1}
    assert "--force" in found.records[0].why
    assert theirs.read_text() == "mine"
    assert run(job(tmp_path, force=True), resume=True).complete
    assert verify(theirs).holds


def test_two_jobs_on_one_destination_exclude_each_other(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 1)
    with Journal(Place(str(tmp_path / "new"))), pytest.raises(FileError, match="another job is at work there"):
        run(job(tmp_path))
    assert run(job(tmp_path)).complete


def test_workers_of_a_job_that_was_taken_over_put_nothing(tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    mine = job(tmp_path)
    source, destination = Place(mine.source), Place(mine.destination)
    with Journal(destination) as first:
        pass
    with Journal(destination):
        [task] = plan(mine, source, destination)
        [record] = working.convert_all(mine, first.owner, [task])
    assert record.verdict == "unwritten"
    assert "taken over" in record.why
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_a_name_that_is_no_text_is_unreadable(tmp_path: Path, inline: None) -> None:
    names = models(tmp_path / "old", 1)
    for name in (b"\xff.h5", b"\xff.txt"):
        (tmp_path / "old" / os.fsdecode(name)).write_bytes(b"")
    found = run(job(tmp_path))
    assert verdicts(found.records) == {names[0]: "done", "\\xff.h5": "unreadable"}
    assert "not UTF-8" in found.records[0].why


def test_a_folder_that_cannot_be_read_stops_nothing(
    tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = models(tmp_path / "old", 1)
    (tmp_path / "old" / "closed").mkdir()
    right = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return right(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = run(job(tmp_path))
    assert verdicts(found.records) == {"closed/": "unreadable", names[0]: "done"}
    assert "Permission denied" in found.records[0].why


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told | {"layers": []},
        lambda told: told | {"layers": [{"verdict": "fine"}]},
        lambda told: told | {"check": [{"rows": [{"a - b": "much"}]}]},
        lambda told: told | {"target": {"files": {"../../x": "0"}}},
        lambda told: told | {"options": None},
        lambda told: told | {"format": 99},
    ],
)
def test_a_damaged_certificate_tells_nothing(damage: object, tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 1)
    run(job(tmp_path))
    shutil.rmtree(tmp_path / "new" / ".lstmbridge")
    path = tmp_path / "new/part00/model0000.safetensors.certificate.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))  # type: ignore[operator]
    assert run(job(tmp_path)).counts == {"done": 1}
    assert verify(path.with_name("model0000.safetensors")).holds


# ---- what is a source, and what it becomes


def names_of(tmp_path: Path, **fields: object) -> dict[str, str]:
    given = job(tmp_path, **fields)
    return {task.source: task.destination for task in plan(given, Place(given.source), Place(given.destination))}


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_names_of_outputs(tmp_path: Path) -> None:
    plant(tmp_path / "old", "a.h5", "b/c.keras", "b/c.weights.h5", "d.e.pt", "f.txt", ".lstmbridge/x.h5", "g.onnx.data")
    assert names_of(tmp_path) == {
        "a.h5": "a.safetensors",
        "b/c.keras": "b/c.keras.safetensors",
        "b/c.weights.h5": "b/c.weights.h5.safetensors",
        "d.e.pt": "d.e.safetensors",
    }
    assert names_of(tmp_path, to="onnx", include="**/*.pt") == {"d.e.pt": "d.e.onnx"}
    assert names_of(tmp_path, exclude=("b/**", "*.pt")) == {"a.h5": "a.safetensors"}


def test_files_that_are_read_along_are_no_sources(tmp_path: Path) -> None:
    shards = [f"big/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    plant(tmp_path / "old", "big/model.safetensors.index.json", *shards, "m.onnx", "m.onnx.data", "w.h5", "w.json")
    found = plan(job(tmp_path), Place(str(tmp_path / "old")), Place(str(tmp_path / "new")))
    assert {task.source: task.files[1:] for task in found} == {
        "big/model.safetensors.index.json": tuple(shards),
        "m.onnx": ("m.onnx.data",),
        "w.h5": ("w.json",),
    }


def test_a_checkpoint_of_any_suffix_is_a_source(tmp_path: Path) -> None:
    plant(tmp_path / "old", "a.txt", "b.tar", "c.data")
    write([layer(path="rnn")], path=tmp_path / "old" / "d.pt")
    (tmp_path / "old" / "d.pt").rename(tmp_path / "old" / "d.tar")
    assert names_of(tmp_path) == {"d.tar": "d.safetensors"}
    assert names_of(tmp_path, exclude="*.tar") == {}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    plant(tmp_path / "old", "a/b.h5")
    (tmp_path / "old" / "a" / "loop").symlink_to(tmp_path / "old")
    assert names_of(tmp_path) == {"a/b.h5": "a/b.safetensors"}


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a/b/x.h5", "**/*.h5", True),
        ("x.h5", "**/*.h5", True),
        ("a/x.h5", "a/*", True),
        ("a/b/x.h5", "a/*", False),
        ("a/b/x.h5", "a/**", True),
        ("a/b/x.h5", "x.h5", True),
        ("a/b/x.h5", "*.keras", False),
        ("a[1]/x.h5", "a[[]1]/*", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


def test_options_are_checked_before_anything_is_done() -> None:
    given = {"source": "a", "destination": "b", "to": "torch"}
    for changes, error, words in [
        ({"to": "pytorch"}, UnknownName, "did you mean 'torch'"),
        ({"to": "tf1"}, Unsupported, "tf1 files are not written"),
        ({"suffix": ".h5"}, UnknownName, "suffix"),
        ({"dtype": "float23"}, UnknownName, "dtype"),
        ({"allow": ("peepholes",)}, UnknownName, "thing to allow"),
        ({"engine": "spark://here"}, UnknownName, "engine"),
        ({"jobs": 0}, OptionError, "jobs is 0"),
        ({"opset": 3}, OptionError, "opset is 3"),
    ]:
        with pytest.raises(error, match=words):
            Job(**{**given, **changes})  # type: ignore[arg-type]


def test_the_identity_is_of_what_decides_the_outputs() -> None:
    base = Job(source="a", destination="b", to="torch")
    same = Job(source="x", destination="y", to="torch", include=("*.h5",), jobs=7, engine="dask://h:1", timeout=3.0)
    assert base.identity() == same.identity()
    others = [{"dtype": "float16"}, {"faithful": True}, {"check": True}, {"suffix": ".pt"}, {"forget_constant": 1.0}]
    assert (
        len({base.identity(), *(Job(source="a", destination="b", to="torch", **each).identity() for each in others)})
        == 6
    )  # type: ignore[arg-type]


# ---- elsewhere


def test_a_job_from_and_to_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    names = models(tmp_path / "old", 4)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "old"), "/old", recursive=True)
    there = Job(source="memory://old", destination="memory://new", to="torch")
    try:
        assert verdicts(run(there).records) == dict.fromkeys(names, "done")
        assert memory.exists("/new/part00/model0000.safetensors.certificate.json")
        assert memory.exists("/new/.lstmbridge/journal.sqlite")
        memory.get("/new", str(tmp_path / "back"), recursive=True)
        assert verify(tmp_path / "back/part00/model0000.safetensors").holds
        assert run(there, resume=True).counts == {"skipped": 4}
        shutil.rmtree(tmp_path / "state")  # another machine: it has the copy of the journal
        assert run(there, resume=True).counts == {"skipped": 4}
        memory.pipe("/old/" + names[0], b"damaged")
        assert run(there, resume=True).counts == {"skipped": 3, "unreadable": 1}
    finally:
        memory.store.clear()


def test_a_url_without_its_driver_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)install"):
        run(Job(source="gs://bucket/x", destination=str(tmp_path), to="torch"))


# ---- the command


def test_the_command_prints_what_became_of_the_files(tmp_path: Path) -> None:
    models(tmp_path / "old", 2)
    (tmp_path / "old" / "bad.h5").write_text("no")
    found = call("migrate", tmp_path / "old", tmp_path / "new", "--to", "torch", "--jobs", 1)
    assert found.exit_code == 1
    assert "unreadable: bad.h5: " in found.output
    assert "     2 done: converted, exactly" in found.output
    assert f"report: {tmp_path}/new/lstmbridge-report.html" in found.output
    assert (tmp_path / "new" / "lstmbridge-report.html").read_text().startswith("<!doctype html>")
    (tmp_path / "old" / "bad.h5").unlink()
    assert call("migrate", tmp_path / "old", tmp_path / "new", "--to", "torch", "--resume").exit_code == 0


def test_the_command_with_json_gives_a_record_a_line(tmp_path: Path) -> None:
    models(tmp_path / "old", 3)
    found = call("migrate", tmp_path / "old", tmp_path / "new", "--to", "torch", "--json", "--jobs", 1)
    *records, last = (json.loads(line) for line in found.output.splitlines())
    assert sorted(record["source"] for record in records) == [f"part00/model000{n}.h5" for n in range(3)]
    assert {"verdict", "why", "files", "outputs", "seconds", "layers", "largest"} <= set(records[0])
    assert last["summary"]["verdicts"] == {"done": 3}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    models(tmp_path / "old", 2)
    (tmp_path / "old" / "bad.h5").write_text("no")
    found = call("migrate", tmp_path / "old", tmp_path / "new", "--to", "torch", "--dry-run", "--jobs", 1)
    assert found.exit_code == 1
    assert "nothing was written" in found.output
    assert "     2 done" in found.output
    assert not (tmp_path / "new").exists()


def test_verify_of_a_file_and_of_a_directory(tmp_path: Path) -> None:
    models(tmp_path / "old", 3)
    run(job(tmp_path, **ONE))
    assert call("verify", tmp_path / "new", "--source", tmp_path / "old").exit_code == 0
    output = tmp_path / "new/part00/model0001.safetensors"
    data = bytearray(output.read_bytes())
    data[-1] ^= 1
    output.write_bytes(data)
    found = call("verify", tmp_path / "new")
    assert found.exit_code == 1
    assert "2 of 3 as certified" in found.output
    assert "has other bytes than certified" in found.output
    assert "has other numbers" in found.output
    one = call("verify", output, "--json")
    assert json.loads(one.output)["not_as_certified"] == 1
    assert call("verify", tmp_path / "old").exit_code == 1


def test_an_interrupted_job_says_so_and_goes_on(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 5)

    def stop(record: Record, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    first = run(job(tmp_path), watch=stop)
    assert first.interrupted
    assert not first.complete
    assert run(job(tmp_path), resume=True).counts == {"done": 3, "skipped": 2}


def test_a_job_in_a_fresh_process_imports_no_framework(tmp_path: Path) -> None:
    models(tmp_path / "old", 1)
    code = (
        "import sys; from lstmbridge.jobs import work; from lstmbridge.jobs import Job, run\n"
        "from lstmbridge.jobs.engine import Engine\n"
        "Engine._backend = lambda self, stack: 'inline'\n"
        f"job = Job(source={str(tmp_path / 'old')!r}, destination={str(tmp_path / 'new')!r}, to='torch')\n"
        "assert run(job).complete\n"
        "assert not {'torch', 'tensorflow', 'keras', 'onnx', 'onnxruntime', 'jax'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_records_come_while_the_job_runs(tmp_path: Path, inline: None) -> None:
    models(tmp_path / "old", 3)
    journal = tmp_path / "new/.lstmbridge/journal.sqlite"
    counts: list[int] = []

    def look(record: Record, done: int, total: int) -> None:
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
            counts.append(database.execute("SELECT count(*) FROM files").fetchone()[0])

    run(job(tmp_path), watch=look)
    assert counts == [1, 2, 3]
    assert threading.active_count() < 50
