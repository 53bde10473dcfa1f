"""Tests of the settings for CSV files: delimiter, encoding, header, null values and quotes."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.tables import (
    CSV,
    CSV_GZ,
    CSV_ZST,
    PARQUET,
    TEXT_FORMATS,
    TSV,
    Source,
    compressed,
    name_of,
    parsed,
    read,
    refuse,
    rows_of,
    small_pieces,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import BadInputError, ColumnError, InputMissingError, MalformedInputError
from psicli.core.formats import Dialect, FileFormat
from psicli.items.encoding import encode_items
from psicli.tables import source as source_module


def dialect(fmt: FileFormat = CSV, **settings: Any) -> FileFormat:
    return fmt._replace(dialect=Dialect(**settings))


def advice(error: type[BadInputError | InputMissingError], folder: Path, content: bytes, *read_as: Any) -> str:
    with pytest.raises(error) as caught:
        read(folder, content, *read_as)
    return caught.value.advice


# Any dialect --------------------------------------------------------------------------------------------------------

DELIMITERS = [None, ",", ";", "\t", "|", " ", ":", "^", "~", "]", "\\", "-", ".", "$", "'"]
ENCODINGS = ["utf-8", "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-32-be", "gb18030", "shift_jis", "iso2022_jp"]
FIELD = st.text(st.sampled_from("ab\"',;\t|. \r\n\\]éßж日本語￥😀-^~$:"), max_size=5)
KEY = FIELD.map(lambda text: text.translate({9: "", 10: "", 13: ""}))


@pytest.mark.more
@given(
    st.lists(st.tuples(KEY, FIELD, FIELD), max_size=6),
    st.builds(
        Dialect,
        delimiter=st.sampled_from(DELIMITERS),
        encoding=st.sampled_from(ENCODINGS),
        header=st.booleans(),
        null_values=st.lists(st.sampled_from(["a", "", "é", "ab", '"']), max_size=3).map(tuple),
        quotes=st.booleans(),
    ),
    st.sampled_from(TEXT_FORMATS),
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), *((end, csv.QUOTE_ALL) for end in ("\r\n", "\n", "\r"))]),
    st.integers(1, 60),
)
@example([("1", "é", "日")], Dialect(encoding="utf-16"), CSV, ("\r\n", csv.QUOTE_MINIMAL), 1)
def test_what_the_csv_module_writes_in_a_dialect_is_read_back(
    rows: list[tuple[str, ...]], settings: Dialect, fmt: FileFormat, style: tuple[str, Any], size: int
) -> None:
    fmt = fmt._replace(dialect=settings)
    end, quoting = style
    if not settings.quotes:
        bare = "\r\n" + fmt.delimiter
        rows = [tuple(value.translate({ord(each): "" for each in bare}) for value in row) for row in rows]
        quoting = csv.QUOTE_NONE
    rows = [tuple(value.encode(settings.encoding, "ignore").decode(settings.encoding) for value in row) for row in rows]
    assume(settings.header or rows)
    names = ("x0", "x1", "x2") if settings.header else ("1", "2", "3")
    text = io.StringIO(newline="")
    # Without a quote character, the csv module neither quotes nor escapes one.
    quote = '"' if settings.quotes else None
    writer = csv.writer(text, delimiter=fmt.delimiter, quoting=quoting, lineterminator=end, quotechar=quote)
    writer.writerows([names, *rows] if settings.header else rows)
    with (
        tempfile.TemporaryDirectory() as folder,
        small_pieces(60 + 4 * size),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(source_module, "_PIECE_BYTES", size)
        path = Path(folder) / "in"
        path.write_bytes(compressed(text.getvalue().encode(settings.encoding), fmt))
        source = Source(path, fmt, [names[0]])
        expected = [tuple(None if value in settings.null_values else value for value in row) for row in rows]
        assert rows_of(source) == expected
        assert source.table.schema.names == list(names)
        outputs.check_unquoted(source.input, fmt)
        written = parsed(write(source, fmt), fmt)
        source.input.close()
        Source.opened.remove(source)
    blank = [["" if value is None else value for value in row] for row in expected]
    # Rows without a key come last.
    by_key = sorted(zip(expected, blank, strict=True), key=lambda pair: (not pair[0][0], pair[1][0].encode()))
    assert written == ([list(names)] if settings.header else []) + [row for _, row in by_key]


# Encodings ----------------------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_a_large_file_in_another_encoding_is_read_in_blocks(tmp_path: Path, encoding: str) -> None:
    text = "id,ä\r\n" + "".join(f"{n},{'é' * (100 + n % 7)}\r\n" for n in range(60_000))
    source = read(tmp_path, text.encode(encoding), fmt=dialect(encoding=encoding))
    assert len(source.batches) > 2
    assert source.key_texts[0].to_pylist() == [str(n) for n in range(60_000)]
    lines = text.splitlines()
    last = write(source, CSV, [False] * 59_999 + [True])
    assert last.decode() == f"{lines[0]}\n{lines[-1]}\n"


@pytest.mark.sample(1)
@pytest.mark.parametrize("fmt", [CSV, CSV_GZ, CSV_ZST], ids=name_of)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_the_number_of_rows_is_estimated_from_the_first_block(tmp_path: Path, fmt: FileFormat, encoding: str) -> None:
    rows = 400_000
    text = "id,a\n" + "".join(f"{n},{n * 7919 % 1_000_003:032}\n" for n in range(rows))
    (tmp_path / "in").write_bytes(compressed(text.encode(encoding), fmt))
    with tables.open_input(tmp_path / "in", fmt._replace(dialect=Dialect(encoding=encoding)), ["id"]) as source:
        next(source.key_batches())
        assert rows * 0.7 < source.expected_rows < rows * 1.3


WRONG_BYTES = [
    (b"id,a\n1,x\r\n2,\x81\n", "cp1252", 3),
    (b"id,a\r1,x\r\r2,\x81\r", "cp1252", 4),
    ("id,a\n1,x\n2,".encode("utf-16-le") + b"\x00\xd8,\x00\n\x00", "utf-16-le", 3),
    ("id,a\n1,x\n".encode("utf-16-le") + b"2", "utf-16-le", 3),
    ("id,a\n1,語\n2,".encode("gb18030") + b"\xff\n", "gb18030", 3),
    (b"id,a\n1,+2AA-\n", "utf-7", 2),
    ("id,a\n1,é\n".encode(), "ascii", 2),
]


@pytest.mark.parametrize(("content", "encoding", "line"), WRONG_BYTES, ids=range(len(WRONG_BYTES)))
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_a_byte_that_does_not_fit_the_encoding_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, encoding: str, line: int, size: int
) -> None:
    monkeypatch.setattr(source_module, "_PIECE_BYTES", size)
    message = refuse(MalformedInputError, tmp_path, content, fmt=dialect(encoding=encoding))
    assert message == f"in.file:{line}: not {encoding} text"


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("1,Müller\n2,Ærø\n3,O\u2019Brien \u2013 naïve\n", "cp1252", "`csv.encoding: cp1252`"),
        ("1,张三,李四\n", "gb18030", "such as gb18030, shift_jis or cp1252"),
        ("1,日本語テキスト\n", "shift_jis", "such as gb18030, shift_jis or cp1252"),
        ("1,привет,мир\n", "cp1251", "such as gb18030, shift_jis or cp1252"),
    ],
)
def test_the_advice_on_bytes_that_are_not_utf_8_fits(tmp_path: Path, text: str, encoding: str, expected: str) -> None:
    assert expected in advice(MalformedInputError, tmp_path, b"id,a\n" + text.encode(encoding))


def test_one_damaged_line_in_utf_8_text_is_not_called_another_encoding(tmp_path: Path) -> None:
    content = "id,a\n1,Müller\n2,Ærø\n3,".encode() + b"\xff\n"
    assert "correct this line" in advice(MalformedInputError, tmp_path, content)


# Null values, quotes and headers ------------------------------------------------------------------------------------


def test_null_values_match_nothing_and_are_empty_in_outputs(tmp_path: Path) -> None:
    fmt = dialect(null_values=("NULL", "\\N"))
    source = read(tmp_path, b'id,a\n2,NULL\nNULL,x\n"NULL",y\n\\N,z\n1,null\n,w\n', fmt=fmt)
    assert encode_items(source.key_texts).is_valid().to_pylist() == [True, False, False, False, True, False]
    matched = [True, False, False, False, True, False]
    assert write(source, CSV, matched) == b"id,a\n1,null\n2,\n"
    assert pq.read_table(pa.BufferReader(write(source, PARQUET, matched))).to_pydict() == {
        "id": ["1", "2"],
        "a": ["null", None],
    }


def test_without_quotes_a_quote_is_a_character(tmp_path: Path) -> None:
    fmt = dialect(TSV, quotes=False)
    content = b'id\ta\n1\t"x\n2\t"y" z\n"3"\t\'\n'
    source = read(tmp_path, content, fmt=fmt)
    assert rows_of(source) == [("1", '"x'), ("2", '"y" z'), ('"3"', "'")]
    assert write(source, fmt) == b'id\ta\n"3"\t\'\n1\t"x\n2\t"y" z\n'
    assert "csv.quotes: false" in advice(MalformedInputError, tmp_path, content, ("id",), TSV)


@pytest.mark.parametrize(
    ("content", "column"),
    [
        (b"id\ta\n1\tx,y\n", "a"),
        (b"id\ta,b\n1\tx\n", "a,b"),
        (pa.table({"id": ["1"], "a": pa.array(["x\ny"]).dictionary_encode()}), "a"),
        (pa.table({"id": [1], "d,e": [1]}), "d,e"),
    ],
)
def test_a_value_that_needs_quotes_is_found_before_the_exchange(tmp_path: Path, content: Any, column: str) -> None:
    read_as = dialect(TSV, quotes=False) if isinstance(content, bytes) else PARQUET
    source = read(tmp_path, content, fmt=read_as)
    with pytest.raises(ColumnError, match=f"'{column}' contains a delimiter or a line break"):
        outputs.check_unquoted(source.input, dialect(quotes=False))
    for fits in (CSV, PARQUET, CSV_GZ):
        outputs.check_unquoted(source.input, fits)


def test_values_that_need_no_quotes_are_written_without(tmp_path: Path) -> None:
    source = read(tmp_path, pa.table({"id": ["1", "2"], "a": ['"x"', None]}))
    fmt = dialect(delimiter=";", header=False, quotes=False)
    outputs.check_unquoted(source.input, fmt)
    assert write(source, fmt) == b'1;"x"\n2;\n'


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_without_a_header_columns_are_numbered(tmp_path: Path, bom: str) -> None:
    fmt = dialect(header=False)
    source = read(tmp_path, f"{bom}b,x\na,y\n".encode(), ["1"], fmt)
    assert source.key_texts[0].to_pylist() == ["b", "a"]
    assert write(source, fmt) == b"a,y\nb,x\n"
    assert write(source, CSV) == b"1,2\na,y\nb,x\n"
    assert "a file that may have no rows needs a header" in advice(MalformedInputError, tmp_path, b"", ["1"], fmt)


@pytest.mark.parametrize("delimiter", ["]", "^", "\\", "-", "|"])
def test_values_with_a_special_delimiter_are_quoted(tmp_path: Path, delimiter: str) -> None:
    source = read(tmp_path, pa.table({"id": ["1"], "a": [f"x{delimiter}y"], "b": ["[z"]}))
    assert write(source, dialect(delimiter=delimiter)).decode().splitlines()[1] == (
        f'1{delimiter}"x{delimiter}y"{delimiter}[z'
    )


# Wrong settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fmt", "expected"),
    [
        (b"id;a\n1;x\n", CSV, 'looks semicolon-separated; set `csv.delimiter: ";"`'),
        (b"email;name;a,b\n", CSV, "Check keys"),
        (b"email;name\n", CSV, "looks semicolon-separated"),
        (b"id\ta\n1\tx\n", CSV, "looks tab-separated; set `csv.delimiter: tab`"),
        (b"id|a\n", CSV_GZ, 'looks pipe-separated; set `csv.delimiter: "|"`'),
        (b"id,a\n", TSV, 'looks comma-separated; set `csv.delimiter: ","`'),
        (b"id,a\n", dialect(delimiter=";"), 'looks comma-separated; set `csv.delimiter: ","`'),
        (
            b"sep=;\r\nid;a\r\n1;x\r\n",
            CSV,
            'only Excel understands, and set `csv.delimiter: ";"`',
        ),
        (b'"sep=\t"\nid\ta\n', dialect(delimiter="\t"), "in line 2; remove the lines above it."),
        (b"id^a\n1^x\n", CSV, "looks separated by '^'; set `csv.delimiter: \"^\"`"),
        (b"id\x01a\n", CSV, "looks separated by the control character '\\x01'; write it with another delimiter"),
        (b"Customers, March\n\nid,a\n1,x\n", CSV, "The header seems to be in line 3; remove the lines above it."),
        (b"# export; 2024\r\nid,a\r\n1,x", CSV_GZ, "The header seems to be in line 2; "),
        (b"ID,2023\n", CSV, "Did you mean 'ID'?"),
        (b"ID,a\n", CSV, "Did you mean 'ID'?"),
        (b" id ,a\n", CSV, "Did you mean ' id '?"),
        (b"ids,a\n", CSV, "Did you mean 'ids'?"),
        (b"a@x.org,7\n", dialect(header=False), "columns are called 1, 2 and so on"),
    ],
)
def test_a_missing_column_shows_which_setting_is_wrong(
    tmp_path: Path, content: bytes, fmt: FileFormat, expected: str
) -> None:
    assert expected in advice(InputMissingError, tmp_path, compressed(content, fmt), ["id"], fmt)


@pytest.mark.parametrize(
    "row",
    [
        b"HIDDEN,7",
        b"HIDDEN;-1.5",
        b"HIDDEN\t2024-03-01",
        b"hidden@x.org",
        b'"HIDDEN","030 12"',
        b"HIDDEN,0123456789abcdef",
    ],
)
def test_a_first_row_that_looks_like_data_is_not_quoted(tmp_path: Path, row: bytes) -> None:
    for content in (row + b"\n", row + b"\n" + row):
        message = refuse(InputMissingError, tmp_path, content)
        assert message == "in.file: there is no column 'id', and the first row looks like data"
        assert "HIDDEN" not in advice(InputMissingError, tmp_path, content).upper()
    assert "`csv.header: false`" in advice(InputMissingError, tmp_path, b"a@x.org,7\n")


def test_a_quoted_header_with_another_delimiter_is_recognised(tmp_path: Path) -> None:
    for content in (b'"id";"a,b"\n"1";"x"\n', b'\xef\xbb\xbf"id";"a"', b'"email";"a"\r\n'):
        assert 'set `csv.delimiter: ";"`' in advice(MalformedInputError, tmp_path, content)


def test_numbers_as_names_of_columns_show_that_there_is_no_header(tmp_path: Path) -> None:
    assert "set `csv.header: false`" in advice(InputMissingError, tmp_path, b"a@x.org,7\n", ["2"])


# Joined files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [CSV, CSV_GZ], ids=name_of)
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("id,a\n1,x\n\nid,a\n2,y\n", "4: this row repeats the header"),
        ('"id",a\n1,"x\ny"\nid,"a"\n', "4: this row repeats the header"),
        ("\ufeffid,a\n1,x\n\ufeffid,a\n2,y\n", "3: this row starts with a byte order mark (U+FEFF)"),
        ('id,a\r1,x\r"\ufeff2",y\r', "3: this row starts with a byte order mark (U+FEFF)"),
        ("id,a\n" + f"1,{'x' * 97}\n" * 50_000 + "id,a\n", "50002: this row repeats the header"),
    ],
    ids=range(5),
)
def test_what_is_left_where_files_were_joined_is_refused(
    tmp_path: Path, fmt: FileFormat, content: str, fault: str
) -> None:
    assert refuse(MalformedInputError, tmp_path, compressed(content.encode(), fmt), fmt=fmt) == f"in.file:{fault}"


def test_values_that_only_look_like_joined_files_are_read(tmp_path: Path) -> None:
    content = 'id,a\nid,x\n1,a\n2,"x\nid,a\ny"\n3,\ufeffx\n4,"x\n\ufeff"\n'
    assert len(rows_of(read(tmp_path, content.encode()))) == 5
    assert rows_of(read(tmp_path, b"word\nthe\nword\n", ["word"])) == [("the",), ("word",)]


@pytest.mark.parametrize("header", ["\ufeffid,a", '\ufeff"id",a', '"\ufeffid",a', "\ufeff\ufeffid,a"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, header: str) -> None:
    source = read(tmp_path, f"{header}\n1,x\n".encode())
    assert write(source, CSV) == b"id,a\n1,x\n"
