"""The sizes of an attempt at a bin: how long its vectors are, and how many blocks of 16 bytes each of its streams has.

All of them follow from the capacities of the bin, so the amount of data sent depends only on the two counts.
tests/parameters derives the numbers of the noise and of the store, and says what they are worth.
"""

from __future__ import annotations

from typing import NamedTuple

# The bits of Δ, and the oblivious transfers that choose them.
DELTA_BITS = 128
# The trees of the extension: each hides four bits of Δ among 16 leaves.
DELTA_TREES, DELTA_DEPTH = 32, 4
# The positions of noise: one in each tree. At least so much noise is drawn [blocks].
TREES = 552
LEAST_NOISE = 1 << 14
# The store has a tenth more positions than items, and so many more.
SPARE_POSITIONS = 256
# The bits of a token beyond those of both numbers of items: a false match has probability 2^-40 in a whole task.
STATISTICAL_BITS = 40
# A point takes two blocks.
_KEY = 2
# Δ is used in one extension; another one, with bits of its own, serves the transfers of the trees.
_EXTENSIONS = 2


class Sizes(NamedTuple):
    """The sizes of an attempt at a bin; store: the positions of the receiver's store [blocks]."""

    store: int

    @property
    def width(self) -> int:
        """The leaves of each tree: the code halves the noise."""
        return -(-max(2 * self.store, LEAST_NOISE) // TREES)

    @property
    def depth(self) -> int:
        return (self.width - 1).bit_length()

    @property
    def noise(self) -> int:
        """The length of the noise [blocks]."""
        return TREES * self.width

    @property
    def paths(self) -> int:
        """The transfers that choose the paths to the noise, rounded up to whole blocks of bits."""
        return -(-TREES * self.depth // 128) * 128

    @property
    def keys(self) -> int:
        """The blocks of the first message, from the sender: two keys for each bit of Δ, in each extension."""
        return _EXTENSIONS * DELTA_BITS * 2 * _KEY

    @property
    def choices(self) -> int:
        """The blocks of the second message, from the receiver: its key, two sums for each bit of Δ, and the choices."""
        sums = _EXTENSIONS * DELTA_TREES * DELTA_DEPTH * 2
        return _KEY + sums + DELTA_TREES * (TREES + self.paths // 128)

    @property
    def sums(self) -> int:
        """The blocks of the third message, from the sender: two sums for each level of each tree, and one a tree."""
        return TREES * (2 * self.depth + 1)

    @property
    def vector(self) -> int:
        """The blocks of the fourth message, from the receiver: the seed of its store, and its masked store."""
        return 1 + self.store


def sizes(capacity: int) -> Sizes:
    """Return the sizes of a bin in which the receiver has this many items, with padding."""
    return Sizes(-(-capacity * 11 // 10) + SPARE_POSITIONS)


def token_bytes(own: int, peer: int) -> int:
    """Return the size of a token; own, peer: the items of each party in all bins, with padding [bytes]."""
    return -(-(STATISTICAL_BITS + own.bit_length() + peer.bit_length()) // 8)
