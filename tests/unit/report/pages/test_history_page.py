"""The page of past runs: what it says, what it leaves out, and how large it becomes."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.history.data import ANOMALIES, BEGIN, KINDS, series

from psicli.report.history.jobs import PastJob, jobs_of
from psicli.report.history.series import Night, Series
from psicli.report.pages.past.history import history_page
from psicli.storage.ledger import Entry, History, Opening, RunEntry

NIGHTS = 60
NOW = BEGIN + timedelta(days=NIGHTS - 1, hours=6)
DAILY = [name for name in KINDS if name not in ("hourly", "business", "gaps")]


def nights(task: str, number: int = 0, count: int = NIGHTS, job: str = "nightly") -> Series:
    """Return nights that follow each other from BEGIN on."""
    found = series(DAILY[number % len(DAILY)], number, count, job=job, task=task)
    moved = [replace(each, time=(BEGIN + timedelta(days=day)).isoformat()) for day, each in enumerate(found.nights)]
    return replace(found, nights=moved)


def changed(found: Series, changes: dict[int, Night | None]) -> Series:
    """Replace nights; None stands for a night without a run."""
    new = [changes.get(day, night) for day, night in enumerate(found.nights)]
    return replace(found, nights=[night for night in new if night is not None])


def failed(day: int, code: int, cause: str) -> Night:
    return Night((BEGIN + timedelta(days=day)).isoformat(), f"{day:016x}", "failed", code, cause)


def jobs(*found: Series, now: Any = NOW) -> list[PastJob]:
    runs: dict[tuple[str, str], RunEntry] = {}
    tasks = []
    for each in found:
        for night in each.nights:
            ended = {"outcome": night.outcome, "code": night.code, "failure": night.cause}
            runs[each.job, night.run] = RunEntry(night.time, night.run, each.job, each.party, each.peer, **ended)
            if night.distinct_items is not None:
                counts = night.distinct_items, night.peer_items, night.peer_items
                opening = Opening(each.job, each.task, each.peer, "sid", "/in", ("id",), *counts, each.party, night.run)
                percent = None if night.rate is None else round(100 * night.rate)
                known = {"matched": night.matched, "matched_percent": percent, "rows": night.rows}
                tasks.append(Entry(night.time, opening, night.outcome, seconds=night.seconds, **known))
    ordered = sorted(runs.values(), key=lambda run: run.time)
    return jobs_of(History(sorted(tasks, key=lambda task: task.time), ordered), now)


def text_of(page: str) -> str:
    """Return the text of a page as a reader sees it, all blanks alike."""
    body = page[page.index("<main") :]
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", body).split()))


def test_a_job_that_is_well() -> None:
    page = history_page(jobs(nights("people")), NOW)
    text = text_of(page)
    assert "The last run of nightly is done" in text
    assert '<section class="verdict good">' in page
    assert "60 runs" in text
    assert "All times are in UTC" in text
    assert "Runs outside the usual range" not in text
    titles = re.findall("<title>([^<]*) of people</title>", page)
    expected = ["matched keys", "match rate", "own rows", "own distinct keys", "the peer's distinct keys", "seconds"]
    assert [*map(html.unescape, titles)] == expected
    assert len(re.findall("<desc>60 runs from 2026-01-05 to 2026-03-05; between ", page)) == 6
    assert page.count("<tr><th scope=row>2026-") == 60


def test_failures_gaps_and_what_is_unusual() -> None:
    people = nights("people")
    strange = ANOMALIES["no matches"](people.nights[-1])
    changes = {20: failed(20, 69, "peer lost"), 30: failed(30, 69, "peer lost"), 40: failed(40, 65, "bad input")}
    page = history_page(jobs(changed(people, {**changes, 50: None, 51: None, NIGHTS - 1: strange})), NOW)
    text = text_of(page)
    assert '<section class="verdict warn">' in page
    assert "1 task outside the usual range" in text
    assert "peer lost (69) 2 2026-01-25 02:10 UTC 2026-02-04 02:10 UTC" in text
    assert "bad input (65) 1 2026-02-14 02:10 UTC" in text
    assert "2026-02-24 02:10 UTC to 2026-02-25 02:10 UTC: 2 runs" in text
    assert "match rate 0 %, usually" in text
    found = text[text.index("Runs outside the usual range") :]
    assert "2026-03-05 02:10 UTC people match rate 0 %, usually" in found
    assert page.count("failed: peer lost (69)") == 2
    # One backdrop for all pictures of the job.
    assert page.count('<path class="gap"') == 2
    assert page.count('<use href="#job-1-under"/>') == 6


def test_the_last_run_failed_or_did_not_come() -> None:
    people = nights("people")
    page = history_page(jobs(changed(people, {NIGHTS - 1: failed(NIGHTS - 1, 69, "peer lost")})), NOW)
    assert '<section class="verdict bad">' in page
    assert "The last run of nightly failed" in text_of(page)
    later = NOW + timedelta(days=3)
    page = history_page(jobs(people, now=later), later)
    assert "nightly did not run when it should have" in text_of(page)
    assert "since 2026-03-06 02:10 UTC: 2 runs" in text_of(page)


def test_rows_are_drawn_only_where_they_tell_something() -> None:
    people = nights("people")
    plain = replace(people, nights=[replace(each, rows=each.distinct_items) for each in people.nights])
    page = history_page(jobs(plain), NOW)
    assert "own rows" not in text_of(page)
    assert page.count("<figure>") == 5
    # Each row is there twice: nothing else than the rows has changed.
    page = history_page(jobs(changed(plain, {NIGHTS - 1: ANOMALIES["rows twice"](plain.nights[-1])})), NOW)
    text = text_of(page)
    assert re.search(r"2026-03-05 02:10 UTC people own rows [\d,]+, usually [\d,]+ to [\d,]+ ", text)
    assert "<title>own rows of people</title>" in page
    assert page.count('<path class="dot" vector') == 1


def test_a_run_without_an_end_may_be_in_progress() -> None:
    people = nights("people")
    last = Night(people.nights[-1].time, people.nights[-1].run, "unfinished")
    page = history_page(jobs(changed(people, {NIGHTS - 1: last})), NOW)
    text = text_of(page)
    assert '<section class="verdict warn">' in page
    assert "The last run of nightly is still running, or was killed" in text
    assert "unfinished still running, or killed, 2026-03-05 02:10 UTC" in text
    before = people.nights[-2]
    assert f"{before.matched:,} last good run" in text
    assert "last good run" not in text_of(history_page(jobs(people), NOW))


@pytest.mark.parametrize("count", [1, 2])
def test_a_task_with_few_results_has_numbers_and_no_pictures(count: int) -> None:
    people = nights("people", count=count)
    page = history_page(jobs(people), NOW)
    text = text_of(page)
    assert "<figure>" not in page
    assert 'class="legend"' not in page
    matched = ", then ".join(f"{each.matched:,}" for each in people.nights)
    assert f"matched keys {matched} match rate " in text
    assert "No run of this task has a result" not in text
    assert f"job 1 task 1 run{'s' * (count > 1)} {count} failed 0" in text
    assert "<figure>" in history_page(jobs(nights("people", count=3)), NOW)


def test_a_job_that_never_opened_a_task() -> None:
    runs = [RunEntry(NOW.isoformat(), "ab", "lonely", "alice", "bob", outcome="failed", code=69, failure="peer lost")]
    page = history_page(jobs_of(History([], runs), NOW), NOW)
    assert "lonely no task was opened" in text_of(page)
    assert "peer lost (69)" in text_of(page)


def test_with_whole_percent_no_number_of_matches_is_in_the_page() -> None:
    people = nights("people")
    hidden = [replace(each, matched=None, rate=round(each.rate or 0, 2)) for each in people.nights]
    page = history_page(jobs(replace(people, nights=hidden)), NOW)
    assert "matched keys" not in page
    text = text_of(page)
    assert re.search(r"match rate \d+ %", text)
    numbers = {f"{each.matched:,}" for each in people.nights if (each.matched or 0) > 999}
    assert len(numbers) > 40
    known = {f"{number:,}" for each in people.nights for number in (each.distinct_items, each.peer_items, each.rows)}
    assert not any(number in text for number in numbers - known)


def test_a_sender_that_learns_nothing_has_the_same_page_whatever_matched() -> None:
    people = nights("people")
    blind = replace(people, nights=[replace(each, matched=None, rate=None) for each in people.nights])
    page = history_page(jobs(blind), NOW)
    assert "This party does not learn what matched." in page
    assert "match rate of" not in page
    assert "matched keys" not in page


def test_names_and_warnings_are_foreign_text() -> None:
    hostile = "<img src=x onerror=alert(1)>\u202e\x1b[2J'\""
    found = nights(hostile, job="<script>alert(1)</script>", count=12)
    found = replace(found, party=hostile, peer=hostile)
    facts = {"warnings": [hostile], "tasks": [{"name": hostile, "warning": hostile, "warnings": [hostile]}]}
    page = history_page(jobs(found), NOW, lambda _: facts)
    body = page[page.index("<body") :]
    assert "<img" not in body
    assert "<script" not in body
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert body.count("&lt;img src=x") > 5


@pytest.mark.parametrize(
    ("tasks", "count"),
    [(4, 30), pytest.param(12, 90, marks=pytest.mark.more), pytest.param(100, 40, marks=pytest.mark.more)],
)
def test_the_page_stays_small(tasks: int, count: int) -> None:
    found = [nights(f"task-{number}", number, count, f"job-{number // 4}") for number in range(tasks)]
    now = BEGIN + timedelta(days=count - 1, hours=6)
    page = history_page(jobs(*found, now=now), now)
    assert len(page.encode()) < 400_000
    assert page.count("<figure>") == (6 if tasks < 31 else 2) * tasks


def test_links_lead_to_runs_whose_report_is_kept() -> None:
    page = history_page(
        jobs(nights("people", count=12)), NOW, links=lambda run: f"/runs/{run}" if run[-1] == "b" else None
    )
    assert re.findall(r'<a href="(/runs/[^"]*)">', page) == ["/runs/000000000000000b"]
    assert 'href="/' not in history_page(jobs(nights("people", count=12)), NOW)
