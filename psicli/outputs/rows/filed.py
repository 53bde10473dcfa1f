"""Divides rows that keep the order of the input, so that the bytes of an output depend on the rows alone.

How many rows go together depends on their content, which is only known as they come. It is measured at steps of the
rows, each as long as the one before allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from psicli.outputs.columns import content_bytes
from psicli.outputs.sorting import joined

# A step has at most this many rows, and about as many as have this content [bytes].
_STEP_ROWS, _STEP_BYTES = 2048, 1 << 20
_FIRST_STEP = 16


def regrouped(tables: Iterator[Any], schema: Any, rows: int, size: int) -> Iterator[Any]:
    """Yield rows as pa.Tables of about `size` [bytes] and at most `rows` rows, whose columns are single chunks."""
    group: list[Any] = []
    count = content = 0
    for step in _steps(tables):
        group.append(step)
        count += step.num_rows
        content += content_bytes(step)
        while count >= rows:
            table = joined(group, schema)
            yield table.slice(0, rows)
            count -= rows
            group = [table.slice(rows)] if count else []
            content = sum(map(content_bytes, group))
        if content >= size:
            yield joined(group, schema)
            count = content = 0
    if group:
        yield joined(group, schema)


def _steps(tables: Iterator[Any]) -> Iterator[Any]:
    """Divide rows into steps whose lengths depend on the rows before them only."""
    waiting: list[Any] = []
    held, wanted = 0, _FIRST_STEP
    for table in tables:
        waiting.append(table)
        held += table.num_rows
        while held >= wanted:
            rows = pa.concat_tables(waiting)
            step = rows.slice(0, wanted)
            held -= wanted
            waiting = [rows.slice(wanted)] if held else []
            wanted = min(max(_STEP_BYTES * wanted // max(content_bytes(step), 1), 1), _STEP_ROWS)
            yield step
    if held:
        yield pa.concat_tables(waiting)
