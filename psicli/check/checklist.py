"""The findings of a check, as a table for people and as JSON.

A finding holds names, paths, counts and dates only: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from psicli.core.errors import InterruptedBySignal, PsicliError, printable
from psicli.core.records import dataclass
from psicli.report.layout import GAP, LEAST_WIDTH, PLAIN, Screen, table

# The order in which a run meets them. Those with the same number belong together, task by task.
_STAGES = {
    "config": 0, "lock": 1, "kernel": 2, "certificate": 3, "private key": 3, "pinning": 3, "input": 4, "output": 4,
    "state": 5, "cluster": 6, "workers": 6, "peer": 7, "peer certificate": 8, "clock": 9, "version": 10,
    "agreement": 11, "pairing": 11, "keys": 12, "spelling": 12, "space": 13, "link": 14, "estimate": 15,
    "plan": 16,
}  # fmt: skip
_STAGES_OF_TASKS = {_STAGES["input"], _STAGES["keys"]}


class Verdict(StrEnum):
    """The result of one row; only a failure would stop a run."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_VERDICT_WIDTH = 4
# The names of rows take at most this part of a screen's width.
_NAME_SHARE = 3
_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@dataclass(frozen=True)
class Check:
    """One row. code: the exit code of a run that meets this failure; 0 if the row is not a failure.

    figures: what the message says in numbers, by name with the unit, for programs; None if it says nothing in numbers.
    """

    name: str
    task: str | None
    status: Verdict
    code: int
    message: str
    hint: str = ""
    figures: Mapping[str, Any] | None = None


class Checklist:
    """The rows of one check, added in any order.

    peer: the name that goes into errors that do not know it. show: called with each row when it is added.
    """

    def __init__(self, peer: str, show: Callable[[Check], None] = lambda row: None) -> None:
        self._peer = peer
        self._show = show
        self._rows: list[Check] = []

    @property
    def rows(self) -> list[Check]:
        """All rows, in the order in which a run meets their subjects."""
        return sorted(self._rows, key=lambda row: _STAGES[row.name])

    @property
    def exit_code(self) -> int:
        """The exit code that a run would have."""
        return next((row.code for row in self.rows if row.code), 0)

    def add(
        self,
        name: str,
        message: str,
        task: str | None = None,
        *,
        good: bool = True,
        hint: str = "",
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a row; if it is not good, it is a warning with this hint. figures: see Check."""
        status = Verdict.OK if good else Verdict.WARN
        self._add(Check(name, task, status, 0, printable(message), "" if good else hint, figures))

    def fail(self, name: str, error: PsicliError, task: str | None = None) -> None:
        """Add a row for an error that would stop a run."""
        error.facts["peer"] = self._peer
        self._add(Check(name, task, Verdict.FAIL, error.code, error.message, error.advice))

    def _add(self, row: Check) -> None:
        self._rows.append(row)
        self._show(row)

    def refuse(self, error: PsicliError) -> None:
        """Add the rows for a job file that cannot be used: one for each error in it."""
        for line in error.message.splitlines():
            self._add(Check("config", None, Verdict.FAIL, error.code, line, error.advice))

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
    checks = [_to_dict(row) for row in checklist.rows]
    return json.dumps({"checks": checks, "exit_code": checklist.exit_code}, indent=2)


def _to_dict(row: Check) -> dict[str, Any]:
    facts = asdict(row)
    if row.figures is None:
        del facts["figures"]
    return facts


class Listing:
    """The rows of a check as text, each as soon as it is known.

    longest: the longest name of a row. quiet: only warnings and failures.
    """

    def __init__(self, longest: str, screen: Screen = PLAIN, *, quiet: bool = False) -> None:
        self._screen = screen
        self._quiet = quiet
        self._hint = ""
        # On a narrow screen, a long name gets several lines, so that the message has room.
        widest = len(longest) if screen.width is None else max(screen.width // _NAME_SHARE, LEAST_WIDTH)
        self._width = min(len(longest), widest)

    def text(self, row: Check) -> str:
        """Return the lines of a row, or nothing if it is not shown; leave out a hint that the row before has, too."""
        if self._quiet and row.status is Verdict.OK:
            return ""
        texts = row.message.splitlines()
        if row.hint and row.hint != self._hint:
            texts.append(f"hint: {row.hint}")
        self._hint = row.hint
        taken, width = _VERDICT_WIDTH + self._width + 2 * len(GAP), self._screen.width
        room = None if width is None else max(width - taken, LEAST_WIDTH)
        names = self._cell(f"{row.task}: {row.name}" if row.task else row.name, self._width)
        messages = [line for text in texts for line in self._cell(text, room)]
        first, *more = (
            f"{verdict:{_VERDICT_WIDTH}}{GAP}{name:{self._width}}{GAP}{message}".rstrip()
            for verdict, name, message in zip_longest([row.status.value], names, messages, fillvalue="")
        )
        first = self._screen.paint_at(first, 0, row.status.value, _COLOURS[row.status])
        return "\n".join([first, *more])

    def _cell(self, text: str, width: int | None) -> list[str]:
        return table([[text]], Screen(width))[0]


def longest_name(tasks: Sequence[str], *, secure: bool) -> str:
    """Return the longest name that a row of a job with these tasks can have; secure: whether it uses TLS."""
    names = [name for name in _STAGES if secure or name != "peer certificate"]
    of_tasks = [name for name in names if _STAGES[name] in _STAGES_OF_TASKS]
    return max([*names, *(f"{task}: {name}" for task in tasks for name in of_tasks)], key=len)


def summary(checklist: Checklist, screen: Screen = PLAIN, *, quiet: bool = False) -> str:
    """Return the summary that follows the rows, or nothing with quiet if no row is shown."""
    if quiet and all(row.status is Verdict.OK for row in checklist.rows):
        return ""
    return "\n" + screen.wrap(_summary(checklist))


def _summary(checklist: Checklist) -> str:
    rows = checklist.rows
    counts = {verdict: sum(row.status is verdict for row in rows) for verdict in Verdict}
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    if checklist.exit_code:
        return f"{found}: a run would fail with exit code {checklist.exit_code}"
    if any(row.name == "peer" for row in rows):
        return f"{found}: nothing would stop a run"
    return f"{found}: nothing on this side would stop a run; the other party was not checked"
