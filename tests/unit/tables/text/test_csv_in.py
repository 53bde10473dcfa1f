"""Tests of reading CSV, plain and gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import (
    CSV,
    CSV_GZ,
    CSV_ZST,
    PARQUET,
    TEXT_FORMATS,
    TYPED_FORMATS,
    Source,
    compressed,
    decompressed,
    name_of,
    read,
    refuse,
    rows_of,
    small_pieces,
    write,
)

from psicli import tables
from psicli.core.errors import (
    BadInputError,
    ColumnError,
    InputMissingError,
    MalformedInputError,
    UnclosedQuoteError,
    counted,
)
from psicli.core.formats import FileFormat, Format
from psicli.tables import delimited

# CSV in -------------------------------------------------------------------------------------------------------------


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
    # With any other line end, the csv module does not quote a value because of an LF or CR in it.
    [(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r")],
)
def test_quoted_values_are_read_unchanged(tmp_path: Path, fmt: FileFormat, quoting: Any, end: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=fmt.delimiter, quoting=quoting, lineterminator=end).writerows(AWKWARD)
    content = text.getvalue().encode()
    source = read(tmp_path, compressed(content, fmt), [], fmt)
    assert source.table.column_names == AWKWARD[0]
    assert [list(row) for row in rows_of(source)] == AWKWARD[1:]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: bytes, final: bool, bom: bytes) -> None:
    content = bom + end.join([b"id,a", b"1,x", b"", b"2,y"]) + (end if final else b"")
    source = read(tmp_path, content)
    assert source.table.to_pydict() == {"id": ["1", "2"], "a": ["x", "y"]}


@pytest.mark.sample(2)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_many_blocks(tmp_path: Path, end: bytes, quoted: bool) -> None:
    # The file has 13 MB, so several blocks of 4 MiB would end inside a row, a value or a line end.
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
def test_a_header_alone_is_an_empty_set(tmp_path: Path, content: bytes) -> None:
    source = read(tmp_path, content, ["a", "id"])
    assert source.rows == 0
    assert source.table.schema.names == ["id", "a"]
    assert [column.to_pylist() for column in source.key_texts] == [[], []]
    assert write(source, CSV) == b"id,a\n"
    assert pd.read_parquet(io.BytesIO(write(source, PARQUET))).columns.tolist() == ["id", "a"]


@pytest.mark.parametrize("fmt", [*TEXT_FORMATS, *TYPED_FORMATS], ids=name_of)
@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_65(tmp_path: Path, fmt: FileFormat, content: bytes) -> None:
    path = tmp_path / "in"
    path.write_bytes(compressed(content, fmt))
    fault = "the file is plain text, not" if fmt in TYPED_FORMATS and content else "the file is empty"
    for attempt in (Source, tables.check_input):
        with pytest.raises(MalformedInputError, match=fault) as caught:
            attempt(path, fmt, ["id"])
        assert caught.value.code == 65


def test_a_file_of_no_bytes_with_a_gzip_suffix_is_empty(tmp_path: Path) -> None:
    assert "in.file" in refuse(MalformedInputError, tmp_path, b"", fmt=CSV_GZ)


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
    message = refuse(MalformedInputError, tmp_path, content)
    assert message == f"in.file:{line}: the row has {counted(found, 'field')}, but the header has 2"


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
def test_an_unclosed_quote_is_refused(tmp_path: Path, content: bytes, line: int) -> None:
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
    message = refuse(MalformedInputError, tmp_path, content)
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
        (b'id,a\n1,"x\ny"\n2,"\xff"\n', 4),
        (b"id,a\n1,\xed\xa0\x80\n", 2),
        (b"id,a\n1,\xc3", 2),
        (b"\xef\xbb\xbfid,a\n\xef\xbb,x\n", 2),
    ],
)
def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    assert refuse(MalformedInputError, tmp_path, content) == f"in.file:{line}: not UTF-8 text"


def test_column_names_must_be_distinct(tmp_path: Path) -> None:
    assert "'a'" in refuse(MalformedInputError, tmp_path, b"id,a,b,a\n1,2,3,4\n")
    assert "'id'" in refuse(MalformedInputError, tmp_path, b"id,id\n1,2\n")
    assert refuse(MalformedInputError, tmp_path, b"id,,\n1,2,3\n")
    assert read(tmp_path, b"id,ID, id\n1,2,3\n").table.column_names == ["id", "ID", " id"]


def test_a_column_without_a_name_is_written_again(tmp_path: Path) -> None:
    # pandas writes its index like this.
    source = read(tmp_path, b",id\n0,b\n1,a\n")
    assert write(source, FileFormat(Format.CSV)) == b",id\n1,a\n0,b\n"


@pytest.mark.parametrize(
    ("there", "wanted", "expected"),
    [
        ("in.csv", "IN.csv", "Did you mean 'in.csv'?"),
        ("in 1.csv", "in_1.csv", "Did you mean 'in 1.csv'?"),
        ("in.csv.gz", "in.csv", "Did you mean 'in.csv.gz'?"),
        ("in.csv", "in.csv.zst", "Did you mean 'in.csv'?"),
        ("in.csv.part", "in.csv", "Check input_path"),
        ("in-2024-03-01.csv", "in-2024-03-02.csv", "Check input_path"),
        ("in.csv", "no/in.csv", "Check input_path"),
        ("in.csv", "no\\in.csv", "Write / between the names of folders."),
    ],
)
def test_the_advice_on_a_missing_file_names_the_one_that_was_meant(
    tmp_path: Path, there: str, wanted: str, expected: str
) -> None:
    (tmp_path / there).touch()
    with pytest.raises(InputMissingError, match=r": no such file$") as caught:
        tables.check_input(tmp_path / wanted, CSV, ["id"])
    assert caught.value.advice.startswith(expected)


def test_a_link_to_a_missing_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "in.csv").symlink_to("today.csv")
    with pytest.raises(InputMissingError, match=r"no such file, but a link to 'today\.csv', which does not exist"):
        tables.check_input(tmp_path / "in.csv", CSV, ["id"])


def test_a_missing_column_is_66_and_names_those_that_exist(tmp_path: Path) -> None:
    message = refuse(InputMissingError, tmp_path, b"Id,na\x1bme,c\n1,2,3\n", ["c", "id"])
    assert message == "in.file: there is no column 'id'; the file has 'Id', 'na\\x1bme', 'c'"
    wide = ",".join(f"c{n}" for n in range(500)).encode()
    assert refuse(InputMissingError, tmp_path, wide + b"\n").endswith("'c29' and 470 more")
    assert "'Id'" in refuse(InputMissingError, tmp_path, pa.table({"Id": [1]}))


CONTROL = [
    (b'id,a\n1,x\n"2\n",y\n', 3),
    (b"id,a\n1,x\n2\x00,y\n", 3),
    (b'\n\nid,a\n\n1,"q\nq"\n\n\t2,y\n', 8),
    (b'id,a\r\n1,"a\r\nb\r\nc"\r\n\r\n"3\r",z\r\n', 6),
    (b"id,a\n" + b"1,x\n" * 1000 + b"\x7f,x\n", 1002),
]


@pytest.mark.parametrize(("content", "line"), CONTROL, ids=range(len(CONTROL)))
def test_a_control_character_in_a_key_is_reported_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    message = refuse(ColumnError, tmp_path, content)
    assert message.startswith(f"in.file:{line}: the key column 'id' ")


def test_control_characters_elsewhere_are_fine(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path, b'id,a\n1,"x\ty\nz\x00"\n')) == [("1", "x\ty\nz\x00")]


def test_a_tab_or_over_long_value_in_the_second_key_is_named(tmp_path: Path) -> None:
    message = refuse(ColumnError, tmp_path, b"id,a\n1,x\ty\n", ["id", "a"])
    assert message.startswith("in.file:2: the key column 'a' ")
    long = b"id,a\n1,x\n2," + b"y" * 65537 + b"\n"
    assert refuse(ColumnError, tmp_path, long, ["id", "a"]).startswith("in.file:3: the key column 'a' ")
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
        assert refuse(MalformedInputError, tmp_path, content(size)).startswith(
            "in.file:3: the row is longer than 4,194,304 "
        )


def test_rows_about_as_long_as_a_block(tmp_path: Path) -> None:
    # A row takes two thirds of a block, so every second row crosses the end of a block.
    size = delimited.MAX_ROW_BYTES * 2 // 3
    source = read(tmp_path, b"id,a\n" + b"".join(b"%d,%s\n" % (n, b"x" * size) for n in range(9)))
    assert source.key_texts[0].to_pylist() == [str(n) for n in range(9)]


@pytest.mark.more
def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    endless = b"id," + b"x" * delimited.MAX_HEADER_BYTES + b"\n1,2\n"
    unclosed = b'id,"' + b"x\n" * delimited.MAX_HEADER_BYTES
    (tmp_path / "in").write_bytes(endless)
    for attempt in (tables.check_input, Source):
        with pytest.raises(MalformedInputError, match="longer than"):
            attempt(tmp_path / "in", CSV, ["id"])
    (tmp_path / "in").write_bytes(unclosed)
    with pytest.raises(MalformedInputError, match="longer than"):
        tables.check_input(tmp_path / "in", CSV, ["id"])
    with pytest.raises(UnclosedQuoteError):
        Source(tmp_path / "in", CSV, ["id"])


FIELD = st.text(st.sampled_from('ab", \n\ré0'), max_size=4)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=8), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_any_well_formed_csv_is_read_completely(rows: list[tuple[str, str]], quoting: Any) -> None:
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


# gzip and zstd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [CSV_GZ, CSV_ZST], ids=name_of)
def test_compressed_data_in_several_members_or_frames(tmp_path: Path, fmt: FileFormat) -> None:
    content = compressed(b"id,a\n1,x\n", fmt) + compressed(b"2,y\n", fmt)
    assert rows_of(read(tmp_path, content, fmt=fmt)) == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize("fmt", [CSV_GZ, CSV_ZST], ids=name_of)
def test_a_large_compressed_file_is_read_twice_in_the_same_order(tmp_path: Path, fmt: FileFormat) -> None:
    content = b"id,a\n" + b"".join(b"%d,%s\n" % (n, b"x" * (200 + n % 7)) for n in range(60_000))
    source = read(tmp_path, compressed(content, fmt), fmt=fmt)
    assert len(source.batches) > 2
    last = [False] * 59_999 + [True]
    assert decompressed(write(source, fmt, last), fmt) == b"id,a\n" + content.splitlines(keepends=True)[-1]


# A frame with a checksum, which the zstd tool adds but pyarrow does not.
ZSTD_ROWS = bytes.fromhex(
    "28b52ffd0468a50400d610240fc0b701e6fc9f975a68cbe40c0e07061e001e002000bde9bb3667dc312d7a2cabe055038d6a"
    "042fa0b9c52bb17abae674384a4aa7abea73a63aa78d7a669d2acc136f300dbc6682bfc0b473cb3c73c9ac72b6ab8933d721"
    "ba44ef2c112ace7b68382d58ed04b782d302689d77503a4b541ff4817bc4aa7205f18cdc40b4bb6b44f0bb8068c06e114f8c"
    "4bc4fab8270600c4807a7b"
)


@pytest.mark.parametrize("fmt", [CSV_GZ, CSV_ZST], ids=name_of)
def test_damaged_compressed_data_is_refused(tmp_path: Path, fmt: FileFormat) -> None:
    whole = ZSTD_ROWS if fmt == CSV_ZST else gzip.compress(decompressed(ZSTD_ROWS, CSV_ZST))
    assert read(tmp_path, whole, fmt=fmt).rows == 40
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for data in (whole[: len(whole) // 2], whole[:-1], whole[:5], bytes(flipped), whole + b"junk"):
        message = refuse(MalformedInputError, tmp_path, data, fmt=fmt)
        assert message == f"in.file: the {fmt.compression} data is truncated or damaged"
    (tmp_path / "in").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MalformedInputError):
        tables.check_input(tmp_path / "in", fmt, ["id"])


def test_zstd_with_a_window_too_large_is_refused_with_the_reason(tmp_path: Path) -> None:
    # The header of a frame with a window of 256 MiB, and an empty last block.
    frame = bytes.fromhex("28b52ffd0090010000")
    assert "a window of more than 128 MiB" in refuse(MalformedInputError, tmp_path, frame, fmt=CSV_ZST)


# Blocks -------------------------------------------------------------------------------------------------------------


def outcome(content: bytes, size: int) -> Any:
    """Return the rows of a file that is read in blocks of this size, or the error message."""
    with tempfile.TemporaryDirectory() as folder, small_pieces(size):
        (Path(folder) / "in").write_bytes(content)
        try:
            source = Source(Path(folder) / "in", CSV, [], name="in")
            return rows_of(source)
        except BadInputError as exc:
            return exc.message


PIECES = ["a", "b,", '"', '""', "\n", "\r\n", "\r", ",", '"x\ny"', "é", "ab,cd\n", '"a","b"\n']


@pytest.mark.more
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.integers(12, 40))
def test_the_size_of_blocks_makes_no_difference(body: str, size: int) -> None:
    content = b"x,y\n" + body.encode()
    whole, divided = outcome(content, 1000), outcome(content, size)
    if isinstance(divided, str) and "the row is longer than" in divided:
        assert len(content) > size
    else:
        # If there are several errors, another one may be found first.
        assert divided == whole or (isinstance(divided, str) and isinstance(whole, str))


@pytest.mark.sample(42)
@pytest.mark.parametrize("size", range(9, 30))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_the_line_of_an_error_is_right_for_any_block_size(size: int, end: str, quoted: bool) -> None:
    rows = ["x,y", "", "1,2", '"3",4' if quoted else "3,4", '"5\n",6' if quoted else "5,6", "", "", "7,8", "9"]
    line = len(rows) + (1 if quoted else 0)
    assert outcome(end.join(rows).encode(), size) == f"in:{line}: the row has 1 field, but the header has 2"
    rows[-1] = "\udcff,8"
    content = end.join(rows).encode("utf-8", "surrogateescape")
    assert outcome(content, size) == f"in:{line}: not UTF-8 text"


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_row_of_exactly_the_length_of_a_block(quote: str) -> None:
    for end in ("\n", "\r\n", "\r"):
        for spare in (-1, 0, 1):
            value = quote + "y" * (40 - 2 - 2 * len(quote) - len(end) - spare) + quote
            found = outcome(f"x,y{end}1,{value}{end}2,z{end}".encode(), 40)
            if spare < 0:
                assert found == "in:2: the row is longer than 40 bytes"
            else:
                assert found == [("1", value.strip('"')), ("2", "z")]


def test_a_byte_order_mark_inside_a_row_is_a_character() -> None:
    rows = [("1", "\ufeffa"), ("2\ufeff", "b"), ("3", "\ufeff")]
    content = "\ufeffx,y\n" + "".join(f"{x},{y}\n" for x, y in rows)
    for size in range(10, 40):
        assert outcome(content.encode(), size) == rows
