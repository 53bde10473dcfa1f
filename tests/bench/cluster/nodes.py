"""Compare a party on one and on two Ray nodes of one core each with the threads of its own process, in turns.

The peer's points were made beforehand, so that this party computes nearly alone. But on a machine of two cores, its own
process and the peer's also take their share of the nodes' cores. The ratio is that of the exchange: a run on a cluster
also connects, checks the nodes and starts workers, which takes some seconds whatever the number of rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import Any

from cluster.setting import Time, make_points, run
from shared.parties import in_child, work_folder, write_keys
from support.clusters.cluster import Cluster, NoCluster, running

TWO_THREADS, ONE_NODE, TWO_NODES = "two threads", "one node", "two nodes"
ROW = "{:<12} {:>9} {:>8} {:>8} {:>6} {:>9}  {}"


def ways(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return the pipeline section of each way to compute."""
    at = {"ray": cluster.address}
    return {
        TWO_THREADS: {"threads": 2},
        ONE_NODE: {"workers": {**at, "max_workers": 1}},
        TWO_NODES: {"workers": at},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each party (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way (%(default)s)")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("This needs two cores.")
    try:
        with work_folder() as folder, running(1, core=cores[0]) as cluster:
            cluster.add(core=cores[1])
            in_child(write_keys, folder, options.rows)
            points = make_points(folder, "peer")
            times: dict[str, list[Time]] = {way: [] for way in ways(cluster)}
            for _ in range(options.runs):
                for way, pipeline in ways(cluster).items():
                    times[way].append(run(folder, cluster, points, **pipeline))
            cluster.nothing_left()
    except NoCluster as error:
        sys.exit(f"There is no cluster: {error}.")
    show(options.rows, times)


def show(rows: int, times: dict[str, list[Time]]) -> None:
    print(f"{rows:,} x {rows:,} rows, each node with one core; median of {len(times[ONE_NODE])} runs in turns [s]")
    print(ROW.format("", "whole run", "task", "exchange", "ratio", "rows/s", "exchanges"))
    medians = {way: statistics.median(each.exchange for each in found) for way, found in times.items()}
    for way, found in times.items():
        whole, task = (statistics.median(getattr(each, name) for each in found) for name in ("whole", "task"))
        runs = " ".join(f"{each.exchange:.2f}" for each in found)
        ratio, speed = f"{medians[way] / medians[TWO_THREADS]:.2f}x", f"{rows / medians[way]:,.0f}"
        print(ROW.format(way, f"{whole:.2f}", f"{task:.2f}", f"{medians[way]:.2f}", ratio, speed, runs))
    print(f"the second node makes the exchange {medians[ONE_NODE] / medians[TWO_NODES]:.2f}x as fast")


if __name__ == "__main__":
    main()
