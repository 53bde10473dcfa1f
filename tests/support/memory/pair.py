"""Two real exchanges in memory, without a socket.

run_exchanges runs two TaskExchange in two threads over a channel that carries real octets. It records every message, in
the order of sending. Bins and frames may be of any small size here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pyarrow as pa
from support.memory.machines import BIN_ITEMS, FRAME_ITEMS, PATIENCE, TASK_SID, MachineEnd, begin_bins, setup

from psicli import curve
from psicli.core.errors import PeerGoneError, PeerLostError
from psicli.core.stages import Stages
from psicli.exchange import worker
from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.pools import WorkerPools
from psicli.exchange.task_exchange import Prepared, Storage, TaskExchange
from psicli.exchange.worker import Match, Worker
from psicli.items.partitions import Matches, Partitioner
from psicli.protocol.bins import BinParty
from psicli.protocol.messages import Frame, Kept, Message, Stream, TaskMessage, partition_key
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import Progress, TaskParty
from psicli.protocol.wire import decode, encode
from psicli.protocol.work import Work

T = TypeVar("T")


def items_of(values: Iterable[str | bytes]) -> pa.LargeBinaryArray:
    octets = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(octets, pa.large_binary())


class NoCheckpoint(Checkpoint):
    """A task that continues from nothing and leaves nothing."""

    def __init__(self) -> None:
        """Without a folder, or a ledger."""

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        return {}

    def answering(self, number: int, attempt: int, order_secret: bytes) -> None:
        """Nothing is kept."""

    def received(self, number: int, order_secret: bytes) -> None:
        """Nothing is kept."""

    def matched(self, number: int, match: Match) -> None:
        """Nothing is kept."""

    def answering_bitmaps(self) -> None:
        """Nothing is kept."""


def prepared_of(
    items: pa.LargeBinaryArray, partition_sid: bytes, output: Any = None, checkpoint: Checkpoint | None = None
) -> Prepared:
    """Cut items into bins, as a task that has read them does."""
    partitioner = Partitioner(partition_key(partition_sid))
    partitioner.add(items)
    return Prepared(partitioner.finish(), output, checkpoint or NoCheckpoint())


class AtOnce(WorkerPools):
    """Pools that are through before they are asked."""

    def __init__(self) -> None:
        self.depth = 1

    def _submit(self, executor: object, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as exc:
            future.set_exception(exc)
        return future

    def dismiss(self) -> None:
        """Nothing is ever at work."""

    _computing = _matching = _committing = _writing = cast(Any, None)


class KeptOutput:
    """An output in memory."""

    def __init__(self) -> None:
        self.staged: Matches | None = None
        self.published = False

    def check(self, matches: Matches) -> None:
        """Everything is allowed."""

    def stage(self, matches: Matches) -> None:
        self.staged = matches

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

    def has_room(self, under_way: int = 0) -> bool:
        """Tell whether a frame more than those under way fits."""
        with self._lock:
            return self._room(under_way)

    def wait(self, *, for_message: bool, for_room: bool, under_way: int = 0) -> None:
        def there() -> bool:
            return self._closed or (for_message and bool(self._inbox)) or (for_room and self._room(under_way))

        with self._lock:
            assert self._lock.wait_for(there, PATIENCE), "nothing happens any more"

    def close(self) -> None:
        """End both directions; what is on its way still arrives."""
        with self._lock:
            self._closed = self.peer._closed = True
            self._lock.notify_all()

    def _room(self, under_way: int) -> bool:
        return len(self.peer._inbox) + under_way < self._capacity


class KnownExchange(TaskExchange):
    """An exchange that may be told its secrets, and remembers its workers.

    scalar: of every bin; the orders and the paddings come from it, so that two runs are the same.
    """

    scalar: bytes | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # By bin and attempt; the scalars as they were drawn, or told.
        self.workers: dict[tuple[int, int], Worker] = {}
        self.scalars: dict[tuple[int, int], bytes] = {}

    def make_worker(self, party: BinParty) -> Worker:
        made = super().make_worker(party)
        at = party.place
        if self.scalar is not None:
            name = self.scalar + bytes([self.party.receives, at.bin % 256, at.attempt])
            secret = hashlib.sha256(name).digest()
            know(made, self.scalar, secret)
            secrets = self._restored().order_secrets
            if at.bin in secrets:
                secrets[at.bin] = secret
        self.workers[at.bin, at.attempt] = made
        self.scalars[at.bin, at.attempt] = bytes(made._scalar)
        return made


def know(made: Worker, scalar: bytes, secret: bytes) -> None:
    """Tell a worker its scalar, its order and, by the same secret, its padding."""
    made._scalar[:] = scalar
    made.order_secret = secret
    made._order = worker._secret_order(secret, len(made._order))
    count = len(made._padding) // worker._PADDING_BYTES
    made._padding = b"".join(hashlib.sha256(secret + i.to_bytes(4, "big")).digest() for i in range(count))


@dataclass
class ExchangeEnd:
    """One side of a run: what took part and what came of it."""

    exchange: KnownExchange
    channel: Any
    output: KeptOutput
    items: pa.LargeBinaryArray
    checkpoint: Checkpoint | None = None
    # What it offers to continue from.
    offer: Kept | None = None
    failure: BaseException | None = None
    # Whether the output stays although the link broke.
    kept: bool = False
    prepared: Prepared | None = None

    @property
    def party(self) -> TaskParty:
        return self.exchange.party

    def points(self, stream: Stream) -> list[bytes]:
        """Return the points this side sent, one by one."""
        return [point for data in self.data(stream) for point in records(data, curve.POINT_BYTES)]

    def data(self, stream: Stream) -> list[bytes]:
        return [sent.data for sent in self.channel.sent if isinstance(sent, Frame) and sent.stream == stream]

    def prepare(self) -> None:
        """Read the items: whose bin each is depends on what was agreed."""
        self.prepared = prepared_of(self.items, self.party.partition_sid, self.output, self.checkpoint)
        self.exchange.use(self.prepared)

    def advance(self) -> list[Message] | None:
        """Make the offer, or open the task, where that is due."""
        if self.party._my_offer is None:
            return self.party.offer(self.offer)
        if self.party.settled and self.party.own_count < 0:
            self.prepare()
            assert self.prepared is not None
            return self.party.open(len(self.prepared.items))
        return None

    def step(self, *, room: bool) -> list[Message] | None:
        """Advance, or do work, as the session does."""
        begin_bins(self.party, self.exchange.begin_bin)
        messages = self.advance()
        return self.exchange.step(room=room) if messages is None else messages

    def matches(self) -> Matches:
        """Return the receiver's result."""
        if self.prepared is None:
            self.prepare()
        return self.exchange.matches()

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
            while not self.party.finished:
                room = channel.has_room(exchange.frames_under_way)
                messages = self.step(room=room)
                message = channel.poll() if messages is None and self.party.wants_input else None
                if message is not None:
                    messages = exchange.receive(message)
                if messages is None:
                    wants = {"for_message": self.party.wants_input, "for_room": not room}
                    channel.wait(**wants, under_way=exchange.frames_under_way)
                self._send(messages or [])
                if seen is not None:
                    seen.append(self.party.progress)
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
    frame_items: int = FRAME_ITEMS,
    bin_items: int = BIN_ITEMS,
    scalar: bytes | None = None,
    pools: WorkerPools | None = None,
    checkpoint: Checkpoint | None = None,
    offer: Kept | None = None,
) -> ExchangeEnd:
    """Make one side; scalar: a known one for all bins, and with it a known order, else every bin draws its own."""
    party = role(
        setup(
            broadcast=broadcast,
            probe=curve.probe(task_sid),
            task_sid=task_sid,
            frame_items=frame_items,
            bin_items=bin_items,
        )
    )
    exchange = KnownExchange(party, pools or AtOnce(), Stages("task"), Storage())
    exchange.scalar = scalar
    return ExchangeEnd(exchange, channel, KeptOutput(), items, checkpoint, offer)


def run_exchanges(
    receiver_items: pa.LargeBinaryArray,
    sender_items: pa.LargeBinaryArray,
    *,
    broadcast: bool = False,
    task_sid: bytes = TASK_SID,
    frame_items: int = FRAME_ITEMS,
    bin_items: int = BIN_ITEMS,
    capacity: int = 8,
    scalars: tuple[bytes | None, bytes | None] = (None, None),
    pools: tuple[WorkerPools | None, WorkerPools | None] = (None, None),
    checkpoints: tuple[Checkpoint | None, Checkpoint | None] = (None, None),
    offers: tuple[Kept | None, Kept | None] = (None, None),
) -> tuple[ExchangeEnd, ExchangeEnd]:
    """Run a receiver's and a sender's exchange against each other; raises the first failure of either."""
    channels = MemoryChannel.pair(capacity)
    shared: dict[str, Any] = {
        "broadcast": broadcast,
        "task_sid": task_sid,
        "frame_items": frame_items,
        "bin_items": bin_items,
    }
    receiver, sender = (
        exchange_end(role, items, channel, scalar=scalar, pools=pool, checkpoint=checkpoint, offer=offer, **shared)
        for role, items, channel, scalar, pool, checkpoint, offer in zip(
            (Receiver, Sender),
            (receiver_items, sender_items),
            channels,
            scalars,
            pools,
            checkpoints,
            offers,
            strict=True,
        )
    )
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(ExchangeEnd.run, (receiver, sender)))
    failures = [end.failure for end in (receiver, sender) if end.failure is not None]
    if failures:
        # The side that the other one left only tells that it was left.
        raise min(failures, key=lambda failure: isinstance(failure, PeerGoneError))
    return receiver, sender


class PeerChannel:
    """A channel whose other end is no thread but a peer that a test scripts.

    The peer's machine takes in each message at once and does its work when this side asks for messages, so that a run
    is the same every time. count: the items it opens with. answer: carries out the peer's work, given where it belongs
    (None for the task's own). may_work: whether the peer does any now. limit: how many of the peer's messages arrive
    before the link breaks.
    """

    def __init__(
        self,
        peer: TaskParty,
        count: int,
        answer: Callable[[Work, Place | None], bytes],
        *,
        may_work: Callable[[], bool] = lambda: True,
        limit: int | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.end = MachineEnd(peer, count, answer)
        self._may_work = may_work
        self._left = limit
        self._inbox: deque[Message] = deque()
        self._advance()

    def send(self, message: Message) -> None:
        self.sent.append(message)
        self._inbox += self.end.receive(cast(TaskMessage, decode(encode(message))))
        self._advance()

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

    def has_room(self, under_way: int = 0) -> bool:
        return True

    def wait(self, *, for_message: bool, for_room: bool, under_way: int = 0) -> None:
        assert for_message
        assert self._inbox or self._left == 0 or self._step(), "both sides wait for each other"

    def _advance(self) -> None:
        self._inbox += self.end.advance() or []

    def _step(self) -> bool:
        messages = self.end.step() if self._may_work() else None
        self._inbox += messages or []
        return messages is not None


def matched_items(end: ExchangeEnd, matches: Matches | None) -> set[bytes]:
    """Return the items that matched, as the rows of the input tell."""
    assert matches is not None
    assert end.prepared is not None
    assert matches.items == len(end.prepared.items)
    rows = end.prepared.items.row_mask(matches)
    assert len(rows) == len(end.items)
    found: list[bytes] = end.items.filter(rows).to_pylist()
    assert len(set(found)) == matches.count
    return set(found)
