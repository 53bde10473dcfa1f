"""What `psicli init` proposes for columns that a test makes up."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from psicli.setup.looks import read_table
from psicli.setup.plan import PlannedTask
from psicli.setup.propose import Given, propose

Columns = Mapping[str, Sequence[object] | pa.Array]


def write(path: Path, columns: Columns) -> Path:
    """Write columns as Parquet if one is a pa.Array, else as CSV; return the path with its suffix."""
    if any(isinstance(values, pa.Array) for values in columns.values()):
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table(dict(columns)), path)
        return path
    path = path.with_suffix(".csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def proposed(folder: Path, own: Columns, peer: Columns | None = None, given: Given | None = None) -> PlannedTask:
    """Return the task that is proposed to alice, whose file has some columns, and bob."""
    tables = {"alice": read_table(write(folder / "own", own))}
    if peer is not None:
        tables["bob"] = read_table(write(folder / "peer", peer))
    return propose("task", tables, ("alice", "bob"), given or Given())


def normalized(task: PlannedTask) -> tuple[str, ...]:
    """Return what each party writes as `normalize` of the only key column."""
    return tuple(side.normalize[0] for side in task.sides.values())
