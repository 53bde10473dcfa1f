"""Tests of recognising files that are not what their names say."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import (
    ARROW,
    CSV,
    CSV_GZ,
    CSV_ZST,
    JSONL,
    PARQUET,
    TEXT_FORMATS,
    TSV,
    Source,
    compressed,
    name_of,
    read,
)

from psicli import tables
from psicli.core.errors import MalformedInputError
from psicli.core.formats import Dialect, FileFormat
from psicli.tables.sniff import HEAD_BYTES, mismatch

TEXT = "id,näme\r\n1,x\r\n2,y\r\n"
ROWS = TEXT.encode()
TABLE = pa.table({"id": ["1", "2"]})


def encoded(encoding: str) -> FileFormat:
    return CSV._replace(dialect=Dialect(encoding=encoding))


def made(write: Callable[[io.BytesIO], Any]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def zipped(*names: str, content: str = "x") -> bytes:
    def write(sink: io.BytesIO) -> None:
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)

    return made(write)


def tarred(sink: io.BytesIO) -> None:
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("in.csv"))


def arrow(writer: Any) -> bytes:
    return made(lambda sink: writer(sink, TABLE.schema).close())


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id)")
    return connection.serialize()


OLD_EXCEL = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)
ODS = zipped("mimetype", content="x") + b"application/vnd.oasis.opendocument.spreadsheet"
PARQUET_FILE = made(lambda sink: pq.write_table(TABLE, sink))
ARROW_FILE, ARROW_STREAM = arrow(pa.ipc.new_file), arrow(pa.ipc.new_stream)
GZIP, ZSTD = gzip.compress(ROWS), pa.compress(ROWS, "zstd", asbytes=True)

# A file, the format of its name, and what the message and the advice say.
MISTAKEN: dict[str, tuple[bytes, FileFormat, str, str]] = {
    "gzip": (GZIP, CSV, "the file is gzip data, not CSV", "ends in .csv.gz, or decompress it with `gunzip`"),
    "gzip in tsv": (GZIP, TSV, "gzip data, not TSV", "ends in .tsv.gz,"),
    "gzip in zst": (GZIP, CSV_ZST, "gzip data, not zstd data", "ends in .csv.gz,"),
    "gzip in parquet": (GZIP, PARQUET, "gzip data, not Parquet", "Decompress it with `gunzip`."),
    "zstd": (ZSTD, CSV, "zstd data, not CSV", "ends in .csv.zst, or decompress it with `zstd -d`"),
    "zstd in gz": (ZSTD, CSV_GZ, "zstd data, not gzip data", "ends in .csv.zst,"),
    "text in gz": (ROWS, CSV_GZ, "the file is plain text, not gzip data", "ends in .csv."),
    "text in zst": (ROWS, CSV_ZST, "the file is plain text, not zstd data", "ends in .csv."),
    "text in parquet": (ROWS, PARQUET, "the file is plain text, not Parquet", "ends in .csv or .tsv."),
    "noise in gz": (b"\0\1\2\3" * 99, CSV_GZ, "the file is not gzip data", "right file"),
    "twice gzip": (gzip.compress(GZIP), CSV_GZ, "the decompressed data is gzip data", "Decompress it once"),
    "parquet": (PARQUET_FILE, CSV, "a Parquet file, not CSV", "ends in .parquet,"),
    "zeros": (bytes(5000), CSV, "the file is all zero bytes, not CSV", "Make or copy it again"),
    "zeros in parquet": (bytes(5000), PARQUET, "the file is all zero bytes, not Parquet", "Make or copy it again"),
    "parquet in gz": (gzip.compress(PARQUET_FILE), CSV_GZ, "the decompressed data is a Parquet file", ".parquet."),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), CSV, "an Excel workbook", "CSV UTF-8"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), CSV, "an Office document", "Export the table"),
    "xlsx in parquet": (zipped("docProps/app.xml"), PARQUET, "an Excel workbook, not Parquet", "CSV UTF-8"),
    "xls": (OLD_EXCEL, CSV, "an old Excel workbook", "CSV UTF-8"),
    "ods": (ODS, CSV, "a LibreOffice spreadsheet", "CSV UTF-8"),
    "zip": (zipped("in.csv"), CSV, "a zip archive", "Extract"),
    "tar.gz": (gzip.compress(made(tarred)), CSV_GZ, "the decompressed data is a tar archive", "Extract"),
    "7z": (bytes.fromhex("377abcaf271c0004"), CSV, "a 7z archive", "Extract"),
    "bzip2": (bz2.compress(ROWS), CSV, "bzip2 data", "Decompress it, or"),
    "xz": (lzma.compress(ROWS), TSV, "xz data", "Decompress it, or"),
    "lz4": (pa.compress(ROWS, "lz4", asbytes=True), CSV, "lz4 data", "Decompress it, or"),
    "snappy": (b"\xff\x06\0\0sNaPpY\x01", CSV, "snappy data", "Decompress it, or"),
    "arrow": (ARROW_FILE, CSV, "an Arrow file, not CSV", "ends in .arrow,"),
    "arrow stream": (ARROW_STREAM, PARQUET, "an Arrow stream, not Parquet", "ends in .arrows,"),
    "orc": (made(lambda sink: orc.write_table(TABLE, sink)), CSV, "an ORC file", "CSV or Parquet"),
    "avro": (b"Obj\x01\x04\x14avro.codec", CSV, "an Avro file", "CSV or Parquet"),
    "sqlite": (database(), CSV, "an SQLite database", "Export"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", CSV, "a PDF document", "Export"),
    "html": (b"\r\n<!DOCTYPE html>\n<html>", CSV, "an HTML page", "sign-in page"),
    "html in gz": (gzip.compress(b"<html><body>"), CSV_GZ, "the decompressed data is an HTML page", "sign-in page"),
    "xml": (b"\xef\xbb\xbf<?xml version='1.0'?>", PARQUET, "XML, not Parquet", "a server"),
    "pgp": (b"-----BEGIN PGP MESSAGE-----\n", CSV, "PGP data", "Decrypt"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", PARQUET, "a Git LFS pointer, not Parquet", "git lfs pull"),
    "gzip in jsonl": (GZIP, JSONL, "gzip data, not JSONL", "ends in .jsonl.gz,"),
    "html in jsonl": (b"<html>", JSONL, "an HTML page, not JSONL", "sign-in page"),
    "utf-16 in jsonl": ('{"id":1}'.encode("utf-16"), JSONL, "UTF-16 text, not UTF-8", "Convert it with `iconv"),
    "gzip in arrow": (GZIP, ARROW, "gzip data, not Arrow", "Decompress it with `gunzip`."),
    "parquet in arrow": (PARQUET_FILE, ARROW, "a Parquet file, not Arrow", "ends in .parquet,"),
    "text in arrow": (ROWS, ARROW, "plain text, not Arrow", "ends in .csv or .tsv."),
    "old feather": (b"FEA1\0", ARROW, "an old Feather file, not Arrow", "CSV or Parquet"),
    "noise": (random.Random(7).randbytes(500), CSV, "the file is binary data, not CSV", "not encrypted"),
    "json lines": (b'{"id": 1}\n{"id": 2}\n', CSV, "JSON, not CSV", "ends in .jsonl, or convert it to CSV or Parquet"),
    "json": (b'[\n  {"id": 1}\n]', PARQUET, "JSON, not Parquet", "CSV or Parquet"),
    "utf-16": (TEXT.encode("utf-16"), CSV, "UTF-16 text, not UTF-8", "`iconv -f UTF-16 -t UTF-8`"),
    "utf-16 le": (TEXT.encode("utf-16-le"), CSV, "UTF-16LE text", "`csv.encoding: utf-16-le`"),
    "utf-16 be": (TEXT.encode("utf-16-be"), TSV, "UTF-16BE text", "`csv.encoding: utf-16-be`"),
    "utf-16 chinese": ("姓名,身份证号\n张三,1\n".encode("utf-16-le"), CSV, "UTF-16LE text", "utf-16-le"),
    "utf-32": (TEXT.encode("utf-32"), CSV, "UTF-32 text", "`csv.encoding: utf-32`"),
    "utf-32 le": (TEXT.encode("utf-32-le"), CSV, "UTF-32LE text", "`csv.encoding: utf-32-le`"),
    "utf-16 in gz": (gzip.compress(TEXT.encode("utf-16")), CSV_GZ, "the decompressed data is UTF-16", "utf-16"),
    "utf-8": (ROWS, encoded("utf-16"), "UTF-8 text, not UTF-16", "Remove"),
    "utf-8 as cp1252": (b"id,a\n" + "1,é\n".encode() * 16, encoded("cp1252"), "UTF-8 text, not CP1252", "Remove"),
    "bom as cp1252": (b"\xef\xbb\xbfid,a\n", encoded("cp1252"), "UTF-8 text, not CP1252", "Remove"),
    "utf-16 as cp1252": (TEXT.encode("utf-16"), encoded("cp1252"), "UTF-16", "utf-16"),
}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_a_file_that_is_not_what_its_name_says_is_recognised(tmp_path: Path, kind: str) -> None:
    content, fmt, fault, advice = MISTAKEN[kind]
    path = tmp_path / "in"
    path.write_bytes(content)
    for attempt in (tables.check_input, Source):
        with pytest.raises(MalformedInputError) as caught:
            attempt(path, fmt, ["id"])
        assert fault in caught.value.message
        assert advice in caught.value.advice


@pytest.mark.sample(24)
@pytest.mark.parametrize("fmt", TEXT_FORMATS, ids=name_of)
@pytest.mark.parametrize("first", ["PAR1", "ORC", "BZh9", "FEA1", "Obj", "[id]", "{id}", "<id>", "%", "PK", "{", "["])
def test_a_name_that_looks_like_another_format_is_no_mistake(tmp_path: Path, fmt: FileFormat, first: str) -> None:
    content = f"{first}{fmt.delimiter}x\n1{fmt.delimiter}2\n".encode()
    assert read(tmp_path, compressed(content, fmt), [first], fmt).rows == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("text", [TEXT, "姓名,id\n张三,1\n", "id\n1\n"])
def test_text_in_the_given_encoding_is_no_mistake(tmp_path: Path, encoding: str, text: str) -> None:
    assert read(tmp_path, text.encode(encoding), ["id"], encoded(encoding)).rows >= 1


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.sampled_from("\n\t;\0 "))
def test_utf_8_text_is_never_taken_for_another_encoding(text: str, other: str) -> None:
    found = mismatch(f"id,a{other}b\n{text}\n".encode()[:HEAD_BYTES], CSV)
    assert found is None


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Müller, Zoë, Ærø, ñandú, Łódź", "cp1250"),
        ("привет, мир и вам", "cp1251"),
        ("привет, мир и вам", "koi8-r"),
        ("日本語テキスト、東京", "shift_jis"),
        ("日本語テキスト、東京", "euc_jp"),
        ("日本語テキスト、東京", "iso2022_jp"),
        ("张三李四王五联通", "gb18030"),
        ("안녕하세요, 서울", "euc_kr"),
        ("Straße", "cp037"),
    ],
)
def test_text_in_its_own_encoding_is_not_taken_for_utf_8(text: str, encoding: str) -> None:
    data = f"id,a\n{text}\n".encode(encoding, "ignore") * 50
    assert mismatch(data, encoded(encoding)) is None


@given(st.binary(max_size=64), st.sampled_from([*TEXT_FORMATS, PARQUET]))
def test_any_first_bytes_are_judged(head: bytes, fmt: FileFormat) -> None:
    found = mismatch(head, fmt)
    assert found is None or (found.fault and found.advice.endswith("."))
