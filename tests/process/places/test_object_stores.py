"""Whole runs on objects of a store: read by ranges, and written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from support.processes.expectations import csv_data, succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Side
from support.stores.s3 import Store


def parquet(rows: int, first: int = 0) -> bytes:
    """Return a file with the keys from `first` on."""
    target = io.BytesIO()
    numbers = range(first, first + rows)
    pq.write_table(pa.table({"id": pa.array(numbers), "note": [f"note {each}" for each in numbers]}), target)
    return target.getvalue()


def rows_of(data: bytes | None) -> list[int]:
    assert data is not None
    return pq.read_table(io.BytesIO(data)).column("id").to_pylist()


def test_both_parties_read_and_write_objects(pair: Pair, store: Store) -> None:
    """Parquet with keys of the one, compressed CSV of the other; a name with a space and a percent sign."""
    import gzip

    one = store.put("in/a%20b%25.parquet", parquet(3000)).replace("%20", " ").replace("%25", "%")
    two = store.put("in/b.csv.gz", gzip.compress(csv_data(["id", "x"], [[str(each), "x"] for each in range(2990, 4000)])))
    store.put("out/a.parquet", b"old")
    sides = Side(["id"], one, "s3://crm/out/a.parquet"), Side(["id"], two, "s3://crm/out/b.jsonl")
    pair.add("t", *sides, broadcast_result=True)
    report = pair.folder / "report.json"
    alice, bob = pair.start(LISTENER, "--report", str(report)), pair.start(DIALER)
    succeeded(alice.result(), bob.result())
    assert rows_of(store.get("out/a.parquet")) == list(range(2990, 3000))
    assert store.get("out/b.jsonl") == b"".join(b'{"id":"%d","x":"x"}\n' % each for each in range(2990, 3000))
    (task,) = json.loads(report.read_text())["tasks"]
    assert task["output"] == "s3://crm/out/a.parquet"
    assert task["output_sha256"] == hashlib.sha256(store.get("out/a.parquet") or b"").hexdigest()
    assert sorted(store.names()) == ["in/a b%.parquet", "in/b.csv.gz", "out/a.parquet", "out/b.jsonl"]
    pair.nothing_left()
