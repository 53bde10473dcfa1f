"""The limits on a peer that is slow, and the deadline of a run, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from psicli.core.errors import DurationError
from psicli.core.peer_errors import PeerSlowError, PeerStuckError
from psicli.protocol.messages import Done, End, Frame, Message, Offer, Open, Received, Restart, TaskMessage, Working
from psicli.protocol.wire import encode
from psicli.session import agreement, liveness
from psicli.session.agreement import Deadline, Terms
from psicli.session.liveness import HEARTBEAT_INTERVAL, LEAST_PACE, PeerWatch

HOUR, DAY = 3600.0, 86_400.0
RECV_TIMEOUT_MS, STOCK = 300_000, 2 * HOUR
FRAME = Frame(0, 0, 0, 2, 0, bytes(32 * 1024))
# A modem of 10 kbit/s takes this long for a frame [s].
MODEM = len(encode(FRAME)) * 8 / 10_000


class Link:
    """A peer that sends heartbeats, and a message every `interval` [s]; the clock moves only while one waits for it."""

    def __init__(self, messages: Iterator[Message | int], interval: float) -> None:
        self.now = 0.0
        self.silence = 0.0
        self.confirmed = 0
        self.arrived: list[Message] = []
        self._messages = messages
        self._interval = interval
        self._due, self._heartbeat = interval, HEARTBEAT_INTERVAL

    def wait(self, *, for_message: bool, room_for: int | None, timeout: float) -> bool:
        assert timeout > 0
        upcoming = min(self._due, self._heartbeat)
        if self.now + timeout < upcoming:
            self.now += timeout
            return False
        self.now = upcoming
        if upcoming == self._heartbeat:
            self._heartbeat += HEARTBEAT_INTERVAL
            self.arrived.append(Working())
        else:
            self._due += self._interval
            message = next(self._messages)
            if isinstance(message, int):
                # The peer confirms that it has read this much.
                self.confirmed += message
            else:
                self.arrived.append(message)
        return True


Watched = Callable[..., tuple[Link, PeerWatch]]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    def make(
        messages: Iterator[Message | int] | None = None, interval: float = 1e9, **more: Any
    ) -> tuple[Link, PeerWatch]:
        link = Link(iter(()) if messages is None else messages, interval)
        monkeypatch.setattr(liveness, "monotonic", lambda: link.now)
        monkeypatch.setattr(agreement, "monotonic", lambda: link.now)
        return link, PeerWatch(link, Terms("alice", "bob", "job", (), RECV_TIMEOUT_MS, **more))  # type: ignore[arg-type]

    return make


def follow(link: Link, watch: PeerWatch, until: float, *, idle: bool = True) -> None:
    """Do what a session does with its peer, until a time or a failure."""
    while link.now < until:
        watch.check_deadline()
        while link.arrived:
            message = link.arrived.pop()
            if isinstance(message, TaskMessage):
                watch.progressed(message, len(encode(message)))
            else:
                watch.count_heartbeat()
        watch.wait(for_message=True, room_for=None, idle=idle)


# The messages with which a peer could hold a run, and how often it sends one [s].
TRICKLES: dict[str, tuple[Callable[[int], Message | int], float]] = {
    "a frame every 299 s": (lambda n: FRAME, 299),
    "a frame every hour": (lambda n: FRAME, HOUR),
    "an End every second": (lambda n: End(0, n, 0, 2, 0, bytes(32)), 1),
    "Received every 299 s": (lambda n: Received(0, n, 0), 299),
    "Restart every 10 s": (lambda n: Restart(0, n, 1), 10),
    "reading a frame every 299 s": (lambda n: len(encode(FRAME)), 299),
}


@pytest.mark.parametrize(("message", "interval"), TRICKLES.values(), ids=TRICKLES)
def test_a_peer_that_trickles(watched: Watched, message: Callable[[int], Message | int], interval: float) -> None:
    link, watch = watched(map(message, count()), interval)
    with pytest.raises(PeerSlowError) as caught:
        follow(link, watch, 10 * DAY)
    # It gets no more time than its data is worth.
    assert STOCK <= link.now < 1.5 * STOCK
    assert caught.value.code == 69
    assert f"waited for 7200 s, it sent and read fewer than {LEAST_PACE} bytes a second" in caught.value.message
    assert "link_desc.recv_timeout_ms" in caught.value.advice


def test_a_peer_that_only_lives(watched: Watched) -> None:
    link, watch = watched()
    with pytest.raises(PeerStuckError, match="made no progress for 7200 s"):
        follow(link, watch, DAY)
    assert link.now == STOCK


@pytest.mark.sample(1)
@pytest.mark.parametrize("message", [FRAME, len(encode(FRAME))], ids=["sends", "reads"])
def test_a_modem_is_fast_enough(watched: Watched, message: Message | int) -> None:
    link, watch = watched(iter(lambda: message, None), MODEM)
    follow(link, watch, 10 * DAY)


@pytest.mark.more
def test_time_is_not_saved_up(watched: Watched) -> None:
    """A peer that was fast for a day gets no more time than any other."""
    fast = [FRAME] * int(DAY)
    link, watch = watched(iter(fast), 1)
    with pytest.raises(StopIteration):
        follow(link, watch, 10 * DAY)
    link._due = 1e9
    with pytest.raises(PeerStuckError):
        follow(link, watch, 10 * DAY)
    assert link.now <= DAY + 1 + STOCK


def test_a_peer_that_reads_its_inputs_for_hours(watched: Watched) -> None:
    """Each step of a task may take it as long."""
    steps = [
        step for task in range(20) for step in (Offer(task), Open(task, 5, bytes(16)), FRAME, Done(task, bytes(32)))
    ]
    link, watch = watched(iter(steps), 0.99 * STOCK / 2)
    with pytest.raises(StopIteration):
        follow(link, watch, 1e9)


def test_own_work_is_no_waiting(watched: Watched) -> None:
    link, watch = watched()
    follow(link, watch, 10 * DAY, idle=False)
    with pytest.raises(PeerStuckError):
        follow(link, watch, 20 * DAY)
    assert link.now - 10 * DAY == pytest.approx(STOCK, abs=60)


@pytest.mark.parametrize(("longest_break", "stock"), [(600.0, STOCK), (3 * HOUR, 3 * HOUR)])
def test_a_connection_that_breaks_again_and_again(watched: Watched, longest_break: float, stock: float) -> None:
    """A peer that reconnects in time, but says nothing, does not hold the run for ever."""
    link, watch = watched(longest_break=longest_break)
    with pytest.raises(PeerStuckError):
        follow(link, watch, DAY)
    assert link.now == stock


def test_a_flood_of_messages_that_are_ignored(watched: Watched) -> None:
    """This party never waits, because there is always a message."""
    link, watch = watched()

    def flood() -> None:
        while link.now < DAY:
            link.now += 0.01
            watch.ignored()

    with pytest.raises(PeerStuckError):
        flood()
    assert link.now == pytest.approx(STOCK, abs=1)


def test_the_deadline_ends_a_wait(watched: Watched) -> None:
    link, watch = watched(deadline=Deadline(HOUR, "60 min"))
    with pytest.raises(DurationError) as caught:
        follow(link, watch, DAY)
    assert link.now == HOUR
    assert caught.value.code == 79
    assert "not complete 60 min after the start of the run, the limit of policy.max_duration" in caught.value.message
