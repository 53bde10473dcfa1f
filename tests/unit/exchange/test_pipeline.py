from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import sha256
from itertools import pairwise, product
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kernel.points import SMALL_ORDER, P, add, as_octets, replaced
from support.memory.machines import TASK, TASK_SID, setup
from support.memory.pair import (
    AtOnce,
    ExchangeEnd,
    KeptOutput,
    MemoryChannel,
    PeerChannel,
    exchange_end,
    items_of,
    matched_items,
    records,
    run_exchanges,
)

from psicli import curve
from psicli.core.errors import PeerGoneError, PeerProtocolError, SelfCheckError, StorageError, WorkerLostError
from psicli.exchange import worker
from psicli.items.encoding import encode_items
from psicli.items.partitions import Matches
from psicli.protocol import bins
from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Frame,
    Offer,
    Open,
    Received,
    Restart,
    Stream,
    bin_session_id,
    partition_key,
    task_digest,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import Progress, TaskParty
from psicli.protocol.work import CutBitmap, GatherMatches, MaskOwn, MaskPeer, Work

pytestmark = pytest.mark.usefixtures("backend")

roles = pytest.mark.parametrize("role", [Receiver, Sender])
both_outcomes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])

WIPED = bytes(32)


T = TypeVar("T")
# 95 to 97 items of a side make 4 bins of 93 or 94 points.
MANY: dict[str, Any] = {"frame_items": 32, "bin_items": 94}
each_cut = pytest.mark.parametrize("cut", [{}, MANY], ids=["one bin", "bins"])
each_side = pytest.mark.parametrize("side", [0, 1], ids=["receiver", "sender"])
BIN_SID = bin_session_id(TASK_SID, 0, 0)


def scalars_of(end: ExchangeEnd) -> set[bytes]:
    """Return what there is now of the scalars a side has drawn."""
    return {bytes(each._scalar) for each in end.exchange.workers.values()}


# The intersection ----------------------------------------------------------------------------------------------


def check_intersection(
    receiver_items: set[bytes], sender_items: set[bytes], broadcast: bool, capacity: int, **cut: int
) -> None:
    receiver, sender = run_exchanges(
        items_of(sorted(receiver_items)), items_of(sorted(sender_items)), broadcast=broadcast, capacity=capacity, **cut
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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shared=st.sets(st.integers(0, 99), max_size=14),
    own=st.sets(st.integers(100, 199), max_size=14),
    theirs=st.sets(st.integers(200, 299), max_size=14),
    broadcast=st.booleans(),
    capacity=st.integers(1, 4),
)
def test_what_matches_is_the_plain_intersection(
    shared: set[int], own: set[int], theirs: set[int], broadcast: bool, capacity: int
) -> None:
    sides = [{b"%d" % value for value in shared | only} for only in (own, theirs)]
    check_intersection(*sides, broadcast, capacity)


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


@both_outcomes
def test_several_bins(broadcast: bool) -> None:
    """On every backend; tests/test_bins.py has all the sizes."""
    both = {b"both%d" % i for i in range(60)}
    ours, theirs = (both | {b"%s%d" % (name, i) for i in range(36)} for name in (b"R", b"S"))
    check_intersection(ours, theirs, broadcast, 4, **MANY)


def test_known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one item of the design, with its scalars and t = 00 01 … 1f as bin sid, as it travels."""
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


def test_the_bitmap_speaks_of_the_senders_order() -> None:
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
    """Everything matches, and as many bits are set as there are items: the others, of padding, are not."""
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
    """A receiver that says of all points of the first bin that they match: no more bits than items, but too many."""
    matched = worker.Worker.match

    def forged(self: worker.Worker, *, bitmap: bool = False) -> worker.Match:
        found = matched(self, bitmap=bitmap)
        bits = np.unpackbits(np.frombuffer(found.bitmap, np.uint8), bitorder="little")
        # The same number of bits, one of them moved to a point that is none of the sender's items.
        bits[np.flatnonzero(bits)[0]] = 0
        bits[np.flatnonzero(bits[:93] == 0)[-1]] = 1
        return worker.Match(found.found, np.packbits(bits, bitorder="little").tobytes())

    monkeypatch.setattr(worker.Worker, "match", forged)
    items = items_of(f"item-{i}" for i in range(96))
    with pytest.raises(PeerProtocolError) as caught:
        run_exchanges(items, items, broadcast=True, **MANY)
    assert caught.value.code == 76
    assert "padding" in str(caught.value)


@each_cut
def test_different_tasks_share_nothing(cut: dict[str, Any]) -> None:
    """The same items under another task's id, another bin's or another attempt's do not even match."""
    items, scalar = items_of(f"item-{i}" for i in range(96 if cut else 9)), b"\x77" * 32
    points: list[bytes] = []
    for task_sid in (TASK_SID, bytes(32)):
        ends = run_exchanges(items, items, task_sid=task_sid, scalars=(scalar, None), **cut)
        points += ends[0].points(Stream.RECEIVER_POINTS)
    assert len(set(points)) == len(points)
    sids = [bin_session_id(TASK_SID, number, attempt) for number in (0, 1) for attempt in (0, 1)]
    assert len({curve.hash_and_mask(items, sid, scalar) for sid in sids}) == 4


# What the wire tells -------------------------------------------------------------------------------------------


def all_points(ends: tuple[ExchangeEnd, ExchangeEnd]) -> list[bytes]:
    receiver, sender = ends
    return receiver.points(Stream.RECEIVER_POINTS) + sender.points(Stream.SENDER_POINTS)


def test_two_runs_over_the_same_items_share_no_point() -> None:
    """The same task id twice, as after a mistake: fresh scalars alone must keep runs apart."""
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


@each_cut
def test_messages_of_a_one_sided_task_do_not_tell_of_matches(cut: dict[str, Any]) -> None:
    """Kinds and sizes are the same whether everything matches or nothing."""
    seen = []
    for prefix in ("item", "other"):
        ours, theirs = (items_of(f"{name}-{i}" for i in range(96 if cut else 19)) for name in ("item", prefix))
        ends = run_exchanges(ours, theirs, **cut)
        seen.append([Counter(zip(map(type, end.channel.sent), end.channel.sizes, strict=True)) for end in ends])
    assert seen[0] == seen[1]


def test_nothing_follows_received() -> None:
    receiver, _ = run_exchanges(items_of(["a", "b"]), items_of(["b"]))
    sent = len(receiver.channel.sent)
    assert receiver.channel.sent[-1] == Received(TASK, 0, 0, task_digest(TASK_SID, (2, 1), 1))
    receiver.matches()
    assert len(receiver.channel.sent) == sent


def rank_correlation(one: list[int], other: list[int]) -> float:
    """Spearman's: 1 for the same order, -1 for the reverse, about 0 +- 1/sqrt(n) for unrelated ones."""
    return float(np.corrcoef(one, other)[0, 1])


def ranks(values: list[bytes]) -> list[int]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return [rank for _, rank in sorted(zip(order, range(len(order)), strict=True))]


def wire_order(items: list[bytes], scalar: bytes) -> list[int]:
    """Return for each item, in the order given, its place among the points that the receiver sent.

    The secret of the order is another one for another scalar.
    """
    receiver, _ = run_exchanges(items_of(items), items_of(["x"]), frame_items=64, scalars=(scalar, None))
    place = {point: i for i, point in enumerate(receiver.points(Stream.RECEIVER_POINTS))}
    points = records(curve.hash_and_mask(items_of(items), BIN_SID, scalar), curve.POINT_BYTES)
    return [place[point] for point in points]


def test_the_order_on_the_wire_is_unrelated_to_any_other() -> None:
    """400 items: unrelated orders correlate with 0 +- 0.05, so 0.2 is four standard deviations off."""
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


# Dishonest peers -----------------------------------------------------------------------------------------------

ITEMS = [b"item-%d" % i for i in range(20)]


class DishonestPeer:
    """A peer that follows the protocol's order and counts but makes its points and tokens as it likes.

    forge: turns its honest points [all of them, and those of the other side] into what it sends. forge_tokens: the
    same for each frame of tokens. It sends nothing before it has every point of the other side.
    """

    def __init__(
        self,
        role: type[TaskParty],
        count: int,
        *,
        forge: Callable[[list[bytes], list[bytes]], list[bytes]] = lambda own, theirs: own,
        forge_tokens: Callable[[bytes], bytes] = lambda tokens: tokens,
        broadcast: bool = False,
    ) -> None:
        self.machine = role(setup(broadcast=broadcast, probe=curve.probe(TASK_SID)))
        self.scalar = b"\x5d" * 32
        self.items = items_of(ITEMS)
        self.theirs: list[bytes] = []
        self._count = count
        self._forge = forge
        self._forge_tokens = forge_tokens
        self._forged: list[bytes] = []

    def answer(self, work: Work, place: Place | None) -> bytes:
        match work:
            case MaskPeer(_, points):
                self.theirs += records(points, 32)
                products, _ = curve.mask(points, self.scalar)
                return b"" if self.machine.receives else self._forge_tokens(curve.tokens(products, BIN_SID))
            case MaskOwn(start, stop):
                return b"".join(self._points()[start:stop])
            case GatherMatches():
                return bytes(8)
            case CutBitmap(_, start, stop):
                return bytes(-(-(stop - start) // 8))
        return b""

    def may_work(self) -> bool:
        """Mask the other side's points first, then, and not earlier, send our own."""
        party = self.machine.bins.get(0)
        if party is None or not party._prepared or len(self.theirs) == self._count:
            return True
        party._own_turn = False
        return bool(party._pending)

    def channel(self, *, limit: int | None = None) -> PeerChannel:
        return PeerChannel(self.machine, len(ITEMS), self.answer, may_work=self.may_work, limit=limit)

    def _points(self) -> list[bytes]:
        if not self._forged:
            honest = records(curve.hash_and_mask(self.items, BIN_SID, self.scalar), 32)
            self._forged = self._forge(honest, list(self.theirs))
            assert len(self._forged) == len(ITEMS)
        return self._forged


def against(peer: DishonestPeer, items: list[bytes], *, broadcast: bool = False) -> ExchangeEnd:
    """Run the honest side against such a peer, to its end or failure."""
    honest = Sender if isinstance(peer.machine, Receiver) else Receiver
    end = exchange_end(honest, items_of(items), peer.channel(), broadcast=broadcast)
    try:
        end.drive()
    except PeerProtocolError as exc:
        end.failure = exc
    return end


OWN = [b"mine-%d" % i for i in range(11)]
Forge = Callable[[list[bytes], list[bytes]], list[bytes]]
FORGERIES: dict[str, tuple[Forge, str]] = {
    **{
        f"of {name}": (lambda own, _, small=small: replaced(own, 13, small), "not valid")
        for name, small in {**SMALL_ORDER, "order 4 of the twist": as_octets(P - 1)}.items()
    },
    **{
        f"not canonical {name}": (lambda own, _, u=u: replaced(own, 3, as_octets(u)), "not valid")
        for name, u in {
            "p": P,
            "p + 1": P + 1,
            "p + 9": P + 9,
            "2^255 - 1": 2**255 - 1,
            "2^256 - 1": 2**256 - 1,
        }.items()
    },
    "bit 255": (lambda own, _: replaced(own, 19, own[19][:31] + bytes([own[19][31] | 0x80])), "not valid"),
    "twist": (lambda own, _: replaced(own, 10, as_octets(2)), "not lie on the curve"),
    "no hash to the curve": (
        lambda own, _: [curve.mask(sha256(item).digest()[:31] + b"\0", b"\x5d" * 32)[0] for item in ITEMS],
        "not lie on the curve",
    ),
    "reflected": (lambda own, theirs: replaced(own, 19, theirs[0]), "back as its own"),
    "all reflected": (lambda own, theirs: replaced(own, 5, *theirs), "back as its own"),
    "twice in a frame": (lambda own, _: replaced(own, 1, own[0]), "the same item"),
    "twice in two frames": (lambda own, _: replaced(own, 19, own[0]), "the same item"),
    **{
        f"plus one of {name}": (lambda own, _, small=small: replaced(own, 17, add(own[2], small)), "the same item")
        for name, small in SMALL_ORDER.items()
    },
}


@pytest.mark.parametrize("name", FORGERIES)
@roles
def test_forged_points(role: type[TaskParty], name: str) -> None:
    """role is the dishonest side's."""
    forge, reason = FORGERIES[name]
    end = against(DishonestPeer(role, len(OWN), forge=forge), OWN)
    assert isinstance(end.failure, PeerProtocolError)
    assert end.failure.code == 76
    assert reason in str(end.failure)
    assert scalars_of(end) == {WIPED}
    # What the other side must not get from a list that was refused: the end of the tokens, or Received.
    assert not any(isinstance(message, Received) for message in end.channel.sent)
    assert Stream.TOKENS not in [message.stream for message in end.channel.sent if isinstance(message, End)]


@roles
def test_without_forgery_the_same_peer_is_fine(role: type[TaskParty]) -> None:
    """What the tests above stand on."""
    end = against(DishonestPeer(role, len(OWN)), OWN)
    assert end.failure is None
    if role is Sender:
        assert end.matches().count == 0


def test_points_of_small_order_are_what_they_say() -> None:
    point = curve.hash_and_mask(items_of(["a"]), TASK_SID, b"\x77" * 32)
    product, _ = curve.mask(point, b"\x5d" * 32)
    for small in SMALL_ORDER.values():
        assert curve.on_curve(small)
        other = add(point, small)
        assert other != point
        assert curve.on_curve(other)
        assert curve.mask(other, b"\x5d" * 32) == (product, [])


@pytest.mark.parametrize("at", [(0, 1), (0, 10)], ids=["in a frame", "in two frames"])
def test_duplicate_tokens(at: tuple[int, int]) -> None:
    seen: list[bytes] = []

    def forge(data: bytes) -> bytes:
        tokens = records(data, 16)
        start = len(seen)
        seen.extend(tokens)
        if at[1] in range(start, start + len(tokens)):
            tokens[at[1] - start] = seen[at[0]]
        return b"".join(tokens)

    end = against(DishonestPeer(Sender, len(OWN), forge_tokens=forge), OWN)
    assert isinstance(end.failure, PeerProtocolError)
    assert "tokens are equal" in str(end.failure)
    assert not any(isinstance(message, Received) for message in end.channel.sent)


def test_a_dishonest_sender_learns_nothing_from_a_refused_list() -> None:
    """Whatever matches, the same messages go out before the failure: no oracle."""
    seen = []
    for own in (OWN, ITEMS[:11]):
        peer = DishonestPeer(Sender, len(own), forge=FORGERIES["twice in two frames"][0], broadcast=True)
        end = against(peer, own, broadcast=True)
        assert isinstance(end.failure, PeerProtocolError)
        assert end.data(Stream.BITMAP) == []
        seen.append((str(end.failure), [type(message) for message in end.channel.sent]))
        assert end.output.staged is None
    assert seen[0] == seen[1]


# Our own side --------------------------------------------------------------------------------------------------


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
    """Which points are looked at differs from frame to frame, and any point may be among them."""
    good = curve.hash_and_mask(items_of(["a"]), TASK_SID, b"\x77" * 32)
    sampled = [worker._sample(b"".join(i.to_bytes(32, "little") for i in range(500))) for _ in range(20)]
    for points in sampled:
        indices = [int.from_bytes(point, "little") for point in records(points, 32)]
        assert len(indices) == len(set(indices)) == worker.SAMPLED_POINTS == 64
        assert max(indices) < 500
    assert len(set(sampled)) == len(sampled)
    assert len({point for points in sampled for point in records(points, 32)}) > 400
    assert worker._sample(good * 64) == good * 64


class FailingOutput(KeptOutput):
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
    """Before it has said anything there is none."""
    channel, other = MemoryChannel.pair(8)
    other.close()
    end = exchange_end(role, items_of(["a"]), channel)
    with pytest.raises(PeerGoneError):
        end.drive()
    assert end.exchange.workers == {}
    # After both Opens, or its first frame.
    for limit in (2, 3):
        end = honest_end(role, ["a"], limit=limit)
        with pytest.raises(PeerGoneError):
            end.drive()
        assert WIPED not in end.exchange.scalars.values()
        assert scalars_of(end) == {WIPED}


@roles
def test_the_scalar_is_wiped_before_anything_is_matched(role: type[TaskParty]) -> None:
    """From the checks on nothing is masked any more."""
    at_staging = []

    class WatchingOutput(KeptOutput):
        def stage(self, matches: Matches) -> None:
            at_staging.append(scalars_of(end))
            super().stage(matches)

    end = honest_end(role, ["a"])
    end.output = WatchingOutput()
    end.drive()
    assert at_staging == [{WIPED}]


@both_outcomes
def test_the_lists_of_a_bin_go_with_it(broadcast: bool) -> None:
    """They do not wait for the garbage collector, which large lists do not wake."""
    items = items_of([f"item{i}" for i in range(100)])
    gc.disable()
    try:
        ends = run_exchanges(items, items, broadcast=broadcast, **MANY)
        workers = [weakref.ref(each) for end in ends for each in end.exchange.workers.values()]
        assert len(workers) >= 8
        for end in ends:
            end.exchange.workers.clear()
        assert [each() for each in workers if each() is not None] == []
    finally:
        gc.enable()


def test_scalars_are_fresh() -> None:
    """For every run, party, bin and attempt; so are the secrets of the orders."""
    items = items_of(f"item-{i}" for i in range(96))
    ends = [end for _ in range(2) for end in run_exchanges(items, items, **MANY)]
    scalars = [scalar for end in ends for scalar in end.exchange.scalars.values()]
    orders = [each.order_secret for end in ends for each in end.exchange.workers.values()]
    assert len(scalars) == len(set(scalars)) == len(orders) == len(set(orders)) == 16


# Lost workers --------------------------------------------------------------------------------------------------


class LosingPools(AtOnce):
    """Pools that lose who computes a bin, at these of all computing's pieces of work, counted from 0."""

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


def test_a_lost_worker_costs_its_bin_and_nothing_else() -> None:
    """Whatever piece of a run is lost, on either side: the bin begins again, and the result is right."""
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
                # The first attempt's secrets are gone, and the second's are others.
                assert scalars_of(end) == {WIPED}
                assert len(set(end.exchange.scalars.values())) == len(end.exchange.workers)
        # Its secrets, two frames both ways, and the checks.
        assert lost == 6


@each_side
def test_a_worker_that_is_lost_twice_ends_the_run(side: int) -> None:
    items = items_of(f"item-{i}" for i in range(14))
    for second in range(1, 7):
        losing = LosingPools(0, second)
        with pytest.raises(WorkerLostError) as caught:
            run_exchanges(items, items, pools=(losing, None) if side == 0 else (None, losing))
        assert caught.value.code == 69


class LosingEveryBin(AtOnce):
    """Pools that lose whoever computes a bin with its third piece, the first time it is computed."""

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


class LatePools(AtOnce):
    """Pools in which the secrets of the first attempt are drawn only after those of the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Callable[[], object]] = []

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        if work.__name__ != "_prepare":
            return super().compute(work, *arguments)
        if not work.__self__.party.place.attempt:  # type: ignore[attr-defined]
            self.late.append(work)
            return Future()
        future = super().compute(work, *arguments)
        self.late.pop()()
        return future


def test_an_attempt_that_is_given_up_while_its_secrets_are_drawn_leaves_nothing() -> None:
    """The sender's order of the second attempt is the one that tells what the bitmap means."""
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
    """Run a broadcast whose link breaks after so many of the peer's messages."""
    end = honest_end(role, ["a", "b", "c"], limit=limit)
    try:
        end.drive()
    except PeerGoneError as exc:
        end.failure = exc
    return end


@roles
def test_a_link_that_breaks_after_any_message(role: type[TaskParty]) -> None:
    """Before the commit nothing is published and the run fails; after it the output is in place.

    The side that misses the last message warns.
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
def test_a_side_that_waits_for_room_still_hears(role: type[TaskParty]) -> None:
    """Without any room for its frames, a violation ends the run all the same."""
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
