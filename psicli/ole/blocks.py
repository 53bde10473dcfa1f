"""Blocks of 16 bytes as arrays of words, and what is done with them without a kernel, in constant time.

What a function makes of secrets it returns or wipes: an expression of numpy would leave its parts in freed memory.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
# Shape (n, 2): n blocks, the low word of each first.
Blocks = npt.NDArray[np.uint64]
# Shape (n, 4): the digest of each item: two words of its value, two of the key of its row.
Digests = npt.NDArray[np.uint64]
# Shape (n, 5): the first position of a row of the store, and 256 bits for the positions from there on.
Rows = npt.NDArray[np.uint64]
# Zeros and ones.
Bits = npt.NDArray[np.uint8]
# The place of a leaf in its tree, for each tree.
Points = npt.NDArray[np.uint32]

BLOCK_BYTES = 16
_HALF = np.uint64(32)
# A line of the cache has 64 bytes.
_LINE_WORDS = 8


def random_blocks(count: int) -> Blocks:
    """Return uniformly random blocks in memory that can be wiped."""
    return np.frombuffer(bytearray(os.urandom(BLOCK_BYTES * count)), "<u8").reshape(-1, 2)


def aligned(rows: int, words: int) -> npt.NDArray[np.uint64]:
    """Return an uninitialised array whose rows of 2, 4 or 8 words do not cross the lines of the cache."""
    room = np.empty(rows * words + _LINE_WORDS - 1, np.uint64)
    skipped = -room.ctypes.data // room.itemsize % _LINE_WORDS
    return room[skipped : skipped + rows * words].reshape(rows, words)


def from_bytes(packed: bytes | memoryview) -> Blocks:
    """Return packed blocks, which stay where they are."""
    return np.frombuffer(packed, "<u8").reshape(-1, 2)


def bits(blocks: Blocks) -> Bits:
    """Return the bits of the blocks, one after another, as zeros and ones."""
    return np.unpackbits(np.ascontiguousarray(blocks).view(np.uint8).reshape(-1), bitorder="little")


def from_bits(bits: Bits) -> Blocks:
    """Return the blocks that have these bits, in a number that is a multiple of 128."""
    return np.packbits(bits, bitorder="little").view("<u8").reshape(-1, 2)


def masks(chosen: npt.NDArray[Any]) -> Words:
    """Return a word for each of these zeros and ones: all bits of it are set where there is a one."""
    words = chosen.astype(np.uint64)
    return np.negative(words, out=words)


def bit_masks(blocks: Blocks) -> Words:
    """Return the mask of each bit of the blocks."""
    chosen = bits(blocks)
    words = masks(chosen)
    wipe(chosen)
    return words


def scaled(words: Words, limit: int) -> Words:
    """Return floor(word * limit / 2^64) for each word, which is below the limit; the limit is below 2^32."""
    factor, low, high = np.uint64(limit), words & np.uint64(0xFFFFFFFF), words >> _HALF
    low *= factor
    low >>= _HALF
    high *= factor
    high += low
    high >>= _HALF
    wipe(low)
    return high


def total(blocks: Blocks) -> Blocks:
    """Return the sum of blocks along the last axis but one. Fast if there are many of them."""
    sums = np.empty((*blocks.shape[:-2], blocks.shape[-1]), np.uint64)
    for word in range(blocks.shape[-1]):
        np.bitwise_xor.reduce(blocks[..., word], axis=-1, out=sums[..., word])
    return sums


def wipe(*secrets: npt.NDArray[Any]) -> None:
    """Overwrite arrays with zeros."""
    for secret in secrets:
        secret.fill(0)
