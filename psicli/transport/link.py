"""One gRPC stream between the two parties: the only user of grpc.

The listener's handler and the dialer's request iterator only move bytes between the stream and two bounded queues
(Link); all else is the same code on both ends. How long to wait for what is decided by the caller.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

# The C core writes to stderr by itself and installs fork handlers; both before it is imported.
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from psicli.core import errors, failpoints, signals, trace
from psicli.core.errors import PsicliError, failure_of_peer, shown, unexpected
from psicli.protocol.messages import (
    Abort,
    Bye,
    Commit,
    Done,
    End,
    Frame,
    HelloOctets,
    Message,
    Purpose,
    Received,
    Reconnect,
    Taken,
    session_id,
)
from psicli.protocol.wire import MAX_MESSAGE_BYTES, decode, decode_hello, encode
from psicli.transport import sockets, tls
from psicli.transport.tls import TlsCredentials
from psicli.transport.window import WINDOW_BYTES, Outbox, cost

logger = logging.getLogger(__name__)

SERVICE = "psicli.v1.Session"
METHOD = "Run"
BUSY = 75
TLS_FAILED = errors.IdentityError.code

# Frames that wait to be sent: enough to ride out a busy moment of either side.
QUEUE_FRAMES = 8
# A connection that says no Hello for so long is let go [s].
HELLO_TIMEOUT = 20.0
# How long the listener's last words to somebody it turned away may take [s].
LAST_WORDS_TIMEOUT = 3.0
# How long the listener leaves the stream of its Abort open. A connection that is closed while the peer still writes to
# it takes what the peer has not read with it [s].
HEARING_TIMEOUT = 1.0
# How often a side that waits says so [s].
WAITING_LINE_INTERVAL = 60.0
# A dialer's first pause; each is twice as long as the one before, up to what the job file says [s]. Two sides that are
# started together must not lose a second to it.
FIRST_RETRY_INTERVAL = 0.05
# A TLS handshake that is not followed by a stream within this time has failed [s].
HANDSHAKE_GRACE = 3.0
# How long a listener in plain text may take to hear that the dialer speaks TLS [s].
PLAIN_WORDS_TIMEOUT = 2.0
# A listener whose connection broke takes the dialer for dead when no new one comes within this time, unless its last
# words found nobody: then it is the network, and worth a longer wait [s].
DEAD_AFTER = 5.0
# A peer not heard for so long may be stopped: from then on it is watched whether its machine still answers [s].
LONG_SILENCE = 30.0
WATCH_INTERVAL = 5.0
# Of one attempt to get a broken connection back: how long the peer's machine may take to accept it, and then the peer
# to answer; and the longest pause before the next. TCP alone would try ever less often [s].
REACH_TIMEOUT = 3.0
ANSWER_TIMEOUT = 5.0
LONGEST_PAUSE = 1.0
# How many different strangers get a line of their own in the log.
MAX_STRANGERS = 16

# What is only somewhat too long arrives, and is found to be so: to a server gRPC does not say why it ended a stream
# [bytes].
_MOST_TAKEN_IN = 2 * MAX_MESSAGE_BYTES
# Keepalive pings find a dead link within 80 s and survive cuts of 45 s. `keepalive_timeout` alone does not close
# dead links, hence ping_timeout. The server's min_ping_interval must be below the client's ping period.
_COMMON_OPTIONS = [
    ("grpc.max_receive_message_length", _MOST_TAKEN_IN),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Points do not get shorter, and a little that is sent could unfold to much.
    ("grpc.compression_enabled_algorithms_bitset", 1),
]
_SERVER_OPTIONS = [
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.server_handshake_timeout_ms", 20_000),
]
_CLIENT_OPTIONS = [
    *_COMMON_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_MAX_STREAMS = 8
NO_ANSWER = "no answer"
_ONLY_CHECKS = "it runs `psicli check` and not the job yet"
_TLS_WORDS = ("ssl", "certificate", "verification")
_REFUSED = "connection refused"
_KNOWN_REASONS = (
    _REFUSED,
    "connection reset",
    "socket closed",
    "ping timeout",
    "no route to host",
    "network is unreachable",
    sockets.TIMED_OUT,
    "hostname verification check failed",
)


class Stream:
    """One gRPC stream; the link whose messages it carries may have had others before, and may outlive it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        # Whether it has to begin with Reconnect, whether Bye was said on it, and whether it has ended.
        self.owes_reconnect = False
        self.said_bye = False
        self.over = False
        self.failure: PsicliError | None = None
        # To a listener: where its other end is, and whether gRPC still has something to send over it.
        self.remote = ""
        self.served = False

    def outgoing(self) -> Iterator[bytes]:
        """Yield what is to be sent until the link is closed or goes on over another stream."""
        try:
            while (octets := self.link.next_octets(self)) is not None:
                # The stream asks for the next message when it has sent this one.
                with trace.span("send"):
                    yield octets
                failpoints.passage("link.sent")
        except Exception as exc:
            # gRPC would make a broken connection of it.
            logger.exception("unexpected failure")
            self.link.end(unexpected(exc))

    def pump(self, incoming: Iterable[bytes]) -> None:
        """Move what arrives into the link until the stream ends, for whatever reason."""
        failure: PsicliError | None = None
        try:
            for octets in incoming:
                self.link.take_in(octets, self)
        except grpc.RpcError as exc:
            failure = _translated(exc, tls=self.link.tls)
        except Exception as exc:
            logger.exception("unexpected failure")
            failure = unexpected(exc)
            self.link.end(failure)
        self.end(failure)

    def was_served(self) -> None:
        """Take note that gRPC is through with it: the last word has been handed to the system, or never will be."""
        self.served = False
        self.end(errors.PeerGoneError(reason="the connection broke"))

    def end(self, failure: PsicliError | None) -> None:
        if not self.over:
            self.failure, self.over = failure, True
        self.link.stream_ended(self)


class Link:
    """Messages to and from the peer, in two bounded queues, over one stream at a time.

    own_hello, peer_hello: the Hellos of this session, the octets that travelled. When its stream breaks, a link that
    can be mended goes on over a new one: what was sent and has not arrived is sent again, and neither side's session
    takes notice.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.tls = tls
        self.own_hello = b""
        self.peer_hello = b""
        # Of the peer, where there is TLS.
        self.peer_certificate: x509.Certificate | None = None
        # The stream there is, and one that has been tried instead of it and was not answered yet.
        self.stream: Stream | None = Stream(self)
        self._trial: Stream | None = None
        self._sid = b""
        self._mend: Callable[[Link, PsicliError], None] | None = None
        # Of the attempts to reconnect: the last one made, to a dialer, or taken in.
        self._attempt = 0
        self._changed = threading.Condition()
        # A failure among the messages is what the peer sent instead of one.
        self._inbox: deque[tuple[Message | PsicliError, int]] = deque()
        self._outbox = Outbox()
        # Messages that have arrived and that were read; what is unread, and what was read since the peer was told.
        self._arrived = 0
        self._read = 0
        self._unread_cost = 0
        self._untold_cost = 0
        # Tasks whose frames were dropped when the stream ended.
        self._cut: set[int] = set()
        self._closing = False
        self._aborted = False
        self._peer_said_bye = False
        self._woken = False
        self.ended = False
        # What ended the link, if it was no clean end.
        self.failure: PsicliError | None = None
        self._heard_at = time.monotonic()
        # Whether the stream's last words found nobody, as far as it was watched.
        self.unanswered = False
        # Handed to the stream, and come out of it [bytes].
        self._bytes_sent = 0
        self._bytes_received = 0

    # The session's side

    def send(self, message: Message) -> int:
        """Queue a message and return its size [bytes]; after the link has ended it goes nowhere."""
        octets = failpoints.carry(f"{_kind(message)}.sending", encode(message))
        with self._changed:
            if not (self._closing or self.failure):
                self._outbox.put(octets, owed=isinstance(message, Received | Commit | Done))
                self._aborted = isinstance(message, Abort)
                trace.count("outbox", "messages", len(self._outbox))
                self._changed.notify_all()
        return len(octets)

    def poll(self) -> tuple[Message, int] | None:
        """Return the next message and its size [bytes], or None.

        Raises PeerProtocolError for what is no message, and what ended the link once its last message was returned.
        """
        with self._changed:
            message, size = self._pop() if self._inbox else (None, 0)
            self._changed.notify_all()
            if message is None and self.ended:
                raise self.failure or errors.PeerGoneError(reason="it closed the connection")
        if isinstance(message, PsicliError):
            raise message
        if message is None:
            return None
        failpoints.passage(f"{_kind(message)}.arrived")
        return message, size

    def _pop(self) -> tuple[Message | PsicliError, int]:
        message, size = self._inbox.popleft()
        self._read += 1
        self._unread_cost -= cost(size)
        self._untold_cost += cost(size)
        trace.count("inbox", "messages", len(self._inbox))
        return message, size

    def room(self) -> float:
        """Return how many frames may be queued; a link that has ended takes any number, and they go nowhere."""
        return math.inf if self.ended else QUEUE_FRAMES - len(self._outbox)

    def wait(self, *, for_message: bool, room_for: int | None, timeout: float) -> bool:
        """Wait until a message (or the end of the link) is there, or room for so many frames, or wake() is called.

        Returns whether anything was.
        """

        def there() -> bool:
            message = for_message and (self.ended or bool(self._inbox))
            return self._woken or message or (room_for is not None and self.room() >= room_for)

        found = signals.wait_for(self._changed, there, timeout)
        self._woken = False
        return found

    def wake(self) -> None:
        """End a wait, now or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def silence(self) -> float:
        """Time since the peer was last heard [s].

        None while it is we who do not listen, nor while the link is broken: how long that may last is said elsewhere.
        """
        return 0.0 if self._inbox or self.broken else self.unheard

    @property
    def unheard(self) -> float:
        """Time since the peer was last heard, whatever the reason [s]."""
        return time.monotonic() - self._heard_at

    @property
    def broken(self) -> bool:
        """Whether there is no stream, but there may be one again."""
        return self.stream is None and not self.ended

    def close_outgoing(self) -> None:
        """End our direction once what is queued has been sent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def finish(self, timeout: float) -> bool:
        """End our direction and wait for the end of the stream [s].

        Return, to a dialer, whether the listener ended it and so has taken in everything.
        """
        self.close_outgoing()
        return signals.wait_for(self._changed, self._drained, timeout) and self.failure is None

    def abort(self, failure_class: int, timeout: float) -> None:
        """Tell the peer the class of our failure, and end the stream within timeout [s].

        What is queued is dropped, but for the last word about a task: what is done here must be done there too.
        """
        with self._changed:
            self._outbox.drop()
        self.send(Abort(failure_class))
        self.finish(timeout)

    def _drained(self) -> bool:
        # A full inbox would keep the pump, and with it the end of the stream, from arriving.
        while self._inbox:
            self._pop()
        self._changed.notify_all()
        return self.ended and not (self.stream and self.stream.served)

    # The transport's side

    def next_octets(self, stream: Stream) -> bytes | None:
        """Wait for what is to go out next over a stream; None when nothing will."""
        with self._changed:
            while stream is self.stream or stream is self._trial:
                octets = self._next_now(stream)
                if octets is not None:
                    self._bytes_sent += len(octets)
                    trace.count("outbox", "messages", len(self._outbox))
                    trace.count("sent", "bytes", self._bytes_sent)
                    self._changed.notify_all()
                    return octets
                # A peer that has only ended its own direction still listens, and waits for our Bye.
                over = self._closing or (self.ended and not self._peer_said_bye)
                if self.failure or stream.said_bye or (over and not self._outbox):
                    return None
                self._changed.wait()
            return None

    def _next_now(self, stream: Stream) -> bytes | None:
        if stream.owes_reconnect:
            stream.owes_reconnect = False
            return encode(Reconnect(self._sid, self._attempt, self._arrived))
        if stream is self._trial or self.failure or stream.said_bye:
            return None
        if self._untold_cost >= WINDOW_BYTES // 4:
            self._untold_cost = 0
            return encode(Taken(self._read))
        octets = self._outbox.take(freely=self._closing or self._peer_said_bye)
        if octets is None and self._closing and not (self._outbox or self._aborted):
            stream.said_bye = True
            return encode(Bye())
        return octets

    def take_in(self, octets: bytes, stream: Stream) -> None:
        """Take in what came over a stream; what comes over one that was given up is lost, and will be sent again."""
        octets = failpoints.carry("link.arriving", octets)
        message: Message | PsicliError
        try:
            with trace.span("receive"):
                message = decode(octets)
        except PsicliError as exc:
            # Our direction stays open: the peer is to be told.
            message = exc
        with self._changed:
            if stream is self._trial:
                self._try(stream, message)
            elif stream is self.stream:
                self._bytes_received += len(octets)
                trace.count("received", "bytes", self._bytes_received)
                self._heard_at = time.monotonic()
                self._take_in(message, len(octets), stream)
            self._changed.notify_all()

    def _take_in(self, message: Message | PsicliError, size: int, stream: Stream) -> None:
        if self._peer_said_bye and not isinstance(message, Taken | Bye | PsicliError):
            message = errors.PeerProtocolError(detail="it goes on after its last word")
        match message:
            case Bye():
                self._peer_said_bye = True
                return
            case Taken(messages):
                try:
                    self._outbox.confirm(messages)
                    return
                except errors.PeerProtocolError as exc:
                    message = exc
            case Abort():
                self._peer_said_bye = True
        # The peer keeps to the window; one that does not is not read from.
        self._changed.wait_for(lambda: self._unread_cost < 2 * WINDOW_BYTES or self.ended or stream is not self.stream)
        if stream is not self.stream:
            return
        self._arrived += 1
        if self.ended and isinstance(message, Frame | End):
            self._cut.add(message.task)
        elif not (self.ended and self._is_cut(message)):
            self._inbox.append((message, size))
            self._unread_cost += cost(size)
            trace.count("inbox", "messages", len(self._inbox))

    def end(self, failure: PsicliError | None = None) -> None:
        """Mark the link as ended; the first reason stays."""
        with self._changed:
            if not self.ended:
                self.ended = True
                self.failure = failure
                # Frames are of no use any more, nor is what was said after them; what else was said still counts.
                self._cut = {message.task for message, _ in self._inbox if isinstance(message, Frame | End)}
                self._inbox = deque(item for item in self._inbox if not self._is_cut(item[0]))
                self._changed.notify_all()

    def _is_cut(self, message: Message | PsicliError) -> bool:
        return getattr(message, "task", None) in self._cut

    def first(self, timeout: float) -> Message | None:
        """Return the first message, None when none comes in time; raises what ended the stream."""
        self.wait(for_message=True, room_for=None, timeout=timeout)
        arrived = self.poll()
        return arrived[0] if arrived else None

    # Broken and mended

    def can_be_mended(self, sid: bytes, mend: Callable[[Link, PsicliError], None]) -> None:
        """Have a broken stream replaced from now on; mend is called with the reason, in a thread of its own."""
        self._sid, self._mend = sid, mend

    def is_of(self, sid: bytes) -> bool:
        """Tell whether a session with this sid goes on over this link."""
        return not self.ended and bool(self._sid) and hmac.compare_digest(self._sid, sid)

    def stream_ended(self, stream: Stream) -> None:
        """Take note of the end of a stream: of the link too, unless that can be mended."""
        with self._changed:
            self._changed.notify_all()
            if stream is not self.stream or self.ended:
                return
            lasting = self._peer_said_bye or self._aborted or isinstance(stream.failure, errors.PeerProtocolError)
            if self._mend is None or lasting:
                self.end(stream.failure)
                return
            self.stream = None
        cause = stream.failure or errors.PeerGoneError(reason="the connection was closed")
        threading.Thread(target=self._be_mended, args=(self._mend, cause), name="psicli-mend", daemon=True).start()

    def _be_mended(self, mend: Callable[[Link, PsicliError], None], cause: PsicliError) -> None:
        try:
            mend(self, cause)
        except Exception as exc:
            logger.exception("unexpected failure")
            self.end(unexpected(exc))

    def try_stream(self) -> Stream:
        """Return a stream that begins with Reconnect and takes over once that is answered."""
        with self._changed:
            self._trial = stream = Stream(self)
            stream.owes_reconnect = True
            self._attempt += 1
            return stream

    def await_trial(self, timeout: float) -> None:
        """Wait for the stream that is tried [s]; raises why it did not take over."""
        with self._changed:
            trial = self._trial
            self._changed.wait_for(lambda: self.stream or self.ended or (trial and trial.over), timeout)
            self._trial = None
            self._changed.notify_all()
            if self.broken:
                assert trial is not None
                raise (trial.over and trial.failure) or errors.PeerGoneError(reason=NO_ANSWER)

    def take_over(self, other: Link, first: Reconnect) -> None:
        """Go on over the stream of another link, which began so; the stream there was, whole or not, is over.

        Raises PeerProtocolError for numbers that cannot be: an attempt that was given up may arrive late.
        """
        stream = other.stream
        assert stream is not None
        with self._changed:
            if first.attempt <= self._attempt:
                raise errors.PeerProtocolError(detail="it reconnects again as it did before")
            self._outbox.go_on_after(first.messages)
            self._attempt = first.attempt
            stream.owes_reconnect = True
            self._use(stream)
        if stream.over:
            self.stream_ended(stream)

    def await_stream(self, timeout: float) -> bool:
        """Wait until there is a stream, or no hope for one [s]; return whether either is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.broken, timeout)

    def outlasts(self, timeout: float) -> bool:
        """Return whether the link still goes on after timeout [s]; at once where it ends before."""
        with self._changed:
            return not self._changed.wait_for(lambda: self.ended, timeout)

    def await_end(self, stream: Stream) -> None:
        """Wait until a stream is not needed any more: after our Abort, until the peer had time to hear it."""
        with self._changed:
            timeout = HEARING_TIMEOUT if self._aborted else None
            self._changed.wait_for(lambda: self.ended or stream is not self.stream, timeout)

    def _try(self, stream: Stream, answer: Message | PsicliError) -> None:
        """Take in the answer to Reconnect."""
        match answer:
            case Reconnect(sid, attempt, messages) if self.is_of(sid) and attempt == self._attempt:
                failpoints.passage("reconnect.answered")
                try:
                    self._outbox.go_on_after(messages)
                    self._use(stream)
                except errors.PeerProtocolError as exc:
                    self.end(exc)
            case Abort():
                self.end(errors.PeerGoneError(reason="it knows nothing of this session any more"))
            case _:
                self.end(errors.PeerProtocolError(detail="it did not answer with Reconnect"))

    def _use(self, stream: Stream) -> None:
        self.stream, self._trial = stream, None
        stream.link = self
        self._heard_at = time.monotonic()
        self.unanswered = False
        # What was told last may not have arrived.
        self._untold_cost = WINDOW_BYTES
        self._changed.notify_all()


def _kind(message: Message) -> str:
    return type(message).__name__.removesuffix("Octets").lower()


def _translated(exc: grpc.RpcError, *, tls: bool) -> PsicliError:
    if not isinstance(exc, grpc.Call):
        # The server's request iterator raises the bare class when the stream breaks.
        return errors.PeerGoneError(reason="the connection broke")
    code, details = exc.code(), exc.details() or ""
    reason = _plain_reason(details)
    if tls and code is grpc.StatusCode.UNAVAILABLE and any(word in details.lower() for word in _TLS_WORDS):
        return errors.TlsHandshakeError(reason=reason)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return errors.PeerRefusedError()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.PeerProtocolError(detail=f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    if "Compression algorithm" in details:
        return errors.PeerProtocolError(detail="it compresses its messages")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Junk holds its connections; the session itself would have said that it is taken.
        return errors.PeerGoneError(reason="it has too many connections")
    return errors.PeerGoneError(reason=reason)


def _plain_reason(details: str) -> str:
    """Boil the C core's text down to the system's own words."""
    known = next((words for words in _KNOWN_REASONS if words in details.lower()), None)
    return known or (shown(details) if details else "the connection broke")


@dataclass(eq=False)
class _End:
    """What either end is told; reconnect_window: how long a broken connection is waited or tried for [s]."""

    host: str
    port: int
    peer: str
    credentials: TlsCredentials | None
    purpose: Purpose = field(default=Purpose.RUN, kw_only=True)
    reconnect_window: float = field(default=0.0, kw_only=True)

    @property
    def where(self) -> str:
        return tls.written_address(self.host, self.port)


@dataclass(eq=False)
class Listener(_End):
    """The end that accepts the connection; owns the port from construction on.

    purpose: with CHECK it meets whoever says Hello, and gives the session to nobody. Raises PortBusyError when it
    cannot be bound: why it might not be is found out before, by the port's lock.
    """

    def __post_init__(self) -> None:
        self._lock = threading.Condition()
        self._make_hello: Callable[[], bytes] | None = None
        self._refusal: int | None = None
        self._taken: Link | None = None
        self._peer_failure: int | None = None
        self._told = False
        # TLS handshakes that began since a stream came of one, and when the last of them did [s, monotonic].
        self._handshakes = 0
        self._handshake_at = 0.0
        self._strangers: list[str] = []
        self._links: set[Link] = set()
        self._threads = ThreadPoolExecutor(2 * _MAX_STREAMS, "psicli-link")
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server = grpc.server(
            self._threads,
            handlers=[grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})],
            options=_SERVER_OPTIONS,
            maximum_concurrent_rpcs=_MAX_STREAMS,
        )
        self._bind()

    def _bind(self) -> None:
        try:
            if self.credentials is None:
                bound = self._server.add_insecure_port(self.where)
            else:
                own_pair = (self.credentials.private_key, self.credentials.certificate)
                configuration = grpc.ssl_server_certificate_configuration([own_pair], self.credentials.ca)
                secured = grpc.dynamic_ssl_server_credentials(configuration, self._note_handshake, True)
                bound = self._server.add_secure_port(self.where, secured)
        except RuntimeError as exc:
            raise errors.PortBusyError(where=self.where) from exc
        if bound != self.port:
            raise errors.PortBusyError(where=self.where)
        failpoints.passage("port.bound")

    def _note_handshake(self) -> None:
        """Count a handshake that begins: gRPC asks here for a newer certificate, and tells nothing of its failure."""
        with self._lock:
            self._handshakes += 1
            self._handshake_at = time.monotonic()

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Wait for the peer's Hello and return the link with both Hellos exchanged.

        Raises PeerAbsentError when it does not come within timeout [s], HandshakesFailedError when TLS is the reason.
        """
        with self._lock:
            self._make_hello = make_hello
        self._server.start()
        deadline = time.monotonic() + timeout
        next_line, warned = time.monotonic() + WAITING_LINE_INTERVAL, False
        while not signals.wait_for(
            self._lock, lambda: self._taken or self._peer_failure, min(HANDSHAKE_GRACE, _left(deadline))
        ):
            if time.monotonic() >= deadline:
                raise self._absence(timeout)
            news = self._handshakes_failed() and not warned
            if news or time.monotonic() >= next_line:
                self._say_what_for()
                warned = warned or news
                next_line = time.monotonic() + WAITING_LINE_INTERVAL
        if self._taken is not None:
            return self._taken
        assert self._peer_failure is not None
        if self.credentials is None and self._peer_failure == TLS_FAILED:
            raise errors.PeerSpeaksTlsError(who=self.peer, does="listens in")
        raise failure_of_peer(self._peer_failure)

    def _handshakes_failed(self) -> bool:
        return self._handshakes > 0 and time.monotonic() - self._handshake_at >= HANDSHAKE_GRACE

    def _absence(self, timeout: float) -> errors.PeerAbsentError:
        if self._handshakes > 0:
            ago = time.monotonic() - self._handshake_at
            return errors.HandshakesFailedError(seconds=timeout, count=self._handshakes, where=self.where, ago=ago)
        reason = next(iter(self._strangers[-1:]), f"nobody connected to {self.where} as {self.peer}")
        return errors.PeerAbsentError(seconds=timeout, reason=reason)

    def _say_what_for(self) -> None:
        if self._handshakes_failed():
            logger.warning(
                "still waiting for %s: %d connections to %s ended in the TLS handshake; the dialer's log says why, "
                "else look here at ca_file, the own certificate and the clock",
                self.peer,
                self._handshakes,
                self.where,
            )
        else:
            logger.info("still waiting for %s to connect to %s", self.peer, self.where)

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this side has failed, if it comes within timeout [s]."""
        with self._lock:
            self._refusal = failure_class
        self._server.start()
        signals.wait_for(self._lock, lambda: self._told, timeout)

    def close(self) -> None:
        """Free the port; ends every stream."""
        self._server.stop(LAST_WORDS_TIMEOUT if self._told else 0).wait(2 * LAST_WORDS_TIMEOUT)
        for link in [*self._links, *([self._taken] if self._taken else [])]:
            link.close_outgoing()
            link.end()
        self._threads.shutdown(wait=False)

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
            link.peer_certificate = self._check_identity(context)
            threading.Thread(target=stream.pump, args=(requests,), name="psicli-pump", daemon=True).start()
            self._admit(link, link.first(HELLO_TIMEOUT))
            yield from stream.outgoing()
            if stream.link is self._taken:
                # Whether the last words have arrived is known when the peer has said its own.
                stream.link.await_end(stream)
        except errors.StrangerError as exc:
            with self._lock:
                if exc.message not in self._strangers and len(self._strangers) < MAX_STRANGERS:
                    self._strangers.append(exc.message)
                    logger.warning("%s", exc.message)
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        except PsicliError as exc:
            # Whatever this was, it is not our peer: junk is forgotten.
            logger.debug("a connection was dropped: %s", exc)
        except Exception:
            logger.exception("a connection was dropped")
            context.set_code(grpc.StatusCode.INTERNAL)
        finally:
            self._links.discard(link)

    def _check_identity(self, context: Any) -> x509.Certificate | None:
        """Return the certificate of whoever is at the other end; raises StrangerError if it does not name our peer."""
        with self._lock:
            self._handshakes = 0
        if self.credentials is None:
            return None
        name = self.credentials.peer_name
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
            elif isinstance(first, Abort) and self._taken is None:
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
        elif self.purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            link.close_outgoing()
            self._taken = self._taken or link
            self._told = True
        elif purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            if self._taken is not None:
                link.send(Abort(BUSY))
            link.close_outgoing()
        elif self._taken is not None:
            self._turn_away(link, BUSY)
        else:
            self._say_hello(link, octets)
            self._taken = link
            if self.reconnect_window:
                link.can_be_mended(session_id(link.own_hello, octets), self._await_again)
                threading.Thread(target=self._watch, args=(link,), name="psicli-watch", daemon=True).start()

    def _say_hello(self, link: Link, octets: bytes) -> None:
        assert self._make_hello is not None
        link.own_hello, link.peer_hello = self._make_hello(), octets
        link.send(HelloOctets(link.own_hello))

    def _readmit(self, link: Link, first: Reconnect) -> None:
        """Let the session go on over a new stream, if it is the one that goes on here.

        Also where the stream there is looks whole: the peer would not ask if it still had its end of it.
        """
        if self._taken is not None and self._taken.is_of(first.sid):
            failpoints.passage("reconnect.answered")
            self._taken.take_over(link, first)
        else:
            self._turn_away(link, errors.PeerLostError.code)

    def _watch(self, link: Link) -> None:
        """Note of a silent peer whether its machine still answers: of a connection that is gone nobody can tell."""
        while link.outlasts(WATCH_INTERVAL):
            stream = link.stream
            if stream is not None and link.unheard >= LONG_SILENCE:
                link.unanswered = sockets.is_unanswered(stream.remote)

    def _await_again(self, link: Link, cause: PsicliError) -> None:
        """Wait for the peer to come back after its connection broke; end the link if it does not."""
        lost = link.unanswered
        patience = self.reconnect_window if lost else min(DEAD_AFTER, self.reconnect_window)
        why, began = _reason(cause), time.monotonic()
        logger.warning("the connection of %s broke (%s); waiting %.0f s for a new one", self.peer, why, patience)
        while not link.await_stream(min(WAITING_LINE_INTERVAL, _left(began + patience))):
            gone = time.monotonic() - began
            if gone >= patience:
                absent = errors.PeerGoneError(reason=f"{why}, and no new connection came within {patience:.0f} s")
                link.end(errors.LinkBrokenError(cause=why, seconds=patience) if lost else absent)
                return
            logger.info("still waiting for %s to connect again, for %.0f s of %.0f s", self.peer, gone, patience)
        if not link.ended:
            logger.info("%s is back after %.1f s", self.peer, time.monotonic() - began)

    def _turn_away(self, link: Link, failure_class: int) -> None:
        link.send(Abort(failure_class))
        link.close_outgoing()


def _reason(cause: PsicliError) -> str:
    return str(cause.facts.get("reason", cause.message))


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


@dataclass(eq=False)
class Dialer(_End):
    """The end that makes the connection; retry_interval: pause between two tries [s]."""

    retry_interval: float
    _link: Link | None = field(default=None, init=False)
    _channel: Any = field(default=None, init=False)

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Connect, again and again, until the peer answers with its Hello; return the link.

        Raises PeerAbsentError after timeout [s], PeerBusyError when another session holds the peer, a subclass of
        IdentityError when TLS needs mending.
        """
        deadline = time.monotonic() + timeout
        next_line = time.monotonic() + WAITING_LINE_INTERVAL
        reason = NO_ANSWER
        interval = min(FIRST_RETRY_INTERVAL, self.retry_interval)
        while True:
            link = Link(tls=self.credentials is not None)
            link.own_hello = make_hello()
            try:
                self._attempt(link, deadline)
                self._link = link
                if self.reconnect_window:
                    link.can_be_mended(session_id(link.peer_hello, link.own_hello), self._reconnect)
                return link
            except errors.PeerGoneError as exc:
                # The last attempt may just have run out of time.
                reason = reason if exc.facts["reason"] == NO_ANSWER else str(exc.facts["reason"])
            except errors.PeerSpeaksPlainError:
                if self.purpose is Purpose.RUN:
                    self._tell_in_plain()
                raise
            self._hang_up()
            self._check_plain(deadline)
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.PeerAbsentError(seconds=timeout, reason=f"{self.where}: {reason}")
            if time.monotonic() >= next_line:
                logger.info("still waiting for %s at %s: %s", self.peer, self.where, reason)
                next_line += WAITING_LINE_INTERVAL
            signals.pause(min(interval, left))
            interval = min(2 * interval, self.retry_interval)

    def _check_plain(self, deadline: float) -> None:
        """Find out, where this side sends plain text and had no answer, whether the other end speaks TLS.

        Raises PeerSpeaksTlsError.
        """
        timeout = min(tls.PREFLIGHT_TIMEOUT, deadline - time.monotonic())
        if self.credentials is None and timeout > 0 and tls.presented(self.host, self.port, timeout) is not None:
            raise errors.PeerSpeaksTlsError(who=self.where, does="sends")

    def _tell_in_plain(self) -> None:
        """Tell a listener in plain text that this side speaks TLS; it would wait in vain. No more than that is said."""
        plain = Dialer(self.host, self.port, self.peer, None, self.retry_interval)
        plain.refuse(TLS_FAILED, PLAIN_WORDS_TIMEOUT)
        plain.close()

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this side has failed, if it answers within timeout [s]."""
        deadline = time.monotonic() + timeout
        told = False
        while not told and time.monotonic() < deadline:
            link = Link()
            try:
                self._dial(link, Abort(failure_class), deadline)
                # A peer that refuses who we are will do so again.
                told = link.finish(deadline - time.monotonic()) or isinstance(link.failure, errors.IdentityError)
            except errors.IdentityError as exc:
                # It comes second to the failure to be told, and will not be better in a moment.
                logger.info("%s cannot be told: %s", self.peer, exc)
                told = True
            except errors.PeerLostError:
                pass
            self._hang_up()
            if not told:
                signals.pause(min(self.retry_interval, 0.5))

    def close(self) -> None:
        if self._link is not None:
            self._link.end()
        self._hang_up()

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _reconnect(self, link: Link, cause: PsicliError) -> None:
        """Make a new connection after one broke; end the link if that cannot be done."""
        why, began = _reason(cause), time.monotonic()
        logger.warning(
            "the connection to %s broke (%s); trying for %.0f s to get it back", self.peer, why, self.reconnect_window
        )
        deadline, next_line = began + self.reconnect_window, began + WAITING_LINE_INTERVAL
        pause = min(FIRST_RETRY_INTERVAL, self.retry_interval)
        while not link.ended:
            self._hang_up()
            reason = self._try_again(link)
            if link.ended:
                break
            if reason is None:
                logger.info("%s is back after %.1f s", self.peer, time.monotonic() - began)
                return
            if (death := self._death(link, reason)) is not None:
                link.end(errors.PeerGoneError(reason=f"{why}, then {death}"))
            elif time.monotonic() >= deadline:
                link.end(errors.LinkBrokenError(cause=why, seconds=self.reconnect_window))
            elif time.monotonic() >= next_line:
                logger.info("still trying to reach %s at %s: %s", self.peer, self.where, reason)
                next_line += WAITING_LINE_INTERVAL
            link.await_stream(min(pause, _left(deadline)))
            pause = min(2 * pause, self.retry_interval, LONGEST_PAUSE)
        self._hang_up()

    def _try_again(self, link: Link) -> str | None:
        """Make one attempt; return why it failed, None when the link goes on, or has ended."""
        try:
            sockets.reach(self.host, self.port, REACH_TIMEOUT)
        except errors.PeerGoneError as exc:
            return _reason(exc)
        failpoints.passage("reconnect.dialled")
        try:
            self._connect(link, link.try_stream(), time.monotonic() + ANSWER_TIMEOUT)
            link.await_trial(ANSWER_TIMEOUT)
        except errors.PeerGoneError as exc:
            # Whoever accepts a connection, and then takes too long over TLS, does not answer.
            return NO_ANSWER if _reason(exc) == sockets.TIMED_OUT else _reason(exc)
        except (errors.CertificateRefusedError, errors.TlsHandshakeError) as exc:
            # Both were fine before, and look like this when the connection breaks again.
            return exc.message
        except PsicliError as exc:
            link.end(exc)
        except ValueError:
            # The channel was closed meanwhile: this side is through.
            return NO_ANSWER
        return None

    def _death(self, link: Link, reason: str) -> str | None:
        """Tell a peer that is no more, or stopped, from a network that is broken: its machine is there without it."""
        if reason == _REFUSED:
            return _REFUSED
        if reason != NO_ANSWER or link.unheard < LONG_SILENCE:
            return None
        try:
            # The network may have broken again since.
            sockets.reach(self.host, self.port, REACH_TIMEOUT)
        except errors.PeerGoneError:
            return None
        return f"its machine took a connection that nobody answered within {ANSWER_TIMEOUT:.0f} s: was it stopped?"

    def _attempt(self, link: Link, deadline: float) -> None:
        self._dial(link, HelloOctets(link.own_hello), deadline)
        try:
            self._await_hello(link, deadline)
        except errors.PeerProtocolError as exc:
            link.abort(exc.code, LAST_WORDS_TIMEOUT)
            raise

    def _await_hello(self, link: Link, deadline: float) -> None:
        while (answer := link.first(min(WAITING_LINE_INTERVAL, _left(deadline)))) is None:
            if time.monotonic() >= deadline:
                raise errors.PeerGoneError(reason=NO_ANSWER)
        if isinstance(answer, Abort):
            raise errors.PeerBusyError() if answer.failure_class == BUSY else failure_of_peer(answer.failure_class)
        if not isinstance(answer, HelloOctets):
            raise errors.PeerProtocolError(detail="it did not answer with a Hello")
        # Read here, where the peer can be told what is wrong with it.
        if decode_hello(answer.octets).purpose is Purpose.CHECK and self.purpose is Purpose.RUN:
            raise errors.PeerGoneError(reason=_ONLY_CHECKS)
        link.peer_hello = answer.octets

    def _dial(self, link: Link, first: Message, deadline: float) -> None:
        failpoints.passage("peer.dialled")
        link.send(first)
        assert link.stream is not None
        self._connect(link, link.stream, deadline)

    def _connect(self, link: Link, stream: Stream, deadline: float) -> None:
        self._channel = channel = self._open_channel(link, deadline)
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(stream.outgoing())
        threading.Thread(target=stream.pump, args=(call,), name="psicli-pump", daemon=True).start()

    def _open_channel(self, link: Link, deadline: float) -> Any:
        if self.credentials is None:
            return grpc.insecure_channel(self.where, _CLIENT_OPTIONS)
        timeout = min(tls.PREFLIGHT_TIMEOUT, max(_left(deadline), 0.1))
        link.peer_certificate = tls.preflight(self.host, self.port, self.credentials, timeout)
        # Nothing but this very certificate will do: gRPC's own idea of names is laxer than ours.
        credentials = grpc.ssl_channel_credentials(
            link.peer_certificate.public_bytes(Encoding.PEM), self.credentials.private_key, self.credentials.certificate
        )
        return grpc.secure_channel(
            self.where,
            credentials,
            [*_CLIENT_OPTIONS, ("grpc.ssl_target_name_override", self.credentials.peer_name)],
        )
