"""Tests of the expand-convolute code against its matrix, which is written out here."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from support.kernel.ole import aes, blocks_of, from_numbers, numbers

from psicli.ole import Backend

# The noise and the length of the result: of any sizes, not only one twice the other.
SIZES = [
    (1, 0),
    (1, 1),
    (2, 1),
    (3, 2),
    (5, 3),
    (23, 10),
    (24, 12),
    (25, 12),
    (26, 40),
    (127, 63),
    (128, 65),
    (259, 129),
]


def draws(label: str, count: int) -> list[int]:
    """Return so many numbers of 32 bits from AES under a public seed."""
    made = aes(sha256(b"psicli/v1/rr22/" + label.encode() + b"\0").digest()[:16], list(range(-(-count // 4))))
    return [number >> 32 * part & 0xFFFFFFFF for number in made for part in range(4)][:count]


def matrix(noise: int, length: int) -> list[int]:
    """Return the rows of the code's matrix, as numbers with a bit for each element of the noise."""
    convolved: list[int] = []
    for at, number in enumerate(draws("convolution", noise)):
        row = 1 << at
        for tap in range(24):
            # The element before always counts; of the 23 before that one, those whose bit is set.
            if (tap == 0 or number >> tap & 1) and at > tap:
                row ^= convolved[at - tap - 1]
        convolved.append(row)
    rows, chosen = [], draws("expander", 24 * length)
    for at in range(length):
        row = 0
        for number in chosen[24 * at :][:21]:
            row ^= convolved[number * noise >> 32]
        rows.append(row)
    return rows


@pytest.mark.parametrize(("noise", "length"), SIZES)
def test_the_code_is_its_matrix(ole_backend: Backend, noise: int, length: int) -> None:
    given = numbers(blocks_of("noise", noise))
    expected = []
    for row in matrix(noise, length):
        found = 0
        for at, value in enumerate(given):
            found ^= value if row >> at & 1 else 0
        expected.append(found)
    found = ole_backend.compress(blocks_of("noise", noise), length)
    assert found.shape == (length, 2)
    assert numbers(found) == expected


@pytest.mark.parametrize(("noise", "length"), [*SIZES, (2 * 1_025, 1_025)])
def test_two_vectors_are_compressed_as_one(ole_backend: Backend, noise: int, length: int) -> None:
    both = blocks_of("both", noise, 4)
    apart = [ole_backend.compress(both[:, side : side + 2].copy(), length) for side in (0, 2)]
    assert (ole_backend.compress(both, length) == np.hstack(apart)).all()


@pytest.mark.parametrize(("noise", "length"), SIZES[1:])
def test_the_code_is_linear(ole_backend: Backend, noise: int, length: int) -> None:
    one, other, factor = blocks_of("one", noise), blocks_of("other", noise), blocks_of("factor", 1)
    together = one.copy()
    ole_backend.add_products(together, other, factor)
    expected = ole_backend.compress(one, length)
    ole_backend.add_products(expected, ole_backend.compress(other, length), factor)
    assert (ole_backend.compress(together, length) == expected).all()
    assert (ole_backend.compress(from_numbers([0] * noise), length) == 0).all()


def test_a_longer_result_starts_with_the_shorter_one(ole_backend: Backend) -> None:
    whole = ole_backend.compress(blocks_of("noise", 999), 777)
    for length in (1, 31, 32, 33, 500):
        assert (ole_backend.compress(blocks_of("noise", 999), length) == whole[:length]).all()


def test_every_element_of_the_noise_counts(ole_backend: Backend) -> None:
    """A code whose last elements counted for nothing would have words of weight one."""
    noise, length = 600, 300
    for at in (0, 1, 23, 24, 25, 299, 300, 598, 599):
        one = from_numbers([1 if place == at else 0 for place in range(noise)])
        assert sum(numbers(ole_backend.compress(one, length))) > 0
