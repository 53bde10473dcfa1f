"""The kernel of RR22 in numpy, with AES from `cryptography`: slow, simple, and the standard for other backends.

`Backend` in psicli.ole says what each function takes and returns. Secrets choose by masks here too, without branches
and addresses, except in `compress` and in the key-value store; nobody has checked what numpy and Python make of it.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from psicli.ole.blocks import BLOCK_BYTES, Blocks, Points, Rows, bits, from_bits, from_bytes, masks, scaled, total

NAME = "reference"

# The first 128 bits of the fractional parts of pi and of e, so that nobody chose them.
PI = bytes.fromhex("243f6a8885a308d313198a2e03707344")
E = bytes.fromhex("b7e151628aed2a6abf7158809cf4f3c7")

# SoftSpoken with k = 4: a group has so many streams, and their numbers so many bits.
STREAMS, PLANES = 16, 4

# The code. An element gains the one before it and some of the 23 before that; 21 elements make one of the result.
TAPS, WEIGHT = 24, 21
# The numbers of 32 bits that are drawn for each element of the result; the last three are not used.
DRAWN = 24
CONVOLUTION_SEED = sha256(b"psicli/v1/rr22/convolution\0").digest()[:BLOCK_BYTES]
EXPANDER_SEED = sha256(b"psicli/v1/rr22/expander\0").digest()[:BLOCK_BYTES]

# A row of the store has so many bits, for the positions from its start on.
BAND = 256


# AES ---------------------------------------------------------------------------------------------------------------


def encrypt(blocks: Blocks, key: bytes) -> Blocks:
    # update_into wants room for a block more than it writes.
    encrypted = bytearray(BLOCK_BYTES * (len(blocks) + 1))
    size = Cipher(AES(key), ECB()).encryptor().update_into(blocks.tobytes(), encrypted)
    return from_bytes(memoryview(encrypted)[:size])


def stream(key: bytes, count: int, first: int = 0) -> Blocks:
    """Return AES(first), AES(first + 1), … under the key."""
    return encrypt(_numbers(first, count), key)


def hashes(blocks: Blocks, first: int) -> Blocks:
    once = encrypt(blocks, PI)
    return encrypt(once ^ _numbers(first, len(blocks)), PI) ^ once


def _numbers(first: int, count: int) -> Blocks:
    numbers = np.zeros((count, 2), "<u8")
    numbers[:, 0] = np.arange(first, first + count)
    return numbers


# GF(2^128) ---------------------------------------------------------------------------------------------------------


def times_x(elements: Blocks) -> Blocks:
    """Return the products of elements with x, modulo x^128 + x^7 + x^2 + x + 1."""
    low, high = elements[:, 0], elements[:, 1]
    overflow = masks(high >> np.uint64(63)) & np.uint64(0x87)
    return np.stack([low << np.uint64(1) ^ overflow, high << np.uint64(1) ^ low >> np.uint64(63)], axis=1)


def add_products(sums: Blocks, blocks: Blocks, factor: Blocks) -> None:
    for mask in masks(bits(factor)):
        sums ^= blocks & mask
        blocks = times_x(blocks)


def combine(planes: Blocks) -> Blocks:
    # Horner's rule.
    first, *others = planes.reshape(128, -1, 2)[::-1]
    combined: Blocks = first.copy()
    for plane in others:
        combined = times_x(combined) ^ plane
    return combined


def transpose(planes: Blocks) -> Blocks:
    return from_bits(bits(planes).reshape(128, -1).T)


# Puncturable trees -------------------------------------------------------------------------------------------------


def grow(seeds: Blocks, width: int) -> tuple[Blocks, Blocks]:
    depth = (width - 1).bit_length()
    nodes, sums = seeds.reshape(-1, 1, 2), np.empty((len(seeds), depth, 2, 2), "<u8")
    for level in range(depth):
        children = _children(nodes[:, : _parents(width, depth, level)])
        sums[:, level] = _sides(children)
        nodes = children.reshape(len(seeds), 2 * children.shape[1], 2)
    return nodes[:, :width].reshape(-1, 2), sums.reshape(-1, 2)


def regrow(sums: Blocks, points: Points, width: int) -> Blocks:
    depth, count = (width - 1).bit_length(), len(points)
    paths, known = points.astype(np.uint64).reshape(-1, 1), sums.reshape(count, depth, 2)
    nodes = np.zeros((count, 1, 2), "<u8")
    for level in range(depth):
        parents = _parents(width, depth, level)
        left = np.uint64(depth - 1 - level)
        children = _children(nodes[:, :parents])
        # The node on the path is unknown, so nothing is known of its children but the sum that the one beside the path
        # is a part of.
        on_path = masks(np.arange(parents) == paths >> left + np.uint64(1))[..., None, None]
        beside = masks(np.arange(2) == 1 - (paths >> left & np.uint64(1)))[..., None]
        children &= ~on_path
        missing = (_sides(children) ^ known[:, level, None]) & beside
        children ^= on_path & missing[:, None]
        nodes = children.reshape(count, 2 * parents, 2)
    return nodes[:, :width].reshape(-1, 2)


def _parents(width: int, depth: int, level: int) -> int:
    """Return how many nodes at a level are above the first `width` leaves; the root is at level 0."""
    return -(-width // (1 << depth - level))


def _children(nodes: Blocks) -> Blocks:
    """Return the left and the right child of each node: shape (trees, nodes, 2, 2)."""
    flat = nodes.reshape(-1, 2)
    children = np.stack([encrypt(flat, key) ^ flat for key in (PI, E)], axis=1)
    return children.reshape(*nodes.shape[:2], 2, 2)


def _sides(children: Blocks) -> Blocks:
    """Return the sum of all left and that of all right children of each tree: shape (trees, 2, 2)."""
    return total(children.swapaxes(1, 2))


# SoftSpoken --------------------------------------------------------------------------------------------------------


def spread(seeds: Blocks, count: int, points: Points | None = None) -> tuple[Blocks, Blocks]:
    groups = len(seeds) // STREAMS
    numbers = np.arange(STREAMS) ^ (np.zeros(groups, np.uint32) if points is None else points)[:, None]
    counts = masks(numbers != 0 if points is not None else np.ones_like(numbers))
    has_bit = masks(numbers[..., None] >> np.arange(PLANES) & 1)
    sums, planes = np.zeros((groups, count, 2), "<u8"), np.zeros((groups, PLANES, count, 2), "<u8")
    for group, place in np.ndindex(groups, STREAMS):
        made = stream(seeds[STREAMS * group + place].tobytes(), count)
        sums[group] ^= made & counts[group, place]
        planes[group] ^= made & has_bit[group, place, :, None, None]
    return sums.reshape(-1, 2), planes.reshape(-1, 2)


# The code ----------------------------------------------------------------------------------------------------------


def compress(noise: Blocks, length: int) -> Blocks:
    _convolve(noise)
    drawn = stream(EXPANDER_SEED, length * DRAWN // 4).view("<u4").reshape(length, DRAWN)
    result = np.zeros((length, noise.shape[1]), "<u8")
    for choice in range(WEIGHT):
        result ^= noise[drawn[:, choice].astype(np.uint64) * np.uint64(len(noise)) >> np.uint64(32)]
    return result


def _convolve(elements: Blocks) -> None:
    """Let each element gain some of those before it: bit t of its number adds the element t + 1 before it."""
    count = len(elements)
    numbers = stream(CONVOLUTION_SEED, -(-count // 4)).view("<u4").reshape(-1)[:count] | np.uint32(1)
    values = _values(elements)
    for at, number in enumerate(numbers.tolist()):
        for tap in range(min(at, TAPS)):
            if number >> tap & 1:
                values[at] ^= values[at - tap - 1]
    elements[:] = _blocks(values, elements.shape[1])


# The key-value store -----------------------------------------------------------------------------------------------


def rows(keys: Blocks, length: int, seed: bytes) -> Rows:
    made = [encrypt(keys ^ np.array([number, 0], "<u8"), seed) for number in range(3)]
    starts = scaled(made[2][:, 0], length - BAND + 1)
    return np.column_stack([starts, made[0], made[1]])


def encode(rows: Rows, values: Blocks, store: Blocks) -> bool:
    # Gaussian elimination. A pivot is a band that is shifted so that its bit 0 is set, and its value, by the position
    # of that bit. From the last to the first, each decides its position after those of its other bits are known.
    pivots: dict[int, tuple[int, int]] = {}
    bands, sums = _values(rows[:, 1:]), _values(values)
    for at in np.argsort(rows[:, 0], kind="stable").tolist():
        position, band, value = int(rows[at, 0]), bands[at], sums[at]
        while band:
            shift = (band & -band).bit_length() - 1
            position, band = position + shift, band >> shift
            if position not in pivots:
                pivots[position] = band, value
                break
            band, value = band ^ pivots[position][0], value ^ pivots[position][1]
        else:
            if value:
                return False
    solved = _values(store)
    for position in sorted(pivots, reverse=True):
        band, value = pivots[position]
        for bit in range(1, BAND):
            if band >> bit & 1:
                value ^= solved[position + bit]
        solved[position] = value
    store[:] = _blocks(solved, 2)
    return True


def decode(rows: Rows, store: Blocks) -> Blocks:
    sums = np.zeros((len(rows), 2), "<u8")
    for bit in range(BAND):
        chosen = rows[:, 1 + bit // 64] >> np.uint64(bit % 64) & np.uint64(1)
        sums ^= store[rows[:, 0] + np.uint64(bit)] & masks(chosen)[:, None]
    return sums


def _values(rows: Blocks) -> list[int]:
    """Return the bits of each row as one number: Python's numbers are faster than numpy's, one at a time."""
    size, packed = 8 * rows.shape[1], rows.tobytes()
    return [int.from_bytes(packed[at : at + size], "little") for at in range(0, len(packed), size)]


def _blocks(values: list[int], words: int) -> Blocks:
    """Return the rows of which these are the bits."""
    packed = bytearray().join(value.to_bytes(8 * words, "little") for value in values)
    return np.frombuffer(packed, "<u8").reshape(-1, words)
