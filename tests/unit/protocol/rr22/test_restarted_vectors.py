"""Tests of bins by RR22 that restart, at any moment, and of tasks that go on with the bins that are left."""

from __future__ import annotations

import pytest
from support.memory.machines import TASK, TASK_SID, MachinePair
from support.memory.tasks import (
    MANY_VECTORS,
    VECTORS,
    assert_streams_are_whole,
    assert_whole,
    bin_sid,
    both_outcomes,
    copied,
    frame,
    opened,
    pair_with_loss,
    refuses,
    roles,
)

from psicli.core.errors import WorkerLostError
from psicli.protocol.messages import End, Frame, Kept, Received, Restart, Stream
from psicli.protocol.receiver import Receiver
from psicli.protocol.streams import Place
from psicli.protocol.task import Phase, TaskParty
from psicli.protocol.work import GatherMatches


@pytest.mark.sample(1)
@both_outcomes
@roles
@pytest.mark.parametrize(
    "partitioning",
    [pytest.param(VECTORS, id="one bin"), pytest.param(MANY_VECTORS, id="bins", marks=pytest.mark.more)],
)
def test_a_worker_of_rr22_is_lost_at_any_moment(
    role: type[TaskParty], broadcast: bool, partitioning: dict[str, int | str]
) -> None:
    """Some moments of all; the parties move on by one step in each."""
    losses = 0
    for moment in range(role is Receiver, 300, 11 if partitioning is VECTORS else 37):
        pair = pair_with_loss(role, moment, broadcast=broadcast, **partitioning)
        if pair is None:
            continue
        pair.run()
        losses += 1
        assert_whole(pair, pair.receiver.count, pair.sender.count, broadcast)
        assert pair.sent(Restart) == [Restart(TASK, 0, 1)] * 2
    assert losses > 3


@both_outcomes
def test_both_lose_the_same_bin_by_rr22_at_the_same_time(broadcast: bool) -> None:
    pair = MachinePair(96, 96, broadcast=broadcast, **MANY_VECTORS)
    pair.run_until(lambda: len([each for each in pair.sent(Frame) if each.bin == 0]) > 4)
    for end in pair.ends:
        pair.restart(end, 0)
    pair.run()
    assert_whole(pair, 96, 96, broadcast)
    assert pair.sent(Restart) == [Restart(TASK, 0, 1)] * 2


def test_vectors_of_the_old_attempt_are_ignored_until_the_answer() -> None:
    machine = opened(Receiver, 20, 20, **VECTORS)
    machine.receive(frame(Stream.KEYS, 0, bytes(16 * 1024)))
    assert machine.restart(0) == [Restart(TASK, 0, 1)]
    fresh = machine.bins[0]
    assert fresh.place == Place(TASK, 0, 1, bin_sid(0, 1))
    for stale in (frame(Stream.SUMS, 5, b"x"), End(TASK, 0, 0, Stream.KEYS, 1024, b"")):
        assert machine.receive(stale) == []
    refuses(copied(machine), frame(Stream.KEYS, 0, bytes(16 * 1024), attempt=1))
    assert machine.receive(Restart(TASK, 0, 1)) == []
    refuses(copied(machine), frame(Stream.KEYS, 0, bytes(16 * 1024)))
    assert machine.receive(frame(Stream.KEYS, 0, bytes(16 * 1024), attempt=1)) == []
    assert machine.bins[0] is fresh


@roles
def test_a_bin_by_rr22_restarts_once(role: type[TaskParty]) -> None:
    machine = opened(role, 20, 20, **VECTORS)
    assert machine.receive(Restart(TASK, 0, 1)) == [Restart(TASK, 0, 1)]
    refuses(copied(machine), Restart(TASK, 0, 2))
    with pytest.raises(WorkerLostError):
        machine.restart(0)


@both_outcomes
def test_a_sender_by_rr22_that_has_answered_needs_no_worker(broadcast: bool) -> None:
    pair = MachinePair(96, 96, broadcast=broadcast, **MANY_VECTORS)
    pair.run_until(lambda: any(each.stream == Stream.TOKENS for each in pair.sent(End)))
    assert pair.sender.party.restart(0) == []
    pair.run()
    assert_whole(pair, 96, 96, broadcast)


def test_the_result_of_rr22_is_gathered_again_after_a_loss() -> None:
    pair = MachinePair(20, 20, broadcast=True, **VECTORS)
    receiver = pair.receiver
    pair.run_until(lambda: receiver.party.phase is Phase.RESULT)
    assert pair.begin(receiver, 0)
    pair.restart(receiver, 0)
    assert receiver.party.phase is Phase.EXCHANGE
    pair.run()
    assert_streams_are_whole(pair, True)
    assert receiver.work_of(None).count(GatherMatches()) == 2


def test_the_attempts_at_a_bin_by_rr22_share_nothing() -> None:
    pair = MachinePair(20, 20, broadcast=False, **VECTORS)
    pair.run_until(lambda: len(pair.sent(Received)) > 0 or len(pair.sent(End)) == 4)
    pair.restart(pair.receiver, 0)
    pair.run()
    data = [{each.data for each in pair.sent(Frame) if each.attempt == attempt} for attempt in (0, 1)]
    assert min(map(len, data)) > 20
    assert not data[0] & data[1]


@both_outcomes
@pytest.mark.parametrize("finished", [(0b1, 0b1), (0b101, 0b111), (0b1111, 0b1111)])
def test_finished_bins_of_rr22_are_not_exchanged_again(finished: tuple[int, int], broadcast: bool) -> None:
    kept = Kept(TASK_SID, 96, 95, 4, finished[0]), Kept(TASK_SID, 95, 96, 4, finished[1])
    pair = MachinePair(96, 95, broadcast=broadcast, kept=kept, **MANY_VECTORS)
    pair.run()
    left = {number for number in range(4) if not finished[0] >> number & 1}
    for stream in (Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR, Stream.TOKENS):
        assert {each.bin for each in pair.sent(Frame) if each.stream == stream} == left
    assert {end.party.progress.share for end in pair.ends} == {1.0}
