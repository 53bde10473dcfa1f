"""The sender, the party that helps the receiver: its state machines for a bin and for a task."""

from __future__ import annotations

from typing import ClassVar

from psicli.core import peer_errors
from psicli.protocol.bins import BinPhase, Sizes, TaskSetup
from psicli.protocol.messages import Commit, Done, End, Frame, Message, Ready, Received, Restart, Stream, TaskMessage
from psicli.protocol.points import PointsBin
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place
from psicli.protocol.task import BEGINNING, END, Phase, Step, Table, TaskParty
from psicli.protocol.work import KeepBits, PermuteTokens, PublishOutput, Work


class SenderBin(PointsBin):
    """A bin at the sender: it sends points, and answers the receiver's points with tokens."""

    own_stream = Stream.SENDER_POINTS
    peer_stream = Stream.RECEIVER_POINTS
    _answers = True

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        super().__init__(place, sizes, frame_items)
        self._tokens = OutgoingStream(place, self._shape(Stream.TOKENS, sizes.capacities[1]))

    def _answer(self, result: bytes) -> list[Message]:
        return [self._tokens.frame(result)]

    def _checked(self) -> list[Message]:
        # The tokens end only after our checks, so that R cannot accept lists that we refuse.
        return [self._tokens.end()]


class CountingSenderBin(SenderBin):
    """The bin at a sender whose receiver only counts: it answers once it has all points and has checked them.

    Each answer says something about the receiver's items, so none is given for a part of them, and the bin does not
    restart after the first one.
    """

    _answers = False

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        super().__init__(place, sizes, frame_items)
        self._next_tokens = 0

    @property
    def answered(self) -> bool:
        return self._tokens.ended

    @property
    def may_restart(self) -> bool:
        return not self._tokens.frames

    @property
    def peer_may_restart(self) -> bool:
        return not self._points_in.ended

    def _answer(self, result: bytes) -> list[Message]:
        return []

    def _choose(self, room: bool) -> Work | None:
        if self.phase is not BinPhase.CHECKED:
            return super()._choose(room)
        if not room or self._next_tokens == self._tokens.shape.frames:
            return None
        self._next_tokens += 1
        return PermuteTokens(*self._tokens.shape.span(self._next_tokens - 1))

    def _sends_frame(self, work: Work) -> bool:
        return isinstance(work, PermuteTokens) or super()._sends_frame(work)

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        if not isinstance(work, PermuteTokens):
            return super()._complete(work, result)
        frame = self._tokens.frame(result)
        return [frame, self._tokens.end()] if self._tokens.all_sent else [frame]

    def _checked(self) -> list[Message]:
        return []


class Sender(TaskParty):
    """The party that helps; it learns the result only with broadcast_result."""

    receives = False
    bin_party = SenderBin
    counting_bin_party = CountingSenderBin
    table: ClassVar[Table] = {
        **BEGINNING,
        Phase.EXCHANGE: {
            Frame: Phase.EXCHANGE,
            End: Phase.EXCHANGE,
            Received: Phase.EXCHANGE,
            Restart: Phase.EXCHANGE,
            Step.EXCHANGED: Phase.FINISHED,
            Step.RESULT_DUE: Phase.RESULT,
            Step.RESULT_SENT: Phase.STAGING,
        },
        Phase.RESULT: {
            Frame: Phase.RESULT,
            End: Phase.RESULT,
            Restart: Phase.EXCHANGE,
            Step.RESULT_SENT: Phase.STAGING,
        },
        Phase.STAGING: {Ready: Phase.STAGING_HEARD},
        Phase.STAGING_HEARD: {Step.STAGED: Phase.READY},
        Phase.READY: {Commit: Phase.COMMITTED},
        Phase.COMMITTED: {Step.PUBLISHED: Phase.FINISHED},
        **END,
    }

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self._bitmap: IncomingStream | None = None

    def restart(self, number: int) -> list[Message]:
        if number in self.bins.done or self.bins[number].answered:
            # The bin needs no more computing, and R may have received it already.
            return []
        return super().restart(number)

    def _handle(self, message: TaskMessage) -> list[Message]:
        result = self.phase is Phase.RESULT
        match message:
            case Received():
                return self._on_received(message)
            case Frame() if result:
                return self._on_bits(message)
            case End() if result:
                return self._on_end_of_bits(message)
            case Restart() if result:
                return self._on_restart_of_result(message)
            case Commit():
                return self._on_commit(message)
        return super()._handle(message)

    def _on_received(self, message: Received) -> list[Message]:
        if not self.bins.left:
            self._expect_digest(message, last=not message.bin and not message.attempt)
            return self._end_alone()
        party = self.bins.addressed(message)
        if party is None or not party.answered:
            raise peer_errors.PeerProtocolError(detail=f"it confirmed bin {message.bin} before it was complete")
        self.bins.finish(message.bin)
        last = self.bins.all_done
        self._expect_digest(message, last=last)
        return self._all_done() if last else []

    def _expect_digest(self, message: Received, *, last: bool) -> None:
        if not last or self.broadcast:
            if message.digest:
                raise peer_errors.PeerProtocolError(detail="it ended the task too early")
        else:
            self._check_digest(message.digest)

    def _all_done(self) -> list[Message]:
        if not self.broadcast:
            # If there are no bins, wait for R's Received.
            return self._end_alone() if self.bins.left else []
        if not self.number_of_bins:
            return self._stage()
        self._move(Step.RESULT_DUE)
        self._expect_bitmap(0)
        return []

    def _end_alone(self) -> list[Message]:
        self._move(Step.EXCHANGED)
        return [Done(self.task, self._digest())]

    def _expect_bitmap(self, number: int) -> None:
        self._bitmap = IncomingStream(self.bins.place(number), self._bitmap_shape(self.capacities[0]))

    def _on_restart_of_result(self, message: Restart) -> list[Message]:
        """Handle the restart of a received bin, which R may lose until it sends the first bit of the result."""
        if self._bitmap is None or self._bitmap.place.bin or self._bitmap.frames:
            raise peer_errors.PeerProtocolError(detail=f"it restarted bin {message.bin} out of order")
        messages = self._on_restart(message)
        self._move(Restart)
        return messages

    def _on_bits(self, message: Frame) -> list[Message]:
        bitmap = self._expected_bitmap(message)
        bitmap.accept(message)
        start, stop = bitmap.shape.span(message.seq)
        bits = int.from_bytes(message.data, "little")
        self._matches += bits.bit_count()
        if bits >> (stop - start):
            raise peer_errors.PeerProtocolError(detail="its bitmap has spare bits set")
        if self._matches > min(self.own_count, self.peer_count):
            raise peer_errors.PeerProtocolError(detail="its bitmap marks more items than the smaller list holds")
        self._queued.append(KeepBits(message.bin, message.data))
        return []

    def _on_end_of_bits(self, message: End) -> list[Message]:
        self._expected_bitmap(message).finish(message)
        if message.bin + 1 < self.number_of_bins:
            self._expect_bitmap(message.bin + 1)
            return []
        return self._stage()

    def _expected_bitmap(self, message: Frame | End) -> IncomingStream:
        if self._bitmap is None or (message.bin, message.attempt) != (self._bitmap.place.bin, 0):
            raise peer_errors.PeerProtocolError(detail=f"it sent a bitmap of bin {message.bin} out of order")
        if message.stream != Stream.BITMAP:
            raise peer_errors.PeerProtocolError(detail=f"it sent stream {message.stream} during {self.phase.value}")
        return self._bitmap

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case PublishOutput():
                self._move(Step.PUBLISHED)
                return [Done(self.task, self._digest(self._matches))]
            case KeepBits():
                return []
            case _:
                return super()._complete(work, result)

    def _all_staged(self) -> list[Message]:
        self._move(Step.STAGED)
        return []

    def _on_commit(self, message: Commit) -> list[Message]:
        self._check_digest(message.digest, self._matches)
        self._move(Commit)
        self._queued.append(PublishOutput())
        return []
