"""Tests of tasks that a party skips: in every phase, of both roles, and in any order of the messages."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.machines import PROBE, TASK, setup
from support.memory.tasks import both_outcomes, copied, moments, opened, refuses, roles

from psicli.core.errors import LocalProtocolError
from psicli.protocol.messages import Kept, Message, Offer, Open, Skip
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Phase, TaskParty

KEPT = Kept(bytes(range(32)), 96, 95, 4, 0b1)
OFFER, OPEN = Offer(TASK), Open(TASK, 20, PROBE)
ANSWER = Skip(TASK)
BEFORE_OPENS = (Phase.OFFERING, Phase.OFFERING_HEARD, Phase.OPENING, Phase.OPENING_HEARD)


def skips(failure_class: int = 65) -> Skip:
    return Skip(TASK, failure_class)


def at(role: type[TaskParty], phase: Phase, *, spoken: bool) -> TaskParty:
    """Return a machine before its Opens; spoken: whether it has sent its half of the step."""
    machine = role(setup())
    if phase in (Phase.OPENING, Phase.OPENING_HEARD):
        machine.offer(None)
        machine.receive(OFFER)
    if phase is Phase.OFFERING_HEARD:
        machine.receive(OFFER)
    elif phase is Phase.OPENING_HEARD:
        machine.receive(OPEN)
    elif spoken:
        machine.offer(None) if phase is Phase.OFFERING else machine.open(20)
    assert machine.phase is phase
    return machine


def is_over(machine: TaskParty) -> bool:
    """Assert that a machine that is over as skipped takes no more messages and has no work; return whether it is."""
    if not machine.skipped:
        return False
    assert machine.phase is Phase.SKIPPED
    assert {machine.finished, machine.opened, machine.settled, machine.exchanging} == {False}
    assert machine.next_work(room=True) is None
    assert not machine.bins.has_next
    for message in (OFFER, OPEN, skips(), ANSWER):
        refuses(copied(machine), message)
    for late in (lambda: machine.offer(None), lambda: machine.open(20), lambda: machine.skip(65)):
        with pytest.raises(LocalProtocolError):
            late()
    return True


@pytest.mark.parametrize("failure_class", [65, 66, 73])
@pytest.mark.parametrize("phase", BEFORE_OPENS)
@roles
def test_a_skip_takes_the_place_of_an_offer_or_an_open(role: type[TaskParty], phase: Phase, failure_class: int) -> None:
    """The task is over as soon as both halves of the step are sent; the peer's may come before or after."""
    machine = at(role, phase, spoken=False)
    assert machine.skip(failure_class) == [skips(failure_class)]
    heard = phase in (Phase.OFFERING_HEARD, Phase.OPENING_HEARD)
    assert is_over(machine) is heard
    if not heard:
        for half in (OFFER if phase is Phase.OFFERING else OPEN, ANSWER, skips(66)):
            copy = copied(machine)
            assert copy.receive(half) == []
            assert is_over(copy)


@pytest.mark.parametrize("phase", [Phase.OFFERING, Phase.OPENING])
@roles
def test_a_skip_of_the_peer_is_answered_once(role: type[TaskParty], phase: Phase) -> None:
    """A party that has sent its half already sends nothing; another one answers instead of showing its count."""
    spoken = at(role, phase, spoken=True)
    assert spoken.receive(skips()) == []
    assert is_over(spoken)
    silent = at(role, phase, spoken=False)
    assert silent.receive(skips()) == []
    assert not silent.skipped
    for message in (OFFER, OPEN, skips(), ANSWER):
        refuses(copied(silent), message)
    both = copied(silent)
    assert both.skip(66) == [skips(66)]
    assert is_over(both)
    assert (silent.offer(KEPT) if phase is Phase.OFFERING else silent.open(20)) == [ANSWER]
    assert is_over(silent)


@both_outcomes
@roles
def test_after_the_open_nobody_skips(role: type[TaskParty], broadcast: bool) -> None:
    """A Skip after the sender's own half of a step is refused and changes nothing."""
    tried = set()
    for moment in moments(role, broadcast):
        if moment.phase in (Phase.OFFERING, Phase.OPENING):
            continue
        tried.add(moment.phase)
        before = pickle.dumps(moment.machine)
        for message in (ANSWER, *map(skips, (65, 66, 73))):
            refuses(moment.machine, message)
        if moment.machine.opened:
            with pytest.raises(LocalProtocolError):
                moment.machine.skip(65)
        assert pickle.dumps(moment.machine) == before
    assert tried >= {Phase.OFFERING_HEARD, Phase.OPENING_HEARD, Phase.EXCHANGE, Phase.FINISHED}
    machine = opened(role, 20, 20)
    with pytest.raises(LocalProtocolError):
        machine.skip(65)


@pytest.mark.parametrize("failure_class", [0, 1, 2, 64, 67, 69, 70, 74, 76, 78, 79, 80, 130, 2**32 - 1])
@pytest.mark.parametrize("phase", [Phase.OFFERING, Phase.OPENING])
@roles
def test_a_skip_of_another_class(role: type[TaskParty], phase: Phase, failure_class: int) -> None:
    """Only the classes of bad files may be skipped, and 0 answers a Skip that was sent."""
    for spoken in (True, False):
        error = refuses(at(role, phase, spoken=spoken), skips(failure_class))
        assert f"it skipped a task with class {failure_class}" in error.message


@roles
def test_a_party_speaks_once_in_each_step(role: type[TaskParty]) -> None:
    for phase in BEFORE_OPENS:
        machine = at(role, phase, spoken=True)
        if phase in (Phase.OFFERING, Phase.OPENING):
            with pytest.raises(LocalProtocolError):
                machine.skip(65)
    skipped = at(role, Phase.OFFERING, spoken=False)
    skipped.skip(65)
    for again in (lambda: skipped.skip(65), lambda: skipped.offer(None)):
        with pytest.raises(LocalProtocolError):
            again()


@roles
def test_a_skip_discards_no_checkpoint_and_discloses_nothing_of_matches(role: type[TaskParty]) -> None:
    machine = role(setup())
    machine.offer(KEPT)
    machine.receive(skips())
    assert machine.resumption is None
    assert machine.own_count == machine.peer_count == -1


# Any order ----------------------------------------------------------------------------------------------------------

ENDINGS = ("works", "skips the offer", "skips the open")


def step(machine: TaskParty, ending: str) -> list[Message] | None:
    """Send a party's half of the current step if it has not done so; None if it has."""
    offering = machine.phase in (Phase.OFFERING, Phase.OFFERING_HEARD)
    if machine.phase not in BEFORE_OPENS or machine._has_spoken:
        return None
    if ending == ("skips the offer" if offering else "skips the open"):
        return machine.skip(65)
    return machine.offer(None) if offering else machine.open(20)


@pytest.mark.parametrize("endings", [*itertools.product(ENDINGS, ENDINGS)], ids=" and ".join)
@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(st.integers(0, 3), max_size=20))
def test_both_sides_come_to_the_same_end(endings: tuple[str, str], schedule: list[int]) -> None:
    machines: list[TaskParty] = [Receiver(setup()), Sender(setup())]
    inboxes: list[list[Message]] = [[], []]
    sent: list[list[Message]] = [[], []]

    def say(side: int, messages: list[Message]) -> None:
        sent[side] += messages
        inboxes[1 - side] += messages

    def move(side: int) -> bool:
        messages = step(machines[side], endings[side])
        say(side, messages or [])
        return messages is not None

    def hear(side: int) -> bool:
        heard = bool(inboxes[side])
        if heard:
            say(side, machines[side].receive(inboxes[side].pop(0)))  # type: ignore[arg-type]
        return heard

    moves: list[Callable[[], bool]] = [lambda: move(0), lambda: move(1), lambda: hear(0), lambda: hear(1)]
    for choice in schedule:
        moves[choice]()
    while {each() for each in moves} != {False}:
        pass
    skipped = endings != ("works", "works")
    assert [each.skipped for each in machines] == [skipped] * 2
    assert [each.opened for each in machines] == [not skipped] * 2
    # A party says why at most once, and never shows its count after the peer's Skip has arrived.
    for side, ending in enumerate(endings):
        reasons = [each.failure_class for each in sent[side] if isinstance(each, Skip)]
        assert len(reasons) <= 1
        assert ending != "works" or reasons in ([], [0])
    if "skips the offer" in endings:
        assert not any(isinstance(each, Open) for each in [*sent[0], *sent[1]])
