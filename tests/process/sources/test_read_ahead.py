"""A party that waits for the other one has read its input by then, and the user notices nothing else."""

from __future__ import annotations

import signal

import pytest
from support.processes.expectations import SOON, csv_data
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Run, Side, other

ROWS = 500
AHEAD = f"read {ROWS} rows of"


def keys(*numbers: int) -> bytes:
    return csv_data(["id"], [[f"key-{number:03}"] for number in numbers])


def first(pair: Pair, party: str, *arguments: str, **how: bytes) -> Run:
    """Start one party, and return once it has read its input."""
    run = pair.start(party, "--verbose", *arguments, **how)
    run.wait_for(AHEAD)
    return run


@pytest.fixture
def ready(pair: Pair) -> Pair:
    for party in PARTIES:
        pair.path(party, "in.csv").write_bytes(keys(*range(ROWS)))
    pair.add("task", Side(["id"], "in.csv", "out/out.csv"), Side(["id"], "in.csv"))
    return pair


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_a_peer_that_comes_late(ready: Pair, party: str) -> None:
    run = first(ready, party)
    results = run.result, ready.start(other(party), "--verbose").result
    assert [result().code for result in results] == [0, 0]
    assert ready.path(LISTENER, "out/out.csv").read_bytes().count(b"\n") == ROWS + 1
    # What the log says about the task comes after the meeting, as before.
    log = run.result().stderr
    assert log.index(AHEAD) < log.index("in session with") < log.index("reading ")
    assert log.count("reading ") == log.count(AHEAD) == 1
    ready.nothing_left()


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_an_input_that_is_replaced_while_the_party_waits(ready: Pair, party: str) -> None:
    """What counts is the file that is there when the parties meet."""
    run = first(ready, party)
    ready.path(party, "new.csv").write_bytes(keys(1, 2, 3))
    ready.path(party, "new.csv").replace(ready.path(party, "in.csv"))
    assert ready.start(other(party)).result().code == run.result().code == 0
    assert ready.path(LISTENER, "out/out.csv").read_bytes() == keys(1, 2, 3)


def test_standard_input(ready: Pair) -> None:
    ready.jobs[LISTENER]["tasks"][0]["input_path"] = {LISTENER: "-"}
    run = first(ready, LISTENER, stdin=keys(*range(10, 10 + ROWS)))
    assert ready.start(DIALER).result().code == run.result().code == 0
    assert ready.path(LISTENER, "out/out.csv").read_bytes() == keys(*range(10, ROWS))
    ready.nothing_left()


def test_a_peer_that_refuses(ready: Pair) -> None:
    run = first(ready, LISTENER)
    ready.jobs[DIALER]["tasks"][0]["name"] = "another"
    assert [ready.start(DIALER).result().code, run.result().code] == [78, 78]
    assert not ready.path(LISTENER, "out/out.csv").exists()
    ready.nothing_left()


def test_nobody_comes(ready: Pair) -> None:
    run = first(ready, LISTENER)
    run.send(signal.SIGTERM)
    result = run.result()
    assert (result.code, "Traceback" in result.stderr) == (143, False)
    assert result.ended - run.started < SOON
    ready.nothing_left()


def test_an_error_in_the_input_is_told_once_the_parties_have_met(ready: Pair) -> None:
    """The other party learns of it."""
    ready.path(LISTENER, "in.csv").write_bytes(keys(*range(ROWS)) + b"1,2,3\n")
    alice = ready.start(LISTENER, "--verbose")
    alice.wait_for("listening on")
    bob = ready.start(DIALER)
    assert [alice.result().code, bob.result().code] == [65, 80]
    log = alice.result().stderr
    assert AHEAD not in log
    assert log.index("in session with") < log.index("reading ") < log.index(f"in.csv:{ROWS + 2}")


@pytest.mark.more
def test_the_rows_of_a_task_that_was_done_before_are_let_go(ready: Pair) -> None:
    """Both parties resume the first task, whose result is there, and read the second one."""
    ready.add("second", Side(["id"], "in.csv", "out/second.csv"), Side(["id"], "missing.csv"))
    ready.path(DIALER, "missing.csv").write_bytes(b"id\n1,2\n")
    assert [result.code for result in ready.run()] == [80, 65]
    ready.path(DIALER, "missing.csv").write_bytes(keys(*range(ROWS)))
    run = first(ready, LISTENER)
    assert [ready.start(DIALER).result().code, run.result().code] == [0, 0]
    log = run.result().stderr
    assert "done by an earlier run" in log
    # The input of the second task only.
    assert log.count("reading ") == 1
    assert ready.path(LISTENER, "out/second.csv").read_bytes() == keys(*range(ROWS))
