"""Carry out the work of one task: compute what the protocol hands out, send what it answers.

One thread masks, tokenises and checks, one thing after another; the link's two queues let the network run beside it,
and outputs are written in the background. The curve kernel is the only thing here that costs time.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any, Protocol

import numpy as np

from psicli import curve, signals
from psicli.errors import LocalProtocolError, PeerProtocolError, SelfCheckError
from psicli.protocol import (
    CheckLists,
    CutBitmap,
    KeepBits,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    Match,
    Message,
    Phase,
    PublishOutput,
    StageOutput,
    TaskParty,
    Work,
)
from psicli.spool import Mask, Records

# Points of a frame that are proven to lie on the curve: a peer that skips the hash to the curve passes one frame with
# probability 2^-64 [items].
SAMPLED_POINTS = 64


class Output(Protocol):
    """Where the matched rows go."""

    def stage(self, matched: Mask) -> None:
        """Write the rows of the matched items to a temporary file and make it durable."""

    def publish(self) -> None:
        """Put the staged file in place."""


class TaskExchange:
    """One task's exchange with the peer, over this party's items in their secret order.

    Feed it messages and let it take steps; both return the messages to send. File work runs in the background, and
    wake is called when it is through.
    matched: the own items [n booleans, secret order] the peer has too, once known.
    writing: the file work under way.
    """

    def __init__(
        self,
        party: TaskParty,
        items: Any,
        task_sid: bytes,
        output: Output | None,
        background: Executor,
        wake: Callable[[], None],
    ) -> None:
        self.party = party
        self.matched: Mask | None = None
        self._items = items
        self._task_sid = task_sid
        self._output = output
        self._background = background
        self._wake = wake
        self.writing: Future[bytes] | None = None
        # A bytearray, so that it can be overwritten; fresh for every task and party.
        self._scalar = bytearray(os.urandom(32))
        self._own_points = Records(curve.POINT_BYTES)
        self._peer_points = Records(curve.POINT_BYTES)
        self._products = Records(curve.POINT_BYTES)
        self._own_tokens = Records(curve.TOKEN_BYTES)
        self._peer_tokens = Records(curve.TOKEN_BYTES)
        self._bitmap = b""
        self._bits: list[bytes] = []

    def step(self, *, room: bool) -> list[Message] | None:
        """Do one piece of work and return what to send, or None when there is nothing to do now.

        Raises PeerProtocolError, SelfCheckError, and what the output raises.
        """
        work = self.party.next_work(room=room)
        if work is None:
            return None
        if isinstance(work, StageOutput | PublishOutput):
            return self.party.completed(work) if self._written(work) else None
        return self.party.completed(work, self._carry_out(work))

    def keep(self, patience: float) -> bool:
        """Return whether the output stays although the link is gone, and see that it is in place.

        After Commit both sides keep their outputs, whatever becomes of the link. Waits for patience [s] at most; a
        signal ends the wait too.
        """
        if self.party.phase is not Phase.COMMITTED:
            return False
        work = self.party.next_work()
        if self.writing is None and isinstance(work, PublishOutput):
            self._written(work)
        deadline = time.monotonic() + patience
        while self.writing is not None and not self.writing.done():
            signals.check()
            wait([self.writing], signals.SLICE)
            if time.monotonic() >= deadline:
                return False
        if self.writing is not None:
            self.writing.result()
        return True

    def wipe(self) -> None:
        """Overwrite the scalar; nothing can be masked any more."""
        self._scalar[:] = bytes(len(self._scalar))

    def _written(self, work: Work) -> bool:
        """Have file work done in the background; return whether it is through."""
        if self.writing is None:
            self.writing = self._background.submit(self._carry_out, work)
            self.writing.add_done_callback(lambda _: self._wake())
        if not self.writing.done():
            return False
        # What failed stays there, so that nobody tries it a second time.
        self.writing.result()
        self.writing = None
        return True

    def match(self) -> Mask:
        """Return which own items the peer has too; the receiver's lists must be complete."""
        self.matched = self._own_tokens.found_in(self._peer_tokens)
        return self.matched

    def _carry_out(self, work: Work) -> bytes:
        match work:
            case MaskOwn(start, stop):
                return self._mask_own(start, stop)
            case MaskPeer(_, points):
                return self._mask_peer(points)
            case KeepTokens(tokens):
                self._own_tokens.append(tokens)
            case KeepBits(bits):
                self._bits.append(bits)
            case CheckLists():
                self._check_lists()
            case Match():
                self._bitmap = _pack(self._peer_tokens.found_in(self._own_tokens))
                self.match()
            case CutBitmap(start, stop):
                return self._bitmap[start // 8 : -(-stop // 8)]
            case StageOutput():
                self._stage()
            case PublishOutput():
                self._expect_output().publish()
        return b""

    def _mask_own(self, start: int, stop: int) -> bytes:
        points = curve.hash_and_mask(self._items.slice(start, stop - start), self._task_sid, self._scalar)
        if not curve.on_curve(_sample(points)):
            raise SelfCheckError(backend=curve.backend(), detail="an own point does not lie on the curve")
        self._own_points.append(points)
        return points

    def _mask_peer(self, points: bytes) -> bytes:
        products, bad = curve.mask(points, self._scalar)
        if bad:
            raise PeerProtocolError(detail=f"{len(bad)} points of a frame are not valid points")
        if not curve.on_curve(_sample(points)):
            raise PeerProtocolError(detail="a point does not lie on the curve: its items are not hashed to the curve")
        self._peer_points.append(points)
        self._products.append(products)
        tokens = curve.tokens(products, self._task_sid)
        if self.party.answers_points:
            return tokens
        self._peer_tokens.append(tokens)
        return b""

    def _check_lists(self) -> None:
        """Check the complete lists, whatever matches; a dishonest list must not reach the matching."""
        # From here on nothing is masked any more.
        self.wipe()
        if self._peer_points.any_in(self._own_points):
            raise PeerProtocolError(detail="it sent a point of ours back as its own")
        if self._products.has_duplicates():
            raise PeerProtocolError(detail="two of its points are the same item")
        if self._own_tokens.has_duplicates():
            raise PeerProtocolError(detail="two of its tokens are equal")

    def _stage(self) -> None:
        if self.matched is None:
            bits = np.frombuffer(b"".join(self._bits), dtype=np.uint8)
            self.matched = np.unpackbits(bits, count=self.party.own_count, bitorder="little").astype(bool)
        self._expect_output().stage(self.matched)

    def _expect_output(self) -> Output:
        if self._output is None:
            raise LocalProtocolError(detail="a party that learns the result has no output")
        return self._output


def _pack(mask: Mask) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def _sample(points: bytes) -> bytes:
    """Return some of the points, chosen so that nobody can foresee which."""
    count = len(points) // curve.POINT_BYTES
    if count <= SAMPLED_POINTS:
        return points
    chosen = secrets.SystemRandom().sample(range(count), SAMPLED_POINTS)
    return b"".join(points[i * curve.POINT_BYTES : (i + 1) * curve.POINT_BYTES] for i in chosen)
