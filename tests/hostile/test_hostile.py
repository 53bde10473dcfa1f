"""What a peer can do to us: each cheat ends with its code, one word to the peer, and nothing written.

Every case runs against a session in this process over real gRPC, and in the slow tests against a real `psicli run`;
some of these are among the fast tests too.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from queue import Empty
from typing import Any

import grpc
import pytest
from support.kernel.points import LOW_ORDER, SMALL_ORDER, P, add, as_octets, replaced
from support.memory.hostile import (
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
    meet,
)
from support.memory.pair import NoCheckpoint
from support.memory.sessions import Plan
from support.processes.runner import Pair, Run, free_ports

from psicli import curve
from psicli.exchange.task_exchange import Prepared
from psicli.exchange.worker import ORDER_SECRET_BYTES
from psicli.protocol.bins import MAX_BINS
from psicli.protocol.messages import (
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
    Restart,
    Stream,
    Taken,
    Working,
)
from psicli.protocol.task import MAX_TOTAL_ITEMS, TaskParty
from psicli.protocol.wire import MAX_MESSAGE_BYTES, encode, encode_hello
from psicli.transport.link import HEARING_TIMEOUT

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
        each = due[number]
        assert isinstance(each, Frame)
        data = (each.data * 2)[: len(each.data) + size]
        return [*due[:number], replace(each, data=data), *due[number + 1 :]]

    return alter


def only(**changes: Any) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Change the one message of a stage."""
    return lambda peer, due: [replace(due[0], **changes)]


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
        peer, told, outcome, _ = meet(SessionVictim(ports[0], setting), ports[0], setting, HONEST)
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
    # Of a full frame some points are proven to lie on the curve, of a frame of 40 all.
    "a point of the twist": Cheat(
        "does not lie on the curve", points=lambda peer, own: replaced(own, 1024 + 5, as_octets(2))
    ),
    "half a frame of the twist": Cheat(
        "does not lie on the curve", points=lambda peer, own: replaced(own, 0, *[as_octets(2)] * 512)
    ),
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


def points(at_: int, number: int = 0, attempt: int = 0, seq: int = 0, items: int = 8) -> Frame:
    """A frame that is out of place."""
    return Frame(0, number, attempt, at_, seq, bytes(32 * items))


STREAMS: dict[str, Cheat] = {
    "a frame too short": at("points", "has 32767 bytes, a wrong size", cut(0, -1)),
    "the last frame too short": at("points", "has 1279 bytes, a wrong size", cut(1, -1)),
    "a frame too long": at("points", "has 1312 bytes, a wrong size", cut(1, 32)),
    "an empty frame": at("points", "has 0 bytes, a wrong size", cut(1, -1280)),
    "a frame of another number": at("points", "frame 2 of stream . where frame 1 was due", frame(1, seq=2)),
    "a frame twice": at("points", "frame 0 of stream . where frame 1", lambda peer, due: [due[0], *due]),
    "a frame of the highest number": at("points", "where frame 0 was due", frame(0, seq=2**32 - 1)),
    "frames in another order": at("points", "frame 1 of stream . where", lambda peer, due: [due[1], due[0], *due[2:]]),
    "a frame left out": at("points", "frame 1 of stream . where frame 0", lambda peer, due: due[1:]),
    "a frame of another task": at("points", "task number 1, which is not under way", frame(1, task=1)),
    "a frame of another bin": at("points", "a message about bin 1, attempt 0, out of turn", frame(1, bin=1)),
    "a frame of the highest bin": at("points", "about bin 4294967295, attempt 0, out of turn", frame(0, bin=2**32 - 1)),
    "a frame of another attempt": at("points", "a message about bin 0, attempt 1, out of turn", frame(1, attempt=1)),
    "an end of another bin": at("points", "a message about bin 1, attempt 0, out of turn", end(bin=1)),
    "an end of another attempt": at("points", "a message about bin 0, attempt 1, out of turn", end(attempt=1)),
    "a frame of our own stream": at(
        "points",
        "stream . came during the exchange of points",
        lambda peer, due: [replace(due[0], stream=peer.their_stream)],
    ),
    "a frame of no stream": at("points", "stream 0 came during", frame(0, stream=0)),
    "a frame of stream 7": at("points", "stream 7 came during", frame(0, stream=7)),
    "a frame of the bitmap": at("points", "stream 4 came during", before(Frame(0, 0, 0, 4, 0, bytes(1)))),
    "a frame after the last": at(
        "points",
        "more items in stream . than the 1064 due",
        lambda peer, due: [*due[:-1], points(peer.own_stream, seq=2)],
    ),
    "a frame after the end": at("points", "a frame after the end", lambda peer, due: [*due, due[0]]),
    "a second end": at("points", "a second end", lambda peer, due: [*due, due[-1]]),
    "an early end": at("points", "fewer or more items", lambda peer, due: [due[0], due[-1]]),
    "one item less": at("points", "fewer or more items", end(count=1063)),
    "one item more": at("points", "fewer or more items", end(count=1065)),
    "another digest": at("points", "the digest of stream . differs", end(digest=bytes(32))),
    "another point than digested": at(
        "points",
        "the digest of stream . differs",
        lambda peer, due: [replace(due[0], data=due[0].data[32:] + due[0].data[:32]), *due[1:]],
    ),
    "points of another session": at("points", "the digest of stream . differs", of_another_session("points")),
    "more messages taken in than were sent": at("points", "messages it was never sent", before(Taken(10**6))),
    "words without end": at("points", "without end that it still works", before(*[Working()] * 400)),
    "the exchange, then Ready": at("points", "Ready came during the exchange", instead(Ready(0))),
    "the exchange, then Commit": at("points", "Commit came during the exchange", instead(Commit(0, bytes(32)))),
    "the exchange, then Done": at("points", "Done came during the exchange", instead(Done(0, bytes(32)))),
    "the exchange, then Offer": at("points", "Offer came during the exchange", instead(Offer(0))),
    "the exchange, then Received": at(
        "points",
        "Received came during the exchange|it has received bin 0, which was not sent",
        instead(Received(0, 0, 0)),
    ),
    "a second Hello": at("points", "a second Hello", lambda peer, due: [HelloOctets(peer.own_hello)]),
    "frames after Bye": at("points", "it goes on after its last word", before(Bye())),
    "garbage": at("points", "a message that cannot be read", instead(b"\xff" * 64)),
    "an empty message": at("points", "of a kind this version does not know", instead(b"")),
    "an unknown field": at(
        "points", "holds more than this version knows", lambda peer, due: [encode(due[0]) + b"\x78\x01"]
    ),
    "a cut message": at("points", "cannot be read|holds more", lambda peer, due: [encode(due[0])[:-1]]),
    "a message over the cap": at(
        "points",
        f"a message of more than {MAX_MESSAGE_BYTES} bytes",
        lambda peer, due: [encode(Frame(0, 0, 0, peer.own_stream, 0, bytes(MAX_MESSAGE_BYTES)))],
    ),
}
# A task that this side has not begun has no phase of its own yet.
NO_TASK = "task number 0, which is not under way"
OPENING: dict[str, Cheat] = {
    "points before the Offer": at("offer", f"Frame came during the offers|{NO_TASK}", before(points(1))),
    "points before Open": at("open", "Frame came during the opening", before(points(1))),
    "an end before Open": at("open", "End came during the opening", before(End(0, 0, 0, 1, 0, bytes(32)))),
    "Received before Open": at("open", "Received came during the opening", before(Received(0, 0, 0))),
    "Restart before Open": at("open", "Restart came during the opening", before(Restart(0, 0, 1))),
    "Open before the Offer": at("offer", f"Open came during the offers|{NO_TASK}", before(Open(0, 1064, bytes(16)))),
    "a second Offer": at("offer", f"Offer came during (the opening|our offer|our opening)|{NO_TASK}", after(Offer(0))),
    "a second Open": at("open", "Open came during (the exchange|our opening)", lambda peer, due: [*due, *due]),
    "another count in a second Open": at(
        "open", "Open came during (the exchange|our opening)", lambda peer, due: [*due, replace(due[0], count=1)]
    ),
    "an Offer of a task that does not exist": at("offer", "task number 1, which is not under way", before(Offer(1))),
    "an Offer of the highest task": at("offer", "task number 4294967295, which is not", after(Offer(2**32 - 1))),
    "an Open of a task that does not exist": at(
        "open", "task number 1, which is not under way", before(Open(1, 5, bytes(16)))
    ),
    "points of a task that does not exist": at(
        "points", "task number 7, which is not under way", before(replace(points(1), task=7))
    ),
    "another probe": at(
        "open", "the two programs turn the same item into different points", only(probe=bytes(16)), code=78, told=78
    ),
    "a probe that is too short": at("open", "a field of 15 bytes where 16 were due", only(probe=bytes(15))),
    **{
        f"an Open of {count} items": at(
            "open", "more than 17592186044416 distinct items", only(count=count), code=78, told=78
        )
        for count in (MAX_TOTAL_ITEMS + 1, 2**63, 2**64 - 1)
    },
    **{
        f"an Open of {count} items": at(
            "open",
            f"{count} distinct items would need more than {MAX_BINS} bins of 16384 items",
            only(count=count),
            code=78,
            told=78,
        )
        for count in (10**9, MAX_TOTAL_ITEMS)
    },
}
TOKENS: dict[str, Cheat] = {
    "a token twice": Cheat("two of its tokens are equal", tokens=lambda peer, made: replaced(made, 17, made[3])),
    "tokens before points": at(
        "points",
        "tokens of frame [0-9], which was not sent yet|a wrong size|differs|where frame",
        lambda peer, due: [Frame(0, 0, 0, 3, 5, bytes(128))],
    ),
    "tokens cut short": at("tokens", "has 16383 bytes, a wrong size", cut(0, -1)),
    "a token too many": at(
        "tokens",
        "more items in stream 3 than the 1050 due",
        lambda peer, due: [*due[:-1], Frame(0, 0, 0, 3, 2, bytes(128))],
    ),
    "tokens that end early": at("tokens", "fewer or more items in stream 3", lambda peer, due: [due[0], due[-1]]),
    "tokens of another session": at("tokens", "the digest of stream 3 differs", of_another_session("tokens")),
    "tokens of another digest": at("tokens", "the digest of stream 3 differs", end(digest=bytes(32))),
    "tokens in another order": at("tokens", "frame 1 of stream 3 where frame 0", lambda peer, due: due[::-1][1:]),
    "tokens of another bin": at("tokens", "a message about bin 1, attempt 0, out of turn", frame(0, bin=1)),
    "Received from a sender": at("tokens", "Received came during the exchange", instead(Received(0, 0, 0))),
}
AFTER_TOKENS: dict[str, Cheat] = {
    # The second may come when all is committed, and then stays without effect on the output.
    "Ready twice": at("ready", "Ready came during (the commit|the writing of our output)", after(Ready(0))),
    "Done instead of Ready": at("ready", "Done came during", instead(Done(0, bytes(32)))),
    "points after the result": at("ready", "Frame came during", instead(points(2, seq=3))),
    "Restart after the result": at("ready", "Restart came during", instead(Restart(0, 0, 1))),
    # Our side has committed: its output is right, and in place.
    "Done of another digest": at(
        "done", "it comes to another digest of the task", only(digest=bytes(32)), kept_output=True
    ),
    "Done of another number of matches": at(
        "done",
        "it comes to another digest of the task",
        lambda peer, due: [Done(0, peer.digest(peer.told_matches + 1))],
        kept_output=True,
    ),
    "Ready instead of Done": at("done", "Ready came during the commit", instead(Ready(0)), kept_output=True),
}
CONFIRMING: dict[str, Cheat] = {
    "Done of another digest": at("done", "it comes to another digest of the task", only(digest=bytes(32))),
    "Done of a broadcast's digest": at(
        "done", "it comes to another digest of the task", lambda peer, due: [Done(0, peer.digest(0))]
    ),
    "Ready instead of Done": at("done", "Ready came during the confirmation", instead(Ready(0))),
    "points instead of Done": at("done", "Frame came during the confirmation", instead(points(2))),
    "Restart instead of Done": at("done", "Restart came during the confirmation", instead(Restart(0, 0, 1))),
    "Done twice before its time": at("tokens", "Done came during the exchange", instead(Done(0, bytes(32)))),
}
BITMAP: dict[str, Cheat] = {
    "pad bits": Cheat("pad bits of the bitmap are set", bitmap=lambda packed: packed[:-1] + bytes([packed[-1] | 0x80])),
    "a bitmap cut short": at("bitmap", "has 127 bytes, a wrong size", cut(0, -1)),
    "a bitmap too long": at("bitmap", "has 129 bytes, a wrong size", cut(0, 1)),
    "a bitmap of another digest": at("bitmap", "the digest of stream 4 differs", end(digest=bytes(32))),
    "a bitmap that ends early": at("bitmap", "fewer or more items in stream 4", lambda peer, due: [due[0], due[-1]]),
    "a bitmap of another bin": at("bitmap", "a bitmap of bin 1 out of order", frame(0, bin=1)),
    "a bitmap of an attempt": at("bitmap", "a bitmap of bin 0 out of order", frame(0, attempt=1)),
    "a bitmap's end of another bin": at("bitmap", "a bitmap of bin 1 out of order", end(bin=1)),
    "points instead of the bitmap": at("bitmap", "stream 1 came during the bitmaps", instead(points(1))),
    "a bitmap before Received": at(
        "received", "stream 4 came during the wait for Received", instead(Frame(0, 0, 0, 4, 0, bytes(128)))
    ),
    "Received twice": at("received", "Received came during the bitmaps", lambda peer, due: [*due, *due]),
    "Received with a digest": at(
        "received", "it ends the task too early", lambda peer, due: [replace(due[0], digest=peer.digest())]
    ),
    "Received instead of the bitmap": at("bitmap", "Received came during the bitmaps", instead(Received(0, 0, 0))),
    "Commit before Ready": at("ready", "Commit came during the writing", instead(Commit(0, bytes(32)))),
    "Ready of the receiver twice": at(
        "ready", "Ready came during (the writing of our output|the wait for the commit)", after(Ready(0))
    ),
    "Ready before the bitmap": at("bitmap", "Ready came during the bitmaps", instead(Ready(0))),
    "Commit of another digest": at("commit", "it comes to another digest of the task", only(digest=bytes(32))),
    "Commit of another number of matches": at(
        "commit",
        "it comes to another digest of the task",
        lambda peer, due: [Commit(0, peer.digest(peer.matches + 1))],
    ),
    "Commit of a one-sided task's digest": at(
        "commit", "it comes to another digest of the task", lambda peer, due: [Commit(0, peer.digest())]
    ),
    "Done instead of Commit": at("commit", "Done came during the wait for the commit", instead(Done(0, bytes(32)))),
    "Restart within the bitmap": at(
        "bitmap", "it begins bin 0 again, out of order", lambda peer, due: [due[0], Restart(0, 0, 1)]
    ),
    "Restart after the bitmap": at("bitmap", "Restart came during the writing", after(Restart(0, 0, 1))),
}
ONE_SIDED_SENDER: dict[str, Cheat] = {
    "a bitmap nobody asked for": at(
        "received", "stream 4 came during the wait for Received", instead(Frame(0, 0, 0, 4, 0, bytes(1)))
    ),
    "Ready instead of Received": at("received", "Ready came during the exchange", instead(Ready(0))),
    "Commit instead of Received": at("received", "Commit came during the exchange", instead(Commit(0, bytes(32)))),
    "Received without a digest": at("received", "it comes to another digest of the task", only(digest=b"")),
    "Received of another digest": at("received", "it comes to another digest of the task", only(digest=bytes(32))),
    "Received of a short digest": at("received", "a field of 31 bytes where 32 were due", only(digest=SHORT)),
    "Received of another bin": at("received", "a message about bin 1, attempt 0, out of turn", only(bin=1)),
    "Received of another attempt": at("received", "a message about bin 0, attempt 1, out of turn", only(attempt=1)),
}
# Said when our side is through: it is of no use and does no harm.
TOO_LATE: dict[str, Cheat] = {
    "points after the last word": Cheat("", 0, None, at={"bye": after(points(1))}),
    "Received after the last word": Cheat("", 0, None, at={"bye": before(Received(0, 0, 0))}),
    "Restart after the last word": Cheat("", 0, None, at={"bye": before(Restart(0, 0, 1))}),
}

# Of several bins ---------------------------------------------------------------------------------------------------

# So many items of ours make two bins and four; the peer's few are padded to a frame a bin.
TWO_BINS: dict[str, Any] = {"theirs": 300, "ours": 16_500}
FOUR_BINS: dict[str, Any] = {"theirs": 100, "ours": 31_000}
Play = Callable[[HostilePeer], None]


def played(sentence: str, play: Play, **how: Any) -> Cheat:
    """What a peer does in place of its role, from the Offers on."""
    return Cheat(sentence, play=play, **how)


def then(*steps: Callable[[HostilePeer], object]) -> Play:
    """Open the task, then do this."""

    def play(peer: HostilePeer) -> None:
        peer.open()
        for step in steps:
            step(peer)

    return play


def says(*messages: Message) -> Play:
    return lambda peer: peer.say("cheat", [*messages])


def points_of(*numbers: int) -> Play:
    def play(peer: HostilePeer) -> None:
        for number in numbers:
            peer.say_points(number)

    return play


def plays(*numbers: int) -> Play:
    def play(peer: HostilePeer) -> None:
        for number in numbers:
            peer.play_bin(number)

    return play


BINS: dict[str, Cheat] = {
    name: replace(cheat, **FOUR_BINS)
    for name, cheat in {
        "points of bin 2 before Received": played("about bin 2, attempt 0, out of turn", then(points_of(0, 1, 2))),
        "points of bin 3 before their turn": played("about bin 3, attempt 0, out of turn", then(points_of(0, 3))),
        "points of bin 1 first": played("points of bin 1 before the end of those before it", then(points_of(1, 0))),
        "points of bin 1 among those of bin 0": played(
            "points of bin 1 before the end of those before it",
            then(
                lambda peer: peer.say("cheat", peer.stream(peer.own_stream, peer.points_of(0))[:-1]),
                points_of(1),
            ),
        ),
        "a bin that does not exist": played(
            "about bin 4, attempt 0, out of turn", then(points_of(0), lambda peer: peer.say("cheat", [points(1, 4)]))
        ),
        "points of a bin that is through": played("about bin 0, attempt 0, out of turn", then(plays(0), points_of(0))),
        "Restart of a bin that has not begun": played(
            "it begins bin 2 again, out of order", then(points_of(0), says(Restart(0, 2, 1)))
        ),
        "Restart of a bin that does not exist": played(
            "it begins bin 4 again, out of order", then(points_of(0), says(Restart(0, 4, 1)))
        ),
    }.items()
}
RECEIVED: dict[str, Cheat] = {
    "Received of a bin that has not begun": played(
        "about bin 2, attempt 0, out of turn", then(points_of(0), says(Received(0, 2, 0))), **FOUR_BINS
    ),
    "Received of a bin under way": played(
        "it has received bin 1, which was not sent", then(points_of(0), says(Received(0, 1, 0))), **FOUR_BINS
    ),
    "Received of a bin twice": played(
        "about bin 0, attempt 0, out of turn", then(plays(0), says(Received(0, 0, 0))), **FOUR_BINS
    ),
    "points of bin 2 after Received of bin 1 alone": played(
        "about bin 2, attempt 0, out of turn",
        then(
            points_of(0, 1),
            lambda peer: peer.await_end(0, Stream.TOKENS),
            lambda peer: peer.await_end(1, Stream.TOKENS),
            says(Received(0, 1, 0)),
            points_of(2),
        ),
        **FOUR_BINS,
    ),
    "Received with the digest too early": Cheat(
        "it ends the task too early",
        at={"received": lambda peer, due: [replace(due[0], digest=peer.digest())]},
        **FOUR_BINS,
    ),
}
BITMAPS: dict[str, Cheat] = {
    "bitmaps in another order": played(
        "a bitmap of bin 1 out of order", then(plays(0, 1), lambda peer: peer.say_bitmap(1)), **TWO_BINS
    ),
    "a bitmap twice": played(
        "a bitmap of bin 0 out of order",
        then(plays(0, 1), lambda peer: peer.say_bitmap(0), lambda peer: peer.say_bitmap(0)),
        **TWO_BINS,
    ),
    "a bitmap before the last bin is through": played(
        "about bin 0, attempt 0, out of turn", then(plays(0), lambda peer: peer.say_bitmap(0)), **TWO_BINS
    ),
    # A twelfth of our points are padding, and 300 bits say that they match.
    "a bitmap that marks padding": Cheat(
        "the bitmap marks padding, which matches nothing",
        bitmap=lambda packed: first_bits(150, len(packed)),
        **TWO_BINS,
    ),
    "a bitmap that marks too many": Cheat(
        "marks more items than the smaller list holds", bitmap=lambda packed: first_bits(151, len(packed)), **TWO_BINS
    ),
    "Restart between bitmaps": played(
        "it begins bin 1 again, out of order",
        then(plays(0, 1), lambda peer: peer.say_bitmap(0), says(Restart(0, 1, 1))),
        **TWO_BINS,
    ),
}


def first_bits(count: int, octets: int) -> bytes:
    return ((1 << count) - 1).to_bytes(octets, "little")


# Bins that begin again ---------------------------------------------------------------------------------------------


def again(peer: HostilePeer, number: int = 0) -> None:
    """Begin a bin again, and play it once our side has agreed."""
    peer.say("restart", [Restart(0, number, 1)])
    assert peer.hear(Restart) == Restart(0, number, 1)
    peer.play_bin(number, 1)


def some(messages: Callable[[HostilePeer], list[Message]], count: int) -> Play:
    """Say the first of these messages."""
    return lambda peer: peer.say("some", messages(peer)[:count])


def points_due(peer: HostilePeer) -> list[Message]:
    return peer.stream(peer.own_stream, peer.points_of(0))


def tokens_due(peer: HostilePeer) -> list[Message]:
    return peer.stream(Stream.TOKENS, peer.made_tokens(peer.their_points()))


def ends_right(*steps: Callable[[HostilePeer], object], **how: Any) -> Cheat:
    """What our side puts up with: the run ends with the right result."""
    return Cheat("", 0, None, play=then(*steps, HostilePeer.conclude), **how)


def without_waiting(peer: HostilePeer) -> None:
    peer.say("restart", [Restart(0, 0, 1)])
    peer.play_bin(0, 1)


def second_bin_first(peer: HostilePeer) -> None:
    """The second of two bins begins again while the first one is under way."""
    for number in (0, 1):
        peer.say_points(number)
    peer.say("restart", [Restart(0, 1, 1)])
    assert peer.hear(Restart) == Restart(0, 1, 1)
    if peer.setting.receives:
        peer.await_end(0, Stream.TOKENS)
        peer.say_received(0)
    else:
        peer.say_tokens(0)
        peer.hear_received(0)
    peer.play_bin(1, 1)


OUT_OF_ORDER = "it begins bin 0 again, out of order"
RESTARTS: dict[str, Cheat] = {
    "Restart before any points": ends_right(again),
    "Restart after a frame": ends_right(some(points_due, 1), again),
    "Restart before the end of the points": ends_right(some(points_due, 2), again),
    "Restart after the points": ends_right(points_of(0), again),
    "Restart after the points of both": ends_right(points_of(0), HostilePeer.their_points, again),
    "Restart that does not wait": ends_right(points_of(0), without_waiting),
    "Restart of the second bin": ends_right(second_bin_first, **TWO_BINS),
    "Restart as the attempt there is": played(OUT_OF_ORDER, then(points_of(0), says(Restart(0, 0, 0)))),
    "Restart as attempt 2": played(OUT_OF_ORDER, then(points_of(0), says(Restart(0, 0, 2)))),
    "Restart as the highest attempt": played(OUT_OF_ORDER, then(says(Restart(0, 0, 2**32 - 1)))),
    "Restart twice": played(OUT_OF_ORDER, then(says(Restart(0, 0, 1), Restart(0, 0, 1)))),
    "Restart again": played(
        OUT_OF_ORDER,
        then(
            says(Restart(0, 0, 1)),
            lambda peer: peer.say_points(0, 1),
            lambda peer: peer.their_points(0, 1),
            says(Restart(0, 0, 2)),
        ),
    ),
    "Restart for ever": played(OUT_OF_ORDER, then(says(*(Restart(0, 0, attempt) for attempt in range(1, 1000))))),
    "Restart of the highest bin": played(
        "it begins bin 4294967295 again, out of order", then(says(Restart(0, 2**32 - 1, 1)))
    ),
    "Restart of a task that does not exist": played("task number 1, which is not", then(says(Restart(1, 0, 1)))),
    "Restart, and the old attempt": played(
        "about bin 0, attempt 0, out of turn", then(says(Restart(0, 0, 1)), points_of(0))
    ),
}
RESTARTS_OF_SENDER: dict[str, Cheat] = {
    "Restart among the tokens": ends_right(points_of(0), some(tokens_due, 1), again),
    "Restart before the end of the tokens": ends_right(points_of(0), some(tokens_due, 2), again),
    "Restart of a bin that was received": played(OUT_OF_ORDER, then(plays(0), says(Restart(0, 0, 1))), **TWO_BINS),
}
RESTARTS_OF_RECEIVER: dict[str, Cheat] = {
    "Restart before Received": ends_right(points_of(0), lambda peer: peer.await_end(0, Stream.TOKENS), again),
    "Restart of a bin that was received": ends_right(plays(0), again, plays(1), **TWO_BINS),
    "Restart of a bin that was received, and again": played(
        OUT_OF_ORDER, then(plays(0), again, says(Restart(0, 0, 2))), **TWO_BINS
    ),
}
RESTARTS_OF_RESULT: dict[str, Cheat] = {
    "Restart before the bitmap": ends_right(plays(0), again),
    "Restart of the last bin before the bitmaps": ends_right(plays(0, 1), lambda peer: again(peer, 1), **TWO_BINS),
    "Restart before the bitmap, twice": played(OUT_OF_ORDER, then(plays(0), again, says(Restart(0, 0, 2)))),
}

# What a peer offers to continue from -------------------------------------------------------------------------------

PARTITION = bytes(range(32))
# An offer that fits, if our side had one to go with it.
FITS = Kept(PARTITION, 1064, 1050, 1, 1)
OFFERS: dict[str, Cheat] = {
    "an Offer of three bins": Cheat("continue a task of 3 bins", kept=replace(FITS, bins=3)),
    "an Offer of no bins": Cheat("continue a task of 0 bins", kept=replace(FITS, bins=0, finished=0)),
    "an Offer of bins without items": Cheat("continue a task of 1 bins", kept=replace(FITS, own_count=0)),
    "an Offer of bins without items of ours": Cheat("continue a task of 1 bins", kept=replace(FITS, peer_count=0)),
    "an Offer of too many bins": Cheat(
        f"continue a task of {2 * MAX_BINS} bins", kept=replace(FITS, bins=2 * MAX_BINS)
    ),
    "an Offer of a bin too many": Cheat("bins that the task does not have", kept=replace(FITS, finished=2)),
    "an Offer of spare bits": Cheat("bins that the task does not have", kept=replace(FITS, bins=4, finished=0x80)),
    "an Offer of a task that is done but for its bins": Cheat(
        "a task as done whose bins are not", kept=replace(FITS, finished=0, complete=True)
    ),
    "an Offer of a short id": Cheat("a field of 31 bytes where 32 were due", kept=replace(FITS, partition_sid=SHORT)),
    "an Offer of a task that never was": Cheat("", 0, None, kept=FITS),
    "an Offer of a task that never was, as done": Cheat("", 0, None, kept=replace(FITS, complete=True)),
}
HELLOS: dict[str, Cheat] = {
    "our own name": Cheat(
        "it introduced itself as", hello=lambda peer, hello: replace(hello, party=peer.setting.victim)
    ),
    "a third party": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, party="carol")),
    "another version": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, protocol_version=3)),
    "the version before": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, protocol_version=1)),
    "bins that are too small": Cheat(
        r"disagree:\n.*\n +items a bin, at least 16384 +1048576 +8192",
        78,
        78,
        hello=lambda peer, hello: replace(hello, bin_items=8192),
    ),
    "bins of an item": Cheat(
        "(?m)items a bin, at least 16384 +1048576 +1$", 78, 78, hello=lambda peer, hello: replace(hello, bin_items=1)
    ),
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
    **{
        f"frames of {items}": Cheat(
            "a Hello with an impossible frame size",
            hello=lambda peer, hello, items=items: replace(hello, frame_items=items),
        )
        for items in (0, 9, 512, 1016, 1025, 2**20)
    },
    **{
        f"bins of {items}": Cheat(
            "a Hello with an impossible bin size",
            hello=lambda peer, hello, items=items: replace(hello, bin_items=items),
        )
        for items in (0, 16_383, 20_000, 3 << 20)
    },
    "a Hello that is none": Cheat("a Hello that cannot be read", hello=lambda peer, hello: b"\xff\xff"),
    "a Hello of a million tasks": Cheat(
        # Field 7, of no length: a task without a name.
        "more than 10000 tasks",
        hello=lambda peer, hello: encode_hello(hello) + b"\x3a\x00" * 1_000_000,
    ),
    "a short nonce": Cheat("a field of 8 bytes where 32", hello=lambda peer, hello: replace(hello, nonce=bytes(8))),
    "no Hello": at("hello", "did not answer with a Hello", instead(Working())),
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
            cheat.setting(receives=role == RECEIVER, broadcast=broadcast, listens=listens),
        )
        for (name, cheat), role, broadcast, listens in itertools.product(cheats.items(), roles, modes, ends)
    ]


ALL: list[Case] = [
    *cases(POINTS),
    *cases(STREAMS),
    *cases(OPENING),
    *cases(TOKENS, (SENDER,)),
    *cases(AFTER_TOKENS, (SENDER,), BROADCAST),
    *cases(CONFIRMING, (SENDER,), ONE_SIDED),
    *cases(BITMAP, (RECEIVER,), BROADCAST),
    *cases(ONE_SIDED_SENDER, (RECEIVER,), ONE_SIDED),
    *cases(TOO_LATE),
    *cases(BINS),
    *cases(RECEIVED, (RECEIVER,)),
    *cases(BITMAPS, (RECEIVER,), BROADCAST),
    *cases(RESTARTS),
    *cases(RESTARTS_OF_SENDER, (SENDER,)),
    *cases(RESTARTS_OF_RECEIVER, (RECEIVER,)),
    *cases(RESTARTS_OF_RESULT, (RECEIVER,), BROADCAST),
    *cases(OFFERS),
    *cases(HELLOS, BOTH, ONE_SIDED, (False, True)),
    *cases(ANSWERS, (SENDER,), ONE_SIDED, (True,)),
]


def check(cheat: Cheat, peer: HostilePeer, told: int | None, outcome: Outcome, seconds: float) -> None:
    """Check that our side ended as it should: its code and sentence, one word to the peer, nothing written."""
    assert outcome.code == cheat.code, outcome
    assert re.search(cheat.sentence, outcome.message), outcome
    assert told == cheat.told
    if cheat.code:
        assert not outcome.has_result or cheat.kept_output or "came during the commit" in outcome.message
    assert seconds < ENDS_WITHIN
    # Nothing that a peer sent is passed on to a terminal as it came.
    assert outcome.message.isascii()
    assert outcome.message.replace("\n", "").isprintable()
    assert len(outcome.message) < 5000
    # The word that the lists were good, or the result, never goes to a peer whose lists were not.
    if cheat in POINTS.values() or cheat in TOKENS.values():
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard}
        assert not kinds & {(Received, 0), (Frame, Stream.BITMAP), (Ready, 0), (End, Stream.TOKENS)}


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]


@pytest.mark.parametrize(
    "sizes", [{}, TWO_BINS, {"theirs": 0}, {"ours": 0}], ids=["one bin", "two bins", "0", "no peer"]
)
@pytest.mark.parametrize("listens", [False, True], ids=["dialling", "listening"])
@pytest.mark.parametrize("broadcast", MODES, ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_without_a_cheat_the_same_peer_is_fine(
    port: int, receives: bool, broadcast: bool, listens: bool, sizes: dict[str, int]
) -> None:
    """What all tests below stand on."""
    setting = replace(HONEST, **sizes).setting(receives=receives, broadcast=broadcast, listens=listens)
    victim = SessionVictim(port, setting)
    _, told, outcome, _ = meet(victim, port, setting, HONEST)
    assert (told, outcome.code) == (None, 0), outcome
    check_result(victim, setting)


def check_result(victim: SessionVictim, setting: Setting) -> None:
    """Check that our side has the right result, if it is to have any."""
    assert victim.found == (setting.result if setting.victim_learns else None)


@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_a_cheat(port: int, cheat: Cheat, setting: Setting) -> None:
    victim = SessionVictim(port, setting)
    check(cheat, *meet(victim, port, setting, cheat))
    if not cheat.code or cheat.kept_output:
        check_result(victim, setting)


# What would tell of a match, if anything did: the checks that come when all lists are there.
LATE = [*cases({name: POINTS[name] for name in ("a reflected point", "a point twice")}), *cases(TOKENS, (SENDER,))]


@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in LATE], ids=[case[0] for case in LATE])
def test_what_a_cheat_is_told_does_not_depend_on_a_match(port: int, cheat: Cheat, setting: Setting) -> None:
    seen = []
    for common in (setting.ours, 0):
        met = replace(setting, common=common)
        peer, told, outcome, _ = meet(SessionVictim(port, met), port, met, cheat)
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard}
        late = kinds & {(Received, 0), (End, Stream.TOKENS), (Ready, 0), (Commit, 0), (Done, 0)}
        seen.append((told, outcome.code, outcome.message, late))
    assert seen[0] == seen[1]


# What an earlier run has left ---------------------------------------------------------------------------------------


class WrongBin(NoCheckpoint):
    """What is kept of the first of two bins, wrong in every bit."""

    def __init__(self, resumption: Kept | None) -> None:
        self._resumption = resumption

    def begin(self, party: TaskParty) -> dict[int, bytes]:
        if self._resumption is None:
            return {}
        own, peer = (-(-each // 8) for each in party.capacities)
        return {0: b"\xff" * (own + peer * party.broadcast if party.receives else ORDER_SECRET_BYTES)}


class Leftover(Plan):
    """A task of which an earlier run has done the first of two bins.

    What it keeps of that bin is wrong, so that a run that continues from it where it must not does not end right.
    """

    resumption: Kept | None = None

    def find(self) -> Kept | None:
        return Kept(PARTITION, TWO_BINS["ours"], TWO_BINS["theirs"], 2, 0b01)

    def settled(self, party: TaskParty) -> None:
        self.resumption = party.resumption

    def prepare(self, partition_sid: bytes) -> Prepared:
        return replace(super().prepare(partition_sid), checkpoint=WrongBin(self.resumption))


TRUE = Kept(PARTITION, TWO_BINS["theirs"], TWO_BINS["ours"], 2, 0b01)


def met_again(port: int, setting: Setting, cheat: Cheat) -> tuple[Leftover, SessionVictim, Outcome, int | None]:
    """Let the peer meet a side that has something to continue from."""
    victim = SessionVictim(port, setting, plan=Leftover)
    _, told, outcome, _ = meet(victim, port, setting, cheat)
    assert isinstance(victim.plan, Leftover)
    return victim.plan, victim, outcome, told


def offering(kept: Kept | None, **how: Any) -> Cheat:
    return replace(HONEST, kept=kept, **TWO_BINS, **how)


# By the peer's role: our side's own offer stands against it.
FRESH: dict[str, tuple[Kept | None, tuple[str, ...], tuple[bool, ...]]] = {
    "nothing": (None, BOTH, ONE_SIDED),
    "another run": (replace(TRUE, partition_sid=bytes(32)), BOTH, ONE_SIDED),
    "an item more": (replace(TRUE, own_count=301), BOTH, ONE_SIDED),
    "an item less of ours": (replace(TRUE, peer_count=16_499), BOTH, ONE_SIDED),
    "items without end": (replace(TRUE, own_count=2**64 - 1, peer_count=2**64 - 1), BOTH, ONE_SIDED),
    "more bins": (replace(TRUE, bins=4), BOTH, ONE_SIDED),
    "one bin": (replace(TRUE, bins=1), BOTH, ONE_SIDED),
    "another bin": (replace(TRUE, finished=0b10), BOTH, ONE_SIDED),
    "no bin that it has answered": (replace(TRUE, finished=0), (SENDER,), ONE_SIDED),
    "a bin that was never answered": (replace(TRUE, finished=0b11), (RECEIVER,), MODES),
    "all of it": (replace(TRUE, finished=0b11, complete=True), (RECEIVER,), MODES),
    "all of a broadcast": (replace(TRUE, finished=0b11, complete=True), (SENDER,), BROADCAST),
}


@pytest.mark.parametrize(
    ("kept", "role", "broadcast"),
    [(kept, role, mode) for kept, roles, modes in FRESH.values() for role in roles for mode in modes],
    ids=[
        f"{role}, {'broadcast' if mode else 'one-sided'}: {name}"
        for name, (_, roles, modes) in FRESH.items()
        for role in roles
        for mode in modes
    ],
)
def test_a_lying_offer_is_a_fresh_start(port: int, kept: Kept | None, role: str, broadcast: bool) -> None:
    setting = offering(kept).setting(receives=role == RECEIVER, broadcast=broadcast)
    plan, victim, outcome, told = met_again(port, setting, offering(kept))
    assert (told, outcome.code, plan.resumption) == (None, 0, None), outcome
    check_result(victim, setting)


@pytest.mark.parametrize(
    ("kept", "role", "finished"),
    [
        (TRUE, SENDER, 0b01),
        (TRUE, RECEIVER, 0b01),
        # More than the receiver asks for, and less than the sender has answered: no more is left out.
        (replace(TRUE, finished=0b11), SENDER, 0b01),
        (replace(TRUE, finished=0b11, complete=True), SENDER, 0b01),
        (replace(TRUE, finished=0), RECEIVER, 0),
    ],
    ids=["true, sender", "true, receiver", "more, sender", "all, sender", "less, receiver"],
)
def test_an_offer_that_fits_leaves_out_what_the_receiver_has(port: int, kept: Kept, role: str, finished: int) -> None:
    """The tests of lies stand on it: our side does continue where it may."""
    cheat = offering(kept, finished=finished)
    setting = cheat.setting(receives=role == RECEIVER, broadcast=False)
    plan, victim, outcome, told = met_again(port, setting, cheat)
    assert (told, outcome.code) == (None, 0), outcome
    assert plan.resumption == Kept(PARTITION, TWO_BINS["ours"], TWO_BINS["theirs"], 2, finished)
    if setting.victim_learns:
        # All of the first bin, as it was kept, and what has really matched of the second.
        assert victim.found is not None
        assert setting.result < victim.found
        assert len(victim.found) > TWO_BINS["ours"] // 3


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
@pytest.mark.parametrize("count", [299, 0, 2**64 - 1])
def test_another_count_than_was_offered(port: int, receives: bool, count: int) -> None:
    cheat = offering(TRUE, finished=0b01)
    cheat = replace(cheat, code=76, told=76, at={"open": only(count=count)})
    setting = cheat.setting(receives=receives, broadcast=False)
    _, _, outcome, told = met_again(port, setting, cheat)
    assert (told, outcome.code, outcome.has_result) == (76, 76, False)
    assert "it opens a task with another count than it offered to continue with" in outcome.message


# The same against psicli run ---------------------------------------------------------------------------------------


def check_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    victim = ProcessVictim(pair, setting)
    check(cheat, *meet(victim, pair.port, setting, cheat))
    pair.nothing_left()
    assert victim.run is not None
    result = victim.run.result()
    if cheat.code:
        # A sentence and a hint, each once; what stands in a line of a table is no line of its own.
        assert sum(error.startswith("overlap: ") for error in result.errors) == 2
    else:
        assert result.errors == []
    if setting.victim_learns and (not cheat.code or cheat.kept_output):
        written = pair.path(setting.victim, "out/out.csv").read_text().split()
        assert written == ["id", *sorted(setting.result)]


# One of each kind, in every role, mode and direction.
SAMPLE: list[Case] = [
    *cases({"a reflected point": POINTS["a reflected point"]}, (RECEIVER,), BROADCAST, (True,)),
    *cases({"a point of low order 4": POINTS["a point of low order 4"]}, (RECEIVER,), ONE_SIDED),
    *cases({"a point twice": POINTS["a point twice"]}, (SENDER,), ONE_SIDED),
    *cases({"points of another session": STREAMS["points of another session"]}, (SENDER,), BROADCAST),
    *cases({"a message over the cap": STREAMS["a message over the cap"]}, BOTH, ONE_SIDED, (True, False))[1:3],
    *cases({"words without end": STREAMS["words without end"]}, (SENDER,), BROADCAST),
    *cases({"another probe": OPENING["another probe"]}, (SENDER,), ONE_SIDED, (True,)),
    *cases({"a token twice": TOKENS["a token twice"]}, (SENDER,), BROADCAST, (True,)),
    *cases({"pad bits": BITMAP["pad bits"]}, (RECEIVER,), BROADCAST),
    *cases({"frames after Bye": STREAMS["frames after Bye"]}, (RECEIVER,), BROADCAST, (True,)),
    *cases({"points of bin 2": BINS["points of bin 2 before Received"]}, (SENDER,), ONE_SIDED),
    *cases({"a bitmap of padding": BITMAPS["a bitmap that marks padding"]}, (RECEIVER,), BROADCAST),
    *cases({"Done of another digest": CONFIRMING["Done of another digest"]}, (SENDER,), ONE_SIDED),
    *cases({"Done, committed": AFTER_TOKENS["Done of another digest"]}, (SENDER,), BROADCAST),
    *cases({"Commit of another digest": BITMAP["Commit of another digest"]}, (RECEIVER,), BROADCAST),
    *cases({"Restart of a bin": RESTARTS["Restart of the second bin"]}, (SENDER,), ONE_SIDED, (True,)),
    *cases({"Restart for ever": RESTARTS["Restart for ever"]}, (RECEIVER,), BROADCAST),
    *cases({"too many bins": OPENING[f"an Open of {MAX_TOTAL_ITEMS} items"]}, (RECEIVER,), ONE_SIDED),
    *cases({"small bins": HELLOS["bins that are too small"]}, (SENDER,), ONE_SIDED, (True,)),
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


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def flooded(pair: Pair, state: Path, *, receives: bool, bins: int) -> None:
    """Let a peer declare ten million items and send honest bins of good points, so many of them, then garbage."""
    cheat = Cheat(
        "", hello=lambda peer, hello: replace(hello, frame_items=FULL, bin_items=2**20), theirs=10**7, ours=18
    )
    setting = cheat.setting(receives=receives, broadcast=not receives, listens=receives)
    pair.jobs[setting.victim]["pipeline"] = {"memory": LEAST_MEMORY}
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    victim = ProcessVictim(pair, setting)
    seen: list[float] = []

    def play(peer: HostilePeer) -> None:
        peer.open()
        # Made once: nobody compares the points of different bins.
        own = peer.masked((b"%d" % n for n in range(peer.capacities[0])), tag=curve.PADDING_TAG)
        for number in range(bins):
            peer.say("points", peer.stream(peer.own_stream, own, number))
            if receives:
                peer.await_end(number, Stream.TOKENS)
                peer.say("received", [Received(0, number, 0)])
            else:
                peer.say_tokens(number)
                peer.hear_received(number)
        assert victim.run is not None
        seen.extend((memory(victim.run), time.monotonic()))
        peer.say("garbage", [b"\xff"])

    _, told, outcome, _ = meet(victim, pair.port, setting, replace(cheat, play=play))
    assert (told, outcome.code, outcome.has_result) == (76, 76, False), outcome
    peak, stopping = seen
    assert "a message that cannot be read" in outcome.message
    assert time.monotonic() - stopping < ENDS_WITHIN
    assert peak < MOST_MEMORY
    # What was on disk is gone.
    assert {path.name for path in state.rglob("*")} == {"lock", "ledger.jsonl"}
    pair.nothing_left()


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_without_end(pair: Pair, state: Path, receives: bool) -> None:
    """Two of its bins are ten full frames."""
    flooded(pair, state, receives=receives, bins=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_sends_without_end_for_long(pair: Pair, state: Path, receives: bool) -> None:
    flooded(pair, state, receives=receives, bins=60)


@pytest.mark.parametrize("restarts", [False, True], ids=["hangs up", "restarts and hangs up"])
def test_a_receiver_that_asks_again_and_again(pair: Pair, state: Path, restarts: bool) -> None:
    """It forgets each answer, and gets two under one run of the ledger; a Restart's answer is one of them."""
    setting = replace(HONEST, **TWO_BINS).setting(receives=True, broadcast=False)
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    pair.jobs[setting.victim]["policy"] = {"max_runs_per_day": 1}
    victim = ProcessVictim(pair, setting)
    offered: list[bool] = []
    answers: list[int] = []

    def play(peer: HostilePeer) -> None:
        theirs = peer.hear(Offer).kept
        offered.append(theirs is not None)
        kept = theirs and Kept(theirs.partition_sid, theirs.peer_count, theirs.own_count, theirs.bins, 0)
        peer.say("offer", [Offer(0, kept)])
        peer.open_after(kept, 0 if kept else None)
        for attempt in (0, 1)[: 1 + restarts]:
            if attempt:
                peer.say("restart", [Restart(0, 0, attempt)])
            peer.say_points(0, attempt)
            peer.await_end(0, Stream.TOKENS, attempt)
            answers.append(attempt)
        peer.say("abort", [Abort(143)])

    cheat = replace(HONEST, code=69, play=play)
    codes = []
    for _ in range(2 if restarts else 3):
        _, told, outcome, _ = meet(victim, pair.port, setting, cheat)
        codes.append((told, outcome.code))
    assert codes == [(None, 69)] * (len(codes) - 1) + [(79, 79)]
    assert offered == ([False, False] if restarts else [False, True, False])
    assert answers == ([0, 1] if restarts else [0, 0])
    lines = [json.loads(line) for line in (state / "ledger.jsonl").read_text().splitlines()]
    noted = [line["bin"] for line in lines if line["event"] == "answer"]
    assert noted.count(0) == 2
    pair.nothing_left()


def test_a_peer_that_just_goes(port: int) -> None:
    """A list without its End is no short list."""

    def go(peer: HostilePeer, due: list[Message]) -> list[Out]:
        peer.wire.close()
        return []

    cheat = Cheat("went away before the session was complete", 69, None, at={"points": go})
    for setting in (
        cheat.setting(receives=True, broadcast=False, listens=True),
        cheat.setting(receives=False, broadcast=True),
    ):
        with free_ports(1) as ports:
            check(cheat, *meet(SessionVictim(ports[0], setting), ports[0], setting, cheat))


def test_the_stream_of_an_abort_ends_when_the_peer_has_heard_it(port: int) -> None:
    """A connection that is closed while the peer still writes takes the Abort with it."""
    setting = Setting(receives=True, broadcast=False, theirs=7, ours=7)
    with ExitStack() as stack:
        SessionVictim(port, setting).start()
        wire = dial(port, stack)
        peer = HostilePeer(wire, setting)
        peer.greet()
        peer.say("nonsense", [Commit(0, bytes(32))])
        with pytest.raises(Told):
            peer.hear(type(None))
        with pytest.raises(Empty):
            wire.receive(HEARING_TIMEOUT / 4)
        wire.close()
        assert wire.receive(HEARING_TIMEOUT / 4) is None


def test_a_listener_that_compresses(port: int) -> None:
    setting = HONEST.setting(receives=False, broadcast=False, listens=True)
    victim = SessionVictim(port, setting)
    _, told, outcome, _ = meet(victim, port, setting, HONEST, grpc.Compression.Gzip)
    assert (told, outcome.code) == (None, 76)
    assert "it compresses its messages" in outcome.message


def test_junk_for_a_hello_does_not_take_the_session(port: int) -> None:
    """Whoever says it is no peer yet: it gets no answer, and the peer itself gets its session."""
    setting = HONEST.setting(receives=True, broadcast=False)
    victim = SessionVictim(port, setting)
    victim.start()
    junk = (
        "frames of 0",
        "frames of 512",
        "bins of 0",
        "bins of 20000",
        "a Hello that is none",
        "a short nonce",
        "no Hello",
    )
    for cheat in (ANSWERS[name] for name in junk):
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
    setting = HONEST.setting(receives=False, broadcast=False)
    victim = SessionVictim(port, setting)
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
    setting = HONEST.setting(receives=False, broadcast=False)
    cheat = Cheat("", hello=lambda peer, hello: replace(hello, package_version=TERMINAL))
    victim = ProcessVictim(pair, setting)
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
