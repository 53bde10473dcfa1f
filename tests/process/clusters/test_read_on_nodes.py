"""An input that the nodes of a cluster read gives the outputs and warnings of one that the head reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.clusters import read
from support.clusters.cluster import Cluster, title
from support.clusters.fixtures import StartCluster
from support.clusters.jobs import only_psicli_speaks, use
from support.processes.expectations import succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side
from support.waiting import wait_until

# The head reads smaller inputs by itself. Long values make few rows as large.
ROWS, WIDTH = 20_000, 3500
FACTS = ("rows", "distinct_items", "matchless_rows", "key_columns", "warnings", "matched")


@pytest.mark.more
def test_every_format_to_the_byte(cluster: Cluster, tmp_path: Path) -> None:
    """All items, rows and findings are compared in a program that is connected to the cluster."""
    command, env = [sys.executable, read.__file__, cluster.address, tmp_path], {**os.environ, **cluster.environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert (done.stdout.splitlines(), done.returncode) == (read.EXPECTED, 0), done.stderr
    cluster.nothing_left()


def rows(party: str) -> Any:
    """Return rows with repeated keys, null keys, keys that differ in case, and long values."""
    number = np.arange(ROWS) + ROWS // 4 * PARTIES.index(party)
    keys = [None if n % 97 == 0 else f"{'Kk'[n % 7 == 0]}ey-{n % 15_000}{' ' * (n % 11 == 0)}" for n in number.tolist()]
    long = [f"{n}é".rjust(WIDTH, "x") for n in number.tolist()]
    return pa.table({"id": keys, "part": pa.array(number % 3), "kind": ["a"] * ROWS, "long": long})


def write(path: Path, table: Any) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=ROWS // 9, compression="none", use_dictionary=False)
        return
    with open(path, "w") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
            return
        file.write(",".join(table.column_names) + "\n")
        file.writelines(f"{row.pop('id') or ''},{','.join(map(str, row.values()))}\n" for row in table.to_pylist())


def outcome(pair: Pair, suffix: str) -> tuple[dict[str, Any], bytes, str]:
    """Run the job; return what alice's report says about her input, her output, and her log."""
    results = pair.run("--json")
    succeeded(results)
    only_psicli_speaks(*results)
    (task,) = the_object(results[0].stdout)["tasks"]
    output = pair.path(LISTENER, f"out/rows.{suffix}").read_bytes()
    return {name: task[name] for name in FACTS}, output, results[0].stderr


@pytest.mark.more
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_same_output_and_warnings(pair: Pair, cluster: Cluster, suffix: str) -> None:
    keys = ["id", "part", "kind"]
    for party in PARTIES:
        write(pair.path(party, f"in.{suffix}"), rows(party))
        pair.jobs[party]["csv"] = {"quotes": False}
    pair.add("rows", Side(keys, f"in.{suffix}", f"out/rows.{suffix}"), Side(keys, f"in.{suffix}"))
    *expected, _ = outcome(pair, suffix)
    use(pair, cluster, LISTENER)
    facts, output, log = outcome(pair, suffix)
    assert [facts, output] == expected
    assert len(facts["warnings"]) == 2
    assert "on this machine" not in log


@pytest.mark.more
def test_nodes_read_for_bins_by_rr22_which_the_head_computes(pair: Pair, cluster: Cluster) -> None:
    keys = ["id", "part", "kind"]
    for party in PARTIES:
        write(pair.path(party, "in.parquet"), rows(party))
        pair.jobs[party]["psi"]["protocol"] = "rr22"
    pair.add("rows", Side(keys, "in.parquet", "out/rows.parquet"), Side(keys, "in.parquet"))
    _, expected, _ = outcome(pair, "parquet")
    use(pair, cluster, *PARTIES)
    results = pair.run("--json")
    succeeded(results)
    assert pair.path(LISTENER, "out/rows.parquet").read_bytes() == expected
    for result in results:
        assert {node["bins"] for node in the_object(result.stdout)["nodes"]} == {0}
        assert "on this machine" not in result.stderr


@pytest.mark.more
def test_an_error_is_reported_by_the_head(pair: Pair, cluster: Cluster) -> None:
    for party in PARTIES:
        pair.path(party, "in.csv").write_bytes(b"id,x\n" + b"".join(b"%d,%01000d\n" % (n, n) for n in range(70_000)))
        pair.jobs[party]["csv"] = {"quotes": False}
    with open(pair.path(LISTENER, "in.csv"), "ab") as file:
        file.write(b"7,7,7\n")
    pair.add("rows", Side(["id"], "in.csv", "out/rows.csv"), Side(["id"], "in.csv"))
    use(pair, cluster, LISTENER)
    alice, _ = pair.run()
    assert alice.code == 65
    assert "in.csv:70002: the row has 3 fields, but the header has 2" in alice.text
    assert alice.text.count(" on this machine: node ") == 1
    cluster.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("end", ["signal", "head"])
def test_a_run_ends_soon_while_nodes_read(pair: Pair, start_cluster: StartCluster, end: str) -> None:
    cluster = start_cluster(2)
    pair.path(DIALER, "in.jsonl").write_text('{"id":1}\n')
    with open(pair.path(LISTENER, "in.jsonl"), "w") as file:
        file.writelines(f'{{"id":{number},"x":"{number:0100}"}}\n' for number in range(700_000))
    pair.add("rows", Side(["id"], "in.jsonl", "out/rows.csv"), Side(["id"], "in.jsonl"))
    use(pair, cluster, LISTENER)
    runs = {party: pair.start(party) for party in PARTIES}

    def a_node_reads() -> bool:
        return any("_read_share" in title(each) for each in cluster.workers())

    wait_until(a_node_reads, "a node reads")
    if end == "head":
        cluster.head.gcs().kill()
    else:
        runs[LISTENER].send(signal.SIGTERM)
    result = runs[LISTENER].result()
    assert result.code == {"signal": 143, "head": 69}[end], result.text
    only_psicli_speaks(result)
    assert runs[DIALER].result().code == 69
    if end == "signal":
        cluster.nothing_left()
