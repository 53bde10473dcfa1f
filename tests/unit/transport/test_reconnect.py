"""Tests of broken connections: both parties reconnect if the peer is alive, and notice it if the peer is gone."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.memory.links import DEADLINE, PATH, hello
from support.processes.certificates import issue
from support.processes.proxy import Proxy
from support.processes.runner import free_ports
from support.waiting import wait_until

from psicli.core.peer_errors import LinkBrokenError, PeerGoneError, PeerLostError
from psicli.protocol.messages import Abort, Frame, Message, Ready, Reconnect
from psicli.protocol.wire import decode, encode
from psicli.transport import dialer, listener
from psicli.transport.dialer import Dialer
from psicli.transport.door.guest import Guest
from psicli.transport.endpoint import Endpoint
from psicli.transport.link import Link
from psicli.transport.listener import Listener
from psicli.transport.preflight import TIMED_OUT
from psicli.transport.tls import TlsCredentials

FRAMES: list[Message] = [Frame(0, 0, 0, 1, seq, os.urandom(20_000)) for seq in range(400)]
# Options with which pings detect a dead connection within about a second [ms].
QUICK = {
    "grpc.keepalive_time_ms": 300,
    "grpc.keepalive_timeout_ms": 700,
    "grpc.http2.ping_timeout_ms": 700,
    "grpc.http2.min_ping_interval_without_data_ms": 100,
}


class Ends:
    """Alice and bob, connected through a proxy; files: the folder of their certificates, None without TLS."""

    def __init__(self, stack: ExitStack, window: float, files: Path | None) -> None:
        self.port, proxy_port = stack.enter_context(free_ports(2))
        self.proxy = Proxy(proxy_port, self.port)
        stack.callback(self.proxy.close)
        self.pool = stack.enter_context(ThreadPoolExecutor(6))
        own = {party: credentials(files, party) for party in ("alice", "bob")}
        self.listener = Listener(Endpoint("127.0.0.1", self.port, "bob", own["alice"], reconnect_window=window))
        self.dialer = Dialer(Endpoint("127.0.0.1", proxy_port, "alice", own["bob"], reconnect_window=window), 0.05)
        for each in (self.listener, self.dialer):
            stack.callback(each.close)
        listening = self.pool.submit(self.listener.meet, lambda: hello("alice"), DEADLINE)
        self.bob = self.dialer.meet(lambda: hello("bob"), DEADLINE)
        self.alice = listening.result(DEADLINE)

    @property
    def links(self) -> tuple[Link, Link]:
        return self.alice, self.bob


def credentials(files: Path | None, party: str, holder: str = "") -> TlsCredentials | None:
    if files is None:
        return None
    names = {"own_name": holder or party, "peer_name": {"alice": "bob", "bob": "alice"}[party]}
    return TlsCredentials(
        *(files / name for name in ("ca.pem", f"{holder or party}.pem", f"{holder or party}.key")), **names
    )


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ends]]:
    # On a busy machine a dialer may be late, which does not mean that it is dead.
    monkeypatch.setattr("psicli.transport.listener.DEAD_AFTER", DEADLINE)
    with ExitStack() as stack:
        yield lambda window=DEADLINE, files=None: Ends(stack, window, files)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    issue(tmp_path, {party: party for party in ("alice", "bob", "carol")})
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listener, dialer):
        monkeypatch.setattr(module, "_OPTIONS", list((dict(module._OPTIONS) | QUICK).items()))
    monkeypatch.setattr("psicli.transport.dialer.ANSWER_TIMEOUT", 1.0)


def await_message(link: Link) -> Message:
    assert link.wait(for_message=True, room_for=None, timeout=DEADLINE)
    arrived = link.poll()
    assert arrived is not None
    return arrived[0]


def exchange(ends: Ends, at_frame: Callable[[int], None]) -> None:
    """Send all frames in both directions; at_frame: called before alice sends each of hers."""

    def send(link: Link, before: Callable[[int], None]) -> None:
        for number, frame in enumerate(FRAMES):
            before(number)
            while not link.wait(for_message=False, room_for=1, timeout=DEADLINE):
                pass
            link.send(frame)

    def receive(link: Link) -> list[Message]:
        return [await_message(link) for _ in FRAMES]

    sending = [ends.pool.submit(send, ends.alice, at_frame), ends.pool.submit(send, ends.bob, lambda number: None)]
    receiving = [ends.pool.submit(receive, link) for link in ends.links]
    for each in receiving:
        assert each.result(2 * DEADLINE) == FRAMES
    for each in sending:
        each.result(DEADLINE)


def finish(ends: Ends) -> None:
    finishing = ends.pool.submit(ends.alice.finish, DEADLINE)
    assert ends.bob.finish(DEADLINE)
    assert finishing.result(DEADLINE)


def await_broken(link: Link) -> None:
    with link._changed:
        assert link._changed.wait_for(lambda: link.broken, DEADLINE), "the link did not notice the break"


def talk(ends: Ends) -> None:
    """Send a message in each direction and check that it arrives."""
    for number, (source, goal) in enumerate([(ends.alice, ends.bob), (ends.bob, ends.alice)]):
        source.send(Ready(number))
        assert await_message(goal) == Ready(number)


def read_to_the_end(link: Link) -> None:
    while True:
        link.wait(for_message=True, room_for=None, timeout=DEADLINE)
        link.poll()


# Reconnected -----------------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["reset", "half_close", "lose_the_dialer"])
def test_nothing_is_lost_or_doubled_when_a_connection_breaks(
    join: Callable[..., Ends], files: Path, how: str, tls: bool
) -> None:
    ends = join(files=files if tls else None)

    def break_it(number: int) -> None:
        if number % 80 == 40:
            getattr(ends.proxy, how)()

    exchange(ends, break_it)
    finish(ends)
    assert ends.proxy.made > 3


@pytest.mark.more
@pytest.mark.parametrize("how", ["hold", "blackhole"])
def test_a_silent_connection_is_replaced(join: Callable[..., Ends], quick: None, how: str) -> None:
    """With `hold`, old octets still arrive once the network is back; they must do no harm."""
    ends = join()

    def cut(number: int) -> None:
        if number == 200:
            getattr(ends.proxy, how)()
            for link in ends.links:
                await_broken(link)
            ends.proxy.restore()

    exchange(ends, cut)
    finish(ends)


@pytest.mark.sample(1)
@pytest.mark.parametrize("octets", [3_000, 300_000])
def test_reconnecting_after_a_flipped_bit_in_tls(join: Callable[..., Ends], files: Path, octets: int) -> None:
    ends = join(files=files)
    ends.proxy.flip_after(octets)
    exchange(ends, lambda number: None)
    assert ends.proxy.flipped
    finish(ends)


def test_the_last_messages_are_sent_again(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.proxy.hold()
    ends.alice.send(Ready(7))
    finishing = ends.pool.submit(ends.alice.finish, DEADLINE)
    with ends.alice._changed:
        assert ends.alice._changed.wait_for(lambda: ends.alice.stream and ends.alice.stream.sent_bye, DEADLINE)
    ends.proxy.reset()
    ends.proxy.restore()
    assert await_message(ends.bob) == Ready(7)
    assert ends.bob.finish(DEADLINE)
    assert finishing.result(DEADLINE)


# Dead, stopped or unreachable ------------------------------------------------------------------------------------


def test_a_dialer_that_died_is_not_waited_for(join: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psicli.transport.listener.DEAD_AFTER", 0.3)
    ends = join()
    ends.bob._reconnection.sid = b""
    ends.proxy.reset()
    with pytest.raises(PeerGoneError, match="it did not reconnect within 0 s"):
        read_to_the_end(ends.alice)


def test_a_listener_that_died_is_not_waited_for(join: Callable[..., Ends], caplog: pytest.LogCaptureFixture) -> None:
    """Nor does the dialer promise to wait for it."""
    caplog.set_level(logging.INFO)
    ends = join()
    ends.proxy.close()
    with pytest.raises(PeerGoneError, match="connection refused"):
        read_to_the_end(ends.bob)
    assert "trying to reconnect until" not in caplog.text


def test_a_listener_that_was_started_again_is_not_waited_for(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.listener._session_link, taken = None, ends.listener._session_link
    ends.proxy.reset()
    with pytest.raises(PeerGoneError, match="it no longer has this session"):
        read_to_the_end(ends.bob)
    assert taken is not None
    taken.end()


@pytest.mark.more
@pytest.mark.parametrize("tls", [False, True])
def test_a_listener_that_is_stopped_is_not_waited_for(
    join: Callable[..., Ends], quick: None, monkeypatch: pytest.MonkeyPatch, files: Path, tls: bool
) -> None:
    monkeypatch.setattr("psicli.transport.link.LONG_SILENCE", 0.5)
    ends = join(files=files if tls else None)
    # The machine, here the proxy, still accepts connections.
    ends.proxy.blackhole()
    with pytest.raises(PeerGoneError, match="its machine accepted a connection but gave no answer"):
        read_to_the_end(ends.bob)


@pytest.mark.more
def test_a_network_that_comes_and_goes_is_not_a_stopped_listener(
    join: Callable[..., Ends], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psicli.transport.link.LONG_SILENCE", 0.5)
    ends = join()
    reached: list[bool] = []

    def every_other_time(host: str, port: int, timeout: float) -> None:
        reached.append(not (reached and reached[-1]))
        if not reached[-1]:
            raise PeerGoneError(reason=TIMED_OUT)

    monkeypatch.setattr("psicli.transport.preflight.reach", every_other_time)
    ends.proxy.blackhole()
    wait_until(lambda: reached.count(True) > 1 or ends.bob.ended, "the network is there more than once")
    assert not ends.bob.ended
    ends.proxy.restore()
    talk(ends)


@pytest.fixture
def out_of_reach(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(host: str, port: int, timeout: float) -> None:
        raise PeerGoneError(reason=TIMED_OUT)

    # Patched because the kernel behind the proxy always answers; on a lost network these calls fail.
    monkeypatch.setattr("psicli.transport.preflight.reach", unreachable)
    monkeypatch.setattr("psicli.transport.door.guest.Guest.is_unanswered", lambda guest: True)
    monkeypatch.setattr("psicli.transport.link.LONG_SILENCE", 0.0)
    monkeypatch.setattr("psicli.transport.listener.WATCH_INTERVAL", 0.05)


def lose_the_network(ends: Ends) -> None:
    # The listener must have checked the peer's machine before its pings find that the connection is dead.
    stream = ends.alice.stream
    assert stream is not None
    wait_until(lambda: stream.unanswered, "the listener has checked")
    ends.proxy.blackhole()


@pytest.mark.more
def test_a_network_that_does_not_come_back_ends_both(join: Callable[..., Ends], out_of_reach: None) -> None:
    ends = join(window=1.0)
    lose_the_network(ends)
    for link in ends.links:
        with pytest.raises(LinkBrokenError, match="could not be restored within 1 s"):
            read_to_the_end(link)


@pytest.mark.more
def test_waiting_for_the_network_is_logged_regularly_on_both_sides(
    join: Callable[..., Ends], out_of_reach: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line per WAITING_LINE_INTERVAL."""
    monkeypatch.setattr("psicli.transport.endpoint.WAITING_LINE_INTERVAL", 0.2)
    caplog.set_level(logging.INFO)
    ends = join()
    lose_the_network(ends)
    dialers = f"alice at {ends.dialer.endpoint.where}: {TIMED_OUT}; trying to reconnect until "
    listeners = "still waiting for bob to reconnect"
    wait_until(lambda: min(map(caplog.text.count, (dialers, listeners))) >= 2, "both log it twice")


def test_a_stopped_process_is_not_an_unreachable_machine() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(socket.create_connection(server.getsockname()))
        far, _ = server.accept()
        stack.enter_context(far)
        # As with a stopped process, nobody reads: send until the buffers are full.
        far.setblocking(False)
        with suppress(BlockingIOError):
            while far.send(bytes(1 << 16)):
                pass
        assert not Guest(far, 0.0).is_unanswered()


# Strangers -------------------------------------------------------------------------------------------------------


def knock(ends: Ends, first: Reconnect, files: Path | None = None, holder: str = "bob") -> list[Message]:
    """Open a stream with this first message, bypassing the proxy; return all answers."""
    own = credentials(files, "bob", holder)
    knocking = Dialer(Endpoint("127.0.0.1", ends.port, "alice", own), 0.05)
    channel = knocking._open_channel(Link(), time.monotonic() + DEADLINE)
    try:
        call: Any = channel.stream_stream(PATH)
        return [decode(each) for each in call(iter([encode(first)]), timeout=DEADLINE)]
    finally:
        channel.close()


def test_nobody_else_can_take_the_session_over(join: Callable[..., Ends]) -> None:
    ends = join()
    for sid in (os.urandom(32), bytes(32)):
        assert knock(ends, Reconnect(sid, 1, 1)) == [Abort(PeerLostError.code)]
    assert not ends.alice.broken
    talk(ends)


def test_a_stranger_who_knows_the_sid_cannot_take_the_session_over(join: Callable[..., Ends], files: Path) -> None:
    ends = join(files=files)
    made = ends.proxy.made
    with pytest.raises(grpc.RpcError) as caught:
        knock(ends, Reconnect(ends.alice._reconnection.sid, 1, 1), files, "carol")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not ends.alice.broken
    talk(ends)
    assert ends.proxy.made == made


@pytest.mark.parametrize(("attempt", "messages"), [(1, 99), (0, 1)])
def test_impossible_numbers_do_not_take_the_session_over(
    join: Callable[..., Ends], attempt: int, messages: int
) -> None:
    ends = join()
    made = ends.proxy.made
    assert knock(ends, Reconnect(ends.alice._reconnection.sid, attempt, messages)) == []
    assert not ends.alice.broken
    talk(ends)
    assert ends.proxy.made == made


def test_an_outdated_attempt_does_not_take_the_session_over(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.proxy.reset()
    talk(ends)
    attempt = ends.alice._reconnection.attempt
    assert attempt >= 1
    assert knock(ends, Reconnect(ends.alice._reconnection.sid, attempt, 1)) == []
    talk(ends)
    assert ends.alice._reconnection.attempt == attempt


def test_the_peer_may_reconnect_while_its_stream_looks_intact(join: Callable[..., Ends]) -> None:
    """A dialer that alone has noticed a break must not wait for the listener to notice it."""
    ends = join()
    talk(ends)
    stream = ends.alice.stream
    ends.proxy.lose_the_dialer()
    talk(ends)
    assert ends.alice.stream is not stream
    assert not ends.alice.broken
    finish(ends)


def test_an_unexpected_failure_while_reconnecting(join: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch) -> None:
    ends = join()
    monkeypatch.setattr("psicli.transport.preflight.reach", lambda host, port, timeout: 1 // 0)
    ends.proxy.reset()
    with pytest.raises(Exception, match="unexpected ZeroDivisionError"):
        read_to_the_end(ends.bob)


def test_a_break_that_was_mended_is_not_reported_again() -> None:
    """The stream of an attempt may break as soon as it has taken over; the next attempt then succeeds."""
    link, sid = Link(), bytes(32)
    link.allow_reconnect(sid)
    assert link.stream is not None
    link.stream_ended(link.stream)
    assert link.await_break(0) is not None
    for attempt in (1, 2):
        trial = link.try_stream()
        link.receive(encode(Reconnect(sid, attempt, 0)), trial)
        assert link.stream is trial
        if attempt == 1:
            link.stream_ended(trial)
    assert link.await_break(0) is None
