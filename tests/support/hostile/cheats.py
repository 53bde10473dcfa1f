"""Cheats in a task of one bin: each is a change to an honest peer and the error that our side must report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from support.hostile.peer import HONEST, Cheat, HostilePeer, Out, Setting
from support.hostile.victims import SessionVictim, meet
from support.kernel.points import LOW_ORDER, SMALL_ORDER, P, add, as_octets, replaced
from support.processes.runner import free_ports

from psicli.protocol.bins import MAX_BINS, MAX_TOTAL_ITEMS
from psicli.protocol.messages import (
    Ask,
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
    Reconnect,
    Restart,
    Skip,
    Taken,
    Working,
)
from psicli.protocol.wire import MAX_MESSAGE_BYTES, encode, encode_hello

# Changes to an honest peer ------------------------------------------------------------------------------------------

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
    """Change only one frame of a stream."""
    return lambda peer, due: [replace(m, **changes) if i == number else m for i, m in enumerate(due)]


def resized(number: int, size: int) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Change the size of one frame by `size` bytes."""

    def alter(peer: HostilePeer, due: list[Message]) -> Iterable[Out]:
        each = due[number]
        assert isinstance(each, Frame)
        data = (each.data * 2)[: len(each.data) + size]
        return [*due[:number], replace(each, data=data), *due[number + 1 :]]

    return alter


def only(**changes: Any) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Change the only message of a stage."""
    return lambda peer, due: [replace(due[0], **changes)]


def end(**changes: Any) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    return lambda peer, due: [*due[:-1], replace(due[-1], **changes)]


def first_point(forged: bytes) -> Callable[[HostilePeer, list[bytes]], list[bytes]]:
    return lambda peer, own: replaced(own, 13, forged)


def of_another_session(stage: str) -> Callable[[HostilePeer, list[Message]], Iterable[Out]]:
    """Replay the messages of an earlier session, with its digests."""
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
    # The listener sends its Hello second, so only the listener can send our nonce back.
    assert peer.their_hello is not None
    return replace(hello, nonce=peer.their_hello.nonce)


TERMINAL = "\x1b]0;owned\x07\u202e\r\n ERROR all is well" + "x" * 5000
EVIL = replace(Setting(True, False).terms, name=TERMINAL)
SHORT = bytes(31)
POINTS: dict[str, Cheat] = {
    **{
        f"a point of low order {at_}": Cheat("invalid point", points=first_point(bytes.fromhex(point)))
        for at_, point in enumerate(LOW_ORDER)
    },
    **{
        f"a point not canonical {name}": Cheat("invalid point", points=a_point(u))
        for name, u in {
            "p + 1": P + 1,
            "p + 9": P + 9,
            "p + 18": P + 18,
            "bit 255": 9 + 2**255,
            "all bits": 2**256 - 1,
        }.items()
    },
    # Our side checks a sample of the points of a full frame, and all points of a frame of 40.
    "a point of the twist": Cheat(
        "a point that is not on the curve", points=lambda peer, own: replaced(own, 1024 + 5, as_octets(2))
    ),
    "half a frame of the twist": Cheat(
        "a point that is not on the curve", points=lambda peer, own: replaced(own, 0, *[as_octets(2)] * 512)
    ),
    "a reflected point": Cheat(
        "one of this party's own points back", points=lambda peer, own: replaced(own, 19, peer.their_first_points()[0])
    ),
    "all points reflected": Cheat(
        "one of this party's own points back", points=lambda peer, own: replaced(own, 0, *peer.their_first_points())
    ),
    "a point twice": Cheat("two points of the same item", points=lambda peer, own: replaced(own, 19, own[0])),
    **{
        f"a point plus one of {name}": Cheat(
            "two points of the same item", points=lambda peer, own, small=small: replaced(own, 17, add(own[2], small))
        )
        for name, small in SMALL_ORDER.items()
    },
}


def points(at_: int, number: int = 0, attempt: int = 0, seq: int = 0, items: int = 8) -> Frame:
    """Return a frame of zeros that does not belong where it is sent."""
    return Frame(0, number, attempt, at_, seq, bytes(32 * items))


STREAMS: dict[str, Cheat] = {
    "a frame too short": at("points", "has 32767 bytes instead of", resized(0, -1)),
    "the last frame too short": at("points", "has 1279 bytes instead of", resized(1, -1)),
    "a frame too long": at("points", "has 1312 bytes instead of", resized(1, 32)),
    "an empty frame": at("points", "has 0 bytes instead of", resized(1, -1280)),
    "a frame of another number": at("points", "frame 2 of stream . where frame 1 was due", frame(1, seq=2)),
    "a frame twice": at("points", "frame 0 of stream . where frame 1", lambda peer, due: [due[0], *due]),
    "a frame of the highest number": at("points", "where frame 0 was due", frame(0, seq=2**32 - 1)),
    "frames in another order": at("points", "frame 1 of stream . where", lambda peer, due: [due[1], due[0], *due[2:]]),
    "a frame left out": at("points", "frame 1 of stream . where frame 0", lambda peer, due: due[1:]),
    "a frame of another task": at("points", "a message for task 1, which is not running", frame(1, task=1)),
    "a frame of another bin": at("points", "a message about bin 1, attempt 0, out of turn", frame(1, bin=1)),
    "a frame of the highest bin": at("points", "about bin 4294967295, attempt 0, out of turn", frame(0, bin=2**32 - 1)),
    "a frame of another attempt": at("points", "a message about bin 0, attempt 1, out of turn", frame(1, attempt=1)),
    "an end of another bin": at("points", "a message about bin 1, attempt 0, out of turn", end(bin=1)),
    "an end of another attempt": at("points", "a message about bin 0, attempt 1, out of turn", end(attempt=1)),
    "a frame of our own stream": at(
        "points",
        "stream . during the exchange of points",
        lambda peer, due: [replace(due[0], stream=peer.their_stream)],
    ),
    "a frame of stream 0": at("points", "stream 0 during", frame(0, stream=0)),
    "a frame of stream 7": at("points", "stream 7 during", frame(0, stream=7)),
    "a frame of the bitmap": at("points", "stream 4 during", before(Frame(0, 0, 0, 4, 0, bytes(1)))),
    "a frame after the last": at(
        "points",
        "more items in stream . than the 1064 that were due",
        lambda peer, due: [*due[:-1], points(peer.own_stream, seq=2)],
    ),
    "a frame after the end": at("points", "a frame after the end", lambda peer, due: [*due, due[0]]),
    "a second end": at("points", "a second end", lambda peer, due: [*due, due[-1]]),
    "an early end": at("points", "a wrong number of items", lambda peer, due: [due[0], due[-1]]),
    "one item less": at("points", "a wrong number of items", end(count=1063)),
    "one item more": at("points", "a wrong number of items", end(count=1065)),
    "another digest": at("points", "the digest of stream . differs", end(digest=bytes(32))),
    "another point than digested": at(
        "points",
        "the digest of stream . differs",
        lambda peer, due: [replace(due[0], data=due[0].data[32:] + due[0].data[:32]), *due[1:]],
    ),
    "points of another session": at("points", "the digest of stream . differs", of_another_session("points")),
    "more messages confirmed than were sent": at("points", "an impossible number of messages", before(Taken(10**6))),
    "a flood of heartbeats": at("points", "it sends heartbeats too often", before(*[Working()] * 400)),
    "Ready instead of points": at("points", "Ready during the exchange", instead(Ready(0))),
    "Commit instead of points": at("points", "Commit during the exchange", instead(Commit(0, bytes(32)))),
    "Done instead of points": at("points", "Done during the exchange", instead(Done(0, bytes(32)))),
    "Offer instead of points": at("points", "Offer during the exchange", instead(Offer(0))),
    "Received instead of points": at(
        "points",
        "Received during the exchange|it confirmed bin 0 before it was complete",
        instead(Received(0, 0, 0)),
    ),
    "a second Hello": at("points", "a second Hello", lambda peer, due: [HelloOctets(peer.own_hello)]),
    "Reconnect": at("points", "Reconnect in the middle of a stream", instead(Reconnect(bytes(32), 1, 0))),
    "Ask": at("points", "Ask in the middle of a stream", instead(Ask(1 << 18))),
    "frames after Bye": at("points", "it sent a message after its last one", before(Bye())),
    "garbage": at("points", "a message that cannot be read", instead(b"\xff" * 64)),
    "an empty message": at("points", "of an unknown kind", instead(b"")),
    "an unknown field": at(
        "points", "with unknown or repeated fields", lambda peer, due: [encode(due[0]) + b"\x78\x01"]
    ),
    "a truncated message": at(
        "points", "cannot be read|unknown or repeated fields", lambda peer, due: [encode(due[0])[:-1]]
    ),
    "a message over the limit": at(
        "points",
        f"a message of more than {MAX_MESSAGE_BYTES:,} bytes",
        lambda peer, due: [encode(Frame(0, 0, 0, peer.own_stream, 0, bytes(MAX_MESSAGE_BYTES)))],
    ),
}
# A task that this side has not begun has no phase of its own yet.
NO_TASK = "a message for task 0, which is not running"
OPENING: dict[str, Cheat] = {
    "points before the Offer": at("offer", f"Frame during the offers|{NO_TASK}", before(points(1))),
    "points before Open": at("open", "Frame during the opening", before(points(1))),
    "an end before Open": at("open", "End during the opening", before(End(0, 0, 0, 1, 0, bytes(32)))),
    "Received before Open": at("open", "Received during the opening", before(Received(0, 0, 0))),
    "Restart before Open": at("open", "Restart during the opening", before(Restart(0, 0, 1))),
    "Open before the Offer": at("offer", f"Open during the offers|{NO_TASK}", before(Open(0, 1064, bytes(16)))),
    "a second Offer": at("offer", f"Offer during (the opening|our offer|our opening)|{NO_TASK}", after(Offer(0))),
    "a second Open": at("open", "Open during (the exchange|our opening)", lambda peer, due: [*due, *due]),
    "another count in a second Open": at(
        "open", "Open during (the exchange|our opening)", lambda peer, due: [*due, replace(due[0], count=1)]
    ),
    "an Offer of a task that does not exist": at(
        "offer", "a message for task 1, which is not running", before(Offer(1))
    ),
    "an Offer of the highest task": at("offer", "task 4294967295, which is not", after(Offer(2**32 - 1))),
    "an Open of a task that does not exist": at(
        "open", "a message for task 1, which is not running", before(Open(1, 5, bytes(16)))
    ),
    "points of a task that does not exist": at(
        "points", "a message for task 7, which is not running", before(replace(points(1), task=7))
    ),
    "another probe": at(
        "open", "the two programs turn the same item into different points", only(probe=bytes(16)), code=78, told=78
    ),
    "a probe that is too short": at("open", "a field of 15 bytes where 16 were due", only(probe=bytes(15))),
    **{
        f"an Open of {count} items": at(
            "open", "more than 17,592,186,044,416 distinct items", only(count=count), code=78, told=78
        )
        for count in (MAX_TOTAL_ITEMS + 1, 2**63, 2**64 - 1)
    },
    **{
        f"an Open of {count} items": at(
            "open",
            f"{count:,} distinct items need more than {MAX_BINS:,} bins of 16,384 items",
            only(count=count),
            code=78,
            told=78,
        )
        for count in (10**9, MAX_TOTAL_ITEMS)
    },
}
SKIPPED = Skip(0, 65)
SKIPS: dict[str, Cheat] = {
    "a Skip for a lost peer": at("offer", "it skipped a task with class 69", instead(Skip(0, 69))),
    "a Skip of the highest class": at("open", "it skipped a task with class 4294967295", instead(Skip(0, 2**32 - 1))),
    "an answer to no Skip": at("offer", "it skipped a task with class 0", instead(Skip(0))),
    "an answer to no Skip, for the Open": at("open", "it skipped a task with class 0", before(Skip(0))),
    "a Skip after the Open": at("open", "Skip during (the exchange|our opening)", after(SKIPPED)),
    "a Skip before points": at("points", "Skip during the exchange", before(SKIPPED)),
    "a Skip after points": at("points", "Skip during the exchange", after(SKIPPED)),
    "a Skip of a task that does not exist": at(
        "open", "a message for task 1, which is not running", before(Skip(1, 65))
    ),
    "a Skip of the highest task": at("offer", "task 4294967295, which is not", after(Skip(2**32 - 1, 65))),
    **{
        f"a Skip for the {stage}, {code}, to a party that does not go on": at(
            stage, f"could not take part in task people .exit code {code}: an", instead(Skip(0, code)), code=80, told=80
        )
        for stage, code in (("offer", 65), ("open", 66), ("offer", 73), ("open", 73))
    },
}
TOKENS: dict[str, Cheat] = {
    "a token twice": Cheat("it sent two equal tokens", tokens=lambda peer, made: replaced(made, 17, made[3])),
    "tokens before points": at(
        "points",
        "tokens of frame [0-9], which it has not received yet|instead of|differs|where frame",
        lambda peer, due: [Frame(0, 0, 0, 3, 5, bytes(128))],
    ),
    "tokens one byte too short": at("tokens", "has 16383 bytes instead of", resized(0, -1)),
    "a token too many": at(
        "tokens",
        "more items in stream 3 than the 1050 that were due",
        lambda peer, due: [*due[:-1], Frame(0, 0, 0, 3, 2, bytes(128))],
    ),
    "tokens that end early": at("tokens", "a wrong number of items in stream 3", lambda peer, due: [due[0], due[-1]]),
    "tokens of another session": at("tokens", "the digest of stream 3 differs", of_another_session("tokens")),
    "tokens of another digest": at("tokens", "the digest of stream 3 differs", end(digest=bytes(32))),
    "tokens in another order": at("tokens", "frame 1 of stream 3 where frame 0", lambda peer, due: due[::-1][1:]),
    "tokens of another bin": at("tokens", "a message about bin 1, attempt 0, out of turn", frame(0, bin=1)),
    "Received from a sender": at("tokens", "Received during the exchange", instead(Received(0, 0, 0))),
}
AFTER_TOKENS: dict[str, Cheat] = {
    # The second may come when all is committed, and then stays without effect on the output.
    "Ready twice": at("ready", "Ready during (the commit|the writing of our output)", after(Ready(0))),
    "Done instead of Ready": at("ready", "Done during", instead(Done(0, bytes(32)))),
    "points after the result": at("ready", "Frame during", instead(points(2, seq=3))),
    "Restart after the result": at("ready", "Restart during", instead(Restart(0, 0, 1))),
    # Our side has committed: its output is right, and in place.
    "Done of another digest": at(
        "done", "it computed a different digest of the task", only(digest=bytes(32)), kept_output=True
    ),
    "Done of another number of matches": at(
        "done",
        "it computed a different digest of the task",
        lambda peer, due: [Done(0, peer.digest(peer.told_matches + 1))],
        kept_output=True,
    ),
    "Ready instead of Done": at("done", "Ready during the commit", instead(Ready(0)), kept_output=True),
}
CONFIRMING: dict[str, Cheat] = {
    "Done of another digest": at("done", "it computed a different digest of the task", only(digest=bytes(32))),
    "Done of a broadcast's digest": at(
        "done", "it computed a different digest of the task", lambda peer, due: [Done(0, peer.digest(0))]
    ),
    "Ready instead of Done": at("done", "Ready during the confirmation", instead(Ready(0))),
    "points instead of Done": at("done", "Frame during the confirmation", instead(points(2))),
    "Restart instead of Done": at("done", "Restart during the confirmation", instead(Restart(0, 0, 1))),
    "Done twice before its time": at("tokens", "Done during the exchange", instead(Done(0, bytes(32)))),
}
BITMAP: dict[str, Cheat] = {
    "pad bits": Cheat("its bitmap has spare bits set", bitmap=lambda packed: packed[:-1] + bytes([packed[-1] | 0x80])),
    "a bitmap one byte too short": at("bitmap", "has 127 bytes instead of", resized(0, -1)),
    "a bitmap too long": at("bitmap", "has 129 bytes instead of", resized(0, 1)),
    "a bitmap of another digest": at("bitmap", "the digest of stream 4 differs", end(digest=bytes(32))),
    "a bitmap that ends early": at("bitmap", "number of items in stream 4", lambda peer, due: [due[0], due[-1]]),
    "a bitmap of another bin": at("bitmap", "a bitmap of bin 1 out of order", frame(0, bin=1)),
    "a bitmap of an attempt": at("bitmap", "a bitmap of bin 0 out of order", frame(0, attempt=1)),
    "a bitmap's end of another bin": at("bitmap", "a bitmap of bin 1 out of order", end(bin=1)),
    "points instead of the bitmap": at("bitmap", "stream 1 during the bitmaps", instead(points(1))),
    "a bitmap before Received": at(
        "received",
        "stream 4 (during the wait for Received|when all streams had ended)",
        instead(Frame(0, 0, 0, 4, 0, bytes(128))),
    ),
    "Received twice": at("received", "Received during the bitmaps", lambda peer, due: [*due, *due]),
    "Received with a digest": at(
        "received", "it ended the task too early", lambda peer, due: [replace(due[0], digest=peer.digest())]
    ),
    "Received instead of the bitmap": at("bitmap", "Received during the bitmaps", instead(Received(0, 0, 0))),
    "Commit before Ready": at("ready", "Commit during the writing", instead(Commit(0, bytes(32)))),
    "Ready of the receiver twice": at(
        "ready", "Ready during (the writing of our output|the wait for the commit)", after(Ready(0))
    ),
    "Ready before the bitmap": at("bitmap", "Ready during the bitmaps", instead(Ready(0))),
    "Commit of another digest": at("commit", "it computed a different digest of the task", only(digest=bytes(32))),
    "Commit of another number of matches": at(
        "commit",
        "it computed a different digest of the task",
        lambda peer, due: [Commit(0, peer.digest(peer.matches + 1))],
    ),
    "Commit of a one-sided task's digest": at(
        "commit", "it computed a different digest of the task", lambda peer, due: [Commit(0, peer.digest())]
    ),
    "Done instead of Commit": at("commit", "Done during the wait for the commit", instead(Done(0, bytes(32)))),
    "Restart within the bitmap": at(
        "bitmap", "it restarted bin 0 out of order", lambda peer, due: [due[0], Restart(0, 0, 1)]
    ),
    "Restart after the bitmap": at("bitmap", "Restart during the writing", after(Restart(0, 0, 1))),
}
ONE_SIDED_SENDER: dict[str, Cheat] = {
    "a bitmap nobody asked for": at(
        "received",
        "stream 4 (during the wait for Received|when all streams had ended)",
        instead(Frame(0, 0, 0, 4, 0, bytes(1))),
    ),
    "Ready instead of Received": at("received", "Ready during the exchange", instead(Ready(0))),
    "Commit instead of Received": at("received", "Commit during the exchange", instead(Commit(0, bytes(32)))),
    "Received without a digest": at("received", "it computed a different digest of the task", only(digest=b"")),
    "Received of another digest": at("received", "it computed a different digest of the task", only(digest=bytes(32))),
    "Received of a short digest": at("received", "a field of 31 bytes where 32 were due", only(digest=SHORT)),
    "Received of another bin": at("received", "a message about bin 1, attempt 0, out of turn", only(bin=1)),
    "Received of another attempt": at("received", "a message about bin 0, attempt 1, out of turn", only(attempt=1)),
}
# Offers, Hellos and answers -----------------------------------------------------------------------------------------

PARTITION = bytes(range(32))
# A valid offer, although our side has no checkpoint that matches it.
FITS = Kept(PARTITION, 1064, 1050, 1, 1)
OFFERS: dict[str, Cheat] = {
    "an Offer of three bins": Cheat("resume a task of 3 bins", kept=replace(FITS, bins=3)),
    "an Offer of no bins": Cheat("resume a task of 0 bins", kept=replace(FITS, bins=0, finished=0)),
    "an Offer of bins without items": Cheat("resume a task of 1 bin,", kept=replace(FITS, own_count=0)),
    "an Offer of bins without items of ours": Cheat("resume a task of 1 bin,", kept=replace(FITS, peer_count=0)),
    "an Offer of too many bins": Cheat(
        f"resume a task of {2 * MAX_BINS:,} bins", kept=replace(FITS, bins=2 * MAX_BINS)
    ),
    "an Offer of a bin too many": Cheat("bins that the task does not have", kept=replace(FITS, finished=2)),
    "an Offer of spare bits": Cheat("bins that the task does not have", kept=replace(FITS, bins=4, finished=0x80)),
    "an Offer of a task that is done but for its bins": Cheat(
        "a task as complete although its bins are not", kept=replace(FITS, finished=0, complete=True)
    ),
    "an Offer of a short id": Cheat("a field of 31 bytes where 32 were due", kept=replace(FITS, partition_sid=SHORT)),
    "an Offer of an unknown run": Cheat("", 0, None, kept=FITS),
    "an Offer of an unknown run, as done": Cheat("", 0, None, kept=replace(FITS, complete=True)),
}
HELLOS: dict[str, Cheat] = {
    "our own name": Cheat(
        "it introduced itself as", hello=lambda peer, hello: replace(hello, party=peer.setting.victim)
    ),
    "a third party": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, party="carol")),
    "another version": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, protocol_version=3)),
    "the version before": Cheat("disagree", 78, 78, hello=lambda peer, hello: replace(hello, protocol_version=1)),
    "bins that are too small": Cheat(
        r"disagree:\n.*\n.* +items per bin \(at least 16384\) +1048576 +8192",
        78,
        78,
        hello=lambda peer, hello: replace(hello, bin_items=8192),
    ),
    "bins of an item": Cheat(
        r"(?m)items per bin \(at least 16384\) +1048576 +1$",
        78,
        78,
        hello=lambda peer, hello: replace(hello, bin_items=1),
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
# Tasks of a group that no honest party sends, and what is wrong with them.
BAD_GROUPS = {
    "a task twice": ("m-1", "m-1"),
    "another order than that of their names": ("m-2", "m-1"),
    "in another order": ("m", "m-1"),
    "a name that it cannot have": ("m-\x1b[2J",),
    "with a name that it": ("n-1",),
}
# Cheats of a listening peer: our dialer has a stream and sends an Abort. From a dialer, our listener ignores them.
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
    "an unreadable Hello": Cheat("a Hello that cannot be read", hello=lambda peer, hello: b"\xff\xff"),
    "a Hello of a million tasks": Cheat(
        # An empty field 7 is a task without a name.
        "more than 10,000 tasks",
        hello=lambda peer, hello: encode_hello(hello) + b"\x3a\x00" * 1_000_000,
    ),
    **{
        f"files, {sentence}": Cheat(
            sentence,
            hello=lambda peer, hello, names=names: replace(
                hello, tasks=(*hello.tasks, *(replace(hello.tasks[0], name=name, group="m") for name in names))
            ),
        )
        for sentence, names in BAD_GROUPS.items()
    },
    "a short nonce": Cheat("a field of 8 bytes where 32", hello=lambda peer, hello: replace(hello, nonce=bytes(8))),
    "no Hello": at("hello", "did not answer with a Hello", instead(Working())),
    "garbage for a Hello": at("hello", "a message that cannot be read", instead(b"\xff" * 9)),
}
