"""psicli history: how the tasks of past runs went, and what is unusual about the last ones."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from psicli.cli.options import flag, json_option
from psicli.cli.past.options import SINCE, history_of_ledger
from psicli.cli.screen import write
from psicli.core.errors import ArgumentError, shown
from psicli.report.layout import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psicli.report.history.jobs import PastJob


@click.command()
@click.argument("job", required=False)
@click.option("--task", metavar="TASK", help="Show only this task.")
@click.option("--peer", metavar="PARTY", help="Show only tasks with this party.")
@click.option("--since", type=SINCE, help="Leave out what is older, as in 30d, 12h or 2026-11-30.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show only the last N runs of each task.")
@json_option
@flag("--csv", "Print a line of CSV for each run of each task.")
def history(
    job: str | None,
    task: str | None,
    peer: str | None,
    since: datetime | None,
    last: int | None,
    as_json: bool,
    csv: bool,
) -> None:
    """Show how the tasks of a job, or of all jobs, went in past runs.

    Each task has a line: when it last ran and how it ended, how much matched, the trend of the last 30 runs, the
    numbers of items, the time, and what is outside its usual range. In the trend, a run is as high as its match rate,
    or its number of items if this party does not learn the rate; x is a failed run, and a dot stands for runs that did
    not happen. The usual range comes from the runs before.
    """
    from psicli.report.history.jobs import jobs_of
    from psicli.report.history.text.table import to_csv, to_json, to_text

    if csv and as_json:
        raise click.UsageError("Use --json or --csv, not both.")
    everything = jobs_of(history_of_ledger().only(peer), datetime.now(UTC))
    _check_name("JOB", job, {each.name for each in everything})
    chosen = [each for each in everything if job in (None, each.name)]
    _check_name("--task", task, {each.name for found in chosen for each in found.tasks})
    found = _within(chosen, task, since, last)
    if as_json:
        write(json.dumps(to_json(found), indent=2))
    elif csv:
        write(to_csv(found))
    elif any(each.tasks for each in found):
        ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
        write(to_text(found, Screen.of(sys.stdout), ascii_only=ascii_only))
    else:
        write("The ledger has no such tasks." if everything else "The ledger has no tasks.")


def _check_name(option: str, name: str | None, known: set[str]) -> None:
    if name is not None and name not in known:
        names = ", ".join(map(shown, sorted(known)[:10])) or "none"
        fault, advice = f"the ledger has no {shown(name)}", f"It has: {names}."
        raise ArgumentError(option=option, fault=fault, advice=advice)


def _within(jobs: Sequence[PastJob], task: str | None, since: datetime | None, last: int | None) -> list[PastJob]:
    """Return the jobs with only the runs that were asked for; their ranges still come from all runs before them."""
    found = []
    for job in jobs:
        tasks = []
        for each in job.tasks:
            nights = [night for night in each.nights if since is None or night.time >= since]
            if task in (None, each.name) and nights:
                tasks.append(replace(each, nights=nights[-(last or len(nights)) :]))
        found.append(replace(job, tasks=tasks))
    return found
