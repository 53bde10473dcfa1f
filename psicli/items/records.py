"""Compares lists of packed records in memory: the points or tokens of one bin.

The first words of different records differ, unless somebody constructed the records. Only records with equal first
words are compared as a whole. This takes O(n log n) steps, whatever a peer sends.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

# None without the kernel in C: then numpy does the same, and takes three times as long.
native: Any = None
with suppress(ImportError):
    native = import_module("psicli.curve._native")

Mask = npt.NDArray[np.bool_]
# Packed records as 64-bit words, one row for each record.
Words = npt.NDArray[np.uint64]
Order = npt.NDArray[np.integer[Any]]

_DIGIT = np.uint32(0xFFFF)
# The kernel in C tells positions in 32 bits.
_MOST_POSITIONS = (1 << 32) - 1


def empty(count: int, width: int) -> Words:
    """Return an uninitialised array for `count` records of `width` [bytes]; it takes memory only as it is filled."""
    return np.empty((count, width // 8), "<u8")


class Comparison:
    """A comparison of two lists of records, each of which is sorted once."""

    def __init__(self, records: Words, other: Words) -> None:
        self._lists = records, other
        self._count = len(records)
        # The lists are merged later: how long that takes may reveal common records, which the peer must not learn.
        self._sorted = in_order(records), in_order(other)

    @property
    def other(self) -> Words:
        """The second list."""
        return self._lists[1]

    def common(self) -> int:
        """Return how many records both lists contain, given that neither repeats one."""
        first, second = self._equal_pairs
        return int(((first < self._count) & (second >= self._count)).sum())

    def repeats(self) -> tuple[bool, bool]:
        """Return for each list whether it repeats a record.

        Each list is looked at alone, so that the time this takes does not depend on common records, whatever a peer
        sends.
        """
        first, second = (
            _repeats(records, *ordered) for records, ordered in zip(self._lists, self._sorted, strict=True)
        )
        return first, second

    def found(self, *, in_other: bool = False) -> Mask:
        """Return for each record of the first list whether the second contains it; in_other: the other way round.

        The result is exact if neither list repeats a record. Otherwise, it marks at least one common record, if there
        are any.
        """
        first, second = self._equal_pairs
        mixed = (first < self._count) & (second >= self._count)
        mask = np.zeros(len(self._lists[in_other]), np.bool_)
        mask[second[mixed] - self._count if in_other else first[mixed]] = True
        return mask

    @cached_property
    def _equal_pairs(self) -> tuple[Order, Order]:
        """Pairs of equal records that are neighbours when sorted, as positions in the joined lists, the lower first."""
        (order, words), (other_order, other_words) = self._sorted
        joined = np.concatenate([words, other_words])
        # Numpy merges two sorted lists in linear time.
        merged = np.argsort(joined, kind="stable")
        order = np.concatenate([order, other_order.astype(np.int64) + self._count])[merged]
        joined = joined[merged]
        alike = joined[1:] == joined[:-1]
        pairs = np.flatnonzero(alike)
        if not len(pairs):
            return pairs, pairs
        both = np.concatenate(self._lists)
        if (alike[1:] & alike[:-1]).any():
            # More than two records share a first word, so sort these by all their words.
            doubtful = np.unique(order[np.concatenate([pairs, pairs + 1])])
            order = doubtful[np.lexsort(tuple(both[doubtful].T))]
            first, second = order[:-1], order[1:]
        else:
            first, second = order[pairs], order[pairs + 1]
        equal = _equal(both.take(first, axis=0), both.take(second, axis=0))
        return first[equal], second[equal]


def _repeats(records: Words, order: Order, words: npt.NDArray[np.uint64]) -> bool:
    """Return whether a list repeats a record. order, words: as from `in_order`."""
    alike = words[1:] == words[:-1]
    if not alike.any():
        return False
    # Only a peer that constructs records makes their first words equal.
    tied = np.zeros(len(words), np.bool_)
    tied[1:] |= alike
    tied[:-1] |= alike
    doubtful = records[order[tied]]
    doubtful = doubtful[np.lexsort(tuple(doubtful.T))]
    return bool(_equal(doubtful[1:], doubtful[:-1]).any())


def have_common(records: Words, other: Words) -> bool:
    """Return whether two lists share a record; fast if they share few."""
    # A record is ruled out if no record of the other list has the same low bits in its first word.
    return bool(Comparison(records[_seen(other, records)], other[_seen(records, other)]).found().any())


def _seen(records: Words, others: Words) -> Mask:
    """Return which of the other records may have the same first word as one of the records."""
    found: Mask
    if native is not None:
        both = np.ascontiguousarray(records), np.ascontiguousarray(others)
        found = np.frombuffer(native.seen(*both, _width(others)), np.bool_)
        return found
    slots = np.uint64((1 << (len(records) + len(others)).bit_length() + 3) - 1)
    marked = np.zeros(int(slots) + 1, np.bool_)
    marked[records[:, 0] & slots] = True
    found = marked[others[:, 0] & slots]
    return found


def _equal(records: Words, other: Words) -> Mask:
    # Compare column by column, because numpy is ten times as slow along a short axis.
    equal: Mask = records[:, 0] == other[:, 0]
    for word in range(1, records.shape[1]):
        equal &= records[:, word] == other[:, word]
    return equal


def in_order(records: Words) -> tuple[Order, npt.NDArray[np.uint64]]:
    """Return the positions of records in ascending order of their first words, and these words; equal ones stay.

    Takes linear time in C, whatever the records are.
    """
    if native is None or len(records) > _MOST_POSITIONS:
        order = _stable_order(records[:, 0])
        return order, records[:, 0][order]
    order, words = native.order(np.ascontiguousarray(records), _width(records))
    return np.frombuffer(order, np.uint32), np.frombuffer(words, np.uint64)


def stable_order(words: npt.NDArray[np.uint64]) -> Order:
    """Return the positions of the words in ascending order; equal words keep their order."""
    return in_order(words.reshape(-1, 1))[0]


def _width(records: Words) -> int:
    """Return the size of a record [bytes]."""
    width: int = records.shape[1] * records.itemsize
    return width


def _stable_order(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Sort by the upper halves first, 16 bits at a time, which numpy does in linear time.

    Random words are then nearly in order; others need O(n log n) more steps. For random words this is three times as
    fast as np.argsort alone.
    """
    upper = (words >> np.uint64(32)).astype(np.uint32)
    order = np.argsort((upper & _DIGIT).astype(np.uint16), kind="stable")
    order = order[np.argsort((upper >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    ordered = words[order]
    if (ordered[1:] < ordered[:-1]).any():
        order = order[np.argsort(ordered, kind="stable")]
    return order
