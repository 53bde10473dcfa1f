"""Tests of both halves of an attempt with random sizes and random items."""

from __future__ import annotations

import os

import numpy as np
import pytest
from support.kernel.halves import SID, attempt

from psicli.protocol.rr22.sizes import sizes


@pytest.mark.more
@pytest.mark.parametrize("part", range(4))
def test_fifty_rounds_of_random_items(part: int) -> None:
    seed = int.from_bytes(os.urandom(8), "little")
    rng = np.random.default_rng(seed)
    for number in range(50 * part, 50 * part + 50):
        own, peer = (int(2 ** rng.uniform(0, 9)) for _ in range(2))
        common = int(rng.integers(0, min(own, peer) + 1))
        items = rng.integers(0, 1 << 64, (own + peer - common, 4), np.uint64)
        mine, theirs = items[:own], items[own - common :]
        at_mine, at_theirs = rng.permutation(own), rng.permutation(peer)
        made = attempt(mine[at_mine], theirs[at_theirs], SID[:24] + number.to_bytes(8, "big"))
        shape = sizes(own)
        blocks = [shape.keys, shape.choices, shape.sums, shape.vector]
        assert [len(message) for message in made.messages] == [16 * count for count in blocks]
        # The blocks of common items are equal, and no others.
        found = np.full((own + peer - common, 2, 2), 0, np.uint64)
        found[at_mine, 0] = made.of_receiver
        found[own - common + at_theirs, 1] = made.of_sender
        equal = (found[:, 0] == found[:, 1]).all(axis=1)
        assert np.flatnonzero(equal).tolist() == list(range(own - common, own)), (seed, number, own, peer, common)
        assert len(np.unique(made.of_receiver, axis=0)) == own
        assert len(np.unique(made.of_sender, axis=0)) == peer
