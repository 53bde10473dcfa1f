"""Cheats in a task by RR22: each is a change to an honest peer and the error that our side must report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from support.hostile.cases import Case, cases
from support.hostile.cheats import (
    AFTER_TOKENS,
    BITMAP,
    BOTH,
    BROADCAST,
    CONFIRMING,
    ONE_SIDED,
    ONE_SIDED_SENDER,
    RECEIVER,
    SENDER,
    after,
    at,
    before,
    end,
    frame,
    instead,
    resized,
)
from support.hostile.cheats_of_bins import BITMAPS, FOUR_BINS, TOO_LATE, TWO_BINS, ends_right, played, plays, says, then
from support.hostile.peer import Alter, Cheat, HostilePeer
from support.hostile.rr22.vector_peer import VectorPeer
from support.kernel.points import LOW_ORDER, P, as_octets, replaced

from psicli.protocol.messages import RR22, Commit, Done, End, Frame, Message, Offer, Ready, Received, Restart, Stream

# Messages that are never due in the exchange of a bin.
OTHERS = {"Ready": Ready(0), "Commit": Commit(0, bytes(32)), "Done": Done(0, bytes(32)), "Offer": Offer(0)}
# The streams of each role, and how many frames each has in a bin of a thousand items.
OWN = {
    RECEIVER: {Stream.CHOICES: 19, Stream.VECTOR: 2},
    SENDER: {Stream.KEYS: 1, Stream.SUMS: 6, Stream.TOKENS: 2},
}


def filled(stream: Stream, number: int = 0, attempt: int = 0, seq: int = 0) -> Frame:
    """Return a full frame of zeros that does not belong where it is sent."""
    return Frame(0, number, attempt, stream, seq, bytes(16 * 1024))


def every_stream(stream: Stream, frames: int) -> dict[str, Cheat]:
    """Return the cheats with any stream of the peer's."""
    name, last = stream.name.lower(), frames - 1
    digest = f"the digest of stream {stream} differs"
    made = {
        **{
            f"a frame of stream {other}": at(name, f"stream {other} (when|during)", frame(last, stream=other))
            for other in (0, 9, *{*Stream} - {stream})
        },
        **{
            f"all as stream {other}": at(name, f"stream {other} (when|during)", all_of(stream=other))
            for other in (1, 2)
        },
        "a block less": at(name, f"frame {last} of stream {stream} has .* bytes instead of", resized(last, -16)),
        "a byte less": at(name, "bytes instead of", resized(0, -1)),
        "a byte more": at(name, "bytes instead of", resized(last, 1)),
        "a block more": at(name, "bytes instead of", resized(last, 16)),
        "nothing in a frame": at(name, "has 0 bytes instead of", resized(last, -(1 << 20))),
        "another number": at(name, f"where frame {last} was due", frame(last, seq=frames)),
        "a frame twice": at(name, "frame 0 of stream .* where frame 1|more items", lambda peer, due: [due[0], *due]),
        "a frame of another bin": at(name, "about bin 1, attempt 0, out of turn", frame(last, bin=1)),
        "a frame of another attempt": at(name, "about bin 0, attempt 1, out of turn", frame(0, attempt=1)),
        "a frame of another task": at(name, "task 1, which is not running", frame(0, task=1)),
        "an early end": at(name, "a wrong number of items", lambda peer, due: [*due[:last], due[-1]]),
        "an item less": at(name, "a wrong number of items", counted(-1)),
        "an item more": at(name, "a wrong number of items", counted(1)),
        "another digest": at(name, digest, end(digest=bytes(32))),
        "other data than digested": at(
            name, digest, lambda peer, due: [*due[:last], replace(due[last], data=bytes(len(due[last].data))), due[-1]]
        ),
        "another bin's end": at(name, "about bin 1, attempt 0, out of turn", end(bin=1)),
        "another attempt's end": at(name, "about bin 0, attempt 1, out of turn", end(attempt=1)),
        "another stream's end": at(name, "stream [0-9] when", lambda peer, due: [*due[:-1], other_end(due[-1])]),
        "a frame more": at(
            name,
            "more items in stream . than|tokens.*had ended|wait for Received|stream . when",
            lambda peer, due: [*due[:-1], replace(due[last], seq=frames), due[-1]],
        ),
        "points": at(name, "stream [12] (when|during)", before(Frame(0, 0, 0, 1, 0, bytes(32 * 1024)))),
        "points of a sender": at(name, "stream [12] (when|during)", before(Frame(0, 0, 0, 2, 0, bytes(32 * 1024)))),
        **{f"{kind} instead": at(name, f"{kind} during", instead(message)) for kind, message in OTHERS.items()},
        "Received instead": at(
            name, "Received during|it confirmed bin 0 before it was complete", instead(Received(0, 0, 0))
        ),
    }
    if stream is not Stream.TOKENS:
        # After its tokens, the bin may be over already.
        made |= {
            "a frame after the end": at(name, f"stream {stream} when", lambda peer, due: [*due, due[0]]),
            "a second end": at(name, f"stream {stream} when", lambda peer, due: [*due, due[-1]]),
        }
    return {f"{name}: {what}": cheat for what, cheat in made.items()}


def all_of(**changes: int) -> Alter:
    return lambda peer, due: [replace(each, **changes) for each in due]


def counted(more: int) -> Alter:
    return lambda peer, due: [*due[:-1], replace(due[-1], count=due[-1].count + more)]  # type: ignore[attr-defined]


def other_end(message: Message) -> Message:
    assert isinstance(message, End)
    return replace(message, stream=Stream.KEYS if message.stream != Stream.KEYS else Stream.SUMS)


def point(number: int, octets: bytes) -> Cheat:
    return Cheat("an invalid point", points=lambda peer, own: replaced(own, number, octets))


BAD_POINTS = {
    **{f"of low order {number}": bytes.fromhex(each) for number, each in enumerate(LOW_ORDER)},
    **{
        f"not canonical, {name}": as_octets(u)
        for name, u in {"p + 9": P + 9, "p + 18": P + 18, "bit 255": 9 + 2**255, "all bits": 2**256 - 1}.items()
    },
    "of the twist": as_octets(2),
}
# The points of the base transfers: the receiver's key, and one of the sender's 512 or its last one.
KEY_OF_RECEIVER = {f"its key is {name}": point(0, octets) for name, octets in BAD_POINTS.items()}
KEYS_OF_SENDER = {
    f"key {number} is {name}": point(number, octets) for name, octets in BAD_POINTS.items() for number in (0, 511)
}


def soon(stream: Stream) -> Alter:
    """Send a stream right after another one of ours, and do not wait for the peer's turn."""

    def alter(peer: HostilePeer, due: list[Message]) -> Iterable[Message]:
        assert isinstance(peer, VectorPeer)
        return [*due, *peer.made_up(stream)]

    return alter


# In the wrong turn. Where a message follows the end of a stream, our side may have answered that already: then it takes
# the message for the one that is due, and refuses the one that really is, or takes all streams for ended.
TURNS_OF_RECEIVER = {
    "the vector before the sums": at("choices", "stream 8 when stream 7 was due", soon(Stream.VECTOR)),
    "the vector first": at("choices", "stream 8 when stream 6 was due", before(filled(Stream.VECTOR))),
    "the choices twice": at("vector", "stream 6 when stream 8 was due", before(filled(Stream.CHOICES))),
    "the vector twice": at(
        "vector", "stream 8 when (stream 3 was due|all streams had ended)", after(filled(Stream.VECTOR))
    ),
    "the keys, which are the sender's": at("choices", "stream 5 when stream 6 was due", before(filled(Stream.KEYS))),
    "Received before the tokens": at(
        "vector",
        "it confirmed bin 0 before it was complete|a different digest of the task|Received during the bitmaps",
        after(Received(0, 0, 0)),
    ),
    "Received before the vector ends": at(
        "vector",
        "it confirmed bin 0 before it was complete",
        lambda peer, due: [*due[:-1], Received(0, 0, 0), due[-1]],
    ),
}
TURNS_OF_SENDER = {
    "the sums before the choices": at("keys", "stream 7 when stream 6 was due", soon(Stream.SUMS)),
    "the tokens before the vector": at(
        "sums", "stream 3 when stream 8 was due|Frame during the (confirmation|writing of outputs)", soon(Stream.TOKENS)
    ),
    "the tokens first": at("keys", "stream 3 when stream 5 was due", before(filled(Stream.TOKENS))),
    "the sums twice": at("tokens", "stream 7 when stream 3 was due", before(filled(Stream.SUMS))),
    "the keys again": at("sums", "stream 5 when stream 7 was due", before(filled(Stream.KEYS))),
    "tokens after the tokens": at("tokens", "stream 3|after the end", lambda peer, due: [*due[:-1], due[0], due[-1]]),
    "a bitmap": at("tokens", "stream 4 (when|during)", before(Frame(0, 0, 0, 4, 0, bytes(128)))),
}
# After Received of a bin, or of the task.
BINS_OF_RECEIVER: dict[str, Cheat] = {
    name: replace(cheat, **FOUR_BINS)
    for name, cheat in {
        "a vector of a received bin": played(
            "about bin 0, attempt 0, out of turn", then(plays(0), says(filled(Stream.VECTOR)))
        ),
        "choices of a received bin": played(
            "about bin 0, attempt 0, out of turn", then(plays(0), says(filled(Stream.CHOICES)))
        ),
        "Received twice": played("about bin 0, attempt 0, out of turn", then(plays(0), says(Received(0, 0, 0)))),
        "Received of a bin that has not begun": played(
            "about bin 2, attempt 0, out of turn", then(says(Received(0, 2, 0)))
        ),
        "choices of bin 2": played("about bin 2, attempt 0, out of turn", then(says(filled(Stream.CHOICES, 2)))),
        "Restart of a bin that has not begun": played("it restarted bin 2 out of order", then(says(Restart(0, 2, 1)))),
    }.items()
}
BINS_OF_SENDER: dict[str, Cheat] = {
    name: replace(cheat, **FOUR_BINS)
    for name, cheat in {
        "sums of a received bin": played(
            "about bin 0, attempt 0, out of turn", then(plays(0), says(filled(Stream.SUMS)))
        ),
        "tokens of a received bin": played(
            "about bin 0, attempt 0, out of turn", then(plays(0), says(filled(Stream.TOKENS)))
        ),
        "keys of bin 3": played("about bin 3, attempt 0, out of turn", then(says(filled(Stream.KEYS, 3)))),
        "keys of a bin that does not exist": played(
            "about bin 4, attempt 0, out of turn", then(says(filled(Stream.KEYS, 4)))
        ),
    }.items()
}


def random_data(stream: Stream) -> Alter:
    """Replace a stream with random bytes under the right digest; only the key of the choices stays."""

    def alter(peer: HostilePeer, due: list[Message]) -> Iterable[Message]:
        assert isinstance(peer, VectorPeer)
        octets = b"".join(each.data for each in peer.made_up(stream) if isinstance(each, Frame))
        if stream is Stream.CHOICES:
            assert isinstance(due[0], Frame)
            octets = due[0].data[:32] + octets[32:]
        return peer.stream(stream, [octets])

    return alter


# Bins that start again ----------------------------------------------------------------------------------------------


def again(peer: HostilePeer, number: int = 0) -> None:
    """Start a bin again, and play it once our side has agreed."""
    peer.say("restart", [Restart(0, number, 1)])
    assert peer.hear(Restart) == Restart(0, number, 1)
    peer.play_bin(number, 1)


def first_frame(*streams: Stream) -> list[Message]:
    return [filled(stream) for stream in streams]


OUT_OF_ORDER = "it restarted bin 0 out of order"
RESTARTS: dict[str, Cheat] = {
    "Restart at once": ends_right(again),
    "Restart of the second bin": ends_right(plays(0), lambda peer: again(peer, 1), **TWO_BINS),
    "Restart as attempt 2": played(OUT_OF_ORDER, then(says(Restart(0, 0, 2)))),
    "Restart twice": played(OUT_OF_ORDER, then(says(Restart(0, 0, 1), Restart(0, 0, 1)))),
    "endless Restarts": played(OUT_OF_ORDER, then(says(*(Restart(0, 0, attempt) for attempt in range(1, 1000))))),
}
RESTARTS_OF_RECEIVER: dict[str, Cheat] = {
    "Restart among the choices": ends_right(
        lambda peer: peer.await_end(0, Stream.KEYS), says(*first_frame(Stream.CHOICES)), again
    ),
    "Restart of a bin that was received": ends_right(plays(0), again, plays(1), **TWO_BINS),
    "Restart, and the choices of the old attempt": played(
        "about bin 0, attempt 0, out of turn", then(says(Restart(0, 0, 1), filled(Stream.CHOICES)))
    ),
    "Restart of a bin that was received, and again": played(
        OUT_OF_ORDER, then(plays(0), again, says(Restart(0, 0, 2))), **TWO_BINS
    ),
}
RESTARTS_OF_SENDER: dict[str, Cheat] = {
    "Restart after the keys": ends_right(says(*first_frame(Stream.KEYS)), again),
    "Restart, and the keys of the old attempt": played(
        "about bin 0, attempt 0, out of turn", then(says(Restart(0, 0, 1), filled(Stream.KEYS)))
    ),
    "Restart of a bin that was received": played(OUT_OF_ORDER, then(plays(0), says(Restart(0, 0, 1))), **TWO_BINS),
}

# The other protocol ---------------------------------------------------------------------------------------------------

ECDH_AFTER_ALL = {
    "ecdh after all": played("stream [12] (when|during)", lambda peer: HostilePeer.play(as_points(peer))),
}


def as_points(peer: HostilePeer) -> HostilePeer:
    """Return a peer that goes on by ECDH, whatever it has agreed on."""
    points = object.__new__(HostilePeer)
    points.__dict__ = peer.__dict__
    return points


def as_vectors(peer: HostilePeer) -> VectorPeer:
    """Return a peer that goes on by RR22, whatever it has agreed on."""
    vectors = object.__new__(VectorPeer)
    vectors.__dict__ = peer.__dict__
    return vectors


RR22_AFTER_ALL = {
    f"rr22 after all, from its {stream.name.lower()}": played(
        f"stream {stream} during",
        then(lambda peer, stream=stream: peer.say("cheat", as_vectors(peer).made_up(stream))),  # type: ignore[misc]
    )
    for stream in (Stream.KEYS, Stream.CHOICES, Stream.SUMS, Stream.VECTOR)
}


def of_protocol(named: str, shown: str) -> Cheat:
    """Return a peer whose Hello names another protocol than our job file."""
    return Cheat(
        rf"people: protocol +rr22 +{shown}",
        78,
        78,
        hello=lambda peer, hello: replace(hello, tasks=(replace(hello.tasks[0], protocol=named),)),
    )


PROTOCOLS = {
    "ecdh in its Hello": of_protocol("", "ecdh"),
    "nonsense in its Hello": of_protocol("nonsense", "nonsense"),
    "text for a terminal in its Hello": of_protocol("\x1b]0;rr22\x07", r"\S*rr22"),
}

# What is computed of these messages is worthless, but nobody can see that: our side ends without a match, or with all.
USELESS: dict[str, Cheat] = {
    f"random {stream.name.lower()}": Cheat("", 0, None, at={stream.name.lower(): random_data(stream)})
    for stream in (Stream.SUMS, Stream.TOKENS, Stream.CHOICES, Stream.VECTOR)
}
EQUAL_TOKENS = Cheat("", 0, None, tokens=lambda peer, made: [made[0]] * len(made))

# From the tokens on, the cheats of a task by ECDH do here, too; those about the task and the session do not depend on
# the protocol.
VECTORS: list[Case] = [
    *(
        case
        for role, streams in OWN.items()
        for stream, frames in streams.items()
        for case in cases(every_stream(stream, frames), (role,), ONE_SIDED, protocol=RR22)
    ),
    *cases(KEY_OF_RECEIVER, (RECEIVER,), ONE_SIDED, protocol=RR22),
    *cases(KEYS_OF_SENDER, (SENDER,), ONE_SIDED, protocol=RR22),
    *cases(TURNS_OF_RECEIVER, (RECEIVER,), protocol=RR22),
    *cases(TURNS_OF_SENDER, (SENDER,), protocol=RR22),
    *cases(BINS_OF_RECEIVER, (RECEIVER,), ONE_SIDED, protocol=RR22),
    *cases(BINS_OF_SENDER, (SENDER,), ONE_SIDED, protocol=RR22),
    *cases(RESTARTS, protocol=RR22),
    *cases(RESTARTS_OF_RECEIVER, (RECEIVER,), protocol=RR22),
    *cases(RESTARTS_OF_SENDER, (SENDER,), protocol=RR22),
    *cases(AFTER_TOKENS, (SENDER,), BROADCAST, protocol=RR22),
    *cases(CONFIRMING, (SENDER,), ONE_SIDED, protocol=RR22),
    *cases(BITMAP, (RECEIVER,), BROADCAST, protocol=RR22),
    *cases(BITMAPS, (RECEIVER,), BROADCAST, protocol=RR22),
    *cases(ONE_SIDED_SENDER, (RECEIVER,), ONE_SIDED, protocol=RR22),
    *cases(TOO_LATE, BOTH, ONE_SIDED, protocol=RR22),
    *cases(ECDH_AFTER_ALL, protocol=RR22),
    *cases(RR22_AFTER_ALL, BOTH, ONE_SIDED),
    *cases(PROTOCOLS, BOTH, ONE_SIDED, (False, True), protocol=RR22),
]
# Cases of every kind, against a real run.
SAMPLE: list[Case] = [
    *cases({"a bad key": KEY_OF_RECEIVER["its key is of low order 3"]}, (RECEIVER,), ONE_SIDED, protocol=RR22),
    *cases({"tokens too early": TURNS_OF_SENDER["the tokens before the vector"]}, (SENDER,), protocol=RR22),
    *cases({"a vector too early": TURNS_OF_RECEIVER["the vector before the sums"]}, (RECEIVER,), protocol=RR22),
    *cases({"a bad key": KEYS_OF_SENDER["key 511 is of the twist"]}, (SENDER,), ONE_SIDED, (True,), protocol=RR22),
    *cases({"padding": BITMAPS["a bitmap that marks padding"]}, (RECEIVER,), BROADCAST, protocol=RR22),
    *cases({"a vector twice": BINS_OF_RECEIVER["a vector of a received bin"]}, (RECEIVER,), ONE_SIDED, protocol=RR22),
    *cases({"a restart": RESTARTS["Restart of the second bin"]}, (SENDER,), BROADCAST, protocol=RR22),
    *cases(ECDH_AFTER_ALL, BOTH, ONE_SIDED, (False,), protocol=RR22),
    *cases({"rr22 after all": RR22_AFTER_ALL["rr22 after all, from its keys"]}, (SENDER,), ONE_SIDED),
    *cases({"nonsense": PROTOCOLS["text for a terminal in its Hello"]}, (RECEIVER,), ONE_SIDED, protocol=RR22),
]
