"""Vector oblivious linear evaluation and the oblivious key-value store, the parts of the protocol RR22.

The other packages use the kernel only through this module. A block is 16 bytes: an element of GF(2^128), bit i of whose
little-endian value is the coefficient of x^i, modulo x^128 + x^7 + x^2 + x + 1. Blocks are rows of arrays with two
words each, the low one first.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

# Shape (n, 2): n blocks.
Blocks = npt.NDArray[np.uint64]
# Shape (n, 5): the first position of a row of the store, and 256 bits for the positions from there on.
Rows = npt.NDArray[np.uint64]
# The place of a leaf in its tree, for each tree.
Points = npt.NDArray[np.uint32]

BLOCK_BYTES = 16


class Backend(Protocol):
    """What a backend provides; its functions return the same bytes as those of any other backend.

    Functions are constant time in everything but sizes, except `rows`, `encode` and `decode`, whose addresses depend on
    the caller's own items.
    """

    def encrypt(self, blocks: Blocks, key: bytes) -> Blocks:
        """Return the blocks encrypted with AES-128, each alone. FIPS 197."""

    def hashes(self, blocks: Blocks, first: int) -> Blocks:
        """Return p(p(x) + i) + p(x) for every block x, with i = first, first + 1, …

        p is AES with a fixed public key. The tweakable correlation-robust hash of ePrint 2019/074, section 7.4.
        """

    def add_products(self, sums: Blocks, blocks: Blocks, factor: Blocks) -> None:
        """Add the products of blocks with one factor to the sums, in place."""

    def grow(self, seeds: Blocks, width: int) -> tuple[Blocks, Blocks]:
        """Grow a tree from each seed; return the first `width` leaves of each, and the sums of the levels.

        The children of a node x are p0(x) + x and p1(x) + x, with two fixed public permutations. For each tree and each
        level below the root, there are two sums: of all left and of all right children. The levels are as many as
        `width` leaves need; only nodes above these leaves count.
        """

    def regrow(self, sums: Blocks, points: Points, width: int) -> Blocks:
        """Grow trees again without the leaf at the point of each, which is zero.

        sums: of each level, that of the side that the path to the point does not take.
        """

    def spread(self, seeds: Blocks, count: int, points: Points | None = None) -> tuple[Blocks, Blocks]:
        """Expand groups of 16 seeds to streams of `count` blocks each, AES of 0, 1, … under the seed as key.

        Return the sum of each group's streams (`count` blocks each), and four planes for each group (`count` blocks
        each): plane b is the sum of the streams whose number has bit b set. Given points, the stream at the point of
        each group is left out, and a stream's number is its place + the point (exclusive or). SoftSpoken, ePrint
        2022/192.
        """

    def combine(self, planes: Blocks) -> Blocks:
        """Return the sum of x^b times plane b, for 128 planes of equal length that follow each other."""

    def transpose(self, planes: Blocks) -> Blocks:
        """Transpose 128 planes that follow each other: bit b of block i becomes bit i of plane b's bits."""

    def compress(self, noise: Blocks, length: int) -> Blocks:
        """Return `length` elements of the dual code for this noise; destroys the noise. ePrint 2023/882.

        The expand-convolute code with fixed public seeds. noise: shape (n, 2) or, for two vectors at once, (n, 4); so
        is the result.
        """

    def rows(self, keys: Blocks, length: int, seed: bytes) -> Rows:
        """Return the row of each key in a store of `length` positions."""

    def encode(self, rows: Rows, values: Blocks, store: Blocks) -> bool:
        """Fill the store so that the positions of each row sum to its value; return whether there is a solution.

        Positions that no row decides keep what the store holds: fill it with random blocks before.
        """

    def decode(self, rows: Rows, store: Blocks) -> Blocks:
        """Return the sum of the positions of each row. ePrint 2023/903."""
