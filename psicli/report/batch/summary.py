"""The report of a batch: one table of its jobs, and what follows from it; for programs, as JSON.

Both are made from the same facts. A later version may add keys to the JSON object, but never removes one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from psicli import __version__
from psicli.core.errors import PsicliError, counted, printable
from psicli.report.batch import BatchReport, JobState, State
from psicli.report.batch.gain import gain_in_words, gain_of, use_in_words
from psicli.report.layout import PLAIN, Screen, table_or_paragraphs
from psicli.report.report import rounded

_HEADER = ("job", "peer", "tasks", "matched", "seconds", "state", "first cause")
_NUMBERS = ("tasks", "matched", "seconds")
# The columns of a narrow screen; the others go below.
_NARROW = ("job", "matched", "seconds", "state")
_COLOURS = {State.DONE: "green", State.FAILED: "red", State.NOT_RUN: "yellow"}
# How many jobs a hint names at most.
_NAMES_SHOWN = 5

# The facts about a batch and about each of its jobs, in this order.
_OF_A_BATCH = (
    "started", "seconds", "exit_code", "error", "cores", "memory", "places", "computed", "most_jobs", "peak_memory",
)  # fmt: skip
_OF_A_JOB = (
    "name", "peer", "config", "tasks", "state", "exit_code", "starts", "failures", "first_started", "ended", "seconds",
    "waited", "computed", "delayed", "memory", "peak_memory",
)  # fmt: skip


def first_cause(job: JobState) -> str:
    """Return why a job failed or did not run, as the batch says it, or else its own report; empty if it is done.

    A job that the batch has stopped knows only the signal, and the batch knows why.
    """
    if job.state not in (State.FAILED, State.NOT_RUN):
        return ""
    error = (job.report or {}).get("error") or {}
    return printable(job.why or error.get("message", ""))


def matched_rows(job: JobState) -> int | None:
    """Return how many rows matched in the tasks of a job; None if this party learned no result, or only a share."""
    counts = [task.get("matched_rows") for task in (job.report or {}).get("tasks", ())]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def not_begun(error: PsicliError, name: str = "") -> BatchReport:
    """Return the report of a batch that never began; its name is empty if it is unknown."""
    about = {"class": type(error).__name__, "code": error.code, "message": error.message, "hint": error.advice}
    return BatchReport(name, [], datetime.now(UTC).isoformat(timespec="seconds"), error.code, about)


def to_json(report: BatchReport) -> str:
    """Return the report as one JSON object."""
    return json.dumps(facts_of(report), indent=2)


def facts_of(report: BatchReport) -> dict[str, Any]:
    """Return what the JSON object holds."""
    gain = gain_of(report)
    facts = {
        "batch": report.name or None,
        "version": __version__,
        **{name: getattr(report, name) for name in _OF_A_BATCH},
        "gain": {
            "verdict": gain.verdict,
            "one_after_another": gain.in_turn,
            "saved": gain.saved,
            "cores_used": gain.cores_used,
        },
        "remarks": report.remarks,
        "warnings": report.warnings,
        "jobs": [_facts_of_job(job) for job in report.jobs],
    }
    told: dict[str, Any] = rounded(facts)
    return told


def _facts_of_job(job: JobState) -> dict[str, Any]:
    facts = {name: getattr(job, name) for name in _OF_A_JOB}
    return {**facts, "cause": first_cause(job) or None, "matched_rows": matched_rows(job), "report": job.report}


def to_text(report: BatchReport, screen: Screen = PLAIN, *, retry: str = "psicli retry", warnings: bool = True) -> str:
    """Return the report as lines of text.

    retry: the command that runs what failed or did not run. warnings: whether to include the warnings and the error of
    the batch; a caller that has shown them in the same place leaves them out.
    """
    sections = [
        _head(report, screen),
        _table(report.jobs, screen),
        [*_hints(report.jobs, screen)],
        [*_about_the_machine(report, screen)],
        [*_remarks(report, screen, warnings)],
        [*_way_on(report, retry, screen)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(report: BatchReport, screen: Screen) -> list[str]:
    numbers = {state: sum(job.state is state for job in report.jobs) for state in State}
    counts = [f"{numbers[State.DONE]} of {counted(len(report.jobs), 'job')} done"]
    counts += [f"{numbers[state]} {state}" for state in (State.FAILED, State.NOT_RUN) if numbers[state]]
    code = f", exit code {report.exit_code}" if report.exit_code else ""
    took = f"{', after' if len(counts) > 1 else ' in'} {report.seconds:.1f} s"
    verdict = f"{', '.join(counts)}{took}{code}"
    colour = "red" if report.exit_code else "green"
    wrapped = screen.wrap(f"{report.name}: {verdict}").removeprefix(f"{report.name}: ")
    return [f"{report.name}: {screen.paint(wrapped, colour)}"]


def _table(jobs: Sequence[JobState], screen: Screen) -> list[str]:
    rows = [_HEADER, *map(_row, jobs)]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    narrow = [_NARROW, *((row[0], *row[3:6]) for row in rows[1:])]
    below = ["", *(_below(job) for job in jobs)]
    blocks = table_or_paragraphs(rows, narrow, below, screen, right=_NUMBERS)
    column = blocks[0][0].index("state")
    for job, lines in zip(jobs, blocks[1:], strict=True):
        lines[0] = screen.paint_at(lines[0], column, state_in_words(job), _COLOURS.get(job.state))
    return [line for lines in blocks for line in lines]


def state_in_words(job: JobState) -> str:
    """Return the state of a job, and the exit code if it failed."""
    return f"{job.state} {job.exit_code}" if job.state is State.FAILED and job.exit_code else job.state


def _row(job: JobState) -> tuple[str, ...]:
    matched = matched_rows(job)
    numbers = f"{job.tasks:,}", "-" if matched is None else f"{matched:,}", f"{job.seconds:.1f}" if job.starts else "-"
    return job.name, job.peer, *numbers, state_in_words(job), first_cause(job)


def _below(job: JobState) -> str:
    cause = first_cause(job)
    return f"with {job.peer}, {counted(job.tasks, 'task')}" + (f": {cause}" if cause else "")


def _hints(jobs: Sequence[JobState], screen: Screen) -> Iterator[str]:
    """Yield each hint of the failed jobs once, with the names of the jobs.

    If the batch has stopped a job, its report is about the signal, or about an earlier attempt.
    """
    hints: dict[str, list[str]] = {}
    for job in jobs:
        error = (job.report or {}).get("error") or {}
        is_why = job.why in ("", error.get("message"))
        if job.state is State.FAILED and is_why and (hint := error.get("hint")):
            hints.setdefault(printable(hint), []).append(job.name)
    for hint, names in hints.items():
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        yield screen.wrap(f"hint for {', '.join(names[:_NAMES_SHOWN])}{more}: {hint}")


def _about_the_machine(report: BatchReport, screen: Screen) -> Iterator[str]:
    """Yield what the batch used, and whether it paid to run jobs at the same time."""
    if report.most_jobs:
        yield screen.wrap(use_in_words(report))
        if gained := gain_in_words(report):
            yield screen.wrap(gained)


def _remarks(report: BatchReport, screen: Screen, warnings: bool) -> Iterator[str]:
    for remark in report.remarks:
        yield screen.wrap(printable(remark))
    for warning in report.warnings if warnings else ():
        yield screen.paint(screen.wrap(f"warning: {printable(warning)}"), "yellow")
    if report.error is not None and warnings:
        yield screen.paint(screen.wrap(f"error: {printable(report.error['message'])}"), "red")
        if hint := report.error.get("hint"):
            yield screen.wrap(f"hint: {printable(hint)}")


def _way_on(report: BatchReport, retry: str, screen: Screen) -> Iterator[str]:
    if not all(job.state is State.DONE for job in report.jobs):
        yield screen.wrap("To run what failed or did not run, type:")
        # It stays whole, to be copied.
        yield f"  {printable(retry)}"
