"""Two bare protocol machines in memory, whose work has made-up results.

MachinePair steps a Receiver and a Sender in any order a test likes: messages, offers, opens, and the beginning and
completion of work in each lane. It records every message in the order of sending. Bins and frames may be very small
here.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from psicli.protocol.bins import BinParty, TaskSetup, number_of_bins
from psicli.protocol.bins import capacity as capacity_of_bin
from psicli.protocol.messages import Frame, Kept, Message, Stream, TaskMessage
from psicli.protocol.receiver import Receiver
from psicli.protocol.rr22.sizes import sizes, token_bytes
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import TaskParty
from psicli.protocol.work import Compute, GatherMatches, Lane, MaskOwn, MaskPeer, PermuteTokens, SliceBitmap, Work

TASK = 3
TASK_SID = bytes(range(32))
FRAME_ITEMS = 8
# Bins are so large that a test has one bin unless it asks for more.
BIN_ITEMS = 1 << 20
PROBE = bytes(16)
# Longer than any test takes: a pair that waits this long hangs [s].
PATIENCE = 20.0
# The most lanes a party has at a time: one for the task, two for bins, and one for a bin that starts again.
LANES = 4

M = TypeVar("M")


def setup(
    *,
    broadcast: bool = False,
    task: int = TASK,
    probe: bytes = PROBE,
    task_sid: bytes = TASK_SID,
    frame_items: int = FRAME_ITEMS,
    bin_items: int = BIN_ITEMS,
    counts: bool = False,
    protocol: str = "",
) -> TaskSetup:
    return TaskSetup(task, task_sid, probe, broadcast, frame_items, bin_items, counts, protocol)


def begin_bins(party: TaskParty, begin: Callable[[], Any]) -> None:
    """Begin the bins whose turn has come, as the session does."""
    while party.bins.has_next and party.bins.only_latest_under_way:
        begin()
    party.bins.let_send_points(allowed=True)


def made_up_points(role: type[TaskParty], start: int, stop: int, *, number: int = 0, attempt: int = 0) -> bytes:
    """Return made-up points [start, stop) of a bin; no two are equal."""
    name = role.__name__.encode().ljust(16) + number.to_bytes(4, "big") + attempt.to_bytes(4, "big")
    return b"".join(name + i.to_bytes(8, "big") for i in range(start, stop))


def made_up_tokens(points: bytes) -> bytes:
    return b"".join(hashlib.sha256(points[i : i + 32]).digest()[:16] for i in range(0, len(points), 32))


def made_up_permuted(count: int) -> bytes:
    """Return made-up tokens of so many points of the receiver, in the opposite order."""
    points = made_up_points(Receiver, 0, count)
    return b"".join(made_up_tokens(points[32 * i : 32 * i + 32]) for i in reversed(range(count)))


def made_up_stream(stream: Stream, size: int, *, number: int = 0, attempt: int = 0) -> bytes:
    """Return a made-up stream of RR22 [bytes]; no two are alike."""
    return hashlib.shake_256(bytes([stream, number % 256, attempt])).digest(size)


def size_of(party: TaskParty, stream: Stream) -> int:
    """Return the size of a stream of RR22 [bytes]."""
    bins, (own, peer) = party.number_of_bins, party.capacities
    receiver, sender = (own, peer) if party.receives else (peer, own)
    if stream is Stream.TOKENS:
        return sender * token_bytes(bins * receiver, bins * sender)
    blocks: int = getattr(sizes(receiver), stream.name.lower())
    return 16 * blocks


def made_up_bits(sent: int, most: int) -> list[bool]:
    """Return a bit for each of the sender's points, with at most `most` bits set."""
    bits = [j % 3 != 1 for j in range(sent)]
    while sum(bits) > most:
        bits[bits.index(True)] = False
    return bits


def packed_bits(bits: Sequence[bool]) -> bytes:
    octets = bytearray(-(-len(bits) // 8))
    for j, bit in enumerate(bits):
        octets[j // 8] |= bit << j % 8
    return bytes(octets)


def place_of(lane: Lane) -> Place | None:
    """Return the bin and attempt that a lane works on, None for the task's own lane."""
    return lane.place if isinstance(lane, BinParty) else None


@dataclass
class MachineEnd:
    """One end of a MachinePair: the machine, its inbox, and a record of its messages and work.

    count: the number of items in its Open. answer: does its work. capacity: the most messages that its inbox holds.
    """

    party: TaskParty
    count: int
    answer: Callable[[Work, Place | None], bytes]
    kept: Kept | None = None
    capacity: float = float("inf")
    inbox: deque[TaskMessage] = field(default_factory=deque)
    received: list[TaskMessage] = field(default_factory=list)
    # All work in the order of completion, with its result in `work` and with its bin and attempt in `placed`.
    work: list[tuple[Work, bytes]] = field(default_factory=list)
    placed: list[tuple[Place | None, Work]] = field(default_factory=list)
    offered: bool = False

    @property
    def role(self) -> type[TaskParty]:
        return type(self.party)

    @property
    def lanes(self) -> list[Lane]:
        return [self.party, *(self.party.bins[number] for number in sorted(self.party.bins))]

    @property
    def frames_under_way(self) -> int:
        return sum(lane.frames_under_way for lane in self.lanes)

    def receive(self, message: TaskMessage) -> list[Message]:
        """Process a message as the session does, after beginning all bins whose turn has come."""
        begin_bins(self.party, self.party.bins.begin)
        self.received.append(message)
        messages = self.party.receive(message) + self._received()
        begin_bins(self.party, self.party.bins.begin)
        return messages

    def advance(self) -> list[Message] | None:
        """Make the offer, or open the task, if it is time for either."""
        if not self.offered:
            self.offered = True
            return self.party.offer(self.kept)
        if self.party.settled and self.party.own_count < 0:
            return self.party.open(self.count)
        return None

    def begin(self, slot: int, *, room: bool) -> bool:
        """Begin the next piece of work of a lane, if there is one."""
        begin_bins(self.party, self.party.bins.begin)
        lanes = self.lanes
        return slot < len(lanes) and lanes[slot].next_work(room=room) is not None

    def complete(self, slot: int) -> list[Message] | None:
        """Complete a lane's oldest piece of work under way, if there is one."""
        lanes = self.lanes
        lane = lanes[slot] if slot < len(lanes) else None
        if lane is None or not lane._handed_out:
            return None
        work, place = lane._handed_out[0], place_of(lane)
        result = self.answer(work, place)
        self.work.append((work, result))
        self.placed.append((place, work))
        return lane.completed(work, result) + self._received()

    def _received(self) -> list[Message]:
        """Return Received messages for the bins that a receiver has checked."""
        messages: list[Message] = []
        if isinstance(self.party, Receiver):
            for number in [number for number, each in self.party.bins.items() if each.done]:
                messages += self.party.received(number)
        return messages

    def step(self, *, room: Callable[[], bool] = lambda: True) -> list[Message] | None:
        """Advance, complete a piece of work, or begin and complete one; return None if there is nothing to do."""
        messages = self.advance()
        for slot in range(len(self.lanes)):
            if messages is None:
                messages = self.complete(slot)
            if messages is None and self.begin(slot, room=room()):
                messages = self.complete(slot)
        return messages

    def work_of(self, number: int | None, attempt: int = 0) -> list[Work]:
        """Return the work of one attempt at a bin in order; None stands for the task itself."""
        wanted = None if number is None else (number, attempt)
        return [work for at, work in self.placed if (None if at is None else (at.bin, at.attempt)) == wanted]


class MachinePair:
    """A Receiver of n items and a Sender of m items, with made-up work and real messages.

    log: every message sent, with the role that sent it. capacity: the most messages that the receiver's and the
    sender's inbox hold. kept: the checkpoints that they offer.
    """

    def __init__(
        self,
        n: int,
        m: int,
        *,
        broadcast: bool = False,
        counts: bool = False,
        protocol: str = "",
        capacity: tuple[float, float] = (float("inf"), float("inf")),
        frame_items: int = FRAME_ITEMS,
        bin_items: int = BIN_ITEMS,
        kept: tuple[Kept | None, Kept | None] = (None, None),
    ) -> None:
        self.number_of_bins = int(bool(n and m)) if counts else number_of_bins(n, m, bin_items)
        self.bits = self._made_up_bits(n, m)
        self.log: list[tuple[type[TaskParty], TaskMessage]] = []
        sizes = {"frame_items": frame_items, "bin_items": bin_items}
        shared = setup(broadcast=broadcast, counts=counts, protocol=protocol, **sizes)
        receiver, sender = Receiver(shared), Sender(shared)
        self.receiver = MachineEnd(receiver, n, partial(self.result, receiver), kept[0], capacity[0])
        self.sender = MachineEnd(sender, m, partial(self.result, sender), kept[1], capacity[1])

    def _made_up_bits(self, n: int, m: int) -> list[list[bool]]:
        """Return a bit for each point the sender sends, bin by bin."""
        sent = capacity_of_bin(m, max(self.number_of_bins, 1))
        bits = made_up_bits(self.number_of_bins * sent, min(n, m))
        return [bits[number * sent : (number + 1) * sent] for number in range(self.number_of_bins)]

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
        """Deliver the next message to a machine, if there is one and the machine wants it."""
        if not end.inbox or not end.party.wants_input:
            return False
        self._send(end, end.receive(end.inbox.popleft()))
        return True

    def work(self, end: MachineEnd) -> bool:
        """Take a machine's next step that needs no message, if there is one."""
        return self._did(end, end.step(room=lambda: self._has_room(end)))

    def advance(self, end: MachineEnd) -> bool:
        return self._did(end, end.advance())

    def begin(self, end: MachineEnd, slot: int) -> bool:
        return end.begin(slot, room=self._has_room(end))

    def complete(self, end: MachineEnd, slot: int) -> bool:
        return self._did(end, end.complete(slot))

    def restart(self, end: MachineEnd, number: int) -> None:
        """Lose the worker of a bin."""
        self._send(end, end.party.restart(number))

    def result(self, party: TaskParty, work: Work, place: Place | None) -> bytes:
        match work:
            case MaskOwn(start, stop):
                assert place is not None
                return made_up_points(type(party), start, stop, number=place.bin, attempt=place.attempt)
            case MaskPeer(_, points) if isinstance(party, Sender):
                return b"" if party.setup.counts else made_up_tokens(points)
            case PermuteTokens(start, stop):
                return made_up_permuted(party.peer_count)[16 * start : 16 * stop]
            case Compute(stream):
                assert place is not None
                return made_up_stream(stream, size_of(party, stream), number=place.bin, attempt=place.attempt)
            case GatherMatches():
                return sum(map(sum, self.bits)).to_bytes(8, "big")
            case SliceBitmap(number, start, stop):
                return packed_bits(self.bits[number][start:stop])
        return b""

    def steps(self) -> list[Callable[[], bool]]:
        return [partial(step, end) for end in self.ends for step in (self.deliver, self.work)]

    def fine_steps(self) -> list[Callable[[], bool]]:
        """Return all smallest steps: beginning and completing work are separate steps in each lane."""
        steps: list[Callable[[], bool]] = []
        for end in self.ends:
            steps += [partial(self.deliver, end), partial(self.advance, end)]
            for slot in range(LANES):
                steps += [partial(self.begin, end, slot), partial(self.complete, end, slot)]
        return steps

    def run(self, schedule: Iterable[int] = ()) -> None:
        """Take the steps of a schedule, skipping impossible ones, then all steps in turn to the end.

        Fail if neither party can take a step although they are not finished.
        """
        fine = self.fine_steps()
        for choice in schedule:
            fine[choice % len(fine)]()
        while not self.finished:
            moved = [step() for step in self.steps()]
            assert any(moved), "both sides wait for each other"

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Take all steps in turn, one at a time, until a condition holds."""
        steps = self.steps()
        while not reached():
            moved = False
            for step in steps:
                moved |= step()
                if reached():
                    return
            assert moved, "the condition never holds"

    def sent(self, kind: type[M], role: type[TaskParty] | None = None) -> list[M]:
        return [message for by, message in self.log if isinstance(message, kind) and role in (None, by)]

    def data(self, stream: Stream) -> bytes:
        return b"".join(frame.data for frame in self.sent(Frame) if frame.stream == stream)

    def _has_room(self, end: MachineEnd) -> bool:
        other = self.other(end)
        return len(other.inbox) + end.frames_under_way < other.capacity

    def _did(self, end: MachineEnd, messages: list[Message] | None) -> bool:
        self._send(end, messages or [])
        return messages is not None

    def _send(self, end: MachineEnd, messages: Iterable[Message]) -> None:
        for message in messages:
            self.log.append((end.role, cast(TaskMessage, message)))
            self.other(end).inbox.append(cast(TaskMessage, message))
