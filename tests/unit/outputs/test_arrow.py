"""Tests of Arrow files and streams, in and out."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from support.every_type import every_type, outcome
from support.tables import (
    ARROW,
    ARROW_STREAM,
    CSV,
    JSONL,
    PARQUET,
    Source,
    name_of,
    parsed,
    read,
    refuse,
    rows_of,
    typed_bytes,
    typed_table,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import BadInputError, ColumnError, InputMissingError, MalformedInputError
from psicli.core.formats import FileFormat, file_format
from psicli.items import kinds
from psicli.tables import arrow
from psicli.tables.values import plain_rows

KINDS = [ARROW, ARROW_STREAM]
WORDS = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 1], pa.int8()), pa.array(["x", "y"]))
TABLE = pa.table(
    {
        "id": ["d", "a", "c", "b"],
        "number": pa.array([1, None, 3, 4], pa.int16()),
        "word": WORDS,
        "view": pa.array(["x" * 20, None, "", "y"], pa.string_view()),
        "list": pa.array([[1], None, [], [2, None]], pa.large_list(pa.int32())),
        "uuid": pa.array([b"u" * 16, None, b"v" * 16, b"w" * 16], pa.uuid()),
        "interval": pa.array([pa.MonthDayNano([1, 2, 3]), None, None, pa.MonthDayNano([0, -1, 0])]),
    }
)


def file_of(table: pa.Table, fmt: FileFormat, **options: Any) -> bytes:
    """Return a table as bytes in batches of two rows, written with options of pyarrow."""
    sink = io.BytesIO()
    new_writer = pa.ipc.new_file if fmt == ARROW else pa.ipc.new_stream
    with new_writer(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def attempt(path: Path, fmt: FileFormat, output: FileFormat) -> bytes:
    """Check an input and copy all its rows to an output, as a run does."""
    sample = tables.check_input(path, fmt, ["id"], output=output)
    assert sample is not None
    outputs.check_output(sample, output)
    return write(Source(path, fmt, ["id"], output=output), output)


@pytest.mark.sample(12)
@pytest.mark.parametrize("out", KINDS, ids=name_of)
@pytest.mark.parametrize("fmt", KINDS, ids=name_of)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("batch_bytes", [0, 1 << 20])
def test_all_types_are_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fmt: FileFormat,
    out: FileFormat,
    compression: Any,
    batch_bytes: int,
) -> None:
    monkeypatch.setattr(arrow, "_BATCH_BYTES", batch_bytes)
    path = tmp_path / "in"
    path.write_bytes(file_of(TABLE, fmt, compression=compression))
    data = attempt(path, fmt, out)
    found, rows = typed_table(data, out), TABLE.to_pylist()
    assert found.schema == TABLE.schema
    assert found.to_pylist() == [rows[index] for index in (1, 3, 2, 0)]
    path.write_bytes(data)
    assert attempt(path, out, out) == data


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", every_type())
def test_every_type_is_kept_or_refused_before_the_exchange(tmp_path: Path, name: str) -> None:
    table = pa.table({"id": ["1", "2", "3"], "v": every_type()[name]})
    path = tmp_path / "in.arrow"
    path.write_bytes(typed_bytes(table, ARROW))
    for key in ("id", "v"):
        for out in (ARROW, ARROW_STREAM, PARQUET, JSONL, CSV):
            data = outcome(path, out, key)
            if isinstance(data, BadInputError):
                assert "'v'" in data.message
            elif out in KINDS and key == "id":
                found = typed_table(data, out)
                assert found.schema.field("v").type == kinds.kept(table.schema.field("v").type)
                assert _values(found).equals(_values(table))


def _values(table: pa.Table) -> Any:
    values = plain_rows(table.combine_chunks().to_batches()[0], "data").column("v").chunk(0)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def test_suffixes() -> None:
    assert [file_format(f"x{suffix}") for suffix in (".arrow", ".feather", ".arrows")] == [ARROW, ARROW, ARROW_STREAM]


@pytest.mark.parametrize("fmt", KINDS, ids=name_of)
def test_a_stream_is_recognised_under_any_suffix(tmp_path: Path, fmt: FileFormat) -> None:
    for content in KINDS:
        assert rows_of(read(tmp_path, typed_bytes(TABLE.select(["id"]), content), fmt=fmt))[0] == ("d",)


@pytest.mark.parametrize(("fmt", "deltas"), [(ARROW, True), (ARROW_STREAM, True), (ARROW_STREAM, False)])
def test_dictionaries_that_change_from_batch_to_batch(tmp_path: Path, fmt: FileFormat, deltas: bool) -> None:
    words = [["x", "y"], ["x", "y", "z"], ["x", "y", "z", "q"]] if deltas else [["x", "y"], ["z"], ["y", "x"]]
    batches = [
        pa.record_batch({"id": pa.DictionaryArray.from_arrays(pa.array(range(len(each)), pa.int8()), pa.array(each))})
        for each in words
    ]
    sink = io.BytesIO()
    new_writer = pa.ipc.new_file if fmt == ARROW else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)
    with new_writer(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    source = read(tmp_path, sink.getvalue(), fmt=fmt)
    every = [word for each in words for word in each]
    assert source.key_texts[0].to_pylist() == every
    found = typed_table(write(source, ARROW), ARROW)["id"]
    assert found.to_pylist() == sorted(every)
    assert found.chunk(0).dictionary.to_pylist() == sorted(set(every))


@pytest.mark.parametrize("out", [ARROW, PARQUET, JSONL, CSV], ids=name_of)
@pytest.mark.parametrize("ordered", [False, True])
def test_categories_as_polars_writes_them(tmp_path: Path, ordered: bool, out: FileFormat) -> None:
    words = pa.array(["y", "q", "x"], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([0, 2], pa.uint32()), words, ordered=ordered)
    path = tmp_path / "in"
    path.write_bytes(typed_bytes(pa.table({"id": ["b", "a"], "v": column}), ARROW))
    data = attempt(path, ARROW, out)
    if out in (ARROW, PARQUET):
        found = typed_table(data, out)["v"]
        assert found.to_pylist() == ["x", "y"]
        assert found.type.ordered == ordered
        assert found.chunk(0).dictionary.to_pylist() == (["y", "x"] if ordered else ["x", "y"])
    else:
        assert parsed(data, out) == [["id", "v"], ["a", "x"], ["b", "y"]]


def test_an_output_has_no_bytes_of_other_rows_or_nulls(tmp_path: Path) -> None:
    def written(hidden: bytes, rows: int) -> bytes:
        numbers = pa.Array.from_buffers(pa.int64(), 4, [pa.py_buffer(b"\x0d"), pa.py_buffer(hidden * 32)])
        table = pa.table({"id": ["a", "b", "c", "d"], "number": numbers, "word": ["w", "x", "y", hidden.decode()]})
        source = read(tmp_path, table, fmt=ARROW)
        return write(source, ARROW, [number < rows for number in range(4)])

    assert written(b"S", 2).count(b"SSSS") == 2
    assert written(b"S", 2).replace(b"S", b"T") == written(b"T", 2)


def test_the_metadata_of_pandas_is_kept(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"id": ["a", "b", "c"], "size": pd.Categorical(["S", "M", "S"], ["S", "M", "L"], ordered=True)}
    )
    data = write(read(tmp_path, pa.Table.from_pandas(frame), fmt=ARROW), ARROW, [True, False, True])
    found = pa.ipc.open_file(data).read_pandas()
    assert found["size"].tolist() == ["S", "S"]
    assert found["size"].cat.ordered
    assert found["size"].cat.categories.tolist() == ["S"]


# Refused files -----------------------------------------------------------------------------------------------------


def test_a_type_that_parquet_does_not_have_is_refused_before_the_exchange(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    path.write_bytes(typed_bytes(TABLE, ARROW))
    with pytest.raises(ColumnError, match="'interval' of type 'month_day_nano_interval' cannot be written as parquet"):
        attempt(path, ARROW, PARQUET)
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    path.write_bytes(typed_bytes(pa.table({"id": ["a"], "u": union}), ARROW))
    with pytest.raises(ColumnError, match="'u' of type"):
        attempt(path, ARROW, ARROW)


@pytest.mark.parametrize("out", KINDS)
def test_list_views_are_refused_because_they_hold_the_values_of_other_rows(tmp_path: Path, out: FileFormat) -> None:
    view = pa.list_view(pa.string())
    for kind, value in ((view, ["x"]), (pa.struct([("v", pa.large_list_view(view))]), {"v": [["x"]]})):
        table = pa.table({"id": ["a"], "v": pa.array([value], kind)})
        path = tmp_path / "in.arrow"
        path.write_bytes(typed_bytes(table, ARROW))
        with pytest.raises(ColumnError, match=r"'v' of type .* cannot be written as arrow"):
            attempt(path, ARROW, out)
        assert attempt(path, ARROW, PARQUET)


def with_months(data: bytes) -> bytes:
    """Return a stream whose intervals count in months, which pyarrow does not write."""
    for at in (at for at, byte in enumerate(data) if byte == 2):
        changed = data[:at] + b"\0" + data[at + 1 :]
        with suppress(pa.ArrowException, OSError):
            if "month_interval" in str(pa.ipc.open_stream(changed).schema):
                return changed
    raise AssertionError


@pytest.mark.parametrize("nested", [False, True])
def test_intervals_that_pyarrow_has_no_arrays_of_are_refused(tmp_path: Path, nested: bool) -> None:
    interval = pa.array([pa.MonthDayNano([1, 2, 3])])
    column = pa.StructArray.from_arrays([interval], ["f"]) if nested else interval
    path = tmp_path / "in.arrow"
    path.write_bytes(with_months(typed_bytes(pa.table({"id": ["a"], "v": column}), ARROW_STREAM)))
    for out in (ARROW, PARQUET, JSONL):
        with pytest.raises(BadInputError):
            attempt(path, ARROW, out)
    assert Source(path, ARROW, ["id"], output=None).rows == 1


def test_lists_of_fixed_size_0_are_refused_before_parquet(tmp_path: Path) -> None:
    """pyarrow writes them without an error, but no reader can read the file."""
    path = tmp_path / "in.arrow"
    empty = pa.array([[], None], pa.list_(pa.int8(), 0))
    nested = pa.StructArray.from_arrays([empty], ["f"]), pa.ListArray.from_arrays([0, 1, 2], empty)
    for column in (empty, *nested):
        table = pa.table({"id": ["a", "b"], "v": column})
        path.write_bytes(typed_bytes(table, ARROW))
        with pytest.raises(ColumnError, match=r"the column 'v' of type .* cannot be written as parquet"):
            attempt(path, ARROW, PARQUET)
        assert typed_table(attempt(path, ARROW, ARROW), ARROW).equals(table)


def test_integers_of_128_bits_are_refused_with_the_advice_to_cast(tmp_path: Path) -> None:
    path = tmp_path / "in"
    pl.DataFrame({"id": ["a"], "v": pl.Series([1], dtype=pl.Int128)}).write_ipc(path)
    with pytest.raises(ColumnError, match="of a type that cannot be read"):
        Source(path, ARROW, ["id"])


def test_a_null_where_the_type_allows_none_is_refused(tmp_path: Path) -> None:
    field = pa.field("x", pa.int8(), nullable=False)
    values = pa.array([1, None], pa.int8())
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values, pa.list_(field))
    for column, kind in ((values, field), (nested, pa.field("x", nested.type))):
        table = pa.table([pa.array(["a", "b"]), column], schema=pa.schema([("id", pa.string()), kind]))
        assert "'x'" in refuse(MalformedInputError, tmp_path, table, fmt=ARROW)


DAY = 86_400_000
UNFIT = [
    (pa.timestamp("s"), 2**54, "too large"),
    (pa.timestamp("s", "UTC"), -(2**63), "too large"),
    (pa.time32("s"), 2**22, "too large"),
    (pa.date64(), DAY + 1, "a date that is not a whole day"),
]


@pytest.mark.parametrize(("kind", "number", "fault"), UNFIT)
def test_a_value_that_pyarrow_would_change_for_parquet_is_refused(
    tmp_path: Path, kind: pa.DataType, number: int, fault: str
) -> None:
    values = pa.array([0, number], f"int{kind.bit_width}").view(kind)
    columns = [values, pa.ListArray.from_arrays([0, 1, 2], values)]
    for column in [*columns, values.dictionary_encode()] if pa.types.is_timestamp(kind) else columns:
        path = tmp_path / "in"
        table = pa.table({"id": ["a", "b"], "v": column})
        path.write_bytes(typed_bytes(table, ARROW))
        with pytest.raises(MalformedInputError, match=f"the column 'v' of type .* has .*{fault}"):
            Source(path, ARROW, ["id"], output=PARQUET)
        data = write(Source(path, ARROW, ["id"], output=ARROW), ARROW)
        assert _values(typed_table(data, ARROW)).equals(_values(table))


def test_a_date64_too_far_away_for_a_date_is_refused_everywhere(tmp_path: Path) -> None:
    days = pa.array([DAY * 2**31], pa.int64()).view(pa.date64())
    assert "too large" in refuse(MalformedInputError, tmp_path, pa.table({"id": days}), fmt=ARROW)


def test_text_that_is_not_utf_8_is_refused_with_its_row(tmp_path: Path) -> None:
    text = pa.array([b"a", b"b", b"\xff"]).view(pa.string())
    message = refuse(MalformedInputError, tmp_path, pa.table({"id": ["a", "b", "c"], "text": text}), fmt=ARROW)
    assert message == "in.file, row 3, column 'text': the value is not UTF-8 text"


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_column_that_is_not_read_is_not_checked(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "in"
    path.write_bytes(typed_bytes(pa.table({"id": ["a"], "text": pa.array([b"\xff"]).view(pa.string())}), ARROW))
    assert Source(path, ARROW, ["id"], output=None).rows == 1


def test_other_files_are_refused_with_advice(tmp_path: Path) -> None:
    assert "an old Feather file" in refuse(MalformedInputError, tmp_path, b"FEA1" + bytes(50), fmt=ARROW)
    assert "damaged, or not Arrow" in refuse(
        MalformedInputError, tmp_path, b"\xff" * 4 + bytes(range(1, 50)), fmt=ARROW
    )
    assert "there is no column 'id'" in refuse(InputMissingError, tmp_path, pa.table({"x": [1]}), fmt=ARROW)


def test_a_stream_must_be_complete_and_alone(tmp_path: Path) -> None:
    """The end of a batch would be a good end for pyarrow, and so would the end of the first of two streams."""
    data = file_of(TABLE, ARROW_STREAM)
    for other in (data[:-8], data + data, data + b"\0"):
        assert "the Arrow stream has no end" in refuse(MalformedInputError, tmp_path, other, fmt=ARROW_STREAM)


@pytest.mark.more
@pytest.mark.parametrize("fmt", KINDS, ids=name_of)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_damaged_files_are_refused_or_read(tmp_path: Path, fmt: FileFormat, compression: Any) -> None:
    """pyarrow does not check what it reads; without psicli's checks, damaged offsets end the process."""
    whole = file_of(TABLE, fmt, compression=compression)
    path = tmp_path / "in"
    for seed in range(100):
        chance = random.Random(seed)
        data = bytearray(whole)
        if seed % 4:
            for _ in range(seed % 3 + 1):
                data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        else:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        with suppress(BadInputError, InputMissingError):
            attempt(path, fmt, chance.choice([ARROW, ARROW_STREAM, CSV]))
