"""Tests of the order in which a bin's items are sent: only the secret determines it, and it is otherwise random."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from psicli.core.peer_errors import PeerProtocolError
from psicli.exchange.worker import ORDER_SECRET_BYTES, Worker, apply_bitmap, secret_order
from psicli.items.partitions import Items, Partitioner

SID = bytes(range(32))


def secret(number: int) -> bytes:
    return number.to_bytes(ORDER_SECRET_BYTES, "big")


def items_of(values: list[bytes]) -> Items:
    partitioner = Partitioner(SID)
    partitioner.add(pa.array(values, pa.large_binary()))
    return partitioner.finish()


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_the_order_is_a_permutation_that_only_the_secret_determines(count: int) -> None:
    orders = [secret_order(secret(number), count).tolist() for number in (1, 1, 2)]
    assert sorted(orders[0]) == [*range(count)]
    assert orders[0] == orders[1]
    assert count < 10 or orders[0] != orders[2]


def test_orders_are_unrelated_to_each_other_and_to_the_items() -> None:
    count = 20_000
    one, two = (np.argsort(secret_order(secret(number), count)) for number in (1, 2))
    for ours, other in ((one, two), (one, np.arange(count)), (two, np.arange(count))):
        # 0.03 is more than four standard deviations; the secrets are fixed, so the test is deterministic.
        assert abs(np.corrcoef(ours, other)[0, 1]) < 0.03
        assert (ours == other).sum() < 10


def test_every_order_is_as_likely_as_any_other() -> None:
    trials = 4800
    orders = Counter(tuple(secret_order(secret(number), 4).tolist()) for number in range(trials))
    assert len(orders) == 24
    expected = trials / 24
    # Chi-squared with 23 degrees of freedom exceeds 50 once in a thousand; the secrets are fixed.
    assert sum((found - expected) ** 2 / expected for found in orders.values()) < 50


def test_each_worker_draws_its_own_secret_and_scalar(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[bytes] = []
    draw = os.urandom

    def kept(size: int) -> bytes:
        draws.append(draw(size))
        return draws[-1]

    monkeypatch.setattr(os, "urandom", kept)
    items = items_of([b"%d" % number for number in range(100)]).bin(0, 1, 1 << 20)
    workers = [Worker(SID, items, 100, 100, 100, receives=False) for _ in range(2)]
    assert workers[0].order_secret != workers[1].order_secret
    assert {worker.order_secret for worker in workers} < set(draws)
    points = [worker.mask_own(0, 100) for worker in workers]
    assert not {points[0][at : at + 32] for at in range(0, 3200, 32)} & {
        points[1][at : at + 32] for at in range(0, 3200, 32)
    }


@pytest.mark.parametrize("padding", [0, 37])
def test_bits_of_points_lead_to_their_items(padding: int) -> None:
    """A bit identifies a point; only the secret maps the point to an item."""
    own = 100 + padding
    order = secret_order(secret(7), own)
    for item in range(100):
        bits = np.packbits(order == item, bitorder="little").tobytes()
        assert apply_bitmap(bits, secret(7), 100, own).nonzero()[0].tolist() == [item]
        assert apply_bitmap(bits, secret(7), 100, own).shape == (100,)


def test_padding_matches_nothing() -> None:
    order = secret_order(secret(7), 110)
    bits = np.packbits(order == 105, bitorder="little").tobytes()
    with pytest.raises(PeerProtocolError, match="bitmap marks padding"):
        apply_bitmap(bits, secret(7), 100, 110)
