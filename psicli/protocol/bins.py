"""Bins: their number and capacity, what all attempts at a bin have in common, and all bins of a task.

The top bits of a keyed hash give an item's bin, so bins have nearly equal sizes for any input. Both parties pad every
bin to its capacity, so the amount of data sent depends only on the two counts. points.py and rr22/bins.py have the
protocol of one attempt at a bin.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from enum import Enum
from math import isqrt
from typing import NamedTuple

from psicli.core.errors import TooManyItemsError, counted
from psicli.core.peer_errors import PeerProtocolError
from psicli.core.records import dataclass
from psicli.protocol.messages import BinMessage, End, Frame, Kept, Restart, Stream, bin_session_id
from psicli.protocol.streams import POINTS, Place, StreamShape
from psicli.protocol.work import Lane, Prepare

# The limits of a bin's size [items]: smaller bins need too much padding, larger ones too much memory.
LEAST_BIN_ITEMS = 1 << 14
MOST_BIN_ITEMS = 1 << 20
MAX_BINS = 1 << 16
# The most items of both parties together, including padding: up to here the probability of a false match with 16-byte
# tokens is below 2^-67 [items].
MAX_TOTAL_ITEMS = 2**44
# How often a sender may answer one bin of one partition: once, and once more after a crash.
MOST_ANSWERS = 2
# The number of the last attempt at a bin, counted from 0: a bin may restart once.
LAST_ATTEMPT = 1


# Number and capacity of bins -----------------------------------------------------------------------------------


def capacity(count: int, bins: int) -> int:
    """Return the capacity of a bin, to which it is padded, if `count` items are in this many bins [items].

    The capacity is nine standard deviations above the mean, plus 24 for small means: a bin exceeds it with probability
    below 2^-60.
    """
    if bins == 1:
        return count
    mean = -(-count // bins)
    root = isqrt(mean)
    return min(count, mean + 9 * (root + (root * root < mean)) + 24)


def number_of_bins(own: int, peer: int, bin_items: int) -> int:
    """Return the smallest power of two of bins with a capacity of at most `bin_items`; 0 if a party has no items.

    Raises TooManyItemsError if that is more than MAX_BINS.
    """
    if not (own and peer):
        return 0
    bins = 1
    while capacity(max(own, peer), bins) > bin_items:
        bins *= 2
    if bins > MAX_BINS:
        raise TooManyItemsError(
            fault=f"{max(own, peer):,} distinct items need more than {MAX_BINS:,} bins of {bin_items:,} items",
            advice="Give both parties more memory (pipeline.memory), or split the task.",
        )
    return bins


def padded(count: int, bins: int) -> int:
    """Return how many items a party sends, including padding: the most it can ask about [items]."""
    return bins * capacity(count, bins) if bins else count


def check_total(items: int) -> None:
    """Raise TooManyItemsError if the two parties have more items together than a task may have [items]."""
    if items > MAX_TOTAL_ITEMS:
        raise TooManyItemsError(
            fault=f"the two parties have more than {MAX_TOTAL_ITEMS:,} distinct items together",
            advice="Split the task: with more items the probability of a false match is no longer negligible.",
        )


def agree_on_resume(
    mine: Kept | None, theirs: Kept | None, *, receives: bool, broadcast: bool, bin_items: int
) -> Kept | None:
    """Return the state from which both parties resume, or None if the task starts over.

    Both parties compute the same. In the result, `complete` means that the exchange is over. A receiver that has a bin
    which the sender never answered cannot be right, so the task starts over. Raises PeerProtocolError for an
    impossible Offer.
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
    """Return an integer with one bit set for each of this many bins."""
    return (1 << bins) - 1


def check_offer(kept: Kept) -> None:
    """Raise PeerProtocolError for an Offer that contradicts itself."""
    has_items = bool(kept.own_count and kept.peer_count)
    if kept.bins > MAX_BINS or kept.bins & (kept.bins - 1) or bool(kept.bins) != has_items:
        raise PeerProtocolError(
            detail=f"it offered to resume a task of {counted(kept.bins, 'bin')}, which cannot exist"
        )
    if kept.finished > every_bin(kept.bins):
        raise PeerProtocolError(detail="it offered bins that the task does not have")
    if kept.complete and kept.finished != every_bin(kept.bins):
        raise PeerProtocolError(detail="it offered a task as complete although its bins are not finished")


# One attempt at a bin ------------------------------------------------------------------------------------------


class BinPhase(Enum):
    """The phase of an attempt at a bin."""

    EXCHANGE = "the exchange of points"
    CHECKS = "the checks"
    CHECKED = "the wait for Received"


class BinParty(Lane):
    """One party's half of one attempt at a bin; it knows no other bin, so its owner keeps the order of bins."""

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        """sizes: those of the task."""
        super().__init__()
        self.place = place
        self.sizes = sizes
        self.phase = BinPhase.EXCHANGE
        # Set by the owner: whether all points of earlier bins have been sent.
        self.may_send_points = True
        self._frame_items = frame_items
        self._queued.append(Prepare())

    @staticmethod
    def questions(capacity: int) -> int:
        """Return the most items that the peer can ask about in a bin, given its capacity there [items]."""
        return capacity

    @property
    @abstractmethod
    def exchanged(self) -> tuple[int, int]:
        """The number of items that have been exchanged so far, (own, peer's), including padding."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether it can accept another frame now."""

    @property
    def all_points_sent(self) -> bool:
        """Whether the points of the next bin may follow; so they may where there are no points."""
        return True

    @property
    def all_points_arrived(self) -> bool:
        """Whether the peer may send the points of the next bin."""
        return True

    @property
    @abstractmethod
    def all_arrived(self) -> bool:
        """Whether everything that the peer must send before Received has arrived."""

    @property
    def answered(self) -> bool:
        """Whether this party has sent everything that the peer needs for its result."""
        return self.phase is BinPhase.CHECKED

    @property
    def may_restart(self) -> bool:
        """Whether this party may still restart the bin, as far as this attempt is concerned."""
        return True

    @property
    def peer_may_restart(self) -> bool:
        """Whether the peer may still restart the bin, as far as this attempt is concerned."""
        return True

    @property
    def done(self) -> bool:
        """Whether everything has arrived and passed the checks."""
        return self.phase is BinPhase.CHECKED and self.all_arrived

    @abstractmethod
    def receive_frame(self, frame: Frame) -> None:
        """Handle a frame; raises PeerProtocolError."""

    @abstractmethod
    def receive_end(self, end: End) -> None:
        """Handle the end of a stream; raises PeerProtocolError."""

    def _shape(self, stream: Stream, count: int, item_bits: int = 0) -> StreamShape:
        return StreamShape(stream, count, self._frame_items, item_bits)


# The bins of a task --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a party knows about a task from the start."""

    task: int
    task_sid: bytes = field(repr=False)
    probe: bytes = field(repr=False)
    broadcast: bool
    frame_items: int
    bin_items: int
    # Whether the receiver learns only how many items match; then the task has one bin, whatever `bin_items` says.
    counts: bool = False
    # How the bins are exchanged: RR22, or empty for ECDH.
    protocol: str = ""


class Sizes(NamedTuple):
    """Each party's number of distinct items, -1 before it has opened; the number of bins, 0 if one has no items."""

    own: int = -1
    peer: int = -1
    bins: int = 0

    @property
    def capacities(self) -> tuple[int, int]:
        """The capacities of a bin, (own, peer's) [items]."""
        return capacity(self.own, max(self.bins, 1)), capacity(self.peer, max(self.bins, 1))


class TaskBins(Mapping[int, BinParty]):
    """The bins of a task: maps the numbers of running bins to their state, and tracks all bins and their attempts."""

    def __init__(self, kind: type[BinParty], setup: TaskSetup, sizes: Sizes, finished: int = 0) -> None:
        """kind: the class of this role's bins; finished: a bit for each bin that an earlier run finished."""
        self.left = [number for number in range(sizes.bins) if not finished >> number & 1]
        self._under_way: dict[int, BinParty] = {}
        # The current attempt at each bin that has begun.
        self.attempts: dict[int, int] = {}
        # The bins that are done now; and those that ever were, even if they have restarted since.
        self.done: set[int] = set()
        self.ever_done: set[int] = set()
        # Bins that this party has restarted and whose Restart the peer has not answered yet.
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
        """The number of bins that have begun."""
        return len(self.attempts)

    @property
    def has_next(self) -> bool:
        """Whether there are bins that have not begun."""
        return self.begun < len(self.left)

    @property
    def never_done(self) -> int:
        """The number of bins that have begun and were never done; a restart after that does not count."""
        return self.begun - len(self.ever_done)

    @property
    def only_latest_under_way(self) -> bool:
        """Whether every bin that has begun, except the latest one, was done at least once."""
        count = self.never_done
        return count == 0 or (count == 1 and self.left[self.begun - 1] not in self.ever_done)

    @property
    def all_done(self) -> bool:
        return len(self.done) == len(self.left)

    @property
    def all_points_sent(self) -> bool:
        return not self.has_next and all(each.all_points_sent for each in self.values())

    @property
    def all_points_arrived(self) -> bool:
        """Whether the peer has sent all its points; restarted bins are exempt, because they are out of order."""
        first = (each for each in self.values() if not each.place.attempt)
        return not self.has_next and all(each.all_points_arrived for each in first)

    @property
    def exchanged(self) -> tuple[int, int]:
        """The number of items that have been exchanged so far, (own, peer's), including padding."""
        done = self._sizes.bins - len(self.left) + len(self.done)
        own, peer = (done * each for each in self._sizes.capacities)
        under_way = [each.exchanged for each in self.values()]
        return own + sum(own for own, _ in under_way), peer + sum(peer for _, peer in under_way)

    @property
    def questions(self) -> int:
        """How many items the peer sends, including padding: the most it can ask about."""
        bins, (_, peer) = self._sizes.bins, self._sizes.capacities
        return bins * self._kind.questions(peer) if bins else peer

    def place(self, number: int, attempt: int = 0) -> Place:
        sid = bin_session_id(self._setup.task_sid, number, attempt)
        return Place(self._setup.task, number, attempt, sid)

    def begin(self) -> int:
        """Begin the next bin and return its number."""
        number = self.left[self.begun]
        self._begin(number, 0)
        return number

    def restart(self, number: int) -> Restart:
        """Restart a bin and return the message that announces it."""
        self.done.discard(number)
        self._begin(number, self.attempts[number] + 1)
        return Restart(self._setup.task, number, self.attempts[number])

    def _begin(self, number: int, attempt: int) -> None:
        self.attempts[number] = attempt
        place = self.place(number, attempt)
        self._under_way[number] = self._kind(place, self._sizes, self._setup.frame_items)

    def let_send_points(self, *, allowed: bool) -> None:
        """Let the bins send their points one after the other; restarted bins may always send."""
        for each in self.values():
            each.may_send_points = allowed or each.place.attempt > 0
            allowed = allowed and each.all_points_sent

    def finish(self, number: int) -> None:
        """Remove a bin that is done from the running ones."""
        del self._under_way[number]
        self.done.add(number)
        self.ever_done.add(number)

    def addressed(self, message: BinMessage) -> BinParty | None:
        """Return the bin that a message is about, or None if its attempt was abandoned; raises PeerProtocolError."""
        party, attempt = self.get(message.bin), self.attempts.get(message.bin)
        if attempt is not None and message.bin in self.restarting and message.attempt < attempt:
            return None
        if party is None or message.attempt != attempt or message.bin in self.restarting:
            detail = f"it sent a message about bin {message.bin}, attempt {message.attempt}, out of turn"
            raise PeerProtocolError(detail=detail)
        return party

    def receive_frame(self, frame: Frame) -> None:
        """Handle a frame; raises PeerProtocolError."""
        party = self.addressed(frame)
        if party is None:
            return
        if frame.stream in POINTS and not self._is_turn(party):
            raise PeerProtocolError(detail=f"it sent points of bin {frame.bin} before the end of an earlier bin's")
        party.receive_frame(frame)

    def _is_turn(self, party: BinParty) -> bool:
        """Whether the points of all earlier bins have arrived; a restarted bin may come at any time."""
        at = party.place
        before = (each for each in self.values() if each.place.bin < at.bin and not each.place.attempt)
        return at.attempt > 0 or all(each.all_points_arrived for each in before)
