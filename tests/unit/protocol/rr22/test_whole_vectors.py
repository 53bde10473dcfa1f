"""Tests of a whole task by RR22 with its steps in any order: what is sent, what is computed, and when."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.machines import MachinePair
from support.memory.tasks import (
    BINS_UNDER_WAY,
    MANY_VECTORS,
    VECTORS,
    assert_whole,
    both_outcomes,
    completed_run,
    end_of,
)

from psicli.protocol.bins import padded
from psicli.protocol.messages import End, Frame, Received, Stream
from psicli.protocol.receiver import Receiver
from psicli.protocol.rr22.sizes import sizes
from psicli.protocol.sender import Sender
from psicli.protocol.task import Progress
from psicli.protocol.work import Compute, ComputeAhead, Prepare

schedules = st.builds(
    lambda seed, length: random.Random(seed).choices(range(20), k=length), st.integers(0, 2**32), st.integers(0, 600)
)


@both_outcomes
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0), (1, 1), (1, 3000), (3000, 1), (1023, 1025), (2048, 1024)])
def test_a_whole_task_by_rr22(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast, **VECTORS)
    assert pair.number_of_bins == (1 if n and m else 0)
    assert_whole(pair, n, m, broadcast)


@both_outcomes
@pytest.mark.parametrize(("n", "m"), [(1, 95), (95, 1), (96, 97)])
def test_a_whole_task_of_several_bins_by_rr22(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast, **MANY_VECTORS)
    assert pair.number_of_bins == 4
    assert_whole(pair, n, m, broadcast)


@pytest.mark.more
@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from([1, 5, 95]),
    broadcast=st.booleans(),
    schedule=schedules,
    capacity=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_any_interleaving_of_two_full_directions_by_rr22(
    n: int, broadcast: bool, schedule: list[int], capacity: tuple[int, int]
) -> None:
    """Both bins in progress send, and the parties never wait for each other."""
    pair = MachinePair(n, 96, broadcast=broadcast, capacity=capacity, **MANY_VECTORS)
    pair.run(schedule)
    assert_whole(pair, n, 96, broadcast)
    received = 0
    for _, message in pair.log:
        received += isinstance(message, Received)
        if isinstance(message, Frame) and message.stream != Stream.BITMAP:
            assert message.bin < received + BINS_UNDER_WAY


def test_two_bins_are_in_progress_at_the_same_time() -> None:
    """The second bin goes on while the first one is computed."""
    pair = MachinePair(96, 96, broadcast=False, **MANY_VECTORS)
    pair.run_until(lambda: len(pair.sent(End, Receiver)) == 1)
    while not any(end.bin == 1 and end.stream == Stream.TOKENS for end in pair.sent(End)):
        # The sender computes nothing of the first bin; its second lane is that of the next one.
        moved = [pair.begin(pair.sender, 2), pair.complete(pair.sender, 2), pair.deliver(pair.sender)]
        assert any([*moved, pair.work(pair.receiver), pair.deliver(pair.receiver)])
    assert {end.stream for end in pair.sent(End) if end.bin == 0} == {Stream.KEYS, Stream.CHOICES}
    pair.run()
    assert_whole(pair, 96, 96, False)


def test_the_sender_ends_the_tokens_of_rr22_once_it_has_recorded_its_answer() -> None:
    pair = MachinePair(20, 20, broadcast=False, **VECTORS)
    sender = pair.sender.party

    def about_to_check() -> bool:
        return 0 in sender.bins and sender.bins[0].phase.name == "CHECKS"

    pair.run_until(about_to_check)
    assert [each for each in pair.sent(Frame, Sender) if each.stream == Stream.TOKENS]
    assert not sender.bins[0].answered
    assert Stream.TOKENS not in [end.stream for end in pair.sent(End)]
    pair.work(pair.sender)
    assert pair.sent(End)[-1].stream == Stream.TOKENS
    assert sender.bins[0].answered


@both_outcomes
def test_a_receiver_accepts_a_bin_by_rr22_after_the_end_of_its_tokens(broadcast: bool) -> None:
    pair = MachinePair(20, 20, broadcast=broadcast, **VECTORS)
    receiver = pair.receiver
    pair.run_until(lambda: bool(receiver.inbox) and end_of(Stream.TOKENS)(receiver.inbox[0]))
    while pair.work(receiver):
        pass
    assert pair.sent(Received) == []
    pair.deliver(receiver)
    while pair.work(receiver):
        pass
    assert len(pair.sent(Received)) == 1


def test_the_items_are_encoded_before_the_sums_arrive() -> None:
    """So the time in which the sender computes is used; the sender hashes its items meanwhile."""
    pair = MachinePair(20, 20, broadcast=False, **VECTORS)
    pair.run_until(lambda: bool(pair.receiver.inbox) and end_of(Stream.SUMS)(pair.receiver.inbox[-1]))
    assert pair.receiver.work_of(0)[-1] == ComputeAhead(Stream.CHOICES)
    assert ComputeAhead(Stream.KEYS) in pair.sender.work_of(0)


def test_one_piece_of_work_of_rr22_at_a_time() -> None:
    """Each piece needs the one before; frames go out as fast as there is room."""
    pair = MachinePair(20, 20, broadcast=False, **VECTORS)
    pair.run_until(lambda: 0 in pair.sender.party.bins)
    party = pair.sender.party.bins[0]
    work = party.next_work(room=False)
    assert work == Prepare()
    assert party.next_work(room=True) is None
    party.completed(work)
    work = party.next_work(room=False)
    assert work == Compute(Stream.KEYS, b"")
    assert party.next_work(room=True) is None
    assert party.frames_under_way == 0
    party.completed(work, bytes(16 * sizes(20).keys))
    assert party.next_work(room=False) is None
    assert party.next_work(room=True) is not None
    assert party.frames_under_way == 1
    assert party.next_work(room=True) is None


def test_progress_of_rr22_only_grows() -> None:
    pair = MachinePair(96, 130, broadcast=True, **MANY_VECTORS)
    seen: list[Progress] = []
    pair.run_until(lambda: bool(seen.append(pair.receiver.party.progress)) or pair.finished)  # type: ignore[func-returns-value]
    assert all(one <= two for before, after in pairwise(seen) for one, two in zip(before, after, strict=True))
    own, peer = padded(96, 8), padded(130, 8)
    assert (seen[0], seen[-1]) == (Progress(0, 0, 0, 0), Progress(own, own, peer, peer))
    assert len({each.share for each in seen}) > 2 * 8


def test_a_receiver_can_ask_about_as_many_items_as_its_store_has_positions() -> None:
    pair = completed_run(96, 96, broadcast=False, **MANY_VECTORS)
    assert pair.sender.party.questions == 4 * (103 + 256)
    assert pair.receiver.party.questions == 4 * 93
