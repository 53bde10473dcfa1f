"""The last runs of one job's tasks, found without reading the lines of all the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from psicli.storage.ledger.records import Entry, RunEntry, parsed, take


class Wanted(NamedTuple):
    """The tasks of a job of one party with one peer, and how many openings of each."""

    job: str
    party: str
    peer: str
    tasks: Collection[str]
    most: int


def last_tasks(data: bytes, wanted: Wanted) -> list[Entry]:
    """Return the records of the last openings of each task, oldest first; data: lines of the ledger."""
    missing = Counter(dict.fromkeys(wanted.tasks, wanted.most))
    kept: list[list[dict[str, Any]]] = []
    for opening, end in _openings(data, wanted):
        if missing[opening["task"]] > 0:
            missing[opening["task"]] -= 1
            kept.append([opening, *_rest(data, end, opening)])
            if not any(missing.values()):
                break
    tasks: dict[tuple[str, str], Entry] = {}
    runs: dict[str, RunEntry] = {}
    for line in (line for lines in reversed(kept) for line in lines):
        take(line, tasks, runs)
    return [*tasks.values()]


def _openings(data: bytes, wanted: Wanted) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the `open` lines of the job from the last to the first, each with the offset after it."""
    # As the ledger writes it.
    name = f'"job": {json.dumps(wanted.job)}'.encode()
    at = len(data)
    while (found := data.rfind(name, 0, at)) >= 0:
        at, end = _line_at(data, found)
        line = parsed(data[at:end]) if data.find(b'"event": "open"', at, found) >= 0 else None
        # Lines of older versions do not name the party.
        if line is not None and (line["job"], line.get("party", wanted.party), line["peer"]) == wanted[:3]:
            yield line, end


def _rest(data: bytes, at: int, opening: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what else the ledger says about a task that was opened before this offset."""
    sid = f'"task_sid": {json.dumps(opening["task_sid"])}'.encode()
    while (found := data.find(sid, at)) >= 0:
        start, at = _line_at(data, found)
        # A task has a line for each bin, too.
        line = parsed(data[start:at]) if data.find(b'"event": "answer"', start, found) < 0 else None
        # Both parties of a task may share a state folder.
        if line is not None and line["peer"] == opening["peer"]:
            if line["event"] in ("met", "close"):
                yield line
            if line["event"] in ("open", "close"):
                return


def _line_at(data: bytes, offset: int) -> tuple[int, int]:
    """Return where the line around an offset begins, and the offset after it."""
    end = data.find(b"\n", offset)
    return data.rfind(b"\n", 0, offset) + 1, len(data) if end < 0 else end + 1
