"""Tests of bins: their number and capacity, the probability of overflow, resuming, and exchanges over several bins."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from itertools import islice, pairwise
from math import comb
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.machines import TASK_SID
from support.memory.pair import items_of, matched_items, run_exchanges

from psicli.core.errors import BinOverflowError, TooManyItemsError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import MAX_BINS, agree_on_resume, capacity, every_bin, number_of_bins, padded
from psicli.protocol.messages import Kept, Stream, bin_session_id, partition_key, task_digest

both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])

# Capacities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "bins", "expected"),
    [
        # One bin has no padding.
        (0, 1, 0),
        (1, 1, 1),
        (2, 1, 2),
        (2**20, 1, 2**20),
        (2**40 + 1, 1, 2**40 + 1),
        # With few items, all of them may fall into one bin: 1 + 9 * 1 + 24 = 34.
        (0, 2, 0),
        (1, 2, 1),
        (2, 2, 2),
        (33, 64, 33),
        (34, 64, 34),
        (35, 64, 34),
        (64, 64, 34),
        # 2 + 9 * 2 + 24
        (65, 64, 44),
        (128, 64, 44),
        (0, 2**16, 0),
        (1, 2**16, 1),
        (2, 2**16, 2),
        (2**16 - 1, 2**16, 34),
        (2**16, 2**16, 34),
        (2**16 + 1, 2**16, 44),
        # 50 + 9 * 8 + 24 = 146 is more than the number of items.
        (100, 2, 100),
        # 150 + 9 * 13 + 24
        (300, 2, 291),
        # 75 + 9 * 9 + 24
        (300, 4, 180),
        # 250 + 9 * 16 + 24
        (1000, 4, 418),
        # Around a square: 256 + 9 * 16 + 24, 257 + 9 * 17 + 24, 258 + 9 * 17 + 24
        (1020, 4, 423),
        (1021, 4, 424),
        (1023, 4, 424),
        (1024, 4, 424),
        (1025, 4, 434),
        (1028, 4, 434),
        (1029, 4, 435),
        # 16,384 + 9 * 128 + 24, 15,625 + 9 * 125 + 24, 625,000 + 9 * 791 + 24
        (2**20, 64, 17_560),
        (10**6, 64, 16_774),
        (10**7, 16, 632_143),
        # 524,288 + 9 * 725 + 24; one item more raises the mean by one
        (2**20 - 1, 2, 530_837),
        (2**20, 2, 530_837),
        (2**20 + 1, 2, 530_838),
        # 1,048,576 + 9 * 1,024 + 24
        (2**36, 2**16, 1_057_816),
    ],
)
def test_capacities(count: int, bins: int, expected: int) -> None:
    assert capacity(count, bins) == expected
    assert padded(count, bins) == bins * expected


def test_without_bins_only_the_items_themselves_count() -> None:
    assert [padded(count, 0) for count in (0, 1, 2**30)] == [0, 1, 2**30]


@pytest.mark.parametrize(
    ("own", "peer", "bin_items", "expected"),
    [
        # If a party has no items, there is nothing to exchange.
        (0, 0, 2**14, 0),
        (0, 10**9, 2**14, 0),
        (2**44, 0, 2**14, 0),
        (1, 1, 2**14, 1),
        (2, 1, 2**14, 1),
        (2**14 - 1, 2**14, 2**14, 1),
        (2**14, 1, 2**14, 1),
        # 8,193 + 9 * 91 + 24 = 9,036
        (2**14 + 1, 1, 2**14, 2),
        (1, 2**14 + 1, 2**14, 2),
        # 15,244 + 9 * 124 + 24 = 16,384 fits exactly.
        (30_488, 5, 2**14, 2),
        (30_489, 5, 2**14, 4),
        (5, 30_489, 2**14, 4),
        (60_976, 60_976, 2**14, 4),
        (60_977, 60_976, 2**14, 8),
        # 15,625 + 9 * 125 + 24 = 16,774 does not fit.
        (10**6, 10, 2**14, 128),
        (10**6, 10**6, 2**20, 1),
        (2**20, 2**20, 2**20, 1),
        (2**20 + 1, 2**20, 2**20, 2),
        (10**7, 10**6, 2**20, 16),
        (65_536 * 15_244, 1, 2**14, 65_536),
    ],
)
def test_numbers_of_bins(own: int, peer: int, bin_items: int, expected: int) -> None:
    assert number_of_bins(own, peer, bin_items) == expected
    assert number_of_bins(peer, own, bin_items) == expected


def test_too_many_bins() -> None:
    assert MAX_BINS == 2**16
    for count in (65_536 * 15_244 + 1, 2**44):
        with pytest.raises(TooManyItemsError) as caught:
            number_of_bins(5, count, 2**14)
        assert caught.value.code == 78


@settings(max_examples=300, deadline=None)
@given(
    own=st.integers(1, 2**30) | st.integers(1, 40_000),
    peer=st.integers(1, 2**30) | st.integers(1, 40_000),
    bits=st.integers(14, 26),
)
def test_the_number_of_bins_is_minimal(own: int, peer: int, bits: int) -> None:
    try:
        bins = number_of_bins(own, peer, 1 << bits)
    except TooManyItemsError:
        assert capacity(max(own, peer), MAX_BINS) > 1 << bits
        return
    assert bins.bit_count() == 1
    assert max(capacity(own, bins), capacity(peer, bins)) <= 1 << bits
    assert bins == 1 or capacity(max(own, peer), bins // 2) > 1 << bits
    assert all(padded(count, bins) >= count for count in (own, peer))


# The probability of overflow -------------------------------------------------------------------------------------

# The greatest probability of overflow that is allowed [log2].
MOST_LIKELY = -60


@pytest.mark.parametrize("bits", range(1, 17))
def test_a_bin_of_few_items_overflows_with_a_probability_below_2_to_minus_60(bits: int) -> None:
    """This is exact: an item falls into a bin with probability 2^-bits, so the number of items is binomial."""
    bins = 1 << bits
    for count in range(101):
        most = capacity(count, bins)
        tail = sum(comb(count, k) * (bins - 1) ** (count - k) for k in range(most + 1, count + 1))
        assert tail << -MOST_LIKELY < bins**count


def log2_of_tail(mean: Any, bins: int) -> Any:
    """Bound the probability that a bin overflows if there are mean * bins items, for an array of means [log2].

    With Stirling's bounds of n!, C(c, k) is below sqrt(c / (2 pi k (c - k))) c^c / (k^k (c - k)^(c - k)) exp(1 / 12c);
    each further term of the tail is smaller than the one before by a factor of at most (c - k) p / ((k + 1) (1 - p)).
    The rounding error of the floats is below 10^-6, because no term is larger than 10^5.
    """
    count = mean * bins
    root = np.ceil(np.sqrt(mean))
    k = mean + 9 * root + 25
    fits = k > count
    # A capacity of all items needs no bound; this limit on k keeps the formula defined for a capacity of all but one.
    k = np.minimum(k, count - 1)
    with np.errstate(all="raise"):
        divergence = k * np.log1p((k - mean) / mean) + (count - k) * np.log1p(-(k - mean) / (count - mean))
        term = 0.5 * np.log(count / (2 * np.pi * k * (count - k))) + 1 / (12 * count) - divergence
        ratio = (count - k) / ((k + 1) * (bins - 1))
        bound = (term - np.log1p(-ratio)) / np.log(2)
    return np.where(fits, -np.inf, bound)


@pytest.mark.more
def test_the_bound_of_the_tail_is_a_close_upper_bound() -> None:
    """It is compared with the exact tail where that is quick to compute."""
    compared = 0
    for bins in (2, 4, 16, 64):
        for mean in (1, 2, 5, 30, 40, 150, 400):
            count, k = mean * bins, capacity(mean * bins, bins) + 1
            if count < k or count > 2500:
                continue
            exact = sum(comb(count, i) * (bins - 1) ** (count - i) for i in range(k, count + 1))
            bound = float(log2_of_tail(np.array([float(mean)]), bins)[0])
            precise = _log2(exact) - count * _log2(bins)
            assert precise < bound < precise + 0.5
            compared += 1
    assert compared > 10


def _log2(value: int) -> float:
    """Return the logarithm of an integer of any size."""
    shift = max(value.bit_length() - 64, 0)
    return float(np.log2(float(value >> shift))) + shift


@pytest.mark.sample(4)
@pytest.mark.parametrize("bits", range(1, 17))
def test_a_bin_overflows_with_a_probability_below_2_to_minus_60(bits: int) -> None:
    """This covers every mean up to 2^20; fewer items with the same rounded-up mean have a smaller tail."""
    bound = log2_of_tail(np.arange(1, 2**20 + 1, dtype=np.float64), 1 << bits)
    assert bound.max() < MOST_LIKELY - 1e-3


def test_the_bound_uses_the_capacities_of_the_code() -> None:
    means = [*range(1, 3000), *Random(13).sample(range(1, 2**20), 3000)]
    means += [i * i + d for i in range(2, 1025) for d in (-1, 0, 1)]
    for mean in means:
        k = mean + 9 * int(np.ceil(np.sqrt(float(mean)))) + 25
        for bins in (2, 1024, 65_536):
            for count in (mean * bins, mean * bins - bins + 1):
                assert capacity(count, bins) + 1 == min(k, count + 1)


def test_an_item_falls_into_the_bin_of_its_keyed_hash() -> None:
    """The bin is the top bits of SHA-256(partition key ‖ item), computed here independently."""
    values = [b"item-%d" % i for i in range(96)]
    receiver, sender = run_exchanges(items_of(values), items_of(values), **MANY)
    key = sha256(b"psicli/v1/partition\0" + TASK_SID).digest()
    assert partition_key(TASK_SID) == key
    expected = [0] * 4
    for value in values:
        expected[sha256(key + value).digest()[0] >> 6] += 1
    for end in (receiver, sender):
        assert end.prepared is not None
        starts = end.prepared.items.starts(4)
        assert [stop - start for start, stop in pairwise(starts)] == expected


@pytest.mark.parametrize("side", [0, 1], ids=["receiver", "sender"])
def test_a_bin_that_overflows_ends_the_run(side: int) -> None:
    """The 300 items all fall into one of four bins, whose capacity is 180."""
    key = partition_key(TASK_SID)
    candidates = (b"item-%d" % i for i in range(10**5))
    chosen = list(islice((each for each in candidates if sha256(key + each).digest()[0] < 64), 300))
    sides = [chosen, [b"other-%d" % i for i in range(300)]]
    with pytest.raises(BinOverflowError) as caught:
        run_exchanges(*map(items_of, sides[:: -1 if side else 1]), frame_items=64, bin_items=180)
    assert caught.value.code == 75


# Ids -----------------------------------------------------------------------------------------------------------


def test_known_ids() -> None:
    """The ids are computed a second time from the specification."""
    sid = bytes(range(32))
    octets = b"psicli/v1/bin\0" + sid + b"\0\0\1\2" + b"\0\0\0\1"
    assert bin_session_id(sid, 258, 1) == sha256(octets).digest()
    assert len({bin_session_id(each, b, a) for each in (sid, bytes(32)) for b in range(9) for a in range(9)}) == 162
    counts = b"\0\0\0\0\0\0\0\5" + b"\0\0\0\1\0\0\0\0" + b"\0\0\0\0\0\0\0\4"
    assert task_digest(sid, (5, 2**32), 4) == sha256(b"psicli/v1/end\0" + sid + counts).digest()
    matches = b"\0\0\0\0\0\0\0\3"
    assert task_digest(sid, (5, 2**32), 4, 3) == sha256(b"psicli/v1/end\0" + sid + counts + matches).digest()
    assert task_digest(sid, (5, 2**32), 4, 0) != task_digest(sid, (5, 2**32), 4)
    assert partition_key(sid) == sha256(b"psicli/v1/partition\0" + sid).digest()


# Resuming ------------------------------------------------------------------------------------------------------

BIN_ITEMS = 94
SIDS = [bytes([i]) * 32 for i in range(2)]
counts = st.sampled_from([0, 1, 95, 96, 97, 130])
bins_ = st.sampled_from([0, 1, 2, 3, 4, 8, 2**16, 2**17, 2**32 - 1])
finished_ = st.integers(0, 2**4 + 1) | st.just(2**70)
kepts = st.builds(Kept, st.sampled_from(SIDS), counts, counts, bins_, finished_, st.booleans())


def mirrored(kept: Kept) -> Kept:
    return replace(kept, own_count=kept.peer_count, peer_count=kept.own_count)


@st.composite
def pairs_of_offers(draw: st.DrawFn) -> tuple[Kept | None, Kept | None]:
    """Return Offers of a receiver and a sender that are likely to match: of the same run, or nearly so."""
    finished = draw(st.integers(0, 15))
    receiver = Kept(SIDS[0], 96, 95, 4, finished, draw(st.booleans()) and finished == 15)
    sender = mirrored(replace(receiver, finished=finished | draw(st.integers(0, 15))))
    if sender.finished != 15:
        sender = replace(sender, complete=False)
    elif draw(st.booleans()):
        sender = replace(sender, complete=not sender.complete)
    return draw(st.sampled_from([receiver, None]) | kepts), draw(st.sampled_from([sender]) | st.just(sender) | kepts)


def decided(
    mine: Kept | None, theirs: Kept | None, *, receives: bool, broadcast: bool
) -> Kept | PeerProtocolError | None:
    try:
        return agree_on_resume(mine, theirs, receives=receives, broadcast=broadcast, bin_items=BIN_ITEMS)
    except PeerProtocolError as exc:
        return exc


@pytest.mark.more
@settings(max_examples=400, deadline=None)
@given(offers=pairs_of_offers(), broadcast=st.booleans())
def test_both_sides_decide_the_same(offers: tuple[Kept | None, Kept | None], broadcast: bool) -> None:
    receiver, sender = offers
    ours = decided(receiver, sender, receives=True, broadcast=broadcast)
    theirs = decided(sender, receiver, receives=False, broadcast=broadcast)
    if isinstance(ours, PeerProtocolError) or isinstance(theirs, PeerProtocolError):
        # An honest party never makes a contradictory Offer, so the other decision does not matter.
        return
    if ours is None or theirs is None:
        assert ours is theirs is None
        return
    assert receiver is not None
    assert sender is not None
    counts = ours.own_count, ours.peer_count
    assert (theirs.peer_count, theirs.own_count) == counts == (receiver.own_count, receiver.peer_count)
    assert replace(theirs, own_count=counts[0], peer_count=counts[1]) == ours
    assert ours.partition_sid == receiver.partition_sid == sender.partition_sid
    assert ours.bins == number_of_bins(*counts, BIN_ITEMS)
    # No bin is skipped that either party lacks.
    assert ours.finished == receiver.finished
    assert ours.finished & sender.finished == ours.finished <= every_bin(ours.bins)
    done = receiver.complete and sender.complete if broadcast else ours.finished == every_bin(ours.bins)
    assert ours.complete is done


# The saved state of the receiver and the sender of the same run; DONE: the changes if the task is done.
RECEIVER = Kept(SIDS[0], 96, 95, 4, 0b0101)
SENDER = Kept(SIDS[0], 95, 96, 4, 0b0111)
DONE = {"finished": 0b1111, "complete": True}


def test_matching_offers_resume() -> None:
    expected = Kept(SIDS[0], 96, 95, 4, 0b0101)
    for broadcast in (False, True):
        assert decided(RECEIVER, SENDER, receives=True, broadcast=broadcast) == expected
    done = [replace(each, **DONE) for each in (RECEIVER, SENDER)]  # type: ignore[arg-type]
    for broadcast in (False, True):
        assert decided(*done, receives=True, broadcast=broadcast) == replace(expected, finished=0b1111, complete=True)
    exchanged = [replace(each, complete=False) for each in done]
    assert decided(*exchanged, receives=True, broadcast=False) == replace(expected, finished=0b1111, complete=True)
    assert decided(*exchanged, receives=True, broadcast=True) == replace(expected, finished=0b1111)


VIOLATIONS: list[dict[str, Any]] = [
    {"bins": 3},
    {"bins": 0},
    {"bins": 2**17},
    {"bins": 2**32 - 1},
    {"own_count": 0},
    {"peer_count": 0},
    {"finished": 0b10000},
    {"finished": 2**70},
    {"complete": True},
    {"bins": 2, "finished": 0b100},
]
FRESH_STARTS: list[dict[str, Any]] = [
    {"partition_sid": SIDS[1]},
    {"partition_sid": b""},
    {"own_count": 97},
    {"own_count": 2**64 - 1},
    {"peer_count": 97},
    {"bins": 8},
    {"bins": 2, "finished": 0b01},
]


@pytest.mark.parametrize("lie", VIOLATIONS)
@both_outcomes
def test_an_offer_that_contradicts_itself_is_a_violation(lie: dict[str, Any], broadcast: bool) -> None:
    """It is a violation even if this party has nothing to resume from."""
    for mine, theirs, receives in ((RECEIVER, SENDER, True), (SENDER, RECEIVER, False)):
        for own in (mine, None):
            found = decided(own, replace(theirs, **lie), receives=receives, broadcast=broadcast)
            assert isinstance(found, PeerProtocolError)
            assert found.code == 76


@pytest.mark.parametrize("lie", FRESH_STARTS)
@both_outcomes
def test_an_offer_that_does_not_match_is_a_fresh_start(lie: dict[str, Any], broadcast: bool) -> None:
    for mine, theirs, receives in ((RECEIVER, SENDER, True), (SENDER, RECEIVER, False)):
        assert decided(mine, replace(theirs, **lie), receives=receives, broadcast=broadcast) is None


@both_outcomes
def test_an_offer_with_bins_that_were_never_finished_is_a_fresh_start(broadcast: bool) -> None:
    """The receiver has bins that were never answered, or the sender has not answered bins that were received."""
    for finished in (0b1000, 0b1111):
        lie = replace(RECEIVER, finished=finished)
        assert decided(SENDER, lie, receives=False, broadcast=broadcast) is None
    for finished in (0, 0b0001, 0b1110):
        assert decided(RECEIVER, replace(SENDER, finished=finished), receives=True, broadcast=broadcast) is None
    done = replace(RECEIVER, **DONE)  # type: ignore[arg-type]
    assert decided(SENDER, done, receives=False, broadcast=broadcast) is None


def test_only_one_side_of_a_broadcast_is_done() -> None:
    """The other party has no output yet, so the task is not over, and it cannot be resumed either."""
    receiver, sender = (replace(each, **DONE) for each in (RECEIVER, SENDER))  # type: ignore[arg-type]
    for mine, theirs in ((receiver, replace(sender, complete=False)), (replace(receiver, complete=False), sender)):
        assert decided(mine, theirs, receives=True, broadcast=True) is None
        assert decided(theirs, mine, receives=False, broadcast=True) is None


def test_bins_of_another_size_are_a_fresh_start() -> None:
    for bin_items in (92, 96, 2**14):
        assert agree_on_resume(RECEIVER, SENDER, receives=True, broadcast=False, bin_items=bin_items) is None


# Whole exchanges over several bins -------------------------------------------------------------------------------

# 95 to 97 items give 4 bins of 93 or 94 points.
MANY: dict[str, Any] = {"frame_items": 32, "bin_items": BIN_ITEMS}
EDGES = [0, 1, 2, 3, 4, 5, 31, 93, 94, 95, 96, 97, 130]
SIZES = sorted({pair for edge in EDGES for pair in ((edge, edge), (edge, 96), (96, edge), (edge, 1), (1, edge))})


def check(ours: set[bytes], theirs: set[bytes], *, broadcast: bool, capacity: int = 4) -> None:
    sides = [items_of(sorted(each)) for each in (ours, theirs)]
    receiver, sender = run_exchanges(*sides, broadcast=broadcast, capacity=capacity, **MANY)
    bins = number_of_bins(len(ours), len(theirs), BIN_ITEMS)
    for end in (receiver, sender):
        assert end.party.number_of_bins == bins
        assert sorted(end.exchange.workers) == [(number, 0) for number in range(bins)]
    # The number of points sent depends only on the counts.
    points = [receiver.points(Stream.RECEIVER_POINTS), sender.points(Stream.SENDER_POINTS)]
    assert [len(each) for each in points] == [bins * capacity_of(count, bins) for count in (len(ours), len(theirs))]
    assert len(set(points[0] + points[1])) == len(points[0]) + len(points[1])
    if broadcast:
        for end in (receiver, sender):
            assert matched_items(end, end.output.staged) == ours & theirs
            assert end.output.published
    else:
        assert matched_items(receiver, receiver.matches()) == ours & theirs
        assert sender.output.staged is None


def capacity_of(count: int, bins: int) -> int:
    return capacity(count, max(bins, 1))


@pytest.mark.sample(10)
@both_outcomes
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_sizes_at_the_edges(n: int, m: int, broadcast: bool) -> None:
    shared = -(-min(n, m) // 2)
    both = {b"both-%d" % i for i in range(shared)}
    ours = both | {b"R-%d" % i for i in range(n - shared)}
    theirs = both | {b"S-%d" % i for i in range(m - shared)}
    check(ours, theirs, broadcast=broadcast)


@both_outcomes
@pytest.mark.parametrize("shared", [0, 1, 96])
def test_everything_matches_or_nothing(shared: int, broadcast: bool) -> None:
    ours, theirs = ({b"%d" % i for i in range(start, start + 96)} for start in (0, 96 - shared))
    check(ours, theirs, broadcast=broadcast)


@pytest.mark.more
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.tuples(st.integers(0, 140), st.integers(0, 140), st.integers(0, 140)),
    broadcast=st.booleans(),
    capacity=st.integers(1, 6),
)
def test_any_sets(seed: int, sizes: tuple[int, int, int], broadcast: bool, capacity: int) -> None:
    values = [Random(seed + i).randbytes(1 + i % 40) + b"%d" % i for i in range(sum(sizes))]
    first, second = sizes[0], sizes[0] + sizes[1]
    check(set(values[:second]), set(values[first:]), broadcast=broadcast, capacity=capacity)
