"""The extension of 128 base transfers to long vectors: SoftSpoken with trees of 16 leaves. ePrint 2022/192.

The party that has both keys of each transfer (psicli's receiver) chooses a vector of blocks, u. Afterwards it has 128
planes v_b, and the other party, which chose 128 bits Δ, has the planes v_b + Δ_b * u. Combined to one vector in
GF(2^128), these are V and V + Δ * u; transposed, they are the keys of as many oblivious transfers as u has bits.
"""

from __future__ import annotations

import numpy as np

from psicli.ole import kernel
from psicli.ole.blocks import Bits, Blocks, Points, bit_masks, from_bits, masks, random_blocks, wipe
from psicli.protocol.rr22.sizes import DELTA_DEPTH, DELTA_TREES

_LEAVES = 1 << DELTA_DEPTH


def off_path(points: Points, depth: int) -> Bits:
    """Return for each level of each tree, the side that the path to the tree's point does not take: 0 left, 1 right."""
    taken = points[:, None] >> np.arange(depth - 1, -1, -1, dtype=np.uint32)
    taken &= 1
    taken ^= 1
    sides = taken.astype(np.uint8).reshape(-1)
    wipe(taken)
    return sides


def pick(pairs: Blocks, sides: Bits) -> Blocks:
    """Return one block of each pair; pairs: shape (n, 2, 2). Constant time in the sides."""
    chosen = masks(sides)
    picked: Blocks = pairs[:, 0] ^ pairs[:, 1]
    picked &= chosen[:, None]
    picked ^= pairs[:, 0]
    wipe(chosen)
    return picked


def base_choices(delta: Blocks) -> Blocks:
    """Return the bits that the base transfers choose for Δ."""
    points = _points(delta)
    sides = off_path(points, DELTA_DEPTH)
    choices = from_bits(sides)
    wipe(points, sides)
    return choices


def extend(keys: Blocks, chosen: Blocks) -> tuple[Blocks, Blocks, Blocks]:
    """Return what the other party needs, masked sums and corrections, and this party's planes.

    keys: both keys of each transfer; chosen: any number of blocks. Constant time.
    """
    seeds = random_blocks(DELTA_TREES)
    leaves, sums = kernel().grow(seeds, _LEAVES)
    streams, planes = kernel().spread(leaves, len(chosen))
    corrections = streams.reshape(DELTA_TREES, -1, 2) ^ chosen
    masked = sums ^ keys
    wipe(seeds, leaves, sums, streams)
    return masked, corrections.reshape(-1, 2), planes


def extend_chosen(keys: Blocks, delta: Blocks, masked: Blocks, corrections: Blocks) -> Blocks:
    """Return the planes of the party that has Δ. keys: the chosen one of each transfer. Constant time."""
    points = _points(delta)
    sides = off_path(points, DELTA_DEPTH)
    sums = pick(masked.reshape(-1, 2, 2), sides)
    sums ^= keys
    leaves = kernel().regrow(sums, points, _LEAVES)
    tree_sums, planes = kernel().spread(leaves, len(corrections) // DELTA_TREES, points)
    by_tree = planes.reshape(DELTA_TREES, DELTA_DEPTH, -1, 2)
    chosen = bit_masks(delta)
    added = chosen.reshape(DELTA_TREES, DELTA_DEPTH, 1, 1) & corrections.reshape(DELTA_TREES, 1, -1, 2)
    by_tree ^= added
    wipe(points, sides, sums, leaves, tree_sums, chosen, added)
    return planes


def _points(delta: Blocks) -> Points:
    """Return the leaf of each tree that Δ hides: four bits of it each."""
    wide = delta.reshape(-1, 1) >> np.arange(0, 64, DELTA_DEPTH, dtype=np.uint64)
    wide &= np.uint64(_LEAVES - 1)
    points = wide.astype(np.uint32).reshape(-1)
    wipe(wide)
    return points
