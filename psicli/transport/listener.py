"""The listener: the end that accepts connections. One of them takes the session and may reconnect when it breaks."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
from cryptography import x509

from psicli.core import errors, failpoints, peer_errors, signals
from psicli.core.errors import PsicliError
from psicli.core.peer_errors import failure_of_peer
from psicli.protocol.messages import Abort, HelloOctets, Message, Purpose, Reconnect, session_id
from psicli.protocol.wire import decode_hello
from psicli.transport.certs import USABLE_KEYS
from psicli.transport.endpoint import (
    COMMON_OPTIONS,
    METHOD,
    SERVICE,
    TLS_FAILED,
    Endpoint,
    Ticker,
    left,
    moment,
    outgoing,
    pump,
)
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, Link, Stream

logger = logging.getLogger(__name__)

# A connection that sends no Hello within this time is dropped [s].
HELLO_TIMEOUT = 20.0
# A connection, or a TLS handshake, that is not followed by a stream within this time has failed [s].
HANDSHAKE_GRACE = 1.5
# How often the listener looks at who connects while it waits for its peer [s].
LOOK_INTERVAL = 0.5
# A dialer that does not reconnect within this time is considered dead [s], unless its machine had stopped acknowledging
# before the break: then the network is to blame, and the listener waits for the whole window.
DEAD_AFTER = 5.0
# How often the listener checks whether the machine of a silent peer still acknowledges [s].
WATCH_INTERVAL = 5.0
# How many different strangers are logged at most.
MAX_STRANGERS = 16

_ADVICE = (
    "Check that {peer} has started psicli, as {peer}, and that the address in its job file leads here. If both sides "
    "listen and neither connects, compare cluster.nodes in both job files: the first party listens."
)

_MAX_STREAMS = 8
_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", _MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", 20_000),
]

# A reachable machine acknowledges data within this time, even if its processes are stopped [ms].
_ACKNOWLEDGED_WITHIN = 10_000
# After this many unanswered probes of a closed window, the machine is unreachable.
_LOST_PROBES = 3
# Fields of Linux's tcp_info: unanswered probes, segments not acknowledged, time since the last acknowledgement [ms].
_TCP_INFO = struct.Struct("=3xB20xI28xI")


class _Outsiders:
    """Connections that were not admitted: failed TLS handshakes, other programs, and strangers."""

    def __init__(self, port: int) -> None:
        # Handshakes that began since the last one that led to a stream; the time of the latest [s, monotonic].
        self.handshakes = 0
        # What was logged about strangers and other programs.
        self.strangers: list[str] = []
        self._handshake_at = 0.0
        self._port = port
        # The connections to ignore: those that led to a stream, and at first those of earlier runs.
        self._known = remote_ends(port)
        # When each of the others was first seen [s, monotonic].
        self._seen: dict[End, float] = {}

    def note_handshake(self) -> None:
        self.handshakes += 1
        self._handshake_at = time.monotonic()

    def note_stream(self, end: End | None) -> None:
        self.handshakes = 0
        if end is not None:
            self._known.add(end)

    def machines(self) -> list[str]:
        """Return the addresses of machines whose connections should have led to a stream by now, but have not."""
        now = time.monotonic()
        self._seen = {end: self._seen.get(end, now) for end in remote_ends(self._port)}
        late = {end for end, since in self._seen.items() if now - since >= HANDSHAKE_GRACE}
        return sorted({host for host, _ in late - self._known})

    def note_stranger(self, words: str) -> None:
        """Log a connection that was refused, once."""
        if words not in self.strangers and len(self.strangers) < MAX_STRANGERS:
            self.strangers.append(words)
            logger.warning("%s", words)

    @property
    def handshake_ago(self) -> float:
        """Time since the last handshake began [s]."""
        return time.monotonic() - self._handshake_at

    @property
    def fail_in_tls(self) -> bool:
        return self.handshakes > 0 and self.handshake_ago >= HANDSHAKE_GRACE


class Listener:
    """The end that accepts the connection; it binds the port when it is constructed.

    With purpose CHECK it answers any Hello, and no connection takes the session. Raises PortBusyError if it cannot bind
    the port; the lock of the port reports other reasons before that.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Condition()
        self._make_hello: Callable[[], bytes] | None = None
        # The link that took the session.
        self._session_link: Link | None = None
        # The class of our failure if this party has failed; the class of the peer's failure if the peer sent it.
        self._refusal: int | None = None
        self._peer_failure: int | None = None
        # Whether either party's failure was sent, or a check was answered.
        self._reported = False
        self._outsiders = _Outsiders(endpoint.port)
        self._links: set[Link] = set()
        self._threads = ThreadPoolExecutor(2 * _MAX_STREAMS, "psicli-link")
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server = grpc.server(
            self._threads,
            handlers=[grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MAX_STREAMS,
        )
        self._bind()

    def _bind(self) -> None:
        own, where = self.endpoint.credentials, self.endpoint.where
        try:
            if own is None:
                bound = self._server.add_insecure_port(where)
            else:
                own_pair = (own.private_key, own.certificate)
                configuration = grpc.ssl_server_certificate_configuration([own_pair], own.ca)
                secured = grpc.dynamic_ssl_server_credentials(configuration, self._note_handshake, True)
                bound = self._server.add_secure_port(where, secured)
        except RuntimeError as exc:
            raise errors.PortBusyError(where=where) from exc
        if bound != self.endpoint.port:
            raise errors.PortBusyError(where=where)
        failpoints.hit("port.bound")

    def _note_handshake(self) -> None:
        """Count a handshake that begins: gRPC asks here for a newer certificate, but does not report failures."""
        with self._lock:
            self._outsiders.note_handshake()

    # The session's side

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Wait for the peer's Hello and return the link once both Hellos are exchanged.

        Raises PeerAbsentError if none arrives within timeout [s], or HandshakesFailedError if TLS handshakes failed.
        """
        with self._lock:
            self._make_hello = make_hello
        deadline = time.monotonic() + timeout
        self._server.start()
        ticker, warned = Ticker(), False
        while not signals.wait_for(
            self._lock, lambda: self._session_link or self._peer_failure, min(LOOK_INTERVAL, left(deadline))
        ):
            if time.monotonic() >= deadline:
                raise self._absence(timeout)
            machines = self._outsiders.machines()
            if self.endpoint.credentials is None:
                self._name_other_programs(machines)
            elif self._outsiders.fail_in_tls and not warned:
                warned = True
                ticker.hasten()
            ticker.tick(self._log_waiting, deadline)
        if self._session_link is not None:
            return self._session_link
        assert self._peer_failure is not None
        if self.endpoint.credentials is None and self._peer_failure == TLS_FAILED:
            raise peer_errors.PeerSpeaksTlsError(who=self.endpoint.peer)
        raise failure_of_peer(self._peer_failure)

    def _absence(self, timeout: float) -> peer_errors.PeerAbsentError:
        outsiders, peer, place = self._outsiders, self.endpoint.peer, self.endpoint.place
        if outsiders.handshakes > 0 and self.endpoint.credentials is not None:
            facts = {"connections": self._failed(), "ago": outsiders.handshake_ago}
            return peer_errors.HandshakesFailedError(seconds=timeout, trust=self.endpoint.credentials.trust, **facts)
        nobody = f"nobody connected to {place} as {peer}"
        reason = [nobody, *outsiders.strangers][-1]
        return peer_errors.PeerAbsentError(seconds=timeout, reason=reason, advice=_ADVICE.format(peer=peer))

    def _failed(self) -> str:
        """Return how many connections ended in the TLS handshake, and from where if that is known."""
        machines = self._outsiders.machines()
        source = f" from {', '.join(machines[:3])}" if machines else ""
        return f"{errors.counted(self._outsiders.handshakes, 'connection')}{source} to {self.endpoint.place}"

    def _name_other_programs(self, machines: list[str]) -> None:
        for machine in machines:
            words = f"a program on {machine} has connected to {self.endpoint.place}, but it is not psicli"
            self._outsiders.note_stranger(words)

    def _log_waiting(self, deadline: float) -> None:
        peer, until = self.endpoint.peer, moment(deadline)
        if self._outsiders.fail_in_tls and self.endpoint.credentials is not None:
            line = "still waiting for %s until %s: %s ended in the TLS handshake. %s"
            logger.warning(line, peer, until, self._failed(), self.endpoint.credentials.trust)
        else:
            line = "still waiting for %s to connect to %s until %s. %s"
            logger.info(line, peer, self.endpoint.place, until, _ADVICE.format(peer=peer))

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this party has failed, if it connects within timeout [s]."""
        with self._lock:
            self._refusal = failure_class
        self._server.start()
        signals.wait_for(self._lock, lambda: self._reported, timeout)

    def close(self) -> None:
        """End every stream and free the port."""
        self._server.stop(LAST_WORDS_TIMEOUT if self._reported else 0).wait(2 * LAST_WORDS_TIMEOUT)
        for link in [*self._links, *([self._session_link] if self._session_link else [])]:
            link.close_outgoing()
            link.end()
        self._threads.shutdown(wait=False)

    # Who connects

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Handle one stream; the text of an exception must never reach the other end."""
        link = Link()
        stream = link.stream
        assert stream is not None
        self._links.add(link)
        try:
            stream.remote, stream.served = context.peer(), True
            if not context.add_callback(stream.was_served):
                stream.was_served()
            with self._lock:
                self._outsiders.note_stream(_end_of(stream.remote))
            link.peer_certificate = self._certificate_of_peer(context)
            threading.Thread(target=pump, args=(stream, requests), name="psicli-pump", daemon=True).start()
            self._admit(link, link.first(HELLO_TIMEOUT))
            yield from outgoing(stream)
            if stream.link is self._session_link:
                # Only the peer's own last message proves that ours has arrived.
                stream.link.await_end(stream)
        except peer_errors.StrangerError as exc:
            with self._lock:
                self._outsiders.note_stranger(exc.message)
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        except PsicliError as exc:
            # This was not our peer, and anybody may connect: the listener drops the connection and keeps waiting.
            logger.debug("dropped a connection: %s", exc)
        except Exception:
            logger.exception("dropped a connection after an unexpected failure")
            context.set_code(grpc.StatusCode.INTERNAL)
        finally:
            self._links.discard(link)

    def _certificate_of_peer(self, context: Any) -> x509.Certificate | None:
        """Return the certificate of the other end; raises StrangerError if it is not our peer's."""
        if self.endpoint.credentials is None:
            return None
        try:
            certificate = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        except ValueError as exc:
            raise peer_errors.StrangerError(fault="psicli cannot read", advice=USABLE_KEYS) from exc
        self.endpoint.credentials.accept(certificate)
        return certificate

    def _admit(self, link: Link, first: Message | None) -> None:
        """Answer the first message of a stream: the first Hello with purpose RUN takes the session."""
        with self._lock:
            if isinstance(first, HelloOctets):
                self._answer(link, first.octets)
            elif isinstance(first, Abort) and self._session_link is None:
                self._peer_failure = first.failure_class
                self._reported = True
                link.close_outgoing()
            elif isinstance(first, Reconnect):
                self._readmit(link, first)
            else:
                raise peer_errors.PeerProtocolError(detail="it did not start a connection with a Hello")
            self._lock.notify_all()

    def _answer(self, link: Link, octets: bytes) -> None:
        purpose = decode_hello(octets).purpose
        if self._refusal is not None:
            self._reject(link, self._refusal)
            # A dialer that only checks is not the peer's run: the run must still hear of the failure.
            self._reported |= purpose is Purpose.RUN
        elif self.endpoint.purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            link.close_outgoing()
            self._session_link = self._session_link or link
            self._reported = True
        elif purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            if self._session_link is not None:
                link.send(Abort(BUSY))
            link.close_outgoing()
        elif self._session_link is not None:
            self._reject(link, BUSY)
        else:
            self._say_hello(link, octets)
            self._session_link = link
            if self.endpoint.reconnect_window:
                link.allow_reconnect(session_id(link.own_hello, octets))
                threading.Thread(
                    target=self._keep_connected, args=(link,), name="psicli-reconnect", daemon=True
                ).start()

    def _say_hello(self, link: Link, octets: bytes) -> None:
        assert self._make_hello is not None
        link.own_hello, link.peer_hello = self._make_hello(), octets
        link.send(HelloOctets(link.own_hello))

    def _reject(self, link: Link, failure_class: int) -> None:
        link.send(Abort(failure_class))
        link.close_outgoing()

    # Reconnecting

    def _readmit(self, link: Link, first: Reconnect) -> None:
        """Move our session to a new stream if the peer asks for this session; refuse any other one.

        This also replaces a stream that looks intact: the peer would not reconnect if its own end were.
        """
        if self._session_link is not None and self._session_link.is_of(first.sid):
            failpoints.hit("reconnect.answered")
            self._session_link.take_over(link, first)
        else:
            self._reject(link, peer_errors.PeerLostError.code)

    def _keep_connected(self, link: Link) -> None:
        """Wait for the peer to reconnect whenever the stream breaks, until the link ends.

        While a peer is silent, record whether its machine still acknowledges: after the break it is too late to tell.
        """
        try:
            while not link.ended:
                if (lost := link.await_break(WATCH_INTERVAL)) is not None:
                    self._await_again(link, lost)
                elif (stream := link.stream) is not None and link.long_silent:
                    stream.unanswered = is_unanswered(stream.remote)
        except Exception as exc:
            link.fail(exc)

    def _await_again(self, link: Link, lost: Stream) -> None:
        """Wait for the peer to reconnect, or end the link if it does not."""
        peer, window, why = self.endpoint.peer, self.endpoint.reconnect_window, lost.why_it_ended
        patience = window if lost.unanswered else min(DEAD_AFTER, window)
        began, ticker = time.monotonic(), Ticker()
        logger.warning("the connection from %s broke (%s); waiting up to %.0f s for a new one", peer, why, patience)
        while not link.await_stream(min(ticker.left, left(began + patience))):
            gone = time.monotonic() - began
            if gone >= patience:
                absent = peer_errors.PeerGoneError(reason=f"{why}, and it did not reconnect within {patience:.0f} s")
                link.end(peer_errors.LinkBrokenError(cause=why, seconds=patience) if lost.unanswered else absent)
                return
            line = "still waiting for %s to reconnect: %.0f s of %.0f s have passed"
            ticker.tick(logger.info, line, peer, gone, patience)
        if not link.ended:
            logger.info("%s is back after %.1f s", peer, time.monotonic() - began)


# Connections and the machines at their other ends ----------------------------------------------------------------

# The address and the port of the remote end of a connection.
End: TypeAlias = tuple[str, int]
_LISTENS = "0A"


def remote_ends(port: int) -> set[End]:
    """Return the remote ends of the connections to a local port, also of those that this machine closed just now.

    gRPC does not report connections that it drops.
    """
    found, local = set(), f":{port:04X}"
    for table in ("tcp", "tcp6"):
        # A system without this table only says less about who connects.
        with suppress(OSError, ValueError):
            lines = Path("/proc/self/net", table).read_text().splitlines()
            # The table may hold very many connections of other programs, so look for the port before splitting.
            for _, own, remote, state, *_ in (line.split() for line in lines if local in line):
                if own.endswith(local) and state != _LISTENS:
                    host, _, remote_port = remote.partition(":")
                    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
                    packed = struct.pack(f"={len(words)}I", *words)
                    found.add((_plain(str(ipaddress.ip_address(packed))), int(remote_port, 16)))
    return found


def is_unanswered(remote: str) -> bool:
    """Return whether the machine of a remote end no longer acknowledges what this process sends; False if unknown.

    remote: gRPC's notation, percent-encoded: ipv4:ADDRESS:PORT or ipv6:[ADDRESS]:PORT. This tells a broken network from
    a stopped process: a stopped process does not read, but its machine still acknowledges.
    """
    found = _end_of(remote)
    # A failed look-up is no reason to end a session.
    with suppress(OSError, ValueError):
        for number in os.listdir("/proc/self/fd") if found else ():
            if found and (lost := _is_lost(int(number), found)) is not None:
                return lost
    return False


def _end_of(remote: str) -> End | None:
    kind, _, where = unquote(remote).partition(":")
    host, _, port = where.rpartition(":")
    with suppress(ValueError):
        return (_plain(host.strip("[]")), int(port)) if kind in ("ipv4", "ipv6") else None
    return None


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_lost(number: int, remote: End) -> bool | None:
    """Return whether the connection of a file descriptor is lost; None if it is not a connection to this end."""
    # The descriptor belongs to gRPC, which may close it at any time.
    with suppress(OSError, AttributeError):
        copy = os.dup(number)
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            return None
        with socket.socket(fileno=copy) as found:
            return _has_lost(found, remote)
    return None


def _has_lost(found: socket.socket, remote: End) -> bool | None:
    name = found.getpeername()
    if not isinstance(name, tuple) or (_plain(name[0]), name[1]) != remote:
        return None
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    probes, unacknowledged, silence = _TCP_INFO.unpack(info)
    return bool(probes >= _LOST_PROBES or (unacknowledged and silence >= _ACKNOWLEDGED_WITHIN))
