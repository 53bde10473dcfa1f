"""Tests of trees that grow from seeds, and grow again without one leaf."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel.ole import aes, blocks_of, from_numbers, numbers

from psicli.ole import Backend, Blocks, reference

WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 30, 31, 33, 127, 128, 129]


def grown(seed: int, depth: int) -> list[list[int]]:
    """Return the levels of a whole tree, from the root on."""
    levels = [[seed]]
    for _ in range(depth):
        sides = [[made ^ node for made, node in zip(aes(key, levels[-1]), levels[-1], strict=True)]
                 for key in (reference.PI, reference.E)]  # fmt: skip
        levels.append([child for pair in zip(*sides, strict=True) for child in pair])
    return levels


def total(values: list[int]) -> int:
    found = 0
    for value in values:
        found ^= value
    return found


def known_sums(sums: Blocks, points: np.ndarray, depth: int) -> Blocks:
    """Return the sums of the sides that the paths to the points do not take."""
    of_levels = sums.reshape(len(points), depth, 2, 2)
    chosen = [of_levels[tree, level, 1 - (int(point) >> depth - 1 - level & 1)]
              for tree, point in enumerate(points) for level in range(depth)]  # fmt: skip
    return np.array(chosen, np.uint64).reshape(-1, 2)


@pytest.mark.parametrize("width", WIDTHS)
def test_trees_grow_as_defined(ole_backend: Backend, width: int) -> None:
    seeds, depth = blocks_of("seeds", 3), (width - 1).bit_length()
    leaves, sums = ole_backend.grow(seeds, width)
    assert leaves.shape == (3 * width, 2)
    assert sums.shape == (3 * 2 * depth, 2)
    for tree, seed in enumerate(numbers(seeds)):
        levels = grown(seed, depth)
        assert numbers(leaves)[tree * width : (tree + 1) * width] == levels[-1][:width]
        for level in range(1, depth + 1):
            # The children of all nodes above the leaves: of both sides equally many.
            above = -(-width // (1 << depth - level + 1))
            children = levels[level][: 2 * above]
            at = 2 * (tree * depth + level - 1)
            assert numbers(sums)[at : at + 2] == [total(children[0::2]), total(children[1::2])]
    assert (seeds == blocks_of("seeds", 3)).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_trees_grow_again_without_the_leaf_at_any_point(ole_backend: Backend, width: int) -> None:
    # A tree for every point.
    seeds, points = blocks_of("seeds", width), np.arange(width, dtype=np.uint32)
    depth = (width - 1).bit_length()
    leaves, sums = ole_backend.grow(seeds, width)
    known = known_sums(sums, points, depth)
    again = ole_backend.regrow(known, points, width)
    missing = np.arange(width) * width + points
    expected = leaves.copy()
    expected[missing] = 0
    assert (again == expected).all()
    assert leaves[missing].any(axis=1).all()
    assert (points == np.arange(width)).all()
    assert (known == known_sums(sums, points, depth)).all()


@pytest.mark.parametrize("width", [2, 3, 13])
def test_trees_do_not_grow_from_the_sums_of_the_path(ole_backend: Backend, width: int) -> None:
    """The sums of the other sides are of no use: so the test above would notice a wrong side."""
    points = np.zeros(5, np.uint32)
    depth = (width - 1).bit_length()
    leaves, sums = ole_backend.grow(blocks_of("seeds", 5), width)
    of_path = known_sums(sums, points ^ np.uint32((1 << depth) - 1), depth)
    again = ole_backend.regrow(of_path, points, width).reshape(5, width, 2)
    assert (again[:, 0] == 0).all()
    assert (again[:, 1:] != leaves.reshape(5, width, 2)[:, 1:]).any(axis=2).all()


@pytest.mark.parametrize("trees", [0, 1, 2, 551, 552])
def test_trees_are_alone(ole_backend: Backend, trees: int) -> None:
    width, points = 30, np.array([(7 * tree + 29) % 30 for tree in range(trees)], np.uint32)
    leaves, sums = ole_backend.grow(blocks_of("seeds", trees), width)
    again = ole_backend.regrow(known_sums(sums, points, 5), points, width)
    for tree in (0, 1, trees // 2, trees - 1) if trees > 2 else range(trees):
        alone, sums_alone = ole_backend.grow(blocks_of("seeds", trees)[tree : tree + 1], width)
        assert (leaves[tree * width : (tree + 1) * width] == alone).all()
        alone[points[tree]] = 0
        assert (again[tree * width : (tree + 1) * width] == alone).all()
        assert (sums[10 * tree : 10 * tree + 10] == sums_alone).all()


def test_a_tree_of_one_leaf_is_its_seed(ole_backend: Backend) -> None:
    seeds = blocks_of("seeds", 4)
    leaves, sums = ole_backend.grow(seeds, 1)
    assert (leaves == seeds).all()
    assert sums.shape == (0, 2)
    assert (ole_backend.regrow(sums, np.zeros(4, np.uint32), 1) == np.zeros((4, 2))).all()


def test_the_permutations_are_those_of_pi_and_e(ole_backend: Backend) -> None:
    """The first 128 bits of the fractional part of pi (as in Blowfish) and of e - 2 (as in many libraries)."""
    leaves, _ = ole_backend.grow(from_numbers([0]), 2)
    keys = (bytes.fromhex("243f6a8885a308d313198a2e03707344"), bytes.fromhex("b7e151628aed2a6abf7158809cf4f3c7"))
    assert numbers(leaves) == [aes(key, [0])[0] for key in keys]
