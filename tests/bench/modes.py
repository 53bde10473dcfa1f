"""Compare three ways to intersect several files: one session, parallel jobs, and one job after another.

Also measure the cost of one more task of 1,000 rows in a session. With --batch, compare a hundred small files as tasks
of one session, as one task with all their rows, as separate runs, and as runs of SPU if it is installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from libraries import peers
from shared.parties import free_port

HEAD = """\
job: {name}
cluster:
  nodes:
    - {{party: alice, address: "127.0.0.1:{port}"}}
    - {{party: bob}}
  link_desc: {{connect_retry_times: 600, connect_retry_interval_ms: 50}}
psi: {{receiver: alice}}
tasks:
"""
TASK = """\
  - name: task-{number}
    keys: {{alice: [id], bob: [id]}}
    input_path: {{alice: alice-{number}.csv, bob: bob-{number}.csv}}
    output_path: {{alice: out-{number}.csv}}
"""
# The number of separate runs to measure; the time of all is extrapolated from them.
SAMPLED_RUNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, help="default: 4, with --batch 100")
    parser.add_argument("--rows", type=int, help="rows per party and file; default: 2000, with --batch 10000")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way with --batch, in turn; medians are shown")
    options = parser.parse_args()
    options.files = options.files or (100 if options.batch else 4)
    options.rows = options.rows or (10_000 if options.batch else 2000)
    with tempfile.TemporaryDirectory() as name:
        (print_batch if options.batch else print_ways)(Path(name), options)


def print_ways(folder: Path, options: argparse.Namespace) -> None:
    numbers = range(options.files)
    write_inputs(folder, numbers, options.rows)
    one = write_job(folder, "one", numbers)
    each = [write_job(folder, f"job-{number}", [number]) for number in numbers]
    together = timed(lambda: finish(start(one)))
    side_by_side = timed(lambda: finish([process for job in each for process in start(job)]))
    serially = timed(lambda: [finish(start(job)) for job in each])
    print(f"{options.files} files of {options.rows:,} x {options.rows:,} rows")
    for label, seconds in (("one session", together), ("parallel jobs", side_by_side), ("one by one", serially)):
        print(f"{label:13} {seconds:6.2f} s  {seconds / together:4.2f}x")
    print_further_task(folder)


def print_further_task(folder: Path) -> None:
    many = range(100, 121)
    write_inputs(folder, many, 1000)
    few, all_of_them = write_job(folder, "few", many[:1]), write_job(folder, "many", many)
    short, long = timed(lambda: finish(start(few))), timed(lambda: finish(start(all_of_them)))
    print(f"each further task of 1,000 x 1,000 rows: {(long - short) / (len(many) - 1) * 1000:.0f} ms")


def print_batch(folder: Path, options: argparse.Namespace) -> None:
    """Compare a batch of small files with one task of all their rows and with one run per file."""
    files, rows, all_rows = options.files, options.rows, options.files * options.rows
    numbers, whole = range(files), range(files, files + 1)
    write_inputs(folder, numbers, rows)
    write_inputs(folder, whole, all_rows)
    batch, single = write_job(folder, "batch", numbers), write_job(folder, "single", whole)
    jobs = [write_job(folder, f"job-{number}", [number]) for number in numbers[:SAMPLED_RUNS]]
    few = len(jobs)
    ways: dict[str, Callable[[], float]] = {
        f"one task of {all_rows:,} rows": lambda: timed(lambda: finish(start(single))),
        f"{files} tasks of {rows:,} rows, one session": lambda: timed(lambda: finish(start(batch))),
        f"{files} runs, one after another *": lambda: timed(lambda: [finish(start(job)) for job in jobs]) * files / few,
    }
    if peers.PEERS_PYTHON.exists():
        inputs = folder / "peers"
        peers.generate(inputs, rows)
        ways[f"{files} runs of SPU's ECDH on FourQ *"] = lambda: spu_seconds(inputs, rows) * files
    taken: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(options.runs):
        for label, way in ways.items():
            taken[label].append(way())
    base = statistics.median(next(iter(taken.values())))
    for label, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{label:45} {middle:7.2f} s  {middle / base:5.2f}x  ({', '.join(f'{each:.2f}' for each in seconds)})")
    print(f"* extrapolated from {few} runs")


def spu_seconds(inputs: Path, rows: int) -> float:
    """Return the mean duration of some runs of SPU, one after another [s]."""
    options = argparse.Namespace(timeout=600, peers_python=peers.PEERS_PYTHON, link=None, memory=None)
    runs = [peers.measure("spu-fourq", inputs, rows, options) for _ in range(SAMPLED_RUNS)]
    return statistics.mean(run.seconds for run in runs)


def write_inputs(folder: Path, numbers: range, rows: int) -> None:
    for number in numbers:
        for party, first in (("alice", 0), ("bob", rows // 2)):
            keys = "".join(f"customer-{key:09d},{key}\n" for key in range(first, first + rows))
            (folder / f"{party}-{number}.csv").write_text("id,value\n" + keys)


def write_job(folder: Path, name: str, numbers: range | list[int]) -> Path:
    path = folder / f"{name}.yaml"
    tasks = "".join(TASK.format(number=number) for number in numbers)
    path.write_text(HEAD.format(name=name, port=free_port()) + tasks)
    return path


def start(job: Path) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "psicli", "run", "--config", str(job), "--quiet"]
    # Keep benchmark runs out of this user's ledger.
    env = {**os.environ, "PSICLI_STATE_DIR": str(job.parent / "state")}
    return [subprocess.Popen([*command, "--party", party], env=env) for party in ("alice", "bob")]


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait() for process in processes] == [0] * len(processes)


def timed(work) -> float:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
