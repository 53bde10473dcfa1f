"""Sessions in memory: two real Sessions over two real Links, with threads where the network would be."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.memory.pair import PATIENCE
from support.memory.sessions import (
    ALICE,
    BOB,
    FRAME_ITEMS,
    Filter,
    Party,
    Plan,
    TapLink,
    both,
    connect,
    joined,
    numbers,
    run,
    small,
    succeeded,
)

from psicli import curve
from psicli.core import trace
from psicli.core.errors import (
    DisagreementError,
    MatchRateError,
    PeerAccusesError,
    PeerFailedError,
    PeerGoneError,
    PeerPolicyError,
    PeerProtocolError,
    PeerSilentError,
    PeerSizeError,
    PeerStoppedError,
    PeerStuckError,
    PsicliError,
    RaggedRowError,
    SelfCheckError,
    StorageError,
    TerminatedBySignal,
)
from psicli.core.stages import Stage, Stages
from psicli.exchange.worker import Match, Worker
from psicli.items.partitions import Matches
from psicli.protocol.bins import LEAST_BIN_ITEMS, MOST_BIN_ITEMS, number_of_bins
from psicli.protocol.messages import (
    DIGEST_BYTES,
    PROBE_BYTES,
    Abort,
    Commit,
    Done,
    End,
    Frame,
    Hello,
    HelloOctets,
    Message,
    Offer,
    Open,
    Purpose,
    Ready,
    Received,
    Stream,
    TaskMessage,
    TaskTerms,
    Working,
    session_id,
    task_session_id,
)
from psicli.protocol.streams import LEAST_FRAME_ITEMS
from psicli.protocol.task import Disclosure, Phase, Progress
from psicli.protocol.wire import decode_hello, encode
from psicli.report.trace_file import save_trace
from psicli.session import liveness
from psicli.session.agreement import agree
from psicli.session.liveness import SPARE_WORDS
from psicli.session.session import UNCONFIRMED, UNNAMED_FAILURE, Session
from psicli.transport.endpoint import pump
from psicli.transport.link import QUEUE_FRAMES

# Bins that may be under way at a time, over all tasks.
MAX_BINS = 2
BAD_ROW = RaggedRowError(path=Path("in.csv"), line=7, found=1, expected=2)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Every thread a session or a test started ends by itself."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("psicli-")]
    for thread in left:
        thread.join(PATIENCE)
    assert not [thread for thread in left if thread.is_alive()]


# The two ends ----------------------------------------------------------------------------------------------------


class Signal:
    """Something a test waits for, but never for ever."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(PATIENCE), "never happened"


# All goes well ---------------------------------------------------------------------------------------------------


def test_many_tasks_with_receivers_of_their_own() -> None:
    """Sizes around the frame's, both receivers, with and without broadcast; each learns what is its to learn."""
    sizes = [(0, 0), (0, 9), (1, 1), (8, 16), (17, 3), (40, 41)]
    cases = list(itertools.product((ALICE, BOB), (False, True), sizes))
    pairs = [
        both(f"task-{i}", numbers(0, n), numbers(n // 2, n // 2 + m), receiver=receiver, broadcast=broadcast)
        for i, (receiver, broadcast, (n, m)) in enumerate(cases)
    ]
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    run(ends)
    succeeded(ends)
    for (receiver, broadcast, (n, m)), (alice, bob) in zip(cases, pairs, strict=True):
        common = set(numbers(0, n)) & set(numbers(n // 2, n // 2 + m))
        for plan, party in ((alice, ALICE), (bob, BOB)):
            learns = broadcast or party == receiver
            assert plan.found == (common if learns else None)
            if broadcast:
                assert plan.output is not None
                assert plan.output.published
            alone = ["alone"] if learns and not broadcast else []
            assert plan.calls == ["started", "exchanged", *alone]
        assert alice.result is not None
        assert bob.result is not None
        assert (alice.result.peer_items, bob.result.peer_items) == (m, n)
        assert alice.result.message_bytes == bob.result.message_bytes[::-1]
        assert alice.result.warning is bob.result.warning is None
    assert sum(len(pair[0].items) for pair in pairs) == 4 * sum(n for n, _ in sizes)


def test_the_session_id_is_the_same_for_both_and_new_every_time() -> None:
    ids = set()
    for _ in range(2):
        ends = joined(*small(1))
        run(ends)
        succeeded(ends)
        sessions = [end.session for end in ends]
        assert sessions[0] is not None
        assert sessions[1] is not None
        assert sessions[0].sid == sessions[1].sid
        ids.add(sessions[0].sid)
    assert len(ids) == 2


def test_the_next_task_is_read_and_opened_while_one_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody masks the last frame of the first task before all of that has happened."""
    opened = Signal()
    mask_own = Worker.mask_own

    def hold_the_last(worker: Worker, start: int, stop: int) -> bytes:
        if start == 96:
            opened.wait()
        return mask_own(worker, start, stop)

    monkeypatch.setattr(Worker, "mask_own", hold_the_last)
    alice, bob = small(3)
    alice[0], bob[0] = both("t0", numbers(0, 100), numbers(0, 100), receiver=ALICE)
    # Bob is slow to read: alice's Open comes before bob has any use for it.
    alices_open = Signal()
    bob[1] = Plan("t1", numbers(0, 5), receives=False, before=alices_open.wait)
    ends = joined(alice, bob)
    opens = itertools.count(1)

    def note(message: Message) -> None:
        if isinstance(message, Open) and message.task == 1 and next(opens) == 2:
            opened.set()

    def note_alices(message: Message) -> None:
        if isinstance(message, Open) and message.task == 1:
            alices_open.set()
        note(message)

    ends[0].link.on_receive, ends[1].link.on_receive = note, note_alices
    run(ends)
    succeeded(ends)
    for end in ends:
        sent = end.link.sent
        last_of_first = max(i for i, m in enumerate(sent) if isinstance(m, Frame) and m.task == 0)
        assert end.link.place(Offer, 1) < end.link.place(Open, 1) < last_of_first
        # Points of the next task never come before this one's are through, nor its Offer before this one's.
        order = [m.task for m in sent if isinstance(m, Frame | End) and m.stream != Stream.TOKENS]
        assert order == sorted(order)
        assert [m.task for m in sent if isinstance(m, Offer)] == [0, 1, 2]


def reaches(stages: Stages, stage: Stage, seconds: float) -> Callable[[], None]:
    """Make a wait until a stage has taken so long [s], but never for ever."""

    def wait() -> None:
        deadline = time.monotonic() + PATIENCE
        while stages.seconds()[stage] < seconds:
            assert time.monotonic() < deadline, "never happened"
            time.sleep(0.005)

    return wait


def test_waiting_for_a_slow_reader_is_waiting_for_the_peer() -> None:
    alice, bob = small(1)
    bob[0] = Plan("t0", numbers(0, 5), receives=False, before=reaches(alice[0].stages, Stage.WAITING_FOR_PEER, 0.2))
    ends = joined(alice, bob)
    run(ends)
    succeeded(ends)
    seconds = alice[0].stages.seconds()
    assert seconds["waiting_for_peer"] >= 0.2
    assert seconds["waiting_for_room"] == 0
    assert 0 < seconds["computing"] < PATIENCE
    assert 0 < seconds["matching"] < PATIENCE
    assert bob[0].stages.seconds()["waiting_for_room"] == 0


def test_waiting_for_a_full_link_is_waiting_for_room() -> None:
    """As where the network is slow: nothing leaves for a while, and both lists are longer than the queues."""
    many = FRAME_ITEMS * 3 * QUEUE_FRAMES
    alice, bob = both("t0", numbers(0, many), numbers(many // 2, many), receiver=ALICE)
    wait = reaches(alice.stages, Stage.WAITING_FOR_ROOM, 0.2)

    def hold(message: Message) -> bool:
        if isinstance(message, Frame) and message.seq == 1:
            wait()
        return True

    ends = joined([alice], [bob])
    run(ends, to_bob=hold)
    succeeded(ends)
    assert alice.found == set(numbers(many // 2, many))
    assert alice.stages.seconds()["waiting_for_room"] >= 0.2


def test_a_broadcast_counts_writing_on_both_sides() -> None:
    alice, bob = small(1, broadcast=True)
    run(ends := joined(alice, bob))
    succeeded(ends)
    for plan in (alice[0], bob[0]):
        seconds = plan.stages.seconds()
        # The items of a bin are fetched when it begins.
        assert all(seconds[stage] > 0 for stage in ("reading", "computing", "matching", "writing"))


def test_a_trace_shows_every_frame_of_both_lists(tmp_path: Path) -> None:
    alice, bob = both("t0", numbers(0, 3 * FRAME_ITEMS), numbers(0, 2 * FRAME_ITEMS - 1), receiver=ALICE)
    trace.start()
    run(ends := joined([alice], [bob]))
    save_trace(tmp_path / "t.json", ALICE, {})
    succeeded(ends)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    spans = Counter((event["name"], event["args"].get("frame")) for event in events if event["ph"] == "X")
    # Two parties in one process: the frames of both lists, masked by one and by the other.
    for step in ("mask own", "mask peer"):
        assert {frame: spans[step, frame] for frame in range(4)} == {0: 2, 1: 2, 2: 1, 3: 0}
    assert spans["fetch bin", None] == 2
    assert spans["check lists", None] == 2
    assert spans["match", None] == 1
    counts = {event["name"]: list(event["args"]) for event in events if event["ph"] == "C"}
    queues = {"under way": ["pieces"], "inbox": ["messages"], "outbox": ["messages"]}
    assert counts == {**queues, "sent": ["bytes"], "received": ["bytes"]}


@pytest.mark.parametrize("later", [{}, {"broadcast": True}, {"broadcast": True, "receiver": BOB}], ids=str)
def test_a_slow_output_does_not_show_in_the_pace_of_the_session(later: dict[str, Any]) -> None:
    """How long a one-sided result takes to write tells of its size; the sender must not see it in later tasks."""
    first, others = small(1), small(8, **later)
    alice, bob = ([*first[side], *others[side][1:]] for side in range(2))
    go_on = threading.Event()
    alice[0].finish_alone = lambda matches: go_on.wait(PATIENCE)  # type: ignore[method-assign]
    ends = joined(alice, bob)
    last = Signal()
    bob[7].exchanged = lambda result: last.set()  # type: ignore[method-assign]
    runner = threading.Thread(target=run, args=(ends,), name="psicli-test-run")
    runner.start()
    last.wait()
    go_on.set()
    runner.join(PATIENCE)
    succeeded(ends)


class HesitantLink(TapLink):
    """Room that appears between two looks: at the first look after a frame there is none, at the next there is."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0

    def send(self, message: Message) -> int:
        if not isinstance(message, Working):
            self._looks = 0
        return super().send(message)

    def room(self) -> float:
        self._looks += 1
        return super().room() if self._looks > 1 else 0


def test_room_that_appears_between_two_looks_is_not_slept_through() -> None:
    alice, bob = both("t0", numbers(0, 60), numbers(30, 90), receiver=ALICE, broadcast=True)
    # A heartbeat, which would wake a sleeper, comes after a quarter of this.
    ends = joined([alice], [bob], links=(HesitantLink(), HesitantLink()), recv_timeout=8 * PATIENCE)
    beats = [end.link for end in ends]
    run(ends)
    succeeded(ends)
    assert alice.found == bob.found == set(numbers(30, 60))
    assert not [m for link in beats for m in link.sent if isinstance(m, Working)]


@pytest.mark.parametrize("terms", [[ALICE, ALICE], [ALICE, BOB], [BOB, ALICE]], ids=str)
def test_a_slow_check_of_the_lists_does_not_block_the_next_task(
    monkeypatch: pytest.MonkeyPatch, terms: list[str]
) -> None:
    """The end of the tokens must not stand behind more frames of the next task than the receiver takes in."""
    pairs = [both(f"t{i}", numbers(0, 200), numbers(100, 300), receiver=who) for i, who in enumerate(terms)]
    check = Worker.check
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def check_slowly(worker: Worker) -> None:
        # As long as frames of the next task could be sent, or as it takes to see that none are.
        links = [end.link for end in ends]
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline and not any(len(link._inbox) >= QUEUE_FRAMES for link in links):
            time.sleep(0.01)
        check(worker)

    monkeypatch.setattr(Worker, "check", check_slowly)
    running = threading.Thread(target=run, args=(ends,), name="psicli-test-run", daemon=True)
    running.start()
    running.join(PATIENCE)
    assert not running.is_alive(), "both sides wait for each other"
    succeeded(ends)


def test_a_link_that_ends_while_both_directions_are_full_is_noticed() -> None:
    """Nothing goes out, nothing more is taken in, and then the peer dies: that is no reason to wait, or to spin."""
    alice, bob = both("t0", numbers(0, 400), numbers(0, 400), receiver=BOB)
    ends = joined([alice], [bob])
    link = ends[0].link
    points = curve.hash_and_mask(bob.items, bytes(32), bytes(range(32)))
    frames = [Frame(0, 0, 0, Stream.RECEIVER_POINTS, k, points[256 * k : 256 * (k + 1)]) for k in range(50)]

    def incoming() -> Iterator[bytes]:
        for message in (Offer(0), Open(0, 400, curve.probe(task_sid_of(ends)))):
            yield encode(message)
            link.await_sent(type(message))
        yield from map(encode, frames)
        with link._changed:
            link._changed.wait_for(lambda: link.ended, PATIENCE)

    stream = link.stream
    assert stream is not None
    threading.Thread(target=lambda: pump(stream, incoming()), name="psicli-test-wire", daemon=True).start()
    running = threading.Thread(target=ends[0].run, daemon=True)
    running.start()
    with link._changed:
        full = link._changed.wait_for(lambda: min(len(link._inbox), len(link._outbox)) >= QUEUE_FRAMES, PATIENCE)
    assert full, ends[0].failure
    link.end(PeerGoneError(reason="the connection broke"))
    running.join(PATIENCE)
    assert not running.is_alive()
    assert isinstance(ends[0].failure, PeerGoneError)


def task_sid_of(ends: tuple[Party, Party]) -> bytes:
    return task_session_id(session_id(ends[0].link.own_hello, ends[1].link.own_hello), "t0")


# Bins ------------------------------------------------------------------------------------------------------------

BIN_ITEMS = 128
# Bins of a task, by the items of its larger list.
BINS = {count: number_of_bins(count, count, BIN_ITEMS) for count in (150, 200, 400)}


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[int, tuple[bool, int]]]]:
    """At each look for bins to begin, of either party: of each task with bins under way its role and how many."""
    seen: dict[str, list[dict[int, tuple[bool, int]]]] = {ALICE: [], BOB: []}
    begin_bins = Session._begin_bins

    def watch(session: Session) -> None:
        begin_bins(session)
        parties = {live.index: live.party for live in session._turns}
        now = {i: (each.receives, each.bins.never_through) for i, each in parties.items() if each.bins.never_through}
        seen[session.hellos.ours.party].append(now)

    monkeypatch.setattr(Session, "_begin_bins", watch)
    return seen


def learnt(ends: tuple[Party, Party], common: set[str]) -> None:
    """Both parties learnt, of all tasks, what is theirs to learn."""
    for end in ends:
        for plan in end.plans:
            assert plan.found == (common if plan.receives or plan.broadcast else None)


@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("receiver", [ALICE, BOB])
def test_two_bins_are_under_way_at_a_time(
    under_way: dict[str, list[dict[int, tuple[bool, int]]]], receiver: str, broadcast: bool
) -> None:
    """Over all tasks, and never three."""
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
    """Nobody masks a point before that is so on both sides."""
    mask_own = Worker.mask_own

    def hold(worker: Worker, start: int, stop: int) -> bytes:
        deadline = time.monotonic() + PATIENCE
        while not all(any(set(now) == {0, 1} for now in seen) for seen in under_way.values()):
            assert time.monotonic() < deadline, "never under way together"
            threading.Event().wait(0.005)
        return mask_own(worker, start, stop)

    monkeypatch.setattr(Worker, "mask_own", hold)
    ends = joined(*small(3), bin_items=BIN_ITEMS)
    run(ends)
    succeeded(ends)
    learnt(ends, set(numbers(3, 5)))
    assert {0: (True, 1), 1: (True, 1)} in under_way[ALICE]
    assert {0: (False, 1), 1: (False, 1)} in under_way[BOB]


def test_bins_go_in_order() -> None:
    """In each direction the points of a bin end before those of the next begin, and all but two bins are through."""
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
    # No point of a bin before those before the one before it are received, which two checks at a time may change round.
    sent = ends[0].link.sent
    for number in range(2, BINS[400]):
        first = next(i for i, message in enumerate(sent) if isinstance(message, Frame) and message.bin == number)
        assert {message.bin for message in sent[:first] if isinstance(message, Received)} >= set(range(number - 1))
    assert [bool(message.digest) for message in received] == [False] * (BINS[400] - 1) + [True]


@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
def test_tasks_of_opposite_receivers_have_no_bins_under_way_together(
    under_way: dict[str, list[dict[int, tuple[bool, int]]]], broadcast: bool
) -> None:
    """Else both directions could be full of points, each side waiting for the other to take some in."""
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


@pytest.mark.parametrize("bin_items", [BIN_ITEMS, MOST_BIN_ITEMS], ids=["many bins", "one bin"])
def test_full_links_in_both_directions_do_not_wait_for_each_other(bin_items: int) -> None:
    """Frames leave only when no more fit on their way, as on a slow line; both lists are longer than that."""
    many = 4 * QUEUE_FRAMES * FRAME_ITEMS
    pairs = [
        both(f"t{i}", numbers(0, many), numbers(many // 2, 2 * many), receiver=(ALICE, BOB)[i % 2]) for i in range(4)
    ]
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs], bin_items=bin_items)
    full = {end.party: Signal() for end in ends}

    def slow(end: Party) -> Filter:
        def passes(message: Message) -> bool:
            # Nothing of the first task leaves before no more has room.
            if isinstance(message, Frame) and message.task == message.bin == message.seq == 0:
                with end.link._changed:
                    is_full = end.link._changed.wait_for(lambda: end.link.room() < 1, PATIENCE)
                assert is_full, "the link is never full"
                full[end.party].set()
            return True

        return passes

    run(ends, to_alice=slow(ends[1]), to_bob=slow(ends[0]))
    succeeded(ends)
    for signal in full.values():
        signal.wait()
    learnt(ends, set(numbers(many // 2, many)))


def test_a_bin_whose_comparing_fails_is_its_tasks_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver compares a bin after it has said Received: whatever becomes of that, the sender sees nothing."""
    alice = [Plan(f"t{i}", numbers(0, 200), receives=True) for i in range(3)]
    bob = [Plan(f"t{i}", numbers(100, 300), receives=False) for i in range(3)]
    ends = joined(alice, bob, bin_items=BIN_ITEMS)
    match = Worker.match
    matched = itertools.count(1)
    failure = SelfCheckError(backend="native", detail="a test")

    def fail_once(worker: Worker, *, bitmap: bool = False) -> Match:
        # The second bin of the second task; bins are compared one at a time, in order.
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
    """A link that says another digest than it should in one kind of message."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self._kind = kind

    def send(self, message: Message) -> int:
        if isinstance(message, self._kind) and message.digest:
            message = replace(message, digest=bytes(DIGEST_BYTES))
        return super().send(message)


@pytest.mark.parametrize("bin_items", [BIN_ITEMS, MOST_BIN_ITEMS], ids=["many bins", "one bin"])
@pytest.mark.parametrize(
    ("kind", "broadcast", "liar"), [(Received, False, 0), (Done, False, 1), (Commit, True, 0), (Done, True, 1)]
)
def test_a_digest_that_differs_is_a_violation(kind: type[Any], broadcast: bool, liar: int, bin_items: int) -> None:
    """Both must come to one digest over counts and bins, in a broadcast over the matches too."""
    alice, bob = both("t0", numbers(0, 100), numbers(50, 150), receiver=ALICE, broadcast=broadcast)
    links = [TapLink(), TapLink()]
    links[liar] = LyingLink(kind)
    ends = joined([alice], [bob], links=(links[0], links[1]), bin_items=bin_items)
    run(ends)
    failure = ends[1 - liar].failure
    assert isinstance(failure, PeerProtocolError)
    assert failure.code == 76
    assert "it comes to another digest of the task" in failure.message
    # After Done the peer is through; before, it hears what it is accused of.
    if kind is not Done:
        assert isinstance(ends[liar].failure, PeerAccusesError)
    assert alice.found is None or kind is Done or broadcast
    assert bob.output is None or bob.output.published == (kind is Done)


# One side fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [ALICE, BOB])
@pytest.mark.parametrize("terms", [{}, {"broadcast": True}, {"receiver": BOB}], ids=["alice", "both", "bob"])
def test_a_task_that_cannot_be_read_spares_the_ones_before_it(failing: str, terms: dict[str, Any]) -> None:
    def fail() -> None:
        raise BAD_ROW

    plans = small(5, **terms)
    plans[failing == BOB][2]._before = fail
    ends = joined(*plans)
    run(ends)
    mine, theirs = ends if failing == ALICE else ends[::-1]
    assert mine.failure is BAD_ROW
    assert isinstance(theirs.failure, PeerFailedError)
    for end in ends:
        for plan in end.plans[:2]:
            assert plan.calls[:2] == ["started", "exchanged"]
            assert plan.found == (set(numbers(3, 5)) if plan.output else None)
        assert [plan.calls for plan in end.plans[3:]] == [[], []]
        assert "exchanged" not in end.plans[2].calls
    assert mine.plans[2].calls == ["started"]
    # Its class and nothing else.
    assert [m for m in theirs.link.received if isinstance(m, Abort)] == [Abort(65)]


def test_an_output_that_fails_after_received_is_nobody_elses_affair() -> None:
    alice, bob = small(4)
    alice[1].alone_failure = StorageError(path=Path("out.csv"), reason="no space left on device")
    ends = joined(alice, bob)
    run(ends)
    succeeded(ends)
    assert [plan.calls[-1] for plan in alice] == ["alone"] * 4
    assert [plan.found for plan in alice] == [set(numbers(3, 5)), None, set(numbers(3, 5)), set(numbers(3, 5))]
    failing = messages_of(ends[0].link.sent, 1)
    assert [type(m) for m in failing] == [type(m) for m in messages_of(ends[0].link.sent, 0)]
    assert isinstance(failing[-1], Received)


def messages_of(messages: Iterable[Message], task: int) -> list[Message]:
    """The messages of one task."""
    return [message for message in messages if isinstance(message, TaskMessage) and message.task == task]


def test_an_output_that_fails_before_commit_stops_both() -> None:
    alice, bob = small(2, broadcast=True)
    failure = StorageError(path=Path("out.csv"), reason="no space left on device")

    def fail(matches: Matches) -> None:
        raise failure

    assert bob[0].output is not None
    assert alice[0].output is not None
    bob[0].output.stage = fail  # type: ignore[method-assign]
    ends = joined(alice, bob)
    run(ends)
    assert ends[1].failure is failure
    # A full disk is worth another try.
    assert isinstance(ends[0].failure, PeerStoppedError)
    assert not alice[0].output.published
    assert not bob[0].output.published


@pytest.mark.parametrize("failure", [BAD_ROW, TerminatedBySignal(), ZeroDivisionError()], ids=["65", "143", "70"])
def test_between_the_lists_and_the_bitmap_no_failure_has_a_name(failure: Exception) -> None:
    """What the receiver's failure is could tell the sender of a match; a signal must not stand out either."""
    alice, bob = both("t0", numbers(0, 20), numbers(10, 30), receiver=ALICE, broadcast=True)
    ends = joined([alice], [bob])

    def fail(progress: Progress) -> None:
        assert ends[0].session is not None
        live = ends[0].session._turns.get(0)
        if live is not None and live.party.disclosure is Disclosure.UNIFORM:
            raise failure

    alice.at_progress = fail
    run(ends)
    assert ends[0].failure is failure
    assert isinstance(ends[1].failure, PeerStoppedError)
    assert [m for m in ends[1].link.received if isinstance(m, Abort)] == [Abort(UNNAMED_FAILURE)]


TOO_SMALL = PeerSizeError(task="t", items=1, padding="", than="fewer", name="min_peer_items", limit=2)


def refuse(failure: PsicliError) -> Callable[[int], None]:
    def fail(peer_items: int) -> None:
        raise failure

    return fail


@pytest.mark.parametrize("failure", [TOO_SMALL, StorageError(path="ledger.jsonl", reason="full")], ids=["79", "74"])
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("refusing", [0, 1], ids=["receiver", "sender"])
def test_a_task_that_is_refused_spares_the_ones_before_it(refusing: int, broadcast: bool, failure: PsicliError) -> None:
    """It ends the session when those are through; no point of it is sent, and the tasks after it are not opened."""
    plans = small(4, broadcast=broadcast)
    plans[refusing][2].at_opening = refuse(failure)
    ends = joined(*plans)
    run(ends)
    refused, other = ends[refusing], ends[1 - refusing]
    assert refused.failure is failure
    assert isinstance(other.failure, PeerPolicyError if failure is TOO_SMALL else PeerStoppedError)
    for plan in (*plans[0][:2], *plans[1][:2]):
        assert plan.calls[:2] == ["started", "exchanged"]
    assert [type(message) for message in messages_of(refused.link.sent, 2)] == [Offer, Open]
    assert all(isinstance(message, Offer) for message in messages_of(refused.link.sent, 3))
    assert refused.link.sent[-1] == Abort(failure.code)
    assert plans[refusing][2].calls == ["started"]
    assert plans[refusing][3].calls == []


def test_of_a_task_refused_at_once_only_its_offer_and_open_are_sent() -> None:
    for mine, theirs in ((5, 5), (0, 5), (5, 0), (0, 0)):
        alice, bob = both("t0", numbers(0, mine), numbers(0, theirs), receiver=ALICE)
        alice.at_opening = refuse(TOO_SMALL)
        ends = joined([alice], [bob])
        run(ends)
        assert ends[0].failure is TOO_SMALL
        assert [message for message in ends[0].link.sent if not isinstance(message, Working)] == [
            Offer(0),
            Open(0, mine, curve.probe(task_sid_of(ends))),
            Abort(79),
        ]
        assert isinstance(ends[1].failure, PeerPolicyError)


@pytest.mark.parametrize(
    "failure",
    [MatchRateError(task="t", matched=9, own=10, limit=0.5), StorageError(path="o", reason="r"), ZeroDivisionError()],
    ids=["79", "74", "70"],
)
def test_a_result_that_is_refused_looks_like_any_failure_there(failure: Exception) -> None:
    """Whatever ends the receiver after its match: no bitmap, and the sender sees the same."""
    alice, bob = both("t0", numbers(0, 20), numbers(10, 30), receiver=ALICE, broadcast=True)

    def fail(matches: Matches) -> None:
        assert matches.count == 10
        raise failure

    assert alice.output is not None
    alice.output.check = fail  # type: ignore[method-assign]
    ends = joined([alice], [bob])
    run(ends)
    assert ends[0].failure is failure
    assert alice.output.staged is None
    seen = [message for message in ends[1].link.received if not isinstance(message, Working)]
    assert [type(message) for message in seen] == [Offer, Open, *[Frame] * 3, End, Received, Abort]
    assert seen[-1] == Abort(UNNAMED_FAILURE)
    assert isinstance(ends[1].failure, PeerStoppedError)
    assert str(ends[1].failure) == "the other party stopped before the session was complete: It did not say why."


def test_a_signal_stops_both() -> None:
    alice, bob = small(2)

    def stop(progress: Progress) -> None:
        raise TerminatedBySignal()

    bob[0].at_progress = stop
    ends = joined(alice, bob)
    run(ends)
    assert isinstance(ends[1].failure, TerminatedBySignal)
    assert isinstance(ends[0].failure, PeerStoppedError)
    assert alice[0].found is None


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_signal_after_the_commit_leaves_it(tasks: int) -> None:
    alice, bob = small(tasks, broadcast=True)
    ends = joined(alice, bob)

    def stop(progress: Progress) -> None:
        assert ends[0].session is not None
        live = ends[0].session._turns.get(0)
        assert live is not None
        if live.party.phase is Phase.COMMITTED:
            raise TerminatedBySignal()

    alice[0].at_progress = stop
    run(ends)
    assert isinstance(ends[0].failure, TerminatedBySignal)
    for plan in (alice[0], bob[0]):
        assert plan.output is not None
        assert plan.output.published
        assert plan.calls == ["started", "exchanged"]
    # The second task may have come as far by then.
    assert (ends[1].failure is None) == all(plan.result is not None for plan in bob)
    assert tasks == 2 or ends[1].failure is None


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("last", [Commit, Done])
def test_a_link_that_ends_around_the_commit(last: type[TaskMessage], tasks: int) -> None:
    """What is committed stays, with a warning where the last word is missing; what comes after it fails."""
    alice, bob = small(tasks, broadcast=True)
    ends = joined(alice, bob)

    def passes(message: Message) -> bool:
        # The first task's is lost, and with it everything behind it; the second one may have come as far before.
        return not (isinstance(message, last) and message.task == 0)

    run(ends, **{"to_bob" if last is Commit else "to_alice": passes})
    assert alice[0].output is not None
    assert bob[0].output is not None
    assert alice[0].output.published
    assert alice[0].calls == ["started", "exchanged"]
    assert alice[0].result is not None
    assert alice[0].result.warning == UNCONFIRMED
    assert bob[0].output.published == (last is Done)
    assert (bob[0].result is not None) == (last is Done)
    # The second task may have come as far by then, and stays for the same reason.
    assert (ends[0].failure is None) == all(plan.result is not None for plan in alice)
    # Bob is through with it only where he has heard of the commit.
    assert (ends[1].failure is None) == all(plan.result is not None for plan in bob)
    if last is Commit:
        assert isinstance(ends[1].failure, PeerGoneError)


def test_a_link_that_ends_before_ready_publishes_nothing() -> None:
    alice, bob = small(1, broadcast=True)
    ends = joined(alice, bob)
    run(ends, to_alice=lambda message: not isinstance(message, Ready))
    assert isinstance(ends[0].failure, PeerGoneError)
    assert isinstance(ends[1].failure, PeerGoneError)
    for plan in (alice[0], bob[0]):
        assert plan.output is not None
        assert not plan.output.published
        assert plan.result is None


# A peer that a test plays ----------------------------------------------------------------------------------------


class Played:
    """Alice's real session, and a peer that says what a test wants; alice's inputs are never read to the end."""

    def __init__(self, recv_timeout: float = PATIENCE, tasks: int = 3) -> None:
        self._hold = Signal()
        alice = [Plan(f"t{i}", numbers(0, 5), receives=True, before=self._hold.wait) for i in range(tasks)]
        bob = [Plan(f"t{i}", numbers(0, 5), receives=False) for i in range(tasks)]
        self.ends = joined(alice, bob, recv_timeout=recv_timeout)
        self.alice, self.peer = self.ends[0], self.ends[1].link
        self._thread = threading.Thread(target=self.alice.run, name="psicli-test-alice")

    def __enter__(self) -> Played:
        connect(self.alice.link, self.peer)
        connect(self.peer, self.alice.link)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close_outgoing()
        self._hold.set()
        self._thread.join(PATIENCE)

    def hear(self, kind: type[Any]) -> Message:
        """Return the next message of a kind that alice sends."""
        while True:
            arrived = self.peer.poll()
            if arrived is not None and isinstance(arrived[0], kind):
                return arrived[0]
            if arrived is None:
                assert self.peer.wait(for_message=True, room_for=None, timeout=PATIENCE), "alice says nothing"

    def failure(self) -> BaseException:
        """Wait for alice's failure; what she says meanwhile is taken in."""
        try:
            while self.peer.wait(for_message=True, room_for=None, timeout=PATIENCE):
                self.peer.poll()
        except PeerGoneError:
            # A peer that heard the last word has nothing to say either.
            self.peer.close_outgoing()
        self._thread.join(PATIENCE)
        assert self.alice.failure is not None, "alice goes on"
        return self.alice.failure


PROBE = bytes(PROBE_BYTES)
DIGEST = bytes(DIGEST_BYTES)
# Alice has offered the first two of five tasks, and reads the first.
OUT_OF_ORDER: list[tuple[str, list[Message], str]] = [
    ("an early Offer twice", [Offer(2), Offer(2)], "task number 2, which is not under way"),
    ("an Offer too early", [Offer(4)], "task number 4, which is not under way"),
    ("an Offer of no task", [Offer(2**32 - 1)], "which is not under way"),
    ("a second Offer", [Offer(0), Offer(0)], "Offer came during the opening"),
    ("an Open before its Offer", [Open(1, 5, PROBE)], "Open came during the offers"),
    ("an Open of a task not begun", [Open(2, 5, PROBE)], "task number 2, which is not under way"),
    ("an Open of no task", [Open(2**32 - 1, 5, PROBE)], "which is not under way"),
    ("a frame before its Open", [Offer(0), Frame(0, 0, 0, 1, 0, bytes(32))], "Frame came during the opening"),
    ("an end of no task", [End(77, 0, 0, 1, 0, DIGEST)], "task number 77, which is not under way"),
    ("a mark of no task", [Received(5, 0, 0)], "task number 5, which is not under way"),
    ("a commit of a task not begun", [Commit(3, DIGEST)], "task number 3, which is not under way"),
]


@pytest.mark.parametrize(
    ("messages", "sentence"), [case[1:] for case in OUT_OF_ORDER], ids=[c[0] for c in OUT_OF_ORDER]
)
def test_messages_that_fit_no_task(messages: list[Message], sentence: str) -> None:
    with Played(tasks=5) as played:
        for _ in range(2):
            played.hear(Offer)
        for message in messages:
            played.peer.send(message)
        failure = played.failure()
        assert isinstance(failure, PeerProtocolError)
        assert sentence in failure.message
        # The peer hears what it is accused of.
        assert Abort(76) in played.peer.received


def test_a_second_hello() -> None:
    with Played() as played:
        played.peer.send(HelloOctets(played.peer.own_hello))
        failure = played.failure()
        assert isinstance(failure, PeerProtocolError)
        assert "a second Hello" in failure.message


def test_early_offers_up_to_the_limit_and_words_are_fine() -> None:
    with Played(tasks=5) as played:
        for _ in range(2):
            played.hear(Offer)
        for message in (Offer(3), Working(), Offer(2), Working(), Offer(1), Offer(0)):
            played.peer.send(message)
        played.peer.send(Abort(66))
        failure = played.failure()
        assert isinstance(failure, PeerFailedError)


def test_points_before_their_turn() -> None:
    """They would wait in the queues, and what is due would wait behind them."""
    alice, _ = small(2)
    ends = joined(alice, small(2)[1])
    peer = ends[1].link
    connect(ends[0].link, peer)
    connect(peer, ends[0].link)
    running = threading.Thread(target=ends[0].run, name="psicli-test-alice")
    running.start()
    sids = [task_session_id(session_id(ends[0].link.own_hello, peer.own_hello), plan.name) for plan in alice]
    for task, sid in enumerate(sids):
        for message in (Offer(task), Open(task, 10 * FRAME_ITEMS, curve.probe(sid))):
            peer.send(message)
            while not any(isinstance(each, type(message)) and each.task == task for each in peer.received):
                assert peer.wait(for_message=True, room_for=None, timeout=PATIENCE)
                peer.poll()
    for seq in range(10):
        peer.send(Frame(1, 0, 0, Stream.SENDER_POINTS, seq, bytes(32 * FRAME_ITEMS)))
    with suppress(PeerGoneError):
        while peer.wait(for_message=True, room_for=None, timeout=PATIENCE):
            peer.poll()
    peer.close_outgoing()
    running.join(PATIENCE)
    assert not running.is_alive()
    assert isinstance(ends[0].failure, PeerProtocolError)
    assert "task number 1, whose turn has not come" in ends[0].failure.message


def test_words_without_end() -> None:
    """They are always there first: this side would never come to anything else."""
    with Played() as played:
        for _ in range(2 * SPARE_WORDS):
            played.peer.send(Working())
        failure = played.failure()
        assert isinstance(failure, PeerProtocolError)
        assert "it says without end that it still works" in failure.message
        assert Abort(76) in played.peer.received


def test_a_peer_that_only_says_that_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob reads for ever, and his session says so."""
    monkeypatch.setattr("psicli.session.liveness.STUCK_AFTER", 2)
    alice, bob = small(1)
    enough = Signal()
    bob[0]._before = enough.wait
    ends = joined(alice, bob, recv_timeout=0.8)
    failure = Signal()

    def run_alice() -> None:
        ends[0].run()
        failure.set()
        enough.set()

    for one, other in (ends, ends[::-1]):
        connect(one.link, other.link)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each(), (run_alice, ends[1].run)))
    failure.wait()
    assert isinstance(ends[0].failure, PeerStuckError)
    assert ends[0].failure.code == 69


def test_the_connection_ends_before_a_result_is_written() -> None:
    """The sender must not see in when it ends how long the receiver writes."""
    alice, bob = small(1)
    hung_up = Signal()
    alice[0].finish_alone = lambda matches: hung_up.wait()  # type: ignore[method-assign]
    ends = joined(alice, bob)
    ends[0].hang_up = hung_up.set
    run(ends)
    succeeded(ends)


def test_silence(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENCE_LINE_INTERVAL", 0.1)
    caplog.set_level(logging.INFO)
    with Played(recv_timeout=0.4) as played:
        failure = played.failure()
        assert isinstance(failure, PeerSilentError)
        assert failure.code == 69
    assert caplog.text.count("bob has said nothing for 0 s; 0 s are the limit") >= 2


def test_a_peer_that_does_not_end_the_session_is_waited_for_with_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE_LINE_INTERVAL", 0.1)
    caplog.set_level(logging.INFO)
    with Played(recv_timeout=0.4, tasks=0) as played:
        played._thread.join(PATIENCE)
        assert not played._thread.is_alive()
    assert caplog.text.count("bob has not ended the session yet; 0 s are the limit") >= 2


def test_a_side_that_sends_nothing_else_says_that_it_is_there() -> None:
    with Played(recv_timeout=2.0) as played:
        for _ in range(3):
            played.hear(Working)
            played.peer.send(Working())


def test_reading_longer_than_the_timeout_is_no_silence() -> None:
    """Bob reads for as long as alice would wait for a dead peer; his heartbeats keep her."""
    beats = itertools.count(1)
    enough = Signal()
    alice, bob = small(1)
    bob[0]._before = enough.wait
    ends = joined(alice, bob, recv_timeout=0.8)

    def count(message: Message) -> None:
        if isinstance(message, Working) and next(beats) == 8:
            enough.set()

    ends[0].link.on_receive = count
    run(ends)
    succeeded(ends)
    assert alice[0].found == set(numbers(3, 5))


@pytest.mark.parametrize(
    ("code", "expected"),
    [(66, PeerFailedError), (UNNAMED_FAILURE, PeerStoppedError), (143, PeerStoppedError), (9999, PeerFailedError)],
)
def test_an_abort_is_passed_on_as_what_it_means_here(code: int, expected: type[PsicliError]) -> None:
    with Played() as played:
        played.peer.send(Abort(code))
        assert isinstance(played.failure(), expected)


# Hello and agreement ---------------------------------------------------------------------------------------------

TERMS = (TaskTerms("people", ALICE, False, 1), TaskTerms("places", BOB, True, 2))
OURS = Hello("0.1", ALICE, "overlap", TERMS, LEAST_FRAME_ITEMS, 4 * LEAST_BIN_ITEMS, bytes(32), Purpose.RUN)
THEIRS = replace(OURS, party=BOB, nonce=bytes([1]) * 32)


def with_task(**changes: Any) -> tuple[TaskTerms, ...]:
    return (TERMS[0], replace(TERMS[1], **changes))


DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"party": "carol"}, "party of bob bob carol"),
    ({"protocol_version": 3}, "protocol_version 2 3"),
    ({"suite": "psicli-v2"}, "suite psicli-v1 psicli-v2"),
    ({"job": "other"}, "job overlap other"),
    ({"tasks": TERMS[:1]}, "tasks people, places people"),
    ({"tasks": TERMS[::-1]}, "tasks people, places places, people"),
    ({"tasks": ()}, "tasks people, places"),
    ({"tasks": with_task(receiver=ALICE)}, "places: receiver bob alice"),
    ({"tasks": with_task(broadcast_result=False)}, "places: broadcast_result true false"),
    ({"tasks": with_task(key_columns=3)}, "places: number of keys 2 3"),
    ({"bin_items": LEAST_BIN_ITEMS // 2}, "items a bin, at least 16384 65536 8192"),
]


@pytest.mark.parametrize(("change", "row"), DIFFERENCES, ids=[row for _, row in DIFFERENCES])
def test_every_field_of_the_agreement(change: dict[str, Any], row: str) -> None:
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, replace(THEIRS, **change), BOB)
    table = [" ".join(line.split()) for line in str(caught.value.facts["table"]).splitlines()]
    assert table == ["field ours theirs", row]


def test_all_differences_at_once() -> None:
    theirs = replace(THEIRS, suite="psicli-v2", job="other", tasks=with_task(receiver=ALICE, key_columns=3))
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, theirs, BOB)
    assert len(str(caught.value.facts["table"]).splitlines()) == 5


def test_equal_terms_agree_whatever_the_package() -> None:
    agree(OURS, replace(THEIRS, package_version="99", frame_items=2048, bin_items=LEAST_BIN_ITEMS), BOB)


@pytest.mark.parametrize("change", [{"party": ALICE}, {"nonce": OURS.nonce}], ids=["party", "nonce"])
def test_our_own_hello_comes_back(change: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError, match="it introduced itself as alice, which is this side"):
        agree(OURS, replace(THEIRS, **change), BOB)


def test_a_hostile_hello_cannot_write_on_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\u202e\n" + "x" * 10_000
    task = replace(TERMS[0], name=hostile)
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, replace(THEIRS, job=hostile, party=hostile, suite=hostile, tasks=(task,)), BOB)
    message = caught.value.message
    assert message.isascii()
    assert message.replace("\n", "").isprintable()
    assert len(message) < 2_000


def test_both_sides_end_with_the_same_table() -> None:
    ends = joined(small(2)[0], small(2, broadcast=True)[1])
    run(ends)
    tables = []
    for end in ends:
        assert isinstance(end.failure, DisagreementError)
        rows = str(end.failure.facts["table"]).splitlines()[1:]
        tables.append([(field, *sorted(values)) for field, *values in (row.rsplit(maxsplit=2) for row in rows)])
        assert end.calls() == [[], []]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2


@pytest.mark.parametrize("small_side", [0, 1])
def test_a_side_with_too_small_bins_ends_both_with_the_table(small_side: int) -> None:
    ends = joined(*small(2))
    links = [end.link for end in ends]
    links[small_side].own_hello = ends[small_side].terms.hello(LEAST_FRAME_ITEMS, LEAST_BIN_ITEMS // 2)
    links[1 - small_side].peer_hello = links[small_side].own_hello
    run(ends)
    for side, end in enumerate(ends):
        assert isinstance(end.failure, DisagreementError)
        assert end.failure.code == 78
        sizes = [MOST_BIN_ITEMS, LEAST_BIN_ITEMS // 2][:: 1 if side != small_side else -1]
        row = str(end.failure.facts["table"]).splitlines()[1].split()
        assert row == ["items", "a", "bin,", "at", "least", str(LEAST_BIN_ITEMS), *map(str, sizes)]
        assert end.calls() == [[], []]


def test_a_session_with_ourselves() -> None:
    ends = joined(*small(1))
    ends[0].link.peer_hello = ends[0].link.own_hello
    run(ends)
    assert isinstance(ends[0].failure, PeerProtocolError)
    assert decode_hello(ends[0].link.own_hello).party == ALICE
