"""Runs whose peer never appears or goes away."""

from __future__ import annotations

import signal
import socket

import pytest
from support.processes.expectations import (
    OLD,
    SOON,
    Untouched,
    failed,
    long_pair,
    marked_pair,
    the_object,
)
from support.processes.runner import DIALER, HELD, LISTENER, PARTIES, Pair, other


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_nobody_comes(pair: Pair, party: str) -> None:
    marked_pair(pair)
    pair.link(party, connect_retry_times=20)
    untouched = Untouched(pair)
    at = f"127.0.0.1:{pair.port}"
    result = pair.start(party, "--json").result()
    failed(result, 69, f"{other(party)} did not answer.*: ({at}: connection refused|nobody connected to {at} as bob)")
    assert the_object(result.stdout)["seconds"] < SOON
    untouched.check()


def test_a_port_that_is_in_use(pair: Pair) -> None:
    """The listener fails immediately; a dialer that reaches another program's port gives up in time."""
    marked_pair(pair)
    pair.link(DIALER, connect_retry_times=3)
    untouched = Untouched(pair)
    with socket.create_server(("127.0.0.1", pair.port)):
        alice, bob = pair.run()
    failed(alice, 75, f"127.0.0.1:{pair.port}: the port is in use")
    failed(bob, 69, "alice did not answer")
    untouched.check()


@pytest.mark.more
def test_the_same_party_twice(pair: Pair) -> None:
    """A second listener finds the port in use, a second dialer is turned away, and the first session is unaffected."""
    marked_pair(pair)
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    failed(pair.start(LISTENER).result(), 75, "the port is in use|is in use by")
    bob = pair.start(DIALER, env=HELD)
    bob.wait_until_stopped()
    failed(pair.start(DIALER).result(), 75, "alice already has a session with another run|is in use by")
    for number in (signal.SIGTERM, signal.SIGCONT):
        bob.send(number)
    assert (bob.result().code, alice.result().code) == (143, 69)


STOPS = [
    pytest.param(signal.SIGKILL, LISTENER, -9, id="SIGKILL, listener"),
    pytest.param(signal.SIGKILL, DIALER, -9, id="SIGKILL, dialer"),
    pytest.param(signal.SIGTERM, LISTENER, 143, id="SIGTERM"),
    pytest.param(signal.SIGINT, DIALER, 130, id="Ctrl-C"),
]


@pytest.mark.more
@pytest.mark.parametrize(("number", "party", "code"), STOPS)
def test_a_party_is_stopped_in_the_middle(pair: Pair, number: signal.Signals, party: str, code: int) -> None:
    long_pair(pair)
    untouched = Untouched(pair)
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    for run in runs.values():
        run.wait_for("exchanging")
    runs[party].send(number)
    results = {each: run.result() for each, run in runs.items()}
    assert results[party].code == code
    failed(results[other(party)], 69, f"{party} (disconnected|stopped) before the session was complete")
    left = the_object(results[other(party)].stdout)
    assert left["tasks"][0]["status"] == "failed"
    assert left["error"]["party"] == party
    if number != signal.SIGKILL:
        failed(results[party], code, f"stopped by {number.name}")
        assert the_object(results[party].stdout)["exit_code"] == code
        untouched.check()
    else:
        # A killed process leaves its temporary file, but the old output is intact.
        assert pair.path(party, "out/people.csv").read_bytes() == OLD
        assert list(pair.files(other(party))) == ["in.csv", "out/people.csv"]
    assert pair.path(other(party), "out/people.csv").read_bytes() == OLD


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_stopped_while_waiting_for_the_other(pair: Pair, party: str) -> None:
    marked_pair(pair)
    run = pair.start(party, "--json")
    run.wait_for("listening on" if party == LISTENER else "connecting to")
    run.send(signal.SIGTERM)
    failed(result := run.result(), 143, "stopped by SIGTERM")
    assert the_object(result.stdout)["seconds"] < SOON
