"""The oblivious key-value store: a vector that gives each item's value, and looks random for all other keys.

A row of random bits over 256 neighbouring positions belongs to each key; the positions that it chooses sum to the
value. Any vector can be decoded with any row. ePrint 2023/903.
"""

from __future__ import annotations

import os
import secrets

import numpy as np

from psicli.core.errors import SelfCheckError
from psicli.ole import backend, kernel, reference
from psicli.ole.blocks import BLOCK_BYTES, Blocks, Digests, Rows, wipe

# One encoding fails with a probability that tests/parameters derives; three never do.
TRIES = 3
# So many rows are computed again by the reference, and decoded [rows].
SAMPLED_ROWS = 64


def encoded(digests: Digests, length: int) -> tuple[bytes, Rows, Blocks, int]:
    """Return the seed of the rows, the rows, a store that holds the values, and how many tries failed before.

    The seed is drawn for digests that are given, so nobody can choose items for which encoding fails. length: of the
    store [blocks]. Raises SelfCheckError if no try succeeds.
    """
    for failed in range(TRIES):
        seed = os.urandom(BLOCK_BYTES)
        rows = rows_of(digests, length, seed)
        store = _random_store(length)
        if kernel().encode(rows, digests[:, :2], store):
            _check(digests, seed, rows, store)
            return seed, rows, store, failed
        wipe(rows, store)
    raise SelfCheckError(backend=backend(), detail=f"it found no store for {len(digests)} items in {TRIES} tries")


def rows_of(digests: Digests, length: int, seed: bytes) -> Rows:
    """Return the row of each item in a store of `length` positions."""
    return kernel().rows(digests[:, 2:], length, seed)


def _random_store(length: int) -> Blocks:
    """Return random blocks from a fresh seed: five times as fast as the system's random bytes."""
    counters = np.zeros((length, 2), "<u8")
    counters[:, 0] = np.arange(length)
    return kernel().encrypt(counters, os.urandom(BLOCK_BYTES))


def _check(digests: Digests, seed: bytes, rows: Rows, store: Blocks) -> None:
    """Let the reference decode a random sample of the items; raises SelfCheckError."""
    count = len(digests)
    sample = secrets.SystemRandom().sample(range(count), min(count, SAMPLED_ROWS))
    expected = reference.rows(digests[sample, 2:], len(store), seed)
    if (rows[sample] != expected).any() or (reference.decode(expected, store) != digests[sample, :2]).any():
        raise SelfCheckError(backend=backend(), detail="the reference decodes a different value")
