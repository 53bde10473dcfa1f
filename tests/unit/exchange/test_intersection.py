"""Tests of two honest exchanges: their results, and what the messages reveal."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.memory.dishonest import BIN_SID, MANY, WIPED, scalars_of
from support.memory.machines import TASK, TASK_SID
from support.memory.pair import ExchangeEnd, items_of, matched_items, records, run_exchanges

from psicli import curve
from psicli.core.peer_errors import PeerProtocolError
from psicli.exchange import worker
from psicli.items.encoding import encode_items
from psicli.protocol import bins
from psicli.protocol.messages import (
    End,
    Frame,
    Open,
    Received,
    Stream,
    bin_session_id,
    partition_key,
    task_digest,
)

pytestmark = pytest.mark.usefixtures("backend")

both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
each_partitioning = pytest.mark.parametrize("sizes", [{}, MANY], ids=["one bin", "bins"])


# The intersection ----------------------------------------------------------------------------------------------


def check_intersection(
    receiver_items: set[bytes], sender_items: set[bytes], broadcast: bool, capacity: int, **sizes: int
) -> None:
    receiver, sender = run_exchanges(
        items_of(sorted(receiver_items)),
        items_of(sorted(sender_items)),
        broadcast=broadcast,
        capacity=capacity,
        **sizes,
    )
    expected = receiver_items & sender_items
    if broadcast:
        for end in (receiver, sender):
            assert matched_items(end, end.output.staged) == expected
            assert end.output.published
    else:
        assert matched_items(receiver, receiver.matches()) == expected
        assert all(end.output.staged is None for end in (receiver, sender))
        assert not any(end.output.published for end in (receiver, sender))
    assert [end.kept for end in (receiver, sender)] == [False, False]
    for end in (receiver, sender):
        assert len(end.exchange.workers) == end.party.number_of_bins
        assert scalars_of(end) == ({WIPED} if end.party.number_of_bins else set())


@pytest.mark.sample(1)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shared=st.sets(st.integers(0, 99), max_size=14),
    own=st.sets(st.integers(100, 199), max_size=14),
    theirs=st.sets(st.integers(200, 299), max_size=14),
    broadcast=st.booleans(),
    capacity=st.integers(1, 4),
)
def test_the_result_is_the_plain_intersection(
    shared: set[int], own: set[int], theirs: set[int], broadcast: bool, capacity: int
) -> None:
    sides = [{b"%d" % value for value in shared | only} for only in (own, theirs)]
    check_intersection(*sides, broadcast, capacity)


@pytest.mark.sample(18)
@both_outcomes
@pytest.mark.parametrize(
    ("n", "m", "shared"),
    [(0, 0, 0), (0, 9, 0), (9, 0, 0), (1, 1, 1), (1, 1, 0), (8, 8, 8), (16, 3, 2), (7, 33, 7), (33, 9, 0)],
)
def test_sizes_at_the_edges(n: int, m: int, shared: int, broadcast: bool) -> None:
    both = {b"both%d" % i for i in range(shared)}
    ours = both | {b"R%d" % i for i in range(n - shared)}
    theirs = both | {b"S%d" % i for i in range(m - shared)}
    check_intersection(ours, theirs, broadcast, capacity=2)


@pytest.mark.sample(2)
@both_outcomes
def test_several_bins(broadcast: bool) -> None:
    """This runs on every backend; tests/unit/protocol/test_bins.py covers all sizes."""
    both = {b"both%d" % i for i in range(60)}
    ours, theirs = (both | {b"%s%d" % (name, i) for i in range(36)} for name in (b"R", b"S"))
    check_intersection(ours, theirs, broadcast, 4, **MANY)


def test_known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages for the item of the known answers, with its scalars and the bin sid 00 01 … 1f."""
    monkeypatch.setattr(bins, "bin_session_id", lambda task_sid, number, attempt: bytes(range(32)))
    item = encode_items([items_of(["alice@example.com"]).cast("large_string")])
    receiver, sender = run_exchanges(item, item, scalars=(b"\x77" * 32, b"\x5d" * 32))
    masked = "ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527"
    assert [point.hex() for point in receiver.points(Stream.RECEIVER_POINTS)] == [masked]
    assert [data.hex() for data in sender.data(Stream.TOKENS)] == ["ef4c3dc8ebe5225f0e72b27f34db728e"]
    ends = {end.stream: end.digest.hex() for end in receiver.channel.sent if isinstance(end, End)}
    assert ends == {1: "b4999bf78fcb84259af973b191ade4b8804125fd4b65807d768027e1db3d1306"}
    opens = [message for end in (receiver, sender) for message in end.channel.sent if isinstance(message, Open)]
    assert [message.probe.hex() for message in opens] == ["53ccd720e9319c7fb7aefa003d75579f"] * 2
    assert matched_items(receiver, receiver.matches()) == set(item.to_pylist())


def test_the_bitmap_follows_the_senders_order() -> None:
    theirs = items_of(b"%d" % i for i in range(20))
    known = (None, b"\x5d" * 32)
    receiver, sender = run_exchanges(items_of([b"3", b"19", b"8", b"x"]), theirs, broadcast=True, scalars=known)
    bits = np.unpackbits(np.frombuffer(b"".join(receiver.data(Stream.BITMAP)), np.uint8), bitorder="little")
    points = records(curve.hash_and_mask(theirs, BIN_SID, b"\x5d" * 32), curve.POINT_BYTES)
    sent = sender.points(Stream.SENDER_POINTS)
    assert sent != points
    assert sorted(sent) == sorted(points)
    assert {points.index(sent[place]) for place in np.flatnonzero(bits)} == {3, 8, 19}
    assert matched_items(sender, sender.output.staged) == {b"3", b"8", b"19"}
    assert matched_items(receiver, receiver.output.staged) == {b"3", b"8", b"19"}


def test_the_bitmaps_of_padding_are_zero() -> None:
    """When everything matches, exactly the bits of the items are set, and none of padding."""
    items = items_of(f"item-{i}" for i in range(96))
    receiver, sender = run_exchanges(items, items, broadcast=True, **MANY)
    frames = [message for message in receiver.channel.sent if isinstance(message, Frame) and message.stream == 4]
    bitmaps = [b"".join(each.data for each in frames if each.bin == number) for number in range(4)]
    assert sender.prepared is not None
    starts = sender.prepared.items.starts(4)
    counts = [int.from_bytes(bits, "little").bit_count() for bits in bitmaps]
    assert counts == [stop - start for start, stop in pairwise(starts)]
    assert all(len(bits) == -(-93 // 8) for bits in bitmaps)
    assert sum(counts) == 96


def test_a_forged_bitmap_that_marks_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of bits is right, but one of them marks padding."""
    matched = worker.Worker.match

    def forged(self: worker.Worker, *, bitmap: bool = False) -> worker.Match:
        found = matched(self, bitmap=bitmap)
        bits = np.unpackbits(np.frombuffer(found.bitmap, np.uint8), bitorder="little")
        # Move one bit to a point that is padding of the sender.
        bits[np.flatnonzero(bits)[0]] = 0
        bits[np.flatnonzero(bits[:93] == 0)[-1]] = 1
        return worker.Match(found.found, np.packbits(bits, bitorder="little").tobytes())

    monkeypatch.setattr(worker.Worker, "match", forged)
    items = items_of(f"item-{i}" for i in range(96))
    with pytest.raises(PeerProtocolError) as caught:
        run_exchanges(items, items, broadcast=True, **MANY)
    assert caught.value.code == 76
    assert "padding" in str(caught.value)


@pytest.mark.sample(4)
@each_partitioning
def test_different_tasks_share_nothing(sizes: dict[str, Any]) -> None:
    """Even with the same scalar, the same items give different points in another task, bin or attempt."""
    items, scalar = items_of(f"item-{i}" for i in range(96 if sizes else 9)), b"\x77" * 32
    points: list[bytes] = []
    for task_sid in (TASK_SID, bytes(32)):
        ends = run_exchanges(items, items, task_sid=task_sid, scalars=(scalar, None), **sizes)
        points += ends[0].points(Stream.RECEIVER_POINTS)
    assert len(set(points)) == len(points)
    sids = [bin_session_id(TASK_SID, number, attempt) for number in (0, 1) for attempt in (0, 1)]
    assert len({curve.hash_and_mask(items, sid, scalar) for sid in sids}) == 4


# What the messages reveal --------------------------------------------------------------------------------------


def all_points(ends: tuple[ExchangeEnd, ExchangeEnd]) -> list[bytes]:
    receiver, sender = ends
    return receiver.points(Stream.RECEIVER_POINTS) + sender.points(Stream.SENDER_POINTS)


def test_two_runs_over_the_same_items_share_no_point() -> None:
    """Even with the same task id, as after a bug, fresh scalars must make runs unrelated."""
    items = items_of(f"item-{i}" for i in range(12))
    runs = [run_exchanges(items, items) for _ in range(2)]
    points = [point for run in runs for point in all_points(run)]
    assert len(points) == len(set(points)) == 4 * 12
    tokens = [token for run in runs for data in run[1].data(Stream.TOKENS) for token in records(data, 16)]
    assert len(tokens) == len(set(tokens)) == 2 * 12


@both_outcomes
def test_duplicate_rows_leave_no_trace(broadcast: bool) -> None:
    keys = [f"key-{i}" for i in range(21)]
    seen = []
    for times in (1, 1000):
        column = items_of(keys * times).cast("large_string")
        items = encode_items([column])
        ends = run_exchanges(items, items, broadcast=broadcast)
        messages = [Counter(zip(map(type, end.channel.sent), end.channel.sizes, strict=True)) for end in ends]
        seen.append((messages, [sum(end.channel.sizes) for end in ends]))
    assert seen[0] == seen[1]


@pytest.mark.sample(4)
@each_partitioning
def test_messages_of_a_one_sided_task_do_not_reveal_matches(sizes: dict[str, Any]) -> None:
    """Kinds and sizes of the messages are the same whether everything matches or nothing."""
    seen = []
    for prefix in ("item", "other"):
        ours, theirs = (items_of(f"{name}-{i}" for i in range(96 if sizes else 19)) for name in ("item", prefix))
        ends = run_exchanges(ours, theirs, **sizes)
        seen.append([Counter(zip(map(type, end.channel.sent), end.channel.sizes, strict=True)) for end in ends])
    assert seen[0] == seen[1]


def test_nothing_follows_received() -> None:
    receiver, _ = run_exchanges(items_of(["a", "b"]), items_of(["b"]))
    sent = len(receiver.channel.sent)
    assert receiver.channel.sent[-1] == Received(TASK, 0, 0, task_digest(TASK_SID, (2, 1), 1))
    receiver.matches()
    assert len(receiver.channel.sent) == sent


def rank_correlation(one: list[int], other: list[int]) -> float:
    """Return Spearman's coefficient: 1 for equal orders, -1 for reversed, about 0 +- 1/sqrt(n) for unrelated ones."""
    return float(np.corrcoef(one, other)[0, 1])


def ranks(values: list[bytes]) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return [rank for _, rank in sorted(zip(order, range(len(order)), strict=True))]


def wire_order(items: list[bytes], scalar: bytes) -> list[int]:
    """Return the place of each item among the points that a receiver with this scalar and a new order sends."""
    receiver, _ = run_exchanges(items_of(items), items_of(["x"]), frame_items=64, scalars=(scalar, None))
    place = {point: i for i, point in enumerate(receiver.points(Stream.RECEIVER_POINTS))}
    points = records(curve.hash_and_mask(items_of(items), BIN_SID, scalar), curve.POINT_BYTES)
    return [place[point] for point in points]


@pytest.mark.sample(1)
def test_the_order_on_the_wire_is_unrelated_to_any_other() -> None:
    """For 400 items unrelated orders correlate with 0 +- 0.05, so the threshold is four standard deviations."""
    count, threshold = 400, 0.2
    keys = [b"key-%05d" % i for i in range(count)]
    items = random.Random(4).sample(keys, count)
    places = [wire_order(items, bytes([seed]) * 32) for seed in (1, 2)]
    key = partition_key(TASK_SID)
    known = {
        "file": list(range(count)),
        "key": ranks(items),
        "sha-256": ranks([sha256(item).digest() for item in items]),
        "partition": ranks([sha256(key + item).digest() for item in items]),
        "another secret": places[1],
    }
    for name, order in known.items():
        assert sorted(order) == list(range(count))
        assert rank_correlation(order, order) > 0.99
        assert abs(rank_correlation(places[0], order)) < threshold, name
