"""Tests of a whole task with its steps in any order: what is sent, what is computed, and when."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.machines import FRAME_ITEMS, PROBE, TASK, MachinePair, begin_bins, setup
from support.memory.tasks import (
    BINS_UNDER_WAY,
    MANY,
    SIZES,
    assert_whole,
    both_outcomes,
    completed_run,
    copied,
    each_partitioning,
    end_of,
    sizes,
)

from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import padded
from psicli.protocol.messages import End, Frame, Offer, Open, Received, Stream
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import StreamShape
from psicli.protocol.task import Progress
from psicli.protocol.work import MaskOwn, Prepare

MANY_SIZES = [0, 1, 2, 3, 4, 5, 31, 93, 94, 95, 96, 97]
schedules = st.lists(st.integers(0, 19), max_size=200)


def assert_order_of_bins(pair: MachinePair) -> None:
    """Assert that in each direction the points of a bin end before the next bin's begin, and at most two bins run.

    This holds only if no bin restarts.
    """
    for role, stream in ((Receiver, Stream.RECEIVER_POINTS), (Sender, Stream.SENDER_POINTS)):
        points = [each for each in pair.sent(Frame, role) + pair.sent(End, role) if each.stream == stream]
        log = [message for by, message in pair.log if by is role]
        numbers = [
            each.bin for each in sorted(points, key=lambda each: next(i for i, m in enumerate(log) if m is each))
        ]
        assert numbers == sorted(numbers)
    received = 0
    for _, message in pair.log:
        received += isinstance(message, Received)
        if isinstance(message, Frame) and message.stream in (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS):
            assert message.bin < received + BINS_UNDER_WAY


@both_outcomes
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_a_whole_task(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast)
    assert pair.number_of_bins == (1 if n and m else 0)
    assert_whole(pair, n, m, broadcast)


@pytest.mark.sample(96)
@both_outcomes
@pytest.mark.parametrize("m", MANY_SIZES)
@pytest.mark.parametrize("n", MANY_SIZES)
def test_a_whole_task_of_several_bins(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast, **MANY)
    assert pair.number_of_bins == (0 if not (n and m) else 1 if max(n, m) <= 94 else 4)
    assert_whole(pair, n, m, broadcast)
    assert_order_of_bins(pair)


@settings(max_examples=150, deadline=None)
@given(n=sizes, m=sizes, broadcast=st.booleans(), schedule=schedules)
def test_any_interleaving_gives_the_same_result(n: int, m: int, broadcast: bool, schedule: list[int]) -> None:
    pair = MachinePair(n, m, broadcast=broadcast)
    pair.run(schedule)
    assert_whole(pair, n, m, broadcast)


long_schedules = st.builds(
    lambda seed, length: random.Random(seed).choices(range(20), k=length), st.integers(0, 2**32), st.integers(0, 2000)
)


@pytest.mark.more
@settings(max_examples=80, deadline=None)
@given(
    n=st.sampled_from([1, 5, 95, 97]),
    broadcast=st.booleans(),
    schedule=schedules | long_schedules,
    capacity=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_any_interleaving_of_bins_gives_the_same_result(
    n: int, broadcast: bool, schedule: list[int], capacity: tuple[int, int]
) -> None:
    """Two bins run, as in a session, and each direction of the link is sometimes full."""
    pair = MachinePair(n, 96, broadcast=broadcast, capacity=capacity, **MANY)
    pair.run(schedule)
    assert_whole(pair, n, 96, broadcast)
    assert_order_of_bins(pair)


@pytest.mark.more
@settings(max_examples=150, deadline=None)
@given(
    n=sizes,
    m=sizes,
    broadcast=st.booleans(),
    schedule=schedules,
    capacity=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_two_full_directions_never_wait_for_each_other(
    n: int, m: int, broadcast: bool, schedule: list[int], capacity: tuple[int, int]
) -> None:
    pair = MachinePair(n, m, broadcast=broadcast, capacity=capacity)
    pair.run(schedule)
    assert_whole(pair, n, m, broadcast)


@each_partitioning
def test_the_sender_ends_the_tokens_after_its_checks(partitioning: dict[str, int]) -> None:
    n = 96 if partitioning else 20
    pair = MachinePair(n, n, broadcast=False, **partitioning)

    def about_to_check() -> bool:
        party = pair.sender.party.bins.get(0)
        return party is not None and party.phase.name == "CHECKS"

    pair.run_until(about_to_check)
    tokens = [message for message in pair.sent(Frame) if (message.bin, message.stream) == (0, Stream.TOKENS)]
    assert len(tokens) == 3
    assert Stream.TOKENS not in [end.stream for end in pair.sent(End)]
    pair.work(pair.sender)
    assert (pair.sent(End)[-1].bin, pair.sent(End)[-1].stream) == (0, Stream.TOKENS)


@both_outcomes
def test_a_receiver_accepts_a_bin_after_the_end_of_its_tokens(broadcast: bool) -> None:
    """The sender ends the tokens after its checks; until then no bin is accepted, even if our own checks pass."""
    pair = MachinePair(20, 20, broadcast=broadcast)
    receiver = pair.receiver
    pair.run_until(lambda: bool(receiver.inbox) and end_of(Stream.TOKENS)(receiver.inbox[0]))
    while pair.work(receiver):
        pass
    assert pair.sent(Received) == []
    pair.deliver(receiver)
    while pair.work(receiver):
        pass
    assert len(pair.sent(Received)) == 1


def test_no_point_is_sent_before_both_opens() -> None:
    machine = Receiver(setup())
    with pytest.raises(PeerProtocolError):
        copied(machine).receive(Open(TASK, 20, PROBE))
    machine.receive(Offer(TASK))
    with pytest.raises(LocalProtocolError):
        copied(machine).open(20)
    assert machine.offer(None) == [Offer(TASK)]
    machine.open(20)
    assert not machine.bins.has_next
    assert machine.next_work(room=True) is None
    machine.receive(Open(TASK, 20, PROBE))
    begin_bins(machine, machine.bins.begin)
    work = machine.bins[0].next_work(room=True)
    assert work == Prepare()
    machine.bins[0].completed(work)
    assert machine.bins[0].next_work(room=True) == MaskOwn(0, FRAME_ITEMS)


@each_partitioning
def test_progress_only_grows(partitioning: dict[str, int]) -> None:
    n, m = (96, 130) if partitioning else (20, 30)
    pair = MachinePair(n, m, broadcast=True, **partitioning)
    assert pair.receiver.party.progress == Progress(0, 0, 0, 0)
    seen: list[Progress] = []
    pair.run_until(lambda: bool(seen.append(pair.receiver.party.progress)) or pair.finished)  # type: ignore[func-returns-value]
    assert seen == sorted(seen)
    assert all(one <= two for before, after in pairwise(seen) for one, two in zip(before, after, strict=True))
    bins = pair.number_of_bins
    assert bins == (8 if partitioning else 1)
    own, peer = padded(n, bins), padded(m, bins)
    assert seen[-1] == Progress(own, own, peer, peer)


@pytest.mark.parametrize(
    ("stream", "count", "sizes_of_frames"),
    [
        (Stream.RECEIVER_POINTS, 0, []),
        (Stream.RECEIVER_POINTS, 17, [256, 256, 32]),
        (Stream.TOKENS, 16, [128, 128]),
        (Stream.TOKENS, 17, [128, 128, 16]),
        (Stream.BITMAP, 17, [1, 1, 1]),
    ],
)
def test_frames_are_full_but_the_last(stream: Stream, count: int, sizes_of_frames: list[int]) -> None:
    shape = StreamShape(stream, count, FRAME_ITEMS)
    assert [shape.frame_bytes(seq) for seq in range(shape.frames)] == sizes_of_frames
