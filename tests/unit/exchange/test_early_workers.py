"""Workers that are made before their bins begin, as those on the nodes of a cluster are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from support.memory.dishonest import MANY, WIPED, scalars_of
from support.memory.pair import LatePools, SynchronousPools, items_of, matched_items, run_exchanges

from psicli.core.errors import WorkerLostError
from psicli.exchange.worker import LocalWorkers, Worker
from psicli.protocol.messages import Restart
from psicli.protocol.streams import Place

pytestmark = pytest.mark.usefixtures("backend")

each_side = pytest.mark.parametrize("side", [0, 1], ids=["receiver", "sender"])
T = TypeVar("T")


class EarlyWorkers(LocalWorkers):
    """Workers for bins ahead. made: all, in the order in which they were made."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.made: list[tuple[Place, Worker]] = []

    def make(self, at: Place, *arguments: Any, **more: Any) -> Worker:
        worker = super().make(at, *arguments, **more)
        self.made.append((at, worker))
        return worker


class EarlyPools(SynchronousPools):
    """Pools whose workers are made early. lost: the bins of which the early worker is lost."""

    def __init__(self, ahead: int, *lost: int) -> None:
        super().__init__()
        self.workers: EarlyWorkers = EarlyWorkers(ahead)
        self._lost = {*lost}

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = super().compute(work, *arguments)
        if work.__name__ == "_new_worker" and arguments[0].bin in self._lost:
            lost: Future[T] = Future()
            lost.set_exception(WorkerLostError(bin=arguments[0].bin))
            return lost
        return future


@pytest.mark.sample(4)
@each_side
@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_a_worker_is_made_early_once_for_each_bin(side: int, ahead: int) -> None:
    items = items_of(f"item-{i}" for i in range(96))
    pools = EarlyPools(ahead)
    ends = run_exchanges(items, items, pools=(pools, None) if side == 0 else (None, pools), **MANY)
    assert [at.bin for at, _ in pools.workers.made] == [*range(4)]
    assert matched_items(ends[0], ends[0].matches()) == set(items.to_pylist())
    assert all(scalars_of(end) == {WIPED} for end in ends)


@pytest.mark.sample(2)
@each_side
def test_a_worker_that_is_lost_before_its_bin_begins_costs_no_restart(side: int) -> None:
    items = items_of(f"item-{i}" for i in range(96))
    pools = EarlyPools(2, 3)
    ends = run_exchanges(items, items, broadcast=True, pools=(pools, None) if side == 0 else (None, pools), **MANY)
    for end in ends:
        assert matched_items(end, end.output.staged) == set(items.to_pylist())
        assert not [message for message in end.channel.sent if isinstance(message, Restart)]
    # The lost one is made again, with secrets of its own.
    assert sorted(at.bin for at, _ in pools.workers.made) == [0, 1, 2, 3, 3]
    secrets = [worker.order_secret for _, worker in pools.workers.made]
    assert len(set(secrets)) == len(secrets)


@pytest.mark.sample(1)
def test_workers_of_bins_that_never_begin_are_wiped() -> None:
    items = items_of(f"item-{i}" for i in range(96))
    pools = EarlyPools(9)
    ends = run_exchanges(items, items, pools=(pools, None), **MANY)
    exchange = ends[0].exchange
    exchange.party.bins.attempts.clear()
    exchange._prepare_early()
    early = [made.result() for made in exchange._early.values()]
    assert len(early) == 4
    exchange.wipe()
    assert all(bytes(worker._scalar) == WIPED for worker in early)


@pytest.mark.sample(1)
def test_workers_may_begin_their_bins_while_all_are_wiped() -> None:
    items = items_of(f"item-{i}" for i in range(96))
    exchange = run_exchanges(items, items, pools=(EarlyPools(9), None), **MANY)[0].exchange

    class Taken(Future[Any]):
        def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
            super().add_done_callback(fn)
            exchange._early.popitem()

    exchange._early |= {number: Taken() for number in range(3)}
    exchange.wipe()
    assert not exchange._early


class LosingPools(SynchronousPools):
    """Pools that lose the first worker of one bin."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = super().compute(work, *arguments)
        place = work.__self__.party.place  # type: ignore[attr-defined]
        if work.__name__ == "_prepare" and (place.bin, place.attempt) == (self._number, 0):
            future = Future()
            future.set_exception(WorkerLostError(bin=self._number))
        return future


@pytest.mark.sample(1)
def test_a_second_attempt_does_not_get_the_early_worker_of_the_first() -> None:
    """Points of another attempt would match nothing."""
    items = items_of(f"item-{i}" for i in range(96))
    late = LatePools(2)
    late.workers = EarlyWorkers(9)
    ends = run_exchanges(items, items, broadcast=True, pools=(LosingPools(2), late), **MANY)
    assert late.late == []
    for end in ends:
        assert matched_items(end, end.output.staged) == set(items.to_pylist())
