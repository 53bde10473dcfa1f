"""Comparing lists of packed records: the points and tokens of one bin, in memory.

Records are told apart by their first words wherever these differ, which they do unless somebody made them up; then
the whole records are compared. Either takes n log n steps, whatever a peer sends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
# Packed records as 64-bit words: one row a record.
Words = npt.NDArray[np.uint64]
Order = npt.NDArray[np.int64]

_DIGIT = np.uint32(0xFFFF)


def empty(count: int, width: int) -> Words:
    """Return room for so many records of so many bytes; memory is taken as it is filled."""
    return np.empty((count, width // 8), "<u8")


@dataclass(frozen=True)
class Comparison:
    """What a list of records has in common with another, and each with itself.

    found, found_other: for each record whether the other list holds it too; exact where neither list repeats a record,
    else at least one of the common records is marked.
    """

    found: Mask
    found_other: Mask
    repeats: bool
    other_repeats: bool


def compare(records: Words, other: Words) -> Comparison:
    """Compare two lists of records of one size, after one sort of both together."""
    count = len(records)
    first, second = _alike(records, other)
    if len(first):
        both = np.concatenate([records, other])
        equal = _equal(both.take(first, axis=0), both.take(second, axis=0))
        first, second = first[equal], second[equal]
    mixed = (first < count) & (second >= count)
    comparison = Comparison(
        np.zeros(count, np.bool_),
        np.zeros(len(other), np.bool_),
        bool((second < count).any()),
        bool((first >= count).any()),
    )
    comparison.found[first[mixed]] = True
    comparison.found_other[second[mixed] - count] = True
    return comparison


def have_common(records: Words, other: Words) -> bool:
    """Tell whether two lists share a record; quick where they hardly do."""
    # Most records are ruled out by some bits of theirs that no record of the other list has.
    slots = np.uint64((1 << (len(records) + len(other)).bit_length() + 3) - 1)
    left, right = (each[:, 0] & slots for each in (records, other))
    marked = np.zeros(int(slots) + 1, np.bool_)
    marked[left] = True
    kept = marked[right]
    marked[left] = False
    marked[right] = True
    return bool(compare(records[marked[left]], other[kept]).found.any())


def _alike(records: Words, other: Words) -> tuple[Order, Order]:
    """Return pairs of places in both lists together, the lower one first, of which each may hold equal records."""
    firsts = np.concatenate([records[:, 0], other[:, 0]])
    order = stable_order(firsts)
    firsts = firsts[order]
    alike = firsts[1:] == firsts[:-1]
    pairs = np.flatnonzero(alike)
    if not (alike[1:] & alike[:-1]).any():
        return order[pairs], order[pairs + 1]
    # Not only neighbours are alike: of those the whole records are put in order.
    doubtful = np.unique(order[np.concatenate([pairs, pairs + 1])])
    order = doubtful[np.lexsort(tuple(np.concatenate([records, other])[doubtful].T))]
    return order[:-1], order[1:]


def _equal(records: Words, other: Words) -> Mask:
    # Column by column: numpy is ten times as slow along a short axis.
    equal: Mask = records[:, 0] == other[:, 0]
    for word in range(1, records.shape[1]):
        equal &= records[:, word] == other[:, word]
    return equal


def stable_order(words: npt.NDArray[np.uint64]) -> Order:
    """Return where the words stand in ascending order; equal ones stay as they are.

    Sorts by the upper halves, a digit of 16 bits at a time, which numpy does in linear time; what is still out of order
    then are few words if they are random, and n log n steps if they are not. Three times as fast as np.argsort.
    """
    upper = (words >> np.uint64(32)).astype(np.uint32)
    order = np.argsort((upper & _DIGIT).astype(np.uint16), kind="stable")
    order = order[np.argsort((upper >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    ordered = words[order]
    if (ordered[1:] < ordered[:-1]).any():
        order = order[np.argsort(ordered, kind="stable")]
    return order
