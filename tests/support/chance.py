"""Statistics with known odds, for what is random anew in every run.

The odds of each comparison are beside its limit; the tests make fewer than ten thousand of them, so that all together
fail by chance less than once in 10^8 runs. What they look for exceeds the limits many times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

# Deviations: beyond so many a normal quantity lies with a probability of 6e-14, both sides together.
DEVIATIONS = 7.5
# The same for chi-square, one side: 1.3e-12.
_QUANTILE = 7.0
# Neighbours by chance are two on average, about as Poisson has it: more come with 6e-15.
MOST_NEIGHBOURS = 20


def rank_correlation(places: Sequence[int]) -> float:
    """Return Spearman's correlation of a permutation with the order it permutes, in its standard deviations.

    Without a relation its deviation is 1 / sqrt(n - 1).
    """
    ranks = np.argsort(np.argsort(places))
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) * sqrt(len(ranks) - 1)


def neighbours(places: Sequence[int]) -> int:
    """Return how many neighbours of the one order are neighbours in the other, whatever way round."""
    ranks = np.argsort(np.argsort(places))
    return int((np.abs(np.diff(ranks)) == 1).sum())


def check_unrelated(places: Sequence[int]) -> None:
    """Check that a permutation, item i of one order at places[i] of the other, shows nothing of an order."""
    assert len(places) >= 400
    assert abs(rank_correlation(places)) < DEVIATIONS
    assert neighbours(places) <= MOST_NEIGHBOURS


def check_scattered(places: Sequence[int], count: int) -> None:
    """Check that these of `count` places look drawn at random: their ranks, their neighbours, and where they crowd."""
    marked = len(places)
    others = count - marked
    assert min(marked, others) >= 400
    rank_sum = float(np.sum(places)) - marked * (count - 1) / 2
    assert abs(rank_sum) < DEVIATIONS * sqrt(marked * others * (count + 1) / 12)
    # Of runs there are as many as a hypergeometric distribution says.
    runs = 1 + int((np.diff(np.sort(places)) > 1).sum())
    mean = marked * (others + 1) / count
    deviation = sqrt((others + 1) * (marked - 1) * marked * others / (count - 1)) / count
    assert abs(runs - mean) < DEVIATIONS * deviation
    cells = np.bincount(np.asarray(places) * 16 // count, minlength=16)
    sizes = np.bincount(np.arange(count) * 16 // count, minlength=16)
    expected = sizes * marked / count
    statistic = ((cells - expected) ** 2 / expected).sum() * count / others
    assert float(statistic) < chi_square_limit(15)


def chi_square_limit(freedom: int) -> float:
    """Return what chi-square exceeds with a probability of 1.3e-12 (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + _QUANTILE * sqrt(part)) ** 3)


def check_uniform(records: npt.NDArray[np.uint8], bits: int) -> None:
    """Check that the low bits of records [n, bytes; little-endian] look like fair coins, and their ends like dice."""
    coins = np.unpackbits(records, axis=1, bitorder="little")[:, :bits]
    deviation = sqrt(len(records)) / 2
    assert (np.abs(coins.sum(axis=0) - len(records) / 2) < DEVIATIONS * deviation).all()
    for column, sides in ((0, 256), (records.shape[1] - 1, 1 << (bits - 1) % 8 + 1)):
        expected = len(records) / sides
        assert expected >= 20
        counts = np.bincount(records[:, column], minlength=sides)
        assert len(counts) == sides
        assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_limit(sides - 1)
