"""The link of a session to its peer: messages in two bounded queues, over one stream at a time.

Nothing here knows gRPC: `endpoint` moves octets between a stream and its link, and the listener and the dialer, which
make the streams, replace one that broke. How long to wait for what is decided by the caller.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from dataclasses import dataclass, field

from cryptography import x509

from psicli.core import errors, failpoints, signals, trace
from psicli.core.errors import PsicliError, unexpected
from psicli.protocol.messages import Abort, Bye, Commit, Done, Message, Received, Reconnect, Taken
from psicli.protocol.wire import decode, encode
from psicli.transport.window import Inbox, Incoming, Outbox, Outgoing

logger = logging.getLogger(__name__)

# The class of a failure by which a party says that it has a session already.
BUSY = errors.PeerBusyError.code
# Frames that wait to be sent: enough to ride out a busy moment of either side.
QUEUE_FRAMES = 8
# How long the last words to somebody who was turned away may take [s].
LAST_WORDS_TIMEOUT = 3.0
# How long the stream of our Abort stays open. A connection that is closed while the peer still writes to it takes what
# the peer has not read with it [s].
HEARING_TIMEOUT = 1.0
# A peer not heard for so long may be stopped [s].
LONG_SILENCE = 30.0
NO_ANSWER = "no answer"


@dataclass(eq=False)
class Stream:
    """One stream; the link whose messages it carries may have had others before, and may outlive it.

    remote: where its other end is, as gRPC writes it, to a listener.
    """

    link: Link
    remote: str = ""
    # Whether it has to begin with Reconnect, and whether Bye was said on it.
    owes_reconnect: bool = False
    said_bye: bool = False
    # Whether gRPC still has something to send over it, to a listener.
    served: bool = False
    # Whether the last words said on it found nobody, as far as it was watched.
    unanswered: bool = False
    over: bool = False
    failure: PsicliError | None = None

    @property
    def why_it_ended(self) -> str:
        return "the connection was closed" if self.failure is None else reason_of(self.failure)

    def was_served(self) -> None:
        """Take note that gRPC is through with it: the last word has been handed to the system, or never will be."""
        self.served = False
        self.end(errors.PeerGoneError(reason="the connection broke"))

    def end(self, failure: PsicliError | None) -> None:
        """Take note of its end; the first reason stays."""
        if not self.over:
            self.failure, self.over = failure, True
        self.link.stream_ended(self)


@dataclass
class _Reconnection:
    """How a stream that broke is replaced; without a sid the link ends with it.

    attempt: the last one made, to a dialer, or taken in. lost: the stream that broke, until somebody attends to it.
    trial: the one that is tried and was not answered yet.
    """

    sid: bytes = field(default=b"", repr=False)
    attempt: int = 0
    lost: Stream | None = None
    trial: Stream | None = None


@dataclass
class _Traffic:
    """What was handed to a stream and what came out of it [bytes], and when the peer was last heard [s, monotonic]."""

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
    """Messages to and from the peer.

    own_hello, peer_hello: the Hellos of this session, the octets that travelled. peer_certificate: where there is TLS.
    When its stream breaks, a link that may reconnect goes on over a new one: what was sent and has not arrived is sent
    again, and neither side's session takes notice.
    """

    def __init__(self) -> None:
        self.own_hello = b""
        self.peer_hello = b""
        self.peer_certificate: x509.Certificate | None = None
        # None while it is broken.
        self.stream: Stream | None = Stream(self)
        # What ended the link, if it was no clean end.
        self.failure: PsicliError | None = None
        self._changed = threading.Condition()
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._traffic = _Traffic()
        self._reconnection = _Reconnection()
        self._woken = False

    # The session's side

    def send(self, message: Message) -> int:
        """Queue a message and return its size [bytes]; after our last word or a failure it goes nowhere."""
        octets = failpoints.carry(f"{_kind(message)}.sending", encode(message))
        with self._changed:
            if self._outbox.state is Outgoing.OPEN and self.failure is None:
                if isinstance(message, Abort):
                    self._outbox.abort(octets)
                else:
                    self._outbox.put(octets, owed=isinstance(message, Received | Commit | Done))
                trace.count("outbox", "messages", len(self._outbox))
                self._changed.notify_all()
        return len(octets)

    def poll(self) -> tuple[Message, int] | None:
        """Take the next message and return it with its size [bytes], or None.

        Raises PeerProtocolError for what is no message, and what ended the link once its last message was returned.
        """
        with self._changed:
            self._changed.notify_all()
            if not self._inbox:
                if self.ended:
                    raise self.failure or errors.PeerGoneError(reason="it closed the connection")
                return None
            message, size = self._inbox.pop()
            trace.count("inbox", "messages", len(self._inbox))
        if isinstance(message, PsicliError):
            raise message
        failpoints.passage(f"{_kind(message)}.arrived")
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

    def first(self, timeout: float) -> Message | None:
        """Take the first message, None when none comes in time [s]; raises what ended the stream."""
        self.wait(for_message=True, room_for=None, timeout=timeout)
        arrived = self.poll()
        return arrived[0] if arrived else None

    @property
    def silence(self) -> float:
        """Time since the peer was last heard [s].

        0 while it is we who do not listen, and while the link is broken: how long that may last is said elsewhere.
        """
        return 0.0 if self._inbox or self.broken else self._unheard

    @property
    def ended(self) -> bool:
        return self._inbox.ended

    @property
    def broken(self) -> bool:
        """Whether there is no stream, but there may be one again."""
        return self.stream is None and not self.ended

    def close_outgoing(self) -> None:
        """End our direction once what is queued has been sent."""
        with self._changed:
            self._outbox.close()
            self._changed.notify_all()

    def finish(self, timeout: float) -> bool:
        """End our direction, read nothing any more, and wait for the end of the stream [s].

        Return, to a dialer, whether the listener ended it and so has taken in everything.
        """
        with self._changed:
            # A full inbox would keep the end of the stream from arriving.
            self._inbox.close()
            self.close_outgoing()
        return signals.wait_for(self._changed, self._is_over, timeout) and self.failure is None

    def abort(self, failure_class: int, timeout: float) -> None:
        """Tell the peer the class of our failure, and end the stream within timeout [s].

        What is queued is dropped, but for the last word about a task: what is done here must be done there too.
        """
        with self._changed:
            self._outbox.drop()
        self.send(Abort(failure_class))
        self.finish(timeout)

    def _is_over(self) -> bool:
        return self.ended and not (self.stream and self.stream.served)

    # The transport's side

    @property
    def long_unheard(self) -> bool:
        """Whether the peer was not heard for so long that it may be stopped."""
        return self._unheard >= LONG_SILENCE

    @property
    def _unheard(self) -> float:
        return time.monotonic() - self._traffic.heard_at

    def next_octets(self, stream: Stream) -> bytes | None:
        """Wait for what is to go out next over a stream and take it; None when nothing will."""
        with self._changed:
            while stream is self.stream or stream is self._reconnection.trial:
                octets = self._take_next(stream)
                if octets is not None:
                    self._traffic.note_sent(len(octets))
                    trace.count("outbox", "messages", len(self._outbox))
                    self._changed.notify_all()
                    return octets
                # A peer that has only ended its own direction still listens, and waits for our Bye.
                over = self._outbox.state is not Outgoing.OPEN or self._inbox.state is Incoming.LOST
                if self.failure or stream.said_bye or (over and not self._outbox):
                    return None
                self._changed.wait()
            return None

    def _take_next(self, stream: Stream) -> bytes | None:
        if stream.owes_reconnect:
            stream.owes_reconnect = False
            return encode(Reconnect(self._reconnection.sid, self._reconnection.attempt, self._inbox.arrived))
        if stream is self._reconnection.trial or self.failure or stream.said_bye:
            return None
        if self._inbox.must_tell:
            return encode(Taken(self._inbox.tell()))
        freely = self._outbox.state is not Outgoing.OPEN or self._inbox.has_last_word
        octets = self._outbox.take(freely=freely)
        if octets is None and self._outbox.state is Outgoing.CLOSING and not self._outbox:
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
            if stream is self._reconnection.trial:
                self._answered(stream, message)
            elif stream is self.stream:
                self._traffic.note_received(len(octets))
                self._take_in(message, len(octets), stream)
            self._changed.notify_all()

    def _take_in(self, message: Message | PsicliError, size: int, stream: Stream) -> None:
        if self._inbox.has_last_word and not isinstance(message, Taken | Bye | PsicliError):
            message = errors.PeerProtocolError(detail="it goes on after its last word")
        match message:
            case Bye():
                self._inbox.hear_last_word()
                return
            case Taken(messages):
                try:
                    self._outbox.confirm(messages)
                    return
                except errors.PeerProtocolError as exc:
                    message = exc
            case Abort():
                self._inbox.hear_last_word()
        # The peer keeps to the window; one that does not is not read from.
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
        """End the link with an exception that nobody expected."""
        logger.exception("unexpected failure")
        self.end(unexpected(exc))

    def await_end(self, stream: Stream) -> None:
        """Wait until a stream is not needed any more: after our Abort, until the peer had time to hear it."""
        with self._changed:
            timeout = HEARING_TIMEOUT if self._outbox.state is Outgoing.ABORTED else None
            self._changed.wait_for(lambda: self.ended or stream is not self.stream, timeout)

    # Reconnecting

    def allow_reconnect(self, sid: bytes) -> None:
        """Expect a broken stream to be replaced from now on, by whoever waits in await_break."""
        self._reconnection.sid = sid

    def is_of(self, sid: bytes) -> bool:
        """Tell whether a session with this sid goes on over this link."""
        own = self._reconnection.sid
        return not self.ended and bool(own) and hmac.compare_digest(own, sid)

    def stream_ended(self, stream: Stream) -> None:
        """Take note of the end of a stream: of the link too, unless that may reconnect."""
        with self._changed:
            self._changed.notify_all()
            if stream is not self.stream or self.ended:
                return
            through = self._inbox.has_last_word or self._outbox.state is Outgoing.ABORTED
            if not self._reconnection.sid or through or isinstance(stream.failure, errors.PeerProtocolError):
                self.end(stream.failure)
            else:
                self.stream, self._reconnection.lost = None, stream

    def await_break(self, timeout: float | None = None) -> Stream | None:
        """Wait until the stream breaks and return it, once; None where the link ends first, or time is over [s].

        There may be a new one by then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reconnection.lost is not None or self.ended, timeout)
            lost, self._reconnection.lost = self._reconnection.lost, None
            return None if self.ended else lost

    def await_stream(self, timeout: float) -> bool:
        """Wait until there is a stream, or no hope for one [s]; return whether either is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.broken, timeout)

    def try_stream(self) -> Stream:
        """Begin a stream with Reconnect that takes over once that is answered, and return it."""
        with self._changed:
            self._reconnection.trial = stream = Stream(self, owes_reconnect=True)
            self._reconnection.attempt += 1
            return stream

    def await_trial(self, trial: Stream, timeout: float) -> None:
        """Wait for the stream that is tried [s]; raises why it did not take over."""
        with self._changed:
            self._changed.wait_for(lambda: not self.broken or trial.over, timeout)
            self._reconnection.trial = None
            self._changed.notify_all()
            if self.broken:
                raise (trial.over and trial.failure) or errors.PeerGoneError(reason=NO_ANSWER)

    def take_over(self, other: Link, first: Reconnect) -> None:
        """Go on over the stream of another link, which began so; the stream there was, whole or not, is over.

        Raises PeerProtocolError for numbers that cannot be: an attempt that was given up may arrive late.
        """
        stream = other.stream
        assert stream is not None
        with self._changed:
            if first.attempt <= self._reconnection.attempt:
                raise errors.PeerProtocolError(detail="it reconnects again as it did before")
            self._outbox.go_on_after(first.messages)
            self._reconnection.attempt = first.attempt
            stream.owes_reconnect = True
            self._use(stream)
        if stream.over:
            self.stream_ended(stream)

    def _answered(self, stream: Stream, answer: Message | PsicliError) -> None:
        """Take in the answer to Reconnect."""
        match answer:
            case Reconnect(sid, attempt, messages) if self.is_of(sid) and attempt == self._reconnection.attempt:
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
        self.stream = stream
        self._reconnection.trial = None
        stream.link = self
        self._traffic.heard_at = time.monotonic()
        self._inbox.tell_again()
        self._changed.notify_all()


def reason_of(failure: PsicliError) -> str:
    """Return why a connection failed, as it stands in a sentence."""
    return str(failure.facts.get("reason", failure.message))


def _kind(message: Message) -> str:
    return type(message).__name__.removesuffix("Octets").lower()
