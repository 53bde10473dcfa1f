"""psicli: the list of commands, and what happens before and after each of them."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from typing import NoReturn

import click

from psicli import __version__
from psicli.cli.certs import certs
from psicli.cli.check import bench, check
from psicli.cli.run import run, simulate
from psicli.cli.screen import open_standard_streams, write
from psicli.cli.state import ledger, status
from psicli.core import signals
from psicli.core.errors import PsicliError
from psicli.report.console import log_error

logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="psicli")
def cli() -> None:
    """Find which records two organisations have in common, without showing the rest.

    Each party keeps its files and gets its own rows whose key the other party also has. Start with `psicli simulate`,
    which runs both parties on one machine; then each party uses `psicli check` and `psicli run`.
    """


@click.group()
def config() -> None:
    """Show information about the job file."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the job file."""
    from psicli.config import job_schema

    write(json.dumps(job_schema(), indent=2))


for command in (run, simulate, check, bench, status, ledger, certs, config):
    cli.add_command(command)


class _WithoutPandas(MetaPathFinder):
    """Keeps pyarrow from importing pandas, which takes 0.15 s and is not needed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("psicli does not use pandas")


def main() -> NoReturn:
    """Run psicli and exit with its exit code."""
    open_standard_streams()
    signals.install()
    sys.meta_path.insert(0, _WithoutPandas())
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except PsicliError as exc:
        log_error(exc.message, exc.advice)
        code = exc.code
    except BaseException:
        # click turns a broken pipe into SystemExit(1), which is not a code of psicli.
        logger.exception("unexpected failure")
        code = PsicliError.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Nothing is left to release. A thread that still reads an input must not delay the exit.
    os._exit(code)
