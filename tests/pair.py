"""Two parties in memory, without a socket: bare machines whose work is made up, and real exchanges.

MachinePair steps a Receiver and a Sender in any order a test likes. run_exchanges runs two TaskExchange in two threads
over a channel that carries real octets. Both record every message, in the order of sending.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa

from psicli import curve
from psicli.errors import PeerGoneError, PeerLostError
from psicli.pipeline import Crew, Prepared, TaskExchange
from psicli.protocol import (
    Chunk,
    CutBitmap,
    MaskOwn,
    MaskPeer,
    Message,
    Progress,
    Receiver,
    Sender,
    Stream,
    TaskMessage,
    TaskParty,
    TaskSetup,
    Work,
)
from psicli.spool import IN_MEMORY, Mask
from psicli.trace import Stages
from psicli.wire import decode, encode

TASK = 3
TASK_SID = bytes(range(32))
CHUNK_ITEMS = 8
PROBE = bytes(16)
# Longer than any test takes; a pair that waits so long waits for ever [s].
PATIENCE = 20.0

M = TypeVar("M")
T = TypeVar("T")


# Machines ------------------------------------------------------------------------------------------------------


def setup(count: int, *, broadcast: bool = False, task: int = TASK, probe: bytes = PROBE) -> TaskSetup:
    return TaskSetup(task, TASK_SID, count, probe, broadcast, CHUNK_ITEMS)


def made_up_points(role: type[TaskParty], start: int, stop: int) -> bytes:
    """Return points [start, stop) that only look like points; no two are equal."""
    return b"".join(role.__name__.encode().ljust(24) + i.to_bytes(8, "big") for i in range(start, stop))


def made_up_tokens(points: bytes) -> bytes:
    return b"".join(hashlib.sha256(points[i : i + 32]).digest()[:16] for i in range(0, len(points), 32))


def made_up_bits(own: int, peer: int) -> list[bool]:
    """Return a bit for each of the sender's items, no more of them set than the smaller list holds."""
    bits = [j % 3 != 1 for j in range(own)]
    while sum(bits) > peer:
        bits[bits.index(True)] = False
    return bits


def packed_bits(bits: Sequence[bool]) -> bytes:
    octets = bytearray(-(-len(bits) // 8))
    for j, bit in enumerate(bits):
        octets[j // 8] |= bit << j % 8
    return bytes(octets)


@dataclass
class MachineEnd:
    """One end of a MachinePair: the machine, what waits for it, and what it has been through."""

    party: TaskParty
    capacity: float
    inbox: deque[TaskMessage] = field(default_factory=deque)
    received: list[TaskMessage] = field(default_factory=list)
    work: list[tuple[Work, bytes]] = field(default_factory=list)


class MachinePair:
    """A Receiver and a Sender of n and m items; the work is made up, the messages are real.

    log: every message sent, with the role that sent it. capacity: messages that a direction holds before it has no
    room, the receiver's and the sender's inbox.
    """

    def __init__(
        self, n: int, m: int, *, broadcast: bool, capacity: tuple[float, float] = (float("inf"), float("inf"))
    ) -> None:
        self.bits = made_up_bits(m, n)
        self.log: list[tuple[type[TaskParty], TaskMessage]] = []
        self.receiver = MachineEnd(Receiver(setup(n, broadcast=broadcast)), capacity[0])
        self.sender = MachineEnd(Sender(setup(m, broadcast=broadcast)), capacity[1])
        for end in self.ends:
            self._send(end, [end.party.open()])

    @property
    def ends(self) -> tuple[MachineEnd, MachineEnd]:
        return self.receiver, self.sender

    def end(self, role: type[TaskParty]) -> MachineEnd:
        return self.receiver if role is Receiver else self.sender

    def other(self, end: MachineEnd) -> MachineEnd:
        return self.sender if end is self.receiver else self.receiver

    @property
    def finished(self) -> bool:
        return all(end.party.finished for end in self.ends)

    def deliver(self, end: MachineEnd) -> bool:
        """Hand the next message to a machine, if there is one and it wants it."""
        if not end.inbox or not end.party.wants_input:
            return False
        message = end.inbox.popleft()
        end.received.append(message)
        self._send(end, end.party.receive(message))
        return True

    def work(self, end: MachineEnd) -> bool:
        """Carry out the machine's next piece of work, if it has any."""
        room = len(self.other(end).inbox) < self.other(end).capacity
        work = end.party.next_work(room=room)
        if work is None:
            return False
        result = self.result(end.party, work)
        end.work.append((work, result))
        self._send(end, end.party.completed(work, result))
        return True

    def result(self, party: TaskParty, work: Work) -> bytes:
        match work:
            case MaskOwn(start, stop):
                return made_up_points(type(party), start, stop)
            case MaskPeer(_, points) if isinstance(party, Sender):
                return made_up_tokens(points)
            case CutBitmap(start, stop):
                return packed_bits(self.bits[start:stop])
        return b""

    def steps(self) -> list[Callable[[], bool]]:
        return [partial(step, end) for end in self.ends for step in (self.deliver, self.work)]

    def run(self, schedule: Iterable[int] = ()) -> None:
        """Take the steps a schedule names, skipping impossible ones, then all in turn to the end.

        Fails where neither side can do anything although they are not through.
        """
        steps = self.steps()
        for choice in schedule:
            steps[choice % len(steps)]()
        while not self.finished:
            moved = [step() for step in steps]
            assert any(moved), "both sides wait for each other"

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Take all steps in turn, one at a time, until the test sees what it waits for."""
        steps = self.steps()
        while not reached():
            moved = False
            for step in steps:
                moved |= step()
                if reached():
                    return
            assert moved, "never reached"

    def sent(self, kind: type[M], role: type[TaskParty] | None = None) -> list[M]:
        return [message for by, message in self.log if isinstance(message, kind) and role in (None, by)]

    def data(self, stream: Stream) -> bytes:
        return b"".join(chunk.data for chunk in self.sent(Chunk) if chunk.stream == stream)

    def _send(self, end: MachineEnd, messages: Iterable[Message]) -> None:
        for message in messages:
            self.log.append((type(end.party), cast(TaskMessage, message)))
            self.other(end).inbox.append(cast(TaskMessage, message))


# Exchanges -----------------------------------------------------------------------------------------------------


def items_of(values: Iterable[str | bytes]) -> pa.LargeBinaryArray:
    octets = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(octets, pa.large_binary())


class AtOnce(Crew):
    """A crew that is through before it is asked."""

    def __init__(self) -> None:
        self.depth = 1

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as exc:
            future.set_exception(exc)
        return future

    commit = write = compute


class KeptOutput:
    """An output in memory."""

    def __init__(self) -> None:
        self.staged: Mask | None = None
        self.published = False

    def check(self, matched: Mask) -> None:
        """Everything is allowed."""

    def stage(self, matched: Mask) -> None:
        self.staged = matched

    def publish(self) -> None:
        assert self.staged is not None
        self.published = True


class MemoryChannel:
    """One end of a link in memory: octets, as on the wire, in two queues of messages under one lock."""

    def __init__(self, lock: threading.Condition, capacity: int) -> None:
        self.sent: list[Message] = []
        self.sizes: list[int] = []
        self.peer: MemoryChannel
        self._lock = lock
        self._capacity = capacity
        self._inbox: deque[bytes] = deque()
        self._closed = False

    @classmethod
    def pair(cls, capacity: int) -> tuple[MemoryChannel, MemoryChannel]:
        lock = threading.Condition()
        one, other = cls(lock, capacity), cls(lock, capacity)
        one.peer, other.peer = other, one
        return one, other

    def send(self, message: Message) -> None:
        octets = encode(message)
        with self._lock:
            self.sent.append(message)
            self.sizes.append(len(octets))
            self.peer._inbox.append(octets)
            self._lock.notify_all()

    def poll(self) -> TaskMessage | None:
        with self._lock:
            if self._inbox:
                self._lock.notify_all()
                return cast(TaskMessage, decode(self._inbox.popleft()))
            if self._closed:
                raise PeerGoneError(reason="it closed the connection")
            return None

    def has_room(self) -> bool:
        with self._lock:
            return self._room()

    def wait(self, *, for_message: bool, for_room: bool) -> None:
        def there() -> bool:
            return self._closed or (for_message and bool(self._inbox)) or (for_room and self._room())

        with self._lock:
            assert self._lock.wait_for(there, PATIENCE), "nothing happens any more"

    def close(self) -> None:
        """End both directions; what is on its way still arrives."""
        with self._lock:
            self._closed = self.peer._closed = True
            self._lock.notify_all()

    def _room(self) -> bool:
        return len(self.peer._inbox) < self._capacity


@dataclass
class ExchangeEnd:
    """One side of a run: what took part and what came of it."""

    exchange: TaskExchange
    channel: Any
    output: KeptOutput
    items: pa.LargeBinaryArray
    failure: BaseException | None = None
    # Whether the output stays although the link broke.
    kept: bool = False

    def points(self, stream: Stream) -> list[bytes]:
        """Return the points this side sent, one by one."""
        return [point for data in self.data(stream) for point in records(data, curve.POINT_BYTES)]

    def data(self, stream: Stream) -> list[bytes]:
        return [sent.data for sent in self.channel.sent if isinstance(sent, Chunk) and sent.stream == stream]

    def run(self) -> None:
        try:
            self.drive()
        except BaseException as exc:
            self.failure = exc
            self.channel.close()

    def drive(self, seen: list[Progress] | None = None) -> None:
        """Do for one exchange what the session does for its tasks; seen: takes note of the progress."""
        exchange, channel = self.exchange, self.channel
        try:
            self._send([exchange.party.open()])
            while not exchange.party.finished:
                room = channel.has_room()
                messages = exchange.step(room=room)
                message = channel.poll() if messages is None and exchange.party.wants_input else None
                if message is not None:
                    messages = exchange.party.receive(message)
                if messages is None:
                    channel.wait(for_message=exchange.party.wants_input, for_room=not room)
                self._send(messages or [])
                if seen is not None:
                    seen.append(exchange.party.progress)
        except PeerLostError:
            self.kept = exchange.keep(PATIENCE)
            if not self.kept:
                raise
        finally:
            exchange.wipe()

    def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.channel.send(message)


def records(data: bytes, width: int) -> list[bytes]:
    return [data[i : i + width] for i in range(0, len(data), width)]


def exchange_end(
    role: type[TaskParty],
    items: pa.LargeBinaryArray,
    channel: Any,
    *,
    broadcast: bool = False,
    task_sid: bytes = TASK_SID,
    chunk_items: int = CHUNK_ITEMS,
    scalar: bytes | None = None,
    crew: Crew | None = None,
) -> ExchangeEnd:
    """Make one side; scalar: a known one for known answers, else it draws its own."""
    party = role(TaskSetup(TASK, task_sid, len(items), curve.probe(task_sid), broadcast, chunk_items))
    output = KeptOutput()
    exchange = TaskExchange(party, Prepared(items, output), crew or AtOnce(), Stages("task"), IN_MEMORY)
    if scalar is not None:
        exchange._scalar[:] = scalar
    return ExchangeEnd(exchange, channel, output, items)


def run_exchanges(
    receiver_items: pa.LargeBinaryArray,
    sender_items: pa.LargeBinaryArray,
    *,
    broadcast: bool = False,
    task_sid: bytes = TASK_SID,
    chunk_items: int = CHUNK_ITEMS,
    capacity: int = 8,
    scalars: tuple[bytes | None, bytes | None] = (None, None),
) -> tuple[ExchangeEnd, ExchangeEnd]:
    """Run a receiver's and a sender's exchange against each other; raises the first failure of either."""
    channels = MemoryChannel.pair(capacity)
    shared: dict[str, Any] = {"broadcast": broadcast, "task_sid": task_sid, "chunk_items": chunk_items}
    receiver = exchange_end(Receiver, receiver_items, channels[0], scalar=scalars[0], **shared)
    sender = exchange_end(Sender, sender_items, channels[1], scalar=scalars[1], **shared)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ExchangeEnd.run, (receiver, sender)))
    failures = [end.failure for end in (receiver, sender) if end.failure is not None]
    if failures:
        # The side that the other one left only tells that it was left.
        raise min(failures, key=lambda failure: isinstance(failure, PeerGoneError))
    return receiver, sender


class PeerChannel:
    """A channel whose other end is no thread but a peer that a test scripts.

    The peer's machine takes in each message at once and does its work when this side asks for messages, so that a run
    is the same every time. answer: carries out the peer's work. may_work: whether the peer does any now. limit: how
    many of the peer's messages arrive before the link breaks.
    """

    def __init__(
        self,
        peer: TaskParty,
        answer: Callable[[Work], bytes],
        *,
        may_work: Callable[[], bool] = lambda: True,
        limit: int | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self._peer = peer
        self._answer = answer
        self._may_work = may_work
        self._left = limit
        self._inbox: deque[Message] = deque([peer.open()])

    def send(self, message: Message) -> None:
        self.sent.append(message)
        self._inbox += self._peer.receive(cast(TaskMessage, decode(encode(message))))

    def poll(self) -> TaskMessage | None:
        if not self._inbox:
            self._step()
        if self._left == 0:
            raise PeerGoneError(reason="the connection broke")
        if not self._inbox:
            return None
        if self._left is not None:
            self._left -= 1
        return cast(TaskMessage, decode(encode(self._inbox.popleft())))

    def has_room(self) -> bool:
        return True

    def wait(self, *, for_message: bool, for_room: bool) -> None:
        assert for_message
        assert self._inbox or self._left == 0 or self._step(), "both sides wait for each other"

    def _step(self) -> bool:
        work = self._peer.next_work() if self._may_work() else None
        if work is None:
            return False
        self._inbox += self._peer.completed(work, self._answer(work))
        return True


def matched_items(end: ExchangeEnd, mask: Mask | None) -> set[bytes]:
    assert mask is not None
    assert mask.dtype == np.bool_
    assert len(mask) == len(end.items)
    return set(end.items.filter(pa.array(mask, pa.bool_())).to_pylist())
