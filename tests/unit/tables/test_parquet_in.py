"""Tests of reading Parquet, and of files in any format that cannot be opened or that change while they are read."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections import deque
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tables import (
    ALL_FORMATS,
    AMPLE,
    ARROW,
    ARROW_STREAM,
    CSV,
    CSV_GZ,
    JSONL,
    PARQUET,
    TEXT_FORMATS,
    TYPED_FORMATS,
    Source,
    compressed,
    name_of,
    read,
    refuse,
    typed_bytes,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import ColumnError, InputChangedError, InputMissingError, MalformedInputError
from psicli.core.formats import FileFormat
from psicli.storage.spool import Spool
from psicli.tables import parquet, source

# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ALL_FORMATS, ids=name_of)
@pytest.mark.parametrize("attempt", [Source, tables.check_input])
def test_files_that_cannot_be_opened_are_66(tmp_path: Path, fmt: FileFormat, attempt: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path, error in (
        (tmp_path / "missing.csv", InputMissingError),
        (tmp_path, InputMissingError),
        (tmp_path / "fifo", InputMissingError),
        (tmp_path / "file" / "in.csv", InputMissingError),
    ):
        with pytest.raises(error, match=path.name) as caught:
            attempt(path, fmt, ["id"])
        assert caught.value.code == 66


def test_a_file_without_permission_is_66() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.csv"
        path.write_bytes(b"id\n1\n")
        path.chmod(0)
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(InputMissingError, match="permission denied") as caught:
                tables.check_input(path, CSV, ["id"])
        finally:
            if root:
                os.seteuid(0)
    assert caught.value.code == 66


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"3,z\n")


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


def truncate(path: Path) -> None:
    os.truncate(path, 3)


CHANGES = [append, touch, replace, truncate, Path.unlink]


class Changing:
    """Changes a file just before or just after the next read of it."""

    change: Callable[[], None] | None = None
    before = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self.read)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        change, self.change = self.change, None
        if change is not None and self.before:
            change()
        data = self._pread(descriptor, size, offset)
        if change is not None and not self.before:
            change()
        return data


def sample_file(folder: Path, fmt: FileFormat) -> Path:
    path = folder / "in.file"
    if fmt in TYPED_FORMATS:
        path.write_bytes(typed_bytes(pa.table({"id": ["1", "2"], "a": ["x", "y"]}), fmt))
    else:
        content = b"id,a\n1,x\n2,y\n" if fmt in TEXT_FORMATS else b'{"id":"1","a":"x"}\n{"id":"2","a":"y"}\n'
        path.write_bytes(compressed(content, fmt))
    return path


@pytest.mark.sample(40)
@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, JSONL, PARQUET, ARROW, ARROW_STREAM], ids=name_of)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("reading", ["keys", "rows"])
def test_a_file_changed_while_it_is_read_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fmt: FileFormat,
    change: Callable[[Path], None],
    before: bool,
    reading: str,
) -> None:
    path = sample_file(tmp_path, fmt)
    changing = Changing(monkeypatch)
    with tables.open_input(path, fmt, ["id"]) as watched, Spool(tmp_path / "state") as spool:
        if reading == "rows":
            assert len(list(watched.key_batches())) == 1
            mask = pa.array([True, False])
            read_again = partial(outputs.write_matched, watched, io.BytesIO(), fmt, mask, budget=AMPLE, spool=spool)
        else:
            read_again = partial(deque, watched.key_batches())
        changing.before, changing.change = before, partial(change, path)
        with pytest.raises(InputChangedError, match=r"in\.file") as caught:
            read_again()
    assert caught.value.code == 65


def test_views_of_a_file_have_separate_positions(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(bytes(range(100)))
    with source.SourceFile(path, "in") as file:
        one, other = file.view(), file.view()
        assert (one.read(3), other.read(2), one.read(1), other.tell()) == (b"\0\1\2", b"\0\1", b"\3", 2)
        assert other.seek(-4, io.SEEK_END) == 96
        assert (other.read(4), other.read(1), one.seek(2, io.SEEK_CUR)) == (b"\x60\x61\x62\x63", b"", 6)


@pytest.mark.parametrize("columns", [1, 16, 17, 40])
def test_many_columns_keep_their_order(tmp_path: Path, columns: int) -> None:
    """Several threads share the columns of a file with more than 16 of them."""
    names = [f"c{number}" for number in range(columns)]
    values = {name: pa.array([f"{name}-{row}" for row in range(9)]) for name in names}
    pq.write_table(pa.table(values), tmp_path / "in", row_group_size=4)
    with tables.open_input(tmp_path / "in", PARQUET, names[:1]) as wide, Spool(tmp_path / "state") as spool:
        list(wide.key_batches())
        sink = io.BytesIO()
        mask = pa.array([row % 2 == 0 for row in range(9)])
        assert outputs.write_matched(wide, sink, PARQUET, mask, budget=AMPLE, spool=spool) == 5
    assert pq.read_table(sink).equals(pa.table(values).take([0, 2, 4, 6, 8]))


def test_tables_with_many_columns_get_smaller_row_groups() -> None:
    assert [parquet.row_group_rows(columns) for columns in (1, 32, 450, 10**7)] == [122_880, 122_880, 8192, 2048]
    assert [parquet.row_group_rows(1, size) for size in (100, 2 << 20, 1 << 40)] == [122_880, 64, 1]


def test_floating_point_columns_get_no_dictionary(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a"], "price": [1.5], "pair": [{"x": 0.5, "y": "b"}], "count": [7]})
    pq.write_table(rows, tmp_path / "in")
    with tables.open_input(tmp_path / "in", PARQUET, ["id"]) as source_of_all, Spool(tmp_path / "state") as spool:
        list(source_of_all.key_batches())
        sink = io.BytesIO()
        outputs.write_matched(source_of_all, sink, PARQUET, pa.array([True]), budget=AMPLE, spool=spool)
    group = pq.ParquetFile(sink).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    dictionaries = {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings}
    assert dictionaries == {"id", "pair.y", "count"}
    assert pq.read_table(sink).equals(rows)


@pytest.mark.sample(20)
@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, JSONL, PARQUET, ARROW, ARROW_STREAM], ids=name_of)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("matched", [[True, True], [False, False]], ids=["all", "none"])
def test_a_file_changed_between_the_two_passes_is_refused(
    tmp_path: Path, fmt: FileFormat, change: Callable[[Path], None], matched: list[bool]
) -> None:
    path = sample_file(tmp_path, fmt)
    read_once = Source(path, fmt, ["id"])
    change(path)
    with pytest.raises(InputChangedError, match=r"in\.file"):
        write(read_once, CSV, matched)


@pytest.mark.parametrize("other", [b"id,a\n1,x\n2\n,y\n", b"id,a\n1,x\n\n\n\n\n\n"])
def test_other_rows_with_the_same_size_and_time_are_detected(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"id,a\n1,x\n2,yy\n")
    status = path.stat()
    read_once = Source(path, CSV, ["id"])
    path.write_bytes(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with pytest.raises(InputChangedError):
        write(read_once, CSV)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_bytes(b"id\n1\n")
    (tmp_path / "in.csv").symlink_to(tmp_path / "real.csv")
    assert Source(tmp_path / "in.csv", CSV, ["id"]).rows == 1


# Parquet in ---------------------------------------------------------------------------------------------------------


def test_parquet_keys_have_the_same_text_as_csv(tmp_path: Path) -> None:
    table = pa.table(
        {
            "i64": pa.array([7, None], pa.int64()),
            "u64": pa.array([2**64 - 1, 0], pa.uint64()),
            "i8": pa.array([-7, 7], pa.int8()),
            "flag": pa.array([True, False]),
            "day": pa.array([date(1969, 12, 31), date(2024, 2, 29)]),
            "zoned": pa.array([1_500_000, -1], pa.int64()).cast(pa.timestamp("us", "Europe/Berlin")),
            "price": pa.array([Decimal("-0.00"), Decimal("1.50")], pa.decimal128(9, 2)),
            "big": pa.array([Decimal("1E-10"), None], pa.decimal256(60, 10)),
            "name": pa.array(["007", "é"]).dictionary_encode(),
            "large": pa.array(["a", ""], pa.large_string()),
            "none": pa.array([None, None], pa.null()),
        }
    )
    source = read(tmp_path, table, table.column_names)
    assert dict(zip(table.column_names, [column.to_pylist() for column in source.key_texts], strict=True)) == {
        "i64": ["7", None],
        "u64": ["18446744073709551615", "0"],
        "i8": ["-7", "7"],
        "flag": ["true", "false"],
        "day": ["1969-12-31", "2024-02-29"],
        "zoned": ["1970-01-01T00:00:01.5Z", "1969-12-31T23:59:59.999999Z"],
        "price": ["0", "1.5"],
        "big": ["0.0000000001", None],
        "name": ["007", "é"],
        "large": ["a", ""],
        "none": [None, None],
    }
    assert source.table.schema.types == table.schema.types


def test_chunks_and_empty_batches(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    column = pa.chunked_array([empty, pa.array(["b", None]), empty, pa.array(["a"]), empty])
    source = read(tmp_path, pa.table({"id": column}))
    assert source.key_texts[0].to_pylist() == ["b", None, "a"]
    assert write(source, CSV, [True, False, True]) == b"id\na\nb\n"
    assert pq.read_table(io.BytesIO(write(source, PARQUET, [True, False, True]))).to_pydict() == {"id": ["a", "b"]}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("id", pa.int32())])) as writer:
        for size in (0, 2, 0, 1):
            writer.write_table(pa.table({"id": pa.array(range(size), pa.int32())}))
    assert read(tmp_path, sink.getvalue(), fmt=PARQUET).key_texts[0].to_pylist() == ["0", "1", "0"]


def test_no_row_groups(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("id", pa.int64()), ("d", pa.dictionary(pa.int32(), pa.string()))])):
        pass
    source = read(tmp_path, sink.getvalue(), fmt=PARQUET)
    assert source.rows == 0
    assert gzip.decompress(write(source, CSV_GZ)) == b"id,d\n"
    assert pq.read_table(io.BytesIO(write(source, PARQUET))).schema.equals(source.table.schema)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float16(), pa.duration("s"), pa.list_(pa.int8())], ids=str)
def test_key_types_are_refused_before_data_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": pa.array([None], kind)}), path)
    for attempt in (tables.check_input, Source):
        with pytest.raises(ColumnError, match=str(path)) as caught:
            attempt(path, PARQUET, ["id"])
        assert caught.value.code == 65


def test_mixed_zones_are_refused(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([0], pa.timestamp("us")), "b": pa.array([0], pa.timestamp("us", "UTC"))})
    refuse(ColumnError, tmp_path, table, ["a", "b"])
    assert read(tmp_path, table, ["a"]).rows == 1


def test_bad_keys_are_reported_with_their_row(tmp_path: Path) -> None:
    table = pa.table({"id": ["ok", None, "a\nb"], "x": ["", "y" * 65537, "z"]})
    assert refuse(ColumnError, tmp_path, table).startswith("in.file, row 3: ")
    assert refuse(ColumnError, tmp_path, table, ["x"]).startswith("in.file, row 2: ")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_strings_must_be_utf_8(tmp_path: Path, kind: pa.DataType) -> None:
    raw = pa.array([b"fine", None, b"\xff\xfe"], pa.binary())
    if pa.types.is_dictionary(kind):
        encoded = raw.dictionary_encode()
        bad = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.view(pa.string()))
    else:
        bad = raw.cast(pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    table = pa.table({"id": pa.array([1, 2, 3]), "note": bad})
    for keys in (["note"], ["id"]):
        message = refuse(MalformedInputError, tmp_path, table, keys)
        assert message == "in.file, row 3, column 'note': the value is not UTF-8 text"
    # A party without an output never reads a column that is not a key.
    assert Source(tmp_path / "in", PARQUET, ["id"], output=None).rows == 3


def test_files_that_are_not_parquet_are_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(1000)}), sink)
    whole = sink.getvalue()
    for content in (whole[:-1], whole[:200], b"PAR1", b"PAR1" * 100):
        assert (
            refuse(MalformedInputError, tmp_path, content, fmt=PARQUET)
            == "in.file: the file is damaged, or not Parquet"
        )
        with pytest.raises(MalformedInputError):
            tables.check_input(tmp_path / "in", PARQUET, ["id"])
    # The metadata of these files may still be readable.
    for content in (whole[4:], whole[:4] + bytes(100) + whole[104:]):
        (tmp_path / "in").write_bytes(content)
        with pytest.raises(MalformedInputError):
            Source(tmp_path / "in", PARQUET, ["id"])


def test_page_checksums_are_verified_if_present(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"id": [f"key{n}" for n in range(1000)]})
    pq.write_table(table, sink, use_dictionary=False, compression="none", write_page_checksum=True)
    damaged = sink.getvalue().replace(b"key777", b"key778")
    refuse(MalformedInputError, tmp_path, damaged, fmt=PARQUET)


def test_duplicate_parquet_columns_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["id", "a", "a"])
    assert "'a'" in refuse(MalformedInputError, tmp_path, table)


def test_long_values_that_a_file_stores_once_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_DECODED_BYTES", 1 << 20)
    table = pa.table({"id": [str(row) for row in range(9000)], "v": ["x" * 1000] * 9000, "n": [1] * 9000})
    pq.write_table(table, tmp_path / "in")
    with tables.open_input(tmp_path / "in", PARQUET, ["id"], output=PARQUET) as opened:
        sizes = [len(texts[0]) for texts in opened.key_batches()]
        assert sum(sizes) == 9000
        assert 900 < max(sizes) < 1100
        assert max(batch.num_rows for batch in opened.matched(pa.array([True] * 9000), AMPLE)) == max(sizes)
    with tables.open_input(tmp_path / "in", PARQUET, ["id"]) as opened:
        assert [len(texts[0]) for texts in opened.key_batches()] == [9000]
