"""The pieces of work that the state machines hand out, and the lane, which keeps the work of a task or bin in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import field
from typing import TypeAlias

from psicli.core.errors import LocalProtocolError
from psicli.core.records import dataclass
from psicli.protocol.messages import Message, Stream


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch a bin's items and draw its secrets; a sender also records that it answers the bin."""


@dataclass(frozen=True, slots=True)
class MaskOwn:
    """Hash and mask our items [start, stop) in the secret order; returns their points."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class MaskPeer:
    """Mask a frame of the peer's points; a sender returns their tokens, a receiver only keeps them."""

    seq: int
    points: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeepTokens:
    """Keep tokens from `start` on: of our items, in the order in which these were sent; in RR22, of the peer's."""

    start: int
    tokens: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckLists:
    """Check the complete lists of a bin for reflected and duplicate points and tokens, before any matching.

    In RR22 nothing can be wrong with the tokens, and the lists are only sorted. The secrets are wiped.
    """


@dataclass(frozen=True, slots=True)
class PermuteTokens:
    """Return the tokens [start, stop) of the peer's points, in a second secret order; only where the peer counts."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Return a whole stream of ours; received: the whole stream of the peer before it, if there was one."""

    stream: Stream
    received: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ComputeAhead:
    """Compute what does not depend on the peer's answer to a stream of ours, while the peer makes its answer."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class SendPart:
    """Send the items [start, stop) of a stream that is computed; this takes no time."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GatherMatches:
    """Wait until all bins are matched, check the result against the policy, and return the number of matches."""


@dataclass(frozen=True, slots=True)
class SliceBitmap:
    """Return the bits of the peer's items [start, stop) of a bin, least significant first; spare bits are 0."""

    bin: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class KeepBits:
    """Keep bits of a bin's bitmap, in the order in which our items were sent."""

    bin: int
    bits: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StageOutput:
    """Write the output to a temporary file and make it durable."""


@dataclass(frozen=True, slots=True)
class PublishOutput:
    """Put the staged output in place."""


PointsWork: TypeAlias = MaskOwn | MaskPeer | PermuteTokens
VectorWork: TypeAlias = Compute | ComputeAhead | SendPart
BinWork: TypeAlias = Prepare | PointsWork | VectorWork | KeepTokens | CheckLists
TaskWork: TypeAlias = GatherMatches | SliceBitmap | KeepBits | StageOutput | PublishOutput
Work: TypeAlias = BinWork | TaskWork


class Lane(ABC):
    """A sequence of work that is completed in the order in which it was handed out."""

    def __init__(self) -> None:
        self._queued: deque[Work] = deque()
        self._handed_out: deque[Work] = deque()

    @property
    def idle(self) -> bool:
        return not (self._queued or self._handed_out)

    @property
    def frames_under_way(self) -> int:
        """The number of frames that the work in progress will send, for which the link must have room."""
        return sum(self._sends_frame(work) for work in self._handed_out)

    def next_work(self, *, room: bool) -> Work | None:
        """Hand out the next piece of work, or None if there is none; without room, only work that sends no frame."""
        work = self._choose(room)
        if work is not None:
            self._handed_out.append(work)
        return work

    def completed(self, work: Work, result: bytes = b"") -> list[Message]:
        """Accept the result of the oldest work in progress and return the messages to send.

        Raises LocalProtocolError for any other work.
        """
        if not self._handed_out or work is not self._handed_out[0]:
            raise LocalProtocolError(detail=f"{type(work).__name__} was completed out of order")
        self._handed_out.popleft()
        return self._complete(work, result)

    @abstractmethod
    def _choose(self, room: bool) -> Work | None: ...

    @abstractmethod
    def _sends_frame(self, work: Work) -> bool: ...

    @abstractmethod
    def _complete(self, work: Work, result: bytes) -> list[Message]: ...
