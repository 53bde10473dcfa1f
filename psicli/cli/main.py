"""psicli: the commands, and what happens around each of them."""

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
from psicli.cli.screen import open_standard_streams, tell, write
from psicli.cli.state import ledger, status
from psicli.core import signals
from psicli.core.errors import PsicliError

logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="psicli")
def cli() -> None:
    """Batch private set intersection between two organisations.

    Each side keeps its files; each gets its own rows whose key the other side also has.
    """


@click.group()
def config() -> None:
    """About the job file."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the job file."""
    from psicli.config import job_schema

    write(json.dumps(job_schema(), indent=2))


for command in (run, simulate, check, bench, status, ledger, certs, config):
    cli.add_command(command)


class _WithoutPandas(MetaPathFinder):
    """Keep pyarrow from loading pandas, where it is installed, to look at the first value it gets: it takes 0.15 s."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("psicli does without pandas")


def main() -> NoReturn:
    """Run psicli and exit with its code."""
    open_standard_streams()
    signals.install()
    sys.meta_path.insert(0, _WithoutPandas())
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except PsicliError as exc:
        tell(exc)
        code = exc.code
    except BaseException:
        # click turns a broken pipe into SystemExit(1), which is none of our codes.
        logger.exception("unexpected failure")
        code = PsicliError.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Everything is released. A thread that still reads an input nobody wants any more must not keep the process.
    os._exit(code)
