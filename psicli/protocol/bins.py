"""How a task is cut into bins: numbers both sides compute alike, from the two counts and nothing else.

An item's bin is the top bits of a keyed hash, so bins come out nearly equal whatever the items are. Both sides pad
every bin to its capacity, so that what travels depends on the counts alone.
"""

from __future__ import annotations

from math import isqrt

from psicli.errors import TooManyBinsError

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
