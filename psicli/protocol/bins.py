"""How a task is cut into bins, and which of them are left where it continues: the same numbers on both sides.

An item's bin is the top bits of a keyed hash, so bins come out nearly equal whatever the items are. Both sides pad
every bin to its capacity, so that what travels depends on the two counts alone.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from psicli.core.errors import PeerProtocolError, TooManyBinsError
from psicli.protocol.messages import Kept

# Fewer items a bin than that make too many bins and too much padding, more fit in no ordinary memory [items].
LEAST_BIN_ITEMS = 1 << 14
MOST_BIN_ITEMS = 1 << 20
MAX_BINS = 1 << 16
# How often one bin may be answered under one partition: once, and once more after a crash.
MOST_ANSWERS = 2


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

    Raises TooManyBinsError for more than MAX_BINS.
    """
    if not (own and peer):
        return 0
    bins = 1
    while capacity(max(own, peer), bins) > bin_items:
        bins *= 2
    if bins > MAX_BINS:
        raise TooManyBinsError(items=max(own, peer), limit=MAX_BINS, size=bin_items)
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
