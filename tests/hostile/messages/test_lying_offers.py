"""Offers to resume a task where our side has a checkpoint and the peer may lie about its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.hostile.cases import check_result
from support.hostile.cheats import BOTH, BROADCAST, MODES, ONE_SIDED, PARTITION, RECEIVER, SENDER, only
from support.hostile.cheats_of_bins import TWO_BINS
from support.hostile.peer import HONEST, Cheat, Setting
from support.hostile.victims import Outcome, SessionVictim, meet
from support.memory.pair import NoCheckpoint
from support.memory.sessions import Plan

from psicli.exchange.task_exchange import Prepared
from psicli.exchange.worker import ORDER_SECRET_BYTES
from psicli.protocol.messages import (
    Kept,
)
from psicli.protocol.task import TaskParty


class WrongBin(NoCheckpoint):
    """A checkpoint of the first of two bins whose bits are all wrong."""

    def __init__(self, resumption: Kept | None) -> None:
        self._resumption = resumption

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        if self._resumption is None:
            return {}
        own, peer = (-(-each // 8) for each in party.capacities)
        return {0: b"\xff" * (own + peer * party.broadcast if party.receives else ORDER_SECRET_BYTES)}


class Leftover(Plan):
    """A task of two bins with a checkpoint of the first.

    The checkpoint's data is wrong, so that a run that resumes from it when it must not gets a wrong result.
    """

    resumption: Kept | None = None

    def find(self) -> Kept | None:
        return Kept(PARTITION, TWO_BINS["ours"], TWO_BINS["theirs"], 2, 0b01)

    def settled(self, party: TaskParty) -> None:
        self.resumption = party.resumption

    def prepare(self, partition_sid: bytes) -> Prepared:
        return replace(super().prepare(partition_sid), checkpoint=WrongBin(self.resumption))


TRUE = Kept(PARTITION, TWO_BINS["theirs"], TWO_BINS["ours"], 2, 0b01)


def met_again(port: int, setting: Setting, cheat: Cheat) -> tuple[Leftover, SessionVictim, Outcome, int | None]:
    """Run the peer against a side that has a checkpoint."""
    victim = SessionVictim(port, setting, plan=Leftover)
    _, told, outcome, _ = meet(victim, port, setting, cheat)
    assert isinstance(victim.plan, Leftover)
    return victim.plan, victim, outcome, told


def offering(kept: Kept | None, **how: Any) -> Cheat:
    return replace(HONEST, kept=kept, **TWO_BINS, **how)


# Offers that contradict our side's offer: the offer, the peer's roles and the modes of the task.
FRESH: dict[str, tuple[Kept | None, tuple[str, ...], tuple[bool, ...]]] = {
    "nothing": (None, BOTH, ONE_SIDED),
    "another run": (replace(TRUE, partition_sid=bytes(32)), BOTH, ONE_SIDED),
    "one item more": (replace(TRUE, own_count=301), BOTH, ONE_SIDED),
    "one item less of ours": (replace(TRUE, peer_count=16_499), BOTH, ONE_SIDED),
    "the largest possible counts": (replace(TRUE, own_count=2**64 - 1, peer_count=2**64 - 1), BOTH, ONE_SIDED),
    "more bins": (replace(TRUE, bins=4), BOTH, ONE_SIDED),
    "one bin": (replace(TRUE, bins=1), BOTH, ONE_SIDED),
    "another bin": (replace(TRUE, finished=0b10), BOTH, ONE_SIDED),
    "a sender without the answered bin": (replace(TRUE, finished=0), (SENDER,), ONE_SIDED),
    "a bin that was never answered": (replace(TRUE, finished=0b11), (RECEIVER,), MODES),
    "a complete task": (replace(TRUE, finished=0b11, complete=True), (RECEIVER,), MODES),
    "a complete broadcast": (replace(TRUE, finished=0b11, complete=True), (SENDER,), BROADCAST),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kept", "role", "broadcast"),
    [(kept, role, mode) for kept, roles, modes in FRESH.values() for role in roles for mode in modes],
    ids=[
        f"{role}, {'broadcast' if mode else 'one-sided'}: {name}"
        for name, (_, roles, modes) in FRESH.items()
        for role in roles
        for mode in modes
    ],
)
def test_a_lying_offer_leads_to_a_fresh_start(port: int, kept: Kept | None, role: str, broadcast: bool) -> None:
    setting = offering(kept).setting(receives=role == RECEIVER, broadcast=broadcast)
    plan, victim, outcome, told = met_again(port, setting, offering(kept))
    assert (told, outcome.code, plan.resumption) == (None, 0, None), outcome
    check_result(victim, setting)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("kept", "role", "finished"),
    [
        (TRUE, SENDER, 0b01),
        (TRUE, RECEIVER, 0b01),
        # The sender offers more than the receiver asks for: the parties skip only what the receiver has.
        (replace(TRUE, finished=0b11), SENDER, 0b01),
        (replace(TRUE, finished=0b11, complete=True), SENDER, 0b01),
        (replace(TRUE, finished=0), RECEIVER, 0),
    ],
    ids=["true, sender", "true, receiver", "more, sender", "all, sender", "less, receiver"],
)
def test_a_matching_offer_skips_the_bins_that_the_receiver_has(port: int, kept: Kept, role: str, finished: int) -> None:
    """The tests of lying offers rely on this: our side resumes when the offers match."""
    cheat = offering(kept, finished=finished)
    setting = cheat.setting(receives=role == RECEIVER, broadcast=False)
    plan, victim, outcome, told = met_again(port, setting, cheat)
    assert (told, outcome.code) == (None, 0), outcome
    assert plan.resumption == Kept(PARTITION, TWO_BINS["ours"], TWO_BINS["theirs"], 2, finished)
    if setting.victim_learns:
        # The result holds all of the first bin, as in the checkpoint, and the true matches of the second.
        assert victim.found is not None
        assert setting.result < victim.found
        assert len(victim.found) > TWO_BINS["ours"] // 3


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
@pytest.mark.parametrize("count", [299, 0, 2**64 - 1])
def test_a_count_other_than_the_offered_one(port: int, receives: bool, count: int) -> None:
    cheat = offering(TRUE, finished=0b01)
    cheat = replace(cheat, code=76, told=76, at={"open": only(count=count)})
    setting = cheat.setting(receives=receives, broadcast=False)
    _, _, outcome, told = met_again(port, setting, cheat)
    assert (told, outcome.code, outcome.has_result) == (76, 76, False)
    assert "it opened a resumed task with a different count than it offered" in outcome.message
