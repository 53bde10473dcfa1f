"""psicli keys."""

from __future__ import annotations

import json

import click

from psicli.cli.options import JobOptions, job_options, option, party_option
from psicli.cli.screen import write
from psicli.report.console import log_error


@click.command()
@job_options
@party_option
@option(
    "--rows",
    "Show this many rows of each input.",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    metavar="N",
)
def keys(options: JobOptions, rows: int) -> int:
    """Show what your own first keys become, byte by byte.

    For each key column of each task, psicli prints the first values as they are in the file, what their form makes of
    them, and the bytes that are compared. The output shows your keys, so do not send it to anyone. The command connects
    to nobody and writes no file. If an input has an error, the command shows the rows before it as far as it can, and
    the exit code is the one that a run would end with.
    """
    console = options.console()
    job = options.load_job()
    console.job = job.name
    from psicli.check.keys import caution, first_keys, to_facts, to_text

    code, facts = 0, []
    if not options.as_json:
        write(caution(job))
    for found in first_keys(job, rows):
        if options.as_json:
            facts.append(to_facts(found))
        else:
            write("\n" + to_text(found))
        if found.error is not None:
            code = code or found.error.code
            log_error(found.error.message, found.error.advice)
    if options.as_json:
        write(json.dumps({"caution": caution(job), "tasks": facts, "exit_code": code}, indent=2))
    return code
