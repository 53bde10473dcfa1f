from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.pair import (
    FRAME_ITEMS,
    PROBE,
    TASK,
    TASK_SID,
    MachineEnd,
    MachinePair,
    begin_bins,
    made_up_points,
    made_up_tokens,
    packed_bits,
    setup,
)

from psicli.core.errors import (
    DisagreementError,
    InputChangedError,
    LocalProtocolError,
    PeerProtocolError,
    TooManyBinsError,
    TooManyItemsError,
    WorkerLostError,
)
from psicli.protocol.bins import LAST_ATTEMPT, MAX_PENDING_FRAMES, BinPhase, capacity, padded
from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Frame,
    Hello,
    HelloOctets,
    Kept,
    Offer,
    Open,
    Ready,
    Received,
    Restart,
    Stream,
    TaskMessage,
    TaskTerms,
    session_id,
    task_session_id,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import OutgoingStream, Place, StreamShape, first_digest, next_digest
from psicli.protocol.task import MAX_TOTAL_ITEMS, Disclosure, Phase, Progress, TaskParty
from psicli.protocol.work import (
    CheckLists,
    CutBitmap,
    GatherMatches,
    KeepBits,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    Prepare,
    PublishOutput,
    StageOutput,
    Work,
)

SIZES = [0, 1, FRAME_ITEMS - 1, FRAME_ITEMS, FRAME_ITEMS + 1, 3 * FRAME_ITEMS, 5 * FRAME_ITEMS + 3]
FRAME = FRAME_ITEMS * 32
BINS_UNDER_WAY = 2
# 95 to 97 items of a side make 4 bins of 93 or 94 points.
MANY: dict[str, int] = {"frame_items": 32, "bin_items": 94}
MANY_SIZES = [0, 1, 2, 3, 4, 5, 31, 93, 94, 95, 96, 97]

sizes = st.sampled_from(SIZES)
schedules = st.lists(st.integers(0, 19), max_size=200)
roles = pytest.mark.parametrize("role", [Receiver, Sender])
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
each_cut = pytest.mark.parametrize("cut", [{}, MANY], ids=["one bin", "bins"])

KINDS: tuple[type[TaskMessage], ...] = (Offer, Open, Frame, End, Received, Restart, Ready, Commit, Done)


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


def completed_run(n: int, m: int, *, broadcast: bool, **cut: int) -> MachinePair:
    pair = MachinePair(n, m, broadcast=broadcast, **cut)
    pair.run()
    return pair


def frame(stream: int, seq: int, data: bytes, *, number: int = 0, attempt: int = 0) -> Frame:
    return Frame(TASK, number, attempt, stream, seq, data)


# A whole task --------------------------------------------------------------------------------------------------


def attempts_of(pair: MachinePair) -> dict[int, int]:
    """Return the last attempt at each bin."""
    attempts = dict.fromkeys(range(pair.number_of_bins), 0)
    for message in pair.sent(Restart):
        attempts[message.bin] = max(attempts[message.bin], message.attempt)
    return attempts


def assert_streams_are_whole(pair: MachinePair, broadcast: bool) -> None:
    """Every stream of the last attempt at every bin, from its first frame to its end."""
    (n, m), frame_items = pair.receiver.party.capacities, pair.receiver.party.setup.frame_items
    for number, attempt in attempts_of(pair).items():
        of = {"number": number, "attempt": attempt}
        points = {role: made_up_points(role, 0, count, **of) for role, count in ((Receiver, n), (Sender, m))}
        expected: dict[Stream, tuple[type[TaskParty], int, bytes, int]] = {
            Stream.RECEIVER_POINTS: (Receiver, n, points[Receiver], 32 * frame_items),
            Stream.SENDER_POINTS: (Sender, m, points[Sender], 32 * frame_items),
            Stream.TOKENS: (Sender, n, made_up_tokens(points[Receiver]), 16 * frame_items),
        }
        if broadcast:
            expected[Stream.BITMAP] = (Receiver, m, packed_bits(pair.bits[number]), frame_items // 8)
        for stream, (role, count, data, size) in expected.items():
            # Bitmaps have no attempts.
            at = (number, 0 if stream is Stream.BITMAP else attempt, stream)
            sent = [(by, each) for by, each in pair.log if isinstance(each, Frame | End)]
            found = [(by, each) for by, each in sent if (each.bin, each.attempt, each.stream) == at]
            *frames, end = [each for _, each in found]
            pieces = [data[i : i + size] for i in range(0, len(data), size)]
            assert frames == [Frame(TASK, *at, seq, piece) for seq, piece in enumerate(pieces)]
            assert end == End(TASK, *at, count, chain(stream, pieces, number=number, attempt=at[1]))
            assert {by for by, _ in found} == {role}
    streams = {Stream(each.stream) for each in pair.sent(Frame)}
    assert streams == (set(Stream) - ({Stream.BITMAP} if not broadcast else set()) if pair.number_of_bins else set())


def cuts(count: int, frame_items: int) -> list[tuple[int, int]]:
    return [(i, min(i + frame_items, count)) for i in range(0, count, frame_items)]


def assert_work_is_whole(end: MachineEnd, pair: MachinePair, broadcast: bool) -> None:
    (own, peer), frame_items = end.party.capacities, end.party.setup.frame_items
    other = Sender if isinstance(end.party, Receiver) else Receiver
    for number, attempt in attempts_of(pair).items():
        of = {"number": number, "attempt": attempt}
        *work, last = end.work_of(number, attempt)
        assert (work[0], last) == (Prepare(), CheckLists())
        assert {type(each) for each in work[1:]} <= {MaskOwn, MaskPeer, KeepTokens}
        assert [(each.start, each.stop) for each in work if isinstance(each, MaskOwn)] == cuts(own, frame_items)
        masked = [each for each in work if isinstance(each, MaskPeer)]
        assert [each.seq for each in masked] == list(range(len(masked)))
        assert b"".join(each.points for each in masked) == made_up_points(other, 0, peer, **of)
        tokens = b"".join(each.tokens for each in work if isinstance(each, KeepTokens))
        assert tokens == (made_up_tokens(made_up_points(Receiver, 0, own, **of)) if other is Sender else b"")
    result: list[Work]
    if isinstance(end.party, Receiver):
        result = [GatherMatches()] if pair.number_of_bins else []
        result += [CutBitmap(b, *span) for b in range(pair.number_of_bins) for span in cuts(peer, frame_items)]
    else:
        kept = (
            (b, pair.bits[b][start:stop]) for b in range(pair.number_of_bins) for start, stop in cuts(own, frame_items)
        )
        result = [KeepBits(number, packed_bits(bits)) for number, bits in kept]
    assert end.work_of(None) == ([*result, StageOutput(), PublishOutput()] if broadcast else [])


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


def assert_order_of_bins(pair: MachinePair) -> None:
    """In each direction the points of a bin end before those of the next begin, two bins are under way, no more.

    Holds where no bin begins again.
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


@both_outcomes
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_a_whole_task(n: int, m: int, broadcast: bool) -> None:
    pair = completed_run(n, m, broadcast=broadcast)
    assert pair.number_of_bins == (1 if n and m else 0)
    assert_whole(pair, n, m, broadcast)


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
def test_any_interleaving_ends_alike(n: int, m: int, broadcast: bool, schedule: list[int]) -> None:
    pair = MachinePair(n, m, broadcast=broadcast)
    pair.run(schedule)
    assert_whole(pair, n, m, broadcast)


long_schedules = st.builds(
    lambda seed, length: random.Random(seed).choices(range(20), k=length), st.integers(0, 2**32), st.integers(0, 2000)
)


@settings(max_examples=80, deadline=None)
@given(
    n=st.sampled_from([1, 5, 95, 97]),
    broadcast=st.booleans(),
    schedule=schedules | long_schedules,
    capacity=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_any_interleaving_of_bins_ends_alike(
    n: int, broadcast: bool, schedule: list[int], capacity: tuple[int, int]
) -> None:
    """As a session steps its tasks: two bins, each direction of the link full now and then."""
    pair = MachinePair(n, 96, broadcast=broadcast, capacity=capacity, **MANY)
    pair.run(schedule)
    assert_whole(pair, n, 96, broadcast)
    assert_order_of_bins(pair)


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


@each_cut
def test_the_sender_ends_the_tokens_after_its_checks(cut: dict[str, int]) -> None:
    n = 96 if cut else 20
    pair = MachinePair(n, n, broadcast=False, **cut)

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
    """The sender ends them after its checks; before that nothing is received, whatever the receiver's checks say."""
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


@each_cut
def test_progress_only_grows(cut: dict[str, int]) -> None:
    n, m = (96, 130) if cut else (20, 30)
    pair = MachinePair(n, m, broadcast=True, **cut)
    assert pair.receiver.party.progress == Progress(0, 0, 0, 0)
    seen: list[Progress] = []
    pair.run_until(lambda: bool(seen.append(pair.receiver.party.progress)) or pair.finished)  # type: ignore[func-returns-value]
    assert seen == sorted(seen)
    assert all(one <= two for before, after in pairwise(seen) for one, two in zip(before, after, strict=True))
    bins = pair.number_of_bins
    assert bins == (8 if cut else 1)
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


# Every message in every phase ----------------------------------------------------------------------------------

_BEGINNING: dict[Phase, set[type[TaskMessage]]] = {
    Phase.OFFERING: {Offer},
    Phase.OFFERING_HEARD: set(),
    Phase.OPENING: {Open},
    Phase.OPENING_HEARD: set(),
}
# Written down here a second time, on purpose: design section 7, not the machines' own tables.
LEGAL: dict[tuple[type[TaskParty], bool], dict[Phase, set[type[TaskMessage]]]] = {
    (Receiver, False): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Restart},
        Phase.CONFIRMING: {Done},
        Phase.FINISHED: set(),
    },
    (Receiver, True): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Restart},
        Phase.RESULT: set(),
        Phase.STAGING: {Ready},
        Phase.STAGING_HEARD: set(),
        Phase.COMMITTED: {Done},
        Phase.FINISHED: set(),
    },
    (Sender, False): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Received, Restart},
        Phase.FINISHED: set(),
    },
    (Sender, True): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Received, Restart},
        Phase.RESULT: {Frame, End, Restart},
        Phase.STAGING: {Ready},
        Phase.STAGING_HEARD: set(),
        Phase.READY: {Commit},
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


@cache
def moments(role: type[TaskParty], broadcast: bool, many: bool = False) -> list[Moment]:
    """Return every state a machine was in during two runs, with what the peer sent it next.

    In one run it is as fast as its peer, in the other it does nothing of its own while a message waits.
    """
    n, m = (96, 95) if many else (20, 19)
    seen = []
    for keeps_up in (True, False):
        pair = MachinePair(n, m, broadcast=broadcast, **(MANY if many else {}))
        end, other = pair.end(role), pair.other(pair.end(role))
        while not pair.finished:
            # One step at a time, and a look between them.
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


@cache
def plausible(kind: type[TaskMessage], role: type[TaskParty], broadcast: bool, many: bool = False) -> list[TaskMessage]:
    """Return messages of a kind as the peer sends them in a good run, and some that it might."""
    peer = Sender if role is Receiver else Receiver
    n, m = (96, 95) if many else (20, 19)
    run = completed_run(n, m, broadcast=broadcast, **(MANY if many else {}))
    made: list[TaskMessage] = list(dict.fromkeys(run.sent(kind, peer)))
    bins = run.number_of_bins
    digests = [digest_of(n, m, bins), digest_of(n, m, bins, sum(map(sum, run.bits)))]
    if kind is Restart:
        made += [Restart(TASK, number, attempt) for number in range(bins) for attempt in range(3)]
    elif kind is Received:
        made += [Received(TASK, number, 0, digest) for number in range(bins) for digest in (b"", *digests)]
    elif kind is Ready:
        made.append(Ready(TASK))
    elif kind in (Commit, Done):
        made += [kind(TASK, digest) for digest in digests]  # type: ignore[call-arg]
    return made


@both_outcomes
@roles
def test_a_run_passes_through_the_phases_the_table_names(role: type[TaskParty], broadcast: bool) -> None:
    phases = list(dict.fromkeys(moment.phase for moment in moments(role, broadcast)))
    assert sorted(phases, key=list(Phase).index) == list(LEGAL[role, broadcast])
    # No run goes back in them.
    runs = [moment.phase for moment in moments(role, broadcast)]
    steps = [(list(Phase).index(one), list(Phase).index(two)) for one, two in pairwise(runs)]
    assert sum(one > two for one, two in steps) == 1


@roles
def test_the_tables_hold_what_is_allowed_and_nothing_else(role: type[TaskParty]) -> None:
    expected: dict[Phase, set[type[TaskMessage]]] = {}
    for broadcast in (False, True):
        for phase, kinds in LEGAL[role, broadcast].items():
            expected[phase] = expected.get(phase, set()) | kinds
    found = {phase: {cause for cause in row if isinstance(cause, type)} for phase, row in role.table.items()}
    assert found == expected


@pytest.mark.parametrize("many", [False, True], ids=["one bin", "bins"])
@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_what_is_not_allowed_in_a_phase_is_a_violation(
    role: type[TaskParty], broadcast: bool, kind: type[TaskMessage], many: bool
) -> None:
    """At every moment of a run, whatever the peer would ever send, but for what is legal in that phase."""
    candidates = plausible(kind, role, broadcast, many)
    assert candidates
    tried = set()
    for moment in moments(role, broadcast, many):
        if kind in LEGAL[role, broadcast][moment.phase]:
            continue
        tried.add(moment.phase)
        before = pickle.dumps(moment.machine)
        for message in candidates:
            with pytest.raises(PeerProtocolError) as caught:
                moment.machine.receive(message)
            assert caught.value.code == 76
        # What was refused has changed nothing.
        assert pickle.dumps(moment.machine) == before
    expected = {phase for phase, legal in LEGAL[role, broadcast].items() if kind not in legal}
    assert tried == expected


@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_what_is_allowed_in_a_phase_is_taken(role: type[TaskParty], broadcast: bool, kind: type[TaskMessage]) -> None:
    """Each entry of a table is reached by a run of both sides."""
    taken = set()
    for moment in moments(role, broadcast):
        if type(moment.message) is kind:
            copied(moment.machine).receive(moment.message)
            taken.add(moment.phase)
    if kind is Restart:
        taken = restarts_taken(role, broadcast)
    assert taken == {phase for phase, legal in LEGAL[role, broadcast].items() if kind in legal}


def restarts_taken(role: type[TaskParty], broadcast: bool) -> set[Phase]:
    """Return the phases in which a machine takes a Restart in runs whose peer loses bin 0 at any moment."""
    taken = set()
    for cut in ({}, MANY):
        for moment in range(400):
            pair = pair_with_loss(Sender if role is Receiver else Receiver, moment, broadcast=broadcast, **cut)
            if pair is None:
                break
            end = pair.end(role)
            while not pair.finished:
                if end.inbox and isinstance(end.inbox[0], Restart) and end.party.wants_input:
                    taken.add(end.party.phase)
                moved = [step() for step in pair.steps()]
                assert any(moved)
    return taken


@each_cut
@both_outcomes
@roles
def test_the_wrong_task_is_a_violation_in_every_phase(
    role: type[TaskParty], broadcast: bool, cut: dict[str, int]
) -> None:
    for moment in moments(role, broadcast, bool(cut)):
        for message in (moment.message, Restart(TASK, 0, 1), Received(TASK, 0, 0)):
            if message is not None:
                with pytest.raises(PeerProtocolError):
                    moment.machine.receive(replace(message, task=TASK + 1))


@both_outcomes
@roles
def test_a_finished_machine_stays_finished(role: type[TaskParty], broadcast: bool) -> None:
    pair = completed_run(9, 9, broadcast=broadcast)
    machine = pair.end(role).party
    with pytest.raises(LocalProtocolError):
        machine.open(9)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)
    for kind in KINDS:
        for message in plausible(kind, role, broadcast):
            with pytest.raises(PeerProtocolError):
                machine.receive(message)
    assert machine.finished
    assert not machine.bins.has_next
    assert machine.next_work(room=True) is None


@roles
def test_a_task_is_offered_and_opened_once(role: type[TaskParty]) -> None:
    machine = role(setup())
    machine.offer(None)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)
    with pytest.raises(LocalProtocolError):
        machine.open(1)
    machine.receive(Offer(TASK))
    machine.open(1)
    with pytest.raises(LocalProtocolError):
        machine.open(1)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)


# Single faults -------------------------------------------------------------------------------------------------


def first(stream: Stream, seq: int = 0, number: int = 0) -> Callable[[TaskMessage], bool]:
    wanted = (number, stream, seq)
    return lambda message: isinstance(message, Frame) and (message.bin, message.stream, message.seq) == wanted


def end_of(stream: Stream, number: int = 0) -> Callable[[TaskMessage], bool]:
    return lambda message: isinstance(message, End) and (message.bin, message.stream) == (number, stream)


def a(kind: type[TaskMessage]) -> Callable[[TaskMessage], bool]:
    return lambda message: type(message) is kind


def just_before(
    role: type[TaskParty],
    wanted: Callable[[TaskMessage], bool],
    *,
    broadcast: bool = False,
    n: int = 20,
    m: int = 20,
    **cut: int,
) -> tuple[TaskParty, Any]:
    """Run a pair until the next message to a machine is the wanted one; return machine and message."""
    pair = MachinePair(n, m, broadcast=broadcast, **cut)
    end = pair.end(role)
    pair.run_until(lambda: bool(end.inbox) and wanted(end.inbox[0]) and end.party.wants_input)
    begin_bins(end.party, end.party.bins.begin)
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
    """Where another bin's frames would be fine a little later: tokens of the next one may even come now."""
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
def test_nothing_of_a_stream_after_its_end(role: type[TaskParty], stream: Stream) -> None:
    machine, end = just_before(role, end_of(stream), broadcast=stream is Stream.BITMAP)
    for extra in (end, frame(stream, 3, bytes(FRAME)), frame(stream, 2, bytes(FRAME // 2))):
        refuses(copied(machine), end, extra)


@both_outcomes
@pytest.mark.parametrize("sizes", [(0, 0), (0, 20), (20, 0)])
@roles
def test_a_frame_where_a_side_has_no_items(role: type[TaskParty], sizes: tuple[int, int], broadcast: bool) -> None:
    """There are no bins then, not even for the side that has items."""
    pair = MachinePair(*sizes, broadcast=broadcast)
    end = pair.end(role)
    pair.run_until(lambda: end.party.opened)
    for stream in Stream:
        for data in (b"", bytes(32)):
            refuses(copied(end.party), frame(stream, 0, data))
        refuses(copied(end.party), End(TASK, 0, 0, stream, 0, chain(stream, [])))


def opened(role: type[TaskParty], own: int, peer: int, *, prepare: bool = True, **changes: Any) -> TaskParty:
    """Return a machine whose bins have begun, their secrets drawn."""
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


def test_tokens_of_points_that_were_not_sent_yet() -> None:
    machine = opened(Receiver, 20, 1)
    refuses(copied(machine), frame(Stream.TOKENS, 0, bytes(128)))
    party = machine.bins[0]
    work = party.next_work(room=True)
    assert isinstance(work, MaskOwn)
    refuses(copied(machine), frame(Stream.TOKENS, 0, bytes(128)))
    party.completed(work, made_up_points(Receiver, 0, 8))
    refuses(machine, frame(Stream.TOKENS, 0, bytes(128)), frame(Stream.TOKENS, 1, bytes(128)))


def test_pad_bits_of_the_bitmap() -> None:
    """20 items: the last frame holds 4 bits."""
    for bit in range(4, 8):
        machine, _ = just_before(Sender, first(Stream.BITMAP, 2), broadcast=True)
        refuses(machine, frame(Stream.BITMAP, 2, bytes([1 << bit])))


@pytest.mark.parametrize(("n", "m", "good", "bad"), [(3, 20, b"\x07", b"\x0f"), (1, 20, b"\1", b"\3")])
def test_more_bits_than_the_smaller_list(n: int, m: int, good: bytes, bad: bytes) -> None:
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=n, m=m)
    refuses(copied(machine), frame(Stream.BITMAP, 0, bad))
    # Over the frames, not frame by frame.
    refuses(machine, frame(Stream.BITMAP, 0, good), frame(Stream.BITMAP, 1, b"\x80"))


def test_more_bits_than_the_smaller_list_over_the_bins() -> None:
    """3 items against 96: three bits in the first bitmap leave none for the second."""
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
    """The sender's own output, too, must be safe."""
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
        # Without an output of its own the receiver does not commit, and stays where Ready is allowed.
        machine = next(m.machine for m in moments(Receiver, True) if m.phase is Phase.STAGING)
        assert not machine.idle
    refuses(copied(machine), ready, ready)


@each_cut
def test_received_where_the_bitmap_is_due(cut: dict[str, int]) -> None:
    n = 96 if cut else 20
    machine, _ = just_before(Sender, first(Stream.BITMAP), broadcast=True, n=n, m=n, **cut)
    refuses(copied(machine), Received(TASK, 0, 0))
    refuses(machine, Received(TASK, 0, 0, digest_of(n, n, machine.number_of_bins)))


@each_cut
@both_outcomes
def test_received_of_a_bin_that_is_not_through(broadcast: bool, cut: dict[str, int]) -> None:
    """Before the sender has checked it and said so, of one that has not begun, and a second time."""
    n = 96 if cut else 20
    machine, end = just_before(Sender, end_of(Stream.RECEIVER_POINTS), broadcast=broadcast, n=n, m=n, **cut)
    for number in (0, 1, 2, 2**32 - 1):
        for attempt in (0, 1):
            refuses(copied(machine), end, Received(TASK, number, attempt))
    if cut:
        machine, received = just_before(Sender, a(Received), broadcast=broadcast, n=n, m=n, **cut)
        refuses(copied(machine), replace(received, attempt=1))
        refuses(copied(machine), replace(received, bin=2))
        refuses(machine, received, received)


@each_cut
def test_the_digest_of_the_task(cut: dict[str, int]) -> None:
    """R says it with the last Received, S with Done: any other, and one too early or not at all, is a violation."""
    n, m = (96, 95) if cut else (20, 19)
    bins = 4 if cut else 1
    wrong = [digest_of(m, n, bins), digest_of(n, m, bins + 1), digest_of(n, m, bins, 0), bytes(32), b""]
    last = just_before(Sender, lambda each: isinstance(each, Received) and bool(each.digest), n=n, m=m, **cut)
    for digest in wrong:
        refuses(copied(last[0]), replace(last[1], digest=digest))
    assert last[0].receive(last[1]) == [Done(TASK, digest_of(n, m, bins))]
    if cut:
        machine, received = just_before(Sender, a(Received), n=n, m=m, **cut)
        assert received.digest == b""
        refuses(machine, replace(received, digest=digest_of(n, m, bins)))
    machine, done = just_before(Receiver, a(Done), n=n, m=m, **cut)
    for digest in wrong:
        refuses(copied(machine), replace(done, digest=digest))
    assert machine.receive(done) == []
    assert machine.finished


@each_cut
def test_the_digest_of_a_broadcast(cut: dict[str, int]) -> None:
    n, m = (96, 95) if cut else (20, 19)
    commit, done = (
        just_before(r, a(k), broadcast=True, n=n, m=m, **cut) for r, k in ((Sender, Commit), (Receiver, Done))
    )
    matches = sum(map(sum, MachinePair(n, m, broadcast=True, **cut).bits))
    bins = 4 if cut else 1
    assert commit[1].digest == done[1].digest == digest_of(n, m, bins, matches)
    for digest in (digest_of(n, m, bins), digest_of(n, m, bins, matches - 1), digest_of(m, n, bins, matches), b""):
        for machine, message in (commit, done):
            refuses(copied(machine), replace(message, digest=digest))
    # No Received of a broadcast has one.
    machine, received = just_before(Sender, a(Received), broadcast=True, n=n, m=m, **cut)
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
def test_points_of_a_bin_wait_for_the_end_of_those_before_it(role: type[TaskParty]) -> None:
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
    """Two are under way; the third one begins with Received of the first, on either side."""
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
def test_padding_counts_as_items_where_there_are_too_many(role: type[TaskParty]) -> None:
    """2^44 - 5 items in two bins travel as more than 2^44."""
    assert padded(MAX_TOTAL_ITEMS - 5, 2) > MAX_TOTAL_ITEMS
    with pytest.raises(TooManyItemsError):
        opened(role, 5, MAX_TOTAL_ITEMS - 5, bin_items=2**44 - 6)


@roles
def test_too_many_bins(role: type[TaskParty]) -> None:
    """65,536 bins of 2^14 are the most: 78 for an item more than they hold."""
    most = 65_536 * 15_244
    assert opened(role, 5, most, bin_items=2**14).number_of_bins == 65_536
    with pytest.raises(TooManyBinsError) as caught:
        opened(role, 5, most + 1, bin_items=2**14)
    assert caught.value.code == 78


# The carrier of the work ---------------------------------------------------------------------------------------


@roles
def test_only_work_that_was_handed_out_is_completed(role: type[TaskParty]) -> None:
    party = opened(role, 9, 9).bins[0]
    points = made_up_points(role, 0, 8)
    with pytest.raises(LocalProtocolError):
        party.completed(MaskOwn(0, 8), points)
    work = party.next_work(room=True)
    assert work == MaskOwn(0, 8)
    second = party.next_work(room=True)
    assert second == MaskOwn(8, 9)
    assert party.next_work(room=True) is None
    for other in (MaskOwn(0, 8), second, CheckLists(), PublishOutput(), StageOutput()):
        with pytest.raises(LocalProtocolError) as caught:
            party.completed(other, points)
        assert caught.value.code == 70
    assert len(party.completed(work, points)) == 1
    with pytest.raises(LocalProtocolError):
        party.completed(work, points)


@roles
def test_nothing_is_computed_before_the_secrets_are_drawn(role: type[TaskParty]) -> None:
    machine = opened(role, 9, 9, prepare=False)
    party = machine.bins[0]
    machine.receive(frame(party.peer_stream, 0, bytes(FRAME)))
    work = party.next_work(room=True)
    assert work == Prepare()
    assert party.next_work(room=True) is None
    party.completed(work)
    assert [type(party.next_work(room=True)) for _ in range(3)] == [MaskOwn, MaskPeer, MaskOwn]


@pytest.mark.parametrize("size", [0, FRAME - 32, FRAME - 1, FRAME + 32])
@roles
def test_a_result_of_a_wrong_size_is_our_own_mistake(role: type[TaskParty], size: int) -> None:
    party = opened(role, 9, 9).bins[0]
    work = party.next_work(room=True)
    assert work is not None
    with pytest.raises(LocalProtocolError):
        party.completed(work, bytes(size))


@both_outcomes
@each_cut
def test_without_room_nothing_makes_a_frame(broadcast: bool, cut: dict[str, int]) -> None:
    """The receiver masks on, so that the link drains; the sender's masking makes tokens and has to wait."""
    drained = 0
    for role in (Receiver, Sender):
        for moment in moments(role, broadcast, bool(cut)):
            machine = copied(moment.machine)
            for lane in (machine, *machine.bins.values()):
                work = lane.next_work(room=False)
                if work is None:
                    continue
                assert not isinstance(work, MaskOwn | CutBitmap)
                assert lane.frames_under_way == 0
                if isinstance(work, MaskPeer):
                    assert role is Receiver
                    drained += 1
                sent = lane.completed(work)
                assert not any(isinstance(message, Frame) for message in sent)
    assert drained


@roles
def test_frames_under_way_are_those_that_work_will_send(role: type[TaskParty]) -> None:
    machine = opened(role, 3 * FRAME_ITEMS, 3 * FRAME_ITEMS)
    party = machine.bins[0]
    machine.receive(frame(party.peer_stream, 0, bytes(FRAME)))
    pieces = [party.next_work(room=True) for _ in range(3)]
    assert [type(piece) for piece in pieces] == [MaskOwn, MaskPeer, MaskOwn]
    assert party.frames_under_way == (3 if role is Sender else 2)
    sent = 0
    for piece in pieces:
        assert piece is not None
        size = FRAME // 2 if isinstance(piece, MaskPeer) and role is Sender else FRAME
        sent += sum(isinstance(message, Frame) for message in party.completed(piece, bytes(size)))
    assert sent == (3 if role is Sender else 2)
    assert party.frames_under_way == 0


def test_a_receiver_without_room_masks_all_that_comes() -> None:
    machine = opened(Receiver, 100, 80)
    party = machine.bins[0]
    for seq in range(10):
        machine.receive(frame(Stream.SENDER_POINTS, seq, bytes(FRAME)))
        work = party.next_work(room=False)
        assert work == MaskPeer(seq, bytes(FRAME))
        assert party.completed(work) == []
    assert party.next_work(room=False) is None
    assert party.next_work(room=True) == MaskOwn(0, FRAME_ITEMS)


@roles
def test_only_a_few_frames_are_held(role: type[TaskParty]) -> None:
    machine = opened(role, 1, 80)
    party = machine.bins[0]
    own = party.next_work(room=True)
    assert own == MaskOwn(0, 1)
    party.completed(own, bytes(32))
    for seq in range(MAX_PENDING_FRAMES):
        assert machine.wants_input
        machine.receive(frame(party.peer_stream, seq, bytes(FRAME)))
    assert not machine.wants_input
    work = party.next_work(room=True)
    assert work is not None
    party.completed(work, bytes(FRAME // 2) if role is Sender else b"")
    assert machine.wants_input


def test_only_a_few_frames_of_tokens_are_held() -> None:
    """A sender that holds the tokens back and then sends them all at once is made to wait."""
    pair = MachinePair(10 * FRAME_ITEMS, 1, broadcast=False)
    pair.run_until(lambda: pair.receiver.party.opened)
    while pair.work(pair.receiver) or pair.deliver(pair.sender) or pair.work(pair.sender):
        pass
    assert len([each for each in pair.sent(Frame) if each.stream == Stream.TOKENS]) == 10
    while pair.deliver(pair.receiver):
        pass
    assert len(pair.receiver.party.bins[0]._queued) == MAX_PENDING_FRAMES
    assert pair.receiver.inbox
    pair.run()


def test_only_a_few_frames_of_the_bitmap_are_held() -> None:
    pair = MachinePair(1, 10 * FRAME_ITEMS, broadcast=True)
    receiver, sender = pair.ends
    pair.run_until(lambda: sender.party.phase is Phase.RESULT)
    while pair.work(receiver):
        pass
    assert len([each for each in pair.sent(Frame) if each.stream == Stream.BITMAP]) == 10
    while pair.deliver(sender):
        pass
    assert len(sender.party._queued) == 4
    assert sender.inbox
    pair.run()


@roles
def test_own_and_peer_frames_take_turns(role: type[TaskParty]) -> None:
    machine = opened(role, 4 * FRAME_ITEMS, 4 * FRAME_ITEMS)
    party = machine.bins[0]
    for seq in range(4):
        machine.receive(frame(party.peer_stream, seq, bytes(FRAME)))
    kinds = []
    for _ in range(8):
        work = party.next_work(room=True)
        assert work is not None
        kinds.append(type(work))
        party.completed(work, bytes(FRAME // 2 if isinstance(work, MaskPeer) and role is Sender else FRAME))
    assert kinds == [MaskOwn, MaskPeer] * 4


@roles
def test_nothing_is_taken_in_between_commit_and_publishing(role: type[TaskParty]) -> None:
    """Else the end of the link, or a late failure of the peer, could keep a committed output from its place."""
    pair = MachinePair(3, 3, broadcast=True)
    end = pair.end(role)
    pair.run_until(lambda: end.party.phase is Phase.COMMITTED)
    assert not end.party.wants_input
    work = end.party.next_work(room=True)
    assert work == PublishOutput()
    assert not end.party.wants_input
    end.party.completed(work)
    assert end.party.wants_input


# What the peer may be told -------------------------------------------------------------------------------------


@each_cut
@both_outcomes
def test_a_failure_of_the_sender_is_always_named(broadcast: bool, cut: dict[str, int]) -> None:
    assert {moment.machine.disclosure for moment in moments(Sender, broadcast, bool(cut))} == {Disclosure.NAMED}


def expected_disclosure(pair: MachinePair, broadcast: bool) -> set[Disclosure]:
    """Return what R may tell, by the messages it has sent and got and by the work it has done."""
    end = pair.receiver
    done = [type(each) for each, _ in end.work]
    if not broadcast:
        if any(each.digest for each in pair.sent(Received)):
            return {Disclosure.NOTHING}
        ends = [(message.bin, message.stream) for message in end.received if isinstance(message, End)]
        arrived = {number for number, _ in ends if {(number, 2), (number, 3)} <= set(ends)}
        if arrived or CheckLists in done or pair.sent(Received):
            return {Disclosure.UNIFORM}
        tokens = [message for message in end.received if isinstance(message, Frame) and message.stream == Stream.TOKENS]
        last = {each.seq for each in tokens} & {end.party.bins[0]._points_out.shape.frames - 1 if tokens else -1}
        # The checks may have begun once the last tokens are there.
        return {Disclosure.NAMED, Disclosure.UNIFORM} if last else {Disclosure.NAMED}
    told = {message.bin for message in pair.sent(End, Receiver) if message.stream == Stream.BITMAP}
    exchanges = end.party.opened and len(told) < pair.number_of_bins
    return {Disclosure.UNIFORM if exchanges else Disclosure.NAMED}


@each_cut
@both_outcomes
def test_what_is_told_of_a_failure_of_the_receiver(broadcast: bool, cut: dict[str, int]) -> None:
    """One-sided: uniform from the first bin that can be compared on, nothing after the last Received.

    In a broadcast uniform from the first point to the last bitmap, named before and after.
    """
    n = 96 if cut else 20
    pair = MachinePair(n, n, broadcast=broadcast, **cut)
    seen = set()
    while not pair.finished:
        for step in pair.steps():
            expected = expected_disclosure(pair, broadcast)
            assert pair.receiver.party.disclosure in expected
            seen |= expected
            step()
    assert seen == ({Disclosure.NAMED, Disclosure.UNIFORM} if broadcast else set(Disclosure))


@both_outcomes
def test_masking_after_the_last_end_is_uniform_too(broadcast: bool) -> None:
    """A receiver that is slow to mask the last frames stands between the last End and the checks for a while."""
    pair = MachinePair(1, 3 * FRAME_ITEMS, broadcast=broadcast)
    receiver, sender = pair.ends
    pair.run_until(lambda: pair.sent(End, Receiver) != [])
    while pair.deliver(sender) or pair.work(sender):
        pass
    while pair.deliver(receiver):
        pass
    # A sender whose checks are not waited for ends both streams.
    assert [message.stream for message in receiver.received if isinstance(message, End)] == [2, 3]
    assert receiver.party.disclosure is Disclosure.UNIFORM
    assert [type(piece) for piece, _ in receiver.work] == [Prepare, MaskOwn]


# Continuing ----------------------------------------------------------------------------------------------------

OTHER_SID = bytes(range(100, 132))


def kept_pair(receiver: int, sender: int, *, n: int = 96, m: int = 95) -> tuple[Kept, Kept]:
    return Kept(OTHER_SID, n, m, 4, receiver), Kept(OTHER_SID, m, n, 4, sender)


@both_outcomes
@pytest.mark.parametrize("finished", [(0, 0b11), (0b1, 0b1), (0b101, 0b111), (0b0111, 0b1111)])
def test_finished_bins_are_not_exchanged_again(finished: tuple[int, int], broadcast: bool) -> None:
    pair = MachinePair(96, 95, broadcast=broadcast, kept=kept_pair(*finished), **MANY)
    pair.run()
    left = {number for number in range(4) if not finished[0] >> number & 1}
    streams = {stream: {each.bin for each in pair.sent(Frame) if each.stream == stream} for stream in Stream}
    assert streams == {1: left, 2: left, 3: left, 4: set(range(4)) if broadcast else set()}
    assert {each.bin for each in pair.sent(Received)} == left
    for end in pair.ends:
        # The secrets are those of the run that goes on; only the cut into bins is the other's.
        assert end.party.partition_sid == OTHER_SID
        assert end.party.finished
    matches = (sum(map(sum, pair.bits)),) if broadcast else ()
    assert pair.sent(Done)[-1].digest == digest_of(96, 95, 4, *matches)
    sent = [each for each in pair.sent(Frame) if each.stream == Stream.RECEIVER_POINTS]
    assert b"".join(each.data for each in sent) == b"".join(
        made_up_points(Receiver, 0, 93, number=b) for b in sorted(left)
    )


def test_a_one_sided_task_whose_bins_are_all_finished_is_over_at_once() -> None:
    pair = MachinePair(96, 95, broadcast=False, kept=kept_pair(0b1111, 0b1111), **MANY)
    pair.run()
    assert [type(message) for _, message in pair.log] == [Offer, Offer]


def test_a_broadcast_whose_bins_are_all_finished_has_its_bitmaps_left() -> None:
    pair = MachinePair(96, 95, broadcast=True, kept=kept_pair(0b1111, 0b1111), **MANY)
    pair.run()
    assert {each.stream for each in pair.sent(Frame)} == {Stream.BITMAP}
    assert len(pair.sent(End)) == 4
    assert pair.sent(Received) == []


def test_a_broadcast_that_is_complete_is_over_at_once() -> None:
    kept = tuple(replace(each, complete=True) for each in kept_pair(0b1111, 0b1111))
    pair = MachinePair(96, 95, broadcast=True, kept=kept, **MANY)  # type: ignore[arg-type]
    pair.run()
    assert [type(message) for _, message in pair.log] == [Offer, Offer]


@roles
def test_offers_that_do_not_fit_begin_afresh(role: type[TaskParty]) -> None:
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
def test_an_open_must_keep_to_the_offer(role: type[TaskParty]) -> None:
    """The peer's other count is a violation, our own an input that has changed."""
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


# A lost worker -------------------------------------------------------------------------------------------------


def may_be_lost(end: MachineEnd) -> list[int]:
    """Return the bins whose worker a side still needs, and that have not begun again.

    A receiver needs it, although it has said Received, until it has gathered what matched.
    """
    party, attempts = end.party, end.party.bins.attempts
    if isinstance(party, Receiver):
        gathered = party.phase is not Phase.EXCHANGE and (party.phase is not Phase.RESULT or party._bitmap is not None)
        needed = [] if gathered else list(attempts)
    else:
        needed = [number for number, each in party.bins.items() if each.phase is not BinPhase.THROUGH]
    return sorted(number for number in needed if attempts[number] < LAST_ATTEMPT)


def pair_with_loss(
    role: type[TaskParty], moment: int, *, broadcast: bool, number: int = 0, **cut: int
) -> MachinePair | None:
    """Run a pair for so many steps; then a side loses a bin's worker. None where it does not need it any more."""
    n = 96 if cut else 20
    pair = MachinePair(n, n, broadcast=broadcast, **cut)
    steps = pair.steps()
    end = pair.end(role)
    pair.run_until(lambda: number in end.party.bins)
    for i in range(moment):
        steps[i % len(steps)]()
    if number not in may_be_lost(end):
        return None
    pair.restart(end, number)
    return pair


@each_cut
@both_outcomes
@roles
def test_a_bin_begins_again_at_any_moment(role: type[TaskParty], broadcast: bool, cut: dict[str, int]) -> None:
    """Before and after Received, until there is nothing left to lose."""
    n, tried, after_received = 96 if cut else 20, 0, 0
    for moment in range(2000):
        pair = pair_with_loss(role, moment, broadcast=broadcast, **cut)
        if pair is None:
            break
        after_received += any(each.bin == 0 for each in pair.sent(Received))
        pair.run()
        assert_whole(pair, n, n, broadcast)
        assert pair.sent(Restart, role) == pair.sent(Restart, Sender if role is Receiver else Receiver)
        assert pair.sent(Restart, role) == [Restart(TASK, 0, 1)]
        tried += 1
    assert tried > 12
    assert bool(after_received) is (role is Receiver and (broadcast or bool(cut)))


losses = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from([(0,), (1,), (0, 1), (1, 0)]), st.integers(0, 7)),
    min_size=1,
    max_size=6,
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
    """losses: after how many steps, in an order of the seed's, which sides lose which of the bins they may lose."""
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
        # Each side says it once, whoever began.
        said = [[each for each in pair.sent(Restart, role) if each.bin == number] for role in (Receiver, Sender)]
        assert said in ([[], []], [[Restart(TASK, number, 1)]] * 2)


@both_outcomes
def test_both_lose_the_same_bin_at_once(broadcast: bool) -> None:
    """The two Restarts cross: each answers the other, and nothing more is said."""
    pair = MachinePair(96, 96, broadcast=broadcast, **MANY)
    pair.run_until(lambda: len([each for each in pair.sent(Frame) if each.bin == 0]) > 4)
    for end in pair.ends:
        pair.restart(end, 0)
    pair.run()
    assert_whole(pair, 96, 96, broadcast)
    assert pair.sent(Restart) == [Restart(TASK, 0, 1)] * 2


@roles
def test_frames_of_the_old_attempt_are_ignored_until_the_answer(role: type[TaskParty]) -> None:
    """What is on its way when a side begins again. After the answer it is a violation, as the new is before it."""
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
def test_whoever_is_told_begins_again_at_once(role: type[TaskParty]) -> None:
    peer = Sender if role is Receiver else Receiver
    stream = peer.bin_party.own_stream
    machine = opened(role, 20, 20)
    old = machine.bins[0]
    machine.receive(frame(stream, 0, bytes(FRAME)))
    assert machine.receive(Restart(TASK, 0, 1)) == [Restart(TASK, 0, 1)]
    assert machine.bins[0] is not old
    # The peer's own order: nothing of the old attempt comes after its Restart.
    refuses(copied(machine), frame(stream, 1, bytes(FRAME)))
    assert machine.receive(frame(stream, 0, bytes(FRAME), attempt=1)) == []


@roles
def test_a_restart_that_does_not_fit(role: type[TaskParty]) -> None:
    machine = opened(role, 96, 96, **MANY)
    for number, attempt in ((0, 0), (0, 2), (0, 2**32 - 1), (2, 1), (4, 1), (2**32 - 1, 1)):
        refuses(copied(machine), Restart(TASK, number, attempt))
    machine.restart(0)
    # No answer to anything we said.
    for number, attempt in ((0, 0), (0, 2)):
        refuses(copied(machine), Restart(TASK, number, attempt))


@roles
def test_a_peer_that_begins_again_for_ever_is_stopped(role: type[TaskParty]) -> None:
    """The second time is a violation, whoever began the first; a second answer is one too."""
    told, began = opened(role, 20, 20), opened(role, 20, 20)
    told.receive(Restart(TASK, 0, 1))
    began.restart(0)
    began.receive(Restart(TASK, 0, 1))
    for machine in (told, began):
        for attempt in (0, 1, 2, 3):
            refuses(copied(machine), Restart(TASK, 0, attempt))
    # Each bin may begin again.
    machine = opened(role, 96, 96, **MANY)
    for number in (0, 1):
        assert machine.receive(Restart(TASK, number, 1)) == [Restart(TASK, number, 1)]
        refuses(copied(machine), Restart(TASK, number, 2))


@roles
def test_a_bin_that_is_lost_a_second_time_ends_the_run(role: type[TaskParty]) -> None:
    """Also where the peer lost it first: a bin begins again once."""
    ours, theirs = opened(role, 20, 20), opened(role, 20, 20)
    ours.restart(0)
    theirs.receive(Restart(TASK, 0, 1))
    for machine in (ours, theirs):
        with pytest.raises(WorkerLostError) as caught:
            machine.restart(0)
        assert caught.value.code == 69


@both_outcomes
def test_what_was_received_begins_again_only_while_no_result_is_told(broadcast: bool) -> None:
    """After the last word of a one-sided task, or the first bit of a broadcast, it is too late on either side."""
    pair = MachinePair(20, 20, broadcast=broadcast)
    wanted = first(Stream.BITMAP) if broadcast else a(Received)
    pair.run_until(lambda: bool(pair.sender.inbox) and wanted(pair.sender.inbox[-1]))
    with pytest.raises(WorkerLostError):
        pair.receiver.party.restart(0)
    while pair.deliver(pair.sender):
        pass
    refuses(pair.sender.party, Restart(TASK, 0, 1))


@pytest.mark.parametrize("completed_before", [True, False])
def test_what_gathers_the_result_is_asked_for_again(completed_before: bool) -> None:
    """A bin is lost while the receiver waits for its result: what that comes to, soon or late, is no result."""
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


@each_cut
@both_outcomes
def test_a_sender_that_has_ended_the_tokens_needs_no_worker(broadcast: bool, cut: dict[str, int]) -> None:
    """R may have received the bin by then, and would refuse to begin it again."""
    n = 96 if cut else 20
    pair = MachinePair(n, n, broadcast=broadcast, **cut)
    pair.run_until(lambda: any(each.stream == Stream.TOKENS for each in pair.sent(End)))
    while not pair.finished:
        assert pair.sender.party.restart(0) == []
        moved = [step() for step in pair.steps()]
        assert any(moved)
    assert pair.sender.party.restart(0) == []
    assert_whole(pair, n, n, broadcast)


@roles
def test_a_bin_that_begins_again_has_its_own_streams(role: type[TaskParty]) -> None:
    """The digests name the attempt; no point of the first attempt is sent again."""
    pair = pair_with_loss(role, 12, broadcast=False)
    assert pair is not None
    pair.run()
    data: dict[int, set[bytes]] = {attempt: set() for attempt in (0, 1)}
    for each in pair.sent(Frame):
        data[each.attempt].add(each.data)
    assert data[0]
    assert not data[0] & data[1]


def test_progress_takes_back_what_is_lost() -> None:
    pair = MachinePair(96, 96, broadcast=False, **MANY)
    pair.run_until(lambda: len(pair.sent(Received)) == 1)
    party, (number,) = pair.receiver.party, [each.bin for each in pair.sent(Received)]
    before = party.progress
    pair.restart(pair.receiver, number)
    assert party.progress.own == before.own - 93
    assert party.bins.never_through <= BINS_UNDER_WAY
    pair.run()
    assert party.progress == Progress(4 * 93, 4 * 93, 4 * 93, 4 * 93)


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
    """Stream 1 with the one masked point of the design, t = 00 01 … 1f as bin sid, as the receiver ends it."""
    outgoing = OutgoingStream(Place(TASK, 0, 0, bytes(range(32))), StreamShape(Stream.RECEIVER_POINTS, 1, FRAME_ITEMS))
    assert outgoing.frame(MASKED) == frame(1, 0, MASKED)
    assert outgoing.end() == End(TASK, 0, 0, 1, 1, bytes.fromhex(D_1))
    assert first_digest(Stream.RECEIVER_POINTS, bytes(range(32))).hex() == D_0
    assert next_digest(bytes.fromhex(D_0), MASKED).hex() == D_1


# Nothing secret is shown ---------------------------------------------------------------------------------------


def test_no_repr_shows_data_digests_or_nonces() -> None:
    secret = random.Random(7).randbytes(32)
    kept = Kept(secret, 5, 6, 1, 1)
    party = opened(Receiver, 1, 1, task_sid=secret)
    shown = [
        Hello("0.1.0", "alice", "nightly", (TaskTerms("customers", "alice", False, 1),), 2048, 2**14, secret),
        HelloOctets(secret),
        kept,
        Offer(0, kept),
        Open(0, 5, secret),
        Frame(0, 0, 0, 1, 2, secret),
        End(0, 0, 0, 1, 5, secret),
        Received(0, 0, 0, secret),
        Commit(0, secret),
        Done(0, secret),
        MaskPeer(0, secret),
        KeepTokens(secret),
        KeepBits(0, secret),
        setup(task_sid=secret, probe=secret),
        party,
        party.bins[0],
    ]
    for value in shown:
        for text in (repr(value), str(value)):
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text
            assert "\\x" not in text
