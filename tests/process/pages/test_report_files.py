"""--report: the page that a command leaves, however it ends, and what it never replaces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.jobs.batches import one_task, whole_job
from support.many.batches import BAD
from support.many.parties import Parties, all_done, jobs_of
from support.monitoring.pages import Page
from support.processes.expectations import MARK, Untouched, failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair

from psicli.report.pages.file import BEGINNING


def page_at(path: Path) -> Page:
    """Return a page, which only its user can read and which holds no value."""
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text(encoding="utf-8")
    assert text.startswith(BEGINNING)
    assert MARK not in text
    return Page(text)


def test_a_run_leaves_its_page(pair: Pair) -> None:
    """It adds nothing to what the command says, and replaces an earlier one."""
    marked_pair(pair, broadcast=False)
    pages = {party: pair.path(party, "run.html") for party in PARTIES}
    pages[LISTENER].write_text(BEGINNING)
    pages[LISTENER].chmod(0o600)
    mine = pair.start(LISTENER, "--json", "--report", str(pages[LISTENER]))
    theirs = pair.start(DIALER, env={"PSICLI_REPORT": str(pages[DIALER])})
    succeeded(results := [mine.result(), theirs.result()])
    assert the_object(results[0].stdout)["tasks"][0]["matched_rows"] == 2
    assert b"html" not in results[1].stdout
    alice, bob = (page_at(pages[party]).text for party in PARTIES)
    assert "overlap: Done" in alice
    assert "matched rows 2" in alice
    assert "Which of its own items bob also has." in alice
    assert "only alice learns it" in bob
    assert "matched rows" not in bob
    # The report that the state folder keeps gives the same page.
    later = pair.start_command("report", "--run", "last").result()
    assert later.stdout.strip() in {page.read_bytes().strip() for page in pages.values()}
    pair.nothing_left()


@pytest.mark.more
def test_a_run_that_fails_leaves_its_page(pair: Pair) -> None:
    marked_pair(pair)
    pair.path(DIALER, "in.csv").write_bytes(b"code,note\n1,2,3\n")
    results = [pair.start(party, "--report", str(pair.path(party, "run.html"))).result for party in PARTIES]
    assert [result().code for result in results] == [80, 65]
    text = page_at(pair.path(DIALER, "run.html")).text
    assert "Failed: bad input, 65" in text
    assert "in.csv:2: the row has 3 fields, but the header has 2 What to do:" in text
    assert "Failed: peer failed, 80" in page_at(pair.path(LISTENER, "run.html")).text


@pytest.mark.more
def test_a_mistake_in_the_job_file_is_on_the_page(pair: Pair) -> None:
    path = marked_pair(pair).job_file(LISTENER)
    path.write_text(path.read_text().replace("receiver", "reciever"))
    page = pair.path(LISTENER, "run.html")
    result = pair.start_command("run", path, "--report", page).result()
    failed(result, 78, "reciever")
    text = page_at(page).text
    assert "Failed: configuration, 78" in text
    assert "reciever" in text
    assert "before any task began" in text
    simulated = pair.start_command("simulate", path, "--report", page).result()
    failed(simulated, 78, "reciever")
    assert "reciever" in page_at(page).text


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("run.txt", 2, "the name must end in .html"),
        ("run", 2, "the name must end in .html"),
        ("absent/run.html", 73, "its folder does not exist"),
        ("folder.html", 73, "it is a folder"),
        ("in.html", 73, "no page of psicli"),
        ("job.html", 73, "no page of psicli"),
        ("trace.HTM", 2, "--trace names the same file"),
    ],
)
def test_a_page_that_cannot_be_written_is_reported_before_anything_starts(
    pair: Pair, name: str, code: int, sentence: str
) -> None:
    marked_pair(pair)
    pair.path(LISTENER, "folder.html").mkdir()
    pair.path(LISTENER, "in.csv").rename(pair.path(LISTENER, "in.html"))
    job = pair.job_file(LISTENER).rename(pair.path(LISTENER, "job.html"))
    untouched = Untouched(pair)
    trace = pair.path(LISTENER, "trace.HTM")
    result = pair.start_command("run", job, "--report", pair.path(LISTENER, name), "--trace", trace).result()
    assert (result.code, sentence in result.stderr) == (code, True), result.text
    assert "listening" not in result.stderr
    untouched.check()
    assert not trace.exists()


@pytest.mark.more
def test_a_page_that_cannot_be_written_in_the_end_fails_the_run(pair: Pair) -> None:
    """The outputs are in place by then."""
    marked_pair(pair)
    folder = pair.path(LISTENER, "pages")
    folder.mkdir()
    mine = pair.start(LISTENER, "--json", "--report", str(folder / "run.html"))
    mine.wait_for("listening on")
    os.rename(folder, pair.path(LISTENER, "gone"))
    assert pair.start(DIALER).result().code == 0
    result = mine.result()
    failed(result, 73, "run.html: cannot write here: its folder does not exist")
    report = the_object(result.stdout)
    assert (report["exit_code"], report["tasks"][0]["status"]) == (73, "done")
    assert not folder.exists()


@pytest.mark.more
def test_a_simulation_leaves_a_page_of_both_parties(pair: Pair) -> None:
    """It leaves no metrics and no kept report, since nothing has been exchanged."""
    one_task(pair)
    page, metrics = pair.folder / "simulation.html", pair.folder / "night.prom"
    environment = {"PSICLI_METRICS": str(metrics)}
    result = pair.start_command("simulate", whole_job(pair), "--json", "--report", page, env=environment).result()
    succeeded([result])
    assert not metrics.exists()
    assert not (pair.folder / "state" / "reports").exists()
    assert {each["certificate_expires"] for each in the_object(result.stdout)["parties"].values()} == {None}
    text = page_at(page).text
    assert "This is a simulation" in text
    assert text.count("Done") == 3
    assert "alice with bob" in text
    assert "bob with alice" in text
    pair.path(DIALER, "in.csv").unlink()
    assert pair.start_command("simulate", whole_job(pair), env={"PSICLI_REPORT": str(page)}).result().code == 66
    text = page_at(page).text
    assert "Failed: input missing, 66" in text
    assert "Failed: peer failed, 80" in text
    pair.nothing_left()


@pytest.mark.more
def test_a_batch_and_its_retry_leave_one_page(four: Parties) -> None:
    page = four.folder / LISTENER / "batch.html"
    bad = four.input(four.deals[1], LISTENER)
    good = bad.read_bytes()
    bad.write_bytes(BAD)
    both = ("--keep-going", "--retries=0", "--jobs=4")
    mine, theirs = four.start_batch(LISTENER, *both, f"--report={page}"), four.start_batch(DIALER, *both)
    result = mine.result()
    assert (result.code, theirs.result().code) == (65, 80)
    text = page_at(page).text
    assert "3 of 4 jobs done" in text
    assert "job-1: " in text.split("What went wrong ")[1].split(" Jobs ")[0]
    assert "the row has 3 fields, but the header has 2" in text
    assert text.count("What each party learned") == 3 + any(
        task["distinct_items"] for task in jobs_of(result)["job-1"]["report"]["tasks"]
    )
    bad.write_bytes(good)
    mine, theirs = four.start(LISTENER, "retry", "--json"), four.start(DIALER, "retry", "--json")
    all_done(mine.result(), theirs.result())
    text = page_at(page).text
    assert "4 of 4 jobs done" in text
    assert text.count("in an earlier run") == 3
    # Nothing is left to do, and that is a page, too.
    assert four.start(LISTENER, "retry").result().code == 0
    assert "4 of 4 jobs done" in page_at(page).text
    four.check()
    four.nothing_left()


@pytest.mark.more
def test_a_mistake_in_a_batch_is_on_its_page(four: Parties) -> None:
    page = four.folder / "batch.html"
    four.batch(LISTENER, ["absent"])
    result = four.start_batch(LISTENER, "--report", page).result()
    failed(result, 78, "absent.yaml")
    assert "absent.yaml" in page_at(page).text
    page.write_text("a page of somebody else\n")
    failed(four.start_batch(LISTENER, "--report", page).result(), 73, "no page of psicli")
    assert page.read_text() == "a page of somebody else\n"


@pytest.mark.more
def test_a_dry_run_leaves_no_page(four: Parties) -> None:
    page = four.folder / "batch.html"
    assert four.start_batch(LISTENER, "--dry-run", "--report", page).result().code == 0
    assert not page.exists()
