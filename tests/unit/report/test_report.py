"""The report of a run, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click import unstyle

from psicli.core.errors import InputMissingError, MalformedInputError
from psicli.core.peer_errors import PeerGoneError, PsicliError, skip_of_peer
from psicli.core.stages import Stage
from psicli.report.layout import PLAIN, Screen
from psicli.report.report import (
    NodeReport,
    Report,
    Status,
    TaskReport,
    facts_of,
    to_json,
    too_little_matched,
    what_the_peer_learns,
    whole_percent,
    without_numbers,
)
from psicli.report.summary import to_text

STAGES = {stage.value: 0.0625 * number + 0.00049 for number, stage in enumerate(Stage, 1)}


def a_report(**facts: Any) -> Report:
    counts = {"rows": 10, "distinct_items": 9, "matchless_rows": 1, "matched": 3, "matched_rows": 4, "output_rows": 4}
    peer = {"peer_items": 7, "peer_questions": 7, "bins": 1}
    took = {"seconds": 1.5, "bytes_sent": 640, "bytes_received": 960, "stages": STAGES}
    done = TaskReport("customers", "alice", False, Status.DONE, **counts, **peer, output="out.csv", **took)  # type: ignore[arg-type]
    waiting = TaskReport("planes", "bob", False)
    return Report("nightly", "alice", "bob", "0.1.0", "native avx2", [done, waiting], **facts)


def test_the_protocol_of_a_task_is_in_all_forms() -> None:
    report = a_report()
    report.tasks[0].protocol = "rr22"
    assert [task["protocol"] for task in json.loads(to_json(report, None))["tasks"]] == ["rr22", "ecdh"]
    assert "  protocol  rr22" in text_of(report, details=True)


def test_json_has_the_time_of_each_stage_and_the_memory() -> None:
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


def text_of(report: Report, screen: Screen = PLAIN, **how: bool) -> list[str]:
    return to_text(facts_of(report, report.error), screen, **how).splitlines()


def test_text_has_a_line_for_each_task_with_the_matched_rows_first() -> None:
    report = a_report()
    report.tasks[1] = TaskReport("planes", "bob", False, Status.DONE, rows=1200)
    report.close(2.0, 231_400_000)
    assert text_of(report) == [
        "nightly: alice with bob, done in 2.0 s",
        "",
        "task       matched rows  own rows  status       output",
        "customers             4        10  done         out.csv",
        "planes                -     1,200  done         none (bob receives the result)",
        "total                 4            2 of 2 done",
    ]


def test_text_of_a_failed_run_shows_what_failed_and_what_was_not_started() -> None:
    report = a_report()
    report.tasks.insert(1, TaskReport("airports", "alice", False, Status.RUNNING, rows=5))
    report.warnings.append("the certificate expires soon")
    report.fail(MalformedInputError(place="in.csv:3", fault="the row has 1 field, the header 2", advice="Quote it."))
    report.close(2.0)
    head = [
        "nightly: alice with bob, failed after 2.0 s, exit code 65",
        "",
        "task       matched rows  own rows  status       output",
        "customers             4        10  done         out.csv",
        "airports              -         5  failed",
        "planes                -         -  not started",
        "total                 4            1 of 3 done",
    ]
    causes = [
        "",
        "warning: the certificate expires soon",
        "error: in.csv:3: the row has 1 field, the header 2",
        "hint: Quote it.",
    ]
    assert text_of(report) == head + causes
    # Where the log has just shown them.
    assert text_of(report, warnings=False, error=False) == head


def test_text_has_details_on_request() -> None:
    report = a_report(spool_bytes=12_345_000_000)
    report.tasks[0].peer_items, report.tasks[0].peer_questions, report.tasks[0].bins = 1_000_000, 1_033_216, 8
    report.tasks[0].resumed = 0.25
    report.close(2.0, 231_400_000)
    assert text_of(report, details=True)[6:] == [
        "",
        "customers",
        "  read      10 rows, 9 distinct items, 1 row without a key",
        "  peer      1,000,000 distinct items, can ask about 1,033,216",
        "  matched   3 distinct items",
        "  protocol  ecdh",
        "  bins      8",
        "  resumed   an earlier run had done 25 %",
        "  took      1.50 s, 640 bytes sent, 960 bytes received",
        "  stages    reading 0.06 s, computing 0.12 s, waiting for peer 0.19 s, waiting for room 0.25 s, "
        "matching 0.31 s, writing 0.38 s",
        "",
        "psicli 0.1.0, native avx2 backend, 231.4 MB of memory, 12.3 GB of disk space",
    ]


def test_a_run_on_a_cluster_has_a_line_for_each_node() -> None:
    report = a_report()
    report.close(2.0)
    without = text_of(report)
    assert json.loads(to_json(report, None))["nodes"] == []
    report.nodes = [
        NodeReport("crunch-1 (10.0.0.11)", bins=5, seconds=14.25, points=4_123_456),
        NodeReport("crunch-2 (10.0.0.12)", redone=2),
    ]
    assert text_of(report) == [
        *without,
        "",
        "node                  bins  redone  seconds  items/s",
        "crunch-1 (10.0.0.11)     5       0     14.2  289,365",
        "crunch-2 (10.0.0.12)     0       2      0.0        -",
    ]
    assert json.loads(to_json(report, None))["nodes"] == [
        {"node": "crunch-1 (10.0.0.11)", "bins": 5, "seconds": 14.25, "points": 4_123_456, "redone": 0},
        {"node": "crunch-2 (10.0.0.12)", "bins": 0, "seconds": 0.0, "points": 0, "redone": 2},
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_fits_the_screen_and_its_words_stay_whole(width: int) -> None:
    report = a_report()
    report.tasks[0].output = "/srv/data/nightly-exports/2026-11-29/output/customers-that-matched.csv"
    report.tasks[0].warning = "the two parties' inputs have nothing in common, which is not usual for a nightly job"
    report.close(2.0, 231_400_000)
    lines = text_of(report, Screen(width), details=True)
    assert all(len(line) <= width for line in lines)
    words = set(" ".join(text_of(report, details=True)).replace("/", " ").split())
    assert width < 80 or {word for line in lines for word in line.replace("/", " ").split()} <= words


@pytest.mark.parametrize("width", range(20, 121))
@pytest.mark.parametrize("failed", [False, True])
def test_the_verdict_appears_once_at_any_width(width: int, failed: bool) -> None:
    report = a_report()
    if failed:
        report.fail(MalformedInputError(place="in.csv", fault="the file is empty", advice=""))
    report.close(12.3)
    verdict = "failed after 12.3 s, exit code 65" if failed else "done in 12.3 s"
    head = " ".join(" ".join(text_of(report, Screen(width))).split())
    assert head.startswith(f"nightly: alice with bob, {verdict} task ")
    coloured = "\n".join(text_of(report, Screen(width, colour=True)))
    assert " ".join(unstyle(coloured).split()) == head


def test_colours_are_for_a_terminal() -> None:
    report = a_report()
    report.close(2.0)
    head, *_, done, waiting, _ = text_of(report, Screen(80, colour=True))
    assert head == "nightly: alice with bob, \x1b[32mdone in 2.0 s\x1b[0m"
    assert "  \x1b[32mdone\x1b[0m         out.csv" in done
    assert waiting.endswith("  \x1b[33mnot started\x1b[0m")
    assert "\x1b" not in "".join(text_of(report, Screen(80)))


def test_json_has_the_number_of_items_with_and_without_padding() -> None:
    report = a_report()
    task = report.tasks[0]
    task.peer_items, task.peer_questions, task.bins = 1_000_000, 1_033_216, 8
    told = json.loads(to_json(report, report.error))["tasks"]
    assert [[each[name] for name in ("peer_items", "peer_questions", "bins")] for each in told] == [
        [1_000_000, 1_033_216, 8],
        [None, None, None],
    ]


def test_a_refusal_has_the_same_keys() -> None:
    report = a_report()
    report.fail(error := MalformedInputError(place="in.csv", fault="the file is empty", advice=""))
    report.close(2.0)
    blank = json.loads(to_json(None, error))
    assert set(blank) == set(json.loads(to_json(report, report.error)))
    assert [blank[name] for name in ("peak_memory", "spool_bytes", "tasks")] == [None, None, []]


@pytest.mark.parametrize(
    ("tasks", "learns"),
    [
        ([("alice", False)], "how many distinct items alice has"),
        ([("alice", False)] * 3, "how many distinct items alice has in each of 3 tasks"),
        ([("bob", False)], "how many distinct items alice has and which of its own items alice also has"),
        (
            [("alice", True), ("bob", True)],
            "how many distinct items alice has in each of 2 tasks and which of its own items alice also has",
        ),
        (
            [("alice", False), ("bob", False), ("alice", True)],
            "how many distinct items alice has in each of 3 tasks, and in 2 of them (t1, t2) which of its own items "
            "alice also has",
        ),
        (
            [("alice", False), *[("bob", False)] * 9],
            "how many distinct items alice has in each of 10 tasks, and in 9 of them (t1, t2, t3, t4, t5, …) which of "
            "its own items alice also has",
        ),
    ],
)
def test_what_the_peer_learns_of_a_job(tasks: list[tuple[str, bool]], learns: str) -> None:
    reports = [TaskReport(f"t{number}", *terms) for number, terms in enumerate(tasks)]
    report = Report("nightly", "alice", "bob", "0.1.0", "native avx2", reports)
    assert what_the_peer_learns(report) == f"bob will learn {learns}, and nothing else"


@pytest.mark.parametrize("status", [Status.RUNNING, Status.FAILED])
def test_a_task_that_still_runs_when_the_run_ends_has_failed(status: Status) -> None:
    report = a_report()
    report.tasks[1].status = status
    report.close(2.0)
    assert [task.status for task in report.tasks] == [Status.DONE, Status.FAILED]
    assert report.exit_code == 70


def test_warnings_about_a_task_are_in_both_forms() -> None:
    report = a_report()
    report.tasks[0].warnings.append("'id': 3 of 10 rows have spaces around the key")
    report.tasks[0].warning = "the connection broke"
    report.close(2.0)
    assert json.loads(to_json(report, None))["tasks"][0]["warnings"] == report.tasks[0].warnings
    own, end = (f"warning: customers: {each}" for each in (report.tasks[0].warnings[0], report.tasks[0].warning))
    assert text_of(report)[-2:] == [own, end]
    # Where the log has just shown the first.
    assert text_of(report, warnings=False)[-2:] == ["", end]


def of_matches(matched: int | None, own: int = 10_000, theirs: int = 20_000, **facts: Any) -> TaskReport:
    """Return the report of a task with these numbers of distinct items."""
    counts = {"matched": matched, "distinct_items": own, "peer_items": theirs}
    return replace(a_report().tasks[0], key_columns=["'id' (int64, compared as text like 517)"], **counts, **facts)


def test_an_empty_intersection_says_what_to_look_at() -> None:
    task = of_matches(0)
    causes = ["'id' holds whole numbers: agree on key_form: [integer]"]
    told = too_little_matched(task, "bob", causes) or ""
    assert told.startswith("no key matched. psicli compares keys as text")
    assert (
        "here: 'id' (int64, compared as text like 517). Likely causes: (1) 'id' holds whole numbers: agree on" in told
    )
    assert "Ask bob what its key columns mean and in which order, and whether they hold plain values or hashes." in told
    assert "`psicli keys`" in told
    assert "other warnings" not in told
    assert "Likely" not in (too_little_matched(task, "bob", []) or "")
    task.warnings.append("'day': all 10 rows have a date that is not in the form which psicli gives to dates")
    task.key_columns = ["'id' (int64, compared as text like 517)", "'day' (string, dates)"]
    told = too_little_matched(task, "bob", causes) or ""
    assert (
        "here: 'id' (int64, compared as text like 517), then 'day' (string, dates). Follow the other warnings" in told
    )
    assert "; (2) bob lists its key columns in another order." in told
    assert (too_little_matched(of_matches(0, theirs=0), "bob", causes) or "").startswith(
        "no key matched, because bob has no keys"
    )
    assert too_little_matched(of_matches(0, own=0), "bob", causes) is None


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (
            (99, 10_000, 20_000),
            "only 99 distinct keys of 10,000 matched, and bob has 20,000. This may be right. If you",
        ),
        ((2, 1_000_000, 101), ""),
        ((1, 1_000_000, 1000), "only 1 distinct key of 1,000,000 matched, and bob has 1,000. This may be right."),
        ((100, 10_000, 20_000), ""),
        ((1, 99, 20_000), ""),
        # A sender that learns nothing is told nothing.
        ((None, 10_000, 20_000), ""),
    ],
)
def test_very_few_matches_are_worth_a_hint(counts: tuple[int | None, int, int], told: str) -> None:
    hint = too_little_matched(of_matches(*counts), "bob", ["'id' holds whole numbers"])
    assert (hint or "").startswith(told)
    assert bool(hint) == bool(told)
    assert hint is None or "Likely causes: (1) 'id' holds whole numbers." in hint


GONE = PeerGoneError(reason="it was killed")
MISSING = InputMissingError(place="in.csv", fault="no such file", advice="Check input_path.")
BAD_ROW = MalformedInputError(place="in.csv:3", fault="the row has 1 field", advice="Check the row.")
SKIPS = [skip_of_peer(task, 66, keep_going=True) for task in ("customers", "planes")]


@pytest.mark.parametrize(
    ("errors", "counts"),
    [
        ([MISSING, BAD_ROW], MISSING),
        ([*SKIPS], SKIPS[0]),
        ([SKIPS[0], BAD_ROW, MISSING], BAD_ROW),
        ([BAD_ROW, SKIPS[0], GONE], BAD_ROW),
        ([SKIPS[0], GONE], GONE),
        ([skip_of_peer("planes", 65, keep_going=False), GONE], None),
    ],
)
def test_which_error_counts(errors: list[PsicliError], counts: PsicliError | None) -> None:
    """The first one counts, but one that this party can correct counts before a task that only the peer skipped."""
    report = a_report()
    for error in errors:
        report.fail(error)
    assert report.error is (counts or errors[0])


def test_a_report_of_skipped_tasks_names_each_error_once() -> None:
    report = a_report()
    report.tasks += [TaskReport(name, "bob", False) for name in ("trains", "ships", "cars")]
    for task, error in zip(report.tasks[:3], (BAD_ROW, *SKIPS), strict=True):
        report.fail(error)
        task.fail(error)
    report.tasks[3].status = Status.RUNNING
    report.end(GONE)
    report.close(2.0)
    told = json.loads(to_json(report, report.error))
    assert (told["exit_code"], told["error"]["class"]) == (65, "MalformedInputError")
    assert [each["status"] for each in told["tasks"]] == ["failed"] * 4 + ["not started"]
    assert told["error"] == told["tasks"][0]["error"]
    assert [each["error"] and (each["error"]["code"], each["error"]["party"]) for each in told["tasks"]] == [
        (65, "alice"), (80, "bob"), (80, "bob"), (69, "bob"), None,
    ]  # fmt: skip
    reason = "exit code 66: an input file or one of its key columns does not exist"
    assert text_of(report)[-8:] == [
        "",
        "error: in.csv:3: the row has 1 field",
        "hint: Check the row.",
        f"error: bob could not take part in task customers ({reason})",
        f"error: bob could not take part in task planes ({reason})",
        "hint: Ask bob for the details in its log; nothing needs to be fixed on this side.",
        "error: bob disconnected before the session was complete: it was killed",
        "hint: Ask bob for the reason in its log, then run again.",
    ]


def test_the_reason_of_an_early_end_is_told_even_between_two_tasks() -> None:
    for first, shows in ((BAD_ROW, True), (None, False)):
        report = a_report()
        if first is not None:
            report.fail(first)
        report.end(GONE)
        report.close(2.0)
        assert report.tasks[1].error is (GONE if shows else None)
        assert [line for line in text_of(report) if "it was killed" in line] != []


def test_text_says_what_an_output_of_other_rows_holds() -> None:
    report = a_report()
    report.tasks[0].output_holds, report.tasks[0].output_rows = "unmatched", 6
    every = replace(report.tasks[0], name="all", output_holds="all", output_rows=10, warnings=[])
    report.tasks.append(every)
    report.close(2.0)
    assert text_of(report)[-2:] == [
        "customers: 4 of 10 rows matched; 6 unmatched rows written",
        "all: 4 of 10 rows matched; all 10 rows written",
    ]


@pytest.mark.parametrize(
    ("part", "whole", "percent"),
    [
        (0, 0, 0),
        (0, 9, 0),
        (1, 201, 0),
        (1, 200, 1),
        (3, 200, 2),
        (5, 200, 3),
        (1, 3, 33),
        (199, 200, 100),
        (9, 9, 100),
    ],
)
def test_whole_percent_rounds_a_half_up(part: int, whole: int, percent: int) -> None:
    assert whole_percent(part, whole) == percent


def test_a_result_in_whole_percent_has_no_numbers() -> None:
    report = a_report()
    exact = {name: getattr(report.tasks[0], name) for name in ("matched", "matched_rows", "output_rows", "output")}
    told = without_numbers({**exact, "matched_percent": 33})
    for name, value in told.items():
        setattr(report.tasks[0], name, value)
    report.tasks[0].output_holds = "unmatched"
    report.close(2.0)
    text = text_of(report, details=True)
    assert text[3] == "customers          33 %        10  done         out.csv"
    assert "  matched   33 % of the distinct items" in text
    assert text[-1] == "customers: 33 % of the distinct items matched; all unmatched rows written"
    facts = facts_of(report, None)["tasks"][0]
    numbers = ("matched", "matched_rows", "output_rows", "matched_percent")
    assert [facts[name] for name in numbers] == [None, None, None, 33]


def test_a_hint_in_whole_percent_depends_on_the_rounded_share_alone() -> None:
    def hint(percent: int, own: int, theirs: int) -> str | None:
        facts = {"matched_percent": percent, "distinct_items": own, "peer_items": theirs}
        return too_little_matched(TaskReport("t", "alice", False, **facts), "bob", [])  # type: ignore[arg-type]

    few = "0 % of 1,000 distinct keys matched, in whole percent, and bob has 900."
    assert (hint(0, 1000, 900) or "").startswith(few)
    assert hint(1, 1000, 900) is None
    # So few items of the other party can never be a percent.
    assert hint(0, 1000, 9) is None
    assert (hint(0, 1000, 0) or "").startswith("no key matched, because bob has no keys.")
