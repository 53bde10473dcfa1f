"""The policy on a whole run: how long it must and may take, and strictness."""

from __future__ import annotations

import signal
import time

import pytest
from support.processes.certificates import issue, with_tls
from support.processes.expectations import OLD, check_output, failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, HELD, LISTENER, PARTIES, Pair, Result, failing_at
from support.waiting import DEADLINE, wait_until

from psicli import curve
from psicli.config import PolicySettings
from psicli.job.policy import Duration

WAITING = "so that the run lasts policy.min_duration"

# psicli that says how each worker checks the points of the peer.
TELLS_STRICT = """
import sys
from psicli.cli.main import main
from psicli.exchange.worker import Worker

class Telling(Worker):
    def __init__(self, *arguments, **how):
        super().__init__(*arguments, **how)
        print("strict:", self._strict, file=sys.stderr)

import psicli.exchange.worker as worker
worker.Worker = Telling
main()
"""

# The shortest duration -------------------------------------------------------------------------------------------


def test_a_run_does_not_end_before_its_time(pair: Pair) -> None:
    """Nothing is reported until then; a signal ends the wait, but the run is complete."""
    marked_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"min_duration": "1h"}
    alice, bob = (pair.start(party) for party in PARTIES)
    assert bob.result().code == 0
    alice.wait_for(WAITING)
    check_output(pair, LISTENER, 0, "out/people.csv")
    assert alice.lasts(0)
    alice.send(signal.SIGTERM)
    result = alice.result()
    succeeded([result])
    assert "stopped by SIGTERM before policy.min_duration was over" in result.stderr
    assert b"done in" in result.stdout
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("seconds", [3])
def test_the_least_time_of_a_run(pair: Pair, seconds: int) -> None:
    marked_pair(pair)
    for job in pair.jobs.values():
        job["policy"] = {"min_duration": seconds}
    began = time.monotonic()
    results = pair.run("--json")
    succeeded(results)
    for result in results:
        assert result.ended - began >= seconds
        # Nothing exceeded it, and the report counts the time of the run without the wait.
        assert the_object(result.stdout)["seconds"] < seconds or the_object(result.stdout)["warnings"]


@pytest.mark.more
def test_a_failure_after_the_opening_waits_too(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"min_duration": "10m"}
    pair.link(LISTENER, reconnect_window_ms=0)
    # Where bob stops at alice's first points, she has got his Open. Before his own, it may still be on its way.
    alice, bob = pair.start(LISTENER), pair.start(DIALER, env=failing_at("frame.arrived:stop"))
    bob.wait_until_stopped()
    bob.kill()
    alice.wait_for(WAITING)
    alice.send(signal.SIGINT)
    failed(alice.result(), 69, "bob disconnected")


def test_a_failure_before_the_opening_does_not_wait(pair: Pair) -> None:
    """Nothing depends on a match yet."""
    marked_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"min_duration": "1h"}
    pair.link(LISTENER, connect_retry_times=1)
    result = pair.start(LISTENER).result()
    failed(result, 69, "bob did not answer")
    assert WAITING not in result.stderr


@pytest.mark.more
def test_a_run_that_takes_longer_is_warned_about(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"min_duration": 1}
    alice = pair.start(LISTENER, "--json")
    alice.wait_for("listening on")
    wait_until(lambda: time.monotonic() - alice.started > 2, "the duration is over", DEADLINE)
    assert pair.start(DIALER).result().code == 0
    result = alice.result()
    succeeded([result])
    (warning,) = the_object(result.stdout)["warnings"]
    assert "longer than policy.min_duration, which is 1 s, so its duration may show how much matched" in warning
    assert warning in result.stderr


def test_what_is_too_long() -> None:
    at = time.monotonic()
    assert Duration(PolicySettings(min_duration=60), at).excess is None
    assert Duration(PolicySettings(), at - 1e6).excess is None
    assert Duration(PolicySettings(min_duration=60), at - 61).excess is not None


# The longest duration --------------------------------------------------------------------------------------------


@pytest.mark.more
def test_a_run_ends_at_its_time(pair: Pair) -> None:
    """The peer stops in the middle; it hears of the policy, and the old output stays."""
    marked_pair(pair, broadcast=False)
    pair.path(LISTENER, "out/people.csv").write_bytes(OLD)
    pair.jobs[LISTENER]["policy"] = {"max_duration": "20s"}
    alice, bob = pair.start(LISTENER), pair.start(DIALER, env=HELD)
    bob.wait_until_stopped()
    alice.wait_for("the limit of policy.max_duration")
    bob.send(signal.SIGCONT)
    failed(
        alice.result(),
        79,
        "the exchange was not complete 20 s after the start of the run, the limit of policy.max_duration",
    )
    failed(bob.result(), 80, "alice's policy does not allow this run")
    assert pair.path(LISTENER, "out/people.csv").read_bytes() == OLD


@pytest.mark.more
def test_the_wait_for_the_peer_is_part_of_the_time(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["policy"] = {"max_duration": 1}
    result = pair.start(LISTENER).result()
    failed(result, 69, "bob did not answer within 1 s")
    assert "for up to 1 s" in result.stderr


# Strictness ------------------------------------------------------------------------------------------------------


@pytest.mark.more
def test_a_strict_run(pair: Pair) -> None:
    """It needs TLS and the native backend; without either, it ends before it listens or dials."""
    marked_pair(pair)
    for job in pair.jobs.values():
        job["policy"] = {"strict": True}
    failed(pair.start(LISTENER).result(), 78, r"job\.yaml:\d+: policy\.strict: needs TLS")
    issue(pair.folder, {LISTENER: LISTENER, DIALER: DIALER})
    with_tls(pair)
    slow = {"PSICLI_BACKEND": "reference"}
    result = pair.start(LISTENER, env=slow).result()
    failed(result, 78, "policy.strict needs the native backend, but this run would use reference")
    assert "listening" not in result.stderr
    check = pair.start_command("check", "--config", pair.job_file(LISTENER), "--wait", "0", env=slow).result()
    assert check.code == 78
    assert b"policy.strict needs the native" in check.stdout
    if curve.backend().startswith("native"):
        pair.program = ("-c", TELLS_STRICT)
        results = pair.run()
        succeeded(results)
        assert all("strict: True" in result.stderr for result in results)
        check_output(pair, LISTENER, 0, "out/people.csv")


@pytest.mark.more
def test_a_strict_run_needs_an_intact_ledger(pair: Pair) -> None:
    """It is refused, every night, until a run without strict has recorded the break."""
    marked_pair(pair)
    issue(pair.folder, {LISTENER: LISTENER, DIALER: DIALER})
    with_tls(pair)
    own = {party: {"PSICLI_STATE_DIR": str(pair.folder / f"state-{party}")} for party in PARTIES}

    def both() -> list[Result]:
        runs = [pair.start(party, "--quiet", env=own[party]) for party in PARTIES]
        return [run.result() for run in runs]

    succeeded(both())
    path = pair.folder / f"state-{LISTENER}" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    broken = b"".join(lines[:1] + lines[2:])
    path.write_bytes(broken)
    pair.jobs[LISTENER]["policy"] = {"strict": True}
    for _ in range(2):
        alice, bob = both()
        failed(alice, 79, r"is not as psicli left it \(removed: line 2\), and policy\.strict allows no run with it")
        failed(bob, 80, "alice's policy does not allow this run")
        assert path.read_bytes() == broken
    check = ["check", "--config", pair.job_file(LISTENER), "--wait", "0"]
    assert pair.start_command(*check, env=own[LISTENER]).result().code == 79
    pair.jobs[LISTENER]["policy"] = {}
    succeeded(both())
    pair.jobs[LISTENER]["policy"] = {"strict": True}
    succeeded(both())
