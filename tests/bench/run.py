"""Measure a whole run of two processes on this machine; `psicli bench` measures the curve alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared.parties import PARTIES, RECEIVER, run_parties, work_folder, write_job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    rows = parser.parse_args().rows
    with work_folder() as folder:
        write_keys(folder, rows)
        outcome = run_parties(write_job(folder, suffix="csv"))
    task = outcome.task(RECEIVER)
    sent = task["bytes_sent"] + task["bytes_received"]
    print(f"{rows:,} x {rows:,} rows: {outcome.seconds:.1f} s from start to exit, {task['matched']:,} matched")
    print(f"messages: {sent / rows:.2f} bytes per pair of items; backend {outcome.reports[RECEIVER]['backend']}")


def write_keys(folder: Path, rows: int) -> None:
    """Write both parties' CSV files with half of the keys common."""
    for party, first in zip(PARTIES, (0, rows // 2), strict=True):
        keys = (f"customer-{number:09d},{number}\n" for number in range(first, first + rows))
        (folder / f"{party}.csv").write_text("id,value\n" + "".join(keys))


if __name__ == "__main__":
    main()
