"""Tests of the front over real sockets: strangers who take every place do not keep the peer out."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from support.hostile.crowd import ACK, PREFACE, SETTINGS, client_hello
from support.memory.links import DEADLINE, PATH, hello
from support.processes.runner import free_ports
from support.waiting import wait_until

from psicli.transport.dialer import Dialer
from psicli.transport.door import front, owners
from psicli.transport.door.guest import Guest
from psicli.transport.endpoint import Endpoint
from psicli.transport.link import Link
from psicli.transport.listener import Listener

# With this limit of descriptors, the front has few places.
FEW = 64
PLACES = 12

Strangers = Callable[[ExitStack, int], None]


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]


def strangers_that_send(octets: bytes) -> Strangers:
    def come(stack: ExitStack, port: int) -> None:
        for _ in range(3 * PLACES):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            # On a busy machine, it may have had to go before it could speak.
            with suppress(ConnectionError):
                stranger.sendall(octets)

    return come


def strangers_with_silent_streams(stack: ExitStack, port: int) -> None:
    """Open streams that never begin with a message."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(DEADLINE)
        yield from ()

    for number in range(PLACES):
        # Without an option of its own, a channel would share the connection of the one before.
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", [("psicli.test", number)]))
        channel.stream_stream(PATH)(nothing())
    stack.callback(over.set)


CROWDS: dict[str, Strangers] = {
    "silent": strangers_that_send(b""),
    "hello of tls": strangers_that_send(client_hello()),
    "one octet": strangers_that_send(b"P"),
    "preface": strangers_that_send(PREFACE),
    "settings": strangers_that_send(PREFACE + SETTINGS + ACK),
    "silent streams": strangers_with_silent_streams,
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("crowd", CROWDS)
def test_strangers_who_take_all_places_do_not_keep_the_peer_out(
    port: int, crowd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "descriptors", lambda: FEW)
    # The strangers are in this process, and the dialer would take their connections for its own.
    monkeypatch.setattr(owners, "check_connections", lambda host, port, earlier: None)
    with ExitStack() as stack:
        listener = Listener(Endpoint("127.0.0.1", port, "bob"))
        stack.callback(listener.close)
        listening = stack.enter_context(ThreadPoolExecutor(1)).submit(listener.meet, lambda: hello("alice"), DEADLINE)
        CROWDS[crowd](stack, port)
        dialer = Dialer(Endpoint("127.0.0.1", port, "alice"), 0.05)
        stack.callback(dialer.close)
        for link in (dialer.meet(lambda: hello("bob"), DEADLINE), listening.result(DEADLINE)):
            assert isinstance(link, Link)
            stack.callback(link.end)


@pytest.mark.more
def test_a_stranger_who_opens_stream_after_stream_has_to_go(port: int) -> None:
    with ExitStack() as stack:
        listener = Listener(Endpoint("127.0.0.1", port, "bob"))
        stack.callback(listener.close)
        stack.enter_context(ThreadPoolExecutor(1)).submit(listener.refuse, 66, 5.0)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]))
        seen: set[Guest] = set()

        def one_had_to_go() -> bool:
            with suppress(grpc.RpcError):
                list(channel.stream_stream(PATH)(iter([b"junk"]), timeout=DEADLINE))
            seen.update(listener._front._guests)
            return any(guest.is_closed for guest in seen)

        wait_until(one_had_to_go, "a stranger had to go")
        assert max(guest.streams for guest in seen) == front._MOST_STREAMS + 1


def test_a_front_that_nobody_is_connected_to_closes_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "LEAVING_STAY", 10 * DEADLINE)
    listener = Listener(Endpoint("127.0.0.1", port, "bob"))
    listener.refuse(66, 0.05)
    with ThreadPoolExecutor(1) as closing:
        closing.submit(listener.close).result(DEADLINE)


def test_nothing_is_left_of_a_listener(port: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        listener = Listener(Endpoint("127.0.0.1", port, "bob"))
        listening = stack.enter_context(ThreadPoolExecutor(1)).submit(listener.refuse, 66, 1.0)
        stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(PREFACE)
        listening.result(DEADLINE)
        listener.close()
        listener.close()
    assert not [each for each in threading.enumerate() if each.name == "psicli-door"]
    wait_until(lambda: set(os.listdir("/proc/self/fd")) <= before, "gRPC has closed its descriptors, too")


def test_the_socket_of_grpc_has_no_name(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody else can connect to it, and a run that is killed leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    listener = Listener(Endpoint("127.0.0.1", port, "bob"))
    assert [*tmp_path.iterdir()] == []
    listener.close()
