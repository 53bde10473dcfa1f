"""Measure how many items a second the head of a cluster forwards between its peer and workers that take no time.

The workers and the peer return points that were made beforehand. On this machine the workers and the peer take their
share of the cores; on a cluster the head has its own. So the script also divides by the processor time of the head's
process alone, which is what one core of the head could forward.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from cluster.setting import canned, make_points, run
from shared.parties import in_child, work_folder, write_keys
from support.clusters.cluster import NoCluster, running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each party (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way (%(default)s)")
    options = parser.parse_args()
    with work_folder() as folder:
        in_child(write_keys, folder, options.rows)
        points = {party: make_points(folder, party) for party in ("own", "peer")}
        try:
            with running(2, environment=canned(points["own"])) as cluster:
                times = [
                    run(folder, cluster, points["peer"], workers={"ray": cluster.address}) for _ in range(options.runs)
                ]
                cluster.nothing_left()
        except NoCluster as error:
            sys.exit(f"There is no cluster: {error}.")
    task, own = (statistics.median(each) for each in zip(*((run.task, run.own_process) for run in times), strict=True))
    print(
        f"{options.rows:,} x {options.rows:,} rows, workers and peer with canned points; median of {options.runs} runs"
    )
    print(f"the task takes {task:.2f} s: {options.rows / task:,.0f} items a second")
    print(f"the head computes for {own:.2f} s: {options.rows / own:,.0f} items a second of one core")


if __name__ == "__main__":
    main()
