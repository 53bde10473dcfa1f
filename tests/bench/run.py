"""Measure a whole run of two processes on this machine; `psicli bench` measures the curve alone.

With --counts, compare runs for rows with runs that only count, in turn; processor times tell more on a busy machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import yaml
from shared.parties import PARTIES, RECEIVER, Outcome, run_parties, work_folder, write_job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--counts", type=int, default=0, metavar="RUNS", help="compare this many runs of each kind")
    arguments = parser.parse_args()
    rows = arguments.rows
    with work_folder() as folder:
        write_keys(folder, rows)
        if arguments.counts:
            compare(folder, rows, arguments.counts)
            return
        outcome = run_parties(write_job(folder, suffix="csv"))
    task = outcome.task(RECEIVER)
    sent = task["bytes_sent"] + task["bytes_received"]
    print(f"{rows:,} x {rows:,} rows: {outcome.seconds:.1f} s from start to exit, {task['matched']:,} matched")
    print(f"messages: {sent / rows:.2f} bytes per pair of items; backend {outcome.reports[RECEIVER]['backend']}")


def compare(folder: Path, rows: int, runs: int) -> None:
    """Run a job for rows and one that counts in turn, and print the medians of their times."""
    jobs = {"rows": write_job(folder, suffix="csv"), "count": counting_job(folder)}
    seconds: dict[str, list[float]] = {kind: [] for kind in jobs}
    cores: dict[str, list[float]] = {kind: [] for kind in jobs}
    outcomes: dict[str, Outcome] = {}
    for _ in range(runs):
        for kind, job in jobs.items():
            before = processor_time()
            outcomes[kind] = run_parties(job)
            seconds[kind].append(outcomes[kind].seconds)
            cores[kind].append(processor_time() - before)
    for kind, outcome in outcomes.items():
        listed = ", ".join(f"{each:.2f}" for each in seconds[kind])
        peaks = ", ".join(f"{party} {outcome.peak(party) / 1e6:.0f} MB" for party in PARTIES)
        matched = outcome.task(RECEIVER)["matched"]
        print(
            f"{kind}: median {median(seconds[kind]):.2f} s of {listed}, {median(cores[kind]):.2f} s of processor time"
        )
        print(f"    {matched:,} matched; peak memory: {peaks}")
    clock, busy = (median(times["count"]) / median(times["rows"]) for times in (seconds, cores))
    print(f"{rows:,} x {rows:,}: count takes {clock:.3f} times as long, and {busy:.3f} times the processor time")


def processor_time() -> float:
    """Return the processor time of all child processes that have ended [s]."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def counting_job(folder: Path) -> Path:
    """Write a job that counts, with the limits that its sender needs."""
    limits = {"min_peer_items": 1, "max_runs_per_day": 10_000}
    path = write_job(folder, name="count", suffix="csv")
    job = yaml.safe_load(path.read_text())
    job |= {"psi": {"receiver": RECEIVER, "result": "count"}, "policy": limits}
    del job["tasks"][0]["output_path"]
    path.write_text(yaml.safe_dump(job))
    return path


def write_keys(folder: Path, rows: int) -> None:
    """Write both parties' CSV files with half of the keys common."""
    for party, first in zip(PARTIES, (0, rows // 2), strict=True):
        keys = (f"customer-{number:09d},{number}\n" for number in range(first, first + rows))
        (folder / f"{party}.csv").write_text("id,value\n" + "".join(keys))


if __name__ == "__main__":
    main()
