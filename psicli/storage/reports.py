"""Reports of past runs, in the folder `reports` of the state folder: one JSON file each, as `--json` prints it.

The name of a file says when its run began, and the run's id in the ledger. A report is there as a whole or not at all.
Reports are removed when they are old, or when there are too many; one that cannot be read counts as none.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from psicli.core.errors import CannotCreateError, creating
from psicli.storage.files import replace_file
from psicli.storage.state import held

FOLDER = "reports"
# Reports are removed when they are older, when there are more, or when together they are larger [bytes].
MAX_AGE = timedelta(days=400)
MAX_REPORTS = 40_000
MAX_BYTES = 256 << 20
# Adding up the sizes of so many files takes a quarter of a second, so only one run in this many does so.
_SUMS_ONE_IN = 16
# No report is larger: one of 10,000 tasks has about 20 MB [bytes].
_MAX_REPORT = 64 << 20

_TIME = "%Y%m%dT%H%M%S.%f"
# In this form, the order of the names is that of the times.
_NAME = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{3})Z-([0-9a-f]{16})\.json")
_SAFE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Kept(NamedTuple):
    """A kept report: the id of its run, and when the run began."""

    run: str
    started: datetime
    name: str


def keep(state: Path, facts: Mapping[str, Any]) -> None:
    """Keep the facts of a run that the ledger knows, and remove old reports.

    facts: as `facts_of` returns them. Raises CannotCreateError.
    """
    began = datetime.fromisoformat(facts["started"]).astimezone(UTC)
    folder = state / FOLDER
    path = folder / f"{began.strftime(_TIME)[:-3]}Z-{facts['run']}.json"
    octets = json.dumps(facts, separators=(",", ":")).encode()
    # Whoever holds the state folder is the only one that writes here.
    with held(state), creating(path):
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        if not _is_ours(folder):
            raise CannotCreateError(path=folder, reason="it is a link, no folder, or another user's")
        replace_file(path, octets)
        _remove_old(folder, path.name, sums=int(facts["run"], 16) % _SUMS_ONE_IN == 0)


def kept(state: Path) -> list[Kept]:
    """Return the reports that are kept, newest first; raises CannotCreateError."""
    folder = state / FOLDER
    if not os.path.lexists(folder):
        return []
    with held(state), creating(folder):
        names = os.listdir(folder) if _is_ours(folder) else []
    return [_kept(name) for name in sorted(filter(_NAME.fullmatch, names), reverse=True)]


def load(state: Path, run: str) -> dict[str, Any] | None:
    """Return the facts of a run; None if no readable report of it is kept. Raises CannotCreateError."""
    found = next((each for each in kept(state) if each.run == run), None)
    return None if found is None else read(state, found)


def read(state: Path, report: Kept) -> dict[str, Any] | None:
    """Return the facts of a report; None if it cannot be read, or is not what its name says."""
    with suppress(OSError, ValueError, RecursionError):
        descriptor = os.open(state / FOLDER / report.name, _SAFE)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_REPORT:
                facts = json.load(file)
                if isinstance(facts, dict) and facts.get("run") == report.run:
                    return facts
    return None


def _kept(name: str) -> Kept:
    found = _NAME.fullmatch(name)
    assert found is not None
    # Whoever renames a file may give it a day that does not exist.
    began = datetime.min
    with suppress(ValueError):
        began = datetime.strptime(found[1], _TIME)
    return Kept(found[2], began.replace(tzinfo=UTC), name)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user; a link is none. Raises OSError."""
    status = os.lstat(folder)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove_old(folder: Path, new: str, *, sums: bool) -> None:
    """Remove what exceeds the limits, oldest first, and what a killed run left; never the new report.

    sums: whether to add up sizes. Raises OSError.
    """
    names = os.listdir(folder)
    for name in names:
        if name.endswith(".json.new"):
            (folder / name).unlink()
    reports = sorted(filter(_NAME.fullmatch, names))
    first = max(len(reports) - MAX_REPORTS, 0)
    oldest = (datetime.now(UTC) - MAX_AGE).strftime(_TIME)
    while first < len(reports) and reports[first] < oldest:
        first += 1
    if sums:
        total = 0
        for number in range(len(reports) - 1, first - 1, -1):
            total += os.lstat(folder / reports[number]).st_size
            if total > MAX_BYTES:
                first = number + 1
                break
    for name in reports[:first]:
        if name != new:
            (folder / name).unlink()
