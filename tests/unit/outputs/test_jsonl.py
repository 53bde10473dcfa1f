"""Tests of JSON Lines, in and out."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import (
    ARROW,
    CSV,
    JSON_FORMATS,
    JSONL,
    PARQUET,
    Source,
    compressed,
    decompressed,
    name_of,
    parsed,
    read,
    refuse,
    rows_of,
    small_pieces,
    typed_table,
    write,
)

from psicli import outputs, tables
from psicli.core.errors import BadInputError, ColumnError, InputMissingError, MalformedInputError
from psicli.core.formats import FileFormat, file_format
from psicli.tables import jsonl

LINES = [
    '{"id":"b", "n" : 1.10,"deep":{"a":[1, 2.50, "x\\u00e9"]}}',
    '{"n":12345678901234567890123,"id":"a","é":"\\"q\\n"}',
    '{"id":7,"n":1e400,"b":true}',
    '{"id":null,"n":null}',
    "{}",
]
FILE = "\ufeff" + "\r\n".join([*LINES[:2], "", "  " + LINES[2] + "\t", *LINES[3:]])


def read_json(folder: Path, text: str, output: FileFormat | None = CSV) -> Source:
    return read(folder, text.encode(), fmt=JSONL, output=output)


# In ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", JSON_FORMATS, ids=name_of)
def test_matched_lines_are_unchanged(tmp_path: Path, fmt: FileFormat) -> None:
    source = read(tmp_path, compressed(FILE.encode(), fmt), fmt=fmt, output=fmt)
    data = write(source, fmt, [True, True, True, False, True])
    assert decompressed(data, fmt).decode().split("\n") == [LINES[2], LINES[1], LINES[0], LINES[4], ""]
    with small_pieces(80):
        again = read(tmp_path, compressed(FILE.encode(), fmt), fmt=fmt, output=fmt)
        assert write(again, fmt, [True, True, True, False, True], budget=0) == data


def test_every_name_is_a_column_of_text_in_other_formats(tmp_path: Path) -> None:
    for size in (1 << 20, 80):
        with small_pieces(size):
            source = read_json(tmp_path, FILE)
            assert source.input.schema == pa.schema([(name, pa.string()) for name in ("id", "n", "deep", "é", "b")])
            assert rows_of(source) == [
                ("b", "1.10", '{"a":[1, 2.50, "x\\u00e9"]}', None, None),
                ("a", "12345678901234567890123", None, '"q\n', None),
                ("7", "1e400", None, None, "true"),
                (None, None, None, None, None),
                (None, None, None, None, None),
            ]


KEYS = [
    ('"7"', "7"),
    ("7", "7"),
    ("-0", "0"),
    ("123456789012345678901234567890", "123456789012345678901234567890"),
    ('"517.0"', "517.0"),
    ("true", "true"),
    ("false", "false"),
    ("null", None),
    ('"\\ud83d\\ude00"', "😀"),
    ('"\\u0041\\/"', "A/"),
    ('" a "', " a "),
    ('""', ""),
]


def test_key_texts(tmp_path: Path) -> None:
    source = read_json(tmp_path, "".join(f'{{"id":{value}}}\n' for value, _ in KEYS))
    assert source.key_texts[0].to_pylist() == [text for _, text in KEYS]


FAULTS = [
    ('{"id":517.0}', "the key 'id' is a number with a fraction"),
    ('{"id":5e2}', "the key 'id' is a number with a fraction or an exponent"),
    ('{"id":[1]}', "the key 'id' is an array"),
    ('{"id":{}}', "the key 'id' is an object"),
    ('{"id":"\\ud800"}', "half a character"),
    ('{"id":"a","x":"\\udc00"}', "half a character"),
    ('{"id":"a","\\ud8ff":1}', "half a character"),
    ('{"id":"a\\tb"}', "the key column 'id' contains a control character"),
    ('{"id":"a\tb"}', "not valid JSON at character 9 of the line"),
    ('{"id":1,"id":2}', "the same name twice"),
    ('{"id":1,"x":{"y":1,"y":1}}', "the same name twice"),
    ('{"id":1,"x":NaN}', "NaN is not a value in JSON"),
    ('{"id":1,"x":-Infinity}', "-Infinity is not a value in JSON"),
    ('{"id":1,}', "not valid JSON at character 9"),
    ("{'id':1}", "not valid JSON at character 2"),
    ('{"id":1}{"id":2}', "text follows the JSON value"),
    ("{", "not valid JSON at character 2"),
    ("5", "the JSON value is not an object"),
    ('["id"]', "the line starts a JSON array"),
    ("[", "the line starts a JSON array"),
    (f'{{"id":1,"x":{"[" * 100_000}{"]" * 100_000}}}', "nested too deeply"),
    (f'{{"id":{"9" * 5000}}}', "an integer has too many digits"),
]


@pytest.mark.parametrize(("line", "fault"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_reported_with_their_line(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(BadInputError, match=r"^in\.file:3: ") as caught:
        read_json(tmp_path, f'{{"id":"x"}}\n\n{line}\n')
    assert fault in caught.value.message
    assert caught.value.advice


def test_the_advice_for_a_key_with_a_tab_fits_all_formats(tmp_path: Path) -> None:
    with pytest.raises(ColumnError) as caught:
        read_json(tmp_path, '{"id":"a\\tb"}')
    assert caught.value.advice.startswith("Keys must not contain")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    assert "in.file:2: not UTF-8" in refuse(MalformedInputError, tmp_path, b'{"id":1}\n{"id":"\xff"}\n', fmt=JSONL)


def test_a_line_has_a_greatest_length(tmp_path: Path) -> None:
    with small_pieces(80):
        for end in ("", "\n"):
            assert read_json(tmp_path, f'{{"id":"a"}}\n{{"id":"b","x":"{"x" * 63}"}}{end}').rows == 2
            long = f'{{"id":"a"}}\n{{"id":"b","x":"{"x" * 64}"}}{end}'.encode()
            assert "in.file:2: the line is longer" in refuse(MalformedInputError, tmp_path, long, fmt=JSONL)


def test_a_key_that_no_object_has_is_66(tmp_path: Path) -> None:
    message = refuse(InputMissingError, tmp_path, b'{"x":1}\n{"y":1}\n', fmt=JSONL)
    assert message == "in.file: there is no column 'id'; the file has 'x', 'y'"
    path = tmp_path / "in"
    with pytest.raises(InputMissingError):
        tables.check_input(path, JSONL, ["id"])


@pytest.mark.parametrize("text", ["", "\n", "\r\n \n", "\ufeff"])
def test_an_empty_file_has_no_rows(tmp_path: Path, text: str) -> None:
    source = read_json(tmp_path, text, JSONL)
    assert source.rows == 0
    assert write(source, JSONL) == b""
    assert write(read_json(tmp_path, text), CSV) == b"id\n"


def test_too_many_names_are_refused_except_for_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_MAX_NAMES", 5)
    text = "".join(f'{{"id":{number},"name {number}":0}}\n' for number in range(9))
    message = refuse(MalformedInputError, tmp_path, text.encode(), fmt=JSONL)
    assert message.startswith("in.file:5: ")
    assert len(write(read_json(tmp_path, text, JSONL), JSONL)) == len(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.more
@given(st.lists(st.dictionaries(st.sampled_from(["a", "é", '"', "id2", ""]), VALUES), max_size=8), st.booleans())
def test_values_are_read_as_the_json_module_reads_them(tmp_path_factory: Any, rows: Any, ascii_only: bool) -> None:
    folder = tmp_path_factory.mktemp("json")
    lines = [json.dumps({"id": n, **row}, ensure_ascii=ascii_only) for n, row in enumerate(rows)]
    source = read_json(folder, "\n".join(lines))
    for row, found in zip(rows, source.table.to_pylist(), strict=True):
        for name, value in row.items():
            text = found[name]
            assert text == value if isinstance(value, str) or value is None else json.loads(text) == value


@pytest.mark.sample(1)
@pytest.mark.parametrize("output", [CSV, JSONL, ARROW], ids=name_of)
def test_damaged_files_are_refused_or_read(tmp_path: Path, output: FileFormat) -> None:
    path = tmp_path / "in"
    for seed in range(200):
        chance = random.Random(seed)
        data = bytearray(FILE.encode())
        data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if seed % 4 == 0 else data)
        with suppress(BadInputError, InputMissingError):
            write(Source(path, JSONL, ["id"], output=output), output)


# Out ---------------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "whole": (pa.array([2**63 - 1, None], pa.int64()), [2**63 - 1, None]),
    "half": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "tenth": (pa.array([0.1, 1e300]), [0.1, 1e300]),
    "huge": (pa.array([1e16, -1e-7]), [1e16, -1e-7]),
    "no number": (pa.array([float("nan"), float("-inf")]), ["NaN", "-Infinity"]),
    "flag": (pa.array([True, None]), [True, None]),
    "bool8": (pa.array([1, 0], pa.bool8()), [True, False]),
    "nothing": (pa.nulls(2), [None, None]),
    'a "name"\n': (pa.array(['"\\\n\x00\x1f\x7fé\u2028', None]), ['"\\\n\x00\x1f\x7fé\u2028', None]),
    "decimal": (pa.array([Decimal("1.50"), None]), ["1.5", None]),
    "day": (pa.array([date(2024, 3, 1), None]), ["2024-03-01", None]),
    "instant": (pa.array([datetime(2024, 3, 1), None], pa.timestamp("s", "UTC")), ["2024-03-01T00:00:00Z", None]),
    "time": (pa.array([time(1, 2, 3), None]), ["01:02:03", None]),
    "uuid": (pa.array([bytes(16), None], pa.uuid()), ["00000000-0000-0000-0000-000000000000", None]),
    "json": (pa.array(["[1,\n2]", None], pa.json_()), ["[1,\n2]", None]),
    "word": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "bytes": (pa.array(["é".encode(), None]), ["é", None]),
    "list": (pa.array([[1, None], None]), [[1, None], None]),
    "lists": (pa.array([[[], ["a"]], []], pa.large_list(pa.list_(pa.string_view()))), [[[], ["a"]], []]),
    "view": (pa.array([["x"], None], pa.list_view(pa.string())), [["x"], None]),
    "pair": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
    "struct": (pa.array([{"a": 1, "b": {"c": "é"}}, None]), [{"a": 1, "b": {"c": "é"}}, None]),
    "structs": (pa.array([[{"a": 1}, None], []]), [[{"a": 1}, None], []]),
    "no fields": (pa.array([{}, None], pa.struct([])), [{}, None]),
    "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())), [[{"key": "k", "value": 1}], None]),
    "map with a null that pyarrow does not cast": (
        pa.array([[(1, None)], None], pa.map_(pa.int8(), pa.list_(pa.field("element", pa.int8(), nullable=False), 2))),
        [[{"key": 1, "value": None}], None],
    ),
    "uuids": (
        pa.ListArray.from_arrays([0, 1, 1], pa.array([bytes(16)], pa.uuid())),
        [["00000000-0000-0000-0000-000000000000"], []],
    ),
}


def test_columns_become_json_values(tmp_path: Path) -> None:
    table = pa.table({"id": ["b", "a"], **{name: column for name, (column, _) in COLUMNS.items()}})
    source = Source(_written(tmp_path, table), ARROW, ["id"], output=JSONL)
    data = write(source, JSONL)
    expected = [
        {"id": key, **{name: values[row] for name, (_, values) in COLUMNS.items()}} for row, key in enumerate("ba")
    ]
    assert [json.loads(line) for line in data.decode().removesuffix("\n").split("\n")] == expected[::-1]
    with small_pieces(50):
        assert write(source, JSONL, budget=0) == data


def test_a_whole_number_in_a_column_of_fractions_stays_a_fraction(tmp_path: Path) -> None:
    """A reader guesses the type of a column from its first values, and rounds the others if it guesses wrong."""
    values = [2.0, -0.0, 1e15, 0.5, None]
    columns = {str(kind): pa.array(values).cast(kind) for kind in (pa.float32(), pa.float64())}
    columns["list"] = pa.array([[value] for value in values])
    source = Source(_written(tmp_path, pa.table({"id": [*"abcde"], **columns})), ARROW, ["id"], output=JSONL)
    lines = write(source, JSONL).decode().split("\n")
    assert lines[0] == '{"id":"a","float":2.0,"double":2.0,"list":[2.0]}'
    assert lines[1] == '{"id":"b","float":-0.0,"double":-0.0,"list":[-0.0]}'
    assert lines[4] == '{"id":"e","float":null,"double":null,"list":[null]}'
    many = pa.table({"id": [f"{row:05d}" for row in range(30_000)], "v": [2.0] * 29_999 + [2.5]})
    target = tmp_path / "out.jsonl"
    target.write_bytes(write(Source(_written(tmp_path, many), ARROW, ["id"], output=JSONL), JSONL))
    with duckdb.connect() as connection:
        assert connection.execute("SELECT max(v) FROM read_json(?)", [str(target)]).fetchone() == (2.5,)


def _written(folder: Path, table: Any) -> Path:
    path = folder / "in"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


REFUSED = [
    pa.array([[b"a"]]),
    pa.array([1], pa.duration("s")),
    pa.array([{"a": b"x"}]),
    pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]),
]


@pytest.mark.parametrize("column", REFUSED, ids=lambda column: str(column.type))
def test_types_without_a_json_form_are_refused_before_the_exchange(tmp_path: Path, column: Any) -> None:
    sample = tables.check_input(_written(tmp_path, pa.table({"id": ["a"], "x": column})), ARROW, ["id"], output=JSONL)
    assert sample is not None
    with pytest.raises(ColumnError, match=r"the column 'x' of type .* cannot be written as jsonl"):
        outputs.check_output(sample, JSONL)


def test_csv_becomes_json_lines_and_back(tmp_path: Path) -> None:
    text = b'id,a\n1,"x ""y"""\n2,\n'
    data = write(read(tmp_path, text, output=JSONL), JSONL)
    assert data == b'{"id":"1","a":"x \\"y\\""}\n{"id":"2","a":""}\n'
    assert write(read(tmp_path, data, fmt=JSONL, output=CSV), CSV) == text
    assert typed_table(write(read(tmp_path, data, fmt=JSONL), PARQUET), PARQUET).to_pylist() == [
        {"id": "1", "a": 'x "y"'},
        {"id": "2", "a": ""},
    ]


def test_suffixes() -> None:
    for suffix in (".jsonl", ".ndjson"):
        assert [file_format(f"x{suffix}{each}") for each in ("", ".gz", ".zst")] == JSON_FORMATS


def test_a_key_of_two_columns(tmp_path: Path) -> None:
    source = read(tmp_path, b'{"b":2,"a":"x"}\n{"a":1,"b":true}\n', ["a", "b"], JSONL, JSONL)
    assert [column.to_pylist() for column in source.key_texts] == [["x", "1"], ["2", "true"]]
    assert parsed(write(source, JSONL), JSONL)[1:] == [["1", "True"], ["2", "x"]]
