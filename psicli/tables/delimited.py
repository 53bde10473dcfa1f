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
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from psicli import errors, items
from psicli.files import FileFormat, Format
from psicli.tables.source import SourceFile, check_columns

# A row has to fit in a block; larger blocks are not faster.
MAX_ROW_BYTES = 4 << 20
# One byte more, to tell whether an LF follows a CR that ends the longest row.
_BLOCK_BYTES = MAX_ROW_BYTES + 1
# The header is found in so much of the file.
MAX_HEADER_BYTES = 1 << 20

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


@dataclass
class _Lines:
    """The physical lines of CSV bytes, as csv.reader wants them; a line ends with LF, CRLF or a lone CR."""

    data: bytes = field(repr=False)
    end: int  # offset of the byte after the last line that was given
    done: bool = False

    def __iter__(self) -> Iterator[str]:
        for match in _LINE.finditer(self.data, self.end):
            self.end = match.end()
            # Bad UTF-8 has its own message; here it must only not get in the way.
            yield match.group().decode("utf-8", "surrogateescape")
        self.done = True


def _records(data: bytes, fmt: FileFormat, name: str, *, start: int = 0, first_line: int = 1) -> Iterator[_Record]:
    """Read strictly and slowly, record by record, skipping empty lines; raises BadInputError with the line."""
    lines = _Lines(data, start)
    reader = _reader(lines, fmt)
    while True:
        line, begin = first_line + reader.line_num, lines.end
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            if lines.done:
                raise errors.UnclosedQuoteError(path=name, line=line) from exc
            if lines.end - begin > MAX_ROW_BYTES:
                raise errors.LongRowError(path=name, line=line, limit=MAX_ROW_BYTES) from exc
            raise errors.TextAfterQuoteError(path=name, line=first_line + reader.line_num - 1, start=line) from exc
        if fields is None:
            return
        if lines.end - begin > MAX_ROW_BYTES:
            raise errors.LongRowError(path=name, line=line, limit=MAX_ROW_BYTES)
        if fields:
            yield _Record(line, lines.end, fields)


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
    except pa.ArrowInvalid as exc:
        line = first_line + _line_breaks(data[: _valid_utf8(data)])
        raise errors.NotUtf8Error(place=f"{name}:{line}") from exc


def _valid_utf8(data: bytes) -> int:
    """Return how many of the first bytes are UTF-8."""
    try:
        return len(data.decode().encode())
    except UnicodeDecodeError as exc:
        return exc.start


# The header ----------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    names: list[str]
    end: int  # offset of the byte after it


def read_header(data: bytes, fmt: FileFormat, name: str, *, complete: bool) -> Header:
    """Find the column names in the first bytes of a file; complete says whether these are all of them.

    Raises BadInputError.
    """
    if not data:
        raise errors.EmptyInputError(path=name)
    try:
        first = next(_records(data, fmt, name, start=len(_BOM) if data.startswith(_BOM) else 0), None)
    except errors.UnclosedQuoteError:
        first = None
        if complete:
            raise
    if (first is None and not complete) or (first is not None and first.end >= MAX_HEADER_BYTES):
        detail = f"the header is longer than {MAX_HEADER_BYTES} bytes"
        raise errors.HeaderError(path=name, line=1 if first is None else first.line, detail=detail)
    if first is None:
        raise errors.EmptyInputError(path=name)
    _check_utf8(data[: first.end], name)
    return Header(first.fields, first.end)


# The input -----------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Whole records of a file, found and checked."""

    start: int  # offset in the file as unzipped
    size: int  # [bytes]
    rows: int
    quoted: bool


class _Raw(NamedTuple):
    """Whole records of a file, just read."""

    start: int
    data: bytes
    first_line: int
    quoted: bool
    records: int  # as the csv module counts them, where there are quotes


class DelimitedInput:
    """A CSV or TSV file, read once for its keys and once for its matched rows."""

    def __init__(self, source: SourceFile, fmt: FileFormat, keys: Sequence[str]) -> None:
        self.schema = pa.schema([])
        self._source = source
        self._format = fmt
        self._keys = keys
        self._blocks: list[_Block] = []

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self._blocks)

    @property
    def expected_rows(self) -> int:
        """Guess from the blocks so far, all of one density."""
        if not self._blocks:
            return 0
        size = self._source.size * (_GUESSED_COMPRESSION if self._format.gzip else 1)
        last = self._blocks[-1]
        read = max(last.start + last.size, 1)
        return self.rows * max(size, read) // read

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the file and find every mistake in it; give the key texts of its rows. Raises BadInputError."""
        name = self._source.name
        self._blocks = []
        for raw in self._raw_blocks():
            columns = self._parse_strictly(raw, self._keys)
            texts = tuple(items.canonical_text(columns.column(key), path=name, name=key) for key in self._keys)
            items.check_keys(texts, self._keys, partial(self._place, raw))
            self._blocks.append(_Block(raw.start, len(raw.data), columns.num_rows, raw.quoted))
            yield texts

    def matched(self, mask: Any) -> Iterator[Any]:
        """Give the rows that a pa.BooleanArray marks as pa.Table, in the order of the file."""
        stream = self._source.stream(zipped=self._format.gzip)
        row = 0
        for block in self._blocks:
            wanted = mask.slice(row, block.rows)
            row += block.rows
            if wanted.true_count:
                data = stream.read_at(block.start, block.size)
                try:
                    table = self._parse(data, self.schema.names, quoted=block.quoted)
                except pa.ArrowInvalid as exc:
                    # It was well the first time.
                    raise errors.InputChangedError(path=self._source.name) from exc
                if table.num_rows != block.rows:
                    raise errors.InputChangedError(path=self._source.name)
                yield table.filter(wanted)

    # Cutting

    def _raw_blocks(self) -> Iterator[_Raw]:
        stream = self._source.stream(zipped=self._format.gzip)
        data = stream.read(_BLOCK_BYTES)
        complete = len(data) < _BLOCK_BYTES
        header = read_header(data, self._format, self._source.name, complete=complete)
        check_columns(header.names, self._keys, self._source.name)
        self.schema = pa.schema([(column, pa.string()) for column in header.names])
        start, line, data = header.end, 1 + _line_breaks(data[: header.end]), data[header.end :]
        while data or not complete:
            wanted = _BLOCK_BYTES - len(data)
            if not complete:
                more = stream.read(wanted)
                complete = len(more) < wanted
                data += more
            size, quoted, records = self._whole_records(data, line, complete=complete)
            block, data = data[:size], data[size:]
            if _NOT_LINE_BREAK.search(block):
                yield _Raw(start, block, line, quoted, records)
            start, line = start + size, line + _line_breaks(block)

    def _whole_records(self, data: bytes, line: int, *, complete: bool) -> tuple[int, bool, int]:
        """Return how far whole records go [bytes], whether there are quotes in them, and if so how many there are.

        Raises BadInputError if there is none, and for all that is wrong with the quotes of the first.
        """
        size = len(data) if complete else _last_line_end(data)
        if data.find(b'"', 0, size) < 0:
            if not size and data:
                raise errors.LongRowError(path=self._source.name, line=line, limit=MAX_ROW_BYTES)
            return size, False, 0
        # Any encoding will do to find quotes, and this one's characters are bytes.
        text = data[:size].decode("latin-1")
        widths: Counter[int] = Counter()
        try:
            widths.update(map(len, _reader(io.StringIO(text, newline=""), self._format)))
        except csv.Error as exc:
            # The next block begins with the record that does not end, or is wrong.
            size = self._size_of(text, widths.total())
            if not size:
                self._explain(data, line, complete=complete)
                raise errors.UnparsableError(path=self._source.name, format=self._format.kind) from exc
        if widths.keys() - {0, len(self.schema)}:
            self._check_widths(data[:size], line)
        return size, True, widths[len(self.schema)]

    def _size_of(self, text: str, count: int) -> int:
        """Return how long the first records are, empty ones among them [bytes]."""
        reader = _reader(io.StringIO(text, newline=""), self._format)
        deque(islice(reader, count), maxlen=0)
        return sum(map(len, islice(io.StringIO(text, newline=""), reader.line_num)))

    def _explain(self, data: bytes, line: int, *, complete: bool) -> None:
        """Raise what is wrong with the first record."""
        try:
            next(_records(data, self._format, self._source.name, first_line=line))
        except errors.UnclosedQuoteError as exc:
            if complete:
                raise
            raise errors.LongRowError(path=self._source.name, line=line, limit=MAX_ROW_BYTES) from exc

    def _check_widths(self, data: bytes, first_line: int) -> None:
        """Check that all records have the header's length; raises BadInputError with the line."""
        expected = len(self.schema)
        for line, _, fields in _records(data, self._format, self._source.name, first_line=first_line):
            if len(fields) != expected:
                raise errors.RaggedRowError(path=self._source.name, line=line, found=len(fields), expected=expected)

    # Parsing

    def _parse_strictly(self, raw: _Raw, columns: Sequence[str]) -> Any:
        _check_utf8(raw.data, self._source.name, raw.first_line)
        try:
            table = self._parse(raw.data, columns, quoted=raw.quoted)
        except pa.ArrowInvalid as exc:
            self._check_widths(raw.data, raw.first_line)
            raise errors.UnparsableError(path=self._source.name, format=self._format.kind) from exc
        if raw.quoted and raw.records != table.num_rows:
            raise errors.UnparsableError(path=self._source.name, format=self._format.kind)
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

    def _place(self, raw: _Raw, row: int) -> str:
        """Tell where a row of a block stands: path:line."""
        record = next(islice(_records(raw.data, self._format, self._source.name, first_line=raw.first_line), row, None))
        return f"{self._source.name}:{record.line}"
