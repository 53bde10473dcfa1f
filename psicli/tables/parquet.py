"""Reads Parquet files row group by row group, one batch of rows at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from psicli.core.errors import ColumnError, InputChangedError, MalformedInputError, PsicliError, shown
from psicli.core.formats import COLUMNAR, FileFormat, Format
from psicli.core.places import Place
from psicli.items import compute as pc
from psicli.items import kinds
from psicli.items.forms.columns import KeyColumns
from psicli.items.text import check_key_types
from psicli.tables.source import Share, SourceFile, check_schema, empty, numbered, unparsable
from psicli.tables.values import Int96, Sample, check_values, int96_unfit, plain_rows, wrong_count

T = TypeVar("T")

# A column of type VARIANT in the text of a Parquet schema; pyarrow does not tell it in another way.
_VARIANT = re.compile(r"^  \w+ group field_id=\S+ (.*) \(Variant\(.*\)\) \{$", re.MULTILINE)
# pyarrow raises almost any of its exceptions for a damaged file.
_LIBRARY_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError)
# At most this many rows, and about this many bytes according to the metadata, are decoded in one batch.
_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
# A share of the file has about this many rows at most: small values take far more memory than in the file.
_SHARE_ROWS = 4_000_000
# If the first rows of a batch show that it would take more than this in memory [bytes], it gets fewer rows.
_SAMPLE_ROWS = 2048
_DECODED_BYTES = 64 << 20
# Read-ahead buffers: at most this much for a column, and this much for all columns that are read together.
_COLUMN_BUFFER_BYTES = 1 << 20
_BUFFER_BYTES = 16 << 20
# The decoder takes one or two megabytes per column, for a page and a dictionary.
_COLUMNS_AT_ONCE = 16
# The number of threads that read a file with more columns than that; each has its own batch and buffers.
_READERS = 2
# A row group has 122,880 rows, as in DuckDB and others: 60 of their vectors of 2,048. A row group is in memory while it
# is written, so tables with many columns or large values get smaller ones. The size of arrays in memory has no
# influence, because the bytes must depend only on the rows.
_ROW_GROUP_ROWS = 122_880
_VECTOR_ROWS = 2048
_ROW_GROUP_VALUES = 4_000_000
_ROW_GROUP_BYTES = 128 << 20


def row_group_rows(columns: int, row_bytes: int = 0) -> int:
    """Return the number of rows in a row group, given the number of columns and the average content of a row."""
    vectors = _ROW_GROUP_VALUES // (max(columns, 1) * _VECTOR_ROWS)
    rows = min(max(vectors, 1) * _VECTOR_ROWS, _ROW_GROUP_ROWS)
    return min(rows, max(_ROW_GROUP_BYTES // max(row_bytes, 1), 1))


class ParquetInput(SourceFile):
    """A Parquet file that is read once completely and once for its matched rows.

    output: the format of the output, or None if this party writes none; then only the key columns are ever read.
    schema: the columns as a pa.Schema; expected_rows: the number of rows according to the metadata; both are known once
    the first keys are read. rows: the number of rows read so far.
    """

    def __init__(self, place: Place, name: str, columns: KeyColumns, output: FileFormat | None = None) -> None:
        super().__init__(place, name, columns)
        self.schema = pa.schema([])
        self.rows = self.expected_rows = 0
        # What is known about INT96 timestamps; files of one input share it.
        self.int96 = Int96()
        self._output = output
        self._group_rows: list[int] = []
        # The columns with INT96 timestamps, and the unit in which pyarrow reads them.
        self._int96: frozenset[str] = frozenset()
        self._unit = "ns"
        # The columns whose bytes must be text.
        self._as_text: frozenset[str] = frozenset()

    def key_batches(self, share: Share | None = None) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column.

        share: the only row groups to read. Finds every error in them, because after the exchange it would be too late;
        a party without an output reads only the key columns. Raises BadInputError, InputMissingError.
        """
        with self.watched():
            self.header()
            first, *others = self._shares()
            files = {unit: self._opened(len(first), unit) for unit in (Int96.UNITS if self._int96 else ["ns"])}
            metadata = files["ns"].metadata
            self.expected_rows = metadata.num_rows
            for group in range(*share or (metadata.num_row_groups,)):
                start = self.rows
                for batch in self._sound_batches(files, group, start, first):
                    batch = batch.select(self.keys)
                    texts = self.columns.texts(batch, partial(self._place, self.rows), partial(numbered, self.rows))
                    self.rows += batch.num_rows
                    yield texts
                self._group_rows.append(self.rows - start)
                for columns in others:
                    for _ in self._sound_batches(files, group, start, columns):
                        pass
            if share is None:
                self._complete()

    def _complete(self) -> None:
        """Check what has been found in all row groups; raises BadInputError."""
        if self.rows != self.expected_rows:
            raise wrong_count(self.name, self.rows, self.expected_rows)
        self._unit = self.int96.unit() or self._unfit()
        self.schema = self.selection.of(self._opened(1, self._unit).schema_arrow, self.keys)

    def shares(self, size: int) -> list[Share]:
        """Divide the row groups into shares of about `size` bytes; raises as `header`."""
        self.header()
        metadata = self._opened(1, "ns").metadata
        self.expected_rows, groups = metadata.num_rows, metadata.num_row_groups
        most = min(groups * size // self.size, groups * _SHARE_ROWS // max(self.expected_rows, 1))
        step = max(most, 1)
        return [Share(group, min(group + step, groups)) for group in range(0, groups, step)]

    def part(self) -> Any:
        """Return what has been found in a share, for `join`."""
        return self._group_rows, self.int96, self.columns.unfit

    def join(self, parts: Iterable[Any]) -> None:
        """Take over what was found in all shares, as if this object had read the whole file."""
        for rows, found, unfit in parts:
            self.columns.join(unfit, self.rows)
            self.rows += sum(rows)
            self._group_rows += rows
            self.int96.merge(found)
        self._complete()

    def header(self) -> None:
        """Read the schema and check the key columns; raises BadInputError, InputMissingError."""
        self.schema, stored, self.expected_rows = _read_schemas(self)
        check_schema(self.schema, self.keys, self.name)
        check_key_types([(key, self.schema.field(key).type) for key in self.keys], path=self.name)
        self.check_selected(self.schema.names)
        needed = self.selection.of(self.schema, self.keys)
        wanted = set(self.keys if self._output is None else needed.names)
        # A path does not tell which column it belongs to, because a name can contain dots, but the order does.
        roots = [field.name for field in self.schema for _ in range(_leaves(kinds.stored(field.type)))]
        leaves = [(root, stored.column(index)) for index, root in enumerate(roots) if root in wanted]
        self._int96 = frozenset(root for root, leaf in leaves if leaf.physical_type == "INT96")
        self._check_kept(stored, leaves)
        self.schema = needed
        text_output = self._output is not None and self._output.kind not in COLUMNAR
        self._as_text = frozenset(self.schema.names if text_output else self.keys)

    def _check_kept(self, stored: Any, leaves: Sequence[tuple[str, Any]]) -> None:
        """Refuse columns of types that pyarrow reads without an error but does not write; raises ColumnError.

        stored: the schema as Parquet has it; leaves: the stored columns to read, with the names of their columns.
        """
        lost = [(root, "INTERVAL") for root, leaf in leaves if leaf.converted_type == "INTERVAL"]
        lost += [(root, "VARIANT") for root in _VARIANT.findall(str(stored)) if root in dict(leaves)]
        zones = {_is_utc(leaf): root for root, leaf in leaves if leaf.logical_type.type == "TIME"}
        if len(zones) == 2 and not lost:
            lost = [(zones[True], "TIME with a time zone, unlike the others")]
        for column, kind in lost:
            raise ColumnError(
                place=self.name,
                fault=f"the column {shown(column)} is of the Parquet type {kind}, which cannot be kept",
                advice="Cast the column to text or numbers, or leave it out of the input.",
            )
        self.utc_times = True in zones

    def _shares(self) -> list[Sequence[str]]:
        """Divide the columns to read into shares to read at once; the first one has the key columns."""
        others = [] if self._output is None else [name for name in self.schema.names if name not in self.keys]
        if len(self.keys) + len(others) <= _COLUMNS_AT_ONCE:
            return [[*self.keys, *others]]
        return [self.keys, *(others[at : at + _COLUMNS_AT_ONCE] for at in range(0, len(others), _COLUMNS_AT_ONCE))]

    def _sound_batches(self, files: dict[str, Any], group: int, start: int, columns: Sequence[str]) -> Iterator[Any]:
        """Read some columns of a row group, and check that all their values are valid and none is missing.

        files: the open file for each unit of INT96. start: the row of the file at which the row group starts.
        """
        rows, int96 = 0, [name for name in columns if name in self._int96]
        units = list(files) if int96 else ["ns"]
        for batches in zip(*(self._batches(files[unit], group, columns) for unit in units), strict=True):
            place = partial(self._place, start + rows)
            batch = batches[0]
            check_values(batch, place, self._as_text)
            # The second pass needs plain rows; what they cannot hold must fail now.
            plain_rows(batch, self.name)
            for name in int96:
                readings = {unit: each.column(name) for unit, each in zip(units, batches, strict=True)}
                self.int96.add(readings)
                here = Int96()
                here.add(readings)
                unit = here.unit() or self._unfit(f"{place(0)} ff.")
                batch = batch.set_column(batch.schema.get_field_index(name), name, readings[unit])
            rows += batch.num_rows
            yield batch
        if rows != (expected := files["ns"].metadata.row_group(group).num_rows):
            raise wrong_count(f"{self.name}, row group {group + 1}", rows, expected)

    def _unfit(self, place: str = "") -> str:
        raise int96_unfit(place or self.name)

    def matched(self, mask: Any, budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables, in file order.

        Skips row groups without such rows. Files with many columns are read in shares of their columns; each table then
        has as many rows as fit in `budget` [bytes], but at least as many as a row group of the output. Raises
        BadInputError.
        """
        names = self.schema.names
        if len(names) <= _COLUMNS_AT_ONCE:
            file = self._opened(len(names), self._unit)
            for group, start, wanted in self._wanted(mask):
                yield from self._picked(file, group, names, start, wanted, len(wanted))
            return
        shares = [names[at : at + _COLUMNS_AT_ONCE] for at in range(0, len(names), _COLUMNS_AT_ONCE)]
        assigned = [shares[number::_READERS] for number in range(_READERS)]
        files = [self._opened(_COLUMNS_AT_ONCE, self._unit) for _ in assigned]
        with ThreadPoolExecutor(_READERS, "psicli-columns") as readers:
            for group, start, wanted in self._wanted(mask):
                size = max(files[0].metadata.row_group(group).total_byte_size, 1)
                most = max(budget * len(wanted) // size, row_group_rows(len(names)))
                for window, stop in _windows(wanted, most):
                    read = partial(self._shares_of, group=group, start=start, wanted=window, stop=stop)
                    parts = readers.map(read, files, assigned)
                    found = {name: values for part in parts for name, values in part.items()}
                    yield pa.table([found[name] for name in names], names=names)

    def _wanted(self, mask: Any) -> Iterator[tuple[int, int, Any]]:
        """Yield the row groups that contain rows of a mask, the first row of each, and its part of the mask."""
        start = 0
        for group, rows in enumerate(self._group_rows):
            wanted = mask.slice(start, rows)
            if wanted.true_count:
                yield group, start, wanted
            start += rows

    def _shares_of(self, file: Any, shares: Sequence[Sequence[str]], **where: Any) -> dict[str, Any]:
        """Return the columns of some shares by name; `where`: the other arguments of _picked."""
        found: dict[str, Any] = {}
        for columns in shares:
            table = pa.concat_tables(self._picked(file, columns=columns, **where))
            found.update(zip(columns, table.columns, strict=True))
        return found

    def _picked(
        self, file: Any, group: int, columns: Sequence[str], start: int, wanted: Any, stop: int
    ) -> Iterator[Any]:
        """Yield some columns of the wanted rows of a row group, all of which come before its row `stop`.

        start: the row of the file at which the row group starts.
        """
        row = count = 0
        for batch in self._batches(file, group, columns):
            if row >= stop:
                break
            part = wanted.slice(row, batch.num_rows)
            row += batch.num_rows
            if part.true_count:
                count += part.true_count
                yield pc.filter_(plain_rows(batch, self.name), part)
        if count != wanted.true_count:
            raise InputChangedError(path=self.name)

    def sample(self) -> Sample:
        """Return the first row of the file; raises BadInputError, InputMissingError."""
        self.header()
        names, file = self.schema.names, self._opened(_COLUMNS_AT_ONCE, self._unit)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        group = next((group for group, count in enumerate(rows) if count), None)
        if group is None:
            return Sample(self.schema, self.keys, self.name, None, self.utc_times)
        columns: list[Any] = []
        for at in range(0, len(names), _COLUMNS_AT_ONCE):
            batch = next(self._batches(file, group, names[at : at + _COLUMNS_AT_ONCE], 1), None)
            if batch is None:
                raise wrong_count(f"{self.name}, row group {group + 1}", 0, rows[group])
            columns += plain_rows(batch, self.name).columns
        return Sample(self.schema, self.keys, self.name, pa.table(columns, names=names), self.utc_times)

    def ordered_values(self, column: str) -> Any:
        """Return all values of an ordered dictionary column, in their order."""
        file = self._opened(1, self._unit)
        seen = pa.array([], self.schema.field(column).type.value_type)
        for group in range(file.num_row_groups):
            for batch in self._batches(file, group, [column]):
                dictionary = batch.column(column).dictionary
                if not dictionary.equals(seen.slice(0, len(dictionary))):
                    seen = pc.unique(pa.concat_arrays([seen, dictionary]))
        return seen

    def _opened(self, columns: int, unit: str) -> Any:
        """Open the file to read this many columns at once, and INT96 timestamps in this unit."""
        # Imported late, because outputs need only `row_group_rows`.
        import pyarrow.parquet as pq

        buffer = min(_BUFFER_BYTES // max(columns, 1), _COLUMN_BUFFER_BYTES)
        # Without a buffer, pyarrow reads whole column chunks of a row group into memory.
        options = {"buffer_size": buffer, "page_checksum_verification": True, "coerce_int96_timestamp_unit": unit}
        return _parquet(lambda: pq.ParquetFile(self.view(), **options), self.name)

    def _batches(self, file: Any, group: int, columns: Sequence[str], rows: int | None = None) -> Iterator[Any]:
        """Read some columns of a row group in batches of this many rows, or as many as fit in memory."""
        try:
            rows = rows or _batch_rows(file, group, columns)
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                if missing := set(columns) - set(batch.schema.names):
                    raise _empty_struct(self.name, min(missing))
                # For a column `a`, pyarrow also returns a column named `a.b`.
                yield batch.select(columns)
        except MemoryError:
            raise
        except _LIBRARY_ERRORS as exc:
            raise self._unreadable(file, group, columns) from exc

    def _unreadable(self, file: Any, group: int, columns: Sequence[str]) -> PsicliError:
        """Return the error for the first of some columns that cannot be read."""
        for column in columns:
            try:
                for _ in file.iter_batches(_VECTOR_ROWS, row_groups=[group], columns=[column]):
                    pass
            except _LIBRARY_ERRORS as exc:
                place = f"{self.name}, column {shown(column)}"
                return _encrypted(place) if "crypt" in str(exc) else unparsable(place, Format.PARQUET)
        return unparsable(self.name, Format.PARQUET)

    def _place(self, start: int, row: int) -> str:
        """Return the place of a row of a batch: the path and the row number, counted from 1."""
        return f"{self.name}, row {start + row + 1}"


def _read_schemas(source: SourceFile) -> tuple[Any, Any, int]:
    """Return the schema of a Parquet file as a pa.Schema and as Parquet has it, and the number of rows.

    Raises BadInputError.
    """
    import pyarrow.parquet as pq

    if not source.size:
        raise empty(source.name)

    def read() -> tuple[Any, Any, int]:
        file = pq.ParquetFile(source.view())
        return file.schema_arrow, file.schema, file.metadata.num_rows

    return _parquet(read, source.name)


def _parquet(read: Callable[[], T], name: str) -> T:
    try:
        return read()
    except MemoryError:
        raise
    except pa.ArrowNotImplementedError as exc:
        raise ColumnError(
            place=name,
            fault="a column is of a type that cannot be read",
            advice="Cast columns of rare types, such as integers of 128 bits, or leave them out of the input.",
        ) from exc
    except UnicodeDecodeError as exc:
        raise MalformedInputError(
            place=name,
            fault="the name of a column is not UTF-8 text",
            advice="Write the file again with another name for this column.",
        ) from exc
    except _LIBRARY_ERRORS as exc:
        raise _encrypted(name) if "crypt" in str(exc) else unparsable(name, Format.PARQUET) from exc


def _leaves(kind: Any) -> int:
    """Return how many columns of a Parquet file store a column of this Arrow type."""
    if not pa.types.is_nested(kind):
        return 1
    return sum(_leaves(kind.field(index).type) for index in range(kind.num_fields))


def _is_utc(leaf: Any) -> bool:
    return bool(json.loads(leaf.logical_type.to_json())["isAdjustedToUTC"])


def _encrypted(place: str) -> MalformedInputError:
    return MalformedInputError(
        place=place,
        fault="it is encrypted (Parquet modular encryption)",
        advice="Write it without encryption; a party that only sends needs only its key columns.",
    )


def _empty_struct(name: str, column: str) -> ColumnError:
    return ColumnError(
        place=name,
        fault=f"the column {shown(column)} is a struct without fields, which cannot be read",
        advice="Leave the column out of the input.",
    )


def _batch_rows(file: Any, group: int, columns: Sequence[str]) -> int:
    """Return how many rows of a row group to decode in one batch [rows]; raises what pyarrow raises."""
    metadata = file.metadata.row_group(group)
    rows = min(max(metadata.num_rows, 1), _BATCH_ROWS)
    if metadata.total_byte_size > _BATCH_BYTES:
        # pyarrow aborts the process when it describes an encrypted column. Reading a row raises an error instead.
        next(file.iter_batches(1, row_groups=[group], columns=columns), None)
        wanted = set(columns)
        paths = [file.schema.column(index).path for index in range(metadata.num_columns)]
        read = (index for index, path in enumerate(paths) if path in wanted or path.split(".")[0] in wanted)
        size = sum(metadata.column(index).total_uncompressed_size for index in read)
        rows = min(max(_BATCH_BYTES * metadata.num_rows // max(size, 1), 1), rows)
    if rows <= _SAMPLE_ROWS:
        return int(rows)
    # The metadata counts a long value once, however often it occurs.
    sample = next(file.iter_batches(_SAMPLE_ROWS, row_groups=[group], columns=columns), None)
    values = () if sample is None else (each for each in sample.columns if not pa.types.is_dictionary(each.type))
    size = sum(each.nbytes for each in values)
    return int(min(max(_DECODED_BYTES * _SAMPLE_ROWS // max(size, 1), 1), rows))


def _windows(wanted: Any, most: int) -> Iterator[tuple[Any, int]]:
    """Split a mask into masks that select at most `most` rows; yield each with an exclusive upper bound of its rows."""
    marked = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    for first in range(0, len(marked), most):
        window = np.zeros(len(wanted), bool)
        window[marked[first : first + most]] = True
        # The last window reaches the end, so that the whole row group is checked.
        stop = marked[first + most] if first + most < len(marked) else len(wanted)
        yield pc.from_numpy(window), int(stop)
