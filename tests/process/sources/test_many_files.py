"""Whole runs on inputs of many files: folders, patterns and lists."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Side, failing_at


def parts(folder: Path, count: int = 20, rows: int = 50) -> Path:
    """Write Parquet files with the keys from 0 on into a folder for each day, as Hive does."""
    for number in range(count):
        keys = range(number * rows, (number + 1) * rows)
        path = folder / f"day=2026-01-{number % 2 + 1:02}" / f"part-{number:03}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": pa.array(keys), "note": [f"n{key}" for key in keys]}), path)
        (path.parent / "_SUCCESS").touch()
    return folder


def csv(path: Path, keys: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("id,x\n" + "".join(f"{key},x{key}\n" for key in keys))


@pytest.mark.slow
def test_twenty_thousand_files(pair: Pair) -> None:
    """They are never open at the same time."""
    for number in range(20_000):
        csv(pair.path(LISTENER, f"in/part-{number:05}.csv"), range(number, number + 1))
    csv(pair.path(DIALER, "b.csv"), range(10_000, 30_000))
    pair.add("t", Side(["id"], "in", "out/a.csv"), Side(["id"], "b.csv"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        alice, bob = pair.start(LISTENER, "--json"), pair.start(DIALER)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not alice.lasts(300)
    succeeded(results := [alice.result(), bob.result()])
    assert len(pair.path(LISTENER, "out/a.csv").read_bytes().splitlines()) == 10_001
    (task,) = json.loads(results[0].stdout)["tasks"]
    assert task["rows"] == 20_000


def test_a_folder_a_pattern_and_hive_columns(pair: Pair) -> None:
    parts(pair.path(LISTENER, "in"))
    csv(pair.path(DIALER, "b/one.csv"), range(100))
    csv(pair.path(DIALER, "b/two.csv"), range(980, 1100))
    csv(pair.path(DIALER, "b/other.csv"), range(100, 900))
    pair.add("t", Side(["id"], "in", "out/a.parquet"), Side(["id"], "b/[ot][nw]*.csv"))
    alice, bob = pair.start(LISTENER, "--json"), pair.start(DIALER)
    succeeded(results := [alice.result(), bob.result()])
    out = pq.read_table(pair.path(LISTENER, "out/a.parquet"))
    assert out.column_names == ["id", "note", "day"]
    assert out.schema.field("id").type == pa.int64()
    assert sorted(out.column("id").to_pylist()) == [*range(100), *range(980, 1000)]
    assert out.column("day").to_pylist() == [f"2026-01-{key // 50 % 2 + 1:02}" for key in out.column("id").to_pylist()]
    assert json.loads(results[0].stdout)["tasks"][0]["rows"] == 1000
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("change", ["added", "removed", "rewritten"])
def test_files_that_change_between_the_readings(pair: Pair, change: str) -> None:
    for number in range(3):
        csv(pair.path(LISTENER, f"in/part-{number}.csv"), range(number * 10, number * 10 + 10))
    csv(pair.path(DIALER, "b.csv"), range(15))
    pair.add("t", Side(["id"], "in", "out/a.csv"), Side(["id"], "b.csv"))
    alice, bob = pair.start(LISTENER, env=failing_at("input.read:stop")), pair.start(DIALER)
    alice.wait_until_stopped()
    changed = pair.path(LISTENER, f"in/part-{3 if change == 'added' else 2}.csv")
    if change == "removed":
        changed.unlink()
    else:
        csv(changed, range(5))
    alice.send(signal.SIGCONT)
    results = alice.result(), bob.result()
    assert results[0].code == 65
    did = {"added": "appeared", "removed": "disappeared", "rewritten": "changed"}[change]
    assert f"in/part-{changed.stem[-1]}.csv: the file {did} while psicli was reading" in results[0].stderr
    assert not pair.path(LISTENER, "out/a.csv").exists()
