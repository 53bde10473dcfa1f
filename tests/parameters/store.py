"""What the store of RR22 is worth: how often a random band matrix has no solution. ePrint 2023/903.

Estimates, from three sides:

- A queue. Sorted by their first positions, rows arrive at the positions like customers, and each position serves one.
  Rows wait in a queue whose tail falls by the factor z a row, where z = exp(load * (z - 1)) and z > 1; a row fails once
  it has waited for a whole band, or, with g positions left, with probability 2^-g. Summing over all positions counts
  every bad spot several times, so this is an upper estimate. Derived here; ribbon filters are analysed in this way.
- Simulations with narrow bands (`failures`, and for more rows `failures_of_kernel`): between 4 and 9 bits better than
  the queue. `python -m parameters --simulate` repeats them.
- The line that public implementations of ePrint 2023/903 use for a tenth more positions than rows: security = 0.2691 *
  band - 15.21 (for instance in github.com/Interstellar-Network/lib-garble-rs). The paper itself could not be read
  here, nor the number of rows that the line is for; it agrees with the simulations if that is 2^20.
"""

from __future__ import annotations

import random
from math import exp, log2

import numpy as np

from psicli.ole import BACKENDS

BAND = 256

# What `python -m parameters --simulate` measured: rows, band, runs, failures; a tenth more positions, and a band more.
SIMULATED = [
    (512, 28, 200, 14), (1024, 36, 2000, 39), (1024, 44, 4000, 8), (4096, 40, 500, 45), (4096, 48, 1500, 22),
    (16_384, 48, 250, 28),
]  # fmt: skip
# The same by the kernel, whose bands are cut.
SIMULATED_BY_KERNEL = [(65_536, 56, 500, 53), (262_144, 64, 200, 12)]


def upper_estimate(rows: int, positions: int, band: int = BAND) -> float:
    """Return the negative log of the probability that rows have no solution: a bound by the queue."""
    load = rows / max(positions - band + 1, 1)
    if load >= 1:
        return 0.0
    z = _tail(load)
    factor = (1 - load) * (z - 1) / (load * z - 1) * (1 / (1 - z / 2) + 1 / (z - 1))
    return band * log2(z) - log2(factor * positions)


def published(band: int = BAND) -> float:
    return 0.2691 * band - 15.21


def _tail(load: float) -> float:
    """Return the solution above 1 of z = exp(load * (z - 1))."""
    z = 2.0
    for _ in range(200):
        # Newton's method from the right converges from one side.
        z -= (z - exp(load * (z - 1))) / (1 - load * exp(load * (z - 1)))
    return z


def failures(rows: int, band: int, runs: int, seed: int) -> int:
    """Return how many of `runs` random systems with narrow bands have no solution."""
    rng = random.Random(seed)
    return sum(not _solvable(rows, band, rng) for _ in range(runs))


def _solvable(rows: int, band: int, rng: random.Random) -> bool:
    starts = sorted(rng.randrange(rows * 11 // 10 + 1) for _ in range(rows))
    pivots: dict[int, int] = {}
    for at in starts:
        row = rng.getrandbits(band)
        while row:
            zeros = (row & -row).bit_length() - 1
            row, at = row >> zeros, at + zeros
            if at not in pivots:
                pivots[at] = row
                break
            row ^= pivots[at]
        else:
            return False
    return True


def failures_of_kernel(rows: int, band: int, runs: int, seed: int) -> int:
    """Return the same by the fastest kernel; a store has the room that cut bands do not use."""
    kernel, rng = next(iter(BACKENDS.values())), np.random.default_rng(seed)
    mask = [(1 << min(64, max(0, band - 64 * word))) - 1 for word in range(4)]
    failed = 0
    for _ in range(runs):
        starts = rng.integers(0, rows * 11 // 10 + 1, (rows, 1), np.uint64)
        bands = rng.integers(0, 1 << 64, (rows, 4), np.uint64) & np.array(mask, np.uint64)
        values = rng.integers(0, 1 << 64, (rows, 2), np.uint64)
        store = np.zeros((rows * 11 // 10 + BAND, 2), np.uint64)
        failed += not kernel.encode(np.hstack([starts, bands]), values, store)
    return failed
