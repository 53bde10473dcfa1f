"""psicli check and psicli bench."""

from __future__ import annotations

import json
import logging
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
    workers_option,
)
from psicli.cli.run import hold
from psicli.cli.screen import write
from psicli.core.errors import InterruptedBySignal, PsicliError
from psicli.report.console import Console
from psicli.report.layout import Screen
from psicli.storage.memory import check_address_space


@click.command()
@job_options
@party_option
@workers_option
@port_option
@seconds_option("--wait", "Wait up to this time for the other party. With 0, check this side only.", 30)
@flag("--full", "Check all rows of each input instead of about the first 100,000.")
@flag("--no-probe", "Do not measure the link to the other party.")
def check(options: JobOptions, wait: float, full: bool, no_probe: bool) -> int:
    """Find everything that would stop a run, without sending any data.

    The check covers the job file, inputs, outputs, key columns, disks, port and certificates. It also tests the
    connection if the other party runs `psicli check` or `psicli run` for the same job at the same time; two checks also
    measure the link between them. It continues after an error and says what to do about each. The exit code is the one
    that a run would end with; a warning is not an error.
    """
    console = options.console()
    from psicli.check.checklist import Check, Checklist, Listing, longest_name, summary, to_json

    screen = Screen.of(sys.stdout)
    listing = Listing("config", screen, quiet=options.quiet)

    def show(row: Check) -> None:
        # The JSON object holds all rows, so it comes at the end.
        if not options.as_json and (text := listing.text(row)):
            write(text)

    try:
        job = options.load_job()
        console.job = job.name
        # Imported late because it is slow.
        from psicli.job.groups.expand import expand_files

        files = expand_files(job)
        longest = longest_name([task.name for task in files.job.tasks], secure=job.tls is not None)
        listing = Listing(longest, screen, quiet=options.quiet)
        from psicli.check.check import check_job

        found = check_job(files, hold(job, 0), show, wait=wait, full=full, measure=not no_probe)
    except InterruptedBySignal:
        raise
    except PsicliError as exc:
        found = Checklist("the other party", show)
        found.refuse(exc)
    text = to_json(found) if options.as_json else summary(found, screen, quiet=options.quiet)
    if text:
        write(text)
    return found.exit_code


@click.command()
@option(
    "--seconds",
    "Measure each line of the table for this time.",
    type=Seconds(min=0, min_open=True, max=3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
)
@json_option
@click.option("--worker", is_flag=True, hidden=True)
def bench(seconds: float, as_json: bool, worker: bool) -> None:
    """Measure how fast this machine computes.

    The table compares psicli's curve backends with X25519 of the Python package cryptography. Each of your items costs
    one hash_and_mask, and each item of the other party one mask. The lines below it give the speed of rr22.
    """
    Console(0)
    if worker:
        # The process that started this worker warns for it.
        logging.disable(logging.WARNING)
    check_address_space()
    from psicli.check.bench import measure, to_text, work_for_another_process

    if worker:
        work_for_another_process(sys.stdin, sys.stdout)
    else:
        facts = measure(seconds)
        write(json.dumps(facts, indent=2) if as_json else to_text(facts, Screen.of(sys.stdout)))
