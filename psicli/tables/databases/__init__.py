"""Runs the query of an input in DuckDB; the only module that imports duckdb.

The rows go into an Arrow file of this run, which is then read like any other: DuckDB need not give them twice in the
same order. DuckDB's messages can quote values, so only those about plain names in the query are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

import pyarrow as pa

from psicli.core import signals
from psicli.core.errors import BadInputError, ConfigError, InputMissingError, PsicliError, storing
from psicli.core.records import dataclass
from psicli.storage.files import private

# So many rows are in memory at once.
_BATCH_ROWS = 100_000
_EXTENSION = re.compile(r"[Ee]xtension|INSTALL")
_NAMED = re.compile(r"(?:INSTALL|LOAD) '?(\w+)|/(\w+)\.duckdb_extension|xtension [\"'](\w+)[\"']")
# What may come before the statement that gives the rows, by DuckDB's type of statement. INSTALL is a LOAD for DuckDB.
_BEFORE = {
    "ATTACH": r"",
    "DETACH": r"",
    "SET": r"",
    "VARIABLE_SET": r"",
    "LOAD": r"LOAD\b",
    "CREATE": r"CREATE\s+(OR\s+REPLACE\s+)?((TEMP|TEMPORARY)\s+((SECRET|VIEW|MACRO|FUNCTION)\b)|SECRET\b)",
}
# A PIVOT is MULTI for DuckDB, and so is what writes its rows.
_ROWS = {"SELECT": r"", "MULTI": r"(PIVOT|FROM|SELECT|WITH)\b"}
_COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
# The first line of a message with plain names only: no URL, no connection string, no value.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_ .,:;!()-]|\"[A-Za-z0-9_.]+\"|'[A-Za-z0-9_.]+')+")
# With these, a value of a row or of a variable becomes a name.
_INDIRECT = re.compile(r"getvariable|pivot|query(_table)?\s*\(", re.IGNORECASE)


class DuckdbMissingError(ConfigError):
    sentence = "{place}: the input is a database, and duckdb is not installed"
    hint = "Type `pip install 'psicli[duckdb]'`."


class QueryError(BadInputError):
    """A query that DuckDB refused, or that failed. Facts: place, fault, advice."""


@dataclass(frozen=True)
class Query:
    """A query and what DuckDB may use for it.

    database: the file; None is a database in memory. name: what messages call the database; where: the place of the
    query in the job file; is_filled: whether variables of the job file are in the query. memory: [bytes].
    """

    database: Path | None
    sql: str = field(repr=False)
    name: str
    where: str
    is_filled: bool
    memory: int
    threads: int


def copy_rows(query: Query, folder: Path, rows: int | None, check: Callable[[], None]) -> Path:
    """Run a query and write its rows, or the first ones, to a new Arrow file in this folder; return its path.

    check: called every moment; what it raises interrupts the query. Raises DuckdbMissingError, InputMissingError,
    QueryError, StorageError.
    """
    try:
        import duckdb
    except ImportError as exc:
        raise DuckdbMissingError(place=query.name) from exc
    if query.database is not None and not os.path.isfile(query.database):
        advice = "Check input_path in the job file; relative paths start at the job file's folder."
        raise InputMissingError(place=query.name, fault="no such file", advice=advice)
    path = folder / "query.arrow"
    with (
        _explained(query, duckdb),
        closing(_connected(query, folder, duckdb)) as connection,
        ThreadPoolExecutor(1, "psicli-query") as runner,
    ):
        # A signal must end the query, so another thread waits for it.
        running = runner.submit(_copy, connection, query, path, rows)
        try:
            while not wait([running], signals.SLICE).done:
                signals.check()
                check()
        except BaseException:
            connection.interrupt()
            raise
        running.result()
    return path


def _connected(query: Query, folder: Path, duckdb: Any) -> Any:
    settings = {
        "memory_limit": f"{query.memory // 1_000_000}MB",
        "threads": str(query.threads),
        "temp_directory": str(folder / "duckdb"),
        # A run loads what is installed, and nothing from elsewhere.
        "autoinstall_known_extensions": "false",
    }
    if query.database is None:
        return duckdb.connect(":memory:", config=settings)
    return duckdb.connect(str(query.database), read_only=True, config=settings)


def _copy(connection: Any, query: Query, path: Path, rows: int | None) -> None:
    # DuckDB would draw it on a terminal.
    connection.execute("SET enable_progress_bar = false")
    *before, last = _statements(connection, query)
    for statement in before:
        connection.execute(statement)
        # A query may not switch it on.
        connection.execute("SET autoinstall_known_extensions = false")
    # A SELECT can hold an INSERT.
    connection.execute("BEGIN TRANSACTION READ ONLY")
    relation = connection.sql(last)
    reader, left = relation.to_arrow_reader(_BATCH_ROWS), rows
    with (
        storing(path, "writing"),
        open(path, "xb", opener=private) as file,
        pa.ipc.new_file(file, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch if left is None else batch.slice(0, left))
            left = None if left is None else left - batch.num_rows
            if left is not None and left <= 0:
                break


def _statements(connection: Any, query: Query) -> list[Any]:
    """Return the statements of a query; raises QueryError if one may do more than read."""
    found = connection.extract_statements(query.sql)
    if not found or not _is_one_of(_ROWS, found[-1]):
        raise _may_only_read(query, "End it with a SELECT.")
    if not all(_is_one_of(_BEFORE, each) for each in found[:-1]):
        allowed = "ATTACH, DETACH, LOAD, SET, USE, CREATE SECRET, CREATE TEMP VIEW and CREATE TEMP MACRO"
        raise _may_only_read(query, f"Before its SELECT, write only {allowed}.")
    return list(found)


def _is_one_of(kinds: Mapping[str, str], statement: Any) -> bool:
    begin = kinds.get(statement.type.name)
    return begin is not None and re.match(_COMMENTS + begin, statement.query, re.IGNORECASE | re.DOTALL) is not None


def _may_only_read(query: Query, advice: str) -> QueryError:
    return QueryError(place=query.where, fault=f"the query of {query.name} may only read", advice=advice)


@contextmanager
def _explained(query: Query, duckdb: Any) -> Iterator[None]:
    """Raise psicli's errors for what DuckDB raises."""
    try:
        yield
    except PsicliError:
        raise
    except duckdb.Error as exc:
        raise _error(query, exc, duckdb) from None
    except pa.ArrowException as exc:
        raise _failed(query, type(exc).__name__) from None


def _error(query: Query, exc: Exception, duckdb: Any) -> PsicliError:
    text = str(exc)
    if _EXTENSION.search(text) and not isinstance(exc, duckdb.ParserException):
        found = _NAMED.search(text)
        name = next(filter(None, found.groups()), "") if found else ""
        fault = (
            f"the query needs {f'the extension {name}' if name else 'an extension'} of DuckDB, which is not installed"
        )
        advice = f"Install it once for this user: `INSTALL {name or 'NAME'}` in DuckDB. psicli downloads none."
        return InputMissingError(place=query.where, fault=fault, advice=advice)
    if isinstance(exc, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException):
        fault = f"DuckDB does not accept the query: {_shown(query, exc)}"
        return QueryError(place=query.where, fault=fault, advice="Correct the query in the job file.")
    if isinstance(exc, duckdb.TransactionException | duckdb.InvalidInputException) and "read-only" in text:
        return _may_only_read(query, "Remove what writes from its SELECT.")
    if isinstance(exc, duckdb.IOException):
        if "lock" in text and query.database is not None:
            fault, advice = "another process has it open to write", "Run psicli when that has ended, or use a copy."
        elif "not a valid DuckDB" in text or "storage version" in text or "version number" in text:
            fault, advice = "it is no DuckDB database that this version can read", "Check the file, and update duckdb."
        else:
            fault, advice = "a file cannot be read", "Check the paths in the query, and that this user may read them."
        return InputMissingError(place=query.name, fault=fault, advice=advice)
    if isinstance(exc, duckdb.OutOfMemoryException):
        advice = "Raise pipeline.memory, of which DuckDB gets a quarter, or simplify the query."
        return QueryError(place=query.where, fault="the query needs more memory than it may use", advice=advice)
    return _failed(query, type(exc).__name__)


def _shown(query: Query, exc: Exception) -> str:
    """Return the first line of a message if it has plain names of the job file only, else its kind and its place."""
    lines = str(exc).strip().splitlines() or [""]
    if not query.is_filled and not _INDIRECT.search(query.sql) and _PLAIN.fullmatch(lines[0]):
        return lines[0]
    place = re.search(r"^LINE (\d+):", str(exc), re.MULTILINE)
    at = f" in line {place[1]} of the query" if place else ""
    return f"{type(exc).__name__.removesuffix('Exception')} Error{at}, whose message may quote a value"


def _failed(query: Query, kind: str) -> QueryError:
    advice = "Run the query in DuckDB to see its message, which can quote values, so that psicli does not show it."
    return QueryError(place=query.where, fault=f"the query failed with a {kind}", advice=advice)
