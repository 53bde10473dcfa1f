"""psicli schedule: run a batch at fixed times."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psicli.cli.options import PATH, flag, option
from psicli.cli.screen import write
from psicli.core.errors import ArgumentError, CannotCreateError, printable, shown
from psicli.report.console import Console
from psicli.storage.state import state_folder

if TYPE_CHECKING:
    from psicli.config.batch.models import Batch, HooksEntry

# The variables that a schedule has in any case.
_KNOWN = ("HOME", "USER", "LOGNAME", "SHELL", "PATH")


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not re.fullmatch("[1-9][0-9]{0,8}[smhd]", text):
        raise click.BadParameter("give for example 90m, 26h or 8d")
    return text


def _one_file(_: click.Context, __: click.Parameter, file: Path) -> Path:
    if file.is_dir():
        raise click.UsageError(f"{printable(file)} is a folder. Name one batch file.")
    return file


@click.command()
@click.argument("file", type=PATH, callback=_one_file)
@option(
    "--on-calendar",
    'When to run, as systemd writes it: "*-*-* 02:00", "Mon..Fri 22:30", "daily". The time is this machine\'s, or that '
    'of a zone at its end: "*-*-* 02:00 UTC".',
    required=True,
    metavar="WHEN",
)
@flag("--install", "Write the units to the folder of this user's systemd. No file is replaced.")
@flag("--cron", "Print lines for `crontab -e` instead.")
@option(
    "--alarm",
    "Run this command if the batch fails or a run was missed. It finds what happened in PSICLI_BATCH_ALARM (failed or "
    "missed), and the batch in PSICLI_BATCH.",
    metavar="COMMAND",
)
@option(
    "--max-age",
    "With --alarm, a run was missed if the last good one ended longer ago than this, such as 26h. By default, psicli "
    "finds the longest pause between two runs, and adds two hours.",
    metavar="DURATION",
    callback=_duration,
)
@option("--date", "Set this variable of the job files to the date of the run, such as 2026-11-29.", metavar="NAME")
@option("--report-dir", "Let the batch write its reports to this folder.", type=PATH, metavar="DIR")
def schedule(
    file: Path,
    on_calendar: str,
    install: bool,
    cron: bool,
    alarm: str | None,
    max_age: str | None,
    date: str | None,
    report_dir: Path | None,
) -> None:
    """Run a batch every night: print a service and a timer for systemd, or lines for cron.

    The units are for the systemd of this user, which needs no root. Without --install, nothing is written. Each party
    schedules its own batch; both should start at the same time.
    """
    from psicli.batch.unattended.cron import crontab
    from psicli.batch.unattended.schedule import Schedule, units
    from psicli.batch.unattended.times import usual_age

    if install and cron:
        raise click.UsageError("Use --install or --cron, not both: nothing installs lines of a crontab.")
    batch = _load(file, date)
    age = usual_age(on_calendar)
    made = Schedule(
        name=batch.name,
        file=file.absolute(),
        when=on_calendar,
        program=_program(),
        date=date,
        report_dir=None if report_dir is None else report_dir.absolute(),
        variables=_variables(),
        alarm=_command(alarm),
        max_age=max_age or age,
        hooks_time=_hooks_time(batch.hooks),
    )
    if cron:
        write(crontab(made))
    elif install:
        _install(units(made))
    else:
        folder = printable(_unit_folder())
        texts = [f"# {folder}/{unit}\n{text}" for unit, text in units(made).items()]
        write("\n".join([*texts, "# With --install, psicli writes these files."]))


def _load(file: Path, date: str | None) -> Batch:
    """Read the batch file and its job files as the schedule will, so that mistakes show now and not at night."""
    from psicli.batch.plan import make_plan
    from psicli.batch.unattended.hooks import check_hooks
    from psicli.config.batch import load_batch

    if date is not None and not (date.isascii() and date.isidentifier()):
        raise click.BadParameter("use a plain name such as DATE", param_hint="--date")
    settings = {} if date is None else {date: datetime.now().date().isoformat()}
    # Neither systemd nor cron knows the other variables of this shell.
    environment = {name: os.environ[name] for name in _KNOWN if name in os.environ}
    batch = load_batch([file], settings=settings, environment=environment)
    # It may warn.
    Console(0)
    check_hooks(batch)
    make_plan(batch)
    return batch


def _install(made: dict[str, str]) -> None:
    """Write the units, and say what to type next."""
    from psicli.batch.unattended.schedule import install, timers

    folder = _unit_folder()
    written = install(made, folder)
    lines = [f"wrote {printable(path)}" for path in written] or [f"{printable(folder)} has all units already"]
    write(
        "\n".join(
            [
                *lines,
                "",
                "To start the timers, type:",
                "  systemctl --user daemon-reload",
                f"  systemctl --user enable --now {' '.join(timers(made))}",
                "To let them run while you are not logged in, type once:",
                "  loginctl enable-linger",
                "To run the batch now and to see its log, type:",
                f"  systemctl --user start {next(iter(made))}",
                f"  journalctl --user --unit {next(iter(made))}",
            ]
        )
    )


def _unit_folder() -> Path:
    """Return the folder in which the systemd of this user looks for units; raises CannotCreateError without a home."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "systemd" / "user"
    except RuntimeError:
        why = "this user has no home folder; set XDG_CONFIG_HOME"
        raise CannotCreateError(path="the folder of units", reason=why) from None


def _program() -> list[str]:
    """Return how psicli was started, as absolute paths."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "psicli" and os.access(script, os.X_OK):
        return [str(script)]
    return [sys.executable, "-P", "-m", "psicli"]


def _variables() -> dict[str, str]:
    """Return what a schedule must set to find the state folder of this shell."""
    given = [os.environ.get(name) for name in ("PSICLI_STATE_DIR", "XDG_STATE_HOME")]
    return {"PSICLI_STATE_DIR": str(state_folder().absolute())} if any(given) else {}


def _command(text: str | None) -> list[str]:
    """Return a command as words, its program as an absolute path; raises ArgumentError."""
    try:
        words = shlex.split(text or "")
    except ValueError as exc:
        fault = f"{shown(text or '')} cannot be divided into words: {str(exc).lower()}"
        raise ArgumentError(option="--alarm", fault=fault, advice="Close the quotes.") from None
    if not words:
        return []
    program = shutil.which(words[0])
    if program is None:
        fault = f"there is no program {shown(words[0])}"
        raise ArgumentError(option="--alarm", fault=fault, advice="Name a program or script that can be executed.")
    return [os.path.abspath(program), *words[1:]]


def _hooks_time(hooks: HooksEntry) -> int | None:
    """Return how long the hooks after the jobs may take [s]; None without hooks."""
    ends = [*hooks.after, *hooks.on_error]
    return len(ends) * hooks.timeout if ends or hooks.before else None
