"""What the benchmarks of clusters share: runs of a receiver with a peer whose points were made beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.parties import RECEIVER, SENDER, party_processes, write_job
from support.clusters.cluster import Cluster

from psicli import curve

HOOK = Path(__file__).parent / "canned"
# Enough bins that two nodes, two of which each has under way, get equal shares [items].
BIN_ITEMS = 65_536


@dataclass(frozen=True)
class Time:
    """What a run took: the whole of it, its task, the task without its reading, and the receiver's own process [s].

    The latter is processor time. points: those that the workers masked, of both parties; 0 without a cluster.
    """

    whole: float
    task: float
    exchange: float
    own_process: float
    points: int


def make_points(folder: Path, name: str) -> Path:
    """Write the points that one party sends in each bin, which holds somewhat more than BIN_ITEMS at most."""
    path = folder / f"{name}.points"
    items = curve.packed_items([number.to_bytes(4, "big") for number in range(2 * BIN_ITEMS)])
    path.write_bytes(curve.hash_and_mask(items, os.urandom(32), os.urandom(32)))
    return path


def canned(points: Path) -> dict[str, str]:
    """Return the environment of processes whose workers return these points."""
    return {"BENCH_CANNED": str(points), "PYTHONPATH": f"{HOOK}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}


def run(folder: Path, cluster: Cluster, peer_points: Path, **pipeline: Any) -> Time:
    """Run both parties; pipeline: fields of the section in the receiver's job file."""
    job = write_job(folder, pipeline={"bin_items": BIN_ITEMS, **pipeline})
    started = time.monotonic()
    with party_processes() as processes:
        processes[SENDER] = _start(job, SENDER, {**canned(peer_points), "PSICLI_WORKERS": "threads"})
        processes[RECEIVER] = _start(job, RECEIVER, cluster.environment)
        outputs = {party: each.stdout.read() for party, each in processes.items() if each.stdout is not None}
        # Unlike Popen.wait, this also returns the processor time.
        _, status, used = os.wait4(processes[RECEIVER].pid, 0)
        processes[RECEIVER].returncode = os.waitstatus_to_exitcode(status)
    whole = time.monotonic() - started
    reports = {party: json.loads(octets) for party, octets in outputs.items()}
    if failed := [report["error"]["message"] for report in reports.values() if report["error"]]:
        sys.exit(f"The run failed: {failed[0]}")
    task, points = reports[RECEIVER]["tasks"][0], sum(node["points"] for node in reports[RECEIVER]["nodes"])
    exchange = task["seconds"] - task["stages"]["reading"]
    return Time(whole, task["seconds"], exchange, used.ru_utime + used.ru_stime, points)


def _start(job: Path, party: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "psicli", "run", "--json", "--resume=never", "--config", job, "--party", party]
    state = {"PSICLI_STATE_DIR": str(job.parent / "state")}
    # Each run warns that nothing matched; its errors are in its report.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **state, **environment}
    )
