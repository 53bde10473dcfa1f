"""What a check found, row by row: as a table that a mail can hold, and as a program can read it.

Names, paths, counts and dates only: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from psicli.core.errors import InterruptedBySignal, PsicliError
from psicli.report.table import table

# In the order in which a run meets them; what has one number a run takes task by task.
_STAGES = {
    "config": 0, "lock": 1, "kernel": 2, "certificate": 3, "input": 4, "output": 4, "state": 5, "peer": 6,
    "peer certificate": 7, "clock": 8, "version": 9, "agreement": 10, "keys": 11, "space": 12, "estimate": 13,
}  # fmt: skip


class Verdict(StrEnum):
    """What a check came to; only a failure keeps a run from its end."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One row. code: what a run would end with, 0 where it would not."""

    name: str
    task: str | None
    status: Verdict
    code: int
    message: str
    hint: str = ""


class Checklist:
    """The rows of one check, in any order; peer: who is meant in the errors of those who do not know its name."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._rows: list[Check] = []

    @property
    def rows(self) -> list[Check]:
        """All rows, in the order in which a run would meet what they are about."""
        return sorted(self._rows, key=lambda row: _STAGES[row.name])

    @property
    def exit_code(self) -> int:
        """What a run would end with."""
        return next((row.code for row in self.rows if row.code), 0)

    def add(self, name: str, message: str, task: str | None = None, *, good: bool = True, hint: str = "") -> None:
        """Add a row that is a warning with this hint unless all is good."""
        row = (Verdict.OK, 0, message) if good else (Verdict.WARN, 0, message, hint)
        self._rows.append(Check(name, task, *row))

    def fail(self, name: str, error: PsicliError, task: str | None = None) -> None:
        error.facts["peer"] = self._peer
        self._rows.append(Check(name, task, Verdict.FAIL, error.code, error.message, error.advice))

    @classmethod
    def refused(cls, error: PsicliError) -> Self:
        """Return what is found where the job file cannot be used: a row for every mistake."""
        found = cls("the other party")
        for mistake in error.message.splitlines():
            found._rows.append(Check("config", None, Verdict.FAIL, error.code, mistake, error.advice))
        return found

    @contextmanager
    def trying(self, name: str, task: str | None = None) -> Iterator[None]:
        """Make a row of an error, and go on behind the block."""
        try:
            yield
        except InterruptedBySignal:
            raise
        except PsicliError as exc:
            self.fail(name, exc, task)


def to_json(checklist: Checklist) -> str:
    """Return the rows as one JSON object; keys are only ever added."""
    checks = [asdict(row) for row in checklist.rows]
    return json.dumps({"checks": checks, "exit_code": checklist.exit_code}, indent=2, ensure_ascii=False)


def to_text(checklist: Checklist, *, quiet: bool = False) -> str:
    """Return the rows as a table and one line of summary; quiet: only rows that need somebody, nothing without one."""
    lines: list[tuple[str, str, str]] = []
    for row in checklist.rows:
        if not (quiet and row.status is Verdict.OK):
            first, *more = row.message.splitlines()
            lines.append((f"{row.status:4}", f"{row.task}: {row.name}" if row.task else row.name, first))
            lines += [("", "", line) for line in [*more, *([f"hint: {row.hint}"] if row.hint else [])]]
    return "\n".join([*table(lines), _summary(checklist)] if lines else [])


def _summary(checklist: Checklist) -> str:
    rows = checklist.rows
    counts = {verdict: sum(row.status is verdict for row in rows) for verdict in Verdict}
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    if checklist.exit_code:
        return f"{found}: a run would end with {checklist.exit_code}"
    asked = any(row.name == "peer" for row in rows)
    return f"{found}: nothing is in the way of a run" + ("" if asked else ", as far as can be told from here")
