"""The report of a batch, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click import unstyle

from psicli.report.batch import BatchReport, JobState, State
from psicli.report.batch.summary import to_json, to_text
from psicli.report.layout import PLAIN, Screen

HINT = "Check the row; a value that contains the delimiter must be in quotes."


def a_job(
    name: str, state: State, *matched_rows: int | None, error: dict[str, Any] | None = None, **facts: Any
) -> JobState:
    report = {"error": error, "tasks": [{"matched_rows": rows} for rows in matched_rows]}
    started = {"starts": 1, "exit_code": 0, "report": report} if state is not State.NOT_RUN else {}
    return JobState(name, "bob", f"/jobs/{name}.yaml", max(len(matched_rows), 1), state, **{**started, **facts})


def a_batch() -> BatchReport:
    error = {"class": "MalformedInputError", "code": 65, "message": "in/c.csv:3: the row has 1 field", "hint": HINT}
    jobs = [
        a_job("sales", State.DONE, 25_000, None, 1, seconds=2.06),
        a_job("planes", State.DONE, None, seconds=1.0),
        a_job("cars", State.FAILED, error=error, exit_code=65, seconds=0.4),
        a_job("ships", State.FAILED, error={**error, "message": "in/d.csv:9: the row has 1 field"}, exit_code=65),
        a_job("trains", State.NOT_RUN, why="cars failed"),
    ]
    use = {"cores": 2.0, "memory": 4_000_000_000, "peak_memory": 900_000_000, "computed": 4.0, "most_jobs": 1}
    return BatchReport("nightly", jobs, "2026-11-29T02:00:00+00:00", 65, seconds=4.0, **use)


def test_the_text_has_a_line_for_each_job_and_each_hint_once() -> None:
    report = a_batch()
    report.remarks = ["sales and planes would be faster as tasks of one job"]
    report.warnings = ["the hook failed"]
    assert to_text(report, retry="psicli retry nightly.yaml").splitlines() == [
        "nightly: 2 of 5 jobs done, 2 failed, 1 not run, after 4.0 s, exit code 65",
        "",
        "job     peer  tasks  matched  seconds  state      first cause",
        "sales   bob       3   25,001      2.1  done",
        "planes  bob       1        -      1.0  done",
        "cars    bob       1        -      0.4  failed 65  in/c.csv:3: the row has 1 field",
        "ships   bob       1        -      0.0  failed 65  in/d.csv:9: the row has 1 field",
        "trains  bob       1        -        -  not run    cars failed",
        "",
        f"hint for cars, ships: {HINT}",
        "",
        "one job at a time, on average 1.0 of 2 cores, at most 900.0 MB of 4.0 GB of memory",
        "",
        "sales and planes would be faster as tasks of one job",
        "warning: the hook failed",
        "",
        "To run what failed or did not run, type:",
        "  psicli retry nightly.yaml",
    ]
    # Where the log has just shown it.
    assert "warning" not in to_text(report, warnings=False)


def test_the_text_of_a_batch_without_a_failure_has_no_causes() -> None:
    report = a_batch()
    report.jobs, report.exit_code, report.most_jobs = report.jobs[:2], 0, 2
    for job in report.jobs:
        job.first_started, job.ended, job.computed, job.delayed = 0.0, 4.0, 1.0, 0.5
    assert to_text(report).splitlines() == [
        "nightly: 2 of 2 jobs done in 4.0 s",
        "",
        "job     peer  tasks  matched  seconds  state",
        "sales   bob       3   25,001      2.1  done",
        "planes  bob       1        -      1.0  done",
        "",
        "up to 2 jobs at a time, on average 1.0 of 2 cores, at most 900.0 MB of 4.0 GB of memory",
        "one after another, the jobs would have taken about 2 s: running them at the same time made no difference",
    ]


def test_a_hint_names_no_more_than_five_jobs() -> None:
    report = a_batch()
    report.jobs = [
        a_job(f"job-{at}", State.FAILED, error={"message": "bad", "hint": HINT}, exit_code=65) for at in range(7)
    ]
    assert f"hint for job-0, job-1, job-2, job-3, job-4 and 2 more: {HINT}" in to_text(report)


def test_why_the_batch_itself_ended() -> None:
    report = a_batch()
    report.error = {"class": "TerminatedBySignal", "code": 143, "message": "stopped by SIGTERM", "hint": "Go on."}
    assert "\nerror: stopped by SIGTERM\nhint: Go on.\n" in to_text(report)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_text_fits_the_screen(width: int) -> None:
    lines = unstyle(to_text(a_batch(), Screen(width, colour=True))).splitlines()
    assert all(len(line) <= width for line in lines)
    whole = " ".join(" ".join(lines).split())
    assert "in/c.csv:3: the row has 1 field" in whole


def test_the_colours_of_states() -> None:
    report = a_batch()
    text = to_text(report, Screen(120, colour=True))
    assert unstyle(text) == to_text(report, PLAIN)
    assert "\x1b[32mdone\x1b[0m" in text
    assert "\x1b[31mfailed 65\x1b[0m" in text
    assert "\x1b[33mnot run\x1b[0m" in text


def test_no_control_sequence_of_a_cause_gets_into_the_text() -> None:
    report = a_batch()
    report.jobs[4].why = "\x1b[31mred"
    assert "\x1b" not in to_text(report)


def test_json_has_the_facts_of_the_batch_and_the_whole_report_of_each_job() -> None:
    told = json.loads(to_json(a_batch()))
    assert list(told) == [
        "batch", "version", "started", "seconds", "exit_code", "error", "cores", "memory", "places", "computed",
        "most_jobs", "peak_memory", "gain", "remarks", "warnings", "jobs",
    ]  # fmt: skip
    assert told["gain"] == {"verdict": "in turn", "one_after_another": 7.46, "saved": 3.46, "cores_used": 1.0}
    assert list(told["jobs"][0]) == [
        "name", "peer", "config", "tasks", "state", "exit_code", "starts", "failures", "first_started", "ended",
        "seconds", "waited", "computed", "delayed", "memory", "peak_memory", "cause", "matched_rows", "report",
    ]  # fmt: skip
    assert [(job["state"], job["exit_code"], job["matched_rows"], job["cause"]) for job in told["jobs"]] == [
        ("done", 0, 25_001, None),
        ("done", 0, None, None),
        ("failed", 65, None, "in/c.csv:3: the row has 1 field"),
        ("failed", 65, None, "in/d.csv:9: the row has 1 field"),
        ("not run", None, None, "cars failed"),
    ]
    assert told["jobs"][2]["report"]["error"]["hint"] == HINT
