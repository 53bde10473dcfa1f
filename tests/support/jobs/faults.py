"""Runs with an injected fault: a job, both parties started with a failpoint in one of them, and the checks at the end.

Each party has either the correct result, or a nonzero exit code and its old output. It ends within its time limit, and
the next run succeeds and leaves no trace of the failed one.
"""

from __future__ import annotations

import time

import pytest
from support.processes.expectations import OLD, check_output, csv_data, failed, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, Side, failing_at, other

from psicli.core.failpoints import POINTS

# A party in session ends within this time after its peer was killed, even on a busy machine [s].
KILLED_WITHIN = 30.0
# A party that still runs this long after the other ended has never met it, and is waiting for a peer [s].
GRACE = 2.0
# One task is a broadcast and one is one-sided, so that each party is the receiver once and the sender once.
BOTH, ALONE = "both", "alone"

SPOOL = tuple(point for point in POINTS if point.startswith("spool."))
# The failpoints hit when a run keeps finished bins, and when it keeps the result of a task.
BINS = tuple(point for point in POINTS if point.startswith("bins."))
STATE = tuple(point for point in POINTS if point.startswith("state."))
UPLOAD = tuple(point for point in POINTS if point.startswith("upload."))
# Failpoints that only one party hits in a successful run of the job below, or none.
ONLY = {
    "port.bound": LISTENER, "commit.sending": LISTENER, "peer.dialled": DIALER, "commit.arrived": DIALER,
    "abort.sending": None, "abort.arrived": None, "reconnect.dialled": None, "reconnect.answered": None,
    "restart.sending": None, "restart.arrived": None, "working.sending": None, "working.arrived": None,
    "skip.sending": None, "skip.arrived": None,
    **dict.fromkeys(SPOOL + BINS + UPLOAD),
}  # fmt: skip
CASES = [(point, party) for point in POINTS for party in PARTIES if ONLY.get(point, party) == party]
BINS_CASES = [(point, party) for point in BINS for party in PARTIES]
RESUME_CASES = [*CASES, *BINS_CASES]
SPOOL_CASES = [(point, party) for point in SPOOL for party in PARTIES]

# The other of the two similar cases is for `make test-slow`.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]
OUTPUTS = {LISTENER: [BOTH], DIALER: [BOTH, ALONE]}


# The job ------------------------------------------------------------------------------------------------------------


def job(pair: Pair, rows: int = 2500, **pipeline: object) -> Pair:
    """Add two tasks with this many rows per party, three quarters of them common; all outputs have old content."""
    for party, start in zip(PARTIES, (0, rows // 4), strict=True):
        data = csv_data(["id"], ([f"row-{row}"] for row in range(start, start + rows)))
        pair.path(party, "in.csv").write_bytes(data)
        pair.jobs[party]["pipeline"] = pipeline or {"frame_items": 1024}
    for task, receiver, broadcast in ((BOTH, LISTENER, True), (ALONE, DIALER, False)):
        sides = [Side(["id"], "in.csv", f"out/{task}.csv" if task in OUTPUTS[party] else None) for party in PARTIES]
        pair.add(task, *sides, receiver=receiver, broadcast_result=broadcast)
    renew_outputs(pair)
    return pair


def renew_outputs(pair: Pair) -> None:
    for party, tasks in OUTPUTS.items():
        for task in tasks:
            pair.path(party, f"out/{task}.csv").write_bytes(OLD)


def start_both(pair: Pair, party: str, failpoint: str) -> dict[str, Run]:
    """Start both parties, one of them with a failpoint."""
    return {each: pair.start(each, "--json", env=failing_at(failpoint if each == party else "")) for each in PARTIES}


def ends(runs: dict[str, Run], party: str) -> tuple[Result, Result | None]:
    """Wait for the faulty party, then for its peer; the second result is None if the peer is still waiting for it."""
    mine, peer = runs[party].result(), runs[other(party)]
    if not peer.said("in session with") and peer.lasts(GRACE):
        return mine, None
    theirs = peer.result()
    assert theirs.ended - mine.ended < KILLED_WITHIN
    return mine, theirs


def all_right(pair: Pair, results: dict[str, Result]) -> None:
    for result in results.values():
        assert result.code == 0, result.text
    for party, tasks in OUTPUTS.items():
        for task in tasks:
            check_output(pair, party, (BOTH, ALONE).index(task), f"out/{task}.csv")


def next_run_is_good(pair: Pair, waiting: dict[str, Run] | None = None) -> None:
    """Start each party that is not already waiting; check that the run succeeds and that nothing is left behind."""
    started = time.monotonic()
    waiting = waiting or {}
    runs = {party: waiting.get(party) or pair.start(party, "--json") for party in PARTIES}
    for run in waiting.values():
        result = run.result()
        if result.code:
            # The waiting party had met the faulty one after all, and was slow to end.
            assert result.ended - started < KILLED_WITHIN
            for each in runs.values():
                each.kill()
            next_run_is_good(pair)
            return
    all_right(pair, {party: run.result() for party, run in runs.items()})
    pair.nothing_left()


def new_outputs(pair: Pair, party: str) -> set[str]:
    """Return the tasks with a new output, which must be correct; check that every other output is the old one."""
    found = set()
    for task in OUTPUTS[party]:
        name = f"out/{task}.csv"
        if pair.path(party, name).read_bytes() != OLD:
            check_output(pair, party, (BOTH, ALONE).index(task), name)
            found.add(task)
    return found


def check_survivor(pair: Pair, party: str, result: Result, codes: set[int]) -> None:
    """Check a party without a fault: it is done or failed because of its peer, and its outputs match its report."""
    report = the_object(result.stdout)
    done = {task["name"] for task in report["tasks"] if task["status"] == "done"}
    assert new_outputs(pair, party) == done & set(OUTPUTS[party]), result.text
    if done == {BOTH, ALONE}:
        assert result.code == 0, result.text
    else:
        assert result.code in codes, result.text
        failed(result, result.code, other(party))
        assert report["error"]["party"] == other(party)


# Killed at every failpoint ------------------------------------------------------------------------------------------


def go_on(pair: Pair, runs: dict[str, Run], party: str, survivor: Result | None) -> None:
    """Check the outputs of a killed party and its peer, and run again."""
    new_outputs(pair, party)
    if survivor is None:
        next_run_is_good(pair, {other(party): runs[other(party)]})
    else:
        check_survivor(pair, other(party), survivor, {69})
        next_run_is_good(pair)


# An exception or a full disk at every failpoint ---------------------------------------------------------------------

# Exit codes of a full disk at failpoints where psicli writes; elsewhere it counts as an unexpected error.
NO_SPACE = {
    "ledger.head.written": 74, "ledger.appended": 74, "ledger.synced": 74,
    "output.created": 73, "output.written": 74, "output.synced": 74,
    "output.renamed": 74, "output.kept": 74, "report.written": 74, "spool.created": 73, "spool.reserved": 74,
    "spool.written": 74, "spool.read": 74,
}  # fmt: skip
# The new output is already in place when one of these fails.
IN_PLACE = {"output.renamed", "output.kept", "done.sending", "bins.wiped", *STATE}
# If the disk is full here, the run keeps no checkpoint and continues.
GIVEN_UP = {*BINS, *STATE}
# At these failpoints the listener takes the dialer for a stranger, and the dialer tries again.
STRANGER = {("hello.arrived", LISTENER), ("hello.sending", LISTENER), ("link.arriving", LISTENER)}


def check_failed(pair: Pair, point: str, party: str, result: Result, action: str) -> None:
    """Check the party that failed: its exit code, the first cause, and outputs that match its report."""
    code = NO_SPACE.get(point, 70) if action == "enospc" else 70
    assert result.code == code, result.text
    if point == "report.written":
        return
    report = the_object(result.stdout)
    unexpected = "an unexpected " + {"raise": "RuntimeError", "enospc": "OSError"}[action]
    assert (unexpected if code == 70 else "no space left on device") in report["error"]["message"]
    done = {task["name"] for task in report["tasks"] if task["status"] == "done"} & set(OUTPUTS[party])
    new = new_outputs(pair, party)
    assert new == done or (point in IN_PLACE and new > done)
