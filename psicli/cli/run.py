"""psicli run and psicli simulate."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psicli.cli.options import (
    JobOptions,
    job_options,
    option,
    party_option,
    port_option,
    seconds_option,
    trace_option,
)
from psicli.cli.screen import closed_streams, refuse, tell, write
from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, PsicliError, unexpected
from psicli.storage.locks import PortLock, hold_dial, hold_port

if TYPE_CHECKING:
    from psicli.config import Job

logger = logging.getLogger(__name__)


@click.command()
@job_options
@party_option
@seconds_option("--lock-timeout", "Wait so many seconds for the port instead of giving up at once.", 0)
@port_option
@option(
    "--resume",
    "Continue where a killed run of this job was, from the bins it had finished.",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
)
@trace_option("Write what the run does when to FILE, for https://ui.perfetto.dev.")
@click.option("--simulated-port", type=int, hidden=True)
def run(options: JobOptions, lock_timeout: float, resume: str, trace: Path | None) -> int:
    """Run a job with the other party and write the matched rows."""
    console = options.console()
    try:
        failpoints.arm()
        job = options.load_job()
        console.job, console.tasks = job.name, len(job.tasks)
        rows_on_stdout = any(task.output_path == "-" for task in job.tasks)
        if rows_on_stdout and "stdout" in closed_streams:
            raise CannotCreateError(path="standard output", reason="it is closed")
        with hold(job, lock_timeout) as lock:
            # Only now the heavy part: a mistake in the job file or a busy port is told without it.
            from psicli.job.resume import Mode
            from psicli.job.run import run_job

            report = run_job(job, console, lock, trace, Mode(resume))
    except PsicliError as exc:
        return refuse(exc, options.as_json)
    except click.ClickException:
        raise
    except Exception as exc:
        logger.exception("unexpected failure")
        return refuse(unexpected(exc), options.as_json)
    finally:
        console.close()
    from psicli.report.report import to_json, to_text

    if report.error is not None:
        tell(report.error)
    if options.as_json or report.error is not None or not options.quiet:
        write(to_json(report, report.error) if options.as_json else to_text(report), to_stderr=rows_on_stdout)
    return report.exit_code


@click.command()
@job_options
@trace_option("Write what each party does when to FILE, its name before the suffix, for https://ui.perfetto.dev.")
def simulate(options: JobOptions, trace: Path | None) -> int:
    """Run every party of a job on this machine, each as its own process.

    For trying a job out: self_party, tls, policy and listen_address are ignored, a free port is used, and the ledger
    is left alone.
    """
    options.console()
    try:
        from psicli.batch.simulate import simulate_job

        flags = [*(f"--set={setting}" for setting in options.settings), *(f"--only={task}" for task in options.only)]
        flags += ["--quiet"] * options.quiet + ["--verbose"] * options.verbose
        variables = options.variables()
        code, text = simulate_job(options.config, variables, options.only, flags, as_json=options.as_json, trace=trace)
    except PsicliError as exc:
        return refuse(exc, options.as_json)
    if text:
        write(text)
    return code


def hold(job: Job, timeout: float) -> AbstractContextManager[PortLock]:
    """Lock what two runs must not share: the listener's port, the dialer's way to it."""
    if job.listens:
        return hold_port(job.name, job.party, job.listener.listen_host, job.listener.listen_port, timeout)
    return hold_dial(job.name, job.party, job.listener.address, timeout)
