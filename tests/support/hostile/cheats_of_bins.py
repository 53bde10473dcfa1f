"""Cheats in a task of several bins, and with bins that start again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from support.hostile.cheats import points
from support.hostile.peer import Cheat, HostilePeer

from psicli.protocol.messages import (
    Bye,
    Done,
    End,
    HelloOctets,
    Message,
    Offer,
    Open,
    Received,
    Reconnect,
    Restart,
    Stream,
    Working,
)

# Cheats with several bins -------------------------------------------------------------------------------------------

# These counts of ours make two bins and four bins; the peer's few items are padded to one frame per bin.
TWO_BINS: dict[str, Any] = {"theirs": 300, "ours": 16_500}
FOUR_BINS: dict[str, Any] = {"theirs": 100, "ours": 31_000}
Play = Callable[[HostilePeer], None]


def played(sentence: str, play: Play, **how: Any) -> Cheat:
    """Return a cheat whose peer follows this script from the Offers on instead of its role."""
    return Cheat(sentence, play=play, **how)


def then(*steps: Callable[[HostilePeer], object]) -> Play:
    """Return a script that opens the task and then takes these steps."""

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
        "points of bin 1 first": played("points of bin 1 before the end of an earlier", then(points_of(1, 0))),
        "points of bin 1 among those of bin 0": played(
            "points of bin 1 before the end of an earlier",
            then(
                lambda peer: peer.say("cheat", peer.stream(peer.own_stream, peer.points_of(0))[:-1]),
                points_of(1),
            ),
        ),
        "a bin that does not exist": played(
            "about bin 4, attempt 0, out of turn", then(points_of(0), lambda peer: peer.say("cheat", [points(1, 4)]))
        ),
        "points of a finished bin": played("about bin 0, attempt 0, out of turn", then(plays(0), points_of(0))),
        "Restart of a bin that has not begun": played(
            "it restarted bin 2 out of order", then(points_of(0), says(Restart(0, 2, 1)))
        ),
        "Restart of a bin that does not exist": played(
            "it restarted bin 4 out of order", then(points_of(0), says(Restart(0, 4, 1)))
        ),
    }.items()
}
RECEIVED: dict[str, Cheat] = {
    "Received of a bin that has not begun": played(
        "about bin 2, attempt 0, out of turn", then(points_of(0), says(Received(0, 2, 0))), **FOUR_BINS
    ),
    "Received of a bin under way": played(
        "it confirmed bin 1 before it was complete", then(points_of(0), says(Received(0, 1, 0))), **FOUR_BINS
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
        "it ended the task too early",
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
    "a bitmap before the last bin is finished": played(
        "about bin 0, attempt 0, out of turn", then(plays(0), lambda peer: peer.say_bitmap(0)), **TWO_BINS
    ),
    # A twelfth of our points are padding, so some of these 300 bits mark padding.
    "a bitmap that marks padding": Cheat(
        "its bitmap marks padding as matched",
        bitmap=lambda packed: first_bits(150, len(packed)),
        **TWO_BINS,
    ),
    "a bitmap that marks too many": Cheat(
        "marks more items than the smaller list holds", bitmap=lambda packed: first_bits(151, len(packed)), **TWO_BINS
    ),
    "Restart between bitmaps": played(
        "it restarted bin 1 out of order",
        then(plays(0, 1), lambda peer: peer.say_bitmap(0), says(Restart(0, 1, 1))),
        **TWO_BINS,
    ),
}


def first_bits(count: int, octets: int) -> bytes:
    return ((1 << count) - 1).to_bytes(octets, "little")


# Bins that start again ----------------------------------------------------------------------------------------------


def again(peer: HostilePeer, number: int = 0) -> None:
    """Start a bin again, and play it once our side has agreed."""
    peer.say("restart", [Restart(0, number, 1)])
    assert peer.hear(Restart) == Restart(0, number, 1)
    peer.play_bin(number, 1)


def some(messages: Callable[[HostilePeer], list[Message]], count: int) -> Play:
    """Return a script that sends the first `count` of these messages."""
    return lambda peer: peer.say("some", messages(peer)[:count])


def points_due(peer: HostilePeer) -> list[Message]:
    return peer.stream(peer.own_stream, peer.points_of(0))


def tokens_due(peer: HostilePeer) -> list[Message]:
    return peer.stream(Stream.TOKENS, peer.made_tokens(peer.their_points()))


def ends_right(*steps: Callable[[HostilePeer], object], **how: Any) -> Cheat:
    """Return a cheat that our side tolerates: the run ends with the correct result."""
    return Cheat("", 0, None, play=then(*steps, HostilePeer.conclude), **how)


def without_waiting(peer: HostilePeer) -> None:
    peer.say("restart", [Restart(0, 0, 1)])
    peer.play_bin(0, 1)


def second_bin_first(peer: HostilePeer) -> None:
    """Start the second of two bins again while the first one is under way."""
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


OUT_OF_ORDER = "it restarted bin 0 out of order"
RESTARTS: dict[str, Cheat] = {
    "Restart before any points": ends_right(again),
    "Restart after a frame": ends_right(some(points_due, 1), again),
    "Restart before the end of the points": ends_right(some(points_due, 2), again),
    "Restart after the points": ends_right(points_of(0), again),
    "Restart after the points of both": ends_right(points_of(0), HostilePeer.their_points, again),
    "Restart that does not wait": ends_right(points_of(0), without_waiting),
    "Restart of the second bin": ends_right(second_bin_first, **TWO_BINS),
    "Restart as the current attempt": played(OUT_OF_ORDER, then(points_of(0), says(Restart(0, 0, 0)))),
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
    "endless Restarts": played(OUT_OF_ORDER, then(says(*(Restart(0, 0, attempt) for attempt in range(1, 1000))))),
    "Restart of the highest bin": played(
        "it restarted bin 4294967295 out of order", then(says(Restart(0, 2**32 - 1, 1)))
    ),
    "Restart of a task that does not exist": played("task 1, which is not", then(says(Restart(1, 0, 1)))),
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

# After the last task ------------------------------------------------------------------------------------------------

LATE: dict[str, list[Message]] = {
    "points": [points(1)],
    "an End": [End(0, 0, 0, 1, 0, bytes(32))],
    "Received again": [Received(0, 0, 0)],
    "Restart": [Restart(0, 0, 1)],
    "Offer of the task": [Offer(0)],
    "Offer of a task that does not exist": [Offer(1)],
    "Open of a task that does not exist": [Open(1, 5, bytes(16))],
    "Done again": [Done(0, bytes(32))],
    "Reconnect": [Reconnect(bytes(32), 1, 0)],
    "a Hello": [HelloOctets(b"")],
    "points before Bye": [points(1), Bye()],
    "points after Bye": [Bye(), points(1)],
    "a heartbeat after Bye": [Bye(), Working()],
    "Bye twice": [Bye(), Bye()],
}


def too_late(messages: list[Message]) -> Cheat:
    """Return a cheat that sends messages when the peer has sent and heard everything, or right after its last one."""

    def last(peer: HostilePeer, due: list[Message]) -> list[Message]:
        return [*due, *messages] if peer.setting.listens and peer.setting.receives else due

    def play(peer: HostilePeer) -> None:
        peer.play()
        if not (peer.setting.listens and peer.setting.receives):
            peer.say("late", messages)

    def received(peer: HostilePeer, due: list[Message]) -> list[Message]:
        return due if peer.setting.broadcast else last(peer, due)

    sentence = "after the end of the last task|a message after its last one"
    return Cheat(sentence, play=play, at={"received": received, "commit": last}, kept_output=True)


# A dialer ends the stream soon after its last message, so a listener that waits for that message comes too late.
TOO_LATE = {f"after the last task: {name}": too_late(messages) for name, messages in LATE.items()}
