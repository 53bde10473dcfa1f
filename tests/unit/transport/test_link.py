"""Tests of the link over real gRPC on loopback: who takes the session, and how other connections are answered."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import grpc
import pytest
from support.memory.links import DEADLINE, PATH, hello
from support.processes.runner import free_ports

from psicli.core.errors import PortBusyError
from psicli.core.peer_errors import (
    PeerAbsentError,
    PeerBusyError,
    PeerFailedError,
    PeerGoneError,
    PeerProtocolError,
    PeerStoppedError,
)
from psicli.protocol.messages import Abort, Ask, Bye, Frame, HelloOctets, Message, Purpose, Ready, Working
from psicli.protocol.wire import decode, decode_hello, encode, encode_hello
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint, outgoing
from psicli.transport.link import QUEUE_FRAMES, Link
from psicli.transport.listener import Listener


class Meeting:
    """A listener `alice` on a free port, and dialers that connect to it."""

    def __init__(self, stack: ExitStack) -> None:
        (self.port,) = stack.enter_context(free_ports(1))
        self.listener = Listener(Endpoint("127.0.0.1", self.port, "bob"))
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(self.listener.close)

    def dialer(self, purpose: Purpose = Purpose.RUN) -> Dialer:
        dialer = Dialer(Endpoint("127.0.0.1", self.port, "alice", purpose=purpose), 0.02)
        self._stack.callback(dialer.close)
        return dialer

    def listen(self, timeout: float = DEADLINE) -> Future[Link]:
        return self._pool.submit(self.listener.meet, lambda: hello("alice"), timeout)

    def dial(self, timeout: float = DEADLINE) -> Future[Link]:
        return self._pool.submit(self.dialer().meet, lambda: hello("bob"), timeout)

    def links(self) -> tuple[Link, Link]:
        listening = self.listen()
        links = self.dial().result(DEADLINE), listening.result(DEADLINE)
        for link in links:
            # A pump that waits for room would block until somebody reads or ends the link.
            self._stack.callback(link.end)
        return links[1], links[0]

    def raw(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """Open a stream that sends these octets; return the answers."""
        channel = self._stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{self.port}"))
        answers: Iterator[bytes] = channel.stream_stream(PATH)(messages, timeout=DEADLINE)
        return answers


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with ExitStack() as stack:
        yield Meeting(stack)


def receive(link: Link) -> Message:
    assert link.wait(for_message=True, room_for=None, timeout=DEADLINE)
    arrived = link.poll()
    assert arrived is not None
    return arrived[0]


def read_to_the_end(link: Link) -> None:
    while True:
        link.wait(for_message=True, room_for=None, timeout=DEADLINE)
        link.poll()


def test_both_hellos_arrive_as_they_were_sent(meeting: Meeting) -> None:
    alice, bob = meeting.links()
    assert (alice.own_hello, alice.peer_hello) == (bob.peer_hello, bob.own_hello)
    assert alice.own_hello != alice.peer_hello


def test_messages_arrive_in_order_both_ways_and_the_end_is_clean(meeting: Meeting) -> None:
    alice, bob = meeting.links()
    frames: list[Message] = [Frame(0, 0, 0, 1, seq, os.urandom(50_000)) for seq in range(40)]
    with ThreadPoolExecutor(2) as pool:
        for sender in (alice, bob):
            pool.submit(send_all, sender, frames)
        for receiver in (alice, bob):
            assert [receive(receiver) for _ in frames] == frames
        pool.submit(alice.finish, DEADLINE)
        assert pool.submit(bob.finish, DEADLINE).result(DEADLINE)


def send_all(link: Link, messages: list[Message]) -> None:
    for message in messages:
        assert link.wait(for_message=False, room_for=1, timeout=DEADLINE)
        link.send(message)


def test_a_party_that_does_not_read_blocks_the_sender(meeting: Meeting) -> None:
    """The sender gets no room once both queues and the network's window are full, so memory stays bounded."""
    alice, _ = meeting.links()
    frame = Frame(0, 0, 0, 1, 0, os.urandom(1 << 20))
    sent = QUEUE_FRAMES + 1
    send_all(alice, [frame] * sent)
    # If room appears after more than a second, the loop only ends earlier.
    while alice.wait(for_message=False, room_for=1, timeout=1.0):
        alice.send(frame)
        sent += 1
        assert sent < 10 * QUEUE_FRAMES


def test_a_second_dialer_is_turned_away(meeting: Meeting) -> None:
    alice, bob = meeting.links()
    with pytest.raises(PeerBusyError):
        meeting.dial().result(DEADLINE)
    alice.send(Ready(7))
    assert receive(bob) == Ready(7)


def test_a_check_is_answered_and_forgotten(meeting: Meeting) -> None:
    listening = meeting.listen()
    answers = list(meeting.raw(iter([encode(HelloOctets(hello("bob", Purpose.CHECK)))])))
    assert [type(decode(answer)) for answer in answers] == [HelloOctets, Bye]
    assert not listening.done()
    meeting.dial().result(DEADLINE)
    assert listening.result(DEADLINE).peer_hello


@pytest.mark.parametrize("junk", [b"", b"\xff\xff", encode(Working()), encode(HelloOctets(b"\x01"))])
def test_junk_gets_no_answer_and_does_no_harm(meeting: Meeting, junk: bytes) -> None:
    listening = meeting.listen()
    assert list(meeting.raw(iter([junk]))) == []
    assert not listening.done()
    meeting.dial().result(DEADLINE)
    listening.result(DEADLINE)


def test_no_exception_text_reaches_the_peer(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting.listener, "_admit", lambda link, first: 1 / 0)
    meeting.listen(timeout=2.0)
    with pytest.raises(grpc.RpcError) as caught:
        list(meeting.raw(iter([encode(HelloOctets(hello("bob")))])))
    assert "zero" not in str(caught.value)


@pytest.mark.parametrize("aborting", ["listener", "dialer"])
def test_the_class_of_a_failure_arrives_after_what_was_sent_before(meeting: Meeting, aborting: str) -> None:
    alice, bob = meeting.links()
    one, other = (alice, bob) if aborting == "listener" else (bob, alice)
    one.send(Ready(1))
    assert receive(other) == Ready(1)
    stopping = threading.Thread(target=one.abort, args=(65, DEADLINE))
    stopping.start()
    assert receive(other) == Abort(65)
    other.finish(DEADLINE)
    stopping.join(DEADLINE)
    assert not stopping.is_alive()


def test_a_hello_is_sent_although_a_failure_follows_at_once() -> None:
    """Both parties compare the Hellos, and the one that is faster must not keep the other from it."""
    link, own = Link(), HelloOctets(hello("alice"))
    link.send(own)
    link.abort(78, 0.0)
    assert link.stream is not None
    assert [decode(octets) for octets in outgoing(link.stream)] == [own, Abort(78)]


@pytest.mark.parametrize("sending", ["listener", "dialer"])
def test_an_invalid_message_is_detected_and_can_be_answered(meeting: Meeting, sending: str) -> None:
    alice, bob = meeting.links()
    one, other = (alice, bob) if sending == "listener" else (bob, alice)
    with one._changed:
        one._outbox.put(b"\xff\xff")
        one._changed.notify_all()
    assert other.wait(for_message=True, room_for=None, timeout=DEADLINE)
    with pytest.raises(PeerProtocolError):
        other.poll()
    stopping = threading.Thread(target=other.abort, args=(76, DEADLINE))
    stopping.start()
    assert receive(one) == Abort(76)
    one.finish(DEADLINE)
    stopping.join(DEADLINE)


@pytest.mark.parametrize("sending", ["listener", "dialer"])
@pytest.mark.parametrize(
    "late", [Ready(1), Frame(0, 0, 0, 1, 0, bytes(32)), Working(), Abort(65)], ids=lambda late: type(late).__name__
)
def test_any_message_after_bye_is_refused(meeting: Meeting, sending: str, late: Message) -> None:
    alice, bob = meeting.links()
    one, other = (alice, bob) if sending == "listener" else (bob, alice)
    with one._changed:
        for message in (Bye(), late):
            one._outbox.put(encode(message))
        one._changed.notify_all()
    assert other.wait(for_message=True, room_for=None, timeout=DEADLINE)
    with pytest.raises(PeerProtocolError, match="it sent a message after its last one"):
        other.poll()


def test_a_listener_that_fails_tells_the_dialer(meeting: Meeting) -> None:
    dialling = meeting.dial()
    meeting.listener.refuse(66, DEADLINE)
    with pytest.raises(PeerFailedError, match="does not exist"):
        dialling.result(DEADLINE)


def test_a_check_is_refused_but_does_not_use_up_the_refusal(meeting: Meeting) -> None:
    """The peer's run, which connects later, must hear the refusal too."""
    with ThreadPoolExecutor(1) as pool:
        refusing = pool.submit(meeting.listener.refuse, 66, DEADLINE)
        with pytest.raises(PeerFailedError):
            meeting.dialer().meet(lambda: hello("bob", Purpose.CHECK), DEADLINE)
        assert not refusing.done()
        with pytest.raises(PeerFailedError):
            meeting.dial().result(DEADLINE)
        refusing.result(DEADLINE)


def test_a_check_hears_whether_a_run_would_be_turned_away(meeting: Meeting) -> None:
    meeting.links()
    answers = list(meeting.raw(iter([encode(HelloOctets(hello("bob", Purpose.CHECK)))])))
    assert [type(decode(answer)) for answer in answers] == [HelloOctets, Abort]
    assert decode(answers[1]) == Abort(75)


def test_the_listener_measures_the_link_with_one_check_only(meeting: Meeting) -> None:
    """A second check gets its answer, and ends as it did before links were measured."""
    measures = {party: replace(decode_hello(hello(party, Purpose.CHECK)), measures=True) for party in ("alice", "bob")}
    octets = {party: encode_hello(each) for party, each in measures.items()}
    meeting.listener.endpoint = replace(meeting.listener.endpoint, purpose=Purpose.CHECK)
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(meeting.listener.meet, lambda: octets["alice"], DEADLINE)
        first = meeting.dialer(Purpose.CHECK).meet(lambda: octets["bob"], DEADLINE)
        link = listening.result(DEADLINE)
    with pytest.raises(PeerGoneError, match="closed the connection"):
        meeting.dialer(Purpose.CHECK).meet(lambda: octets["bob"], DEADLINE).first(DEADLINE)
    first.send(Ask(7))
    assert receive(link) == Ask(7)
    link.close_outgoing()
    assert first.finish(DEADLINE)


def test_a_dialer_that_fails_tells_the_listener(meeting: Meeting) -> None:
    listening = meeting.listen()
    meeting.dialer().refuse(74, DEADLINE)
    with pytest.raises(PeerStoppedError):
        listening.result(DEADLINE)


def test_both_fail_and_neither_waits(meeting: Meeting) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        refusing = pool.submit(meeting.dialer().refuse, 66, DEADLINE)
        meeting.listener.refuse(65, DEADLINE)
        refusing.result(DEADLINE)
    assert time.monotonic() - started < DEADLINE / 2


def test_nobody_comes(meeting: Meeting) -> None:
    with pytest.raises(PeerAbsentError, match=rf"nobody connected to 127\.0\.0\.1:{meeting.port} as bob"):
        meeting.listen(timeout=0.2).result(DEADLINE)


@pytest.mark.more
def test_nobody_listens() -> None:
    # While the port is bound, no other process can get it and listen there.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dialer = Dialer(Endpoint("127.0.0.1", bound.getsockname()[1], "alice"), 0.02)
        with pytest.raises(PeerAbsentError, match="connection refused"):
            dialer.meet(lambda: hello("bob"), 2.0)
        dialer.close()


def test_a_dialer_that_is_slightly_early_does_not_lose_a_whole_interval() -> None:
    interval = 2 * DEADLINE
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with socket.create_server(("127.0.0.1", 0)) as too_early:
            port = too_early.getsockname()[1]
            dialer = Dialer(Endpoint("127.0.0.1", port, "alice"), interval)
            stack.callback(dialer.close)
            dialing = pool.submit(dialer.meet, lambda: hello("bob"), interval)
            too_early.accept()[0].close()
        listener = Listener(Endpoint("127.0.0.1", port, "bob"))
        stack.callback(listener.close)
        listening = pool.submit(listener.meet, lambda: hello("alice"), DEADLINE)
        for meeting in (dialing, listening):
            stack.callback(meeting.result(DEADLINE).end)


def test_two_listeners_do_not_share_a_port(meeting: Meeting) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(PortBusyError):
            Listener(Endpoint(host, meeting.port, "bob"))


def test_the_port_is_free_after_close(meeting: Meeting) -> None:
    meeting.links()
    meeting.listener.close()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", meeting.port))


def test_a_dialer_that_is_gone_is_noticed(meeting: Meeting) -> None:
    dialer = meeting.dialer()
    listening = meeting.listen()
    dialer.meet(lambda: hello("bob"), DEADLINE)
    dialer.close()
    with pytest.raises(PeerGoneError):
        read_to_the_end(listening.result(DEADLINE))


def test_a_listener_that_is_gone_is_noticed(meeting: Meeting) -> None:
    _, bob = meeting.links()
    meeting.listener.close()
    with pytest.raises(PeerGoneError):
        read_to_the_end(bob)


def test_proxy_variables_are_ignored(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    meeting.links()
