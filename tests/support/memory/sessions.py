"""Two sessions in one process, over links that a test can watch and change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

from support.memory.machines import PATIENCE
from support.memory.pair import MemoryOutput, NoCheckpoint, items_of

from psicli.core.errors import BadInputError
from psicli.core.peer_errors import skip_of_peer
from psicli.core.stages import Stages
from psicli.exchange.task_exchange import Prepared
from psicli.items.partitions import Items, Matches, Partitioner
from psicli.protocol.bins import MOST_BIN_ITEMS
from psicli.protocol.messages import Kept, Message, TaskMessage, TaskTerms, partition_key, session_id, task_session_id
from psicli.protocol.streams import LEAST_FRAME_ITEMS
from psicli.protocol.task import Progress, TaskParty
from psicli.protocol.wire import decode
from psicli.session.agreement import Terms
from psicli.session.live import TaskResult
from psicli.session.session import Session
from psicli.transport.endpoint import outgoing, pump
from psicli.transport.link import Link

ALICE, BOB = "alice", "bob"


FRAME_ITEMS = 8


Filter = Callable[[Message], bool]


class TapLink(Link):
    """A link that records its messages and calls a test for each one received."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self.on_receive: Callable[[Message], None] = lambda message: None
        # Whether the session is waiting.
        self.idle = False

    def wait(self, *, for_message: bool, room_for: int | None, timeout: float) -> bool:
        self.idle = True
        try:
            return super().wait(for_message=for_message, room_for=room_for, timeout=timeout)
        finally:
            self.idle = False

    def send(self, message: Message) -> int:
        self.sent.append(message)
        return super().send(message)

    def poll(self) -> tuple[Message, int] | None:
        arrived = super().poll()
        if arrived is not None:
            self.received.append(arrived[0])
            self.on_receive(arrived[0])
        return arrived

    def await_sent(self, kind: type[Any]) -> None:
        """Wait until a message of this kind has been sent."""

        def is_sent() -> bool:
            return any(isinstance(message, kind) for message in self.sent)

        with self._changed:
            assert self._changed.wait_for(is_sent, PATIENCE), f"no {kind.__name__} is sent"

    def place(self, kind: type[Any], task: int) -> int:
        """Return the position of the first message of this kind and task in the order of sending."""
        return next(i for i, m in enumerate(self.sent) if isinstance(m, kind) and m.task == task)


class Plan:
    """A task of a test; it records everything that the session does with it.

    before: called in the background when the session prepares the task.
    """

    def __init__(
        self,
        name: str,
        values: Iterable[str],
        *,
        receives: bool,
        broadcast: bool = False,
        counts: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.receives = receives
        self.broadcast = broadcast
        self.counts = counts
        self.protocol = ""
        self.items = items_of(values)
        self.output = MemoryOutput() if receives or broadcast else None
        self.calls: list[str] = []
        self.result: TaskResult | None = None
        self.alone: Matches | None = None
        self.counted: int | None = None
        self.stages = Stages(name)
        self.at_progress: Callable[[Progress], None] = lambda progress: None
        self.at_opening: Callable[[int], None] = lambda peer_items: None
        # The failure to raise while writing a one-sided result, or the failure that occurred then.
        self.alone_failure: Exception | None = None
        self.keep_going = False
        # The failure to raise when the session asks for a checkpoint.
        self.at_finding: Exception | None = None
        self._before = before
        self._partition_sid = b""

    def find(self) -> Kept | None:
        if self.at_finding is not None:
            raise self.at_finding
        return None

    def settled(self, party: TaskParty) -> None:
        assert party.resumption is None

    def skip_for(self, failure: BaseException) -> int | None:
        if not (self.keep_going and isinstance(failure, BadInputError)):
            return None
        self.calls.append("skipped")
        return failure.code

    def peer_skips(self, failure_class: int) -> None:
        if not self.keep_going:
            raise skip_of_peer(self.name, failure_class, keep_going=False)
        self.calls.append(f"the peer skipped for {failure_class}")

    def close(self) -> None:
        self.calls.append("closed")

    def prepare(self, partition_sid: bytes) -> Prepared:
        self._before()
        self._partition_sid = partition_sid
        return Prepared(self._cut(), self.output, NoCheckpoint())

    def _cut(self) -> Items:
        partitioner = Partitioner(partition_key(self._partition_sid))
        partitioner.add(self.items)
        return partitioner.finish()

    def opening(self, party: TaskParty) -> None:
        """Need neither a folder nor a ledger."""

    def opened(self, party: TaskParty) -> None:
        self.at_opening(party.peer_count)

    def started(self) -> None:
        self.calls.append("started")

    def progress(self, progress: Progress) -> None:
        self.at_progress(progress)

    def exchanged(self, result: TaskResult) -> None:
        self.calls.append("exchanged")
        self.result = result

    def finish_alone(self, matches: Callable[[], Matches]) -> None:
        self.calls.append("alone")
        try:
            if self.alone_failure is not None:
                raise self.alone_failure
            self.alone = matches()
        except Exception as exc:
            self.alone_failure = exc

    def finish_count(self, count: Callable[[], int]) -> None:
        self.calls.append("counted")
        self.counted = count()

    @property
    def found(self) -> set[str] | None:
        """The values in the result, None if this party learns no result."""
        matches = self.alone if self.output is None or self.output.staged is None else self.output.staged
        if matches is None:
            return None
        return {value.decode() for value in self.items.filter(self._cut().row_mask(matches)).to_pylist()}


class Party:
    """One party's end of a session.

    bin_items: the most items per bin, which may be very few. Frames have FRAME_ITEMS. The Hellos carry larger sizes,
    since the peer would refuse these.
    """

    def __init__(
        self, party: str, plans: Sequence[Plan], link: Link, recv_timeout: float, bin_items: int = MOST_BIN_ITEMS
    ) -> None:
        self.party = party
        self.plans = plans
        self.link = cast(TapLink, link)
        self.failure: BaseException | None = None
        peer = BOB if party == ALICE else ALICE
        receivers = {plan.name: party if plan.receives else peer for plan in plans}
        tasks = tuple(TaskTerms(plan.name, receivers[plan.name], plan.broadcast, 1) for plan in plans)
        self.terms = Terms(party, peer, "overlap", tasks, int(recv_timeout * 1000))
        self.bin_items = bin_items
        link.own_hello = self.terms.hello(LEAST_FRAME_ITEMS, MOST_BIN_ITEMS)
        self.session: Session | None = None
        self.hang_up: Callable[[], None] = lambda: None

    def run(self) -> None:
        try:
            self.session = Session(self.link, self.terms, listens=self.party == ALICE, hang_up=self.hang_up)
            with self.session:
                self.session.agree()
                hellos, sizes = self.session.hellos, {"frame_items": FRAME_ITEMS, "bin_items": self.bin_items}
                ours, theirs = replace(hellos.ours, **sizes), replace(hellos.theirs, **sizes)
                self.session.hellos = replace(hellos, ours=ours, theirs=theirs)
                self.session.run(self.plans)
        except BaseException as exc:
            self.failure = exc

    def calls(self) -> list[list[str]]:
        return [plan.calls for plan in self.plans]


def connect(one: Link, other: Link, passes: Filter = lambda message: True) -> None:
    """Carry messages from `other` to `one`, as a network would; end the connection at a message that does not pass."""

    goal, source = one.stream, other.stream
    assert goal is not None
    assert source is not None

    def incoming() -> Iterator[bytes]:
        for octets in outgoing(source):
            if not passes(decode(octets)):
                return
            yield octets

    threading.Thread(target=lambda: pump(goal, incoming()), name="psicli-test-wire", daemon=True).start()


def joined(
    alice: Sequence[Plan],
    bob: Sequence[Plan],
    *,
    links: tuple[Link, Link] | None = None,
    recv_timeout: float = PATIENCE,
    bobs_timeout: float | None = None,
    bin_items: int = MOST_BIN_ITEMS,
) -> tuple[Party, Party]:
    """Make both ends. recv_timeout: their idle timeout [s]; bobs_timeout: bob's, if it differs [s]."""
    links = links or (TapLink(), TapLink())
    ends = (
        Party(ALICE, alice, links[0], recv_timeout, bin_items),
        Party(BOB, bob, links[1], recv_timeout if bobs_timeout is None else bobs_timeout, bin_items),
    )
    for end, other in (ends, ends[::-1]):
        end.link.peer_hello = other.link.own_hello
    return ends


def run(
    ends: tuple[Party, Party], *, to_alice: Filter = lambda message: True, to_bob: Filter = lambda message: True
) -> None:
    """Run both ends until they succeed or fail."""
    connect(ends[0].link, ends[1].link, to_alice)
    connect(ends[1].link, ends[0].link, to_bob)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Party.run, ends))


def numbers(start: int, stop: int) -> list[str]:
    return [f"k{number}" for number in range(start, stop)]


def both(name: str, mine: list[str], theirs: list[str], *, receiver: str, broadcast: bool = False) -> tuple[Plan, Plan]:
    """Return one task as alice's and bob's plans."""
    return (
        Plan(name, mine, receives=receiver == ALICE, broadcast=broadcast),
        Plan(name, theirs, receives=receiver == BOB, broadcast=broadcast),
    )


def small(count: int, **terms: Any) -> tuple[list[Plan], list[Plan]]:
    """Return alice's and bob's plans of `count` tasks of one frame each."""
    pairs = [both(f"t{i}", numbers(0, 5), numbers(3, 8), **{"receiver": ALICE, **terms}) for i in range(count)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def succeeded(ends: Iterable[Party]) -> None:
    for end in ends:
        if end.failure is not None:
            raise AssertionError(f"{end.party} failed") from end.failure


class Signal:
    """An event that a test waits for, with a time limit."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(PATIENCE), "the event did not happen in time"


def task_sid_of(ends: tuple[Party, Party]) -> bytes:
    return task_session_id(session_id(ends[0].link.own_hello, ends[1].link.own_hello), "t0")


def messages_of(messages: Iterable[Message], task: int) -> list[Message]:
    """Return the messages of one task."""
    return [message for message in messages if isinstance(message, TaskMessage) and message.task == task]
