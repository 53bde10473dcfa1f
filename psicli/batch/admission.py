"""Decide whether one more job of a batch may start now: memory first, then processors.

Memory is promised: the budgets of all jobs in progress together stay within the batch's memory, and what they may still
take of it must be free, so that the machine never swaps. A job that waits for its peer computes nothing, so it counts
only for memory. As many jobs may compute as there are cores, whatever other programs do: a job often waits for its
peer, a disk or one of its own threads. More of them start only while cores are idle.
"""

from __future__ import annotations

from collections.abc import Sequence

from psicli.batch.machine import Machine
from psicli.batch.plan import Limits, Planned
from psicli.core.errors import BudgetError, counted, in_units
from psicli.core.records import dataclass
from psicli.report.batch import JobState, State
from psicli.storage.memory import LEAST_MEMORY

# By default, a batch uses this share of the memory, and at most so many processes for each core.
SHARE_OF_MEMORY, PLACES_PER_CORE = 0.8, 4
# Another job starts only if at least so much of a core is idle [cores].
IDLE = 0.25


@dataclass(frozen=True)
class Rules:
    """The limits of a batch. memory: of all jobs together [bytes]. cores: that this machine has for them [cores]."""

    places: int
    memory: int
    cores: float


def settle(jobs: Sequence[Planned], limits: Limits) -> tuple[Rules, dict[str, int]]:
    """Return the rules of a batch on this machine, and the memory that each of its jobs may use [bytes].

    What the user does not limit is what fits the machine. Raises BudgetError if a job does not fit alone.
    """
    machine = Machine.here()
    memory = limits.memory or int(SHARE_OF_MEMORY * machine.memory)
    fitting = max(min(len(jobs), int(PLACES_PER_CORE * machine.cores), memory // LEAST_MEMORY), 1)
    rules = Rules(limits.jobs or fitting, memory, machine.cores)
    share = min(max(memory // rules.places, LEAST_MEMORY), max(machine.memory // 4, LEAST_MEMORY))
    budgets = {job.name: job.memory or share for job in jobs}
    for name, budget in budgets.items():
        if budget > memory:
            raise BudgetError(job=name, budget=in_units(budget), memory=in_units(memory))
    return rules, budgets


def doubt_about(rules: Rules) -> str | None:
    """Return a warning if a batch may use more memory than there is."""
    there = Machine.here().memory
    if rules.memory <= there:
        return None
    most = in_units(rules.memory)
    return f"all jobs together may use {most} of memory, but this machine has only {in_units(there)}; set less"


def reason_to_wait(budget: int, jobs: Sequence[JobState], rules: Rules, *, free: int, busy: float) -> str | None:
    """Return why a job with this budget [bytes] must wait, or None if it may start.

    jobs: those in progress. free: the memory that programs can still take [bytes]. busy: how many cores are busy.
    """
    if len(jobs) >= rules.places:
        return f"all {counted(rules.places, 'place')} are taken" if rules.places > 1 else "another job is running"
    promised = sum(job.memory for job in jobs)
    if promised + budget > rules.memory:
        return f"{in_units(promised)} of {in_units(rules.memory)} of memory are promised to {counted(len(jobs), 'job')}"
    to_come = sum(max(job.memory - job.holds, 0) for job in jobs)
    if to_come + budget > free:
        rest = f", and {counted(len(jobs), 'job')} may still take {in_units(to_come)}" if jobs else ""
        return f"{in_units(free)} of memory are free{rest}; it may take {in_units(budget)}"
    if is_full(jobs, rules) and busy > rules.cores - IDLE:
        return f"{busy:.1f} of {rules.cores:.3g} cores busy"
    return None


def is_full(jobs: Sequence[JobState], rules: Rules) -> bool:
    """Return whether as many of these jobs compute as there are cores; jobs: those in progress."""
    return sum(job.state is not State.WAITING for job in jobs) >= rules.cores
