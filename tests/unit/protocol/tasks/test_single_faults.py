"""Tests of a single fault in the peer's messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.memory.machines import FRAME_ITEMS, TASK, MachinePair, begin_bins, made_up_points, setup
from support.memory.tasks import (
    FRAME,
    MANY,
    a,
    both_outcomes,
    chain,
    completed_run,
    copied,
    digest_of,
    each_partitioning,
    end_of,
    first,
    frame,
    moments,
    opened,
    refuses,
    roles,
)

from psicli.core.errors import TooManyItemsError
from psicli.core.peer_errors import DisagreementError
from psicli.protocol.bins import MAX_TOTAL_ITEMS, capacity, padded
from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Frame,
    Offer,
    Open,
    Ready,
    Received,
    Restart,
    Stream,
    TaskMessage,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Phase, TaskParty
from psicli.protocol.work import KeepBits, MaskOwn, PublishOutput, StageOutput


def just_before(
    role: type[TaskParty],
    wanted: Callable[[TaskMessage], bool],
    *,
    broadcast: bool = False,
    n: int = 20,
    m: int = 20,
    **partitioning: int,
) -> tuple[TaskParty, Any]:
    """Run a pair until the next message for this role is the wanted one; return the machine and the message."""
    pair = MachinePair(n, m, broadcast=broadcast, **partitioning)
    end = pair.end(role)
    pair.run_until(lambda: bool(end.inbox) and wanted(end.inbox[0]) and end.party.wants_input)
    begin_bins(end.party, end.party.bins.begin)
    return end.party, end.inbox[0]


INCOMING = [
    (Receiver, Stream.SENDER_POINTS),
    (Receiver, Stream.TOKENS),
    (Sender, Stream.RECEIVER_POINTS),
    (Sender, Stream.BITMAP),
]
each_stream = pytest.mark.parametrize(
    ("role", "stream"), INCOMING, ids=[f"{role.__name__}-{stream.name}" for role, stream in INCOMING]
)
Fault = Callable[[Frame], Frame]
FRAME_FAULTS: dict[str, Fault] = {
    "gap": lambda frame: replace(frame, seq=frame.seq + 1),
    "repeat": lambda frame: replace(frame, seq=frame.seq - 1),
    "far": lambda frame: replace(frame, seq=2**63),
    "short": lambda frame: replace(frame, data=frame.data[:-1]),
    "item missing": lambda frame: replace(frame, data=frame.data[:-16]),
    "long": lambda frame: replace(frame, data=frame.data + b"\0"),
    "item more": lambda frame: replace(frame, data=frame.data + bytes(32)),
    "twice as long": lambda frame: replace(frame, data=frame.data * 2),
    "empty": lambda frame: replace(frame, data=b""),
    "stream 0": lambda frame: replace(frame, stream=0),
    "stream 5": lambda frame: replace(frame, stream=5),
    "task": lambda frame: replace(frame, task=TASK - 1),
    "next bin": lambda frame: replace(frame, bin=frame.bin + 1),
    "far bin": lambda frame: replace(frame, bin=2**32 - 1),
    "next attempt": lambda frame: replace(frame, attempt=1),
    "far attempt": lambda frame: replace(frame, attempt=2**32 - 1),
}


@pytest.mark.parametrize("fault", FRAME_FAULTS)
@pytest.mark.parametrize("seq", [1, 2], ids=["full", "last"])
@each_stream
def test_a_wrong_frame(role: type[TaskParty], stream: Stream, seq: int, fault: str) -> None:
    machine, message = just_before(role, first(stream, seq), broadcast=stream is Stream.BITMAP)
    assert isinstance(message, Frame)
    refuses(machine, FRAME_FAULTS[fault](message))


@pytest.mark.parametrize("fault", FRAME_FAULTS)
@each_stream
def test_a_wrong_frame_among_several_bins(role: type[TaskParty], stream: Stream, fault: str) -> None:
    """Frames of another bin are legal a little later, and tokens of the next bin are legal even now."""
    broadcast = stream is Stream.BITMAP
    machine, message = just_before(role, first(stream, 1, 1), broadcast=broadcast, n=96, m=96, **MANY)
    refuses(machine, FRAME_FAULTS[fault](message))


@each_stream
def test_a_frame_of_a_stream_the_peer_does_not_send(role: type[TaskParty], stream: Stream) -> None:
    broadcast = stream is Stream.BITMAP
    streams = {other for expected, other in INCOMING if expected is role and (broadcast or other is not Stream.BITMAP)}
    for wrong in set(Stream) - streams:
        machine, message = just_before(role, first(stream), broadcast=broadcast)
        refuses(machine, replace(message, stream=wrong))


@pytest.mark.parametrize("count", [16, 20])
@each_stream
def test_more_items_than_declared(role: type[TaskParty], stream: Stream, count: int) -> None:
    machine, end = just_before(role, end_of(stream), broadcast=stream is Stream.BITMAP, n=count, m=count)
    assert isinstance(end, End)
    refuses(machine, frame(stream, -(-count // FRAME_ITEMS), bytes(FRAME)))


@each_stream
def test_fewer_items_than_declared(role: type[TaskParty], stream: Stream) -> None:
    pair = MachinePair(20, 20, broadcast=stream is Stream.BITMAP)
    end, wanted = pair.end(role), first(stream, 2)
    pair.run_until(lambda: bool(end.inbox) and wanted(end.inbox[0]) and end.party.wants_input)
    digest = chain(stream, [each.data for each in pair.sent(Frame) if each.stream == stream and each.seq < 2])
    for count in (16, 20):
        refuses(copied(end.party), End(TASK, 0, 0, stream, count, digest))
    refuses(copied(end.party), End(TASK, 0, 0, stream, 20, chain(stream, [])))


@each_stream
def test_a_wrong_end(role: type[TaskParty], stream: Stream) -> None:
    machine, end = just_before(role, end_of(stream), broadcast=stream is Stream.BITMAP)
    assert isinstance(end, End)
    flipped = bytes([end.digest[0] ^ 1]) + end.digest[1:]
    for wrong in (
        replace(end, count=19),
        replace(end, count=21),
        replace(end, digest=flipped),
        replace(end, digest=bytes(32)),
        replace(end, digest=b""),
        replace(end, stream=0),
        replace(end, task=TASK + 1),
        replace(end, bin=1),
        replace(end, attempt=1),
    ):
        refuses(copied(machine), wrong)
    machine.receive(end)


@each_stream
def test_nothing_may_follow_the_end_of_a_stream(role: type[TaskParty], stream: Stream) -> None:
    machine, end = just_before(role, end_of(stream), broadcast=stream is Stream.BITMAP)
    for extra in (end, frame(stream, 3, bytes(FRAME)), frame(stream, 2, bytes(FRAME // 2))):
        refuses(copied(machine), end, extra)


@both_outcomes
@pytest.mark.parametrize("sizes", [(0, 0), (0, 20), (20, 0)])
@roles
def test_a_frame_if_a_party_has_no_items(role: type[TaskParty], sizes: tuple[int, int], broadcast: bool) -> None:
    """There are no bins then, not even for a party that has items."""
    pair = MachinePair(*sizes, broadcast=broadcast)
    end = pair.end(role)
    pair.run_until(lambda: end.party.opened)
    for stream in Stream:
        for data in (b"", bytes(32)):
            refuses(copied(end.party), frame(stream, 0, data))
        refuses(copied(end.party), End(TASK, 0, 0, stream, 0, chain(stream, [])))


def test_tokens_of_points_that_were_not_sent_yet() -> None:
    machine = opened(Receiver, 20, 1)
    refuses(copied(machine), frame(Stream.TOKENS, 0, bytes(128)))
    party = machine.bins[0]
    work = party.next_work(room=True)
    assert isinstance(work, MaskOwn)
    refuses(copied(machine), frame(Stream.TOKENS, 0, bytes(128)))
    party.completed(work, made_up_points(Receiver, 0, 8))
    refuses(machine, frame(Stream.TOKENS, 0, bytes(128)), frame(Stream.TOKENS, 1, bytes(128)))


def test_spare_bits_of_the_bitmap() -> None:
    """With 20 items, the last frame holds 4 bits."""
    for bit in range(4, 8):
        machine, _ = just_before(Sender, first(Stream.BITMAP, 2), broadcast=True)
        refuses(machine, frame(Stream.BITMAP, 2, bytes([1 << bit])))


@pytest.mark.parametrize(("n", "m", "good", "bad"), [(3, 20, b"\x07", b"\x0f"), (1, 20, b"\1", b"\3")])
def test_more_bits_than_the_smaller_list(n: int, m: int, good: bytes, bad: bytes) -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=n, m=m)
    refuses(copied(machine), frame(Stream.BITMAP, 0, bad))
    # The limit is for all frames together.
    refuses(machine, frame(Stream.BITMAP, 0, good), frame(Stream.BITMAP, 1, b"\x80"))


def test_more_bits_than_the_smaller_list_over_the_bins() -> None:
    """With 3 items against 96, three bits in the first bitmap leave none for the second."""
    pair = MachinePair(3, 96, broadcast=True, **MANY)
    sender, none = pair.sender, bytes(4)
    pair.run_until(lambda: sender.party.phase is Phase.RESULT)
    size = capacity(96, 4)
    sizes = [32, 32, size - 64]
    good = [b"\x07\0\0\0", none, bytes(-(-sizes[2] // 8))]
    messages: list[TaskMessage] = [frame(Stream.BITMAP, seq, data) for seq, data in enumerate(good)]
    messages.append(End(TASK, 0, 0, Stream.BITMAP, size, chain(Stream.BITMAP, good)))
    refuses(copied(sender.party), *messages, frame(Stream.BITMAP, 0, b"\1\0\0\0", number=1))
    for message in [*messages, frame(Stream.BITMAP, 0, none, number=1)]:
        sender.party.receive(message)


def test_a_bit_for_every_item_is_fine() -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=20, m=8)
    machine.receive(frame(Stream.BITMAP, 0, b"\xff"))


def test_bitmaps_come_in_the_order_of_bins() -> None:
    machine, message = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=96, m=96, **MANY)
    for number in (1, 2, 3, 4):
        refuses(copied(machine), replace(message, bin=number))
    machine, end = just_before(Sender, end_of(Stream.BITMAP), broadcast=True, n=96, m=96, **MANY)
    refuses(copied(machine), replace(message, bin=1))
    refuses(copied(machine), end, end)
    refuses(machine, end, replace(message, bin=0))


def test_commit_before_both_are_ready() -> None:
    """The sender's own output must be staged too."""
    pair = MachinePair(1, 1, broadcast=True)
    sender = pair.sender
    pair.run_until(lambda: sender.party.phase is Phase.STAGING)
    commit = Commit(TASK, digest_of(1, 1, 1, sum(map(sum, pair.bits))))
    refuses(copied(sender.party), commit)
    refuses(copied(sender.party), Ready(TASK), commit)
    while sender.party._queued[0] != StageOutput():
        kept = sender.party.next_work(room=True)
        assert isinstance(kept, KeepBits)
        sender.party.completed(kept)
    work = sender.party.next_work(room=True)
    assert work == StageOutput()
    refuses(copied(sender.party), Ready(TASK), commit)
    sender.party.completed(work)
    refuses(copied(sender.party), commit)
    sender.party.receive(Ready(TASK))
    assert sender.party.receive(commit) == []
    assert sender.party.next_work(room=True) == PublishOutput()


@roles
def test_a_second_ready(role: type[TaskParty]) -> None:
    machine, ready = just_before(role, a(Ready), broadcast=True)
    if role is Receiver:
        # Until its own output is staged, the receiver stays in a phase that allows Ready.
        machine = next(m.machine for m in moments(Receiver, True) if m.phase is Phase.STAGING)
        assert not machine.idle
    refuses(copied(machine), ready, ready)


@each_partitioning
def test_received_where_the_bitmap_is_due(partitioning: dict[str, int]) -> None:
    n = 96 if partitioning else 20
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=n, m=n, **partitioning)
    refuses(copied(machine), Received(TASK, 0, 0))
    refuses(machine, Received(TASK, 0, 0, digest_of(n, n, machine.number_of_bins)))


@each_partitioning
@both_outcomes
def test_received_of_a_bin_that_is_not_complete(broadcast: bool, partitioning: dict[str, int]) -> None:
    """Received is refused before the sender has checked the bin, for a bin that has not begun, and a second time."""
    n = 96 if partitioning else 20
    machine, end = just_before(Sender, end_of(Stream.RECEIVER_POINTS), broadcast=broadcast, n=n, m=n, **partitioning)
    for number in (0, 1, 2, 2**32 - 1):
        for attempt in (0, 1):
            refuses(copied(machine), end, Received(TASK, number, attempt))
    if partitioning:
        machine, received = just_before(Sender, a(Received), broadcast=broadcast, n=n, m=n, **partitioning)
        refuses(copied(machine), replace(received, attempt=1))
        refuses(copied(machine), replace(received, bin=2))
        refuses(machine, received, received)


@each_partitioning
def test_the_digest_of_the_task(partitioning: dict[str, int]) -> None:
    """R sends it with the last Received and S with Done; a wrong, early or missing digest is a violation."""
    n, m = (96, 95) if partitioning else (20, 19)
    bins = 4 if partitioning else 1
    wrong = [digest_of(m, n, bins), digest_of(n, m, bins + 1), digest_of(n, m, bins, 0), bytes(32), b""]
    last = just_before(Sender, lambda each: isinstance(each, Received) and bool(each.digest), n=n, m=m, **partitioning)
    for digest in wrong:
        refuses(copied(last[0]), replace(last[1], digest=digest))
    assert last[0].receive(last[1]) == [Done(TASK, digest_of(n, m, bins))]
    if partitioning:
        machine, received = just_before(Sender, a(Received), n=n, m=m, **partitioning)
        assert received.digest == b""
        refuses(machine, replace(received, digest=digest_of(n, m, bins)))
    machine, done = just_before(Receiver, a(Done), n=n, m=m, **partitioning)
    for digest in wrong:
        refuses(copied(machine), replace(done, digest=digest))
    assert machine.receive(done) == []
    assert machine.finished


@each_partitioning
def test_the_digest_of_a_broadcast(partitioning: dict[str, int]) -> None:
    n, m = (96, 95) if partitioning else (20, 19)
    commit, done = (
        just_before(r, a(k), broadcast=True, n=n, m=m, **partitioning) for r, k in ((Sender, Commit), (Receiver, Done))
    )
    matches = sum(map(sum, MachinePair(n, m, broadcast=True, **partitioning).bits))
    bins = 4 if partitioning else 1
    assert commit[1].digest == done[1].digest == digest_of(n, m, bins, matches)
    for digest in (digest_of(n, m, bins), digest_of(n, m, bins, matches - 1), digest_of(m, n, bins, matches), b""):
        for machine, message in (commit, done):
            refuses(copied(machine), replace(message, digest=digest))
    # In a broadcast, Received never carries a digest.
    machine, received = just_before(Sender, a(Received), broadcast=True, n=n, m=m, **partitioning)
    refuses(machine, replace(received, digest=digest_of(n, m, bins)))


@both_outcomes
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 7), (7, 0)])
def test_a_task_without_bins_is_still_confirmed(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast)
    if broadcast:
        kinds, digest = [Offer, Open, Ready, Commit], digest_of(n, m, 0, 0)
        assert [message.digest for message in [*pair.sent(Commit), *pair.sent(Done)]] == [digest] * 2
    else:
        kinds, digest = [Offer, Open, Received], digest_of(n, m, 0)
        assert pair.sent(Received) == [Received(TASK, 0, 0, digest)]
        machine, received = just_before(Sender, a(Received), n=n, m=m)
        for wrong in (replace(received, bin=1), replace(received, attempt=1), replace(received, digest=b"")):
            refuses(copied(machine), wrong)
    assert [type(message) for by, message in pair.log if by is Receiver] == kinds
    assert [type(message) for by, message in pair.log if by is Sender] == [Offer, Open, *kinds[2:-1], Done]


@roles
def test_points_of_a_bin_may_not_come_before_the_end_of_an_earlier_bins(role: type[TaskParty]) -> None:
    peer = Sender if role is Receiver else Receiver
    machine = opened(role, 96, 96, **MANY)
    early = frame(peer.bin_party.own_stream, 0, bytes(32 * 32), number=1)
    assert "before the end" in str(refuses(copied(machine), early))
    pieces = [bytes([seq]) * (32 * each) for seq, each in enumerate((32, 32, capacity(96, 4) - 64))]
    for seq, data in enumerate(pieces):
        machine.receive(frame(peer.bin_party.own_stream, seq, data))
        refuses(copied(machine), early)
    machine.receive(End(TASK, 0, 0, peer.bin_party.own_stream, 93, chain(peer.bin_party.own_stream, pieces)))
    assert machine.receive(early) == []


@roles
def test_a_bin_that_has_not_begun(role: type[TaskParty]) -> None:
    """Two bins run; the third one begins only after Received of the first."""
    machine = opened(role, 96, 96, **MANY)
    assert sorted(machine.bins) == [0, 1]
    for number in (2, 3, 4):
        for stream in Stream:
            refuses(copied(machine), frame(stream, 0, bytes(32 * 32), number=number))
        refuses(copied(machine), Restart(TASK, number, 1))


@roles
def test_different_probes_are_a_disagreement(role: type[TaskParty]) -> None:
    machine = role(setup())
    machine.offer(None)
    machine.receive(Offer(TASK))
    machine.open(1)
    with pytest.raises(DisagreementError) as caught:
        machine.receive(Open(TASK, 1, bytes(15) + b"\1"))
    assert caught.value.code == 78
    assert machine.next_work(room=True) is None
    assert not machine.bins.has_next


@roles
def test_too_many_items(role: type[TaskParty]) -> None:
    assert MAX_TOTAL_ITEMS == 2**44
    opened(role, 5, MAX_TOTAL_ITEMS - 5, bin_items=2**44)
    for count in (MAX_TOTAL_ITEMS - 4, 2**64 - 1):
        with pytest.raises(TooManyItemsError) as caught:
            opened(role, 5, count, bin_items=2**44)
        assert caught.value.code == 78


@roles
def test_padding_counts_towards_the_limit_of_items(role: type[TaskParty]) -> None:
    """With padding, 2^44 - 5 items in two bins are more than 2^44."""
    assert padded(MAX_TOTAL_ITEMS - 5, 2) > MAX_TOTAL_ITEMS
    with pytest.raises(TooManyItemsError):
        opened(role, 5, MAX_TOTAL_ITEMS - 5, bin_items=2**44 - 6)


@roles
def test_too_many_bins(role: type[TaskParty]) -> None:
    """One item more than fits into 65,536 bins of 2^14 items is an error."""
    most = 65_536 * 15_244
    assert opened(role, 5, most, bin_items=2**14).number_of_bins == 65_536
    with pytest.raises(TooManyItemsError) as caught:
        opened(role, 5, most + 1, bin_items=2**14)
    assert caught.value.code == 78
