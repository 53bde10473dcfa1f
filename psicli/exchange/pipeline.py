"""Carry out the work of tasks: compute what the protocol hands out, in the background, several pieces at a time.

    link's inbox ──> session's thread ──> party.receive ──> next_work ──> begin ────────┐
      8 frames          │      ▲                                                        │  at most `depth`
                        │      └── complete, in order <── computing: 2 threads <────────┤  pieces a bin
    link's outbox <─────┘                                  └> curve's pool: `threads`   │
      8 frames                                             matching: 1 thread <─────────┤
                                                           committing: 1 thread <───────┘
                                                           writing one-sided results: 1 thread

The session's thread moves messages and keeps the books; it never computes. The link's own threads send and receive
beside it, another thread reads the next task's input. Every queue is bounded: a full outbox stops the handing out of
work that sends, a full inbox stops the peer. The first failure in the order of the work is the one that is told.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np

from psicli.core import errors, failpoints, signals, trace
from psicli.core.memory import UNBOUNDED, MemoryPlan
from psicli.core.stages import Stage, Stages
from psicli.exchange.worker import ORDER_SECRET_BYTES, Match, Worker, apply_bitmap
from psicli.items.partitions import Items, Matches
from psicli.protocol.bins import BinParty
from psicli.protocol.messages import Message, Received, TaskMessage
from psicli.protocol.receiver import Receiver
from psicli.protocol.task import Phase, TaskParty
from psicli.protocol.work import (
    CheckLists,
    CutBitmap,
    GatherMatches,
    KeepBits,
    KeepTokens,
    Lane,
    MaskOwn,
    MaskPeer,
    Prepare,
    PublishOutput,
    StageOutput,
    Work,
)
from psicli.storage.spool import Spool

T = TypeVar("T")

_FILE_WORK = StageOutput | PublishOutput
_MATCHES_BYTES = 8


@dataclass(frozen=True)
class Storage:
    """What a run has for its data: a plan of its memory, and a spool for what exceeds it."""

    spool: Spool | None = None
    plan: MemoryPlan = UNBOUNDED


class Output(Protocol):
    """Where the matched rows go."""

    def check(self, matches: Matches) -> None:
        """Raise PolicyError for a result that this party does not allow; called before a bitmap is sent."""

    def stage(self, matches: Matches) -> None:
        """Write the rows of the matched items to a temporary file and make it durable."""

    def publish(self) -> None:
        """Put the staged file in place."""


class Keeper:
    """What an earlier run has left of a task, and what this one leaves: nothing. Called beside the session's thread."""

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        """Keep bins from now on; return what is kept of those that are finished."""
        return {}

    def answering(self, number: int, attempt: int, order_secret: bytes) -> None:
        """Have it on disk that a sender answers a bin, before the first answer leaves."""

    def received(self, number: int, order_secret: bytes) -> None:
        """Keep that the receiver needs a bin no more."""

    def matched(self, number: int, match: Match) -> None:
        """Keep a receiver's result of a bin."""

    def answering_bitmaps(self) -> None:
        """Have it on disk that a receiver tells its peer the result, before any bit of it leaves."""

    def conclude(self) -> None:
        """Keep that the task is done on this side."""


@dataclass(frozen=True)
class Prepared:
    """A task that has been read: its items, where rows go, who keeps finished bins."""

    items: Items
    output: Output | None
    keeper: Keeper = field(default_factory=Keeper)


class WorkerPools:
    """Who works beside the session's own thread, for all its tasks.

    depth: pieces of work a bin may have under way: one at work, its parts shared among the curve's threads, the others
    so that these never wait for the next. wake: called after each piece.
    """

    def __init__(self, depth: int, wake: Callable[[], None]) -> None:
        self.depth = depth
        self._wake = wake
        # Two, so that one's parts are at hand while the other's last ones are waited for.
        self._computing = ThreadPoolExecutor(2, "psicli-compute")
        self._matching = ThreadPoolExecutor(1, "psicli-matcher")
        self._committing = ThreadPoolExecutor(1, "psicli-committer")
        self._writing = ThreadPoolExecutor(1, "psicli-writer")

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        return self._submit(self._computing, work, *arguments)

    def match(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a bin compared, one at a time; no frame waits for it, since how long it takes may tell of matches."""
        return self._submit(self._matching, work, *arguments)

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
        for executor in (self._computing, self._matching, self._committing, self._writing):
            executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, executor: Executor, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = executor.submit(work, *arguments)
        future.add_done_callback(lambda _: self._wake())
        return future


class _Hands:
    """The work of one lane, begun as it comes and completed in the same order."""

    def __init__(self, lane: Lane, begin: Callable[[Work], Future[Any]]) -> None:
        self.lane = lane
        self.under_way: deque[tuple[Work, Future[Any]]] = deque()
        self._begin = begin

    def complete(self) -> list[Message] | None:
        """Complete the oldest work if it is through and return what to send; raises what it raised."""
        if not self.under_way or not self.under_way[0][1].done():
            return None
        work, done = self.under_way.popleft()
        result = done.result()
        return self.lane.completed(work, result if isinstance(result, bytes) else b"")

    def take_up(self, depth: int, *, room: bool) -> bool:
        """Begin another piece of work, if there is one; return whether there was."""
        work = self.lane.next_work(room=room) if len(self.under_way) < depth else None
        if work is not None:
            self.under_way.append((work, self._begin(work)))
        return work is not None


class _BinExchange:
    """One attempt at one bin, and the worker that computes it."""

    def __init__(self, task: TaskExchange, party: BinParty) -> None:
        self.party = party
        self.hands = _Hands(party, self._begin)
        self.worker: Worker | None = None
        self._task = task
        self._closed = False

    @property
    def number(self) -> int:
        return self.party.place.bin

    def close(self) -> None:
        """Overwrite the scalar and let the worker go, also one that is only being made."""
        self._closed = True
        worker = self.release()
        if worker is not None:
            worker.wipe()

    def release(self) -> Worker | None:
        """Return the worker and let it go: else its lists would stay until the garbage collector comes by."""
        worker, self.worker = self.worker, None
        return worker

    def _begin(self, work: Work) -> Future[Any]:
        pools = self._task.pools
        match work:
            case Prepare():
                return pools.compute(self._prepare)
            case MaskOwn(start, stop):
                return pools.compute(self._mask_own, start, stop)
            case MaskPeer(seq, points):
                return pools.compute(self._mask_peer, seq, points)
            case CheckLists():
                return pools.compute(self._check)
            case KeepTokens(tokens):
                self._ready().keep_tokens(tokens)
        return _through()

    def _prepare(self) -> None:
        self.worker = self._task.make_worker(self.party)
        if self._closed:
            self.close()

    def _mask_own(self, start: int, stop: int) -> bytes:
        with self._task.stages.at(Stage.COMPUTING, "mask own", self._task.frame_number(self.number, start)):
            points = self._ready().mask_own(start, stop)
            failpoints.passage("own.masked")
            return points

    def _mask_peer(self, seq: int, points: bytes) -> bytes | None:
        first = self._task.frame_number(self.number, 0, own=False)
        with self._task.stages.at(Stage.COMPUTING, "mask peer", first + seq):
            tokens = self._ready().mask_peer(seq, points)
            failpoints.passage("peer.masked")
            return tokens

    def _check(self) -> None:
        with self._task.stages.at(Stage.MATCHING, "check lists"):
            self._ready().check()
            failpoints.passage("lists.checked")

    def _ready(self) -> Worker:
        if self.worker is None:
            raise errors.LocalProtocolError(detail="a bin is computed before it is prepared")
        return self.worker


class TaskExchange:
    """One task's exchange with the peer.

    Feed it messages and let it take steps; both return the messages to send. What costs time, and file work, the pools
    do. Whatever changes the exchange's own state does so in the caller's thread. stages: where the time goes.
    """

    def __init__(self, party: TaskParty, pools: WorkerPools, stages: Stages, storage: Storage) -> None:
        self.party = party
        self.pools = pools
        self.stages = stages
        self._plan = storage.plan
        self._prepared: Prepared | None = None
        self._hands = _Hands(party, self._begin)
        self._bins: dict[int, _BinExchange] = {}
        # Set when the first bin begins, or the result is asked for.
        self._matches: Matches | None = None
        self._guard = Lock()
        self._matching: list[Future[None]] = []
        # A receiver's bits for the peer, a sender's bits from the peer; of each bin.
        self._bitmaps: dict[int, bytes] = {}
        # What a sender must know to understand these.
        self._order_secrets: dict[int, bytes] = {}
        self._answering = Lock()

    def use(self, prepared: Prepared) -> None:
        """Take the input that has been read."""
        self._prepared = prepared

    def begin_bin(self) -> None:
        """Begin the next bin."""
        self.party.bins.begin()
        self._follow()

    def _restored(self) -> Matches:
        """Return what has matched so far; the first time, fetch what is kept of finished bins."""
        with self._guard:
            if self._matches is None:
                self._matches = Matches(self._input.items.starts(self.party.number_of_bins))
                for number, data in self._input.keeper.begin(self.party).items():
                    self._restore_bin(self._matches, number, data)
            return self._matches

    def _restore_bin(self, matches: Matches, number: int, data: bytes) -> None:
        if not self.party.receives:
            self._order_secrets[number] = data
            return
        octets = -(-self.party.capacities[0] // 8)
        found = np.unpackbits(np.frombuffer(data[:octets], np.uint8), count=matches.size(number))
        matches.put(number, found.astype(np.bool_))
        self._bitmaps[number] = data[octets:]

    @property
    def _input(self) -> Prepared:
        if self._prepared is None:
            raise errors.LocalProtocolError(detail="a task is exchanged before its input is read")
        return self._prepared

    def receive(self, message: TaskMessage) -> list[Message]:
        """Take in a message; raises PeerProtocolError."""
        messages = self.party.receive(message)
        if isinstance(message, Received) and message.bin in self._bins:
            secret = self._order_secrets.get(message.bin, bytes(ORDER_SECRET_BYTES))
            # The next run need not do it again; whether this is on disk before anything else does not matter.
            self.pools.match(self._input.keeper.received, message.bin, secret)
        self._follow()
        return messages + self._received()

    def _follow(self) -> None:
        """Let the bins at hand be those the party has under way."""
        for number, bin_exchange in list(self._bins.items()):
            if self.party.bins.get(number) is not bin_exchange.party:
                self._bins.pop(number).close()
        for number, party in self.party.bins.items():
            if number not in self._bins:
                self._bins[number] = _BinExchange(self, party)

    def step(self, *, room: bool) -> list[Message] | None:
        """Complete what is through, else begin something; return what to send, or None when there is nothing to do now.

        Raises PeerProtocolError, SelfCheckError, WorkerLostError, and what the output raises: whatever the oldest work
        under way raised.
        """
        for number, bin_exchange in list(self._bins.items()):
            try:
                with trace.span("keep"):
                    completed = bin_exchange.hands.complete()
            except errors.WorkerLostError:
                # Both sides begin the bin again, once.
                completed = self.party.restart(number)
                self._follow()
            if completed is not None:
                return completed + self._received()
        completed = self._hands.complete()
        if completed is not None:
            return completed
        hands = [self._hands, *(each.hands for each in self._bins.values())]
        return [] if any(each.take_up(self.pools.depth, room=room) for each in hands) else None

    def _received(self) -> list[Message]:
        """Say which bins a receiver has checked, and have them matched."""
        messages: list[Message] = []
        for number, bin_exchange in list(self._bins.items()):
            if isinstance(self.party, Receiver) and bin_exchange.party.through:
                self._bins.pop(number)
                self._matching.append(self.pools.match(self._match, number, bin_exchange.release()))
                messages += self.party.received(number)
        return messages

    @property
    def _under_way(self) -> Iterator[tuple[Work, Future[Any]]]:
        yield from self._hands.under_way
        for each in self._bins.values():
            yield from each.hands.under_way

    @property
    def pieces(self) -> int:
        """Pieces of work under way."""
        return sum(1 for _ in self._under_way)

    @property
    def frames_under_way(self) -> int:
        """How many frames the work under way will send."""
        return sum(lane.frames_under_way for lane in (self.party, *self.party.bins.values()))

    @property
    def in_background(self) -> list[Future[Any]]:
        """The work that must not be cut short where a run ends: comparing bins, and files."""
        return [*self._matching, *(done for work, done in self._under_way if isinstance(work, _FILE_WORK))]

    def keep(self, patience: float) -> bool:
        """Return whether the output stays although the link is gone, once it is in place.

        After Commit both sides keep their outputs, whatever becomes of the link. Waits for patience [s] at most; a
        signal ends the wait too.
        """
        if self.party.phase is not Phase.COMMITTED:
            return False
        deadline = time.monotonic() + patience
        while self.step(room=True) is not None or self.pieces:
            signals.check()
            wait([done for _, done in self._under_way], signals.SLICE)
            if time.monotonic() >= deadline:
                return False
        return True

    def wipe(self) -> None:
        """Overwrite all scalars; nothing can be masked any more."""
        for each in self._bins.values():
            each.close()

    def close(self) -> None:
        """Let go of the items, in memory or on disk, where no output needs them any more."""
        if self._prepared is not None:
            self._prepared.items.close()

    def matches(self) -> Matches:
        """Wait until all bins are compared and return what matched; the receiver's lists must be complete."""
        matches = self._restored()
        for future in self._matching:
            future.result()
        failpoints.passage("matches.found")
        return matches

    # For bins

    def make_worker(self, party: BinParty) -> Worker:
        """Fetch a bin's items and draw its secrets; a sender notes that it answers."""
        self._restored()
        at, (own, peer) = party.place, self.party.capacities
        with self.stages.at(Stage.READING, "fetch bin"):
            items = self._input.items.bin(at.bin, self.party.number_of_bins, self._plan.bin // 2)
            if len(items) > own:
                raise errors.BinOverflowError(bin=at.bin)
            worker = Worker(at.sid, items, own, peer, self.party.setup.frame_items, receives=self.party.receives)
        if not self.party.receives:
            with self._answering:
                # If the bin has begun again meanwhile, this attempt answers nothing.
                if self.party.bins.get(at.bin) is party:
                    if self.party.broadcast:
                        self._order_secrets[at.bin] = worker.order_secret
                    self._input.keeper.answering(at.bin, at.attempt, worker.order_secret)
        return worker

    def frame_number(self, number: int, start: int, *, own: bool = True) -> int:
        """Return the number of a frame among all of the task, for the trace."""
        frame_items = self.party.setup.frame_items
        a_bin = -(-self.party.capacities[0 if own else 1] // frame_items)
        return number * a_bin + start // frame_items

    def _match(self, number: int, worker: Worker | None) -> None:
        assert worker is not None
        with self.stages.at(Stage.MATCHING, "match"):
            match = worker.match(bitmap=self.party.broadcast)
            self._restored().put(number, match.found)
            self._bitmaps[number] = match.bitmap
            self._input.keeper.matched(number, match)

    # The task's own work

    def _begin(self, work: Work) -> Future[Any]:
        match work:
            case GatherMatches():
                return self.pools.commit(self._gather)
            case StageOutput():
                return self.pools.commit(self._stage)
            case PublishOutput():
                return self.pools.commit(self._publish)
            case CutBitmap(number, start, stop):
                return _through(self._bitmaps[number][start // 8 : -(-stop // 8)])
            case KeepBits(number, bits):
                self._bitmaps[number] = self._bitmaps.get(number, b"") + bits
        return _through()

    def _gather(self) -> bytes:
        """Return the number of matches, once all bins are compared and the policy allows the result."""
        matches = self.matches()
        self._expect_output().check(matches)
        self._input.keeper.answering_bitmaps()
        return matches.count.to_bytes(_MATCHES_BYTES, "big")

    def _stage(self) -> None:
        matches = self._restored()
        if not self.party.receives:
            for number, bits in self._bitmaps.items():
                size, own = matches.size(number), self.party.capacities[0]
                matches.put(number, apply_bitmap(bits, self._order_secrets[number], size, own))
        with self.stages.at(Stage.WRITING, "write output"):
            self._expect_output().stage(matches)

    def _publish(self) -> None:
        with self.stages.at(Stage.WRITING, "publish output"):
            self._expect_output().publish()
            # The other side's word that it has done so too may never come.
            self._input.keeper.conclude()

    def _expect_output(self) -> Output:
        if self._input.output is None:
            raise errors.LocalProtocolError(detail="a party that learns the result has no output")
        return self._input.output


def _through(result: bytes = b"") -> Future[bytes]:
    """Return what is done already."""
    future: Future[bytes] = Future()
    future.set_result(result)
    return future
