"""Tests of ordering rows by their texts: the order is that of pyarrow, which compares whole texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli.outputs.rows.ordering import order_of_texts

TEXT = pa.large_string()


def texts(values: list[str | None]) -> Any:
    return pa.array(values, TEXT)


def compared(columns: list[Any]) -> list[int]:
    table = pa.table({str(index): column for index, column in enumerate(columns)})
    found: list[int] = pc.sort_indices(
        table, sort_keys=[(name, "ascending") for name in table.column_names]
    ).to_pylist()
    return found


def ordered(columns: list[Any]) -> list[int]:
    order = order_of_texts(columns)
    assert order is not None
    return [int(row) for row in order]


words = st.text("ab\xfc€😀", max_size=6) | st.integers(0, 99).map("id-{:09d}".format) | st.none()


@pytest.mark.more
@settings(deadline=None)
@given(rows=st.lists(st.tuples(words, words), max_size=40), start=st.integers(0, 3))
def test_the_order_is_that_of_whole_texts(rows: list[tuple[str | None, str | None]], start: int) -> None:
    columns = [texts([row[index] for row in rows]).slice(start) for index in (0, 1)]
    assert ordered(columns) == compared(columns)
    assert ordered(columns[:1]) == compared(columns[:1])


@pytest.mark.parametrize("alike", [1, 8, 9, 16, 40])
def test_many_texts_that_differ_late(alike: int) -> None:
    generator = np.random.default_rng(alike)
    column = texts([f"{'x' * (alike * (row % 2))}{row % 700:03d}" for row in generator.permutation(5000).tolist()])
    assert ordered([column]) == compared([column])


def test_bytes_under_a_null_do_not_count() -> None:
    plain = texts(["b", "zz", "a", "yy", "c"])
    valid = pa.array([True, False, True, False, True]).buffers()[1]
    column = pa.Array.from_buffers(TEXT, 5, [valid, *plain.buffers()[1:]])
    assert column.to_pylist() == ["b", None, "a", None, "c"]
    assert ordered([column]) == [2, 0, 4, 1, 3]


@pytest.mark.parametrize("values", [["a\0", "a"], ["x" * 100, "y" * 100]])
def test_texts_that_need_a_comparison_are_left_to_pyarrow(values: list[str | None]) -> None:
    assert order_of_texts([texts(values)]) is None
