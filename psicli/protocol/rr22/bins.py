"""The protocol of one attempt at a bin by RR22: streams that take turns, because each depends on the one before.

    receiver                                    sender
                                <-              Frame* End  (5: keys of the transfers)
    Frame* End  (6: choices)     ->
                                <-              Frame* End  (7: sums of trees)
    Frame* End  (8: its vector)  ->
                                <-              Frame* End  (3: tokens of the sender's items)
    Received                     ->

A party computes a stream as a whole once the one before has arrived, and then sends it frame by frame. What arrives is
kept in memory until its End: the sizes of all streams are known, and a stream is used only as a whole. So a party can
always read, and the streams of two bins may be in transit at the same time without blocking each other.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import BinParty, BinPhase, Sizes
from psicli.protocol.messages import End, Frame, Message, Stream
from psicli.protocol.rr22 import sizes as vectors
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place
from psicli.protocol.work import CheckLists, Compute, ComputeAhead, KeepTokens, Prepare, SendPart, Work

_ORDER = (Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR, Stream.TOKENS)


def token_bytes(sizes: Sizes) -> int:
    """Return the size of a token of a task [bytes]."""
    return vectors.token_bytes(*(sizes.bins * each for each in sizes.capacities))


class VectorBin(BinParty):
    """One party's half of one attempt at a bin."""

    receives: ClassVar[bool]
    # The streams that this role sends.
    sends: ClassVar[tuple[Stream, ...]]

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        super().__init__(place, sizes, frame_items)
        self._streams = {stream: self._stream(stream) for stream in _ORDER}
        # The streams that have not ended; the first one is due.
        self._left = deque(self._streams.values())
        # What is computed of our stream, and how many of its frames have been handed out.
        self._computed = b""
        self._next = 0
        # What has arrived of the peer's stream.
        self._arrived: list[bytes] = []
        self._compute(b"")

    def _stream(self, stream: Stream) -> IncomingStream | OutgoingStream:
        own, peer = self.sizes.capacities
        receiver, sender = (own, peer) if self.receives else (peer, own)
        blocks = vectors.sizes(receiver)
        counts = {
            Stream.KEYS: blocks.keys,
            Stream.CHOICES: blocks.choices,
            Stream.SUMS: blocks.sums,
            Stream.VECTOR: blocks.vector,
            Stream.TOKENS: sender,
        }
        bits = 8 * token_bytes(self.sizes) if stream is Stream.TOKENS else 0
        kind = OutgoingStream if stream in self.sends else IncomingStream
        return kind(self.place, self._shape(stream, counts[stream], bits))

    @property
    def exchanged(self) -> tuple[int, int]:
        vector, tokens = self._streams[Stream.VECTOR], self._streams[Stream.TOKENS]
        own, peer = self.sizes.capacities
        if self.receives:
            return vector.items * own // vector.shape.count, tokens.items
        return tokens.items, vector.items * peer // vector.shape.count

    @property
    def has_room(self) -> bool:
        return True

    @property
    def all_arrived(self) -> bool:
        return not any(isinstance(each, IncomingStream) for each in self._left)

    def receive_frame(self, frame: Frame) -> None:
        due = self._incoming(frame.stream)
        due.accept(frame)
        self._arrived.append(frame.data)
        if frame.stream == Stream.TOKENS and due.frames == due.shape.frames:
            # Do not wait for the end of the tokens, which the sender sends after it has recorded its answer.
            self._queued += (KeepTokens(0, self._taken()), CheckLists())
            self.phase = BinPhase.CHECKS

    def receive_end(self, end: End) -> None:
        self._incoming(end.stream).finish(end)
        self._left.popleft()
        self._compute(self._taken())

    def _incoming(self, stream: int) -> IncomingStream:
        due = self._left[0] if self._left else None
        if not isinstance(due, IncomingStream) or due.shape.stream != stream:
            what = f"stream {due.shape.stream} was due" if due else "all streams had ended"
            raise PeerProtocolError(detail=f"it sent stream {stream} when {what}")
        return due

    def _taken(self) -> bytes:
        """Return and forget what has arrived."""
        taken = b"".join(self._arrived)
        self._arrived.clear()
        return taken

    def _compute(self, received: bytes) -> None:
        """Let the stream that is due be computed, if it is ours."""
        if self._left and isinstance(self._left[0], OutgoingStream):
            self._queued.append(Compute(self._left[0].shape.stream, received))

    # Work

    def _choose(self, room: bool) -> Work | None:
        if self._queued:
            # Each piece needs the one before.
            return None if self._handed_out else self._queued.popleft()
        if not (room and self._computed and self._next < self._outgoing.shape.frames):
            return None
        self._next += 1
        return SendPart(*self._outgoing.shape.span(self._next - 1))

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, SendPart)

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case Prepare() | ComputeAhead() | KeepTokens():
                return []
            case Compute():
                shape = self._outgoing.shape
                if len(result) != shape.bytes_of(shape.count):
                    raise LocalProtocolError(detail=f"stream {shape.stream} was computed with a wrong size")
                self._computed, self._next = result, 0
                return []
            case SendPart(start, stop):
                return self._send(start, stop)
            case CheckLists():
                self.phase = BinPhase.CHECKED
                return self._checked()
        raise LocalProtocolError(detail=f"{type(work).__name__} is not work of a bin")

    @property
    def _outgoing(self) -> OutgoingStream:
        """The stream of ours that is due."""
        due = self._left[0]
        assert isinstance(due, OutgoingStream)
        return due

    def _send(self, start: int, stop: int) -> list[Message]:
        due = self._outgoing
        messages: list[Message] = [due.frame(self._computed[due.shape.bytes_of(start) : due.shape.bytes_of(stop)])]
        if due.all_sent:
            self._computed = b""
            messages += self._all_sent()
        return messages

    def _all_sent(self) -> list[Message]:
        """Return the messages to send after the last frame of a stream of ours."""
        due = self._outgoing
        self._left.popleft()
        self._queued.append(ComputeAhead(due.shape.stream))
        return [due.end()]

    def _checked(self) -> list[Message]:
        """Return the messages to send once the lists are checked."""
        return []


class VectorReceiverBin(VectorBin):
    """A bin at the receiver: it sends its items hidden in a vector, and gets tokens of the sender's items."""

    receives = True
    sends = (Stream.CHOICES, Stream.VECTOR)


class VectorSenderBin(VectorBin):
    """A bin at the sender: it answers the receiver's vector with tokens of its own items."""

    receives = False
    sends = (Stream.KEYS, Stream.SUMS, Stream.TOKENS)

    @staticmethod
    def questions(capacity: int) -> int:
        # A receiver can hide an item in each position of its store.
        return vectors.sizes(capacity).store

    def _all_sent(self) -> list[Message]:
        if self._outgoing.shape.stream != Stream.TOKENS:
            return super()._all_sent()
        self._queued.append(CheckLists())
        self.phase = BinPhase.CHECKS
        return []

    def _checked(self) -> list[Message]:
        # The tokens end only once it is recorded that they were sent, so that R cannot finish a bin that is not.
        due = self._outgoing
        self._left.popleft()
        return [due.end()]
