"""One task of the protocol as state machines: what both roles share of their transition tables and their code.

The machines validate, order and count messages and hand out work; they compute no points, do no I/O, and have no clock,
threads or log. They do not know which party listens and which dials. The table of a role lists the messages that are
allowed in each phase; any other message is refused, and an allowed one goes to its handler. Only `_move` changes the
phase, and only to the phase that the table names for a message or for a step of our own.

    receiver                                    sender
    Offer                       <->             Offer               before the input is read; or Skip
    Open                        <->             Open                after the input is read; or Skip
    for each unfinished bin, in order, at most two at a time:
        points, tokens, checks (bins.py), then
        Received                 ->
    one-sided:
        Received with the digest ->                                 for the last bin
                                <-              Done
    with broadcast_result:
        Frame* End  (4: bitmap)  ->                                 for each bin, in order
        Ready                   <->             Ready
        Commit                   ->
                                <-              Done
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, NamedTuple, TypeAlias

from psicli.core import errors, peer_errors
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import (
    LAST_ATTEMPT,
    BinParty,
    Sizes,
    TaskBins,
    TaskSetup,
    agree_on_resume,
    check_total,
    every_bin,
    number_of_bins,
    padded,
)
from psicli.protocol.messages import (
    RR22,
    End,
    Frame,
    Kept,
    Message,
    Offer,
    Open,
    Ready,
    Restart,
    Skip,
    Stream,
    TaskMessage,
    task_digest,
)
from psicli.protocol.streams import StreamShape
from psicli.protocol.work import Lane, SliceBitmap, StageOutput, Work

MAX_PENDING_BITS = 4


class Phase(Enum):
    """The phase of a task; each role goes through a subset of the phases in this order.

    HEARD: the peer's message of a mutual step has arrived, but we have not sent ours. The values complete the sentence
    "it sent a message during ...".
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
    SKIPPED = "the skip"


class Step(Enum):
    """A step of our own that leads to another phase."""

    AGREED = "both parties have made their offers"
    OVER = "an earlier run completed the task"
    OPENED = "both parties have opened the task"
    SKIPPED = "a party has skipped the task, and the other one has sent its half of the step"
    EXCHANGED = "all bins of a one-sided task have been received"
    RESULT_DUE = "all bins of a broadcast have been received"
    LOST = "the receiver lost a worker before it sent the result"
    RESULT_SENT = "the receiver has sent the whole result, if there is one"
    STAGED = "both outputs are staged"
    PUBLISHED = "the output is in place"


Table: TypeAlias = Mapping[Phase, Mapping[type[TaskMessage] | Step, Phase]]

# The rows with which the tables of both roles begin and end: the messages and steps that are allowed in each phase, and
# the next phase. A phase without a message is left by our own work only.
BEGINNING: Table = {
    Phase.OFFERING: {Offer: Phase.OFFERING_HEARD, Skip: Phase.OFFERING_HEARD},
    Phase.OFFERING_HEARD: {Step.AGREED: Phase.OPENING, Step.OVER: Phase.FINISHED, Step.SKIPPED: Phase.SKIPPED},
    Phase.OPENING: {Open: Phase.OPENING_HEARD, Skip: Phase.OPENING_HEARD},
    Phase.OPENING_HEARD: {Step.OPENED: Phase.EXCHANGE, Step.SKIPPED: Phase.SKIPPED},
}
END: Table = {Phase.FINISHED: {}, Phase.SKIPPED: {}}
_OFFERS = (Phase.OFFERING, Phase.OFFERING_HEARD)
_BEFORE_EXCHANGE = frozenset(BEGINNING)
# What a party may skip a task for: its own input or output is bad. 0 answers the peer's Skip.
_SKIP_CLASSES = {0, errors.BadInputError.code, errors.InputMissingError.code, errors.CannotCreateError.code}


class Disclosure(Enum):
    """What the peer may learn if this party fails now."""

    NAMED = "the class of the failure"
    # From the first match to the last bitmap all failures of R must look alike: their class could reveal a match.
    UNIFORM = "only that this party failed"
    # After the last Received the peer has no part in the task any more.
    NOTHING = "nothing"


class Progress(NamedTuple):
    """The number of items masked so far and in total, including padding; it does not depend on matches.

    In RR22, items count that have been exchanged, as part of a vector or as tokens.
    """

    own: int
    own_total: int
    peer: int
    peer_total: int

    @property
    def share(self) -> float:
        """The share that is masked, from 0 to 1."""
        total = self.own_total + self.peer_total
        return (self.own + self.peer) / total if total else 1.0


class TaskParty(Lane):
    """One party's half of a task; the base class of both roles.

    The caller passes messages to `receive`, begins the bins in `bins` one after the other, and fetches work from this
    lane and from the lane of each bin. `receive` and `completed` return the messages to send, in order.
    """

    receives: ClassVar[bool]
    # The classes that implement a bin by ECDH for this role; the second where the receiver only counts.
    bin_party: ClassVar[type[BinParty]]
    counting_bin_party: ClassVar[type[BinParty]]
    table: ClassVar[Table]

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__()
        self.setup = setup
        self.phase = Phase.OFFERING
        self.resumption: Kept | None = None
        self.sizes = Sizes()
        self._my_offer: Offer | None = None
        self._their_offer: Offer | None = None
        self._my_skip: Skip | None = None
        self._their_skip: Skip | None = None
        self.bins = self._bins_of(self.sizes)
        self._matches = 0

    # The state as the caller sees it

    @property
    def task(self) -> int:
        return self.setup.task

    @property
    def broadcast(self) -> bool:
        return self.setup.broadcast

    @property
    def partition_sid(self) -> bytes:
        """The id that determines the bins of the items: this task's id, or that of the run that it resumes."""
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
        """The capacities of a bin, (own, peer's) [items]."""
        return self.sizes.capacities

    @property
    def questions(self) -> int:
        """How many items the peer can ask about at most; padding counts."""
        return self.bins.questions

    @property
    def finished(self) -> bool:
        """Whether both parties have completed the task and none of our work is left."""
        return self.phase is Phase.FINISHED and self.idle

    @property
    def skipped(self) -> bool:
        """Whether the task is over because a party could not take part in it."""
        return self.phase is Phase.SKIPPED

    @property
    def completed_before(self) -> bool:
        """Whether an earlier run completed the exchange for both parties."""
        return self.resumption is not None and self.resumption.complete

    @property
    def settled(self) -> bool:
        """Whether both parties have made their offers."""
        return self.phase not in (*_OFFERS, Phase.SKIPPED)

    @property
    def opened(self) -> bool:
        """Whether both parties have opened the task, or an earlier run completed it."""
        return self.phase not in _BEFORE_EXCHANGE and not self.skipped

    @property
    def exchanging(self) -> bool:
        """Whether points and tokens must still be sent, received or checked."""
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
        """Whether the task can handle another message now.

        It cannot while too many frames wait for work. Nor can it between the commit and the publication of the output:
        no message, and not even the end of the link, may come in between.
        """
        publishing = self.phase is Phase.COMMITTED and not self.idle
        room = len(self._queued) < MAX_PENDING_BITS and all(each.has_room for each in self.bins.values())
        return room and not publishing

    @property
    def progress(self) -> Progress:
        """How far the masking has got."""
        (own, peer), (own_bin, peer_bin) = self.bins.exchanged, self.capacities
        return Progress(own, self.number_of_bins * own_bin, peer, self.number_of_bins * peer_bin)

    @property
    def disclosure(self) -> Disclosure:
        """What the peer may learn if this party fails now."""
        return Disclosure.NAMED

    # Before the exchange

    def offer(self, kept: Kept | None) -> list[Message]:
        """Make the Offer, with the saved state of an earlier run; raises LocalProtocolError if it was made already."""
        if self.phase not in _OFFERS or self._has_spoken:
            raise errors.LocalProtocolError(detail="a task was offered twice")
        if self._their_skip is not None:
            return self.skip(0)
        self._my_offer = Offer(self.task, kept)
        return [self._my_offer, *self._take_step()]

    def open(self, count: int) -> list[Message]:
        """Open the task after its input was read; count: the number of distinct items.

        Raises InputChangedError if the task resumes an earlier run that had a different number.
        """
        if self.phase not in (Phase.OPENING, Phase.OPENING_HEARD) or self._has_spoken:
            raise errors.LocalProtocolError(detail="a task was opened out of order")
        if self._their_skip is not None:
            return self.skip(0)
        if self.resumption is not None and count != self.resumption.own_count:
            raise errors.InputChangedError(path="the input")
        self.sizes = self.sizes._replace(own=count)
        return [Open(self.task, count, self.setup.probe), *self._take_step()]

    def skip(self, failure_class: int) -> list[Message]:
        """Skip the task in place of the Offer or the Open; the class is the exit code of the fault, 0 in an answer.

        Raises LocalProtocolError if it is too late for that.
        """
        if self.phase not in _BEFORE_EXCHANGE or self._has_spoken:
            raise errors.LocalProtocolError(detail="a task was skipped out of order")
        self._my_skip = Skip(self.task, failure_class)
        return [self._my_skip, *self._take_step()]

    @property
    def _has_spoken(self) -> bool:
        """Whether this party has sent its half of the current step: of the offers, or of the opening."""
        spoken = self._my_offer is not None if self.phase in _OFFERS else self.own_count >= 0
        return spoken or self._my_skip is not None

    def _take_step(self) -> list[Message]:
        """End the offers or the opening once both parties have sent their halves."""
        if self.phase not in (Phase.OFFERING_HEARD, Phase.OPENING_HEARD) or not self._has_spoken:
            return []
        if self._my_skip is not None or self._their_skip is not None:
            self._move(Step.SKIPPED)
            return []
        return self._decide() if self.phase is Phase.OFFERING_HEARD else self._begin_exchange()

    def _on_skip(self, message: Skip) -> list[Message]:
        if message.failure_class not in _SKIP_CLASSES or (not message.failure_class and self._my_skip is None):
            raise PeerProtocolError(detail=f"it skipped a task with class {message.failure_class}")
        self._their_skip = message
        self._move(Skip)
        return self._take_step()

    def _on_offer(self, message: Offer) -> list[Message]:
        self._their_offer = message
        self._move(Offer)
        return self._take_step()

    def _decide(self) -> list[Message]:
        """Decide what the task resumes from."""
        assert self._my_offer is not None
        assert self._their_offer is not None
        self.resumption = agree_on_resume(
            self._my_offer.kept,
            self._their_offer.kept,
            receives=self.receives,
            broadcast=self.broadcast,
            bin_items=self.setup.bin_items,
        )
        if self.resumption is not None and self.resumption.complete:
            bins = self.resumption.bins
            self.sizes = Sizes(self.resumption.own_count, self.resumption.peer_count, bins)
            self.bins = self._bins_of(self.sizes, every_bin(bins))
            self._move(Step.OVER)
        else:
            self._move(Step.AGREED)
        return []

    def _on_open(self, message: Open) -> list[Message]:
        if message.probe != self.setup.probe:
            raise peer_errors.DisagreementError(
                table="  item encoding: the two programs turn the same item into different points"
            )
        if self.resumption is not None and message.count != self.resumption.peer_count:
            raise PeerProtocolError(detail="it opened a resumed task with a different count than it offered")
        check_total(message.count)
        self.sizes = self.sizes._replace(peer=message.count)
        self._move(Open)
        return self._take_step()

    def _begin_exchange(self) -> list[Message]:
        own, peer, _ = self.sizes
        # How much matches in each of several bins would say something about the items.
        bins = int(bool(own and peer)) if self.setup.counts else number_of_bins(own, peer, self.setup.bin_items)
        check_total(padded(own, bins) + padded(peer, bins))
        self.sizes = Sizes(own, peer, bins)
        self.bins = self._bins_of(self.sizes, 0 if self.resumption is None else self.resumption.finished)
        self._move(Step.OPENED)
        return [] if self.bins.left else self._all_done()

    def _bins_of(self, sizes: Sizes, finished: int = 0) -> TaskBins:
        kind = self.counting_bin_party if self.setup.counts else self.bin_party
        if self.setup.protocol == RR22:
            # Imported late, because most tasks use ECDH.
            from psicli.protocol.rr22.bins import VectorReceiverBin, VectorSenderBin

            kind = VectorReceiverBin if self.receives else VectorSenderBin
        return TaskBins(kind, self.setup, sizes, finished)

    # Bins

    def restart(self, number: int) -> list[Message]:
        """Restart a bin whose worker was lost.

        Raises WorkerLostError if the bin was restarted before, or if it is too late for that.
        """
        again = self.phase is Phase.EXCHANGE and self.bins.attempts[number] < LAST_ATTEMPT
        if not again or (number in self.bins and not self.bins[number].may_restart):
            raise errors.WorkerLostError(bin=number)
        self.bins.restarting.add(number)
        return [self.bins.restart(number)]

    def _on_restart(self, message: Restart) -> list[Message]:
        number, bins = message.bin, self.bins
        if number in bins.restarting and message.attempt == bins.attempts[number]:
            # The answer to our Restart, or the peer restarted the bin at the same time.
            bins.restarting.remove(number)
            return []
        begun = number in bins or (number in bins.done and not self.receives)
        late = number in bins and not bins[number].peer_may_restart
        if not begun or late or message.attempt != bins.attempts[number] + 1 or message.attempt > LAST_ATTEMPT:
            raise PeerProtocolError(detail=f"it restarted bin {number} out of order")
        return [bins.restart(number)]

    def _on_frame(self, message: Frame) -> list[Message]:
        self.bins.receive_frame(message)
        return []

    def _on_end(self, message: End) -> list[Message]:
        party = self.bins.addressed(message)
        if party is not None:
            party.receive_end(message)
        return []

    @abstractmethod
    def _all_done(self) -> list[Message]:
        """Return the messages to send once all bins are done."""

    def _digest(self, matches: int | None = None) -> bytes:
        mine, theirs, bins = self.sizes
        return task_digest(self.setup.task_sid, (mine, theirs) if self.receives else (theirs, mine), bins, matches)

    def _check_digest(self, theirs: bytes, matches: int | None = None) -> None:
        if theirs != self._digest(matches):
            raise PeerProtocolError(detail="it computed a different digest of the task")

    # Dispatch, and outputs

    def receive(self, message: TaskMessage) -> list[Message]:
        """Handle a message of this task and return the messages to send.

        Raises PeerProtocolError if it is not allowed now or contradicts an earlier message.
        """
        if message.task != self.task:
            raise PeerProtocolError(detail=f"it sent a message for task {message.task} during task {self.task}")
        if type(message) not in self.table[self.phase]:
            raise PeerProtocolError(detail=f"it sent {type(message).__name__} during {self.phase.value}")
        return self._handle(message)

    def _move(self, cause: type[TaskMessage] | Step) -> None:
        """Move to the next phase according to the table."""
        self.phase = self.table[self.phase][cause]

    def _handle(self, message: TaskMessage) -> list[Message]:
        """Handle a message that the table allows now."""
        match message:
            case Offer():
                return self._on_offer(message)
            case Skip():
                return self._on_skip(message)
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
        raise errors.LocalProtocolError(detail=f"this role has no handler for {type(message).__name__}")

    def _stage(self) -> list[Message]:
        self._move(Step.RESULT_SENT)
        self._queued.append(StageOutput())
        return []

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        if not isinstance(work, StageOutput):
            raise errors.LocalProtocolError(detail=f"{type(work).__name__} is not work of this role")
        return [Ready(self.task), *(self._all_staged() if self.phase is Phase.STAGING_HEARD else [])]

    def _on_ready(self) -> list[Message]:
        self._move(Ready)
        # Our own output is the last work, so an idle lane means that it is staged.
        return self._all_staged() if self.idle else []

    @abstractmethod
    def _all_staged(self) -> list[Message]:
        """Return the messages to send once both outputs are staged."""

    def _choose(self, room: bool) -> Work | None:
        if self._queued and (room or not self._sends_frame(self._queued[0])):
            return self._queued.popleft()
        return None

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, SliceBitmap)

    def _bitmap_shape(self, count: int) -> StreamShape:
        """Return the shape of a bitmap. Bitmaps have no attempts: their digest starts from the id of attempt 0."""
        return StreamShape(Stream.BITMAP, count, self.setup.frame_items)
