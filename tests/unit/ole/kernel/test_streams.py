"""Tests of the streams of SoftSpoken, of their correlation for every point, and of transposition."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel.ole import aes, blocks_of, from_numbers, numbers

from psicli.ole import Backend, Blocks

SIZES = [0, 1, 2, 3, 5, 127, 128, 129, 552]


def streams(seeds: Blocks, count: int) -> list[list[int]]:
    return [aes(seed.tobytes(), list(range(count))) for seed in seeds]


def plane(groups: Blocks, group: int, bit: int, count: int) -> list[int]:
    return numbers(groups.reshape(-1, 4, count, 2)[group, bit])


@pytest.mark.parametrize("count", SIZES)
def test_streams_are_summed_as_defined(ole_backend: Backend, count: int) -> None:
    seeds = blocks_of("seeds", 32)
    sums, planes = ole_backend.spread(seeds, count)
    assert sums.shape == (2 * count, 2)
    assert planes.shape == (8 * count, 2)
    if not count:
        return
    made = streams(seeds, count)
    for group in range(2):
        mine = made[16 * group : 16 * group + 16]
        assert numbers(sums[group * count : (group + 1) * count]) == summed(mine, range(16))
        for bit in range(4):
            chosen = [number for number in range(16) if number >> bit & 1]
            assert plane(planes, group, bit, count) == summed(mine, chosen)
    assert (seeds == blocks_of("seeds", 32)).all()


def summed(made: list[list[int]], chosen: list[int] | range) -> list[int]:
    found = [0] * len(made[0])
    for number in chosen:
        found = [one ^ other for one, other in zip(found, made[number], strict=True)]
    return found


@pytest.mark.parametrize("count", [1, 3, 129])
def test_planes_differ_by_the_bits_of_the_point(ole_backend: Backend, count: int) -> None:
    """Whoever knows all but one of the seeds gets planes that differ by the sums, where the point has a bit."""
    points, seeds = np.arange(16, dtype=np.uint32), blocks_of("seeds", 256)
    sums, planes = ole_backend.spread(seeds, count)
    # The seed at the point is unknown there: anything may be in its place.
    seeds[np.arange(16) * 16 + points] = blocks_of("unknown", 16)
    _, others = ole_backend.spread(seeds, count, points)
    difference = (planes ^ others).reshape(16, 4, count, 2)
    for point in range(16):
        for bit in range(4):
            expected = sums.reshape(16, count, 2)[point] if point >> bit & 1 else np.zeros((count, 2), np.uint64)
            assert (difference[point, bit] == expected).all()
    assert (points == np.arange(16)).all()


@pytest.mark.parametrize("groups", [0, 1, 2, 32])
def test_groups_are_alone(ole_backend: Backend, groups: int) -> None:
    seeds, count = blocks_of("seeds", 16 * groups), 7
    points = np.array([(5 * group + 3) % 16 for group in range(groups)], np.uint32)
    for chosen in (None, points):
        sums, planes = ole_backend.spread(seeds, count, chosen)
        assert (len(sums), len(planes)) == (groups * count, 4 * groups * count)
        for group in range(groups):
            one = None if chosen is None else chosen[group : group + 1]
            alone = ole_backend.spread(seeds[16 * group : 16 * group + 16], count, one)
            assert (sums[group * count : (group + 1) * count] == alone[0]).all()
            assert (planes[4 * group * count : 4 * (group + 1) * count] == alone[1]).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_transposition_moves_bits(ole_backend: Backend, count: int) -> None:
    planes = blocks_of("planes", 128 * count)
    transposed = ole_backend.transpose(planes)
    assert transposed.shape == (128 * count, 2)
    if count:
        # Plane b is one long number; bit i of it goes to bit b of block i.
        long = [int.from_bytes(each.tobytes(), "little") for each in planes.reshape(128, -1)]
        found = numbers(transposed)
        assert all(found[i] >> b & 1 == long[b] >> i & 1 for i in range(0, 128 * count, 5) for b in range(128))
    assert (planes == blocks_of("planes", 128 * count)).all()


@pytest.mark.parametrize("count", [1, 3])
def test_transposed_planes_differ_by_delta_where_a_bit_is_chosen(ole_backend: Backend, count: int) -> None:
    """With planes v_b + Δ_b * u, block m is that of v, plus Δ if bit m of u is set: an extended transfer."""
    v, u, delta = blocks_of("v", 128 * count), blocks_of("u", count), blocks_of("delta", 1)
    q = v.copy().reshape(128, count, 2)
    for bit in range(128):
        if numbers(delta)[0] >> bit & 1:
            q[bit] ^= u
    choices = np.unpackbits(u.view(np.uint8).reshape(-1), bitorder="little").astype(np.uint64)
    expected = ole_backend.transpose(v) ^ choices[:, None] * delta
    assert (ole_backend.transpose(q.reshape(-1, 2)) == expected).all()


def test_transposition_twice_changes_nothing(ole_backend: Backend) -> None:
    square = blocks_of("square", 128)
    assert (ole_backend.transpose(ole_backend.transpose(square)) == square).all()
    single = from_numbers([1 << 100 if at == 3 else 0 for at in range(128)])
    assert numbers(ole_backend.transpose(single)) == [1 << 3 if at == 100 else 0 for at in range(128)]
