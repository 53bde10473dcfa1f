"""The exchange of one bin: its worker does the work that the protocol hands out, on the session's worker pools."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from psicli.core import errors, failpoints
from psicli.core.stages import Stage, Stages
from psicli.exchange.pools import WorkerPools, WorkInOrder, done
from psicli.exchange.worker import BinWorker, PointsWorker
from psicli.protocol.bins import BinParty
from psicli.protocol.messages import Stream
from psicli.protocol.task import TaskParty
from psicli.protocol.work import (
    CheckLists,
    Compute,
    ComputeAhead,
    KeepTokens,
    MaskOwn,
    MaskPeer,
    PermuteTokens,
    Prepare,
    Work,
)

if TYPE_CHECKING:
    from psicli.exchange.vector_worker import VectorWorker


class BinExchange:
    """One attempt at one bin of a task, and the worker that computes it.

    make_worker: called as the first step; fetches the bin's items and draws its secrets. checked: called once the bin
    has passed its checks.
    """

    def __init__(
        self,
        task: TaskParty,
        party: BinParty,
        pools: WorkerPools,
        stages: Stages,
        make_worker: Callable[[BinParty], BinWorker],
        checked: Callable[[BinParty, BinWorker], None],
    ) -> None:
        self.party = party
        self.work = WorkInOrder(party, self._begin)
        self.worker: BinWorker | None = None
        self._task = task
        self._pools = pools
        self._stages = stages
        self._make_worker = make_worker
        self._checked = checked
        self._closed = False

    def close(self) -> None:
        """Wipe the scalar and drop the worker, even one that is still being made."""
        self._closed = True
        worker = self.release()
        if worker is not None:
            worker.wipe()

    def release(self) -> BinWorker | None:
        """Return the worker and drop our reference, so that its lists are freed as soon as the caller is done."""
        worker, self.worker = self.worker, None
        return worker

    def _begin(self, work: Work) -> Future[Any]:
        match work:
            case Prepare():
                return self._pools.compute(self._prepare)
            case MaskOwn(start, stop):
                return self._pools.compute(self._mask_own, start, stop)
            case MaskPeer(seq, points):
                return self._pools.compute(self._mask_peer, seq, points)
            case CheckLists():
                return self._pools.compute(self._check)
            case PermuteTokens(start, stop):
                return self._pools.compute(self._permuted_tokens, start, stop)
            case Compute(stream, received):
                return self._pools.compute(self._compute, stream, received)
            case ComputeAhead(stream):
                return self._pools.compute(self._compute_ahead, stream)
            case KeepTokens(start, tokens):
                self._ready().keep_tokens(start, tokens)
        return done()

    def _prepare(self) -> None:
        self.worker = self._make_worker(self.party)
        if self._closed:
            self.close()

    def _mask_own(self, start: int, stop: int) -> bytes:
        own, _ = self._first_frames()
        with self._stages.at(Stage.COMPUTING, "mask own", own + start // self._task.setup.frame_items):
            points = self._points().mask_own(start, stop)
            failpoints.hit("own.masked")
            return points

    def _mask_peer(self, seq: int, points: bytes) -> bytes | None:
        _, peer = self._first_frames()
        with self._stages.at(Stage.COMPUTING, "mask peer", peer + seq):
            tokens = self._points().mask_peer(seq, points)
            failpoints.hit("peer.masked")
            return tokens

    def _check(self) -> None:
        with self._stages.at(Stage.MATCHING, "check lists"):
            worker = self._ready()
            worker.check()
            self._checked(self.party, worker)
            failpoints.hit("lists.checked")

    def _permuted_tokens(self, start: int, stop: int) -> bytes:
        return self._points().permuted_tokens(start, stop)

    def _compute(self, stream: Stream, received: bytes) -> bytes:
        with self._stages.at(Stage.COMPUTING, f"compute {stream.name.lower()}"):
            octets = self._vectors().compute(stream, received)
            if stream is Stream.TOKENS:
                # A sender's answer to what the receiver has sent.
                failpoints.hit("peer.masked")
            else:
                failpoints.hit("own.masked")
            return octets

    def _compute_ahead(self, stream: Stream) -> None:
        worker = self._vectors()
        if stream in worker.ahead:
            with self._stages.at(Stage.COMPUTING, worker.ahead[stream]):
                worker.compute_ahead(stream)
            if stream is Stream.VECTOR:
                failpoints.hit("peer.masked")

    def _points(self) -> PointsWorker:
        """Return the worker of a bin by ECDH; there is no such work in other bins."""
        return cast(PointsWorker, self._ready())

    def _vectors(self) -> VectorWorker:
        """Return the worker of a bin by RR22."""
        return cast("VectorWorker", self._ready())

    def _ready(self) -> BinWorker:
        if self.worker is None:
            raise errors.LocalProtocolError(detail="a bin was computed before it was prepared")
        return self.worker

    def _first_frames(self) -> tuple[int, int]:
        """Return the numbers of the bin's first frames within the whole task, (own, peer's), for the trace."""
        own, peer = (-(-each // self._task.setup.frame_items) for each in self._task.capacities)
        return self.party.place.bin * own, self.party.place.bin * peer
