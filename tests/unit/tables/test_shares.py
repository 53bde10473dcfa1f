"""Tests that an input read in shares is as one that was read as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psicli import tables
from psicli.core.errors import BadInputError, InputMissingError
from psicli.core.formats import Dialect, file_format
from psicli.items.forms.columns import Unfit
from psicli.items.forms.names import Form
from psicli.tables import Divisible, Share, delimited, jsonl
from psicli.tables.arrow import ArrowInput

Opening = Callable[[], Divisible]
AMPLE = 1 << 30
UNQUOTED = Dialect(quotes=False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some shares have several blocks."""
    for module in (delimited, jsonl):
        monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)


def opening(
    path: Path, *keys: str, dialect: Dialect = UNQUOTED, output: str | None = None, forms: Sequence[Form] = ()
) -> Opening:
    def opened() -> Divisible:
        target = None if output is None else file_format(output)
        more: dict[str, Any] = {"forms": forms, "output": target, "name": path.name}
        found = tables.open_input(path, file_format(path, dialect), keys or ("id",), **more)
        assert not isinstance(found, ArrowInput)
        return found

    return opened


def text_file(folder: Path, name: str, content: bytes, *keys: str, **more: Any) -> Opening:
    path = folder / name
    path.write_bytes(content)
    return opening(path, *keys, **more)


def parquet_file(folder: Path, table: Any, *keys: str, rows: int = 100, output: str = "x.csv", **more: Any) -> Opening:
    path = folder / "in.parquet"
    pq.write_table(table, path, row_group_size=rows, **more)
    return opening(path, *keys, output=output)


def read(source: Divisible, share: Share | None = None) -> list[list[str | None]]:
    """Return the key texts of all rows, a list for each key column."""
    batches = list(source.key_batches(share))
    return [[text for batch in batches for text in batch[at].to_pylist()] for at in range(len(source.keys))]


def check(opened: Opening, size: int) -> int:
    """Compare both ways to read; return the number of shares."""
    with opened() as whole, opened() as joined:
        expected = read(whole)
        shares, parts = joined.shares(size), []
        assert all(one.stop == other.start for one, other in pairwise(shares))
        found: list[list[str | None]] = [[] for _ in expected]
        for share in shares:
            with opened() as source:
                for column, texts in zip(found, read(source, share), strict=True):
                    column += texts
                parts.append(source.part())
        joined.join(parts)
        assert found == expected
        assert (joined.rows, joined.schema) == (whole.rows, whole.schema)
        assert joined.columns.unfit == whole.columns.unfit
        if hasattr(whole, "_blocks"):
            assert joined._next_line == whole._next_line
            for source in (whole, joined):
                assert all(one.start + one.size <= other.start for one, other in pairwise(source._blocks))
        for every in (1, 3, whole.rows + 1):
            mask = pa.array(np.arange(whole.rows) % every == every // 2)
            assert matched(joined, mask).equals(matched(whole, mask))
        return len(shares)


def matched(source: Divisible, mask: Any) -> Any:
    return pa.concat_tables([*source.matched(mask, AMPLE)] or [pa.table({})])


LETTERS = [b"\xc3\xa9" * (number % 13) for number in range(300)]
LINES = [b'{"id":"%d","no %d":[%d,"\\u00e9"],"x":"%s"}' % (n % 50, n % 9, n, each) for n, each in enumerate(LETTERS)]
ROWS = [b'%d,"%s,%d' % (n % 50, each, n) for n, each in enumerate(LETTERS)]
SIZES = [1, 300, 5000]


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("output", ["x.csv", "x.jsonl", None])
def test_json_lines(tmp_path: Path, size: int, output: str | None) -> None:
    data = b"\xef\xbb\xbf" + b"\r\n".join(LINES[:100]) + b"\n\n \n" + b"\n".join(LINES[100:])
    assert 1 < check(text_file(tmp_path, "in.jsonl", data, output=output), size) <= len(data) // size + 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("header", "keys"), [(b"\xef\xbb\xbfid,x,n\n", ["id", "n"]), (b"\n\nid,x,n\r\n", ["n"]), (b"", ["1"])]
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r\n\r\n"])
def test_csv_without_quotes(tmp_path: Path, size: int, header: bytes, keys: list[str], line_end: bytes) -> None:
    """Also with empty lines, and with single CRs as line ends between others."""
    data = header + line_end.join(ROWS[:100]) + b"\r" + line_end.join(ROWS[100:])
    dialect = UNQUOTED._replace(header=bool(header), null_values=("7",))
    assert check(text_file(tmp_path, "in.csv", data, *keys, dialect=dialect), size) > 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [1, 3000, 10_000])
@pytest.mark.parametrize("output", ["x.csv", "x.parquet"])
def test_parquet(tmp_path: Path, size: int, output: str) -> None:
    """Many columns are read in shares of columns; timestamps in INT96 get the unit that fits all row groups."""
    numbers = np.arange(1050)
    table = pa.table(
        {"id": pa.array(numbers % 99, pa.int64(), mask=numbers % 7 == 0), "text": [f"é{n}" for n in numbers]}
    )
    table = table.append_column("at", pa.array(numbers * 10**15, pa.timestamp("us")))
    for column in range(20):
        table = table.append_column(f"c{column}", pa.array(numbers + column))
    opened = parquet_file(tmp_path, table, "id", "text", output=output, use_deprecated_int96_timestamps=True)
    assert 1 < check(opened, size) <= 11


@pytest.mark.sample(3)
@pytest.mark.parametrize("size", [300, 1, 2000])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_values_that_a_form_cannot_take_are_counted_across_shares(tmp_path: Path, size: int, suffix: str) -> None:
    """Empty lines count, too; in Parquet, the numbers are those of rows."""
    values = ["no" if n % 97 == 50 else str(n) for n in range(700)]
    path = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"id": values}), path, row_group_size=100)
        numbers = [n + 1 for n in range(700) if n % 97 == 50]
    elif suffix == "jsonl":
        path.write_text("".join(f'{{"id":"{value}"}}\n\n' for value in values))
        numbers = [2 * n + 1 for n in range(700) if n % 97 == 50]
    else:
        path.write_text("\nid,x\n\n" + "".join(f"{value},\n\n" for value in values))
        numbers = [2 * n + 4 for n in range(700) if n % 97 == 50]
    opened = opening(path, forms=[Form("integer")])
    assert check(opened, size) > 1
    with opened() as source:
        assert read(source)[0].count(None) == 7
        assert source.columns.unfit == [Unfit(7, numbers[:5])]


def test_what_cannot_be_cut_has_no_shares(tmp_path: Path) -> None:
    csv, long = b"id,x\n" + b"1,2\n" * 9, b"id,x\n" + b"1," + b"x" * 300_000 + b"\n2,3"
    with text_file(tmp_path, "a.csv", csv)() as source:
        assert len(source.shares(8)) > 1
    for name, data, dialect in (
        ("b.csv", csv, UNQUOTED._replace(quotes=True)),
        ("c.csv", csv.decode().encode("utf-16"), UNQUOTED._replace(encoding="utf-16")),
        ("d.csv", csv.replace(b"\n", b"\r"), UNQUOTED),
        ("e.csv", long, UNQUOTED),
    ):
        with text_file(tmp_path, name, data, dialect=dialect)() as source:
            assert len(source.shares(8)) < 2
    with text_file(tmp_path, "f.csv", b"id\n")() as source:
        assert len(source.shares(8)) < 2


def test_only_all_shares_together_have_every_column(tmp_path: Path) -> None:
    opened = text_file(tmp_path, "in.jsonl", b'{"id":1}\n{"no":2}\n{"id":1}\n', "id", "no")
    assert check(opened, 1) == 3
    with opened() as source, opened() as first:
        read(first, source.shares(1)[0])
        with pytest.raises(InputMissingError, match="no column 'no'"):
            source.join([first.part()])


def test_too_many_names_are_found_when_shares_are_joined(tmp_path: Path) -> None:
    lines = b"\n".join(b'{"id":1,"%d":1}' % n for n in range(10_001))
    opened = text_file(tmp_path, "in.jsonl", lines, output="x.csv")
    with opened() as source:
        parts = []
        for share in source.shares(len(lines) // 3):
            with opened() as other:
                read(other, share)
                parts.append(other.part())
        with pytest.raises(BadInputError, match="too many for columns"):
            source.join(parts)


@pytest.mark.parametrize(
    ("name", "line"), [("in.csv", b"7,8,9"), ("in.csv", b"7,\xff"), ("in.jsonl", b'{"id":1.5}'), ("in.jsonl", b"[]")]
)
def test_the_share_with_an_error_raises_it(tmp_path: Path, name: str, line: bytes) -> None:
    row = b"1,2\n" if name == "in.csv" else b'{"id":1}\n'
    opened = text_file(tmp_path, name, (b"id,x\n" if name == "in.csv" else b"") + row * 50 + line + b"\n" + row * 50)
    with opened() as source:
        failed = 0
        for share in source.shares(100):
            with opened() as other:
                try:
                    read(other, share)
                except BadInputError:
                    failed += 1
        assert failed == 1
