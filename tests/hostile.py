"""A peer that cheats: the real wire format over real gRPC, honest up to the moment a script says otherwise.

HostilePeer is a plain gRPC client or server; it uses psicli's messages and curve, none of its link or session. Our side
is a session in a thread of the test (SessionVictim) or a real `psicli run` (ProcessVictim): scripts do not know which.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from pair import items_of, packed_bits, records
from runner import DIALER, LISTENER, Pair, Run, Side
from test_run import csv_data
from test_session import Plan

from psicli import curve
from psicli.errors import PsicliError
from psicli.link import METHOD, SERVICE, Dialer, Listener
from psicli.protocol import (
    NONCE_BYTES,
    Abort,
    Ack,
    Bye,
    Chunk,
    Commit,
    Done,
    End,
    Hello,
    HelloOctets,
    Message,
    Open,
    OutgoingStream,
    Ready,
    Received,
    Stream,
    StreamShape,
    Taken,
    TaskTerms,
    first_digest,
    session_id,
    task_session_id,
)
from psicli.session import Terms, open_session
from psicli.spool import IN_MEMORY, Storage
from psicli.wire import decode, decode_hello, encode, encode_hello

# Longer than anything here may take [s].
DEADLINE = 30.0
CHUNK_ITEMS = 8
# How often a hostile peer says what it has taken in [messages].
CONFIRM_EVERY = 4
JOB, TASK_NAME = "overlap", "people"
BACKOFFS = ("initial", "min", "max")
PATH = f"/{SERVICE}/{METHOD}"

M = TypeVar("M")
# What goes out: messages, or octets that are none.
Out: TypeAlias = Message | bytes


class Told(Exception):
    """Our side has said Abort."""

    def __init__(self, failure_class: int) -> None:
        super().__init__(failure_class)
        self.failure_class = failure_class


class Over(Exception):
    """Our side has ended the stream."""


# The stream ------------------------------------------------------------------------------------------------------


class Wire:
    """The hostile end of a stream: nothing of what it is given is looked at."""

    def __init__(self) -> None:
        self.over = threading.Event()
        # Where we dialled: the connection, which may outlive the stream.
        self.channel: Any = None
        self._out: SimpleQueue[bytes | Iterator[bytes] | None] = SimpleQueue()
        self._in: SimpleQueue[bytes | None] = SimpleQueue()
        # What our side is told of what it sent, it would not go on for ever without: here while all that an iterator
        # gives is sent, else among the rest.
        self._confirmed: SimpleQueue[bytes] = SimpleQueue()
        self._flooding = False
        self._guard = threading.Lock()

    def send(self, octets: bytes | Iterator[bytes]) -> None:
        """Send a message, or all that an iterator gives, which may be without end."""
        self._out.put(octets)

    def close(self) -> None:
        """End our direction."""
        self._out.put(None)

    def receive(self, timeout: float = DEADLINE) -> bytes | None:
        """Return the next message, None at the end of the stream; raises Empty."""
        return self._in.get(timeout=timeout)

    def outgoing(self) -> Iterator[bytes]:
        for item in iter(self._out.get, None):
            if isinstance(item, bytes):
                yield item
                continue
            self._flooding = True
            for octets in item:
                if self.over.is_set():
                    break
                yield octets
                while not self._confirmed.empty():
                    yield self._confirmed.get()
            with self._guard:
                self._flooding = False
            while not self._confirmed.empty():
                yield self._confirmed.get()

    @staticmethod
    def _messages(incoming: Iterable[bytes]) -> Iterator[bytes]:
        """Leave out what is about the link itself."""
        return (octets for octets in incoming if not isinstance(decode(octets), Taken | Bye))

    def pump(self, incoming: Iterable[bytes]) -> None:
        try:
            for number, octets in enumerate(self._messages(incoming), 1):
                self._in.put(octets)
                if number % CONFIRM_EVERY == 0:
                    with self._guard:
                        (self._confirmed if self._flooding else self._out).put(encode(Taken(number)))
        except grpc.RpcError:
            pass
        self.over.set()
        self._in.put(None)
        self.close()


def dial(port: int, stack: ExitStack, compression: Any = None) -> Wire:
    """Connect to our side, which listens; it may take a moment before it does."""
    wire = Wire()
    options = [("grpc.max_send_message_length", -1), *((f"grpc.{name}_reconnect_backoff_ms", 100) for name in BACKOFFS)]
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options))
    wire.channel = channel
    stream = channel.stream_stream(PATH)
    call = stream(wire.outgoing(), wait_for_ready=True, timeout=2 * DEADLINE, compression=compression)
    threading.Thread(target=wire.pump, args=(call,), daemon=True).start()
    stack.callback(call.cancel)
    stack.callback(wire.over.set)
    return wire


def listen(port: int, stack: ExitStack, compression: Any = None) -> Wire:
    """Wait for our side to connect."""
    wire = Wire()

    def serve(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if compression is not None:
            context.set_compression(compression)
        threading.Thread(target=wire.pump, args=(requests,), daemon=True).start()
        yield from wire.outgoing()

    handlers = grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(serve)})
    threads = stack.enter_context(ThreadPoolExecutor(4))
    server = grpc.server(threads, [handlers], options=[("grpc.max_send_message_length", -1)])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    stack.callback(lambda: server.stop(0).wait(DEADLINE))
    stack.callback(wire.close)
    stack.callback(wire.over.set)
    return wire


# The peer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One task between the hostile peer and our side, from the peer's place."""

    receives: bool
    broadcast: bool
    listens: bool = False
    values: Sequence[str] = ()

    @property
    def party(self) -> str:
        return LISTENER if self.listens else DIALER

    @property
    def victim(self) -> str:
        return DIALER if self.listens else LISTENER

    @property
    def terms(self) -> TaskTerms:
        return TaskTerms(TASK_NAME, self.party if self.receives else self.victim, self.broadcast, 1)


Alter: TypeAlias = Callable[["HostilePeer", list[Message]], Iterable[Out]]
Forge: TypeAlias = Callable[["HostilePeer", list[bytes]], list[bytes]]


@dataclass(frozen=True)
class Cheat:
    """What a peer does otherwise, and what our side should say to it.

    points, tokens: forge the records of a list before it is framed and digested. at: changes the messages of a stage.
    told: the class the peer is told, None where nobody is there to tell.
    """

    sentence: str
    code: int = 76
    told: int | None = 76
    points: Forge = lambda peer, own: own
    tokens: Forge = lambda peer, made: made
    bitmap: Callable[[bytes], bytes] = lambda packed: packed
    hello: Callable[[HostilePeer, Hello], Hello | bytes] = lambda peer, hello: hello
    at: dict[str, Alter] = field(default_factory=dict)


HONEST = Cheat("")


class HostilePeer:
    """A peer that plays its role to the end unless it cheats.

    heard: all our side said. sent: all it was sent, by stage.
    """

    def __init__(self, wire: Wire, setting: Setting, cheat: Cheat = HONEST) -> None:
        self.wire = wire
        self.setting = setting
        self.cheat = cheat
        self.heard: list[Message] = []
        self.sent: dict[str, list[Out]] = {}
        self.scalar = os.urandom(32)
        self.own_stream, self.their_stream = Stream.SENDER_POINTS, Stream.RECEIVER_POINTS
        if setting.receives:
            self.own_stream, self.their_stream = self.their_stream, self.own_stream
        self.theirs: list[bytes] = []

    def run(self) -> int | None:
        """Play until our side stops it; return the class it was told, None if none."""
        try:
            self.greet()
            self.play()
            if self.cheat is HONEST:
                self.wire.close()
            while True:
                self.hear(type(None))
        except Told as told:
            assert self._next() is None, "our side goes on after its Abort"
            return told.failure_class
        except Over:
            return None

    def greet(self) -> None:
        octets = b""
        if self.setting.listens:
            octets = self.hear(HelloOctets).octets
        self.their_hello = decode_hello(octets) if octets else None
        own = Hello("0", self.setting.party, JOB, (self.setting.terms,), CHUNK_ITEMS, os.urandom(NONCE_BYTES))
        forged = self.cheat.hello(self, own)
        self.own_hello = forged if isinstance(forged, bytes) else encode_hello(forged)
        self.say("hello", [HelloOctets(self.own_hello)])
        octets = octets or self.hear(HelloOctets).octets
        hellos = (self.own_hello, octets)[:: 1 if self.setting.listens else -1]
        self.task_sid = task_session_id(session_id(*hellos), TASK_NAME)

    def play(self) -> None:
        values = self.setting.values
        self.say("open", [Open(0, len(values), curve.probe(self.task_sid))])
        self.their_count = self.hear(Open).count
        points = self.cheat.points(self, self.masked())
        self.say("points", self.stream(self.own_stream, points, len(values)))
        if self.setting.receives:
            self._play_receiver()
        else:
            self._play_sender()

    def _play_sender(self) -> None:
        tokens = self.cheat.tokens(self, self.made_tokens(self.their_points()))
        self.say("tokens", self.stream(Stream.TOKENS, tokens, self.their_count))
        if not self.setting.broadcast:
            self.hear(Received)
            self.say("end", [])
            return
        self.hear_end(Stream.BITMAP)
        self.say("ready", [Ready(0)])
        self.hear(Ready)
        self.hear(Commit)
        self.say("done", [Done(0)])

    def _play_receiver(self) -> None:
        self.their_points()
        self.hear_end(Stream.TOKENS)
        if not self.setting.broadcast:
            self.say("end", [Received(0)])
            return
        bits = packed_bits([False] * self.their_count)
        self.say("bitmap", self.stream(Stream.BITMAP, [self.cheat.bitmap(bits)], self.their_count))
        self.say("ready", [Ready(0)])
        self.hear(Ready)
        self.say("commit", [Commit(0)])
        self.hear(Done)
        self.say("done", [])

    # What scripts are made of

    def say(self, stage: str, messages: list[Message]) -> None:
        alter = self.cheat.at.get(stage)
        for message in messages if alter is None else alter(self, messages):
            self.sent.setdefault(stage, []).append(message)
            self.wire.send(message if isinstance(message, bytes) else encode(message))

    def hear(self, kind: type[M]) -> M:
        """Return the next message of a kind; raises Told or Over where our side ends instead."""
        while True:
            octets = self._next()
            if octets is None:
                raise Over
            message = decode(octets)
            self.heard.append(message)
            if isinstance(message, Abort):
                raise Told(message.failure_class)
            if isinstance(message, kind):
                return message

    def hear_end(self, stream: Stream) -> None:
        while self.hear(End).stream != stream:
            pass

    def their_points(self) -> list[bytes]:
        """Return the points our side sends, all of them."""
        self._hear_frames(lambda: any(isinstance(m, End) and m.stream == self.their_stream for m in self.heard))
        return self.theirs

    def their_first_points(self) -> list[bytes]:
        """Return the points of our side's first frame."""
        self._hear_frames(lambda: bool(self.theirs))
        return self.theirs

    def masked(self, values: Iterable[str] | None = None) -> list[bytes]:
        items = items_of(b"\x01" + len(v).to_bytes(4, "big") + v.encode() for v in values or self.setting.values)
        return records(curve.hash_and_mask(items, self.task_sid, self.scalar), 32)

    def made_tokens(self, points: list[bytes]) -> list[bytes]:
        products, bad = curve.mask(b"".join(points), self.scalar)
        assert not bad
        return records(curve.tokens(products, self.task_sid), 16)

    def stream(self, stream: Stream, data: list[bytes], count: int) -> list[Message]:
        """Return the frames of a list and its End, with the right digests."""
        shape = StreamShape(stream, count, CHUNK_ITEMS)
        outgoing, octets, at = OutgoingStream(0, shape, 0, first_digest(stream, self.task_sid)), b"".join(data), 0
        messages: list[Message] = []
        for seq in range(shape.frames):
            end = at + shape.frame_bytes(seq)
            messages.append(outgoing.frame(octets[at:end]))
            at = end
        return [*messages, outgoing.end()]

    def _hear_frames(self, enough: Callable[[], bool]) -> None:
        while not enough():
            message = self.hear(Chunk | End)  # type: ignore[arg-type]
            if isinstance(message, Chunk) and message.stream == self.their_stream:
                self.theirs += records(message.data, 32)

    def _next(self) -> bytes | None:
        try:
            return self.wire.receive()
        except Empty:
            raise AssertionError("our side neither goes on nor ends") from None


# Our side --------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How our side ended: its code, what it said to its own user, and whether there is anything of a result."""

    code: int
    message: str
    has_result: bool


class Victim(Protocol):
    """Our side."""

    def start(self) -> None: ...

    def outcome(self) -> Outcome: ...


class SessionVictim:
    """A session in a thread, over real gRPC."""

    def __init__(
        self,
        port: int,
        setting: Setting,
        values: Sequence[str],
        *,
        storage: Storage = IN_MEMORY,
        recv_timeout: float = DEADLINE,
    ) -> None:
        """setting: as the peer sees it."""
        self.plan = Plan(TASK_NAME, [], receives=not setting.receives, broadcast=setting.broadcast)
        self.plan.items = items_of(b"\x01" + len(v).to_bytes(4, "big") + v.encode() for v in values)
        self.failure: BaseException | None = None
        self._port = port
        self._setting = setting
        self._storage = storage
        self._recv_timeout = recv_timeout
        self._thread = threading.Thread(target=self._run, name="psicli-test-victim", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "our side hangs"
        output = self.plan.output
        has_result = self.plan.alone is not None or (output is not None and output.published)
        if self.failure is None:
            return Outcome(0, "", has_result)
        assert isinstance(self.failure, PsicliError), repr(self.failure)
        return Outcome(self.failure.code, self.failure.message, has_result)

    def _run(self) -> None:
        meeting: Listener | Dialer
        if self._setting.listens:
            meeting = Dialer("127.0.0.1", self._port, LISTENER, None, 0.05)
        else:
            meeting = Listener("127.0.0.1", self._port, DIALER, None)
        terms = Terms(self._setting.victim, self._setting.party, JOB, (self._setting.terms,))
        try:
            with open_session(
                meeting, terms, timeout=DEADLINE, recv_timeout=self._recv_timeout, storage=self._storage
            ) as session:
                session.agree()
                session.run([self.plan])
        except BaseException as exc:
            self.failure = exc
        finally:
            meeting.close()


OLD = b"what the run before left\n"


class ProcessVictim:
    """`psicli run` in a folder of its own."""

    def __init__(self, pair: Pair, setting: Setting, values: Sequence[str]) -> None:
        self.pair = pair
        self.party = setting.victim
        pair.jobs[self.party]["psi"]["receiver"] = setting.terms.receiver
        sides = Side(["id"], "in.csv", "out/out.csv")
        pair.add(TASK_NAME, sides, sides, broadcast_result=setting.broadcast)
        pair.path(self.party, "in.csv").write_bytes(csv_data(["id"], [[value] for value in values]))
        pair.path(self.party, "out/out.csv").write_bytes(OLD)
        self._learns = setting.broadcast or not setting.receives
        self._before = pair.files(self.party)
        self.run: Run | None = None

    def start(self) -> None:
        self.run = self.pair.start(self.party, "--verbose")

    def outcome(self) -> Outcome:
        assert self.run is not None
        result = self.run.result()
        assert "Traceback" not in result.text, result.text
        has_result = self.pair.files(self.party) != self._before
        if result.code:
            assert not has_result
        return Outcome(result.code, result.stderr, has_result)


def meet(
    victim: Victim, port: int, setting: Setting, cheat: Cheat, compression: Any = None
) -> tuple[HostilePeer, int | None, Outcome, float]:
    """Let our side meet the cheat; return the peer, what it was told, and how our side ended, after how long [s]."""
    with ExitStack() as stack:
        wire = listen(port, stack, compression) if setting.listens else None
        victim.start()
        wire = wire or dial(port, stack, compression)
        peer = HostilePeer(wire, setting, cheat)
        began = time.monotonic()
        told = peer.run()
        outcome = victim.outcome()
        return peer, told, outcome, time.monotonic() - began


def heartbeats(messages: Iterable[Message]) -> list[Ack]:
    return [message for message in messages if isinstance(message, Ack) and message.stream == 0]
