"""Writes sorted rows as Parquet. The bytes depend only on the rows, not on how tables divide them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def write_parquet(file: BinaryIO, schema: Any, dictionaries: dict[str, Any], tables: Iterable[Any]) -> int:
    """Write wide rows with the types of `schema`; return how many [rows].

    The tables have row_group_rows rows each, in columns that are single chunks.
    """
    # Remove the schema's metadata, because pandas stores the number of input rows there.
    schema = schema.remove_metadata()
    rows = 0
    with pq.ParquetWriter(file, schema, use_dictionary=_repeating(schema)) as writer:
        for table in tables:
            arrays = [
                _narrowed(column.chunk(0), field.type, dictionaries.get(field.name))
                for column, field in zip(table.columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def _repeating(schema: Any) -> list[str]:
    """Return the paths of the columns to write with a dictionary: all except those of floating-point numbers.

    Floating-point numbers hardly repeat. Dictionaries for them took a third of the writing time and made files larger.
    """
    nothing = io.BytesIO()
    pq.write_table(schema.empty_table(), nothing)
    leaves = pq.ParquetFile(nothing).schema
    columns = (leaves.column(index) for index in range(len(leaves)))
    return [column.path for column in columns if column.physical_type not in ("FLOAT", "DOUBLE")]


def _narrowed(values: Any, kind: Any, dictionary: Any) -> Any:
    """Convert wide values back to the type of their column."""
    if not pa.types.is_dictionary(kind):
        return values.cast(kind)
    indices = pc.index_in(values, value_set=dictionary).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, dictionary.cast(kind.value_type), ordered=kind.ordered)
