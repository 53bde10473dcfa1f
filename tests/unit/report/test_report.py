"""What a run came to, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from psicli.core.errors import MalformedInputError
from psicli.core.stages import Stage
from psicli.report.report import Report, Status, TaskReport, to_json, to_text, what_the_peer_learns

STAGES = {stage.value: 0.0625 * number + 0.00049 for number, stage in enumerate(Stage, 1)}


def a_report(**facts: Any) -> Report:
    counts = {"rows": 10, "distinct_items": 9, "matchless_rows": 1, "matched": 3, "output_rows": 4}
    peer = {"peer_items": 7, "peer_questions": 7, "bins": 1}
    took = {"seconds": 1.5, "bytes_sent": 640, "bytes_received": 960, "stages": STAGES}
    done = TaskReport("customers", "alice", False, Status.DONE, **counts, **peer, output="out.csv", **took)  # type: ignore[arg-type]
    waiting = TaskReport("planes", "bob", False)
    return Report("nightly", "alice", "bob", "0.1.0", "native avx2", [done, waiting], **facts)


def test_json_tells_where_time_and_memory_went() -> None:
    report = a_report(spool_bytes=5_000_000)
    report.close(2.0, 231_000_000)
    told = json.loads(to_json(report, report.error))
    assert (told["peak_memory"], told["spool_bytes"]) == (231_000_000, 5_000_000)
    assert told["tasks"][0]["stages"] == {
        "reading": 0.063,
        "computing": 0.125,
        "waiting_for_peer": 0.188,
        "waiting_for_room": 0.25,
        "matching": 0.313,
        "writing": 0.375,
    }
    assert told["tasks"][1]["stages"] is None


def test_text_tells_it_in_a_line_a_task() -> None:
    report = a_report()
    report.close(2.0, 231_400_000)
    lines = to_text(report).splitlines()
    assert lines[0] == "nightly: alice with bob, 2.0 s, psicli 0.1.0, native avx2 backend, 231 MB of memory"
    (line,) = [line for line in lines if "stages" in line]
    assert line == (
        "    stages   0.06 s reading, 0.13 computing, 0.19 waiting for the peer, 0.25 for room, 0.31 matching, "
        "0.38 writing"
    )
    assert lines[lines.index(line) - 1].startswith("    took     1.50 s, ")
    assert all(len(each) <= 120 for each in lines)


def test_both_forms_tell_how_many_items_a_peer_may_have_asked_about() -> None:
    """With its padding: more than it has, once a task has several bins."""
    report = a_report()
    report.close(2.0)
    assert "    peer     7 distinct items" in to_text(report).splitlines()
    task = report.tasks[0]
    task.peer_items, task.peer_questions, task.bins = 1_000_000, 1_033_216, 8
    assert "    peer     1,000,000 distinct items, 1,033,216 with padding" in to_text(report).splitlines()
    told = json.loads(to_json(report, report.error))["tasks"]
    assert [[each[name] for name in ("peer_items", "peer_questions", "bins")] for each in told] == [
        [1_000_000, 1_033_216, 8],
        [None, None, None],
    ]


def test_text_tells_of_disk_only_where_it_was_needed() -> None:
    report = a_report(spool_bytes=12_345_000_000)
    report.close(2.0)
    assert to_text(report).splitlines()[0].endswith("native avx2 backend, 12,345 MB of disk")


def test_a_refusal_has_the_same_keys() -> None:
    report = a_report()
    report.fail(error := MalformedInputError(place="in.csv", fault="the file is empty", advice=""))
    report.close(2.0)
    blank = json.loads(to_json(None, error))
    assert set(blank) == set(json.loads(to_json(report, report.error)))
    assert [blank[name] for name in ("peak_memory", "spool_bytes", "tasks")] == [None, None, []]


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([("alice", False)], "bob will learn how many distinct items we have, and nothing else"),
        ([("alice", False)] * 3, "bob will learn how many distinct items we have in each of 3 tasks, and nothing else"),
        (
            [("bob", False)],
            "bob will learn how many distinct items we have and which of its own items we have too, and nothing else",
        ),
        (
            [("alice", True), ("bob", True)],
            "bob will learn how many distinct items we have in each of 2 tasks and which of its own items we have too, "
            "and nothing else",
        ),
        (
            [("alice", False), ("bob", False), ("alice", True)],
            "bob will learn how many distinct items we have in each of 3 tasks, in 2 of them (t1, t2) also which of "
            "its own items we have too, and nothing else",
        ),
        (
            [("alice", False), *[("bob", False)] * 9],
            "bob will learn how many distinct items we have in each of 10 tasks, in 9 of them (t1, t2, t3, t4, t5, …) "
            "also which of its own items we have too, and nothing else",
        ),
    ],
)
def test_what_the_peer_learns_of_a_job(tasks: list[tuple[str, bool]], sentence: str) -> None:
    reports = [TaskReport(f"t{number}", *terms) for number, terms in enumerate(tasks)]
    assert what_the_peer_learns(Report("nightly", "alice", "bob", "0.1.0", "native avx2", reports)) == sentence


@pytest.mark.parametrize("status", [Status.RUNNING, Status.FAILED])
def test_what_runs_when_the_run_ends_has_failed(status: Status) -> None:
    report = a_report()
    report.tasks[1].status = status
    report.close(2.0)
    assert [task.status for task in report.tasks] == [Status.DONE, Status.FAILED]
    assert report.exit_code == 70
