"""What the noise of RR22 is worth: the cost of the known attacks on dual LPN with regular noise.

The noise has one value, uniform in GF(2^128) without zero, at a uniform place in each of `trees` blocks. What the
sender could see of it are its products with the columns of a public binary code of rate 1/2. Sources of the formulas:

- Linear tests: ePrint 2021/1150 and 2023/882 use them for codes of this kind. Derived here, because the noise is not
  binary: a word of the code with a share d_i of ones in block i gives a product that is zero or biased by the factor
  (1 - d_i * q / (q - 1)) a block, with q = 2^128; the product of these is largest for equal shares.
- Gauss: ePrint 2022/712, as its authors' estimator has it (github.com/1234wangtr/Code_estimators, lwyy).
- Permutation and enumeration: regular information-set decoding, ePrint 2023/1568, appendix A.1, as in the same place
  (esser). The papers themselves could not be read here, only this code of the estimators' authors.
- Gröbner bases of regular noise: ePrint 2023/176, as in the same place (agb2, first version of the attack; the better
  one of ePrint 2025/1476 is not computed here).
- Hybrid of guessing and linearization: ePrint 2025/1284, as in the same place (hybrid).

All of these estimators take the code for one over GF(2^128). Ours is binary, so any linear map from GF(2^128) to
GF(2) turns the problem into a binary one, in which each block is empty with probability 1/2; ePrint 2022/712 does so
for rings of 2^k elements. `Projected` costs are of that attack: it is the better one, and its formulas are those above
with half the probability of a hit, which is derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import comb, inf, lgamma, log, log2
from typing import NamedTuple

import numpy as np

# The cost of linear algebra, as in the estimators.
_STRASSEN = 2.8
_FIELD_BITS = 128


class Noise(NamedTuple):
    """Noise of `trees` blocks of `width` places each, of which the code keeps half."""

    trees: int
    width: int

    @property
    def length(self) -> int:
        return self.trees * self.width

    @property
    def unknown(self) -> int:
        """The dimension that is left to guess."""
        return self.length // 2


# Linear tests -------------------------------------------------------------------------------------------------------


def linear_test(trees: int, distance: float) -> float:
    """Return the bits of security against a test by a word of this relative weight: the negative log of its bias."""
    share = distance / (1 - 2.0**-_FIELD_BITS)
    return -trees * log2(1 - share)


def trees_for(distance: float, bits: int = 128) -> int:
    """Return how many trees a relative weight needs."""
    return next(trees for trees in range(1, 10_000) if linear_test(trees, distance) >= bits)


def gilbert_varshamov() -> float:
    """Return the relative minimum distance of a random binary code of rate 1/2, which no binary code beats by much."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy(middle) < 0.5 else (low, middle)
    return low


@cache
def search(length: int, distance: float) -> float:
    """Return the log of the steps that find a word of this relative weight in a random binary code of rate 1/2.

    Stern's algorithm (1988), with all words of that weight as solutions.
    """
    half, weight = length // 2, round(distance * length)
    words = _log_choose(length, weight) - half
    best = inf
    for p in range(0, min(weight // 2, half // 4), 2):
        lists = _log_choose(half // 2, p)
        window = int(lists)
        hit = 2 * lists + _log_choose(half - window, weight - 2 * p) - _log_choose(length, weight)
        tries = max(0.0, -(words + hit)) if words > 0 else max(0.0, -hit)
        work = tries + max(2 * log2(half), 1 + lists, 2 * lists - window)
        # There is one minimum, but for the steps that come from rounding.
        if work > best + 100:
            break
        best = min(best, work)
    return best


@cache
def search_and_test(noise: Noise) -> float:
    """Return the log of the work of a search for a word and of the tests with it, if the code were a random one."""
    shares = [share / 1000 for share in range(110, 251, 10)]
    return min(search(noise.length, share) + linear_test(noise.trees, share) for share in shares)


# Information-set decoding -------------------------------------------------------------------------------------------


def gauss(noise: Noise) -> float:
    """Guess places without noise and solve. ePrint 2022/712."""
    length, unknown, trees = noise.length, noise.unknown, noise.trees
    tries = _log_choose(length, trees) - _log_choose(length - unknown, trees)
    return tries + _STRASSEN * log2(min(unknown, length - unknown))


def permutation(noise: Noise, projected: bool = False) -> float:
    """Guess equally many places without noise in each block. ePrint 2023/1568, A.1."""
    share = noise.unknown / noise.length * _hit(projected)
    return log2((noise.length - noise.unknown) ** 2 * noise.length) - noise.trees * log2(1 - share)


@cache
def enumeration(noise: Noise) -> float:
    """The same, after a projection, with up to 40 places with noise among the guessed ones. ePrint 2023/1568, A.1."""
    best, half = inf, noise.trees / 2
    for p in range(0, 42, 2):
        chosen = _log_choose(half, p / 2)
        around = int(chosen + p / 2 * log2(noise.unknown / noise.trees))
        for window in range(around // 2, around * 3 // 2 + 1):
            places = (noise.unknown + window) / noise.trees
            share = places / noise.width * _hit(projected=True)
            hit = 2 * chosen + p * log2(share) + (noise.trees - p) * log2(1 - share)
            lists = chosen + p / 2 * log2(places)
            step = max(2 * log2(noise.length - noise.unknown), 1 + lists, 2 * lists - window)
            best = min(best, log2(noise.length) + step - hit)
    return best


# Algebraic attacks --------------------------------------------------------------------------------------------------


@cache
def groebner(noise: Noise, projected: bool = False) -> float:
    """Guess `places` places without noise in `blocks` blocks; solve the rest by its quadratic equations.

    ePrint 2023/176: no two places of a block have noise. Projected, with x^2 = x in addition. The least on a grid of
    guesses, which is a few bits above the least of all.
    """
    return min(
        _groebner(noise, blocks, places, projected)
        for blocks in range(0, noise.trees + 1, 1 + noise.trees // 100)
        for places in range(0, noise.width, 1 + noise.width // 60)
        if blocks * places <= noise.unknown
    )


def _groebner(noise: Noise, blocks: int, places: int, projected: bool) -> float:
    equations, free = noise.length - noise.unknown, 0 if projected else 1
    guessed = _binomial_series(blocks, noise.width - places - free)
    rest = _binomial_series(noise.trees - blocks, noise.width - free)
    monomials = _product(guessed, rest)
    if projected:
        hilbert, columns = _product(monomials, _power(-equations, 1)), monomials
    else:
        hilbert = _product(monomials, _power(equations - noise.trees, -1))
        columns = _product(monomials, _power(1 - noise.trees, -1))
    degree = next((d for d in range(2, len(hilbert)) if sum(hilbert[2 : d + 1]) < 1), None)
    if degree is None:
        return inf
    size = sum(columns[1 : degree + 1])
    work = 2 * log2(size) + log2(3 * (noise.unknown + 1 - blocks * places))
    return work - blocks * log2(1 - places / noise.width * _hit(projected))


def _binomial_series(exponent: int, factor: int) -> list[int]:
    """Return the first coefficients of (1 + factor * z)^exponent."""
    return [comb(exponent, d) * factor**d for d in range(5)]


def _power(exponent: int, sign: int) -> list[int]:
    """Return the first coefficients of (1 + sign * z)^exponent, for exponents of either sign."""
    if exponent >= 0:
        return [comb(exponent, d) * sign**d for d in range(5)]
    return [comb(-exponent + d - 1, d) * (-sign) ** d for d in range(5)]


def _product(a: list[int], b: list[int]) -> list[int]:
    return [sum(a[i] * b[d - i] for i in range(d + 1)) for d in range(5)]


@cache
def hybrid(noise: Noise, projected: bool = False) -> float:
    """Guess some places of each block, and all of a few blocks; linearize the quadratic equations. ePrint 2025/1284."""
    return min(_hybrid(noise, places, projected) for places in _steps(noise.width - 2))


def _steps(stop: int) -> Iterator[int]:
    return iter(range(0, stop, 1 + stop // 200))


def _hybrid(noise: Noise, places: int, projected: bool) -> float:
    trees, width = noise.trees, noise.width
    # Rows: blocks of which all is guessed. Columns: blocks of which one place more is guessed.
    whole, more = np.meshgrid(np.arange(64.0), np.arange(float(trees)), indexing="ij")
    others = trees - whole - more
    hit = _hit(projected)
    tries = -more * log2(1 - (places + 1) / width * hit) - others * log2(1 - places / width * hit)
    unknown = noise.unknown - (places + 1) * more - others * places
    squares = others * (width - places) * (width - places - 1) / 2
    squares += more * (width - places - 2) * (width - places - 1) / 2
    left = unknown - width * whole
    products = left + 2 * whole + whole * left + whole * (whole - 1) / 2
    # The first step: bring the linear equations into the form that the guesses leave.
    kept = noise.length - noise.unknown
    rows = kept - kept // width * (width - places - 1)
    first = np.log2(np.maximum(rows * kept * (rows + np.maximum(unknown, 0)), 1))
    possible = (others >= 0) & (left >= 0) & (squares - left * (left + 1) / 2 >= 2.5 * products)
    solved = (others >= 0) & (unknown <= 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = _STRASSEN * np.log2(np.maximum(unknown * (unknown + 1) / 2 + unknown, 1))
        last = _STRASSEN * np.log2(np.maximum(2.5 * products, 1)) + whole * log2(width)
        cost = tries + np.maximum(first, np.where(possible, np.maximum(linear, last), np.where(solved, 0.0, inf)))
    return float(cost.min())


# Helpers ------------------------------------------------------------------------------------------------------------


def _hit(projected: bool) -> float:
    """Return the probability that a noise value does not vanish."""
    return 0.5 if projected else 1.0


def _entropy(share: float) -> float:
    return -share * log2(share) - (1 - share) * log2(1 - share) if 0 < share < 1 else 0.0


@cache
def _log_choose(n: float, k: float) -> float:
    if k < 0 or k > n:
        return -inf
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)
