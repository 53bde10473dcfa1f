"""psicli: the list of commands, and what happens before and after each of them."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections import UserDict
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from psicli import __version__
from psicli.cli.imports import Sparing
from psicli.cli.options import flag
from psicli.cli.screen import open_standard_streams, write
from psicli.core import signals
from psicli.core.errors import PsicliError, printable, unexpected
from psicli.report.console import Console, log_error
from psicli.report.json_log import check_log_format, logs_json

logger = logging.getLogger(__name__)

PROGRAM = "psicli"
# The variable with which a shell asks for completions.
COMPLETE = "_PSICLI_COMPLETE"


class _Commands(UserDict[str, Any]):
    """The commands, each of which is imported when it is used: the others would delay a run. Holds their modules."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"psicli.cli.{self.data[name]}"), name)
        return command


COMMANDS = _Commands(
    init="first.init",
    run="run",
    simulate="run",
    batch="many.batch",
    retry="many.retry",
    schedule="many.schedule",
    check="check",
    keys="first.keys",
    bench="check",
    status="past.status",
    ledger="past.ledger",
    history="past.history",
    report="past.report",
    ui="past.ui",
    certs="certs",
    config="main",
    completion="main",
)


class _Group(click.Group):
    """Tells a user who names a job file without a command what to type."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0].endswith((".yaml", ".yml", ".json")):
            from psicli.config.batch import is_batch_file

            several = sum(each.endswith((".yaml", ".yml", ".json")) for each in args) > 1
            name = "batch" if several or is_batch_file(Path(args[0])) else "run"
            files = " ".join(map(printable, args if several else args[:1]))
            ctx.fail(f"Name a command before the file, as in `{PROGRAM} {name} {files}`.")
        found = super().resolve_command(ctx, args)
        if found[0] != "run":
            gc.enable()
        return found


@click.group(cls=_Group, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Find which records two organisations have in common, without showing the rest.

    Each party keeps its files and gets its own rows whose key the other party also has. Start with `psicli init`,
    which writes the job files, and `psicli simulate`, which runs both parties on one machine; then each party uses
    `psicli check` and `psicli run`.
    """


@click.group()
def config() -> None:
    """Show information about the job file and the batch file."""


@config.command()
@flag("--batch", "Print the JSON Schema of the batch file.")
def schema(batch: bool) -> None:
    """Print the JSON Schema of the job file, or of the batch file."""
    from psicli.config.schema import batch_schema, job_schema

    write(json.dumps(batch_schema() if batch else job_schema(), indent=2))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands in a shell.

    In bash or zsh: eval "$(psicli completion bash)". In fish: psicli completion fish | source.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, PROGRAM, COMPLETE)
    # Not made.source(), which starts bash to ask for its version.
    write((made.source_template % made.source_vars()).rstrip())


def _show(error: click.ClickException) -> None:
    """Show what is wrong with the command line."""
    if not logs_json():
        error.show()
        return
    context = getattr(error, "ctx", None)
    log_error(error.format_message(), f"Type `{context.command_path} --help` for help." if context else "")


def main() -> NoReturn:
    """Run psicli and exit with its exit code."""
    # Modules are no garbage, and looking for some takes a tenth of the time of their import. `run` enables it again.
    gc.disable()
    open_standard_streams()
    signals.install()
    sys.meta_path.insert(0, Sparing())
    if sys.version_info >= (3, 12):
        # Else the first line of the log would load asyncio, to look for the name of a task.
        logging.logAsyncioTasks = False
    try:
        # A completion has no log.
        if COMPLETE not in os.environ:
            check_log_format()
        if logs_json():
            # For what is logged before a command has set up its own log.
            Console(-1)
        code = cli.main(prog_name=PROGRAM, standalone_mode=False) or 0
    except click.ClickException as exc:
        _show(exc)
        code = exc.exit_code
    except PsicliError as exc:
        log_error(exc.message, exc.advice)
        code = exc.code
    except SystemExit as exc:
        # click ends in this way after a completion, and where the reader of its help has ended, which is no error.
        code = click.UsageError.exit_code if exc.code and COMPLETE in os.environ else 0
    except BaseException as exc:
        error = unexpected(exc, logger)
        log_error(error.message, error.advice)
        code = error.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Nothing is left to release. A thread that still reads an input must not delay the exit.
    os._exit(code)
