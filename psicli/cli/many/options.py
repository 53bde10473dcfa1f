"""The options of the commands that run a batch. Each overrides the field of the batch file that it is named after."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psicli.cli.options import (
    PATH,
    SIZE,
    Command,
    Measure,
    flag,
    json_option,
    metrics_option,
    option,
    pairs,
    quiet_option,
    report_option,
    verbose_option,
)
from psicli.core.errors import PsicliError, printable
from psicli.core.records import dataclass
from psicli.report.console import Console
from psicli.storage.memory import check_address_space

if TYPE_CHECKING:
    from psicli.batch.plan import Limits, Plan
    from psicli.batch.record import Start
    from psicli.config.batch import Batch


def _seconds(text: str, *, zero: bool) -> float:
    """Return a duration [s]: like one in the batch file, or a fraction of a second. zero: whether it may be 0."""
    from psicli.config.fields import DURATION, WAIT, to_seconds

    if re.fullmatch(r"(?!0+\.0+$)[0-9]{1,9}\.[0-9]{1,6}", text):
        return float(text)
    return to_seconds(text, WAIT if zero else DURATION)


class _Whole(click.IntRange):
    # The word of messages: '2x' is not a valid whole number.
    name = "whole number"


# As in the batch file.
JOBS, RETRIES = _Whole(1, 1024), _Whole(0, 1000)
DURATION = Measure("duration", partial(_seconds, zero=False))
WAIT = Measure("duration", partial(_seconds, zero=True))


# The options that a retry repeats, as far as it has none of its own.
_REPEATED = (
    "jobs", "memory", "deadline", "retries", "retry_wait", "rendezvous", "lock_timeout", "keep_going", "settings",
    "party", "report_dir", "metrics", "page", "only",
)  # fmt: skip
# Those of them that name a file or a folder.
_PATHS = {"report_dir", "metrics", "page"}


@dataclass(frozen=True)
class BatchOptions:
    """The options of a command that runs a batch; None where the batch file decides."""

    files: Sequence[Path]
    jobs: int | None
    memory: int | None
    deadline: float | None
    retries: int | None
    retry_wait: float | None
    rendezvous: float | None
    lock_timeout: float | None
    keep_going: bool | None
    only: Sequence[str]
    settings: Sequence[str]
    party: str | None
    as_json: bool
    report_dir: Path | None
    metrics: Path | None
    page: Path | None
    quiet: bool
    verbose: bool

    def console(self) -> Console:
        """Set up the log of the command."""
        return Console(-1 if self.quiet else int(self.verbose))

    def load(self) -> Batch:
        """Read the batch and its job files; raises BatchFileError, JobFileError and InputMissingError."""
        check_address_space()
        from psicli.config.batch import load_batch

        strays = [file for file in self.files[1:] if self.only and not file.suffix and not file.exists()]
        if strays:
            several = " ".join(f"--only {printable(name)}" for name in (*self.only, *strays))
            raise click.UsageError(f"Repeat the option for each job: `{several}`.")
        return load_batch(self.files, party=self.party, settings=pairs(self.settings), environment=os.environ)

    def plan(self) -> Plan:
        """Read the batch and plan it; raises what `load` raises, PlanError, UntrustedHooksError and ArgumentError."""
        from psicli.batch.plan import make_plan
        from psicli.batch.unattended.hooks import check_hooks

        batch = self.load()
        check_hooks(batch)
        return make_plan(batch, self.only)

    def limits(self, batch: Batch) -> Limits:
        """Return what the batch may use: as the options say, else as its file says."""
        from psicli.batch.plan import Limits

        def chosen(name: str) -> Any:
            own = getattr(self, name)
            return getattr(batch, "max_jobs" if name == "jobs" else name) if own is None else own

        names = [field.name for field in fields(Limits) if field.name != "fail_fast"]
        return Limits(**{name: chosen(name) for name in names}, fail_fast=not chosen("keep_going"))

    def start(self) -> Start:
        """Return how to start this batch again."""
        from psicli.batch.record import Start

        options = self._given()
        for name in _PATHS & options.keys():
            options[name] = os.path.abspath(options[name])
        return Start(os.getcwd(), tuple(map(os.path.abspath, self.files)), options)

    def again(self, start: Start) -> BatchOptions:
        """Return the options of an earlier start, with those that are set now in their place."""
        before = {name: value for name, value in start.options.items() if name in _REPEATED}
        found = {**before, **self._given()}
        found["settings"] = (*before.get("settings", ()), *self.settings)
        # It picks the jobs itself. What the whole batch was at that time does not change.
        found["only"] = before.get("only", ())
        for name in _PATHS & found.keys():
            found[name] = Path(os.path.abspath(found[name]))
        return replace(self, files=[*map(Path, start.files)], **found)

    def _given(self) -> dict[str, Any]:
        """Return the options that a retry repeats, as far as they are set."""
        values = {name: getattr(self, name) for name in _REPEATED}
        return {name: value for name, value in values.items() if value not in (None, ())}


dry_run_flag = flag("--dry-run", "Show the plan with estimates of time and memory, and start nothing.")


def batch_options(command: Command) -> Command:
    """Add the options of every command that runs a batch, and pass them to it as one BatchOptions."""
    return _with_options(command, _files)


def retry_options(command: Command) -> Command:
    """Add the same options to a command that finds the files itself if none is named."""
    return _with_options(command, are_files)


def _with_options(command: Command, files: Callable[..., tuple[Path, ...]]) -> Command:
    @click.argument("files", nargs=-1, type=PATH, callback=files)
    @option("--jobs", "Run at most N jobs at the same time; with 1, one after another.", type=JOBS, metavar="N")
    @option("--memory", "Memory that all jobs together may use, such as 8GB.", type=SIZE)
    @option("--deadline", "Stop what still runs after this time, such as 30m or 4h, and start no more.", type=DURATION)
    @option("--retries", "Start a job up to N times again if its failure may pass.", type=RETRIES, metavar="N")
    @option("--retry-wait", "Wait so long before the first such start, then twice as long each time.", type=WAIT)
    @option("--rendezvous", "Give another job its turn if the peer does not come within this time.", type=DURATION)
    @option(
        "--lock-timeout",
        "If another run uses a job's port, or this batch has hooks and still runs, wait up to this time for its end.",
        type=WAIT,
    )
    @click.option(
        "--keep-going/--fail-fast",
        default=None,
        envvar="PSICLI_BATCH_KEEP_GOING",
        show_envvar=True,
        help="Go on with the other jobs when one has failed, or start no further job.",
    )
    @click.option(
        "--only",
        multiple=True,
        metavar="JOB",
        envvar="PSICLI_BATCH_ONLY",
        show_envvar=True,
        shell_complete=_job_names,
        help="Run only this job of the batch. Repeat the option for several.",
    )
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Replace ${NAME} in all job files with VALUE. Repeat the option for several.",
    )
    @option("--party", "Run every job as this party, whatever the files say.", metavar="PARTY")
    @json_option
    @option(
        "--report-dir",
        "Write to this folder: report and log of each job (JOB.json, JOB.log), and the report of the batch "
        "(_batch.json).",
        type=PATH,
        metavar="DIR",
    )
    @metrics_option
    @report_option
    @quiet_option
    @verbose_option
    @wraps(command)
    def with_batch_options(**given: Any) -> int | None:
        values = {field.name: given.pop(field.name) for field in fields(BatchOptions)}
        return command(BatchOptions(**values), **given)

    return with_batch_options


def _files(context: click.Context, _: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Refuse no file, and folders."""
    if not files and not context.resilient_parsing:
        raise click.UsageError(f"Name a batch file or job files: `{context.command_path} FILE...`.")
    return are_files(context, _, files)


def are_files(context: click.Context, _: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Refuse folders, and patterns that the shell has not replaced."""
    for path in files:
        if path.is_dir():
            shown = printable(path)
            advice = f"Name the files in it, as in `{context.command_path} {shown.rstrip('/')}/*.yaml`."
            raise click.UsageError(f"{shown} is a folder. {advice}")
        if re.search(r"[*?]", str(path)) and not path.exists():
            raise click.UsageError(f"No file matches {printable(path)}.")
    return files


def _job_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the jobs of the batch on an incomplete command line; none if it has errors."""
    from psicli.config.batch import load_batch

    files = [*context.params.get("files", ()), *map(Path, context.args)]
    with suppress(PsicliError, ValueError):
        names = [entry.name for entry in load_batch(files, settings={}, environment=os.environ).jobs]
        return [name for name in names if name.startswith(incomplete)]
    return []
