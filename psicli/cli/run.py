"""psicli run and psicli simulate."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psicli.cli.options import (
    PATH,
    JobOptions,
    job_options,
    keep_going_option,
    memory_option,
    metrics_option,
    option,
    party_option,
    port_option,
    report_option,
    seconds_option,
    trace_option,
    workers_option,
)
from psicli.cli.page import checked_page, leave_run, leave_simulation
from psicli.cli.screen import closed_streams, refuse, streams_are_one, write, write_among_lines
from psicli.core import failpoints, signals
from psicli.core.errors import CannotCreateError, PsicliError, unexpected
from psicli.report.channel import Channel
from psicli.report.console import Console, log_error
from psicli.report.json_log import logs_json
from psicli.report.layout import Screen
from psicli.report.metrics.file import check_metrics_file, save_run
from psicli.storage.locks import PortLock, hold_dial, hold_port
from psicli.storage.memory import check_address_space

if TYPE_CHECKING:
    from psicli.config import Given, Job, Simulation
    from psicli.report.history.bands import Measure

logger = logging.getLogger(__name__)

# What metrics name, and what a job calls it.
_NAMED = (("job", "name"), ("party", "party"), ("peer", "peer"))


def _simulation(_: click.Context, __: click.Parameter, keys: Path | None) -> Simulation | None:
    """Return the simulation of which this run is a part; a run for its own sake is part of none."""
    if keys is None:
        return None
    from psicli.config import Simulation

    return Simulation.in_folder(keys)


def _given(_: click.Context, __: click.Parameter, path: Path | None) -> Given | None:
    """Return what the program that starts this run gives in place of files."""
    if path is None:
        return None
    from psicli.config import Given

    try:
        return Given.load(path)
    except (OSError, ValueError):
        raise click.BadParameter(f"{path} is no file of the Python API.", param_hint="--given") from None


def _measures(_: click.Context, __: click.Parameter, names: str | None) -> frozenset[Measure]:
    """Return the measures of a list with commas."""
    if names is None:
        return frozenset()
    # Imported late, like all that a run needs.
    from psicli.job.drift import ACCEPTABLE

    given = {name.strip() for name in names.split(",")}
    if unknown := sorted(given.difference(ACCEPTABLE)):
        choices = ", ".join(ACCEPTABLE)
        raise click.BadParameter(
            f"{unknown[0]!r} is not one of {choices}. Name several with commas between them.",
            param_hint="--accept-drift",
        )
    return frozenset(measure for measure in ACCEPTABLE if measure in given)


def _channel(_: click.Context, __: click.Parameter, descriptor: int | None) -> Channel | None:
    """Return the channel to the batch of which this run is a part, and end with that batch."""
    if descriptor is None:
        return None
    try:
        channel = Channel(descriptor)
    except OSError:
        raise click.BadParameter(f"{descriptor} is no open descriptor.", param_hint="--channel") from None
    signals.die_with_parent(descriptor)
    return channel


@click.command()
@job_options
@party_option
@memory_option
@workers_option
@seconds_option("--lock-timeout", "If another run uses the port, wait up to this time for it to end.", 0)
@port_option
@option(
    "--resume",
    "With auto, resume an interrupted run of this job at the first bin that it had not finished. With never, start "
    "over.",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
)
@keep_going_option
@click.option(
    "--accept-drift",
    metavar="LIST",
    callback=_measures,
    help="Accept these measures outside their usual ranges: a list with commas of rows, distinct_items, peer_items and "
    "rate. For them, policy.max_drift only warns in this run, and later runs may be like it.",
)
@trace_option("Write a trace of the run to FILE. Open it at https://ui.perfetto.dev.")
@metrics_option
@report_option
@click.option("--simulation", type=PATH, hidden=True, callback=_simulation)
@click.option("--no-bars", is_flag=True, hidden=True)
@click.option("--channel", type=int, hidden=True, callback=_channel)
@click.option("--rendezvous", type=float, hidden=True)
@click.option("--given", type=PATH, hidden=True, callback=_given)
def run(
    options: JobOptions,
    lock_timeout: float,
    resume: str,
    keep_going: bool,
    accept_drift: frozenset[Measure],
    trace: Path | None,
    metrics: Path | None,
    page: Path | None,
) -> int:
    """Run a job with the other party and write the matched rows.

    Both parties start this command, in any order; the first one waits for the other. An output file appears only when
    its task is complete.
    """
    console = options.console()
    try:
        if metrics is not None:
            check_metrics_file(metrics)
    except PsicliError as exc:
        return refuse(exc, options.as_json)
    job, checked = None, None
    try:
        checked = checked_page(page, trace)
        failpoints.arm()
        job = options.load_job()
        if keep_going:
            job = job.model_copy(update={"keep_going": True})
        # In a simulation, both parties write to one terminal, so each line starts with the party's name.
        console.job = job.party if job.simulated else job.name
        console.names = {"job": job.name, "party": job.party}
        rows_on_stdout = any(task.output_path == "-" for task in job.tasks)
        if rows_on_stdout and "stdout" in closed_streams:
            raise CannotCreateError(path="standard output", reason="it is closed")
        with hold(job, lock_timeout) as lock:
            # Imported late because it is slow: an error in the job file or a busy port needs none of it.
            from psicli.job.resume import Mode
            from psicli.job.run import run_job

            # What is imported stays. Nothing but the data of the run may be garbage from here on.
            gc.freeze()
            gc.enable()
            report = run_job(job, console, lock, trace, Mode(resume), accept_drift=accept_drift)
            # The ledger of a simulation does not stay.
            if report.ledger_head is not None and not job.simulated:
                which = "a new ledger begins: it" if report.ledger_begins else "the ledger"
                logger.info("%s ends at line %d, and its head is %s", which, report.ledger_line, report.ledger_head)
    except click.ClickException:
        raise
    except Exception as exc:
        error = exc if isinstance(exc, PsicliError) else unexpected(exc, logger)
        return _never_began(error, options, job, metrics, page=checked)
    finally:
        console.close()
    from psicli.report.report import errors_of, facts_of

    facts = facts_of(report, report.error)
    if (unsaved := leave_run(checked, facts)) is not None:
        report.fail(unsaved)
        facts |= facts_of(report, report.error)
    if metrics is not None:
        facts["warnings"] += save_run(metrics, facts)
    for message, hint in errors_of(facts):
        console.tell(message, hint)
    _show(facts, options, console, to_stderr=rows_on_stdout)
    return report.exit_code


def _never_began(
    error: PsicliError, options: JobOptions, job: Job | None = None, metrics: Path | None = None, *, page: Path | None
) -> int:
    """Report a run that never began, also to those who watch its metrics or its page, and return its exit code."""
    from psicli.report.report import facts_of

    named = {name: getattr(job, attribute, None) for name, attribute in _NAMED}
    facts = {**facts_of(None, error), **named}
    if metrics is not None:
        save_run(metrics, facts)
    if (unsaved := leave_run(page, facts)) is not None:
        log_error(unsaved.message, unsaved.advice)
    return refuse(error, options.as_json)


def _show(facts: dict[str, Any], options: JobOptions, console: Console, *, to_stderr: bool) -> None:
    """Show the report of a run. In a log of JSON, it is a line like the others."""
    is_shown = options.as_json or facts["error"] is not None or not options.quiet
    if to_stderr and logs_json():
        if is_shown:
            write_among_lines(console.names, facts)
    elif options.as_json:
        write(json.dumps(facts, indent=2), to_stderr=to_stderr)
    elif is_shown:
        write(_as_text([facts], options, to_stderr=to_stderr), to_stderr=to_stderr)


@click.command()
@job_options
@keep_going_option
@trace_option(
    "Write a trace of each party to FILE, with the party's name before the suffix. Open it at https://ui.perfetto.dev."
)
@report_option
def simulate(options: JobOptions, keep_going: bool, trace: Path | None, page: Path | None) -> int:
    """Try a job: run both parties on this machine.

    Each party runs in a separate process. A simulation needs the input files of both parties and writes all outputs.
    It ignores self_party, policy, listen_address, tls and workers, uses any free port with certificates of its own, and
    adds nothing to the ledger. `psicli check` tries the certificates of the job.
    """
    options.console()
    checked = None
    try:
        checked = checked_page(page, trace)
        check_address_space()
        from psicli.batch.simulate import simulate_job

        flags = [*(f"--set={setting}" for setting in options.settings), *(f"--only={task}" for task in options.only)]
        flags += ["--quiet"] * options.quiet + ["--verbose"] * options.verbose + ["--keep-going"] * keep_going
        variables = options.variables()
        code, reports = simulate_job(options.config, variables, options.only, flags, trace=trace)
    except PsicliError as exc:
        return _never_began(exc, options, page=checked)
    if (unsaved := leave_simulation(checked, reports)) is not None:
        log_error(unsaved.message, unsaved.advice)
        code = code or unsaved.code
    if options.as_json:
        write(json.dumps({"parties": reports}, indent=2))
    elif code or not options.quiet:
        found = [{**facts, "party": party} for party, facts in reports.items() if facts is not None]
        if found:
            write(_as_text(found, options))
    return code


def _as_text(reports: Sequence[dict[str, Any]], options: JobOptions, *, to_stderr: bool = False) -> str:
    """Return reports for people, without the warnings and errors that the log has shown in the same place."""
    from psicli.report.summary import to_text

    logged = to_stderr or streams_are_one()
    screen = Screen.of(sys.stderr if to_stderr else sys.stdout)
    parts = {"details": options.verbose, "warnings": not logged, "error": not logged}
    texts = [to_text(facts, screen, **parts) for facts in reports]
    # An empty line separates the report from the log.
    return "\n" * (logged and not options.quiet) + "\n\n".join(texts)


def hold(job: Job, timeout: float) -> AbstractContextManager[PortLock]:
    """Lock what two runs must not share: the listener its port, the dialer its connection to the listener."""
    if job.simulated:
        # Its port is its own, and nobody else need know about it.
        return PortLock()
    if job.listens:
        return hold_port(job.name, job.party, job.listener.listen_host, job.listener.listen_port, timeout)
    return hold_dial(job.name, job.party, job.listener.address, timeout)
