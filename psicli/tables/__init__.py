"""Inputs -> canonical key texts, and their matched rows -> outputs, each in one pass over the file.

Nothing here holds a whole file: what is in memory is bounded by a block of the input, by the budget of the sort and
by a batch or row group of the output.

    delimited, parquet    read a file: the keys of all rows, then the matched rows
    sorting               sorts these, on disk if need be
    output                writes them
    ahead                 lets two of these work at a time
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.files import FileFormat, Format
from psicli.spool import Spool
from psicli.tables.ahead import one_ahead
from psicli.tables.delimited import MAX_HEADER_BYTES, DelimitedInput, read_header
from psicli.tables.output import (
    Dictionaries,
    check_writable_types,
    csv_rows,
    row_group_rows,
    wide_schema,
    widen,
    write_csv,
    write_parquet,
)
from psicli.tables.parquet import ParquetInput, read_schema
from psicli.tables.sorting import SHARES, RowSorter
from psicli.tables.source import Fingerprint, SourceFile, check_columns, check_schema

__all__ = ["Fingerprint", "Input", "check_input", "fingerprint"]


def check_input(
    path: Path, fmt: FileFormat, keys: Sequence[str], *, output: FileFormat | None = None, name: str | None = None
) -> None:
    """Check cheaply, by header or metadata, that an input exists, holds the key columns and can become `output`.

    `name` stands for the path in messages. Raises InputMissingError, BadInputError, StorageError.
    """
    with SourceFile(path, name or str(path)) as source:
        if fmt.kind == Format.PARQUET:
            schema = read_schema(source)
            check_schema(schema, keys, source.name)
        else:
            head = source.stream(zipped=fmt.gzip).read(MAX_HEADER_BYTES)
            header = read_header(head, fmt, source.name, complete=len(head) < MAX_HEADER_BYTES)
            check_columns(header.names, keys, source.name)
            schema = pa.schema([(column, pa.string()) for column in header.names])
        if output is not None:
            check_writable_types(schema, output, source.name)


def fingerprint(path: Path, name: str) -> Fingerprint:
    """Return what tells a file from any other; raises InputMissingError, InputChangedError, StorageError."""
    with SourceFile(path, name) as source:
        return source.fingerprint()


class Input(AbstractContextManager["Input"]):
    """An input file, open and watched: read once for its keys, and once more for the rows that matched.

    `name` stands for the path in messages. Raises InputMissingError; everything else InputChangedError too.
    """

    def __init__(self, path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> None:
        self._source = SourceFile(path, name or str(path))
        self._keys = tuple(keys)
        self._reader: DelimitedInput | ParquetInput
        if fmt.kind == Format.PARQUET:
            self._reader = ParquetInput(self._source, self._keys)
        else:
            self._reader = DelimitedInput(self._source, fmt, self._keys)

    @property
    def rows(self) -> int:
        """Count the rows, once all keys are read [rows]."""
        return self._reader.rows

    @property
    def expected_rows(self) -> int:
        """Guess how many rows there are, once the first keys are read [rows]."""
        return self._reader.expected_rows

    @property
    def schema(self) -> Any:
        """The columns, a pa.Schema, once the first keys are read."""
        return self._reader.schema

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """Device, inode, size [bytes] and time of the last change [ns] of the file that was opened."""
        return self._source.identity

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows: for each of some rows their texts, a pa.LargeStringArray a key column.

        Finds every mistake of a CSV file, and of a Parquet file those in its metadata and key columns. Raises
        BadInputError, StorageError.
        """
        with self._source.watched():
            yield from self._reader.key_batches()

    def write_matched(self, file: BinaryIO, fmt: FileFormat, mask: Any, *, budget: int, spool: Spool) -> int:
        """Write the rows that `mask` (pa.BooleanArray, one a row) marks, sorted by key; returns how many [rows].

        The bytes depend on the input and the set of matched rows alone. About `budget` [bytes] of rows are in memory;
        the others wait in `spool`. Raises BadInputError, StorageError.
        """
        schema = self.schema
        check_writable_types(schema, fmt, self._source.name)
        with closing(RowSorter(wide_schema(schema), self._keys, mask.true_count, budget, spool)) as sorter:
            kept = schema if fmt.kind == Format.PARQUET else pa.schema([])
            dictionaries = self._sort(sorter, self._matched(mask, budget), Dictionaries(kept, self._ordered_values))
            if fmt.kind == Format.PARQUET:
                return write_parquet(file, schema, dictionaries, one_ahead(sorter.sorted(row_group_rows(len(schema)))))
            return write_csv(file, fmt, schema.names, one_ahead(sorter.sorted(csv_rows(sorter.row_bytes))))

    def _matched(self, mask: Any, budget: int) -> Iterator[Any]:
        if isinstance(self._reader, ParquetInput):
            return self._reader.matched(mask, budget // SHARES, row_group_rows(len(self.schema)))
        return self._reader.matched(mask)

    def _sort(self, sorter: RowSorter, matched: Iterator[Any], dictionaries: Dictionaries) -> dict[str, Any]:
        """Read the matched rows into the sorter; return the dictionaries they need."""
        schema = wide_schema(self.schema)
        with self._source.watched():
            for rows in one_ahead(matched):
                table = widen(rows, schema)
                dictionaries.note(table)
                sorter.add(table)
            return dictionaries.finish()

    def _ordered_values(self, column: str) -> Any:
        assert isinstance(self._reader, ParquetInput), "only Parquet has dictionaries"
        return self._reader.ordered_values(column)

    def close(self) -> None:
        """Stop watching; does nothing the second time."""
        self._source.close()

    def __exit__(self, *_: object) -> None:
        self.close()
