"""psicli report: past runs as a page."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from psicli.cli.options import PATH
from psicli.cli.past.options import SINCE, history_of_ledger
from psicli.cli.screen import write
from psicli.core.errors import InputMissingError, shown
from psicli.storage import reports
from psicli.storage.state import state_folder

# As long as reports are kept.
_SINCE = "400d"


@click.command()
@click.option("--job", metavar="JOB", help="Show only this job.")
@click.option(
    "--since",
    type=SINCE,
    metavar="WHEN",
    help=f"Show runs since then: 90d, 2w, 36h, or a date such as 2026-11-30. Default: {_SINCE}.",
)
@click.option("--run", metavar="ID", help="Show this run instead: the `run` in its --json, or `last`.")
@click.option(
    "--output", "-o", type=PATH, metavar="FILE", help="Write the page to FILE.html, or to standard output (-)."
)
def report(job: str | None, since: datetime | None, run: str | None, output: Path | None) -> None:
    """Write a page about past runs: what matched, how long it took, what failed, and which runs did not happen.

    The page is one HTML file, which loads nothing from elsewhere. It is made from the ledger and from the reports that
    psicli keeps of the runs of this user. With --run, it shows one run as `psicli run --report` would have shown it.
    """
    if run is not None and since is not None:
        raise click.UsageError("--since does not go with --run.")
    if output is None:
        if sys.stdout.isatty():
            raise click.UsageError("Name the file of the page: `psicli report -o FILE.html`.")
        output = Path("-")
    from psicli.report.pages.file import SUFFIXES, check_page_file, save_page

    if output != Path("-") and output.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(
            "the name must end in .html, so that a browser shows the file as a page.", param_hint="-o"
        )
    if output != Path("-"):
        check_page_file(output)
    page = _page_of_run(run, job) if run is not None else _page_of_history(job, since)
    if page is None:
        which = "runs" if job is None else f"runs of job {shown(job)}"
        # A later time than the default says more.
        write(
            f"The ledger has no {which} since {_default(since):%Y-%m-%d %H:%M} UTC, so there is no page.",
            to_stderr=output == Path("-"),
        )
    elif output == Path("-"):
        write(page)
    else:
        save_page(output, page)


def _default(since: datetime | None) -> datetime:
    return since or datetime.now(UTC) - timedelta(days=int(_SINCE.removesuffix("d")))


def _page_of_history(job: str | None, since: datetime | None) -> str | None:
    from psicli.report.history.jobs import jobs_of
    from psicli.report.history.kept import facts_of_run

    now = datetime.now(UTC)
    jobs = jobs_of(history_of_ledger(), now, _default(since), job)
    if not jobs:
        return None
    # Imported late because Jinja is slow to import.
    from psicli.report.pages.past.history import history_page

    return history_page(jobs, now, lambda run: facts_of_run(state_folder(), run))


def _page_of_run(run: str, job: str | None) -> str:
    """Return the page of one run; raises InputMissingError if there is none."""
    from psicli.report.history.kept import page_of_run

    which = f"run {shown(run)}" + (f" of job {shown(job)}" if job is not None else "")
    advice = "`psicli ledger --json` lists the runs of the ledger. psicli keeps their reports for 400 days."
    facts = _found(run, job)
    if facts is None:
        raise InputMissingError(place=which, fault="no report of it is kept", advice=advice)
    page = page_of_run(facts)
    if page is None:
        raise InputMissingError(
            place=which, fault="somebody has changed its report, so it makes no page", advice=advice
        )
    return page


def _found(run: str, job: str | None) -> dict[str, Any] | None:
    from psicli.report.history.kept import facts_of_kept

    state = state_folder()
    for each in reports.kept(state):
        if run in ("last", each.run):
            facts = facts_of_kept(state, each)
            if facts is not None and job in (None, facts["job"]):
                return facts
    return None
