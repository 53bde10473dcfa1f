"""Opens input files, detects changes to them, and decompresses and decodes them while they are read."""

from __future__ import annotations

import codecs
import difflib
import gzip
import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple, Self

import pyarrow as pa

from psicli.core import errors
from psicli.core.errors import printable, shown
from psicli.core.formats import Compression, FileFormat, Format
from psicli.core.places import Place
from psicli.items.forms.columns import KeyColumns
from psicli.storage.places.reading import AHEAD_BYTES, folded, open_file
from psicli.tables import sniff
from psicli.tables.values import Sample, Selection

_MAX_SHOWN_COLUMNS = 30
# To compare a name with many others takes long.
_COMPARED_COLUMNS = 1000
# The size of the pieces in which data is decoded or skipped [bytes].
_PIECE_BYTES = 1 << 17
# The size of the content of a compressed file divided by the size of the file, as a guess.
UNPACKED = 5
UTF8 = "utf-8"

# How messages call formats whose names are not abbreviations.
_CALLED = {Format.PARQUET: "Parquet", Format.ARROW: "Arrow", Format.ARROW_STREAM: "an Arrow stream"}

# The identity of a file, and the SHA-256 of its content, empty for an object of a store.
Fingerprint = tuple[int | str, ...]


class Share(NamedTuple):
    """A part of an input that can be read without the others: row groups, or the bytes of whole lines."""

    start: int
    stop: int


class SourceFile:
    """An open input file that must not change until it is closed.

    Raises InputMissingError. name: the name of the file in messages; size: the size of the file [bytes]; columns: the
    key columns; keys: their names.
    """

    # Whether times of day are in UTC; only Parquet says so.
    utc_times = False
    # What the numbers of rows count.
    unit = "row"
    # The column with whole lines, if this is JSON Lines for an output in JSON Lines.
    line_column: str | None = None
    # Whether the file is smaller than its content.
    is_packed = True
    # The columns that this party's output needs.
    selection = Selection()

    def __init__(self, place: Place, name: str, columns: KeyColumns | None = None) -> None:
        self.name = name = printable(name)
        self.columns = columns or KeyColumns(())
        self.keys = self.columns.names
        self.file = open_file(place, name)
        self.identity = self.file.identity
        self.size = self.file.size

    def check_selected(self, columns: Sequence[str]) -> None:
        """Check that the file, which has these columns, fits the output; raises InputMissingError, ColumnError."""
        check_selection(columns, self.selection, self.name)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise InputChangedError if the file has changed by the end of the block, even after another error."""
        try:
            yield
        except errors.PsicliError:
            # If the file changed while psicli read it, the change caused the error, not the content of the file.
            self.file.check_unchanged()
            raise
        self.file.check_unchanged()

    def check_content(self, fmt: FileFormat) -> None:
        """Check that the first bytes of the file do not contradict its format; raises MalformedInputError."""
        with self.watched(), errors.storing(self.name, "reading"):
            found = sniff.mismatch(self.file.pread(0, sniff.HEAD_BYTES), fmt)
            if found is None and fmt.compression is not Compression.NONE:
                head = Stream(self, fmt.compression).read(sniff.HEAD_BYTES)
                found = sniff.mismatch(head, fmt, unpacked=True)
            if found is not None:
                raise errors.MalformedInputError(place=self.name, fault=found.fault, advice=found.advice)

    @property
    def content_bytes(self) -> int:
        """Guess the size of the content without compression [bytes]."""
        return self.size * (UNPACKED if self.is_packed else 1)

    def view(self) -> Any:
        """Return another file object on the same file, with its own position, for use in another thread."""
        return self.file.view()

    def close(self) -> None:
        """Close the file; does nothing if it is closed already."""
        self.columns.close()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextInput(SourceFile, ABC):
    """An input of text, which is read block by block: once for its keys and once for its matched rows.

    rows: the number of rows read so far.
    """

    # The blocks read so far, each with its start and its size in the decompressed file, and its first line.
    _blocks: list[Any]
    # The line after those blocks.
    _next_line = 1

    unit = "line"

    def __init__(self, place: Place, name: str, columns: KeyColumns) -> None:
        super().__init__(place, name, columns)
        self.rows = 0
        # An estimate of the size of the whole file as decompressed UTF-8 text [bytes].
        self._text_bytes = 0

    @abstractmethod
    def header(self) -> Any:
        """Return the columns as a pa.Schema; raises BadInputError, InputMissingError, StorageError."""

    @abstractmethod
    def _first_row(self) -> int | None:
        """Return where the rows start, if every LF in the file ends a row and no row needs another one to be read."""

    def shares(self, size: int) -> list[Share]:
        """Cut the rows into shares of about `size` bytes; return none if that is not safe. Raises as `header`."""
        start = self._first_row()
        if start is None:
            return []
        cuts = [start]
        while cuts[-1] + size < self.size:
            at = cuts[-1] + size
            with errors.storing(self.name, "reading"):
                found = self.file.pread(at, _PIECE_BYTES).find(b"\n")
            if found >= 0:
                cuts.append(at + found + 1)
            elif at + _PIECE_BYTES < self.size:
                return []
            else:
                break
        return [Share(start, stop) for start, stop in pairwise([*cuts, self.size]) if start < stop]

    def part(self) -> Any:
        """Return what has been found in a share, for `join`."""
        return self.rows, self._blocks, self._next_line - 1, self.columns.unfit

    def join(self, parts: Iterable[Any]) -> None:
        """Take over what was found in all shares, as if this object had read the whole file."""
        for rows, blocks, lines, unfit in parts:
            self.rows += rows
            self.columns.join(unfit, self._next_line - 1)
            self._blocks += [block._replace(line=self._next_line - 1 + block.line) for block in blocks]
            self._next_line += lines

    @property
    def expected_rows(self) -> int:
        """Estimate the number of rows in the file from the density of the blocks read so far [rows]."""
        if not self._blocks:
            return 0
        last = self._blocks[-1]
        estimate: int = self.rows * self._text_bytes // max(last.start + last.size, 1)
        return estimate

    def sample(self) -> Sample:
        """Return a row without values, because a file of text has no values that cannot be written."""
        schema = self.header()
        return Sample(schema, self.keys, self.name, pa.Table.from_pylist([{}], schema))

    def ordered_values(self, _: str) -> Any:
        """Return the values of an ordered dictionary column; no file of text has such a column."""
        return pa.array([], pa.string())


class Stream:
    """A reader of a file from start to end: decompressed, and as UTF-8 text if it has another encoding.

    share: the bytes to read; only a file without compression in UTF-8 has shares. Raises MalformedInputError,
    StorageError.
    """

    def __init__(
        self, source: SourceFile, compression: Compression, encoding: str = UTF8, share: Share | None = None
    ) -> None:
        self._source = source.file.view(ahead=AHEAD_BYTES)
        self._size = source.size
        self._file: Any = _decompressed(self._source, compression)
        self._can_seek = compression is Compression.NONE and encoding == UTF8
        if encoding != UTF8:
            self._file = _Transcoder(self._file, encoding, source.name)
        self._compression = compression
        self._name = source.name
        self._at = 0
        self._stop = None if share is None else share.stop
        if share is not None:
            self._skip_to(share.start)

    @property
    def text_bytes(self) -> int:
        """Estimate the size of everything that the stream will have read at its end, from what it has read [bytes]."""
        return max(self._size * self._at // max(self._source.tell(), 1), self._at)

    def read(self, size: int, start: int | None = None) -> bytes:
        """Return the next `size` bytes, or fewer at the end; start: a later offset to skip to [bytes]."""
        with errors.storing(self._name, "reading"):
            try:
                if start is not None:
                    self._skip_to(start)
                if self._stop is not None:
                    size = min(size, self._stop - self._at)
                data = bytes(self._file.read(size))
            except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
                raise self._damaged("truncated or damaged") from exc
            except OSError as exc:
                # pyarrow reports errors of its codec as OSError, but without the number of a system error.
                if exc.errno is not None:
                    raise
                large = "too much memory" in str(exc)
                fault = "compressed with a window of more than 128 MiB" if large else "truncated or damaged"
                raise self._damaged(fault) from exc
        self._at += len(data)
        return data

    def _skip_to(self, start: int) -> None:
        if self._can_seek:
            self._at = self._file.seek(start)
        while self._at < start and (skipped := len(self._file.read(min(start - self._at, _PIECE_BYTES)))):
            self._at += skipped

    def _damaged(self, fault: str) -> errors.MalformedInputError:
        return errors.MalformedInputError(
            place=self._name,
            fault=f"the {self._compression} data is {fault}",
            advice=f"Check the file with `{self._compression} -t`, and make or copy it again.",
        )


class _Transcoder:
    """Decodes text piece by piece, and gives it as UTF-8. Raises MalformedInputError with the line."""

    def __init__(self, file: Any, encoding: str, name: str) -> None:
        self._file = file
        self._decoder: Any = codecs.getincrementaldecoder(encoding)()
        self._encoding = encoding
        self._name = name
        self._ready = b""
        self._complete = False
        # The line that the next piece starts on, and a CR before it, which is half a line end if an LF follows.
        self._line = 1
        self._open_cr = b""

    def read(self, size: int) -> bytes:
        pieces, found = [self._ready], len(self._ready)
        while found < size and not self._complete:
            data = self._file.read(_PIECE_BYTES)
            self._complete = not data
            pieces.append(self._decoded(data))
            found += len(pieces[-1])
        data = b"".join(pieces)
        self._ready = data[size:]
        return data[:size]

    def _decoded(self, data: bytes) -> bytes:
        state = self._decoder.getstate()
        try:
            text = self._utf8(data)
        except UnicodeError as exc:
            self._decoder.setstate(state)
            raise errors.MalformedInputError(
                place=f"{self._name}:{self._line_of_error(data)}",
                fault=f"not {self._encoding} text",
                advice="Set csv.encoding to the encoding of the file, or correct this line where the file is made.",
            ) from exc
        self._count_lines(text)
        return text

    def _utf8(self, data: bytes) -> bytes:
        # Some decoders let through halves of surrogate pairs, which UTF-8 cannot encode.
        return bytes(self._decoder.decode(data, final=not data).encode())

    def _line_of_error(self, data: bytes) -> int:
        """Decode a piece once more, byte by byte, up to its first wrong byte; return the line."""
        with suppress(UnicodeError):
            for at in range(len(data)):
                self._count_lines(self._utf8(data[at : at + 1]))
        return self._line

    def _count_lines(self, text: bytes) -> None:
        text = self._open_cr + text
        self._open_cr = b"\r" if text.endswith(b"\r") else b""
        self._line += line_breaks(text.removesuffix(b"\r"))


def numbered(start: int, rows: Sequence[int]) -> list[int]:
    """Return the numbers in the file of rows that come after `start` others, counted from 1."""
    return [start + row + 1 for row in rows]


def line_breaks(data: bytes) -> int:
    """Return how many line ends there are in UTF-8 text; a line ends with LF, CRLF or a single CR."""
    returns = data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0
    return data.count(b"\n") + returns


def _decompressed(file: Any, compression: Compression) -> Any:
    file.seek(0)
    if compression is Compression.ZSTD:
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return gzip.GzipFile(fileobj=file, mode="rb") if compression is Compression.GZIP else file


def empty(name: str) -> errors.MalformedInputError:
    """Return the error for a file without content."""
    return errors.MalformedInputError(
        place=name,
        fault="the file is empty and does not name its columns",
        advice="Check that the export is complete; a file without rows names its columns too.",
    )


def unparsable(name: str, kind: Format) -> errors.MalformedInputError:
    """Return the error for a file that is not in the expected format."""
    return errors.MalformedInputError(
        place=name,
        fault=f"the file is damaged, or not {_CALLED.get(kind, kind.upper())}",
        advice="Check that it is the right file, that it is complete, and that its suffix matches its format.",
    )


def file_fingerprint(place: Place, name: str) -> Fingerprint:
    """Return a file's fingerprint; raises InputMissingError, InputChangedError, StorageError."""
    with SourceFile(place, name) as source, errors.storing(name, "reading"), source.watched():
        # A store gives an object another identity whenever it changes; to read it once more takes long.
        remote = source.file.is_remote
        return *source.identity, "" if remote else hashlib.file_digest(source.file.view(), "sha256").hexdigest()


def check_schema(schema: Any, keys: Sequence[str], name: str) -> None:
    """Check the names in the pa.Schema of a columnar file; raises as check_columns does."""
    # Arrow's C data interface ends names there, so columns would get the names of others.
    if "\0" in schema.to_string(show_field_metadata=False, show_schema_metadata=False):
        raise errors.MalformedInputError(
            place=name,
            fault="a name in the schema contains U+0000",
            advice="Write the file again with other names for columns, fields and time zones.",
        )
    check_columns(schema.names, keys, name)


def check_columns(columns: Sequence[str], keys: Sequence[str], name: str, advice: str | None = None) -> None:
    """Check that column names are distinct and include all keys; raises MalformedInputError, InputMissingError.

    advice: what to do if a key is missing, in case the caller knows better than this function.
    """
    seen = set()
    for column in columns:
        if column in seen:
            raise errors.MalformedInputError(
                place=name,
                fault=f"the column name {shown(column)} appears more than once",
                advice="Rename one of the columns, because psicli finds columns by name.",
            )
        seen.add(column)
    _find_columns(seen, columns, keys, name, "keys", advice)


def check_selection(columns: Sequence[str], selection: Selection, name: str) -> None:
    """Check that an input has the columns that an output needs, and none with the name of the one that it adds.

    Raises InputMissingError, ColumnError.
    """
    _find_columns(set(columns), columns, selection.columns or (), name, "output.columns")
    if selection.added is not None and selection.added in columns and selection.columns is None:
        raise errors.ColumnError(
            place=name,
            fault=f"there is a column {shown(selection.added)} already, so output.flag cannot add one of that name",
            advice="Give the flag another name, or list the columns to write under output.columns.",
        )


def _find_columns(
    found: Collection[str],
    columns: Sequence[str],
    wanted: Sequence[str],
    name: str,
    where: str,
    advice: str | None = None,
) -> None:
    """Raise InputMissingError for the first wanted column that is not among those found. where: what names it."""
    for key in wanted:
        if key not in found:
            listed = ", ".join(shown(column) for column in columns[:_MAX_SHOWN_COLUMNS]) or "no columns"
            more = f" and {len(columns) - _MAX_SHOWN_COLUMNS} more" if len(columns) > _MAX_SHOWN_COLUMNS else ""
            raise errors.InputMissingError(
                place=name,
                fault=f"there is no column {shown(key)}; the file has {listed}{more}",
                advice=advice or _advice_on_name(key, columns, where),
            )


def _advice_on_name(key: str, columns: Sequence[str], where: str) -> str:
    """Return what to do about a column that is missing from a file with others. where: what names it."""
    alike = [column for column in columns if folded(column) == folded(key)]
    near = alike or difflib.get_close_matches(key, columns[:_COMPARED_COLUMNS], n=1)
    exactly = "must match exactly, including case and spaces."
    if near:
        return f"Did you mean {shown(near[0])}? The names in {where} {exactly}"
    return f"Check {where} in the job file; column names {exactly}"
