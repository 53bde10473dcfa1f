"""Statistics with known odds, for what is random anew in every run.

The odds of each comparison are beside its limit; the tests make fewer than a thousand of them, so that all together
fail by chance less than once in 10^9 runs. What they look for exceeds the limits many times over.
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
