"""Runs that are made to fail: a job, both parties started with a failpoint in one, and what holds at their ends.

Each side has the right result, or a nonzero exit and its old output; it ends within its time; and the next run succeeds
and leaves nothing of the last one.

"""

from __future__ import annotations

import time

import pytest
from support.processes.expectations import OLD, check_output, csv_data, failed, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, Side, other

from psicli.core.failpoints import POINTS, VARIABLE

# From the death of a side to the end of the other, where they had met, on a machine that has other things to do [s].
KILLED_WITHIN = 30.0
# Who still runs so long after the other has ended has not met it, and waits for it [s].
GRACE = 2.0
# Broadcast and one-sided, so that each party receives once and sends once.
BOTH, ALONE = "both", "alone"

SPOOL = tuple(point for point in POINTS if point.startswith("spool."))
# What is passed where finished bins are kept, and where the result of a task is.
BINS = tuple(point for point in POINTS if point.startswith("bins."))
STATE = tuple(point for point in POINTS if point.startswith("state."))
# What only one of the parties does in a good run of the job below, or none.
ONLY = {
    "port.bound": LISTENER, "commit.sending": LISTENER, "peer.dialled": DIALER, "commit.arrived": DIALER,
    "abort.sending": None, "abort.arrived": None, "reconnect.dialled": None, "reconnect.answered": None,
    "restart.sending": None, "restart.arrived": None, "working.sending": None, "working.arrived": None,
    **dict.fromkeys(SPOOL + BINS),
}  # fmt: skip
CASES = [(point, party) for point in POINTS for party in PARTIES if ONLY.get(point, party) == party]
BINS_CASES = [(point, party) for point in BINS for party in PARTIES]
RESUME_CASES = [*CASES, *BINS_CASES]
SPOOL_CASES = [(point, party) for point in SPOOL for party in PARTIES]

# Of what is the same on both sides, make test sees one.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]
OUTPUTS = {LISTENER: [BOTH], DIALER: [BOTH, ALONE]}


# The job ------------------------------------------------------------------------------------------------------------


def job(pair: Pair, rows: int = 2500, **pipeline: object) -> Pair:
    """Two tasks of so many rows a party, three quarters of them in common, over outputs of a run before."""
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
    return {each: pair.start(each, "--json", env={VARIABLE: failpoint} if each == party else {}) for each in PARTIES}


def ends(runs: dict[str, Run], party: str) -> tuple[Result, Result | None]:
    """Wait for the end of a party with a fault, and of the other: None where it waits for one that never came."""
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
    """Run again whoever does not wait already: all is right, and nothing is left of any run."""
    started = time.monotonic()
    waiting = waiting or {}
    runs = {party: waiting.get(party) or pair.start(party, "--json") for party in PARTIES}
    for run in waiting.values():
        result = run.result()
        if result.code:
            # It had met the one with the fault after all, and was slow to end.
            assert result.ended - started < KILLED_WITHIN
            for each in runs.values():
                each.kill()
            next_run_is_good(pair)
            return
    all_right(pair, {party: run.result() for party, run in runs.items()})
    pair.nothing_left()


def new_outputs(pair: Pair, party: str) -> set[str]:
    """Return the tasks whose output is the new one, which must be right; any other must be the old one."""
    found = set()
    for task in OUTPUTS[party]:
        name = f"out/{task}.csv"
        if pair.path(party, name).read_bytes() != OLD:
            check_output(pair, party, (BOTH, ALONE).index(task), name)
            found.add(task)
    return found


def check_survivor(pair: Pair, party: str, result: Result, codes: set[int]) -> None:
    """Check a side that had no fault of its own: done, or failed for the peer, and outputs as its report says."""
    report = the_object(result.stdout)
    done = {task["name"] for task in report["tasks"] if task["status"] == "done"}
    assert new_outputs(pair, party) == done & set(OUTPUTS[party]), result.text
    if done == {BOTH, ALONE}:
        assert result.code == 0, result.text
    else:
        assert result.code in codes, result.text
        failed(result, result.code, other(party))
        assert report["error"]["party"] == other(party)


# Killed at every point ----------------------------------------------------------------------------------------------


def go_on(pair: Pair, runs: dict[str, Run], party: str, survivor: Result | None) -> None:
    """Check what a party that was killed has left, and run again."""
    new_outputs(pair, party)
    if survivor is None:
        next_run_is_good(pair, {other(party): runs[other(party)]})
    else:
        check_survivor(pair, other(party), survivor, {69})
        next_run_is_good(pair)


# An exception or a full disk at every point -------------------------------------------------------------------------

# The codes of a full disk where something is written; anywhere else nobody expects one.
NO_SPACE = {
    "ledger.appended": 74, "ledger.synced": 74, "output.created": 73, "output.written": 74, "output.synced": 74,
    "output.renamed": 74, "output.kept": 74, "report.written": 74, "spool.created": 73, "spool.reserved": 74,
    "spool.written": 74, "spool.read": 74,
}  # fmt: skip
# The new output is in place and whole when this fails.
IN_PLACE = {"output.renamed", "output.kept", "done.sending", "bins.wiped", *STATE}
# What a full disk leaves no room for is not kept, and the run goes on.
GIVEN_UP = {*BINS, *STATE}
# Where the listener takes whoever is there for a stranger, and the dialer tries again.
STRANGER = {("hello.arrived", LISTENER), ("hello.sending", LISTENER), ("link.arriving", LISTENER)}


def check_failed(pair: Pair, point: str, party: str, result: Result, action: str) -> None:
    """Check a side that failed by itself: its code, its first cause, and outputs as its report says."""
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
