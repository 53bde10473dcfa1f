"""The ledger as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.core.errors import shown
from psicli.report.layout import PLAIN, Screen, in_words, table_or_paragraphs
from psicli.storage.ledger import FAILED, Entry

_HEADER = ("time", "job", "task", "peer", "own", "peer's", "matched", "outcome", "input")
_NUMBERS = ("own", "peer's", "matched")
# The columns of a narrow screen; the others go below.
_NARROW = ("time (UTC)", "task", "own", "peer's", "matched", "outcome")
_COLOURS = {"done": "green", FAILED: "red"}


def to_text(entries: Sequence[Entry], screen: Screen = PLAIN) -> str:
    """Return the entries as a table, with one line or one paragraph for each."""
    rows = [_HEADER, *map(_row, entries)]
    narrow, below = [_NARROW, *map(_narrow, rows[1:])], ["", *map(_below, rows[1:])]
    blocks = table_or_paragraphs(rows, narrow, below, screen, right=_NUMBERS)
    column = blocks[0][0].index("outcome")
    for entry, lines in zip(entries, blocks[1:], strict=True):
        lines[0] = screen.paint_at(lines[0], column, _outcome(entry), _COLOURS.get(entry.outcome))
    return "\n".join(line for lines in blocks for line in lines)


def _narrow(row: Sequence[str]) -> tuple[str, ...]:
    time, _, task, _, *rest = row[:-1]
    return in_words(time).removesuffix(" UTC"), task, *rest


def _below(row: Sequence[str]) -> str:
    _, job, _, peer, *_, source = row
    return f"{job} with {peer}: {source}"


def _row(entry: Entry) -> tuple[str, ...]:
    opening = entry.opening
    matched = "" if entry.matched is None else f"{entry.matched:,}"
    source = f"{opening.input} ({', '.join(opening.keys)})"
    source = source if source.isprintable() else shown(source, 1000)
    counts = (f"{opening.distinct_items:,}", f"{opening.peer_items:,}", matched)
    return entry.time, opening.job, opening.task, opening.peer, *counts, _outcome(entry), source


def _outcome(entry: Entry) -> str:
    return f"{entry.code} {entry.error}" if entry.outcome == FAILED else entry.outcome
