"""Checks the values that a library has read from a file, before anything else uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.core.errors import ColumnError, MalformedInputError, PsicliError, counted, shown
from psicli.items import compute as pc
from psicli.items import kinds


class Selection(NamedTuple):
    """The columns of an input that an output needs.

    columns: their names, in the order of the output; None stands for all. added: the column that the output adds.
    """

    columns: tuple[str, ...] | None = None
    added: str | None = None

    def of(self, schema: Any, keys: Sequence[str]) -> Any:
        """Return the pa.Schema of these columns and of the keys, in the order of the input."""
        if self.columns is None:
            return schema
        needed = {*self.columns, *keys}
        return pa.schema([field for field in schema if field.name in needed], schema.metadata)


ALL = Selection()


class Sample(NamedTuple):
    """The first row of an input, with which a run tries to write its output before the exchange.

    schema: the columns as in the file; name: the name of the file in messages; rows: a pa.Table with one row in plain
    types, or None if the file has no row; utc_times: whether times of day are in UTC.
    """

    schema: Any
    keys: Sequence[str]
    name: str
    rows: Any
    utc_times: bool = False


# Returns where a row of a batch is in its file, for an error message.
Place = Callable[[int], str]


def check_values(batch: Any, place: Place, as_text: frozenset[str] = frozenset()) -> None:
    """Check that a pa.RecordBatch holds only values that its types allow; files and libraries do not enforce this.

    as_text: the names of columns whose bytes must be UTF-8 text. Raises MalformedInputError, ColumnError.
    """
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if len(values) != batch.num_rows:
            raise wrong_count(f"{place(0)}, column {shown(name)}", len(values), batch.num_rows)
    # Every number is a good time or date here: 24:00:00 occurs in real files, and psicli writes it out.
    numbers = kinds.relabelled(batch, kinds.with_types(batch.schema, kinds.as_numbers))
    for name, values in zip(numbers.schema.names, numbers.columns, strict=True):
        text = name in as_text and kinds.is_bytes(kinds.value_type(batch.schema.field(name).type))
        if not _is_sound(values, text):
            row = _first_unsound(values, text)
            # A dictionary may hold unsound values that no row of this batch has.
            if row is not None:
                raise _unsound(values.type, f"{place(row)}, column {shown(name)}", text)


def wrong_count(place: str, found: int, expected: int) -> MalformedInputError:
    """Return the error for a part of a file that does not hold as many rows as the file says."""
    return MalformedInputError(
        place=place,
        fault=f"it holds {counted(found, 'row')}, but the file says {expected:,}",
        advice="The file is damaged or incomplete; write it again.",
    )


def _is_sound(values: Any, text: bool) -> bool:
    try:
        # The full validation of a dictionary reads offsets, so they must be valid.
        values.validate()
        values.validate(full=True)
        if text:
            words = values.dictionary if pa.types.is_dictionary(values.type) else values
            pc.cast(pc.cast(words, pa.large_binary()), pa.large_string())
    except pa.ArrowException:
        return False
    return True


def _first_unsound(values: Any, text: bool) -> int | None:
    rows = (values.slice(row, 1) for row in range(len(values)))
    try:
        if pa.types.is_dictionary(values.type):
            rows = (row.dictionary_decode() for row in rows)
        return next((number for number, row in enumerate(rows) if not _is_sound(row, text)), None)
    except pa.ArrowException:
        # An index points outside the dictionary.
        return 0


def _unsound(kind: Any, place: str, text: bool) -> PsicliError:
    value = kinds.value_type(kind)
    if text:
        return ColumnError(
            place=place,
            fault="the value is not UTF-8 text",
            advice="Convert the column to text before the run, or do not use it as a key or in a text file.",
        )
    if kinds.is_text(value):
        fault, advice = "the value is not UTF-8 text", "Write the file again from text that is UTF-8."
    elif pa.types.is_decimal(value):
        fault = f"the value has more digits than the type {value} allows"
        advice = "Write the column again with a type that has room for all values."
    else:
        fault, advice = "the value is damaged", "Write the file again, or copy it again."
    return MalformedInputError(place=place, fault=fault, advice=advice)


def plain_rows(batch: Any, name: str) -> Any:
    """Return a pa.RecordBatch as a pa.Table with plain types, in which dictionaries stay; raises ColumnError."""
    batch = kinds.relabelled(batch, kinds.with_types(batch.schema, kinds.stored))
    columns = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            if pa.types.is_dictionary(values.type):
                words = kinds.cast(values.dictionary, kinds.plain(values.type.value_type))
                columns[column] = pa.DictionaryArray.from_arrays(values.indices, words, ordered=values.type.ordered)
            else:
                columns[column] = kinds.cast(values, kinds.plain(values.type))
        except pa.ArrowException as exc:
            raise unkept(name, column, values.type) from exc
    return pa.table(columns)


def unkept(name: str, column: str, kind: Any) -> ColumnError:
    """Return the error for a column whose rows pyarrow cannot select or convert."""
    return ColumnError(
        place=name,
        fault=f"the column {shown(column)} of type {shown(str(kind))} cannot be kept",
        advice="Cast the column, or leave it out of the input.",
    )


# INT96 -------------------------------------------------------------------------------------------------------------

# The units in which pyarrow can read INT96 timestamps, and the largest number of milliseconds that each can hold.
_UNITS = {"ns": (2**63 - 1) // 10**6, "us": (2**63 - 1) // 10**3, "ms": 2**63 - 1}


class Int96:
    """Finds a unit that holds every INT96 timestamp of a file.

    INT96 has nanoseconds and a range of millions of years, but pyarrow has 64 bits for a timestamp. A value that does
    not fit into nanoseconds or microseconds wraps around without an error. Milliseconds always fit, so the milliseconds
    of every value show whether its other readings are correct.
    """

    UNITS = tuple(_UNITS)

    def __init__(self) -> None:
        # The largest distance from 1970 [ms], and whether a value has microseconds or nanoseconds.
        self._farthest = 0
        self._fraction = {"us": False, "ns": False}

    def add(self, readings: dict[str, Any]) -> None:
        """Add values, given as a pa.Array for each unit."""
        for nanos, micros, millis in zip(*(list(_leaves(readings[unit])) for unit in _UNITS), strict=True):
            if len(millis):
                self._farthest = max(self._farthest, -int(millis.min()), int(millis.max()))
            # The differences are correct even if a reading wrapped around, because the arithmetic wraps around too.
            self._fraction["us"] |= bool((micros - millis * 1000).any())
            self._fraction["ns"] |= bool((nanos - micros * 1000).any())

    def merge(self, other: Int96) -> None:
        """Add what is known about other values."""
        self._farthest = max(self._farthest, other._farthest)
        for unit, has_any in other._fraction.items():
            self._fraction[unit] |= has_any

    def unit(self) -> str | None:
        """Return the finest unit that holds all values, or None if no unit does."""
        if self._farthest <= _UNITS["ns"]:
            return "ns"
        if self._fraction["ns"]:
            return None
        if self._farthest <= _UNITS["us"]:
            return "us"
        return None if self._fraction["us"] else "ms"


def _leaves(values: Any) -> Iterator[Any]:
    """Yield the timestamps inside an array as arrays of int64, without nulls."""
    if pa.types.is_timestamp(values.type):
        yield pc.cast(pc.drop_null(values), pa.int64()).to_numpy()
    elif pa.types.is_struct(values.type):
        for part in values.flatten():
            yield from _leaves(part)
    elif pa.types.is_map(values.type):
        yield from _leaves(values.keys)
        yield from _leaves(values.items)
    elif pa.types.is_nested(values.type):
        yield from _leaves(values.flatten())


def int96_unfit(place: str) -> ColumnError:
    """Return the error for INT96 timestamps that no unit holds."""
    return ColumnError(
        place=place,
        fault="an INT96 timestamp lies far outside the years 1677 to 2262 and another one has nanoseconds",
        advice="Write the column with the Parquet type TIMESTAMP instead of INT96.",
    )
