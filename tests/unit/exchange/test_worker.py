"""Tests of the worker of a bin alone: its points, its checks of the peer's lists, and that it shows no secret."""

from __future__ import annotations

import struct
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chance import DEVIATIONS, check_unrelated, chi_square_limit
from support.memory.machines import TASK_SID, packed_bits
from support.memory.pair import items_of, prepared_of, records

from psicli import curve
from psicli.core.errors import LocalProtocolError, SelfCheckError
from psicli.core.peer_errors import PeerProtocolError
from psicli.curve import reference
from psicli.exchange.worker import Match, Worker, apply_bitmap, secret_order
from psicli.items.encoding import encode_items
from psicli.items.partitions import BinItems

T = bytes(range(32))
FRAME_ITEMS = 8
WIPED = bytes(32)
SCALARS = b"\x77" * 32, b"\x5d" * 32

both_roles = pytest.mark.parametrize("receives", [True, False], ids=["receiver", "sender"])
on_each_backend = pytest.mark.usefixtures("backend")


def bin_of(items: pa.LargeBinaryArray) -> BinItems:
    return prepared_of(items, TASK_SID).items.bin(0, 1, 1 << 30)


def names(prefix: str, count: int) -> list[bytes]:
    return [b"%s-%d" % (prefix.encode(), i) for i in range(count)]


def made(
    items: list[bytes], own: int, peer: int, *, receives: bool = True, scalar: bytes | None = None, sid: bytes = T
) -> Worker:
    worker = Worker(sid, bin_of(items_of(items)), own, peer, FRAME_ITEMS, receives=receives)
    if scalar is not None:
        worker._scalar[:] = scalar
    return worker


def spans(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + FRAME_ITEMS, count)) for start in range(0, count, FRAME_ITEMS)]


def points_of(worker: Worker, own: int) -> list[bytes]:
    """Return all points of a worker, in the order of sending."""
    return records(b"".join(worker.mask_own(*span) for span in spans(own)), 32)


def exchanged(ours: Worker, theirs: Worker, n: int, m: int) -> tuple[list[bytes], list[bytes]]:
    """Let a receiver and a sender exchange all their frames; return the points of both."""
    sent = [(b"".join(points_of(worker, count)), count) for worker, count in ((ours, n), (theirs, m))]
    for seq, (start, stop) in enumerate(spans(n)):
        tokens = theirs.mask_peer(seq, sent[0][0][32 * start : 32 * stop])
        assert tokens is not None
        ours.keep_tokens(start, tokens)
    for seq, (start, stop) in enumerate(spans(m)):
        assert ours.mask_peer(seq, sent[1][0][32 * start : 32 * stop]) is None
    return records(sent[0][0], 32), records(sent[1][0], 32)


# Known answers -------------------------------------------------------------------------------------------------


@on_each_backend
def test_the_known_answers_of_the_design() -> None:
    """t = 00 01 … 1f as bin sid, one column, one item, both scalars, on both sides."""
    item = encode_items([items_of(["alice@example.com"]).cast("large_string")]).to_pylist()
    receiver = made(item, 1, 1, scalar=SCALARS[0])
    sender = made(item, 1, 1, receives=False, scalar=SCALARS[1])
    masked = receiver.mask_own(0, 1)
    assert masked.hex() == "ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527"
    double_masked, bad = curve.mask(masked, SCALARS[1])
    assert (double_masked.hex(), bad) == ("7e3e30260193f3b0ae2ace92cae6d40de256e188fe6be01f3612d582e2e85f6c", [])
    tokens = sender.mask_peer(0, masked)
    assert tokens is not None
    assert tokens.hex() == "ef4c3dc8ebe5225f0e72b27f34db728e"
    receiver.keep_tokens(0, tokens)
    receiver.mask_peer(0, sender.mask_own(0, 1))
    for worker in (receiver, sender):
        worker.check()
    match = receiver.match(bitmap=True)
    assert (match.found.tolist(), match.bitmap) == ([True], b"\1")


def key_stream(key: bytes, size: int) -> bytes:
    """Return the key stream of ChaCha20 (RFC 8439) with a zero nonce and a counter that starts at 0."""

    def turn(x: list[int], a: int, b: int, c: int, d: int) -> None:
        for one, two, three, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] = (x[one] + x[two]) & 0xFFFFFFFF
            mixed = x[three] ^ x[one]
            x[three] = (mixed << bits | mixed >> 32 - bits) & 0xFFFFFFFF

    made = b""
    for counter in range(-(-size // 64)):
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
        x = list(start)
        for _ in range(10):
            for i in range(4):
                turn(x, i, i + 4, i + 8, i + 12)
            for i in range(4):
                turn(x, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12)
        made += struct.pack("<16I", *((one + two) & 0xFFFFFFFF for one, two in zip(x, start, strict=True)))
    return made[:size]


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 100])
def test_the_secret_order_against_a_second_implementation(count: int) -> None:
    """The second one must give the first words of RFC 8439 A.1 for a zero key, and the same order for another key."""
    assert key_stream(bytes(32), 8).hex() == "76b8e0ada0f13d90"
    words = struct.unpack(f"<{count}Q", key_stream(T, 8 * count))
    assert secret_order(T, count).tolist() == sorted(range(count), key=words.__getitem__)


def test_the_secret_order_is_related_to_nothing() -> None:
    """It is unrelated to the order of the items, and to that of a secret that differs in one bit."""
    one, other = (secret_order(bytes(31) + bytes([bit]), 5000) for bit in (0, 1))
    for order in (one, other):
        assert sorted(order.tolist()) == list(range(5000))
        check_unrelated(order.tolist())
    check_unrelated(one[np.argsort(other)].tolist())


# Padding -------------------------------------------------------------------------------------------------------


@on_each_backend
@both_roles
@pytest.mark.parametrize(("count", "own"), [(0, 9), (1, 9), (5, 20), (8, 8), (20, 20)])
def test_all_points_of_a_bin_are_items_and_padding(count: int, own: int, receives: bool) -> None:
    """There are as many points as the capacity; padding is hashed to the curve like items, with a different tag."""
    items = names("item", count)
    worker = made(items, own, 1, receives=receives, scalar=SCALARS[0])
    points = points_of(worker, own)
    assert len(points) == len(set(points)) == own
    assert curve.on_curve(b"".join(points))
    assert all(int.from_bytes(point, "little") < reference.P for point in points)
    of_items = records(curve.hash_and_mask(items_of(items), T, SCALARS[0]), 32)
    assert set(of_items) <= set(points)
    padding = records(bytes(worker._padding), 32)
    assert len(padding) == len(set(padding)) == own - count
    if padding:
        hashed = reference.hash_to_points(items_of(padding), T + b"\x02", curve.DST)
        products, bad = curve.mask(hashed, SCALARS[0])
        assert bad == []
        assert set(records(products, 32)) == set(points) - set(of_items)


def test_padding_is_never_an_item() -> None:
    """A peer that knew the padding and used it as items would not match it."""
    worker = made([], 9, 9)
    padding = records(bytes(worker._padding), 32)
    peer = made(padding, 9, 9, receives=False)
    exchanged(worker, peer, 9, 9)
    worker.check()
    match = worker.match(bitmap=True)
    assert match.found.tolist() == []
    assert match.bitmap == bytes(2)


def test_two_paddings_never_match() -> None:
    """Both sides of the bin are mostly padding, and only the common items match."""
    items = names("item", 3)
    ours, theirs = made(items, 60, 50), made([*items[1:], b"other"], 50, 60, receives=False)
    points, _ = exchanged(ours, theirs, 60, 50)
    assert len(points) == 60
    for worker in (ours, theirs):
        worker.check()
    match = ours.match(bitmap=True)
    assert int(match.found.sum()) == 2
    assert int.from_bytes(match.bitmap, "little").bit_count() == 2


@both_roles
def test_every_attempt_draws_fresh_secrets(receives: bool) -> None:
    """Even with the same bin sid, as after a bug, scalar, order and padding must make attempts unrelated."""
    items = names("item", 20)
    workers = [made(items, 60, 1, receives=receives) for _ in range(8)]
    assert len({bytes(worker._scalar) for worker in workers}) == 8
    assert len({worker.order_secret for worker in workers}) == 8
    assert len({worker._order.tobytes() for worker in workers}) == 8
    padding = [piece for worker in workers for piece in records(bytes(worker._padding), 32)]
    assert len(set(padding)) == len(padding) == 8 * 40
    points = [point for worker in workers for point in points_of(worker, 60)]
    assert len(set(points)) == len(points) == 8 * 60
    # With the same scalar as well, the points of items repeat and those of padding do not.
    same = [made(items, 60, 1, receives=receives, scalar=SCALARS[0]) for _ in range(2)]
    one, other = (set(points_of(worker, 60)) for worker in same)
    assert one & other == set(records(curve.hash_and_mask(items_of(items), T, SCALARS[0]), 32))


def test_padding_cannot_be_told_from_items() -> None:
    """Points of padding and points of items both pass a test of fairness, and their positions are random."""
    count = 3000
    worker = made(names("item", count), 2 * count, 1)
    sent = b"".join(worker.mask_own(start, start + 500) for start in range(0, 2 * count, 500))
    points = np.frombuffer(sent, np.uint8).reshape(-1, 32)
    is_padding = worker._order >= count
    assert int(is_padding.sum()) == count
    for kind in (is_padding, ~is_padding):
        check_fair(points[kind])
    check_unrelated(worker._order.tolist())


def check_fair(points: np.ndarray) -> None:
    """Check that the bits of points are like fair coins, and their lowest 7 bits like fair dice.

    The prime is just below 2^255, so all but the highest bits are fair.
    """
    coins = np.unpackbits(points, axis=1, bitorder="little")[:, :250]
    assert (np.abs(coins.sum(axis=0) - len(points) / 2) < DEVIATIONS * np.sqrt(len(points)) / 2).all()
    counts = np.bincount(points[:, 0] & 127, minlength=128)
    expected = len(points) / 128
    assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_limit(127)


# The checks ----------------------------------------------------------------------------------------------------


def lists(count: int = 20) -> tuple[Worker, list[bytes], list[bytes]]:
    """Return a receiver that has sent its points, these points, and honest points of a peer."""
    ours = made(names("ours", 5), 12, count)
    peer = made(names("theirs", count), count, 12, receives=False)
    return ours, points_of(ours, 12), points_of(peer, count)


def sent(worker: Worker, points: list[bytes]) -> None:
    for seq, (start, stop) in enumerate(spans(len(points))):
        worker.mask_peer(seq, b"".join(points[start:stop]))


def tokens_for(worker: Worker, count: int, *, changed: dict[int, int] | None = None) -> None:
    """Give a receiver arbitrary tokens; changed: which of them are copies of which others."""
    tokens = [bytes([i]) * 16 for i in range(count)]
    for at, other in (changed or {}).items():
        tokens[at] = tokens[other]
    for start, stop in spans(count):
        worker.keep_tokens(start, b"".join(tokens[start:stop]))


def refused(worker: Worker) -> str:
    with pytest.raises(PeerProtocolError) as caught:
        worker.check()
    assert caught.value.code == 76
    # The check wipes the scalar first, whatever it finds.
    assert bytes(worker._scalar) == WIPED
    return str(caught.value)


@on_each_backend
def test_honest_lists_pass() -> None:
    worker, _, points = lists()
    sent(worker, points)
    tokens_for(worker, 12)
    worker.check()
    assert worker.match().found.tolist() == [False] * 5


@on_each_backend
@pytest.mark.parametrize("at", [0, 7, 8, 19])
@pytest.mark.parametrize("which", [0, 11])
def test_a_point_of_ours_that_comes_back_is_found(at: int, which: int) -> None:
    """It is found whether it was the point of an item or of padding."""
    worker, own, points = lists()
    points[at] = own[which]
    sent(worker, points)
    tokens_for(worker, 12)
    assert "own points back" in refused(worker)


@on_each_backend
@both_roles
@pytest.mark.parametrize(("at", "other"), [(0, 1), (0, 19), (7, 8)])
def test_the_same_item_twice_is_found(at: int, other: int, receives: bool) -> None:
    worker = made(names("ours", 5), 12, 20, receives=receives)
    points = points_of(made(names("theirs", 20), 20, 12), 20)
    points_of(worker, 12)
    points[at] = points[other]
    sent(worker, points)
    if receives:
        tokens_for(worker, 12)
    assert "the same item" in refused(worker)


@pytest.mark.parametrize(("at", "other"), [(0, 1), (0, 11), (7, 8)])
def test_equal_tokens_are_found(at: int, other: int) -> None:
    worker, _, points = lists()
    sent(worker, points)
    tokens_for(worker, 12, changed={at: other})
    assert "two equal tokens" in refused(worker)


@on_each_backend
@both_roles
@pytest.mark.parametrize(
    ("octets", "reason"),
    [(bytes(32), "invalid"), (b"\xff" * 32, "invalid"), (b"\2" + bytes(31), "not on the curve")],
    ids=["small order", "not canonical", "twist"],
)
def test_invalid_points_are_refused_immediately(octets: bytes, reason: str, receives: bool) -> None:
    worker = made(names("ours", 5), 12, 20, receives=receives)
    points = points_of(made(names("theirs", 20), 20, 12), 20)
    with pytest.raises(PeerProtocolError) as caught:
        worker.mask_peer(0, b"".join([*points[:5], octets, *points[6:8]]))
    assert caught.value.code == 76
    assert reason in str(caught.value)


@both_roles
@pytest.mark.parametrize("at", [0, 700, 1999])
def test_one_point_of_the_twist_is_found_among_many_if_strict(at: int, receives: bool) -> None:
    """A sample of 64 among 2,000 misses it nearly always."""
    worker = Worker(T, bin_of(items_of([b"ours"])), 1, 2000, 2000, receives=receives, strict=True)
    points = curve.hash_and_mask(items_of(names("theirs", 2000)), T, SCALARS[1])
    worker.mask_peer(0, points)
    with pytest.raises(PeerProtocolError, match="not on the curve"):
        worker.mask_peer(0, points[: 32 * at] + b"\2" + bytes(31) + points[32 * (at + 1) :])


@both_roles
def test_an_own_point_off_the_curve_fails_the_self_check(receives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "hash_and_mask", lambda items, *_: (b"\2" + bytes(31)) * len(items))
    for items in ([b"a"], []):
        worker = made(items, 1, 1, receives=receives)
        with pytest.raises(SelfCheckError) as caught:
            worker.mask_own(0, 1)
        assert caught.value.code == 70


def test_nothing_is_matched_before_the_lists_are_complete() -> None:
    worker, _, points = lists()
    sent(worker, points)
    worker.keep_tokens(0, bytes(range(128)))
    with pytest.raises(LocalProtocolError):
        worker.match()
    sender = made(names("item", 3), 3, 3, receives=False)
    with pytest.raises(LocalProtocolError):
        sender.match()


# Matches -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    ours=st.sets(st.integers(0, 30), max_size=20),
    theirs=st.sets(st.integers(0, 30), max_size=20),
    padding=st.tuples(st.integers(0, 10), st.integers(0, 10)),
)
def test_matches_and_bitmap(ours: set[int], theirs: set[int], padding: tuple[int, int]) -> None:
    """Matches are in the order of the bin's items, the bitmap in that of the peer's points, which the peer can map."""
    n, m = len(ours) + padding[0], len(theirs) + padding[1]
    mine, yours = (items_of(b"%d" % i for i in sorted(each)) for each in (ours, theirs))
    receiver = made(mine.to_pylist(), n, m)
    sender = made(yours.to_pylist(), m, n, receives=False)
    secret, order = sender.order_secret, sender._order.tolist()
    exchanged(receiver, sender, n, m)
    for worker in (receiver, sender):
        worker.check()
    match = receiver.match(bitmap=True)
    in_order = [bin_of(items).take(np.arange(len(items), dtype=np.uint32)).to_pylist() for items in (mine, yours)]
    common = {b"%d" % i for i in ours & theirs}
    assert match.found.tolist() == [item in common for item in in_order[0]]
    assert match.bitmap == packed_bits([place < len(yours) and in_order[1][place] in common for place in order])
    assert apply_bitmap(match.bitmap, secret, len(yours), m).tolist() == [item in common for item in in_order[1]]
    assert receiver.match().bitmap == b""


def test_a_bitmap_that_marks_padding_is_refused() -> None:
    """A single bit of padding is refused, alone or together with correct bits."""
    secret, items, own = T, 5, 12
    order = secret_order(secret, own).tolist()
    good = [place < items for place in order]
    assert apply_bitmap(packed_bits(good), secret, items, own).tolist() == [True] * items
    assert apply_bitmap(bytes(2), secret, items, own).tolist() == [False] * items
    for j in (j for j, place in enumerate(order) if place >= items):
        for bits in (good, [False] * own):
            with pytest.raises(PeerProtocolError) as caught:
                apply_bitmap(packed_bits([*bits[:j], True, *bits[j + 1 :]]), secret, items, own)
            assert caught.value.code == 76
            assert "padding" in str(caught.value)
    # Without padding, no bit can be wrong.
    assert apply_bitmap(packed_bits([True] * 12), secret, 12, own).all()


# Secrets -------------------------------------------------------------------------------------------------------


@both_roles
def test_check_and_wipe_overwrite_the_scalar(receives: bool) -> None:
    """They overwrite it in place, and the worker holds no copy."""
    for end in (Worker.wipe, Worker.check):
        worker = made(names("item", 3), 3, 3, receives=receives)
        scalar = worker._scalar
        drawn = bytes(scalar)
        assert drawn != WIPED
        points_of(worker, 3)
        sent(worker, points_of(made(names("other", 3), 3, 3), 3))
        if receives:
            tokens_for(worker, 3)
        end(worker)
        assert worker._scalar is scalar
        assert scalar == WIPED
        held = chain.from_iterable(_octets(value) for value in vars(worker).values())
        assert not any(drawn in octets for octets in held)
        worker.wipe()


def _octets(value: object) -> list[bytes]:
    if isinstance(value, np.ndarray):
        return [value.tobytes()]
    return [bytes(value)] if isinstance(value, bytes | bytearray) else []


def test_a_check_frees_the_points() -> None:
    """After it a receiver holds only tokens, and a sender not even those."""
    receiver, sender = made(names("a", 3), 5, 4), made(names("a", 2), 4, 5, receives=False)
    exchanged(receiver, sender, 5, 4)
    for worker in (receiver, sender):
        worker.check()
        assert len(worker._lists.own_points) == len(worker._lists.peer_points) == 0
    assert len(sender._lists.peer_tokens) == 0
    assert receiver.match().found.sum() == 2


@both_roles
def test_no_repr_shows_a_secret(receives: bool) -> None:
    items = names("secret-item", 5)
    worker = made(items, 12, 12, receives=receives)
    peer = made(items, 12, 12, receives=not receives)
    exchanged(*((worker, peer) if receives else (peer, worker)), 12, 12)
    secrets = [
        worker.order_secret,
        bytes(worker._scalar),
        bytes(worker._padding)[:32],
        worker._lists.own_points.tobytes()[:32],
    ]
    secrets += [worker._lists.peer_tokens.tobytes()[:16], *items]
    shown = [worker, bin_of(items_of(items))]
    for each in (worker, peer):
        each.check()
    match = (worker if receives else peer).match(bitmap=True)
    # So long that no address of an object in memory has its digits.
    bitmap = bytes(range(0x90, 0xA0))
    shown += [match, Match(match.found, bitmap)]
    secrets.append(bitmap)
    for value in shown:
        for text in (repr(value), str(value), f"{value}"):
            assert "True" not in text
            for secret in secrets:
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
