"""What the lines of the ledger say: the records of runs and of their tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, field, replace
from datetime import datetime
from typing import Any

from psicli.core.records import dataclass

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
# How items were compared in tasks whose lines name no protocol, as those of older versions.
ECDH = "ecdh"
# The fields of a `close` line, apart from the time.
CLOSING = (
    "outcome",
    "code",
    "error",
    "matched",
    "matched_percent",
    "output_sha256",
    "rows",
    "seconds",
    "drift_accepted",
)
# The fields of an `end` line, apart from the time.
ENDING = ("outcome", "code", "error", "failure", "session_id", "peer_version", "peer_certificate_sha256", "seconds")


@dataclass(frozen=True)
class Opening:
    """A task as this party opens it. input: an absolute path, or - for standard input; counts [items].

    peer_questions: the largest number of items that the peer can have asked about: padding counts. Both numbers of
    the peer are None until it has opened the task too.
    """

    job: str
    task: str
    peer: str
    task_sid: str
    input: str
    keys: tuple[str, ...]
    distinct_items: int
    peer_items: int | None = None
    peer_questions: int | None = None
    # Lines of older versions do not name them. run: the id of the run.
    party: str = ""
    run: str = ""
    # Lines name it only if it is another one.
    protocol: str = ECDH

    @property
    def subject(self) -> tuple[object, ...]:
        """The facts that the runs counted by policy.max_runs_per_day share; the job and the task may differ."""
        return self.peer, self.input, self.keys


@dataclass(frozen=True)
class Entry:
    """The ledger's record of one task. Times are in UTC, as ISO 8601; unknown values are None."""

    time: str
    opening: Opening
    outcome: str = UNFINISHED
    closed: str | None = None
    code: int | None = None
    error: str | None = None
    matched: int | None = None
    # Lines of older versions do not have it, and with policy.whole_percent it is all there is.
    matched_percent: int | None = None
    output_sha256: str | None = None
    # The rows of the input, and how long the task took [s].
    rows: int | None = None
    seconds: float | None = None
    # The measures that the user accepted outside their usual ranges.
    drift_accepted: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as one flat object."""
        facts = asdict(self)
        return {"time": facts.pop("time"), **facts.pop("opening"), **facts}


@dataclass(frozen=True)
class RunEntry:
    """The ledger's record of one run: of each that began, also if it opened no task. failure: its kind in words."""

    time: str
    run: str
    job: str
    party: str
    peer: str
    version: str | None = None
    address: str | None = None
    closed: str | None = None
    outcome: str = UNFINISHED
    code: int | None = None
    error: str | None = None
    failure: str | None = None
    session_id: str | None = None
    peer_version: str | None = None
    peer_certificate_sha256: str | None = None
    # How long the run took, with the wait for the peer [s].
    seconds: float | None = None


@dataclass(frozen=True)
class History:
    """Everything that the ledger records, oldest first."""

    tasks: list[Entry] = field(default_factory=list)
    runs: list[RunEntry] = field(default_factory=list)

    def only(self, peer: str | None) -> History:
        """Return what concerns one peer; None stands for all."""
        tasks = [task for task in self.tasks if peer in (None, task.opening.peer)]
        return History(tasks, [run for run in self.runs if peer in (None, run.peer)])

    def within(self, since: datetime | None, last: int | None) -> History:
        """Return what began since a moment, and of that the last records; None stands for all."""
        if since is None and last is None:
            return self
        recent = [each for each in self.records if since is None or datetime.fromisoformat(each.time) >= since]
        kept = recent[-(last or len(recent)) :]
        tasks = [each for each in kept if isinstance(each, Entry)]
        opened = {task.opening.run for task in tasks}
        return History(tasks, [run for run in self.runs if run in kept or run.run in opened])

    @property
    def records(self) -> list[Entry | RunEntry]:
        """All tasks, and the runs that opened none, in the order of their times."""
        opened = {task.opening.run for task in self.tasks}
        without: list[Entry | RunEntry] = [run for run in self.runs if run.run not in opened]
        return sorted([*self.tasks, *without], key=lambda record: record.time)

    def to_json(self) -> dict[str, Any]:
        return {"tasks": [task.to_json() for task in self.tasks], "runs": [asdict(run) for run in self.runs]}


# The fields that a line needs, by its event; `open` is checked by opening_of.
_NEEDED = {
    "begin": ("run", "job", "party", "peer"),
    "end": ("run", "outcome"),
    "met": ("task_sid", "peer", "peer_items", "peer_questions"),
    "answer": ("task_sid", "peer", "bin", "items"),
    "close": ("task_sid", "peer", "outcome"),
}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e12


# What the fields of a line hold, if they are there. Somebody may have edited the ledger, or a disk may have damaged it.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("run", "job", "party", "peer", "version", "address", "task", "task_sid", "input"), _is_text),
    **dict.fromkeys(("error", "failure", "session_id", "peer_version", "protocol"), _is_text),
    **dict.fromkeys(("peer_certificate_sha256", "output_sha256"), _is_text),
    **dict.fromkeys(("distinct_items", "peer_items", "peer_questions", "matched", "rows", "items"), _is_count),
    # Bits of a result are bins with negative numbers.
    "bin": lambda value: type(value) is int and abs(value) < 1 << 63,
    **dict.fromkeys(("keys", "drift_accepted"), _are_texts),
    "outcome": (DONE, FAILED).__contains__,
    "code": lambda value: _is_count(value) and value < 256,
    "matched_percent": lambda value: _is_count(value) and value <= 100,
    "seconds": _is_duration,
}


def parsed(data: bytes) -> dict[str, Any] | None:
    """Parse a line; return None if it is torn or of an unknown kind."""
    try:
        line: dict[str, Any] = json.loads(data)
        moment = datetime.fromisoformat(line["time"])
        # At the ends of the calendar, no other moment can be computed from one.
        if moment.tzinfo is None or not 1970 <= moment.year < 9000:
            return None
        if not all(check(line[name]) for name, check in _CHECKS.items() if name in line):
            return None
        if line["event"] == "open":
            opening_of(line)
            return line
        names = _NEEDED.get(line["event"])
        return line if names is not None and all(name in line for name in names) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def opening_of(line: dict[str, Any]) -> Opening:
    """Return the task of an `open` line; raises KeyError."""
    facts: dict[str, Any] = {
        name: line[name] for name in ("job", "task", "peer", "task_sid", "input", "distinct_items")
    }
    later = ("party", "run", "peer_items", "peer_questions", "protocol")
    facts |= {name: line[name] for name in later if name in line}
    return Opening(**facts, keys=tuple(line["keys"]))


def take(line: dict[str, Any], tasks: dict[tuple[str, str], Entry], runs: dict[str, RunEntry]) -> None:
    """Add what a line says to the records."""
    event = line["event"]
    if event == "begin":
        names = ("run", "job", "party", "peer", "version", "address")
        facts: dict[str, Any] = {name: line.get(name) for name in names}
        runs[line["run"]] = RunEntry(line["time"], **facts)
    elif event == "end":
        if (run := runs.get(line["run"])) is not None:
            facts = {name: line.get(name) for name in ENDING}
            runs[run.run] = replace(run, closed=line["time"], **facts)
    else:
        task = line["task_sid"], line["peer"]
        if event == "open":
            tasks[task] = Entry(line["time"], opening_of(line))
        elif event == "met" and task in tasks:
            counts: dict[str, Any] = {name: line[name] for name in ("peer_items", "peer_questions")}
            tasks[task] = replace(tasks[task], opening=replace(tasks[task].opening, **counts))
        elif event == "close" and task in tasks:
            facts = {name: line.get(name) for name in CLOSING}
            tasks[task] = replace(tasks[task], closed=line["time"], **facts)
