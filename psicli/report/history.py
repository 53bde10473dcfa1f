"""The ledger as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.core.errors import shown
from psicli.report.table import table
from psicli.storage.ledger import FAILED, Entry

_HEADER = ("time", "job", "task", "peer", "own", "peer's", "matched", "outcome", "input")
_NUMBERS = [_HEADER.index(name) for name in ("own", "peer's", "matched")]


def to_text(entries: Sequence[Entry]) -> str:
    """Return the entries as a table, one line each."""
    return "\n".join(table([_HEADER, *map(_row, entries)], right=_NUMBERS))


def _row(entry: Entry) -> tuple[str, ...]:
    opening = entry.opening
    outcome = f"{entry.code} {entry.error}" if entry.outcome == FAILED else entry.outcome
    matched = "" if entry.matched is None else f"{entry.matched:,}"
    source = f"{opening.input} ({', '.join(opening.keys)})"
    source = source if source.isprintable() else shown(source, 1000)
    counts = (f"{opening.distinct_items:,}", f"{opening.peer_items:,}", matched)
    return entry.time, opening.job, opening.task, opening.peer, *counts, outcome, source
