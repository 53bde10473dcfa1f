"""What a peer can do to us: each cheat ends with its code, one word to the peer, and nothing written.

Every case runs against a session in this process over real gRPC, and in the slow tests against a real `psicli run`;
some of these are among the fast tests too.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import grpc
import pytest
from hostile import (
    DEADLINE,
    HONEST,
    Cheat,
    HostilePeer,
    Out,
    Outcome,
    Over,
    ProcessVictim,
    SessionVictim,
    Setting,
    Told,
    dial,
    listen,
    meet,
)
from runner import Pair, Run, free_ports
from test_curve import LOW_ORDER
from test_pipeline import SMALL_ORDER, P, add, as_octets, replaced

from psicli import curve
from psicli.protocol import (
    MAX_TOTAL_ITEMS,
    Ack,
    Chunk,
    Commit,
    Done,
    End,
    Hello,
    HelloOctets,
    Message,
    Open,
    Ready,
    Received,
    ResumeOffer,
    Stream,
    StreamOffset,
)
from psicli.wire import MAX_MESSAGE_BYTES, encode, encode_hello

THEIRS = tuple(f"theirs-{n}" for n in range(20))
OURS = [*THEIRS[:7], *(f"ours-{n}" for n in range(11))]
# From the moment the peer stops: last words take ten seconds where it does not listen.
ENDS_WITHIN = 15.0

# The cheats ------------------------------------------------------------------------------------------------------

RECEIVER, SENDER = "receiver", "sender"
BOTH = (RECEIVER, SENDER)
ONE_SIDED, BROADCAST = (False,), (True,)
MODES = (False, True)


def before(*messages: Out) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    return lambda peer, due: [*messages, *due]


def after(*messages: Out) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    return lambda peer, due: [*due, *messages]


def instead(*messages: Out) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    return lambda peer, due: messages


def at(stage: str, sentence: str, alter: Callable[[HostilePeer, list[Message]], Iterable[Out]], **how: Any) -> Cheat:
    return Cheat(sentence, at={stage: alter}, **how)


def frame(number: int, **changes: Any) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Change one frame of a stream and nothing else."""
    return lambda peer, due: [replace(m, **changes) if i == number else m for i, m in enumerate(due)]


def cut(number: int, size: int) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Give one frame another size."""

    def alter(peer: HostilePeer, due: list[Message]) -> Iterable[Out]:
        chunk = due[number]
        assert isinstance(chunk, Chunk)
        data = (chunk.data * 2)[: len(chunk.data) + size]
        return [*due[:number], replace(chunk, data=data), *due[number + 1 :]]

    return alter


def end(**changes: Any) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    return lambda peer, due: [*due[:-1], replace(due[-1], **changes)]


def first_point(forged: bytes) -> Callable[[HostilePeer, list[bytes]], list[bytes]]:
    return lambda peer, own: replaced(own, 13, forged)


def of_another_session(stage: str) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """What was good in a session before, digests and all."""
    return lambda peer, due: recorded(replace(peer.setting, listens=False))[stage]


@cache
def recorded(setting: Setting) -> dict[str, list[Out]]:
    with free_ports(1) as ports:
        peer, told, outcome, _ = meet(SessionVictim(ports[0], setting, OURS), ports[0], setting, HONEST)
    assert (told, outcome.code) == (None, 0)
    return peer.sent


def a_point(u: int) -> Callable[[HostilePeer, list[bytes]], list[bytes]]:
    return first_point(as_octets(u))


def own_hello_back(peer: HostilePeer, hello: Hello) -> Hello:
    # The listener speaks second: only it can send back what it heard.
    assert peer.their_hello is not None
    return replace(hello, nonce=peer.their_hello.nonce)


TERMINAL = "\x1b]0;owned\x07\u202e\r\n ERROR all is well" + "x" * 5000
EVIL = replace(Setting(True, False).terms, name=TERMINAL)
SHORT = bytes(31)
POINTS: dict[str, Cheat] = {
    **{
        f"a point of low order {at_}": Cheat("not valid", points=first_point(bytes.fromhex(point)))
        for at_, point in enumerate(LOW_ORDER)
    },
    **{
        f"a point not canonical {name}": Cheat("not valid", points=a_point(u))
        for name, u in {
            "p + 1": P + 1,
            "p + 9": P + 9,
            "p + 18": P + 18,
            "bit 255": 9 + 2**255,
            "all bits": 2**256 - 1,
        }.items()
    },
    "a point of the twist": Cheat("does not lie on the curve", points=a_point(2)),
    "a reflected point": Cheat(
        "a point of ours back", points=lambda peer, own: replaced(own, 19, peer.their_first_points()[0])
    ),
    "all points reflected": Cheat(
        "a point of ours back", points=lambda peer, own: replaced(own, 0, *peer.their_first_points())
    ),
    "a point twice": Cheat("are the same item", points=lambda peer, own: replaced(own, 19, own[0])),
    **{
        f"a point plus one of {name}": Cheat(
            "are the same item", points=lambda peer, own, small=small: replaced(own, 17, add(own[2], small))
        )
        for name, small in SMALL_ORDER.items()
    },
}
STREAMS: dict[str, Cheat] = {
    "points before Open": at(
        "open", "Chunk came during the opening|task number 0, which is not", before(Chunk(0, 1, 0, bytes(256)))
    ),
    "another Open": at(
        "open", "Open came during the exchange|task number 0, which is not", lambda peer, due: [*due, *due]
    ),
    "a frame too short": at("points", "has 255 bytes, a wrong size", cut(1, -1)),
    "a frame too long": at("points", "has 288 bytes, a wrong size", cut(1, 32)),
    "an empty frame": at("points", "has 0 bytes, a wrong size", cut(1, -256)),
    "a frame of another number": at("points", "frame 2 of stream . where frame 1 was due", frame(1, seq=2)),
    "a frame twice": at("points", "frame 0 of stream . where frame 1", lambda peer, due: [due[0], *due]),
    "a frame of a number without end": at("points", "where frame 0 was due", frame(0, seq=2**64 - 1)),
    "frames in another order": at("points", "frame 1 of stream . where", lambda peer, due: [due[1], due[0], *due[2:]]),
    "a frame left out": at("points", "frame 2 of stream . where", lambda peer, due: [due[0], *due[2:]]),
    "a frame of another task": at("points", "task number 1, which is not under way", frame(1, task=1)),
    "a frame of our own stream": at(
        "points", "stream . came during the exchange", lambda peer, due: [replace(due[0], stream=peer.their_stream)]
    ),
    "a frame of no stream": at("points", "stream 0 came during", frame(0, stream=0)),
    "a frame of stream 7": at("points", "stream 7 came during", frame(0, stream=7)),
    "a frame of the bitmap": at("points", "stream 4 came during", before(Chunk(0, 4, 0, bytes(1)))),
    "a frame after the last": at(
        "points",
        "more items in stream . than the 20 declared",
        lambda peer, due: [*due[:-1], Chunk(0, peer.own_stream, 3, bytes(256))],
    ),
    "a frame after the end": at("points", "a frame after the end", lambda peer, due: [*due, due[0]]),
    "a second end": at("points", "a second end", lambda peer, due: [*due, due[-1]]),
    "an early end": at("points", "fewer or more items", lambda peer, due: [*due[:2], due[-1]]),
    "one item less": at("points", "fewer or more items", end(count=19)),
    "one item more": at("points", "fewer or more items", end(count=21)),
    "another digest": at("points", "the digest of stream . differs", end(digest=bytes(32))),
    "another point than digested": at(
        "points",
        "the digest of stream . differs",
        lambda peer, due: [replace(due[0], data=due[0].data[32:] + due[0].data[:32]), *due[1:]],
    ),
    "points of another session": at("points", "the digest of stream . differs", of_another_session("points")),
    "a made-up Ack": at(
        "points",
        "acknowledged frames of stream . that were never sent",
        lambda peer, due: [Ack(0, peer.their_stream, 99, bytes(32))],
    ),
    "an Ack of a wrong digest": at(
        "points", "that were never sent", lambda peer, due: [Ack(0, peer.their_stream, 0, bytes(32))]
    ),
    "an Ack of another stream": at(
        "points", "which this side does not send", lambda peer, due: [Ack(0, peer.own_stream, 0, bytes(32))]
    ),
    "Acks without end": at("points", "without end that it still works", before(*[Ack(0)] * 400)),
    "the exchange, then Ready": at("points", "Ready came during the exchange", instead(Ready(0))),
    "the exchange, then Commit": at("points", "Commit came during the exchange", instead(Commit(0))),
    "the exchange, then Done": at("points", "Done came during the exchange", instead(Done(0))),
    "the exchange, then Received": at("points", "Received came during the exchange", instead(Received(0))),
    "a second Hello": at("points", "a second Hello", lambda peer, due: [HelloOctets(peer.own_hello)]),
    "garbage": at("points", "a message that cannot be read", instead(b"\xff" * 64)),
    "an empty message": at("points", "of a kind this version does not know", instead(b"")),
    "an unknown field": at(
        "points", "holds more than this version knows", lambda peer, due: [encode(due[0]) + b"\x78\x01"]
    ),
    "a cut message": at("points", "cannot be read|holds more", lambda peer, due: [encode(due[0])[:-1]]),
    "a message over the cap": at(
        "points",
        f"a message of more than {MAX_MESSAGE_BYTES} bytes",
        lambda peer, due: [encode(Chunk(0, peer.own_stream, 0, bytes(MAX_MESSAGE_BYTES)))],
    ),
    "another probe": at(
        "open",
        "the two programs turn the same item into different points",
        lambda peer, due: [replace(due[0], probe=bytes(16))],
        code=78,
        told=78,
    ),
    "a probe that is too short": at(
        "open", "a field of 15 bytes where 16 were due", lambda peer, due: [replace(due[0], probe=bytes(15))]
    ),
    "more items than there may be": at(
        "open",
        "more than 17592186044416 distinct items",
        lambda peer, due: [replace(due[0], count=MAX_TOTAL_ITEMS)],
        code=78,
        told=78,
    ),
    "as many items as fit 64 bits": at(
        "open",
        "more than 17592186044416 distinct items",
        lambda peer, due: [replace(due[0], count=2**64 - 1)],
        code=78,
        told=78,
    ),
    "a resume of nonsense": at(
        "open",
        "a field of 3 bytes where 32",
        lambda peer, due: [replace(due[0], resume=ResumeOffer(bytes(32), 1, 1, (StreamOffset(1, 1, b"abc"),)))],
    ),
}
TOKENS: dict[str, Cheat] = {
    "a token twice": Cheat("two of its tokens are equal", tokens=lambda peer, made: replaced(made, 17, made[3])),
    "tokens before points": at(
        "points",
        "tokens of frame [0-9], which was not sent yet|a wrong size|differs|where frame",
        lambda peer, due: [Chunk(0, 3, 5, bytes(128))],
    ),
    "tokens cut short": at("tokens", "has 127 bytes, a wrong size", cut(0, -1)),
    "a token too many": at(
        "tokens",
        "more items in stream 3 than the 18 declared",
        lambda peer, due: [*due[:-1], Chunk(0, 3, 3, bytes(128))],
    ),
    "tokens that end early": at("tokens", "fewer or more items in stream 3", lambda peer, due: [due[0], due[-1]]),
    "tokens of another session": at("tokens", "the digest of stream 3 differs", of_another_session("tokens")),
    "tokens of another digest": at("tokens", "the digest of stream 3 differs", end(digest=bytes(32))),
    "tokens in another order": at("tokens", "frame 2 of stream 3 where frame 0", lambda peer, due: due[::-1][1:]),
}
AFTER_TOKENS: dict[str, Cheat] = {
    # The second may come when all is committed, and then stays without effect on the output.
    "Ready twice": at("ready", "a second Ready|Ready came during the commit", after(Ready(0))),
    "Done instead of Ready": at("ready", "Done came during", instead(Done(0))),
    "points after the result": at("ready", "Chunk came during", instead(Chunk(0, 2, 3, bytes(256)))),
}
BITMAP: dict[str, Cheat] = {
    "pad bits": Cheat("pad bits of the bitmap are set", bitmap=lambda packed: packed[:-1] + b"\x80"),
    "a bitmap cut short": at("bitmap", "has 0 bytes, a wrong size", cut(0, -1)),
    "a bitmap too long": at("bitmap", "has 2 bytes, a wrong size", cut(0, 1)),
    "a bitmap of another digest": at("bitmap", "the digest of stream 4 differs", end(digest=bytes(32))),
    "a bitmap that ends early": at("bitmap", "fewer or more items in stream 4", lambda peer, due: [due[0], due[-1]]),
    "Received instead of the bitmap": at("bitmap", "Received came where the bitmap was due", instead(Received(0))),
    "Commit before Ready": at("ready", "Commit came before both sides were ready", instead(Commit(0))),
    "Ready of the receiver twice": at("ready", "a second Ready", after(Ready(0))),
    "Ready before the bitmap": at("bitmap", "Ready came during the wait for the result", instead(Ready(0))),
}
ONE_SIDED_SENDER: dict[str, Cheat] = {
    "a bitmap nobody asked for": at("end", "stream 4 came during the wait", instead(Chunk(0, 4, 0, bytes(1)))),
    "Ready instead of Received": at("end", "Ready came during the wait", instead(Ready(0))),
    "Commit instead of Received": at("end", "Commit came during the wait", instead(Commit(0))),
}
HELLOS: dict[str, Cheat] = {
    "our own name": Cheat(
        "it introduced itself as", hello=lambda peer, hello: replace(hello, party=peer.setting.victim)
    ),
    "a third party": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, party="carol")),
    "another version": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, protocol_version=2)),
    "another suite": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, suite="psicli-v0")),
    "another task": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, tasks=())),
    "another receiver": Cheat(
        "disagree", 78, 78, hello=lambda peer, hello: replace(hello, tasks=(replace(hello.tasks[0], receiver="carol"),))
    ),
    "text for a terminal": Cheat(
        "disagree",
        78,
        78,
        hello=lambda peer, hello: replace(
            hello, party=TERMINAL, job=TERMINAL, suite=TERMINAL, package_version=TERMINAL, tasks=(EVIL,)
        ),
    ),
}
# Said by a listener alone: our side, dialling, has the stream and tells it. A dialer that says this is junk.
ANSWERS: dict[str, Cheat] = {
    "our own nonce": Cheat("it introduced itself as", hello=own_hello_back),
    "no chunk size": Cheat(
        "a Hello with an impossible chunk size", hello=lambda peer, hello: replace(hello, chunk_items=0)
    ),
    "an odd chunk size": Cheat("an impossible chunk size", hello=lambda peer, hello: replace(hello, chunk_items=9)),
    "a huge chunk size": Cheat("an impossible chunk size", hello=lambda peer, hello: replace(hello, chunk_items=2**20)),
    "a Hello that is none": Cheat("a Hello that cannot be read", hello=lambda peer, hello: b"\xff\xff"),
    "a Hello of a million tasks": Cheat(
        # Field 7, of no length: a task without a name.
        "more than 10000 tasks",
        hello=lambda peer, hello: encode_hello(hello) + b"\x3a\x00" * 1_000_000,
    ),
    "a short nonce": Cheat("a field of 8 bytes where 32", hello=lambda peer, hello: replace(hello, nonce=bytes(8))),
    "no Hello": at("hello", "did not answer with a Hello", instead(Ack(0))),
    "garbage for a Hello": at("hello", "a message that cannot be read", instead(b"\xff" * 9)),
}

Case = tuple[str, Cheat, Setting]


def cases(
    cheats: dict[str, Cheat],
    roles: Iterable[str] = BOTH,
    modes: Iterable[bool] = MODES,
    ends: Iterable[bool] = (False,),
) -> list[Case]:
    return [
        (
            f"{role}, {'broadcast' if broadcast else 'one-sided'}{', listening' if listens else ''}: {name}",
            cheat,
            Setting(role == RECEIVER, broadcast, listens, THEIRS),
        )
        for (name, cheat), role, broadcast, listens in itertools.product(cheats.items(), roles, modes, ends)
    ]


ALL: list[Case] = [
    *cases(POINTS),
    *cases(STREAMS),
    *cases(TOKENS, (SENDER,)),
    *cases(AFTER_TOKENS, (SENDER,), BROADCAST),
    *cases(BITMAP, (RECEIVER,), BROADCAST),
    *cases(ONE_SIDED_SENDER, (RECEIVER,), ONE_SIDED),
    *cases(HELLOS, BOTH, ONE_SIDED, (False, True)),
    *cases(ANSWERS, (SENDER,), ONE_SIDED, (True,)),
]


def check(cheat: Cheat, peer: HostilePeer, told: int | None, outcome: Outcome, seconds: float) -> None:
    """Check that our side ended as it should: its code and sentence, one word to the peer, nothing written."""
    assert outcome.code == cheat.code, outcome
    assert re.search(cheat.sentence, outcome.message), outcome
    assert told == cheat.told
    assert not outcome.has_result or "came during the commit" in outcome.message
    assert seconds < ENDS_WITHIN
    # Nothing that a peer sent is passed on to a terminal as it came.
    assert outcome.message.isascii()
    assert outcome.message.replace("\n", "").isprintable()
    assert len(outcome.message) < 5000
    # The word that the lists were good, or the result, never goes to a peer whose lists were not.
    if cheat in POINTS.values() or cheat in TOKENS.values():
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard if not isinstance(m, Ack)}
        assert not kinds & {(Received, 0), (Chunk, Stream.BITMAP), (Ready, 0), (End, Stream.TOKENS)}


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]


@pytest.mark.parametrize(
    "setting", [Setting(r, b, e, THEIRS) for r, b, e in itertools.product(*[(False, True)] * 3)], ids=str
)
def test_without_a_cheat_the_same_peer_is_fine(port: int, setting: Setting) -> None:
    """What all tests below stand on."""
    victim = SessionVictim(port, setting, OURS)
    _, told, outcome, _ = meet(victim, port, setting, HONEST)
    assert (told, outcome.code) == (None, 0), outcome
    if not setting.receives:
        found = victim.plan.found
        assert found is not None
        assert {value[5:] for value in found} == set(THEIRS[:7])


@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_a_cheat(port: int, cheat: Cheat, setting: Setting) -> None:
    check(cheat, *meet(SessionVictim(port, setting, OURS), port, setting, cheat))


# What would tell of a match, if anything did: the checks that come when all lists are there.
LATE = [*cases({name: POINTS[name] for name in ("a reflected point", "a point twice")}), *cases(TOKENS, (SENDER,))]


@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in LATE], ids=[case[0] for case in LATE])
def test_what_a_cheat_is_told_does_not_depend_on_a_match(port: int, cheat: Cheat, setting: Setting) -> None:
    seen = []
    for values in (THEIRS[:18], [f"others-{n}" for n in range(18)]):
        peer, told, outcome, _ = meet(SessionVictim(port, setting, values), port, setting, cheat)
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard if not isinstance(m, Ack)}
        late = kinds & {(Received, 0), (End, Stream.TOKENS), (Ready, 0), (Commit, 0), (Done, 0)}
        seen.append((told, outcome.code, outcome.message, late))
    assert seen[0] == seen[1]


# The same against psicli run ---------------------------------------------------------------------------------------


def check_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    victim = ProcessVictim(pair, setting, OURS)
    check(cheat, *meet(victim, pair.port, setting, cheat))
    pair.nothing_left()
    assert victim.run is not None
    # A sentence and a hint, each once; what stands in a line of a table is no line of its own.
    assert sum(error.startswith("overlap: ") for error in victim.run.result().errors) == 2


# One of each kind, in every role, mode and direction.
SAMPLE: list[Case] = [
    *cases({"a reflected point": POINTS["a reflected point"]}, (RECEIVER,), BROADCAST, (True,)),
    *cases({"a point of low order 4": POINTS["a point of low order 4"]}, (RECEIVER,), ONE_SIDED),
    *cases({"a point twice": POINTS["a point twice"]}, (SENDER,), ONE_SIDED),
    *cases({"points of another session": STREAMS["points of another session"]}, (SENDER,), BROADCAST),
    *cases({"a message over the cap": STREAMS["a message over the cap"]}, BOTH, ONE_SIDED, (True, False))[1:3],
    *cases({"Acks without end": STREAMS["Acks without end"]}, (SENDER,), BROADCAST),
    *cases({"another probe": STREAMS["another probe"]}, (SENDER,), ONE_SIDED, (True,)),
    *cases({"a token twice": TOKENS["a token twice"]}, (SENDER,), BROADCAST, (True,)),
    *cases({"pad bits": BITMAP["pad bits"]}, (RECEIVER,), BROADCAST),
    *cases({"text for a terminal": HELLOS["text for a terminal"]}, (SENDER,), ONE_SIDED),
    *cases({"our own nonce": ANSWERS["our own nonce"]}, (SENDER,), ONE_SIDED, (True,)),
]


@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in SAMPLE], ids=[case[0] for case in SAMPLE])
def test_a_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_every_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)


# Without end -------------------------------------------------------------------------------------------------------

# The least a job may give a run (pipeline.memory), and what it may really take [bytes].
LEAST_MEMORY, MOST_MEMORY = "384MB", 300 << 20
FULL = 16_384


def memory(run: Run) -> int:
    """The most memory the process ever held [bytes]."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class Flood:
    """A peer that declares many items and sends honest frames of good points until it is told to stop."""

    def __init__(self, pair: Pair, setting: Setting, declared: int, *, state: Path) -> None:
        self.victim = ProcessVictim(pair, setting, OURS)
        self.setting = setting
        self.declared = declared
        self._port = pair.port
        pair.jobs[setting.victim]["pipeline"] = {"memory": LEAST_MEMORY}
        pair.environment["PSICLI_STATE_DIR"] = str(state)
        self.taken = 0
        self.peak = 0

    def run(self, frames: int) -> tuple[int | None, Outcome, float]:
        """Send until so many frames were masked, then garbage; return what was said, and how long that took [s]."""
        with ExitStack() as stack:
            wire = listen(self._port, stack) if self.setting.listens else None
            self.victim.start()
            peer = HostilePeer(wire or dial(self._port, stack), self.setting, CHUNKY)
            told, stopping = None, time.monotonic()
            try:
                peer.greet()
                peer.say("open", [Open(0, self.declared, curve.probe(peer.task_sid))])
                peer.hear(Open)
                peer.wire.send(self._frames(peer))
                while self.taken < frames:
                    ack = peer.hear(Ack)
                    self.taken = max(self.taken, ack.frames)
                assert self.victim.run is not None
                self.peak = memory(self.victim.run)
                self._enough.set()
                stopping = time.monotonic()
                while True:
                    peer.hear(type(None))
            except Told as word:
                told = word.failure_class
            return told, self.victim.outcome(), time.monotonic() - stopping

    def _frames(self, peer: HostilePeer) -> Iterator[bytes]:
        # Made once: the same points again are good until all have come.
        data = b"".join(peer.masked(f"{n}" for n in range(FULL)))
        for seq in itertools.count():
            if self._enough.is_set():
                yield b"\xff"
                return
            yield encode(Chunk(0, peer.own_stream, seq, data))

    @cached_property
    def _enough(self) -> threading.Event:
        return threading.Event()


CHUNKY = Cheat("", hello=lambda peer, hello: replace(hello, chunk_items=FULL))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_declares_more_than_the_disk_holds(pair: Pair, state: Path, receives: bool) -> None:
    """Ten million millions would need some hundreds of terabytes: that is said at once, and nothing is taken."""
    flood = Flood(pair, Setting(receives, False, False, THEIRS), 10**13, state=state)
    told, outcome, seconds = flood.run(1)
    assert (told, outcome.code) == (74, 74)
    assert re.search(r"[0-9]{6,7}\.[0-9] GB more would be needed there beside 0.0 MB", outcome.message)
    assert seconds < ENDS_WITHIN
    pair.nothing_left()


def flooded(pair: Pair, state: Path, setting: Setting, declared: int, frames: int) -> None:
    flood = Flood(pair, setting, declared, state=state)
    told, outcome, seconds = flood.run(frames)
    assert (told, outcome.code) == (76, 76), outcome
    assert "a message that cannot be read" in outcome.message
    assert flood.taken >= frames
    assert flood.peak < MOST_MEMORY
    assert seconds < ENDS_WITHIN
    # What was on disk is gone.
    assert {path.name for path in state.rglob("*")} == {"lock", "ledger.jsonl"}
    pair.nothing_left()


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_without_end(pair: Pair, state: Path, receives: bool) -> None:
    """About 1.5 GB of disk is reserved for what it declares."""
    flooded(pair, state, Setting(receives, not receives, receives, THEIRS), 10**7, 6)


@pytest.mark.slow
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_without_end_for_long(pair: Pair, state: Path, receives: bool) -> None:
    flooded(pair, state, Setting(receives, not receives, receives, THEIRS), 10**7, 300)


def test_a_peer_that_just_goes(port: int) -> None:
    """A list without its End is no short list."""
    for setting in (Setting(True, False, True, THEIRS), Setting(False, True, False, THEIRS)):

        def go(peer: HostilePeer, due: list[Message]) -> list[Out]:
            peer.wire.close()
            return []

        cheat = Cheat("went away before the session was complete", 69, None, at={"points": go})
        with free_ports(1) as ports:
            check(cheat, *meet(SessionVictim(ports[0], setting, OURS), ports[0], setting, cheat))


def test_a_listener_that_compresses(port: int) -> None:
    setting = Setting(False, False, True, THEIRS)
    victim = SessionVictim(port, setting, OURS)
    _, told, outcome, _ = meet(victim, port, setting, HONEST, grpc.Compression.Gzip)
    assert (told, outcome.code) == (None, 76)
    assert "it compresses its messages" in outcome.message


def test_junk_for_a_hello_does_not_take_the_session(port: int) -> None:
    """Whoever says it is no peer yet: it gets no answer, and the peer itself gets its session."""
    setting = Setting(True, False, False, THEIRS)
    victim = SessionVictim(port, setting, OURS)
    victim.start()
    for cheat in (ANSWERS[name] for name in ("no chunk size", "a Hello that is none", "a short nonce", "no Hello")):
        with ExitStack() as stack:
            peer = HostilePeer(dial(port, stack), setting, cheat)
            assert peer.run() is None
            assert peer.heard == []
    with ExitStack() as stack:
        # Compressed, it does not even reach the session.
        assert HostilePeer(dial(port, stack, grpc.Compression.Gzip), setting).run() is None
        assert HostilePeer(dial(port, stack), setting).run() is None
    assert victim.outcome() == Outcome(0, "", False)


# What a peer may see -----------------------------------------------------------------------------------------------


def test_the_connection_ends_before_a_result_is_written(port: int) -> None:
    """A sender that keeps its end open does not see how long the receiver writes, and so what matched."""
    setting = Setting(False, False, False, THEIRS)
    victim = SessionVictim(port, setting, OURS)
    gone, seen = threading.Event(), []
    victim.plan.finish_alone = lambda matched: seen.append(gone.wait(DEADLINE))  # type: ignore[method-assign]
    with ExitStack() as stack:
        victim.start()
        wire = dial(port, stack)
        assert HostilePeer(wire, setting).run() is None

        def look(state: grpc.ChannelConnectivity) -> None:
            if state is not grpc.ChannelConnectivity.READY:
                gone.set()

        wire.channel.subscribe(look)
        assert victim.outcome().code == 0
    assert seen == [True]


def test_a_version_that_is_meant_for_a_terminal(pair: Pair) -> None:
    """The one field that need not agree: it stands in the report, as it cannot do harm."""
    setting = Setting(False, False, False, THEIRS)
    cheat = Cheat("", hello=lambda peer, hello: replace(hello, package_version=TERMINAL))
    victim = ProcessVictim(pair, setting, OURS)
    with ExitStack() as stack:
        victim.start()
        wire = dial(pair.port, stack)
        peer = HostilePeer(wire, setting, cheat)
        peer.greet()
        peer.play()
        wire.close()
        with pytest.raises(Over):
            peer.hear(type(None))
    assert victim.outcome().code == 0
    assert victim.run is not None
    report = victim.run.result().stdout.decode()
    assert report.isascii()
    assert report.replace("\n", "").isprintable()
    assert len(report) < 3000
