"""Measure the cost of many columns: the same keys in Parquet files of 3 and 450 columns; a tenth of the rows match."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from shared.parties import PARTIES, RECEIVER, SENDER, Outcome, in_child, key_texts, run_parties, work_folder, write_job

# One in this many rows of the receiver has a common key.
COMMON = 10
GROUP_ROWS = 50_000
WORDS = [f"value-{number:04d}" for number in range(2000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=450)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn; medians are shown")
    parser.add_argument("--memory", help="memory limit of each party; psicli's default if not given")
    options = parser.parse_args()
    settings = {"pipeline": {"memory": options.memory}} if options.memory else {}
    with work_folder() as folder:
        jobs = {}
        for columns in (3, options.columns):
            inputs = folder / f"{columns}"
            inputs.mkdir()
            in_child(write_inputs, inputs, options.rows, columns)
            jobs[columns] = write_job(inputs, **settings)
        outcomes: dict[int, list[Outcome]] = {columns: [] for columns in jobs}
        for _ in range(options.runs):
            for columns, job in jobs.items():
                outcomes[columns].append(run_parties(job))
        for columns, runs in outcomes.items():
            size = (folder / f"{columns}" / f"{RECEIVER}.parquet").stat().st_size
            print_runs(f"{options.rows:,} rows, {columns} columns, {size / 1e6:,.0f} MB", runs)
    narrow, wide = (statistics.median(run.seconds for run in runs) for runs in outcomes.values())
    print(f"{options.columns} columns take {wide / narrow:.2f}x the time of 3")


def print_runs(label: str, runs: list[Outcome]) -> None:
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    matched = middle.task(RECEIVER)["matched"]
    print(f"{label}: {middle.seconds:.2f} s, {matched:,} matched ({', '.join(f'{run.seconds:.2f}' for run in runs)})")
    for party in PARTIES:
        stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in middle.task(party)["stages"].items())
        print(f"  {party:5} {middle.peak(party) / 1e6:6.0f} MB  {stages}")


def write_inputs(folder: Path, rows: int, columns: int) -> None:
    """Write a receiver's file with this many columns including the key, and a sender's file with two."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(1)
    numbers = random.permutation(rows)
    words = pa.array(WORDS)
    make = [
        lambda count: pa.array(random.integers(0, 1_000_000, count)),
        lambda count: pa.array(random.random(count)),
        lambda count: words.take(pa.array(random.integers(0, len(WORDS), count))),
    ]
    kinds = [pa.int64(), pa.float64(), pa.string()]
    names = [f"column_{number:03d}" for number in range(columns - 1)]
    schema = pa.schema([("id", pa.string()), *((name, kinds[at % 3]) for at, name in enumerate(names))])
    with parquet.ParquetWriter(folder / f"{RECEIVER}.parquet", schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            part = numbers[start : start + GROUP_ROWS]
            payload: list[Any] = [make[at % 3](len(part)) for at in range(len(names))]
            writer.write_table(pa.table([key_texts(part), *payload], schema=schema))
    others = random.permutation(np.arange(rows - rows // COMMON, 2 * rows - rows // COMMON))
    parquet.write_table(pa.table({"id": key_texts(others), "value": others}), folder / f"{SENDER}.parquet")


if __name__ == "__main__":
    main()
