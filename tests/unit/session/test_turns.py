"""Tests of the schedule: the bins of all tasks run in order, at most two at the same time."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from support.memory.machines import PATIENCE
from support.memory.sessions import (
    ALICE,
    BOB,
    FRAME_ITEMS,
    Filter,
    Party,
    Plan,
    Signal,
    TapLink,
    both,
    joined,
    messages_of,
    numbers,
    run,
    small,
    succeeded,
)
from support.waiting import wait_until

from psicli.core.errors import SelfCheckError
from psicli.core.peer_errors import PeerAccusesError, PeerProtocolError
from psicli.exchange.worker import Match, Worker
from psicli.protocol.bins import MOST_BIN_ITEMS, number_of_bins
from psicli.protocol.messages import DIGEST_BYTES, Commit, Done, End, Frame, Message, Received, Stream
from psicli.session.session import Session
from psicli.transport.link import QUEUE_FRAMES

BIN_ITEMS = 128
# Bins of a task, by the items of its larger list.
BINS = {count: number_of_bins(count, count, BIN_ITEMS) for count in (150, 200, 400)}


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[int, tuple[bool, int]]]]:
    """Record, per party and turn of the loop: for each task with running bins, its role and the number of bins."""
    seen: dict[str, list[dict[int, tuple[bool, int]]]] = {ALICE: [], BOB: []}
    begin_bins = Session._begin_bins

    def watch(session: Session) -> None:
        begin_bins(session)
        parties = {live.index: live.party for live in session._turns}
        now = {i: (each.receives, each.bins.never_done) for i, each in parties.items() if each.bins.never_done}
        seen[session.hellos.ours.party].append(now)

    monkeypatch.setattr(Session, "_begin_bins", watch)
    return seen


def learnt(ends: tuple[Party, Party], common: set[str]) -> None:
    """Assert that each party learnt the results it is entitled to, in all tasks."""
    for end in ends:
        for plan in end.plans:
            assert plan.found == (common if plan.receives or plan.broadcast else None)


@pytest.mark.more
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("receiver", [ALICE, BOB])
def test_two_bins_are_under_way_at_a_time(
    under_way: dict[str, list[dict[int, tuple[bool, int]]]], receiver: str, broadcast: bool
) -> None:
    """The limit holds for all tasks together."""
    pairs = [
        both(f"t{i}", numbers(0, 130), numbers(100, 250), receiver=receiver, broadcast=broadcast) for i in range(3)
    ]
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs], bin_items=BIN_ITEMS)
    run(ends)
    succeeded(ends)
    learnt(ends, set(numbers(100, 130)))
    for end in ends:
        counts = [sum(count for _, count in now.values()) for now in under_way[end.party]]
        assert max(counts) == 2
        assert {message.bin for message in end.link.sent if isinstance(message, Frame)} == set(range(BINS[150]))


def test_the_last_bin_of_a_task_and_the_first_of_the_next_are_under_way_together(
    under_way: dict[str, list[dict[int, tuple[bool, int]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masking is held back until both bins run on both sides."""
    mask_own = Worker.mask_own

    def hold(worker: Worker, start: int, stop: int) -> bytes:
        wait_until(
            lambda: all(any(set(now) == {0, 1} for now in seen) for seen in under_way.values()),
            "both bins run together",
            PATIENCE,
        )
        return mask_own(worker, start, stop)

    monkeypatch.setattr(Worker, "mask_own", hold)
    ends = joined(*small(3), bin_items=BIN_ITEMS)
    run(ends)
    succeeded(ends)
    learnt(ends, set(numbers(3, 5)))
    assert {0: (True, 1), 1: (True, 1)} in under_way[ALICE]
    assert {0: (False, 1), 1: (False, 1)} in under_way[BOB]


def test_bins_go_in_order() -> None:
    """In each direction the points of a bin end before the next bin's begin; all but the latest two are received."""
    alice, bob = both("t0", numbers(0, 400), numbers(200, 600), receiver=ALICE)
    ends = joined([alice], [bob], bin_items=BIN_ITEMS)
    run(ends)
    succeeded(ends)
    learnt(ends, set(numbers(200, 400)))
    for end in ends:
        points = [m.bin for m in end.link.sent if isinstance(m, Frame | End) and m.stream != Stream.TOKENS]
        assert points == sorted(points)
    received = [message for message in ends[0].link.sent if isinstance(message, Received)]
    assert sorted(message.bin for message in received) == list(range(BINS[400]))
    # Bin n starts once all bins up to n - 2 are received; two checks run at a time, so their order may differ.
    sent = ends[0].link.sent
    for number in range(2, BINS[400]):
        first = next(i for i, message in enumerate(sent) if isinstance(message, Frame) and message.bin == number)
        assert {message.bin for message in sent[:first] if isinstance(message, Received)} >= set(range(number - 1))
    assert [bool(message.digest) for message in received] == [False] * (BINS[400] - 1) + [True]


@pytest.mark.more
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
def test_tasks_of_opposite_receivers_have_no_bins_under_way_together(
    under_way: dict[str, list[dict[int, tuple[bool, int]]]], broadcast: bool
) -> None:
    """Otherwise both directions could be full of points while each party waits for the other to read."""
    pairs = [
        both(f"t{i}", numbers(0, 130), numbers(100, 250), receiver=(ALICE, BOB)[i % 2], broadcast=broadcast)
        for i in range(5)
    ]
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs], bin_items=BIN_ITEMS)
    run(ends)
    succeeded(ends)
    learnt(ends, set(numbers(100, 130)))
    for end in ends:
        assert max(sum(count for _, count in now.values()) for now in under_way[end.party]) == 2
        assert all(len({receives for receives, _ in now.values()}) <= 1 for now in under_way[end.party])


@pytest.mark.more
@pytest.mark.parametrize("bin_items", [BIN_ITEMS, MOST_BIN_ITEMS], ids=["many bins", "one bin"])
def test_full_links_in_both_directions_do_not_wait_for_each_other(bin_items: int) -> None:
    """Each direction fills up before the first frame leaves, as on a slow line; both lists exceed the queues."""
    many = 4 * QUEUE_FRAMES * FRAME_ITEMS
    pairs = [
        both(f"t{i}", numbers(0, many), numbers(many // 2, 2 * many), receiver=(ALICE, BOB)[i % 2]) for i in range(4)
    ]
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs], bin_items=bin_items)
    full = {end.party: Signal() for end in ends}

    def slow(end: Party) -> Filter:
        def passes(message: Message) -> bool:
            # The first frame is held back until the queue is full.
            if isinstance(message, Frame) and message.task == message.bin == message.seq == 0:
                with end.link._changed:
                    is_full = end.link._changed.wait_for(lambda: end.link.room() < 1, PATIENCE)
                assert is_full, "the link did not fill up"
                full[end.party].set()
            return True

        return passes

    run(ends, to_alice=slow(ends[1]), to_bob=slow(ends[0]))
    succeeded(ends)
    for signal in full.values():
        signal.wait()
    learnt(ends, set(numbers(many // 2, many)))


@pytest.mark.more
def test_a_failed_comparison_stays_hidden_from_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver compares a bin after it has sent Received, so the sender sees no difference if that fails."""
    alice = [Plan(f"t{i}", numbers(0, 200), receives=True) for i in range(3)]
    bob = [Plan(f"t{i}", numbers(100, 300), receives=False) for i in range(3)]
    ends = joined(alice, bob, bin_items=BIN_ITEMS)
    match = Worker.match
    matched = itertools.count(1)
    failure = SelfCheckError(backend="native", detail="a test")

    def fail_once(worker: Worker, *, bitmap: bool = False) -> Match:
        # Fail in the second bin of the second task; bins are compared one at a time, in order.
        if next(matched) == BINS[200] + 2:
            raise failure
        return match(worker, bitmap=bitmap)

    monkeypatch.setattr(Worker, "match", fail_once)
    run(ends)
    succeeded(ends)
    assert [plan.alone_failure for plan in alice] == [None, failure, None]
    assert [plan.found for plan in alice] == [set(numbers(100, 200)), None, set(numbers(100, 200))]
    assert all(plan.calls == ["started", "exchanged"] for plan in bob)
    kinds = [Counter(type(message) for message in messages_of(ends[0].link.sent, task)) for task in range(3)]
    assert kinds[0] == kinds[1] == kinds[2]
    assert kinds[0][Received] == BINS[200]


class LyingLink(TapLink):
    """A link that sends a wrong digest in one kind of message."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self._kind = kind

    def send(self, message: Message) -> int:
        if isinstance(message, self._kind) and message.digest:
            message = replace(message, digest=bytes(DIGEST_BYTES))
        return super().send(message)


@pytest.mark.sample(2)
@pytest.mark.parametrize("bin_items", [BIN_ITEMS, MOST_BIN_ITEMS], ids=["many bins", "one bin"])
@pytest.mark.parametrize(
    ("kind", "broadcast", "liar"), [(Received, False, 0), (Done, False, 1), (Commit, True, 0), (Done, True, 1)]
)
def test_a_digest_that_differs_is_a_violation(kind: type[Any], broadcast: bool, liar: int, bin_items: int) -> None:
    """Both parties must compute the same digest over counts and bins, and over the matches in a broadcast."""
    alice, bob = both("t0", numbers(0, 100), numbers(50, 150), receiver=ALICE, broadcast=broadcast)
    links = [TapLink(), TapLink()]
    links[liar] = LyingLink(kind)
    ends = joined([alice], [bob], links=(links[0], links[1]), bin_items=bin_items)
    run(ends)
    failure = ends[1 - liar].failure
    assert isinstance(failure, PeerProtocolError)
    assert failure.code == 76
    assert "it computed a different digest of the task" in failure.message
    # After Done the peer has already left; before that, it hears the accusation.
    if kind is not Done:
        assert isinstance(ends[liar].failure, PeerAccusesError)
    assert alice.found is None or kind is Done or broadcast
    assert bob.output is None or bob.output.published == (kind is Done)
