"""Kept reports: what a run leaves for `psicli report`, who can read it, and when it is removed."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from psicli.core.errors import CannotCreateError, StateFolderError
from psicli.storage import reports
from psicli.storage.state import has_traces, left_over


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    return folder


def facts(number: int, days: float = 0, **more: Any) -> dict[str, Any]:
    """Return facts of a run that began so many days ago."""
    began = datetime.now(UTC) - timedelta(days=days)
    return {"run": f"{number:016x}", "started": began.isoformat(timespec="milliseconds"), "exit_code": 0, **more}


def numbers(state: Path) -> list[int]:
    return [int(each.run, 16) for each in reports.kept(state)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_report_is_kept_as_it_is(state: Path) -> None:
    told = facts(1, job="nightly", warnings=["\udcff ünusual"], tasks=[{"name": "a", "rows": 3}])
    reports.keep(state, told)
    assert reports.load(state, "0" * 15 + "1") == told
    (path,) = (state / "reports").iterdir()
    assert mode(path) == 0o600
    assert mode(state / "reports") == 0o700
    (report,) = reports.kept(state)
    assert report.started.isoformat(timespec="milliseconds") == told["started"]


def test_the_newest_comes_first_and_each_time_is_in_utc(state: Path) -> None:
    for number, days in ((1, 2), (2, 0), (3, 1)):
        reports.keep(state, facts(number, days))
    assert numbers(state) == [2, 3, 1]
    reports.keep(state, {**facts(4), "started": "2026-01-02T01:30:00.000+02:00"})
    assert reports.kept(state)[-1].started == datetime(2026, 1, 1, 23, 30, tzinfo=UTC)
    assert reports.kept(state)[-1].name == "20260101T233000.000Z-0000000000000004.json"


def test_without_a_state_folder_nothing_is_kept_and_nothing_is_made(tmp_path: Path) -> None:
    assert reports.kept(tmp_path / "none") == []
    assert reports.load(tmp_path / "none", "0" * 16) is None
    with pytest.raises(CannotCreateError):
        reports.keep(tmp_path / "none", facts(1))
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_report_is_left_out(state: Path) -> None:
    reports.keep(state, facts(1))
    reports.keep(state, facts(2))
    folder = state / "reports"
    first, second = sorted(folder.iterdir())
    octets = second.read_bytes()
    second.write_bytes(octets[:-2])
    elsewhere = state.parent / "elsewhere.json"
    elsewhere.write_text(json.dumps(facts(3)))
    names = {
        # Another run's content, a link, a FIFO, a folder, and deeper than Python reads.
        "20260101T000000.000Z-00000000000000aa.json": lambda path: path.write_bytes(first.read_bytes()),
        "20260101T000000.000Z-0000000000000003.json": lambda path: path.symlink_to(elsewhere),
        "20260101T000000.000Z-00000000000000bb.json": os.mkfifo,
        "20260101T000000.000Z-00000000000000cc.json": Path.mkdir,
        "20260101T000000.000Z-00000000000000dd.json": lambda path: path.write_text("[" * 100_000),
        "20260101T000000.000Z-00000000000000ee.json": lambda path: path.write_text("[1]"),
        "20260101T000000.000Z-00000000000000ff.json": lambda path: path.write_bytes(b"\xff\xfe"),
    }
    for name, make in names.items():
        make(folder / name)
    (folder / "notes.txt").write_text("mine")
    found = {each.run: reports.read(state, each) for each in reports.kept(state)}
    assert {run for run, content in found.items() if content is not None} == {f"{1:016x}"}
    assert len(found) == 2 + len(names)
    assert reports.load(state, "../../etc/passwd") is None
    # Not even the next run touches what it does not know.
    reports.keep(state, facts(16))
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_day_that_does_not_exist_is_no_fault(state: Path) -> None:
    (state / "reports").mkdir(0o700)
    name = "20269999T000000.000Z-0000000000000001.json"
    (state / "reports" / name).write_text(json.dumps(facts(1)))
    (report,) = reports.kept(state)
    assert (report.name, report.started.year) == (name, 1)


def test_a_link_in_place_of_the_folder_is_not_followed(state: Path) -> None:
    elsewhere = state.parent / "elsewhere"
    elsewhere.mkdir(0o700)
    (state / "reports").symlink_to(elsewhere)
    with pytest.raises(CannotCreateError, match="it is a link"):
        reports.keep(state, facts(1))
    assert [*elsewhere.iterdir()] == []
    assert reports.kept(state) == []


def test_a_state_folder_that_others_can_read_gets_no_report(state: Path) -> None:
    reports.keep(state, facts(1))
    state.chmod(0o755)
    with pytest.raises(StateFolderError):
        reports.keep(state, facts(2))
    with pytest.raises(StateFolderError):
        reports.kept(state)


def test_old_reports_are_removed(state: Path) -> None:
    for number, days in ((1, 500), (2, 401), (3, 399), (4, 0)):
        reports.keep(state, facts(number, days))
    # The one that has just been written stays, and the next run removes it.
    assert numbers(state) == [4, 3]
    reports.keep(state, facts(5, 500))
    assert numbers(state) == [4, 3, 5]
    reports.keep(state, facts(6))
    assert numbers(state) == [6, 4, 3]


def test_the_oldest_reports_beyond_the_limit_are_removed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 3)
    for number in range(1, 6):
        reports.keep(state, facts(number, 10 - number))
    assert numbers(state) == [5, 4, 3]


def test_the_oldest_reports_beyond_the_size_are_removed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_BYTES", 3500)
    for number in range(1, 6):
        reports.keep(state, facts(number, 10 - number, filling="x" * 1000))
    # Only one run in sixteen adds up the sizes.
    assert numbers(state) == [5, 4, 3, 2, 1]
    reports.keep(state, facts(16, filling="x" * 1000))
    assert numbers(state) == [16, 5, 4]
    # A single report that is too large is better than none.
    reports.keep(state, facts(32, filling="x" * 5000))
    assert numbers(state) == [32]


def test_what_a_killed_run_left_is_removed(state: Path) -> None:
    reports.keep(state, facts(1))
    left = state / "reports" / "20260101T000000.000Z-00000000000000aa.json.new"
    left.write_text("{")
    assert numbers(state) == [1]
    reports.keep(state, facts(2))
    assert not left.exists()


def test_reports_are_neither_left_over_nor_traces(state: Path) -> None:
    reports.keep(state, facts(1))
    assert left_over(state, remove=True) == []
    assert not has_traces(state)
    assert numbers(state) == [1]
