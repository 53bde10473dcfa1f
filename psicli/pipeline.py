"""Carry out the work of tasks: compute what the protocol hands out, in the background, several pieces at a time.

    link's inbox ──> session's thread ──> party.receive ──> party.next_work ──> begin ──┐
      8 frames          │      ▲                                                        │  at most `depth`
                        │      └── complete, in order <── computing: 2 threads <────────┤  pieces a task
    link's outbox <─────┘                                  └> curve's pool: `threads`   │
      8 frames                                             committing: 1 thread <───────┘
                                                           writing one-sided results: 1 thread

The session's thread moves messages and keeps the books; it never computes. The link's own threads send and receive
beside it, another thread reads the next task's input. Every queue is bounded: a full outbox stops the handing out of
work that sends, a full inbox stops the peer. The first failure in the order of the work is the one that is told.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from psicli import curve, failpoints, signals, trace
from psicli.checkpoint import Checkpoint, Marks
from psicli.errors import LocalProtocolError, PeerProtocolError, SelfCheckError
from psicli.protocol import (
    CheckLists,
    CutBitmap,
    History,
    KeepBits,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    Match,
    Message,
    Phase,
    PublishOutput,
    StageOutput,
    Stream,
    TaskParty,
    Work,
)
from psicli.spool import Cut, Mask, Records, Storage
from psicli.trace import Stage, Stages

# Points of a frame that are proven to lie on the curve: a peer that skips the hash to the curve passes one frame with
# probability 2^-64 [items].
SAMPLED_POINTS = 64

T = TypeVar("T")

_FILE_WORK = StageOutput | PublishOutput

# What one list of a task may take of the memory there is for data: there are three of points and two of tokens, and
# while one task's are complete the next task's grow.
_POINTS_PART = 1 / 24
_TOKENS_PART = 1 / 48


class Output(Protocol):
    """Where the matched rows go."""

    def check(self, matched: Mask) -> None:
        """Raise PolicyError for a result that this party does not allow; called before a bitmap is sent."""

    def stage(self, matched: Mask) -> None:
        """Write the rows of the matched items to a temporary file and make it durable."""

    def publish(self) -> None:
        """Put the staged file in place."""


class Keeper(Protocol):
    """What an earlier run has left of a task, and what this one leaves. Called beside the session's thread."""

    @property
    def history(self) -> History | None:
        """What the earlier run's frames were, where the task may go on from them."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Its checkpoint."""

    def start_over(self) -> tuple[Any, Output | None]:
        """Drop it, and return items and output prepared under fresh secrets; raises PsicliError."""

    def conclude(self) -> None:
        """Keep that the task is through on this side."""

    def begin(self, party: TaskParty, scalar: bytes) -> Checkpoint | None:
        """Return a new checkpoint of a task that both sides have opened, None where none is kept."""


@dataclass(frozen=True)
class Prepared:
    """A task ready to be opened: distinct items in their secret order, where rows go, who keeps a checkpoint."""

    items: Any
    output: Output | None
    keeper: Keeper | None = None


class Crew:
    """Who works beside the session's own thread, for all its tasks.

    depth: pieces of work a task may have under way: one at work, its parts shared among the curve's threads, the others
    so that these never wait for the next. wake: called after each piece.
    """

    def __init__(self, depth: int, wake: Callable[[], None]) -> None:
        self.depth = depth
        self._wake = wake
        # Two, so that one's parts are at hand while the other's last ones are waited for.
        self._computing = ThreadPoolExecutor(2, "psicli-compute")
        self._committing = ThreadPoolExecutor(1, "psicli-committer")
        self._writing = ThreadPoolExecutor(1, "psicli-writer")

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._submit(self._computing, work, *arguments)

    def commit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have file work done that the peer waits for, one piece at a time."""
        return self._submit(self._committing, work, *arguments)

    def write(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a one-sided result written, one at a time.

        Nothing the peer waits for may queue behind it: how long it takes tells of matches.
        """
        return self._submit(self._writing, work, *arguments)

    def dismiss(self) -> None:
        """Begin nothing more; what is at work goes on."""
        for executor in (self._computing, self._committing, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, executor: Executor, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = executor.submit(work, *arguments)
        future.add_done_callback(lambda _: self._wake())
        return future


@dataclass
class _UnderWay:
    """A piece of work the machine handed out, and what it comes to."""

    work: Work
    done: Future[Any]


class _Lists:
    """The records a task keeps until its lists are complete, in memory or on disk: both counts are known."""

    def __init__(self, party: TaskParty, storage: Storage) -> None:
        own, peer = party.own_count, party.peer_count
        points, tokens = _cuts(max(own, peer), storage)
        # The sender of points gets tokens and makes them; who answers points keeps none.
        kept = not party.answers_points
        # The peer may have declared any number of items: what will not fit is found out before any of it is taken.
        storage.expect(lists_on_disk(own, peer, storage, tokens=kept))
        self.own_points = Records(points, own)
        self.peer_points = Records(points, peer)
        self.products = Records(points, peer)
        self.own_tokens = Records(tokens, own * kept)
        self.peer_tokens = Records(tokens, peer * kept)

    def close_points(self) -> None:
        for records in (self.own_points, self.peer_points, self.products):
            records.close()

    def close(self) -> None:
        self.close_points()
        self.own_tokens.close()
        self.peer_tokens.close()


def lists_on_disk(own: int, peer: int, storage: Storage, *, tokens: bool) -> int:
    """Return what a task's lists take on disk for want of memory [bytes]; tokens: whether this party keeps them."""
    points, kept = _cuts(max(own, peer), storage)
    size = sum(points.disk_bytes(records) for records in (own, peer, peer))
    return size + sum(kept.disk_bytes(records * tokens) for records in (own, peer))


def _cuts(longest: int, storage: Storage) -> tuple[Cut, Cut]:
    points = Cut(curve.POINT_BYTES, longest, storage.share(_POINTS_PART), storage.spool)
    return points, Cut(curve.TOKEN_BYTES, longest, storage.share(_TOKENS_PART), storage.spool)


class TaskExchange:
    """One task's exchange with the peer, over this party's items in their secret order.

    Feed it messages and let it take steps; both return the messages to send. Work is begun as it comes, up to `depth`
    pieces of it, and completed in the same order; what costs time, and file work,
    the crew does. Whatever changes the exchange's own state does so in the caller's thread.
    matched: the own items [n booleans, secret order] the peer has too, once known. stages: where the time goes.
    """

    def __init__(self, party: TaskParty, prepared: Prepared, crew: Crew, stages: Stages, storage: Storage) -> None:
        self.party = party
        self.stages = stages
        self.matched: Mask | None = None
        self._items = prepared.items
        self._output = prepared.output
        self._keeper = prepared.keeper
        self._checkpoint: Checkpoint | None = None
        # The work before the first piece, where a checkpoint is taken up, dropped or begun.
        self._settling: Future[None] | None = None
        self._crew = crew
        self._under_way: deque[_UnderWay] = deque()
        # A bytearray, so that it can be overwritten; fresh for every task and party.
        self._scalar = bytearray(os.urandom(32))
        self._storage = storage
        self._bitmap = b""
        self._bits = bytearray()

    def step(self, *, room: bool) -> list[Message] | None:
        """Complete what is through, else begin something; return what to send, or None when there is nothing to do now.

        Raises PeerProtocolError, SelfCheckError, and what the output raises: what the oldest work under way raised.
        """
        if not self._is_settled():
            return None
        if self._under_way and self._under_way[0].done.done():
            oldest = self._under_way.popleft()
            with trace.span("keep"):
                result = self._take(oldest.work, oldest.done.result())
            messages = self.party.completed(oldest.work, result)
            self._save_if_due()
            return messages
        if len(self._under_way) < self._crew.depth:
            work = self.party.next_work(room=room)
            if work is not None:
                self._under_way.append(_UnderWay(work, self._begin(work)))
                return []
        return None

    @property
    def pieces(self) -> int:
        """Pieces of work under way."""
        return len(self._under_way) + (self._settling is not None and not self._settling.done())

    @property
    def writing(self) -> Future[Any] | None:
        """The file work under way."""
        return next((each.done for each in self._under_way if isinstance(each.work, _FILE_WORK)), None)

    def keep(self, patience: float) -> bool:
        """Return whether the output stays although the link is gone, and see that it is in place.

        After Commit both sides keep their outputs, whatever becomes of the link. Waits for patience [s] at most; a
        signal ends the wait too.
        """
        if self.party.phase is not Phase.COMMITTED:
            return False
        deadline = time.monotonic() + patience
        while self.step(room=True) is not None or self._under_way:
            signals.check()
            wait([each.done for each in self._under_way], signals.SLICE)
            if time.monotonic() >= deadline:
                return False
        return True

    @cached_property
    def _lists(self) -> _Lists:
        return _Lists(self.party, self._storage)

    def wipe(self) -> None:
        """Overwrite the scalar; nothing can be masked any more."""
        self._scalar[:] = bytes(len(self._scalar))

    def match(self) -> Mask:
        """Return which own items the peer has too; the receiver's lists must be complete."""
        with self.stages.at(Stage.MATCHING, "match"):
            if self.party.resumption is not None and self.party.resumption.over:
                # An earlier run was through with the peer, but not with its own result.
                self._restore()
            self.matched = self._lists.own_tokens.found_in(self._lists.peer_tokens)
            failpoints.passage("matches.found")
            self._lists.close()
            return self.matched

    # The checkpoint

    def _is_settled(self) -> bool:
        """Return whether work may begin; see that the checkpoint is seen to, once both sides have opened the task."""
        if self._keeper is None or self.party.phase is Phase.OPENING:
            return True
        if self._settling is None:
            self._settling = self._crew.compute(self._settle, self._keeper)
        if not self._settling.done():
            return False
        self._settling.result()
        return True

    def _settle(self, keeper: Keeper) -> None:
        if self.party.resumption is not None:
            self._restore()
            return
        if keeper.history is not None:
            self._items, self._output = keeper.start_over()
        self._checkpoint = keeper.begin(self.party, bytes(self._scalar))

    def _restore(self) -> None:
        """Take the secrets and the frames of an earlier run for our own."""
        resumption = self.party.resumption
        if self._keeper is None or self._keeper.checkpoint is None or resumption is None:
            raise LocalProtocolError(detail="a task goes on from nothing")
        kept = self._checkpoint = self._keeper.checkpoint
        if not resumption.over:
            self._scalar[:] = kept.scalar
            kept.forget_scalar()
            own, peer = resumption.frames[self.party.own_stream], resumption.frames[self.party.peer_stream]
            kept.go_on_from(own, peer, resumption.frames[Stream.TOKENS])
            self._restore_points(kept)
        if not self.party.answers_points:
            for products in kept.products():
                self._lists.peer_tokens.append(curve.tokens(products, self.party.task_sid))
            for tokens in kept.tokens():
                self._lists.own_tokens.append(tokens)

    def _restore_points(self, kept: Checkpoint) -> None:
        lists = self._lists
        for points in kept.own_points():
            lists.own_points.append(points)
        for points, products in zip(kept.peer_points(), kept.products(), strict=True):
            lists.peer_points.append(points)
            lists.products.append(products)

    def _save_if_due(self) -> None:
        kept = self._checkpoint
        if kept is not None and self.party.phase is Phase.EXCHANGE and kept.due():
            marks = kept.marks(self.party.digest_after)
            if marks is not None:
                kept.begin_save()
                self._crew.commit(kept.save, marks)

    def suspend(self) -> None:
        """Save how far the points got, for a later run to go on from."""
        kept, settling = self._checkpoint, self._settling
        if kept is None or settling is None or not settling.done() or settling.exception() is not None:
            # What an earlier run has saved is still being taken up: that is as far as they got.
            return
        if self.party.phase in (Phase.EXCHANGE, Phase.RESULT):
            marks = kept.marks(self.party.digest_after)
            if marks is not None:
                kept.save(marks)

    # Beginning: what may run beside the caller

    def _begin(self, work: Work) -> Future[Any]:
        match work:
            case MaskOwn(start, stop):
                return self._crew.compute(self._mask_own, start, stop)
            case MaskPeer(seq, points):
                return self._crew.compute(self._mask_peer, seq, points)
            case CheckLists():
                # From here on nothing is masked any more.
                self.wipe()
                marks = None if self._checkpoint is None else self._checkpoint.marks(self.party.digest_after)
                return self._crew.compute(self._check_lists, marks)
            case Match():
                return self._crew.compute(self._match_both)
            case StageOutput():
                return self._crew.commit(self._stage)
            case PublishOutput():
                return self._crew.commit(self._publish)
        result: Future[bytes] = Future()
        result.set_result(self._do_at_once(work))
        return result

    def _do_at_once(self, work: Work) -> bytes:
        match work:
            case KeepTokens(tokens):
                self._lists.own_tokens.append(tokens)
                if self._checkpoint is not None:
                    self._checkpoint.add_tokens(tokens)
            case KeepBits(bits):
                self._bits += bits
            case CutBitmap(start, stop):
                return self._bitmap[start // 8 : -(-stop // 8)]
        return b""

    def _mask_own(self, start: int, stop: int) -> bytes:
        seq = start // self.party.chunk_items
        made = None if self._checkpoint is None else self._checkpoint.made_before(seq)
        if made is not None:
            return made
        with self.stages.at(Stage.COMPUTING, "mask own", seq):
            points = curve.hash_and_mask(self._items.slice(start, stop - start), self.party.task_sid, self._scalar)
            if not curve.on_curve(_sample(points)):
                raise SelfCheckError(backend=curve.backend(), detail="an own point does not lie on the curve")
            failpoints.passage("own.masked")
            return points

    def _mask_peer(self, seq: int, points: bytes) -> tuple[bytes, bytes]:
        """Return the products and their tokens."""
        with self.stages.at(Stage.COMPUTING, "mask peer", seq):
            products, bad = curve.mask(points, self._scalar)
            if bad:
                raise PeerProtocolError(detail=f"{len(bad)} points of a frame are not valid points")
            if not curve.on_curve(_sample(points)):
                reason = "its items are not hashed to the curve"
                raise PeerProtocolError(detail=f"a point does not lie on the curve: {reason}")
            failpoints.passage("peer.masked")
            if self._checkpoint is not None and self.party.answers_points:
                self._checkpoint.answer(seq, points)
            with trace.span("tokens"):
                return products, curve.tokens(products, self.party.task_sid)

    def _check_lists(self, marks: Marks | None) -> None:
        """Check the complete lists, whatever matches; a dishonest list must not reach the matching."""
        with self.stages.at(Stage.MATCHING, "check lists"):
            if self._lists.peer_points.any_in(self._lists.own_points):
                raise PeerProtocolError(detail="it sent a point of ours back as its own")
            if self._lists.products.has_duplicates():
                raise PeerProtocolError(detail="two of its points are the same item")
            if self._lists.own_tokens.has_duplicates():
                raise PeerProtocolError(detail="two of its tokens are equal")
            failpoints.passage("lists.checked")
            self._lists.close_points()
            if (
                self._checkpoint is not None
                and marks is not None
                and not (self.party.broadcast or self.party.answers_points)
            ):
                # Before the sender hears that it is not needed any more.
                self._checkpoint.complete(marks)

    def _match_both(self) -> None:
        # Before anything is known: whether this side could go on later must not depend on what matches.
        self._drop_checkpoint()
        with self.stages.at(Stage.MATCHING, "match for the peer"):
            self._bitmap = _pack(self._lists.peer_tokens.found_in(self._lists.own_tokens))
        self._expect_output().check(self.match())

    def _drop_checkpoint(self) -> None:
        """Go on from the points no more: there is one bitmap a task, ever."""
        if self._checkpoint is not None:
            self._checkpoint.clear()

    def _stage(self) -> None:
        self._drop_checkpoint()
        if self.matched is None:
            bits = np.frombuffer(self._bits, dtype=np.uint8)
            self.matched = np.unpackbits(bits, count=self.party.own_count, bitorder="little").astype(bool)
        with self.stages.at(Stage.WRITING, "write output"):
            self._expect_output().stage(self.matched)

    def _publish(self) -> None:
        with self.stages.at(Stage.WRITING, "publish output"):
            self._expect_output().publish()
            if self._keeper is not None:
                # The other side's word that it has done so too may never come.
                self._keeper.conclude()

    # Completing, in the order of beginning

    def _take(self, work: Work, result: Any) -> bytes:
        """Keep what a piece of work came to; return what of it travels."""
        match work:
            case MaskOwn():
                self._lists.own_points.append(result)
                if self._checkpoint is not None:
                    self._checkpoint.add_own(result)
            case MaskPeer(_, points):
                products, tokens = result
                self._lists.peer_points.append(points)
                self._lists.products.append(products)
                if self._checkpoint is not None:
                    self._checkpoint.add_peer(points, products)
                if self.party.answers_points:
                    return cast(bytes, tokens)
                self._lists.peer_tokens.append(tokens)
                return b""
        return result if isinstance(result, bytes) else b""

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
