"""One task of the protocol, seen from either role, as state machines.

Rules of this module: it validates, orders and counts messages and hands out work; it never computes points, and it
does no I/O, keeps no clock, starts no thread and logs nothing. Receiver and Sender share every step that does not
depend on who learns the result; which end listens or dials is unknown here.

    receiver                                    sender
    Open                        <->             Open
    Chunk* End  (1: its points)  ->
                                <-              Chunk* End  (2: its points)
                                <-              Chunk* End  (3: tokens of the receiver's points)
    Received                     ->                                          one-sided: the sender is done
    Chunk* End  (4: the bitmap)  ->                                          with broadcast_result instead
    Ready                       <->             Ready
    Commit                       ->
                                <-              Done
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import ClassVar, NamedTuple, TypeAlias, cast

from psicli.errors import DisagreementError, LocalProtocolError, PeerProtocolError, TooManyItemsError

PROTOCOL_VERSION = 1
SUITE = "psicli-v1"
NONCE_BYTES = 32
DIGEST_BYTES = 32
PROBE_BYTES = 16

# Points in a full frame when both sides agree to it: 512 KiB of points, a quarter of the 2 MiB message cap [items].
CHUNK_ITEMS = 16_384
# With 16-byte tokens a false match stays below 2^-67 up to here [items], both lists together.
MAX_TOTAL_ITEMS = 2**44
# Frames of the peer's points taken in but not yet masked: enough to keep busy, little enough to hold in memory.
MAX_PENDING_FRAMES = 4
# Digests of a stream that are kept for the Acks of its latest frames, far more than are on their way at a time: a peer
# that wants tiny frames must not make this side remember millions [digests].
KEPT_DIGESTS = 4096


class Stream(IntEnum):
    """The four streams of a task."""

    RECEIVER_POINTS = 1
    SENDER_POINTS = 2
    TOKENS = 3
    BITMAP = 4


# Bits an item takes in a frame of each stream.
ITEM_BITS = {Stream.RECEIVER_POINTS: 256, Stream.SENDER_POINTS: 256, Stream.TOKENS: 128, Stream.BITMAP: 1}


# Messages -------------------------------------------------------------------------------------------------------


class Purpose(IntEnum):
    """Why a connection is made; only a run takes the session."""

    RUN = 1
    CHECK = 2


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """What both parties must agree on for one task."""

    name: str
    receiver: str
    broadcast_result: bool
    key_columns: int


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a connection, both ways."""

    package_version: str
    party: str
    job: str
    tasks: tuple[TaskTerms, ...]
    chunk_items: int
    nonce: bytes = field(repr=False)
    purpose: Purpose = Purpose.RUN
    protocol_version: int = PROTOCOL_VERSION
    suite: str = SUITE
    # How long this side puts up with silence [ms].
    recv_timeout_ms: int = 300_000
    # This side's clock, Unix time [ms].
    clock_ms: int = 0


@dataclass(frozen=True, slots=True)
class HelloOctets:
    """A Hello exactly as it travels: the session id is a hash over these octets."""

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamOffset:
    """How far a stream got: frames, and the chain digest after them."""

    stream: int
    frames: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResumeOffer:
    """What a side could go on from; complete: it needs nothing more from its peer."""

    task_sid: bytes = field(repr=False)
    own_count: int
    peer_count: int
    offsets: tuple[StreamOffset, ...]
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """Open a task: how many distinct items, and the probe of the item encoding."""

    task: int
    count: int
    probe: bytes = field(repr=False)
    resume: ResumeOffer | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One frame of a stream."""

    task: int
    stream: int
    seq: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream: items in all, and the chain digest after the last frame."""

    task: int
    stream: int
    count: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """R has everything it needs; a one-sided task is done for S."""

    task: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Our output is safely in a temporary file."""

    task: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Both outputs are safe: publish them."""

    task: int


@dataclass(frozen=True, slots=True)
class Done:
    """S has published its output."""

    task: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Frames of a stream taken in so far; with stream 0 only "still working"."""

    task: int
    stream: int = 0
    frames: int = 0
    digest: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Abort:
    """The peer stops; its exit code is all it says."""

    failure_class: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """A new stream takes the place of one that broke.

    attempt: of the dialer's, from 1 on; messages: how many this side has taken in.
    """

    sid: bytes = field(repr=False)
    attempt: int
    messages: int


@dataclass(frozen=True, slots=True)
class Taken:
    """How many messages this side has read since the session began."""

    messages: int


@dataclass(frozen=True, slots=True)
class Bye:
    """This side has said everything."""


TaskMessage: TypeAlias = Open | Chunk | End | Received | Ready | Commit | Done | Ack
LinkMessage: TypeAlias = Reconnect | Taken | Bye
Message: TypeAlias = HelloOctets | TaskMessage | Abort | LinkMessage


# Session and task ids -------------------------------------------------------------------------------------------


def session_id(listener_hello: bytes, dialer_hello: bytes) -> bytes:
    """Hash both Hellos, as the octets that travelled, into the session id [32 bytes]."""
    digest = hashlib.sha256(b"psicli/v1/sid\0")
    for octets in (listener_hello, dialer_hello):
        digest.update(len(octets).to_bytes(4, "big") + octets)
    return digest.digest()


def task_session_id(sid: bytes, task_name: str) -> bytes:
    """Derive the id of one task, which every hash of an item and every token is bound to [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/task\0" + sid + task_name.encode()).digest()


# Streams --------------------------------------------------------------------------------------------------------


def first_digest(stream: int, task_sid: bytes) -> bytes:
    """Return d_0 of a stream's chain digest, which names task and stream [32 bytes]."""
    return hashlib.sha256(b"psicli/v1/stream\0" + task_sid + bytes([stream])).digest()


def next_digest(digest: bytes, data: bytes) -> bytes:
    """Return d_k from d_(k-1) and the data of frame k [32 bytes]."""
    return hashlib.sha256(digest + data).digest()


class _Chain:
    """The running digest of a stream, from the one after so many frames on."""

    def __init__(self, frames: int, digest: bytes) -> None:
        self.frames = frames
        self._latest = deque([digest], maxlen=KEPT_DIGESTS)

    def add(self, data: bytes) -> None:
        self._latest.append(next_digest(self.last, data))
        self.frames += 1

    @property
    def last(self) -> bytes:
        return self._latest[-1]

    def at(self, frames: int) -> bytes | None:
        """Return the digest after so many frames, or None where that is long ago or still to come."""
        behind = self.frames - frames
        return self._latest[-1 - behind] if 0 <= behind < len(self._latest) else None


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How a list of `count` items is cut into frames: all full but the last."""

    stream: Stream
    count: int
    chunk_items: int

    @property
    def frames(self) -> int:
        return -(-self.count // self.chunk_items)

    def span(self, seq: int) -> tuple[int, int]:
        """Return the items [start, stop) of frame `seq`."""
        start = seq * self.chunk_items
        return start, min(start + self.chunk_items, self.count)

    def items(self, frames: int) -> int:
        """Return how many items the first frames hold."""
        return min(frames * self.chunk_items, self.count)

    def frame_bytes(self, seq: int) -> int:
        start, stop = self.span(seq)
        return -(-(stop - start) * ITEM_BITS[self.stream] // 8)


class OutgoingStream:
    """A stream we send: cut, numbered and digested; frames, digest: what is there already."""

    def __init__(self, task: int, shape: StreamShape, frames: int, digest: bytes) -> None:
        self.task = task
        self.shape = shape
        self._chain = _Chain(frames, digest)
        self._ended = False

    @property
    def sent(self) -> int:
        return self._chain.frames

    @property
    def all_sent(self) -> bool:
        return self.sent == self.shape.frames

    def frame(self, data: bytes) -> Chunk:
        """Make the next frame of data.

        Raises LocalProtocolError when there is no such frame or data has not its size.
        """
        if self.all_sent or len(data) != self.shape.frame_bytes(self.sent):
            raise LocalProtocolError(detail=f"frame {self.sent} of stream {self.shape.stream} has a wrong size")
        chunk = Chunk(self.task, self.shape.stream, self.sent, data)
        self._chain.add(data)
        return chunk

    def digest_after(self, frames: int) -> bytes | None:
        """Return the chain digest after so many of the latest frames, None where that is long ago."""
        return self._chain.at(frames)

    def end(self) -> End:
        if not self.all_sent or self._ended:
            raise LocalProtocolError(detail=f"stream {self.shape.stream} ends out of order")
        self._ended = True
        return End(self.task, self.shape.stream, self.shape.count, self._chain.last)

    def acknowledged(self, ack: Ack) -> None:
        """Check that an Ack speaks of frames we sent, as we sent them; raises PeerProtocolError."""
        if ack.frames > self.sent or ack.digest != (self._chain.at(ack.frames) or ack.digest):
            raise PeerProtocolError(detail=f"it acknowledged frames of stream {ack.stream} that were never sent")


class IncomingStream:
    """A stream the peer sends: order, sizes, count and digest are checked, the data is not looked into.

    frames, digest: what is there already.
    """

    def __init__(self, task: int, shape: StreamShape, frames: int, digest: bytes) -> None:
        self.task = task
        self.shape = shape
        self.complete = False
        self._chain = _Chain(frames, digest)

    @property
    def received(self) -> int:
        return self._chain.frames

    def digest_after(self, frames: int) -> bytes | None:
        """Return the chain digest after so many of the latest frames, None where that is long ago."""
        return self._chain.at(frames)

    def accept(self, chunk: Chunk) -> None:
        """Take in the next frame; raises PeerProtocolError when it is not exactly that."""
        where = f"stream {self.shape.stream}"
        if self.complete:
            raise PeerProtocolError(detail=f"a frame after the end of {where}")
        if chunk.seq != self.received:
            raise PeerProtocolError(detail=f"frame {chunk.seq} of {where} where frame {self.received} was due")
        if chunk.seq >= self.shape.frames:
            raise PeerProtocolError(detail=f"more items in {where} than the {self.shape.count} declared")
        if len(chunk.data) != self.shape.frame_bytes(chunk.seq):
            raise PeerProtocolError(detail=f"frame {chunk.seq} of {where} has {len(chunk.data)} bytes, a wrong size")
        self._chain.add(chunk.data)

    def finish(self, end: End) -> None:
        """Take in the End; raises PeerProtocolError when count or digest differ from what came."""
        where = f"stream {self.shape.stream}"
        if self.complete:
            raise PeerProtocolError(detail=f"a second end of {where}")
        if self.received != self.shape.frames or end.count != self.shape.count:
            raise PeerProtocolError(detail=f"fewer or more items in {where} than the {self.shape.count} declared")
        if end.digest != self._chain.last:
            raise PeerProtocolError(detail=f"the digest of {where} differs from what arrived")
        self.complete = True

    def ack(self, frames: int) -> Ack:
        digest = self._chain.at(frames)
        if digest is None:
            raise LocalProtocolError(detail=f"frame {frames} of stream {self.shape.stream} is acknowledged too late")
        return Ack(self.task, self.shape.stream, frames, digest)


# Resuming -------------------------------------------------------------------------------------------------------

_EXCHANGED = (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS, Stream.TOKENS)


@dataclass(frozen=True, slots=True)
class History:
    """What a side has kept of a task that an earlier run began.

    chains: of each stream of points and tokens the chain digests after 0, 1, 2, … frames; complete: whether this side
    needs nothing more from its peer.
    """

    task_sid: bytes = field(repr=False)
    own_count: int
    peer_count: int
    chunk_items: int
    chains: Mapping[int, Sequence[bytes]] = field(repr=False)
    complete: bool = False

    def offer(self) -> ResumeOffer:
        offsets = tuple(
            StreamOffset(stream, len(self.chains[stream]) - 1, self.chains[stream][-1])
            for stream in _EXCHANGED
            if stream in self.chains
        )
        return ResumeOffer(self.task_sid, self.own_count, self.peer_count, offsets, self.complete)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What both sides go on from; over: the peer is not needed any more.

    frames: of each stream, how many there are already. The tokens go along with the points they answer.
    """

    task_sid: bytes = field(repr=False)
    frames: Mapping[int, int]
    over: bool = False


def agree_on_resume(
    mine: History | None, theirs: ResumeOffer | None, *, receives: bool, broadcast: bool
) -> Resumption | None:
    """Decide from both offers, the same on both sides, what a task goes on from; None: it starts afresh.

    Raises PeerProtocolError where the peer offers what cannot be, or other frames than those this side has: with the
    same task id these are the same, or somebody has changed them.
    """
    if mine is None or theirs is None or theirs.task_sid != mine.task_sid:
        return None
    if (theirs.own_count, theirs.peer_count) != (mine.peer_count, mine.own_count):
        return None
    if broadcast:
        ends = mine.complete and theirs.complete
        fits = mine.complete == theirs.complete
    else:
        # A sender that is through has no scalar any more to help a receiver that is not.
        ends = mine.complete if receives else theirs.complete
        fits = ends or not (theirs.complete if receives else mine.complete)
    if not fits:
        return None
    if ends:
        return Resumption(mine.task_sid, {}, over=True)
    offered = _offered_frames(mine, theirs)
    own = {stream: len(mine.chains[stream]) - 1 for stream in _EXCHANGED}
    answered = min(each[stream] for each in (own, offered) for stream in (Stream.RECEIVER_POINTS, Stream.TOKENS))
    sender = min(own[Stream.SENDER_POINTS], offered[Stream.SENDER_POINTS])
    frames = (answered, sender, answered)
    return Resumption(mine.task_sid, dict(zip(_EXCHANGED, frames, strict=True)))


def _offered_frames(mine: History, theirs: ResumeOffer) -> dict[int, int]:
    """Return how many frames of each stream the peer has, as far as it can be believed; raises PeerProtocolError."""
    offered = {offset.stream: offset for offset in theirs.offsets}
    if len(offered) != len(theirs.offsets) or set(offered) != set(_EXCHANGED):
        raise PeerProtocolError(detail="it offers to go on from other streams than a task has")
    for stream, offset in offered.items():
        chain = mine.chains[stream]
        if offset.frames < len(chain) and offset.digest != chain[offset.frames]:
            raise PeerProtocolError(detail=f"what it has kept of stream {stream} is not what was sent")
    return {stream: offset.frames for stream, offset in offered.items()}


# Work -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MaskOwn:
    """Hash and mask own items [start, stop); the result is their points."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class MaskPeer:
    """Mask a frame of the peer's points; the sender's result is their tokens, the receiver keeps them to itself."""

    seq: int
    points: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeepTokens:
    """Keep tokens of own items, in the order the items were sent."""

    tokens: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeepBits:
    """Keep bits of the bitmap, in the order our items were sent."""

    bits: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckLists:
    """Check the complete lists for reflected and duplicate points and tokens, before any matching."""


@dataclass(frozen=True, slots=True)
class Match:
    """Find the own items the peer has too and, for a broadcast, the peer's."""


@dataclass(frozen=True, slots=True)
class CutBitmap:
    """Return the bits of the peer's items [start, stop), least significant first, pad bits 0."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Write the output to a temporary file and make it durable."""


@dataclass(frozen=True, slots=True)
class PublishOutput:
    """Put the staged output in place."""


Work: TypeAlias = (
    MaskOwn | MaskPeer | KeepTokens | KeepBits | CheckLists | Match | CutBitmap | StageOutput | PublishOutput
)


# The machines ---------------------------------------------------------------------------------------------------


class Phase(Enum):
    """Where a task stands; each role passes through its own subset, in this order."""

    OPENING = "the opening"
    EXCHANGE = "the exchange of points"
    RESULT = "the wait for the result"
    STAGING = "the writing of outputs"
    COMMITTED = "the commit"
    FINISHED = "the end"


class Disclosure(Enum):
    """What the peer may be told when this side fails now."""

    NAMED = "the class of the failure"
    # Between the last End and the bitmap, R's failures must all look alike: which one it was could tell of a match.
    UNIFORM = "that this side failed, nothing else"
    # After Received the rest is R's own affair.
    NOTHING = "nothing"


class Progress(NamedTuple):
    """Items masked so far, own and the peer's, and of how many; it never tells of a match."""

    own: int
    own_total: int
    peer: int
    peer_total: int

    @property
    def share(self) -> float:
        """How much of it is through, from 0 to 1."""
        total = self.own_total + self.peer_total
        return (self.own + self.peer) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a side knows of a task before it opens it."""

    task: int
    task_sid: bytes = field(repr=False)
    own_count: int
    probe: bytes = field(repr=False)
    broadcast: bool
    chunk_items: int
    # What an earlier run has left, where this side would go on from it.
    history: History | None = None


class TaskParty(ABC):
    """One task from one side: what both roles share.

    Feed messages to `receive`, fetch work with `next_work`, hand its result to `completed`; both return the messages
    to send, in order. Several pieces of work may be under way; they are completed in the order they were handed out.
    """

    allowed: ClassVar[dict[Phase, frozenset[type]]]
    own_stream: ClassVar[Stream]
    peer_stream: ClassVar[Stream]
    # Whether a frame of the peer's points is answered with a frame (of tokens).
    answers_points: ClassVar[bool]

    def __init__(self, setup: TaskSetup) -> None:
        self.task = setup.task
        self.phase = Phase.OPENING
        self.broadcast = setup.broadcast
        self.own_count = setup.own_count
        self.peer_count = 0
        self.chunk_items = setup.chunk_items
        # The task's id and what it goes on from, both once it is open: an old id if it is resumed.
        self.task_sid = setup.task_sid
        self.resumption: Resumption | None = None
        self._setup = setup
        self._outgoing: dict[int, OutgoingStream] = {}
        self._incoming: dict[int, IncomingStream] = {}
        self._pending: deque[MaskPeer] = deque()
        self._queued: deque[Work] = deque()
        self._own_frames = 0
        self._masked_frames = 0
        self._handed_out: deque[Work] = deque()
        self._own_turn = True
        self._opened = False
        self._checking = False
        self._staged = False
        self._peer_ready = False

    # What the carrier of the work sees

    @property
    def finished(self) -> bool:
        """Whether both sides are through with the task and no work of ours is left."""
        return self.phase is Phase.FINISHED and not self._queued and not self._handed_out

    @property
    def exchanging(self) -> bool:
        """Whether points and tokens are still to come or to go, or to be checked."""
        return self.phase in (Phase.OPENING, Phase.EXCHANGE)

    @property
    def streaming(self) -> bool:
        """Whether points and tokens are still to come or to go; the sender's last word waits for its checks."""
        return self.exchanging and (self.answers_points or not self._checking)

    @property
    def all_arrived(self) -> bool:
        """Whether the peer has sent all its points and tokens."""
        exchanged = all(stream.complete for stream in self._incoming.values())
        return self.phase is not Phase.OPENING and (exchanged or not self.exchanging)

    @property
    def frames_under_way(self) -> int:
        """How many frames the work under way will send: what the link must have room for [frames]."""
        return sum(self._sends_frame(work) for work in self._handed_out)

    @property
    def wants_input(self) -> bool:
        """Whether another message may be taken in now.

        Not while a few frames wait for their masking or keeping, nor before what is committed has been published:
        nothing the link brings, not even its end, may come in between.
        """
        publishing = self.phase is Phase.COMMITTED and bool(self._queued or self._handed_out)
        return max(len(self._pending), len(self._queued)) < MAX_PENDING_FRAMES and not publishing

    @property
    def progress(self) -> Progress:
        """How far the masking is."""
        if self.phase is Phase.OPENING:
            return Progress(0, 0, 0, 0)
        if not self._outgoing:
            # An earlier run was through with it.
            return Progress(self.own_count, self.own_count, self.peer_count, self.peer_count)
        own, peer = self._outgoing[self.own_stream], self._incoming[self.peer_stream]
        masked = own.shape.items(own.sent), peer.shape.items(self._masked_frames)
        return Progress(masked[0], own.shape.count, masked[1], peer.shape.count)

    def digest_after(self, stream: Stream, frames: int) -> bytes | None:
        """Return the chain digest of a stream after so many of its latest frames, None where that is long ago."""
        return (self._outgoing.get(stream) or self._incoming[stream]).digest_after(frames)

    @property
    def disclosure(self) -> Disclosure:
        """What the peer may be told when this side fails now."""
        return Disclosure.NAMED

    def open(self) -> Open:
        """Make the first message of the task; raises LocalProtocolError for a second one."""
        if self._opened:
            raise LocalProtocolError(detail="a task is opened twice")
        self._opened = True
        history = self._usable_history()
        return Open(self.task, self.own_count, self._setup.probe, None if history is None else history.offer())

    def receive(self, message: TaskMessage) -> list[Message]:
        """Take in a message of this task.

        Raises PeerProtocolError when it is not allowed now or contradicts what came before.
        """
        if not self._opened:
            raise LocalProtocolError(detail="a message was taken in before the task was opened")
        if message.task != self.task:
            raise PeerProtocolError(detail=f"a message about task number {message.task} during number {self.task}")
        if isinstance(message, Ack):
            self._acknowledged(message)
            return []
        if type(message) not in self.allowed[self.phase]:
            raise PeerProtocolError(detail=f"{type(message).__name__} came during {self.phase.value}")
        handler = cast(Callable[[TaskMessage], list[Message]], getattr(self, _HANDLERS[type(message)]))
        return handler(message)

    def next_work(self, *, room: bool = True) -> Work | None:
        """Hand out another piece of work, or None while there is none to begin.

        Without room on the link only work is handed out that sends no frame. R's masking of S's points is of that
        kind, so R always drains the link: two full directions cannot wait for each other for ever.
        """
        work = self._choose(room)
        if work is not None:
            self._handed_out.append(work)
        return work

    def completed(self, work: Work, result: bytes = b"") -> list[Message]:
        """Take the result of the oldest work under way; raises LocalProtocolError for any other."""
        if not self._handed_out or work is not self._handed_out[0]:
            raise LocalProtocolError(detail=f"{type(work).__name__} was completed but is not the oldest work under way")
        self._handed_out.popleft()
        messages = self._complete(work, result)
        return messages + self._advance()

    # Steps both roles share

    def _usable_history(self) -> History | None:
        history = self._setup.history
        return history if history is not None and history.chunk_items == self.chunk_items else None

    def _on_open(self, message: Open) -> list[Message]:
        if message.probe != self._setup.probe:
            raise DisagreementError(table="  item encoding: the two programs turn the same item into different points")
        if self.own_count + message.count > MAX_TOTAL_ITEMS:
            raise TooManyItemsError(limit=MAX_TOTAL_ITEMS)
        self.peer_count = message.count
        self._resume(message)
        if self.resumption is not None and self.resumption.over:
            self.phase = Phase.FINISHED
            return []
        self.phase = Phase.EXCHANGE
        self._open_streams()
        self._own_frames = self._outgoing[self.own_stream].sent
        self._masked_frames = self._incoming[self.peer_stream].received
        return self._outgoing_opened() + self._advance()

    def _resume(self, message: Open) -> None:
        """Go on from what both sides have, if they have the same."""
        if message.resume is not None and message.resume.own_count != message.count:
            raise PeerProtocolError(detail="it opens a task with one count and offers to go on with another")
        history = self._usable_history()
        receives = not self.answers_points
        self.resumption = agree_on_resume(history, message.resume, receives=receives, broadcast=self.broadcast)
        if self.resumption is not None:
            self.task_sid = self.resumption.task_sid

    def _open_streams(self) -> None:
        self._send_stream(self.own_stream, self.own_count)
        self._expect_stream(self.peer_stream, self.peer_count)

    def _outgoing_opened(self) -> list[Message]:
        points = self._outgoing[self.own_stream]
        return [points.end()] if points.all_sent else []

    def _on_chunk(self, chunk: Chunk) -> list[Message]:
        self._incoming_stream(chunk.stream).accept(chunk)
        self._took(chunk)
        return []

    def _on_end(self, end: End) -> list[Message]:
        self._incoming_stream(end.stream).finish(end)
        return self._advance()

    def _on_ready(self, message: Ready) -> list[Message]:
        if self._peer_ready:
            raise PeerProtocolError(detail="a second Ready")
        self._peer_ready = True
        return []

    def _took(self, chunk: Chunk) -> None:
        self._pending.append(MaskPeer(chunk.seq, chunk.data))

    def _acknowledged(self, ack: Ack) -> None:
        if ack.stream == 0:
            return
        stream = self._outgoing.get(ack.stream)
        if stream is None:
            raise PeerProtocolError(detail=f"it acknowledged stream {ack.stream}, which this side does not send")
        stream.acknowledged(ack)

    def _choose(self, room: bool) -> Work | None:
        if self._queued and (room or not isinstance(self._queued[0], CutBitmap)):
            return self._queued.popleft()
        own = self._next_own() if room else None
        # Turn by turn, so that both directions of the link stay busy.
        if self._pending and (room or not self.answers_points) and not (self._own_turn and own):
            self._own_turn = True
            return self._pending.popleft()
        if own is not None:
            self._own_turn = False
            self._own_frames += 1
        return own

    def _next_own(self) -> MaskOwn | None:
        points = self._outgoing.get(self.own_stream)
        if points is None or self._own_frames == points.shape.frames:
            return None
        return MaskOwn(*points.shape.span(self._own_frames))

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, MaskOwn | CutBitmap) or (isinstance(work, MaskPeer) and self.answers_points)

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        if isinstance(work, MaskOwn):
            return self._send_frame(self.own_stream, result)
        if isinstance(work, MaskPeer):
            self._masked_frames += 1
            return [*self._peer_masked(result), self._incoming[self.peer_stream].ack(self._masked_frames)]
        return self._complete_special(work, result)

    def _send_frame(self, stream: Stream, data: bytes) -> list[Message]:
        outgoing = self._outgoing[stream]
        chunk = outgoing.frame(data)
        return [chunk, outgoing.end()] if outgoing.all_sent and stream != Stream.TOKENS else [chunk]

    def _peer_masked(self, result: bytes) -> list[Message]:
        return []

    @abstractmethod
    def _complete_special(self, work: Work, result: bytes) -> list[Message]:
        """Take the result of work that is not masking: what only one role does."""

    def _advance(self) -> list[Message]:
        """Move on where everything a step waits for is there."""
        if self.phase is Phase.EXCHANGE and not self._checking and self._lists_complete():
            self._checking = True
            self._queued.append(CheckLists())
        return []

    def _lists_complete(self) -> bool:
        peer = self._incoming[self.peer_stream]
        return (
            self._outgoing[self.own_stream].all_sent
            and all(stream.complete for stream in self._incoming.values())
            and self._masked_frames == peer.shape.frames
        )

    def _send_stream(self, stream: Stream, count: int) -> None:
        shape = StreamShape(stream, count, self.chunk_items)
        self._outgoing[stream] = OutgoingStream(self.task, shape, *self._beginning(shape))

    def _expect_stream(self, stream: Stream, count: int) -> None:
        shape = StreamShape(stream, count, self.chunk_items)
        self._incoming[stream] = IncomingStream(self.task, shape, *self._beginning(shape))

    def _beginning(self, shape: StreamShape) -> tuple[int, bytes]:
        """Return how many frames of a stream there are already, and the chain digest after them."""
        history, resumption = self._setup.history, self.resumption
        if history is None or resumption is None or shape.stream not in resumption.frames:
            return 0, first_digest(shape.stream, self.task_sid)
        frames = resumption.frames[shape.stream]
        return frames, history.chains[shape.stream][frames]

    def _incoming_stream(self, stream: int) -> IncomingStream:
        if stream not in self._incoming:
            raise PeerProtocolError(detail=f"stream {stream} came during {self.phase.value}")
        return self._incoming[stream]


class Receiver(TaskParty):
    """The party that learns the result."""

    own_stream = Stream.RECEIVER_POINTS
    peer_stream = Stream.SENDER_POINTS
    answers_points = False
    allowed: ClassVar[dict[Phase, frozenset[type]]] = {
        Phase.OPENING: frozenset({Open}),
        Phase.EXCHANGE: frozenset({Chunk, End}),
        Phase.RESULT: frozenset(),
        Phase.STAGING: frozenset({Ready}),
        Phase.COMMITTED: frozenset({Done}),
        Phase.FINISHED: frozenset(),
    }

    @property
    def disclosure(self) -> Disclosure:
        if self.finished and not self.broadcast:
            return Disclosure.NOTHING
        if self.all_arrived and self.phase in (Phase.EXCHANGE, Phase.RESULT):
            return Disclosure.UNIFORM
        return Disclosure.NAMED

    def _open_streams(self) -> None:
        super()._open_streams()
        self._expect_stream(Stream.TOKENS, self.own_count)

    def _took(self, chunk: Chunk) -> None:
        if chunk.stream == self.peer_stream:
            super()._took(chunk)
            return
        if chunk.seq >= self._outgoing[self.own_stream].sent:
            raise PeerProtocolError(detail=f"tokens of frame {chunk.seq}, which was not sent yet")
        self._queued.append(KeepTokens(chunk.data))

    def _complete_special(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case CheckLists() if not self.broadcast:
                self.phase = Phase.FINISHED
                return [Received(self.task)]
            case CheckLists():
                self.phase = Phase.RESULT
                self._queued.append(Match())
            case Match():
                return self._start_bitmap()
            case CutBitmap():
                return self._send_frame(Stream.BITMAP, result) + self._after_bitmap_frame()
            case StageOutput():
                self._staged = True
                return [Ready(self.task), *self._commit_if_ready()]
            case KeepTokens() | PublishOutput():
                pass
            case _:
                raise LocalProtocolError(detail=f"{type(work).__name__} is no work of a receiver")
        return []

    def _start_bitmap(self) -> list[Message]:
        self._send_stream(Stream.BITMAP, self.peer_count)
        bitmap = self._outgoing[Stream.BITMAP]
        if bitmap.all_sent:
            return [bitmap.end(), *self._after_bitmap_frame()]
        return self._after_bitmap_frame()

    def _after_bitmap_frame(self) -> list[Message]:
        bitmap = self._outgoing[Stream.BITMAP]
        if bitmap.all_sent:
            self.phase = Phase.STAGING
            self._queued.append(StageOutput())
        else:
            self._queued.append(CutBitmap(*bitmap.shape.span(bitmap.sent)))
        return []

    def _on_ready(self, message: Ready) -> list[Message]:
        super()._on_ready(message)
        return self._commit_if_ready()

    def _commit_if_ready(self) -> list[Message]:
        if not (self._staged and self._peer_ready):
            return []
        self.phase = Phase.COMMITTED
        self._queued.append(PublishOutput())
        return [Commit(self.task)]

    def _on_done(self, message: Done) -> list[Message]:
        self.phase = Phase.FINISHED
        return []


class Sender(TaskParty):
    """The party that helps; it learns the result only with broadcast_result."""

    own_stream = Stream.SENDER_POINTS
    peer_stream = Stream.RECEIVER_POINTS
    answers_points = True
    allowed: ClassVar[dict[Phase, frozenset[type]]] = {
        Phase.OPENING: frozenset({Open}),
        Phase.EXCHANGE: frozenset({Chunk, End}),
        Phase.RESULT: frozenset({Received, Chunk, End}),
        Phase.STAGING: frozenset({Ready, Commit}),
        Phase.COMMITTED: frozenset(),
        Phase.FINISHED: frozenset(),
    }

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self._set_bits = 0

    def _open_streams(self) -> None:
        super()._open_streams()
        self._send_stream(Stream.TOKENS, self.peer_count)

    def _took(self, chunk: Chunk) -> None:
        if chunk.stream == self.peer_stream:
            super()._took(chunk)
            return
        start, stop = self._incoming[Stream.BITMAP].shape.span(chunk.seq)
        bits = int.from_bytes(chunk.data, "little")
        self._set_bits += bits.bit_count()
        if bits >> (stop - start):
            raise PeerProtocolError(detail="pad bits of the bitmap are set")
        if self._set_bits > min(self.own_count, self.peer_count):
            raise PeerProtocolError(detail="the bitmap marks more items than the smaller list holds")
        self._queued.append(KeepBits(chunk.data))

    def _peer_masked(self, result: bytes) -> list[Message]:
        return self._send_frame(Stream.TOKENS, result)

    def _complete_special(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case CheckLists():
                # The End of the tokens waits for the checks: R must not accept a list that we refuse.
                self.phase = Phase.RESULT
                if self.broadcast:
                    self._expect_stream(Stream.BITMAP, self.own_count)
                return [self._outgoing[Stream.TOKENS].end()]
            case StageOutput():
                self._staged = True
                return [Ready(self.task)]
            case PublishOutput():
                self.phase = Phase.FINISHED
                return [Done(self.task)]
            case KeepBits():
                return []
            case _:
                raise LocalProtocolError(detail=f"{type(work).__name__} is no work of a sender")

    def _on_end(self, end: End) -> list[Message]:
        messages = super()._on_end(end)
        if self.phase is Phase.RESULT:
            self.phase = Phase.STAGING
            self._queued.append(StageOutput())
        return messages

    def _on_received(self, message: Received) -> list[Message]:
        if self.broadcast:
            raise PeerProtocolError(detail="Received came where the bitmap was due")
        self.phase = Phase.FINISHED
        return []

    def _on_commit(self, message: Commit) -> list[Message]:
        if not (self._staged and self._peer_ready):
            raise PeerProtocolError(detail="Commit came before both sides were ready")
        self.phase = Phase.COMMITTED
        self._queued.append(PublishOutput())
        return []


_HANDLERS: dict[type, str] = {
    Open: "_on_open",
    Chunk: "_on_chunk",
    End: "_on_end",
    Received: "_on_received",
    Ready: "_on_ready",
    Commit: "_on_commit",
    Done: "_on_done",
}
