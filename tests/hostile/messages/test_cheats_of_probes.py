"""Attacks on `psicli check` while it measures the link: it ends with a row that says what happened, and never hangs."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.hostile.peer import Cheat, HostilePeer, Out, Setting
from support.hostile.victims import ProcessVictim
from support.hostile.wire import dial, listen
from support.processes.expectations import the_object
from support.processes.runner import Pair

from psicli.protocol.messages import Abort, Ask, Bye, Filler, Hello, Measured, Purpose, Working
from psicli.session.probe import MOST_OCTETS

SETTING = Setting(receives=True, broadcast=False, theirs=5, ours=5)


def checks(peer: HostilePeer, hello: Hello) -> Hello:
    return replace(hello, purpose=Purpose.CHECK, measures=True)


@dataclass
class Found:
    """How the check ended: the row of the link, the code of our Abort, and what the peer has heard."""

    code: int
    row: dict[str, Any]
    told: int | None
    heard: list[Any]


def checked(
    pair: Pair,
    play: Callable[[HostilePeer], None],
    *,
    listens: bool,
    hello: Callable[[HostilePeer, Hello], Hello | bytes] = checks,
) -> Found:
    """Run `psicli check` against a peer that plays this after the Hellos; listens: whether the peer does."""
    setting = replace(SETTING, listens=listens)
    party = ProcessVictim(pair, setting).party
    command = "check", "--config", pair.job_file(party), "--json"
    with ExitStack() as stack:
        wire = listen(pair.port, stack) if listens else None
        run = pair.start_command(*command)
        peer = HostilePeer(wire or dial(pair.port, stack), setting, Cheat("", hello=hello, play=play))
        told = peer.run()
        result = run.result()
    assert "Traceback" not in result.text, result.text
    rows = {row["name"]: row for row in the_object(result.stdout)["checks"]}
    assert rows["agreement"]["status"] == "ok", rows["agreement"]
    # Whatever the peer does, the rest of the check goes on.
    assert rows["estimate"]["status"] == "ok"
    pair.nothing_left()
    return Found(result.code, rows["link"], told, peer.heard)


def saying(*messages: Out) -> Callable[[HostilePeer], None]:
    def play(peer: HostilePeer) -> None:
        peer.say("probe", [*messages])  # type: ignore[list-item]

    return play


BREACHES = {
    "other data": (saying(Filler(b"x")), "it sent other data to measure the link than it was asked for"),
    "a heartbeat": (saying(Working()), "it sent Working while the link was measured"),
    "garbage": (saying(b"\xff" * 64), "a message that cannot be read"),
}


@pytest.mark.parametrize("listens", [False, True], ids=["dials", "listens"])
@pytest.mark.parametrize(("play", "sentence"), BREACHES.values(), ids=BREACHES)
@pytest.mark.more
def test_a_peer_that_breaks_the_rules(
    pair: Pair, play: Callable[[HostilePeer], None], sentence: str, listens: bool
) -> None:
    found = checked(pair, play, listens=listens)
    assert (found.code, found.told) == (76, 76)
    assert (found.row["status"], found.row["code"]) == ("fail", 76)
    assert re.search(sentence, found.row["message"]), found.row


@pytest.mark.more
def test_a_peer_that_asks_for_too_much(pair: Pair) -> None:
    """It gets 4 MiB, and then an Abort."""
    found = checked(pair, saying(*[Ask(MOST_OCTETS)] * 18), listens=False)
    assert (found.code, found.told, found.row["status"]) == (76, 76, "fail")
    assert "it asked for too much to measure the link" in found.row["message"]
    assert sum(len(message.data) for message in found.heard if isinstance(message, Filler)) <= 4 << 20


@pytest.mark.parametrize("listens", [False, True], ids=["dials", "listens"])
@pytest.mark.parametrize("last", [Bye(), Abort(130)], ids=["Bye", "Abort"])
@pytest.mark.more
def test_a_peer_that_stops(pair: Pair, last: Bye | Abort, listens: bool) -> None:
    """A run measures nothing, so this is no error."""

    def play(peer: HostilePeer) -> None:
        peer.say("probe", [last])
        peer.wire.close()

    found = checked(pair, play, listens=listens)
    assert (found.code, found.told, found.row["status"]) == (0, None, "warn")
    assert re.match("the link was not measured: (alice|bob) (disconnected|stopped) ", found.row["message"])


@pytest.mark.slow
def test_a_peer_that_says_nothing(pair: Pair) -> None:
    found = checked(pair, lambda peer: None, listens=True)
    assert (found.code, found.told, found.row["status"]) == (0, None, "warn")
    assert "measuring the link to alice was not over after 15 s" in found.row["message"]
    assert "--no-probe" in found.row["hint"]


UNASKED = {
    "an older version": lambda peer, hello: replace(hello, purpose=Purpose.CHECK),
    "a run": lambda peer, hello: replace(hello, measures=True),
}


@pytest.mark.parametrize("hello", UNASKED.values(), ids=UNASKED)
@pytest.mark.more
def test_nothing_is_measured_unless_both_only_check_and_want_to(
    pair: Pair, hello: Callable[[HostilePeer, Hello], Hello]
) -> None:
    def play(peer: HostilePeer) -> None:
        peer.say("bye", [Bye()])
        peer.wire.close()

    found = checked(pair, play, listens=True, hello=hello)
    assert (found.code, found.told, found.row["status"]) == (0, None, "ok")
    assert found.row["message"].startswith("the link was not measured: ")
    assert not any(isinstance(message, Ask | Filler | Measured) for message in found.heard)
