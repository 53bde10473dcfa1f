"""Tests of the kernel in C on every CPU path: comparison with the reference, edge cases, and items of any length."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise, product
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import bounds

from psicli.core.errors import SelfCheckError
from psicli.curve import DST, packed_items, reference

try:
    from psicli.curve import _native
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)
from support.kernel.native import (
    ALICE,
    BOB,
    NINE,
    PATHS,
    PREFIX,
    SECRET,
    TEXT,
    P,
    Work,
    digests,
    expected_hash,
    hash_and_mask,
    hash_to_points,
    item_arguments,
    keyed_hash,
    keyed_hashes,
    on_every_path,
    small_work,
    split,
    u_bytes,
)

# Comparison with the reference --------------------------------------------------------------------------------------


@pytest.mark.sample(2)
@on_every_path
def test_random_items_and_points(path: str, work: Work) -> None:
    work.check(path, 0, work.count)


@pytest.mark.slow
def test_very_many_random_items_and_points() -> None:
    work = Work(seed=2, count=100_000)
    for path in PATHS:
        work.check(path, 0, work.count)


@on_every_path
def test_every_count(path: str, work: Work) -> None:
    """Some counts fill lanes, pairs of blocks or batches exactly; others are one more or one less."""
    lanes = bounds.PATHS[path].lanes
    counts = {0, 1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes + 1, 3 * lanes, 31 * lanes}
    counts |= {32 * lanes - 1, 32 * lanes, 32 * lanes + 1, 33 * lanes + 1, 64 * lanes + 1, 257}
    for count in counts:
        work.check(path, 5, count)


@on_every_path
def test_permuted_input_gives_permuted_output(path: str, work: Work) -> None:
    order = Random(path).sample(range(work.count), 600)
    points, masked, products = (
        b"".join(map(split(packed).__getitem__, order)) for packed in (work.points, work.masked, work.products)
    )
    keys, tokens = (b"".join(map(split(packed, 16).__getitem__, order)) for packed in (work.keys, work.tokens))
    assert hash_and_mask(path, work.items.take(pa.array(order))) == masked
    assert keyed_hashes(path, work.items.take(pa.array(order))) == keys
    assert _native.mask(path, points, BOB) == (products, [])
    assert _native.tokens(path, products, PREFIX) == tokens


@on_every_path
@pytest.mark.parametrize("scalar", [bytes(32), b"\xff" * 32, b"\1" + bytes(31), bytes(31) + b"\x80", b"\x55" * 32])
def test_special_scalars(path: str, scalar: bytes, work: Work) -> None:
    """The kernel clamps scalars: it ignores bits 0 to 2 and 255, and always sets bit 254."""
    points = memoryview(work.points)[: 32 * 40]
    assert _native.mask(path, points, scalar) == reference.mask(points, scalar)
    hashed = memoryview(work.hashed)[: 32 * 40]
    assert (
        _native.hash_and_mask(path, *item_arguments(work.items, 0, 40), PREFIX, DST, scalar)
        == (reference.mask(hashed, scalar)[0])
    )


@on_every_path
def test_random_scalars(path: str, work: Work) -> None:
    random = Random(path)
    for _ in range(100):
        scalar, start = random.randbytes(32), random.randrange(work.count - 9)
        points = memoryview(work.points)[32 * start : 32 * (start + 9)]
        assert _native.mask(path, points, scalar) == reference.mask(points, scalar)


# Edges --------------------------------------------------------------------------------------------------------------

# The points of order 8 on the curve. The other u of low order are 0, 1 and p - 1.
LOW_ORDER = [
    0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
]
# Points on the twist that have products.
TWIST = [u for u in range(2, 40) if not reference.on_curve(memoryview(u_bytes(u)))]
EDGES = [0, 1, 2, 9, P - 2, P - 1, P, P + 1, P + 2, P + 9, P + 18, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1]
EDGES += [2**254, 2**64 - 1, 2**64, P - 2**64, P ^ 2**63, P ^ 2**64, P ^ 2**200, *LOW_ORDER, *TWIST]


@on_every_path
def test_every_edge_in_every_lane(path: str) -> None:
    lanes = bounds.PATHS[path].lanes
    for lane in range(lanes):
        points = u_bytes(*[9] * lane, *EDGES, *EDGES[::-1])
        assert _native.mask(path, points, ALICE) == reference.mask(memoryview(points), ALICE)
    bad = _native.mask(path, u_bytes(*EDGES), ALICE)[1]
    assert bad == [i for i, u in enumerate(EDGES) if u >= P or u in (0, 1, P - 1, *LOW_ORDER)]


@on_every_path
def test_the_same_edge_in_all_lanes(path: str) -> None:
    count = 2 * bounds.PATHS[path].lanes + 1
    for u in EDGES:
        products, bad = reference.mask(memoryview(u_bytes(u)), BOB)
        assert _native.mask(path, u_bytes(u) * count, BOB) == (products * count, list(range(count)) if bad else [])
        assert _native.on_curve(path, u_bytes(u) * count) is reference.on_curve(memoryview(u_bytes(u)))


@on_every_path
def test_one_bad_point_among_good_ones(path: str, work: Work) -> None:
    """A bad point shares an inversion with the others of its batch, and must not affect them in any lane."""
    lanes = bounds.PATHS[path].lanes
    count = 34 * lanes
    points, products = split(work.points)[:count], split(work.products)[:count]
    places = [*range(2 * lanes), *range(31 * lanes, 34 * lanes)]
    for u, at in product([0, P + 9, LOW_ORDER[0]], places):
        found = _native.mask(path, b"".join([*points[:at], u_bytes(u), *points[at + 1 :]]), BOB)
        assert found == (b"".join([*products[:at], bytes(32), *products[at + 1 :]]), [at])


@on_every_path
def test_one_point_off_the_curve_among_good_ones(path: str, work: Work) -> None:
    lanes = bounds.PATHS[path].lanes
    for count, wrong in product([1, lanes, 3 * lanes + 1], [TWIST[0], P, P + 9, 2**255 + 9]):
        good = split(work.hashed)[:count]
        for at in range(count):
            assert not _native.on_curve(path, b"".join([*good[:at], u_bytes(wrong), *good[at + 1 :]]))


def partners_of_reference(points: bytes, other: bytes, signs: bytes) -> bytes | None:
    """Return what the reference computes, or None if a point has no partner."""
    try:
        return bytes(reference.partners(memoryview(points), other, signs))
    except SelfCheckError:
        return None


@on_every_path
def test_partners_of_every_edge_in_every_lane(path: str, work: Work) -> None:
    """Points on the twist have partners if the other point is on the twist, too."""
    lanes = bounds.PATHS[path].lanes
    found = 0
    for u, other, sign in product(EDGES, [NINE, u_bytes(TWIST[0]), u_bytes(pow(4, -1, P)), u_bytes(P)], b"\0\1"):
        expected = partners_of_reference(u_bytes(u), other, bytes([sign]))
        good = split(work.points if other == u_bytes(TWIST[0]) else work.hashed)
        for lane in {0, lanes - 1} if expected is None else range(lanes):
            if expected is None:
                points = b"".join([*good[:lane], u_bytes(u), *good[lane : lanes - 1]])
                with pytest.raises(ArithmeticError):
                    _native.partners(path, points, other, bytes([sign]) * lanes)
            else:
                points = u_bytes(u) * (lane + 1)
                assert _native.partners(path, points, other, bytes([sign]) * (lane + 1)) == expected * (lane + 1)
                found += 1
    assert found > 20


@on_every_path
def test_one_point_without_partner_among_others(path: str, work: Work) -> None:
    """It shares an inversion with the others; in any lane, it must be found."""
    lanes = bounds.PATHS[path].lanes
    count = 34 * lanes
    good, signs = split(work.hashed)[:count], work.signs[:count]
    assert _native.partners(path, b"".join(good), NINE, signs) == work.partners[: 32 * count]
    for wrong, at in product([9, P + 4, TWIST[0]], [*range(lanes), *range(33 * lanes, 34 * lanes)]):
        with pytest.raises(ArithmeticError, match="no partner"):
            _native.partners(path, b"".join([*good[:at], u_bytes(wrong), *good[at + 1 :]]), NINE, signs)


@on_every_path
def test_the_sign_of_one_point_does_not_affect_others(path: str, work: Work) -> None:
    count = 2 * bounds.PATHS[path].lanes + 1
    points, signs = work.hashed[: 32 * count], work.signs[:count]
    expected = split(bytes(work.partners))[:count]
    for at in range(count):
        other = bytes([*signs[:at], signs[at] ^ 1, *signs[at + 1 :]])
        found = split(bytes(_native.partners(path, points, NINE, other)))
        assert [i for i in range(count) if found[i] != expected[i]] == [at]


@on_every_path
def test_equal_items_and_points_in_all_lanes(path: str, work: Work) -> None:
    count = 2 * bounds.PATHS[path].lanes + 3
    items = work.items.take(pa.array([7] * count))
    assert hash_and_mask(path, items) == work.masked[7 * 32 : 8 * 32] * count
    assert _native.mask(path, work.points[:32] * count, BOB) == (work.products[:32] * count, [])


# Items of any length, in any layout ---------------------------------------------------------------------------------


@on_every_path
@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 400), max_size=20))
def test_items_of_any_length(path: str, lengths: list[int]) -> None:
    """The lanes hash messages of different lengths, so some end before others."""
    values = [TEXT[at : at + length] for at, length in enumerate(lengths)]
    assert split(hash_to_points(path, packed_items(values))) == [expected_hash(value) for value in values]
    assert split(keyed_hashes(path, packed_items(values)), 16) == [keyed_hash(value) for value in values]


@on_every_path
def test_keyed_hashes_of_every_length(path: str) -> None:
    values = [TEXT[:length] for length in range(300)]
    assert split(keyed_hashes(path, packed_items(values)), 16) == [keyed_hash(value) for value in values]


@on_every_path
def test_digests_of_every_size_after_every_prefix(path: str) -> None:
    """Messages around the ends of SHA-256's blocks, and around the longest that is copied as a whole."""
    items = packed_items([TEXT[:length] for length in (0, 1, 11, 54, 55, 56, 63, 64, 119, 128, 150, 183, 184, 1000)])
    for length in range(129):
        size = 1 + length % 32
        expected = reference.digests(items, TEXT[:length], size)
        assert digests(path, TEXT[:length], size, items) == expected, length


@on_every_path
def test_a_very_long_item_among_short_ones(path: str) -> None:
    values = [b"", b"short", TEXT, TEXT[:128], b"", TEXT[:4000], b"x", TEXT[: 128 - 33], b"last"]
    for first in range(len(values)):
        rotated = values[first:] + values[:first]
        assert split(hash_to_points(path, packed_items(rotated))) == [expected_hash(value) for value in rotated]
        assert split(keyed_hashes(path, packed_items(rotated)), 16) == [keyed_hash(value) for value in rotated]


@on_every_path
@settings(deadline=None, max_examples=20)
@given(splits=st.lists(st.integers(0, 120), max_size=6).map(sorted))
def test_parts_make_up_the_whole(path: str, splits: list[int]) -> None:
    whole = small_work()
    for start, stop in pairwise([0, *splits, whole.count]):
        whole.check(path, start, stop - start)


@on_every_path
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_arrays_and_their_slices(path: str, kind: Any, work: Work) -> None:
    items = work.items.slice(0, 100).cast(kind)
    for start, count in [(0, 100), (1, 99), (37, 20), (99, 1), (100, 0), (50, 0)]:
        part = items.slice(start, count)
        expected = work.hashed[32 * start : 32 * (start + count)]
        assert hash_to_points(path, part) == expected
        assert keyed_hashes(path, part) == work.keys[16 * start : 16 * (start + count)]
        # Copies of the slice may omit the data before it, and their offsets may or may not start at zero.
        assert hash_to_points(path, pa.concat_arrays([part])) == expected
        assert hash_to_points(path, part.take(pa.array(range(count), pa.int64()))) == expected


@on_every_path
@pytest.mark.parametrize(("width", "kind"), [(4, "i"), (8, "q")])
def test_no_items_and_no_buffers(path: str, width: int, kind: str) -> None:
    for offsets, data in product([b"", struct.pack(f"={kind}", 0), None], [b"", None]):
        assert _native.hash_to_points(path, offsets, width, 0, 0, data, PREFIX, DST) == b""
        assert _native.hash_and_mask(path, offsets, width, 0, 0, data, PREFIX, DST, ALICE) == b""
        assert _native.digests(path, offsets, width, 0, 0, data, SECRET, 16) == b""
    empty = _native.hash_to_points(path, bytes(4 * width), width, 0, 3, None, PREFIX, DST)
    assert split(empty) == [expected_hash(b"")] * 3
    assert _native.digests(path, bytes(4 * width), width, 0, 3, None, SECRET, 16) == 3 * keyed_hash(b"")


@on_every_path
def test_every_length_of_prefix_and_dst(path: str) -> None:
    items = packed_items([b"item"])
    for size in range(256):
        found = _native.hash_to_points(path, *item_arguments(items), PREFIX, TEXT[:size])
        assert found == expected_hash(b"item", PREFIX, TEXT[:size]), size
    points = small_work().points[: 32 * 19]
    for size in range(200):
        found = _native.hash_to_points(path, *item_arguments(items), TEXT[:size], DST)
        assert found == expected_hash(b"item", TEXT[:size]), size
        assert _native.tokens(path, points, TEXT[:size]) == reference.tokens(memoryview(points), TEXT[:size]), size


@on_every_path
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, pa.py_buffer, lambda b: pa.py_buffer(bytearray(b))])
def test_every_kind_of_buffer(path: str, kind: Callable[[bytes], Any]) -> None:
    whole = small_work()
    offsets, width, start, count, data = item_arguments(whole.items)
    offsets, data, prefix, dst = (kind(bytes(buffer)) for buffer in (offsets, data, PREFIX, DST))
    assert _native.hash_to_points(path, offsets, width, start, count, data, prefix, dst) == whole.hashed
    found = _native.hash_and_mask(path, offsets, width, start, count, data, prefix, dst, kind(ALICE))
    assert found == whole.masked
    assert _native.digests(path, offsets, width, start, count, data, kind(SECRET), 16) == whole.keys
    assert _native.mask(path, kind(whole.points), kind(BOB)) == (whole.products, [])
    assert _native.tokens(path, kind(whole.products), prefix) == whole.tokens
    assert _native.partners(path, kind(whole.hashed), kind(NINE), kind(whole.signs)) == whole.partners
    assert _native.on_curve(path, kind(whole.hashed))
    assert not _native.on_curve(path, kind(whole.points))


@on_every_path
def test_points_at_any_address(path: str) -> None:
    whole = small_work()
    for shift in range(1, 64, 7):
        moved = memoryview(bytes(shift) + whole.points)[shift:]
        assert _native.mask(path, moved, BOB) == (whole.products, [])
