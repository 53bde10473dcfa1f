"""A session: runs the tasks of a job over one link, from the exchange of Hellos to the end.

One thread (Session.run) does all protocol steps; long work runs in background threads and worker pools. turns.py
schedules the tasks, liveness.py holds the timeouts.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from psicli import curve
from psicli.core import errors, failpoints, peer_errors, signals, trace
from psicli.core.stages import Stage, Stages
from psicli.exchange.pools import WorkerPools
from psicli.exchange.task_exchange import Storage, TaskExchange
from psicli.exchange.worker import Workers
from psicli.protocol.bins import MOST_BIN_ITEMS, TaskSetup
from psicli.protocol.messages import (
    Abort,
    HelloOctets,
    LinkMessage,
    Message,
    Open,
    ProbeMessage,
    Skip,
    TaskMessage,
    Working,
    task_session_id,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Disclosure, Phase
from psicli.session.agreement import Hellos, Pairing, Terms, agree, check_count
from psicli.session.live import LiveTask, TaskPlan
from psicli.session.liveness import PeerWatch, beat
from psicli.session.turns import Turns
from psicli.transport.dialer import Dialer
from psicli.transport.link import Link
from psicli.transport.listener import Listener

if TYPE_CHECKING:
    from cryptography import x509

# Sent instead of the failure class if the class itself could reveal a match; it is not an exit code.
UNNAMED_FAILURE = 1
# How long the peer may take to read our Abort: it may have to process queued frames first [s].
LAST_WORDS_TIMEOUT = 10.0
# A party that a signal stops waits only this long, for the peer as well as for an output that is being written [s].
STOPPED_TIMEOUT = 2.0
# Pieces of work that a bin may have in progress: two are computed, two wait to be sent or to start.
DEPTH = 4
UNCONFIRMED = "the connection broke before the other party confirmed that its output is in place"
T = TypeVar("T")


class Session:
    """A session with the peer, as a context manager; both Hellos have been exchanged.

    At most two bins are exchanged at the same time, in order. Meanwhile the session reads and opens the next task and
    writes the outputs of earlier ones. If the block raises an error, the session sends the peer the class of that
    error, as far as the protocol allows, and still writes those outputs that only this party receives.
    """

    def __init__(
        self,
        link: Link,
        terms: Terms,
        *,
        listens: bool,
        depth: int = DEPTH,
        storage: Storage | None = None,
        workers: Workers | None = None,
        hang_up: Callable[[], None] = lambda: None,
    ) -> None:
        """hang_up: closes the connection; called as soon as the last message is sent."""
        self.peer = terms.peer
        self.hellos = Hellos.of(link, listens=listens)
        self._link = link
        self._hang_up = hang_up
        self._turns = Turns(())
        self._watch = PeerWatch(link, terms)
        self._reader = ThreadPoolExecutor(1, "psicli-reader")
        self._pools = WorkerPools(depth, link.wake, workers)
        self._storage = storage or Storage()
        # One-sided tasks whose exchange is complete, and the writing of their results.
        self._received: list[LiveTask] = []
        self._finishing: list[Future[None]] = []
        # Those of the task that was over last.
        self._last: Stages | None = None
        self._closed = threading.Event()

    @property
    def sid(self) -> bytes:
        return self.hellos.sid

    @property
    def peer_version(self) -> str:
        return self.hellos.theirs.package_version

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._link.peer_certificate

    def __enter__(self) -> Session:
        timeout = self.hellos.theirs.recv_timeout_ms
        threading.Thread(
            target=beat, args=(self._link, timeout, self._closed), name="psicli-heartbeat", daemon=True
        ).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            self._close()
        else:
            self._fail(exc)
        # Close the connection before matching and writing the last result: how long they take depends on the matches.
        try:
            self._hang_up()
        finally:
            self._finish_alone()
        self._reader.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _patience(exc)
        writing: list[Future[Any]] = [*self._finishing]
        for live in self._turns:
            writing += live.exchange.in_background
        while wait(writing, signals.SLICE).not_done and time.monotonic() < deadline:
            signals.check()
        self._pools.dismiss()

    def agree(self) -> Pairing:
        """Check that both Hellos describe the same session, and return which tasks run; raises like agreement.agree."""
        pairing = agree(self.hellos.ours, self.hellos.theirs, self.peer)
        failpoints.hit("session.agreed")
        return pairing

    def run(self, plans: Sequence[TaskPlan]) -> None:
        """Run the tasks in order until both parties have completed all of them; raises the first failure."""
        self._turns = Turns(plans)
        try:
            while not self._turns.over:
                signals.check()
                self._watch.check_deadline()
                if self._turns.failure is not None:
                    raise self._turns.failure
                self._begin_bins()
                # Read once per turn, so that _work and _wait agree: room that appears in between must end the wait.
                room = self._link.room() > self._turns.frames_under_way
                if not (self._take_message() or self._start_next() or self._advance_inputs() or self._work(room)):
                    self._wait(room)
                for live in self._turns:
                    if live.party.skipped and not self._turns.is_refused(live.index):
                        self._leave_out(live)
                    elif live.party.finished and live.admitted:
                        self._retire(live)
        except BaseException as exc:
            # Before anything else: outputs that both parties have committed are kept, whatever the failure is.
            complete = self._keep_committed(_patience(exc))
            if not (complete and isinstance(exc, peer_errors.PeerLostError | peer_errors.PeerFailedError)):
                # The failure is reported for the earliest running task, so that task must have begun.
                if self._turns.first is not None:
                    self._turns.first.begin()
                raise
        self._close()

    def _begin_bins(self) -> None:
        while (live := self._turns.next_bin) is not None:
            live.exchange.begin_bin()

    # The steps of one turn of the loop; each returns whether it did anything.

    def _take_message(self) -> bool:
        # poll() raises when the link has ended: committed outputs must be in place before that.
        committed = any(live.party.phase is Phase.COMMITTED for live in self._turns)
        if not self._turns.wants_input and (committed or not self._link.ended):
            return False
        arrived = self._link.poll()
        if arrived is None:
            return False
        self._dispatch(*arrived)
        return True

    def _dispatch(self, message: Message, size: int) -> None:
        if isinstance(message, Abort):
            raise peer_errors.failure_of_peer(message.failure_class)
        if isinstance(message, HelloOctets | LinkMessage | ProbeMessage):
            kind = type(message).__name__
            what = "a second Hello" if isinstance(message, HelloOctets) else f"{kind} in the middle of a stream"
            raise peer_errors.PeerProtocolError(detail=f"it sent {what}")
        if isinstance(message, Working):
            self._watch.count_heartbeat()
            return
        if self._turns.is_refused(message.task):
            # The session ends with the refusal, so later messages for this task are ignored, however many arrive.
            self._watch.ignored()
            return
        self._watch.progressed(message, size)
        live = self._turns.get(message.task)
        if live is None:
            self._turns.keep_early_offer(message, size)
            return
        self._turns.check_turn(message)
        self._receive(live, message, size)

    def _receive(self, live: LiveTask, message: TaskMessage, size: int) -> None:
        """Handle a message of a running task, and send what answers it."""
        live.bytes_received += size
        messages = live.exchange.receive(message)
        if isinstance(message, Skip) and message.failure_class:
            try:
                live.plan.peer_skips(message.failure_class)
            except errors.PsicliError as exc:
                self._turns.refuse(live, exc)
        self._settle(live)
        self._send_if_admitted(live, messages)

    def _send_if_admitted(self, live: LiveTask, messages: list[Message]) -> None:
        """Send the messages of a step, unless the plan refuses the task now that both parties have opened it."""
        if live.party.opened and not live.admitted:
            try:
                live.plan.opened(live.party)
                if live.party.setup.counts:
                    check_count(self.hellos, live.plan.name, max(live.party.own_count, live.party.peer_count))
                live.admitted = True
            except errors.PsicliError as exc:
                self._turns.refuse(live, exc)
        if self._turns.is_refused(live.index):
            # Send our Open in any case: what the peer sees must not depend on whose Open came first.
            messages = [each for each in messages if isinstance(each, Open)]
        self._send(live, messages)

    def _start_next(self) -> bool:
        if self._turns.next_plan is None:
            return False
        index, plan = self._turns.next_plan
        live = LiveTask(index, plan, self._exchange(index, plan), self._in_background(plan.find))
        self._turns.start(live)
        early = self._turns.early_offer(index)
        if early is not None:
            self._receive(live, *early)
        return True

    def _exchange(self, index: int, plan: TaskPlan) -> TaskExchange:
        task_sid = task_session_id(self.sid, plan.name)
        sizes = self.hellos.frame_items, self.hellos.bin_items
        setup = TaskSetup(index, task_sid, curve.probe(task_sid), plan.broadcast, *sizes, plan.counts, plan.protocol)
        party = (Receiver if plan.receives else Sender)(setup)
        return TaskExchange(party, self._pools, plan.stages, self._storage)

    def _advance_inputs(self) -> bool:
        """Send the Offer or Open of a task whose background work is done.

        A task is opened only when all earlier ones are admitted: the peer learns nothing about a task after a refused
        one.
        """
        may_open = True
        for live in self._turns:
            work = live.on_input
            done = work is not None and work.done()
            failure = work.exception() if work is not None and done else None
            if failure is not None and (live.finding is not None or may_open) and self._skip(live, failure):
                return True
            if failure is not None and live is not self._turns.first:
                # The error is raised once the earlier tasks are complete.
                return False
            if done and live.finding is not None:
                kept, live.finding = live.finding.result(), None
                self._send(live, live.party.offer(kept))
                self._settle(live)
                return True
            if done and live.reading is not None and may_open:
                prepared, live.reading = live.reading.result(), None
                live.exchange.use(prepared)
                self._open(live, len(prepared.items))
                return True
            may_open = may_open and live.admitted
        return False

    def _open(self, live: LiveTask, count: int) -> None:
        """Open a task for the peer, unless the plan refuses: then the peer does not learn the count."""
        messages = live.party.open(count)
        try:
            live.plan.opening(live.party)
        except errors.PsicliError as exc:
            self._turns.refuse(live, exc)
            return
        self._send_if_admitted(live, messages)

    def _skip(self, live: LiveTask, failure: BaseException) -> bool:
        """Skip a task whose input or output is bad; return whether this party goes on without it."""
        failure_class = live.plan.skip_for(failure)
        if failure_class is None:
            return False
        live.finding = live.reading = None
        self._send(live, live.party.skip(failure_class))
        return True

    def _settle(self, live: LiveTask) -> None:
        """Act on both Offers as soon as they are known, and start reading the input unless the exchange is complete."""
        if live.settled or not live.party.settled:
            return
        live.settled = True
        live.plan.settled(live.party)
        if live.party.completed_before:
            # An earlier run completed the exchange; the input is read only to write the result.
            self._send_if_admitted(live, [])
        else:
            live.reading = self._in_background(live.plan.prepare, live.party.partition_sid)

    def _in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = self._reader.submit(work, *arguments)
        future.add_done_callback(lambda _: self._link.wake())
        return future

    def _work(self, room: bool) -> bool:
        may_send_points = True
        for live in self._turns:
            if not live.admitted or self._turns.is_refused(live.index):
                return False
            live.begin()
            live.party.bins.let_send_points(allowed=may_send_points)
            may_send_points = may_send_points and live.party.all_points_sent
            messages = live.exchange.step(room=room)
            if messages is not None:
                self._send(live, messages)
                trace.count("under way", "pieces", self._turns.pieces)
                live.plan.progress(live.party.progress)
                return True
        return False

    def _wait(self, room: bool) -> None:
        """Wait until there is something to do; raises like PeerWatch.wait."""
        idle = not (self._turns.pieces or any(live.reads for live in self._turns))
        room_for = None if room else self._turns.frames_under_way + 1
        with self._stall(room):
            self._watch.wait(for_message=self._turns.wants_input, room_for=room_for, idle=idle)

    def _stall(self, room: bool) -> AbstractContextManager[None]:
        """Measure a wait as a stall of the task that it delays, if no task has work in progress."""
        tasks = [live for live in self._turns if not live.reads]
        if not tasks or any(live.exchange.pieces for live in tasks):
            return nullcontext()
        stages = next((live for live in tasks if live.party.exchanging), tasks[0]).plan.stages
        if room:
            return stages.at(Stage.WAITING_FOR_PEER, "wait for peer")
        return stages.at(Stage.WAITING_FOR_ROOM, "wait for room")

    def _retire(self, live: LiveTask, warning: str | None = None) -> None:
        self._turns.retire(live)
        self._last = live.plan.stages
        live.begin()
        live.exchange.wipe()
        live.plan.exchanged(live.result(warning))
        if not live.plan.receives or live.plan.broadcast:
            live.exchange.close()
            return
        self._received.append(live)
        # The last result waits for the end of the connection.
        if not self._turns.over:
            self._finish_alone()

    def _finish_alone(self) -> None:
        """Begin to match and write the results that only this party receives."""
        while self._received:
            live = self._received.pop(0)
            finish = partial(live.plan.finish_alone, live.matches)
            if live.party.setup.counts:
                finish = partial(live.plan.finish_count, live.exchange.count)
            self._finishing.append(self._pools.write(finish))

    def _leave_out(self, live: LiveTask) -> None:
        """Forget a task that a party has skipped; its input may have been read already."""
        self._turns.retire(live)
        live.exchange.close()
        live.plan.close()

    def _send(self, live: LiveTask, messages: list[Message]) -> None:
        for message in messages:
            live.bytes_sent += self._link.send(message)

    # Endings

    def _close(self) -> None:
        """End a session that is complete for both parties."""
        if not self._closed.is_set():
            self._closed.set()
            stall = nullcontext() if self._last is None else self._last.at(Stage.WAITING_FOR_PEER, "wait for the end")
            with stall:
                self._watch.await_end()
            failpoints.hit("session.closed")

    def _keep_committed(self, patience: float) -> bool:
        """Put outputs in place that were committed before the failure; return whether all tasks are then complete.

        Gives up on an output that is not in place within patience [s].
        """
        for live in self._turns:
            if live.exchange.keep(patience):
                self._retire(live, UNCONFIRMED)
        return self._turns.over

    def _fail(self, exc: BaseException) -> None:
        for live in self._turns:
            live.exchange.wipe()
        if self._closed.is_set() and not isinstance(exc, peer_errors.PeerProtocolError):
            return
        self._closed.set()
        if isinstance(exc, peer_errors.PeerLostError | peer_errors.PeerFailedError):
            # The peer is gone, or has failed itself: there is nobody to tell.
            self._link.finish(0.0)
        else:
            self._link.abort(self._class_to_send(exc), min(_patience(exc), LAST_WORDS_TIMEOUT))

    def _class_to_send(self, exc: BaseException) -> int:
        private = any(live.party.disclosure is Disclosure.UNIFORM for live in self._turns)
        if private and not isinstance(exc, peer_errors.PeerProtocolError):
            return UNNAMED_FAILURE
        return exc.code if isinstance(exc, errors.PsicliError) else errors.PsicliError.code


def _patience(exc: BaseException | None) -> float:
    """Return how long a session that ends with this error waits for outputs that are being written [s]."""
    return STOPPED_TIMEOUT if isinstance(exc, errors.InterruptedBySignal) else math.inf


def open_session(
    meeting: Listener | Dialer,
    terms: Terms,
    *,
    timeout: float,
    depth: int = DEPTH,
    frame_items: int | None = None,
    bin_items: int = MOST_BIN_ITEMS,
    count_items: int = MOST_BIN_ITEMS,
    storage: Storage | None = None,
    workers: Workers | None = None,
    hung_up: Callable[[], None] = lambda: None,
) -> Session:
    """Connect to the peer, exchange Hellos and return the session; Session.agree then compares the Hellos.

    timeout: how long to wait for the peer [s]; depth: pieces of work that a bin may have in progress; frame_items: the
    most points per frame, by default the backend's choice; bin_items: the most items per bin, a power of two;
    count_items: the most items of a task that only counts; storage: the memory and disk space that the tasks may use;
    workers: where the workers of bins run, by default in this process; hung_up: called when the connection is closed,
    however the session ends. Raises like Listener.meet and Dialer.meet.
    """
    sizes = frame_items or curve.frame_items(), bin_items, count_items
    link = meeting.meet(lambda: terms.hello(*sizes), timeout)

    def hang_up() -> None:
        meeting.close()
        hung_up()

    listens = isinstance(meeting, Listener)
    return Session(link, terms, listens=listens, depth=depth, storage=storage, workers=workers, hang_up=hang_up)
