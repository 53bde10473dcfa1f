"""Tests of the points of base transfers: sums and differences of points, and the point of a bin."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from support.kernel.points import add, as_octets, right_side, square_root
from support.kernel.samples import TASK_SID, P, random_points, split

from psicli import curve
from psicli.core.errors import InternalError, SelfCheckError
from psicli.curve import reference

NINE = as_octets(9)
# The order of the base point, RFC 7748 section 4.1.
ORDER = 2**252 + 0x14DEF9DEA2F79CD65812631A5CF5D3ED


def product(scalar: int, point: bytes = NINE) -> bytes:
    """Return the product of a clamped scalar, which OpenSSL computes."""
    assert scalar % 8 == 0
    assert scalar >> 254 == 1
    found, bad = reference.mask(memoryview(point), as_octets(scalar))
    assert not bad
    return found


# Scalars whose sums, less eight times the order, are clamped as well, and whose differences are, too.
SCALARS = [0xC << 251 | 8 * int.from_bytes(piece, "little") >> 6 << 3 for piece in split(random_points(20), 31)[:20]]
SMALLER = 0xC << 251
POINTS = b"".join(map(product, SCALARS))


def both(points: bytes, other: bytes) -> list[tuple[bytes, bytes]]:
    """Return both partners of each point."""
    count = len(points) // 32
    made = [split(bytes(curve.partners(points, other, bytes([sign]) * count))) for sign in (0, 1)]
    return list(zip(*made, strict=True))


def test_partners_are_the_products_with_the_sum_and_the_difference_of_scalars(backend: curve.Backend) -> None:
    found = both(POINTS, product(SMALLER))
    for scalar, partners in zip(SCALARS, found, strict=True):
        expected = {product(scalar + SMALLER - 8 * ORDER), product(8 * ORDER - (scalar - SMALLER))}
        assert {*partners} == expected


def test_the_root_has_the_parity_of_the_sign(backend: curve.Backend) -> None:
    """By the formula of RFC 7748 section 4.1, with v-coordinates."""
    for point, partners in zip(split(POINTS), both(POINTS, NINE), strict=True):
        u = int.from_bytes(point, "little")
        v, w = square_root(right_side(u)), square_root(right_side(9))
        for sign, partner in enumerate(partners):
            w = w if (-v * w % P) % 2 == sign else -w
            slope = (v - w) * pow(u - 9, -1, P)
            assert partner == as_octets((slope * slope - reference.J - u - 9) % P)


def test_only_the_lowest_bit_of_a_sign_counts(backend: curve.Backend) -> None:
    signs = bytes(range(100, 120))
    expected = [pair[sign & 1] for pair, sign in zip(both(POINTS, NINE), signs, strict=True)]
    for buffer in (signs, bytearray(signs)):
        assert split(bytes(curve.partners(memoryview(POINTS), NINE, buffer))) == expected


def test_partners_are_in_memory_that_can_be_wiped(backend: curve.Backend) -> None:
    assert isinstance(curve.partners(POINTS, NINE, bytes(20)), bytearray)
    assert curve.partners(b"", NINE, b"") == b""


@pytest.mark.parametrize(
    ("points", "other", "signs"), [(33, 32, 1), (64, 32, 1), (32, 32, 2), (32, 31, 1), (32, 64, 1)]
)
def test_wrong_lengths_of_points_and_signs(backend: curve.Backend, points: int, other: int, signs: int) -> None:
    with pytest.raises(InternalError):
        curve.partners(bytes(points), bytes(other), bytes(signs))


NO_PARTNER = {
    "the same": (NINE, NINE),
    "on the twist": (as_octets(2), NINE),
    "the other on the twist": (NINE, as_octets(2)),
    "not canonical": (as_octets(P + 4), NINE),
    "a set high bit": (as_octets(4 + 2**255), NINE),
    "the other not canonical": (NINE, as_octets(P + 4)),
    "the other with a set high bit": (NINE, as_octets(4 + 2**255)),
}


@pytest.mark.parametrize(("point", "other"), NO_PARTNER.values(), ids=NO_PARTNER)
def test_points_without_a_partner(backend: curve.Backend, point: bytes, other: bytes) -> None:
    good = split(POINTS)
    for at, sign in [(0, 0), (7, 1), (19, 0)]:
        with pytest.raises(SelfCheckError, match="a point has no partner") as caught:
            curve.partners(b"".join([*good[:at], point, *good[at + 1 :]]), other, bytes([sign]) * 20)
        assert caught.value.code == 70


def test_a_partner_of_zero_is_none(backend: curve.Backend) -> None:
    """The inverse is the sum with the point of order two, which has u = 0. The other partner is right."""
    inverse = as_octets(pow(9, -1, P))
    found = []
    for sign in (b"\0", b"\1"):
        with suppress(SelfCheckError):
            found.append(curve.partners(NINE, inverse, sign))
    assert len(found) == 1
    assert curve.are_partners(NINE + found[0], inverse)
    assert any(found[0])


# The relation -------------------------------------------------------------------------------------------------------


def test_partners_belong_together() -> None:
    for point, partners in zip(split(POINTS), both(POINTS, NINE), strict=True):
        for partner in partners:
            # It holds in all orders of the three.
            for first, second, third in [(point, partner, NINE), (partner, point, NINE), (point, NINE, partner)]:
                assert curve.are_partners(first + second, third)
        assert not curve.are_partners(b"".join(partners), NINE)
        assert add(point, NINE) in partners


def test_others_do_not() -> None:
    pairs = [point + partners[0] for point, partners in zip(split(POINTS), both(POINTS, NINE), strict=True)]
    assert curve.are_partners(b"".join(pairs), NINE)
    assert not curve.are_partners(b"".join(pairs), as_octets(4))
    for at in (0, 1, 10, 19):
        for wrong in (pairs[at][:32] * 2, pairs[at][:32] + pairs[at - 1][32:], NINE + pairs[at][:32]):
            assert not curve.are_partners(b"".join([*pairs[:at], wrong, *pairs[at + 1 :]]), NINE)
    # Neighbours that are not of the same pair.
    assert not any(curve.are_partners(a[32:] + b[:32], NINE) for a, b in pairwise(pairs))


def test_the_relation_needs_whole_points() -> None:
    with pytest.raises(InternalError):
        curve.are_partners(bytes(63), NINE)
    with pytest.raises(InternalError):
        curve.are_partners(bytes(64), bytes(31))


# The point of a bin -------------------------------------------------------------------------------------------------


def test_known_answer_of_the_point_of_a_bin(backend: curve.Backend) -> None:
    found = curve.point_of_bin(TASK_SID)
    assert found.hex() == "78fbea97faf18efc331bf87aed5fbd10b658f951100b4d281c84ec3229710676"
    assert found == backend.hash_to_points(curve.packed_items([b""]), TASK_SID + b"\x03", curve.DST)
    assert curve.on_curve(found)
    assert curve.point_of_bin(TASK_SID[::-1]) != found
    with pytest.raises(InternalError):
        curve.point_of_bin(bytes(31))
