"""Runs the query of an input in DuckDB; the only module that imports duckdb.

The rows go into an Arrow file of this run, which is then read like any other: DuckDB need not give them twice in the
same order. DuckDB's messages can quote values, so only those about the text of the query are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from psicli.core import signals
from psicli.core.errors import BadInputError, ConfigError, InputMissingError, PsicliError, printable, storing

# So many rows are in memory at once.
_BATCH_ROWS = 100_000
_EXTENSION = re.compile(r"[Ee]xtension|INSTALL")
_NAMED = re.compile(r"(?:INSTALL|LOAD) '?(\w+)|/(\w+)\.duckdb_extension|xtension [\"'](\w+)[\"']")


class DuckdbMissingError(ConfigError):
    sentence = "{place}: the input is a database, and duckdb is not installed"
    hint = "Type `pip install 'psicli[duckdb]'`."


class QueryError(BadInputError):
    """A query that DuckDB refused, or that failed. Facts: place, fault, advice."""


@dataclass(frozen=True)
class Query:
    """A query and what DuckDB may use for it.

    database: the file; None is a database in memory. name: what messages call the database; where: the place of the
    query in the job file. memory: [bytes].
    """

    database: Path | None
    sql: str
    name: str
    where: str
    memory: int
    threads: int


def copy_rows(query: Query, folder: Path, rows: int | None = None) -> Path:
    """Run a query and write its rows, or the first ones, to a new Arrow file in this folder; return its path.

    Raises DuckdbMissingError, InputMissingError, QueryError, StorageError.
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
    relation = connection.sql(query.sql)
    if relation is None:
        advice = "End it with a SELECT."
        raise QueryError(place=query.where, fault="the last statement of the query gives no rows", advice=advice)
    reader, left = relation.to_arrow_reader(_BATCH_ROWS), rows
    with (
        storing(path, "writing"),
        open(path, "xb", opener=_private) as file,
        pa.ipc.new_file(file, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch if left is None else batch.slice(0, left))
            left = None if left is None else left - batch.num_rows
            if left is not None and left <= 0:
                break


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
        # These are about names and words in the query, before any row is read.
        fault = f"DuckDB does not accept the query: {printable(text.strip().splitlines()[0])}"
        return QueryError(place=query.where, fault=fault, advice="Correct the query in the job file.")
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


def _failed(query: Query, kind: str) -> QueryError:
    advice = "Run the query in DuckDB to see its message, which can quote values, so that psicli does not show it."
    return QueryError(place=query.where, fault=f"the query failed with a {kind}", advice=advice)
