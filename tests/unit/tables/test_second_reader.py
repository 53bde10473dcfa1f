"""A second reader, DuckDB, reads the same values as psicli from files of four writers and from psicli's outputs."""

from __future__ import annotations

import csv
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tables import AMPLE, CSV, PARQUET

from psicli import outputs, tables
from psicli.core.errors import ColumnError
from psicli.core.formats import FileFormat


def convert(source: Path, target: Path, fmt: FileFormat, keys: Sequence[str] = ("id",)) -> None:
    """Write all rows of a Parquet file as a run does; raises BadInputError before the exchange only."""
    sample = tables.check_input(source, PARQUET, keys, output=fmt)
    assert sample is not None
    outputs.check_output(sample, fmt)
    with tables.open_input(source, PARQUET, keys, output=fmt) as opened:
        rows = sum(len(texts[0]) for texts in opened.key_batches())
        with open(target, "wb") as file:
            outputs.write_matched(opened, file, fmt, pa.array([True] * rows, pa.bool_()), budget=AMPLE, spool=None)


def by_duckdb(path: Path, what: str = "*") -> Counter[tuple[str, ...]]:
    """Return the rows of a Parquet file as DuckDB's texts."""
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT {what} FROM read_parquet(?)", [str(path)]).fetchall()
        names = [column[0] for column in connection.description or []]
        texts = ", ".join(f'CAST("{name}" AS VARCHAR)' for name in names)
        rows = connection.execute(f"SELECT {texts} FROM read_parquet(?)", [str(path)]).fetchall()
    return Counter(rows)


def types_by_duckdb(path: Path) -> list[tuple[str, str]]:
    with duckdb.connect() as connection:
        described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
    return [(row[0], row[1]) for row in described]


def check_against_duckdb(folder: Path) -> bool:
    """Compare in.parquet with what psicli makes of it; return whether psicli kept it."""
    source, target = folder / "in.parquet", folder / "out.parquet"
    with suppress(ColumnError):
        convert(source, target, PARQUET)
    if not target.exists():
        return False
    assert by_duckdb(target) == by_duckdb(source)
    assert types_by_duckdb(target) == types_by_duckdb(source)
    return True


# Files that DuckDB writes --------------------------------------------------------------------------------------------

LITERALS = {
    "BOOLEAN": "true",
    "TINYINT": "-1",
    "BIGINT": "-9223372036854775808",
    "HUGEINT": "170141183460469231731687303715884105727",
    "UBIGINT": "18446744073709551615",
    "FLOAT": "0.1",
    "DOUBLE": "0.1",
    "DECIMAL(4,1)": "-1.5",
    "DECIMAL(18,3)": "1.5",
    "DECIMAL(38,10)": "1.5",
    "DATE": "'2024-01-02'",
    "TIME": "'24:00:00'",
    "TIMETZ": "'12:00:00+02'",
    "TIMESTAMP": "'2024-01-02 03:04:05.678'",
    "TIMESTAMP_S": "'2024-01-02 03:04:05'",
    "TIMESTAMP_MS": "'2024-01-02 03:04:05.678'",
    "TIMESTAMP_NS": "'2024-01-02 03:04:05.123456789'",
    "TIMESTAMPTZ": "'2024-01-02 03:04:05+02'",
    "INTERVAL": "'1 month 2 days'",
    "VARCHAR": "'ä,\"'",
    "BLOB": "'\\xFF\\x00'",
    "UUID": "'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'",
    "JSON": "'{\"a\": 1}'",
    "BIT": "'101'",
    "ENUM('x', 'y')": "'y'",
    "VARIANT": "42",
}
FAR = {
    "a date without end": "CAST('infinity' AS DATE)",
    "a timestamp without end": "CAST('-infinity' AS TIMESTAMP)",
    "a date before Christ": "CAST('0044-03-15 (BC)' AS DATE)",
    "a timestamp far away": "CAST('290000-01-01' AS TIMESTAMP)",
}
FORMS = {
    "{}": "",
    "[{}, NULL]": "list of ",
    "{{'f': {}}}": "struct of ",
    "MAP {{'k': {}}}": "map to ",
    "[[{}]]": "lists of ",
}
EXPRESSIONS = FAR | {
    f"{form}{kind}": pattern.format(f"CAST({literal} AS {kind})")
    for kind, literal in LITERALS.items()
    for pattern, form in FORMS.items()
    # DuckDB does not write a VARIANT inside another type.
    if not (form and kind == "VARIANT")
}
# Parquet's types that pyarrow reads but does not write.
REFUSED = ("INTERVAL", "VARIANT")


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_duckdb_finds_its_own_values_in_an_output(tmp_path: Path, kind: str) -> None:
    value = EXPRESSIONS[kind]
    rows = f"SELECT '1' AS id, {value} AS v UNION ALL SELECT '2', NULL UNION ALL SELECT '3', {value}"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({rows}) TO '{tmp_path / 'in.parquet'}' (FORMAT parquet)")
    assert check_against_duckdb(tmp_path) == (not kind.endswith(REFUSED))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "kind", [kind for kind in LITERALS if kind not in ("HUGEINT", "FLOAT", "DOUBLE", "BLOB", *REFUSED)]
)
def test_a_text_has_the_value_that_duckdb_reads(tmp_path: Path, kind: str) -> None:
    rows = f"SELECT '1' AS id, CAST({LITERALS[kind]} AS {kind}) AS v"
    source, target = tmp_path / "in.parquet", tmp_path / "out.csv"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({rows}) TO '{source}' (FORMAT parquet)")
        convert(source, target, CSV)
        # Times with a zone are written in UTC.
        zone = "|| '+00'" if kind == "TIMETZ" else ""
        same = connection.execute(
            f"SELECT a.v = CAST(b.v {zone} AS {kind}) FROM read_parquet('{source}') a, "
            f"read_csv('{target}', all_varchar=true, header=true) b"
        ).fetchone()
    assert same == (True,)
    # As a key, the value has the same text.
    with tables.open_input(source, PARQUET, ["v"]) as opened:
        (texts,) = opened.key_batches()
    assert texts[0].to_pylist() == [next(row[1] for row in csv_rows(target))]


def csv_rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


# Files that polars and pandas write ----------------------------------------------------------------------------------

DAY = datetime(2024, 1, 2, 3, 4, 5, 678_000)
POLARS: dict[str, tuple[Any, Any]] = {
    "Int8": (1, pl.Int8),
    "UInt64": (2**64 - 1, pl.UInt64),
    "Float32": (0.1, pl.Float32),
    "Boolean": (True, pl.Boolean),
    "String": ("ä", pl.String),
    "Binary": (b"\xff", pl.Binary),
    "Date": (date(2024, 1, 2), pl.Date),
    "Time": (time(1, 2, 3), pl.Time),
    "Datetime ms": (DAY, pl.Datetime("ms")),
    "Datetime ns": (DAY, pl.Datetime("ns")),
    "Datetime with zone": (DAY.replace(tzinfo=UTC), pl.Datetime("us", "Europe/Berlin")),
    "Duration": (timedelta(1), pl.Duration("us")),
    "Categorical": ("x", pl.Categorical),
    "Enum": ("x", pl.Enum(["x", "y"])),
    "Decimal": (Decimal("1.5"), pl.Decimal(38, 2)),
    "Null": (None, pl.Null),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("form", ["plain", "list", "array", "struct"])
@pytest.mark.parametrize("kind", POLARS)
def test_polars_columns_are_kept(tmp_path: Path, kind: str, form: str) -> None:
    value, dtype = POLARS[kind]
    columns = {
        "plain": ([value, None, value], dtype),
        "list": ([[value, None], None, []], pl.List(dtype)),
        "array": ([[value], None, [None]], pl.Array(dtype, 1)),
        "struct": ([{"f": value}, None, {"f": None}], pl.Struct({"f": dtype})),
    }
    values, whole = columns[form]
    frame = pl.DataFrame({"id": ["1", "2", "3"], "v": pl.Series(values, dtype=whole)})
    frame.write_parquet(tmp_path / "in.parquet")
    assert check_against_duckdb(tmp_path)
    if form == "plain" or kind not in ("Categorical", "Enum"):
        assert pl.read_parquet(tmp_path / "out.parquet")["v"].to_list() == frame["v"].to_list()


def test_integers_of_128_bits_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["1"], "v": pl.Series([1], dtype=pl.Int128)}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(ColumnError, match="cannot be read") as caught:
        tables.check_input(tmp_path / "in.parquet", PARQUET, ["id"])
    assert "128 bits" in caught.value.advice


PANDAS: dict[str, Any] = {
    "Int64": pd.array([2**60 + 1, None, 3], dtype="Int64"),
    "category": pd.Categorical(["a", None, "b"]),
    "category of timestamps": pd.Categorical(pd.to_datetime(["2020-01-01", None, "2021-01-01"])),
    "timestamps": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
    "zoned timestamps": pd.to_datetime(["2020-01-01", None, "2021-01-01"]).tz_localize("Europe/Paris"),
    "durations": pd.to_timedelta([1, None, 2]),
    "periods": pd.PeriodIndex(["2020-01", None, "2020-02"], freq="M"),
    "intervals": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3]),
    "string": pd.array(["a", None, "b"], dtype="string"),
    "boolean": pd.array([True, None, False], dtype="boolean"),
    "decimals": pd.Series([Decimal("1.5"), None, Decimal(2)], dtype=object),
    "floats": [1.0, math.nan, 3.0],
    "lists": pd.Series([[1], None, [2, 3]], dtype=object),
    "UUIDs": pd.Series([UUID(int=5), None, UUID(int=6)], dtype=object),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("index", [None, "name", "number"])
@pytest.mark.parametrize("kind", PANDAS)
def test_pandas_reads_a_frame_back_as_it_was(tmp_path: Path, kind: str, index: str | None) -> None:
    frame = pd.DataFrame({"id": ["1", "2", "3"], "v": PANDAS[kind]})
    if index is not None:
        frame.index = pd.Index(["x", "y", "z"] if index == "name" else [7, 8, 9], name=index)
    frame.to_parquet(tmp_path / "in.parquet")
    assert check_against_duckdb(tmp_path)
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / "in.parquet"))


# Values of any size --------------------------------------------------------------------------------------------------

INT64 = st.integers(-(2**63), 2**63 - 1)
COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): INT64,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.string(): st.text(st.characters(codec="utf-8")),
    pa.binary(): st.binary(),
    pa.bool_(): st.booleans(),
    pa.decimal128(20, 5): st.decimals(-(10**14), 10**14, places=5),
    pa.uuid(): st.binary(min_size=16, max_size=16),
    # DuckDB has fewer dates than Parquet: from 5877642 BC to AD 5881580, and two of them mean "without end".
    pa.date32(): st.integers(-2_147_483_646, 2_147_483_646),
    pa.timestamp("us"): st.integers(-9_223_372_022_400_000, 9_223_372_036_854_775_806),
    pa.timestamp("ns"): st.integers(-9_223_286_400_000_000_000, 2**63 - 2),
    pa.time64("us"): st.integers(0, 86_400_000_000),
}


@st.composite
def frames(draw: st.DrawFn) -> tuple[pa.Table, int]:
    """Return a table with columns of some types, and a number of rows for the row groups of its file."""
    rows = draw(st.integers(0, 12))
    kinds = draw(st.lists(st.sampled_from([*COLUMNS]), min_size=1, max_size=4))
    columns = {"id": pa.array([str(row) for row in range(rows)], pa.string())}
    for number, kind in enumerate(kinds):
        values = draw(st.lists(st.none() | COLUMNS[kind], min_size=rows, max_size=rows))
        number_kind = {32: pa.int32(), 64: pa.int64()}
        temporal = pa.types.is_temporal(kind)
        column = pa.array(values, number_kind[kind.bit_width]).view(kind) if temporal else pa.array(values, kind)
        if draw(st.booleans()):
            column = pa.ListArray.from_arrays(pa.array([*range(rows), rows], pa.int32()), column)
        columns[f"v{number}"] = column
    return pa.table(columns), draw(st.integers(1, 12))


@pytest.mark.more
@given(frames())
@settings(deadline=None, max_examples=40)
def test_duckdb_reads_an_output_as_it_reads_the_input(given: tuple[pa.Table, int]) -> None:
    table, group = given
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "in.parquet", Path(name) / "out.parquet"
        pq.write_table(table, source, row_group_size=group)
        convert(source, target, PARQUET)
        assert by_duckdb(target) == by_duckdb(source)


# INT96 timestamps: years 1600 to 9999 and more, with and without nanoseconds.
@pytest.mark.more
@given(st.lists(st.none() | st.integers(-9_223_372_022_400_000, 253_402_300_799_999_999), max_size=8), st.booleans())
@settings(deadline=None, max_examples=40)
def test_int96_timestamps_are_those_that_duckdb_reads(micros: list[int | None], nested: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "in.parquet", Path(name) / "out.parquet"
        values = pa.array(micros, pa.int64()).cast(pa.timestamp("us"))
        column = pa.ListArray.from_arrays(pa.array(range(len(micros) + 1), pa.int32()), values) if nested else values
        ids = pa.array([str(number) for number in range(len(micros))], pa.string())
        pq.write_table(pa.table({"id": ids, "v": column}), source, use_deprecated_int96_timestamps=True)
        convert(source, target, PARQUET)
        found = pq.read_table(target).column("v").combine_chunks()
        found = found.flatten() if nested else found
        order = [int(number) for number in sorted(ids.to_pylist())]
        expected = [micros[number] for number in order]
        assert found.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist() == expected
