"""Two honest exchanges by RR22 in memory: they give what ECDH gives, and their messages tell only the sizes."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
from support.memory.pair import (
    ExchangeEnd,
    SynchronousPools,
    items_of,
    matched_items,
    records,
    run_exchanges,
)

from psicli.core.errors import WorkerLostError
from psicli.exchange.vector_worker import VectorReceiver, VectorSender
from psicli.protocol.messages import RR22, Frame, Received, Restart, Stream
from psicli.protocol.rr22.sizes import sizes, token_bytes

VECTORS: dict[str, Any] = {"protocol": RR22, "frame_items": 4096}
# 95 to 97 items of each party make 4 bins of 93 or 94.
MANY: dict[str, Any] = {"bin_items": 94}
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
each_side = pytest.mark.parametrize("side", [0, 1], ids=["receiver", "sender"])


def named(name: str, count: int) -> list[bytes]:
    return [b"%s-%d" % (name.encode(), number) for number in range(count)]


def results(ends: tuple[ExchangeEnd, ExchangeEnd], broadcast: bool) -> list[set[bytes] | None]:
    receiver, sender = ends
    if not broadcast:
        assert [end.output.staged for end in ends] == [None, None]
        return [matched_items(receiver, receiver.matches()), None]
    assert all(end.output.published for end in ends)
    return [matched_items(end, end.output.staged) for end in (receiver, sender)]


@pytest.mark.sample(4)
@both_outcomes
@pytest.mark.parametrize(
    ("n", "m", "shared", "how"),
    [
        (1, 1, 0, {}),
        (1, 1, 1, {}),
        (2, 3, 1, {}),
        (127, 5, 5, {}),
        (96, 97, 60, MANY),
    ],
)
def test_both_protocols_give_the_same_result(n: int, m: int, shared: int, how: dict[str, int], broadcast: bool) -> None:
    common = named("both", shared)
    ours, theirs = items_of(common + named("R", n - shared)), items_of(named("S", m - shared) + common)
    expected = {*common}
    found = [
        results(run_exchanges(ours, theirs, broadcast=broadcast, **how, **protocol), broadcast)
        for protocol in ({}, VECTORS)
    ]
    assert found[0] == found[1] == [expected, expected if broadcast else None]


def test_duplicate_rows_of_rr22_leave_no_trace() -> None:
    keys = named("key", 21)
    seen = []
    for times in (1, 100):
        ends = run_exchanges(items_of(keys * times), items_of(keys), **VECTORS)
        seen.append([Counter(zip(map(type, end.channel.sent), end.channel.sizes, strict=True)) for end in ends])
    assert seen[0] == seen[1]


@both_outcomes
def test_messages_by_rr22_do_not_reveal_matches(broadcast: bool) -> None:
    """Kinds and sizes of the messages are the same whether everything matches or nothing."""
    seen = []
    for prefix in ("item", "other"):
        ends = run_exchanges(items_of(named("item", 19)), items_of(named(prefix, 19)), broadcast=broadcast, **VECTORS)
        seen.append([Counter(zip(map(type, end.channel.sent), end.channel.sizes, strict=True)) for end in ends])
    assert seen[0] == seen[1]


def test_the_sizes_of_all_streams() -> None:
    receiver, sender = run_exchanges(items_of(named("R", 40)), items_of(named("S", 30)), **VECTORS)
    of = sizes(40)
    sent = {stream: sum(map(len, receiver.data(stream) + sender.data(stream))) for stream in Stream}
    assert {stream: size for stream, size in sent.items() if size} == {
        Stream.KEYS: 16 * of.keys,
        Stream.CHOICES: 16 * of.choices,
        Stream.SUMS: 16 * of.sums,
        Stream.VECTOR: 16 * (1 + 44 + 256),
        Stream.TOKENS: 30 * token_bytes(40, 30),
    }


def test_two_runs_by_rr22_over_the_same_items_share_nothing() -> None:
    """Even with the same task id, as after a bug: keys, sums, vectors and tokens are all new."""
    items = items_of(named("item", 30))
    runs = [run_exchanges(items, items, **VECTORS) for _ in range(2)]
    for stream, width in {Stream.KEYS: 32, Stream.CHOICES: 16, Stream.SUMS: 16, Stream.VECTOR: 16}.items():
        found = [each for ends in runs for end in ends for data in end.data(stream) for each in records(data, width)]
        assert len(found) == len(set(found)) > 500
    size = token_bytes(30, 30)
    tokens = [each for _, sender in runs for data in sender.data(Stream.TOKENS) for each in records(data, size)]
    assert len(tokens) == len(set(tokens)) == 60


def test_nothing_follows_received_by_rr22() -> None:
    receiver, _ = run_exchanges(items_of([b"a", b"b"]), items_of([b"b"]), **VECTORS)
    sent = len(receiver.channel.sent)
    assert isinstance(receiver.channel.sent[-1], Received)
    assert matched_items(receiver, receiver.matches()) == {b"b"}
    assert len(receiver.channel.sent) == sent


class LosingPools(SynchronousPools):
    """Pools that lose a bin's worker at one of its steps. left: how many steps it takes before."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def compute(self, work: Any, *arguments: Any) -> Any:
        self.left -= 1
        return super().compute(lost if self.left == 0 else work, *arguments)


def lost(*arguments: object) -> None:
    raise WorkerLostError(bin=0)


@pytest.mark.sample(2)
@each_side
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_bin_by_rr22_is_computed_again_after_a_loss(side: int, step: int) -> None:
    """The bins restart with new secrets, whichever step was lost; the result is the same."""
    pools = LosingPools(step)
    ours, theirs = items_of(named("i", 20)), items_of(named("i", 9))
    ends = run_exchanges(ours, theirs, broadcast=True, pools=(pools, None) if side == 0 else (None, pools), **VECTORS)
    assert pools.left <= 0
    assert results(ends, True) == [{*named("i", 9)}] * 2
    restarts = [message for end in ends for message in end.channel.sent if isinstance(message, Restart)]
    assert len(restarts) == 2
    data = [
        {each.data for end in ends for each in end.channel.sent if isinstance(each, Frame) and each.attempt == attempt}
        for attempt in (0, 1)
    ]
    assert not data[0] & data[1]


def test_the_worker_of_a_bin_is_freed_once_it_is_matched() -> None:
    receiver, sender = run_exchanges(items_of(named("i", 20)), items_of(named("i", 9)), **VECTORS)
    workers = [weakref.ref(each) for end in (receiver, sender) for each in end.exchange.workers.values()]
    assert [type(each()) for each in workers] == [VectorReceiver, VectorSender]
    assert matched_items(receiver, receiver.matches()) == {*named("i", 9)}
    gc.disable()
    try:
        for end in (receiver, sender):
            end.exchange.workers.clear()
            end.exchange._matching.clear()
        assert [each() for each in workers] == [None, None]
    finally:
        gc.enable()
