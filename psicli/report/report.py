"""What a run came to, as a mail can hold it and as a program can read it.

Counts, names and paths only: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from psicli.core.errors import InternalError, PsicliError


class Status(StrEnum):
    """How far a task got."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class TaskReport:
    """One task. What is not known, or not this party's to know, is None. Bytes are those of the task's messages."""

    name: str
    receiver: str
    broadcast_result: bool
    status: Status = Status.NOT_STARTED
    rows: int | None = None
    distinct_items: int | None = None
    matchless_rows: int | None = None
    peer_items: int | None = None
    # With its padding: as many as the peer may have asked about.
    peer_questions: int | None = None
    bins: int | None = None
    matched: int | None = None
    output_rows: int | None = None
    output: str | None = None
    # Which run an output is from: its task's id, the same on both sides, and the file's digest.
    task_sid: str | None = None
    output_sha256: str | None = None
    # How much of the exchange an earlier run had done, from 0 to 1.
    resumed: float | None = None
    seconds: float | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    # Seconds by stage [s]; stages overlap, within a task and between tasks.
    stages: dict[str, float] | None = None
    warning: str | None = None


@dataclass
class Report:
    """One run of one party."""

    job: str
    party: str
    peer: str
    version: str
    backend: str
    tasks: list[TaskReport]
    session_id: str | None = None
    peer_version: str | None = None
    seconds: float = 0.0
    # The most the process had in memory, and on disk beside its outputs, at once [bytes].
    peak_memory: int | None = None
    spool_bytes: int = 0
    # What needs somebody's attention before long, though it stopped nothing.
    warnings: list[str] = field(default_factory=list)
    error: PsicliError | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        return self.error.code if self.error else 0

    def fail(self, error: PsicliError) -> None:
        """Keep the first cause."""
        error.facts["peer"] = self.peer
        self.error = self.error or error

    def close(self, seconds: float, peak_memory: int | None = None) -> None:
        """Note the end of the run [s] and the most memory it had [bytes]; what was running then has failed."""
        self.seconds = seconds
        self.peak_memory = peak_memory
        for task in self.tasks:
            if task.status is Status.RUNNING:
                task.status = Status.FAILED
            if task.status is Status.FAILED and self.error is None:
                self.error = InternalError(detail=f"task {task.name} failed without a reason")


# What is said of every run, one that never began too, in this order.
_FACTS = (
    "job", "party", "peer", "session_id", "version", "peer_version", "backend", "seconds", "peak_memory", "spool_bytes",
)  # fmt: skip


def to_json(report: Report | None, error: PsicliError | None) -> str:
    """Return the report as one JSON object; keys are only ever added.

    None stands for the report of a run that never began: the same keys, nearly all null.
    """
    facts: dict[str, Any] = {name: getattr(report, name, None) for name in _FACTS}
    facts |= {"exit_code": error.code if error else 0, "warnings": [], "tasks": [], "error": None}
    if report is not None:
        facts["warnings"], facts["tasks"] = report.warnings, [vars(task) for task in report.tasks]
    if error is not None:
        said = {"class": type(error).__name__, "message": error.message, "hint": error.advice}
        # Who has to act.
        party = report and (report.peer if error.peer_at_fault else report.party)
        facts["error"] = {"code": error.code, **said, "party": party}
    return json.dumps(_rounded(facts), indent=2, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    """Return what is to become JSON, its seconds and shares to three digits."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def to_text(report: Report) -> str:
    """Return the report as lines that fit a mail."""
    lines = [
        f"{report.job}: {report.party} with {report.peer}, {report.seconds:.1f} s, psicli {report.version}, "
        f"{report.backend} backend{_space(report)}"
    ]
    for task in report.tasks:
        lines += _task_lines(task)
    lines += [f"warning: {warning}" for warning in report.warnings]
    if report.error:
        lines.append(f"error: {report.error.message}")
        lines += [f"hint: {report.error.advice}"] if report.error.advice else []
    return "\n".join(lines)


# How many tasks are named where only some are meant.
_NAMES_SHOWN = 5


def what_the_peer_learns(report: Report) -> str:
    """Say in one sentence what the peer will have learned when every task of this run is done."""
    told = [task.name for task in report.tasks if task.broadcast_result or task.receiver == report.peer]
    count = len(report.tasks)
    counts = "how many distinct items we have" + (f" in each of {count} tasks" if count > 1 else "")
    members = "which of its own items we have too"
    if not told:
        return f"{report.peer} will learn {counts}, and nothing else"
    if len(told) == count:
        return f"{report.peer} will learn {counts} and {members}, and nothing else"
    names = ", ".join(told[:_NAMES_SHOWN]) + (", …" if len(told) > _NAMES_SHOWN else "")
    return f"{report.peer} will learn {counts}, in {len(told)} of them ({names}) also {members}, and nothing else"


def _task_lines(task: TaskReport) -> Iterator[str]:
    yield f"  {task.name}: {task.status}"
    if task.rows is not None:
        items = f"{task.distinct_items:,} distinct items, {task.matchless_rows:,} without a key"
        yield f"    read     {task.rows:,} rows, {items}"
    if task.peer_items is not None:
        padding = "" if task.peer_questions == task.peer_items else f", {task.peer_questions:,} with padding"
        yield f"    peer     {task.peer_items:,} distinct items{padding}"
    if task.resumed is not None:
        yield f"    resumed  from {100 * task.resumed:.0f} % of an earlier run"
    if task.matched is not None:
        yield f"    matched  {task.matched:,} items"
    if task.output_rows is not None:
        where = "standard output" if task.output == "-" else task.output
        yield f"    output   {task.output_rows:,} rows in {where}"
    elif task.status is Status.DONE:
        yield f"    output   none (the result is {task.receiver}'s)"
    if task.seconds is not None:
        sent, received = task.bytes_sent or 0, task.bytes_received or 0
        yield f"    took     {task.seconds:.2f} s, {sent:,} bytes sent, {received:,} bytes received"
    if task.stages is not None:
        stages = (
            "{reading:.2f} s reading, {computing:.2f} computing, {waiting_for_peer:.2f} waiting for the peer, "
            "{waiting_for_room:.2f} for room, {matching:.2f} matching, {writing:.2f} writing"
        )
        yield f"    stages   {stages.format(**task.stages)}"
    if task.warning:
        yield f"    warning  {task.warning}"


def _space(report: Report) -> str:
    memory = f", {report.peak_memory / 1e6:,.0f} MB of memory" if report.peak_memory else ""
    return memory + (f", {report.spool_bytes / 1e6:,.0f} MB of disk" if report.spool_bytes else "")
