"""The kernel in C on every CPU path: its field at the bounds of its limbs, its curve beside the reference."""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import bounds

from psicli.curve import DST, packed_items, reference

try:
    from psicli.curve import _native
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)

P = 2**255 - 19
PATHS = _native.paths()
PREFIX = bytes(range(32)) + b"\x01"
ALICE, BOB = b"\x77" * 32, b"\x5d" * 32
SECRET = b"\x3a" * 32

on_every_path = pytest.mark.parametrize("path", PATHS)


def split(packed: bytes, size: int = 32) -> list[bytes]:
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def u_bytes(*us: int) -> bytes:
    return b"".join(u.to_bytes(32, "little") for u in us)


# Which paths there are --------------------------------------------------------------------------------------------


def test_every_path_of_this_cpu_is_tested() -> None:
    """By what the kernel of the operating system says of the CPU, so that none is left out in silence."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo here")
    flags = next((set(line.split()) for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), set())
    needed = {"avx512ifma": {"avx512f", "avx512ifma"}, "avx512": {"avx512f"}, "avx2": {"avx2"}, "portable": set()}
    assert tuple(name for name, flags_needed in needed.items() if flags_needed <= flags) == PATHS
    assert set(needed) == set(bounds.PATHS)


# The field, limb by limb ------------------------------------------------------------------------------------------

# What a field function is, modulo p.
VALUES: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "square": lambda a, b: a * a,
    "multiply_small": lambda a, b: a * b,
    "carry": lambda a, b: a,
    "reduce": lambda a, b: a,
}
SMALL = [0, 1, 2, 19, 121665, 486662, 2**31, 2**32 - 1]

on_every_operation = pytest.mark.parametrize("operation", VALUES)

Limbs = list[int]


def largest_operand(field: bounds.Field, operation: str) -> Limbs:
    if operation == "carry":
        return [field.carried] * len(field.bits)
    return list(field.loose if operation in ("multiply", "square", "multiply_small") else field.tight)


def largest_result(field: bounds.Field, operation: str) -> Limbs:
    if operation == "reduce":
        return [(1 << bits) - 1 for bits in field.bits]
    return list(field.loose if operation in ("add", "subtract") else field.tight)


def run_field(path: str, operation: str, first: list[Limbs], second: list[Limbs]) -> list[Limbs]:
    """Run a field function on the limbs of one element a lane."""

    def pack(elements: list[Limbs]) -> bytes:
        return b"".join(struct.pack(f"={len(limb)}Q", *limb) for limb in zip(*elements, strict=True))

    lanes = bounds.PATHS[path].lanes
    limbs = struct.iter_unpack(f"={lanes}Q", _native.field(path, operation, pack(first), pack(second)))
    return [list(element) for element in zip(*limbs, strict=True)]


def check_field(path: str, operation: str, first: list[Limbs], second: list[Limbs]) -> None:
    """Run it and compare every lane with Python's integers, its limbs with what the header promises."""
    field = bounds.PATHS[path].field
    most = largest_result(field, operation)
    results = run_field(path, operation, first, second)
    for lane, (a, b, result) in enumerate(zip(first, second, results, strict=True)):
        right = second[0][0] if operation == "multiply_small" else field.value(b)
        expected = VALUES[operation](field.value(a), right) % P
        found = field.value(result)
        where = (operation, lane, a, b, result)
        assert found % P == expected, where
        assert operation != "reduce" or found == expected, where
        assert all(limb <= bound for limb, bound in zip(result, most, strict=True)), where


def corners(most: Limbs) -> list[Limbs]:
    """Return all limbs at their least, all at their most, and each alone at the other end."""
    least = [0] * len(most)
    ends = (least, most), (most, least)
    alone = [[*rest[:i], end[i], *rest[i + 1 :]] for rest, end in ends for i in range(len(most))]
    return [least, most, *alone]


def small_factor(number: int, field: bounds.Field) -> Limbs:
    return [number] + [0] * (len(field.bits) - 1)


def second_operands(field: bounds.Field, operation: str) -> list[Limbs]:
    if operation == "multiply_small":
        return [small_factor(number, field) for number in SMALL]
    if operation in ("square", "carry", "reduce"):
        return [[0] * len(field.bits)]
    return corners(largest_operand(field, operation))


@on_every_path
@on_every_operation
def test_every_limb_at_its_least_and_most_in_all_lanes(path: str, operation: str) -> None:
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    firsts, seconds = corners(largest_operand(field, operation)), second_operands(field, operation)
    for first, second in product(firsts, seconds):
        check_field(path, operation, [first] * lanes, [second] * lanes)


def random_limbs(random: Random, most: Limbs) -> Limbs:
    """Return limbs within their bounds, of all magnitudes."""
    return [random.choice([random.randint(0, bound), bound - random.getrandbits(random.randrange(16)),
                           random.getrandbits(random.randrange(bound.bit_length()))]) for bound in most]  # fmt: skip


def some_second(random: Random, field: bounds.Field, operation: str) -> Limbs:
    if operation == "multiply_small":
        return small_factor(random.choice([*SMALL, random.getrandbits(32)]), field)
    return random_limbs(random, largest_operand(field, operation))


@on_every_path
@on_every_operation
@pytest.mark.parametrize("others", ["zero", "random"])
def test_every_limb_at_its_least_and_most_in_each_lane_alone(path: str, operation: str, others: str) -> None:
    """So that a number that strays into another lane, or comes from it, is seen."""
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    random, most = Random(others), largest_operand(field, operation)
    for lane, first in product(range(lanes), corners(most)):
        firsts, seconds = ([[0] * len(most) for _ in range(lanes)] for _ in range(2))
        if others == "random":
            firsts, seconds = ([random_limbs(random, most) for _ in range(lanes)] for _ in range(2))
        firsts[lane], seconds[lane] = first, random.choice(second_operands(field, operation))
        if operation == "multiply_small":
            seconds = [seconds[lane]] * lanes
        check_field(path, operation, firsts, seconds)


@on_every_path
@on_every_operation
def test_random_limbs_within_their_bounds(path: str, operation: str) -> None:
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    random, most = Random(path + operation), largest_operand(field, operation)
    for _ in range(400 // lanes):
        firsts = [random_limbs(random, most) for _ in range(lanes)]
        check_field(path, operation, firsts, [some_second(random, field, operation) for _ in range(lanes)])


@on_every_path
@settings(deadline=None)
@given(data=st.data())
def test_any_limbs_within_their_bounds(path: str, data: st.DataObject) -> None:
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    operation = data.draw(st.sampled_from(sorted(VALUES)))
    element = st.tuples(*(st.integers(0, bound) for bound in largest_operand(field, operation))).map(list)
    elements = st.lists(element, min_size=lanes, max_size=lanes)
    seconds = elements
    if operation == "multiply_small":
        seconds = st.integers(0, 2**32 - 1).map(lambda number: [small_factor(number, field)] * lanes)
    check_field(path, operation, data.draw(elements), data.draw(seconds))


def representations(field: bounds.Field, value: int) -> list[Limbs]:
    """Return the limbs of a value within their widths, then with one lent from each limb to the next lower ones."""
    found = [field.limbs(value)]
    for i in range(len(field.bits) - 1, 0, -1):
        limbs = list(found[-1])
        limbs[i] -= 1
        limbs[i - 1] += 1 << field.bits[i - 1]
        if limbs[i] >= 0 and limbs[i - 1] <= field.tight[i - 1]:
            found.append(limbs)
    return found


@on_every_path
def test_reduce_around_p(path: str) -> None:
    """Whatever the limbs a value comes in; 2p - 1, which no tight limbs can say, is the largest that is reduced."""
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    values = [0, 1, 18, 19, 20, P - 1, P, P + 1, P + 18, P + 19, P + 20, 2**255 - 1, 2**255 + 18, 2 * P - 1]
    values += [2**254, 2**255 - 2**230, field.value(list(field.tight)), field.value(list(field.tight)) - 1]
    elements = [limbs for value in values for limbs in representations(field, value)]
    assert len(elements) > 2 * len(values)
    assert {field.value(limbs) for limbs in elements} == set(values)
    zero = [0] * len(field.bits)
    for i, lane in product(range(len(elements)), range(lanes)):
        around = [elements[(i + at - lane) % len(elements)] for at in range(lanes)]
        check_field(path, "reduce", around, [zero] * lanes)
        check_field(path, "reduce", [elements[i] if at == lane else zero for at in range(lanes)], [zero] * lanes)


# Beside the reference ---------------------------------------------------------------------------------------------


def keyed_hash(item: bytes) -> bytes:
    return sha256(SECRET + item).digest()[:16]


class Work:
    """Random items and points, and what the reference makes of them."""

    def __init__(self, seed: int, count: int) -> None:
        random = Random(seed)
        self.count = count
        self.items = packed_items([random.randbytes(random.randrange(200)) for _ in range(count)])
        self.hashed = reference.hash_to_points(self.items, PREFIX, DST)
        self.masked, bad = reference.mask(memoryview(self.hashed), ALICE)
        assert bad == []
        # Half of them are on the curve and half on its twist.
        self.points = b"".join(random.randbytes(31) + bytes([random.randrange(128)]) for _ in range(count))
        self.products, bad = reference.mask(memoryview(self.points), BOB)
        assert bad == []
        self.tokens = reference.tokens(memoryview(self.products), PREFIX)
        self.keys = b"".join(keyed_hash(item) for item in self.items.to_pylist())

    def check(self, path: str, start: int, count: int) -> None:
        """Have a path compute a part of it."""
        points = memoryview(self.points)[32 * start : 32 * (start + count)]
        assert hash_to_points(path, self.items, start, count) == self.hashed[32 * start : 32 * (start + count)]
        assert hash_and_mask(path, self.items, start, count) == self.masked[32 * start : 32 * (start + count)]
        products, bad = _native.mask(path, points, BOB)
        assert (products, bad) == (self.products[32 * start : 32 * (start + count)], [])
        assert _native.tokens(path, products, PREFIX) == self.tokens[16 * start : 16 * (start + count)]
        assert keyed_hashes(path, self.items, start, count) == self.keys[16 * start : 16 * (start + count)]
        assert _native.on_curve(path, self.hashed[32 * start : 32 * (start + count)])
        assert _native.on_curve(path, points) is reference.on_curve(points)


def item_arguments(items: pa.Array, start: int = 0, count: int | None = None) -> tuple[Any, ...]:
    """Return what the kernel takes of an array of items: offsets, their width, start, count, data."""
    _, offsets, data = items.buffers()
    width = {pa.binary(): 4, pa.large_binary(): 8}[items.type]
    return offsets, width, items.offset + start, len(items) - start if count is None else count, data


def hash_to_points(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.hash_to_points(path, *item_arguments(items, start, count), PREFIX, DST)


def hash_and_mask(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.hash_and_mask(path, *item_arguments(items, start, count), PREFIX, DST, ALICE)


def keyed_hashes(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.keyed_hashes(path, *item_arguments(items, start, count), SECRET)


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(seed=1, count=2000)


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
    """Those that fill lanes, pairs of blocks and batches, and those that do not quite."""
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
    """Clamping is the kernel's: bits 0 to 2 and 255 do not count, bit 254 is always set."""
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


# Edges ------------------------------------------------------------------------------------------------------------

# Of order 8 and 4 on the curve, and of order 4 on the twist; 0, 1 and p - 1 are the other u of low order.
LOW_ORDER = [
    0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
]
# On the twist, with products.
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
    """In every lane at the ends of batches: all others share an inversion with it, and must not see it."""
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


@on_every_path
def test_equal_items_and_points_in_all_lanes(path: str, work: Work) -> None:
    count = 2 * bounds.PATHS[path].lanes + 3
    items = work.items.take(pa.array([7] * count))
    assert hash_and_mask(path, items) == work.masked[7 * 32 : 8 * 32] * count
    assert _native.mask(path, work.points[:32] * count, BOB) == (work.products[:32] * count, [])


# Items of any length, in any layout -------------------------------------------------------------------------------

TEXT = Random(3).randbytes(70_000)


@cache
def expected_hash(item: bytes, prefix: bytes = PREFIX, dst: bytes = DST) -> bytes:
    return reference.hash_to_points(packed_items([item]), prefix, dst)


@on_every_path
@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 400), max_size=20))
def test_items_of_any_length(path: str, lengths: list[int]) -> None:
    """Side by side in the lanes, where one message ends before another."""
    values = [TEXT[at : at + length] for at, length in enumerate(lengths)]
    assert split(hash_to_points(path, packed_items(values))) == [expected_hash(value) for value in values]
    assert split(keyed_hashes(path, packed_items(values)), 16) == [keyed_hash(value) for value in values]


@on_every_path
def test_keyed_hashes_of_every_length(path: str) -> None:
    values = [TEXT[:length] for length in range(300)]
    assert split(keyed_hashes(path, packed_items(values)), 16) == [keyed_hash(value) for value in values]


@on_every_path
def test_a_very_long_item_among_short_ones(path: str) -> None:
    values = [b"", b"short", TEXT, TEXT[:128], b"", TEXT[:4000], b"x", TEXT[: 128 - 33], b"last"]
    for turn in range(len(values)):
        turned = values[turn:] + values[:turn]
        assert split(hash_to_points(path, packed_items(turned))) == [expected_hash(value) for value in turned]
        assert split(keyed_hashes(path, packed_items(turned)), 16) == [keyed_hash(value) for value in turned]


@on_every_path
@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 120), max_size=6).map(sorted))
def test_parts_make_up_the_whole(path: str, cuts: list[int]) -> None:
    whole = small_work()
    for start, stop in pairwise([0, *cuts, whole.count]):
        whole.check(path, start, stop - start)


@cache
def small_work() -> Work:
    return Work(seed=4, count=120)


@on_every_path
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_arrays_and_their_slices(path: str, kind: Any, work: Work) -> None:
    items = work.items.slice(0, 100).cast(kind)
    for start, count in [(0, 100), (1, 99), (37, 20), (99, 1), (100, 0), (50, 0)]:
        part = items.slice(start, count)
        expected = work.hashed[32 * start : 32 * (start + count)]
        assert hash_to_points(path, part) == expected
        assert keyed_hashes(path, part) == work.keys[16 * start : 16 * (start + count)]
        # The data before the slice may be left out too: offsets then begin above zero, or the array has its own.
        assert hash_to_points(path, pa.concat_arrays([part])) == expected
        assert hash_to_points(path, part.take(pa.array(range(count), pa.int64()))) == expected


@on_every_path
@pytest.mark.parametrize(("width", "kind"), [(4, "i"), (8, "q")])
def test_no_items_and_no_buffers(path: str, width: int, kind: str) -> None:
    for offsets, data in product([b"", struct.pack(f"={kind}", 0), None], [b"", None]):
        assert _native.hash_to_points(path, offsets, width, 0, 0, data, PREFIX, DST) == b""
        assert _native.hash_and_mask(path, offsets, width, 0, 0, data, PREFIX, DST, ALICE) == b""
        assert _native.keyed_hashes(path, offsets, width, 0, 0, data, SECRET) == b""
    empty = _native.hash_to_points(path, bytes(4 * width), width, 0, 3, None, PREFIX, DST)
    assert split(empty) == [expected_hash(b"")] * 3
    assert split(_native.keyed_hashes(path, bytes(4 * width), width, 0, 3, None, SECRET), 16) == [keyed_hash(b"")] * 3


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
    assert _native.keyed_hashes(path, offsets, width, start, count, data, kind(SECRET)) == whole.keys
    assert _native.mask(path, kind(whole.points), kind(BOB)) == (whole.products, [])
    assert _native.tokens(path, kind(whole.products), prefix) == whole.tokens
    assert _native.on_curve(path, kind(whole.hashed))
    assert not _native.on_curve(path, kind(whole.points))


@on_every_path
def test_points_at_any_address(path: str) -> None:
    whole = small_work()
    for shift in range(1, 64, 7):
        moved = memoryview(bytes(shift) + whole.points)[shift:]
        assert _native.mask(path, moved, BOB) == (whole.products, [])


# What is wrong ----------------------------------------------------------------------------------------------------

# Offsets, start, count, size of the data, what is said of them.
WRONG_OFFSETS: dict[str, Callable[[int], tuple[list[int], int, int, int, str]]] = {
    "descending": lambda top: ([0, 5, 3], 0, 2, 10, "ascend"),
    "descending to below zero": lambda top: ([0, 5, -1], 0, 2, 10, "ascend"),
    "negative": lambda top: ([-1, 2], 0, 1, 10, "ascend"),
    "the most negative": lambda top: ([-top - 1, 0], 0, 1, 10, "ascend"),
    "one beyond the data": lambda top: ([0, 11], 0, 1, 10, "within the data"),
    "far beyond the data": lambda top: ([0, top], 0, 1, 10, "within the data"),
    "both beyond the data": lambda top: ([top, top], 0, 1, 10, "within the data"),
    "beyond no data": lambda top: ([0, 1], 0, 1, 0, "within the data"),
    "no offset after the last item": lambda top: ([0, 1], 0, 2, 10, "too few"),
    "no offset at all": lambda top: ([], 0, 1, 10, "too few"),
    "start at the end": lambda top: ([0, 1, 2], 2, 1, 10, "too few"),
    "start beyond the end": lambda top: ([0, 1, 2], 3, 1, 10, "too few"),
    "start far beyond the end": lambda top: ([0, 1, 2], 2**62, 1, 10, "too few"),
    "negative start": lambda top: ([0, 1, 2], -1, 1, 10, "range"),
    "negative count": lambda top: ([0, 1, 2], 0, -1, 10, "range"),
    "start and count that overflow": lambda top: ([0, 1, 2], 2**63 - 1, 2**63 - 1, 10, "range"),
    "a count whose results overflow": lambda top: ([0, 1, 2], 0, 2**63 - 1, 10, "range"),
    "a count whose offsets overflow": lambda top: ([0, 1, 2], 0, 2**61, 10, "too few"),
    "a start that overflows": lambda top: ([0, 1, 2], 2**63 - 1, 1, 10, "range"),
}


@on_every_path
@pytest.mark.parametrize(("width", "kind"), [(4, "i"), (8, "q")])
@pytest.mark.parametrize("wrong", WRONG_OFFSETS)
def test_wrong_offsets(path: str, width: int, kind: str, wrong: str) -> None:
    offsets, start, count, size, told = WRONG_OFFSETS[wrong](2 ** (8 * width - 1) - 1)
    arguments = path, struct.pack(f"={len(offsets)}{kind}", *offsets), width, start, count, bytes(size)
    with pytest.raises(ValueError, match=told):
        _native.hash_to_points(*arguments, PREFIX, DST)
    with pytest.raises(ValueError, match=told):
        _native.hash_and_mask(*arguments, PREFIX, DST, ALICE)
    with pytest.raises(ValueError, match=told):
        _native.keyed_hashes(*arguments, SECRET)


@on_every_path
@settings(deadline=None, max_examples=200)
@given(offsets=st.lists(st.integers(-2, 12), max_size=6), start=st.integers(-2, 7), count=st.integers(-2, 7))
def test_any_offsets_are_right_or_refused(path: str, offsets: list[int], start: int, count: int) -> None:
    used = offsets[start : start + count + 1]
    right = start >= 0 and count >= 0 and (count == 0 or len(used) == count + 1)
    right = right and (count == 0 or (used == sorted(used) and used[0] >= 0 and used[-1] <= 10))
    for width, kind in ((4, "i"), (8, "q")):
        packed = struct.pack(f"={len(offsets)}{kind}", *offsets)
        arguments = path, packed, width, start, count, TEXT[:10], PREFIX, DST
        if right:
            expected = [expected_hash(TEXT[first:last]) for first, last in pairwise(used)] if count else []
            assert split(_native.hash_to_points(*arguments)) == expected
        else:
            with pytest.raises(ValueError, match=r"offsets|range of items"):
                _native.hash_to_points(*arguments)


def wrong_calls(path: str, buffer: Any) -> list[tuple[type[Exception], Callable[[], object]]]:
    """Return calls that must raise, each with `buffer`, of 64 bytes, in each of its places at least once."""
    n, good = _native, struct.pack("=2q", 0, 1)
    size = 8 * bounds.PATHS[path].lanes * len(bounds.PATHS[path].field.bits)
    return [
        (ValueError, lambda: n.mask(path, bytes(31), ALICE)),
        (ValueError, lambda: n.mask(path, bytes(65), ALICE)),
        (ValueError, lambda: n.mask(path, buffer, bytes(31))),
        (ValueError, lambda: n.mask(path, buffer, b"")),
        (ValueError, lambda: n.mask(path, buffer, buffer)),
        (ValueError, lambda: n.mask("sse", buffer, ALICE)),
        (ValueError, lambda: n.mask("", buffer, ALICE)),
        (TypeError, lambda: n.mask(path, buffer, "scalar")),
        (TypeError, lambda: n.mask(path, buffer, None)),
        (TypeError, lambda: n.mask(path, buffer)),
        (BufferError, lambda: n.mask(path, memoryview(bytes(128))[::2], ALICE)),
        (ValueError, lambda: n.tokens(path, bytes(33), PREFIX)),
        (TypeError, lambda: n.tokens(path, buffer)),
        (ValueError, lambda: n.tokens("sse", buffer, PREFIX)),
        (TypeError, lambda: n.tokens(path, buffer, 7)),
        (ValueError, lambda: n.on_curve(path, bytes(1))),
        (ValueError, lambda: n.on_curve("sse", buffer)),
        (TypeError, lambda: n.on_curve(path, "points")),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 1, buffer, buffer, bytes(256))),
        (ValueError, lambda: n.hash_to_points(path, good, 5, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 0, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, memoryview(bytes(1) + good)[1:], 8, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 2, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 1, None, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points("sse", good, 8, 0, 1, buffer, buffer, buffer)),
        (OverflowError, lambda: n.hash_to_points(path, buffer, 8, 2**63, 1, buffer, buffer, buffer)),
        (TypeError, lambda: n.hash_to_points(path, buffer, 8, 0, 1, buffer, buffer, "dst")),
        (ValueError, lambda: n.hash_and_mask(path, good, 8, 0, 1, buffer, buffer, buffer, bytes(33))),
        (ValueError, lambda: n.hash_and_mask(path, good, 8, 0, 2, buffer, buffer, buffer, ALICE)),
        (TypeError, lambda: n.hash_and_mask(path, buffer, 8, 0, 1, buffer, buffer, buffer, 1.5)),
        (ValueError, lambda: n.keyed_hashes(path, good, 8, 0, 1, buffer, buffer)),
        (ValueError, lambda: n.keyed_hashes(path, good, 8, 0, 2, buffer, SECRET)),
        (ValueError, lambda: n.keyed_hashes("sse", good, 8, 0, 1, buffer, SECRET)),
        (TypeError, lambda: n.keyed_hashes(path, buffer, 8, 0, 1, buffer, "secret")),
        (ValueError, lambda: n.field(path, "divide", bytes(size), bytes(size))),
        (ValueError, lambda: n.field(path, "add", bytes(size - 8), bytes(size))),
        (ValueError, lambda: n.field(path, "add", bytes(size), bytes(size + 8))),
        (ValueError, lambda: n.field("sse", "add", bytes(size), bytes(size))),
        (TypeError, lambda: n.field(path, "add", buffer, [])),
    ]


@on_every_path
def test_wrong_arguments(path: str) -> None:
    for error, call in wrong_calls(path, bytes(64)):
        with pytest.raises(error):
            call()


def rises(call: Callable[[], object], times: int) -> tuple[int, int]:
    """Return by how much the blocks of Python's memory, and the references to None, rise over so many calls."""
    call()
    blocks, nones = sys.getallocatedblocks(), sys.getrefcount(None)
    for _ in range(times):
        call()
    return sys.getallocatedblocks() - blocks, sys.getrefcount(None) - nones


@on_every_path
def test_nothing_is_left_behind_by_calls_that_fail(path: str) -> None:
    buffer = bytearray(64)

    def fail() -> None:
        for error, call in calls:
            try:
                call()
            except error:
                continue
            raise AssertionError("did not fail")

    calls = wrong_calls(path, buffer)
    references = sys.getrefcount(buffer)
    # 10,000 failures and more.
    assert max(rises(fail, times=300)) < 100
    assert sys.getrefcount(buffer) == references
    # Resizing fails while somebody holds a buffer.
    buffer.append(0)


@on_every_path
def test_nothing_is_left_behind_by_calls_that_succeed(path: str) -> None:
    points = bytearray(u_bytes(9, 0, P))
    items = bytearray(struct.pack("=3q", 0, 1, 2))
    size = 8 * bounds.PATHS[path].lanes * len(bounds.PATHS[path].field.bits)

    def succeed() -> None:
        assert _native.mask(path, points, ALICE)[1] == [1, 2]
        _native.tokens(path, points, PREFIX)
        _native.on_curve(path, points)
        _native.hash_to_points(path, items, 8, 0, 2, points, PREFIX, DST)
        _native.hash_and_mask(path, items, 8, 0, 2, points, PREFIX, DST, ALICE)
        _native.keyed_hashes(path, items, 8, 0, 2, points, SECRET)
        _native.field(path, "add", bytes(size), bytes(size))
        _native.paths()

    references = [sys.getrefcount(of) for of in (points, items, ALICE, SECRET, PREFIX, DST, True, False)]
    assert max(rises(succeed, times=1000)) < 100
    # Indices that Python does not keep anyway, as it does those below 257.
    assert max(rises(lambda: _native.mask(path, bytes(32 * 300), ALICE), times=10)) < 100
    assert [sys.getrefcount(of) for of in (points, items, ALICE, SECRET, PREFIX, DST, True, False)] == references
    points.append(0)
    items.append(0)


# Threads ----------------------------------------------------------------------------------------------------------


@on_every_path
def test_two_threads_at_once_compute_the_same(path: str) -> None:
    whole = small_work()
    together, failures = threading.Barrier(2), []

    def run() -> None:
        try:
            for _ in range(5):
                together.wait(60)
                whole.check(path, 0, whole.count)
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    run()
    thread.join(60)
    assert failures == []


def long_calls(path: str, work: Work) -> dict[str, Callable[[], object]]:
    items = item_arguments(work.items)
    return {
        "mask": lambda: _native.mask(path, work.points, ALICE),
        "hash_to_points": lambda: _native.hash_to_points(path, *items, PREFIX, DST),
        "hash_and_mask": lambda: _native.hash_and_mask(path, *items, PREFIX, DST, ALICE),
        "tokens": lambda: _native.tokens(path, work.points * 10, PREFIX),
        "on_curve": lambda: _native.on_curve(path, work.hashed),
        "keyed_hashes": lambda: _native.keyed_hashes(path, *items, SECRET),
    }


@pytest.fixture
def no_switching() -> Iterator[None]:
    """Let a thread keep the GIL until it gives it away."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@on_every_path
@pytest.mark.parametrize("function", ["mask", "hash_to_points", "hash_and_mask", "tokens", "on_curve", "keyed_hashes"])
@pytest.mark.usefixtures("no_switching")
def test_the_gil_is_released(path: str, function: str, work: Work) -> None:
    """Another thread that waits for the GIL gets it in the midst of a call: nothing else here gives it away."""
    call, go, progress = long_calls(path, work)[function], threading.Lock(), []

    def run() -> None:
        with go:
            progress.append(None)

    go.acquire()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    go.release()
    calls = 0
    while not progress and calls < 100:
        call()
        calls += 1
    seen = bool(progress)
    thread.join(60)
    assert seen
