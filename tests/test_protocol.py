from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import (
    CHUNK_ITEMS,
    PROBE,
    TASK,
    TASK_SID,
    MachineEnd,
    MachinePair,
    made_up_points,
    made_up_tokens,
    packed_bits,
    setup,
)

from psicli.errors import DisagreementError, LocalProtocolError, PeerProtocolError, TooManyItemsError
from psicli.protocol import (
    KEPT_DIGESTS,
    MAX_PENDING_FRAMES,
    MAX_TOTAL_ITEMS,
    Ack,
    CheckLists,
    Chunk,
    Commit,
    CutBitmap,
    Disclosure,
    Done,
    End,
    Hello,
    HelloOctets,
    IncomingStream,
    KeepBits,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    Match,
    Open,
    OutgoingStream,
    Phase,
    Progress,
    PublishOutput,
    Ready,
    Received,
    Receiver,
    ResumeOffer,
    Sender,
    StageOutput,
    Stream,
    StreamOffset,
    StreamShape,
    TaskMessage,
    TaskParty,
    TaskTerms,
    first_digest,
    session_id,
    task_session_id,
)

SIZES = [0, 1, CHUNK_ITEMS - 1, CHUNK_ITEMS, CHUNK_ITEMS + 1, 3 * CHUNK_ITEMS, 5 * CHUNK_ITEMS + 3]
FRAME = CHUNK_ITEMS * 32

sizes = st.sampled_from(SIZES)
schedules = st.lists(st.integers(0, 3), max_size=120)
roles = pytest.mark.parametrize("role", [Receiver, Sender])
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])

KINDS: tuple[type[TaskMessage], ...] = (Open, Chunk, End, Received, Ready, Commit, Done, Ack)


def chain(stream: int, frames: list[bytes]) -> bytes:
    digest = hashlib.sha256(b"psicli/v1/stream\0" + TASK_SID + bytes([stream])).digest()
    for data in frames:
        digest = hashlib.sha256(digest + data).digest()
    return digest


def completed_run(n: int, m: int, *, broadcast: bool) -> MachinePair:
    pair = MachinePair(n, m, broadcast=broadcast)
    pair.run()
    return pair


# A whole task --------------------------------------------------------------------------------------------------


def assert_streams_are_whole(pair: MachinePair, n: int, m: int, broadcast: bool) -> None:
    expected = {
        Stream.RECEIVER_POINTS: (Receiver, n, made_up_points(Receiver, 0, n), FRAME),
        Stream.SENDER_POINTS: (Sender, m, made_up_points(Sender, 0, m), FRAME),
        Stream.TOKENS: (Sender, n, made_up_tokens(made_up_points(Receiver, 0, n)), FRAME // 2),
    }
    if broadcast:
        expected[Stream.BITMAP] = (Receiver, m, packed_bits(pair.bits), CHUNK_ITEMS // 8)
    for stream, (role, count, data, frame) in expected.items():
        messages = [message for message in pair.sent(Chunk | End) if message.stream == stream]
        *chunks, end = messages
        frames = [data[i : i + frame] for i in range(0, len(data), frame)]
        assert [(chunk.seq, chunk.data) for chunk in chunks] == list(enumerate(frames))
        assert end == End(TASK, stream, count, chain(stream, frames))
        assert {by for by, message in pair.log if message in messages} == {role}
    assert {chunk.stream for chunk in pair.sent(Chunk)} <= set(expected)
    assert {end.stream for end in pair.sent(End)} == set(expected)


def spans(work: list[object], kind: type[MaskOwn] | type[CutBitmap]) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in work if isinstance(piece, kind)]


def assert_work_is_whole(end: MachineEnd, pair: MachinePair, broadcast: bool) -> None:
    work = [piece for piece, _ in end.work]
    own, peer = end.party.own_count, end.party.peer_count
    cuts = [(i, min(i + CHUNK_ITEMS, own)) for i in range(0, own, CHUNK_ITEMS)]
    other = Sender if isinstance(end.party, Receiver) else Receiver
    masked = [piece for piece in work if isinstance(piece, MaskPeer)]
    assert spans(work, MaskOwn) == cuts
    assert [piece.seq for piece in masked] == list(range(len(masked)))
    assert b"".join(piece.points for piece in masked) == made_up_points(other, 0, peer)
    tail = work[work.index(CheckLists()) :]
    assert not any(isinstance(piece, MaskOwn | MaskPeer | KeepTokens) for piece in tail)
    if isinstance(end.party, Receiver):
        tokens = b"".join(piece.tokens for piece in work if isinstance(piece, KeepTokens))
        assert tokens == made_up_tokens(made_up_points(Receiver, 0, own))
        cutting = [CutBitmap(i, min(i + CHUNK_ITEMS, peer)) for i in range(0, peer, CHUNK_ITEMS)]
        result = [Match(), *cutting, StageOutput(), PublishOutput()]
    else:
        result = [*(KeepBits(packed_bits(pair.bits[start:stop])) for start, stop in cuts)]
        result += [StageOutput(), PublishOutput()]
    assert tail == [CheckLists(), *(result if broadcast else [])]


def assert_order_of_the_end(pair: MachinePair, broadcast: bool) -> None:
    by_receiver = [message for by, message in pair.log if by is Receiver]
    by_sender = [message for by, message in pair.log if by is Sender]
    assert [type(message) for message in (by_receiver[0], by_sender[0])] == [Open, Open]
    if broadcast:
        assert [type(message) for message in by_receiver[-3:]] == [End, Ready, Commit]
        assert [type(message) for message in by_sender[-3:]] == [End, Ready, Done]
        messages = [message for _, message in pair.log]
        assert messages.index(Commit(TASK)) > max(i for i, m in enumerate(messages) if isinstance(m, Ready))
        assert not pair.sent(Received)
    else:
        assert by_receiver[-1] == Received(TASK)
        assert by_sender[-1].stream == Stream.TOKENS
        assert not any(isinstance(message, Ready | Commit | Done) for _, message in pair.log)


def assert_whole(pair: MachinePair, n: int, m: int, broadcast: bool) -> None:
    assert_streams_are_whole(pair, n, m, broadcast)
    for end in pair.ends:
        assert end.party.phase is Phase.FINISHED
        assert end.party.next_work() is None
        own, peer = (n, m) if end is pair.receiver else (m, n)
        assert end.party.progress == Progress(own, own, peer, peer)
        assert_work_is_whole(end, pair, broadcast)
    assert (pair.receiver.party.peer_count, pair.sender.party.peer_count) == (m, n)
    assert_order_of_the_end(pair, broadcast)


@both_outcomes
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_a_whole_task(n: int, m: int, broadcast: bool) -> None:
    assert_whole(completed_run(n, m, broadcast=broadcast), n, m, broadcast)


@settings(max_examples=150, deadline=None)
@given(n=sizes, m=sizes, broadcast=st.booleans(), schedule=schedules)
def test_any_interleaving_ends_alike(n: int, m: int, broadcast: bool, schedule: list[int]) -> None:
    pair = MachinePair(n, m, broadcast=broadcast)
    pair.run(schedule)
    assert_whole(pair, n, m, broadcast)


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


def test_the_sender_ends_the_tokens_after_its_checks() -> None:
    pair = MachinePair(20, 20, broadcast=False)
    pair.run_until(lambda: deepcopy(pair.sender.party).next_work() == CheckLists())
    tokens = [message for message in pair.sent(Chunk) if message.stream == Stream.TOKENS]
    assert len(tokens) == 3
    assert Stream.TOKENS not in [end.stream for end in pair.sent(End)]
    pair.work(pair.sender)
    assert pair.sent(End)[-1].stream == Stream.TOKENS


def test_no_point_is_sent_before_both_opens() -> None:
    machine = Receiver(setup(20))
    with pytest.raises(LocalProtocolError):
        machine.receive(Open(TASK, 20, PROBE))
    machine.open()
    assert machine.next_work() is None
    machine.receive(Open(TASK, 20, PROBE))
    assert machine.next_work() == MaskOwn(0, CHUNK_ITEMS)


def test_progress_only_grows() -> None:
    pair = MachinePair(20, 30, broadcast=True)
    assert pair.receiver.party.progress == Progress(0, 0, 0, 0)
    seen = []
    pair.run_until(lambda: bool(seen.append(pair.receiver.party.progress)) or pair.finished)
    assert seen == sorted(seen)
    assert all(one <= two for before, after in pairwise(seen) for one, two in zip(before, after, strict=True))
    assert seen[-1] == Progress(20, 20, 30, 30)


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
    shape = StreamShape(stream, count, CHUNK_ITEMS)
    assert [shape.frame_bytes(seq) for seq in range(shape.frames)] == sizes_of_frames


# Every message in every phase ----------------------------------------------------------------------------------

# Written down here a second time, on purpose: design section 7, not the machines' own table. Ack is always allowed.
LEGAL: dict[tuple[type[TaskParty], bool], dict[Phase, set[type[TaskMessage]]]] = {
    (Receiver, False): {
        Phase.OPENING: {Open},
        Phase.EXCHANGE: {Chunk, End},
        Phase.FINISHED: set(),
    },
    (Receiver, True): {
        Phase.OPENING: {Open},
        Phase.EXCHANGE: {Chunk, End},
        Phase.RESULT: set(),
        Phase.STAGING: {Ready},
        Phase.COMMITTED: {Done},
        Phase.FINISHED: set(),
    },
    (Sender, False): {
        Phase.OPENING: {Open},
        Phase.EXCHANGE: {Chunk, End},
        Phase.RESULT: {Received},
        Phase.FINISHED: set(),
    },
    (Sender, True): {
        Phase.OPENING: {Open},
        Phase.EXCHANGE: {Chunk, End},
        Phase.RESULT: {Chunk, End},
        Phase.STAGING: {Ready, Commit},
        Phase.COMMITTED: set(),
        Phase.FINISHED: set(),
    },
}


@dataclass(frozen=True)
class Moment:
    """A machine as it was at some moment of a good run, and the message it took in then."""

    machine: TaskParty
    phase: Phase
    message: TaskMessage | None


def moments(role: type[TaskParty], broadcast: bool) -> list[Moment]:
    """Return every state a machine was in during a run, with what the peer sent it next."""
    pair = MachinePair(20, 19, broadcast=broadcast)
    end, other = pair.end(role), pair.other(pair.end(role))
    seen = []
    while not pair.finished:
        # One step at a time, and a look between them.
        for step in (pair.work, pair.deliver):
            step(other)
            message = end.inbox[0] if step == pair.deliver and end.inbox and end.party.wants_input else None
            seen.append(Moment(deepcopy(end.party), end.party.phase, message))
            step(end)
    return [*seen, Moment(deepcopy(end.party), end.party.phase, None)]


def plausible(kind: type[TaskMessage], role: type[TaskParty], broadcast: bool) -> list[TaskMessage]:
    """Return messages of a kind as the peer sends them in a good run, and each stream's first frame and End."""
    peer = Sender if role is Receiver else Receiver
    made = list(dict.fromkeys(completed_run(20, 19, broadcast=broadcast).sent(kind, peer)))
    if kind in (Received, Ready, Commit, Done):
        made.append(kind(TASK))
    return made


@both_outcomes
@roles
def test_a_run_passes_through_the_phases_the_table_names(role: type[TaskParty], broadcast: bool) -> None:
    assert list(dict.fromkeys(moment.phase for moment in moments(role, broadcast))) == list(LEGAL[role, broadcast])


@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_what_is_not_allowed_in_a_phase_is_a_violation(
    role: type[TaskParty], broadcast: bool, kind: type[TaskMessage]
) -> None:
    """At every moment of a run, whatever the peer would ever send, but for what is legal in that phase."""
    candidates = plausible(kind, role, broadcast)
    assert candidates
    tried = set()
    for moment in moments(role, broadcast):
        legal = LEGAL[role, broadcast][moment.phase] | {Ack}
        if kind in legal:
            continue
        tried.add(moment.phase)
        for message in candidates:
            with pytest.raises(PeerProtocolError) as caught:
                deepcopy(moment.machine).receive(message)
            assert caught.value.code == 76
    expected = {phase for phase, legal in LEGAL[role, broadcast].items() if kind not in legal | {Ack}}
    assert tried == expected


@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_what_is_allowed_in_a_phase_is_taken(role: type[TaskParty], broadcast: bool, kind: type[TaskMessage]) -> None:
    taken = set()
    for moment in moments(role, broadcast):
        if kind is Ack:
            assert deepcopy(moment.machine).receive(Ack(TASK)) == []
            taken.add(moment.phase)
        elif type(moment.message) is kind:
            deepcopy(moment.machine).receive(moment.message)
            taken.add(moment.phase)
    table = LEGAL[role, broadcast]
    assert taken == {phase for phase, legal in table.items() if kind is Ack or kind in legal}


@both_outcomes
@roles
def test_the_wrong_task_is_a_violation_in_every_phase(role: type[TaskParty], broadcast: bool) -> None:
    for moment in moments(role, broadcast):
        for message in (moment.message, Ack(TASK), Received(TASK)):
            if message is not None:
                with pytest.raises(PeerProtocolError):
                    deepcopy(moment.machine).receive(replace(message, task=TASK + 1))


@both_outcomes
@roles
def test_a_finished_machine_stays_finished(role: type[TaskParty], broadcast: bool) -> None:
    pair = completed_run(9, 9, broadcast=broadcast)
    machine = pair.end(role).party
    with pytest.raises(LocalProtocolError):
        machine.open()
    for kind in KINDS:
        for message in plausible(kind, role, broadcast):
            if kind is not Ack:
                with pytest.raises(PeerProtocolError):
                    machine.receive(message)
    assert machine.finished
    assert machine.next_work() is None


@roles
def test_a_task_is_opened_once(role: type[TaskParty]) -> None:
    machine = role(setup(1))
    machine.open()
    with pytest.raises(LocalProtocolError):
        machine.open()


# Single faults -------------------------------------------------------------------------------------------------


def first(stream: Stream, seq: int = 0) -> Callable[[TaskMessage], bool]:
    return lambda message: isinstance(message, Chunk) and (message.stream, message.seq) == (stream, seq)


def end_of(stream: Stream) -> Callable[[TaskMessage], bool]:
    return lambda message: isinstance(message, End) and message.stream == stream


def a(kind: type[TaskMessage]) -> Callable[[TaskMessage], bool]:
    return lambda message: type(message) is kind


def just_before(
    role: type[TaskParty], wanted: Callable[[TaskMessage], bool], *, broadcast: bool = False, n: int = 20, m: int = 20
) -> tuple[TaskParty, TaskMessage]:
    """Run a pair until the next message to a machine is the wanted one; return machine and message."""
    pair = MachinePair(n, m, broadcast=broadcast)
    end = pair.end(role)
    pair.run_until(lambda: bool(end.inbox) and wanted(end.inbox[0]) and end.party.wants_input)
    return end.party, end.inbox[0]


def refuses(machine: TaskParty, *messages: TaskMessage) -> PeerProtocolError:
    """Hand all messages to a machine; the last one, no other, is a violation."""
    *good, bad = messages
    for message in good:
        machine.receive(message)
    with pytest.raises(PeerProtocolError) as caught:
        machine.receive(bad)
    assert caught.value.code == 76
    return caught.value


INCOMING = [
    (Receiver, Stream.SENDER_POINTS),
    (Receiver, Stream.TOKENS),
    (Sender, Stream.RECEIVER_POINTS),
    (Sender, Stream.BITMAP),
]
each_stream = pytest.mark.parametrize(
    ("role", "stream"), INCOMING, ids=[f"{role.__name__}-{stream.name}" for role, stream in INCOMING]
)

Fault = Callable[[Chunk], Chunk]
CHUNK_FAULTS: dict[str, Fault] = {
    "gap": lambda chunk: replace(chunk, seq=chunk.seq + 1),
    "repeat": lambda chunk: replace(chunk, seq=chunk.seq - 1),
    "far": lambda chunk: replace(chunk, seq=2**63),
    "short": lambda chunk: replace(chunk, data=chunk.data[:-1]),
    "item missing": lambda chunk: replace(chunk, data=chunk.data[:-16]),
    "long": lambda chunk: replace(chunk, data=chunk.data + b"\0"),
    "item more": lambda chunk: replace(chunk, data=chunk.data + bytes(32)),
    "twice as long": lambda chunk: replace(chunk, data=chunk.data * 2),
    "empty": lambda chunk: replace(chunk, data=b""),
    "stream 0": lambda chunk: replace(chunk, stream=0),
    "stream 5": lambda chunk: replace(chunk, stream=5),
    "task": lambda chunk: replace(chunk, task=TASK - 1),
}


@pytest.mark.parametrize("fault", CHUNK_FAULTS)
@pytest.mark.parametrize("seq", [1, 2], ids=["full", "last"])
@each_stream
def test_a_wrong_frame(role: type[TaskParty], stream: Stream, seq: int, fault: str) -> None:
    machine, message = just_before(role, first(stream, seq), broadcast=stream is Stream.BITMAP)
    assert isinstance(message, Chunk)
    refuses(machine, CHUNK_FAULTS[fault](message))


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
    refuses(machine, Chunk(TASK, stream, -(-count // CHUNK_ITEMS), bytes(FRAME)))


@each_stream
def test_fewer_items_than_declared(role: type[TaskParty], stream: Stream) -> None:
    machine, chunk = just_before(role, first(stream, 2), broadcast=stream is Stream.BITMAP)
    assert isinstance(chunk, Chunk)
    digest = machine._incoming[stream].ack(2).digest
    for count in (16, 20):
        refuses(deepcopy(machine), End(TASK, stream, count, digest))
    refuses(deepcopy(machine), End(TASK, stream, 20, chain(stream, [])))


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
    ):
        refuses(deepcopy(machine), wrong)
    machine.receive(end)


@each_stream
def test_nothing_of_a_stream_after_its_end(role: type[TaskParty], stream: Stream) -> None:
    machine, end = just_before(role, end_of(stream), broadcast=stream is Stream.BITMAP)
    for extra in (end, Chunk(TASK, stream, 3, bytes(FRAME)), Chunk(TASK, stream, 2, bytes(FRAME // 2))):
        refuses(deepcopy(machine), end, extra)


@each_stream
def test_a_frame_of_an_empty_stream(role: type[TaskParty], stream: Stream) -> None:
    broadcast = stream is Stream.BITMAP
    for data in (b"", bytes(32)):
        machine, _ = just_before(role, end_of(stream), broadcast=broadcast, n=0, m=0)
        refuses(machine, Chunk(TASK, stream, 0, data))


def test_tokens_of_points_that_were_not_sent_yet() -> None:
    machine = Receiver(setup(20))
    machine.open()
    machine.receive(Open(TASK, 0, PROBE))
    refuses(deepcopy(machine), Chunk(TASK, Stream.TOKENS, 0, bytes(128)))
    work = machine.next_work()
    assert isinstance(work, MaskOwn)
    refuses(deepcopy(machine), Chunk(TASK, Stream.TOKENS, 0, bytes(128)))
    machine.completed(work, made_up_points(Receiver, 0, 8))
    refuses(machine, Chunk(TASK, Stream.TOKENS, 0, bytes(128)), Chunk(TASK, Stream.TOKENS, 1, bytes(128)))


def test_pad_bits_of_the_bitmap() -> None:
    """20 items: the last frame holds 4 bits."""
    for bit in range(4, 8):
        machine, _ = just_before(Sender, first(Stream.BITMAP, 2), broadcast=True)
        refuses(machine, Chunk(TASK, Stream.BITMAP, 2, bytes([1 << bit])))


@pytest.mark.parametrize(("n", "m", "good", "bad"), [(3, 20, b"\x07", b"\x0f"), (0, 20, b"\0", b"\1")])
def test_more_bits_than_the_smaller_list(n: int, m: int, good: bytes, bad: bytes) -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=n, m=m)
    refuses(deepcopy(machine), Chunk(TASK, Stream.BITMAP, 0, bad))
    # Over the frames, not frame by frame.
    if n:
        refuses(machine, Chunk(TASK, Stream.BITMAP, 0, good), Chunk(TASK, Stream.BITMAP, 1, b"\x80"))


def test_a_bit_for_every_item_is_fine() -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=20, m=8)
    machine.receive(Chunk(TASK, Stream.BITMAP, 0, b"\xff"))


def test_commit_before_both_are_ready() -> None:
    """The sender's own output, too, must be safe."""
    pair = MachinePair(1, 1, broadcast=True)
    sender = pair.sender
    pair.run_until(lambda: sender.party.phase is Phase.STAGING)
    refuses(deepcopy(sender.party), Commit(TASK))
    refuses(deepcopy(sender.party), Ready(TASK), Commit(TASK))
    work = sender.party.next_work()
    assert work == StageOutput()
    refuses(deepcopy(sender.party), Ready(TASK), Commit(TASK))
    sender.party.completed(work)
    refuses(deepcopy(sender.party), Commit(TASK))
    sender.party.receive(Ready(TASK))
    assert sender.party.receive(Commit(TASK)) == []
    assert sender.party.next_work() == PublishOutput()


@roles
def test_a_second_ready(role: type[TaskParty]) -> None:
    machine, ready = just_before(role, a(Ready), broadcast=True)
    if role is Receiver:
        # Without an output of its own the receiver does not commit, and stays where Ready is allowed.
        machine = next(m.machine for m in moments(Receiver, True) if m.phase is Phase.STAGING)
        assert not machine._staged
    refuses(machine, ready, ready)


def test_received_where_the_bitmap_is_due() -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True)
    refuses(machine, Received(TASK))


@pytest.mark.parametrize(
    ("role", "stream"),
    [(Receiver, Stream.RECEIVER_POINTS), (Sender, Stream.SENDER_POINTS), (Sender, Stream.TOKENS)],
)
def test_acks(role: type[TaskParty], stream: Stream) -> None:
    """Ack of what was sent, also again, is fine; of anything else it is not."""
    pair = MachinePair(20, 20, broadcast=False)
    pair.run_until(lambda: len([c for c in pair.sent(Chunk) if c.stream == stream]) == 2)
    machine = pair.end(role).party
    frames = [chunk.data for chunk in pair.sent(Chunk) if chunk.stream == stream]
    digests = [chain(stream, frames[:k]) for k in range(3)]
    for k in (0, 1, 2, 2, 1):
        assert machine.receive(Ack(TASK, stream, k, digests[k])) == []
    for wrong in (
        Ack(TASK, stream, 3, digests[2]),
        Ack(TASK, stream, 1, digests[2]),
        Ack(TASK, stream, 2, bytes(32)),
        Ack(TASK, stream, 2**64 - 1, digests[2]),
        Ack(TASK + 1, stream, 2, digests[2]),
    ):
        refuses(deepcopy(machine), wrong)


@both_outcomes
@roles
def test_ack_of_a_stream_this_side_does_not_send(role: type[TaskParty], broadcast: bool) -> None:
    sends = {Stream.RECEIVER_POINTS} if role is Receiver else {Stream.SENDER_POINTS, Stream.TOKENS}
    for moment in moments(role, broadcast):
        own = sends | {Stream.BITMAP} if moment.phase.name in ("STAGING", "COMMITTED", "FINISHED") else sends
        for stream in {*Stream, 5} - own:
            if (stream, role, moment.phase) != (Stream.BITMAP, Receiver, Phase.RESULT):
                refuses(deepcopy(moment.machine), Ack(TASK, stream, 0, chain(stream, [])))


def test_every_masked_frame_is_acknowledged() -> None:
    pair = completed_run(20, 19, broadcast=True)
    for role, stream, count in ((Sender, Stream.RECEIVER_POINTS, 20), (Receiver, Stream.SENDER_POINTS, 19)):
        frames = [chunk.data for chunk in pair.sent(Chunk) if chunk.stream == stream]
        expected = [Ack(TASK, stream, k, chain(stream, frames[:k])) for k in range(1, -(-count // CHUNK_ITEMS) + 1)]
        assert pair.sent(Ack, role) == expected


@roles
def test_different_probes_are_a_disagreement(role: type[TaskParty]) -> None:
    machine = role(setup(1))
    machine.open()
    with pytest.raises(DisagreementError) as caught:
        machine.receive(Open(TASK, 1, bytes(15) + b"\1"))
    assert caught.value.code == 78
    assert machine.next_work() is None


@roles
def test_too_many_items(role: type[TaskParty]) -> None:
    def opened() -> TaskParty:
        machine = role(setup(5))
        machine.open()
        return machine

    opened().receive(Open(TASK, MAX_TOTAL_ITEMS - 5, PROBE))
    for count in (MAX_TOTAL_ITEMS - 4, 2**64 - 1):
        with pytest.raises(TooManyItemsError) as caught:
            opened().receive(Open(TASK, count, PROBE))
        assert caught.value.code == 78
    assert MAX_TOTAL_ITEMS == 2**44


# The carrier of the work ---------------------------------------------------------------------------------------


@roles
def test_only_work_that_was_handed_out_is_completed(role: type[TaskParty]) -> None:
    machine = role(setup(9))
    machine.open()
    machine.receive(Open(TASK, 9, PROBE))
    points = made_up_points(role, 0, 8)
    with pytest.raises(LocalProtocolError):
        machine.completed(MaskOwn(0, 8), points)
    work = machine.next_work()
    assert work == MaskOwn(0, 8)
    second = machine.next_work()
    assert second == MaskOwn(8, 9)
    assert machine.next_work() is None
    for other in (MaskOwn(0, 8), second, CheckLists(), PublishOutput(), StageOutput()):
        with pytest.raises(LocalProtocolError) as caught:
            machine.completed(other, points)
        assert caught.value.code == 70
    assert len(machine.completed(work, points)) == 1
    with pytest.raises(LocalProtocolError):
        machine.completed(work, points)


@pytest.mark.parametrize("size", [0, FRAME - 32, FRAME - 1, FRAME + 32])
@roles
def test_a_result_of_a_wrong_size_is_our_own_mistake(role: type[TaskParty], size: int) -> None:
    machine = role(setup(9))
    machine.open()
    machine.receive(Open(TASK, 9, PROBE))
    work = machine.next_work()
    assert work is not None
    with pytest.raises(LocalProtocolError):
        machine.completed(work, bytes(size))


@both_outcomes
def test_without_room_nothing_makes_a_frame(broadcast: bool) -> None:
    """The receiver masks on, so that the link drains; the sender's masking makes tokens and has to wait."""
    drained = 0
    for role in (Receiver, Sender):
        for moment in moments(role, broadcast):
            machine = deepcopy(moment.machine)
            work = machine.next_work(room=False)
            if work is None:
                continue
            assert not isinstance(work, MaskOwn | CutBitmap)
            if isinstance(work, MaskPeer):
                assert role is Receiver
                drained += 1
            sent = machine.completed(work)
            assert not any(isinstance(message, Chunk) for message in sent)
    assert drained


def test_a_receiver_without_room_masks_all_that_comes() -> None:
    machine = Receiver(setup(100))
    machine.open()
    machine.receive(Open(TASK, 80, PROBE))
    for seq in range(10):
        machine.receive(Chunk(TASK, Stream.SENDER_POINTS, seq, bytes(FRAME)))
        work = machine.next_work(room=False)
        assert work == MaskPeer(seq, bytes(FRAME))
        assert [type(message) for message in machine.completed(work)] == [Ack]
    assert machine.next_work(room=False) is None
    assert machine.next_work() == MaskOwn(0, CHUNK_ITEMS)


@roles
def test_only_a_few_frames_are_held(role: type[TaskParty]) -> None:
    machine = role(setup(0))
    machine.open()
    machine.receive(Open(TASK, 80, PROBE))
    for seq in range(MAX_PENDING_FRAMES):
        assert machine.wants_input
        machine.receive(Chunk(TASK, machine.peer_stream, seq, bytes(FRAME)))
    assert not machine.wants_input
    work = machine.next_work()
    assert work is not None
    machine.completed(work, bytes(FRAME // 2) if role is Sender else b"")
    assert machine.wants_input


def test_only_a_few_frames_of_tokens_are_held() -> None:
    """A sender that holds the tokens back and then sends them all at once is made to wait."""
    pair = MachinePair(10 * CHUNK_ITEMS, 0, broadcast=False)
    pair.deliver(pair.receiver)
    while pair.work(pair.receiver) or pair.deliver(pair.sender) or pair.work(pair.sender):
        pass
    assert len([chunk for chunk in pair.sent(Chunk) if chunk.stream == Stream.TOKENS]) == 10
    while pair.deliver(pair.receiver):
        pass
    assert len(pair.receiver.party._queued) == MAX_PENDING_FRAMES
    assert pair.receiver.inbox
    pair.run()


@pytest.mark.parametrize("stream", [Stream.RECEIVER_POINTS, Stream.SENDER_POINTS])
def test_digests_are_not_kept_for_ever(stream: Stream) -> None:
    """Frames may be as small as the peer likes, and as many: what is remembered of them is bounded."""
    frames, data = 2 * KEPT_DIGESTS, bytes(32 * CHUNK_ITEMS)
    shape = StreamShape(stream, frames * CHUNK_ITEMS, CHUNK_ITEMS)
    beginning = 0, first_digest(stream, TASK_SID)
    outgoing, incoming = OutgoingStream(TASK, shape, *beginning), IncomingStream(TASK, shape, *beginning)
    for number in range(frames):
        incoming.accept(outgoing.frame(data))
        outgoing.acknowledged(incoming.ack(number + 1))
    for chain_ in (outgoing._chain, incoming._chain):
        assert len(chain_._latest) == KEPT_DIGESTS
    incoming.finish(outgoing.end())
    # Long ago is no lie; what is remembered is compared.
    outgoing.acknowledged(Ack(TASK, stream, 1, bytes(32)))
    for wrong in (Ack(TASK, stream, frames, bytes(32)), Ack(TASK, stream, frames + 1, bytes(32))):
        with pytest.raises(PeerProtocolError):
            outgoing.acknowledged(wrong)
    with pytest.raises(LocalProtocolError):
        incoming.ack(1)


@roles
def test_own_and_peer_frames_take_turns(role: type[TaskParty]) -> None:
    machine = role(setup(4 * CHUNK_ITEMS))
    machine.open()
    machine.receive(Open(TASK, 4 * CHUNK_ITEMS, PROBE))
    for seq in range(4):
        machine.receive(Chunk(TASK, machine.peer_stream, seq, bytes(FRAME)))
    kinds = []
    for _ in range(8):
        work = machine.next_work()
        assert work is not None
        kinds.append(type(work))
        machine.completed(work, bytes(FRAME // 2 if isinstance(work, MaskPeer) and role is Sender else FRAME))
    assert kinds == [MaskOwn, MaskPeer] * 4


@roles
def test_nothing_is_taken_in_between_commit_and_publishing(role: type[TaskParty]) -> None:
    """Else the end of the link, or a late failure of the peer, could keep a committed output from its place."""
    pair = MachinePair(3, 3, broadcast=True)
    end = pair.end(role)
    pair.run_until(lambda: end.party.phase is Phase.COMMITTED)
    assert not end.party.wants_input
    work = end.party.next_work()
    assert work == PublishOutput()
    assert not end.party.wants_input
    end.party.completed(work)
    assert end.party.wants_input


# What the peer may be told -------------------------------------------------------------------------------------


@both_outcomes
def test_a_failure_of_the_sender_is_always_named(broadcast: bool) -> None:
    assert {moment.machine.disclosure for moment in moments(Sender, broadcast)} == {Disclosure.NAMED}


@both_outcomes
def test_what_is_told_of_a_failure_of_the_receiver(broadcast: bool) -> None:
    """Named up to the last End and from the bitmap on, uniform between them, nothing after Received."""
    pair = MachinePair(20, 20, broadcast=broadcast)
    end = pair.receiver
    while not pair.finished:
        for step in pair.steps():
            ends = [message.stream for message in end.received if isinstance(message, End)]
            told = [message.stream for message in pair.sent(End, Receiver)]
            if pair.sent(Received):
                expected = Disclosure.NOTHING
            elif len(ends) == 2 and Stream.BITMAP not in told:
                expected = Disclosure.UNIFORM
            else:
                expected = Disclosure.NAMED
            assert end.party.disclosure is expected
            step()


@both_outcomes
def test_masking_after_the_last_end_is_uniform_too(broadcast: bool) -> None:
    """A receiver that is slow to mask the last frames stands between the last End and the checks for a while."""
    pair = MachinePair(1, 3 * CHUNK_ITEMS, broadcast=broadcast)
    receiver, sender = pair.ends
    pair.deliver(receiver)
    pair.work(receiver)
    while pair.deliver(sender) or pair.work(sender):
        pass
    while pair.deliver(receiver):
        pass
    assert [message.stream for message in receiver.received if isinstance(message, End)] == [2, 3]
    assert receiver.party.disclosure is Disclosure.UNIFORM
    assert [type(piece) for piece, _ in receiver.work] == [MaskOwn]


# Known answers -------------------------------------------------------------------------------------------------

MASKED = bytes.fromhex("ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527")
D_0 = "a8dd8e035044f60784e067b51ae8ca58f3f93fd8e20a17af9e026c7dab1f95a5"
D_1 = "b4999bf78fcb84259af973b191ade4b8804125fd4b65807d768027e1db3d1306"


def test_known_session_ids() -> None:
    sid = session_id(b"listener", b"dialer")
    assert sid.hex() == "95913ff3cb6dfb44e2038aee79f66bb75069885a082f451592f895c1d90976e9"
    assert session_id(b"dialer", b"listener") != sid
    assert session_id(b"listenerd", b"ialer") != sid
    known = "cc7b3dbb36631844039b983d2c418cf529a8312308a6a412b13e1d50ca6451ed"
    assert task_session_id(sid, "customers").hex() == known


def test_known_stream_digests() -> None:
    """Stream 1 with the one masked point of the design, as the receiver ends it and the sender acknowledges it."""
    receiver, sender = Receiver(setup(1)), Sender(setup(0))
    opens = receiver.open(), sender.open()
    receiver.receive(opens[1])
    assert [message.digest.hex() for message in sender.receive(opens[0]) if isinstance(message, End)] == [
        chain(Stream.SENDER_POINTS, []).hex()
    ]
    work = receiver.next_work()
    assert work is not None
    chunk, end = receiver.completed(work, MASKED)
    assert chunk == Chunk(TASK, 1, 0, MASKED)
    assert end == End(TASK, 1, 1, bytes.fromhex(D_1))
    sender.receive(chunk)
    work = sender.next_work()
    assert work is not None
    assert Ack(TASK, 1, 1, bytes.fromhex(D_1)) in sender.completed(work, bytes(16))
    sender.receive(end)
    assert receiver.receive(Ack(TASK, 1, 0, bytes.fromhex(D_0))) == []
    assert chain(Stream.RECEIVER_POINTS, []).hex() == D_0


# Nothing secret is shown ---------------------------------------------------------------------------------------


def test_no_repr_shows_data_digests_or_nonces() -> None:
    secret = random.Random(7).randbytes(32)
    shown = [
        Hello("0.1.0", "alice", "nightly", (TaskTerms("customers", "alice", False, 1),), 2048, secret),
        HelloOctets(secret),
        Open(0, 5, secret, ResumeOffer(secret, 5, 6, (StreamOffset(1, 2, secret),))),
        Chunk(0, 1, 2, secret),
        End(0, 1, 5, secret),
        Ack(0, 1, 2, secret),
        MaskPeer(0, secret),
        KeepTokens(secret),
        KeepBits(secret),
        replace(setup(5), task_sid=secret, probe=secret),
        Receiver(replace(setup(5), task_sid=secret, probe=secret)),
    ]
    for value in shown:
        for text in (repr(value), str(value)):
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text
            assert "\\x" not in text
