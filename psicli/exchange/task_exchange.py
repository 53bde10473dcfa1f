"""The exchange of one task: runs its bins in order, at most two at the same time, and feeds its output."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from threading import Lock
from typing import Any, Protocol, cast

from psicli.core import errors, failpoints, signals, trace
from psicli.core.records import dataclass
from psicli.core.stages import Stage, Stages
from psicli.exchange.bin_exchange import BinExchange
from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.pools import WorkerPools, WorkInOrder, done
from psicli.exchange.results import Results
from psicli.exchange.worker import ORDER_SECRET_BYTES, BinWorker, PointsWorker
from psicli.items.partitions import BinItems, Items, Matches
from psicli.protocol.bins import BinParty
from psicli.protocol.messages import RR22, Message, Received, TaskMessage
from psicli.protocol.receiver import Receiver
from psicli.protocol.streams import Place
from psicli.protocol.task import Phase, TaskParty
from psicli.protocol.work import GatherMatches, KeepBits, PublishOutput, SliceBitmap, StageOutput, Work
from psicli.storage.memory import UNBOUNDED, MemoryPlan
from psicli.storage.spool import Spool

_FILE_WORK = StageOutput | PublishOutput
_MATCHES_BYTES = 8


@dataclass(frozen=True)
class Storage:
    """A run's memory plan, and the spool for data that does not fit into it."""

    spool: Spool | None = None
    plan: MemoryPlan = UNBOUNDED


class Output(Protocol):
    """The destination of the matched rows."""

    def check(self, matches: Matches) -> None:
        """Raise PolicyError if this party does not allow the result; called before a bitmap is sent."""

    def stage(self, matches: Matches) -> None:
        """Write the rows of the matched items to a temporary file and make it durable."""

    def publish(self) -> None:
        """Move the staged file into place and record that this party is done with the task."""


@dataclass(frozen=True)
class Prepared:
    """A task whose input has been read: its items, its output and its checkpoint.

    strict: whether to check that all points of the peer, not only a sample, are on the curve.
    """

    items: Items
    output: Output | None
    checkpoint: Checkpoint
    strict: bool = False


class TaskExchange:
    """One task's exchange with the peer.

    The session calls `receive` and `step`; both return the messages to send. The worker pools do long computations and
    file work. Only the caller's thread changes the state of the exchange. stages: measures where the time goes.
    """

    def __init__(self, party: TaskParty, pools: WorkerPools, stages: Stages, storage: Storage) -> None:
        self.party = party
        self.pools = pools
        self.stages = stages
        self._plan = storage.plan
        self._prepared: Prepared | None = None
        self._own_work = WorkInOrder(party, self._begin)
        self._bins: dict[int, BinExchange] = {}
        # Workers of bins that have not begun.
        self._early: dict[int, Future[BinWorker]] = {}
        # Created when the first bin begins or the result is requested.
        self._results: Results | None = None
        self._guard = Lock()
        self._matching: dict[int, Future[None]] = {}
        # Begins to compare the last bin of a one-sided task, which the end of the session must not wait for.
        self._match_last: tuple[int, Callable[[], Future[None]]] | None = None
        self._answering = Lock()

    def use(self, prepared: Prepared) -> None:
        """Provide the input once it has been read."""
        self._prepared = prepared

    def begin_bin(self) -> None:
        """Begin the next bin."""
        self.party.bins.begin()
        self._follow()

    def _restored(self) -> Results:
        """Return the results of the bins; the first call restores those in the checkpoint."""
        with self._guard:
            if self._results is None:
                self._results = Results(self.party, self._input.items, self._input.checkpoint)
            return self._results

    @property
    def _input(self) -> Prepared:
        if self._prepared is None:
            raise errors.LocalProtocolError(detail="a task was exchanged before its input was read")
        return self._prepared

    def receive(self, message: TaskMessage) -> list[Message]:
        """Handle a message and return the messages to send; raises PeerProtocolError."""
        messages = self.party.receive(message)
        if isinstance(message, Received) and message.bin in self._bins:
            secret = self._restored().order_secrets.get(message.bin, bytes(ORDER_SECRET_BYTES))
            # A resumed run need not repeat this bin; saving it is not urgent, so it runs in the background.
            self.pools.match(self._input.checkpoint.received, message.bin, secret)
        self._follow()
        return messages + self._received()

    def _follow(self) -> None:
        """Create and close bin exchanges to match the bins that the protocol has running."""
        for number, bin_exchange in list(self._bins.items()):
            if self.party.bins.get(number) is not bin_exchange.party:
                self._bins.pop(number).close()
        for number, party in self.party.bins.items():
            if number not in self._bins:
                hooks = self.make_worker, self.checked
                self._bins[number] = BinExchange(self.party, party, self.pools, self.stages, *hooks)

    def step(self, *, room: bool) -> list[Message] | None:
        """Complete finished work, or else begin new work; return the messages to send, or None if there is neither.

        Raises the error of the oldest work that failed: PeerProtocolError, SelfCheckError, WorkerLostError, or an error
        of the output.
        """
        for number, bin_exchange in list(self._bins.items()):
            try:
                with trace.span("keep"):
                    completed = bin_exchange.work.complete()
            except errors.WorkerLostError:
                # Both parties restart the bin; the protocol allows this once.
                completed = self.party.restart(number)
                self._follow()
            if completed is not None:
                return completed + self._received()
        completed = self._restart_confirmed() or self._own_work.complete()
        if completed is not None:
            return completed
        lanes = [self._own_work, *(each.work for each in self._bins.values())]
        if not any(each.begin_next(self.pools.depth, room=room) for each in lanes):
            return None
        self._prepare_early()
        return []

    def _restart_confirmed(self) -> list[Message]:
        """Restart a bin that was lost after this receiver had confirmed it, before its result was known.

        After the last Received of a one-sided task it is too late: `matches` then raises the error, unseen by the peer.
        """
        if self.party.phase not in (Phase.EXCHANGE, Phase.RESULT):
            return []
        for number, matching in self._matching.items():
            if matching.done() and isinstance(matching.exception(), errors.WorkerLostError):
                del self._matching[number]
                messages = self.party.restart(number)
                self._follow()
                return messages
        return []

    def _received(self) -> list[Message]:
        """Return Received for the bins that a receiver has checked, and start matching them.

        The last bin of a one-sided task is matched when the session has time for it.
        """
        messages: list[Message] = []
        for number, bin_exchange in list(self._bins.items()):
            if isinstance(self.party, Receiver) and bin_exchange.party.done:
                self._bins.pop(number)
                match = partial(self.pools.match, self._match, number, bin_exchange.release())
                messages += self.party.received(number)
                if self.party.bins.all_done and not self.party.broadcast:
                    self._match_last = number, match
                else:
                    self._matching[number] = match()
        return messages

    @property
    def _under_way(self) -> list[tuple[Work, Future[Any]]]:
        lanes = [self._own_work, *(each.work for each in self._bins.values())]
        return [each for lane in lanes for each in lane.under_way]

    @property
    def pieces(self) -> int:
        """The number of pieces of work in progress."""
        return len(self._under_way)

    @property
    def frames_under_way(self) -> int:
        """The number of frames that the work in progress will send."""
        return sum(lane.frames_under_way for lane in (self.party, *self.party.bins.values()))

    @property
    def in_background(self) -> list[Future[Any]]:
        """The work that must finish even if the run ends: comparing bins, and file work."""
        return [*self._match_all(), *(future for work, future in self._under_way if isinstance(work, _FILE_WORK))]

    def keep(self, patience: float) -> bool:
        """Put a committed output in place even though the link is lost; return whether that was possible.

        After Commit both parties keep their outputs, whatever happens to the link. Waits at most for patience [s]; a
        signal ends the wait too.
        """
        if self.party.phase is not Phase.COMMITTED:
            return False
        deadline = time.monotonic() + patience
        while self.step(room=True) is not None or self.pieces:
            signals.check()
            wait([future for _, future in self._under_way], signals.SLICE)
            if time.monotonic() >= deadline:
                return False
        return True

    def wipe(self) -> None:
        """Wipe all scalars; no point can be masked after this."""
        for each in self._bins.values():
            each.close()
        # A copy, because a thread of the pools may take one meanwhile.
        for worker in [*self._early.values()]:
            worker.add_done_callback(_wipe)

    def close(self) -> None:
        """Free the items, in memory and on disk, once no output needs them any more."""
        if self._prepared is not None:
            self._prepared.items.close()

    def matches(self) -> Matches:
        """Wait until all bins are compared and return the matches; all bins must have been received."""
        return self._compared().matches

    def count(self) -> int:
        """Wait as `matches` does, and return how many items match; only where the receiver counts."""
        return self._compared().count

    def _compared(self) -> Results:
        results = self._restored()
        for future in self._match_all():
            future.result()
        failpoints.hit("matches.found")
        return results

    # Work of the bins

    def _match_all(self) -> list[Future[None]]:
        """Begin to match the last bin, if that was put off; return the work on all bins that are received."""
        with self._guard:
            # Both the session's thread and the one that writes the result call this.
            last, self._match_last = self._match_last, None
        if last is not None:
            number, begin = last
            self._matching[number] = begin()
        return [*self._matching.values()]

    def make_worker(self, party: BinParty) -> BinWorker:
        """Fetch a bin's items and return a worker with fresh secrets; a sender first records that it answers the bin.

        Raises BinOverflowError, and as Checkpoint.answering.
        """
        results, at = self._restored(), party.place
        # It belongs to the first attempt, which may have been restarted while it waited for its turn.
        early = self._early.pop(at.bin, None) if at.attempt == 0 else None
        try:
            worker = self._new_worker(at) if early is None else early.result()
        except errors.WorkerLostError:
            # Nothing of this attempt has been sent, so a new worker with new secrets needs no restart.
            worker = self._new_worker(at)
        if not self.party.receives:
            with self._answering:
                # If the bin was restarted meanwhile, this attempt sends no answers.
                if self.party.bins.get(at.bin) is party:
                    if self.party.broadcast:
                        results.order_secrets[at.bin] = worker.order_secret
                    self._input.checkpoint.answering(at.bin, at.attempt)
        return worker

    def _new_worker(self, at: Place) -> BinWorker:
        own, peer = self.party.capacities
        with self.stages.at(Stage.READING, "fetch bin"):
            items = self._input.items.bin(at.bin, self.party.number_of_bins, self._plan.bin // 2)
            if len(items) > own:
                raise errors.BinOverflowError(bin=at.bin)
            if self.party.setup.protocol == RR22:
                return self._vector_worker(at, items)
            how = {"receives": self.party.receives, "counts": self.party.setup.counts, "strict": self._input.strict}
            return self.pools.workers.make(at, items, own, peer, self.party.setup.frame_items, **how)

    def _vector_worker(self, at: Place, items: BinItems) -> BinWorker:
        """Return a worker of RR22, which computes here whatever workers the session has."""
        # Imported late, because most tasks use ECDH, and need nothing of it.
        from psicli.exchange.vector_worker import VectorReceiver, VectorSender
        from psicli.protocol.rr22.bins import token_bytes
        from psicli.protocol.rr22.sizes import sizes

        (own, peer), size = self.party.capacities, token_bytes(self.party.sizes)
        if self.party.receives:
            return VectorReceiver(at.sid, items, own, size, sizes(own))
        return VectorSender(at.sid, items, own, size, sizes(peer))

    def _prepare_early(self) -> None:
        """Make the workers of the next bins, if they can mask their items before these bins begin."""
        bins = self.party.bins
        if not all(each.work.under_way or each.worker for each in self._bins.values()):
            # The bins under way come first.
            return
        # A worker of RR22 cannot begin before its bin.
        ahead = 0 if self.party.setup.protocol == RR22 else self.pools.workers.ahead
        for number in bins.left[bins.begun : bins.begun + ahead]:
            if number not in self._early:
                self._early[number] = self.pools.compute(self._new_worker, bins.place(number))

    def checked(self, party: BinParty, worker: BinWorker) -> None:
        """Note that a bin has passed its checks; a sender records that it has answered the bin."""
        if not self.party.receives:
            with self._answering:
                if self.party.bins.get(party.place.bin) is party:
                    secret = worker.order_secret if self.party.broadcast else b""
                    self._input.checkpoint.answered(party.place.bin, secret)

    def _match(self, number: int, worker: BinWorker | None) -> None:
        assert worker is not None
        with self.stages.at(Stage.MATCHING, "match"):
            if self.party.setup.counts:
                self._restored().count = cast(PointsWorker, worker).count()
                return
            match = worker.match(bitmap=self.party.broadcast)
            self._restored().put(number, match)
            self._input.checkpoint.matched(number, match)

    # Work of the task

    def _begin(self, work: Work) -> Future[Any]:
        match work:
            case GatherMatches():
                return self.pools.commit(self._gather)
            case StageOutput():
                return self.pools.commit(self._stage)
            case PublishOutput():
                return self.pools.commit(self._publish)
            case SliceBitmap(number, start, stop):
                return done(self._restored().bitmaps[number][start // 8 : -(-stop // 8)])
            case KeepBits(number, bits):
                bitmaps = self._restored().bitmaps
                bitmaps[number] = bitmaps.get(number, b"") + bits
        return done()

    def _gather(self) -> bytes:
        """Wait until all bins are compared, check the policy, and return the encoded number of matches.

        If a bin is lost, `step` restarts it before it looks at this result, and the protocol asks for another one.
        """
        try:
            matches = self.matches()
        except errors.WorkerLostError:
            return b""
        self._expect_output().check(matches)
        self._input.checkpoint.answering_bitmaps()
        return matches.count.to_bytes(_MATCHES_BYTES, "big")

    def _stage(self) -> None:
        results = self._restored()
        if not self.party.receives:
            results.apply_bitmaps()
        with self.stages.at(Stage.WRITING, "write output"):
            self._expect_output().stage(results.matches)

    def _publish(self) -> None:
        with self.stages.at(Stage.WRITING, "publish output"):
            self._expect_output().publish()

    def _expect_output(self) -> Output:
        if self._input.output is None:
            raise errors.LocalProtocolError(detail="a party that learns the result was given no output")
        return self._input.output


def _wipe(made: Future[BinWorker]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().wipe()
