"""Tasks between two machines: checks of a complete task, its states at every moment, and faults in it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st
from support.memory.machines import (
    FRAME_ITEMS,
    PROBE,
    TASK,
    TASK_SID,
    MachineEnd,
    MachinePair,
    begin_bins,
    made_up_points,
    made_up_stream,
    made_up_tokens,
    packed_bits,
    setup,
    size_of,
)
from support.memory.pair import records

from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import LAST_ATTEMPT, BinPhase
from psicli.protocol.messages import (
    RR22,
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
from psicli.protocol.task import Phase, Progress, TaskParty
from psicli.protocol.work import (
    CheckLists,
    Compute,
    ComputeAhead,
    GatherMatches,
    KeepBits,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    Prepare,
    PublishOutput,
    SendPart,
    SliceBitmap,
    StageOutput,
    Work,
)

SIZES = [0, 1, FRAME_ITEMS - 1, FRAME_ITEMS, FRAME_ITEMS + 1, 3 * FRAME_ITEMS, 5 * FRAME_ITEMS + 3]
FRAME = FRAME_ITEMS * 32
BINS_UNDER_WAY = 2
# 95 to 97 items per party make 4 bins with a capacity of 93 or 94 points.
MANY: dict[str, int] = {"frame_items": 32, "bin_items": 94}
# The same by RR22, whose streams hold 6,000 blocks and more even for one item.
VECTORS: dict[str, Any] = {"protocol": RR22, "frame_items": 1024}
MANY_VECTORS: dict[str, Any] = {**VECTORS, "bin_items": 94}
sizes = st.sampled_from(SIZES)
roles = pytest.mark.parametrize("role", [Receiver, Sender])
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
each_partitioning = pytest.mark.parametrize("partitioning", [{}, MANY], ids=["one bin", "bins"])


def copied(machine: TaskParty) -> TaskParty:
    """Copy a machine as it is; pickle is much faster than deepcopy."""
    copy: TaskParty = pickle.loads(pickle.dumps(machine))
    return copy


def bin_sid(number: int, attempt: int) -> bytes:
    octets = b"psicli/v1/bin\0" + TASK_SID + number.to_bytes(4, "big") + attempt.to_bytes(4, "big")
    return hashlib.sha256(octets).digest()


def chain(stream: int, frames: list[bytes], *, number: int = 0, attempt: int = 0) -> bytes:
    digest = hashlib.sha256(b"psicli/v1/stream\0" + bin_sid(number, attempt) + bytes([stream])).digest()
    for data in frames:
        digest = hashlib.sha256(digest + data).digest()
    return digest


def digest_of(n: int, m: int, bins: int, matches: int | None = None) -> bytes:
    numbers = (n, m, bins) if matches is None else (n, m, bins, matches)
    octets = b"".join(number.to_bytes(8, "big") for number in numbers)
    return hashlib.sha256(b"psicli/v1/end\0" + TASK_SID + octets).digest()


def completed_run(n: int, m: int, *, broadcast: bool, **partitioning: Any) -> MachinePair:
    pair = MachinePair(n, m, broadcast=broadcast, **partitioning)
    pair.run()
    return pair


def frame(stream: int, seq: int, data: bytes, *, number: int = 0, attempt: int = 0) -> Frame:
    return Frame(TASK, number, attempt, stream, seq, data)


def attempts_of(pair: MachinePair) -> dict[int, int]:
    """Return the last attempt at each bin."""
    attempts = dict.fromkeys(range(pair.number_of_bins), 0)
    for message in pair.sent(Restart):
        attempts[message.bin] = max(attempts[message.bin], message.attempt)
    return attempts


Streams = dict[Stream, tuple[type[TaskParty], int, bytes, int]]


def points_of(pair: MachinePair, number: int, attempt: int) -> Streams:
    """Return who sends each stream of a bin by ECDH, how many items it has, its data, and the size of an item."""
    (n, m), of = pair.receiver.party.capacities, {"number": number, "attempt": attempt}
    points = {role: made_up_points(role, 0, count, **of) for role, count in ((Receiver, n), (Sender, m))}
    return {
        Stream.RECEIVER_POINTS: (Receiver, n, points[Receiver], 32),
        Stream.SENDER_POINTS: (Sender, m, points[Sender], 32),
        Stream.TOKENS: (Sender, n, made_up_tokens(points[Receiver]), 16),
    }


def vectors_of(pair: MachinePair, number: int, attempt: int) -> Streams:
    """Return the same of a bin by RR22."""
    party, (_, m) = pair.receiver.party, pair.receiver.party.capacities
    senders = {Stream.KEYS: Sender, Stream.CHOICES: Receiver, Stream.SUMS: Sender, Stream.VECTOR: Receiver}
    streams = {}
    for stream, role in {**senders, Stream.TOKENS: Sender}.items():
        data = made_up_stream(stream, size_of(party, stream), number=number, attempt=attempt)
        count = m if stream is Stream.TOKENS else len(data) // 16
        streams[stream] = (role, count, data, len(data) // count)
    return streams


def assert_streams_are_whole(pair: MachinePair, broadcast: bool) -> None:
    """Check every stream of the last attempt at every bin, from its first frame to its End."""
    setup, (_, m) = pair.receiver.party.setup, pair.receiver.party.capacities
    expected: Streams = {}
    for number, attempt in attempts_of(pair).items():
        expected = (vectors_of if setup.protocol else points_of)(pair, number, attempt)
        size_of_frame = {stream: setup.frame_items * size for stream, (*_, size) in expected.items()}
        if broadcast:
            expected[Stream.BITMAP] = (Receiver, m, packed_bits(pair.bits[number]), 0)
            size_of_frame[Stream.BITMAP] = setup.frame_items // 8
        for stream, (role, count, data, _) in expected.items():
            # Bitmaps have no attempts.
            at = (number, 0 if stream is Stream.BITMAP else attempt, stream)
            sent = [(by, each) for by, each in pair.log if isinstance(each, Frame | End)]
            found = [(by, each) for by, each in sent if (each.bin, each.attempt, each.stream) == at]
            *frames, end = [each for _, each in found]
            pieces = records(data, size_of_frame[stream])
            assert frames == [Frame(TASK, *at, seq, piece) for seq, piece in enumerate(pieces)]
            assert end == End(TASK, *at, count, chain(stream, pieces, number=number, attempt=at[1]))
            assert {by for by, _ in found} == {role}
    streams = {Stream(each.stream) for each in pair.sent(Frame)}
    assert streams == set(expected)


def spans(count: int, frame_items: int) -> list[tuple[int, int]]:
    return [(i, min(i + frame_items, count)) for i in range(0, count, frame_items)]


def assert_points_are_worked(end: MachineEnd, number: int, attempt: int) -> None:
    (own, peer), frame_items = end.party.capacities, end.party.setup.frame_items
    other = Sender if isinstance(end.party, Receiver) else Receiver
    of = {"number": number, "attempt": attempt}
    *work, last = end.work_of(number, attempt)
    assert (work[0], last) == (Prepare(), CheckLists())
    assert {type(each) for each in work[1:]} <= {MaskOwn, MaskPeer, KeepTokens}
    assert [(each.start, each.stop) for each in work if isinstance(each, MaskOwn)] == spans(own, frame_items)
    masked = [each for each in work if isinstance(each, MaskPeer)]
    assert [each.seq for each in masked] == list(range(len(masked)))
    assert b"".join(each.points for each in masked) == made_up_points(other, 0, peer, **of)
    tokens = b"".join(each.tokens for each in work if isinstance(each, KeepTokens))
    assert tokens == (made_up_tokens(made_up_points(Receiver, 0, own, **of)) if other is Sender else b"")


def assert_vectors_are_worked(pair: MachinePair, end: MachineEnd, number: int, attempt: int) -> None:
    """Check that each stream is computed from the one before, then sent, and that the time of the peer is used."""
    expected: list[Work] = [Prepare()]
    before = b""
    for stream, (role, count, data, _) in vectors_of(pair, number, attempt).items():
        if role is end.role:
            expected.append(Compute(stream, before))
            expected += [SendPart(*span) for span in spans(count, end.party.setup.frame_items)]
            expected += [ComputeAhead(stream)] if stream is not Stream.TOKENS else []
        before = data
    expected += [KeepTokens(0, before)] if end.role is Receiver else []
    assert end.work_of(number, attempt) == [*expected, CheckLists()]


def assert_work_is_whole(end: MachineEnd, pair: MachinePair, broadcast: bool) -> None:
    (own, peer), frame_items = end.party.capacities, end.party.setup.frame_items
    for number, attempt in attempts_of(pair).items():
        if end.party.setup.protocol:
            assert_vectors_are_worked(pair, end, number, attempt)
        else:
            assert_points_are_worked(end, number, attempt)
    result: list[Work]
    if isinstance(end.party, Receiver):
        result = [GatherMatches()] if pair.number_of_bins else []
        result += [SliceBitmap(b, *span) for b in range(pair.number_of_bins) for span in spans(peer, frame_items)]
    else:
        kept = (
            (b, pair.bits[b][start:stop]) for b in range(pair.number_of_bins) for start, stop in spans(own, frame_items)
        )
        result = [KeepBits(number, packed_bits(bits)) for number, bits in kept]
    done = end.work_of(None)
    while done[:2] == [GatherMatches(), GatherMatches()]:
        # If a bin is lost while the matches are being gathered, they are gathered again.
        del done[0]
    assert done == ([*result, StageOutput(), PublishOutput()] if broadcast else [])


def assert_order_of_the_end(pair: MachinePair, n: int, m: int, broadcast: bool) -> None:
    by_receiver = [message for by, message in pair.log if by is Receiver]
    by_sender = [message for by, message in pair.log if by is Sender]
    for sent in (by_receiver, by_sender):
        assert [type(message) for message in sent[:2]] == [Offer, Open]
    received = pair.sent(Received)
    if broadcast:
        digest = digest_of(n, m, pair.number_of_bins, sum(map(sum, pair.bits)))
        assert by_receiver[-2:] == [Ready(TASK), Commit(TASK, digest)]
        assert by_sender[-2:] == [Ready(TASK), Done(TASK, digest)]
        messages = [message for _, message in pair.log]
        assert messages.index(by_receiver[-1]) > max(i for i, m in enumerate(messages) if isinstance(m, Ready))
        assert all(each.digest == b"" for each in received)
    else:
        digest = digest_of(n, m, pair.number_of_bins)
        *others, last = received
        assert by_receiver[-1] is last
        assert last.digest == digest
        assert all(each.digest == b"" for each in others)
        assert by_sender[-1] == Done(TASK, digest)
        assert not any(isinstance(message, Ready | Commit) for _, message in pair.log)
    through = {(each.bin, each.attempt) for each in received}
    assert set(attempts_of(pair).items()) <= through
    assert len(through) == len(received)


def assert_whole(pair: MachinePair, n: int, m: int, broadcast: bool) -> None:
    assert_streams_are_whole(pair, broadcast)
    for end in pair.ends:
        assert end.party.phase is Phase.FINISHED
        assert end.party.next_work(room=True) is None
        assert end.party.bins == {}
        own, peer = (pair.number_of_bins * each for each in end.party.capacities)
        assert end.party.progress == Progress(own, own, peer, peer)
        assert end.party.number_of_bins == pair.number_of_bins
        assert_work_is_whole(end, pair, broadcast)
    assert (pair.receiver.party.peer_count, pair.sender.party.peer_count) == (m, n)
    assert_order_of_the_end(pair, n, m, broadcast)


@dataclass(frozen=True)
class Moment:
    """A copy of a machine at some moment of a good run, and the message it received next."""

    machine: TaskParty
    phase: Phase
    message: TaskMessage | None


@cache
def moments(role: type[TaskParty], broadcast: bool, many: bool = False) -> list[Moment]:
    """Return every state of a machine during two runs, with the peer's next message.

    In one run the machine is as fast as its peer; in the other it does no work while a message waits.
    """
    n, m = (96, 95) if many else (20, 19)
    seen = []
    for keeps_up in (True, False):
        pair = MachinePair(n, m, broadcast=broadcast, **(MANY if many else {}))
        end, other = pair.end(role), pair.other(pair.end(role))
        while not pair.finished:
            # Take one step at a time and copy the machine in between.
            for step in (pair.work, pair.deliver):
                if keeps_up:
                    step(other)
                while not keeps_up and (pair.work(other) or pair.deliver(other)):
                    pass
                message = end.inbox[0] if end.inbox and end.party.wants_input else None
                begin_bins(end.party, end.party.bins.begin)
                seen.append(Moment(copied(end.party), end.party.phase, message))
                if keeps_up:
                    step(end)
                elif not pair.deliver(end):
                    pair.work(end)
        seen.append(Moment(copied(end.party), end.party.phase, None))
    return seen


def first(stream: Stream, seq: int = 0, number: int = 0) -> Callable[[TaskMessage], bool]:
    wanted = (number, stream, seq)
    return lambda message: isinstance(message, Frame) and (message.bin, message.stream, message.seq) == wanted


def end_of(stream: Stream, number: int = 0) -> Callable[[TaskMessage], bool]:
    return lambda message: isinstance(message, End) and (message.bin, message.stream) == (number, stream)


def a(kind: type[TaskMessage]) -> Callable[[TaskMessage], bool]:
    return lambda message: type(message) is kind


def refuses(machine: TaskParty, *messages: TaskMessage) -> PeerProtocolError:
    """Pass messages to a machine and check that only the last one is a violation; return the error."""
    *good, bad = messages
    for message in good:
        machine.receive(message)
    with pytest.raises(PeerProtocolError) as caught:
        machine.receive(bad)
    assert caught.value.code == 76
    return caught.value


def opened(role: type[TaskParty], own: int, peer: int, *, prepare: bool = True, **changes: Any) -> TaskParty:
    """Return a machine whose bins have begun and drawn their secrets."""
    machine = role(setup(**changes))
    machine.offer(None)
    machine.receive(Offer(TASK))
    machine.open(own)
    machine.receive(Open(TASK, peer, PROBE))
    begin_bins(machine, machine.bins.begin)
    for party in machine.bins.values() if prepare else ():
        work = party.next_work(room=True)
        assert work == Prepare()
        assert party.completed(work) == []
    return machine


def may_be_lost(end: MachineEnd) -> list[int]:
    """Return the bins whose worker a party still needs, and that have not started again.

    A receiver needs a worker even after it has sent Received, until it has gathered the matches.
    """
    party, attempts = end.party, end.party.bins.attempts
    if isinstance(party, Receiver):
        gathered = party.phase is not Phase.EXCHANGE and (party.phase is not Phase.RESULT or party._bitmap is not None)
        needed = [] if gathered else list(attempts)
    else:
        needed = [number for number, each in party.bins.items() if each.phase is not BinPhase.CHECKED]
    return sorted(number for number in needed if attempts[number] < LAST_ATTEMPT)


def pair_with_loss(
    role: type[TaskParty], moment: int, *, broadcast: bool, number: int = 0, **partitioning: Any
) -> MachinePair | None:
    """Run a pair for so many steps; then a side loses a bin's worker. None where it does not need it any more."""
    n = 96 if partitioning else 20
    pair = MachinePair(n, n, broadcast=broadcast, **partitioning)
    steps = pair.steps()
    end = pair.end(role)
    pair.run_until(lambda: number in end.party.bins)
    for i in range(moment):
        steps[i % len(steps)]()
    if number not in may_be_lost(end):
        return None
    pair.restart(end, number)
    return pair
