"""A job that is killed halfway and run again, and what both parties then report and have kept."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from support.processes.expectations import check_output, csv_data, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, Side, failing_at, other

from psicli.exchange.finished import Manifest

# The number of items of each party, in 4 bins; a bin has 6 frames of points in each direction and 6 of tokens.
ROWS, BINS, BIN_FRAMES = 40_000, 4, 6
PIPELINE = {"bin_items": 16_384, "frame_items": 2048}
FIRST, SECOND = "first", "second"
# Stop while a party masks the peer's points near the end of the second task, when the first task is done. By RR22, a
# party answers what the peer has sent once a bin.
IN_SECOND = {"ecdh": f"peer.masked:stop:{2 * BINS * BIN_FRAMES - 3}", "rr22": f"peer.masked:stop:{2 * BINS - 1}"}
# The number of frames that a receiver gets per bin. The frame after those of two bins arrives only after the receiver
# has sent `Received` for the first one.
ARRIVING = 2 * BIN_FRAMES
# The failpoints that kill a party in the middle of the first task, when only some bins are finished: a receiver writes
# once per bin, with the result; a sender writes twice, when it answers a bin and when the receiver confirms it.
MIDDLE = {LISTENER: "bins.written:kill:2", DIALER: "bins.written:kill:5"}


def job(pair: Pair, *, broadcast: bool = False, rows: int = ROWS, protocol: str = "ecdh") -> Pair:
    """Add two tasks: alice receives the first, bob the second; three quarters of the rows are common."""
    for party, start in zip(PARTIES, (0, rows // 4), strict=True):
        data = csv_data(["id"], ([f"row-{row}"] for row in range(start, start + rows)))
        pair.path(party, "in.csv").write_bytes(data)
        pair.jobs[party]["pipeline"] = dict(PIPELINE)
        pair.jobs[party]["psi"]["protocol"] = protocol
    for task, receiver in ((FIRST, LISTENER), (SECOND, DIALER)):
        sides = [
            Side(["id"], "in.csv", f"out/{task}.csv" if broadcast or party == receiver else None) for party in PARTIES
        ]
        pair.add(task, *sides, receiver=receiver, broadcast_result=broadcast)
    return pair


def start(pair: Pair, party: str, failpoint: str = "", *arguments: str, **how: Any) -> Run:
    return pair.start(party, "--json", "-v", *arguments, env=failing_at(failpoint), **how)


def killed(pair: Pair, party: str, failpoint: str, *arguments: str) -> None:
    """Kill a party at a failpoint and wait for the other to end."""
    runs = {each: start(pair, each, failpoint if each == party else "", *arguments) for each in PARTIES}
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code in (0, 69)


def killed_in_second(pair: Pair, party: str) -> None:
    """Kill a party near the end of the second task, after both have finished the first one."""
    stop = IN_SECOND[pair.jobs[DIALER]["psi"]["protocol"]]
    runs = {each: start(pair, each, stop if each == DIALER else "") for each in PARTIES}
    for run in runs.values():
        run.wait_for(f"{FIRST}: done in")
    os.waitid(os.P_PID, runs[DIALER].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    runs[party].send(signal.SIGKILL)
    runs[DIALER].send(signal.SIGCONT)
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code == 69


def run_again(pair: Pair, *arguments: str) -> dict[str, Result]:
    """Run both parties, check that all outputs are correct, and that at most the manifests of senders are left."""
    runs = {party: start(pair, party, "", *arguments) for party in PARTIES}
    results = {party: run.result() for party, run in runs.items()}
    for result in results.values():
        assert result.code == 0, result.text
    for party in PARTIES:
        for index, task in enumerate(pair.jobs[party]["tasks"]):
            if "output_path" in task and reports(results)[party].get(task["name"]):
                check_output(pair, party, index, task["output_path"][party])
    pair.nothing_left()
    for folder in (pair.folder / "state").glob("task-*"):
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "meta"]
        assert b'"result": {' in (folder / "meta").read_bytes()
    assert_no_bin_was_answered_thrice(pair)
    return results


def reports(results: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Return each party's report of each task."""
    return {
        party: {task["name"]: task for task in the_object(result.stdout)["tasks"]} for party, result in results.items()
    }


def shares(results: dict[str, Result], task: str) -> list[float | None]:
    return [reports(results)[party][task]["resumed"] for party in PARTIES]


def resumed_share(results: dict[str, Result], task: str) -> float:
    """Return the share of a task that an earlier run had done; check that both parties report the same."""
    mine, theirs = shares(results, task)
    assert mine == theirs
    assert mine is not None
    return mine


def sids(results: dict[str, Result], task: str) -> set[str]:
    return {report[task]["task_sid"] for report in reports(results).values()}


def files(pair: Pair, name: str) -> list[Path]:
    found = [path / name for path in (pair.folder / "state").glob("task-*")]
    return [path for path in found if path.exists()]


def manifests(pair: Pair) -> dict[tuple[str, str], Manifest]:
    """Return the manifests on disk, by party and task."""
    found = [Manifest.from_octets(path.read_bytes()) for path in files(pair, "meta")]
    return {(each.bound_to["party"], each.bound_to["task"]): each for each in found}


def shown(pair: Pair) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the number of finished bins and of all bins that `psicli status` shows, by party and task."""
    kept = json.loads(pair.start_command("status", "--json").result().stdout)["kept"]
    return {(each["party"], each["task"]): (each["finished_bins"], each["bins"]) for each in kept}


def answers(pair: Pair) -> Counter[tuple[str, str, int]]:
    """Return how often each bin was answered, by partition, peer and bin."""
    lines = map(json.loads, (pair.folder / "state" / "ledger.jsonl").read_text().splitlines())
    return Counter((line["task_sid"], line["peer"], line["bin"]) for line in lines if line["event"] == "answer")


def assert_no_bin_was_answered_thrice(pair: Pair) -> None:
    assert max(answers(pair).values(), default=0) <= 2


def opened(pair: Pair, task: str = FIRST) -> list[str]:
    """Return the runs of a task with the listener that the ledger counts."""
    lines = map(json.loads, (pair.folder / "state" / "ledger.jsonl").read_text().splitlines())
    return [
        line["task_sid"]
        for line in lines
        if (line["event"], line.get("task"), line.get("peer")) == ("open", task, LISTENER)
    ]
