"""CSV and TSV in, block by block.

pyarrow parses, but it accepts silently what loses rows (an unclosed quote, text after a closing one), and its messages
quote rows. So nothing it says is shown: the csv module reads every block with quotes first, strictly, and _records
finds the line of a mistake. A block ends where a record does, so that no row, quoted value or line end is ever cut.

TSV is CSV with tabs: the same quotes. Every value is text; an empty line is no row; there are no nulls.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from psicli.core.errors import InputChangedError, MalformedInputError, UnclosedQuoteError
from psicli.core.formats import FileFormat, Format
from psicli.tables.source import SourceFile, Stream, check_columns, empty, not_utf8, unparsable
from psicli.tables.text import key_texts

# A row has to fit in a block; larger blocks are not faster.
MAX_ROW_BYTES = 4 << 20
# One byte more, to tell whether an LF follows a CR that ends the longest row.
_BLOCK_BYTES = MAX_ROW_BYTES + 1
# The header is found in so much of the file.
MAX_HEADER_BYTES = 1 << 20
_DOUBLED = "a quote inside a quoted value is written twice."

# How many times its size a gzip file is taken to hold until it has been read.
_GUESSED_COMPRESSION = 5
_BOM = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")


def delimiter(fmt: FileFormat) -> str:
    return "\t" if fmt.kind == Format.TSV else ","


# Records -------------------------------------------------------------------------------------------------------


def _reader(lines: Iterable[str], fmt: FileFormat) -> Any:
    csv.field_size_limit(MAX_ROW_BYTES)
    return csv.reader(lines, delimiter=delimiter(fmt), strict=True)


class _Record(NamedTuple):
    line: int  # physical line it starts on
    end: int  # offset of the byte after it
    fields: list[str]


def _records(data: bytes, fmt: FileFormat, name: str, *, start: int = 0, first_line: int = 1) -> Iterator[_Record]:
    """Read strictly and slowly, record by record, skipping empty lines; raises BadInputError with the line."""
    # The offset of the byte after the last line that the reader took, and whether it asked for more than there are.
    end, done = start, False

    def lines() -> Iterator[str]:
        """Give the physical lines, as csv.reader wants them; a line ends with LF, CRLF or a lone CR."""
        nonlocal end, done
        for match in _LINE.finditer(data, start):
            end = match.end()
            # Bad UTF-8 has its own message; here it must only not get in the way.
            yield match.group().decode("utf-8", "surrogateescape")
        done = True

    reader = _reader(lines(), fmt)
    while True:
        line, begin = first_line + reader.line_num, end
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            if done:
                raise UnclosedQuoteError(
                    place=f"{name}:{line}",
                    fault="a quote opened in this row is never closed",
                    advice=f"Close the quote; {_DOUBLED}",
                ) from exc
            if end - begin > MAX_ROW_BYTES:
                raise _long_row(name, line) from exc
            raise MalformedInputError(
                place=f"{name}:{first_line + reader.line_num - 1}",
                fault=f"text follows a closing quote (the row starts on line {line})",
                advice=f"Look for an unclosed quote there or above; {_DOUBLED}",
            ) from exc
        if fields is None:
            return
        if end - begin > MAX_ROW_BYTES:
            raise _long_row(name, line)
        if fields:
            yield _Record(line, end, fields)


def _line_breaks(data: bytes) -> int:
    returns = data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0
    return data.count(b"\n") + returns


def _last_line_end(data: bytes) -> int:
    """Return the offset after the last line end before the last byte, 0 if there is none."""
    # A CR is half a line end if an LF follows.
    stop = -2 if data.endswith(b"\r\n") else -1
    return max(data.rfind(b"\n", 0, -1), data.rfind(b"\r", 0, stop)) + 1


def _check_utf8(data: bytes, name: str, first_line: int = 1) -> None:
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        # One text of the whole block: seven times as fast as decode.
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            line = first_line + _line_breaks(data[: exc.start])
            raise not_utf8(f"{name}:{line}") from exc


def read_header(data: bytes, fmt: FileFormat, name: str, keys: Sequence[str], *, complete: bool) -> tuple[Any, int]:
    """Find the columns, a pa.Schema, and where their header ends [bytes], in the first bytes of a file.

    complete: whether these are all of them. Raises BadInputError, InputMissingError.
    """
    if not data:
        raise empty(name)
    try:
        first = next(_records(data, fmt, name, start=len(_BOM) if data.startswith(_BOM) else 0), None)
    except UnclosedQuoteError:
        first = None
        if complete:
            raise
    if first is None and complete:
        raise empty(name)
    if first is None or first.end >= MAX_HEADER_BYTES:
        raise MalformedInputError(
            place=f"{name}:{1 if first is None else first.line}",
            fault=f"the header is longer than {MAX_HEADER_BYTES} bytes",
            advice="Every column needs a name of its own in the header line.",
        )
    _check_utf8(data[: first.end], name)
    check_columns(first.fields, keys, name)
    return pa.schema([(column, pa.string()) for column in first.fields]), first.end


def _long_row(name: str, line: int) -> MalformedInputError:
    return MalformedInputError(
        place=f"{name}:{line}",
        fault=f"the row is longer than {MAX_ROW_BYTES} bytes",
        advice="Look for a quote that is closed too late; else leave the long column out of this file.",
    )


# The input -----------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Whole records of a file."""

    start: int  # offset in the file as unzipped
    size: int  # [bytes]
    line: int  # physical line it starts on
    quoted: bool
    rows: int  # until they are parsed: records, as the csv module counts them where there are quotes


class DelimitedInput(SourceFile):
    """A CSV or TSV file, read once for its keys and once for its matched rows.

    schema: its columns, a pa.Schema, once the first keys are read; rows: how many there are in what was read.
    """

    def __init__(self, path: Path, name: str, keys: Sequence[str], fmt: FileFormat) -> None:
        super().__init__(path, name)
        self.keys = keys
        self.schema = pa.schema([])
        self.rows = 0
        self._format = fmt
        self._blocks: list[_Block] = []

    @property
    def expected_rows(self) -> int:
        """Guess how many rows there are from the blocks so far, all of one density [rows]."""
        if not self._blocks:
            return 0
        size = self.size * (_GUESSED_COMPRESSION if self._format.gzip else 1)
        last = self._blocks[-1]
        read = max(last.start + last.size, 1)
        return self.rows * max(size, read) // read

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows: for each of some rows their texts, a pa.LargeStringArray a key column.

        Finds every mistake of the file. Raises BadInputError, InputMissingError, StorageError.
        """
        with self.watched():
            for block, data in self._cut():
                columns = self._parse_strictly(block, data)
                texts = key_texts(columns, self.keys, partial(self._place, block.line, data))
                self._blocks.append(block._replace(rows=columns.num_rows))
                self.rows += columns.num_rows
                yield texts

    def matched(self, mask: Any, _budget: int) -> Iterator[Any]:
        """Give the rows that a pa.BooleanArray marks as pa.Table, in the order of the file; a block at a time."""
        stream = Stream(self, zipped=self._format.gzip)
        row = 0
        for block in self._blocks:
            wanted = mask.slice(row, block.rows)
            row += block.rows
            if wanted.true_count:
                data = stream.read(block.size, block.start)
                try:
                    table = self._parse(data, self.schema.names, quoted=block.quoted)
                except pa.ArrowInvalid as exc:
                    # It was well the first time.
                    raise InputChangedError(path=self.name) from exc
                if table.num_rows != block.rows:
                    raise InputChangedError(path=self.name)
                yield table.filter(wanted)

    # Cutting

    def _cut(self) -> Iterator[tuple[_Block, bytes]]:
        stream = Stream(self, zipped=self._format.gzip)
        data = stream.read(_BLOCK_BYTES)
        complete = len(data) < _BLOCK_BYTES
        self.schema, start = read_header(data, self._format, self.name, self.keys, complete=complete)
        line, data = 1 + _line_breaks(data[:start]), data[start:]
        while data or not complete:
            wanted = _BLOCK_BYTES - len(data)
            if not complete:
                more = stream.read(wanted)
                complete = len(more) < wanted
                data += more
            size, quoted, records = self._whole_records(data, line, complete=complete)
            block, data = data[:size], data[size:]
            if _NOT_LINE_BREAK.search(block):
                yield _Block(start, size, line, quoted, records), block
            start, line = start + size, line + _line_breaks(block)

    def _whole_records(self, data: bytes, line: int, *, complete: bool) -> tuple[int, bool, int]:
        """Return how far whole records go [bytes], whether there are quotes in them, and if so how many there are.

        Raises BadInputError if there is none, and for all that is wrong with the quotes of the first.
        """
        size = len(data) if complete else _last_line_end(data)
        if data.find(b'"', 0, size) < 0:
            if not size and data:
                raise _long_row(self.name, line)
            return size, False, 0
        # Any encoding will do to find quotes, and this one's characters are bytes.
        text = data[:size].decode("latin-1")
        widths: Counter[int] = Counter()
        try:
            widths.update(map(len, _reader(io.StringIO(text, newline=""), self._format)))
        except csv.Error as exc:
            # The next block begins with the record that does not end, or is wrong: so long are those before.
            reader = _reader(io.StringIO(text, newline=""), self._format)
            deque(islice(reader, widths.total()), maxlen=0)
            size = sum(map(len, islice(io.StringIO(text, newline=""), reader.line_num)))
            if not size:
                self._explain(data, line, complete=complete)
                raise unparsable(self.name, self._format.kind) from exc
        if widths.keys() - {0, len(self.schema)}:
            self._check_widths(data[:size], line)
        return size, True, widths[len(self.schema)]

    def _explain(self, data: bytes, line: int, *, complete: bool) -> None:
        """Raise what is wrong with the first record."""
        try:
            next(self._records(data, line))
        except UnclosedQuoteError as exc:
            if complete:
                raise
            raise _long_row(self.name, line) from exc

    def _check_widths(self, data: bytes, first_line: int) -> None:
        """Check that all records have the header's length; raises BadInputError with the line."""
        expected = len(self.schema)
        for line, _, fields in self._records(data, first_line):
            if len(fields) != expected:
                raise MalformedInputError(
                    place=f"{self.name}:{line}",
                    fault=f"the row has {len(fields)} fields, the header {expected}",
                    advice="A value that holds the delimiter must be quoted.",
                )

    def _records(self, data: bytes, first_line: int) -> Iterator[_Record]:
        return _records(data, self._format, self.name, first_line=first_line)

    # Parsing

    def _parse_strictly(self, block: _Block, data: bytes) -> Any:
        _check_utf8(data, self.name, block.line)
        try:
            table = self._parse(data, self.keys, quoted=block.quoted)
        except pa.ArrowInvalid as exc:
            self._check_widths(data, block.line)
            raise unparsable(self.name, self._format.kind) from exc
        if block.quoted and block.rows != table.num_rows:
            raise unparsable(self.name, self._format.kind)
        return table

    def _parse(self, data: bytes, columns: Sequence[str], *, quoted: bool) -> Any:
        # pyarrow takes a byte order mark that begins a block for the file's.
        data = b"\n" + data if data.startswith(_BOM) else data
        return pa.csv.read_csv(
            pa.BufferReader(data),
            # With the block as its only one pyarrow has no line end or row to cut; one thread is as fast as two here.
            read_options=pa.csv.ReadOptions(
                column_names=self.schema.names, block_size=len(data) + 1, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter(self._format), newlines_in_values=quoted),
            convert_options=pa.csv.ConvertOptions(
                column_types=self.schema,
                include_columns=list(dict.fromkeys(columns)),
                null_values=[],
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )

    def _place(self, first_line: int, data: bytes, row: int) -> str:
        """Tell where a row of a block stands: path:line."""
        return f"{self.name}:{next(islice(self._records(data, first_line), row, None)).line}"
