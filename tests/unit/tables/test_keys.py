"""Tests of the canonical texts of keys and of the checks on key values."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psicli.core.errors import ColumnError
from psicli.items.forms.columns import KeyColumns
from psicli.items.text import check_key_types

TEXT = pa.large_string()


def text(column: Any) -> Any:
    rows = pa.table({"id": column})
    (result,) = KeyColumns(["id"]).texts(rows, lambda row: f"in.parquet, row {row + 1}", list)
    assert result.type == TEXT
    return result.to_pylist()


# Canonical text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_strings_are_unchanged(kind: pa.DataType) -> None:
    values = ["007", " a ", "É", "É", "", None, "ß", "😀"]
    assert text(pa.array(values, kind)) == values
    assert text(pa.chunked_array([pa.array(values, kind), pa.array([], kind), pa.array(["z"], kind)])) == [*values, "z"]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers_of_any_width_are_plain(bits: int) -> None:
    signed = [-(2 ** (bits - 1)), -7, 0, 7, 2 ** (bits - 1) - 1]
    unsigned = [0, 7, 2**bits - 1]
    assert text(pa.array([*signed, None], f"int{bits}")) == [*map(str, signed), None]
    assert text(pa.array([*unsigned, None], f"uint{bits}")) == [*map(str, unsigned), None]


def test_booleans_and_nulls() -> None:
    assert text(pa.array([True, False, None])) == ["true", "false", None]
    assert text(pa.array([None, None], pa.null())) == [None, None]
    assert text(pa.chunked_array([], pa.int64())) == []


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_iso_8601(kind: pa.DataType) -> None:
    values = [date(1970, 1, 1), date(1969, 12, 31), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29), None]
    assert text(pa.array(values, kind)) == [value and value.isoformat() for value in values]


def timestamp_oracle(value: int, unit: str, zone: str | None) -> str:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, rest = divmod(value, per_second)
    moment = pd.Timestamp(seconds, unit="s")
    digits = str(rest).rjust(len(str(per_second)) - 1, "0").rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{digits}" if rest else "") + ("Z" if zone else "")


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_iso_8601_in_utc(unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [
        0,
        1,
        -1,
        10,
        1500,
        -1500,
        1_000_000,
        1_000_100,
        -(10**9),
        1_719_792_000 * per_second,
        1200 * per_second + 1,
    ]
    array = pa.array([*values, None], pa.int64()).cast(pa.timestamp(unit, zone))
    assert text(array) == [*(timestamp_oracle(value, unit, zone) for value in values), None]


def test_a_timestamp_has_the_same_text_in_every_unit() -> None:
    seconds = pa.array([1_719_792_000, -100], pa.int64()).cast(pa.timestamp("s", "Europe/Paris"))
    expected = ["2024-07-01T00:00:00Z", "1969-12-31T23:58:20Z"]
    for unit in ("s", "ms", "us", "ns"):
        assert text(seconds.cast(pa.timestamp(unit, "Asia/Tokyo"))) == expected


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.date32()])
def test_years_beyond_four_digits_are_refused(kind: pa.DataType) -> None:
    scale = {"timestamp[s]": 86400, "timestamp[us, tz=UTC]": 86400 * 10**6, "date32[day]": 1}[str(kind)]
    integer = pa.int32() if kind == pa.date32() else pa.int64()
    last, first = 2_932_896, -719_528
    good = pa.array([first * scale, last * scale], integer).cast(kind)
    assert [value[:4] for value in text(good)] == ["0000", "9999"]
    for bad in (first * scale - 1, (last + 1) * scale):
        column = pa.chunked_array([good, pa.array([None, bad], integer).cast(kind)])
        with pytest.raises(ColumnError, match=r"in.parquet, row 4") as caught:
            text(column)
        assert caught.value.code == 65


def decimal_oracle(value: Decimal) -> str:
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


@given(
    st.lists(st.integers(-(10**27), 10**27) | st.integers(-20000, 20000), min_size=1, max_size=9),
    st.integers(-10, 37),
)
def test_decimals_are_plain_without_trailing_zeros(coefficients: list[int], scale: int) -> None:
    values = [Decimal((0 if c >= 0 else 1, tuple(map(int, str(abs(c)))), -scale)) for c in coefficients]
    expected = [*(decimal_oracle(value) for value in values), None]
    for kind in (pa.decimal128(38, scale), pa.decimal256(76, scale)):
        assert text(pa.array([*values, None], kind)) == expected


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1E-10", pa.decimal128(38, 10), "0.0000000001"),
        ("-0.00", pa.decimal128(5, 2), "0"),
        ("-0.50", pa.decimal128(5, 2), "-0.5"),
        ("100.00", pa.decimal128(5, 2), "100"),
        ("1E+4", pa.decimal128(5, -2), "10000"),
        ("0", pa.decimal128(5, -2), "0"),
        ("-1E-76", pa.decimal256(76, 76), "-0." + "0" * 75 + "1"),
        ("9" * 76, pa.decimal256(76, 0), "9" * 76),
        ("-7", pa.decimal128(38, 0), "-7"),
    ],
)
def test_decimals_at_the_edges(value: str, kind: pa.DataType, expected: str) -> None:
    assert text(pa.array([Decimal(value)], kind)) == [expected]


@pytest.mark.skipif(not hasattr(pa, "decimal32"), reason="this pyarrow has no small decimals")
def test_small_decimals() -> None:
    for kind in (pa.decimal32(6, 3), pa.decimal64(12, 3)):
        assert text(pa.array([Decimal("1.250"), Decimal("-7.000"), None], kind)) == ["1.25", "-7", None]


def test_dictionaries_are_decoded_chunk_by_chunk() -> None:
    one = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 2], pa.int8()), pa.array(["a", "b", None]))
    two = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(["c"]))
    assert text(pa.chunked_array([one, two])) == ["b", None, "a", None, "c", "c"]
    numbers = pa.array([70, None, 70], pa.int32()).dictionary_encode()
    assert text(numbers) == ["70", None, "70"]
    assert text(numbers.slice(1)) == [None, "70"]


def test_sliced_columns() -> None:
    for column in (
        pa.array(["a", "b", "c"]),
        pa.array([1, 2, 3]),
        pa.array([Decimal("1.5"), Decimal("2.5"), Decimal("3.5")]),
        pa.array([1, 2, 3], pa.int64()).cast(pa.timestamp("us", "UTC")),
    ):
        assert text(column.slice(1, 1)) == text(column)[1:2]


REFUSED = [
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.duration("s"),
    pa.list_(pa.string()),
    pa.struct([("a", pa.string())]),
    pa.map_(pa.string(), pa.string()),
    pa.dictionary(pa.int32(), pa.float64()),
]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_types_without_a_text_are_refused_with_the_advice_to_cast(kind: pa.DataType) -> None:
    with pytest.raises(ColumnError) as caught:
        check_key_types([("good", pa.string()), ("id", kind)], path="in.parquet")
    assert caught.value.code == 65
    assert "'id'" in caught.value.message
    assert "Cast" in caught.value.advice


def test_zoned_and_zoneless_timestamps_do_not_mix() -> None:
    zoned, zoneless = pa.timestamp("us", "UTC"), pa.timestamp("ns")
    check_key_types([("a", zoned), ("b", pa.timestamp("s", "Asia/Tokyo")), ("c", pa.string())], path="p")
    check_key_types([("a", zoneless), ("b", pa.date32())], path="p")
    for other in (zoneless, pa.dictionary(pa.int32(), zoneless)):
        with pytest.raises(ColumnError, match=r"'a'.*'c'") as caught:
            check_key_types([("a", zoned), ("b", pa.int8()), ("c", other)], path="p")
        assert caught.value.code == 65


# Bad values --------------------------------------------------------------------------------------------------


def check(values: list[str | None]) -> None:
    rows = pa.table({"a": pa.array(["fine"] * len(values), TEXT), "b": pa.array(values, TEXT)})
    KeyColumns(["a", "b"]).texts(rows, lambda row: f"<{row}>", list)


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_control_characters_are_refused_with_their_place(code: int) -> None:
    with pytest.raises(ColumnError, match=r"^<2>: the key column 'b'") as caught:
        check(["ok", None, f"a{chr(code)}b", "x\x00"])
    assert caught.value.code == 65
    assert "a" + chr(code) not in caught.value.message


def test_other_characters_are_accepted() -> None:
    check([" ", "~", "\x80", "\x9f", "\u00a0", "\u2028", "é", "😀", "", None])


def test_bytes_of_a_null_are_ignored() -> None:
    data, offsets = pa.py_buffer(b"a\nb"), pa.py_buffer(np.array([0, 1, 2, 3], np.int64))
    hidden = pa.Array.from_buffers(TEXT, 3, [pa.py_buffer(b"\x05"), offsets, data])
    assert hidden.to_pylist() == ["a", None, "b"]
    KeyColumns(["id"]).texts(pa.table({"id": hidden}), str, list)


def test_the_limit_of_a_key_is_64_kib_of_utf_8() -> None:
    check(["x" * 65536, "é" * 32768, None])
    for value in ("x" * 65537, "é" * 32768 + "x"):
        with pytest.raises(ColumnError, match=r"^<1>: the key column 'b'"):
            check(["ok", value])


def test_a_slice_is_checked_without_the_rows_outside_it() -> None:
    column = pa.array(["\n", "ok", "bad\r", "ok"], TEXT)
    KeyColumns(["id"]).texts(pa.table({"id": column.slice(1, 1)}), str, list)
    with pytest.raises(ColumnError, match=r"^1:"):
        KeyColumns(["id"]).texts(pa.table({"id": column.slice(1)}), str, list)
