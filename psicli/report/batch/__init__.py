"""The state of a batch and of its jobs while it runs, and its result: what the view, the records and the report show.

A batch starts one process for each job. What it knows about a job is what that process says on its channel, the
process's use of the machine, and the job's own report. Nothing in here depends on an item or a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from enum import StrEnum
from typing import Any, Protocol

from psicli.core.records import dataclass


class State(StrEnum):
    """What a job of a batch is doing, or how it ended."""

    QUEUED = "queued"
    STARTING = "starting"
    # In session with nobody yet.
    WAITING = "waiting for its peer"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    NOT_RUN = "not run"


OVER = frozenset({State.DONE, State.FAILED, State.NOT_RUN})


@dataclass
class JobState:
    """One job of a batch. Times are seconds since the start of the batch [s]; None if the moment has not come."""

    name: str
    peer: str
    config: str
    tasks: int
    state: State = State.QUEUED
    # Why it is queued, why it did not run, or the first cause of its failure; empty if there is nothing to say.
    why: str = ""
    # How much of all its tasks is masked, from 0 to 100, and the task that it works on.
    percent: int = 0
    task: str = ""
    # How often its process was started, and how many of these attempts failed for another reason than an absent peer.
    starts: int = 0
    failures: int = 0
    # The process that runs now.
    pid: int | None = None
    first_started: float | None = None
    ended: float | None = None
    # Of all its processes together: time from start to end, time waiting for the peer to appear, the part of this in
    # which the peer was with no other job of the batch, processor time, and the time in which a thread was ready but no
    # core was free [s]; the most memory of any of them [bytes].
    seconds: float = 0.0
    waited: float = 0.0
    late: float = 0.0
    computed: float = 0.0
    delayed: float = 0.0
    peak_memory: int = 0
    # The memory that its process holds now, and that it may use [bytes].
    holds: int = 0
    memory: int = 0
    # Whether the peer is on this machine, too.
    is_local: bool = False
    # Of the last process.
    exit_code: int | None = None
    report: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass
class BatchReport:
    """The result of one batch."""

    name: str
    jobs: list[JobState]
    # The moment of the start, in UTC as ISO 8601.
    started: str
    exit_code: int = 0
    # Why the batch itself failed or was stopped, as {class, code, message, hint}; None if it ran to its end.
    error: dict[str, Any] | None = None
    seconds: float = 0.0
    # The cores and the memory [bytes] that it could use, and the most it used at the same time.
    cores: float = 0.0
    memory: int = 0
    places: int = 0
    # Processor time of all jobs [s], the most jobs in progress at the same time, and their most memory [bytes].
    computed: float = 0.0
    most_jobs: int = 0
    peak_memory: int = 0
    # Hints about the plan, such as jobs that would be faster as tasks of one.
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Watcher(Protocol):
    """Somebody who follows a batch: a view, or a record in the state folder."""

    def changed(self, job: JobState, jobs: Sequence[JobState]) -> None:
        """A job has another state, reason or attempt."""

    def progressed(self, jobs: Sequence[JobState]) -> None:
        """Some time has passed, and jobs may have got further; called a few times a second."""

    def said(self, job: JobState, level: int, line: str) -> None:
        """A job's process has logged a line at this level of the module logging."""
