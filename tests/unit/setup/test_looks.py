"""What `psicli init` finds out about a file: how it is written, and its columns."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from psicli.core.errors import BadInputError, InputMissingError
from psicli.core.formats import Dialect
from psicli.setup import looks
from psicli.setup.looks import described, read_table

MAILS = [f"person.{number}@example.com" for number in range(20)]
TABLE = pa.table({"mail": MAILS, "id": range(20), "tags": [["a"]] * 20, "share": [0.5] * 20})


def test_typed_files_and_json_lines(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(TABLE, str(tmp_path / "a.arrow"), compression="uncompressed")
    lines = "".join(json.dumps(row) + "\n" for row in TABLE.to_pylist())
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.parquet", "a.arrow", "a.jsonl", "a.jsonl.gz"):
        table = read_table(tmp_path / name)
        # Lists and floating-point numbers can be no keys.
        assert {column.name: column.look for column in table.columns.values()} == {
            "mail": looks.EMAIL,
            "id": looks.INTEGER,
        }
        assert not described(table)


@pytest.mark.parametrize(
    ("content", "dialect", "said"),
    [
        (b"id,mail\n1,a@b.de\n", Dialect(), ""),
        (b"id;mail\n1;a@b.de\n", Dialect(delimiter=";"), "its delimiter is ';'"),
        (b"id\tmail\n1\ta@b.de\n", Dialect(delimiter="\t"), "its delimiter is a tab"),
        (b"id|mail\n1|a@b.de\n", Dialect(delimiter="|"), "its delimiter is '|'"),
        ("id;mail\nM\u00fcller;a@b.de\n".encode("cp1252"), Dialect(";", "cp1252"), "its encoding is cp1252"),
        ("id,mail\n1,a@b.de\n".encode("utf-16"), Dialect(encoding="utf-16-le"), "its encoding is utf-16"),
        (b"1,a@b.de\n2,c@d.de\n", Dialect(header=False), "it has no header"),
        (b"1\n2\n", Dialect(header=False), "its columns are called 1, 2 and so on"),
        (b"only\nc-1\n", Dialect(), ""),
        (b"id,2024-01-01,2024-02-01,2023\nx,1,2,3\n", Dialect(), ""),
        (b"1,2024-01-01\n2,2024-01-02\n", Dialect(header=False), "it has no header"),
        (b"", None, "the file is empty"),
        (b"id,id\n1,2\n", None, "the column name 'id' appears more than once"),
        (b"id,mail\n1\n", None, "the row has 1 field, but the header has 2"),
    ],
)
def test_how_a_csv_file_is_written(tmp_path: Path, content: bytes, dialect: Dialect | None, said: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    if dialect is None:
        with pytest.raises(BadInputError) as refused:
            read_table(path)
        assert said in refused.value.message
        return
    table = read_table(path)
    found = table.format.dialect
    if dialect.encoding.startswith("utf-16"):
        found = found._replace(encoding="utf-16-le" if found.encoding.startswith("utf-16") else found.encoding)
    assert found == dialect
    assert said in described(table)
    assert table.columns


def test_a_missing_file_has_advice_without_a_job_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError) as missing:
        read_table(tmp_path / "in.csv")
    assert missing.value.advice == "Check the path; a relative path starts at the current folder."


def test_only_the_first_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id\n" + "".join(f"c-{number}\n" for number in range(looks.SAMPLED_ROWS + 500)))
    (column,) = read_table(path).columns.values()
    assert column.rows == len(column.texts) == looks.SAMPLED_ROWS


def test_a_file_without_rows_has_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,mail\n")
    assert [(column.rows, column.look) for column in read_table(path).columns.values()] == [(0, looks.TEXT)] * 2


@pytest.mark.parametrize("place", ["exports", "in/*.csv", "s3:/crm/a.csv", "duckdb:crm.duckdb"])
def test_what_is_no_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    with pytest.raises(InputMissingError, match="`psicli init` looks into one file of this machine"):
        read_table(Path(place))
