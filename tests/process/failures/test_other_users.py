"""Without TLS, other users of the machine get nothing from either party, and cannot end a run or keep the peer out."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest
from support.hostile.crowd import ACK, PREFACE, SETTINGS, crowd
from support.memory.links import PATH, hello
from support.processes.expectations import check_output, csv_data
from support.processes.proxy import Proxy, connected
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Run, Side, free_ports
from support.waiting import DEADLINE, wait_until

from psicli.core.peer_errors import OtherUserError, OwnersUnknownError, PeerGoneError
from psicli.protocol.messages import Abort, HelloOctets, Purpose, Reconnect
from psicli.protocol.wire import encode
from psicli.transport.dialer import Dialer
from psicli.transport.door import lookup, owners
from psicli.transport.endpoint import Endpoint
from psicli.transport.listener import Listener

NOBODY = 65534
REFUSED = "refused a connection from a process of another user of this machine, nobody"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
# How long another user's stream waits for an answer, and a dialer for its peer where another user listens [s].
PATIENCE = 2.0

# How another user's streams begin.
FIRST = {
    "hello": encode(HelloOctets(hello(DIALER))),
    "check": encode(HelloOctets(hello(DIALER, Purpose.CHECK))),
    "abort": encode(Abort(77)),
    "reconnect": encode(Reconnect(bytes(32), 1, 1)),
    "silence": None,
}


@pytest.fixture
def prepared(pair: Pair) -> Pair:
    for party in PARTIES:
        pair.path(party, "in.csv").write_bytes(csv_data(["id"], [[f"{row}"] for row in range(1000)]))
    pair.add("task", Side(["id"], "in.csv", "out/out.csv"), Side(["id"], "in.csv"))
    return pair


@pytest.fixture
def knock() -> Iterator[Callable[[int, bytes | None], list[bytes]]]:
    """Open a stream that begins with this message, or none, and stays open; return all answers."""
    over = threading.Event()

    def messages(first: bytes | None) -> Iterator[bytes]:
        if first is not None:
            yield first
        over.wait(DEADLINE)

    def answers(port: int, first: bytes | None) -> list[bytes]:
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]) as channel:
            found: list[bytes] = []
            with pytest.raises(grpc.RpcError):
                found.extend(channel.stream_stream(PATH)(messages(first), timeout=PATIENCE))
            return found

    yield answers
    over.set()


def succeeds(pair: Pair, alice: Run) -> None:
    bob = pair.start(DIALER)
    for result in (alice.result(), bob.result()):
        assert result.code == 0, result.stderr
    check_output(pair, LISTENER, 0, "out/out.csv")


@pytest.mark.more
@needs_root
def test_another_users_streams_get_no_octet_and_do_no_harm(
    prepared: Pair, knock: Callable[[int, bytes | None], list[bytes]]
) -> None:
    alice = prepared.start(LISTENER)
    alice.wait_for("must be a process of this user, root")
    with ExitStack() as stack:
        (port,) = stack.enter_context(free_ports(1))
        stack.callback(Proxy(port, prepared.port, dials_as=NOBODY).close)
        with ThreadPoolExecutor(len(FIRST)) as pool:
            assert [*pool.map(partial(knock, port), FIRST.values())] == [[]] * len(FIRST)
        for octets in (PREFACE, PREFACE + SETTINGS + ACK):
            with connected(prepared.port, NOBODY) as stranger:
                stranger.settimeout(DEADLINE)
                assert heard(stranger, octets) == b""
        succeeds(prepared, alice)
    assert alice.result().stderr.count(REFUSED) == 1


def heard(stranger: socket.socket, octets: bytes) -> bytes:
    try:
        stranger.sendall(octets)
        return stranger.recv(1)
    except ConnectionError:
        return b""


@needs_root
@pytest.mark.more
def test_a_crowd_of_another_user_keeps_nobody_out(prepared: Pair) -> None:
    alice = prepared.start(LISTENER)
    alice.wait_for("listening on")
    with crowd(prepared.port, 300, 60, user=NOBODY):
        alice.wait_for(REFUSED)
        succeeds(prepared, alice)


@pytest.mark.more
@needs_root
def test_a_listener_of_another_user_gets_nothing(prepared: Pair) -> None:
    alice = prepared.start(LISTENER)
    alice.wait_for("listening on")
    with ExitStack() as stack:
        (port,) = stack.enter_context(free_ports(1))
        proxy = Proxy(port, prepared.port, listens_as=NOBODY)
        stack.callback(proxy.close)
        prepared.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{port}"
        prepared.jobs[DIALER]["cluster"]["link_desc"] = {"connect_retry_times": 20, "connect_retry_interval_ms": 100}
        bob = prepared.start(DIALER).result()
        assert bob.code == 77, bob.stderr
        assert f"127.0.0.1:{port} belongs to another user of this machine, nobody" in bob.stderr
        assert "use TLS" in bob.stderr
        assert proxy.made == 0
    assert alice.lasts(0)


@pytest.mark.more
@needs_root
def test_another_user_on_the_other_loopback_address_is_of_no_concern(prepared: Pair) -> None:
    """Nor is one who has the port until our peer takes it."""
    for job in prepared.jobs.values():
        job["cluster"]["nodes"][0]["address"] = f"localhost:{prepared.port}"
    with ExitStack() as stack:
        first = Proxy(prepared.port, prepared.port, listens_as=NOBODY)
        stack.callback(first.close)
        bob = prepared.start(DIALER)
        bob.wait_for("another user of this machine, nobody, listens there; trying again")
        first.close()
        try:
            server = socket.create_server(("::1", prepared.port), family=socket.AF_INET6)
        except OSError:
            pytest.skip("this machine has no IPv6")
        stack.enter_context(server)
        os.fchown(server.fileno(), NOBODY, NOBODY)
        alice = prepared.start(LISTENER)
        assert (alice.result().code, bob.result().code) == (0, 0)


@needs_root
def test_a_port_that_changes_hands_is_noticed_before_anything_is_sent(
    prepared: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of another user's process is not even read."""
    alice = prepared.start(LISTENER)
    alice.wait_for("listening on")
    monkeypatch.setattr(owners, "address_to_dial", lambda host, port: host)
    with ExitStack() as stack:
        (port,) = stack.enter_context(free_ports(1))
        stack.callback(Proxy(port, prepared.port, listens_as=NOBODY).close)
        dialer = Dialer(Endpoint("127.0.0.1", port, LISTENER), 0.05)
        stack.callback(dialer.close)
        with pytest.raises(OtherUserError):
            dialer.meet(lambda: hello(DIALER), PATIENCE)


def test_a_connection_of_an_earlier_attempt_does_not_break_the_next_one() -> None:
    """It may stay half closed for a while."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        port = server.getsockname()[1]
        old = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        server.accept()[0].close()
        assert old.recv(1) == b""
        earlier = owners.connections_to(port)
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(server.accept()[0])
        owners.check_connections("127.0.0.1", port, earlier)
        with pytest.raises(PeerGoneError):
            owners.check_connections("127.0.0.1", port, set())


def test_without_the_kernels_table_there_is_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lookup, "is_possible", lambda: False)
    monkeypatch.setattr(owners, "_TABLES", (str(tmp_path / "none"),))
    with free_ports(1) as (port,):
        endpoint = Endpoint("127.0.0.1", port, "bob")
        with pytest.raises(OwnersUnknownError, match="psicli cannot tell which user's processes are connected"):
            Listener(endpoint)
        dialer = Dialer(endpoint, 0.05)
        with pytest.raises(OwnersUnknownError):
            dialer.meet(lambda: hello(DIALER), DEADLINE)


@pytest.fixture(params=["one socket", "the table", "both"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the kernel is asked; both: it stops answering about one socket, so that its table is read."""
    if request.param != "the table" and not lookup.is_possible():
        pytest.skip("this kernel does not answer about one socket")
    monkeypatch.setattr(lookup, "is_possible", lambda: request.param != "the table")
    if request.param == "both":
        monkeypatch.setattr(lookup, "_NETLINK_SOCK_DIAG", 31)
        with pytest.raises(OSError, match="not supported"):
            lookup.user_of(("127.0.0.1", 1), None)


def _server(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
    except OSError:
        pytest.skip("this machine has no IPv6")


# Where the server listens, and which of its addresses the client connects to.
@pytest.mark.parametrize(("place", "host"), [("127.0.0.1",) * 2, ("::1",) * 2, ("::", "127.0.0.1"), ("0.0.0.0",) * 2])
@pytest.mark.usefixtures("way")
def test_the_users_at_both_ends_are_known(place: str, host: str) -> None:
    host = host.replace("0.0.0.0", "127.0.0.1")
    with _server(place) as server:
        port = server.getsockname()[1]
        assert owners.Owners(port).listener_at((host, port)) == os.geteuid()
        with socket.create_connection((host, port)) as guest, server.accept()[0] as host_end:
            near, far = owners.ends(guest)
            assert owners.ends(host_end) == (far, near)
            table = owners.Owners(port)
            assert table.user_of(near, far) == table.user_of(far, near) == os.geteuid()
            # A socket that listens is no end of a connection.
            assert table.user_of(far, (host, 1)) is None
            # The kernel says that an end which was closed belongs to root.
            guest.close()
            wait_until(lambda: owners.Owners(port).user_of(near, far) is None, "the connection is no longer whole")
    assert owners.Owners(port).listener_at((host, port)) is None


@needs_root
@pytest.mark.usefixtures("way")
def test_a_socket_that_is_bound_to_its_device_is_no_stranger() -> None:
    """Any user may bind a socket to the loopback device."""
    with _server("127.0.0.1") as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        where = server.getsockname()
        os.fchown(server.fileno(), NOBODY, NOBODY)
        assert owners.Owners(where[1]).listener_at(where) == NOBODY


@needs_root
@pytest.mark.usefixtures("way")
def test_another_users_sockets_are_told_apart() -> None:
    with _server("127.0.0.1") as server:
        where = server.getsockname()
        os.fchown(server.fileno(), NOBODY, NOBODY)
        assert owners.Owners(where[1]).listener_at(where) == NOBODY
        with socket.create_connection(where) as guest, server.accept()[0]:
            os.fchown(guest.fileno(), NOBODY, NOBODY)
            near, far = owners.ends(guest)
            assert owners.Owners(where[1]).user_of(near, far) == NOBODY
            assert owners.Owners(where[1]).user_of(far, near) == os.geteuid()
