"""The halves of an attempt at a bin: from fresh secrets to one block for each item, equal for equal items.

The halves exchange four messages, whose contents docs/protocol.md describes; `psicli.protocol.rr22.sizes` has their
sizes. Every secret is drawn here, serves in one attempt, and is wiped by the step that needs it last. ePrint 2022/320.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import SystemRandom
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from psicli.core.errors import LocalProtocolError, SelfCheckError
from psicli.curve import POINT_BYTES
from psicli.ole import backend, base, kernel, store
from psicli.ole.blocks import (
    BLOCK_BYTES,
    Blocks,
    Digests,
    Points,
    aligned,
    from_bits,
    from_bytes,
    masks,
    random_blocks,
    scaled,
    total,
    wipe,
)
from psicli.ole.extension import base_choices, extend, extend_chosen, off_path, pick
from psicli.protocol.rr22.sizes import DELTA_BITS, DELTA_TREES, TREES, Sizes

# So many blocks of the vector that hides the receiver's store are looked at [blocks].
SAMPLED_BLOCKS = 64


class _Half:
    """Secrets that can be wiped, and steps that can be taken once.

    after: the steps that must be complete before each step.
    """

    def __init__(self, bin_sid: bytes, sizes: Sizes, after: dict[str, set[str]]) -> None:
        self._sid = bin_sid
        self._sizes = sizes
        self._after = after
        self._left = set(after)
        self._done: set[str] = set()
        self._secrets: dict[str, npt.NDArray[Any]] = {}
        self._wiped = False
        self._guard = Lock()

    @contextmanager
    def _step(self, name: str, *uses: str) -> Iterator[list[npt.NDArray[Any]]]:
        """Take a step with these secrets, which end with it. Raises LocalProtocolError out of turn."""
        with self._guard:
            if name not in self._left or not self._after[name] <= self._done:
                raise LocalProtocolError(detail=f"the step {name} of a bin was repeated, or came too early")
            self._left.remove(name)
            used = [self._secrets.pop(each) for each in uses]
        try:
            yield used
            self._done.add(name)
        finally:
            wipe(*used)
            if self._wiped:
                # While the step was taken; it may have made new secrets.
                self.wipe()

    def wipe(self) -> None:
        """Wipe all secrets; no step can be taken after this."""
        with self._guard:
            self._wiped = True
            self._left.clear()
            # One at a time: a step may be adding more.
            while self._secrets:
                wipe(self._secrets.popitem()[1])


class ReceiverVectors(_Half):
    """The half of the party that learns the result; it has C and A with C = A * Δ + B.

    retries: how often a store had to be encoded again.
    """

    def __init__(self, bin_sid: bytes, sizes: Sizes) -> None:
        after = {"encode": set[str](), "choices": set[str](), "vector": {"encode", "choices"}, "evaluate": {"vector"}}
        super().__init__(bin_sid, sizes, after)
        self.retries = 0
        self._seed = b""

    def encode(self, digests: Digests) -> None:
        """Encode the values of the items in a store. Raises SelfCheckError if that fails too often."""
        with self._step("encode"):
            self._seed, rows, filled, self.retries = store.encoded(digests, self._sizes.store)
            self._secrets |= {"rows": rows, "store": filled}

    def choices(self, keys: bytes) -> bytes:
        """Return the second message for the first one. Raises PeerProtocolError for points that are not valid.

        Constant time in the noise.
        """
        with self._step("choices"):
            point, pads = base.offer(self._sid, keys)
            points, noise = _noise_points(self._sizes.width), random_blocks(TREES)
            sides, paths = off_path(points, self._sizes.depth), np.zeros(self._sizes.paths, np.uint8)
            paths[: len(sides)] = sides
            chosen = from_bits(paths)
            first, second = np.split(pads, 2)
            sums, corrections, planes = extend(first, noise)
            more_sums, more_corrections, more_planes = extend(second, chosen)
            keys_by_bit = kernel().transpose(more_planes)
            self._secrets |= {
                "points": points,
                "noise": noise,
                "products": kernel().combine(planes),
                "pads": kernel().hashes(keys_by_bit, 0),
            }
            wipe(pads, sides, paths, chosen, planes, more_planes, keys_by_bit)
        return b"".join([point, *map(np.ndarray.tobytes, (sums, more_sums, corrections, more_corrections))])

    def vector(self, sums: bytes) -> bytes:
        """Return the fourth message for the third one. Constant time in the noise.

        Raises SelfCheckError if the vector does not hide the store.
        """
        with self._step("vector", "points", "noise", "products", "pads", "store") as used:
            points, noise, products, pads, filled = used
            at_levels, at_trees = _split(from_bytes(sums), 2 * TREES * self._sizes.depth, TREES)
            sides = off_path(points, self._sizes.depth)
            opened = pick(at_levels.reshape(-1, 2, 2), sides)
            opened ^= pads[: len(sides)]
            leaves = kernel().regrow(opened, points, self._sizes.width).reshape(TREES, -1, 2)
            # Where the noise is, c = b + Δ * noise and a = noise; elsewhere c = b and a = 0.
            found = total(leaves)
            found ^= at_trees
            found ^= products
            there = np.concatenate([found, noise], axis=1)
            both = _side_by_side(leaves, points, there)
            wipe(sides, opened, leaves, found, there)
            del leaves  # big vectors go as soon as they have served
            made = kernel().compress(both, self._sizes.store)
            wipe(both)
            del both
            if not _is_mask(made[:, 2:]):
                wipe(made)
                raise SelfCheckError(backend=backend(), detail="it computed a vector that does not hide the items")
            self._secrets["own"] = made[:, :2].copy()
            masked: Blocks = made[:, 2:] ^ filled
            wipe(made)
            return self._seed + masked.tobytes()

    def evaluate(self) -> Blocks:
        """Return the block of each item, in the order of the digests."""
        with self._step("evaluate", "rows", "own") as (rows, own):
            return kernel().decode(rows, own)


class SenderVectors(_Half):
    """The half of the other party; it has Δ and B."""

    def __init__(self, bin_sid: bytes, sizes: Sizes) -> None:
        super().__init__(
            bin_sid, sizes, {"keys": set(), "sums": {"keys"}, "compress": {"sums"}, "evaluate": {"compress"}}
        )
        self._keys = b""

    def keys(self) -> bytes:
        """Return the first message. Constant time in Δ."""
        with self._step("keys"):
            delta, other = random_blocks(1), random_blocks(1)
            halves = [base_choices(delta), base_choices(other)]
            choices = np.concatenate(halves)
            self._secrets |= {"delta": delta, "other": other, "choices": choices}
            wipe(*halves)
            self._keys, self._secrets["scalars"] = base.choose(self._sid, choices)
            return self._keys

    def sums(self, choices: bytes) -> bytes:
        """Return the third message for the second one. Raises PeerProtocolError for a point that is not valid.

        Constant time in Δ.
        """
        with self._step("sums", "delta", "other", "choices", "scalars") as (delta, other, places, scalars):
            pads = base.open_chosen(self._sid, self._keys, places, scalars, choices[:POINT_BYTES])
            sums, more_sums, corrections, more_corrections = _split(
                from_bytes(memoryview(choices)[POINT_BYTES:]),
                *[2 * DELTA_BITS] * 2,
                *(DELTA_TREES * blocks for blocks in (TREES, self._sizes.paths // 128)),
            )
            first, second = np.split(pads, 2)
            planes = extend_chosen(first, delta, sums, corrections)
            more_planes = extend_chosen(second, other, more_sums, more_corrections)
            products, keys = kernel().combine(planes), kernel().transpose(more_planes)
            left = kernel().hashes(keys, 0)
            keys ^= other
            right = kernel().hashes(keys, 0)
            by_side = np.stack([left, right], axis=1)
            seeds = random_blocks(TREES)
            leaves, levels = kernel().grow(seeds, self._sizes.width)
            masked = levels ^ by_side.reshape(-1, 2)[: len(levels)]
            at_trees = total(leaves.reshape(TREES, -1, 2))
            at_trees ^= products
            # The step wipes what it took: a later one needs Δ.
            self._secrets |= {"leaves": leaves, "delta": delta.copy()}
            wipe(pads, planes, more_planes, products, keys, left, right, by_side, seeds, levels)
            return masked.tobytes() + at_trees.tobytes()

    def compress(self) -> None:
        """Compute B, which needs nothing more of the peer: `evaluate` does it, unless there was time before."""
        with self._step("compress", "leaves") as (leaves,):
            self._secrets["own"] = kernel().compress(leaves, self._sizes.store)

    def evaluate(self, vector: bytes, digests: Digests) -> Blocks:
        """Return the block of each item for the fourth message, in the order of the digests. Constant time in Δ."""
        if "compress" in self._left:
            self.compress()
        with self._step("evaluate", "delta", "own") as (delta, own):
            kernel().add_products(own, from_bytes(memoryview(vector)[BLOCK_BYTES:]), delta)
            rows = store.rows_of(digests, self._sizes.store, vector[:BLOCK_BYTES])
            blocks = kernel().decode(rows, own)
            kernel().add_products(blocks, digests[:, :2], delta)
            wipe(rows)
            return blocks


def _noise_points(width: int) -> Points:
    """Return a uniform leaf for each tree; the bias of 64 bits is below 2^-40."""
    drawn = random_blocks(TREES)
    wide = scaled(drawn[:, 0], width)
    points = wide.astype(np.uint32)
    wipe(drawn, wide)
    return points


def _side_by_side(leaves: Blocks, points: Points, there: Blocks) -> Blocks:
    """Return each leaf beside a block of zeros, and in each tree what is there at the point. Constant time in these."""
    trees, width, _ = leaves.shape
    # The code reads rows of this array in no order.
    both, places = aligned(trees * width, 4).reshape(trees, width, 4), np.arange(width)
    for tree in range(trees):
        equal = places == points[tree]
        here = masks(equal)
        for word in range(4):
            np.bitwise_and(here, there[tree, word], out=both[tree, :, word])
        for word in range(2):
            both[tree, :, word] ^= leaves[tree, :, word]
        wipe(equal, here)
    return both.reshape(-1, 4)


def _is_mask(vector: Blocks) -> bool:
    """Return whether all blocks of a random sample differ, and none is zero. Constant time in the blocks."""
    sample = vector[SystemRandom().sample(range(len(vector)), SAMPLED_BLOCKS)]
    equals = (sample[:, None] == sample).all(axis=-1)
    differ, are_set = equals.sum() == len(sample), sample.any(axis=-1).all()
    wipe(sample)
    return bool(differ and are_set)


def _split(blocks: Blocks, *counts: int) -> list[Blocks]:
    """Return parts of these sizes, which follow each other [blocks]."""
    return np.split(blocks, np.cumsum(counts)[:-1])
