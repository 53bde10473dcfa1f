"""psicli status: the batches and jobs that run on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psicli.cli.many.options import DURATION
from psicli.cli.options import PATH, Seconds, flag, json_option
from psicli.cli.screen import write
from psicli.cli.web.now import Now, now
from psicli.core.errors import OverdueError, printable
from psicli.report.console import duration
from psicli.report.layout import Screen, in_words, table_or_paragraphs
from psicli.storage.locks import Holder

if TYPE_CHECKING:
    from psicli.batch.record import Past
    from psicli.report.batch import JobState


@click.command()
@click.argument("files", nargs=-1, type=PATH)
@json_option
@flag("--clean", "Remove files that interrupted runs left behind and that no later run will use.")
@click.option(
    "--max-age",
    type=DURATION,
    help="Only look at the batch of these FILES: exit with 69 unless it ended with all jobs done within this time, "
    "such as 26h.",
)
@click.option("--quiet", "-q", is_flag=True, help="With --max-age, print nothing if all is well.")
@click.option(
    "--watch",
    type=Seconds(min=0.1, max=86400),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show it again every 2 seconds, or as often as you say, until Ctrl-C.",
)
def status(
    files: Sequence[Path], as_json: bool, clean: bool, max_age: float | None, quiet: bool, watch: float | None
) -> None:
    """Show which batches and jobs are running on this machine, and their progress.

    First come the batches of this user, each with all its jobs, then the running jobs of all users. Below them, psicli
    shows what interrupted runs of this user left in the state folder: tasks that the next run of the job can resume,
    and files that it will remove.

    With --watch, a terminal always shows how things are now. Elsewhere, a text follows each time that something has
    changed, and with --json, each time a line with one JSON object.
    """
    if watch is not None:
        if files or quiet or clean or max_age is not None:
            raise click.UsageError("--watch goes only with --json.")
        # Imported late, like all that one use of a command alone needs.
        from psicli.cli.past.watch import watch as watch_status

        watch_status(watch, to_text, as_json=as_json)
        return
    if files or quiet or max_age is not None:
        _check_age(files, max_age, quiet=quiet)
        return
    if clean:
        _clean(as_json=as_json)
        return
    found = now()
    write(json.dumps(found.to_json(), indent=2) if as_json else to_text(found, Screen.of(sys.stdout)))


def to_text(found: Now, screen: Screen) -> str:
    """Return what runs on this machine, for people."""
    sections = [_batch(each, screen) for each in found.batches]
    sections.append(_running(found.running, screen) if found.running else ["No job is running on this machine."])
    if found.kept:
        sections.append(_kept(found.kept, screen))
    if found.left_over:
        sections.append([*map(screen.wrap, map(_left_over, found.left_over))])
    return "\n\n".join("\n".join(lines) for lines in sections)


def _clean(*, as_json: bool) -> None:
    """Remove what no later run will use, and show what runs; raises CannotCreateError."""
    from psicli.storage.state import left_over, state_folder, task_folders

    left = left_over(state_folder(), remove=True)
    if task_folders(state_folder()):
        from psicli.exchange.finished import sweep

        left += sweep(state_folder())
    found = replace(now(), left_over=[], kept=[])
    if as_json:
        facts = found.to_json()
        del facts["left_over"]
        write(json.dumps({**facts, "removed": [*map(str, left)]}, indent=2))
        return
    screen = Screen.of(sys.stdout)
    notes = [f"removed {printable(path)}" for path in left] or ["There is nothing to remove."]
    write("\n\n".join([to_text(found, screen), "\n".join(map(screen.wrap, notes))]))


def _check_age(files: Sequence[Path], max_age: float | None, *, quiet: bool) -> None:
    """Say when a batch last ended with all jobs done; raises OverdueError if that is more than max_age [s] ago."""
    from psicli.batch.record import last_batch

    if not files or max_age is None:
        raise click.UsageError(
            "Give --max-age and the files of one batch, as in `--max-age 26h nightly.yaml`. "
            "`psicli status` alone shows what runs."
        )
    past = last_batch([*map(str, files)])
    good = None if past is None else past.good
    name = printable(files[0]) if past is None else past.name
    last = "there has been none" if good is None else f"the last one ended {in_words(good)}"
    # A time in the future counts too: somebody has set the clock back.
    if good is None or (datetime.now(UTC) - datetime.fromisoformat(good)).total_seconds() > max_age:
        raise OverdueError(batch=name, limit=duration(max_age), last=last)
    if not quiet:
        write(f"{name}: the last run with all jobs done ended {in_words(good)}")


def _batch(batch: Past, screen: Screen) -> list[str]:
    """Return a heading and a line for each job of a running batch."""
    from psicli.report.batch import State
    from psicli.report.batch.view import counts, doing

    def progress(job: JobState) -> str:
        return f"{job.task}: {job.percent} %" if job.state is State.RUNNING and job.task else doing(job)

    heading = f"{batch.name}: {counts(batch.jobs)} (pid {batch.pid}, since {in_words(batch.started)})"
    rows: list[tuple[str, ...]] = [("job", "peer", "attempts", "progress")]
    rows += [(job.name, job.peer, str(job.starts), progress(job)) for job in batch.jobs]
    narrow, below = [(row[0], row[3]) for row in rows], ["", *(f"with {job.peer}" for job in batch.jobs)]
    lines = table_or_paragraphs(rows, narrow, below, screen, right=("attempts",))
    return [screen.wrap(heading), *(line for each in lines for line in each)]


def _running(running: Sequence[Holder], screen: Screen) -> list[str]:
    rows: list[tuple[str, ...]] = [("job", "party", "progress", "pid", "user", "address", "since")]
    below = [""]
    for holder in running:
        progress = f"{holder.task}: {holder.phase} {holder.percent} %" if holder.task else holder.phase
        since = in_words(holder.since)
        rows.append((holder.job, holder.party, progress, str(holder.pid), holder.user, holder.where, since))
        below.append(f"{holder.where}, user {holder.user}, since {since}")
    narrow = [row[:4] for row in rows]
    return [line for lines in table_or_paragraphs(rows, narrow, below, screen) for line in lines]


def _kept(kept: Sequence[dict[str, Any]], screen: Screen) -> list[str]:
    rows: list[tuple[str, ...]] = [("job", "party", "task", "finished", "started", "folder")]
    for each in kept:
        names = (each["job"], each["party"], each["task"])
        rows.append((*names, "{finished_bins} of {bins} bins".format(**each), in_words(each["since"]), each["folder"]))
    narrow, below = [row[:4] for row in rows], ["", *(f"{row[5]}, started {row[4]}" for row in rows[1:])]
    lines = [line for lines in table_or_paragraphs(rows, narrow, below, screen) for line in lines]
    return ["The next run of the job can resume these tasks:", *lines]


def _left_over(path: str) -> str:
    return f"left behind by an interrupted run: {printable(path)}; `psicli status --clean` removes it"
