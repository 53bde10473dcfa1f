"""Tests of a task that resumes an earlier run, and of bins that restart."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.memory.machines import PROBE, TASK, TASK_SID, MachinePair, made_up_points, setup
from support.memory.tasks import (
    BINS_UNDER_WAY,
    FRAME,
    MANY,
    a,
    assert_streams_are_whole,
    assert_whole,
    bin_sid,
    both_outcomes,
    copied,
    digest_of,
    each_partitioning,
    first,
    frame,
    may_be_lost,
    opened,
    pair_with_loss,
    refuses,
    roles,
)

from psicli.core.errors import InputChangedError, WorkerLostError
from psicli.protocol.messages import Commit, Done, End, Frame, Kept, Offer, Open, Received, Restart, Stream
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import Phase, Progress, TaskParty
from psicli.protocol.work import GatherMatches

OTHER_SID = bytes(range(100, 132))


def kept_pair(receiver: int, sender: int, *, n: int = 96, m: int = 95) -> tuple[Kept, Kept]:
    return Kept(OTHER_SID, n, m, 4, receiver), Kept(OTHER_SID, m, n, 4, sender)


@both_outcomes
@pytest.mark.parametrize("finished", [(0, 0b11), (0b1, 0b1), (0b101, 0b111), (0b0111, 0b1111)])
def test_finished_bins_are_not_exchanged_again(finished: tuple[int, int], broadcast: bool) -> None:
    pair = MachinePair(96, 95, broadcast=broadcast, kept=kept_pair(*finished), **MANY)
    pair.run()
    left = {number for number in range(4) if not finished[0] >> number & 1}
    streams = {stream: {each.bin for each in pair.sent(Frame) if each.stream == stream} for stream in range(1, 5)}
    assert streams == {1: left, 2: left, 3: left, 4: set(range(4)) if broadcast else set()}
    assert {each.bin for each in pair.sent(Received)} == left
    for end in pair.ends:
        # The ids and secrets are those of this run; only the partition into bins is the earlier run's.
        assert end.party.partition_sid == OTHER_SID
        assert end.party.finished
    matches = (sum(map(sum, pair.bits)),) if broadcast else ()
    assert pair.sent(Done)[-1].digest == digest_of(96, 95, 4, *matches)
    sent = [each for each in pair.sent(Frame) if each.stream == Stream.RECEIVER_POINTS]
    assert b"".join(each.data for each in sent) == b"".join(
        made_up_points(Receiver, 0, 93, number=b) for b in sorted(left)
    )


def test_a_one_sided_task_whose_bins_are_all_finished_is_over_immediately() -> None:
    pair = MachinePair(96, 95, broadcast=False, kept=kept_pair(0b1111, 0b1111), **MANY)
    pair.run()
    assert [type(message) for _, message in pair.log] == [Offer, Offer]


def test_a_broadcast_whose_bins_are_all_finished_still_sends_its_bitmaps() -> None:
    pair = MachinePair(96, 95, broadcast=True, kept=kept_pair(0b1111, 0b1111), **MANY)
    pair.run()
    assert {each.stream for each in pair.sent(Frame)} == {Stream.BITMAP}
    assert len(pair.sent(End)) == 4
    assert pair.sent(Received) == []


def test_a_complete_broadcast_is_over_immediately() -> None:
    kept = tuple(replace(each, complete=True) for each in kept_pair(0b1111, 0b1111))
    pair = MachinePair(96, 95, broadcast=True, kept=kept, **MANY)  # type: ignore[arg-type]
    pair.run()
    assert [type(message) for _, message in pair.log] == [Offer, Offer]


@roles
def test_offers_that_do_not_match_start_afresh(role: type[TaskParty]) -> None:
    kept = list(kept_pair(0b1, 0b1))
    at = role is Sender
    for change in ({"partition_sid": bytes(32)}, {"own_count": 94}, {"peer_count": 94}, {"bins": 2}):
        changed = list(kept)
        changed[at] = replace(kept[at], **change)  # type: ignore[arg-type]
        pair = MachinePair(96, 95, broadcast=False, kept=(changed[0], changed[1]), **MANY)
        pair.run()
        assert_whole(pair, 96, 95, False)
        assert {end.party.partition_sid for end in pair.ends} == {TASK_SID}


@roles
def test_the_counts_must_match_the_offer(role: type[TaskParty]) -> None:
    """A different count of the peer is a violation; a different count of our own is a changed input."""
    kept = kept_pair(0b1, 0b1)
    mine, theirs = kept if role is Receiver else kept[::-1]
    machine = role(setup(bin_items=94))
    machine.offer(mine)
    machine.receive(Offer(TASK, theirs))
    refuses(copied(machine), Open(TASK, theirs.own_count + 1, PROBE))
    with pytest.raises(InputChangedError):
        copied(machine).open(mine.own_count - 1)
    machine.open(mine.own_count)
    machine.receive(Open(TASK, theirs.own_count, PROBE))
    assert machine.bins.has_next


@roles
def test_a_second_offer(role: type[TaskParty]) -> None:
    machine = role(setup())
    refuses(copied(machine), Offer(TASK), Offer(TASK))
    machine.offer(None)
    refuses(machine, Offer(TASK), Offer(TASK))


@pytest.mark.sample(4)
@each_partitioning
@both_outcomes
@roles
def test_a_bin_may_restart_at_any_moment(role: type[TaskParty], broadcast: bool, partitioning: dict[str, int]) -> None:
    """It may restart before and after Received, until no worker is left to lose."""
    n, tried, after_received = 96 if partitioning else 20, 0, 0
    for moment in range(2000):
        pair = pair_with_loss(role, moment, broadcast=broadcast, **partitioning)
        if pair is None:
            break
        after_received += any(each.bin == 0 for each in pair.sent(Received))
        pair.run()
        assert_whole(pair, n, n, broadcast)
        assert pair.sent(Restart, role) == pair.sent(Restart, Sender if role is Receiver else Receiver)
        assert pair.sent(Restart, role) == [Restart(TASK, 0, 1)]
        tried += 1
    assert tried > 12
    assert bool(after_received) is (role is Receiver and (broadcast or bool(partitioning)))


losses = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from([(0,), (1,), (0, 1), (1, 0)]), st.integers(0, 7)),
    min_size=1,
    max_size=6,
)


# In this example the last bin is lost just before the matches are gathered.
@pytest.mark.more
@example(
    n=1,
    broadcast=True,
    capacity=(1, 1),
    seed=0,
    losses=[(113, (0,), 0), (0, (0,), 0), (297, (0,), 0), (500, (0,), 1), (424, (0,), 0)],
)
@settings(max_examples=120, deadline=None)
@given(
    n=st.sampled_from([1, 95, 97]),
    broadcast=st.booleans(),
    capacity=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**32),
    losses=losses,
)
def test_bins_lost_by_either_side_or_both_in_any_order(
    n: int,
    broadcast: bool,
    capacity: tuple[int, int],
    seed: int,
    losses: list[tuple[int, tuple[int, ...], int]],
) -> None:
    """losses: the number of steps before each loss, the parties that lose a bin, and which of their bins they lose."""
    pair = MachinePair(n, 96, broadcast=broadcast, capacity=capacity, **MANY)
    fine, chance = pair.fine_steps(), random.Random(seed)
    for steps, sides, which in losses:
        for step in chance.choices(fine, k=steps):
            step()
        for side in sides:
            numbers = may_be_lost(pair.ends[side])
            if numbers:
                pair.restart(pair.ends[side], numbers[which % len(numbers)])
    pair.run()
    assert_whole(pair, n, 96, broadcast)
    for number in range(4):
        # Each party sends Restart once, whichever lost the bin.
        sent = [[each for each in pair.sent(Restart, role) if each.bin == number] for role in (Receiver, Sender)]
        assert sent in ([[], []], [[Restart(TASK, number, 1)]] * 2)


@both_outcomes
def test_both_lose_the_same_bin_at_the_same_time(broadcast: bool) -> None:
    """The two Restarts cross, and each serves as the answer to the other."""
    pair = MachinePair(96, 96, broadcast=broadcast, **MANY)
    pair.run_until(lambda: len([each for each in pair.sent(Frame) if each.bin == 0]) > 4)
    for end in pair.ends:
        pair.restart(end, 0)
    pair.run()
    assert_whole(pair, 96, 96, broadcast)
    assert pair.sent(Restart) == [Restart(TASK, 0, 1)] * 2


@roles
def test_frames_of_the_old_attempt_are_ignored_until_the_answer(role: type[TaskParty]) -> None:
    """They may be in flight when a bin restarts. After the answer they are a violation; so are new frames before it."""
    peer = Sender if role is Receiver else Receiver
    stream = peer.bin_party.own_stream
    machine = opened(role, 20, 20)
    machine.receive(frame(stream, 0, bytes(FRAME)))
    assert machine.restart(0) == [Restart(TASK, 0, 1)]
    fresh = machine.bins[0]
    assert fresh.place == Place(TASK, 0, 1, bin_sid(0, 1))
    for stale in (frame(stream, 1, bytes(FRAME)), frame(stream, 7, b"x"), End(TASK, 0, 0, stream, 20, b"")):
        assert machine.receive(stale) == []
    assert machine.bins[0] is fresh
    assert (fresh._points_in.frames, len(fresh._pending)) == (0, 0)
    refuses(copied(machine), frame(stream, 0, bytes(FRAME), attempt=1))
    assert machine.receive(Restart(TASK, 0, 1)) == []
    refuses(copied(machine), frame(stream, 1, bytes(FRAME)))
    assert machine.receive(frame(stream, 0, bytes(FRAME), attempt=1)) == []
    assert len(fresh._pending) == 1


@roles
def test_the_other_party_restarts_the_bin_immediately(role: type[TaskParty]) -> None:
    peer = Sender if role is Receiver else Receiver
    stream = peer.bin_party.own_stream
    machine = opened(role, 20, 20)
    old = machine.bins[0]
    machine.receive(frame(stream, 0, bytes(FRAME)))
    assert machine.receive(Restart(TASK, 0, 1)) == [Restart(TASK, 0, 1)]
    assert machine.bins[0] is not old
    # The peer must not send anything of the old attempt after its Restart.
    refuses(copied(machine), frame(stream, 1, bytes(FRAME)))
    assert machine.receive(frame(stream, 0, bytes(FRAME), attempt=1)) == []


@roles
def test_an_impossible_restart(role: type[TaskParty]) -> None:
    machine = opened(role, 96, 96, **MANY)
    for number, attempt in ((0, 0), (0, 2), (0, 2**32 - 1), (2, 1), (4, 1), (2**32 - 1, 1)):
        refuses(copied(machine), Restart(TASK, number, attempt))
    machine.restart(0)
    # These do not answer our Restart.
    for number, attempt in ((0, 0), (0, 2)):
        refuses(copied(machine), Restart(TASK, number, attempt))


@roles
def test_a_peer_that_restarts_for_ever_is_stopped(role: type[TaskParty]) -> None:
    """A second Restart is a violation, whichever party sent the first; so is a second answer."""
    answered, restarted = opened(role, 20, 20), opened(role, 20, 20)
    answered.receive(Restart(TASK, 0, 1))
    restarted.restart(0)
    restarted.receive(Restart(TASK, 0, 1))
    for machine in (answered, restarted):
        for attempt in (0, 1, 2, 3):
            refuses(copied(machine), Restart(TASK, 0, attempt))
    # Each bin may restart once.
    machine = opened(role, 96, 96, **MANY)
    for number in (0, 1):
        assert machine.receive(Restart(TASK, number, 1)) == [Restart(TASK, number, 1)]
        refuses(copied(machine), Restart(TASK, number, 2))


@roles
def test_a_bin_that_is_lost_a_second_time_ends_the_run(role: type[TaskParty]) -> None:
    """A bin may restart once, even if the peer lost it the first time."""
    ours, theirs = opened(role, 20, 20), opened(role, 20, 20)
    ours.restart(0)
    theirs.receive(Restart(TASK, 0, 1))
    for machine in (ours, theirs):
        with pytest.raises(WorkerLostError) as caught:
            machine.restart(0)
        assert caught.value.code == 69


@both_outcomes
def test_a_received_bin_restarts_only_before_the_result_is_sent(broadcast: bool) -> None:
    """After the last Received of a one-sided task, or the first bit of a broadcast, it is too late on both sides."""
    pair = MachinePair(20, 20, broadcast=broadcast)
    wanted = first(Stream.BITMAP) if broadcast else a(Received)
    pair.run_until(lambda: bool(pair.sender.inbox) and wanted(pair.sender.inbox[-1]))
    with pytest.raises(WorkerLostError):
        pair.receiver.party.restart(0)
    while pair.deliver(pair.sender):
        pass
    refuses(pair.sender.party, Restart(TASK, 0, 1))


@pytest.mark.parametrize("completed_before", [True, False])
def test_the_result_is_gathered_again_after_a_loss(completed_before: bool) -> None:
    """If a bin is lost while the receiver gathers the result, that result is discarded."""
    pair = MachinePair(20, 20, broadcast=True)
    receiver, sender = pair.ends
    pair.run_until(lambda: receiver.party.phase is Phase.RESULT)
    assert pair.begin(receiver, 0)
    pair.restart(receiver, 0)
    assert receiver.party.phase is Phase.EXCHANGE
    if completed_before:
        assert pair.complete(receiver, 0)
    while receiver.party.phase is Phase.EXCHANGE:
        moved = [pair.begin(receiver, 1), pair.complete(receiver, 1), pair.deliver(receiver)]
        assert any([*moved, pair.work(sender), pair.deliver(sender)])
    assert [each for each in pair.sent(Frame) if each.stream == Stream.BITMAP] == []
    pair.run()
    assert_streams_are_whole(pair, True)
    assert receiver.work_of(None).count(GatherMatches()) == 2
    assert len(pair.sent(Commit)) == 1


@each_partitioning
@both_outcomes
def test_a_sender_that_has_ended_the_tokens_needs_no_worker(broadcast: bool, partitioning: dict[str, int]) -> None:
    """R may have received the bin by then, and would refuse a Restart."""
    n = 96 if partitioning else 20
    pair = MachinePair(n, n, broadcast=broadcast, **partitioning)
    pair.run_until(lambda: any(each.stream == Stream.TOKENS for each in pair.sent(End)))
    while not pair.finished:
        assert pair.sender.party.restart(0) == []
        moved = [step() for step in pair.steps()]
        assert any(moved)
    assert pair.sender.party.restart(0) == []
    assert_whole(pair, n, n, broadcast)


@roles
def test_a_restarted_bin_has_its_own_streams(role: type[TaskParty]) -> None:
    """The digests include the attempt, and no point of the first attempt is sent again."""
    pair = pair_with_loss(role, 12, broadcast=False)
    assert pair is not None
    pair.run()
    data: dict[int, set[bytes]] = {attempt: set() for attempt in (0, 1)}
    for each in pair.sent(Frame):
        data[each.attempt].add(each.data)
    assert data[0]
    assert not data[0] & data[1]


def test_progress_goes_back_after_a_loss() -> None:
    pair = MachinePair(96, 96, broadcast=False, **MANY)
    pair.run_until(lambda: len(pair.sent(Received)) == 1)
    party, (number,) = pair.receiver.party, [each.bin for each in pair.sent(Received)]
    before = party.progress
    pair.restart(pair.receiver, number)
    assert party.progress.own == before.own - 93
    assert party.bins.never_done <= BINS_UNDER_WAY
    pair.run()
    assert party.progress == Progress(4 * 93, 4 * 93, 4 * 93, 4 * 93)
