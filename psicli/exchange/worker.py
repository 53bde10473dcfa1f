"""The worker: computes one bin with its items, secrets and lists, from masking the first point to matching.

A worker knows nothing of sessions and messages: it takes and returns packed points, tokens and bits. Nothing here
assumes that the caller is in the same process; `Workers` says where the workers of a session run. Several threads may
call a worker at the same time, each for a different frame.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import field
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from psicli import curve
from psicli.core import errors
from psicli.core.peer_errors import PeerProtocolError
from psicli.core.records import dataclass
from psicli.items import records
from psicli.items.partitions import BinItems
from psicli.items.records import Mask, Words
from psicli.protocol.streams import Place

ORDER_SECRET_BYTES = 32
# The number of points in each frame that are checked to be on the curve [items]: a peer that does not hash to the curve
# passes the check of a frame with probability 2^-64.
SAMPLED_POINTS = 64
_PADDING_BYTES = 32


@dataclass(frozen=True, slots=True)
class Match:
    """The result of a bin.

    found: one boolean per item of ours: whether the peer has it too; bitmap: one bit per point of the peer.
    """

    found: Mask = field(repr=False)
    bitmap: bytes = field(default=b"", repr=False)


class BinWorker(Protocol):
    """A worker as the exchange sees it, whatever the protocol of the bin; `Worker` says what each method does.

    Every method raises WorkerLostError if the worker no longer exists.
    """

    @property
    def order_secret(self) -> bytes: ...
    def keep_tokens(self, start: int, tokens: bytes) -> None: ...
    def check(self) -> None: ...
    def match(self, *, bitmap: bool = False) -> Match: ...
    def wipe(self) -> None: ...


class PointsWorker(BinWorker, Protocol):
    """A worker of a bin by ECDH, wherever it runs."""

    def mask_own(self, start: int, stop: int) -> bytes: ...
    def mask_peer(self, seq: int, points: bytes) -> bytes | None: ...
    def permuted_tokens(self, start: int, stop: int) -> bytes: ...
    def count(self) -> int: ...


class Workers(Protocol):
    """Where the workers of a session run.

    calls: how many calls of workers may be in progress at the same time. ahead: how many bins get their workers before
    they begin.
    """

    @property
    def calls(self) -> int: ...
    @property
    def ahead(self) -> int: ...

    def open(self) -> None:
        """Begin to start the workers, without waiting for them; the session has begun."""

    def make(self, at: Place, items: BinItems, own: int, peer: int, frame_items: int, **how: bool) -> PointsWorker:
        """Return a worker with fresh secrets for one attempt at a bin; the arguments are those of `Worker`."""


class Lists:
    """The points and tokens of one bin until they are checked, and then their comparison."""

    def __init__(self, own: int, peer: int, *, receives: bool) -> None:
        self.own_points = records.empty(own, curve.POINT_BYTES)
        self.peer_points = records.empty(peer, curve.POINT_BYTES)
        self.own_tokens = records.empty(own if receives else 0, curve.TOKEN_BYTES)
        self.peer_tokens = records.empty(peer, curve.TOKEN_BYTES)
        self.compared: records.Comparison | None = None
        self._tokens_kept = 0
        self._guard = Lock()

    def put_peer(self, start: int, points: bytes, tokens: bytes) -> None:
        """Keep a frame of the peer's points and their tokens."""
        stop = start + len(points) // curve.POINT_BYTES
        self.peer_points[start:stop] = _words(points, curve.POINT_BYTES)
        self.peer_tokens[start:stop] = _words(tokens, curve.TOKEN_BYTES)

    def keep_tokens(self, start: int, tokens: bytes) -> None:
        """Keep the tokens of our items from `start` on, in the order in which the items were sent."""
        words = _words(tokens, curve.TOKEN_BYTES)
        self.own_tokens[start : start + len(words)] = words
        with self._guard:
            self._tokens_kept += len(words)

    def permuted(self, secret: bytes) -> Words:
        """Return the peer's tokens in the order of a secret, and free the lists; they must have been checked."""
        assert self.compared is not None
        tokens = self.compared.other
        self.compared = None
        return tokens[secret_order(secret, len(tokens))]

    def check(self) -> None:
        """Check the complete lists for reflected and duplicate points, and free them; raises PeerProtocolError.

        Duplicates are found by their tokens: equal tokens mean equal products.
        """
        if self._tokens_kept != len(self.own_tokens):
            raise errors.LocalProtocolError(detail="a bin was checked before its lists were complete")
        if records.have_common(self.own_points, self.peer_points):
            raise PeerProtocolError(detail="it sent one of this party's own points back")
        self.own_points = self.peer_points = records.empty(0, curve.POINT_BYTES)
        # One sort of all tokens finds repeats in both lists now, and the common tokens later in `match`.
        self.compared = records.Comparison(self.own_tokens, self.peer_tokens)
        repeats, peer_repeats = self.compared.repeats()
        if peer_repeats:
            raise PeerProtocolError(detail="it sent two points of the same item")
        if repeats:
            raise PeerProtocolError(detail="it sent two equal tokens")
        self.own_tokens = self.peer_tokens = records.empty(0, curve.TOKEN_BYTES)


class Worker:
    """The computation of one attempt at one bin.

    own, peer: the capacity of each party's bin [items]; frame_items: the points in a full frame; counts: whether the
    receiver learns only how many items match; strict: whether to check that all received points are on the curve. The
    worker draws the scalar and the secrets of the orders; the scalar never leaves it.
    """

    def __init__(
        self,
        bin_sid: bytes,
        items: BinItems,
        own: int,
        peer: int,
        frame_items: int,
        *,
        receives: bool,
        counts: bool = False,
        strict: bool = False,
    ) -> None:
        self.order_secret = os.urandom(ORDER_SECRET_BYTES)
        self._sid = bin_sid
        self._items = items
        self._frame_items = frame_items
        self._receives = receives
        self._counts = counts
        self._strict = strict
        # Where the peer only counts: the tokens of its points in an order that has nothing to do with theirs.
        self._permuted: Words | None = None
        # A bytearray, because bytes cannot be wiped.
        self._scalar = bytearray(os.urandom(32))
        self._order = secret_order(self.order_secret, own)
        self._padding = os.urandom(_PADDING_BYTES * (own - len(items)))
        self._lists = Lists(own, peer, receives=receives)

    def mask_own(self, start: int, stop: int) -> bytes:
        """Return the masked points of our items [start, stop) in the secret order; raises SelfCheckError.

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
            raise errors.SelfCheckError(backend=curve.backend(), detail="it computed a point that is not on the curve")
        self._lists.own_points[start:stop] = _words(points, curve.POINT_BYTES)
        return points

    def mask_peer(self, seq: int, points: bytes) -> bytes | None:
        """Mask frame `seq` of the peer's points and keep their tokens; only a sender returns them too.

        A sender whose peer only counts returns them after the checks, from `permuted_tokens`. Raises PeerProtocolError
        for points that an honest peer never sends. Constant time in the scalar.
        """
        products, bad = curve.mask(points, self._scalar)
        if bad:
            raise PeerProtocolError(detail=f"it sent a frame with {errors.counted(len(bad), 'invalid point')}")
        if not curve.on_curve(points if self._strict else _sample(points)):
            raise PeerProtocolError(detail="it sent a point that is not on the curve")
        tokens = curve.tokens(products, self._sid)
        self._lists.put_peer(seq * self._frame_items, points, tokens)
        return None if self._receives or self._counts else tokens

    def keep_tokens(self, start: int, tokens: bytes) -> None:
        """Keep the tokens of our items from `start` on, in the order in which the items were sent; only a receiver."""
        self._lists.keep_tokens(start, tokens)

    def check(self) -> None:
        """Wipe the scalar, check the complete lists and free the points; raises PeerProtocolError.

        The peer waits for this, so its duration must not depend on the matches.
        """
        self.wipe()
        self._lists.check()
        if self._counts and not self._receives:
            self._permuted = self._lists.permuted(os.urandom(ORDER_SECRET_BYTES))

    def permuted_tokens(self, start: int, stop: int) -> bytes:
        """Return the tokens [start, stop) of the peer's points in the second secret order; only a sender, once checked.

        The order is drawn after the checks, and its secret is kept nowhere.
        """
        if self._permuted is None:
            raise errors.LocalProtocolError(detail="a bin was answered before it was checked")
        return self._permuted[start:stop].tobytes()

    def match(self, *, bitmap: bool = False) -> Match:
        """Return the result of a checked bin; bitmap: whether to include the bits for the peer's points."""
        compared = self._lists.compared
        if compared is None or not self._receives or self._counts:
            raise errors.LocalProtocolError(detail="a bin was matched before it was checked")
        found = _by_item(compared.found(), self._order, len(self._items))
        bits = compared.found(in_other=True) if bitmap else np.empty(0, np.bool_)
        return Match(found, np.packbits(bits, bitorder="little").tobytes())

    def count(self) -> int:
        """Return how many items match in a checked bin, and nothing about which; only a receiver that counts."""
        compared = self._lists.compared
        if compared is None or not (self._receives and self._counts):
            raise errors.LocalProtocolError(detail="a bin was counted before it was checked")
        return compared.common()

    def wipe(self) -> None:
        """Wipe the scalar; no point can be masked after this."""
        self._scalar[:] = bytes(len(self._scalar))

    def _padding_at(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        padding = np.frombuffer(self._padding, np.uint8).reshape(-1, _PADDING_BYTES)
        return curve.packed_items([each.tobytes() for each in padding[places]])


class LocalWorkers:
    """Workers in this process: the kernel's thread pool computes."""

    # While one call waits for its last parts, the other supplies new parts to the kernel's threads.
    calls = 2
    ahead = 0

    def open(self) -> None:
        """Do nothing: the threads start when they are needed."""

    def make(self, at: Place, items: BinItems, own: int, peer: int, frame_items: int, **how: bool) -> Worker:
        return Worker(at.sid, items, own, peer, frame_items, **how)


def apply_bitmap(bits: bytes, order_secret: bytes, items: int, own: int) -> Mask:
    """Return which of our items in a bin matched according to the receiver's bitmap [one boolean per item].

    bits: one bit per point that was sent, least significant first; items: how many of the `own` points were items, not
    padding. Raises PeerProtocolError if the bitmap marks padding.
    """
    order = secret_order(order_secret, own)
    marked = np.unpackbits(np.frombuffer(bits, np.uint8), count=own, bitorder="little").astype(np.bool_)
    if marked[order >= items].any():
        raise PeerProtocolError(detail="its bitmap marks padding as matched")
    return _by_item(marked, order, items)


def _by_item(marked: Mask, order: npt.NDArray[np.uint32], items: int) -> Mask:
    """Reorder booleans from the order in which the points were sent to the order of the items; drop padding."""
    found = np.zeros(len(order), np.bool_)
    found[order[marked]] = True
    return found[:items]


def secret_order(secret: bytes, count: int) -> npt.NDArray[np.uint32]:
    """Return the numbers 0 to count - 1 in a uniformly random order, determined by the secret.

    The numbers are sorted by the words of a ChaCha20 key stream: with an ordinary generator the peer could compute its
    state from the part of the order that it sees. Among 2^20 words two are equal with probability 2^-25; their numbers
    then stay in ascending order.
    """
    stream = Cipher(ChaCha20(secret, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    return records.stable_order(np.frombuffer(stream, "<u8")).astype(np.uint32)


def _words(packed: bytes, width: int) -> Words:
    return np.frombuffer(packed, "<u8").reshape(-1, width // 8)


def _sample(points: bytes) -> bytes:
    """Return SAMPLED_POINTS of the points, chosen unpredictably, or all if there are fewer."""
    count = len(points) // curve.POINT_BYTES
    if count <= SAMPLED_POINTS:
        return points
    chosen = secrets.SystemRandom().sample(range(count), SAMPLED_POINTS)
    return b"".join(points[i * curve.POINT_BYTES : (i + 1) * curve.POINT_BYTES] for i in chosen)
