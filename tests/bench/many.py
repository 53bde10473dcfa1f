"""Compare three ways to run many jobs: `psicli batch`, one after another, and all at once.

Both parties run on this machine. First the peer works in the same way with the same list of jobs. Then each of its jobs
is late: it starts some time after this party's job listens, as on the machine of somebody who is slow to appear. The
three ways take turns in each round, and each measurement begins with an empty state folder. The time is that from the
first start to the last end of either party. The memory is the most that all processes of this party held at the same
time (the sum of their resident sets, in which shared libraries count for each of them).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from shared.parties import PARTIES, RECEIVER, SENDER

PSICLI = (sys.executable, "-m", "psicli")
LOOP = 'for job; do {command} --config "$job" || exit; done'
SERIALLY, AT_ONCE, BATCH = "one after another", "all at once", "batch"
WAYS = (SERIALLY, AT_ONCE, BATCH)
# How often the bench looks at the processes and the ports, in which it takes little time itself [s].
LOOK = 0.1
HEAD = f"{'':19} {'median':>8} {'ratio':>7} {'memory':>10}  rounds"


@dataclass(frozen=True)
class Measured:
    """One measurement; peak: of this party's processes [bytes]. verdict: what the batch says that it gained."""

    seconds: float
    peak: int
    verdict: Sequence[str] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each party in each job")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--late", type=float, default=2.0, help="how late each job of a late peer is [s]")
    parser.add_argument("--memory", default="4GB", help="of each batch (%(default)s)")
    parser.add_argument("--only", choices=("on time", "late"))
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{options.jobs} jobs of {options.rows:,} x {options.rows:,} rows on {cores} cores, {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="psicli-bench-") as name:
        bench = Bench(Path(name), options.jobs, options.rows, options.memory)
        for title, late in (("the peer works in the same way", None), ("each peer is late", options.late)):
            if options.only in (None, "on time" if late is None else "late"):
                print_ways(f"{title}{f' by {late:g} s' if late is not None else ''}", bench, options.rounds, late)


def print_ways(title: str, bench: Bench, rounds: int, late: float | None) -> None:
    measured: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            measured[way].append(bench.measure(way, late))
    seconds = {way: statistics.median(each.seconds for each in found) for way, found in measured.items()}
    print(f"\n{title}\n{HEAD}")
    for way, found in measured.items():
        peak = max(each.peak for each in found) / 1e6
        each_round = ", ".join(f"{each.seconds:.2f}" for each in found)
        print(f"{way:19} {seconds[way]:6.2f} s {seconds[way] / seconds[BATCH]:6.2f}x {peak:7.0f} MB  {each_round}")
    best = min(seconds[SERIALLY], seconds[AT_ONCE])
    print(f"batch: {seconds[SERIALLY] / seconds[BATCH]:.2f}x as fast as {SERIALLY}; ", end="")
    print(f"{seconds[BATCH] / best - 1:+.1%} time against the better of the two others")
    for each in measured[BATCH]:
        print(*(f"  its own verdict: {line}" for line in each.verdict), sep="\n", flush=True)


class Bench:
    """Job files and inputs for both parties, and their processes."""

    def __init__(self, folder: Path, jobs: int, rows: int, memory: str) -> None:
        self._folder = folder
        self._memory = memory
        self._jobs: list[Path] = []
        self._ports: list[int] = []
        for party, first in zip(PARTIES, (0, rows // 2), strict=True):
            keys = "".join(f"customer-{key:09d},{key}\n" for key in range(first, first + rows))
            (folder / f"{party}.csv").write_text("id,value\n" + keys)
        for number, port in enumerate(free_ports(jobs)):
            self._add(f"job-{number}", port)

    def _add(self, name: str, port: int) -> None:
        task = {
            "name": "rows",
            "keys": {party: ["id"] for party in PARTIES},
            "input_path": {party: f"{party}.csv" for party in PARTIES},
            "output_path": {RECEIVER: f"{name}-out.csv"},
        }
        nodes = [{"party": RECEIVER, "address": f"127.0.0.1:{port}"}, {"party": SENDER}]
        # As long as by default, but looking more often.
        patience = {"connect_retry_times": 12_000, "connect_retry_interval_ms": 50}
        cluster = {"nodes": nodes, "link_desc": patience}
        path = self._folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"job": name, "cluster": cluster, "psi": {"receiver": RECEIVER}, "tasks": [task]})
        )
        self._jobs.append(path)
        self._ports.append(port)

    def measure(self, way: str, late: float | None) -> Measured:
        """Run all jobs in one way. late: start each job of the peer so long after this party's job listens [s]."""
        for path in (*self._folder.glob("*-out.csv"), *self._folder.glob("state-*")):
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        started, peak = time.monotonic(), 0
        with ended_processes() as running:
            mine = self._start(way, RECEIVER, running)
            if late is None:
                self._start(way, SENDER, running)
            absent = dict(zip(self._ports, self._jobs, strict=True)) if late is not None else {}
            due: dict[Path, float] = {}
            while absent or due or any(each.poll() is None for each in running):
                for port in absent.keys() & listening():
                    due[absent.pop(port)] = time.monotonic() + (late or 0.0)
                for job in [job for job, moment in due.items() if moment <= time.monotonic()]:
                    del due[job]
                    self._run(SENDER, job, running)
                peak = max(peak, sum(map(memory_of, mine)))
                time.sleep(LOOK)
            seconds = time.monotonic() - started
            for each in running:
                if each.returncode:
                    sys.exit(f"It ended with {each.returncode}: {each.args}\n{self._report(RECEIVER).read_text()}")
            verdict = verdict_of(self._report(RECEIVER)) if way == BATCH else ()
        assert len([*self._folder.glob("*-out.csv")]) == len(self._jobs)
        return Measured(seconds, peak, verdict)

    def _start(self, way: str, party: str, running: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
        """Start all jobs of a party."""
        if way == AT_ONCE:
            return [self._run(party, job, running) for job in self._jobs]
        jobs = [*map(str, self._jobs)]
        if way == BATCH:
            command = [*PSICLI, "batch", *jobs, f"--party={party}", f"--memory={self._memory}", "--json", "--quiet"]
        else:
            loop = LOOP.format(command=" ".join([*PSICLI, "run", "--quiet", "--party", party]))
            command = ["sh", "-c", loop, "sh", *jobs]
        return [self._popen(party, command, running)]

    def _run(self, party: str, job: Path, running: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        return self._popen(party, [*PSICLI, "run", "--quiet", f"--config={job}", f"--party={party}"], running)

    def _popen(
        self, party: str, command: Sequence[str], running: list[subprocess.Popen[bytes]]
    ) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PSICLI_STATE_DIR": str(self._folder / f"state-{party}")}
        # Only a batch writes more than nothing.
        with open(self._report(party), "wb") as report:
            running.append(subprocess.Popen(command, env=environment, stdout=report))
        return running[-1]

    def _report(self, party: str) -> Path:
        return self._folder / f"{party}.json"


@contextmanager
def ended_processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list for processes; end all of them at the end."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        yield running
    finally:
        for process in running:
            with process:
                # A batch ends its processes itself.
                process.terminate()


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        # All at the same time, so that the system returns no port twice.
        probes = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def listening() -> set[int]:
    """Return the ports of this machine on which somebody listens."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(each[1].rpartition(":")[2], 16) for each in map(str.split, lines) if each[3] == "0A"}


def memory_of(process: subprocess.Popen[bytes]) -> int:
    """Return the memory of a process and of all below it [bytes]."""
    held = 0
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid)
        for each in (found, *found.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                held += each.memory_info().rss
    return held


def verdict_of(report: Path) -> Sequence[str]:
    """Return what a batch reports about the gain of running its jobs side by side."""
    facts: dict[str, Any] = json.loads(report.read_text())
    gain = facts["gain"]
    used = f"{gain['cores_used']:.1f} cores, {facts['most_jobs']} jobs at a time, {facts['peak_memory'] / 1e6:.0f} MB"
    return [
        f"{gain['verdict']}: one after another {gain['one_after_another']:.1f} s, saved {gain['saved']:.1f} s; {used}"
    ]


if __name__ == "__main__":
    main()
