"""What the listener and the dialer share: the description of the endpoint, and moving octets over one gRPC stream.

The listener's handler and the dialer's request iterator only move octets between the stream and the queues of its link;
everything else is the same code on both ends.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import grpc

from psicli.config.fields import is_loopback
from psicli.core import failpoints, peer_errors, trace
from psicli.core.errors import PsicliError, shown
from psicli.core.records import dataclass
from psicli.protocol.messages import Purpose
from psicli.protocol.wire import MAX_MESSAGE_BYTES
from psicli.transport import preflight
from psicli.transport.link import Stream

if TYPE_CHECKING:
    from psicli.transport.tls import TlsCredentials

logger = logging.getLogger(__name__)

SERVICE = "psicli.v1.Session"
METHOD = "Run"
# The failure class with which a dialer tells a plain-text listener that it speaks TLS.
TLS_FAILED = peer_errors.IdentityError.code
# The interval between log lines while a party waits [s].
WAITING_LINE_INTERVAL = 60.0

# Keepalive pings detect a dead connection within 80 s and survive a network outage of 45 s. `keepalive_timeout` alone
# does not close dead connections, hence ping_timeout. The server's min_ping_interval must be below the client's ping
# period.
COMMON_OPTIONS = [
    # Twice our limit, so that a slightly too long message arrives and we can refuse it with a reason: gRPC does not
    # tell a server why it ended a stream.
    ("grpc.max_receive_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # No compression: points do not compress, and a small message could expand to a huge one.
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
    "timed out",
    "hostname verification check failed",
)
_TLS_WORDS = ("ssl", "certificate", "verification")
# gRPC's words for an answer that only a web server or a proxy gives, with its status.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d{3})")
# A proxy answers with one of these while psicli behind it does not run.
_FOR_NOW = {"429", "502", "503", "504"}


@dataclass(frozen=True)
class Endpoint:
    """The address where the two parties meet, the expected peer, and our credentials.

    purpose: with CHECK, no connection takes the session. reconnect_window: how long to wait for a new connection after
    one broke [s]; 0 means not at all.
    """

    host: str
    port: int
    peer: str
    credentials: TlsCredentials | None = None
    purpose: Purpose = Purpose.RUN
    reconnect_window: float = 0.0

    @property
    def where(self) -> str:
        return preflight.written_address(self.host, self.port)

    @property
    def place(self) -> str:
        """Where a listener listens, for a message: 0.0.0.0 is no place that anybody could dial."""
        return f"port {self.port}" if ip_address(self.host).is_unspecified else self.where

    @property
    def is_own_users(self) -> bool:
        """Whether only this user's processes may be at the two ends: within a machine, nothing else replaces TLS."""
        return self.credentials is None and is_loopback(self.host)


class Ticker:
    """Limits the log lines of a long wait to one per interval; first: when the first is due, if not then [s]."""

    def __init__(self, first: float | None = None) -> None:
        self._due = time.monotonic() + (WAITING_LINE_INTERVAL if first is None else first)

    @property
    def left(self) -> float:
        """Time until the next line [s]."""
        return left(self._due)

    def hasten(self) -> None:
        """Make the next tick write its line."""
        self._due = time.monotonic()

    def tick(self, write: Callable[..., None], *line: object) -> None:
        """Write the line if it is due."""
        if time.monotonic() >= self._due:
            write(*line)
            self._due += WAITING_LINE_INTERVAL


def left(deadline: float) -> float:
    """Return the time until a deadline [s], or 0 if it has passed."""
    return max(0.0, deadline - time.monotonic())


def moment(deadline: float) -> str:
    """Return the time of day of a deadline, for a message."""
    return f"{datetime.now(UTC) + timedelta(seconds=left(deadline)):%H:%M:%S} UTC"


def outgoing(stream: Stream) -> Iterator[bytes]:
    """Yield the octets to send over a stream, until the link ends or another stream replaces this one."""
    try:
        while (octets := stream.link.next_octets(stream)) is not None:
            # gRPC asks for the next message once it has sent this one, so the span covers the sending.
            with trace.span("send"):
                yield octets
            failpoints.hit("link.sent")
    except Exception as exc:
        # gRPC would report this as a broken connection.
        stream.link.fail(exc)


def pump(stream: Stream, incoming: Iterable[bytes]) -> None:
    """Pass everything that arrives over a stream to its link, until the stream ends."""
    failure: PsicliError | None = None
    try:
        for octets in incoming:
            stream.link.receive(octets, stream)
    except grpc.RpcError as exc:
        failure = _translated(exc, secure=stream.link.peer_certificate is not None)
    except PsicliError as exc:
        failure = exc
    except Exception as exc:
        stream.link.fail(exc)
    stream.end(failure)


def _translated(exc: grpc.RpcError, *, secure: bool) -> PsicliError:
    if not isinstance(exc, grpc.Call):
        # The server's request iterator raises the bare class when the stream breaks.
        return peer_errors.PeerGoneError(reason=_BROKEN)
    code, details = exc.code(), exc.details() or ""
    if secure and code is grpc.StatusCode.UNAVAILABLE and any(word in details.lower() for word in _TLS_WORDS):
        return peer_errors.TlsHandshakeError(reason=_plain_reason(details))
    if found := _HTTP_STATUS.search(details):
        if found[1] in _FOR_NOW:
            return peer_errors.PeerGoneError(reason=f"a proxy answers there, with HTTP status {found[1]}")
        return peer_errors.NotPsicliError(where="its address", program=f"a web server, with HTTP status {found[1]}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return peer_errors.NotPsicliError(where="its address", program="a gRPC server that does not know psicli")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return peer_errors.PeerRefusedError()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return peer_errors.PeerProtocolError(detail=f"it sent a message of more than {MAX_MESSAGE_BYTES:,} bytes")
    if "Compression algorithm" in details:
        return peer_errors.PeerProtocolError(detail="it compresses its messages")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Unknown connections use up its limit; a peer that is merely busy would have answered with Abort.
        return peer_errors.PeerGoneError(reason="it has too many connections")
    return peer_errors.PeerGoneError(reason=_plain_reason(details))


def _plain_reason(details: str) -> str:
    """Return a short known reason for the text of gRPC's C core, which is for programmers and goes to the details."""
    logger.debug("gRPC says: %s", shown(details))
    return next((words for words in _KNOWN_REASONS if words in details.lower()), _BROKEN)
