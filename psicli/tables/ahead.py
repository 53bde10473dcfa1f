"""Two steps over the same tables at a time: while one works on a table, the other makes the next."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(tables: Iterator[T]) -> Iterator[T]:
    """Give what an iterator gives; another thread makes the next meanwhile. Raises what making one raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as maker:
        coming = maker.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = maker.submit(next, tables, None)
            yield table
