"""A task whose receiver only counts: the order of its messages, its one bin, and when it may restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from support.memory.machines import FRAME_ITEMS, TASK, MachinePair, made_up_permuted
from support.memory.tasks import assert_order_of_the_end, copied, sizes, spans

from psicli.core.errors import WorkerLostError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import End, Frame, Kept, Received, Restart, Stream
from psicli.protocol.work import CheckLists, PermuteTokens

N, M = 3 * FRAME_ITEMS + 1, 2 * FRAME_ITEMS


def pair_of(n: int = N, m: int = M, **how: Any) -> MachinePair:
    return MachinePair(n, m, counts=True, **how)


def parts(pair: MachinePair, stream: Stream) -> list[int]:
    """Return the places in the log of the frames and the End of a stream."""
    streams = [
        getattr(message, "stream", None) if isinstance(message, Frame | End) else None for _, message in pair.log
    ]
    return [place for place, each in enumerate(streams) if each == stream]


def _at(reached: Callable[[MachinePair], bool], n: int = N, m: int = M) -> MachinePair:
    """Return a pair at the first moment when a condition holds."""
    pair = pair_of(n, m)
    pair.run_until(lambda: reached(pair))
    return pair


def ended(pair: MachinePair, stream: Stream) -> bool:
    return any(each.stream == stream for each in pair.sent(End))


@settings(max_examples=30)
@given(n=sizes, m=sizes)
def test_the_tokens_follow_both_lists_of_points(n: int, m: int) -> None:
    """They are the last of the sender's lists, whatever the order of the work."""
    pair = pair_of(n, m)
    pair.run()
    assert_order_of_the_end(pair, n, m, broadcast=False)
    if not (n and m):
        assert parts(pair, Stream.TOKENS) == []
        return
    tokens = parts(pair, Stream.TOKENS)
    assert tokens[0] > max(parts(pair, Stream.RECEIVER_POINTS) + parts(pair, Stream.SENDER_POINTS))
    assert pair.data(Stream.TOKENS) == made_up_permuted(n)
    work = pair.sender.work_of(0)
    checked = work.index(CheckLists())
    assert work[checked + 1 :] == [PermuteTokens(*span) for span in spans(n, FRAME_ITEMS)]
    assert not any(isinstance(each, PermuteTokens) for each in [*work[:checked], *pair.receiver.work_of(0)])


@pytest.mark.parametrize("schedule", range(20))
def test_no_token_leaves_before_the_end_of_the_points_in_any_order_of_the_work(schedule: int) -> None:
    pair = pair_of(capacity=(3, 3))
    pair.run([(schedule * 7919 + i * i * 31) % 997 for i in range(400)])
    points = parts(pair, Stream.RECEIVER_POINTS) + parts(pair, Stream.SENDER_POINTS)
    assert parts(pair, Stream.TOKENS)[0] > max(points)


def test_there_is_one_bin_however_small_bins_are() -> None:
    pair = pair_of(bin_items=4)
    pair.run()
    for end in pair.ends:
        assert end.party.number_of_bins == 1
        assert sorted(end.party.capacities) == sorted((N, M))
    assert pair.receiver.party.questions == M


def test_a_checkpoint_of_an_earlier_run_is_not_resumed() -> None:
    """Neither side makes one; a peer that offers one gets a task from its start."""
    pair = pair_of(kept=(None, Kept(bytes(32), M, N, 1, 1)))
    pair.run()
    assert pair.receiver.party.resumption is None
    assert pair.sender.party.resumption is None
    assert pair.data(Stream.TOKENS) == made_up_permuted(N)


# Messages at the wrong time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reached",
    [
        lambda pair: any(frame.stream == Stream.RECEIVER_POINTS for frame in pair.sent(Frame)),
        lambda pair: ended(pair, Stream.RECEIVER_POINTS) and not ended(pair, Stream.SENDER_POINTS),
    ],
    ids=["after the first points", "before the end of the sender's points"],
)
def test_tokens_that_come_too_early(reached: Callable[[MachinePair], bool]) -> None:
    receiver = copied(_at(reached, N, 5 * FRAME_ITEMS).receiver.party)
    with pytest.raises(PeerProtocolError, match="tokens of a task that only counts before the end of the points"):
        receiver.receive(Frame(TASK, 0, 0, Stream.TOKENS, 0, bytes(16 * FRAME_ITEMS)))


def test_received_before_the_last_token() -> None:
    pair = _at(lambda pair: any(frame.stream == Stream.TOKENS for frame in pair.sent(Frame)))
    assert not ended(pair, Stream.TOKENS)
    with pytest.raises(PeerProtocolError, match="confirmed bin 0 before it was complete"):
        copied(pair.sender.party).receive(Received(TASK, 0, 0, bytes(32)))


# Restarts ----------------------------------------------------------------------------------------------------------


def first_token(pair: MachinePair) -> bool:
    return any(frame.stream == Stream.TOKENS for frame in pair.sent(Frame))


def test_a_receiver_restarts_before_the_end_of_its_points_only() -> None:
    pair = _at(lambda pair: any(frame.stream == Stream.RECEIVER_POINTS for frame in pair.sent(Frame)))
    pair.restart(pair.receiver, 0)
    pair.run()
    assert len(pair.sent(Restart)) == 2
    assert {frame.attempt for frame in pair.sent(Frame) if frame.stream == Stream.TOKENS} == {1}
    late = _at(lambda pair: ended(pair, Stream.RECEIVER_POINTS))
    with pytest.raises(WorkerLostError):
        late.receiver.party.restart(0)


def test_a_sender_restarts_before_its_first_token_only() -> None:
    pair = _at(lambda pair: CheckLists() in pair.sender.work_of(0))
    assert not first_token(pair)
    pair.restart(pair.sender, 0)
    pair.run()
    assert {frame.attempt for frame in pair.sent(Frame) if frame.stream == Stream.TOKENS} == {1}
    late = _at(first_token)
    with pytest.raises(WorkerLostError):
        late.sender.party.restart(0)


def test_a_sender_that_has_answered_needs_no_restart() -> None:
    pair = _at(lambda pair: ended(pair, Stream.TOKENS))
    assert pair.sender.party.restart(0) == []
    pair.run()


def test_a_receiver_cannot_ask_again() -> None:
    """With an answer in hand, or on its way, another list of points would be another question."""
    for reached in (lambda pair: CheckLists() in pair.sender.work_of(0), first_token):
        pair = _at(reached)
        with pytest.raises(PeerProtocolError, match="restarted bin 0 out of order"):
            copied(pair.sender.party).receive(Restart(TASK, 0, 1))


def test_a_sender_cannot_answer_again() -> None:
    pair = _at(lambda pair: any(getattr(each, "tokens", b"") for each in pair.receiver.work_of(0)))
    with pytest.raises(PeerProtocolError, match="restarted bin 0 out of order"):
        copied(pair.receiver.party).receive(Restart(TASK, 0, 1))
