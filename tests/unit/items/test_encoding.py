"""Tests of the encoding of rows as items."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from psicli.items.encoding import encode_items

TEXT = pa.large_string()


def item_oracle(row: tuple[str | None, ...]) -> bytes | None:
    if not all(row):
        return None
    return bytes([len(row)]) + b"".join(struct.pack(">I", len(v.encode())) + v.encode() for v in row if v)


def encode(rows: Sequence[tuple[str | None, ...]]) -> Any:
    encoded = encode_items([pa.array(column, TEXT) for column in zip(*rows, strict=True)])
    assert encoded.type == pa.large_binary()
    return encoded.to_pylist()


WIDTHS = st.integers(1, 4)
VALUES = st.none() | st.text(max_size=12)


@given(WIDTHS.flatmap(lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=12)))
def test_items_have_the_documented_encoding(rows: list[tuple[str | None, ...]]) -> None:
    assert encode(rows) == [item_oracle(row) for row in rows]


def test_the_boundary_between_columns_matters() -> None:
    one, two = encode([("a,b", "c"), ("a", "b,c")])
    assert one == b"\x02\x00\x00\x00\x03a,b\x00\x00\x00\x01c"
    assert two == b"\x02\x00\x00\x00\x01a\x00\x00\x00\x03b,c"


def test_lengths_above_one_byte_and_255_columns() -> None:
    assert encode([("é" * 40000,)]) == [b"\x01\x00\x01\x38\x80" + ("é" * 40000).encode()]
    wide = tuple("abcde"[i % 5] for i in range(255))
    assert encode([wide]) == [item_oracle(wide)]


def test_null_or_empty_in_any_column_is_a_null_key() -> None:
    rows = [("a", "b"), ("", "b"), ("a", ""), (None, "b"), ("a", None), ("", None), ("c", "d")]
    assert [item is None for item in encode(rows)] == [False, True, True, True, True, True, False]


def test_slices_and_empty_columns() -> None:
    column = pa.array(["a", "b", None, "c"], TEXT).slice(1)
    assert encode_items([column]).to_pylist() == [item_oracle(("b",)), None, item_oracle(("c",))]
    assert encode_items([pa.array([], TEXT)]).to_pylist() == []
