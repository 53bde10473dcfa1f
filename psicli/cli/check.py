"""psicli check and psicli bench."""

from __future__ import annotations

import json
import sys

import click

from psicli.cli.options import (
    JobOptions,
    Seconds,
    flag,
    job_options,
    json_option,
    option,
    party_option,
    port_option,
    seconds_option,
)
from psicli.cli.run import hold
from psicli.cli.screen import write
from psicli.core.errors import InterruptedBySignal, PsicliError
from psicli.report.console import Console


@click.command()
@job_options
@party_option
@port_option
@seconds_option("--wait", "Wait so many seconds for the other side; with 0 it is left alone.", 30, show_default=True)
@flag("--full", "Read all rows, not about the first 100,000.")
def check(options: JobOptions, wait: float, full: bool) -> int:
    """Find what would keep a job from running, and say what to do; no data is sent.

    Looks at the job file, inputs and outputs, key columns, disks, port, certificates, and at the other side where that
    runs or checks the same job. Ends with 0, with warnings too, or with what a run would end with.
    """
    console = options.console()
    from psicli.check.checklist import Checklist, to_json, to_text

    try:
        job = options.load_job()
        console.job = job.name
        from psicli.check.check import check_job

        found = check_job(job, hold(job, 0), wait=wait, full=full)
    except InterruptedBySignal:
        raise
    except PsicliError as exc:
        found = Checklist.refused(exc)
    text = to_json(found) if options.as_json else to_text(found, quiet=options.quiet)
    if text:
        write(text)
    return found.exit_code


@click.command()
@option(
    "--seconds",
    "Measure each line of the table for so long.",
    type=Seconds(min=0, min_open=True, max=3600),
    default=0.5,
    show_default=True,
    show_envvar=False,
    metavar="N",
)
@json_option
@click.option("--worker", is_flag=True, hidden=True)
def bench(seconds: float, as_json: bool, worker: bool) -> None:
    """Measure the curve backends on this machine, beside the package cryptography's X25519.

    hash_and_mask is what an own item costs, mask what a point of the other side costs.
    """
    # What there is to say, the process says that started this one.
    Console(-1 if worker else 0)
    from psicli.check.bench import measure, to_text, work_for_another_process

    if worker:
        work_for_another_process(sys.stdin, sys.stdout)
    else:
        facts = measure(seconds)
        write(json.dumps(facts, indent=2) if as_json else to_text(facts))
