"""Reads CSV and TSV files block by block.

pyarrow parses the blocks, but it silently accepts errors that lose rows (an unclosed quote, text after a closing one),
and its messages quote rows. psicli therefore never shows these messages. The csv module first reads every block that
has quotes, strictly, and _records finds the line of an error. A block ends where a record ends, so that it never splits
a row, a quoted value or a line end.

A dialect says how the file is written. TSV is CSV with tabs and has the same quotes unless its dialect has none. Every
value is text, empty lines are skipped, and there are no nulls but those that the dialect names.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from psicli.core.errors import (
    BadInputError,
    InputChangedError,
    InputMissingError,
    MalformedInputError,
    UnclosedQuoteError,
    counted,
    shown,
)
from psicli.core.formats import Compression, FileFormat
from psicli.core.places import Place
from psicli.items import compute as pc
from psicli.items.forms.columns import KeyColumns
from psicli.storage.places.reading import folded
from psicli.tables import sniff
from psicli.tables.source import UTF8, Share, Stream, TextInput, check_columns, empty, line_breaks, unparsable

# A row must fit in a block, and larger blocks are not faster.
MAX_ROW_BYTES = 4 << 20
# One more byte shows whether an LF follows the CR at the end of a row of maximum length.
_BLOCK_BYTES = MAX_ROW_BYTES + 1
# The header must end within this many bytes.
MAX_HEADER_BYTES = 1 << 20
_DOUBLED = (
    "a quote inside a quoted value is written twice. If quotes are ordinary characters in this file, set "
    "`csv.quotes: false`."
)
# The delimiters that psicli looks for in a header without the key columns, and their names.
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
# Other characters that may separate values; psicli cannot read a file with the control characters.
_ODD = re.compile(r"[!#$%&*+<=>?^`~\x00-\x08\x0e-\x1f]")
# Values between any delimiters, and those that hardly name a column: numbers, dates, times, e-mail addresses, hashes.
_PARTS = re.compile(r"[^,;|\t\"]+")
_VALUE = re.compile(r"\s*([+-]?\d[\d.:/ TZ+-]*|\S+@\S+\.\S+|[0-9a-fA-F-]{16,})\s*")
_NO_HEADER = (
    "If the file has no header, set `csv.header: false`; its columns are then called 1, 2 and so on. If it has one, "
    "check keys in the job file; column names must match exactly, including case and spaces."
)
# In how many rows below the first one psicli looks for the header.
_ROWS_SEARCHED = 20
# So much text around a byte that is not UTF-8 shows what may be wrong with it [bytes].
_SURROUNDINGS_BYTES = 1 << 16

_BOM_CHARACTER = "\ufeff"
_BOM = _BOM_CHARACTER.encode()
_EXCEL_HINT = re.compile(rb'"?sep=([\t -~])"?[\r\n]', re.IGNORECASE)
_MARKED_ROW = re.compile(rb'(?:\A|[\r\n])"?' + _BOM)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")


# Records -------------------------------------------------------------------------------------------------------


def _reader(lines: Iterable[str], fmt: FileFormat) -> Any:
    csv.field_size_limit(MAX_ROW_BYTES)
    if fmt.dialect.quotes:
        return csv.reader(lines, delimiter=fmt.delimiter, strict=True)
    return csv.reader(lines, delimiter=fmt.delimiter, quoting=csv.QUOTE_NONE, strict=True)


class _Record(NamedTuple):
    line: int  # the physical line on which the record starts
    end: int  # the offset of the byte after the record
    fields: list[str]


def _records(data: bytes, fmt: FileFormat, name: str, *, start: int = 0, first_line: int = 1) -> Iterator[_Record]:
    """Read record by record, strictly and slowly, and skip empty lines; raises BadInputError with the line."""
    # The offset after the last line that the reader consumed, and whether it asked for more lines than there are.
    end, done = start, False

    def lines() -> Iterator[str]:
        """Yield the physical lines for csv.reader; a line ends with LF, CRLF or a single CR."""
        nonlocal end, done
        for match in _LINE.finditer(data, start):
            end = match.end()
            # _check_utf8 reports invalid UTF-8; here such bytes must not stop the reader.
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


def _last_line_end(data: bytes) -> int:
    """Return the offset after the last line end that precedes the last byte, or 0 if there is none."""
    # A CR followed by an LF is only half of a line end.
    stop = -2 if data.endswith(b"\r\n") else -1
    return max(data.rfind(b"\n", 0, -1), data.rfind(b"\r", 0, stop)) + 1


def _check_utf8(data: bytes, name: str, first_line: int = 1) -> None:
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        # Validating the whole block as one text is seven times as fast as decoding it.
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            line = first_line + line_breaks(data[: exc.start])
            around = data[max(exc.start - _SURROUNDINGS_BYTES, 0) : exc.start + _SURROUNDINGS_BYTES]
            advice = sniff.encoding_advice(around)
            raise MalformedInputError(place=f"{name}:{line}", fault="not UTF-8 text", advice=advice) from exc


def read_header(data: bytes, fmt: FileFormat, name: str, keys: Sequence[str], *, complete: bool) -> tuple[Any, int]:
    """Return the columns as a pa.Schema and the offset of the first row [bytes], from a file's first bytes.

    complete: whether `data` is the whole file. Raises BadInputError, InputMissingError.
    """
    if not data:
        raise _empty(name, fmt)
    start = len(_BOM) if data.startswith(_BOM) else 0
    try:
        first = next(_records(data, fmt, name, start=start), None)
    except UnclosedQuoteError:
        first = None
        if complete:
            raise
    except MalformedInputError as exc:
        # In a header with another delimiter, text seems to follow each closing quote.
        exc.facts["advice"] = _advice_on_header(data[start:], (), fmt, keys) or exc.advice
        raise
    if first is None and complete:
        raise _empty(name, fmt)
    if first is None or first.end >= MAX_HEADER_BYTES:
        raise MalformedInputError(
            place=f"{name}:{1 if first is None else first.line}",
            fault=f"the first row is longer than {MAX_HEADER_BYTES:,} bytes, which is the most for a header",
            advice="Check that its lines end with LF or CRLF, and look for an unclosed quote. If the file has so many "
            "columns, leave out those that you do not need.",
        )
    _check_utf8(data[: first.end], name)
    columns = _names(first.fields, fmt)
    advice = None
    if not set(keys) <= set(columns):
        advice = _header_below(data, first, fmt, keys)
        advice = advice or _advice_on_header(data[start : first.end], first.fields, fmt, keys)
        _refuse_data(columns, fmt, name, keys, advice)
    check_columns(columns, keys, name, advice)
    return pa.schema([(column, pa.string()) for column in columns]), first.end if fmt.dialect.header else start


def _empty(name: str, fmt: FileFormat) -> MalformedInputError:
    if fmt.dialect.header:
        return empty(name)
    return MalformedInputError(
        place=name,
        fault="the file is empty, so psicli cannot tell which columns it has",
        advice="Check that the export is complete; a file that may have no rows needs a header.",
    )


def _names(first: Sequence[str], fmt: FileFormat) -> list[str]:
    """Return the names of the columns, given the first row."""
    if not fmt.dialect.header:
        return [str(number + 1) for number in range(len(first))]
    # Some tools put the byte order mark inside the quotes of the first name, or write two.
    return [first[0].lstrip(_BOM_CHARACTER), *first[1:]]


def _advice_on_header(data: bytes, first: Sequence[str], fmt: FileFormat, keys: Sequence[str]) -> str | None:
    """Return what to do about a first row without the key columns, if the dialect seems to be wrong."""
    if hint := _EXCEL_HINT.match(data):
        setting = f"csv.delimiter: {_in_yaml(hint[1].decode())}"
        return f"Remove the first line, which only Excel understands, and set `{setting}`."
    found: dict[str, list[str]] = {}
    for other in _DELIMITERS.keys() - {fmt.delimiter}:
        dialect = fmt.dialect._replace(delimiter=other)
        with suppress(BadInputError):
            found[other] = _names(next(_records(data, fmt._replace(dialect=dialect), "")).fields, fmt)
    fitting = [other for other, columns in found.items() if set(keys) <= set(columns)]
    if not fitting and len(first) <= 1:
        fitting = [other for other, columns in found.items() if len(columns) > 1]
    if fitting:
        other = max(fitting, key=lambda other: len(found[other]))
        name = _DELIMITERS[other]
        return f"The file looks {name}-separated; set `csv.delimiter: {_in_yaml(other)}` in the job file."
    for odd in _ODD.findall(first[0]) if len(first) == 1 else ():
        if set(keys) <= set(first[0].split(odd)) and odd < " ":
            return f"The file looks separated by the control character {shown(odd)}; write it with another delimiter."
        if set(keys) <= set(first[0].split(odd)):
            return f"The file looks separated by {shown(odd)}; set `csv.delimiter: {_in_yaml(odd)}` in the job file."
    numbered = all(re.fullmatch("[1-9][0-9]*", key) for key in keys)
    if fmt.dialect.header and numbered:
        return "If the file has no header, set `csv.header: false`; its columns are then called 1, 2 and so on."
    if not fmt.dialect.header and not numbered:
        return "With `csv.header: false`, columns are called 1, 2 and so on; use these names in keys in the job file."
    return None


def _refuse_data(columns: Sequence[str], fmt: FileFormat, name: str, keys: Sequence[str], advice: str | None) -> None:
    """Refuse a header that seems to be a row of data, without a word of it; raises InputMissingError."""
    known = {folded(column) for column in columns}
    key = next(key for key in keys if key not in columns)
    parts = _PARTS.findall(",".join(columns))
    if fmt.dialect.header and folded(key) not in known and any(map(_VALUE.fullmatch, parts)):
        raise InputMissingError(
            place=name,
            fault=f"there is no column {shown(key)}, and the first row looks like data",
            advice=advice or _NO_HEADER,
        )


def _header_below(data: bytes, first: _Record, fmt: FileFormat, keys: Sequence[str]) -> str | None:
    """Return what to do if the header has lines above it, such as a title."""
    if not fmt.dialect.header:
        return None
    line = line_breaks(data[: first.end]) + 1
    with suppress(BadInputError):
        for record in islice(_records(data, fmt, "", start=first.end, first_line=line), _ROWS_SEARCHED):
            if set(keys) <= set(record.fields):
                return f"The header seems to be in line {record.line}; remove the lines above it."
    return None


def _in_yaml(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else f'"{delimiter}"'


def _long_row(name: str, line: int) -> MalformedInputError:
    return MalformedInputError(
        place=f"{name}:{line}",
        fault=f"the row is longer than {MAX_ROW_BYTES:,} bytes",
        advice="Look for a quote that is closed too late, or leave the long column out of this file.",
    )


# The input -----------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Consecutive whole records of a file."""

    start: int  # offset in the unzipped file
    size: int  # [bytes]
    line: int  # the physical line on which the block starts
    quoted: bool
    rows: int  # before parsing: the records that the csv module counted in a block with quotes


class DelimitedInput(TextInput):
    """A CSV or TSV file that is read once for its keys and once for its matched rows.

    schema: the columns as a pa.Schema, known once the first keys are read; rows: the number of rows read so far.
    """

    def __init__(self, place: Place, name: str, columns: KeyColumns, fmt: FileFormat) -> None:
        super().__init__(place, name, columns)
        self.schema = pa.schema([])
        self.format, self.is_packed = fmt, fmt.is_packed
        self._blocks: list[_Block] = []

    def header(self) -> Any:
        """Read the names of the columns and return them; raises BadInputError, InputMissingError, StorageError."""
        head = self._stream().read(MAX_HEADER_BYTES)
        self._read_header(head, complete=len(head) < MAX_HEADER_BYTES)
        return self.schema

    def key_batches(self, share: Share | None = None) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column.

        share: the only rows to read. Finds every error in them. Raises BadInputError, InputMissingError, StorageError.
        """
        with self.watched():
            for block, data in self._read_blocks(share):
                rows, where = self._parse_strictly(block, data), (block.line, data)
                texts = self.columns.texts(rows, partial(self._place, *where), partial(self._lines_of, *where))
                self._check_joined(rows, block, data)
                self._blocks.append(block._replace(rows=rows.num_rows))
                self.rows += rows.num_rows
                yield texts

    def matched(self, mask: Any, _budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables, in file order, one block at a time."""
        stream = self._stream()
        row = 0
        for block in self._blocks:
            wanted = mask.slice(row, block.rows)
            row += block.rows
            if wanted.true_count:
                data = stream.read(block.size, block.start)
                try:
                    table = self._parse(data, self.selection.of(self.schema, self.keys).names, quoted=block.quoted)
                except pa.ArrowInvalid as exc:
                    # The first pass parsed these bytes without an error.
                    raise InputChangedError(path=self.name) from exc
                if table.num_rows != block.rows:
                    raise InputChangedError(path=self.name)
                yield pc.filter_(table, wanted)

    # Blocks

    def _stream(self, share: Share | None = None) -> Stream:
        return Stream(self, self.format.compression, self.format.dialect.encoding, share)

    def _first_row(self) -> int | None:
        dialect = self.format.dialect
        # Quotes may enclose an LF that ends no row.
        if dialect.quotes or dialect.encoding != UTF8 or self.format.compression is not Compression.NONE:
            return None
        head = self._stream().read(MAX_HEADER_BYTES)
        start = self._read_header(head, complete=len(head) < MAX_HEADER_BYTES)
        self._next_line = 1 + line_breaks(head[:start])
        return start

    def _read_header(self, head: bytes, *, complete: bool) -> int:
        """Read the names of the columns from the first bytes of the file, and return the offset of the first row."""
        self.schema, start = read_header(head, self.format, self.name, self.keys, complete=complete)
        self.check_selected(self.schema.names)
        return start

    def _read_blocks(self, share: Share | None) -> Iterator[tuple[_Block, bytes]]:
        if share is not None:
            self.header()
        stream = self._stream(share)
        data = stream.read(_BLOCK_BYTES)
        complete = len(data) < _BLOCK_BYTES
        start, line = 0 if share is None else share.start, 1
        if share is None:
            start = self._read_header(data, complete=complete)
            line, data = 1 + line_breaks(data[:start]), data[start:]
        while data or not complete:
            wanted = _BLOCK_BYTES - len(data)
            if not complete:
                more = stream.read(wanted)
                complete = len(more) < wanted
                data += more
            self._text_bytes = stream.text_bytes
            size, quoted, records = self._whole_records(data, line, complete=complete)
            block, data = data[:size], data[size:]
            if _NOT_LINE_BREAK.search(block):
                yield _Block(start, size, line, quoted, records), block
            start, line = start + size, line + line_breaks(block)
            self._next_line = line

    def _whole_records(self, data: bytes, line: int, *, complete: bool) -> tuple[int, bool, int]:
        """Return the size of the whole records in `data` [bytes], whether they have quotes, and how many they are.

        Counts records only if there are quotes, and otherwise returns 0. Raises BadInputError if no whole record fits
        in a block, if the first record has an error in its quotes, or if a record has a wrong number of fields.
        """
        size = len(data) if complete else _last_line_end(data)
        if not self.format.dialect.quotes or data.find(b'"', 0, size) < 0:
            if not size and data:
                raise _long_row(self.name, line)
            return size, False, 0
        # Any encoding is good enough to find quotes, and in this one every byte is a character.
        text = data[:size].decode("latin-1")
        widths: Counter[int] = Counter()
        try:
            widths.update(map(len, _reader(io.StringIO(text, newline=""), self.format)))
        except csv.Error as exc:
            # The next block starts with the record that is incomplete or wrong. Measure the records before it.
            reader = _reader(io.StringIO(text, newline=""), self.format)
            deque(islice(reader, widths.total()), maxlen=0)
            size = sum(map(len, islice(io.StringIO(text, newline=""), reader.line_num)))
            if not size:
                self._raise_first_error(data, line, complete=complete)
                raise unparsable(self.name, self.format.kind) from exc
        if widths.keys() - {0, len(self.schema)}:
            self._check_widths(data[:size], line)
        return size, True, widths[len(self.schema)]

    def _raise_first_error(self, data: bytes, line: int, *, complete: bool) -> None:
        """Raise the error of the first record, if it has one."""
        try:
            next(self._records(data, line))
        except UnclosedQuoteError as exc:
            if complete:
                raise
            raise _long_row(self.name, line) from exc

    def _check_widths(self, data: bytes, first_line: int) -> None:
        """Check that all records have as many fields as the header; raises BadInputError with the line."""
        expected = len(self.schema)
        for line, _, fields in self._records(data, first_line):
            if len(fields) != expected:
                raise MalformedInputError(
                    place=f"{self.name}:{line}",
                    fault=f"the row has {counted(len(fields), 'field')}, but the header has {expected}",
                    advice="Check the row; a value that contains the delimiter must be in quotes.",
                )

    def _check_joined(self, rows: Any, block: _Block, data: bytes) -> None:
        """Refuse what is left where files were joined: a byte order mark before a row, or the header as a row."""
        names = self.schema.names
        # One column may well hold its own name, but a row does not hold all of them by chance.
        repeated = self.format.dialect.header and len(names) > 1 and bool(self.keys)
        for key in self.keys:
            repeated = repeated and pc.any(pc.equal(rows.column(key), key)).as_py() is True
        # To look for one byte is ten times as fast, and most files have none of it.
        marked = _BOM[:1] in data and _BOM in data and _MARKED_ROW.search(data)
        if not marked and not repeated:
            return
        for line, _, fields in self._records(data, block.line):
            with_mark = fields[0].startswith(_BOM_CHARACTER)
            if with_mark or (repeated and fields == names):
                what = "starts with a byte order mark (U+FEFF)" if with_mark else "repeats the header"
                raise MalformedInputError(
                    place=f"{self.name}:{line}",
                    fault=f"this row {what}",
                    advice="Remove it; in a file that is joined from several, only the first may start with this.",
                )

    def _records(self, data: bytes, first_line: int) -> Iterator[_Record]:
        return _records(data, self.format, self.name, first_line=first_line)

    def _parse_strictly(self, block: _Block, data: bytes) -> Any:
        _check_utf8(data, self.name, block.line)
        try:
            table = self._parse(data, self.keys, quoted=block.quoted)
        except pa.ArrowInvalid as exc:
            self._check_widths(data, block.line)
            raise unparsable(self.name, self.format.kind) from exc
        if block.quoted and block.rows != table.num_rows:
            raise unparsable(self.name, self.format.kind)
        return table

    def _parse(self, data: bytes, columns: Sequence[str], *, quoted: bool) -> Any:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            # As the block is also pyarrow's only block, pyarrow splits no row and no line end. A second thread gains
            # nothing here.
            read_options=pa.csv.ReadOptions(
                column_names=self.schema.names, block_size=len(data) + 1, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.format.delimiter,
                quote_char='"' if self.format.dialect.quotes else False,
                newlines_in_values=quoted,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=self.schema,
                include_columns=list(dict.fromkeys(columns)),
                null_values=self.format.dialect.null_values,
                strings_can_be_null=bool(self.format.dialect.null_values),
                check_utf8=False,
            ),
        )

    def _place(self, first_line: int, data: bytes, row: int) -> str:
        return f"{self.name}:{self._lines_of(first_line, data, [row])[0]}"

    def _lines_of(self, first_line: int, data: bytes, rows: Sequence[int]) -> list[int]:
        """Return the lines on which rows of a block start; the rows are in order."""
        records = enumerate(islice(self._records(data, first_line), rows[-1] + 1))
        return [record.line for row, record in records if row in rows]
