"""The curve kernel in plain Python, with X25519 from `cryptography`: slow, simple, and the standard for other backends.

Every step has the name that its RFC gives it. Points are affine or homogeneous coordinates on curve25519,
v^2 = u^3 + J*u^2 + u. Field elements are Python integers, and bytes are little-endian u-coordinates. The hash runs in
variable time, because Python's integers do: anybody who can time this process precisely learns a little about an item.
Only the multiplication by the secret scalar runs in constant time; OpenSSL does it.
"""

from __future__ import annotations

from hashlib import sha256, sha512

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from psicli.core.errors import InternalError, SelfCheckError

NAME = "reference"
# The size of a frame [points]: less than a second of work, so that this party answers an abort within two seconds.
FRAME_ITEMS = 2048

P = 2**255 - 19
J = 486662

# RFC 9380 section 8.5: ceil((ceil(log2(p)) + k) / 8) with k = 128.
FIELD_BYTES = 48
# SHA-512, RFC 9380 section 5.3.1.
B_IN_BYTES = 64
S_IN_BYTES = 128

SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
# The c2 of RFC 9380 appendix G.2.1.
C2 = pow(2, (P + 3) // 8, P)


def expand_message_xmd(msg: bytes, dst: bytes, length: int) -> bytes:
    """Return `length` uniform bytes for a message, with SHA-512.

    Raises InternalError beyond the RFC's limits. RFC 9380 section 5.3.1; psicli does not need long DSTs (5.3.3).
    """
    ell = -(-length // B_IN_BYTES)
    if ell > 255 or len(dst) > 255:
        raise InternalError(detail="expand_message_xmd: length or DST too large")
    dst_prime = dst + bytes([len(dst)])
    b_0 = sha512(bytes(S_IN_BYTES) + msg + length.to_bytes(2, "big") + b"\0" + dst_prime).digest()
    blocks = [sha512(b_0 + b"\1" + dst_prime).digest()]
    for i in range(2, ell + 1):
        mixed = int.from_bytes(b_0, "big") ^ int.from_bytes(blocks[-1], "big")
        blocks.append(sha512(mixed.to_bytes(B_IN_BYTES, "big") + bytes([i]) + dst_prime).digest())
    return b"".join(blocks)[:length]


def hash_to_field(msg: bytes, dst: bytes, count: int) -> list[int]:
    """Return `count` field elements for a message (RFC 9380 section 5.2)."""
    uniform = expand_message_xmd(msg, dst, count * FIELD_BYTES)
    return [int.from_bytes(uniform[i * FIELD_BYTES : (i + 1) * FIELD_BYTES], "big") % P for i in range(count)]


def map_to_curve_elligator2(u: int) -> tuple[int, int, int]:
    """Map a field element to a point (xn, xd, y) with x = xn / xd; y has the RFC's sign.

    Variable time. RFC 9380 section 6.7.1, with the single exponentiation of appendix G.2.1 and its variable names.
    """
    tv1 = 2 * u * u % P
    xd = tv1 + 1  # never zero: -1 is a square and 2 is not
    x1n = -J
    gxd = xd * xd * xd % P
    gx1 = x1n * (x1n * x1n + J * x1n * xd + xd * xd) % P  # the curve's right side at x1, times xd^3
    tv3 = gxd * gxd * gxd * gx1 % P
    # gx1 * gxd^3 * (gx1 * gxd^7)^((p - 5) / 8) is a square root of gx1 / gxd times 1, -1, 2 or -2.
    y11 = tv3 * pow(tv3 * gxd * gxd * gxd * gxd, (P - 5) // 8, P) % P
    y1 = y11 if y11 * y11 * gxd % P == gx1 else y11 * SQRT_MINUS_1 % P
    if y1 * y1 * gxd % P == gx1:
        xn, y, odd = x1n, y1, 1
    else:
        # x1 gives no point, so x2 = 2 * u^2 * x1 does. The root of g(x2) = 2 * u^2 * g(x1) follows from the first root.
        gx2 = gx1 * tv1 % P
        y21 = y11 * u * C2 % P
        y2 = y21 if y21 * y21 * gxd % P == gx2 else y21 * SQRT_MINUS_1 % P
        xn, y, odd = x1n * tv1 % P, y2, 0
    # sgn0(y) is 1 for x1 and 0 for x2: the sum of two points depends on it, though a u-coordinate alone does not.
    return xn, xd, y if y % 2 == odd else -y % P


Point = tuple[int, int, int]


def _third_point(n: int, d: int, first: Point, x1: int) -> Point:
    """Return the sum of two points with the same Z, given the slope n / d of the line through them.

    In affine terms, x3 = slope^2 - J - x0 - x1 and y3 = slope * (x0 - x3) - y0. A vertical line (d = 0) gives Z = 0.
    All sums computed from a point with Z = 0 have Z = 0 too, so one check at the end is enough.
    """
    x0, y0, z = first
    dd = d * d % P
    numerator = (n * n * z - (J * z + x0 + x1) * dd) % P
    return numerator * d % P, (n * (x0 * dd - numerator) - y0 * dd * d) % P, z * dd * d % P


def _add(a: Point, b: Point) -> Point:
    x0, y0, z0 = a
    x1, y1, z1 = b
    x0, x1, y0, y1, z = x0 * z1 % P, x1 * z0 % P, y0 * z1 % P, y1 * z0 % P, z0 * z1 % P
    return _third_point(y1 - y0, x1 - x0, (x0, y0, z), x1)


def _double(a: Point) -> Point:
    x, y, z = a
    return _third_point(3 * x * x + 2 * J * x * z + z * z, 2 * y * z, a, x)


def hash_to_curve(msg: bytes, dst: bytes) -> tuple[int, int]:
    """Return the affine point (x, y) of a message.

    Raises SelfCheckError in the cases that no known message reaches: equal x in the addition, or the neutral element as
    the result. Variable time. RFC 9380 section 3, suite curve25519_XMD:SHA-512_ELL2_RO_ (section 8.5, h_eff = 8).
    """
    (xn0, xd0, y0), (xn1, xd1, y1) = (map_to_curve_elligator2(u) for u in hash_to_field(msg, dst, 2))
    point = _add((xn0, y0 * xd0 % P, xd0), (xn1, y1 * xd1 % P, xd1))
    for _ in range(3):  # clear_cofactor: 8 = 2^3
        point = _double(point)
    x, y, z = point
    if z == 0:
        raise SelfCheckError(backend=NAME, detail="an item reached an exceptional case of the hash")
    inverse = pow(z, -1, P)
    return x * inverse % P, y * inverse % P


def hash_to_points(items: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes:
    """Return the packed u-coordinates of prefix ‖ item for every item. Variable time."""
    hashed = (hash_to_curve(prefix + item, dst) for item in items.to_pylist())
    return b"".join(u.to_bytes(32, "little") for u, _ in hashed)


def digests(items: pa.LargeBinaryArray, prefix: bytes, size: int) -> bytes:
    """Return SHA-256(prefix ‖ item)[:size] for every item, packed."""
    return b"".join(sha256(prefix + item).digest()[:size] for item in items.to_pylist())


def mask(points: memoryview, scalar: bytes | bytearray | memoryview) -> tuple[bytes, list[int]]:
    """Multiply packed points by the clamped scalar; return the products and the indices of bad points.

    A bad point is not canonical or has no product (it is of low order); its product is returned as 32 zero bytes.
    Constant time in the scalar. OpenSSL computes the products as in RFC 7748 section 5, except that the RFC accepts
    points that are not canonical, and reduces them.
    """
    key = X25519PrivateKey.from_private_bytes(scalar)
    products, bad = bytearray(len(points)), []
    for start in range(0, len(points), 32):
        point = bytes(points[start : start + 32])
        try:
            if int.from_bytes(point, "little") >= P:
                raise ValueError
            products[start : start + 32] = key.exchange(X25519PublicKey.from_public_bytes(point))
        except ValueError:  # exchange raises this for a product of zero
            bad.append(start // 32)
    return bytes(products), bad


def partners(points: memoryview, other: bytes, signs: bytes | bytearray) -> bytearray:
    """Return the sum or the difference of each packed point and the other one; the lowest bit of its sign chooses.

    Raises SelfCheckError for a point that has none: points that are not canonical, two with the same u, or one on the
    curve and one on its twist. Variable time.
    """
    made, c = bytearray(), int.from_bytes(other, "little")
    for at, sign in enumerate(signs):
        p = int.from_bytes(points[32 * at : 32 * (at + 1)], "little")
        made += _sum_or_difference(p, c, sign & 1).to_bytes(32, "little")
    return made


def _sum_or_difference(p: int, c: int, odd: int) -> int:
    """Return the u-coordinate slope^2 - J - p - c, where the slope is that of the line through the points.

    That is (v_p -+ v_c)^2 / (p - c)^2. With v^2 replaced by the right side of the curve's equation, only the product of
    v_p and v_c remains, of which the even or the odd root is taken.
    """
    square = _right_side(p) * _right_side(c) % P
    root = pow(square, (P + 3) // 8, P)
    root = root if root * root % P == square else root * SQRT_MINUS_1 % P
    if p < P and c < P and p != c and root * root % P == square:
        root = root if root % 2 == odd else P - root
        u = ((p * c + 1) * (p + c) + 2 * J * p * c + 2 * root) * pow(p - c, -2, P) % P
        if u:
            return u
    raise SelfCheckError(backend=NAME, detail="a point has no partner")


def are_partners(points: memoryview, other: bytes) -> bool:
    """Return whether the points of each pair are partners: one is the sum or the difference of the other and this one.

    points: packed pairs of points on the curve. Variable time, because points are public.
    """
    us = [int.from_bytes(points[i : i + 32], "little") for i in range(0, len(points), 32)]
    c = int.from_bytes(other, "little")
    return all(_is_partner(a, b, c) for a, b in zip(us[::2], us[1::2], strict=True))


def _is_partner(a: int, b: int, c: int) -> bool:
    """Return whether a is a root of the polynomial with the u of the sum and the difference of b and c as roots."""
    return ((a - b) ** 2 * c * c - 2 * ((a * b + 1) * (a + b) + 2 * J * a * b) * c + (a * b - 1) ** 2) % P == 0


def hash_and_mask(items: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes | bytearray) -> bytes:
    """Return the packed masked points of prefix ‖ item for every item: the products of mask(hash_to_points(…))."""
    products, bad = mask(memoryview(hash_to_points(items, prefix, dst)), scalar)
    if bad:
        raise SelfCheckError(backend=NAME, detail="a hashed item has no product")
    return products


def tokens(points: memoryview, prefix: bytes) -> bytes:
    """Return SHA-256(prefix ‖ point)[:16] for every packed point, packed."""
    return b"".join(sha256(prefix + points[i : i + 32]).digest()[:16] for i in range(0, len(points), 32))


def on_curve(points: memoryview) -> bool:
    """Return whether all packed points are canonical and on the curve, not on its twist (Euler's criterion)."""
    return all(_is_on_curve(int.from_bytes(points[i : i + 32], "little")) for i in range(0, len(points), 32))


def _is_on_curve(u: int) -> bool:
    return u < P and pow(_right_side(u), (P - 1) // 2, P) in (0, 1)


def _right_side(u: int) -> int:
    return u * (u * u + J * u + 1) % P
