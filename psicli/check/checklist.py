"""The findings of a check, as a table for people and as JSON.

A finding holds names, paths, counts and dates only: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from psicli.core.errors import InterruptedBySignal, PsicliError
from psicli.report.layout import PLAIN, Screen, table

# The order in which a run meets them. Those with the same number belong together, task by task.
_STAGES = {
    "config": 0, "lock": 1, "kernel": 2, "certificate": 3, "input": 4, "output": 4, "state": 5, "peer": 6,
    "peer certificate": 7, "clock": 8, "version": 9, "agreement": 10, "keys": 11, "spelling": 11, "space": 12,
    "estimate": 13,
}  # fmt: skip


class Verdict(StrEnum):
    """The result of one row; only a failure would stop a run."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@dataclass(frozen=True)
class Check:
    """One row. code: the exit code of a run that meets this failure; 0 if the row is not a failure."""

    name: str
    task: str | None
    status: Verdict
    code: int
    message: str
    hint: str = ""


class Checklist:
    """The rows of one check, added in any order. peer: the name that goes into errors that do not know it."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._rows: list[Check] = []

    @property
    def rows(self) -> list[Check]:
        """All rows, in the order in which a run meets their subjects."""
        return sorted(self._rows, key=lambda row: _STAGES[row.name])

    @property
    def exit_code(self) -> int:
        """The exit code that a run would have."""
        return next((row.code for row in self.rows if row.code), 0)

    def add(self, name: str, message: str, task: str | None = None, *, good: bool = True, hint: str = "") -> None:
        """Add a row; if it is not good, it is a warning with this hint."""
        row = (Verdict.OK, 0, message) if good else (Verdict.WARN, 0, message, hint)
        self._rows.append(Check(name, task, *row))

    def fail(self, name: str, error: PsicliError, task: str | None = None) -> None:
        """Add a row for an error that would stop a run."""
        error.facts["peer"] = self._peer
        self._rows.append(Check(name, task, Verdict.FAIL, error.code, error.message, error.advice))

    @classmethod
    def refused(cls, error: PsicliError) -> Self:
        """Return the rows for a job file that cannot be used: one for each error in it."""
        found = cls("the other party")
        for line in error.message.splitlines():
            found._rows.append(Check("config", None, Verdict.FAIL, error.code, line, error.advice))
        return found

    @contextmanager
    def trying(self, name: str, task: str | None = None) -> Iterator[None]:
        """Turn an error in the block into a row, and continue after the block."""
        try:
            yield
        except InterruptedBySignal:
            raise
        except PsicliError as exc:
            self.fail(name, exc, task)


def to_json(checklist: Checklist) -> str:
    """Return the rows as one JSON object; a later version may add keys, but never removes one."""
    checks = [asdict(row) for row in checklist.rows]
    return json.dumps({"checks": checks, "exit_code": checklist.exit_code}, indent=2, ensure_ascii=False)


def to_text(checklist: Checklist, screen: Screen = PLAIN, *, quiet: bool = False) -> str:
    """Return the rows as a table with one line of summary. quiet: only warnings and failures, if there are any."""
    shown = [row for row in checklist.rows if not (quiet and row.status is Verdict.OK)]
    if not shown:
        return ""
    texts = [text for row, following in zip(shown, [*shown[1:], None], strict=True) for text in _texts(row, following)]
    lines = []
    for verdict, (first, *more) in zip([text[0] for text in texts], table(texts, screen), strict=True):
        colour = _COLOURS[Verdict(verdict)] if verdict else None
        lines += [first.replace(verdict, screen.paint(verdict, colour), 1), *more]
    return "\n".join([*lines, "", screen.wrap(_summary(checklist))])


def _texts(row: Check, following: Check | None) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of a row; leave out a hint that the following row repeats."""
    first, *more = row.message.splitlines()
    yield row.status.value, f"{row.task}: {row.name}" if row.task else row.name, first
    for line in more:
        yield "", "", line
    if row.hint and (following is None or following.hint != row.hint):
        yield "", "", f"hint: {row.hint}"


def _summary(checklist: Checklist) -> str:
    rows = checklist.rows
    counts = {verdict: sum(row.status is verdict for row in rows) for verdict in Verdict}
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    if checklist.exit_code:
        return f"{found}: a run would fail with exit code {checklist.exit_code}"
    if any(row.name == "peer" for row in rows):
        return f"{found}: nothing would stop a run"
    return f"{found}: nothing on this side would stop a run; the other party was not checked"
