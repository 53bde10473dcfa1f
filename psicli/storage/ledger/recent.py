"""The last runs of one job's tasks, found without parsing the lines of all the others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from psicli.storage.ledger.records import Entry, RunEntry, take

# Where a line names its event, and its task; psicli writes no spaces or escapes that would hide them.
_EVENT = re.compile(rb'\A\{(?:"time": "[^"]*", )?"event": "([a-z]+)"')
_SID = re.compile(rb'"task_sid": "([0-9a-f]+)"')


def last_tasks(
    lines: Sequence[bytes], job: str, most: int, parsed: Callable[[bytes], dict[str, Any] | None]
) -> list[Entry]:
    """Return the records of the last `most` openings of each task, oldest first; lines: those of the ledger."""
    name = f'"job": {json.dumps(job)}'.encode()
    seen: Counter[tuple[object, ...]] = Counter()
    kept: list[dict[str, Any]] = []
    others: dict[bytes, list[bytes]] = {}
    # From the end, the closing of a task comes before its opening.
    for data in reversed(lines):
        begins = _EVENT.match(data)
        event = begins[1] if begins else b""
        if event in (b"close", b"met"):
            if (sid := _SID.search(data)) is not None:
                others.setdefault(sid[1], []).append(data)
        elif event == b"open" and name in data and (line := parsed(data)) is not None and line["job"] == job:
            # Both parties of a task may share a state folder, so its id may come twice.
            closing = others.get(str(line["task_sid"]).encode(), [])
            who = line["task"], line.get("party"), line["peer"]
            seen[who] += 1
            if seen[who] <= most:
                kept += [each for each in map(parsed, closing) if each is not None]
                kept.append(line)
    tasks: dict[tuple[str, str], Entry] = {}
    runs: dict[str, RunEntry] = {}
    for line in reversed(kept):
        take(line, tasks, runs)
    return [*tasks.values()]
