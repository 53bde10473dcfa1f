"""Tests of sorting the matched rows by key, in memory and on disk."""

from __future__ import annotations

import csv
import io
import json
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import (
    AMPLE,
    ARROW,
    CSV,
    CSV_GZ,
    JSONL,
    JSONL_ZST,
    PARQUET,
    TSV_GZ,
    TYPED_FORMATS,
    Source,
    compressed,
    name_of,
    parsed,
    read,
    small_pieces,
    typed_bytes,
    typed_table,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import ColumnError, MalformedInputError, StorageError
from psicli.core.formats import FileFormat
from psicli.outputs import columns, sorting
from psicli.storage.files import AtomicFile
from psicli.storage.spool import Spool
from psicli.tables import parquet

TEXT = st.text(st.sampled_from('ab,"\n\ré😀\t '), max_size=5)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b", "aa", "é", "😀", "k" * 30]),
        st.sampled_from(["x", "y", "yy"]),
        TEXT,
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.sampled_from(["S", "M", "L"])),
        st.lists(st.integers(0, 3), max_size=2),
    ),
    max_size=40,
)
NAMES = ["k1", "k2", "text", "number", "size", "list"]
SIZE = pa.dictionary(pa.int8(), pa.string())
ORDERED = pa.dictionary(pa.int8(), pa.string(), ordered=True)


def typed(rows: list[tuple[Any, ...]], size: pa.DataType, columns: Sequence[str]) -> pa.Table:
    """Build a table from rows; its dictionary holds all sizes, whatever the rows contain."""
    values = dict(zip(NAMES, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(NAMES, ())
    codes = pa.array([None if value is None else "SML".index(value) for value in values["size"]], pa.int8())
    arrays = {
        "k1": pa.array(values["k1"], pa.string()).dictionary_encode().cast(pa.string()),
        "k2": pa.array(values["k2"], pa.large_string()),
        "text": pa.array(values["text"], pa.string_view()),
        "number": pa.array(values["number"], pa.int16()),
        "size": pa.DictionaryArray.from_arrays(codes, ["S", "M", "L"], ordered=size.ordered),
        "list": pa.array(values["list"], pa.list_(pa.int8())),
    }
    return pa.table({name: arrays[name] for name in columns})


def sorted_rows(rows: list[tuple[Any, ...]], matched: list[bool]) -> list[tuple[Any, ...]]:
    kept = [row for row, keep in zip(rows, matched, strict=True) if keep]
    # An empty key is null, and nulls are last.
    return sorted(kept, key=lambda row: (row[0] == "", row[0].encode(), row[1].encode()))


@pytest.mark.more
@given(
    ROWS,
    st.sampled_from([SIZE, ORDERED]),
    st.sampled_from([CSV, TSV_GZ, JSONL, *TYPED_FORMATS]),
    st.sampled_from([CSV, CSV_GZ, JSONL_ZST, *TYPED_FORMATS]),
    st.integers(1, 15),
    st.sampled_from([0, 300, 3000, 30_000]),
    st.randoms(),
)
def test_bytes_do_not_depend_on_the_budget(
    rows: list[tuple[Any, ...]],
    size: pa.DataType,
    fmt: FileFormat,
    out: FileFormat,
    group: int,
    budget: int,
    random: Any,
) -> None:
    columns = NAMES if fmt in TYPED_FORMATS and out in TYPED_FORMATS else NAMES[:5]
    matched = [random.random() < 0.7 for _ in rows]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "row_group_rows", lambda columns, row_bytes=0: 7)
        path = Path(folder) / "in"
        if fmt in TYPED_FORMATS:
            path.write_bytes(typed_bytes(typed(rows, size, columns), fmt, group))
        elif fmt == JSONL:
            objects = (dict(zip(columns, map(shown_as_text, row), strict=False)) for row in rows)
            path.write_text("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in objects))
        else:
            text = io.StringIO(newline="")
            writer = csv.writer(text, delimiter=fmt.delimiter, quoting=csv.QUOTE_ALL)
            writer.writerows([columns, *(row[:5] for row in rows)])
            path.write_bytes(compressed(text.getvalue().encode(), fmt))
        with Spool(Path(folder) / "state") as spool:

            def written(budget: int) -> bytes:
                sink = io.BytesIO()
                mask = pa.array(matched, pa.bool_())
                with tables.open_input(path, fmt, ["k1", "k2"], output=out) as source:
                    list(source.key_batches())
                    assert outputs.write_matched(source, sink, out, mask, budget=budget, spool=spool) == sum(matched)
                return sink.getvalue()

            data = written(AMPLE)
            assert spool.peak == 0
            with small_pieces(200):
                assert written(budget) == data
            if budget == 0 and any(matched):
                assert spool.peak > 0
        expected = sorted_rows(rows, matched)
        if out in TYPED_FORMATS and (rows or fmt != JSONL):
            found = typed_table(data, out)
            values = [tuple(row.values()) for row in found.to_pylist()]
            if fmt in TYPED_FORMATS:
                assert found.schema.types == typed_table(path.read_bytes(), fmt).schema.types
                assert values == [row[: len(columns)] for row in expected]
                assert found["size"].type.ordered == size.ordered
            else:
                assert values == [tuple(map(shown_as_text, row[:5])) for row in expected]
        elif expected:
            assert parsed(data, out) == [columns, *(list(map(shown_as_text, row[:5])) for row in expected)]


def shown_as_text(value: Any) -> str:
    return "" if value is None else str(value)


@pytest.mark.parametrize("out", TYPED_FORMATS)
@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.string())])
def test_what_pyarrow_cannot_join_is_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, out: FileFormat
) -> None:
    """Even where all rows fit in memory: 32-bit offsets reach no further than 2 GiB."""
    monkeypatch.setattr(sorting, "_JOINED_BYTES", 1000)
    words = ["x" * (row % 2 * 100) for row in range(40)]
    values = words if kind == pa.string() else [[word] for word in words]
    table = pa.table({"id": [f"{row:02d}" for row in range(40)], "v": pa.array(values, kind)})
    source = read(tmp_path, table)
    with Spool(tmp_path / "state") as spool:
        sink = io.BytesIO()
        every = pa.array([True] * 40)
        assert outputs.write_matched(source.input, sink, out, every, budget=AMPLE, spool=spool) == 40
        assert (spool.peak > 0) == pa.types.is_nested(kind)
    assert typed_table(sink.getvalue(), out).to_pylist() == table.to_pylist()
    if out == PARQUET:
        metadata = pq.ParquetFile(sink).metadata
        assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [10] * 4


# pyarrow casts no nulls of such a type.
PAIR = pa.list_(pa.field("element", pa.int8(), nullable=False), 2)
CONTENTS = {
    "int64": (pa.array([1, None, 3]), 24),
    "bool": (pa.array([True, None, False]), 3),
    "string": (pa.array(["abc", None, ""]), 27),
    "null": (pa.nulls(3), 0),
    "list": (pa.array([[1, 2], None, []], pa.list_(pa.int8())), 26),
    "pair": (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)), 28),
    "struct": (pa.array([{"f": "abc"}, None, {"f": None}]), 27),
    "map": (pa.array([[("abc", 1)], None, []], pa.map_(pa.string(), pa.int8())), 36),
    "map of pairs": (pa.array([[(1, [1, 2])], None, [(2, None)]], pa.map_(pa.int8(), PAIR)), 44),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_content_of_rows_does_not_depend_on_how_they_are_stored(kind: str) -> None:
    values, size = CONTENTS[kind]
    whole = pa.table({"v": values})
    assert columns.content_bytes(whole) == size
    parts = [pa.concat_tables([whole, whole]).combine_chunks().slice(start, 1) for start in (3, 1, 5)]
    assert columns.content_bytes(pa.concat_tables(parts)) == size
    assert columns.content_bytes(whole.slice(1, 0)) == 0


def test_an_ordered_dictionary_keeps_the_order_of_the_whole_file(tmp_path: Path) -> None:
    """Values keep the order in which they first appear in the file, even if its row groups disagree."""
    kind = pa.schema([("id", pa.string()), ("size", ORDERED)])
    with pq.ParquetWriter(tmp_path / "in", kind) as writer:
        for words in (["S", "L"], ["M", "S"], ["XL", "M", "L"]):
            values = pa.DictionaryArray.from_arrays(list(range(len(words))), words, ordered=True).cast(ORDERED)
            writer.write_table(pa.Table.from_arrays([pa.array([f"{w}{words}" for w in words]), values], schema=kind))
    source = Source(tmp_path / "in", PARQUET, ["id"])
    # No row of the middle row group is selected, although only that group has M before XL.
    found = pq.read_table(io.BytesIO(write(source, PARQUET, [True, True, False, False, True, True, True])))
    assert found["size"].chunk(0).dictionary.to_pylist() == ["S", "L", "M", "XL"]
    assert sorted(found["size"].to_pylist()) == ["L", "L", "M", "S", "XL"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("out", [CSV, JSONL, PARQUET, ARROW], ids=name_of)
def test_many_rows_with_the_same_key(tmp_path: Path, out: FileFormat) -> None:
    content = b"id,n\n" + b"".join(b"same,%d\n" % n for n in range(300_000))
    source = read(tmp_path, content)
    data = write(source, out, budget=1 << 20)
    assert data == write(source, out)
    if out == CSV:
        assert data == content


def test_a_column_with_a_dot_in_its_name(tmp_path: Path) -> None:
    table = pa.table({"a.b": ["x", "y"], "a": ["2", "1"], "c": [{"a": 1}, {"a": 2}]})
    assert read(tmp_path, table, ["a"]).key_texts[0].to_pylist() == ["2", "1"]
    source = read(tmp_path, table, ["a.b"])
    assert source.key_texts[0].to_pylist() == ["x", "y"]
    assert pq.read_table(io.BytesIO(write(source, PARQUET))).equals(table)


def test_row_numbers_count_across_batches_and_row_groups(tmp_path: Path) -> None:
    days = pa.array([0] * 50 + [10**7] + [0] * 50, pa.date32())
    texts = pa.array(["a"] * 77 + ["b\n"] + ["c"] * 23)
    pq.write_table(pa.table({"day": days, "text": texts}), tmp_path / "in", row_group_size=30)
    with small_pieces(64):
        for key, error, row in (("day", ColumnError, 51), ("text", ColumnError, 78)):
            with pytest.raises(error, match=f", row {row}: "):
                Source(tmp_path / "in", PARQUET, [key])


def test_bad_utf_8_is_reported_with_its_row(tmp_path: Path) -> None:
    """The first batch of a row group already has the dictionary of the whole row group."""
    raw = pa.array([b"fine"] * 40 + [b"\xff"] + [b"good"] * 9).dictionary_encode()
    bad = pa.DictionaryArray.from_arrays(raw.indices, raw.dictionary.view(pa.string()))
    pq.write_table(pa.table({"id": [str(n) for n in range(50)], "note": bad}), tmp_path / "in")
    for size in (64, 16_000):
        with small_pieces(size), pytest.raises(MalformedInputError, match="row 41, column 'note'"):
            Source(tmp_path / "in", PARQUET, ["note"])


def test_row_groups_without_matches_are_not_read(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"id": [f"key{n}" for n in range(300)], "note": [f"note{n}" for n in range(300)]})
    pq.write_table(table, sink, row_group_size=100, use_dictionary=False, compression="none", write_page_checksum=True)
    # Without an output, the first pass does not find the damage.
    (tmp_path / "in").write_bytes(sink.getvalue().replace(b"note150", b"note151"))
    source = Source(tmp_path / "in", PARQUET, ["id"], output=None)
    assert len(parsed(write(source, CSV, [n < 100 or n >= 200 for n in range(300)]), CSV)) == 201
    with pytest.raises(MalformedInputError):
        write(source, CSV, [n == 100 for n in range(300)])


@pytest.mark.parametrize("fmt", [CSV, JSONL, PARQUET, ARROW], ids=name_of)
def test_a_full_disk_is_74_and_leaves_no_files(tmp_path: Path, fmt: FileFormat) -> None:
    rows = [f"{n * 7919 % 10_007:05}" for n in range(30_000)]
    table = pa.table({"id": rows, "note": [row * 9 for row in rows]})
    source = read(
        tmp_path, table if fmt == PARQUET else "".join(["id,note\n", *(f"{r},{r * 9}\n" for r in rows)]).encode()
    )
    mask = pa.array([True] * source.rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for budget in (AMPLE, 1 << 20):
        with Spool(tmp_path / "state") as spool:
            # Python ignores SIGXFSZ.
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
            try:
                with pytest.raises(StorageError) as caught, AtomicFile(tmp_path / "out") as target:
                    outputs.write_matched(source.input, target.file, CSV, mask, budget=budget, spool=spool)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert caught.value.code == 74
            assert ("spool" in type(caught.value).__name__.lower()) == (budget < AMPLE)
            assert not list(tmp_path.glob("state/run-*/*-*"))
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["in"]
