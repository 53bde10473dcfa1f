"""Attacks by a peer: each ends with its exit code, one Abort to the peer and no output.

Every case runs against a session in this process over real gRPC. The slow tests run every case, and the fast tests some
of them, against a real `psicli run`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.hostile.cases import ALL, Case, cases, check, check_result, check_run
from support.hostile.cheats import (
    AFTER_TOKENS,
    ANSWERS,
    BITMAP,
    BOTH,
    BROADCAST,
    CONFIRMING,
    HELLOS,
    MODES,
    ONE_SIDED,
    OPENING,
    POINTS,
    RECEIVER,
    SENDER,
    STREAMS,
    TOKENS,
)
from support.hostile.cheats_of_bins import BINS, BITMAPS, RESTARTS, TWO_BINS
from support.hostile.peer import HONEST, Cheat, Setting
from support.hostile.victims import SessionVictim, meet
from support.kernel.points import as_octets, replaced
from support.memory.sessions import Plan
from support.processes.runner import Pair

from psicli.exchange.task_exchange import Prepared
from psicli.protocol.bins import MAX_TOTAL_ITEMS
from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Ready,
    Received,
    Stream,
)

# Against a session in this process ----------------------------------------------------------------------------------


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "sizes", [{}, TWO_BINS, {"theirs": 0}, {"ours": 0}], ids=["one bin", "two bins", "0", "no peer"]
)
@pytest.mark.parametrize("listens", [False, True], ids=["dialling", "listening"])
@pytest.mark.parametrize("broadcast", MODES, ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_without_a_cheat_the_same_peer_is_fine(
    port: int, receives: bool, broadcast: bool, listens: bool, sizes: dict[str, int]
) -> None:
    """All other tests here rely on this: the peer completes the run if it does not cheat."""
    setting = replace(HONEST, **sizes).setting(receives=receives, broadcast=broadcast, listens=listens)
    victim = SessionVictim(port, setting)
    _, told, outcome, _ = meet(victim, port, setting, HONEST)
    assert (told, outcome.code) == (None, 0), outcome
    check_result(victim, setting)


@pytest.mark.sample(20)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_a_cheat(port: int, cheat: Cheat, setting: Setting) -> None:
    victim = SessionVictim(port, setting)
    check(cheat, *meet(victim, port, setting, cheat))
    if not cheat.code or cheat.kept_output:
        check_result(victim, setting)


# These cheats are detected only when all lists are complete, where a reaction could depend on a match.
LATE = [*cases({name: POINTS[name] for name in ("a reflected point", "a point twice")}), *cases(TOKENS, (SENDER,))]


@pytest.mark.sample(7)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in LATE], ids=[case[0] for case in LATE])
def test_the_reaction_to_a_cheat_does_not_depend_on_a_match(port: int, cheat: Cheat, setting: Setting) -> None:
    seen = []
    for common in (setting.ours, 0):
        met = replace(setting, common=common)
        peer, told, outcome, _ = meet(SessionVictim(port, met), port, met, cheat)
        kinds = {(type(m), getattr(m, "stream", 0)) for m in peer.heard}
        late = kinds & {(Received, 0), (End, Stream.TOKENS), (Ready, 0), (Commit, 0), (Done, 0)}
        seen.append((told, outcome.code, outcome.message, late))
    assert seen[0] == seen[1]


class Strict(Plan):
    """A task of a party whose policy is strict."""

    def prepare(self, partition_sid: bytes) -> Prepared:
        return replace(super().prepare(partition_sid), strict=True)


@pytest.mark.parametrize("receives", [True, False], ids=BOTH)
def test_a_strict_party_finds_one_point_of_the_twist(port: int, receives: bool) -> None:
    """The others check 64 points of a full frame."""
    cheat = Cheat("not on the curve", points=lambda peer, own: replaced(own, 600, as_octets(2)))
    setting = cheat.setting(receives=receives, broadcast=False)
    check(cheat, *meet(SessionVictim(port, setting, plan=Strict), port, setting, cheat))


# Against psicli run -------------------------------------------------------------------------------------------------

# Cases of every kind, which together cover every role, mode and direction.
SAMPLE: list[Case] = [
    *cases({"a reflected point": POINTS["a reflected point"]}, (RECEIVER,), BROADCAST, (True,)),
    *cases({"a point of low order 4": POINTS["a point of low order 4"]}, (RECEIVER,), ONE_SIDED),
    *cases({"a point twice": POINTS["a point twice"]}, (SENDER,), ONE_SIDED),
    *cases({"points of another session": STREAMS["points of another session"]}, (SENDER,), BROADCAST),
    *cases({"a message over the limit": STREAMS["a message over the limit"]}, BOTH, ONE_SIDED, (True, False))[1:3],
    *cases({"a flood of heartbeats": STREAMS["a flood of heartbeats"]}, (SENDER,), BROADCAST),
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
    *cases({"endless Restarts": RESTARTS["endless Restarts"]}, (RECEIVER,), BROADCAST),
    *cases({"too many bins": OPENING[f"an Open of {MAX_TOTAL_ITEMS} items"]}, (RECEIVER,), ONE_SIDED),
    *cases({"small bins": HELLOS["bins that are too small"]}, (SENDER,), ONE_SIDED, (True,)),
    *cases({"text for a terminal": HELLOS["text for a terminal"]}, (SENDER,), ONE_SIDED),
    *cases({"our own nonce": ANSWERS["our own nonce"]}, (SENDER,), ONE_SIDED, (True,)),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in SAMPLE], ids=[case[0] for case in SAMPLE])
def test_a_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in ALL], ids=[case[0] for case in ALL])
def test_every_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)
