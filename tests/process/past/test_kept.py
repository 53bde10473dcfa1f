"""What a run leaves for `psicli report`, and the pages that it makes of it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from support.history.data import series
from support.history.ledgers import write_ledger
from support.processes.expectations import failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair

from psicli.storage import reports


def kept(pair: Pair) -> list[dict[str, object]]:
    state = pair.folder / "state"
    found = [reports.read(state, each) for each in reports.kept(state)]
    return [each for each in found if each is not None]


def report(pair: Pair, *arguments: str | Path, code: int = 0) -> str:
    result = pair.start_command("report", *arguments).result()
    assert result.code == code, result.text
    return result.stdout.decode() if code == 0 else result.stderr


@pytest.mark.more
def test_a_run_leaves_its_report_and_the_same_page_later(pair: Pair) -> None:
    marked_pair(pair)
    pages = {party: pair.path(party, "run.html") for party in PARTIES}
    runs = {party: pair.start(party, "--json", "--report", str(pages[party])) for party in PARTIES}
    results = {party: run.result() for party, run in runs.items()}
    succeeded(results.values())
    facts = {party: the_object(result.stdout) for party, result in results.items()}
    assert sorted(kept(pair), key=lambda each: str(each["party"])) == [facts[LISTENER], facts[DIALER]]
    for path in (pair.folder / "state" / "reports").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for party in PARTIES:
        later = pair.folder / "later.html"
        report(pair, "--run", facts[party]["run"], "-o", later)
        assert later.read_bytes() == pages[party].read_bytes()
    assert report(pair, "--run", "last") in {page.read_text() + "\n" for page in pages.values()} | {
        page.read_text() for page in pages.values()
    }
    page = report(pair, "--since", "1d")
    assert re.search(r"<dt>matched keys</dt><dd>\d", page)
    # Nothing in the state folder is taken for something that a killed run left.
    state = the_object(pair.start_command("status", "--json").result().stdout)
    assert state["left_over"] == []
    cleaned = pair.start_command("status", "--clean").result()
    assert (cleaned.code, b"There is nothing to remove." in cleaned.stdout) == (0, True)
    assert len(kept(pair)) == 2


@pytest.mark.more
def test_a_failed_run_leaves_its_report_and_a_run_that_never_began_none(pair: Pair) -> None:
    marked_pair(pair)
    pair.path(LISTENER, "in.csv").unlink()
    pair.link(LISTENER, connect_retry_times=1)
    failed(pair.start(LISTENER).result(), 66, "in.csv")
    (facts,) = kept(pair)
    assert (facts["exit_code"], facts["job"], facts["party"]) == (66, "overlap", LISTENER)
    pair.jobs[LISTENER]["tasks"] = []
    failed(pair.start(LISTENER).result(), 78, "tasks")
    assert len(kept(pair)) == 1
    page = report(pair)
    assert "input missing (66)" in page
    assert "no task was opened" in page
    assert "in.csv" in report(pair, "--run", "last", "--job", "overlap")


@pytest.mark.more
def test_a_report_that_cannot_be_kept_is_a_warning(pair: Pair) -> None:
    marked_pair(pair)
    (pair.folder / "state").mkdir(0o700)
    (pair.folder / "elsewhere").mkdir()
    (pair.folder / "state" / "reports").symlink_to(pair.folder / "elsewhere")
    runs = [pair.start(party, "--json") for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    for result in results:
        assert "the report of this run is not kept for `psicli report`" in result.stderr
        (warning,) = (text for text in the_object(result.stdout)["warnings"] if "not kept" in text)
        assert "it is a link" in warning
    assert [*(pair.folder / "elsewhere").iterdir()] == []


@pytest.mark.more
def test_a_page_of_the_ledger(pair: Pair) -> None:
    state = pair.folder / "state"
    write_ledger(state, series("weekends", 1, 12), series("noisy", 2, 12, job="weekly", task="places"))
    output = pair.folder / "history.html"
    assert report(pair, "-o", output, "--since", "2026-01-01") == ""
    page = output.read_text()
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert ["customers" in page, "places" in page, page.count("<figure>")] == [True, True, 12]
    # The same again replaces it, and a file that psicli has not written stays.
    report(pair, "-o", output, "--since", "2026-01-01", "--job", "weekly")
    assert "customers" not in output.read_text()
    output.write_text("mine")
    assert "is no page of psicli" in report(pair, "-o", output, "--since", "2026-01-01", code=73)
    assert output.read_text() == "mine"
    for since in ("2026-01-01", "2026-01-01T00:00:00+01:00", "9000w"):
        assert "2026-01-" in report(pair, "--since", since)
    none = pair.folder / "none.html"
    assert "The ledger has no runs of job 'other' since 2026-01-01 00:00 UTC" in report(
        pair, "--job", "other", "--since", "2026-01-01", "-o", none
    )
    assert not none.exists()


@pytest.mark.more
def test_a_ledger_that_somebody_has_changed(pair: Pair) -> None:
    state = pair.folder / "state"
    ledger = write_ledger(state, series("weekends", 1, 6))
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines[:3] + lines[4:]))
    result = pair.start_command("report", "--since", "2026-01-01").result()
    assert (result.code, b"<!DOCTYPE html>" in result.stdout) == (0, True)
    assert "is not as psicli left it, so what follows may be wrong" in result.stderr


@pytest.mark.more
def test_runs_without_a_report(pair: Pair) -> None:
    state = pair.folder / "state"
    write_ledger(state, series("weekends", 1, 6))
    for run in ("last", "0" * 16, "../../etc/passwd"):
        assert "no report of it is kept" in report(pair, "--run", run, code=66)
    folder = state / "reports"
    folder.mkdir(0o700)
    (folder / f"20260101T000000.000Z-{'0' * 16}.json").write_text('{"run": "0000000000000000", "tasks": 3}')
    assert "no report of it is kept" in report(pair, "--run", "0" * 16, code=66)
    (folder / f"20260101T000000.000Z-{'1' * 16}.json").write_text(
        '{"run": "1111111111111111", "version": "1", "seconds": []}'
    )
    assert "somebody has changed its report" in report(pair, "--run", "1" * 16, code=66)


@pytest.mark.more
def test_arguments_that_do_not_fit(pair: Pair) -> None:
    for arguments, text in (
        (("--since", "soon"), "soon is no moment"),
        (("--since", "999999w"), "is no moment"),
        (("-o", "page.txt"), "must end in .html"),
        (("--run", "last", "--since", "1d"), "--since does not go with --run"),
    ):
        assert text in report(pair, *arguments, code=2)
    assert "its folder does not exist" in report(pair, "-o", pair.folder / "none" / "a.html", code=73)


@pytest.mark.more
def test_with_whole_percent_neither_the_kept_report_nor_a_page_holds_a_number(pair: Pair) -> None:
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["policy"] = {"whole_percent": True}
    succeeded(pair.run())
    for facts in kept(pair):
        (task,) = facts["tasks"]  # type: ignore[misc]
        assert {task[name] for name in ("matched", "matched_rows", "output_rows")} == {None}  # type: ignore[index]
    page = report(pair)
    assert "matched keys" not in page
    assert re.search(r"<dt>match rate</dt><dd>(50|67) %", page)
