"""Streams: a list of items cut into numbered frames, and the digest that chains them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from psicli.core.errors import LocalProtocolError, PeerProtocolError
from psicli.protocol.messages import End, Frame, Stream

# Points in a full frame when both sides agree to it: 512 KiB of points, a quarter of the 2 MiB message cap [items].
FRAME_ITEMS = 16_384
# A peer that wants smaller frames could make a run several times slower [items].
LEAST_FRAME_ITEMS = 1024
# A frame of points may not be larger than half the cap on a message [items].
MAX_FRAME_ITEMS = 32_768
# The bitmap needs whole bytes a frame [items].
FRAME_ITEMS_STEP = 8
# Bits an item takes in a frame of each stream.
ITEM_BITS = {Stream.RECEIVER_POINTS: 256, Stream.SENDER_POINTS: 256, Stream.TOKENS: 128, Stream.BITMAP: 1}


def first_digest(stream: int, bin_sid: bytes) -> bytes:
    """Return d_0 of a stream's chain digest, which names bin, attempt and stream [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/stream\0" + bin_sid + bytes([stream])).digest()


def next_digest(digest: bytes, data: bytes) -> bytes:
    """Return d_k from d_(k-1) and the data of frame k [32 bytes]."""
    return hashlib.sha256(digest + data).digest()


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How a list of `count` items is cut into frames: all full but the last."""

    stream: Stream
    count: int
    frame_items: int

    @property
    def frames(self) -> int:
        return -(-self.count // self.frame_items)

    def span(self, seq: int) -> tuple[int, int]:
        """Return the items [start, stop) of frame `seq`."""
        start = seq * self.frame_items
        return start, min(start + self.frame_items, self.count)

    def frame_bytes(self, seq: int) -> int:
        start, stop = self.span(seq)
        return -(-(stop - start) * ITEM_BITS[self.stream] // 8)


@dataclass(frozen=True, slots=True)
class Place:
    """Which attempt at which bin of which task a stream belongs to."""

    task: int
    bin: int
    attempt: int
    sid: bytes = field(repr=False)


class _Counted:
    """A stream of one shape: the frames so far and their digest."""

    def __init__(self, place: Place, shape: StreamShape) -> None:
        self.shape = shape
        self.frames = 0
        self.ended = False
        self.place = place
        self._digest = first_digest(shape.stream, place.sid)

    @property
    def items(self) -> int:
        """How many items the frames so far hold."""
        return min(self.frames * self.shape.frame_items, self.shape.count)

    def _add(self, data: bytes) -> None:
        self._digest = next_digest(self._digest, data)
        self.frames += 1


class OutgoingStream(_Counted):
    """A stream we send: cut, numbered and digested."""

    @property
    def all_sent(self) -> bool:
        return self.frames == self.shape.frames

    def frame(self, data: bytes) -> Frame:
        """Make the next frame of data.

        Raises LocalProtocolError when there is no such frame or data has not its size.
        """
        if self.all_sent or len(data) != self.shape.frame_bytes(self.frames):
            raise LocalProtocolError(detail=f"frame {self.frames} of stream {self.shape.stream} has a wrong size")
        at = self.place
        frame = Frame(at.task, at.bin, at.attempt, self.shape.stream, self.frames, data)
        self._add(data)
        return frame

    def end(self) -> End:
        if not self.all_sent or self.ended:
            raise LocalProtocolError(detail=f"stream {self.shape.stream} ends out of order")
        self.ended = True
        at = self.place
        return End(at.task, at.bin, at.attempt, self.shape.stream, self.shape.count, self._digest)


class IncomingStream(_Counted):
    """A stream the peer sends: order, sizes, count and digest are checked, the data is not looked into."""

    def accept(self, frame: Frame) -> None:
        """Take in the next frame; raises PeerProtocolError when it is not exactly that."""
        where = f"stream {self.shape.stream}"
        if self.ended:
            raise PeerProtocolError(detail=f"a frame after the end of {where}")
        if frame.seq != self.frames:
            raise PeerProtocolError(detail=f"frame {frame.seq} of {where} where frame {self.frames} was due")
        if frame.seq >= self.shape.frames:
            raise PeerProtocolError(detail=f"more items in {where} than the {self.shape.count} due")
        if len(frame.data) != self.shape.frame_bytes(frame.seq):
            raise PeerProtocolError(detail=f"frame {frame.seq} of {where} has {len(frame.data)} bytes, a wrong size")
        self._add(frame.data)

    def finish(self, end: End) -> None:
        """Take in the End; raises PeerProtocolError when count or digest differ from what came."""
        where = f"stream {self.shape.stream}"
        if self.ended:
            raise PeerProtocolError(detail=f"a second end of {where}")
        if self.frames != self.shape.frames or end.count != self.shape.count:
            raise PeerProtocolError(detail=f"fewer or more items in {where} than the {self.shape.count} due")
        if end.digest != self._digest:
            raise PeerProtocolError(detail=f"the digest of {where} differs from what arrived")
        self.ended = True
