"""A peer that cheats: it speaks the real wire format over real gRPC and is honest until a script changes something."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from queue import Empty
from typing import TypeAlias, TypeVar

from support.hostile.wire import Wire
from support.memory.machines import packed_bits
from support.memory.pair import items_of, records
from support.processes.runner import DIALER, LISTENER

from psicli import curve
from psicli.protocol.bins import LEAST_BIN_ITEMS, capacity, number_of_bins
from psicli.protocol.messages import (
    COUNT,
    NONCE_BYTES,
    Abort,
    Bye,
    Commit,
    Done,
    End,
    Frame,
    Hello,
    HelloOctets,
    Kept,
    Message,
    Offer,
    Open,
    Ready,
    Received,
    Stream,
    TaskTerms,
    bin_session_id,
    partition_key,
    session_id,
    task_digest,
    task_session_id,
)
from psicli.protocol.streams import LEAST_FRAME_ITEMS, OutgoingStream, Place, StreamShape
from psicli.protocol.wire import decode, decode_hello, encode, encode_hello

# Frames and bins have the least allowed size, so that a few items make several of them.
FRAME_ITEMS, BIN_ITEMS = LEAST_FRAME_ITEMS, LEAST_BIN_ITEMS
JOB, TASK_NAME = "overlap", "people"

M = TypeVar("M")
# The peer sends messages, or bytes that are no valid message.
Out: TypeAlias = Message | bytes


class AbortReceived(Exception):
    """Our side has sent an Abort."""

    def __init__(self, failure_class: int) -> None:
        super().__init__(failure_class)
        self.failure_class = failure_class


class StreamEnded(Exception):
    """Our side has ended the stream."""


@dataclass(frozen=True)
class Setting:
    """One task between the hostile peer and our side, from the peer's point of view.

    theirs, ours: the number of items of the peer and of our side; the first `common` of the peer's are common.
    protocol: of the bins, empty for ECDH.
    """

    receives: bool
    broadcast: bool
    listens: bool = False
    theirs: int = 0
    ours: int = 0
    common: int = 7
    counts: bool = False
    protocol: str = ""

    @property
    def values(self) -> list[str]:
        return [f"theirs-{n}" for n in range(self.theirs)]

    @property
    def our_values(self) -> list[str]:
        common = min(self.common, self.theirs, self.ours)
        return [*(f"theirs-{n}" for n in range(common)), *(f"ours-{n}" for n in range(self.ours - common))]

    @property
    def result(self) -> set[str]:
        return {*self.values} & {*self.our_values}

    @property
    def victim_learns(self) -> bool:
        return self.broadcast or not self.receives

    @property
    def party(self) -> str:
        return LISTENER if self.listens else DIALER

    @property
    def victim(self) -> str:
        return DIALER if self.listens else LISTENER

    @property
    def terms(self) -> TaskTerms:
        receiver, result = self.party if self.receives else self.victim, COUNT if self.counts else ""
        return TaskTerms(TASK_NAME, receiver, self.broadcast, 1, result=result, protocol=self.protocol)


Alter: TypeAlias = Callable[["HostilePeer", list[Message]], Iterable[Out]]
Forge: TypeAlias = Callable[["HostilePeer", list[bytes]], list[bytes]]


@dataclass(frozen=True)
class Cheat:
    """What a peer changes, and how our side should react: the sentence and exit code of its error.

    points, tokens, bitmap: forge the records of a bin before they are framed and digested. at: changes the messages of
    a stage. play: the peer's script after the Hellos, instead of its role. kept: the checkpoint it offers to resume
    from; finished: the bins that both parties then skip. told: the code that our side's Abort carries, None if there is
    no Abort. kept_output: whether our side already has its output in place. theirs, ours: the number of items.
    """

    sentence: str
    code: int = 76
    told: int | None = 76
    points: Forge = lambda peer, own: own
    tokens: Forge = lambda peer, made: made
    bitmap: Callable[[bytes], bytes] = lambda packed: packed
    hello: Callable[[HostilePeer, Hello], Hello | bytes] = lambda peer, hello: hello
    at: dict[str, Alter] = field(default_factory=dict)
    play: Callable[[HostilePeer], None] | None = None
    kept: Kept | None = None
    finished: int | None = None
    kept_output: bool = False
    theirs: int = 1064
    ours: int = 1050

    def setting(self, *, receives: bool, broadcast: bool, listens: bool = False) -> Setting:
        return Setting(receives, broadcast, listens, self.theirs, self.ours)


HONEST = Cheat("", 0, None)


def stage(name: str, number: int, attempt: int = 0) -> str:
    """Return the name of a stage of a bin, such as `points` for the first bin, `points 1` or `points again`."""
    return name + (f" {number}" if number else "") + (" again" if attempt else "")


class HostilePeer:
    """A peer that plays its role to the end unless it cheats; it processes one bin after the other.

    heard: all messages from our side. sent: all messages to our side, by stage. data, ended: the data received in each
    stream of an attempt at a bin, and the streams that have ended.
    """

    def __init__(self, wire: Wire, setting: Setting, cheat: Cheat = HONEST) -> None:
        self.wire = wire
        self.setting = setting
        self.cheat = cheat
        self.heard: list[Message] = []
        self.sent: dict[str, list[Out]] = {}
        self.data: dict[tuple[int, int, int], bytes] = defaultdict(bytes)
        self.ended: set[tuple[int, int, int]] = set()
        self.own_stream, self.their_stream = Stream.SENDER_POINTS, Stream.RECEIVER_POINTS
        if setting.receives:
            self.own_stream, self.their_stream = self.their_stream, self.own_stream
        self._scalars: dict[tuple[int, int], bytes] = {}
        self._bitmaps: dict[int, bytes] = {}

    def run(self) -> int | None:
        """Play until our side ends the stream; return the code in its Abort, None if there was no Abort."""
        try:
            self.greet()
            (self.cheat.play or HostilePeer.play)(self)
            if not self.cheat.code:
                self.say("bye", [Bye()])
                self.wire.close()
            while True:
                self.hear(type(None))
        except AbortReceived as abort:
            # Close the stream, as any peer does that receives an Abort.
            self.wire.over.set()
            self.wire.close()
            assert self._next() is None, "our side continues after its Abort"
            return abort.failure_class
        except StreamEnded:
            return None

    def greet(self) -> None:
        octets = b""
        if self.setting.listens:
            octets = self.hear(HelloOctets).octets
        self.their_hello = decode_hello(octets) if octets else None
        own = Hello(
            "0", self.setting.party, JOB, (self.setting.terms,), FRAME_ITEMS, BIN_ITEMS, os.urandom(NONCE_BYTES)
        )
        if self.setting.counts:
            own = replace(own, count_items=BIN_ITEMS)
        forged = self.cheat.hello(self, own)
        self.own_hello = forged if isinstance(forged, bytes) else encode_hello(forged)
        self.say("hello", [HelloOctets(self.own_hello)])
        octets = octets or self.hear(HelloOctets).octets
        hellos = (self.own_hello, octets)[:: 1 if self.setting.listens else -1]
        self.task_sid = task_session_id(session_id(*hellos), TASK_NAME)
        self._hellos = hellos

    def play(self) -> None:
        self.open()
        for number in self.left:
            self.play_bin(number)
        self.conclude()

    def open(self) -> None:
        """Exchange offers and open the task; the first points are due next."""
        self.say("offer", [Offer(0, self.cheat.kept)])
        self.hear(Offer)
        self.open_after(self.cheat.kept, self.cheat.finished)

    def open_after(self, kept: Kept | None, finished: int | None) -> None:
        """Open the task after the Offers; finished: the bins that both parties skip, None for a fresh start."""
        hellos, count = [decode_hello(each) for each in self._hellos], self.setting.theirs
        self.frame_items = min(each.frame_items for each in hellos)
        self.say("open", [Open(0, count, curve.probe(self.task_sid))])
        self.their_count = self.hear(Open).count
        self.bins = number_of_bins(count, self.their_count, min(each.bin_items for each in hellos))
        self.capacities = [capacity(each, max(self.bins, 1)) for each in (count, self.their_count)]
        partition_sid = self.task_sid
        if finished is not None:
            assert kept is not None
            partition_sid = kept.partition_sid
        self._partition_key = partition_key(partition_sid)
        self.left = [number for number in range(self.bins) if not (finished or 0) >> number & 1]

    def play_bin(self, number: int, attempt: int = 0) -> None:
        self.say_points(number, attempt)
        if self.setting.receives:
            self.await_end(number, self.their_stream, attempt)
            self.await_end(number, Stream.TOKENS, attempt)
            self.say_received(number, attempt)
        else:
            self.say_tokens(number, attempt)
            self.hear_received(number)

    def say_points(self, number: int, attempt: int = 0) -> None:
        points = self.cheat.points(self, self.points_of(number, attempt))
        self.say(stage("points", number, attempt), self.stream(self.own_stream, points, number, attempt))

    def say_tokens(self, number: int, attempt: int = 0) -> None:
        tokens = self.made_tokens(self.their_points(number, attempt), number, attempt)
        # Any order will do where our side only counts.
        tokens = self.cheat.tokens(self, tokens[::-1] if self.setting.counts else tokens)
        self.say(stage("tokens", number, attempt), self.stream(Stream.TOKENS, tokens, number, attempt))

    def say_received(self, number: int, attempt: int = 0) -> None:
        if self.setting.broadcast:
            self._bitmaps[number] = packed_bits(self.found(number, attempt))
        last = number == self.left[-1] and not self.setting.broadcast
        self.say(stage("received", number, attempt), [Received(0, number, attempt, self.digest() if last else b"")])

    def found(self, number: int, attempt: int = 0) -> list[bool]:
        """Return a bit for each item of our side, in the order in which it sent them: whether it is the peer's too."""
        own = {*records(self.data[number, attempt, Stream.TOKENS], 16)}
        return [token in own for token in self.made_tokens(self.their_points(number, attempt), number, attempt)]

    def hear_received(self, number: int) -> None:
        self.await_that(lambda: any(isinstance(m, Received) and m.bin == number for m in self.heard))

    def conclude(self) -> None:
        """Play the part of the role that follows the bins."""
        if not self.setting.broadcast:
            if self.setting.receives:
                if not self.left:
                    self.say("received", [Received(0, 0, 0, self.digest())])
                self.hear(Done)
            else:
                self.say("done", [Done(0, self.digest())])
        elif self.setting.receives:
            for number in range(self.bins):
                self.say_bitmap(number)
            self.say("ready", [Ready(0)])
            self.hear(Ready)
            self.say("commit", [Commit(0, self.digest(self.matches))])
            self.hear(Done)
        else:
            if self.bins:
                self.await_end(self.bins - 1, Stream.BITMAP)
            self.say("ready", [Ready(0)])
            self.hear(Ready)
            self.hear(Commit)
            self.say("done", [Done(0, self.digest(self.told_matches))])

    def say_bitmap(self, number: int) -> None:
        bits = self.cheat.bitmap(self._bitmaps[number])
        self.say(stage("bitmap", number), self.stream(Stream.BITMAP, [bits], number))

    @property
    def matches(self) -> int:
        """The number of bits set in the bitmaps that the peer sends."""
        return sum(int.from_bytes(octets, "little").bit_count() for octets in self._bitmaps.values())

    @property
    def told_matches(self) -> int:
        """The number of bits set in the bitmaps that the peer received."""
        bitmaps = (octets for (_, _, stream), octets in self.data.items() if stream == Stream.BITMAP)
        return sum(int.from_bytes(octets, "little").bit_count() for octets in bitmaps)

    def digest(self, matches: int | None = None) -> bytes:
        """Return the digest of the task, which our side must compute too."""
        counts = self.setting.theirs, self.their_count
        return task_digest(self.task_sid, counts if self.setting.receives else counts[::-1], self.bins, matches)

    # Steps that scripts use

    def say(self, stage: str, messages: list[Message]) -> None:
        alter = self.cheat.at.get(stage)
        for message in messages if alter is None else alter(self, messages):
            self.sent.setdefault(stage, []).append(message)
            self.wire.send(message if isinstance(message, bytes) else encode(message))

    def hear(self, kind: type[M]) -> M:
        """Return the next message of a kind; raise AbortReceived or StreamEnded if our side ends instead."""
        while True:
            message = self._take()
            if isinstance(message, kind):
                return message

    def await_that(self, there: Callable[[], bool]) -> None:
        """Read messages until a condition holds; raise AbortReceived or StreamEnded if our side ends instead."""
        while not there():
            self._take()

    def await_end(self, number: int, stream: Stream, attempt: int = 0) -> None:
        self.await_that(lambda: (number, attempt, stream) in self.ended)

    def their_points(self, number: int = 0, attempt: int = 0) -> list[bytes]:
        """Return all points that our side sends for a bin."""
        self.await_end(number, self.their_stream, attempt)
        return records(self.data[number, attempt, self.their_stream], 32)

    def their_first_points(self) -> list[bytes]:
        """Return the points of our side's first frame."""
        self.await_that(lambda: bool(self.data[0, 0, self.their_stream]))
        return records(self.data[0, 0, self.their_stream], 32)

    def points_of(self, number: int, attempt: int = 0) -> list[bytes]:
        """Return the masked points of a bin, padding last."""
        items = self.items_of_bin(number)
        points = self.masked(items, number, attempt)
        padding = [os.urandom(32) for _ in range(self.capacities[0] - len(items))]
        return points + self.masked(padding, number, attempt, curve.PADDING_TAG)

    def items_of_bin(self, number: int) -> list[bytes]:
        items = [b"\x01" + len(value).to_bytes(4, "big") + value.encode() for value in self.setting.values]
        return [item for item in items if self._bin_of(item) == number]

    def masked(
        self, items: Iterable[bytes], number: int = 0, attempt: int = 0, tag: bytes = curve.ITEM_TAG
    ) -> list[bytes]:
        sid = bin_session_id(self.task_sid, number, attempt)
        return records(curve.hash_and_mask(items_of(items), sid, self._scalar(number, attempt), tag), 32)

    def made_tokens(self, points: list[bytes], number: int = 0, attempt: int = 0) -> list[bytes]:
        products, bad = curve.mask(b"".join(points), self._scalar(number, attempt))
        assert not bad
        return records(curve.tokens(products, bin_session_id(self.task_sid, number, attempt)), 16)

    def stream(self, stream: Stream, data: list[bytes], number: int = 0, attempt: int = 0) -> list[Message]:
        """Return the frames of a list and its End, with the right digests."""
        shape = self.shape(stream)
        place = Place(0, number, attempt, bin_session_id(self.task_sid, number, attempt))
        outgoing, octets, at = OutgoingStream(place, shape), b"".join(data), 0
        messages: list[Message] = []
        for seq in range(shape.frames):
            end = at + shape.frame_bytes(seq)
            messages.append(outgoing.frame(octets[at:end]))
            at = end
        return [*messages, outgoing.end()]

    def shape(self, stream: Stream) -> StreamShape:
        return StreamShape(stream, self.capacities[0 if stream == self.own_stream else 1], self.frame_items)

    def _bin_of(self, item: bytes) -> int:
        digest = hashlib.sha256(self._partition_key + item).digest()
        return int.from_bytes(digest, "big") * self.bins >> 256

    def _scalar(self, number: int, attempt: int) -> bytes:
        return self._scalars.setdefault((number, attempt), os.urandom(32))

    def _take(self) -> Message:
        octets = self._next()
        if octets is None:
            raise StreamEnded
        message = decode(octets)
        self.heard.append(message)
        match message:
            case Abort(failure_class):
                raise AbortReceived(failure_class)
            case Frame(_, number, attempt, stream, _, data):
                self.data[number, attempt, stream] += data
            case End(_, number, attempt, stream):
                self.ended.add((number, attempt, stream))
        return message

    def _next(self) -> bytes | None:
        try:
            return self.wire.receive()
        except Empty:
            raise AssertionError("our side neither continues nor ends") from None
