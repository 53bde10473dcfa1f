"""Bins: how a task is cut into them, one attempt at one of them, and those of a task.

An item's bin is the top bits of a keyed hash, so bins come out nearly equal whatever the items are. Both sides pad
every bin to its capacity, so that what travels depends on the two counts alone. One attempt, seen from either role:

    receiver                                    sender
    Frame* End  (1: its points)  ->
                                <-              Frame* End  (2: its points)
                                <-              Frame* End  (3: tokens of the receiver's points)
    Received                     ->
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import isqrt
from typing import ClassVar, NamedTuple

from psicli.core.errors import LocalProtocolError, PeerProtocolError, TooManyItemsError
from psicli.protocol.messages import BinMessage, End, Frame, Kept, Message, Restart, Stream, bin_session_id
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place, StreamShape
from psicli.protocol.work import CheckLists, KeepTokens, Lane, MaskOwn, MaskPeer, Prepare, Work

# Fewer items a bin than that make too many bins and too much padding, more fit in no ordinary memory [items].
LEAST_BIN_ITEMS = 1 << 14
MOST_BIN_ITEMS = 1 << 20
MAX_BINS = 1 << 16
# How often one bin may be answered under one partition: once, and once more after a crash.
MOST_ANSWERS = 2
# Attempts at a bin, counted from 0: it may begin again once.
LAST_ATTEMPT = 1
# Frames of the peer's that wait for work: enough to keep busy, little enough to hold in memory.
MAX_PENDING_FRAMES = 4


# How a task is cut ---------------------------------------------------------------------------------------------


def capacity(count: int, bins: int) -> int:
    """Return to how many items each of so many bins of `count` items is padded [items].

    A fuller bin has a probability below 2^-60: nine standard deviations above the mean, and 24 where that is small.
    """
    if bins == 1:
        return count
    mean = -(-count // bins)
    root = isqrt(mean)
    return min(count, mean + 9 * (root + (root * root < mean)) + 24)


def number_of_bins(own: int, peer: int, bin_items: int) -> int:
    """Return the smallest power of two of bins that hold at most `bin_items` each, 0 where a side has no items.

    Raises TooManyItemsError for more than MAX_BINS.
    """
    if not (own and peer):
        return 0
    bins = 1
    while capacity(max(own, peer), bins) > bin_items:
        bins *= 2
    if bins > MAX_BINS:
        raise TooManyItemsError(
            fault=f"{max(own, peer)} distinct items would need more than {MAX_BINS} bins of {bin_items} items",
            advice="Give both sides more memory (pipeline.memory), or split the task.",
        )
    return bins


def padded(count: int, bins: int) -> int:
    """Return how many items of a side travel, padding included: the questions it can ask [items]."""
    return bins * capacity(count, bins) if bins else count


def agree_on_resume(
    mine: Kept | None, theirs: Kept | None, *, receives: bool, broadcast: bool, bin_items: int
) -> Kept | None:
    """Return what both sides continue from, None where the task starts afresh; complete: neither needs the other.

    A sender has answered every bin of which the receiver has the result; an Offer that says otherwise names what was
    never finished. Raises PeerProtocolError for an Offer no side can make.
    """
    if theirs is not None:
        check_offer(theirs)
    if mine is None or theirs is None or theirs.partition_sid != mine.partition_sid:
        return None
    if (theirs.own_count, theirs.peer_count, theirs.bins) != (mine.peer_count, mine.own_count, mine.bins):
        return None
    if mine.bins != number_of_bins(mine.own_count, mine.peer_count, bin_items):
        return None
    receiver, sender = (mine, theirs) if receives else (theirs, mine)
    if broadcast and receiver.complete != sender.complete:
        return None
    if receiver.finished & ~sender.finished:
        return None
    complete = receiver.complete or (not broadcast and receiver.finished == every_bin(mine.bins))
    return replace(mine, finished=receiver.finished, complete=complete)


def every_bin(bins: int) -> int:
    """Return a bit for each of so many bins."""
    return (1 << bins) - 1


def check_offer(kept: Kept) -> None:
    """Raise PeerProtocolError for an Offer that contradicts itself."""
    has_items = bool(kept.own_count and kept.peer_count)
    if kept.bins > MAX_BINS or kept.bins & (kept.bins - 1) or bool(kept.bins) != has_items:
        raise PeerProtocolError(detail=f"it offers to continue a task of {kept.bins} bins")
    if kept.finished > every_bin(kept.bins):
        raise PeerProtocolError(detail="it offers bins that the task does not have")
    if kept.complete and kept.finished != every_bin(kept.bins):
        raise PeerProtocolError(detail="it offers a task as done whose bins are not")


# One attempt at a bin ------------------------------------------------------------------------------------------


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
        self.masked_peer = 0
        # Whether those of the bins before it have all been sent: who keeps the order of bins says so.
        self.may_send_points = True
        self._points_out = OutgoingStream(place, StreamShape(self.own_stream, own, frame_items))
        self._points_in = IncomingStream(place, StreamShape(self.peer_stream, peer, frame_items))
        self._pending: deque[MaskPeer] = deque()
        self._queued.append(Prepare())
        self._prepared = False
        self._next_own = 0
        self._own_turn = True

    @property
    def masked_own(self) -> int:
        return self._points_out.items

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
            case MaskOwn():
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


# Those of a task -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a side knows of a task from the start."""

    task: int
    task_sid: bytes = field(repr=False)
    probe: bytes = field(repr=False)
    broadcast: bool
    frame_items: int
    bin_items: int


class Sizes(NamedTuple):
    """How many distinct items each side has, -1 before it has opened; and how many bins, 0 where a side has none."""

    own: int = -1
    peer: int = -1
    bins: int = 0

    @property
    def capacities(self) -> tuple[int, int]:
        """To how many items each bin is padded, own and the peer's."""
        return capacity(self.own, max(self.bins, 1)), capacity(self.peer, max(self.bins, 1))


class TaskBins(Mapping[int, BinParty]):
    """The bins of a task: those under way, by number; and which are left and through, each at which attempt."""

    def __init__(self, kind: type[BinParty], setup: TaskSetup, sizes: Sizes, finished: int = 0) -> None:
        """kind: who plays a bin for this role; finished: a bit for each bin that an earlier run was through with."""
        self.left = [number for number in range(sizes.bins) if not finished >> number & 1]
        self._under_way: dict[int, BinParty] = {}
        # Of each bin that has begun.
        self.attempts: dict[int, int] = {}
        # The bins that are through, and those that were even if they have begun again.
        self.through: set[int] = set()
        self.once_through: set[int] = set()
        # Bins that this side has begun again, and the peer has not answered yet.
        self.restarting: set[int] = set()
        self._kind = kind
        self._setup = setup
        self._sizes = sizes

    def __getitem__(self, number: int) -> BinParty:
        return self._under_way[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._under_way)

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def begun(self) -> int:
        """How many bins have begun."""
        return len(self.attempts)

    @property
    def has_next(self) -> bool:
        """Whether bins are left that have not begun."""
        return self.begun < len(self.left)

    @property
    def never_through(self) -> int:
        """How many bins have begun and were never through; one that begins again afterwards does not count."""
        return self.begun - len(self.once_through)

    @property
    def only_latest_under_way(self) -> bool:
        """Whether no bin is under way for the first time but the one that began last."""
        count = self.never_through
        return count == 0 or (count == 1 and self.left[self.begun - 1] not in self.once_through)

    @property
    def all_through(self) -> bool:
        return len(self.through) == len(self.left)

    @property
    def all_points_sent(self) -> bool:
        return not self.has_next and all(each.all_points_sent for each in self.values())

    @property
    def all_points_arrived(self) -> bool:
        """Whether the peer has sent all its points; what begins again is out of order anyway."""
        first = (each for each in self.values() if not each.place.attempt)
        return not self.has_next and all(each.all_points_arrived for each in first)

    @property
    def masked(self) -> tuple[int, int]:
        """Items masked so far, own and the peer's, padding included."""
        through = self._sizes.bins - len(self.left) + len(self.through)
        own, peer = (through * each for each in self._sizes.capacities)
        bins = self.values()
        return own + sum(each.masked_own for each in bins), peer + sum(each.masked_peer for each in bins)

    def place(self, number: int, attempt: int = 0) -> Place:
        sid = bin_session_id(self._setup.task_sid, number, attempt)
        return Place(self._setup.task, number, attempt, sid)

    def begin(self) -> int:
        """Begin the next bin and return its number."""
        number = self.left[self.begun]
        self._begin(number, 0)
        return number

    def begin_again(self, number: int) -> Restart:
        """Begin a bin again and return what says so."""
        self.through.discard(number)
        self._begin(number, self.attempts[number] + 1)
        return Restart(self._setup.task, number, self.attempts[number])

    def _begin(self, number: int, attempt: int) -> None:
        self.attempts[number] = attempt
        place = self.place(number, attempt)
        self._under_way[number] = self._kind(place, *self._sizes.capacities, self._setup.frame_items)

    def let_send_points(self, *, allowed: bool) -> None:
        """Let bins send points one after the other; what begins again is out of order anyway."""
        for each in self.values():
            each.may_send_points = allowed or each.place.attempt > 0
            allowed = allowed and each.all_points_sent

    def finish(self, number: int) -> None:
        """Take off a bin that is through."""
        del self._under_way[number]
        self.through.add(number)
        self.once_through.add(number)

    def addressed(self, message: BinMessage) -> BinParty | None:
        """Return the bin a message is about, None where it is of an attempt that this side has given up.

        Raises PeerProtocolError.
        """
        party, attempt = self.get(message.bin), self.attempts.get(message.bin)
        if attempt is not None and message.bin in self.restarting and message.attempt < attempt:
            return None
        if party is None or message.attempt != attempt or message.bin in self.restarting:
            raise PeerProtocolError(detail=f"a message about bin {message.bin}, attempt {message.attempt}, out of turn")
        return party

    def take_frame(self, frame: Frame) -> None:
        """Take in a frame; raises PeerProtocolError."""
        party = self.addressed(frame)
        if party is None:
            return
        if frame.stream == party.peer_stream and not self._is_turn(party):
            raise PeerProtocolError(detail=f"points of bin {frame.bin} before the end of those before it")
        party.take_frame(frame)

    def _is_turn(self, party: BinParty) -> bool:
        """Whether the points of all bins before it have arrived; what begins again is out of order anyway."""
        at = party.place
        before = (each for each in self.values() if each.place.bin < at.bin and not each.place.attempt)
        return at.attempt > 0 or all(each.all_points_arrived for each in before)
