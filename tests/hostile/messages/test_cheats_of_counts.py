"""Attacks by a peer in a task whose receiver only counts; each ends as those in test_cheats.py do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.hostile.cases import check
from support.hostile.cheats import BOTH, after, at, end, resized
from support.hostile.peer import HONEST, Cheat, HostilePeer, Setting
from support.hostile.victims import SessionVictim, meet
from support.kernel.points import replaced
from support.memory.pair import records

from psicli.protocol.messages import End, Frame, Hello, Message, Received, Restart, Stream


def counting(cheat: Cheat, *, receives: bool, listens: bool = False) -> Setting:
    return replace(cheat.setting(receives=receives, broadcast=False, listens=listens), counts=True)


def tokens_first(peer: HostilePeer, due: list[Message]) -> list[Message]:
    """Answer our first frame at once, as in a task for rows."""
    first = peer.made_tokens(peer.their_first_points())
    return [Frame(0, 0, 0, Stream.TOKENS, 0, b"".join(first)), *due]


# By a peer that is the sender, whose tokens our side counts.
OF_SENDERS = {
    "tokens in answer to the first points": at(
        "points", "tokens of a task that only counts before the end of the points", tokens_first
    ),
    "tokens before points": at(
        "points",
        "tokens of a task that only counts before the end of the points",
        lambda peer, due: [Frame(0, 0, 0, Stream.TOKENS, 0, bytes(16_384)), *due],
    ),
    "a token twice": Cheat("it sent two equal tokens", tokens=lambda peer, made: replaced(made, 17, made[3])),
    "a token too many": at(
        "tokens",
        "more items in stream 3 than the 1050 that were due",
        lambda peer, due: [*due[:-1], Frame(0, 0, 0, Stream.TOKENS, 2, bytes(128))],
    ),
    "tokens one byte too short": at("tokens", "has 16383 bytes instead of", resized(0, -1)),
    "tokens that end early": at("tokens", "a wrong number of items in stream 3", lambda peer, due: [due[0], due[-1]]),
    "tokens of another digest": at("tokens", "the digest of stream 3 differs", end(digest=bytes(32))),
    "Restart after the first token": at(
        "tokens",
        "restarted bin 0 out of order",
        lambda peer, due: [due[0], Restart(0, 0, 1), *due[1:]],
    ),
    "a point twice": Cheat("it sent two points of the same item", points=lambda peer, own: replaced(own, 9, own[4])),
    "a bitmap": at("tokens", "stream 4 during", lambda peer, due: [Frame(0, 0, 0, Stream.BITMAP, 0, bytes(132)), *due]),
}
# By a peer that is the receiver, and wants more than a number.
OF_RECEIVERS = {
    "a point twice": Cheat("it sent two points of the same item", points=lambda peer, own: replaced(own, 9, own[4])),
    "Restart once the points have ended": at("points", "restarted bin 0 out of order", after(Restart(0, 0, 1))),
    "Received before the tokens": at("points", "confirmed bin 0 before it was complete", after(Received(0, 0, 0))),
    "points after their end": at(
        "points", "a frame after the end of stream 1", after(Frame(0, 0, 0, Stream.RECEIVER_POINTS, 2, bytes(1280)))
    ),
    "a wrong number of points": at(
        "points", "a wrong number of items in stream 1", lambda peer, due: [due[0], due[-1]]
    ),
}
CASES = [
    *((f"sender: {name}", cheat, counting(cheat, receives=False)) for name, cheat in OF_SENDERS.items()),
    *((f"receiver: {name}", cheat, counting(cheat, receives=True)) for name, cheat in OF_RECEIVERS.items()),
]


@pytest.mark.parametrize("listens", [False, True], ids=["dialling", "listening"])
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_without_a_cheat_the_same_peer_is_fine(port: int, receives: bool, listens: bool) -> None:
    setting = counting(HONEST, receives=receives, listens=listens)
    victim = SessionVictim(port, setting)
    peer, told, outcome, _ = meet(victim, port, setting, HONEST)
    assert (told, outcome.code) == (None, 0), outcome
    assert victim.plan.counted == (None if receives else len(setting.result))
    if receives:
        tokens = {*peer.made_tokens(peer.their_points())}
        assert len(tokens & {*records(peer.data[0, 0, Stream.TOKENS], 16)}) == len(setting.result)


@pytest.mark.sample(6)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_cheat(port: int, cheat: Cheat, setting: Setting) -> None:
    victim = SessionVictim(port, setting)
    peer, told, outcome, seconds = meet(victim, port, setting, cheat)
    check(cheat, peer, told, outcome, seconds)
    assert victim.plan.counted is None
    # Whatever a receiver tries, it gets no token before its list is complete and checked.
    if setting.receives:
        assert not [m for m in peer.heard if isinstance(m, Frame | End) and m.stream == Stream.TOKENS]


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_peer_that_knows_no_counts(port: int, receives: bool) -> None:
    """An older version sends neither the result nor a size: the two job files disagree, on both sides."""

    def older(peer: HostilePeer, hello: Hello) -> Hello:
        return replace(hello, tasks=(replace(hello.tasks[0], result=""),), count_items=0)

    cheat = Cheat(r"people: result +count +rows", 78, 78, hello=older)
    setting = counting(cheat, receives=receives)
    check(cheat, *meet(SessionVictim(port, setting), port, setting, cheat))


def test_a_peer_without_room_for_a_count(port: int) -> None:
    cheat = Cheat("items of a count", 78, 78, hello=lambda peer, hello: replace(hello, count_items=5))
    setting = counting(cheat, receives=True)
    check(cheat, *meet(SessionVictim(port, setting), port, setting, cheat))


@pytest.mark.parametrize("field", ["result", "protocol"])
def test_a_text_that_is_too_long(port: int, field: str) -> None:
    def long(peer: HostilePeer, hello: Hello) -> Hello:
        return replace(hello, tasks=(replace(hello.tasks[0], **{field: "c" * 65}),))

    cheat = Cheat("a result or a protocol of more than 64 bytes", hello=long)
    setting = counting(cheat, receives=True, listens=True)
    check(cheat, *meet(SessionVictim(port, setting), port, setting, cheat))


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
@pytest.mark.parametrize(("field", "row"), [("result", "rows +sum"), ("protocol", "ecdh +kkrt")])
def test_a_text_that_is_unknown(port: int, receives: bool, field: str, row: str) -> None:
    def unknown(peer: HostilePeer, hello: Hello) -> Hello:
        return replace(hello, tasks=(replace(hello.tasks[0], **{field: row.split("+")[1]}),))

    cheat = Cheat(f"people: {field} +{row}", 78, 78, hello=unknown)
    setting = cheat.setting(receives=receives, broadcast=False, listens=False)
    check(cheat, *meet(SessionVictim(port, setting), port, setting, cheat))
