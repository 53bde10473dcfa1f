"""Whether a task continues from what an earlier run has left: decided from both Offers, the same on both sides."""

from __future__ import annotations

from dataclasses import dataclass, field

from psicli.errors import PeerProtocolError
from psicli.protocol.bins import MAX_BINS, number_of_bins
from psicli.protocol.messages import Kept


@dataclass(frozen=True, slots=True)
class Resumption:
    """What both sides continue from; over: neither needs the other any more.

    finished: a bit for each bin that need not be exchanged again, the first one lowest.
    """

    partition_sid: bytes = field(repr=False)
    own_count: int
    peer_count: int
    bins: int
    finished: int
    over: bool = False


def agree_on_resume(
    mine: Kept | None, theirs: Kept | None, *, receives: bool, broadcast: bool, bin_items: int
) -> Resumption | None:
    """Return what the task continues from, None where it starts afresh.

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
    over = receiver.complete or (not broadcast and receiver.finished == every_bin(mine.bins))
    return Resumption(mine.partition_sid, mine.own_count, mine.peer_count, mine.bins, receiver.finished, over)


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
