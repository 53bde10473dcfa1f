"""psicli ui: a page on this machine that shows running jobs and past runs."""

from __future__ import annotations

import logging

import click

from psicli.cli.options import verbose_option
from psicli.cli.screen import write
from psicli.core import signals
from psicli.core.errors import InterruptedBySignal, TerminatedBySignal
from psicli.report.console import Console

logger = logging.getLogger(__name__)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Use this port on 127.0.0.1. Default: any that is free.",
)
@verbose_option
def ui(port: int, verbose: bool) -> None:
    """Show running jobs and past runs in a browser on this machine, until Ctrl-C.

    psicli prints an address with a token. Open it in a browser: it works once, in one browser, and until this command
    ends. The page shows what runs now, the history of each job and the reports that psicli keeps. It changes nothing.

    Only programs of this user on this machine reach it. To see it on another machine, forward the port: `ssh -L
    8000:127.0.0.1:8000 HOST psicli ui --port 8000`.
    """
    # Imported late because it is slow.
    from psicli.cli.web.server import serving

    Console(int(verbose))
    with serving(port) as server:
        try:
            write(server.door.address)
            logger.info("open this address in a browser on this machine; it works once. Ctrl-C ends psicli ui")
            while True:
                # In parts: a signal just before a sleep begins does not interrupt it.
                signals.pause(signals.SLICE)
        except TerminatedBySignal:
            raise
        except InterruptedBySignal:
            logger.info("psicli ui has ended")
