"""The record of a batch: what `psicli retry` and `psicli status` know about it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from psicli.batch import record
from psicli.batch.plan import Plan
from psicli.batch.record import Past, Record, Start, is_running, last_batch, running_batches
from psicli.cli.main import cli
from psicli.cli.many import options
from psicli.core import signals
from psicli.core.errors import BatchRunningError, CannotCreateError, OverdueError
from psicli.report.batch import JobState, State
from psicli.storage import locks
from psicli.storage.state import left_over

START = Start("/work", ("/etc/psicli/nightly.yaml",), {"settings": ["DATE=2026-11-29"], "retries": 3})


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PSICLI_STATE_DIR", str(tmp_path / "state"))
    # The jobs of other tests are none of these tests' business.
    monkeypatch.setattr(locks, "SHARED_FOLDERS", ())
    return tmp_path / "state"


def a_plan(jobs: list[JobState], name: str = "nightly") -> Plan:
    """Return what a record needs to know about a plan."""
    planned = [
        SimpleNamespace(
            name=job.name,
            job=SimpleNamespace(peer=job.peer, tasks=range(job.tasks)),
            entry=SimpleNamespace(config=job.config),
        )
        for job in jobs
    ]
    return cast(Plan, SimpleNamespace(batch=SimpleNamespace(name=name), jobs=planned))


def jobs_of(*names: str) -> list[JobState]:
    return [JobState(name, "bob", f"/etc/psicli/{name}.yaml", 2) for name in names]


def move(kept: Record, job: JobState, state: State, jobs: list[JobState], **facts: object) -> None:
    job.state = state
    for name, value in facts.items():
        setattr(job, name, value)
    kept.changed(job, jobs)


def states(past: Past | None) -> dict[str, State]:
    assert past is not None
    return {job.name: job.state for job in past.jobs}


def test_a_record_says_how_to_go_on(state: Path) -> None:
    jobs = jobs_of("one", "two", "three")
    with Record(a_plan(jobs), START) as kept:
        move(kept, jobs[0], State.RUNNING, jobs)
        move(kept, jobs[0], State.DONE, jobs, exit_code=0)
        cause = {"error": {"message": "in.csv:3: bad row"}, "tasks": []}
        move(kept, jobs[1], State.FAILED, jobs, exit_code=65, report=cause)
        move(kept, jobs[2], State.NOT_RUN, jobs, why="two failed")
        kept.finish(jobs, 65)
    for past in (last_batch(), last_batch(["/etc/psicli/nightly.yaml"])):
        assert past is not None
        assert (past.name, past.exit_code, past.start) == ("nightly", 65, START)
        assert past.unfinished == ["two", "three"]
        assert [job.why for job in past.jobs] == ["", "in.csv:3: bad row", "two failed"]
        assert not is_running(past)
    assert last_batch(["/etc/psicli/weekly.yaml"]) is None
    # Only what a later run needs is left.
    assert [path.name for path in (state / "batches").iterdir()] == [f"{START.key}.json"]
    assert left_over(state) == []


def test_the_job_files_may_be_named_from_anywhere(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Record(a_plan(jobs_of("a", "b")), Start("/", (str(tmp_path / "a.yaml"), "/b.yaml"), {})):
        pass
    monkeypatch.chdir(tmp_path)
    assert last_batch(["a.yaml", "/b.yaml"]) is not None
    assert last_batch(["/b.yaml", "a.yaml"]) is None


def test_a_killed_batch_leaves_a_complete_record(state: Path) -> None:
    code = (
        "import os, signal\n"
        "from types import SimpleNamespace as S\n"
        "from psicli.batch.record import Record, Start\n"
        "from psicli.report.batch import JobState, State\n"
        "jobs = [JobState(name, 'bob', '', 1) for name in ('one', 'two', 'three')]\n"
        "named = [S(name=job.name, job=S(peer='bob', tasks=()), entry=S(config='')) for job in jobs]\n"
        "kept = Record(S(batch=S(name='nightly'), jobs=named), Start('/', ('/nightly.yaml',), {}))\n"
        "for job, ended in zip(jobs, (State.DONE, State.RUNNING)):\n"
        "    job.state = ended\n"
        "    kept.changed(job, jobs)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    past = last_batch()
    assert past is not None
    assert past.unfinished == ["two", "three"]
    assert running_batches() == []
    assert [folder.name for folder in left_over(state, remove=True)] == [past.id]


def test_the_record_belongs_to_the_batch_that_started_last(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a fast disk, both begin within a millisecond, and the record has no smaller unit.
    seconds = itertools.count()
    monkeypatch.setattr(record, "_now", lambda: f"2026-11-29T02:00:{next(seconds):02}.000+00:00")
    first, second = jobs_of("one"), jobs_of("one")
    with Record(a_plan(first), START) as earlier, Record(a_plan(second), START) as later:
        assert len(running_batches()) == 2
        move(later, second[0], State.FAILED, second)
        move(earlier, first[0], State.DONE, first)
        assert states(last_batch()) == {"one": State.FAILED}
        # Each of them is in `psicli status`.
        assert [states(each)["one"] for each in running_batches()] == [State.DONE, State.FAILED]
        earlier.finish(first, 0)
        assert states(last_batch()) == {"one": State.FAILED}
    assert running_batches() == []


def test_a_retry_keeps_what_was_done_before(state: Path) -> None:
    before = jobs_of("one", "two", "three")
    for job, ended in zip(before, (State.DONE, State.FAILED, State.DONE), strict=True):
        job.state = ended
    again = jobs_of("two")
    with Record(a_plan(again), START, before) as kept:
        assert states(last_batch()) == {"one": State.DONE, "two": State.QUEUED, "three": State.DONE}
        move(kept, again[0], State.DONE, again)
    past = last_batch()
    assert past is not None
    assert past.unfinished == []


def test_the_progress_is_for_status_only(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written once a second, and not synced to disk each time."""
    now = [100.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    jobs = jobs_of("one")
    with Record(a_plan(jobs), START) as kept:
        for percent, expected in ((10, 10), (20, 10), (30, 30)):
            jobs[0].percent = percent
            kept.progressed(jobs)
            (shown,) = running_batches()
            assert shown.jobs[0].percent == expected
            now[0] += 0.6
        assert last_batch() is not None
        assert last_batch().jobs[0].percent == 0  # type: ignore[union-attr]


def test_a_full_disk_is_a_warning_once(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_of("one")
    with Record(a_plan(jobs), START) as kept:

        def full(path: Path, octets: bytes) -> None:
            raise OSError(28, "No space left on device")

        with caplog.at_level(logging.WARNING), monkeypatch.context() as patched:
            patched.setattr(record, "replace_file", full)
            for each in (State.FAILED, State.DONE):
                move(kept, jobs[0], each, jobs)
            kept.progressed(jobs)
        assert caplog.messages == [
            "the record of this batch cannot be written (no space left on device); if that lasts, `psicli retry` will "
            "repeat jobs"
        ]
        assert states(last_batch()) == {"one": State.QUEUED}
        # There is room again.
        kept.finish(jobs, 0)
    assert states(last_batch()) == {"one": State.DONE}


def test_a_batch_without_a_state_folder_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSICLI_STATE_DIR", "/dev/null/state")
    with pytest.raises(CannotCreateError):
        Record(a_plan(jobs_of("one")), START)


@pytest.mark.parametrize("octets", [b"", b"[]", b"{}", b'{"jobs": [{"name": "one"}]}', b"\xff"])
def test_a_record_that_cannot_be_read_is_none(state: Path, octets: bytes) -> None:
    with Record(a_plan(jobs_of("one")), START):
        pass
    path = state / "batches" / f"{START.key}.json"
    known = json.loads(path.read_text())
    for content in (octets, json.dumps({**known, "of_a_later_version": 1}).encode()):
        path.write_bytes(content)
        assert last_batch() is last_batch(START.files) is None


UNSOUND: list[tuple[str, object]] = [
    *[("started", 5), ("started", "yesterday"), ("started", "2026-11-29T02:00:00")],
    *[("good", "yesterday"), ("good", "2026-11-29T02:00:00"), ("good", 5)],
    *[("pid", "5"), ("pid", True), ("name", 5), ("name", "a\nb"), ("start", []), ("id", "../x"), ("exit_code", "0")],
    *[("jobs/0", 5), ("jobs/0/name", 5), ("jobs/0/name", "a\nb"), ("jobs/0/peer", None), ("jobs/0/task", "a\x1b[m")],
    *[("jobs/0/state", 5), ("jobs/0/state", "lost"), ("jobs/0/percent", "5"), ("jobs/0/seconds", float("nan"))],
    *[("jobs/0/pid", 1.5), ("jobs/0/first_started", "0"), ("jobs/0/more", 0), ("jobs", {})],
    *[("start/files", []), ("start/files", [5]), ("start/files", "/a"), ("start/files", ["a.yaml"])],
    *[("start/files", ["/a\0b"]), ("start/files", ["/\ud800"]), ("start/folder", 5), ("start/options", [])],
    *[("start/options/settings", 5), ("start/options/settings", "A=1"), ("start/options/settings", [5])],
    *[
        ("start/options/jobs", "4"),
        ("start/options/jobs", 0),
        ("start/options/deadline", float("inf")),
        ("start/options/keep_going", 1),
        ("start/options/report_dir", 5),
    ],
]


@pytest.mark.parametrize(("place", "value"), UNSOUND)
def test_a_record_that_somebody_has_edited(state: Path, place: str, value: object) -> None:
    with Record(a_plan(jobs_of("one")), START) as kept:
        kept.finish(jobs_of("one"), 65)
    path = state / "batches" / f"{START.key}.json"
    known = json.loads(path.read_text())
    *way, last = (int(step) if step.isdigit() else step for step in place.split("/"))
    inner = known
    for step in way:
        inner = inner[step]
    inner[last] = value
    path.write_text(json.dumps(known))
    assert last_batch() is last_batch(START.files) is None
    # It is in nobody's way.
    with Record(a_plan(jobs_of("one")), START):
        assert last_batch() is not None


def test_the_options_that_a_retry_repeats_are_checked() -> None:
    assert {*record._OPTIONS} == {*options._REPEATED}


def test_a_record_without_end(state: Path) -> None:
    with Record(a_plan(jobs_of("one")), START):
        path = state / "batches" / f"{START.key}.json"
        path.write_text('{"a":' * 100_000)
        assert last_batch() is None


def test_a_whole_number_of_seconds_may_lack_its_point(state: Path) -> None:
    with Record(a_plan(jobs_of("one")), replace(START, options={"deadline": 60, "later_option": {}})):
        path = state / "batches" / f"{START.key}.json"
        path.write_text(path.read_text().replace('"seconds": 0.0', '"seconds": 0'))
        assert last_batch() is not None


def test_old_records_are_removed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORDS", 3)

    def run(name: str, age: float = 0.0) -> Path:
        start = Start("/", (f"/{name}.yaml",), {})
        with Record(a_plan(jobs_of("one"), name), start):
            path = state / "batches" / f"{start.key}.json"
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        return path

    run("month-old", record.MAX_AGE + 60)
    made = [run(name, age) for name, age in (("a", 400.0), ("b", 100.0), ("c", 300.0), ("d", 200.0), ("e", 0.0))]
    # Each run removes what is older than the newest two that it finds.
    assert {path for path in made if path.exists()} == {made[1], made[3], made[4]}
    assert len([*(state / "batches").iterdir()]) == 3


# Two runs of one batch --------------------------------------------------------------------------------------------


def test_a_second_run_with_hooks_does_not_begin(state: Path) -> None:
    jobs = jobs_of("one")
    with Record(a_plan(jobs), START):
        with pytest.raises(BatchRunningError, match=rf"^batch nightly still runs \(pid {os.getpid()}, since 20"):
            Record(a_plan(jobs), START, wait=0.0)
        # The record stays that of the first run, and other batches are free.
        (running,) = running_batches()
        assert running == last_batch()
        with Record(a_plan(jobs, "weekly"), replace(START, files=("/etc/psicli/weekly.yaml",)), wait=0.0):
            pass
    with Record(a_plan(jobs), START, wait=0.0):
        pass


def test_a_second_run_with_hooks_waits(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "psicli")
    first = Record(a_plan(jobs_of("one")), START)
    first.finish([replace(jobs_of("one")[0], state=State.DONE)], 0)
    pauses: list[float] = []

    def end_first(seconds: float) -> None:
        pauses.append(seconds)
        first.__exit__()

    monkeypatch.setattr(signals, "pause", end_first)
    with Record(a_plan(jobs_of("one")), START, wait=600.0):
        past = last_batch()
    assert len(pauses) == 1
    (said,) = caplog.messages
    assert said.startswith("waiting: batch nightly still runs (pid ")
    assert past is not None
    # What the first run has left meanwhile counts.
    assert past.good is not None


# Status ----------------------------------------------------------------------------------------------------------


def age(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of `psicli status` with an age."""
    done = CliRunner().invoke(cli, ["status", "--max-age", *arguments])
    if isinstance(done.exception, OverdueError):
        return done.exception.code, done.exception.message
    return done.exit_code, done.output


def test_a_batch_that_has_not_ended_well_for_long(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = START.files[0]
    assert age("26h", file) == (
        69,
        f"{file}: no run of this batch ended with all jobs done in the last 26.0 h; there has been none",
    )
    jobs = jobs_of("one")
    with Record(a_plan(jobs), START) as kept:
        move(kept, jobs[0], State.FAILED, jobs)
        kept.finish(jobs, 65)
    assert age("26h", file)[0] == 69
    with Record(a_plan(jobs), START) as kept:
        move(kept, jobs[0], State.DONE, jobs)
        kept.finish(jobs, 0)
    code, said = age("26h", file)
    assert (code, said.startswith("nightly: the last run with all jobs done ended ")) == (0, True)
    # Later runs do not change that, whether they fail, are killed, or run some of the jobs.
    with Record(a_plan(two := jobs_of("two")), replace(START, options={"only": ["two"]})) as kept:
        monkeypatch.setattr(record, "_now", lambda: "2999-01-01T00:00:00.000+00:00")
        move(kept, two[0], State.DONE, two)
        kept.finish(two, 0)
    assert age("26h", file) == (0, said)
    code, late = age("0.000001", file)
    assert (code, " in the last 1 s; " in late) == (69, True)
    # cron sends what it prints as a mail.
    assert age("26h", "--quiet", file) == (0, "")


@pytest.mark.parametrize("arguments", [("26h",), ("soon", "/nightly.yaml")])
def test_an_age_needs_a_batch(state: Path, arguments: tuple[str, ...]) -> None:
    assert age(*arguments)[0] == 2


def test_status_shows_a_running_batch_and_its_jobs(state: Path) -> None:
    jobs = jobs_of("one", "two", "three", "four")
    with Record(a_plan(jobs), START) as kept:
        move(kept, jobs[0], State.RUNNING, jobs, starts=1, percent=43, task="people")
        move(kept, jobs[1], State.WAITING, jobs, starts=2)
        move(kept, jobs[2], State.FAILED, jobs, starts=1, exit_code=65, why="in.csv:3: bad row")
        jobs[3].why = "1.9 of 2 cores busy"
        kept.progressed(jobs)
        shown = CliRunner().invoke(cli, ["status"], catch_exceptions=False).stdout.splitlines()
        told = json.loads(CliRunner().invoke(cli, ["status", "--json"], catch_exceptions=False).stdout)
    heading = "nightly: 0 of 4 jobs done, 1 failed, 2 in progress, 1 queued"
    assert shown[0].startswith(f"{heading} (pid {os.getpid()}, since 20")
    assert shown[1:] == [
        "job    peer  attempts  progress",
        "one    bob          1  people: 43 %",
        "two    bob          2  waits for bob",
        "three  bob          1  failed with exit code 65: in.csv:3: bad row",
        "four   bob          0  waits: 1.9 of 2 cores busy",
        "",
        "No job is running on this machine.",
    ]
    (batch,) = told["batches"]
    assert [batch[name] for name in ("name", "pid", "exit_code")] == ["nightly", os.getpid(), None]
    assert batch["start"] == {
        "folder": "/work", "files": ["/etc/psicli/nightly.yaml"], "options": START.options
    }  # fmt: skip
    found = [tuple(job[name] for name in ("name", "state", "why", "percent", "starts")) for job in batch["jobs"]]
    assert found == [
        ("one", "running", "", 43, 1),
        ("two", "waiting for its peer", "", 0, 2),
        ("three", "failed", "in.csv:3: bad row", 0, 1),
        ("four", "queued", "1.9 of 2 cores busy", 0, 0),
    ]
    after = json.loads(CliRunner().invoke(cli, ["status", "--json"], catch_exceptions=False).stdout)
    assert after["batches"] == []
