"""The base oblivious transfers: the party that offers has two keys for each bit, and the one that chooses learns one.

For each bit, the chooser sends two points, as Naor and Pinkas do (SODA 2001): it draws the scalar of one of them, and
the other one is the sum or the difference, at random, of that point and the point of the bin. The other party refuses
pairs that do not belong together in this way. Nobody knows the scalar of the point of the bin, and who knew the scalars
of both points of a pair would know that one, too. Either point of a pair can be the one that was drawn, with the same
probability, so that nobody else can tell which is which. The other party multiplies both by one scalar; the chooser can
compute only one of these products. Each key is the hash of a product, of its side, and of all that was sent. With the
side, the two keys differ even for a pair that a chooser has made so that its products are equal. The chooser is
psicli's sender.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from psicli import curve
from psicli.core.peer_errors import PeerProtocolError
from psicli.curve import POINT_BYTES, SCALAR_BYTES
from psicli.curve import reference as openssl
from psicli.ole import digests
from psicli.ole.blocks import BLOCK_BYTES, Bits, Blocks, bit_masks, bits, from_bytes, wipe
from psicli.protocol.rr22.sizes import DELTA_BITS

PREFIX = b"psicli/v1/rr22/ot\0"
_PAIR_BYTES = 2 * POINT_BYTES
# What gives a key: the number of the extension and of the pair in it, the side, the pair, a point, and a product.
_RECORD_BYTES = 3 + _PAIR_BYTES + 2 * POINT_BYTES

# Shape (n, 32): packed scalars, in memory that can be wiped.
Scalars = npt.NDArray[np.uint8]


def choose(bin_sid: bytes, choices: Blocks) -> tuple[bytes, Scalars]:
    """Return two packed points for each bit of the choices, and the scalars of the points at the chosen places.

    Constant time in choices and scalars on the native backend of the curve.
    """
    count = 64 * choices.size
    scalars = np.frombuffer(bytearray(os.urandom(SCALAR_BYTES * count)), np.uint8).reshape(count, SCALAR_BYTES)
    signs = bytearray(os.urandom(count))
    known = bytearray().join(_own_point(scalar.data) for scalar in scalars)
    first, second = _words(known), _words(curve.partners(known, curve.point_of_bin(bin_sid), signs))
    chosen = bit_masks(choices)
    swapped = (first ^ second) & chosen[:, None]
    points = np.stack([first ^ swapped, second ^ swapped], axis=1).tobytes()
    wipe(first, second, chosen, swapped)
    signs[:] = bytes(count)
    return points, scalars


def offer(bin_sid: bytes, points: bytes) -> tuple[bytes, Blocks]:
    """Return this party's packed point and both keys for each pair of the peer's points: shape (2n, 2).

    Raises PeerProtocolError for points that an honest peer never sends. Constant time in the scalar.
    """
    scalar = bytearray(os.urandom(SCALAR_BYTES))
    own = _own_point(scalar)
    products, bad = curve.mask(points, scalar)
    scalar[:] = bytes(SCALAR_BYTES)
    if bad or not curve.on_curve(points):
        raise _invalid_point()
    if not curve.are_partners(points, curve.point_of_bin(bin_sid)):
        raise PeerProtocolError(detail="it sent two points for an oblivious transfer that do not belong together")
    sides = np.tile(np.arange(2, dtype=np.uint8), len(points) // _PAIR_BYTES)
    return own, _keys(bin_sid, points, own, sides, products)


def open_chosen(bin_sid: bytes, points: bytes, choices: Blocks, scalars: Scalars, peer: bytes) -> Blocks:
    """Return the chosen key of each pair. points, scalars: as `choose` returned them; peer: the peer's packed point.

    Raises PeerProtocolError for a point that an honest peer never sends. Constant time in choices and scalars.
    """
    if not curve.on_curve(peer):
        raise _invalid_point()
    products, sides = bytearray(scalars.size), bits(choices)
    for at, scalar in enumerate(scalars):
        products[POINT_BYTES * at : POINT_BYTES * (at + 1)] = _product(peer, scalar.data)
    made = _keys(bin_sid, points, peer, sides, products)
    wipe(sides)
    products[:] = bytes(len(products))
    return made


def _keys(bin_sid: bytes, points: bytes, point: bytes, sides: Bits, products: bytes | bytearray) -> Blocks:
    """Return the keys that products give, one pair after the other, as many of each. Constant time in the sides."""
    pairs = len(points) // _PAIR_BYTES
    records = np.empty((pairs, len(sides) // pairs, _RECORD_BYTES), np.uint8)
    numbers = np.arange(pairs)[:, None]
    records[..., 0], records[..., 1] = numbers // DELTA_BITS, numbers % DELTA_BITS
    records[..., 2] = sides.reshape(pairs, -1)
    records[..., 3:67] = np.frombuffer(points, np.uint8).reshape(pairs, 1, -1)
    records[..., 67:99] = np.frombuffer(point, np.uint8)
    records[..., 99:] = np.frombuffer(products, np.uint8).reshape(pairs, -1, POINT_BYTES)
    made = digests(records.reshape(len(sides), -1), PREFIX + bin_sid, BLOCK_BYTES)
    wipe(records)
    return from_bytes(memoryview(bytearray(made)))


def _own_point(scalar: bytearray | memoryview) -> bytes:
    """Return the product of the base point. RFC 7748 section 6.1."""
    return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()


def _product(point: bytes, scalar: memoryview) -> bytes:
    """Return the product of a packed point with a scalar of its own, which OpenSSL computes faster than the kernel."""
    product, bad = openssl.mask(memoryview(point), scalar)
    if bad:
        raise _invalid_point()
    return product


def _invalid_point() -> PeerProtocolError:
    return PeerProtocolError(detail="it sent an invalid point for an oblivious transfer")


def _words(points: bytes | bytearray) -> npt.NDArray[np.uint64]:
    return np.frombuffer(points, "<u8").reshape(-1, POINT_BYTES // 8)
