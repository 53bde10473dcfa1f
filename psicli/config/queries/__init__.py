"""Inputs that are queries: `duckdb:FILE` with a query of its own, or `duckdb:FILE?SELECT …` in one line."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.config.document import Document, Loc

_PREFIX = "duckdb:"
_RIGHT = 'write, for example, `query: {alice: "SELECT id, mail FROM customers"}`'


def database(text: str) -> tuple[str, str | None] | None:
    """Return the file and the query in a text that names a database, else None; without a file it is in memory."""
    if not text.startswith(_PREFIX):
        return None
    file, mark, query = text.removeprefix(_PREFIX).partition("?")
    return file, query if mark else None


def query_of(document: Document, task: Loc, party: str, text: str) -> tuple[str, str, Loc] | None:
    """Return the file of a database, the query and its place, given a file without errors; None for other inputs."""
    found = database(text)
    if found is None:
        return None
    file, query = found
    if query is None:
        return file, document.text(*task, "query", party) or "", (*task, "query", party)
    return file, query, (*task, "input_path", party)


def check_queries(document: Document, parties: Sequence[str]) -> None:
    """Check that a database has one query, and that nothing else has one."""
    for task in document.entries("tasks"):
        for party in parties:
            loc = (*task, "input_path", party)
            for each in document.entries(*loc):
                if database(document.text(*each) or "") is not None:
                    document.blame(each, "is a database in a list", "name one database, or make a task of each")
            text = document.text(*loc)
            if text is not None:
                _check_query(document, task, party, text)


def _check_query(document: Document, task: Loc, party: str, text: str) -> None:
    loc = (*task, "query", party)
    written, found = document.text(*loc), database(text)
    if found is None:
        if written is not None:
            document.blame(loc, "has no effect on files", "remove it, or name a database such as duckdb:crm.duckdb")
    elif found[1] is not None and written is not None:
        document.blame(loc, "is a second query: input_path has one, too", "remove one of them")
    elif not (found[1] or written or "").strip():
        document.blame(loc, "is missing, and the input is a database", _RIGHT)
