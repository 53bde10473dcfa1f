"""A connection that breaks: mended over a new one where the peer lives, and its end noticed where it does not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from runner import Pair, Proxy, Side, free_ports
from test_link import DEADLINE, PATH, hello
from test_run import check_output, csv_data, succeeded

from psicli import link as link_module
from psicli.errors import LinkBrokenError, PeerGoneError, PeerLostError
from psicli.link import Dialer, Link, Listener
from psicli.protocol import Abort, Ack, Chunk, Message, Reconnect
from psicli.wire import decode, encode

FRAMES: list[Message] = [Chunk(0, 1, seq, os.urandom(20_000)) for seq in range(400)]
# Pings that find a dead connection within about a second [ms].
QUICK = {
    "grpc.keepalive_time_ms": 300,
    "grpc.keepalive_timeout_ms": 700,
    "grpc.http2.ping_timeout_ms": 700,
    "grpc.http2.min_ping_interval_without_data_ms": 100,
}


class Ends:
    """Alice and bob, joined through a proxy."""

    def __init__(self, stack: ExitStack, window: float) -> None:
        self.port, proxy_port = stack.enter_context(free_ports(2))
        self.proxy = Proxy(proxy_port, self.port)
        stack.callback(self.proxy.close)
        self.pool = stack.enter_context(ThreadPoolExecutor(6))
        self.listener = Listener("127.0.0.1", self.port, "bob", None, reconnect_window=window)
        self.dialer = Dialer("127.0.0.1", proxy_port, "alice", None, 0.05, reconnect_window=window)
        for each in (self.listener, self.dialer):
            stack.callback(each.close)
        listening = self.pool.submit(self.listener.meet, lambda: hello("alice"), DEADLINE)
        self.bob = self.dialer.meet(lambda: hello("bob"), DEADLINE)
        self.alice = listening.result(DEADLINE)

    @property
    def links(self) -> tuple[Link, Link]:
        return self.alice, self.bob


@pytest.fixture
def join() -> Iterator[Callable[..., Ends]]:
    with ExitStack() as stack:
        yield lambda window=DEADLINE: Ends(stack, window)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SERVER_OPTIONS", "_CLIENT_OPTIONS"):
        options = dict(getattr(link_module, name))
        monkeypatch.setattr(link_module, name, list((options | QUICK).items()))
    monkeypatch.setattr(link_module, "LONG_SILENCE", 0.5)
    monkeypatch.setattr(link_module, "ATTEMPT_TIMEOUT", 1.0)


def await_message(link: Link) -> Message:
    assert link.wait(for_message=True, room_for=None, timeout=DEADLINE)
    arrived = link.poll()
    assert arrived is not None
    return arrived[0]


def exchange(ends: Ends, at_frame: Callable[[int], None]) -> None:
    """Send all frames both ways; at_frame: called before each of alice's goes out."""

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
    deadline = time.monotonic() + DEADLINE
    while not link.broken:
        assert time.monotonic() < deadline, "the break goes unnoticed"
        link.await_stream(0.01)
        time.sleep(0.005)


@pytest.mark.parametrize("how", ["reset", "half_close"])
def test_nothing_is_lost_or_doubled_when_a_connection_breaks(join: Callable[..., Ends], how: str) -> None:
    ends = join()

    def break_it(number: int) -> None:
        if number % 80 == 40:
            getattr(ends.proxy, how)()

    exchange(ends, break_it)
    finish(ends)


def test_a_connection_that_falls_silent_is_mended(join: Callable[..., Ends], quick: None) -> None:
    ends = join()

    def cut(number: int) -> None:
        if number == 200:
            ends.proxy.cut()
            await_broken(ends.alice)
            ends.proxy.heal()

    exchange(ends, cut)
    finish(ends)


def test_the_last_words_are_said_again(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.proxy.cut()
    ends.alice.send(Ack(7))
    finishing = ends.pool.submit(ends.alice.finish, DEADLINE)
    with ends.alice._changed:
        assert ends.alice._changed.wait_for(lambda: ends.alice.stream and ends.alice.stream.said_bye, DEADLINE)
    ends.proxy.reset()
    ends.proxy.heal()
    assert await_message(ends.bob) == Ack(7)
    assert ends.bob.finish(DEADLINE)
    assert finishing.result(DEADLINE)


def read_to_the_end(link: Link) -> None:
    while True:
        link.wait(for_message=True, room_for=None, timeout=DEADLINE)
        link.poll()


def test_a_dialer_that_died_is_not_waited_for(join: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "DEAD_AFTER", 0.3)
    ends = join()
    ends.dialer._window = 0.0
    ends.bob._mend = None
    ends.proxy.reset()
    with pytest.raises(PeerGoneError, match="no new connection came within 0 s"):
        read_to_the_end(ends.alice)


def test_a_listener_that_died_is_not_waited_for(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.proxy.close()
    with pytest.raises(PeerGoneError, match="connection refused"):
        read_to_the_end(ends.bob)


def test_a_listener_that_was_started_again_is_not_waited_for(join: Callable[..., Ends]) -> None:
    ends = join()
    ends.listener._taken, taken = None, ends.listener._taken
    ends.proxy.reset()
    with pytest.raises(PeerGoneError, match="knows nothing of this session"):
        read_to_the_end(ends.bob)
    assert taken is not None
    taken.end()


@pytest.mark.parametrize("waiting", ["alice", "bob"])
def test_a_network_that_does_not_come_back_ends_both(join: Callable[..., Ends], quick: None, waiting: str) -> None:
    ends = join(window=1.0)
    ends.proxy.cut()
    with pytest.raises(LinkBrokenError, match="did not come back within 1 s"):
        read_to_the_end(getattr(ends, waiting))


def test_nobody_else_can_take_the_session_over(join: Callable[..., Ends]) -> None:
    ends = join()
    with grpc.insecure_channel(f"127.0.0.1:{ends.port}") as channel:
        call: Any = channel.stream_stream(PATH)
        for sid in (os.urandom(32), bytes(32)):
            answers = [decode(each) for each in call(iter([encode(Reconnect(sid, 1))]), timeout=DEADLINE)]
            assert answers == [Abort(PeerLostError.code)]
    assert not ends.alice.broken
    ends.alice.send(Ack(7))
    assert await_message(ends.bob) == Ack(7)


def test_a_number_that_cannot_be_takes_nothing_over(join: Callable[..., Ends]) -> None:
    ends = join()
    with grpc.insecure_channel(f"127.0.0.1:{ends.port}") as channel:
        call: Any = channel.stream_stream(PATH)
        assert list(call(iter([encode(Reconnect(ends.alice._sid, 99))]), timeout=DEADLINE)) == []
    assert not ends.alice.broken
    ends.alice.send(Ack(7))
    assert await_message(ends.bob) == Ack(7)


def test_a_run_outlives_its_connections(tmp_path: Any) -> None:
    with free_ports(2) as ports, ExitStack() as stack:
        pair = Pair(tmp_path, ports[0])
        stack.callback(pair.kill)
        pair.environment = {"PSICLI_BACKEND": "reference"}
        proxy = Proxy(ports[1], ports[0])
        stack.callback(proxy.close)
        pair.jobs["bob"]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{ports[1]}"
        for party, start in (("alice", 0), ("bob", 2000)):
            pair.link(party, reconnect_window_ms=20_000)
            pair.jobs[party]["pipeline"] = {"chunk_items": 64}
            pair.path(party, "in.csv").write_bytes(csv_data(["id"], [[f"k{i}"] for i in range(start, start + 4000)]))
        side = Side(["id"], "in.csv", "out/found.csv")
        pair.add("people", side, side, broadcast_result=True)
        runs = {party: pair.start(party) for party in ("alice", "bob")}
        for run in runs.values():
            run.wait_for("exchanging")
        breaker = threading.Event()
        for _ in range(3):
            breaker.wait(0.3)
            proxy.reset()
        for party, run in runs.items():
            result = run.result()
            succeeded([result])
            check_output(pair, party, 0, "out/found.csv")
            assert "is back after" in result.stderr
        pair.nothing_left()
