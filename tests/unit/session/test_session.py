"""Successful sessions in memory: two real Sessions over two real Links, with threads in place of the network."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memory.machines import PATIENCE
from support.memory.sessions import (
    ALICE,
    BOB,
    FRAME_ITEMS,
    Party,
    Plan,
    Signal,
    TapLink,
    both,
    joined,
    numbers,
    run,
    small,
    succeeded,
    task_sid_of,
)
from support.waiting import wait_until

from psicli import curve
from psicli.core import trace
from psicli.core.peer_errors import PeerGoneError
from psicli.core.stages import Stage, Stages
from psicli.exchange.worker import Worker
from psicli.protocol.messages import End, Frame, Message, Offer, Open, Stream, Working
from psicli.protocol.wire import encode
from psicli.report.trace_file import save_trace
from psicli.transport.endpoint import pump
from psicli.transport.link import QUEUE_FRAMES


def test_many_tasks_with_different_receivers() -> None:
    """Sizes around the frame size, both receivers, with and without broadcast: each learns only what it may."""
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
    """The last frame of the first task is held back until the next task is open on both sides."""
    opened = Signal()
    mask_own = Worker.mask_own

    def hold_the_last(worker: Worker, start: int, stop: int) -> bytes:
        if start == 96:
            opened.wait()
        return mask_own(worker, start, stop)

    monkeypatch.setattr(Worker, "mask_own", hold_the_last)
    alice, bob = small(3)
    alice[0], bob[0] = both("t0", numbers(0, 100), numbers(0, 100), receiver=ALICE)
    # Bob reads slowly, so alice's Open arrives before bob has opened the task.
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
        # Points and Offers are sent in the order of the tasks.
        order = [m.task for m in sent if isinstance(m, Frame | End) and m.stream != Stream.TOKENS]
        assert order == sorted(order)
        assert [m.task for m in sent if isinstance(m, Offer)] == [0, 1, 2]


def reaches(stages: Stages, stage: Stage, seconds: float) -> Callable[[], None]:
    """Return a function that waits until a stage has taken this long [s], at most PATIENCE."""

    return lambda: wait_until(lambda: stages.seconds()[stage] >= seconds, f"{stage} takes {seconds} s", PATIENCE)


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
    """As on a slow network: nothing leaves for a while, and both lists are longer than the queues."""
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
        # Reading includes fetching the items of a bin when it begins.
        assert all(seconds[stage] > 0 for stage in ("reading", "computing", "matching", "writing"))


def test_a_trace_shows_every_frame_of_both_lists(tmp_path: Path) -> None:
    alice, bob = both("t0", numbers(0, 3 * FRAME_ITEMS), numbers(0, 2 * FRAME_ITEMS - 1), receiver=ALICE)
    trace.start()
    run(ends := joined([alice], [bob]))
    save_trace(tmp_path / "t.json", ALICE, {})
    succeeded(ends)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    spans = Counter((event["name"], event["args"].get("frame")) for event in events if event["ph"] == "X")
    # Both parties share the process, so each step appears once for each party's list.
    for step in ("mask own", "mask peer"):
        assert {frame: spans[step, frame] for frame in range(4)} == {0: 2, 1: 2, 2: 1, 3: 0}
    assert spans["fetch bin", None] == 2
    assert spans["check lists", None] == 2
    assert spans["match", None] == 1
    counts = {event["name"]: list(event["args"]) for event in events if event["ph"] == "C"}
    queues = {"under way": ["pieces"], "inbox": ["messages"], "outbox": ["messages"]}
    assert counts == {**queues, "sent": ["bytes"], "received": ["bytes"]}


@pytest.mark.sample(1)
@pytest.mark.parametrize("later", [{}, {"broadcast": True}, {"broadcast": True, "receiver": BOB}], ids=str)
def test_a_slow_output_does_not_show_in_the_pace_of_the_session(later: dict[str, Any]) -> None:
    """The time to write a one-sided result depends on its size; it must not show in the pace of later tasks."""
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
    """A link whose room appears late: the first reading after a frame is 0, the next one is right."""

    def __init__(self) -> None:
        super().__init__()
        self._reads = 0

    def send(self, message: Message) -> int:
        if not isinstance(message, Working):
            self._reads = 0
        return super().send(message)

    def room(self) -> float:
        self._reads += 1
        return super().room() if self._reads > 1 else 0


def test_room_that_appears_between_two_reads_wakes_the_session() -> None:
    alice, bob = both("t0", numbers(0, 60), numbers(30, 90), receiver=ALICE, broadcast=True)
    # A heartbeat would wake the session too; it is sent after a quarter of this time.
    ends = joined([alice], [bob], links=(HesitantLink(), HesitantLink()), recv_timeout=8 * PATIENCE)
    beats = [end.link for end in ends]
    run(ends)
    succeeded(ends)
    assert alice.found == bob.found == set(numbers(30, 60))
    assert not [m for link in beats for m in link.sent if isinstance(m, Working)]


def is_still(ends: tuple[Party, Party], held: int) -> bool:
    """Return whether both sessions wait only for this many pieces of work."""
    turns = [end.session._turns for end in ends if end.session is not None]
    reading = any(live.on_input for each in turns for live in each)
    in_transit = sum(len(end.link.sent) - len(end.link.received) for end in ends)
    pieces = sum(each.pieces for each in turns)
    return all(end.link.idle for end in ends) and not reading and not in_transit and pieces == held


@pytest.mark.sample(1)
@pytest.mark.parametrize("terms", [[ALICE, ALICE], [ALICE, BOB], [BOB, ALICE]], ids=str)
def test_a_slow_check_of_the_lists_does_not_block_the_next_task(
    monkeypatch: pytest.MonkeyPatch, terms: list[str]
) -> None:
    """The end of the tokens must not queue behind more frames of the next task than the receiver reads."""
    pairs = [both(f"t{i}", numbers(0, 200), numbers(100, 300), receiver=who) for i, who in enumerate(terms)]
    check = Worker.check
    ends = joined([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    held: set[Worker] = set()

    def check_slowly(worker: Worker) -> None:
        # Wait until frames of the next task fill a queue, or until no more of them can arrive.
        held.add(worker)
        wait_until(
            lambda: any(len(end.link._inbox) >= QUEUE_FRAMES for end in ends) or is_still(ends, len(held)),
            "everything else is done",
            PATIENCE,
        )
        held.remove(worker)
        check(worker)

    monkeypatch.setattr(Worker, "check", check_slowly)
    running = threading.Thread(target=run, args=(ends,), name="psicli-test-run", daemon=True)
    running.start()
    running.join(PATIENCE)
    assert not running.is_alive(), "the two sides are deadlocked"
    succeeded(ends)


def test_a_link_that_ends_while_both_directions_are_full_is_noticed() -> None:
    """Nothing can be sent or read when the peer dies: the session must neither wait nor spin."""
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
