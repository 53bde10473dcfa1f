"""The protocol of one attempt at a bin by ECDH, as far as both roles share it.

    receiver                                    sender
    Frame* End  (1: its points)  ->
                                <-              Frame* End  (2: its points)
                                <-              Frame* End  (3: tokens of the receiver's points)
    Received                     ->

Where the receiver only counts, there is one bin, and stream 3 begins when the streams 1 and 2 have ended and the sender
has checked them; its tokens come in a second secret order.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import BinParty, BinPhase, Sizes
from psicli.protocol.messages import End, Frame, Message, Stream
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place
from psicli.protocol.work import CheckLists, KeepTokens, MaskOwn, MaskPeer, Prepare, Work

# The most frames of the peer that wait for work: enough to keep the pools busy, few enough to hold in memory.
MAX_PENDING_FRAMES = 4


class PointsBin(BinParty):
    """One party's half of one attempt at a bin."""

    own_stream: ClassVar[Stream]
    peer_stream: ClassVar[Stream]

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        super().__init__(place, sizes, frame_items)
        own, peer = sizes.capacities
        self._points_out = OutgoingStream(place, self._shape(self.own_stream, own))
        self._points_in = IncomingStream(place, self._shape(self.peer_stream, peer))
        self._pending: deque[MaskPeer] = deque()
        self._masked_peer = 0
        self._prepared = False
        self._next_own = 0
        self._own_turn = True

    @property
    def exchanged(self) -> tuple[int, int]:
        return self._points_out.items, self._masked_peer

    @property
    def has_room(self) -> bool:
        return max(len(self._pending), len(self._queued)) < MAX_PENDING_FRAMES

    @property
    def all_points_sent(self) -> bool:
        return self._points_out.ended

    @property
    def all_points_arrived(self) -> bool:
        return self._points_in.ended

    @property
    def all_arrived(self) -> bool:
        return self._points_in.ended

    def receive_frame(self, frame: Frame) -> None:
        self._incoming(frame.stream).accept(frame)
        self._accepted(frame)

    def receive_end(self, end: End) -> None:
        self._incoming(end.stream).finish(end)
        self._advance()

    def _incoming(self, stream: int) -> IncomingStream:
        if stream != self.peer_stream:
            raise PeerProtocolError(detail=f"it sent stream {stream} during {self.phase.value}")
        return self._points_in

    def _accepted(self, frame: Frame) -> None:
        self._pending.append(MaskPeer(frame.seq, frame.data))

    # Work

    def _choose(self, room: bool) -> Work | None:
        if self._queued:
            return self._queued.popleft()
        if not self._prepared:
            return None
        may_send = room and self.may_send_points and self._next_own < self._points_out.shape.frames
        # Alternate between our frames and the peer's, so that both directions of the link stay busy.
        if self._pending and (room or not self._answers) and not (self._own_turn and may_send):
            self._own_turn = True
            return self._pending.popleft()
        if may_send:
            self._own_turn = False
            self._next_own += 1
            return MaskOwn(*self._points_out.shape.span(self._next_own - 1))
        return None

    # Whether this role answers a frame of the peer's points with a frame of tokens.
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
            case MaskOwn():
                messages = [self._points_out.frame(result)]
                if self._points_out.all_sent:
                    messages.append(self._points_out.end())
            case MaskPeer(seq):
                start, stop = self._points_in.shape.span(seq)
                self._masked_peer += stop - start
                messages = self._answer(result)
            case KeepTokens():
                pass
            case CheckLists():
                self.phase = BinPhase.CHECKED
                messages = self._checked()
            case _:
                raise LocalProtocolError(detail=f"{type(work).__name__} is not work of a bin")
        self._advance()
        return messages

    def _advance(self) -> None:
        """Begin the checks once both lists are complete."""
        if self.phase is BinPhase.EXCHANGE and self._points_out.ended and self._lists_complete and self.idle:
            self.phase = BinPhase.CHECKS
            self._queued.append(CheckLists())

    @property
    def _lists_complete(self) -> bool:
        return self._masked_peer == self._points_in.shape.count and self._points_in.ended

    def _answer(self, result: bytes) -> list[Message]:
        """Return the answer to a masked frame of the peer's points."""
        return []

    def _checked(self) -> list[Message]:
        """Return the messages to send once the lists are checked."""
        return []
