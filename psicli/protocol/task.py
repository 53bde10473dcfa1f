"""One task of the protocol, seen from either role, as state machines.

Theory of operation. The machines validate, order and count messages and hand out work; they compute no points, do no
I/O, keep no clock, start no thread and log nothing. Which end listens or dials is unknown here. Receiver and Sender
share every step that does not depend on who learns the result. What may come when, and what it leads to, stands in the
two tables at the end of this module, and nowhere else.

    receiver                                    sender
    Offer                       <->             Offer               before the input is read
    Open                        <->             Open                once it has been read
    for each bin that is left, in order, two under way:
        points, tokens, checks (bin_party.py), then
        Received                 ->
    one-sided:
        Received with the digest ->                                 the last bin's
                                <-              Done
    with broadcast_result:
        Frame* End  (4: bitmap)  ->                                 of each bin, in order
        Ready                   <->             Ready
        Commit                   ->
                                <-              Done
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from psicli.core import errors
from psicli.protocol.bin_party import BinParty, BinPhase, ReceiverBin, SenderBin
from psicli.protocol.bins import agree_on_resume, capacity, number_of_bins, padded
from psicli.protocol.messages import (
    BinMessage,
    Commit,
    Done,
    End,
    Frame,
    Kept,
    Message,
    Offer,
    Open,
    Ready,
    Received,
    Restart,
    Stream,
    TaskMessage,
    bin_session_id,
    task_digest,
)
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place, StreamShape
from psicli.protocol.work import CutBitmap, GatherMatches, KeepBits, Lane, PublishOutput, StageOutput, Work

# With 16-byte tokens a false match stays below 2^-67 up to here [items], both lists with their padding together.
MAX_TOTAL_ITEMS = 2**44
# Attempts at a bin, counted from 0: it may begin again once.
LAST_ATTEMPT = 1
MAX_PENDING_BITS = 4


class Phase(Enum):
    """Where a task stands; each role passes through its own subset, in this order.

    HEARD: the peer's part of a step that both take has come, our own has not.
    """

    OFFERING = "the offers"
    OFFERING_HEARD = "our offer"
    OPENING = "the opening"
    OPENING_HEARD = "our opening"
    EXCHANGE = "the exchange of points"
    CONFIRMING = "the confirmation"
    RESULT = "the bitmaps"
    STAGING = "the writing of outputs"
    STAGING_HEARD = "the writing of our output"
    READY = "the wait for the commit"
    COMMITTED = "the commit"
    FINISHED = "the end"


class Disclosure(Enum):
    """What the peer may be told when this side fails now."""

    NAMED = "the class of the failure"
    # From the first match to the last bitmap, R's failures must all look alike: which one it was could tell of a match.
    UNIFORM = "that this side failed, nothing else"
    # After the last Received the rest is R's own affair.
    NOTHING = "nothing"


class Progress(NamedTuple):
    """Items masked so far, own and the peer's, and of how many, padding included; it never tells of a match."""

    own: int
    own_total: int
    peer: int
    peer_total: int

    @property
    def share(self) -> float:
        """How much of it is through, from 0 to 1."""
        total = self.own_total + self.peer_total
        return (self.own + self.peer) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a side knows of a task from the start."""

    task: int
    task_sid: bytes = field(repr=False)
    probe: bytes = field(repr=False)
    broadcast: bool
    frame_items: int
    bin_items: int


class TaskParty(Lane):
    """One task from one side: what both roles share.

    Feed messages to `receive`; begin bins with `begin_bin` while `has_next_bin`; fetch a task's own work here and each
    bin's from `bins`. All of them return the messages to send, in order.
    """

    receives: ClassVar[bool]
    # Who plays a bin for this role.
    bin_party: ClassVar[type[BinParty]]
    table: ClassVar[Mapping[Phase, Mapping[type[TaskMessage], Callable[[Any, Any], list[Message]]]]]

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__()
        self.setup = setup
        self.phase = Phase.OFFERING
        self.resumption: Kept | None = None
        self.own_count = self.peer_count = -1
        # 0 where a side has no items, known once both have opened.
        self.number_of_bins = 0
        # The bins under way, and how many have begun.
        self.bins: dict[int, BinParty] = {}
        self.begun = 0
        self._my_offer: Offer | None = None
        self._their_offer: Offer | None = None
        self._left: list[int] = []
        # The bins that are through, and those that were even if they have begun again.
        self._through: set[int] = set()
        self._once_through: set[int] = set()
        self._attempts: dict[int, int] = {}
        # Bins that this side has begun again, and the peer has not answered yet.
        self._restarting: set[int] = set()
        self._masked = [0, 0]
        self._matches = 0
        self._staged = False

    # What the carrier of the work sees

    @property
    def task(self) -> int:
        return self.setup.task

    @property
    def broadcast(self) -> bool:
        return self.setup.broadcast

    @property
    def partition_sid(self) -> bytes:
        """The id that cuts the items into bins: this task's, or that of the run it continues."""
        return self.setup.task_sid if self.resumption is None else self.resumption.partition_sid

    @property
    def capacities(self) -> tuple[int, int]:
        """To how many items each bin is padded, own and the peer's."""
        bins = max(self.number_of_bins, 1)
        return capacity(self.own_count, bins), capacity(self.peer_count, bins)

    @property
    def questions(self) -> int:
        """How many items of the peer's travel, padding included: as many as it may ask about."""
        return padded(self.peer_count, self.number_of_bins)

    @property
    def finished(self) -> bool:
        """Whether both sides are through with the task and no work of ours is left."""
        return self.phase is Phase.FINISHED and self.idle

    @property
    def settled(self) -> bool:
        """Whether both have made their offers."""
        return self.phase not in (Phase.OFFERING, Phase.OFFERING_HEARD)

    @property
    def opened(self) -> bool:
        """Whether both sides have opened the task, or need not."""
        return self.phase not in _BEFORE_EXCHANGE

    @property
    def exchanging(self) -> bool:
        """Whether points and tokens are still to come or to go, or to be checked."""
        return self.phase in _BEFORE_EXCHANGE or self.phase is Phase.EXCHANGE

    @property
    def has_next_bin(self) -> bool:
        """Whether bins are left that have not begun."""
        return self.phase is Phase.EXCHANGE and self.begun < len(self._left)

    @property
    def under_way(self) -> int:
        """How many bins have begun and were never through; one that begins again afterwards does not count."""
        return self.begun - len(self._once_through)

    @property
    def only_latest_under_way(self) -> bool:
        """Whether no bin is under way but the one that began last."""
        return self.under_way == 0 or (self.under_way == 1 and self._left[self.begun - 1] not in self._once_through)

    @property
    def wants_input(self) -> bool:
        """Whether another message may be taken in now.

        Not while a few frames wait for their masking or keeping, nor before what is committed has been published:
        nothing the link brings, not even its end, may come in between.
        """
        publishing = self.phase is Phase.COMMITTED and not self.idle
        room = len(self._queued) < MAX_PENDING_BITS and all(each.has_room for each in self.bins.values())
        return room and not publishing

    @property
    def progress(self) -> Progress:
        """How far the masking is."""
        if not self.opened:
            return Progress(0, 0, 0, 0)
        totals = [self.number_of_bins * each for each in self.capacities]
        if not self.exchanging:
            return Progress(totals[0], totals[0], totals[1], totals[1])
        own = self._masked[0] + sum(each.masked_own for each in self.bins.values())
        peer = self._masked[1] + sum(each.masked_peer for each in self.bins.values())
        return Progress(own, totals[0], peer, totals[1])

    @property
    def disclosure(self) -> Disclosure:
        """What the peer may be told when this side fails now."""
        return Disclosure.NAMED

    # Before the exchange

    def offer(self, kept: Kept | None) -> list[Message]:
        """Say what this side could continue from; raises LocalProtocolError for a second time."""
        if self._my_offer is not None:
            raise errors.LocalProtocolError(detail="a task is offered twice")
        self._my_offer = Offer(self.task, kept)
        return [self._my_offer, *self._decide()]

    def open(self, count: int) -> list[Message]:
        """Say that the own input has been read, with so many distinct items.

        Raises InputChangedError where an Offer that both agreed on named another number.
        """
        if self.phase not in (Phase.OPENING, Phase.OPENING_HEARD) or self.own_count >= 0:
            raise errors.LocalProtocolError(detail="a task is opened out of order")
        if self.resumption is not None and count != self.resumption.own_count:
            raise errors.InputChangedError(path="the input")
        self.own_count = count
        return [Open(self.task, count, self.setup.probe), *self._begin_exchange()]

    def on_offer(self, message: Offer) -> list[Message]:
        self._their_offer = message
        self.phase = Phase.OFFERING_HEARD
        return self._decide()

    def _decide(self) -> list[Message]:
        """Decide what the task continues from once both have made their offers."""
        if self._my_offer is None or self._their_offer is None:
            return []
        self.resumption = agree_on_resume(
            self._my_offer.kept,
            self._their_offer.kept,
            receives=self.receives,
            broadcast=self.broadcast,
            bin_items=self.setup.bin_items,
        )
        self.phase = Phase.OPENING
        if self.resumption is not None and self.resumption.complete:
            self.own_count, self.peer_count = self.resumption.own_count, self.resumption.peer_count
            self.number_of_bins = self.resumption.bins
            self.phase = Phase.FINISHED
        return []

    def on_open(self, message: Open) -> list[Message]:
        if message.probe != self.setup.probe:
            raise errors.DisagreementError(
                table="  item encoding: the two programs turn the same item into different points"
            )
        if self.resumption is not None and message.count != self.resumption.peer_count:
            raise errors.PeerProtocolError(detail="it opens a task with another count than it offered to continue with")
        if message.count > MAX_TOTAL_ITEMS:
            raise errors.TooManyItemsError(limit=MAX_TOTAL_ITEMS)
        self.peer_count = message.count
        self.phase = Phase.OPENING_HEARD
        return self._begin_exchange()

    def _begin_exchange(self) -> list[Message]:
        if self.own_count < 0 or self.peer_count < 0:
            return []
        self.number_of_bins = number_of_bins(self.own_count, self.peer_count, self.setup.bin_items)
        if padded(self.own_count, self.number_of_bins) + self.questions > MAX_TOTAL_ITEMS:
            raise errors.TooManyItemsError(limit=MAX_TOTAL_ITEMS)
        finished = 0 if self.resumption is None else self.resumption.finished
        self._left = [number for number in range(self.number_of_bins) if not finished >> number & 1]
        done = self.number_of_bins - len(self._left)
        self._masked = [done * each for each in self.capacities]
        self.phase = Phase.EXCHANGE
        return [] if self._left else self._all_through()

    # Bins

    def begin_bin(self) -> int:
        """Begin the next bin and return its number."""
        number = self._left[self.begun]
        self.begun += 1
        self.bins[number] = self._attempt(number)
        return number

    def _attempt(self, number: int) -> BinParty:
        attempt = self._attempts.setdefault(number, 0)
        sid = bin_session_id(self.setup.task_sid, number, attempt)
        return self.bin_party(Place(self.task, number, attempt, sid), *self.capacities, self.setup.frame_items)

    def restart(self, number: int) -> list[Message]:
        """Begin a bin again, since whoever computed it is lost.

        Raises WorkerLostError for the second time, and where it is too late to begin anything again.
        """
        if self.phase is not Phase.EXCHANGE or self._attempts[number] >= LAST_ATTEMPT:
            raise errors.WorkerLostError(bin=number)
        self._restarting.add(number)
        return self._begin_again(number)

    def on_restart(self, message: Restart) -> list[Message]:
        number = message.bin
        if number in self._restarting and message.attempt == self._attempts[number]:
            # The answer to ours, or the peer had the same in mind.
            self._restarting.remove(number)
            return []
        begun = number in self.bins or (number in self._through and not self.receives)
        if not begun or message.attempt != self._attempts[number] + 1 or message.attempt > LAST_ATTEMPT:
            raise errors.PeerProtocolError(detail=f"it begins bin {number} again, out of order")
        return self._begin_again(number)

    def _begin_again(self, number: int) -> list[Message]:
        self._attempts[number] += 1
        if number in self._through:
            self._through.remove(number)
            self._masked = [masked - each for masked, each in zip(self._masked, self.capacities, strict=True)]
        self.bins[number] = self._attempt(number)
        return [Restart(self.task, number, self._attempts[number])]

    def _current(self, message: BinMessage) -> BinParty | None:
        """Return the bin a message is about, None where it is of an attempt that this side has given up.

        Raises PeerProtocolError.
        """
        attempt = self._attempts.get(message.bin)
        if attempt is not None and message.bin in self._restarting and message.attempt < attempt:
            return None
        party = self.bins.get(message.bin)
        if party is None or message.attempt != attempt or message.bin in self._restarting:
            raise errors.PeerProtocolError(
                detail=f"a message about bin {message.bin}, attempt {message.attempt}, out of turn"
            )
        return party

    def on_frame(self, message: Frame) -> list[Message]:
        party = self._current(message)
        if party is not None:
            if message.stream == party.peer_stream and not self._is_turn(party):
                raise errors.PeerProtocolError(detail=f"points of bin {message.bin} before the end of those before it")
            party.take_frame(message)
        return []

    def _is_turn(self, party: BinParty) -> bool:
        """Whether the points of all bins before it have arrived; what begins again is out of order anyway."""
        before = (each for each in self.bins.values() if each.place.bin < party.place.bin and not each.place.attempt)
        return party.place.attempt > 0 or all(each.all_points_arrived for each in before)

    def on_end(self, message: End) -> list[Message]:
        party = self._current(message)
        if party is not None:
            party.take_end(message)
        return []

    def let_send_points(self, *, allowed: bool) -> bool:
        """Let bins send points one after the other; return whether all points of the task have been sent."""
        for party in self.bins.values():
            party.may_send_points = allowed or party.place.attempt > 0
            allowed = allowed and party.all_points_sent
        return allowed and self.opened and not self.has_next_bin

    @property
    def all_points_arrived(self) -> bool:
        """Whether the peer has sent all its points."""
        first = (each for each in self.bins.values() if not each.place.attempt)
        return self.opened and not self.has_next_bin and all(each.all_points_arrived for each in first)

    def _bin_is_through(self, number: int) -> bool:
        """Take a bin off; return whether it was the last."""
        del self.bins[number]
        self._through.add(number)
        self._once_through.add(number)
        self._masked = [masked + each for masked, each in zip(self._masked, self.capacities, strict=True)]
        return len(self._through) == len(self._left)

    @abstractmethod
    def _all_through(self) -> list[Message]:
        """Go on where no bin is left."""

    def _digest(self, matches: int | None = None) -> bytes:
        mine, theirs = self.own_count, self.peer_count
        counts = (mine, theirs) if self.receives else (theirs, mine)
        return task_digest(self.setup.task_sid, counts, self.number_of_bins, matches)

    def _check_digest(self, theirs: bytes, matches: int | None = None) -> None:
        if theirs != self._digest(matches):
            raise errors.PeerProtocolError(detail="it comes to another digest of the task")

    # Outputs, and the entrance

    def receive(self, message: TaskMessage) -> list[Message]:
        """Take in a message of this task.

        Raises PeerProtocolError when it is not allowed now or contradicts what came before.
        """
        if message.task != self.task:
            raise errors.PeerProtocolError(
                detail=f"a message about task number {message.task} during number {self.task}"
            )
        handle = self.table.get(self.phase, {}).get(type(message))
        if handle is None:
            raise errors.PeerProtocolError(detail=f"{type(message).__name__} came during {self.phase.value}")
        return handle(self, message)

    def on_ready(self, message: Ready) -> list[Message]:
        self.phase = Phase.STAGING_HEARD
        return self._commit() if self._staged else []

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        if not isinstance(work, StageOutput):
            raise errors.LocalProtocolError(detail=f"{type(work).__name__} is no work of this side")
        self._staged = True
        return [Ready(self.task), *(self._commit() if self.phase is Phase.STAGING_HEARD else [])]

    @abstractmethod
    def _commit(self) -> list[Message]:
        """Go on where both outputs are staged."""

    def _stage(self) -> list[Message]:
        self.phase = Phase.STAGING
        self._queued.append(StageOutput())
        return []

    def _choose(self, room: bool) -> Work | None:
        if self._queued and (room or not self._sends_frame(self._queued[0])):
            return self._queued.popleft()
        return None

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, CutBitmap)

    def _bitmap_of(self, number: int, count: int) -> tuple[Place, StreamShape]:
        """Bitmaps have no attempts: the digest of each begins with the bin's first id in this session."""
        place = Place(self.task, number, 0, bin_session_id(self.setup.task_sid, number, 0))
        return place, StreamShape(Stream.BITMAP, count, self.setup.frame_items)


class Receiver(TaskParty):
    """The party that learns the result."""

    receives = True
    bin_party = ReceiverBin

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self._bitmap: OutgoingStream | None = None

    @property
    def disclosure(self) -> Disclosure:
        if self.phase in (Phase.CONFIRMING, Phase.FINISHED) and not self.broadcast:
            return Disclosure.NOTHING
        compares = bool(self._once_through) or any(
            each.all_arrived or each.phase is not BinPhase.EXCHANGE for each in self.bins.values()
        )
        # Before the first point a policy on sizes still says why it refuses.
        points = self.phase is Phase.EXCHANGE and self.begun > 0
        if self.phase is Phase.RESULT or (points and (self.broadcast or compares)):
            return Disclosure.UNIFORM
        return Disclosure.NAMED

    def received(self, number: int) -> list[Message]:
        """Say that all of a bin has been checked."""
        attempt = self.bins[number].place.attempt
        last = self._bin_is_through(number)
        digest = self._digest() if last and not self.broadcast else b""
        return [Received(self.task, number, attempt, digest), *(self._all_through() if last else [])]

    def restart(self, number: int) -> list[Message]:
        if self.phase is Phase.RESULT and self._bitmap is None:
            # No bit of the result is told: what gathers it waits for this bin too.
            self.phase = Phase.EXCHANGE
            self._queued.clear()
        return super().restart(number)

    def _all_through(self) -> list[Message]:
        if not self.broadcast:
            self.phase = Phase.CONFIRMING
            return [] if self._left else [Received(self.task, 0, 0, self._digest())]
        if not self.number_of_bins:
            return self._stage()
        self.phase = Phase.RESULT
        self._queued.append(GatherMatches())
        return []

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case GatherMatches() if self.phase is not Phase.RESULT or work in (*self._queued, *self._handed_out):
                # A bin has begun again meanwhile; it is asked for once more.
                return []
            case GatherMatches():
                self._matches = int.from_bytes(result, "big")
                return self._next_bitmap(0)
            case CutBitmap(number):
                return self._send_bits(number, result)
            case PublishOutput():
                return []
            case _:
                return super()._complete(work, result)

    def _next_bitmap(self, number: int) -> list[Message]:
        if number == self.number_of_bins:
            return self._stage()
        self._bitmap = OutgoingStream(*self._bitmap_of(number, self.capacities[1]))
        self._queued.append(CutBitmap(number, *self._bitmap.shape.span(0)))
        return []

    def _send_bits(self, number: int, bits: bytes) -> list[Message]:
        assert self._bitmap is not None
        frame = self._bitmap.frame(bits)
        if self._bitmap.all_sent:
            return [frame, self._bitmap.end(), *self._next_bitmap(number + 1)]
        self._queued.append(CutBitmap(number, *self._bitmap.shape.span(self._bitmap.frames)))
        return [frame]

    def _commit(self) -> list[Message]:
        self.phase = Phase.COMMITTED
        self._queued.append(PublishOutput())
        return [Commit(self.task, self._digest(self._matches))]

    def on_done(self, message: Done) -> list[Message]:
        self._check_digest(message.digest, self._matches if self.broadcast else None)
        self.phase = Phase.FINISHED
        return []


class Sender(TaskParty):
    """The party that helps; it learns the result only with broadcast_result."""

    receives = False
    bin_party = SenderBin

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self._bitmap: IncomingStream | None = None
        self._bitmap_bin = -1

    def restart(self, number: int) -> list[Message]:
        if number in self._through or self.bins[number].phase is BinPhase.THROUGH:
            # Nothing is computed for it any more, and R may have received it.
            return []
        return super().restart(number)

    def on_received(self, message: Received) -> list[Message]:
        if not self._left:
            self._expect_digest(message, last=not message.bin and not message.attempt)
            return self._end_alone()
        party = self._current(message)
        if party is None or party.phase is not BinPhase.THROUGH:
            raise errors.PeerProtocolError(detail=f"it has received bin {message.bin}, which was not sent")
        last = self._bin_is_through(message.bin)
        self._expect_digest(message, last=last)
        return self._all_through() if last else []

    def _expect_digest(self, message: Received, *, last: bool) -> None:
        if not last or self.broadcast:
            if message.digest:
                raise errors.PeerProtocolError(detail="it ends the task too early")
        else:
            self._check_digest(message.digest)

    def _all_through(self) -> list[Message]:
        if not self._left and not self.broadcast:
            # There is nothing to exchange, but R says so.
            return []
        if not self.broadcast:
            return self._end_alone()
        if not self.number_of_bins:
            return self._stage()
        self.phase = Phase.RESULT
        self._expect_bitmap(0)
        return []

    def _end_alone(self) -> list[Message]:
        self.phase = Phase.FINISHED
        return [Done(self.task, self._digest())]

    def _expect_bitmap(self, number: int) -> None:
        self._bitmap_bin = number
        self._bitmap = IncomingStream(*self._bitmap_of(number, self.capacities[0]))

    def on_restart_of_result(self, message: Restart) -> list[Message]:
        """R has lost a bin it had received, before it has sent any bit of the result."""
        if self._bitmap_bin or self._bitmap is None or self._bitmap.frames:
            raise errors.PeerProtocolError(detail=f"it begins bin {message.bin} again, out of order")
        messages = self.on_restart(message)
        self.phase = Phase.EXCHANGE
        return messages

    def on_bits(self, message: Frame) -> list[Message]:
        bitmap = self._expected_bitmap(message)
        bitmap.accept(message)
        start, stop = bitmap.shape.span(message.seq)
        bits = int.from_bytes(message.data, "little")
        self._matches += bits.bit_count()
        if bits >> (stop - start):
            raise errors.PeerProtocolError(detail="pad bits of the bitmap are set")
        if self._matches > min(self.own_count, self.peer_count):
            raise errors.PeerProtocolError(detail="the bitmap marks more items than the smaller list holds")
        self._queued.append(KeepBits(message.bin, message.data))
        return []

    def on_end_of_bits(self, message: End) -> list[Message]:
        self._expected_bitmap(message).finish(message)
        if message.bin + 1 < self.number_of_bins:
            self._expect_bitmap(message.bin + 1)
            return []
        return self._stage()

    def _expected_bitmap(self, message: Frame | End) -> IncomingStream:
        if self._bitmap is None or (message.bin, message.attempt) != (self._bitmap_bin, 0):
            raise errors.PeerProtocolError(detail=f"a bitmap of bin {message.bin} out of order")
        if message.stream != Stream.BITMAP:
            raise errors.PeerProtocolError(detail=f"stream {message.stream} came during {self.phase.value}")
        return self._bitmap

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case PublishOutput():
                self.phase = Phase.FINISHED
                return [Done(self.task, self._digest(self._matches))]
            case KeepBits():
                return []
            case _:
                return super()._complete(work, result)

    def _commit(self) -> list[Message]:
        self.phase = Phase.READY
        return []

    def on_commit(self, message: Commit) -> list[Message]:
        self._check_digest(message.digest, self._matches)
        self.phase = Phase.COMMITTED
        self._queued.append(PublishOutput())
        return []


# The tables -----------------------------------------------------------------------------------------------------

P = TypeVar("P", bound=TaskParty)
M = TypeVar("M", Offer, Open, Frame, End, Received, Restart, Ready, Commit, Done)
Step: TypeAlias = tuple[type[TaskMessage], Callable[[P, Any], list[Message]]]


def on(kind: type[M], handle: Callable[[P, M], list[Message]]) -> Step[P]:
    """Return an entry of a table: this message, handled like this. mypy checks that the two fit."""
    return kind, handle


_BEFORE_EXCHANGE = {Phase.OFFERING, Phase.OFFERING_HEARD, Phase.OPENING, Phase.OPENING_HEARD}

# What is in neither table is refused. Phases without a message are left by our own work alone.
_RECEIVER: dict[Phase, dict[type[TaskMessage], Callable[[Receiver, Any], list[Message]]]] = {
    Phase.OFFERING: dict([on(Offer, Receiver.on_offer)]),
    Phase.OPENING: dict([on(Open, Receiver.on_open)]),
    Phase.EXCHANGE: dict([on(Frame, Receiver.on_frame), on(End, Receiver.on_end), on(Restart, Receiver.on_restart)]),
    Phase.CONFIRMING: dict([on(Done, Receiver.on_done)]),
    Phase.STAGING: dict([on(Ready, Receiver.on_ready)]),
    Phase.COMMITTED: dict([on(Done, Receiver.on_done)]),
}
_SENDER: dict[Phase, dict[type[TaskMessage], Callable[[Sender, Any], list[Message]]]] = {
    Phase.OFFERING: dict([on(Offer, Sender.on_offer)]),
    Phase.OPENING: dict([on(Open, Sender.on_open)]),
    Phase.EXCHANGE: dict(
        [
            on(Frame, Sender.on_frame),
            on(End, Sender.on_end),
            on(Received, Sender.on_received),
            on(Restart, Sender.on_restart),
        ]
    ),
    Phase.RESULT: dict(
        [on(Frame, Sender.on_bits), on(End, Sender.on_end_of_bits), on(Restart, Sender.on_restart_of_result)]
    ),
    Phase.STAGING: dict([on(Ready, Sender.on_ready)]),
    Phase.READY: dict([on(Commit, Sender.on_commit)]),
}
Receiver.table = _RECEIVER
Sender.table = _SENDER
