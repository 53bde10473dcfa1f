"""Measure how many points a second the head of a cluster forwards between its peer and workers that take no time.

The workers and the peer return points that were made beforehand. On this machine the workers and the peer take their
share of the cores; on a cluster the head has its own. A point is one that a worker masks, of either party; the tokens
that come back for half of them are not counted.
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
    fastest = min(times, key=lambda run: run.exchange)
    print(
        f"{options.rows:,} x {options.rows:,} rows, workers and peer with canned points; median of {options.runs} runs"
    )
    exchange = statistics.median(each.exchange for each in times)
    own = statistics.median(each.own_process for each in times)
    points = times[0].points
    print(
        f"the exchange takes {exchange:.2f} s: the head forwards {points / exchange:,.0f} points a second (the median)"
    )
    print(f"the fastest takes {fastest.exchange:.2f} s: {points / fastest.exchange:,.0f} points a second")
    print(f"the head's process computes for {own:.2f} s in all, from its start to its end")


if __name__ == "__main__":
    main()
