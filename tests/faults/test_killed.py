"""Runs in which one party is killed at a failpoint or at a random moment."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest
from support.jobs.faults import (
    CASES,
    RESUME_CASES,
    SPOOL_CASES,
    all_right,
    check_survivor,
    ends,
    go_on,
    new_outputs,
    next_run_is_good,
    renew_outputs,
    start_both,
)
from support.processes.expectations import failed, succeeded
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, failing_at, other

# Killed at every failpoint ------------------------------------------------------------------------------------------


def is_killed_there(pair: Pair, point: str, party: str, nth: int) -> bool:
    """Kill a party at the nth hit of a failpoint and run again; return whether the party got that far."""
    renew_outputs(pair)
    runs = start_both(pair, party, f"{point}:kill:{nth}")
    victim, survivor = ends(runs, party)
    if victim.code == 0:
        assert survivor is not None
        all_right(pair, {party: victim, other(party): survivor})
        return False
    assert victim.code == -signal.SIGKILL, victim.text
    go_on(pair, runs, party, survivor)
    return True


def until_not_reached(pair: Pair, point: str, party: str) -> None:
    """Kill at the 1st hit, the 2nd, …, in growing steps for a failpoint with many hits, until it is not reached."""
    assert is_killed_there(pair, point, party, 1)
    nth = 2
    while is_killed_there(pair, point, party, nth):
        nth += 1 + nth // 4


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), CASES)
def test_killed_at_every_hit_of_every_point(faulty: Pair, point: str, party: str) -> None:
    until_not_reached(faulty, point, party)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), SPOOL_CASES)
def test_killed_at_every_hit_in_the_spool(spooling: Pair, point: str, party: str) -> None:
    until_not_reached(spooling, point, party)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RESUME_CASES)
def test_killed_at_every_hit_where_tasks_are_resumed(resuming: Pair, point: str, party: str) -> None:
    until_not_reached(resuming, point, party)


@pytest.mark.more
@pytest.mark.parametrize(("point", "party"), random.Random(6).sample(RESUME_CASES, 2))
def test_killed_at_some_points_where_tasks_are_resumed(resuming: Pair, point: str, party: str) -> None:
    assert is_killed_there(resuming, point, party, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("point", "party"), random.Random(5).sample(CASES, 3))
def test_killed_at_some_points(faulty: Pair, point: str, party: str) -> None:
    assert is_killed_there(faulty, point, party, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), [("abort.sending", DIALER), ("abort.arrived", LISTENER)])
def test_killed_while_a_failure_is_reported(faulty: Pair, point: str, party: str) -> None:
    away = faulty.path(DIALER, "in.csv").rename(faulty.path(DIALER, "away.csv"))
    runs = start_both(faulty, party, f"{point}:kill")
    assert runs[party].result().code == -signal.SIGKILL
    if party == LISTENER:
        failed(runs[DIALER].result(), 66, "no such file")
    away.rename(faulty.path(DIALER, "in.csv"))
    assert [new_outputs(faulty, each) for each in PARTIES] == [set(), set()]
    next_run_is_good(faulty, {LISTENER: runs[LISTENER]} if party == DIALER else None)


@pytest.mark.more
@pytest.mark.parametrize(
    ("point", "leftover"),
    [("input.checked", "stdin.csv"), pytest.param("output.synced", "*stdout.csv*", marks=pytest.mark.slow)],
)
def test_killed_while_standard_input_and_output_are_buffered(faulty: Pair, point: str, leftover: str) -> None:
    task = faulty.jobs[DIALER]["tasks"][0]
    task.update(input_path={DIALER: "-"}, output_path={DIALER: "-"})
    given = faulty.path(DIALER, "in.csv").read_bytes()
    # Use a separate state folder, so that the other party does not remove the files this test looks for.
    state = faulty.folder / "own"
    how: dict[str, Any] = {"stdin": given, "env": {"PSICLI_STATE_DIR": str(state)}}
    killed = {"stdin": given, "env": {**how["env"], **failing_at(f"{point}:kill")}}
    runs = {LISTENER: faulty.start(LISTENER), DIALER: faulty.start(DIALER, **killed)}
    victim, survivor = ends(runs, DIALER)
    assert victim.code == -signal.SIGKILL
    assert len(list(state.glob(f"run-*/{leftover}"))) == 1
    alice = runs[LISTENER] if survivor is None else faulty.start(LISTENER)
    succeeded([faulty.start(DIALER, **how).result(), alice.result()])
    assert list(state.glob("run-*")) == []
    faulty.nothing_left()


# Killed at any moment -----------------------------------------------------------------------------------------------


def kill_at_random(pair: Pair, rounds: int, seed: int, good_run_every: int) -> None:
    """Kill one party at a random moment after its start, once a round."""
    draw = random.Random(seed)
    for number in range(1, rounds + 1):
        renew_outputs(pair)
        runs = {party: pair.start(party, "--json") for party in PARTIES}
        party = draw.choice(PARTIES)
        if draw.random() < 0.7:
            runs[party].wait_for("in session with")
            runs[party].lasts(draw.uniform(0.0, 0.5))
        else:
            runs[party].lasts(draw.uniform(0.0, 1.5))
        runs[party].send(signal.SIGKILL)
        victim, survivor = ends(runs, party)
        assert victim.code in (0, -signal.SIGKILL)
        if survivor is None or number % good_run_every == 0:
            go_on(pair, runs, party, survivor)
        else:
            new_outputs(pair, party)
            check_survivor(pair, other(party), survivor, {69})


@pytest.mark.more
def test_five_random_kills_in_a_row(faulty: Pair) -> None:
    kill_at_random(faulty, 5, 1, good_run_every=5)


@pytest.mark.slow
def test_two_hundred_random_kills_in_a_row(faulty: Pair) -> None:
    kill_at_random(faulty, 200, 2, good_run_every=1)


@pytest.mark.slow
def test_two_hundred_random_kills_where_tasks_are_resumed(resuming: Pair) -> None:
    kill_at_random(resuming, 200, 3, good_run_every=2)
