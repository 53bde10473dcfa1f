"""The last runs of a job, found at the end of the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.history.data import series
from support.history.ledgers import write_ledger

from psicli.report.history.series import Night, Series
from psicli.storage import ledger as ledger_module
from psicli.storage.ledger import Entry, Ledger, Wanted

TASKS = ("customers", "customers 2")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    folder = tmp_path_factory.mktemp("ledger") / "state"
    ours = series("gaps", 1, nights=20), series("gaps", 2, nights=12, task="customers 2")
    # Both parties of a job may have one state folder, and a job may be called like a part of another one.
    theirs = Series("nightly", "customers", "registry", "airline", ours[0].nights)
    other = Series('nightly", "x', "customers", "airline", "registry", ours[1].nights)
    killed = Night("2026-06-01T00:00:00+00:00", "e" * 16, "failed", 70, "internal", 5, 5)
    return write_ledger(folder, *ours, theirs, other, Series("nightly", "customers", "airline", "registry", [killed]))


def of(entries: list[Entry], task: str, party: str) -> list[Entry]:
    return [each for each in entries if (each.opening.task, each.opening.party) == (task, party)]


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_the_last_openings_of_each_task(ledger: Ledger, most: int) -> None:
    everything = [each for each in ledger.entries() if each.opening.job == "nightly"]
    for party, peer in (("airline", "registry"), ("registry", "airline")):
        found = ledger.last_tasks(Wanted("nightly", party, peer, TASKS, most))
        for task in TASKS:
            assert of(found, task, party) == of(everything, task, party)[-most:]
        assert {each.opening.party for each in found} == {party}
        assert [each.time for each in found] == sorted(each.time for each in found)


def test_what_is_long_ago_is_not_searched(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_RECENT", 1500)
    (last,) = ledger.last_tasks(Wanted("nightly", "airline", "registry", TASKS, 1000))
    assert (last.code, last.opening.distinct_items) == (70, 5)


def test_no_ledger(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").last_tasks(Wanted("nightly", "airline", "registry", TASKS, 1)) == []
