"""Orders items by their keyed hashes: equal items have equal hashes, and the top bits are the number of a bin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve
from psicli.items.records import in_order

# The two words of each hash; the first one has the top bits.
Hashes = npt.NDArray[np.uint64]


def keyed_hashes(items: pa.LargeBinaryArray, key: bytes) -> Hashes:
    """Return the hash of each item under a key of 32 bytes."""
    return np.frombuffer(curve.keyed_hashes(items, key), ">u8").reshape(-1, 2).astype(np.uint64)


def bin_of(hashes: Hashes, bits: int) -> npt.NDArray[np.int64]:
    """Return the top bits of each hash."""
    # Two shifts, because a single shift by 64 bits is undefined.
    return (hashes[:, 0] >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.int64)


def cumulated(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return 0, followed by the cumulative sums of the counts."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def sorted_distinct(hashes: Hashes) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], Hashes]:
    """Return the index of the first of each distinct hash, in ascending order of hashes.

    Also returns, for each hash, its position in this order, and the distinct hashes themselves.
    """
    order, firsts = in_order(hashes)
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = firsts[1:] != firsts[:-1]
    alike = np.flatnonzero(~is_new)
    if (hashes[order[alike], 1] != hashes[order[alike - 1], 1]).any():
        # Hashes with the same first half differ in the second one. This happens once in 2^64 pairs of hashes.
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        ordered = hashes.take(order, axis=0)
        is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    places = np.empty(len(hashes), np.uint32)
    places[order] = np.cumsum(is_new, dtype=np.uint32) - np.uint32(1)
    chosen = order[is_new]
    return chosen.astype(np.uint32), places, hashes.take(chosen, axis=0)
