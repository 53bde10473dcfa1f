"""What each party and the network can observe of tasks by RR22: sizes, freshness, and how random it all looks.

Two exchanges in memory, with real messages and real computation. See test_privacy.py for the limits of these tests.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from support.chance import check_scattered, check_uniform, check_unrelated
from support.memory.pair import ExchangeEnd, items_of, run_exchanges

from psicli import curve
from psicli.core.errors import WorkerLostError
from psicli.exchange.vector_worker import VectorReceiver, VectorSender, VectorWorker
from psicli.exchange.worker import secret_order
from psicli.ole.vectors import ReceiverVectors, SenderVectors
from psicli.protocol.bins import capacity
from psicli.protocol.messages import RR22, Frame, Message, Restart, Stream
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.protocol.wire import encode

VECTORS = (Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR)
COUNTS = 2200, 1900
# Eight bins of about 2500 items, with a sixth of padding.
MANY, MANY_BIN_ITEMS = 20_000, 3000


@dataclass
class Seen:
    """What the workers of a run had: each with its place in time, the receiver's and the sender's."""

    vectors: list[ReceiverVectors | SenderVectors] = field(default_factory=list)
    digests: list[np.ndarray] = field(default_factory=list)
    senders: list[VectorSender] = field(default_factory=list)
    # The receiver's own tokens, in the order of its items with padding last, and the sender's in the order sent.
    tokens: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Keep what the workers of this test's runs have."""
    found = Seen()
    keep, digests = VectorReceiver.keep_tokens, VectorWorker._digests

    def kept(self: VectorReceiver, start: int, tokens: bytes) -> None:
        lists = (np.frombuffer(each, np.uint8).reshape(-1, self._token_bytes) for each in (self._own_tokens, tokens))
        found.tokens.append((*lists,))  # type: ignore[arg-type]
        keep(self, start, tokens)

    def made(self: VectorWorker) -> Any:
        result = digests(self)
        found.digests.append(result.copy())
        if isinstance(self, VectorSender):
            found.senders.append(self)
        return result

    monkeypatch.setattr(VectorReceiver, "keep_tokens", kept)
    monkeypatch.setattr(VectorWorker, "_digests", made)
    for kind in (ReceiverVectors, SenderVectors):
        begin = kind.__init__

        def begun(self: Any, *arguments: Any, begin: Any = begin) -> None:
            begin(self, *arguments)
            found.vectors.append(self)

        monkeypatch.setattr(kind, "__init__", begun)
    return found


def exchanged(common: int, counts: tuple[int, int] = COUNTS, **how: Any) -> tuple[ExchangeEnd, ExchangeEnd]:
    """Run a task in which so many items are common."""
    own, peer = counts
    mine = [f"both-{number}" for number in range(common)] + [f"mine-{number}" for number in range(own - common)]
    theirs = [f"theirs-{number}" for number in range(peer - common)] + mine[:common]
    return run_exchanges(items_of(mine), items_of(theirs), **{"frame_items": 1024, "protocol": RR22, **how})


def shapes(end: ExchangeEnd) -> Counter[tuple[str, int, int]]:
    return Counter(map(shape, end.channel.sent))


def shape(message: Message) -> tuple[str, int, int]:
    """Return the parts of a message that are not random: its kind, stream and size."""
    return type(message).__name__, getattr(message, "stream", 0), len(encode(message))


def frames(*ends: ExchangeEnd) -> Iterator[Frame]:
    for end in ends:
        yield from (each for each in end.channel.sent if isinstance(each, Frame) and each.stream != Stream.BITMAP)


def sent(ends: Iterable[ExchangeEnd], *streams: Stream) -> bytes:
    return b"".join(each.data for each in frames(*ends) if each.stream in streams)


def repeated(octets: bytes) -> int:
    """Return how many sequences of 16 bytes, from any byte on, are in there more than once."""
    at = np.arange(len(octets) - 15)
    words = np.lib.stride_tricks.sliding_window_view(np.frombuffer(octets, np.uint8), 16)[at].copy().view("<u8")
    order = np.lexsort((words[:, 1], words[:, 0]))
    ranked = words[order]
    return int((ranked[1:] == ranked[:-1]).all(axis=1).sum())


# Sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
@pytest.mark.parametrize(("counts", "bin_items"), [(COUNTS, 4096), ((700, 650), 256)], ids=["one bin", "several bins"])
def test_the_traffic_depends_only_on_the_two_counts(counts: tuple[int, int], bin_items: int, broadcast: bool) -> None:
    """Nothing, some or all of the items are common: both parties send as many messages of the same sizes."""
    runs = [exchanged(n, counts, bin_items=bin_items, broadcast=broadcast) for n in (0, 300, min(counts))]
    for nothing, *others in zip(*runs, strict=True):
        for other in others:
            # The last Received has a digest, whichever bin it is for, and one bin's number takes no byte.
            assert without_received(nothing) == without_received(other)
            assert sum(nothing.channel.sizes) == sum(other.channel.sizes)
    receiver, sender = runs[0]
    bins = receiver.party.number_of_bins
    own, peer = (capacity(count, bins) for count in counts)
    due = {stream: 16 * getattr(sizes(own), stream.name.lower()) for stream in VECTORS}
    due[Stream.TOKENS] = peer * token_bytes(bins * own, bins * peer)
    for stream, octets in due.items():
        of_bins: dict[int, int] = defaultdict(int)
        for each in frames(receiver, sender):
            of_bins[each.bin] += len(each.data) * (each.stream == stream)
        assert of_bins == dict.fromkeys(range(bins), octets)


def without_received(end: ExchangeEnd) -> Counter[tuple[str, int, int]]:
    return Counter({each: count for each, count in shapes(end).items() if each[0] != "Received"})


# Freshness ----------------------------------------------------------------------------------------------------------


@pytest.mark.more
def test_two_runs_over_equal_inputs_share_no_sixteen_bytes(seen: Seen) -> None:
    """Even the id of the task is the same, so only the secrets keep the runs apart."""
    runs = [exchanged(900, bin_items=1100) for _ in range(2)]
    ends = [end for run in runs for end in run]
    assert {end.party.number_of_bins for end in ends} == {4}
    octets = sent(ends, *VECTORS, Stream.TOKENS)
    assert len(octets) > 16 * 8 * sizes(500).choices
    assert repeated(octets) == 0
    assert repeated(octets + octets[5000:5016]) == 1
    # Equal items have other tokens in each bin and run, too.
    tokens = [each.tobytes() for pair in seen.tokens for each in pair[1]]
    assert len(set(tokens)) == len(tokens) > 2 * COUNTS[1]


def lose(monkeypatch: pytest.MonkeyPatch, kind: type[VectorWorker], at: Stream) -> list[bytes]:
    """Lose the worker of the first bin that comes to this step; return the ids of its attempt."""
    compute, lost = kind.compute, list[bytes]()

    def losing(self: VectorWorker, stream: Stream, received: bytes) -> bytes:
        result = compute(self, stream, received)
        if stream is at and not lost:
            lost.append(self._sid)
            raise WorkerLostError(bin=0)
        return result

    monkeypatch.setattr(kind, "compute", losing)
    return lost


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (VectorReceiver, Stream.CHOICES),
        (VectorReceiver, Stream.VECTOR),
        (VectorSender, Stream.KEYS),
        (VectorSender, Stream.SUMS),
        (VectorSender, Stream.TOKENS),
    ],
    ids=lambda each: each.name if isinstance(each, Stream) else each.__name__,
)
def test_no_vector_ever_serves_twice(
    monkeypatch: pytest.MonkeyPatch, seen: Seen, kind: type[VectorWorker], at: Stream
) -> None:
    """Over several tasks and bins, one of which starts again, each attempt has its own vectors and its own messages."""
    lost = lose(monkeypatch, kind, at)
    runs = [exchanged(300, (700, 650), bin_items=512, task_sid=bytes([task]) * 32) for task in (1, 2, 2)]
    assert len(lost) == 1
    ends = [end for run in runs for end in run]
    assert [sum(isinstance(each, Restart) for each in end.channel.sent) for end in ends] == [1, 1, 0, 0, 0, 0]
    bins = sum(end.party.number_of_bins for end in ends)
    assert len(seen.vectors) in range(bins + 1, bins + 3)
    # Within a task, an id is that of one attempt at one bin, and each has one half at each party.
    first = [each for each in seen.vectors if lost[0] == each._sid]
    assert Counter(map(type, first)) in ({ReceiverVectors: 1, SenderVectors: 1}, {kind_of(kind): 1})
    # A half that has ended takes no further step, and has no secret left.
    for each in seen.vectors:
        assert (each._left, each._secrets) == (set(), {})
    contents = [each.data for each in frames(*ends)]
    assert len(contents) > 20 * bins // 2
    assert len(set(contents)) == len(contents)


def kind_of(worker: type[VectorWorker]) -> type:
    return ReceiverVectors if worker is VectorReceiver else SenderVectors


@pytest.mark.more
def test_padding_is_fresh_for_every_bin(seen: Seen) -> None:
    """Neither padding nor an item has the same digest in two bins, parties or runs."""
    for task in (1, 2):
        exchanged(0, (MANY, MANY), bin_items=MANY_BIN_ITEMS, task_sid=bytes([task]) * 32)
    rows = np.concatenate(seen.digests)
    assert len(seen.digests) == 2 * 2 * 8
    assert len(np.unique(rows, axis=0)) == len(rows) > 2 * 2 * MANY
    check_uniform(rows.view(np.uint8), 256)


# What looks random --------------------------------------------------------------------------------------------------


@pytest.mark.more
def test_all_streams_look_random() -> None:
    ends = [end for _ in range(3) for end in exchanged(900)]
    for stream in (Stream.SUMS, Stream.VECTOR):
        check_uniform(np.frombuffer(sent(ends, stream), np.uint8).reshape(-1, 16), 128)
    # The first two blocks are a point, which is less than 2^255.
    choices = [b"".join(each) for each in bins_of(ends, Stream.CHOICES)]
    check_uniform(np.frombuffer(b"".join(each[32:] for each in choices), np.uint8).reshape(-1, 16), 128)
    keys = sent([end for _ in range(10) for end in exchanged(1, (2, 2))], Stream.KEYS) + sent(ends, Stream.KEYS)
    check_uniform(np.frombuffer(keys, np.uint8).reshape(-1, 32), 255)
    assert curve.on_curve(keys + b"".join(each[:32] for each in choices))


def bins_of(ends: Iterable[ExchangeEnd], stream: Stream) -> list[list[bytes]]:
    """Return the data of the frames of a stream, for each end and bin that sent it."""
    return [
        [each.data for each in of_bin]
        for end in ends
        for _, of_bin in itertools.groupby(
            (each for each in frames(end) if each.stream == stream), lambda each: each.bin
        )
    ]


@pytest.mark.more
def test_tokens_of_items_that_do_not_match_are_uniform(seen: Seen) -> None:
    """The receiver has the seed of each attempt and all its own blocks, and still cannot tell these from random."""
    exchanged(500, (6500, 7500))
    ((own, peer),) = seen.tokens
    mine = {each.tobytes() for each in own}
    others = np.array([each for each in peer if each.tobytes() not in mine])
    assert len(others) == 7000
    check_uniform(others, 8 * others.shape[1])


@pytest.mark.more
def test_the_order_of_the_tokens_is_unrelated_to_the_items(seen: Seen) -> None:
    """Of the common items, the receiver sees the places: they tell nothing about the file, nor about another run."""
    orders = []
    for _ in range(2):
        exchanged(1900)
        own, peer = seen.tokens[-1]
        place = {each.tobytes(): at for at, each in enumerate(peer)}
        orders.append([place[each.tobytes()] for each in own if each.tobytes() in place])
        assert len(orders[-1]) == 1900
        check_unrelated(orders[-1])
    check_unrelated([at for _, at in sorted(zip(*orders, strict=True))])


@pytest.mark.more
def test_padding_cannot_be_told_from_items(seen: Seen) -> None:
    """In the order sent, tokens of padding are anywhere among the others, and as random as they are."""
    exchanged(0, (MANY, MANY), bin_items=MANY_BIN_ITEMS)
    places = {worker._sid: padding_of(worker) for worker in seen.senders}
    assert len(places) == 8
    for worker, (_, tokens) in zip(seen.senders, seen.tokens, strict=True):
        check_scattered(places[worker._sid], len(tokens))


def padding_of(worker: VectorSender) -> Sequence[int]:
    order = secret_order(worker.order_secret, worker._own)
    return np.flatnonzero(order >= len(worker._items)).tolist()
