"""How light the words of RR22's code are: a search in short codes made in the same way, and in random ones.

ePrint 2023/882 argues for the distance of expand-convolute codes; it could not be read here. Its authors' library
(github.com/osu-crypto/libOTe, ConfigureCode.cpp) assumed a relative distance of 0.1 for weight 7 and 0.15 for weight
21, both with convolution 24, then raised these to 0.15 and 0.2 as estimates of a "pseudo min dist", and now uses other
codes by default, with 0.25. These are assumptions about what a search finds, not about the true minimum distance, which
is at most about 0.11 for any binary code of this rate. The noise of psicli is chosen for 0.15, the lower figure.

This search (Lee and Brickell, 1988) would show a gross fault, such as a bad seed or a convolution that ends. It cannot
show that there is no clever search. Long codes are out of its reach.
"""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np

from psicli.ole import reference

# What `python -m parameters --simulate` found: length, the lightest word of ours, and of each of three random codes.
SEARCHED = [(256, 42, [39, 40, 41]), (512, 93, [88, 95, 94]), (1024, 207, [201, 205, 202])]


def searched(length: int) -> tuple[int, list[int]]:
    """Return the weight of the lightest word that a search finds in our code, and in each of three random ones."""
    rounds = 5_000 // length
    others = [lightest(random_generators(length, seed), length, rounds, seed=1) for seed in range(3)]
    return lightest(generators(length), length, rounds, seed=1), others


def generators(length: int) -> list[int]:
    """Return the rows of the code's matrix for `length` places of noise: half as many words, which generate all."""
    places = []
    for first in range(0, length, 128):
        unit = np.zeros((length, 2), np.uint64)
        for bit in range(min(128, length - first)):
            unit[first + bit, bit // 64] = 1 << bit % 64
        made = reference.compress(unit, length // 2)
        places.append([int(low) | int(high) << 64 for low, high in made.tolist()])
    return [sum(part << 128 * at for at, part in enumerate(parts)) for parts in zip(*places, strict=True)]


def random_generators(length: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(length) for _ in range(length // 2)]


def lightest(words: list[int], length: int, rounds: int, seed: int) -> int:
    """Return the least weight of the words found: those with one or two ones in a random information set."""
    rng, best = random.Random(seed), length
    for _ in range(rounds):
        words = _systematic(words, rng.sample(range(length), length))
        best = min(best, *(word.bit_count() for word in words))
        best = min(best, *((one ^ other).bit_count() for one, other in combinations(words, 2)))
    return best


def _systematic(words: list[int], places: list[int]) -> list[int]:
    """Return words that generate the same code, of which each alone has a one at one of the first free places."""
    done: list[int] = []
    left = list(words)
    for place in places:
        at = next((i for i, word in enumerate(left) if word >> place & 1), None)
        if at is None:
            continue
        pivot = left.pop(at)
        left = [word ^ pivot if word >> place & 1 else word for word in left]
        done = [word ^ pivot if word >> place & 1 else word for word in done] + [pivot]
        if not left:
            break
    return done
