"""One attempt at one bin, seen from either role: points both ways, tokens from the sender, and the checks.

receiver                                    sender
Frame* End  (1: its points)  ->
                            <-              Frame* End  (2: its points)
                            <-              Frame* End  (3: tokens of the receiver's points)
Received                     ->
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import ClassVar

from psicli.core.errors import LocalProtocolError, PeerProtocolError
from psicli.protocol.messages import End, Frame, Message, Stream
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place, StreamShape
from psicli.protocol.work import CheckLists, KeepTokens, Lane, MaskOwn, MaskPeer, Prepare, Work

# Frames of the peer's that wait for work: enough to keep busy, little enough to hold in memory.
MAX_PENDING_FRAMES = 4


class BinPhase(Enum):
    """Where an attempt at a bin stands."""

    EXCHANGE = "the exchange of points"
    CHECKS = "the checks"
    THROUGH = "the wait for Received"


class BinParty(Lane):
    """One attempt at a bin, from one side. It knows of no other bin; who carries it out keeps the order of bins."""

    own_stream: ClassVar[Stream]
    peer_stream: ClassVar[Stream]

    def __init__(self, place: Place, own: int, peer: int, frame_items: int) -> None:
        """own, peer: the capacities of the bin [items]."""
        super().__init__()
        self.place = place
        self.phase = BinPhase.EXCHANGE
        self.masked_own = self.masked_peer = 0
        # Whether those of the bins before it have all been sent: who keeps the order of bins says so.
        self.may_send_points = True
        self._frame_items = frame_items
        self._points_out = OutgoingStream(place, self._shape(self.own_stream, own))
        self._points_in = IncomingStream(place, self._shape(self.peer_stream, peer))
        self._pending: deque[MaskPeer] = deque()
        self._queued.append(Prepare())
        self._prepared = False
        self._next_own = 0
        self._own_turn = True

    def _shape(self, stream: Stream, count: int) -> StreamShape:
        return StreamShape(stream, count, self._frame_items)

    # What others see

    @property
    def has_room(self) -> bool:
        """Whether another frame may be taken in now."""
        return max(len(self._pending), len(self._queued)) < MAX_PENDING_FRAMES

    @property
    def all_points_sent(self) -> bool:
        return self._points_out.ended

    @property
    def all_points_arrived(self) -> bool:
        return self._points_in.ended

    @property
    def all_arrived(self) -> bool:
        """Whether the peer has sent all that is due before Received."""
        return self._points_in.ended

    @property
    def through(self) -> bool:
        """Whether all has arrived and was checked."""
        return self.phase is BinPhase.THROUGH and self.all_arrived

    def take_frame(self, frame: Frame) -> None:
        """Take in a frame; raises PeerProtocolError."""
        self._incoming(frame.stream).accept(frame)
        self._took(frame)

    def take_end(self, end: End) -> None:
        """Take in the end of a stream; raises PeerProtocolError."""
        self._incoming(end.stream).finish(end)
        self._advance()

    def _incoming(self, stream: int) -> IncomingStream:
        if stream != self.peer_stream:
            raise PeerProtocolError(detail=f"stream {stream} came during {self.phase.value}")
        return self._points_in

    def _took(self, frame: Frame) -> None:
        self._pending.append(MaskPeer(frame.seq, frame.data))

    # Work

    def _choose(self, room: bool) -> Work | None:
        if self._queued:
            return self._queued.popleft()
        if not self._prepared:
            return None
        may_send = room and self.may_send_points and self._next_own < self._points_out.shape.frames
        # Turn by turn, so that both directions of the link stay busy.
        if self._pending and (room or not self._answers) and not (self._own_turn and may_send):
            self._own_turn = True
            return self._pending.popleft()
        if may_send:
            self._own_turn = False
            self._next_own += 1
            return MaskOwn(*self._points_out.shape.span(self._next_own - 1))
        return None

    # Whether a frame of the peer's points is answered with a frame of tokens.
    _answers: ClassVar[bool]

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, MaskOwn) or (isinstance(work, MaskPeer) and self._answers)

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        messages: list[Message] = []
        match work:
            case Prepare():
                self._prepared = True
                if self._points_out.all_sent:
                    messages = [self._points_out.end()]
            case MaskOwn(start, stop):
                self.masked_own += stop - start
                messages = [self._points_out.frame(result)]
                if self._points_out.all_sent:
                    messages.append(self._points_out.end())
            case MaskPeer(seq):
                start, stop = self._points_in.shape.span(seq)
                self.masked_peer += stop - start
                messages = self._answer(result)
            case KeepTokens():
                pass
            case CheckLists():
                self.phase = BinPhase.THROUGH
                messages = self._checked()
            case _:
                raise LocalProtocolError(detail=f"{type(work).__name__} is no work of a bin")
        self._advance()
        return messages

    def _advance(self) -> None:
        """Begin the checks once both lists are complete."""
        if self.phase is BinPhase.EXCHANGE and self._points_out.ended and self._lists_complete and self.idle:
            self.phase = BinPhase.CHECKS
            self._queued.append(CheckLists())

    @property
    def _lists_complete(self) -> bool:
        return self.masked_peer == self._points_in.shape.count and self._points_in.ended

    def _answer(self, result: bytes) -> list[Message]:
        """Return what a masked frame of the peer's points is answered with."""
        return []

    def _checked(self) -> list[Message]:
        """Return what is said once the lists are checked."""
        return []


class ReceiverBin(BinParty):
    """A bin at the receiver: it sends points, gets points and tokens."""

    own_stream = Stream.RECEIVER_POINTS
    peer_stream = Stream.SENDER_POINTS
    _answers = False

    def __init__(self, place: Place, own: int, peer: int, frame_items: int) -> None:
        super().__init__(place, own, peer, frame_items)
        self._tokens = IncomingStream(place, self._shape(Stream.TOKENS, own))

    @property
    def all_arrived(self) -> bool:
        return super().all_arrived and self._tokens.ended

    @property
    def _lists_complete(self) -> bool:
        # Both sides check at once: the end of the tokens, which waits for the sender's checks, is not waited for.
        return super()._lists_complete and self._tokens.frames == self._tokens.shape.frames

    def _incoming(self, stream: int) -> IncomingStream:
        return self._tokens if stream == Stream.TOKENS else super()._incoming(stream)

    def _took(self, frame: Frame) -> None:
        if frame.stream != Stream.TOKENS:
            super()._took(frame)
        elif frame.seq >= self._points_out.frames:
            raise PeerProtocolError(detail=f"tokens of frame {frame.seq}, which was not sent yet")
        else:
            self._queued.append(KeepTokens(frame.data))


class SenderBin(BinParty):
    """A bin at the sender: it sends points, gets points and answers them with tokens."""

    own_stream = Stream.SENDER_POINTS
    peer_stream = Stream.RECEIVER_POINTS
    _answers = True

    def __init__(self, place: Place, own: int, peer: int, frame_items: int) -> None:
        super().__init__(place, own, peer, frame_items)
        self._tokens = OutgoingStream(place, self._shape(Stream.TOKENS, peer))

    def _answer(self, result: bytes) -> list[Message]:
        return [self._tokens.frame(result)]

    def _checked(self) -> list[Message]:
        # The end of the tokens waits for the checks: R must not accept a list that we refuse.
        return [self._tokens.end()]
