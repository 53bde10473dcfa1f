"""A crowd of strangers holds more connections than a process may have: both parties finish with their results."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from support.hostile.crowd import crowd
from support.processes.certificates import issue, with_tls
from support.processes.expectations import check_output, csv_data
from support.processes.proxy import Proxy
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Run, Side, free_ports

ROWS = 5_000
# How many files a party may open, and how many connections the crowd holds: silent ones, and half-open ones.
SMALL = (256, 300, 60)
LARGE = (1024, 1500, 300)
SIZES = [pytest.param(SMALL, id="small"), pytest.param(LARGE, id="large", marks=pytest.mark.more)]


def prepared(pair: Pair, *, tls: bool) -> Pair:
    for party, start in zip(PARTIES, (0, ROWS // 2), strict=True):
        pair.path(party, "in.csv").write_bytes(csv_data(["id"], [[f"{row}"] for row in range(start, start + ROWS)]))
    side = Side(["id"], "in.csv", "out/out.csv")
    pair.add("task", side, side, broadcast_result=True)
    if tls:
        issue(pair.folder, {party: party for party in PARTIES})
        with_tls(pair)
    for party in PARTIES:
        pair.link(party, reconnect_window_ms=60_000)
    return pair


def start(pair: Pair, party: str, files: int) -> Run:
    return pair.start(party, "-v", before=f"ulimit -n {files}")


def all_is_well(pair: Pair, alice: Run, bob: Run) -> None:
    for party, result in ((LISTENER, alice.result()), (DIALER, bob.result())):
        assert result.code == 0, result.stderr
        assert len(result.stderr.splitlines()) < 60, "the log is not quiet"
        check_output(pair, party, 0, "out/out.csv")


@pytest.mark.more
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tls", [pytest.param(True, id="tls"), pytest.param(False, id="plain", marks=pytest.mark.more)])
def test_a_crowd_that_was_there_before_keeps_nobody_out(pair: Pair, tls: bool, size: tuple[int, int, int]) -> None:
    files, silent, half_open = size
    prepared(pair, tls=tls)
    alice = start(pair, LISTENER, files)
    alice.wait_for("listening on")
    with crowd(pair.port, silent, half_open):
        all_is_well(pair, alice, start(pair, DIALER, files))


@pytest.mark.more
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_a_broken_connection_is_restored_through_a_crowd(pair: Pair, tls: bool) -> None:
    """The crowd comes when the parties are in session, and stays until the end."""
    files, silent, half_open = LARGE
    prepared(pair, tls=tls).environment = {"PSICLI_BACKEND": "reference"}
    with ExitStack() as stack:
        (between,) = stack.enter_context(free_ports(1))
        proxy = Proxy(between, pair.port)
        stack.callback(proxy.close)
        alice = start(pair, LISTENER, files)
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{between}"
        bob = start(pair, DIALER, files)
        bob.wait_for("exchanging")
        stack.enter_context(crowd(pair.port, silent, half_open))
        proxy.reset()
        bob.wait_for("alice is back after")
        all_is_well(pair, alice, bob)


def test_too_many_open_files_end_a_run_as_busy(pair: Pair) -> None:
    """The limit is so low that the run cannot open its files: it says so, and a later run may succeed."""
    prepared(pair, tls=False)
    alice = start(pair, LISTENER, 12)
    result = alice.result()
    assert result.code == 75, result.stderr
    assert "ulimit -n" in result.stderr
