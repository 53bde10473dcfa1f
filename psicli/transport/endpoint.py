"""What the listener and the dialer share: whom they meet where, and how octets move over one gRPC stream.

The listener's handler and the dialer's request iterator only move octets between the stream and the queues of its link;
all else is the same code on both ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import grpc

from psicli.core import errors, failpoints, trace
from psicli.core.errors import PsicliError, shown
from psicli.protocol.messages import Purpose
from psicli.protocol.wire import MAX_MESSAGE_BYTES
from psicli.transport import tls
from psicli.transport.link import Stream
from psicli.transport.tls import TlsCredentials

SERVICE = "psicli.v1.Session"
METHOD = "Run"
# The class of a failure by which a dialer says in plain text that it speaks TLS.
TLS_FAILED = errors.IdentityError.code
# How often a side that waits says so [s].
WAITING_LINE_INTERVAL = 60.0

# Keepalive pings find a dead link within 80 s and survive a network that is gone for 45 s. `keepalive_timeout` alone
# does not close dead links, hence ping_timeout. The server's min_ping_interval must be below the client's ping period.
COMMON_OPTIONS = [
    # What is only somewhat too long arrives, and is found to be so: to a server gRPC does not say why it ended a
    # stream.
    ("grpc.max_receive_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Points do not get shorter, and a little that is sent could unfold to much.
    ("grpc.compression_enabled_algorithms_bitset", 1),
]

REFUSED = "connection refused"
_BROKEN = "the connection broke"
_KNOWN_REASONS = (
    REFUSED,
    "connection reset",
    "socket closed",
    "ping timeout",
    "no route to host",
    "network is unreachable",
    tls.TIMED_OUT,
    "hostname verification check failed",
)
_TLS_WORDS = ("ssl", "certificate", "verification")


@dataclass(frozen=True)
class Endpoint:
    """Where the two meet, whom this side expects there, and what it shows.

    purpose: CHECK gives the session to nobody. reconnect_window: how long a broken connection is waited or tried for
    [s], 0 for not at all.
    """

    host: str
    port: int
    peer: str
    credentials: TlsCredentials | None = None
    purpose: Purpose = Purpose.RUN
    reconnect_window: float = 0.0

    @property
    def where(self) -> str:
        return tls.written_address(self.host, self.port)


class Ticker:
    """Writes a line now and then while something is waited for."""

    def __init__(self) -> None:
        self._due = time.monotonic() + WAITING_LINE_INTERVAL

    @property
    def left(self) -> float:
        """Time until the next line [s]."""
        return left(self._due)

    def hasten(self) -> None:
        """Have the next tick write a line."""
        self._due = time.monotonic()

    def tick(self, write: Callable[..., None], *line: object) -> None:
        """Write the line if it is time for one."""
        if time.monotonic() >= self._due:
            write(*line)
            self._due += WAITING_LINE_INTERVAL


def left(deadline: float) -> float:
    """Return the time until a deadline, 0 where it has passed [s]."""
    return max(0.0, deadline - time.monotonic())


def outgoing(stream: Stream) -> Iterator[bytes]:
    """Yield what is to be sent until the link is closed or goes on over another stream."""
    try:
        while (octets := stream.link.next_octets(stream)) is not None:
            # The stream asks for the next message when it has sent this one.
            with trace.span("send"):
                yield octets
            failpoints.passage("link.sent")
    except Exception as exc:
        # gRPC would make a broken connection of it.
        stream.link.fail(exc)


def pump(stream: Stream, incoming: Iterable[bytes]) -> None:
    """Move what arrives into the link until the stream ends, for whatever reason."""
    failure: PsicliError | None = None
    try:
        for octets in incoming:
            stream.link.take_in(octets, stream)
    except grpc.RpcError as exc:
        failure = _translated(exc, secure=stream.link.peer_certificate is not None)
    except Exception as exc:
        stream.link.fail(exc)
    stream.end(failure)


def _translated(exc: grpc.RpcError, *, secure: bool) -> PsicliError:
    if not isinstance(exc, grpc.Call):
        # The server's request iterator raises the bare class when the stream breaks.
        return errors.PeerGoneError(reason=_BROKEN)
    code, details = exc.code(), exc.details() or ""
    if secure and code is grpc.StatusCode.UNAVAILABLE and any(word in details.lower() for word in _TLS_WORDS):
        return errors.TlsHandshakeError(reason=_plain_reason(details))
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return errors.PeerRefusedError()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.PeerProtocolError(detail=f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    if "Compression algorithm" in details:
        return errors.PeerProtocolError(detail="it compresses its messages")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Junk holds its connections; the session itself would have said that it is taken.
        return errors.PeerGoneError(reason="it has too many connections")
    return errors.PeerGoneError(reason=_plain_reason(details))


def _plain_reason(details: str) -> str:
    """Boil the C core's text down to the system's own words."""
    known = next((words for words in _KNOWN_REASONS if words in details.lower()), None)
    return known or (shown(details) if details else _BROKEN)
