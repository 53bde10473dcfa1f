"""A session: hello and agreement, then the tasks over one link."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from psicli import __version__, curve, failpoints, signals, trace
from psicli.errors import (
    DisagreementError,
    InterruptedBySignal,
    PeerFailedError,
    PeerLostError,
    PeerProtocolError,
    PeerSilentError,
    PeerStuckError,
    PsicliError,
    SamePartyError,
    StorageError,
    failure_of_peer,
    shown,
)
from psicli.link import Dialer, Link, Listener
from psicli.pipeline import Crew, Prepared, TaskExchange
from psicli.protocol import (
    NONCE_BYTES,
    Abort,
    Ack,
    Chunk,
    Disclosure,
    Hello,
    HelloOctets,
    LinkMessage,
    Message,
    Open,
    Progress,
    Purpose,
    Receiver,
    Sender,
    TaskMessage,
    TaskParty,
    TaskSetup,
    TaskTerms,
    session_id,
    task_session_id,
)
from psicli.spool import IN_MEMORY, Mask, Storage
from psicli.trace import Stage, Stages
from psicli.wire import decode_hello, encode_hello

logger = logging.getLogger(__name__)

# How often a side says that it still works while it sends nothing else [s].
HEARTBEAT_INTERVAL = 15.0
SHORTEST_HEARTBEAT = 0.1
# How often a side that hears nothing says so [s].
SILENCE_LINE_INTERVAL = 60.0
# Told instead of the class where the class itself could tell of a match; no exit code.
UNNAMED_FAILURE = 1
# Tasks under way with the peer at a time: one exchanges, one has been opened, one commits its outputs.
MAX_LIVE_TASKS = 3
# Tasks whose points are not through: the one that exchanges, and one opened meanwhile.
MAX_OPEN_AHEAD = 2
# How long the peer may take to hear why this side fails: it may have frames to work through before [s].
LAST_WORDS_TIMEOUT = 10.0
# A side that is stopped by a signal does not wait so long, neither for that nor for an output being written [s].
STOPPED_TIMEOUT = 2.0
# A peer that says so long that it works, and nothing else, while this side has nothing to do, is stuck [recv_timeouts].
STUCK_AFTER = 24
# Acks that may come before their time: as many as a connection holds back for ten seconds.
SPARE_ACKS = 100
# Pieces of work a task may have under way: two at work, two that wait to be sent or begun.
DEPTH = 4
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

    def hello(self, chunk_items: int) -> bytes:
        """Return a fresh Hello, as the octets that will travel; every connection needs its own."""
        return encode_hello(
            Hello(
                package_version=__version__,
                party=self.party,
                job=self.job,
                tasks=self.tasks,
                chunk_items=chunk_items,
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
        raise SamePartyError(party=ours.party)
    rows = [(f"party of {peer}", peer, theirs.party)]
    rows += [(name, getattr(ours, name), getattr(theirs, name)) for name in ("protocol_version", "suite", "job")]
    rows += _task_rows(ours.tasks, theirs.tasks)
    differences = [(field, _as_yaml(mine), _as_yaml(yours)) for field, mine, yours in rows if mine != yours]
    if differences:
        raise DisagreementError(table=_table(differences))


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
        *((field, mine, shown(yours).strip("'")) for field, mine, yours in rows),
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

    def prepare(self) -> Prepared:
        """Return own distinct items in their secret order and where the rows go; runs in the background."""

    def opened(self, party: TaskParty) -> None:
        """Decide whether to go on, now that both numbers are known; nothing has been masked yet, unless it is resumed.

        Before or after `started`. Raises a PsicliError, PolicyError above all, to end the session when the tasks
        before are through.
        """

    def started(self) -> None:
        """Take note that it is this task's turn."""

    def progress(self, progress: Progress) -> None:
        """Take note how far the masking is."""

    def exchanged(self, result: TaskResult) -> None:
        """Take note that both sides are through with it."""

    def finish_alone(self, matched: Callable[[], Mask]) -> None:
        """Write a one-sided result: the peer is told nothing any more. Runs in the background, raises nothing."""


class LiveTask:
    """A task under way in a session."""

    def __init__(self, plan: TaskPlan, exchange: TaskExchange) -> None:
        self.plan = plan
        self.exchange = exchange
        self.party = exchange.party
        self.bytes_sent = 0
        self.bytes_received = 0
        self._begun = False

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.plan.started()

    def result(self, warning: str | None = None) -> TaskResult:
        return TaskResult(self.party.peer_count, (self.bytes_sent, self.bytes_received), warning)


class Session:
    """The tasks over one link, both Hellos exchanged.

    One task exchanges points at a time, in order. Meanwhile the next one is read and opened, and the ones before write
    their outputs. Leaving the session with an error tells the peer the class of that error, as far as the protocol
    allows, and lets outputs that are the own affair of this side be written.
    """

    def __init__(
        self,
        link: Link,
        terms: Terms,
        *,
        listens: bool,
        recv_timeout: float,
        depth: int = DEPTH,
        storage: Storage = IN_MEMORY,
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
        self._recv_timeout = recv_timeout
        self._chunk_items = min(ours.chunk_items, theirs.chunk_items)
        self._plans: Sequence[TaskPlan] = ()
        self._live: dict[int, LiveTask] = {}
        self._next = 0
        self._reading: Future[Prepared] | None = None
        self._early_opens: dict[int, tuple[Open, int]] = {}
        # The first task this side does not go on with, and why.
        self._refused: tuple[int, PsicliError] | None = None
        self._finishing: list[Future[None]] = []
        self._reader = ThreadPoolExecutor(1, "psicli-reader")
        self._crew = Crew(depth, link.wake)
        self._storage = storage
        self._hang_up = hang_up
        self._began = self._moved = time.monotonic()
        self._frames_sent = 0
        self._acks = 0
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
        for live in self._live.values():
            # What failed first is what is told.
            with suppress(StorageError):
                live.exchange.suspend()
        self._reader.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + (STOPPED_TIMEOUT if isinstance(exc, InterruptedBySignal) else math.inf)
        writing: list[Future[Any]] = [*self._finishing]
        writing += [live.exchange.writing for live in self._live.values() if live.exchange.writing is not None]
        while wait(writing, signals.SLICE).not_done and time.monotonic() < deadline:
            signals.check()
        self._crew.dismiss()

    def agree(self) -> None:
        """Compare both Hellos; raises as `agree`."""
        agree(*self._hellos, self._peer)
        failpoints.passage("session.agreed")

    def run(self, plans: Sequence[TaskPlan]) -> None:
        """Run the tasks in order until the peer needs this side no more; raises whatever failed first."""
        self._plans = plans
        self._read_next()
        try:
            while self._live or self._reading:
                signals.check()
                self._stop_at_the_refused()
                # Looked at once: room that appears between two looks would be slept through.
                room = self._link.room() > self._frames_under_way()
                if not (self._take_message() or self._open_next() or self._work(room)):
                    self._wait(room)
                self._retire()
        except BaseException as exc:
            # First: what both sides have committed stays, whatever this is.
            complete = self._keep_committed(STOPPED_TIMEOUT if isinstance(exc, InterruptedBySignal) else math.inf)
            if not (complete and isinstance(exc, PeerLostError | PeerFailedError)):
                self._blame_head()
                raise
        self._close()

    # One turn of the loop: each step returns whether it did something

    def _take_message(self) -> bool:
        if not (self._wants_input() or self._is_over()):
            return False
        arrived = self._link.poll()
        if arrived is None:
            return False
        self._dispatch(*arrived)
        return True

    def _dispatch(self, message: Message, size: int) -> None:
        if isinstance(message, Abort):
            raise failure_of_peer(message.failure_class)
        if isinstance(message, HelloOctets | LinkMessage):
            raise PeerProtocolError(detail="a second Hello")
        live = self._live.get(message.task)
        if isinstance(message, Ack):
            self._count_ack()
            if message.stream == 0 or live is None:
                # Still working, or a last word about a task that is over.
                return
        else:
            self._moved = time.monotonic()
        if self._is_refused(message.task):
            # It will end before any of that matters.
            return
        if live is not None:
            self._check_turn(message)
            live.bytes_received += size
            answers = live.party.receive(message)
            if not isinstance(message, Open) or self._admit(message.task, live):
                self._send(live, answers)
        elif isinstance(message, Open) and self._may_come_early(message.task):
            self._early_opens[message.task] = message, size
        else:
            raise PeerProtocolError(detail=f"a message about task number {message.task}, which is not under way")

    def _admit(self, index: int, live: LiveTask) -> bool:
        """Return whether this side goes on with a task that both have opened."""
        try:
            live.plan.opened(live.party)
        except PsicliError as exc:
            self._refused = index, exc
        return self._refused is None

    def _stop_at_the_refused(self) -> None:
        """Raise why a task was refused once those before it, which are not to blame, are through."""
        if self._refused is not None and next(iter(self._live)) == self._refused[0]:
            raise self._refused[1]

    def _is_refused(self, task: int) -> bool:
        return self._refused is not None and task >= self._refused[0]

    def _count_ack(self) -> None:
        """Refuse Acks without end: one a frame of ours is due, and beside them a word now and then."""
        self._acks += 1
        beats = (time.monotonic() - self._began) / SHORTEST_HEARTBEAT
        if self._acks > self._frames_sent + beats + SPARE_ACKS:
            raise PeerProtocolError(detail="it says without end that it still works")

    def _check_turn(self, message: TaskMessage) -> None:
        """Refuse a frame before all of the tasks before have come: it would have to wait, and all behind it."""
        if isinstance(message, Chunk):
            before = (live.party for index, live in self._live.items() if index < message.task)
            if not all(party.all_arrived for party in before):
                raise PeerProtocolError(detail=f"a frame of task number {message.task}, whose turn has not come")

    def _open_next(self) -> bool:
        if self._reading is None or not self._reading.done() or not self._may_open():
            return False
        index, plan = self._next, self._plans[self._next]
        if self._reading.exception() is not None and self._live:
            # The tasks before it are not to blame.
            return False
        self._live[index] = live = LiveTask(plan, self._exchange(index, plan, self._reading.result()))
        self._next += 1
        self._read_next()
        self._send(live, [live.party.open()])
        if index in self._early_opens:
            self._dispatch(*self._early_opens.pop(index))
        return True

    def _work(self, room: bool) -> bool:
        for index, live in self._live.items():
            if self._is_refused(index):
                return False
            live.begin()
            messages = live.exchange.step(room=room)
            if messages is not None:
                self._send(live, messages)
                trace.count("under way", "pieces", sum(each.exchange.pieces for each in self._live.values()))
                live.plan.progress(live.party.progress)
                return True
            if live.party.streaming:
                # Points of the next task before this one's could make two full directions wait for each other.
                return False
        return False

    def _wait(self, room: bool) -> None:
        """Wait for whatever comes first.

        Raises PeerSilentError when the peer says nothing for recv_timeout, PeerStuckError when for much longer it has
        said nothing but that it works.
        """
        if self._busy() or self._link.broken:
            self._moved = time.monotonic()
        stuck = STUCK_AFTER * self._recv_timeout
        if time.monotonic() - self._moved >= stuck:
            raise PeerStuckError(seconds=stuck)
        left = min(max(self._recv_timeout - self._link.silence, 0.0), SILENCE_LINE_INTERVAL)
        room_for = None if room else self._frames_under_way() + 1
        with self._stall(room):
            woken = self._link.wait(for_message=self._wants_input(), room_for=room_for, timeout=left)
        silence = self._link.silence
        if not woken and silence >= self._recv_timeout:
            raise PeerSilentError(seconds=self._recv_timeout)
        if not woken and silence >= SILENCE_LINE_INTERVAL:
            logger.info("%s has said nothing for %.0f s; %.0f s are the limit", self._peer, silence, self._recv_timeout)

    def _stall(self, room: bool) -> AbstractContextManager[None]:
        """Count a wait in which no task has anything at work to the task that is held up."""
        tasks = list(self._live.values())
        if not tasks or any(live.exchange.pieces for live in tasks):
            return nullcontext()
        stages = next((live for live in tasks if live.party.exchanging), tasks[0]).plan.stages
        if room:
            return stages.at(Stage.WAITING_FOR_PEER, "wait for peer")
        return stages.at(Stage.WAITING_FOR_ROOM, "wait for room")

    def _retire(self) -> None:
        for index, live in list(self._live.items()):
            if live.party.finished:
                self._retire_one(index, live.result())

    def _retire_one(self, index: int, result: TaskResult) -> None:
        live = self._live.pop(index)
        live.begin()
        live.exchange.wipe()
        live.plan.exchanged(result)
        if live.plan.receives and not live.plan.broadcast:
            self._finishing.append(self._crew.write(live.plan.finish_alone, live.exchange.match))

    # Helpers of the loop

    def _frames_under_way(self) -> int:
        return sum(live.party.frames_under_way for live in self._live.values())

    def _busy(self) -> bool:
        """Whether this side has something to do itself."""
        reads = self._reading is not None and not self._reading.done()
        return reads or any(live.exchange.pieces for live in self._live.values())

    def _wants_input(self) -> bool:
        return all(live.party.wants_input for live in self._live.values())

    def _is_over(self) -> bool:
        """Whether the link has ended and nothing that was committed still has to be put in place."""
        return self._link.ended and all(live.party.exchanging for live in self._live.values())

    def _may_come_early(self, task: int) -> bool:
        return 0 <= task - self._next < MAX_OPEN_AHEAD and task not in self._early_opens

    def _may_open(self) -> bool:
        """Whether another task may be opened ahead of the one that exchanges.

        One-sided results that are still being written do not count: the peer could see in the pace of our Opens how
        long that takes, and so whether anything matched.
        """
        if self._refused is not None:
            return False
        exchanging = sum(live.party.exchanging for live in self._live.values())
        return len(self._live) < MAX_LIVE_TASKS and exchanging < MAX_OPEN_AHEAD

    def _read_next(self) -> None:
        self._reading = None
        if self._next < len(self._plans):
            self._reading = self._reader.submit(self._plans[self._next].prepare)
            self._reading.add_done_callback(lambda _: self._link.wake())

    def _exchange(self, index: int, plan: TaskPlan, prepared: Prepared) -> TaskExchange:
        task_sid, count = task_session_id(self.sid, plan.name), len(prepared.items)
        history = None if prepared.keeper is None else prepared.keeper.history
        setup = TaskSetup(index, task_sid, count, curve.probe(task_sid), plan.broadcast, self._chunk_items, history)
        party = (Receiver if plan.receives else Sender)(setup)
        return TaskExchange(party, prepared, self._crew, plan.stages, self._storage)

    def _send(self, live: LiveTask, messages: list[Message]) -> None:
        for message in messages:
            live.bytes_sent += self._link.send(message)
            self._frames_sent += isinstance(message, Chunk)

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
        return not (self._live or self._reading)

    def _blame_head(self) -> None:
        """Whatever failed, failed the task whose turn it was, also where it had not really begun."""
        for live in self._live.values():
            live.begin()
            return
        if self._reading is not None:
            self._plans[self._next].started()

    def _fail(self, exc: BaseException) -> None:
        for live in self._live.values():
            live.exchange.wipe()
        if self._closed.is_set():
            return
        self._closed.set()
        if isinstance(exc, PeerLostError | PeerFailedError):
            # The peer is gone, or knows.
            self._link.finish(0.0)
        else:
            stopped = isinstance(exc, InterruptedBySignal)
            self._link.abort(self._told_class(exc), STOPPED_TIMEOUT if stopped else LAST_WORDS_TIMEOUT)

    def _told_class(self, exc: BaseException) -> int:
        private = any(live.party.disclosure is Disclosure.UNIFORM for live in self._live.values())
        if private and not isinstance(exc, PeerProtocolError):
            return UNNAMED_FAILURE
        return exc.code if isinstance(exc, PsicliError) else PsicliError.code

    def _beat(self) -> None:
        """Say now and then that this side still works; the same whatever it does, so it tells of nothing."""
        # Often enough for what the other side puts up with, but not as often as it may like to say.
        interval = max(self._hellos[1].recv_timeout_ms / 4000, SHORTEST_HEARTBEAT)
        while not self._closed.wait(min(HEARTBEAT_INTERVAL, interval)):
            self._link.send(Ack(self._next))


def open_session(
    meeting: Listener | Dialer,
    terms: Terms,
    *,
    timeout: float,
    recv_timeout: float,
    depth: int = DEPTH,
    chunk_items: int | None = None,
    storage: Storage = IN_MEMORY,
) -> Session:
    """Meet the peer and return the session, not yet agreed.

    timeout [s] is for the rendezvous; depth: pieces of work that a task may have under way; chunk_items: the most
    points a frame, by default what suits the backend; storage: what the tasks' lists may take.
    """
    link = meeting.meet(lambda: terms.hello(chunk_items or curve.chunk_items()), timeout)
    listens = isinstance(meeting, Listener)
    return Session(
        link,
        terms,
        listens=listens,
        recv_timeout=recv_timeout,
        depth=depth,
        storage=storage,
        hang_up=meeting.close,
    )
