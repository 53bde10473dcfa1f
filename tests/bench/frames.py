"""Measure `psicli.intersect` on two data frames against the command line on the same rows, in turn.

Two Python processes, each with its data frame in memory, call intersect; two processes of `psicli run` read the same
rows from Parquet files. Both are timed from the moment at which the two sides start to that at which both have ended.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from shared.parties import PARTIES, free_port, in_child, run_parties, work_folder, write_job, write_keys

# Says that it is ready, waits for a line, and calls intersect; then it says how long that took.
SIDE = """
import sys, time
import pandas
import psicli
party, peer, address, path = sys.argv[1:]
frame = pandas.read_parquet(path)
psicli.load_job
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
started = time.monotonic()
rows = psicli.intersect(frame, on="id", party=party, peer=peer, address=address)
sys.stdout.write(f"{len(rows)} {time.monotonic() - started}\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    command_line, frames = [], []
    with work_folder() as folder:
        in_child(write_keys, folder, options.rows)
        paths = {name: {party: f"{party}{name}.parquet" for party in PARTIES} for name in ("", "-out")}
        task = {"name": "rows", "keys": {party: ["id"] for party in PARTIES}}
        task |= {"input_path": paths[""], "output_path": paths["-out"]}
        job = write_job(folder, psi={"receiver": PARTIES[0], "broadcast_result": True}, tasks=[task])
        for _ in range(options.runs):
            command_line.append(run_parties(job).seconds)
            frames.append(intersect_frames(folder))
    ratio = statistics.median(frames) / statistics.median(command_line)
    print(f"{options.rows:,} x {options.rows:,} rows, median of {options.runs} runs")
    print(f"command line: {statistics.median(command_line):.2f} s; intersect: {statistics.median(frames):.2f} s")
    print(f"intersect takes {ratio:.2f}x as long")


def intersect_frames(folder: Path) -> float:
    """Run both parties with data frames, and return the time of the longer call [s]."""
    address, first = f"127.0.0.1:{free_port()}", PARTIES[0]
    sides = []
    for party in PARTIES:
        peer = next(each for each in PARTIES if each != party)
        command = [sys.executable, "-c", SIDE, party, peer, address, folder / f"{party}.parquet"]
        variables = {**os.environ, "PSICLI_STATE_DIR": str(folder / f"state-{party}")}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        sides.append(subprocess.Popen(command, env=variables, **pipes))  # type: ignore[call-overload]
    try:
        for side in sides:
            assert side.stdout.readline() == "ready\n"
        started = time.monotonic()
        for side in sides:
            side.stdin.write("go\n")
            side.stdin.flush()
        for side in sides:
            rows, _ = side.stdout.readline().split()
            assert int(rows) > 0, first
        return time.monotonic() - started
    finally:
        for side in sides:
            side.kill()
            side.communicate()


if __name__ == "__main__":
    main()
