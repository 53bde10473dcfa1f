"""What `psicli batch --dry-run` shows: the plan, and estimates of the time and memory of each job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from psicli import curve
from psicli.batch.admission import Rules, doubt_about, settle
from psicli.batch.plan import Limits, Plan, Planned, mergeable, place_in_words, remarks_on
from psicli.check import bench
from psicli.check.estimate import Estimate, Setting
from psicli.check.sample import estimate_job
from psicli.core.errors import InterruptedBySignal, PsicliError, counted, in_units
from psicli.core.records import dataclass
from psicli.protocol.messages import RR22
from psicli.report.console import duration
from psicli.report.layout import Screen, table_or_paragraphs

_UNKNOWN = "?"


@dataclass(frozen=True)
class Forecast:
    """A plan, and what it means on this machine."""

    plan: Plan
    limits: Limits
    rules: Rules
    # The memory that each job may use [bytes].
    budgets: Mapping[str, int]
    # None for a job whose inputs cannot be read now.
    estimates: Sequence[Estimate | None]
    remarks: Sequence[str]


def forecast(plan: Plan, limits: Limits) -> Forecast:
    """Measure this machine and read the first rows of all inputs; raises BudgetError, as the batch would."""
    rules, budgets = settle(plan.jobs, limits)
    began = time.process_time()
    settings: dict[int | None, Setting] = {}
    estimates: list[Estimate | None] = []
    doubt = doubt_about(rules)
    remarks = [f"warning: {doubt}"] if doubt else []
    for planned in plan.jobs:
        pipeline = planned.job.pipeline.model_copy(update={"memory": budgets[planned.name]})
        try:
            if pipeline.threads not in settings:
                curve.set_threads(pipeline.threads)
                settings[pipeline.threads] = Setting(bench.rates(), curve.threads(), bench.cores(), began)
            job = planned.job.model_copy(update={"pipeline": pipeline})
            if any(task.protocol == RR22 for task in job.tasks):
                # Imported late: only such a job needs it.
                from psicli import ole

                # Raises VariableError where such a job cannot run, and bench has no speed for it.
                ole.backend()
            estimates.append(estimate_job(job, settings[pipeline.threads]))
        except InterruptedBySignal:
            raise
        except PsicliError as exc:
            estimates.append(None)
            # A job that comes after others may read what they will write.
            warning = "" if planned.after else "warning: "
            remarks.append(f"{warning}{planned.name} has no estimate: {exc.message}")
    start = bench.start_seconds() if mergeable(plan.jobs) else None
    return Forecast(plan, limits, rules, budgets, estimates, [*remarks, *remarks_on(plan.jobs, start)])


def to_json(found: Forecast) -> str:
    """Return the plan as one JSON object; a later version may add keys, but never removes one."""
    jobs = [
        {
            "name": planned.name,
            "config": str(planned.entry.config),
            "party": planned.job.party,
            "peer": planned.job.peer,
            "tasks": [task.name for task in planned.job.tasks],
            "place": place_in_words(planned.job),
            "after": planned.after,
            "memory": found.budgets[planned.name],
            "estimate": estimate and asdict(estimate),
        }
        for planned, estimate in zip(found.plan.jobs, found.estimates, strict=True)
    ]
    limits = {**asdict(found.limits), "jobs": found.rules.places, "memory": found.rules.memory}
    facts = {"batch": found.plan.batch.name, "jobs": jobs, "limits": limits, "remarks": found.remarks}
    return json.dumps(facts, indent=2)


def to_text(found: Forecast, screen: Screen) -> str:
    """Return the plan as a table, with the limits above it and the remarks below it."""
    plan = found.plan
    rows: list[tuple[str, ...]] = [("job", "peer", "tasks", "place", "after", "memory", "about")]
    rows += [_row(planned, estimate) for planned, estimate in zip(plan.jobs, found.estimates, strict=True)]
    below = ["", *(f"{row[3]}, after {row[4]}" if row[4] else row[3] for row in rows[1:])]
    narrow = [(*row[:3], *row[5:]) for row in rows]
    lines = table_or_paragraphs(rows, narrow, below, screen, right={"tasks", "memory", "about"})
    rules, deadline = found.rules, found.limits.deadline
    most = f"at most {rules.places} at a time, {in_units(rules.memory)} of memory in all"
    most += "" if deadline is None else f", {duration(deadline)} in all"
    head = f"{plan.batch.name}: {counted(len(plan.jobs), 'job')}; {most}"
    notes = [*_totals(found), *found.remarks]
    texts = [head, "", *(line for block in lines for line in block), *([""] if notes else []), *notes]
    return "\n".join(screen.wrap(text) for text in texts)


def _row(planned: Planned, estimate: Estimate | None) -> tuple[str, ...]:
    job = planned.job
    figures = (in_units(estimate.memory), duration(estimate.seconds)) if estimate else (_UNKNOWN, _UNKNOWN)
    place, after = place_in_words(job), ", ".join(planned.after)
    return planned.name, job.peer, str(len(job.tasks)), place, after, *figures


def _totals(found: Forecast) -> Iterator[str]:
    known = [estimate.seconds for estimate in found.estimates if estimate is not None]
    if len(known) == len(found.estimates) > 1:
        yield f"One after another, the jobs take about {duration(sum(known))}, if each peer has as many items."
