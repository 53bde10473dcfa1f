"""Statistical tests with known error rates, for values that are random in every run.

Each limit states the probability that it is exceeded by chance. The tests make fewer than ten thousand comparisons, so
they fail by chance less than once in 10^8 runs. The defects they look for exceed the limits many times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

# A normal quantity deviates by more standard deviations than this with probability 6e-14 (two-sided).
DEVIATIONS = 7.5
# The normal quantile of the limit for chi-square: probability 1.3e-12 (one-sided).
_QUANTILE = 7.0
# The number of neighbours is about Poisson-distributed with mean two, and exceeds this with probability 6e-15.
MOST_NEIGHBOURS = 20


def rank_correlation(places: Sequence[int]) -> float:
    """Return Spearman's correlation between a permutation and the original order [standard deviations].

    The standard deviation of unrelated orders is 1 / sqrt(n - 1).
    """
    ranks = np.argsort(np.argsort(places))
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) * sqrt(len(ranks) - 1)


def neighbours(places: Sequence[int]) -> int:
    """Return how many pairs of neighbours in one order are also neighbours in the other, in either direction."""
    ranks = np.argsort(np.argsort(places))
    return int((np.abs(np.diff(ranks)) == 1).sum())


def check_unrelated(places: Sequence[int]) -> None:
    """Check that two orders are unrelated, where item i of one is at places[i] of the other."""
    assert len(places) >= 400
    assert abs(rank_correlation(places)) < DEVIATIONS
    assert neighbours(places) <= MOST_NEIGHBOURS


def check_scattered(places: Sequence[int], count: int) -> None:
    """Check that these places look like a random subset of `count` places, by rank sum, by runs and by density."""
    marked = len(places)
    others = count - marked
    assert min(marked, others) >= 400
    rank_sum = float(np.sum(places)) - marked * (count - 1) / 2
    assert abs(rank_sum) < DEVIATIONS * sqrt(marked * others * (count + 1) / 12)
    # The number of runs follows a hypergeometric distribution.
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
    """Return the limit that chi-square exceeds with probability 1.3e-12 (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + _QUANTILE * sqrt(part)) ** 3)


def check_uniform(records: npt.NDArray[np.uint8], bits: int) -> None:
    """Check that the low bits of little-endian records [n, bytes] are uniform, and so are their first and last byte."""
    coins = np.unpackbits(records, axis=1, bitorder="little")[:, :bits]
    deviation = sqrt(len(records)) / 2
    assert (np.abs(coins.sum(axis=0) - len(records) / 2) < DEVIATIONS * deviation).all()
    for column, sides in ((0, 256), (records.shape[1] - 1, 1 << (bits - 1) % 8 + 1)):
        expected = len(records) / sides
        assert expected >= 20
        counts = np.bincount(records[:, column], minlength=sides)
        assert len(counts) == sides
        assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_limit(sides - 1)
