"""What computes one bin: its items, its secrets and its lists, from the first point to the match.

A worker knows neither session nor message: it takes and returns packed points, tokens and bits. Nothing here assumes
that whoever calls it is in the same process. Its parts may be called from several threads at a time, each with a frame
of its own.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from psicli import curve
from psicli.core import errors
from psicli.items import records
from psicli.items.partitions import BinItems
from psicli.items.records import Mask, Words

ORDER_SECRET_BYTES = 32
# Points of a frame that are proven to lie on the curve: a peer that skips the hash to the curve passes one frame with
# probability 2^-64 [items].
SAMPLED_POINTS = 64
_PADDING_BYTES = 32


@dataclass(frozen=True, slots=True)
class Match:
    """Which own distinct items the peer has too [a boolean an item], and for the peer a bit for each of its points."""

    found: Mask = field(repr=False)
    bitmap: bytes = field(default=b"", repr=False)


class Lists:
    """The points and tokens of one bin, until they are checked; then how they compare."""

    def __init__(self, own: int, peer: int, *, receives: bool) -> None:
        self.own_points = records.empty(own, curve.POINT_BYTES)
        self.peer_points = records.empty(peer, curve.POINT_BYTES)
        self.own_tokens = records.empty(own if receives else 0, curve.TOKEN_BYTES)
        self.peer_tokens = records.empty(peer, curve.TOKEN_BYTES)
        self.compared: records.Comparison | None = None
        self._tokens_kept = 0
        self._guard = Lock()

    def put_peer(self, start: int, points: bytes, tokens: bytes) -> None:
        """Keep a frame of the peer's points, and their tokens."""
        stop = start + len(points) // curve.POINT_BYTES
        self.peer_points[start:stop] = _words(points, curve.POINT_BYTES)
        self.peer_tokens[start:stop] = _words(tokens, curve.TOKEN_BYTES)

    def keep_tokens(self, tokens: bytes) -> None:
        """Keep the next tokens of own items, in the order the items were sent."""
        words = _words(tokens, curve.TOKEN_BYTES)
        with self._guard:
            self.own_tokens[self._tokens_kept : self._tokens_kept + len(words)] = words
            self._tokens_kept += len(words)

    def check(self) -> None:
        """Check the complete lists and let them go; raises PeerProtocolError. Equal tokens stand for equal products."""
        if self._tokens_kept != len(self.own_tokens):
            raise errors.LocalProtocolError(detail="a bin is checked before its lists are complete")
        if records.have_common(self.own_points, self.peer_points):
            raise errors.PeerProtocolError(detail="it sent a point of ours back as its own")
        self.own_points = self.peer_points = records.empty(0, curve.POINT_BYTES)
        # One sort of all tokens answers three questions; the third, which of them are common, waits for `match`.
        self.compared = records.Comparison(self.own_tokens, self.peer_tokens)
        repeats, peer_repeats = self.compared.repeats()
        if peer_repeats:
            raise errors.PeerProtocolError(detail="two of its points are the same item")
        if repeats:
            raise errors.PeerProtocolError(detail="two of its tokens are equal")
        self.own_tokens = self.peer_tokens = records.empty(0, curve.TOKEN_BYTES)


class Worker:
    """One attempt at one bin.

    own, peer: to how many items each side's bin is padded; frame_items: points in a frame, all but the last. The
    scalar and the secret of the order are drawn here; the scalar never leaves.
    """

    def __init__(
        self, bin_sid: bytes, items: BinItems, own: int, peer: int, frame_items: int, *, receives: bool
    ) -> None:
        self.order_secret = os.urandom(ORDER_SECRET_BYTES)
        self._sid = bin_sid
        self._items = items
        self._frame_items = frame_items
        self._receives = receives
        # A bytearray, so that it can be overwritten.
        self._scalar = bytearray(os.urandom(32))
        self._order = _secret_order(self.order_secret, own)
        self._padding = os.urandom(_PADDING_BYTES * (own - len(items)))
        self._lists = Lists(own, peer, receives=receives)

    def mask_own(self, start: int, stop: int) -> bytes:
        """Return the masked points of own items [start, stop) of the secret order; raises SelfCheckError.

        Constant time in items and scalar on the native backend.
        """
        places = self._order[start:stop]
        padding = places >= len(self._items)
        if not padding.any():
            points = curve.hash_and_mask(self._items.take(places), self._sid, self._scalar)
        else:
            mixed = records.empty(stop - start, curve.POINT_BYTES)
            items = curve.hash_and_mask(self._items.take(places[~padding]), self._sid, self._scalar)
            mixed[~padding] = _words(items, curve.POINT_BYTES)
            padded = self._padding_at(places[padding] - np.uint32(len(self._items)))
            mixed[padding] = _words(
                curve.hash_and_mask(padded, self._sid, self._scalar, curve.PADDING_TAG), curve.POINT_BYTES
            )
            points = mixed.tobytes()
        if not curve.on_curve(_sample(points)):
            raise errors.SelfCheckError(backend=curve.backend(), detail="an own point does not lie on the curve")
        self._lists.own_points[start:stop] = _words(points, curve.POINT_BYTES)
        return points

    def mask_peer(self, seq: int, points: bytes) -> bytes | None:
        """Mask frame `seq` of the peer's points: return the tokens if this is the sender, else keep them.

        Raises PeerProtocolError for points nobody makes who follows the protocol. Constant time in the scalar.
        """
        products, bad = curve.mask(points, self._scalar)
        if bad:
            raise errors.PeerProtocolError(detail=f"{len(bad)} points of a frame are not valid points")
        if not curve.on_curve(_sample(points)):
            reason = "its items are not hashed to the curve"
            raise errors.PeerProtocolError(detail=f"a point does not lie on the curve: {reason}")
        tokens = curve.tokens(products, self._sid)
        self._lists.put_peer(seq * self._frame_items, points, tokens)
        return None if self._receives else tokens

    def keep_tokens(self, tokens: bytes) -> None:
        """Keep the next tokens of own items, in the order the items were sent; the receiver's alone."""
        self._lists.keep_tokens(tokens)

    def check(self) -> None:
        """Check the complete lists and let the points and the scalar go; raises PeerProtocolError.

        The peer waits for it, so how long it takes does not depend on what matches.
        """
        self.wipe()
        self._lists.check()

    def match(self, *, bitmap: bool = False) -> Match:
        """Return the result of a checked bin; bitmap: also which of the peer's points matched."""
        compared = self._lists.compared
        if compared is None or not self._receives:
            raise errors.LocalProtocolError(detail="a bin is matched before it is checked")
        found = _by_item(compared.found(), self._order, len(self._items))
        bits = compared.found(in_other=True) if bitmap else np.empty(0, np.bool_)
        return Match(found, np.packbits(bits, bitorder="little").tobytes())

    def wipe(self) -> None:
        """Overwrite the scalar; nothing can be masked any more."""
        self._scalar[:] = bytes(len(self._scalar))

    def _padding_at(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        padding = np.frombuffer(self._padding, np.uint8).reshape(-1, _PADDING_BYTES)
        return curve.packed_items([each.tobytes() for each in padding[places]])


def apply_bitmap(bits: bytes, order_secret: bytes, items: int, own: int) -> Mask:
    """Return which of a bin's own items the receiver says that it has too [a boolean an item].

    bits: one for each point that was sent, least significant first; items: how many of the `own` points were items.
    Raises PeerProtocolError where padding is said to match.
    """
    order = _secret_order(order_secret, own)
    marked = np.unpackbits(np.frombuffer(bits, np.uint8), count=own, bitorder="little").astype(np.bool_)
    if marked[order >= items].any():
        raise errors.PeerProtocolError(detail="the bitmap marks padding, which matches nothing")
    return _by_item(marked, order, items)


def _by_item(marked: Mask, order: npt.NDArray[np.uint32], items: int) -> Mask:
    """Bring booleans of points, as they were sent, into the order of the items; padding is dropped."""
    found = np.zeros(len(order), np.bool_)
    found[order[marked]] = True
    return found[:items]


def _secret_order(secret: bytes, count: int) -> npt.NDArray[np.uint32]:
    """Return the numbers 0 to count - 1 in a uniformly random order that only this secret gives.

    They are sorted by words of a key stream: predictable generators could be run backwards from what the peer sees of
    the order. Two of 2^20 words are equal with a chance of 2^-25; these two stand as they were.
    """
    stream = Cipher(ChaCha20(secret, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    return records.stable_order(np.frombuffer(stream, "<u8")).astype(np.uint32)


def _words(packed: bytes, width: int) -> Words:
    return np.frombuffer(packed, "<u8").reshape(-1, width // 8)


def _sample(points: bytes) -> bytes:
    """Return some of the points, chosen so that nobody can foresee which."""
    count = len(points) // curve.POINT_BYTES
    if count <= SAMPLED_POINTS:
        return points
    chosen = secrets.SystemRandom().sample(range(count), SAMPLED_POINTS)
    return b"".join(points[i * curve.POINT_BYTES : (i + 1) * curve.POINT_BYTES] for i in chosen)
