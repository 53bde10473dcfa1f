"""Points that no honest peer sends."""

from __future__ import annotations

from psicli.curve import reference

# All u with a product of zero, canonical or not: orders 1, 2, 4 and 8 on the curve, 1, 2 and 4 on the twist.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


P = reference.P


J = reference.J


# Every u-coordinate of a point of small order on the curve.
SMALL_ORDER = {
    "order 2": bytes(32),
    "order 4": b"\x01" + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8, the other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
}


def as_octets(u: int) -> bytes:
    return u.to_bytes(32, "little")


def right_side(u: int) -> int:
    return (u * u * u + J * u * u + u) % P


def square_root(square: int) -> int:
    """Return a square root modulo p, which is 5 mod 8; fails the test if there is none."""
    root = pow(square, (P + 3) // 8, P)
    root = root if root * root % P == square else root * pow(2, (P - 1) // 4, P) % P
    assert root * root % P == square
    return root


def add(point: bytes, other: bytes, sign: int = 1) -> bytes:
    """Return the u-coordinate of the sum of two points with different u; the signs of their v are arbitrary.

    With the sign -1, return that of their difference.
    """
    u, t = (int.from_bytes(octets, "little") for octets in (point, other))
    slope = (square_root(right_side(u)) - sign * square_root(right_side(t))) * pow(u - t, -1, P) % P
    return as_octets((slope * slope - J - u - t) % P)


def replaced(points: list[bytes], at: int, *others: bytes) -> list[bytes]:
    return [*points[:at], *others, *points[at + len(others) :]]
