"""Past runs in order: which runs, tasks and gaps belong to a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from psicli.report.history import jobs
from psicli.report.history.jobs import jobs_of
from psicli.storage.ledger import Entry, History, Opening, RunEntry

FIRST = datetime(2026, 3, 2, 2, 10, tzinfo=UTC)
NOW = FIRST + timedelta(days=20, hours=10)
OPENING = Opening("nightly", "people", "bob", "", "/in.csv", ("id",), 100, 200, 200, "alice")


def at(day: float) -> str:
    return (FIRST + timedelta(days=day)).isoformat(timespec="seconds")


def run(day: float, job: str = "nightly", code: int = 0) -> RunEntry:
    ended = {"outcome": "failed", "code": code, "failure": "peer lost"} if code else {"outcome": "done", "code": 0}
    return RunEntry(at(day), f"{job}-{day}", job, "alice", "bob", seconds=3.0, **ended)


def task(day: float, job: str = "nightly", name: str = "people", **facts: object) -> Entry:
    opening = replace(OPENING, job=job, task=name, task_sid=f"{job}-{name}-{day}", run=f"{job}-{day}")
    known = {"outcome": "done", "matched": 30, "matched_percent": 30, "rows": 110, "seconds": 2.0, **facts}
    return Entry(at(day), opening, **known)


def test_jobs_with_their_runs_tasks_and_gaps() -> None:
    days = [*range(8), *range(9, 21)]
    history = History(
        [task(day, name=name) for day in days if day != 15 for name in ("people", "places")],
        [run(day, code=69 if day == 15 else 0) for day in days] + [run(3.5, "other", code=69)],
    )
    nightly, other = jobs_of(history, NOW)
    assert (nightly.name, nightly.party, nightly.peer) == ("nightly", "alice", "bob")
    assert [each.name for each in nightly.tasks] == ["people", "places"]
    assert [len(nightly.runs), len(nightly.failed), nightly.missed] == [20, 1, 1]
    assert nightly.interval == timedelta(days=1)
    assert nightly.gaps[0].first == FIRST + timedelta(days=8)
    assert not nightly.is_late
    # A run that opened no task counts for each task that the job had opened.
    assert [len(each.nights) for each in nightly.tasks] == [20, 20]
    assert [each.time for each in nightly.tasks[0].nights if each.after_gap] == [FIRST + timedelta(days=9)]
    assert [each.why for each in nightly.failed] == ["peer lost (69)"]
    # A job that never opened a task is a job all the same.
    assert (other.name, other.tasks, other.interval, len(other.failed)) == ("other", [], None, 1)
    assert [each.name for each in jobs_of(history, NOW, job="other")] == ["other"]
    assert jobs_of(history, NOW, job="none") == []


def test_since_leaves_out_older_runs_which_count_for_the_usual_range() -> None:
    days = range(21)
    history = History([task(day) for day in days], [run(day) for day in days])
    (job,) = jobs_of(history, NOW, FIRST + timedelta(days=18))
    assert len(job.runs) == len(job.tasks[0].nights) == 3
    assert job.interval == timedelta(days=1)
    assert all(each.measures for each in job.tasks[0].nights)
    assert jobs_of(history, NOW, NOW) == []


def test_of_very_many_runs_only_the_newest_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_MOST_JUDGED", 20)
    history = History([task(day) for day in range(30)], [run(day) for day in range(30)])
    (job,) = jobs_of(history, NOW)
    assert [bool(each.measures) for each in job.tasks[0].nights] == [False] * 24 + [True] * 6


def test_a_job_that_is_late() -> None:
    history = History([task(day) for day in range(8)], [run(day) for day in range(8)])
    (job,) = jobs_of(history, NOW)
    assert job.is_late
    assert (job.gaps[-1].runs, job.gaps[-1].is_open) == (12, True)


def test_lines_of_older_versions_name_no_run() -> None:
    entries = [task(day) for day in range(3)]
    old = [replace(each, opening=replace(each.opening, run="", party="")) for each in entries]
    (job,) = jobs_of(History(old, []), NOW)
    assert ([each.outcome for each in job.runs], job.party) == (["done"] * 3, "")
