"""Attacks by a peer in a task by RR22; each ends as those in test_cheats.py do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.hostile.cases import check, check_result, check_run
from support.hostile.cheats import BOTH, MODES
from support.hostile.cheats_of_bins import TWO_BINS
from support.hostile.peer import HONEST, Cheat, Setting
from support.hostile.rr22.vector_cheats import EQUAL_TOKENS, SAMPLE, USELESS, VECTORS
from support.hostile.victims import SessionVictim, meet
from support.processes.runner import Pair

from psicli.protocol.messages import RR22, Frame, Stream


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
    setting = replace(HONEST, **sizes).setting(receives=receives, broadcast=broadcast, listens=listens)
    setting = replace(setting, protocol=RR22)
    victim = SessionVictim(port, setting)
    peer, told, outcome, _ = meet(victim, port, setting, HONEST)
    assert (told, outcome.code) == (None, 0), outcome
    check_result(victim, setting)
    assert any(isinstance(each, Frame) and each.stream >= Stream.KEYS for each in peer.heard) == bool(
        setting.theirs and setting.ours
    )


@pytest.mark.sample(7)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in VECTORS], ids=[case[0] for case in VECTORS])
def test_a_cheat(port: int, cheat: Cheat, setting: Setting) -> None:
    victim = SessionVictim(port, setting)
    peer, *ended = meet(victim, port, setting, cheat)
    check(cheat, peer, *ended)
    if not cheat.code or cheat.kept_output:
        check_result(victim, setting)
    if re.search("digest of stream|wrong number of items|bytes instead|invalid point", cheat.sentence):
        # A stream that is not whole, or has a bad key, gets no answer.
        answers = {Stream.TOKENS if setting.receives else Stream.VECTOR, Stream.BITMAP}
        heard = {each.stream for each in peer.heard if isinstance(each, Frame)}
        assert not heard & answers or set(cheat.at) & {"tokens", "bitmap"}


@pytest.mark.parametrize("broadcast", [False, pytest.param(True, marks=pytest.mark.more)])
@pytest.mark.parametrize("name", USELESS)
def test_data_in_which_no_fault_shows(port: int, name: str, broadcast: bool) -> None:
    """Semi-honest means just this: what a peer makes up spoils its own task, and our side ends without a match."""
    cheat = USELESS[name]
    receives = not {"sums", "tokens"} & set(cheat.at)
    setting = replace(cheat.setting(receives=receives, broadcast=broadcast), protocol=RR22)
    victim = SessionVictim(port, setting)
    check(cheat, *meet(victim, port, setting, cheat))
    assert victim.found == (set() if setting.victim_learns else None)


def test_equal_tokens_are_no_violation(port: int) -> None:
    """Its items have equal tokens with some probability, however small, so equal tokens do not end the run."""
    setting = replace(EQUAL_TOKENS.setting(receives=False, broadcast=False), protocol=RR22)
    victim = SessionVictim(port, setting)
    check(EQUAL_TOKENS, *meet(victim, port, setting, EQUAL_TOKENS))
    # All are those of its first item, which is common.
    assert victim.found is not None
    assert len(victim.found) == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in SAMPLE], ids=[case[0] for case in SAMPLE])
def test_a_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("cheat", "setting"), [case[1:] for case in VECTORS], ids=[case[0] for case in VECTORS])
def test_every_cheat_against_a_run(pair: Pair, cheat: Cheat, setting: Setting) -> None:
    check_run(pair, cheat, setting)
