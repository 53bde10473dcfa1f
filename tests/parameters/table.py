"""What each number of psicli/protocol/rr22/sizes.py is worth, in bits, and the bar that it must reach."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2, pi
from typing import NamedTuple

from parameters import noise, store
from parameters.noise import Noise

from psicli.protocol.rr22 import sizes

# The relative weight of the lightest words of the code that a search is assumed to find: see parameters.code.
ASSUMED_DISTANCE = 0.15
# The least security that is asked of what takes computing, of what is a matter of chance, and of the group of RFC 7748.
COMPUTING, CHANCE, GROUP = 128, 40, 125


class Worth(NamedTuple):
    """What something is worth [bits]; bar: the least it must be worth, or 0 if it is only told."""

    what: str
    bits: float
    bar: float

    @property
    def is_enough(self) -> bool:
        return self.bits >= self.bar


def worths() -> list[Worth]:
    return [*_of_noise(), *_of_store(), *_of_tokens(), *_of_trees(), *_of_transfers()]


def least_noise() -> Noise:
    """Return the shortest noise, which is the easiest to attack."""
    return Noise(sizes.TREES, sizes.Sizes(1).width)


def _of_noise() -> Iterator[Worth]:
    least = least_noise()
    yield Worth(
        "noise: linear test, assumed distance 0.15", noise.linear_test(sizes.TREES, ASSUMED_DISTANCE), COMPUTING
    )
    for distance, what in (
        (0.10, "if the distance is only 0.10"),
        (noise.gilbert_varshamov(), "with the lightest word of a random code (0.11)"),
        (0.20, "if the distance is 0.20"),
        (0.25, "with what linear algebra finds in a random code (0.25)"),
    ):
        yield Worth(f"noise: linear test {what}", noise.linear_test(sizes.TREES, distance), 0)
    # No word that is lighter than the authors of the code assumed is within reach, were the code a random one.
    yield Worth("noise: finding a word of weight 0.20", noise.search(least.length, 0.20), COMPUTING)
    yield Worth("noise: finding a word of weight 0.15", noise.search(least.length, 0.15), COMPUTING)
    yield Worth("noise: finding a word, and the tests with it", noise.search_and_test(least), COMPUTING)
    yield Worth("noise: Gauss", noise.gauss(least), COMPUTING)
    for projected, name in ((False, ""), (True, ", projected to bits")):
        yield Worth(f"noise: information set{name}", noise.permutation(least, projected), COMPUTING)
        yield Worth(f"noise: Groebner basis{name}", noise.groebner(least, projected), COMPUTING)
        yield Worth(f"noise: hybrid{name}", noise.hybrid(least, projected), COMPUTING)
    yield Worth("noise: enumeration, projected to bits", noise.enumeration(least), COMPUTING)


def _of_store() -> Iterator[Worth]:
    for log_rows in (10, 14, 20, 24):
        rows = 1 << log_rows
        bits = store.upper_estimate(rows, sizes.sizes(rows).store)
        yield Worth(f"store: a solution for 2^{log_rows} rows, at least", bits, CHANCE)
    yield Worth("store: a solution, as published implementations estimate", store.published(), CHANCE)


def _of_tokens() -> Iterator[Worth]:
    counts = sorted({count for power in range(0, 41, 4) for count in ((1 << power) - 1, 1 << power, (1 << power) + 1)})
    # The least probable is that of the counts that their numbers of bits fit best.
    bits = min(8 * sizes.token_bytes(own, peer) - log2(own * peer) for own in counts for peer in counts if own and peer)
    yield Worth("tokens: no false match in a task", bits, CHANCE)
    yield Worth("tokens: no false match of blocks before, 2^30 with 2^30", 128 - 60, CHANCE)


def _of_trees() -> Iterator[Worth]:
    """Yield the bounds for AES as an ideal permutation: 2^a calls of it win with a probability of 2^(a - bits)."""
    # The nodes on the paths and the hashes of the pads that a party does not know, in a bin of 2^22 items.
    hidden = 2 * (sizes.TREES * sizes.sizes(1 << 22).depth + sizes.DELTA_TREES * sizes.DELTA_DEPTH)
    # A call hits the input or the output of one of them.
    yield Worth("trees and hashes: a call of AES at a hidden node, bin of 2^22", 128 - log2(2 * hidden), 112)
    yield Worth("trees and hashes: no two hidden nodes are equal, bin of 2^22", 129 - 2 * log2(hidden), 96)


def _of_transfers() -> Iterator[Worth]:
    yield Worth("transfers: guessing Δ", min(sizes.DELTA_BITS, sizes.DELTA_TREES * sizes.DELTA_DEPTH), COMPUTING)
    # Pollard's rho in a group of order about 2^252.
    yield Worth("transfers: a discrete logarithm in curve25519", (252 + log2(pi / 4)) / 2, GROUP)
