"""Tests that the numbers of RR22 are worth what they must be, and that nobody changes one without noticing."""

from __future__ import annotations

import re
from math import log2
from pathlib import Path

import pytest
from parameters import code, noise, store
from parameters.__main__ import main
from parameters.table import ASSUMED_DISTANCE, least_noise, worths

from psicli.ole import reference
from psicli.protocol.rr22 import sizes

KERNEL = Path(reference.__file__).parent / "native_src"


def test_every_number_is_worth_what_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert [worth for worth in worths() if not worth.is_enough] == []
    assert main() == 0
    printed = capsys.readouterr().out
    assert "  129.4 bits, needed  128   noise: linear test, assumed distance 0.15\n" in printed
    assert "   48.7 bits, needed   40   store: a solution for 2^20 rows, at least\n" in printed
    assert "   40.0 bits, needed   40   tokens: no false match in a task\n" in printed


@pytest.mark.parametrize(
    ("name", "value", "weaker"),
    [
        ("TREES", 545, "noise: linear test, assumed distance 0.15"),
        ("LEAST_NOISE", 1 << 13, "noise: finding a word of weight 0.20"),
        ("SPARE_POSITIONS", 200, "store: a solution for 2^10 rows, at least"),
        ("STATISTICAL_BITS", 39, "tokens: no false match in a task"),
        ("DELTA_BITS", 127, "transfers: guessing Δ"),
        ("DELTA_TREES", 31, "transfers: guessing Δ"),
        ("DELTA_DEPTH", 3, "transfers: guessing Δ"),
    ],
)
def test_a_smaller_number_is_too_little(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: int, weaker: str
) -> None:
    monkeypatch.setattr(sizes, name, value)
    assert weaker in [worth.what for worth in worths() if not worth.is_enough]
    assert main() == 1
    assert f"{weaker}   TOO LITTLE\n" in capsys.readouterr().out


def test_a_shorter_store_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "sizes", lambda capacity: sizes.Sizes(capacity * 107 // 100 + 256))
    assert {worth.what for worth in worths() if not worth.is_enough} >= {
        f"store: a solution for 2^{rows} rows, at least" for rows in (14, 20, 24)
    }


@pytest.mark.parametrize("name", ["TREES", "SPARE_POSITIONS", "STATISTICAL_BITS"])
def test_a_larger_number_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = worths()
    monkeypatch.setattr(sizes, name, getattr(sizes, name) * 2)
    assert worths() != before


def test_the_kernel_has_the_numbers_that_the_estimates_are_for() -> None:
    assert (store.BAND, reference.BAND) == (256, 256)
    # The authors' library calls this code conservative.
    assert (reference.WEIGHT, reference.TAPS) == (21, 24)
    assert 1 << sizes.DELTA_DEPTH == reference.STREAMS
    source = "".join(path.read_text() for path in sorted(KERNEL.glob("*.h")))
    for name, number in (("OLE_BAND", 256), ("WEIGHT", 21), ("TAPS", 24)):
        assert set(re.findall(rf"\b{name} = (\d+)", source)) == {str(number)}


# Noise --------------------------------------------------------------------------------------------------------------


def test_the_trees_are_as_many_as_the_assumed_distance_needs() -> None:
    assert noise.trees_for(ASSUMED_DISTANCE) == 546
    assert sizes.TREES == -(-546 // 8) * 8
    assert noise.trees_for(0.10) == 843
    assert noise.trees_for(0.20) == 398


def test_the_bias_of_a_linear_test_is_that_of_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the products of all noise over GF(4) with a word, and compare them with the formula."""
    monkeypatch.setattr(noise, "_FIELD_BITS", 2)
    product = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]]
    word, width = [1, 0, 2, 0, 0, 3, 0, 1, 0, 0], 5
    counts = [0] * 4
    for first in range(width):
        for second in range(width):
            for one in (1, 2, 3):
                for other in (1, 2, 3):
                    counts[product[word[first]][one] ^ product[word[width + second]][other]] += 1
    # A character of the field: the bias against a uniform product.
    bias = abs(counts[0] + counts[1] - counts[2] - counts[3]) / sum(counts)
    assert -log2(bias) == pytest.approx(noise.linear_test(2, 2 / width))


@pytest.mark.more
@pytest.mark.parametrize("log_items", [20, 22, 24])
def test_large_bins_are_not_easier_to_attack(log_items: int) -> None:
    assert least_noise() == (552, 30)
    large = noise.Noise(sizes.TREES, sizes.sizes(1 << log_items).width)
    for projected in (False, True):
        for attack in (noise.permutation, noise.groebner, noise.hybrid):
            assert attack(large, projected) >= attack(least_noise(), projected)


def test_random_codes_have_the_distance_of_gilbert_and_varshamov() -> None:
    assert noise.gilbert_varshamov() == pytest.approx(0.1100, abs=0.0001)
    # A word of a random code that has only one needs an exhaustive search, and one of weight 1/4 just linear algebra.
    assert noise.search(16_384, 0.111) > 1800
    assert noise.search(16_384, 0.25) < 40


# The store ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "band", "runs", "failures"), store.SIMULATED + store.SIMULATED_BY_KERNEL)
def test_the_estimate_for_the_store_is_on_the_safe_side(rows: int, band: int, runs: int, failures: int) -> None:
    estimate = store.upper_estimate(rows, rows * 11 // 10 + band, band)
    assert estimate + 4 < log2(runs / failures) < estimate + 9


def test_a_simulation_of_the_store_gives_the_same_again() -> None:
    rows, band, runs, failures = store.SIMULATED[0]
    assert store.failures(rows, band, runs, seed=1) == failures
    # The kernel draws other bands.
    assert failures / 2 < store.failures_of_kernel(rows, band, runs, seed=1) < failures * 2


def test_a_store_without_room_has_no_solution() -> None:
    assert store.upper_estimate(1000, 1000) == 0.0
    assert store.failures(400, 1, 3, seed=1) == 3


@pytest.mark.parametrize(("rows", "band", "runs", "failures"), store.SIMULATED_BY_KERNEL)
def test_the_published_line_is_that_of_a_million_rows(rows: int, band: int, runs: int, failures: int) -> None:
    assert log2(runs / failures) + log2(rows) - 20 == pytest.approx(store.published(band), abs=1)


# The code -----------------------------------------------------------------------------------------------------------


def test_a_search_finds_no_lighter_words_in_our_code_than_in_random_ones() -> None:
    for length, ours, random in code.SEARCHED:
        assert ours > 0.95 * min(random)
        assert ours > ASSUMED_DISTANCE * length
    length, ours, random = code.SEARCHED[0]
    assert code.searched(length) == (ours, random)


def test_the_search_finds_a_planted_word() -> None:
    length, light = 128, (1 << 100) + (1 << 7) + (1 << 50) + 1
    words = code.random_generators(length, seed=5)
    words[3] = light ^ words[9] ^ words[20]
    assert code.lightest(words, length, rounds=3, seed=1) == 4
