"""Tests against a scripted peer that sends messages out of order, falls silent or disappears."""

from __future__ import annotations

import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from support.memory.machines import PATIENCE
from support.memory.sessions import FRAME_ITEMS, Plan, Signal, connect, joined, numbers, run, small, succeeded
from support.waiting import wait_until

from psicli import curve
from psicli.core.errors import PsicliError
from psicli.core.peer_errors import (
    PeerFailedError,
    PeerGoneError,
    PeerProtocolError,
    PeerSilentError,
    PeerStoppedError,
    PeerStuckError,
)
from psicli.protocol.messages import (
    DIGEST_BYTES,
    PROBE_BYTES,
    Abort,
    Commit,
    End,
    Frame,
    HelloOctets,
    Message,
    Offer,
    Open,
    Received,
    Skip,
    Stream,
    Working,
    session_id,
    task_session_id,
)
from psicli.session import liveness
from psicli.session.liveness import SHORTEST_HEARTBEAT, SPARE_HEARTBEATS
from psicli.session.session import UNNAMED_FAILURE


class Played:
    """Alice's real session with a peer whose messages the test sends; alice's reading is held until the exit."""

    def __init__(self, recv_timeout: float = PATIENCE, peers_timeout: float = PATIENCE, tasks: int = 3) -> None:
        self._hold = Signal()
        self.release = self._hold.set
        self.plans = [Plan(f"t{i}", numbers(0, 5), receives=True, before=self._hold.wait) for i in range(tasks)]
        bob = [Plan(f"t{i}", numbers(0, 5), receives=False) for i in range(tasks)]
        for plan in self.plans:
            plan.keep_going = True
        self.ends = joined(self.plans, bob, recv_timeout=recv_timeout, bobs_timeout=peers_timeout)
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
                assert self.peer.wait(for_message=True, room_for=None, timeout=PATIENCE), "alice sends nothing"

    def failure(self) -> BaseException:
        """Wait for alice's failure and return it; the messages that she sends meanwhile are read."""
        try:
            while self.peer.wait(for_message=True, room_for=None, timeout=PATIENCE):
                self.peer.poll()
        except PeerGoneError:
            # After alice's last message the peer ends its direction too.
            self.peer.close_outgoing()
        self._thread.join(PATIENCE)
        assert self.alice.failure is not None, "alice did not fail"
        return self.alice.failure


PROBE = bytes(PROBE_BYTES)
DIGEST = bytes(DIGEST_BYTES)
# Sent when alice has offered the first two of five tasks and reads the input of the first.
OUT_OF_ORDER: list[tuple[str, list[Message], str]] = [
    ("an early Offer twice", [Offer(2), Offer(2)], "a message for task 2, which is not running"),
    ("an Offer too early", [Offer(4)], "a message for task 4, which is not running"),
    ("an Offer of no task", [Offer(2**32 - 1)], "which is not running"),
    ("a second Offer", [Offer(0), Offer(0)], "Offer during the opening"),
    ("an Open before its Offer", [Open(1, 5, PROBE)], "Open during the offers"),
    ("an Open of a task not begun", [Open(2, 5, PROBE)], "a message for task 2, which is not running"),
    ("an Open of no task", [Open(2**32 - 1, 5, PROBE)], "which is not running"),
    ("a frame before its Open", [Offer(0), Frame(0, 0, 0, 1, 0, bytes(32))], "Frame during the opening"),
    ("a Skip before its Offer, twice", [Skip(2, 65), Skip(2, 65)], "a message for task 2, which is not running"),
    ("a Skip too early", [Skip(4, 65)], "a message for task 4, which is not running"),
    ("a Skip of no task", [Skip(2**32 - 1, 65)], "which is not running"),
    ("a second Skip, for the Offer", [Skip(0, 65), Skip(0, 65)], "a message for task 0, which is not running"),
    ("an Offer after its Skip", [Skip(0, 65), Offer(0)], "a message for task 0, which is not running"),
    ("a second Skip, for the Open", [Offer(0), Skip(0, 65), Skip(0, 65)], "Skip during our opening"),
    ("an Open after its Skip", [Offer(0), Skip(0, 65), Open(0, 5, PROBE)], "Open during our opening"),
    ("points after a Skip", [Skip(0, 65), Frame(0, 0, 0, 2, 0, bytes(32))], "a message for task 0, which is not run"),
    ("an answer to no Skip", [Skip(0)], "it skipped a task with class 0"),
    ("a Skip for a policy", [Offer(0), Skip(0, 79)], "it skipped a task with class 79"),
    ("an End of no task", [End(77, 0, 0, 1, 0, DIGEST)], "a message for task 77, which is not running"),
    ("a Received of no task", [Received(5, 0, 0)], "a message for task 5, which is not running"),
    ("a Commit of a task not begun", [Commit(3, DIGEST)], "a message for task 3, which is not running"),
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
        # The peer hears the accusation.
        assert Abort(76) in played.peer.received


def test_a_second_hello() -> None:
    with Played() as played:
        played.peer.send(HelloOctets(played.peer.own_hello))
        failure = played.failure()
        assert isinstance(failure, PeerProtocolError)
        assert "a second Hello" in failure.message


def test_early_offers_up_to_the_limit_and_heartbeats_are_fine() -> None:
    with Played(tasks=5) as played:
        for _ in range(2):
            played.hear(Offer)
        for message in (Offer(3), Working(), Offer(2), Working(), Offer(1), Offer(0)):
            played.peer.send(message)
        played.peer.send(Abort(66))
        failure = played.failure()
        assert isinstance(failure, PeerFailedError)


def test_points_before_their_turn() -> None:
    """Such points would block the queues for the messages that are due."""
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
    assert "a frame of task 1 before that task's turn" in ends[0].failure.message


def test_a_flood_of_heartbeats() -> None:
    """Alice would do nothing but read heartbeats."""
    with Played() as played:
        for _ in range(2 * SPARE_HEARTBEATS):
            played.peer.send(Working())
        failure = played.failure()
        assert isinstance(failure, PeerProtocolError)
        assert "it sends heartbeats too often" in failure.message
        assert Abort(76) in played.peer.received


def test_a_peer_that_sends_only_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob reads for ever while his session sends heartbeats."""
    monkeypatch.setattr(liveness, "HEARTBEAT_INTERVAL", SHORTEST_HEARTBEAT)
    alice, bob = small(1)
    enough = Signal()

    def read_for_ever() -> None:
        # From here on alice receives only heartbeats.
        monkeypatch.setattr(liveness, "STUCK_AFTER", 0.5 / PATIENCE)
        enough.wait()

    bob[0]._before = read_for_ever
    ends = joined(alice, bob)
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


def test_a_peer_that_sends_only_what_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob skips a task without which alice does not go on, and then never opens the task before it."""
    with Played(tasks=2) as played:
        for plan in played.plans:
            plan.keep_going = False
        for message in (Offer(0), Skip(1, 65)):
            played.peer.send(message)
        played.release()
        played.hear(Open)
        monkeypatch.setattr(liveness, "STUCK_AFTER", 0.5 / PATIENCE)
        deadline = time.monotonic() + PATIENCE
        with suppress(PeerGoneError):
            while played.alice.failure is None and time.monotonic() < deadline:
                played.peer.send(Offer(1))
                if played.peer.wait(for_message=True, room_for=None, timeout=0.001):
                    played.peer.poll()
        assert isinstance(played.failure(), PeerStuckError)


def test_the_connection_ends_before_a_result_is_written() -> None:
    """The time of the end must not show the sender how long the receiver writes."""
    alice, bob = small(1)
    hung_up = Signal()
    alice[0].finish_alone = lambda matches: hung_up.wait()  # type: ignore[method-assign]
    ends = joined(alice, bob)
    ends[0].hang_up = hung_up.set
    run(ends)
    succeeded(ends)


def test_silence() -> None:
    with Played(recv_timeout=0.4) as played:
        failure = played.failure()
        assert isinstance(failure, PeerSilentError)
        assert failure.code == 69


def test_the_wait_for_the_peer_to_end_the_session_is_limited() -> None:
    with Played(recv_timeout=0.4, tasks=0) as played:
        played._thread.join(PATIENCE)
        assert not played._thread.is_alive()


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        (3, rf"bob has sent nothing for \d+ s; the limit is {PATIENCE:.0f} s"),
        (0, f"bob has not ended the session yet; the limit is {PATIENCE:.0f} s"),
    ],
)
def test_waiting_for_a_silent_peer_is_logged_regularly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tasks: int, line: str
) -> None:
    monkeypatch.setattr(liveness, "SILENCE_LINE_INTERVAL", 0.1)
    caplog.set_level(logging.INFO)
    with Played(tasks=tasks):
        wait_until(lambda: len(re.findall(line, caplog.text)) >= 2, line, PATIENCE)


def test_an_idle_party_sends_heartbeats() -> None:
    """They come more often than HEARTBEAT_INTERVAL if the peer's timeout is shorter."""
    began = time.monotonic()
    with Played(peers_timeout=0.4) as played:
        for _ in range(3):
            played.hear(Working)
    assert time.monotonic() - began < PATIENCE


@pytest.mark.more
def test_reading_longer_than_the_timeout_is_no_silence() -> None:
    """Bob reads for longer than alice's timeout; his heartbeats keep her waiting."""
    # Long enough that a busy machine still sends a heartbeat, due after a quarter of it, in time [s].
    timeout = 8.0
    enough = Signal()
    alice, bob = small(1)
    bob[0]._before = enough.wait
    ends = joined(alice, bob, recv_timeout=timeout, bobs_timeout=PATIENCE)
    over = time.monotonic() + timeout

    def look(message: Message) -> None:
        if isinstance(message, Working) and time.monotonic() > over:
            enough.set()

    ends[0].link.on_receive = look
    run(ends)
    succeeded(ends)
    assert alice[0].found == set(numbers(3, 5))


@pytest.mark.parametrize(
    ("code", "expected"),
    [(66, PeerFailedError), (UNNAMED_FAILURE, PeerStoppedError), (143, PeerStoppedError), (9999, PeerFailedError)],
)
def test_an_abort_becomes_the_matching_error(code: int, expected: type[PsicliError]) -> None:
    with Played() as played:
        played.peer.send(Abort(code))
        assert isinstance(played.failure(), expected)
