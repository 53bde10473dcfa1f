"""Compare whole runs, from start to exit, with the kernel's work alone, in turn; also with another build of psicli.

Both parties run at once on this machine, as do the two processes that only compute: each hashes and masks as many items
and masks as many points as a party does, in the same frames. What a run takes longer is reading, sorting, exchanging,
matching and writing, and the start and the end of the processes. On a busy machine, processor times tell more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from shared.parties import PARTIES, RECEIVER, in_child, party_processes, run_parties, work_folder, write_job, write_keys

# A way to run: returns the seconds and the processor seconds of both processes.
Way = Callable[[], tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5, help="how often to run each way; medians are compared")
    parser.add_argument("--parquet", action="store_true", help="read and write Parquet instead of CSV")
    parser.add_argument("--against", type=Path, metavar="TREE", help="a folder with another build of psicli")
    arguments = parser.parse_args()
    suffix = "parquet" if arguments.parquet else "csv"
    with work_folder() as folder:
        in_child(write_keys, folder, arguments.rows)
        if not arguments.parquet:
            in_child(to_csv, folder)
        ways: dict[str, Way] = {
            "kernel alone": lambda: kernel(arguments.rows),
            "psicli": lambda: whole_run(write_job(folder, suffix=suffix)),
        }
        if arguments.against is not None:
            ways[str(arguments.against)] = lambda: whole_run(write_job(folder, suffix=suffix), arguments.against)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.runs):
            for name, run in ways.items():
                taken[name].append(run())
    print(f"{arguments.rows:,} x {arguments.rows:,} rows from {suffix}, medians of {arguments.runs}")
    least = [median(column) for column in zip(*taken["kernel alone"], strict=True)]
    for name, times in taken.items():
        clock, busy = (median(column) for column in zip(*times, strict=True))
        print(
            f"{name}: {clock:.2f} s ({clock / least[0]:.2f}x), "
            f"{busy:.2f} s of processor time ({busy - least[1]:+.2f} s, {busy / least[1]:.2f}x)"
        )


def to_csv(folder: Path) -> None:
    from pyarrow import csv, parquet

    for party in PARTIES:
        options = csv.WriteOptions(quoting_style="none")
        csv.write_csv(parquet.read_table(folder / f"{party}.parquet"), folder / f"{party}.csv", options)


def whole_run(job: Path, tree: Path | None = None) -> tuple[float, float]:
    """Run both parties, with the psicli of another folder if one is given."""
    before, used = os.environ.copy(), processor_time()
    if tree is not None:
        # Not the psicli of the working directory.
        os.environ |= {"PYTHONPATH": str(tree.resolve()), "PYTHONSAFEPATH": "1"}
    try:
        outcome = run_parties(job)
    finally:
        os.environ.clear()
        os.environ |= before
    if outcome.task(RECEIVER)["matched"] is None:
        sys.exit("The run matched nothing.")
    return outcome.seconds, processor_time() - used


def kernel(rows: int) -> tuple[float, float]:
    """Let two processes compute at the same time; what they prepare does not count."""
    program = [sys.executable, str(Path(__file__).with_name("kernel_alone.py")), str(rows)]
    with party_processes() as processes:
        for party in PARTIES:
            processes[party] = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pipes = [(process.stdin, process.stdout) for process in processes.values()]
        for _, said in pipes:
            assert said is not None
            said.readline()
        for go, _ in pipes:
            assert go is not None
            go.write(b"go\n")
            go.flush()
        times = [[*map(float, said.readline().split())] for _, said in pipes if said is not None]
    return max(clock for clock, _ in times), sum(busy for _, busy in times)


def processor_time() -> float:
    """Return the processor time of all child processes that have ended [s]."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
