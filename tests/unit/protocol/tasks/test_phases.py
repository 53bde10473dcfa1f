"""Tests of the transition tables: every message in every phase."""

from __future__ import annotations

import pickle
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from support.memory.machines import TASK, setup
from support.memory.tasks import (
    MANY,
    both_outcomes,
    completed_run,
    copied,
    digest_of,
    each_partitioning,
    moments,
    pair_with_loss,
    roles,
)

from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import Commit, Done, End, Frame, Offer, Open, Ready, Received, Restart, Skip, TaskMessage
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Phase, TaskParty

KINDS: tuple[type[TaskMessage], ...] = (Offer, Skip, Open, Frame, End, Received, Restart, Ready, Commit, Done)
_BEGINNING: dict[Phase, set[type[TaskMessage]]] = {
    Phase.OFFERING: {Offer, Skip},
    Phase.OFFERING_HEARD: set(),
    Phase.OPENING: {Open, Skip},
    Phase.OPENING_HEARD: set(),
}
# Deliberately independent of the tables in the code.
LEGAL: dict[tuple[type[TaskParty], bool], dict[Phase, set[type[TaskMessage]]]] = {
    (Receiver, False): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Restart},
        Phase.CONFIRMING: {Done},
        Phase.FINISHED: set(),
    },
    (Receiver, True): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Restart},
        Phase.RESULT: set(),
        Phase.STAGING: {Ready},
        Phase.STAGING_HEARD: set(),
        Phase.COMMITTED: {Done},
        Phase.FINISHED: set(),
    },
    (Sender, False): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Received, Restart},
        Phase.FINISHED: set(),
    },
    (Sender, True): {
        **_BEGINNING,
        Phase.EXCHANGE: {Frame, End, Received, Restart},
        Phase.RESULT: {Frame, End, Restart},
        Phase.STAGING: {Ready},
        Phase.STAGING_HEARD: set(),
        Phase.READY: {Commit},
        Phase.COMMITTED: set(),
        Phase.FINISHED: set(),
    },
}


@cache
def plausible(kind: type[TaskMessage], role: type[TaskParty], broadcast: bool, many: bool = False) -> list[TaskMessage]:
    """Return messages of a kind that the peer sends in an honest run, and some that a dishonest one might."""
    peer = Sender if role is Receiver else Receiver
    n, m = (96, 95) if many else (20, 19)
    run = completed_run(n, m, broadcast=broadcast, **(MANY if many else {}))
    made: list[TaskMessage] = list(dict.fromkeys(run.sent(kind, peer)))
    bins = run.number_of_bins
    digests = [digest_of(n, m, bins), digest_of(n, m, bins, sum(map(sum, run.bits)))]
    if kind is Restart:
        made += [Restart(TASK, number, attempt) for number in range(bins) for attempt in range(3)]
    elif kind is Received:
        made += [Received(TASK, number, 0, digest) for number in range(bins) for digest in (b"", *digests)]
    elif kind is Skip:
        made += [Skip(TASK, failure_class) for failure_class in (0, 65, 66, 73)]
    elif kind is Ready:
        made.append(Ready(TASK))
    elif kind in (Commit, Done):
        made += [kind(TASK, digest) for digest in digests]  # type: ignore[call-arg]
    return made


@both_outcomes
@roles
def test_a_run_passes_through_the_phases_the_table_names(role: type[TaskParty], broadcast: bool) -> None:
    phases = list(dict.fromkeys(moment.phase for moment in moments(role, broadcast)))
    assert sorted(phases, key=list(Phase).index) == list(LEGAL[role, broadcast])
    # No run goes back to an earlier phase.
    runs = [moment.phase for moment in moments(role, broadcast)]
    steps = [(list(Phase).index(one), list(Phase).index(two)) for one, two in pairwise(runs)]
    assert sum(one > two for one, two in steps) == 1


@roles
def test_the_tables_contain_exactly_the_allowed_messages(role: type[TaskParty]) -> None:
    # No run without a Skip reaches this phase.
    expected: dict[Phase, set[type[TaskMessage]]] = {Phase.SKIPPED: set()}
    for broadcast in (False, True):
        for phase, kinds in LEGAL[role, broadcast].items():
            expected[phase] = expected.get(phase, set()) | kinds
    found = {phase: {cause for cause in row if isinstance(cause, type)} for phase, row in role.table.items()}
    assert found == expected


@roles
def test_the_tables_agree_with_the_specification(role: type[TaskParty]) -> None:
    text = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text()
    table = text.split(f"The {role.__name__.lower()}:\n")[1].strip().split("\n\n")[0]
    rows = [re.split(r" *\| *", line)[1:3] for line in table.splitlines()[2:]]
    described = {
        Phase[phase.strip("`")]: set(re.findall("|".join(k.__name__ for k in KINDS), kinds)) for phase, kinds in rows
    }
    expected = {phase: {k.__name__ for k in row if isinstance(k, type)} for phase, row in role.table.items()}
    assert described == expected


@pytest.mark.sample(27)
@pytest.mark.parametrize("many", [False, True], ids=["one bin", "bins"])
@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_a_message_that_a_phase_does_not_allow_is_a_violation(
    role: type[TaskParty], broadcast: bool, kind: type[TaskMessage], many: bool
) -> None:
    """This tries, at every moment of a run, all plausible messages that are not legal in that phase."""
    candidates = plausible(kind, role, broadcast, many)
    assert candidates
    tried = set()
    for moment in moments(role, broadcast, many):
        if kind in LEGAL[role, broadcast][moment.phase]:
            continue
        tried.add(moment.phase)
        before = pickle.dumps(moment.machine)
        for message in candidates:
            with pytest.raises(PeerProtocolError) as caught:
                moment.machine.receive(message)
            assert caught.value.code == 76
        # A refused message changes nothing.
        assert pickle.dumps(moment.machine) == before
    expected = {phase for phase, legal in LEGAL[role, broadcast].items() if kind not in legal}
    assert tried == expected


@pytest.mark.sample(14)
@pytest.mark.parametrize("kind", KINDS)
@both_outcomes
@roles
def test_a_message_that_a_phase_allows_is_accepted(
    role: type[TaskParty], broadcast: bool, kind: type[TaskMessage]
) -> None:
    """An honest run reaches each entry of a table."""
    accepted = set()
    for moment in moments(role, broadcast):
        if type(moment.message) is kind:
            copied(moment.machine).receive(moment.message)
            accepted.add(moment.phase)
    if kind is Restart:
        accepted = restarts_accepted(role, broadcast)
    if kind is Skip:
        accepted = skips_accepted(role, broadcast)
    assert accepted == {phase for phase, legal in LEGAL[role, broadcast].items() if kind in legal}


def skips_accepted(role: type[TaskParty], broadcast: bool) -> set[Phase]:
    """Return the phases in which a machine accepts a Skip."""
    accepted = set()
    for moment in moments(role, broadcast):
        with suppress(PeerProtocolError):
            copied(moment.machine).receive(Skip(TASK, 65))
            accepted.add(moment.phase)
    return accepted


def restarts_accepted(role: type[TaskParty], broadcast: bool) -> set[Phase]:
    """Return the phases in which a machine accepts a Restart, in runs whose peer loses bin 0 at any moment."""
    accepted = set()
    for partitioning in ({}, MANY):
        for moment in range(400):
            pair = pair_with_loss(Sender if role is Receiver else Receiver, moment, broadcast=broadcast, **partitioning)
            if pair is None:
                break
            end = pair.end(role)
            while not pair.finished:
                if end.inbox and isinstance(end.inbox[0], Restart) and end.party.wants_input:
                    accepted.add(end.party.phase)
                moved = [step() for step in pair.steps()]
                assert any(moved)
    return accepted


@each_partitioning
@both_outcomes
@roles
def test_the_wrong_task_is_a_violation_in_every_phase(
    role: type[TaskParty], broadcast: bool, partitioning: dict[str, int]
) -> None:
    for moment in moments(role, broadcast, bool(partitioning)):
        for message in (moment.message, Restart(TASK, 0, 1), Received(TASK, 0, 0)):
            if message is not None:
                with pytest.raises(PeerProtocolError):
                    moment.machine.receive(replace(message, task=TASK + 1))


@both_outcomes
@roles
def test_a_finished_machine_stays_finished(role: type[TaskParty], broadcast: bool) -> None:
    pair = completed_run(9, 9, broadcast=broadcast)
    machine = pair.end(role).party
    with pytest.raises(LocalProtocolError):
        machine.open(9)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)
    for kind in KINDS:
        for message in plausible(kind, role, broadcast):
            with pytest.raises(PeerProtocolError):
                machine.receive(message)
    assert machine.finished
    assert not machine.bins.has_next
    assert machine.next_work(room=True) is None


@roles
def test_a_task_is_offered_and_opened_once(role: type[TaskParty]) -> None:
    machine = role(setup())
    machine.offer(None)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)
    with pytest.raises(LocalProtocolError):
        machine.open(1)
    machine.receive(Offer(TASK))
    machine.open(1)
    with pytest.raises(LocalProtocolError):
        machine.open(1)
    with pytest.raises(LocalProtocolError):
        machine.offer(None)
