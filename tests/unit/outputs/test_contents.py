"""What an output holds: its rows, its flag, its columns and their order, in every format."""

from __future__ import annotations

import io
import json
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
    ALL_FORMATS,
    AMPLE,
    ARROW,
    CSV,
    JSONL,
    JSONL_ZST,
    PARQUET,
    TSV_GZ,
    TYPED_FORMATS,
    compressed,
    decompressed,
    parsed,
    small_pieces,
    typed_bytes,
    typed_table,
)

from psicli import outputs, tables
from psicli.config import OutputSettings
from psicli.core.errors import ColumnError, InputMissingError
from psicli.core.formats import Dialect, FileFormat
from psicli.items.forms.names import parse_form
from psicli.storage.spool import Spool

Row = tuple[str | None, ...]
NAMES = ["id", "day", "note", "number"]
DEFAULT = OutputSettings()


def file_of(rows: Sequence[Row], fmt: FileFormat) -> bytes:
    if fmt in TYPED_FORMATS:
        return typed_bytes(pa.table({name: [*map(str_at(at), rows)] for at, name in enumerate(NAMES)}, TYPES), fmt, 3)
    if fmt.kind == "jsonl":
        lines = "".join(f"{json.dumps(dict(zip(NAMES, row, strict=True)))}\n" for row in rows)
    else:
        lines = "".join(f"{fmt.delimiter.join(value or '' for value in row)}\n" for row in [tuple(NAMES), *rows])
    return compressed(lines.encode(), fmt)


TYPES = pa.schema([(name, pa.string()) for name in NAMES])


def str_at(at: int) -> Any:
    return lambda row: row[at]


def written(
    path: Path,
    fmt: FileFormat,
    out: FileFormat,
    mask: Sequence[bool],
    settings: OutputSettings = DEFAULT,
    budget: int = AMPLE,
    keys: Sequence[str] = ("id",),
    forms: Sequence[str] = (),
) -> bytes:
    """Do what a run does with an input whose rows match as `mask` says."""
    selection = outputs.selection(settings)
    sample = tables.check_input(path, fmt, keys, output=out, selection=selection)
    assert sample is not None
    outputs.check_output(sample, out, settings)
    sink, parsed_forms = io.BytesIO(), [*map(parse_form, forms)]
    opened = tables.open_input(path, fmt, keys, forms=parsed_forms, output=out, selection=selection)
    with opened as source, tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "state") as spool:
        list(source.key_batches())
        outputs.check_unquoted(source, out, settings)
        matched = pa.array(mask, pa.bool_())
        rows = outputs.write_matched(source, sink, out, matched, settings, budget=budget, spool=spool)
    wanted = {"matched": sum(mask), "unmatched": len(mask) - sum(mask), "all": len(mask)}
    assert rows == wanted[settings.rows]
    return sink.getvalue()


def expected(rows: Sequence[Row], mask: Sequence[bool], settings: OutputSettings) -> list[list[str]]:
    """Return the header and the rows of an output, computed in the plainest way."""
    names = settings.columns or NAMES
    chosen = [
        (row, matches)
        for row, matches in zip(rows, mask, strict=True)
        if settings.rows == "all" or matches == (settings.rows == "matched")
    ]
    if settings.order == "key":
        chosen.sort(key=lambda each: (not each[0][0], (each[0][0] or "").encode()))
    flags = [[str(matches).lower()] if settings.flag else [] for _, matches in chosen]
    body = [[row[NAMES.index(name)] or "" for name in names] for row, _ in chosen]
    return [[*names, *filter(None, [settings.flag])], *(row + flag for row, flag in zip(body, flags, strict=True))]


def shown(data: bytes, fmt: FileFormat) -> list[list[str]]:
    if fmt in TYPED_FORMATS:
        table = typed_table(data, fmt)
        rows = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
        found = [table.column_names, *rows]
    else:
        found = parsed(data, fmt)
    # Booleans are those of Python here.
    return [[{"True": "true", "False": "false"}.get(value, value) for value in row] for row in found]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "B", "b", "aa", "é", "z", "", None]),
        st.sampled_from(["x", "y"]),
        st.text("ab", max_size=30),
        st.integers(0, 99).map(str),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)
SETTINGS = st.builds(
    OutputSettings,
    rows=st.sampled_from(["matched", "unmatched", "all"]),
    flag=st.sampled_from([None, "in_both"]),
    columns=st.sampled_from([None, ("note", "id"), ("number",), ("day", "number", "id", "note")]),
    order=st.sampled_from(["key", "input"]),
)


def check_one(rows: list[Any], settings: OutputSettings, fmt: FileFormat, out: FileFormat, budget: int) -> None:
    # A row with a null key matches nothing.
    mask = [matches and bool(row[0]) for *row, matches in rows]
    plain = [tuple(row[:-1]) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.write_bytes(file_of(plain, fmt))
        data = written(path, fmt, out, mask, settings)
        wanted = expected(plain, mask, settings)
        # JSON Lines without rows name no columns.
        assert shown(data, out) == (wanted if wanted[1:] or out.kind != "jsonl" else [])
        with small_pieces(200):
            assert written(path, fmt, out, mask, settings, budget) == data


@pytest.mark.more
@given(ROWS, SETTINGS, st.sampled_from([CSV, JSONL, PARQUET]), st.sampled_from([CSV, JSONL, PARQUET]))
def test_an_output_holds_what_its_settings_say(
    rows: list[Any], settings: OutputSettings, fmt: FileFormat, out: FileFormat
) -> None:
    check_one(rows, settings, fmt, out, AMPLE)


@pytest.mark.more
@given(ROWS, SETTINGS, st.sampled_from(ALL_FORMATS), st.sampled_from(ALL_FORMATS), st.sampled_from([0, 300, 3000]))
def test_the_bytes_of_every_format_depend_on_neither_the_budget_nor_the_blocks(
    rows: list[Any], settings: OutputSettings, fmt: FileFormat, out: FileFormat, budget: int
) -> None:
    check_one(rows, settings, fmt, out, budget)


ALL = OutputSettings(rows="all", flag="in_both")
SOME: list[Row] = [("b", "x", "one", "1"), (None, "y", "two", "2"), ("a", "x", "three", "3")]


@pytest.mark.parametrize("out", [CSV, TSV_GZ, JSONL_ZST, PARQUET, ARROW], ids=lambda fmt: fmt.kind)
def test_a_flag_is_a_boolean_after_the_other_columns(tmp_path: Path, out: FileFormat) -> None:
    (tmp_path / "in").write_bytes(file_of(SOME, PARQUET))
    data = written(tmp_path / "in", PARQUET, out, [True, False, False], ALL)
    if out in TYPED_FORMATS:
        assert typed_table(data, out).schema.field("in_both").type == pa.bool_()
        assert typed_table(data, out).column("in_both").to_pylist() == [False, True, False]
    elif out.kind == "jsonl":
        objects = [json.loads(line) for line in decompressed(data, out).splitlines()]
        assert [[*each.items()][-1] for each in objects] == [("in_both", flag) for flag in (False, True, False)]
    else:
        assert [row[-1] for row in parsed(data, out)] == ["in_both", "false", "true", "false"]


def test_lines_are_copied_with_their_flag_or_with_the_members_that_are_selected(tmp_path: Path) -> None:
    lines = ['{"id":"b", "n":1.10 , "x":[1, 2]}', '{ "x" : null,"id":"a"  }', "{}", '{"id":"\\u0062","x":{"y": 1}}']
    (tmp_path / "in").write_text("\n".join(lines))
    mask, flagged = [True, False, False, True], OutputSettings(rows="all", flag='a"b')
    assert written(tmp_path / "in", JSONL, JSONL, mask, flagged).decode().splitlines() == [
        '{ "x" : null,"id":"a","a\\"b":false}',
        '{"id":"b", "n":1.10 , "x":[1, 2],"a\\"b":true}',
        '{"id":"\\u0062","x":{"y": 1},"a\\"b":true}',
        '{"a\\"b":false}',
    ]
    selected = OutputSettings(columns=("x", "n"), order="input")
    assert written(tmp_path / "in", JSONL, JSONL, [True] * 4, selected).decode().splitlines() == [
        '{"x":[1, 2],"n":1.10}',
        '{"x":null}',
        "{}",
        '{"x":{"y": 1}}',
    ]


@pytest.mark.parametrize("fmt", [CSV, JSONL, PARQUET, ARROW], ids=lambda fmt: fmt.kind)
def test_wrong_columns_are_found_before_the_exchange(tmp_path: Path, fmt: FileFormat) -> None:
    (tmp_path / "in").write_bytes(file_of(SOME, fmt))

    def refused(error: type[Exception], **settings: Any) -> Any:
        selection = outputs.selection(OutputSettings(**settings))
        with pytest.raises(error) as caught:
            tables.check_input(tmp_path / "in", fmt, ["id"], output=CSV, selection=selection)
        opened = tables.open_input(tmp_path / "in", fmt, ["id"], output=CSV, selection=selection)
        with opened as source, pytest.raises(error):
            list(source.key_batches())
        return caught.value

    missing = refused(InputMissingError, columns=("id", "notes"))
    assert missing.code == 66
    assert "there is no column 'notes'; the file has" in missing.message
    assert missing.advice.startswith("Did you mean 'note'? The names in output.columns must match exactly")
    taken = refused(ColumnError, flag="day")
    assert taken.code == 65
    assert taken.message.endswith("there is a column 'day' already, so output.flag cannot add one of that name")
    # With columns that leave it out, the name is free; also that of a key.
    for flag in ("day", "id"):
        settings = OutputSettings(columns=("number",), flag=flag)
        data = written(tmp_path / "in", fmt, CSV, [True, False, True], settings)
        assert data.decode() == f"number,{flag}\n3,true\n1,true\n"


def test_a_column_that_is_not_written_may_be_of_any_type_and_is_not_read(tmp_path: Path) -> None:
    table = pa.table({"id": ["b", "a"], "n": [1, 2], "list": [[1], [2]], "long": ["zq7" * 999, "zq7"]})
    pq.write_table(table, tmp_path / "in", compression="none", use_dictionary=False, write_page_checksum=True)
    whole = (tmp_path / "in").read_bytes()
    (tmp_path / "in").write_bytes(whole.replace(b"zq7zq7", b"zq7zq8"))
    settings = OutputSettings(columns=("n",))
    assert written(tmp_path / "in", PARQUET, CSV, [True, True], settings) == b"n\n2\n1\n"
    (tmp_path / "in").write_bytes(whole)
    with pytest.raises(ColumnError, match=r"the column 'list' of type .* cannot be written as csv"):
        written(tmp_path / "in", PARQUET, CSV, [True, True])
    with pytest.raises(ColumnError, match=r"the column 'list' of type .* cannot be written as csv"):
        written(tmp_path / "in", PARQUET, CSV, [True, True], OutputSettings(columns=("list",)))


def test_pandas_and_geo_metadata_are_true_for_fewer_columns(tmp_path: Path) -> None:
    places = {"columns": {"here": {"encoding": "WKB", "bbox": [1]}, "there": {"encoding": "WKB"}}}
    places |= {"version": "1.1.0", "primary_column": "here"}
    table = pa.table({"id": ["b", "a"], "n": ["p", "q"], "here": [b"x", b"y"], "there": [b"x", b"y"]})
    frame = table.to_pandas().set_index("n")
    with_index = pa.Table.from_pandas(frame)
    metadata = {**with_index.schema.metadata, b"geo": json.dumps(places).encode()}
    pq.write_table(with_index.replace_schema_metadata(metadata), tmp_path / "in")

    def found(*columns: str) -> tuple[Any, Any]:
        settings = OutputSettings(columns=columns, flag="in_both", rows="all")
        data = written(tmp_path / "in", PARQUET, PARQUET, [True, False], settings)
        return typed_table(data, PARQUET), pq.read_table(io.BytesIO(data)).to_pandas()

    output, frame = found("there", "id", "n")
    assert frame.index.name == "n"
    assert frame.reset_index().to_dict("list") == {
        "n": ["q", "p"],
        "there": [b"y", b"x"],
        "id": ["a", "b"],
        "in_both": [False, True],
    }
    geo = json.loads(output.schema.metadata[b"geo"])
    assert (geo["primary_column"], geo["columns"]) == ("there", {"there": {"encoding": "WKB", "geometry_types": []}})
    output, frame = found("id")
    assert frame.to_dict("list") == {"id": ["a", "b"], "in_both": [False, True]}
    assert b"geo" not in output.schema.metadata
    named = [column["field_name"] for column in json.loads(output.schema.metadata[b"pandas"])["columns"]]
    assert named == ["id", "in_both"]


def test_categories_of_an_output_in_the_order_of_the_input_are_those_that_occur(tmp_path: Path) -> None:
    sizes = pa.DictionaryArray.from_arrays(pa.array([2, 0, 1, 2], pa.int8()), ["S", "M", "L"])
    (tmp_path / "in").write_bytes(typed_bytes(pa.table({"id": ["d", "c", "b", "a"], "size": sizes}), PARQUET, 2))
    settings = OutputSettings(rows="unmatched", order="input")
    for out in (PARQUET, ARROW):
        data = written(tmp_path / "in", PARQUET, out, [False, True, True, False], settings)
        size = typed_table(data, out).column("size").chunk(0)
        assert (size.to_pylist(), size.dictionary.to_pylist()) == (["L", "L"], ["L"])


@pytest.mark.parametrize(
    ("form", "ours", "theirs"),
    [
        ("integer", ["010", "9", "2.0"], ["2", "10", "9"]),
        ("email", ["Zoe@X.de", " ann@x.de"], ["ANN@x.de", "zoe@x.de "]),
        ("date", ["2024-03-01", "01.02.2025"], ["2025-02-01", "2024-03-01"]),
        ("phone/DE", ["0171 1234567", "+41 44 668 18 00"], ["+41446681800", "+491711234567"]),
        ("lower/sha256", ["B", "a"], ["A", "b"]),
    ],
)
def test_rows_are_sorted_by_what_is_compared(tmp_path: Path, form: str, ours: list[str], theirs: list[str]) -> None:
    orders = []
    for spellings in (ours, theirs):
        (tmp_path / "in.csv").write_text("".join(f'"{each}",{at}\n' for at, each in enumerate(["id", *spellings])))
        own = form if form != "date" else "date/DMY"
        settings = OutputSettings(columns=("id",))
        data = written(tmp_path / "in.csv", CSV, CSV, [True] * len(spellings), settings, forms=[own])
        orders.append([line.strip('"').strip() for line in data.decode().splitlines()[1:]])
    pairs = {(a, b) for a in ours for b in theirs if same(form, a, b)}
    assert {*zip(*orders, strict=True)} == {(a.strip(), b.strip()) for a, b in pairs}


def same(form: str, ours: str, theirs: str) -> bool:
    """Return whether two spellings of the test above are meant to be equal, by the plainest rule."""
    if form == "integer":
        return float(ours) == float(theirs)
    if form == "phone/DE":
        return ours.replace(" ", "").replace("0171", "+49171") == theirs
    if form == "date":
        return ours == theirs or ".".join(reversed(theirs.split("-"))) == ours
    return ours.strip().lower() == theirs.strip().lower()


def test_the_name_of_a_flag_must_fit_an_output_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(file_of(SOME, CSV))
    out = CSV._replace(dialect=Dialect(quotes=False))
    with pytest.raises(ColumnError, match=r"the column 'a,b' contains a delimiter"):
        written(tmp_path / "in", CSV, out, [True] * 3, OutputSettings(flag="a,b"))
    settings = OutputSettings(columns=("number",), flag="f")
    assert written(tmp_path / "in", CSV, out, [True, False, False], settings) == b"number,f\n1,true\n"
