"""The end that accepts connections: one of them gets the session, and may come again when it breaks."""

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
from typing import Any
from urllib.parse import unquote

import grpc
from cryptography import x509

from psicli.core import errors, failpoints, signals
from psicli.core.errors import PsicliError, failure_of_peer
from psicli.protocol.messages import Abort, HelloOctets, Message, Purpose, Reconnect, session_id
from psicli.protocol.wire import decode_hello
from psicli.transport import tls
from psicli.transport.endpoint import (
    COMMON_OPTIONS,
    METHOD,
    SERVICE,
    TLS_FAILED,
    Endpoint,
    Ticker,
    left,
    outgoing,
    pump,
)
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, Link, Stream

logger = logging.getLogger(__name__)

# A connection that says no Hello for so long is let go [s].
HELLO_TIMEOUT = 20.0
# A TLS handshake that is not followed by a stream within this time has failed [s].
HANDSHAKE_GRACE = 3.0
# A dialer whose connection broke is taken for dead when no new one comes within this time, unless our last words found
# nobody: then it is the network, and worth a longer wait [s].
DEAD_AFTER = 5.0
# How often it is watched whether the machine of a silent peer still answers [s].
WATCH_INTERVAL = 5.0
# How many different strangers get a line of their own in the log.
MAX_STRANGERS = 16

_MAX_STREAMS = 8
_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", _MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", 20_000),
]

# A machine that is there acknowledges what it gets within this time, whatever its processes do [ms].
_ACKNOWLEDGED_WITHIN = 10_000
# So many probes of a closed window in a row get no answer where nobody is.
_LOST_PROBES = 3
# Of Linux's tcp_info: the probes under way, the segments not acknowledged, and the time since an acknowledgement [ms].
_TCP_INFO = struct.Struct("=3xB20xI28xI")


class _Outsiders:
    """Who connected and did not get in: TLS handshakes that came to nothing, and strangers."""

    def __init__(self) -> None:
        # Handshakes that began since a stream came of one, and when the last of them did [s, monotonic].
        self.handshakes = 0
        self.strangers: list[str] = []
        self._handshake_at = 0.0

    def note_handshake(self) -> None:
        self.handshakes += 1
        self._handshake_at = time.monotonic()

    def note_stream(self) -> None:
        self.handshakes = 0

    def note_stranger(self, words: str) -> None:
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
    """The end that accepts the connection; owns the port from construction on.

    With purpose CHECK it meets whoever says Hello, and gives the session to nobody. Raises PortBusyError when it cannot
    be bound: why it might not be is found out before, by the port's lock.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Condition()
        self._make_hello: Callable[[], bytes] | None = None
        # The link that got the session.
        self._session_link: Link | None = None
        # The class of our failure, where this side has failed; and the peer's, where it has told it.
        self._refusal: int | None = None
        self._peer_failure: int | None = None
        # Whether nothing is left to be told: the failure of either side was, or a check was answered.
        self._told = False
        self._outsiders = _Outsiders()
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
        failpoints.passage("port.bound")

    def _note_handshake(self) -> None:
        """Count a handshake that begins: gRPC asks here for a newer certificate, and tells nothing of its failure."""
        with self._lock:
            self._outsiders.note_handshake()

    # The session's side

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Wait for the peer's Hello and return the link with both Hellos exchanged.

        Raises PeerAbsentError when it does not come within timeout [s], HandshakesFailedError when TLS is the reason.
        """
        with self._lock:
            self._make_hello = make_hello
        deadline = time.monotonic() + timeout
        self._server.start()
        ticker, warned = Ticker(), False
        while not signals.wait_for(
            self._lock, lambda: self._session_link or self._peer_failure, min(HANDSHAKE_GRACE, left(deadline))
        ):
            if time.monotonic() >= deadline:
                raise self._absence(timeout)
            if self._outsiders.fail_in_tls and not warned:
                warned = True
                ticker.hasten()
            ticker.tick(self._say_what_for)
        if self._session_link is not None:
            return self._session_link
        assert self._peer_failure is not None
        if self.endpoint.credentials is None and self._peer_failure == TLS_FAILED:
            raise errors.PeerSpeaksTlsError(who=self.endpoint.peer, does="listens in")
        raise failure_of_peer(self._peer_failure)

    def _absence(self, timeout: float) -> errors.PeerAbsentError:
        outsiders, where = self._outsiders, self.endpoint.where
        if outsiders.handshakes > 0:
            ago = outsiders.handshake_ago
            return errors.HandshakesFailedError(seconds=timeout, count=outsiders.handshakes, where=where, ago=ago)
        nobody = f"nobody connected to {where} as {self.endpoint.peer}"
        return errors.PeerAbsentError(seconds=timeout, reason=[nobody, *outsiders.strangers][-1])

    def _say_what_for(self) -> None:
        peer, where = self.endpoint.peer, self.endpoint.where
        if self._outsiders.fail_in_tls:
            logger.warning(
                "still waiting for %s: %d connections to %s ended in the TLS handshake; the dialer's log says why, "
                "else look here at ca_file, the own certificate and the clock",
                peer,
                self._outsiders.handshakes,
                where,
            )
        else:
            logger.info("still waiting for %s to connect to %s", peer, where)

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this side has failed, if it comes within timeout [s]."""
        with self._lock:
            self._refusal = failure_class
        self._server.start()
        signals.wait_for(self._lock, lambda: self._told, timeout)

    def close(self) -> None:
        """Free the port; ends every stream."""
        self._server.stop(LAST_WORDS_TIMEOUT if self._told else 0).wait(2 * LAST_WORDS_TIMEOUT)
        for link in [*self._links, *([self._session_link] if self._session_link else [])]:
            link.close_outgoing()
            link.end()
        self._threads.shutdown(wait=False)

    # Who connects

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Handle one stream; no exception text may reach whoever is at its other end."""
        link = Link()
        stream = link.stream
        assert stream is not None
        self._links.add(link)
        try:
            stream.remote, stream.served = context.peer(), True
            if not context.add_callback(stream.was_served):
                stream.was_served()
            with self._lock:
                self._outsiders.note_stream()
            link.peer_certificate = self._certificate_of_peer(context)
            threading.Thread(target=pump, args=(stream, requests), name="psicli-pump", daemon=True).start()
            self._admit(link, link.first(HELLO_TIMEOUT))
            yield from outgoing(stream)
            if stream.link is self._session_link:
                # Whether the last words have arrived is known when the peer has said its own.
                stream.link.await_end(stream)
        except errors.StrangerError as exc:
            with self._lock:
                self._outsiders.note_stranger(exc.message)
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        except PsicliError as exc:
            # Whatever this was, it is not our peer: junk is forgotten.
            logger.debug("a connection was dropped: %s", exc)
        except Exception:
            logger.exception("a connection was dropped")
            context.set_code(grpc.StatusCode.INTERNAL)
        finally:
            self._links.discard(link)

    def _certificate_of_peer(self, context: Any) -> x509.Certificate | None:
        """Return the certificate of whoever is at the other end; raises StrangerError if it does not name our peer."""
        if self.endpoint.credentials is None:
            return None
        name = self.endpoint.credentials.peer_name
        try:
            certificate = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        except ValueError as exc:
            raise errors.StrangerError(names="nobody, as far as it can be read", name=name) from exc
        if not tls.names_party(certificate, name):
            raise errors.StrangerError(names=tls.shown_names(certificate), name=name)
        return certificate

    def _admit(self, link: Link, first: Message | None) -> None:
        """Answer the first message: the first Hello that wants to run takes the session."""
        with self._lock:
            if isinstance(first, HelloOctets):
                self._answer(link, first.octets)
            elif isinstance(first, Abort) and self._session_link is None:
                self._peer_failure = first.failure_class
                self._told = True
                link.close_outgoing()
            elif isinstance(first, Reconnect):
                self._readmit(link, first)
            else:
                raise errors.PeerProtocolError(detail="a connection did not start with a Hello")
            self._lock.notify_all()

    def _answer(self, link: Link, octets: bytes) -> None:
        purpose = decode_hello(octets).purpose
        if self._refusal is not None:
            self._turn_away(link, self._refusal)
            # Whoever only checks may tell nobody who runs.
            self._told |= purpose is Purpose.RUN
        elif self.endpoint.purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            link.close_outgoing()
            self._session_link = self._session_link or link
            self._told = True
        elif purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            if self._session_link is not None:
                link.send(Abort(BUSY))
            link.close_outgoing()
        elif self._session_link is not None:
            self._turn_away(link, BUSY)
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

    def _turn_away(self, link: Link, failure_class: int) -> None:
        link.send(Abort(failure_class))
        link.close_outgoing()

    # Reconnecting

    def _readmit(self, link: Link, first: Reconnect) -> None:
        """Let the session go on over a new stream, if it is the one that goes on here.

        Also where the stream there is looks whole: the peer would not ask if it still had its end of it.
        """
        if self._session_link is not None and self._session_link.is_of(first.sid):
            failpoints.passage("reconnect.answered")
            self._session_link.take_over(link, first)
        else:
            self._turn_away(link, errors.PeerLostError.code)

    def _keep_connected(self, link: Link) -> None:
        """Wait for the peer to come back, whenever the stream breaks, until the link ends.

        Meanwhile note of a silent peer whether its machine still answers: of a connection that is gone nobody can tell.
        """
        try:
            while not link.ended:
                if (lost := link.await_break(WATCH_INTERVAL)) is not None:
                    self._await_again(link, lost)
                elif (stream := link.stream) is not None and link.long_unheard:
                    stream.unanswered = is_unanswered(stream.remote)
        except Exception as exc:
            link.fail(exc)

    def _await_again(self, link: Link, lost: Stream) -> None:
        """Wait for the peer to come back after its connection broke; end the link if it does not."""
        peer, window, why = self.endpoint.peer, self.endpoint.reconnect_window, lost.why_it_ended
        patience = window if lost.unanswered else min(DEAD_AFTER, window)
        began, ticker = time.monotonic(), Ticker()
        logger.warning("the connection of %s broke (%s); waiting %.0f s for a new one", peer, why, patience)
        while not link.await_stream(min(ticker.left, left(began + patience))):
            gone = time.monotonic() - began
            if gone >= patience:
                absent = errors.PeerGoneError(reason=f"{why}, and no new connection came within {patience:.0f} s")
                link.end(errors.LinkBrokenError(cause=why, seconds=patience) if lost.unanswered else absent)
                return
            line = "still waiting for %s to connect again, for %.0f s of %.0f s"
            ticker.tick(logger.info, line, peer, gone, patience)
        if not link.ended:
            logger.info("%s is back after %.1f s", peer, time.monotonic() - began)


# The machine of a silent peer ------------------------------------------------------------------------------------


def is_unanswered(remote: str) -> bool:
    """Return whether what this process sent to a remote end is known to have found nobody.

    remote: as gRPC writes it, percent-encoded: ipv4:ADDRESS:PORT or ipv6:[ADDRESS]:PORT. A process that is stopped
    does not read, but its machine goes on to acknowledge. False where that cannot be known.
    """
    kind, _, where = unquote(remote).partition(":")
    host, _, port = where.rpartition(":")
    if kind not in ("ipv4", "ipv6"):
        return False
    # What cannot be found out is no reason to end a session.
    with suppress(OSError, ValueError):
        found = _plain(host.strip("[]")), int(port)
        for number in os.listdir("/proc/self/fd"):
            if (lost := _is_lost(int(number), found)) is not None:
                return lost
    return False


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_lost(number: int, remote: tuple[str, int]) -> bool | None:
    """Return whether the other end of an open connection is lost; None where it is another one."""
    # The descriptor belongs to gRPC, which may close it at any time.
    with suppress(OSError, AttributeError):
        copy = os.dup(number)
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            return None
        with socket.socket(fileno=copy) as found:
            return _has_lost(found, remote)
    return None


def _has_lost(found: socket.socket, remote: tuple[str, int]) -> bool | None:
    name = found.getpeername()
    if not isinstance(name, tuple) or (_plain(name[0]), name[1]) != remote:
        return None
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    probes, unacknowledged, silence = _TCP_INFO.unpack(info)
    return bool(probes >= _LOST_PROBES or (unacknowledged and silence >= _ACKNOWLEDGED_WITHIN))
