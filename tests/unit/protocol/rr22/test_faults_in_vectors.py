"""Tests of a single fault in the peer's messages of RR22, and of what a receiver that fails may disclose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.memory.machines import TASK, MachinePair, begin_bins
from support.memory.tasks import (
    MANY_VECTORS,
    VECTORS,
    both_outcomes,
    chain,
    copied,
    end_of,
    first,
    frame,
    opened,
    refuses,
    roles,
)

from psicli.core.errors import LocalProtocolError
from psicli.protocol.messages import End, Frame, Received, Restart, Stream, TaskMessage
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Disclosure, TaskParty
from psicli.protocol.work import MaskOwn

# What each role receives; the streams have as many frames.
INCOMING = [
    (Receiver, Stream.KEYS, 1),
    (Sender, Stream.CHOICES, 19),
    (Receiver, Stream.SUMS, 6),
    (Sender, Stream.VECTOR, 2),
    (Receiver, Stream.TOKENS, 2),
]
each_stream = pytest.mark.parametrize(
    ("role", "stream", "frames"), INCOMING, ids=[f"{role.__name__}-{stream.name}" for role, stream, _ in INCOMING]
)
# With so many items each, VECTOR and TOKENS have two frames.
ITEMS = 1100


def just_before(
    role: type[TaskParty], wanted: Callable[[TaskMessage], bool], n: int = ITEMS, **how: Any
) -> tuple[TaskParty, Any]:
    """Run a pair until the next message for this role is the wanted one; return the machine and the message."""
    pair = MachinePair(n, n, **{**VECTORS, "broadcast": False, **how})
    end = pair.end(role)
    pair.run_until(lambda: bool(end.inbox) and wanted(end.inbox[0]) and end.party.wants_input)
    begin_bins(end.party, end.party.bins.begin)
    return end.party, end.inbox[0]


FRAME_FAULTS: dict[str, Callable[[Frame], Frame]] = {
    "gap": lambda frame: replace(frame, seq=frame.seq + 1),
    "repeat": lambda frame: replace(frame, seq=frame.seq - 1),
    "far": lambda frame: replace(frame, seq=2**63),
    "short": lambda frame: replace(frame, data=frame.data[:-1]),
    "block missing": lambda frame: replace(frame, data=frame.data[:-16]),
    "long": lambda frame: replace(frame, data=frame.data + b"\0"),
    "block more": lambda frame: replace(frame, data=frame.data + bytes(16)),
    "empty": lambda frame: replace(frame, data=b""),
    "task": lambda frame: replace(frame, task=TASK - 1),
    "next bin": lambda frame: replace(frame, bin=frame.bin + 1),
    "next attempt": lambda frame: replace(frame, attempt=1),
    **{f"stream {each}": lambda frame, each=each: replace(frame, stream=each) for each in (0, 9, 2**32 - 1)},  # type: ignore[misc]
}


@pytest.mark.parametrize("fault", FRAME_FAULTS)
@each_stream
def test_a_wrong_frame_of_a_vector(role: type[TaskParty], stream: Stream, frames: int, fault: str) -> None:
    machine, message = just_before(role, first(stream, frames - 1))
    assert isinstance(message, Frame)
    refuses(machine, FRAME_FAULTS[fault](message))


@each_stream
def test_only_the_stream_that_is_due_may_come(role: type[TaskParty], stream: Stream, frames: int) -> None:
    """At its first frame, at its last one and at its End, no other stream may come, nor its End."""
    for wanted in (first(stream), first(stream, frames - 1), end_of(stream)):
        machine, message = just_before(role, wanted)
        for other in {*Stream} - {stream}:
            error = refuses(copied(machine), frame(other, 0, bytes(16 * 1024)))
            assert f"stream {stream} was due" in str(error) or other in (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS)
            refuses(copied(machine), End(TASK, 0, 0, other, 1024, chain(other, [])))
        machine.receive(message)


@roles
def test_no_stream_may_come_in_our_turn(role: type[TaskParty]) -> None:
    """After each End of the peer's it is our turn, also while we compute, and after the last one nothing may come."""
    for after in [stream for each, stream, _ in INCOMING if each is role]:
        machine, end = just_before(role, end_of(after))
        messages = machine.receive(end)
        assert messages == []
        for other in Stream:
            refuses(copied(machine), frame(other, 0, bytes(16 * 1024)))
            refuses(copied(machine), replace(end, stream=other))


@each_stream
def test_a_wrong_end_of_a_vector(role: type[TaskParty], stream: Stream, frames: int) -> None:
    machine, end = just_before(role, end_of(stream))
    for count in (0, end.count - 1, end.count + 1, 2**64 - 1):
        refuses(copied(machine), replace(end, count=count))
    for digest in (bytes(32), chain(stream, []), end.digest[::-1]):
        refuses(copied(machine), replace(end, digest=digest))
    refuses(copied(machine), frame(stream, frames, bytes(16)))
    assert end.digest
    machine.receive(end)
    refuses(machine, end)


@each_stream
def test_an_early_end_of_a_vector(role: type[TaskParty], stream: Stream, frames: int) -> None:
    machine, message = just_before(role, first(stream, frames - 1))
    pair = MachinePair(ITEMS, ITEMS, broadcast=False, **VECTORS)
    pair.run()
    sent = [each for each in pair.sent(Frame) if each.stream == stream]
    (whole,) = [end for end in pair.sent(End) if end.stream == stream]
    assert message == sent[-1]
    for count in (1024 * (frames - 1), whole.count):
        refuses(copied(machine), End(TASK, 0, 0, stream, count, chain(stream, [each.data for each in sent[:-1]])))


@roles
def test_points_may_not_come_in_a_bin_by_rr22(role: type[TaskParty]) -> None:
    machine = opened(role, 20, 20, **VECTORS)
    for stream in (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS, Stream.BITMAP):
        refuses(copied(machine), frame(stream, 0, bytes(20 * 32)))


@roles
def test_vectors_may_not_come_in_a_bin_by_ecdh(role: type[TaskParty]) -> None:
    machine = opened(role, 20, 20, frame_items=1024)
    for stream in (Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR):
        refuses(copied(machine), frame(stream, 0, bytes(16 * 1024)))


def test_received_before_the_end_of_the_tokens() -> None:
    """A receiver cannot confirm a bin of which it lacks tokens."""
    pair = MachinePair(20, 20, broadcast=False, **VECTORS)
    while not pair.finished:
        party = pair.sender.party
        if 0 in party.bins and not party.bins[0].answered:
            refuses(copied(party), Received(TASK, 0, 0))
        for step in pair.steps():
            step()
    assert pair.sent(Received)


@roles
def test_a_bin_by_rr22_that_has_not_begun(role: type[TaskParty]) -> None:
    machine = opened(role, 96, 96, **MANY_VECTORS)
    assert sorted(machine.bins) == [0, 1]
    for number in (2, 3, 4):
        for stream in Stream:
            refuses(copied(machine), frame(stream, 0, bytes(16 * 1024), number=number))
        refuses(copied(machine), Restart(TASK, number, 1))


@pytest.mark.parametrize("size", [0, 16 * 1023, 16 * 1025])
def test_a_stream_of_a_wrong_size_is_an_internal_error(size: int) -> None:
    party = opened(Sender, 9, 9, **VECTORS).bins[0]
    work = party.next_work(room=True)
    assert work is not None
    with pytest.raises(LocalProtocolError) as caught:
        party.completed(work, bytes(size))
    assert caught.value.code == 70


def test_work_of_points_is_not_work_of_a_vector() -> None:
    party = opened(Sender, 9, 9, **VECTORS).bins[0]
    points = MaskOwn(0, 9)
    party._handed_out.append(points)
    with pytest.raises(LocalProtocolError):
        party.completed(points)


# Disclosure ----------------------------------------------------------------------------------------------------


@both_outcomes
def test_what_a_receiver_by_rr22_discloses(broadcast: bool) -> None:
    """One-sided: uniform as soon as tokens can be compared, nothing after the last Received.

    Broadcast: uniform from the first byte to the last bitmap, named before and after.
    """
    pair = MachinePair(96, 96, broadcast=broadcast, **MANY_VECTORS)
    seen = []
    while not pair.finished:
        for step in pair.steps():
            party = pair.receiver.party
            # The tokens of a bin of 93 items are one frame, and can be compared as soon as it is there.
            frames = [each for each in pair.receiver.received if isinstance(each, Frame)]
            comparable = any(each.stream == Stream.TOKENS for each in frames)
            told = [end for end in pair.sent(End, Receiver) if end.stream == Stream.BITMAP]
            private = party.opened and len(told) < 4 if broadcast else comparable
            over = any(each.digest for each in pair.sent(Received))
            expected = Disclosure.NOTHING if over else Disclosure.UNIFORM if private else Disclosure.NAMED
            assert party.disclosure is expected
            seen.append(party.disclosure)
            step()
    assert set(seen) == ({Disclosure.NAMED, Disclosure.UNIFORM} if broadcast else set(Disclosure))


@both_outcomes
def test_a_failure_of_a_sender_by_rr22_is_always_named(broadcast: bool) -> None:
    pair = MachinePair(20, 20, broadcast=broadcast, **VECTORS)
    seen = set()
    while not pair.finished:
        for step in pair.steps():
            seen.add(pair.sender.party.disclosure)
            step()
    assert seen == {Disclosure.NAMED}
