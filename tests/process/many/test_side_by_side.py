"""Several jobs on one machine: two runs on one port, parallel jobs, and the output of `psicli status`."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jobs.batches import check_people, one_task
from support.processes import altered
from support.processes.certificates import issue, with_tls
from support.processes.expectations import SOON, check_output, failed, succeeded, the_object
from support.processes.runner import (
    DIALER,
    HELD,
    LISTENER,
    PARTIES,
    Pair,
    failing_at,
    free_ports,
    other,
)
from support.waiting import wait_until

# Two runs on one port -----------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_a_second_run_is_refused_by_name(pair: Pair, party: str) -> None:
    one_task(pair)
    first = pair.start(party)
    first.wait_for("listening on" if party == LISTENER else "connecting to")
    second = pair.start(party, "--json")
    result = second.result()
    assert result.ended - second.started < SOON
    what = f"port {pair.port}" if party == LISTENER else rf"bob to 127\.0\.0\.1:{pair.port}"
    named = rf"{what} is in use by job overlap of {party} \(pid {first.pid}, \S+, since 20[-0-9]+T[:0-9]+\+00:00\)"
    failed(result, 75, named)
    refusal = the_object(result.stdout)
    assert (refusal["exit_code"], refusal["error"]["class"]) == (75, "LockHeldError")
    # The first run is unaffected.
    peer = pair.start(other(party))
    succeeded([first.result(), peer.result()])
    check_people(pair)
    pair.nothing_left()


@pytest.mark.more
def test_both_parties_started_twice_at_the_same_time(pair: Pair) -> None:
    one_task(pair)
    environments = {LISTENER: {}, DIALER: HELD}
    runs = {party: [pair.start(party, env=environments[party]) for _ in range(2)] for party in PARTIES}
    # Each party's first run holds its lock until the second run is refused.
    for mine in runs.values():
        wait_until(lambda mine=mine: not all(run.lasts(0) for run in mine), "a second run is refused")  # type: ignore[misc]
    (bob,) = (run for run in runs[DIALER] if run.lasts(0))
    bob.wait_until_stopped()
    bob.send(signal.SIGCONT)
    for mine in runs.values():
        results = [run.result() for run in mine]
        assert sorted(result.code for result in results) == [0, 75], [result.text for result in results]
    check_people(pair)
    pair.nothing_left()


@pytest.mark.more
def test_a_run_that_waits_for_its_turn(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "60")
    second.wait_for(f"waiting: port {pair.port} is in use by job overlap of alice (pid {first.pid}, ")
    succeeded([pair.start(DIALER).result(), first.result()])
    second.wait_for("listening on")
    check_people(pair)
    succeeded([pair.start(DIALER).result(), second.result()])
    check_people(pair)
    pair.nothing_left()


@pytest.mark.more
def test_a_wait_that_times_out(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "1")
    result = second.result()
    failed(result, 75, f"is in use by job overlap of alice .pid {first.pid}")
    assert result.ended - second.started > 1.0


@pytest.mark.more
def test_a_killed_run_frees_the_port_immediately(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "60")
    second.wait_for("waiting: ")
    first.send(signal.SIGKILL)
    second.wait_for("listening on")
    succeeded([pair.start(DIALER).result(), second.result()])
    check_people(pair)


@pytest.mark.more
def test_a_wait_for_another_program(pair: Pair) -> None:
    one_task(pair)
    with socket.create_server(("127.0.0.1", pair.port)):
        impatient = pair.start(LISTENER)
        result = impatient.result()
        failed(result, 75, f"127.0.0.1:{pair.port}: the port is in use by another program")
        assert result.ended - impatient.started < SOON
        waiting = pair.start(LISTENER, "--lock-timeout", "60")
        waiting.wait_for("waiting: ")
    succeeded([pair.start(DIALER).result(), waiting.result()])
    check_people(pair)


@pytest.fixture
def shared_pair() -> Iterator[Pair]:
    """Yield a pair in a folder that every user can access."""
    if os.geteuid() != 0:
        pytest.skip("only root can run psicli as another user")
    with tempfile.TemporaryDirectory() as folder, free_ports(1) as ports:
        pair = Pair(Path(folder), ports[0])
        for path in (pair.folder, pair.temp, *(pair.path(party, "out") for party in PARTIES)):
            path.chmod(0o777)
        try:
            yield pair
        finally:
            pair.kill()


@pytest.mark.more
@pytest.mark.parametrize("first_is_root", [True, False], ids=["root first", "nobody first"])
def test_a_run_of_another_user_is_seen(shared_pair: Pair, first_is_root: bool) -> None:
    pair = one_task(shared_pair)
    # Without TLS, the two users would not talk to each other.
    issue(pair.folder, {party: party for party in PARTIES})
    with_tls(pair)
    for party in PARTIES:
        # Root can read it, too.
        os.chown(pair.folder / f"{party}.key", altered.NOBODY, -1)
    state = {"PSICLI_STATE_DIR": str(pair.folder / "state-of-nobody")}
    users: list[dict[str, Any]] = [{}, {"program": altered.program(altered.as_nobody), "cwd": "/", "env": state}]
    first_user, second_user = users if first_is_root else users[::-1]
    first = pair.start(LISTENER, **first_user)
    first.wait_for("listening on")
    second = pair.start(LISTENER, **second_user)
    result = second.result()
    failed(
        result, 75, rf"is in use by job overlap of alice \(pid {first.pid}, {'root' if first_is_root else 'nobody'}, "
    )
    assert result.ended - second.started < SOON
    assert f"  {first.pid}  " in pair.start_command("status", **second_user).result().text
    # Now the other user has the port.
    first.send(signal.SIGTERM)
    assert first.result().code == 143
    again = pair.start(LISTENER, **second_user)
    succeeded([pair.start(DIALER, **first_user).result()])
    succeeded([again.result()])
    check_people(pair)


# Jobs side by side --------------------------------------------------------------------------------------------------


def rounds_of_four(folder: Path, rounds: int) -> None:
    """Run four jobs in parallel, each on its own port, for several rounds on the same ports."""
    with free_ports(4) as ports:
        pair = Pair(folder, ports[0])
        try:
            one_task(pair)
            for party in PARTIES:
                pair.jobs[party]["tasks"][0]["output_path"] = {party: "out/${JOB}.csv"}
            for number in range(rounds):
                runs = [
                    pair.start(party, f"--port-offset={port - ports[0]}", f"--set=JOB={number}-{job}")
                    for job, port in enumerate(ports)
                    for party in PARTIES
                ]
                succeeded(run.result() for run in runs)
                for job in range(len(ports)):
                    for party in PARTIES:
                        check_output(pair, party, 0, f"out/{number}-{job}.csv")
                pair.nothing_left(*ports)
        finally:
            pair.kill()


@pytest.mark.more
def test_four_jobs_on_four_ports(tmp_path: Path) -> None:
    rounds_of_four(tmp_path, 3)


@pytest.mark.slow
def test_four_jobs_on_four_ports_twenty_times(tmp_path: Path) -> None:
    rounds_of_four(tmp_path, 20)


# Status -------------------------------------------------------------------------------------------------------------


def status(pair: Pair) -> dict[int, dict[str, Any]]:
    result = pair.start_command("status", "--json").result()
    assert result.code == 0, result.text
    return {each["pid"]: each for each in the_object(result.stdout)["running"]}


@pytest.mark.more
def test_status_says_who_where_and_how_far(pair: Pair) -> None:
    one_task(pair, 8_000)
    for party in PARTIES:
        # With small frames a percentage is published early.
        pair.jobs[party]["pipeline"] = {"frame_items": 1024}
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    waiting = status(pair)[alice.pid]
    assert {name: waiting[name] for name in ("job", "party", "where", "task", "phase")} == {
        "job": "overlap",
        "party": "alice",
        "where": f"127.0.0.1:{pair.port}",
        "task": "",
        "phase": "starting",
    }
    # Bob stops halfway, so that both parties are still running when `psicli status` answers.
    bob = pair.start(DIALER, env=failing_at("frame.sending:stop:5"))
    bob.wait_until_stopped()
    running: dict[int, dict[str, Any]] = {}

    def is_on_its_way() -> bool:
        running.update(status(pair))
        return any(running[run.pid]["percent"] > 0 for run in (alice, bob))

    wait_until(is_on_its_way, "psicli status shows a percentage")
    for run in (alice, bob):
        assert (running[run.pid]["task"], running[run.pid]["phase"]) == ("people", "exchanging")
        assert 0 <= running[run.pid]["percent"] <= 100
    assert running[bob.pid]["where"] == f"to 127.0.0.1:{pair.port}"
    text = pair.start_command("status").result().stdout.decode()
    bob.send(signal.SIGCONT)
    where = re.escape(f"127.0.0.1:{pair.port}")
    row = rf"^overlap +alice +people: exchanging \d+ % +{alice.pid} +\S+ +{where} +20\S+ \S+ UTC$"
    assert re.search(row, text, re.MULTILINE), text
    succeeded([alice.result(), bob.result()])
    assert not {alice.pid, bob.pid} & status(pair).keys()
