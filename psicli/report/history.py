"""The ledger as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.core.errors import shown
from psicli.report.layout import PLAIN, Screen, in_words, table
from psicli.storage.ledger import FAILED, Entry

_HEADER = ("time", "job", "task", "peer", "own", "peer's", "matched", "outcome", "input")
_NUMBERS = [_HEADER.index(name) for name in ("own", "peer's", "matched")]
# On a narrow screen, the job and the input go below the other columns.
_NARROW = [_HEADER.index(name) for name in ("time", "task", "peer", "own", "peer's", "matched", "outcome")]
_COLOURS = {"done": "green", FAILED: "red"}


def to_text(entries: Sequence[Entry], screen: Screen = PLAIN) -> str:
    """Return the entries as a table, with one line or one paragraph for each."""
    rows = [_HEADER, *map(_row, entries)]
    blocks = table(rows, right=_NUMBERS)
    if screen.width is not None and max(len(line) for lines in blocks for line in lines) > screen.width:
        blocks = _narrow(rows, screen)
    for entry, lines in zip(entries, blocks[1:], strict=True):
        outcome = _outcome(entry)
        # The outcome stands behind all numbers and names but those of the input.
        before, found, after = lines[0].partition(f"  {outcome}")
        lines[0] = before + found.replace(outcome, screen.paint(outcome, _COLOURS.get(entry.outcome))) + after
    return "\n".join(line for lines in blocks for line in lines)


def _narrow(rows: Sequence[tuple[str, ...]], screen: Screen) -> list[list[str]]:
    """Return the lines of each row, with the job and the input in lines of their own."""
    picked = [[in_words(row[0]).removesuffix(" UTC"), *(row[at] for at in _NARROW[1:])] for row in rows]
    picked[0][0] = "time (UTC)"
    numbers = [at for at, column in enumerate(_NARROW) if column in _NUMBERS]
    blocks = table(picked, screen, right=numbers)
    for row, lines in zip(rows[1:], blocks[1:], strict=True):
        lines += screen.wrap(f"  {row[1]}: {row[-1]}").splitlines()
    return blocks


def _row(entry: Entry) -> tuple[str, ...]:
    opening = entry.opening
    matched = "" if entry.matched is None else f"{entry.matched:,}"
    source = f"{opening.input} ({', '.join(opening.keys)})"
    source = source if source.isprintable() else shown(source, 1000)
    counts = (f"{opening.distinct_items:,}", f"{opening.peer_items:,}", matched)
    return entry.time, opening.job, opening.task, opening.peer, *counts, _outcome(entry), source


def _outcome(entry: Entry) -> str:
    return f"{entry.code} {entry.error}" if entry.outcome == FAILED else entry.outcome
