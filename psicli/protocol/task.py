"""One task of the protocol, seen from either role, as state machines: the tables, and what both roles share.

Theory of operation. The machines validate, order and count messages and hand out work; they compute no points, do no
I/O, keep no clock, start no thread and log nothing. Which end listens or dials is unknown here. A message is refused
unless the table of the role names it for the current phase; then its handler checks it. Nothing but the table says
which phase comes next, whether a message leads there or a step of our own, and only `_move` goes there.

    receiver                                    sender
    Offer                       <->             Offer               before the input is read
    Open                        <->             Open                once it has been read
    for each bin that is left, in order, two under way:
        points, tokens, checks (bins.py), then
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
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, NamedTuple, TypeAlias

from psicli.core import errors
from psicli.protocol.bins import (
    LAST_ATTEMPT,
    BinParty,
    Sizes,
    TaskBins,
    TaskSetup,
    agree_on_resume,
    every_bin,
    number_of_bins,
    padded,
)
from psicli.protocol.messages import (
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
    task_digest,
)
from psicli.protocol.streams import StreamShape
from psicli.protocol.work import CutBitmap, Lane, StageOutput, Work

# With 16-byte tokens a false match stays below 2^-67 up to here [items], both lists with their padding together.
MAX_TOTAL_ITEMS = 2**44
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


class Step(Enum):
    """A step of our own that leads to another phase."""

    AGREED = "both have made their offers"
    OVER = "an earlier run was through with the task"
    OPENED = "both have opened"
    EXCHANGED = "all of a one-sided task has been received"
    RESULT_DUE = "all of a broadcast has been received"
    LOST = "a worker of the receiver's is lost before the result is told"
    RESULT_TOLD = "all of the result has been told, if there is any"
    STAGED = "both outputs are staged"
    PUBLISHED = "the output is in place"


Table: TypeAlias = Mapping[Phase, Mapping[type[TaskMessage] | Step, Phase]]

_BEGINNING: Table = {
    Phase.OFFERING: {Offer: Phase.OFFERING_HEARD},
    Phase.OFFERING_HEARD: {Step.AGREED: Phase.OPENING, Step.OVER: Phase.FINISHED},
    Phase.OPENING: {Open: Phase.OPENING_HEARD},
    Phase.OPENING_HEARD: {Step.OPENED: Phase.EXCHANGE},
}
# What may come when, and where it leads. Phases without a message are left by our own work alone.
RECEIVER: Table = {
    **_BEGINNING,
    Phase.EXCHANGE: {
        Frame: Phase.EXCHANGE,
        End: Phase.EXCHANGE,
        Restart: Phase.EXCHANGE,
        Step.EXCHANGED: Phase.CONFIRMING,
        Step.RESULT_DUE: Phase.RESULT,
        Step.RESULT_TOLD: Phase.STAGING,
    },
    Phase.CONFIRMING: {Done: Phase.FINISHED},
    Phase.RESULT: {Step.LOST: Phase.EXCHANGE, Step.RESULT_TOLD: Phase.STAGING},
    Phase.STAGING: {Ready: Phase.STAGING_HEARD},
    Phase.STAGING_HEARD: {Step.STAGED: Phase.COMMITTED},
    Phase.COMMITTED: {Done: Phase.FINISHED},
    Phase.FINISHED: {},
}
SENDER: Table = {
    **_BEGINNING,
    Phase.EXCHANGE: {
        Frame: Phase.EXCHANGE,
        End: Phase.EXCHANGE,
        Received: Phase.EXCHANGE,
        Restart: Phase.EXCHANGE,
        Step.EXCHANGED: Phase.FINISHED,
        Step.RESULT_DUE: Phase.RESULT,
        Step.RESULT_TOLD: Phase.STAGING,
    },
    Phase.RESULT: {
        Frame: Phase.RESULT,
        End: Phase.RESULT,
        Restart: Phase.EXCHANGE,
        Step.RESULT_TOLD: Phase.STAGING,
    },
    Phase.STAGING: {Ready: Phase.STAGING_HEARD},
    Phase.STAGING_HEARD: {Step.STAGED: Phase.READY},
    Phase.READY: {Commit: Phase.COMMITTED},
    Phase.COMMITTED: {Step.PUBLISHED: Phase.FINISHED},
    Phase.FINISHED: {},
}
_BEFORE_EXCHANGE = frozenset(_BEGINNING)


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


class TaskParty(Lane):
    """One task from one side: what both roles share.

    Feed messages to `receive`; begin the bins of `bins` while there is a next one; fetch a task's own work here and
    each bin's from there. What is received or completed returns the messages to send, in order.
    """

    receives: ClassVar[bool]
    # Who plays a bin for this role.
    bin_party: ClassVar[type[BinParty]]
    table: ClassVar[Table]

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__()
        self.setup = setup
        self.phase = Phase.OFFERING
        self.resumption: Kept | None = None
        self.sizes = Sizes()
        self._my_offer: Offer | None = None
        self._their_offer: Offer | None = None
        self.bins = TaskBins(self.bin_party, setup, self.sizes)
        self._matches = 0

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
    def own_count(self) -> int:
        return self.sizes.own

    @property
    def peer_count(self) -> int:
        return self.sizes.peer

    @property
    def number_of_bins(self) -> int:
        return self.sizes.bins

    @property
    def capacities(self) -> tuple[int, int]:
        """To how many items each bin is padded, own and the peer's."""
        return self.sizes.capacities

    @property
    def questions(self) -> int:
        """How many items of the peer's travel, padding included: as many as it may ask about."""
        return padded(self.sizes.peer, self.sizes.bins)

    @property
    def finished(self) -> bool:
        """Whether both sides are through with the task and no work of ours is left."""
        return self.phase is Phase.FINISHED and self.idle

    @property
    def over_before(self) -> bool:
        """Whether an earlier run was through with the task, on both sides."""
        return self.resumption is not None and self.resumption.complete

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
    def all_points_sent(self) -> bool:
        return self.opened and self.bins.all_points_sent

    @property
    def all_points_arrived(self) -> bool:
        """Whether the peer has sent all its points."""
        return self.opened and self.bins.all_points_arrived

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
        (own, peer), (own_bin, peer_bin) = self.bins.masked, self.capacities
        return Progress(own, self.number_of_bins * own_bin, peer, self.number_of_bins * peer_bin)

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
        self.sizes = self.sizes._replace(own=count)
        return [Open(self.task, count, self.setup.probe), *self._begin_exchange()]

    def _on_offer(self, message: Offer) -> list[Message]:
        self._their_offer = message
        self._move(Offer)
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
        if self.resumption is not None and self.resumption.complete:
            bins = self.resumption.bins
            self._divide(Sizes(self.resumption.own_count, self.resumption.peer_count, bins), every_bin(bins))
            self._move(Step.OVER)
        else:
            self._move(Step.AGREED)
        return []

    def _on_open(self, message: Open) -> list[Message]:
        if message.probe != self.setup.probe:
            raise errors.DisagreementError(
                table="  item encoding: the two programs turn the same item into different points"
            )
        if self.resumption is not None and message.count != self.resumption.peer_count:
            raise errors.PeerProtocolError(detail="it opens a task with another count than it offered to continue with")
        if message.count > MAX_TOTAL_ITEMS:
            raise _too_many_items()
        self.sizes = self.sizes._replace(peer=message.count)
        self._move(Open)
        return self._begin_exchange()

    def _begin_exchange(self) -> list[Message]:
        if self.own_count < 0 or self.peer_count < 0:
            return []
        own, peer, _ = self.sizes
        bins = number_of_bins(own, peer, self.setup.bin_items)
        if padded(own, bins) + padded(peer, bins) > MAX_TOTAL_ITEMS:
            raise _too_many_items()
        self._divide(Sizes(own, peer, bins), 0 if self.resumption is None else self.resumption.finished)
        self._move(Step.OPENED)
        return [] if self.bins.left else self._all_through()

    def _divide(self, sizes: Sizes, finished: int) -> None:
        self.sizes = sizes
        self.bins = TaskBins(self.bin_party, self.setup, sizes, finished)

    # Bins

    def restart(self, number: int) -> list[Message]:
        """Begin a bin again, since whoever computed it is lost.

        Raises WorkerLostError for the second time, and where it is too late to begin anything again.
        """
        if self.phase is not Phase.EXCHANGE or self.bins.attempts[number] >= LAST_ATTEMPT:
            raise errors.WorkerLostError(bin=number)
        self.bins.restarting.add(number)
        return [self.bins.begin_again(number)]

    def _on_restart(self, message: Restart) -> list[Message]:
        number, bins = message.bin, self.bins
        if number in bins.restarting and message.attempt == bins.attempts[number]:
            # The answer to ours, or the peer had the same in mind.
            bins.restarting.remove(number)
            return []
        begun = number in bins or (number in bins.through and not self.receives)
        if not begun or message.attempt != bins.attempts[number] + 1 or message.attempt > LAST_ATTEMPT:
            raise errors.PeerProtocolError(detail=f"it begins bin {number} again, out of order")
        return [bins.begin_again(number)]

    def _on_frame(self, message: Frame) -> list[Message]:
        self.bins.take_frame(message)
        return []

    def _on_end(self, message: End) -> list[Message]:
        party = self.bins.addressed(message)
        if party is not None:
            party.take_end(message)
        return []

    @abstractmethod
    def _all_through(self) -> list[Message]:
        """Go on where no bin is left."""

    def _digest(self, matches: int | None = None) -> bytes:
        mine, theirs, bins = self.sizes
        return task_digest(self.setup.task_sid, (mine, theirs) if self.receives else (theirs, mine), bins, matches)

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
        if type(message) not in self.table[self.phase]:
            raise errors.PeerProtocolError(detail=f"{type(message).__name__} came during {self.phase.value}")
        return self._take(message)

    def _move(self, cause: type[TaskMessage] | Step) -> None:
        """Go on to the phase where the table says that this leads."""
        self.phase = self.table[self.phase][cause]

    def _take(self, message: TaskMessage) -> list[Message]:
        """Handle a message that the table allows now."""
        match message:
            case Offer():
                return self._on_offer(message)
            case Open():
                return self._on_open(message)
            case Frame():
                return self._on_frame(message)
            case End():
                return self._on_end(message)
            case Restart():
                return self._on_restart(message)
            case Ready():
                return self._on_ready()
        raise errors.LocalProtocolError(detail=f"{type(message).__name__} is no message to this side")

    def _stage(self) -> list[Message]:
        self._move(Step.RESULT_TOLD)
        self._queued.append(StageOutput())
        return []

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        if not isinstance(work, StageOutput):
            raise errors.LocalProtocolError(detail=f"{type(work).__name__} is no work of this side")
        return [Ready(self.task), *(self._all_staged() if self.phase is Phase.STAGING_HEARD else [])]

    def _on_ready(self) -> list[Message]:
        self._move(Ready)
        # Our own output is the last work there is.
        return self._all_staged() if self.idle else []

    @abstractmethod
    def _all_staged(self) -> list[Message]:
        """Go on where both outputs are staged."""

    def _choose(self, room: bool) -> Work | None:
        if self._queued and (room or not self._sends_frame(self._queued[0])):
            return self._queued.popleft()
        return None

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, CutBitmap)

    def _bitmap_shape(self, count: int) -> StreamShape:
        """Bitmaps have no attempts: the digest of each begins with the bin's first id in this session."""
        return StreamShape(Stream.BITMAP, count, self.setup.frame_items)


def _too_many_items() -> errors.TooManyItemsError:
    return errors.TooManyItemsError(
        fault=f"the two parties have more than {MAX_TOTAL_ITEMS} distinct items together",
        advice="Split the task: with more items a false match would no longer be negligible.",
    )
