"""Streams: a list of items split into numbered frames, and the digest that chains them."""

from __future__ import annotations

import hashlib
from dataclasses import field

from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.core.records import dataclass
from psicli.protocol.messages import End, Frame, Stream

# The points in a full frame: 512 KiB, a quarter of the message limit of 2 MiB [items].
FRAME_ITEMS = 16_384
# Smaller frames would let a peer make a run several times slower [items].
LEAST_FRAME_ITEMS = 1024
# A frame of points takes at most half the message limit [items].
MAX_FRAME_ITEMS = 32_768
# Frames hold a multiple of this, so that a frame of the bitmap is whole bytes [items].
FRAME_ITEMS_STEP = 8
# The bits per item in a frame of each stream; an item is a block in the last four. In RR22, tokens are shorter.
ITEM_BITS = {
    Stream.RECEIVER_POINTS: 256,
    Stream.SENDER_POINTS: 256,
    Stream.TOKENS: 128,
    Stream.BITMAP: 1,
    Stream.KEYS: 128,
    Stream.CHOICES: 128,
    Stream.SUMS: 128,
    Stream.VECTOR: 128,
}
# The streams that the bins of all tasks send one after the other.
POINTS = (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS)


def first_digest(stream: int, bin_sid: bytes) -> bytes:
    """Return d_0 of a stream's chain digest, which names bin, attempt and stream [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/stream\0" + bin_sid + bytes([stream])).digest()


def next_digest(digest: bytes, data: bytes) -> bytes:
    """Return d_k from d_(k-1) and the data of frame k [32 bytes]."""
    return hashlib.sha256(digest + data).digest()


@dataclass(frozen=True, slots=True)
class StreamShape:
    """The split of a list of `count` items into frames, of which all but the last are full.

    item_bits: the size of an item, by default that of the stream.
    """

    stream: Stream
    count: int
    frame_items: int
    item_bits: int = 0

    @property
    def frames(self) -> int:
        return -(-self.count // self.frame_items)

    def span(self, seq: int) -> tuple[int, int]:
        """Return the items [start, stop) of frame `seq`."""
        start = seq * self.frame_items
        return start, min(start + self.frame_items, self.count)

    def frame_bytes(self, seq: int) -> int:
        start, stop = self.span(seq)
        return self.bytes_of(stop - start)

    def bytes_of(self, items: int) -> int:
        """Return the size of so many items that begin a frame [bytes]."""
        return -(-items * (self.item_bits or ITEM_BITS[self.stream]) // 8)


@dataclass(frozen=True, slots=True)
class Place:
    """The attempt at a bin of a task that a stream belongs to."""

    task: int
    bin: int
    attempt: int
    sid: bytes = field(repr=False)


class _Counted:
    """A stream with a known shape: counts the frames so far and computes their digest."""

    def __init__(self, place: Place, shape: StreamShape) -> None:
        self.shape = shape
        self.frames = 0
        self.ended = False
        self.place = place
        self._digest = first_digest(shape.stream, place.sid)

    @property
    def items(self) -> int:
        """The number of items in the frames so far."""
        return min(self.frames * self.shape.frame_items, self.shape.count)

    def _add(self, data: bytes) -> None:
        self._digest = next_digest(self._digest, data)
        self.frames += 1


class OutgoingStream(_Counted):
    """A stream that we send: numbers the frames and computes their digest."""

    @property
    def all_sent(self) -> bool:
        return self.frames == self.shape.frames

    def frame(self, data: bytes) -> Frame:
        """Return the next frame, with this data; raises LocalProtocolError if no frame is left or the size is wrong."""
        if self.all_sent or len(data) != self.shape.frame_bytes(self.frames):
            raise LocalProtocolError(detail=f"frame {self.frames} of stream {self.shape.stream} has the wrong size")
        at = self.place
        frame = Frame(at.task, at.bin, at.attempt, self.shape.stream, self.frames, data)
        self._add(data)
        return frame

    def end(self) -> End:
        if not self.all_sent or self.ended:
            raise LocalProtocolError(detail=f"stream {self.shape.stream} was ended out of order")
        self.ended = True
        at = self.place
        return End(at.task, at.bin, at.attempt, self.shape.stream, self.shape.count, self._digest)


class IncomingStream(_Counted):
    """A stream that the peer sends: checks order, sizes, count and digest, but not the data."""

    def accept(self, frame: Frame) -> None:
        """Accept the next frame; raises PeerProtocolError if its number or size is wrong."""
        where = f"stream {self.shape.stream}"
        if self.ended:
            raise PeerProtocolError(detail=f"it sent a frame after the end of {where}")
        if frame.seq != self.frames:
            raise PeerProtocolError(detail=f"it sent frame {frame.seq} of {where} where frame {self.frames} was due")
        if frame.seq >= self.shape.frames:
            raise PeerProtocolError(detail=f"it sent more items in {where} than the {self.shape.count} that were due")
        size, due = len(frame.data), self.shape.frame_bytes(frame.seq)
        if size != due:
            raise PeerProtocolError(detail=f"frame {frame.seq} of {where} has {size} bytes instead of {due}")
        self._add(frame.data)

    def finish(self, end: End) -> None:
        """Accept the End; raises PeerProtocolError if its count or digest does not match the frames."""
        where = f"stream {self.shape.stream}"
        if self.ended:
            raise PeerProtocolError(detail=f"it sent a second end of {where}")
        if self.frames != self.shape.frames or end.count != self.shape.count:
            raise PeerProtocolError(detail=f"it sent a wrong number of items in {where}: {self.shape.count} were due")
        if end.digest != self._digest:
            raise PeerProtocolError(detail=f"the digest of {where} differs from that of its frames")
        self.ended = True
