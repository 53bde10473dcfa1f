"""Tests of the memory that psicli takes for large input files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

MB = 1 << 20
BUDGET = 64 * MB
# Blocks, decoders and unused memory of the allocator take this much beyond the budget, whatever the size of the file.
CONSTANT = 128 * MB

# Reads an input, writes all its rows, and prints how much the process grew in each of the two steps [bytes]. A small
# file goes first, so that all code is loaded.
PROGRAM = """
import sys
from pathlib import Path

import pyarrow as pa

from psicli.core.formats import file_format
from psicli.storage.spool import Spool
from psicli import outputs, tables

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

def run(path, target, budget, spool):
    with tables.open_input(path, file_format(path), ["id"]) as source, open(target, "wb") as file:
        reset_peak()
        idle = status("VmRSS")
        for _ in source.key_batches():
            pass
        keys = status("VmHWM") - idle
        reset_peak()
        mask = pa.array([True] * source.rows)
        rows = outputs.write_matched(source, file, file_format(target), mask, budget=budget, spool=spool)
        return rows, keys, status("VmHWM") - idle

small, path, target = map(Path, sys.argv[1:4])
with Spool(target.parent / "state") as spool:
    run(small, target, 0, spool)
    print(*run(path, target, int(sys.argv[4]), spool), spool.peak)
"""


def big_table(rows: int) -> pa.Table:
    """Return rows of about 60 bytes with unsorted keys."""
    numbers = pa.array(np.random.default_rng(11).permutation(rows))
    digits = numbers.cast(pa.string())
    keys = pa.compute.binary_join_element_wise("customer", digits, "example.com", "-")
    return pa.table({"id": keys, "number": numbers, "note": pa.array(["nothing special here"] * rows)})


def write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=100_000)
    elif path.suffix == ".jsonl":
        table.to_pandas().to_json(path, orient="records", lines=True)
    else:
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(quoting_style="none"))


def grown(folder: Path, rows: int, name: str, output: str, budget: int) -> tuple[int, int, int, int]:
    """Return the number of rows written, the memory that keys and rows took [bytes], and the peak on disk [bytes]."""
    table = big_table(rows)
    small, path, target = folder / f"small-{name}", folder / name, folder / output
    write(table.slice(0, 100), small)
    write(table, path)
    del table
    arguments = [sys.executable, "-c", PROGRAM, str(small), str(path), str(target), str(budget)]
    # This allocator keeps the least freed memory.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    printed = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout
    first, second, third, fourth = map(int, printed.split())
    return first, second, third, fourth


MIDDLING = [
    ("in.csv", "out.parquet"),
    ("in.parquet", "out.csv"),
    ("in.arrow", "out.jsonl"),
    ("in.jsonl", "out.arrow"),
    ("in.jsonl", "out.jsonl"),
]


@pytest.mark.more
@pytest.mark.parametrize(("name", "output"), MIDDLING)
def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path, name: str, output: str) -> None:
    rows, keys, matched, spooled = grown(tmp_path, 500_000, name, output, 8 * MB)
    assert rows == 500_000
    assert spooled > 3 * 8 * MB
    assert keys < CONSTANT
    assert matched < 8 * MB + CONSTANT


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), [("in.csv", 5_500_000), ("in.parquet", 3_000_000)])
@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_large_files_stay_within_the_budget(tmp_path: Path, name: str, rows: int, output: str) -> None:
    written, keys, matched, spooled = grown(tmp_path, rows, name, output, BUDGET)
    assert written == rows
    assert name == "in.parquet" or (tmp_path / name).stat().st_size > 300_000_000
    assert spooled > 2 * BUDGET
    assert keys < CONSTANT
    assert matched < BUDGET + CONSTANT


@pytest.mark.slow
def test_files_with_many_columns_are_read_in_shares(tmp_path: Path) -> None:
    """Of 450 columns, the first pass reads one; the second reads all of them in shares, for a tenth of the rows."""
    rows, width = 100_000, 450
    random = np.random.default_rng(12)
    columns = {f"c{n}": random.integers(0, 10**9, rows) for n in range(width - 1)}
    pq.write_table(pa.table({"id": [f"key{n}" for n in random.permutation(rows)], **columns}), tmp_path / "in.parquet")
    before = (tmp_path / "in.parquet").stat().st_size
    program = """
import sys, time
from pathlib import Path
import pyarrow as pa
from psicli.core.formats import file_format
from psicli.storage.spool import Spool
from psicli import outputs, tables
folder = Path(sys.argv[1])

def bytes_read():
    return next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("rchar"))

path = folder / "in.parquet"
with tables.open_input(path, file_format(path), ["id"]) as source, Spool(folder / "state") as spool:
    start = bytes_read()
    for _ in source.key_batches():
        pass
    print(bytes_read() - start)
    with open(folder / "out.parquet", "wb") as file:
        matched = pa.array([n % 10 == 0 for n in range(source.rows)])
        print(outputs.write_matched(source, file, file_format("out.parquet"), matched, budget=1 << 30, spool=spool))
"""
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    read, written = map(int, printed.split())
    assert read < before / 20
    assert written == rows // 10
    found = pq.read_table(tmp_path / "out.parquet")
    expected = pq.read_table(tmp_path / "in.parquet").take(pa.array(range(0, rows, 10))).sort_by("id")
    assert found.equals(expected)
