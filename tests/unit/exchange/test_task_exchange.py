"""Tests of one side of an exchange: its secrets, lost workers, and links that break."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from itertools import product
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from support.kernel.points import as_octets
from support.memory.dishonest import MANY, OWN, WIPED, DishonestPeer, scalars_of
from support.memory.machines import TASK, TASK_SID
from support.memory.pair import (
    ExchangeEnd,
    LatePools,
    MemoryChannel,
    MemoryOutput,
    SynchronousPools,
    exchange_end,
    items_of,
    matched_items,
    records,
    run_exchanges,
)

from psicli import curve
from psicli.core.errors import SelfCheckError, StorageError, WorkerLostError
from psicli.core.peer_errors import PeerGoneError, PeerProtocolError
from psicli.exchange import worker
from psicli.items.partitions import Matches
from psicli.protocol.messages import (
    Commit,
    Done,
    Frame,
    Offer,
    Open,
    Restart,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import Progress, TaskParty

pytestmark = pytest.mark.usefixtures("backend")

roles = pytest.mark.parametrize("role", [Receiver, Sender])
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
each_side = pytest.mark.parametrize("side", [0, 1], ids=["receiver", "sender"])
T = TypeVar("T")


# Secrets and self-checks ---------------------------------------------------------------------------------------


@roles
def test_a_backend_without_the_hash_to_the_curve_is_found(
    role: type[TaskParty], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unhashed(items: pa.LargeBinaryArray, sid: bytes, scalar: bytes, tag: int = 1) -> bytes:
        return as_octets(2) * len(items)

    monkeypatch.setattr(worker.curve, "hash_and_mask", unhashed)
    end = exchange_end(role, items_of(["a"]), DishonestPeer(Sender if role is Receiver else Receiver, 1).channel())
    with pytest.raises(SelfCheckError) as caught:
        end.drive()
    assert caught.value.code == 70
    assert not any(isinstance(message, Frame) for message in end.channel.sent)
    assert scalars_of(end) == {WIPED}


def test_a_frame_is_sampled_over_its_whole_length() -> None:
    """The checked points differ from frame to frame, and any point may be among them."""
    good = curve.hash_and_mask(items_of(["a"]), TASK_SID, b"\x77" * 32)
    sampled = [worker._sample(b"".join(i.to_bytes(32, "little") for i in range(500))) for _ in range(20)]
    for points in sampled:
        indices = [int.from_bytes(point, "little") for point in records(points, 32)]
        assert len(indices) == len(set(indices)) == worker.SAMPLED_POINTS == 64
        assert max(indices) < 500
    assert len(set(sampled)) == len(sampled)
    assert len({point for points in sampled for point in records(points, 32)}) > 400
    assert worker._sample(good * 64) == good * 64


class FailingOutput(MemoryOutput):
    def stage(self, matches: Matches) -> None:
        raise StorageError(path="out.csv", reason="No space left on device")


def honest_end(role: type[TaskParty], items: list[str], *, limit: int | None = None) -> ExchangeEnd:
    """Make one side of a broadcast against a peer that is honest."""
    peer = DishonestPeer(Sender if role is Receiver else Receiver, len(items), broadcast=True)
    return exchange_end(role, items_of(items), peer.channel(limit=limit), broadcast=True)


@roles
def test_the_scalar_is_wiped_after_a_failure_of_our_own(role: type[TaskParty]) -> None:
    end = honest_end(role, ["a", "b", "c"])
    end.output = FailingOutput()
    with pytest.raises(StorageError):
        end.drive()
    assert WIPED not in end.exchange.scalars.values()
    assert scalars_of(end) == {WIPED}


@roles
def test_the_scalar_is_wiped_when_the_peer_falls_silent(role: type[TaskParty]) -> None:
    """Before the peer's first message there is no scalar yet."""
    channel, other = MemoryChannel.pair(8)
    other.close()
    end = exchange_end(role, items_of(["a"]), channel)
    with pytest.raises(PeerGoneError):
        end.drive()
    assert end.exchange.workers == {}
    # The peer falls silent after both Opens, or after its first frame.
    for limit in (2, 3):
        end = honest_end(role, ["a"], limit=limit)
        with pytest.raises(PeerGoneError):
            end.drive()
        assert WIPED not in end.exchange.scalars.values()
        assert scalars_of(end) == {WIPED}


@roles
def test_the_scalar_is_wiped_before_anything_is_matched(role: type[TaskParty]) -> None:
    """No point is masked after the checks."""
    at_staging = []

    class WatchingOutput(MemoryOutput):
        def stage(self, matches: Matches) -> None:
            at_staging.append(scalars_of(end))
            super().stage(matches)

    end = honest_end(role, ["a"])
    end.output = WatchingOutput()
    end.drive()
    assert at_staging == [{WIPED}]


@pytest.mark.sample(2)
@both_outcomes
def test_the_lists_of_a_bin_are_freed_with_it(broadcast: bool) -> None:
    """They must not wait for the garbage collector, which the size of a list does not trigger."""
    items = items_of([f"item{i}" for i in range(100)])
    gc.disable()
    try:
        ends = run_exchanges(items, items, broadcast=broadcast, **MANY)
        # The last bin is matched only now.
        ends[0].matches()
        workers = [weakref.ref(each) for end in ends for each in end.exchange.workers.values()]
        assert len(workers) >= 8
        for end in ends:
            end.exchange.workers.clear()
        assert [each() for each in workers if each() is not None] == []
    finally:
        gc.enable()


@pytest.mark.sample(2)
def test_scalars_are_fresh() -> None:
    """Every run, party, bin and attempt has a new scalar and a new secret of its order."""
    items = items_of(f"item-{i}" for i in range(96))
    ends = [end for _ in range(2) for end in run_exchanges(items, items, **MANY)]
    scalars = [scalar for end in ends for scalar in end.exchange.scalars.values()]
    orders = [each.order_secret for end in ends for each in end.exchange.workers.values()]
    assert len(scalars) == len(set(scalars)) == len(orders) == len(set(orders)) == 16


# Lost workers --------------------------------------------------------------------------------------------------


class LosingPools(SynchronousPools):
    """Pools that lose the worker of a bin at these pieces of computing work, counted from 0."""

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self.lost = set(lost)
        self.pieces = 0

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        number, self.pieces = self.pieces, self.pieces + 1
        if number not in self.lost:
            return super().compute(work, *arguments)
        future: Future[T] = Future()
        future.set_exception(WorkerLostError(bin=0))
        return future


@pytest.mark.sample(2)
def test_a_lost_worker_costs_only_its_bin() -> None:
    """Whichever piece of work is lost, on either side, the bin restarts and the result is right."""
    both = {b"both%d" % i for i in range(5)}
    ours, theirs = (items_of(sorted(both | {b"%s%d" % (name, i) for i in range(9)})) for name in (b"R", b"S"))
    for side, broadcast in product((0, 1), (False, True)):
        for lost in range(100):
            losing = LosingPools(lost)
            pools = (losing, None) if side == 0 else (None, losing)
            ends = run_exchanges(ours, theirs, broadcast=broadcast, pools=pools)
            if losing.pieces <= lost:
                break
            assert matched_items(ends[0], ends[0].matches()) == both
            if broadcast:
                assert matched_items(ends[1], ends[1].output.staged) == both
            for end in ends:
                restarts = [message for message in end.channel.sent if isinstance(message, Restart)]
                assert restarts == [Restart(TASK, 0, 1)]
                # The first attempt's secrets are wiped, and the second attempt has different ones.
                assert scalars_of(end) == {WIPED}
                assert len(set(end.exchange.scalars.values())) == len(end.exchange.workers)
        # A run has six pieces: the secrets, two frames in each direction, and the checks.
        assert lost == 6


@each_side
def test_a_worker_that_is_lost_twice_ends_the_run(side: int) -> None:
    items = items_of(f"item-{i}" for i in range(14))
    for second in range(1, 7):
        losing = LosingPools(0, second)
        with pytest.raises(WorkerLostError) as caught:
            run_exchanges(items, items, pools=(losing, None) if side == 0 else (None, losing))
        assert caught.value.code == 69


class LosingEveryBin(SynchronousPools):
    """Pools that lose the worker of each bin at the third piece of its first attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: Counter[Place] = Counter()

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        place: Place = work.__self__.party.place  # type: ignore[attr-defined]
        self.pieces[place] += 1
        if place.attempt or self.pieces[place] != 3:
            return super().compute(work, *arguments)
        future: Future[T] = Future()
        future.set_exception(WorkerLostError(bin=place.bin))
        return future


@pytest.mark.sample(2)
@each_side
@both_outcomes
def test_every_bin_may_be_lost_once(side: int, broadcast: bool) -> None:
    items = items_of(f"item-{i}" for i in range(96))
    losing = LosingEveryBin()
    pools = (losing, None) if side == 0 else (None, losing)
    ends = run_exchanges(items, items, broadcast=broadcast, pools=pools, **MANY)
    assert {(place.bin, place.attempt) for place in losing.pieces} == set(product(range(4), (0, 1)))
    for end in ends[: 1 + broadcast]:
        assert matched_items(end, end.output.staged if broadcast else end.matches()) == set(items.to_pylist())
    assert all(scalars_of(end) == {WIPED} for end in ends)


class LosingMatches(SynchronousPools):
    """Pools that lose the worker of a bin that its party has confirmed and not compared. lost: which call, from 0."""

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self._lost = {*lost}
        self._calls = 0

    def match(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        number, self._calls = self._calls, self._calls + 1
        if number not in self._lost:
            return super().match(work, *arguments)
        future: Future[T] = Future()
        future.set_exception(WorkerLostError(bin=arguments[0]))
        return future


@pytest.mark.sample(3)
@pytest.mark.parametrize("lost", range(4))
@both_outcomes
def test_a_bin_that_is_lost_after_it_was_confirmed_restarts(lost: int, broadcast: bool) -> None:
    items = items_of(f"item-{i}" for i in range(96))
    ends = run_exchanges(items, items, broadcast=broadcast, pools=(LosingMatches(lost), None), **MANY)
    restarts = [message for message in ends[0].channel.sent if isinstance(message, Restart)]
    if lost == 3 and not broadcast:
        # The peer must not learn what happens after the last Received of a one-sided task.
        assert restarts == []
        with pytest.raises(WorkerLostError):
            ends[0].matches()
        return
    assert restarts == [Restart(TASK, lost, 1)]
    for end in ends[: 1 + broadcast]:
        assert matched_items(end, end.output.staged if broadcast else end.matches()) == set(items.to_pylist())
    assert all(scalars_of(end) == {WIPED} for end in ends)


@pytest.mark.sample(1)
def test_a_bin_that_is_lost_twice_after_it_was_confirmed_ends_the_run() -> None:
    items = items_of(f"item-{i}" for i in range(96))
    with pytest.raises(WorkerLostError) as caught:
        run_exchanges(items, items, broadcast=True, pools=(LosingMatches(3, 4), None), **MANY)
    assert caught.value.code == 69


def test_an_attempt_abandoned_while_its_secrets_are_drawn_leaves_nothing() -> None:
    """The sender must map the bitmap with the order of the second attempt."""
    both = [f"both-{i}" for i in range(7)]
    ours, theirs = (items_of([*both, *(f"{name}-{i}" for i in range(40))]) for name in "RS")
    late = LatePools()
    ends = run_exchanges(ours, theirs, broadcast=True, pools=(LosingPools(0), late))
    assert late.late == []
    assert set(ends[1].exchange.workers) == {(0, 0), (0, 1)}
    assert scalars_of(ends[1]) == {WIPED}
    for end in ends:
        assert matched_items(end, end.output.staged) == {name.encode() for name in both}


# The link ------------------------------------------------------------------------------------------------------


def cut_after(role: type[TaskParty], limit: int) -> ExchangeEnd:
    """Run a broadcast whose link breaks after this many messages of the peer."""
    end = honest_end(role, ["a", "b", "c"], limit=limit)
    try:
        end.drive()
    except PeerGoneError as exc:
        end.failure = exc
    return end


@roles
def test_a_link_that_breaks_after_any_message(role: type[TaskParty]) -> None:
    """Before the commit nothing is published and the run fails; after it the output is in place.

    A receiver that misses the last message keeps its output.
    """
    outcomes = []
    for limit in range(100):
        end = cut_after(role, limit)
        committed = any(isinstance(message, Commit if role is Receiver else Done) for message in end.channel.sent)
        assert end.output.published is committed
        assert (end.failure is None) is committed
        assert scalars_of(end) <= {WIPED}
        outcomes.append((committed, end.kept))
        if end.failure is None and not end.kept:
            break
    expected = [(False, False), (True, True), (True, False)] if role is Receiver else [(False, False), (True, False)]
    assert list(dict.fromkeys(outcomes)) == expected
    assert len(outcomes) > 8


@roles
def test_a_party_that_waits_for_room_still_reads(role: type[TaskParty]) -> None:
    """A violation ends the run even if there is no room for any frame."""
    channel, other = MemoryChannel.pair(0)
    end = exchange_end(role, items_of(["a"]), channel)
    other.send(Offer(TASK))
    other.send(Open(TASK, 1, curve.probe(TASK_SID)))
    other.send(Commit(TASK, bytes(32)))
    with pytest.raises(PeerProtocolError):
        end.drive()
    assert not any(isinstance(message, Frame) for message in channel.sent)


def test_progress_reaches_its_end() -> None:
    seen: list[Progress] = []
    exchange_end(Receiver, items_of(OWN), DishonestPeer(Sender, len(OWN)).channel()).drive(seen)
    assert seen == sorted(seen)
    assert seen[-1] == Progress(len(OWN), len(OWN), 20, 20)
