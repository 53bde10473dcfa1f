"""Inputs -> Arrow tables with canonical key texts; matched rows -> CSV, TSV or Parquet.

pyarrow reads and writes, but it accepts silently what loses rows (an unclosed quote, text after a closing one, a
duplicate header), and its messages quote rows. So nothing it says is shown: _records reads the same bytes the slow
way, strictly and with line numbers, before a file with quotes is trusted and whenever pyarrow stops.

TSV is CSV with tabs: the same quotes. Every CSV value is text; an empty line is no row; there are no nulls.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from psicli import items
from psicli.errors import (
    BrokenGzipError,
    DuplicateColumnError,
    EmptyInputError,
    FileMissingError,
    HeaderError,
    InputChangedError,
    LongRowError,
    MissingColumnError,
    NotUtf8Error,
    RaggedRowError,
    StorageError,
    TextAfterQuoteError,
    UnclosedQuoteError,
    UnparsableError,
    UnreadableInputError,
    UnwritableColumnError,
    shown,
)
from psicli.files import FileFormat, Format

# pyarrow parses block by block and cannot read a row that does not fit in one; 4 MiB was the fastest of 1, 4, 16.
MAX_ROW_BYTES = 4 << 20
# check_input reads no more than this of a CSV file.
MAX_HEADER_BYTES = 1 << 20
# The row group of DuckDB and others: 60 times their vector of 2,048.
ROW_GROUP_ROWS = 122_880
# Bounds the text in flight while CSV is written.
_CSV_BATCH_ROWS = 16_384
_MAX_SHOWN_COLUMNS = 30

_TEXT = pa.large_string()
# What values are held as while rows are picked: offsets of 32 bits can overflow, and pyarrow cannot take views.
_WIDE = {
    pa.string(): _TEXT,
    pa.string_view(): _TEXT,
    pa.binary(): pa.large_binary(),
    pa.binary_view(): pa.large_binary(),
}
_VIEWS = (pa.string_view(), pa.binary_view())
_BOM = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")


@dataclass(frozen=True)
class InputTable:
    """A whole input: its columns as they will come out, and its keys as both parties see them."""

    path: str  # as shown to people
    table: Any  # pa.Table
    key_texts: tuple[Any, ...]  # pa.LargeStringArray each

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)


# Reading -------------------------------------------------------------------------------------------------------


def check_input(
    path: Path, fmt: FileFormat, keys: Sequence[str], *, output: FileFormat | None = None, name: str | None = None
) -> None:
    """Check cheaply, by header or metadata, that an input exists, holds the key columns and can become `output`.

    `name` stands for the path in messages. Raises InputMissingError, BadInputError, StorageError.
    """
    shown_path = name or str(path)
    with _open(path, shown_path) as file:
        if fmt.kind == Format.PARQUET:
            if not os.fstat(file.fileno()).st_size:
                raise EmptyInputError(path=shown_path)
            schema = _parquet(lambda: pq.ParquetFile(file).schema_arrow, shown_path)
            _check_schema(schema, keys, shown_path)
        else:
            head = _read_head(file, fmt, shown_path)
            header = _header(head, fmt, shown_path, complete=len(head) < MAX_HEADER_BYTES)
            _check_columns(header.names, keys, shown_path)
            schema = pa.schema([(column, pa.string()) for column in header.names])
    if output is not None:
        _check_writable_types(schema, output, shown_path)


def read_input(path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> InputTable:
    """Read a whole input into memory and find every mistake in it.

    `name` stands for the path in messages. Raises InputMissingError, BadInputError, StorageError.
    """
    shown_path = name or str(path)
    data = _read_whole(path, shown_path)
    place: Callable[[int], str]
    if fmt.kind == Format.PARQUET:
        table = _read_parquet(data, keys, shown_path)
        place = partial(_row_place, shown_path)
    else:
        data = _gunzip(data, shown_path) if fmt.gzip else data
        table = _read_csv(data, fmt, keys, shown_path)
        place = partial(_line_place, data, fmt, shown_path)
    key_texts = tuple(items.canonical_text(table.column(key), path=shown_path, name=key) for key in keys)
    items.check_keys(key_texts, keys, place)
    return InputTable(shown_path, table, key_texts)


def _open(path: Path, name: str) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise FileMissingError(path=name) from exc
    except OSError as exc:
        raise UnreadableInputError(path=name, reason=(exc.strerror or "unknown").lower()) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableInputError(path=name, reason="it is not a regular file")
    return open(descriptor, "rb")


def _read_whole(path: Path, name: str) -> bytes:
    """Read all bytes of a file that stays the same from the first to the last."""
    with _open(path, name) as file:
        before = _identity(os.fstat(file.fileno()))
        try:
            data = file.read()
            unchanged = before == _identity(os.fstat(file.fileno())) == _identity(os.stat(path))
        except FileNotFoundError:
            unchanged = False
        except OSError as exc:
            raise StorageError(path=name, reason=f"reading failed: {(exc.strerror or 'unknown').lower()}") from exc
    if not unchanged or len(data) != before[2]:
        raise InputChangedError(path=name)
    return data


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _gunzip(data: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise BrokenGzipError(path=name) from exc


def _read_head(file: BinaryIO, fmt: FileFormat, name: str) -> bytes:
    try:
        if not fmt.gzip:
            return file.read(MAX_HEADER_BYTES)
        with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
            return unzipped.read(MAX_HEADER_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise BrokenGzipError(path=name) from exc
    except OSError as exc:
        raise StorageError(path=name, reason=f"reading failed: {(exc.strerror or 'unknown').lower()}") from exc


def _check_columns(columns: Sequence[str], keys: Sequence[str], name: str) -> None:
    seen = set()
    for column in columns:
        if column in seen:
            raise DuplicateColumnError(path=name, column=shown(column))
        seen.add(column)
    for key in keys:
        if key not in seen:
            listed = ", ".join(shown(column) for column in columns[:_MAX_SHOWN_COLUMNS])
            more = f" and {len(columns) - _MAX_SHOWN_COLUMNS} more" if len(columns) > _MAX_SHOWN_COLUMNS else ""
            raise MissingColumnError(path=name, column=shown(key), columns=listed + more)


# CSV in --------------------------------------------------------------------------------------------------------


def _delimiter(fmt: FileFormat) -> str:
    return "\t" if fmt.kind == Format.TSV else ","


class _Record(NamedTuple):
    line: int  # physical line it starts on, from 1
    end: int  # offset of the byte after it
    fields: list[str]


class _Lines:
    """The physical lines of CSV bytes, as csv.reader wants them; a line ends with LF, CRLF or a lone CR."""

    def __init__(self, data: bytes) -> None:
        self.number = 0
        self.end = len(_BOM) if data.startswith(_BOM) else 0
        self.done = False
        self._data = data

    def __iter__(self) -> Iterator[str]:
        for match in _LINE.finditer(self._data, self.end):
            self.number += 1
            self.end = match.end()
            # Bad UTF-8 has its own message; here it must only not get in the way.
            yield match.group().decode("utf-8", "surrogateescape")
        self.done = True


def _records(data: bytes, fmt: FileFormat, name: str) -> Iterator[_Record]:
    """Read strictly, record by record, skipping empty lines; raises BadInputError with the line."""
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = _Lines(data)
    reader = csv.reader(lines, delimiter=_delimiter(fmt), strict=True)
    while True:
        start, begin = lines.number + 1, lines.end
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            if lines.done:
                raise UnclosedQuoteError(path=name, line=start) from exc
            if lines.end - begin > MAX_ROW_BYTES:
                raise LongRowError(path=name, line=start, limit=MAX_ROW_BYTES) from exc
            raise TextAfterQuoteError(path=name, line=lines.number, start=start) from exc
        if fields is None:
            return
        if lines.end - begin > MAX_ROW_BYTES:
            raise LongRowError(path=name, line=start, limit=MAX_ROW_BYTES)
        if fields:
            yield _Record(start, lines.end, fields)


class _Header(NamedTuple):
    names: list[str]
    end: int


def _header(data: bytes, fmt: FileFormat, name: str, *, complete: bool = True) -> _Header:
    """Find the column names in the first bytes of a file; complete says whether these are all of them."""
    if not data:
        raise EmptyInputError(path=name)
    try:
        first = next(_records(data, fmt, name), None)
    except UnclosedQuoteError:
        first = None
        if complete:
            raise
    if (first is None and not complete) or (first is not None and first.end >= MAX_HEADER_BYTES):
        detail = f"the header is longer than {MAX_HEADER_BYTES} bytes"
        raise HeaderError(path=name, line=1 if first is None else first.line, detail=detail)
    if first is None:
        raise EmptyInputError(path=name)
    _check_utf8(data[: first.end], name)
    return _Header(first.fields, first.end)


def _read_csv(data: bytes, fmt: FileFormat, keys: Sequence[str], name: str) -> Any:
    header = _header(data, fmt, name)
    _check_columns(header.names, keys, name)
    quoted = b'"' in data
    expected = _check_records(data, fmt, name) if quoted else None
    schema = pa.schema([(column, pa.string()) for column in header.names])
    # pyarrow takes a body without rows for a mistake.
    if _NOT_LINE_BREAK.search(data, header.end) is None:
        return schema.empty_table()
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(pa.py_buffer(data).slice(header.end)),
            read_options=pa.csv.ReadOptions(column_names=header.names, block_size=_block_bytes(data, header.end)),
            parse_options=pa.csv.ParseOptions(delimiter=_delimiter(fmt), newlines_in_values=quoted),
            convert_options=pa.csv.ConvertOptions(
                column_types=schema, null_values=[], strings_can_be_null=False, check_utf8=True
            ),
        )
    except pa.ArrowInvalid as exc:
        _check_utf8(data, name)
        _check_records(data, fmt, name)
        raise UnparsableError(path=name, format=fmt.kind) from exc
    if expected not in (None, table.num_rows):
        raise UnparsableError(path=name, format=fmt.kind)
    return table


def _block_bytes(data: bytes, start: int) -> int:
    """Choose pyarrow's block size so that no block begins between a CR and its LF.

    It takes such an LF for the rest of a line end, also inside a quoted value, and drops it.
    """
    size = MAX_ROW_BYTES
    while any(data[at - 1 : at + 1] == b"\r\n" for at in range(start + size, len(data), size)):
        size += 1
    return size


def _check_records(data: bytes, fmt: FileFormat, name: str) -> int:
    """Count the records below the header, all of the header's length; raises BadInputError with the line."""
    records = _records(data, fmt, name)
    width = len(next(records).fields)
    count = 0
    for line, _, fields in records:
        if len(fields) != width:
            raise RaggedRowError(path=name, line=line, found=len(fields), expected=width)
        count += 1
    return count


def _check_utf8(data: bytes, name: str) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        before = data[: exc.start]
        line = 1 + before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")
        raise NotUtf8Error(place=f"{name}:{line}") from exc


def _line_place(data: bytes, fmt: FileFormat, name: str, row: int) -> str:
    """Tell where a row of a CSV file stands: path:line."""
    record = next(islice(_records(data, fmt, name), row + 1, None))
    return f"{name}:{record.line}"


def _row_place(name: str, row: int) -> str:
    """Tell where a row of a Parquet file stands: path, row number from 1."""
    return f"{name}, row {row + 1}"


# Parquet in ----------------------------------------------------------------------------------------------------


def _parquet(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except MemoryError:
        raise
    # Arrow reports damage with nearly every exception it has.
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise UnparsableError(path=name, format=Format.PARQUET) from exc


def _read_parquet(data: bytes, keys: Sequence[str], name: str) -> Any:
    if not data:
        raise EmptyInputError(path=name)
    file = _parquet(lambda: pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True), name)
    _check_schema(_parquet(lambda: file.schema_arrow, name), keys, name)
    table = _parquet(file.read, name)
    for column in table.column_names:
        _check_values(table.column(column), column, name)
    return table


def _check_schema(schema: Any, keys: Sequence[str], name: str) -> None:
    _check_columns(schema.names, keys, name)
    items.check_key_types([(key, schema.field(key).type) for key in keys], path=name)


def _check_values(column: Any, column_name: str, name: str) -> None:
    """Refuse strings that are not UTF-8, which nothing in Parquet prevents, and arrays that make no sense."""
    start = 0
    for chunk in column.chunks:
        texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        try:
            chunk.validate()
            texts.validate(full=_is_text(texts.type))
        except pa.ArrowInvalid as exc:
            row = _first_bad_value(chunk)
            if row is None:
                raise UnparsableError(path=name, format=Format.PARQUET) from exc
            place = f"{_row_place(name, start + row)}, column {shown(column_name)}"
            raise NotUtf8Error(place=place) from exc
        start += len(chunk)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _first_bad_value(chunk: Any) -> int | None:
    for row, value in enumerate(chunk):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return row
    return None


# Writing -------------------------------------------------------------------------------------------------------


def write_output(file: BinaryIO, fmt: FileFormat, source: InputTable, matched: Any) -> int:
    """Write the rows of `source` that `matched` (booleans, one a row) marks, sorted by key; returns how many [rows].

    The bytes depend on the input and the set of matched rows alone. Raises UnwritableColumnError.
    """
    _check_writable_types(source.table.schema, fmt, source.path)
    mask = pa.array(matched, pa.bool_())
    order = _key_order([text.filter(mask) for text in source.key_texts])
    names = source.table.column_names
    columns = [_matched_values(column, mask) for column in source.table.columns]
    if fmt.kind == Format.PARQUET:
        _write_parquet(file, source.table, columns, order)
    elif fmt.gzip:
        # No name and no time in the gzip header: equal runs give equal bytes.
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as zipped:
            _write_csv(zipped, _delimiter(fmt), names, columns, order)
    else:
        _write_csv(file, _delimiter(fmt), names, columns, order)
    return len(order)


def _key_order(key_texts: Sequence[Any]) -> Any:
    """Sort bytewise, column by column; the sort is stable, so ties stay in the order of the file."""
    names = [str(index) for index in range(len(key_texts))]
    table = pa.table(list(key_texts), names=names)
    return pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])


def _check_writable_types(schema: Any, fmt: FileFormat, name: str) -> None:
    suits = _suits_parquet if fmt.kind == Format.PARQUET else _suits_csv
    for field in schema:
        if not suits(field.type):
            raise UnwritableColumnError(
                path=name, column=shown(field.name), type=shown(str(field.type)), format=fmt.kind
            )


def _suits_csv(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _suits_csv(kind.value_type)
    return items.has_text(kind) or pa.types.is_floating(kind) or pa.types.is_time(kind)


def _suits_parquet(kind: Any) -> bool:
    """Tell whether values can be written without a dictionary that shows values of rows that did not match."""
    children = [kind.field(index).type for index in range(kind.num_fields)]
    # pyarrow cannot pick rows of views, and a nested one cannot be cast away.
    return all(
        not pa.types.is_dictionary(child) and child not in _VIEWS and _suits_parquet(child) for child in children
    )


def _matched_values(column: Any, mask: Any) -> Any:
    """Give the matched rows of a column as one array, without dictionary or offsets of 32 bits, ready for take."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(_WIDE.get(column.type, column.type)).filter(mask)
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


# CSV out -------------------------------------------------------------------------------------------------------


def _write_csv(file: Any, delimiter: str, names: Sequence[str], columns: Sequence[Any], order: Any) -> None:
    file.write(_csv_lines([pa.array([name], _TEXT) for name in names], delimiter))
    for start in range(0, len(order), _CSV_BATCH_ROWS):
        batch = order.slice(start, _CSV_BATCH_ROWS)
        file.write(_csv_lines([_csv_text(column.take(batch)) for column in columns], delimiter))


def _csv_text(array: Any) -> Any:
    if pa.types.is_floating(array.type) or pa.types.is_time(array.type):
        return array.cast(_TEXT)
    return items.text_of(array)


def _csv_lines(columns: Sequence[Any], delimiter: str) -> bytes:
    """Join columns of text to CSV lines that end with LF; a null is an empty field."""
    quoted = [_quoted(column, delimiter) for column in columns]
    lines = pc.binary_join_element_wise(
        *quoted, pa.scalar(delimiter, _TEXT), null_handling="replace", null_replacement=""
    )
    _, data = items.packed(pc.binary_join_element_wise(lines, pa.scalar("", _TEXT), pa.scalar("\n", _TEXT)))
    return data.tobytes()


def _quoted(text: Any, delimiter: str) -> Any:
    """Quote the values that need it: those that hold the delimiter, a quote or a line break."""
    special = f'"\r\n{delimiter}'
    _, data = items.packed(text)
    if not np.isin(data, np.frombuffer(special.encode(), np.uint8)).any():
        return text
    quote = pa.scalar('"', _TEXT)
    doubled = pc.replace_substring(text, pattern='"', replacement='""')
    wrapped = pc.binary_join_element_wise(quote, doubled, quote, pa.scalar("", _TEXT))
    return pc.if_else(pc.match_substring_regex(text, pattern=f"[{special}]"), wrapped, text)


# Parquet out ---------------------------------------------------------------------------------------------------


def _write_parquet(file: BinaryIO, table: Any, columns: Sequence[Any], order: Any) -> None:
    # The schema's metadata goes: pandas keeps the number of input rows there.
    schema = table.schema.remove_metadata()
    restore = [_restorer(source, column) for source, column in zip(table.columns, columns, strict=True)]
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(order), ROW_GROUP_ROWS):
            batch = order.slice(start, ROW_GROUP_ROWS)
            arrays = [back(column.take(batch)) for back, column in zip(restore, columns, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP_ROWS)


def _restorer(source: Any, column: Any) -> Callable[[Any], Any]:
    """Give the function that brings values taken from the matched `column` back to the type of their `source`."""
    kind = source.type
    if not pa.types.is_dictionary(kind):
        return lambda taken: taken.cast(kind)
    dictionary = _matched_dictionary(source, column)

    def encode(taken: Any) -> Any:
        indices = pc.index_in(taken, value_set=dictionary).cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, dictionary.cast(kind.value_type), ordered=kind.ordered)

    return encode


def _matched_dictionary(source: Any, column: Any) -> Any:
    """Make a dictionary of the matched rows' values only, in an order that tells nothing about the file.

    An ordered dictionary keeps its order, which has a meaning of its own; others are sorted.
    """
    used = pc.unique(column.drop_null())
    if source.type.ordered and source.num_chunks:
        reference = source.unify_dictionaries().chunk(0).dictionary.cast(used.type)
        ranks = pc.index_in(used, value_set=reference)
        return used.take(pc.sort_indices(ranks))
    return used.take(pc.sort_indices(used))
