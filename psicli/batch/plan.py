"""The plan of a batch: which jobs exclude each other, which wait for others, and which would be better as one job.

Two jobs exclude each other if they need the same lock: the listener's port, or the connection of one party to one
address. Jobs that cannot run in one batch at all are refused before anything starts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from psicli.config import Job, Task
from psicli.config.batch import Batch, Entry, right_name
from psicli.core.errors import ArgumentError, PlanError, printable, shown
from psicli.core.places import Place, Url
from psicli.core.records import dataclass
from psicli.storage.files import identity
from psicli.storage.locks import dial_lock, port_lock
from psicli.storage.places.listing import covers, names_many

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
    faults = [*_streams(entries), *_replaced(batch, entries)]
    after = _order(entries, faults)
    if faults:
        raise PlanError(mistakes="\n".join(faults))
    jobs = [Planned(entry, place_of(entry.job), tuple(after[entry.name])) for entry in entries]
    return Plan(batch, tuple(jobs), tuple(remarks_on(jobs)))


def place_of(job: Job) -> str:
    """Return the name of the lock that a run of a job holds."""
    if job.listens:
        return port_lock(job.listener.listen_port)
    return dial_lock(job.party, job.listener.address)


def place_in_words(job: Job) -> str:
    """Return the place of a job as people know it."""
    return f"port {job.listener.listen_port}" if job.listens else f"to {job.listener.address}"


def _check_only(batch: Batch, only: Sequence[str]) -> None:
    jobs = {entry.name: entry.config for entry in batch.jobs}
    for name in only:
        if name not in jobs:
            several = " ".join(f"--only {part}" for part in name.replace(",", " ").split())
            right = f"repeat the option: {several}" if several.count("--only ") > 1 else right_name(name, jobs)
            advice = right[:1].upper() + right[1:] + ("" if right.endswith("?") else ".")
            raise ArgumentError(option="--only", fault=f"{shown(name)} is not a job of this batch", advice=advice)


# Files -----------------------------------------------------------------------------------------------------------


def _tasks(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Task]]:
    for entry in entries:
        for task in entry.job.tasks:
            yield entry, task


def _fault(entry: Entry, task: Task, what: str, right: str) -> str:
    return f"{entry.where}: {entry.name}: task {task.name} {what}; {right}"


def _streams(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a fault for every task that uses standard input or output, which a batch has only once."""
    for entry, task in _tasks(entries):
        stdio = ("reads standard input", task.input.is_stdin), ("writes to standard output", task.output_path == _STDIO)
        for verb, is_used in stdio:
            if is_used:
                yield _fault(entry, task, verb, "in a batch, name a file, or run this job alone with `psicli run`")


def _replaced(batch: Batch, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a fault for every output that would replace another job's output, or a file that the jobs need."""
    needed: dict[Hashable, str] = {} if batch.path is None else {identity(batch.path): "which is the batch file"}
    for entry in entries:
        needed[identity(entry.job.path)] = f"which is the job file of {entry.name}"
        for _, path in entry.job.tls or ():
            needed[identity(path)] = f"which is a TLS file of {entry.name}"
    for entry, task in _tasks(entries):
        if isinstance(task.output_path, Path | Url):
            file, path = identity(task.output_path), printable(task.output_path)
            if file in needed:
                yield _fault(entry, task, f"writes {path}, {needed[file]}", "give every task an output of its own")
            needed[file] = f"which task {task.name} of {entry.name} writes too"


def _order(entries: Sequence[Entry], faults: list[str]) -> dict[str, list[str]]:
    """Return for each job the jobs that it waits for: those of `after`, and earlier ones whose output it reads.

    An output that a job reads must not be replaced meanwhile. So if a later job writes it, `after` must say which of
    the two comes first; else it is a fault.
    """
    names = [entry.name for entry in entries]
    after = {entry.name: [name for name in entry.after if name in names] for entry in entries}
    outputs = [(entry, path) for entry, task in _tasks(entries) if isinstance(path := task.output_path, Path | Url)]
    writers = {identity(path): entry for entry, path in outputs}
    patterns = [(entry, path) for entry, path in outputs if isinstance(path, Path) and "*" in path.name]
    for entry, task in _tasks(entries):
        places = [each for each in task.input.paths if isinstance(each, Path | Url)]
        used = [writers.get(identity(each)) for each in places]
        # A folder or a pattern reads what is written into it.
        used += [other for each in filter(names_many, places) for other, path in outputs if covers(each, path)]
        used += [other for each in places for other, path in patterns if _may_read(each, path)]
        writer = next(filter(None, used), None)
        if writer is None or writer is entry or _waits(entry.name, writer.name, after):
            continue
        if _waits(writer.name, entry.name, after):
            # It is meant to read the output of an earlier batch.
            continue
        if names.index(writer.name) < names.index(entry.name):
            after[entry.name].append(writer.name)
        else:
            what = f"reads {printable(task.input)}, which the later job {writer.name} writes"
            right = f"move {writer.name} before {entry.name}, or say with `after` which of the two is first"
            faults.append(_fault(entry, task, what, right))
    return after


def _may_read(place: Place, pattern: Path) -> bool:
    """Return whether an input may have files that another job's task with per_file writes."""
    if isinstance(place, Url):
        return False
    given, written = os.path.realpath(place), os.path.realpath(pattern)
    here, there = os.path.split(given), os.path.split(written)
    fits = fnmatchcase(here[1], there[1]) or fnmatchcase(there[1], here[1])
    return (here[0] == there[0] and fits) or written.startswith(f"{given}/")


def _waits(name: str, other: str, after: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a job waits for another one, directly or through other jobs."""
    seen, left = {name}, [name]
    while left:
        for each in set(after[left.pop()]) - seen:
            seen.add(each)
            left.append(each)
    return other in seen - {name}


# Remarks ---------------------------------------------------------------------------------------------------------


def remarks_on(jobs: Sequence[Planned], start: float | None = None) -> Iterator[str]:
    """Yield what would be better if the batch were written in another way.

    start: the processor time that the start of a run takes [s]. With it, jobs on different ports count too: whether it
    is better to run them at the same time depends on how long they take.
    """
    for group in mergeable(jobs, in_turn=start is None):
        saving = "" if start is None else f", which saves about {start * (len(group) - 1):.1f} s of processor time here"
        yield (
            f"{_listed(group)}, all with {group[0].job.peer}, could be tasks of one job. They would need one port and "
            f"start once{saving}, and psicli would read one input while it exchanges another."
        )
    for group in crowded(jobs):
        yield (
            f"{_listed(group)} run in turn on {place_in_words(group[0].job)}, with different peers. With ports of "
            "their own (address in the job files, or port_offset on both sides) they can run at the same time."
        )


def mergeable(jobs: Sequence[Planned], *, in_turn: bool = False) -> list[list[Planned]]:
    """Return the groups of jobs with one peer that could be tasks of one job; in_turn: only those at one place."""
    groups: defaultdict[Hashable, list[Planned]] = defaultdict(list)
    for planned in jobs:
        job = planned.job
        at = job.listener.listen_host if job.listens else job.listener.host
        place = planned.place if in_turn else (job.listens, at)
        groups[place, job.party, job.peer, job.tls, job.tls_insecure, job.policy].append(planned)
    return [group for group in (_unordered(group, jobs) for group in groups.values()) if len(group) > 1]


def crowded(jobs: Sequence[Planned]) -> list[list[Planned]]:
    """Return the groups of jobs, each with another peer, that run in turn only because they share a port."""
    groups: defaultdict[str, dict[str, Planned]] = defaultdict(dict)
    for planned in jobs:
        groups[planned.place].setdefault(planned.job.peer, planned)
    return [group for peers in groups.values() if len(group := _unordered([*peers.values()], jobs)) > 1]


def _unordered(group: Sequence[Planned], jobs: Sequence[Planned]) -> list[Planned]:
    """Return the jobs of a group that do not wait for each other."""
    after = {job.name: job.after for job in jobs}
    free: list[Planned] = []
    for each in group:
        if not any(_waits(each.name, other.name, after) or _waits(other.name, each.name, after) for other in free):
            free.append(each)
    return free


def _listed(group: Sequence[Planned]) -> str:
    *names, last = (planned.name for planned in group)
    return f"{', '.join(names)} and {last}"
