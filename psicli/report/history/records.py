"""The ledger as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.core.errors import EXIT_CODES, counted, shown
from psicli.report.layout import PLAIN, Screen, in_words, table_or_paragraphs
from psicli.storage.ledger import ECDH, Entry, RunEntry
from psicli.storage.ledger.chain import Verdict

_HEADER = ("time", "job", "task", "party", "peer", "own", "peer's", "matched", "outcome", "input")
_NUMBERS = ("own", "peer's", "matched")
# The columns of a narrow screen; the others go below.
_NARROW = ("time (UTC)", "task", "own", "peer's", "matched", "outcome")
_COLOURS = {"done": "green", "failed": "red"}


def to_text(records: Sequence[Entry | RunEntry], screen: Screen = PLAIN) -> str:
    """Return the records as a table, with one line or one paragraph for each."""
    rows = [_HEADER, *map(_row, records)]
    narrow, below = [_NARROW, *map(_narrow, rows[1:])], ["", *map(_below, rows[1:])]
    blocks = table_or_paragraphs(rows, narrow, below, screen, right=_NUMBERS)
    column = blocks[0][0].index("outcome")
    for record, lines in zip(records, blocks[1:], strict=True):
        lines[0] = screen.paint_at(lines[0], column, _outcome(record), _COLOURS.get(record.outcome))
    return "\n".join(line for lines in blocks for line in lines)


def verdict_to_text(verdict: Verdict, screen: Screen = PLAIN) -> str:
    """Return what an examination of the ledger found, one line for each fault."""
    lines = counted(verdict.lines, "line")
    if not verdict.lines and not verdict.faults:
        return "The ledger has no lines."
    if verdict.faults:
        found = [screen.paint(screen.wrap(fault.text), "red") for fault in verdict.faults]
        found.append(screen.wrap(f"{lines}, not intact, head {verdict.head}"))
    else:
        found = [screen.wrap(f"{lines}, intact, head {verdict.head}")]
    if verdict.anchor is not None:
        found.append(screen.wrap(f"the given head is that of line {verdict.anchor}"))
    if verdict.before:
        found.append(screen.wrap(f"before the chain: {counted(verdict.before, 'line')} of an older version"))
    if verdict.torn:
        found.append(screen.wrap(f"torn by a crash: {counted(verdict.torn, 'line')}"))
    return "\n".join(found)


def _narrow(row: Sequence[str]) -> tuple[str, ...]:
    time, _, task, _, _, *rest = row[:-1]
    return in_words(time).removesuffix(" UTC"), task, *rest


def _below(row: Sequence[str]) -> str:
    _, job, _, party, peer, *_, source = row
    who = f"{job}: {party} with {peer}" if party else f"{job} with {peer}"
    return f"{who}, {source}" if source else who


def _row(record: Entry | RunEntry) -> tuple[str, ...]:
    if isinstance(record, RunEntry):
        return record.time, record.job, "-", record.party, record.peer, "", "", "", _outcome(record), ""
    opening = record.opening
    source = f"{opening.input} ({', '.join(opening.keys)})"
    source += "" if opening.protocol == ECDH else f", by {opening.protocol}"
    source = source if source.isprintable() else shown(source, 1000)
    counts = [*map(_count, (opening.distinct_items, opening.peer_items)), _matched(record)]
    names = opening.job, opening.task, opening.party, opening.peer
    return record.time, *names, *counts, _outcome(record), source


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _matched(record: Entry) -> str:
    rounded = record.matched is None and record.matched_percent is not None
    return f"{record.matched_percent} %" if rounded else _count(record.matched)


def _outcome(record: Entry | RunEntry) -> str:
    """Return how a run or a task ended, as people say it."""
    if not record.code:
        return record.outcome
    kind, _ = EXIT_CODES.get(record.code, ("failed", ""))
    return f"{kind} ({record.code})"
