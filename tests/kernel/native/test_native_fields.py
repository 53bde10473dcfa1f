"""Tests of the field functions of the kernel in C, limb by limb, on every CPU path."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import bounds

try:
    from psicli.curve import _native
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)
from support.kernel.native import PATHS, P, on_every_path

# CPU paths ----------------------------------------------------------------------------------------------------------


def test_every_path_of_this_cpu_is_tested() -> None:
    """Compares with the CPU flags that the operating system reports, so that no path is skipped silently."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo here")
    flags = next((set(line.split()) for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), set())
    needed = {"avx512ifma": {"avx512f", "avx512ifma"}, "avx512": {"avx512f"}, "avx2": {"avx2"}, "portable": set()}
    assert tuple(name for name, flags_needed in needed.items() if flags_needed <= flags) == PATHS
    assert set(needed) == set(bounds.PATHS)


# The field, limb by limb --------------------------------------------------------------------------------------------

# What each field function computes, modulo p.
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
    """Run a field function on the limbs of one element per lane."""

    def pack(elements: list[Limbs]) -> bytes:
        return b"".join(struct.pack(f"={len(limb)}Q", *limb) for limb in zip(*elements, strict=True))

    lanes = bounds.PATHS[path].lanes
    limbs = struct.iter_unpack(f"={lanes}Q", _native.field(path, operation, pack(first), pack(second)))
    return [list(element) for element in zip(*limbs, strict=True)]


def check_field(path: str, operation: str, first: list[Limbs], second: list[Limbs]) -> None:
    """Run a field function; compare each lane with Python's integers, and its limbs with the header's bounds."""
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
    """Return elements with all limbs at their minimum or maximum, and with one limb alone at the other extreme."""
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
def test_limbs_at_their_extremes_in_all_lanes(path: str, operation: str) -> None:
    field, lanes = bounds.PATHS[path].field, bounds.PATHS[path].lanes
    firsts, seconds = corners(largest_operand(field, operation)), second_operands(field, operation)
    for first, second in product(firsts, seconds):
        check_field(path, operation, [first] * lanes, [second] * lanes)


def random_limbs(random: Random, most: Limbs) -> Limbs:
    """Return limbs of all magnitudes within their bounds."""
    return [random.choice([random.randint(0, bound), bound - random.getrandbits(random.randrange(16)),
                           random.getrandbits(random.randrange(bound.bit_length()))]) for bound in most]  # fmt: skip


def some_second(random: Random, field: bounds.Field, operation: str) -> Limbs:
    if operation == "multiply_small":
        return small_factor(random.choice([*SMALL, random.getrandbits(32)]), field)
    return random_limbs(random, largest_operand(field, operation))


@on_every_path
@on_every_operation
@pytest.mark.parametrize("others", ["zero", "random"])
def test_limbs_at_their_extremes_in_a_single_lane(path: str, operation: str, others: str) -> None:
    """This detects numbers that leak from one lane into another."""
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


@pytest.mark.sample(1)
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
    """Return several representations of a value: normal limbs, then more and more carries undone from the top limb."""
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
    """Values have several representations. The largest, 2p - 1, is more than tight limbs can represent."""
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
