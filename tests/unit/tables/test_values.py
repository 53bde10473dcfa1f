"""Values and files that a library accepts, or breaks down on, are refused with a sentence before the exchange."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from support.tables import CSV, PARQUET, Source, parsed, refuse, write

from psicli import tables
from psicli.core.errors import ColumnError, InputMissingError, MalformedInputError
from psicli.items.text import canonical_text

# Its footer says five rows, and its only column has three values.
FEWER_VALUES = b64decode(
    "UEFSMRUAFSoVKiwVBhUAFQYVBhwAAAACAAAABgEBAAAAMQEAAAAyAQAAADMVABU8FTwsFQYVABUGFQYcAAAAAgAAAAYBAAAAAAAA"
    "AAABAAAAAAAAAAIAAAAAAAAAFQQZPDUAGAZzY2hlbWEVBAAVDCUCGAJpZCUATBwAAAAVBCUCGAF2ABYKGRwZLCYAHBUMGSUGABkY"
    "AmlkFQAWBhZQFlAmCEkcFQAVABUCADwWBhkGGSYABgAAACYAHBUEGSUGABkYAXYVABYGFmIWYiZYSRwVABUAFQIAPCkGGSYABgAA"
    "ABayARYKJggWsgEAKCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI2LjAuMRksHAAAHAAAALsAAABQQVIx"
)


def texts(values: list[int | None], stored: pa.DataType, kind: pa.DataType) -> list[str | None]:
    found: list[str | None] = canonical_text(pa.array(values, stored).view(kind)).to_pylist()
    return found


def test_every_date_has_a_text() -> None:
    days = [0, None, -719_528, -719_529, 2_932_897, 2**31 - 1, -(2**31), 20_000_000]
    expected = ["1970-01-01", None, "0000-01-01", "-0001-12-31", "10000-01-01", "5881580-07-11", "-5877641-06-23"]
    assert texts(days, pa.int32(), pa.date32()) == [*expected, "56728-02-22"]


def test_every_timestamp_has_a_text() -> None:
    most, least = 2**63 - 1, -(2**63)
    assert texts([most, None, least], pa.int64(), pa.timestamp("us", "UTC")) == [
        "294247-01-10T04:00:54.775807Z",
        None,
        "-290308-12-21T19:59:05.224192Z",
    ]
    assert texts([most], pa.int64(), pa.timestamp("s")) == ["292277026596-12-04T15:30:07"]
    assert texts([most - 807], pa.int64(), pa.timestamp("ms")) == ["292278994-08-17T07:12:55"]


def test_every_time_has_a_text() -> None:
    assert texts([86_400_000_000, 0, -1, 1_500_000], pa.int64(), pa.time64("us")) == [
        "24:00:00",
        "00:00:00",
        "-00:00:00.000001",
        "00:00:01.5",
    ]
    assert texts([90_000], pa.int32(), pa.time32("s")) == ["25:00:00"]


def test_the_texts_of_uuids() -> None:
    whole = pa.array([bytes(range(16)), None, b"\xff" * 16], pa.uuid())
    expected = ["00010203-0405-0607-0809-0a0b0c0d0e0f", None, "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    assert canonical_text(whole).to_pylist() == expected
    assert canonical_text(whole.slice(1)).to_pylist() == expected[1:]
    assert canonical_text(pa.chunked_array([whole.slice(2), whole.slice(0, 1)])).to_pylist() == [
        expected[2],
        expected[0],
    ]
    assert canonical_text(pa.nulls(2, pa.uuid())).to_pylist() == [None, None]


def test_fewer_values_than_rows_are_refused(tmp_path: Path) -> None:
    message = refuse(MalformedInputError, tmp_path, FEWER_VALUES, fmt=PARQUET)
    assert message == "in.file, row group 1: it holds 3 rows, but the file says 5"


# INT96 ---------------------------------------------------------------------------------------------------------------


def int96(folder: Path, table: pa.Table) -> Path:
    path = folder / "in.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    return path


YEAR_9999 = 253_402_214_400_000_000
LAST_DAY = "9999-12-31T00:00:00"


def test_far_int96_timestamps_are_true(tmp_path: Path) -> None:
    when = pa.array([YEAR_9999, 0, None], pa.int64()).cast(pa.timestamp("us"))
    path = int96(tmp_path, pa.table({"id": [*"abc"], "when": when}))
    source = Source(path, PARQUET, ["id"])
    assert parsed(write(source, CSV), CSV)[1:] == [
        ["a", LAST_DAY],
        ["b", "1970-01-01T00:00:00"],
        ["c", ""],
    ]
    assert source.input.schema.field("when").type == pa.timestamp("us")
    assert Source(path, PARQUET, ["when"]).key_texts[0].to_pylist() == [
        LAST_DAY,
        "1970-01-01T00:00:00",
        None,
    ]


def test_near_int96_timestamps_keep_their_nanoseconds(tmp_path: Path) -> None:
    path = int96(tmp_path, pa.table({"id": ["a"], "when": pa.array([1], pa.timestamp("ns"))}))
    source = Source(path, PARQUET, ["id"])
    assert source.input.schema.field("when").type == pa.timestamp("ns")
    assert parsed(write(source, CSV), CSV)[1:] == [["a", "1970-01-01T00:00:00.000000001"]]


def test_far_int96_timestamps_beside_nanoseconds_are_refused(tmp_path: Path) -> None:
    far = pa.array([YEAR_9999], pa.int64()).cast(pa.timestamp("us"))
    path = int96(tmp_path, pa.table({"id": ["a"], "far": far, "near": pa.array([1], pa.timestamp("ns"))}))
    with pytest.raises(ColumnError, match="INT96"):
        Source(path, PARQUET, ["id"])
    # A party without an output reads only its key.
    assert Source(path, PARQUET, ["far"], output=None).key_texts[0].to_pylist() == [LAST_DAY]


def test_int96_timestamps_in_a_column_whose_name_has_dots(tmp_path: Path) -> None:
    when = pa.array([YEAR_9999], pa.int64()).cast(pa.timestamp("us"))
    path = int96(tmp_path, pa.table({"id": ["a"], "a.b": when}))
    assert parsed(write(Source(path, PARQUET, ["id"]), CSV), CSV)[1:] == [["a", LAST_DAY]]
    assert Source(path, PARQUET, ["a.b"], output=None).key_texts[0].to_pylist() == [LAST_DAY]


# Encryption ----------------------------------------------------------------------------------------------------------


class Keys(pe.KmsClient):
    """Wraps keys in plain sight."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes.hex().encode()

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return bytes.fromhex(wrapped_key.decode())


def encrypted(folder: Path, rows: int) -> Path:
    """Write a file whose column `salary` is encrypted, and whose footer is not."""
    table = pa.table({"id": [str(row) for row in range(rows)], "salary": pa.array(range(rows), pa.int64())})
    settings = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"salary": ["salary"]}, plaintext_footer=True, cache_lifetime=timedelta(1)
    )
    properties = pe.CryptoFactory(Keys).file_encryption_properties(pe.KmsConnectionConfig(), settings)
    path = folder / "in.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties, use_dictionary=False) as writer:
        writer.write_table(table)
    return path


@pytest.mark.sample(1)
@pytest.mark.parametrize("rows", [3, 1_500_000])
def test_an_encrypted_column_is_refused_by_name_and_never_read_by_a_sender(tmp_path: Path, rows: int) -> None:
    path = encrypted(tmp_path, rows)
    attempts: list[Callable[[], object]] = [
        lambda: tables.check_input(path, PARQUET, ["id"], output=PARQUET),
        lambda: Source(path, PARQUET, ["id"]),
        lambda: Source(path, PARQUET, ["salary"], output=None),
    ]
    for attempt in attempts:
        with pytest.raises(MalformedInputError, match="column 'salary': it is encrypted"):
            attempt()
    tables.check_input(path, PARQUET, ["id"])
    assert Source(path, PARQUET, ["id"], output=None).rows == rows


# Other damage --------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"], "note": ["x"]}), sink, store_schema=False)
    content = sink.getvalue().replace(b"note", b"n\xffte")
    assert refuse(MalformedInputError, tmp_path, content, fmt=PARQUET) == (
        "in.file: the name of a column is not UTF-8 text"
    )


@pytest.mark.parametrize("column", [pa.array([b"\xff"]), pa.array([{"f\0g": b"\xff"}])])
def test_a_name_with_nul_is_refused(tmp_path: Path, column: pa.Array) -> None:
    name = "b\0c" if pa.types.is_binary(column.type) else "v"
    table = pa.table({"id": ["a"], "at": pa.array([1], pa.time32("s")), name: column})
    assert refuse(MalformedInputError, tmp_path, table) == "in.file: a name in the schema contains U+0000"


def test_a_file_without_columns_is_refused(tmp_path: Path) -> None:
    message = refuse(InputMissingError, tmp_path, pa.table({}))
    assert message == "in.file: there is no column 'id'; the file has no columns"


def test_a_decimal_with_more_digits_than_its_type_is_refused(tmp_path: Path) -> None:
    wide = pa.Array.from_buffers(
        pa.decimal128(5, 2), 2, [None, pa.array([1, 10**8], pa.decimal128(38, 0)).buffers()[1]]
    )
    pq.write_table(pa.table({"id": [*"ab"], "v": wide}), tmp_path / "in", store_decimal_as_integer=True)
    for keys in (["id"], ["v"]):
        with pytest.raises(MalformedInputError, match=r"row 2, column 'v': .* more digits"):
            Source(tmp_path / "in", PARQUET, keys)


def test_bytes_that_are_not_text_are_kept_in_parquet_only(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "v": [b"\xc3\xa4", b"\xff"]}), tmp_path / "in")
    assert Source(tmp_path / "in", PARQUET, ["id"]).rows == 2
    for keys, output in ((["id"], CSV), (["v"], None)):
        with pytest.raises(ColumnError, match="row 2, column 'v': the value is not UTF-8 text"):
            Source(tmp_path / "in", PARQUET, keys, output=output)
