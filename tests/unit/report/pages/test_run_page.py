"""The page of a run and of a simulation, made from the facts of reports of every kind."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from support.monitoring.pages import HOSTILE, Page, done_task, facts, sent_task

from psicli.core.errors import BadInputError, CannotCreateError, DurationError, OwnSizeError, PsicliError
from psicli.core.peer_errors import PeerSkippedError
from psicli.report.pages.run import run_page, simulation_page
from psicli.report.report import Status, TaskReport, facts_of, without_numbers

BAD = BadInputError(place="in.csv:3", fault="this row has 3 fields instead of 2", advice="Correct it.")


def text_of(*tasks: TaskReport, **changes: Any) -> str:
    return Page(run_page(facts(*tasks, **changes))).text


def test_the_verdict_comes_first() -> None:
    text = text_of(done_task(), sent_task("others"), peak_memory=177_000_000)
    assert (
        "Done alice with bob, began 2026-11-29 02:00:00 UTC and took 4.00 s. matched rows 321 tasks done 2 of 2" in text
    )
    assert "177.0 MB" in text


def test_a_failure_says_why_and_what_to_do_once() -> None:
    error = CannotCreateError(path="out/x.csv", reason="the disk is read-only")
    failed = [TaskReport(name, "alice", False, status=Status.FAILED, error=error) for name in ("a", "b")]
    text = text_of(*failed, error=error)
    assert "Failed: cannot create, 73" in text
    assert text.count("the disk is read-only") == 1
    assert text.count("What to do:") == 1
    assert "0 of 2" in text


def test_a_task_that_was_skipped_leaves_the_others() -> None:
    error = PeerSkippedError(task="b", failure_class=65, reason="bad input")
    text = text_of(done_task("a"), TaskReport("b", "alice", False, status=Status.FAILED, error=error), error=error)
    assert "1 of 2" in text
    assert "could not take part in task b" in text


def test_a_run_that_never_began() -> None:
    page = run_page(facts_of(None, BAD))
    text = Page(page).text
    assert "Failed: bad input, 65" in text
    assert "in.csv:3: this row has 3 fields instead of 2" in text
    assert "before any task began" in text
    for heading in ("Tasks", "learned", "Where the time went", "Memory"):
        assert heading not in text
    assert "overlap: Failed: bad input, 65" in Page(run_page({**facts_of(None, BAD), "job": "overlap"})).text


def test_a_message_of_several_lines_keeps_them() -> None:
    broken = facts_of(None, BAD)
    broken["error"]["message"] = "the two job files disagree:\n  task   here   there"
    page = run_page(broken)
    assert "the two job files disagree:\n  task   here   there\n" in page


def test_nothing_foreign_gets_out_of_its_place() -> None:
    error = BadInputError(place=HOSTILE, fault=HOSTILE, advice=HOSTILE)
    task = done_task(
        HOSTILE, receiver=HOSTILE, output=HOSTILE, key_columns=[HOSTILE], warning=HOSTILE, warnings=[HOSTILE],
        task_sid=HOSTILE, output_sha256=HOSTILE, error=error, status=Status.FAILED,
        drift=[{"measure": HOSTILE, "value": 1, "usual": 2, "low": 1, "high": 3, "distance": 4}],
        stages={"reading": 1.0, HOSTILE: 2.0}, timeline=[(HOSTILE, 0.0, 1.0), ("reading", 0.0, 1.0)],
    )  # fmt: skip
    report = facts(task, error=error, warnings=[HOSTILE])
    for name in ("job", "party", "peer", "peer_version", "version", "backend", "session_id", "started", "ledger_head"):
        report[name] = HOSTILE
    report["nodes"] = [{"node": HOSTILE, "bins": 1, "seconds": 1.0, "points": 5, "redone": 0}]
    for page in (run_page(report), simulation_page({HOSTILE: report, "bob": None})):
        found = Page(page)
        assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe"})
        assert sum(tag == "script" for tag, _ in found.elements) == 1
        assert not {"\u202e", "\x00"} & {*page}
        assert "<script>alert(1)</script>\"'><img src=https://evil.example/x>" in found.text


def test_every_fact_may_be_unknown() -> None:
    """A report of an earlier version, or of a run that ended early, has nulls and lacks keys."""
    report = facts(TaskReport("people", "alice", False), done_task("b", timeline=None, peer_questions=None))
    for name in ("run", "started", "certificate_expires", "peer_certificate_expires"):
        del report[name]
        run_page({**report, "started": None})
    text = Page(run_page({**report, "started": None, "peak_memory": None, "spool_bytes": None})).text
    assert "not started" in text


def test_a_party_that_learns_nothing_has_no_number_that_depends_on_it() -> None:
    text = text_of(sent_task())
    assert "only bob learns it" in text
    assert "matched rows" not in text
    assert "Nothing about what matched." in text


def test_whole_percent_shows_no_number() -> None:
    hidden = without_numbers({"matched": 123, "matched_rows": 321, "output_rows": 321})
    page = run_page(facts(done_task(**hidden)))
    body = page[page.index("<body>") :]
    assert "321" not in body
    assert "123" not in body
    assert 'data-value="0.12"' in page
    assert "12.3" not in page
    assert "in whole percent only" in Page(page).text


def test_a_count_says_that_the_items_stay_hidden() -> None:
    task = done_task(result="count", matched_rows=None, output_rows=None, output_holds=None, output=None)
    text = text_of(task)
    assert "123 items, not rows" in text
    assert "How many of its own items bob also has, but not which ones." in text
    assert "Which of its own items" not in text


def test_the_protocol_of_each_task() -> None:
    """Only what is younger than ecdh is worth a sentence; a report of an older version names none."""
    sentence = "used the protocol rr22, which is younger than ecdh and assumes more."
    assert f"The task {sentence}" in text_of(done_task(protocol="rr22"))
    assert sentence not in text_of(done_task())
    mixed = text_of(done_task("old"), done_task("new", protocol="rr22"))
    assert f"1 task (new) {sentence}" in mixed
    table = mixed[mixed.index("Keys, ids and digests") :]
    assert table.index("Protocol") < table.index("ecdh") < table.index("rr22")


def test_what_each_party_learned() -> None:
    tasks = [done_task("both", broadcast_result=True), sent_task("theirs"), done_task("ours")]
    text = text_of(*tasks)
    own, peers = text.split("alice learned ")[1].split("bob learned ", 1)
    assert "How many distinct items bob has, in each of 3 tasks." in own
    assert "Which of its own items bob also has, in 2 tasks: both, ours." in own
    assert "Nothing about what matched, in 1 task: theirs." in own
    assert "Which of its own items alice also has, in 2 tasks: both, theirs." in peers
    assert "Nothing about what matched, in 1 task: ours." in peers


def test_what_was_learned_before_the_end() -> None:
    """A party states its number before it knows the other one."""
    begun = TaskReport("people", "alice", False, status=Status.FAILED, rows=9, distinct_items=8, matchless_rows=0)
    text = text_of(begun, error=BAD)
    own, peers = text.split("alice learned ")[1].split("bob learned ", 1)
    assert own.startswith("Nothing.")
    assert peers.startswith("It may have learned how many distinct items alice has. Nothing about what matched.")
    assert "About people, the parties learned this at most." in text
    assert "learned" not in text_of(TaskReport("people", "alice", False), error=BAD)


def refused(name: str, task: str, error: type[PsicliError] = OwnSizeError) -> TaskReport:
    """Return a task that failed before its peer's number came; task: the one that the error is about."""
    why = error(task=task, items="8 distinct items", limit=100) if error is OwnSizeError else error(limit="2 h")
    why.facts["peer"] = "bob"
    return TaskReport(name, "alice", False, status=Status.FAILED, rows=9, distinct_items=8, error=why)


def test_a_task_that_its_own_limit_refused_told_nobody_anything() -> None:
    """Such limits come before a party states its number."""
    text = text_of(refused("people", "people"), error=refused("people", "people").error)
    own, peers = text.split("alice learned ")[1].split("bob learned ", 1)
    assert own.startswith("Nothing.")
    assert peers.startswith("Nothing. alice refused the task before it told bob how many distinct items it has.")
    assert "the parties learned this at most" not in text
    # Other tasks may have come further.
    text = text_of(done_task("a"), refused("b", "b"))
    own, peers = text.split("alice learned ")[1].split("bob learned ", 1)
    assert "How many distinct items bob has, in 1 task: a." in own
    assert peers.startswith(
        "How many distinct items alice has, in 1 task: a. Nothing about what matched, in 1 task: a."
    )
    assert "alice refused 1 task (b) before it told bob" in peers


@pytest.mark.parametrize("task", [refused("people", "others"), refused("people", "", DurationError)])
def test_the_end_of_the_run_does_not_tell_what_a_task_had_said(task: TaskReport) -> None:
    """The limit of another task ended it, or the time was over: the number may have left."""
    peers = text_of(task, error=task.error).split("bob learned ")[1]
    assert peers.startswith("It may have learned how many distinct items alice has.")
    assert "before it told" not in peers


def test_a_good_run_with_warnings_says_so_first() -> None:
    task = done_task(warnings=["one", "two"], warning="three")
    page = Page(run_page(facts(task, warnings=["four"])))
    assert "overlap: Done, with 4 warnings" in page.text
    assert ("section", {"class": "verdict warn"}) in page.elements
    assert ("section", {"class": "verdict good"}) in Page(run_page(facts(done_task()))).elements


def test_what_the_user_accepted() -> None:
    drift = [{"measure": "rows", "value": 600, "usual": 1200, "low": 1100, "high": 1300, "distance": 6.0}]
    report = facts(done_task(drift=drift))
    assert "accepted" not in Page(run_page(report)).text
    report["tasks"][0]["drift_accepted"] = ["rows", "distinct_items"]
    assert "alice accepted with --accept-drift: rows, distinct items of people." in Page(run_page(report)).text


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("waiting_for_peer", "nothing had arrived: bob, or the network from there, was slower"),
        ("waiting_for_room", "sending was blocked: the network to bob, or bob itself"),
    ],
)
def test_whose_fault_the_waiting_was(stage: str, words: str) -> None:
    stages = {**done_task().stages, stage: 2.0}  # type: ignore[dict-item]
    waited = [(stage, 0.5, 1.5), (stage, 1.0, 2.5)]
    text = text_of(done_task(stages=stages, timeline=[["reading", 0.4, 0.5], *waited]), done_task("b", timeline=waited))
    assert words in text
    # Two tasks that waited at the same time have not waited twice as long.
    assert "For 2.00 s, tasks" in text
    assert "The first task began 0.40 s after the start." in text
    assert "Nobody was waited for" in text_of(done_task())
    # A report of an earlier version does not know when.
    assert words in text_of(done_task(stages=stages, timeline=None))


def test_what_an_output_holds() -> None:
    text = text_of(
        done_task("a", output_holds="unmatched", output_rows=879),
        done_task("b", output_holds="all", output_rows=1200),
        done_task("c", output="-"),
    )
    assert "879 unmatched rows" in text
    assert "1,200 rows, with a flag" in text
    assert "standard output" in text


def test_what_is_outside_its_usual_range() -> None:
    drift = [
        {"measure": "rows", "value": 600, "usual": 1200, "low": 1100, "high": 1300, "distance": 6.0},
        {"measure": "rate", "value": 0.123, "usual": 0.5, "low": 0.4, "high": 0.6, "distance": 3.77},
    ]
    text = text_of(done_task(drift=drift))
    assert "people rows 600 1,200 1,100 1,300 people rate 12.3 % 50.0 % 40.0 % 60.0 %" in text
    hidden = without_numbers({"matched": 123, "matched_rows": 321, "output_rows": 321})
    assert "people rate 12 % 50 % 40 % 60 %" in text_of(done_task(**hidden, drift=[{**drift[1], "value": 0.12}]))


def test_a_simulation_shows_both_parties() -> None:
    parties = {"alice": facts(done_task()), "bob": facts(sent_task(), party="bob", peer="alice")}
    page = Page(simulation_page(parties))
    assert "This is a simulation" in page.text
    assert page.text.count("What each party learned") == 1
    places = [each["id"] for _, each in page.elements if "id" in each]
    assert len(places) == len({*places})
    assert "bob left no report." in Page(simulation_page({"alice": parties["alice"], "bob": None})).text
    assert "left no report" in Page(simulation_page({"alice": None, "bob": None})).text


def test_a_page_of_a_hundred_tasks_is_small() -> None:
    chance = random.Random(1)

    def timeline() -> list[tuple[str, float, float]]:
        begins = sorted(chance.uniform(0, 900) for _ in range(100))
        stages = ("computing", "waiting_for_peer", "waiting_for_room", "reading", "matching", "writing")
        return [(chance.choice(stages), begin, begin + chance.uniform(0.01, 0.5)) for begin in begins]

    tasks = [
        done_task(f"task-of-a-partner-{at}", timeline=timeline(), output=f"/srv/exports/nightly/partner-{at}/out.csv",
                  warnings=["only 92 distinct keys in 24,951 rows. Is 'dest' the right key column?"])
        for at in range(100)
    ]  # fmt: skip
    page = run_page(json.loads(json.dumps(facts(*tasks, seconds=900.0))))
    assert len(page.encode()) < 400_000
    assert sum(tag == "svg" and each.get("class") == "lane" for tag, each in Page(page).elements) == 100
