"""Data frames: written as Arrow files for the process of a run, and made again from its rows, with the same types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from psicli.core.errors import ColumnError, shown, storing
from psicli.storage.files import private

# The rows of a batch in an Arrow file.
_BATCH_ROWS = 131_072
_TAKEN = "a DataFrame of pandas or polars, a pyarrow.Table or RecordBatchReader, or any object with __arrow_c_stream__"

# Makes a data frame of one kind from a pa.Table.
Maker: TypeAlias = Callable[[Any], Any]


class Types:
    """The types of a data frame that was an input, to give them to the rows of its result.

    kind: `pandas`, `polars` or `arrow`. columns: the type of each column, as that library has it.
    """

    def __init__(self, kind: str, columns: Mapping[str, Any]) -> None:
        self.kind = kind
        self.columns = columns

    def of(self, kind: str) -> Mapping[str, Any]:
        """Return the types of columns for a data frame of this kind; none if the input was of another kind."""
        return self.columns if self.kind == kind else {}


def write_rows(frame: Any, path: Path, name: str) -> Types:
    """Write the rows of a data frame to a new Arrow file, and return its types.

    Rows of a reader are written batch by batch. name: what messages call the data frame. Raises TypeError for an object
    that has no rows, ColumnError for values that Arrow cannot hold, StorageError, and what a reader raises.
    """
    rows, types = _opened(frame, name)
    is_reader = isinstance(rows, pa.RecordBatchReader)
    # Only in a stream can the categories of a column change from batch to batch.
    make = pa.ipc.new_stream if is_reader else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(use_threads=False, unify_dictionaries=not is_reader)
    with storing(path, "writing"), open(path, "xb", opener=private) as file:
        writer = make(file, rows.schema, options=options)
        if not is_reader:
            writer.write_table(rows, max_chunksize=_BATCH_ROWS)
        while is_reader:
            try:
                batch = rows.read_next_batch()
            except StopIteration:
                break
            writer.write_batch(batch)
        writer.close()
    return types


def _opened(frame: Any, name: str) -> tuple[Any, Types]:
    """Return the rows as a pa.Table or pa.RecordBatchReader, and their types."""
    kind = _library_of(frame)
    if kind == "pandas":
        return _from_pandas(frame, name), Types(kind, dict(frame.dtypes))
    if kind == "polars":
        return frame.to_arrow(), Types(kind, dict(frame.schema))
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    elif not isinstance(frame, pa.Table | pa.RecordBatchReader) and hasattr(frame, "__arrow_c_stream__"):
        # An array has such a stream too, but it has no columns.
        with suppress(pa.ArrowInvalid):
            frame = pa.RecordBatchReader.from_stream(frame)
    if not isinstance(frame, pa.Table | pa.RecordBatchReader):
        advice = "collect it first" if hasattr(frame, "collect") else f"give {_TAKEN}"
        raise TypeError(f"{name} is of the type {type(frame).__name__}; {advice}")
    return frame, Types("arrow", {field.name: field.type for field in frame.schema})


def _library_of(frame: Any) -> str | None:
    """Return the library of a DataFrame; one that is not imported has made none."""
    for library in ("pandas", "polars"):
        kind = getattr(sys.modules.get(library), "DataFrame", None)
        if kind is not None and isinstance(frame, kind):
            return library
    return None


def _from_pandas(frame: Any, name: str) -> Any:
    names = [str(column) for column in frame.columns]
    for column in names:
        if names.count(column) > 1:
            fault = f"two columns have the name {shown(column)}"
            raise ColumnError(place=name, fault=fault, advice="Rename one of them.")
    try:
        return pa.Table.from_pandas(frame, nthreads=1)
    # Its text may hold a value.
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        columns = {column: frame.iloc[:, number] for number, column in enumerate(names)}
        bad = next((column for column, values in columns.items() if not _fits(values)), None)
    where = "the index" if bad is None else f"the column {shown(bad)}"
    advice = "Cast it to one type, for example with astype(str), or leave it out."
    raise ColumnError(place=name, fault=f"{where} holds values of different types", advice=advice)


def _fits(values: Any) -> bool:
    with suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
        pa.Array.from_pandas(values)
        return True
    return False


def to_pandas(table: Any, types: Mapping[str, Any]) -> Any:
    """Return a pa.Table as a pandas.DataFrame whose columns have the given types, where they differ.

    Integers and booleans with nulls have the nullable types of pandas, unless the table was one of pandas.
    """
    mapper = None if b"pandas" in (table.schema.metadata or {}) else _nullable(table).get
    frame = table.to_pandas(use_threads=False, types_mapper=mapper)
    for column, kind in types.items():
        if column in frame.columns and frame.dtypes[column] != kind:
            with suppress(ValueError, TypeError):
                frame[column] = frame[column].astype(kind)
    return frame


def _nullable(table: Any) -> dict[Any, Any]:
    """Return the types of pandas for the integers and booleans of a pa.Table that have nulls."""
    import pandas

    kinds = {getattr(pa, name.lower())(): name for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16")}
    kinds |= {pa.uint32(): "UInt32", pa.uint64(): "UInt64", pa.bool_(): "boolean"}
    with_nulls = {column.type for column in table.columns if column.null_count}
    return {kind: pandas.api.types.pandas_dtype(name) for kind, name in kinds.items() if kind in with_nulls}


def to_polars(table: Any, types: Mapping[str, Any]) -> Any:
    """Return a pa.Table as a polars.DataFrame whose columns have the given types, where they differ."""
    import polars

    frame = polars.from_arrow(table)
    assert isinstance(frame, polars.DataFrame)
    schema = frame.schema
    changed: dict[Any, Any] = {name: kind for name, kind in types.items() if name in schema and schema[name] != kind}
    return frame.cast(changed)


def to_arrow(table: Any, types: Mapping[str, Any]) -> Any:
    """Return a pa.Table whose columns have the given types, where they differ and its values allow it."""
    for name, kind in types.items():
        index = table.schema.get_field_index(name)
        if index >= 0 and table.schema.field(index).type != kind:
            with suppress(pa.ArrowException):
                table = table.set_column(index, name, table.column(index).cast(kind))
    return table


MAKERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "arrow": to_arrow,
    "pandas": to_pandas,
    "polars": to_polars,
}
