"""The page of a batch."""

from __future__ import annotations

import json
from typing import Any

from support.monitoring.pages import HOSTILE, Page, done_task, facts, sent_task

from psicli.core.errors import BadInputError, PsicliError
from psicli.core.peer_errors import PeerSilentError
from psicli.report.batch import BatchReport, JobState, State
from psicli.report.batch.summary import facts_of, not_begun
from psicli.report.pages.batch import batch_page

BAD = BadInputError(place="in.csv:3", fault="this row has 3 fields instead of 2", advice="Correct it.")


def done(name: str, peer: str = "bob", **changes: Any) -> JobState:
    known: dict[str, Any] = {
        "state": State.DONE, "starts": 1, "first_started": 1.0, "ended": 9.0, "seconds": 8.0, "waited": 2.0,
        "exit_code": 0, "report": facts(done_task()),
    }  # fmt: skip
    return JobState(name, peer, f"{name}.yaml", 1, **known | changes)


def failed(name: str, error: PsicliError, peer: str = "bob") -> JobState:
    report = facts(sent_task(), error=error)
    error.facts["peer"] = peer
    report["error"]["message"], report["error"]["hint"] = error.message, error.advice
    return done(name, peer, state=State.FAILED, exit_code=error.code, report=report)


def page_of(*jobs: JobState, earlier: Any = (), **changes: Any) -> Page:
    code = next((job.exit_code for job in jobs if job.exit_code), 0)
    report = BatchReport("nightly", [*jobs], "2026-11-29T02:00:00+00:00", code, seconds=10.0)
    for name, value in changes.items():
        setattr(report, name, value)
    return Page(batch_page(json.loads(json.dumps(facts_of(report))), earlier))


def test_a_batch_that_is_done() -> None:
    page = page_of(done("a"), done("b"), most_jobs=2, cores=4.0, computed=12.0, peak_memory=10**9, memory=8 * 10**9)
    assert "2 of 2 jobs done The batch began 2026-11-29 02:00:00 UTC and took 10.0 s. matched rows 642" in page.text
    assert "1.2 of 4" in page.text
    assert "1.0 GB of 8.0 GB" in page.text
    assert "What went wrong" not in page.text
    assert page.text.count("What each party learned") == 2
    lanes = [each["aria-label"] for tag, each in page.elements if tag == "svg" and "flat" in (each.get("class") or "")]
    assert lanes == [f"{name}, done: from 1.00 s to 9.00 s after the start" for name in "ab"]


def test_failures_of_one_kind_have_one_hint() -> None:
    silent = [failed(name, PeerSilentError(seconds=30), peer) for name, peer in (("a", "carol"), ("b", "dave"))]
    stopped = done("d", state=State.NOT_RUN, why="the batch was stopped before", report=None, starts=0, ended=None)
    text = page_of(*silent, failed("c", BAD), stopped).text
    wrong = text.split("What went wrong ")[1].split(" Jobs ")[0]
    assert wrong.count("What to do:") == 2
    assert "a: carol sent nothing for 30 s b: dave sent nothing for 30 s What to do:" in wrong
    hint = wrong.split("What to do: ")[1].split(" c: ")[0]
    assert "carol" not in hint
    assert "dave" not in hint
    assert "c: in.csv:3: this row has 3 fields instead of 2 What to do: Correct it." in wrong
    assert "d: the batch was stopped before" in wrong
    assert "0 of 4 jobs done" in text
    assert "failed 3 not run 1" in text
    # A single failure names its peer.
    assert "carol" in page_of(silent[0]).text.split("What to do: ")[1].split(" Jobs ")[0]


def test_a_job_that_the_batch_has_stopped_has_no_hint_of_an_earlier_attempt() -> None:
    job = failed("a", BAD)
    job.why = "the batch reached its deadline"
    wrong = page_of(job).text.split("What went wrong ")[1].split(" Jobs ")[0]
    assert wrong == "a: the batch reached its deadline"


def test_a_batch_that_never_began() -> None:
    text = Page(batch_page(facts_of(not_begun(BAD)))).text
    assert "Failed before the start: bad input, 65" in text
    assert "in.csv:3: this row has 3 fields instead of 2 What to do: Correct it." in text


def test_a_batch_that_was_stopped_says_why() -> None:
    error = {"class": "HookError", "code": 69, "message": "the hook failed", "hint": "Repair it."}
    waiting = JobState("a", "bob", "a.yaml", 1, state=State.NOT_RUN, why="a hook failed")
    text = page_of(waiting, error=error, exit_code=69).text
    assert "the hook failed What to do: Repair it." in text
    assert "0 of 1 job done" in text


def test_a_batch_that_goes_on_counts_what_was_done_before() -> None:
    before = {"peer": "bob", "tasks": 3, "exit_code": None, "why": ""}
    earlier = [{**before, "name": "x", "state": "done"}, {**before, "name": "y", "state": "failed", "why": "it broke"}]
    text = page_of(done("a"), earlier=earlier).text
    assert "2 of 3 jobs done" in text
    assert "It continued an earlier run, which had done 1 job." in text
    assert "in an earlier run; it broke" in text
    assert "matched rows in this run 321" in text
    assert "The jobs that an earlier run has done are in the report of that run" in text
    assert "earlier run" not in page_of(done("a")).text


def test_what_it_gained_to_run_jobs_at_the_same_time() -> None:
    report = facts_of(BatchReport("nightly", [done("a"), done("b")], "2026-11-29T02:00:00+00:00", seconds=60.0))
    for verdict, saved, words in (
        ("saved", 120.0, ": running them at the same time saved 2 min 00 s"),
        ("no difference", -1.5, ", and they took 1 min 00 s. This is an estimate, too rough to tell such times apart."),
        ("cost", -30.0, ": running them at the same time cost 30.0 s. Run them with --jobs 1."),
    ):
        report["gain"].update(verdict=verdict, one_after_another=180.0, saved=saved)
        assert f"the jobs would have taken about 3 min 00 s{words}" in Page(batch_page(report)).text
    report["gain"]["verdict"] = "unknown"
    assert "would have taken" not in Page(batch_page(report)).text


def test_a_batch_with_warnings_is_not_all_well() -> None:
    report = facts(done_task(warnings=["one", "two"], warning="three"))
    page = page_of(done("a", report=report), done("b"))
    assert "2 of 2 jobs done, with 3 warnings" in page.text
    assert ("section", {"class": "verdict warn"}) in page.elements
    badges = [each["class"] for tag, each in page.elements if tag == "span" and "badge" in (each.get("class") or "")]
    # In the table; then at each report, and at its task, which is done all the same.
    assert badges == ["badge warn", "badge good"] + ["badge warn", "badge good"] + ["badge good"] * 2
    assert "a done 3 warnings bob" in page.text
    assert "2 of 2 jobs done, with 1 warning " in page_of(done("a"), done("b"), warnings=["the clock"]).text
    # A failure says more than warnings do.
    assert "1 of 2 jobs done The batch" in page_of(done("a", report=report), failed("b", BAD)).text


def test_nothing_foreign_gets_out_of_its_place() -> None:
    error = BadInputError(place=HOSTILE, fault=HOSTILE, advice=HOSTILE)
    jobs = [failed(HOSTILE, error, HOSTILE), done(HOSTILE, HOSTILE)]
    page = batch_page(facts_of(BatchReport(HOSTILE, jobs, HOSTILE, 65, remarks=[HOSTILE], warnings=[HOSTILE])))
    found = Page(page)
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe"})
    assert sum(tag == "script" for tag, _ in found.elements) == 1
    assert not {"\u202e", "\x00"} & {*page}


def test_a_batch_of_many_jobs_is_small() -> None:
    timeline = [("computing", at / 10, at / 10 + 0.05) for at in range(12)]
    jobs = [done(f"job-{at}", report=facts(done_task(timeline=timeline))) for at in range(50)]
    report = facts_of(BatchReport("nightly", jobs, "2026-11-29T02:00:00+00:00", seconds=10.0))
    page = batch_page(report)
    assert len(page.encode()) < 500_000
    places = [each["id"] for _, each in Page(page).elements if "id" in each]
    assert len(places) == len({*places})
