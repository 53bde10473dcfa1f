"""Tests of key columns with forms, in every format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psicli import tables
from psicli.core.errors import ColumnError, MalformedInputError
from psicli.core.formats import file_format
from psicli.items.forms.columns import KeyColumns, Unfit
from psicli.items.forms.names import Form, parse_form
from psicli.items.spelling import unfit_findings
from psicli.tables import Input, delimited

TEXT = pa.large_string()


def opened(path: Path, *forms: str, keys: Sequence[str] = ("id",)) -> Input:
    return tables.open_input(path, file_format(path), keys, forms=[*map(parse_form, forms)], name=path.name)


def read(path: Path, *forms: str, keys: Sequence[str] = ("id",)) -> tuple[list[list[str | None]], list[Unfit]]:
    """Return the texts of the key columns, and the values that their forms cannot take."""
    with opened(path, *forms, keys=keys) as source:
        batches = list(source.key_batches())
        return [pa.concat_arrays(column).to_pylist() for column in zip(*batches, strict=True)], source.columns.unfit


def convert(values: Sequence[str | None], form: str) -> list[str | None]:
    rows = pa.table({"id": pa.array(values, TEXT)})
    (texts,) = KeyColumns(["id"], [parse_form(form)]).texts(rows, lambda row: f"<{row}>", list)
    found: list[str | None] = texts.to_pylist()
    return found


# Places ------------------------------------------------------------------------------------------------------------


def test_lines_of_csv_with_quotes_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,x\n\n7,"two\nlines"\nno,1\n\n"no","a\n\nb"\n8.0,2\nno,""\n')
    (texts,), unfit = read(path, "integer")
    assert texts == ["7", None, None, "8", None]
    assert unfit == [Unfit(3, [5, 7, 11])]


def test_lines_of_csv_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 100)
    path = tmp_path / "in.csv"
    path.write_text("id\n" + "".join(f"{'no' if n % 10 == 3 else n}\n" for n in range(200)))
    assert read(path, "integer")[1] == [Unfit(20, [5, 15, 25, 35, 45])]


def test_lines_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps({'id': value})}\n\n" for value in ["a@b.de", 7, None, "", "A@B.de", "x"]))
    (texts,), unfit = read(path, "email")
    assert texts == ["a@b.de", None, None, "", "a@b.de", None]
    assert unfit == [Unfit(2, [3, 11])]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrows"])
def test_rows_of_columnar_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in.{suffix}"
    table = pa.table({"day": ["1.2.2024", "no", None, "2024-02-30"] * 30, "n": ["1", "2", "x", ""] * 30})
    if suffix == "parquet":
        pq.write_table(table, path, row_group_size=50)
    else:
        new = pa.ipc.new_file if suffix == "arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    (numbers, days), unfit = read(path, "digits", "date/DMY", keys=("n", "day"))
    assert numbers[:4] == ["1", "2", None, ""]
    assert days[:4] == ["2024-02-01", None, None, None]
    assert unfit == [Unfit(30, [3, 7, 11, 15, 19]), Unfit(60, [2, 4, 6, 8, 10])]


def test_types_have_the_form_of_their_text(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    days = pa.array([19_000, None], pa.date32())
    pq.write_table(pa.table({"n": pa.array([7, -7], pa.int64()), "day": days}), path)
    assert read(path, "integer", "date", keys=("n", "day"))[0] == [["7", "-7"], ["2022-01-08", None]]


def test_floats_stay_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": [7.0]}), path)
    with pytest.raises(ColumnError, match="whose values have no unique text form"):
        read(path, "integer")


def test_a_repeated_header_is_found_whatever_the_form(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,x\n1,2\nid,x\n")
    with pytest.raises(MalformedInputError, match=r"in\.csv:3: this row repeats the header"):
        read(path, "integer")


# Bad values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["trim", "lower", "email", "integer", "trim/sha256"])
def test_control_characters_are_trimmed_at_the_ends_only(form: str) -> None:
    value = {"email": "a@b.de", "integer": "7"}.get(form, "ab")
    (plain,) = convert([value], form)
    assert convert([f"\x00{value}\n", f" \t {value}\x7f\ufeff", "\r\n", None], form) == [plain, plain, "", None]
    with pytest.raises(ColumnError, match=r"^<1>: the key column 'id' contains a control character"):
        convert([value, f"{value[:1]}\x01{value[1:]} {value}"], form)


@pytest.mark.parametrize("form", ["text", "text/sha256"])
def test_text_is_not_trimmed(form: str) -> None:
    with pytest.raises(ColumnError, match=r"^<1>: .*control character"):
        convert(["a", "b\n"], form)


def test_the_limit_of_a_key_is_that_of_the_text_in_the_file() -> None:
    assert convert(["x" * 65536], "trim/sha256") != [None]
    with pytest.raises(ColumnError, match=r"^<1>: .* longer than 65,536 bytes"):
        convert(["x", " " * 65537], "trim")


# Warnings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "value", "kind", "advice"),
    [
        (Form("digits"), "x", "text with digits", "Correct the values."),
        (Form("integer"), "x", "a whole number", "Correct the values."),
        (Form("email", sha256=True), "x", "an e-mail address", "Correct the values."),
        (Form("email/plain"), "x", "an e-mail address", "Correct the values."),
        (Form("phone"), "x", "an international phone number", "Correct the values, or name the country of national"),
        (Form("phone", "DE"), "x", "a possible phone number", "Correct the values."),
        (Form("date"), "1/2/2024", "a date", "Correct the values, or name the order of day and month under"),
        (Form("date", "MDY"), "x", "a date", "Correct the values."),
        (Form("timestamp"), "x", "a time", "Correct the values."),
        (Form("uuid"), "x", "a UUID", "Correct the values."),
        (
            Form("email", sha256=True, hashed=True),
            "x",
            "the SHA-256 of a value in hexadecimal digits",
            "Correct the values.",
        ),
    ],
    ids=str,
)
def test_every_form_says_what_it_takes(form: Form, value: str, kind: str, advice: str) -> None:
    columns = KeyColumns(["id"], [form])
    columns.texts(pa.table({"id": pa.array(["", value], TEXT)}), str, list)
    (finding,) = unfit_findings(columns, 2, "line")
    have = f"1 of 2 rows has a value that is not {kind} (form {form}), in line 1; such a row matches nothing"
    assert finding.fault == f"'id': {have}"
    assert finding.advice.startswith(advice)


def test_a_warning_names_the_first_places() -> None:
    columns = KeyColumns(["a", "b"], [Form("integer"), Form()])
    values = pa.array(["no"] * 2000 + ["1"], TEXT)
    columns.texts(pa.table({"a": values, "b": values}), str, lambda rows: [1000 + row for row in rows])
    (finding,) = unfit_findings(columns, 2001, "row", whole=False)
    assert finding.fault == (
        "'a': 2,000 of the first 2,001 rows have a value that is not a whole number (form integer), first in rows "
        "1000, 1001, 1002, 1003, 1004; such a row matches nothing"
    )
