"""The receiver, the party that learns the result: its state machines for a bin and for a task."""

from __future__ import annotations

from typing import ClassVar

from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import BinPhase, Sizes, TaskSetup
from psicli.protocol.messages import Commit, Done, End, Frame, Message, Ready, Received, Restart, Stream, TaskMessage
from psicli.protocol.points import PointsBin
from psicli.protocol.streams import IncomingStream, OutgoingStream, Place
from psicli.protocol.task import BEGINNING, END, Disclosure, Phase, Step, Table, TaskParty
from psicli.protocol.work import GatherMatches, KeepTokens, PublishOutput, SliceBitmap, Work


class ReceiverBin(PointsBin):
    """A bin at the receiver: it sends points, and gets points and tokens."""

    own_stream = Stream.RECEIVER_POINTS
    peer_stream = Stream.SENDER_POINTS
    _answers = False

    def __init__(self, place: Place, sizes: Sizes, frame_items: int) -> None:
        super().__init__(place, sizes, frame_items)
        self._tokens = IncomingStream(place, self._shape(Stream.TOKENS, sizes.capacities[0]))

    @property
    def all_arrived(self) -> bool:
        return super().all_arrived and self._tokens.ended

    @property
    def _lists_complete(self) -> bool:
        # Do not wait for the end of the tokens, which the sender sends after its checks: both check at the same time.
        return super()._lists_complete and self._tokens.frames == self._tokens.shape.frames

    def _incoming(self, stream: int) -> IncomingStream:
        return self._tokens if stream == Stream.TOKENS else super()._incoming(stream)

    def _accepted(self, frame: Frame) -> None:
        if frame.stream != Stream.TOKENS:
            super()._accepted(frame)
        elif frame.seq >= self._points_out.frames:
            raise PeerProtocolError(detail=f"it sent tokens of frame {frame.seq}, which it has not received yet")
        else:
            self._queued.append(KeepTokens(self._tokens.shape.span(frame.seq)[0], frame.data))


class CountingReceiverBin(ReceiverBin):
    """The bin at a receiver that only counts: the tokens come after both lists of points, and in an unknown order."""

    @property
    def may_restart(self) -> bool:
        # From here on the sender may be answering, and a second answer could be about other items.
        return not self._points_out.ended

    @property
    def peer_may_restart(self) -> bool:
        return not self._tokens.frames

    def _accepted(self, frame: Frame) -> None:
        if frame.stream == Stream.TOKENS and not (self._points_out.ended and self._points_in.ended):
            raise PeerProtocolError(detail="it sent tokens of a task that only counts before the end of the points")
        super()._accepted(frame)


class Receiver(TaskParty):
    """The party that learns the result."""

    receives = True
    bin_party = ReceiverBin
    counting_bin_party = CountingReceiverBin
    table: ClassVar[Table] = {
        **BEGINNING,
        Phase.EXCHANGE: {
            Frame: Phase.EXCHANGE,
            End: Phase.EXCHANGE,
            Restart: Phase.EXCHANGE,
            Step.EXCHANGED: Phase.CONFIRMING,
            Step.RESULT_DUE: Phase.RESULT,
            Step.RESULT_SENT: Phase.STAGING,
        },
        Phase.CONFIRMING: {Done: Phase.FINISHED},
        Phase.RESULT: {Step.LOST: Phase.EXCHANGE, Step.RESULT_SENT: Phase.STAGING},
        Phase.STAGING: {Ready: Phase.STAGING_HEARD},
        Phase.STAGING_HEARD: {Step.STAGED: Phase.COMMITTED},
        Phase.COMMITTED: {Done: Phase.FINISHED},
        **END,
    }

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self._bitmap: OutgoingStream | None = None

    @property
    def disclosure(self) -> Disclosure:
        if self.phase in (Phase.CONFIRMING, Phase.FINISHED) and not self.broadcast:
            return Disclosure.NOTHING
        compares = bool(self.bins.ever_done) or any(
            each.all_arrived or each.phase is not BinPhase.EXCHANGE for each in self.bins.values()
        )
        # Before the first point, a refusal by a policy on sizes may name its reason.
        points = self.phase is Phase.EXCHANGE and self.bins.begun > 0
        if self.phase is Phase.RESULT or (points and (self.broadcast or compares)):
            return Disclosure.UNIFORM
        return Disclosure.NAMED

    def received(self, number: int) -> list[Message]:
        """Return the messages that confirm a checked bin."""
        attempt = self.bins[number].place.attempt
        self.bins.finish(number)
        last = self.bins.all_done
        digest = self._digest() if last and not self.broadcast else b""
        return [Received(self.task, number, attempt, digest), *(self._all_done() if last else [])]

    def restart(self, number: int) -> list[Message]:
        if self.phase is Phase.RESULT and self._bitmap is None:
            # No bit of the result has been sent yet, so the result is gathered again after this bin.
            self._move(Step.LOST)
            self._queued.clear()
        return super().restart(number)

    def _all_done(self) -> list[Message]:
        if not self.broadcast:
            self._move(Step.EXCHANGED)
            return [] if self.bins.left else [Received(self.task, 0, 0, self._digest())]
        if not self.number_of_bins:
            return self._stage()
        self._move(Step.RESULT_DUE)
        self._queued.append(GatherMatches())
        return []

    def _complete(self, work: Work, result: bytes) -> list[Message]:
        match work:
            case GatherMatches() if self.phase is not Phase.RESULT or work in (*self._queued, *self._handed_out):
                # A bin was restarted meanwhile, so the result will be gathered again.
                return []
            case GatherMatches():
                self._matches = int.from_bytes(result, "big")
                return self._next_bitmap(0)
            case SliceBitmap(number):
                return self._send_bits(number, result)
            case PublishOutput():
                return []
            case _:
                return super()._complete(work, result)

    def _next_bitmap(self, number: int) -> list[Message]:
        if number == self.number_of_bins:
            return self._stage()
        self._bitmap = OutgoingStream(self.bins.place(number), self._bitmap_shape(self.capacities[1]))
        self._queued.append(SliceBitmap(number, *self._bitmap.shape.span(0)))
        return []

    def _send_bits(self, number: int, bits: bytes) -> list[Message]:
        assert self._bitmap is not None
        frame = self._bitmap.frame(bits)
        if self._bitmap.all_sent:
            return [frame, self._bitmap.end(), *self._next_bitmap(number + 1)]
        self._queued.append(SliceBitmap(number, *self._bitmap.shape.span(self._bitmap.frames)))
        return [frame]

    def _handle(self, message: TaskMessage) -> list[Message]:
        return self._on_done(message) if isinstance(message, Done) else super()._handle(message)

    def _all_staged(self) -> list[Message]:
        self._move(Step.STAGED)
        self._queued.append(PublishOutput())
        return [Commit(self.task, self._digest(self._matches))]

    def _on_done(self, message: Done) -> list[Message]:
        self._check_digest(message.digest, self._matches if self.broadcast else None)
        self._move(Done)
        return []
