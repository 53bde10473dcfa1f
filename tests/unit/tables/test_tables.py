"""CSV and Parquet in and out, compared with pandas and the csv module, which share no code with tables.

What does not fit in a block or in the budget of a sort is tried here with small blocks and budgets, and in
test_tables_large with large files.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import resource
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psicli import tables
from psicli.core.errors import (
    BadInputError,
    BrokenGzipError,
    ControlCharacterError,
    DuplicateColumnError,
    EmptyInputError,
    FileMissingError,
    HeaderError,
    InputChangedError,
    InputMissingError,
    KeyTypeError,
    LongKeyError,
    LongRowError,
    MissingColumnError,
    MixedZonesError,
    NotUtf8Error,
    RaggedRowError,
    StorageError,
    TextAfterQuoteError,
    UnclosedQuoteError,
    UnparsableError,
    UnreadableInputError,
    UnwritableColumnError,
    YearRangeError,
)
from psicli.core.formats import FileFormat, Format
from psicli.items.encoding import encode_items
from psicli.storage.files import AtomicFile
from psicli.storage.spool import Spool
from psicli.tables import delimited, output, parquet, sorting, source

CSV = FileFormat(Format.CSV)
TSV = FileFormat(Format.TSV)
CSV_GZ = FileFormat(Format.CSV, True)
TSV_GZ = FileFormat(Format.TSV, True)
PARQUET = FileFormat(Format.PARQUET)
TEXT_FORMATS = [CSV, TSV, CSV_GZ, TSV_GZ]
ALL_FORMATS = [*TEXT_FORMATS, PARQUET]


# More than any test writes.
AMPLE = 1 << 30


def name_of(fmt: FileFormat) -> str:
    return fmt.kind + (".gz" if fmt.gzip else "")


class Source:
    """An input whose keys are read."""

    opened: ClassVar[list[Source]] = []

    def __init__(self, path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> None:
        self.input = tables.open_input(path, fmt, keys, name=name)
        self.opened.append(self)
        self.batches = list(self.input.key_batches())
        texts = [[pa.array([], pa.large_string())] for _ in keys]
        for batch in self.batches:
            for column, text in zip(texts, batch, strict=True):
                column.append(text)
        self.key_texts = tuple(pa.concat_arrays(column) for column in texts)
        self.rows = self.input.rows

    @property
    def table(self) -> Any:
        """All rows, in the order of the file."""
        found = self.input.matched(pa.array([True] * self.rows, pa.bool_()), AMPLE)
        return pa.concat_tables([self.input.schema.empty_table(), *(each.cast(self.input.schema) for each in found)])


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while Source.opened:
        Source.opened.pop().input.close()


def read(
    folder: Path, content: bytes | pa.Table, keys: Sequence[str] = ("id",), fmt: FileFormat | None = None
) -> Source:
    """Read content as a file named `in`, and check that check_input is no stricter."""
    path = folder / "in"
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content)
    fmt = fmt or (PARQUET if isinstance(content, pa.Table) else CSV)
    result = Source(path, fmt, keys, name="in.file")
    tables.check_input(path, fmt, keys)
    return result


def refuse(
    error: type[BadInputError | InputMissingError],
    folder: Path,
    content: bytes | pa.Table,
    keys: Sequence[str] = ("id",),
    fmt: FileFormat | None = None,
) -> str:
    with pytest.raises(error) as caught:
        read(folder, content, keys, fmt)
    assert type(caught.value) is error
    assert caught.value.advice
    return caught.value.message


def rows_of(source: Source) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in source.table.to_pylist()]


def write(source: Source, fmt: FileFormat, matched: Any = None, budget: int = AMPLE) -> bytes:
    matched = np.ones(source.rows, bool) if matched is None else matched
    sink = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "state") as spool:
        rows = tables.write_matched(source.input, sink, fmt, pa.array(matched, pa.bool_()), budget=budget, spool=spool)
        assert (spool.peak > 0) == (budget < AMPLE and rows > 0)
        assert not list(Path(folder).glob("state/run-*/*-*"))
    assert rows == int(np.sum(np.asarray(matched)))
    assert not sink.closed
    return sink.getvalue()


def parsed(data: bytes, fmt: FileFormat) -> list[list[str]]:
    """Read written bytes with the csv module."""
    text = (gzip.decompress(data) if fmt.gzip else data).decode()
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimited.delimiter(fmt), strict=True))


# CSV in ----------------------------------------------------------------------------------------------------------


def test_csv_values_are_text_and_never_inferred(tmp_path: Path) -> None:
    content = b"id,a\n007,1e3\n7,NULL\n7.0,nan\n true ,\n,NA\n"
    source = read(tmp_path, content)
    oracle = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_filter=False)
    assert rows_of(source) == [tuple(row) for row in oracle.to_numpy().tolist()]
    assert source.key_texts[0].to_pylist() == ["007", "7", "7.0", " true ", ""]
    assert source.table.schema.types == [pa.string()] * 2
    assert source.rows == 5


AWKWARD = [
    ["id", "a b", "ключ"],
    ["a,b", 'say "hi"', "é"],
    ['"', '""', "😀"],
    ["x\ty", "two\nlines", "three\r\nlines\r"],
    [" lead", "trail ", "\u2028\u0085"],
    ["", "", ""],
    ["a;b", "'", "\\"],
    ["ﬁ", "É", "É"],
]


@pytest.mark.parametrize("fmt", TEXT_FORMATS, ids=name_of)
@pytest.mark.parametrize(
    ("quoting", "end"),
    # With another line end the csv module leaves the LF or CR in a value unquoted.
    [(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r")],
)
def test_quoted_values_come_in_as_they_are(tmp_path: Path, fmt: FileFormat, quoting: Any, end: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimited.delimiter(fmt), quoting=quoting, lineterminator=end).writerows(AWKWARD)
    content = text.getvalue().encode()
    source = read(tmp_path, gzip.compress(content) if fmt.gzip else content, [], fmt)
    assert source.table.column_names == AWKWARD[0]
    assert [list(row) for row in rows_of(source)] == AWKWARD[1:]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: bytes, final: bool, bom: bytes) -> None:
    content = bom + end.join([b"id,a", b"1,x", b"", b"2,y"]) + (end if final else b"")
    source = read(tmp_path, content)
    assert source.table.to_pydict() == {"id": ["1", "2"], "a": ["x", "y"]}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_many_blocks(tmp_path: Path, end: bytes, quoted: bool) -> None:
    # 13 MB, so that several blocks of 4 MiB end somewhere within a row, a value or a line end.
    numbers = range(60_000)
    value = b'"%d\n%s"' if quoted else b"%d%s"
    content = b"id,a" + end + end.join(b"%d," % n + value % (n, b"x" * (200 + n % 7)) for n in numbers)
    source = read(tmp_path, content)
    assert source.key_texts[0].to_pylist() == [str(n) for n in numbers]
    assert source.table["a"][59_999].as_py().startswith("59999")
    assert len(source.batches) > 2


@pytest.mark.parametrize(
    "content", [b"id,a", b"id,a\n", b"id,a\r\n\r\n", b"\n\nid,a\n\n", b'"id","a"\r', b"\xef\xbb\xbfid,a\n"]
)
def test_a_header_alone_is_a_set_of_none(tmp_path: Path, content: bytes) -> None:
    source = read(tmp_path, content, ["a", "id"])
    assert source.rows == 0
    assert source.table.schema.names == ["id", "a"]
    assert [column.to_pylist() for column in source.key_texts] == [[], []]
    assert write(source, CSV) == b"id,a\n"
    assert pd.read_parquet(io.BytesIO(write(source, PARQUET))).columns.tolist() == ["id", "a"]


@pytest.mark.parametrize("fmt", ALL_FORMATS, ids=name_of)
@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_65(tmp_path: Path, fmt: FileFormat, content: bytes) -> None:
    path = tmp_path / "in"
    path.write_bytes(gzip.compress(content) if fmt.gzip else content)
    expected = UnparsableError if fmt == PARQUET and content else EmptyInputError
    for attempt in (Source, tables.check_input):
        with pytest.raises(expected) as caught:
            attempt(path, fmt, ["id"])
        assert caught.value.code == 65


def test_a_file_of_no_bytes_with_a_gzip_suffix_is_empty(tmp_path: Path) -> None:
    assert "in.file" in refuse(EmptyInputError, tmp_path, b"", fmt=CSV_GZ)


RAGGED = [
    (b"id,a\n1,x\n2\n3,z\n", 3, 1),
    (b"id,a\n1,x,y\n", 2, 3),
    (b"id,a\n\n\n1,x\n2,y,z\n", 5, 3),
    (b'id,a\n1,"two\nlines"\n2\n', 4, 1),
    (b'id,a\n"1",x\n"2","y","z"\n', 3, 3),
    (b"\xef\xbb\xbf\r\nid,a\r\n1,x\r\n2\r\n", 4, 1),
    (b"id,a\r1,x\r2\r", 3, 1),
    (b"id,a\n1,x\rlone\n", 3, 1),
    (b"id,a\n1,x\n \n", 3, 1),
    (b"id,a\n" + b"1,%s\n" % (b"x" * 95) * 100_000 + b"2\n", 100_002, 1),
]


@pytest.mark.parametrize(("content", "line", "found"), RAGGED, ids=range(len(RAGGED)))
def test_ragged_rows(tmp_path: Path, content: bytes, line: int, found: int) -> None:
    message = refuse(RaggedRowError, tmp_path, content)
    assert message == f"in.file:{line}: the row has {found} fields, the header 2"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'id,a\n1,x\n"2,y\n3,z\n', 3),
        (b'id\n"a\nb\nc', 2),
        (b'id,a\n1,"x\n', 2),
        (b'id,a\n1,"x', 2),
        (b'id,a\n1,"x\n\n"\n2,y\n3,"z\n4,w\n', 6),
        (b'id,"a\n1,x\n', 1),
        (b'id,a\n1,x\n"\n', 3),
    ],
)
def test_an_unclosed_quote_swallows_nothing(tmp_path: Path, content: bytes, line: int) -> None:
    assert refuse(UnclosedQuoteError, tmp_path, content).startswith(f"in.file:{line}: ")


@pytest.mark.parametrize(
    ("content", "line", "start"),
    [
        # pyarrow alone reads one row here.
        (b'id,a\n1,"foo\n2,bar\n3,"baz"\n', 4, 2),
        (b'id,a\n"a"b,2\n', 2, 2),
        (b'id,a\n1,x\n\n"a" ,2\n', 4, 4),
        (b'"id"x,a\n1,2\n', 1, 1),
        (b'id,a\r\n1,"x\r\n2,"y\r\n', 3, 2),
    ],
)
def test_text_after_a_closing_quote(tmp_path: Path, content: bytes, line: int, start: int) -> None:
    message = refuse(TextAfterQuoteError, tmp_path, content)
    assert message.startswith(f"in.file:{line}: ")
    assert f"line {start})" in message


def test_a_quote_within_an_unquoted_value_is_a_character(tmp_path: Path) -> None:
    source = read(tmp_path, b'id,a\n1,6" pipe\nx"y, "z"\n')
    assert rows_of(source) == [("1", '6" pipe'), ('x"y', ' "z"')]


@pytest.mark.parametrize("bad", ['"x\n', 'x"y,"z', '"z"z'])
def test_neither_message_nor_hint_shows_a_value(tmp_path: Path, bad: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read(tmp_path, f"id,a\nsecret,{bad},secret,secret\n".encode())
    assert "secret" not in caught.value.message + caught.value.advice


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"id,a\n1,\xff\n", 2),
        (b"id,a\n1,x\r\n\r\n\n2,y\r3,\xe9t\xe9\n", 6),
        (b"id,\xe9\n1,x\n", 1),
        ("id,a\n1,x\n".encode("utf-16"), 1),
        (b'id,a\n1,"x\ny"\n2,"\xff"\n', 4),
        (b"id,a\n1,\xed\xa0\x80\n", 2),
        (b"id,a\n1,\xc3", 2),
        (b"\xef\xbb\xbfid,a\n\xef\xbb,x\n", 2),
    ],
)
def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    assert refuse(NotUtf8Error, tmp_path, content) == f"in.file:{line}: not UTF-8 text"


def test_headers_must_tell_columns_apart(tmp_path: Path) -> None:
    assert "'a'" in refuse(DuplicateColumnError, tmp_path, b"id,a,b,a\n1,2,3,4\n")
    assert "'id'" in refuse(DuplicateColumnError, tmp_path, b"id,id\n1,2\n")
    assert refuse(DuplicateColumnError, tmp_path, b"id,,\n1,2,3\n")
    assert read(tmp_path, b"id,ID, id\n1,2,3\n").table.column_names == ["id", "ID", " id"]


def test_a_column_without_a_name_comes_out_again(tmp_path: Path) -> None:
    # pandas writes its index that way.
    source = read(tmp_path, b",id\n0,b\n1,a\n")
    assert write(source, FileFormat(Format.CSV)) == b",id\n1,a\n0,b\n"


def test_a_missing_column_is_66_and_names_those_that_exist(tmp_path: Path) -> None:
    message = refuse(MissingColumnError, tmp_path, b"Id,na\x1bme,c\n1,2,3\n", ["c", "id"])
    assert message == "in.file: there is no column 'id'; the file has 'Id', 'na\\x1bme', 'c'"
    wide = ",".join(f"c{n}" for n in range(500)).encode()
    assert refuse(MissingColumnError, tmp_path, wide + b"\n").endswith("'c29' and 470 more")
    assert "'Id'" in refuse(MissingColumnError, tmp_path, pa.table({"Id": [1]}))


CONTROL = [
    (b'id,a\n1,x\n"2\n",y\n', 3),
    (b"id,a\n1,x\n2\x00,y\n", 3),
    (b'\n\nid,a\n\n1,"q\nq"\n\n\t2,y\n', 8),
    (b'id,a\r\n1,"a\r\nb\r\nc"\r\n\r\n"3\r",z\r\n', 6),
    (b"id,a\n" + b"1,x\n" * 1000 + b"\x7f,x\n", 1002),
]


@pytest.mark.parametrize(("content", "line"), CONTROL, ids=range(len(CONTROL)))
def test_a_control_character_in_a_key_has_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    message = refuse(ControlCharacterError, tmp_path, content)
    assert message.startswith(f"in.file:{line}: the key column 'id' ")


def test_control_characters_elsewhere_are_fine(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path, b'id,a\n1,"x\ty\nz\x00"\n')) == [("1", "x\ty\nz\x00")]


def test_a_tab_or_over_long_value_in_the_second_key_is_named(tmp_path: Path) -> None:
    message = refuse(ControlCharacterError, tmp_path, b"id,a\n1,x\ty\n", ["id", "a"])
    assert message.startswith("in.file:2: the key column 'a' ")
    long = b"id,a\n1,x\n2," + b"y" * 65537 + b"\n"
    assert refuse(LongKeyError, tmp_path, long, ["id", "a"]).startswith("in.file:3: the key column 'a' ")
    assert read(tmp_path, long, ["id"]).rows == 2
    assert read(tmp_path, long.replace(b"2,y", b"2,"), ["id", "a"]).rows == 2


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_a_huge_field_is_read_or_refused_with_its_line(tmp_path: Path, quote: bytes) -> None:
    def content(size: int) -> bytes:
        return b"id,a\n1,x\n2," + quote + b"y" * size + quote + b"\n3,z\n" * 2

    fits = delimited.MAX_ROW_BYTES - 5 - 2 * len(quote)
    source = read(tmp_path, content(fits))
    assert [len(row[1]) for row in rows_of(source)] == [1, fits, 1, 1]
    for size in (3 * delimited.MAX_ROW_BYTES, 30_000_000):
        assert refuse(LongRowError, tmp_path, content(size)).startswith("in.file:3: the row is longer than 4194304 ")


def test_rows_about_as_long_as_a_block(tmp_path: Path) -> None:
    # Two thirds of a block each: every second one lies across the end of a block.
    size = delimited.MAX_ROW_BYTES * 2 // 3
    source = read(tmp_path, b"id,a\n" + b"".join(b"%d,%s\n" % (n, b"x" * size) for n in range(9)))
    assert source.key_texts[0].to_pylist() == [str(n) for n in range(9)]


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    endless = b"id," + b"x" * delimited.MAX_HEADER_BYTES + b"\n1,2\n"
    unclosed = b'id,"' + b"x\n" * delimited.MAX_HEADER_BYTES
    (tmp_path / "in").write_bytes(endless)
    for attempt in (tables.check_input, Source):
        with pytest.raises(HeaderError, match="longer than"):
            attempt(tmp_path / "in", CSV, ["id"])
    (tmp_path / "in").write_bytes(unclosed)
    with pytest.raises(HeaderError, match="longer than"):
        tables.check_input(tmp_path / "in", CSV, ["id"])
    with pytest.raises(UnclosedQuoteError):
        Source(tmp_path / "in", CSV, ["id"])


FIELD = st.text(st.sampled_from('ab", \n\ré0'), max_size=4)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=8), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_any_well_formed_csv_comes_in_whole(rows: list[tuple[str, str]], quoting: Any) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting).writerows([("x", "y"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.write_bytes(text.getvalue().encode())
        assert rows_of(Source(path, CSV, [])) == rows


@given(st.binary(max_size=30) | st.text('a",\n\r', max_size=30).map(str.encode))
def test_any_bytes_are_read_as_the_csv_module_reads_them_or_refused(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.write_bytes(b"x,y\n" + body)
        try:
            found = rows_of(Source(path, CSV, []))
        except BadInputError:
            return
        text = io.StringIO(body.decode(), newline="")
        assert found == [tuple(row) for row in csv.reader(text, strict=True) if row]


# gzip ------------------------------------------------------------------------------------------------------------


def test_gzip_with_several_members(tmp_path: Path) -> None:
    content = gzip.compress(b"id,a\n1,x\n") + gzip.compress(b"2,y\n")
    assert rows_of(read(tmp_path, content, fmt=CSV_GZ)) == [("1", "x"), ("2", "y")]


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"id,a\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(5000)))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for content in (whole[: len(whole) // 2], whole[:-1], whole[:5], bytes(flipped), b"id,a\n1,x\n", whole + b"junk"):
        assert refuse(BrokenGzipError, tmp_path, content, fmt=CSV_GZ).startswith("in.file: ")
    (tmp_path / "in").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenGzipError):
        tables.check_input(tmp_path / "in", CSV_GZ, ["id"])


# Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ALL_FORMATS, ids=name_of)
@pytest.mark.parametrize("attempt", [Source, tables.check_input])
def test_files_that_cannot_be_opened_are_66(tmp_path: Path, fmt: FileFormat, attempt: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path, error in (
        (tmp_path / "missing.csv", FileMissingError),
        (tmp_path, UnreadableInputError),
        (tmp_path / "fifo", UnreadableInputError),
        (tmp_path / "file" / "in.csv", UnreadableInputError),
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
            with pytest.raises(UnreadableInputError, match="permission denied") as caught:
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


class Changing(io.FileIO):
    """A file that is changed when it is read, before or after."""

    change: Callable[[], None] | None = None
    before = False

    def read(self, size: int | None = -1, /) -> bytes:
        change, self.change = self.change, None
        if change is None:
            return super().read(size)
        if self.before:
            change()
        data = super().read(size)
        if not self.before:
            change()
        return data


def sample_file(folder: Path, fmt: FileFormat) -> Path:
    path = folder / "in.file"
    if fmt == PARQUET:
        pq.write_table(pa.table({"id": ["1", "2"], "a": ["x", "y"]}), path)
    else:
        content = b"id,a\n1,x\n2,y\n"
        path.write_bytes(gzip.compress(content) if fmt.gzip else content)
    return path


@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, PARQUET], ids=name_of)
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
    opened: list[Changing] = []

    def opening(path: Path, name: str) -> Any:
        opened.append(Changing(path))
        return opened[0]

    def arm() -> None:
        opened[0].before, opened[0].change = before, partial(change, path)

    monkeypatch.setattr(source, "_open", opening)
    monkeypatch.setattr(source.SourceFile, "view", lambda self: self.file)
    with tables.open_input(path, fmt, ["id"]) as watched, Spool(tmp_path / "state") as spool:
        if reading == "rows":
            assert len(list(watched.key_batches())) == 1
            mask = pa.array([True, False])
            read_again = partial(tables.write_matched, watched, io.BytesIO(), fmt, mask, budget=AMPLE, spool=spool)
        else:
            read_again = partial(deque, watched.key_batches())
        arm()
        with pytest.raises(InputChangedError, match=r"in\.file") as caught:
            read_again()
    assert caught.value.code == 65


def test_views_of_a_file_do_not_move_each_other(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(bytes(range(100)))
    with source.SourceFile(path, "in") as file:
        one, other = file.view(), file.view()
        assert (one.read(3), other.read(2), one.read(1), other.tell()) == (b"\0\1\2", b"\0\1", b"\3", 2)
        assert other.seek(-4, io.SEEK_END) == 96
        assert (other.read(4), other.read(1), one.seek(2, io.SEEK_CUR)) == (b"\x60\x61\x62\x63", b"", 6)


@pytest.mark.parametrize("columns", [1, 16, 17, 40])
def test_many_columns_come_out_in_their_order(tmp_path: Path, columns: int) -> None:
    """More columns than one reader takes, and so several readers, each with some of them."""
    names = [f"c{number}" for number in range(columns)]
    values = {name: pa.array([f"{name}-{row}" for row in range(9)]) for name in names}
    pq.write_table(pa.table(values), tmp_path / "in", row_group_size=4)
    with tables.open_input(tmp_path / "in", PARQUET, names[:1]) as wide, Spool(tmp_path / "state") as spool:
        list(wide.key_batches())
        sink = io.BytesIO()
        mask = pa.array([row % 2 == 0 for row in range(9)])
        assert tables.write_matched(wide, sink, PARQUET, mask, budget=AMPLE, spool=spool) == 5
    assert pq.read_table(sink).equals(pa.table(values).take([0, 2, 4, 6, 8]))


def test_wide_rows_come_in_smaller_row_groups() -> None:
    assert [output.row_group_rows(columns) for columns in (1, 32, 450, 10**7)] == [122_880, 122_880, 8192, 2048]


def test_numbers_that_hardly_repeat_get_no_dictionary(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a"], "price": [1.5], "pair": [{"x": 0.5, "y": "b"}], "count": [7]})
    pq.write_table(rows, tmp_path / "in")
    with tables.open_input(tmp_path / "in", PARQUET, ["id"]) as source_of_all, Spool(tmp_path / "state") as spool:
        list(source_of_all.key_batches())
        sink = io.BytesIO()
        tables.write_matched(source_of_all, sink, PARQUET, pa.array([True]), budget=AMPLE, spool=spool)
    group = pq.ParquetFile(sink).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    dictionaries = {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings}
    assert dictionaries == {"id", "pair.y", "count"}
    assert pq.read_table(sink).equals(rows)


@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, PARQUET], ids=name_of)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("matched", [[True, True], [False, False]], ids=["all", "none"])
def test_a_file_changed_between_the_two_readings_is_refused(
    tmp_path: Path, fmt: FileFormat, change: Callable[[Path], None], matched: list[bool]
) -> None:
    path = sample_file(tmp_path, fmt)
    read_once = Source(path, fmt, ["id"])
    change(path)
    with pytest.raises(InputChangedError, match=r"in\.file"):
        write(read_once, CSV, matched)


@pytest.mark.parametrize("other", [b"id,a\n1,x\n2\n,y\n", b"id,a\n1,x\n\n\n\n\n\n"])
def test_rows_that_are_others_behind_the_same_time_stamp_are_noticed(tmp_path: Path, other: bytes) -> None:
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


# Parquet in ------------------------------------------------------------------------------------------------------


def test_parquet_keys_meet_csv_text(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float16(), pa.binary(), pa.list_(pa.int8()), pa.time64("us")], ids=str
)
def test_key_types_are_refused_before_data_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": pa.array([None], kind)}), path)
    for attempt in (tables.check_input, Source):
        with pytest.raises(KeyTypeError, match=str(path)) as caught:
            attempt(path, PARQUET, ["id"])
        assert caught.value.code == 65


def test_mixed_zones_are_refused(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([0], pa.timestamp("us")), "b": pa.array([0], pa.timestamp("us", "UTC"))})
    refuse(MixedZonesError, tmp_path, table, ["a", "b"])
    assert read(tmp_path, table, ["a"]).rows == 1


def test_bad_keys_have_their_row(tmp_path: Path) -> None:
    table = pa.table({"id": ["ok", None, "a\nb"], "x": ["", "y" * 65537, "z"]})
    assert refuse(ControlCharacterError, tmp_path, table).startswith("in.file, row 3: ")
    assert refuse(LongKeyError, tmp_path, table, ["x"]).startswith("in.file, row 2: ")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_strings_must_be_utf_8(tmp_path: Path, kind: pa.DataType) -> None:
    raw = pa.array([b"fine", None, b"\xff\xfe"], pa.binary())
    if pa.types.is_dictionary(kind):
        encoded = raw.dictionary_encode()
        bad = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.view(pa.string()))
    else:
        bad = raw.cast(pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    table = pa.table({"id": pa.array([1, 2, 3]), "note": bad})
    assert refuse(NotUtf8Error, tmp_path, table, ["note"]) == "in.file, row 3, column 'note': not UTF-8 text"
    # Other columns are read when their rows are wanted, whichever of the row group.
    source = read(tmp_path, table)
    with pytest.raises(NotUtf8Error) as caught:
        write(source, CSV, [True, False, False])
    assert caught.value.message == "in.file, row 3, column 'note': not UTF-8 text"
    assert write(source, CSV, [False] * 3) == b"id,note\n"


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(1000)}), sink)
    whole = sink.getvalue()
    for content in (b"id,a\n1,x\n", whole[:-1], whole[:200], b"PAR1", b"PAR1" * 100):
        assert refuse(UnparsableError, tmp_path, content, fmt=PARQUET) == "in.file: cannot be read as parquet"
        with pytest.raises(UnparsableError):
            tables.check_input(tmp_path / "in", PARQUET, ["id"])
    # The metadata may still be good here.
    for content in (whole[4:], whole[:4] + bytes(100) + whole[104:]):
        (tmp_path / "in").write_bytes(content)
        with pytest.raises(UnparsableError):
            Source(tmp_path / "in", PARQUET, ["id"])


def test_page_checksums_are_verified_where_there_are_some(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"id": [f"key{n}" for n in range(1000)]})
    pq.write_table(table, sink, use_dictionary=False, compression="none", write_page_checksum=True)
    damaged = sink.getvalue().replace(b"key777", b"key778")
    refuse(UnparsableError, tmp_path, damaged, fmt=PARQUET)


def test_duplicate_parquet_columns_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["id", "a", "a"])
    assert "'a'" in refuse(DuplicateColumnError, tmp_path, table)


# Out -------------------------------------------------------------------------------------------------------------


def sample(rows: int) -> pd.DataFrame:
    """Rows with duplicate, Unicode, quoted, null and empty keys in no order."""
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
    if fmt == PARQUET:
        found = pd.read_parquet(io.BytesIO(data))
        assert [tuple(row) for row in found.itertuples(index=False)] == expected
    else:
        header, *lines = parsed(data, fmt)
        assert header == ["k1", "n", "k2", "note"]
        assert lines == [[str(value) for value in row] for row in expected]
    assert write(source, fmt, matched.tolist()) == data


@pytest.mark.parametrize("fmt", TEXT_FORMATS, ids=name_of)
def test_text_goes_round(tmp_path: Path, fmt: FileFormat) -> None:
    values = ["\r", "a\rb", '"', '""', ",", "\t", " lead", "trail ", "\n", "\r\n", "", "é", "\x00", "'", "\\", "x,y\tz"]
    keys = [f"{n:02}" for n in range(len(values))]
    source = read(tmp_path, pa.table({"id": keys, "a,b\tc": values}))
    data = write(source, fmt)
    assert parsed(data, fmt) == [["id", "a,b\tc"], *map(list, zip(keys, values, strict=True))]
    again = read(tmp_path, data, fmt=fmt)
    assert rows_of(again) == list(zip(keys, values, strict=True))
    assert write(again, fmt) == data


def test_quotes_only_where_needed(tmp_path: Path) -> None:
    source = read(tmp_path, b'"id","a"\r\n"3","x y"\r\n"2","p,q"\r\n"1","t\tt"\r\n')
    assert write(source, CSV) == b'id,a\n1,t\tt\n2,"p,q"\n3,x y\n'
    assert write(source, TSV) == b'id\ta\n1\t"t\tt"\n2\tp,q\n3\tx y\n'


def test_no_match_gives_a_header(tmp_path: Path) -> None:
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


def test_gzip_output_holds_no_time_and_no_name(tmp_path: Path) -> None:
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
    "time": (pa.array([time(1, 2, 3), None]), ["01:02:03.000000", ""]),
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


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_come_back_the_same(values: list[float]) -> None:
    table = pa.table({"id": [str(n) for n in range(len(values))], "v": values})
    with tempfile.TemporaryDirectory() as folder:
        lines = parsed(write(read(Path(folder), table), CSV), CSV)[1:]
    assert {line[0]: float(line[1]) for line in lines} == {str(n): value for n, value in enumerate(values)}


CSV_REFUSES = [
    pa.binary(),
    pa.binary(3),
    pa.list_(pa.int8()),
    pa.struct([("x", pa.int8())]),
    pa.map_(pa.string(), pa.int8()),
    pa.duration("s"),
]


@pytest.mark.parametrize("kind", CSV_REFUSES, ids=str)
def test_what_csv_cannot_hold_is_refused_before_the_run(tmp_path: Path, kind: pa.DataType) -> None:
    source = read(tmp_path, pa.table({"id": ["a"], "v": pa.array([None], kind)}))
    with pytest.raises(UnwritableColumnError, match="'v'") as caught:
        write(source, CSV)
    assert caught.value.code == 65
    with pytest.raises(UnwritableColumnError, match=r"\.gz|csv"):
        tables.check_input(tmp_path / "in", PARQUET, ["id"], output=CSV_GZ)
    tables.check_input(tmp_path / "in", PARQUET, ["id"], output=PARQUET)


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


def test_an_output_tells_nothing_about_rows_that_did_not_match(tmp_path: Path) -> None:
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
    assert b"pandas" not in data
    assert b"value089" not in data
    assert b"value090" in data
    assert b"SECRET" not in data
    table = pq.read_table(io.BytesIO(data))
    assert table["cat"].chunk(0).dictionary.to_pylist() == [f"value{n:03}" for n in range(90, 100)]
    assert table["size"].chunk(0).dictionary.to_pylist() == ["S", "L"]
    assert table["size"].type.ordered
    assert table.to_pandas()["cat"].tolist() == frame["cat"][:10].tolist()


def test_equal_matches_give_equal_bytes_whatever_else_the_file_held(tmp_path: Path) -> None:
    rows = {"id": ["b", "a", "x"], "cat": ["p", "q", "r"]}

    def output(order: list[int], matched: list[bool]) -> bytes:
        columns = {name: [values[n] for n in order] for name, values in rows.items()}
        table = pa.table({"id": columns["id"], "cat": pa.array(columns["cat"]).dictionary_encode()})
        return write(read(tmp_path, table), PARQUET, matched)

    assert output([0, 1], [True, True]) == output([1, 2, 0], [True, False, True])


@pytest.mark.parametrize("words", [pa.array(["x"]).dictionary_encode(), pa.array(["x"], pa.string_view())], ids=str)
def test_nested_dictionaries_and_views_are_refused_before_the_run(tmp_path: Path, words: pa.Array) -> None:
    table = pa.table({"id": ["a"], "v": pa.ListArray.from_arrays([0, 1], words)})
    source = read(tmp_path, table)
    with pytest.raises(UnwritableColumnError, match="'v'"):
        write(source, PARQUET)
    with pytest.raises(UnwritableColumnError, match="'v'"):
        tables.check_input(tmp_path / "in", PARQUET, ["id"], output=PARQUET)


def test_check_input_says_what_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"id,a\n1,x\nragged\n")
    tables.check_input(path, CSV, ["a", "id"], output=PARQUET)
    with pytest.raises(MissingColumnError, match="shown name"):
        tables.check_input(path, CSV, ["b"], name="shown name")


def test_a_line_end_inside_quotes_survives_wherever_a_block_ends(tmp_path: Path) -> None:
    """pyarrow drops an LF that begins a block when the one before ended with CR."""
    header, tail = b"id,note\n", b'\r\nline two"\n'
    for shift in range(-2, 3):
        row = b'1,"' + b"y" * 1000
        filler = b"0,x\n" * ((delimited.MAX_ROW_BYTES - len(row)) // 4)
        padding = delimited.MAX_ROW_BYTES - len(filler) - len(row) - 1 + shift
        source = read(tmp_path, header + filler + b'1,"' + b"y" * (1000 + padding) + tail)
        assert source.table.column("note")[-1].as_py().endswith("y\r\nline two")


# Blocks ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_pieces(size: int) -> Iterator[None]:
    """Have everything cut into pieces of about so many bytes or rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "MAX_ROW_BYTES", size)
        patch.setattr(delimited, "_BLOCK_BYTES", size + 1)
        patch.setattr(parquet, "_BATCH_ROWS", max(size // 16, 1))
        patch.setattr(parquet, "_COLUMNS_AT_ONCE", 2)
        patch.setattr(parquet, "_windows", lambda wanted, most, windows=parquet._windows: windows(wanted, min(most, 3)))
        patch.setattr(sorting, "_LEAST_BATCH_BYTES", size)
        patch.setattr(sorting, "_LEAST_STEP_BYTES", 0)
        patch.setattr(output, "_CSV_BATCH_BYTES", size)
        patch.setattr(output, "_GATHERED_VALUES", 2)
        yield


def outcome(content: bytes, size: int) -> Any:
    """Return the rows and where they end up in blocks of this size, or the message."""
    with tempfile.TemporaryDirectory() as folder, small_pieces(size):
        (Path(folder) / "in").write_bytes(content)
        try:
            source = Source(Path(folder) / "in", CSV, [], name="in")
            return rows_of(source)
        except BadInputError as exc:
            return exc.message


PIECES = ["a", "b,", '"', '""', "\n", "\r\n", "\r", ",", '"x\ny"', "é", "ab,cd\n", '"a","b"\n']


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.integers(12, 40))
def test_where_blocks_end_makes_no_difference(body: str, size: int) -> None:
    content = b"x,y\n" + body.encode()
    whole, cut = outcome(content, 1000), outcome(content, size)
    if isinstance(cut, str) and "the row is longer than" in cut:
        assert len(content) > size
    else:
        # Of several mistakes another one may come first.
        assert cut == whole or (isinstance(cut, str) and isinstance(whole, str))


@pytest.mark.parametrize("size", range(9, 30))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_the_line_of_a_mistake_is_right_in_any_block(size: int, end: str, quoted: bool) -> None:
    rows = ["x,y", "", "1,2", '"3",4' if quoted else "3,4", '"5\n",6' if quoted else "5,6", "", "", "7,8", "9"]
    line = len(rows) + (1 if quoted else 0)
    assert outcome(end.join(rows).encode(), size) == f"in:{line}: the row has 1 fields, the header 2"
    rows[-1] = "\udcff,8"
    content = end.join(rows).encode("utf-8", "surrogateescape")
    assert outcome(content, size) == f"in:{line}: not UTF-8 text"


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_row_of_just_the_length_of_a_block(quote: str) -> None:
    for end in ("\n", "\r\n", "\r"):
        for spare in (-1, 0, 1):
            value = quote + "y" * (40 - 2 - 2 * len(quote) - len(end) - spare) + quote
            found = outcome(f"x,y{end}1,{value}{end}2,z{end}".encode(), 40)
            if spare < 0:
                assert found == "in:2: the row is longer than 40 bytes"
            else:
                assert found == [("1", value.strip('"')), ("2", "z")]


def test_a_byte_order_mark_is_a_character_but_at_the_beginning_of_the_file() -> None:
    rows = [("\ufeff1", "a"), ("2", "b"), ("\ufeff3", "c"), ("\ufeff", "d")]
    content = "\ufeffx,y\n" + "".join(f"{x},{y}\n" for x, y in rows)
    for size in range(10, 40):
        assert outcome(content.encode(), size) == rows


# Sorting on disk -------------------------------------------------------------------------------------------------

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
    """Put rows into a table, with a dictionary of all sizes whatever the rows hold."""
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
    return sorted(kept, key=lambda row: (row[0].encode(), row[1].encode()))


@given(
    ROWS,
    st.sampled_from([SIZE, ORDERED]),
    st.sampled_from([CSV, TSV_GZ, PARQUET]),
    st.sampled_from([CSV, CSV_GZ, PARQUET]),
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
    columns = NAMES if fmt == out == PARQUET else NAMES[:5]
    matched = [random.random() < 0.7 for _ in rows]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "row_group_rows", lambda columns: 7)
        path = Path(folder) / "in"
        if fmt == PARQUET:
            pq.write_table(typed(rows, size, columns), path, row_group_size=group)
        else:
            text = io.StringIO(newline="")
            writer = csv.writer(text, delimiter=delimited.delimiter(fmt), quoting=csv.QUOTE_ALL)
            writer.writerows([columns, *(row[:5] for row in rows)])
            path.write_bytes(gzip.compress(text.getvalue().encode()) if fmt.gzip else text.getvalue().encode())
        with Spool(Path(folder) / "state") as spool:

            def written(budget: int) -> bytes:
                sink = io.BytesIO()
                mask = pa.array(matched, pa.bool_())
                with tables.open_input(path, fmt, ["k1", "k2"]) as source:
                    list(source.key_batches())
                    assert tables.write_matched(source, sink, out, mask, budget=budget, spool=spool) == sum(matched)
                return sink.getvalue()

            data = written(AMPLE)
            assert spool.peak == 0
            with small_pieces(200):
                assert written(budget) == data
            if budget == 0 and any(matched):
                assert spool.peak > 0
        expected = sorted_rows(rows, matched)
        if out == PARQUET:
            found = pq.read_table(io.BytesIO(data))
            values = [tuple(row.values()) for row in found.to_pylist()]
            if fmt == PARQUET:
                assert found.schema.types == pq.read_schema(path).types
                assert values == [row[: len(columns)] for row in expected]
                assert found["size"].type.ordered == size.ordered
            else:
                assert values == [tuple(map(shown_as_text, row[:5])) for row in expected]
        else:
            assert parsed(data, out) == [columns, *(list(map(shown_as_text, row[:5])) for row in expected)]


def shown_as_text(value: Any) -> str:
    return "" if value is None else str(value)


def test_an_order_of_values_is_that_of_the_whole_file(tmp_path: Path) -> None:
    """Values keep the order in which the file first has them, also where its row groups disagree."""
    kind = pa.schema([("id", pa.string()), ("size", ORDERED)])
    with pq.ParquetWriter(tmp_path / "in", kind) as writer:
        for words in (["S", "L"], ["M", "S"], ["XL", "M", "L"]):
            values = pa.DictionaryArray.from_arrays(list(range(len(words))), words, ordered=True).cast(ORDERED)
            writer.write_table(pa.Table.from_arrays([pa.array([f"{w}{words}" for w in words]), values], schema=kind))
    source = Source(tmp_path / "in", PARQUET, ["id"])
    # No row of the middle row group, which is where M comes before XL.
    found = pq.read_table(io.BytesIO(write(source, PARQUET, [True, True, False, False, True, True, True])))
    assert found["size"].chunk(0).dictionary.to_pylist() == ["S", "L", "M", "XL"]
    assert sorted(found["size"].to_pylist()) == ["L", "L", "M", "S", "XL"]


@pytest.mark.parametrize("out", [CSV, PARQUET], ids=name_of)
def test_one_key_of_very_many_rows(tmp_path: Path, out: FileFormat) -> None:
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


def test_rows_are_told_over_batches_and_row_groups(tmp_path: Path) -> None:
    days = pa.array([0] * 50 + [10**7] + [0] * 50, pa.date32())
    texts = pa.array(["a"] * 77 + ["b\n"] + ["c"] * 23)
    pq.write_table(pa.table({"day": days, "text": texts}), tmp_path / "in", row_group_size=30)
    with small_pieces(64):
        for key, error, row in (("day", YearRangeError, 51), ("text", ControlCharacterError, 78)):
            with pytest.raises(error, match=f", row {row}: "):
                Source(tmp_path / "in", PARQUET, [key])


def test_bad_utf_8_is_found_in_the_batch_that_holds_it(tmp_path: Path) -> None:
    """The dictionary of a row group is there from its first batch."""
    raw = pa.array([b"fine"] * 40 + [b"\xff"] + [b"good"] * 9).dictionary_encode()
    bad = pa.DictionaryArray.from_arrays(raw.indices, raw.dictionary.view(pa.string()))
    pq.write_table(pa.table({"id": [str(n) for n in range(50)], "note": bad}), tmp_path / "in")
    for size in (64, 16_000):
        with small_pieces(size), pytest.raises(NotUtf8Error, match="row 41, column 'note'"):
            Source(tmp_path / "in", PARQUET, ["note"])


def test_row_groups_without_matches_are_not_read(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"id": [f"key{n}" for n in range(300)], "note": [f"note{n}" for n in range(300)]})
    pq.write_table(table, sink, row_group_size=100, use_dictionary=False, compression="none", write_page_checksum=True)
    # What is damaged in a column that is no key is only met where rows of its row group are wanted.
    source = read(tmp_path, sink.getvalue().replace(b"note150", b"note151"), fmt=PARQUET)
    assert len(parsed(write(source, CSV, [n < 100 or n >= 200 for n in range(300)]), CSV)) == 201
    with pytest.raises(UnparsableError):
        write(source, CSV, [n == 100 for n in range(300)])


@pytest.mark.parametrize("fmt", [CSV, PARQUET], ids=name_of)
def test_a_full_disk_is_74_and_leaves_nothing(tmp_path: Path, fmt: FileFormat) -> None:
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
                    tables.write_matched(source.input, target.file, CSV, mask, budget=budget, spool=spool)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert caught.value.code == 74
            assert ("spool" in type(caught.value).__name__.lower()) == (budget < AMPLE)
            assert not list(tmp_path.glob("state/run-*/*-*"))
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["in"]
