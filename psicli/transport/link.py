"""The link of a session to its peer: two bounded queues of messages over one stream at a time.

Nothing here knows gRPC: `endpoint` moves octets between a stream and its link. The listener and the dialer create the
streams and replace one that broke. Callers choose all timeouts.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from dataclasses import field
from typing import TYPE_CHECKING

from psicli.core import failpoints, peer_errors, signals, trace
from psicli.core.errors import PsicliError, unexpected
from psicli.core.records import dataclass
from psicli.protocol.messages import (
    Abort,
    Bye,
    Commit,
    Done,
    HelloOctets,
    Message,
    Open,
    Received,
    Reconnect,
    Taken,
)
from psicli.protocol.wire import decode, encode
from psicli.transport.door.guest import Guest
from psicli.transport.preflight import NO_ANSWER
from psicli.transport.window import Inbox, Incoming, Outbox, Outgoing

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

# The failure class that tells a dialer that the peer already has a session.
BUSY = peer_errors.PeerBusyError.code
# The most frames that wait to be sent: enough to bridge a busy moment of either party.
QUEUE_FRAMES = 8
# How long sending the last message to a refused peer may take [s].
LAST_WORDS_TIMEOUT = 3.0
# How long the stream stays open after our Abort [s]. If we closed it while the peer still writes, the peer would lose
# what it has not read yet.
HEARING_TIMEOUT = 1.0
# A peer that has been silent for this long may have been stopped [s].
LONG_SILENCE = 30.0
# What is sent even if the session fails right after it: both parties compare the Hellos, and what this party has
# completed, the peer must complete too.
_OWED = HelloOctets | Open | Received | Commit | Done


@dataclass(eq=False)
class Stream:
    """One gRPC stream that carries the messages of a link; a link may use several, one after the other.

    guest: the connection that carries it; set by a listener only.
    """

    link: Link
    guest: Guest | None = None
    # Whether it has to begin with Reconnect, and whether Bye was sent on it.
    owes_reconnect: bool = False
    sent_bye: bool = False
    # Whether the peer's Bye has arrived on it.
    heard_bye: bool = False
    # Whether gRPC still has something to send over it; set by a listener only.
    served: bool = False
    # Whether the peer's machine had stopped acknowledging data when that was last checked.
    unanswered: bool = False
    over: bool = False
    failure: PsicliError | None = None

    @property
    def why_it_ended(self) -> str:
        return "the connection was closed" if self.failure is None else reason_of(self.failure)

    def was_served(self) -> None:
        """Note that gRPC has finished with the stream: it has handed everything to the system, or never will."""
        self.served = False
        self.end(peer_errors.PeerGoneError(reason="the connection broke"))

    def end(self, failure: PsicliError | None) -> None:
        """Mark the stream as ended; the first reason stays."""
        if not self.over:
            self.failure, self.over = failure, True
        self.link.stream_ended(self)


@dataclass
class _Reconnection:
    """The state of reconnecting; while sid is empty, the link ends with its stream.

    attempt: the latest attempt that the dialer made or the listener accepted. lost: the stream that broke, until
    await_break returns it. trial: the stream of the current attempt, until the peer answers.
    """

    sid: bytes = field(default=b"", repr=False)
    attempt: int = 0
    lost: Stream | None = None
    trial: Stream | None = None


@dataclass
class _Traffic:
    """Counts of octets sent and received [bytes], and when the peer was last heard [s, monotonic]."""

    sent: int = 0
    received: int = 0
    heard_at: float = field(default_factory=time.monotonic)

    def note_sent(self, octets: int) -> None:
        self.sent += octets
        trace.count("sent", "bytes", self.sent)

    def note_received(self, octets: int) -> None:
        self.received += octets
        self.heard_at = time.monotonic()
        trace.count("received", "bytes", self.received)


class Link:
    """A queue of messages to the peer and one of messages from it.

    own_hello, peer_hello: the Hellos of this session, encoded as they were sent. peer_certificate: None without TLS.
    When the stream of a link breaks, another stream can replace it: each party resends what did not arrive, and
    neither session notices.
    """

    def __init__(self) -> None:
        self.own_hello = b""
        self.peer_hello = b""
        self.peer_certificate: x509.Certificate | None = None
        # None while the connection is broken.
        self.stream: Stream | None = Stream(self)
        # Why the link ended; None after a clean end.
        self.failure: PsicliError | None = None
        self._changed = threading.Condition()
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._traffic = _Traffic()
        self._reconnection = _Reconnection()
        self._woken = False

    # The session's side

    def send(self, message: Message) -> int:
        """Queue a message and return its size [bytes]; after our last message or a failure, discard it."""
        octets = failpoints.carry(f"{_kind(message)}.sending", encode(message))
        with self._changed:
            if self._outbox.state is Outgoing.OPEN and self.failure is None:
                if isinstance(message, Abort):
                    self._outbox.abort(octets)
                else:
                    self._outbox.put(octets, owed=isinstance(message, _OWED))
                trace.count("outbox", "messages", len(self._outbox))
                self._changed.notify_all()
        return len(octets)

    def poll(self) -> tuple[Message, int] | None:
        """Remove the next message and return it with its size [bytes], or None if there is none.

        Raises PeerProtocolError for octets that are not a message, and the reason why the link ended once all messages
        have been returned.
        """
        with self._changed:
            self._changed.notify_all()
            if not self._inbox:
                if self.ended:
                    raise self.failure or peer_errors.PeerGoneError(reason="it closed the connection")
                return None
            message, size = self._inbox.pop()
            trace.count("inbox", "messages", len(self._inbox))
        if isinstance(message, PsicliError):
            raise message
        failpoints.hit(f"{_kind(message)}.arrived")
        return message, size

    def room(self) -> float:
        """Return how many frames may be queued; any number if the link has ended, because they are discarded."""
        return math.inf if self.ended else QUEUE_FRAMES - len(self._outbox)

    def wait(self, *, for_message: bool, room_for: int | None, timeout: float) -> bool:
        """Wait for a message or the link's end, for room for this many frames, or for wake(), whichever comes first.

        Return whether any of these happened within timeout [s].
        """

        def there() -> bool:
            message = for_message and (self.ended or bool(self._inbox))
            return self._woken or message or (room_for is not None and self.room() >= room_for)

        found = signals.wait_for(self._changed, there, timeout)
        self._woken = False
        return found

    def wake(self) -> None:
        """End the current wait, or the next one if nobody waits."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def first(self, timeout: float) -> Message | None:
        """Return the first message, or None if none arrives within timeout [s]; raises why the stream ended."""
        self.wait(for_message=True, room_for=None, timeout=timeout)
        arrived = self.poll()
        return arrived[0] if arrived else None

    @property
    def silence(self) -> float:
        """How long the peer has been silent [s].

        0 while messages wait to be read, and while the connection is broken, which has its own timeout.
        """
        return 0.0 if self._inbox or self.broken else self._silent_for

    @property
    def ended(self) -> bool:
        return self._inbox.ended

    @property
    def confirmed(self) -> int:
        """How much of what was sent the peer has read [bytes]."""
        return self._outbox.confirmed

    @property
    def dropped_frames(self) -> bool:
        """Whether frames that had arrived were dropped when the link ended."""
        return self._inbox.dropped_frames

    @property
    def broken(self) -> bool:
        """Whether the link waits for a new stream."""
        return self.stream is None and not self.ended

    def close_outgoing(self) -> None:
        """End our direction once everything queued has been sent."""
        with self._changed:
            self._outbox.close()
            self._changed.notify_all()

    def finish(self, timeout: float) -> bool:
        """End our direction, discard what arrives, and wait up to timeout [s] for the end of the stream.

        Return whether it ended cleanly; to a dialer this means that the listener has read everything.
        """
        with self._changed:
            # With a full inbox, the end of the stream would never arrive.
            self._inbox.close()
            self.close_outgoing()
        return signals.wait_for(self._changed, self._is_over, timeout) and self.failure is None

    def abort(self, failure_class: int, timeout: float) -> None:
        """Send the peer the class of our failure and end the stream within timeout [s].

        Drops the queued messages except the Hello and those that complete a task or a bin: what this party has
        completed, the peer must complete too. After our Bye, nothing can be sent, so there is nothing to wait for.
        """
        with self._changed:
            self._outbox.drop()
            if self._outbox.state is Outgoing.CLOSING:
                timeout = 0.0
        self.send(Abort(failure_class))
        self.finish(timeout)

    def _is_over(self) -> bool:
        return self.ended and not (self.stream and self.stream.served)

    # The transport's side

    @property
    def long_silent(self) -> bool:
        """Whether the peer has been silent for so long that it may have been stopped."""
        return self._silent_for >= LONG_SILENCE

    @property
    def _silent_for(self) -> float:
        return time.monotonic() - self._traffic.heard_at

    def next_octets(self, stream: Stream) -> bytes | None:
        """Wait for the next octets to send over a stream and return them; None if there will be none."""
        with self._changed:
            while stream is self.stream or stream is self._reconnection.trial:
                octets = self._take_next(stream)
                if octets is not None:
                    self._traffic.note_sent(len(octets))
                    trace.count("outbox", "messages", len(self._outbox))
                    self._changed.notify_all()
                    return octets
                # A peer that has ended only its own direction still reads, and waits for our Bye.
                over = self._outbox.state is not Outgoing.OPEN or self._inbox.state is Incoming.LOST
                if self.failure or stream.sent_bye or (over and not self._outbox):
                    return None
                self._changed.wait()
            return None

    def _take_next(self, stream: Stream) -> bytes | None:
        if stream.owes_reconnect:
            stream.owes_reconnect = False
            return encode(Reconnect(self._reconnection.sid, self._reconnection.attempt, self._inbox.arrived))
        if stream is self._reconnection.trial or self.failure or stream.sent_bye:
            return None
        if self._inbox.must_confirm:
            return encode(Taken(self._inbox.confirmation()))
        freely = self._outbox.state is not Outgoing.OPEN or self._inbox.has_last_message
        octets = self._outbox.take(freely=freely)
        if octets is None and self._outbox.state is Outgoing.CLOSING and not self._outbox:
            stream.sent_bye = True
            return encode(Bye())
        return octets

    def receive(self, octets: bytes, stream: Stream) -> None:
        """Handle the octets of one message; those from a replaced stream are discarded, and the peer resends them."""
        octets = failpoints.carry("link.arriving", octets)
        message: Message | PsicliError
        try:
            with trace.span("receive"):
                message = decode(octets)
        except PsicliError as exc:
            # Queued like a message: our direction stays open so that the session can send an Abort.
            message = exc
        with self._changed:
            if stream is self._reconnection.trial:
                self._answered(stream, message)
            elif stream is self.stream:
                self._traffic.note_received(len(octets))
                self._receive(message, len(octets), stream)
            self._changed.notify_all()

    def _receive(self, message: Message | PsicliError, size: int, stream: Stream) -> None:
        # On a new stream, the peer repeats a Bye that may have been lost with the old one.
        late = stream.heard_bye if isinstance(message, Bye) else self._inbox.has_last_message
        if late and not isinstance(message, Taken | PsicliError):
            message = peer_errors.PeerProtocolError(detail="it sent a message after its last one")
        match message:
            case Bye():
                stream.heard_bye = True
                self._inbox.note_last_message()
                return
            case Taken(messages):
                try:
                    self._outbox.confirm(messages)
                    return
                except peer_errors.PeerProtocolError as exc:
                    message = exc
            case Abort():
                self._inbox.note_last_message()
        # A peer that respects the window never fills the inbox; from one that does not, we stop reading.
        self._changed.wait_for(lambda: not self._inbox.full or self.ended or stream is not self.stream)
        if stream is self.stream:
            self._inbox.put(message, size)
            trace.count("inbox", "messages", len(self._inbox))

    def end(self, failure: PsicliError | None = None) -> None:
        """Mark the link as ended; the first reason stays."""
        with self._changed:
            if not self.ended:
                self.failure = failure
                self._inbox.end()
                self._changed.notify_all()

    def fail(self, exc: Exception) -> None:
        """End the link after an unexpected exception."""
        self.end(unexpected(exc, logger))

    def await_end(self, stream: Stream) -> None:
        """Wait until the link has ended or left this stream; after our Abort, at most HEARING_TIMEOUT."""
        with self._changed:
            timeout = HEARING_TIMEOUT if self._outbox.state is Outgoing.ABORTED else None
            self._changed.wait_for(lambda: self.ended or stream is not self.stream, timeout)

    # Reconnecting

    def allow_reconnect(self, sid: bytes) -> None:
        """From now on, keep the link when its stream breaks; the thread in await_break must replace the stream."""
        self._reconnection.sid = sid

    def is_of(self, sid: bytes) -> bool:
        """Return whether this link is open and belongs to the session with this sid, compared in constant time."""
        own = self._reconnection.sid
        return not self.ended and bool(own) and hmac.compare_digest(own, sid)

    def stream_ended(self, stream: Stream) -> None:
        """Handle the end of a stream: end the link too, unless it may reconnect."""
        with self._changed:
            self._changed.notify_all()
            if stream is not self.stream or self.ended:
                return
            through = self._inbox.has_last_message or self._outbox.state is Outgoing.ABORTED
            if not self._reconnection.sid or through or isinstance(stream.failure, peer_errors.PeerProtocolError):
                self.end(stream.failure)
            else:
                self.stream, self._reconnection.lost = None, stream

    def await_break(self, timeout: float | None = None) -> Stream | None:
        """Wait until the stream breaks and return it, once; None if the link ends or timeout [s] passes first.

        Another stream may have replaced it by then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reconnection.lost is not None or self.ended, timeout)
            lost, self._reconnection.lost = self._reconnection.lost, None
            return None if self.ended else lost

    def await_stream(self, timeout: float) -> bool:
        """Wait until the link has a stream again or has ended; return False if timeout [s] passes first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.broken, timeout)

    def try_stream(self) -> Stream:
        """Return a new stream that begins with Reconnect; it takes over once the peer answers."""
        with self._changed:
            self._reconnection.trial = stream = Stream(self, owes_reconnect=True)
            self._reconnection.attempt += 1
            return stream

    def await_trial(self, trial: Stream, timeout: float) -> None:
        """Wait up to timeout [s] for a trial stream to take over; raises the reason if it does not."""
        with self._changed:
            self._changed.wait_for(lambda: not self.broken or trial.over, timeout)
            self._reconnection.trial = None
            self._changed.notify_all()
            if self.broken:
                raise (trial.over and trial.failure) or peer_errors.PeerGoneError(reason=NO_ANSWER)

    def take_over(self, other: Link, first: Reconnect) -> None:
        """Move this link to the stream of another one, which began with this Reconnect; the old stream is abandoned.

        Raises PeerProtocolError for impossible message counts and for an outdated attempt, which may arrive late.
        """
        stream = other.stream
        assert stream is not None
        with self._changed:
            if first.attempt <= self._reconnection.attempt:
                raise peer_errors.PeerProtocolError(detail="it repeated an attempt to reconnect")
            self._outbox.resend_after(first.messages)
            self._reconnection.attempt = first.attempt
            stream.owes_reconnect = True
            self._use(stream)
        if stream.over:
            self.stream_ended(stream)

    def _answered(self, stream: Stream, answer: Message | PsicliError) -> None:
        """Handle the peer's answer to our Reconnect."""
        match answer:
            case Reconnect(sid, attempt, messages) if self.is_of(sid) and attempt == self._reconnection.attempt:
                failpoints.hit("reconnect.answered")
                try:
                    self._outbox.resend_after(messages)
                    self._use(stream)
                except peer_errors.PeerProtocolError as exc:
                    self.end(exc)
            case Abort():
                self.end(peer_errors.PeerGoneError(reason="it no longer has this session"))
            case _:
                self.end(peer_errors.PeerProtocolError(detail="it did not answer with Reconnect"))

    def _use(self, stream: Stream) -> None:
        self.stream = stream
        # A break that this stream has mended must not be reported later: the dialer would close this stream, too.
        self._reconnection.trial = self._reconnection.lost = None
        stream.link = self
        self._traffic.heard_at = time.monotonic()
        self._inbox.confirm_again()
        self._changed.notify_all()


def reason_of(failure: PsicliError) -> str:
    """Return why a connection failed, worded as part of a sentence."""
    return str(failure.facts.get("reason", failure.message))


def _kind(message: Message) -> str:
    return type(message).__name__.removesuffix("Octets").lower()
