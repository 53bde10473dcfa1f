"""Two real exchanges in memory, without a socket.

run_exchanges runs two TaskExchange objects in two threads over a channel that carries encoded messages. It records
every message in the order of sending. Bins and frames may be very small here.
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
from support.memory.rr22.known_draws import know_vectors

from psicli import curve
from psicli.core.peer_errors import PeerGoneError, PeerLostError
from psicli.core.stages import Stages
from psicli.exchange import worker
from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.pools import WorkerPools
from psicli.exchange.task_exchange import Prepared, Storage, TaskExchange
from psicli.exchange.worker import LocalWorkers, Match, Worker
from psicli.items.partitions import Matches, Partitioner
from psicli.protocol.bins import BinParty
from psicli.protocol.messages import RR22, Frame, Kept, Message, Stream, TaskMessage, partition_key
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
    """A checkpoint that resumes nothing and keeps nothing."""

    def __init__(self) -> None:
        """Need neither a folder nor a ledger."""

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        return {}

    def answering(self, number: int, attempt: int) -> None:
        """Keep nothing."""

    def answered(self, number: int, order_secret: bytes) -> None:
        """Keep nothing."""

    def received(self, number: int, order_secret: bytes) -> None:
        """Keep nothing."""

    def matched(self, number: int, match: Match) -> None:
        """Keep nothing."""

    def answering_bitmaps(self) -> None:
        """Keep nothing."""


def prepared_of(
    items: pa.LargeBinaryArray, partition_sid: bytes, output: Any = None, checkpoint: Checkpoint | None = None
) -> Prepared:
    """Split items into bins, as a task does after reading its input."""
    partitioner = Partitioner(partition_key(partition_sid))
    partitioner.add(items)
    return Prepared(partitioner.finish(), output, checkpoint or NoCheckpoint())


class SynchronousPools(WorkerPools):
    """Worker pools that do all work in the calling thread."""

    def __init__(self) -> None:
        self.depth = 1
        self.workers: LocalWorkers = LocalWorkers()

    def _submit(self, executor: object, work: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as exc:
            future.set_exception(exc)
        return future

    def dismiss(self) -> None:
        """Do nothing, since no work is ever under way."""

    _computing = _matching = _committing = _writing = cast(Any, None)


class LatePools(SynchronousPools):
    """Pools that prepare the first attempt at a bin only after the second one. late: what prepares the first."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.late: list[Callable[[], object]] = []
        self._number = number

    def compute(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        if work.__name__ != "_prepare" or work.__self__.party.place.bin != self._number:  # type: ignore[attr-defined]
            return super().compute(work, *arguments)
        if not work.__self__.party.place.attempt:  # type: ignore[attr-defined]
            self.late.append(work)
            return Future()
        future = super().compute(work, *arguments)
        self.late.pop()()
        return future


class MemoryOutput:
    """An output in memory."""

    def __init__(self) -> None:
        self.staged: Matches | None = None
        self.published = False

    def check(self, matches: Matches) -> None:
        """Allow every result."""

    def stage(self, matches: Matches) -> None:
        self.staged = matches

    def publish(self) -> None:
        assert self.staged is not None
        self.published = True


class MemoryChannel:
    """One end of a link in memory: encoded messages in two queues under one lock."""

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
        """Return whether the peer's inbox has room for one frame more than those under way."""
        with self._lock:
            return self._room(under_way)

    def wait(self, *, for_message: bool, for_room: bool, under_way: int = 0) -> None:
        def there() -> bool:
            return self._closed or (for_message and bool(self._inbox)) or (for_room and self._room(under_way))

        with self._lock:
            assert self._lock.wait_for(there, PATIENCE), "the exchange hangs"

    def close(self) -> None:
        """End both directions; messages already sent still arrive."""
        with self._lock:
            self._closed = self.peer._closed = True
            self._lock.notify_all()

    def _room(self, under_way: int) -> bool:
        return len(self.peer._inbox) + under_way < self._capacity


class KnownExchange(TaskExchange):
    """An exchange that can use known secrets and that remembers its workers.

    scalar: the known scalar of every bin; orders and padding are derived from it, so that two runs are the same. In
    RR22, all secrets are derived from it (see known_draws).
    """

    scalar: bytes | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Workers and scalars by bin and attempt.
        self.workers: dict[tuple[int, int], Worker] = {}
        self.scalars: dict[tuple[int, int], bytes] = {}

    def make_worker(self, party: BinParty) -> Worker:
        made = cast(Worker, super().make_worker(party))
        at, vectors = party.place, self.party.setup.protocol == RR22
        if self.scalar is not None:
            name = self.scalar + bytes([self.party.receives, at.bin % 256, at.attempt])
            secret = hashlib.sha256(name).digest()
            if vectors:
                know_vectors(cast(Any, made), secret)
            else:
                know(made, self.scalar, secret)
            secrets = self._restored().order_secrets
            if at.bin in secrets:
                secrets[at.bin] = secret
        self.workers[at.bin, at.attempt] = made
        if not vectors:
            self.scalars[at.bin, at.attempt] = bytes(made._scalar)
        return made


def know(made: Worker, scalar: bytes, secret: bytes) -> None:
    """Give a worker a known scalar, and an order and padding derived from a known secret."""
    made._scalar[:] = scalar
    made.order_secret = secret
    made._order = worker.secret_order(secret, len(made._order))
    count = len(made._padding) // worker._PADDING_BYTES
    made._padding = b"".join(hashlib.sha256(secret + i.to_bytes(4, "big")).digest() for i in range(count))


@dataclass
class ExchangeEnd:
    """One party of a run: its exchange, channel and items, and its output or failure."""

    exchange: KnownExchange
    channel: Any
    output: MemoryOutput
    items: pa.LargeBinaryArray
    checkpoint: Checkpoint | None = None
    # The checkpoint it offers to resume from.
    offer: Kept | None = None
    failure: BaseException | None = None
    # Whether the output remains although the link broke.
    kept: bool = False
    prepared: Prepared | None = None

    @property
    def party(self) -> TaskParty:
        return self.exchange.party

    def points(self, stream: Stream) -> list[bytes]:
        """Return the points that this party sent in a stream."""
        return [point for data in self.data(stream) for point in records(data, curve.POINT_BYTES)]

    def data(self, stream: Stream) -> list[bytes]:
        return [sent.data for sent in self.channel.sent if isinstance(sent, Frame) and sent.stream == stream]

    def prepare(self) -> None:
        """Read the items, which go into bins that depend on what the parties agreed."""
        self.prepared = prepared_of(self.items, self.party.partition_sid, self.output, self.checkpoint)
        self.exchange.use(self.prepared)

    def advance(self) -> list[Message] | None:
        """Make the offer, or open the task, if it is time for either."""
        if self.party._my_offer is None:
            return self.party.offer(self.offer)
        if self.party.settled and self.party.own_count < 0:
            self.prepare()
            assert self.prepared is not None
            return self.party.open(len(self.prepared.items))
        return None

    def step(self, *, room: bool) -> list[Message] | None:
        """Advance or work, as the session does."""
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
        """Run one exchange as the session runs its tasks; seen: a list to which each progress is appended."""
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
    protocol: str = "",
    scalar: bytes | None = None,
    pools: WorkerPools | None = None,
    checkpoint: Checkpoint | None = None,
    offer: Kept | None = None,
) -> ExchangeEnd:
    """Make one party; scalar: a known scalar and order for all bins, None to draw fresh ones for every bin."""
    party = role(
        setup(
            broadcast=broadcast,
            probe=curve.probe(task_sid),
            task_sid=task_sid,
            frame_items=frame_items,
            bin_items=bin_items,
            protocol=protocol,
        )
    )
    exchange = KnownExchange(party, pools or SynchronousPools(), Stages("task"), Storage())
    exchange.scalar = scalar
    return ExchangeEnd(exchange, channel, MemoryOutput(), items, checkpoint, offer)


def run_exchanges(
    receiver_items: pa.LargeBinaryArray,
    sender_items: pa.LargeBinaryArray,
    *,
    broadcast: bool = False,
    task_sid: bytes = TASK_SID,
    frame_items: int = FRAME_ITEMS,
    bin_items: int = BIN_ITEMS,
    protocol: str = "",
    capacity: int = 8,
    scalars: tuple[bytes | None, bytes | None] = (None, None),
    pools: tuple[WorkerPools | None, WorkerPools | None] = (None, None),
    checkpoints: tuple[Checkpoint | None, Checkpoint | None] = (None, None),
    offers: tuple[Kept | None, Kept | None] = (None, None),
) -> tuple[ExchangeEnd, ExchangeEnd]:
    """Run a receiver's and a sender's exchange against each other; raise the first failure of either."""
    channels = MemoryChannel.pair(capacity)
    shared: dict[str, Any] = {
        "broadcast": broadcast,
        "task_sid": task_sid,
        "frame_items": frame_items,
        "bin_items": bin_items,
        "protocol": protocol,
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
        # If the other failure is a lost peer, it only follows from the first one.
        raise min(failures, key=lambda failure: isinstance(failure, PeerGoneError))
    return receiver, sender


class PeerChannel:
    """A channel whose other end is a peer that a test scripts, without a thread.

    The peer's machine receives each message immediately and works when this party asks for messages, so that every run
    is the same. count: the number of items in the peer's Open. answer: does the peer's work for a bin and attempt (None
    for the task itself). may_work: whether the peer may work now. limit: how many of the peer's messages arrive before
    the link breaks.
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
    """Return the matched items, looked up through the rows of the input."""
    assert matches is not None
    assert end.prepared is not None
    assert matches.items == len(end.prepared.items)
    rows = end.prepared.items.row_mask(matches)
    assert len(rows) == len(end.items)
    found: list[bytes] = end.items.filter(rows).to_pylist()
    assert len(set(found)) == matches.count
    return set(found)
