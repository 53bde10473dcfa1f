"""Measure the cost of rows: run both parties on Parquet files of several sizes within the same memory limit."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from shared.parties import PARTIES, RECEIVER, SENDER, Outcome, in_child, run_parties, work_folder, write_job, write_keys

HEAD = f"{'rows each':>12} {'seconds':>8} {'us/row':>9} {'receiver':>11} {'sender':>11} {'spool':>20}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--memory", default="512MB", help="memory limit of each party (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder on a real disk for the inputs and the spool")
    options = parser.parse_args()
    print(f"memory: {options.memory}\n{HEAD}")
    outcomes = {}
    for rows in options.rows:
        with work_folder(options.folder) as folder:
            in_child(write_keys, folder, rows)
            outcomes[rows] = run_parties(write_job(folder, pipeline={"memory": options.memory}))
        print(line(rows, outcomes[rows]), flush=True)
    for (few, first), (many, second) in pairwise(outcomes.items()):
        print(growth(few, first, many, second))


def line(rows: int, outcome: Outcome) -> str:
    peaks = " ".join(f"{outcome.peak(party) / 1e6:8.1f} MB" for party in (RECEIVER, SENDER))
    spool = " + ".join(f"{outcome.reports[party]['spool_bytes'] / 1e6:,.0f}" for party in PARTIES) + " MB"
    return f"{rows:12,} {outcome.seconds:8.2f} {outcome.seconds / rows * 1e6:9.2f} {peaks} {spool:>20}"


def growth(few: int, first: Outcome, many: int, second: Outcome) -> str:
    """Return a line on the growth of time per row and of memory between two sizes."""
    time = (second.seconds / many) / (first.seconds / few) - 1
    memory = [f"{party} {second.peak(party) / first.peak(party) - 1:+.1%}" for party in PARTIES]
    return f"{few:,} to {many:,} rows: time per row {time:+.1%}, peak memory {', '.join(memory)}"


if __name__ == "__main__":
    main()
