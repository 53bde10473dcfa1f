"""Reads JSON Lines (also called NDJSON): one JSON object per line, in UTF-8.

The first pass parses every line, and takes the key texts and the names in the objects. No number is ever rounded: an
integer in a key is exact, and any other number in a key is refused. Values are otherwise as in the file: an output in
JSON Lines gets the matched lines unchanged, and any other output gets a column of text for every name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import compress, islice
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import ColumnError, InputChangedError, MalformedInputError, shown
from psicli.core.formats import Compression, FileFormat, Format
from psicli.core.places import Place
from psicli.items.forms.columns import KeyColumns
from psicli.tables.delimited import MAX_ROW_BYTES
from psicli.tables.source import Share, Stream, TextInput, check_columns

# A block has room for the longest row and its line end, and ends after its last whole line.
_BLOCK_BYTES = MAX_ROW_BYTES + 1
# A block has about this many lines at most, because objects of a few bytes take much more in memory.
_BLOCK_LINES = 131_072
# As much of the file as a check reads [bytes].
_HEAD_BYTES = 1 << 20
# Every name becomes a column, except in JSON Lines. Data whose names are values would make a column for each value.
_MAX_NAMES = 10_000
# At most this many values become text columns in one step.
_STEP_VALUES = 1 << 20
_BOM = "\ufeff"
# What JSON allows between its tokens.
_SPACE = " \t\r\n"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_AS_LINES = "Write one object per line, for example with `jq -c"

# Lines ---------------------------------------------------------------------------------------------------------


class _NotJsonError(ValueError):
    """A fault of a line that Python's json module accepts, and what to do."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotJsonError("an object has the same name twice", "Rename one of the two, or remove one.")
    return found


def _constant(text: str) -> None:
    raise _NotJsonError(f"{text} is not a value in JSON", "Write null or a string instead.")


# A number with a fraction or an exponent becomes bytes: psicli never computes with it, and so it is not rounded.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=str.encode)


def _parsed(line: str) -> dict[str, Any]:
    """Return the object of a line without spaces around it; raises ValueError, RecursionError."""
    found, end = _DECODER.raw_decode(line)
    if end != len(line):
        raise _NotJsonError("text follows the JSON value", f"{_AS_LINES} .`.")
    if type(found) is not dict:
        raise _NotJsonError("the JSON value is not an object", f"{_AS_LINES} .`.")
    return found


def _fault(line: str, exc: Exception, place: str) -> MalformedInputError:
    """Return the error for a line that cannot be parsed; its message shows nothing of the line."""
    advice = f"{_AS_LINES} .`."
    if line[0] == "[":
        fault, advice = "the line starts a JSON array, not an object", f"{_AS_LINES} '.[]'`."
    elif isinstance(exc, _NotJsonError):
        fault, advice = exc.args
    elif isinstance(exc, json.JSONDecodeError):
        fault = f"not valid JSON at character {exc.pos + 1:,} of the line"
    elif isinstance(exc, RecursionError):
        fault, advice = "arrays or objects are nested too deeply", "Leave the nested value out of the input."
    else:
        fault, advice = "an integer has too many digits", "Write it as text, or leave it out of the input."
    return MalformedInputError(place=place, fault=fault, advice=advice)


def _members(line: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield the names in the object of a valid line, each with its value as text and as it is in the file.

    As text, a string is its characters, null is None, and any other value is as in the file.
    """
    read = _DECODER.raw_decode
    at = _after_spaces(line, 1)
    while line[at] != "}":
        name, at = read(line, at)
        start = _after_spaces(line, _after_spaces(line, at) + 1)
        value, at = read(line, start)
        text = line[start:at]
        yield name, value if value is None or type(value) is str else text, text
        at = _after_spaces(line, at)
        if line[at] == ",":
            at = _after_spaces(line, at + 1)


def _after_spaces(line: str, at: int) -> int:
    while line[at] in _SPACE:
        at += 1
    return at


# Lines by their numbers in the file.
_Lines = dict[int, str]


class _Block(NamedTuple):
    """Consecutive whole lines of a file. line: the number of the first one; rows: how many are not empty."""

    start: int  # offset in the uncompressed file
    size: int
    line: int
    rows: int = 0


# The input -----------------------------------------------------------------------------------------------------


class JsonlInput(TextInput):
    """A JSON Lines file that is read once for its keys and once for its matched rows.

    output: the format of the output, or None if this party writes none. line_column: the name of the column with whole
    lines, which there is for an output in JSON Lines. rows: the number of rows read so far.
    """

    def __init__(
        self, place: Place, name: str, columns: KeyColumns, fmt: FileFormat, output: FileFormat | None = None
    ) -> None:
        super().__init__(place, name, columns)
        as_lines = output is not None and output.kind is Format.JSONL
        self.line_column = f"line {''.join(self.keys)}" if as_lines else None
        # Whether every name becomes a column of text.
        self._as_columns = output is not None and not as_lines
        self._compression = fmt.compression
        self.is_packed = fmt.is_packed
        self._names: dict[str, None] = {}
        self._blocks: list[_Block] = []

    @property
    def schema(self) -> Any:
        """Return the columns as a pa.Schema; all are known once all keys are read."""
        selected = self._names if self.selection.columns is None else self.selection.columns
        names = self.keys if self.line_column else [*selected, *self.keys]
        return pa.schema([(name, pa.string()) for name in dict.fromkeys([*names, *filter(None, [self.line_column])])])

    def header(self) -> Any:
        """Read the first lines and return their columns; raises BadInputError, InputMissingError, StorageError."""
        head = Stream(self, self._compression).read(_HEAD_BYTES)
        complete = len(head) < _HEAD_BYTES
        lines = self._lines(_Block(0, len(head), 1), head if complete else head[: head.rfind(b"\n") + 1])
        self._keys_of(lines)
        if complete and lines:
            self._check_found()
        return self.schema

    def key_batches(self, share: Share | None = None) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column.

        share: the only rows to read. Finds every error in them. Raises BadInputError, InputMissingError, StorageError.
        """
        with self.watched():
            for block, data in self._read_blocks(share):
                lines = self._lines(block, data)
                numbers = partial(_numbers, [*lines])
                texts = self.columns.texts(self._keys_of(lines), partial(self._place_in, lines), numbers)
                self._blocks.append(block._replace(rows=len(lines)))
                self.rows += len(lines)
                yield texts
            if share is None:
                self._check_names()

    def part(self) -> Any:
        return super().part(), self._names

    def join(self, parts: Iterable[Any]) -> None:
        lines, names = zip(*parts, strict=True)
        super().join(lines)
        for each in names:
            self._add_names(each, {*self._names}, 1)
        self._check_names()

    def _check_names(self) -> None:
        if self.rows:
            self._check_found()

    def _check_found(self) -> None:
        check_columns([*self._names], self.keys, self.name)
        self.check_selected([*self._names])

    def _first_row(self) -> int | None:
        return 0 if self._compression is Compression.NONE else None

    def matched(self, mask: Any, _budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables, in file order, one block or less at a time."""
        stream = Stream(self, self._compression)
        step = max(_STEP_VALUES // len(self.schema), 1)
        row = 0
        for block in self._blocks:
            wanted = mask.slice(row, block.rows)
            row += block.rows
            if wanted.true_count:
                lines = self._lines(block, stream.read(block.size, block.start))
                if len(lines) != block.rows:
                    raise InputChangedError(path=self.name)
                picked = compress(lines.items(), wanted.to_pylist())
                while part := dict(islice(picked, step)):
                    yield self._columns_of(part)

    # Blocks

    def _read_blocks(self, share: Share | None) -> Iterator[tuple[_Block, bytes]]:
        stream = Stream(self, self._compression, share=share)
        start, line, data, complete = 0 if share is None else share.start, 1, b"", False
        while data or not complete:
            wanted = _BLOCK_BYTES - len(data)
            if not complete:
                more = stream.read(wanted)
                complete = len(more) < wanted
                data += more
            self._text_bytes = stream.text_bytes
            size = len(data) if complete else data.rfind(b"\n") + 1
            lines = data.count(b"\n", 0, size)
            if lines > _BLOCK_LINES:
                size = data.rfind(b"\n", 0, size * _BLOCK_LINES // lines) + 1 or size
            if data and not size:
                raise MalformedInputError(
                    place=f"{self.name}:{line}",
                    fault=f"the line is longer than {MAX_ROW_BYTES:,} bytes",
                    advice="Write one object per line, or leave the long value out of this file.",
                )
            block, data = data[:size], data[size:]
            yield _Block(start, size, line), block
            start, line = start + size, line + block.count(b"\n")
            self._next_line = line

    def _lines(self, block: _Block, data: bytes) -> _Lines:
        """Return the lines of a block that are not empty, without the spaces around them; raises BadInputError."""
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            raise MalformedInputError(
                place=self._place(block.line + data.count(b"\n", 0, exc.start)),
                fault="not UTF-8 text",
                advice="JSON Lines are always UTF-8. Convert the file, or correct this line where the file is made.",
            ) from exc
        text = text if block.start else text.removeprefix(_BOM)
        stripped = (line.strip(_SPACE) for line in text.split("\n"))
        return {number: line for number, line in enumerate(stripped, block.line) if line}

    # Rows

    def _keys_of(self, lines: _Lines) -> Any:
        """Parse lines, collect their names, and return the texts of their keys as a pa.Table."""
        columns: dict[str, list[str | None]] = {key: [] for key in self.keys}
        known = set(self._names)
        for number, line in lines.items():
            try:
                found = _parsed(line)
            except (ValueError, RecursionError) as exc:
                raise _fault(line, exc, self._place(number)) from exc
            if not known.issuperset(found):
                self._add_names(found, known, number)
            if self._as_columns and "\\u" in line and not _is_unicode(line):
                raise self._half_character(number)
            for key, values in columns.items():
                value = found.get(key)
                values.append(value if value is None or type(value) is str else self._key_text(value, key, number))
        return pa.table([self._text_column(values, lines) for values in columns.values()], names=[*columns])

    def _add_names(self, found: Iterable[str], known: set[str], number: int) -> None:
        """Add the names of an object to those of the file, and to the set of these that makes the search faster."""
        self._names |= dict.fromkeys(found)
        known.update(found)
        if len(known) > _MAX_NAMES:
            if self._as_columns and self.selection.columns is None:
                raise MalformedInputError(
                    place=self._place(number),
                    fault=f"the objects up to here have more than {_MAX_NAMES:,} different names, too many for columns",
                    advice="List those to write under output.columns, write a .jsonl output, or use fixed names.",
                )
            # The names are only needed to know whether the ones that the job file names are among them.
            needed = {*self.keys, *(self.selection.columns or ()), self.selection.added}
            self._names = dict.fromkeys(name for name in self._names if name in needed)
            known.intersection_update(self._names)

    def _key_text(self, value: Any, key: str, number: int) -> str:
        if type(value) is int:
            return str(value)
        if type(value) is bool:
            return "true" if value else "false"
        number_or_object = "a number with a fraction or an exponent" if type(value) is bytes else "an object"
        kind = "an array" if type(value) is list else number_or_object
        raise ColumnError(
            place=self._place(number),
            fault=f"the key {shown(key)} is {kind}, which has no unique text form",
            advice="Write keys as strings or integers.",
        )

    def _text_column(self, values: Sequence[str | None], lines: _Lines) -> Any:
        try:
            return pa.array(values, pa.large_string())
        except UnicodeEncodeError as exc:
            bad = next(number for number, value in zip(lines, values, strict=True) if not _has_utf8(value))
            raise self._half_character(bad) from exc

    def _half_character(self, number: int) -> MalformedInputError:
        return MalformedInputError(
            place=self._place(number),
            fault="an escape sequence in a string stands for half a character (a lone surrogate)",
            advice="Write the file again from valid Unicode text.",
        )

    def _columns_of(self, lines: _Lines) -> Any:
        """Return the columns of lines that have been parsed before, as a pa.Table."""
        if self.line_column:
            texts = map(self._selected, lines.values())
            return self._keys_of(lines).append_column(self.line_column, pa.array(texts, pa.large_string()))
        columns: dict[str, list[str | None]] = {name: [None] * len(lines) for name in self.schema.names}
        try:
            for row, line in enumerate(lines.values()):
                for name, value, _ in _members(line):
                    if name in columns:
                        columns[name][row] = value
        # The first pass parsed these lines without an error.
        except (ValueError, LookupError, RecursionError) as exc:
            raise InputChangedError(path=self.name) from exc
        return pa.table(columns, schema=self.schema)

    def _selected(self, line: str) -> str:
        """Return the line for the output: as it is, or an object of the selected members that it has."""
        if self.selection.columns is None:
            return line
        try:
            found = {name: text for name, _, text in _members(line)}
        # The first pass parsed this line without an error.
        except (ValueError, LookupError, RecursionError) as exc:
            raise InputChangedError(path=self.name) from exc
        named = ((json.dumps(name, ensure_ascii=False), found.get(name)) for name in self.selection.columns)
        return f"{{{','.join(f'{name}:{text}' for name, text in named if text is not None)}}}"

    def _place_in(self, lines: _Lines, row: int) -> str:
        return self._place(next(islice(lines, row, None)))

    def _place(self, number: int) -> str:
        return f"{self.name}:{number}"


def _numbers(lines: Sequence[int], rows: Sequence[int]) -> list[int]:
    return [lines[row] for row in rows]


def _is_unicode(line: str) -> bool:
    """Return whether the names and the strings of a valid line are text; JSON also allows half a character."""
    return not _SURROGATE.search(line) or all(_has_utf8(name) and _has_utf8(value) for name, value, _ in _members(line))


def _has_utf8(text: str | None) -> bool:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True
