"""Tests of writing CSV and Parquet."""

from __future__ import annotations

import errno
import gzip
import io
import json
import tempfile
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import (
    ALL_FORMATS,
    CSV,
    CSV_GZ,
    CSV_ZST,
    JSON_FORMATS,
    PARQUET,
    TEXT_FORMATS,
    TSV,
    TYPED_FORMATS,
    Source,
    decompressed,
    name_of,
    parsed,
    read,
    rows_of,
    typed_table,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import ColumnError, InputMissingError, TerminatedBySignal
from psicli.core.formats import FileFormat
from psicli.items.encoding import encode_items
from psicli.outputs.compressed import compressed
from psicli.tables import delimited


def sample(rows: int) -> pd.DataFrame:
    """Return unsorted rows with duplicate, Unicode, quoted, null and empty keys."""
    random = np.random.default_rng(7)
    pool = ["a,b", "a", 'q"q', "é", "É", "z", "Z", "😀", "ﬀ", " a", "", None, "007", "7", "a\u2028"]
    return pd.DataFrame(
        {
            "k1": random.choice(np.array(pool, object), rows),
            "n": random.integers(0, 10**6, rows),
            "k2": random.choice(np.array(["b,c", "c", 'x"', "ü", None], object), rows),
            "note": random.choice(np.array(["two\nlines", "cr\ronly", " lead", "x\ty", "", "plain"], object), rows),
        }
    )


def oracle(frame: pd.DataFrame, matched: Any, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    kept = frame[matched]
    sort_keys = [tuple(str(value).encode() for value in row) for row in kept[list(keys)].to_numpy().tolist()]
    rows = kept.to_numpy(object).tolist()
    return [tuple(rows[index]) for index in sorted(range(len(rows)), key=sort_keys.__getitem__)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("fmt", ALL_FORMATS, ids=name_of)
@pytest.mark.parametrize("from_parquet", [False, True])
@pytest.mark.parametrize("rows", [1, 300, 40_000])
def test_output_is_the_matched_rows_sorted_by_key(
    tmp_path: Path, fmt: FileFormat, from_parquet: bool, rows: int
) -> None:
    frame = sample(rows)
    path = tmp_path / "in"
    if from_parquet:
        frame.to_parquet(path)
    else:
        frame = frame.astype(object).where(frame.notna(), "").astype(str)
        frame.to_csv(path, index=False, lineterminator="\r\n")
    source = Source(path, PARQUET if from_parquet else CSV, ["k1", "k2"])
    encoded = encode_items(source.key_texts)
    usable = frame["k1"].notna() & (frame["k1"] != "") & frame["k2"].notna() & (frame["k2"] != "")
    assert encoded.is_valid().to_pylist() == usable.tolist()
    matched = (usable & (frame["k1"] != "z")).to_numpy()
    expected = oracle(frame, matched, ["k1", "k2"])
    data = write(source, fmt, pa.array(matched))
    if fmt in TYPED_FORMATS:
        found = typed_table(data, fmt).to_pandas()
        assert [tuple(row) for row in found.itertuples(index=False)] == expected
    else:
        header, *lines = parsed(data, fmt)
        assert header == ["k1", "n", "k2", "note"]
        assert lines == [[str(value) for value in row] for row in expected]
    assert write(source, fmt, matched.tolist()) == data


@pytest.mark.parametrize("fmt", [*TEXT_FORMATS, *JSON_FORMATS], ids=name_of)
def test_text_survives_a_round_trip(tmp_path: Path, fmt: FileFormat) -> None:
    values = ["\r", "a\rb", '"', '""', ",", "\t", " lead", "trail ", "\n", "\r\n", "", "é", "\x00", "'", "\\", "x,y\tz"]
    keys = [f"{n:02}" for n in range(len(values))]
    source = read(tmp_path, pa.table({"id": keys, "a,b\tc": values}))
    data = write(source, fmt)
    assert parsed(data, fmt) == [["id", "a,b\tc"], *map(list, zip(keys, values, strict=True))]
    again = read(tmp_path, data, fmt=fmt, output=fmt)
    if fmt in TEXT_FORMATS:
        assert rows_of(again) == list(zip(keys, values, strict=True))
    assert write(again, fmt) == data


def test_quotes_only_where_needed(tmp_path: Path) -> None:
    source = read(tmp_path, b'"id","a"\r\n"3","x y"\r\n"2","p,q"\r\n"1","t\tt"\r\n')
    assert write(source, CSV) == b'id,a\n1,t\tt\n2,"p,q"\n3,x y\n'
    assert write(source, TSV) == b'id\ta\n1\t"t\tt"\n2\tp,q\n3\tx y\n'


def test_an_output_without_matches_has_a_header(tmp_path: Path) -> None:
    source = read(tmp_path, b"id,a\n1,x\n")
    assert write(source, CSV, [False]) == b"id,a\n"
    assert pq.read_table(io.BytesIO(write(source, PARQUET, [False]))).num_rows == 0


def test_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    content = b"id,n\n" + b"".join(b"%d,%d\n" % (n % 3, n) for n in range(50_000))
    lines = write(read(tmp_path, content), CSV).splitlines()[1:]
    assert lines == sorted(content.splitlines()[1:], key=lambda line: line.split(b",")[0])


def test_sorting_is_bytewise_column_by_column(tmp_path: Path) -> None:
    rows = [
        ("b", "1"),
        ("a", "10"),
        ("a", "9"),
        ("B", "2"),
        ("é", "0"),
        ("z", "0"),
        ("ab", "0"),
        ("a", "1"),
        ("ﬀ", "0"),
        ("😀", "0"),
    ]
    content = "\n".join(["id,b", *(",".join(row) for row in rows)]).encode()
    expected = sorted(rows, key=lambda row: (row[0].encode(), row[1].encode()))
    assert [tuple(row) for row in parsed(write(read(tmp_path, content, ["id", "b"]), CSV), CSV)[1:]] == expected
    numbers = read(tmp_path, pa.table({"id": [10, 9, 1, -1]}))
    assert write(numbers, CSV) == b"id\n-1\n1\n10\n9\n"


@pytest.mark.more
@pytest.mark.parametrize("fmt", [CSV_GZ, CSV_ZST], ids=name_of)
def test_compressed_bytes_do_not_depend_on_the_writes(fmt: FileFormat) -> None:
    data = b"".join(b"%d,%d\n" % (n, n * n) for n in range(100_000))
    made = set()
    for size in (1000, 65_536, len(data)):
        sink = io.BytesIO()
        with compressed(sink, fmt.compression) as file:
            for start in range(0, len(data), size):
                file.write(data[start : start + size])
        made.add(sink.getvalue())
    assert len(made) == 1
    assert decompressed(made.pop(), fmt) == data


@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, CSV_ZST], ids=name_of)
def test_the_error_of_a_full_disk_is_not_lost_in_a_codec(fmt: FileFormat) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    noise = np.random.default_rng(7).bytes(1 << 20)
    with pytest.raises(OSError, match="No space") as caught, compressed(Full(), fmt.compression) as file:
        file.write(noise)
    assert caught.value.errno == errno.ENOSPC


def test_gzip_output_has_no_time_and_no_name(tmp_path: Path) -> None:
    data = write(read(tmp_path, b"id\n1\n"), CSV_GZ)
    assert data[3:8] == bytes(5)
    assert gzip.decompress(data) == b"id\n1\n"


VALUE_KINDS: dict[str, tuple[pa.Array, list[str]]] = {
    "int": (pa.array([-1, None], pa.int16()), ["-1", ""]),
    "bool": (pa.array([True, None]), ["true", ""]),
    "date": (pa.array([date(1969, 12, 31), None]), ["1969-12-31", ""]),
    "zoneless": (pa.array([datetime(2024, 7, 1, 12, 0, 0, 250000), None]), ["2024-07-01T12:00:00.25", ""]),
    "zoned": (pa.array([0, None], pa.timestamp("ms", "Asia/Tokyo")), ["1970-01-01T00:00:00Z", ""]),
    "decimal": (pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)), ["1.5", ""]),
    "float": (pa.array([0.1, float("nan")]), ["0.1", "nan"]),
    "float32": (pa.array([0.1, None], pa.float32()), ["0.1", ""]),
    "float16": (pa.array(np.array([0.5, 2.0], np.float16)), ["0.5", "2"]),
    "time": (pa.array([time(1, 2, 3), None]), ["01:02:03", ""]),
    "dictionary": (pa.array(["x,y", None]).dictionary_encode(), ["x,y", ""]),
    "text": (pa.array(['"', None], pa.large_string()), ['"', ""]),
    "view": (pa.array(["v", None], pa.string_view()), ["v", ""]),
    "null": (pa.nulls(2), ["", ""]),
}


@pytest.mark.parametrize("kind", VALUE_KINDS)
def test_parquet_values_as_csv(tmp_path: Path, kind: str) -> None:
    values, expected = VALUE_KINDS[kind]
    source = read(tmp_path, pa.table({"id": ["a", "b"], "v": values}))
    assert parsed(write(source, CSV), CSV)[1:] == [["a", expected[0]], ["b", expected[1]]]


@pytest.mark.more
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_survive_a_round_trip(values: list[float]) -> None:
    table = pa.table({"id": [str(n) for n in range(len(values))], "v": values})
    with tempfile.TemporaryDirectory() as folder:
        lines = parsed(write(read(Path(folder), table), CSV), CSV)[1:]
    assert {line[0]: float(line[1]) for line in lines} == {str(n): value for n, value in enumerate(values)}


CSV_REFUSES = [
    pa.list_(pa.int8()),
    pa.struct([("x", pa.int8())]),
    pa.map_(pa.string(), pa.int8()),
    pa.duration("s"),
]


@pytest.mark.parametrize("kind", CSV_REFUSES, ids=str)
def test_types_that_csv_cannot_hold_are_refused_before_the_run(tmp_path: Path, kind: pa.DataType) -> None:
    source = read(tmp_path, pa.table({"id": ["a"], "v": pa.array([None], kind)}))
    with pytest.raises(ColumnError, match="'v'") as caught:
        write(source, CSV)
    assert caught.value.code == 65
    with pytest.raises(ColumnError, match=r"\.gz|csv"):
        outputs.check_output(tables.check_input(tmp_path / "in", PARQUET, ["id"], output=CSV_GZ), CSV_GZ)
    outputs.check_output(tables.check_input(tmp_path / "in", PARQUET, ["id"], output=PARQUET), PARQUET)


def every_type() -> pa.Table:
    day = date(2024, 1, 2)
    return pa.table(
        {
            "id": pa.array(["c", "a", "b", None]),
            "i8": pa.array([1, None, 3, 4], pa.int8()),
            "u64": pa.array([1, 2, 2**64 - 1, None], pa.uint64()),
            "f16": pa.array(np.array([0.5, 1, 2, 3], np.float16)),
            "f64": pa.array([0.1, float("nan"), None, -0.0]),
            "flag": pa.array([True, False, None, True]),
            "bytes": pa.array([b"\xff", b"", None, b"x"]),
            "fixed": pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
            "large": pa.array(["x", "y", None, "z"], pa.large_string()),
            "big": pa.array([b"x", b"y", None, b"z"], pa.large_binary()),
            "view": pa.array(["x", None, "y", "z"], pa.string_view()),
            "bytes view": pa.array([b"x", None, b"y", b"z"], pa.binary_view()),
            "day": pa.array([day, None, day, day]),
            "us": pa.array([1, 2, None, 3], pa.timestamp("us", "Europe/Paris")),
            "ns": pa.array([1, 2, None, 3], pa.timestamp("ns")),
            "time": pa.array([1, 2, None, 3], pa.time64("us")),
            "span": pa.array([1, 2, None, 3], pa.duration("ms")),
            "dec": pa.array([Decimal("1.10"), None, Decimal("-2.00"), Decimal(0)], pa.decimal128(9, 2)),
            "dec256": pa.array([Decimal("1.10"), None, Decimal("-2.00"), Decimal(0)], pa.decimal256(50, 2)),
            "none": pa.nulls(4),
            "cat": pa.DictionaryArray.from_arrays(pa.array([2, 0, None, 1], pa.int8()), pa.array(["S", "M", "L"])),
            "list": pa.array([["x"], None, [], ["y", None]], pa.list_(pa.string())),
            "struct": pa.array([{"p": 1, "q": [1]}, None, {"p": None, "q": []}, {"p": 2, "q": None}]),
            "map": pa.array([[("k", 1)], None, [], [("l", 2)]], pa.map_(pa.string(), pa.int64())),
        }
    )


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    source = read(tmp_path, every_type())
    data = write(source, PARQUET, [True, True, True, False])
    found = pq.read_table(io.BytesIO(data))
    rows = source.table.to_pylist()
    assert found.schema.types == source.table.schema.types == every_type().schema.types
    assert str(found.to_pylist()) == str([rows[1], rows[2], rows[0]])
    found.validate(full=True)
    assert write(source, PARQUET, [True, True, True, False]) == data


def test_csv_becomes_parquet_of_strings(tmp_path: Path) -> None:
    found = pq.read_table(io.BytesIO(write(read(tmp_path, b"id,n\n1,007\n"), PARQUET)))
    assert found.schema.equals(pa.schema([("id", pa.string()), ("n", pa.string())]), check_metadata=False)


def test_row_groups(tmp_path: Path) -> None:
    count = 2 * 122_880 + 5
    source = read(
        tmp_path,
        pa.table(
            {"id": pa.array(range(count)), "c": pa.array(["x", "y", None, "z", "x"] * (count // 5)).dictionary_encode()}
        ),
    )
    data = write(source, PARQUET)
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [122_880, 122_880, 5]
    found = pd.read_parquet(io.BytesIO(data))
    order = sorted(range(count), key=str)
    assert found["id"].tolist() == order
    assert found["c"].astype(object).fillna("-").tolist() == [["x", "y", "-", "z", "x"][n % 5] for n in order]


def test_an_output_reveals_nothing_about_rows_that_did_not_match(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "id": [f"key{n}" for n in range(100)],
            "cat": pd.Categorical([f"value{n:03}" for n in reversed(range(100))]),
            "size": pd.Categorical(["S", "L"] * 50, categories=["S", "M", "L", "SECRET"], ordered=True),
        }
    )
    frame.to_parquet(tmp_path / "in")
    source = Source(tmp_path / "in", PARQUET, ["id"])
    assert b"pandas" in source.table.schema.metadata
    data = write(source, PARQUET, frame.index < 10)
    assert b"value089" not in data
    assert b"value090" in data
    assert b"SECRET" not in data
    table = pq.read_table(io.BytesIO(data))
    assert table["cat"].chunk(0).dictionary.to_pylist() == [f"value{n:03}" for n in range(90, 100)]
    assert table["size"].chunk(0).dictionary.to_pylist() == ["S", "L"]
    assert table["size"].type.ordered
    assert table.to_pandas()["cat"].tolist() == frame["cat"][:10].tolist()
    described = json.loads(table.schema.metadata[b"pandas"])
    assert described["index_columns"] == [{"kind": "range", "name": None, "start": 0, "stop": 10, "step": 1}]
    assert [each["metadata"]["num_categories"] for each in described["columns"][1:]] == [10, 2]


@pytest.mark.parametrize("out", TYPED_FORMATS)
def test_the_metadata_of_columns_keeps_only_what_concerns_their_types(tmp_path: Path, out: FileFormat) -> None:
    kept = {b"PARQUET:field_id": b"7", b"ARROW:extension:name": b"x", b"ARROW:extension:metadata": b"y"}
    number = pa.field("n", pa.int64(), metadata={**kept, b"largest": b"99"})
    nested = (pa.struct([number]), pa.list_(number), pa.list_(number, 1), pa.map_(pa.string(), number))
    fields = [pa.field("id", pa.string()), number, *(pa.field(str(kind), kind) for kind in nested)]
    schema = pa.schema(fields)
    source = read(tmp_path, pa.Table.from_pylist([{"id": "a"}, {"id": "b"}], schema))
    _, found, *others = typed_table(write(source, out), out).schema
    struct, list_, pair, map_ = (each.type for each in others)
    for field in (found, struct.field(0), list_.value_field, pair.value_field, map_.item_field):
        assert (field.metadata or kept) == kept


def test_equal_matches_give_equal_bytes_whatever_the_other_rows(tmp_path: Path) -> None:
    rows = {"id": ["b", "a", "x"], "cat": ["p", "q", "r"]}

    def output(order: list[int], matched: list[bool]) -> bytes:
        columns = {name: [values[n] for n in order] for name, values in rows.items()}
        table = pa.table({"id": columns["id"], "cat": pa.array(columns["cat"]).dictionary_encode()})
        return write(read(tmp_path, table), PARQUET, matched)

    assert output([0, 1], [True, True]) == output([1, 2, 0], [True, False, True])


@pytest.mark.parametrize("words", [pa.array(["x"]).dictionary_encode(), pa.array(["x"], pa.string_view())], ids=str)
def test_nested_dictionaries_and_views_become_their_values(tmp_path: Path, words: pa.Array) -> None:
    table = pa.table({"id": ["a"], "v": pa.ListArray.from_arrays([0, 1], words)})
    result = pq.read_table(io.BytesIO(write(read(tmp_path, table), PARQUET)))
    assert result["v"].to_pylist() == [["x"]]
    assert result["v"].type == pa.list_(pa.field("element", pa.string()))


def test_check_input_reads_only_the_header(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"id,a\n1,x\nragged\n")
    outputs.check_output(tables.check_input(path, CSV, ["a", "id"], output=PARQUET), PARQUET)
    with pytest.raises(InputMissingError, match="shown name"):
        tables.check_input(path, CSV, ["b"], name="shown name")


@pytest.mark.more
def test_a_line_end_inside_quotes_survives_wherever_a_block_ends(tmp_path: Path) -> None:
    """pyarrow drops an LF at the start of a block if the previous block ended with CR."""
    header, tail = b"id,note\n", b'\r\nline two"\n'
    for shift in range(-2, 3):
        row = b'1,"' + b"y" * 1000
        filler = b"0,x\n" * ((delimited.MAX_ROW_BYTES - len(row)) // 4)
        padding = delimited.MAX_ROW_BYTES - len(filler) - len(row) - 1 + shift
        source = read(tmp_path, header + filler + b'1,"' + b"y" * (1000 + padding) + tail)
        assert source.table.column("note")[-1].as_py().endswith("y\r\nline two")


def test_a_signal_during_the_rehearsal_is_no_fault_of_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,note\n1,x\n")
    found = tables.check_input(path, CSV, ["id"], output=CSV)

    def stopped(*_: object, **__: object) -> int:
        raise TerminatedBySignal

    monkeypatch.setattr(outputs, "write_matched", stopped)
    with pytest.raises(TerminatedBySignal):
        outputs.check_output(found, CSV)
