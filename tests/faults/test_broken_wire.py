"""Runs whose peer hangs, or whose network drops connections or damages data."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.jobs.faults import (
    KILLED_WITHIN,
    all_right,
    check_failed,
    check_survivor,
    go_on,
    job,
    new_outputs,
    next_run_is_good,
    start_both,
)
from support.processes.certificates import issue
from support.processes.expectations import failed
from support.processes.proxy import Proxy
from support.processes.runner import DIALER, LISTENER, PARTIES, SLOWLY, Pair, Run, free_ports, other

# Pings detect a stopped process, or a network that loses everything, within this time [s].
FOUND_WITHIN = 90.0
# The idle timeout in tests that do not measure it [ms].
IMPATIENT = 2000
# The reconnect window in tests where a party should reconnect, or should give up for another reason first [ms].
PATIENT = 600_000
# Enough rows to keep a run busy while a test breaks the network; fewer where the test breaks it early and lets the run
# finish.
BUSY_ROWS = 40_000
SOME_ROWS = 6_000


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_a_party_that_is_stopped_is_found(faulty: Pair, party: str) -> None:
    for each in PARTIES:
        faulty.link(each, recv_timeout_ms=300_000, reconnect_window_ms=PATIENT)
    runs = start_both(faulty, party, "frame.sending:stop:2")
    survivor = runs[other(party)]
    survivor.lasts(FOUND_WITHIN)
    result = survivor.result()
    assert result.ended - survivor.started < FOUND_WITHIN
    check_survivor(faulty, other(party), result, {69})
    runs[party].send(signal.SIGCONT)
    failed(runs[party].result(), 69, f"{other(party)} disconnected")
    next_run_is_good(faulty)


@contextmanager
def proxied(folder: Path, rows: int = BUSY_ROWS, **link: int) -> Iterator[tuple[Pair, Proxy]]:
    """Yield a job whose dialer connects through a proxy, with enough rows to run for a while."""
    with free_ports(2) as ports:
        pair = job(Pair(folder, ports[0]), rows, frame_items=1024)
        pair.environment = SLOWLY
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{ports[1]}"
        for party in PARTIES:
            pair.link(party, **link)
        proxy = Proxy(ports[1], ports[0])
        try:
            yield pair, proxy
        finally:
            pair.kill()
            proxy.close()


def exchanging(pair: Pair, party: str = "", failpoint: str = "") -> dict[str, Run]:
    """Start both parties, one of them with a failpoint, and wait until they exchange points."""
    runs = start_both(pair, party, failpoint)
    for run in runs.values():
        run.wait_for("exchanging")
    return runs


def both_lost(pair: Pair, runs: dict[str, Run], within: float, sentence: str) -> None:
    """Check that both parties exit with 69 in time and keep their old outputs."""
    broken = time.monotonic()
    for run in runs.values():
        run.lasts(within)
    for party, run in runs.items():
        result = run.result()
        failed(result, 69, f"{other(party)} {sentence}")
        assert result.ended - broken < within
        assert new_outputs(pair, party) == set()
    pair.nothing_left()


@pytest.mark.more
def test_a_wire_that_loses_everything(tmp_path: Path) -> None:
    with proxied(tmp_path, recv_timeout_ms=IMPATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.blackhole()
        both_lost(pair, runs, 30.0, "sent nothing for 2 s")


@pytest.mark.slow
def test_pings_detect_a_network_that_acknowledges_and_loses_everything(tmp_path: Path) -> None:
    """A middlebox that still acknowledges packets looks like a stopped peer."""
    with proxied(tmp_path, recv_timeout_ms=300_000, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.blackhole()
        both_lost(pair, runs, FOUND_WITHIN, "disconnected")


@pytest.mark.more
def test_a_connection_that_breaks_for_good(tmp_path: Path) -> None:
    with proxied(tmp_path, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.refuse()
        proxy.reset()
        both_lost(pair, runs, 30.0, "disconnected")


@pytest.mark.more
@pytest.mark.parametrize(
    "fault", ["reset", *(pytest.param(each, marks=pytest.mark.slow) for each in ("half_close", "lose_the_dialer"))]
)
def test_a_broken_connection_is_reestablished(tmp_path: Path, fault: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        for _ in range(3):
            made = proxy.made
            getattr(proxy, fault)()
            while proxy.made == made and any(run.lasts(0.02) for run in runs.values()):
                pass
        results = {party: run.result() for party, run in runs.items()}
        all_right(pair, results)
        assert "alice is back after" in results[DIALER].stderr
        assert proxy.made > 1
        pair.nothing_left()


RECONNECTING = [("reconnect.dialled", DIALER), ("reconnect.answered", DIALER), ("reconnect.answered", LISTENER)]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RECONNECTING)
def test_killed_while_it_reconnects(tmp_path: Path, point: str, party: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair, party, f"{point}:kill")
        proxy.reset()
        victim = runs[party].result()
        # A network accepts no connection when nobody listens any more.
        proxy.refuse()
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{pair.port}"
        survivor = runs[other(party)].result()
        assert victim.code == -signal.SIGKILL
        assert survivor.ended - victim.ended < KILLED_WITHIN
        go_on(pair, runs, party, survivor)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RECONNECTING)
def test_a_failure_while_it_reconnects(tmp_path: Path, point: str, party: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair, party, f"{point}:raise")
        proxy.reset()
        mine, theirs = (runs[each].result() for each in (party, other(party)))
        assert theirs.ended - mine.ended < KILLED_WITHIN
        if party == LISTENER:
            # The listener takes the dialer for a stranger and drops it; the dialer tries again.
            all_right(pair, {party: mine, other(party): theirs})
        else:
            check_failed(pair, point, party, mine, "raise")
            check_survivor(pair, other(party), theirs, {69, 80})
        pair.nothing_left()


@pytest.mark.more
def test_a_slow_wire(tmp_path: Path) -> None:
    with proxied(tmp_path, 200) as (pair, proxy):
        proxy.delay(0.05)
        runs = {party: pair.start(party) for party in PARTIES}
        all_right(pair, {party: run.result() for party, run in runs.items()})


def flip_on_the_wire(folder: Path, octets: int, *, tls: bool) -> set[int]:
    """Flip a bit this many octets after the first points; check the outputs and return the set of exit codes."""
    with proxied(folder, SOME_ROWS, recv_timeout_ms=5 * IMPATIENT, reconnect_window_ms=PATIENT) as (pair, proxy):
        if tls:
            issue(folder, {party: party for party in PARTIES})
            files = {"ca_file": "../ca.pem", "certificate_file": "../{}.pem", "private_key_file": "../{}.key"}
            for party in PARTIES:
                own = {field: name.format(party) for field, name in files.items()}
                pair.jobs[party]["cluster"]["tls"] = own
        runs = exchanging(pair)
        proxy.flip_after(octets)
        results = {party: run.result() for party, run in runs.items()}
        assert proxy.flipped
        codes = {result.code for result in results.values()}
        if codes == {0}:
            all_right(pair, results)
        else:
            assert [new_outputs(pair, each) for each in PARTIES] == [set(), set()]
        pair.nothing_left()
        return codes


# Offsets inside the frames rather than in the framing around them.
OFFSETS = [random.Random(seed).randrange(20_000, 100_000) for seed in range(5)]
# Either the digest of the stream detects the change, or it breaks the connection and the parties reconnect.
DETECTED_OR_RECONNECTED = ({76}, {0})


@pytest.mark.slow
def test_a_flipped_bit_in_plain_text_is_found(tmp_path: Path) -> None:
    assert flip_on_the_wire(tmp_path, OFFSETS[0], tls=False) in DETECTED_OR_RECONNECTED


@pytest.mark.slow
@pytest.mark.parametrize("octets", OFFSETS)
def test_a_flipped_bit_in_tls_makes_the_parties_reconnect(tmp_path: Path, octets: int) -> None:
    assert flip_on_the_wire(tmp_path, octets, tls=True) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("octets", OFFSETS[1:])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, octets: int) -> None:
    assert flip_on_the_wire(tmp_path, octets, tls=False) in DETECTED_OR_RECONNECTED
