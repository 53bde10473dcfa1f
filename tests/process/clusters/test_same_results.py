"""A party gets the same outputs from a Ray cluster as from the threads of its own process."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from support.clusters.cluster import Cluster
from support.clusters.fixtures import StartCluster
from support.clusters.jobs import PORTABLE, only_psicli_speaks, outputs, sample, use
from support.jobs import resumed
from support.processes.expectations import numbers, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, other
from support.waiting import wait_until

# The size of a bin with which this many rows make eight bins.
BIN_ITEMS = {100_000: 16_384, 300_000: 65_536}


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_the_sample_job(pair: Pair, cluster: Cluster, party: str) -> None:
    numbers(sample(pair))
    expected = outputs(pair)
    assert len(expected) == 6
    use(pair, cluster, party)
    assert outputs(pair) == expected
    pair.nothing_left()


def large(pair: Pair, suffix: str, rows: int, **terms: object) -> None:
    """Add a task with this many rows in random order for each party, two thirds of them common."""
    for party, first in zip(PARTIES, (0, rows // 3), strict=True):
        row = [(number * 7_919) % rows + first for number in range(rows)]
        table = pa.table({"id": [f"customer-{number:09}" for number in row], "row": row})
        path = pair.path(party, f"in.{suffix}")
        if suffix == "parquet":
            pq.write_table(table, path, row_group_size=rows // 8)
            continue
        pyarrow.csv.write_csv(table, path)
        if suffix.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    side = Side(["id"], f"in.{suffix}", "out/rows.csv")
    pair.add("rows", side, side if terms.get("broadcast_result") else Side(["id"], f"in.{suffix}"), **terms)
    for party in PARTIES:
        pair.jobs[party]["pipeline"] = {"bin_items": BIN_ITEMS[rows]}


@pytest.mark.parametrize(
    ("suffix", "rows", "broadcast"),
    [
        pytest.param("parquet", 100_000, True, marks=pytest.mark.more),
        pytest.param("csv", 100_000, False, marks=pytest.mark.more),
        pytest.param("parquet", 300_000, False, marks=pytest.mark.slow),
        pytest.param("csv.gz", 300_000, True, marks=pytest.mark.slow),
    ],
)
def test_eight_bins(pair: Pair, cluster: Cluster, suffix: str, rows: int, broadcast: bool) -> None:
    """Whatever the format of the inputs, which the head reads because they are small."""
    large(pair, suffix, rows, broadcast_result=broadcast)
    expected = outputs(pair)
    for party in PARTIES:
        use(pair, cluster, party)
        assert outputs(pair) == expected
        cluster.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("victim", PARTIES)
@pytest.mark.parametrize("party", PARTIES)
def test_a_run_resumes_what_a_killed_one_has_finished(pair: Pair, cluster: Cluster, party: str, victim: str) -> None:
    """party: the one on the cluster."""
    resumed.job(pair)
    use(pair, cluster, party)
    resumed.killed(pair, victim, resumed.MIDDLE[victim])
    cluster.nothing_left()
    results = resumed.run_again(pair)
    only_psicli_speaks(*results.values())
    assert 0 < resumed.resumed_share(results, resumed.FIRST) < 1


@pytest.mark.more
def test_a_run_on_a_cluster_resumes_what_threads_have_finished(pair: Pair, cluster: Cluster) -> None:
    resumed.job(pair, broadcast=True)
    resumed.killed(pair, DIALER, resumed.MIDDLE[DIALER])
    use(pair, cluster, DIALER)
    results = resumed.run_again(pair)
    assert 0 < resumed.resumed_share(results, resumed.FIRST) < 1


@pytest.mark.more
@pytest.mark.parametrize("party", [PARTIES[0], pytest.param(PARTIES[1], marks=pytest.mark.slow)])
def test_a_node_that_is_added_gets_bins(pair: Pair, start_cluster: StartCluster, party: str) -> None:
    cluster = start_cluster(1, environment=PORTABLE)
    large(pair, "csv", 100_000)
    expected = outputs(pair)
    use(pair, cluster, party)
    pair.environment |= PORTABLE
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    wait_until(lambda: cluster.workers() or not runs[party].lasts(0), "the head has a worker")
    added = cluster.add()
    wait_until(lambda: added.workers() or not runs[party].lasts(0), "the new node has a worker")
    result = runs[party].result()
    succeeded([result, runs[other(party)].result()])
    nodes = the_object(result.stdout)["nodes"]
    assert [each["bins"] > 0 for each in nodes] == [True, True], nodes
    assert {f"{LISTENER}/rows.csv": pair.path(LISTENER, "out/rows.csv").read_bytes()} == expected
    cluster.nothing_left()
