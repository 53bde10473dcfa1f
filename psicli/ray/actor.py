"""The actor that computes bins on a node of the cluster. psicli imports this module there, and on the head to name it.

An actor holds the workers of one or more bins. It starts to mask a bin's items as soon as it has them, in the order in
which the bins came, so that a node never waits while it could compute. The peer's frames take turns with this.

A call returns a header and parts of octets. It never raises an exception, because Ray would log its text and its
traceback.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from psicli import curve
from psicli.core.errors import LocalProtocolError, PsicliError
from psicli.exchange.worker import Worker
from psicli.items.encoding import packed
from psicli.items.partitions import BinItems

# Ray carries arguments and results below 100 KiB within its calls. Larger ones would go through its object store, which
# takes longer and shows them to other processes of the node [bytes].
PART_BYTES = 90_000
# Ray carries about 10 MB within one call.
PARTS_A_CALL = 50
# How many calls of a method may run at the same time; no method waits for another one.
AT_ONCE = {
    "start": 1, "give": 1, "begin": 1, "mask_own": 4, "mask_peer": 2, "keep_tokens": 1, "check": 1, "match": 1,
    "count": 1, "permuted_tokens": 2, "sealed_order_secret": 1, "forget": 1,
}  # fmt: skip
_SEAL_INFO = b"psicli order secret"

Recipe = Callable[..., BinItems]
# The class and the facts of an error.
Failure = tuple[str, dict[str, object]]


class Span(NamedTuple):
    """When a frame was computed, by the clock of its node [ns], and in which of the turns that the node has at once."""

    began: int
    ended: int
    lane: int


class Header(NamedTuple):
    """How a call ended. failure: the error that ended it; busy: how long the actor has computed in all [ns]."""

    failure: Failure | None
    span: Span | None
    busy: int


def parts_of(octets: bytes) -> list[bytes]:
    """Divide octets into parts that fit into a call."""
    return [octets[start : start + PART_BYTES] for start in range(0, len(octets), PART_BYTES)]


def number_of_parts(octets: int) -> int:
    """Return how many parts `parts_of` makes of this many octets [bytes]."""
    return -(-octets // PART_BYTES)


class BinActor:
    """Workers of bins, by the numbers that the head gives them. cpus: the cores that they may use."""

    def __init__(self, cpus: int) -> None:
        # No core dumps: with a scalar from a dump and the points that were sent, anybody could guess every item.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        curve.set_threads(cpus)
        # While one frame waits for its last parts, the next one supplies new parts to the kernel's threads.
        self._cores = Cores(1 if cpus == 1 else 2)
        self._bins: dict[int, _Bin] = {}
        # The octets of items that the head has read, by bin and place, until the bin begins.
        self._given: dict[int, dict[int, bytes]] = {}
        self._to_mask: list[_Bin] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._mask_ahead, name="psicli-ahead", daemon=True).start()

    def start(self) -> Any:
        """Check the kernel; return the process id and the clock of this node [ns]."""

        def start() -> bytes:
            curve.self_test()
            return b"%d %d" % (os.getpid(), time.perf_counter_ns())

        return self._reply(1, start)

    def give(self, number: int, place: int, *parts: bytes) -> Any:
        """Keep octets for the recipe of a bin. place: where they come among all that are given."""

        def give() -> None:
            with self._changed:
                self._given.setdefault(number, {})[place] = b"".join(parts)

        return self._reply(0, give)

    def begin(
        self, number: int, sid: bytes, sizes: tuple[int, int, int], how: dict[str, bool], recipe: Recipe, *loaded: Any
    ) -> Any:
        """Make the worker of a bin, and begin to mask its items.

        sizes: own capacity, peer's capacity, size of a frame [items]; recipe: makes the items of the bin from what was
        in Ray's object store, or else from the octets that were given.
        """

        def begin() -> None:
            with self._changed:
                given = self._given.pop(number, {})
            items = recipe(*loaded) if loaded else recipe(b"".join(given[place] for place in sorted(given)))
            made = _Bin(Worker(sid, items, *sizes, **how), sizes[0], sizes[2])
            with self._changed:
                self._bins[number] = made
                self._to_mask.append(made)
                self._changed.notify_all()

        return self._reply(0, begin)

    def mask_own(self, number: int, start: int, parts: int) -> Any:
        """Return the masked points of a frame of our items, as Worker.mask_own."""
        return self._reply(parts, lambda: self._bins[number].frame(start))

    def mask_peer(self, number: int, seq: int, parts: int, *points: bytes) -> Any:
        """Mask a frame of the peer's points, as Worker.mask_peer."""

        def mask_peer() -> tuple[bytes | None, Span]:
            with self._cores.turn() as turn:
                tokens = self._bins[number].worker.mask_peer(seq, b"".join(points))
            return tokens, turn.span

        return self._reply(parts, mask_peer)

    def keep_tokens(self, number: int, start: int, *tokens: bytes) -> Any:
        """Keep tokens of our items, as Worker.keep_tokens."""
        return self._reply(0, lambda: self._bins[number].worker.keep_tokens(start, b"".join(tokens)))

    def check(self, number: int) -> Any:
        """Check the complete lists of a bin, as Worker.check."""
        return self._reply(0, lambda: self._bins[number].worker.check())

    def match(self, number: int, parts: int) -> Any:
        """Return which items of a bin matched, as bits, followed by the bitmap for the peer, as Worker.match."""

        def match() -> bytes:
            found = self._bins[number].worker.match(bitmap=True)
            return np.packbits(found.found).tobytes() + found.bitmap

        return self._reply(parts, match)

    def count(self, number: int) -> Any:
        """Return how many items of a bin matched, as Worker.count, in 8 bytes."""
        return self._reply(1, lambda: self._bins[number].worker.count().to_bytes(8, "big"))

    def permuted_tokens(self, number: int, start: int, stop: int, parts: int) -> Any:
        """Return tokens of the peer's points in the second secret order, as Worker.permuted_tokens."""
        return self._reply(parts, lambda: self._bins[number].worker.permuted_tokens(start, stop))

    def sealed_order_secret(self, number: int, public_key: bytes) -> Any:
        """Return the secret of a bin's order, encrypted for the holder of an X25519 key; `unsealed` decrypts it."""
        return self._reply(1, lambda: _sealed(self._bins[number].worker.order_secret, public_key))

    def forget(self, number: int) -> None:
        """Wipe the scalar of a bin and free its lists; does nothing for a bin that there is not."""
        with self._changed:
            found = self._bins.pop(number, None)
            self._given.pop(number, None)
        if found is not None:
            found.stop()

    def _reply(self, parts: int, call: Callable[[], Any]) -> Any:
        """Return a header, then `parts` parts of the octets that a call returned, with or without a span."""
        failure, octets, span = None, None, None
        try:
            octets = call()
            if isinstance(octets, tuple):
                octets, span = octets
        except BaseException as exc:
            failure = _described(exc)
        found = parts_of(octets or b"")
        header = Header(failure, span, self._cores.busy)
        # Ray wants as many results as the head has asked for, even after a failure, and a single one not in a list.
        return [header, *found[:parts], *[b""] * (parts - len(found))] if parts else header

    def _mask_ahead(self) -> None:
        """Mask the items of all bins, one bin after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._to_mask)
                first = self._to_mask[0]
            while first.is_left:
                with self._cores.turn() as turn:
                    first.mask_next(turn)
            with self._changed:
                self._to_mask.remove(first)


class _Bin:
    """A worker, and the frames of its own points that are masked and not fetched yet."""

    def __init__(self, worker: Worker, own: int, frame_items: int) -> None:
        self.worker = worker
        self._spans = deque((start, min(start + frame_items, own)) for start in range(0, own, frame_items))
        self._frames: dict[int, tuple[bytes, _Turn]] = {}
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def is_left(self) -> bool:
        """Whether there are items to mask."""
        return bool(self._spans) and self._failure is None

    def mask_next(self, turn: _Turn) -> None:
        """Mask the next frame in this turn; if that fails, `frame` raises the error."""
        start, stop = self._spans.popleft()
        try:
            points = self.worker.mask_own(start, stop)
        except BaseException as exc:
            self._fail(exc)
            return
        with self._changed:
            self._frames[start] = points, turn
            self._changed.notify_all()

    def frame(self, start: int) -> tuple[bytes, Span]:
        """Return the points of the frame that starts here, once they are masked; each only once."""
        with self._changed:
            self._changed.wait_for(lambda: start in self._frames or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            points, turn = self._frames.pop(start)
        return points, turn.span

    def stop(self) -> None:
        """Wipe the scalar, and let no call wait for a frame."""
        # First, so that no call returns a frame that is being masked meanwhile, with a wiped scalar.
        self._fail(LocalProtocolError(detail="a bin was computed after its end"))
        self.worker.wipe()

    def _fail(self, exc: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or exc
            self._frames.clear()
            self._changed.notify_all()


class _Turn:
    """A turn to compute: when it began, and in which lane."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self._began = self._ended = time.perf_counter_ns()

    def end(self) -> None:
        self._ended = time.perf_counter_ns()

    @property
    def span(self) -> Span:
        return Span(self._began, self._ended, self.lane)


class Cores:
    """Lets calls compute in the order in which they came. at_once: how many compute at the same time."""

    def __init__(self, at_once: int) -> None:
        self._free = [*range(at_once)]
        self._at_once = at_once
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()
        # How long at least one call has computed [ns]; while one does, the time when it began is subtracted.
        self._total = 0

    @property
    def busy(self) -> int:
        """How long at least one call has computed [ns]."""
        with self._changed:
            return self._total + (time.perf_counter_ns() if len(self._free) < self._at_once else 0)

    @contextmanager
    def turn(self) -> Iterator[_Turn]:
        """Wait for a turn, which lasts until the end of the block."""
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: self._free and self._waiting[0] is mine)
            self._waiting.popleft()
            if len(self._free) == self._at_once:
                self._total -= time.perf_counter_ns()
            turn = _Turn(self._free.pop())
            self._changed.notify_all()
        try:
            yield turn
        finally:
            with self._changed:
                turn.end()
                self._free.append(turn.lane)
                if len(self._free) == self._at_once:
                    self._total += time.perf_counter_ns()
                self._changed.notify_all()


def octets_of(items: pa.LargeBinaryArray) -> bytes:
    """Return items as octets: the offsets of all, and their data."""
    offsets, data = packed(items)
    return offsets.tobytes() + data.tobytes()


def items_of(count: int, octets: bytes) -> BinItems:
    """Return the items of a bin, given what `octets_of` returned."""
    size = 8 * (count + 1)
    buffers = [pa.py_buffer(each) for each in (memoryview(octets)[:size], memoryview(octets)[size:])]
    items = pa.Array.from_buffers(pa.large_binary(), count, [None, *buffers])
    return BinItems(np.arange(count), lambda places: items.take(pa.array(places)))


def _described(exc: BaseException) -> Failure:
    """Describe an error: psicli's own by its facts, which hold no key, any other by its class alone."""
    if isinstance(exc, PsicliError):
        return type(exc).__name__, exc.facts
    return "", {"kind": type(exc).__name__}


def _sealed(secret: bytes, public_key: bytes) -> bytes:
    """Encrypt a secret for the holder of an X25519 key: a fresh public key, followed by the ciphertext."""
    mine = X25519PrivateKey.generate()
    public = mine.public_key().public_bytes_raw()
    key = _seal_key(mine.exchange(X25519PublicKey.from_public_bytes(public_key)), public)
    return public + ChaCha20Poly1305(key).encrypt(bytes(12), secret, None)


def unsealed(sealed: bytes, private_key: X25519PrivateKey) -> bytes:
    """Decrypt what BinActor.sealed_order_secret has returned; raises InvalidTag if it has been changed."""
    public, ciphertext = sealed[:32], sealed[32:]
    key = _seal_key(private_key.exchange(X25519PublicKey.from_public_bytes(public)), public)
    return ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, None)


def _seal_key(shared: bytes, public: bytes) -> bytes:
    # This key encrypts one secret, because the sealing key pair is fresh; so the nonce may be zero.
    return HKDF(SHA256(), 32, salt=public, info=_SEAL_INFO).derive(shared)
