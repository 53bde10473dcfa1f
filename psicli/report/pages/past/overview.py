"""The first page of `psicli ui`: what runs now, and the last runs with links to their pages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from psicli.core.errors import EXIT_CODES, counted
from psicli.report.batch import State
from psicli.report.pages.past.history import RUNNING
from psicli.report.pages.render import moment, part, render, seconds
from psicli.report.pages.tables import Cell, Column, Table
from psicli.storage.ledger import DONE, FAILED, RunEntry

Facts = dict[str, Any]

# How many runs the page lists; the page of the history shows more.
_RUNS = 200
_STATES = {DONE: "good", FAILED: "bad"}
_OF_A_JOB = {State.DONE: "good", State.FAILED: "bad", State.NOT_RUN: "warn"}
_RUNNING = [
    Column("Job"),
    Column("Party"),
    Column("Progress", number=True),
    Column("Process", number=True),
    Column("User"),
    Column("Address"),
    Column("Since"),
]
_BATCH = [
    Column("Job"),
    Column("Peer"),
    Column("State"),
    Column("Progress", number=True),
    Column("Attempts", number=True),
]
_RESUMABLE = [Column("Task"), Column("Finished", number=True), Column("Began")]
_RUNS_SHOWN = [Column("Began"), Column("Job"), Column("Outcome"), Column("Time", number=True)]


def overview_page(now: Facts, runs: Sequence[RunEntry], kept: Collection[str], *, is_intact: bool) -> str:
    """Return the page.

    now: what `psicli status --json` shows. runs: those of the ledger, oldest first; kept: the ids of those whose report
    is kept. is_intact: whether the ledger is as psicli left it.
    """
    last = [*reversed(runs)][:_RUNS]
    return render(
        "past/overview.html.j2",
        styles=("past/past.css.j2",),
        scripts=("past/live.js",),
        tables=_tables(now),
        jobs=list(dict.fromkeys(run.job for run in last)),
        runs=Table("The last runs", _RUNS_SHOWN, [_run(run, kept) for run in last]),
        is_intact=is_intact,
    )


def now_part(now: Facts) -> str:
    """Return the part of the page that shows what runs now, to replace the one that a browser shows."""
    return part("past/now.html.j2", tables=_tables(now))


def _tables(now: Facts) -> list[Table]:
    """Return a table for each running batch, one of the running jobs, and one of the tasks that can be resumed."""
    tables = [
        Table(f"Batch {batch['name']}, since {moment(batch['started'])}", _BATCH, [*map(_job, batch["jobs"])])
        for batch in now["batches"]
    ]
    if now["running"]:
        tables.append(Table("Running jobs", _RUNNING, [*map(_holder, now["running"])]))
    if now["kept"]:
        tables.append(Table("Tasks that the next run can resume", _RESUMABLE, [*map(_resumable, now["kept"])]))
    return tables


def _job(job: Facts) -> list[Cell | str]:
    state = State(job["state"])
    below = job["why"] if state in (State.FAILED, State.NOT_RUN, State.QUEUED) else ""
    return [
        job["name"],
        job["peer"],
        Cell(state, state=_OF_A_JOB.get(state, "quiet"), below=below),
        _percent(job["percent"], job["task"] if state is State.RUNNING else ""),
        Cell(str(job["starts"]), value=job["starts"]),
    ]


def _holder(holder: Facts) -> list[Cell | str]:
    return [
        holder["job"],
        holder["party"],
        _percent(holder["percent"], f"{holder['task']}: {holder['phase']}" if holder["task"] else holder["phase"]),
        Cell(str(holder["pid"]), value=holder["pid"]),
        holder["user"],
        holder["where"],
        moment(holder["since"]),
    ]


def _percent(percent: int, below: str) -> Cell:
    return Cell(f"{percent} %", value=percent, below=below, share=percent / 100)


def _resumable(kept: Facts) -> list[Cell | str]:
    below = f"{kept['job']}, {kept['party']}"
    bins = Cell(f"{kept['finished_bins']} of {counted(kept['bins'], 'bin')}", value=kept["finished_bins"])
    return [Cell(kept["task"], below=below), bins, moment(kept["since"])]


def _run(run: RunEntry, kept: Collection[str]) -> list[Cell | str]:
    code = EXIT_CODES.get(run.code or 0, ("failed", ""))[0]
    why = f"{run.failure or code} ({run.code})" if run.code else RUNNING if run.outcome not in _STATES else ""
    began = moment(run.time)
    return [
        Cell(began, link=f"/runs/{run.run}") if run.run in kept else began,
        Cell(run.job, below=f"{run.party} with {run.peer}"),
        Cell(run.outcome, state=_STATES.get(run.outcome, "warn"), below=why),
        Cell(seconds(run.seconds), value=run.seconds),
    ]
