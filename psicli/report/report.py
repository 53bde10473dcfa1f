"""The result of a run, and its form as JSON. `summary` makes a text for people from it.

A report holds counts, names and paths only: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psicli.core.errors import InternalError, PsicliError, counted
from psicli.core.peer_errors import NoFileHereError, NoPartnerError, PeerLacksFileError, PeerSkippedError
from psicli.core.records import dataclass

# The result of a task whose receiver learns only how many of its items match.
COUNT = "count"
# The protocol that is younger than ecdh.
RR22 = "rr22"


class Status(StrEnum):
    """How far a task got."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class TaskReport:
    """The result of one task. A field is None if this party does not know it. Bytes count the task's messages."""

    name: str
    receiver: str
    broadcast_result: bool
    status: Status = Status.NOT_STARTED
    # What the receiver learns: its rows that match, or only the count of its items that do.
    result: str = "rows"
    # How the parties compare their items: ecdh or rr22.
    protocol: str = "ecdh"
    # Each key column with its type and what it holds, in the order in which keys are compared.
    key_columns: list[str] | None = None
    # The form of each key column, and how many of its values the form could not take.
    key_form: list[str] | None = None
    unfit_rows: list[int] | None = None
    rows: int | None = None
    distinct_items: int | None = None
    matchless_rows: int | None = None
    peer_items: int | None = None
    # Including padding: the most items that the peer may have asked about.
    peer_questions: int | None = None
    bins: int | None = None
    # How many of this party's distinct items matched, which share of them this is, in whole percent, and how many rows
    # matched. With policy.whole_percent, the share alone is known.
    matched: int | None = None
    matched_percent: int | None = None
    matched_rows: int | None = None
    # The rows of the output, and which rows of the input it holds: matched, unmatched or all.
    output_rows: int | None = None
    output_holds: str | None = None
    output: str | None = None
    # These tell which run an output is from: the task's id, the same on both sides, and the file's digest.
    task_sid: str | None = None
    output_sha256: str | None = None
    # The share of the exchange that an earlier run had finished, from 0 to 1.
    resumed: float | None = None
    seconds: float | None = None
    # When the stages ran, in this order: the stage, its begin and its end since the start of the run [s].
    timeline: list[tuple[str, float, float]] | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    # The time of each stage [s]; stages overlap, within a task and between tasks.
    stages: dict[str, float] | None = None
    warning: str | None = None
    # What is unusual about this party's own keys, and what to look at if nothing matched.
    warnings: list[str] = field(default_factory=list)
    # What is outside its usual range, as report.history.bands judges it.
    drift: list[dict[str, Any]] = field(default_factory=list)
    # The measures of it that the user accepted.
    drift_accepted: list[str] = field(default_factory=list)
    error: PsicliError | None = field(default=None, repr=False)

    def fail(self, error: PsicliError) -> None:
        """Record why the task failed."""
        self.status = Status.FAILED
        self.error = _first(self.error, error)


@dataclass
class NodeReport:
    """What one node of this party's own cluster did in a run.

    bins: those that it finished; seconds: the time in which it worked on at least one frame; points: the items of both
    parties that it worked on, with padding; redone: the bins that were lost with it and begun again. None of them
    depends on the matches.
    """

    node: str
    bins: int = 0
    seconds: float = 0.0
    points: int = 0
    redone: int = 0


@dataclass
class Report:
    """The result of one run, as one party sees it."""

    job: str
    party: str
    peer: str
    version: str
    backend: str
    tasks: list[TaskReport]
    # Empty where the bins are computed by threads of this process.
    nodes: list[NodeReport] = field(default_factory=list)
    # The id of the run in the ledger, and the moment at which it began, in UTC as ISO 8601.
    run: str | None = None
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    session_id: str | None = None
    peer_version: str | None = None
    # Until when the certificates of this party and of the peer are valid, in UTC as ISO 8601.
    certificate_expires: str | None = None
    peer_certificate_expires: str | None = None
    peer_certificate_sha256: str | None = None
    # The number and the digest of the ledger's last line after the run.
    ledger_line: int | None = None
    ledger_head: str | None = None
    ledger_begins: bool = False
    seconds: float = 0.0
    # The most memory, and the most disk space besides its outputs, that the process used at any moment [bytes].
    peak_memory: int | None = None
    spool_bytes: int | None = 0
    # Problems that did not stop the run but need attention soon.
    warnings: list[str] = field(default_factory=list)
    # The error that counts, and the one that ended the run; a run may skip a task and go on.
    error: PsicliError | None = field(default=None, repr=False)
    ended_by: PsicliError | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        return self.error.code if self.error else 0

    def fail(self, error: PsicliError) -> None:
        """Record why the run, or one of its tasks, failed; only the first error counts."""
        error.facts["peer"] = self.peer
        self.error = _first(self.error, error)

    def end(self, error: PsicliError) -> None:
        """Record the error that ended the run: the tasks that were running failed with it.

        If none was, and an earlier error counts, the next task shows why the run ended.
        """
        self.fail(error)
        self.ended_by = error
        running = [task for task in self.tasks if task.status is Status.RUNNING]
        waiting = [task for task in self.tasks if task.status is Status.NOT_STARTED]
        for task in running or (waiting[:1] if self.error is not error else []):
            task.fail(error)

    def close(self, seconds: float, peak_memory: int | None = None) -> None:
        """Record how long the run took [s] and its peak memory [bytes]; tasks that were still running have failed."""
        self.seconds = seconds
        self.peak_memory = peak_memory
        for task in self.tasks:
            if task.status is Status.RUNNING:
                task.status = Status.FAILED
            if task.status is Status.FAILED and self.error is None:
                self.error = InternalError(detail=f"task {task.name} failed without a reason")


# Errors of single tasks that any other error comes before, those of this party last: it has to act.
_LEAST_ERRORS = (PeerSkippedError, PeerLacksFileError, NoFileHereError, NoPartnerError)


def _first(known: PsicliError | None, error: PsicliError) -> PsicliError:
    """Return the error that counts: the first one, but any other before one of _LEAST_ERRORS."""
    return error if known is None or _weight(error) > _weight(known) else known


def _weight(error: PsicliError) -> int:
    least = type(error) in _LEAST_ERRORS
    return 0 if least and error.peer_at_fault else 1 if least else 2


# The facts about every run, also one that never began, in this order.
_FACTS = (
    "job", "party", "peer", "run", "started", "session_id", "version", "peer_version", "certificate_expires",
    "peer_certificate_expires", "peer_certificate_sha256", "backend", "seconds", "peak_memory", "spool_bytes",
    "ledger_line", "ledger_head",
)  # fmt: skip


def to_json(report: Report | None, error: PsicliError | None) -> str:
    """Return the report as one JSON object; a later version may add keys, but never removes one.

    For a run that never began, report is None: the keys are the same, and nearly all values are null.
    """
    return json.dumps(facts_of(report, error), indent=2)


def facts_of(report: Report | None, error: PsicliError | None) -> dict[str, Any]:
    """Return what the JSON object holds."""
    facts: dict[str, Any] = {name: getattr(report, name, None) for name in _FACTS}
    facts |= {"exit_code": error.code if error else 0, "warnings": [], "tasks": [], "nodes": [], "error": None}
    if report is not None:
        facts["warnings"] = report.warnings
        facts["tasks"] = [{**vars(task), "error": _facts_of_error(task.error, report)} for task in report.tasks]
        facts["nodes"] = [vars(node) for node in report.nodes]
    facts["error"] = _facts_of_error(error, report)
    told: dict[str, Any] = rounded(facts)
    return told


def _facts_of_error(error: PsicliError | None, report: Report | None) -> dict[str, Any] | None:
    if error is None:
        return None
    known = {"class": type(error).__name__, "message": error.message, "hint": error.advice}
    # The party that has to act.
    party = report and (report.peer if error.peer_at_fault else report.party)
    return {"code": error.code, **known, "party": party}


def errors_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the message and the hint of each error in the facts of a run, that of the run first.

    Errors with the same hint follow each other and only the last of them has it.
    """
    errors = [each for each in (facts["error"], *(task["error"] for task in facts["tasks"])) if each is not None]
    hints = {each["message"]: each["hint"] for each in errors}
    groups = [[each for each in hints if hints[each] == hint] for hint in dict.fromkeys(hints.values())]
    return [(each, hints[each] if each is group[-1] else "") for group in groups for each in group]


def rounded(value: Any) -> Any:
    """Return a JSON value with its seconds and shares rounded to three digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def whole_percent(part: int, whole: int) -> int:
    """Return a share in whole percent, rounded to the nearest number and a half up; 0 of 0 is 0."""
    return (200 * part + whole) // (2 * whole) if whole else 0


# What tells how much matched, more exactly than in whole percent.
_EXACT = ("matched", "matched_rows", "output_rows")


def without_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's result without the numbers that policy.whole_percent hides."""
    return {name: None if name in _EXACT else value for name, value in result.items()}


# How many tasks a sentence names at most.
_NAMES_SHOWN = 5


def what_the_peer_learns(report: Report) -> str:
    """Return a sentence about what the peer will know once every task of this run is done."""
    informed = [task for task in report.tasks if task.broadcast_result or task.receiver == report.peer]
    count = len(report.tasks)
    counts = f"how many distinct items {report.party} has" + (f" in each of {count} tasks" if count > 1 else "")
    members = []
    for result, which in (("rows", "which"), (COUNT, "only how many")):
        names = [task.name for task in informed if task.result == result]
        what = f"{which} of its own items {report.party} also has"
        if names and len(names) == count:
            return f"{report.peer} will learn {counts} and {what}, and nothing else"
        if names:
            listed = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
            members.append(f"in {len(names)} of them ({listed}) {what}")
    if members:
        members[-1] = f"and {members[-1]}"
    return ", ".join([f"{report.peer} will learn {counts}", *members, "and nothing else"])


# Fewer matches than this share of the keys of the smaller side are worth a hint if both sides have many keys.
_FEW_MATCHES, _LEAST_ITEMS = 0.01, 100


def too_little_matched(task: TaskReport, peer: str, causes: Sequence[str]) -> str | None:
    """Return what to compare with the peer after a task with no match, or hardly any; None for any other.

    causes: why own keys may not match. Nothing in the text depends on the peer's keys but their number and the result.
    """
    own, theirs = task.distinct_items or 0, task.peer_items or 0
    if (task.matched is None and task.matched_percent is None) or not own:
        return None
    if not theirs:
        return f"no key matched, because {peer} has no keys. Ask {peer} whether its export is complete."
    if task.matched is None:
        if task.matched_percent or 100 * min(own, theirs) < own:
            return None
        few = f"0 % of {counted(own, 'distinct key')} matched, in whole percent, and {peer} has {theirs:,}"
        return f"{few}. This may be right. If you expected more: {_what_to_compare(task, peer, causes)}"
    if not task.matched:
        return f"no key matched. {_what_to_compare(task, peer, causes)}"
    if min(own, theirs) < _LEAST_ITEMS or task.matched >= _FEW_MATCHES * min(own, theirs):
        return None
    few = f"only {counted(task.matched, 'distinct key')} of {own:,} matched, and {peer} has {theirs:,}"
    return f"{few}. This may be right. If you expected more: {_what_to_compare(task, peer, causes)}"


def _what_to_compare(task: TaskReport, peer: str, causes: Sequence[str]) -> str:
    columns = task.key_columns or []
    if len(columns) > 1:
        causes = [*causes, f"{peer} lists its key columns in another order"]
    numbered = "; ".join(f"({number}) {cause}" for number, cause in enumerate(causes, 1))
    return " ".join(
        [
            f"psicli compares keys as text, column by column; here: {', then '.join(columns)}.",
            *(["Follow the other warnings about this task."] if task.warnings else []),
            *([f"Likely causes: {numbered}."] if numbered else []),
            f"Ask {peer} what its key columns mean and in which order, and whether they hold plain values or hashes.",
            "`psicli keys` shows what your own first keys become, byte by byte.",
            "Compare one key that both parties should have, but not through psicli.",
        ]
    )
