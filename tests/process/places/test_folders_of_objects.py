"""Whole runs on a folder of objects as one input."""

from __future__ import annotations

import io
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import csv_data, succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Side, failing_at
from support.stores.s3 import Store


@pytest.mark.more
@pytest.mark.parametrize("changes", [False, True])
def test_a_folder_of_twenty_objects(pair: Pair, store: Store, changes: bool) -> None:
    for number in range(20):
        data = io.BytesIO()
        pq.write_table(pa.table({"id": pa.array(range(number * 5, number * 5 + 5))}), data)
        store.put(f"in/day=2026-01-{number % 2 + 1:02}/part-{number:02}.parquet", data.getvalue())
    store.put("in/_SUCCESS", b"")
    store.put("out/a.parquet", b"old")
    pair.path(DIALER, "b.csv").write_bytes(csv_data(["id"], [[str(each)] for each in range(90, 1000)]))
    pair.add("t", Side(["id"], "s3://crm/in", "s3://crm/out/a.parquet"), Side(["id"], "b.csv"))
    env = failing_at("input.read:stop" if changes else "")
    alice, bob = pair.start(LISTENER, env=env), pair.start(DIALER)
    if changes:
        alice.wait_until_stopped()
        store.put("in/day=2026-01-02/part-20.parquet", b"")
        alice.send(signal.SIGCONT)
        result, _ = alice.result(), bob.result()
        assert result.code == 65, result.text
        assert "s3://crm/in/day=2026-01-02/part-20.parquet: the file appeared while psicli was" in result.stderr
        assert store.get("out/a.parquet") == b"old"
        return
    succeeded([alice.result(), bob.result()])
    out = pq.read_table(io.BytesIO(store.get("out/a.parquet") or b""))
    assert sorted(out.column("id").to_pylist()) == [*range(90, 100)]
    assert set(out.column("day").to_pylist()) == {"2026-01-01", "2026-01-02"}
