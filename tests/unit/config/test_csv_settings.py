"""The settings for CSV files in a job file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.job_files import SMALL, TASK, Errors, Load

from psicli.config.schema import job_schema
from psicli.core.formats import Dialect

JOB = SMALL + TASK


def with_csv(settings: str) -> str:
    return f"{JOB}csv: {settings}\n"


def dialect(load: Load, settings: str) -> Dialect:
    return load(with_csv(settings)).tasks[0].input.dialect


def test_csv_settings_apply_to_inputs_and_outputs(load: Load) -> None:
    settings = r'{delimiter: ";", encoding: CP1252, header: false, null_values: [NULL, "\\N", ""], quotes: false}'
    (task,) = load(with_csv(settings)).tasks
    assert task.input.dialect == Dialect(";", "cp1252", False, ("NULL", "\\N", ""), False)
    assert task.output_format is not None
    assert task.output_format.dialect == task.input.dialect
    assert load(JOB).tasks[0].input.dialect == Dialect()


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [("tab", "\t"), (r'"\t"', "\t"), (r"\t", "\t"), ('"|"', "|"), ('" "', " "), ('","', ","), ("';'", ";"), ("^", "^")],
)
def test_delimiters(load: Load, text: str, delimiter: str) -> None:
    assert dialect(load, f"{{delimiter: {text}}}").delimiter == delimiter


@pytest.mark.parametrize(
    "text", ['"\\""', '"\'"', "a", "7", "é", '";;"', '""', '"\\n"', '"\\r"', "tabs", '"§"', '"\\x01"']
)
def test_other_delimiters_are_refused(errors: Errors, text: str) -> None:
    (line,) = errors(with_csv(f"{{delimiter: {text}}}"))
    assert "csv.delimiter: " in line


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("UTF8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("latin-1", "iso8859-1"),
        ("windows-1252", "cp1252"),
        ("UTF-16LE", "utf-16-le"),
        ("gbk", "gbk"),
        ("Shift_JIS", "shift_jis"),
    ],
)
def test_encodings(load: Load, text: str, encoding: str) -> None:
    assert dialect(load, f"{{encoding: {text}}}").encoding == encoding


WRONG_ENCODINGS = [
    *("hex", "rot13", "zip", "base64", "bz2", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"),
    *("utf-9", "''", "ansi", "a/../b", '"é"', "x" * 65, "UTF-8 BOM"),
]


@pytest.mark.parametrize("text", WRONG_ENCODINGS)
def test_other_encodings_are_refused(errors: Errors, text: str) -> None:
    (line,) = errors(with_csv(f"{{encoding: {text}}}"))
    assert "csv.encoding: " in line
    assert "such as utf-8, cp1252" in line


def test_a_task_overrides_settings_field_by_field(load: Load) -> None:
    text = with_csv('{delimiter: ";", null_values: [NA]}').replace(
        "  - name: t\n", '  - name: t\n    csv: {encoding: cp1252, null_values: [], delimiter: ","}\n'
    )
    assert load(text).tasks[0].input.dialect == Dialect(",", "cp1252", True, (), True)
    text = text.replace(', delimiter: ","', "")
    assert load(text).tasks[0].input.dialect == Dialect(";", "cp1252", True, (), True)


def test_all_errors_have_their_line(errors: Errors) -> None:
    line = with_csv("x").count("\n")
    text = with_csv("")[:-1] + (
        "\n  delimiter: ab\n  encoding: hex\n  header: maybe\n  null_values: NULL\n  quotes: 1\n  quote: x\n"
    )
    found = [re.sub(r";.*", "", each) for each in errors(text)]
    assert found == [
        f"{line + 1}: csv.delimiter: 'ab' is not a delimiter",
        f"{line + 2}: csv.encoding: 'hex' is not an encoding that psicli knows",
        f"{line + 3}: csv.header: 'maybe' is neither true nor false",
        f"{line + 4}: csv.null_values: is the text 'NULL'",
        f"{line + 5}: csv.quotes: '1' is neither true nor false",
        f"{line + 6}: csv.quote: unknown field",
    ]


@pytest.mark.parametrize("values", [["x"] * 101, ["x" * 101]])
def test_null_values_have_limits(errors: Errors, values: list[str]) -> None:
    (line,) = errors(with_csv(f"{{null_values: [{', '.join(values)}]}}"))
    assert "csv.null_values: " in line
    assert "at most 100" in line


def test_the_schema_allows_what_psicli_allows(tmp_path: Path) -> None:
    fields = job_schema()["$defs"]["CsvSettings"]["properties"]
    assert sorted(fields) == ["delimiter", "encoding", "header", "null_values", "quotes"]
    pattern = fields["delimiter"]["pattern"]
    for delimiter in (";", "\t", "tab", "\\t", "|", "]", "\\", " ", "~"):
        assert re.search(pattern, delimiter)
    for delimiter in ("a", "Z", "0", '"', "'", "\n", ";;", "", "é", "\x7f"):
        assert not re.search(pattern, delimiter)
