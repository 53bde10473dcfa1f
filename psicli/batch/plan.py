"""The plan of a batch: which jobs exclude each other, which wait for others, and which would be better as one job.

Two jobs exclude each other if they need the same lock: the listener's port, or the connection of one party to one
address. Jobs that cannot run in one batch at all are refused before anything starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from psicli.config import Job
from psicli.config.batch import Batch, Entry
from psicli.core.errors import ArgumentError, shown
from psicli.storage.locks import dial_lock, port_lock

# What a task calls standard input and output.
_STDIO = "-"


@dataclass(frozen=True)
class Limits:
    """What a batch may use; times in seconds, memory in bytes. None: psicli decides, or there is no limit."""

    jobs: int | None = None
    memory: int | None = None
    deadline: float | None = None
    retries: int = 2
    retry_wait: float = 30.0
    rendezvous: float = 10.0
    lock_timeout: float = 0.0
    fail_fast: bool = False


@dataclass(frozen=True)
class Planned:
    """One job of a plan."""

    entry: Entry
    # The lock that it holds; two jobs with one place never run at the same time.
    place: str
    # The names of the jobs that must be done before it starts.
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def job(self) -> Job:
        return self.entry.job

    @property
    def memory(self) -> int | None:
        """The memory that its job file allows it [bytes]; None if the file says nothing."""
        pipeline = self.job.pipeline
        return pipeline.memory if "memory" in pipeline.model_fields_set else None


@dataclass(frozen=True)
class Plan:
    """The jobs of a batch, in the order of its list. remarks: hints about the plan, each a sentence."""

    batch: Batch
    jobs: tuple[Planned, ...]
    remarks: tuple[str, ...] = ()


def make_plan(batch: Batch, only: Sequence[str] = ()) -> Plan:
    """Plan a batch, or only the jobs with these names; raises PlanError with all that is wrong, and ArgumentError.

    A job does not wait for one that is left out.
    """
    _check_only(batch, only)
    entries = [entry for entry in batch.jobs if not only or entry.name in only]
    names = {entry.name for entry in entries}
    after = {entry.name: [name for name in entry.after if name in names] for entry in entries}
    planned = tuple(Planned(entry, place_of(entry.job), tuple(after[entry.name])) for entry in entries)
    return Plan(batch, planned)


def place_of(job: Job) -> str:
    """Return the name of the lock that a run of a job holds."""
    if job.listens:
        return port_lock(job.listener.listen_port)
    return dial_lock(job.party, job.listener.address)


def _check_only(batch: Batch, only: Sequence[str]) -> None:
    names = [entry.name for entry in batch.jobs]
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"The jobs are {', '.join(names)}."
            raise ArgumentError(option="--only", fault=f"{shown(name)} is not a job of this batch", advice=advice)
