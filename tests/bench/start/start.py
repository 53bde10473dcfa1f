"""Show what a start costs: small runs of both parties against the import of the libraries alone, and where it goes.

Both processes of a measurement start at the same time. Wall time is from their start to the exit of both; processor
time is that of both. The two kinds of measurement alternate, so that a busy machine slows down both.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

# The other files of the benchmarks.
sys.path.insert(0, str(Path(__file__).parents[1]))

from shared.parties import PARTIES, RECEIVER, work_folder, write_job

LIBRARIES = [sys.executable, "-c", "import pyarrow, grpc"]
IMPORTED = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
# How many packages the table names.
SHOWN = 20


def write_rows(folder: Path, rows: int) -> Path:
    """Write a CSV file for each party, with half of the keys in common, and return the job file."""
    for party, first in zip(PARTIES, (0, rows // 2), strict=True):
        lines = [f"id-{number:09d},{number % 97}" for number in range(first, first + rows)]
        (folder / f"{party}.csv").write_text("\n".join(["id,n", *lines, ""]))
    return write_job(folder, suffix="csv")


def run_command(job: Path, party: str, *options: str) -> list[str]:
    return [sys.executable, *options, "-m", "psicli", "run", "--quiet", "--config", str(job), "--party", party]


def measured(commands: Sequence[Sequence[str]], folder: Path) -> tuple[float, float, list[str]]:
    """Start processes at the same time; return the wall time and the processor time [s], and their standard error."""
    environment = os.environ | {"PSICLI_STATE_DIR": str(folder / "state")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for command in commands]
    errors = [process.communicate()[1] for process in processes]
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(process.returncode for process in processes):
        sys.exit(f"A process failed: {''.join(errors)[-500:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, errors


def by_package(traced: str) -> Counter[str]:
    """Return the time that the modules of each package took themselves to import [us]."""
    times: Counter[str] = Counter()
    for own, name in IMPORTED.findall(traced):
        parts = name.split(".")
        times[".".join(parts[: 2 if parts[0] == "psicli" else 1])] += int(own)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5, help="how often to repeat it; the table has medians")
    options = parser.parse_args()
    with work_folder() as folder:
        job = write_rows(folder, options.rows)
        kinds = {
            "import pyarrow, grpc": [LIBRARIES] * 2,
            f"psicli run, {options.rows:,} rows": [run_command(job, party) for party in PARTIES],
        }
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        # The first round fills caches and compiles modules.
        for number in range(options.runs + 1):
            for name, commands in kinds.items():
                seconds, processor, _ = measured(commands, folder)
                figures[name] += [(seconds, processor)] * (number > 0)
        traced = [run_command(job, party, *(["-X", "importtime"] if party == RECEIVER else [])) for party in PARTIES]
        times = by_package(measured(traced, folder)[2][0])
    medians = {name: [median(column) for column in zip(*found, strict=True)] for name, found in figures.items()}
    base = medians["import pyarrow, grpc"]
    print("two processes at the same time     wall [s]   ratio   processor [s]   ratio")
    for name, (seconds, processor) in medians.items():
        print(f"{name:32} {seconds:10.2f} {seconds / base[0]:7.2f} {processor:15.2f} {processor / base[1]:7.2f}")
    print(f"\nimports of the listener: {sum(times.values()) / 1000:.0f} ms with the cost of tracing, of which [ms]")
    for name, micros in times.most_common(SHOWN):
        print(f"{name:32} {micros / 1000:10.1f}")


if __name__ == "__main__":
    main()
