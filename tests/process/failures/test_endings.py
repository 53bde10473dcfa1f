"""Every way a run can end: no process hangs, no output is incomplete, and each party reports the reason."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.processes.altered import program, stop_patiently
from support.processes.certificates import issue
from support.processes.expectations import OLD, Untouched, check_output, csv_data, failed, succeeded, the_object
from support.processes.runner import (
    DIALER,
    HELD,
    LISTENER,
    PARTIES,
    SLOWLY,
    Pair,
    Run,
    Side,
    failing_at,
    free_ports,
    other,
)
from support.waiting import DEADLINE

from psicli.core.failpoints import VARIABLE
from psicli.protocol.bins import MOST_BIN_ITEMS
from psicli.protocol.messages import Abort, Hello, HelloOctets, TaskTerms, Working
from psicli.protocol.wire import decode, encode, encode_hello
from psicli.storage.locks import holders
from psicli.transport.endpoint import METHOD, SERVICE

# A party ends within this time after its peer was killed or stopped, even on a busy machine [s].
KILLED_WITHIN = 30.0
STOPPED_WITHIN = 15.0
# The approximate duration of all tasks of a run that these tests stop [s].
WHOLE_RUN = 1.5


def rows(pair: Pair, sizes: dict[str, int], *, broadcast: bool = True) -> Pair:
    """Add tasks with this many rows per party, half of them common; every output already has old content."""
    pair.environment = SLOWLY
    for name, size in sizes.items():
        for party, start in zip(PARTIES, (0, size // 2), strict=True):
            data = csv_data(["id"], [[f"{name}-{row}"] for row in range(start, start + size)])
            pair.path(party, f"{name}.csv").write_bytes(data)
            pair.path(party, f"out/{name}.csv").write_bytes(OLD)
        side = Side(["id"], f"{name}.csv", f"out/{name}.csv")
        pair.add(name, side, side, broadcast_result=broadcast)
    return pair


def whole(pair: Pair, party: str, task: int) -> bytes:
    """Return the bytes of an output, which must be the old output or the correct new one."""
    name = f"out/{pair.jobs[party]['tasks'][task]['name']}.csv"
    octets = pair.path(party, name).read_bytes()
    if octets != OLD:
        check_output(pair, party, task, name)
    return octets


# Killed and stopped at any moment --------------------------------------------------------------------------------


class Moments:
    """Random moments at which a test ends a run: after a number of log lines, at a percentage, or after a time."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def await_one(self, run: Run, peer: Run) -> str:
        """Wait for a moment after the Hellos and return its name; the run may already have ended."""
        for each in (run, peer):
            each.wait_for("in session with")
        kind = self._draw.choice(["lines", "percent", "time"])
        if kind == "lines":
            # The log has two lines (listening, in session), then three or four lines per task.
            count = self._draw.randrange(2, 12)
            run.wait_for_lines(count)
            return f"line {count}"
        if kind == "percent":
            percent = self._draw.randrange(1, 100)
            while run.lasts(0.01) and percent_of(run) < percent:
                pass
            return f"{percent} %"
        seconds = self._draw.uniform(0, WHOLE_RUN)
        run.lasts(seconds)
        return f"{seconds:.3f} s"


def percent_of(run: Run) -> int:
    """Return the percentage that a run has published in its lock, 0 if there is none."""
    return next((holder.percent for holder in holders() if holder.pid == run.pid), 0)


def kill_at_random(folder: Path, rounds: int, seed: int) -> None:
    """Kill one party a round; check that the other ends in time and that no output is incomplete."""
    moments = Moments(seed)
    with free_ports(1) as ports:
        pair = rows(Pair(folder, ports[0]), {"small": 50, "large": 2500, "last": 50})
        try:
            for number in range(rounds):
                fresh_outputs(pair)
                victim = PARTIES[number % 2]
                runs = {party: pair.start(party, "--json") for party in PARTIES}
                moment = moments.await_one(runs[victim], runs[other(victim)])
                runs[victim].send(signal.SIGKILL)
                killed = time.monotonic()
                survivor = runs[other(victim)].result()
                check_survivor(pair, victim, survivor, f"round {number}, {victim} killed at {moment}")
                assert survivor.ended - killed < KILLED_WITHIN
                runs[victim].result()
                pair.nothing_left(killed=victim)
        finally:
            pair.kill()


def fresh_outputs(pair: Pair) -> None:
    for party in PARTIES:
        for path in pair.path(party, "out").iterdir():
            path.unlink()
        for task in pair.jobs[party]["tasks"]:
            pair.path(party, task["output_path"][party]).write_bytes(OLD)


def check_survivor(pair: Pair, victim: str, survivor: Any, moment: str) -> None:
    """Check the surviving party: code 69 unless all tasks were done, and outputs exactly as it reports."""
    report = the_object(survivor.stdout)
    tasks = report["tasks"]
    done = [task["status"] == "done" for task in tasks]
    assert survivor.code == (0 if all(done) else 69), f"{moment}: {survivor.text}"
    if survivor.code:
        failed(survivor, 69, f"{victim} (disconnected|stopped) before the session was complete")
        assert report["error"]["party"] == victim
    for task, is_done in enumerate(done):
        assert (whole(pair, other(victim), task) != OLD) == is_done, moment
        # The victim's output is either the old or the new one. The receiver commits first, so the sender's output is
        # new only if the receiver's is.
        if whole(pair, victim, task) != OLD and victim == DIALER:
            assert is_done, moment


@pytest.mark.more
def test_a_peer_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 3, 2)


@pytest.mark.slow
def test_a_peer_that_is_killed_at_any_moment_fifty_times(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 50, 3)


def stop_at_random(folder: Path, rounds: int, seed: int) -> None:
    """Stop one party with SIGTERM a round; check that it exits with 143, its peer with 69, and nothing is left."""
    moments = Moments(seed)
    with free_ports(1) as ports:
        pair = rows(Pair(folder, ports[0]), {"small": 50, "large": 2500, "last": 50})
        try:
            for number in range(rounds):
                fresh_outputs(pair)
                victim = PARTIES[number % 2]
                runs = {party: pair.start(party, "--json") for party in PARTIES}
                moment = moments.await_one(runs[victim], runs[other(victim)])
                runs[victim].send(signal.SIGTERM)
                stopped = time.monotonic()
                results = {party: run.result() for party, run in runs.items()}
                check_stopped(pair, victim, results, f"round {number}, {victim} stopped at {moment}")
                assert all(result.ended - stopped < STOPPED_WITHIN for result in results.values())
                pair.nothing_left()
        finally:
            pair.kill()


def check_stopped(pair: Pair, victim: str, results: dict[str, Any], moment: str) -> None:
    mine, theirs = results[victim], results[other(victim)]
    if mine.code == 0 or not mine.stdout:
        # It had finished before the signal arrived; at most its report is missing.
        assert (mine.code, theirs.code) in ((0, 0), (143, 0)), f"{moment}: {mine.text} {theirs.text}"
        return
    failed(mine, 143, "stopped by SIGTERM")
    check_survivor(pair, victim, theirs, moment)
    for task, reported in enumerate(the_object(mine.stdout)["tasks"]):
        assert (whole(pair, victim, task) != OLD) == (reported["status"] == "done"), moment


@pytest.mark.more
def test_a_party_that_is_terminated_at_any_moment(tmp_path: Path) -> None:
    stop_at_random(tmp_path, 3, 4)


@pytest.mark.slow
def test_a_party_that_is_terminated_at_any_moment_fifty_times(tmp_path: Path) -> None:
    stop_at_random(tmp_path, 50, 6)


@pytest.mark.more
def test_a_second_ctrl_c_ends_immediately(pair: Pair) -> None:
    rows(pair, {"people": 30_000})
    # Bob is stopped, so alice would wait for ever until her Abort is delivered; the second Ctrl-C ends that wait.
    runs = {LISTENER: pair.start(LISTENER, program=program(stop_patiently)), DIALER: pair.start(DIALER)}
    alice = runs[LISTENER]
    for run in runs.values():
        run.wait_for("exchanging")
    runs[DIALER].send(signal.SIGSTOP)
    # Two signals that arrive at the same time count as one, so the test keeps sending them.
    while alice.lasts(0.3):
        alice.send(signal.SIGINT)
    assert alice.result().code == 130
    runs[DIALER].send(signal.SIGCONT)
    failed(runs[DIALER].result(), 69, "alice (disconnected|stopped)")
    assert [whole(pair, party, 0) for party in PARTIES] == [OLD, OLD]


# Unexpected connections ------------------------------------------------------------------------------------------


def hello_of(pair: Pair) -> bytes:
    """Return the Hello that bob would send."""
    tasks = tuple(TaskTerms(task["name"], LISTENER, True, 1) for task in pair.jobs[DIALER]["tasks"])
    return encode_hello(Hello("0", DIALER, "overlap", tasks, 2048, MOST_BIN_ITEMS, os.urandom(32)))


@pytest.mark.more
def test_a_second_dialer_is_turned_away_and_the_session_goes_on(pair: Pair) -> None:
    rows(pair, {"people": 2500})
    alice, bob = pair.start(LISTENER, "--verbose"), pair.start(DIALER, "--verbose", env=HELD)
    bob.wait_until_stopped()
    with grpc.insecure_channel(f"127.0.0.1:{pair.port}") as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")
        answers = [decode(octets) for octets in call(iter([encode(HelloOctets(hello_of(pair)))]), timeout=DEADLINE)]
        assert answers == [Abort(75)]
        # The listener does not answer a stream that does not begin with a Hello, and the session continues.
        for message in (Working(), Abort(65)):
            assert list(call(iter([encode(message)]), timeout=DEADLINE)) == []
        assert list(call(iter([b"\xff" * 100]), timeout=DEADLINE)) == []
    bob.send(signal.SIGCONT)
    results = [alice.result(), bob.result()]
    succeeded(results)
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
    warnings = [line for result in results for line in result.stderr.splitlines() if " WARNING " in line]
    assert all(VARIABLE in line for line in warnings)


JUNK = [
    b"GET / HTTP/1.1\r\nHost: psicli\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + b"\x00\xff\xff\x01\x24\x00\x00\x00\x01",
    b"\x00" * 4096,
    b"SSH-2.0-OpenSSH_9.2\r\n",
]


def memory(run: Run) -> int:
    """Return the peak memory of the process [bytes]."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def junk_in_a_session(pair: Pair, junk: int, silent: int) -> None:
    # The dialer stops while the test makes other connections; the listener stops at the end, so its memory can be read.
    alice, bob = pair.start(LISTENER, env=failing_at("session.closed:stop")), pair.start(DIALER, env=HELD)
    bob.wait_until_stopped()
    before = memory(alice)
    draw = random.Random(junk)
    with ExitStack() as stack:
        for _ in range(silent):
            stack.enter_context(socket.create_connection(("127.0.0.1", pair.port), DEADLINE))
        for _ in range(junk):
            with socket.create_connection(("127.0.0.1", pair.port), DEADLINE) as guest:
                guest.sendall(draw.choice([*JUNK, draw.randbytes(500)]))
        assert memory(alice) - before < 50 << 20
        bob.send(signal.SIGCONT)
        # Run the next task while the silent connections are still open.
        alice.wait_until_stopped()
        assert memory(alice) - before < 50 << 20
        alice.send(signal.SIGCONT)
        succeeded([alice.result(), bob.result()])
    for party in PARTIES:
        for task, name in enumerate(("people", "last")):
            check_output(pair, party, task, f"out/{name}.csv")
    pair.nothing_left()


@pytest.mark.more
def test_junk_and_silent_connections_do_no_harm(pair: Pair) -> None:
    junk_in_a_session(rows(pair, {"people": 4000, "last": 100}), 100, 50)


@pytest.mark.slow
def test_a_thousand_junk_and_three_hundred_silent_connections(pair: Pair) -> None:
    junk_in_a_session(rows(pair, {"people": 20_000, "last": 2000}), 1000, 300)


@pytest.mark.more
def test_junk_before_the_session_does_not_keep_the_peer_out(pair: Pair) -> None:
    rows(pair, {"people": 50})
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    with ExitStack() as stack:
        for octets in [b"", *JUNK]:
            guest = stack.enter_context(socket.create_connection(("127.0.0.1", pair.port), DEADLINE))
            guest.sendall(octets)
        succeeded([pair.start(DIALER).result(), alice.result()])
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
    pair.nothing_left()


# Failures at the start -------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "private_key_file"])
def test_a_tls_file_that_is_missing_is_named(pair: Pair, field: str, party: str) -> None:
    rows(pair, {"people": 5})
    untouched = Untouched(pair)
    files = dict.fromkeys(("ca_file", "certificate_file", "private_key_file"), "in.csv")
    pair.jobs[party]["cluster"]["tls"] = {**files, field: "nowhere/psicli.pem"}
    for name in {*files.values()}:
        pair.path(party, name).write_bytes(b"")
    result = pair.start(party).result()
    failed(result, 77, re.escape(f"{pair.path(party, 'nowhere/psicli.pem')}: cannot read this TLS file"))
    pair.path(party, "in.csv").unlink()
    untouched.check()
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_tls_files_that_hold_something_else(pair: Pair, party: str) -> None:
    """The message names the cause, instead of a port in use or an absent peer."""
    rows(pair, {"people": 5})
    for name in ("ca.pem", "own.pem", "own.key"):
        pair.path(party, name).write_bytes(b"-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n")
    pair.jobs[party]["cluster"]["tls"] = {
        "ca_file": "ca.pem",
        "certificate_file": "own.pem",
        "private_key_file": "own.key",
    }
    failed(pair.start(party).result(), 77, r"\.pem: cannot read this TLS file: it contains no certificate")
    issue(pair.path(party), {"own": party, "another": party})
    pair.path(party, "own.key").write_bytes(pair.path(party, "another.key").read_bytes())
    failed(
        pair.start(party).result(),
        77,
        r"own\.pem: cannot read .*own\.key is not its unencrypted private key",
    )
    pair.nothing_left()


@pytest.mark.more
def test_an_address_that_is_not_ours(pair: Pair) -> None:
    rows(pair, {"people": 5})
    # TEST-NET-1 is reserved for documentation, so no machine has this address.
    pair.jobs[LISTENER]["cluster"]["nodes"][0]["listen_address"] = f"192.0.2.1:{pair.port}"
    pair.jobs[LISTENER]["cluster"]["tls"] = "insecure"
    result = pair.start(LISTENER).result()
    failed(result, 78, rf"192\.0\.2\.1:{pair.port}: cannot listen on this address: cannot assign requested address")
    pair.nothing_left()


@pytest.mark.more
def test_a_failure_before_the_session_releases_everything(pair: Pair) -> None:
    rows(pair, {"people": 5})
    good = json.loads(json.dumps(pair.jobs[LISTENER]))
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "no/where/people.csv"}
    alice, bob = pair.run()
    failed(alice, 73, "no/where")
    failed(bob, 80, "alice failed")
    pair.nothing_left()
    pair.jobs[LISTENER] = good
    succeeded(pair.run())


# Minimal environments --------------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "no stdin": {"shell": "<&-"},
    "no stdout": {"shell": ">&-"},
    "no stderr": {"shell": "2>&-"},
    "nothing open": {"shell": "<&- >&- 2>&-"},
    "no HOME": {"env": {"HOME": None, "USER": None, "LOGNAME": None, "LANG": "C", "LC_ALL": "C"}},
    "HOME not ours": {"env": {"HOME": "/proc/nowhere"}},
    # Nobody can write there, not even root.
    "read-only folder": {"cwd": "/proc"},
    "no PATH": {"env": {"PATH": None}},
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(("mine", "theirs"), list(zip(*[iter(ENVIRONMENTS)] * 2, strict=True)))
def test_a_run_in_a_minimal_environment(pair: Pair, mine: str, theirs: str) -> None:
    rows(pair, {"people": 5})
    environments = [ENVIRONMENTS[mine], ENVIRONMENTS[theirs]]
    runs = [pair.start(party, **how) for party, how in zip(PARTIES, environments, strict=True)]
    for how, result in zip(environments, [run.result() for run in runs], strict=True):
        assert result.code == 0, result.text
        assert "Traceback" not in result.text
        reported = re.search(rb"^people .* done  ", result.stdout, re.MULTILINE)
        assert (reported is not None) == (" >&-" not in " " + how.get("shell", ""))
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
    pair.nothing_left()


@pytest.mark.more
def test_a_current_folder_that_is_gone(pair: Pair) -> None:
    rows(pair, {"people": 5})
    gone = pair.folder / "gone"
    gone.mkdir()
    runs = [pair.start(party, before=f"cd '{gone}' && rmdir '{gone}' 2>/dev/null") for party in PARTIES[:1]]
    succeeded([pair.start(DIALER).result(), runs[0].result()])
    pair.nothing_left()


@pytest.mark.more
def test_a_temporary_folder_that_is_not_there(pair: Pair) -> None:
    """No run needs a temporary folder: standard input and output are buffered in the state folder."""
    rows(pair, {"people": 5})
    missing = {"TMPDIR": str(pair.folder / "nowhere")}
    task = pair.jobs[DIALER]["tasks"][0]
    task.update(input_path={DIALER: "-"}, output_path={DIALER: "-"})
    given = pair.path(DIALER, "people.csv").read_bytes()
    runs = [pair.start(LISTENER, env=missing), pair.start(DIALER, env=missing, stdin=given)]
    results = [run.result() for run in runs]
    succeeded(results)
    task["input_path"] = {DIALER: "people.csv"}
    check_output(pair, LISTENER, 0, "out/people.csv")
    pair.path(DIALER, "out/people.csv").write_bytes(results[1].stdout)
    check_output(pair, DIALER, 0, "out/people.csv")
    pair.nothing_left()
