"""Read and write files of every format as a run does."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psicli import outputs, tables
from psicli.core.errors import BadInputError, InputMissingError
from psicli.core.formats import Compression, FileFormat, Format
from psicli.outputs import columns, sorting
from psicli.outputs import delimited as delimited_out
from psicli.storage.spool import Spool
from psicli.tables import arrow, delimited, jsonl, parquet

CSV = FileFormat(Format.CSV)
TSV = FileFormat(Format.TSV)
CSV_GZ = FileFormat(Format.CSV, Compression.GZIP)
TSV_GZ = FileFormat(Format.TSV, Compression.GZIP)
CSV_ZST = FileFormat(Format.CSV, Compression.ZSTD)
TSV_ZST = FileFormat(Format.TSV, Compression.ZSTD)
JSONL = FileFormat(Format.JSONL)
JSONL_GZ = FileFormat(Format.JSONL, Compression.GZIP)
JSONL_ZST = FileFormat(Format.JSONL, Compression.ZSTD)
PARQUET = FileFormat(Format.PARQUET)
ARROW = FileFormat(Format.ARROW)
ARROW_STREAM = FileFormat(Format.ARROW_STREAM)
TEXT_FORMATS = [CSV, TSV, CSV_GZ, TSV_GZ, CSV_ZST, TSV_ZST]
JSON_FORMATS = [JSONL, JSONL_GZ, JSONL_ZST]
TYPED_FORMATS = [PARQUET, ARROW, ARROW_STREAM]
ALL_FORMATS = [*TEXT_FORMATS, *JSON_FORMATS, *TYPED_FORMATS]


# A memory limit that no test reaches [bytes].
AMPLE = 1 << 30


def name_of(fmt: FileFormat) -> str:
    return f"{fmt.kind}-{fmt.compression}"


class Source:
    """An input file whose keys have been read."""

    opened: ClassVar[list[Source]] = []

    def __init__(
        self,
        path: Path,
        fmt: FileFormat,
        keys: Sequence[str],
        *,
        output: FileFormat | None = PARQUET,
        name: str | None = None,
    ) -> None:
        self.input = tables.open_input(path, fmt, keys, output=output, name=name)
        self.opened.append(self)
        self.batches = list(self.input.key_batches())
        texts = [[pa.array([], pa.large_string())] for _ in keys]
        for batch in self.batches:
            for column, text in zip(texts, batch, strict=True):
                column.append(text)
        self.key_texts = tuple(pa.concat_arrays(column) for column in texts)
        self.rows = self.input.rows

    @property
    def table(self) -> Any:
        """A table of all rows in the order of the file."""
        found = self.input.matched(pa.array([True] * self.rows, pa.bool_()), AMPLE)
        return pa.concat_tables([self.input.schema.empty_table(), *(each.cast(self.input.schema) for each in found)])


def read(
    folder: Path,
    content: bytes | pa.Table,
    keys: Sequence[str] = ("id",),
    fmt: FileFormat | None = None,
    output: FileFormat | None = PARQUET,
) -> Source:
    """Read content as a file named `in`, and check that check_input accepts it too."""
    path = folder / "in"
    fmt = fmt or (PARQUET if isinstance(content, pa.Table) else CSV)
    path.write_bytes(typed_bytes(content, fmt) if isinstance(content, pa.Table) else content)
    result = Source(path, fmt, keys, output=output, name="in.file")
    tables.check_input(path, fmt, keys)
    return result


def refuse(
    error: type[BadInputError | InputMissingError],
    folder: Path,
    content: bytes | pa.Table,
    keys: Sequence[str] = ("id",),
    fmt: FileFormat | None = None,
) -> str:
    with pytest.raises(error) as caught:
        read(folder, content, keys, fmt)
    assert type(caught.value) is error
    assert caught.value.advice
    return caught.value.message


def rows_of(source: Source) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in source.table.to_pylist()]


def write(source: Source, fmt: FileFormat, matched: Any = None, budget: int = AMPLE) -> bytes:
    matched = np.ones(source.rows, bool) if matched is None else matched
    sink = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "state") as spool:
        rows = outputs.write_matched(source.input, sink, fmt, pa.array(matched, pa.bool_()), budget=budget, spool=spool)
        assert (spool.peak > 0) == (budget < AMPLE and rows > 0)
        assert not list(Path(folder).glob("state/run-*/*-*"))
    assert rows == int(np.sum(np.asarray(matched)))
    assert not sink.closed
    return sink.getvalue()


def compressed(data: bytes, fmt: FileFormat) -> bytes:
    """Compress bytes with other code than psicli's, in two members or frames."""
    halves = data[: len(data) // 2], data[len(data) // 2 :]
    match fmt.compression:
        case Compression.GZIP:
            return b"".join(map(gzip.compress, halves))
        case Compression.ZSTD:
            return b"".join(pa.compress(half, "zstd", asbytes=True) for half in halves)
        case Compression.NONE:
            return data


def decompressed(data: bytes, fmt: FileFormat) -> bytes:
    match fmt.compression:
        case Compression.GZIP:
            return gzip.decompress(data)
        case Compression.ZSTD:
            return bytes(pa.CompressedInputStream(pa.py_buffer(data), "zstd").read())
        case Compression.NONE:
            return data


def typed_bytes(table: pa.Table, fmt: FileFormat, rows: int | None = None) -> bytes:
    """Return a table as a file of a typed format with this many rows in a row group or batch."""
    sink = io.BytesIO()
    if fmt.kind == Format.PARQUET:
        pq.write_table(table, sink, row_group_size=rows)
        return sink.getvalue()
    with (pa.ipc.new_file if fmt.kind == Format.ARROW else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def typed_table(data: bytes, fmt: FileFormat) -> Any:
    """Return the table in a file of a typed format."""
    if fmt.kind == Format.PARQUET:
        return pq.read_table(io.BytesIO(data))
    return (pa.ipc.open_file if fmt.kind == Format.ARROW else pa.ipc.open_stream)(data).read_all()


def parsed(data: bytes, fmt: FileFormat) -> list[list[str]]:
    """Parse written bytes with the csv or json module into a header and rows of text, in which a null is empty."""
    text = decompressed(data, fmt).decode()
    if fmt.kind == Format.JSONL:
        objects = [json.loads(line) for line in text.removesuffix("\n").split("\n")] if text else []
        assert all(each.keys() == objects[0].keys() for each in objects)
        rows = [["" if value is None else str(value) for value in each.values()] for each in objects]
        return [[*objects[0]], *rows] if objects else []
    quoting = csv.QUOTE_MINIMAL if fmt.dialect.quotes else csv.QUOTE_NONE
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=fmt.delimiter, quoting=quoting, strict=True))


@contextmanager
def small_pieces(size: int) -> Iterator[None]:
    """Make psicli read, sort and write in pieces of about this many bytes or rows."""
    # psicli lets the csv module read rows as long as its own, for the whole process.
    longest = csv.field_size_limit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "MAX_ROW_BYTES", size)
        patch.setattr(delimited, "_BLOCK_BYTES", size + 1)
        patch.setattr(jsonl, "MAX_ROW_BYTES", size)
        patch.setattr(jsonl, "_BLOCK_BYTES", size + 1)
        patch.setattr(jsonl, "_BLOCK_LINES", 3)
        patch.setattr(jsonl, "_STEP_VALUES", size)
        patch.setattr(arrow, "_STEP_ROWS", max(size // 16, 1))
        patch.setattr(arrow, "_BATCH_BYTES", size)
        patch.setattr(parquet, "_BATCH_ROWS", max(size // 16, 1))
        patch.setattr(parquet, "_COLUMNS_AT_ONCE", 2)
        patch.setattr(parquet, "_windows", lambda wanted, most, windows=parquet._windows: windows(wanted, min(most, 3)))
        patch.setattr(sorting, "_LEAST_BATCH_BYTES", size)
        patch.setattr(sorting, "_LEAST_STEP_BYTES", 0)
        patch.setattr(delimited_out, "_CSV_BATCH_BYTES", size)
        patch.setattr(columns, "_GATHERED_VALUES", 2)
        try:
            yield
        finally:
            csv.field_size_limit(longest)
