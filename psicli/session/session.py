"""A session: hello and agreement, then the tasks over one link."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from psicli import __version__, curve
from psicli.core import errors, failpoints, signals, trace
from psicli.core.stages import Stage, Stages
from psicli.exchange.pipeline import Prepared, Storage, TaskExchange, WorkerPools
from psicli.items.partitions import Matches
from psicli.protocol.bins import LEAST_BIN_ITEMS, MOST_BIN_ITEMS, TaskSetup
from psicli.protocol.messages import (
    NONCE_BYTES,
    Abort,
    Frame,
    Hello,
    HelloOctets,
    Kept,
    LinkMessage,
    Message,
    Offer,
    Open,
    Purpose,
    Stream,
    TaskMessage,
    TaskTerms,
    Working,
    session_id,
    task_session_id,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Disclosure, Phase, Progress, TaskParty
from psicli.protocol.wire import decode_hello, encode_hello
from psicli.transport.dialer import Dialer
from psicli.transport.link import Link
from psicli.transport.listener import Listener

logger = logging.getLogger(__name__)

# How often a side says that it still works while it sends nothing else [s].
HEARTBEAT_INTERVAL = 15.0
SHORTEST_HEARTBEAT = 0.1
# How often a side that hears nothing says so [s].
SILENCE_LINE_INTERVAL = 60.0
# Told instead of the class where the class itself could tell of a match; no exit code.
UNNAMED_FAILURE = 1
# Tasks under way with the peer at a time: one exchanges, one is read and opened, one commits its outputs.
MAX_LIVE_TASKS = 3
# Tasks whose points are not through: the one that exchanges, and the next one.
MAX_TASKS_AHEAD = 2
# How long the peer may take to hear why this side fails: it may have frames to work through before [s].
LAST_WORDS_TIMEOUT = 10.0
# A side that is stopped by a signal does not wait so long, neither for that nor for an output being written [s].
STOPPED_TIMEOUT = 2.0
# A peer that says so long that it works, and nothing else, while this side has nothing to do, is stuck [recv_timeouts].
STUCK_AFTER = 24
# Words that the peer works that may come before their time: as many as a connection holds back for ten seconds.
SPARE_WORDS = 100
# Pieces of work a bin may have under way: two at work, two that wait to be sent or begun.
DEPTH = 4
_POINTS = (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS)
T = TypeVar("T")
UNCONFIRMED = "the link broke before the other side confirmed that its output is in place"


_TASK_FIELDS = (
    ("receiver", "receiver"),
    ("broadcast_result", "broadcast_result"),
    ("key_columns", "number of keys"),
)


@dataclass(frozen=True)
class Terms:
    """What this side brings to the agreement."""

    party: str
    peer: str
    job: str
    tasks: tuple[TaskTerms, ...]
    recv_timeout_ms: int = 300_000
    purpose: Purpose = Purpose.RUN

    def hello(self, frame_items: int, bin_items: int) -> bytes:
        """Return a fresh Hello, as the octets that will travel; every connection needs its own."""
        return encode_hello(
            Hello(
                package_version=__version__,
                party=self.party,
                job=self.job,
                tasks=self.tasks,
                frame_items=frame_items,
                bin_items=bin_items,
                nonce=os.urandom(NONCE_BYTES),
                purpose=self.purpose,
                recv_timeout_ms=self.recv_timeout_ms,
                clock_ms=time.time_ns() // 1_000_000,
            )
        )


def agree(ours: Hello, theirs: Hello, peer: str) -> None:
    """Check that both sides mean the same session.

    Raises SamePartyError when our own Hello comes back, DisagreementError with a table of every field that differs.
    """
    if theirs.party == ours.party or theirs.nonce == ours.nonce:
        raise errors.SamePartyError(party=ours.party)
    rows: list[tuple[str, Any, Any]] = [(f"party of {peer}", peer, theirs.party)]
    rows += [(name, getattr(ours, name), getattr(theirs, name)) for name in ("protocol_version", "suite", "job")]
    rows += _task_rows(ours.tasks, theirs.tasks)
    if min(ours.bin_items, theirs.bin_items) < LEAST_BIN_ITEMS:
        rows.append((f"items a bin, at least {LEAST_BIN_ITEMS}", ours.bin_items, theirs.bin_items))
    differences = [(field, _as_yaml(mine), _as_yaml(yours)) for field, mine, yours in rows if mine != yours]
    if differences:
        raise errors.DisagreementError(table=_table(differences))


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _task_rows(ours: Sequence[TaskTerms], theirs: Sequence[TaskTerms]) -> list[tuple[str, Any, Any]]:
    names = [task.name for task in ours], [task.name for task in theirs]
    if names[0] != names[1]:
        return [("tasks", ", ".join(names[0]), ", ".join(names[1]))]
    return [
        (f"{mine.name}: {label}", getattr(mine, field), getattr(yours, field))
        for mine, yours in zip(ours, theirs, strict=True)
        for field, label in _TASK_FIELDS
    ]


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = [
        ("field", "ours", "theirs"),
        *((field, mine, errors.shown(yours).strip("'")) for field, mine, yours in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"  {line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}" for line in lines)


@dataclass(frozen=True)
class TaskResult:
    """What one task's exchange came to; message_bytes: sent and received."""

    peer_items: int
    message_bytes: tuple[int, int]
    warning: str | None = None


class TaskPlan(Protocol):
    """A task as the job sees it. The session calls, in this order:"""

    name: str
    receives: bool
    broadcast: bool
    stages: Stages

    def find(self) -> Kept | None:
        """Return what the task could continue from; runs in the background."""

    def settled(self, party: TaskParty) -> None:
        """Take note of what both sides have decided to continue from."""

    def prepare(self, partition_sid: bytes) -> Prepared:
        """Read the input and cut it into bins under this id; runs in the background."""

    def opened(self, party: TaskParty) -> None:
        """Decide whether to go on, now that both numbers are known; nothing has been masked yet.

        Before or after `started`. Raises a PsicliError, PolicyError above all, to end the session when the tasks
        before are through.
        """

    def started(self) -> None:
        """Take note that it is this task's turn."""

    def progress(self, progress: Progress) -> None:
        """Take note how far the masking is."""

    def exchanged(self, result: TaskResult) -> None:
        """Take note that both sides are through with it."""

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        """Write a one-sided result: the peer is told nothing any more. Runs in the background, raises nothing."""


class LiveTask:
    """A task under way in a session. finding, reading: the work on its input, in the background."""

    def __init__(self, plan: TaskPlan, exchange: TaskExchange, finding: Future[Kept | None]) -> None:
        self.plan = plan
        self.exchange = exchange
        self.party = exchange.party
        self.finding: Future[Kept | None] | None = finding
        self.reading: Future[Prepared] | None = None
        self.settled = self.was_read = self.admitted = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self._begun = False

    @property
    def on_input(self) -> Future[Any] | None:
        """The work on its input that has not been taken up."""
        return self.finding or self.reading

    @property
    def reads(self) -> bool:
        """Whether its input is being worked on."""
        return self.on_input is not None and not self.on_input.done()

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.plan.started()

    def matches(self) -> Matches:
        """Return the result; the input is read now where an earlier run had all of the exchange."""
        if not self.was_read:
            self.exchange.use(self.plan.prepare(self.party.partition_sid))
        return self.exchange.matches()

    def result(self, warning: str | None = None) -> TaskResult:
        return TaskResult(self.party.peer_count, (self.bytes_sent, self.bytes_received), warning)


class Session:
    """The tasks over one link, both Hellos exchanged.

    Two bins are under way at a time, in order. Meanwhile the next task is read and opened, and the ones before write
    their outputs. Leaving the session with an error tells the peer the class of that error, as far as the protocol
    allows, and lets outputs that are the own affair of this side be written.
    """

    def __init__(
        self,
        link: Link,
        terms: Terms,
        *,
        listens: bool,
        depth: int = DEPTH,
        storage: Storage | None = None,
        hang_up: Callable[[], None] = lambda: None,
    ) -> None:
        """hang_up: ends the connection; called as soon as nothing more is to be said."""
        ours, theirs = decode_hello(link.own_hello), decode_hello(link.peer_hello)
        self.peer_version = theirs.package_version
        self.peer_certificate = link.peer_certificate
        self.sid = session_id(*((link.own_hello, link.peer_hello)[:: 1 if listens else -1]))
        self._link = link
        self._hellos = ours, theirs
        self._peer = terms.peer
        self._recv_timeout = terms.recv_timeout_ms / 1000
        self._plans: Sequence[TaskPlan] = ()
        self._live: dict[int, LiveTask] = {}
        self._next = 0
        self._early_offers: dict[int, tuple[Offer, int]] = {}
        # The first task this side does not go on with, and why.
        self._refused: tuple[int, errors.PsicliError] | None = None
        self._finishing: list[Future[None]] = []
        self._reader = ThreadPoolExecutor(1, "psicli-reader")
        self._pools = WorkerPools(depth, link.wake)
        self._storage = storage or Storage()
        self._hang_up = hang_up
        self._began = self._moved = time.monotonic()
        self._words = 0
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="psicli-heartbeat", daemon=True)

    def __enter__(self) -> Session:
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            self._close()
        else:
            self._fail(exc)
        # How long this side still writes tells of what matched: the peer must not see when it is through.
        self._hang_up()
        self._reader.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + (STOPPED_TIMEOUT if isinstance(exc, errors.InterruptedBySignal) else math.inf)
        writing: list[Future[Any]] = [*self._finishing]
        for live in self._live.values():
            writing += live.exchange.in_background
        while wait(writing, signals.SLICE).not_done and time.monotonic() < deadline:
            signals.check()
        self._pools.dismiss()

    def agree(self) -> None:
        """Compare both Hellos; raises as `agree`."""
        agree(*self._hellos, self._peer)
        failpoints.passage("session.agreed")

    def run(self, plans: Sequence[TaskPlan]) -> None:
        """Run the tasks in order until the peer needs this side no more; raises whatever failed first."""
        self._plans = plans
        try:
            while self._live or self._next < len(self._plans):
                signals.check()
                # Those before a refused task are not to blame for it.
                if self._refused is not None and next(iter(self._live)) == self._refused[0]:
                    raise self._refused[1]
                self._begin_bins()
                # Looked at once: room that appears between two looks would be slept through.
                room = self._link.room() > self._frames_under_way()
                if not (self._take_message() or self._start_next() or self._advance_inputs() or self._work(room)):
                    self._wait(room)
                self._retire()
        except BaseException as exc:
            # First: what both sides have committed stays, whatever this is.
            complete = self._keep_committed(
                STOPPED_TIMEOUT if isinstance(exc, errors.InterruptedBySignal) else math.inf
            )
            if not (complete and isinstance(exc, errors.PeerLostError | errors.PeerFailedError)):
                # It failed the task whose turn it was, also where that had not really begun.
                if self._live:
                    next(iter(self._live.values())).begin()
                raise
        self._close()

    # One turn of the loop: each step returns whether it did something

    def _take_message(self) -> bool:
        # The end of the link is heard once nothing that was committed still has to be put in place.
        committed = any(live.party.phase is Phase.COMMITTED for live in self._live.values())
        if not self._wants_input() and (committed or not self._link.ended):
            return False
        arrived = self._link.poll()
        if arrived is None:
            return False
        self._dispatch(*arrived)
        return True

    def _dispatch(self, message: Message, size: int) -> None:
        if isinstance(message, Abort):
            raise errors.failure_of_peer(message.failure_class)
        if isinstance(message, HelloOctets | LinkMessage):
            raise errors.PeerProtocolError(detail="a second Hello")
        if isinstance(message, Working):
            self._count_word()
            return
        self._moved = time.monotonic()
        if self._is_refused(message.task):
            # It will end before any of that matters.
            return
        live = self._live.get(message.task)
        if live is not None:
            self._check_turn(message)
            live.bytes_received += size
            messages = live.exchange.receive(message)
            self._settle(message.task, live)
            self._go_on(message.task, live, messages)
        elif isinstance(message, Offer) and self._may_come_early(message.task):
            self._early_offers[message.task] = message, size
        else:
            raise errors.PeerProtocolError(detail=f"a message about task number {message.task}, which is not under way")

    def _go_on(self, index: int, live: LiveTask, messages: list[Message]) -> None:
        """Send what a step came to, unless it has opened a task that this side does not go on with."""
        if live.party.opened and not live.admitted:
            try:
                live.plan.opened(live.party)
                live.admitted = True
            except errors.PsicliError as exc:
                self._refused = self._refused or (index, exc)
        if self._is_refused(index):
            # Our Open all the same: what the peer sees must not depend on whose came first.
            messages = [each for each in messages if isinstance(each, Open)]
        self._send(live, messages)

    def _is_refused(self, task: int) -> bool:
        return self._refused is not None and task >= self._refused[0]

    def _count_word(self) -> None:
        """Refuse words without end that the peer works: one now and then is due."""
        self._words += 1
        beats = (time.monotonic() - self._began) / SHORTEST_HEARTBEAT
        if self._words > beats + SPARE_WORDS:
            raise errors.PeerProtocolError(detail="it says without end that it still works")

    def _check_turn(self, message: TaskMessage) -> None:
        """Refuse points before all points of the tasks before: they would have to wait, and all behind them."""
        if isinstance(message, Frame) and message.stream in _POINTS:
            before = (live.party for index, live in self._live.items() if index < message.task)
            if not all(party.all_points_arrived for party in before):
                raise errors.PeerProtocolError(detail=f"a frame of task number {message.task}, whose turn has not come")

    def _start_next(self) -> bool:
        if self._next == len(self._plans) or not self._may_start():
            return False
        index, plan = self._next, self._plans[self._next]
        self._next += 1
        finding = self._in_background(plan.find)
        self._live[index] = live = LiveTask(plan, self._exchange(index, plan), finding)
        if index in self._early_offers:
            message, size = self._early_offers.pop(index)
            live.bytes_received += size
            self._send(live, live.exchange.receive(message))
        return True

    def _advance_inputs(self) -> bool:
        """Make an Offer or open a task, where that is due.

        A task is opened once those before it are under way: of one after a refused task the peer learns nothing.
        """
        may_open = True
        for index, live in self._live.items():
            work = live.on_input
            done = work is not None and work.done()
            if work is not None and done and work.exception() is not None and index != next(iter(self._live)):
                # The tasks before it are not to blame.
                return False
            if done and live.finding is not None:
                kept, live.finding = live.finding.result(), None
                self._send(live, live.party.offer(kept))
                self._settle(index, live)
                return True
            if done and live.reading is not None and may_open:
                prepared, live.reading = live.reading.result(), None
                live.exchange.use(prepared)
                self._go_on(index, live, live.party.open(len(prepared.items)))
                return True
            may_open = may_open and live.admitted
        return False

    def _settle(self, index: int, live: LiveTask) -> None:
        """Go on once both have made their offers, before anything else: the peer may need nothing more."""
        if live.settled or not live.party.settled:
            return
        live.settled = True
        live.plan.settled(live.party)
        if live.party.finished:
            # An earlier run was through with it: nothing is read now.
            self._go_on(index, live, [])
        else:
            live.was_read = True
            live.reading = self._in_background(live.plan.prepare, live.party.partition_sid)

    def _in_background(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future = self._reader.submit(work, *arguments)
        future.add_done_callback(lambda _: self._link.wake())
        return future

    def _begin_bins(self) -> None:
        """Begin the bins whose turn has come: two at a time, over all tasks.

        Never two in which this side plays different roles: two full directions could wait for each other.
        """
        for live in self._live.values():
            if not live.admitted:
                return
            while live.party.bins.has_next:
                if not self._may_begin_bin(live.party):
                    return
                live.exchange.begin_bin()

    def _may_begin_bin(self, party: TaskParty) -> bool:
        """Whether no bin is under way but the one that began last, in which this side plays the same role."""
        begun = [live.party for live in self._live.values() if live.party.bins.begun]
        busy = [each for each in begun if each.bins.never_through]
        if not busy:
            return True
        return busy == begun[-1:] and busy[0].bins.only_latest_under_way and busy[0].receives == party.receives

    def _work(self, room: bool) -> bool:
        may_send_points = True
        for index, live in self._live.items():
            if not live.admitted or self._is_refused(index):
                return False
            live.begin()
            live.party.bins.let_send_points(allowed=may_send_points)
            may_send_points = may_send_points and live.party.all_points_sent
            messages = live.exchange.step(room=room)
            if messages is not None:
                self._send(live, messages)
                trace.count("under way", "pieces", sum(each.exchange.pieces for each in self._live.values()))
                live.plan.progress(live.party.progress)
                return True
        return False

    def _wait(self, room: bool) -> None:
        """Wait for whatever comes first.

        Raises PeerSilentError when the peer says nothing for recv_timeout, PeerStuckError when for much longer it has
        said nothing but that it works.
        """
        busy = any(live.reads or live.exchange.pieces for live in self._live.values())
        if busy or self._link.broken:
            self._moved = time.monotonic()
        stuck = STUCK_AFTER * self._recv_timeout
        if time.monotonic() - self._moved >= stuck:
            raise errors.PeerStuckError(seconds=stuck)
        left = min(max(self._recv_timeout - self._link.silence, 0.0), SILENCE_LINE_INTERVAL)
        room_for = None if room else self._frames_under_way() + 1
        with self._stall(room):
            woken = self._link.wait(for_message=self._wants_input(), room_for=room_for, timeout=left)
        silence = self._link.silence
        if not woken and silence >= self._recv_timeout:
            raise errors.PeerSilentError(seconds=self._recv_timeout)
        if not woken and silence >= SILENCE_LINE_INTERVAL:
            logger.info("%s has said nothing for %.0f s; %.0f s are the limit", self._peer, silence, self._recv_timeout)

    def _stall(self, room: bool) -> AbstractContextManager[None]:
        """Count a wait in which no task has anything at work to the task that is held up."""
        tasks = [live for live in self._live.values() if not live.reads]
        if not tasks or any(live.exchange.pieces for live in tasks):
            return nullcontext()
        stages = next((live for live in tasks if live.party.exchanging), tasks[0]).plan.stages
        if room:
            return stages.at(Stage.WAITING_FOR_PEER, "wait for peer")
        return stages.at(Stage.WAITING_FOR_ROOM, "wait for room")

    def _retire(self) -> None:
        for index, live in list(self._live.items()):
            if live.party.finished and live.admitted:
                self._retire_one(index, live.result())

    def _retire_one(self, index: int, result: TaskResult) -> None:
        live = self._live.pop(index)
        live.begin()
        live.exchange.wipe()
        live.plan.exchanged(result)
        if live.plan.receives and not live.plan.broadcast:
            self._finishing.append(self._pools.write(live.plan.finish_alone, live.matches))
        else:
            live.exchange.close()

    # Helpers of the loop

    def _frames_under_way(self) -> int:
        return sum(live.exchange.frames_under_way for live in self._live.values())

    def _wants_input(self) -> bool:
        return all(live.party.wants_input for live in self._live.values())

    def _may_come_early(self, task: int) -> bool:
        ahead = task - self._next
        return 0 <= ahead < MAX_TASKS_AHEAD and task < len(self._plans) and task not in self._early_offers

    def _may_start(self) -> bool:
        """Whether another task may be started ahead of the one that exchanges.

        One-sided results that are still being written do not count: the peer could see in the pace of our messages how
        long that takes, and so whether anything matched.
        """
        if self._refused is not None:
            return False
        exchanging = sum(live.party.exchanging for live in self._live.values())
        return len(self._live) < MAX_LIVE_TASKS and exchanging < MAX_TASKS_AHEAD

    def _exchange(self, index: int, plan: TaskPlan) -> TaskExchange:
        task_sid = task_session_id(self.sid, plan.name)
        frame_items = min(hello.frame_items for hello in self._hellos)
        bin_items = min(hello.bin_items for hello in self._hellos)
        setup = TaskSetup(index, task_sid, curve.probe(task_sid), plan.broadcast, frame_items, bin_items)
        party = (Receiver if plan.receives else Sender)(setup)
        return TaskExchange(party, self._pools, plan.stages, self._storage)

    def _send(self, live: LiveTask, messages: list[Message]) -> None:
        for message in messages:
            live.bytes_sent += self._link.send(message)

    # Endings

    def _close(self) -> None:
        """End the session where both sides know that it is complete."""
        if not self._closed.is_set():
            self._closed.set()
            self._await_end()
            failpoints.passage("session.closed")

    def _await_end(self) -> None:
        """Wait until the peer has said everything too, for recv_timeout at most."""
        deadline = time.monotonic() + self._recv_timeout
        while (left := deadline - time.monotonic()) > 0:
            self._link.finish(min(left, SILENCE_LINE_INTERVAL))
            if self._link.ended:
                return
            logger.info("%s has not ended the session yet; %.0f s are the limit", self._peer, self._recv_timeout)

    def _keep_committed(self, patience: float) -> bool:
        """Keep what was committed before the link broke; return whether nothing else was to be done.

        An output that is not in place within patience [s] is given up.
        """
        for index, live in list(self._live.items()):
            if live.exchange.keep(patience):
                self._retire_one(index, live.result(UNCONFIRMED))
        return not self._live and self._next == len(self._plans)

    def _fail(self, exc: BaseException) -> None:
        for live in self._live.values():
            live.exchange.wipe()
        if self._closed.is_set():
            return
        self._closed.set()
        if isinstance(exc, errors.PeerLostError | errors.PeerFailedError):
            # The peer is gone, or knows.
            self._link.finish(0.0)
        else:
            stopped = isinstance(exc, errors.InterruptedBySignal)
            self._link.abort(self._told_class(exc), STOPPED_TIMEOUT if stopped else LAST_WORDS_TIMEOUT)

    def _told_class(self, exc: BaseException) -> int:
        private = any(live.party.disclosure is Disclosure.UNIFORM for live in self._live.values())
        if private and not isinstance(exc, errors.PeerProtocolError):
            return UNNAMED_FAILURE
        return exc.code if isinstance(exc, errors.PsicliError) else errors.PsicliError.code

    def _beat(self) -> None:
        """Say now and then that this side still works; the same whatever it does, so it tells of nothing."""
        # Often enough for what the other side puts up with, but not as often as it may like to say.
        interval = max(self._hellos[1].recv_timeout_ms / 4000, SHORTEST_HEARTBEAT)
        while not self._closed.wait(min(HEARTBEAT_INTERVAL, interval)):
            self._link.send(Working())


def open_session(
    meeting: Listener | Dialer,
    terms: Terms,
    *,
    timeout: float,
    depth: int = DEPTH,
    frame_items: int | None = None,
    bin_items: int = MOST_BIN_ITEMS,
    storage: Storage | None = None,
) -> Session:
    """Meet the peer and return the session, not yet agreed.

    timeout [s] is for the rendezvous; depth: pieces of work that a bin may have under way; frame_items: the most
    points a frame, by default what suits the backend; bin_items: the most items a bin, a power of two; storage: what
    the tasks' data may take.
    """
    link = meeting.meet(lambda: terms.hello(frame_items or curve.frame_items(), bin_items), timeout)
    listens = isinstance(meeting, Listener)
    return Session(link, terms, listens=listens, depth=depth, storage=storage, hang_up=meeting.close)
