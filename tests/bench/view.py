"""Compare the duration of a one-sided sender's run when everything matches and when nothing does, in alternating runs.

The receiver's rows are wide, so writing the matched ones takes time, which the sender must not be able to measure. Both
parties run on this machine, so with many tasks the writing also slows the sender down by taking its cores; use --pin to
give each party its own core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from shared.parties import free_port

HEAD = """\
job: view
cluster:
  nodes:
    - {{party: alice, address: "127.0.0.1:{port}"}}
    - {{party: bob}}
  link_desc: {{connect_retry_times: 600, connect_retry_interval_ms: 50}}
psi: {{receiver: alice}}
pipeline: {{threads: 1}}
tasks:
"""
TASK = """\
  - name: task-{number}
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: {kind}.csv, bob: bob.csv}}
    output_path: {{alice: out-{number}.csv}}
"""
KINDS = ("full", "empty")


@dataclass(frozen=True)
class Run:
    """The durations of the sender's run, and of comparing and writing at the receiver [s]."""

    sender: float
    writing: float


@dataclass(frozen=True)
class Comparison:
    """Medians and quartile ranges over the runs of each kind [s]."""

    runs: dict[str, list[Run]]

    def median(self, kind: str) -> float:
        return statistics.median(run.sender for run in self.runs[kind])

    def spread(self, kind: str) -> float:
        low, _, high = statistics.quantiles((run.sender for run in self.runs[kind]), n=4, method="inclusive")
        return high - low

    @property
    def difference(self) -> float:
        return self.median("full") - self.median("empty")

    @property
    def noise(self) -> float:
        return max(self.spread(kind) for kind in KINDS)

    @property
    def writing(self) -> float:
        """The additional time that the receiver needs to write when everything matches."""
        full, empty = (statistics.median(run.writing for run in self.runs[kind]) for kind in KINDS)
        return full - empty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=4000, help="width of the receiver's rows [bytes]")
    parser.add_argument("--runs", type=int, default=7, help="runs of each kind")
    parser.add_argument("--pin", action="store_true", help="give each party its own core")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), **options)
    print("{tasks} tasks of {rows:,} x {rows:,} rows of {width:,} bytes, {runs} runs of each kind".format(**options))
    for kind in KINDS:
        print(f"  {kind:5} sender's time: median {found.median(kind):.3f} s, quartile range {found.spread(kind):.3f} s")
    print(f"  difference {found.difference:+.3f} s; the receiver needs {found.writing:.3f} s more to write")


def compare(folder: Path, *, tasks: int, rows: int, width: int, runs: int, pin: bool = False) -> Comparison:
    """Run jobs in which everything matches and jobs in which nothing does, in turn."""
    for name, first, size in (("bob", 0, 1), ("full", 0, width), ("empty", rows, width)):
        lines = (f"customer-{number:09d},{'x' * size}\n" for number in range(first, first + rows))
        (folder / f"{name}.csv").write_text("id,value\n" + "".join(lines))
    found: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    for kind in KINDS * runs:
        found[kind].append(run_once(folder, kind, tasks, pin))
    return Comparison(found)


def run_once(folder: Path, kind: str, tasks: int, pin: bool) -> Run:
    """Run both parties until they end."""
    job = folder / "job.yaml"
    entries = "".join(TASK.format(number=number, kind=kind) for number in range(tasks))
    job.write_text(HEAD.format(port=free_port()) + entries)
    command = [sys.executable, "-m", "psicli", "run", "--config", str(job), "--json", "--quiet"]
    processes = {}
    for core, party in enumerate(("alice", "bob")):
        pinned = ["taskset", "-c", str(core % (os.cpu_count() or 1))] if pin else []
        processes[party] = subprocess.Popen([*pinned, *command, "--party", party], stdout=subprocess.PIPE)
    started = time.monotonic()
    reports = {"bob": json.loads(processes["bob"].communicate()[0])}
    sender = time.monotonic() - started
    reports["alice"] = json.loads(processes["alice"].communicate()[0])
    assert all(report["exit_code"] == 0 for report in reports.values()), reports
    stages = [task["stages"] for task in reports["alice"]["tasks"]]
    return Run(sender, sum(each["writing"] + each["matching"] for each in stages))


if __name__ == "__main__":
    main()
