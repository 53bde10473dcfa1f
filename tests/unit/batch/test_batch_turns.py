"""Which job is next once a peer has not come: two parties with lists in any order choose the same one."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from psicli.batch import engine

RENDEZVOUS = 10.0
EDGES = [("alice", "bob", "sales"), ("bob", "carol", "sales"), ("carol", "alice", "sales"), ("alice", "bob", "crm")]


def entry(party: str, peer: str, name: str) -> Any:
    tasks = [SimpleNamespace(name="t")]
    job = SimpleNamespace(name=name, party=party, peer=peer, listener=SimpleNamespace(port_offset=0), tasks=tasks)
    return SimpleNamespace(planned=SimpleNamespace(job=job), edge=frozenset({party, peer, name}))


def lists(draw: random.Random) -> dict[str, list[Any]]:
    """Return every party's jobs in an order of its own."""
    found: dict[str, list[Any]] = {party: [] for party in ("alice", "bob", "carol")}
    for one, other, name in EDGES:
        found[one].append(entry(one, other, name))
        found[other].append(entry(other, one, name))
    for jobs in found.values():
        draw.shuffle(jobs)
    return found


@pytest.mark.parametrize("seed", range(50))
def test_in_every_slot_at_least_one_job_is_chosen_by_both_parties(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a ring of parties with one place each is done after at most as many slots as there are jobs."""
    draw = random.Random(seed)
    now = draw.uniform(1e9, 2e9)
    monkeypatch.setattr(engine.time, "time", lambda: now)
    left = lists(draw)
    for slots in range(len(EDGES)):
        if not any(left.values()):
            assert slots
            return
        now += RENDEZVOUS
        # The clocks of the parties differ a little within the slot.
        chosen = [max(jobs, key=engine._turn_at(RENDEZVOUS)).edge for jobs in left.values() if jobs]
        met = {edge for edge in chosen if chosen.count(edge) == 2}
        assert met
        left = {party: [each for each in jobs if each.edge not in met] for party, jobs in left.items()}
    assert not any(left.values())


def test_a_wait_ends_with_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    for moment, left in ((1000.0, 10.0), (1004.0, 6.0), (1005.0, 5.0), (1005.1, 14.9), (1009.9, 10.1)):
        monkeypatch.setattr(engine.time, "time", lambda moment=moment: moment)
        assert engine._to_end_of_slot(RENDEZVOUS) == pytest.approx(left)
