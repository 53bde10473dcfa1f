"""Every type of column, as a key and in every output: kept without a change, or refused before anything is sent."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.every_type import every_type, outcome, written
from support.tables import CSV, PARQUET, parsed

from psicli.core.errors import BadInputError
from psicli.items import kinds
from psicli.tables.values import plain_rows

# What pyarrow itself does not write as Parquet.
ABSENT = {"run_end_encoded", "union", "interval", "struct without fields", "decimal128(5, -2)"}
ABSENT |= {"timestamp[s] far away"}


def types_in_parquet() -> list[str]:
    def written(name: str) -> bool:
        try:
            pq.write_table(pa.table({"v": every_type()[name]}), io.BytesIO())
        except (pa.ArrowException, OSError):
            return False
        return True

    return [name for name in every_type() if written(name)]


NAMES = types_in_parquet()


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["1", "2", "3"], "v": every_type()[request.param]}), path)
    return path


def test_only_a_few_types_are_absent_here() -> None:
    assert {name for name in every_type() if "<" not in name} - set(NAMES) == ABSENT


def values(data: Any) -> list[Any]:
    """Return the values of column v in plain types, with times and dates as numbers."""
    (column,) = pq.read_table(data, columns=["v"]).columns
    batch = pa.record_batch([pa.concat_arrays(column.chunks)], names=["v"])
    plain = plain_rows(batch, "data").column(0).combine_chunks()
    plain = plain.dictionary_decode() if pa.types.is_dictionary(plain.type) else plain
    if pa.types.is_timestamp(plain.type) or pa.types.is_date32(plain.type):
        # Python's datetime does not have all values.
        return plain.view(pa.int64() if plain.type.bit_width == 64 else pa.int32()).to_pylist()
    numbers = kinds.with_types(pa.schema([("v", plain.type)]), kinds.as_numbers)
    found: list[Any] = kinds.relabelled(pa.record_batch([plain], names=["v"]), numbers).column(0).to_pylist()
    return found


@pytest.mark.sample(20)
@pytest.mark.parametrize("key", ["id", "v"])
def test_parquet_keeps_every_value_or_refuses_the_column(path: Path, key: str) -> None:
    data = outcome(path, PARQUET, key)
    if isinstance(data, BadInputError):
        assert data.code == 65
        assert "'v'" in data.message
        assert key == "v" or "list_view<" in data.message
        return
    found, expected = values(io.BytesIO(data)), values(path)
    # As a key, the column decides the order of the rows.
    assert found == expected if key == "id" else Counter(map(str, found)) == Counter(map(str, expected))
    before, after = (pq.read_schema(each).field("v") for each in (path, io.BytesIO(data)))
    assert after.type == kinds.kept(before.type)
    assert after.nullable == before.nullable


@pytest.mark.sample(20)
@pytest.mark.parametrize("key", ["id", "v"])
def test_csv_has_a_text_for_every_value_or_refuses_the_column(path: Path, key: str) -> None:
    data = outcome(path, CSV, key)
    if isinstance(data, BadInputError):
        assert data.code == 65
        assert "'v'" in data.message
        return
    rows = parsed(data, CSV)
    assert rows[0] == ["id", "v"]
    texts = dict(rows[1:])
    assert texts["2"] == ""
    if texts["1"] or texts["3"]:
        assert all(texts[number] and "<" not in texts[number] for number in "13")


def test_nested_types_are_refused_by_name_before_csv(tmp_path: Path) -> None:
    for name in NAMES:
        if "<" in name:
            pq.write_table(pa.table({"id": [*"123"], "v": every_type()[name]}), tmp_path / "in.parquet")
            with pytest.raises(BadInputError, match="column 'v'"):
                written(tmp_path / "in.parquet", CSV, "id")


def test_a_later_row_that_cannot_be_kept_is_found_before_the_exchange(tmp_path: Path) -> None:
    pair = pa.list_(pa.field("element", pa.int32(), nullable=False), 2)
    kind = pa.struct([("word", pa.dictionary(pa.int8(), pa.string())), ("pair", pair)])
    rows = [{"word": "x", "pair": [1, 2]}, {"word": "y", "pair": [3, 4]}, {"word": "z", "pair": None}]
    pq.write_table(pa.table({"id": [*"123"], "v": pa.array(rows, kind)}), tmp_path / "in.parquet")
    data = outcome(tmp_path / "in.parquet", PARQUET, "id")
    assert isinstance(data, BadInputError)
    assert "column 'v'" in data.message


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("key", ["id", "v"])
def test_a_dictionary_without_rows_is_kept(tmp_path: Path, key: str, ordered: bool) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), pa.array(["z", "a"]), ordered=ordered)
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "v": words}), tmp_path / "in.parquet")
    data = written(tmp_path / "in.parquet", PARQUET, key, rows=0)
    assert pq.read_table(io.BytesIO(data)).num_rows == 0
    assert pq.read_schema(io.BytesIO(data)).field("v").type.ordered == ordered
