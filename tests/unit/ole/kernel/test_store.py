"""Tests of the key-value store: that every value is found again, and that no item is ever lost."""

from __future__ import annotations

import os

import numpy as np
import pytest
from support.kernel.ole import LARGE_SIZES, SIZES, aes, blocks_of, numbers, store_length, system

from psicli.ole import Backend, Blocks, Rows
from psicli.protocol.rr22 import sizes

BAND = 256


def sums_of(rows: Rows, store: Blocks) -> list[int]:
    """Decode bit by bit."""
    values, found = numbers(store), []
    for start, *words in rows.tolist():
        band = sum(word << 64 * at for at, word in enumerate(words))
        total = 0
        for bit in range(BAND):
            total ^= values[start + bit] if band >> bit & 1 else 0
        found.append(total)
    return found


def of_bands(*bands: tuple[int, int]) -> Rows:
    """Return rows with these first positions and bands."""
    mask = (1 << 64) - 1
    return np.array([[start, *(band >> 64 * at & mask for at in range(4))] for start, band in bands], np.uint64)


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 63, 64, 65, 129])
def test_rows_are_drawn_from_aes_under_the_seed(ole_backend: Backend, count: int) -> None:
    keys, seed = blocks_of("keys", count), bytes(range(50, 66))
    made = [aes(seed, [key, key ^ 1, key ^ 2]) for key in numbers(keys)]
    for length in (256, 257, 300, 1000, 1_100_260):
        starts = length - BAND + 1
        expected = [((last & (1 << 64) - 1) * starts >> 64, low | high << 128) for low, high, last in made]
        rows = ole_backend.rows(keys, length, seed)
        assert rows.shape == (count, 5)
        assert (rows == of_bands(*expected).reshape(-1, 5)).all()
    assert (keys == blocks_of("keys", count)).all()


def test_rows_reach_both_ends_of_the_store(ole_backend: Backend) -> None:
    starts = ole_backend.rows(blocks_of("keys", 2000), 260, bytes(16))[:, 0]
    # Five starts: the last band ends with the store.
    assert set(starts.tolist()) == {0, 1, 2, 3, 4}
    assert set(ole_backend.rows(blocks_of("keys", 100), 256, bytes(16))[:, 0].tolist()) == {0}


def test_rows_of_another_seed_are_different(ole_backend: Backend) -> None:
    keys = blocks_of("keys", 100)
    one, other = ole_backend.rows(keys, 1000, bytes(16)), ole_backend.rows(keys, 1000, bytes(15) + b"\1")
    assert (one != other).any(axis=1).all()


# Encoding and decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_every_value_is_found_again(ole_backend: Backend, count: int) -> None:
    rows, values, store = system(ole_backend, count)
    assert ole_backend.encode(rows, values, store)
    assert (ole_backend.decode(rows, store) == values).all()
    # Not only by the function that is used to read it.
    assert sums_of(rows[:200], store) == numbers(values[:200])
    assert (rows == system(ole_backend, count)[0]).all()
    assert (values == system(ole_backend, count)[1]).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 127, 300])
def test_decoding_sums_the_positions_of_each_row(ole_backend: Backend, count: int) -> None:
    rows, _, store = system(ole_backend, count)
    assert numbers(ole_backend.decode(rows, store)) == sums_of(rows, store)
    assert (store == system(ole_backend, count)[2]).all()


@pytest.mark.parametrize("count", [1, 3, 129, 1000])
def test_every_position_is_read(ole_backend: Backend, count: int) -> None:
    """A decoder that reads the wrong half, or stops early, overlooks a change of some position."""
    rows, _, store = system(ole_backend, count)
    before = ole_backend.decode(rows, store)
    for at in {0, 1, 255, 256, len(store) // 2, len(store) - 257, len(store) - 2, len(store) - 1, int(rows[0, 0])}:
        changed = store.copy()
        changed[at] ^= np.uint64(1)
        concerned = [start <= at < start + BAND and words[(at - start) // 64] >> (at - start) % 64 & 1
                     for start, *words in rows.tolist()]  # fmt: skip
        assert ((ole_backend.decode(rows, changed) != before).any(axis=1) == np.array(concerned, bool)).all()


def test_other_keys_find_nothing(ole_backend: Backend) -> None:
    rows, values, store = system(ole_backend, 1000)
    assert ole_backend.encode(rows, values, store)
    others = ole_backend.rows(blocks_of("other keys", 1000), len(store), bytes(16))
    found = np.vstack([ole_backend.decode(others, store), values, store])
    assert len(np.unique(found, axis=0)) == len(found)


def test_positions_that_no_row_decides_keep_their_filling(ole_backend: Backend) -> None:
    rows, values, store = system(ole_backend, 1000)
    filling = store.copy()
    assert ole_backend.encode(rows, values, store)
    # As many as there are rows change; by chance, none of the others is the same as what a row decides.
    assert np.count_nonzero((store != filling).any(axis=1)) == 1000
    other = blocks_of("other filling", len(store))
    filled = other.copy()
    assert ole_backend.encode(rows, values, filled)
    assert ((filled == other).all(axis=1) == (store == filling).all(axis=1)).all()
    assert (ole_backend.decode(rows, filled) == values).all()
    # Where the filling differs, so does the store everywhere it can.
    assert (filled != store).any(axis=1).all()


def test_an_empty_system_keeps_the_whole_filling(ole_backend: Backend) -> None:
    rows, values, store = system(ole_backend, 0)
    assert ole_backend.encode(rows, values, store)
    assert (store == system(ole_backend, 0)[2]).all()
    assert ole_backend.decode(rows, store).shape == (0, 2)


@pytest.mark.parametrize("bit", [0, 1, 63, 64, 65, 127, 128, 191, 192, 255])
def test_a_row_of_one_position_decides_it(ole_backend: Backend, bit: int) -> None:
    for start in (0, 1, 44):
        rows, store, value = of_bands((start, 1 << bit)), blocks_of("filling", 300), blocks_of("value", 1)
        assert ole_backend.encode(rows, value, store)
        expected = blocks_of("filling", 300)
        expected[start + bit] = value[0]
        assert (store == expected).all()
        assert (ole_backend.decode(rows, store) == value).all()


def test_the_last_row_ends_with_the_store(ole_backend: Backend) -> None:
    full = (1 << BAND) - 1
    rows, values = of_bands((44, full), (44, 1), (43, full), (44, full ^ 2), (0, full)), blocks_of("values", 5)
    store = blocks_of("filling", 300)
    assert ole_backend.encode(rows, values, store)
    assert (ole_backend.decode(rows, store) == values).all()


# Systems without a solution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 500])
def test_equal_rows_with_different_values_have_no_solution(ole_backend: Backend, count: int) -> None:
    rows, values, store = system(ole_backend, count + 1)
    rows, values = np.vstack([rows, rows[-1:]]), np.vstack([values, values[-1:]])
    assert ole_backend.encode(rows, values, store.copy())
    for word in range(2):
        for bit in (0, 63):
            different = values.copy()
            different[-1, word] ^= np.uint64(1 << bit)
            assert not ole_backend.encode(rows, different, store.copy())


def test_dependent_rows_need_dependent_values(ole_backend: Backend) -> None:
    one, other = 0b1011 | 1 << 255, 0b0111 | 1 << 128
    rows, values = of_bands((7, one), (7, other), (7, one ^ other)), blocks_of("values", 3)
    store = blocks_of("filling", 300)
    assert not ole_backend.encode(rows, values, store.copy())
    values[2] = values[0] ^ values[1]
    assert ole_backend.encode(rows, values, store)
    assert (ole_backend.decode(rows, store) == values).all()


def test_an_empty_row_is_zero(ole_backend: Backend) -> None:
    rows, zero = of_bands((3, 0), (3, 1)), np.zeros((2, 2), np.uint64)
    assert ole_backend.encode(rows, zero, blocks_of("filling", 300))
    assert (ole_backend.decode(rows, blocks_of("filling", 300))[0] == 0).all()
    assert not ole_backend.encode(rows, blocks_of("values", 2), blocks_of("filling", 300))


def test_more_rows_than_positions_have_no_solution(ole_backend: Backend) -> None:
    length = BAND + 20
    rows = ole_backend.rows(blocks_of("keys", length + 1), length, bytes(16))
    assert not ole_backend.encode(rows, blocks_of("values", length + 1), blocks_of("filling", length))
    # As many rows as positions may have one, and these have it.
    fitting = of_bands(*((min(at, 20), 1 << max(at - 20, 0)) for at in range(length)))
    store, values = blocks_of("filling", length), blocks_of("values", length)
    assert ole_backend.encode(fitting, values, store)
    assert (store == values).all()


# Very many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", LARGE_SIZES)
def test_every_value_is_found_again_in_larger_stores(fastest: Backend, count: int) -> None:
    for attempt in range(5):
        rows, values, store = system(fastest, count, f"{attempt} ")
        assert fastest.encode(rows, values, store)
        assert (fastest.decode(rows, store) == values).all()


@pytest.mark.more
def test_every_value_of_a_million_and_three_is_found_again(fastest: Backend) -> None:
    rows, values, store = system(fastest, 1_000_003)
    filling = store.copy()
    assert fastest.encode(rows, values, store)
    assert (fastest.decode(rows, store) == values).all()
    assert np.count_nonzero((store != filling).any(axis=1)) == 1_000_003


@pytest.mark.slow
def test_no_item_is_lost_in_ten_thousand_rounds(fastest: Backend) -> None:
    rng = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
    failed = []
    for _ in range(10_000):
        count = int(rng.integers(1, 2001))
        keys, values = (rng.integers(0, 1 << 64, (count, 2), np.uint64) for _ in range(2))
        store, seed = rng.integers(0, 1 << 64, (store_length(count), 2), np.uint64), rng.bytes(16)
        rows = fastest.rows(keys, len(store), seed)
        if not fastest.encode(rows, values, store):
            failed.append((count, seed.hex()))
            continue
        assert (fastest.decode(rows, store) == values).all(), (count, seed.hex())
    # The probability is 2^-57 in each round: see tests/parameters.
    assert failed == []


def test_the_store_of_these_tests_is_as_long_as_a_real_one() -> None:
    for count in (*SIZES, *LARGE_SIZES, 1_000_003):
        assert sizes.sizes(count).store == store_length(count)
