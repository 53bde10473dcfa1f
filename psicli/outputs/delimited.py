"""Writes sorted rows as CSV or TSV. The bytes depend only on the rows, not on how tables divide them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psicli.core.formats import FileFormat
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
    separator, rows = fmt.delimiter, 0
    with compressed(file, fmt.compression) as lines:
        lines.write(_csv_lines([pa.array([name], _TEXT) for name in schema.names], separator))
        for table in tables:
            lines.write(_csv_lines([*map(_csv_text, table.columns, schema.types)], separator))
            rows += table.num_rows
    return rows


def _csv_text(column: Any, kind: Any) -> Any:
    values = column.chunk(0)
    return values.cast(_TEXT) if pa.types.is_floating(values.type) else text_of(values, kind)


def _csv_lines(columns: Sequence[Any], separator: str) -> Any:
    """Join text columns into CSV lines that end with LF; a null becomes an empty field."""
    quoted = [_quoted(column, separator) for column in columns]
    lines = pc.binary_join_element_wise(
        *quoted, pa.scalar(separator, _TEXT), null_handling="replace", null_replacement=""
    )
    _, data = packed(joined(lines, "\n"))
    return data.tobytes()


def _quoted(text: Any, separator: str) -> Any:
    """Quote the values that contain the delimiter, a quote or a line break."""
    special = f'"\r\n{separator}'
    _, data = packed(text)
    if not np.isin(data, np.frombuffer(special.encode(), np.uint8)).any():
        return text
    doubled = pc.replace_substring(text, pattern='"', replacement='""')
    wrapped = joined('"', doubled, '"')
    return pc.if_else(pc.match_substring_regex(text, pattern=f"[{special}]"), wrapped, text)
