"""Runs of both protocols on the same inputs: files and figures are the same, in CSV and Parquet."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

# In all tasks, 30,000 rows make two bins, and every sixth key is in both files.
ROWS, SHARED = 30_000, 5_000
FORMATS = ("csv", "parquet")


def write(pair: Pair) -> None:
    for party, step in ((LISTENER, 2), (DIALER, 3)):
        keys = [f"key {number * step}" for number in range(ROWS)]
        keys[100] = keys[99]
        pair.path(party, "in.csv").write_text("id,n\n" + "".join(f"{key},{n}\n" for n, key in enumerate(keys)))
        table = pa.table({"id": keys, "n": range(ROWS)})
        pq.write_table(table, pair.path(party, "in.parquet"))


def run(pair: Pair, protocol: str) -> tuple[dict[str, dict[str, bytes]], list[list[dict[str, Any]]]]:
    """Run both parties; return each party's outputs, and the figures of its tasks."""
    for party in PARTIES:
        pair.jobs[party]["psi"]["protocol"] = protocol
    runs = [pair.start(party, "--report", str(pair.path(party, "report.json"))) for party in PARTIES]
    results = [each.result() for each in runs]
    assert [result.code for result in results] == [0, 0], results[0].text + results[1].text
    outputs = {party: {path.name: path.read_bytes() for path in pair.path(party, "out").iterdir()} for party in PARTIES}
    figures = []
    for party in PARTIES:
        tasks = json.loads(pair.path(party, "report.json").read_text())["tasks"]
        names = ("name", "rows", "distinct_items", "peer_items", "matched", "output_rows")
        figures.append([{name: task.get(name) for name in names} for task in tasks])
        for path in pair.path(party, "out").iterdir():
            path.unlink()
    return outputs, figures


def test_both_protocols_give_the_same_files(pair: Pair) -> None:
    write(pair)
    for kind in FORMATS:
        for broadcast in (False, True):
            side = Side(["id"], f"in.{kind}", f"out/{kind}-{broadcast}.{kind}")
            name = f"{kind}-{'both' if broadcast else 'one'}"
            pair.add(name, side, side if broadcast else Side(["id"], f"in.{kind}"), broadcast_result=broadcast)
    for party in PARTIES:
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384}
    ecdh, rr22 = run(pair, "ecdh"), run(pair, "rr22")
    assert ecdh == rr22
    outputs, figures = rr22
    assert sorted(outputs[LISTENER]) == [f"{kind}-{b}.{kind}" for kind in FORMATS for b in (False, True)]
    assert sorted(outputs[DIALER]) == [f"{kind}-True.{kind}" for kind in FORMATS]
    matched = outputs[LISTENER]["csv-True.csv"].splitlines()[1:]
    expected = {f"key {n}" for n in range(0, 2 * ROWS, 6)} - {"key 300"}
    assert {line.decode().split(",")[0] for line in matched} >= expected
    assert len(matched) in (2 * ROWS // 6, 2 * ROWS // 6 - 1, 2 * ROWS // 6 + 1)
    assert [task["matched"] for task in figures[0]] == [task["matched"] for task in figures[0][:1]] * 4
    pair.nothing_left()
