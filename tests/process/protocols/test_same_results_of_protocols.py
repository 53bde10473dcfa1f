"""Runs of both protocols on the same inputs: files and figures are the same, in CSV and Parquet."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.runner import LISTENER, PARTIES, Pair, Side

# In both tasks, the rows make two bins, and every third key of alice's is in both files.
ROWS = 18_000
BROADCAST = {"csv": True, "parquet": False}


def write(pair: Pair) -> None:
    for party, step in zip(PARTIES, (2, 3), strict=True):
        keys = [f"key {number * step}" for number in range(ROWS)]
        # Alice has a key twice, and bob lacks one.
        keys[100] = keys[99]
        pair.path(party, "in.csv").write_text("id,n\n" + "".join(f"{key},{n}\n" for n, key in enumerate(keys)))
        table = pa.table({"id": keys, "n": range(ROWS)})
        pq.write_table(table, pair.path(party, "in.parquet"))


def run(pair: Pair, protocol: str) -> tuple[dict[str, dict[str, bytes]], list[list[dict[str, Any]]]]:
    """Run both parties; return each party's outputs, and the figures of its tasks."""
    for party in PARTIES:
        pair.jobs[party]["psi"]["protocol"] = protocol
    results = pair.run("--json")
    assert [result.code for result in results] == [0, 0], results[0].text + results[1].text
    outputs = {party: {path.name: path.read_bytes() for path in pair.path(party, "out").iterdir()} for party in PARTIES}
    names = ("name", "rows", "distinct_items", "peer_items", "matched", "output_sha256")
    figures = [[{name: task[name] for name in names} for task in json.loads(each.stdout)["tasks"]] for each in results]
    for party in PARTIES:
        for path in pair.path(party, "out").iterdir():
            path.unlink()
    return outputs, figures


@pytest.mark.more
def test_both_protocols_give_the_same_files(pair: Pair) -> None:
    write(pair)
    for kind, broadcast in BROADCAST.items():
        side, helping = Side(["id"], f"in.{kind}", f"out/out.{kind}"), Side(["id"], f"in.{kind}")
        pair.add(kind, side, side if broadcast else helping, broadcast_result=broadcast)
    for party in PARTIES:
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384}
    ecdh, rr22 = run(pair, "ecdh"), run(pair, "rr22")
    assert ecdh == rr22
    outputs, figures = rr22
    assert [task["matched"] for task in figures[0]] == [ROWS // 3 - 1] * 2
    assert [sorted(outputs[party]) for party in PARTIES] == [["out.csv", "out.parquet"], ["out.csv"]]
    matched = [line.decode().split(",")[0] for line in outputs[LISTENER]["out.csv"].splitlines()[1:]]
    assert sorted(matched) == sorted([f"key {n}" for n in range(0, 2 * ROWS, 6) if n != 300] + ["key 198"])
    pair.nothing_left()
