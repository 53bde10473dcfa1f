"""Writes sorted rows as Parquet or Arrow. The bytes depend only on the rows, not on how tables divide them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from psicli.core.formats import Format
from psicli.items import compute as pc
from psicli.items.kinds import stored, with_types
from psicli.outputs.columns import narrow


def write_parquet(
    file: BinaryIO, schema: Any, dictionaries: Mapping[str, Any], tables: Iterable[Any], *, utc_times: bool
) -> int:
    """Write wide rows with the pa.Schema of the output; return how many [rows].

    The tables have columns that are single chunks; each becomes a row group. utc_times: whether times of day are in
    UTC.
    """
    # Imported late, because outputs in Arrow do not need it.
    import pyarrow.parquet as pq

    rows = 0
    options = {"use_dictionary": _repeating(schema), "write_time_adjusted_to_utc": utc_times}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for table in tables:
            writer.write_batch(narrow(table, schema, dictionaries), row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def write_arrow(
    file: BinaryIO, kind: Format, schema: Any, dictionaries: Mapping[str, Any], tables: Iterable[Any]
) -> int:
    """Write wide rows as an Arrow file or stream with the pa.Schema of the output; return how many [rows].

    The tables have columns that are single chunks; each becomes a batch.
    """
    rows = 0
    new_writer = pa.ipc.new_stream if kind is Format.ARROW_STREAM else pa.ipc.new_file
    # pyarrow does not close a Python file that it wraps here.
    with new_writer(file, schema) as writer:
        for table in tables:
            # Arrow writes all bytes of a buffer, also those of other rows after the end of a slice, and under nulls.
            # A copy of the rows has no such bytes.
            batch = pc.take(table.to_batches()[0], pc.from_numpy(np.arange(table.num_rows)))
            writer.write_batch(narrow(pa.Table.from_batches([batch]), schema, dictionaries))
            rows += table.num_rows
    return rows


def _repeating(schema: Any) -> list[str]:
    """Return the paths of the columns to write with a dictionary: all except those of floating-point numbers.

    Floating-point numbers hardly repeat. Dictionaries for them took a third of the writing time and made files larger.
    """
    import pyarrow.parquet as pq

    nothing = io.BytesIO()
    pq.write_table(with_types(schema, stored).empty_table(), nothing)
    leaves = pq.ParquetFile(nothing).schema
    columns = (leaves.column(index) for index in range(len(leaves)))
    return [column.path for column in columns if column.physical_type not in ("FLOAT", "DOUBLE")]
