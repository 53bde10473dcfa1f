"""The rows `estimate` and `plan` of a check: what a run will take, and what other ways of running it would take.

psicli only names the best way; it never changes how a job runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

from psicli.check import estimate
from psicli.check.checklist import Checklist
from psicli.check.estimate import POINTS, RECEIVE, Estimate, Limit, Setting, Size, Time
from psicli.config import Job, Task
from psicli.core.errors import in_units
from psicli.core.records import dataclass
from psicli.protocol.messages import COUNT, RR22
from psicli.report.console import duration

# A way is better than another one if it takes at most this share of its time, and saves so much [s].
BETTER, WORTH = 0.9, 0.5
# With more machines than this, estimates say little: the head and its network are not in the model.
MOST_MACHINES = 16
# The name of the way with a Ray cluster.
RAY = "ray"
# With more tasks than this, they are not named.
_TASKS_NAMED = 4
# Below this time, durations have a decimal [s].
_ROUGH = 10.0


@dataclass(frozen=True)
class Plan:
    """A way to run the job. words: what to do for it; needs_peer: whether the other party must do it, too."""

    name: str
    words: str
    seconds: float
    memory: int
    traffic: int
    needs_peer: bool = False

    @property
    def figures(self) -> dict[str, Any]:
        """The same for programs, by names that end in the unit."""
        needs = {"seconds": self.seconds, "memory_bytes": self.memory, "traffic_bytes": self.traffic}
        return {"words": self.words, **needs, "needs_peer": self.needs_peer}


def add_estimate(found: Checklist, job: Job, tasks: Sequence[tuple[Task, Size]], setting: Setting) -> float:
    """Add the rows about time, memory, disk and traffic, and about other ways to run the job; return the time [s]."""
    time, needs = estimate.time_of(job, tasks, setting), estimate.of_job(job, tasks, setting)
    found.add("estimate", _in_words(job, needs, time, setting), figures=_figures(needs, time, setting))
    chosen, *others = ways = list(_plans(job, tasks, needs, setting))
    protocols = list(_other_protocols(job, tasks, setting))
    faster = best_of([chosen, *protocols])
    # A cluster is not the first advice if another protocol saves about as much on this machine.
    saves = chosen.seconds - faster.seconds
    here = [each for each in ways if each.name != RAY or saves < BETTER * (chosen.seconds - each.seconds)]
    best = best_of(here)
    plans = {each.name: each.figures for each in (*ways, *protocols)}
    figures = {"best": best.name, "limit": time.limit.value, "plans": plans, "best_protocol": faster.name}
    others = [each for each in others if each is not best]
    # The default needs no word about rr22 where a run is nearly all start, and rr22 saves nothing.
    told = [each for each in protocols if each.name != RR22 or each is faster or not _is_all_start(time)]
    first = [each for each in told if _reason_for(chosen, each)]
    with_protocol = f" with {' and '.join(dict.fromkeys(task.protocol for task, _ in tasks))}" if first else ""
    on = with_protocol if len(here) == len(ways) else f"{with_protocol} on one machine"
    verdict = _verdict(job, chosen, best, on) + _of_protocols(chosen, first)
    rest = _listed(others) + _of_protocols(chosen, [each for each in told if each not in first])
    message = f"{verdict}; {_why(job, time, setting)}{rest}"
    found.add("plan", message, figures=figures)
    return needs.seconds


def best_of(plans: Sequence[Plan]) -> Plan:
    """Return the fastest way, but the first one, which the job file chooses, unless another one is clearly better."""
    chosen, fastest = plans[0], min(plans, key=lambda each: each.seconds)
    saves = chosen.seconds - fastest.seconds
    return fastest if fastest.seconds <= BETTER * chosen.seconds and saves >= WORTH else chosen


# The ways --------------------------------------------------------------------------------------------------------


def _plans(job: Job, tasks: Sequence[tuple[Task, Size]], needs: Estimate, setting: Setting) -> Iterator[Plan]:
    """Yield the way that the job file chooses, then the others that make sense for this job."""
    yield Plan("as_is", "as the job file says", needs.seconds, needs.memory, needs.traffic)
    if len(tasks) > 1:
        yield from _jobs_apart(job, tasks, needs, setting)
    if not setting.on_cluster:
        yield from _other_threads(job, tasks, needs, setting)
        yield from _machines(job, tasks, needs, setting)


def _other_protocols(job: Job, tasks: Sequence[tuple[Task, Size]], setting: Setting) -> Iterator[Plan]:
    """Yield each protocol that not all tasks have which can have it, and that runs here.

    They are no ways to run the same job: another protocol is another decision about what to trust.
    """
    counts = any(task.result == COUNT for task, _ in tasks)
    for name in ("ecdh", RR22):
        # A count needs ecdh.
        change = [task.protocol != name and task.result != COUNT for task, _ in tasks]
        if any(change) and (name != RR22 or set(RECEIVE) <= set(setting.rates)):
            others = [
                (task.model_copy(update={"protocol": name}) if changes else task, size)
                for (task, size), changes in zip(tasks, change, strict=True)
            ]
            needs = estimate.of_job(job, others, setting)
            # The tasks, since psi.protocol means neither a task that overrides it nor a count.
            names = list(dict.fromkeys(task.group or task.name for task, _ in compress(tasks, change)))
            every = "every task" + (" with `result: rows`" if counts else "")
            where = every if len(names) > _TASKS_NAMED else f"task{'s' * (len(names) > 1)} {', '.join(names)}"
            words = f"`protocol: {name}` in {where}"
            yield Plan(name, words, needs.seconds, needs.memory, needs.traffic, needs_peer=True)


def _jobs_apart(job: Job, tasks: Sequence[tuple[Task, Size]], needs: Estimate, setting: Setting) -> Iterator[Plan]:
    """Yield the ways with a job for each task: one after another, and side by side."""
    memory = max(estimate.memory_bytes(job, [each]) for each in tasks)
    wide = sorted({2, max(int(setting.cores), 2), 2 * int(setting.cores)})
    for at_once in (1, *(each for each in wide if each <= len(tasks))):
        words = f"a job for each task, `psicli batch --jobs {at_once}`"
        seconds = estimate.apart(job, tasks, setting, at_once=at_once)
        name = f"batch_jobs_{at_once}"
        yield Plan(name, words, seconds, at_once * memory, needs.traffic, needs_peer=True)


def _other_threads(job: Job, tasks: Sequence[tuple[Task, Size]], needs: Estimate, setting: Setting) -> Iterator[Plan]:
    """Yield all cores if the job uses fewer; if the cores are not the limit, the fewest threads that are as fast."""
    here = int(setting.cores)
    used = min(setting.threads, here)

    def seconds(threads: int) -> float:
        return estimate.time_of(job, tasks, setting.with_threads(threads)).seconds

    enough = next((each for each in range(1, used) if seconds(each) * BETTER <= needs.seconds), used)
    of_both = estimate.time_of(job, tasks, setting).limit is Limit.CORES
    for threads in (enough if not of_both else used, here):
        if threads != used:
            yield Plan(
                f"threads_{threads}", f"pipeline.threads: {threads}", seconds(threads), needs.memory, needs.traffic
            )


def _machines(job: Job, tasks: Sequence[tuple[Task, Size]], needs: Estimate, setting: Setting) -> Iterator[Plan]:
    """Yield a Ray cluster of the fewest machines that take about as little time as very many do, if it pays."""

    def seconds(machines: int) -> float:
        return estimate.time_of(job, tasks, setting.with_machines(machines)).seconds

    least = seconds(MOST_MACHINES)
    machines = next(each for each in range(2, MOST_MACHINES + 1) if seconds(each) * BETTER <= least)
    if seconds(machines) <= BETTER * needs.seconds and needs.seconds - seconds(machines) >= _ROUGH:
        words = f"pipeline.workers: ray, with {machines} machines like this one"
        yield Plan(RAY, words, seconds(machines), needs.memory, needs.traffic)


# In words --------------------------------------------------------------------------------------------------------


def _in_words(job: Job, needs: Estimate, time: Time, setting: Setting) -> str:
    parts = {"start": time.start, "reading": time.reading, "exchange": time.exchange, "result": time.result}
    each = ", ".join(f"{name} {_seconds(part)}" for name, part in parts.items() if part >= 0.05)
    disk = f", {in_units(needs.disk)} of disk besides the outputs" if needs.disk else ""
    like = "" if setting.link and setting.link.peer_rates else " and as fast a machine"
    unknown = "" if setting.link and setting.link.receiving else "; the link is not measured, and counts as fast"
    return (
        f"about {_seconds(needs.seconds)} ({each}), at most about {in_units(needs.memory)} of memory{disk}, "
        f"{in_units(needs.traffic)} of traffic, if {job.peer} has as many items{like}{unknown}"
    )


def _figures(needs: Estimate, time: Time, setting: Setting) -> dict[str, Any]:
    """Return the estimate for programs, with what it was made from."""
    parts = {f"{name}_seconds": getattr(time, name) for name in ("start", "reading", "exchange", "result", "link")}
    return {
        "seconds": needs.seconds,
        **parts,
        "processor_seconds": time.processor,
        "memory_bytes": needs.memory,
        "disk_bytes": needs.disk,
        "traffic_bytes": needs.traffic,
        "limit": time.limit.value,
        "check_start_seconds": setting.start,
        "points_per_second": {name: setting.rates[name] for name in POINTS},
        "vectors_per_second": {name: rate for name, rate in setting.rates.items() if name not in POINTS},
        "threads": setting.threads,
        "cores": setting.cores,
    }


def _verdict(job: Job, chosen: Plan, best: Plan, on: str) -> str:
    """Return which way is best. on: the protocols and the machine for which that holds."""
    if best is chosen:
        return f"best{on} as the job file says"
    both = f", which {job.peer} must do, too" if best.needs_peer else ""
    times = f"about {_seconds(best.seconds)} instead of {_seconds(chosen.seconds)}"
    return f"faster{on}: {best.words}{both}, {times}"


def _is_all_start(time: Time) -> bool:
    return time.exchange < time.start


def _why(job: Job, time: Time, setting: Setting) -> str:
    """Return what takes the time."""
    if _is_all_start(time):
        return f"the start takes {100 * time.start / time.seconds:.0f} % of the time"
    match time.limit:
        case Limit.LINK:
            return "the link is the limit: more cores or machines would not help"
        case Limit.PEER:
            return f"the machine of {job.peer} is the limit: more cores or machines here would not help"
        case Limit.READING:
            return "reading the inputs is the limit"
    return f"the cores are the limit{', which both parties share' if estimate.shares_cores(job, setting) else ''}"


def _of_protocols(chosen: Plan, protocols: Sequence[Plan]) -> str:
    """Return what other protocols would take, each with the reason to think about it, if there is one."""
    instead = f"instead of {_seconds(chosen.seconds)} and {in_units(chosen.traffic)}"
    return "".join(
        f"; with {plan.words} of both job files, it takes about {_seconds(plan.seconds)} and {in_units(plan.traffic)} "
        f"of traffic, {instead}{_reason_for(chosen, plan)}"
        for plan in protocols
    )


def _reason_for(chosen: Plan, plan: Plan) -> str:
    """Return what speaks for another protocol and what it assumes, or nothing: rr22 gains time, ecdh assumes less."""
    if plan.name == RR22:
        return ", but assumes more (docs/security.md)" if best_of([chosen, plan]) is plan else ""
    return ", and assumes less (docs/security.md)" if best_of([plan, chosen]) is plan else ""


def _listed(plans: Sequence[Plan]) -> str:
    each = "; ".join(f"{plan.words} (about {_seconds(plan.seconds)})" for plan in plans)
    return f"; other ways: {each}" if plans else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _ROUGH else duration(seconds)
