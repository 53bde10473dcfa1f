"""Writes sorted rows as CSV or TSV. The bytes depend only on the rows, not on how tables divide them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.core.formats import FileFormat
from psicli.items import compute as pc
from psicli.items.encoding import packed
from psicli.items.text import joined, text_of
from psicli.outputs.compressed import compressed

# At most this many rows, and about this many bytes, are converted to CSV lines in one step.
_CSV_BATCH_ROWS = 16_384
_CSV_BATCH_BYTES = 4 << 20

_TEXT = pa.large_string()


def csv_rows(row_bytes: int) -> int:
    """Return how many rows to write in one step [rows], given the size of a row [bytes]."""
    return min(max(_CSV_BATCH_BYTES // max(row_bytes, 1), 1), _CSV_BATCH_ROWS)


def write_csv(file: BinaryIO, fmt: FileFormat, schema: Any, tables: Iterable[Any]) -> int:
    """Write wide rows as CSV or TSV, from tables whose columns are single chunks; return how many [rows].

    schema: the pa.Schema of the input.
    """
    rows = 0
    with compressed(file, fmt.compression) as lines:
        if fmt.dialect.header:
            lines.write(_csv_lines([pa.array([name], _TEXT) for name in schema.names], fmt))
        for table in tables:
            columns = (column.chunk(0) for column in table.columns)
            lines.write(_csv_lines([*map(_csv_text, columns, schema.types)], fmt))
            rows += table.num_rows
    return rows


def column_that_needs_quotes(table: Any, schema: Any, fmt: FileFormat) -> str | None:
    """Return the name of the first column that contains the delimiter or a line break, in a value or in its name.

    schema: the pa.Schema of the input.
    """
    pattern = f"[\r\n{re.escape(fmt.delimiter)}]"
    for field, column in zip(schema, table.columns, strict=True):
        for text in (pa.array([field.name], _TEXT), *(_csv_text(chunk, field.type) for chunk in column.chunks)):
            if pc.any(pc.match_substring_regex(text, pattern=pattern)).as_py():
                return str(field.name)
    return None


def _csv_text(values: Any, kind: Any) -> Any:
    return pc.cast(values, _TEXT) if pa.types.is_floating(values.type) else text_of(values, kind)


def _csv_lines(columns: Sequence[Any], fmt: FileFormat) -> Any:
    """Join text columns into CSV lines that end with LF; a null becomes an empty field."""
    fields = [_quoted(column, fmt.delimiter) for column in columns] if fmt.dialect.quotes else columns
    lines = pc.binary_join_element_wise(
        *fields, pa.scalar(fmt.delimiter, _TEXT), null_handling="replace", null_replacement=""
    )
    _, data = packed(joined(lines, "\n"))
    return data.tobytes()


def _quoted(text: Any, separator: str) -> Any:
    """Quote the values that contain the delimiter, a quote or a line break."""
    special = f'"\r\n{separator}'
    _, data = packed(text)
    if not pc.among(special.encode())[data].any():
        return text
    doubled = pc.replace_substring(text, pattern='"', replacement='""')
    wrapped = joined('"', doubled, '"')
    return pc.if_else(pc.match_substring_regex(text, pattern=f"[{re.escape(special)}]"), wrapped, text)
